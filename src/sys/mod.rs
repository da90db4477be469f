//! All system calls and all unsafe code of the crate; nothing here knows of contexts or handlers.
//!
//! Each file wraps one facility behind safe functions that take borrowed descriptors and return
//! [`io::Result`] with the failed call named. `EINTR` is passed up: what an interruption means is
//! the loop's to decide (it looks at signals), so nothing here retries.

#![allow(unsafe_code)]

pub(crate) mod closure;
pub(crate) mod doorbell;
#[cfg(target_os = "linux")]
pub(crate) mod epoll;
pub(crate) mod fork;
pub(crate) mod handler;
pub(crate) mod job;
pub(crate) mod listen;
pub(crate) mod mailbox;
pub(crate) mod pidfd;
pub(crate) mod poll;
pub(crate) mod ready;
pub(crate) mod siginfo;
pub(crate) mod signal;
pub(crate) mod source;
pub(crate) mod timeout;
pub(crate) mod wakeup;

use crate::error::OsError;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::FromRawFd;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Turns the result of a C call into an [`io::Result`]: -1 means that `errno` says why.
#[inline(always)]
fn check(operation: &'static str, result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(failure(operation))
    } else {
        Ok(result)
    }
}

#[cold]
fn failure(operation: &'static str) -> io::Error {
    OsError::wrap(operation, io::Error::last_os_error())
}

/// Takes possession of the descriptor that a successful C call returned.
#[cfg(target_os = "linux")]
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

/// Whether a descriptor number can exist at all.
pub(crate) fn is_valid_number(fd: RawFd) -> bool {
    fd >= 0
}
