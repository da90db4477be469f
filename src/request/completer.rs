//! The side of a request that does the work.

use super::state::{self, Node, Outcome, Shared};
use super::{Request, RequestError};
use crate::context::Context;
use std::any::Any;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// What ends a [`Request`], made with it by [`Context::request`].
///
/// It goes to whoever does the work: into the closure of an event, a task, or the callback of a
/// [sub-request](Completer::then). Clones are for the same request. The first outcome counts; what
/// comes later has no effect, and the methods return false then.
///
/// When the last clone is dropped without an outcome, the request ends with
/// [`RequestError::Abandoned`]. So nobody waits for ever for a handler that has forgotten one of
/// its branches, or that is gone.
///
/// ```
/// use std::time::Duration;
/// use tevent::{Context, Request};
///
/// /// Ends after `delay`.
/// fn wait(context: &Context, delay: Duration) -> Request<(), std::io::Error> {
///     let (request, completer) = context.request("wait");
///     let timer = context.add_timer_after(delay, move |_, _| {
///         completer.done(());
///     });
///     request.attach(timer); // removed when the request ends, however that is
///     request
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// let request = wait(&context, Duration::from_millis(1));
/// assert_eq!(context.block_on(request)?.is_ok(), true);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_req")]
pub struct Completer<T: 'static, E: 'static> {
    shared: Rc<Shared<T, E>>,
}

/// Doesn't keep the request from being abandoned.
pub(crate) struct WeakCompleter<T: 'static, E: 'static>(Weak<Shared<T, E>>);

impl<T, E> WeakCompleter<T, E> {
    /// `None` if the request has ended.
    pub(crate) fn upgrade(&self) -> Option<Completer<T, E>> {
        let shared = self.0.upgrade().filter(|shared| shared.core.is_pending());
        shared.as_ref().map(Completer::new)
    }
}

impl<T, E> Completer<T, E> {
    pub(super) fn new(shared: &Rc<Shared<T, E>>) -> Completer<T, E> {
        let completers = &shared.core.completers;
        completers.set(completers.get() + 1);
        Completer {
            shared: Rc::clone(shared),
        }
    }

    pub(crate) fn downgrade(&self) -> WeakCompleter<T, E> {
        WeakCompleter(Rc::downgrade(&self.shared))
    }

    /// Ends the request with `value`. Returns false if it has ended already.
    ///
    /// The request first lets go of all that works for it: its sub-requests, its deadline, what is
    /// [attached](Completer::attach). Then it calls back or wakes who awaits it. The callback is
    /// called before this returns, unless it was [deferred](Completer::defer_callback).
    ///
    /// # Panics
    ///
    /// When the callback does, or a destructor of what the request lets go of. The request has
    /// ended all the same, and the rest was done.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// assert!(completer.done(42));
    /// assert!(!completer.done(43), "it has ended");
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_done")]
    #[doc(alias = "tevent_req_notify_callback")]
    pub fn done(&self, value: T) -> bool {
        self.shared.end(Ok(value), false)
    }

    /// Ends the request with an error. Returns false if it has ended already. Otherwise as
    /// [`done`](Completer::done).
    ///
    /// # Panics
    ///
    /// As [`done`](Completer::done).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::RequestError;
    ///
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), _>("hopeless");
    /// completer.fail("no way");
    /// let outcome = context.block_on(request)?;
    /// assert_eq!(outcome, Err(RequestError::Failed("no way")));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_error")]
    #[doc(alias = "tevent_req_nomem")]
    #[doc(alias = "tevent_req_oom")]
    pub fn fail(&self, error: E) -> bool {
        self.shared.end(Err(RequestError::Failed(error)), false)
    }

    /// Ends the request with a result: that of an operation, or of a
    /// [sub-request](Completer::then), whose time-out or cancellation becomes this request's.
    /// Returns false if it has ended already.
    ///
    /// # Panics
    ///
    /// As [`done`](Completer::done).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<u32, std::num::ParseIntError>("parse");
    /// completer.finish("42".parse());
    /// assert_eq!(context.block_on(request)?, Ok(42));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_done")]
    #[doc(alias = "tevent_req_error")]
    pub fn finish(&self, result: Result<T, impl Into<RequestError<E>>>) -> bool {
        self.shared.end(result.map_err(Into::into), false)
    }

    /// As [`finish`](Completer::finish), but the callback is called by the loop in a later turn,
    /// not in here: for a handler that isn't prepared for what the callback may do.
    ///
    /// It isn't needed in a function that makes a request and returns it, as there is no callback
    /// yet. One that is set on a request that has ended is called by the loop in any case.
    ///
    /// # Panics
    ///
    /// When a destructor of what the request lets go of does.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// let called = Rc::new(Cell::new(false));
    /// let inner = Rc::clone(&called);
    /// request.on_complete(move |_, _| inner.set(true));
    /// completer.finish_later(Ok::<_, std::io::Error>(42));
    /// assert!(!called.get());
    /// context.run()?;
    /// assert!(called.get());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_post")]
    pub fn finish_later(&self, result: Result<T, impl Into<RequestError<E>>>) -> bool {
        self.shared.end(result.map_err(Into::into), true)
    }

    /// Has the loop call the callback in a turn after the one in which the request ends, whatever
    /// ends it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// completer.defer_callback();
    /// request.on_complete(|context, _| context.stop());
    /// request.detach();
    /// completer.done(42); // calls nobody
    /// context.run() // but this does
    /// # }
    /// ```
    #[doc(alias = "tevent_req_defer_callback")]
    pub fn defer_callback(&self) {
        self.shared.core.is_deferred.set(true);
    }

    /// Ends the request with [`RequestError::Cancelled`]: the answer to who has asked to
    /// [cancel](Request::cancel) it. Returns false if it has ended already.
    ///
    /// # Panics
    ///
    /// As [`done`](Completer::done).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("idle");
    /// completer.on_cancel(|_, completer| _ = completer.cancelled());
    /// assert!(request.cancel());
    /// let error = context.block_on(request)?.unwrap_err();
    /// assert!(error.is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancelled(&self) -> bool {
        self.shared.end(Err(RequestError::Cancelled), false)
    }

    /// Calls `handler` when the outcome isn't wanted any more: somebody asks to
    /// [cancel](Request::cancel) the request; the [`Request`] is dropped; the deadline has passed.
    /// Once, and not when the request ends otherwise. A handler that was set before is replaced.
    ///
    /// Who is asked to cancel decides what happens: it may end the request at once
    /// ([`cancelled`](Completer::cancelled)) or later, with any outcome. In the two other cases the
    /// request has ended, so that the same call has no effect, and the handler only stops the work.
    /// What is to be dropped with the request needs no handler, but to be
    /// [attached](Completer::attach).
    ///
    /// If somebody has asked already, while there was no handler, the loop calls this one in a
    /// later turn.
    ///
    /// Returns false if the request has ended; the handler is dropped then. It is also dropped
    /// without being called when the context goes or is
    /// [re-initialised](Context::reinitialise).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("long");
    /// completer.on_cancel(|_, completer| {
    ///     println!("tell the server to stop");
    ///     assert!(!completer.is_wanted(), "this time it was dropped");
    /// });
    /// drop(request);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_cancel_fn")]
    pub fn on_cancel(&self, handler: impl FnOnce(&Context, &Completer<T, E>) + 'static) -> bool {
        self.shared.set_cancel_handler(Box::new(handler))
    }

    /// Whether an outcome would have an effect: the request has not ended, and was not dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("idle");
    /// assert!(completer.is_wanted());
    /// drop(request);
    /// assert!(!completer.is_wanted());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_is_in_progress")]
    pub fn is_wanted(&self) -> bool {
        self.shared.core.is_pending()
    }

    /// Whether somebody has asked to [cancel](Request::cancel) the request, and it has not ended:
    /// for work in steps, that looks between them.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("steps");
    /// assert!(!completer.is_cancelling());
    /// request.cancel();
    /// assert!(completer.is_cancelling());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_cancelling(&self) -> bool {
        self.shared.core.state.get() == super::RequestState::Cancelling
    }

    /// Asks to cancel the sub-requests. That is what [cancelling](Request::cancel) this request
    /// does when it has no [handler](Completer::on_cancel); one that wants both calls this.
    ///
    /// Returns whether somebody was told.
    ///
    /// # Panics
    ///
    /// When a handler does. The others were told.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("outer");
    /// let (inner, inner_completer) = context.request::<(), std::io::Error>("inner");
    /// inner_completer.on_cancel(|_, completer| _ = completer.cancelled());
    /// completer.finish_with(inner);
    /// completer.on_cancel(|_, completer| {
    ///     println!("cancelling");
    ///     completer.cancel_sub_requests();
    /// });
    /// request.cancel();
    /// assert!(context.block_on(request)?.unwrap_err().is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_cancel")]
    pub fn cancel_sub_requests(&self) -> bool {
        state::cancel_sub_requests(&self.shared.core)
    }

    /// Makes `request` a sub-request of this one, and calls `callback` with its outcome. The
    /// callback is given a completer, so it needs to capture none; if it neither ends the request,
    /// nor keeps a clone, nor starts another sub-request, the request is abandoned.
    ///
    /// When this request ends, by whatever, its sub-requests are dropped. When somebody asks to
    /// [cancel](Request::cancel) it, they are asked. In the [tree](Request::tree) they are below
    /// it. There may be any number at a time.
    ///
    /// If `request` has ended already, the loop calls the callback in a later turn.
    ///
    /// Returns false, and drops `request` and the callback, if this request has ended; also if
    /// `request` is this one, or above it.
    ///
    /// # Panics
    ///
    /// When a handler or destructor does, of a request that is dropped.
    ///
    /// ```
    /// use std::{io, time::Duration};
    /// use tevent::{Completer, Context, Request};
    ///
    /// fn wait(context: &Context, delay: Duration) -> Request<(), io::Error> {
    ///     let (request, completer) = context.request("wait");
    ///     request.attach(context.add_timer_after(delay, move |_, _| _ = completer.done(())));
    ///     request
    /// }
    ///
    /// fn wait_twice(context: &Context, delay: Duration) -> Request<&'static str, io::Error> {
    ///     let (request, completer) = context.request("wait twice");
    ///     completer.then(wait(context, delay), move |context, completer, result| match result {
    ///         Err(error) => _ = completer.finish(Err(error)),
    ///         Ok(()) => {
    ///             let last = wait(context, delay);
    ///             completer.then(last, |_, completer, result| {
    ///                 completer.finish(result.map(|()| "both are over"));
    ///             });
    ///         }
    ///     });
    ///     request
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let context = Context::new()?;
    /// let request = wait_twice(&context, Duration::from_millis(1));
    /// assert_eq!(context.block_on(request)??, "both are over");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_callback")]
    #[doc(alias = "tevent_req_callback_data")]
    #[doc(alias = "tevent_req_callback_data_void")]
    pub fn then<U, F>(
        &self,
        request: Request<U, F>,
        callback: impl FnOnce(&Context, &Completer<T, E>, Result<U, RequestError<F>>) + 'static,
    ) -> bool {
        if !self.is_wanted() {
            return false;
        }
        let parent = Rc::clone(&self.shared) as Rc<dyn Node>;
        let child = request.shared();
        if !state::adopt(&parent, Rc::clone(child) as Rc<dyn Node>) {
            return false;
        }
        let child = request.into_shared();
        let completer = self.clone();
        let callback = move |context: &Context, outcome: Outcome<U, F>| {
            callback(context, &completer, outcome);
        };
        if !child.set_callback(Box::new(callback)) {
            // It was made in a context that is gone.
            parent
                .core()
                .sub_requests
                .borrow_mut()
                .remove(&child.core.number);
            return false;
        }
        if parent.core().is_untold.get() {
            // Somebody has asked before this sub-request was there.
            child.core.is_deferred.set(true);
            state::cancel(child);
        }
        true
    }

    /// Leaves the rest to `request`: its outcome will be that of this request. Otherwise as
    /// [`then`](Completer::then).
    ///
    /// # Panics
    ///
    /// As [`then`](Completer::then).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (outer, completer) = context.request::<_, std::io::Error>("outer");
    /// let (inner, inner_completer) = context.request("inner");
    /// completer.finish_with(inner);
    /// inner_completer.done(42);
    /// assert_eq!(context.block_on(outer)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn finish_with(&self, request: Request<T, E>) -> bool {
        self.then(request, |_, completer, outcome| {
            _ = completer.finish(outcome)
        })
    }

    /// Keeps `value` until the request has ended, by whatever, and drops it then, before the
    /// callback is called; the value that was attached last goes first. For the events that work
    /// for the request, and for anything else that is to be cleaned up.
    ///
    /// Returns false if the request has ended; the value is dropped then.
    ///
    /// A value that owns a [`Completer`] of the same request is never dropped by itself. A handle
    /// of an event whose closure owns one is fine: its event ends when the request does, or the
    /// other way round.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::rc::Rc;
    ///
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("idle");
    /// let value = Rc::new(());
    /// completer.attach(Rc::clone(&value));
    /// drop(request);
    /// assert_eq!(Rc::strong_count(&value), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_cleanup_fn")]
    #[doc(alias = "tevent_req_data")]
    pub fn attach(&self, value: impl Any) -> bool {
        self.shared.core.attach(Box::new(value))
    }

    /// As [`Request::set_deadline`].
    ///
    /// # Panics
    ///
    /// As [`Context::add_timer`].
    #[doc(alias = "tevent_req_set_endtime")]
    #[track_caller]
    pub fn set_deadline(&self, deadline: Instant) -> bool {
        self.shared.set_deadline(deadline)
    }

    /// As [`Request::set_timeout`].
    ///
    /// # Panics
    ///
    /// As [`Context::add_timer`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<(), std::io::Error>("patient");
    /// completer.set_timeout(Duration::from_millis(1));
    /// assert!(context.block_on(request)?.unwrap_err().is_timed_out());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_endtime")]
    #[track_caller]
    pub fn set_timeout(&self, timeout: Duration) -> bool {
        self.shared.set_timeout(timeout)
    }

    /// As [`Request::clear_deadline`].
    #[doc(alias = "tevent_req_reset_endtime")]
    pub fn clear_deadline(&self) {
        self.shared.core.clear_deadline();
    }
}

/// Another completer of the same request.
impl<T, E> Clone for Completer<T, E> {
    fn clone(&self) -> Completer<T, E> {
        Completer::new(&self.shared)
    }
}

impl<T, E> Drop for Completer<T, E> {
    fn drop(&mut self) {
        let completers = &self.shared.core.completers;
        completers.set(completers.get() - 1);
        if completers.get() == 0 {
            // From the loop, as this may be the end of a handler that panics.
            self.shared.end(Err(RequestError::Abandoned), true);
        }
    }
}

impl<T, E> fmt::Debug for Completer<T, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Completer")
            .field("name", &self.shared.core.name)
            .field("state", &self.shared.core.state.get())
            .finish_non_exhaustive()
    }
}
