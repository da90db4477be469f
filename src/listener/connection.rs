//! What is accepted, and how the listener knows how much of it there is.

use crate::peer_addr::PeerAddr;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;

/// A socket that listens: what [`Context::add_listener`](crate::Context::add_listener) takes.
///
/// `TcpListener` and `UnixListener` give the streams of their kinds; any other listening socket is
/// an `OwnedFd`, and gives that. A type of your own says which type its connections have:
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::os::fd::{AsFd, BorrowedFd};
/// use tevent::ListeningSocket;
///
/// struct Endpoint {
///     socket: TcpListener,
///     banner: String,
/// }
///
/// impl AsFd for Endpoint {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.socket.as_fd()
///     }
/// }
///
/// impl ListeningSocket for Endpoint {
///     type Stream = TcpStream;
/// }
/// ```
pub trait ListeningSocket: AsFd {
    /// What an accepted connection is. It is made of a non-blocking descriptor that `exec` closes.
    type Stream: From<OwnedFd> + 'static;
}

impl ListeningSocket for TcpListener {
    type Stream = TcpStream;
}

impl ListeningSocket for UnixListener {
    type Stream = UnixStream;
}

impl ListeningSocket for OwnedFd {
    type Stream = OwnedFd;
}

impl ListeningSocket for BorrowedFd<'_> {
    type Stream = OwnedFd;
}

impl<S: ListeningSocket + ?Sized> ListeningSocket for &S {
    type Stream = S::Stream;
}

impl<S: ListeningSocket + ?Sized> ListeningSocket for Box<S> {
    type Stream = S::Stream;
}

impl<S: ListeningSocket + ?Sized> ListeningSocket for Rc<S> {
    type Stream = S::Stream;
}

impl<S: ListeningSocket + ?Sized> ListeningSocket for Arc<S> {
    type Stream = S::Stream;
}

/// Where a permit came from.
pub(super) trait Permits {
    fn give_back(&self);
}

/// A place among the open connections of a [`Listener`](crate::Listener), which is free again when
/// this is dropped.
///
/// It is part of every [`Connection`]. Taken out of it, it stands for a client that something else
/// than this process's copy of the socket stands for: a child process, say, or a thread.
///
/// A permit is a matter of its process. In a forked child there are copies, which count for the
/// child's copy of the listener, if it keeps that.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # use std::net::TcpStream;
/// use std::net::TcpListener;
/// use std::process::Command;
/// use tevent::Context;
///
/// let context = Context::new()?;
/// let socket = TcpListener::bind("127.0.0.1:0")?;
/// # let client = TcpStream::connect(socket.local_addr()?)?;
/// let listener = context.add_listener(socket, |context, listener, connection| {
///     let (stream, permit) = connection.into_parts();
///     let process = Command::new("cat")
///         .stdin(std::os::fd::OwnedFd::from(stream))
///         .spawn()
///         .expect("cat");
///     let child = context.add_child(process.id(), move |_, _, _| drop(permit));
///     child.expect("a child").detach();
/// #   listener.remove();
/// })?;
/// listener.set_limit(Some(100)); // so many processes at a time
/// # drop(client);
/// # context.run()
/// # }
/// ```
#[must_use = "dropping it gives the place to another client"]
pub struct Permit(Rc<dyn Permits>);

impl Permit {
    /// The caller has counted it.
    pub(super) fn new(permits: Rc<dyn Permits>) -> Permit {
        Permit(permits)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Permit")
    }
}

/// A connection that a [`Listener`](crate::Listener) has accepted.
///
/// It is the stream, together with where it came from and a [`Permit`]: it derefs to the stream,
/// can be read, written and watched in its place, and counts as open until it is dropped.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use tevent::{Context, FdFlags};
///
/// let context = Context::new()?;
/// let socket = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(socket.local_addr()?)?;
/// client.write_all(b"hello")?;
/// let _listener = context.add_listener(socket, |context, listener, connection| {
///     connection.set_nodelay(true).expect("a TCP stream");
///     assert_eq!(listener.open(), 1);
///     let event = context.add_fd(connection, FdFlags::READ, |context, event, _| {
///         let mut buffer = [0; 5];
///         event.get_ref().read_exact(&mut buffer).expect("hello");
///         event.remove(); // closes it, when this returns
///         context.defer(|context| context.stop());
///     });
///     event.expect("it can be watched").detach();
/// })?;
/// context.run()?;
/// assert_eq!(_listener.open(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection<T> {
    /// Before the permit, as they are dropped in this order: its descriptor is to be had when the
    /// listener goes on.
    stream: T,
    peer: PeerAddr,
    permit: Permit,
}

impl<T> Connection<T> {
    pub(super) fn new(stream: T, peer: PeerAddr, permit: Permit) -> Connection<T> {
        Connection {
            stream,
            peer,
            permit,
        }
    }

    /// Where it comes from. It is what the kernel said when it was accepted, so it costs nothing,
    /// and is there when the client has gone.
    pub fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    /// The stream alone. It isn't counted any more.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # use std::net::{TcpListener, TcpStream};
    /// # let context = tevent::Context::new()?;
    /// # let socket = TcpListener::bind("127.0.0.1:0")?;
    /// # let client = TcpStream::connect(socket.local_addr()?)?;
    /// let _listener = context.add_listener(socket, |context, listener, connection| {
    ///     let stream: TcpStream = connection.into_stream();
    ///     assert_eq!(listener.open(), 0);
    ///     context.stop();
    /// #   drop(stream);
    /// })?;
    /// # context.run()
    /// # }
    /// ```
    pub fn into_stream(self) -> T {
        self.stream
    }

    /// The stream, and what it is counted by.
    pub fn into_parts(self) -> (T, Permit) {
        (self.stream, self.permit)
    }
}

impl<T> Deref for Connection<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.stream
    }
}

impl<T: AsFd> AsFd for Connection<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// For what takes a stream by value, such as a `BufReader`.
impl<T> Read for Connection<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.stream).read_vectored(buffers)
    }
}

impl<T> Write for Connection<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.stream).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.stream).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.stream).flush()
    }
}

/// As `&TcpStream` does: readiness handlers have a reference only.
impl<T> Read for &Connection<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.stream).read_vectored(buffers)
    }
}

impl<T> Write for &Connection<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.stream).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.stream).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.stream).flush()
    }
}
