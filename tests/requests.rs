//! Requests: every way to end one, and who is told.

mod common;

use common::futures::{Wakes, block_on};
use common::requests::{Fault, Outcome, Pair, pair_of, text, writes};
use common::*;
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tevent::{BackendKind, Completer, Context, Request, RequestError, RequestState};

on_every_backend!(
    an_outcome_calls_back_inside_the_call_that_ends_the_request,
    every_outcome_reaches_the_callback_and_who_awaits,
    the_first_outcome_counts,
    an_outcome_may_be_delivered_by_the_loop,
    a_callback_may_be_deferred_whatever_ends_the_request,
    a_callback_that_is_set_late_is_called_by_the_loop,
    a_callback_replaces_another,
    an_outcome_goes_to_one,
    an_outcome_without_a_callback_is_taken_or_awaited,
    a_request_that_is_dropped_is_not_called_back,
    a_request_that_is_dropped_after_its_end_is_not_called_back,
    a_detached_request_calls_back,
    the_outcome_of_a_detached_request_is_dropped,
    the_last_completer_to_go_abandons_the_request,
    cancelling_tells_the_handler_which_decides,
    cancelling_is_told_once_for_each_handler,
    cancelling_without_a_handler_tells_nobody_until_there_is_one,
    cancelling_what_has_ended_does_nothing,
    dropping_a_request_tells_the_handler,
    a_deadline_tells_the_handler,
    an_end_by_the_completer_does_not_tell_the_handler,
    a_deadline_ends_the_request,
    a_deadline_can_be_moved_and_taken_away,
    a_deadline_goes_with_the_request,
    what_has_ended_takes_no_deadline,
    a_request_leaves_the_list_before_its_callback_is_called,
    who_awaits_a_request_is_woken_when_the_context_goes,
    a_detached_request_forgets_who_awaited_it,
    what_is_attached_is_dropped_before_the_callback_the_last_first,
    what_is_attached_is_dropped_however_the_request_ends,
    nothing_can_be_attached_to_what_has_ended,
    a_request_is_awaited_by_a_task,
    a_request_is_awaited_with_any_waker,
    who_awaits_a_request_with_a_callback_is_told_when_it_was_called,
    a_task_may_work_for_a_request,
    run_does_not_wait_for_a_request,
    a_callback_may_drop_everything,
    a_cancel_handler_may_drop_everything,
    a_destructor_may_end_and_drop_the_request,
    a_callback_may_drop_the_context,
    a_callback_may_run_the_loop,
    pending_requests_are_abandoned_when_the_context_goes,
    an_outcome_outlives_the_context,
    what_is_made_in_a_context_that_is_gone_is_abandoned,
    handles_outlive_the_context,
    reinitialising_abandons_without_a_call,
    a_callback_may_reinitialise,
    a_panic_of_a_callback_reaches_who_ends_the_request,
    a_panic_of_a_callback_from_the_loop_comes_through_run,
    a_panic_of_a_cancel_handler_reaches_who_cancels,
    a_panic_of_a_destructor_does_not_keep_the_callback_from_being_called,
    a_second_panic_comes_through_run,
    panics_of_an_unwanted_outcome_come_through_beside_others,
    panics_of_several_callbacks_that_are_dropped_all_come_through,
    a_panicking_handler_abandons_the_request_it_worked_for,
    dropping_a_request_while_panicking_tells_its_handler,
    a_panic_of_a_handler_that_is_told_while_panicking_comes_through_run,
    nothing_is_left_when_a_request_has_ended,
    a_slow_callback_is_reported_by_where_its_request_was_made,
    requests_say_what_they_are_in_debug_output,
);

/// A cancel handler that writes `entry`, and does no more.
fn told(log: &Log, entry: &str) -> impl FnOnce(&Context, &Completer<i32, Fault>) + use<> {
    let (log, entry) = (log.clone(), entry.to_owned());
    move |_, _| log.add(entry)
}

fn an_outcome_calls_back_inside_the_call_that_ends_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    assert!(request.on_complete(writes(&log)));
    assert_eq!(log.take(), "", "not before the end");
    assert!(completer.done(42));
    assert_eq!(log.take(), "42");
    assert_eq!(settle(&context), 0, "nothing is left for the loop");
}

fn every_outcome_reaches_the_callback_and_who_awaits(kind: BackendKind) {
    let context = context(kind);
    type End = fn(&Context, &Request<i32, Fault>, Completer<i32, Fault>);
    let ends: [(&str, RequestState, End); 7] = [
        ("1", RequestState::Done, |_, _, completer| {
            assert!(completer.done(1));
        }),
        ("failed:no", RequestState::Failed, |_, _, completer| {
            assert!(completer.fail("no"));
        }),
        ("2", RequestState::Done, |_, _, completer| {
            assert!(completer.finish(Ok::<_, Fault>(2)));
        }),
        ("failed:so", RequestState::Failed, |_, _, completer| {
            assert!(completer.finish(Err(RequestError::Failed("so"))));
        }),
        ("cancelled", RequestState::Cancelled, |_, _, completer| {
            assert!(completer.cancelled());
        }),
        ("abandoned", RequestState::Abandoned, |_, _, completer| {
            drop(completer);
        }),
        (
            "timed-out",
            RequestState::TimedOut,
            |context, request, completer| {
                request.set_deadline(context.now());
                run_until(context, "the deadline", || !completer.is_wanted());
            },
        ),
    ];
    for (expected, state, end) in ends {
        let log = Log::new();
        let (request, completer) = pair_of(&context);
        request.on_complete(writes(&log));
        end(&context, &request, completer);
        settle(&context);
        assert_eq!(log.take(), expected, "the callback");
        assert_eq!(request.state(), state);

        let (request, completer) = pair_of(&context);
        end(&context, &request, completer);
        assert_eq!(request.state(), state);
        assert_eq!(
            text(&block_on(&context, expected, request)),
            expected,
            "who awaits"
        );
    }
}

fn the_first_outcome_counts(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let other = completer.clone();
    request.on_complete(writes(&log));
    assert!(completer.fail("first"));
    assert!(!other.done(1));
    assert!(!other.fail("later"));
    assert!(!other.finish(Ok::<_, Fault>(1)));
    assert!(!other.finish_later(Ok::<_, Fault>(1)));
    assert!(!other.cancelled());
    assert!(!request.set_deadline(context.now()));
    drop((completer, other));
    settle(&context);
    assert_eq!(log.take(), "failed:first");
}

fn an_outcome_may_be_delivered_by_the_loop(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    context.defer(log.once("before"));
    assert!(completer.finish_later(Ok::<_, Fault>(42)));
    context.defer(log.once("after"));
    assert!(!request.state().is_pending(), "it has ended");
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "before 42 after", "in order with immediates");
}

fn a_callback_may_be_deferred_whatever_ends_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.defer_callback();
    request.on_complete(writes(&log));
    completer.done(1);
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "1");

    let (request, completer) = pair_of(&context);
    completer.defer_callback();
    request.on_complete(writes(&log));
    completer.set_deadline(context.now());
    context.defer(log.once("immediate"));
    while request.state().is_pending() {
        turn(&context);
    }
    assert_eq!(log.take(), "immediate", "the timer has only ended it");
    settle(&context);
    assert_eq!(log.take(), "timed-out");
}

fn a_callback_that_is_set_late_is_called_by_the_loop(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.done(42);
    assert!(request.on_complete(writes(&log)));
    assert_eq!(log.take(), "", "not in the call that sets it");
    settle(&context);
    assert_eq!(log.take(), "42");
}

fn a_callback_replaces_another(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let dropped = log.on_drop("dropped");
    request.on_complete(move |_, _| {
        dropped.keep();
        unreachable!("it was replaced");
    });
    request.on_complete(writes(&log));
    assert_eq!(log.take(), "dropped");
    completer.done(42);
    assert_eq!(log.take(), "42");
    assert!(
        !request.on_complete(writes(&log)),
        "the outcome has gone to the other"
    );
    settle(&context);
    assert_eq!(log.take(), "");
}

fn an_outcome_goes_to_one(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.done(42);
    assert_eq!(request.try_take(), Some(Ok(42)));
    assert_eq!(request.try_take(), None);
    assert!(!request.on_complete(writes(&log)));
    assert_eq!(request.state(), RequestState::Done, "how it has ended");
    let again = block_on(&context, "it has ended", request);
    assert_eq!(again, Err(RequestError::Abandoned));

    // One that waits for its callback isn't to be taken.
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    completer.finish_later(Ok::<_, Fault>(42));
    assert_eq!(request.try_take(), None);
    settle(&context);
    assert_eq!(log.take(), "42");
}

fn an_outcome_without_a_callback_is_taken_or_awaited(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    assert_eq!(request.try_take(), None, "there is none yet");
    completer.finish_later(Ok::<_, Fault>(42));
    assert_eq!(request.try_take(), Some(Ok(42)), "the loop isn't needed");
}

fn a_request_that_is_dropped_is_not_called_back(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let dropped = log.on_drop("dropped");
    request.on_complete(move |_, _| {
        dropped.keep();
        unreachable!("nobody wants it");
    });
    assert!(completer.is_wanted());
    drop(request);
    assert_eq!(log.take(), "dropped", "the callback");
    assert!(!completer.is_wanted());
    assert!(!completer.done(42));
    assert_eq!(settle(&context), 0);
}

fn a_request_that_is_dropped_after_its_end_is_not_called_back(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    completer.finish_later(Ok::<_, Fault>(42));
    drop(request);
    assert_eq!(settle(&context), 0);
    assert_eq!(log.take(), "");
}

fn a_detached_request_calls_back(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    request.detach();
    assert!(completer.is_wanted());
    completer.done(42);
    assert_eq!(log.take(), "42");

    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    completer.finish_later(Ok::<_, Fault>(43));
    request.detach();
    drop(completer);
    settle(&context);
    assert_eq!(log.take(), "43");

    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    request.detach();
    drop(completer);
    settle(&context);
    assert_eq!(log.take(), "abandoned", "nobody but the loop has it");
}

fn the_outcome_of_a_detached_request_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = context.request::<_, ()>("test");
    request.detach();
    assert!(completer.done(log.on_drop("before")));
    assert_eq!(log.take(), "before");
    let (request, completer) = context.request::<_, ()>("test");
    completer.done(log.on_drop("after"));
    assert_eq!(log.take(), "", "it is there to be taken");
    request.detach();
    assert_eq!(log.take(), "after");
    assert!(context.requests().is_empty());
}

fn the_last_completer_to_go_abandons_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    let other = completer.clone();
    drop(completer);
    assert!(request.state().is_pending());
    drop(other);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(log.take(), "", "never in a destructor");
    settle(&context);
    assert_eq!(log.take(), "abandoned");
}

fn cancelling_tells_the_handler_which_decides(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    type Answer = fn(&Completer<i32, Fault>);
    let answers: [(&str, Answer); 3] = [
        ("asked cancelled", |completer| {
            assert!(completer.is_cancelling() && completer.is_wanted());
            assert!(completer.cancelled());
        }),
        ("asked 7", |completer| assert!(completer.done(7))),
        ("asked", |_| ()),
    ];
    for (expected, answer) in answers {
        let (request, completer) = pair_of(&context);
        request.on_complete(writes(&log));
        let inner = log.clone();
        assert!(completer.on_cancel(move |_, completer| {
            inner.add("asked");
            answer(completer);
        }));
        assert!(request.cancel(), "somebody was told");
        assert_eq!(log.take(), expected, "inside the call");
    }
}

fn cancelling_is_told_once_for_each_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.on_cancel(told(&log, "replaced"));
    let inner = log.clone();
    completer.on_cancel(move |_, completer| {
        inner.add("first");
        completer.on_cancel(told(&inner, "second"));
    });
    assert!(request.cancel());
    settle(&context);
    assert_eq!(log.take(), "first", "the new one is for the next time");
    assert_eq!(request.state(), RequestState::Cancelling);
    assert!(request.cancel());
    assert_eq!(log.take(), "second");
    assert!(!request.cancel(), "nobody is left to be told");
    drop(request);
    assert_eq!(log.take(), "");
}

fn cancelling_without_a_handler_tells_nobody_until_there_is_one(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    assert!(!completer.is_cancelling());
    assert!(!request.cancel());
    assert!(completer.is_cancelling(), "who looks sees it");
    completer.on_cancel(told(&log, "told"));
    assert_eq!(log.take(), "", "not in the call that sets it");
    settle(&context);
    assert_eq!(log.take(), "told");

    let (request, completer) = pair_of(&context);
    request.cancel();
    completer.on_cancel(told(&log, "told"));
    completer.done(1);
    settle(&context);
    assert_eq!(log.take(), "", "it has ended before");
}

fn cancelling_what_has_ended_does_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.on_cancel(told(&log, "told"));
    completer.done(1);
    assert!(!request.cancel());
    assert!(!completer.is_cancelling());
    assert_eq!(request.state(), RequestState::Done);
    assert!(!completer.on_cancel(told(&log, "told")));
    settle(&context);
    assert_eq!(log.take(), "");
}

fn dropping_a_request_tells_the_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let inner = log.clone();
    completer.on_cancel(move |_, completer| {
        inner.add("told");
        assert!(!completer.is_wanted() && !completer.is_cancelling());
        assert!(!completer.cancelled(), "it is over anyway");
    });
    drop(request);
    assert_eq!(log.take(), "told");
}

fn a_deadline_tells_the_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    completer.on_cancel(told(&log, "told"));
    request.set_deadline(context.now());
    run_until(&context, "the deadline", || !completer.is_wanted());
    assert_eq!(log.take(), "told timed-out", "first the one who works");
}

fn an_end_by_the_completer_does_not_tell_the_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let ends: [fn(Completer<i32, Fault>); 3] = [
        |completer| _ = completer.done(1),
        |completer| _ = completer.cancelled(),
        drop,
    ];
    for end in ends {
        let (request, completer) = pair_of(&context);
        let dropped = log.on_drop("dropped");
        completer.on_cancel(move |_, _| {
            dropped.keep();
            unreachable!("the one who works knows");
        });
        end(completer);
        assert_eq!(log.take(), "dropped");
        drop(request);
    }
}

fn a_deadline_ends_the_request(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    let delay = Duration::from_millis(5);
    let deadline = context.now() + delay;
    assert!(completer.set_timeout(delay));
    let outcome = block_on(&context, "the deadline", request);
    assert_eq!(outcome, Err(RequestError::TimedOut));
    assert!(context.now() >= deadline, "not before");
    assert!(!completer.done(1));
}

fn a_deadline_can_be_moved_and_taken_away(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    assert!(request.set_timeout(2 * GUARD));
    assert!(completer.set_deadline(context.now()));
    run_until(&context, "the earlier deadline", || !completer.is_wanted());

    let (request, completer) = pair_of(&context);
    request.set_deadline(context.now());
    request.set_deadline(context.now() + 2 * GUARD);
    settle(&context);
    assert!(completer.is_wanted(), "the later deadline");
    completer.clear_deadline();
    context.run().expect("nothing to wait for");
    request.set_deadline(context.now());
    request.clear_deadline();
    context.run().expect("nothing to wait for");
    assert!(completer.is_wanted());
}

fn a_deadline_goes_with_the_request(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    request.set_timeout(2 * GUARD);
    completer.done(1);
    context.run().expect("nothing to wait for");
    let (request, _completer) = pair_of(&context);
    request.set_timeout(2 * GUARD);
    drop(request);
    context.run().expect("nothing to wait for");
}

fn what_has_ended_takes_no_deadline(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    completer.done(1);
    assert!(!request.set_timeout(2 * GUARD));
    assert!(!completer.set_timeout(2 * GUARD));
    context.run().expect("nothing to wait for");
    assert_eq!(request.tree().entries()[0].time_left, None);
}

fn a_request_leaves_the_list_before_its_callback_is_called(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for from_loop in [false, true] {
        let (request, completer) = pair_of(&context);
        let inner = log.clone();
        request.on_complete(move |context, _| {
            inner.add("called");
            assert!(context.requests().is_empty());
        });
        match from_loop {
            true => completer.finish_later(Ok::<_, Fault>(1)),
            false => completer.done(1),
        };
        assert_eq!(context.requests().is_empty(), !from_loop);
        settle(&context);
        assert_eq!(log.take(), "called");
    }
}

fn what_is_attached_is_dropped_before_the_callback_the_last_first(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    assert!(completer.attach(log.on_drop("a")));
    assert!(request.attach(log.on_drop("b")));
    completer.done(42);
    assert_eq!(log.take(), "b a 42");
}

fn what_is_attached_is_dropped_however_the_request_ends(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.attach(log.on_drop("dropped"));
    drop(request);
    assert_eq!(log.take(), "dropped");
    drop(completer);

    let (request, completer) = pair_of(&context);
    request.attach(log.on_drop("dropped"));
    drop(completer);
    assert_eq!(log.take(), "dropped");
    drop(request);

    let (request, _completer) = pair_of(&context);
    request.attach(log.on_drop("dropped"));
    request.set_deadline(context.now());
    settle(&context);
    assert_eq!(log.take(), "dropped");
}

fn nothing_can_be_attached_to_what_has_ended(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.done(1);
    assert!(!request.attach(log.on_drop("a")));
    assert!(!completer.attach(log.on_drop("b")));
    assert_eq!(log.take(), "a b");
}

fn a_request_is_awaited_by_a_task(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    let task = context.spawn(request);
    settle(&context);
    assert!(!task.is_finished());
    completer.done(42);
    assert!(!task.is_finished(), "the loop polls it");
    assert_eq!(block_on(&context, "the task", task), Ok(Ok(42)));
}

fn a_request_is_awaited_with_any_waker(kind: BackendKind) {
    let context = context(kind);
    let wakes = Wakes::new();
    let (mut request, completer) = pair_of(&context);
    assert!(wakes.poll(Pin::new(&mut request)).is_pending());
    assert!(wakes.poll(Pin::new(&mut request)).is_pending());
    completer.done(42);
    assert_eq!(wakes.count(), 1, "woken once");
    assert_eq!(wakes.poll(Pin::new(&mut request)), Poll::Ready(Ok(42)));
    drop(request);
    assert!(!wakes.is_kept());

    // A dropped one doesn't keep it either, nor wakes it.
    let (mut request, completer) = pair_of(&context);
    assert!(wakes.poll(Pin::new(&mut request)).is_pending());
    drop(request);
    completer.done(42);
    assert_eq!(wakes.count(), 1);
    assert!(!wakes.is_kept());
}

fn who_awaits_a_request_is_woken_when_the_context_goes(kind: BackendKind) {
    type Prepare = fn(&Request<i32, Fault>, &Completer<i32, Fault>);
    let abandoned = Err(RequestError::Abandoned);
    let cases: [(Prepare, Outcome); 3] = [
        (|_, _| (), abandoned),
        (
            |request, _| _ = request.on_complete(|_, _| unreachable!()),
            abandoned,
        ),
        (
            |request, completer| {
                request.on_complete(|_, _| unreachable!());
                completer.finish_later(Ok::<_, Fault>(1));
            },
            Ok(1), // which the callback doesn't get any more
        ),
    ];
    let ends: [fn(Context); 2] = [drop, |context| context.reinitialise().unwrap()];
    for ((prepare, outcome), end) in cases
        .into_iter()
        .flat_map(|case| ends.map(|end| (case, end)))
    {
        let context = context(kind);
        let wakes = Wakes::new();
        let (mut request, completer) = pair_of(&context);
        prepare(&request, &completer);
        assert!(wakes.poll(Pin::new(&mut request)).is_pending());
        end(context);
        assert_eq!(wakes.count(), 1, "woken once");
        assert_eq!(wakes.poll(Pin::new(&mut request)), Poll::Ready(outcome));
    }
}

fn a_detached_request_forgets_who_awaited_it(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let wakes = Wakes::new();
    let (mut request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    assert!(wakes.poll(Pin::new(&mut request)).is_pending());
    request.detach();
    assert!(!wakes.is_kept());
    completer.done(42);
    assert_eq!(log.take(), "42");
    assert_eq!(wakes.count(), 0);
}

fn who_awaits_a_request_with_a_callback_is_told_when_it_was_called(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    let task = context.spawn(request);
    settle(&context);
    completer.finish_later(Ok::<_, Fault>(42));
    let outcome = block_on(&context, "the task", task);
    assert_eq!(outcome, Ok(Err(RequestError::Abandoned)));
    assert_eq!(log.take(), "42");
}

fn a_task_may_work_for_a_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let work = |fails: bool| {
        let (request, completer) = pair_of(&context);
        let (weak, dropped) = (context.downgrade(), log.on_drop("dropped"));
        let task = context.spawn(async move {
            dropped.keep();
            weak.sleep(Duration::from_millis(1)).await;
            assert!(!fails, "in the task");
            completer.done(42);
        });
        request.attach(task);
        request
    };
    let request = work(false);
    assert_eq!(block_on(&context, "the work", request), Ok(42));
    settle(&context);
    assert_eq!(log.take(), "dropped", "the task has ended itself");

    let request = work(false);
    settle(&context);
    drop(request);
    assert_eq!(log.take(), "dropped", "the task went with the request");

    let request = work(true);
    request.on_complete(writes(&log));
    assert_eq!(panic_of(|| context.run()), "in the task");
    context.run().unwrap();
    assert_eq!(log.take(), "dropped abandoned");
}

fn run_does_not_wait_for_a_request(kind: BackendKind) {
    let context = context(kind);
    let (request, _completer) = pair_of(&context);
    context.run().unwrap();
    assert!(request.state().is_pending());
}

fn a_callback_may_drop_everything(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let requests = Place::empty();
    let completers = Place::empty();
    let (theirs, ours, inner) = (requests.clone(), completers.clone(), log.clone());
    request.on_complete(move |_, outcome| {
        theirs.clear();
        ours.clear();
        inner.add(text(&outcome));
    });
    completers.put(completer.clone());
    requests.put(request);
    completer.done(42);
    assert_eq!(log.take(), "42");
    drop(completer);
    assert_eq!(settle(&context), 0);
    assert!(requests.take().is_none() && completers.take().is_none());
}

fn a_cancel_handler_may_drop_everything(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    // Asked to cancel, it drops what it can: all completers but its own.
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    let completers = Place::empty();
    let (ours, inner) = (completers.clone(), log.clone());
    completer.on_cancel(move |_, completer| {
        ours.clear();
        inner.add("told");
        assert!(completer.is_wanted(), "this one counts");
    });
    completers.put(completer);
    assert!(request.cancel());
    settle(&context);
    assert_eq!(log.take(), "told abandoned");

    // Asked by a sub-request's handler, it drops the request above.
    let (outer, outer_completer) = pair_of(&context);
    let (inner, inner_completer) = pair_of(&context);
    outer.on_complete(writes(&log));
    outer_completer.finish_with(inner);
    let outers = Place::empty();
    let (place, writer) = (outers.clone(), log.clone());
    inner_completer.on_cancel(move |_, completer| {
        place.clear();
        writer.add("told");
        assert!(!completer.is_wanted());
    });
    outers.put(outer);
    outer_completer.cancel_sub_requests();
    assert!(!outer_completer.is_wanted());
    assert_eq!(settle(&context), 0);
    assert_eq!(log.take(), "told");
}

fn a_destructor_may_end_and_drop_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    let requests = Place::empty();
    let (theirs, other, inner) = (requests.clone(), completer.clone(), log.clone());
    completer.attach(OnDrop(move || {
        inner.add("dropped");
        assert!(!other.done(2), "it has ended");
        theirs.clear();
    }));
    requests.put(request);
    assert!(completer.done(1));
    settle(&context);
    assert_eq!(log.take(), "dropped", "it was dropped before its callback");
}

fn a_callback_may_drop_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    let contexts = Place::empty();
    let (place, inner, weak) = (contexts.clone(), log.clone(), context.downgrade());
    request.on_complete(move |context, _| {
        place.clear();
        context.defer(|_| unreachable!("nobody runs it"));
        inner.add("called");
    });
    contexts.put(context);
    completer.done(42);
    assert_eq!(log.take(), "called");
    assert!(weak.upgrade().is_none(), "it has gone");
}

fn a_callback_may_run_the_loop(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let log = Log::new();
    let (first, first_completer) = pair_of(&context);
    let (second, second_completer) = pair_of(&context);
    second.on_complete(writes(&log));
    let inner = log.clone();
    first.on_complete(move |context, _| {
        second_completer.finish_later(Ok::<_, Fault>(2));
        context.run().unwrap();
        inner.add("1");
    });
    first_completer.finish_later(Ok::<_, Fault>(1));
    context.run().unwrap();
    assert_eq!(log.take(), "2 1");
}

fn pending_requests_are_abandoned_when_the_context_goes(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.on_cancel(told(&log, "told"));
    let dropped = log.on_drop("callback dropped");
    request.on_complete(move |_, _| {
        dropped.keep();
        unreachable!("there is no loop to call it");
    });
    request.attach(log.on_drop("attached"));
    let (silent, _completer) = pair_of(&context);
    drop(context);
    assert_eq!(log.take(), "attached callback dropped");
    for request in [request, silent] {
        assert_eq!(request.state(), RequestState::Abandoned);
        let outcome = futures_lite::future::block_on(request);
        assert_eq!(outcome, Err(RequestError::Abandoned));
    }
    assert!(!completer.is_wanted());
}

fn an_outcome_outlives_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.done(42);
    let (scheduled, completer) = pair_of(&context);
    scheduled.on_complete(writes(&log));
    completer.finish_later(Ok::<_, Fault>(43));
    drop(context);
    assert_eq!(request.try_take(), Some(Ok(42)));
    assert_eq!(log.take(), "", "the callback was the loop's to call");
    assert_eq!(scheduled.try_take(), Some(Ok(43)));
}

fn what_is_made_in_a_context_that_is_gone_is_abandoned(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    drop(context);
    let log = Log::new();
    let (request, completer) = weak.request::<i32, Fault>("late");
    assert!(!completer.is_wanted() && !completer.done(1));
    assert!(!request.on_complete(writes(&log)));
    assert!(!completer.on_cancel(told(&log, "told")));
    assert!(!request.set_timeout(GUARD) && !request.cancel() && !request.attach(()));
    assert_eq!(request.try_take(), Some(Err(RequestError::Abandoned)));
    drop((request, completer));
    assert_eq!(log.take(), "");
}

fn handles_outlive_the_context(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    drop(context);
    assert!(!completer.done(1) && !completer.clone().cancelled());
    assert!(!request.cancel() && !completer.cancel_sub_requests());
    assert!(!request.set_timeout(GUARD));
    request.clear_deadline();
    completer.defer_callback();
    assert!(!request.on_complete(|_, _| ()));
    assert_eq!(request.tree().entries().len(), 1);
    request.detach();
    drop(completer);
}

fn reinitialising_abandons_without_a_call(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    // Completers in every table, so that some are dropped before the requests' own events.
    let mut requests = Vec::new();
    for _ in 0..3 {
        let (request, completer) = pair_of(&context);
        request.on_complete(writes(&log));
        completer.on_cancel(told(&log, "told"));
        request.set_timeout(GUARD);
        requests.push((request, completer));
    }
    let mut completers = requests.iter().map(|(_, completer)| completer.clone());
    let (in_timer, in_fd, _kept) = (completers.next(), completers.next(), completers.next());
    context
        .add_timer_after(GUARD, move |_, _| drop(in_timer.clone()))
        .detach();
    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, READ, move |_, _, _| drop(in_fd.clone()));
    fd.unwrap().detach();
    let requests: Vec<_> = requests.into_iter().map(|(request, _)| request).collect();
    let (finished, completer) = pair_of(&context);
    completer.done(42);
    context.reinitialise().unwrap();
    assert_eq!(settle(&context), 0);
    assert_eq!(log.take(), "", "nobody is called");
    for request in requests {
        assert_eq!(request.try_take(), Some(Err(RequestError::Abandoned)));
    }
    assert_eq!(finished.try_take(), Some(Ok(42)));
    assert!(context.requests().is_empty());

    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    drop(completer);
    settle(&context);
    assert_eq!(log.take(), "abandoned", "the next one is called");
}

fn a_callback_may_reinitialise(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for later in [false, true] {
        let (request, completer) = pair_of(&context);
        let (other, other_completer) = pair_of(&context);
        other.on_complete(writes(&log));
        let inner = log.clone();
        request.on_complete(move |context, _| {
            context.reinitialise().unwrap();
            inner.add("called");
        });
        if later {
            completer.finish_later(Ok::<_, Fault>(1));
        } else {
            completer.done(1);
        }
        settle(&context);
        assert!(!other_completer.is_wanted());
        assert_eq!(log.take(), "called");
    }
}

fn a_panic_of_a_callback_reaches_who_ends_the_request(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    request.on_complete(|_, _| panic!("in the callback"));
    assert_eq!(panic_of(|| completer.done(1)), "in the callback");
    assert_eq!(request.state(), RequestState::Done);
    assert!(!completer.done(2));
    assert_eq!(settle(&context), 0);
    assert!(context.requests().is_empty());
}

fn a_panic_of_a_callback_from_the_loop_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    request.on_complete(|_, _| panic!("in the callback"));
    completer.finish_later(Ok::<_, Fault>(1));
    assert_eq!(panic_of(|| context.run()), "in the callback");
    context.run().unwrap();
}

fn a_panic_of_a_cancel_handler_reaches_who_cancels(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    completer.on_cancel(|_, _| panic!("in the handler"));
    assert_eq!(panic_of(|| request.cancel()), "in the handler");
    assert_eq!(request.state(), RequestState::Cancelling);
    completer.on_cancel(|_, _| panic!("in the next"));
    assert_eq!(panic_of(|| drop(request)), "in the next");
    assert!(!completer.is_wanted());
    assert!(context.requests().is_empty());
}

fn a_panic_of_a_destructor_does_not_keep_the_callback_from_being_called(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    completer.attach(log.on_drop("first"));
    completer.attach(OnDrop(|| panic!("in the destructor")));
    assert_eq!(panic_of(|| completer.done(42)), "in the destructor");
    assert_eq!(log.take(), "first 42");
}

fn a_second_panic_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    request.on_complete(|_, _| panic!("in the callback"));
    completer.attach(OnDrop(|| panic!("in the destructor")));
    assert_eq!(panic_of(|| completer.done(42)), "in the destructor");
    assert_eq!(panic_of(|| context.run()), "in the callback");
    context.run().unwrap();
}

fn panics_of_an_unwanted_outcome_come_through_beside_others(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = context.request::<_, Fault>("test");
    request.detach();
    completer.attach(OnDrop(|| panic!("attached")));
    let outcome = OnDrop(|| panic!("outcome"));
    assert_eq!(panic_of(|| completer.done(outcome)), "attached");
    assert_eq!(panic_of(|| context.run()), "outcome");
    context.run().unwrap();
}

fn panics_of_several_callbacks_that_are_dropped_all_come_through(kind: BackendKind) {
    let context = context(kind);
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (request, completer) = pair_of(&context);
        let bomb = OnDrop(|| panic!("dropped"));
        request.on_complete(move |_, _| bomb.keep());
        kept.push((request, completer));
    }
    context
        .reinitialise()
        .expect("the loop tells of the panics");
    for _ in 0..3 {
        assert_eq!(panic_of(|| context.run()), "dropped");
    }
    context.run().unwrap();
}

fn a_panicking_handler_abandons_the_request_it_worked_for(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    request.on_complete(writes(&log));
    context.defer(move |_| {
        let _completer = completer;
        panic!("in the handler");
    });
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(log.take(), "", "nothing is called while it panics");
    context.run().unwrap();
    assert_eq!(log.take(), "abandoned");
}

fn dropping_a_request_while_panicking_tells_its_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (request, completer) = pair_of(&context);
    completer.on_cancel(told(&log, "told"));
    context.defer(move |_| {
        let _request = request;
        panic!("in the handler");
    });
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(log.take(), "told");
}

fn a_panic_of_a_handler_that_is_told_while_panicking_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    completer.on_cancel(|_, _| panic!("when told"));
    context.defer(move |_| {
        let _request = request;
        panic!("in the handler");
    });
    // Not an abort.
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(panic_of(|| context.run()), "when told");
    context.run().unwrap();
}

fn nothing_is_left_when_a_request_has_ended(kind: BackendKind) {
    let context = context(kind);
    type End = fn(&Context, Request<Rc<()>, Fault>, Completer<Rc<()>, Fault>);
    let ends: [End; 7] = [
        |_, _request, completer| _ = completer.done(Rc::new(())),
        |_, _request, completer| _ = completer.finish_later(Ok::<_, Fault>(Rc::new(()))),
        |_, request, _completer| drop(request),
        |_, _request, completer| drop(completer),
        |context, request, _completer| {
            request.set_deadline(context.now());
            settle(context);
        },
        |context, request, completer| {
            request.detach();
            drop(completer);
            settle(context);
        },
        |context, request, completer| {
            context.reinitialise().unwrap();
            drop((request, completer));
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let value = Rc::new(());
        let (request, completer) = context.request("test");
        let held = Rc::clone(&value);
        request.on_complete(move |_, _| drop(held));
        let held = Rc::clone(&value);
        completer.on_cancel(move |_, _| drop(held));
        completer.attach(Rc::clone(&value));
        // The way of events: the request owns what owns its completer. That would keep it from being
        // abandoned.
        if number != 3 && number != 5 {
            let (held, owned) = (Rc::clone(&value), completer.clone());
            request.attach(context.add_timer_after(GUARD, move |_, _| {
                let _ = (&held, &owned);
            }));
        }
        end(&context, request, completer);
        settle(&context);
        assert_eq!(Rc::strong_count(&value), 1, "end {number} leaks");
        assert!(
            context.requests().is_empty(),
            "end {number} leaves it listed"
        );
    }
}

fn a_slow_callback_is_reported_by_where_its_request_was_made(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_slow_handler(Duration::ZERO, move |slow| {
        inner.add(slow.location.line().to_string());
    });
    let (line, (request, completer)) = (line!(), context.request::<i32, Fault>("test"));
    request.on_complete(|_, _| ());
    completer.finish_later(Ok::<_, Fault>(1));
    context.run().unwrap();
    assert_eq!(log.take(), line.to_string());
    assert_eq!(request.location().line(), line);
}

fn requests_say_what_they_are_in_debug_output(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context);
    assert_eq!(
        format!("{request:?}"),
        "Request { name: \"test\", state: Pending, .. }"
    );
    request.cancel();
    assert_eq!(
        format!("{completer:?}"),
        "Completer { name: \"test\", state: Cancelling, .. }"
    );
}

#[test]
fn errors_say_what_they_are_and_become_io_errors() {
    type Io = RequestError<io::Error>;
    let failed = Io::Failed(io::Error::new(io::ErrorKind::NotFound, "no such share"));
    assert_eq!(failed.to_string(), "no such share");
    assert_eq!(io::Error::from(failed).kind(), io::ErrorKind::NotFound);
    for (error, kind, text) in [
        (
            Io::TimedOut,
            io::ErrorKind::TimedOut,
            "the request timed out",
        ),
        (
            Io::Cancelled,
            io::ErrorKind::Other,
            "the request was cancelled",
        ),
        (
            Io::Abandoned,
            io::ErrorKind::Other,
            "nobody works for the request any more",
        ),
    ] {
        assert_eq!(error.to_string(), text);
        assert!(error.source().is_none());
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind, text.to_owned()));
    }
    // What is behind an error's own text comes next.
    #[derive(Debug)]
    struct Caused(std::fmt::Error);
    impl std::fmt::Display for Caused {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("it has a cause")
        }
    }
    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let failed = RequestError::Failed(Caused(std::fmt::Error));
    assert_eq!(failed.to_string(), "it has a cause");
    assert!(
        failed
            .source()
            .is_some_and(|cause| cause.is::<std::fmt::Error>())
    );
    let from = |result: Result<(), &'static str>| -> Result<(), RequestError<&'static str>> {
        result?;
        Ok(())
    };
    assert_eq!(from(Err("no")), Err(RequestError::Failed("no")));
    let errors = [
        RequestError::Failed("no"),
        RequestError::TimedOut,
        RequestError::Cancelled,
        RequestError::Abandoned,
    ];
    let said = errors.map(|error| {
        let (is_timed_out, is_cancelled) = (error.is_timed_out(), error.is_cancelled());
        [is_timed_out, is_cancelled, error.is_abandoned()]
    });
    let expected = [
        [false, false, false],
        [true, false, false],
        [false, true, false],
        [false, false, true],
    ];
    assert_eq!(said, expected);
    let states = [
        RequestState::Pending,
        RequestState::Cancelling,
        RequestState::Done,
        RequestState::Failed,
        RequestState::TimedOut,
        RequestState::Cancelled,
        RequestState::Abandoned,
    ];
    let names = states.map(|state| state.to_string()).join(", ");
    assert_eq!(
        names,
        "pending, cancelling, done, failed, timed out, cancelled, abandoned"
    );
    let pending = states.map(RequestState::is_pending);
    assert_eq!(pending, [true, true, false, false, false, false, false]);
}

/// The destructors of thread-local values come last.
#[test]
fn a_request_may_outlive_the_tables_of_its_thread() {
    struct Late(Cell<Option<(Context, Pair)>>);

    impl Drop for Late {
        fn drop(&mut self) {
            let (context, (request, completer)) = self.0.take().expect("it was put here");
            assert!(context.requests().is_empty(), "the table is gone");
            assert_eq!(request.tree().entries().len(), 1);
            request.on_complete(|_, outcome| assert_eq!(outcome, Ok(1)));
            request.attach(OnDrop(|| ()));
            assert!(completer.done(1));
            let (request, completer) = pair_of(&context);
            completer.finish_with(pair_of(&context).0);
            drop((request, completer));
        }
    }

    thread_local! {
        static LATE: Late = const { Late(Cell::new(None)) };
    }
    let thread = std::thread::spawn(|| {
        // First, so that it is dropped last.
        LATE.with(|late| assert!(late.0.take().is_none()));
        let context = Context::new().expect("a context");
        let pair = pair_of(&context);
        LATE.with(|late| late.0.set(Some((context, pair))));
    });
    thread.join().expect("no panic");
}
