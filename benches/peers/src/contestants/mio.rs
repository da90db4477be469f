//! mio 1: a portable interface to the kernel's set, and no loop of its own. The program keeps what
//! belongs to a token, here in a vector.
//!
//! - descriptors are registered edge-triggered, as mio does it; reading less than there was room
//!   for has read everything
//! - interest is changed by `reregister`
//! - it has no timers, immediates, signals; other threads use a vector of closures in a mutex, and
//!   `Waker::wake` when it was empty

use crate::echo::{accept, answer};
use crate::run::{Absence, Performed, Run};
use crate::support::{Posts, pair, pairs, put, take};
use crate::workload::{Thing, Work};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::os::fd::{AsRawFd, RawFd};

pub fn perform(work: Work, run: &mut Run) -> Performed {
    match work {
        Work::PingPong => ping_pong(run),
        Work::Ready { ready, registered } => some_ready(run, ready, registered),
        Work::Toggle => toggle(run),
        Work::LastingToggle => lasting_toggle(run),
        Work::Remote => remote(run),
        Work::Echo { connections } => echo(run, connections),
        Work::Hold(Thing::Context, count) => {
            let new = |_| (Poll::new().expect("a poll"), Events::with_capacity(BATCH));
            run.weighed(|| (0..count).map(new).collect::<Vec<_>>());
        }
        Work::Hold(..) => return Err(Absence::Lacks("events")),
        Work::Immediate => return Err(Absence::Lacks("immediates")),
        Work::Signal => return Err(Absence::Lacks("signals")),
        Work::Rearm { .. } | Work::Churn { .. } | Work::Postpone { .. } | Work::Fire { .. } => {
            return Err(Absence::Lacks("timers"));
        }
    }
    Ok(())
}

/// As many as mio's examples take.
const BATCH: usize = 1024;

fn register(poll: &Poll, fd: RawFd, token: usize) {
    poll.registry()
        .register(&mut SourceFd(&fd), Token(token), Interest::READABLE)
        .expect("registered");
}

#[inline(always)]
fn reregister(poll: &Poll, fd: RawFd, interest: Interest) {
    poll.registry()
        .reregister(&mut SourceFd(&fd), Token(0), interest)
        .expect("registered anew");
}

fn ping_pong(run: &mut Run) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ends = Vec::from([a.as_raw_fd(), b.as_raw_fd()]);
    register(&poll, ends[0], 0);
    register(&poll, ends[1], 1);
    let calls = 2 * run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < calls {
            poll.poll(&mut events, None).expect("polled");
            for event in &events {
                let fd = ends[event.token().0];
                take(fd);
                put(fd);
                called += 1;
            }
        }
    });
    run.did(called / 2);
}

fn some_ready(run: &mut Run, ready: usize, registered: usize) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let pairs = pairs(ready, registered);
    for (token, (source, _)) in pairs.iter().enumerate() {
        register(&poll, source.as_raw_fd(), token);
    }
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            poll.poll(&mut events, None).expect("polled");
            for event in &events {
                let (source, peer) = &pairs[event.token().0];
                take(source.as_raw_fd());
                put(peer.as_raw_fd());
                called += 1;
            }
        }
    });
    run.did(called);
}

fn toggle(run: &mut Run) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    register(&poll, source.as_raw_fd(), 0);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            poll.poll(&mut events, None).expect("polled");
            for _ in &events {
                take(source.as_raw_fd());
                reregister(
                    &poll,
                    source.as_raw_fd(),
                    Interest::READABLE | Interest::WRITABLE,
                );
                reregister(&poll, source.as_raw_fd(), Interest::READABLE);
                put(peer.as_raw_fd());
                called += 1;
            }
        }
    });
    run.did(called);
}

fn lasting_toggle(run: &mut Run) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    register(&poll, source.as_raw_fd(), 0);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            poll.poll(&mut events, None).expect("polled");
            for event in &events {
                if event.is_readable() {
                    take(source.as_raw_fd());
                    reregister(
                        &poll,
                        source.as_raw_fd(),
                        Interest::READABLE | Interest::WRITABLE,
                    );
                } else {
                    reregister(&poll, source.as_raw_fd(), Interest::READABLE);
                    put(peer.as_raw_fd());
                    called += 1;
                }
            }
        }
    });
    run.did(called);
}

fn echo(run: &mut Run, connections: usize) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let clients = accept(connections);
    for (token, client) in clients.iter().enumerate() {
        register(&poll, client.as_raw_fd(), token);
    }
    let operations = run.operations;
    let mut answered = 0;
    run.served(|| {
        while answered < operations {
            poll.poll(&mut events, None).expect("polled");
            for event in &events {
                answer(clients[event.token().0].as_raw_fd());
                answered += 1;
            }
        }
    });
    run.did(answered);
}

fn remote(run: &mut Run) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(BATCH);
    let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
    let posts = Posts::default();
    let operations = run.operations;
    let mut called = 0;
    let wake = || waker.wake().expect("woken");
    posts.post_from_another_thread(operations, wake, |start| {
        run.timed(|| {
            start.wait();
            while called < operations {
                poll.poll(&mut events, None).expect("polled");
                posts.call_all(&mut called);
            }
        });
    });
    run.did(called);
}
