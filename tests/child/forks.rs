//! A process that forks takes none of its children along.

use crate::process::{self, sys, tests};
use crate::{Process, Way, add, add_noted, either_way, run_what_is_ready};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use tevent::{BackendKind, Fork};

pub const TESTS: &[process::Test] = tests![
    a_forked_process_is_not_told_of_its_parents_children,
    reinitialising_ends_the_events_of_the_parent,
    a_forked_process_is_told_of_its_own_children_before_its_first_turn,
    a_handler_may_fork,
];

fn a_forked_process_is_not_told_of_its_parents_children(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let (child, ends) = add_noted(context, way, process.pid);
        let (to_forked, to_parent) = sys::channel();
        let forked = sys::fork(|| {
            let looks = run_what_is_ready(context);
            assert!(looks <= 1, "it doesn't spin: {looks}");
            sys::tell(&to_parent);
            sys::await_word(&to_parent);
            // Here it has ended, and its parent has reaped it; of which this process is told by
            // the descriptor, or is told nothing until it has a child of its own.
            sys::assert_succeeds(sys::fork(|| ()));
            context.run().unwrap();
            assert!(!child.is_registered(), "it would never be called");
            assert_eq!(ends.count(), 0, "the child is its parent's");
        });
        sys::await_word(&to_forked);
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(3));
        sys::tell(&to_forked);
        sys::assert_succeeds(forked);
    });
}

fn reinitialising_ends_the_events_of_the_parent(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let (child, ends) = add_noted(context, way, process.pid);
        match context.fork().unwrap() {
            Fork::Child => process::end_with(|| {
                context.reinitialise().unwrap();
                assert!(!child.is_registered());
                context.run().unwrap();
                drop(child);
                assert_eq!(sys::count_of_pidfds(), 0, "closed with the handle");
            }),
            Fork::Parent(forked) => sys::assert_succeeds(forked),
        }
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(3));
    });
}

fn a_forked_process_is_told_of_its_own_children_before_its_first_turn(kind: BackendKind) {
    either_way(kind, |context, way| {
        let forked = sys::fork(|| {
            let process = Process::that_exits_with(4);
            process.end_and_await();
            if way == Way::Sigchld {
                // Before there are no descriptors left, it needs some.
                context.as_fd();
            }
            let (_child, ends) = add_noted(context, way, process.pid);
            context.run().unwrap();
            assert_eq!(ends.status_of(process.pid).code(), Some(4));
        });
        sys::assert_succeeds(forked);
    });
}

fn a_handler_may_fork(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let forked = Rc::new(Cell::new(None));
        let pid = Rc::clone(&forked);
        let child = add(context, way, process.pid, move |context, _, result| {
            assert_eq!(result.unwrap().code(), Some(3));
            match context.fork().unwrap() {
                Fork::Child => {}
                Fork::Parent(forked) => pid.set(Some(forked)),
            }
        });
        process.end();
        let before = std::process::id();
        let run = context.run();
        if std::process::id() != before {
            process::end_with(|| {
                run.unwrap();
                assert!(!child.is_registered());
            });
        }
        run.unwrap();
        assert!(!child.is_registered());
        sys::assert_succeeds(forked.get().expect("it was called"));
    });
}
