//! Listening sockets: `accept4(2)`, and what its errors mean for the next attempt.

use super::check;
use crate::peer_addr::PeerAddr;
use std::ffi::OsString;
use std::io;
use std::mem::{self, MaybeUninit, offset_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

/// What an error of [`accept`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Nobody waits.
    Nobody,
    /// It is about one client, who has gone: the next may be better.
    Passing,
    /// The client still waits, and another attempt would fail as well: the process or the system
    /// has no descriptors or no memory left, or the socket is broken.
    Lasting,
}

/// What the error with this number says.
pub(crate) fn classify(errno: i32) -> Failure {
    match errno {
        libc::EAGAIN => Failure::Nobody,
        // What accept(2) lists as errors of the new connection, or of the way there.
        libc::ECONNABORTED
        | libc::EINTR
        | libc::EPROTO
        | libc::EPERM
        | libc::ENETDOWN
        | libc::ENOPROTOOPT
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::EOPNOTSUPP
        | libc::ENETUNREACH
        | libc::ENETRESET
        | libc::ECONNRESET
        | libc::ETIMEDOUT
        | libc::EPROTONOSUPPORT
        | libc::ESOCKTNOSUPPORT => Failure::Passing,
        #[cfg(target_os = "linux")]
        libc::ENONET | libc::ENOSR => Failure::Passing,
        // On other systems it has another number.
        _ if errno == libc::EWOULDBLOCK => Failure::Nobody,
        _ => Failure::Lasting,
    }
}

/// Makes a socket fit to be accepted from without waiting: it has to listen, and is made
/// non-blocking, for whoever shares it.
pub(crate) fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let mut listens: libc::c_int = 0;
    let mut length = mem::size_of_val(&listens) as libc::socklen_t;
    // SAFETY: `listens` and `length` are ours, and may be written until the call returns.
    check("getsockopt", unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listens).cast(),
            &mut length,
        )
    })?;
    if listens == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket doesn't listen",
        ));
    }
    // SAFETY: no memory is involved, and the descriptor is borrowed.
    let flags = check("fcntl", unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    if flags & libc::O_NONBLOCK == 0 {
        // SAFETY: as above.
        check("fcntl", unsafe {
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
        })?;
    }
    Ok(())
}

/// Accepts a connection, non-blocking and closed by `exec`. The error is the number that the
/// system gave: mostly it says that nobody waits, which is no occasion to allocate.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<(OwnedFd, PeerAddr), i32> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of_val(&storage) as libc::socklen_t;
    // SAFETY: `storage` and `length` are ours, and `length` says how much of it may be written.
    let result = unsafe { raw_accept(socket.as_raw_fd(), storage.as_mut_ptr(), &mut length) };
    if result == -1 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    // SAFETY: the call has made the descriptor, and nobody else has seen it.
    let connection = unsafe { OwnedFd::from_raw_fd(result) };
    #[cfg(not(target_os = "linux"))]
    make_like_accept4(&connection)?;
    // SAFETY: it consists of numbers, for which zeros are valid, and of what the kernel has written
    // over them.
    let storage = unsafe { storage.assume_init() };
    Ok((connection, address(&storage, length as usize)))
}

/// # Safety
///
/// Both pointers are valid for writes, and `length` says how many bytes there are at `storage`.
#[cfg(target_os = "linux")]
unsafe fn raw_accept(
    fd: libc::c_int,
    storage: *mut libc::sockaddr_storage,
    length: *mut libc::socklen_t,
) -> libc::c_int {
    // SAFETY: as the caller promises.
    unsafe {
        libc::accept4(
            fd,
            storage.cast(),
            length,
            libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        )
    }
}

/// # Safety
///
/// Both pointers are valid for writes, and `length` says how many bytes there are at `storage`.
#[cfg(not(target_os = "linux"))]
unsafe fn raw_accept(
    fd: libc::c_int,
    storage: *mut libc::sockaddr_storage,
    length: *mut libc::socklen_t,
) -> libc::c_int {
    // SAFETY: as the caller promises.
    unsafe { libc::accept(fd, storage.cast(), length) }
}

#[cfg(not(target_os = "linux"))]
fn make_like_accept4(connection: &OwnedFd) -> Result<(), i32> {
    let fd = connection.as_raw_fd();
    // SAFETY: no memory is involved, and the descriptor is open.
    let result = unsafe {
        match libc::fcntl(fd, libc::F_GETFL) {
            -1 => -1,
            flags => libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK).min(libc::fcntl(
                fd,
                libc::F_SETFD,
                libc::FD_CLOEXEC,
            )),
        }
    };
    match result {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => Ok(()),
    }
}

/// The error of an attempt to accept, with its call named.
pub(crate) fn error(errno: i32) -> io::Error {
    crate::error::OsError::wrap("accept4", io::Error::from_raw_os_error(errno))
}

/// Reads the first `length` bytes of what the kernel has filled in.
fn address(storage: &libc::sockaddr_storage, length: usize) -> PeerAddr {
    let at = ptr::from_ref(storage);
    let family = libc::c_int::from(storage.ss_family);
    if family == libc::AF_INET && length >= mem::size_of::<libc::sockaddr_in>() {
        // SAFETY: that family's address has this type, and the storage is large enough and aligned
        // for all of them.
        let v4 = unsafe { &*at.cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        PeerAddr::ip(SocketAddr::V4(SocketAddrV4::new(
            ip,
            u16::from_be(v4.sin_port),
        )))
    } else if family == libc::AF_INET6 && length >= mem::size_of::<libc::sockaddr_in6>() {
        // SAFETY: as above.
        let v6 = unsafe { &*at.cast::<libc::sockaddr_in6>() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        PeerAddr::ip(SocketAddr::V6(SocketAddrV6::new(
            ip,
            u16::from_be(v6.sin6_port),
            v6.sin6_flowinfo,
            v6.sin6_scope_id,
        )))
    } else if family == libc::AF_UNIX || length < offset_of!(libc::sockaddr_un, sun_path) {
        // SAFETY: as above.
        unix_address(unsafe { &*at.cast::<libc::sockaddr_un>() }, length)
    } else {
        PeerAddr::other(family)
    }
}

fn unix_address(unix: &libc::sockaddr_un, length: usize) -> PeerAddr {
    let length = length.saturating_sub(offset_of!(libc::sockaddr_un, sun_path));
    let bytes = unix.sun_path.iter().take(length);
    #[allow(
        clippy::unnecessary_cast,
        reason = "characters are signed on some systems"
    )]
    let bytes: Vec<u8> = bytes.map(|&character| character as u8).collect();
    match bytes.split_first() {
        None => PeerAddr::unnamed(),
        Some((0, name)) if cfg!(target_os = "linux") => PeerAddr::abstract_name(name.into()),
        Some((0, _)) => PeerAddr::unnamed(),
        Some(_) => {
            let path = bytes.into_iter().take_while(|&byte| byte != 0).collect();
            PeerAddr::path(OsString::from_vec(path).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX_HEAD: usize = offset_of!(libc::sockaddr_un, sun_path);

    /// What the kernel would fill in: zeros but for what `fill` writes.
    fn filled<A>(fill: impl FnOnce(&mut A)) -> libc::sockaddr_storage {
        // SAFETY: it consists of numbers, for which zeros are valid.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: the storage is large enough and aligned for all addresses, and zeros are valid in
        // each of them.
        fill(unsafe { &mut *ptr::from_mut(&mut storage).cast::<A>() });
        storage
    }

    fn v4() -> libc::sockaddr_storage {
        filled(|v4: &mut libc::sockaddr_in| {
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = 445u16.to_be();
            v4.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        })
    }

    fn v6() -> libc::sockaddr_storage {
        filled(|v6: &mut libc::sockaddr_in6| {
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = 445u16.to_be();
            v6.sin6_addr.s6_addr = Ipv6Addr::LOCALHOST.octets();
            v6.sin6_flowinfo = 7;
            v6.sin6_scope_id = 2;
        })
    }

    fn unix(name: &[u8]) -> libc::sockaddr_storage {
        filled(|unix: &mut libc::sockaddr_un| {
            unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
            for (place, &byte) in unix.sun_path.iter_mut().zip(name) {
                *place = byte as _;
            }
        })
    }

    #[test]
    fn internet_addresses_are_read_whole() {
        let length = mem::size_of::<libc::sockaddr_in>();
        let read = address(&v4(), length);
        assert_eq!(read.as_socket(), Some("127.0.0.1:445".parse().unwrap()));
        let longer = mem::size_of::<libc::sockaddr_storage>();
        assert_eq!(address(&v4(), longer), read);

        let length = mem::size_of::<libc::sockaddr_in6>();
        let expected = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 445, 7, 2);
        let read = address(&v6(), length);
        assert_eq!(read.as_socket(), Some(expected.into()));
        assert_eq!(address(&v6(), longer), read);
    }

    #[test]
    fn an_internet_address_that_was_cut_short_is_not_read() {
        let short = mem::size_of::<libc::sockaddr_in>() - 1;
        assert_eq!(address(&v4(), short), PeerAddr::other(libc::AF_INET));
        let short = mem::size_of::<libc::sockaddr_in6>() - 1;
        assert_eq!(address(&v6(), short), PeerAddr::other(libc::AF_INET6));
    }

    #[test]
    fn no_more_of_a_unix_address_is_read_than_there_is() {
        let read = |name, length| address(&unix(name), UNIX_HEAD + length);
        assert_eq!(read(b"", 0), PeerAddr::unnamed());
        assert_eq!(read(b"/run/client", 0), PeerAddr::unnamed());
        assert_eq!(read(b"/run/client", 4), PeerAddr::path("/run".into()));
        let whole = PeerAddr::path("/run/client".into());
        assert_eq!(read(b"/run/client", 11), whole);
        assert_eq!(read(b"/run/client", 12), whole, "with its zero");
        assert_eq!(read(b"/run/client", 1000), whole);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn abstract_names_may_have_zeros() {
        let read = |length| address(&unix(b"\0a\0b"), UNIX_HEAD + length);
        assert_eq!(read(4), PeerAddr::abstract_name(b"a\0b"[..].into()));
        assert_eq!(read(3), PeerAddr::abstract_name(b"a\0"[..].into()));
        assert_eq!(read(1), PeerAddr::abstract_name([].into()));
    }

    /// Some systems say nothing of an unnamed peer, not even the family.
    #[test]
    fn of_an_address_that_is_not_there_nothing_is_read() {
        let nothing = filled(|_: &mut libc::sockaddr| ());
        assert_eq!(address(&nothing, 0), PeerAddr::unnamed());
        assert_eq!(address(&nothing, UNIX_HEAD - 1), PeerAddr::unnamed());
        assert_eq!(address(&unix(b"/run"), UNIX_HEAD - 1), PeerAddr::unnamed());
    }

    #[test]
    fn other_families_are_named_by_their_number() {
        let vsock = filled(|other: &mut libc::sockaddr| {
            other.sa_family = libc::AF_UNIX as libc::sa_family_t + 39;
        });
        for length in [UNIX_HEAD, mem::size_of::<libc::sockaddr_storage>()] {
            let read = address(&vsock, length);
            assert_eq!(read.to_string(), "address of family 40");
            assert_eq!((read.as_socket(), read.as_pathname()), (None, None));
            assert_eq!(read.as_abstract_name(), None);
            assert!(!read.is_unnamed());
        }
    }
}
