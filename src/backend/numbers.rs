//! Who watches a descriptor, by its number.
//!
//! A process gets the lowest number that is free, so numbers are small and dense, and the table is
//! an array. But a program can ask for any number (`F_DUPFD`), or lend one that doesn't exist. So
//! the array ends somewhere, and what lies beyond is in a map.

use std::collections::HashMap;
use std::os::fd::RawFd;

/// Where the array ends; it takes 256 KiB then.
const DENSE: usize = 1 << 16;

const NOBODY: u32 = u32::MAX;

/// A map from descriptor numbers to places in a table, which are less than [`u32::MAX`].
#[derive(Debug, Default)]
pub(super) struct Numbers {
    dense: Vec<u32>,
    sparse: HashMap<RawFd, u32>,
}

impl Numbers {
    pub(super) fn get(&self, fd: RawFd) -> Option<u32> {
        match dense_index(fd) {
            Some(index) => {
                let place = self.dense.get(index).copied();
                place.filter(|&place| place != NOBODY)
            }
            None => self.sparse.get(&fd).copied(),
        }
    }

    pub(super) fn insert(&mut self, fd: RawFd, place: u32) {
        match dense_index(fd) {
            Some(index) => {
                if self.dense.len() <= index {
                    self.dense.resize(index + 1, NOBODY);
                }
                self.dense[index] = place;
            }
            None => {
                self.sparse.insert(fd, place);
            }
        }
    }

    pub(super) fn remove(&mut self, fd: RawFd) {
        match dense_index(fd) {
            Some(index) => {
                if let Some(place) = self.dense.get_mut(index) {
                    *place = NOBODY;
                }
            }
            None => {
                self.sparse.remove(&fd);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.sparse.clear();
    }
}

/// The place in the array of a number that belongs there.
fn dense_index(fd: RawFd) -> Option<usize> {
    usize::try_from(fd).ok().filter(|&index| index < DENSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_large_number_costs_no_more_than_a_small_one() {
        let mut numbers = Numbers::default();
        for fd in [RawFd::MAX, 1_000_000, DENSE as RawFd] {
            numbers.insert(fd, 1);
            assert_eq!(numbers.get(fd), Some(1));
        }
        assert_eq!(numbers.dense.capacity(), 0);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((0..8usize, any::<bool>(), 0..100u32), 0..100)) {
            let fds = [0, 1, 7, 1000, DENSE as RawFd - 1, DENSE as RawFd, 1_000_000, RawFd::MAX];
            let mut numbers = Numbers::default();
            let mut model = HashMap::new();
            for (pick, insert, place) in operations {
                if insert {
                    numbers.insert(fds[pick], place);
                    model.insert(fds[pick], place);
                } else {
                    numbers.remove(fds[pick]);
                    model.remove(&fds[pick]);
                }
                for fd in fds {
                    prop_assert_eq!(numbers.get(fd), model.get(&fd).copied());
                }
            }
        }
    }
}
