//! Queues: requests that are worked on one at a time.
//!
//! # Implementation
//!
//! Entries are numbered in their order; the first one is the *head*. Each has an immediate, which
//! is scheduled when the entry is the head and the queue runs, and calls the entry's trigger. (An
//! immediate of its own rather than the queue's: a trigger may run the loop, and the next entry's
//! trigger is to be called in there.)
//!
//! What takes an entry out of the queue is the end of its request: a [`Place`] is attached to that.

use crate::context::{Context, WeakContext};
use crate::immediate::Immediate;
use crate::request::{Completer, Panics, Request, WeakCompleter};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};

/// Requests that are to be worked on one after the other, such as writes to one socket; made by
/// [`Context::queue`].
///
/// An entry has a *trigger*, a closure that starts the work. It is called, by the loop, when the
/// entry is the first one. The next one is triggered when the first one's request has ended, by
/// whatever; not when its trigger returns.
///
/// Dropping the queue removes all entries and triggers nothing. A request for which nobody else has
/// a [`Completer`] is abandoned by that.
///
/// ```
/// use std::{io, time::Duration};
/// use tevent::{Context, Queue, Request};
///
/// /// Writes `text` slowly, when its turn has come.
/// fn write(context: &Context, queue: &Queue, text: &'static str) -> Request<(), io::Error> {
///     let (request, completer) = context.request("write");
///     queue.add(&completer, move |context, completer| {
///         let owned = completer.clone();
///         let timer = context.add_timer_after(Duration::from_millis(1), move |_, _| {
///             println!("{text}");
///             owned.done(());
///         });
///         completer.attach(timer);
///     });
///     request
/// }
///
/// # fn main() -> io::Result<()> {
/// let context = Context::new()?;
/// let queue = context.queue("writes");
/// let first = write(&context, &queue, "first");
/// let second = write(&context, &queue, "second");
/// assert_eq!(queue.len(), 2);
/// context.block_on(async { first.await.and(second.await) })??;
/// assert!(queue.is_empty());
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_queue")]
pub struct Queue {
    inner: Rc<Inner>,
}

struct Inner {
    context: WeakContext,
    name: Cow<'static, str>,
    is_running: Cell<bool>,
    last_number: Cell<u64>,
    entries: RefCell<BTreeMap<u64, Rc<Entry>>>,
}

struct Entry {
    number: u64,
    location: &'static Location<'static>,
    tag: Cell<u64>,
    is_triggered: Cell<bool>,
    is_calling: Cell<bool>,
    is_repeatable: bool,
    /// Missing while it is called, and when it was called for the last time.
    trigger: Cell<Option<Box<dyn Trigger>>>,
    /// Missing if the context was gone.
    immediate: Option<Immediate>,
}

/// What an entry does when it is the head.
trait Trigger {
    /// Returns what is to be called when the entry has been untriggered.
    fn call(self: Box<Self>, context: &Context, entry: &QueueEntry) -> Option<Box<dyn Trigger>>;

    fn is_repeatable(&self) -> bool {
        false
    }

    /// Keeps the request from being abandoned until the trigger is called again.
    fn rearm(&mut self) {}
}

struct Once<F>(F);

impl<F: FnOnce(&Context)> Trigger for Once<F> {
    fn call(self: Box<Self>, context: &Context, _: &QueueEntry) -> Option<Box<dyn Trigger>> {
        (self.0)(context);
        None
    }
}

struct Repeated<T: 'static, E: 'static, F> {
    trigger: F,
    request: WeakCompleter<T, E>,
    /// While the trigger is to be called.
    completer: Option<Completer<T, E>>,
}

impl<T, E, F> Trigger for Repeated<T, E, F>
where
    F: FnMut(&Context, &Completer<T, E>, &QueueEntry) + 'static,
{
    fn call(
        mut self: Box<Self>,
        context: &Context,
        entry: &QueueEntry,
    ) -> Option<Box<dyn Trigger>> {
        let completer = self.completer.take();
        if let Some(completer) = &completer {
            (self.trigger)(context, completer, entry);
        }
        if !entry.is_triggered() {
            self.completer = completer;
        }
        Some(self)
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn rearm(&mut self) {
        if self.completer.is_none() {
            self.completer = self.request.upgrade();
        }
    }
}

/// Takes an entry out of the queue when it is dropped.
struct Place(QueueEntry);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// The same, if the entry still waits. Its immediate has one, so that it leaves the queue with the
/// context's other events.
struct Waiting(QueueEntry);

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.0.is_triggered() {
            self.0.remove();
        }
    }
}

impl Context {
    /// Makes a queue, which runs. `name` is for who looks at it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("writes");
    /// assert!(queue.is_running() && queue.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_create")]
    pub fn queue(&self, name: impl Into<Cow<'static, str>>) -> Queue {
        self.downgrade().queue(name)
    }
}

impl WeakContext {
    /// As [`Context::queue`]. If the context is gone, nothing is ever triggered.
    #[doc(alias = "tevent_queue_create")]
    pub fn queue(&self, name: impl Into<Cow<'static, str>>) -> Queue {
        Queue {
            inner: Rc::new(Inner {
                context: self.clone(),
                name: name.into(),
                is_running: Cell::new(true),
                last_number: Cell::new(0),
                entries: RefCell::default(),
            }),
        }
    }
}

impl Inner {
    fn head(&self) -> Option<Rc<Entry>> {
        let entries = self.entries.borrow();
        Some(Rc::clone(entries.first_key_value()?.1))
    }

    fn get(&self, number: u64) -> Option<Rc<Entry>> {
        self.entries.borrow().get(&number).cloned()
    }

    #[track_caller]
    fn insert(self: &Rc<Self>, trigger: Option<Box<dyn Trigger>>) -> QueueEntry {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let handle = QueueEntry {
            queue: Rc::downgrade(self),
            number,
        };
        let immediate = match self.context.upgrade() {
            Some(context) => {
                let waiting = Waiting(handle.clone());
                Some(context.add_immediate(move |context, _| waiting.0.trigger(context)))
            }
            None => None,
        };
        let entry = Rc::new(Entry {
            number,
            location: Location::caller(),
            tag: Cell::new(0),
            is_triggered: Cell::new(false),
            is_calling: Cell::new(false),
            is_repeatable: trigger
                .as_ref()
                .is_some_and(|trigger| trigger.is_repeatable()),
            trigger: Cell::new(trigger),
            immediate,
        });
        let none = self.entries.borrow_mut().insert(number, entry);
        drop(none);
        handle
    }

    /// Has the loop trigger the head, if it is to be.
    fn schedule_head(&self) {
        if !self.is_running.get() {
            return;
        }
        if let Some(head) = self.head().filter(|head| !head.is_triggered.get()) {
            if let Some(immediate) = &head.immediate {
                immediate.schedule_and_tell();
            }
        }
    }

    /// Triggers an entry, if it is the head and it is its time.
    fn trigger(self: &Rc<Self>, number: u64, context: &Context) {
        let Some(head) = self.head().filter(|head| head.number == number) else {
            return;
        };
        if !self.is_running.get() || head.is_triggered.replace(true) {
            return;
        }
        let Some(trigger) = head.trigger.take() else {
            return;
        };
        let handle = QueueEntry {
            queue: Rc::downgrade(self),
            number,
        };
        let mut again = None;
        let mut panics = Panics::default();
        head.is_calling.set(true);
        panics.catch(|| again = trigger.call(context, &handle));
        head.is_calling.set(false);
        // What has left the queue needs it no more.
        if self.get(number).is_some() {
            head.trigger.set(again.take());
        }
        panics.catch(|| drop(again));
        panics.finish(&self.context);
    }

    fn stop(&self) {
        self.is_running.set(false);
        if let Some(head) = self.head() {
            if let Some(immediate) = &head.immediate {
                immediate.cancel();
            }
        }
    }

    fn remove(&self, number: u64) {
        let (removed, was_head) = {
            let mut entries = self.entries.borrow_mut();
            let head = entries.first_key_value().map(|(number, _)| *number);
            (entries.remove(&number), head == Some(number))
        };
        if was_head {
            self.schedule_head();
        }
        // This may be code of the user.
        drop(removed);
    }
}

impl Queue {
    /// Puts a request at the end of the queue. `trigger` is called when it is the first one, in a
    /// later turn at the earliest, and starts the work: it gets the completer, which it may clone,
    /// or start a [sub-request](Completer::then) for. If nobody has a completer when it returns,
    /// the request is abandoned, and the queue goes on.
    ///
    /// While the entry waits, it has a completer itself.
    ///
    /// If the request has ended already, `trigger` is dropped, and the entry isn't
    /// [queued](QueueEntry::is_queued).
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 immediates already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// queue.add(&completer, |_, completer| _ = completer.done(42));
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_add")]
    #[track_caller]
    pub fn add<T: 'static, E: 'static>(
        &self,
        completer: &Completer<T, E>,
        trigger: impl FnOnce(&Context, &Completer<T, E>) + 'static,
    ) -> QueueEntry {
        let entry = self.insert_once(completer, trigger);
        self.start_with(entry)
    }

    /// As [`add`](Queue::add), but if the queue is empty and runs, the trigger is called in here.
    ///
    /// # Panics
    ///
    /// As [`add`](Queue::add), and when the trigger does.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// queue.add_optimize_empty(&completer, |_, completer| _ = completer.done(42));
    /// assert_eq!(request.try_take().expect("it has ended").unwrap(), 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_add_optimize_empty")]
    #[track_caller]
    pub fn add_optimize_empty<T: 'static, E: 'static>(
        &self,
        completer: &Completer<T, E>,
        trigger: impl FnOnce(&Context, &Completer<T, E>) + 'static,
    ) -> QueueEntry {
        let entry = self.insert_once(completer, trigger);
        if let Some(context) = self.inner.context.upgrade() {
            // It is the first one only if the queue was empty.
            self.inner.trigger(entry.number, &context);
        }
        entry
    }

    /// As [`add`](Queue::add), with a trigger that may be called again: it is told which entry it
    /// is called for, and if it can't go on, it [untriggers](QueueEntry::untrigger) that.
    ///
    /// # Panics
    ///
    /// As [`add`](Queue::add).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// let mut attempts = 0;
    /// queue.add_repeatable(&completer, move |_, completer, entry| {
    ///     attempts += 1;
    ///     if attempts == 1 {
    ///         entry.untrigger(); // stops the queue
    ///     } else {
    ///         completer.done(attempts);
    ///     }
    /// });
    /// context.run()?;
    /// assert!(!queue.is_running());
    /// queue.start();
    /// assert_eq!(context.block_on(request)??, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_add_entry")]
    #[track_caller]
    pub fn add_repeatable<T: 'static, E: 'static>(
        &self,
        completer: &Completer<T, E>,
        trigger: impl FnMut(&Context, &Completer<T, E>, &QueueEntry) + 'static,
    ) -> QueueEntry {
        let trigger = Repeated {
            trigger,
            request: completer.downgrade(),
            completer: Some(completer.clone()),
        };
        let entry = self.insert_for(completer, Some(Box::new(trigger)));
        self.start_with(entry)
    }

    /// Puts a request at the end of the queue that isn't triggered: when it is the first one, the
    /// queue waits until it has ended. The entry has no completer of its own.
    ///
    /// # Panics
    ///
    /// As [`add`](Queue::add).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("writes");
    /// let (request, completer) = context.request::<(), std::io::Error>("handshake");
    /// queue.add_blocker(&completer);
    /// // What is added now waits for the handshake.
    /// completer.done(());
    /// assert!(queue.is_empty());
    /// # drop(request);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_add")]
    #[track_caller]
    pub fn add_blocker<T: 'static, E: 'static>(&self, completer: &Completer<T, E>) -> QueueEntry {
        let entry = self.insert_for(completer, None);
        self.start_with(entry)
    }

    /// A request that is done when it is the first one in the queue. Its value holds that place:
    /// the queue goes on when the [`QueueTurn`] is dropped. To be awaited, or made a
    /// [sub-request](Completer::then); dropping it gives the place up.
    ///
    /// It is abandoned when the queue is dropped, and when the context goes or is re-initialised.
    ///
    /// # Panics
    ///
    /// As [`add`](Queue::add).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("writes");
    /// context.block_on(async {
    ///     let turn = queue.wait().await.expect("the queue is there");
    ///     // Nobody else is at work now.
    ///     drop(turn);
    /// })
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_wait_send")]
    #[doc(alias = "tevent_queue_wait_recv")]
    #[track_caller]
    pub fn wait(&self) -> Request<QueueTurn, Infallible> {
        let name = format!("queue {:?}", self.inner.name);
        let (request, completer) = self.inner.context.request(name);
        let entry = self.inner.insert(None);
        let turn = QueueTurn {
            place: Place(entry.clone()),
        };
        let trigger = Once(move |_: &Context| _ = completer.done(turn));
        if request.attach(Waiting(entry.clone())) {
            if let Some(queued) = self.inner.get(entry.number) {
                queued.trigger.set(Some(Box::new(trigger)));
            }
        }
        self.start_with(entry);
        request
    }

    #[track_caller]
    fn insert_once<T: 'static, E: 'static>(
        &self,
        completer: &Completer<T, E>,
        trigger: impl FnOnce(&Context, &Completer<T, E>) + 'static,
    ) -> QueueEntry {
        let owned = completer.clone();
        let trigger = Once(move |context: &Context| trigger(context, &owned));
        self.insert_for(completer, Some(Box::new(trigger)))
    }

    /// Puts an entry into the queue that leaves it when the request ends.
    #[track_caller]
    fn insert_for<T: 'static, E: 'static>(
        &self,
        completer: &Completer<T, E>,
        trigger: Option<Box<dyn Trigger>>,
    ) -> QueueEntry {
        let entry = self.inner.insert(trigger);
        completer.attach(Place(entry.clone()));
        entry
    }

    fn start_with(&self, entry: QueueEntry) -> QueueEntry {
        if self
            .inner
            .head()
            .is_some_and(|head| head.number == entry.number)
        {
            self.inner.schedule_head();
        }
        entry
    }

    /// Lets a stopped queue go on: the first entry is triggered in a later turn, unless it was
    /// already. A queue that runs goes on as it was.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// queue.stop();
    /// let (request, completer) = context.request::<_, std::io::Error>("answer");
    /// queue.add(&completer, |_, completer| _ = completer.done(42));
    /// drop(completer);
    /// context.run()?;
    /// assert!(request.state().is_pending());
    /// queue.start();
    /// assert_eq!(context.block_on(request)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_start")]
    pub fn start(&self) {
        if !self.inner.is_running.replace(true) {
            self.inner.schedule_head();
        }
    }

    /// Keeps the queue from triggering entries. The one that was triggered goes on. Stopping twice
    /// is stopping once.
    #[doc(alias = "tevent_queue_stop")]
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// Whether it is not [stopped](Queue::stop).
    #[doc(alias = "tevent_queue_running")]
    pub fn is_running(&self) -> bool {
        self.inner.is_running.get()
    }

    /// How many entries there are, with the one that is being worked on.
    #[doc(alias = "tevent_queue_length")]
    pub fn len(&self) -> usize {
        self.inner.entries.borrow().len()
    }

    /// Whether there are none.
    #[doc(alias = "tevent_queue_length")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it was called when it was made.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// assert_eq!(context.queue("writes").name(), "writes");
    /// # Ok(())
    /// # }
    /// ```
    pub fn name(&self) -> &str {
        &self.inner.name
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // First, as what is dropped may look.
        self.inner.stop();
        let entries = self.inner.entries.take();
        let mut panics = Panics::default();
        for entry in entries.into_values() {
            panics.catch(|| drop(entry));
        }
        panics.finish(&self.inner.context);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Queue")
            .field("name", &self.name())
            .field("len", &self.len())
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}

/// An entry of a [`Queue`]. It belongs to its request: dropping this changes nothing. Clones are
/// the same entry.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// let queue = context.queue("answers");
/// let (request, completer) = context.request::<_, std::io::Error>("answer");
/// let entry = queue.add(&completer, |_, completer| _ = completer.done(42));
/// assert!(entry.is_queued() && !entry.is_triggered());
/// context.block_on(request)??;
/// assert!(!entry.is_queued());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[doc(alias = "tevent_queue_entry")]
pub struct QueueEntry {
    queue: Weak<Inner>,
    number: u64,
}

impl QueueEntry {
    /// Stops the queue and gives the entry back its state of before: it was not triggered. When the
    /// queue is [started](Queue::start), its trigger is called again.
    ///
    /// Returns false, and does nothing, unless the entry is the first one, was triggered, and was
    /// added by [`add_repeatable`](Queue::add_repeatable); and its request has not ended.
    #[doc(alias = "tevent_queue_entry_untrigger")]
    pub fn untrigger(&self) -> bool {
        let Some(queue) = self.queue.upgrade() else {
            return false;
        };
        let Some(entry) = queue.head().filter(|head| head.number == self.number) else {
            return false;
        };
        let trigger = entry.trigger.take();
        let can_be_called = entry.is_repeatable && (entry.is_calling.get() || trigger.is_some());
        let is_possible = entry.is_triggered.get() && can_be_called;
        if is_possible {
            queue.stop();
            entry.is_triggered.set(false);
        }
        entry.trigger.set(trigger.map(|mut trigger| {
            if is_possible {
                trigger.rearm();
            }
            trigger
        }));
        is_possible
    }

    fn trigger(&self, context: &Context) {
        if let Some(queue) = self.queue.upgrade() {
            queue.trigger(self.number, context);
        }
    }

    /// Takes the entry out of the queue. Its trigger isn't called any more; its request is as
    /// before, and is abandoned if only the entry has had a completer.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// let (request, completer) = context.request::<(), std::io::Error>("answer");
    /// let entry = queue.add(&completer, |_, _| unreachable!());
    /// entry.remove();
    /// assert!(queue.is_empty() && request.state().is_pending());
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.remove(self.number);
        }
    }

    /// Whether it is in the queue, waiting or triggered.
    pub fn is_queued(&self) -> bool {
        self.look(|_| ()).is_some()
    }

    /// Whether it is in the queue and its trigger was called.
    pub fn is_triggered(&self) -> bool {
        self.look(|entry| entry.is_triggered.get())
            .unwrap_or_default()
    }

    /// The number that [`set_tag`](QueueEntry::set_tag) has set, 0 before, and when it has left the
    /// queue.
    #[doc(alias = "tevent_queue_entry_get_tag")]
    pub fn tag(&self) -> u64 {
        self.look(|entry| entry.tag.get()).unwrap_or_default()
    }

    /// Gives the entry a number, which means nothing to the queue.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let queue = context.queue("answers");
    /// let (_request, completer) = context.request::<(), std::io::Error>("answer");
    /// let entry = queue.add_blocker(&completer);
    /// entry.set_tag(7);
    /// assert_eq!(entry.tag(), 7);
    /// assert!(entry.location().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_queue_entry_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.look(|entry| entry.tag.set(tag));
    }

    /// Where it was added; `None` when it has left the queue.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.look(|entry| entry.location)
    }

    fn look<R>(&self, look: impl FnOnce(&Entry) -> R) -> Option<R> {
        Some(look(&*self.queue.upgrade()?.get(self.number)?))
    }
}

impl fmt::Debug for QueueEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("QueueEntry")
            .field("queued", &self.is_queued())
            .field("triggered", &self.is_triggered())
            .finish_non_exhaustive()
    }
}

/// The first place in a [`Queue`], got by [`Queue::wait`]. The queue goes on when this is dropped.
#[must_use = "the queue goes on when this is dropped"]
pub struct QueueTurn {
    place: Place,
}

impl QueueTurn {
    /// The entry that is held.
    pub fn entry(&self) -> &QueueEntry {
        &self.place.0
    }
}

impl fmt::Debug for QueueTurn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.0.fmt(formatter)
    }
}
