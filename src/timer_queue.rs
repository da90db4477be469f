//! The timers' order: earlier deadline first, first come first served among equals.
//!
//! # Implementation
//!
//! A 4-ary heap of `(deadline, sequence, index)` nodes with the keys inline, so that a comparison
//! touches no other memory, beside a table of entries that know their place in the heap.
//!
//! Two things are put off until somebody asks for the first timer. New nodes are *pending*: they
//! wait behind the heap, in the same vector, so that a timer that is added and removed between two
//! turns never was in the heap. If many are added at once, they are sorted instead, and are then
//! the *run* beside the heap, from whose front they are taken one after the other. And what a node
//! says is a *lower bound* of what its entry wants. Postponing a timer, and disarming it, only
//! write to the entry; the node is put right when it comes to the top. An idle timeout that is
//! pushed back at every request therefore costs a store, and one sift when its first deadline
//! passes. At most one node exists per entry and removing an entry removes its node, so nothing
//! piles up.
//!
//! A node that is taken out of the middle of the run leaves a gap there; when there are more gaps
//! than nodes, the run is compacted.
//!
//! Invariants: `heap[..settled]` is a heap; `run[next..]` is sorted; `entries[node.index].place` is
//! the index in `heap` for every node in there, or `RUN` and the index in `run`; a node's
//! `(deadline, sequence)` is not after that of its entry; an armed entry has a node unless it is
//! suspended; `armed` counts the armed entries that aren't. An entry without a generation is
//! vacant, has neither handler nor note, and `place` links it to the next one.
//!
//! The table isn't [`Slots`](crate::key::Slots), since entries are to be no larger than a cache
//! line: there may be very many timers.
//!
//! Sequence numbers have 32 bits, to keep nodes small. When they are used up, after 2³² times that
//! a timer was armed, all are given out anew in the old order.

use crate::key::Key;
use std::collections::BTreeMap;
use std::mem;
use std::num::NonZeroU32;
use std::panic::Location;

const ARITY: usize = 4;
/// The place of an entry that has no node, the end of the list of vacant entries, and the index of
/// a gap in the run.
const NOWHERE: u32 = u32::MAX;
/// In a place: it is one in the run.
const RUN: u32 = 1 << 31;
/// How many pending nodes are worth a run, and how many gaps are not worth the trouble.
const MANY: usize = if cfg!(test) { 4 } else { 64 };
/// What part of its length a vector has more than it needs, at most; but there is always room for a
/// few.
const SLACK: usize = 12;
const FEW: usize = 4;

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
struct Entry<D, H> {
    /// Of the pending expiry if armed, else of the latest one.
    deadline: D,
    /// Missing while it runs, and if the entry is vacant.
    handler: Option<H>,
    location: &'static Location<'static>,
    /// 0 if the entry is vacant: one comparison says that a key's is another, and a vacant one's
    /// too.
    generation: u32,
    sequence: u32,
    place: u32,
    armed: bool,
    /// Kept out of the heap, and of the count, while its handler is running a loop.
    suspended: bool,
    /// Nobody has a handle: when it isn't armed any more, nobody can arm it.
    detached: bool,
    /// There is a note about it.
    noted: bool,
}

impl<D: Copy, H> Entry<D, H> {
    #[inline]
    fn node(&self, index: u32) -> Node<D> {
        Node {
            deadline: self.deadline,
            sequence: self.sequence,
            index,
        }
    }
}

/// A queue of timers with deadlines `D` that carry a handler `H` each, and some a note `T` that
/// means nothing here, and whose destructor runs no code of the user.
#[derive(Debug)]
pub(crate) struct TimerQueue<D, H, T> {
    entries: Vec<Entry<D, H>>,
    /// The first vacant entry.
    vacant: u32,
    /// Of the next insertion. Never reset, so that keys from before stay stale.
    next_generation: NonZeroU32,
    heap: Vec<Node<D>>,
    /// How many nodes are in the heap. What comes behind is pending.
    settled: usize,
    run: Vec<Node<D>>,
    /// Where the rest of the run begins.
    next: usize,
    /// How many gaps are in the rest.
    gaps: usize,
    next_sequence: u32,
    armed: usize,
    /// By index. Apart, as few timers have any.
    notes: BTreeMap<u32, T>,
}

/// What [`TimerQueue::postpone`] has come to.
pub(crate) enum Postponed {
    Done,
    /// There is no such timer.
    Gone,
    /// The timer at this index has to be [armed anew](TimerQueue::arm_anew).
    NotYet(u32),
}

impl<D: Ord + Copy, H, T> TimerQueue<D, H, T> {
    pub(crate) const fn new() -> Self {
        TimerQueue {
            entries: Vec::new(),
            vacant: NOWHERE,
            next_generation: NonZeroU32::MIN,
            heap: Vec::new(),
            settled: 0,
            run: Vec::new(),
            next: 0,
            gaps: 0,
            next_sequence: 0,
            armed: 0,
            notes: BTreeMap::new(),
        }
    }

    /// How many timers are armed.
    #[inline]
    pub(crate) fn armed(&self) -> usize {
        self.armed
    }

    /// The keys of all timers, armed or not.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let places = (0..).zip(&self.entries);
        places
            .filter_map(|(index, entry)| Some(Key::new(index, NonZeroU32::new(entry.generation)?)))
    }

    /// Makes room for one more timer, with this deadline.
    ///
    /// # Panics
    ///
    /// When there are 2³¹ - 1 timers already.
    #[inline(always)]
    pub(crate) fn reserve(&mut self, deadline: D, location: &'static Location<'static>) {
        if self.vacant == NOWHERE
            || self.heap.len() == self.heap.capacity()
            || self.next_sequence == u32::MAX
        {
            self.make_room(deadline, location);
        }
    }

    #[cold]
    fn make_room(&mut self, deadline: D, location: &'static Location<'static>) {
        if self.next_sequence == u32::MAX {
            self.renumber();
        }
        if self.vacant == NOWHERE {
            self.push_vacant(deadline, location);
        }
        if self.heap.len() == self.heap.capacity() {
            grow(&mut self.heap);
        }
    }

    /// Adds an armed timer. There [is room](TimerQueue::reserve) for it.
    #[inline(always)]
    pub(crate) fn insert(
        &mut self,
        deadline: D,
        handler: H,
        location: &'static Location<'static>,
    ) -> Key {
        let index = self.vacant;
        let sequence = self.next_sequence;
        let generation = self.next_generation;
        let entry = &mut self.entries[index as usize];
        self.vacant = entry.place;
        self.next_generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.next_sequence = sequence + 1;
        self.armed += 1;
        entry.deadline = deadline;
        // A vacant entry has none that were to be dropped.
        mem::forget(entry.handler.replace(handler));
        entry.location = location;
        entry.generation = generation.get();
        entry.sequence = sequence;
        entry.place = self.heap.len() as u32;
        entry.armed = true;
        entry.suspended = false;
        entry.detached = false;
        entry.noted = false;
        self.heap.push(Node {
            deadline,
            sequence,
            index,
        });
        Key::new(index, generation)
    }

    /// Adds the only vacant entry. What is in there means nothing.
    fn push_vacant(&mut self, deadline: D, location: &'static Location<'static>) {
        let index = self.entries.len() as u32;
        assert!(index < RUN - 1, "more than 2^31 - 1 timers");
        let entry = Entry {
            deadline,
            handler: None,
            location,
            generation: 0,
            sequence: 0,
            place: NOWHERE,
            armed: false,
            suspended: false,
            detached: false,
            noted: false,
        };
        push(&mut self.entries, entry);
        self.vacant = index;
    }

    #[inline]
    fn entry(&self, key: Key) -> Option<&Entry<D, H>> {
        let entry = self.entries.get(key.index() as usize)?;
        (entry.generation == key.generation_bits()).then_some(entry)
    }

    #[inline]
    fn entry_mut(&mut self, key: Key) -> Option<&mut Entry<D, H>> {
        let entry = self.entries.get_mut(key.index() as usize)?;
        (entry.generation == key.generation_bits()).then_some(entry)
    }

    /// Where a timer was added.
    pub(crate) fn location(&self, key: Key) -> Option<&'static Location<'static>> {
        self.entry(key).map(|entry| entry.location)
    }

    /// What was noted about a timer.
    pub(crate) fn note(&self, key: Key) -> Option<&T> {
        self.entry(key)
            .filter(|entry| entry.noted)
            .and_then(|_| self.notes.get(&key.index()))
    }

    /// What was noted about a timer, or `new`, which is noted then.
    pub(crate) fn note_or_insert_with(
        &mut self,
        key: Key,
        new: impl FnOnce() -> T,
    ) -> Option<&mut T> {
        self.entry_mut(key)?.noted = true;
        Some(self.notes.entry(key.index()).or_insert_with(new))
    }

    /// The deadline of an armed timer.
    #[inline]
    pub(crate) fn deadline(&self, key: Key) -> Option<D> {
        let entry = self.entry(key)?;
        entry.armed.then_some(entry.deadline)
    }

    /// The deadline that a timer was armed with last, whether or not it is armed still.
    #[inline]
    pub(crate) fn last_deadline(&self, key: Key) -> Option<D> {
        self.entry(key).map(|entry| entry.deadline)
    }

    /// Arms a timer, or moves an armed one, behind those with an earlier or the same deadline.
    /// Returns whether there is such a timer.
    pub(crate) fn arm(&mut self, key: Key, deadline: D) -> bool {
        match self.postpone(key, deadline) {
            Postponed::Done => true,
            Postponed::Gone => false,
            Postponed::NotYet(index) => {
                self.arm_anew(index, deadline);
                true
            }
        }
    }

    /// The same, if all that it takes is to note the deadline.
    #[inline(always)]
    pub(crate) fn postpone(&mut self, key: Key, deadline: D) -> Postponed {
        let sequence = self.next_sequence;
        let Some(entry) = self.entry_mut(key) else {
            return Postponed::Gone;
        };
        // The node of an armed timer is not after its present deadline, so not after a later one.
        if !entry.armed || entry.deadline > deadline || sequence >= u32::MAX - 1 {
            return Postponed::NotYet(key.index());
        }
        entry.deadline = deadline;
        entry.sequence = sequence;
        self.next_sequence = sequence + 1;
        Postponed::Done
    }

    /// Arms the timer at an index, whatever it takes.
    pub(crate) fn arm_anew(&mut self, index: u32, deadline: D) {
        let sequence = self.next_sequence;
        let settled = self.settled;
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return;
        };
        let newly = !mem::replace(&mut entry.armed, true);
        entry.deadline = deadline;
        entry.sequence = sequence;
        if !entry.suspended {
            let (place, node) = (entry.place, entry.node(index));
            self.armed += usize::from(newly);
            self.place(place, node, settled);
        }
        self.next_sequence = sequence.wrapping_add(1);
        if sequence >= u32::MAX - 1 {
            self.renumber();
        }
    }

    /// Puts the node of a timer, whose former one is at `place` if anywhere, where it belongs.
    #[inline(always)]
    fn place(&mut self, place: u32, node: Node<D>, settled: usize) {
        if let Some(known) = in_run(place).and_then(|place| self.run.get(place)) {
            if known.deadline > node.deadline {
                self.remove_node(place);
                self.push_pending(node);
            }
            return;
        }
        let place = place as usize;
        match self.heap.get_mut(place) {
            Some(known) if known.deadline <= node.deadline => {
                // The node is a lower bound: it is put right at the top.
            }
            Some(known) if place >= settled => *known = node,
            Some(_) => self.sift_up(place, node),
            None => self.push_pending(node),
        }
    }

    #[inline]
    fn push_pending(&mut self, node: Node<D>) {
        if let Some(entry) = self.entries.get_mut(node.index as usize) {
            entry.place = self.heap.len() as u32;
        }
        push(&mut self.heap, node);
    }

    /// Takes a timer off the queue; it can be armed again.
    #[inline]
    pub(crate) fn disarm(&mut self, key: Key) {
        if let Some(entry) = self.entry_mut(key) {
            let counted = entry.armed && !entry.suspended;
            entry.armed = false;
            self.armed -= usize::from(counted);
        }
    }

    /// Keeps a timer from firing, whose handler is about to run a loop. It can be armed and
    /// disarmed as ever.
    pub(crate) fn suspend(&mut self, key: Key) {
        if let Some(entry) = self.entry_mut(key).filter(|entry| !entry.suspended) {
            entry.suspended = true;
            let counted = entry.armed;
            let place = mem::replace(&mut entry.place, NOWHERE);
            self.armed -= usize::from(counted);
            self.remove_node(place);
        }
    }

    /// Lets a suspended timer fire again, in the place that it was armed for.
    pub(crate) fn resume(&mut self, key: Key) {
        if let Some(entry) = self.entry_mut(key).filter(|entry| entry.suspended) {
            entry.suspended = false;
            if entry.armed {
                let node = entry.node(key.index());
                self.armed += 1;
                self.push_pending(node);
            }
        }
    }

    /// Removes a timer. Returns its handler, unless that is running, to be dropped when nothing is
    /// borrowed.
    #[inline(always)]
    pub(crate) fn remove(&mut self, key: Key) -> Option<H> {
        let vacant = self.vacant;
        let entry = self.entry_mut(key)?;
        let counted = entry.armed && !entry.suspended;
        let noted = entry.noted;
        let place = mem::replace(&mut entry.place, vacant);
        entry.generation = 0;
        let handler = entry.handler.take();
        self.vacant = key.index();
        self.armed -= usize::from(counted);
        if noted {
            self.remove_note(key.index());
        }
        self.remove_node(place);
        handler
    }

    #[cold]
    fn remove_note(&mut self, index: u32) {
        self.notes.remove(&index);
    }

    /// Leaves a timer to itself: it goes when it isn't armed any more, which may be at once. Then
    /// its handler is returned, to be dropped when nothing is borrowed.
    pub(crate) fn detach(&mut self, key: Key) -> Option<H> {
        let entry = self.entry_mut(key)?;
        entry.detached = true;
        // If it is running, its handler may arm it yet.
        let unreachable = !entry.armed && entry.handler.is_some();
        unreachable.then(|| self.remove(key)).flatten()
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn next_deadline(&mut self) -> Option<D> {
        Some(self.first()?.deadline)
    }

    /// The node of the timer that is first.
    #[inline]
    fn first(&mut self) -> Option<Node<D>> {
        if self.armed == 0 {
            return None;
        }
        loop {
            if self.settled != self.heap.len() {
                self.settle();
            }
            let mut first = self.heap.first();
            if let Some(node) = self.run.get(self.next) {
                if first.is_none_or(|first| node.before(first)) {
                    first = Some(node);
                }
            }
            let first = *first?;
            let entry = self.entries.get_mut(first.index as usize)?;
            if entry.armed && entry.sequence == first.sequence {
                return Some(first);
            }
            self.correct(first);
        }
    }

    /// Puts the first node right, which says something else than its entry.
    fn correct(&mut self, first: Node<D>) {
        let Some(entry) = self.entries.get_mut(first.index as usize) else {
            return;
        };
        let node = entry.node(first.index);
        let place = entry.place;
        if !entry.armed {
            entry.place = NOWHERE;
            self.remove_node(place);
        } else if in_run(place).is_some() {
            self.remove_node(place);
            self.push_pending(node);
        } else {
            self.sift_down(0, node);
        }
    }

    /// Disarms the first timer if `is_due` says so of its deadline, and gives out its handler,
    /// which is to be [put back](TimerQueue::put_back).
    ///
    /// A node in the heap stays until the next look at the first, as the timer may well be armed
    /// again.
    #[inline]
    pub(crate) fn pop_if(&mut self, is_due: impl FnOnce(D) -> bool) -> Option<(Key, H)> {
        let Node {
            deadline, index, ..
        } = self.first()?;
        if !is_due(deadline) {
            return None;
        }
        let entry = self.entries.get_mut(index as usize)?;
        entry.armed = false;
        let generation = NonZeroU32::new(entry.generation)?;
        let popped = (Key::new(index, generation), entry.handler.take()?);
        let is_in_run = in_run(entry.place).is_some();
        self.armed -= 1;
        if is_in_run {
            entry.place = NOWHERE;
            self.next += 1;
            self.tidy_run();
        }
        Some(popped)
    }

    /// Takes back a handler after it was called, and lets its timer fire again. When the timer was
    /// removed meanwhile, or nobody can arm it any more, the handler is returned, to be dropped
    /// when nothing is borrowed.
    #[inline]
    pub(crate) fn put_back(&mut self, key: Key, handler: H) -> Option<H> {
        let Some(entry) = self.entry_mut(key) else {
            return Some(handler);
        };
        if entry.suspended {
            self.resume(key);
            return self.put_back(key, handler);
        }
        if entry.detached && !entry.armed {
            // Its own place for the handler is empty.
            self.remove(key);
            return Some(handler);
        }
        entry.handler.replace(handler)
    }

    /// Empties the queue and gives back the handlers, but of those that are running.
    pub(crate) fn take_all(&mut self) -> Vec<H> {
        self.clear_nodes();
        self.notes.clear();
        self.armed = 0;
        self.vacant = NOWHERE;
        let entries = mem::take(&mut self.entries);
        entries
            .into_iter()
            .filter_map(|entry| entry.handler)
            .collect()
    }

    /// Empties the queue like [`take_all`](TimerQueue::take_all), but leaks the handlers, without
    /// writing to their memory.
    pub(crate) fn leak_all(&mut self) {
        mem::forget(mem::take(&mut self.entries));
        drop(self.take_all());
    }

    fn clear_nodes(&mut self) {
        self.heap.clear();
        self.settled = 0;
        self.run.clear();
        (self.next, self.gaps) = (0, 0);
    }

    /// Gives out the sequence numbers anew, in the old order, and with them all nodes.
    #[cold]
    fn renumber(&mut self) {
        self.clear_nodes();
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(self.armed);
        for (index, entry) in (0..).zip(&mut self.entries) {
            if entry.generation != 0 {
                entry.place = NOWHERE;
                if entry.armed {
                    order.push((entry.sequence, index));
                }
            }
        }
        order.sort_unstable();
        self.next_sequence = order.len() as u32;
        for (sequence, (_, index)) in (0..).zip(order) {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                entry.sequence = sequence;
                if !entry.suspended {
                    let node = entry.node(index);
                    self.push_pending(node);
                }
            }
        }
    }

    /// Makes the pending nodes part of the heap, or the run.
    #[inline(never)]
    fn settle(&mut self) {
        let (settled, len) = (self.settled, self.heap.len());
        let pending = len - settled;
        if pending >= MANY && pending > settled && self.next == self.run.len() {
            self.start_run();
        } else if pending > settled {
            // From the bottom up: linear, whatever the order they came in.
            self.settled = len;
            for place in (0..len.div_ceil(ARITY)).rev() {
                self.sift_down(place, self.heap[place]);
            }
        } else {
            for place in settled..len {
                self.settled = place + 1;
                self.sift_up(place, self.heap[place]);
            }
        }
    }

    /// Makes a run of the pending nodes. There is none.
    #[cold]
    fn start_run(&mut self) {
        self.run.clear();
        self.next = 0;
        if self.settled == 0 {
            mem::swap(&mut self.heap, &mut self.run);
        } else {
            self.run.extend_from_slice(&self.heap[self.settled..]);
            self.heap.truncate(self.settled);
            self.heap.shrink_to(self.settled + self.settled / SLACK);
        }
        self.run
            .sort_unstable_by(|a, b| (&a.deadline, a.sequence).cmp(&(&b.deadline, b.sequence)));
        self.note_places_in_run();
    }

    fn note_places_in_run(&mut self) {
        for (place, node) in (0..).zip(&self.run) {
            if let Some(entry) = self.entries.get_mut(node.index as usize) {
                entry.place = RUN | place;
            }
        }
    }

    /// Removes the node at `place`, if that is one, whose entry is gone or was told that it has no
    /// node.
    #[inline]
    fn remove_node(&mut self, place: u32) {
        if let Some(place) = in_run(place) {
            self.remove_from_run(place);
            return;
        }
        let place = place as usize;
        if place < self.settled {
            self.remove_settled(place);
        } else if Some(place) == self.heap.len().checked_sub(1) {
            // Of pending ones the newest goes most often.
            self.heap.pop();
        } else if place < self.heap.len() {
            self.heap.swap_remove(place);
            self.note_place(place);
        }
    }

    fn remove_from_run(&mut self, place: usize) {
        let Some(node) = self.run.get_mut(place) else {
            return;
        };
        node.index = NOWHERE;
        self.gaps += 1;
        self.tidy_run();
    }

    /// Sees to it that the rest of the run begins with a node, and has more nodes than gaps.
    #[inline]
    fn tidy_run(&mut self) {
        while let Some(&Node { index: NOWHERE, .. }) = self.run.get(self.next) {
            self.next += 1;
            self.gaps -= 1;
        }
        let rest = self.run.len() - self.next;
        if rest == 0 {
            self.end_run();
        } else if 2 * self.gaps > rest + MANY {
            self.run.drain(..self.next);
            self.run.retain(|node| node.index != NOWHERE);
            (self.next, self.gaps) = (0, 0);
            self.note_places_in_run();
        }
    }

    /// Nothing is left of the run. Its memory is for the heap if that is empty: there the next run
    /// begins.
    #[cold]
    fn end_run(&mut self) {
        let mut run = mem::take(&mut self.run);
        self.next = 0;
        if self.heap.is_empty() && self.heap.capacity() < run.capacity() {
            run.clear();
            self.heap = run;
        }
    }

    fn remove_settled(&mut self, place: usize) {
        let hole = self.settled - 1;
        let last = self.heap[hole];
        self.settled = hole;
        // Where the heap ended, the last pending node takes the place.
        self.heap.swap_remove(hole);
        self.note_place(hole);
        if place == hole {
            return;
        }
        if place > 0 && last.before(&self.heap[(place - 1) / ARITY]) {
            self.sift_up(place, last);
        } else {
            self.sift_down(place, last);
        }
    }

    /// Tells the entry of the node at `place`, if there is one, that it is there.
    #[inline]
    fn note_place(&mut self, place: usize) {
        if let Some(node) = self.heap.get(place) {
            if let Some(entry) = self.entries.get_mut(node.index as usize) {
                entry.place = place as u32;
            }
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
            let end = self.settled.min(first + ARITY);
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
        if let Some(entry) = self.entries.get_mut(node.index as usize) {
            entry.place = place as u32;
        }
    }
}

/// The index in the run that a place means.
#[inline]
fn in_run(place: u32) -> Option<usize> {
    (place & RUN != 0 && place != NOWHERE).then_some((place & !RUN) as usize)
}

/// Appends to a vector that may become long. It grows by a twelfth instead of doubling, so that
/// little memory lies idle: of vectors that are longer than a few pages the allocator moves pages
/// and not bytes.
#[inline]
fn push<E>(vector: &mut Vec<E>, element: E) {
    if vector.len() == vector.capacity() {
        grow(vector);
    }
    vector.push(element);
}

#[cold]
fn grow<E>(vector: &mut Vec<E>) {
    vector.reserve_exact(FEW.max(vector.len() / SLACK));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Queue<H> = TimerQueue<u64, H, u32>;

    fn add<H>(queue: &mut Queue<H>, deadline: u64, handler: H) -> Key {
        queue.reserve(deadline, Location::caller());
        queue.insert(deadline, handler, Location::caller())
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Add(u64),
        Arm(prop::sample::Index, u64),
        Disarm(prop::sample::Index),
        Remove(prop::sample::Index),
        Detach(prop::sample::Index),
        /// Of what runs, as if its handler ran a loop.
        Suspend(prop::sample::Index),
        /// The handler of one that runs returns.
        PutBack(prop::sample::Index),
        Pop(u64),
        Look,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            3 => (0..20u64).prop_map(Operation::Add),
            3 => (index(), 0..20u64).prop_map(|(index, deadline)| Operation::Arm(index, deadline)),
            1 => index().prop_map(Operation::Disarm),
            1 => index().prop_map(Operation::Remove),
            1 => index().prop_map(Operation::Detach),
            1 => index().prop_map(Operation::Suspend),
            2 => index().prop_map(Operation::PutBack),
            2 => (0..20u64).prop_map(Operation::Pop),
            2 => Just(Operation::Look),
        ]
    }

    /// Key, number, and when armed its deadline and its place among equals.
    type ModelTimer = (Key, u32, Option<(u64, u64)>);

    /// The naive queue: a list that is searched from end to end.
    #[derive(Default)]
    struct Model {
        timers: Vec<ModelTimer>,
        suspended: Vec<Key>,
        detached: Vec<Key>,
        /// Whose handlers are out.
        running: Vec<(Key, u32)>,
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

        fn is_running(&self, key: Key) -> bool {
            self.running.iter().any(|&(running, _)| running == key)
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
            let mut queue = Queue::new();
            queue.next_sequence = start;
            let mut model = Model::default();
            for (number, operation) in (0u32..).zip(operations) {
                let pick = |index: prop::sample::Index, model: &Model| {
                    (!model.timers.is_empty()).then(|| index.index(model.timers.len()))
                };
                let pick_running = |index: prop::sample::Index, model: &Model| {
                    (!model.running.is_empty()).then(|| index.index(model.running.len()))
                };
                let mut looked = false;
                match operation {
                    Operation::Add(deadline) => {
                        let key = add(&mut queue, deadline, number);
                        prop_assert_eq!(queue.note(key), None);
                        *queue.note_or_insert_with(key, || 0).unwrap() = number;
                        model.timers.push((key, number, None));
                        model.arm(model.timers.len() - 1, deadline);
                    }
                    Operation::Arm(index, deadline) => if let Some(index) = pick(index, &model) {
                        prop_assert!(queue.arm(model.timers[index].0, deadline));
                        model.arm(index, deadline);
                    }
                    Operation::Disarm(index) => if let Some(index) = pick(index, &model) {
                        let (key, _, _) = model.timers[index];
                        // A detached one has nobody left who could, but its own handler.
                        if !model.detached.contains(&key) || model.is_running(key) {
                            queue.disarm(key);
                            model.timers[index].2 = None;
                        }
                    }
                    Operation::Remove(index) => if let Some(index) = pick(index, &model) {
                        let (key, number, _) = model.timers.remove(index);
                        let handler = (!model.is_running(key)).then_some(number);
                        prop_assert_eq!(queue.remove(key), handler);
                        prop_assert_eq!(queue.location(key), None);
                        prop_assert_eq!(queue.remove(key), None);
                        prop_assert!(!queue.arm(key, 0));
                    }
                    Operation::Detach(index) => if let Some(index) = pick(index, &model) {
                        let (key, number, armed) = model.timers[index];
                        let goes = armed.is_none() && !model.is_running(key);
                        let expected = goes.then_some(number);
                        prop_assert_eq!(queue.detach(key), expected);
                        if goes {
                            model.timers.remove(index);
                        } else {
                            model.detached.push(key);
                        }
                    }
                    Operation::Suspend(index) => if let Some(index) = pick_running(index, &model) {
                        queue.suspend(model.running[index].0);
                        model.suspended.push(model.running[index].0);
                    }
                    Operation::PutBack(index) => if let Some(index) = pick_running(index, &model) {
                        let (key, number) = model.running.remove(index);
                        model.suspended.retain(|&suspended| suspended != key);
                        let place = model.timers.iter().position(|timer| timer.0 == key);
                        let goes = place.filter(|&place| {
                            model.detached.contains(&key) && model.timers[place].2.is_none()
                        });
                        let expected = match (place, goes) {
                            (None, _) => Some(number),
                            (Some(_), Some(place)) => {
                                model.timers.remove(place);
                                Some(number)
                            }
                            (Some(_), None) => None,
                        };
                        prop_assert_eq!(queue.put_back(key, number), expected);
                    }
                    Operation::Pop(now) => {
                        // A timer that runs and is armed again is suspended before a loop runs.
                        for &(key, _) in &model.running {
                            queue.suspend(key);
                            model.suspended.push(key);
                        }
                        let due = model.first().filter(|&index| model.timers[index].2.unwrap().0 <= now);
                        let expected = due.map(|index| {
                            model.timers[index].2 = None;
                            (model.timers[index].0, model.timers[index].1)
                        });
                        prop_assert_eq!(queue.pop_if(|deadline| deadline <= now), expected);
                        model.running.extend(expected);
                        looked = true;
                    }
                    Operation::Look => looked = true,
                }
                let counting = (0..model.timers.len()).filter(|&index| model.counts(index)).count();
                prop_assert_eq!(queue.armed(), counting);
                queue.check();
                // Not after every operation, so that nodes are pending for a while.
                if looked {
                    let first = model.first().and_then(|index| model.timers[index].2);
                    prop_assert_eq!(queue.next_deadline(), first.map(|(deadline, _)| deadline));
                    queue.check();
                }
                for &(key, number, armed) in &model.timers {
                    prop_assert_eq!(queue.note(key).copied(), Some(number));
                    prop_assert_eq!(queue.deadline(key), armed.map(|(deadline, _)| deadline));
                }
            }
            let mut left: Vec<u32> = queue.take_all();
            let running = |key| model.running.iter().any(|&(running, _)| running == key);
            let left_in = model.timers.iter().filter(|timer| !running(timer.0));
            let mut expected: Vec<u32> = left_in.map(|&(_, number, _)| number).collect();
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }

    impl Queue<u32> {
        /// The invariants of the module's documentation.
        fn check(&self) {
            let occupied = || self.entries.iter().filter(|entry| entry.generation != 0);
            let rest = &self.run[self.next..];
            let in_run = rest.iter().filter(|node| node.index != NOWHERE);
            assert_eq!(in_run.clone().count() + self.gaps, rest.len());
            assert!(2 * self.gaps <= rest.len() + MANY, "gaps pile up");
            assert!(rest.is_sorted_by(|a, b| a.before(b)));
            let nodes = self.heap.len() + in_run.clone().count();
            assert!(nodes <= occupied().count(), "nodes pile up");
            for node in self.heap.iter().chain(in_run) {
                let entry = &self.entries[node.index as usize];
                assert!(entry.generation != 0 && !entry.suspended);
                assert!(!entry.node(node.index).before(node), "no lower bound");
            }
            for (place, node) in (self.next..).zip(rest) {
                if node.index != NOWHERE {
                    let entry = &self.entries[node.index as usize];
                    assert_eq!(entry.place, RUN | place as u32);
                }
            }
            for (place, node) in self.heap.iter().enumerate() {
                let entry = &self.entries[node.index as usize];
                assert_eq!(entry.place as usize, place);
                if 0 < place && place < self.settled {
                    assert!(!node.before(&self.heap[(place - 1) / ARITY]), "no heap");
                }
            }
            for entry in occupied().filter(|entry| entry.armed) {
                assert_eq!(entry.place == NOWHERE, entry.suspended);
            }
            for (index, entry) in (0..).zip(&self.entries) {
                let is_vacant = entry.generation == 0;
                assert!(!is_vacant || entry.handler.is_none());
                let is_noted = !is_vacant && entry.noted;
                assert_eq!(is_noted, self.notes.contains_key(&index));
            }
        }
    }

    #[test]
    fn a_key_of_a_removed_timer_finds_nothing_when_its_place_is_used_again() {
        let mut queue = Queue::new();
        let old = add(&mut queue, 1, "old");
        assert_eq!(queue.remove(old), Some("old"));
        let new = add(&mut queue, 2, "new");
        assert_eq!(old.index(), new.index(), "the place is used again");
        assert!(!queue.arm(old, 0));
        assert_eq!(queue.remove(old), None);
        queue.disarm(old);
        assert_eq!(queue.deadline(new), Some(2));
        assert_eq!(queue.take_all().len(), 1);
        let newest = add(&mut queue, 3, "newest");
        assert_eq!(
            queue.remove(new),
            None,
            "not after everything was taken either"
        );
        assert_eq!(queue.deadline(newest), Some(3));
    }

    #[test]
    fn equal_deadlines_keep_their_order_when_sequence_numbers_are_used_up() {
        for start in u32::MAX - 8..=u32::MAX {
            // Moved nearer, and postponed.
            for former in [9, 1] {
                let mut queue = Queue::new();
                let mut keys = Vec::new();
                for number in 0..6 {
                    keys.push(add(&mut queue, former, number));
                }
                queue.next_sequence = start;
                for &key in &keys {
                    assert!(queue.arm(key, 5));
                    queue.check();
                }
                for (number, key) in (0..).zip(keys) {
                    assert_eq!(queue.pop_if(|_| true), Some((key, number)), "from {start}");
                }
            }
        }
    }

    #[test]
    fn an_entry_is_no_larger_than_a_cache_line() {
        type Handler = (&'static u8, [usize; 2]);
        assert!(size_of::<Entry<std::time::Instant, Handler>>() <= 64);
    }

    /// The timers, in the order that their nodes are in.
    fn order<H>(queue: &Queue<H>) -> Vec<u32> {
        let nodes = queue.run.iter().chain(&queue.heap);
        nodes.map(|node| node.index).collect()
    }

    #[test]
    fn postponing_moves_no_node() {
        let mut queue = Queue::new();
        let keys: Vec<Key> = (0..100).map(|number| add(&mut queue, 10, number)).collect();
        assert_eq!(queue.next_deadline(), Some(10));
        let before = order(&queue);
        for deadline in 11..1000 {
            queue.arm(keys[0], deadline);
        }
        assert_eq!(before, order(&queue));
        assert_eq!(
            queue.pop_if(|deadline| deadline <= 10),
            Some((keys[1], 1)),
            "the postponed one is not first"
        );
    }

    #[test]
    fn what_is_added_and_removed_between_two_looks_never_is_in_the_heap() {
        let mut queue = Queue::new();
        for number in 0..100 {
            add(&mut queue, 1000 - number, number);
        }
        assert_eq!(queue.next_deadline(), Some(901));
        let before = order(&queue);
        for number in 0..10 {
            let key = add(&mut queue, number, number);
            assert!(queue.remove(key).is_some());
        }
        assert_eq!(before, order(&queue));
    }

    #[test]
    fn what_is_added_at_once_is_sorted_once_and_taken_from_the_front() {
        let mut queue = Queue::new();
        for number in 0..1000_u64 {
            add(&mut queue, number * 7919 % 1000, number);
        }
        assert_eq!(queue.next_deadline(), Some(0));
        assert_eq!((queue.run.len(), queue.heap.len()), (1000, 0));
        for deadline in 0..1000 {
            let (key, handler) = queue.pop_if(|_| true).expect("they are due");
            assert_eq!(handler * 7919 % 1000, deadline);
            assert!(queue.put_back(key, handler).is_none());
        }
        assert_eq!(queue.pop_if(|_| true), None);
    }
}
