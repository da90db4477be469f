//! The place of an event's closure.
//!
//! It does what a `RefCell<Option<F>>` would, with one look where that needs two, as it is looked
//! at for every event that is called.

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    /// A reference to it exists.
    Running,
    Gone,
}

/// A closure that is called by a shared reference, but not while it is running, and that can be
/// taken out.
pub(crate) struct ClosureCell<F> {
    state: Cell<State>,
    /// Initialised unless it is gone.
    closure: UnsafeCell<ManuallyDrop<F>>,
}

/// It can't be taken out now.
#[derive(Debug)]
pub(crate) struct IsRunning;

/// Says that the closure doesn't run any more, also when it has panicked.
struct Running<'a>(&'a Cell<State>);

impl Drop for Running<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(State::Idle);
    }
}

impl<F> ClosureCell<F> {
    pub(crate) fn new(closure: F) -> ClosureCell<F> {
        ClosureCell {
            state: Cell::new(State::Idle),
            closure: UnsafeCell::new(ManuallyDrop::new(closure)),
        }
    }

    /// Has `call` call the closure, if it is there and not running.
    #[inline(always)]
    pub(crate) fn call(&self, call: impl FnOnce(&mut F)) {
        if self.state.get() != State::Idle {
            return;
        }
        self.state.set(State::Running);
        let _running = Running(&self.state);
        // SAFETY: it is there, and nobody has a reference to it, nor is given one or drops it
        // before `_running` goes, which is after `call`.
        let closure = unsafe { &mut *self.closure.get() };
        call(&mut **closure);
    }

    /// Takes the closure out; `None` if that was done before.
    pub(crate) fn take(&self) -> Result<Option<F>, IsRunning> {
        match self.state.get() {
            State::Idle => {
                self.state.set(State::Gone);
                // SAFETY: nobody has a reference to it, and it isn't touched any more.
                Ok(Some(unsafe {
                    ManuallyDrop::take(&mut *self.closure.get())
                }))
            }
            State::Running => Err(IsRunning),
            State::Gone => Ok(None),
        }
    }
}

impl<F> Drop for ClosureCell<F> {
    fn drop(&mut self) {
        // It isn't running, as that borrows this.
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    #[test]
    fn a_running_closure_is_neither_called_nor_taken() {
        let cell = ClosureCell::new(|| 7);
        let mut calls = 0;
        cell.call(|closure| {
            calls += closure();
            cell.call(|_| unreachable!("it is running"));
            assert!(cell.take().is_err());
        });
        assert_eq!(calls, 7);
    }

    #[test]
    fn a_closure_that_was_taken_is_gone() {
        let cell = ClosureCell::new(|| 7);
        let closure = cell.take().unwrap().expect("it was there");
        assert_eq!(closure(), 7);
        assert!(cell.take().unwrap().is_none());
        cell.call(|_| unreachable!("it is gone"));
    }

    #[test]
    fn a_closure_that_panicked_can_be_called_and_taken_again() {
        let cell = ClosureCell::new(());
        let panicked = catch_unwind(AssertUnwindSafe(|| cell.call(|()| panic!("as expected"))));
        assert!(panicked.is_err());
        let mut is_called = false;
        cell.call(|()| is_called = true);
        assert!(is_called);
        assert!(cell.take().unwrap().is_some());
    }

    #[test]
    fn what_a_closure_owns_is_dropped_once() {
        let owned = Rc::new(());
        let cell = ClosureCell::new(Rc::clone(&owned));
        assert_eq!(Rc::strong_count(&owned), 2);
        drop(cell);
        assert_eq!(Rc::strong_count(&owned), 1);
        let cell = ClosureCell::new(Rc::clone(&owned));
        let taken = cell.take();
        drop(cell);
        assert_eq!(Rc::strong_count(&owned), 2);
        drop(taken);
        assert_eq!(Rc::strong_count(&owned), 1);
    }
}
