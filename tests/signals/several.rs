//! Several contexts in one process: each gets every signal.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime, valued};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tevent::{BackendKind, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    each_of_several_contexts_on_one_thread_gets_every_signal,
    each_of_several_contexts_on_several_threads_gets_every_signal,
    each_context_gets_siginfo_of_every_signal,
    the_others_go_on_when_one_context_goes,
    contexts_with_different_signals_are_told_of_their_own_only,
    one_context_may_be_run_in_a_handler_of_another,
];

fn each_of_several_contexts_on_one_thread_gets_every_signal(kind: BackendKind) {
    let contexts = [context(kind), context(kind), context(kind)];
    let handlers: Vec<_> = contexts
        .iter()
        .map(|context| counting(context, Signum::SIGUSR1))
        .collect();
    sys::raise(Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    for (context, (_, counts)) in contexts.iter().zip(&handlers) {
        assert!(context.run_once().unwrap());
        assert_eq!(counts.take(), [2]);
    }
    // Each wakes on its own account, too.
    let me = std::process::id();
    for (context, (_, counts)) in contexts.iter().zip(&handlers) {
        let child = sys::fork(|| {
            sys::wait_until("the loop waits", || sys::state_of(me) == Some('S'));
            sys::kill(me, Signum::SIGUSR1);
        });
        while counts.len() == 0 {
            context.run_once().unwrap();
        }
        sys::assert_succeeds(child);
    }
}

fn each_of_several_contexts_on_several_threads_gets_every_signal(kind: BackendKind) {
    const SIGNALS: u32 = 500;
    let ready = AtomicUsize::new(0);
    thread::scope(|scope| {
        let loops: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let context = context(kind);
                    let total = Rc::new(Cell::new(0));
                    let sum = Rc::clone(&total);
                    let _signal = context
                        .add_signal(realtime(0), SignalFlags::empty(), move |_, _, info| {
                            sum.set(sum.get() + info.count);
                        })
                        .unwrap();
                    ready.fetch_add(1, Ordering::SeqCst);
                    context.run_until(|| total.get() >= SIGNALS).unwrap();
                    total.get()
                })
            })
            .collect();
        sys::wait_until("the contexts are there", || {
            ready.load(Ordering::SeqCst) == loops.len()
        });
        for _ in 0..SIGNALS {
            sys::sigqueue(std::process::id(), realtime(0), 0);
        }
        for context in loops {
            assert_eq!(
                context.join().unwrap(),
                SIGNALS,
                "every context, every signal"
            );
        }
    });
    sys::assert_masks_are_clean();
}

fn each_context_gets_siginfo_of_every_signal(kind: BackendKind) {
    const SIGNALS: usize = 2000;
    let ready = AtomicUsize::new(0);
    let loop_until_all_came = || {
        let context = context(kind);
        let (_signal, values) = valued(&context, realtime(0));
        ready.fetch_add(1, Ordering::SeqCst);
        context.run_until(|| values.len() >= SIGNALS).unwrap();
        let mut values = values.take();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..SIGNALS), "each value once");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(loop_until_all_came);
        }
        sys::wait_until("the contexts are there", || {
            ready.load(Ordering::SeqCst) == 2
        });
        for value in 0..SIGNALS {
            sys::sigqueue(std::process::id(), realtime(0), value);
        }
    });
    sys::assert_masks_are_clean();
}

fn the_others_go_on_when_one_context_goes(kind: BackendKind) {
    let (first, second) = (context(kind), context(kind));
    let (_first, first_counts) = counting(&first, Signum::SIGUSR1);
    let (_second, second_counts) = counting(&second, Signum::SIGUSR1);
    drop(first);
    sys::raise(Signum::SIGUSR1);
    second.run_once().unwrap();
    assert_eq!((first_counts.len(), second_counts.take()), (0, vec![1]));
    drop(second);
    assert_eq!(
        sys::handler_of(Signum::SIGUSR1),
        libc::SIG_DFL,
        "the last one of the process restores the disposition"
    );
}

fn contexts_with_different_signals_are_told_of_their_own_only(kind: BackendKind) {
    let (first, second) = (context(kind), context(kind));
    let (_first, first_counts) = counting(&first, Signum::SIGUSR1);
    let (_second, second_counts) = counting(&second, Signum::SIGUSR2);
    sys::raise(Signum::SIGUSR1);
    second.set_wait_timeout(Some(std::time::Duration::ZERO));
    assert!(!second.run_once().unwrap());
    assert!(first.run_once().unwrap());
    assert_eq!((first_counts.take(), second_counts.len()), (vec![1], 0));
}

fn one_context_may_be_run_in_a_handler_of_another(kind: BackendKind) {
    let (outer, inner) = (context(kind), context(kind));
    let (_inner_signal, inner_counts) = counting(&inner, Signum::SIGUSR1);
    let calls = Log::new();
    let log = calls.clone();
    let _outer_signal = outer
        .add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, info| {
            log.push(info.count);
            if log.len() == 1 {
                sys::raise(Signum::SIGUSR1);
            }
            inner.run_once().unwrap();
        })
        .unwrap();
    sys::raise(Signum::SIGUSR1);
    outer.run_once().unwrap();
    assert_eq!(inner_counts.take(), [2]);
    assert_eq!(calls.take(), [1]);
}
