//! Code of the user that the loop keeps, and that may replace itself while it runs.

use std::cell::Cell;

/// A place for a closure or an object that is told things.
///
/// It is taken out while it runs, so that nothing is borrowed then: what it does itself isn't told
/// to anybody, and one that panics is gone.
pub(crate) struct Callback<T> {
    /// Missing while it runs.
    value: Cell<Option<T>>,
    /// How often it was replaced: the one that is running may put another in its place, which may be
    /// called before it has returned.
    replaced: Cell<u64>,
}

impl<T> Default for Callback<T> {
    fn default() -> Callback<T> {
        Callback {
            value: Cell::new(None),
            replaced: Cell::new(0),
        }
    }
}

impl<T> Callback<T> {
    /// Puts in another one, or none. What was there is for the caller to drop, unless it is running.
    pub(crate) fn replace(&self, value: Option<T>) -> Option<T> {
        self.replaced.set(self.replaced.get() + 1);
        self.value.replace(value)
    }

    /// Whether there is one, which isn't running.
    pub(crate) fn is_there(&self) -> bool {
        let value = self.value.take();
        let is_there = value.is_some();
        self.value.set(value);
        is_there
    }

    /// Has it called, if there is one. Nothing may be borrowed.
    pub(crate) fn call(&self, call: impl FnOnce(&mut T)) {
        if let Some(mut value) = self.value.take() {
            let replaced = self.replaced.get();
            call(&mut value);
            if self.replaced.get() == replaced {
                self.value.set(Some(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(callback: &Callback<u32>) -> Option<u32> {
        let mut called = None;
        callback.call(|value| called = Some(*value));
        called
    }

    #[test]
    fn stays_where_it_is_and_is_not_called_by_itself() {
        let callback = Callback::default();
        assert_eq!(called(&callback), None);
        assert_eq!(callback.replace(Some(1)), None);
        callback.call(|_| assert_eq!(called(&callback), None));
        assert_eq!(called(&callback), Some(1));
        assert_eq!(callback.replace(None), Some(1));
        assert_eq!(called(&callback), None);
    }

    #[test]
    fn one_that_replaced_itself_stays_away_though_the_next_was_called_meanwhile() {
        let callback = Callback::default();
        callback.replace(Some(1));
        callback.call(|_| {
            assert_eq!(callback.replace(Some(2)), None);
            assert_eq!(called(&callback), Some(2));
        });
        assert_eq!(called(&callback), Some(2));
        callback.call(|_| assert_eq!(callback.replace(None), None));
        assert_eq!(called(&callback), None);
    }
}
