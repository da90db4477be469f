//! Listening sockets, and what is set on sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{Resource, getrlimit, setrlimit};
use smbd::args::socket_options::SocketOption;

/// How many connections may wait for the accept handler; no more than `net.core.somaxconn` says.
const BACKLOG: i32 = 1024;

/// Takes all descriptors that the system grants. Each client costs the parent two, so that a
/// thousand of them are more than what processes begin with.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of descriptors stays as it is: {e}");
    }
}

/// Opens a non-blocking listening socket.
///
/// It may be opened while connections of an earlier server on the same address
/// linger, and probes silent clients; accepted sockets inherit the latter.
///
/// # Errors
///
/// The address cannot be listened on, or the system does not know one of the options.
pub(crate) fn listen(address: SocketAddr, options: &[SocketOption]) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::TCP),
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    // A reply that waited for the one before it to be acknowledged would hold its client up. What
    // belongs together is sent together.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if address.is_ipv6() {
        // Else `[::]` would take the port of `0.0.0.0` too, and one of them would fail.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    set_options(&socket, options)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Opens the two ends of the line between parent and child, non-blocking.
///
/// # Errors
///
/// There are no descriptors left.
pub(crate) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    Ok((ours.into(), theirs.into()))
}

/// Sets the options of a socket; an accepted one is non-blocking already.
///
/// # Errors
///
/// The connection is gone already, or the system doesn't know one of the options.
pub(crate) fn set_options(socket: &impl AsFd, options: &[SocketOption]) -> io::Result<()> {
    for option in options {
        set_option(socket.as_fd(), option)
            .map_err(|e| io::Error::new(e.kind(), format!("{option:?}: {e}")))?;
    }
    Ok(())
}

fn set_option(socket: impl AsFd, option: &SocketOption) -> rustix::io::Result<()> {
    // RFC 1349, as <netinet/ip.h> names them.
    const IPTOS_LOWDELAY: u8 = 0x10;
    const IPTOS_THROUGHPUT: u8 = 0x08;
    match *option {
        SocketOption::KeepAlive(on) => sockopt::set_socket_keepalive(socket, on),
        SocketOption::ReuseAddr(on) => sockopt::set_socket_reuseaddr(socket, on),
        SocketOption::ReusePort(on) => sockopt::set_socket_reuseport(socket, on),
        SocketOption::Broadcast(on) => sockopt::set_socket_broadcast(socket, on),
        SocketOption::TcpNoDelay(on) => sockopt::set_tcp_nodelay(socket, on),
        SocketOption::TcpQuickAck(on) => sockopt::set_tcp_quickack(socket, on),
        SocketOption::SendBuffer(bytes) => {
            sockopt::set_socket_send_buffer_size(socket, bytes as usize)
        }
        SocketOption::ReceiveBuffer(bytes) => {
            sockopt::set_socket_recv_buffer_size(socket, bytes as usize)
        }
        SocketOption::TcpKeepIdle(time) => sockopt::set_tcp_keepidle(socket, time),
        SocketOption::TcpKeepInterval(time) => sockopt::set_tcp_keepintvl(socket, time),
        SocketOption::TcpKeepCount(probes) => sockopt::set_tcp_keepcnt(socket, probes),
        SocketOption::TcpUserTimeout(time) => {
            let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, milliseconds)
        }
        SocketOption::IpTosLowDelay => sockopt::set_ip_tos(socket, IPTOS_LOWDELAY),
        SocketOption::IpTosThroughput => sockopt::set_ip_tos(socket, IPTOS_THROUGHPUT),
    }
}
