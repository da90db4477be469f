//! Running the loop for one future that belongs to the caller.
//!
//! # Implementation
//!
//! The future may borrow from the caller, so no table can own it. It is polled between turns, by
//! the condition of `run_until`. Its waker schedules an immediate that only says that the future is
//! due, which gives the future a task's place in the order, and keeps the loop from sleeping.
//!
//! `reinitialise` drops that immediate; the condition notices, and makes another one. The waker
//! stays the same.

use super::waker::{Registration, Wakeable};
use crate::context::Context;
use crate::immediate::Immediate;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll};

#[derive(Default)]
struct Root {
    immediate: RefCell<Option<Immediate>>,
    is_due: Rc<Cell<bool>>,
}

impl Root {
    /// Sees to it that there is an immediate. A new one is scheduled, so that nothing that was
    /// missed matters.
    fn keep_alive(&self, context: &Context) {
        if self.with_immediate(Immediate::is_registered) != Some(true) {
            let is_due = Rc::clone(&self.is_due);
            let immediate = context.add_immediate(move |_, _| is_due.set(true));
            immediate.schedule();
            let old = self.immediate.replace(Some(immediate));
            drop(old);
        }
    }

    fn with_immediate<R>(&self, look: impl FnOnce(&Immediate) -> R) -> Option<R> {
        self.immediate.borrow().as_ref().map(look)
    }
}

impl Wakeable for Root {
    fn schedule(&self) {
        self.with_immediate(|immediate| {
            if !immediate.is_scheduled() {
                immediate.schedule();
            }
        });
    }

    fn end(&self) {
        // Whoever blocks keeps the thread from ending; the immediate goes with the registration.
    }
}

impl Context {
    /// Runs the loop until `future` is ready, and returns its output. The future may borrow, and
    /// has its turns in order with the immediates.
    ///
    /// It waits in any case, even when there is nothing in the loop to wait for, as another thread
    /// may wake the future.
    ///
    /// # Errors
    ///
    /// The future is dropped then; pass a `&mut` reference to one that is pinned, to go on
    /// with it.
    ///
    /// - [`io::ErrorKind::Interrupted`]: [`stop`](Context::stop) was called.
    /// - [`io::ErrorKind::Deadlock`], before the future is polled: the loop runs already (this is a
    ///   handler or a task), and nesting isn't [allowed](Context::set_nesting_allowed).
    /// - The backend failed, as in [`run_once`](Context::run_once).
    ///
    /// # Panics
    ///
    /// When the future or a handler does; the context can be run again.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let name = String::from("world");
    /// let greeting = context.block_on(async {
    ///     context.sleep(Duration::from_millis(1)).await;
    ///     format!("hello {}", &name)
    /// })?;
    /// assert_eq!(greeting, "hello world");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_poll")]
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let mut future = pin!(future);
        let root = Rc::new(Root::default());
        let wakeable = Rc::clone(&root) as Rc<dyn Wakeable>;
        let Some(registration) = Registration::new(wakeable, self.remote()) else {
            return Err(io::Error::other("the thread is ending"));
        };
        let mut output = None;
        self.run_until(|| {
            if root.is_due.take() {
                let mut poll = task::Context::from_waker(registration.waker_for_poll());
                if let Poll::Ready(value) = future.as_mut().poll(&mut poll) {
                    output = Some(value);
                    return true;
                }
                // Woken by a loop inside this poll, which has run the immediate.
                if root.is_due.get() {
                    root.schedule();
                }
            }
            root.keep_alive(self);
            false
        })?;
        output.ok_or_else(stopped)
    }
}

fn stopped() -> io::Error {
    io::Error::new(
        io::ErrorKind::Interrupted,
        "the loop was stopped before the future was ready",
    )
}
