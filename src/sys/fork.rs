//! `fork(2)`: noticing it, and doing it safely.
//!
//! [`watch`] registers with `pthread_atfork`, so that a fork that anybody makes is noticed in the
//! child, and marks every doorbell there. A child made by a bare `clone(2)` system call is not
//! noticed; such a child may only `exec`.

use super::{check, doorbell, signal};
use crate::error::OsError;
#[cfg(target_os = "linux")]
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static REGISTERED: AtomicBool = AtomicBool::new(false);
static REGISTERING: Mutex<()> = Mutex::new(());

/// Makes forks noticed from now on. One that fails, for want of memory, is tried again.
///
/// Once that is done nobody takes the lock any more: a fork on another thread would leave it locked
/// in the child, whose next context would wait for it for ever.
pub(crate) fn watch() -> io::Result<()> {
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    let _registering = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
    if !REGISTERED.load(Ordering::Acquire) {
        // SAFETY: the three functions live as long as the process.
        let error = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        if error != 0 {
            let error = io::Error::from_raw_os_error(error);
            return Err(OsError::wrap("pthread_atfork", error));
        }
        REGISTERED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Signals are blocked while a fork is under way: one that reaches the child before it has
/// forgotten those of its parent would be forgotten with them.
extern "C" fn prepare() {
    let mask = signal::lock();
    // SAFETY: we hold the lock until `parent` or `child`.
    let registry = unsafe { signal::registry() };
    registry.forking = Some(signal::Forking {
        mask,
        thread: thread_id(),
    });
}

extern "C" fn parent() {
    // SAFETY: `prepare` has taken the lock, on this thread.
    if let Some(forking) = unsafe { signal::registry() }.forking.take() {
        signal::unlock(&forking.mask);
    }
}

extern "C" fn child() {
    // SAFETY: `prepare` has taken the lock, on the thread that this one is the copy of.
    let registry = unsafe { signal::registry() };
    if let Some(forking) = registry.forking.take() {
        for doorbell in doorbell::all() {
            doorbell.enter_child(forking.thread);
        }
        signal::restore_unwanted(registry);
        signal::unlock(&forking.mask);
    }
}

/// Forks; the process has no other thread. Returns the child's id to the parent, `None` to the
/// child.
pub(crate) fn fork() -> io::Result<Option<u32>> {
    if has_other_threads()? {
        return Err(io::Error::other(
            "fork in a process with several threads: the child could use next to nothing",
        ));
    }
    // SAFETY: this is the only thread, so the child's memory is consistent and no lock in it is
    // held by a thread that doesn't exist there.
    let pid = check("fork", unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid as u32))
}

/// Ends the process, and runs nothing before that.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: the call has no precondition, and doesn't return.
    unsafe { libc::_exit(code) }
}

/// Counts this process's threads by `/proc`, or where there is none asks the kernel by a call that
/// succeeds in single-threaded processes only.
#[cfg(target_os = "linux")]
fn has_other_threads() -> io::Result<bool> {
    // A thread that was joined is listed until the kernel has finished with it, which is a matter
    // of microseconds.
    for _ in 0..LOOKS_AT_THREADS {
        let Ok(tasks) = fs::read_dir("/proc/self/task") else {
            return has_other_threads_by_unshare();
        };
        if tasks.take(2).count() == 1 {
            return Ok(false);
        }
        std::thread::yield_now();
    }
    Ok(true)
}

#[cfg(target_os = "linux")]
const LOOKS_AT_THREADS: u32 = 100;

#[cfg(target_os = "linux")]
fn has_other_threads_by_unshare() -> io::Result<bool> {
    // SAFETY: no memory is involved; the call changes nothing.
    match check("unshare", unsafe { libc::unshare(libc::CLONE_THREAD) }) {
        Ok(_) => Ok(false),
        Err(error) if crate::error::errno(&error) == Some(libc::EINVAL) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn has_other_threads() -> io::Result<bool> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system doesn't tell how many threads a process has",
    ))
}

/// The kernel's id of this thread. Async-signal-safe.
#[cfg(target_os = "linux")]
pub(super) fn thread_id() -> i32 {
    // Not by `gettid`, which C libraries older than glibc 2.30 don't have: the program wouldn't
    // load. SAFETY: the call has no precondition.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Only compared with itself, so the low bits of the thread's handle do where there is no number.
#[cfg(not(target_os = "linux"))]
pub(super) fn thread_id() -> i32 {
    // SAFETY: the call has no precondition.
    unsafe { libc::pthread_self() as usize as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// As in the child of a fork that happened while another thread held the lock.
    #[test]
    fn a_lock_that_nobody_gives_back_stops_only_the_first_registration() {
        watch().expect("registered");
        let _held = REGISTERING.lock();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(watch().is_ok()));
        let answer = receiver.recv_timeout(Duration::from_secs(10));
        assert_eq!(answer, Ok(true), "it waits for the lock");
    }
}
