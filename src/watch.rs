//! Who looks at the loop while it runs: a tracer, a report of slow handlers, the measuring of times.
//!
//! All of them want to know when a handler begins and ends, so they share the places where that is
//! said, and a word that says whether any of them is there.

use crate::callback::Callback;
use crate::context::{Context, Inner};
use crate::key::Key;
use crate::meta::Meta;
use crate::slow_handler::SlowReport;
use crate::trace::{EventKind, Severity, TracedEvent, Tracer};
use std::cell::Cell;
use std::time::{Duration, Instant};

bitflags::bitflags! {
    /// What a context is watched for.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub(crate) struct Wanted: u8 {
        const SLOW = 1;
        const TRACE = 2;
        const TIMES = 4;
    }
}

#[derive(Default)]
pub(crate) struct Watch {
    wanted: Cell<Wanted>,
    pub(crate) slow: SlowReport,
    tracer: Callback<Box<dyn Tracer>>,
    /// How much of the running handler's time belongs to others: handlers and waits of a loop inside
    /// it.
    inside: Cell<Duration>,
}

/// A call that is watched. What is to be said of it is noted before, as the handler may remove its
/// event.
pub(crate) struct Call {
    event: TracedEvent,
    timed: Option<Timed>,
}

/// Something that takes time, and may contain others that do.
pub(crate) struct Timed {
    start: Instant,
    inside_outer: Duration,
}

impl Watch {
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        !self.wanted.get().is_empty()
    }

    #[inline]
    pub(crate) fn is_traced(&self) -> bool {
        self.wanted.get().contains(Wanted::TRACE)
    }

    #[inline]
    fn has_times(&self) -> bool {
        self.wanted.get().contains(Wanted::TIMES)
    }

    pub(crate) fn want(&self, what: Wanted, wanted: bool) {
        let mut all = self.wanted.get();
        all.set(what, wanted);
        self.wanted.set(all);
    }

    fn replace_tracer(&self, tracer: Option<Box<dyn Tracer>>) -> Option<Box<dyn Tracer>> {
        self.want(Wanted::TRACE, tracer.is_some());
        self.tracer.replace(tracer)
    }

    /// Stops watching, and gives back whoever was told.
    pub(crate) fn take(&self) -> impl Sized + use<> {
        self.wanted.set(Wanted::empty());
        (self.slow.take(), self.replace_tracer(None))
    }

    fn start(&self) -> Timed {
        Timed {
            inside_outer: self.inside.take(),
            start: Instant::now(),
        }
    }

    /// How long it took, and how much of that was its own.
    fn finish(&self, timed: &Timed) -> (Duration, Duration) {
        let took = timed.start.elapsed();
        let inside = self.inside.get();
        self.inside.set(timed.inside_outer.saturating_add(took));
        (took, took.saturating_sub(inside))
    }
}

impl Context {
    /// Has a [`Tracer`] told of everything that happens from here on. It replaces an earlier one.
    ///
    /// Events that exist already aren't reported as added. A context that is re-initialised keeps its
    /// tracer.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, Tracer};
    ///
    /// /// Counts turns.
    /// #[derive(Default)]
    /// struct Turns(u64);
    ///
    /// impl Tracer for Turns {
    ///     fn turn_begin(&mut self) {
    ///         self.0 += 1;
    ///     }
    /// }
    ///
    /// let context = Context::new()?;
    /// context.set_tracer(Turns::default());
    /// context.defer(|_| ());
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_set_trace_callback")]
    #[doc(alias = "tevent_set_debug")]
    pub fn set_tracer(&self, tracer: impl Tracer + 'static) {
        self.inner.state.set_busy();
        self.inner.end_sole_immediate();
        let former = self.inner.watch.replace_tracer(Some(Box::new(tracer)));
        self.inner.fds.borrow_mut().mux.tell_of_disarmed(true);
        drop(former);
    }

    /// Takes the tracer away and drops it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// struct Silent;
    /// impl tevent::Tracer for Silent {}
    ///
    /// let context = tevent::Context::new()?;
    /// context.set_tracer(Silent);
    /// context.clear_tracer();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_get_trace_callback")]
    pub fn clear_tracer(&self) {
        let former = self.inner.watch.replace_tracer(None);
        self.inner.fds.borrow_mut().mux.tell_of_disarmed(false);
        drop(former);
    }
}

/// Stops watching for somebody who has panicked, and is gone.
struct AfterPanic<'a>(&'a Inner);

impl Drop for AfterPanic<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let watch = &self.0.watch;
        if !watch.slow.is_there() {
            watch.want(Wanted::SLOW, false);
        }
        if !watch.tracer.is_there() {
            watch.want(Wanted::TRACE, false);
            self.0.fds.borrow_mut().mux.tell_of_disarmed(false);
        }
    }
}

impl Inner {
    /// Tells the tracer something. Called when nothing is borrowed.
    ///
    /// While a panic unwinds it isn't told anything: should it panic too, the process would end.
    fn tell(&self, what: impl FnOnce(&mut dyn Tracer)) {
        if !std::thread::panicking() {
            let _gone = AfterPanic(self);
            self.watch.tracer.call(|tracer| what(&mut **tracer));
        }
    }

    /// Begins to watch a call, when nothing is borrowed. `describe` looks at the event.
    #[inline]
    pub(crate) fn begin_call(
        &self,
        describe: impl FnOnce() -> Option<TracedEvent>,
    ) -> Option<Call> {
        if !self.watch.is_watched() {
            return None;
        }
        self.begin_watched_call(describe()?)
    }

    #[cold]
    fn begin_watched_call(&self, event: TracedEvent) -> Option<Call> {
        let watch = &self.watch;
        self.tell(|tracer| tracer.handler_begin(&event));
        let wants_time = watch.wanted.get().intersects(Wanted::SLOW | Wanted::TIMES);
        let timed = wants_time.then(|| watch.start());
        Some(Call { event, timed })
    }

    /// Ends it, when nothing is borrowed.
    #[inline]
    pub(crate) fn end_call(&self, call: Option<Call>) {
        if let Some(call) = call {
            self.end_watched_call(call);
        }
    }

    #[cold]
    fn end_watched_call(&self, call: Call) {
        let watch = &self.watch;
        if let Some(timed) = &call.timed {
            let (took, own) = watch.finish(timed);
            if watch.has_times() {
                self.counters.add_time(call.event.kind(), own);
            }
            let _gone = AfterPanic(self);
            watch.slow.tell(&call.event, took);
        }
        self.tell(|tracer| tracer.handler_end(&call.event));
    }

    /// Waits, for no longer than `limit`. The tracer is told before.
    #[cold]
    pub(crate) fn watch_wait<R>(&self, limit: Option<Duration>, wait: impl FnOnce() -> R) -> R {
        let watch = &self.watch;
        self.tell(|tracer| tracer.wait_begin(limit));
        let timed = watch.has_times().then(|| watch.start());
        let result = wait();
        if let Some(timed) = timed {
            self.counters.add_asleep(watch.finish(&timed).1);
        }
        self.tell(|tracer| tracer.wait_end());
        result
    }

    #[cold]
    pub(crate) fn trace_turn<R>(&self, turn: impl FnOnce() -> R) -> R {
        self.tell(|tracer| tracer.turn_begin());
        let result = turn();
        self.trace_disarmed();
        self.tell(|tracer| tracer.turn_end());
        result
    }

    /// Tells of an event that was added, and gives it the tag that the tracer wants it to have.
    #[cold]
    pub(crate) fn trace_added(&self, event: Option<TracedEvent>, set_tag: &dyn Fn(u64)) {
        let Some(event) = event else { return };
        self.tell(|tracer| tracer.event_added(&event));
        if event.tag() != 0 {
            set_tag(event.tag());
        }
    }

    /// Tells of events that are gone.
    #[cold]
    pub(crate) fn trace_removed(&self, events: impl IntoIterator<Item = TracedEvent>) {
        for event in events {
            self.tell(|tracer| tracer.event_removed(&event));
        }
    }

    /// Tells of descriptor events that were disarmed.
    fn trace_disarmed(&self) {
        let disarmed = self.fds.borrow_mut().mux.take_disarmed();
        for (key, reason) in disarmed {
            let handler = self.fds.borrow().mux.handler(key);
            if let Some(handler) = handler {
                let event = handler.meta().traced(EventKind::Fd, key);
                self.tell(|tracer| tracer.event_disarmed(&event, reason));
            }
        }
    }

    /// Gives the tracer a message for the operator.
    pub(crate) fn trace_message(&self, severity: Severity, message: impl FnOnce() -> String) {
        if self.watch.is_traced() {
            let message = message();
            self.tell(|tracer| tracer.message(severity, &message));
        }
    }
}

impl Meta {
    pub(crate) fn traced(&self, kind: EventKind, key: Key) -> TracedEvent {
        let id = Some(key.to_bits());
        TracedEvent::new(kind, id, self.shared_name(), self.tag(), self.location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    struct Panics;

    impl Tracer for Panics {
        fn handler_begin(&mut self, _: &TracedEvent) {
            resume_unwind(Box::new(()));
        }
    }

    fn panics(context: &Context) -> bool {
        context.defer(|_| ());
        catch_unwind(AssertUnwindSafe(|| context.run())).is_err()
    }

    #[test]
    fn nobody_is_watched_for_those_who_have_panicked() {
        let context = Context::new().expect("a context");
        context.set_slow_handler(Duration::ZERO, |_| resume_unwind(Box::new(())));
        assert!(panics(&context));
        assert!(!context.inner.watch.is_watched());
        context.set_slow_handler(Duration::MAX, |_| ());
        context.set_tracer(Panics);
        assert!(panics(&context));
        assert!(!context.inner.watch.is_traced(), "the tracer is gone");
        assert!(context.inner.watch.is_watched(), "the report is there");
        assert!(!panics(&context));
    }
}
