//! This crate, as anybody would use it: default options, an `UnixStream` as the source, handlers
//! that own what they need.

use crate::echo::{accept, answer};
use crate::run::{Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Random, STEP, count_post, far, near, pair, pairs, put, raise,
    take,
};
use crate::workload::{Thing, Work};
use std::cell::Cell;
use std::hint::black_box;
use std::mem;
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
        Work::Echo { connections } => echo(context, run, connections),
        Work::Hold(thing, count) => hold(context, run, thing, count),
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
    assert_eq!(pings.done(), pongs.done(), "every ping has its pong");
    run.did(pongs.done());
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
    run.did(calls.done());
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
    run.did(calls.done());
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
    run.did(calls.done());
}

/// Timers that aren't to fire.
fn armed(context: &Context, count: usize) -> Vec<Timer> {
    let (now, mut random) = (context.now(), Random::new());
    let mut new = |_| {
        let deadline = now + far(&mut random);
        context.add_timer(deadline, |_, _| unreachable!("it was far away"))
    };
    (0..count).map(&mut new).collect()
}

fn far_deadlines(context: &Context) -> Drawn<Instant> {
    let now = context.now();
    Drawn::new(|random| now + far(random))
}

fn rearm(context: &Context, run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines(context);
    let _others = armed(context, outstanding);
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
    assert_eq!(fired.done(), 1, "it fired once");
    run.did(operations);
}

fn churn(context: &Context, run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines(context);
    let _others = armed(context, outstanding);
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
    let timers = armed(context, outstanding);
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
    run.did(calls.done());
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
    run.did(calls.done());
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
            for number in 0..operations {
                remote.schedule(move |context| {
                    let mut calls = CALLS.get();
                    count_post(&mut calls, number);
                    CALLS.set(calls);
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

fn echo(context: &Context, run: &mut Run, connections: usize) {
    let requests = Countdown::new(run.operations);
    let mut events = Vec::new();
    for client in accept(connections) {
        let requests = requests.clone();
        let event = context.add_fd(client, FdFlags::READ, move |context, event, _| {
            answer(event.get_ref().as_raw_fd());
            if requests.tick() {
                context.stop();
            }
        });
        events.push(event.expect("an event"));
    }
    run.served(|| context.run()).expect("the loop runs");
    run.did(requests.done());
}

/// Handlers that own nothing take no memory themselves.
fn hold(context: &Context, run: &mut Run, thing: Thing, count: usize) {
    match thing {
        Thing::Context => {
            let new = |_| Context::new().expect("a context");
            run.weighed(|| (0..count).map(new).collect::<Vec<_>>());
        }
        Thing::Fd => {
            let pairs = pairs(0, count);
            run.weighed(|| {
                for (source, peer) in pairs {
                    let event = context.add_fd(source, FdFlags::READ, |_, _, _| ());
                    event.expect("an event").detach();
                    mem::forget(peer);
                }
            });
        }
        Thing::Timer => {
            run.weighed(|| armed(context, count));
        }
        Thing::Immediate => {
            let new = |_| {
                let immediate = context.add_immediate(|_, _| ());
                immediate.schedule();
                immediate
            };
            run.weighed(|| (0..count).map(new).collect::<Vec<_>>());
        }
        Thing::Signal => {
            let new = |_| {
                let event = context.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, |_, _, _| ());
                event.expect("an event")
            };
            run.weighed(|| (0..count).map(new).collect::<Vec<_>>());
        }
    }
}
