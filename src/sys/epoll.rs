//! `epoll(7)`.

use super::{check, is_whole_milliseconds, milliseconds, owned, replace, timespec};
use crate::error::errno;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT};

/// One event as the kernel fills it in.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Event(libc::epoll_event);

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Event({:#x}, {:#x})", self.events(), self.data())
    }
}

impl Event {
    pub(crate) const EMPTY: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    #[inline]
    pub(crate) fn events(&self) -> i32 {
        self.0.events as i32
    }

    #[inline]
    pub(crate) fn data(&self) -> u64 {
        self.0.u64
    }
}

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

    /// Waits, for at most `timeout`, and returns how many of `events` were filled in.
    pub(crate) fn wait(
        &mut self,
        events: &mut [Event],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        let capacity = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        let pointer = events.as_mut_ptr().cast::<libc::epoll_event>();
        // For whole milliseconds the older call does as well, and works everywhere.
        if let Some(limit) =
            timeout.filter(|&limit| self.has_pwait2 && !is_whole_milliseconds(limit))
        {
            let limit = timespec(limit);
            // SAFETY: Event is a transparent epoll_event; `pointer` and `capacity` describe the
            // slice that we borrow exclusively, `limit` lives in this frame, and without a signal
            // set its size is not looked at.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    fd,
                    pointer,
                    capacity,
                    &limit as *const libc::timespec,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            match check("epoll_pwait2", result as libc::c_int) {
                // Some sandboxes answer EPERM to calls that they have never heard of.
                Err(error) if matches!(errno(&error), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.has_pwait2 = false;
                }
                result => return result.map(|count| count as usize),
            }
        }
        // SAFETY: as above.
        let result = unsafe { libc::epoll_wait(fd, pointer, capacity, milliseconds(timeout)) };
        check("epoll_wait", result).map(|count| count as usize)
    }

    #[cfg(test)]
    pub(crate) fn forget_pwait2(&mut self) {
        self.has_pwait2 = false;
    }
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
                let start = Instant::now();
                assert_eq!(epoll.wait(&mut [Event::EMPTY], Some(limit)).unwrap(), 0);
                assert!(
                    start.elapsed() >= limit,
                    "{nanoseconds} ns, pwait2: {pwait2}"
                );
            }
        }
    }
}
