//! Immediates: closures that run in the next turns, before timers and descriptors.

use crate::context::{Context, Inner};
use crate::immediate_queue::{ImmediateQueue, List, Popped};
use crate::key::Key;
use crate::meta::Meta;
use crate::sys::job::Job;
use crate::trace::{EventKind, TracedEvent};
use std::cell::RefMut;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

/// An immediate's closure.
type Handler = Box<dyn FnMut(&Context, &Immediate)>;

pub(crate) type Immediates = ImmediateQueue<Handler, Meta, Once>;

/// What runs once each, in the queue.
pub(crate) enum Once {
    Deferred(Option<Box<Job<Context>>>),
    /// So many of the jobs in the inbox at most, whose turn it is when they are first here.
    Posted(usize),
}

/// One of them.
pub(crate) enum One {
    Deferred(Box<Job<Context>>),
    Posted,
}

impl Iterator for Once {
    type Item = One;

    #[inline]
    fn next(&mut self) -> Option<One> {
        match self {
            Once::Deferred(job) => job.take().map(One::Deferred),
            Once::Posted(count) => {
                *count = count.checked_sub(1)?;
                Some(One::Posted)
            }
        }
    }
}

impl List for Once {
    #[inline]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Once::Deferred(job) => usize::from(job.is_some()),
            Once::Posted(count) => *count,
        }
    }
}

/// A closure to be run soon, as often as it is scheduled, made by [`Context::add_immediate`].
///
/// Dropping the handle removes it; [`detach`](Immediate::detach) leaves it to the context until
/// it has run. For a closure that runs once there is [`Context::defer`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let mut left = 3;
/// let immediate = context.add_immediate(move |_, immediate| {
///     left -= 1;
///     if left > 0 {
///         immediate.schedule();
///     }
/// });
/// immediate.schedule();
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_immediate")]
#[must_use = "dropping the handle removes the event; `detach` leaves it to the context"]
pub struct Immediate {
    inner: Rc<Inner>,
    key: Key,
    owns: bool,
}

impl Context {
    /// Makes an immediate, not yet scheduled.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 immediates already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| println!("soon"));
    /// immediate.schedule();
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_create_immediate")]
    #[track_caller]
    pub fn add_immediate(&self, handler: impl FnMut(&Context, &Immediate) + 'static) -> Immediate {
        let key = self
            .inner
            .immediates()
            .insert(Box::new(handler), Meta::here());
        let immediate = Immediate {
            inner: Rc::clone(&self.inner),
            key,
            owns: true,
        };
        if self.inner.watch.is_traced() {
            let event = self.inner.traced_immediate(key);
            self.inner.trace_added(event, &|tag| immediate.set_tag(tag));
        }
        immediate
    }

    /// Runs `handler` once, in a later turn, after the immediates scheduled before it.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 immediates already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.defer(|_| println!("soon"));
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_schedule_immediate")]
    #[track_caller]
    pub fn defer(&self, handler: impl FnOnce(&Context) + 'static) {
        let job = Box::new(Job::new(handler, Location::caller()));
        self.inner.state.set_busy();
        self.inner.immediates().push_once(Once::Deferred(Some(job)));
    }

    /// Calls the first scheduled immediate, if there is one. If there is no other, and it schedules
    /// itself again, the turns that do nothing else are made here, unless `only_once`. What
    /// `begins` is told before.
    #[inline]
    pub(crate) fn run_immediate(&self, only_once: bool, begins: impl FnOnce()) -> bool {
        let inner = &*self.inner;
        let (popped, is_sole) = {
            let mut immediates = inner.immediates();
            let Some(popped) = inner.pop_immediate(&mut immediates) else {
                return false;
            };
            (popped, immediates.is_empty())
        };
        begins();
        inner.count_immediate();
        match popped {
            _ if inner.watch.is_watched() => self.call_watched(popped),
            Popped::Entry(key, handler) => {
                self.call_immediate(key, handler, is_sole && !only_once);
            }
            Popped::Once(job) => job.run(self),
        }
        true
    }

    /// Calls the next of a list of which one was called before, if that is what is first.
    #[inline(always)]
    pub(crate) fn run_next_once(&self) -> bool {
        let inner = &*self.inner;
        let Some(one) = inner.immediates.borrow_mut().pop_current() else {
            return false;
        };
        let begins = || {
            inner.counters.full_turns.count();
            inner.count_immediate();
        };
        match one {
            One::Deferred(job) => {
                begins();
                job.run(self);
                true
            }
            One::Posted => {
                let ran = inner.inbox.run_next(self, begins);
                if !ran {
                    inner.immediates.borrow_mut().end_current();
                }
                ran
            }
        }
    }

    #[cold]
    fn call_watched(&self, popped: Popped<Handler, Job<Context>>) {
        let inner = &*self.inner;
        match popped {
            Popped::Entry(key, handler) => {
                let call = inner.begin_call(|| inner.traced_immediate(key));
                self.call_immediate(key, handler, false);
                inner.end_call(call);
            }
            Popped::Once(job) => {
                let location = job.location();
                let call = inner.begin_call(|| {
                    Some(TracedEvent::new(
                        EventKind::Immediate,
                        None,
                        None,
                        0,
                        location,
                    ))
                });
                job.run(self);
                inner.end_call(call);
            }
        }
    }

    #[inline(always)]
    fn call_immediate(&self, key: Key, handler: Handler, is_sole: bool) {
        let inner = &*self.inner;
        let mut call = ImmediateCall {
            immediate: Immediate {
                inner: Rc::clone(&self.inner),
                key,
                owns: false,
            },
            handler: Some(handler),
        };
        if let Some(handler) = &mut call.handler {
            inner.state.sole_immediate.set(is_sole.then_some(key));
            handler(self, &call.immediate);
            while inner.next_turn_is_the_sole_immediates() {
                inner.state.sole_is_scheduled.set(false);
                inner.counters.full_turns.count();
                inner.count_immediate();
                handler(self, &call.immediate);
            }
        }
        call.finish();
    }
}

impl Inner {
    #[inline(always)]
    fn count_immediate(&self) {
        self.lengthen_streak();
        self.counters.immediates.count();
    }

    /// Puts at the end of the queue what has come to the inbox.
    pub(crate) fn push_posted(&self, count: usize) {
        self.state.set_busy();
        self.immediates().push_once(Once::Posted(count));
    }

    #[inline(always)]
    fn pop_immediate(&self, immediates: &mut Immediates) -> Option<Popped<Handler, Job<Context>>> {
        loop {
            match immediates.pop()? {
                Popped::Entry(key, handler) => return Some(Popped::Entry(key, handler)),
                Popped::Once(one) => {
                    if let Some(job) = self.job(one, immediates) {
                        return Some(Popped::Once(job));
                    }
                }
            }
        }
    }

    /// Takes the job that was popped out of where it waits. If that is the inbox, and a sender
    /// isn't done with it, the list of such is at its end.
    #[inline]
    fn job(&self, one: One, immediates: &mut Immediates) -> Option<Job<Context>> {
        match one {
            One::Deferred(job) => Some(*job),
            One::Posted => {
                let job = self.inbox.take();
                if job.is_none() {
                    immediates.end_current();
                }
                job
            }
        }
    }

    /// The queue.
    ///
    /// An immediate that runs while nothing else is queued is the *sole* one until somebody calls
    /// this, and until then its handler schedules it by setting a flag.
    #[inline]
    pub(crate) fn immediates(&self) -> RefMut<'_, Immediates> {
        self.end_sole_immediate();
        self.immediates.borrow_mut()
    }

    /// Puts the sole immediate in the queue, if it is scheduled.
    #[inline]
    pub(crate) fn end_sole_immediate(&self) {
        if let Some(key) = self.state.sole_immediate.take() {
            if self.state.sole_is_scheduled.take() {
                self.state.set_busy();
                self.immediates.borrow_mut().push(key);
            }
        }
    }

    #[inline]
    pub(crate) fn has_immediates(&self) -> bool {
        self.state.sole_is_scheduled.get() || !self.immediates.borrow().is_empty()
    }
}

impl Inner {
    /// Changes an immediate in a way that may remove it, which a tracer is told. What is left of it
    /// is returned, to be dropped then.
    #[inline]
    fn change_immediate<R>(&self, key: Key, change: impl FnOnce(&mut Immediates) -> R) -> R {
        let former = match self.watch.is_traced() {
            true => self.traced_immediate(key),
            false => None,
        };
        let mut immediates = self.immediates();
        let result = change(&mut immediates);
        if let Some(former) = former {
            let is_gone = immediates.get_mut(key).is_none();
            drop(immediates);
            self.trace_removed(is_gone.then_some(former));
        }
        result
    }

    #[cold]
    fn traced_immediate(&self, key: Key) -> Option<TracedEvent> {
        let mut immediates = self.immediates();
        let meta = immediates.get_mut(key)?;
        Some(meta.traced(EventKind::Immediate, key))
    }

    /// What a tracer is told of every immediate.
    pub(crate) fn traced_immediates(&self) -> Vec<TracedEvent> {
        let keys: Vec<Key> = self.immediates().keys().collect();
        let traced = keys
            .into_iter()
            .filter_map(|key| self.traced_immediate(key));
        traced.collect()
    }
}

/// An immediate's handler that is running. Puts it back, also when it panics.
struct ImmediateCall {
    immediate: Immediate,
    handler: Option<Handler>,
}

impl ImmediateCall {
    #[inline(always)]
    fn finish(&mut self) {
        let Immediate { inner, key, .. } = &self.immediate;
        if let Some(handler) = self.handler.take() {
            let unwanted =
                inner.change_immediate(*key, |immediates| immediates.put_back(*key, handler));
            drop(unwanted);
        }
    }

    #[cold]
    fn finish_after_panic(&mut self) {
        self.finish();
    }
}

impl Drop for ImmediateCall {
    #[inline]
    fn drop(&mut self) {
        if self.handler.is_some() {
            self.finish_after_panic();
        }
    }
}

impl Immediate {
    /// Puts the immediate at the end of the queue, also when it is in it already. In its own
    /// handler that means a later turn.
    ///
    /// Returns false when the immediate was removed, or its context is gone.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| println!("second"));
    /// immediate.schedule();
    /// context.defer(|_| println!("first"));
    /// immediate.schedule();
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_schedule_immediate")]
    #[inline]
    pub fn schedule(&self) -> bool {
        let state = &self.inner.state;
        if state.sole_immediate.get() == Some(self.key) {
            state.sole_is_scheduled.set(true);
            return true;
        }
        state.set_busy();
        self.inner.immediates().push(self.key)
    }

    /// Schedules it for what is built on it, see [`Inner::tell_if_left`]. Returns as
    /// [`schedule`](Immediate::schedule).
    #[inline]
    pub(crate) fn schedule_and_tell(&self) -> bool {
        let is_there = self.schedule();
        if is_there {
            self.inner.tell_if_left();
        }
        is_there
    }

    /// Takes the immediate out of the queue.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| unreachable!());
    /// immediate.schedule();
    /// immediate.cancel();
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_reset_immediate")]
    pub fn cancel(&self) {
        self.inner.immediates().cancel(self.key);
    }

    /// Whether the immediate is in the queue.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| ());
    /// assert!(!immediate.is_scheduled());
    /// immediate.schedule();
    /// assert!(immediate.is_scheduled());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_scheduled(&self) -> bool {
        self.inner.immediates().is_queued(self.key)
    }

    /// Removes the immediate and its handler. In its own handler the handler goes when it returns.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, immediate| immediate.remove());
    /// immediate.schedule();
    /// context.run()?;
    /// assert!(!immediate.schedule());
    /// # Ok(())
    /// # }
    /// ```
    #[inline(never)]
    pub fn remove(&self) {
        let removed = self
            .inner
            .change_immediate(self.key, |immediates| immediates.remove(self.key));
        drop(removed);
    }

    /// Leaves the immediate to the context, until it has run (and its handler has not scheduled
    /// it again), has removed itself, or the context goes or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| println!("once"));
    /// immediate.schedule();
    /// immediate.detach();
    /// context.run()
    /// # }
    /// ```
    pub fn detach(mut self) {
        self.owns = false;
        let removed = self
            .inner
            .change_immediate(self.key, |immediates| immediates.detach(self.key));
        drop(removed);
    }

    /// Whether the immediate is there still, scheduled or not: not removed, and its context
    /// neither gone nor re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| ());
    /// assert!(immediate.is_registered());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_registered(&self) -> bool {
        self.with_meta(|_| ()).is_some()
    }

    /// The number that [`set_tag`](Immediate::set_tag) has set, 0 before.
    #[doc(alias = "tevent_immediate_get_tag")]
    pub fn tag(&self) -> u64 {
        self.with_meta(|meta| meta.tag()).unwrap_or_default()
    }

    /// Gives the immediate a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let immediate = context.add_immediate(|_, _| ());
    /// immediate.set_tag(7);
    /// immediate.set_name("flush");
    /// assert_eq!((immediate.tag(), immediate.name()), (7, Some("flush".to_owned())));
    /// assert!(immediate.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_immediate_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.with_meta(|meta| meta.set_tag(tag));
    }

    /// The name that [`set_name`](Immediate::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.with_meta(|meta| meta.name()).flatten()
    }

    /// Gives the immediate a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.with_meta(|meta| meta.set_name(name));
    }

    /// Where the immediate was made; `None` when it was removed.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.with_meta(|meta| meta.location)
    }

    fn with_meta<R>(&self, look: impl FnOnce(&mut Meta) -> R) -> Option<R> {
        let mut immediates = self.inner.immediates();
        Some(look(immediates.get_mut(self.key)?))
    }
}

impl Drop for Immediate {
    #[inline]
    fn drop(&mut self) {
        if self.owns {
            self.remove();
        }
    }
}

impl fmt::Debug for Immediate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Immediate")
            .field("scheduled", &self.is_scheduled())
            .finish_non_exhaustive()
    }
}
