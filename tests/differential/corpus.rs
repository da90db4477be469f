//! Programs in which the two once differed, as small as they could be made, and some written by
//! hand. What was learnt from each is in the code, in [`super::known`], or both.

use super::compare::assert_same;
use super::program::{Action::*, Close as Closing, OWN, Program, When};
use crate::process::{Test, tests};
use tevent::BackendKind;

pub mod signals;

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
    an_immediate_rescheduled_in_its_handler,
    a_nested_loop_in_a_descriptor_handler,
    the_order_of_the_kernel,
    siblings_that_want_the_same,
    closed_behind_an_event_whose_sibling_has_gone,
    closed_behind_an_event_that_had_told_the_kernel,
    a_source_taken_back,
    detached_events_end_themselves,
    detached_events_go_with_the_context,
    a_number_that_is_used_again_in_the_same_batch,
    files_are_ready_under_every_backend_that_takes_them,
    a_file_asked_for_nothing_and_then_for_something,
    an_eventfd_that_is_full,
    a_timer_moved_in_its_own_handler,
    a_loop_that_is_stopped,
    a_stop_in_a_nested_loop,
    a_nesting_hook,
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

fn siblings_that_want_the_same(kind: BackendKind) {
    let both = READ | WRITE;
    let (first, second, third) = (add(0, both, 0), add(0, both, NOTHING), add(0, WRITE, 1));
    let actions = [
        SocketPair,
        SocketPair,
        Write(1),
        first,
        second,
        third,
        Turn,
        Turn,
        add(2, both, NOTHING),
        add(2, both, NOTHING),
        Turn,
        Turn,
        Turn,
        set(1, 0),
        Turn,
        Turn,
        set(1, both),
        Turn,
        Turn,
        FreeFd(0),
        Turn,
        Close(1),
        Turn,
        Turn,
    ];
    let scripts: [Script<'_>; 2] = [&[Write(1)], &[set(OWN, READ)]];
    let program = Program {
        kernel_order: true,
        ..program(&actions, &scripts)
    };
    assert_same(&program, kind);
}

fn closed_behind_an_event_whose_sibling_has_gone(kind: BackendKind) {
    let script = [add(0, WRITE, NOTHING), FreeSelf];
    let actions = [Pipe, Close(1), add(0, READ, 0), Turn, CloseBehind(0), Turn];
    compare(kind, &actions, &[&script]);
}

fn closed_behind_an_event_that_had_told_the_kernel(kind: BackendKind) {
    let changed = [SocketPair, add(0, READ, NOTHING), set(0, WRITE), Turn];
    let closed = [
        CloseBehind(0),
        Turn,
        Turn,
        FreeFd(0),
        Pipe,
        add(0, READ, NOTHING),
        Turn,
    ];
    compare(kind, &[&changed[..], &closed].concat(), &[]);
}

fn a_source_taken_back(kind: BackendKind) {
    let event = closing(0, READ, Closing::Callback, NOTHING);
    compare(
        kind,
        &[
            SocketPair,
            event,
            Write(1),
            Turn,
            TakeSource(0),
            Turn,
            Close(0),
        ],
        &[],
    );
    compare(
        kind,
        &[SocketPair, event, CloseBehind(0), Turn, TakeSource(0)],
        &[],
    );
}

fn detached_events_end_themselves(kind: BackendKind) {
    let actions = [
        SocketPair,
        closing(0, READ, Closing::Callback, 0),
        timer(When::Due(1), 1),
        AddImmediate { script: 2 },
        DetachFd(0),
        DetachTimer(0),
        Schedule(0),
        DetachImmediate(0),
        Write(1),
        Turn,
        Turn,
        Turn,
        Turn,
    ];
    let ends: [Script<'_>; 3] = [&[FreeSelf], &[FreeSelf], &[Schedule(OWN)]];
    compare(kind, &actions, &ends);
    let goes_on: [Script<'_>; 3] = [&[set(OWN, 0)], &[], &[FreeSelf]];
    compare(kind, &actions, &goes_on);
}

fn detached_events_go_with_the_context(kind: BackendKind) {
    let event = closing(0, READ, Closing::Callback, NOTHING);
    let other = closing(1, READ, Closing::Auto, NOTHING);
    let detached = [SocketPair, event, other, DetachFd(0), DetachFd(0), Turn];
    compare(kind, &detached, &[]);
    compare(
        kind,
        &[&detached[..], &[Reinitialise, Pipe, add(0, READ, NOTHING)]].concat(),
        &[],
    );
}

/// What was reported of the former descriptor isn't told to the event on the new one.
fn a_number_that_is_used_again_in_the_same_batch(kind: BackendKind) {
    let script = [
        FreeFd(1),
        FreeFd(0),
        Close(2),
        Close(2),
        SocketPair,
        add(2, READ, NOTHING),
    ];
    let actions = [
        SocketPair,
        SocketPair,
        add(0, WRITE, 0),
        add(2, WRITE, 0),
        Turn,
        Turn,
        Turn,
    ];
    compare(kind, &actions, &[&script]);
}

fn files_are_ready_under_every_backend_that_takes_them(kind: BackendKind) {
    let (file, null) = (add(0, READ | WRITE, NOTHING), add(1, WRITE, NOTHING));
    compare(
        kind,
        &[File, Null, file, null, Turn, Turn, Turn, FreeFd(0), Turn],
        &[],
    );
}

fn a_file_asked_for_nothing_and_then_for_something(kind: BackendKind) {
    let actions = [
        Null,
        add(0, 0, NOTHING),
        Turn,
        set(0, READ),
        Turn,
        Fork,
        set(0, 0),
        Turn,
    ];
    compare(kind, &actions, &[]);
}

fn an_eventfd_that_is_full(kind: BackendKind) {
    let event = add(0, READ | WRITE, NOTHING);
    let actions = [
        Counter,
        event,
        Turn,
        Write(0),
        Turn,
        Fill(0),
        Turn,
        set(0, WRITE),
        Turn,
        Read(0),
        Turn,
    ];
    compare(kind, &actions, &[]);
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

fn a_loop_that_is_stopped(kind: BackendKind) {
    let actions = [Pipe, add(1, WRITE, 0), Until(3), Turn, Until(2)];
    compare(kind, &actions, &[&[Stop]]);
    compare(
        kind,
        &actions,
        &[&[Stop, Reinitialise, add(1, WRITE, NOTHING)]],
    );
}

fn a_stop_in_a_nested_loop(kind: BackendKind) {
    let added = AddImmediate { script: 1 };
    let outer = [added, Schedule(0), Until(3), Stop];
    let scripts: [Script<'_>; 2] = [&outer, &[Stop]];
    let program = Program {
        nesting: true,
        ..program(&[Pipe, add(1, WRITE, 0), Until(4), Turn], &scripts)
    };
    assert_same(&program, kind);
}

fn a_nesting_hook(kind: BackendKind) {
    let scripts: [Script<'_>; 1] = [&[Turn, Write(1)]];
    let program = Program {
        nesting: true,
        ..program(
            &[
                Hook(true),
                SocketPair,
                add(0, WRITE, 0),
                Turn,
                Until(2),
                Reinitialise,
                Turn,
            ],
            &scripts,
        )
    };
    assert_same(&program, kind);
}
