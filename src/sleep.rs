//! Futures that wait for the clock, and one that waits for its next turn.
//!
//! # Implementation
//!
//! A [`Sleep`] makes its timer when it is polled first, and makes another one when it finds that
//! `reinitialise` has dropped it. The timer's closure tells of either by waking the future: when it
//! is called, and when it is dropped.

use crate::context::{Context, WeakContext};
use crate::timer::Timer;
use crate::wakers::WakerCell;
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

/// Ready at a certain time, made by [`Context::sleep`] and [`Context::sleep_until`].
///
/// The time is never before the deadline. Sleeps with the same deadline end in the order in which
/// they were polled first, and always in a later turn, even if the deadline has passed already.
///
/// Should the context be gone, nobody looks at the clock, and the sleep is over at once. Once
/// it is over it stays so until it is [reset](Sleep::reset).
///
/// Dropping it loses nothing but the timer.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::time::Duration;
///
/// let context = tevent::Context::new()?;
/// let deadline = context.now() + Duration::from_millis(1);
/// context.block_on(context.sleep_until(deadline))?;
/// assert!(context.now() >= deadline);
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless they are polled"]
pub struct Sleep {
    context: WeakContext,
    deadline: Instant,
    timer: Option<Timer>,
    alarm: Rc<Alarm>,
}

#[derive(Default)]
struct Alarm {
    has_rung: Cell<bool>,
    waker: WakerCell,
}

/// The timer's side of an alarm.
struct Bell(Rc<Alarm>);

impl Bell {
    fn ring(&self) {
        self.0.has_rung.set(true);
        self.0.waker.wake();
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.waker.wake();
    }
}

impl Context {
    /// Waits until `deadline`, on the [clock of the timers](Context::now).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.block_on(context.sleep_until(context.now()))
    /// # }
    /// ```
    #[doc(alias = "tevent_wakeup_send")]
    #[doc(alias = "tevent_wakeup_recv")]
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.downgrade().sleep_until(deadline)
    }

    /// Waits for `duration` from now, that is, from this call. One that is too long for the clock
    /// waits for centuries.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// context.block_on(context.sleep(Duration::from_millis(1)))
    /// # }
    /// ```
    #[doc(alias = "tevent_wakeup_send")]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.inner.after(duration))
    }

    /// Gives `future` until `limit` from now, that is, from this call, to be ready. If it is ready
    /// when the time is over, that counts. It is polled at least once.
    ///
    /// `future` is dropped with what this returns, so it should lose nothing by that.
    ///
    /// # Errors
    ///
    /// [`TimedOut`], which converts into an [`io::Error`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let never = std::future::pending::<()>();
    /// let result = context.block_on(context.timeout(Duration::from_millis(1), never))?;
    /// assert_eq!(result, Err(tevent::TimedOut));
    /// let result = context.block_on(context.timeout(Duration::ZERO, async { 42 }))?;
    /// assert_eq!(result, Ok(42));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_set_endtime")]
    pub fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TimedOut>> + use<F> {
        self.downgrade().timeout(limit, future)
    }
}

impl WeakContext {
    /// As [`Context::sleep_until`].
    #[doc(alias = "tevent_wakeup_send")]
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep {
            context: self.clone(),
            deadline,
            timer: None,
            alarm: Rc::default(),
        }
    }

    /// As [`Context::sleep`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// context
    ///     .spawn(async move { weak.sleep(Duration::from_millis(1)).await })
    ///     .detach();
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_wakeup_send")]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.after(duration))
    }

    /// As [`Context::timeout`]. If the context is gone, the time is over.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    #[doc(alias = "tevent_req_set_endtime")]
    pub fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, TimedOut>> + use<F> {
        let mut sleep = self.sleep(limit);
        async move {
            let mut future = pin!(future);
            poll_fn(move |context| {
                if let Poll::Ready(output) = future.as_mut().poll(context) {
                    return Poll::Ready(Ok(output));
                }
                Pin::new(&mut sleep).poll(context).map(|()| Err(TimedOut))
            })
            .await
        }
    }
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Sets another deadline, also when it was over. Costs no allocation.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let mut sleep = context.sleep(Duration::from_secs(60));
    /// sleep.reset(context.now());
    /// context.block_on(&mut sleep)?;
    /// sleep.reset(context.now() + Duration::from_millis(1));
    /// context.block_on(&mut sleep)
    /// # }
    /// ```
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.alarm.has_rung.set(false);
        if let Some(timer) = &self.timer {
            timer.set_deadline(deadline);
            if let Some(context) = self.context.upgrade() {
                context.inner.tell_if_left();
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, poll: &mut task::Context<'_>) -> Poll<()> {
        if self.alarm.has_rung.get() {
            return Poll::Ready(());
        }
        self.alarm.waker.set(poll.waker());
        if !self.timer.as_ref().is_some_and(Timer::is_registered) {
            let Some(context) = self.context.upgrade() else {
                self.alarm.waker.clear();
                return Poll::Ready(());
            };
            let bell = Bell(Rc::clone(&self.alarm));
            let timer = context.add_timer(self.deadline, move |_, _| bell.ring());
            self.timer = Some(timer);
            context.inner.tell_if_left();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Before the timer's closure goes, which would wake it.
        self.alarm.waker.clear();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sleep")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// The time that [`Context::timeout`] gave is over.
///
/// ```
/// let error = std::io::Error::from(tevent::TimedOut);
/// assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("timed out")
    }
}

impl Error for TimedOut {}

impl From<TimedOut> for io::Error {
    fn from(timed_out: TimedOut) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, timed_out)
    }
}

/// Lets everything else have a turn that is due now: the task goes to the end of the
/// immediates. For long computations, and loops in which nothing ever has to be waited for.
///
/// Immediates go before timers and descriptors, which get a turn after
/// [so many](crate::Builder::starvation_budget).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// context.block_on(async {
///     for _step in 0..10 {
///         // Compute.
///         tevent::yield_now().await;
///     }
/// })
/// # }
/// ```
pub fn yield_now() -> YieldNow {
    YieldNow { has_yielded: false }
}

/// Ready when it is polled the second time, made by [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct YieldNow {
    has_yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        if self.has_yielded {
            return Poll::Ready(());
        }
        self.has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
