//! The ends of tasks: cancelled, dropped and panicking, in every state.

mod common;

use common::futures::{Gate, block_on, owning};
use common::*;
use std::future::pending;
use std::panic::panic_any;
use std::rc::Rc;
use tevent::{BackendKind, Context, Task, yield_now};

on_every_backend!(
    dropping_a_task_that_never_ran_drops_its_future_at_once,
    dropping_a_task_that_waits_drops_its_future_at_once,
    dropping_a_task_that_is_scheduled_drops_its_future_at_once,
    dropping_a_task_in_its_own_poll_drops_its_future_after_the_poll,
    dropping_a_task_in_its_last_poll_drops_its_output,
    dropping_a_task_in_another_ones_poll,
    dropping_a_task_in_each_kind_of_handler,
    dropping_a_task_after_its_context,
    dropping_a_finished_task_drops_its_output,
    a_future_that_owns_its_own_task_goes_with_the_context,
    a_detached_task_goes_with_the_context,
    dropping_a_future_may_spawn_and_wake_and_drop_others,
    cancelling_a_waiting_task_gives_nothing,
    cancelling_a_finished_task_gives_its_output,
    cancelling_drops_the_future_before_it_is_awaited,
    cancelling_a_task_in_its_own_poll_waits_for_the_poll,
    cancelling_a_task_in_its_last_poll_gives_its_output,
    dropping_a_cancellation_changes_nothing,
    a_panic_comes_to_who_awaits_the_task,
    a_panic_of_an_awaited_task_does_not_disturb_run,
    a_panic_of_a_detached_task_comes_through_run,
    a_panic_of_a_task_that_is_detached_later_comes_through_run,
    a_panic_of_a_task_that_is_dropped_later_comes_through_run,
    a_panic_of_a_task_dropped_in_its_last_poll_comes_through_run,
    a_panic_of_a_cancelled_task_comes_to_who_awaits_the_cancellation,
    a_panic_keeps_its_payload,
    a_panic_while_a_finished_future_is_dropped_comes_to_who_awaits_the_task,
    a_panic_while_a_cancelled_future_is_dropped_comes_to_who_cancels,
    a_panic_while_an_output_is_dropped_comes_to_who_drops_it,
    a_panic_while_an_unwanted_output_is_dropped_comes_through_run,
    a_second_panic_comes_through_run,
    a_panic_in_a_task_leaves_the_others_alone,
    a_panic_that_is_dropped_after_the_context_hurts_nobody,
);

/// A future that logs when it is dropped, and never is ready.
fn idle(context: &Context, log: &Log) -> Task<()> {
    let dropped = log.on_drop("dropped");
    context.spawn(async move {
        dropped.keep();
        pending::<()>().await;
    })
}

fn dropping_a_task_that_never_ran_drops_its_future_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    drop(idle(&context, &log));
    assert_eq!(log.take(), "dropped");
    assert_eq!(settle(&context), 0, "nothing is left to run");
}

fn dropping_a_task_that_waits_drops_its_future_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let task = idle(&context, &log);
    settle(&context);
    drop(task);
    assert_eq!(log.take(), "dropped");
}

fn dropping_a_task_that_is_scheduled_drops_its_future_at_once(kind: BackendKind) {
    let context = context(kind);
    let (log, gate) = (Log::new(), Gate::new());
    let task = context.spawn(owning(log.on_drop("dropped"), gate.pass()));
    settle(&context);
    gate.wake();
    drop(task);
    assert_eq!(log.take(), "dropped");
    assert_eq!(settle(&context), 0);
    assert_eq!(gate.polls(), 1);
}

/// A task that calls `meanwhile` with its own handle, and waits for ever.
fn with_its_handle(
    context: &Context,
    log: &Log,
    meanwhile: impl FnOnce(Task<()>) + 'static,
) -> Place<Task<()>> {
    let place = Place::empty();
    let (own, inner, dropped) = (place.clone(), log.clone(), log.on_drop("dropped"));
    place.put(context.spawn(async move {
        dropped.keep();
        inner.add("begin");
        meanwhile(own.take().unwrap());
        inner.add("end");
        yield_now().await;
        inner.add("never");
    }));
    place
}

fn dropping_a_task_in_its_own_poll_drops_its_future_after_the_poll(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place = with_its_handle(&context, &log, drop);
    settle(&context);
    assert!(place.take().is_none());
    assert_eq!(log.take(), "begin end dropped");
}

fn dropping_a_task_in_its_last_poll_drops_its_output(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place = Place::empty();
    let (own, inner, output) = (place.clone(), log.clone(), log.on_drop("output"));
    place.put(context.spawn(async move {
        drop::<Option<Task<OnDrop<_>>>>(own.take());
        inner.add("end");
        output
    }));
    settle(&context);
    assert_eq!(log.take(), "end output");
}

fn dropping_a_task_in_another_ones_poll(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let task = idle(&context, &log);
    settle(&context);
    let inner = log.clone();
    context
        .spawn(async move {
            drop(task);
            inner.add("after");
        })
        .detach();
    settle(&context);
    assert_eq!(log.take(), "dropped after");
}

fn dropping_a_task_in_each_kind_of_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place = Place::empty();
    let fill = || {
        place.put(idle(&context, &log));
        settle(&context);
    };
    let clear = || {
        let place = place.clone();
        move || place.clear()
    };
    fill();
    let in_deferred = clear();
    context.defer(move |_| in_deferred());
    settle(&context);
    assert_eq!(log.take(), "dropped", "in an immediate");
    fill();
    let in_timer = clear();
    let _timer = context.add_timer(context.now(), move |_, _| in_timer());
    settle(&context);
    assert_eq!(log.take(), "dropped", "in a timer's handler");
    fill();
    let (ours, _theirs) = readable();
    let in_fd = clear();
    let _fd = context.add_fd(ours, READ, move |_, fd, _| {
        fd.remove();
        in_fd();
    });
    settle(&context);
    assert_eq!(log.take(), "dropped", "in a descriptor's handler");
}

fn dropping_a_task_after_its_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let waiting = idle(&context, &log);
    settle(&context);
    let fresh = idle(&context, &log);
    let output = log.on_drop("output");
    let finished = context.spawn(async move { output });
    context.run().unwrap();
    drop(context);
    assert_eq!(log.take(), "dropped dropped");
    assert!(waiting.is_finished() && fresh.is_finished() && finished.is_finished());
    drop((waiting, fresh));
    assert_eq!(log.take(), "");
    drop(finished);
    assert_eq!(log.take(), "output");
}

fn dropping_a_finished_task_drops_its_output(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (output, inner) = (log.on_drop("output"), log.on_drop("future"));
    let task = context.spawn(owning(inner, async move { output }));
    settle(&context);
    assert_eq!(log.take(), "future", "what is finished isn't kept");
    drop(task);
    assert_eq!(log.take(), "output");
}

fn a_future_that_owns_its_own_task_goes_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place: Place<Task<()>> = Place::empty();
    let (own, dropped) = (place.clone(), log.on_drop("dropped"));
    place.put(context.spawn(async move {
        let _task = own.take();
        dropped.keep();
        pending::<()>().await;
    }));
    settle(&context);
    assert_eq!(log.take(), "");
    drop(context);
    assert_eq!(log.take(), "dropped");
}

fn a_detached_task_goes_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    idle(&context, &log).detach();
    settle(&context);
    assert_eq!(log.take(), "");
    drop(context);
    assert_eq!(log.take(), "dropped");
}

fn dropping_a_future_may_spawn_and_wake_and_drop_others(kind: BackendKind) {
    let context = context(kind);
    let (log, gate) = (Log::new(), Gate::new());
    let other = idle(&context, &log);
    let waiting = context.spawn(gate.pass());
    settle(&context);
    let (weak, inner) = (context.downgrade(), log.clone());
    let mut other = Some(other);
    let busy = OnDrop(move || {
        gate.open();
        other.take();
        let inner = inner.clone();
        weak.spawn(async move { inner.add("spawned") }).detach();
    });
    let task = context.spawn(owning(busy, pending::<()>()));
    settle(&context);
    drop(task);
    settle(&context);
    assert_eq!(log.take(), "dropped spawned");
    assert!(waiting.is_finished());
}

fn cancelling_a_waiting_task_gives_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let task = idle(&context, &log);
    settle(&context);
    let output = block_on(&context, "it is cancelled", task.cancel());
    assert_eq!(output, None);
    assert_eq!(log.take(), "dropped");
}

fn cancelling_a_finished_task_gives_its_output(kind: BackendKind) {
    let context = context(kind);
    let task = context.spawn(async { 42 });
    settle(&context);
    let output = block_on(&context, "it is cancelled", task.cancel());
    assert_eq!(output, Some(42));
}

fn cancelling_drops_the_future_before_it_is_awaited(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let task = idle(&context, &log);
    settle(&context);
    let cancellation = task.cancel();
    assert_eq!(log.take(), "dropped");
    drop(cancellation);
}

fn cancelling_a_task_in_its_own_poll_waits_for_the_poll(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (weak, inner) = (context.downgrade(), log.clone());
    let _place = with_its_handle(&context, &log, move |task| {
        let cancellation = task.cancel();
        weak.spawn(async move {
            let output = cancellation.await;
            inner.add(format!("{output:?}"));
        })
        .detach();
    });
    settle(&context);
    assert_eq!(log.take(), "begin end dropped None");
}

fn cancelling_a_task_in_its_last_poll_gives_its_output(kind: BackendKind) {
    let context = context(kind);
    let place = Place::empty();
    let cancelled = Place::empty();
    let (own, cancellation) = (place.clone(), cancelled.clone());
    place.put(context.spawn(async move {
        cancellation.put(own.take().map(Task::<i32>::cancel).unwrap());
        42
    }));
    settle(&context);
    let output = block_on(&context, "it is over", cancelled.take().unwrap());
    assert_eq!(output, Some(42));
}

fn dropping_a_cancellation_changes_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _place = with_its_handle(&context, &log, |task| drop(task.cancel()));
    settle(&context);
    assert_eq!(log.take(), "begin end dropped");
}

fn panicking(context: &Context) -> Task<()> {
    context.spawn(async { panic!("in the task") })
}

fn a_panic_comes_to_who_awaits_the_task(kind: BackendKind) {
    let context = context(kind);
    let task = panicking(&context);
    let message = panic_of(|| context.block_on(task));
    assert_eq!(message, "in the task");
    assert_eq!(settle(&context), 0, "and to nobody else");
}

fn a_panic_of_an_awaited_task_does_not_disturb_run(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let task = panicking(&context);
    context.defer(log.once("after"));
    context.run().unwrap();
    assert!(task.is_finished());
    assert_eq!(log.take(), "after");
    assert_eq!(panic_of(|| context.block_on(task)), "in the task");
}

fn a_panic_of_a_detached_task_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    panicking(&context).detach();
    context.defer(log.once("after"));
    assert_eq!(panic_of(|| context.run()), "in the task");
    assert_eq!(log.take(), "", "at once");
    context.run().unwrap();
    assert_eq!(log.take(), "after");
}

fn a_panic_of_a_task_that_is_detached_later_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let task = panicking(&context);
    context.run().unwrap();
    task.detach();
    assert_eq!(panic_of(|| context.run()), "in the task");
    context.run().unwrap();
}

fn a_panic_of_a_task_that_is_dropped_later_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let task = panicking(&context);
    context.run().unwrap();
    drop(task);
    assert_eq!(panic_of(|| context.run()), "in the task");
    context.run().unwrap();
}

fn a_panic_of_a_task_dropped_in_its_last_poll_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let place: Place<Task<()>> = Place::empty();
    let own = place.clone();
    place.put(context.spawn(async move {
        own.clear();
        panic!("in the task");
    }));
    assert_eq!(panic_of(|| context.run()), "in the task");
    context.run().unwrap();
}

fn a_panic_of_a_cancelled_task_comes_to_who_awaits_the_cancellation(kind: BackendKind) {
    let context = context(kind);
    let task = panicking(&context);
    context.run().unwrap();
    let cancellation = task.cancel();
    let message = panic_of(|| context.block_on(cancellation));
    assert_eq!(message, "in the task");
    // And if nobody awaits it, through run.
    let task = panicking(&context);
    context.run().unwrap();
    drop(task.cancel());
    assert_eq!(panic_of(|| context.run()), "in the task");
}

fn a_panic_keeps_its_payload(kind: BackendKind) {
    let context = context(kind);
    let task = context.spawn(async { panic_any(42_u64) });
    let awaited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let result: std::io::Result<Result<(), _>> = context.block_on(task);
        drop(result);
    }));
    let payload = awaited.expect_err("the panic comes through");
    assert_eq!(payload.downcast_ref(), Some(&42_u64));
}

fn a_panic_while_a_finished_future_is_dropped_comes_to_who_awaits_the_task(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let panics = OnDrop(|| panic!("in the destructor"));
    let output = log.on_drop("output");
    let task = context.spawn(owning(panics, async move { output }));
    context.run().unwrap();
    assert!(task.is_finished());
    assert_eq!(log.take(), "output", "there is only one result");
    assert_eq!(panic_of(|| context.block_on(task)), "in the destructor");
}

fn a_panic_while_a_cancelled_future_is_dropped_comes_to_who_cancels(kind: BackendKind) {
    let context = context(kind);
    for detour in [false, true] {
        let panics = OnDrop(|| panic!("in the destructor"));
        let task = context.spawn(owning(panics, pending::<()>()));
        settle(&context);
        let message = panic_of(|| match detour {
            false => drop(task),
            true => drop(task.cancel()),
        });
        assert_eq!(message, "in the destructor");
        context.run().unwrap();
    }
}

fn a_panic_while_an_output_is_dropped_comes_to_who_drops_it(kind: BackendKind) {
    let context = context(kind);
    let output = OnDrop(|| panic!("in the destructor"));
    let task = context.spawn(async move { output });
    context.run().unwrap();
    assert_eq!(panic_of(|| drop(task)), "in the destructor");
    context.run().unwrap();
}

fn a_panic_while_an_unwanted_output_is_dropped_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let output = OnDrop(|| panic!("in the destructor"));
    context.spawn(async move { output }).detach();
    assert_eq!(panic_of(|| context.run()), "in the destructor");
    context.run().unwrap();
}

fn a_second_panic_comes_through_run(kind: BackendKind) {
    let context = context(kind);
    let panics = OnDrop(|| panic!("in the destructor"));
    let task = context.spawn(owning(panics, async { panic!("in the poll") }));
    assert_eq!(panic_of(|| context.run()), "in the destructor");
    let message = panic_of(|| {
        let result: std::io::Result<Result<(), _>> = context.block_on(task);
        drop(result);
    });
    assert_eq!(message, "in the poll");
    context.run().unwrap();
}

fn a_panic_in_a_task_leaves_the_others_alone(kind: BackendKind) {
    let context = context(kind);
    let gates: Vec<Gate> = (0..100).map(|_| Gate::new()).collect();
    let tasks: Vec<_> = gates
        .iter()
        .enumerate()
        .map(|(number, gate)| {
            let pass = gate.pass();
            context.spawn(async move {
                pass.await;
                assert_ne!(number % 3, 0, "every third");
                number
            })
        })
        .collect();
    settle(&context);
    gates.iter().for_each(Gate::open);
    context.run().unwrap();
    for (number, task) in tasks.into_iter().enumerate() {
        assert!(task.is_finished());
        if number % 3 != 0 {
            assert_eq!(block_on(&context, "it is ready", task), Ok(number));
        } else {
            // Every one of them comes through.
            drop(task);
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| context.run()));
            assert!(failed.is_err());
        }
    }
    context.run().unwrap();
}

fn a_panic_that_is_dropped_after_the_context_hurts_nobody(kind: BackendKind) {
    let context = context(kind);
    let task = panicking(&context);
    context.run().unwrap();
    let kept = Rc::new(task);
    drop(context);
    drop(kept);
}
