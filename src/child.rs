//! The ends of child processes.
//!
//! # Implementation
//!
//! A child is watched by a descriptor event on its pidfd, or where there is none by a signal event
//! for `SIGCHLD`. The closure of that event owns the handler, so what is true of those events
//! (handles, nested loops, panics, re-initialising) is true of this one. It waits for its own child
//! only, and without blocking: readiness and signals are taken as hints.
//!
//! Signals that came before the signal event was added aren't counted for it, so its closure is
//! called once without one. Whatever ends later raises a signal that is counted.
//!
//! A forked child of this process keeps the event but isn't the parent of the process it is about.
//! The closure compares process ids and ends the event instead of asking.

use crate::context::{self, Context, WeakContext};
use crate::error::{OsError, errno};
use crate::fd::Fd;
use crate::flags::{FdFlags, SignalFlags};
use crate::signal::Signal;
use crate::signum::Signum;
use crate::sys::pidfd::{self, PidFd, Watch};
use crate::wakers::{WaiterId, WakerList};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::process::{self, ExitStatus};
use std::rc::Rc;
use std::task::{self, Poll};

/// A child process whose end is waited for, made by [`Context::add_child`].
///
/// Dropping the handle removes the event; the process goes on, and its end is then the caller's to
/// wait for. [`detach`](Child::detach) leaves the event to the context until the process has ended.
///
/// The event is over when its handler was called; the handle then does nothing more. The downside
/// of keeping it: on Linux it holds a descriptor until it is dropped.
///
/// ```
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let pid = Command::new("sh").args(["-c", "exit 3"]).spawn()?.id();
/// let child = context.add_child(pid, |context, child, result| {
///     println!("{} has ended: {result:?}", child.pid());
///     assert_eq!(result.expect("nobody else waits for it").code(), Some(3));
/// })?;
/// assert_eq!(child.pid(), pid);
/// context.run() // returns, as nothing is left
/// # }
/// ```
#[doc(alias = "pidfd")]
#[doc(alias = "SIGCHLD")]
#[must_use = "dropping the handle removes the event; `detach` leaves it to the context"]
pub struct Child {
    pid: u32,
    event: Event,
    end: Rc<End>,
}

/// What the child is watched by.
enum Event {
    PidFd(Fd<PidFd>),
    Sigchld(Signal),
}

/// How the child has ended, for those who [wait](Child::wait).
#[derive(Default)]
struct End {
    /// Missing until then.
    result: Cell<Option<Result<ExitStatus, NotKnown>>>,
    /// The event is over, so what is missing now won't come.
    is_over: Cell<bool>,
    waiters: WakerList,
}

/// An error that can be told to several.
#[derive(Clone, Copy)]
struct NotKnown {
    operation: &'static str,
    errno: i32,
}

impl End {
    fn note(&self, result: &io::Result<ExitStatus>) {
        self.result.set(Some(match result {
            Ok(status) => Ok(*status),
            Err(error) => Err(NotKnown {
                operation: OsError::operation_of(error).unwrap_or("waitid"),
                errno: errno(error).unwrap_or(libc::ECHILD),
            }),
        }));
    }

    fn result(&self) -> Option<io::Result<ExitStatus>> {
        let known = self.result.get()?;
        Some(known.map_err(|NotKnown { operation, errno }| {
            OsError::wrap(operation, io::Error::from_raw_os_error(errno))
        }))
    }
}

/// A handler that hasn't been called.
struct Waiting<H> {
    pid: u32,
    /// Whose child it is.
    parent: u32,
    handler: Cell<Option<H>>,
    end: Rc<End>,
}

impl Context {
    /// Calls `handler` once, when the child process `pid` has ended, with the status it ended
    /// with; it is reaped by then. A child that has ended already is reported in a later turn.
    ///
    /// That is for children of this process only, however they were made
    /// ([`Command::spawn`](std::process::Command::spawn), [`fork`](Context::fork)), and it waits
    /// for this one alone: other children are as before, also those of other contexts. Nobody else
    /// may wait for this one (as `std::process::Child::wait` does). Should somebody, or should the
    /// process ignore `SIGCHLD` so that the system keeps no status, then the handler gets an error
    /// with `ECHILD`: the child has ended, and how is not known.
    ///
    /// When this process forks, the child in question remains the parent's. In the other process
    /// the event never calls its handler. It stays until [`reinitialise`](Context::reinitialise),
    /// or until it would have called it.
    ///
    /// On Linux the event holds a descriptor (a pidfd). Where the kernel has none to give (before
    /// Linux 5.4, under a sandbox that forbids it, or because the process has no descriptors left)
    /// and on other systems, it has a handler for `SIGCHLD`, and each such signal costs a system
    /// call for each child that is added. Then the event comes in order with signals, not with
    /// descriptors. The downside of that way: it can be disturbed by others in the process who
    /// replace the signal's handler.
    ///
    /// # Errors
    ///
    /// - [`io::ErrorKind::InvalidInput`]: 0 and numbers above `i32::MAX` are no process ids.
    /// - `ECHILD`: it isn't a child of this process, or somebody has waited for it already.
    /// - The backend can't watch the descriptor, or the system refuses to install the handler for
    ///   `SIGCHLD`.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 descriptor or signal events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::os::unix::process::ExitStatusExt;
    /// use std::process::Command;
    /// use tevent::Context;
    ///
    /// let context = Context::new()?;
    /// let pid = Command::new("sleep").arg("1000").spawn()?.id();
    /// context
    ///     .add_child(pid, |_, child, result| match result {
    ///         Ok(status) if status.success() => println!("{}: done", child.pid()),
    ///         Ok(status) => match status.signal() {
    ///             Some(signal) => println!("{}: died of signal {signal}", child.pid()),
    ///             None => println!("{}: failed: {status}", child.pid()),
    ///         },
    ///         Err(error) => println!("{}: somebody else knows: {error}", child.pid()),
    ///     })?
    ///     .detach();
    /// # unsafe extern "C" { safe fn kill(pid: i32, signal: i32) -> i32; }
    /// # kill(pid as i32, 9);
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "waitpid")]
    #[doc(alias = "waitid")]
    #[doc(alias = "pidfd_open")]
    #[track_caller]
    pub fn add_child(
        &self,
        pid: u32,
        handler: impl FnOnce(&Context, &Child, io::Result<ExitStatus>) + 'static,
    ) -> io::Result<Child> {
        let Some(number) = i32::try_from(pid).ok().filter(|&number| number > 0) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pid} is no process id"),
            ));
        };
        // What is pending in a context that comes from a fork is forgotten by its first turn.
        self.inner.recover_from_fork()?;
        let end = Rc::<End>::default();
        let waiting = Rc::new(Waiting {
            pid,
            parent: process::id(),
            handler: Cell::new(Some(handler)),
            end: Rc::clone(&end),
        });
        if let Watch::PidFd(pidfd) = pidfd::watch(number)? {
            let by_pidfd = Rc::clone(&waiting);
            let added = self.add_fd(pidfd, FdFlags::READ, move |context, fd, _| {
                let event = Event::PidFd(fd.borrowed());
                by_pidfd.look(context, event, || fd.get_ref().reap());
            });
            // A backend without room for it is no reason to leave the child unreaped.
            if let Ok(fd) = added {
                let event = Event::PidFd(fd);
                return Ok(Child { pid, event, end });
            }
        }
        let flags = SignalFlags::RESTART | SignalFlags::NOCLDSTOP;
        let signal = self.add_signal(Signum::SIGCHLD, flags, move |context, signal, _| {
            let event = Event::Sigchld(signal.borrowed());
            waiting.look(context, event, || pidfd::reap(number));
        })?;
        signal.call_soon();
        let event = Event::Sigchld(signal);
        Ok(Child { pid, event, end })
    }
}

impl<H: FnOnce(&Context, &Child, io::Result<ExitStatus>)> Waiting<H> {
    /// Calls the handler if the child has ended, and then ends the event.
    fn look(
        &self,
        context: &Context,
        event: Event,
        reap: impl FnOnce() -> io::Result<Option<ExitStatus>>,
    ) {
        let (pid, end) = (self.pid, Rc::clone(&self.end));
        if process::id() != self.parent {
            Child { pid, event, end }.remove();
            return;
        }
        let Some(result) = reap().transpose() else {
            return;
        };
        end.note(&result);
        let over = Over(Child { pid, event, end });
        if let Some(handler) = self.handler.take() {
            handler(context, &over.0, result);
        }
    }
}

/// The event is over: its handler has returned, or won't be called.
impl<H> Drop for Waiting<H> {
    fn drop(&mut self) {
        self.end.is_over.set(true);
        self.end.waiters.wake_all();
    }
}

/// An event whose handler is called for the only time. Ends it, also when the handler panics.
struct Over(Child);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.remove();
    }
}

impl WeakContext {
    /// As [`Context::add_child`].
    ///
    /// # Errors
    ///
    /// Also [`io::ErrorKind::NotConnected`]: the context is gone.
    ///
    /// # Panics
    ///
    /// As [`Context::add_child`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::process::Command;
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// let task = context.spawn(async move {
    ///     let pid = Command::new("true").spawn()?.id();
    ///     weak.add_child(pid, |_, _, _| ())?.wait().await
    /// });
    /// let status = context.block_on(task)?.expect("nobody cancels it")?;
    /// assert!(status.success());
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn add_child(
        &self,
        pid: u32,
        handler: impl FnOnce(&Context, &Child, io::Result<ExitStatus>) + 'static,
    ) -> io::Result<Child> {
        match self.upgrade() {
            Some(context) => context.add_child(pid, handler),
            None => Err(context::closed()),
        }
    }
}

impl Child {
    /// The process id. When the handler was called it may be that of another process.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let pid = std::process::Command::new("true").spawn()?.id();
    /// let child = context.add_child(pid, |_, _, _| ())?;
    /// assert_eq!(child.pid(), pid);
    /// # context.run()
    /// # }
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the process, and returns how it has ended, for any number of tasks
    /// and any number of times. The handler is called first.
    ///
    /// [`ExitStatusExt`](std::os::unix::process::ExitStatusExt) tells the signal that has killed
    /// it, and whether it has dumped core. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// - `ECHILD`: the process has ended, and somebody else knows how.
    /// - [`io::ErrorKind::NotConnected`]: the event was over before the process: it was
    ///   [removed](Child::remove), its context is gone or was re-initialised, or this is a forked
    ///   child of the process that the event belongs to.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::process::Command;
    ///
    /// let context = tevent::Context::new()?;
    /// let pid = Command::new("sh").args(["-c", "exit 3"]).spawn()?.id();
    /// let child = context.add_child(pid, |_, _, _| ())?;
    /// let status = context.block_on(child.wait())??;
    /// assert_eq!(status.code(), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "waitpid")]
    pub fn wait(&self) -> ChildEnd<'_> {
        ChildEnd {
            child: self,
            waiter: None,
        }
    }

    /// Ends the event: its handler is not called any more. The process goes on, and is the
    /// caller's to wait for. In its own handler this does nothing, as the event is over anyway.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let mut process = std::process::Command::new("true").spawn()?;
    /// let child = context.add_child(process.id(), |_, _, _| unreachable!())?;
    /// child.remove();
    /// context.run()?;
    /// assert!(process.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self) {
        match &self.event {
            Event::PidFd(fd) => fd.remove(),
            Event::Sigchld(signal) => signal.remove(),
        }
    }

    /// Leaves the event to the context: it lives until the process has ended, or the context goes
    /// or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let pid = std::process::Command::new("true").spawn()?.id();
    /// context
    ///     .add_child(pid, |_, _, result| println!("{result:?}"))?
    ///     .detach();
    /// context.run()
    /// # }
    /// ```
    pub fn detach(self) {
        match self.event {
            Event::PidFd(fd) => fd.detach(),
            Event::Sigchld(signal) => signal.detach(),
        }
    }

    /// Whether the event is there still: the process hasn't been reported, the event not removed,
    /// and its context neither gone nor re-initialised. It is there in its own handler.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let pid = std::process::Command::new("true").spawn()?.id();
    /// let child = context.add_child(pid, |_, child, _| assert!(child.is_registered()))?;
    /// assert!(child.is_registered());
    /// context.run()?;
    /// assert!(!child.is_registered());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_registered(&self) -> bool {
        match &self.event {
            Event::PidFd(fd) => fd.is_registered(),
            Event::Sigchld(signal) => signal.is_registered(),
        }
    }

    /// The number that [`set_tag`](Child::set_tag) has set, 0 before.
    pub fn tag(&self) -> u64 {
        match &self.event {
            Event::PidFd(fd) => fd.tag(),
            Event::Sigchld(signal) => signal.tag(),
        }
    }

    /// Gives the event a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let pid = std::process::Command::new("true").spawn()?.id();
    /// let child = context.add_child(pid, |_, child, _| assert_eq!(child.tag(), 7))?;
    /// child.set_tag(7);
    /// child.set_name("worker");
    /// assert_eq!((child.tag(), child.name()), (7, Some("worker".to_owned())));
    /// assert!(child.location().is_some());
    /// context.run()
    /// # }
    /// ```
    pub fn set_tag(&self, tag: u64) {
        match &self.event {
            Event::PidFd(fd) => fd.set_tag(tag),
            Event::Sigchld(signal) => signal.set_tag(tag),
        }
    }

    /// The name that [`set_name`](Child::set_name) has set.
    pub fn name(&self) -> Option<String> {
        match &self.event {
            Event::PidFd(fd) => fd.name(),
            Event::Sigchld(signal) => signal.name(),
        }
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        match &self.event {
            Event::PidFd(fd) => fd.set_name(name),
            Event::Sigchld(signal) => signal.set_name(name),
        }
    }

    /// Where the event was added; `None` when it is over.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        match &self.event {
            Event::PidFd(fd) => fd.location(),
            Event::Sigchld(signal) => signal.location(),
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Child")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Waits for the end of a process, made by [`Child::wait`].
#[must_use = "futures do nothing unless they are polled"]
pub struct ChildEnd<'a> {
    child: &'a Child,
    waiter: Option<WaiterId>,
}

impl Future for ChildEnd<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let end = &self.child.end;
        if !end.is_over.get() {
            end.waiters.set(&mut self.waiter, context.waker());
            return Poll::Pending;
        }
        Poll::Ready(end.result().unwrap_or_else(|| {
            Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "nobody waits for the process any more",
            ))
        }))
    }
}

impl Drop for ChildEnd<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.child.end.waiters.remove(waiter);
        }
    }
}

impl fmt::Debug for ChildEnd<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChildEnd")
            .field("pid", &self.child.pid)
            .finish_non_exhaustive()
    }
}
