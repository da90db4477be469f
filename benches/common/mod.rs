//! What the benchmarks share. Each runs on every backend, and is named `group/backend/what`; an
//! iteration is one event, so that the time is what one costs.

#![allow(dead_code, reason = "every benchmark uses a part of this")]

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context};

const BACKENDS: [BackendKind; 2] = [BackendKind::Epoll, BackendKind::Poll];

/// Runs benchmarks of a group on each backend. An iteration is one element.
pub fn on_every_backend(
    criterion: &mut Criterion,
    group: &str,
    mut benchmarks: impl FnMut(&mut BenchmarkGroup<'_, WallTime>, BackendKind),
) {
    for kind in BACKENDS {
        let mut group = criterion.benchmark_group(format!("{group}/{kind}"));
        group.throughput(Throughput::Elements(1));
        benchmarks(&mut group, kind);
        group.finish();
    }
}

pub fn context(kind: BackendKind) -> Context {
    Context::builder()
        .backend(kind)
        .build()
        .expect("a context can be made")
}

/// How many handlers are still to be called.
#[derive(Clone, Default)]
pub struct Countdown(Rc<Cell<u64>>);

impl Countdown {
    /// Called by a handler. Stops the loop when it was the last.
    pub fn tick(&self, context: &Context) {
        self.0.set(self.0.get() - 1);
        if self.0.get() == 0 {
            context.stop();
        }
    }

    /// Runs the loop until handlers have been called `calls` times. The time that it took.
    pub fn time(&self, context: &Context, calls: u64) -> Duration {
        self.0.set(calls);
        let start = Instant::now();
        context.run().expect("the loop runs");
        let elapsed = start.elapsed();
        assert_eq!(self.0.get(), 0, "every handler was called");
        elapsed
    }
}

/// Two connected sockets that don't block.
pub fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a socket pair");
    a.set_nonblocking(true).expect("non-blocking");
    b.set_nonblocking(true).expect("non-blocking");
    (a, b)
}

/// A socket that can be read, and its peer.
pub fn readable() -> (UnixStream, UnixStream) {
    let (a, mut b) = pair();
    b.write_all(b"x").expect("there is room");
    (a, b)
}

/// Lets the process have enough descriptors, if it may.
pub fn raise_descriptor_limit(wanted: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let is_enough = |current: Option<u64>| current.is_none_or(|current| current >= wanted);
    if is_enough(limit.current) {
        return Ok(());
    }
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) if is_enough(limit.maximum) => Ok(()),
        _ => Err(format!(
            "{wanted} descriptors are needed, and the limit is {:?}: raise it (ulimit -Hn)",
            limit.maximum
        )),
    }
}

/// A generator of random numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        Random(1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One to two hours.
    pub fn far(&mut self) -> Duration {
        Duration::from_secs(3600) + Duration::from_micros(self.below(3_600_000_000))
    }
}
