//! The backend over `poll(2)`.
//!
//! Descriptors are reported in the order of registration, but one that was reported goes to the
//! back, so that all get their turn when more are ready than the loop has room for.
//!
//! Invariants: `fds` and `tokens` run in parallel; `positions[fd]` is the index of a watched
//! descriptor. A removed one leaves a hole (a negative number, which the kernel skips) until the
//! next wait, so that removing many costs no more than one.

use super::{Backend, Readiness, ReadyList, Token};
use crate::flags::FdFlags;
use crate::sys::poll::{self, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, PollFd};
use crate::sys::timeout::Timeout;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

const HOLE: RawFd = -1;

#[derive(Debug)]
pub(crate) struct Poll {
    name: &'static str,
    fds: Vec<PollFd>,
    tokens: Vec<Token>,
    positions: HashMap<RawFd, usize>,
    holes: usize,
}

impl Poll {
    pub(super) fn named(name: &'static str) -> Poll {
        Poll {
            name,
            fds: Vec::new(),
            tokens: Vec::new(),
            positions: HashMap::new(),
            holes: 0,
        }
    }

    fn push(&mut self, fd: PollFd, token: Token) {
        self.positions.insert(fd.fd(), self.fds.len());
        self.fds.push(fd);
        self.tokens.push(token);
    }

    /// Fills the list anew, with at most `room` descriptors.
    pub(super) fn wait_for(
        &mut self,
        timeout: Timeout,
        ready: &mut ReadyList,
        room: u16,
    ) -> io::Result<()> {
        ready.clear();
        self.close_holes();
        let mut answers = poll::poll(&mut self.fds, timeout)?;
        let mut first_unseen = 0;
        for (fd, &token) in self.fds.iter().zip(&self.tokens) {
            if answers == 0 || ready.len() == usize::from(room) {
                break;
            }
            first_unseen += 1;
            if fd.answer() != 0 {
                ready.push(token, readiness(fd.answer()));
                answers -= 1;
            }
        }
        if first_unseen > 0 {
            self.reorder(|index, fd| index < first_unseen && fd.answer() != 0);
        }
        Ok(())
    }

    fn close_holes(&mut self) {
        if self.holes > 0 {
            self.reorder(|_, fd| fd.fd() == HOLE);
            let kept = self.fds.len() - self.holes;
            self.fds.truncate(kept);
            self.tokens.truncate(kept);
            self.holes = 0;
        }
    }

    /// Moves those that `to_the_back` picks behind the others; the order among each stays.
    fn reorder(&mut self, to_the_back: impl Fn(usize, &PollFd) -> bool) {
        let mut back = Vec::new();
        let mut front = 0;
        for index in 0..self.fds.len() {
            let (fd, token) = (self.fds[index], self.tokens[index]);
            if to_the_back(index, &fd) {
                back.push((fd, token));
            } else {
                self.fds[front] = fd;
                self.tokens[front] = token;
                front += 1;
            }
        }
        self.fds.truncate(front);
        self.tokens.truncate(front);
        for (fd, token) in back {
            self.fds.push(fd);
            self.tokens.push(token);
        }
        self.positions.clear();
        for (index, fd) in self.fds.iter().enumerate() {
            if fd.fd() != HOLE {
                self.positions.insert(fd.fd(), index);
            }
        }
    }
}

impl Backend for Poll {
    fn name(&self) -> &str {
        self.name
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        if self.positions.contains_key(&fd) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        // poll() has no registration that could fail, so a number that isn't open is found out
        // here rather than reported as invalid later.
        let mut probe = [PollFd::new(fd, 0)];
        while let Err(error) = poll::poll(&mut probe, Timeout::ZERO) {
            // This isn't the wait that a signal is to interrupt.
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if probe[0].answer() & POLLNVAL != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.push(PollFd::new(fd, events(interest)), token);
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let Some(&index) = self.positions.get(&fd) else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        self.fds[index].set_events(events(interest));
        self.tokens[index] = token;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, _token: Token) -> io::Result<()> {
        let Some(index) = self.positions.remove(&fd) else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        self.fds[index] = PollFd::new(HOLE, 0);
        self.holes += 1;
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        self.wait_for(Timeout::new(timeout), ready, ready.limit())
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Poll::named(self.name);
        Ok(())
    }
}

/// `FdFlags::ERROR` needs no bit: errors and hang-up are always reported.
fn events(interest: FdFlags) -> i16 {
    let mut events = 0;
    if interest.contains(FdFlags::READ) {
        events |= POLLIN;
    }
    if interest.contains(FdFlags::WRITE) {
        events |= POLLOUT;
    }
    events
}

fn readiness(answer: i16) -> Readiness {
    let mut readiness = Readiness::empty();
    readiness.set(Readiness::READABLE, answer & POLLIN != 0);
    readiness.set(Readiness::WRITABLE, answer & POLLOUT != 0);
    readiness.set(Readiness::HANGUP, answer & POLLHUP != 0);
    readiness.set(Readiness::ERROR, answer & POLLERR != 0);
    readiness.set(Readiness::INVALID, answer & POLLNVAL != 0);
    readiness
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_holes_that_removing_leaves_are_gone_after_the_next_wait() {
        let sockets: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
        let number = |index: usize| sockets[index].0.as_raw_fd();
        let token = |index: usize| Token::from_bits(index as u64);
        let mut poll = Poll::named("poll");
        for index in 0..5 {
            poll.add(number(index), token(index), FdFlags::READ)
                .unwrap();
        }
        for index in [0, 2] {
            poll.remove(number(index), token(index)).unwrap();
        }
        assert_eq!((poll.fds.len(), poll.tokens.len(), poll.holes), (5, 5, 2));
        let mut ready = ReadyList::new(10);
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready.len(), 0);
        assert_eq!(poll.tokens, [token(1), token(3), token(4)]);
        assert_eq!((poll.fds.len(), poll.holes), (3, 0));
        let mut positions: Vec<_> = poll.positions.into_iter().collect();
        positions.sort_by_key(|&(_, position)| position);
        assert_eq!(positions, [(number(1), 0), (number(3), 1), (number(4), 2)]);
    }
}
