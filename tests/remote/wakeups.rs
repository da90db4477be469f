//! The loop is woken when it sleeps, once, and never otherwise.

use crate::process::{self, context, sys, tests};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use tevent::BackendKind;

pub const TESTS: &[process::Test] = tests![
    a_sleeping_loop_is_woken,
    a_batch_costs_one_wakeup,
    a_busy_loop_is_not_woken,
    nothing_is_lost_between_the_check_and_the_wait,
    remote_work_makes_the_descriptor_readable,
    what_is_left_after_a_turn_is_announced,
];

fn a_sleeping_loop_is_woken(kind: BackendKind) {
    let me = std::process::id();
    let context = context(kind);
    let remote = context.remote();
    let sender = thread::spawn(move || {
        // The state in there is the main thread's.
        sys::wait_until("the loop waits", || sys::state_of(me) == Some('S'));
        remote.schedule(|context| context.stop())
    });
    context.run_until(|| false).unwrap();
    assert!(sender.join().unwrap());
}

fn a_batch_costs_one_wakeup(kind: BackendKind) {
    let context = context(kind);
    let wakeup = sys::wakeup_of_the_only_context();
    let remote = context.remote();
    let count = Arc::new(AtomicUsize::new(0));
    let before = sys::writes_to(wakeup);
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        for _ in 0..1000 {
            let counter = Arc::clone(&counter);
            remote.schedule(move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
            });
        }
    })
    .join()
    .unwrap();
    assert_eq!(sys::writes_to(wakeup) - before, 1, "one for a thousand");
    context.run().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1000);
}

fn a_busy_loop_is_not_woken(kind: BackendKind) {
    let context = context(kind);
    let wakeup = sys::wakeup_of_the_only_context();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        context.defer(move |context| {
            let remote = context.remote();
            let before = sys::writes_to(wakeup);
            thread::spawn(move || {
                for _ in 0..100 {
                    remote.schedule(|_| ());
                }
            })
            .join()
            .unwrap();
            sender.send(sys::writes_to(wakeup) - before).unwrap();
        });
        context.run().unwrap();
        assert_eq!(receiver.recv(), Ok(0), "it looks by itself");
    }
}

fn nothing_is_lost_between_the_check_and_the_wait(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    let (mut ours, mut theirs) = sys::channel();
    let sender = thread::spawn(move || {
        let mut moment = 1u32;
        let mut request = [0];
        while theirs.read(&mut request).is_ok_and(|count| count == 1) {
            moment = moment.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for _ in 0..moment >> 20 {
                std::hint::spin_loop();
            }
            remote.schedule(|context| context.stop());
        }
        theirs.flush().unwrap();
    });
    for _ in 0..5000 {
        ours.write_all(b"x").unwrap();
        context.run_until(|| false).unwrap();
    }
    drop(ours);
    sender.join().unwrap();
}

const SOON: Duration = Duration::from_secs(30);

fn remote_work_makes_the_descriptor_readable(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    for _ in 0..3 {
        while context.run_once().unwrap() {}
        assert!(!sys::is_readable(&context), "nothing has come");
        let remote = context.remote();
        let sender = thread::spawn(move || remote.schedule(|_| ()));
        assert!(sys::is_readable_within(&context, SOON));
        assert!(sender.join().unwrap());
        assert!(
            context
                .next_deadline()
                .is_some_and(|at| at <= context.now())
        );
        assert!(context.run_once().unwrap());
    }
}

fn what_is_left_after_a_turn_is_announced(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    let remote = context.remote();
    // Scheduled while the loop is busy, so without a wake-up.
    context.defer(move |_| {
        remote.schedule(|_| ());
    });
    assert!(context.run_once().unwrap());
    assert!(sys::is_readable(&context), "the loop was left with work");
    assert!(context.run_once().unwrap());
}
