//! What a handler is told, and when.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime, valued};
use std::io::Write;
use std::time::Duration;
use tevent::{BackendKind, Context, FdFlags, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_plain_handler_is_told_how_many_came_since_the_last_time,
    a_siginfo_handler_is_called_once_for_each_signal_with_its_value,
    siginfo_says_who_sent_the_signal,
    siginfo_of_sigchld_says_which_child_ended_and_how,
    values_go_with_sigqueue_only,
    pending_signals_are_handled_in_the_order_of_their_numbers,
    all_pending_signals_are_handled_in_one_turn,
    handlers_of_one_number_are_called_newest_first,
    plain_and_siginfo_handlers_share_a_number,
    nothing_is_called_outside_the_loop,
    signals_go_before_immediates_timers_and_descriptors,
    signals_are_looked_at_anew_before_every_handler,
    a_signal_that_came_before_the_handler_was_added_is_not_its,
    a_handler_keeps_run_going_until_it_is_removed,
    a_signal_wakes_a_waiting_loop_of_any_backend,
    an_event_knows_its_number,
    resethand_removes_the_event_after_its_first_call,
    resethand_with_siginfo_gets_the_first_only,
];

fn a_plain_handler_is_told_how_many_came_since_the_last_time(kind: BackendKind) {
    let context = context(kind);
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    for expected in [3, 1, 500] {
        for _ in 0..expected {
            sys::raise(Signum::SIGUSR1);
        }
        assert!(context.run_once().unwrap(), "a signal handler ran");
        assert_eq!(counts.take(), [expected], "one call, with the count");
    }
}

fn a_siginfo_handler_is_called_once_for_each_signal_with_its_value(kind: BackendKind) {
    let context = context(kind);
    let signum = realtime(3);
    let (_signal, values) = valued(&context, signum);
    for value in [5, 4, usize::MAX, 0, 4] {
        sys::sigqueue(std::process::id(), signum, value);
    }
    assert!(context.run_once().unwrap());
    assert_eq!(
        values.take(),
        [5, 4, usize::MAX, 0, 4],
        "one by one, in order"
    );
}

fn siginfo_says_who_sent_the_signal(kind: BackendKind) {
    let context = context(kind);
    let senders = Log::new();
    let log = senders.clone();
    let _signal = context
        .add_signal(Signum::SIGUSR2, SignalFlags::SIGINFO, move |_, _, info| {
            let siginfo = info.siginfo.expect("asked for");
            assert_eq!(siginfo.number(), Signum::SIGUSR2.number());
            assert_eq!(siginfo.code(), libc::SI_USER, "it was sent by kill");
            log.push((siginfo.sender_pid(), siginfo.sender_uid()));
        })
        .unwrap();
    let me = std::process::id();
    let child = sys::fork(|| sys::kill(me, Signum::SIGUSR2));
    context.run_once().unwrap();
    sys::assert_succeeds(child);
    let uid = unsafe { libc::getuid() };
    assert_eq!(senders.take(), [(Some(child), Some(uid))]);
}

fn siginfo_of_sigchld_says_which_child_ended_and_how(kind: BackendKind) {
    let context = context(kind);
    let ends = Log::new();
    let log = ends.clone();
    let _signal = context
        .add_signal(Signum::SIGCHLD, SignalFlags::SIGINFO, move |_, _, info| {
            let siginfo = info.siginfo.expect("asked for");
            assert_eq!(siginfo.value(), None);
            log.push((siginfo.sender_pid(), siginfo.code(), siginfo.child_status()));
        })
        .unwrap();

    let child = sys::fork(|| sys::end(7));
    context.run_until(|| ends.len() == 1).unwrap();
    let expected = (Some(child), libc::CLD_EXITED, Some(7));
    assert_eq!(ends.take(), [expected], "it exited");
    assert_eq!(sys::reap(child), sys::Status::Exited(7));

    let child = sys::fork(|| {
        sys::set_handler(Signum::SIGTERM, libc::SIG_DFL);
        sys::raise(Signum::SIGTERM);
    });
    context.run_until(|| ends.len() == 1).unwrap();
    let expected = (Some(child), libc::CLD_KILLED, Some(libc::SIGTERM));
    assert_eq!(ends.take(), [expected], "it was killed");
    assert_eq!(sys::reap(child), sys::Status::Killed(libc::SIGTERM));
}

fn values_go_with_sigqueue_only(kind: BackendKind) {
    let context = context(kind);
    let values = Log::new();
    let log = values.clone();
    let _signal = context
        .add_signal(realtime(0), SignalFlags::SIGINFO, move |_, _, info| {
            let siginfo = info.siginfo.expect("asked for");
            assert_eq!(siginfo.child_status(), None, "it is about no child");
            log.push(siginfo.value());
        })
        .unwrap();
    sys::kill(std::process::id(), realtime(0));
    sys::sigqueue(std::process::id(), realtime(0), 8);
    context.run_once().unwrap();
    assert_eq!(values.take(), [None, Some(8)]);
}

fn pending_signals_are_handled_in_the_order_of_their_numbers(kind: BackendKind) {
    let context = context(kind);
    let numbers = [realtime(1), Signum::SIGHUP, Signum::SIGTERM, realtime(0)];
    let order = Log::new();
    for signum in numbers {
        let order = order.clone();
        context
            .add_signal(signum, SignalFlags::empty(), move |_, _, info| {
                order.push(info.signum);
            })
            .unwrap()
            .detach();
    }
    for signum in numbers {
        sys::raise(signum);
    }
    context.run_once().unwrap();
    let mut sorted = numbers;
    sorted.sort_by_key(|signum| signum.number());
    assert_eq!(order.take(), sorted, "ascending, whatever came first");
}

fn all_pending_signals_are_handled_in_one_turn(kind: BackendKind) {
    let context = context(kind);
    let (_plain, counts) = counting(&context, Signum::SIGUSR1);
    let (_info, values) = valued(&context, realtime(2));
    sys::raise(Signum::SIGUSR1);
    for value in 0..10 {
        sys::sigqueue(std::process::id(), realtime(2), value);
    }
    assert!(context.run_once().unwrap());
    assert_eq!((counts.len(), values.len()), (1, 10), "all in one turn");
    context.set_wait_timeout(Some(Duration::ZERO));
    assert!(!context.run_once().unwrap(), "and nothing is left over");
}

fn handlers_of_one_number_are_called_newest_first(kind: BackendKind) {
    let context = context(kind);
    let order = Log::new();
    for name in ["oldest", "middle", "newest"] {
        let order = order.clone();
        context
            .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, info| {
                order.push((name, info.count));
            })
            .unwrap()
            .detach();
    }
    sys::raise(Signum::SIGHUP);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(order.take(), [("newest", 2), ("middle", 2), ("oldest", 2)]);
}

fn plain_and_siginfo_handlers_share_a_number(kind: BackendKind) {
    let context = context(kind);
    let signum = realtime(5);
    let order = Log::new();
    for (name, flags) in [
        ("old info", SignalFlags::SIGINFO),
        ("old plain", SignalFlags::empty()),
        ("new info", SignalFlags::SIGINFO),
        ("new plain", SignalFlags::empty()),
    ] {
        let order = order.clone();
        context
            .add_signal(signum, flags, move |_, _, info| {
                let value = info.siginfo.map(|siginfo| siginfo.value().unwrap());
                order.push((name, info.count, value));
            })
            .unwrap()
            .detach();
    }
    for value in [10, 11] {
        sys::sigqueue(std::process::id(), signum, value);
    }
    context.run_once().unwrap();
    assert_eq!(
        order.take(),
        [
            ("new plain", 2, None),
            ("new info", 1, Some(10)),
            ("new info", 1, Some(11)),
            ("old plain", 2, None),
            ("old info", 1, Some(10)),
            ("old info", 1, Some(11)),
        ],
        "newest first, the plain ones with the count, the others for each"
    );
}

fn nothing_is_called_outside_the_loop(kind: BackendKind) {
    let context = context(kind);
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    let during = counts.clone();
    context.defer(move |_| {
        sys::raise(Signum::SIGUSR1);
        assert_eq!(during.len(), 0, "not inside another handler");
    });
    sys::raise(Signum::SIGUSR1);
    assert_eq!(counts.len(), 0, "the asynchronous part only counts");
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
    context.run_once().unwrap();
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
}

fn everything_at_once(context: &Context, order: &Log<&'static str>) {
    let (ours, mut theirs) = sys::pair();
    theirs.write_all(b"x").unwrap();
    let log = order.clone();
    context
        .add_fd(ours, FdFlags::READ, move |_, event, _| {
            event.remove();
            log.push("descriptor");
        })
        .unwrap()
        .detach();
    // Kept open until the process ends.
    std::mem::forget(theirs);
    let log = order.clone();
    context
        .add_timer(context.now(), move |_, _| log.push("timer"))
        .detach();
    let log = order.clone();
    context.defer(move |_| log.push("immediate"));
    let log = order.clone();
    context
        .add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, _| {
            log.push("signal");
        })
        .unwrap()
        .detach();
}

fn signals_go_before_immediates_timers_and_descriptors(kind: BackendKind) {
    let context = context(kind);
    let order = Log::new();
    everything_at_once(&context, &order);
    sys::raise(Signum::SIGUSR1);
    for _ in 0..4 {
        context.run_once().unwrap();
    }
    assert_eq!(order.take(), ["signal", "immediate", "timer", "descriptor"]);
}

fn signals_are_looked_at_anew_before_every_handler(kind: BackendKind) {
    let context = context(kind);
    let order = Log::new();
    everything_at_once(&context, &order);
    for _ in 0..4 {
        sys::raise(Signum::SIGUSR1);
        context.run_once().unwrap();
        if order.len() < 7 {
            context.run_once().unwrap();
        }
    }
    let order = order.take();
    let expected = [
        "signal",
        "immediate",
        "signal",
        "timer",
        "signal",
        "descriptor",
        "signal",
    ];
    assert_eq!(order, expected);
}

fn a_signal_that_came_before_the_handler_was_added_is_not_its(kind: BackendKind) {
    sys::set_handler(realtime(0), libc::SIG_IGN);
    sys::raise(realtime(0));
    let context = context(kind);
    let (_plain, counts) = counting(&context, realtime(0));
    let (_info, values) = valued(&context, realtime(0));
    context.set_wait_timeout(Some(Duration::ZERO));
    assert!(!context.run_once().unwrap());
    assert_eq!((counts.len(), values.len()), (0, 0));
}

fn a_handler_keeps_run_going_until_it_is_removed(kind: BackendKind) {
    let context = context(kind);
    let mut left = 3;
    let log = Log::new();
    let calls = log.clone();
    context
        .add_signal(
            Signum::SIGUSR1,
            SignalFlags::empty(),
            move |_, signal, _| {
                calls.push(());
                left -= 1;
                if left > 0 {
                    sys::raise(Signum::SIGUSR1);
                } else {
                    signal.remove();
                }
            },
        )
        .unwrap()
        .detach();
    sys::raise(Signum::SIGUSR1);
    context.run().unwrap();
    assert_eq!(log.len(), 3, "run returns when no handler is left");
}

fn a_signal_wakes_a_waiting_loop_of_any_backend(kind: BackendKind) {
    let context = context(kind);
    let me = std::process::id();
    let child = sys::fork(|| {
        sys::wait_until("the loop waits", || sys::state_of(me) == Some('S'));
        sys::kill(me, Signum::SIGUSR1);
    });
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    assert!(context.run_once().unwrap(), "one turn waits and calls");
    assert_eq!(counts.take(), [1]);
    sys::assert_succeeds(child);
}

fn resethand_removes_the_event_after_its_first_call(kind: BackendKind) {
    let context = context(kind);
    sys::set_handler(Signum::SIGUSR1, libc::SIG_IGN);
    let calls = Log::new();
    let log = calls.clone();
    let signal = context
        .add_signal(
            Signum::SIGUSR1,
            SignalFlags::RESETHAND,
            move |_, event, info| {
                assert!(event.is_registered(), "until the handler has returned");
                log.push(info.count);
            },
        )
        .unwrap();
    sys::raise(Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    context.run().unwrap();
    assert_eq!(calls.take(), [2]);
    assert!(!signal.is_registered(), "the event is gone");
    assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_IGN);
}

fn resethand_with_siginfo_gets_the_first_only(kind: BackendKind) {
    let context = context(kind);
    let signum = realtime(1);
    let (_all, all) = valued(&context, signum);
    let first = Log::new();
    let log = first.clone();
    let flags = SignalFlags::RESETHAND | SignalFlags::SIGINFO;
    let signal = context
        .add_signal(signum, flags, move |_, _, info| {
            log.push(info.siginfo.unwrap().value().unwrap());
        })
        .unwrap();
    for value in [1, 2, 3] {
        sys::sigqueue(std::process::id(), signum, value);
    }
    context.run_once().unwrap();
    assert_eq!(first.take(), [1], "one call");
    assert!(!signal.is_registered());
    assert_eq!(all.take(), [1, 2, 3], "the others are told of all");
}

fn an_event_knows_its_number(kind: BackendKind) {
    let context = context(kind);
    let (signal, _) = counting(&context, Signum::SIGHUP);
    assert_eq!(signal.signum(), Some(Signum::SIGHUP));
    let said = format!("{signal:?}");
    assert_eq!(said, "Signal { signum: Some(Signum(1: SIGHUP)), .. }");
    signal.remove();
    assert_eq!(signal.signum(), None);
    let stream = context.add_signal_stream(Signum::SIGHUP, SignalFlags::empty());
    let said = format!("{:?}", stream.unwrap());
    assert!(said.starts_with("SignalStream { signum: Signum(1: SIGHUP), is_over: false"));
}
