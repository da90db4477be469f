//! Programs on this crate.

use super::library::Library;
use super::program::{Close, When};
use super::world::world;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{
    BackendKind, Context, Fd, FdFlags, Fork, Immediate, Nesting, Signal, SignalFlags, Signum, Timer,
};

pub struct Ours {
    context: RefCell<Option<Rc<Context>>>,
    start: Instant,
    fds: RefCell<Vec<Option<Fd<Source>>>>,
    timers: RefCell<Vec<Option<Timer>>>,
    immediates: RefCell<Vec<Option<Immediate>>>,
    signals: RefCell<Vec<Option<Signal>>>,
}

/// The handles that handlers were called with: detached events have no other.
#[derive(Default)]
struct Running {
    fds: Handles<Fd<Source>>,
    timers: Handles<Timer>,
    immediates: Handles<Immediate>,
    signals: Handles<Signal>,
}

thread_local! {
    static RUNNING: Running = Running::default();
}

struct Handles<T>(RefCell<Vec<(usize, *const T)>>);

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles(RefCell::default())
    }
}

impl<T> Handles<T> {
    /// Does `work`, in which the handle can be looked up.
    fn lend(&self, slot: usize, handle: &T, work: impl FnOnce()) {
        self.0.borrow_mut().push((slot, ptr::from_ref(handle)));
        work();
        self.0.borrow_mut().pop();
    }

    fn with<R>(&self, slot: usize, work: impl FnOnce(&T) -> R) -> Option<R> {
        let handles = self.0.borrow();
        let (_, handle) = *handles.iter().rfind(|(running, _)| *running == slot)?;
        drop(handles);
        // SAFETY: it is lent as long as it is in the list.
        Some(work(unsafe { &*handle }))
    }
}

/// Does something with a handle, wherever it is.
fn with<T, R>(
    table: &RefCell<Vec<Option<T>>>,
    running: fn(&Running) -> &Handles<T>,
    slot: usize,
    work: impl FnOnce(&T) -> R,
) -> Option<R> {
    match &table.borrow()[slot] {
        Some(handle) => Some(work(handle)),
        None => RUNNING.with(|handles| running(handles).with(slot, work)),
    }
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
        let added = self
            .context()
            .add_fd(source, flags, move |_, event, flags| {
                RUNNING.with(|running| {
                    let call = || world().on_fd(slot, flags.bits());
                    running.fds.lend(slot, event, call);
                });
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
        let flags = with(&self.fds, |running| &running.fds, slot, Fd::flags);
        flags.map_or(0, |flags| flags.bits())
    }

    fn set_fd_flags(&self, slot: usize, flags: u8) {
        let flags = FdFlags::from_bits_truncate(flags);
        let set = |event: &Fd<Source>| event.set_flags(flags);
        with(&self.fds, |running| &running.fds, slot, set);
    }

    fn toggle(&self, slot: usize, flag: u8, on: bool) {
        let toggle = |event: &Fd<Source>| match FdFlags::from_bits_truncate(flag) {
            FdFlags::READ => event.set_readable(on),
            FdFlags::WRITE => event.set_writable(on),
            _ => event.set_want_error(on),
        };
        with(&self.fds, |running| &running.fds, slot, toggle);
    }

    fn free_fd(&self, slot: usize) {
        match take(&self.fds, slot) {
            Some(event) => drop(event),
            None => {
                RUNNING.with(|running| running.fds.with(slot, Fd::remove));
            }
        }
    }

    fn take_source(&self, slot: usize) {
        let event = take(&self.fds, slot).expect("it isn't detached");
        let source = event.into_source();
        assert!(source.is_ok(), "its handler isn't running");
    }

    fn detach_fd(&self, slot: usize) {
        take(&self.fds, slot).expect("it wasn't detached").detach();
    }

    fn add_timer(&self, slot: usize, when: When) {
        let timer = self
            .context()
            .add_timer(self.deadline(when), move |_, timer| {
                RUNNING.with(|running| running.timers.lend(slot, timer, || world().on_timer(slot)));
            });
        self.timers.borrow_mut().push(Some(timer));
    }

    fn move_timer(&self, slot: usize, when: When) {
        let move_it = |timer: &Timer| timer.set_deadline(self.deadline(when));
        with(&self.timers, |running| &running.timers, slot, move_it);
    }

    fn free_timer(&self, slot: usize) {
        match take(&self.timers, slot) {
            Some(timer) => drop(timer),
            None => {
                RUNNING.with(|running| running.timers.with(slot, Timer::remove));
            }
        }
    }

    fn detach_timer(&self, slot: usize) {
        take(&self.timers, slot)
            .expect("it wasn't detached")
            .detach();
    }

    fn forget_timer(&self, slot: usize) {
        self.free_timer(slot);
    }

    fn add_immediate(&self, slot: usize) {
        let immediate = self.context().add_immediate(move |_, immediate| {
            let call = || world().on_immediate(slot);
            RUNNING.with(|running| running.immediates.lend(slot, immediate, call));
        });
        self.immediates.borrow_mut().push(Some(immediate));
    }

    fn schedule(&self, slot: usize) {
        let schedule = Immediate::schedule;
        with(
            &self.immediates,
            |running| &running.immediates,
            slot,
            schedule,
        );
    }

    fn reset(&self, slot: usize) {
        let cancel = Immediate::cancel;
        with(
            &self.immediates,
            |running| &running.immediates,
            slot,
            cancel,
        );
    }

    fn free_immediate(&self, slot: usize) {
        match take(&self.immediates, slot) {
            Some(immediate) => drop(immediate),
            None => {
                RUNNING.with(|running| running.immediates.with(slot, Immediate::remove));
            }
        }
    }

    fn detach_immediate(&self, slot: usize) {
        let immediate = take(&self.immediates, slot);
        immediate.expect("it wasn't detached").detach();
    }

    fn add_signal(&self, slot: usize, signum: i32, siginfo: bool, once: bool) {
        let mut flags = SignalFlags::empty();
        flags.set(SignalFlags::SIGINFO, siginfo);
        flags.set(SignalFlags::RESETHAND, once);
        let signum = Signum::new(signum).expect("one that can be handled");
        let added = self
            .context()
            .add_signal(signum, flags, move |_, signal, info| {
                let value = info.siginfo.map(|info| (info.code(), info.value()));
                let told = format!("{}, {}, {value:?}", info.signum.number(), info.count);
                let call = || world().on_signal(slot, &told);
                RUNNING.with(|running| running.signals.lend(slot, signal, call));
            });
        let signal = added.expect("a signal event");
        self.signals.borrow_mut().push(Some(signal));
    }

    fn free_signal(&self, slot: usize) {
        match take(&self.signals, slot) {
            Some(signal) => drop(signal),
            None => {
                RUNNING.with(|running| running.signals.with(slot, Signal::remove));
            }
        }
    }

    fn detach_signal(&self, slot: usize) {
        take(&self.signals, slot)
            .expect("it wasn't detached")
            .detach();
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

    fn stop(&self) {
        self.context().stop();
    }

    fn was_stopped(&self) -> bool {
        false
    }

    fn set_hook(&self, is_set: bool) {
        let hook = |_: &Context, nesting| match nesting {
            Nesting::Begin(level) => world().on_hook(level, true),
            Nesting::End(level) => world().on_hook(level, false),
        };
        match is_set {
            true => self.context().set_nesting_hook(hook),
            false => self.context().clear_nesting_hook(),
        }
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
