//! A directory tree as clients may see it.
//!
//! All access goes through the descriptor of the share's root and `openat2`
//! with `RESOLVE_BENEATH`, so neither `..` nor a symbolic link leads out of
//! the tree, whatever is renamed meanwhile. Symbolic links that stay inside are
//! followed; one that does not is as if absent. Names are looked up as given
//! first; only if that fails the directories on the way are searched for a name
//! that differs in case. The downside is that asking for a name that does not
//! exist costs a scan of its directory.

pub mod directory;
pub mod info;
pub mod metadata;
pub mod names;
pub mod security;
pub mod volume;
pub mod wildcard;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::wire::status::Status;
use crate::wire::text;
use metadata::{Kind, Metadata};

/// A shared directory.
#[derive(Debug)]
pub struct Share {
    name: String,
    read_only: bool,
    root: OwnedFd,
}

/// Something found in a share.
#[derive(Debug)]
pub struct Node {
    /// Its path on disk, relative to the root; the root's own is empty.
    pub path: Vec<u8>,
    /// Its metadata when it was found.
    pub metadata: Metadata,
    /// A descriptor that only identifies it (`O_PATH`) until
    /// [`Share::open_data`] replaces it.
    pub fd: OwnedFd,
}

impl Node {
    /// The last component of the path on disk, empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"")
    }

    /// The path as clients write it, `\` for the root.
    pub fn wire_path(&self) -> String {
        if self.path.is_empty() {
            return String::from("\\");
        }
        let mut out = String::new();
        for component in self.path.split(|&byte| byte == b'/') {
            out.push('\\');
            out.push_str(&names::to_wire(component));
        }
        out
    }
}

impl Share {
    /// Shares the directory `path` under `name`.
    ///
    /// # Errors
    ///
    /// What opening the directory fails with.
    pub fn open(name: &str, path: &Path, read_only: bool) -> Result<Share, Errno> {
        let root = rustix::fs::openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Share {
            name: name.to_owned(),
            read_only,
            root,
        })
    }

    /// The name clients connect to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the share was configured not to be written to.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Finds what `components` (names on disk) lead to.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_NOT_FOUND` when the last component does not exist,
    /// `STATUS_OBJECT_PATH_NOT_FOUND` when an earlier one does not or is no
    /// directory, and what else the file system refuses.
    pub fn find(&self, components: &[Vec<u8>]) -> Result<Node, Status> {
        let exact = components.join(&b'/');
        let (path, fd) = match self.open_beneath(&exact, OFlags::PATH) {
            Ok(fd) => (exact, fd),
            Err(Errno::NOENT) => self.find_ignoring_case(components)?,
            Err(errno) => return Err(Status::from_errno(errno)),
        };
        let metadata = Metadata::of(&fd).map_err(Status::from_errno)?;
        Ok(Node { path, metadata, fd })
    }

    fn find_ignoring_case(&self, components: &[Vec<u8>]) -> Result<(Vec<u8>, OwnedFd), Status> {
        let mut found: Option<(Vec<u8>, OwnedFd)> = None;
        for (index, component) in components.iter().enumerate() {
            let absent = match index + 1 == components.len() {
                true => Status::OBJECT_NAME_NOT_FOUND,
                false => Status::OBJECT_PATH_NOT_FOUND,
            };
            let parent = found.map_or(Vec::new(), |(path, _)| path);
            let mut path = join(&parent, component);
            let fd = match self.open_beneath(&path, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    let name = self.similar_name(&parent, component)?.ok_or(absent)?;
                    path = join(&parent, &name);
                    self.open_beneath(&path, OFlags::PATH)
                }
                other => other,
            };
            let fd = fd.map_err(|errno| match errno {
                Errno::NOENT => absent,
                other => Status::from_errno(other),
            })?;
            found = Some((path, fd));
        }
        found.ok_or(Status::OBJECT_NAME_NOT_FOUND)
    }

    /// A name in the directory `parent` that differs from `wanted` in case only.
    fn similar_name(&self, parent: &[u8], wanted: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        let wanted = names::to_wire(wanted);
        let directory = self
            .open_beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(Dir::new);
        let directory = match directory {
            Ok(directory) => directory,
            // What may be passed through but not listed hides such names.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(errno) => return Err(Status::from_errno(errno)),
        };
        for entry in directory {
            let entry = entry.map_err(Status::from_errno)?;
            let name = entry.file_name().to_bytes();
            if text::same_name(&names::to_wire(name), &wanted) {
                return Ok(Some(name.to_vec()));
            }
        }
        Ok(None)
    }

    /// Replaces the descriptor of `node` by one that its data can be read from.
    ///
    /// # Errors
    ///
    /// `STATUS_ACCESS_DENIED` for special files and where permission is
    /// missing, and what else the file system refuses.
    pub fn open_data(&self, node: &mut Node) -> Result<(), Status> {
        let flags = match node.metadata.kind {
            Kind::Special => return Err(Status::ACCESS_DENIED),
            Kind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            // Should a fifo have taken the name since, this does not wait for
            // its other end.
            Kind::File => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        };
        let fd = self
            .open_beneath(&node.path, flags)
            .map_err(Status::from_errno)?;
        let metadata = Metadata::of(&fd).map_err(Status::from_errno)?;
        if !metadata.same_file(&node.metadata) || metadata.kind != node.metadata.kind {
            // The name has passed to another file between the two opens.
            return Err(Status::OBJECT_NAME_NOT_FOUND);
        }
        node.fd = fd;
        node.metadata = metadata;
        Ok(())
    }

    /// The metadata of what `path` (on disk) leads to, links followed.
    ///
    /// # Errors
    ///
    /// What the file system refuses, among it links that leave the share.
    pub fn metadata(&self, path: &[u8]) -> Result<Metadata, Errno> {
        Metadata::of(self.open_beneath(path, OFlags::PATH)?)
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path: &OsStr = match path {
            b"" => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        // EAGAIN: something was renamed while the kernel made sure that a `..`
        // in a symbolic link stays inside. That ends; the bound is for a
        // neighbour who renames without end.
        let mut attempts = 0;
        loop {
            let result = rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            );
            match result {
                Err(Errno::AGAIN | Errno::INTR) if attempts < 100 => attempts += 1,
                result => return result,
            }
        }
    }
}

/// `parent/name`, or `name` in the root.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}
