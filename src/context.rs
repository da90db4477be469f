//! [`Context`]: what a loop knows, from its making to its end.
//!
//! # Implementation
//!
//! A context's tables live in [`Inner`], which handles share. Each table has a cell of its own.
//! The rule that makes any operation legal in any handler: **no cell is borrowed while code of the
//! user runs or is dropped**, that is handlers, sources, destructors of what closures own. A
//! handler that is called is taken out of its table and put back afterwards if its event is
//! still there (a descriptor event's is called by a reference of its own, see `fd.rs`); whatever is
//! removed is dropped when the borrow has ended.
//!
//! Handlers keep `Inner` alive (their events' handles are in there), so the last [`Context`] to go
//! empties the tables; that breaks the cycle. What is left for handles that outlive it is tables
//! in which they find nothing.

use crate::backend::{AnyBackend, Backend, ReadyList, Token, mux};
use crate::builder::{Builder, Options};
use crate::callback::Callback;
use crate::clock::{self, Clock};
use crate::fds::{FdHandler, Fds, Removed};
use crate::flags::FdFlags;
use crate::immediate::Immediates;
use crate::immediate_queue::ImmediateQueue;
use crate::key::Key;
use crate::remote::Inbox;
use crate::run::NestingHook;
use crate::signal::SignalTable;
use crate::stats::Counters;
use crate::sys::doorbell::{Doorbell, FORK, REMOTE, SIGNAL};
use crate::sys::timeout::Timeout;
use crate::sys::wakeup::Wakeup;
use crate::timer::Timers;
use crate::timer_queue::TimerQueue;
use crate::trace::{EventKind, Severity, TracedEvent};
use crate::watch::Watch;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An event loop: descriptors, timers, signals and immediates, each with a closure.
///
/// A context belongs to the thread that made it. Everything is done through `&Context`; handlers
/// are given one, so that none has to capture it. Dropping the context removes all events; handles
/// that outlive it do nothing.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use tevent::{Context, FdFlags};
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// let (mut ours, theirs) = UnixStream::pair()?;
/// ours.write_all(b"hello")?;
///
/// // The context owns the source. The handle removes the event when it is dropped.
/// let _event = context.add_fd(theirs, FdFlags::READ, |context, event, _flags| {
///     let mut buffer = [0; 5];
///     let count = event.get_ref().read(&mut buffer).expect("it was readable");
///     assert_eq!(&buffer[..count], b"hello");
///     context.stop();
/// })?;
/// context.run()
/// # }
/// ```
///
/// # The order
///
/// Signals go before immediates, those before timers, and those before descriptors. The loop looks
/// at all four anew before every handler it calls.
#[doc(alias = "tevent_context")]
pub struct Context {
    pub(crate) inner: Rc<Inner>,
    /// What [`AsFd`] lends; in here, so that it is closed with the context and not with the last
    /// handle.
    pollable: Option<Arc<OwnedFd>>,
    wakeup: Rc<Wakeup>,
}

pub(crate) struct Inner {
    pub(crate) doorbell: &'static Doorbell,
    backend_name: String,
    /// `None` when the context is gone.
    wakeup: RefCell<Option<Rc<Wakeup>>>,
    /// Not while adding the wake-up descriptor to the backend has failed.
    has_wakeup: Cell<bool>,
    pub(crate) inbox: Inbox,
    pub(crate) fds: RefCell<Fds>,
    /// Descriptor events that have ended while their handlers were running.
    ended: RefCell<Vec<Rc<dyn FdHandler>>>,
    pub(crate) timers: RefCell<Timers>,
    /// To be had by [`Inner::immediates`].
    pub(crate) immediates: RefCell<Immediates>,
    pub(crate) signals: RefCell<SignalTable>,
    pub(crate) options: Options,
    pub(crate) state: RunState,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) watch: Watch,
    /// How many [`Context`] values there are: one, and those that [`WeakContext`] makes.
    owners: Cell<usize>,
}

/// Where the loop is.
pub(crate) struct RunState {
    /// How many loops run inside each other.
    pub(crate) level: Cell<u32>,
    /// How often it was re-initialised. A loop of before counts no more.
    pub(crate) starts: Cell<u32>,
    /// The innermost `run` is to return.
    pub(crate) stop: Cell<bool>,
    /// There may be more to look at than the doorbell and the descriptors: an immediate, an armed
    /// timer, a request to stop, somebody who watches, an ended event. Whoever adds one of these
    /// sets this; a turn that finds none, or only timers that are later, clears it.
    busy: Cell<Busy>,
    /// If the loop is busy later, when.
    pub(crate) quiet_until: Cell<Instant>,
    /// And for how long a wait that begins before that may last.
    pub(crate) quiet_limit: Cell<Duration>,
    pub(crate) nesting_hook: Callback<NestingHook>,
    /// The descriptor event whose handler the innermost loop is calling.
    pub(crate) running_fd: Cell<Option<Key>>,
    /// The timer's handler on the stack, innermost.
    pub(crate) running_timer: Cell<Option<Key>>,
    /// The immediate that is running and was the only one, while nobody has done anything with the
    /// queue since.
    pub(crate) sole_immediate: Cell<Option<Key>>,
    /// It has scheduled itself, which the queue isn't told before somebody wants to use it.
    pub(crate) sole_is_scheduled: Cell<bool>,
    pub(crate) streak: Cell<Streak>,
    /// What the clock said when it was last read for timers.
    pub(crate) latest_time: Cell<Instant>,
}

/// Whether a turn has to look at everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Busy {
    No,
    /// Not before there is something for timers to do.
    Later,
    Yes,
}

/// Immediates and timers that were called since the loop last looked at descriptors.
#[derive(Clone, Copy, Default)]
pub(crate) struct Streak {
    pub(crate) length: u32,
    /// It is too long: timers had their turn, descriptors are next.
    pub(crate) timers_had_their_turn: bool,
}

impl RunState {
    fn new(now: Instant) -> RunState {
        RunState {
            level: Cell::default(),
            stop: Cell::default(),
            busy: Cell::new(Busy::Yes),
            quiet_until: Cell::new(now),
            quiet_limit: Cell::default(),
            nesting_hook: Callback::default(),
            running_fd: Cell::default(),
            running_timer: Cell::default(),
            sole_immediate: Cell::default(),
            sole_is_scheduled: Cell::default(),
            streak: Cell::default(),
            latest_time: Cell::new(now),
            starts: Cell::default(),
        }
    }

    /// Says that the next turn is to look at everything.
    #[inline]
    pub(crate) fn set_busy(&self) {
        self.busy.set(Busy::Yes);
    }

    #[inline]
    pub(crate) fn busy(&self) -> Busy {
        self.busy.get()
    }

    pub(crate) fn clear_busy(&self) {
        self.busy.set(Busy::No);
    }

    /// Says that there is nothing to look at but timers, and at those from this time on. A wait
    /// that begins before and doesn't last longer than `limit` ends before the first is due.
    pub(crate) fn set_quiet_until(&self, time: Instant, limit: Duration) {
        self.quiet_until.set(time);
        self.quiet_limit.set(limit);
        self.busy.set(Busy::Later);
    }
}

impl Context {
    /// Makes a context with the standard backend and default options.
    ///
    /// # Errors
    ///
    /// The process or the system has no descriptors or no memory left. A kernel that has no room
    /// for another watch (`fs.epoll.max_user_watches`) is no error: then the context works by poll.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_context_init")]
    pub fn new() -> io::Result<Context> {
        Context::builder().build()
    }

    /// Starts to configure a context.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{BackendKind, Context};
    ///
    /// let context = Context::builder().backend(BackendKind::Poll).batch(1).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_context_init_byname")]
    #[doc(alias = "tevent_context_init_ops")]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The name of the backend in use.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// assert_eq!(tevent::Context::new()?.backend_name(), "standard");
    /// # Ok(())
    /// # }
    /// ```
    pub fn backend_name(&self) -> &str {
        &self.inner.backend_name
    }

    /// The time on the clock of the timers: the system's monotonic clock, read now, or the
    /// [virtual](Builder::virtual_time) one.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let before = context.now();
    /// assert!(context.now() >= before);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_timeval_current")]
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// For how long a turn of the loop waits at most when no timer is due before. `None`: as long
    /// as it takes; zero: the loop never blocks.
    ///
    /// The default is 30 seconds, as in tevent, after which [`run_once`](Context::run_once) returns
    /// and [`run_until`](Context::run_until) asks again; [`run`](Context::run) does neither, and
    /// isn't woken for nothing unless a timeout is set here.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// context.set_wait_timeout(Some(Duration::ZERO));
    /// assert!(!context.run_once()?, "nothing to do, and it didn't wait for it");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_context_set_wait_timeout")]
    pub fn set_wait_timeout(&self, timeout: Option<Duration>) {
        let timeout = Timeout::new(timeout);
        self.inner.options.wait_timeout.set(Some(timeout));
        self.inner.fds.borrow_mut().mux.settle(None);
    }

    /// What [`set_wait_timeout`](Context::set_wait_timeout) or the builder has set.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// assert_eq!(context.wait_timeout(), Some(Duration::from_secs(30)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_timeout(&self) -> Option<Duration> {
        self.inner.options.wait_timeout(false).limit()
    }

    /// A reference that doesn't keep the context alive, for the rare closure that must reach it
    /// other than by its parameter.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// weak.upgrade().expect("it is there").defer(|_| ());
    /// drop(context);
    /// assert!(weak.upgrade().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn downgrade(&self) -> WeakContext {
        WeakContext {
            inner: Rc::downgrade(&self.inner),
        }
    }

    pub(crate) fn open(backend: AnyBackend, options: Options, clock: Clock) -> io::Result<Context> {
        crate::sys::fork::watch()?;
        let wakeup = Rc::new(Wakeup::new()?);
        let doorbell = Doorbell::claim(wakeup.write_number());
        let inner = Rc::new(Inner {
            doorbell,
            backend_name: backend.name().to_owned(),
            wakeup: RefCell::new(Some(Rc::clone(&wakeup))),
            has_wakeup: Cell::new(false),
            inbox: Inbox::new(doorbell),
            fds: RefCell::new(Fds::new(backend, options.batch)),
            ended: RefCell::new(Vec::new()),
            timers: RefCell::new(TimerQueue::new()),
            immediates: RefCell::new(ImmediateQueue::new()),
            signals: RefCell::new(SignalTable::new()),
            options,
            state: RunState::new(clock.now()),
            clock,
            counters: Counters::default(),
            watch: Watch::default(),
            owners: Cell::new(1),
        });
        let pollable = inner.fds.borrow().backend.pollable();
        // From here on dropping `context` gives the doorbell back.
        let context = Context {
            inner,
            pollable,
            wakeup,
        };
        context.inner.add_wakeup()?;
        Ok(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let owners = self.inner.owners.get() - 1;
        self.inner.owners.set(owners);
        if owners == 0 {
            self.pollable = None;
            self.inner.close();
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Context");
        debug.field("backend", &self.inner.backend_name);
        debug.field("level", &self.inner.state.level.get());
        if let Ok(fds) = self.inner.fds.try_borrow() {
            debug.field("enabled_fds", &fds.mux.enabled());
        }
        if let Ok(timers) = self.inner.timers.try_borrow() {
            debug.field("armed_timers", &timers.armed());
        }
        if let Ok(immediates) = self.inner.immediates.try_borrow() {
            debug.field("has_immediates", &immediates.has_runnable());
        }
        debug.finish_non_exhaustive()
    }
}

/// The descriptor by which another loop can wait for this one: it is readable while a turn of this
/// loop would find a ready descriptor, a signal, or something scheduled from another thread.
///
/// Timers and immediates are not behind it: the other loop must also make a turn at
/// [`next_deadline`](Context::next_deadline). Its number stays the same for the context's life,
/// and after a `fork`. But an outer epoll loop forgets it when the context opens itself anew, in a
/// forked child or by [`reinitialise`](Context::reinitialise): add it again then.
///
/// The poll backend has no such descriptor. There, only signals and other threads' work make what
/// is lent here readable, so a context that is to be embedded wants
/// [`BackendKind::Standard`](crate::BackendKind::Standard) (and should that have to fall back to
/// poll, the loop it is embedded in must make turns by the clock).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::os::fd::AsFd;
///
/// let context = tevent::Context::new()?;
/// let descriptor = context.as_fd();
/// # let _ = descriptor;
/// # Ok(())
/// # }
/// ```
impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // In a forked child the number must not lead to the parent's set. Should that fail, the
        // next turn reports it.
        let _ = self.inner.recover_from_fork();
        match &self.pollable {
            Some(pollable) => pollable.as_fd(),
            None => self.wakeup.fd().as_fd(),
        }
    }
}

impl AsRawFd for Context {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Inner {
    /// Whether what the kernel knows is this process's; a forked child has to
    /// [recover](Inner::recover_from_fork) first.
    #[inline]
    pub(crate) fn is_in_its_process(&self) -> bool {
        self.doorbell.attention() & FORK == 0
    }

    /// In a child that has forked: starts anew with kernel objects of its own, and marks all
    /// descriptor events to be registered with them.
    pub(crate) fn recover_from_fork(&self) -> io::Result<()> {
        if self.is_in_its_process() {
            return Ok(());
        }
        self.reopen()?;
        // They were the parent's to serve.
        self.fds.borrow_mut().discard_ready();
        self.signals.borrow_mut().enter_child(self.doorbell);
        self.doorbell.attend(FORK);
        self.inbox.ring_if_not_empty();
        self.leave_if_idle();
        self.trace_message(Severity::Trace, || {
            "forked: the child has kernel objects of its own".to_owned()
        });
        Ok(())
    }

    /// Lets the new descriptor be rung unless a loop is running, which looks by itself.
    fn leave_if_idle(&self) {
        if self.state.level.get() == 0 {
            self.doorbell.leave();
        }
    }

    fn reopen(&self) -> io::Result<()> {
        {
            let mut fds = self.fds.borrow_mut();
            fds.backend.reopen()?;
            // Now, as what comes next may fail.
            fds.mux.forget_registrations();
        }
        if let Some(wakeup) = &*self.wakeup.borrow() {
            wakeup.reopen()?;
        }
        self.add_wakeup()
    }

    /// Registers the wake-up descriptor with a backend that doesn't know it. No loop does without,
    /// so a backend that refuses it is to fall back to another mechanism.
    pub(crate) fn add_wakeup(&self) -> io::Result<()> {
        let Some(wakeup) = self.wakeup.borrow().clone() else {
            return Ok(());
        };
        self.has_wakeup.set(false);
        let added = self.fds.borrow_mut().add_wakeup(&wakeup);
        if let Err(error) = added {
            {
                let fds = &mut *self.fds.borrow_mut();
                if mux::concerns_one_descriptor(&error) || !fds.backend.fall_back() {
                    return Err(error);
                }
                fds.mux.forget_registrations();
            }
            self.trace_fall_back("adding the wake-up descriptor", &error);
            self.fds.borrow_mut().add_wakeup(&wakeup)?;
        }
        self.has_wakeup.set(true);
        Ok(())
    }

    /// Whether something other than descriptors can end a wait.
    #[inline]
    pub(crate) fn has_wakeup(&self) -> bool {
        self.has_wakeup.get()
    }

    /// Removes every event, and starts anew with kernel objects of its own.
    pub(crate) fn reinitialise(&self) -> io::Result<()> {
        let is_ours = self.is_in_its_process();
        let reopened = self.reopen();
        match reopened {
            Ok(()) => self.doorbell.attend(FORK),
            Err(_) => {
                if is_ours {
                    self.unwatch_all();
                }
                // Tried again with the next use, like after a fork.
                self.doorbell.ring(FORK);
            }
        }
        // First, so that whatever comes after the tables are wiped rings again.
        self.doorbell.attend(SIGNAL | REMOTE);
        let traced = self.traced_events();
        let contents = self.take_contents();
        self.state.level.set(0);
        self.state
            .starts
            .set(self.state.starts.get().wrapping_add(1));
        self.state.stop.set(false);
        self.state.running_fd.set(None);
        self.state.running_timer.set(None);
        self.state.streak.set(Streak::default());
        self.leave_if_idle();
        self.trace_removed(traced);
        drop(contents);
        reopened
    }

    /// Takes every event out of the tables and leaks it. Returns the descriptors that there were
    /// events on.
    pub(crate) fn leak_events(&self) -> Vec<RawFd> {
        if self.is_in_its_process() {
            self.unwatch_all();
        }
        let traced = self.traced_events();
        let fds = {
            let mut fds = self.fds.borrow_mut();
            fds.discard_ready();
            fds.mux.leak_all()
        };
        self.timers.borrow_mut().leak_all();
        // Of all else there is little.
        mem::forget(self.take_contents());
        self.trace_removed(traced);
        fds
    }

    /// The last context is going.
    fn close(&self) {
        let closed = AnyBackend::Custom(Box::new(Closed));
        let backend = mem::replace(&mut self.fds.borrow_mut().backend, closed);
        // Closing an instance that a parent shares leaves the parent's alone, and closing one's
        // own forgets what is in it. So sources are out of the set before they are closed.
        drop(backend);
        let traced = self.traced_events();
        let contents = self.take_contents();
        let scheduled = self.inbox.close();
        self.doorbell.release();
        self.fds.borrow_mut().forget_wakeup();
        *self.wakeup.borrow_mut() = None;
        self.trace_removed(traced);
        let watchers = self.watch.take();
        drop((contents, scheduled, watchers));
    }

    /// Ends a descriptor event, if it is there still.
    #[inline(never)]
    pub(crate) fn remove_fd_event(&self, key: Key) {
        let removed = {
            let fds = &mut *self.fds.borrow_mut();
            let backend: Option<&mut dyn Backend> = match self.is_in_its_process() {
                true => Some(&mut *fds.backend),
                false => None,
            };
            fds.mux.remove(backend, key)
        };
        let Some(handler) = removed else { return };
        let removed = Removed::new(handler);
        if self.watch.is_traced() {
            self.trace_removed(removed.meta().map(|meta| meta.traced(EventKind::Fd, key)));
        }
        drop(removed);
    }

    /// Keeps an event that has ended until its handler, which is running, has returned.
    pub(crate) fn end_after_return(&self, handler: Rc<dyn FdHandler>) {
        self.ended.borrow_mut().push(handler);
        self.state.set_busy();
    }

    /// Lets go of the events whose handlers have returned. Those still on the stack stay.
    #[inline]
    pub(crate) fn drop_ended(&self) {
        #[cold]
        fn end(ended: Vec<Rc<dyn FdHandler>>) {
            drop(ended.into_iter().map(Removed::new).collect::<Vec<_>>());
        }
        if !self.ended.borrow().is_empty() {
            end(self.ended.take());
        }
    }

    /// What a tracer, if there is one, is told of everything that is there.
    fn traced_events(&self) -> Vec<TracedEvent> {
        if !self.watch.is_traced() {
            return Vec::new();
        }
        let mut traced: Vec<TracedEvent> = {
            let fds = self.fds.borrow();
            let events = fds.mux.events();
            events
                .map(|(key, handler)| handler.meta().traced(EventKind::Fd, key))
                .collect()
        };
        traced.extend(self.traced_timers());
        traced.extend(self.traced_signals());
        traced.extend(self.traced_immediates());
        traced
    }

    fn unwatch_all(&self) {
        let fds = &mut *self.fds.borrow_mut();
        fds.mux.unwatch_all(&mut *fds.backend);
    }

    /// Takes everything out of the tables, to be dropped when the context is in order again: what
    /// is dropped may use it, or panic.
    fn take_contents(&self) -> impl Sized + use<> {
        let fds = {
            let mut fds = self.fds.borrow_mut();
            fds.discard_ready();
            fds.mux.take_all()
        };
        let fds: Vec<Removed> = fds.into_iter().map(Removed::new).collect();
        let timers = self.timers.borrow_mut().take_all();
        let immediates = self.immediates().take_all();
        let signals = self.signals.borrow_mut().take_all(self.doorbell);
        self.doorbell.attend(REMOTE);
        let scheduled = self.inbox.take_all();
        let hook = self.state.nesting_hook.replace(None);
        (fds, timers, immediates, signals, scheduled, hook)
    }
}

/// The backend of a context that is gone.
struct Closed;

impl Backend for Closed {
    fn name(&self) -> &str {
        "closed"
    }

    fn add(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Err(closed())
    }

    fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Err(closed())
    }

    fn remove(&mut self, _: RawFd, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>, _: &mut ReadyList) -> io::Result<()> {
        Err(closed())
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the context is gone")
}

/// A reference to a [`Context`] that doesn't keep it alive, made by [`Context::downgrade`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::WeakContext;
///
/// fn later(context: &WeakContext) {
///     if let Some(context) = context.upgrade() {
///         context.defer(|_| println!("now"));
///     }
/// }
/// # let context = tevent::Context::new()?;
/// # later(&context.downgrade());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WeakContext {
    inner: Weak<Inner>,
}

impl WeakContext {
    /// The context, if it is there still. While the result lives, so does the context.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let weak = tevent::Context::new()?.downgrade();
    /// assert!(weak.upgrade().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn upgrade(&self) -> Option<ContextRef> {
        let inner = self.inner.upgrade()?;
        let owners = inner.owners.get();
        if owners == 0 {
            return None;
        }
        let wakeup = inner.wakeup.borrow().clone()?;
        let pollable = inner.fds.borrow().backend.pollable();
        inner.owners.set(owners + 1);
        Some(ContextRef {
            context: Context {
                inner,
                pollable,
                wakeup,
            },
        })
    }
}

impl WeakContext {
    /// As [`Context::now`]: what the deadlines of [`sleep_until`](WeakContext::sleep_until) are
    /// counted from. If the context is gone, it is the time on the system's clock.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// let task = context.spawn(async move {
    ///     let mut deadline = weak.now();
    ///     for _tick in 0..3 {
    ///         deadline += Duration::from_millis(1); // whatever the work between takes
    ///         weak.sleep_until(deadline).await;
    ///     }
    /// });
    /// context.block_on(task)?.expect("nobody cancels it");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_timeval_current")]
    pub fn now(&self) -> Instant {
        let inner = self.inner.upgrade();
        inner.map_or_else(Instant::now, |inner| inner.clock.now())
    }

    /// The deadline that is `delay` from now, or as late as can be said.
    pub(crate) fn after(&self, delay: Duration) -> Instant {
        clock::later(self.now(), delay)
    }
}

impl fmt::Debug for WeakContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WeakContext")
    }
}

/// A context that is kept alive, made by [`WeakContext::upgrade`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let reference = context.downgrade().upgrade().expect("it is there");
/// assert_eq!(reference.backend_name(), context.backend_name());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ContextRef {
    context: Context,
}

impl std::ops::Deref for ContextRef {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::doorbell;

    #[test]
    fn contexts_that_are_gone_leave_no_doorbells() {
        const CONTEXTS: usize = 1_000;
        let before = doorbell::count();
        for _ in 0..CONTEXTS {
            drop(Context::new().expect("a context"));
        }
        // Other tests, which run at the same time, have theirs.
        assert!(doorbell::count() < before + CONTEXTS / 2);
    }
}
