//! What other threads cost: a round trip to one that runs a context of its own, and a closure of
//! many that another thread posts.

mod common;

use common::{context, on_every_backend};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::Cell;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, Remote};

fn remote(criterion: &mut Criterion) {
    on_every_backend(criterion, "remote", |group, kind| {
        let context = context(kind);
        let other = OtherThread::start(kind);
        group.bench_function("round trip", |bencher| {
            bencher.iter(|| round_trip(&context, &other.remote));
        });
        group.bench_function("posted closure", |bencher| {
            bencher.iter_custom(|closures| receive(&context, &other.remote, closures));
        });
    });
}

/// A thread that runs a context until this is dropped.
struct OtherThread {
    remote: Remote,
    thread: Option<thread::JoinHandle<()>>,
}

impl OtherThread {
    fn start(kind: BackendKind) -> OtherThread {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let context = context(kind);
            sender
                .send(context.remote())
                .expect("somebody waits for it");
            context.run_until(|| false).expect("the loop runs");
        });
        OtherThread {
            remote: receiver.recv().expect("the thread has begun"),
            thread: Some(thread),
        }
    }
}

impl Drop for OtherThread {
    fn drop(&mut self) {
        self.remote.schedule(Context::stop);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()), "it has ended");
    }
}

fn round_trip(context: &Context, other: &Remote) {
    let back = context.remote();
    other.schedule(move |_| {
        back.schedule(Context::stop);
    });
    context.run_until(|| false).expect("the loop runs");
}

/// Has the other thread post so many closures, and calls them. The time of both.
fn receive(context: &Context, other: &Remote, closures: u64) -> Duration {
    thread_local! {
        static CALLED: Cell<u64> = const { Cell::new(0) };
    }
    CALLED.set(0);
    let back = context.remote();
    let start = Instant::now();
    other.schedule(move |_| {
        for _ in 0..closures {
            back.schedule(move |context| {
                CALLED.set(CALLED.get() + 1);
                if CALLED.get() == closures {
                    context.stop();
                }
            });
        }
    });
    context.run_until(|| false).expect("the loop runs");
    let elapsed = start.elapsed();
    assert_eq!(CALLED.get(), closures, "every closure was called");
    elapsed
}

criterion_group!(benches, remote);
criterion_main!(benches);
