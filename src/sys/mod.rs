//! All system calls and all unsafe code of the crate; nothing here knows of contexts or handlers.
//!
//! Each file wraps one facility behind safe functions that take borrowed descriptors and return
//! [`io::Result`] with the failed call named. `EINTR` is passed up: what an interruption means is
//! the loop's to decide (it looks at signals), so nothing here retries.

#![allow(unsafe_code)]

pub(crate) mod doorbell;
#[cfg(target_os = "linux")]
pub(crate) mod epoll;
pub(crate) mod fork;
pub(crate) mod mailbox;
pub(crate) mod pidfd;
pub(crate) mod poll;
pub(crate) mod siginfo;
pub(crate) mod signal;
pub(crate) mod wakeup;

use crate::error::OsError;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Turns the result of a C call into an [`io::Result`]: -1 means that `errno` says why.
fn check(operation: &'static str, result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(OsError::wrap(operation, io::Error::last_os_error()))
    } else {
        Ok(result)
    }
}

/// Takes possession of the descriptor that a successful C call returned.
fn owned(operation: &'static str, result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(operation, result)?;
    // SAFETY: the callers pass the result of a call that makes a new descriptor, which nobody
    // else has seen, and don't use the number again.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the number `old` stand for what `new` stands for, and closes both former meanings.
///
/// Keeping the number lets borrowers of `old` go on: they find the new object behind it.
fn replace(old: &OwnedFd, new: OwnedFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: both descriptors are open for the whole call, as we hold an owner and a reference
    // to one. `old` owns its number before and after.
    let result = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above; F_SETFD acts on the number that dup2 has just filled.
    let result = unsafe {
        let result = libc::dup2(new.as_raw_fd(), old.as_raw_fd());
        if result == -1 {
            result
        } else {
            libc::fcntl(old.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC)
        }
    };
    check("dup3", result)?;
    Ok(())
}

/// Rounds a timeout up to whole milliseconds, as `poll(2)` and `epoll_wait(2)` take it: a wait
/// may last longer than asked, never less. `None` is for ever, -1.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    match timeout {
        None => -1,
        Some(timeout) => {
            let rounded_up = u64::from(timeout.subsec_nanos().div_ceil(1_000_000));
            let whole = timeout.as_secs().saturating_mul(1000);
            let milliseconds = whole.saturating_add(rounded_up);
            libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX)
        }
    }
}

/// Whether [`milliseconds`] loses nothing of a timeout.
fn is_whole_milliseconds(timeout: Duration) -> bool {
    timeout.subsec_nanos() % 1_000_000 == 0
}

/// A timeout as the kernel's calls with nanoseconds take it.
fn timespec(timeout: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    }
}

/// Whether a descriptor number can exist at all.
pub(crate) fn is_valid_number(fd: RawFd) -> bool {
    fd >= 0
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
    fn a_timeout_is_whole_milliseconds_or_not() {
        assert!(is_whole_milliseconds(Duration::ZERO));
        assert!(is_whole_milliseconds(Duration::from_millis(5)));
        assert!(is_whole_milliseconds(Duration::from_millis(1001)));
        assert!(!is_whole_milliseconds(Duration::from_nanos(1)));
        assert!(!is_whole_milliseconds(Duration::from_micros(5001)));
    }
}
