//! Tasks and other threads: wakes from anywhere, the end of a task's thread, and the crates that
//! connect futures.

mod common;

use common::futures::{Gate, block_on};
use common::*;
use event_listener::{Event, Listener};
use futures_lite::future::{self, zip};
use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use tevent::{BackendKind, Context, Remote, Task, yield_now};

on_every_backend!(
    hundreds_of_thousands_of_wakes_by_four_threads_lose_nothing,
    wakes_by_threads_while_the_task_is_polled_lose_nothing,
    a_thread_that_wakes_a_sleeping_loop_is_enough,
    wakes_by_a_thread_are_in_order_with_what_it_schedules,
    wakes_by_threads_survive_reinitialise,
    tasks_of_two_threads_wake_each_other,
    two_contexts_on_one_thread_wake_each_other,
    a_channel_connects_threads_and_tasks,
    a_full_channel_holds_its_senders_up,
    a_listener_hears_of_events_on_threads_and_tasks,
    futures_of_other_crates_run,
    a_task_can_be_awaited_by_another_executor,
    tasks_end_with_their_thread_at_the_latest,
    tasks_of_a_context_that_is_never_dropped_end_with_their_thread,
    a_context_in_a_thread_local_value_ends_well,
);

const THREADS: usize = 4;

/// Threads that wake a task; whether it has seen all that they did is up to the caller.
fn wake_from_threads(
    waker: &Waker,
    wakes: usize,
    counter: &Arc<AtomicUsize>,
) -> Vec<thread::JoinHandle<()>> {
    (0..THREADS)
        .map(|_| {
            let (waker, counter) = (waker.clone(), Arc::clone(counter));
            thread::spawn(move || {
                for _ in 0..wakes {
                    counter.fetch_add(1, Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            })
        })
        .collect()
}

fn hundreds_of_thousands_of_wakes_by_four_threads_lose_nothing(kind: BackendKind) {
    const WAKES: usize = 100_000;
    // Without a limit, so that a wake-up that is lost is a hang.
    let context = builder(kind).wait_timeout(None).build().unwrap();
    let counter = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    let mut polls = 0;
    context
        .block_on(poll_fn(|poll| {
            if threads.is_empty() {
                threads = wake_from_threads(poll.waker(), WAKES, &counter);
            }
            polls += 1;
            match counter.load(Ordering::Relaxed) {
                count if count == THREADS * WAKES => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }))
        .unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(polls <= THREADS * WAKES + 1, "no more polls than wakes");
}

fn wakes_by_threads_while_the_task_is_polled_lose_nothing(kind: BackendKind) {
    const ROUNDS: usize = 5_000;
    let context = builder(kind).wait_timeout(None).build().unwrap();
    // Ping-pong: the thread wakes for a round as soon as it is open, mostly in the poll itself.
    let round = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let mut thread = None;
    context
        .block_on(poll_fn(|poll| {
            let (waker, round_of, done_of) = (poll.waker(), &round, &done);
            thread.get_or_insert_with(|| {
                let (waker, round, done) =
                    (waker.clone(), Arc::clone(round_of), Arc::clone(done_of));
                thread::spawn(move || {
                    for number in 1..=ROUNDS {
                        while round.load(Ordering::Acquire) < number {
                            thread::yield_now();
                        }
                        done.store(number, Ordering::Relaxed);
                        waker.wake_by_ref();
                    }
                })
            });
            let seen = done.load(Ordering::Relaxed);
            round.store(seen + 1, Ordering::Release);
            match seen {
                ROUNDS => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }))
        .unwrap();
    thread.unwrap().join().unwrap();
}

fn a_thread_that_wakes_a_sleeping_loop_is_enough(kind: BackendKind) {
    let context = builder(kind).wait_timeout(None).build().unwrap();
    for _ in 0..100 {
        let event = Arc::new(Event::new());
        let listener = event.listen();
        let thread = thread::spawn(move || event.notify(1));
        context.block_on(listener).unwrap();
        thread.join().unwrap();
    }
}

fn wakes_by_a_thread_are_in_order_with_what_it_schedules(kind: BackendKind) {
    let context = context(kind);
    let gate = Gate::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let (pass, before) = (gate.pass(), Arc::clone(&calls));
    let task = context.spawn(async move {
        pass.await;
        before.load(Ordering::Relaxed)
    });
    settle(&context);
    gate.open_unnoticed();
    let (waker, remote) = (gate.waker(), context.remote());
    let thread = thread::spawn(move || {
        let first = Arc::clone(&calls);
        let call = move |_: &Context| first.store(1, Ordering::Relaxed);
        assert!(remote.schedule(call));
        waker.wake();
    });
    thread.join().unwrap();
    let seen = block_on(&context, "the task is woken", task);
    assert_eq!(seen, Ok(1), "what was scheduled first ran first");
}

fn wakes_by_threads_survive_reinitialise(kind: BackendKind) {
    let context = builder(kind).wait_timeout(None).build().unwrap();
    let stage = Arc::new(AtomicUsize::new(0));
    let mut polls = 0;
    context
        .block_on(poll_fn(|poll| {
            polls += 1;
            let wake = |then: usize| {
                let (waker, stage) = (poll.waker().clone(), Arc::clone(&stage));
                thread::spawn(move || {
                    stage.store(then, Ordering::Relaxed);
                    waker.wake();
                })
            };
            match stage.load(Ordering::Relaxed) {
                0 => {
                    // This wake is dropped with all that was scheduled.
                    wake(1).join().unwrap();
                    context.reinitialise().unwrap();
                    Poll::Pending
                }
                1 => {
                    drop(wake(2));
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        }))
        .unwrap();
    assert!(polls >= 3);
}

fn tasks_of_two_threads_wake_each_other(kind: BackendKind) {
    const ROUNDS: usize = 2_000;
    let (to_there, from_here) = async_channel::bounded::<usize>(1);
    let (to_here, from_there) = async_channel::bounded::<usize>(1);
    let there = thread::spawn(move || {
        let context = builder(kind).wait_timeout(None).build().unwrap();
        context
            .block_on(async {
                while let Ok(number) = from_here.recv().await {
                    to_here.send(number + 1).await.unwrap();
                }
            })
            .unwrap();
    });
    let context = builder(kind).wait_timeout(None).build().unwrap();
    context
        .block_on(async {
            for number in 0..ROUNDS {
                to_there.send(number).await.unwrap();
                assert_eq!(from_there.recv().await, Ok(number + 1));
            }
        })
        .unwrap();
    drop(to_there);
    there.join().unwrap();
}

fn two_contexts_on_one_thread_wake_each_other(kind: BackendKind) {
    let (one, another) = (context(kind), context(kind));
    let (to_other, from_one) = async_channel::bounded::<i32>(1);
    let (to_one, from_other) = async_channel::bounded::<i32>(1);
    let echo = another.spawn(async move {
        while let Ok(number) = from_one.recv().await {
            to_one.send(number + 1).await.unwrap();
        }
    });
    let asking = one.spawn(async move {
        for number in 0..10 {
            to_other.send(number).await.unwrap();
            assert_eq!(from_other.recv().await, Ok(number + 1));
        }
    });
    while !echo.is_finished() {
        assert!(settle(&one) + settle(&another) > 0, "one of them goes on");
    }
    assert!(asking.is_finished());
}

fn a_channel_connects_threads_and_tasks(kind: BackendKind) {
    const COUNT: usize = 10_000;
    let context = context(kind);
    let (sender, receiver) = async_channel::unbounded();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let sender = sender.clone();
            thread::spawn(move || {
                for number in 0..COUNT {
                    sender.send_blocking((thread, number)).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    let next = block_on(&context, "all arrive", async {
        let mut next = [0; THREADS];
        while let Ok((thread, number)) = receiver.recv().await {
            assert_eq!(number, next[thread], "in order for each sender");
            next[thread] += 1;
        }
        next
    });
    assert_eq!(next, [COUNT; THREADS]);
    for thread in threads {
        thread.join().unwrap();
    }
}

fn a_full_channel_holds_its_senders_up(kind: BackendKind) {
    let context = context(kind);
    let (sender, receiver) = async_channel::bounded(1);
    let senders: Vec<Task<()>> = (0..10)
        .map(|number| {
            let sender = sender.clone();
            context.spawn(async move { sender.send(number).await.unwrap() })
        })
        .collect();
    drop(sender);
    settle(&context);
    assert_eq!(senders.iter().filter(|task| task.is_finished()).count(), 1);
    let sum = block_on(&context, "all are received", async {
        let mut sum = 0;
        while let Ok(number) = receiver.recv().await {
            sum += number;
        }
        sum
    });
    assert_eq!(sum, 45);
    assert!(senders.iter().all(Task::is_finished));
}

fn a_listener_hears_of_events_on_threads_and_tasks(kind: BackendKind) {
    let context = context(kind);
    let (ping, pong) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let (heard, told) = (ping.listen(), Arc::clone(&pong));
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = Arc::clone(&ready);
    let thread = thread::spawn(move || {
        heard.wait();
        is_ready.store(true, Ordering::Release);
        told.notify(usize::MAX);
    });
    let listener = pong.listen();
    let task = context.spawn(async move { ping.notify(1) });
    block_on(&context, "the thread answers", listener);
    assert!(ready.load(Ordering::Acquire));
    assert!(task.is_finished());
    thread.join().unwrap();
}

fn futures_of_other_crates_run(kind: BackendKind) {
    use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt, io, stream};
    let context = context(kind);
    let result = block_on(&context, "all are ready", async {
        let (one, other) = zip(async { 1 }, yield_now()).await;
        let sum: i32 = stream::iter(0..10)
            .fold(0, |sum, number| sum + number)
            .await;
        let mut cursor = io::Cursor::new(Vec::new());
        cursor.write_all(b"hello").await.unwrap();
        cursor.set_position(0);
        let mut text = String::new();
        cursor.read_to_string(&mut text).await.unwrap();
        let first = future::race(
            async {
                context.sleep(std::time::Duration::from_secs(3600)).await;
                "slow"
            },
            async {
                future::yield_now().await;
                "fast"
            },
        )
        .await;
        let fails = async {
            if sum > 0 {
                std::panic::resume_unwind(Box::new(7));
            }
        };
        let fails = std::panic::AssertUnwindSafe(fails);
        let caught = future::FutureExt::catch_unwind(fails).await;
        (one, other, sum, text, first, caught.is_err())
    });
    assert_eq!(result, (1, (), 45, "hello".to_owned(), "fast", true));
}

fn a_task_can_be_awaited_by_another_executor(kind: BackendKind) {
    let context = context(kind);
    let finished = context.spawn(async { 42 });
    context.run().unwrap();
    assert_eq!(future::block_on(finished), Ok(42));
    let cancelled = context.spawn(pending::<()>());
    drop(context);
    assert!(future::block_on(cancelled).is_err());
}

fn tasks_end_with_their_thread_at_the_latest(kind: BackendKind) {
    thread_local! {
        static LEFT: RefCell<Option<(Context, Task<()>)>> = const { RefCell::new(None) };
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let (sender, receiver) = std::sync::mpsc::channel::<(Waker, Remote)>();
    let thread = thread::spawn(move || {
        LEFT.with(|left| assert!(left.borrow().is_none()));
        let context = context(kind);
        let gate = Gate::new();
        let on_drop = OnDrop(move || flag.store(true, Ordering::Release));
        let task = context.spawn(common::futures::owning(on_drop, gate.pass()));
        settle(&context);
        sender.send((gate.waker(), context.remote())).unwrap();
        LEFT.with(|left| left.replace(Some((context, task))));
    });
    thread.join().unwrap();
    let (waker, remote) = receiver.recv().unwrap();
    assert!(dropped.load(Ordering::Acquire));
    assert!(remote.is_closed());
    waker.wake();
}

fn tasks_of_a_context_that_is_never_dropped_end_with_their_thread(kind: BackendKind) {
    // So that it is no leak.
    static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let thread = thread::spawn(move || {
        let context = context(kind);
        let gate = Gate::new();
        let on_drop = OnDrop(move || flag.store(true, Ordering::Release));
        let task = context.spawn(common::futures::owning(on_drop, gate.pass()));
        settle(&context);
        let kept = Box::into_raw(Box::new((context, task)));
        KEPT.lock().unwrap().push(kept.expose_provenance());
        gate.waker()
    });
    let waker = thread.join().unwrap();
    assert!(dropped.load(Ordering::Acquire));
    waker.wake();
}

fn a_context_in_a_thread_local_value_ends_well(kind: BackendKind) {
    /// Spawns and blocks in its destructor, when the thread's tasks are over already or not yet.
    struct Late(Context);

    impl Drop for Late {
        fn drop(&mut self) {
            let task = self.0.spawn(async { 42 });
            let result = self.0.block_on(future::poll_once(task));
            // Either the thread has its tasks still, or it says that it has none.
            match result {
                Ok(output) => assert!(matches!(output, None | Some(Ok(42)))),
                Err(error) => assert_eq!(error.to_string(), "the thread is ending"),
            }
        }
    }

    thread_local! {
        static BEFORE: RefCell<Option<Late>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let thread = thread::spawn(move || {
        BEFORE.with(|before| before.replace(Some(Late(context(kind)))));
        let first = context(kind);
        settle_one(&first);
        AFTER.with(|after| after.replace(Some(Late(context(kind)))));
    });
    thread.join().unwrap();
}

/// The thread's first task.
fn settle_one(context: &Context) {
    context.spawn(yield_now()).detach();
    assert_eq!(settle(context), 2);
}
