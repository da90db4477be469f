//! tokio 1, the runtime for one thread.
//!
//! - a task for each descriptor, that reads and writes its `UnixStream`; the buffer is larger than
//!   what comes, so that a short read tells the runtime that there is no more
//! - interest isn't the program's business, so there is none to change
//! - a timer is a pinned `Sleep`. It is registered when it is polled first, and not disarmed but
//!   dropped; `reset` postpones it. Those that fire are awaited by a task each
//! - what an immediate is for is done by `yield_now`
//! - other threads use an unbounded channel of closures

use crate::echo::accept;
use crate::run::{Absence, Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Random, STEP, count_post, far, near, pair, pairs, put, raise,
};
use crate::workload::{Thing, Work};
use std::future::{Future, poll_fn};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let runtime = &new_runtime();
    match work {
        Work::PingPong => ping_pong(runtime, run),
        Work::Ready { ready, registered } => some_ready(runtime, run, ready, registered),
        Work::Rearm { .. } => return Err(Absence::Lacks("timers to disarm")),
        Work::Churn { outstanding } => churn(runtime, run, outstanding),
        Work::Postpone { outstanding } => postpone(runtime, run, outstanding),
        Work::Fire { timers } => fire(runtime, run, timers),
        Work::Immediate => immediate(runtime, run),
        Work::Signal => raised(runtime, run),
        Work::Remote => remote(runtime, run),
        Work::Toggle | Work::LastingToggle => return Err(Absence::Lacks("interest to change")),
        Work::Echo { connections } => echo(runtime, run, connections),
        Work::Hold(thing, count) => return hold(runtime, run, thing, count),
    }
    Ok(())
}

fn new_runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs tasks on this thread until all operations are done.
fn block_on(runtime: &Runtime, main: impl Future<Output = ()>) {
    runtime.block_on(LocalSet::new().run_until(main));
}

/// Counts, and tells the main task when all are done.
#[derive(Clone)]
struct Counter {
    calls: Countdown,
    finished: std::rc::Rc<Notify>,
}

impl Counter {
    fn new(operations: u64) -> Counter {
        Counter {
            calls: Countdown::new(operations),
            finished: std::rc::Rc::default(),
        }
    }

    #[inline(always)]
    fn tick(&self) {
        if self.calls.tick() {
            self.finished.notify_one();
        }
    }
}

/// Reads one byte, as all others do.
async fn read_byte(stream: &mut UnixStream) {
    let mut buffer = [0; 64];
    let count = stream.read(&mut buffer).await.expect("read");
    assert_eq!(count, 1, "one byte was to be read");
}

fn ping_pong(runtime: &Runtime, run: &mut Run) {
    let (a, b) = pair();
    put(b.as_raw_fd());
    let pongs = Counter::new(run.operations);
    let pings = Countdown::new(run.operations);
    block_on(runtime, async {
        let mut a = UnixStream::from_std(a).expect("registered");
        let mut b = UnixStream::from_std(b).expect("registered");
        let (counter, counted) = (pongs.clone(), pings.clone());
        spawn_local(async move {
            loop {
                read_byte(&mut a).await;
                a.write_all(b"x").await.expect("written");
                counted.tick();
            }
        });
        spawn_local(async move {
            loop {
                read_byte(&mut b).await;
                b.write_all(b"x").await.expect("written");
                counter.tick();
            }
        });
        let start = std::time::Instant::now();
        pongs.finished.notified().await;
        run.took(start.elapsed());
    });
    assert!(
        pings.done().abs_diff(pongs.calls.done()) <= 1,
        "every ping has its pong"
    );
    run.did(pongs.calls.done());
}

fn some_ready(runtime: &Runtime, run: &mut Run, ready: usize, registered: usize) {
    let counter = Counter::new(run.operations);
    block_on(runtime, async {
        for (source, peer) in pairs(ready, registered) {
            let mut source = UnixStream::from_std(source).expect("registered");
            let counter = counter.clone();
            spawn_local(async move {
                loop {
                    read_byte(&mut source).await;
                    put(peer.as_raw_fd());
                    counter.tick();
                }
            });
        }
        let start = std::time::Instant::now();
        counter.finished.notified().await;
        run.took(start.elapsed());
    });
    run.did(counter.calls.done());
}

/// Polls a sleep once, which arms it.
async fn arm(sleep: &mut Pin<Box<Sleep>>) {
    poll_fn(|context| {
        let polled = sleep.as_mut().poll(context);
        assert!(polled.is_pending(), "it is far away");
        Poll::Ready(())
    })
    .await;
}

async fn armed(count: usize) -> Vec<Pin<Box<Sleep>>> {
    let (now, mut random) = (Instant::now(), Random::new());
    let mut sleeps = Vec::with_capacity(count);
    for _ in 0..count {
        let mut sleep = Box::pin(sleep_until(now + far(&mut random)));
        arm(&mut sleep).await;
        sleeps.push(sleep);
    }
    sleeps
}

fn far_deadlines() -> Drawn<Instant> {
    let now = Instant::now();
    Drawn::new(|random| now + far(random))
}

fn churn(runtime: &Runtime, run: &mut Run, outstanding: usize) {
    let operations = run.operations;
    runtime.block_on(async {
        let _others = armed(outstanding).await;
        let mut deadlines = far_deadlines();
        let start = std::time::Instant::now();
        for _ in 0..operations {
            let mut sleep = Box::pin(sleep_until(deadlines.next()));
            arm(&mut sleep).await;
        }
        run.took(start.elapsed());
    });
    run.did(operations);
}

fn postpone(runtime: &Runtime, run: &mut Run, outstanding: usize) {
    let operations = run.operations;
    runtime.block_on(async {
        let mut sleeps = armed(outstanding).await;
        let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
        let mut deadline = Instant::now() + 2 * HOUR;
        let start = std::time::Instant::now();
        for _ in 0..operations {
            deadline += STEP;
            sleeps[chosen.next()].as_mut().reset(deadline);
        }
        run.took(start.elapsed());
        assert!(sleeps.iter().any(|sleep| sleep.deadline() == deadline));
    });
    run.did(operations);
}

fn fire(runtime: &Runtime, run: &mut Run, count: usize) {
    for _ in 0..run.operations / count as u64 {
        let counter = Counter::new(count as u64);
        let start = Instant::now();
        let mut deadlines = Drawn::new(|random| start + near(random));
        let local = LocalSet::new();
        runtime.block_on(local.run_until(async {
            let start = std::time::Instant::now();
            for _ in 0..count {
                let (deadline, counter) = (deadlines.next(), counter.clone());
                spawn_local(async move {
                    sleep_until(deadline).await;
                    counter.tick();
                });
            }
            // The tasks arm their timers.
            yield_now().await;
            run.took(start.elapsed());
        }));
        thread::sleep(ALL_DUE);
        run.timed(|| runtime.block_on(local.run_until(counter.finished.notified())));
        run.did(counter.calls.done());
    }
}

fn immediate(runtime: &Runtime, run: &mut Run) {
    let operations = run.operations;
    let mut done = 0;
    let start = std::time::Instant::now();
    block_on(runtime, async {
        let task = spawn_local(async move {
            let mut done = 0;
            while done < operations {
                yield_now().await;
                done += 1;
            }
            done
        });
        done = task.await.expect("no panic");
    });
    run.took(start.elapsed());
    run.did(done);
}

fn raised(runtime: &Runtime, run: &mut Run) {
    let operations = run.operations;
    runtime.block_on(async {
        let mut signals = signal(SignalKind::user_defined1()).expect("a signal");
        let start = std::time::Instant::now();
        for _ in 0..operations {
            raise();
            signals.recv().await.expect("a signal");
            run.did(1);
        }
        run.took(start.elapsed());
    });
}

fn remote(runtime: &Runtime, run: &mut Run) {
    type Post = Box<dyn FnOnce(&mut u64) + Send>;
    let operations = run.operations;
    let (sender, mut receiver) = mpsc::unbounded_channel::<Post>();
    let barrier = Arc::new(Barrier::new(2));
    let poster = {
        let barrier = Arc::clone(&barrier);
        thread::spawn(move || {
            barrier.wait();
            for number in 0..operations {
                let post: Post = Box::new(move |called| count_post(called, number));
                assert!(sender.send(post).is_ok(), "the runtime is there");
            }
        })
    };
    let mut called = 0;
    run.timed(|| {
        barrier.wait();
        runtime.block_on(async {
            while let Some(post) = receiver.recv().await {
                post(&mut called);
            }
        });
    });
    poster.join().expect("the other thread is done");
    run.did(called);
}

fn echo(runtime: &Runtime, run: &mut Run, connections: usize) {
    let requests = Counter::new(run.operations);
    let local = LocalSet::new();
    let clients = accept(connections);
    {
        let _entered = runtime.enter();
        for client in clients {
            let mut client = TcpStream::from_std(client).expect("registered");
            let requests = requests.clone();
            local.spawn_local(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = client.read(&mut buffer).await {
                    client.write_all(&buffer[..count]).await.expect("written");
                    requests.tick();
                }
            });
        }
    }
    run.served(|| runtime.block_on(local.run_until(requests.finished.notified())));
    run.did(requests.calls.done());
}

fn hold(runtime: &Runtime, run: &mut Run, thing: Thing, count: usize) -> Performed {
    let _entered = runtime.enter();
    match thing {
        Thing::Context => {
            run.weighed(|| (0..count).map(|_| new_runtime()).collect::<Vec<_>>());
        }
        Thing::Fd => {
            // The stream alone; the task that reads it comes on top.
            let pairs = pairs(0, count);
            run.weighed(|| {
                let mut streams = Vec::with_capacity(count);
                for (source, peer) in pairs {
                    streams.push(UnixStream::from_std(source).expect("registered"));
                    std::mem::forget(peer);
                }
                streams
            });
        }
        Thing::Timer => {
            let sleeps = run.weighed(|| runtime.block_on(armed(count)));
            drop(sleeps);
        }
        Thing::Immediate => return Err(Absence::Lacks("immediates")),
        Thing::Signal => {
            let kind = SignalKind::user_defined1();
            let new = |_| signal(kind).expect("a signal");
            run.weighed(|| (0..count).map(new).collect::<Vec<_>>());
        }
    }
    runtime.block_on(sleep(Duration::ZERO));
    Ok(())
}
