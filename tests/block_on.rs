//! Running the loop for one future.

mod common;

use common::futures::{Gate, block_on};
use common::recording::recorded;
use common::*;
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn, ready};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tevent::{BackendKind, Nesting, yield_now};

on_every_backend!(
    a_ready_future_needs_no_wait,
    the_future_may_borrow,
    the_future_has_its_turn_in_order_with_the_immediates,
    the_future_is_polled_only_when_it_was_woken,
    tasks_run_meanwhile,
    tasks_that_are_spawned_inside_can_be_awaited,
    what_is_left_runs_later,
    inside_a_handler_it_is_an_error,
    inside_a_task_it_is_an_error,
    inside_itself_it_is_an_error,
    with_permission_it_nests,
    a_wake_by_a_loop_inside_its_poll_is_not_lost,
    the_nesting_hook_is_told,
    stop_ends_it_and_the_future_can_go_on,
    a_future_that_stops_the_loop_and_is_ready_counts_as_ready,
    a_panic_of_the_future_comes_through,
    a_panic_of_a_handler_comes_through_and_drops_the_future,
    the_future_goes_on_after_reinitialise,
    the_future_may_reinitialise,
    a_wake_by_another_thread_ends_the_wait,
    it_waits_although_there_is_nothing_to_wait_for,
);

fn a_ready_future_needs_no_wait(kind: BackendKind) {
    let context = context(kind);
    assert_eq!(context.block_on(ready(42)).unwrap(), 42);
}

fn the_future_may_borrow(kind: BackendKind) {
    let context = context(kind);
    let mut words = vec!["a"];
    let separator = String::from("-");
    let joined = block_on(&context, "it is ready", async {
        words.push("b");
        context.sleep(Duration::from_micros(1)).await;
        words.push("c");
        words.join(&separator)
    });
    assert_eq!(joined, "a-b-c");
    assert_eq!(words.len(), 3);
}

fn the_future_has_its_turn_in_order_with_the_immediates(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    context.defer(log.once("before"));
    let result = context.block_on(async {
        log.add("first");
        context.defer(log.once("between"));
        yield_now().await;
        log.add("second");
        context.defer(log.once("after"));
    });
    result.unwrap();
    assert_eq!(log.take(), "before first between second");
    context.run().unwrap();
    assert_eq!(log.take(), "after");
}

fn the_future_is_polled_only_when_it_was_woken(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let opener = gate.clone();
    let mut left = 20;
    let _timer = context.add_timer(context.now(), move |_, timer| {
        left -= 1;
        match left {
            0 => opener.open(),
            _ => drop(timer.set_after(Duration::from_micros(10))),
        }
    });
    // Not guarded by a timeout, which would poll too.
    context.block_on(gate.pass()).unwrap();
    assert_eq!(gate.polls(), 2);
}

fn tasks_run_meanwhile(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let opener = gate.clone();
    let weak = context.downgrade();
    context
        .spawn(async move {
            weak.sleep(Duration::from_millis(1)).await;
            opener.open();
        })
        .detach();
    block_on(&context, "a task opens the gate", gate.pass());
}

fn tasks_that_are_spawned_inside_can_be_awaited(kind: BackendKind) {
    let context = context(kind);
    let sum = block_on(&context, "all finish", async {
        let mut sum = 0;
        let tasks: Vec<_> = (0..100)
            .map(|number| {
                context.spawn(async move {
                    yield_now().await;
                    number
                })
            })
            .collect();
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    });
    assert_eq!(sum, 4950);
}

fn what_is_left_runs_later(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let task = context.spawn(gate.pass());
    context.block_on(yield_now()).unwrap();
    assert!(!task.is_finished());
    gate.open();
    context.run().unwrap();
    assert!(task.is_finished());
}

fn inside_a_handler_it_is_an_error(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let (log, inner, pass) = (Log::new(), Log::new(), gate.pass());
    let writer = inner.clone();
    context.defer(move |context| {
        let error = context.block_on(pass).unwrap_err();
        writer.add(format!("{:?}", error.kind()));
    });
    context.defer(log.once("after"));
    context.run().unwrap();
    assert_eq!(inner.take(), format!("{:?}", ErrorKind::Deadlock));
    assert_eq!(log.take(), "after", "the loop is whole");
    assert_eq!(gate.polls(), 0);
}

fn inside_a_task_it_is_an_error(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let task = context.spawn(async move {
        let context = weak.upgrade().unwrap();
        context.block_on(ready(())).unwrap_err().kind()
    });
    let kind = block_on(&context, "the task ends", task);
    assert_eq!(kind, Ok(ErrorKind::Deadlock));
}

fn inside_itself_it_is_an_error(kind: BackendKind) {
    let context = context(kind);
    let inner = context.block_on(async { context.block_on(ready(())) });
    assert_eq!(inner.unwrap().unwrap_err().kind(), ErrorKind::Deadlock);
}

fn with_permission_it_nests(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let log = Log::new();
    let weak = context.downgrade();
    let (inner, other) = (log.clone(), log.clone());
    let task = context.spawn(async move {
        let context = weak.upgrade().unwrap();
        let sleep = context.sleep(Duration::from_millis(1));
        inner.add("begin");
        context.block_on(sleep).unwrap();
        inner.add("end");
    });
    let _meanwhile = context.spawn(async move { other.add("meanwhile") });
    block_on(&context, "the task ends", task).unwrap();
    assert_eq!(log.take(), "begin meanwhile end");
    let outer = context.block_on(async { context.block_on(ready(42)).unwrap() });
    assert_eq!(outer.unwrap(), 42);
}

fn a_wake_by_a_loop_inside_its_poll_is_not_lost(kind: BackendKind) {
    let context = builder(kind).wait_timeout(None).build().unwrap();
    context.set_nesting_allowed(true);
    let mut has_waited = false;
    let output = context.block_on(poll_fn(|poll| {
        if has_waited {
            return Poll::Ready(42);
        }
        has_waited = true;
        poll.waker().wake_by_ref();
        assert_eq!(settle(&context), 1, "its wake-up");
        Poll::Pending
    }));
    assert_eq!(output.unwrap(), 42);
}

fn the_nesting_hook_is_told(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_nesting_hook(move |_: &tevent::Context, nesting: Nesting| {
        inner.add(format!("{nesting:?}"));
    });
    context.block_on(yield_now()).unwrap();
    assert_eq!(log.take(), "Begin(1) End(1)");
}

fn stop_ends_it_and_the_future_can_go_on(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let mut pass = pin!(gate.pass());
    context.defer(|context| context.stop());
    let error = context.block_on(pass.as_mut()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    gate.open();
    context.block_on(pass).unwrap();
    // One that is given away is dropped.
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    context.defer(|context| context.stop());
    let error = context.block_on(async {
        dropped.keep();
        let _dropped = dropped;
        pending::<()>().await;
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(log.take(), "dropped");
}

fn a_future_that_stops_the_loop_and_is_ready_counts_as_ready(kind: BackendKind) {
    let context = context(kind);
    let output = context.block_on(async {
        context.stop();
        42
    });
    assert_eq!(output.unwrap(), 42);
    assert_eq!(
        context.block_on(ready(1)).unwrap(),
        1,
        "no stop is left over"
    );
}

fn a_panic_of_the_future_comes_through(kind: BackendKind) {
    async fn fails() {
        panic!("in the future");
    }

    let context = context(kind);
    assert_eq!(panic_of(|| context.block_on(fails())), "in the future");
    assert_eq!(context.block_on(ready(42)).unwrap(), 42);
}

fn a_panic_of_a_handler_comes_through_and_drops_the_future(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let dropped = log.on_drop("dropped");
    context.defer(|_| panic!("in the handler"));
    let message = panic_of(|| {
        context.block_on(async move {
            dropped.keep();
            pending::<()>().await;
        })
    });
    assert_eq!(message, "in the handler");
    assert_eq!(log.take(), "dropped");
    assert_eq!(context.block_on(ready(42)).unwrap(), 42);
}

fn the_future_goes_on_after_reinitialise(kind: BackendKind) {
    let context = context(kind);
    let _timer = context.add_timer_after(Duration::from_millis(1), |context, _| {
        context.reinitialise().unwrap();
    });
    let start = context.now();
    // Its timer goes with the others, and it makes a new one.
    context
        .block_on(context.sleep(Duration::from_millis(20)))
        .unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
}

fn the_future_may_reinitialise(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let wakers = RefCell::new(Vec::new());
    let step = Cell::new(0);
    let output = context.block_on(poll_fn(|poll| {
        step.set(step.get() + 1);
        wakers.borrow_mut().push(poll.waker().clone());
        match step.get() {
            1 => {
                context.reinitialise().unwrap();
                context.defer(log.once("later"));
            }
            2 => {
                let old = wakers.borrow()[0].clone();
                let kept = context.add_timer_after(Duration::from_millis(1), move |_, _| {
                    old.wake_by_ref();
                });
                kept.detach();
            }
            _ => return Poll::Ready("woken by a waker from before"),
        }
        Poll::Pending
    }));
    assert_eq!(output.unwrap(), "woken by a waker from before");
    assert_eq!((log.take().as_str(), step.get()), ("later", 3));
}

fn a_wake_by_another_thread_ends_the_wait(kind: BackendKind) {
    let context = builder(kind).wait_timeout(None).build().unwrap();
    let (sender, receiver) = async_channel::bounded(1);
    let thread = std::thread::spawn(move || sender.send_blocking(42));
    assert_eq!(context.block_on(receiver.recv()).unwrap(), Ok(42));
    thread.join().unwrap().unwrap();
}

fn it_waits_although_there_is_nothing_to_wait_for(kind: BackendKind) {
    let context = builder(kind)
        .wait_timeout(Some(Duration::from_millis(1)))
        .build()
        .unwrap();
    let turns = Rc::new(Cell::new(0));
    let count = Rc::clone(&turns);
    context.set_nesting_hook(move |_: &tevent::Context, _: Nesting| {
        count.set(count.get() + 1);
    });
    let (sender, receiver) = async_channel::bounded(1);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        sender.send_blocking(())
    });
    context.block_on(receiver.recv()).unwrap().unwrap();
    assert_eq!(turns.get(), 2, "one loop, for all its waits");
    thread.join().unwrap().unwrap();
}

#[test]
fn an_error_of_the_backend_comes_back_and_the_future_can_go_on() {
    let (context, recorder) = recorded();
    let mut sleep = pin!(context.sleep(Duration::from_millis(1)));
    recorder.fail_wait.set(Some(libc::ENOMEM));
    let error = context.block_on(sleep.as_mut()).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let inner: &tevent::OsError = inner.expect("a named call");
    assert_eq!(inner.error().raw_os_error(), Some(libc::ENOMEM));
    context.block_on(sleep).unwrap();
}
