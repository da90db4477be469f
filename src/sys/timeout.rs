//! For how long a system call may wait, in the forms that system calls take it.

use std::time::Duration;

/// A limit of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timeout {
    /// Milliseconds as `poll(2)` and `epoll_wait(2)` take them: -1 is for ever.
    Whole(libc::c_int),
    /// What can't be said that way: a fraction, or more than there are numbers for.
    Precise(Duration),
}

impl Timeout {
    pub(crate) const ZERO: Timeout = Timeout::Whole(0);
    pub(crate) const FOREVER: Timeout = Timeout::Whole(-1);
    /// How long tevent waits unless it is told otherwise.
    pub(crate) const TEVENT: Timeout = Timeout::Whole(30_000);

    /// `None` is for ever.
    pub(crate) fn new(limit: Option<Duration>) -> Timeout {
        let Some(limit) = limit else {
            return Timeout::FOREVER;
        };
        match libc::c_int::try_from(limit.as_millis()) {
            Ok(whole) if limit.subsec_nanos() % 1_000_000 == 0 => Timeout::Whole(whole),
            _ => Timeout::Precise(limit),
        }
    }

    /// This, or `limit` if that is less.
    pub(crate) fn at_most(self, limit: Duration) -> Timeout {
        Timeout::new(Some(self.limit().map_or(limit, |own| own.min(limit))))
    }

    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Timeout::Whole(whole) => u64::try_from(whole).ok().map(Duration::from_millis),
            Timeout::Precise(limit) => Some(limit),
        }
    }

    /// Rounded up: a wait may last longer than asked, never less.
    pub(super) fn milliseconds(self) -> libc::c_int {
        match self {
            Timeout::Whole(whole) => whole,
            Timeout::Precise(limit) => {
                let rounded_up = limit.as_nanos().div_ceil(1_000_000);
                libc::c_int::try_from(rounded_up).unwrap_or(libc::c_int::MAX)
            }
        }
    }

    /// As `ppoll` takes it. `None` is for ever. Seconds may have 32 bits there: what is longer than
    /// 68 years is cut off.
    #[cfg(target_os = "linux")]
    pub(super) fn timespec(self) -> Option<libc::timespec> {
        self.limit().map(|limit| libc::timespec {
            tv_sec: limit.as_secs().min(i32::MAX as u64) as _,
            tv_nsec: limit.subsec_nanos() as _,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(limit: Option<Duration>) -> libc::c_int {
        Timeout::new(limit).milliseconds()
    }

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
    fn a_limit_comes_out_as_it_went_in() {
        let largest = Duration::from_millis(libc::c_int::MAX as u64);
        for limit in [
            None,
            Some(Duration::ZERO),
            Some(Duration::from_nanos(1)),
            Some(Duration::from_secs(30)),
            Some(largest),
            Some(largest + Duration::from_millis(1)),
            Some(Duration::MAX),
        ] {
            assert_eq!(Timeout::new(limit).limit(), limit);
        }
    }

    #[test]
    fn only_no_time_at_all_is_zero() {
        assert_eq!(Timeout::new(Some(Duration::ZERO)), Timeout::ZERO);
        for limit in [None, Some(Duration::from_nanos(1)), Some(Duration::MAX)] {
            assert_ne!(Timeout::new(limit), Timeout::ZERO);
        }
    }
}
