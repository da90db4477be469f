//! The timers' order: earlier deadline first, first come first served among equals.
//!
//! # Implementation
//!
//! A 4-ary heap of `(deadline, sequence, index)` nodes with the keys inline, so that a comparison
//! touches no other memory, beside a table of entries that know their place in the heap.
//!
//! What a node says is a *lower bound* of what its entry wants. Postponing a timer, and disarming
//! it, only write to the entry; the node is put right when it comes to the top. An idle timeout
//! that is pushed back at every request therefore costs a store, and one sift when its first
//! deadline passes. At most one node exists per entry and removing an entry removes its node, so
//! nothing piles up.
//!
//! Invariants: `entries[heap[i].index].place == i` for every node; a node's `(deadline, sequence)`
//! is not after that of its entry; an armed entry has a node unless it is suspended; `armed` counts
//! the armed entries that aren't.
//!
//! Sequence numbers have 32 bits, to keep nodes small. When they are used up, after 2³² times that
//! a timer was armed, all are given out anew in the old order.

use crate::key::{Key, Slots};

const ARITY: usize = 4;
/// The place of an entry that has no node.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node<D> {
    deadline: D,
    sequence: u32,
    /// Of the entry, in the table.
    index: u32,
}

impl<D: Ord> Node<D> {
    #[inline]
    fn before(&self, other: &Node<D>) -> bool {
        self.deadline < other.deadline
            || self.deadline == other.deadline && self.sequence < other.sequence
    }
}

#[derive(Debug)]
struct Entry<D, T> {
    /// Of the pending expiry if armed, else of the latest one.
    deadline: D,
    sequence: u32,
    place: u32,
    armed: bool,
    /// Kept out of the heap, and of the count, while its handler is running a loop.
    suspended: bool,
    value: T,
}

impl<D: Copy, T> Entry<D, T> {
    fn node(&self, index: u32) -> Node<D> {
        Node {
            deadline: self.deadline,
            sequence: self.sequence,
            index,
        }
    }
}

/// A queue of timers with deadlines `D` that carry a `T` each.
#[derive(Debug)]
pub(crate) struct TimerQueue<D, T> {
    entries: Slots<Entry<D, T>>,
    heap: Vec<Node<D>>,
    next_sequence: u32,
    armed: usize,
}

impl<D: Ord + Copy, T> TimerQueue<D, T> {
    pub(crate) const fn new() -> Self {
        TimerQueue {
            entries: Slots::new(),
            heap: Vec::new(),
            next_sequence: 0,
            armed: 0,
        }
    }

    /// How many timers are armed.
    #[inline]
    pub(crate) fn armed(&self) -> usize {
        self.armed
    }

    /// Adds an armed timer.
    #[inline]
    pub(crate) fn insert(&mut self, deadline: D, value: T) -> Key {
        let sequence = self.take_sequence();
        let place = self.heap.len();
        let key = self.entries.insert(Entry {
            deadline,
            sequence,
            place: place as u32,
            armed: true,
            suspended: false,
            value,
        });
        let node = Node {
            deadline,
            sequence,
            index: key.index(),
        };
        self.armed += 1;
        self.heap.push(node);
        self.sift_up(place, node);
        key
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// The deadline of an armed timer.
    #[inline]
    pub(crate) fn deadline(&self, key: Key) -> Option<D> {
        let entry = self.entries.get(key)?;
        entry.armed.then_some(entry.deadline)
    }

    /// The deadline that a timer was armed with last, whether or not it is armed still.
    pub(crate) fn last_deadline(&self, key: Key) -> Option<D> {
        self.entries.get(key).map(|entry| entry.deadline)
    }

    /// Arms a timer, or moves an armed one, behind those with an earlier or the same deadline.
    /// Returns whether there is such a timer.
    #[inline]
    pub(crate) fn arm(&mut self, key: Key, deadline: D) -> bool {
        if self.next_sequence == u32::MAX {
            self.renumber();
        }
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.armed += usize::from(!entry.armed && !entry.suspended);
        entry.armed = true;
        entry.deadline = deadline;
        entry.sequence = sequence;
        let place = entry.place as usize;
        if self
            .heap
            .get(place)
            .is_some_and(|node| node.deadline <= deadline)
        {
            // The node is a lower bound: it is put right at the top.
        } else if !entry.suspended {
            let node = entry.node(key.index());
            self.put_earlier(place, node);
        }
        true
    }

    /// Takes a timer off the queue; it can be armed again.
    #[inline]
    pub(crate) fn disarm(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            self.armed -= usize::from(entry.armed && !entry.suspended);
            entry.armed = false;
        }
    }

    /// Keeps a timer from firing, whose handler is about to run a loop. It can be armed and
    /// disarmed as ever.
    pub(crate) fn suspend(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| !entry.suspended) {
            entry.suspended = true;
            self.armed -= usize::from(entry.armed);
            let place = std::mem::replace(&mut entry.place, NOWHERE);
            if place != NOWHERE {
                self.remove_node(place as usize);
            }
        }
    }

    /// Lets a suspended timer fire again, in the place that it was armed for.
    pub(crate) fn resume(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.suspended) {
            entry.suspended = false;
            if entry.armed {
                let node = entry.node(key.index());
                self.armed += 1;
                self.put_earlier(NOWHERE as usize, node);
            }
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.remove(key)?;
        self.armed -= usize::from(entry.armed && !entry.suspended);
        if entry.place != NOWHERE {
            self.remove_node(entry.place as usize);
        }
        Some(entry.value)
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn next_deadline(&mut self) -> Option<D> {
        if self.armed == 0 {
            return None;
        }
        while let Some(&top) = self.heap.first() {
            // An entry takes its node with it when it is removed.
            let entry = self.entries.at_mut(top.index)?;
            if !entry.armed {
                entry.place = NOWHERE;
                self.remove_node(0);
            } else if entry.sequence != top.sequence {
                let node = entry.node(top.index);
                self.sift_down(0, node);
            } else {
                return Some(top.deadline);
            }
        }
        None
    }

    /// Disarms the first timer whose deadline is not after `now`.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: D) -> Option<Key> {
        if self.next_deadline()? > now {
            return None;
        }
        let index = self.heap.first()?.index;
        let entry = self.entries.at_mut(index)?;
        entry.armed = false;
        entry.place = NOWHERE;
        self.armed -= 1;
        self.remove_node(0);
        self.entries.key_at(index)
    }

    /// Empties the queue and gives back what was in it.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.heap.clear();
        self.armed = 0;
        self.entries
            .take_all()
            .into_iter()
            .map(|entry| entry.value)
            .collect()
    }

    #[inline]
    fn take_sequence(&mut self) -> u32 {
        if self.next_sequence == u32::MAX {
            self.renumber();
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Gives out the sequence numbers anew, in the old order, and with them all nodes.
    #[cold]
    fn renumber(&mut self) {
        self.heap.clear();
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(self.entries.len());
        for index in self.entries.keys().map(Key::index).collect::<Vec<_>>() {
            if let Some(entry) = self.entries.at_mut(index) {
                entry.place = NOWHERE;
                if entry.armed {
                    order.push((entry.sequence, index));
                }
            }
        }
        order.sort_unstable();
        self.next_sequence = order.len() as u32;
        for (sequence, (_, index)) in (0..).zip(order) {
            if let Some(entry) = self.entries.at_mut(index) {
                entry.sequence = sequence;
                if !entry.suspended {
                    let node = entry.node(index);
                    self.put_earlier(NOWHERE as usize, node);
                }
            }
        }
    }

    /// Puts `node` in where there was none, or in place of a later one.
    fn put_earlier(&mut self, place: usize, node: Node<D>) {
        let place = place.min(self.heap.len());
        if place == self.heap.len() {
            self.heap.push(node);
        }
        self.sift_up(place, node);
    }

    /// Removes the node at `place`, whose entry is gone or was told that it has no node.
    #[inline]
    fn remove_node(&mut self, place: usize) {
        let Some(last) = self.heap.pop() else { return };
        if place != self.heap.len() {
            self.move_node(place, last);
        }
    }

    fn move_node(&mut self, place: usize, node: Node<D>) {
        if place > 0 && node.before(&self.heap[(place - 1) / ARITY]) {
            self.sift_up(place, node);
        } else {
            self.sift_down(place, node);
        }
    }

    /// Puts `node` into the hole at `place` or nearer to the top.
    #[inline]
    fn sift_up(&mut self, mut place: usize, node: Node<D>) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            let above = self.heap[parent];
            if !node.before(&above) {
                break;
            }
            self.put(place, above);
            place = parent;
        }
        self.put(place, node);
    }

    /// Puts `node` into the hole at `place` or farther from the top.
    fn sift_down(&mut self, mut place: usize, node: Node<D>) {
        loop {
            let first = place * ARITY + 1;
            let end = self.heap.len().min(first + ARITY);
            let Some(children @ [head, rest @ ..]) = self.heap.get(first..end) else {
                break;
            };
            let (mut least, mut offset) = (head, 0);
            for (position, child) in rest.iter().enumerate() {
                if child.before(least) {
                    (least, offset) = (child, position + 1);
                }
            }
            if !least.before(&node) {
                break;
            }
            let child = children[offset];
            self.put(place, child);
            place = first + offset;
        }
        self.put(place, node);
    }

    #[inline]
    fn put(&mut self, place: usize, node: Node<D>) {
        self.heap[place] = node;
        if let Some(entry) = self.entries.at_mut(node.index) {
            entry.place = place as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Operation {
        Add(u64),
        Arm(prop::sample::Index, u64),
        Disarm(prop::sample::Index),
        Remove(prop::sample::Index),
        Suspend(prop::sample::Index),
        Resume(prop::sample::Index),
        Pop(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            3 => (0..20u64).prop_map(Operation::Add),
            3 => (index(), 0..20u64).prop_map(|(index, deadline)| Operation::Arm(index, deadline)),
            1 => index().prop_map(Operation::Disarm),
            1 => index().prop_map(Operation::Remove),
            1 => index().prop_map(Operation::Suspend),
            1 => index().prop_map(Operation::Resume),
            2 => (0..20u64).prop_map(Operation::Pop),
        ]
    }

    /// Key, number, and when armed its deadline and its place among equals.
    type ModelTimer = (Key, u32, Option<(u64, u64)>);

    /// The naive queue: a list that is searched from end to end.
    #[derive(Default)]
    struct Model {
        timers: Vec<ModelTimer>,
        suspended: Vec<Key>,
        sequence: u64,
    }

    impl Model {
        fn arm(&mut self, index: usize, deadline: u64) {
            self.timers[index].2 = Some((deadline, self.sequence));
            self.sequence += 1;
        }

        fn counts(&self, index: usize) -> bool {
            let (key, _, armed) = self.timers[index];
            armed.is_some() && !self.suspended.contains(&key)
        }

        fn first(&self) -> Option<usize> {
            (0..self.timers.len())
                .filter(|&index| self.counts(index))
                .min_by_key(|&index| self.timers[index].2)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn fires_in_the_order_of_a_sorted_list(
            // Near the end too, where the sequence numbers are given out anew.
            start in prop_oneof![Just(0), u32::MAX - 300..=u32::MAX],
            operations in prop::collection::vec(operation(), 0..300),
        ) {
            let mut queue = TimerQueue::new();
            queue.next_sequence = start;
            let mut model = Model::default();
            for (number, operation) in (0u32..).zip(operations) {
                let pick = |index: prop::sample::Index, model: &Model| {
                    (!model.timers.is_empty()).then(|| index.index(model.timers.len()))
                };
                match operation {
                    Operation::Add(deadline) => {
                        let key = queue.insert(deadline, number);
                        model.timers.push((key, number, None));
                        model.arm(model.timers.len() - 1, deadline);
                    }
                    Operation::Arm(index, deadline) => if let Some(index) = pick(index, &model) {
                        prop_assert!(queue.arm(model.timers[index].0, deadline));
                        model.arm(index, deadline);
                    }
                    Operation::Disarm(index) => if let Some(index) = pick(index, &model) {
                        queue.disarm(model.timers[index].0);
                        model.timers[index].2 = None;
                    }
                    Operation::Remove(index) => if let Some(index) = pick(index, &model) {
                        let (key, number, _) = model.timers.remove(index);
                        prop_assert_eq!(queue.remove(key), Some(number));
                        prop_assert_eq!(queue.remove(key), None);
                        prop_assert!(!queue.arm(key, 0));
                    }
                    Operation::Suspend(index) => if let Some(index) = pick(index, &model) {
                        queue.suspend(model.timers[index].0);
                        model.suspended.push(model.timers[index].0);
                    }
                    Operation::Resume(index) => if let Some(index) = pick(index, &model) {
                        let key = model.timers[index].0;
                        queue.resume(key);
                        model.suspended.retain(|&suspended| suspended != key);
                    }
                    Operation::Pop(now) => {
                        let due = model.first().filter(|&index| model.timers[index].2.unwrap().0 <= now);
                        let expected = due.map(|index| {
                            model.timers[index].2 = None;
                            model.timers[index].0
                        });
                        prop_assert_eq!(queue.pop_due(now), expected);
                    }
                }
                let counting = (0..model.timers.len()).filter(|&index| model.counts(index)).count();
                prop_assert_eq!(queue.armed(), counting);
                prop_assert!(queue.heap.len() <= model.timers.len(), "nodes pile up");
                let first = model.first().and_then(|index| model.timers[index].2);
                prop_assert_eq!(queue.next_deadline(), first.map(|(deadline, _)| deadline));
                for &(key, number, armed) in &model.timers {
                    prop_assert_eq!(queue.get_mut(key).copied(), Some(number));
                    prop_assert_eq!(queue.deadline(key), armed.map(|(deadline, _)| deadline));
                }
            }
        }
    }

    #[test]
    fn postponing_moves_no_node() {
        let mut queue = TimerQueue::new();
        let keys: Vec<Key> = (0..100).map(|number| queue.insert(10, number)).collect();
        let before: Vec<u32> = queue.heap.iter().map(|node| node.index).collect();
        for deadline in 11..1000 {
            queue.arm(keys[0], deadline);
        }
        let after: Vec<u32> = queue.heap.iter().map(|node| node.index).collect();
        assert_eq!(before, after);
        assert_eq!(
            queue.pop_due(10),
            Some(keys[1]),
            "the postponed one is not first"
        );
    }
}
