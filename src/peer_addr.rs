//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The address of the client that a [`Listener`](crate::Listener) has accepted, as the kernel told
/// it then.
///
/// It prints as one would write it: `127.0.0.1:445`, `/run/client`, `@name` for one in Linux's
/// abstract namespace, and `unnamed` for a Unix socket that isn't bound, which is what most clients
/// have.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::net::{TcpListener, TcpStream};
/// use tevent::Context;
///
/// let context = Context::new()?;
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let address = client.local_addr()?;
/// let _listener = context.add_listener(listener, move |context, _, connection| {
///     assert_eq!(connection.peer().as_socket(), Some(address));
///     assert_eq!(connection.peer().to_string(), address.to_string());
///     context.stop();
/// })?;
/// context.run()
/// # }
/// ```
#[doc(alias = "sockaddr")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddr(Kind);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Ip(SocketAddr),
    Path(PathBuf),
    Abstract(Box<[u8]>),
    Unnamed,
    /// The number of a family that this crate can't read.
    Other(i32),
}

impl PeerAddr {
    pub(crate) fn ip(address: SocketAddr) -> PeerAddr {
        PeerAddr(Kind::Ip(address))
    }

    pub(crate) fn path(path: PathBuf) -> PeerAddr {
        PeerAddr(Kind::Path(path))
    }

    pub(crate) fn abstract_name(name: Box<[u8]>) -> PeerAddr {
        PeerAddr(Kind::Abstract(name))
    }

    pub(crate) fn unnamed() -> PeerAddr {
        PeerAddr(Kind::Unnamed)
    }

    pub(crate) fn other(family: i32) -> PeerAddr {
        PeerAddr(Kind::Other(family))
    }

    /// The address and the port, of a client that came by IP.
    pub fn as_socket(&self) -> Option<SocketAddr> {
        match self.0 {
            Kind::Ip(address) => Some(address),
            _ => None,
        }
    }

    /// The path that a Unix client's socket is bound to.
    pub fn as_pathname(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The name of a Unix client's socket in Linux's abstract namespace, without the zero that
    /// stands before it.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Abstract(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it is a Unix client whose socket isn't bound.
    pub fn is_unnamed(&self) -> bool {
        self.0 == Kind::Unnamed
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Ip(address) => address.fmt(formatter),
            Kind::Path(path) => path.display().fmt(formatter),
            Kind::Abstract(name) => write!(formatter, "@{}", name.escape_ascii()),
            Kind::Unnamed => formatter.pad("unnamed"),
            Kind::Other(family) => write!(formatter, "address of family {family}"),
        }
    }
}
