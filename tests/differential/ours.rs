//! Programs on this crate.

use super::library::Library;
use super::program::{Close, When};
use super::world::world;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{
    BackendKind, Context, Fd, FdFlags, Fork, Immediate, Signal, SignalFlags, Signum, Timer,
};

pub struct Ours {
    context: RefCell<Option<Rc<Context>>>,
    start: Instant,
    fds: RefCell<Vec<Option<Fd<Source>>>>,
    timers: RefCell<Vec<Option<Timer>>>,
    immediates: RefCell<Vec<Option<Immediate>>>,
    signals: RefCell<Vec<Option<Signal>>>,
}

impl Ours {
    /// A batch of `None` is the default.
    pub fn open(kind: BackendKind, batch: Option<usize>, nesting: bool) -> Rc<dyn Library> {
        let mut builder = Context::builder()
            .backend(kind)
            .wait_timeout(Some(Duration::ZERO))
            .starvation_budget(None)
            .nesting_allowed(nesting);
        if let Some(batch) = batch {
            builder = builder.batch(batch);
        }
        Rc::new(Ours {
            context: RefCell::new(Some(Rc::new(builder.build().expect("a context")))),
            start: Instant::now(),
            fds: RefCell::default(),
            timers: RefCell::default(),
            immediates: RefCell::default(),
            signals: RefCell::default(),
        })
    }

    fn context(&self) -> Rc<Context> {
        let context = self.context.borrow();
        Rc::clone(context.as_ref().expect("it isn't gone yet"))
    }

    fn deadline(&self, when: When) -> Instant {
        match when {
            When::Zero => self.start - Duration::from_secs(3600),
            When::Due(number) => {
                self.start - Duration::from_secs(60) + Duration::from_millis(number.into())
            }
            When::Never(number) => self.start + Duration::from_secs(3600 + u64::from(number)),
        }
    }
}

/// A descriptor that is someone else's, or is closed by its event.
struct Source {
    fd: RawFd,
    slot: usize,
    close: Close,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: closed after the event has ended, unless that is what a program is about.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.close == Close::Auto {
            unsafe { libc::close(self.fd) };
            world().on_close(self.slot);
        }
    }
}

/// Takes an event out of its table, to be dropped when that isn't borrowed.
fn take<T>(table: &RefCell<Vec<Option<T>>>, slot: usize) -> Option<T> {
    table.borrow_mut()[slot].take()
}

impl Library for Ours {
    fn add_fd(&self, slot: usize, fd: RawFd, flags: u8, close: Close) -> bool {
        let source = Source { fd, slot, close };
        let flags = FdFlags::from_bits_truncate(flags);
        let added = self.context().add_fd(source, flags, move |_, _, flags| {
            world().on_fd(slot, flags.bits());
        });
        let added = added.ok();
        if let (Some(event), Close::Callback) = (&added, close) {
            event.on_close(move |_| world().on_close(slot));
        }
        let is_added = added.is_some();
        self.fds.borrow_mut().push(added);
        is_added
    }

    fn fd_flags(&self, slot: usize) -> u8 {
        let fds = self.fds.borrow();
        fds[slot].as_ref().map_or(0, |event| event.flags().bits())
    }

    fn set_fd_flags(&self, slot: usize, flags: u8) {
        if let Some(event) = &self.fds.borrow()[slot] {
            event.set_flags(FdFlags::from_bits_truncate(flags));
        }
    }

    fn free_fd(&self, slot: usize) {
        drop(take(&self.fds, slot));
    }

    fn add_timer(&self, slot: usize, when: When) {
        let timer = self
            .context()
            .add_timer(self.deadline(when), move |_, _| world().on_timer(slot));
        self.timers.borrow_mut().push(Some(timer));
    }

    fn move_timer(&self, slot: usize, when: When) {
        if let Some(timer) = &self.timers.borrow()[slot] {
            timer.set_deadline(self.deadline(when));
        }
    }

    fn free_timer(&self, slot: usize) {
        drop(take(&self.timers, slot));
    }

    fn forget_timer(&self, slot: usize) {
        self.free_timer(slot);
    }

    fn add_immediate(&self, slot: usize) {
        let immediate = self
            .context()
            .add_immediate(move |_, _| world().on_immediate(slot));
        self.immediates.borrow_mut().push(Some(immediate));
    }

    fn schedule(&self, slot: usize) {
        if let Some(immediate) = &self.immediates.borrow()[slot] {
            immediate.schedule();
        }
    }

    fn reset(&self, slot: usize) {
        if let Some(immediate) = &self.immediates.borrow()[slot] {
            immediate.cancel();
        }
    }

    fn free_immediate(&self, slot: usize) {
        drop(take(&self.immediates, slot));
    }

    fn add_signal(&self, slot: usize, signum: i32, siginfo: bool, once: bool) {
        let mut flags = SignalFlags::empty();
        flags.set(SignalFlags::SIGINFO, siginfo);
        flags.set(SignalFlags::RESETHAND, once);
        let signum = Signum::new(signum).expect("one that can be handled");
        let added = self.context().add_signal(signum, flags, move |_, _, info| {
            let value = info.siginfo.map(|info| (info.code(), info.value()));
            let told = format!("{}, {}, {value:?}", info.signum.number(), info.count);
            world().on_signal(slot, &told);
        });
        let signal = added.expect("a signal event");
        self.signals.borrow_mut().push(Some(signal));
    }

    fn free_signal(&self, slot: usize) {
        drop(take(&self.signals, slot));
    }

    fn forget_signal(&self, slot: usize) {
        self.free_signal(slot);
    }

    fn run_once(&self) -> Result<Option<bool>, String> {
        let result = self.context().run_once();
        result.map(Some).map_err(|error| error.to_string())
    }

    fn run_until(&self, finished: Box<dyn FnMut() -> bool>) -> Result<(), String> {
        let result = self.context().run_until(finished);
        result.map_err(|error| error.to_string())
    }

    fn run(&self) -> Result<(), String> {
        self.context().run().map_err(|error| error.to_string())
    }

    fn reinitialise(&self) -> bool {
        self.context().reinitialise().is_ok()
    }

    fn close(&self) {
        drop(self.context.take());
    }

    fn fork(&self) -> Option<u32> {
        match self.context().fork().expect("a child") {
            Fork::Parent(child) => Some(child),
            Fork::Child => None,
        }
    }
}
