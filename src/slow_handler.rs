//! Which handler keeps the loop from the others.

use crate::callback::Callback;
use crate::context::Context;
use crate::trace::{EventKind, TracedEvent};
use crate::watch::Wanted;
use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

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
pub(crate) struct SlowReport {
    threshold: Cell<Option<Duration>>,
    report: Callback<Report>,
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
        let watch = &self.inner.watch;
        let former = watch.slow.report.replace(Some(Box::new(report)));
        watch.slow.threshold.set(Some(threshold));
        watch.want(Wanted::SLOW, true);
        drop(former);
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
        let watch = &self.inner.watch;
        watch.want(Wanted::SLOW, false);
        let former = watch.slow.take();
        drop(former);
    }
}

impl SlowReport {
    /// Stops reporting, and gives back whoever was told.
    pub(crate) fn take(&self) -> impl Sized + use<> {
        self.threshold.set(None);
        self.report.replace(None)
    }

    /// Whether there is somebody to be told, who isn't running.
    pub(crate) fn is_there(&self) -> bool {
        self.report.is_there()
    }

    /// A handler took so long.
    pub(crate) fn tell(&self, event: &TracedEvent, took: Duration) {
        if self
            .threshold
            .get()
            .is_none_or(|threshold| took <= threshold)
        {
            return;
        }
        self.report.call(|report| {
            report(&SlowHandler {
                kind: event.kind(),
                name: event.name().map(str::to_owned),
                tag: event.tag(),
                location: event.location(),
                took,
            });
        });
    }
}
