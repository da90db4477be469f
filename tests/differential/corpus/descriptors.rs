//! Programs with descriptor events.

use super::*;

pub const TESTS: &[Test] = tests![
    an_event_added_in_a_handler_of_its_descriptor,
    siblings_that_are_both_ready,
    siblings_on_a_dead_descriptor,
    write_alone_on_a_dead_descriptor,
    write_after_having_read_the_end,
    write_asked_for_again_on_a_dead_descriptor,
    write_asked_for_again_on_a_dead_descriptor_in_a_loop,
    write_on_a_descriptor_whose_reader_was_told_of_the_end,
    siblings_that_want_the_same,
    files_are_ready_under_every_backend_that_takes_them,
    a_file_asked_for_nothing_and_then_for_something,
    an_eventfd_that_is_full,
    siblings_that_poll_has_in_an_order_of_its_own,
    a_sibling_that_was_disarmed_and_wants_something_again,
];

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

fn write_asked_for_again_on_a_dead_descriptor_in_a_loop(kind: BackendKind) {
    let script = [Toggle {
        event: 0,
        flag: 2,
        on: true,
    }];
    let actions = [
        SocketPair,
        Pipe,
        Pipe,
        add(5, 0, NOTHING),
        CloseBehind(4),
        add(0, WRITE, 0),
        Until(4),
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

/// Two entries are taken out of the C library's array before it waits again. Their places have to be
/// known to tell siblings apart.
fn siblings_that_poll_has_in_an_order_of_its_own(kind: BackendKind) {
    let nested = [
        Toggle {
            event: 5,
            flag: 2,
            on: false,
        },
        Turn,
        add(5, 0, 0),
    ];
    let scripts: [Script<'_>; 6] = [
        &[],
        &[],
        &nested,
        &[Pipe, timer(When::Zero, 5)],
        &[add(255, READ | 4, 0)],
        &[add(2, READ, 2), timer(When::Zero, 4)],
    ];
    let actions = [
        Pipe,
        File,
        Pipe,
        SocketPair,
        Close(1),
        AddImmediate { script: 3 },
        add(0, 0, 0),
        Schedule(0),
        Until(3),
        Turn,
        Turn,
        add(1, 4, 0),
        Schedule(0),
        Turn,
        Turn,
        set(5, WRITE | 4),
        Pipe,
        add(0, READ, 4),
        Turn,
        Turn,
        Turn,
    ];
    let program = Program {
        nesting: true,
        kernel_order: true,
        ..program(&actions, &scripts)
    };
    assert_same(&program, kind);
}

fn a_sibling_that_was_disarmed_and_wants_something_again(kind: BackendKind) {
    let actions = [
        Pipe,
        Close(0),
        add(0, WRITE | 4, NOTHING),
        Turn,
        add(0, 0, NOTHING),
        set(1, READ),
        set(0, READ),
    ];
    let program = Program {
        kernel_order: true,
        ..program(&actions, &[])
    };
    assert_same(&program, kind);
}
