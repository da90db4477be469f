//! Scheduling from other threads.

use crate::context::{Context, Inner, Meta};
use crate::immediate::{ImmediateHandler, Once};
use crate::sys::doorbell::{Doorbell, REMOTE};
use std::fmt;
use std::mem;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

struct Scheduled {
    closure: Box<dyn ImmediateHandler + Send>,
    location: &'static Location<'static>,
}

/// What other threads have scheduled and the loop hasn't taken yet.
pub(crate) struct Inbox {
    doorbell: &'static Doorbell,
    queue: Mutex<Queue>,
}

struct Queue {
    scheduled: Vec<Scheduled>,
    /// The context is gone, and its doorbell may be another's.
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(doorbell: &'static Doorbell) -> Arc<Inbox> {
        Arc::new(Inbox {
            doorbell,
            queue: Mutex::new(Queue {
                scheduled: Vec::new(),
                closed: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code of the user runs while it is locked, so a poisoned one is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_all(&self) -> impl Sized + use<> {
        mem::take(&mut self.lock().scheduled)
    }

    /// Turns away all that comes from now on, and gives back what is there, to be dropped
    /// unlocked.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        let mut queue = self.lock();
        queue.closed = true;
        mem::take(&mut queue.scheduled)
    }
}

impl Inner {
    /// Moves what other threads have scheduled to the end of the immediates.
    pub(crate) fn accept_remote(&self) {
        let mut scheduled = mem::take(&mut self.inbox.lock().scheduled);
        for Scheduled { closure, location } in scheduled.drain(..) {
            self.defer(closure, Meta::at(location));
        }
        // The memory goes back for the next batch, unless that has begun already.
        let mut queue = self.inbox.lock();
        if queue.scheduled.capacity() == 0 {
            queue.scheduled = scheduled;
        }
    }
}

/// A handle by which other threads schedule closures on a context, made by [`Context::remote`].
///
/// What one thread schedules runs in that order. A sleeping loop is woken by one system call for
/// all that comes before it looks; a busy one by none.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let remote = context.remote();
/// let worker = std::thread::spawn(move || {
///     let sum: u64 = (1..=100).sum();
///     remote.schedule(move |context| {
///         assert_eq!(sum, 5050);
///         context.stop();
///     })
/// });
/// context.run_until(|| false)?; // the stop ends it
/// assert!(worker.join().expect("no panic"), "it was accepted");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_threaded_context")]
#[doc(alias = "tevent_thread_proxy")]
#[derive(Clone)]
pub struct Remote {
    inbox: Arc<Inbox>,
}

impl Context {
    /// A handle by which other threads schedule closures on this context. It doesn't keep the
    /// context alive, nor [`run`](Context::run) from returning.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let remote = context.remote();
    /// remote.schedule(|_| println!("from wherever"));
    /// context.run_once()?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_threaded_context_create")]
    #[doc(alias = "tevent_thread_proxy_create")]
    pub fn remote(&self) -> Remote {
        Remote {
            inbox: Arc::clone(&self.inner.inbox),
        }
    }
}

impl Remote {
    /// Runs `closure` on the context's thread, as an immediate, after what this thread has
    /// scheduled before.
    ///
    /// Returns false, and drops the closure, when the context is gone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let remote = context.remote();
    /// assert!(remote.schedule(|_| ()));
    /// drop(context);
    /// assert!(!remote.schedule(|_| ()));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_threaded_schedule_immediate")]
    #[doc(alias = "tevent_thread_proxy_schedule")]
    #[track_caller]
    pub fn schedule(&self, closure: impl FnOnce(&Context) + Send + 'static) -> bool {
        let scheduled = Scheduled {
            closure: Box::new(Once(Some(closure))),
            location: Location::caller(),
        };
        let mut queue = self.inbox.lock();
        if queue.closed {
            drop(queue);
            drop(scheduled);
            return false;
        }
        queue.scheduled.push(scheduled);
        if queue.scheduled.len() == 1 {
            // Locked, so that the context can't go (and its doorbell to another) before.
            self.inbox.doorbell.ring(REMOTE);
        }
        true
    }

    /// Whether the context is there still.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let remote = tevent::Context::new()?.remote();
    /// assert!(remote.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_closed(&self) -> bool {
        self.inbox.lock().closed
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Remote")
            .field("is_closed", &self.is_closed())
            .finish()
    }
}
