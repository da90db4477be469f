//! Descriptors whose readiness is awaited.
//!
//! # Implementation
//!
//! An [`AsyncFd`] is one descriptor event, whose handler wakes those who wait. It wants what they
//! want: [`Waiters::interest`]. So awaiting the same again after every success, as a
//! reader does, costs no system call: by the time the loop is about to wait, the interest is back.
//!
//! A report wakes one for each flag, the one who waits longest; who is woken no longer counts for
//! the interest. The others stay, and as readiness is level-triggered they are woken by the next
//! report, if the first has left anything to do, or never looked. So none is lost, and there is
//! no herd.
//!
//! Hang-up would be lost on those who wait for `WRITE` alone, and they would wait for ever. So for
//! them the event wants `ERROR` too, and that is reported to them as `WRITE`: the next write tells.

use crate::context::{Context, WeakContext};
use crate::error::AddFdError;
use crate::fd::Fd;
use crate::flags::FdFlags;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

/// A descriptor whose readiness tasks can await, made by [`Context::add_async_fd`].
///
/// Any number of tasks may await it at a time, by an `Rc` say; it is meant for a handful. There may
/// be other events on the same descriptor, as there may with [`Fd`].
///
/// The source is owned as by [`Fd`]: it is closed when this is dropped and not before, unless
/// [`into_source`](AsyncFd::into_source) gives it back.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use tevent::{Context, FdFlags};
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// let (mut ours, theirs) = UnixStream::pair()?;
/// theirs.set_nonblocking(true)?;
/// let theirs = context.add_async_fd(theirs)?;
/// context.defer(move |_| ours.write_all(b"hello").expect("the other end is open"));
///
/// let mut buffer = [0; 64];
/// let count = context.block_on(async {
///     theirs.ready(FdFlags::READ).await?;
///     theirs.get_ref().read(&mut buffer)
/// })??;
/// assert_eq!(&buffer[..count], b"hello");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_fd")]
#[must_use = "dropping it closes the descriptor"]
pub struct AsyncFd<S: 'static> {
    fd: Fd<S>,
    waiters: Rc<Waiters>,
}

#[derive(Default)]
struct Waiters {
    /// Those who wait longest come first.
    list: RefCell<Vec<Waiter>>,
    last: Cell<u64>,
    /// The event was removed, or its context is gone or was re-initialised.
    is_over: Cell<bool>,
}

struct Waiter {
    number: u64,
    wanted: FdFlags,
    /// What has come; empty while it waits.
    ready: FdFlags,
    waker: Option<Waker>,
}

impl Waiter {
    /// What the event is to want for this one.
    fn interest(&self) -> FdFlags {
        if !self.ready.is_empty() {
            FdFlags::empty()
        } else if self.wanted.contains(FdFlags::WRITE) {
            self.wanted | FdFlags::ERROR
        } else {
            self.wanted
        }
    }
}

impl Waiters {
    fn interest(&self) -> FdFlags {
        let list = self.list.borrow();
        list.iter().map(Waiter::interest).collect()
    }

    /// Hands out what has come. Returns those who are to be woken, at most one for each flag.
    fn serve(&self, mut left: FdFlags) -> [Option<Waker>; 3] {
        let mut woken = [const { None }; 3];
        let mut places = woken.iter_mut();
        for waiter in self.list.borrow_mut().iter_mut() {
            if left.is_empty() {
                break;
            }
            let served = left & waiter.interest();
            if served.is_empty() {
                continue;
            }
            left -= served;
            waiter.ready = served & waiter.wanted;
            if served.contains(FdFlags::ERROR) {
                waiter.ready |= waiter.wanted & FdFlags::WRITE;
            }
            if let Some(place) = places.next() {
                *place = waiter.waker.take();
            }
        }
        woken
    }

    fn add(&self, wanted: FdFlags, waker: Waker) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.list.borrow_mut().push(Waiter {
            number,
            wanted,
            ready: FdFlags::empty(),
            waker: Some(waker),
        });
        number
    }

    fn remove(&self, number: u64) -> Option<Waiter> {
        let mut list = self.list.borrow_mut();
        let position = list.iter().position(|waiter| waiter.number == number)?;
        Some(list.remove(position))
    }

    /// What has come for a waiter.
    fn ready(&self, number: u64) -> FdFlags {
        let list = self.list.borrow();
        let waiter = list.iter().find(|waiter| waiter.number == number);
        waiter.map(|waiter| waiter.ready).unwrap_or_default()
    }

    fn set_waker(&self, number: u64, waker: &Waker) {
        let waker = waker.clone();
        let replaced = {
            let mut list = self.list.borrow_mut();
            let waiter = list.iter_mut().find(|waiter| waiter.number == number);
            waiter.and_then(|waiter| waiter.waker.replace(waker))
        };
        drop(replaced);
    }
}

/// Owned by the event's closure, to tell of its end.
struct Watched(Rc<Waiters>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        let wakers: Vec<Waker> = {
            let mut list = self.0.list.borrow_mut();
            list.iter_mut()
                .filter_map(|waiter| waiter.waker.take())
                .collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

impl Context {
    /// Watches a descriptor for tasks to await. It should be non-blocking.
    ///
    /// While nobody awaits it, it counts as nothing to wait for, and costs nothing.
    ///
    /// # Errors
    ///
    /// As [`add_fd`](Context::add_fd): the backend can't watch the descriptor. The source is in the
    /// error.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 descriptor events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::net::TcpListener;
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// listener.set_nonblocking(true)?;
    /// # let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let listener = context.add_async_fd(listener)?;
    /// let (stream, address) = context.block_on(async {
    ///     listener.io(FdFlags::READ, TcpListener::accept).await
    /// })??;
    /// # assert_eq!(address, client.local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_add_fd")]
    #[track_caller]
    pub fn add_async_fd<S: AsFd + 'static>(&self, source: S) -> Result<AsyncFd<S>, AddFdError<S>> {
        let waiters = Rc::new(Waiters::default());
        let watched = Watched(Rc::clone(&waiters));
        // Wanting something, so that a refusal is heard of here. It reaches the kernel once, if
        // somebody waits for the same before the loop does.
        let fd = self.add_fd(source, FdFlags::READ, move |_, fd, flags| {
            let woken = watched.0.serve(flags);
            fd.set_flags(watched.0.interest());
            woken.into_iter().flatten().for_each(Waker::wake);
        })?;
        fd.set_flags(FdFlags::empty());
        Ok(AsyncFd { fd, waiters })
    }
}

impl WeakContext {
    /// As [`Context::add_async_fd`].
    ///
    /// # Errors
    ///
    /// Also when the context is gone.
    #[track_caller]
    pub fn add_async_fd<S: AsFd + 'static>(&self, source: S) -> Result<AsyncFd<S>, AddFdError<S>> {
        match self.upgrade() {
            Some(context) => context.add_async_fd(source),
            None => Err(AddFdError::new(source, over())),
        }
    }
}

impl<S: 'static> AsyncFd<S> {
    /// Waits until the descriptor is ready for one of `flags`, and returns which of them.
    ///
    /// Hang-up and errors of the descriptor end every wait: they are reported as what was asked
    /// for, and what is tried next says what they are. As with handlers, that the descriptor was
    /// ready doesn't mean that it is still: be prepared to wait again, or use
    /// [`io`](AsyncFd::io).
    ///
    /// Of several tasks that wait for the same flag one is woken at a time, the one that waits
    /// longest first. Dropping the future loses nothing: the next one who waits is told.
    ///
    /// # Errors
    ///
    /// - [`io::ErrorKind::NotConnected`]: the event was [removed](AsyncFd::remove), or the context
    ///   is gone or was re-initialised. Also if the backend refuses to go on watching the
    ///   descriptor; but that is an error of [`run`](Context::run) first, and this learns of it
    ///   when it is polled.
    /// - [`io::ErrorKind::InvalidInput`]: `flags` is empty.
    pub fn ready(&self, flags: FdFlags) -> Ready<'_, S> {
        Ready {
            fd: self,
            wanted: flags,
            number: None,
        }
    }

    /// Tries `operation`, and again whenever the descriptor is ready for one of `flags`, until it
    /// returns anything but [`io::ErrorKind::WouldBlock`] (or `Interrupted`, when it is repeated
    /// at once).
    ///
    /// Dropping the future loses nothing, as nothing is awaited between the success of `operation`
    /// and its return. The downside of trying first: a loop of this which never has to wait keeps
    /// all others from their turns; see [`yield_now`](crate::yield_now).
    ///
    /// # Errors
    ///
    /// That of `operation`, or of [`ready`](AsyncFd::ready).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use tevent::{Context, FdFlags};
    ///
    /// let context = Context::new()?;
    /// let (ours, theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// theirs.set_nonblocking(true)?;
    /// let ours = context.add_async_fd(ours)?;
    /// let theirs = context.add_async_fd(theirs)?;
    /// let reader = context.spawn(async move {
    ///     let mut buffer = [0; 64];
    ///     let count = theirs.io(FdFlags::READ, |mut socket| socket.read(&mut buffer)).await?;
    ///     Ok::<_, std::io::Error>(buffer[..count].to_vec())
    /// });
    /// let bytes = context.block_on(async {
    ///     ours.io(FdFlags::WRITE, |mut socket| socket.write(b"hello")).await?;
    ///     reader.await?
    /// })??;
    /// assert_eq!(bytes, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn io<R>(
        &self,
        flags: FdFlags,
        mut operation: impl FnMut(&S) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match operation(self.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(flags).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The source.
    pub fn get_ref(&self) -> &S {
        self.fd.get_ref()
    }

    /// Ends the event and gives the source back.
    ///
    /// # Errors
    ///
    /// While the event is waking somebody, which only a waker of another executor can notice, the
    /// handle comes back, as from [`Fd::into_source`]. The event has ended nevertheless.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (socket, _peer) = std::os::unix::net::UnixStream::pair()?;
    /// let fd = context.add_async_fd(socket)?;
    /// let socket = fd.into_source().expect("nothing is being woken");
    /// # drop(socket);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_source(self) -> Result<S, AsyncFd<S>> {
        let AsyncFd { fd, waiters } = self;
        fd.into_source().map_err(|fd| AsyncFd { fd, waiters })
    }

    /// Ends the event. Whoever awaits it gets an error. The source stays until this handle is
    /// dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::FdFlags;
    ///
    /// let context = tevent::Context::new()?;
    /// let (socket, _peer) = std::os::unix::net::UnixStream::pair()?;
    /// let fd = context.add_async_fd(socket)?;
    /// fd.remove();
    /// assert!(!fd.is_registered());
    /// assert!(context.block_on(fd.ready(FdFlags::READ))?.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self) {
        self.fd.remove();
    }

    /// Whether the event is there still: it wasn't removed, and its context is neither gone nor
    /// re-initialised.
    pub fn is_registered(&self) -> bool {
        self.fd.is_registered()
    }

    /// The number that [`set_tag`](AsyncFd::set_tag) has set, 0 before.
    #[doc(alias = "tevent_fd_get_tag")]
    pub fn tag(&self) -> u64 {
        self.fd.tag()
    }

    /// Gives the event a number, which means nothing to the loop.
    #[doc(alias = "tevent_fd_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.fd.set_tag(tag);
    }

    /// The name that [`set_name`](AsyncFd::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.fd.name()
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.fd.set_name(name);
    }

    /// Where the event was added; `None` when it is over.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.fd.location()
    }
}

impl<S: fmt::Debug + 'static> fmt::Debug for AsyncFd<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AsyncFd")
            .field("source", self.get_ref())
            .finish_non_exhaustive()
    }
}

/// Waits until a descriptor is ready, made by [`AsyncFd::ready`].
#[must_use = "futures do nothing unless they are polled"]
pub struct Ready<'a, S: 'static> {
    fd: &'a AsyncFd<S>,
    wanted: FdFlags,
    /// Its waiter's, while there is one.
    number: Option<u64>,
}

impl<S: 'static> Ready<'_, S> {
    /// Takes the waiter back, and what it wanted.
    fn finish(&mut self) {
        if let Some(number) = self.number.take() {
            let removed = self.fd.waiters.remove(number);
            self.fd.fd.set_flags(self.fd.waiters.interest());
            drop(removed);
        }
    }
}

impl<S: 'static> Future for Ready<'_, S> {
    type Output = io::Result<FdFlags>;

    fn poll(mut self: Pin<&mut Self>, poll: &mut task::Context<'_>) -> Poll<Self::Output> {
        let AsyncFd { fd, waiters } = self.fd;
        if self.wanted.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        }
        match self.number {
            None => {
                if waiters.is_over.get() {
                    return Poll::Ready(Err(over()));
                }
                let number = waiters.add(self.wanted, poll.waker().clone());
                self.number = Some(number);
                fd.set_flags(waiters.interest());
                fd.tell_if_left();
                Poll::Pending
            }
            Some(number) => {
                let ready = waiters.ready(number);
                if !ready.is_empty() {
                    self.finish();
                    return Poll::Ready(Ok(ready));
                }
                // The backend disarms what it can't watch any more.
                if waiters.is_over.get() || !fd.flags().contains(waiters.interest()) {
                    self.finish();
                    return Poll::Ready(Err(over()));
                }
                waiters.set_waker(number, poll.waker());
                Poll::Pending
            }
        }
    }
}

impl<S: 'static> Drop for Ready<'_, S> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<S: 'static> fmt::Debug for Ready<'_, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ready")
            .field("flags", &self.wanted)
            .finish_non_exhaustive()
    }
}

fn over() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the descriptor is not watched any more",
    )
}
