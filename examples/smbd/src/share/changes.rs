//! Changes of directories, as inotify tells them ([MS-FSA] 2.1.5.11, [MS-FSCC] 2.7.1).
//!
//! A [`Changes`] is one inotify object, made when the first directory is watched. Whoever owns it
//! waits until [its descriptor](Changes::source) is readable, then calls [`Changes::read`]. What
//! happens to a watched directory collects in its [`Watch`], from which it is taken.
//!
//! inotify knows no trees: where a whole tree is watched, each of its directories is. The downsides:
//! large trees take long to begin with and are watched up to [`MAX_DIRECTORIES`] only; what happens
//! in a new directory before it is watched too goes unseen; and the kernel tells neither which
//! attribute has changed nor of each of its users more than 128 inotify objects.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::Waker;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{join, names};
use crate::wire::Put;

/// The most directories that one client has watched, those in trees included.
pub const MAX_DIRECTORIES: usize = 8192;
/// The deepest directory of a tree that is watched.
const MAX_DEPTH: usize = 64;

/// What a client wants to be told ([MS-SMB2] 2.2.35).
#[allow(missing_docs)] // the names are the specification's
pub mod filter {
    pub const FILE_NAME: u32 = 0x001;
    pub const DIR_NAME: u32 = 0x002;
    pub const ATTRIBUTES: u32 = 0x004;
    pub const SIZE: u32 = 0x008;
    pub const LAST_WRITE: u32 = 0x010;
    pub const LAST_ACCESS: u32 = 0x020;
    pub const CREATION: u32 = 0x040;
    pub const EA: u32 = 0x080;
    pub const SECURITY: u32 = 0x100;
    pub const ALL: u32 = 0xFFF;
}

/// `FILE_ACTION_*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Action {
    Added = 1,
    Removed = 2,
    Modified = 3,
    RenamedOldName = 4,
    RenamedNewName = 5,
}

/// A directory that is watched, or a tree.
#[derive(Debug)]
pub struct Watch {
    directory: OwnedFd,
    filter: u32,
    is_tree: bool,
    /// How many bytes of changes are kept until they are taken.
    limit: usize,
    changes: RefCell<VecDeque<(Action, String)>>,
    length: Cell<usize>,
    /// Changes have been lost.
    has_overflowed: Cell<bool>,
    /// The directory itself is gone.
    is_gone: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

/// What has become of a watched directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// These changes, as `FILE_NOTIFY_INFORMATION`.
    Changes(Vec<u8>),
    /// More changes than can be told.
    Overflow,
    /// It is gone itself.
    Gone,
}

impl Watch {
    /// Takes what has changed, `None` if nothing has. `room` is the most bytes there may be.
    pub fn take(&self, room: usize) -> Option<Taken> {
        if self.has_overflowed.take() {
            self.clear();
            return Some(Taken::Overflow);
        }
        if self.changes.borrow().is_empty() {
            return self.is_gone.get().then_some(Taken::Gone);
        }
        let mut out = Vec::with_capacity(self.length.get());
        let mut last = 0;
        for (action, name) in self.changes.borrow().iter() {
            out.align(0, 4);
            let start = out.len();
            if start > 0 {
                out.patch_u32(last, (start - last) as u32);
            }
            last = start;
            out.put_u32(0); // NextEntryOffset
            out.put_u32(*action as u32);
            out.put_u32(0);
            name.encode_utf16().for_each(|unit| out.put_u16(unit));
            let length = out.len() - start - 12;
            out.patch_u32(start + 8, length as u32);
        }
        self.clear();
        Some(match out.len() <= room {
            true => Taken::Changes(out),
            false => Taken::Overflow,
        })
    }

    fn clear(&self) {
        self.changes.borrow_mut().clear();
        self.length.set(0);
    }

    /// Has `waker` woken when something changes.
    pub fn wake_later(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Wakes who waits for changes.
    pub fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    fn add(&self, action: Action, name: &str) {
        let mut changes = self.changes.borrow_mut();
        let repeats = |(last, known): &(Action, String)| {
            action == Action::Modified && *last == action && known == name
        };
        if changes.back().is_some_and(repeats) {
            return;
        }
        let length = self.length.get() + (12 + 2 * name.encode_utf16().count()).next_multiple_of(4);
        if length > self.limit {
            self.has_overflowed.set(true);
            changes.clear();
            self.length.set(0);
        } else if !self.has_overflowed.get() {
            self.length.set(length);
            changes.push_back((action, name.to_owned()));
        }
        drop(changes);
        self.wake();
    }

    fn overflow(&self) {
        self.has_overflowed.set(true);
        self.clear();
        self.wake();
    }
}

/// What is known of an inotify watch: which [`Watch`]es it serves, and its path below them.
#[derive(Debug, Default)]
struct Directory {
    users: Vec<(Weak<Watch>, Vec<u8>)>,
}

/// The watched directories of a client.
#[derive(Debug, Default)]
pub struct Changes {
    inotify: RefCell<Option<Rc<OwnedFd>>>,
    directories: RefCell<HashMap<i32, Directory>>,
}

const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

/// An event, taken out of the kernel's buffer.
struct Event {
    directory: i32,
    what: ReadFlags,
    cookie: u32,
    name: Vec<u8>,
}

impl Changes {
    /// What becomes readable when something has changed; nothing before the first watch.
    pub fn source(&self) -> Option<Rc<OwnedFd>> {
        self.inotify.borrow().clone()
    }

    /// Watches a directory. Up to `limit` bytes of changes are kept.
    ///
    /// # Errors
    ///
    /// The system's limits are reached, or the directory can't be watched.
    pub fn watch(
        &self,
        directory: impl AsFd,
        filter: u32,
        is_tree: bool,
        limit: usize,
    ) -> Result<Rc<Watch>, Errno> {
        let directory = rustix::io::fcntl_dupfd_cloexec(directory, 0)?;
        if self.inotify.borrow().is_none() {
            let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            self.inotify.replace(Some(Rc::new(made)));
        }
        let watch = Rc::new(Watch {
            directory,
            filter,
            is_tree,
            limit,
            changes: RefCell::default(),
            length: Cell::new(0),
            has_overflowed: Cell::new(false),
            is_gone: Cell::new(false),
            wakers: RefCell::default(),
        });
        self.add(&watch.directory, &watch, b"")?;
        if is_tree && let Ok(root) = open_directory(&watch.directory, b".") {
            let watched = self.add_below(root, &watch, b"");
            if let Err(errno) = watched {
                log::info!("a directory is not watched: {errno}");
            }
        }
        Ok(watch)
    }

    /// Watches one directory for `watch`, below which it is `path`. `false` if it was already.
    fn add(&self, directory: impl AsFd, watch: &Rc<Watch>, path: &[u8]) -> Result<bool, Errno> {
        let inotify = self.inotify.borrow().clone().ok_or(Errno::BADF)?;
        let mut directories = self.directories.borrow_mut();
        if directories.len() >= MAX_DIRECTORIES {
            return Err(Errno::NOSPC);
        }
        let here = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        let number = inotify::add_watch(&inotify, here, WATCHED)?;
        let users = &mut directories.entry(number).or_default().users;
        let is_watch =
            |user: &(Weak<Watch>, Vec<u8>)| std::ptr::eq(user.0.as_ptr(), Rc::as_ptr(watch));
        if users.iter().any(|user| is_watch(user) && user.1 == path) {
            return Ok(false);
        }
        users.retain(|user| !is_watch(user));
        users.push((Rc::downgrade(watch), path.to_vec()));
        Ok(true)
    }

    /// Watches a directory of a tree, and all below it.
    fn add_tree(&self, watch: &Rc<Watch>, path: &[u8]) {
        // It may have gone again.
        if let Ok(directory) = open_directory(&watch.directory, path)
            && let Err(errno) = self.add_opened(directory, watch, path)
        {
            log::info!("a directory is not watched: {errno}");
        }
    }

    fn add_opened(&self, directory: OwnedFd, watch: &Rc<Watch>, path: &[u8]) -> Result<(), Errno> {
        if !self.add(&directory, watch, path)? {
            // What was below it then is watched, and of what has come since there are events.
            return Ok(());
        }
        self.add_below(directory, watch, path)
    }

    /// Watches all below `directory`, which is watched itself.
    fn add_below(&self, directory: OwnedFd, watch: &Rc<Watch>, path: &[u8]) -> Result<(), Errno> {
        let components = path.split(|&byte| byte == b'/');
        if components.filter(|name| !name.is_empty()).count() >= MAX_DEPTH {
            return Ok(());
        }
        let Ok(mut entries) = Dir::new(directory) else {
            return Ok(());
        };
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            let may_be_directory =
                matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if !may_be_directory || matches!(name, b"." | b"..") {
                continue;
            }
            let child = entries.fd().and_then(|fd| open_directory(fd, name));
            if let Ok(child) = child {
                self.add_opened(child, watch, &join(path, name))?;
            }
        }
        Ok(())
    }

    /// Gives up what nobody watches any more.
    pub fn tidy(&self) {
        let Some(inotify) = self.source() else {
            return;
        };
        self.directories.borrow_mut().retain(|&number, directory| {
            directory.users.retain(|(user, _)| user.strong_count() > 0);
            if directory.users.is_empty() {
                // It may have gone by itself.
                let _ = inotify::remove_watch(&inotify, number);
            }
            !directory.users.is_empty()
        });
    }

    /// Takes in what has changed.
    pub fn read(&self) {
        let Some(inotify) = self.source() else {
            return;
        };
        let mut events = VecDeque::new();
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => events.push_back(Event {
                    directory: event.wd(),
                    what: event.events(),
                    cookie: event.cookie(),
                    name: event
                        .file_name()
                        .map_or(Vec::new(), |name| name.to_bytes().to_vec()),
                }),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        while let Some(event) = events.pop_front() {
            let is_pair = |next: &Event| {
                next.what.contains(ReadFlags::MOVED_TO)
                    && next.cookie == event.cookie
                    && next.directory == event.directory
            };
            let new_name = match event.what.contains(ReadFlags::MOVED_FROM) {
                true if events.front().is_some_and(is_pair) => events.pop_front(),
                _ => None,
            };
            self.tell(&event, new_name.as_ref());
        }
    }

    fn tell(&self, event: &Event, new_name: Option<&Event>) {
        if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            let directories = self.directories.borrow();
            let users = directories.values().flat_map(|directory| &directory.users);
            for watch in users.filter_map(|(user, _)| user.upgrade()) {
                watch.overflow();
            }
            return;
        }
        let users: Vec<(Rc<Watch>, Vec<u8>)> = {
            let mut directories = self.directories.borrow_mut();
            let Some(directory) = directories.get(&event.directory) else {
                return;
            };
            let users = directory.users.iter();
            let users = users
                .filter_map(|(user, path)| Some((user.upgrade()?, path.clone())))
                .collect();
            if event.what.contains(ReadFlags::IGNORED) {
                directories.remove(&event.directory);
            }
            users
        };
        for (watch, prefix) in users {
            if event.what.contains(ReadFlags::DELETE_SELF) {
                if prefix.is_empty() {
                    watch.is_gone.set(true);
                    watch.wake();
                }
                continue;
            }
            let path = join(&prefix, &event.name);
            let new_path = new_name.map(|event| join(&prefix, &event.name));
            let is_directory = event.what.contains(ReadFlags::ISDIR);
            for (action, path) in actions(event, &path, new_path.as_deref()) {
                if watch.filter & concerned(action, event.what, is_directory) != 0 {
                    watch.add(action, &wire_path(path));
                }
            }
            if watch.is_tree && is_directory {
                if event.what.contains(ReadFlags::MOVED_FROM) {
                    self.forget_below(&watch, &path);
                }
                if let Some(new_path) = &new_path {
                    self.add_tree(&watch, new_path);
                } else if event
                    .what
                    .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                {
                    self.add_tree(&watch, &path);
                }
            }
        }
    }

    /// A directory has left its place in a tree.
    fn forget_below(&self, watch: &Rc<Watch>, path: &[u8]) {
        for directory in self.directories.borrow_mut().values_mut() {
            directory.users.retain(|(user, place)| {
                let is_below = place
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
                !(is_below && std::ptr::eq(user.as_ptr(), Rc::as_ptr(watch)))
            });
        }
    }
}

/// Opens a directory below another one.
fn open_directory(parent: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        parent,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// What an event means, and to which paths.
fn actions<'a>(
    event: &Event,
    path: &'a [u8],
    new_path: Option<&'a [u8]>,
) -> Vec<(Action, &'a [u8])> {
    if let Some(new_path) = new_path {
        return vec![
            (Action::RenamedOldName, path),
            (Action::RenamedNewName, new_path),
        ];
    }
    let what = event.what;
    if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        vec![(Action::Added, path)]
    } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        vec![(Action::Removed, path)]
    } else if what.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) && !event.name.is_empty() {
        vec![(Action::Modified, path)]
    } else {
        Vec::new()
    }
}

/// The filters that an event concerns.
fn concerned(action: Action, what: ReadFlags, is_directory: bool) -> u32 {
    match action {
        Action::Modified if what.contains(ReadFlags::MODIFY) => filter::SIZE | filter::LAST_WRITE,
        // The kernel doesn't tell which.
        Action::Modified => {
            filter::ATTRIBUTES
                | filter::LAST_WRITE
                | filter::LAST_ACCESS
                | filter::CREATION
                | filter::EA
                | filter::SECURITY
        }
        _ if is_directory => filter::DIR_NAME,
        _ => filter::FILE_NAME,
    }
}

/// A path as clients write it.
fn wire_path(path: &[u8]) -> String {
    let components: Vec<String> = path
        .split(|&byte| byte == b'/')
        .map(names::to_wire)
        .collect();
    components.join("\\")
}
