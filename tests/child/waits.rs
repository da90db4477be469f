//! Ends that tasks wait for.

use crate::process::{self, sys, tests};
use crate::{Process, Way, add, add_noted, assert_no_child, either_way, run_what_is_ready};
use futures_lite::future::poll_once;
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tevent::{BackendKind, Child, Context, Task};

pub const TESTS: &[process::Test] = tests![
    a_task_is_told_how_a_child_has_ended,
    a_task_is_told_of_a_deadly_signal,
    the_handler_is_called_first,
    several_tasks_are_told,
    a_wait_after_the_end_is_told_again,
    a_wait_that_is_dropped_loses_nothing,
    a_dropped_wait_wakes_nobody,
    a_wait_with_a_timeout,
    a_wait_for_a_removed_event_is_an_error,
    a_wait_on_a_context_that_is_gone_is_an_error,
    a_wait_on_a_reinitialised_context_is_an_error,
    a_wait_for_a_child_that_somebody_else_has_reaped_is_an_error,
    a_wait_in_a_forked_process_is_an_error,
    a_wait_ends_although_the_handler_panics,
    a_task_adds_a_child_while_its_context_is_there,
];

/// A child whose handler does nothing.
fn waited(context: &Context, way: Way, pid: u32) -> Rc<Child> {
    Rc::new(add(context, way, pid, |_, _, _| ()))
}

fn wait(context: &Context, child: &Rc<Child>) -> Task<io::Result<ExitStatus>> {
    let child = Rc::clone(child);
    context.spawn(async move { child.wait().await })
}

#[track_caller]
fn result(context: &Context, task: Task<io::Result<ExitStatus>>) -> io::Result<ExitStatus> {
    context
        .block_on(task)
        .unwrap()
        .expect("it wasn't cancelled")
}

fn a_task_is_told_how_a_child_has_ended(kind: BackendKind) {
    either_way(kind, |context, way| {
        for code in [0, 1, 3, 255] {
            let process = Process::that_exits_with(code);
            let child = waited(context, way, process.pid);
            let task = wait(context, &child);
            run_what_is_ready(context);
            assert!(!task.is_finished(), "the process is there");
            process.end();
            let status = result(context, task).unwrap();
            assert_eq!((status.code(), status.signal()), (Some(code), None));
        }
    });
}

fn a_task_is_told_of_a_deadly_signal(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that(|| sys::raise(tevent::Signum::SIGTERM));
        let child = waited(context, way, process.pid);
        let task = wait(context, &child);
        process.end();
        let status = result(context, task).unwrap();
        assert_eq!(
            (status.code(), status.signal()),
            (None, Some(libc::SIGTERM))
        );
        assert!(!status.core_dumped());
    });
}

fn the_handler_is_called_first(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let (child, ends) = add_noted(context, way, process.pid);
        let child = Rc::new(child);
        let (waiting, seen) = (Rc::clone(&child), ends.clone());
        let task = context.spawn(async move {
            let status = waiting.wait().await.unwrap();
            (status.code(), seen.count())
        });
        process.end();
        let told = context.block_on(task).unwrap();
        assert_eq!(told, Ok((Some(3), 1)));
        assert_eq!(ends.status_of(process.pid).code(), Some(3));
    });
}

fn several_tasks_are_told(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let tasks = [(); 10].map(|()| wait(context, &child));
        run_what_is_ready(context);
        process.end();
        for task in tasks {
            assert_eq!(result(context, task).unwrap().code(), Some(3));
        }
    });
}

fn a_wait_after_the_end_is_told_again(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        process.end();
        context.run().unwrap();
        for _ in 0..3 {
            let status = context.block_on(child.wait()).unwrap();
            assert_eq!(status.unwrap().code(), Some(3));
        }
    });
}

fn a_wait_that_is_dropped_loses_nothing(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let task = wait(context, &child);
        run_what_is_ready(context);
        drop(task);
        process.end();
        let status = context.block_on(child.wait()).unwrap();
        assert_eq!(status.unwrap().code(), Some(3));
    });
}

fn a_dropped_wait_wakes_nobody(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let other = wait(context, &child);
        let polls = Rc::new(Cell::new(0));
        let (waits, counter) = (Rc::clone(&child), Rc::clone(&polls));
        let _task = context.spawn(async move {
            assert!(poll_once(waits.wait()).await.is_none());
            poll_fn(|_| {
                counter.set(counter.get() + 1);
                Poll::<()>::Pending
            })
            .await;
        });
        run_what_is_ready(context);
        process.end();
        assert_eq!(result(context, other).unwrap().code(), Some(3));
        run_what_is_ready(context);
        assert_eq!(polls.get(), 1, "it has begun to wait for something else");
    });
}

fn a_wait_with_a_timeout(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let limited = context.timeout(Duration::from_millis(1), child.wait());
        assert!(context.block_on(limited).unwrap().is_err());
        process.end();
        let status = context.block_on(child.wait()).unwrap();
        assert_eq!(status.unwrap().code(), Some(3));
    });
}

#[track_caller]
fn assert_over(result: io::Result<ExitStatus>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
}

fn a_wait_for_a_removed_event_is_an_error(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let task = wait(context, &child);
        run_what_is_ready(context);
        child.remove();
        assert_over(result(context, task));
        assert_over(context.block_on(child.wait()).unwrap());
        process.end();
        assert_eq!(sys::reap(process.pid), sys::Status::Exited(3));
    });
}

fn a_wait_on_a_context_that_is_gone_is_an_error(kind: BackendKind) {
    either_way(kind, |context, way| {
        let gone = process::context(kind);
        let process = Process::that_exits_with(3);
        let child = waited(&gone, way, process.pid);
        // In a task of this context.
        let task = wait(context, &child);
        run_what_is_ready(context);
        drop(gone);
        assert_over(result(context, task));
        process.end();
        sys::reap(process.pid);
    });
}

fn a_wait_on_a_reinitialised_context_is_an_error(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        context.defer(|context| context.reinitialise().unwrap());
        // The loop's own future goes on, and hears of it.
        assert_over(context.block_on(child.wait()).unwrap());
        process.end();
        sys::reap(process.pid);
    });
}

fn a_wait_for_a_child_that_somebody_else_has_reaped_is_an_error(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let (child, ends) = add_noted(context, way, process.pid);
        let child = Rc::new(child);
        let tasks = [(); 2].map(|()| wait(context, &child));
        run_what_is_ready(context);
        process.end();
        sys::reap(process.pid);
        let errors = tasks.map(|task| result(context, task).unwrap_err());
        let told = ends.result_of(process.pid).unwrap_err();
        for error in errors {
            assert_no_child(&error);
            assert_eq!(
                error.to_string(),
                told.to_string(),
                "as the handler is told"
            );
        }
    });
}

fn a_wait_in_a_forked_process_is_an_error(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = waited(context, way, process.pid);
        let task = wait(context, &child);
        run_what_is_ready(context);
        match context.fork().unwrap() {
            tevent::Fork::Child => process::end_with(|| {
                child.remove();
                assert_over(result(context, task));
            }),
            tevent::Fork::Parent(forked) => sys::assert_succeeds(forked),
        }
        process.end();
        assert_eq!(result(context, task).unwrap().code(), Some(3));
    });
}

fn a_wait_ends_although_the_handler_panics(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let child = Rc::new(add(context, way, process.pid, |_, _, _| {
            panic!("on purpose")
        }));
        let task = wait(context, &child);
        process.end();
        let run = || context.run();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("the panic");
        assert_eq!(result(context, task).unwrap().code(), Some(3));
    });
}

fn a_task_adds_a_child_while_its_context_is_there(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(3);
        let (weak, pid) = (context.downgrade(), process.pid);
        let task = context.spawn(async move {
            let add = || weak.add_child(pid, |_, _, _| ());
            let added = match way {
                Way::PidFd => add(),
                Way::Sigchld => sys::without_descriptors(add),
            };
            let child = added.expect("it is a child");
            let place = child.location().expect("it is there");
            assert_eq!(place.file(), file!(), "not inside the library");
            child.wait().await
        });
        run_what_is_ready(context);
        process.end();
        assert_eq!(result(context, task).unwrap().code(), Some(3));
    });
    let process = Process::that_exits_with(3);
    let gone = crate::process::context(kind).downgrade();
    let refused = gone.add_child(process.pid, |_, _, _| unreachable!());
    let error = refused.expect_err("nobody would tell it");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    process.end();
    assert_eq!(sys::reap(process.pid), sys::Status::Exited(3));
}
