//! A tracer sees turns, waits, handlers, and events that come and go.

mod common;

use common::{NOTHING, Number, OnDrop, READ, WRITE, context, panic_of, readable, signal_of, turn};
use rustix::process::{getpid, kill_process};
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{
    Backend, BackendKind, Context, Disarmed, EventKind, FdFlags, ReadyList, Severity, SignalFlags,
    Timer, Token, TracedEvent, Tracer, WeakContext,
};

on_every_backend!(
    a_turn_and_its_wait_are_told_in_order,
    a_handler_of_each_kind_is_told_with_its_name_and_tag,
    a_closure_that_runs_once_is_told_with_its_place,
    each_closure_of_another_thread_is_told_in_a_turn_of_its_own,
    an_event_comes_and_goes_once,
    a_detached_timer_goes_when_it_has_fired,
    a_detached_immediate_goes_when_it_has_run,
    a_signal_handler_that_is_called_once_goes_then,
    reinitialising_takes_all_events_and_keeps_the_tracer,
    dropping_the_context_takes_all_events,
    the_tracer_gives_an_event_its_tag,
    a_loop_inside_a_handler_is_told_inside,
    an_immediate_that_schedules_itself_is_told_each_time,
    a_tracer_may_use_handles,
    a_tracer_may_ask_what_there_is_when_an_event_comes_or_goes,
    a_tracer_may_be_replaced_by_a_handler,
    a_cleared_tracer_is_told_nothing_and_dropped,
    a_tracer_that_a_busy_handler_sets_is_told_of_the_next_call,
    a_tracer_may_take_itself_away,
    a_tracer_is_told_nothing_while_a_panic_unwinds,
    a_traced_event_says_what_it_is,
    what_a_tracer_arms_when_a_wait_begins_ends_the_wait,
    a_tracer_that_panics_is_taken_away,
    a_handler_that_panics_leaves_the_tracer_there,
    a_peer_that_is_gone_disarms_a_writer,
);

/// What a tracer was told, a line each.
#[derive(Clone, Default)]
struct Trace(Rc<RefCell<Vec<String>>>);

impl Trace {
    fn of(context: &Context) -> Trace {
        let trace = Trace::default();
        context.set_tracer(trace.clone());
        trace
    }

    fn add(&self, line: impl Into<String>) {
        self.0.borrow_mut().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// Without turns and waits.
    fn take_events(&self) -> Vec<String> {
        let mut lines = self.take();
        lines.retain(|line| !line.starts_with("turn") && !line.starts_with("wait"));
        lines
    }
}

fn event_line(what: &str, event: &TracedEvent) -> String {
    format!("{what} {} {}", event.kind(), event.name().unwrap_or("-"))
}

impl Tracer for Trace {
    fn turn_begin(&mut self) {
        self.add("turn");
    }
    fn turn_end(&mut self) {
        self.add("turn end");
    }
    fn wait_begin(&mut self, timeout: Option<Duration>) {
        self.add(format!("wait {timeout:?}"));
    }
    fn wait_end(&mut self) {
        self.add("wait end");
    }
    fn event_added(&mut self, event: &TracedEvent) {
        self.add(event_line("added", event));
    }
    fn event_removed(&mut self, event: &TracedEvent) {
        self.add(event_line("removed", event));
    }
    fn handler_begin(&mut self, event: &TracedEvent) {
        self.add(event_line("begin", event));
    }
    fn handler_end(&mut self, event: &TracedEvent) {
        self.add(event_line("end", event));
    }
    fn event_disarmed(&mut self, event: &TracedEvent, reason: Disarmed) {
        self.add(format!("{}: {reason}", event_line("disarmed", event)));
    }
    fn message(&mut self, severity: Severity, message: &str) {
        self.add(format!("{severity}: {message}"));
    }
}

fn a_turn_and_its_wait_are_told_in_order(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let event = context.add_fd(ours, READ, |_, event, _| event.set_flags(NOTHING));
    let event = event.unwrap();
    event.set_name("client");
    theirs.write_all(b"x").unwrap();
    let trace = Trace::of(&context);
    assert!(turn(&context));
    assert_eq!(
        trace.take(),
        [
            "turn",
            "wait Some(0ns)",
            "wait end",
            "begin fd client",
            "end fd client",
            "turn end"
        ]
    );
    context.defer(|_| ());
    assert!(turn(&context));
    assert_eq!(
        trace.take(),
        ["turn", "begin immediate -", "end immediate -", "turn end"],
        "an immediate waits for nothing"
    );
    let run = context.run();
    run.unwrap();
    assert_eq!(trace.take(), ["turn", "turn end"], "nothing to wait for");
}

fn a_handler_of_each_kind_is_told_with_its_name_and_tag(kind: BackendKind) {
    type Entry = (EventKind, String, u64, u32);
    #[derive(Default)]
    struct Seen(Rc<RefCell<Vec<Entry>>>);
    impl Tracer for Seen {
        fn handler_begin(&mut self, event: &TracedEvent) {
            assert_eq!(event.location().file(), file!());
            assert!(event.id().is_some());
            assert!(event.to_string().contains(event.name().unwrap()));
            self.0.borrow_mut().push((
                event.kind(),
                event.name().unwrap().to_owned(),
                event.tag(),
                event.location().line(),
            ));
        }
    }
    let context = context(kind);
    let seen = Seen::default();
    let log = Rc::clone(&seen.0);
    context.set_tracer(seen);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    let fd = context.add_fd(ours, READ, |_, event, _| event.set_flags(NOTHING));
    let fd = fd.unwrap();
    fd.set_name("client");
    fd.set_tag(1);
    let timer = context.add_timer(context.now(), |_, _| ());
    timer.set_name("idle");
    timer.set_tag(2);
    let immediate = context.add_immediate(|_, _| ());
    immediate.set_name("flush");
    immediate.set_tag(3);
    immediate.schedule();
    let (signum, raised) = signal_of(kind);
    let signal = context.add_signal(signum, SignalFlags::empty(), |_, _, _| ());
    let signal = signal.unwrap();
    signal.set_name("resize");
    signal.set_tag(4);
    kill_process(getpid(), raised).unwrap();
    let lines = [
        fd.location(),
        timer.location(),
        immediate.location(),
        signal.location(),
    ]
    .map(|location| location.unwrap().line());
    common::run_until(&context, "all are called", || log.borrow().len() >= 4);
    let mut seen = log.take();
    seen.sort_by_key(|&(_, _, tag, _)| tag);
    let expected = [
        (EventKind::Fd, "client".to_owned(), 1, lines[0]),
        (EventKind::Timer, "idle".to_owned(), 2, lines[1]),
        (EventKind::Immediate, "flush".to_owned(), 3, lines[2]),
        (EventKind::Signal, "resize".to_owned(), 4, lines[3]),
    ];
    assert_eq!(seen, expected);
}

fn a_closure_that_runs_once_is_told_with_its_place(kind: BackendKind) {
    type Entry = (Option<u64>, u32);
    struct Seen(Rc<RefCell<Vec<Entry>>>);
    impl Tracer for Seen {
        fn handler_begin(&mut self, event: &TracedEvent) {
            let seen = (event.id(), event.location().line());
            self.0.borrow_mut().push(seen);
        }
    }
    let context = context(kind);
    let log = Rc::new(RefCell::new(Vec::new()));
    context.set_tracer(Seen(Rc::clone(&log)));
    let line = line!() + 1;
    context.defer(|_| ());
    context.remote().schedule(|_| ());
    context.run_until(|| log.borrow().len() == 2).unwrap();
    assert_eq!(log.take(), [(None, line), (None, line + 1)]);
}

fn each_closure_of_another_thread_is_told_in_a_turn_of_its_own(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    for _ in 0..3 {
        assert!(context.remote().schedule(|_| ()));
    }
    context.run().unwrap();
    let told = trace.take();
    let mut turns = told.split(|line| line == "turn").skip(1);
    for _ in 0..3 {
        let expected = ["begin immediate -", "end immediate -", "turn end"];
        assert_eq!(turns.next(), Some(&expected.map(String::from)[..]));
    }
    assert_eq!(turns.next(), Some(&["turn end".to_owned()][..]));
    assert_eq!(turns.next(), None);
}

fn an_event_comes_and_goes_once(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let timer = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    let immediate = context.add_immediate(|_, _| ());
    let signal = context
        .add_signal(signal_of(kind).0, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    assert_eq!(
        trace.take_events(),
        [
            "added fd -",
            "added timer -",
            "added immediate -",
            "added signal -"
        ]
    );
    fd.set_name("a");
    timer.set_name("b");
    immediate.set_name("c");
    signal.set_name("d");
    fd.remove();
    timer.remove();
    immediate.remove();
    signal.remove();
    drop((fd, timer, immediate, signal));
    assert_eq!(
        trace.take_events(),
        [
            "removed fd a",
            "removed timer b",
            "removed immediate c",
            "removed signal d"
        ]
    );
    // One that can't be added neither comes nor goes.
    let closed = context.add_fd(Number(i32::MAX - 7), READ, |_, _, _| ());
    assert!(closed.is_err());
    drop(closed);
    assert_eq!(trace.take_events(), [""; 0]);
}

fn a_detached_timer_goes_when_it_has_fired(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let rearmed = Cell::new(false);
    let timer = context.add_timer(context.now(), move |context, timer| {
        if !rearmed.replace(true) {
            timer.set_deadline(context.now());
        }
    });
    timer.set_name("t");
    timer.detach();
    context.run().unwrap();
    assert_eq!(
        trace.take_events(),
        [
            "added timer -",
            "begin timer t",
            "end timer t",
            "begin timer t",
            "removed timer t",
            "end timer t"
        ]
    );
    // One that nobody can arm any more goes at once.
    let timer = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    timer.disarm();
    timer.detach();
    assert_eq!(trace.take_events(), ["added timer -", "removed timer -"]);
}

fn a_detached_immediate_goes_when_it_has_run(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let immediate = context.add_immediate(|_, _| ());
    immediate.schedule();
    immediate.detach();
    context.run().unwrap();
    context.add_immediate(|_, _| ()).detach();
    assert_eq!(
        trace.take_events(),
        [
            "added immediate -",
            "begin immediate -",
            "removed immediate -",
            "end immediate -",
            "added immediate -",
            "removed immediate -"
        ]
    );
}

fn a_signal_handler_that_is_called_once_goes_then(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let (signum, raised) = signal_of(kind);
    let signal = context.add_signal(signum, SignalFlags::RESETHAND, |_, _, _| ());
    let _signal = signal.unwrap();
    kill_process(getpid(), raised).unwrap();
    context.run().unwrap();
    assert_eq!(
        trace.take_events(),
        [
            "added signal -",
            "begin signal -",
            "removed signal -",
            "end signal -"
        ]
    );
}

/// An event of each kind; the descriptor's peer is kept too.
fn one_of_each(context: &Context, kind: BackendKind) -> impl Sized + use<> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let timer = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    let signal = context
        .add_signal(signal_of(kind).0, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    let immediate = context.add_immediate(|_, _| ());
    (fd, timer, signal, immediate, theirs)
}

const ALL_REMOVED: [&str; 4] = [
    "removed fd -",
    "removed timer -",
    "removed signal -",
    "removed immediate -",
];

fn reinitialising_takes_all_events_and_keeps_the_tracer(kind: BackendKind) {
    let context = context(kind);
    let events = one_of_each(&context, kind);
    let trace = Trace::of(&context);
    context.reinitialise().unwrap();
    assert_eq!(trace.take(), ALL_REMOVED);
    drop(events);
    assert_eq!(trace.take(), [""; 0], "they are gone already");
    drop(context.add_immediate(|_, _| ()));
    assert_eq!(
        trace.take(),
        ["added immediate -", "removed immediate -"],
        "the tracer is still there"
    );
}

fn dropping_the_context_takes_all_events(kind: BackendKind) {
    let context = context(kind);
    let events = one_of_each(&context, kind);
    let trace = Trace::of(&context);
    drop(context);
    assert_eq!(trace.take(), ALL_REMOVED);
    assert_eq!(Rc::strong_count(&trace.0), 1, "the tracer went too");
    drop(events);
}

fn the_tracer_gives_an_event_its_tag(kind: BackendKind) {
    struct Number(u64);
    impl Tracer for Number {
        fn event_added(&mut self, event: &TracedEvent) {
            self.0 += 1;
            event.set_tag(self.0);
        }
    }
    let context = context(kind);
    context.set_tracer(Number(0));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let timer = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    let immediate = context.add_immediate(|_, _| ());
    let signal = context
        .add_signal(signal_of(kind).0, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    assert_eq!(
        (fd.tag(), timer.tag(), immediate.tag(), signal.tag()),
        (1, 2, 3, 4)
    );
}

fn a_loop_inside_a_handler_is_told_inside(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let trace = Trace::of(&context);
    let _timer = context.add_timer(context.now(), |context, _| {
        let inner = context.add_immediate(|_, _| ());
        inner.set_name("inside");
        inner.schedule();
        context.run_once().unwrap();
    });
    context.run_once().unwrap();
    assert_eq!(
        trace.take_events(),
        [
            "added timer -",
            "begin timer -",
            "added immediate -",
            "begin immediate inside",
            "end immediate inside",
            "removed immediate inside",
            "end timer -"
        ]
    );
}

fn an_immediate_that_schedules_itself_is_told_each_time(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::default();
    let tracer = trace.clone();
    let mut left = 3;
    let immediate = context.add_immediate(move |context, immediate| {
        left -= 1;
        if left == 2 {
            context.set_tracer(tracer.clone());
        }
        if left > 0 {
            immediate.schedule();
        }
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(
        trace.take_events(),
        [
            "begin immediate -",
            "end immediate -",
            "begin immediate -",
            "end immediate -"
        ],
        "from the second call on"
    );
}

fn a_tracer_may_use_handles(kind: BackendKind) {
    /// Removes a timer as soon as there is one.
    struct Remove(Rc<RefCell<Option<Timer>>>);
    impl Tracer for Remove {
        fn handler_begin(&mut self, _: &TracedEvent) {
            drop(self.0.take());
        }
    }
    let context = context(kind);
    let timer = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    let slot = Rc::new(RefCell::new(Some(timer)));
    context.set_tracer(Remove(Rc::clone(&slot)));
    context.defer(|_| ());
    context.run().unwrap();
    assert!(slot.borrow().is_none(), "nothing kept the loop running");
}

fn a_tracer_may_ask_what_there_is_when_an_event_comes_or_goes(kind: BackendKind) {
    struct Look(WeakContext, Trace);
    impl Look {
        fn look(&self, what: &str) {
            let context = self.0.upgrade().expect("it is in use");
            // These look at all that there is.
            let _ = (context.next_deadline(), context.stats());
            self.1.add(what);
        }
    }
    impl Tracer for Look {
        fn event_added(&mut self, _: &TracedEvent) {
            self.look("added");
        }
        fn event_removed(&mut self, _: &TracedEvent) {
            self.look("removed");
        }
    }
    let context = context(kind);
    let trace = Trace::default();
    context.set_tracer(Look(context.downgrade(), trace.clone()));
    let comes_and_goes = |what: &str| assert_eq!(trace.take(), ["added", "removed"], "{what}");
    drop(context.add_timer_after(Duration::from_secs(3600), |_, _| ()));
    comes_and_goes("a timer whose handle was dropped");
    context.add_timer(context.now(), |_, _| ()).detach();
    assert!(turn(&context));
    comes_and_goes("one that was detached, and has fired");
    let timer = context.add_timer(context.now(), |_, _| ());
    timer.disarm();
    timer.detach();
    comes_and_goes("one that nobody can arm");
    let (ours, _theirs) = readable();
    drop(context.add_fd(ours, READ, |_, _, _| ()));
    comes_and_goes("a descriptor event");
    drop(context.add_immediate(|_, _| ()));
    comes_and_goes("an immediate");
    let (signum, _) = signal_of(kind);
    drop(context.add_signal(signum, SignalFlags::empty(), |_, _, _| ()));
    comes_and_goes("a signal event");
}

fn a_tracer_may_be_replaced_by_a_handler(kind: BackendKind) {
    let context = context(kind);
    let first = Trace::of(&context);
    let second = Trace::default();
    let tracer = second.clone();
    context.defer(move |context| context.set_tracer(tracer));
    context.run().unwrap();
    assert_eq!(first.take_events(), ["begin immediate -"]);
    assert_eq!(second.take_events(), ["end immediate -"]);
    assert_eq!(Rc::strong_count(&first.0), 1);
}

fn a_cleared_tracer_is_told_nothing_and_dropped(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    context.clear_tracer();
    assert_eq!(Rc::strong_count(&trace.0), 1);
    context.defer(|_| ());
    context.run().unwrap();
    assert_eq!(trace.take(), [""; 0]);
}

fn what_a_tracer_arms_when_a_wait_begins_ends_the_wait(kind: BackendKind) {
    struct Arm(Option<(Timer, Instant)>);
    impl Tracer for Arm {
        fn wait_begin(&mut self, _: Option<Duration>) {
            if let Some((timer, deadline)) = self.0.take() {
                timer.set_deadline(deadline);
                timer.detach();
            }
        }
    }
    let builder = Context::builder().backend(kind).virtual_time();
    let context = builder.build().unwrap();
    let start = context.now();
    let called = Rc::new(Cell::new(None));
    let flag = Rc::clone(&called);
    let timer = context.add_timer(start, move |context, _| flag.set(Some(context.now())));
    timer.disarm();
    let _late = context.add_timer_after(Duration::from_secs(3600), |_, _| ());
    let soon = start + Duration::from_secs(1);
    context.set_tracer(Arm(Some((timer, soon))));
    context.run_until(|| called.get().is_some()).unwrap();
    assert_eq!(called.get(), Some(soon));
}

fn a_tracer_that_panics_is_taken_away(kind: BackendKind) {
    struct Panic;
    impl Tracer for Panic {
        fn handler_begin(&mut self, _: &TracedEvent) {
            panic!("the tracer");
        }
    }
    let context = context(kind);
    context.set_tracer(Panic);
    let ran = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let ran = Rc::clone(&ran);
        let immediate = context.add_immediate(move |_, _| ran.set(ran.get() + 1));
        immediate.schedule();
        immediate.detach();
    }
    assert_eq!(panic_of(|| context.run()), "the tracer");
    context.run().unwrap();
    assert!(ran.get() >= 1, "the loop goes on");
}

fn a_handler_that_panics_leaves_the_tracer_there(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    context.defer(|_| panic!("the handler"));
    context.defer(|_| ());
    assert_eq!(panic_of(|| context.run()), "the handler");
    context.run().unwrap();
    assert_eq!(
        trace.take_events(),
        ["begin immediate -", "begin immediate -", "end immediate -"]
    );
}

fn a_tracer_that_a_busy_handler_sets_is_told_of_the_next_call(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::default();
    let (inner, calls) = (trace.clone(), Cell::new(0));
    let (ours, _theirs) = readable();
    let event = context.add_fd(ours, READ, move |context, _, _| {
        calls.set(calls.get() + 1);
        match calls.get() {
            3 => context.set_tracer(inner.clone()),
            4 => context.stop(),
            _ => {}
        }
    });
    context.run().unwrap();
    assert_eq!(trace.take_events(), ["begin fd -", "end fd -"]);
    drop(event);
}

/// Takes itself away in its first call.
struct Brief {
    context: WeakContext,
    _owned: OnDrop<Box<dyn FnMut()>>,
}

impl Tracer for Brief {
    fn handler_begin(&mut self, _: &TracedEvent) {
        let context = self.context.upgrade().expect("it runs");
        context.clear_tracer();
    }
    fn handler_end(&mut self, _: &TracedEvent) {
        unreachable!("it was taken away");
    }
}

fn a_tracer_may_take_itself_away(kind: BackendKind) {
    let context = context(kind);
    let dropped = Rc::new(Cell::new(0));
    let inner = Rc::clone(&dropped);
    context.set_tracer(Brief {
        context: context.downgrade(),
        _owned: OnDrop(Box::new(move || inner.set(inner.get() + 1))),
    });
    context.defer(|_| ());
    context.defer(|_| ());
    context.run().unwrap();
    assert_eq!(dropped.get(), 1);
}

fn a_tracer_is_told_nothing_while_a_panic_unwinds(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let weak = context.downgrade();
    context.defer(move |_| {
        let _guard = OnDrop(|| {
            let context = weak.upgrade().expect("it unwinds through its run");
            context.add_immediate(|_, _| ()).detach();
        });
        panic!("the handler");
    });
    assert_eq!(panic_of(|| context.run()), "the handler");
    assert_eq!(trace.take_events(), ["begin immediate -"]);
}

/// Writes events as they print themselves.
struct Printer(Trace);

impl Tracer for Printer {
    fn handler_begin(&mut self, event: &TracedEvent) {
        self.0.add(event.to_string());
    }
}

fn a_traced_event_says_what_it_is(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::default();
    context.set_tracer(Printer(trace.clone()));
    let timer = context.add_timer(context.now(), |_, _| ());
    context.run().unwrap();
    let place = timer.location().expect("it is there");
    assert_eq!(trace.take(), [format!("timer added at {place}")]);
    timer.set_name("idle");
    timer.set_deadline(context.now());
    context.run().unwrap();
    assert_eq!(trace.take(), [format!("timer \"idle\" added at {place}")]);
}

fn a_peer_that_is_gone_disarms_a_writer(kind: BackendKind) {
    let context = context(kind);
    let trace = Trace::of(&context);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let event = context.add_fd(ours, WRITE, |_, _, _| ()).unwrap();
    event.set_name("writer");
    drop(theirs);
    for _ in 0..3 {
        turn(&context);
    }
    assert_eq!(event.flags(), NOTHING);
    assert_eq!(
        trace.take_events(),
        ["added fd -", "disarmed fd writer: the peer is gone"],
        "once"
    );
}

/// A backend that never reports anything, refuses every change, and fails its first wait.
#[derive(Default)]
struct Poor {
    falls_back: bool,
    waits: u32,
}

impl Backend for Poor {
    fn name(&self) -> &str {
        "poor"
    }
    fn add(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Ok(())
    }
    fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
    fn remove(&mut self, _: RawFd, _: Token) -> io::Result<()> {
        Ok(())
    }
    fn wait(&mut self, _: Option<Duration>, _: &mut ReadyList) -> io::Result<()> {
        self.waits += 1;
        match self.waits {
            1 => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn fall_back(&mut self) -> bool {
        self.falls_back
    }
}

fn poor(falls_back: bool) -> Context {
    let backend = Poor {
        falls_back,
        ..Poor::default()
    };
    let context = Context::builder().custom_backend(Box::new(backend)).build();
    context.expect("a context can be made")
}

/// No backend of the crate can be made to.
#[test]
fn a_refused_change_is_told() {
    let context = poor(false);
    let trace = Trace::of(&context);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let event = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    event.set_name("refused");
    event.set_flags(READ | WRITE);
    assert!(context.run_once().is_err());
    let number = "Cannot allocate memory (os error 12)";
    assert_eq!(
        trace.take_events(),
        [
            "added fd -".to_owned(),
            format!("error: the kernel has refused a changed interest: {number}"),
            "disarmed fd refused: the kernel has refused a change".to_owned(),
        ]
    );
}

/// The same.
#[test]
fn an_event_that_wants_nothing_is_not_disarmed_with_its_siblings() {
    let context = poor(false);
    let trace = Trace::of(&context);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let ours = Rc::new(ours);
    let idle = context.add_fd(Rc::clone(&ours), NOTHING, |_, _, _| ());
    let event = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    event.set_name("refused");
    event.set_flags(READ | WRITE);
    assert!(context.run_once().is_err());
    let mut lines = trace.take_events();
    lines.retain(|line| line.starts_with("disarmed"));
    assert_eq!(
        lines,
        ["disarmed fd refused: the kernel has refused a change"]
    );
    drop(idle);
}

/// The same.
#[test]
fn a_failed_wait_is_told_as_an_error_or_as_a_warning_with_a_way_out() {
    for (falls_back, expected) in [
        (
            false,
            "error: waiting has failed: Input/output error (os error 5)",
        ),
        (
            true,
            "warning: waiting has failed (Input/output error (os error 5)); \
             the backend has fallen back to another mechanism",
        ),
    ] {
        let context = poor(falls_back);
        let trace = Trace::of(&context);
        let result = context.run_once();
        assert_eq!(result.is_ok(), falls_back);
        assert_eq!(trace.take_events(), [expected]);
    }
}
