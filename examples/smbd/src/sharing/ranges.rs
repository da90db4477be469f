//! Byte-range locks of one file ([MS-FSA] 2.1.4.10, 2.1.5.8, 2.1.5.9).
//!
//! Whether a range meets others is counted, not searched: those that begin before its end, less
//! those that end before its beginning. So thousands of locks cost a request little more than a few,
//! whoever has them.

use std::collections::BTreeMap;

use super::message::Range;
use super::sorted::Sorted;

/// Ranges, of which it can be told how many another one meets.
#[derive(Debug, Clone, Default)]
struct Bounds {
    firsts: Sorted,
    /// The last bytes. An empty range ends before it begins.
    lasts: Sorted,
    /// Where the empty ones are.
    empty: Sorted,
}

/// First and last byte. An empty range ends before it begins: what encloses both overlaps with it,
/// and no other empty range does. The empty range at the beginning of the file overlaps with
/// nothing, and has none.
fn bounds(offset: u64, length: u64) -> Option<(u64, u64)> {
    match length {
        0 => Some((offset, offset.checked_sub(1)?)),
        _ => Some((offset, offset.saturating_add(length - 1))),
    }
}

impl Bounds {
    fn insert(&mut self, offset: u64, length: u64) {
        if let Some((first, last)) = bounds(offset, length) {
            self.firsts.insert(first);
            self.lasts.insert(last);
            if length == 0 {
                self.empty.insert(first);
            }
        }
    }

    fn remove(&mut self, offset: u64, length: u64) {
        if let Some((first, last)) = bounds(offset, length) {
            self.firsts.remove(first);
            self.lasts.remove(last);
            if length == 0 {
                self.empty.remove(first);
            }
        }
    }

    /// How many have a byte in common with a range, or are empty and inside it, or the other way
    /// round.
    fn count(&self, offset: u64, length: u64) -> usize {
        let Some((first, last)) = bounds(offset, length) else {
            return 0;
        };
        let begun = self.firsts.up_to(last);
        let over = self.lasts.below(first);
        // An empty one where an empty range is has ended and not begun.
        let apart = match length {
            0 => self.empty.up_to(first) - self.empty.below(first),
            _ => 0,
        };
        begun + apart - over
    }
}

/// What one owner has.
#[derive(Debug, Clone, Default)]
struct Own {
    exclusive: Bounds,
    /// With the shared ones.
    len: usize,
}

/// The locks on a file. `O` is an open, whose locks they are.
#[derive(Debug, Clone)]
pub struct Locks<O> {
    /// How often each range is locked: the owner, first byte, length, and whether shared.
    locks: BTreeMap<(O, u64, u64, bool), usize>,
    len: usize,
    shared: Bounds,
    exclusive: Bounds,
    own: BTreeMap<O, Own>,
}

impl<O> Default for Locks<O> {
    fn default() -> Self {
        Locks {
            locks: BTreeMap::new(),
            len: 0,
            shared: Bounds::default(),
            exclusive: Bounds::default(),
            own: BTreeMap::new(),
        }
    }
}

impl<O: Copy + Ord> Locks<O> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many `owner` has.
    pub fn len_of(&self, owner: O) -> usize {
        self.own.get(&owner).map_or(0, |own| own.len)
    }

    /// Those who have locks, in order.
    pub fn owners(&self) -> impl DoubleEndedIterator<Item = O> + '_ {
        self.own.keys().copied()
    }

    /// Whether others have locked a range exclusively.
    fn is_others(&self, owner: O, offset: u64, length: u64) -> bool {
        let all = self.exclusive.count(offset, length);
        all > 0 && {
            let own = self.own.get(&owner);
            all > own.map_or(0, |own| own.exclusive.count(offset, length))
        }
    }

    /// Whether `range` can't be locked for `owner` now.
    ///
    /// Two shared locks may overlap; and who has a range exclusively may lock
    /// it once more, shared.
    pub fn prevent_lock(&self, owner: O, range: Range) -> bool {
        let (offset, length) = (range.offset, range.length);
        if range.exclusive {
            self.exclusive.count(offset, length) + self.shared.count(offset, length) > 0
        } else {
            self.is_others(owner, offset, length)
        }
    }

    /// Whether `owner` can't read from or write to a range now: it is locked
    /// exclusively by another open, or, for writes, shared by anybody.
    pub fn prevent_access(&self, owner: O, offset: u64, length: u64, writes: bool) -> bool {
        length > 0
            && (self.is_others(owner, offset, length)
                || writes && self.shared.count(offset, length) > 0)
    }

    /// Locks all of `ranges` or none.
    pub fn lock(&mut self, owner: O, ranges: &[Range]) -> bool {
        for (index, &range) in ranges.iter().enumerate() {
            if self.prevent_lock(owner, range) {
                for &range in &ranges[..index] {
                    self.remove_one(owner, range);
                }
                return false;
            }
            let Range {
                offset,
                length,
                exclusive,
            } = range;
            *self
                .locks
                .entry((owner, offset, length, !exclusive))
                .or_default() += 1;
            self.len += 1;
            let own = self.own.entry(owner).or_default();
            own.len += 1;
            if exclusive {
                self.exclusive.insert(offset, length);
                own.exclusive.insert(offset, length);
            } else {
                self.shared.insert(offset, length);
            }
        }
        true
    }

    /// `false` if there is no such lock.
    fn remove_one(&mut self, owner: O, range: Range) -> bool {
        let Range {
            offset,
            length,
            exclusive,
        } = range;
        let key = (owner, offset, length, !exclusive);
        let Some(count) = self.locks.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.locks.remove(&key);
        }
        self.len -= 1;
        match exclusive {
            true => self.exclusive.remove(offset, length),
            false => self.shared.remove(offset, length),
        }
        if let Some(own) = self.own.get_mut(&owner) {
            own.len -= 1;
            if exclusive {
                own.exclusive.remove(offset, length);
            }
            if own.len == 0 {
                self.own.remove(&owner);
            }
        }
        true
    }

    /// Unlocks a range that `owner` has locked exactly so, the exclusive lock first. `false` if it
    /// hasn't.
    pub fn unlock(&mut self, owner: O, offset: u64, length: u64) -> bool {
        [true, false].into_iter().any(|exclusive| {
            let range = Range {
                offset,
                length,
                exclusive,
            };
            self.remove_one(owner, range)
        })
    }

    /// Removes all locks of `owner`.
    pub fn remove(&mut self, owner: O) {
        let first = (owner, 0, 0, false);
        let last = (owner, u64::MAX, u64::MAX, true);
        while let Some((&(_, offset, length, shared), _)) = self.locks.range(first..=last).next() {
            let range = Range {
                offset,
                length,
                exclusive: !shared,
            };
            self.remove_one(owner, range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, length: u64, exclusive: bool) -> Range {
        Range {
            offset,
            length,
            exclusive,
        }
    }

    #[test]
    fn ranges_reach_to_the_last_byte_there_can_be() {
        let mut locks = Locks::default();
        assert!(locks.lock(1, &[range(1, u64::MAX, true)]));
        assert!(locks.prevent_lock(2, range(u64::MAX, 1, true)));
        assert!(!locks.prevent_lock(2, range(0, 1, true)));
        assert!(locks.prevent_access(2, u64::MAX, 1, false));
    }

    #[test]
    fn an_empty_range_lies_between_two_bytes() {
        let mut locks = Locks::default();
        assert!(locks.lock(1, &[range(10, 10, true)]));
        for (offset, prevented) in [(9, false), (10, false), (11, true), (19, true), (20, false)] {
            assert_eq!(
                locks.prevent_lock(2, range(offset, 0, true)),
                prevented,
                "{offset}"
            );
        }
        let mut locks = Locks::default();
        assert!(locks.lock(1, &[range(5, 0, true)]));
        assert!(locks.lock(2, &[range(5, 0, true)]), "two empty ones");
        assert!(locks.prevent_lock(2, range(4, 2, false)));
        assert!(!locks.prevent_lock(2, range(5, 2, false)));
        assert!(!locks.lock(3, &[range(0, 0, true), range(0, 100, true)]));
        assert_eq!(locks.len(), 2, "nothing of a refused request remains");
        locks.remove(1);
        assert_eq!((locks.len(), locks.len_of(2)), (1, 1));
    }

    #[test]
    fn unlocking_takes_the_exact_range_and_the_exclusive_lock_first() {
        let mut locks = Locks::default();
        assert!(locks.lock(1, &[range(0, 10, true), range(0, 10, false)]));
        assert!(!locks.unlock(1, 0, 9));
        assert!(!locks.unlock(2, 0, 10));
        assert!(locks.unlock(1, 0, 10));
        assert!(
            !locks.prevent_access(2, 0, 10, false),
            "the shared one remains"
        );
        assert!(
            locks.prevent_access(1, 0, 10, true),
            "it is in its owner's way too"
        );
        assert!(locks.unlock(1, 0, 10));
        assert!(!locks.unlock(1, 0, 10));
    }

    /// A byte of a file as each open sees it.
    type Model = Vec<(u8, Range)>;

    fn model_bytes(range: Range) -> impl Iterator<Item = u64> {
        range.offset..range.offset + range.length
    }

    /// Whether two ranges overlap, said in whole numbers.
    fn overlap(a: &Range, b: &Range) -> bool {
        let bounds = |range: &Range| {
            let first = i128::from(range.offset);
            (first, first + i128::from(range.length) - 1)
        };
        let is_nothing = |range: &Range| (range.offset, range.length) == (0, 0);
        let ((first_a, last_a), (first_b, last_b)) = (bounds(a), bounds(b));
        !is_nothing(a) && !is_nothing(b) && first_a <= last_b && first_b <= last_a
    }

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..8u64, 1 => u64::MAX - 4..=u64::MAX]
    }

    proptest! {
        /// Ranges of any length, empty ones too, against a list that is searched.
        #[test]
        fn counting_finds_what_searching_does(
            steps in prop::collection::vec((0..3u8, edge(), edge(), any::<bool>(), 0..5u8), 1..80),
        ) {
            let mut locks = Locks::default();
            let mut model = Model::new();
            for (owner, offset, length, exclusive, what) in steps {
                let wanted = range(offset, length, exclusive);
                let met = |prevents: &dyn Fn(u8, &Range) -> bool| {
                    let mut met = model.iter().filter(|(_, lock)| overlap(lock, &wanted));
                    met.any(|(other, lock)| prevents(*other, lock))
                };
                match what {
                    0..=2 => {
                        let refused = met(&|other, lock| {
                            exclusive || lock.exclusive && other != owner
                        });
                        prop_assert_eq!(locks.lock(owner, &[wanted]), !refused);
                        if !refused {
                            model.push((owner, wanted));
                        }
                    }
                    3 => {
                        let refused = length > 0 && met(&|other, lock| match lock.exclusive {
                            true => other != owner,
                            false => exclusive,
                        });
                        prop_assert_eq!(
                            locks.prevent_access(owner, offset, length, exclusive),
                            refused
                        );
                    }
                    _ => {
                        let gone = model.iter().position(|(other, lock)| {
                            (*other, lock.offset, lock.length) == (owner, offset, length)
                        });
                        if gone.is_none() {
                            prop_assert!(!locks.unlock(owner, offset, length));
                        }
                        locks.remove(owner);
                        model.retain(|(other, _)| *other != owner);
                    }
                }
                for other in 0..3 {
                    let count = model.iter().filter(|(owner, _)| *owner == other).count();
                    prop_assert_eq!(locks.len_of(other), count);
                }
                let mut owners: Vec<u8> = model.iter().map(|(owner, _)| *owner).collect();
                owners.sort_unstable();
                owners.dedup();
                prop_assert_eq!(locks.owners().collect::<Vec<_>>(), owners);
                prop_assert_eq!(locks.len(), model.len());
            }
        }

        /// Ranges of one byte and more, against what each byte says.
        #[test]
        fn locks_are_what_their_bytes_say(
            steps in prop::collection::vec((0..3u8, 0..12u64, 1..6u64, any::<bool>(), 0..4u8), 1..60),
        ) {
            let mut locks = Locks::default();
            let mut model = Model::new();
            for (owner, offset, length, exclusive, what) in steps {
                let wanted = range(offset, length, exclusive);
                let meets = |lock: &Range| {
                    model_bytes(wanted).any(|byte| model_bytes(*lock).any(|other| byte == other))
                };
                if what < 2 {
                    let refused = model.iter().any(|(other, lock)| {
                        meets(lock) && (exclusive || lock.exclusive && *other != owner)
                    });
                    prop_assert_eq!(locks.lock(owner, &[wanted]), !refused);
                    if !refused {
                        model.push((owner, wanted));
                    }
                } else if what == 2 {
                    let mut found: Vec<usize> = (0..model.len())
                        .filter(|&i| {
                            let (other, lock) = model[i];
                            (other, lock.offset, lock.length) == (owner, offset, length)
                        })
                        .collect();
                    found.sort_by_key(|&i| !model[i].1.exclusive);
                    prop_assert_eq!(locks.unlock(owner, offset, length), !found.is_empty());
                    if let Some(&index) = found.first() {
                        model.remove(index);
                    }
                } else {
                    let refused = model.iter().any(|(other, lock)| {
                        meets(lock) && if lock.exclusive { *other != owner } else { exclusive }
                    });
                    prop_assert_eq!(
                        locks.prevent_access(owner, offset, length, exclusive),
                        refused
                    );
                }
                prop_assert_eq!(locks.len(), model.len());
            }
        }
    }
}
