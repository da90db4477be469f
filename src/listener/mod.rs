//! Listening sockets: clients accepted one by one, with what goes wrong decided.
//!
//! # Implementation
//!
//! A [`Listener`] is a descriptor event, whose closure accepts and calls the handler, so what is
//! true of those events (handles, nested loops, panics, `fork`) is true of this one. It wants
//! [`FdFlags::READ`] while all of these hold, and nothing while one doesn't: it isn't paused, it
//! doesn't back off, fewer connections are open than its limit, and, of an [`AsyncListener`],
//! somebody awaits. Each of them is a cell of [`State`], and whoever changes one has the event's
//! flags computed anew. Flags that change reach the kernel when the loop is about to wait, so a
//! limit that is reached and left again within a turn costs nothing.
//!
//! Clients who aren't accepted stay in the kernel's backlog; a level-triggered event is called
//! again for them when it is armed again. So none is lost, and there is nothing to remember.

mod awaited;
mod connection;
mod state;

pub use awaited::{Accept, AsyncListener};
pub use connection::{Connection, ListeningSocket, Permit};
pub use state::BackOff;

use crate::context::Context;
use crate::error::AddFdError;
use crate::fd::Fd;
use crate::flags::FdFlags;
use crate::sys::listen;
use state::{State, Watched};
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

/// A listening socket whose clients are accepted, made by [`Context::add_listener`].
///
/// Dropping the handle removes the event, and closes the socket as [`Fd`] does;
/// [`detach`](Listener::detach) leaves it to the context. The handler gets a `&Listener<S>` too.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::io::Write;
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use tevent::Context;
///
/// let context = Context::new()?;
/// let socket = TcpListener::bind("127.0.0.1:0")?;
/// let address = socket.local_addr()?;
/// let listener = context.add_listener(socket, |context, _, connection| {
///     println!("{} has come", connection.peer());
///     let _ = (&connection).write_all(b"hello"); // it doesn't block
///     context.stop();
/// })?;
/// listener.set_limit(Some(1000));
/// listener.on_back_off(|back_off| eprintln!("{back_off}"));
/// # let client = TcpStream::connect(address)?;
/// context.run()
/// # }
/// ```
///
/// # What goes wrong
///
/// - **Nobody is there any more**, or the network has failed on the way (`ECONNABORTED`, `EPROTO`,
///   `EPERM` of a firewall, `ENETDOWN` and the like): the next one is tried. After 32 of them in a
///   row it backs off.
/// - **No descriptors or no memory** (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`), or anything else
///   that would be the same at once: it backs off. Clients stay in the backlog. It tries again
///   after a pause of [10 ms](Listener::set_back_off), then of 20 ms, and so on up to a second; and
///   as soon as one of its connections is closed. [`on_back_off`](Listener::on_back_off) sets who
///   is told.
///
/// # Turns
///
/// While nothing else has anything to do, up to [16](Listener::set_accepts_per_turn) clients are
/// accepted in a turn. Whatever a handler has scheduled, a timer that is due, a signal, and other
/// descriptors that are known to be ready go before the next client.
#[doc(alias = "accept")]
#[doc(alias = "evconnlistener")]
#[must_use = "dropping the handle closes the socket; `detach` leaves it to the context"]
pub struct Listener<S: 'static> {
    fd: Fd<S>,
    state: Rc<State<S>>,
}

impl Context {
    /// Accepts the clients of a listening socket and calls `handler` with each
    /// [`Connection`], which doesn't block and is closed by `exec`.
    ///
    /// `source` is a `TcpListener`, a `UnixListener`, or an `OwnedFd` of any stream socket that
    /// listens; or an `Rc` of one of these. The context owns it, as with
    /// [`add_fd`](Context::add_fd). It is made non-blocking (which concerns all who share it: in
    /// other processes too), so that a client whom somebody else has accepted holds up nobody.
    ///
    /// The handler may do what every handler may: remove, pause or limit the listener, run a
    /// nested loop, fork, panic. A connection that it doesn't keep is closed.
    ///
    /// # Errors
    ///
    /// - [`io::ErrorKind::InvalidInput`](std::io::ErrorKind::InvalidInput): the socket doesn't
    ///   listen.
    /// - The descriptor isn't a socket, or the backend can't watch it.
    ///
    /// The source is in the error, which turns into an [`io::Error`](std::io::Error) by `?`.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 descriptor events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::os::unix::net::{UnixListener, UnixStream};
    /// use tevent::Context;
    ///
    /// # let folder = std::env::temp_dir().join(format!("tevent-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("add_listener");
    /// let context = Context::new()?;
    /// let socket = UnixListener::bind(&path)?;
    /// context
    ///     .add_listener(socket, |_, listener, connection| {
    ///         let stream: UnixStream = connection.into_stream();
    ///         println!("one is enough: {stream:?}");
    ///         listener.remove();
    ///     })?
    ///     .detach();
    /// # let client = UnixStream::connect(&path)?;
    /// # std::fs::remove_dir_all(&folder)?;
    /// context.run() // returns, as nothing is left
    /// # }
    /// ```
    #[doc(alias = "accept4")]
    #[doc(alias = "tevent_add_fd")]
    #[track_caller]
    pub fn add_listener<S, H>(
        &self,
        source: S,
        mut handler: H,
    ) -> Result<Listener<S>, AddFdError<S>>
    where
        S: ListeningSocket + 'static,
        H: FnMut(&Context, &Listener<S>, Connection<S::Stream>) + 'static,
    {
        Listener::add(
            self,
            source,
            State::new(true),
            move |context, fd, watched| {
                watched.0.accept_some(context, fd, &mut handler);
            },
        )
    }
}

impl<S: ListeningSocket + 'static> Listener<S> {
    #[track_caller]
    fn add(
        context: &Context,
        source: S,
        state: Rc<State<S>>,
        mut handler: impl FnMut(&Context, &Fd<S>, &Watched<S>) + 'static,
    ) -> Result<Listener<S>, AddFdError<S>> {
        if let Err(error) = listen::prepare(source.as_fd()) {
            return Err(AddFdError::new(source, error));
        }
        let watched = Watched(Rc::clone(&state));
        // Wanting something in any case, so that a refusal is heard of here.
        let fd = context.add_fd(source, FdFlags::READ, move |context, fd, _| {
            handler(context, fd, &watched);
        })?;
        state.begin(fd.borrowed());
        Ok(Listener { fd, state })
    }
}

impl<S: 'static> Listener<S> {
    /// For the handler.
    fn borrowed(fd: &Fd<S>, state: &Rc<State<S>>) -> Listener<S> {
        Listener {
            fd: fd.borrowed(),
            state: Rc::clone(state),
        }
    }

    /// The socket.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// println!("listening on {}", listener.get_ref().local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_ref(&self) -> &S {
        self.fd.get_ref()
    }

    /// Ends the event and gives the socket back, without calling the close callback. Clients who
    /// wait stay in its backlog.
    ///
    /// # Errors
    ///
    /// The event has ended, but the handler is running right now and may be looking at the socket:
    /// the handle comes back, to be tried again after the handler has returned.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// let socket: std::net::TcpListener = listener.into_source().expect("not in its handler");
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_source(self) -> Result<S, Listener<S>> {
        let Listener { fd, state } = self;
        fd.into_source().map_err(|fd| Listener { fd, state })
    }

    /// Sets the close callback, which gets the socket when the event has ended and nobody refers to
    /// it any more. See [`Fd::on_close`] for when that is.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.on_close(|socket| println!("listening no more: {socket:?}"));
    /// drop(listener); // prints
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_set_close_fn")]
    pub fn on_close(&self, callback: impl FnOnce(S) + 'static) {
        self.fd.on_close(callback);
    }

    /// Accepts nobody until [`resume`](Listener::resume). Clients wait in the backlog, for as long
    /// as it has room, and don't notice.
    ///
    /// A paused listener counts as nothing to wait for, so [`run`](Context::run) may return.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.pause();
    /// context.run()?; // there is nothing to wait for
    /// assert!(listener.is_paused());
    /// listener.resume();
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause(&self) {
        self.state.set_paused(true);
    }

    /// Ends what [`pause`](Listener::pause) has begun. It doesn't end a
    /// [back-off](Listener::back_off), and the limit holds.
    pub fn resume(&self) {
        self.state.set_paused(false);
    }

    /// Whether it is [paused](Listener::pause). Backing off, and a limit that is reached, don't
    /// count.
    pub fn is_paused(&self) -> bool {
        self.state.is_paused()
    }

    /// Accepts nobody while `limit` connections are open, or more. `None`, the default: there is no
    /// limit.
    ///
    /// Open is what has a [`Permit`]: a [`Connection`] until it is dropped, and a permit that was
    /// taken out of one. Clients beyond the limit wait in the backlog. (To turn them away
    /// instead, set no limit, and have the handler look at [`open`](Listener::open), which counts
    /// the connection it is called with, and drop that.)
    ///
    /// A listener whose limit is reached counts as nothing to wait for; its connections may.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.set_limit(Some(100));
    /// assert_eq!(listener.limit(), Some(100));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_limit(&self, limit: Option<usize>) {
        self.state.set_limit(limit);
    }

    /// What [`set_limit`](Listener::set_limit) has set.
    pub fn limit(&self) -> Option<usize> {
        self.state.limit()
    }

    /// How many connections are open, that is, how many [`Permit`]s there are.
    pub fn open(&self) -> usize {
        self.state.open()
    }

    /// Counts one more connection as open, until the result is dropped: for a client that this
    /// listener hasn't accepted, and that is to count for its limit all the same.
    ///
    /// It may be more than the limit.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// let permit = listener.permit();
    /// assert_eq!(listener.open(), 1);
    /// drop(permit);
    /// assert_eq!(listener.open(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn permit(&self) -> Permit {
        self.state.permit()
    }

    /// How many clients may be accepted in one turn of the loop, each with a call of the handler.
    /// The default is 16; 0 counts as 1.
    ///
    /// Accepting several saves waits. They end early when anything else is to be done, so that
    /// the order of things is what it is without this. With 1 the kernel is asked for other ready
    /// descriptors after every client; that is also for processes that share a listening socket,
    /// where one that takes 16 at a time leaves nothing to the others.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.set_accepts_per_turn(1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_accepts_per_turn(&self, count: usize) {
        self.state.set_accepts_per_turn(count);
    }

    /// How long the pause is when accepting has failed: `shortest` after the first time, twice as
    /// long after each that follows, up to `longest`. The defaults are 10 ms and 1 s. No pause is
    /// shorter than a millisecond, and `longest` no less than `shortest`.
    ///
    /// It holds for the next time.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// let always = Duration::from_millis(200);
    /// listener.set_back_off(always, always);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_back_off(&self, shortest: Duration, longest: Duration) {
        self.state.set_pauses(shortest, longest);
    }

    /// Sets who is told when accepting has failed and there is a pause, in place of an earlier one.
    /// Without this nobody is told: a daemon should.
    ///
    /// The report is called in the listener's turn. It may do anything; giving back what a
    /// connection holds ends the pause.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.on_back_off(|back_off| eprintln!("listener: {back_off}"));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "EMFILE")]
    #[doc(alias = "ENFILE")]
    pub fn on_back_off(&self, report: impl FnMut(&BackOff) + 'static) {
        self.state.set_report(Box::new(report));
    }

    /// Why nobody is accepted just now, if that is because accepting has failed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// assert_eq!(listener.back_off(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn back_off(&self) -> Option<BackOff> {
        self.state.back_off()
    }

    /// Ends the event: nobody is accepted any more. The socket leaves when the handle is gone as
    /// well, see [`Fd::on_close`]. Connections stay as they are.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let client = std::net::TcpStream::connect(socket.local_addr()?)?;
    /// context
    ///     .add_listener(socket, |_, listener, _| listener.remove())?
    ///     .detach();
    /// context.run() // returns after the first client
    /// # }
    /// ```
    pub fn remove(&self) {
        self.fd.remove();
    }

    /// Leaves the listener to the context: it lives until it [removes](Listener::remove) itself, or
    /// the context goes or is re-initialised.
    pub fn detach(self) {
        self.fd.detach();
    }

    /// Whether the event is there still: not removed, and its context neither gone nor
    /// re-initialised.
    pub fn is_registered(&self) -> bool {
        self.fd.is_registered()
    }

    /// The number that [`set_tag`](Listener::set_tag) has set, 0 before.
    #[doc(alias = "tevent_fd_get_tag")]
    pub fn tag(&self) -> u64 {
        self.fd.tag()
    }

    /// Gives the event a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let context = tevent::Context::new()?;
    /// # let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let listener = context.add_listener(socket, |_, _, _| ())?;
    /// listener.set_tag(7);
    /// listener.set_name("smb");
    /// assert_eq!((listener.tag(), listener.name()), (7, Some("smb".to_owned())));
    /// assert!(listener.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_fd_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.fd.set_tag(tag);
    }

    /// The name that [`set_name`](Listener::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.fd.name()
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.fd.set_name(name);
    }

    /// Where the listener was added; `None` when it is over.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.fd.location()
    }
}

impl<S: fmt::Debug + 'static> fmt::Debug for Listener<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Listener")
            .field("source", self.get_ref())
            .field("open", &self.open())
            .field("limit", &self.limit())
            .field("paused", &self.is_paused())
            .field("back_off", &self.back_off())
            .finish_non_exhaustive()
    }
}
