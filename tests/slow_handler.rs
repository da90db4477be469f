//! The report of slow handlers says which one it was.

mod common;

use common::{READ, context, signal_of};
use rustix::process::{getpid, kill_process};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, EventKind, SignalFlags, SlowHandler};

on_every_backend!(
    a_slow_handler_of_each_kind_is_named,
    a_slow_handler_that_removed_itself_is_named,
    fast_handlers_are_not_reported,
    the_report_may_change_the_report,
    a_report_that_holds_a_handle_goes_with_the_context,
    a_loop_in_the_report_calls_the_slow_descriptor_event,
);

const THRESHOLD: Duration = Duration::from_micros(200);

/// Takes longer than the threshold.
fn dawdle() {
    let start = Instant::now();
    while start.elapsed() <= THRESHOLD {
        std::hint::spin_loop();
    }
}

fn report_into(context: &Context) -> Rc<RefCell<Vec<SlowHandler>>> {
    let reports = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&reports);
    context.set_slow_handler(THRESHOLD, move |slow| log.borrow_mut().push(slow.clone()));
    reports
}

fn a_slow_handler_of_each_kind_is_named(kind: BackendKind) {
    let context = context(kind);
    let reports = report_into(&context);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();

    let mut lines = Vec::new();
    let fd = context.add_fd(ours, READ, |_, event, _| {
        dawdle();
        event.set_readable(false);
    });
    let fd = fd.unwrap();
    lines.push(fd.location().unwrap().line());
    fd.set_name("client");
    fd.set_tag(1);
    let timer = context.add_timer(context.now(), |_, _| dawdle());
    lines.push(timer.location().unwrap().line());
    timer.set_name("idle");
    timer.set_tag(2);
    let immediate = context.add_immediate(|_, _| dawdle());
    lines.push(immediate.location().unwrap().line());
    immediate.set_name("flush");
    immediate.set_tag(3);
    immediate.schedule();
    let (signum, raised) = signal_of(kind);
    let signal = context.add_signal(signum, SignalFlags::empty(), |_, _, _| dawdle());
    let signal = signal.unwrap();
    lines.push(signal.location().unwrap().line());
    signal.set_name("resize");
    signal.set_tag(4);
    kill_process(getpid(), raised).unwrap();

    // Another thread of the process may be the one that gets the signal, and take its time.
    context.run_until(|| reports.borrow().len() >= 4).unwrap();
    let mut reports = reports.take();
    reports.sort_by_key(|slow| slow.tag);
    let seen: Vec<_> = reports
        .iter()
        .map(|slow| {
            (
                slow.kind,
                slow.name.as_deref().unwrap_or(""),
                slow.location.line(),
            )
        })
        .collect();
    let expected = [
        (EventKind::Fd, "client", lines[0]),
        (EventKind::Timer, "idle", lines[1]),
        (EventKind::Immediate, "flush", lines[2]),
        (EventKind::Signal, "resize", lines[3]),
    ];
    assert_eq!(seen, expected, "what was reported");
    for slow in reports {
        assert!(slow.took > THRESHOLD, "{slow} is within the threshold");
        assert_eq!(slow.location.file(), file!());
        let text = slow.to_string();
        assert!(text.starts_with(&format!("{} ", slow.kind)), "{text}");
    }
}

fn a_slow_handler_that_removed_itself_is_named(kind: BackendKind) {
    let context = context(kind);
    let reports = report_into(&context);
    let timer = context.add_timer(context.now(), |_, timer| {
        timer.remove();
        dawdle();
    });
    timer.set_name("gone");
    context.run().unwrap();
    assert_eq!(reports.borrow()[0].name.as_deref(), Some("gone"));
}

fn fast_handlers_are_not_reported(kind: BackendKind) {
    let context = context(kind);
    context.set_slow_handler(Duration::from_secs(3600), |slow| panic!("{slow}"));
    context.defer(|_| dawdle());
    context.run().unwrap();
    context.set_slow_handler(Duration::ZERO, |slow| panic!("{slow}"));
    context.clear_slow_handler();
    context.defer(|_| dawdle());
    context.run().unwrap();
}

fn the_report_may_change_the_report(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let reports = Rc::new(RefCell::new(Vec::new()));
    let (first, second) = (Rc::clone(&reports), Rc::clone(&reports));
    let mut second = Some(second);
    context.set_slow_handler(THRESHOLD, move |_| {
        first.borrow_mut().push("first");
        let second = second.take().expect("replaced at the first call");
        let context = weak.upgrade().unwrap();
        context.set_slow_handler(THRESHOLD, move |_| second.borrow_mut().push("second"));
    });
    for _ in 0..3 {
        context.defer(|_| dawdle());
    }
    context.run().unwrap();
    assert_eq!(*reports.borrow(), ["first", "second", "second"]);
}

fn a_report_that_holds_a_handle_goes_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let witness = Rc::new(());
    let held = (context.add_immediate(|_, _| ()), Rc::clone(&witness));
    context.set_slow_handler(THRESHOLD, move |_| {
        let _ = &held;
    });
    drop(context);
    assert_eq!(Rc::strong_count(&witness), 1, "the report is still there");
}

fn a_loop_in_the_report_calls_the_slow_descriptor_event(kind: BackendKind) {
    let context = common::builder(kind).nesting_allowed(true).build().unwrap();
    let (ours, _theirs) = common::readable();
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        counter.set(counter.get() + 1);
        match counter.get() {
            3 => dawdle(),
            5 => context.stop(),
            _ => {}
        }
    });
    let weak = context.downgrade();
    let counter = Rc::clone(&calls);
    let is_reported = Rc::new(Cell::new(false));
    let reported = Rc::clone(&is_reported);
    context.set_slow_handler(THRESHOLD, move |_| {
        // Any may be slow on a busy machine.
        if counter.get() == 3 {
            let context = weak.upgrade().unwrap();
            common::run_until(&context, "it is called again", || counter.get() == 4);
            reported.set(true);
        }
    });
    context.run().unwrap();
    assert_eq!(calls.get(), 5);
    assert!(is_reported.get());
}
