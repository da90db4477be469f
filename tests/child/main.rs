//! The ends of child processes: every one reported once, and nobody else's touched.

mod ends;
mod forks;
mod handles;
mod others;
mod waits;

#[path = "../process/mod.rs"]
mod process;

use process::sys;
use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::Location;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Child, Context, OsError, Signum};

fn main() {
    process::main(&[
        ends::TESTS,
        others::TESTS,
        handles::TESTS,
        waits::TESTS,
        forks::TESTS,
    ])
}

/// By what a child is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    PidFd,
    /// What is left when the process has no descriptor to spare.
    Sigchld,
}

/// Does `check` with either way. It has to reap all its children, and whatever it has opened is
/// closed with the context.
#[track_caller]
fn either_way(kind: BackendKind, check: impl Fn(&Context, Way)) {
    for way in [Way::PidFd, Way::Sigchld] {
        // Part of what a failure says.
        println!("{}: by {way:?}", Location::caller());
        let descriptors = sys::open_descriptors();
        let handler = sys::handler_of(Signum::SIGCHLD);
        let context = process::context(kind);
        check(&context, way);
        drop(context);
        assert!(!sys::has_children(), "a child is left");
        assert_eq!(sys::open_descriptors(), descriptors, "all are closed");
        assert_eq!(sys::handler_of(Signum::SIGCHLD), handler, "restored");
    }
}

#[track_caller]
fn add(
    context: &Context,
    way: Way,
    pid: u32,
    handler: impl FnOnce(&Context, &Child, io::Result<ExitStatus>) + 'static,
) -> Child {
    let before = sys::count_of_pidfds();
    let child = match way {
        Way::PidFd => context.add_child(pid, handler),
        Way::Sigchld => sys::without_descriptors(|| context.add_child(pid, handler)),
    };
    let child = child.expect("an event");
    let opened = sys::count_of_pidfds() - before;
    assert_eq!(opened, usize::from(way == Way::PidFd), "by {way:?}");
    child
}

/// Adds a child whose end is noted.
#[track_caller]
fn add_noted(context: &Context, way: Way, pid: u32) -> (Child, Ends) {
    let ends = Ends::default();
    let log = ends.clone();
    let child = add(context, way, pid, move |_, child, result| {
        log.note(child, result)
    });
    (child, ends)
}

/// Whose end, and what was said of it.
type End = (u32, io::Result<ExitStatus>);

/// The ends that handlers were told of.
#[derive(Clone, Default)]
struct Ends(Rc<RefCell<Vec<End>>>);

impl Ends {
    fn note(&self, child: &Child, result: io::Result<ExitStatus>) {
        self.0.borrow_mut().push((child.pid(), result));
    }

    fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// The status of the one child that was reported, which is `pid`.
    #[track_caller]
    fn status_of(&self, pid: u32) -> ExitStatus {
        self.result_of(pid).expect("a status")
    }

    #[track_caller]
    fn assert_unknown(&self, pid: u32) {
        assert_no_child(
            &self
                .result_of(pid)
                .expect_err("nobody knows how it has ended"),
        );
    }

    #[track_caller]
    fn result_of(&self, pid: u32) -> io::Result<ExitStatus> {
        let mut ends = self.0.take();
        assert_eq!(ends.len(), 1, "one end is reported once: {ends:?}");
        let (whose, result) = ends.remove(0);
        assert_eq!(whose, pid, "the child that was added");
        result
    }
}

/// The error is `ECHILD`, and says which call.
#[track_caller]
fn assert_no_child(error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let inner: &OsError = inner.unwrap_or_else(|| panic!("not of a system call: {error}"));
    assert_eq!(inner.error().raw_os_error(), Some(libc::ECHILD), "{error}");
}

/// A child that ends when it is told to, or by a signal.
struct Process {
    pid: u32,
    to_child: UnixStream,
}

impl Process {
    fn that_exits_with(code: i32) -> Process {
        Process::that(move || sys::end(code))
    }

    fn that(ends: impl FnOnce()) -> Process {
        let (to_child, to_parent) = sys::channel();
        let pid = sys::fork(|| {
            sys::await_word(&to_parent);
            ends();
        });
        Process { pid, to_child }
    }

    fn end(&self) {
        sys::tell(&self.to_child);
    }

    /// The process is over, and nobody has waited for it.
    #[track_caller]
    fn end_and_await(&self) {
        self.end();
        await_end(self.pid);
    }
}

#[track_caller]
fn await_end(pid: u32) {
    let ended = sys::wait_for_exit(pid, Duration::from_secs(60));
    assert!(ended, "{pid} should end");
}

/// Makes turns for as long as there is something to do at once. Returns how many handlers ran.
#[track_caller]
fn run_what_is_ready(context: &Context) -> usize {
    let before = context.wait_timeout();
    context.set_wait_timeout(Some(Duration::ZERO));
    let mut ran = 0;
    while context.run_once().expect("a turn") {
        ran += 1;
    }
    context.set_wait_timeout(before);
    ran
}
