//! polling 3: a portable interface to the kernel's set, and no loop of its own. The program keeps
//! what belongs to a key, here in a vector.
//!
//! - descriptors are registered level-triggered (`PollMode::Level`). In the default mode, one-shot,
//!   each event would cost a system call more
//! - interest is changed by `modify_with_mode`
//! - it has no timers, immediates, signals; other threads use a vector of closures in a mutex, and
//!   `Poller::notify` when it was empty

use crate::echo::{accept, answer};
use crate::run::{Absence, Performed, Run};
use crate::support::{Posts, pair, pairs, put, take};
use crate::workload::{Thing, Work};
use polling::{Event, Events, PollMode, Poller};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

pub fn perform(work: Work, run: &mut Run) -> Performed {
    match work {
        Work::PingPong => ping_pong(run),
        Work::Ready { ready, registered } => some_ready(run, ready, registered),
        Work::Toggle => toggle(run),
        Work::LastingToggle => lasting_toggle(run),
        Work::Remote => remote(run),
        Work::Echo { connections } => echo(run, connections),
        Work::Hold(Thing::Context, count) => {
            let new = |_| (Poller::new().expect("a poller"), Events::new());
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

fn add(poller: &Poller, source: &impl AsRawFd, key: usize) {
    // SAFETY: whoever calls this keeps the source longer than the poller.
    let added = unsafe { poller.add_with_mode(source, Event::readable(key), PollMode::Level) };
    added.expect("added");
}

#[inline(always)]
fn modify(poller: &Poller, source: &UnixStream, interest: Event) {
    let modified = poller.modify_with_mode(source, interest, PollMode::Level);
    modified.expect("modified");
}

#[inline(always)]
fn wait(poller: &Poller, events: &mut Events) {
    events.clear();
    poller.wait(events, None).expect("waited");
}

fn ping_pong(run: &mut Run) {
    let mut events = Events::new();
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ends = Vec::<RawFd>::from([a.as_raw_fd(), b.as_raw_fd()]);
    let poller = Poller::new().expect("a poller");
    add(&poller, &a, 0);
    add(&poller, &b, 1);
    let calls = 2 * run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < calls {
            wait(&poller, &mut events);
            for event in events.iter() {
                let fd = ends[event.key];
                take(fd);
                put(fd);
                called += 1;
            }
        }
    });
    run.did(called / 2);
}

fn some_ready(run: &mut Run, ready: usize, registered: usize) {
    let mut events = Events::new();
    let pairs = pairs(ready, registered);
    let poller = Poller::new().expect("a poller");
    for (key, (source, _)) in pairs.iter().enumerate() {
        add(&poller, source, key);
    }
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            wait(&poller, &mut events);
            for event in events.iter() {
                let (source, peer) = &pairs[event.key];
                take(source.as_raw_fd());
                put(peer.as_raw_fd());
                called += 1;
            }
        }
    });
    run.did(called);
}

fn toggle(run: &mut Run) {
    let mut events = Events::new();
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let poller = Poller::new().expect("a poller");
    add(&poller, &source, 0);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            wait(&poller, &mut events);
            for _ in events.iter() {
                take(source.as_raw_fd());
                modify(&poller, &source, Event::all(0));
                modify(&poller, &source, Event::readable(0));
                put(peer.as_raw_fd());
                called += 1;
            }
        }
    });
    run.did(called);
}

fn lasting_toggle(run: &mut Run) {
    let mut events = Events::new();
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let poller = Poller::new().expect("a poller");
    add(&poller, &source, 0);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            wait(&poller, &mut events);
            for event in events.iter() {
                if event.readable {
                    take(source.as_raw_fd());
                    modify(&poller, &source, Event::all(0));
                } else {
                    modify(&poller, &source, Event::readable(0));
                    put(peer.as_raw_fd());
                    called += 1;
                }
            }
        }
    });
    run.did(called);
}

fn echo(run: &mut Run, connections: usize) {
    let mut events = Events::new();
    let clients = accept(connections);
    let poller = Poller::new().expect("a poller");
    for (key, client) in clients.iter().enumerate() {
        add(&poller, client, key);
    }
    let operations = run.operations;
    let mut answered = 0;
    run.served(|| {
        while answered < operations {
            wait(&poller, &mut events);
            for event in events.iter() {
                answer(clients[event.key].as_raw_fd());
                answered += 1;
            }
        }
    });
    run.did(answered);
}

fn remote(run: &mut Run) {
    let mut events = Events::new();
    let poller = Poller::new().expect("a poller");
    let posts = Posts::default();
    let operations = run.operations;
    let mut called = 0;
    let wake = || poller.notify().expect("notified");
    posts.post_from_another_thread(operations, wake, |start| {
        run.timed(|| {
            start.wait();
            while called < operations {
                wait(&poller, &mut events);
                posts.call_all(&mut called);
            }
        });
    });
    run.did(called);
}
