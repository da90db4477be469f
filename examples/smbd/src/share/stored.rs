//! What SMB keeps of a file and Unix has no place for: an extended attribute.
//!
//! `user.smbd.attributes` holds a version (1), `FILE_ATTRIBUTE_*` as 32 bits and three FILETIMEs,
//! little-endian: the creation time, 0 for "ask the file system"; a change time that a client has
//! set; and when that was. A value of another form counts as absent. It is written when a client
//! sets something that differs from what a file has without it.
//!
//! No system call sets the change time. The stored one holds until the file system tells of a later
//! change than the storing itself.
//!
//! Most descriptors here are `O_PATH`, which the system calls for extended attributes refuse; the
//! way round is `/proc/self/fd`. The downside: where `/proc` is not mounted, such files have none.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::metadata::attribute;
use crate::wire::{Put, Reader};

const NAME: &CStr = c"user.smbd.attributes";
const VERSION: u8 = 1;
const LEN: usize = 1 + 4 + 8 + 8 + 8;

/// The file system's clock is read at ticks: how far it may be from ours, in FILETIME's units.
const TICK: u64 = 20 * 10_000;

/// What the extended attribute of a file says; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// `FILE_ATTRIBUTE_*` of [`attribute::KEPT`], and `SPARSE_FILE`.
    pub attributes: Option<u32>,
    /// The creation time, a FILETIME.
    pub creation_time: Option<u64>,
    /// A change time, and when it was stored.
    pub change_time: Option<(u64, u64)>,
}

/// Room for `/proc/self/fd/` and a number, a slash and the longest name, and the end.
type PathBuffer = [u8; 32 + 256];

/// The path of a descriptor, or of a name in the directory it stands for.
fn proc_path<'a>(
    buffer: &'a mut PathBuffer,
    fd: impl AsFd,
    name: Option<&CStr>,
) -> Option<&'a CStr> {
    let mut rest = &mut buffer[..];
    write!(rest, "/proc/self/fd/{}", fd.as_fd().as_raw_fd()).ok()?;
    if let Some(name) = name {
        rest.write_all(b"/").ok()?;
        rest.write_all(name.to_bytes()).ok()?;
    }
    rest.write_all(b"\0").ok()?;
    CStr::from_bytes_until_nul(buffer).ok()
}

/// Calls `operation` with a path that leads to the file behind `fd`, whatever its names are now.
///
/// # Errors
///
/// Those of `operation`.
pub fn by_path<T>(
    fd: impl AsFd,
    operation: impl FnOnce(&CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut buffer = [0; 32 + 256];
    operation(proc_path(&mut buffer, fd, None).ok_or(Errno::NAMETOOLONG)?)
}

impl Stored {
    /// What is stored of an open file. Nothing if it can't be told.
    pub fn of(fd: impl AsFd) -> Stored {
        let mut value = [0; LEN];
        let length = match rustix::fs::fgetxattr(&fd, NAME, &mut value) {
            Err(Errno::BADF) => by_path(fd, |path| rustix::fs::getxattr(path, NAME, &mut value)),
            other => other,
        };
        Stored::parse(&value, length)
    }

    /// The same of `name` in a directory, a symbolic link not followed.
    pub fn at(directory: impl AsFd, name: &CStr) -> Stored {
        let mut buffer = [0; 32 + 256];
        let Some(path) = proc_path(&mut buffer, directory, Some(name)) else {
            return Stored::default();
        };
        let mut value = [0; LEN];
        let length = rustix::fs::lgetxattr(path, NAME, &mut value);
        Stored::parse(&value, length)
    }

    fn parse(value: &[u8; LEN], length: Result<usize, Errno>) -> Stored {
        let mut r = Reader::new(value);
        match (length, r.u8(), r.u32(), r.u64(), r.u64(), r.u64()) {
            (Ok(LEN), Ok(VERSION), Ok(attributes), Ok(created), Ok(changed), Ok(at)) => Stored {
                attributes: Some(attributes & (attribute::KEPT | attribute::SPARSE_FILE)),
                creation_time: Some(created).filter(|&time| time != 0),
                change_time: Some((changed, at)).filter(|_| changed != 0),
            },
            _ => Stored::default(),
        }
    }

    /// The change time of a file, given the one that the file system tells.
    pub fn change_time(&self, file_system: u64) -> u64 {
        match self.change_time {
            Some((time, at)) if file_system.abs_diff(at) <= TICK => time,
            _ => file_system,
        }
    }

    /// Stores it for the file behind `fd`. The attributes have to be given.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where the file system has no extended attributes, and what else `setxattr`
    /// fails with.
    pub fn store(self, fd: impl AsFd) -> Result<(), Errno> {
        let mut value = Vec::with_capacity(LEN);
        value.put_u8(VERSION);
        value.put_u32(self.attributes.unwrap_or(0));
        value.put_u64(self.creation_time.unwrap_or(0));
        let (change_time, at) = self.change_time.unwrap_or((0, 0));
        value.put_u64(change_time);
        value.put_u64(at);
        match rustix::fs::fsetxattr(&fd, NAME, &value, XattrFlags::empty()) {
            Err(Errno::BADF) => by_path(fd, |path| {
                rustix::fs::setxattr(path, NAME, &value, XattrFlags::empty())
            }),
            other => other,
        }
    }
}
