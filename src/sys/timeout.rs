//! For how long a system call may wait, in the forms that system calls take it.

use std::time::Duration;

/// A limit of a wait. It is converted once, as most loops wait with the same limit each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout {
    /// `None` is for ever.
    limit: Option<Duration>,
    milliseconds: libc::c_int,
    is_whole: bool,
}

impl Timeout {
    pub(crate) const ZERO: Timeout = Timeout {
        limit: Some(Duration::ZERO),
        milliseconds: 0,
        is_whole: true,
    };

    pub(crate) fn new(limit: Option<Duration>) -> Timeout {
        Timeout {
            limit,
            milliseconds: milliseconds(limit),
            is_whole: limit.is_none_or(|limit| limit.subsec_nanos() % 1_000_000 == 0),
        }
    }

    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    #[inline]
    pub(crate) fn is_zero(&self) -> bool {
        // What isn't zero is rounded up.
        self.milliseconds == 0
    }

    /// As `poll(2)` and `epoll_wait(2)` take it, rounded up: a wait may last longer than asked,
    /// never less. For ever is -1.
    #[inline]
    pub(super) fn milliseconds(&self) -> libc::c_int {
        self.milliseconds
    }

    /// Whether [`milliseconds`](Timeout::milliseconds) loses nothing.
    #[inline]
    pub(super) fn is_whole_milliseconds(&self) -> bool {
        self.is_whole
    }

    /// As the kernel's calls with nanoseconds take it. `None` is for ever.
    pub(super) fn timespec(&self) -> Option<libc::timespec> {
        self.limit.map(|limit| libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos() as _,
        })
    }
}

fn milliseconds(limit: Option<Duration>) -> libc::c_int {
    match limit {
        None => -1,
        Some(limit) => {
            let rounded_up = u64::from(limit.subsec_nanos().div_ceil(1_000_000));
            let whole = limit.as_secs().saturating_mul(1000);
            let milliseconds = whole.saturating_add(rounded_up);
            libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_rounded_up_and_clamped() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1000))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1001))), 2);
        assert_eq!(milliseconds(Some(Duration::MAX)), libc::c_int::MAX);
    }

    #[test]
    fn only_no_time_at_all_is_zero() {
        assert!(Timeout::ZERO.is_zero());
        assert!(Timeout::new(Some(Duration::ZERO)).is_zero());
        assert!(!Timeout::new(Some(Duration::from_nanos(1))).is_zero());
        assert!(!Timeout::new(None).is_zero());
    }
}
