//! What a listener remembers: whether it is to be called, and what went wrong.

use super::connection::{Permit, Permits};
use super::{Listener, ListeningSocket};
use crate::context::Context;
use crate::fd::Fd;
use crate::listener::Connection;
use crate::sys::listen::{self, Failure};
use crate::timer::Timer;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// How many errors in a row that should pass may come before they are taken for one that lasts.
const MOST_PASSING: u32 = 32;

/// No pause is shorter: it would be a spin.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Why a [`Listener`](crate::Listener) doesn't accept for a while, and for how long:
/// see [`Listener::on_back_off`](crate::Listener::on_back_off).
///
/// ```
/// fn report(back_off: &tevent::BackOff) {
///     // accept4: Too many open files (os error 24), next attempt in 10ms
///     eprintln!("{back_off}");
/// }
/// # let _ = report;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BackOff {
    /// The number of the error, such as `EMFILE`.
    pub errno: i32,
    /// For how long nothing is accepted, unless a [`Permit`](crate::Permit) is given back before.
    pub pause: Duration,
    /// How many times in a row this has happened: 1 for the first.
    pub attempt: u32,
}

impl BackOff {
    /// The error, with the call named as by [`OsError`](crate::OsError).
    ///
    /// ```
    /// fn is_out_of_memory(back_off: &tevent::BackOff) -> bool {
    ///     back_off.error().kind() == std::io::ErrorKind::OutOfMemory
    /// }
    /// # let _ = is_out_of_memory;
    /// ```
    pub fn error(&self) -> io::Error {
        listen::error(self.errno)
    }
}

impl fmt::Display for BackOff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (error, pause) = (self.error(), self.pause);
        write!(formatter, "{error}, next attempt in {pause:?}")
    }
}

type Report = Box<dyn FnMut(&BackOff)>;

/// What the handles of a listener, its event's closure and its permits share.
///
/// Permits outlive the listener, and must keep neither its socket open nor its timer armed. So what
/// refers to those is taken out when the event ends, see [`Watched`].
pub(super) struct State<S: 'static> {
    fd: RefCell<Option<Fd<S>>>,
    timer: RefCell<Option<Timer>>,
    /// Missing also while it runs.
    report: Cell<Option<Report>>,
    /// The report that is running was replaced.
    report_changed: Cell<bool>,
    open: Cell<usize>,
    limit: Cell<Option<usize>>,
    accepts_per_turn: Cell<usize>,
    is_paused: Cell<bool>,
    /// Not while nobody awaits.
    is_wanted: Cell<bool>,
    /// Why nothing is accepted until the timer fires.
    back_off: Cell<Option<BackOff>>,
    shortest: Cell<Duration>,
    longest: Cell<Duration>,
    /// Lasting failures in a row.
    failures: Cell<u32>,
    /// Passing failures in a row.
    passing: Cell<u32>,
}

impl<S: 'static> State<S> {
    pub(super) fn new(is_wanted: bool) -> Rc<State<S>> {
        Rc::new(State {
            fd: RefCell::new(None),
            timer: RefCell::new(None),
            report: Cell::new(None),
            report_changed: Cell::new(false),
            open: Cell::new(0),
            limit: Cell::new(None),
            accepts_per_turn: Cell::new(16),
            is_paused: Cell::new(false),
            is_wanted: Cell::new(is_wanted),
            back_off: Cell::new(None),
            shortest: Cell::new(Duration::from_millis(10)),
            longest: Cell::new(Duration::from_secs(1)),
            failures: Cell::new(0),
            passing: Cell::new(0),
        })
    }

    /// The event is there.
    pub(super) fn begin(&self, fd: Fd<S>) {
        self.fd.replace(Some(fd));
        self.update();
    }

    /// Whether the event is to be called when somebody waits.
    fn is_armed(&self) -> bool {
        let has_room = self.limit.get().is_none_or(|limit| self.open.get() < limit);
        self.is_wanted.get() && !self.is_paused.get() && self.back_off.get().is_none() && has_room
    }

    fn update(&self) {
        if let Some(fd) = &*self.fd.borrow() {
            fd.set_readable(self.is_armed());
        }
    }

    pub(super) fn set_wanted(&self, wanted: bool) {
        self.is_wanted.set(wanted);
        self.update();
    }

    /// See [`Fd::tell_if_left`].
    pub(super) fn tell_if_left(&self) {
        if let Some(fd) = &*self.fd.borrow() {
            fd.tell_if_left();
        }
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.is_paused.set(paused);
        self.update();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.get()
    }

    pub(super) fn set_limit(&self, limit: Option<usize>) {
        self.limit.set(limit);
        self.update();
    }

    pub(super) fn limit(&self) -> Option<usize> {
        self.limit.get()
    }

    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    pub(super) fn set_accepts_per_turn(&self, count: usize) {
        self.accepts_per_turn.set(count.max(1));
    }

    pub(super) fn set_pauses(&self, shortest: Duration, longest: Duration) {
        let shortest = shortest.max(SHORTEST_PAUSE);
        self.shortest.set(shortest);
        self.longest.set(longest.max(shortest));
    }

    pub(super) fn back_off(&self) -> Option<BackOff> {
        self.back_off.get()
    }

    pub(super) fn set_report(&self, report: Report) {
        self.report_changed.set(true);
        let former = self.report.replace(Some(report));
        drop(former);
    }

    pub(super) fn permit(self: &Rc<Self>) -> Permit {
        self.open.set(self.open.get() + 1);
        self.update();
        Permit::new(Rc::clone(self) as Rc<dyn Permits>)
    }

    /// Backs off because of the error with this number.
    fn rest(self: &Rc<Self>, context: &Context, name: Option<String>, errno: i32) {
        let attempt = self.failures.get().saturating_add(1);
        let factor = 1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        let pause = self.shortest.get().saturating_mul(factor);
        let back_off = BackOff {
            errno,
            pause: pause.min(self.longest.get()),
            attempt,
        };
        self.failures.set(attempt);
        self.passing.set(0);
        self.back_off.set(Some(back_off));
        self.update();
        self.arm_timer(context, name, back_off.pause);
        // Last, as it may panic.
        self.tell(&back_off);
    }

    fn arm_timer(self: &Rc<Self>, context: &Context, name: Option<String>, pause: Duration) {
        if let Some(timer) = &*self.timer.borrow() {
            timer.set_after(pause);
            return;
        }
        let state = Rc::downgrade(self);
        let timer = context.add_timer_after(pause, move |_, _| {
            if let Some(state) = state.upgrade() {
                state.back_off.set(None);
                state.update();
            }
        });
        timer.set_name(&format!(
            "{}: back-off",
            name.as_deref().unwrap_or("listener")
        ));
        self.timer.replace(Some(timer));
    }

    fn tell(&self, back_off: &BackOff) {
        let Some(report) = self.report.take() else {
            return;
        };
        self.report_changed.set(false);
        let mut report = Returned {
            place: self,
            report: Some(report),
        };
        if let Some(report) = &mut report.report {
            report(back_off);
        }
    }

    /// The descriptors of a connection may be what was missing.
    fn end_rest(&self) {
        if self.back_off.take().is_some() {
            if let Some(timer) = &*self.timer.borrow() {
                timer.disarm();
            }
        }
    }
}

impl<S: ListeningSocket + 'static> State<S> {
    /// Accepts who waits, and calls `handler` for each: at most so many, and for as long as nothing
    /// else is due. Waiting for readiness again costs a system call, but gives the others their
    /// turn.
    pub(super) fn accept_some(
        self: &Rc<Self>,
        context: &Context,
        fd: &Fd<S>,
        handler: &mut impl FnMut(&Context, &Listener<S>, Connection<S::Stream>),
    ) {
        let listener = Listener::borrowed(fd, self);
        for attempt in 0..self.accepts_per_turn.get() {
            match listen::accept(fd.get_ref().as_fd()) {
                Ok((stream, peer)) => {
                    self.failures.set(0);
                    self.passing.set(0);
                    let connection = Connection::new(stream.into(), peer, self.permit());
                    handler(context, &listener, connection);
                }
                Err(errno) => match listen::classify(errno) {
                    Failure::Nobody => {
                        self.failures.set(0);
                        self.passing.set(0);
                        return;
                    }
                    Failure::Passing if self.passing.get() < MOST_PASSING => {
                        self.passing.set(self.passing.get() + 1);
                    }
                    // The kernel looks for a free descriptor before it looks whether anybody waits.
                    // So this may be an attempt for nobody; the next wait tells.
                    Failure::Lasting if attempt > 0 => return,
                    Failure::Passing | Failure::Lasting => {
                        self.rest(context, fd.name(), errno);
                        return;
                    }
                },
            }
            if !self.goes_on(context, fd) {
                return;
            }
        }
    }

    /// Whether the next client is to be accepted in the same turn: the event wasn't removed, nor
    /// disarmed, and the loop has nothing else to do.
    fn goes_on(&self, context: &Context, fd: &Fd<S>) -> bool {
        let is_due = |deadline| deadline <= context.now();
        !fd.flags().is_empty() && !context.next_deadline().is_some_and(is_due)
    }
}

impl<S: 'static> Permits for State<S> {
    fn give_back(&self) {
        self.open.set(self.open.get() - 1);
        self.end_rest();
        self.update();
    }
}

/// Puts a report back when it has returned, or panicked, unless there is another one by then. If
/// the event has ended meanwhile, its closure is running yet, and drops the report later.
struct Returned<'a, S: 'static> {
    place: &'a State<S>,
    report: Option<Report>,
}

impl<S: 'static> Drop for Returned<'_, S> {
    fn drop(&mut self) {
        if !self.place.report_changed.get() {
            self.place.report.set(self.report.take());
        }
    }
}

/// Owned by the event's closure, to tell of its end.
pub(super) struct Watched<S: 'static>(pub(super) Rc<State<S>>);

impl<S: 'static> Drop for Watched<S> {
    fn drop(&mut self) {
        let state = &self.0;
        state.back_off.set(None);
        let fd = state.fd.take();
        let timer = state.timer.take();
        let report = state.report.take();
        drop((fd, timer, report));
    }
}
