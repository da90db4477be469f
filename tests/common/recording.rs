//! A backend of our own, over `poll(2)`, that writes down how it is used and fails when it is told
//! to.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Backend, Builder, Context, FdFlags, Readiness, ReadyList, Token};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Add(RawFd, FdFlags),
    Modify(RawFd, FdFlags),
    Remove(RawFd),
    Wait(Option<Duration>),
    Reopen,
}

/// What the test sees of the backend.
#[derive(Default)]
pub struct Recorder {
    calls: RefCell<Vec<Call>>,
    /// The number that the next call of each fails with.
    pub fail_add: Cell<Option<i32>>,
    pub fail_modify: Cell<Option<i32>>,
    pub fail_remove: Cell<Option<i32>>,
    pub fail_wait: Cell<Option<i32>>,
    pub fail_reopen: Cell<Option<i32>>,
    /// What happens in the next call of each.
    pub in_modify: Cell<Option<Box<dyn FnOnce()>>>,
    pub in_wait: Cell<Option<Box<dyn FnOnce()>>>,
}

impl Recorder {
    /// What was called since the last time this was.
    pub fn take(&self) -> Vec<Call> {
        self.calls.take()
    }

    /// The same without the waits.
    pub fn take_changes(&self) -> Vec<Call> {
        let mut calls = self.take();
        calls.retain(|call| !matches!(call, Call::Wait(_)));
        calls
    }

    pub fn waits(&self) -> usize {
        let calls = self.calls.borrow();
        calls
            .iter()
            .filter(|call| matches!(call, Call::Wait(_)))
            .count()
    }

    fn record(&self, call: Call, failure: &Cell<Option<i32>>) -> io::Result<()> {
        self.calls.borrow_mut().push(call);
        match failure.take() {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Ok(()),
        }
    }
}

pub struct Recording {
    recorder: Rc<Recorder>,
    watches: Vec<(RawFd, Token, FdFlags)>,
}

impl Recording {
    fn position(&self, fd: RawFd, token: Token) -> usize {
        let found = self
            .watches
            .iter()
            .position(|watch| (watch.0, watch.1) == (fd, token));
        found.expect("the context changes only what it has added")
    }
}

/// A builder with the recording backend.
pub fn recording() -> (Builder, Rc<Recorder>) {
    let (builder, recorder) = recording_by_default();
    (builder.wait_timeout(Some(super::GUARD)), recorder)
}

/// The same, of which the wait timeout isn't set.
pub fn recording_by_default() -> (Builder, Rc<Recorder>) {
    let recorder = Rc::new(Recorder::default());
    let backend = Recording {
        recorder: Rc::clone(&recorder),
        watches: Vec::new(),
    };
    let builder = Context::builder().custom_backend(Box::new(backend));
    (builder, recorder)
}

/// A context with the recording backend, the registration of its wake-up descriptor left out.
pub fn recorded() -> (Context, Rc<Recorder>) {
    let (builder, recorder) = recording();
    let context = builder.build().expect("a context can be made");
    recorder.take();
    (context, recorder)
}

impl Backend for Recording {
    fn name(&self) -> &str {
        "recording"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let recorder = &self.recorder;
        recorder.record(Call::Add(fd, interest), &recorder.fail_add)?;
        assert!(!interest.is_empty(), "an interest is never empty");
        assert!(
            self.watches.iter().all(|watch| watch.0 != fd),
            "the context registers every descriptor at most once"
        );
        self.watches.push((fd, token, interest));
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let recorder = &self.recorder;
        if let Some(happen) = recorder.in_modify.take() {
            happen();
        }
        recorder.record(Call::Modify(fd, interest), &recorder.fail_modify)?;
        assert!(!interest.is_empty(), "an interest is never empty");
        let position = self.position(fd, token);
        self.watches[position].2 = interest;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        let recorder = &self.recorder;
        recorder.record(Call::Remove(fd), &recorder.fail_remove)?;
        let position = self.position(fd, token);
        self.watches.remove(position);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        let recorder = &self.recorder;
        if let Some(happen) = recorder.in_wait.take() {
            happen();
        }
        recorder.record(Call::Wait(timeout), &recorder.fail_wait)?;
        let mut fds: Vec<libc::pollfd> = Vec::new();
        for &(fd, _, interest) in &self.watches {
            let mut events = 0;
            if interest.contains(FdFlags::READ) {
                events |= libc::POLLIN;
            }
            if interest.contains(FdFlags::WRITE) {
                events |= libc::POLLOUT;
            }
            fds.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        }
        let limit = timeout.map_or(-1, |limit| limit.as_nanos().div_ceil(1_000_000) as i32);
        // SAFETY: the pointer and the length are those of a vector that we own.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit) };
        if count == -1 {
            return Err(io::Error::last_os_error());
        }
        let mut served = Vec::new();
        for (fd, watch) in fds.iter().zip(mem::take(&mut self.watches)) {
            if fd.revents == 0 || ready.room() == 0 {
                self.watches.push(watch);
                continue;
            }
            let mut readiness = Readiness::empty();
            readiness.set(Readiness::READABLE, fd.revents & libc::POLLIN != 0);
            readiness.set(Readiness::WRITABLE, fd.revents & libc::POLLOUT != 0);
            readiness.set(Readiness::HANGUP, fd.revents & libc::POLLHUP != 0);
            readiness.set(Readiness::ERROR, fd.revents & libc::POLLERR != 0);
            readiness.set(Readiness::INVALID, fd.revents & libc::POLLNVAL != 0);
            ready.push(watch.1, readiness);
            served.push(watch);
        }
        self.watches.append(&mut served);
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let recorder = &self.recorder;
        recorder.record(Call::Reopen, &recorder.fail_reopen)?;
        self.watches.clear();
        Ok(())
    }
}
