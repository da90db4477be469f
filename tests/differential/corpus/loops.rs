//! Programs about the loop: nested, stopped, begun anew, forked.

use super::*;

pub const TESTS: &[Test] = tests![
    reinitialised_in_a_handler_that_goes_on,
    reinitialised_in_a_handler_that_runs_the_loop,
    a_child_that_starts_over_and_serves,
    forked_with_siblings,
    a_nested_loop_in_a_descriptor_handler,
    the_order_of_the_kernel,
    a_loop_that_is_stopped,
    a_stop_in_a_nested_loop,
    a_nesting_hook,
    a_nested_loop_after_a_fork_in_a_handler,
];

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

fn a_nested_loop_after_a_fork_in_a_handler(kind: BackendKind) {
    let program = Program {
        nesting: true,
        ..program(&[SocketPair, add(0, WRITE, 0), Turn], &[&[Fork, Until(2)]])
    };
    assert_same(&program, kind);
}
