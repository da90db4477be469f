//! Making, renaming and removing what is in a share, and changing what is known of it.
//!
//! A directory is looked up beneath the share's root first, then the system calls get its
//! descriptor and one name. None of them follows a symbolic link that this name might be, so
//! nothing outside of the share is ever changed, whatever is renamed meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps,
};
use rustix::io::Errno;

use super::metadata::{FileKey, Kind, Metadata, attribute};
use super::stored::{Stored, by_path};
use super::{DataMode, Node, Share, split};
use crate::wire::status::Status;
use crate::wire::time;

/// Permissions of new files and directories, less the process's umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);

/// `nsec` of an instant that stays.
const UTIME_OMIT: i64 = 0x3FFF_FFFE;

impl Share {
    /// Makes a file with a path on disk that [`Share::look_up`] has found free, and opens it.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is something by now, perhaps a symbolic link that leads nowhere, and what
    /// else the file system refuses.
    pub fn create_file(&self, path: Vec<u8>, mode: DataMode) -> Result<Node, Errno> {
        let flags = mode.flags() | OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY;
        let fd = self.open_or_create_beneath(&path, flags, FILE_MODE)?;
        let metadata = Metadata::of(&fd)?;
        let fd = Rc::new(fd);
        Ok(Node { path, metadata, fd })
    }

    /// Makes a directory likewise.
    ///
    /// # Errors
    ///
    /// As for [`Share::create_file`].
    pub fn create_directory(&self, path: Vec<u8>) -> Result<Node, Errno> {
        let (parent, name) = self.directory_of(&path)?;
        rustix::fs::mkdirat(&parent, name, DIRECTORY_MODE)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        let metadata = Metadata::of(&fd)?;
        let fd = Rc::new(fd);
        Ok(Node { path, metadata, fd })
    }

    /// Removes the name `path` (on disk) of `file`, a directory only if it is empty.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_NOT_FOUND` if the name has passed to something else,
    /// `STATUS_DIRECTORY_NOT_EMPTY`, and what else the file system refuses.
    pub fn remove(&self, path: &[u8], file: FileKey) -> Result<(), Status> {
        if path.is_empty() {
            return Err(Status::ACCESS_DENIED); // the share itself
        }
        let (parent, name) = self.directory_of_file(path, file)?;
        unlink(&parent, name).map_err(Status::from_errno)
    }

    /// Gives `node` the path `target` on disk. With `replace` a file of that name goes away.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_COLLISION` if there is something and `replace` is not set,
    /// `STATUS_ACCESS_DENIED` if it is a directory, `STATUS_OBJECT_NAME_NOT_FOUND` if the name of
    /// `node` has passed to something else, and what else the file system refuses.
    pub fn rename(&self, node: &mut Node, target: Vec<u8>, replace: bool) -> Result<(), Status> {
        if node.path.is_empty() {
            return Err(Status::ACCESS_DENIED);
        }
        let (from, old) = self.directory_of_file(&node.path, node.metadata.key())?;
        let (to, new) = self.directory_of(&target).map_err(path_status)?;
        if replace {
            match Metadata::at(&to, &c_name(new)?) {
                Ok(Some(there)) if there.kind == Kind::Directory => {
                    return Err(Status::ACCESS_DENIED);
                }
                // To the kernel two names of one file are as they should be already.
                Ok(Some(there)) if there.same_file(&node.metadata) => {
                    unlink(&from, old).map_err(Status::from_errno)?;
                    node.path = target;
                    return Ok(());
                }
                _ => {}
            }
            rustix::fs::renameat(&from, old, &to, new).map_err(rename_status)?;
        } else {
            match rustix::fs::renameat_with(&from, old, &to, new, RenameFlags::NOREPLACE) {
                // The file system doesn't know the flag: then there is a moment between the two.
                Err(Errno::INVAL | Errno::NOSYS) if !node.is_inside(&target) => {
                    if exists(&to, new) {
                        return Err(Status::OBJECT_NAME_COLLISION);
                    }
                    rustix::fs::renameat(&from, old, &to, new).map_err(rename_status)?;
                }
                result => result.map_err(rename_status)?,
            }
        }
        node.path = target;
        Ok(())
    }

    /// Changes the case of the last component of the path of `node`.
    ///
    /// # Errors
    ///
    /// As for [`Share::rename`].
    pub fn change_case(&self, node: &mut Node, target: Vec<u8>) -> Result<(), Status> {
        let (parent, old) = self.directory_of_file(&node.path, node.metadata.key())?;
        let (_, new) = split(&target);
        rustix::fs::renameat(&parent, old, &parent, OsStr::from_bytes(new))
            .map_err(rename_status)?;
        node.path = target;
        Ok(())
    }

    /// Makes `target`, a path on disk, another name of `node`.
    ///
    /// # Errors
    ///
    /// As for [`Share::rename`]; `STATUS_FILE_IS_A_DIRECTORY` for a directory.
    pub fn link(&self, node: &Node, target: &[u8], replace: bool) -> Result<(), Status> {
        if node.metadata.kind == Kind::Directory {
            return Err(Status::FILE_IS_A_DIRECTORY);
        }
        let (to, new) = self.directory_of(target).map_err(path_status)?;
        if replace {
            match Metadata::at(&to, &c_name(new)?) {
                Ok(Some(there)) if there.same_file(&node.metadata) => return Ok(()),
                Ok(Some(there)) if there.kind == Kind::Directory || there.is_read_only() => {
                    return Err(Status::ACCESS_DENIED);
                }
                Ok(Some(_)) => unlink(&to, new).map_err(Status::from_errno)?,
                _ => {}
            }
        }
        let linked = by_path(&node.fd, |path| {
            rustix::fs::linkat(rustix::fs::CWD, path, &to, new, AtFlags::SYMLINK_FOLLOW)
        });
        linked.map_err(rename_status)
    }

    /// Whether this process may remove the name of `node`.
    pub fn may_remove(&self, node: &Node) -> bool {
        let Ok((parent, _)) = self.directory_of(&node.path) else {
            return false;
        };
        if !may(&parent, Access::WRITE_OK | Access::EXEC_OK) {
            return false;
        }
        let user = rustix::process::geteuid();
        if user.is_root() || user.as_raw() == node.metadata.uid {
            return true;
        }
        // In a directory like /tmp only the owners of file and directory may.
        match rustix::fs::fstat(&parent) {
            Ok(stat) => stat.st_mode & 0o1000 == 0 || stat.st_uid == user.as_raw(),
            Err(_) => false,
        }
    }

    /// The directory that `path` on disk is in, and its last component.
    fn directory_of<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (parent, name) = split(path);
        let fd = self.open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((fd, OsStr::from_bytes(name)))
    }

    /// The same, if the path still leads to `file`.
    fn directory_of_file<'a>(
        &self,
        path: &'a [u8],
        file: FileKey,
    ) -> Result<(OwnedFd, &'a OsStr), Status> {
        match self.metadata(path) {
            Ok(there) if there.key() == file => {}
            Ok(_) => return Err(Status::OBJECT_NAME_NOT_FOUND),
            Err(errno) => return Err(Status::from_errno(errno)),
        }
        self.directory_of(path).map_err(path_status)
    }

    /// Waits until everything written to `node` is on the disk, with what is known of it.
    ///
    /// # Errors
    ///
    /// What the file system refuses, of which data may have been lost.
    pub fn sync(&self, node: &Node) -> Result<(), Status> {
        match rustix::fs::fsync(&node.fd) {
            // Open by `O_PATH`, as for a directory that is not to be enumerated.
            Err(Errno::BADF) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let fd = self.open_beneath(&node.path, flags);
                rustix::fs::fsync(fd.map_err(Status::from_errno)?)
            }
            // A file system that can't have its directories synced keeps them in order itself.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        }
        .map_err(Status::from_errno)
    }

    /// Whether there is nothing in the directory `node`.
    ///
    /// # Errors
    ///
    /// What the file system refuses.
    pub fn is_empty(&self, node: &Node) -> Result<bool, Status> {
        let directory = self
            .open_beneath(&node.path, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(rustix::fs::Dir::new)
            .map_err(Status::from_errno)?;
        for entry in directory {
            let entry = entry.map_err(Status::from_errno)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Node {
    /// Whether `path` leads below this one.
    fn is_inside(&self, path: &[u8]) -> bool {
        path.strip_prefix(&self.path[..])
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// Brings the metadata up to date.
    ///
    /// # Errors
    ///
    /// What the file system refuses.
    pub fn refresh(&mut self) -> Result<(), Status> {
        self.metadata = Metadata::of(&self.fd).map_err(Status::from_errno)?;
        Ok(())
    }

    /// Sets `FILE_ATTRIBUTE_*`, and the creation time if one is given.
    ///
    /// Where the file system has no extended attributes, READONLY takes the permission to write
    /// from everybody, and the rest is forgotten.
    ///
    /// # Errors
    ///
    /// `STATUS_ACCESS_DENIED` where permission is missing, and what else the file system refuses.
    pub fn set_attributes(
        &mut self,
        attributes: Option<u32>,
        creation_time: Option<u64>,
    ) -> Result<(), Status> {
        if self.metadata.kind == Kind::Special {
            return Err(Status::ACCESS_DENIED);
        }
        let before = self.metadata.file_attributes();
        let sparse = before & attribute::SPARSE_FILE;
        let wanted = attributes.unwrap_or(before) & attribute::KEPT | sparse;
        let stored = Stored {
            attributes: Some(wanted),
            creation_time: creation_time.or(self.metadata.stored.creation_time),
            change_time: None,
        };
        self.store(stored)
    }

    /// Sets the time of the last change, to hold until the next one.
    ///
    /// # Errors
    ///
    /// As for [`Node::set_attributes`].
    pub fn set_change_time(&mut self, change_time: u64) -> Result<(), Status> {
        let attributes = self.metadata.file_attributes();
        self.store(Stored {
            attributes: Some(attributes & (attribute::KEPT | attribute::SPARSE_FILE)),
            creation_time: self.metadata.stored.creation_time,
            change_time: Some((change_time, time::now())),
        })
    }

    /// Sets or clears `FILE_ATTRIBUTE_SPARSE_FILE`.
    ///
    /// # Errors
    ///
    /// As for [`Node::set_attributes`].
    pub fn set_sparse(&mut self, sparse: bool) -> Result<(), Status> {
        let others = self.metadata.file_attributes() & attribute::KEPT;
        let sparse = if sparse { attribute::SPARSE_FILE } else { 0 };
        self.store(Stored {
            attributes: Some(others | sparse),
            creation_time: self.metadata.stored.creation_time,
            change_time: None,
        })
    }

    fn store(&mut self, stored: Stored) -> Result<(), Status> {
        let attributes = stored.attributes.unwrap_or(0);
        let before = self.metadata.file_attributes() & !attribute::DIRECTORY;
        if attributes == before
            && stored.creation_time == self.metadata.stored.creation_time
            && stored.change_time == self.metadata.stored.change_time
        {
            return Ok(()); // what it would have without being stored need not be
        }
        match stored.store(&self.fd) {
            Ok(()) => {
                self.metadata.stored = stored;
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::NOENT) => {
                let read_only = attributes & attribute::READONLY != 0;
                if read_only != self.metadata.is_read_only() && self.metadata.kind == Kind::File {
                    let write = if read_only { 0 } else { 0o200 };
                    self.set_mode(self.metadata.mode & !0o222 | write)?;
                }
                Ok(())
            }
            Err(errno) => Err(Status::from_errno(errno)),
        }
    }

    /// Sets the permissions.
    ///
    /// # Errors
    ///
    /// `STATUS_ACCESS_DENIED` for all but the owner, and what else the file system refuses.
    pub fn set_mode(&mut self, mode: u16) -> Result<(), Status> {
        let bits = Mode::from_raw_mode(u32::from(mode));
        match rustix::fs::fchmod(&self.fd, bits) {
            Err(Errno::BADF) => by_path(&self.fd, |path| rustix::fs::chmod(path, bits)),
            other => other,
        }
        .map_err(Status::from_errno)?;
        self.metadata.mode = mode;
        Ok(())
    }

    /// Sets the times of the last access and the last write, FILETIMEs, where given.
    ///
    /// # Errors
    ///
    /// As for [`Node::set_mode`].
    pub fn set_times(&self, access: Option<u64>, write: Option<u64>) -> Result<(), Status> {
        let timespec = |time: Option<u64>| match time {
            Some(time) => {
                let (tv_sec, tv_nsec) = time::unix_time(time);
                Timespec {
                    tv_sec,
                    tv_nsec: tv_nsec.into(),
                }
            }
            None => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
        };
        let times = Timestamps {
            last_access: timespec(access),
            last_modification: timespec(write),
        };
        match rustix::fs::utimensat(&self.fd, c"", &times, AtFlags::EMPTY_PATH) {
            // Kernels before 5.8.
            Err(Errno::INVAL | Errno::NOENT) => by_path(&self.fd, |path| {
                rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty())
            }),
            other => other,
        }
        .map_err(Status::from_errno)
    }
}

/// Whether this process may do this to the file behind `fd`. Where that can't be told, doing it will
/// tell.
pub fn may(fd: impl AsFd, access: Access) -> bool {
    let allowed = by_path(fd, |path| {
        rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS)
    });
    !matches!(allowed, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

fn c_name(name: &OsStr) -> Result<std::ffi::CString, Status> {
    std::ffi::CString::new(name.as_bytes()).map_err(|_| Status::OBJECT_NAME_INVALID)
}

fn exists(directory: impl AsFd, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Removes a name, whatever it is the name of.
fn unlink(directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let statx = rustix::fs::statx(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::TYPE,
    )?;
    let flags = match FileType::from_raw_mode(u32::from(statx.stx_mode)) {
        FileType::Directory => AtFlags::REMOVEDIR,
        _ => AtFlags::empty(),
    };
    rustix::fs::unlinkat(directory, name, flags)
}

/// For a directory on the way.
fn path_status(errno: Errno) -> Status {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP => Status::OBJECT_PATH_NOT_FOUND,
        other => Status::from_errno(other),
    }
}

fn rename_status(errno: Errno) -> Status {
    match errno {
        Errno::EXIST | Errno::NOTEMPTY => Status::OBJECT_NAME_COLLISION,
        Errno::ISDIR | Errno::NOTDIR => Status::ACCESS_DENIED,
        Errno::XDEV => Status::NOT_SAME_DEVICE,
        // Into itself.
        Errno::INVAL => Status::INVALID_PARAMETER,
        other => Status::from_errno(other),
    }
}
