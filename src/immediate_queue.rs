//! The queue of immediates: first come first served, with removal from the middle.
//!
//! # Implementation
//!
//! A ring of items: indices into a table of entries, or lists of what runs once and needs no entry.
//! An entry knows its position in the ring, counted from the first item there ever was, so that
//! scheduling, cancelling and rescheduling cost the same at any length. What is cancelled leaves a
//! gap; when there are more gaps than items the ring is compacted.
//!
//! Invariants: an entry is `queued` if and only if the item at its position is its index; `items`
//! counts the items that aren't gaps, and the list that was taken out of the ring. An entry that is
//! queued without a handler is one whose handler is running and has queued it again.

use crate::key::{Key, Slots};
use std::collections::VecDeque;
use std::mem;

/// How many gaps are not worth the trouble.
const GAPS: usize = 32;

#[derive(Debug)]
struct Entry<H, T> {
    /// Missing while it runs.
    handler: Option<H>,
    key: Key,
    position: u32,
    queued: bool,
    /// Nobody has a handle: when it isn't queued any more, nobody can queue it.
    detached: bool,
    value: T,
}

#[derive(Debug)]
enum Item<L> {
    Gap,
    /// The entry with this index.
    Entry(u32),
    /// A list that isn't empty.
    Once(L),
}

/// What runs once each.
pub(crate) trait List: Iterator {
    /// Whether `next` would return none.
    fn is_empty(&self) -> bool;

    /// How many it will return.
    fn len(&self) -> usize;
}

/// Entries with a handler `H` each and a `T` that means nothing here, some of which are queued,
/// and lists `L` of what is queued once.
#[derive(Debug)]
pub(crate) struct ImmediateQueue<H, T, L> {
    entries: Slots<Entry<H, T>>,
    /// The list that was the first item of all, if that was one and isn't used up.
    current: Option<L>,
    ring: VecDeque<Item<L>>,
    /// The position of the first item in the ring.
    first: u32,
    items: usize,
}

/// What is first in the queue.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Popped<H, O> {
    /// A handler that is to be [put back](ImmediateQueue::put_back).
    Entry(Key, H),
    Once(O),
}

/// What is left of a removed entry, to be dropped when nothing is borrowed. The handler is missing
/// when it is running.
pub(crate) type Removed<H, T> = (Option<H>, T);

impl<H, T, L: List> ImmediateQueue<H, T, L> {
    pub(crate) const fn new() -> Self {
        ImmediateQueue {
            entries: Slots::new(),
            current: None,
            ring: VecDeque::new(),
            first: 0,
            items: 0,
        }
    }

    /// Whether nothing is queued.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// How much is queued.
    pub(crate) fn queued(&self) -> usize {
        let items = self.ring.iter().map(|item| match item {
            Item::Gap => 0,
            Item::Entry(_) => 1,
            Item::Once(list) => list.len(),
        });
        items.sum::<usize>() + self.current.as_ref().map_or(0, L::len)
    }

    /// How many entries there are, queued or not.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.entries.keys()
    }

    /// Adds an entry that isn't queued.
    pub(crate) fn insert(&mut self, handler: H, value: T) -> Key {
        let key = self.entries.next_key();
        self.entries.insert(Entry {
            handler: Some(handler),
            key,
            position: 0,
            queued: false,
            detached: false,
            value,
        })
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(crate) fn is_queued(&self, key: Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.queued)
    }

    /// Puts at the end of the queue what is in a list, which isn't empty.
    #[inline]
    pub(crate) fn push_once(&mut self, list: L) {
        debug_assert!(!list.is_empty());
        self.ring.push_back(Item::Once(list));
        self.items += 1;
    }

    /// Puts an entry at the end of the queue, wherever it was before. Returns whether there is
    /// such an entry.
    #[inline]
    pub(crate) fn push(&mut self, key: Key) -> bool {
        let end = self.first.wrapping_add(self.ring.len() as u32);
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let former = entry.queued.then_some(entry.position);
        entry.position = end;
        entry.queued = true;
        self.ring.push_back(Item::Entry(key.index()));
        self.items += 1;
        if let Some(position) = former {
            self.take_out(position);
        }
        true
    }

    /// Takes an entry out of the queue; it can be pushed again.
    pub(crate) fn cancel(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            if mem::replace(&mut entry.queued, false) {
                let position = entry.position;
                self.take_out(position);
            }
        }
    }

    /// Makes a gap of an item.
    fn take_out(&mut self, position: u32) {
        let place = position.wrapping_sub(self.first) as usize;
        if let Some(item) = self.ring.get_mut(place) {
            *item = Item::Gap;
            self.items -= 1;
        }
        if self.ring.len() > 2 * self.items + GAPS {
            self.compact();
        }
    }

    #[cold]
    fn compact(&mut self) {
        self.ring.retain(|item| !matches!(item, Item::Gap));
        let mut position = self.first;
        for item in &self.ring {
            if let &Item::Entry(index) = item {
                if let Some(entry) = self.entries.at_mut(index) {
                    entry.position = position;
                }
            }
            position = position.wrapping_add(1);
        }
    }

    /// Takes the first that isn't running out of the queue.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Popped<H, L::Item>> {
        loop {
            if let Some(once) = self.pop_current() {
                return Some(Popped::Once(once));
            }
            match self.ring.front_mut()? {
                Item::Gap => self.drop_first(),
                Item::Once(_) => {
                    if let Some(Item::Once(list)) = self.ring.pop_front() {
                        self.current = Some(list);
                    }
                    self.first = self.first.wrapping_add(1);
                }
                &mut Item::Entry(index) => {
                    // What is queued has an entry.
                    let entry = self.entries.at_mut(index)?;
                    let Some(handler) = entry.handler.take() else {
                        return self.pop_behind_running();
                    };
                    entry.queued = false;
                    let key = entry.key;
                    self.drop_first();
                    self.items -= 1;
                    return Some(Popped::Entry(key, handler));
                }
            }
        }
    }

    /// Takes the next of the list that is first, if the last that was popped was of it.
    #[inline(always)]
    pub(crate) fn pop_current(&mut self) -> Option<L::Item> {
        let list = self.current.as_mut()?;
        let once = list.next();
        if list.is_empty() {
            self.current = None;
            self.items -= 1;
        }
        once
    }

    /// Lets go of the list that [`pop_current`](ImmediateQueue::pop_current) takes from.
    pub(crate) fn end_current(&mut self) -> Option<L> {
        let list = self.current.take()?;
        self.items -= 1;
        Some(list)
    }

    #[inline]
    fn drop_first(&mut self) {
        self.ring.pop_front();
        self.first = self.first.wrapping_add(1);
    }

    /// There is no current list.
    #[cold]
    fn pop_behind_running(&mut self) -> Option<Popped<H, L::Item>> {
        let place = self.first_runnable()?;
        let item = self.ring.get_mut(place)?;
        let popped = match item {
            Item::Gap => return None,
            Item::Once(list) => {
                let popped = list.next().map(Popped::Once);
                if !list.is_empty() {
                    // What is left of it keeps its place.
                    return popped;
                }
                popped
            }
            &mut Item::Entry(index) => {
                let entry = self.entries.at_mut(index)?;
                entry.queued = false;
                Some(Popped::Entry(entry.key, entry.handler.take()?))
            }
        };
        *item = Item::Gap;
        self.items -= 1;
        popped
    }

    fn first_runnable(&self) -> Option<usize> {
        self.ring.iter().position(|item| match item {
            Item::Gap => false,
            Item::Once(_) => true,
            &Item::Entry(index) => {
                let entry = self.entries.at(index);
                entry.is_some_and(|entry| entry.handler.is_some())
            }
        })
    }

    /// Whether [`pop`](ImmediateQueue::pop) would return one.
    #[inline]
    pub(crate) fn has_runnable(&self) -> bool {
        self.current.is_some() || !self.is_empty() && self.first_runnable().is_some()
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

    /// Empties the queue and gives back what was in it, the entries and what was queued once.
    pub(crate) fn take_all(&mut self) -> (Vec<Removed<H, T>>, Vec<L>) {
        self.items = 0;
        let queued = mem::take(&mut self.ring).into_iter();
        let queued = queued.filter_map(|item| match item {
            Item::Once(once) => Some(once),
            _ => None,
        });
        let once = self.current.take().into_iter().chain(queued);
        let entries = self.entries.take_all().into_iter();
        let entries = entries.map(|entry| (entry.handler, entry.value));
        (entries.collect(), once.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Numbers = ImmediateQueue<usize, (), std::vec::IntoIter<usize>>;

    impl List for std::vec::IntoIter<usize> {
        fn is_empty(&self) -> bool {
            ExactSizeIterator::len(self) == 0
        }

        fn len(&self) -> usize {
            ExactSizeIterator::len(self)
        }
    }

    impl Numbers {
        /// The invariants of the module's documentation.
        fn check(&self) {
            let gaps = self.ring.iter().filter(|item| matches!(item, Item::Gap));
            let current = usize::from(self.current.is_some());
            assert_eq!(self.items, current + self.ring.len() - gaps.count());
            assert!(
                self.current
                    .as_ref()
                    .is_none_or(|list| !List::is_empty(list))
            );
            let mut queued = 0;
            for (place, item) in (0..).zip(&self.ring) {
                if let &Item::Entry(index) = item {
                    let entry = self.entries.at(index).expect("what is queued has an entry");
                    assert!(entry.queued);
                    assert_eq!(entry.position, self.first.wrapping_add(place));
                    queued += 1;
                }
            }
            let entries = self.entries.keys().filter(|&key| self.is_queued(key));
            assert_eq!(queued, entries.count());
        }
    }

    #[test]
    fn gaps_do_not_pile_up() {
        let mut queue = Numbers::new();
        let first = queue.insert(0, ());
        assert!(queue.push(first));
        let second = queue.insert(1, ());
        for _ in 0..1000 {
            assert!(queue.push(second));
            queue.cancel(second);
            queue.check();
            assert!(queue.ring.len() <= 2 * queue.items + GAPS);
        }
        assert!(matches!(queue.pop(), Some(Popped::Entry(key, 0)) if key == first));
    }

    #[test]
    fn what_is_taken_from_behind_a_running_one_leaves_a_gap() {
        let mut queue = Numbers::new();
        let first = queue.insert(0, ());
        assert!(queue.push(first));
        let Some(Popped::Entry(_, handler)) = queue.pop() else {
            panic!("it is queued");
        };
        // It is on the stack, and queued again.
        assert!(queue.push(first));
        let others: Vec<_> = (1..4).map(|number| queue.insert(number, ())).collect();
        for &other in &others {
            assert!(queue.push(other));
        }
        for number in 1..4 {
            assert!(matches!(queue.pop(), Some(Popped::Entry(_, popped)) if popped == number));
            queue.check();
        }
        assert!(!queue.has_runnable());
        assert!(queue.put_back(first, handler).is_none());
        assert!(matches!(queue.pop(), Some(Popped::Entry(key, 0)) if key == first));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_list_that_is_ended_leaves_the_others() {
        let mut queue = Numbers::new();
        assert!(queue.end_current().is_none());
        queue.push_once(vec![1, 2, 3].into_iter());
        queue.push_once(vec![4].into_iter());
        assert_eq!(queue.pop(), Some(Popped::Once(1)));
        assert_eq!(queue.queued(), 3);
        let left = queue.end_current().expect("two are left");
        assert!(left.eq([2, 3]));
        queue.check();
        assert_eq!(queue.queued(), 1);
        assert!(queue.end_current().is_none());
        assert_eq!(queue.pop(), Some(Popped::Once(4)));
        assert!(queue.is_empty() && !queue.has_runnable());
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(
            // Positions near the end, too.
            first in prop_oneof![Just(0), u32::MAX - 50..=u32::MAX],
            operations in prop::collection::vec((0..8u8, any::<prop::sample::Index>()), 0..300),
        ) {
            let mut queue = Numbers::new();
            queue.first = first;
            let mut keys: Vec<(Key, usize)> = Vec::new();
            let mut model: Vec<usize> = Vec::new();
            let mut running: Vec<(Key, usize)> = Vec::new();
            for (number, (operation, index)) in operations.into_iter().enumerate() {
                let picked = (!keys.is_empty()).then(|| index.index(keys.len()));
                match (operation, picked) {
                    (0, _) => keys.push((queue.insert(number, ()), number)),
                    (1 | 6, Some(picked)) => {
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
                    (3, Some(picked)) if number % 4 == 0 => {
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
                        let popped = match queue.pop() {
                            Some(Popped::Entry(key, number)) => {
                                running.push((key, number));
                                Some(number)
                            }
                            Some(Popped::Once(number)) => Some(number),
                            None => None,
                        };
                        prop_assert_eq!(popped, expected);
                    }
                    (5, _) => if let Some((key, number)) = running.pop() {
                        let is_there = keys.iter().any(|&(other, _)| other == key);
                        prop_assert_eq!(queue.put_back(key, number), (!is_there).then_some(number));
                    }
                    (7, _) => {
                        let list = vec![number; 1 + index.index(3)];
                        model.extend(&list);
                        queue.push_once(list.into_iter());
                    }
                    _ => {}
                }
                queue.check();
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                for &(key, number) in &keys {
                    prop_assert_eq!(queue.is_queued(key), model.contains(&number));
                }
            }
            let (entries, once) = queue.take_all();
            prop_assert_eq!(entries.len(), keys.len());
            let is_entry = |number: &usize| keys.iter().any(|(_, other)| other == number);
            model.retain(|number| !is_entry(number));
            let once: Vec<usize> = once.into_iter().flatten().collect();
            prop_assert_eq!(once, model);
        }
    }

    #[test]
    fn scheduling_and_cancelling_without_end_leaves_no_gaps_behind() {
        let mut queue = Numbers::new();
        queue.push_once(vec![0].into_iter());
        let key = queue.insert(1, ());
        for _ in 0..1000 {
            queue.push(key);
            queue.push(key);
            queue.cancel(key);
            queue.check();
            assert!(queue.ring.len() <= 2 * queue.items + GAPS, "gaps pile up");
        }
    }
}
