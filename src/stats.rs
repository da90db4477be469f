//! What a loop has done so far, and what it has at the moment.

use crate::context::Context;
use crate::trace::EventKind;
use crate::watch::Wanted;
use std::cell::Cell;
use std::fmt;
use std::ops::Index;
use std::time::Duration;

/// How late a timer is when it counts as late.
const LATE: Duration = Duration::from_millis(1);

/// What a context has done since it was made, by [`Context::stats`].
///
/// `Display` makes a line for a log of it.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::EventKind;
///
/// let context = tevent::Context::new()?;
/// context.defer(|_| ());
/// context.run()?;
/// let stats = context.stats();
/// assert_eq!(stats.calls[EventKind::Immediate], 1);
/// assert_eq!(stats.scheduled_immediates, 0);
/// println!("{stats}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How often the loop has looked for something to call.
    pub turns: u64,
    /// How often it has asked the backend what is ready, waiting or not.
    pub waits: u64,
    /// How many handlers it has called.
    pub calls: ByKind<u64>,
    /// How many timers were called a millisecond or more after their deadline. (Of timers that are
    /// due at once, up to 16 share a look at the clock: what is told of the others is how late they
    /// were then.)
    pub late_timers: u64,
    /// How late a timer was at most.
    pub latest_timer: Duration,
    /// For how long the loop has waited, while that was
    /// [measured](Context::set_times_measured).
    pub asleep: Duration,
    /// What handlers took, while that was [measured](Context::set_times_measured). A loop inside a
    /// handler isn't counted as that handler's.
    pub in_handlers: ByKind<Duration>,
    /// How many descriptor events there are.
    pub fds: usize,
    /// How many of them want something.
    pub enabled_fds: usize,
    /// How many descriptors of the latest batch weren't looked at yet.
    pub ready_fds: usize,
    /// How many timers are armed.
    pub armed_timers: usize,
    /// How many immediates there are, scheduled or not, without closures that run once.
    pub immediates: usize,
    /// How many immediates and closures wait to be run.
    pub scheduled_immediates: usize,
    /// How many signal events there are.
    pub signals: usize,
}

/// Something for each kind of event.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::EventKind;
///
/// let calls = tevent::Context::new()?.stats().calls;
/// assert_eq!(calls[EventKind::Timer], 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ByKind<T>([T; EventKind::ALL.len()]);

impl<T> Index<EventKind> for ByKind<T> {
    type Output = T;

    fn index(&self, kind: EventKind) -> &T {
        &self.0[kind as usize]
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "turns {}, waits {}", self.turns, self.waits)?;
        for kind in EventKind::ALL {
            write!(formatter, ", {kind} {}", self.calls[kind])?;
            if !self.in_handlers[kind].is_zero() {
                write!(formatter, " in {:?}", self.in_handlers[kind])?;
            }
        }
        write!(formatter, ", late timers {}", self.late_timers)?;
        if self.late_timers > 0 {
            write!(formatter, " by up to {:?}", self.latest_timer)?;
        }
        if !self.asleep.is_zero() {
            write!(formatter, ", asleep {:?}", self.asleep)?;
        }
        write!(
            formatter,
            "; fds {}/{} ready {}, timers {}, immediates {}/{}, signals {}",
            self.enabled_fds,
            self.fds,
            self.ready_fds,
            self.armed_timers,
            self.scheduled_immediates,
            self.immediates,
            self.signals,
        )
    }
}

/// Numbers that go up while the loop runs. One more is one instruction, so that they are always on.
#[derive(Default)]
pub(crate) struct Counters {
    /// Turns that had only descriptors to look at, each of which has called one.
    pub(crate) short_turns: Counter,
    pub(crate) full_turns: Counter,
    pub(crate) waits: Counter,
    /// Not those of short turns.
    pub(crate) fds: Counter,
    pub(crate) timers: Counter,
    pub(crate) signals: Counter,
    pub(crate) immediates: Counter,
    late_timers: Counter,
    latest_timer: Cell<Duration>,
    asleep: Cell<Duration>,
    in_handlers: [Cell<Duration>; EventKind::ALL.len()],
}

#[derive(Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    #[inline(always)]
    pub(crate) fn count(&self) {
        self.0.set(self.0.get().wrapping_add(1));
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Counters {
    /// A timer is called so long after its deadline.
    #[inline]
    pub(crate) fn count_timer(&self, late: Duration) {
        self.timers.count();
        if late >= LATE {
            self.count_late_timer(late);
        }
    }

    #[cold]
    fn count_late_timer(&self, late: Duration) {
        self.late_timers.count();
        self.latest_timer.set(self.latest_timer.get().max(late));
    }

    pub(crate) fn add_time(&self, kind: EventKind, took: Duration) {
        add(&self.in_handlers[kind as usize], took);
    }

    pub(crate) fn add_asleep(&self, took: Duration) {
        add(&self.asleep, took);
    }
}

fn add(sum: &Cell<Duration>, took: Duration) {
    sum.set(sum.get().saturating_add(took));
}

impl Context {
    /// What the loop has done so far, and what it has at the moment. The numbers are counted
    /// whether somebody asks or not: each costs one instruction.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let _timer = context.add_timer_after(Duration::from_secs(60), |_, _| ());
    /// let stats = context.stats();
    /// assert_eq!((stats.armed_timers, stats.turns), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        let inner = &*self.inner;
        let counters = &inner.counters;
        let short = counters.short_turns.get();
        let (scheduled_immediates, immediates) = {
            let immediates = inner.immediates();
            (immediates.queued(), immediates.len())
        };
        let fds = inner.fds.borrow();
        let timers = inner.timers.borrow();
        Stats {
            turns: counters.full_turns.get().wrapping_add(short),
            waits: counters.waits.get(),
            calls: ByKind([
                counters.fds.get().wrapping_add(short),
                counters.timers.get(),
                counters.signals.get(),
                counters.immediates.get(),
            ]),
            late_timers: counters.late_timers.get(),
            latest_timer: counters.latest_timer.get(),
            asleep: counters.asleep.get(),
            in_handlers: ByKind(
                EventKind::ALL.map(|kind| counters.in_handlers[kind as usize].get()),
            ),
            fds: fds.mux.events().count(),
            enabled_fds: fds.mux.enabled(),
            ready_fds: fds.ready_left(),
            armed_timers: timers.armed(),
            immediates,
            scheduled_immediates,
            signals: inner.signals.borrow().len(),
        }
    }

    /// Whether [`stats`](Context::stats) tell for how long handlers ran and the loop was asleep. It
    /// isn't measured by default, as it takes two looks at the clock for each handler and each
    /// wait, and a turn that looks at everything.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::{Duration, Instant};
    /// use tevent::EventKind;
    ///
    /// let context = tevent::Context::new()?;
    /// context.set_times_measured(true);
    /// context.defer(|_| {
    ///     let start = Instant::now();
    ///     while start.elapsed() < Duration::from_millis(1) {}
    /// });
    /// context.run()?;
    /// assert!(context.stats().in_handlers[EventKind::Immediate] >= Duration::from_millis(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_times_measured(&self, measured: bool) {
        self.inner.state.set_busy();
        self.inner.end_sole_immediate();
        self.inner.watch.want(Wanted::TIMES, measured);
    }
}
