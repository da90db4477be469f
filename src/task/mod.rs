//! Tasks: futures that the loop runs.
//!
//! # Implementation
//!
//! A task is an immediate whose closure owns the future and polls it ([`Runner`]). Waking it is
//! scheduling the immediate; cancelling it is removing the immediate. So what is true of
//! immediates is true of tasks: their place in the order, that a closure removed while it runs is
//! dropped when it has returned, what `fork`, `reinitialise` and the end of the context do.
//!
//! The handle and the runner share the [`Stage`], through which the output gets to who awaits it.
//! Invariant: the stage is [`Stage::Running`] if and only if the runner has the future.

mod block_on;
mod waker;

use crate::context::{Context, WeakContext};
use crate::immediate::Immediate;
use crate::wakers::WakerCell;
use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};
use std::thread;
use waker::{Registration, Wakeable};

/// A future that the loop runs, made by [`Context::spawn`].
///
/// Awaiting it gives the future's output, or [`Cancelled`] when the context went, or was
/// [re-initialised](Context::reinitialise), before there was one.
///
/// Dropping it cancels the task: the future is dropped at once, or if it is being polled, when that
/// poll has returned. [`detach`](Task::detach) leaves the task to the context.
///
/// # Panics
///
/// A panic of the future comes through to who awaits the task. If nobody will, as the task was
/// detached or the handle is dropped, it comes through to the caller of [`run`](Context::run): at
/// once for a detached task, else in the next turn. (Should there be no next turn, as the context
/// is gone or never runs again, then only the panic hook has told of it.)
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let task = context.spawn(async { 6 * 7 });
/// let answer = context.block_on(async { task.await })?;
/// assert_eq!(answer, Ok(42));
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a task cancels it; `detach` leaves it to the context"]
pub struct Task<T: 'static> {
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    context: WeakContext,
    /// Missing only while the task is being made.
    immediate: OnceCell<Immediate>,
    stage: Cell<Stage<T>>,
    awaiter: WakerCell,
    /// The handle is gone, so nobody will take the output.
    is_unobserved: Cell<bool>,
}

enum Stage<T> {
    Running,
    Finished(thread::Result<T>),
    /// There is no output, or no more.
    Over,
}

type Payload = Box<dyn Any + Send>;

impl<T> Shared<T> {
    /// Sees to it that a panic which nobody awaits is not swallowed.
    fn surface(&self, payload: Payload) {
        if let Some(context) = self.context.upgrade() {
            context.defer(move |_| resume_unwind(payload));
        }
    }

    /// Nobody will take the output.
    fn abandon(&self) {
        self.is_unobserved.set(true);
        if let Stage::Finished(result) = self.take_output() {
            match result {
                Ok(output) => drop(output),
                Err(payload) => self.surface(payload),
            }
        }
    }

    /// The stage; an output leaves by that.
    fn take_output(&self) -> Stage<T> {
        match self.stage.replace(Stage::Over) {
            Stage::Running => {
                self.stage.set(Stage::Running);
                Stage::Running
            }
            stage => stage,
        }
    }

    fn is_finished(&self) -> bool {
        let stage = self.stage.replace(Stage::Over);
        let is_finished = !matches!(stage, Stage::Running);
        self.stage.set(stage);
        is_finished
    }

    /// `None` if there is no output and will be none.
    fn poll_output(&self, poll: &mut task::Context<'_>) -> Poll<Option<T>> {
        match self.take_output() {
            Stage::Running => {
                self.awaiter.set(poll.waker());
                Poll::Pending
            }
            Stage::Finished(Ok(output)) => Poll::Ready(Some(output)),
            Stage::Finished(Err(payload)) => resume_unwind(payload),
            Stage::Over => Poll::Ready(None),
        }
    }
}

impl<T> Wakeable for Shared<T> {
    #[inline]
    fn schedule(&self) {
        if let Some(immediate) = self.immediate.get() {
            // One that is queued keeps its place.
            if !immediate.is_scheduled() {
                immediate.schedule_and_tell();
            }
        }
    }

    fn end(&self) {
        if let Some(immediate) = self.immediate.get() {
            immediate.remove();
        }
    }
}

/// What the task's immediate calls.
struct Runner<F: Future> {
    /// Missing when the task has finished.
    future: Option<Pin<Box<F>>>,
    shared: Rc<Shared<F::Output>>,
    registration: Option<Registration>,
}

impl<F: Future> Runner<F> {
    fn run(&mut self) {
        let (Some(future), Some(registration)) = (&mut self.future, &self.registration) else {
            return;
        };
        let mut context = task::Context::from_waker(registration.waker_for_poll());
        let poll = || future.as_mut().poll(&mut context);
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(output)) => self.finish(Ok(output)),
            Err(payload) => self.finish(Err(payload)),
        }
    }

    fn finish(&mut self, result: thread::Result<F::Output>) {
        self.registration = None;
        self.shared.end();
        let future = self.future.take();
        // To the handle it makes no difference whether the future panics now or did before.
        let result = match (caught(|| drop(future)), result) {
            (None, result) => result,
            (Some(later), Err(payload)) => {
                self.shared.surface(later);
                Err(payload)
            }
            (Some(payload), Ok(output)) => {
                if let Some(later) = caught(|| drop(output)) {
                    self.shared.surface(later);
                }
                Err(payload)
            }
        };
        if self.shared.is_unobserved.get() {
            self.shared.stage.set(Stage::Over);
            match result {
                Ok(output) => drop(output),
                Err(payload) => resume_unwind(payload),
            }
        } else {
            self.shared.stage.set(Stage::Finished(result));
            self.shared.awaiter.wake();
        }
    }
}

fn caught(code_of_the_user: impl FnOnce()) -> Option<Payload> {
    catch_unwind(AssertUnwindSafe(code_of_the_user)).err()
}

/// The task was cancelled, or its context is gone or was re-initialised.
impl<F: Future> Drop for Runner<F> {
    fn drop(&mut self) {
        self.registration = None;
        if let Some(future) = self.future.take() {
            let _end = End(&self.shared);
            drop(future);
        }
    }
}

/// Tells who awaits the task that it is over, when the future is gone; also if that panics.
struct End<'a, T>(&'a Shared<T>);

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        self.0.stage.set(Stage::Over);
        self.0.awaiter.wake();
    }
}

impl Context {
    /// Runs `future` on this context, as a task. It is polled first in a later turn, and then
    /// whenever it was woken, in order with the immediates.
    ///
    /// Its wakers may be used on any thread, and longer than the task or the context lives. On
    /// this thread a wake costs neither a system call nor an allocation.
    ///
    /// A task that waits for something doesn't keep [`run`](Context::run) from returning; the
    /// descriptors, timers and signals that it waits for do. [`block_on`](Context::block_on) waits
    /// in any case.
    ///
    /// A task can't borrow its context. [`downgrade`](Context::downgrade) makes what it can own, a
    /// [`WeakContext`], on which it may spawn and sleep too:
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// context
    ///     .spawn(async move {
    ///         weak.sleep(Duration::from_millis(1)).await;
    ///         println!("a millisecond has passed");
    ///     })
    ///     .detach();
    /// context.run()
    /// # }
    /// ```
    ///
    /// The downside of owning more than that: a task with a [`ContextRef`](crate::ContextRef)
    /// across an `.await` keeps the context alive, which keeps the task alive.
    ///
    /// While the thread is ending (in destructors of its thread-local values) there are no tasks:
    /// the future is dropped, and the task is cancelled.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 immediates or tasks already.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        let shared = Rc::new(Shared {
            context: self.downgrade(),
            immediate: OnceCell::new(),
            stage: Cell::new(Stage::Running),
            awaiter: WakerCell::default(),
            is_unobserved: Cell::new(false),
        });
        let task = Task {
            shared: Rc::clone(&shared),
        };
        let wakeable = Rc::clone(&shared) as Rc<dyn Wakeable>;
        let mut runner = Runner {
            future: Some(Box::pin(future)),
            shared,
            registration: Registration::new(wakeable, self.remote()),
        };
        if runner.registration.is_some() {
            let immediate = self.add_immediate(move |_, _| runner.run());
            immediate.schedule_and_tell();
            // It was empty.
            let _ = task.shared.immediate.set(immediate);
        }
        task
    }
}

impl WeakContext {
    /// As [`Context::spawn`]. If the context is gone, the future is dropped, and the task is
    /// cancelled.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// let outer = context.spawn(async move {
    ///     let inner = weak.spawn(async { 42 });
    ///     inner.await
    /// });
    /// assert_eq!(context.block_on(outer)?, Ok(Ok(42)));
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        match self.upgrade() {
            Some(context) => context.spawn(future),
            None => Task {
                shared: Rc::new(Shared {
                    context: self.clone(),
                    immediate: OnceCell::new(),
                    stage: Cell::new(Stage::Over),
                    awaiter: WakerCell::default(),
                    is_unobserved: Cell::new(false),
                }),
            },
        }
    }
}

impl<T: 'static> Task<T> {
    /// Leaves the task to the context: it runs until it has finished, or until the context goes or
    /// is re-initialised. Its output is dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.spawn(async { println!("runs") }).detach();
    /// context.run()
    /// # }
    /// ```
    pub fn detach(self) {
        self.shared.abandon();
    }

    /// Cancels the task. The future is dropped at once; or, if it is being polled, when that poll
    /// has returned. Awaiting the result of this waits for that, and gives the output if there was
    /// one by then.
    ///
    /// # Panics
    ///
    /// When the future's destructor does. When awaited: when the future has panicked.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let finished = context.spawn(async { 42 });
    /// let waiting = context.spawn(std::future::pending::<()>());
    /// context.run()?;
    /// context.block_on(async {
    ///     assert_eq!(finished.cancel().await, Some(42));
    ///     assert_eq!(waiting.cancel().await, None);
    /// })
    /// # }
    /// ```
    pub fn cancel(self) -> Cancel<T> {
        self.shared.end();
        Cancel { task: self }
    }

    /// Whether there is nothing left to run: the future has returned, has panicked, or was dropped.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let task = context.spawn(async { 42 });
    /// assert!(!task.is_finished());
    /// context.run()?;
    /// assert!(task.is_finished());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_finished(&self) -> bool {
        self.shared.is_finished()
    }

    /// The number that [`set_tag`](Task::set_tag) has set, 0 before, and when the task is over.
    pub fn tag(&self) -> u64 {
        self.immediate().map(Immediate::tag).unwrap_or_default()
    }

    /// Gives the task a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let task = context.spawn(std::future::pending::<()>());
    /// task.set_tag(7);
    /// task.set_name("idler");
    /// assert_eq!((task.tag(), task.name()), (7, Some("idler".to_owned())));
    /// assert!(task.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_tag(&self, tag: u64) {
        if let Some(immediate) = self.immediate() {
            immediate.set_tag(tag);
        }
    }

    /// The name that [`set_name`](Task::set_name) has set; `None` when the task is over.
    pub fn name(&self) -> Option<String> {
        self.immediate()?.name()
    }

    /// Gives the task a name, for whoever looks at the loop: a
    /// [slow poll](Context::set_slow_handler) is reported by it, as an immediate.
    pub fn set_name(&self, name: &str) {
        if let Some(immediate) = self.immediate() {
            immediate.set_name(name);
        }
    }

    /// Where the task was spawned; `None` when it is over.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.immediate()?.location()
    }

    fn immediate(&self) -> Option<&Immediate> {
        self.shared.immediate.get()
    }
}

impl<T: 'static> Future for Task<T> {
    type Output = Result<T, Cancelled>;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let output = self.shared.poll_output(context);
        output.map(|output| output.ok_or(Cancelled(())))
    }
}

impl<T: 'static> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.shared.is_unobserved.get() {
            self.shared.is_unobserved.set(true);
            self.shared.awaiter.clear();
            self.shared.end();
            self.shared.abandon();
        }
    }
}

impl<T: 'static> fmt::Debug for Task<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Task")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// The end of a cancelled task, made by [`Task::cancel`]: the output if the task had finished
/// before, else `None`. The future is gone by then.
///
/// Dropping this changes nothing, the task is cancelled.
#[must_use = "the task may still be in its last poll; awaiting this waits for its end"]
pub struct Cancel<T: 'static> {
    task: Task<T>,
}

impl<T: 'static> Future for Cancel<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<T>> {
        self.task.shared.poll_output(context)
    }
}

impl<T: 'static> fmt::Debug for Cancel<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task.fmt(formatter)
    }
}

/// Why a [`Task`] has no output: its context is gone or was re-initialised, or the output was
/// taken before.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::Cancelled;
///
/// let context = tevent::Context::new()?;
/// let task = context.spawn(async { 42 });
/// context.reinitialise()?;
/// let result: Result<i32, Cancelled> = context.block_on(task)?;
/// assert_eq!(result.unwrap_err().to_string(), "the task was cancelled");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cancelled(());

impl fmt::Display for Cancelled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the task was cancelled")
    }
}

impl Error for Cancelled {}

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> io::Error {
        io::Error::other(cancelled)
    }
}
