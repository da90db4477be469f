//! What both libraries see of the kernel, made the same for both.
//!
//! `epoll_wait`, `epoll_ctl`, `poll` and `ppoll` are defined here, and take the place of libc's in
//! the whole process, the C library included. They do two things, and neither before a program runs:
//!
//! - no wait blocks. Version 0.14.1 of the library has no way to ask for that;
//! - where the two don't wait for the same descriptors in the same order (see [`super::known`]),
//!   every wait reports one descriptor only: the one that was reported least recently. If several
//!   events are on it, only that is reported which one of them wants, and they take turns. The
//!   libraries' own descriptors aren't reported: they are there to end waits, and no wait lasts.

use super::world::{self, FIRST_NUMBER, world};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

static NEVER_BLOCKS: AtomicBool = AtomicBool::new(false);
static ONE_BY_ONE: AtomicBool = AtomicBool::new(false);

/// The events of poll and epoll that matter here have the same numbers.
pub const READABLE: i16 = libc::POLLIN;
pub const WRITABLE: i16 = libc::POLLOUT;
pub const DEAD: i16 = libc::POLLHUP | libc::POLLERR;

#[derive(Default)]
struct Reports {
    /// The descriptor of an instance's user data.
    fds: HashMap<(c_int, u64), c_int>,
    /// When a descriptor was last reported.
    last: HashMap<c_int, u64>,
    count: u64,
}

thread_local! {
    static REPORTS: RefCell<Reports> = RefCell::default();
}

/// From now on no wait of this process blocks.
pub fn never_block() {
    NEVER_BLOCKS.store(true, Ordering::Relaxed);
}

/// Gives this process as much room for queued signals as it may have: the limit counts those of
/// all processes of the user, and at the limit the kernel drops what a signal carries.
pub fn queue_all_signals() {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    unsafe {
        if libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const limit) == -1
            && libc::getrlimit(libc::RLIMIT_SIGPENDING, &raw mut limit) == 0
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const limit);
        }
    }
}

/// From now on descriptors are reported one by one, in the order described above.
pub fn report_one_by_one() {
    ONE_BY_ONE.store(true, Ordering::Relaxed);
}

/// What a descriptor is ready for now, of what is `wanted`.
pub fn readiness(fd: c_int, wanted: i16) -> i16 {
    let mut pollfd = libc::pollfd {
        fd,
        events: wanted,
        revents: 0,
    };
    unsafe { wait_by_poll(&raw mut pollfd, 1, Some(AT_ONCE), ptr::null()) };
    pollfd.revents
}

const AT_ONCE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

unsafe fn wait_by_poll(
    fds: *mut libc::pollfd,
    count: libc::nfds_t,
    mut timeout: Option<libc::timespec>,
    mask: *const libc::sigset_t,
) -> c_int {
    // The kernel writes into it what is left.
    let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    unsafe { libc::syscall(libc::SYS_ppoll, fds, count, timeout, mask, 8) as c_int }
}

impl Reports {
    /// Picks the descriptor that is reported next.
    fn pick(&mut self, ready: impl Iterator<Item = c_int>) -> Option<c_int> {
        let fd = ready
            .filter(|&fd| fd >= FIRST_NUMBER)
            .min_by_key(|fd| (self.last.get(fd).copied(), *fd))?;
        self.count += 1;
        self.last.insert(fd, self.count);
        Some(fd)
    }
}

/// Tells the program that runs, if one does.
fn note_wait() {
    if let Some(world) = world::current() {
        world.on_wait();
    }
}

fn limited(timeout: c_int) -> c_int {
    if NEVER_BLOCKS.load(Ordering::Relaxed) {
        0
    } else {
        timeout
    }
}

/// In the place of libc's.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(
    fds: *mut libc::pollfd,
    count: libc::nfds_t,
    timeout: c_int,
) -> c_int {
    let limit = (timeout >= 0).then(|| libc::timespec {
        tv_sec: libc::time_t::from(timeout / 1000),
        tv_nsec: libc::c_long::from(timeout % 1000 * 1_000_000),
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    unsafe { ppoll(fds, count, limit, ptr::null()) }
}

/// In the place of libc's.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    fds: *mut libc::pollfd,
    count: libc::nfds_t,
    timeout: *const libc::timespec,
    mask: *const libc::sigset_t,
) -> c_int {
    let timeout = match unsafe { timeout.as_ref() } {
        _ if NEVER_BLOCKS.load(Ordering::Relaxed) => Some(AT_ONCE),
        timeout => timeout.copied(),
    };
    let entries = match count {
        // Where there are none, there need not be a pointer either.
        0 => &[],
        // SAFETY: the caller says that there are as many.
        _ => unsafe { slice::from_raw_parts(fds, count as usize) },
    };
    // A single one that wants nothing is a question that isn't the loop's wait.
    if entries.len() > 1 || entries.iter().any(|entry| entry.events != 0) {
        note_wait();
    }
    let answers = unsafe { wait_by_poll(fds, count, timeout, mask) };
    unsafe { answer(fds, count, answers) }
}

/// Leaves of a poll's answers what is to be reported.
unsafe fn answer(fds: *mut libc::pollfd, count: libc::nfds_t, answers: c_int) -> c_int {
    if answers <= 0 || !ONE_BY_ONE.load(Ordering::Relaxed) {
        return answers;
    }
    // SAFETY: the kernel has just written there.
    let entries = unsafe { slice::from_raw_parts_mut(fds, count as usize) };
    if let [probe] = entries {
        if probe.events == 0 {
            return answers;
        }
    }
    let ready = entries.iter().filter(|entry| entry.revents != 0);
    let ready = ready.map(|entry| entry.fd);
    let picked = REPORTS.with_borrow_mut(|reports| reports.pick(ready));
    let of_picked = |entry: &&mut libc::pollfd| Some(entry.fd) == picked;
    let all = entries.iter_mut().filter(of_picked);
    let all = all.fold(0, |all, entry| all | entry.revents);
    let turn = picked.and_then(|fd| world().take_turn(fd, all));
    let told = turn.map(|(_, told)| told);
    let index = turn.and_then(|(slot, _)| world().entry_of(slot));
    let mut reported = 0;
    for (position, entry) in entries.iter_mut().enumerate() {
        // The library has an entry for every event, ours for every descriptor.
        let is_it = Some(entry.fd) == picked
            && index.is_none_or(|index| index == position)
            && entry.revents != 0
            && told.is_none_or(|told| entry.events & told != 0);
        if is_it && reported == 0 {
            entry.revents &= told.unwrap_or(!0) | DEAD;
            reported = 1;
        } else {
            entry.revents = 0;
        }
    }
    reported
}

/// In the place of libc's.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(
    instance: c_int,
    change: c_int,
    fd: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    if ONE_BY_ONE.load(Ordering::Relaxed) && !event.is_null() {
        let data = unsafe { (*event).u64 };
        REPORTS.with_borrow_mut(|reports| reports.fds.insert((instance, data), fd));
    }
    unsafe { libc::syscall(libc::SYS_epoll_ctl, instance, change, fd, event) as c_int }
}

/// In the place of libc's.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    instance: c_int,
    events: *mut libc::epoll_event,
    room: c_int,
    timeout: c_int,
) -> c_int {
    let timeout = limited(timeout);
    note_wait();
    if !ONE_BY_ONE.load(Ordering::Relaxed) {
        return unsafe { wait(instance, events, room, timeout) };
    }
    let mut all = [libc::epoll_event { events: 0, u64: 0 }; 64];
    let count = unsafe { wait(instance, all.as_mut_ptr(), all.len() as c_int, timeout) };
    if count <= 0 {
        return count;
    }
    let ready = &all[..count as usize];
    REPORTS.with_borrow_mut(|reports| {
        let fd_of = |event: &libc::epoll_event| {
            let fd = reports.fds.get(&(instance, event.u64)).copied();
            fd.unwrap_or(-1)
        };
        let fds: Vec<c_int> = ready.iter().map(fd_of).collect();
        let Some(picked) = reports.pick(fds.iter().copied()) else {
            return 0;
        };
        let is_picked = |(_, fd): &(_, &c_int)| **fd == picked;
        let Some((mut event, _)) = ready.iter().copied().zip(&fds).find(is_picked) else {
            return 0;
        };
        if let Some((_, told)) = world().take_turn(picked, event.events as i16) {
            event.events &= (told | DEAD) as u32;
        }
        // SAFETY: the caller has room for one.
        unsafe { events.write(event) };
        1
    })
}

unsafe fn wait(
    instance: c_int,
    events: *mut libc::epoll_event,
    room: c_int,
    timeout: c_int,
) -> c_int {
    let no_mask = ptr::null::<libc::sigset_t>();
    unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait,
            instance,
            events,
            room,
            timeout,
            no_mask,
            8,
        ) as c_int
    }
}
