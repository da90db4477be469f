//! The backend over `epoll(7)`: level-triggered, with the token in the kernel's user data.

use super::{Backend, Readiness, Ready, ReadyList, Token, WakeupTrigger};
use crate::flags::FdFlags;
use crate::sys::epoll::{self, Change, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, Event};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Epoll {
    instance: epoll::Epoll,
    /// Where the kernel leaves events; as long as the largest batch asked for so far.
    events: Vec<Event>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            instance: epoll::Epoll::new()?,
            events: Vec::new(),
        })
    }

    /// Whether no descriptor can be watched, whichever it is.
    pub(super) fn is_broken(&self) -> bool {
        self.instance.is_broken()
    }

    /// Asks for edges, which saves the read that makes the descriptor unreadable again.
    pub(super) fn add_edge(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        let bits = token.to_bits();
        self.instance
            .change(Change::Add, fd, EPOLLIN | EPOLLET, bits)
    }
}

impl Backend for Epoll {
    fn name(&self) -> &str {
        "epoll"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let bits = token.to_bits();
        self.instance
            .change(Change::Add, fd, events(interest), bits)
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let bits = token.to_bits();
        self.instance
            .change(Change::Modify, fd, events(interest), bits)
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        self.instance.change(Change::Remove, fd, 0, token.to_bits())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        // The kernel insists on room for one.
        let room = ready.room().max(1);
        if self.events.len() < room {
            self.events.resize(room, Event::EMPTY);
        }
        let count = self.instance.wait(&mut self.events[..room], timeout)?;
        // There is room for them, as no more were asked for.
        ready
            .entries
            .extend(self.events[..count].iter().map(|event| Ready {
                token: Token::from_bits(event.data()),
                readiness: readiness(event.events()),
            }));
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.instance.reopen()
    }

    fn add_wakeup(&mut self, fd: RawFd, token: Token) -> io::Result<WakeupTrigger> {
        self.add_edge(fd, token)?;
        Ok(WakeupTrigger::Edge)
    }

    fn pollable(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(self.instance.fd()))
    }
}

/// `FdFlags::ERROR` needs no bit: errors and hang-up are always reported.
fn events(interest: FdFlags) -> i32 {
    let mut events = 0;
    if interest.contains(FdFlags::READ) {
        events |= EPOLLIN;
    }
    if interest.contains(FdFlags::WRITE) {
        events |= EPOLLOUT;
    }
    events
}

const _: () = {
    assert!(Readiness::READABLE.bits() as i32 == EPOLLIN);
    assert!(Readiness::WRITABLE.bits() as i32 == EPOLLOUT);
    assert!(Readiness::ERROR.bits() as i32 == EPOLLERR);
    assert!(Readiness::HANGUP.bits() as i32 == EPOLLHUP);
};

/// The bits are the same; others are never set, as nobody asks for them.
#[inline]
fn readiness(events: i32) -> Readiness {
    Readiness::from_bits_truncate(events as u8)
}
