//! Every end is reported once, as it was.

use crate::process::{self, sys, tests};
use crate::{Ends, Process, add, add_noted, either_way, run_what_is_ready};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Backend, BackendKind, Context, FdFlags, Readiness, ReadyList, Signum, Token};

pub const TESTS: &[process::Test] = tests![
    the_exit_code_is_reported,
    a_death_by_signal_is_reported,
    the_core_flag_is_reported,
    an_end_before_the_event_was_added_is_reported,
    the_end_of_an_executed_program_is_reported,
    many_children_are_each_reported_once_with_their_own_status,
    many_children_that_ended_before_are_each_reported_once,
    a_stopped_child_has_not_ended,
    a_child_that_runs_keeps_the_loop_waiting,
    nothing_is_called_again_after_the_end,
    a_backend_without_room_for_a_pidfd_leaves_no_child_unreaped,
];

fn the_exit_code_is_reported(kind: BackendKind) {
    either_way(kind, |context, way| {
        for code in [0, 1, 3, 127, 255] {
            let process = Process::that_exits_with(code);
            let (_child, ends) = add_noted(context, way, process.pid);
            process.end();
            context.run().unwrap();
            let status = ends.status_of(process.pid);
            assert_eq!((status.code(), status.signal()), (Some(code), None));
            assert_eq!(status.success(), code == 0);
        }
    });
}

fn a_death_by_signal_is_reported(kind: BackendKind) {
    either_way(kind, |context, way| {
        for signum in [Signum::SIGTERM, Signum::SIGHUP, Signum::SIGUSR1] {
            let process = Process::that_exits_with(0);
            let (_child, ends) = add_noted(context, way, process.pid);
            sys::kill(process.pid, signum);
            context.run().unwrap();
            let status = ends.status_of(process.pid);
            assert_eq!(status.signal(), Some(signum.number()));
            assert_eq!(status.code(), None);
            assert!(!status.core_dumped(), "{signum} leaves no core");
        }
    });
}

/// Whether there is a core depends on the system, so the same child is looked at before.
fn the_core_flag_is_reported(kind: BackendKind) {
    let folder = std::env::temp_dir().join(format!("tevent-core-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder for cores");
    either_way(kind, |context, way| {
        for limit in [0, 1 << 20] {
            let process = Process::that(|| {
                std::env::set_current_dir(&folder).expect("the folder");
                sys::limit_core(limit);
                std::process::abort();
            });
            process.end_and_await();
            let has_core = sys::has_left_a_core(process.pid);
            let (_child, ends) = add_noted(context, way, process.pid);
            context.run().unwrap();
            let status = ends.status_of(process.pid);
            assert_eq!(status.signal(), Some(libc::SIGABRT));
            assert_eq!(status.core_dumped(), has_core, "core limit {limit}");
        }
    });
    fs::remove_dir_all(&folder).expect("the folder");
}

fn an_end_before_the_event_was_added_is_reported(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(4);
        process.end_and_await();
        let (_child, ends) = add_noted(context, way, process.pid);
        assert_eq!(ends.count(), 0, "by the loop, not by adding");
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(4));
    });
}

fn the_end_of_an_executed_program_is_reported(kind: BackendKind) {
    either_way(kind, |context, way| {
        let mut sh = Command::new("sh");
        let pid = sh.args(["-c", "exit 5"]).spawn().expect("sh").id();
        let (_child, ends) = add_noted(context, way, pid);
        context.run().unwrap();
        assert_eq!(ends.status_of(pid).code(), Some(5));
    });
}

const MANY: i32 = 200;

fn many_children_are_each_reported_once_with_their_own_status(kind: BackendKind) {
    either_way(kind, |context, way| {
        let (start, starter) = sys::channel();
        let mut expected = BTreeMap::new();
        let ends = Ends::default();
        for number in 0..MANY {
            let pid = sys::fork(|| {
                // All end at once, when the other side is closed.
                sys::close_in_child(&start);
                sys::is_readable_within(&starter, std::time::Duration::from_secs(60));
                sys::end(number);
            });
            expected.insert(pid, number);
            let log = ends.clone();
            add(context, way, pid, move |_, child, result| {
                log.note(child, result);
            })
            .detach();
        }
        drop(start);
        context.run().unwrap();
        assert_all_reported(&ends, expected);
    });
}

fn many_children_that_ended_before_are_each_reported_once(kind: BackendKind) {
    either_way(kind, |context, way| {
        let expected: BTreeMap<u32, i32> = (0..MANY)
            .map(|number| (sys::fork(|| sys::end(number)), number))
            .collect();
        let ends = Ends::default();
        for &pid in expected.keys() {
            crate::await_end(pid);
            let log = ends.clone();
            add(context, way, pid, move |_, child, result| {
                log.note(child, result);
            })
            .detach();
        }
        context.run().unwrap();
        assert_all_reported(&ends, expected);
    });
}

#[track_caller]
fn assert_all_reported(ends: &Ends, mut expected: BTreeMap<u32, i32>) {
    for (pid, result) in ends.0.take() {
        let code = result.expect("a status").code();
        assert_eq!(code, expected.remove(&pid), "{pid}, reported once");
    }
    assert!(expected.is_empty(), "not reported: {expected:?}");
}

fn a_stopped_child_has_not_ended(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(1);
        let (_child, ends) = add_noted(context, way, process.pid);
        sys::kill(process.pid, Signum::new(libc::SIGTSTP).unwrap());
        run_what_is_ready(context);
        sys::kill(process.pid, Signum::new(libc::SIGCONT).unwrap());
        run_what_is_ready(context);
        assert_eq!(ends.count(), 0);
        process.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(process.pid).code(), Some(1));
    });
}

fn a_child_that_runs_keeps_the_loop_waiting(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (_child, ends) = add_noted(context, way, process.pid);
        // In the second way it looks once for one that ended before.
        let looks = run_what_is_ready(context);
        assert!(looks <= 1, "it doesn't spin: {looks}");
        assert_eq!(ends.count(), 0);
        process.end_and_await();
        context.run().unwrap();
        assert!(ends.status_of(process.pid).success());
    });
}

fn nothing_is_called_again_after_the_end(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(context, way, process.pid);
        process.end();
        context.run().unwrap();
        assert_eq!(ends.count(), 1);
        assert!(!child.is_registered(), "the event is over");
        sys::raise(Signum::SIGCHLD);
        assert_eq!(run_what_is_ready(context), 0);
        assert_eq!(ends.count(), 1);
    });
}

/// A backend that has room for the wake-up descriptor and nothing else.
struct NoRoom(Option<(RawFd, Token)>);

impl Backend for NoRoom {
    fn name(&self) -> &str {
        "no room"
    }

    fn add(&mut self, fd: RawFd, token: Token, _: FdFlags) -> io::Result<()> {
        if self.0.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0 = Some((fd, token));
        Ok(())
    }

    fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn remove(&mut self, _: RawFd, _: Token) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        let (fd, token) = self.0.expect("the wake-up descriptor comes first");
        if sys::is_readable_within(&fd, timeout.unwrap_or(Duration::from_secs(20))) {
            ready.push(token, Readiness::READABLE);
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.0 = None;
        Ok(())
    }
}

fn a_backend_without_room_for_a_pidfd_leaves_no_child_unreaped(_: BackendKind) {
    let builder = Context::builder().custom_backend(Box::new(NoRoom(None)));
    let context = builder.wait_timeout(None).build().unwrap();
    let process = Process::that_exits_with(7);
    let pid = process.pid;
    let code = Rc::new(Cell::new(None));
    let seen = Rc::clone(&code);
    let _child = context
        .add_child(pid, move |_, _, status| seen.set(status.unwrap().code()))
        .expect("SIGCHLD does as well");
    process.end();
    context.run().unwrap();
    assert_eq!(code.get(), Some(7));
    assert!(!sys::has_children(), "a child is left");
}
