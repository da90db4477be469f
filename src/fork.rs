//! `fork`, and starting over.

use crate::context::Context;
use crate::sys;
use std::io;
use std::os::fd::RawFd;

/// On which side of a [`Context::fork`] this is.
///
/// ```
/// use tevent::Fork;
///
/// fn greet(fork: Fork) {
///     match fork {
///         Fork::Parent(pid) => println!("my child is {pid}"),
///         Fork::Child => println!("hello"),
///     }
/// }
/// # greet(Fork::Child);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fork {
    /// The process that forked, with the id of its child.
    Parent(u32),
    /// The new process.
    Child,
}

impl Context {
    /// Forks the process. Both sides go on from here with the same events, each with a kernel's
    /// set of its own: the child never touches its parent's.
    ///
    /// In the child, what the parent's latest wait had found ready is left to the parent, and so
    /// are signals that came before the fork. Descriptors are shared, as always with `fork`: a
    /// child that is to serve one client calls [`reinitialise`](Context::reinitialise) first, which
    /// closes its copies (it says which), and may then run the loop from inside the handler that
    /// forked.
    ///
    /// A child of a fork that somebody else makes is noticed just as well. This one is safe,
    /// because it refuses where a fork isn't. Output that is buffered in the process (`print!`)
    /// is flushed by both sides; flush it before.
    ///
    /// # Errors
    ///
    /// - The process has more than one thread, so that a lock held by another one would stay
    ///   locked in the child for ever.
    /// - [`io::ErrorKind::Unsupported`]: the system doesn't tell how many threads there are.
    /// - The system refuses another process.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, Fork};
    ///
    /// let context = Context::new()?;
    /// match context.fork() {
    ///     Ok(Fork::Parent(pid)) => println!("child {pid}"),
    ///     Ok(Fork::Child) => {
    ///         context.reinitialise()?;
    ///         std::process::exit(0);
    ///     }
    ///     Err(error) => println!("no child: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork(&self) -> io::Result<Fork> {
        Ok(match sys::fork::fork()? {
            Some(pid) => Fork::Parent(pid),
            None => Fork::Child,
        })
    }

    /// Removes every event and starts over with kernel objects of its own: what a forked child
    /// does that is to keep nothing of its parent's.
    ///
    /// Sources are dropped or handed to their close callbacks, signal dispositions restored,
    /// scheduled immediates and other threads' work dropped, the nesting hook taken away; the
    /// permission to nest stays. It may be called in any handler, and the loop may be run from
    /// there, nesting or not: the loop that called the handler counts no more. Handles of former
    /// events do nothing.
    ///
    /// A source that somebody can still look at stays open, as
    /// [`Fd::on_close`](crate::Fd::on_close) says: that of an event with a handle, until the handle
    /// is dropped, and that of the event whose handler is running, until it returns. So for a child
    /// to close the listener, leave the listener's event to the context
    /// ([`detach`](crate::Fd::detach)) and fork in a closure that its handler
    /// [defers](Context::defer), not in the handler itself.
    ///
    /// A signal that has come but wasn't handled goes with its event. So a parent that tells a
    /// child to end right after the fork may not be heard: it has to tell it again until it has
    /// ended.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left for new kernel objects. The events are gone all the
    /// same; the next use of the context tries again.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer(context.now(), |_, _| unreachable!());
    /// context.reinitialise()?;
    /// assert!(!timer.is_registered());
    /// context.run() // returns, as nothing is left
    /// # }
    /// ```
    #[doc(alias = "tevent_re_initialise")]
    pub fn reinitialise(&self) -> io::Result<()> {
        self.inner.reinitialise()
    }

    /// Removes every event, but leaks what it owns: nothing is dropped, no close callback is called, no
    /// descriptor closed. For the child of a process with many events, before it
    /// [re-initialises](Context::reinitialise).
    ///
    /// A forked child shares its parent's memory until one of the two writes to it, and to drop an
    /// event is to write to its memory. So a child that drops a thousand events gets a copy of
    /// all that the parent knows of them. This doesn't so much as look at it.
    ///
    /// Signal dispositions are restored. Returns the numbers of the descriptors that there were
    /// events on, each once. They are open still. A child that is not to have them closes those that its
    /// parent's events owned, by number; nothing else must use these any more, such as handles of the
    /// events, which are to be leaked as well (dropped, they would close the descriptors again). The
    /// descriptor of the event whose handler is running is among them.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::os::fd::AsRawFd;
    /// use std::os::unix::net::UnixStream;
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (one, _other) = UnixStream::pair()?;
    /// let number = one.as_raw_fd();
    /// context.add_fd(one, FdFlags::READ, |_, _, _| unreachable!())?.detach();
    /// // Usually in the child of a fork.
    /// assert_eq!(context.leak_events(), [number]);
    /// context.reinitialise()?;
    /// context.run() // returns, as nothing is left
    /// # }
    /// ```
    pub fn leak_events(&self) -> Vec<RawFd> {
        self.inner.leak_events()
    }
}

/// Ends the process at once, as `_exit(2)` does: no destructor is run, nothing that was registered with
/// `atexit`, and no buffer is flushed.
///
/// For a forked child: what [`std::process::exit`] would do besides is mostly its parent's, and writes
/// to memory that is shared with it.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::{Context, Fork};
///
/// let context = Context::new()?;
/// if let Fork::Child = context.fork()? {
///     tevent::exit_at_once(0);
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "_exit")]
pub fn exit_at_once(code: i32) -> ! {
    sys::fork::exit(code)
}
