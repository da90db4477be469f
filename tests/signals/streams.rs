//! Signals that tasks wait for.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting};
use std::future::pending;
use std::time::Duration;
use tevent::{BackendKind, Context, SignalFlags, SignalStream, Signum, Task};

pub const TESTS: &[process::Test] = tests![
    a_signal_is_awaited,
    what_comes_between_two_waits_is_counted,
    with_siginfo_each_is_told_in_order,
    two_streams_and_a_handler_are_each_told,
    a_wait_that_is_dropped_loses_nothing,
    a_stream_with_resethand_ends_after_one,
    a_stream_of_a_reinitialised_context_ends,
    a_stream_of_a_context_that_is_gone_ends_after_what_came,
    dropping_a_stream_restores_the_disposition,
    a_stream_keeps_run_going,
    thousands_of_signals_are_all_counted,
    a_removed_stream_ends_after_what_came,
    a_stream_has_name_tag_and_place,
    a_task_makes_a_stream_while_its_context_is_there,
];

const PLAIN: SignalFlags = SignalFlags::empty();

#[track_caller]
fn stream(context: &Context, signum: Signum, flags: SignalFlags) -> SignalStream {
    context.add_signal_stream(signum, flags).expect("a stream")
}

fn a_signal_is_awaited(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    assert_eq!(signals.signum(), Signum::SIGUSR1);
    context.defer(|_| sys::raise(Signum::SIGUSR1));
    let info = context.block_on(signals.next()).unwrap().unwrap();
    assert_eq!((info.signum, info.count), (Signum::SIGUSR1, 1));
    assert!(info.siginfo.is_none());
}

fn what_comes_between_two_waits_is_counted(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    let total = context
        .block_on(async {
            for _ in 0..3 {
                // Each is handled by the loop before the next one comes.
                sys::raise(Signum::SIGUSR1);
                tevent::yield_now().await;
                tevent::yield_now().await;
            }
            signals.next().await.unwrap().count
        })
        .unwrap();
    assert_eq!(total, 3);
}

fn with_siginfo_each_is_told_in_order(kind: BackendKind) {
    let context = context(kind);
    let realtime = Signum::realtime(1).unwrap();
    let mut signals = stream(&context, realtime, SignalFlags::SIGINFO);
    let values = context
        .block_on(async {
            for value in 0..100 {
                sys::sigqueue_to_this_thread(realtime, value);
                if value % 10 == 0 {
                    tevent::yield_now().await;
                }
            }
            let mut values = Vec::new();
            while values.len() < 100 {
                let info = signals.next().await.unwrap();
                assert_eq!(info.count, 1);
                values.push(info.siginfo.unwrap().value());
            }
            values
        })
        .unwrap();
    assert!(values.into_iter().eq((0..100).map(Into::into)));
}

/// Notes the counts that a stream is told.
fn noting(context: &Context, mut signals: SignalStream) -> (Task<()>, Log<u32>) {
    let log = Log::new();
    let inner = log.clone();
    let task = context.spawn(async move {
        while let Some(info) = signals.next().await {
            inner.push(info.count);
        }
    });
    (task, log)
}

fn run_for_a_moment(context: &Context) {
    context
        .block_on(context.sleep(Duration::from_millis(1)))
        .unwrap();
}

fn two_streams_and_a_handler_are_each_told(kind: BackendKind) {
    let context = context(kind);
    let (_first, one) = noting(&context, stream(&context, Signum::SIGUSR1, PLAIN));
    let (_second, two) = noting(&context, stream(&context, Signum::SIGUSR1, PLAIN));
    let (_signal, three) = counting(&context, Signum::SIGUSR1);
    run_for_a_moment(&context);
    sys::raise(Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    run_for_a_moment(&context);
    for log in [one, two, three] {
        assert_eq!(log.take(), [2]);
    }
}

fn a_wait_that_is_dropped_loses_nothing(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    let limited = context.timeout(Duration::from_millis(1), signals.next());
    assert!(context.block_on(limited).unwrap().is_err());
    sys::raise(Signum::SIGUSR1);
    // Arrives while nobody waits.
    run_for_a_moment(&context);
    sys::raise(Signum::SIGUSR1);
    run_for_a_moment(&context);
    let info = context.block_on(signals.next()).unwrap().unwrap();
    assert_eq!(info.count, 2);
}

fn a_stream_with_resethand_ends_after_one(kind: BackendKind) {
    let context = context(kind);
    let (task, log) = noting(
        &context,
        stream(&context, Signum::SIGUSR1, SignalFlags::RESETHAND),
    );
    run_for_a_moment(&context);
    sys::raise(Signum::SIGUSR1);
    context.block_on(task).unwrap().unwrap();
    assert_eq!(log.take(), [1]);
    assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_DFL);
}

fn a_stream_of_a_reinitialised_context_ends(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    context.defer(|context| context.reinitialise().unwrap());
    let info = context.block_on(signals.next()).unwrap();
    assert!(info.is_none());
}

fn a_stream_of_a_context_that_is_gone_ends_after_what_came(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let mut signals = stream(&one, Signum::SIGUSR1, PLAIN);
    sys::raise(Signum::SIGUSR1);
    one.run_once().unwrap();
    let task = another.spawn(async move {
        let first = signals.next().await.map(|info| info.count);
        (first, signals.next().await.is_none())
    });
    // The task has taken the first, and waits for the second.
    another.run_once().unwrap();
    assert!(!task.is_finished());
    drop(one);
    assert_eq!(another.block_on(task).unwrap(), Ok((Some(1), true)));
}

fn dropping_a_stream_restores_the_disposition(kind: BackendKind) {
    let context = context(kind);
    let before = sys::handler_of(Signum::SIGUSR1);
    let signals = stream(&context, Signum::SIGUSR1, PLAIN);
    assert_ne!(sys::handler_of(Signum::SIGUSR1), before);
    drop(signals);
    assert_eq!(sys::handler_of(Signum::SIGUSR1), before);
    // In a task, with the task.
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    let task = context.spawn(async move { signals.next().await.is_some() });
    drop(task);
    assert_eq!(sys::handler_of(Signum::SIGUSR1), before);
}

fn a_stream_keeps_run_going(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGALRM, PLAIN);
    let weak = context.downgrade();
    let task = context.spawn(async move {
        signals.next().await.unwrap();
        weak.sleep(Duration::from_millis(1)).await;
    });
    let _idle = context.spawn(pending::<()>());
    let pid = std::process::id();
    // From a process, as a timer would keep the loop going too.
    let child = sys::fork(|| sys::kill(pid, Signum::SIGALRM));
    context.run().unwrap();
    assert!(task.is_finished());
    sys::assert_succeeds(child);
}

fn thousands_of_signals_are_all_counted(kind: BackendKind) {
    const COUNT: u32 = 5_000;
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    let total = context
        .block_on(async {
            let mut total = 0;
            for raised in 1..=COUNT {
                sys::raise(Signum::SIGUSR1);
                if raised % 7 == 0 {
                    total += signals.next().await.unwrap().count;
                }
            }
            while total < COUNT {
                total += signals.next().await.unwrap().count;
            }
            total
        })
        .unwrap();
    assert_eq!(total, COUNT);
}

fn a_removed_stream_ends_after_what_came(kind: BackendKind) {
    let context = context(kind);
    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    sys::raise(Signum::SIGUSR1);
    context.run_once().unwrap();
    assert!(signals.is_registered());
    signals.remove();
    assert!(!signals.is_registered());
    assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_DFL);
    let info = context.block_on(signals.next()).unwrap();
    assert_eq!(info.expect("it came before").count, 1);
    assert!(context.block_on(signals.next()).unwrap().is_none());

    let mut signals = stream(&context, Signum::SIGUSR1, PLAIN);
    let (told, polled) = context
        .block_on(async {
            let first = futures_lite::future::poll_once(signals.next()).await;
            signals.remove();
            (first, signals.next().await)
        })
        .unwrap();
    assert!(told.is_none() && polled.is_none(), "nothing came");
    context.run().expect("nothing is left");
}

fn a_stream_has_name_tag_and_place(kind: BackendKind) {
    let context = context(kind);
    let line = line!() + 1;
    let signals = context.add_signal_stream(Signum::SIGUSR1, PLAIN).unwrap();
    let place = signals.location().expect("it is there");
    assert_eq!((place.file(), place.line()), (file!(), line));
    assert_eq!((signals.name(), signals.tag()), (None, 0));
    signals.set_name("reload");
    signals.set_tag(7);
    assert_eq!(signals.name().as_deref(), Some("reload"));
    assert_eq!(signals.tag(), 7);
    signals.remove();
    assert_eq!((signals.name(), signals.tag()), (None, 0));
    assert!(signals.location().is_none());
}

fn a_task_makes_a_stream_while_its_context_is_there(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let inner = weak.clone();
    let task = context.spawn(async move {
        let mut signals = inner.add_signal_stream(Signum::SIGUSR1, PLAIN).unwrap();
        let place = signals.location().expect("it is there");
        assert_eq!(place.file(), file!(), "not inside the library");
        sys::raise(Signum::SIGUSR1);
        signals.next().await.expect("a signal").count
    });
    assert_eq!(context.block_on(task).unwrap().unwrap(), 1);
    drop(context);
    let refused = weak.add_signal_stream(Signum::SIGUSR1, PLAIN);
    let error = refused.expect_err("nobody would tell it");
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_DFL);
}
