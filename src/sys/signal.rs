//! Signal handlers: `sigaction(2)` and the asynchronous part.
//!
//! The handler that the kernel calls only counts (see [`Doorbell::deliver`]) and rings; it takes
//! no lock, allocates nothing, and preserves `errno`. Meanwhile all signals are blocked, because it
//! runs on the thread's alternate stack if there is one, and on the small one that Rust gives its
//! threads a few handlers that interrupt each other would be too many. One that may interrupt
//! itself (`NODEFER`) stays on the ordinary stack for the same reason.
//!
//! # A full queue
//!
//! Of a signal whose siginfo is wanted, 256 may wait for a loop. The handler that fills the queue
//! blocks the signal in the mask that its own return restores, so that the kernel keeps what comes
//! next; the loop unblocks it when it has drained the queue. Where another thread receives the
//! signal, blocking it there would help nobody: the signal is then sent on, with all it carries,
//! to the loop's thread. Should the kernel have no room for it, that thread itself has some in
//! reserve, and others wait. No mask is changed at any other time.

use super::doorbell::{self, Delivered, Doorbell, SIGNALS};
use super::{check, fork};
use crate::flags::SignalFlags;
use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What belongs to the process: the dispositions to restore, and what `fork` needs.
pub(super) struct Registry {
    /// The disposition that each signal had before the first context handled it.
    previous: [Option<libc::sigaction>; SIGNALS + 1],
    /// Between `prepare` and `parent` or `child` of `pthread_atfork`.
    pub(super) forking: Option<Forking>,
}

/// The thread that is forking, and the signals it had blocked before.
#[derive(Clone, Copy)]
pub(super) struct Forking {
    pub(super) mask: libc::sigset_t,
    pub(super) thread: i32,
}

struct Locked {
    locked: AtomicBool,
    registry: UnsafeCell<Registry>,
}

// SAFETY: the registry is touched by the holder of the lock only.
unsafe impl Sync for Locked {}

static REGISTRY: Locked = Locked {
    locked: AtomicBool::new(false),
    registry: UnsafeCell::new(Registry {
        previous: [None; SIGNALS + 1],
        forking: None,
    }),
};

/// Blocks all signals on this thread, then locks the registry. A spin lock, as it must be taken
/// before `fork` and released on both sides of it. With signals blocked, no handler that forks can
/// meet a lock that its own thread holds.
pub(super) fn lock() -> libc::sigset_t {
    let mask = block_all();
    while REGISTRY.locked.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
    mask
}

/// Gives access to the registry, between [`lock`] and [`unlock`] only.
///
/// # Safety
///
/// This thread must hold the lock, and no other result of this function may be alive.
pub(super) unsafe fn registry() -> &'static mut Registry {
    // SAFETY: the caller holds the lock and has no other reference.
    unsafe { &mut *REGISTRY.registry.get() }
}

pub(super) fn unlock(mask: &libc::sigset_t) {
    REGISTRY.locked.store(false, Ordering::Release);
    // SAFETY: the mask was filled in by `block_all`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// In a forked child: restores what no context in it handles any more, those of other threads than
/// the one that forked being gone. Async-signal-safe.
pub(super) fn restore_unwanted(registry: &mut Registry) {
    for (signal, previous) in (1..).zip(&mut registry.previous[1..]) {
        // Looked at first, as to take what isn't there would be to write to memory that is shared with
        // the parent.
        let is_there = previous.is_some();
        if is_there && doorbell::all().all(|doorbell| !doorbell.is_subscribed(signal)) {
            if let Some(action) = previous.take() {
                restore(signal, &action);
            }
        }
    }
}

fn with_registry<R>(work: impl FnOnce(&mut Registry) -> R) -> R {
    let mask = lock();
    // SAFETY: we hold the lock, and the reference ends before it is released.
    let result = work(unsafe { registry() });
    unlock(&mask);
    result
}

fn block_all() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigfillset fills in `all`, pthread_sigmask `before`; with a valid operation it
    // can't fail.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// Starts to deliver a signal to a doorbell. The first doorbell of the process installs the
/// handler, with those of `flags` that concern the process.
pub(crate) fn subscribe(
    doorbell: &'static Doorbell,
    signal: i32,
    flags: SignalFlags,
) -> io::Result<()> {
    if !(1..=SIGNALS as i32).contains(&signal) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    fork::watch()?;
    with_registry(|registry| {
        doorbell.subscribe(signal);
        let previous = &mut registry.previous[signal as usize];
        if previous.is_none() {
            match install(signal, flags) {
                Ok(action) => *previous = Some(action),
                Err(error) => {
                    doorbell.unsubscribe(signal);
                    return Err(error);
                }
            }
        }
        Ok(())
    })
}

/// Stops to deliver a signal to a doorbell. The last one of the process restores the disposition
/// of before, unless somebody else has replaced ours meanwhile.
pub(crate) fn unsubscribe(doorbell: &'static Doorbell, signal: i32) {
    // What is blocked was sent to our handler, which takes it as long as it is there: what was in
    // force before may kill the process.
    doorbell.want_info(signal, false);
    unblock_if_blocked(doorbell, signal);
    with_registry(|registry| {
        let wanted =
            doorbell::all().any(|other| !ptr::eq(other, doorbell) && other.is_subscribed(signal));
        if !wanted {
            if let Some(action) = registry.previous[signal as usize].take() {
                restore(signal, &action);
            }
        }
        doorbell.unsubscribe(signal);
    });
}

/// Unblocks a signal that the handler has blocked because the queue was full.
pub(crate) fn unblock_if_blocked(doorbell: &Doorbell, signal: i32) {
    if doorbell.take_blocked(signal) {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset fills in the set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
        }
    }
}

fn install(signal: i32, flags: SignalFlags) -> io::Result<libc::sigaction> {
    // SAFETY: all zeroes is a valid sigaction (default disposition, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler_address();
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the mask is part of a valid structure.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    if flags.contains(SignalFlags::NODEFER) {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&mut action.sa_mask, signal) };
    } else {
        action.sa_flags |= libc::SA_ONSTACK;
    }
    for (flag, sa_flag) in [
        (SignalFlags::RESTART, libc::SA_RESTART),
        (SignalFlags::NODEFER, libc::SA_NODEFER),
        (SignalFlags::NOCLDSTOP, libc::SA_NOCLDSTOP),
    ] {
        if flags.contains(flag) {
            action.sa_flags |= sa_flag;
        }
    }
    let mut previous = MaybeUninit::uninit();
    // SAFETY: both structures are valid, and the handler is async-signal-safe and of the type
    // that SA_SIGINFO says. It lives as long as the process.
    check("sigaction", unsafe {
        libc::sigaction(signal, &action, previous.as_mut_ptr())
    })?;
    // SAFETY: the call succeeded, so it was filled in.
    Ok(unsafe { previous.assume_init() })
}

fn restore(signal: i32, previous: &libc::sigaction) {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the structures are valid. What is restored was in force before, so its handler is
    // whoever installed it's to keep.
    unsafe {
        if libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == handler_address()
        {
            libc::sigaction(signal, previous, ptr::null_mut());
        }
    }
}

fn handler_address() -> libc::sighandler_t {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    handler as *const () as libc::sighandler_t
}

/// What the kernel calls.
extern "C" fn on_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    machine_context: *mut libc::c_void,
) {
    let errno = errno_location();
    // SAFETY: the pointer is to this thread's errno.
    let saved = unsafe { *errno };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let info = unsafe { &*info };
    deliver(signal, info, machine_context);
    // SAFETY: as above.
    unsafe { *errno = saved };
}

fn deliver(signal: i32, info: &libc::siginfo_t, machine_context: *mut libc::c_void) {
    // One that was sent on concerns only the context whose queue was full.
    let addressee =
        doorbell::all().find(|doorbell| doorbell.mark == info.si_errno && is_ours(doorbell));
    if let Some(doorbell) = addressee {
        let mut info = *info;
        info.si_errno = 0;
        info.si_code = info.si_code.wrapping_add(DISGUISE);
        let delivered = doorbell.deliver_forwarded(signal, &info);
        return follow_up(doorbell, delivered, signal, &info, machine_context);
    }
    for doorbell in doorbell::all() {
        let delivered = doorbell.deliver(signal, info);
        follow_up(doorbell, delivered, signal, info, machine_context);
    }
}

/// Whether the doorbell's context belongs to this thread. Costs a system call, so it is asked
/// only when a queue is or was full.
fn is_ours(doorbell: &Doorbell) -> bool {
    doorbell.owner() == fork::thread_id()
}

fn follow_up(
    doorbell: &Doorbell,
    delivered: Delivered,
    signal: i32,
    info: &libc::siginfo_t,
    machine_context: *mut libc::c_void,
) {
    if delivered == Delivered::Done {
        return;
    }
    let is_ours = is_ours(doorbell);
    if delivered == Delivered::Refused && !send_on(doorbell, signal, info) {
        if is_ours {
            doorbell.deliver_beyond_capacity(signal, info);
        } else {
            wait_for_room(doorbell, signal, info);
        }
    }
    if is_ours {
        doorbell.set_blocked(signal);
        block_after_return(signal, machine_context);
    }
}

/// The queue is full, and the kernel has no room either (`RLIMIT_SIGPENDING`): the loop, which has
/// another thread, makes some. There is an end to the wait, as it may be waiting for this very
/// thread: then the signal is counted, but its siginfo is lost.
fn wait_for_room(doorbell: &Doorbell, signal: i32, info: &libc::siginfo_t) {
    for attempt in 0..QUICK_ATTEMPTS + SLOW_ATTEMPTS {
        if attempt < QUICK_ATTEMPTS {
            std::thread::yield_now();
        } else {
            // SAFETY: without descriptors poll() only waits. It is async-signal-safe.
            unsafe { libc::poll(ptr::null_mut(), 0, 1) };
        }
        if send_on(doorbell, signal, info)
            || doorbell.deliver_forwarded(signal, info) != Delivered::Refused
        {
            return;
        }
    }
}

/// A loop that has a processor to itself has emptied its queue many times by then.
const QUICK_ATTEMPTS: u32 = 1_000;

/// A millisecond each: as long as the loop may go without a processor on a machine that is
/// overloaded.
const SLOW_ATTEMPTS: u32 = 10_000;

/// What makes any `si_code` one that a thread may send: zero and above are the kernel's, and those
/// just below are the C library's.
const DISGUISE: i32 = 0x1_0000;

/// Queues the signal to the thread of a context, with all it carries. Returns whether there was
/// room.
#[cfg(target_os = "linux")]
fn send_on(doorbell: &Doorbell, signal: i32, info: &libc::siginfo_t) -> bool {
    let mut info = *info;
    info.si_errno = doorbell.mark;
    info.si_code = info.si_code.wrapping_sub(DISGUISE);
    // SAFETY: the kernel copies the siginfo_t, which is valid.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::getpid(),
            doorbell.owner(),
            signal,
            &info as *const libc::siginfo_t,
        )
    };
    result == 0
}

/// Other systems queue no siginfo in the kernel, so there is nothing to pass on with.
#[cfg(not(target_os = "linux"))]
fn send_on(_doorbell: &Doorbell, _signal: i32, _info: &libc::siginfo_t) -> bool {
    false
}

/// Adds the signal to the mask that is in force once the handler has returned.
#[cfg(target_os = "linux")]
fn block_after_return(signal: i32, machine_context: *mut libc::c_void) {
    let machine_context = machine_context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel passes a ucontext_t that it reads when the handler
    // returns; sigaddset touches only the word of the set that the kernel knows.
    unsafe { libc::sigaddset(&raw mut (*machine_context).uc_sigmask, signal) };
}

#[cfg(not(target_os = "linux"))]
fn block_after_return(_signal: i32, _machine_context: *mut libc::c_void) {}

#[cfg(any(target_os = "linux", target_os = "redox"))]
fn errno_location() -> *mut libc::c_int {
    // SAFETY: the call has no precondition.
    unsafe { libc::__errno_location() }
}

#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
fn errno_location() -> *mut libc::c_int {
    // SAFETY: the call has no precondition.
    unsafe { libc::__error() }
}

#[cfg(any(target_os = "netbsd", target_os = "openbsd", target_os = "android"))]
fn errno_location() -> *mut libc::c_int {
    // SAFETY: the call has no precondition.
    unsafe { libc::__errno() }
}

#[cfg(any(target_os = "solaris", target_os = "illumos"))]
fn errno_location() -> *mut libc::c_int {
    // SAFETY: the call has no precondition.
    unsafe { libc::___errno() }
}
