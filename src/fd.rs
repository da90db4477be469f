//! Descriptor events.
//!
//! # Implementation
//!
//! An event is two allocations. [`Shared`], with the source, is what its handles refer to.
//! [`Registered`], with the handler and the handle that it is given, is what the table refers to,
//! and the loop while the handler runs. (In one, each call would have to make that handle, and
//! finding the source would depend on the closure's type.)
//!
//! The source leaves when all handles are gone: then it is dropped, or handed to the close
//! callback. By then the event is out of the tables and out of the kernel's set. So nobody can hold
//! a `&S` to a source that was closed. The handler goes earlier, when the event ends
//! and isn't running.

use crate::context::{Context, Inner};
use crate::error::AddFdError;
use crate::fds::FdHandler;
use crate::flags::FdFlags;
use crate::key::Key;
use crate::meta::Meta;
use crate::sys;
use crate::sys::closure::{ClosureCell, IsRunning};
use crate::sys::source::Source;
use crate::trace::EventKind;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::Location;
use std::rc::Rc;

/// A descriptor event, made by [`Context::add_fd`].
///
/// Dropping the handle removes the event: it is not called any more, its descriptor is out of the
/// kernel's set, its handler and its source are dropped. [`detach`](Fd::detach) leaves it to the
/// context instead.
///
/// The handler gets a `&Fd<S>` too, so it need not capture one.
///
/// ```
/// use std::io::Read;
/// use std::os::unix::net::UnixStream;
/// use tevent::{Context, FdFlags};
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// let (ours, theirs) = UnixStream::pair()?;
/// drop(ours);
///
/// // A connection that lives in its own closure, and ends itself.
/// context
///     .add_fd(theirs, FdFlags::READ, |_, event, _| {
///         let mut buffer = [0; 512];
///         if let Ok(0) = event.get_ref().read(&mut buffer) {
///             event.remove();
///         }
///     })?
///     .detach();
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_fd")]
#[must_use = "dropping the handle removes the event; `detach` leaves it to the context"]
pub struct Fd<S: 'static> {
    shared: Rc<Shared<S>>,
    /// Whether dropping this removes the event: not so the handler's copy.
    owns: bool,
}

/// What the handles of an event share.
struct Shared<S> {
    inner: Rc<Inner>,
    /// Known when the event has been added.
    key: Cell<Key>,
    source: Source<S>,
    meta: Meta,
}

/// What the table refers to, and the loop during a call.
struct Registered<S: 'static, F> {
    /// Given to the handler. It doesn't own the event.
    event: Fd<S>,
    /// Taken out when the event has ended.
    handler: ClosureCell<F>,
}

impl<S, F> FdHandler for Registered<S, F>
where
    S: 'static,
    F: FnMut(&Context, &Fd<S>, FdFlags) + 'static,
{
    fn call(self: Rc<Self>, context: &Context, flags: FdFlags) {
        // It can't be running, as an event is suspended while its handler runs a loop.
        self.handler
            .call(|handler| handler(context, &self.event, flags));
    }

    fn meta(&self) -> &Meta {
        &self.event.shared.meta
    }

    fn end(self: Rc<Self>) {
        match self.handler.take() {
            Ok(closure) => drop(closure),
            Err(IsRunning) => {
                let inner = Rc::clone(&self.event.shared.inner);
                inner.end_after_return(self);
            }
        }
    }
}

impl Context {
    /// Watches a descriptor: `handler` is called whenever it is ready for one of `flags`, with
    /// the flags that it is ready for. That is level-triggered: it is called until there is
    /// nothing left to read, say.
    ///
    /// The context owns the `source` and gives it back when the event ends, see [`Fd`]. Any number
    /// of events may watch one descriptor (of an `Rc<UnixStream>`, say); they take turns. An event
    /// with empty flags is not called, not even for hang-up, until they are
    /// [changed](Fd::set_flags). What [`FdFlags`] mean for hang-up is said there.
    ///
    /// The descriptor should be non-blocking: see [`Builder::batch`](crate::Builder::batch). Its
    /// number is read once, here.
    ///
    /// # Errors
    ///
    /// The backend can't watch the descriptor, or the kernel watches as many for this user as it
    /// may (`ENOSPC`, `fs.epoll.max_user_watches`). The source is in the error, which turns into an
    /// [`io::Error`] by `?`.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 descriptor events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// listener.set_nonblocking(true)?;
    /// let _event = context.add_fd(listener, FdFlags::READ, |_, event, _| {
    ///     match event.get_ref().accept() {
    ///         Ok((_connection, address)) => println!("{address} has come"),
    ///         Err(error) => println!("nobody: {error}"),
    ///     }
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_add_fd")]
    #[track_caller]
    pub fn add_fd<S, H>(
        &self,
        source: S,
        flags: FdFlags,
        handler: H,
    ) -> Result<Fd<S>, AddFdError<S>>
    where
        S: AsFd + 'static,
        H: FnMut(&Context, &Fd<S>, FdFlags) + 'static,
    {
        let meta = Meta::here();
        let number = source.as_fd().as_raw_fd();
        if !sys::is_valid_number(number) {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(AddFdError::new(source, error));
        }
        let shared = Rc::new(Shared {
            inner: Rc::clone(&self.inner),
            key: Cell::new(Key::NONE),
            source: Source::new(source),
            meta,
        });
        let registered = Rc::new(Registered {
            event: Fd {
                shared: Rc::clone(&shared),
                owns: false,
            },
            handler: ClosureCell::new(handler),
        });
        match self.inner.add_fd_event(number, flags, registered) {
            Ok(key) => {
                shared.key.set(key);
                let event = Fd { shared, owns: true };
                if self.inner.watch.is_traced() {
                    let traced = event.shared.meta.traced(EventKind::Fd, key);
                    self.inner
                        .trace_added(Some(traced), &|tag| event.set_tag(tag));
                }
                Ok(event)
            }
            Err((refused, error)) => {
                drop(refused);
                match take_source(shared) {
                    Ok(source) => Err(AddFdError::new(source, error)),
                    Err(_) => unreachable!(),
                }
            }
        }
    }
}

/// Takes the source out of an event that has ended, if nobody else refers to it.
fn take_source<S>(shared: Rc<Shared<S>>) -> Result<S, Rc<Shared<S>>> {
    Rc::try_unwrap(shared).map(|shared| shared.source.into_inner())
}

impl<S: 'static> Fd<S> {
    /// The source. For reading and writing: `&TcpStream` implements `Read` and `Write`.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::io::Write;
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.get_ref().write_all(b"hello")?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn get_ref(&self) -> &S {
        self.shared.source.get()
    }

    /// Ends the event and gives the source back, without calling the close callback.
    ///
    /// # Errors
    ///
    /// The event has ended, but the handler is running right now and may be looking at the source:
    /// the handle comes back, to be tried again after the handler has returned. Likewise while the
    /// handler is being dropped (when a destructor in its closure calls this), and while the
    /// context is re-initialised or dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// let ours: std::os::unix::net::UnixStream = event.into_source().expect("not in its handler");
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_source(self) -> Result<S, Fd<S>> {
        self.remove();
        let shared = Rc::clone(&self.shared);
        // What is left of this handle removes an event that is gone already.
        drop(self);
        take_source(shared)
            .or_else(|shared| {
                // The handler may have removed the event and returned since.
                shared.inner.drop_ended();
                take_source(shared)
            })
            .map_err(|shared| Fd { shared, owns: true })
    }

    /// What the event waits for.
    ///
    /// Empty also when the event has ended, when the descriptor was found closed, and after a
    /// hang-up was kept from an event that waits for `WRITE` alone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// assert_eq!(event.flags(), FdFlags::READ);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_get_flags")]
    pub fn flags(&self) -> FdFlags {
        let fds = self.shared.inner.fds.borrow();
        fds.mux.flags(self.shared.key.get()).unwrap_or_default()
    }

    /// Changes what the event waits for.
    ///
    /// The change holds at once: flags taken away are not delivered any more. The kernel is told
    /// when the loop is about to wait, and only if the flags differ then from what it knows, so
    /// turning a flag on and off again costs nothing. Should the kernel refuse, the event is
    /// disarmed and the loop's caller gets the error, see [`Context::run_once`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.set_flags(FdFlags::READ | FdFlags::WRITE);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_set_flags")]
    #[inline]
    pub fn set_flags(&self, flags: FdFlags) {
        let mut fds = self.shared.inner.fds.borrow_mut();
        fds.mux.set_flags(self.shared.key.get(), flags);
    }

    /// Turns [`FdFlags::READ`] on or off. See [`set_flags`](Fd::set_flags).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.set_readable(false);
    /// assert!(event.flags().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "TEVENT_FD_READABLE")]
    #[doc(alias = "TEVENT_FD_NOT_READABLE")]
    #[inline]
    pub fn set_readable(&self, wanted: bool) {
        self.set_flag(FdFlags::READ, wanted);
    }

    /// Turns [`FdFlags::WRITE`] on or off. See [`set_flags`](Fd::set_flags).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.set_writable(true);
    /// assert_eq!(event.flags(), FdFlags::READ | FdFlags::WRITE);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "TEVENT_FD_WRITEABLE")]
    #[doc(alias = "TEVENT_FD_NOT_WRITEABLE")]
    #[inline]
    pub fn set_writable(&self, wanted: bool) {
        self.set_flag(FdFlags::WRITE, wanted);
    }

    /// Turns [`FdFlags::ERROR`] on or off. See [`set_flags`](Fd::set_flags).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::empty(), |context, _, flags| {
    ///     assert_eq!(flags, FdFlags::ERROR);
    ///     context.stop();
    /// })?;
    /// event.set_want_error(true);
    /// drop(theirs);
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "TEVENT_FD_WANTERROR")]
    #[doc(alias = "TEVENT_FD_NOT_WANTERROR")]
    #[inline]
    pub fn set_want_error(&self, wanted: bool) {
        self.set_flag(FdFlags::ERROR, wanted);
    }

    #[inline]
    fn set_flag(&self, flag: FdFlags, wanted: bool) {
        let mut fds = self.shared.inner.fds.borrow_mut();
        let Some(mut flags) = fds.mux.flags(self.shared.key.get()) else {
            return;
        };
        flags.set(flag, wanted);
        fds.mux.set_flags(self.shared.key.get(), flags);
    }

    /// Sets the close callback, in place of an earlier one: it gets the source when the event has
    /// ended and nobody refers to it any more. Without one the source is dropped, which for most
    /// sources closes the descriptor (tevent's auto-close).
    ///
    /// That moment is, exactly once:
    /// - when the handle is dropped outside its handler: before the drop returns;
    /// - when the event ends inside its own handler: when that handler has returned;
    /// - for a detached event: when it removes itself, as above, or the context goes or is
    ///   re-initialised;
    /// - when the context goes first: when the handle is dropped.
    ///
    /// By then the descriptor is out of the kernel's set. The callback may do anything with the
    /// source, closing and registering it anew included.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.on_close(|stream| println!("closing {stream:?}"));
    /// drop(event); // prints
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_set_close_fn")]
    #[doc(alias = "tevent_fd_set_auto_close")]
    pub fn on_close(&self, callback: impl FnOnce(S) + 'static) {
        self.shared.source.on_close(callback);
    }

    /// Ends the event: it is not called any more, and its descriptor is out of the kernel's set.
    /// The source leaves when the handle is gone as well, see [`on_close`](Fd::on_close).
    ///
    /// This is how a detached event ends itself in its handler. Elsewhere, drop the handle.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// context.add_fd(ours, FdFlags::READ, |_, event, _| event.remove())?.detach();
    /// drop(theirs);
    /// context.run() // returns, as nothing is left
    /// # }
    /// ```
    pub fn remove(&self) {
        self.shared.inner.remove_fd_event(self.shared.key.get());
    }

    /// Leaves the event to the context: it lives until it [removes](Fd::remove) itself, or the
    /// context goes or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// context.add_fd(ours, FdFlags::READ, |_, _, _| ())?.detach();
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(mut self) {
        self.owns = false;
    }

    /// For futures, which change the event outside of the loop's turns: see
    /// [`Inner::tell_if_left`].
    pub(crate) fn tell_if_left(&self) {
        if self.is_registered() {
            self.shared.inner.tell_if_left();
        }
    }

    /// A second handle, which doesn't remove the event when it is dropped.
    pub(crate) fn borrowed(&self) -> Fd<S> {
        Fd {
            shared: Rc::clone(&self.shared),
            owns: false,
        }
    }

    /// Whether the event is there still: not removed, and its context neither gone nor
    /// re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// assert!(event.is_registered());
    /// drop(context);
    /// assert!(!event.is_registered());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_registered(&self) -> bool {
        self.with_meta(|_| ()).is_some()
    }

    /// The number that [`set_tag`](Fd::set_tag) has set, 0 before.
    #[doc(alias = "tevent_fd_get_tag")]
    pub fn tag(&self) -> u64 {
        self.with_meta(|meta| meta.tag()).unwrap_or_default()
    }

    /// Gives the event a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ())?;
    /// event.set_tag(7);
    /// event.set_name("client");
    /// assert_eq!((event.tag(), event.name()), (7, Some("client".to_owned())));
    /// assert!(event.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.with_meta(|meta| meta.set_tag(tag));
    }

    /// The name that [`set_name`](Fd::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.with_meta(|meta| meta.name()).flatten()
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.with_meta(|meta| meta.set_name(name));
    }

    /// Where the event was added; `None` when it has ended.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.with_meta(|meta| meta.location)
    }

    fn with_meta<R>(&self, look: impl FnOnce(&Meta) -> R) -> Option<R> {
        let is_registered = self
            .shared
            .inner
            .fds
            .borrow()
            .mux
            .flags(self.shared.key.get())
            .is_some();
        is_registered.then(|| look(&self.shared.meta))
    }
}

impl<S: 'static> Drop for Fd<S> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.owns {
            self.remove();
        }
    }
}

impl<S: fmt::Debug + 'static> fmt::Debug for Fd<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Fd")
            .field("source", self.get_ref())
            .field("flags", &self.flags())
            .finish_non_exhaustive()
    }
}
