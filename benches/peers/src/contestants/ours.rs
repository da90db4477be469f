//! This crate, as anybody would use it: default options, an `UnixStream` as the source, handlers
//! that own what they need.

use crate::run::{Performed, Run};
use crate::support::{ALL_DUE, Countdown, Drawn, HOUR, STEP, far, near, pair, pairs, put, take};
use crate::workload::Work;
use std::cell::Cell;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;
use tevent::{Context, FdFlags, SignalFlags, Signum, Timer};

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let context = &Context::new().expect("a context");
    match work {
        Work::PingPong => ping_pong(context, run),
        Work::Ready { ready, registered } => some_ready(context, run, ready, registered),
        Work::Rearm { outstanding } => rearm(context, run, outstanding),
        Work::Churn { outstanding } => churn(context, run, outstanding),
        Work::Postpone { outstanding } => postpone(context, run, outstanding),
        Work::Fire { timers } => fire(context, run, timers),
        Work::Immediate => immediate(context, run),
        Work::Signal => signal(context, run),
        Work::Remote => remote(context, run),
        Work::Toggle => toggle(context, run),
        Work::LastingToggle => lasting_toggle(context, run),
    }
    Ok(())
}

fn ping_pong(context: &Context, run: &mut Run) {
    let (a, b) = pair();
    put(b.as_raw_fd());
    let pings = Countdown::new(run.operations);
    let pongs = Countdown::new(run.operations);
    let ping = {
        let pings = pings.clone();
        context.add_fd(a, FdFlags::READ, move |_, event, _| {
            take(event.get_ref().as_raw_fd());
            put(event.get_ref().as_raw_fd());
            pings.tick();
        })
    };
    let pong = {
        let pongs = pongs.clone();
        context.add_fd(b, FdFlags::READ, move |context, event, _| {
            take(event.get_ref().as_raw_fd());
            put(event.get_ref().as_raw_fd());
            if pongs.tick() {
                context.stop();
            }
        })
    };
    let _events = (ping.expect("an event"), pong.expect("an event"));
    run.timed(|| context.run()).expect("the loop runs");
    assert_eq!(pings.left(), pongs.left(), "every ping has its pong");
    run.did(run.operations - pongs.left());
}

fn some_ready(context: &Context, run: &mut Run, ready: usize, registered: usize) {
    let calls = Countdown::new(run.operations);
    let mut events = Vec::new();
    for (source, peer) in pairs(ready, registered) {
        let calls = calls.clone();
        let event = context.add_fd(source, FdFlags::READ, move |context, event, _| {
            take(event.get_ref().as_raw_fd());
            put(peer.as_raw_fd());
            if calls.tick() {
                context.stop();
            }
        });
        events.push(event.expect("an event"));
    }
    run.timed(|| context.run()).expect("the loop runs");
    run.did(run.operations - calls.left());
}

fn toggle(context: &Context, run: &mut Run) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let calls = Countdown::new(run.operations);
    let handler_calls = calls.clone();
    let event = context.add_fd(source, FdFlags::READ, move |context, event, _| {
        take(event.get_ref().as_raw_fd());
        event.set_writable(true);
        event.set_writable(false);
        put(peer.as_raw_fd());
        if handler_calls.tick() {
            context.stop();
        }
    });
    let _event = event.expect("an event");
    run.timed(|| context.run()).expect("the loop runs");
    run.did(run.operations - calls.left());
}

fn lasting_toggle(context: &Context, run: &mut Run) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let calls = Countdown::new(run.operations);
    let handler_calls = calls.clone();
    let event = context.add_fd(source, FdFlags::READ, move |context, event, flags| {
        if flags.contains(FdFlags::READ) {
            take(event.get_ref().as_raw_fd());
            event.set_writable(true);
        } else {
            event.set_writable(false);
            put(peer.as_raw_fd());
            if handler_calls.tick() {
                context.stop();
            }
        }
    });
    let _event = event.expect("an event");
    run.timed(|| context.run()).expect("the loop runs");
    run.did(run.operations - calls.left());
}

/// Timers that aren't to fire.
fn armed(context: &Context, count: usize, deadlines: &mut Drawn<Instant>) -> Vec<Timer> {
    (0..count)
        .map(|_| context.add_timer(deadlines.next(), |_, _| unreachable!("it was far away")))
        .collect()
}

fn far_deadlines(context: &Context) -> Drawn<Instant> {
    let now = context.now();
    Drawn::new(|random| now + far(random))
}

fn rearm(context: &Context, run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines(context);
    let _others = armed(context, outstanding, deadlines);
    let fired = Countdown::new(1);
    let handler_fired = fired.clone();
    let timer = context.add_timer(deadlines.next(), move |context, _| {
        handler_fired.tick();
        context.stop();
    });
    timer.disarm();
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            timer.set_deadline(deadlines.next());
            timer.disarm();
        }
    });
    // It was neither left armed nor broken.
    assert_eq!(timer.deadline(), None);
    timer.set_deadline(context.now());
    context.run().expect("the loop runs");
    assert_eq!(fired.left(), 0, "it fired once");
    run.did(operations);
}

fn churn(context: &Context, run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines(context);
    let _others = armed(context, outstanding, deadlines);
    let first = context.next_deadline();
    let operations = run.operations;
    run.timed(|| {
        for number in 0..operations {
            drop(context.add_timer(deadlines.next(), move |_, _| {
                black_box(number);
            }));
        }
    });
    assert_eq!(context.next_deadline(), first, "no timer was left");
    run.did(operations);
}

fn postpone(context: &Context, run: &mut Run, outstanding: usize) {
    let timers = armed(context, outstanding, &mut far_deadlines(context));
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut deadline = context.now() + 2 * HOUR;
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            deadline += STEP;
            timers[chosen.next()].set_deadline(deadline);
        }
    });
    assert!(
        timers
            .iter()
            .any(|timer| timer.deadline() == Some(deadline))
    );
    run.did(operations);
}

fn fire(context: &Context, run: &mut Run, count: usize) {
    for _ in 0..run.operations / count as u64 {
        let now = context.now();
        let mut deadlines = Drawn::new(|random| now + near(random));
        let calls = Rc::new(Cell::new(0));
        let mut timers = Vec::with_capacity(count);
        run.timed(|| {
            for _ in 0..count {
                let calls = Rc::clone(&calls);
                timers.push(context.add_timer(deadlines.next(), move |_, _| {
                    calls.set(calls.get() + 1);
                }));
            }
        });
        thread::sleep(ALL_DUE);
        run.timed(|| context.run()).expect("the loop runs");
        run.did(calls.get());
    }
}

fn immediate(context: &Context, run: &mut Run) {
    let calls = Countdown::new(run.operations);
    let handler_calls = calls.clone();
    let immediate = context.add_immediate(move |context, immediate| {
        if handler_calls.tick() {
            context.stop();
        } else {
            immediate.schedule();
        }
    });
    immediate.schedule();
    run.timed(|| context.run()).expect("the loop runs");
    run.did(run.operations - calls.left());
}

fn signal(context: &Context, run: &mut Run) {
    let calls = Countdown::new(run.operations);
    let handler_calls = calls.clone();
    let event = context.add_signal(
        Signum::SIGUSR1,
        SignalFlags::RESTART,
        move |context, _, _| {
            if handler_calls.tick() {
                context.stop();
            } else {
                raise();
            }
        },
    );
    let _event = event.expect("an event");
    raise();
    run.timed(|| context.run()).expect("the loop runs");
    run.did(run.operations - calls.left());
}

fn raise() {
    // SAFETY: the signal has a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
}

fn remote(context: &Context, run: &mut Run) {
    thread_local! {
        static CALLS: Cell<u64> = const { Cell::new(0) };
    }
    let operations = run.operations;
    let remote = context.remote();
    let start = Arc::new(Barrier::new(2));
    let poster = {
        let start = Arc::clone(&start);
        thread::spawn(move || {
            start.wait();
            for _ in 0..operations {
                remote.schedule(move |context| {
                    CALLS.set(CALLS.get() + 1);
                    if CALLS.get() == operations {
                        context.stop();
                    }
                });
            }
        })
    };
    run.timed(|| {
        start.wait();
        context.run_until(|| false)
    })
    .expect("the loop runs");
    poster.join().expect("the other thread is done");
    run.did(CALLS.get());
}
