//! What a context says of itself.

mod common;

use common::{NOTHING, READ, context, readable, run_until, signal_of, turn};
use rustix::process::{getpid, kill_process};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, EventKind, SignalFlags, Signum, Stats};

on_every_backend!(
    turns_waits_and_calls_are_counted,
    the_turns_of_a_busy_server_are_counted,
    turns_in_which_a_short_one_does_not_suffice_are_counted_once,
    an_immediate_that_schedules_itself_is_counted_each_time,
    a_closure_of_another_thread_is_counted_when_it_begins,
    what_is_there_is_counted,
    what_waits_in_the_queues_is_counted,
    a_late_timer_is_counted,
    timers_that_are_late_because_of_others_are_noticed,
    times_are_measured_if_that_is_wanted,
    times_are_measured_from_the_call_after_the_one_that_asks,
    times_are_not_measured_for_reports_of_slow_handlers,
    it_prints_what_there_is_to_say,
    a_loop_inside_a_handler_is_not_the_handlers_time,
);

fn calls(stats: &Stats) -> [u64; 4] {
    [
        stats.calls[EventKind::Fd],
        stats.calls[EventKind::Timer],
        stats.calls[EventKind::Signal],
        stats.calls[EventKind::Immediate],
    ]
}

fn turns_waits_and_calls_are_counted(kind: BackendKind) {
    let context = context(kind);
    let stats = context.stats();
    assert_eq!((stats.turns, stats.waits, calls(&stats)), (0, 0, [0; 4]));
    context.defer(|_| ());
    let _timer = context.add_timer(context.now(), |_, _| ());
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, |_, event, _| event.set_flags(NOTHING));
    let _fd = fd.unwrap();
    // The immediate, the timer, the descriptor; and one that has only the wait.
    for _ in 0..3 {
        assert!(turn(&context));
    }
    assert!(!turn(&context));
    let stats = context.stats();
    assert_eq!((stats.turns, stats.waits), (4, 2));
    assert_eq!(calls(&stats), [1, 1, 0, 1]);
    let (signum, raised) = signal_of(kind);
    let _signal = context
        .add_signal(signum, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    kill_process(getpid(), raised).unwrap();
    run_until(&context, "the signal", || {
        context.stats().calls[EventKind::Signal] == 1
    });
}

/// Their turns are made in one piece, which counts apart.
fn the_turns_of_a_busy_server_are_counted(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let mut left = 100;
    let fd = context.add_fd(ours, READ, move |context, _, _| {
        left -= 1;
        if left == 0 {
            context.stop();
        }
    });
    let _fd = fd.unwrap();
    context.run().unwrap();
    let stats = context.stats();
    assert_eq!(calls(&stats), [100, 0, 0, 0]);
    assert_eq!((stats.turns, stats.waits), (100, 100), "{stats}");
}

fn turns_in_which_a_short_one_does_not_suffice_are_counted_once(kind: BackendKind) {
    let context = context(kind);
    // Says how many were counted while a loop asked ten times whether to make another.
    let count = |what: &str| {
        let before = context.stats().turns;
        let mut asked = 0;
        let finished = || {
            asked += 1;
            asked > 10
        };
        context.run_until(finished).unwrap();
        assert_eq!(context.stats().turns - before, 10, "{what}");
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = Rc::new(ours);
    let first = context.add_fd(Rc::clone(&ours), READ, |_, _, _| ());
    context.set_wait_timeout(Some(Duration::from_millis(1)));
    count("nothing is ready");
    (&theirs).write_all(b"x").unwrap();
    let second = context.add_fd(ours, READ, |_, _, _| ());
    count("a descriptor of two events is ready");
    drop((first, second));
}

fn an_immediate_that_schedules_itself_is_counted_each_time(kind: BackendKind) {
    let context = context(kind);
    let mut left = 100;
    let immediate = context.add_immediate(move |_, immediate| {
        left -= 1;
        if left > 0 {
            immediate.schedule();
        }
    });
    immediate.schedule();
    context.run().unwrap();
    let stats = context.stats();
    assert_eq!(calls(&stats), [0, 0, 0, 100]);
    // The last one has nothing to wait for.
    assert_eq!((stats.turns, stats.waits), (101, 0), "{stats}");
}

fn a_closure_of_another_thread_is_counted_when_it_begins(kind: BackendKind) {
    let context = context(kind);
    for number in 1..=5 {
        let accepted = context.remote().schedule(move |context| {
            let stats = context.stats();
            assert_eq!(stats.scheduled_immediates as u64, 5 - number);
            assert_eq!((stats.turns, calls(&stats)), (number, [0, 0, 0, number]));
        });
        assert!(accepted);
    }
    context.run().unwrap();
    assert_eq!(calls(&context.stats()), [0, 0, 0, 5]);
}

fn what_is_there_is_counted(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let second = ours.try_clone().unwrap();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let other = context.add_fd(second, NOTHING, |_, _, _| ()).unwrap();
    let timers = [1, 2, 3].map(|hours| {
        let delay = Duration::from_secs(3600 * hours);
        context.add_timer_after(delay, |_, _| ())
    });
    timers[0].disarm();
    let immediate = context.add_immediate(|_, _| ());
    let signal = context
        .add_signal(Signum::SIGCONT, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    let stats = context.stats();
    assert_eq!((stats.fds, stats.enabled_fds), (2, 1));
    assert_eq!(stats.armed_timers, 2);
    assert_eq!((stats.immediates, stats.scheduled_immediates), (1, 0));
    assert_eq!(stats.signals, 1);
    drop((fd, other, timers, immediate, signal));
    let stats = context.stats();
    assert_eq!((stats.fds, stats.armed_timers), (0, 0));
    assert_eq!((stats.immediates, stats.signals), (0, 0));
}

fn what_waits_in_the_queues_is_counted(kind: BackendKind) {
    let context = context(kind);
    let immediate = context.add_immediate(|_, _| ());
    immediate.schedule();
    context.defer(|_| ());
    let remote = context.remote();
    for _ in 0..3 {
        remote.schedule(|_| ());
    }
    assert_eq!(context.stats().scheduled_immediates, 2);
    assert!(turn(&context), "which takes in what came from elsewhere");
    assert_eq!(context.stats().scheduled_immediates, 4);
    context.run().unwrap();
    assert_eq!(context.stats().scheduled_immediates, 0);

    let ready: Vec<_> = (0..3).map(|_| readable()).collect();
    let events: Vec<_> = ready
        .iter()
        .map(|(ours, _)| {
            let ours = ours.try_clone().unwrap();
            context.add_fd(ours, READ, |_, _, _| ()).unwrap()
        })
        .collect();
    assert!(turn(&context));
    assert_eq!(context.stats().ready_fds, 2, "of a batch of three");
    drop(events);
}

fn a_late_timer_is_counted(kind: BackendKind) {
    let context = context(kind);
    let late = context.now() - Duration::from_millis(50);
    let _late = context.add_timer(late, |_, _| ());
    context.run_once().unwrap();
    let stats = context.stats();
    assert_eq!(stats.late_timers, 1);
    assert!(stats.latest_timer >= Duration::from_millis(50));
    let text = stats.to_string();
    assert!(text.contains("late timers 1 by up to"), "{text}");

    let context = common::builder(kind).virtual_time().build().unwrap();
    let _timer = context.add_timer_after(Duration::from_secs(1), |_, _| ());
    context.run().unwrap();
    assert_eq!(context.stats().late_timers, 0, "virtual time is never late");
    assert_eq!(context.stats().calls[EventKind::Timer], 1);
}

fn dawdle(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

const WHILE: Duration = Duration::from_millis(5);

fn times_are_measured_if_that_is_wanted(kind: BackendKind) {
    let context = context(kind);
    context.defer(|_| dawdle(WHILE));
    context.run().unwrap();
    let stats = context.stats();
    assert_eq!(stats.in_handlers[EventKind::Immediate], Duration::ZERO);
    assert_eq!(stats.asleep, Duration::ZERO);

    context.set_times_measured(true);
    let start = Instant::now();
    context.defer(|_| dawdle(WHILE));
    let _timer = context.add_timer(start, |_, _| dawdle(WHILE));
    context.run().unwrap();
    context.set_wait_timeout(Some(WHILE));
    assert!(
        !context.run_once().unwrap(),
        "there is nothing but the wait"
    );
    let stats = context.stats();
    let (immediates, timers) = (
        stats.in_handlers[EventKind::Immediate],
        stats.in_handlers[EventKind::Timer],
    );
    assert!(immediates >= WHILE && timers >= WHILE, "{stats}");
    assert!(stats.asleep >= WHILE, "{stats}");
    assert!(immediates + timers + stats.asleep <= start.elapsed());

    context.set_times_measured(false);
    context.defer(|_| dawdle(WHILE));
    context.run().unwrap();
    assert_eq!(context.stats().in_handlers, stats.in_handlers);
}

fn times_are_measured_from_the_call_after_the_one_that_asks(kind: BackendKind) {
    // A descriptor that is always ready, and an immediate that is all there is, are called in turns
    // that look at nothing else.
    let asks_third = || {
        let calls = Cell::new(0);
        move |context: &Context| {
            calls.set(calls.get() + 1);
            match calls.get() {
                ..3 => {}
                3 => context.set_times_measured(true),
                4 => dawdle(WHILE),
                _ => context.stop(),
            }
        }
    };
    let context = context(kind);
    let (ours, _theirs) = readable();
    let called = asks_third();
    let fd = context.add_fd(ours, READ, move |context, _, _| called(context));
    context.run().unwrap();
    assert!(context.stats().in_handlers[EventKind::Fd] >= WHILE);
    drop(fd);
    context.set_times_measured(false);
    let called = asks_third();
    let immediate = context.add_immediate(move |context, immediate| {
        immediate.schedule();
        called(context);
    });
    immediate.schedule();
    context.run().unwrap();
    assert!(context.stats().in_handlers[EventKind::Immediate] >= WHILE);
}

fn times_are_not_measured_for_reports_of_slow_handlers(kind: BackendKind) {
    let context = context(kind);
    let reports = Rc::new(Cell::new(0));
    let inner = Rc::clone(&reports);
    context.set_slow_handler(Duration::ZERO, move |_| inner.set(inner.get() + 1));
    context.defer(|_| dawdle(WHILE));
    context.set_wait_timeout(Some(WHILE));
    assert!(context.run_once().unwrap());
    assert!(!context.run_once().unwrap(), "it waits in vain");
    let stats = context.stats();
    assert_eq!(reports.get(), 1);
    assert_eq!(stats.in_handlers[EventKind::Immediate], Duration::ZERO);
    assert_eq!(stats.asleep, Duration::ZERO);
}

fn it_prints_what_there_is_to_say(kind: BackendKind) {
    let context = context(kind);
    assert_eq!(
        context.stats().to_string(),
        "turns 0, waits 0, fd 0, timer 0, signal 0, immediate 0, late timers 0; \
         fds 0/0 ready 0, timers 0, immediates 0/0, signals 0"
    );
    context.set_times_measured(true);
    context.defer(|_| dawdle(WHILE));
    context.run().unwrap();
    context.set_wait_timeout(Some(WHILE));
    assert!(!context.run_once().unwrap(), "it waits in vain");
    let stats = context.stats();
    let immediates = format!(
        ", immediate 1 in {:?},",
        stats.in_handlers[EventKind::Immediate]
    );
    let asleep = format!(", asleep {:?};", stats.asleep);
    let text = stats.to_string();
    for part in ["turns ", &immediates, ", fd 0,", &asleep] {
        assert!(text.contains(part), "{part:?} is in {text:?}");
    }
}

fn a_loop_inside_a_handler_is_not_the_handlers_time(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    context.set_times_measured(true);
    let start = Instant::now();
    let own = Rc::new(Cell::new(Duration::ZERO));
    let measured = Rc::clone(&own);
    let _timer = context.add_timer(context.now(), move |context, _| {
        let start = Instant::now();
        context.defer(|_| dawdle(WHILE));
        let inner = context.add_timer_after(2 * WHILE, |context, _| context.stop());
        context.run().unwrap();
        drop(inner);
        measured.set(start.elapsed());
    });
    context.run().unwrap();
    let stats = context.stats();
    assert!(stats.in_handlers[EventKind::Immediate] >= WHILE, "{stats}");
    let total = stats.in_handlers[EventKind::Timer]
        + stats.in_handlers[EventKind::Immediate]
        + stats.asleep;
    assert!(total <= start.elapsed(), "{stats}");
    assert!(
        stats.in_handlers[EventKind::Timer] < own.get(),
        "the immediate and the wait are taken off: {stats}"
    );
}

/// Up to 16 of them share a look at the clock, no more.
fn timers_that_are_late_because_of_others_are_noticed(kind: BackendKind) {
    let context = context(kind);
    let now = context.now();
    let step = Duration::from_millis(1);
    let timers: Vec<_> = (0..48)
        .map(|_| context.add_timer(now, move |_, _| dawdle(step)))
        .collect();
    context.run().unwrap();
    assert!(context.stats().latest_timer >= 32 * step);
    drop(timers);
}
