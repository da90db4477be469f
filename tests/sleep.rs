//! Sleeps and timeouts.

mod common;

use common::futures::{Gate, block_on};
use common::*;
use futures_lite::future::poll_once;
use std::cell::Cell;
use std::future::{pending, ready};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, TimedOut};

const SHORT: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_secs(3600);

on_every_backend!(
    a_sleep_is_never_early,
    a_sleep_counts_from_where_it_was_made,
    sleeps_with_one_deadline_end_in_the_order_of_their_first_polls,
    sleeps_end_in_the_order_of_their_deadlines,
    a_deadline_in_the_past_ends_in_a_later_turn,
    a_sleep_without_end_is_no_panic,
    a_sleep_keeps_run_from_returning_only_when_it_was_polled,
    dropping_a_sleep_removes_its_timer,
    a_dropped_sleep_wakes_nobody,
    a_sleep_that_is_over_stays_over_until_it_is_reset,
    a_sleep_can_be_postponed_and_brought_forward,
    a_sleep_wakes_who_polled_it_last,
    a_sleep_goes_on_after_reinitialise,
    a_sleep_without_its_context_is_over,
    a_future_that_is_ready_wins,
    a_future_that_is_not_loses,
    a_future_that_is_ready_when_the_time_is_over_wins,
    a_timeout_of_nothing_polls_once,
    a_timeout_drops_its_future_with_itself,
    timeouts_nest,
    a_timeout_becomes_an_io_error,
);

fn a_sleep_is_never_early(kind: BackendKind) {
    let context = context(kind);
    for micros in [0, 1, 50, 999, 1000, 1001, 1999] {
        let deadline = context.now() + Duration::from_micros(micros);
        block_on(&context, "it ends", context.sleep_until(deadline));
        assert!(context.now() >= deadline);
    }
}

fn a_sleep_counts_from_where_it_was_made(kind: BackendKind) {
    let context = context(kind);
    let before = context.now();
    let sleep = context.sleep(LONG);
    let after = context.now();
    assert!(sleep.deadline() >= before + LONG && sleep.deadline() <= after + LONG);
}

fn sleeps_with_one_deadline_end_in_the_order_of_their_first_polls(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let deadline = context.now() + SHORT;
    let spawn = |name: &'static str| {
        let (sleep, log) = (context.sleep_until(deadline), log.clone());
        context.spawn(async move {
            sleep.await;
            log.add(name);
        })
    };
    let _tasks = ["a", "b", "c", "d", "e"].map(spawn);
    context.run().unwrap();
    assert_eq!(log.take(), "a b c d e");
}

fn sleeps_end_in_the_order_of_their_deadlines(kind: BackendKind) {
    let context = context(kind);
    let order = Rc::new(Cell::new(Vec::new()));
    let now = context.now();
    for number in [5, 3, 8, 1, 9, 2, 7, 4, 6_u32] {
        let order = Rc::clone(&order);
        let sleep = context.sleep_until(now + SHORT + number * Duration::from_nanos(10));
        let task = context.spawn(async move {
            sleep.await;
            let mut numbers = order.take();
            numbers.push(number);
            order.set(numbers);
        });
        task.detach();
    }
    context.run().unwrap();
    assert!(order.take().is_sorted());
}

fn a_deadline_in_the_past_ends_in_a_later_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let past = context.now();
    let (sleep, inner) = (context.sleep_until(past), log.clone());
    let task = context.spawn(async move {
        inner.add("begin");
        sleep.await;
        inner.add("end");
    });
    context.defer(log.once("between"));
    context.run().unwrap();
    assert!(task.is_finished());
    assert_eq!(log.take(), "begin between end");
}

fn a_sleep_without_end_is_no_panic(kind: BackendKind) {
    let context = context(kind);
    let mut sleep = context.sleep(Duration::MAX);
    assert!(sleep.deadline() > context.now() + LONG);
    assert!(block_on(&context, "it is polled", poll_once(&mut sleep)).is_none());
    let forever = context.timeout(Duration::MAX, ready(42));
    assert_eq!(block_on(&context, "it is ready", forever), Ok(42));
}

fn a_sleep_keeps_run_from_returning_only_when_it_was_polled(kind: BackendKind) {
    let context = context(kind);
    let unpolled = context.sleep(LONG);
    assert_eq!(context.next_deadline(), None);
    context.run().unwrap();
    let end = unpolled.deadline();
    let _task = context.spawn(unpolled);
    settle(&context);
    assert_eq!(context.next_deadline(), Some(end));
}

fn dropping_a_sleep_removes_its_timer(kind: BackendKind) {
    let context = context(kind);
    let task = context.spawn(context.sleep(LONG));
    settle(&context);
    drop(task);
    assert_eq!(context.next_deadline(), None);
    context.run().unwrap();
}

fn a_dropped_sleep_wakes_nobody(kind: BackendKind) {
    let context = context(kind);
    let (gate, sleep) = (Gate::new(), context.sleep(GUARD));
    let passes = gate.pass();
    let _task = context.spawn(async move {
        assert!(poll_once(sleep).await.is_none());
        passes.await;
    });
    settle(&context);
    assert_eq!(gate.polls(), 1, "it has begun to wait for something else");
}

fn a_sleep_that_is_over_stays_over_until_it_is_reset(kind: BackendKind) {
    let context = context(kind);
    let mut sleep = context.sleep(Duration::ZERO);
    block_on(&context, "it ends", &mut sleep);
    assert!(block_on(&context, "it is polled", poll_once(&mut sleep)).is_some());
    let deadline = context.now() + SHORT;
    sleep.reset(deadline);
    assert!(block_on(&context, "it is polled", poll_once(&mut sleep)).is_none());
    block_on(&context, "it ends again", &mut sleep);
    assert!(context.now() >= deadline);
}

fn a_sleep_can_be_postponed_and_brought_forward(kind: BackendKind) {
    let context = context(kind);
    let mut sleep = context.sleep(Duration::ZERO);
    let deadline = context.now() + SHORT;
    block_on(&context, "it ends", async {
        // Armed, then postponed before it could end.
        assert!(poll_once(&mut sleep).await.is_none());
        sleep.reset(deadline);
        (&mut sleep).await;
    });
    assert!(context.now() >= deadline);
    sleep.reset(context.now() + LONG);
    block_on(&context, "it ends early", async {
        assert!(poll_once(&mut sleep).await.is_none());
        sleep.reset(context.now());
        (&mut sleep).await;
    });
}

fn a_sleep_wakes_who_polled_it_last(kind: BackendKind) {
    let context = context(kind);
    let place = Place::empty();
    let (taker, giver) = (place.clone(), place.clone());
    let mut sleep = context.sleep(SHORT);
    let first = context.spawn(async move {
        assert!(poll_once(&mut sleep).await.is_none());
        giver.put(sleep);
    });
    let second = context.spawn(async move { taker.take().unwrap().await });
    context.run().unwrap();
    assert!(first.is_finished() && second.is_finished());
}

fn a_sleep_goes_on_after_reinitialise(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let sleep = one.sleep(SHORT);
    let deadline = sleep.deadline();
    // Polled by a task that the other context has, so that it survives.
    let task = another.spawn(sleep);
    settle(&another);
    one.reinitialise().unwrap();
    assert_eq!(one.next_deadline(), None);
    assert_eq!(settle(&another), 1, "it is told");
    // Somebody who waits for this one would be told that there is another timer.
    assert!(one.next_deadline().unwrap() <= one.now());
    assert_eq!(settle(&one), 0);
    assert_eq!(one.next_deadline(), Some(deadline));
    one.run().unwrap();
    assert!(one.now() >= deadline);
    block_on(&another, "it ends", task).unwrap();
}

fn a_sleep_without_its_context_is_over(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let unpolled = one.sleep(LONG);
    let waiting = another.spawn(one.sleep(LONG));
    let limited = another.spawn(one.timeout(LONG, pending::<()>()));
    settle(&another);
    let weak = one.downgrade();
    drop(one);
    block_on(&another, "all are over", async {
        unpolled.await;
        waiting.await.unwrap();
        assert_eq!(limited.await.unwrap(), Err(TimedOut));
        weak.sleep(LONG).await;
        assert_eq!(weak.timeout(LONG, pending::<()>()).await, Err(TimedOut));
        assert_eq!(weak.timeout(LONG, ready(42)).await, Ok(42));
    });
}

fn a_future_that_is_ready_wins(kind: BackendKind) {
    let context = context(kind);
    let result = context.timeout(LONG, async { 42 });
    assert_eq!(context.block_on(result).unwrap(), Ok(42));
    assert_eq!(context.next_deadline(), None, "the timer is gone");
}

fn a_future_that_is_not_loses(kind: BackendKind) {
    let context = context(kind);
    let start = context.now();
    let result = context.timeout(SHORT, pending::<()>());
    assert_eq!(context.block_on(result).unwrap(), Err(TimedOut));
    assert!(context.now() >= start + SHORT);
}

fn a_future_that_is_ready_when_the_time_is_over_wins(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let opener = gate.clone();
    // Two timers with one deadline: the first opens the gate without a wake, so what polls is the
    // second, the end of the time.
    let limited = context.timeout(SHORT, gate.pass());
    let before = context.now();
    let _timer = context.add_timer(before, move |_, _| opener.open_unnoticed());
    assert_eq!(block_on(&context, "it ends", limited), Ok(()));
    assert!(context.now() >= before + SHORT, "nothing else has polled");
    assert_eq!(gate.polls(), 2);
}

fn a_timeout_of_nothing_polls_once(kind: BackendKind) {
    let context = context(kind);
    let result = context.timeout(Duration::ZERO, ready(42));
    assert_eq!(context.block_on(result).unwrap(), Ok(42));
    let gate = Gate::new();
    let result = context.timeout(Duration::ZERO, gate.pass());
    assert_eq!(context.block_on(result).unwrap(), Err(TimedOut));
    assert!(gate.polls() >= 1);
}

fn a_timeout_drops_its_future_with_itself(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    let limited = context.timeout(Duration::ZERO, async move {
        dropped.keep();
        pending::<()>().await;
    });
    let mut limited = Box::pin(limited);
    let result = context.block_on(limited.as_mut()).unwrap();
    assert_eq!(result, Err(TimedOut));
    drop(limited);
    assert_eq!(log.take(), "dropped");
}

fn timeouts_nest(kind: BackendKind) {
    let context = context(kind);
    let inner_first = context.timeout(LONG, context.timeout(SHORT, pending::<()>()));
    let outer_first = context.timeout(SHORT, context.timeout(LONG, pending::<()>()));
    block_on(&context, "both end", async {
        assert_eq!(inner_first.await, Ok(Err(TimedOut)));
        assert_eq!(outer_first.await, Err(TimedOut));
    });
}

fn a_timeout_becomes_an_io_error(kind: BackendKind) {
    let context = context(kind);
    let limited = async {
        context.timeout(SHORT, pending::<()>()).await?;
        Ok::<_, std::io::Error>(())
    };
    let mut limited = pin!(limited);
    let error = context.block_on(limited.as_mut()).unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
