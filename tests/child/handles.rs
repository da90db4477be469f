//! What handles and handlers may do.

use crate::process::{self, sys, tests};
use crate::{Ends, Process, Way, add, add_noted, either_way, run_what_is_ready};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use tevent::{BackendKind, Child};

pub const TESTS: &[process::Test] = tests![
    dropping_the_handle_leaves_the_child_to_the_caller,
    removing_leaves_the_child_to_the_caller,
    dropping_the_context_leaves_the_child_to_the_caller,
    a_removal_between_end_and_turn_holds,
    a_detached_event_is_called_and_goes,
    a_handler_may_remove_its_own_event,
    a_handler_may_drop_its_own_handle,
    a_handler_may_add_the_next_child,
    a_handler_may_run_a_nested_loop,
    a_handler_may_reinitialise,
    a_handler_that_panics_is_not_called_again,
    the_handler_is_dropped_when_it_has_run,
    tag_name_and_place_are_there_until_the_end,
    the_place_is_where_it_was_added,
];

fn dropping_the_handle_leaves_the_child_to_the_caller(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(context, way, process.pid);
        run_what_is_ready(context);
        drop(child);
        assert_eq!(sys::count_of_pidfds(), 0, "closed with the handle");
        process.end_and_await();
        context.run().unwrap();
        assert_eq!(ends.count(), 0);
        sys::assert_succeeds(process.pid);
    });
}

fn removing_leaves_the_child_to_the_caller(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(context, way, process.pid);
        child.remove();
        assert!(!child.is_registered());
        assert_eq!(child.pid(), process.pid);
        process.end_and_await();
        context.run().unwrap();
        assert_eq!(ends.count(), 0);
        sys::assert_succeeds(process.pid);
    });
}

fn dropping_the_context_leaves_the_child_to_the_caller(kind: BackendKind) {
    either_way(kind, |_, way| {
        let context = process::context(kind);
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(&context, way, process.pid);
        let another = Process::that_exits_with(0);
        let (detached, no_ends) = add_noted(&context, way, another.pid);
        detached.detach();
        drop(context);
        assert!(!child.is_registered());
        assert_eq!(
            (child.pid(), child.tag(), child.name()),
            (process.pid, 0, None)
        );
        for process in [&process, &another] {
            process.end();
            sys::assert_succeeds(process.pid);
        }
        assert_eq!((ends.count(), no_ends.count()), (0, 0));
    });
}

fn a_removal_between_end_and_turn_holds(kind: BackendKind) {
    either_way(kind, |context, way| {
        // Both have ended before the loop looks, and the first to be called removes the other.
        let processes = [Process::that_exits_with(0), Process::that_exits_with(0)];
        let children: Rc<RefCell<Vec<Child>>> = Rc::default();
        let ends = Ends::default();
        for process in &processes {
            let (log, all) = (ends.clone(), Rc::clone(&children));
            let child = add(context, way, process.pid, move |_, child, result| {
                log.note(child, result);
                let others = all.take();
                drop(others);
            });
            children.borrow_mut().push(child);
        }
        for process in &processes {
            process.end_and_await();
        }
        context.run().unwrap();
        let reported = ends.0.take();
        assert_eq!(reported.len(), 1, "{reported:?}");
        for process in &processes {
            if process.pid != reported[0].0 {
                sys::assert_succeeds(process.pid);
            }
        }
    });
}

fn a_detached_event_is_called_and_goes(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(9);
        let (child, ends) = add_noted(context, way, process.pid);
        child.detach();
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(9));
        assert_eq!(sys::count_of_pidfds(), 0, "nobody holds it any more");
    });
}

fn a_handler_may_remove_its_own_event(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let ends = Ends::default();
        let log = ends.clone();
        let _child = add(context, way, process.pid, move |_, child, result| {
            child.remove();
            assert!(!child.is_registered());
            log.note(child, result);
        });
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(1));
    });
}

fn a_handler_may_drop_its_own_handle(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let ends = Ends::default();
        let place: Rc<RefCell<Option<Child>>> = Rc::default();
        let (log, handle) = (ends.clone(), Rc::clone(&place));
        let child = add(context, way, process.pid, move |_, child, result| {
            let own = handle.take();
            drop(own);
            log.note(child, result);
        });
        *place.borrow_mut() = Some(child);
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(1));
    });
}

fn a_handler_may_add_the_next_child(kind: BackendKind) {
    either_way(kind, |context, way| {
        fn next(context: &tevent::Context, way: Way, left: i32, ends: &Ends) {
            let pid = sys::fork(|| sys::end(left));
            let ends = ends.clone();
            add(context, way, pid, move |context, child, result| {
                ends.note(child, result);
                if left > 0 {
                    next(context, way, left - 1, &ends);
                }
            })
            .detach();
        }
        let ends = Ends::default();
        next(context, way, 9, &ends);
        context.run().unwrap();
        let codes = ends.0.take().into_iter();
        let codes: Vec<_> = codes.map(|(_, result)| result.unwrap().code()).collect();
        let expected: Vec<_> = (0..10).rev().map(Some).collect();
        assert_eq!(codes, expected);
    });
}

fn a_handler_may_run_a_nested_loop(kind: BackendKind) {
    either_way(kind, |context, way| {
        context.set_nesting_allowed(true);
        let outer = Process::that_exits_with(1);
        let inner = Process::that_exits_with(2);
        let inner_pid = inner.pid;
        let (inner_child, inner_ends) = add_noted(context, way, inner_pid);
        let ends = Ends::default();
        let log = ends.clone();
        let _child = add(context, way, outer.pid, move |context, child, result| {
            assert!(child.is_registered(), "until the handler returns");
            inner.end();
            context.run_until(|| !inner_child.is_registered()).unwrap();
            log.note(child, result);
        });
        outer.end();
        context.run().unwrap();
        assert_eq!(inner_ends.status_of(inner_pid).code(), Some(2));
        assert_eq!(ends.status_of(outer.pid).code(), Some(1));
    });
}

fn a_handler_may_reinitialise(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let other = Process::that_exits_with(0);
        let (other_child, no_ends) = add_noted(context, way, other.pid);
        let ends = Ends::default();
        let log = ends.clone();
        let _child = add(context, way, process.pid, move |context, child, result| {
            context.reinitialise().unwrap();
            assert!(!child.is_registered());
            log.note(child, result);
        });
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(1));
        assert!(!other_child.is_registered());
        other.end();
        sys::assert_succeeds(other.pid);
        assert_eq!(no_ends.count(), 0);
    });
}

fn a_handler_that_panics_is_not_called_again(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let child = add(context, way, process.pid, |_, _, _| panic!("on purpose"));
        process.end();
        let run = panic::catch_unwind(AssertUnwindSafe(|| context.run()));
        assert!(run.is_err(), "the panic comes through");
        assert!(!child.is_registered());
        context.run().unwrap();
    });
}

fn the_handler_is_dropped_when_it_has_run(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let called = Rc::new(Cell::new(false));
        let owned = Rc::clone(&called);
        let child = add(context, way, process.pid, move |_, _, _| owned.set(true));
        process.end();
        context.run().unwrap();
        assert!(called.get());
        assert_eq!(Rc::strong_count(&called), 1, "though there is a handle");
        drop(child);
    });
}

fn tag_name_and_place_are_there_until_the_end(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let seen = Rc::new(Cell::new(None));
        let place = Rc::clone(&seen);
        let child = add(context, way, process.pid, move |_, child, _| {
            place.set(Some((child.tag(), child.name(), child.location())));
        });
        assert_eq!((child.tag(), child.name()), (0, None));
        let said = format!("{child:?}");
        assert_eq!(said, format!("Child {{ pid: {}, .. }}", process.pid));
        let said = format!("{:?}", child.wait());
        assert_eq!(said, format!("ChildEnd {{ pid: {}, .. }}", process.pid));
        child.set_tag(3);
        child.set_name("worker");
        let location = child.location().expect("it is registered");
        process.end();
        context.run().unwrap();
        let name = Some("worker".to_owned());
        assert_eq!(seen.take(), Some((3, name, Some(location))));
        assert_eq!((child.tag(), child.name()), (0, None));
        assert_eq!(child.location(), None);
    });
}

fn the_place_is_where_it_was_added(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (added, lines) = match way {
            Way::PidFd => {
                let first = line!();
                let added = context.add_child(process.pid, |_, _, _| ());
                (added, first..line!())
            }
            Way::Sigchld => sys::without_descriptors(|| {
                let first = line!();
                let added = context.add_child(process.pid, |_, _, _| ());
                (added, first..line!())
            }),
        };
        let child = added.unwrap();
        let location = child.location().expect("it is registered");
        assert_eq!(location.file(), file!());
        assert!(lines.contains(&location.line()), "{location}");
        process.end();
        context.run().unwrap();
    });
}
