//! The timers' order: earlier deadline first, first come first served among equals.
//!
//! # Implementation
//!
//! A 4-ary heap of `(deadline, sequence, key)` nodes with the keys inline, so that a comparison
//! touches no other memory, beside a table of entries that know their place in the heap.
//!
//! What a node says is a *lower bound* of what its entry wants. Postponing a timer, and disarming
//! it, only write to the entry; the node is put right when it comes to the top. An idle timeout
//! that is pushed back at every request therefore costs a store, and one sift when its first
//! deadline passes. At most one node exists per entry and removing an entry removes its node, so
//! nothing piles up.
//!
//! Invariants: `entries[heap[i].key].place == i` for every node; a node's `(deadline, sequence)`
//! is not after that of its entry; an armed entry has a node unless it is suspended; `armed` counts
//! the armed entries that aren't.
//!
//! Deadlines are nanoseconds on a clock of the caller's.

use crate::key::{Key, Slots};

const ARITY: usize = 4;
/// The place of an entry that has no node.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    deadline: u64,
    sequence: u64,
    key: Key,
}

impl Node {
    #[inline]
    fn before(&self, other: &Node) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// Of the pending expiry if armed, else of the latest one.
    deadline: u64,
    sequence: u64,
    place: u32,
    armed: bool,
    /// Kept out of the heap, and of the count, while its handler is running a loop.
    suspended: bool,
}

/// A queue of timers that carry a `T` each.
#[derive(Debug)]
pub(crate) struct TimerQueue<T> {
    entries: Slots<Entry<T>>,
    heap: Vec<Node>,
    next_sequence: u64,
    armed: usize,
}

impl<T> TimerQueue<T> {
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

    /// Adds a disarmed timer.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.entries.insert(Entry {
            value,
            deadline: 0,
            sequence: 0,
            place: NOWHERE,
            armed: false,
            suspended: false,
        })
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// The deadline of an armed timer.
    pub(crate) fn deadline(&self, key: Key) -> Option<u64> {
        let entry = self.entries.get(key)?;
        entry.armed.then_some(entry.deadline)
    }

    /// The deadline that a timer was armed with last, whether or not it is armed still.
    pub(crate) fn last_deadline(&self, key: Key) -> Option<u64> {
        self.entries.get(key).map(|entry| entry.deadline)
    }

    /// Arms a timer, or moves an armed one, behind those with an earlier or the same deadline.
    /// Returns whether there is such a timer.
    pub(crate) fn arm(&mut self, key: Key, deadline: u64) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.armed += usize::from(!entry.armed && !entry.suspended);
        entry.armed = true;
        entry.deadline = deadline;
        entry.sequence = sequence;
        if entry.suspended {
            return true;
        }
        let place = entry.place;
        let node = Node {
            deadline,
            sequence,
            key,
        };
        if place == NOWHERE {
            self.heap.push(node);
            self.sift_up(self.heap.len() - 1, node);
        } else if deadline < self.heap[place as usize].deadline {
            self.sift_up(place as usize, node);
        }
        // Else the node's deadline is a lower bound: it is put right at the top.
        true
    }

    /// Takes a timer off the queue; it can be armed again.
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
                let node = Node {
                    deadline: entry.deadline,
                    sequence: entry.sequence,
                    key,
                };
                self.armed += 1;
                self.heap.push(node);
                self.sift_up(self.heap.len() - 1, node);
            }
        }
    }

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
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        while let Some(&top) = self.heap.first() {
            // An entry takes its node with it when it is removed.
            let entry = self.entries.get_mut(top.key)?;
            if !entry.armed {
                entry.place = NOWHERE;
                self.remove_node(0);
            } else if entry.sequence != top.sequence {
                let node = Node {
                    deadline: entry.deadline,
                    sequence: entry.sequence,
                    key: top.key,
                };
                self.sift_down(0, node);
            } else {
                return Some(top.deadline);
            }
        }
        None
    }

    /// Disarms the first timer whose deadline is not after `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Key> {
        if self.next_deadline()? > now {
            return None;
        }
        let key = self.heap[0].key;
        let entry = self.entries.get_mut(key)?;
        entry.armed = false;
        entry.place = NOWHERE;
        self.armed -= 1;
        self.remove_node(0);
        Some(key)
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

    /// Removes the node at `place`, whose entry is gone or was told that it has no node.
    fn remove_node(&mut self, place: usize) {
        let Some(last) = self.heap.pop() else { return };
        if place == self.heap.len() {
            return;
        }
        if place > 0 && last.before(&self.heap[(place - 1) / ARITY]) {
            self.sift_up(place, last);
        } else {
            self.sift_down(place, last);
        }
    }

    /// Puts `node` into the hole at `place` or nearer to the top.
    fn sift_up(&mut self, mut place: usize, node: Node) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if !node.before(&self.heap[parent]) {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, node);
    }

    /// Puts `node` into the hole at `place` or farther from the top.
    fn sift_down(&mut self, mut place: usize, node: Node) {
        loop {
            let first = place * ARITY + 1;
            let children = self.heap.get(first..).unwrap_or_default();
            let Some((offset, &child)) =
                children
                    .iter()
                    .take(ARITY)
                    .enumerate()
                    .reduce(|least, child| {
                        if child.1.before(least.1) {
                            child
                        } else {
                            least
                        }
                    })
            else {
                break;
            };
            if !child.before(&node) {
                break;
            }
            self.put(place, child);
            place = first + offset;
        }
        self.put(place, node);
    }

    #[inline]
    fn put(&mut self, place: usize, node: Node) {
        self.heap[place] = node;
        if let Some(entry) = self.entries.get_mut(node.key) {
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
        fn fires_in_the_order_of_a_sorted_list(operations in prop::collection::vec(operation(), 0..300)) {
            let mut queue = TimerQueue::new();
            let mut model = Model::default();
            for (number, operation) in (0u32..).zip(operations) {
                let pick = |index: prop::sample::Index, model: &Model| {
                    (!model.timers.is_empty()).then(|| index.index(model.timers.len()))
                };
                match operation {
                    Operation::Add(deadline) => {
                        let key = queue.insert(number);
                        model.timers.push((key, number, None));
                        prop_assert!(queue.arm(key, deadline));
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
        let keys: Vec<Key> = (0..100).map(|number| queue.insert(number)).collect();
        for &key in &keys {
            queue.arm(key, 10);
        }
        let before: Vec<Key> = queue.heap.iter().map(|node| node.key).collect();
        for deadline in 11..1000 {
            queue.arm(keys[0], deadline);
        }
        let after: Vec<Key> = queue.heap.iter().map(|node| node.key).collect();
        assert_eq!(before, after);
        assert_eq!(
            queue.pop_due(10),
            Some(keys[1]),
            "the postponed one is not first"
        );
    }
}
