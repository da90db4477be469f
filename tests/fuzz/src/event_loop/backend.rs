//! A backend over `poll(2)` that checks how it is used, and fails when it is told to.

use super::ensure;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Backend, FdFlags, Readiness, ReadyList, Token};

thread_local! {
    static WATCHED: RefCell<HashSet<RawFd>> = RefCell::default();
}

/// Whether the [`Polling`] backend of this thread would look at a descriptor.
pub(super) fn is_watched(fd: RawFd) -> bool {
    WATCHED.with_borrow(|watched| watched.contains(&fd))
}

/// What fails next, and what the latest wait has reported.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) add: Cell<Option<i32>>,
    pub(super) modify: Cell<Option<i32>>,
    pub(super) wait: Cell<Option<i32>>,
    pub(super) reopen: Cell<Option<i32>>,
    pub(super) falls_back: Cell<u32>,
    pub(super) reported: Cell<usize>,
    /// Some failure was asked for, so events may have been disarmed.
    pub(super) any: Cell<bool>,
}

impl Faults {
    pub(super) fn clear(&self) {
        self.add.set(None);
        self.modify.set(None);
        self.wait.set(None);
        self.reopen.set(None);
    }
}

pub(super) struct Polling {
    faults: Rc<Faults>,
    watches: Vec<(RawFd, Token, FdFlags)>,
}

impl Polling {
    pub(super) fn new(faults: Rc<Faults>) -> Polling {
        WATCHED.with_borrow_mut(HashSet::clear);
        Polling {
            faults,
            watches: Vec::new(),
        }
    }

    fn forget(&mut self) {
        self.watches.clear();
        WATCHED.with_borrow_mut(HashSet::clear);
    }

    fn position(&self, fd: RawFd, token: Token) -> usize {
        let found = self
            .watches
            .iter()
            .position(|watch| (watch.0, watch.1) == (fd, token));
        ensure(
            found.is_some(),
            "the context changes only what it has added",
        );
        found.unwrap_or_default()
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.forget();
    }
}

fn fail(failure: &Cell<Option<i32>>) -> io::Result<()> {
    match failure.take() {
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Ok(()),
    }
}

impl Backend for Polling {
    fn name(&self) -> &str {
        "polling"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        ensure(!interest.is_empty(), "an interest is never empty");
        fail(&self.faults.add)?;
        ensure(
            WATCHED.with_borrow_mut(|watched| watched.insert(fd)),
            "a descriptor is registered at most once",
        );
        self.watches.push((fd, token, interest));
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        ensure(!interest.is_empty(), "an interest is never empty");
        let position = self.position(fd, token);
        ensure(
            self.watches[position].2 != interest,
            "an interest is changed only if it differs",
        );
        fail(&self.faults.modify)?;
        self.watches[position].2 = interest;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        let position = self.position(fd, token);
        self.watches.remove(position);
        WATCHED.with_borrow_mut(|watched| watched.remove(&fd));
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        self.faults.reported.set(0);
        fail(&self.faults.wait)?;
        let mut entries: Vec<libc::pollfd> = self.watches.iter().map(entry).collect();
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout);
        // SAFETY: the entries are as many as said, and the timeout is null or lives on.
        let result = unsafe {
            libc::ppoll(
                entries.as_mut_ptr(),
                entries.len() as libc::nfds_t,
                timeout,
                std::ptr::null(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut served = 0;
        for (position, entry) in entries.iter().enumerate() {
            if entry.revents != 0 && ready.room() > 0 {
                let readiness = Readiness::from_bits_truncate(entry.revents as u8);
                ready.push(self.watches[position].1, readiness);
                self.faults.reported.set(self.faults.reported.get() + 1);
                served = position + 1;
            }
        }
        // So that all get their turn.
        self.watches.rotate_left(served);
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        fail(&self.faults.reopen)?;
        self.forget();
        Ok(())
    }

    fn fall_back(&mut self) -> bool {
        match self.faults.falls_back.get().checked_sub(1) {
            Some(left) => {
                self.faults.falls_back.set(left);
                self.forget();
                true
            }
            None => false,
        }
    }
}

fn entry(&(fd, _, interest): &(RawFd, Token, FdFlags)) -> libc::pollfd {
    let mut events = 0;
    if interest.contains(FdFlags::READ) {
        events |= libc::POLLIN;
    }
    if interest.contains(FdFlags::WRITE) {
        events |= libc::POLLOUT;
    }
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}
