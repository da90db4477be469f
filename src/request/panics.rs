//! Panics of the user's code, kept until everything is in order again.

use crate::context::WeakContext;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// What has panicked so far. A request's end runs several pieces of the user's code: one that
/// panics doesn't keep the others from running, and two that do don't abort the process.
#[derive(Default)]
pub(crate) struct Panics(Vec<Box<dyn Any + Send>>);

impl Panics {
    /// Calls code of the user, or drops something of theirs.
    pub(crate) fn catch(&mut self, code_of_the_user: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(code_of_the_user)) {
            self.0.push(payload);
        }
    }

    /// Goes on with the first panic, unless one is under way. The loop goes on with the others.
    #[inline]
    pub(crate) fn finish(self, context: &WeakContext) {
        if !self.0.is_empty() {
            self.go_on(context);
        }
    }

    #[cold]
    fn go_on(self, context: &WeakContext) {
        let mut payloads = self.0.into_iter();
        let first = match thread::panicking() {
            true => None,
            false => payloads.next(),
        };
        Panics(payloads.collect()).surface(context);
        if let Some(payload) = first {
            resume_unwind(payload);
        }
    }

    /// Leaves the panics to the loop, which they come through in the next turns. If there is none
    /// any more, the panic hook has told of them.
    pub(crate) fn surface(self, context: &WeakContext) {
        for payload in self.0 {
            if let Some(context) = context.upgrade() {
                context.defer(move |_| resume_unwind(payload));
            }
        }
    }
}
