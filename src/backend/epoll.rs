//! The backend over `epoll(7)`: level-triggered, with the token in the kernel's user data.

use super::{Backend, Readiness, ReadyList, Token, WakeupTrigger};
use crate::flags::FdFlags;
use crate::sys::epoll::{self, Change, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT};
use crate::sys::timeout::Timeout;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Epoll {
    instance: epoll::Epoll,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            instance: epoll::Epoll::new()?,
        })
    }

    /// Whether no descriptor can be watched, whichever it is.
    pub(super) fn is_broken(&self) -> bool {
        self.instance.is_broken()
    }

    pub(super) fn waiter(&self) -> epoll::Waiter {
        self.instance.waiter()
    }

    /// Asks for edges, which saves the read that makes the descriptor unreadable again.
    pub(super) fn add_edge(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        let bits = token.to_bits();
        self.instance
            .change(Change::Add, fd, EPOLLIN | EPOLLET, bits)
    }
}

impl Epoll {
    /// Fills the list anew, with at most `room` descriptors.
    #[inline(always)]
    pub(super) fn wait_for(
        &mut self,
        timeout: Timeout,
        ready: &mut ReadyList,
        room: u16,
    ) -> io::Result<()> {
        self.instance.wait(&mut ready.events, room, timeout)
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
        self.wait_for(Timeout::new(timeout), ready, ready.limit())
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

/// What the kernel reports is taken for a [`Readiness`] as it is.
const _: () = {
    assert!(Readiness::READABLE.bits() as i32 == EPOLLIN);
    assert!(Readiness::WRITABLE.bits() as i32 == EPOLLOUT);
    assert!(Readiness::ERROR.bits() as i32 == EPOLLERR);
    assert!(Readiness::HANGUP.bits() as i32 == EPOLLHUP);
};
