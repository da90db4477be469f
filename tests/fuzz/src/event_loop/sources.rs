//! What is watched: socket pairs, pipes, and a file, which epoll refuses.

use super::backend;
use super::ensure;
use super::model::world;
use libc::c_int;
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// A descriptor that several events may watch.
pub(super) struct Object {
    fd: OwnedFd,
    peer: RefCell<Option<OwnedFd>>,
    is_file: bool,
}

/// What an event owns.
pub(super) struct Source {
    pub(super) object: Rc<Object>,
    pub(super) event: usize,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object.fd.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(world) = world() {
            world.source_is_dropped(self.event);
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        ensure(
            !backend::is_watched(self.fd.as_raw_fd()),
            "a source is out of the set before it is closed",
        );
    }
}

impl Object {
    pub(super) fn new(kind: u8) -> Object {
        let mut ends: [c_int; 2] = [-1; 2];
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the calls fill in two numbers, or return one, that belong to nobody else.
        let (fd, peer) = unsafe {
            match kind % 8 {
                6 => {
                    let file = libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC);
                    ensure(file >= 0, "a memory file can be made");
                    (OwnedFd::from_raw_fd(file), None)
                }
                4 | 5 => {
                    ensure(
                        libc::pipe2(ends.as_mut_ptr(), flags) == 0,
                        "a pipe can be made",
                    );
                    let [read, write] = ends.map(|end| OwnedFd::from_raw_fd(end));
                    if kind % 8 == 4 {
                        (read, Some(write))
                    } else {
                        (write, Some(read))
                    }
                }
                _ => {
                    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                    ensure(
                        libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) == 0,
                        "a socket pair can be made",
                    );
                    let [ours, theirs] = ends.map(|end| OwnedFd::from_raw_fd(end));
                    (ours, Some(theirs))
                }
            }
        };
        Object {
            fd,
            is_file: peer.is_none(),
            peer: RefCell::new(peer),
        }
    }

    pub(super) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    pub(super) fn feed(&self) {
        if let Some(peer) = &*self.peer.borrow() {
            write(peer.as_raw_fd(), &[0]);
        }
    }

    pub(super) fn close_peer(&self) {
        self.peer.take();
    }

    pub(super) fn drain_peer(&self) {
        if let Some(peer) = &*self.peer.borrow() {
            drain(peer.as_raw_fd());
        }
    }

    pub(super) fn half_close_peer(&self) {
        if let Some(peer) = &*self.peer.borrow() {
            // SAFETY: no memory is involved. It fails on a pipe.
            unsafe { libc::shutdown(peer.as_raw_fd(), libc::SHUT_WR) };
        }
    }

    pub(super) fn drain(&self) {
        drain(self.number());
    }

    pub(super) fn fill(&self) {
        // A file would take for ever.
        if !self.is_file {
            while write(self.number(), &[0; 65536]) {}
        }
    }
}

fn write(fd: RawFd, bytes: &[u8]) -> bool {
    // SAFETY: the buffer is as long as said.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) > 0 }
}

fn drain(fd: RawFd) {
    let mut buffer = [0; 4096];
    // SAFETY: the buffer is as long as said.
    while unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// What poll(2) says of a descriptor right now.
pub(super) fn readiness(fd: RawFd, events: i16) -> i16 {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one entry, as said.
    let result = unsafe { libc::poll(&mut entry, 1, 0) };
    ensure(result >= 0, "poll() works");
    entry.revents
}

pub(super) fn is_readable(fd: RawFd) -> bool {
    readiness(fd, libc::POLLIN) != 0
}
