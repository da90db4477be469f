//! Which handler keeps the loop from the others.

use crate::context::{Context, Inner};
use crate::meta::Meta;
use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

/// The kinds of events.
///
/// ```
/// assert_eq!(tevent::EventKind::Timer.to_string(), "timer");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// A [descriptor event](crate::Fd).
    Fd,
    /// A [timer](crate::Timer).
    Timer,
    /// A [signal event](crate::Signal).
    Signal,
    /// An [immediate](crate::Immediate), a [deferred](Context::defer) closure, or one that another
    /// thread has [scheduled](crate::Remote::schedule).
    Immediate,
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            EventKind::Fd => "fd",
            EventKind::Timer => "timer",
            EventKind::Signal => "signal",
            EventKind::Immediate => "immediate",
        })
    }
}

/// A handler that took long, see [`Context::set_slow_handler`].
///
/// ```
/// use tevent::SlowHandler;
///
/// fn report(slow: &SlowHandler) {
///     // immediate "flush" added at src/main.rs:10:5 took 12.3ms
///     eprintln!("{slow}");
/// }
/// # let _ = report;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SlowHandler {
    /// What kind of event it belongs to.
    pub kind: EventKind,
    /// The event's name, if it has one.
    pub name: Option<String>,
    /// The event's tag, 0 if none was set.
    pub tag: u64,
    /// Where the event was added, or the closure scheduled.
    pub location: &'static Location<'static>,
    /// How long the call took, nested loops included.
    pub took: Duration,
}

impl fmt::Display for SlowHandler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind)?;
        if let Some(name) = &self.name {
            write!(formatter, " {name:?}")?;
        }
        let (location, took) = (self.location, self.took);
        write!(formatter, " added at {location} took {took:?}")
    }
}

type Report = Box<dyn FnMut(&SlowHandler)>;

/// The threshold and who is told.
#[derive(Default)]
pub(crate) struct Watch {
    threshold: Cell<Option<Duration>>,
    /// Missing while it runs.
    report: Cell<Option<Report>>,
    /// The report that is running was replaced.
    replaced: Cell<bool>,
}

/// A call that is being timed. What is to be said of it is noted before, as the handler may remove
/// its event.
pub(crate) struct Timed {
    slow: SlowHandler,
    start: Instant,
}

impl Context {
    /// Calls `report` after each handler that took longer than `threshold`, with what it takes to
    /// find it in the source. While this is set, the clock is read twice for each handler.
    ///
    /// Handlers that panic are not reported. A context that is re-initialised keeps its report.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// context.set_slow_handler(Duration::from_millis(100), |slow| eprintln!("{slow}"));
    /// context.defer(|_| println!("fast enough"));
    /// context.run()
    /// # }
    /// ```
    pub fn set_slow_handler(
        &self,
        threshold: Duration,
        report: impl FnMut(&SlowHandler) + 'static,
    ) {
        self.inner.state.set_busy();
        self.inner.end_sole_immediate();
        self.inner.slow.set(threshold, Box::new(report));
    }

    /// Takes away what [`set_slow_handler`](Context::set_slow_handler) has set.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # use std::time::Duration;
    /// let context = tevent::Context::new()?;
    /// context.set_slow_handler(Duration::ZERO, |_| unreachable!());
    /// context.clear_slow_handler();
    /// context.defer(|_| ());
    /// context.run()
    /// # }
    /// ```
    pub fn clear_slow_handler(&self) {
        let former = self.inner.slow.take();
        drop(former);
    }
}

impl SlowHandler {
    /// What is known of a handler before it is called.
    pub(crate) fn describe(kind: EventKind, meta: &Meta) -> SlowHandler {
        SlowHandler {
            kind,
            name: meta.name(),
            tag: meta.tag(),
            location: meta.location,
            took: Duration::ZERO,
        }
    }
}

impl Watch {
    fn set(&self, threshold: Duration, report: Report) {
        let former = self.take();
        self.threshold.set(Some(threshold));
        self.report.set(Some(report));
        drop(former);
    }

    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.threshold.get().is_some()
    }

    /// Stops watching, and gives back whoever was told.
    pub(crate) fn take(&self) -> impl Sized + use<> {
        self.replaced.set(true);
        self.threshold.set(None);
        self.report.take()
    }

    fn finish(&self, mut timed: Timed) {
        timed.slow.took = timed.start.elapsed();
        if self
            .threshold
            .get()
            .is_none_or(|threshold| timed.slow.took <= threshold)
        {
            return;
        }
        if let Some(mut report) = self.report.take() {
            self.replaced.set(false);
            report(&timed.slow);
            if !self.replaced.get() {
                self.report.set(Some(report));
            }
        }
    }
}

impl Inner {
    /// Begins to time a call, if slow ones are to be reported. `describe` looks at the event.
    #[inline]
    pub(crate) fn start_timing(
        &self,
        describe: impl FnOnce() -> Option<SlowHandler>,
    ) -> Option<Timed> {
        self.slow.threshold.get()?;
        let slow = describe()?;
        let start = Instant::now();
        Some(Timed { slow, start })
    }

    /// Ends it, when nothing is borrowed.
    #[inline]
    pub(crate) fn finish_timing(&self, timed: Option<Timed>) {
        if let Some(timed) = timed {
            self.slow.finish(timed);
        }
    }
}
