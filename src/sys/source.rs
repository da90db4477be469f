//! A descriptor event's source, and what is to become of it.
//!
//! An `Option` would do without unsafe code, but every look at the source would ask whether it is
//! there still, which it is for everybody who can look.

use std::cell::Cell;
use std::mem::ManuallyDrop;

/// (Small in an event, as few have one.)
type CloseCallback<S> = Box<Box<dyn FnOnce(S)>>;

/// A source that is dropped with this, or then handed to a callback.
pub(crate) struct Source<S> {
    /// Present until this is dropped or consumed.
    value: ManuallyDrop<S>,
    on_close: Cell<Option<CloseCallback<S>>>,
}

impl<S> Source<S> {
    pub(crate) fn new(value: S) -> Source<S> {
        Source {
            value: ManuallyDrop::new(value),
            on_close: Cell::new(None),
        }
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> &S {
        &self.value
    }

    /// Sets the callback, and drops an earlier one.
    pub(crate) fn on_close(&self, callback: impl FnOnce(S) + 'static) {
        let callback = Box::new(Box::new(callback) as Box<dyn FnOnce(S)>);
        let old = self.on_close.replace(Some(callback));
        drop(old);
    }

    /// The source, for which no callback is called any more.
    pub(crate) fn into_inner(self) -> S {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` isn't used afterwards but for the callback, nor dropped.
        let value = unsafe { ManuallyDrop::take(&mut this.value) };
        drop(this.on_close.take());
        value
    }
}

impl<S> Drop for Source<S> {
    fn drop(&mut self) {
        // SAFETY: it is there, as `into_inner` doesn't come here; nobody sees it afterwards.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        match self.on_close.take() {
            Some(on_close) => on_close(value),
            None => drop(value),
        }
    }
}
