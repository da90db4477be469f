//! `epoll(7)`.

use super::ready::Event;
use super::timeout::Timeout;
use super::{check, owned, replace};
use crate::error::errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT};

/// A change to what an instance watches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Add,
    Modify,
    Remove,
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: Arc<OwnedFd>,
    /// Cleared for good when the kernel (before 5.11) or a sandbox doesn't know the call.
    has_pwait2: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            fd: Arc::new(create()?),
            has_pwait2: true,
        })
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// For waiting in this instance while it lives.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter(self.fd.as_raw_fd())
    }

    /// Puts a new, empty instance behind the same descriptor number. The old one lives on in the
    /// processes that share it.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        replace(&self.fd, create()?)
    }

    pub(crate) fn change(
        &self,
        change: Change,
        fd: RawFd,
        events: i32,
        data: u64,
    ) -> io::Result<()> {
        let operation = match change {
            Change::Add => libc::EPOLL_CTL_ADD,
            Change::Modify => libc::EPOLL_CTL_MOD,
            Change::Remove => libc::EPOLL_CTL_DEL,
        };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: data,
        };
        // SAFETY: `event` is a valid epoll_event until the call returns; the kernel checks `fd`.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) };
        check("epoll_ctl", result)?;
        Ok(())
    }

    /// Whether the descriptor is no epoll instance any more: somebody has closed or replaced it.
    pub(crate) fn is_broken(&self) -> bool {
        // Any descriptor will do that can't be in the set: a set answers that it isn't.
        let Ok(stranger) = create() else {
            return false;
        };
        let answer = self.change(Change::Remove, stranger.as_raw_fd(), 0, 0);
        !answer.is_err_and(|error| errno(&error) == Some(libc::ENOENT))
    }

    /// Waits, for at most `timeout`, and puts up to `room` events into `events`, in place of what
    /// is in there. The kernel insists on room for one.
    #[inline(always)]
    pub(crate) fn wait(
        &mut self,
        events: &mut Vec<Event>,
        room: u16,
        timeout: Timeout,
    ) -> io::Result<()> {
        if events.capacity() < usize::from(room) {
            reserve(events, room);
        }
        events.clear();
        let free = &mut events.spare_capacity_mut()[..usize::from(room)];
        // For whole milliseconds the older call does as well, and works everywhere.
        let count = match timeout {
            Timeout::Whole(milliseconds) => self.wait_for_milliseconds(free, room, milliseconds)?,
            Timeout::Precise(_) => self.wait_for_nanoseconds(free, room, timeout)?,
        };
        // SAFETY: the kernel has filled in the first `count` elements.
        unsafe { events.set_len(count as usize) };
        Ok(())
    }

    /// `room` is the length of `free`.
    #[inline(always)]
    fn wait_for_milliseconds(
        &self,
        free: &mut [MaybeUninit<Event>],
        room: u16,
        limit: libc::c_int,
    ) -> io::Result<libc::c_int> {
        debug_assert_eq!(free.len(), usize::from(room));
        let pointer = free.as_mut_ptr().cast();
        // SAFETY: `pointer` and `room` describe memory that we borrow exclusively, and an Event is
        // laid out as an epoll_event.
        let result = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), pointer, room.into(), limit) };
        check("epoll_wait", result)
    }

    #[inline(never)]
    fn wait_for_nanoseconds(
        &mut self,
        free: &mut [MaybeUninit<Event>],
        room: u16,
        timeout: Timeout,
    ) -> io::Result<libc::c_int> {
        if !self.has_pwait2 {
            return self.wait_for_milliseconds(free, room, timeout.milliseconds());
        }
        debug_assert_eq!(free.len(), usize::from(room));
        let limit = timeout.limit().map(KernelTimespec::new);
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: as above; `limit` is null or points into this frame, and without a signal set its
        // size is not looked at.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                free.as_mut_ptr(),
                libc::c_int::from(room),
                limit,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match check("epoll_pwait2", result as libc::c_int) {
            // Some sandboxes answer EPERM to calls that they have never heard of.
            Err(error) if matches!(errno(&error), Some(libc::ENOSYS | libc::EPERM)) => {
                self.has_pwait2 = false;
                self.wait_for_milliseconds(free, room, timeout.milliseconds())
            }
            result => result,
        }
    }

    #[cfg(test)]
    pub(crate) fn forget_pwait2(&mut self) {
        self.has_pwait2 = false;
    }
}

/// A limit as `epoll_pwait2` reads it: of 64 bits on every machine, where the `timespec` of many a
/// C library has 32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

impl KernelTimespec {
    fn new(limit: Duration) -> KernelTimespec {
        KernelTimespec {
            seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: limit.subsec_nanos().into(),
        }
    }
}

/// The number of an instance: for waiting in it, which can do no harm should it be another's
/// meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter(RawFd);

impl Waiter {
    /// Waits, for at most `limit` milliseconds (-1: for ever), and puts as many events into
    /// `events` as fit without growing, in place of what is in there. `None` if there are some;
    /// else the wait's result.
    #[inline(always)]
    pub(crate) fn wait(
        self,
        events: &mut Vec<Event>,
        limit: libc::c_int,
    ) -> Option<io::Result<()>> {
        let room = events.capacity() as libc::c_int;
        let pointer = events.as_mut_ptr().cast();
        // SAFETY: `pointer` and `room` describe memory that we borrow exclusively (if it didn't fit
        // into the type of `room`, that is less than there is, or refused for being negative), and
        // an Event is laid out as an epoll_event.
        let count = unsafe { libc::epoll_wait(self.0, pointer, room, limit) };
        if count <= 0 {
            events.clear();
            return Some(check("epoll_wait", count).map(|_| ()));
        }
        // SAFETY: the kernel has filled in the first `count` elements.
        unsafe { events.set_len(count as usize) };
        None
    }
}

#[cold]
fn reserve(events: &mut Vec<Event>, room: u16) {
    events.clear();
    events.reserve_exact(room.into());
}

fn create() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned("epoll_create1", unsafe {
        libc::epoll_create1(libc::EPOLL_CLOEXEC)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn waits_never_end_early_with_either_call() {
        for pwait2 in [true, false] {
            let mut epoll = Epoll::new().unwrap();
            if !pwait2 {
                epoll.forget_pwait2();
            }
            for nanoseconds in [1, 1_000, 300_000, 1_000_001, 2_500_000] {
                let limit = Duration::from_nanos(nanoseconds);
                let timeout = Timeout::new(Some(limit));
                let mut events = Vec::new();
                let start = Instant::now();
                epoll.wait(&mut events, 1, timeout).unwrap();
                assert!(events.is_empty());
                assert!(
                    start.elapsed() >= limit,
                    "{nanoseconds} ns, pwait2: {pwait2}"
                );
            }
        }
    }
}
