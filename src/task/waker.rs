//! Wakers: how a task gets to the end of the immediates from wherever it is woken.
//!
//! # Implementation
//!
//! A [`Waker`] goes to any thread and outlives everything, so it holds nothing of the task: only
//! the name of an entry in a table of the thread that the task belongs to ([`LOCAL`]), and a
//! [`Remote`]. A wake on that thread looks the entry up and schedules the task's immediate, without
//! an allocation, and without a system call while the loop runs (else whoever polls its descriptor
//! is told); the name of a task that is over finds nothing. A wake on another
//! thread posts the name to the context's thread, which does the same.
//!
//! `posted` keeps wakes from other threads from piling up. It is set by the one that posts, and
//! taken back on the context's thread before the task is polled, so a wake that finds it set is
//! followed by a poll that sees what the waker's thread did before.
//!
//! The table is a thread's, not a context's: a waker can't reach a context but through the thread
//! that it runs on. When the thread ends and the table with it, so do the tasks.

use crate::key::{Key, Slots};
use crate::remote::Remote;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Wake, Waker};

/// What a waker wakes.
pub(crate) trait Wakeable {
    /// Sees to it that the loop polls the future, once. Runs no code of the user.
    fn schedule(&self);

    /// The thread ends.
    fn end(&self);
}

struct Local {
    /// Tells threads apart; 0 for one that never had a task.
    number: Cell<usize>,
    entries: RefCell<Slots<Rc<dyn Wakeable>>>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            number: Cell::new(0),
            entries: RefCell::new(Slots::new()),
        }
    };
}

impl Local {
    fn number(&self) -> usize {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        if self.number.get() == 0 {
            self.number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        self.number.get()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for entry in self.entries.get_mut().take_all() {
            entry.end();
        }
    }
}

/// What a [`Waker`] is made of.
struct TaskWaker {
    thread: usize,
    key: Key,
    remote: Remote,
    /// Another thread has posted a wake that wasn't looked at yet.
    posted: AtomicBool,
}

impl TaskWaker {
    /// Whether this is the right thread.
    #[inline]
    fn wake_here(&self) -> bool {
        // A table that is gone has taken its tasks with it.
        LOCAL
            .try_with(|local| {
                if local.number.get() != self.thread {
                    return false;
                }
                if let Some(entry) = local.entries.borrow().get(self.key) {
                    entry.schedule();
                }
                true
            })
            .unwrap_or(false)
    }

    #[cold]
    fn wake_there(self: &Arc<Self>) {
        if !self.posted.swap(true, Ordering::AcqRel) {
            let posted = Posted(Arc::clone(self));
            self.remote.schedule(move |_| drop(posted));
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.wake_here() {
            self.wake_there();
        }
    }
}

/// A wake on its way to the context's thread. It arrives when it is dropped, so that one that is
/// dropped unread, with all that is scheduled on a re-initialised context, doesn't leave a flag
/// behind that keeps back all others.
struct Posted(Arc<TaskWaker>);

impl Drop for Posted {
    fn drop(&mut self) {
        if self.0.posted.swap(false, Ordering::AcqRel) {
            self.0.wake_here();
        }
    }
}

/// Makes something wakeable until this is dropped.
pub(crate) struct Registration {
    inner: Arc<TaskWaker>,
    waker: Waker,
}

impl Registration {
    /// `None` if the thread is ending.
    pub(crate) fn new(wakeable: Rc<dyn Wakeable>, remote: Remote) -> Option<Registration> {
        let register = |local: &Local| {
            let key = local.entries.borrow_mut().insert(wakeable);
            (local.number(), key)
        };
        let (thread, key) = LOCAL.try_with(register).ok()?;
        let inner = Arc::new(TaskWaker {
            thread,
            key,
            remote,
            posted: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&inner));
        Some(Registration { inner, waker })
    }

    /// The waker to poll with. All wakes before this are answered by that poll.
    #[inline]
    pub(crate) fn waker_for_poll(&self) -> &Waker {
        let posted = &self.inner.posted;
        if posted.load(Ordering::Relaxed) {
            posted.swap(false, Ordering::AcqRel);
        }
        &self.waker
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let key = self.inner.key;
        let removed = LOCAL.try_with(|local| local.entries.borrow_mut().remove(key));
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;

    struct Nothing;

    impl Wakeable for Nothing {
        fn schedule(&self) {}
        fn end(&self) {}
    }

    #[test]
    fn what_is_no_longer_registered_is_not_kept() {
        let context = Context::new().expect("a context");
        let wakeable = Rc::new(Nothing);
        let registration = Registration::new(Rc::clone(&wakeable) as _, context.remote());
        assert_eq!(Rc::strong_count(&wakeable), 2);
        let waker = registration.map(|registration| registration.waker_for_poll().clone());
        assert_eq!(Rc::strong_count(&wakeable), 1, "though there is a waker");
        drop(waker);
    }
}
