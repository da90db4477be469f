//! What the file system knows of a file, in the protocol's terms.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::stored::Stored;
use crate::wire::create::Attributes;
use crate::wire::time;

/// `FILE_ATTRIBUTE_*` ([MS-FSCC] 2.6).
#[allow(missing_docs)] // the names are the specification's
pub mod attribute {
    pub const READONLY: u32 = 0x0000_0001;
    pub const HIDDEN: u32 = 0x0000_0002;
    pub const SYSTEM: u32 = 0x0000_0004;
    pub const DIRECTORY: u32 = 0x0000_0010;
    pub const ARCHIVE: u32 = 0x0000_0020;
    pub const NORMAL: u32 = 0x0000_0080;
    pub const TEMPORARY: u32 = 0x0000_0100;
    pub const SPARSE_FILE: u32 = 0x0000_0200;
    pub const REPARSE_POINT: u32 = 0x0000_0400;
    pub const COMPRESSED: u32 = 0x0000_0800;
    pub const OFFLINE: u32 = 0x0000_1000;
    pub const NOT_CONTENT_INDEXED: u32 = 0x0000_2000;
    pub const ENCRYPTED: u32 = 0x0000_4000;

    /// What a client may ask a file to have; the rest follows from what it is.
    pub const KEPT: u32 = READONLY | HIDDEN | SYSTEM | ARCHIVE | OFFLINE;
    /// What there is.
    pub const ALL: u32 = KEPT
        | DIRECTORY
        | NORMAL
        | TEMPORARY
        | SPARSE_FILE
        | REPARSE_POINT
        | COMPRESSED
        | NOT_CONTENT_INDEXED
        | ENCRYPTED;
}

/// What kind of thing a name leads to, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A fifo, socket or device. It can be looked at but never opened for
    /// data: that might block, or do whatever the device does when opened.
    Special,
}

/// Device and inode number.
pub type FileKey = (u64, u64);

/// A snapshot of a file's metadata.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permissions, as in `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// The inode number, which is the FileId clients see.
    pub inode: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// What clients have set and the file system has no place for.
    pub stored: Stored,
    /// Whether the file system keeps the creation time.
    knows_birth: bool,
    creation_time: u64,
    last_access_time: u64,
    last_write_time: u64,
    change_time: u64,
    size: u64,
    allocated: u64,
}

impl Metadata {
    /// The metadata of an open file.
    ///
    /// # Errors
    ///
    /// What `statx` fails with.
    pub fn of(fd: impl AsFd) -> Result<Metadata, Errno> {
        let statx = rustix::fs::statx(
            &fd,
            c"",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )?;
        let mut metadata = Metadata::from_statx(&statx);
        if metadata.kind != Kind::Special {
            metadata.stored = Stored::of(fd);
        }
        Ok(metadata)
    }

    /// The key of what is behind `fd`.
    ///
    /// # Errors
    ///
    /// What `statx` fails with.
    pub fn key_of(fd: impl AsFd) -> Result<FileKey, Errno> {
        let statx = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
        let (major, minor) = (statx.stx_dev_major, statx.stx_dev_minor);
        Ok((u64::from(major) << 32 | u64::from(minor), statx.stx_ino))
    }

    /// The metadata of `name` in a directory, or `None` if it is a symbolic link.
    ///
    /// # Errors
    ///
    /// What `statx` fails with.
    pub fn at(directory: impl AsFd, name: &std::ffi::CStr) -> Result<Option<Metadata>, Errno> {
        let statx = rustix::fs::statx(
            &directory,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )?;
        let link = FileType::from_raw_mode(u32::from(statx.stx_mode)) == FileType::Symlink;
        if link {
            return Ok(None);
        }
        let mut metadata = Metadata::from_statx(&statx);
        if metadata.kind != Kind::Special {
            metadata.stored = Stored::at(directory, name);
        }
        Ok(Some(metadata))
    }

    fn from_statx(statx: &Statx) -> Metadata {
        let filetime = |t: StatxTimestamp| time::filetime(t.tv_sec, t.tv_nsec);
        let kind = match FileType::from_raw_mode(u32::from(statx.stx_mode)) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            _ => Kind::Special,
        };
        let modified = filetime(statx.stx_mtime);
        let changed = filetime(statx.stx_ctime);
        let knows_birth = statx.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = if knows_birth {
            filetime(statx.stx_btime)
        } else {
            // The earliest known instant is closest to the truth.
            modified.min(changed)
        };
        Metadata {
            kind,
            mode: statx.stx_mode & 0o7777,
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            links: statx.stx_nlink,
            inode: statx.stx_ino,
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            stored: Stored::default(),
            knows_birth,
            creation_time: born,
            last_access_time: filetime(statx.stx_atime),
            last_write_time: modified,
            change_time: changed,
            size: statx.stx_size,
            allocated: statx.stx_blocks.saturating_mul(512),
        }
    }

    /// Whether both are of the same file.
    pub fn same_file(&self, other: &Metadata) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }

    /// The key of the file among all files of this machine.
    pub fn key(&self) -> FileKey {
        let (major, minor) = self.device;
        (u64::from(major) << 32 | u64::from(minor), self.inode)
    }

    /// Whether the creation time has to be stored for it to be kept.
    pub fn lacks_creation_time(&self) -> bool {
        !self.knows_birth && self.stored.creation_time.is_none()
    }

    /// `FILE_ATTRIBUTE_*`, without what follows from the name.
    ///
    /// A file of which nothing is stored is new to the clients' backup programs: it has ARCHIVE. It
    /// is READONLY if nobody may write it.
    pub fn file_attributes(&self) -> u32 {
        let kept = match (self.stored.attributes, self.kind) {
            (_, Kind::Special) => attribute::SYSTEM,
            (Some(stored), _) => stored,
            (None, Kind::Directory) => 0,
            (None, Kind::File) if self.mode & 0o222 == 0 => {
                attribute::READONLY | attribute::ARCHIVE
            }
            (None, Kind::File) => attribute::ARCHIVE,
        };
        match self.kind {
            Kind::Directory => kept | attribute::DIRECTORY,
            _ => kept,
        }
    }

    /// Whether clients must neither write nor remove it.
    pub fn is_read_only(&self) -> bool {
        self.kind != Kind::Directory && self.file_attributes() & attribute::READONLY != 0
    }

    /// Whether ranges without data are told apart from zeros.
    pub fn is_sparse(&self) -> bool {
        self.file_attributes() & attribute::SPARSE_FILE != 0
    }

    /// When it was written last, as the file system tells it.
    pub fn last_write_time(&self) -> u64 {
        self.last_write_time
    }

    /// Tells another time of the last write.
    pub fn show_last_write_time(&mut self, time: u64) {
        self.last_write_time = time;
    }

    /// When it was changed last, as clients are told.
    pub fn shown_change_time(&self) -> u64 {
        self.stored.change_time(self.change_time)
    }

    /// When it was read last, as the file system tells it.
    pub fn last_access_time(&self) -> u64 {
        self.last_access_time
    }

    /// As CREATE and CLOSE responses and directory entries carry it. The name
    /// counts, too: a leading period hides a file, unless its attributes were set.
    pub fn attributes(&self, name: &[u8]) -> Attributes {
        let mut file_attributes = self.file_attributes();
        let dot_file = name.starts_with(b".") && name != b"." && name != b"..";
        if dot_file && self.stored.attributes.is_none() {
            file_attributes |= attribute::HIDDEN;
        }
        if file_attributes == 0 {
            file_attributes = attribute::NORMAL;
        }
        let is_file = self.kind == Kind::File;
        Attributes {
            creation_time: self.stored.creation_time.unwrap_or(self.creation_time),
            last_access_time: self.last_access_time,
            last_write_time: self.last_write_time,
            change_time: self.stored.change_time(self.change_time),
            // What a directory occupies is no business of clients.
            allocation_size: if is_file { self.allocated } else { 0 },
            end_of_file: self.end_of_file(),
            file_attributes,
        }
    }

    /// The length of a file's data, 0 of everything else.
    pub fn end_of_file(&self) -> u64 {
        if self.kind == Kind::File {
            self.size
        } else {
            0
        }
    }
}
