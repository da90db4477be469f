//! Loops inside handlers.

mod common;

use common::recording::{Call, recorded};
use common::*;
use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tevent::{BackendKind, Context};

on_every_backend!(
    a_nested_loop_is_refused_by_default,
    a_refused_nested_loop_changes_nothing,
    nesting_can_be_allowed_and_forbidden_again,
    a_nested_loop_serves_the_other_events,
    a_descriptor_event_is_suspended_while_its_handler_runs_a_loop,
    a_suspended_descriptor_event_does_not_make_the_nested_loop_spin,
    a_suspended_timer_does_not_fire_in_the_nested_loop_but_after,
    a_suspended_immediate_does_not_run_in_the_nested_loop_but_after,
    all_events_on_the_stack_are_suspended,
    another_event_on_the_same_descriptor_is_served_in_the_nested_loop,
    a_suspended_event_can_be_changed_and_removed,
    a_suspended_event_does_not_keep_a_nested_run_from_returning,
    the_nested_loop_goes_on_with_the_batch_of_the_outer,
    stop_in_a_nested_loop_ends_only_that,
    stop_in_a_nested_turn_ends_the_run_around_it,
    a_loop_in_the_condition_calls_the_event_that_was_called_last,
    a_loop_in_what_another_thread_has_scheduled_calls_the_event_that_was_called_last,
);

fn nesting(kind: BackendKind) -> Context {
    builder(kind).nesting_allowed(true).build().unwrap()
}

fn a_nested_loop_is_refused_by_default(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let refused = |context: &Context| {
        let deadlock = std::io::ErrorKind::Deadlock;
        assert_eq!(context.run_once().unwrap_err().kind(), deadlock);
        assert_eq!(context.run().unwrap_err().kind(), deadlock);
        let error = context.run_until(|| unreachable!()).unwrap_err();
        assert_eq!(error.kind(), deadlock);
    };
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        refused(context);
        inner.add("fd");
    });
    let inner = log.clone();
    let _timer = context.add_timer(context.now(), move |context, _| {
        refused(context);
        inner.add("timer");
    });
    let inner = log.clone();
    context.defer(move |context| {
        refused(context);
        inner.add("immediate");
    });
    assert_eq!(turns(&context, 3), 3);
    assert_eq!(log.take(), "immediate timer fd");
}

fn a_refused_nested_loop_changes_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        inner.add("called");
        assert!(context.run().is_err());
    });
    assert_eq!(
        turns(&context, 3),
        3,
        "the event isn't suspended, and the loop goes on"
    );
    context.defer(|context| {
        context.stop();
        assert!(context.run().is_err());
    });
    context.run().expect("the stop wasn't lost");
}

fn nesting_can_be_allowed_and_forbidden_again(kind: BackendKind) {
    let context = context(kind);
    for allowed in [true, false, true] {
        context.set_nesting_allowed(allowed);
        context.defer(move |context| {
            assert_eq!(context.run().is_ok(), allowed);
        });
        context.run().unwrap();
    }
}

fn a_nested_loop_serves_the_other_events(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |_, fd, _| {
        drain(fd.get_ref());
        inner.add("descriptor");
    });
    let inner = log.clone();
    context.defer(move |context| {
        context
            .add_timer(context.now(), inner.timer("timer"))
            .detach();
        context.defer(inner.once("immediate"));
        assert_eq!(turns(context, 3), 3);
        inner.add("returning");
    });
    settle(&context);
    assert_eq!(log.take(), "immediate timer descriptor returning");
}

fn a_descriptor_event_is_suspended_while_its_handler_runs_a_loop(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let fd = context.add_fd(ours, READ, move |context, fd, _| {
        inner.add("begin");
        assert_eq!(
            turns(context, 4),
            0,
            "its own event isn't called, though readable"
        );
        assert_eq!(fd.flags(), READ, "its flags are as they were");
        inner.add("end");
    });
    assert_eq!(
        turns(&context, 2),
        2,
        "it is armed again when its handler has returned"
    );
    assert_eq!(log.take(), "begin end begin end");
    drop(fd);
}

fn a_suspended_descriptor_event_does_not_make_the_nested_loop_spin(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let theirs = Cell::new(Some(theirs));
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        assert_no_spin(context, "the event is suspended, though readable");
        drop(theirs.take());
        assert_no_spin(context, "the event is suspended, though hung up");
        inner.add("called");
    });
    assert!(turn(&context));
    assert_eq!(log.take(), "called");
}

fn a_suspended_timer_does_not_fire_in_the_nested_loop_but_after(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    let _timer = context.add_timer(context.now(), move |context, timer| {
        inner.add("begin");
        if inner.len() == 1 {
            timer.set_deadline(context.now());
            assert_eq!(turns(context, 3), 0, "it is suspended, though due");
            assert_no_spin(context, "the timer is suspended, though due");
            context.run().expect("it doesn't count");
        }
        inner.add("end");
    });
    context.run().unwrap();
    assert_eq!(log.take(), "begin end begin end");
}

fn a_suspended_immediate_does_not_run_in_the_nested_loop_but_after(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    let immediate = context.add_immediate(move |context, immediate| {
        inner.add("begin");
        if inner.len() == 1 {
            immediate.schedule();
            context.defer(inner.once("other"));
            assert_eq!(turns(context, 3), 1, "the other runs");
            assert!(immediate.is_scheduled());
            assert_no_spin(context, "the immediate is suspended, though scheduled");
            context.run().expect("it doesn't count");
        }
        inner.add("end");
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "begin other end begin end");
}

fn all_events_on_the_stack_are_suspended(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for name in ["1", "2", "3"] {
        let (ours, theirs) = readable();
        let log = log.clone();
        let fd = context.add_fd(ours, READ, move |context, _, _| {
            log.add(format!("begin {name}"));
            turns(context, 4);
            log.add(format!("end {name}"));
        });
        kept.push((fd.unwrap(), theirs));
    }
    assert!(turn(&context));
    for entry in ["begin 1", "begin 2", "begin 3", "end 1", "end 2", "end 3"] {
        assert!(log.count(entry) >= 1, "each runs: {log:?}");
    }
    let entries = log.take();
    // Whoever has begun isn't begun again before its end.
    let mut running = Vec::new();
    let words: Vec<&str> = entries.split(' ').collect();
    for word in words.chunks(2) {
        if word[0] == "begin" {
            assert!(
                !running.contains(&word[1]),
                "{} was called in itself: {entries}",
                word[1]
            );
            running.push(word[1]);
        } else {
            assert_eq!(running.pop(), Some(word[1]));
        }
    }
}

fn another_event_on_the_same_descriptor_is_served_in_the_nested_loop(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let inner = log.clone();
    let _outer = context.add_fd(Rc::clone(&ours), READ, move |context, _, _| {
        inner.add("outer");
        assert_eq!(turns(context, 2), 2, "the sibling is served");
    });
    let _sibling = context.add_fd(ours, READ, log.fd("sibling"));
    assert!(turn(&context));
    assert_eq!(log.take(), "outer sibling sibling");
}

fn a_suspended_event_can_be_changed_and_removed(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let fd = context.add_fd(ours, READ, move |context, fd, _| {
        inner.add("called");
        turns(context, 2);
        fd.set_flags(READ | WRITE);
        assert_eq!(turns(context, 2), 0, "it stays suspended");
        fd.set_flags(NOTHING);
        turns(context, 2);
        if inner.len() == 2 {
            fd.remove();
            assert_eq!(turns(context, 2), 0);
        }
    });
    let fd = fd.unwrap();
    assert_eq!(turns(&context, 3), 1, "its flags were cleared");
    fd.set_flags(READ);
    assert_eq!(turns(&context, 3), 1, "then it removed itself");
    assert!(!fd.is_registered());
    context.run().expect("nothing is left");
}

fn a_suspended_event_does_not_keep_a_nested_run_from_returning(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        context.run().expect("nothing else is left to wait for");
        inner.add("returned");
    });
    assert!(turn(&context));
    assert_eq!(log.take(), "returned");
}

fn the_nested_loop_goes_on_with_the_batch_of_the_outer(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let (ours, theirs) = readable();
        let log = log.clone();
        let fd = context.add_fd(ours, READ, move |context, fd, _| {
            log.add("begin");
            drain(fd.get_ref());
            turn(context);
            log.add("end");
        });
        kept.push((fd.unwrap(), theirs, name));
    }
    settle(&context);
    assert_eq!(
        log.take(),
        "begin begin begin begin end end end end",
        "each is called once"
    );
}

fn stop_in_a_nested_loop_ends_only_that(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        context.defer(|context| context.stop());
        context.defer(inner.once("left to the outer loop"));
        context.run().unwrap();
        inner.add("inner returned");
    });
    context.run().unwrap();
    assert_eq!(log.take(), "inner returned left to the outer loop");
    let inner = log.clone();
    context.defer(move |context| {
        context.stop();
        context.defer(inner.once("ran inside"));
        context.run().unwrap();
        context.defer(inner.once("never"));
    });
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "ran inside",
        "the outer's stop isn't the inner's, nor is it lost"
    );
}

fn stop_in_a_nested_turn_ends_the_run_around_it(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    context.defer(|context| {
        context.defer(|context| context.stop());
        context.run_once().unwrap();
    });
    context.defer(log.once("second"));
    context.defer(log.once("third"));
    context.run().unwrap();
    // The nested turn ran "second", as the stop was scheduled behind it.
    assert_eq!(log.take(), "second third");
}

#[test]
fn a_suspended_event_is_out_of_the_backends_set_and_in_it_again_afterwards() {
    let (context, recorder) = recorded();
    context.set_nesting_allowed(true);
    let (ours, _theirs) = readable();
    let number = ours.as_raw_fd();
    let inside = Rc::clone(&recorder);
    let first = Cell::new(true);
    let _fd = context.add_fd(ours, READ, move |context, _, _| {
        if first.replace(false) {
            inside.take();
            turns(context, 2);
            assert_eq!(inside.take_changes(), [Call::Remove(number)]);
        }
    });
    assert!(turn(&context));
    assert_eq!(recorder.take(), [], "the next wait is early enough");
    assert!(turn(&context), "it is called again");
    assert_eq!(recorder.take_changes(), [Call::Add(number, READ)]);
}

#[test]
fn a_handler_that_runs_no_loop_is_not_suspended_in_the_backend() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |_, _, _| ());
    recorder.take();
    assert_eq!(turns(&context, 5), 5);
    assert_eq!(recorder.take_changes(), []);
}

fn a_loop_in_the_condition_calls_the_event_that_was_called_last(kind: BackendKind) {
    for with_immediate in [false, true] {
        let context = nesting(kind);
        let calls = Rc::new(Cell::new(0));
        let counter = Rc::clone(&calls);
        let (ours, _theirs) = readable();
        let _fd = context.add_fd(ours, READ, move |context, _, _| {
            counter.set(counter.get() + 1);
            if with_immediate {
                context.defer(|_| ());
            }
        });
        let finished = context.run_until(|| {
            if calls.get() < 3 {
                return false;
            }
            run_until(&context, "it is called again", || calls.get() == 4);
            true
        });
        finished.unwrap();
    }
}

fn a_loop_in_what_another_thread_has_scheduled_calls_the_event_that_was_called_last(
    kind: BackendKind,
) {
    let context = nesting(kind);
    let remote = context.remote();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, move |_, _, _| {
        // As if it came while this is running.
        if counter.fetch_add(1, Relaxed) == 2 {
            let calls = Arc::clone(&counter);
            let nested = move |context: &Context| {
                run_until(context, "it is called again", || calls.load(Relaxed) == 4);
                context.stop();
            };
            assert!(remote.schedule(nested));
        }
    });
    context.run().unwrap();
    assert_eq!(calls.load(Relaxed), 4);
}
