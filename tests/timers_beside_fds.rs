//! Timers that are armed while descriptors keep the loop busy: its turns don't look at them before
//! there is something to do for them.

mod common;

use common::{GUARD, READ, context, drain, pair, readable, run_until};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, EventKind, Fd, Timer};

on_every_backend!(
    a_timer_fires_between_descriptors_that_stay_ready,
    a_timer_fires_while_every_turn_waits,
    no_descriptor_is_served_once_a_timer_is_seen_to_be_due,
    a_nearer_timer_is_noticed_in_the_middle,
    a_timer_that_is_moved_nearer_is_noticed,
    a_timer_that_a_handler_arms_goes_before_the_next_descriptor,
    a_postponed_timer_is_not_early,
    a_timer_that_is_gone_does_not_wake_the_loop,
    an_idle_loop_wakes_once_more_at_most,
    every_turn_of_an_idle_loop_waits_for_the_whole_timeout,
    the_wait_after_the_last_descriptor_ends_with_the_timer,
    immediates_go_on_beside_a_timer_that_is_far_away,
    calls_beside_a_timer_that_is_far_away_are_watched,
    a_due_timer_goes_before_the_rest_of_a_batch,
    a_loop_with_no_timer_left_waits_for_descriptors,
);

const FAR: Duration = Duration::from_secs(3600);

/// A timer that notes when it has fired.
fn noting(context: &Context, delay: Duration) -> (Timer, Rc<Cell<Option<Instant>>>) {
    let fired = Rc::new(Cell::new(None));
    let note = Rc::clone(&fired);
    let timer = context.add_timer_after(delay, move |context, timer| {
        assert!(Some(context.now()) >= timer.last_deadline(), "it is early");
        note.set(Some(context.now()));
    });
    (timer, fired)
}

/// Two events that play ping-pong, one byte a wait, for ever.
fn ping_pong(context: &Context) -> impl Sized + use<> {
    let (ours, theirs) = pair();
    (&ours).write_all(b"x").unwrap();
    let answer = |_: &Context, event: &Fd<_>, _| {
        let mut socket: &std::os::unix::net::UnixStream = event.get_ref();
        assert!(!drain(socket), "the peer is there");
        socket.write_all(b"x").unwrap();
    };
    let ours = context.add_fd(ours, READ, answer).unwrap();
    let theirs = context.add_fd(theirs, READ, answer).unwrap();
    (ours, theirs)
}

fn a_timer_fires_between_descriptors_that_stay_ready(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    let _event = context.add_fd(ours, READ, move |_, _, _| count.set(count.get() + 1));
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    for delay in [1, 5, 20] {
        let (_timer, fired) = noting(&context, Duration::from_millis(delay));
        run_until(&context, "the timer fires", || fired.get().is_some());
    }
    assert!(calls.get() > 0, "there was something else to do");
}

fn a_timer_fires_while_every_turn_waits(kind: BackendKind) {
    let context = context(kind);
    let _players = ping_pong(&context);
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    for delay in [1, 5, 20] {
        let (_timer, fired) = noting(&context, Duration::from_millis(delay));
        run_until(&context, "the timer fires", || fired.get().is_some());
    }
    assert!(context.stats().calls[EventKind::Fd] > 0);
}

fn no_descriptor_is_served_once_a_timer_is_seen_to_be_due(kind: BackendKind) {
    let context = context(kind);
    let deadline = Rc::new(Cell::new(None::<Instant>));
    let (ours, _theirs) = readable();
    let next = Rc::clone(&deadline);
    let mut seen = None;
    let _event = context.add_fd(ours, READ, move |context, _, _| {
        let deadline = next.get();
        assert!(deadline.is_none() || seen != deadline, "the timer's turn");
        seen = deadline.filter(|&deadline| deadline <= context.now());
    });
    for delay in [1, 3, 9, 27] {
        let (timer, fired) = noting(&context, Duration::from_millis(delay));
        deadline.set(timer.deadline());
        run_until(&context, "the timer fires", || fired.get().is_some());
    }
}

fn a_nearer_timer_is_noticed_in_the_middle(kind: BackendKind) {
    let context = context(kind);
    let _players = ping_pong(&context);
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    // The loop has learned that there is nothing to do for an hour.
    let target = context.stats().calls[EventKind::Fd] + 100;
    run_until(&context, "some turns", || {
        context.stats().calls[EventKind::Fd] >= target
    });
    let (_timer, fired) = noting(&context, Duration::from_millis(2));
    run_until(&context, "the nearer timer", || fired.get().is_some());
}

fn a_timer_that_is_moved_nearer_is_noticed(kind: BackendKind) {
    let context = context(kind);
    let _players = ping_pong(&context);
    let (timer, fired) = noting(&context, FAR);
    let target = context.stats().calls[EventKind::Fd] + 100;
    run_until(&context, "some turns", || {
        context.stats().calls[EventKind::Fd] >= target
    });
    timer.set_after(Duration::from_millis(2));
    run_until(&context, "the timer", || fired.get().is_some());
}

fn a_timer_that_a_handler_arms_goes_before_the_next_descriptor(kind: BackendKind) {
    let ways: [fn(&Context, &Timer) -> bool; 3] = [
        |context, timer| timer.set_deadline(context.now()),
        |_, timer| timer.set_after(Duration::ZERO),
        |context, timer| {
            timer.disarm();
            timer.set_deadline(context.now())
        },
    ];
    for (way, arm) in ways.into_iter().enumerate() {
        let context = context(kind);
        let _farther = context.add_timer_after(FAR * 2, |_, _| unreachable!());
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let timer = context.add_timer_after(FAR, move |context, _| {
            assert_eq!(count.get(), 50, "way {way}");
            context.stop();
        });
        let count = Rc::clone(&calls);
        let (ours, _theirs) = readable();
        let _event = context.add_fd(ours, READ, move |context, _, _| {
            count.set(count.get() + 1);
            match count.get() {
                50 => assert!(arm(context, &timer)),
                60 => context.stop(),
                _ => (),
            }
        });
        context.run().unwrap();
        assert_eq!(calls.get(), 50, "way {way}");
    }
}

fn a_postponed_timer_is_not_early(kind: BackendKind) {
    let context = context(kind);
    let _players = ping_pong(&context);
    let (timer, fired) = noting(&context, Duration::from_millis(10));
    for step in 1..=20 {
        let target = context.stats().calls[EventKind::Fd] + 20;
        run_until(&context, "some turns", || {
            context.stats().calls[EventKind::Fd] >= target || fired.get().is_some()
        });
        if fired.get().is_none() {
            timer.set_after(Duration::from_millis(10 + step));
        }
    }
    run_until(&context, "the timer", || fired.get().is_some());
}

fn a_timer_that_is_gone_does_not_wake_the_loop(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let got = Rc::new(Cell::new(0));
    let count = Rc::clone(&got);
    let _event = context.add_fd(ours, READ, move |_, event, _| {
        drain(event.get_ref());
        count.set(count.get() + 1);
    });
    let mut fast = Vec::new();
    for round in 1..=10 {
        // On a busy machine one may be due before the byte is read.
        fast.push(context.add_timer_after(Duration::from_millis(4), |_, _| ()));
        theirs.write_all(b"x").unwrap();
        run_until(&context, "the byte", || got.get() == round);
        fast.clear();
    }
    // Nothing is left but the descriptor.
    let before = context.stats().waits;
    context.set_wait_timeout(Some(Duration::from_millis(30)));
    assert!(!context.run_once().unwrap());
    assert_eq!(context.stats().waits, before + 1);
}

fn an_idle_loop_wakes_once_more_at_most(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let got = Rc::new(Cell::new(0));
    let count = Rc::clone(&got);
    let _event = context.add_fd(ours, READ, move |_, event, _| {
        drain(event.get_ref());
        count.set(count.get() + 1);
    });
    let timer = context.add_timer_after(Duration::from_millis(40), |context, _| context.stop());
    // Enough for the loop to learn that the timer is far away.
    for round in 1..=3 {
        theirs.write_all(b"x").unwrap();
        run_until(&context, "the byte", || got.get() == round);
    }
    timer.set_after(Duration::from_millis(40));
    let before = context.stats().waits;
    let start = Instant::now();
    context.run().unwrap();
    assert!(start.elapsed() < GUARD, "a wait has gone on for too long");
    let waits = context.stats().waits - before;
    // One that ends halfway, one to the deadline; where there are only milliseconds, that is one more.
    assert!(waits <= 3, "{waits} waits");
}

fn every_turn_of_an_idle_loop_waits_for_the_whole_timeout(kind: BackendKind) {
    const TIMEOUT: Duration = Duration::from_millis(10);
    let context = context(kind);
    context.set_wait_timeout(Some(TIMEOUT));
    let (ours, _theirs) = pair();
    let _event = context.add_fd(ours, READ, |_, _, _| unreachable!());
    let mut far = None;
    for what in ["without a timer", "with one that is far away"] {
        let (start, mut turns) = (Instant::now(), 0);
        let finished = || {
            turns += 1;
            turns > 5
        };
        context.run_until(finished).unwrap();
        assert!(start.elapsed() >= 5 * TIMEOUT, "{what}");
        far = Some(context.add_timer_after(FAR, |_, _| unreachable!()));
    }
    drop(far);
}

fn the_wait_after_the_last_descriptor_ends_with_the_timer(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let _event = context.add_fd(ours, READ, |_, event, _| {
        drain(event.get_ref());
    });
    let _timer = context.add_timer_after(Duration::from_millis(20), |context, _| context.stop());
    theirs.write_all(b"x").unwrap();
    let start = Instant::now();
    context.run().unwrap();
    assert!(start.elapsed() < GUARD, "the wait timeout has ended it");
    // The byte's, one that ends halfway, one to the deadline; and where there are only milliseconds,
    // that is one more.
    let waits = context.stats().waits;
    assert!(waits <= 4, "{waits} waits");
}

/// More of them than may run in a row, so that there are waits in between.
fn immediates_go_on_beside_a_timer_that_is_far_away(kind: BackendKind) {
    let context = context(kind);
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    let (ours, _theirs) = pair();
    let _event = context.add_fd(ours, READ, |_, _, _| unreachable!());
    let runs = Rc::new(Cell::new(0));
    let count = Rc::clone(&runs);
    let immediate = context.add_immediate(move |_, immediate| {
        count.set(count.get() + 1);
        immediate.schedule();
    });
    immediate.schedule();
    run_until(&context, "the immediate goes on", || runs.get() >= 5_000);
}

fn calls_beside_a_timer_that_is_far_away_are_watched(kind: BackendKind) {
    let context = context(kind);
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    let told = Rc::new(Cell::new(0));
    let count = Rc::clone(&told);
    context.set_slow_handler(Duration::from_nanos(1), move |slow| {
        if slow.kind == EventKind::Fd {
            count.set(count.get() + 1);
        }
    });
    let (ours, _theirs) = readable();
    let mut left = 50;
    let _event = context.add_fd(ours, READ, move |context, _, _| {
        left -= 1;
        if left == 0 {
            context.stop();
        }
        // Longer than the threshold, however coarse the clock is.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(1) {}
    });
    context.run().unwrap();
    assert_eq!(told.get(), 50);
}

/// Timers go before descriptors, whatever the loop has learned of them.
fn a_due_timer_goes_before_the_rest_of_a_batch(kind: BackendKind) {
    let context = context(kind);
    let _far = context.add_timer_after(FAR, |_, _| unreachable!());
    let log = Rc::new(RefCell::new(Vec::new()));
    let ready: Vec<_> = (0..4).map(|_| readable()).collect();
    let mut events = Vec::new();
    for (ours, _) in &ready {
        let log = Rc::clone(&log);
        let ours = ours.try_clone().unwrap();
        let event = context.add_fd(ours, READ, move |context, _, _| {
            if log.borrow().len() == 41 {
                // In the middle of a batch.
                let log = Rc::clone(&log);
                let due = context.add_timer(context.now(), move |_, _| log.borrow_mut().push("t"));
                due.detach();
            }
            log.borrow_mut().push("f");
            if log.borrow().len() == 60 {
                context.stop();
            }
        });
        events.push(event.unwrap());
    }
    context.run().unwrap();
    let log = log.borrow();
    assert_eq!(log.iter().position(|&entry| entry == "t"), Some(42));
}

fn a_loop_with_no_timer_left_waits_for_descriptors(kind: BackendKind) {
    let context = context(kind);
    let _players = ping_pong(&context);
    let (timer, fired) = noting(&context, Duration::from_millis(5));
    run_until(&context, "the timer", || fired.get().is_some());
    drop(timer);
    let target = context.stats().calls[EventKind::Fd] + 1_000;
    run_until(&context, "some turns", || {
        context.stats().calls[EventKind::Fd] >= target
    });
}
