//! The kernel's objects that programs are about.

use super::FIRST_NUMBER;
use std::io;
use std::os::fd::RawFd;

#[track_caller]
pub(super) fn check(result: i32) -> i32 {
    assert_ne!(result, -1, "{}", io::Error::last_os_error());
    result
}

pub(super) fn pipe() -> [RawFd; 2] {
    let mut ends = [0; 2];
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) });
    check(unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 4096) });
    ends
}

pub(super) fn socket_pair() -> [RawFd; 2] {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    for end in ends {
        let size: i32 = 4096;
        check(unsafe {
            libc::setsockopt(
                end,
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw const size).cast(),
                size_of_val(&size) as u32,
            )
        });
    }
    ends
}

pub(super) fn file() -> RawFd {
    check(unsafe { libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC) })
}

pub(super) fn number_of(descriptor: usize) -> RawFd {
    FIRST_NUMBER + descriptor as RawFd
}

pub(super) fn null() -> RawFd {
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    check(unsafe { libc::open(c"/dev/null".as_ptr(), flags) })
}

pub(super) fn counter() -> RawFd {
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}
