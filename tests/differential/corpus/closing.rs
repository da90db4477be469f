//! Programs in which events and descriptors end.

use super::*;

pub const TESTS: &[Test] = tests![
    closed_behind_its_event,
    closed_behind_several_events,
    closed_behind_an_event_whose_sibling_has_gone,
    closed_behind_an_event_that_had_told_the_kernel,
    freed_in_its_own_handler,
    freed_by_another_before_its_turn,
    a_source_taken_back,
    detached_events_end_themselves,
    detached_events_go_with_the_context,
    a_number_that_is_used_again_in_the_same_batch,
];

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
