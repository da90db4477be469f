//! Queues: requests that are worked on one at a time, in order.

mod common;

use common::futures::block_on;
use common::requests::{Fault, pair_of};
use common::*;
use std::cell::RefCell;
use std::rc::Rc;
use tevent::{
    BackendKind, Completer, Context, Queue, QueueEntry, Request, RequestError, RequestState,
};

on_every_backend!(
    entries_are_triggered_in_their_order_and_one_at_a_time,
    a_trigger_is_not_called_inside_the_call_that_adds,
    the_next_entry_is_triggered_when_the_request_ends_not_when_the_trigger_returns,
    the_queue_goes_on_however_a_request_ends,
    an_entry_leaves_the_queue_when_its_request_ends_before_its_turn,
    a_trigger_that_forgets_the_request_does_not_block_the_queue,
    an_entry_that_waits_keeps_its_request_from_being_abandoned,
    an_empty_queue_that_runs_triggers_at_once_if_it_may,
    a_queue_that_is_stopped_or_not_empty_does_not_trigger_at_once,
    a_stopped_queue_lets_the_current_one_go_on,
    stopping_and_starting_do_not_add_up,
    a_stopped_queue_leaves_nothing_to_the_loop,
    starting_does_not_trigger_the_current_one_again,
    a_blocker_holds_up_the_queue_until_its_request_ends,
    an_untriggered_entry_is_triggered_again_when_the_queue_is_started,
    an_entry_can_be_untriggered_after_its_trigger_has_returned,
    only_the_first_entry_can_be_untriggered_and_only_if_it_can_be_triggered_again,
    a_repeatable_trigger_that_forgets_the_request_does_not_block_the_queue,
    a_removed_entry_is_not_triggered,
    the_next_entry_goes_to_the_end_of_the_immediates,
    the_first_entry_keeps_its_place_among_the_immediates,
    what_has_ended_is_not_queued,
    dropping_the_queue_removes_all_and_triggers_nothing,
    a_trigger_may_drop_the_queue,
    a_trigger_may_add_to_the_queue,
    a_trigger_may_run_the_loop,
    waiting_is_over_when_the_turn_comes,
    a_turn_holds_up_the_queue_until_it_is_dropped,
    waiting_can_be_given_up_at_any_time,
    waiting_can_be_a_sub_request,
    waiting_is_abandoned_with_the_queue,
    waiting_shows_in_the_tree,
    a_panicking_trigger_does_not_block_the_queue,
    a_panicking_repeatable_trigger_does_not_block_the_queue,
    panics_of_several_destructors_all_come_through,
    a_queue_outlives_its_context,
    a_queue_goes_on_after_reinitialising,
    entries_of_requests_of_another_context_leave_with_the_queues,
    nothing_of_a_queue_is_left,
    entries_have_tags_and_places,
    queues_say_what_they_are_in_debug_output,
    random_queues_do_as_a_model_says,
);

/// Adds a request whose trigger writes `name` and keeps a completer. Returns the request, the place of
/// the completer, and the entry.
struct Queued {
    request: Request<i32, Fault>,
    completer: Place<Completer<i32, Fault>>,
    entry: QueueEntry,
}

impl Queued {
    fn add(context: &Context, queue: &Queue, log: &Log, name: &str) -> Queued {
        let (request, completer) = pair_of(context);
        let (log, name, place) = (log.clone(), name.to_owned(), Place::empty());
        let inner = place.clone();
        let entry = queue.add(&completer, move |_, completer| {
            log.add(name);
            inner.put(completer.clone());
        });
        Queued {
            request,
            completer: place,
            entry,
        }
    }

    #[track_caller]
    fn done(&self) {
        let completer = self.completer.take().expect("it was triggered");
        assert!(completer.done(1));
    }
}

fn three(context: &Context, queue: &Queue, log: &Log) -> [Queued; 3] {
    ["a", "b", "c"].map(|name| Queued::add(context, queue, log, name))
}

fn entries_are_triggered_in_their_order_and_one_at_a_time(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    assert!(queue.is_empty());
    let entries = three(&context, &queue, &log);
    assert_eq!(queue.len(), 3);
    assert!(!queue.is_empty());
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        settle(&context);
        assert_eq!(log.take(), name);
        let triggered: Vec<_> = entries
            .iter()
            .map(|queued| queued.entry.is_triggered())
            .collect();
        assert_eq!(triggered.iter().position(|&is| is), Some(at));
        assert_eq!(triggered.iter().filter(|&&is| is).count(), 1);
        entries[at].done();
        assert!(!entries[at].entry.is_queued());
        assert_eq!(queue.len(), 2 - at);
    }
    assert_eq!(settle(&context), 0);
    assert!(queue.is_empty());
}

fn a_trigger_is_not_called_inside_the_call_that_adds(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    context.defer(log.once("before"));
    let _a = Queued::add(&context, &queue, &log, "a");
    context.defer(log.once("after"));
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "before a after", "in order with immediates");
}

fn the_next_entry_is_triggered_when_the_request_ends_not_when_the_trigger_returns(
    kind: BackendKind,
) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, b, _c] = three(&context, &queue, &log);
    settle(&context);
    assert_eq!(log.take(), "a", "it has returned");
    let inner = log.clone();
    a.request.on_complete(move |_, _| inner.add("over"));
    a.done();
    assert_eq!(log.take(), "over", "not inside the call either");
    settle(&context);
    assert_eq!(log.take(), "b");
    b.done();
}

fn the_queue_goes_on_however_a_request_ends(kind: BackendKind) {
    let context = context(kind);
    type End = fn(&Context, Queued);
    let ends: [End; 6] = [
        |_, a| _ = a.completer.take().expect("triggered").done(1),
        |_, a| _ = a.completer.take().expect("triggered").fail("no"),
        |_, a| {
            _ = a
                .completer
                .take()
                .expect("triggered")
                .finish_later(Ok::<_, Fault>(1))
        },
        |_, a| a.completer.clear(),
        |_, a| drop(a.request),
        |context, a| {
            a.request.set_deadline(context.now());
            run_until(context, "the deadline", || !a.request.state().is_pending());
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let (queue, log) = (context.queue("test"), Log::new());
        let a = Queued::add(&context, &queue, &log, "a");
        let _b = Queued::add(&context, &queue, &log, "b");
        settle(&context);
        end(&context, a);
        settle(&context);
        assert_eq!(log.take(), "a b", "end {number}");
        assert_eq!(queue.len(), 1);
    }
}

fn an_entry_leaves_the_queue_when_its_request_ends_before_its_turn(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, b, c] = three(&context, &queue, &log);
    drop(b.request);
    assert_eq!(queue.len(), 2);
    settle(&context);
    a.done();
    settle(&context);
    assert_eq!(log.take(), "a c");
    c.done();

    // The first one, before it was triggered.
    let [a, _b, _c] = three(&context, &queue, &log);
    drop(a.request);
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "b");
}

fn a_trigger_that_forgets_the_request_does_not_block_the_queue(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    queue.add(&completer, |_, _| ());
    drop(completer);
    let _b = Queued::add(&context, &queue, &log, "b");
    settle(&context);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(log.take(), "b");
}

fn an_entry_that_waits_keeps_its_request_from_being_abandoned(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    queue.stop();
    let a = Queued::add(&context, &queue, &log, "a");
    settle(&context);
    assert_eq!(a.request.state(), RequestState::Pending);
    a.entry.remove();
    assert_eq!(a.request.state(), RequestState::Abandoned);
}

fn an_empty_queue_that_runs_triggers_at_once_if_it_may(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("test");
    let (request, completer) = pair_of(&context);
    let entry = queue.add_optimize_empty(&completer, |_, completer| _ = completer.done(1));
    assert_eq!(request.try_take(), Some(Ok(1)));
    assert!(!entry.is_queued() && queue.is_empty());

    let (request, completer) = pair_of(&context);
    let entry = queue.add_optimize_empty(&completer, |_, _| ());
    assert!(entry.is_queued() && entry.is_triggered());
    assert!(request.state().is_pending());
    assert_eq!(settle(&context), 0, "it isn't triggered again");
    assert_eq!(queue.len(), 1);
}

fn a_queue_that_is_stopped_or_not_empty_does_not_trigger_at_once(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (_request, completer) = pair_of(&context);
    queue.stop();
    let inner = log.clone();
    let entry = queue.add_optimize_empty(&completer, move |_, completer| {
        inner.add("first");
        completer.done(1);
    });
    settle(&context);
    assert!(!entry.is_triggered());
    assert_eq!(log.take(), "");
    queue.start();
    let (_request, completer) = pair_of(&context);
    let inner = log.clone();
    queue.add_optimize_empty(&completer, move |_, completer| {
        inner.add("second");
        completer.done(2);
    });
    assert_eq!(log.take(), "");
    settle(&context);
    assert_eq!(log.take(), "first second");
}

fn a_stopped_queue_lets_the_current_one_go_on(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, b, _c] = three(&context, &queue, &log);
    assert!(queue.is_running());
    settle(&context);
    queue.stop();
    assert!(!queue.is_running());
    assert!(a.request.state().is_pending());
    a.done();
    settle(&context);
    assert_eq!(log.take(), "a", "no other is triggered");
    assert_eq!(queue.len(), 2);
    queue.start();
    assert_eq!(log.take(), "", "not inside the call");
    settle(&context);
    assert_eq!(log.take(), "b");
    b.done();
    queue.stop();
    settle(&context);
    assert_eq!(log.take(), "", "also when it was scheduled");
}

fn stopping_and_starting_do_not_add_up(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let _a = Queued::add(&context, &queue, &log, "a");
    queue.stop();
    queue.stop();
    settle(&context);
    assert_eq!(log.take(), "");
    queue.start();
    queue.start();
    settle(&context);
    assert_eq!(log.take(), "a");
}

fn a_stopped_queue_leaves_nothing_to_the_loop(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, _b, _c] = three(&context, &queue, &log);
    queue.stop();
    assert_eq!(settle(&context), 0, "the first one was scheduled");
    a.entry.remove();
    assert_eq!(settle(&context), 0, "the next one isn't");
    queue.start();
    settle(&context);
    assert_eq!(log.take(), "b");
}

fn starting_does_not_trigger_the_current_one_again(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let _a = Queued::add(&context, &queue, &log, "a");
    settle(&context);
    queue.stop();
    queue.start();
    settle(&context);
    assert_eq!(log.take(), "a");
}

fn a_blocker_holds_up_the_queue_until_its_request_ends(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    let entry = queue.add_blocker(&completer);
    let b = Queued::add(&context, &queue, &log, "b");
    settle(&context);
    assert_eq!((log.take(), queue.len()), (String::new(), 2));
    assert!(!entry.untrigger());
    completer.done(1);
    settle(&context);
    assert_eq!(log.take(), "b");
    drop(request);

    // It has no completer of its own.
    let (request, completer) = pair_of(&context);
    queue.add_blocker(&completer);
    drop(completer);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(queue.len(), 1);
    b.done();
}

/// Adds a request whose trigger untriggers it so many times, and is done then.
fn stubborn(context: &Context, queue: &Queue, log: &Log, mut left: u32) -> Request<i32, Fault> {
    let (request, completer) = pair_of(context);
    let log = log.clone();
    queue.add_repeatable(&completer, move |_, completer, entry| {
        log.add("triggered");
        if left == 0 {
            completer.done(1);
            return;
        }
        left -= 1;
        assert!(entry.untrigger());
        assert!(!entry.is_triggered() && !entry.untrigger(), "it is done");
    });
    request
}

fn an_untriggered_entry_is_triggered_again_when_the_queue_is_started(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let request = stubborn(&context, &queue, &log, 2);
    let _b = Queued::add(&context, &queue, &log, "b");
    for _ in 0..2 {
        settle(&context);
        assert_eq!(log.take(), "triggered");
        assert!(!queue.is_running(), "that has stopped the queue");
        assert!(request.state().is_pending(), "the entry has a completer");
        assert_eq!(queue.len(), 2);
        queue.start();
    }
    settle(&context);
    assert_eq!(log.take(), "triggered b");
    assert_eq!(request.try_take(), Some(Ok(1)));
}

fn an_entry_can_be_untriggered_after_its_trigger_has_returned(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    let inner = log.clone();
    let entry = queue.add_repeatable(&completer, move |_, _, _| inner.add("triggered"));
    settle(&context);
    assert!(entry.untrigger());
    assert!(!queue.is_running() && !entry.is_triggered());
    drop(completer);
    assert!(request.state().is_pending(), "the entry has a completer");
    queue.start();
    settle(&context);
    assert_eq!(log.take(), "triggered triggered");
    assert_eq!(request.state(), RequestState::Abandoned, "it has none now");
    assert!(queue.is_empty());
}

fn only_the_first_entry_can_be_untriggered_and_only_if_it_can_be_triggered_again(
    kind: BackendKind,
) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let a = Queued::add(&context, &queue, &log, "a");
    let (_request, completer) = pair_of(&context);
    let second = queue.add_repeatable(&completer, |_, _, _| ());
    assert!(
        !a.entry.untrigger() && !second.untrigger(),
        "not triggered yet"
    );
    settle(&context);
    assert!(!a.entry.untrigger(), "its trigger was for once");
    assert!(!second.untrigger(), "not the first");
    assert!(queue.is_running(), "and the queue runs on");
    a.done();
    // Nor while the trigger that is for once is called.
    let entries = Place::empty();
    let (once, once_completer) = pair_of(&context);
    let place = entries.clone();
    let entry = queue.add(&once_completer, move |_, completer| {
        assert_eq!(place.with(QueueEntry::untrigger), Some(false));
        completer.done(1);
    });
    entries.put(entry);
    settle(&context);
    assert!(second.is_triggered());
    completer.done(1);
    assert!(!second.untrigger(), "it has left");
    settle(&context);
    assert_eq!(once.try_take(), Some(Ok(1)));
    drop(queue);
    assert!(!second.untrigger() && !second.is_queued());
}

fn a_repeatable_trigger_that_forgets_the_request_does_not_block_the_queue(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    queue.add_repeatable(&completer, |_, _, _| ());
    drop(completer);
    let _b = Queued::add(&context, &queue, &log, "b");
    settle(&context);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(log.take(), "b");
}

fn a_removed_entry_is_not_triggered(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (_request, completer) = pair_of(&context);
    let dropped = log.on_drop("dropped");
    let entry = queue.add(&completer, move |_, _| {
        dropped.keep();
        unreachable!("it was removed");
    });
    let _b = Queued::add(&context, &queue, &log, "b");
    entry.remove();
    assert_eq!(log.take(), "dropped");
    assert!(completer.is_wanted(), "the request is as before");
    settle(&context);
    assert_eq!(log.take(), "b");
    entry.remove();
    assert_eq!(queue.len(), 1);
}

fn the_next_entry_goes_to_the_end_of_the_immediates(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (queue, other) = (context.queue("test"), context.queue("other"));
    let a = Queued::add(&context, &queue, &log, "a");
    let _c = Queued::add(&context, &other, &log, "c");
    let _b = Queued::add(&context, &queue, &log, "b");
    drop(a.request);
    settle(&context);
    assert_eq!(log.take(), "c b");
}

fn the_first_entry_keeps_its_place_among_the_immediates(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let _a = Queued::add(&context, &queue, &log, "a");
    context.defer(log.once("after"));
    let b = Queued::add(&context, &queue, &log, "b");
    b.entry.remove();
    queue.start();
    settle(&context);
    assert_eq!(log.take(), "a after", "whatever happens behind it");
}

fn what_has_ended_is_not_queued(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("test");
    let (_request, completer) = pair_of(&context);
    completer.done(1);
    for entry in [
        queue.add(&completer, |_, _| unreachable!()),
        queue.add_repeatable(&completer, |_, _, _| unreachable!()),
        queue.add_optimize_empty(&completer, |_, _| unreachable!()),
        queue.add_blocker(&completer),
    ] {
        assert!(!entry.is_queued() && !entry.is_triggered());
    }
    assert!(queue.is_empty());
    assert_eq!(settle(&context), 0);
}

fn dropping_the_queue_removes_all_and_triggers_nothing(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, b, c] = three(&context, &queue, &log);
    let (kept, completer) = pair_of(&context);
    queue.add(&completer, |_, _| unreachable!());
    settle(&context);
    drop(queue);
    assert_eq!(settle(&context), 0);
    assert_eq!(log.take(), "a");
    assert!(a.request.state().is_pending(), "it was being worked on");
    for request in [b.request, c.request] {
        assert_eq!(request.try_take(), Some(Err(RequestError::Abandoned)));
    }
    assert!(kept.state().is_pending(), "somebody has a completer");
    a.done();
}

fn a_trigger_may_drop_the_queue(kind: BackendKind) {
    let context = context(kind);
    for at_once in [false, true] {
        let (queues, log) = (Place::empty(), Log::new());
        let queue = context.queue("test");
        let (request, completer) = pair_of(&context);
        let (place, inner) = (queues.clone(), log.clone());
        let trigger = move |_: &Context, completer: &Completer<i32, Fault>| {
            place.clear();
            inner.add("called");
            completer.done(1);
        };
        if at_once {
            let queue = Rc::new(queue);
            queues.put(Rc::clone(&queue));
            queue.add_optimize_empty(&completer, trigger);
        } else {
            queue.add(&completer, trigger);
            let _b = Queued::add(&context, &queue, &log, "b");
            queues.put(Rc::new(queue));
            settle(&context);
        }
        assert_eq!(log.take(), "called");
        assert_eq!(request.try_take(), Some(Ok(1)));
    }
}

fn a_trigger_may_add_to_the_queue(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (Rc::new(context.queue("test")), Log::new());
    let (_request, completer) = pair_of(&context);
    let added = Rc::new(RefCell::new(Vec::new()));
    let (theirs, list, inner) = (Rc::clone(&queue), Rc::clone(&added), log.clone());
    queue.add(&completer, move |context, completer| {
        for name in ["b", "c"] {
            let queued = Queued::add(context, &theirs, &inner, name);
            list.borrow_mut().push(queued);
        }
        completer.done(1);
    });
    settle(&context);
    assert_eq!(log.take(), "b");
    added.borrow()[0].done();
    settle(&context);
    assert_eq!(log.take(), "c");
}

fn a_trigger_may_run_the_loop(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let (queue, log) = (context.queue("test"), Log::new());
    let (_request, completer) = pair_of(&context);
    let inner = log.clone();
    queue.add(&completer, move |context, completer| {
        completer.done(1);
        context.run().unwrap();
        inner.add("a");
    });
    let _b = Queued::add(&context, &queue, &log, "b");
    context.run().unwrap();
    assert_eq!(log.take(), "b a", "the next one is triggered in there");
}

fn waiting_is_over_when_the_turn_comes(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let a = Queued::add(&context, &queue, &log, "a");
    let wait = queue.wait();
    settle(&context);
    assert!(wait.state().is_pending());
    assert_eq!(queue.len(), 2);
    a.done();
    let turn = block_on(&context, "the turn comes", wait).expect("the queue is there");
    assert!(turn.entry().is_triggered() && queue.len() == 1);
}

fn a_turn_holds_up_the_queue_until_it_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (Rc::new(context.queue("test")), Log::new());
    for number in 1..=3 {
        let (queue, log) = (Rc::clone(&queue), log.clone());
        let task = context.spawn(async move {
            let turn = queue.wait().await.expect("the queue is there");
            log.add(format!("begin{number}"));
            for _ in 0..5 {
                tevent::yield_now().await;
            }
            log.add(format!("end{number}"));
            drop(turn);
        });
        task.detach();
    }
    settle(&context);
    assert_eq!(log.take(), "begin1 end1 begin2 end2 begin3 end3");
    assert!(queue.is_empty());
}

fn waiting_can_be_given_up_at_any_time(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    // Before its turn.
    let a = Queued::add(&context, &queue, &log, "a");
    let wait = queue.wait();
    drop(wait);
    assert_eq!(queue.len(), 1);
    // When it is scheduled to have it.
    let wait = queue.wait();
    settle(&context);
    a.done();
    drop(wait);
    assert!(queue.is_empty());
    // When it has it, and nobody has looked.
    let wait = queue.wait();
    settle(&context);
    assert_eq!(wait.state(), RequestState::Done);
    let _b = Queued::add(&context, &queue, &log, "b");
    drop(wait);
    settle(&context);
    assert_eq!(log.take(), "a b");
    // With a deadline.
    let wait = queue.wait();
    wait.set_deadline(context.now());
    let outcome = block_on(&context, "the deadline", wait);
    assert!(outcome.unwrap_err().is_timed_out());
    assert_eq!(queue.len(), 1);
}

fn waiting_can_be_a_sub_request(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let a = Queued::add(&context, &queue, &log, "a");
    let (request, completer) = pair_of(&context);
    let inner = log.clone();
    completer.then(queue.wait(), move |_, completer, turn| {
        inner.add("mine");
        completer.attach(turn.expect("the queue is there"));
        let owned = completer.clone();
        inner.add(format!("{}", owned.is_wanted()));
        completer.done(1);
    });
    drop(completer);
    settle(&context);
    a.done();
    assert_eq!(block_on(&context, "its turn", request), Ok(1));
    assert_eq!(log.take(), "a mine true");
    assert!(queue.is_empty(), "the turn went with the request");
}

fn waiting_is_abandoned_with_the_queue(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("test");
    queue.stop();
    let wait = queue.wait();
    settle(&context);
    drop(queue);
    assert!(
        block_on(&context, "the queue is gone", wait)
            .unwrap_err()
            .is_abandoned()
    );
}

fn waiting_shows_in_the_tree(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("writes");
    queue.stop();
    let (line, wait) = (line!(), queue.wait());
    let tree = wait.tree();
    assert_eq!(tree.entries()[0].name, "queue \"writes\"");
    assert_eq!(tree.entries()[0].location.line(), line);
}

fn a_panicking_trigger_does_not_block_the_queue(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    queue.add(&completer, |_, _| panic!("in the trigger"));
    drop(completer);
    let b = Queued::add(&context, &queue, &log, "b");
    assert_eq!(panic_of(|| context.run()), "in the trigger");
    settle(&context);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(log.take(), "b");
    b.done();

    let (request, completer) = pair_of(&context);
    let add = || queue.add_optimize_empty(&completer, |_, _| panic!("in the trigger"));
    assert_eq!(panic_of(add), "in the trigger");
    drop(completer);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert!(queue.is_empty());
}

fn a_panicking_repeatable_trigger_does_not_block_the_queue(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let (request, completer) = pair_of(&context);
    let entry = queue.add_repeatable(&completer, |_, _, _| panic!("in the trigger"));
    let _b = Queued::add(&context, &queue, &log, "b");
    assert_eq!(panic_of(|| context.run()), "in the trigger");
    assert!(request.state().is_pending(), "somebody has a completer");
    assert!(!entry.untrigger(), "the trigger is gone");
    drop(completer);
    settle(&context);
    assert_eq!(request.state(), RequestState::Abandoned);
    assert_eq!(log.take(), "b");
}

fn panics_of_several_destructors_all_come_through(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("test");
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (request, completer) = pair_of(&context);
        let bomb = OnDrop(|| panic!("dropped"));
        queue.add(&completer, move |_, _| bomb.keep());
        kept.push((request, completer));
    }
    assert_eq!(panic_of(|| drop(queue)), "dropped");
    assert_eq!(panic_of(|| context.run()), "dropped");
    assert_eq!(panic_of(|| context.run()), "dropped");
    context.run().unwrap();
}

fn a_queue_outlives_its_context(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let (queue, log) = (context.queue("test"), Log::new());
    let [a, b, _c] = three(&context, &queue, &log);
    settle(&context);
    drop(context);
    assert!(queue.is_empty(), "their requests have ended");
    assert_eq!(b.request.try_take(), Some(Err(RequestError::Abandoned)));
    assert!(!a.completer.take().expect("it was triggered").done(1));
    queue.stop();
    queue.start();
    assert!(queue.wait().try_take().expect("it has ended").is_err());
    let (_request, completer) = weak.request::<i32, Fault>("late");
    queue.add(&completer, |_, _| unreachable!());
    queue.add_optimize_empty(&completer, |_, _| unreachable!());
    assert!(queue.is_empty());
    assert_eq!(log.take(), "a");
    let late = weak.queue("late");
    late.add_blocker(&completer);
    assert!(late.is_empty());
}

fn a_queue_goes_on_after_reinitialising(kind: BackendKind) {
    let context = context(kind);
    let (queue, log) = (context.queue("test"), Log::new());
    let entries = three(&context, &queue, &log);
    let wait = queue.wait();
    settle(&context);
    context.reinitialise().unwrap();
    assert!(queue.is_empty());
    assert!(wait.try_take().expect("it has ended").is_err());
    for queued in &entries {
        assert_eq!(queued.request.state(), RequestState::Abandoned);
    }
    let _d = Queued::add(&context, &queue, &log, "d");
    settle(&context);
    assert_eq!(log.take(), "a d");
}

fn entries_of_requests_of_another_context_leave_with_the_queues(kind: BackendKind) {
    let ours = context(kind);
    let theirs = context(kind);
    let (queue, log) = (ours.queue("test"), Log::new());
    let a = Queued::add(&theirs, &queue, &log, "a");
    let b = Queued::add(&theirs, &queue, &log, "b");
    settle(&ours);
    ours.reinitialise().unwrap();
    assert_eq!(queue.len(), 1, "one is being worked on");
    assert_eq!(b.request.try_take(), Some(Err(RequestError::Abandoned)));
    a.done();
    assert!(queue.is_empty());
    assert_eq!(log.take(), "a");
}

fn nothing_of_a_queue_is_left(kind: BackendKind) {
    let context = context(kind);
    type End = fn(&Context, Queue, Vec<Request<i32, Fault>>);
    let ends: [End; 5] = [
        |context, _queue, _requests| _ = settle(context),
        |_, queue, _requests| drop(queue),
        |_, _queue, requests| drop(requests),
        |context, queue, requests| {
            queue.stop();
            settle(context);
            drop((requests, queue));
        },
        |context, _queue, _requests| context.reinitialise().unwrap(),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let value = Rc::new(());
        let queue = context.queue("test");
        let mut requests = Vec::new();
        for at in 0..9 {
            let (request, completer) = pair_of(&context);
            let held = Rc::clone(&value);
            match at % 3 {
                0 => queue.add(&completer, move |_, completer| {
                    drop(held);
                    completer.done(1);
                }),
                1 => queue.add_repeatable(&completer, move |_, completer, _| {
                    let _ = &held;
                    completer.done(1);
                }),
                _ => {
                    completer.attach(held);
                    queue.add_blocker(&completer)
                }
            };
            let wait = queue.wait();
            let held = Rc::clone(&value);
            wait.on_complete(move |_, turn| drop((turn, held)));
            wait.detach();
            requests.push(request);
        }
        end(&context, queue, requests);
        settle(&context);
        assert_eq!(Rc::strong_count(&value), 1, "end {number} leaks");
        assert!(context.requests().is_empty(), "end {number}");
    }
}

fn entries_have_tags_and_places(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("writes");
    assert_eq!(queue.name(), "writes");
    let (_request, completer) = pair_of(&context);
    let (line, entry) = (line!(), queue.add(&completer, |_, _| ()));
    assert_eq!(entry.tag(), 0);
    entry.set_tag(7);
    assert_eq!(entry.clone().tag(), 7);
    assert_eq!(entry.location().map(|location| location.line()), Some(line));
    completer.done(1);
    entry.set_tag(8);
    assert_eq!((entry.tag(), entry.location()), (0, None), "it has left");

    // A slow trigger is reported by that place.
    let log = Log::new();
    let inner = log.clone();
    context.set_slow_handler(std::time::Duration::ZERO, move |slow| {
        inner.add(slow.location.line().to_string());
    });
    let (_request, completer) = pair_of(&context);
    let (line, _entry) = (line!(), queue.add(&completer, |_, _| ()));
    settle(&context);
    assert_eq!(log.take(), line.to_string());
}

fn queues_say_what_they_are_in_debug_output(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("writes");
    let wait = queue.wait();
    assert_eq!(
        format!("{queue:?}"),
        "Queue { name: \"writes\", len: 1, running: true, .. }"
    );
    let turn = block_on(&context, "the turn", wait).unwrap();
    let said = format!("{turn:?}");
    assert_eq!(said, "QueueEntry { queued: true, triggered: true, .. }");
    assert_eq!(format!("{:?}", turn.entry()), said);
}

/// What the model knows of an entry that is in the queue.
struct Known {
    number: usize,
    entry: QueueEntry,
    request: Request<i32, Fault>,
    completer: Completer<i32, Fault>,
    is_triggered: bool,
    is_repeatable: bool,
}

/// The queue is used at random. Which entries are in it, and which was triggered when, is compared with
/// a list.
fn random_queues_do_as_a_model_says(kind: BackendKind) {
    for seed in 0..100 {
        let mut random = Random(seed);
        let context = context(kind);
        let (queue, log) = (context.queue("test"), Log::new());
        let (mut model, mut expected) = (Vec::<Known>::new(), Vec::new());
        let mut is_running = true;
        for number in 0..200 {
            match random.below(9) {
                0..=2 => {
                    let (request, completer) = pair_of(&context);
                    let (inner, kind) = (log.clone(), random.below(4));
                    let is_at_once = kind == 3 && model.is_empty() && is_running;
                    let entry = match kind {
                        0 => queue.add(&completer, move |_, _| inner.add(number.to_string())),
                        1 => queue.add_repeatable(&completer, move |_, _, _| {
                            inner.add(number.to_string());
                        }),
                        2 => queue.add_blocker(&completer),
                        _ => queue.add_optimize_empty(&completer, move |_, _| {
                            inner.add(number.to_string());
                        }),
                    };
                    if is_at_once {
                        expected.push(number.to_string());
                    }
                    model.push(Known {
                        number: if kind == 2 { usize::MAX } else { number },
                        entry,
                        request,
                        completer,
                        is_triggered: is_at_once,
                        is_repeatable: kind == 1,
                    });
                }
                3..=5 if !model.is_empty() => {
                    // Mostly one of the first.
                    let known = model.remove(random.below(model.len()).min(random.below(3)));
                    match random.below(4) {
                        0 => _ = known.completer.done(1),
                        1 => drop(known.request),
                        2 => known.entry.remove(),
                        _ => _ = known.completer.finish_later(Err("no")),
                    }
                    assert!(!known.entry.is_queued(), "seed {seed}");
                }
                6 => {
                    queue.stop();
                    is_running = false;
                }
                7 => {
                    queue.start();
                    is_running = true;
                }
                8 if !model.is_empty() => {
                    let at = random.below(model.len());
                    let known = &mut model[at];
                    let is_possible = at == 0 && known.is_triggered && known.is_repeatable;
                    assert_eq!(known.entry.untrigger(), is_possible, "seed {seed}");
                    if is_possible {
                        known.is_triggered = false;
                        is_running = false;
                    }
                }
                _ => {}
            }
            if random.below(2) == 0 {
                settle(&context);
                if let Some(head) = model
                    .first_mut()
                    .filter(|head| is_running && !head.is_triggered)
                {
                    head.is_triggered = true;
                    if head.number != usize::MAX {
                        expected.push(head.number.to_string());
                    }
                }
            }
            assert_eq!(queue.len(), model.len(), "seed {seed}");
            assert_eq!(queue.is_running(), is_running);
            for known in &model {
                assert!(known.entry.is_queued() && known.request.state().is_pending());
                assert_eq!(
                    known.entry.is_triggered(),
                    known.is_triggered,
                    "seed {seed}"
                );
            }
        }
        assert_eq!(
            log.take(),
            expected.join(" "),
            "seed {seed}: who was triggered"
        );
    }
}
