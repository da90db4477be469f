//! Byte-range locks of one file ([MS-FSA] 2.1.4.10, 2.1.5.8, 2.1.5.9).
//!
//! Locks are a list, searched in order: files with thousands of them are rare,
//! and their number is bounded.

use super::message::Range;

/// The locks on a file. `O` is an open, whose locks they are.
#[derive(Debug, Clone)]
pub struct Locks<O> {
    locks: Vec<(O, Range)>,
}

impl<O> Default for Locks<O> {
    fn default() -> Self {
        Locks { locks: Vec::new() }
    }
}

/// First and last byte. An empty range ends before it begins: what encloses
/// both overlaps with it, and no other empty range does.
fn bounds(offset: u64, length: u64) -> (i128, i128) {
    let first = i128::from(offset);
    (first, first + i128::from(length) - 1)
}

/// Whether two ranges have a byte in common, or one is empty and inside the
/// other. The empty range at the beginning of the file overlaps with nothing.
fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    if a == (0, 0) || b == (0, 0) {
        return false;
    }
    let (first_a, last_a) = bounds(a.0, a.1);
    let (first_b, last_b) = bounds(b.0, b.1);
    first_a <= last_b && first_b <= last_a
}

impl<O: Copy + Eq> Locks<O> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.locks.len()
    }

    /// The locks in the order they were made, each with its open.
    pub fn iter(&self) -> impl Iterator<Item = (O, Range)> + '_ {
        self.locks.iter().copied()
    }

    /// Whether `range` can't be locked for `owner` now.
    ///
    /// Two shared locks may overlap; and who has a range exclusively may lock
    /// it once more, shared.
    pub fn prevent_lock(&self, owner: O, range: Range) -> bool {
        self.locks.iter().any(|&(other, lock)| {
            overlap((lock.offset, lock.length), (range.offset, range.length))
                && (range.exclusive || lock.exclusive && other != owner)
        })
    }

    /// Whether `owner` can't read from or write to a range now: it is locked
    /// exclusively by another open, or, for writes, shared by anybody.
    pub fn prevent_access(&self, owner: O, offset: u64, length: u64, writes: bool) -> bool {
        length > 0
            && self.locks.iter().any(|&(other, lock)| {
                overlap((lock.offset, lock.length), (offset, length))
                    && if lock.exclusive {
                        other != owner
                    } else {
                        writes
                    }
            })
    }

    /// Locks all of `ranges` or none.
    pub fn lock(&mut self, owner: O, ranges: &[Range]) -> bool {
        let before = self.locks.len();
        for &range in ranges {
            if self.prevent_lock(owner, range) {
                self.locks.truncate(before);
                return false;
            }
            self.locks.push((owner, range));
        }
        true
    }

    /// Unlocks a range that `owner` has locked exactly so. `false` if it hasn't.
    pub fn unlock(&mut self, owner: O, offset: u64, length: u64) -> bool {
        let is_it = |&(other, lock): &(O, Range)| {
            other == owner && (lock.offset, lock.length) == (offset, length)
        };
        let exclusive = self
            .locks
            .iter()
            .position(|entry| is_it(entry) && entry.1.exclusive);
        let found = exclusive.or_else(|| self.locks.iter().position(is_it));
        if let Some(index) = found {
            self.locks.remove(index);
        }
        found.is_some()
    }

    /// Removes all locks that `is_gone` says of their owner.
    pub fn remove(&mut self, is_gone: impl Fn(O) -> bool) {
        self.locks.retain(|&(owner, _)| !is_gone(owner));
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

    proptest! {
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
