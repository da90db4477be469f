//! Scheduling from other threads.

use crate::context::{Context, Inner, WeakContext};
use crate::sys::doorbell::{Doorbell, REMOTE};
use crate::sys::job::Job;
use crate::sys::mailbox::{Mailbox, Sender};
use std::fmt;
use std::panic::Location;

/// What other threads have scheduled and the loop hasn't run yet.
pub(crate) struct Inbox {
    doorbell: &'static Doorbell,
    /// Closed when the context is gone, as its doorbell may be another's then.
    mailbox: Mailbox<Context>,
}

impl Inbox {
    pub(crate) fn new(doorbell: &'static Doorbell) -> Inbox {
        let mailbox = Mailbox::new();
        doorbell.tell_of_forks(&mailbox);
        Inbox { doorbell, mailbox }
    }

    /// In a forked child: whoever posted may not have rung yet, and isn't in this process.
    pub(crate) fn ring_if_not_empty(&self) {
        if self.mailbox.has_news() {
            self.doorbell.ring(REMOTE);
        }
    }

    /// Calls the oldest of those that are among the immediates, and `begins` before. Returns whether
    /// there was one.
    #[inline(always)]
    pub(crate) fn run_next(&self, context: &Context, begins: impl FnOnce()) -> bool {
        self.mailbox.run_next(context, begins)
    }

    /// Takes it.
    #[inline]
    pub(crate) fn take(&self) -> Option<Job<Context>> {
        self.mailbox.take()
    }

    /// Takes all, whether they are among the immediates or not.
    pub(crate) fn take_all(&self) -> impl Sized + use<> {
        self.mailbox.take_all()
    }

    /// Turns away all that comes from now on, and gives back what is there.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        self.mailbox.close()
    }
}

impl Inner {
    /// For what wakers, futures, requests and queues do, who may be used where nobody knows of the
    /// loop: if that isn't running, whoever polls its descriptor is told to make a turn.
    #[inline]
    pub(crate) fn tell_if_left(&self) {
        if self.state.level.get() == 0 {
            self.doorbell.ring(REMOTE);
        }
    }

    /// Moves what other threads have scheduled to the end of the immediates.
    pub(crate) fn accept_remote(&self) {
        let count = self.inbox.mailbox.look();
        if count > 0 {
            self.push_posted(count);
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
    doorbell: &'static Doorbell,
    sender: Sender<Context>,
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
            doorbell: self.inner.doorbell,
            sender: self.inner.inbox.mailbox.sender(),
        }
    }
}

impl WeakContext {
    /// As [`Context::remote`]. `None`: the context is gone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::thread;
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// let task = context.spawn(async move {
    ///     let remote = weak.remote().expect("the task's context is there");
    ///     thread::spawn(move || remote.schedule(|context| context.stop()))
    /// });
    /// context.run_until(|| false)?; // until another thread says that it is enough
    /// # let thread = context.block_on(task)?.expect("it has run");
    /// # assert!(thread.join().expect("no panic"));
    /// # drop(context);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_threaded_context_create")]
    pub fn remote(&self) -> Option<Remote> {
        Some(self.upgrade()?.remote())
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
        if self.sender.post(closure, Location::caller()).is_err() {
            return false;
        }
        // Who has rung for another one has rung for this, if the loop hasn't answered yet.
        if !self.doorbell.is_ringing(REMOTE) {
            let is_there = || !self.sender.is_closed();
            self.doorbell.ring_if(REMOTE, is_there);
        }
        true
    }

    /// Whether the context is gone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let remote = tevent::Context::new()?.remote();
    /// assert!(remote.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wakeup::Wakeup;

    #[test]
    fn who_has_posted_and_cannot_ring_is_rung_for() {
        let wakeup = Wakeup::new().expect("a descriptor");
        let doorbell = Doorbell::claim(wakeup.write_number());
        let inbox = Inbox::new(doorbell);
        inbox.ring_if_not_empty();
        assert_eq!(doorbell.attention(), 0, "there is nothing");
        let sender = inbox.mailbox.sender();
        assert!(sender.post(|_: &Context| (), Location::caller()).is_ok());
        inbox.ring_if_not_empty();
        assert_eq!(doorbell.attention(), REMOTE);
        drop(inbox.close());
        doorbell.release();
    }
}
