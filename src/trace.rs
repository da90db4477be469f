//! What can be seen of a loop from outside: [`Tracer`], and what it is told of.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

/// The kinds of events.
///
/// ```
/// assert_eq!(tevent::EventKind::Timer.to_string(), "timer");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A [descriptor event](crate::Fd).
    Fd,
    /// A [timer](crate::Timer).
    Timer,
    /// A [signal event](crate::Signal).
    Signal,
    /// An [immediate](crate::Immediate), a [deferred](crate::Context::defer) closure, or one that
    /// another thread has [scheduled](crate::Remote::schedule).
    Immediate,
}

impl EventKind {
    /// All of them.
    pub(crate) const ALL: [EventKind; 4] = [
        EventKind::Fd,
        EventKind::Timer,
        EventKind::Signal,
        EventKind::Immediate,
    ];
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            EventKind::Fd => "fd",
            EventKind::Timer => "timer",
            EventKind::Signal => "signal",
            EventKind::Immediate => "immediate",
        })
    }
}

/// Somebody who watches a loop: told when its turns, waits and handlers begin and end, and when
/// events come and go. All methods do nothing unless they are implemented.
///
/// A tracer is set by [`Context::set_tracer`](crate::Context::set_tracer). Without one, nothing is
/// paid for this; with one, every turn looks at everything.
///
/// - A method is called when nothing in the context is borrowed, so handles may be used in it. What
///   it does itself isn't reported.
/// - Loops inside handlers are reported like others: what begins inside ends inside.
/// - When a handler panics, its `handler_end` and the `turn_end` are left out, and so is what is
///   removed while the panic unwinds.
/// - A tracer that panics is taken away, and its panic comes out of what it was told of.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use tevent::{Context, TracedEvent, Tracer};
///
/// struct Print;
///
/// impl Tracer for Print {
///     fn handler_begin(&mut self, event: &TracedEvent) {
///         println!("{event}"); // timer "flush" added at src/main.rs:10:5
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// context.set_tracer(Print);
/// context.defer(|_| println!("hello"));
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_set_trace_callback")]
#[doc(alias = "tevent_set_trace_fd_callback")]
#[doc(alias = "tevent_set_trace_signal_callback")]
#[doc(alias = "tevent_set_trace_timer_callback")]
#[doc(alias = "tevent_set_trace_immediate_callback")]
#[doc(alias = "tevent_set_trace_queue_callback")]
pub trait Tracer {
    /// A turn begins: the loop looks what to call.
    #[doc(alias = "TEVENT_TRACE_BEFORE_LOOP_ONCE")]
    fn turn_begin(&mut self) {}

    /// It has ended.
    #[doc(alias = "TEVENT_TRACE_AFTER_LOOP_ONCE")]
    fn turn_end(&mut self) {}

    /// The loop asks the backend what is ready, and waits for it for at most `timeout` (`None`: for
    /// as long as it takes).
    #[doc(alias = "TEVENT_TRACE_BEFORE_WAIT")]
    fn wait_begin(&mut self, timeout: Option<Duration>) {
        let _ = timeout;
    }

    /// The wait has ended.
    #[doc(alias = "TEVENT_TRACE_AFTER_WAIT")]
    fn wait_end(&mut self) {}

    /// An event was added. (Closures that run once aren't reported before they run.)
    #[doc(alias = "TEVENT_EVENT_TRACE_ATTACH")]
    fn event_added(&mut self, event: &TracedEvent) {
        let _ = event;
    }

    /// It is gone. That is so also when the context was re-initialised or dropped.
    #[doc(alias = "TEVENT_EVENT_TRACE_DETACH")]
    fn event_removed(&mut self, event: &TracedEvent) {
        let _ = event;
    }

    /// A handler is about to be called.
    #[doc(alias = "TEVENT_EVENT_TRACE_BEFORE_HANDLER")]
    fn handler_begin(&mut self, event: &TracedEvent) {
        let _ = event;
    }

    /// It has returned. The event may be gone by now; this is what was known before the call.
    fn handler_end(&mut self, event: &TracedEvent) {
        let _ = event;
    }

    /// The loop has cleared the flags of a descriptor event, for good unless somebody sets them
    /// again.
    fn event_disarmed(&mut self, event: &TracedEvent, reason: Disarmed) {
        let _ = (event, reason);
    }

    /// Something has happened that an operator may want to know.
    #[doc(alias = "tevent_set_debug")]
    #[doc(alias = "tevent_set_debug_stderr")]
    fn message(&mut self, severity: Severity, message: &str) {
        let _ = (severity, message);
    }
}

/// Why the loop has cleared an event's flags.
///
/// ```
/// assert_eq!(tevent::Disarmed::HungUp.to_string(), "the peer is gone");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Disarmed {
    /// It wanted to write only, and the peer has hung up or the descriptor has an error.
    HungUp,
    /// Somebody has closed the descriptor behind the loop's back.
    Closed,
    /// The kernel has refused a change of what the event wants; the run call has failed with its
    /// error.
    Refused,
}

impl fmt::Display for Disarmed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Disarmed::HungUp => "the peer is gone",
            Disarmed::Closed => "the descriptor was closed",
            Disarmed::Refused => "the kernel has refused a change",
        })
    }
}

/// How much a [message](Tracer::message) matters.
///
/// ```
/// use tevent::Severity;
///
/// assert!(Severity::Error > Severity::Warning && Severity::Warning > Severity::Trace);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[doc(alias = "tevent_debug_level")]
pub enum Severity {
    /// Nothing is wrong.
    #[doc(alias = "TEVENT_DEBUG_TRACE")]
    Trace,
    /// The loop has found a way around it.
    #[doc(alias = "TEVENT_DEBUG_WARNING")]
    Warning,
    /// The run call has failed because of it.
    #[doc(alias = "TEVENT_DEBUG_ERROR")]
    #[doc(alias = "TEVENT_DEBUG_FATAL")]
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Severity::Trace => "trace",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// An event as a [`Tracer`] sees it.
///
/// ```
/// use tevent::{TracedEvent, Tracer};
///
/// /// Numbers the events.
/// struct Number(u64);
///
/// impl Tracer for Number {
///     fn event_added(&mut self, event: &TracedEvent) {
///         self.0 += 1;
///         event.set_tag(self.0);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let context = tevent::Context::new()?;
/// context.set_tracer(Number(0));
/// let immediate = context.add_immediate(|_, _| ());
/// assert_eq!(immediate.tag(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TracedEvent {
    kind: EventKind,
    id: Option<u64>,
    name: Option<Rc<str>>,
    tag: Cell<u64>,
    location: &'static Location<'static>,
}

impl TracedEvent {
    pub(crate) fn new(
        kind: EventKind,
        id: Option<u64>,
        name: Option<Rc<str>>,
        tag: u64,
        location: &'static Location<'static>,
    ) -> TracedEvent {
        TracedEvent {
            kind,
            id,
            name,
            tag: Cell::new(tag),
            location,
        }
    }

    /// What kind of event it is.
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// A number that no other event of its kind and context has while it exists. `None` for a
    /// closure that runs once.
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its tag, 0 if none was set.
    pub fn tag(&self) -> u64 {
        self.tag.get()
    }

    /// Sets the event's tag, for [`Tracer::event_added`]. In other methods it has no effect.
    pub fn set_tag(&self, tag: u64) {
        self.tag.set(tag);
    }

    /// Where it was added, or the closure scheduled.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }
}

impl fmt::Display for TracedEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind)?;
        if let Some(name) = &self.name {
            write!(formatter, " {name:?}")?;
        }
        write!(formatter, " added at {}", self.location)
    }
}
