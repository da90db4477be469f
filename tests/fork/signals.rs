//! Whose signals are whose after a fork.

use crate::process::{self, context, sys, tests};
use crate::{BY, Flag, fork, in_child, run_what_is_ready};
use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use tevent::{BackendKind, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    signals_that_came_before_the_fork_stay_with_the_parent,
    siginfo_that_came_before_the_fork_stays_with_the_parent,
    a_full_queue_of_the_parent_leaves_the_child_a_clean_mask,
    what_was_left_to_be_called_when_a_handler_forked_stays_with_the_parent,
    a_signal_sent_to_a_child_that_has_not_noticed_the_fork_is_not_lost,
    a_child_forked_by_a_thread_without_a_context_has_the_dispositions_of_before,
];

fn signals_that_came_before_the_fork_stay_with_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let called = Flag::default();
        let flag = called.clone();
        let _signal =
            context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, info| {
                assert_eq!(info.count, 2);
                flag.raise();
            });
        sys::raise(Signum::SIGUSR1);
        sys::raise(Signum::SIGUSR1);
        in_child(&context, by, || {
            assert_eq!(
                run_what_is_ready(&context),
                0,
                "they were sent to the parent"
            );
            sys::raise(Signum::SIGUSR1);
            sys::raise(Signum::SIGUSR1);
            assert_eq!(run_what_is_ready(&context), 1, "its own");
        });
        assert_eq!(run_what_is_ready(&context), 1, "{by:?}");
        assert_eq!(called.count(), 1);
    }
}

fn siginfo_that_came_before_the_fork_stays_with_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let values = Flag::default();
        let sum = values.clone();
        let signum = Signum::realtime(0).unwrap();
        let _signal = context.add_signal(signum, SignalFlags::SIGINFO, move |_, _, info| {
            let value = info.siginfo.unwrap().value().unwrap() as u32;
            sum.0.set(sum.0.get() * 10 + value);
        });
        sys::sigqueue(std::process::id(), signum, 1);
        sys::sigqueue(std::process::id(), signum, 2);
        in_child(&context, by, || {
            sys::sigqueue(std::process::id(), signum, 3);
            run_what_is_ready(&context);
            assert_eq!(values.count(), 3, "its own only, {by:?}");
        });
        run_what_is_ready(&context);
        assert_eq!(values.count(), 12, "{by:?}");
    }
}

fn a_full_queue_of_the_parent_leaves_the_child_a_clean_mask(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let calls = Flag::default();
        let flag = calls.clone();
        let signum = Signum::realtime(0).unwrap();
        let _signal = context.add_signal(signum, SignalFlags::SIGINFO, move |_, _, _| flag.raise());
        for _ in 0..1000 {
            sys::sigqueue(std::process::id(), signum, 1);
        }
        in_child(&context, by, || {
            assert_eq!(run_what_is_ready(&context), 0);
            sys::assert_masks_are_clean();
            for _ in 0..600 {
                sys::sigqueue(std::process::id(), signum, 1);
            }
            context.run_until(|| calls.count() == 600).unwrap();
            sys::assert_masks_are_clean();
        });
        context.run_until(|| calls.count() == 1000).unwrap();
        sys::assert_masks_are_clean();
    }
}

fn what_was_left_to_be_called_when_a_handler_forked_stays_with_the_parent(kind: BackendKind) {
    for by in BY {
        for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
            let context = context(kind);
            let parent = std::process::id();
            let older = Flag::default();
            let flag = older.clone();
            let _older = context.add_signal(Signum::SIGUSR1, flags, move |_, _, _| flag.raise());
            let child = Rc::new(Cell::new(None));
            let slot = Rc::clone(&child);
            let _forking = context.add_signal(Signum::SIGUSR1, flags, move |context, _, _| {
                slot.set(fork(context, by));
            });
            let flag = older.clone();
            let _higher = context.add_signal(Signum::SIGUSR2, flags, move |_, _, _| flag.raise());
            sys::raise(Signum::SIGUSR2);
            sys::raise(Signum::SIGUSR1);
            context.run_once().unwrap();
            if std::process::id() != parent {
                process::end_with(|| {
                    run_what_is_ready(&context);
                    assert_eq!(older.count(), 0, "they were sent to the parent");
                });
            }
            sys::assert_succeeds(child.get().expect("the parent knows its child"));
            assert_eq!(older.count(), 2, "{by:?}");
        }
    }
}

fn a_signal_sent_to_a_child_that_has_not_noticed_the_fork_is_not_lost(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let called = Flag::default();
        let flag = called.clone();
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, _| {
            flag.raise();
        });
        // At once after the fork, however early that is.
        for _ in 0..50 {
            let pid = match fork(&context, by) {
                Some(pid) => pid,
                None => process::end_with(|| {
                    context.run_until(|| called.is_up()).unwrap();
                }),
            };
            sys::kill(pid, Signum::SIGUSR1);
            sys::assert_succeeds(pid);
        }
        assert_eq!(run_what_is_ready(&context), 0, "that was the children's");
    }
}

fn a_child_forked_by_a_thread_without_a_context_has_the_dispositions_of_before(kind: BackendKind) {
    let context = context(kind);
    let _signal = context.add_signal(Signum::SIGTERM, SignalFlags::empty(), |_, _, _| ());
    let handled = sys::handler_of(Signum::SIGTERM);
    thread::scope(|scope| {
        scope.spawn(|| {
            let child = sys::fork(|| {
                assert_eq!(
                    sys::handler_of(Signum::SIGTERM),
                    libc::SIG_DFL,
                    "there is no loop in the child that would ever look"
                );
            });
            sys::assert_succeeds(child);
        });
    });
    assert_eq!(sys::handler_of(Signum::SIGTERM), handled);
}
