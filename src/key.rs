//! Generational slots over [`slab`].
//!
//! A [`Key`] names one insertion, not one place: when a slot is used again, keys of its former
//! occupant no longer find anything. That is what keeps an event that the kernel reported for a
//! removed registration, or a handle that outlived its event, from reaching somebody else.
//!
//! The generation is a counter of insertions modulo 2³² - 1. A stale key could be mistaken only
//! when its slot is reused by the insertion that comes an exact multiple of that later.

use slab::Slab;
use std::fmt;
use std::mem;
use std::num::{NonZeroU32, NonZeroU64};

/// The name of one insertion into a [`Slots`]: the generation in the upper half, the place in the
/// lower. One number, as it is compared and stored for every descriptor event that is called; not
/// 0, so that an optional key is no larger.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(NonZeroU64);

impl Key {
    /// Finds nothing: no table has an entry at this place.
    pub(crate) const NONE: Key = Key::new(u32::MAX, NonZeroU32::MAX);

    #[inline]
    pub(crate) const fn new(index: u32, generation: NonZeroU32) -> Key {
        let bits = (generation.get() as u64) << 32 | index as u64;
        match NonZeroU64::new(bits) {
            Some(bits) => Key(bits),
            // The generation isn't 0.
            None => unreachable!(),
        }
    }

    #[inline]
    pub(crate) fn generation_bits(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    #[inline]
    pub(crate) fn generation(self) -> NonZeroU32 {
        NonZeroU32::new((self.0.get() >> 32) as u32).unwrap_or_else(|| unreachable!())
    }

    /// The place in the table.
    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0.get() as u32
    }

    /// The key as the 64 bits of user data that a kernel hands back with an event.
    pub(crate) fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The inverse of [`Key::to_bits`]; of bits that no key has, a key that finds nothing, or
    /// `None`.
    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Option<Key> {
        NonZeroU64::new(bits).map(Key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({}, {})", self.index(), self.generation())
    }
}

#[derive(Debug)]
struct Slot<T> {
    value: T,
    key: Key,
}

/// A table whose entries are named by [`Key`]s.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slab: Slab<Slot<T>>,
    /// Never reset, not even by [`Slots::take_all`], so that keys from before stay stale.
    next_generation: NonZeroU32,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Slots {
            slab: Slab::new(),
            next_generation: NonZeroU32::MIN,
        }
    }

    /// The key that the next [`insert`](Slots::insert) will return.
    pub(crate) fn next_key(&self) -> Key {
        Key::new(self.slab.vacant_key() as u32, self.next_generation)
    }

    /// Stores `value`.
    ///
    /// # Panics
    ///
    /// When 2³² - 1 entries are stored already.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        // u32::MAX is left out: Key::to_bits() of no entry may be all ones.
        if self.slab.len() == self.slab.capacity() {
            self.grow();
        }
        let index = self.slab.vacant_key();
        assert!(index < u32::MAX as usize, "more than 2^32 - 1 events");
        let key = Key::new(index as u32, self.next_generation);
        let next = self.next_generation.checked_add(1);
        self.next_generation = next.unwrap_or(NonZeroU32::MIN);
        self.slab.insert(Slot { value, key });
        key
    }

    /// By an eighth, as doubling would leave up to half of the table unused.
    #[cold]
    fn grow(&mut self) {
        self.slab.reserve_exact((self.slab.len() / 8).max(4));
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.slab.get(key.index() as usize) {
            Some(slot) if slot.key == key => Some(&slot.value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slab.get_mut(key.index() as usize) {
            Some(slot) if slot.key == key => Some(&mut slot.value),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index() as usize).value)
    }

    /// The key of the entry at a place.
    #[inline]
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        Some(self.slab.get(index as usize)?.key)
    }

    /// The entry at a place, whichever insertion it is of.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slab.get(index as usize).map(|slot| &slot.value)
    }

    /// The entry at a place, whichever insertion it is of.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slab
            .get_mut(index as usize)
            .map(|slot| &mut slot.value)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.slab.iter().map(|(_, slot)| slot.key)
    }

    /// Empties the table and gives back what was in it, for the caller to drop when no table is
    /// borrowed.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.slab.drain().map(|slot| slot.value).collect()
    }

    /// Empties the table; what was in it is leaked, as is its memory, which isn't written to.
    pub(crate) fn leak_all(&mut self) {
        mem::forget(mem::take(&mut self.slab));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_of_a_removed_entry_finds_nothing_when_its_slot_is_reused() {
        let mut slots = Slots::new();
        let old = slots.insert("old");
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new");
        assert_eq!(old.index(), new.index(), "the slot is reused");
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.get_mut(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"new"));
        assert_eq!(format!("{old:?} {new:?}"), "Key(0, 1) Key(0, 2)");
    }

    #[test]
    fn keys_from_before_take_all_stay_stale() {
        let mut slots = Slots::new();
        let old = slots.insert(1);
        assert_eq!(slots.take_all(), [1]);
        slots.insert(2);
        assert_eq!(slots.get(old), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_of_insertions(operations in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
            let mut slots = Slots::new();
            let mut model: Vec<(Key, usize, bool)> = Vec::new();
            for (number, (insert, pick)) in operations.into_iter().enumerate() {
                if insert || model.is_empty() {
                    let key = slots.insert(number);
                    prop_assert_eq!(Key::from_bits(key.to_bits()), Some(key));
                    model.push((key, number, true));
                } else {
                    let entry = pick.index(model.len());
                    let (key, value, alive) = model[entry];
                    prop_assert_eq!(slots.remove(key), alive.then_some(value));
                    model[entry].2 = false;
                }
                for &(key, value, alive) in &model {
                    prop_assert_eq!(slots.get(key).copied(), alive.then_some(value));
                }
                prop_assert_eq!(slots.len(), model.iter().filter(|entry| entry.2).count());
            }
        }
    }
}
