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
    a_nearer_timer_is_noticed_in_the_middle,
    a_timer_that_is_moved_nearer_is_noticed,
    a_postponed_timer_is_not_early,
    a_timer_that_is_gone_does_not_wake_the_loop,
    an_idle_loop_wakes_once_more_at_most,
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
        fast.push(context.add_timer_after(Duration::from_millis(4), |_, _| unreachable!()));
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
