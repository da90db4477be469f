//! A loop inside a signal handler.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context, FdFlags, Signal, SignalFlags, SignalInfo, Signum};

pub const TESTS: &[process::Test] = tests![
    nesting_is_refused_unless_it_was_allowed,
    signals_for_the_running_handler_are_kept_and_delivered_afterwards,
    siginfo_for_the_running_handler_is_kept_in_order,
    a_loop_rests_while_and_after_something_is_kept_for_a_running_handler,
    other_handlers_are_called_in_the_nested_loop,
    handlers_left_over_by_the_outer_loop_are_called_in_the_nested_one,
    what_is_left_over_needs_no_new_signal_to_be_noticed,
    a_nested_run_returns_when_only_the_running_handler_is_left,
    a_nested_run_waits_for_the_others_when_the_running_handler_was_removed,
    many_signals_for_the_running_siginfo_handler_are_all_kept,
    what_was_kept_for_a_handler_that_goes_is_forgotten,
    the_queue_of_a_running_siginfo_handler_keeps_its_limit,
    two_running_siginfo_handlers_get_what_each_was_sent,
    a_loop_in_the_handler_calls_the_descriptor_event_that_was_called_last,
];

fn nesting_is_refused_unless_it_was_allowed(kind: BackendKind) {
    let context = context(kind);
    let _signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), |context, _, _| {
            let error = context.run_once().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Deadlock);
        })
        .unwrap();
    sys::raise(Signum::SIGHUP);
    assert!(context.run_once().unwrap());
}

fn signals_for_the_running_handler_are_kept_and_delivered_afterwards(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let calls = Log::new();
    let log = calls.clone();
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, _, info| {
                log.push(info.count);
                if log.len() == 1 {
                    sys::raise(Signum::SIGHUP);
                    sys::raise(Signum::SIGHUP);
                    let done = Rc::new(Cell::new(false));
                    let setter = Rc::clone(&done);
                    let _timer = context
                        .add_timer_after(Duration::from_millis(1), move |_, _| setter.set(true));
                    context.run_until(|| done.get()).unwrap();
                    assert_eq!(log.len(), 1, "it is never called inside itself");
                }
            },
        )
        .unwrap();
    sys::raise(Signum::SIGHUP);
    context.run_until(|| calls.len() == 2).unwrap();
    assert_eq!(calls.take(), [1, 2], "both came afterwards, in one call");
}

fn siginfo_for_the_running_handler_is_kept_in_order(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let values = Log::new();
    let log = values.clone();
    let _signal = context
        .add_signal(
            realtime(0),
            SignalFlags::SIGINFO,
            move |context, _, info| {
                log.push(info.siginfo.unwrap().value().unwrap());
                if log.len() == 1 {
                    for value in [3, 4] {
                        sys::sigqueue(std::process::id(), realtime(0), value);
                    }
                    context.set_wait_timeout(Some(Duration::ZERO));
                    context.run_once().unwrap();
                    context.set_wait_timeout(None);
                    assert_eq!(log.len(), 1, "it is never called inside itself");
                }
            },
        )
        .unwrap();
    for value in [1, 2] {
        sys::sigqueue(std::process::id(), realtime(0), value);
    }
    context.run_until(|| values.len() == 4).unwrap();
    assert_eq!(values.take(), [1, 2, 3, 4]);
}

fn a_loop_rests_while_and_after_something_is_kept_for_a_running_handler(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    context.set_wait_timeout(Some(Duration::ZERO));
    let values = Log::new();
    let log = values.clone();
    let _signal = context
        .add_signal(
            realtime(0),
            SignalFlags::SIGINFO,
            move |context, _, info| {
                log.push(info.siginfo.unwrap().value().unwrap());
                if log.len() == 1 {
                    sys::sigqueue(std::process::id(), realtime(0), 2);
                    while context.run_once().unwrap() {}
                    assert_eq!(
                        context.next_deadline(),
                        None,
                        "it is kept until this returns"
                    );
                }
            },
        )
        .unwrap();
    sys::sigqueue(std::process::id(), realtime(0), 1);
    context.run_until(|| values.len() == 2).unwrap();
    while context.run_once().unwrap() {}
    assert_eq!(values.take(), [1, 2]);
    assert_eq!(context.next_deadline(), None, "there is nothing to look at");
}

fn other_handlers_are_called_in_the_nested_loop(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let (_same_number, same) = counting(&context, Signum::SIGHUP);
    let (_other_number, other) = counting(&context, Signum::SIGUSR1);
    let ran = Rc::new(Cell::new(false));
    let (setter, seen) = (Rc::clone(&ran), (same.clone(), other.clone()));
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::RESETHAND,
            move |context, _, _| {
                sys::raise(Signum::SIGHUP);
                sys::raise(Signum::SIGUSR1);
                assert!(context.run_once().unwrap());
                assert_eq!(seen.0.take(), [2], "with the one of before");
                assert_eq!(seen.1.take(), [1]);
                setter.set(true);
            },
        )
        .unwrap();
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert!(ran.get());
    assert_eq!((same.len(), other.len()), (0, 0), "nothing is told twice");
}

fn handlers_left_over_by_the_outer_loop_are_called_in_the_nested_one(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let (_higher, higher) = counting(&context, Signum::SIGUSR2);
    let seen = higher.clone();
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::RESETHAND,
            move |context, _, _| {
                // Its wake-up was used up by the outer loop.
                sys::raise(Signum::SIGHUP);
                context.run_once().unwrap();
                assert_eq!(
                    seen.len(),
                    1,
                    "the nested loop calls what the outer one left"
                );
            },
        )
        .unwrap();
    sys::raise(Signum::SIGUSR2);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(higher.take(), [1]);
}

fn what_is_left_over_needs_no_new_signal_to_be_noticed(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let (_sibling, sibling) = counting(&context, Signum::SIGHUP);
    let (_higher, higher) = counting(&context, Signum::SIGUSR2);
    let (seen_sibling, seen_higher) = (sibling.clone(), higher.clone());
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, _, _| {
                context
                    .run_until(|| seen_sibling.len() == 1 && seen_higher.len() == 1)
                    .unwrap();
            },
        )
        .unwrap();
    sys::raise(Signum::SIGUSR2);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!((sibling.take(), higher.take()), (vec![1], vec![1]));
}

fn a_nested_run_returns_when_only_the_running_handler_is_left(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let returned = Rc::new(Cell::new(false));
    let setter = Rc::clone(&returned);
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::RESETHAND,
            move |context, _, _| {
                context.run().unwrap();
                setter.set(true);
            },
        )
        .unwrap();
    sys::raise(Signum::SIGHUP);
    context.run().unwrap();
    assert!(returned.get());
}

fn a_nested_run_waits_for_the_others_when_the_running_handler_was_removed(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let came = Rc::new(Cell::new(false));
    let (setter, seen) = (Rc::clone(&came), Rc::clone(&came));
    context
        .add_signal(Signum::SIGUSR1, SignalFlags::RESETHAND, move |_, _, _| {
            setter.set(true);
        })
        .unwrap()
        .detach();
    let me = std::process::id();
    context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, signal, _| {
                signal.remove();
                let child = sys::fork(|| {
                    sys::wait_until("the loop waits", || sys::state_of(me) == Some('S'));
                    sys::kill(me, Signum::SIGUSR1);
                });
                context.run().unwrap();
                assert!(seen.get(), "there was a handler to wait for");
                sys::assert_succeeds(child);
            },
        )
        .unwrap()
        .detach();
    sys::raise(Signum::SIGHUP);
    context.run().unwrap();
    assert!(came.get());
}

fn many_signals_for_the_running_siginfo_handler_are_all_kept(kind: BackendKind) {
    const COUNT: usize = 1000;
    let context = context(kind);
    context.set_nesting_allowed(true);
    let values = Log::new();
    let log = values.clone();
    let _signal = context
        .add_signal(
            realtime(0),
            SignalFlags::SIGINFO,
            move |context, _, info| {
                log.push(info.siginfo.unwrap().value().unwrap());
                if log.len() == 1 {
                    context.set_wait_timeout(Some(Duration::ZERO));
                    for value in 1..COUNT {
                        sys::sigqueue(std::process::id(), realtime(0), value);
                        if value % 100 == 0 {
                            context.run_once().unwrap();
                        }
                    }
                    assert_eq!(log.len(), 1, "it is never called inside itself");
                    context.set_wait_timeout(None);
                }
            },
        )
        .unwrap();
    sys::sigqueue(std::process::id(), realtime(0), 0);
    context.run_until(|| values.len() == COUNT).unwrap();
    assert!(values.take().into_iter().eq(0..COUNT), "all, in order");
    sys::assert_masks_are_clean();
}

fn the_queue_of_a_running_siginfo_handler_keeps_its_limit(kind: BackendKind) {
    const CAPACITY: usize = 256;
    let context = context(kind);
    context.set_nesting_allowed(true);
    let values = Log::new();
    let log = values.clone();
    let signum = realtime(0);
    let _signal = context
        .add_signal(signum, SignalFlags::SIGINFO, move |context, _, info| {
            log.push(info.siginfo.unwrap().value().unwrap());
            if log.len() == 1 {
                for value in 1..=CAPACITY + 10 {
                    sys::sigqueue(std::process::id(), signum, value);
                }
                context.set_wait_timeout(Some(Duration::ZERO));
                context.run_once().unwrap();
                context.set_wait_timeout(None);
                assert_eq!(
                    sys::blocked_signals(),
                    sys::bit(signum),
                    "what is queued stays there, and the kernel keeps the others"
                );
            }
        })
        .unwrap();
    sys::sigqueue(std::process::id(), signum, 0);
    context.run_until(|| values.len() > CAPACITY + 10).unwrap();
    assert!(values.take().into_iter().eq(0..=CAPACITY + 10));
    sys::assert_masks_are_clean();
}

fn two_running_siginfo_handlers_get_what_each_was_sent(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let values = Log::new();
    let mut signals = Vec::new();
    for offset in [0, 1] {
        let log = values.clone();
        let handler = move |context: &Context, _: &Signal, info: &SignalInfo| {
            log.push(info.siginfo.unwrap().value().unwrap());
            context.set_wait_timeout(Some(Duration::ZERO));
            match log.len() {
                1 => {
                    // The other's handler is called here.
                    sys::sigqueue(std::process::id(), realtime(1), 10);
                    context.run_once().unwrap();
                }
                2 => {
                    for (offset, value) in [(0, 1), (1, 11), (0, 2), (1, 12)] {
                        sys::sigqueue(std::process::id(), realtime(offset), value);
                    }
                    context.run_once().unwrap();
                    assert_eq!(log.len(), 2, "neither is called inside itself");
                }
                _ => {}
            }
            context.set_wait_timeout(None);
        };
        let added = context.add_signal(realtime(offset), SignalFlags::SIGINFO, handler);
        signals.push(added.unwrap());
    }
    sys::sigqueue(std::process::id(), realtime(0), 0);
    context.run_until(|| values.len() == 6).unwrap();
    let values = values.take();
    let sent_to = |numbers: std::ops::Range<usize>| -> Vec<usize> {
        let own = values.iter().filter(|value| numbers.contains(value));
        own.copied().collect()
    };
    assert_eq!(sent_to(0..10), [0, 1, 2]);
    assert_eq!(sent_to(10..20), [10, 11, 12]);
}

fn what_was_kept_for_a_handler_that_goes_is_forgotten(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let _signal = context
        .add_signal(
            Signum::SIGUSR1,
            SignalFlags::SIGINFO | SignalFlags::RESETHAND,
            |context, _, _| {
                sys::raise(Signum::SIGUSR1);
                context.defer(|_| ());
                assert!(context.run_once().unwrap(), "only the closure runs");
            },
        )
        .unwrap();
    sys::raise(Signum::SIGUSR1);
    assert!(context.run_once().unwrap());
    context.run().expect("nothing is left to wait for");
    assert_eq!(
        context.next_deadline(),
        None,
        "a loop that waits would spin"
    );
}

fn a_loop_in_the_handler_calls_the_descriptor_event_that_was_called_last(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let (ours, theirs) = sys::pair();
    let theirs = Rc::new(theirs);
    let calls = Rc::new(Cell::new(0));
    let child = Rc::new(Cell::new(None));
    sys::tell(&theirs);
    let (counter, teller, forked) = (Rc::clone(&calls), Rc::clone(&theirs), Rc::clone(&child));
    let _fd = context
        .add_fd(ours, FdFlags::READ, move |_, event, _| {
            sys::await_word(event.get_ref());
            counter.set(counter.get() + 1);
            match counter.get() {
                1 | 2 => sys::tell(&teller),
                3 => {
                    // Interrupts the wait that comes next.
                    let parent = std::process::id();
                    forked.set(Some(sys::fork(move || {
                        sys::wait_until("the loop waits", || sys::state_of(parent) == Some('S'));
                        sys::kill(parent, Signum::SIGHUP);
                    })));
                }
                _ => {}
            }
        })
        .unwrap();
    let counter = Rc::clone(&calls);
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, _, _| {
                sys::tell(&theirs);
                context.run_until(|| counter.get() == 4).unwrap();
                context.stop();
            },
        )
        .unwrap();
    context.run().unwrap();
    assert_eq!(calls.get(), 4);
    sys::assert_succeeds(child.get().expect("the third call forks"));
}
