//! Programs with signals.

use super::*;

pub const TESTS: &[Test] = tests![
    a_signal_from_before_its_event,
    a_signal_raised_in_a_signal_handler,
    a_signal_raised_in_a_descriptor_handler,
    a_signal_handled_once_and_raised_twice,
    siginfo_and_count_for_one_number,
    newest_signal_handler_first_and_lowest_number_first,
    forked_in_a_signal_handler,
    more_signals_than_a_queue_holds,
    a_full_queue_and_no_handler_any_more,
    the_next_handler_of_the_same_signal_is_freed,
    the_next_handler_of_the_same_signal_is_replaced,
    the_last_handler_of_the_same_signal_is_freed,
    an_immediate_scheduled_in_a_signal_handler,
    raised_in_a_handler_that_is_called_once,
    collected_by_a_loop_in_a_handler_that_is_called_once,
    siginfo_asked_for_after_the_signal_came,
    a_loop_in_a_signal_handler,
    a_detached_signal_event_ends_itself,
    a_loop_in_a_signal_handler_after_another_with_siginfo,
];

fn signal(
    signal: u8,
    siginfo: bool,
    once: bool,
    script: u8,
) -> crate::differential::program::Action {
    AddSignal {
        signal,
        siginfo,
        once,
        script,
    }
}

fn a_signal_from_before_its_event(kind: BackendKind) {
    let event = signal(1, false, false, NOTHING);
    compare(kind, &[event, Raise(1), Reinitialise, event], &[]);
    compare(kind, &[event, Raise(1), FreeSignal(0), event], &[]);
    compare(kind, &[event, Raise(1), event], &[]);
}

fn a_signal_raised_in_a_signal_handler(kind: BackendKind) {
    let (higher, other) = (signal(2, false, false, 1), signal(0, true, false, 1));
    for raised in [0, 1, 2] {
        let script = [Raise(raised), FreeSelf];
        let actions = [higher, other, signal(1, false, false, 0), Raise(1), Turn];
        compare(kind, &actions, &[&script, &[]]);
    }
}

fn a_signal_raised_in_a_descriptor_handler(kind: BackendKind) {
    let event = signal(1, false, false, NOTHING);
    let actions = [Pipe, event, add(1, WRITE, 0), Until(3), Turn];
    compare(kind, &actions, &[&[Raise(1)]]);
}

fn a_signal_handled_once_and_raised_twice(kind: BackendKind) {
    let once = signal(1, false, true, 0);
    compare(kind, &[once, Raise(1), Turn, Turn], &[&[Raise(1)]]);
    compare(
        kind,
        &[once, Raise(1), Turn, once, Raise(1)],
        &[&[FreeSelf]],
    );
}

fn siginfo_and_count_for_one_number(kind: BackendKind) {
    let (plain, info) = (signal(1, false, false, 9), signal(1, true, false, 9));
    let queue = |value| Queue { signal: 1, value };
    compare(kind, &[plain, info, Raise(1), queue(3), Raise(1)], &[]);
    compare(kind, &[info, plain, Raise(1), queue(3), Raise(1)], &[]);
}

fn newest_signal_handler_first_and_lowest_number_first(kind: BackendKind) {
    let event = |number| signal(number, false, false, NOTHING);
    let raised = [Raise(2), Raise(0), Raise(1), Raise(2)];
    let mut actions = vec![event(1), event(0), event(2), event(0), event(2)];
    actions.extend(raised);
    compare(kind, &actions, &[]);
}

fn forked_in_a_signal_handler(kind: BackendKind) {
    let (first, second) = (signal(2, false, false, 9), signal(2, false, false, 0));
    compare(kind, &[first, second, Raise(2), Turn], &[&[Fork, Pipe]]);
}

fn more_signals_than_a_queue_holds(kind: BackendKind) {
    for number in [1, 2] {
        for siginfo in [true, false] {
            let (first, second) = (
                signal(number, siginfo, false, 9),
                signal(number, siginfo, false, 9),
            );
            compare(
                kind,
                &[
                    first,
                    second,
                    Flood(number),
                    Turn,
                    Turn,
                    Turn,
                    Raise(number),
                    Turn,
                ],
                &[],
            );
        }
    }
}

/// The library leaves the signal blocked, and what is in the kernel kills the process.
fn a_full_queue_and_no_handler_any_more(kind: BackendKind) {
    let event = signal(2, true, false, 0);
    compare(kind, &[event, Flood(2), Turn], &[&[FreeSelf]]);
    compare(kind, &[event, Flood(2), Turn, Turn], &[&[Raise(2)]]);
}

/// The library calls none of those after it.
fn the_next_handler_of_the_same_signal_is_freed(kind: BackendKind) {
    let quiet = signal(1, false, false, NOTHING);
    compare(
        kind,
        &[quiet, quiet, signal(1, false, false, 0), Raise(1), Turn],
        &[&[FreeSignal(1)]],
    );
}

/// The library calls all again.
fn the_next_handler_of_the_same_signal_is_replaced(kind: BackendKind) {
    let quiet = signal(1, false, false, NOTHING);
    let script = [FreeSignal(0), quiet];
    compare(
        kind,
        &[quiet, signal(1, false, false, 0), Raise(1), Turn],
        &[&script],
    );
}

fn the_last_handler_of_the_same_signal_is_freed(kind: BackendKind) {
    let quiet = signal(1, false, false, NOTHING);
    let actions = [
        quiet,
        quiet,
        signal(1, false, false, 0),
        Raise(1),
        Turn,
        Raise(1),
        Turn,
    ];
    compare(kind, &actions, &[&[FreeSignal(0)]]);
    compare(
        kind,
        &[quiet, signal(1, true, false, 0), Raise(1), Raise(1), Turn],
        &[&[FreeSignal(0)]],
    );
}

fn an_immediate_scheduled_in_a_signal_handler(kind: BackendKind) {
    let added = AddImmediate { script: NOTHING };
    let actions = [
        added,
        added,
        Schedule(1),
        signal(1, false, false, 0),
        Raise(1),
        Turn,
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[&[Schedule(0), Schedule(1)]]);
}

fn raised_in_a_handler_that_is_called_once(kind: BackendKind) {
    let actions = [
        Pipe,
        add(1, WRITE, NOTHING),
        signal(1, false, true, 0),
        Raise(1),
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[&[Raise(1)]]);
}

/// The loop in the handler hands out what came, to nobody; the event that is added then isn't told.
fn collected_by_a_loop_in_a_handler_that_is_called_once(kind: BackendKind) {
    let actions = [
        AddImmediate { script: NOTHING },
        signal(1, false, true, 0),
        Raise(1),
        Turn,
        timer(When::Zero, NOTHING),
        Turn,
    ];
    let script = [Raise(1), Turn, signal(1, false, false, NOTHING)];
    let program = Program {
        nesting: true,
        ..program(&actions, &[&script])
    };
    assert_same(&program, kind);
}

/// Nobody is left who was there when it came.
fn siginfo_asked_for_after_the_signal_came(kind: BackendKind) {
    let (plain, info) = (
        signal(0, false, false, NOTHING),
        signal(0, true, false, NOTHING),
    );
    let actions = [
        plain,
        Raise(0),
        timer(When::Zero, NOTHING),
        info,
        FreeSignal(0),
        Turn,
    ];
    compare(kind, &actions, &[]);
    let actions = [
        plain,
        info,
        Raise(0),
        FreeSignal(1),
        info,
        FreeSignal(0),
        Turn,
    ];
    compare(kind, &actions, &[]);
}

fn a_loop_in_a_signal_handler(kind: BackendKind) {
    let actions = [
        Pipe,
        add(1, WRITE, NOTHING),
        signal(1, false, false, NOTHING),
        signal(1, false, false, 0),
        Raise(1),
        Turn,
        Turn,
    ];
    let program = Program {
        nesting: true,
        ..program(&actions, &[&[Raise(1), Turn, Turn]])
    };
    assert_same(&program, kind);
}

fn a_detached_signal_event_ends_itself(kind: BackendKind) {
    let actions = [
        signal(1, false, false, 0),
        DetachSignal(0),
        Raise(1),
        Turn,
        Raise(1),
        Turn,
    ];
    compare(kind, &actions, &[&[FreeSelf]]);
    compare(kind, &actions, &[&[]]);
}

/// What was kept while the handler with siginfo ran goes before descriptors, though one without
/// siginfo is running still.
fn a_loop_in_a_signal_handler_after_another_with_siginfo(kind: BackendKind) {
    let added = |siginfo| AddSignal {
        signal: 0,
        siginfo,
        once: false,
        script: 0,
    };
    let queue = Queue {
        signal: 0,
        value: 0,
    };
    let program = Program {
        nesting: true,
        ..program(
            &[
                added(true),
                added(false),
                SocketPair,
                add(0, WRITE, 1),
                Turn,
                add(0, WRITE, NOTHING),
                Turn,
            ],
            &[&[Turn, Turn], &[queue]],
        )
    };
    assert_same(&program, kind);
}
