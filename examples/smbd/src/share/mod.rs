//! A directory tree as clients may see it.
//!
//! All access goes through the descriptor of the share's root and `openat2`
//! with `RESOLVE_BENEATH`, so neither `..` nor a symbolic link leads out of
//! the tree, whatever is renamed meanwhile. Symbolic links that stay inside are
//! followed; one that does not is as if absent. Names are looked up as given
//! first; only if that fails the directories on the way are searched for a name
//! that differs in case. The downside is that asking for a name that does not
//! exist costs a scan of its directory, unless that is large and its names are
//! [kept](name_cache).

pub mod change;
pub mod changes;
pub mod data;
pub mod directory;
pub mod info;
pub mod metadata;
pub mod name_cache;
pub mod names;
pub mod security;
pub mod short_names;
pub mod stored;
pub mod volume;
pub mod wildcard;

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::wire::status::Status;
use crate::wire::text;
use metadata::{Kind, Metadata};
use name_cache::{Known, NameCache};

/// A shared directory.
#[derive(Debug)]
pub struct Share {
    name: String,
    read_only: bool,
    root: Arc<OwnedFd>,
    name_cache: Arc<Mutex<NameCache>>,
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
    pub fd: Rc<OwnedFd>,
}

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    /// Something.
    Node(Node),
    /// Nothing, but the directory it would be in exists: the path on disk that a new file would
    /// have.
    Absent(Vec<u8>),
}

/// What the data of a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum DataMode {
    Read,
    Write,
    ReadWrite,
}

impl DataMode {
    fn flags(self) -> OFlags {
        match self {
            DataMode::Read => OFlags::RDONLY,
            DataMode::Write => OFlags::WRONLY,
            DataMode::ReadWrite => OFlags::RDWR,
        }
    }
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
            root: Arc::new(root),
            name_cache: Arc::default(),
        })
    }

    /// The same share for those who may only read; it costs no descriptor.
    pub fn for_reading(&self) -> Share {
        Share {
            name: self.name.clone(),
            read_only: true,
            root: Arc::clone(&self.root),
            name_cache: Arc::clone(&self.name_cache),
        }
    }

    /// The name clients connect to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own name and the path of `node` in it, by which clients with different shares tell files
    /// apart.
    pub fn wire_name(&self, node: &Node) -> String {
        self.name.clone() + &node.wire_path()
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
        match self.look_up(components)? {
            Found::Node(node) => Ok(node),
            Found::Absent(_) => Err(Status::OBJECT_NAME_NOT_FOUND),
        }
    }

    /// Finds what `components` (names on disk) lead to, or where it could be made.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_PATH_NOT_FOUND` when a component before the last does not exist or is no
    /// directory, `STATUS_OBJECT_NAME_NOT_FOUND` when the last is a link that leads nowhere, and
    /// what else the file system refuses.
    pub fn look_up(&self, components: &[Vec<u8>]) -> Result<Found, Status> {
        let exact = components.join(&b'/');
        let (path, fd) = match self.open_beneath(&exact, OFlags::PATH) {
            Ok(fd) => (exact, fd),
            Err(Errno::NOENT) => match self.find_ignoring_case(components)? {
                (path, Some(fd)) => (path, fd),
                (path, None) => return Ok(Found::Absent(path)),
            },
            Err(errno) => return Err(Status::from_errno(errno)),
        };
        let metadata = Metadata::of(&fd).map_err(Status::from_errno)?;
        let fd = Rc::new(fd);
        Ok(Found::Node(Node { path, metadata, fd }))
    }

    /// The path on disk; without a descriptor if its last component does not exist.
    fn find_ignoring_case(
        &self,
        components: &[Vec<u8>],
    ) -> Result<(Vec<u8>, Option<OwnedFd>), Status> {
        // Mostly it is the last name only that isn't there.
        if let Some((last, parents)) = components.split_last() {
            let parent = parents.join(&b'/');
            match self.open_beneath(&parent, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(directory) => return self.find_last(&parent, &directory, last),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Status::from_errno(errno)),
            }
        }
        let mut found: (Vec<u8>, Option<OwnedFd>) = (Vec::new(), None);
        for (index, component) in components.iter().enumerate() {
            let is_last = index + 1 == components.len();
            let (parent, directory) = found;
            found = match directory {
                Some(directory) => self.find_last(&parent, &directory, component)?,
                None => self.find_last(&parent, self.root(), component)?,
            };
            if found.1.is_none() && !is_last {
                return Err(Status::OBJECT_PATH_NOT_FOUND);
            }
        }
        Ok(found)
    }

    /// The path of `name`, or what is like it, in the directory `parent`.
    fn find_last(
        &self,
        parent: &[u8],
        directory: impl AsFd,
        name: &[u8],
    ) -> Result<(Vec<u8>, Option<OwnedFd>), Status> {
        let path = join(parent, name);
        let mut found = (self.open_beneath(&path, OFlags::PATH), path);
        if let Err(Errno::NOENT) = found.0
            && let Some(similar) = self.similar_name(&directory, name)?
        {
            let path = join(parent, &similar);
            found = (self.open_beneath(&path, OFlags::PATH), path);
        }
        match found {
            (Ok(fd), path) => Ok((path, Some(fd))),
            (Err(Errno::NOENT), path) => Ok((path, None)),
            (Err(errno), _) => Err(Status::from_errno(errno)),
        }
    }

    /// A name in `directory` that differs from `wanted` in case only, or whose short name is
    /// `wanted`.
    fn similar_name(&self, directory: impl AsFd, wanted: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        let wanted_on_wire = names::to_wire(wanted);
        let asks_for_short = short_names::is_computed(&wanted_on_wire);
        let key = Metadata::key_of(&directory).map_err(Status::from_errno)?;
        // What it holds is right after any panic.
        let mut cache = self
            .name_cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match cache.look_up(key, wanted) {
            Known::As(name) => return Ok(Some(name)),
            Known::Absent if !asks_for_short => return Ok(None),
            Known::Absent | Known::Nothing => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = rustix::fs::openat(&directory, c".", flags, Mode::empty()).and_then(Dir::new);
        let entries = match entries {
            Ok(entries) => entries,
            // What may be passed through but not listed hides such names.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(Errno::NOTDIR) => return Err(Status::OBJECT_PATH_NOT_FOUND),
            Err(errno) => return Err(Status::from_errno(errno)),
        };
        let is_ascii = wanted.is_ascii();
        let mut short_named = None;
        let mut count = 0;
        for entry in entries {
            let entry = entry.map_err(Status::from_errno)?;
            let name = entry.file_name().to_bytes();
            count += 1;
            let same = if is_ascii && name.is_ascii() {
                name.eq_ignore_ascii_case(wanted)
            } else {
                text::same_name(&names::to_wire(name), &wanted_on_wire)
            };
            if same {
                cache.scanned(key, &directory, count);
                return Ok(Some(name.to_vec()));
            }
            if asks_for_short && short_named.is_none() {
                let on_wire = names::to_wire(name);
                if !short_names::is_short(&on_wire)
                    && text::same_name(&short_names::short_name(&on_wire), &wanted_on_wire)
                {
                    short_named = Some(name.to_vec());
                }
            }
        }
        cache.scanned(key, &directory, count);
        Ok(short_named)
    }

    /// Replaces the descriptor of `node` by one for its data, to be read, written or both.
    ///
    /// A directory's is for reading whatever is asked for: that is how it is enumerated and flushed.
    ///
    /// # Errors
    ///
    /// `STATUS_ACCESS_DENIED` for special files and where permission is
    /// missing, and what else the file system refuses.
    pub fn open_data(&self, node: &mut Node, mode: DataMode) -> Result<(), Status> {
        let flags = match node.metadata.kind {
            Kind::Special => return Err(Status::ACCESS_DENIED),
            Kind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            // Should a fifo have taken the name since, this does not wait for
            // its other end.
            Kind::File => mode.flags() | OFlags::NONBLOCK | OFlags::NOCTTY,
        };
        let fd = self
            .open_beneath(&node.path, flags)
            .map_err(Status::from_errno)?;
        let metadata = Metadata::of(&fd).map_err(Status::from_errno)?;
        if !metadata.same_file(&node.metadata) || metadata.kind != node.metadata.kind {
            // The name has passed to another file between the two opens.
            return Err(Status::OBJECT_NAME_NOT_FOUND);
        }
        node.fd = Rc::new(fd);
        node.metadata = metadata;
        Ok(())
    }

    /// Where a file that was opened below this share is now, as far as the kernel knows.
    pub fn current_path(&self, fd: impl AsFd) -> Option<Vec<u8>> {
        let path_of = |fd: BorrowedFd<'_>| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::readlinkat(CWD, link, Vec::new()).ok()
        };
        let root = path_of(self.root())?.into_bytes();
        let path = path_of(fd.as_fd())?.into_bytes();
        let below = path.strip_prefix(&root[..])?;
        let below = match root.ends_with(b"/") {
            true => below,
            false => below.strip_prefix(b"/")?,
        };
        Some(below.to_vec())
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
        self.open_or_create_beneath(path, flags, Mode::empty())
    }

    fn open_or_create_beneath(
        &self,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
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
                mode,
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            );
            match result {
                Err(Errno::AGAIN | Errno::INTR) if attempts < 100 => attempts += 1,
                result => return result,
            }
        }
    }
}

/// The directory a path on disk is in, and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// `parent/name`, or `name` in the root.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}
