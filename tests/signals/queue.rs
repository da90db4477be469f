//! Siginfo waits in a queue of 256; then the signal is blocked, not lost.

use crate::process::{self, context, sys, tests};
use crate::{counting, realtime, valued};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tevent::{BackendKind, Context, Signum};

pub const TESTS: &[process::Test] = tests![
    two_thousand_from_another_process_arrive_in_order,
    two_thousand_from_the_own_thread_arrive_in_order,
    two_thousand_sent_by_a_busy_handler_arrive_in_order,
    two_thousand_from_another_thread_arrive,
    two_thousand_arrive_when_another_thread_may_receive_them,
    two_thousand_received_by_another_thread_arrive,
    the_signal_is_blocked_while_the_queue_is_full_and_only_then,
    a_full_queue_holds_up_no_other_signal,
    plain_handlers_need_no_queue,
    every_context_of_the_thread_gets_what_was_blocked,
    contexts_of_one_thread_get_what_another_received,
    removing_the_siginfo_handler_unblocks_for_the_plain_ones,
    a_context_that_goes_with_a_full_queue_takes_what_was_sent_to_it_along,
    standard_signals_that_another_thread_receives_confuse_no_other_context,
];

const MANY: usize = 2000;

fn two_thousand_from_another_process_arrive_in_order(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    let me = std::process::id();
    let child = sys::fork(|| {
        for value in 0..MANY {
            sys::sigqueue(me, realtime(1), value);
        }
    });
    context.run_until(|| values.len() == MANY).unwrap();
    assert!(values.take().into_iter().eq(0..MANY), "all, in order");
    sys::assert_succeeds(child);
    sys::assert_masks_are_clean();
}

fn two_thousand_from_the_own_thread_arrive_in_order(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    for value in 0..MANY {
        sys::sigqueue(std::process::id(), realtime(1), value);
    }
    context.run_until(|| values.len() == MANY).unwrap();
    assert!(values.take().into_iter().eq(0..MANY), "all, in order");
    sys::assert_masks_are_clean();
}

fn two_thousand_sent_by_a_busy_handler_arrive_in_order(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    let seen = values.clone();
    context.defer(move |_| {
        let me = std::process::id();
        let child = sys::fork(|| {
            for value in 0..MANY {
                sys::sigqueue(me, realtime(1), value);
            }
        });
        sys::assert_succeeds(child);
        assert_eq!(seen.len(), 0, "the loop was busy");
    });
    context.run_until(|| values.len() == MANY).unwrap();
    assert!(values.take().into_iter().eq(0..MANY), "all, in order");
    sys::assert_masks_are_clean();
}

fn two_thousand_from_another_thread_arrive(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    let (_plain, counts) = counting(&context, realtime(1));
    thread::scope(|scope| {
        scope.spawn(move || {
            for value in 0..MANY {
                sys::sigqueue(std::process::id(), realtime(1), value);
            }
            sys::assert_own_mask_is_clean();
        });
        context.run_until(|| values.len() == MANY).unwrap();
    });
    // One that arrives while the loop looks is counted in the next turn.
    context.set_wait_timeout(Some(Duration::ZERO));
    while context.run_once().unwrap() {}
    // Both threads may receive them, so the order is anybody's guess.
    let mut values = values.take();
    values.sort_unstable();
    assert!(values.into_iter().eq(0..MANY), "each value once");
    let total: u32 = counts.take().iter().sum();
    assert_eq!(total as usize, MANY, "and all were counted");
    sys::assert_masks_are_clean();
}

fn two_thousand_arrive_when_another_thread_may_receive_them(kind: BackendKind) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // The kernel looks for any thread that doesn't block the signal.
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            });
        }
        let context = context(kind);
        let (_signal, values) = valued(&context, realtime(1));
        let me = std::process::id();
        let child = sys::fork(|| {
            for value in 0..MANY {
                sys::sigqueue(me, realtime(1), value);
            }
        });
        sys::assert_succeeds(child);
        context.run_until(|| values.len() == MANY).unwrap();
        let mut values = values.take();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..MANY), "each value once");
        sys::assert_masks_are_clean();
        done.store(true, Ordering::SeqCst);
    });
}

fn two_thousand_received_by_another_thread_arrive(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for value in 0..MANY {
                sys::sigqueue_to_this_thread(realtime(1), value);
                assert_eq!(sys::blocked_signals(), 0, "blocking here helps nobody");
            }
        });
        sys::wait_until("they were sent", || sender.is_finished());
    });
    context.run_until(|| values.len() == MANY).unwrap();
    // The first that found no room went round once more, behind others.
    let mut values = values.take();
    values.sort_unstable();
    assert!(values.into_iter().eq(0..MANY), "each value once");
    sys::assert_masks_are_clean();
}

fn the_signal_is_blocked_while_the_queue_is_full_and_only_then(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(1));
    for round in 0..3 {
        for value in 0..255 {
            sys::sigqueue(std::process::id(), realtime(1), value);
        }
        assert_eq!(sys::blocked_signals(), 0, "there is room for one, {round}");
        sys::sigqueue(std::process::id(), realtime(1), 255);
        assert_eq!(
            sys::blocked_signals(),
            sys::bit(realtime(1)),
            "256 are queued"
        );
        sys::sigqueue(std::process::id(), realtime(1), 256);
        context.run_until(|| values.len() == 257).unwrap();
        assert_eq!(sys::blocked_signals(), 0, "they were handed out");
        assert!(values.take().into_iter().eq(0..257));
    }
}

fn a_full_queue_holds_up_no_other_signal(kind: BackendKind) {
    let context = context(kind);
    let (_full, full) = valued(&context, realtime(1));
    let (_other, other) = valued(&context, realtime(2));
    let (_plain, plain) = counting(&context, Signum::SIGUSR1);
    for value in 0..1000 {
        sys::sigqueue(std::process::id(), realtime(1), value);
    }
    sys::sigqueue(std::process::id(), realtime(2), 7);
    sys::raise(Signum::SIGUSR1);
    assert!(context.run_once().unwrap());
    assert_eq!((other.take(), plain.take()), (vec![7], vec![1]));
    context.run_until(|| full.len() == 1000).unwrap();
}

fn plain_handlers_need_no_queue(kind: BackendKind) {
    let context = context(kind);
    let (_signal, counts) = counting(&context, realtime(1));
    for _ in 0..MANY {
        sys::raise(realtime(1));
        assert_eq!(sys::blocked_signals(), 0);
    }
    context.run_once().unwrap();
    assert_eq!(counts.take(), [MANY as u32]);
}

/// The signal is blocked until the queues of all contexts of the thread have room.
fn run_in_turns(contexts: &[Context], done: impl Fn() -> bool) {
    while !done() {
        for context in contexts {
            context.set_wait_timeout(Some(Duration::ZERO));
            context.run_once().unwrap();
        }
    }
}

fn contexts_of_one_thread_get_what_another_received(kind: BackendKind) {
    const SENT: usize = 600;
    let contexts = [context(kind), context(kind)];
    let handlers = contexts
        .each_ref()
        .map(|context| valued(context, realtime(1)));
    thread::scope(|scope| {
        scope.spawn(|| {
            for value in 0..SENT {
                sys::sigqueue_to_this_thread(realtime(1), value);
            }
        });
    });
    run_in_turns(&contexts, || {
        handlers.iter().all(|(_, values)| values.len() >= SENT)
    });
    for (_, values) in &handlers {
        let mut values = values.take();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..SENT), "each value once");
    }
    sys::assert_masks_are_clean();
}

fn every_context_of_the_thread_gets_what_was_blocked(kind: BackendKind) {
    let contexts = [context(kind), context(kind)];
    let handlers = contexts
        .each_ref()
        .map(|context| valued(context, realtime(1)));
    for value in 0..MANY {
        sys::sigqueue(std::process::id(), realtime(1), value);
    }
    run_in_turns(&contexts, || {
        handlers.iter().all(|(_, values)| values.len() >= MANY)
    });
    for (_, values) in &handlers {
        assert!(values.take().into_iter().eq(0..MANY), "all, in order, once");
    }
    sys::assert_masks_are_clean();
}

fn removing_the_siginfo_handler_unblocks_for_the_plain_ones(kind: BackendKind) {
    let context = context(kind);
    let (info, _) = valued(&context, realtime(1));
    let (_plain, counts) = counting(&context, realtime(1));
    for value in 0..1000 {
        sys::sigqueue(std::process::id(), realtime(1), value);
    }
    drop(info);
    assert_eq!(sys::blocked_signals(), 0);
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1000]);
}

fn a_context_that_goes_with_a_full_queue_takes_what_was_sent_to_it_along(kind: BackendKind) {
    let context = context(kind);
    // The default disposition of the signal is to kill the process.
    let (signal, _) = valued(&context, realtime(1));
    for value in 0..1000 {
        sys::sigqueue(std::process::id(), realtime(1), value);
    }
    drop(context);
    assert_eq!(sys::handler_of(realtime(1)), libc::SIG_DFL);
    sys::assert_masks_are_clean();
    drop(signal);
}

fn standard_signals_that_another_thread_receives_confuse_no_other_context(kind: BackendKind) {
    let (full, other) = (context(kind), context(kind));
    let (_full, calls) = crate::infos(&full, Signum::SIGUSR1);
    let (_other, counts) = counting(&other, Signum::SIGUSR1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                sys::raise(Signum::SIGUSR1);
            }
        });
    });
    other.run_once().unwrap();
    assert_eq!(counts.take(), [300]);
    // The kernel merges standard signals while they are blocked, so the rest is one.
    full.set_wait_timeout(Some(Duration::ZERO));
    while full.run_once().unwrap() {}
    assert_eq!(calls.len(), 257);
    let sender = Some(std::process::id());
    for siginfo in calls.take() {
        assert_eq!(siginfo.sender_pid(), sender);
        assert_eq!(siginfo.code(), libc::SI_TKILL, "also of the one sent on");
    }
    for _ in 0..10 {
        sys::raise(Signum::SIGUSR1);
    }
    other.run_once().unwrap();
    assert_eq!(counts.take(), [10], "each context gets every signal");
    while full.run_once().unwrap() {}
    assert_eq!(calls.len(), 10);
}
