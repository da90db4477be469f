//! calloop 0.14.
//!
//! - descriptors are level-triggered `Generic` sources with closures
//! - interest is changed by a source of one's own, which asks to be registered anew: closures can't
//! - a timer is armed and disarmed by `enable` and `disable`, postponed by `update`
//! - what an immediate is for is done by `insert_idle`, which is called when the loop has looked at
//!   the descriptors; a loop that has something of the kind doesn't wait
//! - signals by its signalfd source
//! - other threads use a vector of closures in a mutex, and `Ping` when it was empty: its channel
//!   makes a system call for each message

use crate::echo::{accept, answer};
use crate::run::{Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Posts, Random, STEP, far, near, pair, pairs, put, raise, take,
};
use crate::workload::{Thing, Work};
use calloop::generic::Generic;
use calloop::ping::make_ping;
use calloop::signals::{Signal, Signals};
use calloop::timer::{TimeoutAction, Timer};
use calloop::{
    Dispatcher, EventLoop, EventSource, Interest, LoopHandle, LoopSignal, Mode, Poll, PostAction,
    Readiness, RegistrationToken, Token, TokenFactory,
};
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// What all callbacks get.
struct State {
    calls: Countdown,
    pongs: Countdown,
    signal: LoopSignal,
}

impl State {
    #[inline(always)]
    fn tick(&mut self) {
        if self.calls.tick() {
            self.signal.stop();
        }
    }
}

type Loop<'a> = EventLoop<'a, State>;
type Handle<'a> = LoopHandle<'a, State>;

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let mut event_loop: Loop<'_> = EventLoop::try_new().expect("a loop");
    let handle = &event_loop.handle();
    let state = &mut State {
        calls: Countdown::new(run.operations),
        pongs: Countdown::new(run.operations),
        signal: event_loop.get_signal(),
    };
    match work {
        Work::PingPong => ping_pong(handle),
        Work::Ready { ready, registered } => some_ready(handle, ready, registered),
        Work::Signal => signal(handle),
        Work::Toggle => one_event(handle, false),
        Work::LastingToggle => one_event(handle, true),
        Work::Rearm { outstanding } => {
            rearm(&mut event_loop, state, run, outstanding);
            return Ok(());
        }
        Work::Churn { outstanding } => {
            churn(handle, run, outstanding);
            return Ok(());
        }
        Work::Postpone { outstanding } => {
            postpone(handle, run, outstanding);
            return Ok(());
        }
        Work::Fire { timers } => {
            fire(&mut event_loop, state, run, timers);
            return Ok(());
        }
        Work::Immediate => {
            immediate(run);
            return Ok(());
        }
        Work::Remote => {
            remote(&mut event_loop, state, run);
            return Ok(());
        }
        Work::Echo { connections } => {
            echo(&mut event_loop, state, run, connections);
            return Ok(());
        }
        Work::Hold(thing, count) => {
            hold(handle, run, thing, count);
            return Ok(());
        }
    }
    run.timed(|| event_loop.run(None, state, |_| ()))
        .expect("the loop runs");
    if work == Work::PingPong {
        assert_eq!(
            state.calls.done(),
            state.pongs.done(),
            "every ping has its pong"
        );
    }
    run.did(state.calls.done());
    Ok(())
}

fn watched(source: UnixStream) -> Generic<UnixStream> {
    Generic::new(source, Interest::READ, Mode::Level)
}

fn ping_pong(handle: &Handle<'_>) {
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ping = handle.insert_source(watched(a), |_, source, state| {
        take(source.as_raw_fd());
        put(source.as_raw_fd());
        state.pongs.tick();
        Ok(PostAction::Continue)
    });
    let pong = handle.insert_source(watched(b), |_, source, state| {
        take(source.as_raw_fd());
        put(source.as_raw_fd());
        state.tick();
        Ok(PostAction::Continue)
    });
    ping.and(pong).expect("sources");
}

fn some_ready(handle: &Handle<'_>, ready: usize, registered: usize) {
    for (source, peer) in pairs(ready, registered) {
        let inserted = handle.insert_source(watched(source), move |_, source, state| {
            take(source.as_raw_fd());
            put(peer.as_raw_fd());
            state.tick();
            Ok(PostAction::Continue)
        });
        inserted.expect("a source");
    }
}

/// A source whose interest changes.
struct Changing {
    inner: Generic<UnixStream>,
    lasting: bool,
}

impl EventSource for Changing {
    type Event = Readiness;
    type Metadata = Interest;
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction>
    where
        F: FnMut(Readiness, &mut Interest),
    {
        let mut interest = self.inner.interest;
        self.inner
            .process_events(readiness, token, |readiness, _| {
                callback(readiness, &mut interest);
                Ok(PostAction::Continue)
            })?;
        self.inner.interest = interest;
        // One that isn't to last is off again.
        match self.lasting {
            true => Ok(PostAction::Reregister),
            false => Ok(PostAction::Continue),
        }
    }

    fn register(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.inner.register(poll, factory)
    }

    fn reregister(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.inner.reregister(poll, factory)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.inner.unregister(poll)
    }
}

fn one_event(handle: &Handle<'_>, lasting: bool) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let fd = source.as_raw_fd();
    let inner = watched(source);
    let source = Changing { inner, lasting };
    let inserted = handle.insert_source(source, move |readiness, interest, state| {
        if readiness.readable {
            take(fd);
            *interest = Interest::BOTH;
            if lasting {
                return;
            }
        }
        *interest = Interest::READ;
        put(peer.as_raw_fd());
        state.tick();
    });
    inserted.expect("a source");
}

fn never(_: Instant, _: &mut (), _: &mut State) -> TimeoutAction {
    unreachable!("it was far away")
}

fn armed(handle: &Handle<'_>, count: usize) {
    let (now, mut random) = (Instant::now(), Random::new());
    for _ in 0..count {
        let timer = Timer::from_deadline(now + far(&mut random));
        handle.insert_source(timer, never).expect("a timer");
    }
}

fn far_deadlines() -> Drawn<Instant> {
    let now = Instant::now();
    Drawn::new(|random| now + far(random))
}

fn rearm(event_loop: &mut Loop<'_>, state: &mut State, run: &mut Run, outstanding: usize) {
    let handle = event_loop.handle();
    let deadlines = &mut far_deadlines();
    armed(&handle, outstanding);
    let timer = Dispatcher::new(
        Timer::from_deadline(deadlines.next()),
        |_, _: &mut (), state: &mut State| {
            state.calls.tick();
            TimeoutAction::Drop
        },
    );
    let token = handle.register_dispatcher(timer.clone()).expect("a timer");
    handle.disable(&token).expect("disabled");
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            timer.as_source_mut().set_deadline(deadlines.next());
            handle.enable(&token).expect("enabled");
            handle.disable(&token).expect("disabled");
        }
    });
    timer.as_source_mut().set_deadline(Instant::now());
    handle.enable(&token).expect("enabled");
    event_loop
        .dispatch(Duration::ZERO, state)
        .expect("the loop runs");
    assert_eq!(state.calls.done(), 1, "it fired once");
    run.did(operations);
}

fn churn(handle: &Handle<'_>, run: &mut Run, outstanding: usize) {
    armed(handle, outstanding);
    let deadlines = &mut far_deadlines();
    let operations = run.operations;
    run.timed(|| {
        for number in 0..operations {
            let timer = Timer::from_deadline(deadlines.next());
            let token = handle.insert_source(timer, move |_, _, _| {
                black_box(number);
                TimeoutAction::Drop
            });
            handle.remove(token.expect("a timer"));
        }
    });
    run.did(operations);
}

fn postpone(handle: &Handle<'_>, run: &mut Run, outstanding: usize) {
    let (now, mut random) = (Instant::now(), Random::new());
    let mut new = |_| {
        let timer = Dispatcher::new(Timer::from_deadline(now + far(&mut random)), never);
        let token = handle.register_dispatcher(timer.clone()).expect("a timer");
        (timer, token)
    };
    let timers: Vec<(Dispatcher<'_, Timer, State>, RegistrationToken)> =
        (0..outstanding).map(&mut new).collect();
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut deadline = now + 2 * HOUR;
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            deadline += STEP;
            let (timer, token) = &timers[chosen.next()];
            timer.as_source_mut().set_deadline(deadline);
            handle.update(token).expect("updated");
        }
    });
    run.did(operations);
}

fn fire(event_loop: &mut Loop<'_>, state: &mut State, run: &mut Run, count: usize) {
    let handle = event_loop.handle();
    for round in 1..=run.operations / count as u64 {
        let now = Instant::now();
        let mut deadlines = Drawn::new(|random| now + near(random));
        run.timed(|| {
            for _ in 0..count {
                let timer = Timer::from_deadline(deadlines.next());
                let inserted = handle.insert_source(timer, |_, _, state| {
                    state.calls.tick();
                    TimeoutAction::Drop
                });
                inserted.expect("a timer");
            }
        });
        thread::sleep(ALL_DUE);
        run.timed(|| {
            while state.calls.done() < round * count as u64 {
                event_loop.dispatch(None, state).expect("the loop runs");
            }
        });
    }
    run.did(state.calls.done());
}

/// Idle callbacks that hold the loop's handle can't borrow anything.
fn immediate(run: &mut Run) {
    struct Idle {
        calls: Countdown,
        handle: LoopHandle<'static, Idle>,
    }
    fn schedule(handle: &LoopHandle<'static, Idle>) {
        handle.insert_idle(|idle| {
            if !idle.calls.tick() {
                schedule(&idle.handle);
            }
        });
    }
    let mut event_loop: EventLoop<'static, Idle> = EventLoop::try_new().expect("a loop");
    let idle = &mut Idle {
        calls: Countdown::new(run.operations),
        handle: event_loop.handle(),
    };
    schedule(&idle.handle);
    let operations = run.operations;
    run.timed(|| {
        while idle.calls.done() < operations {
            let dispatched = event_loop.dispatch(Duration::ZERO, idle);
            dispatched.expect("the loop runs");
        }
    });
    run.did(idle.calls.done());
}

fn signal(handle: &Handle<'_>) {
    let signals = Signals::new(&[Signal::SIGUSR1]).expect("a signalfd");
    let inserted = handle.insert_source(signals, |_, _, state| match state.calls.tick() {
        true => state.signal.stop(),
        false => raise(),
    });
    inserted.expect("a source");
    raise();
}

fn remote(event_loop: &mut Loop<'_>, state: &mut State, run: &mut Run) {
    let (ping, source) = make_ping().expect("a ping");
    let posts = Rc::new(Posts::default());
    let received = Rc::clone(&posts);
    let inserted = event_loop
        .handle()
        .insert_source(source, move |_, _, state| {
            let mut called = 0;
            received.call_all(&mut called);
            for _ in 0..called {
                state.tick();
            }
        });
    inserted.expect("a source");
    posts.post_from_another_thread(
        run.operations,
        move || ping.ping(),
        |start| {
            run.timed(|| {
                start.wait();
                event_loop.run(None, state, |_| ()).expect("the loop runs");
            });
        },
    );
    run.did(state.calls.done());
}

fn echo(event_loop: &mut Loop<'_>, state: &mut State, run: &mut Run, connections: usize) {
    let open = Countdown::new(connections as u64);
    for client in accept(connections) {
        let open = open.clone();
        let source = Generic::new(client, Interest::READ, Mode::Level);
        let inserted = event_loop
            .handle()
            .insert_source(source, move |_, client, state| {
                if answer(client.as_raw_fd()) {
                    state.calls.tick();
                    return Ok(PostAction::Continue);
                }
                if open.tick() {
                    state.signal.stop();
                }
                Ok(PostAction::Remove)
            });
        inserted.expect("a source");
    }
    run.served(|| event_loop.run(None, state, |_| ()))
        .expect("the loop runs");
    run.did(state.calls.done());
}

fn hold(handle: &Handle<'_>, run: &mut Run, thing: Thing, count: usize) {
    match thing {
        Thing::Context => {
            let new = |_| EventLoop::try_new().expect("a loop");
            run.weighed(|| (0..count).map(new).collect::<Vec<Loop<'_>>>());
        }
        Thing::Fd => {
            let pairs = pairs(0, count);
            run.weighed(|| {
                for (source, peer) in pairs {
                    let inserted =
                        handle.insert_source(watched(source), |_, _, _| Ok(PostAction::Continue));
                    inserted.expect("a source");
                    std::mem::forget(peer);
                }
            });
        }
        Thing::Timer => run.weighed(|| armed(handle, count)),
        Thing::Immediate => run.weighed(|| {
            for _ in 0..count {
                handle.insert_idle(|_| ());
            }
        }),
        Thing::Signal => run.weighed(|| {
            for _ in 0..count {
                let signals = Signals::new(&[Signal::SIGUSR1]).expect("a signalfd");
                handle
                    .insert_source(signals, |_, _, _| ())
                    .expect("a source");
            }
        }),
    }
}
