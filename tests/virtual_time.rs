//! A loop on a clock of its own, for tests that don't wait.

mod common;

use common::{READ, builder, pair, run_until};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context};

on_every_backend!(
    a_day_of_timers_fires_in_order_and_at_its_times,
    the_same_program_gives_the_same_trace,
    the_clock_stands_still_while_a_handler_runs,
    descriptors_and_immediates_go_before_a_jump,
    a_wait_timeout_is_a_jump_too,
    without_a_timer_the_loop_waits_for_real,
    another_thread_is_heard,
    sleeps_timeouts_and_requests_follow_the_clock,
    a_far_timer_fires_in_one_run,
    a_re_initialised_context_goes_on_with_the_time,
    a_weak_reference_shows_the_same_time,
);

const DAY: Duration = Duration::from_secs(86_400);

fn virtual_context(kind: BackendKind) -> Context {
    builder(kind)
        .virtual_time()
        .wait_timeout(None)
        .build()
        .expect("a context can be made")
}

/// What the neighbours' users ask for: tests need fake time.
fn a_day_of_timers_fires_in_order_and_at_its_times(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let real_start = Instant::now();
    let log = Rc::new(RefCell::new(Vec::new()));
    // Each second of a day, added in a muddle.
    let mut timers = Vec::new();
    for step in 0..86_400_u64 {
        let second = step * 7_919 % 86_400;
        let log = Rc::clone(&log);
        let deadline = start + Duration::from_secs(second);
        timers.push(context.add_timer(deadline, move |context, _| {
            assert_eq!(context.now(), deadline, "neither early nor late");
            log.borrow_mut().push(second);
        }));
    }
    context.run().unwrap();
    assert!(log.borrow().iter().copied().eq(0..86_400));
    assert_eq!(context.now() - start, Duration::from_secs(86_399));
    assert!(real_start.elapsed() < DAY / 24, "nothing has waited");
}

/// A program with repeating timers that move each other, by its trace.
fn trace(kind: BackendKind) -> Vec<(u32, Duration)> {
    let context = virtual_context(kind);
    let start = context.now();
    let log = Rc::new(RefCell::new(Vec::new()));
    let mut timers = Vec::new();
    for number in 1..=5_u32 {
        let log = Rc::clone(&log);
        let period = Duration::from_millis(u64::from(number) * 300);
        timers.push(context.add_timer_after(period, move |context, timer| {
            log.borrow_mut().push((number, context.now() - start));
            if log.borrow().len() < 1_000 {
                timer.set_after(period);
            }
        }));
    }
    context.run().unwrap();
    log.take()
}

fn the_same_program_gives_the_same_trace(kind: BackendKind) {
    let first = trace(kind);
    assert!(first.len() >= 1_000);
    assert!(first.is_sorted_by_key(|&(_, time)| time));
    assert_eq!(first, trace(kind));
}

fn the_clock_stands_still_while_a_handler_runs(kind: BackendKind) {
    let context = virtual_context(kind);
    context.defer(|context| {
        let before = context.now();
        let real = Instant::now();
        while real.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert_eq!(context.now(), before);
    });
    context.run().unwrap();
}

fn descriptors_and_immediates_go_before_a_jump(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let (ours, mut theirs) = pair();
    let log = Rc::new(RefCell::new(Vec::new()));
    let push = |name: &'static str| {
        let log = Rc::clone(&log);
        move |context: &Context| log.borrow_mut().push((name, context.now() - start))
    };
    let (read, first, second, last) = (push("fd"), push("first"), push("deferred"), push("last"));
    let _event = context.add_fd(ours, READ, move |context, event, _| {
        read(context);
        event.remove();
    });
    let second = RefCell::new(Some(second));
    let _first = context.add_timer_after(DAY, move |context, _| {
        first(context);
        theirs.write_all(b"x").unwrap();
        context.defer(second.take().unwrap());
    });
    let _last = context.add_timer_after(2 * DAY, move |context, _| last(context));
    context.run().unwrap();
    assert_eq!(
        log.take(),
        [
            ("first", DAY),
            ("deferred", DAY),
            ("fd", DAY),
            ("last", 2 * DAY)
        ]
    );
}

fn a_wait_timeout_is_a_jump_too(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let _timer = context.add_timer_after(Duration::from_secs(70), |_, _| ());
    context.set_wait_timeout(Some(Duration::from_secs(30)));
    assert!(!context.run_once().unwrap());
    assert_eq!(context.now() - start, Duration::from_secs(30));
    assert!(!context.run_once().unwrap());
    assert!(context.run_once().unwrap(), "the timer");
    assert_eq!(context.now() - start, Duration::from_secs(70));
    context.set_wait_timeout(Some(Duration::ZERO));
    let _timer = context.add_timer_after(DAY, |_, _| unreachable!());
    assert!(!context.run_once().unwrap());
    assert_eq!(
        context.now() - start,
        Duration::from_secs(70),
        "it didn't wait"
    );
}

fn without_a_timer_the_loop_waits_for_real(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    context.set_wait_timeout(Some(Duration::from_millis(2)));
    let (ours, _theirs) = pair();
    let _event = context.add_fd(ours, READ, |_, _, _| unreachable!());
    let real = Instant::now();
    assert!(!context.run_once().unwrap());
    assert!(real.elapsed() >= Duration::from_millis(2));
    assert_eq!(context.now(), start);
}

fn another_thread_is_heard(kind: BackendKind) {
    let context = virtual_context(kind);
    let remote = context.remote();
    let thread = std::thread::spawn(move || remote.schedule(|context| context.stop()));
    // Without an end of its own: it jumps from hour to hour.
    let _timer = context.add_timer_after(DAY, |_, timer| {
        timer.set_after(DAY);
    });
    context.run().unwrap();
    assert!(thread.join().unwrap());
}

fn sleeps_timeouts_and_requests_follow_the_clock(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let real = Instant::now();
    let weak = context.downgrade();
    context
        .block_on(async {
            weak.sleep(DAY).await;
        })
        .unwrap();
    assert_eq!(context.now() - start, DAY);
    let never = context.timeout(DAY, std::future::pending::<()>());
    assert!(context.block_on(never).unwrap().is_err());
    assert_eq!(context.now() - start, 2 * DAY);
    let (request, completer) = context.request::<(), std::io::Error>("patient");
    request.set_timeout(DAY);
    let age = Rc::new(Cell::new(Duration::ZERO));
    let seen = Rc::clone(&age);
    let _half = context.add_timer_after(DAY / 2, move |context, _| {
        let tree = context.requests();
        seen.set(tree.entries()[0].age);
    });
    assert!(
        context
            .block_on(request)
            .unwrap()
            .unwrap_err()
            .is_timed_out()
    );
    assert_eq!(context.now() - start, 3 * DAY);
    assert_eq!(age.get(), DAY / 2);
    assert!(real.elapsed() < DAY / 24);
    drop(completer);
}

fn a_far_timer_fires_in_one_run(kind: BackendKind) {
    let context = virtual_context(kind);
    // As late as can be said.
    let _timer = context.add_timer_after(Duration::MAX, |_, _| ());
    context.run().unwrap();
    assert_eq!(context.stats().armed_timers, 0);
}

fn a_re_initialised_context_goes_on_with_the_time(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let _timer = context.add_timer_after(DAY, |_, _| ());
    context.run().unwrap();
    context.reinitialise().unwrap();
    assert_eq!(
        context.now() - start,
        DAY,
        "re-initialising is no jump back"
    );
    let fired = Rc::new(Cell::new(false));
    let setter = Rc::clone(&fired);
    let _timer = context.add_timer_after(DAY, move |_, _| setter.set(true));
    run_until(&context, "a timer after re-initialising", || fired.get());
    assert_eq!(context.now() - start, 2 * DAY);
}

fn a_weak_reference_shows_the_same_time(kind: BackendKind) {
    let context = virtual_context(kind);
    let start = context.now();
    let weak = context.downgrade();
    let inner = weak.clone();
    let task = context.spawn(async move {
        let deadline = inner.now() + DAY;
        inner.sleep_until(deadline).await;
        (deadline, inner.now())
    });
    let (deadline, woken) = context.block_on(task).unwrap().unwrap();
    assert_eq!((deadline, woken), (start + DAY, start + DAY));
    drop(context);
    assert!(weak.now() < start + DAY, "only the system's clock is left");
}
