//! Signals at the worst of moments.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime, valued};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use tevent::{BackendKind, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_signal_from_a_process_between_the_check_and_the_wait_is_not_lost,
    a_signal_from_a_thread_between_the_check_and_the_wait_is_not_lost,
    contexts_come_and_go_while_signals_arrive,
    contexts_come_and_go_on_two_threads_while_signals_arrive,
    handlers_come_and_go_while_signals_arrive,
    a_flood_of_all_kinds_of_signals_is_counted_to_the_last,
];

/// Answers each byte with a signal after a moment that differs from time to time.
fn send_on_request(pid: u32, requests: &UnixStream, signum: Signum) {
    let mut moment = 1u32;
    let mut request = [0];
    while (&mut &*requests)
        .read(&mut request)
        .is_ok_and(|count| count == 1)
    {
        moment = moment.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..moment >> 20 {
            std::hint::spin_loop();
        }
        sys::kill(pid, signum);
    }
}

/// Asks for a signal, and waits for it without a time limit, many times.
fn assert_every_signal_wakes(kind: BackendKind, mut requests: UnixStream) {
    let context = context(kind);
    let (_signal, counts) = counting(&context, Signum::SIGUSR1);
    for _ in 0..5000 {
        requests.write_all(b"x").unwrap();
        context.run_until(|| counts.len() == 1).unwrap();
        assert_eq!(counts.take(), [1]);
    }
}

fn a_signal_from_a_process_between_the_check_and_the_wait_is_not_lost(kind: BackendKind) {
    // The child has no handler yet to inherit.
    let (ours, theirs) = sys::channel();
    let me = std::process::id();
    let child = sys::fork(|| {
        // As long as this copy is open, the child would wait for itself.
        sys::close_in_child(&ours);
        send_on_request(me, &theirs, Signum::SIGUSR1);
    });
    assert_every_signal_wakes(kind, ours);
    sys::assert_succeeds(child);
}

fn a_signal_from_a_thread_between_the_check_and_the_wait_is_not_lost(kind: BackendKind) {
    const ROUNDS: u32 = 20_000;
    let requested = AtomicU32::new(0);
    thread::scope(|scope| {
        // It may receive the signals, too.
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                while requested.load(Ordering::SeqCst) != round {
                    std::hint::spin_loop();
                }
                for _ in 0..round % 500 {
                    std::hint::spin_loop();
                }
                sys::kill(std::process::id(), Signum::SIGUSR1);
            }
        });
        let context = context(kind);
        let (_signal, counts) = counting(&context, Signum::SIGUSR1);
        for round in 1..=ROUNDS {
            requested.store(round, Ordering::SeqCst);
            context.run_until(|| counts.len() == 1).unwrap();
            assert_eq!(counts.take(), [1]);
        }
    });
}

/// Also when a test panics, or the threads would go on for ever.
struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets two threads send signals for as long as `work` takes.
fn under_fire(signums: &[Signum], work: impl FnOnce()) {
    for &signum in signums {
        sys::set_handler(signum, libc::SIG_IGN);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    for &signum in signums {
                        sys::sigqueue_once(std::process::id(), signum, 1);
                    }
                    thread::yield_now();
                }
            });
        }
        let _stop = StopsWhenDropped(&done);
        work();
    });
    for &signum in signums {
        assert_eq!(sys::handler_of(signum), libc::SIG_IGN, "restored: {signum}");
    }
    sys::assert_masks_are_clean();
}

fn come_and_go(kind: BackendKind) {
    for round in 0..300 {
        let context = context(kind);
        let (plain, counts) = counting(&context, Signum::SIGUSR1);
        let (info, values) = valued(&context, realtime(0));
        if round % 3 == 0 {
            let got_both = || counts.len() > 0 && values.len() > 0;
            context.run_until(got_both).unwrap();
        }
        match round % 4 {
            0 => drop(plain),
            1 => info.detach(),
            _ => {}
        }
    }
}

fn contexts_come_and_go_while_signals_arrive(kind: BackendKind) {
    under_fire(&[Signum::SIGUSR1, realtime(0)], || come_and_go(kind));
}

fn contexts_come_and_go_on_two_threads_while_signals_arrive(kind: BackendKind) {
    under_fire(&[Signum::SIGUSR1, realtime(0)], || {
        thread::scope(|scope| {
            scope.spawn(|| come_and_go(kind));
            come_and_go(kind);
        });
    });
}

fn handlers_come_and_go_while_signals_arrive(kind: BackendKind) {
    under_fire(&[Signum::SIGUSR1, realtime(0)], || {
        let context = context(kind);
        for _ in 0..300 {
            let calls = Log::new();
            for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
                for signum in [Signum::SIGUSR1, realtime(0)] {
                    let log = calls.clone();
                    let remove_itself = move |_: &_, signal: &tevent::Signal, _: &_| {
                        log.push(());
                        signal.remove();
                    };
                    context
                        .add_signal(signum, flags, remove_itself)
                        .unwrap()
                        .detach();
                }
            }
            context.run().unwrap();
            assert_eq!(calls.len(), 4);
        }
    });
}

fn a_flood_of_all_kinds_of_signals_is_counted_to_the_last(kind: BackendKind) {
    const EACH: usize = 3000;
    let context = context(kind);
    let (_info, values) = valued(&context, realtime(0));
    let (_plain, counts) = counting(&context, realtime(1));
    let (_rest, _) = counting(&context, Signum::SIGUSR1);
    let me = std::process::id();
    let children = [0, 1].map(|sender| {
        sys::fork(|| {
            for number in 0..EACH {
                sys::sigqueue(me, realtime(0), sender * EACH + number);
                sys::sigqueue(me, realtime(1), 0);
                sys::kill(me, Signum::SIGUSR1);
            }
        })
    });
    let mut total = 0;
    while total < 2 * EACH || values.len() < 2 * EACH {
        context.run_once().unwrap();
        total += counts.take().into_iter().sum::<u32>() as usize;
    }
    assert_eq!(total, 2 * EACH);
    let values = values.take();
    for sender in [0, EACH] {
        let senders = sender..sender + EACH;
        let of_one = values
            .iter()
            .copied()
            .filter(|value| senders.contains(value));
        assert!(of_one.eq(senders.clone()), "in the order of the sender");
    }
    assert_eq!(values.len(), 2 * EACH);
    children.into_iter().for_each(sys::assert_succeeds);
    sys::assert_masks_are_clean();
}
