//! Signal events.
//!
//! # Implementation
//!
//! The asynchronous part (`sys/signal.rs`) counts in the context's doorbell. When the loop looks,
//! [`SignalTable::collect`] hands what came to every handler's own account, and then the handlers
//! are called until their accounts are empty. So a handler that can't be called now (it is on the
//! stack of a nested loop, or another one has panicked) keeps what is due to it.

use crate::context::{Context, Inner};
use crate::flags::SignalFlags;
use crate::key::{Key, Slots};
use crate::meta::Meta;
use crate::signum::Signum;
use crate::sys;
use crate::sys::doorbell::{Doorbell, SIGNAL};
use crate::sys::siginfo::{PLACES, SigInfo};
use crate::trace::{EventKind, TracedEvent};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::ops::Bound;
use std::panic::Location;
use std::rc::Rc;

/// What a signal handler is told.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::{Context, SignalFlags, Signum};
///
/// let context = Context::new()?;
/// let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), |context, _, info| {
///     assert_eq!((info.signum, info.count), (Signum::SIGUSR1, 2));
///     context.stop();
/// })?;
/// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
/// raise(Signum::SIGUSR1.number());
/// raise(Signum::SIGUSR1.number());
/// context.run()
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SignalInfo {
    /// Which signal.
    pub signum: Signum,
    /// How many have come since the handler was called last; 1 for a handler with
    /// [`SignalFlags::SIGINFO`], which is called for each.
    pub count: u32,
    /// What the kernel told, for a handler with [`SignalFlags::SIGINFO`].
    pub siginfo: Option<SigInfo>,
}

type SignalHandler = Box<dyn FnMut(&Context, &Signal, &SignalInfo)>;

struct SignalEntry {
    signum: Signum,
    flags: SignalFlags,
    /// Missing while it runs.
    handler: Option<SignalHandler>,
    /// What it is to be told yet: how many, for a plain handler, or each, with `SIGINFO`.
    count: u32,
    infos: VecDeque<SigInfo>,
    meta: Meta,
}

/// The signal handlers of a context.
pub(crate) struct SignalTable {
    entries: Slots<SignalEntry>,
    /// The handlers of each number, oldest first.
    numbers: BTreeMap<Signum, Vec<Key>>,
    /// Numbers whose siginfo stays queued while a handler for it is on the stack, so that the
    /// queue's limit holds.
    deferred: Vec<Signum>,
    /// How many of `entries` have their handlers on the stack.
    running: usize,
    /// How many loops are handing out signals, inside each other.
    dispatches: usize,
    /// Memory for the list of handlers to call, kept between signals.
    to_call: Vec<Key>,
}

impl SignalTable {
    pub(crate) fn new() -> SignalTable {
        SignalTable {
            entries: Slots::new(),
            numbers: BTreeMap::new(),
            deferred: Vec::new(),
            running: 0,
            dispatches: 0,
            to_call: Vec::new(),
        }
    }

    /// How many handlers there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether what has come is being handed out, by a loop outside of this one.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.dispatches > 0
    }

    /// How many handlers there are that aren't on the stack.
    pub(crate) fn callable(&self) -> usize {
        self.entries.len() - self.running
    }

    /// Finds the lowest number above `last` whose handlers have something to be told, and lists
    /// these in `to_call`, newest first.
    ///
    /// What came is moved to the handlers' accounts when its number's turn comes. So a handler
    /// that one of a lower number has added is told too.
    fn collect(
        &mut self,
        doorbell: &Doorbell,
        last: Option<Signum>,
        to_call: &mut Vec<Key>,
    ) -> Option<Signum> {
        let above = last.map_or(Bound::Unbounded, Bound::Excluded);
        for (&signum, keys) in self.numbers.range((above, Bound::Unbounded)) {
            let number = signum.number();
            let is_pending = doorbell.pending_signals() >> (number - 1) & 1 != 0;
            let was_deferred = self.deferred.contains(&signum);
            if is_pending || was_deferred {
                self.deferred.retain(|&deferred| deferred != signum);
                let count = doorbell.take_count(number);
                let mut info_is_deferred = false;
                for &key in keys {
                    let Some(entry) = self.entries.get_mut(key) else {
                        continue;
                    };
                    if entry.flags.contains(SignalFlags::SIGINFO) {
                        info_is_deferred |= entry.handler.is_none();
                    } else {
                        entry.count = entry.count.saturating_add(count);
                    }
                }
                if info_is_deferred {
                    self.deferred.push(signum);
                } else {
                    // What is queued beyond all places came after the count was taken, so the
                    // signal is pending again.
                    for info in (0..PLACES).map_while(|_| doorbell.take_info(number)) {
                        for &key in keys {
                            if let Some(entry) = self.entries.get_mut(key) {
                                if entry.flags.contains(SignalFlags::SIGINFO) {
                                    entry.infos.push_back(info);
                                }
                            }
                        }
                    }
                    sys::signal::unblock_if_blocked(doorbell, number);
                }
            }
            to_call.extend(keys.iter().rev().filter(|&&key| {
                self.entries
                    .get(key)
                    .is_some_and(SignalEntry::has_something_to_tell)
            }));
            if !to_call.is_empty() {
                return Some(signum);
            }
        }
        None
    }

    /// Takes out the handler of `key`, with what it is to be told next.
    fn take_call(&mut self, key: Key) -> Option<(SignalHandler, SignalInfo)> {
        let entry = self.entries.get_mut(key)?;
        // Looked at first: what is due to a handler on the stack stays with it.
        entry.handler.as_ref()?;
        let (count, siginfo) = if entry.flags.contains(SignalFlags::SIGINFO) {
            (1, Some(entry.infos.pop_front()?))
        } else if entry.count > 0 {
            (mem::take(&mut entry.count), None)
        } else {
            return None;
        };
        let info = SignalInfo {
            signum: entry.signum,
            count,
            siginfo,
        };
        self.running += 1;
        Some((entry.handler.take()?, info))
    }

    /// Whether a handler could be called right now.
    fn has_more(&self) -> bool {
        let callable = |key: Key| {
            let entry = self.entries.get(key);
            entry.is_some_and(|entry| entry.handler.is_some() && entry.has_something_to_tell())
        };
        let deferred_no_more = |signum: &Signum| {
            let mut keys = self.numbers.get(signum).into_iter().flatten();
            keys.all(|&key| {
                let entry = self.entries.get(key);
                entry.is_none_or(|entry| {
                    entry.handler.is_some() || !entry.flags.contains(SignalFlags::SIGINFO)
                })
            })
        };
        self.entries.keys().any(callable) || self.deferred.iter().any(deferred_no_more)
    }

    fn remove(&mut self, doorbell: &'static Doorbell, key: Key) -> Option<SignalEntry> {
        let entry = self.entries.remove(key)?;
        self.running -= usize::from(entry.handler.is_none());
        let number = entry.signum.number();
        let keys = self.numbers.get_mut(&entry.signum)?;
        keys.retain(|&other| other != key);
        if keys.is_empty() {
            self.numbers.remove(&entry.signum);
            self.deferred.retain(|&deferred| deferred != entry.signum);
            sys::signal::unsubscribe(doorbell, number);
        } else if entry.flags.contains(SignalFlags::SIGINFO) {
            let still_wanted = keys.iter().any(|&key| {
                let other = self.entries.get(key);
                other.is_some_and(|other| other.flags.contains(SignalFlags::SIGINFO))
            });
            if !still_wanted {
                doorbell.want_info(number, false);
                while doorbell.take_info(number).is_some() {}
                sys::signal::unblock_if_blocked(doorbell, number);
            }
        }
        Some(entry)
    }

    /// In a forked child: what came before the fork was sent to the parent.
    pub(crate) fn enter_child(&mut self, doorbell: &'static Doorbell) {
        self.deferred.clear();
        for (signum, keys) in &self.numbers {
            for &key in keys {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.count = 0;
                    entry.infos.clear();
                }
            }
            sys::signal::unblock_if_blocked(doorbell, signum.number());
        }
    }

    /// Removes all handlers, and gives them back to be dropped when nothing is borrowed.
    pub(crate) fn take_all(&mut self, doorbell: &'static Doorbell) -> impl Sized + use<> {
        for (signum, _) in mem::take(&mut self.numbers) {
            sys::signal::unsubscribe(doorbell, signum.number());
        }
        self.deferred.clear();
        self.running = 0;
        self.entries.take_all()
    }
}

impl SignalEntry {
    fn has_something_to_tell(&self) -> bool {
        self.count > 0 || !self.infos.is_empty()
    }
}

/// A signal event, made by [`Context::add_signal`].
///
/// Dropping the handle removes it; [`detach`](Signal::detach) leaves it to the context. When the
/// last one of a number in the process is gone, the signal's former disposition is restored.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::{Context, SignalFlags, Signum};
///
/// let context = Context::new()?;
/// for signum in [Signum::SIGTERM, Signum::SIGINT] {
///     context
///         .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
///         .detach();
/// }
/// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
/// # raise(15);
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_signal")]
#[must_use = "dropping the handle removes the event; `detach` leaves it to the context"]
pub struct Signal {
    inner: Rc<Inner>,
    key: Key,
    owns: bool,
}

impl Context {
    /// Calls `handler` in the loop when a signal has come: once for all that came since the last
    /// time, with their [count](SignalInfo::count), or with [`SignalFlags::SIGINFO`] once for each.
    ///
    /// Any number of handlers may be added for one number, in several contexts of the process, and
    /// each is told; within a context the newest first. [`SignalFlags`] says which flags belong to
    /// the process.
    ///
    /// No signal is blocked in the long run, so children inherit a clean mask, and after `exec`
    /// the default dispositions. Of a signal with `SIGINFO`, up to 256 may wait for the loop; then
    /// the signal is blocked until they have been handed out, so that none is lost. (Signals with
    /// numbers below `SIGRTMIN` the kernel itself merges into one while they are blocked.)
    ///
    /// # Errors
    ///
    /// The system refuses to install the handler.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 signal events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let _hangup = context.add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, _, info| {
    ///     println!("{} has come {} times", info.signum, info.count);
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_add_signal")]
    #[track_caller]
    pub fn add_signal(
        &self,
        signum: Signum,
        flags: SignalFlags,
        handler: impl FnMut(&Context, &Signal, &SignalInfo) + 'static,
    ) -> io::Result<Signal> {
        let meta = Meta::here();
        let doorbell = self.inner.doorbell;
        let handler: SignalHandler = Box::new(handler);
        let mut signals = self.inner.signals.borrow_mut();
        if flags.contains(SignalFlags::SIGINFO) {
            doorbell.want_info(signum.number(), true);
        }
        if !signals.numbers.contains_key(&signum) {
            if let Err(error) = sys::signal::subscribe(doorbell, signum.number(), flags) {
                drop(signals);
                return Err(error);
            }
        }
        let key = signals.entries.insert(SignalEntry {
            signum,
            flags,
            handler: Some(handler),
            count: 0,
            infos: VecDeque::new(),
            meta,
        });
        signals.numbers.entry(signum).or_default().push(key);
        drop(signals);
        let signal = Signal {
            inner: Rc::clone(&self.inner),
            key,
            owns: true,
        };
        if self.inner.watch.is_traced() {
            let event = self.inner.traced_signal(key);
            self.inner.trace_added(event, &|tag| signal.set_tag(tag));
        }
        Ok(signal)
    }

    /// Calls all signal handlers that have something to be told. Returns whether there was one.
    pub(crate) fn run_signals(&self) -> bool {
        let inner = &*self.inner;
        let to_call = {
            let mut signals = inner.signals.borrow_mut();
            signals.dispatches += 1;
            mem::take(&mut signals.to_call)
        };
        let mut dispatch = SignalDispatch { inner, to_call };
        let mut ran = false;
        let mut number = None;
        loop {
            dispatch.to_call.clear();
            let collected = {
                let mut signals = inner.signals.borrow_mut();
                signals.collect(inner.doorbell, number, &mut dispatch.to_call)
            };
            if collected.is_none() {
                return ran;
            }
            number = collected;
            for &key in &dispatch.to_call {
                ran |= self.run_signal(key);
            }
            if !inner.is_in_its_process() {
                return ran;
            }
        }
    }

    /// Calls one signal handler until it has been told everything. Returns whether it was called.
    fn run_signal(&self, key: Key) -> bool {
        let inner = &*self.inner;
        let mut ran = false;
        // Should a handler fork, what is left is its parent's, in the child.
        while inner.is_in_its_process() {
            let taken = inner.signals.borrow_mut().take_call(key);
            let Some((handler, info)) = taken else { break };
            ran = true;
            inner.counters.signals.count();
            let watched = inner.begin_call(|| inner.traced_signal(key));
            let mut call = SignalCall {
                signal: Signal {
                    inner: Rc::clone(&self.inner),
                    key,
                    owns: false,
                },
                handler: Some(handler),
            };
            if let Some(handler) = &mut call.handler {
                handler(self, &call.signal, &info);
            }
            drop(call);
            inner.end_call(watched);
            if info.siginfo.is_none() {
                break;
            }
        }
        ran
    }
}

/// The signal handlers being called. Sees to it that what is left over after a panic, or from a
/// nested loop, isn't forgotten.
struct SignalDispatch<'a> {
    inner: &'a Inner,
    to_call: Vec<Key>,
}

impl Drop for SignalDispatch<'_> {
    fn drop(&mut self) {
        self.to_call.clear();
        {
            let mut signals = self.inner.signals.borrow_mut();
            signals.dispatches -= 1;
            signals.to_call = mem::take(&mut self.to_call);
        }
        self.inner.announce_signals_left();
    }
}

impl Inner {
    /// Has the next turn look at signals, if some that came weren't handed out yet: their
    /// announcement was used up by a loop that a panic has ended, or that is outside of this one.
    pub(crate) fn announce_signals_left(&self) {
        if self.doorbell.pending_signals() != 0 || self.signals.borrow().has_more() {
            self.doorbell.ring(SIGNAL);
        }
    }
}

impl Inner {
    /// Changes a signal event in a way that may remove it, which a tracer is told. What is left of
    /// it is returned, to be dropped then.
    fn change_signal<R>(&self, key: Key, change: impl FnOnce(&mut SignalTable) -> R) -> R {
        let former = match self.watch.is_traced() {
            true => self.traced_signal(key),
            false => None,
        };
        let mut signals = self.signals.borrow_mut();
        let result = change(&mut signals);
        if let Some(former) = former {
            let is_gone = signals.entries.get(key).is_none();
            drop(signals);
            self.trace_removed(is_gone.then_some(former));
        }
        result
    }

    fn traced_signal(&self, key: Key) -> Option<TracedEvent> {
        let signals = self.signals.borrow();
        let entry = signals.entries.get(key)?;
        Some(entry.meta.traced(EventKind::Signal, key))
    }

    /// What a tracer is told of every signal event.
    pub(crate) fn traced_signals(&self) -> Vec<TracedEvent> {
        let signals = self.signals.borrow();
        let keys = signals.entries.keys();
        keys.filter_map(|key| self.traced_signal(key)).collect()
    }
}

/// A signal handler that is running. Puts it back, also when it panics.
struct SignalCall {
    signal: Signal,
    handler: Option<SignalHandler>,
}

impl Drop for SignalCall {
    fn drop(&mut self) {
        let Signal { inner, key, .. } = &self.signal;
        let removed = inner.change_signal(*key, |signals| {
            match signals.entries.get_mut(*key) {
                Some(entry) => {
                    entry.handler = self.handler.take();
                    let is_done = entry.flags.contains(SignalFlags::RESETHAND);
                    signals.running -= 1;
                    is_done
                        .then(|| signals.remove(inner.doorbell, *key))
                        .flatten()
                }
                // Removed meanwhile; the handler goes when the borrow has ended.
                None => None,
            }
        });
        drop(removed);
    }
}

impl Signal {
    /// Which signal; `None` when the event was removed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let signal = context.add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, _, _| ())?;
    /// assert_eq!(signal.signum(), Some(Signum::SIGHUP));
    /// # Ok(())
    /// # }
    /// ```
    pub fn signum(&self) -> Option<Signum> {
        let signals = self.inner.signals.borrow();
        signals.entries.get(self.key).map(|entry| entry.signum)
    }

    /// Removes the event and its handler. In its own handler the handler goes when it returns.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// context
    ///     .add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, signal, _| signal.remove())?
    ///     .detach();
    /// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
    /// # raise(1);
    /// context.run() // returns after the first SIGHUP
    /// # }
    /// ```
    pub fn remove(&self) {
        let inner = &*self.inner;
        let removed =
            inner.change_signal(self.key, |signals| signals.remove(inner.doorbell, self.key));
        drop(removed);
    }

    /// Leaves the event to the context: it lives until it [removes](Signal::remove) itself, or the
    /// context goes or is re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// context
    ///     .add_signal(Signum::SIGTERM, SignalFlags::empty(), |context, _, _| context.stop())?
    ///     .detach();
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(mut self) {
        self.owns = false;
    }

    /// A second handle, which doesn't remove the event when it is dropped.
    pub(crate) fn borrowed(&self) -> Signal {
        Signal {
            inner: Rc::clone(&self.inner),
            key: self.key,
            owns: false,
        }
    }

    /// Has the handler called in the next turn, as if the signal had come.
    pub(crate) fn call_soon(&self) {
        let mut signals = self.inner.signals.borrow_mut();
        if let Some(entry) = signals.entries.get_mut(self.key) {
            entry.count = entry.count.saturating_add(1);
            self.inner.doorbell.ring(SIGNAL);
        }
    }

    /// Whether the event is there still: not removed, and its context neither gone nor
    /// re-initialised.
    pub fn is_registered(&self) -> bool {
        self.with_meta(|_| ()).is_some()
    }

    /// The number that [`set_tag`](Signal::set_tag) has set, 0 before.
    #[doc(alias = "tevent_signal_get_tag")]
    pub fn tag(&self) -> u64 {
        self.with_meta(|meta| meta.tag()).unwrap_or_default()
    }

    /// Gives the event a number, which means nothing to the loop.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let signal = context.add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, _, _| ())?;
    /// signal.set_tag(7);
    /// signal.set_name("reload");
    /// assert_eq!((signal.tag(), signal.name()), (7, Some("reload".to_owned())));
    /// assert!(signal.location().is_some() && signal.is_registered());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_signal_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.with_meta(|meta| meta.set_tag(tag));
    }

    /// The name that [`set_name`](Signal::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.with_meta(|meta| meta.name()).flatten()
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.with_meta(|meta| meta.set_name(name));
    }

    /// Where the event was added; `None` when it was removed.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.with_meta(|meta| meta.location)
    }

    fn with_meta<R>(&self, look: impl FnOnce(&mut Meta) -> R) -> Option<R> {
        let mut signals = self.inner.signals.borrow_mut();
        Some(look(&mut signals.entries.get_mut(self.key)?.meta))
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        if self.owns {
            self.remove();
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Signal")
            .field("signum", &self.signum())
            .finish_non_exhaustive()
    }
}
