//! The queue of immediates: first come first served, with removal from the middle.
//!
//! # Implementation
//!
//! A doubly linked list threaded through the entries, so that scheduling, cancelling and
//! rescheduling cost the same at any length and allocate nothing. Links are indices: what is
//! linked is in the table.
//!
//! Invariant: an entry is linked if and only if it is `queued`, and a linked entry's neighbours
//! link back to it. An entry that is queued without a handler is one whose handler is running and
//! has queued it again.

use crate::key::{Key, Slots};

/// No entry: the end of the list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry<H, T> {
    /// Missing while it runs.
    handler: Option<H>,
    key: Key,
    previous: u32,
    next: u32,
    queued: bool,
    /// Nobody has a handle: when it isn't queued any more, nobody can queue it.
    detached: bool,
    value: T,
}

/// Entries with a handler `H` each and a `T` that means nothing here, some of which are queued.
#[derive(Debug)]
pub(crate) struct ImmediateQueue<H, T> {
    entries: Slots<Entry<H, T>>,
    head: u32,
    tail: u32,
}

/// What is left of a removed entry, to be dropped when nothing is borrowed. The handler is missing
/// when it is running.
pub(crate) type Removed<H, T> = (Option<H>, T);

impl<H, T> ImmediateQueue<H, T> {
    pub(crate) const fn new() -> Self {
        ImmediateQueue {
            entries: Slots::new(),
            head: NONE,
            tail: NONE,
        }
    }

    /// Whether nothing is queued.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Adds an entry that isn't queued. A detached one is to be queued at once.
    pub(crate) fn insert(&mut self, handler: H, value: T, detached: bool) -> Key {
        let key = self.entries.next_key();
        self.entries.insert(Entry {
            handler: Some(handler),
            key,
            previous: NONE,
            next: NONE,
            queued: false,
            detached,
            value,
        })
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(crate) fn is_queued(&self, key: Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.queued)
    }

    /// Puts an entry at the end of the queue, wherever it was before. Returns whether there is
    /// such an entry.
    #[inline]
    pub(crate) fn push(&mut self, key: Key) -> bool {
        if self.entries.get(key).is_some_and(|entry| entry.queued) {
            self.unlink(key.index());
        }
        let tail = self.tail;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.previous = tail;
        entry.next = NONE;
        entry.queued = true;
        self.tail = key.index();
        if tail == NONE {
            self.head = key.index();
        } else if let Some(entry) = self.entries.at_mut(tail) {
            entry.next = key.index();
        }
        true
    }

    /// Takes an entry out of the queue; it can be pushed again.
    pub(crate) fn cancel(&mut self, key: Key) {
        if self.is_queued(key) {
            self.unlink(key.index());
        }
    }

    /// Takes the first entry whose handler isn't running out of the queue, with its handler, which
    /// is to be [put back](ImmediateQueue::put_back).
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(Key, H)> {
        let entry = self.entries.at_mut(self.head)?;
        if let Some(handler) = entry.handler.take() {
            let (key, next) = (entry.key, entry.next);
            entry.queued = false;
            self.head = next;
            match self.entries.at_mut(next) {
                Some(entry) => entry.previous = NONE,
                None => self.tail = NONE,
            }
            return Some((key, handler));
        }
        self.pop_behind_running()
    }

    #[cold]
    fn pop_behind_running(&mut self) -> Option<(Key, H)> {
        let index = self.first_runnable()?;
        self.unlink(index);
        let entry = self.entries.at_mut(index)?;
        Some((entry.key, entry.handler.take()?))
    }

    fn first_runnable(&self) -> Option<u32> {
        let mut next = self.head;
        while let Some(entry) = self.entries.at(next) {
            if entry.handler.is_some() {
                return Some(next);
            }
            next = entry.next;
        }
        None
    }

    /// Whether [`pop`](ImmediateQueue::pop) would return one.
    #[inline]
    pub(crate) fn has_runnable(&self) -> bool {
        !self.is_empty() && self.first_runnable().is_some()
    }

    /// Takes back a handler after it was called. When the entry was removed meanwhile, or nobody
    /// can queue it any more, the handler is returned, to be dropped when nothing is borrowed.
    #[inline]
    pub(crate) fn put_back(&mut self, key: Key, handler: H) -> Option<H> {
        let Some(entry) = self.entries.get_mut(key) else {
            return Some(handler);
        };
        if entry.detached && !entry.queued {
            // Of what is left only the handler has anything to drop.
            self.entries.remove(key);
            return Some(handler);
        }
        entry.handler.replace(handler)
    }

    /// Leaves an entry to itself: it goes when it isn't queued any more, which may be at once.
    pub(crate) fn detach(&mut self, key: Key) -> Option<Removed<H, T>> {
        let entry = self.entries.get_mut(key)?;
        entry.detached = true;
        // If it is running, its handler may queue it yet.
        let unreachable = !entry.queued && entry.handler.is_some();
        unreachable.then(|| self.remove(key)).flatten()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Removed<H, T>> {
        self.cancel(key);
        let entry = self.entries.remove(key)?;
        Some((entry.handler, entry.value))
    }

    /// Empties the queue and gives back what was in it.
    pub(crate) fn take_all(&mut self) -> Vec<Removed<H, T>> {
        (self.head, self.tail) = (NONE, NONE);
        self.entries
            .take_all()
            .into_iter()
            .map(|entry| (entry.handler, entry.value))
            .collect()
    }

    fn unlink(&mut self, index: u32) {
        let Some(entry) = self.entries.at_mut(index) else {
            return;
        };
        entry.queued = false;
        let (previous, next) = (entry.previous, entry.next);
        match self.entries.at_mut(previous) {
            Some(entry) => entry.next = next,
            None => self.head = next,
        }
        match self.entries.at_mut(next) {
            Some(entry) => entry.previous = previous,
            None => self.tail = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_list(operations in prop::collection::vec((0..6u8, any::<prop::sample::Index>()), 0..200)) {
            let mut queue = ImmediateQueue::new();
            let mut keys: Vec<(Key, usize)> = Vec::new();
            let mut model: Vec<usize> = Vec::new();
            let mut running: Vec<(Key, usize)> = Vec::new();
            for (number, (operation, index)) in operations.into_iter().enumerate() {
                let picked = (!keys.is_empty()).then(|| index.index(keys.len()));
                match (operation, picked) {
                    (0, _) => keys.push((queue.insert(number, (), false), number)),
                    (1, Some(picked)) => {
                        let (key, number) = keys[picked];
                        model.retain(|&queued| queued != number);
                        model.push(number);
                        prop_assert!(queue.push(key));
                    }
                    (2, Some(picked)) => {
                        let (key, number) = keys[picked];
                        model.retain(|&queued| queued != number);
                        queue.cancel(key);
                    }
                    (3, Some(picked)) => {
                        let (key, number) = keys.swap_remove(picked);
                        model.retain(|&queued| queued != number);
                        let is_running = running.iter().any(|&(other, _)| other == key);
                        let expected = (!is_running).then_some(number);
                        prop_assert_eq!(queue.remove(key), Some((expected, ())));
                        prop_assert!(!queue.push(key));
                    }
                    (4, _) => {
                        let is_running = |number| running.iter().any(|&(_, other)| other == number);
                        let first = model.iter().position(|&number| !is_running(number));
                        let expected = first.map(|first| model.remove(first));
                        prop_assert_eq!(queue.has_runnable(), expected.is_some());
                        let popped = queue.pop();
                        prop_assert_eq!(popped.map(|(_, number)| number), expected);
                        running.extend(popped);
                    }
                    (5, _) => if let Some((key, number)) = running.pop() {
                        let is_there = keys.iter().any(|&(other, _)| other == key);
                        prop_assert_eq!(queue.put_back(key, number), (!is_there).then_some(number));
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                for &(key, number) in &keys {
                    prop_assert_eq!(queue.is_queued(key), model.contains(&number));
                }
            }
        }
    }
}
