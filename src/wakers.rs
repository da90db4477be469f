//! Places where futures leave their wakers.
//!
//! A waker's functions are code of the user (a waker may be of another executor), so none is
//! called, cloned or dropped while anything is borrowed.

use std::cell::{Cell, RefCell};
use std::mem;
use std::task::Waker;

/// A place for the waker of the one who waits.
#[derive(Default)]
pub(crate) struct WakerCell(Cell<Option<Waker>>);

impl WakerCell {
    pub(crate) fn set(&self, waker: &Waker) {
        let old = self.0.take();
        let kept = old.filter(|old| old.will_wake(waker));
        let replaced = self.0.replace(Some(kept.unwrap_or_else(|| waker.clone())));
        drop(replaced);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }

    /// Nobody waits any more.
    pub(crate) fn clear(&self) {
        drop(self.0.take());
    }
}

/// Places for the wakers of any number who wait for the same.
#[derive(Default)]
pub(crate) struct WakerList {
    entries: RefCell<Vec<(WaiterId, Waker)>>,
    last: Cell<u64>,
}

/// Who waits, in a [`WakerList`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WaiterId(u64);

impl WakerList {
    pub(crate) fn set(&self, id: &mut Option<WaiterId>, waker: &Waker) {
        let id = *id.get_or_insert_with(|| {
            self.last.set(self.last.get() + 1);
            WaiterId(self.last.get())
        });
        let waker = waker.clone();
        let mut entries = self.entries.borrow_mut();
        let entry = entries.iter_mut().find(|(other, _)| *other == id);
        let replaced = match entry {
            Some((_, place)) => Some(mem::replace(place, waker)),
            None => {
                entries.push((id, waker));
                None
            }
        };
        drop(entries);
        drop(replaced);
    }

    pub(crate) fn remove(&self, id: WaiterId) {
        let removed = {
            let mut entries = self.entries.borrow_mut();
            let position = entries.iter().position(|(other, _)| *other == id);
            position.map(|position| entries.remove(position))
        };
        drop(removed);
    }

    pub(crate) fn wake_all(&self) {
        for (_, waker) in self.entries.take() {
            waker.wake();
        }
    }
}
