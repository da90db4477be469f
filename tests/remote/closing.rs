//! A context that goes while others schedule on it.

use crate::process::{self, context, sys, tests};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use tevent::{BackendKind, Remote};

pub const TESTS: &[process::Test] = tests![
    scheduling_on_a_context_that_is_gone_is_refused,
    a_handle_does_not_keep_the_context_alive,
    handles_keep_no_descriptor_of_the_context_open,
    each_closure_runs_or_is_dropped_when_the_context_goes,
    a_closure_that_schedules_when_dropped_blocks_nobody,
    a_closure_that_drops_the_last_handle_is_fine,
    a_handle_of_a_context_that_is_gone_does_not_reach_the_next,
    a_task_makes_a_handle_while_its_context_is_there,
];

/// Counts how often it was dropped.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn scheduling_on_a_context_that_is_gone_is_refused(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    assert!(!remote.is_closed());
    let dropped = Arc::new(AtomicUsize::new(0));
    let guard = Guard(Arc::clone(&dropped));
    assert!(remote.schedule(move |_| drop(guard)));
    drop(context);
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "what had not run");
    assert!(remote.is_closed());
    let guard = Guard(Arc::clone(&dropped));
    let refused = remote.clone();
    let accepted = thread::spawn(move || refused.schedule(move |_| drop(guard)));
    assert!(!accepted.join().unwrap(), "it says so");
    assert_eq!(dropped.load(Ordering::SeqCst), 2, "and drops it");
}

fn a_handle_does_not_keep_the_context_alive(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    let dropped = Arc::new(AtomicUsize::new(0));
    let guard = Guard(Arc::clone(&dropped));
    let _timer = context.add_timer_after(std::time::Duration::from_secs(9), move |_, _| {
        let _captured = &guard;
    });
    drop(context);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(remote.is_closed());
}

fn handles_keep_no_descriptor_of_the_context_open(kind: BackendKind) {
    let before = sys::open_descriptors();
    let context = context(kind);
    let _remote = context.remote();
    let _timer = context.add_timer_after(std::time::Duration::from_secs(9), |_, _| ());
    assert!(sys::open_descriptors().len() > before.len());
    drop(context);
    assert_eq!(sys::open_descriptors(), before);
}

fn each_closure_runs_or_is_dropped_when_the_context_goes(kind: BackendKind) {
    for round in 0..20 {
        let context = context(kind);
        let made = AtomicUsize::new(0);
        let ended = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                let remote = context.remote();
                let (made, ended) = (&made, &ended);
                scope.spawn(move || {
                    loop {
                        made.fetch_add(1, Ordering::SeqCst);
                        let guard = Guard(Arc::clone(ended));
                        let accepted = remote.schedule(move |_| drop(guard));
                        // On one processor the loop would never catch up.
                        thread::yield_now();
                        if !accepted {
                            break;
                        }
                    }
                });
            }
            context
                .run_until(|| ended.load(Ordering::SeqCst) > round * 10)
                .unwrap();
            drop(context);
        });
        assert_eq!(
            made.load(Ordering::SeqCst),
            ended.load(Ordering::SeqCst),
            "each closure is dropped once, run or not"
        );
    }
}

/// Schedules a closure when it is dropped, a few times over.
struct Again(Remote, u32, Arc<AtomicUsize>);

impl Drop for Again {
    fn drop(&mut self) {
        self.2.fetch_add(1, Ordering::SeqCst);
        if self.1 > 0 {
            let next = Again(self.0.clone(), self.1 - 1, Arc::clone(&self.2));
            self.0.schedule(move |_| drop(next));
        }
    }
}

fn a_closure_that_schedules_when_dropped_blocks_nobody(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    let dropped = Arc::new(AtomicUsize::new(0));
    let schedule = || {
        let again = Again(remote.clone(), 3, Arc::clone(&dropped));
        remote.schedule(move |_| drop(again))
    };
    assert!(schedule());
    context.run().unwrap();
    assert_eq!(dropped.swap(0, Ordering::SeqCst), 4, "when it runs");
    assert!(schedule());
    context.reinitialise().unwrap();
    context.run().unwrap();
    assert_eq!(dropped.swap(0, Ordering::SeqCst), 4, "at reinitialise");
    assert!(schedule());
    drop(context);
    assert_eq!(dropped.swap(0, Ordering::SeqCst), 4, "as the context goes");
    assert!(!schedule());
    assert_eq!(dropped.swap(0, Ordering::SeqCst), 4, "after it went");
}

fn a_closure_that_drops_the_last_handle_is_fine(kind: BackendKind) {
    let context = context(kind);
    let (sender, receiver) = mpsc::channel();
    let remote = context.remote();
    let last = remote.clone();
    remote.schedule(move |_| {
        drop(last);
        sender.send(()).unwrap();
    });
    drop(remote);
    context.run().unwrap();
    assert_eq!(receiver.try_recv(), Ok(()));
}

fn a_handle_of_a_context_that_is_gone_does_not_reach_the_next(kind: BackendKind) {
    let first = context(kind);
    let remote = first.remote();
    drop(first);
    // It takes over what the first has left behind.
    let second = context(kind);
    assert!(!remote.schedule(|_| unreachable!()));
    assert_eq!(second.next_deadline(), None);
    assert!(!crate::process::sys::is_readable(&second));
    second.run().unwrap();
}

fn a_task_makes_a_handle_while_its_context_is_there(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let inner = weak.clone();
    let task = context.spawn(async move {
        let remote = inner.remote().expect("it is there");
        thread::spawn(move || remote.schedule(|context| context.stop()))
    });
    context.run_until(|| false).expect("the closure stops it");
    let thread = context.block_on(task).unwrap().expect("it has run");
    assert!(thread.join().unwrap());
    drop(context);
    assert!(weak.remote().is_none());
}
