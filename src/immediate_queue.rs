//! The queue of immediates: first come first served, with removal from the middle.
//!
//! # Implementation
//!
//! A doubly linked list threaded through the entries, so that scheduling, cancelling and
//! rescheduling cost the same at any length and allocate nothing.
//!
//! Invariant: an entry is linked if and only if it is `queued`, and a linked entry's neighbours
//! link back to it.

use crate::key::{Key, Slots};

#[derive(Debug)]
struct Entry<T> {
    value: T,
    previous: Option<Key>,
    next: Option<Key>,
    queued: bool,
}

/// Entries that carry a `T` each, some of which are queued.
#[derive(Debug)]
pub(crate) struct ImmediateQueue<T> {
    entries: Slots<Entry<T>>,
    head: Option<Key>,
    tail: Option<Key>,
    queued: usize,
}

impl<T> ImmediateQueue<T> {
    pub(crate) const fn new() -> Self {
        ImmediateQueue {
            entries: Slots::new(),
            head: None,
            tail: None,
            queued: 0,
        }
    }

    /// How many entries are queued.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Adds an entry that isn't queued.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.entries.insert(Entry {
            value,
            previous: None,
            next: None,
            queued: false,
        })
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(crate) fn is_queued(&self, key: Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.queued)
    }

    /// Puts an entry at the end of the queue, wherever it was before. Returns whether there is
    /// such an entry.
    pub(crate) fn push(&mut self, key: Key) -> bool {
        self.unlink(key);
        let tail = self.tail;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.previous = tail;
        entry.next = None;
        entry.queued = true;
        match tail.and_then(|tail| self.entries.get_mut(tail)) {
            Some(entry) => entry.next = Some(key),
            None => self.head = Some(key),
        }
        self.tail = Some(key);
        self.queued += 1;
        true
    }

    /// Takes an entry out of the queue; it can be pushed again.
    pub(crate) fn unlink(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.queued) else {
            return;
        };
        entry.queued = false;
        let (previous, next) = (entry.previous, entry.next);
        match previous.and_then(|previous| self.entries.get_mut(previous)) {
            Some(entry) => entry.next = next,
            None => self.head = next,
        }
        match next.and_then(|next| self.entries.get_mut(next)) {
            Some(entry) => entry.previous = previous,
            None => self.tail = previous,
        }
        self.queued -= 1;
    }

    /// The first entry in the queue that `wanted` accepts, left where it is.
    #[inline]
    pub(crate) fn first(&self, mut wanted: impl FnMut(&T) -> bool) -> Option<Key> {
        let mut next = self.head;
        while let Some(key) = next {
            let entry = self.entries.get(key)?;
            if wanted(&entry.value) {
                return Some(key);
            }
            next = entry.next;
        }
        None
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.unlink(key);
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// Empties the queue and gives back what was in it.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        (self.head, self.tail, self.queued) = (None, None, 0);
        self.entries
            .take_all()
            .into_iter()
            .map(|entry| entry.value)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_list(operations in prop::collection::vec((0..4u8, any::<prop::sample::Index>()), 0..200)) {
            let mut queue = ImmediateQueue::new();
            let mut keys: Vec<(Key, usize)> = Vec::new();
            let mut model: Vec<usize> = Vec::new();
            for (number, (operation, index)) in operations.into_iter().enumerate() {
                let picked = (!keys.is_empty()).then(|| index.index(keys.len()));
                match (operation, picked) {
                    (0, _) => keys.push((queue.insert(number), number)),
                    (1, Some(picked)) => {
                        let (key, number) = keys[picked];
                        model.retain(|&queued| queued != number);
                        model.push(number);
                        prop_assert!(queue.push(key));
                    }
                    (2, Some(picked)) => {
                        let (key, number) = keys[picked];
                        model.retain(|&queued| queued != number);
                        queue.unlink(key);
                    }
                    (3, Some(picked)) => {
                        let (key, number) = keys.swap_remove(picked);
                        model.retain(|&queued| queued != number);
                        prop_assert_eq!(queue.remove(key), Some(number));
                        prop_assert!(!queue.push(key));
                    }
                    _ => {}
                }
                let mut queued = Vec::new();
                queue.first(|&number| {
                    queued.push(number);
                    false
                });
                prop_assert_eq!(&queued, &model);
                prop_assert_eq!(queue.queued(), model.len());
                for &(key, number) in &keys {
                    prop_assert_eq!(queue.is_queued(key), model.contains(&number));
                }
            }
        }
    }
}
