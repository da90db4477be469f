//! Programs in which the two once differed, as small as they could be made, and some written by
//! hand. What was learnt from each is in the code, in [`super::known`], or both.

use super::compare::assert_same;
use super::program::{Action::*, Close as Closing, OWN, Program, When};
use crate::process::{Test, tests};
use tevent::BackendKind;

pub const TESTS: &[Test] = tests![
    deadlines_before_the_context_was_made_go_in_their_order,
    a_timer_moved_to_zero,
    equal_deadlines_go_in_the_order_they_were_added,
    an_event_added_in_a_handler_of_its_descriptor,
    siblings_that_are_both_ready,
    siblings_on_a_dead_descriptor,
    write_alone_on_a_dead_descriptor,
    write_after_having_read_the_end,
    write_asked_for_again_on_a_dead_descriptor,
    write_on_a_descriptor_whose_reader_was_told_of_the_end,
    closed_behind_its_event,
    closed_behind_several_events,
    freed_in_its_own_handler,
    freed_by_another_before_its_turn,
    reinitialised_in_a_handler_that_goes_on,
    reinitialised_in_a_handler_that_runs_the_loop,
    a_child_that_starts_over_and_serves,
    forked_with_siblings,
    forked_in_a_signal_handler,
    a_signal_from_before_its_event,
    a_signal_raised_in_a_signal_handler,
    a_signal_raised_in_a_descriptor_handler,
    a_signal_handled_once_and_raised_twice,
    siginfo_and_count_for_one_number,
    newest_signal_handler_first_and_lowest_number_first,
    an_immediate_rescheduled_in_its_handler,
    a_nested_loop_in_a_descriptor_handler,
    the_order_of_the_kernel,
];

fn add(descriptor: u8, flags: u8, script: u8) -> super::program::Action {
    closing(descriptor, flags, Closing::Nothing, script)
}

fn closing(descriptor: u8, flags: u8, close: Closing, script: u8) -> super::program::Action {
    AddFd {
        descriptor,
        flags,
        close,
        script,
    }
}

fn signal(signal: u8, siginfo: bool, once: bool, script: u8) -> super::program::Action {
    AddSignal {
        signal,
        siginfo,
        once,
        script,
    }
}

fn timer(when: When, script: u8) -> super::program::Action {
    AddTimer { when, script }
}

fn set(event: u8, flags: u8) -> super::program::Action {
    SetFlags { event, flags }
}

const READ: u8 = 1;
const WRITE: u8 = 2;
const NOTHING: u8 = 99;

type Script<'a> = &'a [super::program::Action];

fn program(actions: Script<'_>, scripts: &[Script<'_>]) -> Program {
    Program {
        nesting: false,
        kernel_order: false,
        runs_at_end: false,
        context_first: false,
        actions: actions.to_vec(),
        scripts: scripts.iter().map(|script| script.to_vec()).collect(),
    }
}

/// The variants that don't change what the actions are.
#[track_caller]
fn compare(kind: BackendKind, actions: Script<'_>, scripts: &[Script<'_>]) {
    for (runs_at_end, context_first) in [(false, false), (true, false), (true, true)] {
        let program = Program {
            runs_at_end,
            context_first,
            ..program(actions, scripts)
        };
        assert_same(&program, kind);
    }
}

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

fn an_event_added_in_a_handler_of_its_descriptor(kind: BackendKind) {
    let script = [add(0, WRITE, NOTHING)];
    compare(
        kind,
        &[SocketPair, add(0, WRITE, 0), Pipe, Turn],
        &[&script],
    );
}

fn siblings_that_are_both_ready(kind: BackendKind) {
    for (first, second) in [(READ, WRITE), (WRITE, READ)] {
        let actions = [
            SocketPair,
            SocketPair,
            Write(1),
            add(0, first, NOTHING),
            add(0, second, NOTHING),
            add(2, WRITE, NOTHING),
            Turn,
            Turn,
        ];
        compare(kind, &actions, &[]);
    }
}

fn siblings_on_a_dead_descriptor(kind: BackendKind) {
    let actions = [
        SocketPair,
        SocketPair,
        add(0, WRITE, NOTHING),
        add(0, READ, NOTHING),
        add(2, WRITE, NOTHING),
        Turn,
        Close(1),
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[]);
}

fn write_alone_on_a_dead_descriptor(kind: BackendKind) {
    let (first, second) = (add(1, WRITE, NOTHING), add(3, WRITE, NOTHING));
    let actions = [Pipe, Pipe, first, second, Turn, Close(0), Turn, Turn];
    compare(kind, &actions, &[]);
}

fn write_after_having_read_the_end(kind: BackendKind) {
    let actions = [Pipe, Close(1), add(0, READ, NOTHING), Turn, set(0, WRITE)];
    compare(kind, &actions, &[]);
}

fn write_asked_for_again_on_a_dead_descriptor(kind: BackendKind) {
    let script = [set(0, WRITE)];
    let actions = [
        Pipe,
        Close(0),
        add(1, WRITE, NOTHING),
        Turn,
        timer(When::Zero, 0),
        Turn,
    ];
    compare(kind, &actions, &[&script]);
}

fn write_on_a_descriptor_whose_reader_was_told_of_the_end(kind: BackendKind) {
    let script = [add(0, WRITE, NOTHING), FreeSelf];
    compare(
        kind,
        &[Pipe, Close(1), add(0, READ, 0), Turn, Turn],
        &[&script],
    );
}

fn closed_behind_its_event(kind: BackendKind) {
    let actions = [
        SocketPair,
        add(0, READ, NOTHING),
        add(1, WRITE, NOTHING),
        Turn,
        CloseBehind(0),
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[]);
}

fn closed_behind_several_events(kind: BackendKind) {
    let (read, write) = (add(1, READ, NOTHING), add(1, WRITE, NOTHING));
    compare(kind, &[Pipe, read, write, CloseBehind(1)], &[]);
    let script = [add(0, WRITE, NOTHING), FreeSelf];
    let actions = [Pipe, Close(1), add(0, READ, 0), Turn, CloseBehind(0)];
    compare(kind, &actions, &[&script]);
    compare(kind, &[Pipe, Fork, write, CloseBehind(1), FreeFd(0)], &[]);
}

fn freed_in_its_own_handler(kind: BackendKind) {
    for close in [Closing::Nothing, Closing::Callback, Closing::Auto] {
        for script in [&[FreeSelf][..], &[FreeFd(OWN), Drain(0), Read(1)]] {
            let event = closing(0, READ, close, 0);
            let actions = [SocketPair, Write(1), event, add(1, READ, NOTHING), Turn];
            compare(kind, &actions, &[script]);
        }
    }
}

fn freed_by_another_before_its_turn(kind: BackendKind) {
    let scripts: [Script<'_>; 3] = [&[FreeFd(0)], &[FreeFd(1)], &[set(1, 0), Write(0)]];
    let events = [closing(0, WRITE, Closing::Auto, 0), add(2, WRITE, 1)];
    let actions = [SocketPair, SocketPair, events[0], events[1], Turn, Turn];
    compare(kind, &actions, &scripts);
    compare(kind, &actions, &[scripts[1], scripts[0]]);
    compare(kind, &actions, &[scripts[2], scripts[2]]);
}

fn reinitialised_in_a_handler_that_goes_on(kind: BackendKind) {
    let script = [Reinitialise, Read(0), add(0, READ, NOTHING)];
    for close in [Closing::Nothing, Closing::Callback, Closing::Auto] {
        let actions = [Pipe, closing(1, WRITE, close, 0), Turn, Turn];
        compare(kind, &actions, &[&script]);
    }
}

fn reinitialised_in_a_handler_that_runs_the_loop(kind: BackendKind) {
    let script = [Reinitialise, add(0, WRITE, 1), Turn, Turn];
    let actions = [SocketPair, add(0, WRITE, 0), Turn, Turn];
    compare(kind, &actions, &[&script, &[]]);
}

fn a_child_that_starts_over_and_serves(kind: BackendKind) {
    let script = [Fork, Drain(OWN)];
    let actions = [
        SocketPair,
        closing(0, READ, Closing::Callback, 0),
        Write(1),
        Turn,
        Fork,
        Reinitialise,
        closing(0, READ | WRITE, Closing::Auto, NOTHING),
        Write(1),
        Turn,
    ];
    compare(kind, &actions, &[&script]);
}

fn forked_with_siblings(kind: BackendKind) {
    let (read, write) = (add(0, READ, NOTHING), add(0, WRITE, NOTHING));
    compare(kind, &[SocketPair, read, write, Turn, Fork, Turn], &[]);
}

fn forked_in_a_signal_handler(kind: BackendKind) {
    let (first, second) = (signal(2, false, false, 9), signal(2, false, false, 0));
    compare(kind, &[first, second, Raise(2), Turn], &[&[Fork, Pipe]]);
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

fn an_immediate_rescheduled_in_its_handler(kind: BackendKind) {
    let added = AddImmediate { script: 0 };
    let actions = [added, added, Schedule(0), Schedule(1), Schedule(0), Turn];
    compare(kind, &actions, &[&[Schedule(OWN), Reset(1)]]);
    compare(kind, &actions, &[&[FreeSelf]]);
}

fn a_nested_loop_in_a_descriptor_handler(kind: BackendKind) {
    let script = [Write(1), Turn, set(OWN, READ | WRITE), Turn];
    let actions = [SocketPair, add(0, WRITE, 0), add(1, READ, 1), Turn, Turn];
    let program = Program {
        nesting: true,
        ..program(&actions, &[&script, &[Drain(OWN), Turn]])
    };
    assert_same(&program, kind);
}

fn the_order_of_the_kernel(kind: BackendKind) {
    let script = [add(3, WRITE, NOTHING), Write(2)];
    let actions = [
        SocketPair,
        SocketPair,
        add(2, READ | WRITE, NOTHING),
        add(0, WRITE, NOTHING),
        add(1, WRITE, 0),
        Turn,
        Turn,
    ];
    let program = Program {
        kernel_order: true,
        ..program(&actions, &[&script])
    };
    assert_same(&program, kind);
}
