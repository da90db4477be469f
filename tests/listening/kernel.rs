//! `accept4` that is counted, and fails when it is told to.
//!
//! The function is defined here, and takes the place of libc's in the whole process.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

static CALLS: AtomicU32 = AtomicU32::new(0);
static LEFT: AtomicU32 = AtomicU32::new(0);
static ERRNO: AtomicI32 = AtomicI32::new(0);

/// Has the next `count` calls fail.
pub fn fail(errno: i32, count: u32) {
    ERRNO.store(errno, SeqCst);
    LEFT.store(count, SeqCst);
}

/// How many calls that were to fail weren't made.
pub fn failures_left() -> u32 {
    LEFT.load(SeqCst)
}

/// How many calls there were since this was asked last.
pub fn take_calls() -> u32 {
    CALLS.swap(0, SeqCst)
}

/// # Safety
///
/// As that of the system call, to which all arguments are passed on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    fd: c_int,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: c_int,
) -> c_int {
    CALLS.fetch_add(1, SeqCst);
    let fails = LEFT.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
    if fails.is_ok() {
        unsafe { *libc::__errno_location() = ERRNO.load(SeqCst) };
        return -1;
    }
    unsafe { libc::syscall(libc::SYS_accept4, fd, address, length, flags) as c_int }
}
