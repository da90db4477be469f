//! `run`, `run_until`, `run_once`, `stop` and the wait timeout: when they return, and with what.

mod common;

use common::recording::{Call, recorded, recording_by_default};
use common::*;
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, Fd, Signal, SignalFlags, SignalInfo, Signum};

on_every_backend!(
    run_returns_at_once_when_there_is_nothing,
    run_goes_on_while_there_is_a_timer,
    run_goes_on_while_there_is_an_immediate,
    a_timer_fires_beside_a_descriptor_that_is_always_ready,
    run_goes_on_while_a_descriptor_event_wants_something,
    run_goes_on_while_there_is_a_signal_handler,
    run_does_not_wait_for_an_event_without_flags,
    run_does_not_wait_for_a_disarmed_timer_or_an_idle_immediate,
    run_can_be_called_again,
    run_until_asks_before_every_turn,
    run_until_asks_once_a_turn_when_interests_change,
    run_until_goes_on_without_any_event,
    stop_ends_run_after_the_handler_and_leaves_the_rest,
    stop_ends_run_until,
    stop_without_a_loop_does_nothing,
    stop_is_forgotten_when_the_context_starts_anew,
    a_wait_timeout_of_zero_does_not_block,
    a_wait_timeout_is_waited_for_in_full,
    a_wait_timeout_set_in_a_handler_holds_for_the_next_wait,
    without_a_wait_timeout_a_turn_waits_for_a_descriptor,
    next_deadline_is_the_first_timers,
    next_deadline_is_now_while_something_is_scheduled_or_changed,
);

fn run_returns_at_once_when_there_is_nothing(kind: BackendKind) {
    context(kind).run().unwrap();
}

fn run_goes_on_while_there_is_a_timer(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _first = context.add_timer_after(Duration::from_millis(1), log.timer("first"));
    let _second = context.add_timer_after(Duration::from_millis(2), log.timer("second"));
    context.run().unwrap();
    assert_eq!(log.take(), "first second");
}

fn run_goes_on_while_there_is_an_immediate(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| context.defer(inner.once("second")));
    context.run().unwrap();
    assert_eq!(log.take(), "second");
}

fn run_goes_on_while_a_descriptor_event_wants_something(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let inner = log.clone();
    let mut theirs = Some(theirs);
    let handler = move |context: &Context, fd: &tevent::Fd<_>, _| {
        inner.add("called");
        if drain(fd.get_ref()) {
            fd.set_readable(false);
        }
        // It goes with the timer's handler; then there is the end to read.
        if let Some(theirs) = theirs.take() {
            let keep = move |_: &_, _: &_| drop(theirs.peer_addr());
            context
                .add_timer_after(Duration::from_millis(1), keep)
                .detach();
        }
    };
    let _fd = context.add_fd(ours, READ, handler).unwrap();
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "called called",
        "one call for the data, one for the end"
    );
}

fn run_goes_on_while_there_is_a_signal_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let usr2 = Signum::new(libc::SIGUSR2).unwrap();
    let signal = context
        .add_signal(usr2, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    let place = Place::empty();
    place.put(signal);
    let (inner, remover) = (log.clone(), place.clone());
    // Without the timer nothing but the handler is left; its removal ends the loop.
    context
        .add_timer_after(Duration::from_millis(2), move |context, _| {
            inner.add("timer");
            let remover = remover.clone();
            context.defer(move |_| remover.clear());
        })
        .detach();
    context.run().unwrap();
    assert_eq!(log.take(), "timer");
    assert!(
        place.take().is_none(),
        "the loop went on until the handler was removed"
    );
}

fn run_does_not_wait_for_an_event_without_flags(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let _fd = context
        .add_fd(ours, NOTHING, |_, _, _| unreachable!())
        .unwrap();
    context.run().unwrap();
}

fn run_does_not_wait_for_a_disarmed_timer_or_an_idle_immediate(kind: BackendKind) {
    let context = context(kind);
    let timer = context.add_timer_after(GUARD, |_, _| unreachable!());
    timer.disarm();
    let immediate = context.add_immediate(|_, _| unreachable!());
    immediate.schedule();
    immediate.cancel();
    context.run().unwrap();
}

fn run_can_be_called_again(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for _ in 0..3 {
        context.defer(log.once("ran"));
        context.run().unwrap();
    }
    assert_eq!(log.take(), "ran ran ran");
}

fn run_until_asks_before_every_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    context.defer(log.once("one"));
    context.defer(log.once("two"));
    context.run_until(|| true).unwrap();
    assert_eq!(log.take(), "", "it was finished before the first turn");
    let asked = Cell::new(0);
    context
        .run_until(|| {
            asked.set(asked.get() + 1);
            log.len() == 2
        })
        .unwrap();
    assert_eq!(log.take(), "one two");
    assert_eq!(
        asked.get(),
        3,
        "once before each of two turns, and once at the end"
    );
}

fn run_until_goes_on_without_any_event(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::from_micros(100)));
    let asked = Cell::new(0);
    context
        .run_until(|| {
            asked.set(asked.get() + 1);
            asked.get() == 5
        })
        .unwrap();
    assert_eq!(asked.get(), 5, "it asks again after every wait timeout");
}

fn stop_ends_run_after_the_handler_and_leaves_the_rest(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        context.stop();
        inner.add("stopping");
    });
    context.defer(log.once("left"));
    context.run().unwrap();
    assert_eq!(log.take(), "stopping");
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "left",
        "a later run isn't stopped by what stopped an earlier one"
    );
}

fn stop_ends_run_until(kind: BackendKind) {
    let context = context(kind);
    context.defer(|context| context.stop());
    context.run_until(|| false).unwrap();
}

fn stop_without_a_loop_does_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    context.stop();
    context.defer(log.once("first"));
    context.defer(log.once("second"));
    context.run().unwrap();
    assert_eq!(log.take(), "first second");
    context.defer(|context| context.stop());
    context.defer(log.once("after run_once"));
    assert!(context.run_once().unwrap());
    assert!(context.run_once().unwrap());
    assert_eq!(log.take(), "after run_once");
}

fn a_wait_timeout_of_zero_does_not_block(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    let (ours, _theirs) = pair();
    let _fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        assert!(!context.run_once().unwrap());
    }
    assert!(start.elapsed() < GUARD, "a hundred turns didn't block");
}

fn a_wait_timeout_is_waited_for_in_full(kind: BackendKind) {
    let context = context(kind);
    for timeout in [1, 300, 1500, 5001].map(Duration::from_micros) {
        context.set_wait_timeout(Some(timeout));
        let start = Instant::now();
        assert!(!context.run_once().unwrap());
        assert!(
            start.elapsed() >= timeout,
            "a wait of {timeout:?} ended early"
        );
    }
}

fn without_a_wait_timeout_a_turn_waits_for_a_descriptor(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(None);
    let (ours, mut theirs) = pair();
    let _fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let thread = std::thread::spawn(move || {
        use std::io::Write;
        theirs.write_all(b"x").unwrap();
        theirs
    });
    assert!(context.run_once().unwrap(), "the descriptor ended the wait");
    thread.join().unwrap();
}

fn next_deadline_is_the_first_timers(kind: BackendKind) {
    let context = context(kind);
    assert_eq!(context.next_deadline(), None);
    let now = context.now();
    let late = context.add_timer(now + 3 * GUARD, |_, _| ());
    let early = context.add_timer(now + 2 * GUARD, |_, _| ());
    assert_eq!(context.next_deadline(), Some(now + 2 * GUARD));
    early.set_deadline(now + 4 * GUARD);
    assert_eq!(
        context.next_deadline(),
        Some(now + 3 * GUARD),
        "one was postponed"
    );
    late.disarm();
    assert_eq!(
        context.next_deadline(),
        Some(now + 4 * GUARD),
        "one was disarmed"
    );
    drop(early);
    assert_eq!(context.next_deadline(), None, "none is armed");
}

fn next_deadline_is_now_while_something_is_scheduled_or_changed(kind: BackendKind) {
    let context = context(kind);
    let is_now = |what: &str| {
        let deadline = context.next_deadline();
        assert!(
            deadline.is_some_and(|deadline| deadline <= context.now()),
            "{what}"
        );
    };
    context.defer(|_| ());
    is_now("an immediate is scheduled");
    settle(&context);
    assert_eq!(context.next_deadline(), None);
    context.remote().schedule(|_| ());
    is_now("another thread's work came");
    settle(&context);
    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    assert_eq!(
        context.next_deadline(),
        None,
        "the kernel was told when it was added"
    );
    fd.set_writable(true);
    is_now("the kernel is to be told of a change");
    fd.set_flags(NOTHING);
    settle(&context);
    assert_eq!(context.next_deadline(), None);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = readable();
        kept.push((context.add_fd(ours, READ, |_, _, _| ()).unwrap(), theirs));
    }
    assert!(turn(&context));
    is_now("half of a batch is left");
}

/// What the backend is asked to wait for.
#[track_caller]
fn asked_to_wait(prepare: impl FnOnce(&Context)) -> Option<Duration> {
    let (context, recorder) = recorded();
    recorder.fail_wait.set(Some(libc::EINTR));
    prepare(&context);
    context.run_once().expect("an interrupted wait is no error");
    let calls = recorder.take();
    let mut waits = calls.iter().filter_map(|call| match call {
        Call::Wait(timeout) => Some(*timeout),
        _ => None,
    });
    let timeout = waits.next().expect("the turn waits");
    assert_eq!(waits.next(), None, "a turn waits once");
    timeout
}

#[test]
fn a_turn_waits_for_at_most_the_wait_timeout() {
    let second = Duration::from_secs(1);
    let set = |timeout| asked_to_wait(move |context| context.set_wait_timeout(timeout));
    assert_eq!(set(Some(second)), Some(second));
    assert_eq!(set(Some(Duration::ZERO)), Some(Duration::ZERO));
    assert_eq!(set(None), None, "without a timeout it is for ever");
    assert_eq!(
        Context::new().unwrap().wait_timeout(),
        Some(30 * second),
        "the default"
    );
}

#[test]
fn a_turn_waits_for_at_most_the_time_to_the_next_timer() {
    let minute = Duration::from_secs(60);
    let with_timer = |timeout| {
        asked_to_wait(move |context| {
            context.set_wait_timeout(timeout);
            context.add_timer_after(minute, |_, _| ()).detach();
            context.add_timer_after(2 * minute, |_, _| ()).detach();
        })
    };
    for timeout in [None, Some(2 * minute)] {
        let waited = with_timer(timeout).expect("the timer limits the wait");
        assert!(waited <= minute && waited > minute / 2, "{waited:?}");
    }
    assert_eq!(
        with_timer(Some(Duration::from_secs(1))),
        Some(Duration::from_secs(1))
    );
}

#[test]
fn a_loop_that_runs_without_waiting_never_asks_for_the_kernel() {
    let (context, recorder) = recorded();
    let left = Rc::new(Cell::new(100));
    let immediate = context.add_immediate(move |_, immediate| {
        left.set(left.get() - 1);
        if left.get() > 0 {
            immediate.schedule();
        }
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(recorder.take(), [], "immediates need no system call");
}

/// A loop that has nothing but a descriptor, which is ready each time, and calls `happen` in its
/// first call. How often it was called until `run` returned.
fn calls_until_the_end(
    context: &Context,
    happen: impl FnOnce(&Context, &Fd<UnixStream>) + 'static,
) -> (std::io::Result<()>, usize) {
    let (ours, _peer) = readable();
    let calls = Rc::new(Cell::new(0));
    let (counter, happening) = (Rc::clone(&calls), Cell::new(Some(happen)));
    let _event = context.add_fd(ours, READ, move |context, event, _| {
        counter.set(counter.get() + 1);
        assert!(counter.get() < 100, "the loop never ends");
        if let Some(happen) = happening.take() {
            happen(context, event);
        }
    });
    let result = context.run();
    (result, calls.get())
}

#[test]
fn a_wait_that_fails_ends_a_busy_loop() {
    let (context, recorder) = recorded();
    let (result, calls) = calls_until_the_end(&context, move |_, _| {
        recorder.fail_wait.set(Some(libc::ENOMEM));
    });
    let error = result.expect_err("the backend failed").to_string();
    assert!(error.starts_with("wait: "), "{error}");
    assert_eq!(calls, 1);
}

#[test]
fn a_signal_that_comes_while_a_busy_loop_waits_goes_before_descriptors() {
    let (context, recorder) = recorded();
    let log = Log::new();
    let (ours, mut theirs) = pair();
    let _fd = context.add_fd(ours, READ, log.fd("descriptor")).unwrap();
    let inner = log.clone();
    let handler = move |context: &Context, _: &Signal, _: &SignalInfo| {
        inner.add("signal");
        if inner.len() == 2 {
            context.stop();
        }
    };
    let _signal = context
        .add_signal(Signum::SIGUSR1, SignalFlags::empty(), handler)
        .unwrap();
    // SAFETY: no memory is involved, and the signal has a handler.
    let raise = || _ = unsafe { libc::raise(libc::SIGUSR1) };
    // The first has the backend report the wake-up descriptor behind the other one from then on.
    let record = Rc::clone(&recorder);
    recorder.in_wait.set(Some(Box::new(move || {
        raise();
        record.in_wait.set(Some(Box::new(move || {
            theirs.write_all(b"x").unwrap();
            raise();
        })));
    })));
    context.run().unwrap();
    assert_eq!(log.take(), "signal signal");
}

#[test]
fn what_rings_before_a_busy_loop_waits_keeps_it_from_waiting() {
    let (context, recorder) = recorded();
    let record = Rc::clone(&recorder);
    let (result, calls) = calls_until_the_end(&context, move |context, event| {
        drain(event.get_ref());
        let remote = context.remote();
        let ring = move || assert!(remote.schedule(Context::stop));
        record.in_modify.set(Some(Box::new(ring)));
        event.set_flags(READ | ERROR);
        record.take();
    });
    result.unwrap();
    assert_eq!(calls, 1);
    let blocks = Call::Wait(Some(GUARD));
    assert!(!recorder.take().contains(&blocks), "it didn't block");
}

#[test]
fn a_descriptor_that_is_always_ready_keeps_no_timer_waiting() {
    let (context, _recorder) = recorded();
    let start = Instant::now();
    let (ours, _peer) = readable();
    let _event = context.add_fd(ours, READ, move |_, _, _| {
        assert!(start.elapsed() < GUARD, "the timer isn't called");
    });
    let _timer = context.add_timer_after(Duration::from_millis(2), |context, _| context.stop());
    context.run().unwrap();
}

fn a_wait_timeout_set_in_a_handler_holds_for_the_next_wait(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let _fd = context.add_fd(ours, READ, move |context, event, _| {
        counter.set(counter.get() + 1);
        if counter.get() == 3 {
            drain(event.get_ref());
            context.set_wait_timeout(Some(Duration::from_millis(1)));
        }
    });
    let asked = Cell::new(0);
    run_until(&context, "the condition is asked after the wait", || {
        asked.set(asked.get() + usize::from(calls.get() == 3));
        asked.get() >= 3
    });
}

/// How long each loop waits without a wait timeout of its own, and with one; with and without a
/// timer.
#[test]
fn only_run_waits_for_as_long_as_it_takes_by_default() {
    const HOUR: Duration = Duration::from_secs(3600);
    const TEVENTS: Duration = Duration::from_secs(30);
    let (builder, recorder) = recording_by_default();
    let context = builder.build().unwrap();
    assert_eq!(context.wait_timeout(), Some(TEVENTS));
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |context, _, _| context.stop());
    let waits = || {
        recorder.take();
        context.run().unwrap();
        context.run_until(|| false).unwrap();
        assert!(context.run_once().unwrap());
        let limit = |call| match call {
            Call::Wait(limit) => limit,
            other => panic!("{other:?}"),
        };
        recorder.take().into_iter().map(limit).collect::<Vec<_>>()
    };
    assert_eq!(waits(), [None, Some(TEVENTS), Some(TEVENTS)]);

    let timer = context.add_timer_after(HOUR, |_, _| ());
    let with_timer = waits();
    let to_timer = with_timer[0].expect("run waits for the timer");
    assert!(to_timer > TEVENTS && to_timer <= HOUR, "{to_timer:?}");
    assert_eq!(with_timer[1..], [Some(TEVENTS), Some(TEVENTS)]);
    drop(timer);

    context.set_wait_timeout(Some(TEVENTS));
    assert_eq!(waits(), [Some(TEVENTS); 3]);
    context.set_wait_timeout(None);
    assert_eq!(waits(), [None; 3]);
}

fn a_timer_fires_beside_a_descriptor_that_is_always_ready(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |_, _, _| ());
    let is_fired = Flag::new();
    let fired = is_fired.clone();
    let _timer = context.add_timer_after(Duration::from_millis(5), move |_, _| fired.set());
    run_until(&context, "the timer fires", || is_fired.is_set());
}

fn stop_is_forgotten_when_the_context_starts_anew(kind: BackendKind) {
    let context = context(kind);
    let ran = Flag::new();
    let setter = ran.clone();
    context.defer(move |context| {
        context.stop();
        context.reinitialise().unwrap();
        context.defer(move |_| setter.set());
    });
    context.run().unwrap();
    assert!(ran.is_set(), "the loop goes on with what it has now");
}

fn run_until_asks_once_a_turn_when_interests_change(kind: BackendKind) {
    for far in [None, Some(Duration::from_secs(3600))] {
        let context = context(kind);
        let _timer = far.map(|far| context.add_timer_after(far, |_, _| unreachable!()));
        let (ours, _theirs) = readable();
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let event = context.add_fd(ours, READ, move |_, event, _| {
            count.set(count.get() + 1);
            event.set_want_error(count.get() % 2 == 0);
        });
        let _event = event.unwrap();
        let mut asked = 0;
        let before = context.stats().turns;
        let finished = || {
            asked += 1;
            calls.get() == 100
        };
        context.run_until(finished).unwrap();
        assert_eq!(asked, context.stats().turns - before + 1);
    }
}
