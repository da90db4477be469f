//! Several events on one descriptor, and the difference between what they want and what the
//! backend knows.
//!
//! A backend sees one registration per descriptor number, a *watch*, with the union of what the
//! events on it want. Changing what an event wants only marks the watch as dirty;
//! [`Mux::flush`], called when the loop is about to wait, tells the backend what differs from what
//! it knows. So turning an interest on and off between two waits costs no system call.
//!
//! Invariants: a watch has at least one event, and its key is the backend's [`Token`];
//! `armed` is what the backend was told, empty if and only if it doesn't know the watch; a watch
//! whose `armed` differs from what its events want is in `dirty`; `enabled` counts the events that
//! want something and aren't suspended.

use super::{Backend, Readiness, Token};
use crate::error::errno;
use crate::flags::FdFlags;
use crate::key::{Key, Slots};
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

#[derive(Debug)]
struct Event<H, T> {
    /// Missing while it runs.
    handler: Option<H>,
    watch: Key,
    flags: FdFlags,
    /// Its handler is running, and so is a loop inside it.
    suspended: bool,
    value: T,
}

impl<H, T> Event<H, T> {
    #[inline]
    fn wanted(&self) -> FdFlags {
        if self.suspended {
            FdFlags::empty()
        } else {
            self.flags
        }
    }
}

/// The events of a watch; those to be served next come first.
#[derive(Debug)]
enum Members {
    One(Key),
    #[allow(clippy::box_collection, reason = "keeps the usual case small")]
    Many(Box<Vec<Key>>),
}

impl Members {
    fn as_slice(&self) -> &[Key] {
        match self {
            Members::One(key) => std::slice::from_ref(key),
            Members::Many(keys) => keys,
        }
    }

    fn push(&mut self, key: Key) {
        match self {
            Members::One(only) => *self = Members::Many(Box::new(vec![*only, key])),
            Members::Many(keys) => keys.push(key),
        }
    }

    fn remove(&mut self, key: Key) {
        if let Members::Many(keys) = self {
            keys.retain(|&other| other != key);
            if let [only] = keys[..] {
                *self = Members::One(only);
            }
        }
    }
}

#[derive(Debug)]
struct Watch {
    fd: RawFd,
    members: Members,
    armed: FdFlags,
    dirty: bool,
}

/// The events on all descriptors, with a handler `H` each and a `T` that means nothing here.
#[derive(Debug)]
pub(crate) struct Mux<H, T> {
    events: Slots<Event<H, T>>,
    watches: Slots<Watch>,
    by_fd: HashMap<RawFd, Key>,
    dirty: Vec<Key>,
    enabled: usize,
}

/// One event to be called, with its handler, which is to be [put back](Mux::put_back).
#[derive(Debug)]
pub(crate) struct Delivery<H> {
    pub(crate) key: Key,
    pub(crate) handler: H,
    pub(crate) flags: FdFlags,
    /// Other events on the descriptor may match what is left of its readiness.
    pub(crate) has_siblings: bool,
}

/// What is left of a removed event, to be dropped when nothing is borrowed. The handler is missing
/// when it is running.
pub(crate) type Removed<H, T> = (Option<H>, T);

/// What [`Mux::flush`] has come to.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// Why the backend has refused a change, the first one of which somebody has to be told.
    pub(crate) refused: Option<io::Error>,
    /// The backend has fallen back to another mechanism and knows nothing any more: the
    /// registrations are to be forgotten, and everything flushed again.
    pub(crate) fell_back: bool,
}

impl<H, T> Mux<H, T> {
    pub(crate) fn new() -> Self {
        Mux {
            events: Slots::new(),
            watches: Slots::new(),
            by_fd: HashMap::new(),
            dirty: Vec::new(),
            enabled: 0,
        }
    }

    /// How many events want something, those left out whose handler is running a loop.
    pub(crate) fn enabled(&self) -> usize {
        self.enabled
    }

    /// Whether a [`flush`](Mux::flush) would have something to do.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The key of the event that is added next.
    pub(crate) fn next_key(&self) -> Key {
        self.events.next_key()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.events.get_mut(key).map(|event| &mut event.value)
    }

    pub(crate) fn flags(&self, key: Key) -> Option<FdFlags> {
        self.events.get(key).map(|event| event.flags)
    }

    /// Adds an event and tells the backend at once. When it refuses, what was to be added comes
    /// back, and the other events on the descriptor are as they were.
    pub(crate) fn add(
        &mut self,
        backend: &mut dyn Backend,
        fd: RawFd,
        flags: FdFlags,
        (handler, value): (H, T),
    ) -> Result<Key, (Removed<H, T>, io::Error)> {
        let (watch, is_new) = match self.by_fd.get(&fd) {
            Some(&watch) => (watch, false),
            None => {
                let watch = Watch {
                    fd,
                    members: Members::One(self.events.next_key()),
                    armed: FdFlags::empty(),
                    dirty: false,
                };
                let watch = self.watches.insert(watch);
                self.by_fd.insert(fd, watch);
                (watch, true)
            }
        };
        let key = self.events.insert(Event {
            handler: Some(handler),
            watch,
            flags,
            suspended: false,
            value,
        });
        if !is_new {
            if let Some(watch) = self.watches.get_mut(watch) {
                watch.members.push(key);
            }
        }
        self.enabled += usize::from(!flags.is_empty());
        match self.apply(backend, watch) {
            Ok(()) => Ok(key),
            Err(error) => {
                // The backend is as it was, and this takes the event out of our own tables again.
                let removed = self.take_event(key).unwrap_or_else(|| unreachable!());
                // So that the caller's second try, with another mechanism, gets the key that the
                // handle has.
                self.events.give_back(key);
                Err((removed, error))
            }
        }
    }

    /// Changes what an event wants; the backend is told by the next [`flush`](Mux::flush).
    #[inline]
    pub(crate) fn set_flags(&mut self, key: Key, flags: FdFlags) {
        let Some(event) = self.events.get_mut(key) else {
            return;
        };
        if event.flags == flags {
            return;
        }
        if !event.suspended {
            self.enabled -= usize::from(!event.flags.is_empty());
            self.enabled += usize::from(!flags.is_empty());
        }
        event.flags = flags;
        let watch = event.watch;
        self.mark_dirty(watch);
    }

    /// Keeps an event from being called, whose handler is about to run a loop.
    pub(crate) fn suspend(&mut self, key: Key) {
        if let Some(event) = self.events.get_mut(key).filter(|event| !event.suspended) {
            event.suspended = true;
            self.enabled -= usize::from(!event.flags.is_empty());
            let watch = event.watch;
            self.mark_dirty(watch);
        }
    }

    /// Takes back the handler of a delivery after it was called, and lets its event be called
    /// again. When the event was removed meanwhile the handler is returned, to be dropped when
    /// nothing is borrowed.
    #[inline]
    pub(crate) fn put_back(&mut self, key: Key, handler: H) -> Option<H> {
        let Some(event) = self.events.get_mut(key) else {
            return Some(handler);
        };
        let former = event.handler.replace(handler);
        if event.suspended {
            self.resume(key);
        }
        former
    }

    #[cold]
    fn resume(&mut self, key: Key) {
        if let Some(event) = self.events.get_mut(key) {
            event.suspended = false;
            self.enabled += usize::from(!event.flags.is_empty());
            let watch = event.watch;
            self.mark_dirty(watch);
        }
    }

    /// Removes an event. If it was the last on its descriptor, that is out of the backend's set
    /// when this returns. Without a `backend` (it knows nothing that is ours) only the tables
    /// change.
    pub(crate) fn remove(
        &mut self,
        backend: Option<&mut dyn Backend>,
        key: Key,
    ) -> Option<Removed<H, T>> {
        let watch_key = self.events.get(key)?.watch;
        let watch = self.watches.get(watch_key)?;
        if let (Members::One(_), Some(backend)) = (&watch.members, backend) {
            if !watch.armed.is_empty() {
                // Whatever the reason of a failure, the descriptor isn't in the set afterwards.
                let _ = backend.remove(watch.fd, Token::from_bits(watch_key.to_bits()));
            }
        }
        let removed = self.take_event(key);
        self.mark_dirty(watch_key);
        removed
    }

    /// Takes an event, and its watch if it is the only one on it, out of the tables.
    fn take_event(&mut self, key: Key) -> Option<Removed<H, T>> {
        let event = self.events.remove(key)?;
        self.enabled -= usize::from(!event.wanted().is_empty());
        if let Some(watch) = self.watches.get_mut(event.watch) {
            if let Members::One(_) = watch.members {
                self.by_fd.remove(&watch.fd);
                self.watches.remove(event.watch);
            } else {
                watch.members.remove(key);
            }
        }
        Some((event.handler, event.value))
    }

    /// Tells the backend what has changed.
    ///
    /// Events on a descriptor that was closed behind our back are disarmed without a word. When
    /// the backend refuses a change for another reason, the events on that descriptor are disarmed
    /// and the first such reason is returned, after all other changes were made.
    pub(crate) fn flush(&mut self, backend: &mut dyn Backend) -> Flushed {
        let mut flushed = Flushed::default();
        while let Some(key) = self.dirty.pop() {
            let Some(watch) = self.watches.get_mut(key) else {
                continue;
            };
            watch.dirty = false;
            let Err(error) = self.apply(backend, key) else {
                continue;
            };
            if !concerns_one_descriptor(&error) && backend.fall_back() {
                flushed.fell_back = true;
                return flushed;
            }
            let armed = self
                .watches
                .get(key)
                .is_some_and(|watch| !watch.armed.is_empty());
            if let Some(watch) = self.watches.get(key).filter(|_| armed) {
                // It must not go on reporting what nobody wants.
                let _ = backend.remove(watch.fd, Token::from_bits(key.to_bits()));
            }
            self.disarm(key);
            let closed = matches!(errno(&error), Some(libc::EBADF | libc::ENOENT));
            if !closed {
                flushed.refused.get_or_insert(error);
            }
        }
        flushed
    }

    /// The backend knows nothing any more: marks all watches for the next flush.
    pub(crate) fn forget_registrations(&mut self) {
        let keys: Vec<Key> = self.watches.keys().collect();
        for key in keys {
            if let Some(watch) = self.watches.get_mut(key) {
                watch.armed = FdFlags::empty();
            }
            self.mark_dirty(key);
        }
    }

    /// Decides which event is called for a descriptor that the backend reports, and puts it behind
    /// the others on that descriptor. `served` says what of the report was delivered before.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        token: Token,
        readiness: Readiness,
        served: FdFlags,
    ) -> Option<Delivery<H>> {
        let watch_key = Key::from_bits(token.to_bits())?;
        let watch = self.watches.get(watch_key)?;
        if let Members::One(key) = watch.members {
            let event = self.events.get_mut(key)?;
            let flags = unserved(matching(event.wanted(), readiness), served);
            if !flags.is_empty() {
                return Some(Delivery {
                    key,
                    handler: event.handler.take()?,
                    flags,
                    has_siblings: false,
                });
            }
        }
        self.deliver_slowly(watch_key, readiness, served)
    }

    /// The cases of several events, of nobody to tell, and of a descriptor that is gone.
    #[cold]
    fn deliver_slowly(
        &mut self,
        watch_key: Key,
        readiness: Readiness,
        served: FdFlags,
    ) -> Option<Delivery<H>> {
        if readiness.contains(Readiness::INVALID) {
            // The backend still has it, and would report it for ever: the next flush removes it.
            self.clear_flags(watch_key);
            return None;
        }
        let watch = self.watches.get_mut(watch_key)?;
        for (position, &key) in watch.members.as_slice().iter().enumerate() {
            // One without a handler is on the stack; it can't be called a second time.
            let Some(event) = self.events.get_mut(key).filter(|e| e.handler.is_some()) else {
                continue;
            };
            let wanted = event.wanted();
            let flags = unserved(matching(wanted, readiness), served);
            if !flags.is_empty() {
                let handler = event.handler.take()?;
                if let Members::Many(keys) = &mut watch.members {
                    keys[position..].rotate_left(1);
                }
                return Some(Delivery {
                    key,
                    handler,
                    flags,
                    has_siblings: matches!(watch.members, Members::Many(_)),
                });
            }
            if wanted == FdFlags::WRITE && is_dead(readiness) {
                // It isn't told, and must not spin.
                self.set_flags(key, FdFlags::empty());
                return self.deliver_slowly(watch_key, readiness, served);
            }
        }
        None
    }

    /// Takes all descriptors out of the backend's set; what the events want stays as it is.
    pub(crate) fn unwatch_all(&mut self, backend: &mut dyn Backend) {
        let keys: Vec<Key> = self.watches.keys().collect();
        for key in keys {
            if let Some(watch) = self
                .watches
                .get(key)
                .filter(|watch| !watch.armed.is_empty())
            {
                let _ = backend.remove(watch.fd, Token::from_bits(key.to_bits()));
            }
        }
        self.forget_registrations();
    }

    /// Empties the tables and gives back what was in them. The backend is not told.
    pub(crate) fn take_all(&mut self) -> Vec<Removed<H, T>> {
        self.watches.take_all();
        self.by_fd.clear();
        self.dirty.clear();
        self.enabled = 0;
        self.events
            .take_all()
            .into_iter()
            .map(|event| (event.handler, event.value))
            .collect()
    }

    #[inline]
    fn mark_dirty(&mut self, key: Key) {
        if let Some(watch) = self.watches.get_mut(key) {
            if !watch.dirty {
                watch.dirty = true;
                self.dirty.push(key);
            }
        }
    }

    /// Clears the flags of all events on a watch that the backend has dropped.
    fn disarm(&mut self, key: Key) {
        if let Some(watch) = self.watches.get_mut(key) {
            watch.armed = FdFlags::empty();
        }
        self.clear_flags(key);
    }

    fn clear_flags(&mut self, key: Key) {
        let Some(watch) = self.watches.get(key) else {
            return;
        };
        for member in watch.members.as_slice().to_vec() {
            self.set_flags(member, FdFlags::empty());
        }
    }

    /// Makes the backend's view of a watch what its events want.
    fn apply(&mut self, backend: &mut dyn Backend, key: Key) -> io::Result<()> {
        let Some(watch) = self.watches.get_mut(key) else {
            return Ok(());
        };
        let wanted = watch
            .members
            .as_slice()
            .iter()
            .filter_map(|&member| self.events.get(member))
            .fold(FdFlags::empty(), |union, event| union | event.wanted());
        let token = Token::from_bits(key.to_bits());
        if wanted == watch.armed {
            return Ok(());
        } else if watch.armed.is_empty() {
            backend.add(watch.fd, token, wanted)?;
        } else if wanted.is_empty() {
            backend.remove(watch.fd, token)?;
        } else {
            backend.modify(watch.fd, token, wanted)?;
        }
        watch.armed = wanted;
        Ok(())
    }
}

/// Whether an error of the backend is about the descriptor, so that no other mechanism would help.
pub(crate) fn concerns_one_descriptor(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(libc::EBADF | libc::ENOENT | libc::EEXIST | libc::EPERM | libc::EINVAL | libc::ELOOP)
    )
}

#[inline]
fn is_dead(readiness: Readiness) -> bool {
    readiness.intersects(Readiness::HANGUP.union(Readiness::ERROR))
}

/// Which of the flags that an event wants a readiness means for it.
#[inline]
fn matching(wanted: FdFlags, readiness: Readiness) -> FdFlags {
    let mut flags = FdFlags::empty();
    flags.set(FdFlags::READ, readiness.contains(Readiness::READABLE));
    flags.set(FdFlags::WRITE, readiness.contains(Readiness::WRITABLE));
    if is_dead(readiness) {
        if !wanted.intersects(FdFlags::READ | FdFlags::ERROR) {
            return FdFlags::empty();
        }
        flags |= FdFlags::READ | FdFlags::ERROR;
    }
    flags & wanted
}

/// What is left for an event of a report of which others had `served`: all or nothing, so that two
/// that share a flag take turns at it by the next wait.
#[inline]
fn unserved(flags: FdFlags, served: FdFlags) -> FdFlags {
    if flags.intersects(served) {
        FdFlags::empty()
    } else {
        flags
    }
}
