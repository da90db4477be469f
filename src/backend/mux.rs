//! Several events on one descriptor, and the difference between what they want and what the
//! backend knows.
//!
//! A backend sees one registration per descriptor number, a *watch*, with the union of what the
//! events on it want. Changing what an event wants only marks the watch as dirty;
//! [`Mux::flush`], called when the loop is about to wait, tells the backend what differs from what
//! it knows. So turning an interest on and off between two waits costs no system call.
//!
//! # Implementation
//!
//! The usual case is one event on a descriptor, and there event and watch are one entry in one
//! table: the event's key is the backend's [`Token`], and a report is answered after one look.
//!
//! An event that comes to a descriptor that has one joins the *group* of its entry, which goes on
//! being the watch, under the same token, even when its own event is removed before the others.
//! Groups are for the slow path.
//!
//! Invariants:
//!
//! - an entry is a watch, or a member of another entry's group; all entries that are no members
//!   are in `numbers`, by their descriptor;
//! - an entry without a handler is the watch of a group, whose own event is gone;
//! - a group lists the events on its watch, the watch's own included; it has others than that one;
//! - `plain` says yes to what is in `flags`, or to nothing if the watch has a group or the event is
//!   suspended;
//! - `armed` is what the backend was told of a watch, empty if and only if it doesn't know it; a
//!   watch whose `armed` differs from what its events want is in `dirty`, once;
//! - `enabled` counts the events that want something and aren't suspended;
//! - `settled` is empty from the first change on, to what events want or to what the backend knows.

use super::numbers::Numbers;
use super::{Backend, Plain, PlainWait, Readiness, Ready, Token};
use crate::error::errno;
use crate::flags::FdFlags;
use crate::key::{Key, Slots};
use crate::trace::Disarmed;
use bitflags::bitflags;
use slab::Slab;
use std::io;
use std::mem;
use std::os::fd::RawFd;

/// The link of a watch without a group.
const ALONE: u32 = u32::MAX;

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct State: u8 {
        /// It is in another entry's group.
        const MEMBER = 1;
        /// The watch is in the list of dirty ones.
        const DIRTY = 2;
        /// Its handler is running, and so is a loop inside it.
        const SUSPENDED = 4;
    }
}

#[derive(Debug)]
struct Entry<H> {
    handler: Option<H>,
    fd: RawFd,
    /// Of a watch: its group, or [`ALONE`]. Of a member: the place of its watch.
    link: u32,
    flags: FdFlags,
    /// Which reports can be answered at once.
    plain: Plain,
    armed: FdFlags,
    state: State,
}

impl<H> Entry<H> {
    fn wanted(&self) -> FdFlags {
        if self.state.contains(State::SUSPENDED) {
            FdFlags::empty()
        } else {
            self.flags
        }
    }

    fn is_member(&self) -> bool {
        self.state.contains(State::MEMBER)
    }

    /// Whether it is an event that has its watch for itself.
    fn is_alone(&self) -> bool {
        self.link == ALONE
    }

    #[inline]
    fn update_plain(&mut self) {
        self.plain = if self.is_alone() {
            Plain::of(self.wanted())
        } else {
            Plain::NONE
        };
    }
}

/// The events on all descriptors, with a handler `H` each.
#[derive(Debug)]
pub(crate) struct Mux<H> {
    entries: Slots<Entry<H>>,
    /// Those to be served next come first.
    groups: Slab<Vec<Key>>,
    numbers: Numbers,
    dirty: Vec<Key>,
    enabled: usize,
    settled: Option<PlainWait>,
    tells_of_disarmed: bool,
    disarmed: Vec<(Key, Disarmed)>,
}

/// One event to be called, with its handler.
#[derive(Debug)]
pub(crate) struct Delivery<H> {
    pub(crate) key: Key,
    pub(crate) handler: H,
    pub(crate) flags: FdFlags,
    /// Other events on the descriptor may match what is left of its readiness.
    pub(crate) has_siblings: bool,
}

/// What [`Mux::flush`] has come to.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// Why the backend has refused a change, the first one of which somebody has to be told.
    pub(crate) refused: Option<io::Error>,
    /// Why the backend has fallen back to another mechanism. It knows nothing any more: the
    /// registrations are to be forgotten, and everything flushed again.
    pub(crate) fell_back: Option<io::Error>,
}

impl<H: Clone> Mux<H> {
    pub(crate) fn new() -> Self {
        Mux {
            entries: Slots::new(),
            groups: Slab::new(),
            numbers: Numbers::default(),
            dirty: Vec::new(),
            enabled: 0,
            settled: None,
            tells_of_disarmed: false,
            disarmed: Vec::new(),
        }
    }

    /// How to wait, if nothing has changed since somebody has [settled](Mux::settle) that.
    #[inline(always)]
    pub(crate) fn settled(&self) -> Option<PlainWait> {
        self.settled
    }

    /// Notes how to wait until something changes, if all changes are flushed and there is something
    /// to wait for.
    pub(crate) fn settle(&mut self, wait: Option<PlainWait>) {
        self.settled = wait.filter(|_| self.enabled > 0 && self.dirty.is_empty());
    }

    /// How many events want something, those left out whose handler is running a loop.
    #[inline]
    pub(crate) fn enabled(&self) -> usize {
        self.enabled
    }

    /// Whether a [`flush`](Mux::flush) would have something to do.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What an event wants; `None` if there is none.
    #[inline]
    pub(crate) fn flags(&self, key: Key) -> Option<FdFlags> {
        let entry = self.entries.get(key)?;
        entry.handler.as_ref()?;
        Some(entry.flags)
    }

    /// Adds an event and tells the backend at once. When it refuses, what was to be added comes
    /// back, and the other events on the descriptor are as they were.
    pub(crate) fn add(
        &mut self,
        backend: &mut dyn Backend,
        fd: RawFd,
        flags: FdFlags,
        handler: H,
    ) -> Result<Key, (H, io::Error)> {
        self.settled = None;
        // Bits without a meaning would be wanted for ever, and never found.
        let flags = flags & FdFlags::all();
        let watch = self.numbers.get(fd);
        let mut entry = Entry {
            handler: Some(handler),
            fd,
            link: watch.unwrap_or(ALONE),
            flags,
            plain: Plain::NONE,
            armed: FdFlags::empty(),
            state: if watch.is_none() {
                State::empty()
            } else {
                State::MEMBER
            },
        };
        entry.update_plain();
        let key = self.entries.insert(entry);
        match watch {
            Some(watch) => self.join(watch, key),
            None => self.numbers.insert(fd, key.index()),
        }
        self.enabled += usize::from(!flags.is_empty());
        match self.apply(backend, watch.unwrap_or(key.index())) {
            Ok(()) => Ok(key),
            Err(error) => {
                // The backend is as it was, and this takes the event out of our own tables again.
                let handler = self.take_event(key).unwrap_or_else(|| unreachable!());
                Err((handler, error))
            }
        }
    }

    /// Changes what an event wants; the backend is told by the next [`flush`](Mux::flush).
    #[inline]
    pub(crate) fn set_flags(&mut self, key: Key, flags: FdFlags) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let flags = flags & FdFlags::all();
        if entry.flags == flags || entry.handler.is_none() {
            return;
        }
        let was_wanted = !entry.wanted().is_empty();
        entry.flags = flags;
        entry.update_plain();
        self.enabled -= usize::from(was_wanted);
        self.enabled += usize::from(!entry.wanted().is_empty());
        self.mark_dirty(key);
    }

    /// Keeps an event from being called, whose handler is about to run a loop. Returns whether it
    /// could have been called before.
    pub(crate) fn suspend(&mut self, key: Key) -> bool {
        self.set_suspended(key, true)
    }

    /// Lets a suspended event be called again.
    pub(crate) fn resume(&mut self, key: Key) {
        self.set_suspended(key, false);
    }

    fn set_suspended(&mut self, key: Key, suspended: bool) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if entry.state.contains(State::SUSPENDED) == suspended {
            return false;
        }
        entry.state.toggle(State::SUSPENDED);
        entry.update_plain();
        if suspended {
            self.enabled -= usize::from(!entry.flags.is_empty());
        } else {
            self.enabled += usize::from(!entry.flags.is_empty());
        }
        self.mark_dirty(key);
        true
    }

    /// Removes an event and returns its handler, to be dropped when nothing is borrowed. If it was
    /// the last on its descriptor, that is out of the backend's set when this returns. Without a
    /// `backend` (it knows nothing that is ours) only the tables change.
    pub(crate) fn remove(&mut self, backend: Option<&mut dyn Backend>, key: Key) -> Option<H> {
        self.flags(key)?;
        let watch = self.watch_of(key)?;
        let is_last = self.group(watch).is_none_or(|members| members.len() == 1);
        if let (true, Some(backend)) = (is_last, backend) {
            self.unwatch(backend, watch);
        }
        let handler = self.take_event(key);
        if !is_last {
            self.mark_watch_dirty(watch);
        }
        handler
    }

    /// Takes an event, and its watch if it is the last one on it, out of the tables.
    fn take_event(&mut self, key: Key) -> Option<H> {
        let watch = self.watch_of(key)?;
        let entry = self.entries.get(key)?;
        self.settled = None;
        self.enabled -= usize::from(!entry.wanted().is_empty());
        if entry.is_alone() {
            self.numbers.remove(entry.fd);
            return self.entries.remove(key)?.handler;
        }
        self.leave(watch, key);
        if watch == key.index() {
            let entry = self.entries.get_mut(key)?;
            entry.flags = FdFlags::empty();
            entry.state.remove(State::SUSPENDED);
            entry.handler.take()
        } else {
            self.entries.remove(key)?.handler
        }
    }

    /// Puts an event into the group of a watch.
    fn join(&mut self, watch: u32, key: Key) {
        let Some(watch_key) = self.entries.key_at(watch) else {
            return;
        };
        let Some(entry) = self.entries.at_mut(watch) else {
            return;
        };
        if entry.is_alone() {
            entry.link = self.groups.insert(vec![watch_key, key]) as u32;
            entry.update_plain();
        } else if let Some(members) = self.groups.get_mut(entry.link as usize) {
            members.push(key);
        }
    }

    /// Takes an event out of the group of a watch. The group ends when only the watch's own event
    /// is left, and the watch with it when none is.
    fn leave(&mut self, watch: u32, key: Key) {
        let Some(watch_key) = self.entries.key_at(watch) else {
            return;
        };
        let Some(entry) = self.entries.at_mut(watch) else {
            return;
        };
        let group = entry.link as usize;
        let Some(members) = self.groups.get_mut(group) else {
            return;
        };
        members.retain(|&member| member != key);
        match members[..] {
            [] => {
                self.groups.remove(group);
                self.numbers.remove(entry.fd);
                self.entries.remove(watch_key);
            }
            [only] if only == watch_key => {
                self.groups.remove(group);
                entry.link = ALONE;
                entry.update_plain();
            }
            _ => {}
        }
    }

    /// The place of the watch that an event is on.
    #[inline]
    fn watch_of(&self, key: Key) -> Option<u32> {
        let entry = self.entries.get(key)?;
        Some(if entry.is_member() {
            entry.link
        } else {
            key.index()
        })
    }

    /// The events on a watch, if it has a group.
    fn group(&self, watch: u32) -> Option<&[Key]> {
        let group = self.entries.at(watch)?.link as usize;
        self.groups.get(group).map(Vec::as_slice)
    }

    /// Tells the backend what has changed.
    ///
    /// Events on a descriptor that was closed behind our back are disarmed without a word. When
    /// the backend refuses a change for another reason, the events on that descriptor are disarmed
    /// and the first such reason is returned, after all other changes were made.
    pub(crate) fn flush(&mut self, backend: &mut dyn Backend) -> Flushed {
        let mut flushed = Flushed::default();
        while let Some(key) = self.dirty.pop() {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            entry.state.remove(State::DIRTY);
            let Err(error) = self.apply(backend, key.index()) else {
                continue;
            };
            if !concerns_one_descriptor(&error) && backend.fall_back() {
                flushed.fell_back = Some(error);
                return flushed;
            }
            // It must not go on reporting what nobody wants.
            self.unwatch(backend, key.index());
            let closed = matches!(errno(&error), Some(libc::EBADF | libc::ENOENT));
            let reason = match closed {
                true => Disarmed::Closed,
                false => Disarmed::Refused,
            };
            self.disarm(key.index(), reason);
            if !closed {
                flushed.refused.get_or_insert(error);
            }
        }
        flushed
    }

    /// The backend knows nothing any more: marks all watches for the next flush.
    pub(crate) fn forget_registrations(&mut self) {
        self.settled = None;
        for watch in self.watches() {
            if let Some(entry) = self.entries.at_mut(watch) {
                entry.armed = FdFlags::empty();
            }
            self.mark_watch_dirty(watch);
        }
    }

    /// Which event is to be called for what the backend reports of a descriptor, in the usual case:
    /// it is the only one there. `None` says that [`deliver_slowly`](Mux::deliver_slowly) knows.
    #[inline(always)]
    pub(crate) fn deliver(&self, ready: Ready) -> Option<Delivery<H>> {
        let key = Key::from_bits(ready.token().to_bits())?;
        let entry = self.entries.get(key)?;
        let flags = ready.plain_flags(entry.plain)?;
        let handler = entry.handler.clone()?;
        Some(Delivery {
            key,
            handler,
            flags,
            has_siblings: false,
        })
    }

    /// The same in all cases. An event that shares its descriptor goes behind the others; what it
    /// is told is noted in `ready`, as what is left of that is theirs.
    pub(crate) fn deliver_slowly(&mut self, ready: &mut Ready) -> Option<Delivery<H>> {
        let watch = Key::from_bits(ready.token().to_bits())?;
        self.entries.get(watch)?;
        let watch = watch.index();
        let readiness = ready.readiness();
        if readiness.contains(Readiness::INVALID) {
            // The backend still has it, and would report it for ever: the next flush removes it.
            self.disarm(watch, Disarmed::Closed);
            return None;
        }
        let mut position = 0;
        loop {
            let key = match self.group(watch) {
                Some(members) => *members.get(position)?,
                None if position == 0 => self.entries.key_at(watch)?,
                None => return None,
            };
            let entry = self.entries.get(key)?;
            let wanted = entry.wanted();
            let flags = unserved(matching(wanted, readiness), ready.served());
            if !flags.is_empty() {
                let handler = entry.handler.clone()?;
                let group = self.entries.at(watch)?.link as usize;
                let members = self.groups.get_mut(group);
                let has_siblings = members.is_some();
                if let Some(members) = members {
                    members[position..].rotate_left(1);
                    ready.serve(flags);
                }
                return Some(Delivery {
                    key,
                    handler,
                    flags,
                    has_siblings,
                });
            }
            if wanted == FdFlags::WRITE && is_dead(readiness) {
                // It isn't told, and must not spin.
                self.disarm_event(key, Disarmed::HungUp);
            }
            position += 1;
        }
    }

    /// Takes all descriptors out of the backend's set; what the events want stays as it is.
    pub(crate) fn unwatch_all(&mut self, backend: &mut dyn Backend) {
        for watch in self.watches() {
            self.unwatch(backend, watch);
        }
        self.forget_registrations();
    }

    /// Empties the tables and gives back the handlers. The backend is not told.
    pub(crate) fn take_all(&mut self) -> Vec<H> {
        self.groups.clear();
        self.numbers.clear();
        self.dirty.clear();
        self.enabled = 0;
        self.settled = None;
        let entries = self.entries.take_all();
        entries
            .into_iter()
            .filter_map(|entry| entry.handler)
            .collect()
    }

    /// Empties the tables like [`take_all`](Mux::take_all), but leaks the handlers, without writing
    /// to the memory that anything has here. Returns the descriptors that there were events on.
    pub(crate) fn leak_all(&mut self) -> Vec<RawFd> {
        let mut fds = Vec::with_capacity(self.entries.len());
        let entries = self.entries.keys().filter_map(|key| self.entries.get(key));
        let watches = entries.filter(|entry| !entry.is_member());
        fds.extend(watches.map(|watch| watch.fd));
        mem::forget(mem::take(&mut self.groups));
        mem::forget(mem::take(&mut self.numbers));
        mem::forget(mem::take(&mut self.dirty));
        self.enabled = 0;
        self.settled = None;
        self.entries.leak_all();
        fds
    }

    /// The places of all watches.
    fn watches(&self) -> Vec<u32> {
        let is_watch = |key: &Key| {
            self.entries
                .get(*key)
                .is_some_and(|entry| !entry.is_member())
        };
        self.entries
            .keys()
            .filter(is_watch)
            .map(Key::index)
            .collect()
    }

    /// Marks the watch that an event is on.
    #[inline]
    fn mark_dirty(&mut self, key: Key) {
        if let Some(watch) = self.watch_of(key) {
            self.mark_watch_dirty(watch);
        }
    }

    #[inline]
    fn mark_watch_dirty(&mut self, watch: u32) {
        self.settled = None;
        let Some(key) = self.entries.key_at(watch) else {
            return;
        };
        if let Some(entry) = self.entries.at_mut(watch) {
            if !entry.state.contains(State::DIRTY) {
                entry.state.insert(State::DIRTY);
                self.dirty.push(key);
            }
        }
    }

    /// Clears the flags of all events on a watch.
    #[cold]
    fn disarm(&mut self, watch: u32, reason: Disarmed) {
        let members = match self.group(watch) {
            Some(members) => members.to_vec(),
            None => self.entries.key_at(watch).into_iter().collect(),
        };
        for member in members {
            self.disarm_event(member, reason);
        }
    }

    fn disarm_event(&mut self, key: Key, reason: Disarmed) {
        if self.tells_of_disarmed && self.flags(key).is_some_and(|flags| !flags.is_empty()) {
            self.disarmed.push((key, reason));
        }
        self.set_flags(key, FdFlags::empty());
    }

    /// Whether to keep note of events that are disarmed because of what the backend says.
    pub(crate) fn tell_of_disarmed(&mut self, tell: bool) {
        self.tells_of_disarmed = tell;
        self.disarmed.clear();
    }

    /// The events that were disarmed since this was asked last, in that order.
    pub(crate) fn take_disarmed(&mut self) -> Vec<(Key, Disarmed)> {
        mem::take(&mut self.disarmed)
    }

    /// The handler of an event.
    pub(crate) fn handler(&self, key: Key) -> Option<H> {
        self.entries.get(key)?.handler.clone()
    }

    /// The events and their handlers.
    pub(crate) fn events(&self) -> impl Iterator<Item = (Key, H)> {
        let keys = self.entries.keys();
        keys.filter_map(|key| Some((key, self.handler(key)?)))
    }

    /// Takes a watch out of the backend's set, if it is in.
    fn unwatch(&mut self, backend: &mut dyn Backend, watch: u32) {
        self.settled = None;
        let Some(key) = self.entries.key_at(watch) else {
            return;
        };
        if let Some(entry) = self.entries.at_mut(watch) {
            if !entry.armed.is_empty() {
                // Whatever the reason of a failure, the descriptor isn't in the set afterwards.
                let _ = backend.remove(entry.fd, Token::from_bits(key.to_bits()));
                entry.armed = FdFlags::empty();
            }
        }
    }

    /// Makes the backend's view of a watch what its events want.
    fn apply(&mut self, backend: &mut dyn Backend, watch: u32) -> io::Result<()> {
        let Some(key) = self.entries.key_at(watch) else {
            return Ok(());
        };
        let wanted = match self.group(watch) {
            Some(members) => members
                .iter()
                .filter_map(|&member| self.entries.get(member))
                .fold(FdFlags::empty(), |union, entry| union | entry.wanted()),
            None => self
                .entries
                .at(watch)
                .map_or(FdFlags::empty(), Entry::wanted),
        };
        let Some(entry) = self.entries.at_mut(watch) else {
            return Ok(());
        };
        let token = Token::from_bits(key.to_bits());
        if wanted == entry.armed {
            return Ok(());
        } else if entry.armed.is_empty() {
            backend.add(entry.fd, token, wanted)?;
        } else if wanted.is_empty() {
            backend.remove(entry.fd, token)?;
        } else {
            backend.modify(entry.fd, token, wanted)?;
        }
        entry.armed = wanted;
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

/// The same of a descriptor that is added: also that the kernel watches as many as it may, for then
/// those that it watches are better off where they are, and the caller has the new one back.
pub(crate) fn concerns_what_is_added(error: &io::Error) -> bool {
    concerns_one_descriptor(error) || errno(error) == Some(libc::ENOSPC)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ReadyList;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// What was registered by which token.
    #[derive(Default)]
    struct Registry(BTreeMap<RawFd, (Token, FdFlags)>);

    impl Backend for Registry {
        fn name(&self) -> &str {
            "registry"
        }

        fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
            assert!(!interest.is_empty());
            assert_eq!(self.0.insert(fd, (token, interest)), None);
            Ok(())
        }

        fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
            assert!(!interest.is_empty());
            let former = self.0.insert(fd, (token, interest));
            assert_eq!(former.map(|former| former.0), Some(token));
            Ok(())
        }

        fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
            let former = self.0.remove(&fd);
            assert_eq!(former.map(|former| former.0), Some(token));
            Ok(())
        }

        fn wait(&mut self, _: Option<Duration>, _: &mut ReadyList) -> io::Result<()> {
            Ok(())
        }

        fn reopen(&mut self) -> io::Result<()> {
            self.0.clear();
            Ok(())
        }
    }

    #[derive(Clone, Copy)]
    struct Model {
        key: Key,
        fd: RawFd,
        flags: FdFlags,
        suspended: bool,
        handler: usize,
    }

    impl Model {
        fn wanted(&self) -> FdFlags {
            if self.suspended {
                FdFlags::empty()
            } else {
                self.flags
            }
        }
    }

    fn check(mux: &mut Mux<usize>, registry: &mut Registry, model: &[Model]) {
        let flushed = mux.flush(registry);
        assert!(flushed.refused.is_none() && flushed.fell_back.is_none());
        let mut wanted = BTreeMap::<RawFd, FdFlags>::new();
        for event in model {
            assert_eq!(mux.flags(event.key), Some(event.flags));
            *wanted.entry(event.fd).or_default() |= event.wanted();
        }
        wanted.retain(|_, flags| !flags.is_empty());
        let registered: BTreeMap<_, _> = registry.0.iter().map(|(&fd, r)| (fd, r.1)).collect();
        assert_eq!(registered, wanted);
        let enabled = model.iter().filter(|event| !event.wanted().is_empty());
        assert_eq!(mux.enabled(), enabled.count());
        // The short way is for an event that is alone on its descriptor and isn't suspended.
        for event in model {
            let token = Token::from_bits(event.key.to_bits());
            let ready = Ready::new(token, Readiness::READABLE | Readiness::WRITABLE);
            if let Some(delivery) = mux.deliver(ready) {
                assert_eq!((delivery.key, event.suspended), (event.key, false));
                let siblings = model.iter().filter(|other| other.fd == event.fd);
                assert_eq!(siblings.count(), 1);
            }
        }
        // A report reaches each event once that wants something else of it than those before.
        for (&fd, &(token, _)) in &registry.0 {
            let mut ready = Ready::new(token, Readiness::READABLE | Readiness::WRITABLE);
            let mut served = FdFlags::empty();
            loop {
                let delivery = mux
                    .deliver(ready)
                    .or_else(|| mux.deliver_slowly(&mut ready));
                let Some(delivery) = delivery else { break };
                let event = model.iter().find(|event| event.key == delivery.key);
                let event = event.expect("it is there");
                let both = FdFlags::READ | FdFlags::WRITE;
                assert_eq!((event.fd, event.handler), (fd, delivery.handler));
                assert_eq!(delivery.flags, event.wanted() & both);
                assert!(!delivery.flags.intersects(served));
                served |= delivery.flags;
                if !delivery.has_siblings {
                    break;
                }
            }
            for event in model.iter().filter(|event| event.fd == fd) {
                let rest = event.wanted() - FdFlags::ERROR;
                assert!(
                    rest.is_empty() || rest.intersects(served),
                    "it was passed over"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn the_backend_knows_what_is_wanted_and_reports_reach_whom_they_concern(
            operations in prop::collection::vec(
                (0..6, any::<prop::sample::Index>(), 0..3, 0..8u8, any::<bool>()),
                0..60,
            ),
            take_all in any::<bool>(),
        ) {
            let (mut mux, mut registry) = (Mux::new(), Registry::default());
            let mut model = Vec::<Model>::new();
            for (number, (operation, pick, fd, flags, flush)) in operations.into_iter().enumerate() {
                let flags = FdFlags::from_bits_truncate(flags);
                if operation < 2 || model.is_empty() {
                    let added = mux.add(&mut registry, fd, flags, number);
                    let key = added.expect("nothing is refused");
                    let handler = number;
                    model.push(Model { key, fd, flags, suspended: false, handler });
                    continue;
                }
                let picked = pick.index(model.len());
                let event = &mut model[picked];
                match operation {
                    2 => {
                        mux.set_flags(event.key, flags);
                        event.flags = flags;
                    }
                    3 => {
                        prop_assert_eq!(mux.suspend(event.key), !event.suspended);
                        event.suspended = true;
                    }
                    4 => {
                        mux.resume(event.key);
                        event.suspended = false;
                    }
                    _ => {
                        let event = model.remove(picked);
                        let handler = mux.remove(Some(&mut registry), event.key);
                        prop_assert_eq!(handler, Some(event.handler));
                        prop_assert_eq!(mux.flags(event.key), None);
                        prop_assert_eq!(mux.remove(Some(&mut registry), event.key), None);
                        let is_watched = model.iter().any(|other| other.fd == event.fd);
                        prop_assert!(is_watched || !registry.0.contains_key(&event.fd));
                    }
                }
                if flush {
                    check(&mut mux, &mut registry, &model);
                }
            }
            check(&mut mux, &mut registry, &model);
            if take_all {
                prop_assert_eq!(mux.take_all().len(), model.len());
            } else {
                for event in model {
                    prop_assert_eq!(mux.remove(Some(&mut registry), event.key), Some(event.handler));
                }
            }
            prop_assert_eq!((mux.groups.len(), mux.entries.len()), (0, 0));
        }
    }
}
