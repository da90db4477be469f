//! Timers.

use crate::clock;
use crate::context::{Context, Inner};
use crate::key::Key;
use crate::meta::Meta;
use crate::sys::handler::Handler;
use crate::timer_queue::{Postponed, TimerQueue};
use crate::trace::{EventKind, TracedEvent};
use std::fmt;
use std::mem;
use std::panic::Location;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(crate) type TimerHandler = Handler<Context, Timer>;

/// How many timers that are due at once share a look at the clock.
const TIMERS_A_LOOK: u32 = 16;

pub(crate) type Timers = TimerQueue<Instant, TimerHandler, Meta>;

/// A timer, made by [`Context::add_timer`].
///
/// It fires once for each time it is armed, never before its deadline. Its handler, or whoever has
/// the handle, can arm it again, which allocates nothing. Dropping the handle removes it;
/// [`detach`](Timer::detach) leaves it to the context until it has fired. A closure that captures
/// no more than two words costs no allocation.
///
/// A repeating timer without drift:
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::time::Duration;
/// use tevent::Context;
///
/// let context = Context::new()?;
/// let mut rounds = 0;
/// let period = Duration::from_millis(1);
/// let _timer = context.add_timer_after(period, move |_, timer| {
///     rounds += 1;
///     if rounds < 3 {
///         timer.set_deadline(timer.last_deadline().expect("it has fired") + period);
///     }
/// });
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_timer")]
#[must_use = "dropping the handle removes the event; `detach` leaves it to the context"]
pub struct Timer {
    inner: Rc<Inner>,
    /// No timer's, if dropping the handle is not to remove the timer.
    key: Key,
}

impl Context {
    /// Calls `handler` when the monotonic clock has reached `deadline` (see [`Context::now`]). A
    /// deadline in the past is due in the next turn. Of several due timers the one with the
    /// earliest deadline goes first, among equals the one that was armed first.
    ///
    /// # Panics
    ///
    /// When there are 2³¹ - 1 timers already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let _timer = context.add_timer(context.now(), |_, _| println!("at once"));
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_add_timer")]
    #[track_caller]
    pub fn add_timer(
        &self,
        deadline: Instant,
        handler: impl FnMut(&Context, &Timer) + 'static,
    ) -> Timer {
        self.add_timer_at(deadline, Location::caller(), handler)
    }

    /// Calls `handler` when `delay` has passed. A delay that is too long for the clock, which
    /// counts for far longer on most systems, is taken for 584 years.
    ///
    /// # Panics
    ///
    /// When there are 2³¹ - 1 timers already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let _timer = context.add_timer_after(Duration::from_millis(5), |_, _| println!("tick"));
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_add_timer")]
    #[doc(alias = "tevent_timeval_current_ofs")]
    #[track_caller]
    pub fn add_timer_after(
        &self,
        delay: Duration,
        handler: impl FnMut(&Context, &Timer) + 'static,
    ) -> Timer {
        self.add_timer_at(self.inner.after(delay), Location::caller(), handler)
    }

    #[inline(always)]
    fn add_timer_at(
        &self,
        deadline: Instant,
        location: &'static Location<'static>,
        handler: impl FnMut(&Context, &Timer) + 'static,
    ) -> Timer {
        let handler = Handler::new(handler);
        self.inner.state.set_busy();
        let mut timers = self.inner.timers.borrow_mut();
        // Apart: should this panic, the handler is dropped when nothing is borrowed.
        timers.reserve(deadline, location);
        let key = timers.insert(deadline, handler, location);
        let timer = Timer {
            inner: Rc::clone(&self.inner),
            key,
        };
        drop(timers);
        if self.inner.watch.is_traced() {
            let event = self.inner.traced_timer(key);
            self.inner.trace_added(event, &|tag| timer.set_tag(tag));
        }
        timer
    }

    /// Calls the first timer that is due, if there is one. If the clock had to be read for that,
    /// and there is none, `now` says what it was.
    #[inline]
    pub(crate) fn run_due_timer(&self, now: &mut Option<Instant>) -> bool {
        let inner = &*self.inner;
        let latest = &inner.state.latest_time;
        // A timer that was due once is due. So of many that are due at once, only some, the first
        // among them, and the one that comes after them cost a look at the clock.
        let shares_look = inner.state.streak.get().length % TIMERS_A_LOOK != 0;
        let mut due = latest.get();
        let is_due = |deadline| {
            due = deadline;
            (shares_look && deadline <= latest.get()) || {
                let time = inner.clock.now();
                latest.set(time);
                *now = Some(time);
                deadline <= time
            }
        };
        let popped = inner.timers.borrow_mut().pop_if(is_due);
        let Some((key, handler)) = popped else {
            return false;
        };
        inner.lengthen_streak();
        inner
            .counters
            .count_timer(latest.get().saturating_duration_since(due));
        if inner.watch.is_watched() {
            self.call_timer_watched(key, handler);
        } else {
            self.call_timer(key, handler);
        }
        true
    }

    #[cold]
    fn call_timer_watched(&self, key: Key, handler: TimerHandler) {
        let inner = &*self.inner;
        let call = inner.begin_call(|| inner.traced_timer(key));
        self.call_timer(key, handler);
        inner.end_call(call);
    }

    #[inline(always)]
    fn call_timer(&self, key: Key, handler: TimerHandler) {
        let inner = &*self.inner;
        let mut call = TimerCall {
            timer: Timer {
                inner: Rc::clone(&self.inner),
                key,
            },
            handler: Some(handler),
            outer: inner.state.running_timer.replace(Some(key)),
        };
        if let Some(handler) = &mut call.handler {
            handler.call(self, &call.timer);
        }
        call.finish();
    }
}

impl Inner {
    /// Not a handle's own function, as that would have to be in memory for it.
    #[inline(never)]
    fn remove_timer(&self, key: Key) {
        let removed = self.change_timer(key, |timers| timers.remove(key));
        drop(removed);
    }

    /// Changes a timer in a way that may remove it, which a tracer is told. What is left of it is
    /// returned, to be dropped then.
    #[inline]
    fn change_timer<R>(&self, key: Key, change: impl FnOnce(&mut Timers) -> R) -> R {
        let former = match self.watch.is_traced() {
            true => self.traced_timer(key),
            false => None,
        };
        let mut timers = self.timers.borrow_mut();
        let result = change(&mut timers);
        if let Some(former) = former {
            let is_gone = timers.location(key).is_none();
            drop(timers);
            self.trace_removed(is_gone.then_some(former));
        }
        result
    }

    #[cold]
    fn traced_timer(&self, key: Key) -> Option<TracedEvent> {
        let timers = self.timers.borrow();
        let plain = Meta::at(timers.location(key)?);
        let meta = timers.note(key).unwrap_or(&plain);
        Some(meta.traced(EventKind::Timer, key))
    }

    /// What a tracer is told of every timer.
    pub(crate) fn traced_timers(&self) -> Vec<TracedEvent> {
        let timers = self.timers.borrow();
        let keys = timers.keys();
        keys.filter_map(|key| self.traced_timer(key)).collect()
    }

    /// The deadline that is `delay` from now, or as late as can be said.
    pub(crate) fn after(&self, delay: Duration) -> Instant {
        clock::later(self.clock.now(), delay)
    }
}

/// A timer's handler that is running. Puts it back, also when it panics.
struct TimerCall {
    timer: Timer,
    handler: Option<TimerHandler>,
    outer: Option<Key>,
}

impl TimerCall {
    #[inline(always)]
    fn finish(&mut self) {
        // It is a handle that doesn't own the timer.
        let key = mem::replace(&mut self.timer.key, Key::NONE);
        let inner = &self.timer.inner;
        inner.state.running_timer.set(self.outer);
        if let Some(handler) = self.handler.take() {
            let unwanted = inner.change_timer(key, |timers| timers.put_back(key, handler));
            drop(unwanted);
        }
    }

    #[cold]
    fn finish_after_panic(&mut self) {
        self.finish();
    }
}

impl Drop for TimerCall {
    #[inline]
    fn drop(&mut self) {
        if self.handler.is_some() {
            self.finish_after_panic();
        }
    }
}

impl Timer {
    /// When the timer fires; `None` if it isn't armed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let deadline = context.now();
    /// let timer = context.add_timer(deadline, |_, _| ());
    /// assert_eq!(timer.deadline(), Some(deadline));
    /// context.run()?;
    /// assert_eq!(timer.deadline(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.timers.borrow().deadline(self.key)
    }

    /// The deadline that the timer was armed with last, also when it has fired since; `None` when
    /// the timer was removed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let deadline = context.now();
    /// let timer = context.add_timer(deadline, |_, _| ());
    /// context.run()?;
    /// assert_eq!(timer.last_deadline(), Some(deadline));
    /// # Ok(())
    /// # }
    /// ```
    pub fn last_deadline(&self) -> Option<Instant> {
        self.inner.timers.borrow().last_deadline(self.key)
    }

    /// Arms the timer, or moves it if it is armed, behind others with the same deadline. To push
    /// a deadline back costs next to nothing, however many timers there are.
    ///
    /// Returns false when the timer was removed, or its context is gone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let idle = context.add_timer_after(Duration::from_secs(60), |_, _| println!("idle"));
    /// // On every request:
    /// assert!(idle.set_deadline(context.now() + Duration::from_secs(60)));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_update_timer")]
    #[inline]
    pub fn set_deadline(&self, deadline: Instant) -> bool {
        // One that is armed has made the loop look at timers already.
        let mut timers = self.inner.timers.borrow_mut();
        match timers.postpone(self.key, deadline) {
            Postponed::Done => true,
            Postponed::Gone => false,
            Postponed::NotYet(index) => {
                self.inner.state.set_busy();
                timers.arm_anew(index, deadline);
                true
            }
        }
    }

    /// Arms the timer for when `delay` has passed. See [`set_deadline`](Timer::set_deadline).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer_after(Duration::ZERO, |_, _| ());
    /// timer.set_after(Duration::from_secs(60));
    /// assert!(timer.deadline() > Some(context.now()));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_update_timer")]
    pub fn set_after(&self, delay: Duration) -> bool {
        self.inner.state.set_busy();
        let deadline = self.inner.after(delay);
        self.inner.timers.borrow_mut().arm(self.key, deadline)
    }

    /// Keeps the timer from firing until it is armed again.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer(context.now(), |_, _| unreachable!());
    /// timer.disarm();
    /// context.run()
    /// # }
    /// ```
    #[inline]
    pub fn disarm(&self) {
        self.inner.timers.borrow_mut().disarm(self.key);
    }

    /// Removes the timer and its handler. In its own handler the handler goes when it returns.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer(context.now(), |_, timer| timer.remove());
    /// context.run()?;
    /// assert!(!timer.set_deadline(context.now()));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn remove(&self) {
        self.inner.remove_timer(self.key);
    }

    /// Leaves the timer to the context, until it has fired (and its handler has not armed it
    /// again), has removed itself, or the context goes or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.add_timer(context.now(), |_, _| println!("once")).detach();
    /// context.run()
    /// # }
    /// ```
    pub fn detach(mut self) {
        let key = mem::replace(&mut self.key, Key::NONE);
        let removed = self.inner.change_timer(key, |timers| timers.detach(key));
        drop(removed);
    }

    /// Whether the timer is there still, armed or not: not removed, and its context neither gone
    /// nor re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer(context.now(), |_, _| ());
    /// assert!(timer.is_registered());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_registered(&self) -> bool {
        self.location().is_some()
    }

    /// The number that [`set_tag`](Timer::set_tag) has set, 0 before.
    #[doc(alias = "tevent_timer_get_tag")]
    pub fn tag(&self) -> u64 {
        let timers = self.inner.timers.borrow();
        timers.note(self.key).map(Meta::tag).unwrap_or_default()
    }

    /// Gives the timer a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let timer = context.add_timer(context.now(), |_, _| ());
    /// timer.set_tag(7);
    /// timer.set_name("idle");
    /// assert_eq!((timer.tag(), timer.name()), (7, Some("idle".to_owned())));
    /// assert!(timer.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_timer_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.change_meta(|meta| meta.set_tag(tag));
    }

    /// The name that [`set_name`](Timer::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.inner.timers.borrow().note(self.key)?.name()
    }

    /// Gives the timer a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.change_meta(|meta| meta.set_name(name));
    }

    /// Where the timer was added; `None` when it was removed.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.inner.timers.borrow().location(self.key)
    }

    /// From now on the timer has something that few have.
    fn change_meta(&self, change: impl FnOnce(&mut Meta)) {
        let mut timers = self.inner.timers.borrow_mut();
        if let Some(location) = timers.location(self.key) {
            let meta = timers.note_or_insert_with(self.key, || Meta::at(location));
            meta.map(change);
        }
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if self.key.index() != Key::NONE.index() {
            self.remove();
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Timer")
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}
