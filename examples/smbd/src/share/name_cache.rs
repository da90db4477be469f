//! The names in large directories, so that asking for one that doesn't exist, as every CREATE of a
//! new file does, takes no scan of the directory.
//!
//! A directory is watched by inotify first and read then. The kernel queues an event before the
//! system call that has changed a directory returns, so whoever takes in all events before they look
//! knows what the directory holds, whoever has changed it. Where that isn't so, on file systems that
//! others change without this kernel, there is no cache.
//!
//! Names are kept by a hash of their folded form. Where two have the same one (in case alone, or by
//! chance) only a scan can tell them apart.
//!
//! The downsides: an inotify object, of which each system user may have 128; without it, and in more
//! directories than there is room for, directories are scanned. And up to some 20 MB of memory.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::metadata::FileKey;
use super::names;
use crate::wire::text;

/// Directories with fewer names are scanned.
const MIN_NAMES: usize = 64;
/// The most names of all directories.
const MAX_NAMES: usize = 250_000;
/// The most directories.
const MAX_DIRECTORIES: usize = 64;

const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What is known of a name that differs at most in case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// There is none.
    Absent,
    /// It is this one, as it is on disk.
    As(Vec<u8>),
    /// The directory has to be scanned.
    Nothing,
}

/// What has the same hash.
#[derive(Debug)]
enum Name {
    One(Box<[u8]>),
    Several,
}

#[derive(Debug)]
struct Directory {
    watch: i32,
    names: HashMap<u64, Name>,
    /// When it was asked for last.
    used: u64,
}

/// The names in the directories of a share.
#[derive(Debug, Default)]
pub struct NameCache {
    inotify: Option<OwnedFd>,
    /// There is no inotify object to be had.
    is_off: bool,
    hasher: RandomState,
    directories: HashMap<FileKey, Directory>,
    keys: HashMap<i32, FileKey>,
    /// In all directories.
    count: usize,
    clock: u64,
    /// The last directory that was large and not here.
    candidate: Option<FileKey>,
}

impl NameCache {
    /// What is known of `name` in the directory `key`.
    pub fn look_up(&mut self, key: FileKey, name: &[u8]) -> Known {
        self.take_in();
        let hash = self.hash(name);
        self.clock += 1;
        let Some(directory) = self.directories.get_mut(&key) else {
            return Known::Nothing;
        };
        directory.used = self.clock;
        match directory.names.get(&hash) {
            None => Known::Absent,
            Some(Name::One(known)) if is_same(known, name) => Known::As(known.to_vec()),
            Some(_) => Known::Nothing,
        }
    }

    /// A directory has been scanned, which had `count` names. If it is large, and the second time in
    /// a row, its names are kept from now on.
    pub fn scanned(&mut self, key: FileKey, directory: impl AsFd, count: usize) {
        if count < MIN_NAMES || self.is_off || self.directories.contains_key(&key) {
            return;
        }
        if self.candidate != Some(key) {
            self.candidate = Some(key);
            return;
        }
        self.candidate = None;
        if count > MAX_NAMES || !is_local(&directory) {
            return;
        }
        if let Err(errno) = self.keep(key, directory) {
            log::debug!("the names of a directory aren't kept: {errno}");
        }
    }

    fn keep(&mut self, key: FileKey, directory: impl AsFd) -> Result<(), Errno> {
        let inotify = match self.inotify.take() {
            Some(inotify) => inotify,
            None => inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
                .inspect_err(|_| self.is_off = true)?,
        };
        let inotify = self.inotify.insert(inotify);
        let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        let watch = inotify::add_watch(inotify, path, WATCHED)?;
        self.keys.insert(watch, key);
        let empty = Directory {
            watch,
            names: HashMap::new(),
            used: self.clock,
        };
        self.directories.insert(key, empty);
        // From here on events count, those of what is read next too.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let read = rustix::fs::openat(directory, c".", flags, Mode::empty())
            .and_then(Dir::new)
            .and_then(|entries| {
                for entry in entries {
                    self.add(key, entry?.file_name().to_bytes());
                }
                Ok(())
            });
        if read.is_err() {
            self.forget(key);
        }
        self.make_room(key);
        read
    }

    /// Gives up what was not used for longest, `key` last.
    fn make_room(&mut self, key: FileKey) {
        while self.count > MAX_NAMES || self.directories.len() > MAX_DIRECTORIES {
            let others = self.directories.iter().filter(|&(&other, _)| other != key);
            let oldest = others.min_by_key(|(_, directory)| directory.used);
            let oldest = oldest.map_or(key, |(&other, _)| other);
            self.forget(oldest);
        }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        let on_wire = names::to_wire(name);
        let folded: String = on_wire.chars().map(text::fold).collect();
        self.hasher.hash_one(folded)
    }

    fn add(&mut self, key: FileKey, name: &[u8]) {
        let hash = self.hash(name);
        let Some(directory) = self.directories.get_mut(&key) else {
            return;
        };
        match directory.names.entry(hash) {
            Entry::Vacant(place) => {
                place.insert(Name::One(name.into()));
                self.count += 1;
            }
            Entry::Occupied(mut place) => match place.get() {
                Name::One(known) if **known == *name => {}
                _ => _ = place.insert(Name::Several),
            },
        }
    }

    fn remove(&mut self, key: FileKey, name: &[u8]) {
        let hash = self.hash(name);
        let Some(directory) = self.directories.get_mut(&key) else {
            return;
        };
        // Of several, nobody knows how many are left.
        if let Entry::Occupied(place) = directory.names.entry(hash)
            && matches!(place.get(), Name::One(known) if **known == *name)
        {
            place.remove();
            self.count -= 1;
        }
    }

    fn forget(&mut self, key: FileKey) {
        if let Some(directory) = self.directories.remove(&key) {
            self.count -= directory.names.len();
            self.keys.remove(&directory.watch);
            if let Some(inotify) = &self.inotify {
                // It may have gone by itself.
                let _ = inotify::remove_watch(inotify, directory.watch);
            }
        }
    }

    /// Takes in what has changed.
    fn take_in(&mut self) {
        let Some(inotify) = self.inotify.take() else {
            return;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&inotify, &mut buffer);
        let mut is_lost = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    is_lost = true;
                    break;
                }
            };
            let what = event.events();
            is_lost |= what.contains(ReadFlags::QUEUE_OVERFLOW);
            let Some(&key) = self.keys.get(&event.wd()) else {
                continue;
            };
            if what.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT) {
                self.forget(key);
            }
            let Some(name) = event.file_name() else {
                continue;
            };
            if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                self.add(key, name.to_bytes());
            } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
                self.remove(key, name.to_bytes());
            }
        }
        self.inotify = Some(inotify);
        if is_lost {
            for key in self.keys.values().copied().collect::<Vec<_>>() {
                self.forget(key);
            }
        }
        // Directories grow.
        if self.count > MAX_NAMES
            && let Some((&key, _)) = self
                .directories
                .iter()
                .max_by_key(|(_, directory)| directory.used)
        {
            self.make_room(key);
        }
    }
}

fn is_same(a: &[u8], b: &[u8]) -> bool {
    text::same_name(&names::to_wire(a), &names::to_wire(b))
}

/// Whether nobody changes a directory but through this kernel.
#[allow(clippy::useless_conversion)] // the type differs between architectures
fn is_local(directory: impl AsFd) -> bool {
    const EXT: i64 = 0xEF53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683E;
    const BCACHEFS: i64 = 0xCA45_1A4E;
    const F2FS: i64 = 0xF2F5_2010;
    const ZFS: i64 = 0x2FC1_2FC1;
    const TMPFS: i64 = 0x0102_1994;
    const OVERLAY: i64 = 0x794C_7630;
    let local = [EXT, XFS, BTRFS, BCACHEFS, F2FS, ZFS, TMPFS, OVERLAY];
    rustix::fs::fstatfs(directory).is_ok_and(|fs| local.contains(&i64::from(fs.f_type)))
}
