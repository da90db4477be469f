//! Requests: computations that end later, and what they wait for.
//!
//! A [`Request`] is held by who wants an outcome, its [`Completer`] by who works for it. `state.rs`
//! has what both share, and how requests end.

mod completer;
mod panics;
mod state;
mod tree;

pub use completer::Completer;
pub(crate) use completer::WeakCompleter;
pub(crate) use panics::Panics;
pub use tree::{RequestInfo, RequestTree};

use crate::context::{Context, WeakContext};
use state::{Node, Shared};
use std::any::Any;
use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

/// A computation that ends later: with a value, an error, or because nobody works for it or waits
/// for it any more. Made, with its [`Completer`], by [`Context::request`].
///
/// A function that starts something returns one. Who called it sets a
/// [callback](Request::on_complete), makes it a [sub-request](Completer::then) of a request of
/// their own, or awaits it: it is a future, for this thread, and any waker does. The outcome goes
/// to the callback if there is one, else to who awaits or [takes](Request::try_take) it first.
///
/// Dropping it says that the outcome isn't wanted: the work is told to stop
/// ([`on_cancel`](Completer::on_cancel)), sub-requests are dropped, and the callback is not called.
/// [`detach`](Request::detach) lets it go on.
///
/// A request that waits doesn't keep [`run`](Context::run) from returning; the events that work for
/// it do, and so does its deadline.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::os::unix::net::UnixStream;
/// use std::time::Duration;
/// use tevent::{Context, FdFlags, Request};
///
/// /// Reads what comes first.
/// fn read(context: &Context, socket: UnixStream) -> Request<Vec<u8>, io::Error> {
///     let (request, completer) = context.request("read");
///     let event = context.add_fd(socket, FdFlags::READ, move |_, event, _| {
///         let mut buffer = [0; 64];
///         let result = event.get_ref().read(&mut buffer);
///         completer.finish(result.map(|count| buffer[..count].to_vec()));
///     });
///     match event {
///         Ok(event) => _ = request.attach(event), // so that it ends with the request
///         Err(error) => println!("{error}"), // the completer is gone: the request is abandoned
///     }
///     request
/// }
///
/// # fn main() -> io::Result<()> {
/// let context = Context::new()?;
/// let (mut ours, theirs) = UnixStream::pair()?;
/// let request = read(&context, theirs);
/// request.set_timeout(Duration::from_secs(10));
/// request.on_complete(|_, result| match result {
///     Ok(bytes) => println!("{} bytes", bytes.len()),
///     Err(error) => println!("nothing: {error}"),
/// });
/// ours.write_all(b"hello")?;
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_req")]
#[must_use = "dropping a request gives up its outcome; `detach` lets it go on"]
pub struct Request<T: 'static, E: 'static> {
    shared: Rc<Shared<T, E>>,
    /// Not when it was given away or detached.
    owns: bool,
}

/// How far a request is.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::RequestState;
///
/// let context = tevent::Context::new()?;
/// let (request, completer) = context.request::<_, std::io::Error>("answer");
/// assert_eq!(request.state(), RequestState::Pending);
/// completer.done(42);
/// assert_eq!(request.state(), RequestState::Done);
/// assert_eq!(request.state().to_string(), "done");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[doc(alias = "tevent_req_state")]
pub enum RequestState {
    /// It has not ended.
    Pending,
    /// It has not ended, and somebody has asked to [cancel](Request::cancel) it.
    Cancelling,
    /// It has ended with a value.
    Done,
    /// It has ended with an error of its own.
    Failed,
    /// Its deadline has passed.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// Nobody worked for it any more, or nobody waited.
    Abandoned,
}

impl RequestState {
    fn of<T, E>(outcome: &Result<T, RequestError<E>>) -> RequestState {
        match outcome {
            Ok(_) => RequestState::Done,
            Err(RequestError::Failed(_)) => RequestState::Failed,
            Err(RequestError::TimedOut) => RequestState::TimedOut,
            Err(RequestError::Cancelled) => RequestState::Cancelled,
            Err(RequestError::Abandoned) => RequestState::Abandoned,
        }
    }

    /// Whether the request has not ended.
    ///
    /// ```
    /// use tevent::RequestState;
    ///
    /// assert!(RequestState::Cancelling.is_pending());
    /// assert!(!RequestState::Cancelled.is_pending());
    /// ```
    #[doc(alias = "tevent_req_is_in_progress")]
    pub fn is_pending(self) -> bool {
        matches!(self, RequestState::Pending | RequestState::Cancelling)
    }
}

impl fmt::Display for RequestState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            RequestState::Pending => "pending",
            RequestState::Cancelling => "cancelling",
            RequestState::Done => "done",
            RequestState::Failed => "failed",
            RequestState::TimedOut => "timed out",
            RequestState::Cancelled => "cancelled",
            RequestState::Abandoned => "abandoned",
        })
    }
}

/// Why a request has no value.
///
/// Converts into an [`io::Error`] where `E` does; `?` and [`Completer::finish`] make one of an `E`.
///
/// ```
/// use std::io;
/// use tevent::RequestError;
///
/// fn explain(error: RequestError<io::Error>) -> io::Error {
///     match error {
///         RequestError::Failed(error) => error,
///         other => io::Error::from(other), // of the kind TimedOut, or Other
///     }
/// }
/// assert_eq!(explain(RequestError::TimedOut).kind(), io::ErrorKind::TimedOut);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[doc(alias = "tevent_req_is_error")]
pub enum RequestError<E> {
    /// An error of its own.
    #[doc(alias = "TEVENT_REQ_USER_ERROR")]
    Failed(E),
    /// Its deadline has passed.
    #[doc(alias = "TEVENT_REQ_TIMED_OUT")]
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// There is no outcome, and there will be none: the last [`Completer`] was dropped; the context
    /// is gone, or was [re-initialised](Context::reinitialise); the outcome was taken before, or
    /// went to the callback.
    Abandoned,
}

impl<E> RequestError<E> {
    /// Whether the deadline has passed.
    pub fn is_timed_out(&self) -> bool {
        matches!(self, RequestError::TimedOut)
    }

    /// Whether the request was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, RequestError::Cancelled)
    }

    /// Whether there is no outcome, as nobody worked for it any more.
    pub fn is_abandoned(&self) -> bool {
        matches!(self, RequestError::Abandoned)
    }

    /// Makes another error of [`Failed`](RequestError::Failed), for a request whose errors are of
    /// another type than its sub-request's.
    ///
    /// ```
    /// use tevent::RequestError;
    ///
    /// let error = RequestError::Failed("no route");
    /// assert_eq!(error.map(str::len), RequestError::Failed(8));
    /// ```
    pub fn map<F>(self, convert: impl FnOnce(E) -> F) -> RequestError<F> {
        match self {
            RequestError::Failed(error) => RequestError::Failed(convert(error)),
            RequestError::TimedOut => RequestError::TimedOut,
            RequestError::Cancelled => RequestError::Cancelled,
            RequestError::Abandoned => RequestError::Abandoned,
        }
    }
}

impl<E> From<E> for RequestError<E> {
    fn from(error: E) -> RequestError<E> {
        RequestError::Failed(error)
    }
}

impl<E: fmt::Display> fmt::Display for RequestError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Failed(error) => error.fmt(formatter),
            RequestError::TimedOut => formatter.pad("the request timed out"),
            RequestError::Cancelled => formatter.pad("the request was cancelled"),
            RequestError::Abandoned => formatter.pad("nobody works for the request any more"),
        }
    }
}

impl<E: Error> Error for RequestError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // It says what the error says, so what is behind that comes next.
            RequestError::Failed(error) => error.source(),
            _ => None,
        }
    }
}

impl<E: Into<io::Error>> From<RequestError<E>> for io::Error {
    fn from(error: RequestError<E>) -> io::Error {
        let other: RequestError<Infallible> = match error {
            RequestError::Failed(error) => return error.into(),
            RequestError::TimedOut => {
                let timed_out: RequestError<Infallible> = RequestError::TimedOut;
                return io::Error::new(io::ErrorKind::TimedOut, timed_out);
            }
            RequestError::Cancelled => RequestError::Cancelled,
            RequestError::Abandoned => RequestError::Abandoned,
        };
        io::Error::other(other)
    }
}

impl Context {
    /// Makes a request, and what ends it. `name` is for who looks at the [tree](Request::tree).
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 immediates already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// context.defer(move |_| _ = completer.done(42));
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_create")]
    #[track_caller]
    pub fn request<T, E>(
        &self,
        name: impl Into<Cow<'static, str>>,
    ) -> (Request<T, E>, Completer<T, E>) {
        pair(Some(self), self.downgrade(), name.into())
    }
}

impl WeakContext {
    /// As [`Context::request`]. If the context is gone, the request is abandoned from the
    /// beginning.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// drop(context);
    /// let (request, completer) = weak.request::<_, std::io::Error>("late");
    /// assert!(!completer.done(42));
    /// assert!(request.try_take().expect("it has ended").unwrap_err().is_abandoned());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_create")]
    #[track_caller]
    pub fn request<T, E>(
        &self,
        name: impl Into<Cow<'static, str>>,
    ) -> (Request<T, E>, Completer<T, E>) {
        pair(self.upgrade().as_deref(), self.clone(), name.into())
    }
}

#[track_caller]
fn pair<T, E>(
    context: Option<&Context>,
    weak: WeakContext,
    name: Cow<'static, str>,
) -> (Request<T, E>, Completer<T, E>) {
    let shared = Shared::new(context, weak, name);
    let completer = Completer::new(&shared);
    let request = Request { shared, owns: true };
    (request, completer)
}

impl<T, E> Request<T, E> {
    fn shared(&self) -> &Rc<Shared<T, E>> {
        &self.shared
    }

    /// Gives it away.
    fn into_shared(mut self) -> Rc<Shared<T, E>> {
        self.owns = false;
        Rc::clone(&self.shared)
    }

    /// Calls `callback` with the outcome: inside the call that ends the request, or from the loop
    /// if that is to be (see [`Completer::finish_later`]), if nobody works for the request any
    /// more, or if 64 such callbacks are on the stack. If the request has ended already, the loop
    /// calls it too; it is never called in here. A callback that was set before is replaced.
    ///
    /// Returns false if it won't be called: the outcome was taken, or the context is gone or was
    /// re-initialised. It is dropped then. Later, it is dropped without being called when the
    /// request is dropped, and when the context goes or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// request.on_complete(|context, outcome| {
    ///     assert_eq!(outcome.unwrap(), 42);
    ///     context.stop();
    /// });
    /// completer.done(42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_callback")]
    pub fn on_complete(
        &self,
        callback: impl FnOnce(&Context, Result<T, RequestError<E>>) + 'static,
    ) -> bool {
        self.shared.set_callback(Box::new(callback))
    }

    /// Takes the outcome, if the request has ended and there is no callback that is to get it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// assert!(request.try_take().is_none());
    /// completer.done(42);
    /// assert_eq!(request.try_take().expect("it has ended").unwrap(), 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_received")]
    #[doc(alias = "tevent_req_is_error")]
    pub fn try_take(&self) -> Option<Result<T, RequestError<E>>> {
        self.shared.take()
    }

    /// Asks to cancel the request. Who works for it decides: it may end it as
    /// [cancelled](RequestError::Cancelled), now or later, or go on. Who doesn't want to wait for
    /// that drops the request.
    ///
    /// The [handler](Completer::on_cancel) is called in here. If the request has none, its
    /// sub-requests are asked, and so on. Returns whether somebody was told. If not, the request is
    /// [cancelling](Completer::is_cancelling) all the same, and a handler or sub-request that
    /// comes later is told.
    ///
    /// # Panics
    ///
    /// When a handler does. The others were told.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("commit");
    /// completer.on_cancel(|_, _| println!("too late"));
    /// assert!(request.cancel(), "it was told");
    /// completer.done(42);
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_cancel")]
    pub fn cancel(&self) -> bool {
        state::cancel(Rc::clone(&self.shared) as Rc<dyn Node>)
    }

    /// Ends the request with [`RequestError::TimedOut`] when the [clock](Context::now) has reached
    /// `deadline`, if it has not ended by then. Another deadline replaces this one. Sub-requests
    /// have their own; they are dropped with the request.
    ///
    /// Returns false if the request has ended.
    ///
    /// # Panics
    ///
    /// As [`Context::add_timer`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, _completer) = context.request::<(), std::io::Error>("late");
    /// request.set_deadline(context.now());
    /// assert!(context.block_on(request)?.unwrap_err().is_timed_out());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_endtime")]
    #[track_caller]
    pub fn set_deadline(&self, deadline: Instant) -> bool {
        self.shared.set_deadline(deadline)
    }

    /// Sets the [deadline](Request::set_deadline) that is `timeout` from now.
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
    /// let (request, _completer) = context.request::<(), std::io::Error>("patient");
    /// request.set_timeout(Duration::from_millis(1));
    /// assert!(context.block_on(request)?.unwrap_err().is_timed_out());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_endtime")]
    #[track_caller]
    pub fn set_timeout(&self, timeout: Duration) -> bool {
        self.shared.set_timeout(timeout)
    }

    /// Takes the deadline away.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, _completer) = context.request::<(), std::io::Error>("patient");
    /// request.set_deadline(context.now());
    /// request.clear_deadline();
    /// context.run()?; // nothing to wait for
    /// assert!(request.state().is_pending());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_reset_endtime")]
    pub fn clear_deadline(&self) {
        self.shared.core.clear_deadline();
    }

    /// As [`Completer::attach`]: keeps `value` until the request has ended. Here it is at hand
    /// where the completer has moved into the closure of the event that is to be attached.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// let timer = context.add_timer(context.now(), move |_, _| _ = completer.done(42));
    /// request.attach(timer);
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_cleanup_fn")]
    #[doc(alias = "tevent_req_data")]
    pub fn attach(&self, value: impl Any) -> bool {
        self.shared.core.attach(Box::new(value))
    }

    /// Lets the request go on without its handle. Its callback is called, if there is one;
    /// otherwise the outcome is dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// request.on_complete(|_, outcome| println!("{outcome:?}"));
    /// request.detach();
    /// completer.done(42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(mut self) {
        self.owns = false;
        self.shared.detach();
    }

    /// How far it is. Once it has ended, this stays how it has ended.
    #[doc(alias = "tevent_req_is_in_progress")]
    #[doc(alias = "tevent_req_is_error")]
    pub fn state(&self) -> RequestState {
        self.shared.core.state.get()
    }

    /// What it was called when it was made.
    pub fn name(&self) -> &str {
        &self.shared.core.name
    }

    /// Where it was made.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, _completer) = context.request::<(), std::io::Error>("idle");
    /// assert_eq!((request.name(), request.location().file()), ("idle", file!()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn location(&self) -> &'static Location<'static> {
        self.shared.core.location
    }

    /// This request and all below it, with name, state, age, time to the deadline, and place of
    /// making: what it waits for. [`Context::requests`] has those of the whole context.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (request, _completer) = context.request::<(), std::io::Error>("idle");
    /// println!("{}", request.tree());
    /// assert_eq!(request.tree().entries().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_print")]
    #[doc(alias = "tevent_req_default_print")]
    #[doc(alias = "tevent_req_set_print_fn")]
    #[doc(alias = "tevent_req_set_profile")]
    #[doc(alias = "tevent_req_get_profile")]
    pub fn tree(&self) -> RequestTree {
        RequestTree::of(vec![Rc::clone(&self.shared) as Rc<dyn Node>])
    }
}

/// Ready when the request has ended. With a callback, or when the outcome was taken before, the
/// output is [`RequestError::Abandoned`] by then.
impl<T, E> Future for Request<T, E> {
    type Output = Result<T, RequestError<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.shared.poll(context)
    }
}

impl<T, E> Drop for Request<T, E> {
    fn drop(&mut self) {
        if self.owns {
            self.shared.disown();
        }
    }
}

impl<T, E> fmt::Debug for Request<T, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
