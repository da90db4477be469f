//! Requests with sub-requests: composition, cancellation down the tree, and the tree in print.

mod common;

use common::futures::block_on;
use common::requests::{Fault, Pair, text, writes};
use common::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Completer, Context, Request, RequestError, RequestState};

on_every_backend!(
    a_sub_requests_outcome_comes_with_the_completer_of_the_request,
    a_request_goes_on_step_by_step,
    a_request_waits_for_several_at_a_time,
    a_sub_request_that_has_ended_already_is_told_by_the_loop,
    a_callback_that_forgets_the_request_abandons_it,
    a_panicking_callback_abandons_the_request,
    the_errors_of_a_sub_request_become_those_of_the_request,
    the_end_of_a_request_drops_its_sub_requests,
    dropping_a_request_tells_the_whole_tree_from_the_top,
    a_deadline_drops_the_sub_requests,
    cancelling_goes_down_to_who_can_be_told,
    a_handler_decides_what_becomes_of_the_sub_requests,
    a_sub_request_that_comes_after_cancelling_is_asked,
    a_handler_that_comes_after_the_sub_requests_were_asked_is_told,
    what_has_ended_takes_no_sub_requests,
    a_request_whose_outcome_was_taken_is_no_sub_request,
    no_request_is_below_itself,
    a_callback_may_drop_the_whole_tree,
    a_tree_goes_with_the_context,
    panics_of_several_handlers_all_come_through,
    nothing_of_a_tree_is_left,
    callbacks_inside_each_other_are_called_by_the_loop_beyond_64,
    callbacks_one_after_the_other_are_called_at_once,
    the_tree_shows_what_is_waited_for,
    the_tree_shows_what_has_ended_but_was_not_taken,
    the_requests_of_a_context_are_its_own,
    random_trees_end_as_a_model_says,
);

#[track_caller]
fn pair_of(context: &Context, name: &'static str) -> Pair {
    context.request(name)
}

/// Writes `entry` when told, and acknowledges.
fn gives_in(log: &Log, entry: &str) -> impl FnOnce(&Context, &Completer<i32, Fault>) + use<> {
    let (log, entry) = (log.clone(), entry.to_owned());
    move |_, completer| {
        log.add(entry);
        completer.cancelled();
    }
}

fn a_sub_requests_outcome_comes_with_the_completer_of_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (outer, completer) = pair_of(&context, "outer");
    outer.on_complete(writes(&log));
    let (inner, inner_completer) = context.request::<String, ()>("inner");
    let added = completer.then(inner, |_, completer, outcome| {
        let number = outcome.expect("a number").parse();
        completer.finish(number.map_err(|_| "no number"));
    });
    assert!(added);
    drop(completer);
    settle(&context);
    assert!(outer.state().is_pending(), "the callback has a completer");
    inner_completer.done("42".to_owned());
    assert_eq!(log.take(), "42");
}

/// A request that is done after `steps` turns of a timer.
fn step(context: &Context, steps: i32) -> Request<i32, Fault> {
    let (request, completer) = context.request("step");
    let timer = context.add_timer(context.now(), move |_, _| _ = completer.done(steps));
    request.attach(timer);
    request
}

fn a_request_goes_on_step_by_step(kind: BackendKind) {
    fn next(context: &Context, completer: &Completer<i32, Fault>, left: i32, sum: i32) {
        if left == 0 {
            completer.done(sum);
            return;
        }
        completer.then(step(context, left), move |context, completer, outcome| {
            next(context, completer, left - 1, sum + outcome.unwrap());
        });
    }

    let context = context(kind);
    let (request, completer) = pair_of(&context, "sum");
    next(&context, &completer, 100, 0);
    drop(completer);
    assert_eq!(block_on(&context, "the sum", request), Ok(5050));
}

fn a_request_waits_for_several_at_a_time(kind: BackendKind) {
    let context = context(kind);
    let (request, completer) = pair_of(&context, "all");
    let results = Rc::new(RefCell::new(Vec::new()));
    for number in 1..=10 {
        let results = Rc::clone(&results);
        completer.then(step(&context, number), move |_, completer, outcome| {
            results.borrow_mut().push(outcome.unwrap());
            if results.borrow().len() == 10 {
                completer.done(results.borrow().iter().sum());
            }
        });
    }
    drop(completer);
    assert_eq!(request.tree().entries().len(), 11);
    assert_eq!(block_on(&context, "all", request), Ok(55));
}

fn a_sub_request_that_has_ended_already_is_told_by_the_loop(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (outer, completer) = pair_of(&context, "outer");
    outer.on_complete(writes(&log));
    let (inner, inner_completer) = pair_of(&context, "inner");
    inner_completer.done(42);
    assert!(completer.finish_with(inner));
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "42");
}

fn a_callback_that_forgets_the_request_abandons_it(kind: BackendKind) {
    let context = context(kind);
    let (outer, completer) = pair_of(&context, "outer");
    let (inner, inner_completer) = pair_of(&context, "inner");
    completer.then(inner, |_, _, _| ());
    drop(completer);
    inner_completer.done(42);
    assert_eq!(outer.state(), RequestState::Abandoned);
}

fn a_panicking_callback_abandons_the_request(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (outer, completer) = pair_of(&context, "outer");
    outer.on_complete(writes(&log));
    let (inner, inner_completer) = pair_of(&context, "inner");
    completer.then(inner, |_, _, _| panic!("in the callback"));
    drop(completer);
    assert_eq!(panic_of(|| inner_completer.done(42)), "in the callback");
    settle(&context);
    assert_eq!(log.take(), "abandoned");
}

fn the_errors_of_a_sub_request_become_those_of_the_request(kind: BackendKind) {
    let context = context(kind);
    for error in [
        RequestError::Failed("no"),
        RequestError::TimedOut,
        RequestError::Cancelled,
        RequestError::Abandoned,
    ] {
        let (outer, completer) = pair_of(&context, "outer");
        let (inner, inner_completer) = pair_of(&context, "inner");
        completer.finish_with(inner);
        inner_completer.finish(Err(error));
        assert_eq!(outer.try_take(), Some(Err(error)));

        let (outer, completer) = context.request::<i32, usize>("outer");
        let (inner, inner_completer) = pair_of(&context, "inner");
        completer.then(inner, |_, completer, outcome| {
            completer.finish(outcome.map_err(|error| error.map(str::len)));
        });
        inner_completer.finish(Err(error));
        assert_eq!(outer.try_take(), Some(Err(error.map(str::len))));
    }
}

/// A request with two below it, and one below the first of them, whose handlers write their names.
/// Returns the request and all completers.
fn family(context: &Context, log: &Log) -> (Request<i32, Fault>, Vec<Completer<i32, Fault>>) {
    let mut completers = Vec::new();
    let mut requests: Vec<_> = ["top", "a", "aa", "b"]
        .into_iter()
        .map(|name| {
            let (request, completer) = pair_of(context, name);
            let inner = log.clone();
            completer.on_cancel(move |_, _| inner.add(name));
            completer.attach(log.on_drop(&format!("~{name}")));
            completers.push(completer);
            request
        })
        .collect();
    let mut take = |at: usize| requests.remove(at);
    let (b, aa, a) = (take(3), take(2), take(1));
    completers[0].finish_with(a);
    completers[1].finish_with(aa);
    completers[0].finish_with(b);
    (take(0), completers)
}

fn the_end_of_a_request_drops_its_sub_requests(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completers) = family(&context, &log);
    top.on_complete(writes(&log));
    completers[0].done(1);
    assert_eq!(
        log.take(),
        "~top a ~a aa ~aa b ~b 1",
        "those below are told, and gone before the callback"
    );
    assert!(!completers.iter().any(Completer::is_wanted));
    assert_eq!(settle(&context), 0);

    // The first below that ends, ends it here, and with it the other.
    let (top, completers) = family(&context, &log);
    top.on_complete(writes(&log));
    completers[3].done(2);
    assert_eq!(log.take(), "~b ~top a ~a aa ~aa 2");
}

fn dropping_a_request_tells_the_whole_tree_from_the_top(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completers) = family(&context, &log);
    top.on_complete(writes(&log));
    drop(top);
    assert_eq!(log.take(), "top ~top a ~a aa ~aa b ~b");
    assert!(!completers.iter().any(Completer::is_wanted));
    assert!(context.requests().is_empty());
    assert_eq!(settle(&context), 0);
}

fn a_deadline_drops_the_sub_requests(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completers) = family(&context, &log);
    top.on_complete(writes(&log));
    completers[1].set_timeout(2 * GUARD);
    top.set_deadline(context.now());
    run_until(&context, "the deadline", || !completers[0].is_wanted());
    assert_eq!(log.take(), "top ~top a ~a aa ~aa b ~b timed-out");
    context.run().expect("the deadline below is gone too");
}

fn cancelling_goes_down_to_who_can_be_told(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, top_completer) = pair_of(&context, "top");
    let (left, left_completer) = pair_of(&context, "left");
    let (right, right_completer) = pair_of(&context, "right");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    top.on_complete(writes(&log));
    top_completer.finish_with(left);
    top_completer.then(right, |_, _, _| ());
    left_completer.finish_with(leaf);
    assert!(!top.cancel(), "nobody could be told");
    assert!(leaf_completer.is_cancelling() && right_completer.is_cancelling());

    leaf_completer.on_cancel(gives_in(&log, "leaf"));
    right_completer.on_cancel(gives_in(&log, "right"));
    settle(&context);
    assert_eq!(
        log.take(),
        "leaf right cancelled",
        "those that come are told, and it goes up"
    );

    let (top, top_completer) = pair_of(&context, "top");
    let (left, left_completer) = pair_of(&context, "left");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    top.on_complete(writes(&log));
    top_completer.finish_with(left);
    left_completer.finish_with(leaf);
    leaf_completer.on_cancel(gives_in(&log, "leaf"));
    assert!(top.cancel());
    assert_eq!(log.take(), "leaf cancelled", "inside the call");
}

fn a_handler_decides_what_becomes_of_the_sub_requests(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for forwards in [false, true] {
        let (top, top_completer) = pair_of(&context, "top");
        let (leaf, leaf_completer) = pair_of(&context, "leaf");
        top.on_complete(writes(&log));
        top_completer.finish_with(leaf);
        leaf_completer.on_cancel(gives_in(&log, "leaf"));
        let inner = log.clone();
        top_completer.on_cancel(move |_, completer| {
            inner.add("top");
            if forwards {
                assert!(completer.cancel_sub_requests());
                assert!(!completer.cancel_sub_requests(), "they have ended");
            }
        });
        assert!(top.cancel());
        let expected = if forwards {
            "top leaf cancelled"
        } else {
            "top"
        };
        assert_eq!(log.take(), expected);
        drop(top);
        log.take();
    }
}

fn a_sub_request_that_comes_after_cancelling_is_asked(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completer) = pair_of(&context, "top");
    top.on_complete(writes(&log));
    top.cancel();
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    leaf_completer.on_cancel(gives_in(&log, "leaf"));
    completer.finish_with(leaf);
    assert_eq!(log.take(), "leaf", "no callback inside the call");
    settle(&context);
    assert_eq!(log.take(), "cancelled");

    // One that tries again whatever happens gets its turns, and is no recursion.
    fn again(context: &Context, completer: &Completer<i32, Fault>, left: i32) {
        let (leaf, leaf_completer) = context.request::<i32, Fault>("leaf");
        leaf_completer.on_cancel(|_, completer| _ = completer.cancelled());
        completer.then(leaf, move |context, completer, outcome| {
            assert_eq!(outcome, Err(RequestError::Cancelled));
            if left > 0 {
                again(context, completer, left - 1);
            }
        });
    }
    let (top, completer) = pair_of(&context, "top");
    top.cancel();
    again(&context, &completer, 10_000);
    drop(completer);
    assert!(settle(&context) >= 10_000);
    assert_eq!(top.state(), RequestState::Abandoned);
}

fn a_handler_that_comes_after_the_sub_requests_were_asked_is_told(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completer) = pair_of(&context, "top");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    let inner = log.clone();
    completer.then(leaf, move |_, completer, outcome| {
        inner.add(text(&outcome));
        completer.on_cancel(gives_in(&inner, "top"));
    });
    top.on_complete(writes(&log));
    leaf_completer.on_cancel(|_, completer| _ = completer.done(1));
    assert!(top.cancel());
    assert_eq!(log.take(), "1", "it was too late for that one");
    settle(&context);
    assert_eq!(log.take(), "top cancelled");
}

fn what_has_ended_takes_no_sub_requests(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completer) = pair_of(&context, "top");
    completer.done(1);
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    leaf_completer.on_cancel(gives_in(&log, "leaf"));
    let dropped = log.on_drop("callback");
    let added = completer.then(leaf, move |_, _, _| {
        dropped.keep();
        unreachable!("it was refused");
    });
    assert!(!added);
    assert!(!leaf_completer.is_wanted());
    let mut entries: Vec<_> = log.take().split(' ').map(str::to_owned).collect();
    entries.sort();
    assert_eq!(entries, ["callback", "leaf"]);
    drop(top);
}

fn a_request_whose_outcome_was_taken_is_no_sub_request(kind: BackendKind) {
    let context = context(kind);
    let (top, completer) = pair_of(&context, "top");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    leaf_completer.done(1);
    assert_eq!(leaf.try_take(), Some(Ok(1)));
    assert!(!completer.finish_with(leaf));
    assert_eq!(top.tree().entries().len(), 1);
    assert!(completer.is_wanted());
}

fn no_request_is_below_itself(kind: BackendKind) {
    let context = context(kind);
    let (top, completer) = pair_of(&context, "top");
    assert!(!completer.finish_with(top));
    assert!(!completer.is_wanted(), "it was dropped");

    let (top, top_completer) = pair_of(&context, "top");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    top_completer.finish_with(leaf);
    assert!(!leaf_completer.finish_with(top));
    assert!(!leaf_completer.is_wanted() && !top_completer.is_wanted());
    assert!(context.requests().is_empty());
}

fn a_callback_may_drop_the_whole_tree(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completer) = pair_of(&context, "top");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    let (sibling, sibling_completer) = pair_of(&context, "sibling");
    let tops = Place::empty();
    let (place, inner) = (tops.clone(), log.clone());
    completer.then(leaf, move |_, completer, _| {
        place.clear();
        assert!(!completer.is_wanted());
        let (late, late_completer) = late_of(completer);
        assert!(!completer.finish_with(late) && !late_completer.is_wanted());
        inner.add("called");
    });
    sibling_completer.on_cancel(gives_in(&log, "sibling"));
    completer.finish_with(sibling);
    tops.put(top);
    leaf_completer.done(1);
    assert_eq!(log.take(), "sibling called");
    assert_eq!(settle(&context), 0);

    fn late_of(_: &Completer<i32, Fault>) -> Pair {
        let context = Context::new().unwrap();
        context.request("late")
    }
}

fn a_tree_goes_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completers) = family(&context, &log);
    top.on_complete(writes(&log));
    drop(context);
    assert!(!completers.iter().any(Completer::is_wanted));
    assert_eq!(top.try_take(), Some(Err(RequestError::Abandoned)));
    let mut entries: Vec<_> = log.take().split(' ').map(str::to_owned).collect();
    entries.sort();
    assert_eq!(entries, ["~a", "~aa", "~b", "~top"], "nobody was called");
}

fn panics_of_several_handlers_all_come_through(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (top, completer) = pair_of(&context, "top");
    let mut completers = Vec::new();
    for _ in 0..3 {
        let (leaf, leaf_completer) = pair_of(&context, "leaf");
        let inner = log.clone();
        leaf_completer.on_cancel(move |_, _| {
            inner.add("told");
            panic!("when told");
        });
        completer.then(leaf, |_, _, _| ());
        completers.push(leaf_completer);
    }
    assert_eq!(panic_of(|| drop(top)), "when told");
    assert_eq!(log.take(), "told told told");
    assert!(!completers.iter().any(Completer::is_wanted));
    assert_eq!(panic_of(|| context.run()), "when told");
    assert_eq!(panic_of(|| context.run()), "when told");
    context.run().unwrap();
}

fn nothing_of_a_tree_is_left(kind: BackendKind) {
    let context = context(kind);
    type End = fn(&Context, Request<i32, Fault>, &[Completer<i32, Fault>]);
    let ends: [End; 6] = [
        |_, _top, completers| _ = completers[0].done(1),
        |_, _top, completers| _ = completers[2].done(1),
        |_, top, _| drop(top),
        |context, top, _| {
            top.set_deadline(context.now());
            settle(context);
        },
        |context, top, _| {
            context.reinitialise().unwrap();
            drop(top);
        },
        |_, top, completers| {
            top.cancel();
            top.detach();
            completers[0].cancelled();
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let value = Rc::new(());
        let (top, completers) = family(&context, &Log::new());
        for completer in &completers {
            let held = (Rc::clone(&value), completer.clone());
            completer.on_cancel(move |_, _| drop(held));
            let held = Rc::clone(&value);
            let (extra, extra_completer) = pair_of(&context, "extra");
            completer.then(extra, move |_, _, _| drop(held));
            extra_completer.attach(Rc::clone(&value));
        }
        end(&context, top, &completers);
        drop(completers);
        settle(&context);
        assert_eq!(Rc::strong_count(&value), 1, "end {number} leaks");
        assert!(
            context.requests().is_empty(),
            "end {number} leaves it listed"
        );
    }
}

/// As deep as the stack of a test thread is not.
const DEPTH: usize = 100_000;

/// A request with one below it, and so on. Returns the topmost, and the undermost's completer.
fn chain(context: &Context) -> Pair {
    let (mut top, leaf) = pair_of(context, "leaf");
    for _ in 1..DEPTH {
        let (outer, completer) = pair_of(context, "outer");
        completer.finish_with(top);
        top = outer;
    }
    (top, leaf)
}

/// The backend has no part in this.
#[test]
fn a_tree_of_any_depth_ends_and_is_dropped_cancelled_and_printed() {
    let context = Context::new().unwrap();
    let (top, leaf) = chain(&context);
    leaf.done(42);
    assert_eq!(block_on(&context, "it goes up", top), Ok(42));

    let (top, leaf) = chain(&context);
    let tree = top.tree();
    assert_eq!(tree.entries().len(), DEPTH);
    assert_eq!(tree.entries()[DEPTH - 1].depth, DEPTH - 1);
    assert_eq!(tree.to_string().lines().count(), DEPTH);
    leaf.on_cancel(|_, completer| _ = completer.cancelled());
    assert!(top.cancel());
    let outcome = block_on(&context, "it goes up", top);
    assert_eq!(outcome, Err(RequestError::Cancelled));

    let (top, leaf) = chain(&context);
    drop(top);
    assert!(!leaf.is_wanted());
    let (top, leaf) = chain(&context);
    drop(leaf);
    let outcome = block_on(&context, "it goes up", top);
    assert_eq!(outcome, Err(RequestError::Abandoned));
    let (top, leaf) = chain(&context);
    drop(context);
    assert!(!leaf.is_wanted());
    drop(top);
}

fn callbacks_inside_each_other_are_called_by_the_loop_beyond_64(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (mut top, leaf) = pair_of(&context, "leaf");
    for _ in 0..100 {
        let (outer, completer) = pair_of(&context, "outer");
        let inner = log.clone();
        completer.then(top, move |_, completer, outcome| {
            inner.add("called");
            completer.finish(outcome);
        });
        top = outer;
    }
    leaf.done(1);
    assert_eq!(log.len(), 64);
    assert_eq!(block_on(&context, "it goes up", top), Ok(1));
    assert_eq!(log.len(), 100);
}

fn callbacks_one_after_the_other_are_called_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for number in 1..=200 {
        let (request, completer) = pair_of(&context, "test");
        request.on_complete(writes(&log));
        completer.done(1);
        assert_eq!(log.len(), number);
    }
}

fn the_tree_shows_what_is_waited_for(kind: BackendKind) {
    let context = context(kind);
    let before = context.now();
    let (line, (top, completer)) = (line!(), pair_of(&context, "top"));
    let (first, first_completer) = pair_of(&context, "first");
    let (second, second_completer) = pair_of(&context, "second");
    let (below, _below) = pair_of(&context, "below");
    completer.then(first, |_, _, _| ());
    completer.then(second, |_, _, _| ());
    first_completer.finish_with(below);
    top.set_timeout(2 * GUARD);
    second_completer.set_deadline(context.now());
    first_completer.on_cancel(|_, _| ());
    let _ = first_completer.clone();
    completer.cancel_sub_requests();

    let tree = top.tree();
    let shape: Vec<_> = tree
        .entries()
        .iter()
        .map(|info| (info.depth, &*info.name, info.state))
        .collect();
    let (pending, cancelling) = (RequestState::Pending, RequestState::Cancelling);
    assert_eq!(
        shape,
        [
            (0, "top", pending),
            (1, "first", cancelling),
            (2, "below", pending),
            (1, "second", cancelling),
        ]
    );
    let info = &tree.entries()[0];
    assert_eq!(
        (info.location.file(), info.location.line()),
        (file!(), line)
    );
    assert!(info.age <= context.now() - before);
    let left = info.time_left.expect("it has a deadline");
    assert!(left <= 2 * GUARD && left > GUARD, "{left:?}");
    assert_eq!(tree.entries()[3].time_left, Some(Duration::ZERO));
    assert_eq!(tree.entries()[1].time_left, None);

    let text = tree.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("top: pending for "), "{text}");
    let place = format!(" left, made at {}:{line}:", file!());
    assert!(lines[0].contains(&place), "{text}");
    assert!(lines[1].starts_with("  first: cancelling for "), "{text}");
    assert!(lines[2].starts_with("    below: pending for "), "{text}");
    assert!(lines[3].contains(", 0.0ns left, made at "), "{text}");
    assert_eq!(context.requests().to_string().lines().count(), 4);
}

fn the_tree_shows_what_has_ended_but_was_not_taken(kind: BackendKind) {
    let context = context(kind);
    let (top, completer) = pair_of(&context, "top");
    let (leaf, leaf_completer) = pair_of(&context, "leaf");
    completer.finish_with(leaf);
    leaf_completer.finish_later(Err(RequestError::Failed("no")));
    let tree = top.tree();
    assert_eq!(tree.entries()[1].state, RequestState::Failed);
    let text = tree.to_string();
    assert!(text.contains("\n  leaf: failed, made at "), "{text}");
    settle(&context);
    assert_eq!(top.tree().entries().len(), 1, "its callback has it");
    assert_eq!(context.requests().entries().len(), 1);
    assert_eq!(top.try_take(), Some(Err(RequestError::Failed("no"))));
    assert!(context.requests().is_empty());
}

fn the_requests_of_a_context_are_its_own(kind: BackendKind) {
    let ours = context(kind);
    let theirs = context(kind);
    assert!(ours.requests().is_empty());
    assert_eq!(ours.requests().to_string(), "");
    let (first, _first) = pair_of(&ours, "first");
    let _other = pair_of(&theirs, "other");
    // A slot that is used again doesn't change the order.
    drop(pair_of(&ours, "gone"));
    let _second = pair_of(&ours, "second");
    let names = || -> Vec<String> {
        let requests = ours.requests();
        requests
            .entries()
            .iter()
            .map(|info| info.name.clone())
            .collect()
    };
    assert_eq!(names(), ["first", "second"]);
    assert!(!ours.requests().is_empty());
    drop(first);
    let _third = pair_of(&ours, "third");
    assert_eq!(names(), ["second", "third"]);
    ours.reinitialise().unwrap();
    assert!(ours.requests().is_empty());
    assert_eq!(theirs.requests().entries().len(), 1);
}

/// What the model knows of a request.
struct Known {
    parent: Option<usize>,
    is_over: bool,
    completer: Completer<i32, Fault>,
    called: Flag,
}

/// Trees are built and ended at random. Who is called and who isn't, and that nothing is left, is
/// compared with a model that walks parents.
fn random_trees_end_as_a_model_says(kind: BackendKind) {
    for seed in 0..60 {
        let mut random = Random(seed);
        let context = context(kind);
        let value = Rc::new(());
        let mut known: Vec<Known> = Vec::new();
        let mut roots: VecDeque<(usize, Request<i32, Fault>)> = VecDeque::new();
        for _ in 0..200 {
            match random.below(6) {
                0..=2 => {
                    let (request, completer) = pair_of(&context, "node");
                    completer.attach(Rc::clone(&value));
                    let called = Flag::new();
                    let alive: Vec<usize> =
                        (0..known.len()).filter(|&at| !known[at].is_over).collect();
                    let parent = match alive.len() {
                        0 => None,
                        count => Some(alive[random.below(count)]).filter(|_| random.below(4) > 0),
                    };
                    let (setter, held) = (called.clone(), Rc::clone(&value));
                    match parent {
                        Some(parent) => {
                            let above = &known[parent].completer;
                            assert!(above.then(request, move |_, _, _| {
                                setter.set();
                                drop(held);
                            }));
                        }
                        None => {
                            request.on_complete(move |_, _| {
                                setter.set();
                                drop(held);
                            });
                            roots.push_back((known.len(), request));
                        }
                    }
                    known.push(Known {
                        parent,
                        is_over: false,
                        completer,
                        called,
                    });
                }
                3 if !known.is_empty() => {
                    let at = random.below(known.len());
                    let expected = !known[at].is_over;
                    let ended = match random.below(3) {
                        0 => known[at].completer.done(1),
                        1 => known[at].completer.finish_later(Ok::<_, Fault>(1)),
                        _ => known[at].completer.cancelled(),
                    };
                    assert_eq!(ended, expected, "seed {seed}");
                    settle(&context);
                    if ended {
                        assert!(known[at].called.is_set(), "seed {seed}");
                        mark_over(&mut known, at);
                    }
                }
                4 if !roots.is_empty() => {
                    let at = random.below(roots.len());
                    let (number, request) = roots.remove(at).expect("it is there");
                    drop(request);
                    mark_over(&mut known, number);
                }
                5 if !roots.is_empty() => {
                    let at = random.below(roots.len());
                    let (number, request) = &roots[at];
                    assert!(!request.cancel(), "nobody has a handler");
                    let is_over = known[*number].is_over;
                    assert_eq!(request.state().is_pending(), !is_over);
                }
                _ => {}
            }
            let pending = known.iter().filter(|known| !known.is_over).count();
            for known in &known {
                assert_eq!(known.completer.is_wanted(), !known.is_over, "seed {seed}");
            }
            // Nothing has ended without being called or dropped.
            assert_eq!(context.requests().entries().len(), pending, "seed {seed}");
        }
        drop(roots);
        drop(known);
        settle(&context);
        assert_eq!(Rc::strong_count(&value), 1, "seed {seed}: it leaks");
        assert!(context.requests().is_empty());
    }

    fn mark_over(known: &mut [Known], at: usize) {
        known[at].is_over = true;
        for number in 0..known.len() {
            // Made after what is above it.
            if known[number]
                .parent
                .is_some_and(|parent| known[parent].is_over)
            {
                if !known[number].is_over {
                    assert!(!known[number].called.is_set());
                }
                known[number].is_over = true;
            }
        }
    }
}
