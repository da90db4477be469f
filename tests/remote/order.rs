//! All that was scheduled runs, in the sender's order and in the loop's.

use crate::process::{self, context, sys, tests};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tevent::{BackendKind, FdFlags, Remote};

pub const TESTS: &[process::Test] = tests![
    none_of_many_is_lost_and_each_sender_keeps_its_order,
    they_run_after_earlier_immediates_and_before_timers_and_descriptors,
    scheduling_inside_a_handler_runs_in_a_later_turn,
    they_keep_their_order_with_immediates_of_later_turns,
    a_remote_closure_may_schedule_others,
    a_nested_loop_runs_them,
    a_panic_leaves_the_others,
    an_endless_chain_leaves_a_turn_to_the_others,
    they_do_not_keep_run_from_returning,
    a_handle_can_be_sent_shared_and_cloned,
];

thread_local! {
    /// What remote closures, which have to be Send, have noted on the loop's thread.
    static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

fn note(entry: &'static str) {
    LOG.with_borrow_mut(|log| log.push(entry));
}

/// Also while there are others that came at the same time.
fn they_keep_their_order_with_immediates_of_later_turns(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    let inner = remote.clone();
    remote.schedule(move |_| assert!(inner.schedule(|_| note("posted"))));
    remote.schedule(|context| context.defer(|_| note("deferred")));
    remote.schedule(|_| note("third"));
    context.run().unwrap();
    assert_eq!(LOG.take(), ["third", "posted", "deferred"]);
    let inner = remote.clone();
    remote.schedule(move |context| {
        context.defer(|_| note("deferred"));
        assert!(inner.schedule(|_| note("posted")));
    });
    remote.schedule(|_| note("second"));
    remote.schedule(|_| note("third"));
    context.run().unwrap();
    assert_eq!(LOG.take(), ["second", "third", "deferred", "posted"]);
}

fn none_of_many_is_lost_and_each_sender_keeps_its_order(kind: BackendKind) {
    const SENDERS: usize = 4;
    const EACH: usize = 25_000;
    thread_local!(static NEXT: [Cell<usize>; SENDERS] = const { [const { Cell::new(0) }; SENDERS] });
    let context = context(kind);
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let remote = context.remote();
            scope.spawn(move || {
                for number in 0..EACH {
                    let accepted = remote.schedule(move |_| {
                        let expected = NEXT.with(|next| next[sender].replace(number + 1));
                        assert_eq!(number, expected, "in the sender's order");
                    });
                    assert!(accepted);
                }
            });
        }
        let total = || NEXT.with(|next| next.iter().map(Cell::get).sum::<usize>());
        context.run_until(|| total() == SENDERS * EACH).unwrap();
    });
    context.run().unwrap(); // returns, as nothing is left
}

fn they_run_after_earlier_immediates_and_before_timers_and_descriptors(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = sys::pair();
    theirs.write_all(b"x").unwrap();
    let _fd = context.add_fd(ours, FdFlags::READ, |context, _, _| {
        note("descriptor");
        context.stop();
    });
    let _timer = context.add_timer(context.now(), |_, _| note("timer"));
    let remote = context.remote();
    context.defer(|_| note("earlier immediate"));
    thread::spawn(move || {
        remote.schedule(|context| {
            note("first remote");
            context.defer(|_| note("immediate of the first remote"));
        });
        remote.schedule(|_| note("second remote"));
    })
    .join()
    .unwrap();
    context.run().unwrap();
    assert_eq!(
        LOG.take(),
        [
            "earlier immediate",
            "first remote",
            "second remote",
            "immediate of the first remote",
            "timer",
            "descriptor",
        ]
    );
}

fn scheduling_inside_a_handler_runs_in_a_later_turn(kind: BackendKind) {
    let context = context(kind);
    context.defer(|context| {
        context.remote().schedule(|_| note("remote"));
        assert_eq!(LOG.with_borrow(Vec::len), 0, "not inside the handler");
        note("handler");
    });
    assert!(context.run_once().unwrap());
    assert_eq!(LOG.take(), ["handler"]);
    assert!(context.run_once().unwrap());
    assert_eq!(LOG.take(), ["remote"]);
}

fn a_remote_closure_may_schedule_others(kind: BackendKind) {
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    fn again(remote: Remote) {
        let next = remote.clone();
        remote.schedule(move |context| {
            CALLS.set(CALLS.get() + 1);
            match CALLS.get() {
                10 => context.stop(),
                _ => again(next),
            }
        });
    }
    let context = context(kind);
    again(context.remote());
    context.run_until(|| false).unwrap();
    assert_eq!(CALLS.get(), 10);
}

fn a_nested_loop_runs_them(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    let remote = context.remote();
    let done = Rc::new(Cell::new(false));
    let setter = Rc::clone(&done);
    context.defer(move |context| {
        let sender = thread::spawn(move || remote.schedule(|_| note("remote")));
        context
            .run_until(|| LOG.with_borrow(|log| log.len() == 1))
            .unwrap();
        assert!(sender.join().unwrap());
        setter.set(true);
    });
    context.run().unwrap();
    assert!(done.get());
}

fn a_panic_leaves_the_others(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    remote.schedule(|_| panic!("expected"));
    remote.schedule(|_| note("second"));
    panic::catch_unwind(AssertUnwindSafe(|| context.run())).expect_err("it comes through");
    remote.schedule(|_| note("third"));
    context.run().unwrap();
    assert_eq!(LOG.take(), ["second", "third"]);
}

fn an_endless_chain_leaves_a_turn_to_the_others(kind: BackendKind) {
    fn again(remote: Remote) {
        let next = remote.clone();
        remote.schedule(move |_| again(next));
    }
    let context = context(kind);
    again(context.remote());
    let (ours, theirs) = sys::pair();
    drop(theirs);
    let _fd = context.add_fd(ours, FdFlags::READ, |context, _, _| context.stop());
    context.run().unwrap();
    let _timer = context.add_timer_after(Duration::from_micros(1), |context, _| context.stop());
    context.run().unwrap();
}

fn they_do_not_keep_run_from_returning(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    context.run().unwrap(); // returns, though the handle is there
    remote.schedule(|_| note("remote"));
    context.run().unwrap();
    assert_eq!(LOG.take(), ["remote"], "what is there is done first");
    drop(remote);
}

fn a_handle_can_be_sent_shared_and_cloned(kind: BackendKind) {
    fn is_send_and_sync<T: Send + Sync + Clone + 'static>(_: &T) {}
    let context = context(kind);
    let remote = context.remote();
    is_send_and_sync(&remote);
    let count = Arc::new(AtomicUsize::new(0));
    let shared = Arc::new(Mutex::new(()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _shared = shared.lock().unwrap();
                let count = Arc::clone(&count);
                remote.schedule(move |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                })
            });
        }
    });
    context.run().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 4);
}
