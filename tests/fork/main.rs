//! `fork`: parent and child go on, and neither touches what is the other's.

mod descriptors;
mod handlers;
mod kernel_set;
mod matrix;
mod reinitialise;
mod requests;
mod signals;
mod sources;
mod tasks;

#[path = "../process/mod.rs"]
mod process;

use process::sys;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Context, FdFlags, Fork, SignalFlags, Signum};

fn main() {
    process::main(&[
        sources::TESTS,
        kernel_set::TESTS,
        handlers::TESTS,
        signals::TESTS,
        reinitialise::TESTS,
        descriptors::TESTS,
        tasks::TESTS,
        requests::TESTS,
        matrix::TESTS,
    ])
}

/// By whom the process is forked.
#[derive(Clone, Copy, Debug)]
enum By {
    Context,
    Somebody,
}

const BY: [By; 2] = [By::Context, By::Somebody];

/// Forks. In the child the result is `None`.
#[track_caller]
fn fork(context: &Context, by: By) -> Option<u32> {
    match by {
        By::Somebody => sys::is_child_of_foreign_fork(),
        By::Context => match context.fork().expect("a child") {
            Fork::Parent(pid) => Some(pid),
            Fork::Child => None,
        },
    }
}

/// Does `work` in a forked child, which ends with it, and waits for that.
#[track_caller]
fn in_child(context: &Context, by: By, work: impl FnOnce()) {
    let pid = match fork(context, by) {
        Some(pid) => pid,
        None => process::end_with(work),
    };
    sys::assert_succeeds(pid);
}

/// Something that a handler says to the code outside.
#[derive(Clone, Default)]
struct Flag(Rc<Cell<u32>>);

impl Flag {
    fn raise(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn count(&self) -> u32 {
        self.0.get()
    }

    fn is_up(&self) -> bool {
        self.count() > 0
    }
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

/// Uses one event of each kind, from scratch.
fn use_one_of_each(context: &Context, signum: Signum, flags: SignalFlags) {
    let called = Flag::default();
    let (ours, theirs) = sys::pair();
    drop(theirs);
    let flag = called.clone();
    let _fd = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
        event.remove();
        flag.raise();
    });
    let flag = called.clone();
    let _timer = context.add_timer(context.now(), move |_, _| flag.raise());
    let flag = called.clone();
    context.defer(move |_| flag.raise());
    let flag = called.clone();
    let flags = flags | SignalFlags::RESETHAND;
    let _signal = context.add_signal(signum, flags, move |_, _, _| flag.raise());
    sys::raise(signum);
    context.run().unwrap();
    assert_eq!(called.count(), 4);
}
