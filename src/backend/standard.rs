//! The default backend: epoll, with poll for what epoll can't do.
//!
//! - What epoll refuses with `EPERM` (regular files, directories) is always ready, as `poll(2)`
//!   says of it. Such descriptors are kept in a list of their own and share the room of a wait
//!   with epoll's.
//! - When epoll itself fails (there is none, its descriptor was closed by somebody, the kernel
//!   has no memory for it, or no room for the wake-up descriptor), [`Backend::fall_back`] moves
//!   everything to poll, for good.

use super::epoll::Epoll;
use super::poll::Poll;
use super::{Backend, Readiness, ReadyList, Token, WakeupTrigger};
use crate::error::errno;
use crate::flags::FdFlags;
use crate::sys::epoll::Waiter;
use crate::sys::timeout::Timeout;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
enum Mechanism {
    Epoll(Epoll),
    Poll(Poll),
}

impl Mechanism {
    fn wait_for(&mut self, timeout: Timeout, ready: &mut ReadyList, room: u16) -> io::Result<()> {
        match self {
            Mechanism::Epoll(epoll) => epoll.wait_for(timeout, ready, room),
            Mechanism::Poll(poll) => poll.wait_for(timeout, ready, room),
        }
    }
}

#[derive(Debug)]
struct AlwaysReady {
    fd: RawFd,
    token: Token,
    interest: FdFlags,
}

#[derive(Debug)]
pub(crate) struct Standard {
    mechanism: Mechanism,
    /// Kept while poll is in charge: its number may be lent out.
    pollable: Option<Arc<OwnedFd>>,
    /// In the order in which they are served next.
    always_ready: Vec<AlwaysReady>,
    /// Whether the always ready ones go before epoll's in the next wait.
    always_ready_first: bool,
}

impl Standard {
    pub(super) fn new() -> Standard {
        let mechanism = match Epoll::new() {
            Ok(epoll) => Mechanism::Epoll(epoll),
            Err(_) => Mechanism::Poll(poll()),
        };
        let pollable = match &mechanism {
            Mechanism::Epoll(epoll) => epoll.pollable(),
            Mechanism::Poll(_) => None,
        };
        Standard {
            mechanism,
            pollable,
            always_ready: Vec::new(),
            always_ready_first: false,
        }
    }

    /// How to wait, if there is nothing to look at but epoll.
    pub(super) fn waiter(&self) -> Option<Waiter> {
        match &self.mechanism {
            Mechanism::Epoll(epoll) if self.always_ready.is_empty() => Some(epoll.waiter()),
            _ => None,
        }
    }

    fn backend(&mut self) -> &mut dyn Backend {
        match &mut self.mechanism {
            Mechanism::Epoll(epoll) => epoll,
            Mechanism::Poll(poll) => poll,
        }
    }

    /// Tells a broken epoll from a descriptor that it refuses: it answers both with `EBADF` or
    /// `EINVAL`, which say to the context that another mechanism wouldn't help.
    fn blame_epoll(&self, result: io::Result<()>) -> io::Result<()> {
        match (&self.mechanism, result) {
            (Mechanism::Epoll(epoll), Err(error))
                if matches!(errno(&error), Some(libc::EBADF | libc::EINVAL))
                    && epoll.is_broken() =>
            {
                Err(io::Error::other(
                    "the epoll instance was closed or replaced",
                ))
            }
            (_, result) => result,
        }
    }

    #[inline(always)]
    pub(super) fn wait_for(&mut self, timeout: Timeout, ready: &mut ReadyList) -> io::Result<()> {
        match &mut self.mechanism {
            Mechanism::Epoll(epoll) if self.always_ready.is_empty() => {
                epoll.wait_for(timeout, ready, ready.limit())
            }
            _ => self.wait_for_mixed(timeout, ready),
        }
    }

    /// Waits for always ready descriptors too, or by poll.
    #[inline(never)]
    fn wait_for_mixed(&mut self, timeout: Timeout, ready: &mut ReadyList) -> io::Result<()> {
        let limit = ready.limit();
        if self.always_ready.iter().all(|entry| {
            // One that wants to hear of errors only has nothing to hear.
            !entry.interest.intersects(FdFlags::READ | FdFlags::WRITE)
        }) {
            return self.mechanism.wait_for(timeout, ready, limit);
        }
        // They share the room by taking turns at being first.
        let first = self.always_ready_first;
        self.always_ready_first = !first;
        if !first {
            self.mechanism.wait_for(Timeout::ZERO, ready, limit)?;
            self.serve_always_ready(ready);
            return Ok(());
        }
        let served = u16::try_from(self.always_ready.len()).map_or(limit, |count| count.min(limit));
        if served < limit {
            self.mechanism
                .wait_for(Timeout::ZERO, ready, limit - served)?;
        } else {
            ready.clear();
        }
        self.serve_always_ready(ready);
        ready.move_to_front(served.into());
        Ok(())
    }

    fn serve_always_ready(&mut self, ready: &mut ReadyList) {
        let served = self.always_ready.len().min(ready.room());
        for entry in &self.always_ready[..served] {
            let mut readiness = Readiness::empty();
            readiness.set(Readiness::READABLE, entry.interest.contains(FdFlags::READ));
            readiness.set(Readiness::WRITABLE, entry.interest.contains(FdFlags::WRITE));
            ready.push(entry.token, readiness);
        }
        self.always_ready.rotate_left(served);
    }

    fn position(&self, fd: RawFd) -> Option<usize> {
        self.always_ready.iter().position(|entry| entry.fd == fd)
    }
}

fn poll() -> Poll {
    Poll::named("standard")
}

/// Whether an error says nothing about the next attempt. (The last two are `dup3`'s.)
fn is_temporary(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EBUSY)
    )
}

impl Backend for Standard {
    fn name(&self) -> &str {
        "standard"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        match self.backend().add(fd, token, interest) {
            Err(error) if errno(&error) == Some(libc::EPERM) => {
                self.always_ready.push(AlwaysReady {
                    fd,
                    token,
                    interest,
                });
                Ok(())
            }
            result => self.blame_epoll(result),
        }
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        match self.position(fd) {
            Some(position) => {
                self.always_ready[position].interest = interest;
                Ok(())
            }
            None => {
                let result = self.backend().modify(fd, token, interest);
                self.blame_epoll(result)
            }
        }
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        match self.position(fd) {
            Some(position) => {
                self.always_ready.remove(position);
                Ok(())
            }
            None => {
                let result = self.backend().remove(fd, token);
                self.blame_epoll(result)
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        self.wait_for(Timeout::new(timeout), ready)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.always_ready.clear();
        if let Mechanism::Epoll(epoll) = &mut self.mechanism {
            match epoll.reopen() {
                // The next attempt may succeed; and what was lent out by `pollable` would be the
                // parent's for ever.
                Err(error) if is_temporary(&error) => return Err(error),
                Err(_) => self.mechanism = Mechanism::Poll(poll()),
                Ok(()) => return Ok(()),
            }
        }
        self.backend().reopen()
    }

    fn add_wakeup(&mut self, fd: RawFd, token: Token) -> io::Result<WakeupTrigger> {
        self.backend().add_wakeup(fd, token)
    }

    fn fall_back(&mut self) -> bool {
        match &mut self.mechanism {
            Mechanism::Epoll(epoll) => {
                // Whoever was lent the descriptor would be told for ever of what is registered,
                // as nobody takes it any more. A number that somebody else has taken is theirs.
                if !epoll.is_broken() {
                    let _ = epoll.reopen();
                }
                self.mechanism = Mechanism::Poll(poll());
                self.always_ready.clear();
                true
            }
            Mechanism::Poll(_) => false,
        }
    }

    fn pollable(&self) -> Option<Arc<OwnedFd>> {
        self.pollable.clone()
    }
}
