//! `poll(2)`, and `ppoll` with its nanoseconds where it exists.

use super::check;
use super::timeout::Timeout;
use std::io;
use std::os::fd::RawFd;

pub(crate) use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT};

/// One descriptor to look at; what the kernel answers is written into it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct PollFd(libc::pollfd);

impl std::fmt::Debug for PollFd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PollFd({}, {:#x})", self.0.fd, self.0.events)
    }
}

impl PollFd {
    pub(crate) fn new(fd: RawFd, events: i16) -> PollFd {
        PollFd(libc::pollfd {
            fd,
            events,
            revents: 0,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.fd
    }

    pub(crate) fn set_events(&mut self, events: i16) {
        self.0.events = events;
    }

    pub(crate) fn answer(&self) -> i16 {
        self.0.revents
    }
}

/// Waits, for at most `timeout`, and returns how many of `fds` have an answer.
pub(crate) fn poll(fds: &mut [PollFd], timeout: Timeout) -> io::Result<usize> {
    let pointer = fds.as_mut_ptr().cast::<libc::pollfd>();
    let count = fds.len() as libc::nfds_t;
    #[cfg(target_os = "linux")]
    {
        let timeout = timeout.timespec();
        let limit = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: PollFd is a transparent pollfd; `pointer` and `count` describe the slice that we
        // borrow exclusively; `limit` is null or points into this frame; without a signal mask
        // the mask stays as it is.
        let result = unsafe { libc::ppoll(pointer, count, limit, std::ptr::null()) };
        check("ppoll", result).map(|count| count as usize)
    }
    #[cfg(not(target_os = "linux"))]
    {
        // SAFETY: as above.
        let result = unsafe { libc::poll(pointer, count, timeout.milliseconds()) };
        check("poll", result).map(|count| count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_shows_its_number_and_what_is_asked_of_it() {
        let mut fd = PollFd::new(3, POLLIN);
        assert_eq!(format!("{fd:?}"), "PollFd(3, 0x1)");
        fd.set_events(POLLIN | POLLOUT);
        assert_eq!(format!("{fd:?}"), "PollFd(3, 0x5)");
    }
}
