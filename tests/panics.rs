//! Handlers that panic: the panic reaches the caller of the loop, and everything goes on.

mod common;

use common::*;
use std::cell::Cell;
use std::rc::Rc;
use tevent::{BackendKind, Context, Nesting, SignalFlags, Signum};

on_every_backend!(
    a_panic_of_a_descriptor_handler_reaches_the_caller_and_the_event_still_works,
    a_panic_of_a_timer_handler_reaches_the_caller_and_the_timer_still_works,
    a_panic_of_an_immediate_reaches_the_caller_and_the_immediate_still_works,
    a_panic_of_a_deferred_closure_reaches_the_caller_and_its_closure_is_dropped,
    a_panic_of_another_threads_work_reaches_the_caller,
    a_panic_of_a_signal_handler_reaches_the_caller_and_the_event_still_works,
    a_panic_reaches_the_caller_of_each_way_to_run,
    a_panic_does_not_lose_the_rest_of_the_batch,
    a_panic_in_a_nested_loop_comes_through_both_and_the_events_still_work,
    a_panic_in_a_nested_loop_can_be_caught_by_the_outer_handler,
    a_panic_does_not_lose_a_stop_of_an_outer_loop,
    a_panic_of_the_condition_reaches_the_caller,
    a_panic_of_the_nesting_hook_leaves_the_context_usable,
    a_panic_of_a_handler_that_removed_its_event_drops_the_handler,
    a_panic_of_a_detached_timer_drops_it,
    a_panic_while_a_source_is_dropped_reaches_who_dropped_it,
);

fn a_panic_of_a_descriptor_handler_reaches_the_caller_and_the_event_still_works(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let fd = context.add_fd(ours, READ, move |_, _, _| {
        inner.add("called");
        assert_ne!(inner.len(), 1, "in the handler");
    });
    let fd = fd.unwrap();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| context.run_once()))
        .expect_err("the panic reaches the caller");
    assert!(fd.is_registered());
    assert_eq!(turns(&context, 2), 2, "the event works");
    assert_eq!(log.len(), 3);
}

/// Panics the first time, writes "called" each time.
fn first_time_panics(log: &Log) -> impl FnMut() + use<> {
    let log = log.clone();
    let first = Cell::new(true);
    move || {
        log.add("called");
        if first.replace(false) {
            panic!("in the handler");
        }
    }
}

fn a_panic_of_a_timer_handler_reaches_the_caller_and_the_timer_still_works(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut handler = first_time_panics(&log);
    let timer = context.add_timer(context.now(), move |_, _| handler());
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert!(
        timer.is_registered() && timer.deadline().is_none(),
        "it has fired"
    );
    timer.set_deadline(context.now());
    context.run().unwrap();
    assert_eq!(log.len(), 2);
}

fn a_panic_of_an_immediate_reaches_the_caller_and_the_immediate_still_works(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut handler = first_time_panics(&log);
    let immediate = context.add_immediate(move |_, _| handler());
    immediate.schedule();
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert!(
        immediate.is_registered() && !immediate.is_scheduled(),
        "it has run"
    );
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(log.len(), 2);
}

fn a_panic_of_a_deferred_closure_reaches_the_caller_and_its_closure_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let witness = log.on_drop("dropped");
    context.defer(move |_| {
        witness.keep();
        panic!("in the handler");
    });
    context.defer(log.once("next"));
    assert_eq!(panic_of(|| context.run()), "in the handler");
    context.run().unwrap();
    assert_eq!(log.take(), "dropped next");
}

fn a_panic_of_another_threads_work_reaches_the_caller(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let remote = context.remote();
    std::thread::spawn(move || remote.schedule(|_| panic!("from afar")))
        .join()
        .unwrap();
    assert_eq!(panic_of(|| context.run_once()), "from afar");
    context.defer(log.once("next"));
    context.run().unwrap();
    assert_eq!(log.take(), "next");
}

fn a_panic_of_a_signal_handler_reaches_the_caller_and_the_event_still_works(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut handler = first_time_panics(&log);
    // A number that nobody else in this process uses.
    let offset = 2 + kind as u8;
    let signum = Signum::realtime(offset).unwrap();
    let event = context
        .add_signal(signum, SignalFlags::empty(), move |_, _, _| handler())
        .unwrap();
    // SAFETY: no memory is involved, and the signal has a handler.
    let raise = || unsafe { libc::raise(signum.number()) };
    raise();
    assert_eq!(panic_of(|| context.run_once()), "in the handler");
    assert!(event.is_registered());
    raise();
    run_until(&context, "the signal event works", || log.len() == 2);
}

fn a_panic_reaches_the_caller_of_each_way_to_run(kind: BackendKind) {
    let context = context(kind);
    for run in [
        (|context| drop(context.run_once())) as fn(&Context),
        |context| drop(context.run()),
        |context| drop(context.run_until(|| false)),
    ] {
        context.defer(|_| panic!("in the handler"));
        assert_eq!(panic_of(|| run(&context)), "in the handler");
    }
    context.run().expect("the loop isn't running any more");
}

fn a_panic_does_not_lose_the_rest_of_the_batch(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = readable();
        let log = log.clone();
        let fd = context.add_fd(ours, READ, move |_, fd, _| {
            log.add("called");
            drain(fd.get_ref());
            panic!("in the handler");
        });
        kept.push((fd.unwrap(), theirs));
    }
    for _ in 0..4 {
        assert_eq!(panic_of(|| context.run_once()), "in the handler");
    }
    assert_eq!(log.len(), 4, "each was called");
    assert_eq!(settle(&context), 0);
}

/// In the handler of a descriptor event, of a timer in a loop in that, and of an immediate in a
/// loop in that.
fn nested_panic(context: &Context, log: &Log) -> impl Sized + use<> {
    let (ours, theirs) = readable();
    let inner = log.clone();
    let timer = context.add_timer_after(2 * GUARD, {
        let log = log.clone();
        move |context, _| {
            log.add("timer");
            context.defer(|_| panic!("inside"));
            context.run().unwrap();
            unreachable!("the panic comes through");
        }
    });
    let timer = Rc::new(timer);
    let armed = Rc::clone(&timer);
    let fd = context.add_fd(ours, READ, move |context, _, _| {
        inner.add("fd");
        armed.set_deadline(context.now());
        context.run().unwrap();
        unreachable!("the panic comes through");
    });
    (fd.unwrap(), timer, theirs)
}

fn a_panic_in_a_nested_loop_comes_through_both_and_the_events_still_work(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let log = Log::new();
    let hook = log.clone();
    context.set_nesting_hook(move |_: &Context, nesting| {
        if let Nesting::End(level) = nesting {
            hook.add(format!("end{level}"));
        }
    });
    let _kept = nested_panic(&context, &log);
    for _ in 0..3 {
        assert_eq!(panic_of(|| context.run()), "inside");
        assert_eq!(
            log.take(),
            "fd timer end3 end2 end1",
            "the events work, the levels are right"
        );
    }
}

fn a_panic_in_a_nested_loop_can_be_caught_by_the_outer_handler(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        context.defer(|_| panic!("inside"));
        assert_eq!(panic_of(|| context.run()), "inside");
        assert_eq!(
            turns(context, 2),
            0,
            "the event of this handler is suspended still"
        );
        inner.add("caught");
    });
    assert_eq!(turns(&context, 2), 2);
    assert_eq!(log.take(), "caught caught");
}

fn a_panic_does_not_lose_a_stop_of_an_outer_loop(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    context.defer(|context| {
        context.stop();
        context.defer(|_| panic!("inside"));
        assert_eq!(panic_of(|| context.run()), "inside");
        context.defer(|_| unreachable!("the outer loop was stopped"));
    });
    context.run().unwrap();
}

fn a_panic_of_the_condition_reaches_the_caller(kind: BackendKind) {
    let context = context(kind);
    assert_eq!(
        panic_of(|| context.run_until(|| panic!("in the condition"))),
        "in the condition"
    );
    context.run().expect("the loop isn't running any more");
}

fn a_panic_of_the_nesting_hook_leaves_the_context_usable(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for bad in [Nesting::Begin(1), Nesting::End(1)] {
        context.set_nesting_hook(move |_: &Context, nesting| {
            if nesting == bad {
                panic!("in the hook");
            }
        });
        context.defer(log.once("ran"));
        assert_eq!(panic_of(|| context.run()), "in the hook");
        context.run().expect("the loop isn't running any more");
        assert_eq!(log.take(), "ran", "{bad:?}");
    }
}

fn a_panic_of_a_handler_that_removed_its_event_drops_the_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let witness = log.on_drop("fd");
    let handler = move |_: &Context, fd: &tevent::Fd<_>, _| {
        witness.keep();
        fd.remove();
        panic!("in the handler");
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(log.take(), "fd");
    assert!(drain(&theirs), "its source is closed");
    let witness = log.on_drop("timer");
    let timer = context.add_timer(context.now(), move |_, timer| {
        witness.keep();
        timer.remove();
        panic!("in the handler");
    });
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(log.take(), "timer");
    assert!(!timer.is_registered());
}

fn a_panic_of_a_detached_timer_drops_it(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let witness = log.on_drop("dropped");
    let handler = move |_: &Context, _: &tevent::Timer| {
        witness.keep();
        panic!("in the handler");
    };
    context.add_timer(context.now(), handler).detach();
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(
        log.take(),
        "dropped",
        "it has fired, and nobody could arm it"
    );
}

fn a_panic_while_a_source_is_dropped_reaches_who_dropped_it(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let source = Source::new(ours, || panic!("in the destructor"));
    let fd = context.add_fd(source, READ, |_, _, _| ()).unwrap();
    assert_eq!(panic_of(|| drop(fd)), "in the destructor");
    assert!(drain(&theirs), "it is closed all the same");
    context.defer(log.once("next"));
    context.run().unwrap();
    assert_eq!(log.take(), "next");
}
