//! Timers: when they fire, and in which order.

mod common;

use common::recording::recorded;
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Timer};

on_every_backend!(
    a_timer_never_fires_early,
    waiting_for_a_timer_does_not_spin,
    the_earliest_deadline_goes_first_and_equal_ones_in_the_order_they_were_added,
    a_deadline_in_the_past_fires_in_the_next_turn_behind_earlier_ones,
    deadlines_before_the_context_was_made_go_in_their_order,
    one_timer_fires_per_turn,
    a_timer_fires_once,
    a_timer_can_be_moved_earlier,
    a_timer_can_be_moved_later,
    a_timer_moved_to_an_equal_deadline_goes_behind_the_others,
    a_fired_timer_can_be_armed_again_by_its_handle,
    a_timer_can_arm_itself_in_its_handler,
    a_repeating_timer_does_not_drift,
    a_disarmed_timer_does_not_fire_until_it_is_armed,
    a_removed_timer_does_not_fire_and_cannot_be_armed,
    while_its_handler_runs_a_timer_is_off_the_queue,
    a_timer_may_remove_itself_and_others_and_add_new_ones,
    postponing_an_idle_timeout_over_and_over_makes_it_fire_once,
    cancelled_timers_do_not_pile_up,
    deadlines_as_far_as_can_be_said_do_not_overflow,
    timers_follow_the_monotonic_clock_that_the_context_shows,
);

/// Deadlines that aren't whole milliseconds, which a rounded wait gets wrong.
const ODD: [u64; 6] = [1, 999, 100_001, 499_999, 1_000_001, 2_345_678];

fn a_timer_never_fires_early(kind: BackendKind) {
    let context = context(kind);
    let lateness = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..5 {
        for delay in ODD.map(Duration::from_nanos) {
            let deadline = Instant::now() + delay;
            let lateness = Rc::clone(&lateness);
            let handler = move |_: &_, _: &_| {
                let early = deadline.checked_duration_since(Instant::now());
                let early = early.filter(|early| !early.is_zero());
                lateness.borrow_mut().push(early);
            };
            let _timer = context.add_timer(deadline, handler);
            context.run().unwrap();
        }
    }
    for early in lateness.take() {
        assert_eq!(early, None, "a timer fired so much too early");
    }
    assert_eq!(Rc::strong_count(&lateness), 1);
}

fn waiting_for_a_timer_does_not_spin(kind: BackendKind) {
    let context = context(kind);
    for delay in ODD.map(Duration::from_nanos) {
        let fired = Flag::new();
        let setter = fired.clone();
        let _timer = context.add_timer_after(delay, move |_, _| setter.set());
        let turns = Cell::new(0);
        run_until(&context, "the timer fires", || {
            turns.set(turns.get() + 1);
            fired.is_set()
        });
        assert!(
            turns.get() <= 3,
            "one wait is enough for {delay:?}: {} turns",
            turns.get()
        );
    }
}

#[test]
fn a_timer_costs_one_wait_however_odd_its_deadline() {
    let (context, recorder) = recorded();
    for delay in ODD.map(Duration::from_nanos) {
        let _timer = context.add_timer_after(delay, |_, _| ());
        context.run().unwrap();
        let waits = recorder.waits();
        assert!(waits <= 1, "{waits} waits for a delay of {delay:?}");
        recorder.take();
    }
}

fn the_earliest_deadline_goes_first_and_equal_ones_in_the_order_they_were_added(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let base = context.now() + Duration::from_millis(2);
    let mut kept = Vec::new();
    for (name, micros) in [("d", 3), ("b", 2), ("a", 1), ("c", 2), ("e", 3)] {
        let deadline = base + Duration::from_micros(micros);
        kept.push(context.add_timer(deadline, log.timer(name)));
    }
    context.run().unwrap();
    assert_eq!(log.take(), "a b c d e");
}

fn a_deadline_in_the_past_fires_in_the_next_turn_behind_earlier_ones(kind: BackendKind) {
    let start = Instant::now();
    let context = context(kind);
    let log = Log::new();
    let now = context.now();
    let _now = context.add_timer(now, log.timer("now"));
    // Before the context was made.
    let _before = context.add_timer(start, log.timer("before"));
    assert!(turn(&context) && turn(&context));
    assert_eq!(log.take(), "before now");
}

fn deadlines_before_the_context_was_made_go_in_their_order(kind: BackendKind) {
    let start = Instant::now();
    let context = context(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for (name, millis) in [("c", 1), ("a", 60_000), ("b", 2)] {
        let deadline = start - Duration::from_millis(millis);
        kept.push(context.add_timer(deadline, log.timer(name)));
        assert_eq!(kept[kept.len() - 1].deadline(), Some(deadline));
    }
    context.run().unwrap();
    assert_eq!(log.take(), "a b c");
}

fn one_timer_fires_per_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for _ in 0..4 {
        context
            .add_timer(context.now(), log.timer("fired"))
            .detach();
    }
    for expected in 1..=4 {
        assert!(turn(&context));
        assert_eq!(log.len(), expected);
    }
    assert!(!turn(&context));
}

fn a_timer_fires_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let timer = context.add_timer(context.now(), log.timer("fired"));
    assert_eq!(settle(&context), 1);
    assert_eq!(timer.deadline(), None, "it is armed no more");
    assert!(timer.is_registered(), "but can be armed again");
}

fn a_timer_can_be_moved_earlier(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let now = context.now();
    let _other = context.add_timer(now, log.timer("other"));
    let timer = context.add_timer(now + 2 * GUARD, log.timer("moved"));
    assert!(timer.set_deadline(now - Duration::from_nanos(1)));
    assert_eq!(settle(&context), 2);
    assert_eq!(log.take(), "moved other");
}

fn a_timer_can_be_moved_later(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let now = context.now();
    let timer = context.add_timer(now, log.timer("moved"));
    let late = now + 2 * GUARD;
    assert!(timer.set_deadline(late));
    assert_eq!(timer.deadline(), Some(late));
    assert_eq!(settle(&context), 0, "it isn't due any more");
    let _other = context.add_timer(now, log.timer("other"));
    timer.set_deadline(now + Duration::from_nanos(1));
    context.run().unwrap();
    assert_eq!(log.take(), "other moved");
}

fn a_timer_moved_to_an_equal_deadline_goes_behind_the_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let now = context.now();
    let a = context.add_timer(now, log.timer("a"));
    let _b = context.add_timer(now, log.timer("b"));
    a.set_deadline(now);
    settle(&context);
    assert_eq!(log.take(), "b a");
}

fn a_fired_timer_can_be_armed_again_by_its_handle(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let timer = context.add_timer(context.now(), log.timer("fired"));
    for expected in 1..=3 {
        settle(&context);
        assert_eq!(log.len(), expected);
        assert!(timer.set_after(Duration::ZERO));
    }
}

fn a_timer_can_arm_itself_in_its_handler(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context
        .add_timer(context.now(), move |context, timer| {
            inner.add("fired");
            if inner.len() < 4 {
                assert!(timer.set_deadline(context.now()));
            }
        })
        .detach();
    assert_eq!(turns(&context, 2), 2, "one firing a turn");
    context.run().unwrap();
    assert_eq!(log.len(), 4);
}

fn a_repeating_timer_does_not_drift(kind: BackendKind) {
    let context = context(kind);
    let period = Duration::from_micros(700);
    let first = context.now() + period;
    let deadlines = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&deadlines);
    let handler = move |_: &_, timer: &Timer| {
        let deadline = timer.last_deadline().expect("it has just fired");
        seen.borrow_mut().push(deadline);
        if seen.borrow().len() < 5 {
            timer.set_deadline(deadline + period);
        }
    };
    let _timer = context.add_timer(first, handler);
    context.run().unwrap();
    let expected: Vec<Instant> = (0..5).map(|round| first + round * period).collect();
    assert_eq!(*deadlines.borrow(), expected);
}

fn a_disarmed_timer_does_not_fire_until_it_is_armed(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let timer = context.add_timer(context.now(), log.timer("fired"));
    timer.disarm();
    assert_eq!((timer.deadline(), settle(&context)), (None, 0));
    timer.set_deadline(context.now());
    assert_eq!(settle(&context), 1);
}

fn a_removed_timer_does_not_fire_and_cannot_be_armed(kind: BackendKind) {
    let context = context(kind);
    let timer = context.add_timer(context.now(), |_, _| unreachable!());
    timer.remove();
    assert!(!timer.set_deadline(context.now()), "it was removed");
    assert!(!timer.set_after(Duration::ZERO), "it was removed");
    assert_eq!((timer.deadline(), timer.last_deadline()), (None, None));
    assert!(!timer.is_registered());
    drop(context.add_timer(context.now(), |_, _| unreachable!()));
    context.run().unwrap();
}

fn while_its_handler_runs_a_timer_is_off_the_queue(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let log = Log::new();
    let inner = log.clone();
    let handler = move |context: &tevent::Context, timer: &Timer| {
        inner.add("fired");
        assert_eq!(timer.deadline(), None);
        assert_eq!(turns(context, 3), 0, "a nested loop never meets it");
    };
    let _timer = context.add_timer(context.now(), handler);
    context.run().unwrap();
    assert_eq!(log.take(), "fired");
}

fn a_timer_may_remove_itself_and_others_and_add_new_ones(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let others = Place::empty();
    let now = context.now();
    let (inner, place) = (log.clone(), others.clone());
    let witness = log.on_drop("dropped");
    let timer = context.add_timer(now, move |context, timer| {
        witness.keep();
        timer.remove();
        assert!(!timer.set_deadline(now), "it is removed at once");
        place.clear();
        for name in ["new", "newer"] {
            context.add_timer(now, inner.timer(name)).detach();
        }
        inner.add("returning");
    });
    others.put([(); 3].map(|()| context.add_timer(now, |_, _| unreachable!())));
    context.run().unwrap();
    assert_eq!(log.take(), "returning dropped new newer");
    assert!(!timer.is_registered());
}

fn postponing_an_idle_timeout_over_and_over_makes_it_fire_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let idle = context.add_timer(context.now(), log.timer("idle"));
    for _ in 0..10_000 {
        idle.set_after(2 * GUARD);
    }
    assert_eq!(settle(&context), 0, "it was active all the time");
    idle.set_after(Duration::from_millis(1));
    context.run().unwrap();
    assert_eq!(log.take(), "idle");
}

/// With tombstones, the late ones would keep the loop from returning, or show up as deadlines.
fn cancelled_timers_do_not_pile_up(kind: BackendKind) {
    let context = context(kind);
    let dropped = Rc::new(());
    for round in 0..10_000u32 {
        let owned = Rc::clone(&dropped);
        let timer = context.add_timer(context.now() + GUARD + GUARD, move |_, _| {
            let _ = &owned;
        });
        if round % 2 == 0 {
            timer.disarm();
        }
        drop(timer);
        assert_eq!(Rc::strong_count(&dropped), 1, "its handler goes at once");
    }
    assert_eq!(context.next_deadline(), None);
    context.run().expect("nothing is left to wait for");
}

fn deadlines_as_far_as_can_be_said_do_not_overflow(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _for_ever = context.add_timer_after(Duration::MAX, |_, _| unreachable!());
    let _soon = context.add_timer_after(Duration::from_millis(1), log.timer("soon"));
    assert!(context.run_once().unwrap());
    assert_eq!(log.take(), "soon");
    assert_eq!(settle(&context), 0);
    context.set_wait_timeout(Some(Duration::from_millis(1)));
    assert!(
        !context.run_once().unwrap(),
        "a wait for a timer of that kind is a wait"
    );
}

/// [`Instant`] can't be set, so no step of the wall clock can reach a timer; what is left to see is
/// that the loop goes by the same clock.
fn timers_follow_the_monotonic_clock_that_the_context_shows(kind: BackendKind) {
    let context = context(kind);
    let before = Instant::now();
    let shown = context.now();
    assert!(
        before <= shown && shown <= Instant::now(),
        "it is the same clock"
    );
    let deadline = shown + Duration::from_micros(1500);
    let timer = context.add_timer(deadline, |_, _| ());
    assert_eq!(timer.deadline(), Some(deadline));
    assert_eq!(context.next_deadline(), Some(deadline));
    context.run().unwrap();
    assert!(context.now() >= deadline);
}
