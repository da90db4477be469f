//! Programs with timers and immediates.

use super::*;

pub const TESTS: &[Test] = tests![
    deadlines_before_the_context_was_made_go_in_their_order,
    a_timer_moved_to_zero,
    equal_deadlines_go_in_the_order_they_were_added,
    an_immediate_rescheduled_in_its_handler,
    a_timer_moved_in_its_own_handler,
];

fn deadlines_before_the_context_was_made_go_in_their_order(kind: BackendKind) {
    let due = [When::Due(3), When::Zero, When::Due(1), When::Due(2)];
    compare(kind, &due.map(|when| timer(when, NOTHING)), &[]);
}

fn a_timer_moved_to_zero(kind: BackendKind) {
    let (timer, when) = (0, When::Zero);
    let moved = MoveTimer { timer, when };
    let added = AddTimer { when, script: 9 };
    compare(kind, &[added, moved, added], &[]);
}

fn equal_deadlines_go_in_the_order_they_were_added(kind: BackendKind) {
    let first = timer(When::Due(1), NOTHING);
    let second = timer(When::Due(0), NOTHING);
    let moved = MoveTimer {
        timer: 1,
        when: When::Due(1),
    };
    let earlier = MoveTimer {
        timer: 0,
        when: When::Due(0),
    };
    compare(kind, &[first, second, first, moved], &[]);
    compare(kind, &[first, second, first, earlier], &[]);
}

fn an_immediate_rescheduled_in_its_handler(kind: BackendKind) {
    let added = AddImmediate { script: 0 };
    let actions = [added, added, Schedule(0), Schedule(1), Schedule(0), Turn];
    compare(kind, &actions, &[&[Schedule(OWN), Reset(1)]]);
    compare(kind, &actions, &[&[FreeSelf]]);
}

fn a_timer_moved_in_its_own_handler(kind: BackendKind) {
    let again = MoveTimer {
        timer: OWN,
        when: When::Due(2),
    };
    let actions = [
        timer(When::Due(1), 0),
        timer(When::Due(2), NOTHING),
        Turn,
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[&[again]]);
    compare(kind, &actions, &[&[again, FreeSelf]]);
}
