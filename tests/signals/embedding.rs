//! A loop that is left to somebody who polls its descriptor.

use crate::embedded::{Counts, EpollLoop, drive_in_tokio};
use crate::process::{self, context, sys, tests};
use crate::{counting, realtime, valued};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tevent::{BackendKind, Context, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_signal_makes_the_descriptor_readable,
    signals_left_after_a_turn_keep_the_descriptor_readable,
    a_signal_makes_the_descriptor_readable_after_reinitialise,
    signals_reach_a_loop_inside_one_of_epoll,
    signals_reach_a_loop_inside_tokio,
];

const SOON: Duration = Duration::from_secs(30);

fn a_signal_makes_the_descriptor_readable(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    for _ in 0..3 {
        while context.run_once().unwrap() {}
        assert!(!sys::is_readable(&context), "nothing has come");
        assert_eq!(context.next_deadline(), None);
        thread::scope(|scope| {
            scope.spawn(|| sys::kill(std::process::id(), Signum::SIGUSR1));
        });
        assert!(sys::is_readable_within(&context, SOON), "a signal has come");
        assert!(context.run_once().unwrap());
        assert_eq!(counts.take(), [1]);
    }
}

fn signals_left_after_a_turn_keep_the_descriptor_readable(kind: BackendKind) {
    let context = context(kind);
    let (_signal, values) = valued(&context, realtime(0));
    for value in 0..1000 {
        sys::sigqueue(std::process::id(), realtime(0), value);
    }
    let mut turns = 0;
    while values.len() < 1000 {
        assert!(sys::is_readable(&context), "after {} signals", values.len());
        assert!(context.run_once().unwrap());
        turns += 1;
    }
    assert!(turns > 1, "the queue holds 256");
}

fn a_signal_makes_the_descriptor_readable_after_reinitialise(kind: BackendKind) {
    let context = context(kind);
    let (_before, _) = counting(&context, Signum::SIGUSR1);
    // One that was never looked at.
    sys::raise(Signum::SIGUSR1);
    context.reinitialise().unwrap();
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    context.set_wait_timeout(Some(Duration::ZERO));
    assert!(!context.run_once().unwrap(), "that one was of before");
    context.reinitialise().unwrap();
    let (_signal, newest) = counting(&context, Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    assert!(sys::is_readable(&context), "a signal has come");
    context.run_once().unwrap();
    assert_eq!((counts.len(), newest.take()), (0, vec![1]));

    sys::raise(Signum::SIGUSR1);
    context.reinitialise().unwrap();
    let (_signal, newest) = counting(&context, Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    assert!(
        sys::is_readable(&context),
        "a signal has come, without a turn in between"
    );
    context.run_once().unwrap();
    assert_eq!(newest.take(), [1]);
}

/// A thread sends a signal whenever the one before was handled, so that one that isn't noticed is the
/// last. Returns how many were.
fn one_after_the_other(context: &Context, rounds: usize) -> Rc<Cell<usize>> {
    let (handled, next) = mpsc::channel::<()>();
    let begin = handled.clone();
    thread::spawn(move || {
        for _ in 0..rounds {
            next.recv().expect("the handler says when");
            sys::kill(std::process::id(), Signum::SIGUSR1);
        }
    });
    let count = Rc::new(Cell::new(0));
    let counter = Rc::clone(&count);
    let signal = context.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, move |_, _, info| {
        assert_eq!(info.count, 1);
        counter.set(counter.get() + 1);
        // The last one has nobody to wait for.
        let _ = handled.send(());
    });
    signal.unwrap().detach();
    begin.send(()).unwrap();
    count
}

fn signals_reach_a_loop_inside_one_of_epoll(kind: BackendKind) {
    for edge in [false, true] {
        let context = context(kind);
        let around = EpollLoop::around(&context, edge);
        let handled = one_after_the_other(&context, 100);
        around.run_until(&context, "a hundred signals", || handled.get() == 100);
        let turns = around.counts.turns.get();
        assert!(turns < 1000, "edge {edge}: {turns} turns for 100 signals");
    }
}

fn signals_reach_a_loop_inside_tokio(kind: BackendKind) {
    let context = context(kind);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let counts = Counts::default();
    let handled = one_after_the_other(&context, 100);
    runtime.block_on(drive_in_tokio(&context, &counts, || handled.get() == 100));
    let turns = counts.turns.get();
    assert!(turns < 1000, "{turns} turns for 100 signals");
}
