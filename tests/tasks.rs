//! Tasks: their place in the order, their wakers, and their outputs.

mod common;

use common::futures::{Gate, block_on};
use common::*;
use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tevent::{BackendKind, Cancelled, Context, yield_now};

on_every_backend!(
    a_task_takes_its_place_among_the_immediates,
    a_woken_task_goes_behind_what_is_scheduled,
    a_task_that_is_woken_again_keeps_its_place,
    any_number_of_wakes_is_one_poll,
    a_wake_in_its_own_poll_is_one_more_poll,
    a_wake_in_every_poll_goes_on_until_it_is_ready,
    a_task_that_was_not_woken_is_not_polled,
    a_waker_of_another_task_wakes_that_one_only,
    an_output_goes_to_who_awaits_the_task,
    a_task_can_be_awaited_by_a_task,
    a_task_is_finished_when_nothing_is_left_to_run,
    a_task_that_was_awaited_has_no_second_output,
    a_detached_task_runs,
    a_task_can_spawn_and_be_outlived,
    spawning_on_a_context_that_is_gone_is_cancelled,
    a_task_of_a_context_that_went_is_cancelled,
    a_task_of_a_reinitialised_context_is_cancelled,
    a_task_that_reinitialises_is_dropped_when_its_poll_has_returned,
    run_does_not_wait_for_a_task,
    a_task_that_yields_lets_the_others_have_a_turn,
    tasks_that_yield_for_ever_leave_timers_and_descriptors_a_turn,
    a_task_is_not_polled_again_by_a_loop_inside_its_poll,
    wakers_outlive_the_task_and_the_context,
    wakers_on_other_threads_outlive_the_task_and_the_context,
    the_name_of_a_task_is_that_of_its_slow_polls,
    a_task_knows_where_it_was_spawned,
    tasks_and_futures_say_what_they_are_in_debug_output,
);

fn a_task_takes_its_place_among_the_immediates(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let _due = context.add_timer(context.now(), log.timer("timer"));
    context.defer(log.once("first"));
    context.spawn(async move { inner.add("task") }).detach();
    context.defer(log.once("last"));
    assert_eq!(log.take(), "", "nothing runs in spawn");
    context.run().unwrap();
    assert_eq!(log.take(), "first task last timer");
}

/// A task that writes `entry` whenever it is polled.
fn logging(context: &Context, log: &Log, entry: &'static str, gate: &Gate) -> tevent::Task<()> {
    let (log, gate) = (log.clone(), gate.clone());
    context.spawn(async move {
        let mut pass = std::pin::pin!(gate.pass());
        poll_fn(|context| {
            log.add(entry);
            pass.as_mut().poll(context)
        })
        .await
    })
}

fn a_woken_task_goes_behind_what_is_scheduled(kind: BackendKind) {
    let context = context(kind);
    let (log, gate) = (Log::new(), Gate::new());
    let _task = logging(&context, &log, "task", &gate);
    settle(&context);
    log.take();
    context.defer(log.once("before"));
    gate.wake();
    context.defer(log.once("after"));
    settle(&context);
    assert_eq!(log.take(), "before task after");
}

fn a_task_that_is_woken_again_keeps_its_place(kind: BackendKind) {
    let context = context(kind);
    let (log, gate) = (Log::new(), Gate::new());
    let _task = logging(&context, &log, "task", &gate);
    settle(&context);
    log.take();
    gate.wake();
    context.defer(log.once("after"));
    gate.wake();
    settle(&context);
    assert_eq!(log.take(), "task after");
}

fn any_number_of_wakes_is_one_poll(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let task = context.spawn(gate.pass());
    settle(&context);
    assert_eq!(gate.polls(), 1);
    for _ in 0..100 {
        gate.wake();
    }
    assert_eq!(settle(&context), 1, "one turn for all wakes");
    assert_eq!(gate.polls(), 2);
    assert!(!task.is_finished());
}

fn a_wake_in_its_own_poll_is_one_more_poll(kind: BackendKind) {
    let context = context(kind);
    let polls = Rc::new(Cell::new(0));
    let count = Rc::clone(&polls);
    let _task = context.spawn(poll_fn(move |context| {
        count.set(count.get() + 1);
        if count.get() == 1 {
            for _ in 0..3 {
                context.waker().wake_by_ref();
                context.waker().clone().wake();
            }
        }
        Poll::<()>::Pending
    }));
    settle(&context);
    assert_eq!(polls.get(), 2);
}

fn a_wake_in_every_poll_goes_on_until_it_is_ready(kind: BackendKind) {
    let context = context(kind);
    let mut left = 10_000;
    let task = context.spawn(poll_fn(move |context| {
        left -= 1;
        context.waker().wake_by_ref();
        if left == 0 {
            return Poll::Ready("done");
        }
        Poll::Pending
    }));
    assert_eq!(block_on(&context, "it is ready", task), Ok("done"));
    assert_eq!(settle(&context), 0, "the last wake finds nothing");
}

fn a_task_that_was_not_woken_is_not_polled(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let _task = context.spawn(gate.pass());
    context.run().unwrap();
    for _ in 0..10 {
        context.defer(|_| ());
    }
    context.run().unwrap();
    assert_eq!(gate.polls(), 1);
}

fn a_waker_of_another_task_wakes_that_one_only(kind: BackendKind) {
    let context = context(kind);
    let gates: Vec<Gate> = (0..10).map(|_| Gate::new()).collect();
    let tasks: Vec<_> = gates
        .iter()
        .map(|gate| context.spawn(gate.pass()))
        .collect();
    settle(&context);
    let stale: Vec<Waker> = gates.iter().map(Gate::waker).collect();
    gates[3].open();
    settle(&context);
    for (number, task) in tasks.iter().enumerate() {
        assert_eq!(task.is_finished(), number == 3);
    }
    // Their places are used again by others, whom they don't wake.
    drop(tasks);
    let gates: Vec<Gate> = (0..10).map(|_| Gate::new()).collect();
    let _tasks: Vec<_> = gates
        .iter()
        .map(|gate| context.spawn(gate.pass()))
        .collect();
    settle(&context);
    stale.into_iter().for_each(Waker::wake);
    assert_eq!(settle(&context), 0);
    assert!(gates.iter().all(|gate| gate.polls() == 1));
}

fn an_output_goes_to_who_awaits_the_task(kind: BackendKind) {
    let context = context(kind);
    let before = context.spawn(async { String::from("before") });
    context.run().unwrap();
    let gate = Gate::new();
    let pass = gate.pass();
    let after = context.spawn(async move {
        pass.await;
        String::from("after")
    });
    context
        .add_timer_after(Duration::from_millis(1), move |_, _| gate.open())
        .detach();
    let outputs = block_on(&context, "both finish", async {
        (before.await.unwrap(), after.await.unwrap())
    });
    assert_eq!(outputs, ("before".to_owned(), "after".to_owned()));
}

fn a_task_can_be_awaited_by_a_task(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let pass = gate.pass();
    let mut task = context.spawn(async move {
        pass.await;
        1
    });
    for _ in 0..100 {
        let inner = task;
        task = context.spawn(async move { inner.await.unwrap() + 1 });
    }
    settle(&context);
    gate.open();
    assert_eq!(block_on(&context, "the chain ends", task), Ok(101));
}

fn a_task_is_finished_when_nothing_is_left_to_run(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let task = context.spawn(gate.pass());
    settle(&context);
    assert!(!task.is_finished());
    gate.open();
    assert!(!task.is_finished(), "it was woken only");
    settle(&context);
    assert!(task.is_finished());
}

fn a_task_that_was_awaited_has_no_second_output(kind: BackendKind) {
    let context = context(kind);
    let mut task = context.spawn(async { 42 });
    assert_eq!(block_on(&context, "it finishes", &mut task), Ok(42));
    assert!(task.is_finished());
    let again = block_on(&context, "it is over", &mut task);
    assert_eq!(
        again.map_err(|error| error.to_string()),
        Err("the task was cancelled".to_owned())
    );
}

fn a_detached_task_runs(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let gate = Gate::new();
    let (inner, pass) = (log.clone(), gate.pass());
    let task = context.spawn(async move {
        pass.await;
        inner.add("done");
    });
    task.detach();
    settle(&context);
    assert_eq!(log.take(), "");
    gate.open();
    settle(&context);
    assert_eq!(log.take(), "done");
}

fn a_task_can_spawn_and_be_outlived(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (weak, inner) = (context.downgrade(), log.clone());
    let outer = context.spawn(async move {
        let log = inner.clone();
        weak.spawn(async move { log.add("inner") }).detach();
        inner.add("outer");
    });
    context.run().unwrap();
    assert!(outer.is_finished());
    assert_eq!(log.take(), "outer inner");
}

fn is_cancelled<T>(result: Result<T, Cancelled>) -> bool {
    result.is_err_and(|error| {
        let error = std::io::Error::from(error);
        error.get_ref().is_some_and(|inner| inner.is::<Cancelled>())
    })
}

fn spawning_on_a_context_that_is_gone_is_cancelled(kind: BackendKind) {
    let gone = context(kind).downgrade();
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    let task = gone.spawn(async move { dropped.keep() });
    assert_eq!(log.take(), "dropped");
    assert!(task.is_finished());
    let another = context(kind);
    assert!(is_cancelled(block_on(&another, "it is over", task)));
}

fn a_task_of_a_context_that_went_is_cancelled(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    let task = one.spawn(async move {
        dropped.keep();
        pending::<()>().await;
    });
    // The one who awaits it lives elsewhere, and is waiting already.
    let awaiting = another.spawn(task);
    settle(&one);
    settle(&another);
    drop(one);
    assert_eq!(log.take(), "dropped");
    let result = block_on(&another, "it is told", awaiting);
    assert!(is_cancelled(result.expect("its context is there")));
}

fn a_task_of_a_reinitialised_context_is_cancelled(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    let task = context.spawn(async move {
        dropped.keep();
        pending::<()>().await;
    });
    settle(&context);
    let result = block_on(&context, "who awaits it is told", async {
        context.defer(|context| context.reinitialise().unwrap());
        let mut task = std::pin::pin!(task);
        // Waiting before, and by a waker that is to outlive it.
        assert!(futures_lite::future::poll_once(&mut task).await.is_none());
        task.await
    });
    assert!(is_cancelled(result));
    assert_eq!(log.take(), "dropped");
}

fn a_task_that_reinitialises_is_dropped_when_its_poll_has_returned(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (weak, inner, dropped) = (context.downgrade(), log.clone(), log.on_drop("dropped"));
    let task = context.spawn(async move {
        dropped.keep();
        weak.upgrade().unwrap().reinitialise().unwrap();
        inner.add("still there");
        yield_now().await;
        inner.add("never");
    });
    let _others = context.spawn(pending::<()>());
    context.run().unwrap();
    assert_eq!(log.take(), "still there dropped");
    assert!(task.is_finished());
    assert_eq!(settle(&context), 0, "its wake finds nothing");
}

fn run_does_not_wait_for_a_task(kind: BackendKind) {
    let context = context(kind);
    let task = context.spawn(pending::<()>());
    context.run().unwrap();
    assert!(!task.is_finished());
}

fn a_task_that_yields_lets_the_others_have_a_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for name in ["a", "b"] {
        let log = log.clone();
        let task = context.spawn(async move {
            for _ in 0..3 {
                log.add(name);
                yield_now().await;
            }
        });
        task.detach();
    }
    context.run().unwrap();
    assert_eq!(log.take(), "a b a b a b");
}

fn tasks_that_yield_for_ever_leave_timers_and_descriptors_a_turn(kind: BackendKind) {
    let context = context(kind);
    let _task = context.spawn(async {
        loop {
            yield_now().await;
        }
    });
    let (log, done) = (Log::new(), Flag::new());
    let (ours, _theirs) = readable();
    let (inner, setter) = (log.clone(), done.clone());
    let _timer = context.add_timer_after(Duration::from_millis(1), log.timer("timer"));
    let _fd = context.add_fd(ours, READ, move |_, fd, _| {
        if inner.len() > 0 {
            fd.remove();
            setter.set();
        }
    });
    run_until(&context, "both are called", || done.is_set());
}

fn a_task_is_not_polled_again_by_a_loop_inside_its_poll(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let log = Log::new();
    let (weak, inner) = (context.downgrade(), log.clone());
    let task = context.spawn(poll_fn(move |poll| {
        inner.add("begin");
        if inner.count("begin") == 1 {
            poll.waker().wake_by_ref();
            let context = weak.upgrade().unwrap();
            context.defer(inner.once("inside"));
            settle(&context);
            inner.add("end");
            return Poll::Pending;
        }
        Poll::Ready(())
    }));
    block_on(&context, "it goes on", task).unwrap();
    assert_eq!(log.take(), "begin inside end begin");
}

fn wakers_outlive_the_task_and_the_context(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let task = context.spawn(gate.pass());
    settle(&context);
    let waker = gate.waker();
    drop(task);
    waker.wake_by_ref();
    assert_eq!(settle(&context), 0);
    drop(context);
    waker.wake_by_ref();
    waker.clone().wake();
    assert_eq!(gate.polls(), 1);
}

fn wakers_on_other_threads_outlive_the_task_and_the_context(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let task = context.spawn(gate.pass());
    settle(&context);
    let waker = gate.waker();
    let wake = |waker: Waker| {
        let thread = std::thread::spawn(move || {
            waker.wake_by_ref();
            waker.wake();
        });
        thread.join().expect("no panic");
    };
    wake(waker.clone());
    settle(&context);
    assert_eq!(gate.polls(), 2, "two wakes in a row are one poll");
    wake(waker.clone());
    drop(task);
    settle(&context);
    wake(waker.clone());
    settle(&context);
    assert_eq!(gate.polls(), 2);
    wake(waker.clone());
    drop(context);
    wake(waker);
}

fn the_name_of_a_task_is_that_of_its_slow_polls(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_slow_handler(Duration::ZERO, move |slow| {
        inner.add(format!(
            "{}:{}",
            slow.kind,
            slow.name.as_deref().unwrap_or("none")
        ));
    });
    let task = context.spawn(yield_now());
    task.set_name("two polls");
    task.set_tag(7);
    assert_eq!((task.name(), task.tag()), (Some("two polls".to_owned()), 7));
    context.run().unwrap();
    assert_eq!(log.take(), "immediate:two polls immediate:two polls");
}

fn a_task_knows_where_it_was_spawned(kind: BackendKind) {
    let context = context(kind);
    let (line, task) = (line!(), context.spawn(async {}));
    let location = task.location().expect("it is there");
    assert_eq!((location.file(), location.line()), (file!(), line));
    context.run().unwrap();
    assert!(task.location().is_none(), "it is over");
}

fn tasks_and_futures_say_what_they_are_in_debug_output(kind: BackendKind) {
    let context = context(kind);
    let task = context.spawn(async {});
    assert_eq!(format!("{task:?}"), "Task { finished: false, .. }");
    context.run().unwrap();
    assert_eq!(
        format!("{:?}", task.cancel()),
        "Task { finished: true, .. }"
    );
    let sleep = context.sleep_until(context.now());
    let expected = format!("Sleep {{ deadline: {:?}, .. }}", sleep.deadline());
    assert_eq!(format!("{sleep:?}"), expected);
    let (ours, _theirs) = pair();
    let fd = context.add_async_fd(ours).unwrap();
    let said = format!("{fd:?} {:?}", fd.ready(READ));
    assert!(said.starts_with("AsyncFd { source: UnixStream"), "{said}");
    assert!(
        said.ends_with("Ready { flags: FdFlags(READ), .. }"),
        "{said}"
    );
    assert_eq!(tevent::TimedOut.to_string(), "timed out");
}
