//! What the program has done so far, and what may happen next.
//!
//! The world is reached by [`world`] rather than captured, so that closures own nothing that leads
//! back to them. No cell of it is borrowed while the library is called: that may call closures.

use super::backend::Faults;
use super::ensure;
use super::sources::{self, Object, Source};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{
    Context, ContextRef, Fd, FdFlags, Immediate, Remote, Signal, SignalFlags, Timer, WeakContext,
};

/// How many events of a kind a program may make.
pub(super) const MOST: usize = 48;
/// No number of signals comes near to what a queue of siginfo holds.
pub(super) const MOST_SIGNALS: u64 = 120;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

pub(super) fn world() -> Option<Rc<World>> {
    WORLD.with_borrow(Clone::clone)
}

pub(super) struct World {
    program: Vec<u8>,
    position: Cell<usize>,
    pub(super) start: Instant,
    pub(super) weak: WeakContext,
    pub(super) remote: Remote,
    pub(super) keeper: RefCell<Option<ContextRef>>,
    pub(super) faults: Rc<Faults>,
    /// Immediates go before timers before descriptors, without exception.
    pub(super) is_strict: bool,
    /// How deep handlers, destructors and loops are in each other.
    pub(super) depth: Cell<u32>,
    /// How many destructors and close callbacks are at work.
    pub(super) inside: Cell<u32>,
    pub(super) level: Cell<u32>,
    /// The context is being re-initialised; handlers are dropped one after the other.
    pub(super) wiping: Cell<u32>,
    /// A loop runs that ends when a closure stops it.
    pub(super) in_run: Cell<bool>,
    pub(super) nesting_allowed: Cell<bool>,
    pub(super) objects: RefCell<Vec<Rc<Object>>>,
    pub(super) fds: RefCell<Vec<FdModel>>,
    pub(super) timers: RefCell<Vec<TimerModel>>,
    pub(super) immediates: RefCell<Vec<ImmediateModel>>,
    pub(super) signals: RefCell<Vec<SignalModel>>,
    /// Scheduled immediates, in order.
    queue: RefCell<VecDeque<Queued>>,
    /// Those scheduled by the remote handle since the loop last looked.
    pub(super) posted: RefCell<Vec<usize>>,
    pub(super) raised: Cell<u64>,
    pub(super) sequence: Cell<u64>,
    pub(super) guards: Cell<i64>,
}

/// An immediate's place in the queue.
struct Queued {
    id: usize,
    /// It may have another place, further behind.
    is_certain: bool,
}

pub(super) struct FdModel {
    pub(super) handle: Option<Rc<Fd<Source>>>,
    pub(super) object: std::rc::Weak<Object>,
    pub(super) alive: bool,
    pub(super) running: bool,
    /// Its handler is.
    pub(super) being_dropped: bool,
    pub(super) flags: FdFlags,
    /// Which close callback was set last, and how often one was called.
    pub(super) on_close: Option<u32>,
    pub(super) closed: u32,
    pub(super) given_back: bool,
    pub(super) dropped: u32,
}

pub(super) struct TimerModel {
    pub(super) handle: Option<Rc<Timer>>,
    pub(super) alive: bool,
    pub(super) running: bool,
    pub(super) detached: bool,
    pub(super) armed: Option<Armed>,
}

#[derive(Clone, Copy)]
pub(super) struct Armed {
    pub(super) deadline: Instant,
    pub(super) sequence: u64,
    /// Armed while its handler ran; equal deadlines may change their order then.
    pub(super) while_running: bool,
}

pub(super) struct ImmediateModel {
    pub(super) handle: Option<Rc<Immediate>>,
    pub(super) alive: bool,
    pub(super) running: bool,
    pub(super) detached: bool,
}

pub(super) struct SignalModel {
    pub(super) handle: Option<Rc<Signal>>,
    pub(super) number: i32,
    pub(super) flags: SignalFlags,
    pub(super) alive: bool,
    pub(super) running: bool,
    /// How many it was told of, and how many were raised since it was added.
    pub(super) told: u64,
    pub(super) raised: u64,
}

impl World {
    pub(super) fn install(
        program: &[u8],
        context: &Context,
        faults: Rc<Faults>,
        is_strict: bool,
    ) -> Rc<World> {
        let world = Rc::new(World {
            program: program.to_vec(),
            position: Cell::new(0),
            start: Instant::now(),
            weak: context.downgrade(),
            remote: context.remote(),
            keeper: RefCell::new(None),
            faults,
            is_strict,
            depth: Cell::new(0),
            inside: Cell::new(0),
            level: Cell::new(0),
            wiping: Cell::new(0),
            in_run: Cell::new(false),
            nesting_allowed: Cell::new(false),
            objects: RefCell::default(),
            fds: RefCell::default(),
            timers: RefCell::default(),
            immediates: RefCell::default(),
            signals: RefCell::default(),
            queue: RefCell::default(),
            posted: RefCell::default(),
            raised: Cell::new(0),
            sequence: Cell::new(0),
            guards: Cell::new(0),
        });
        WORLD.set(Some(Rc::clone(&world)));
        world
    }

    pub(super) fn remove(world: Rc<World>) {
        WORLD.set(None);
        ensure(Rc::strong_count(&world) == 1, "nobody else has the world");
    }

    pub(super) fn has_bytes(&self) -> bool {
        self.position.get() < self.program.len()
    }

    /// The next byte of the program; 0 when it is used up.
    pub(super) fn next(&self) -> u8 {
        let position = self.position.get();
        self.position.set(position + 1);
        self.program.get(position).copied().unwrap_or(0)
    }

    /// The next byte as an index into something of this length.
    pub(super) fn index(&self, length: usize) -> Option<usize> {
        let byte = usize::from(self.next());
        // Mostly what is newest.
        (length > 0).then(|| length - 1 - byte % length)
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.set(self.sequence.get() + 1);
        self.sequence.get()
    }

    /// An operation inside something may go so deep.
    pub(super) fn may_go_deeper(&self) -> bool {
        self.has_bytes() && self.depth.get() < 6
    }

    /// How many events there may be on files.
    pub(super) fn files(&self) -> usize {
        let fds = self.fds.borrow();
        let is_on_file = |fd: &&FdModel| fd.object.upgrade().is_some_and(|object| object.is_file());
        fds.iter().filter(is_on_file).count()
    }

    pub(super) fn source_is_dropped(&self, event: usize) {
        let mut fds = self.fds.borrow_mut();
        fds[event].dropped += 1;
        ensure(fds[event].dropped == 1, "a source is dropped once");
        ensure(
            !fds[event].alive,
            "the source of a registered event isn't dropped",
        );
    }

    /// All events are removed: the context was re-initialised or is gone.
    pub(super) fn forget_events(&self) {
        for fd in &mut *self.fds.borrow_mut() {
            fd.alive = false;
        }
        for timer in &mut *self.timers.borrow_mut() {
            (timer.alive, timer.armed) = (false, None);
        }
        for immediate in &mut *self.immediates.borrow_mut() {
            immediate.alive = false;
        }
        for signal in &mut *self.signals.borrow_mut() {
            signal.alive = false;
        }
        self.queue.borrow_mut().clear();
        self.posted.borrow_mut().clear();
    }

    pub(super) fn enqueue(&self, id: usize) {
        self.dequeue(id);
        let is_certain = true;
        self.queue.borrow_mut().push_back(Queued { id, is_certain });
    }

    pub(super) fn dequeue(&self, id: usize) {
        self.queue.borrow_mut().retain(|queued| queued.id != id);
    }

    pub(super) fn is_queued(&self, id: usize) -> bool {
        self.queue.borrow().iter().any(|queued| queued.id == id)
    }

    /// A turn has come to its second step: what was posted is behind the immediates now.
    pub(super) fn accept_posted(&self) {
        let certain = |id| Queued {
            id,
            is_certain: true,
        };
        let mut posted = self.posted.borrow_mut();
        self.queue.borrow_mut().extend(posted.drain(..).map(certain));
    }

    /// A turn has failed, before it has come to its second step or after.
    pub(super) fn turn_has_failed(&self) {
        let uncertain = |&id: &usize| Queued {
            id,
            is_certain: false,
        };
        let posted = self.posted.borrow();
        self.queue.borrow_mut().extend(posted.iter().map(uncertain));
    }

    /// What has to be called before anything but a signal handler is.
    fn ensure_signals_were_told(&self) {
        let signals = self.signals.borrow();
        for signal in signals.iter().filter(|signal| signal.alive) {
            let deferred = signals
                .iter()
                .any(|other| other.running && other.number == signal.number);
            ensure(
                deferred || signal.told >= signal.raised,
                "signals go before everything else, and none is lost",
            );
        }
    }

    fn first_runnable_immediate(&self) -> Option<usize> {
        let immediates = self.immediates.borrow();
        let queue = self.queue.borrow();
        let mut certain = queue.iter().filter(|queued| queued.is_certain);
        let first = certain.find(|queued| !immediates[queued.id].running);
        first.map(|queued| queued.id)
    }

    fn a_timer_is_overdue(&self) -> bool {
        let timers = self.timers.borrow();
        let overdue = |timer: &TimerModel| {
            !timer.running
                && timer
                    .armed
                    .is_some_and(|armed| armed.deadline <= self.start)
        };
        timers.iter().any(overdue)
    }

    pub(super) fn fd_is_called(&self, id: usize, flags: FdFlags) {
        self.accept_posted();
        self.ensure_signals_were_told();
        if self.is_strict {
            ensure(
                self.first_runnable_immediate().is_none(),
                "immediates go before descriptors",
            );
            ensure(!self.a_timer_is_overdue(), "timers go before descriptors");
        }
        let mut fds = self.fds.borrow_mut();
        let fd = &mut fds[id];
        ensure(fd.alive, "a removed descriptor event isn't called");
        ensure(
            !fd.running,
            "a descriptor handler on the stack isn't called",
        );
        ensure(
            !flags.is_empty() && fd.flags.contains(flags),
            "an event is told what it asked for",
        );
        fd.running = true;
    }

    pub(super) fn timer_is_called(&self, id: usize) {
        self.accept_posted();
        self.ensure_signals_were_told();
        if self.is_strict {
            ensure(
                self.first_runnable_immediate().is_none(),
                "immediates go before timers",
            );
        }
        let mut timers = self.timers.borrow_mut();
        ensure(timers[id].alive, "a removed timer isn't called");
        ensure(
            !timers[id].running,
            "a timer whose handler is on the stack isn't called",
        );
        let Some(armed) = timers[id].armed.take() else {
            super::violated("a disarmed timer isn't called");
        };
        ensure(armed.deadline <= Instant::now(), "a timer is never early");
        for other in timers.iter().filter(|other| !other.running) {
            let Some(other) = other.armed else {
                continue;
            };
            let is_in_order = match armed.deadline.cmp(&other.deadline) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Greater => false,
                std::cmp::Ordering::Equal => {
                    armed.sequence < other.sequence || armed.while_running || other.while_running
                }
            };
            ensure(is_in_order, "timers go in the order of their deadlines");
        }
        timers[id].running = true;
    }

    pub(super) fn immediate_is_called(&self, id: usize) {
        self.accept_posted();
        self.ensure_signals_were_told();
        let is_first = {
            let (queue, immediates) = (self.queue.borrow(), self.immediates.borrow());
            let runnable = queue.iter().filter(|queued| !immediates[queued.id].running);
            let mut before = runnable.take_while(|queued| queued.id != id);
            self.is_queued(id) && before.all(|queued| !queued.is_certain)
        };
        ensure(
            is_first,
            "immediates go in the order in which they were scheduled",
        );
        self.dequeue(id);
        let mut immediates = self.immediates.borrow_mut();
        ensure(immediates[id].alive, "a removed immediate isn't called");
        immediates[id].running = true;
    }

    pub(super) fn signal_is_called(&self, id: usize, number: i32, count: u32) {
        let raised = self.raised.get();
        let mut signals = self.signals.borrow_mut();
        let signal = &mut signals[id];
        ensure(signal.alive, "a removed signal event isn't called");
        ensure(
            !signal.running,
            "a signal handler on the stack isn't called",
        );
        ensure(signal.number == number, "a handler is told of its signal");
        ensure(count > 0, "a handler is called for something");
        signal.told += u64::from(count);
        ensure(signal.told <= raised, "no signal is told twice");
        if signal.flags.contains(SignalFlags::RESETHAND) {
            signal.alive = false;
        }
        signal.running = true;
    }

    pub(super) fn fd_has_returned(&self, id: usize) {
        self.fds.borrow_mut()[id].running = false;
    }

    pub(super) fn timer_has_returned(&self, id: usize) {
        let timer = &mut self.timers.borrow_mut()[id];
        timer.running = false;
        timer.alive &= !timer.detached || timer.armed.is_some();
    }

    pub(super) fn immediate_has_returned(&self, id: usize) {
        let is_queued = self.is_queued(id);
        let immediate = &mut self.immediates.borrow_mut()[id];
        immediate.running = false;
        immediate.alive &= !immediate.detached || is_queued;
    }

    pub(super) fn signal_has_returned(&self, id: usize) {
        self.signals.borrow_mut()[id].running = false;
    }

    pub(super) fn check_at_rest(&self) {
        self.accept_posted();
        self.ensure_signals_were_told();
        ensure(
            self.first_runnable_immediate().is_none(),
            "no immediate is forgotten",
        );
        ensure(!self.a_timer_is_overdue(), "no timer is forgotten");
        for fd in self.fds.borrow().iter() {
            let (Some(handle), Some(object)) = (&fd.handle, fd.object.upgrade()) else {
                continue;
            };
            ensure(
                handle.is_registered() == fd.alive,
                "an event is registered until it is removed",
            );
            let flags = handle.flags();
            // A file that epoll refuses is added with empty flags, and disarmed later.
            let may_be_disarmed =
                fd.flags == FdFlags::WRITE || self.faults.any.get() || object.is_file();
            ensure(
                flags == fd.flags || !fd.alive || flags.is_empty() && may_be_disarmed,
                "an event's flags are those that were set last",
            );
            let mut missed = 0;
            if flags.contains(FdFlags::READ) {
                missed |= libc::POLLIN | libc::POLLHUP | libc::POLLERR;
            }
            if flags.contains(FdFlags::WRITE) {
                missed |= libc::POLLOUT;
            }
            if flags.contains(FdFlags::ERROR) {
                missed |= libc::POLLHUP | libc::POLLERR;
            }
            let asked = missed & (libc::POLLIN | libc::POLLOUT);
            ensure(
                sources::readiness(object.number(), asked) & missed == 0,
                "no ready descriptor is forgotten",
            );
        }
        for timer in self.timers.borrow().iter() {
            if let Some(handle) = &timer.handle {
                ensure(
                    handle.is_registered() == timer.alive,
                    "a timer is registered until it is removed",
                );
                ensure(
                    handle.deadline() == timer.armed.map(|armed| armed.deadline),
                    "a timer has the deadline that was set last",
                );
            }
        }
        for immediate in self.immediates.borrow().iter() {
            if let Some(handle) = &immediate.handle {
                ensure(
                    handle.is_registered() == immediate.alive,
                    "an immediate is registered until it is removed",
                );
            }
        }
        for signal in self.signals.borrow().iter() {
            if let Some(handle) = &signal.handle {
                ensure(
                    handle.is_registered() == signal.alive,
                    "a signal event is registered until it is removed",
                );
            }
        }
    }

    /// Drops the context, which is there still if it has another owner.
    pub(super) fn drop_owner(&self, context: Context) {
        if self.keeper.borrow().is_none() {
            self.forget_events();
        }
        drop(context);
    }

    pub(super) fn drop_keeper(&self) {
        let keeper = self.keeper.take();
        self.forget_events();
        drop(keeper);
    }

    /// Drops all handles.
    pub(super) fn drop_handles(&self) {
        loop {
            let fd = self.fds.borrow_mut().iter_mut().find_map(|fd| {
                let handle = fd.handle.take();
                fd.alive &= handle.is_none();
                handle
            });
            let timer = self.timers.borrow_mut().iter_mut().find_map(|timer| {
                let handle = timer.handle.take();
                timer.alive &= handle.is_none();
                handle
            });
            let mut immediates = self.immediates.borrow_mut();
            let immediate = immediates.iter_mut().find_map(|immediate| {
                let handle = immediate.handle.take();
                immediate.alive &= handle.is_none();
                handle
            });
            drop(immediates);
            let signal = self.signals.borrow_mut().iter_mut().find_map(|signal| {
                let handle = signal.handle.take();
                signal.alive &= handle.is_none();
                handle
            });
            if fd.is_none() && timer.is_none() && immediate.is_none() && signal.is_none() {
                break;
            }
        }
    }

    /// Everything was dropped, the context too.
    pub(super) fn check_the_end(&self) {
        self.objects.take();
        for fd in self.fds.borrow().iter() {
            ensure(fd.dropped == 1, "every source is dropped");
            let expected = u32::from(fd.on_close.is_some() && !fd.given_back);
            ensure(
                fd.closed == expected,
                "the close callback is called exactly once",
            );
        }
        ensure(
            self.guards.get() == 0,
            "what closures own is dropped exactly once",
        );
    }
}

/// A deadline that is overdue (mostly), in no time, or never.
pub(super) fn deadline(world: &World) -> Instant {
    let byte = world.next();
    let offset = u64::from(byte % 32);
    match byte / 32 {
        7 => world.start + Duration::from_secs(3600 + offset),
        6 => Instant::now() + Duration::from_micros(offset),
        _ => world.start - Duration::from_micros(offset),
    }
}
