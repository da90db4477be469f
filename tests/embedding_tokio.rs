//! The loop inside tokio: a task of tokio's drives it, and both kinds of futures meet.

#![cfg(target_os = "linux")]

mod common;
mod embedded;

use common::*;
use embedded::{Counts, chain, drive_in_tokio, with_driver};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, FdFlags};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

/// Every test with every backend that has a descriptor for descriptors (poll has none), and every
/// runtime.
macro_rules! in_tokio {
    ($($behaviour:ident),* $(,)?) => {$(
        mod $behaviour {
            use tevent::BackendKind;

            #[test]
            fn standard_in_one_thread() {
                super::in_one_thread(BackendKind::Standard, super::$behaviour);
            }

            #[test]
            fn epoll_in_one_thread() {
                super::in_one_thread(BackendKind::Epoll, super::$behaviour);
            }

            #[test]
            fn standard_in_several_threads() {
                super::in_several_threads(BackendKind::Standard, super::$behaviour);
            }

            #[test]
            fn epoll_in_several_threads() {
                super::in_several_threads(BackendKind::Epoll, super::$behaviour);
            }
        }
    )*};
}

in_tokio!(
    every_kind_of_event_is_served,
    an_idle_loop_costs_nothing,
    tokios_tasks_await_ours_and_ours_await_tokios,
    a_task_of_tokios_awaits_what_is_watched_here,
    a_busy_loop_leaves_tokio_its_turns,
    what_is_changed_from_outside_is_heard_of_after_a_nudge,
);

type Test = fn(&Runtime, &Context);

fn in_one_thread(kind: BackendKind, test: Test) {
    let runtime = Builder::new_current_thread().enable_all().build();
    test(&runtime.expect("a runtime"), &context(kind));
}

/// The runtime polls its descriptors and its clock on threads of its own.
fn in_several_threads(kind: BackendKind, test: Test) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    test(&runtime.expect("a runtime"), &context(kind));
}

/// The need: a library that was written for this loop is used in a program of tokio's.
fn every_kind_of_event_is_served(runtime: &Runtime, context: &Context) {
    let done = chain(context, 50);
    let counts = Counts::default();
    let driven = drive_in_tokio(context, &counts, || done.get() == 50);
    let guarded = runtime.block_on(async { tokio::time::timeout(GUARD, driven).await });
    guarded.expect("fifty rounds");
    let turns = counts.turns.get();
    assert!(turns < 50 * 40, "{turns} turns for 50 rounds");
}

fn an_idle_loop_costs_nothing(runtime: &Runtime, context: &Context) {
    let (ours, _theirs) = pair();
    let _fd = context.add_fd(ours, READ, |_, _, _| ());
    let _pending = context.spawn(std::future::pending::<()>());
    let _later = context.add_timer_after(GUARD, |_, _| ());
    let counts = Counts::default();
    runtime.block_on(async {
        let pause = tokio::time::sleep(Duration::from_millis(30));
        with_driver(context, &counts, pause).await;
    });
    let (waits, turns) = (counts.waits.get(), counts.turns.get());
    assert!(waits <= 4, "{waits} waits");
    assert!(turns <= 8, "{turns} turns");
}

fn tokios_tasks_await_ours_and_ours_await_tokios(runtime: &Runtime, context: &Context) {
    const ROUNDS: usize = 50;
    let counts = Counts::default();
    let (to_ours, in_ours) = async_channel::unbounded();
    let (to_tokio, in_tokio) = async_channel::unbounded();
    // On this thread, so nobody posts anything: only the wakers say that there is something to do.
    let ours = context.spawn(async move {
        while let Ok(number) = in_ours.recv().await {
            to_tokio.send(number + 1).await.expect("it is awaited");
        }
        "ours has ended"
    });
    let local = LocalSet::new();
    let theirs = local.spawn_local(async move {
        for round in 0..ROUNDS {
            to_ours.send(round).await.expect("it is awaited");
            assert_eq!(in_tokio.recv().await, Ok(round + 1));
            if round % 10 == 0 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
    });
    let said = runtime.block_on(local.run_until(with_driver(context, &counts, async {
        theirs.await.expect("no panic");
        ours.await.expect("it wasn't cancelled")
    })));
    assert_eq!(said, "ours has ended");
    let turns = counts.turns.get();
    assert!(turns < ROUNDS * 20, "{turns} turns for {ROUNDS} rounds");
}

fn a_task_of_tokios_awaits_what_is_watched_here(runtime: &Runtime, context: &Context) {
    let counts = Counts::default();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = context.add_async_listener(socket).unwrap();
    let client = runtime.spawn(async move {
        // Not at once, so that the driver sleeps.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        stream.writable().await.unwrap();
        assert_eq!(stream.try_write(b"hello").unwrap(), 5);
        stream
    });
    runtime.block_on(with_driver(context, &counts, async {
        let start = Instant::now();
        context.sleep(Duration::from_millis(1)).await;
        assert!(start.elapsed() >= Duration::from_millis(1));
        let connection = listener.accept().await.unwrap();
        let connection = context.add_async_fd(connection).unwrap();
        let mut bytes = [0; 5];
        let read = connection.io(FdFlags::READ, |mut stream| stream.read(&mut bytes));
        assert_eq!(read.await.unwrap(), 5);
        assert_eq!(&bytes, b"hello");
        let limited = context.timeout(Duration::from_millis(1), std::future::pending::<()>());
        assert!(limited.await.is_err());
        client.await.unwrap();
    }));
}

fn a_busy_loop_leaves_tokio_its_turns(runtime: &Runtime, context: &Context) {
    let counts = Counts::default();
    // Always ready, and an immediate that always schedules itself.
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |_, _, _| ());
    let immediate = context.add_immediate(|_, immediate| {
        immediate.schedule();
    });
    immediate.schedule();
    let ticks = runtime.block_on(with_driver(context, &counts, async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        20
    }));
    assert_eq!(ticks, 20);
    assert!(counts.turns.get() > 20);
    assert_eq!(counts.waits.get(), 0, "there was always something to do");
}

/// Handlers' own changes are known to the driver, as it asks after its turns. What others do to the
/// context meanwhile isn't: they say so, by scheduling something from wherever they are.
fn what_is_changed_from_outside_is_heard_of_after_a_nudge(runtime: &Runtime, context: &Context) {
    let counts = Counts::default();
    let remote = context.remote();
    let fired = Rc::new(Cell::new(0));
    let (ours, mut theirs) = pair();
    let counter = Rc::clone(&fired);
    let event = context.add_fd(ours, NOTHING, move |_, event, _| {
        counter.set(counter.get() + 1);
        event.set_readable(false);
    });
    let event = event.unwrap();
    theirs.write_all(b"x").unwrap();
    runtime.block_on(with_driver(context, &counts, async {
        let count_until = async |count| {
            while fired.get() < count {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        let counter = Rc::clone(&fired);
        let add = move |_: &Context, _: &tevent::Timer| counter.set(counter.get() + 1);
        context.add_timer(context.now(), add).detach();
        remote.schedule(|_| ());
        count_until(1).await;
        let counter = Rc::clone(&fired);
        context.defer(move |_| counter.set(counter.get() + 1));
        remote.schedule(|_| ());
        count_until(2).await;
        event.set_readable(true);
        remote.schedule(|_| ());
        count_until(3).await;
    }));
}
