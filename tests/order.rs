//! One turn of the loop: what goes first, and what a turn is.

mod common;

use common::*;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tevent::{BackendKind, Context, Signal, SignalFlags, SignalInfo, Signum};

on_every_backend!(
    signals_go_before_immediates_those_before_timers_and_those_before_descriptors,
    signals_go_before_an_only_immediate_that_schedules_itself,
    the_order_is_looked_at_anew_between_two_descriptors_of_one_batch,
    a_turn_calls_one_handler,
    what_a_handler_adds_is_for_the_next_turn,
    other_threads_work_goes_behind_the_immediates_scheduled_before,
    other_threads_work_goes_before_timers_and_descriptors,
    other_threads_work_goes_before_the_rest_of_a_batch,
    work_from_another_thread_wakes_the_loop,
    a_turn_that_finds_nothing_says_so,
    a_timer_that_became_due_while_waiting_runs_in_the_same_turn,
    an_immediate_needs_no_wait,
    batch_of_one_looks_at_the_kernel_before_every_handler,
    a_batch_is_handed_out_one_descriptor_a_turn,
    the_earliest_of_many_kinds_wins_each_time,
);

/// Those who raise signals, which reach all contexts of the process, go one after another.
static SIGNALS: Mutex<()> = Mutex::new(());

fn signals_go_before_immediates_those_before_timers_and_those_before_descriptors(
    kind: BackendKind,
) {
    let _alone = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("descriptor")).unwrap();
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    context.defer(log.once("immediate"));
    let signal_log = log.clone();
    let _signal = context
        .add_signal(
            Signum::new(libc::SIGUSR1).unwrap(),
            SignalFlags::empty(),
            move |_, _, _| {
                signal_log.add("signal");
            },
        )
        .unwrap();
    // SAFETY: no memory is involved, and the signal has a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(turns(&context, 4), 4, "each turn calls one handler");
    assert_eq!(log.take(), "signal immediate timer descriptor");
}

fn signals_go_before_an_only_immediate_that_schedules_itself(kind: BackendKind) {
    let _alone = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let immediate = context.add_immediate(move |_, immediate| {
        inner.add("immediate");
        immediate.schedule();
        // SAFETY: no memory is involved, and the signal has a handler.
        unsafe { libc::raise(libc::SIGUSR1) };
    });
    immediate.schedule();
    let inner = log.clone();
    let handler = move |context: &Context, _: &Signal, _: &SignalInfo| {
        inner.add("signal");
        context.stop();
    };
    let _signal = context
        .add_signal(Signum::SIGUSR1, SignalFlags::empty(), handler)
        .unwrap();
    for _ in 0..2 {
        context.run().unwrap();
        assert_eq!(log.take(), "immediate signal");
    }
}

fn the_order_is_looked_at_anew_between_two_descriptors_of_one_batch(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = readable();
        let log = log.clone();
        let fd = context
            .add_fd(ours, READ, move |context, fd, _| {
                drain(fd.get_ref());
                log.add("descriptor");
                context
                    .add_timer(context.now(), log.timer("timer"))
                    .detach();
                context.defer(log.once("immediate"));
            })
            .unwrap();
        kept.push((fd, theirs));
    }
    settle(&context);
    let expected = "descriptor immediate timer descriptor immediate timer";
    assert_eq!(
        log.take(),
        expected,
        "whether or not both were found ready by one wait"
    );
}

fn a_turn_calls_one_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for _ in 0..3 {
        context.defer(log.once("immediate"));
        context
            .add_timer(context.now(), log.timer("timer"))
            .detach();
    }
    let sockets: Vec<_> = (0..3).map(|_| readable()).collect();
    let mut peers = Vec::new();
    for (ours, theirs) in sockets {
        context
            .add_fd(ours, READ, log.fd("descriptor"))
            .unwrap()
            .detach();
        peers.push(theirs);
    }
    for expected in 1..=9 {
        assert!(turn(&context));
        assert_eq!(log.len(), expected, "a turn calls one handler");
    }
}

fn what_a_handler_adds_is_for_the_next_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        inner.add("outer");
        context.defer(inner.once("immediate"));
        context
            .add_timer(context.now(), inner.timer("timer"))
            .detach();
    });
    assert!(turn(&context));
    assert_eq!(log.take(), "outer");
    assert!(turn(&context));
    assert_eq!(log.take(), "immediate");
    assert!(turn(&context));
    assert_eq!(log.take(), "timer");
}

fn other_threads_work_goes_behind_the_immediates_scheduled_before(kind: BackendKind) {
    let context = context(kind);
    let order = Rc::new(Cell::new(0));
    let note = |expected: u32| {
        let order = Rc::clone(&order);
        move |_: &tevent::Context| {
            assert_eq!(order.get(), expected, "the order of scheduling is kept");
            order.set(expected + 1);
        }
    };
    thread_local!(static HERE: Cell<u32> = const { Cell::new(0) });
    context.defer(note(0));
    let remote = context.remote();
    std::thread::spawn(move || {
        remote.schedule(|_| HERE.set(HERE.get() * 10 + 1));
        remote.schedule(|_| HERE.set(HERE.get() * 10 + 2));
    })
    .join()
    .unwrap();
    context.defer(|_| assert_eq!(HERE.get(), 0, "it was in the queue before the others came"));
    context.defer(note(1));
    assert_eq!(turns(&context, 3), 3);
    context.defer(|_| assert_eq!(HERE.get(), 12, "they came before this"));
    assert_eq!(settle(&context), 3);
    assert_eq!((order.get(), HERE.get()), (2, 12));
}

fn other_threads_work_goes_before_timers_and_descriptors(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("descriptor")).unwrap();
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    let remote = context.remote();
    thread_local!(static RAN: Cell<bool> = const { Cell::new(false) });
    std::thread::spawn(move || remote.schedule(|_| RAN.set(true)))
        .join()
        .unwrap();
    assert!(turn(&context));
    assert!(
        RAN.get() && log.len() == 0,
        "the other thread's work goes first"
    );
    assert_eq!(turns(&context, 2), 2);
    assert_eq!(log.take(), "timer descriptor");
}

fn other_threads_work_goes_before_the_rest_of_a_batch(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _events = [(); 2].map(|()| {
        let (ours, peer) = readable();
        let (inner, remote) = (log.clone(), context.remote());
        let event = context.add_fd(ours, READ, move |_, event, _| {
            drain(event.get_ref());
            inner.add("descriptor");
            assert!(remote.schedule(Context::stop));
        });
        (event.unwrap(), peer)
    });
    for _ in 0..2 {
        context.run().unwrap();
        assert_eq!(log.take(), "descriptor");
    }
}

fn work_from_another_thread_wakes_the_loop(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(None);
    thread_local!(static RAN: Cell<bool> = const { Cell::new(false) });
    let remote = context.remote();
    let thread = std::thread::spawn(move || remote.schedule(|_| RAN.set(true)));
    context.run_until(|| RAN.get()).unwrap();
    assert!(thread.join().unwrap(), "it was accepted");
}

fn a_turn_that_finds_nothing_says_so(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    assert!(!context.run_once().unwrap(), "nothing is registered");
    let (ours, _theirs) = pair();
    let _fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    let _timer = context.add_timer_after(GUARD, |_, _| unreachable!());
    assert!(!context.run_once().unwrap(), "nothing is ready or due");
}

fn a_timer_that_became_due_while_waiting_runs_in_the_same_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _timer = context.add_timer_after(Duration::from_millis(3), log.timer("timer"));
    assert!(context.run_once().unwrap(), "the wait ends with the timer");
    assert_eq!(log.take(), "timer");
}

fn an_immediate_needs_no_wait(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(None);
    context.defer(|_| ());
    // Would it wait, it would for ever.
    assert!(context.run_once().unwrap());
}

/// The second descriptor becomes unreadable by the first's handler.
fn batch_of_one_looks_at_the_kernel_before_every_handler(kind: BackendKind) {
    for (batch, expected) in [(1, 1), (256, 2)] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let (first, _peer) = readable();
        let (second, _other_peer) = readable();
        let sockets = Rc::new([first, second]);
        let mut kept = Vec::new();
        for index in 0..2 {
            let (log, all) = (log.clone(), Rc::clone(&sockets));
            let handler = move |_: &_, _: &_, _| {
                log.add("called");
                all.iter().for_each(|socket| {
                    drain(socket);
                });
            };
            let own = sockets[index].try_clone().unwrap();
            kept.push(context.add_fd(own, READ, handler).unwrap());
        }
        settle(&context);
        assert_eq!(log.len(), expected, "with a batch of {batch}");
    }
}

fn a_batch_is_handed_out_one_descriptor_a_turn(kind: BackendKind) {
    for batch in [1, 2, 3, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let mut kept = Vec::new();
        for _ in 0..7 {
            let (ours, theirs) = readable();
            let log = log.clone();
            let fd = context.add_fd(ours, READ, move |_, fd, _| {
                drain(fd.get_ref());
                log.add("called");
            });
            kept.push((fd.unwrap(), theirs));
        }
        for expected in 1..=7 {
            assert!(turn(&context));
            assert_eq!(
                log.len(),
                expected,
                "one handler a turn, with a batch of {batch}"
            );
        }
        assert!(
            !turn(&context),
            "each was called once, with a batch of {batch}"
        );
    }
}

/// A chain of handlers, each of which makes the next kind runnable.
fn the_earliest_of_many_kinds_wins_each_time(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let on_fd = log.clone();
    let _fd = context
        .add_fd(ours, READ, move |context, fd, _| {
            on_fd.add("descriptor");
            if on_fd.count("descriptor") == 3 {
                drain(fd.get_ref());
            }
            let on_timer = on_fd.clone();
            context
                .add_timer(context.now(), move |context, _| {
                    on_timer.add("timer");
                    context.defer(on_timer.once("immediate"));
                })
                .detach();
        })
        .unwrap();
    settle(&context);
    assert_eq!(
        log.take(),
        "descriptor timer immediate descriptor timer immediate descriptor timer immediate"
    );
}
