//! The loop's clock: the system's, or one that stands still while handlers run.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) enum Clock {
    System,
    Virtual(Cell<Instant>),
}

impl Clock {
    pub(crate) fn new(is_virtual: bool) -> Clock {
        if is_virtual {
            Clock::Virtual(Cell::new(Instant::now()))
        } else {
            Clock::System
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            Clock::Virtual(now) => now.get(),
        }
    }

    #[inline]
    pub(crate) fn is_virtual(&self) -> bool {
        matches!(self, Clock::Virtual(_))
    }

    /// Lets virtual time pass.
    pub(crate) fn advance(&self, by: Duration) {
        if let Clock::Virtual(now) = self {
            now.set(later(now.get(), by));
        }
    }
}

/// The time that is `delay` after `now`, or as late as can be said.
pub(crate) fn later(now: Instant, delay: Duration) -> Instant {
    let latest = || now.checked_add(Duration::from_nanos(u64::MAX));
    now.checked_add(delay).or_else(latest).unwrap_or(now)
}
