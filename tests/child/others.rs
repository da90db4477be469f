//! Children that aren't ours to wait for, and those that others have waited for.

use crate::process::{self, sys, tests};
use crate::{Process, Way, add_noted, assert_no_child, await_end, either_way, run_what_is_ready};
use std::cell::Cell;
use std::io;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use tevent::{BackendKind, Context, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_child_of_somebody_else_in_the_process_is_untouched,
    a_process_that_is_no_child_is_refused,
    a_number_that_is_no_process_id_is_refused,
    a_child_that_was_reaped_before_is_refused,
    a_child_that_somebody_else_reaps_is_reported_without_a_status,
    a_child_whose_status_the_system_does_not_keep_is_reported_without_one,
    two_events_for_one_child_are_both_called,
    contexts_on_two_threads_have_their_own_children,
    contexts_on_one_thread_have_their_own_children,
    a_signal_event_for_sigchld_is_called_too,
    sigchld_interrupts_no_system_call_and_comes_for_no_stopped_child,
];

fn a_child_of_somebody_else_in_the_process_is_untouched(kind: BackendKind) {
    either_way(kind, |context, way| {
        let mut sh = Command::new("sh");
        let mut theirs = sh.args(["-c", "exit 6"]).spawn().expect("sh");
        let ours = Process::that_exits_with(7);
        let (_child, ends) = add_noted(context, way, ours.pid);
        await_end(theirs.id());
        run_what_is_ready(context);
        ours.end();
        context.run().unwrap();
        assert_eq!(ends.status_of(ours.pid).code(), Some(7));
        let status = theirs.wait().expect("it is still there to be reaped");
        assert_eq!(status.code(), Some(6));
    });
}

fn a_process_that_is_no_child_is_refused(kind: BackendKind) {
    either_way(kind, |context, _| {
        let refused = |pid: u32| {
            let added = context.add_child(pid, |_, _, _| unreachable!());
            assert_no_child(&added.expect_err("no child of ours"));
        };
        refused(std::process::id());
        refused(unsafe { libc::getppid() } as u32);
        refused(1);
        refused(i32::MAX as u32);
        assert_eq!(run_what_is_ready(context), 0, "nothing is left behind");
    });
}

fn a_number_that_is_no_process_id_is_refused(kind: BackendKind) {
    either_way(kind, |context, _| {
        for number in [0, i32::MAX as u32 + 1, u32::MAX] {
            let added = context.add_child(number, |_, _, _| unreachable!());
            let error = added.expect_err("no process id");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{number}");
            let said = error.to_string();
            assert_eq!(said, format!("{number} is no process id"));
        }
    });
}

fn a_child_that_was_reaped_before_is_refused(kind: BackendKind) {
    either_way(kind, |context, _| {
        let pid = sys::fork(|| ());
        sys::assert_succeeds(pid);
        let added = context.add_child(pid, |_, _, _| unreachable!());
        assert_no_child(&added.expect_err("it is gone"));
    });
}

fn a_child_that_somebody_else_reaps_is_reported_without_a_status(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(context, way, process.pid);
        run_what_is_ready(context);
        process.end();
        sys::assert_succeeds(process.pid);
        context.run().unwrap();
        ends.assert_unknown(process.pid);
        assert!(!child.is_registered());
    });
}

fn a_child_whose_status_the_system_does_not_keep_is_reported_without_one(kind: BackendKind) {
    let before = sys::handler_of(Signum::SIGCHLD);
    sys::set_handler(Signum::SIGCHLD, libc::SIG_IGN);
    let context = process::context(kind);
    let process = Process::that_exits_with(0);
    let (_child, ends) = add_noted(&context, Way::PidFd, process.pid);
    process.end();
    context.run().unwrap();
    ends.assert_unknown(process.pid);
    assert_eq!(
        sys::handler_of(Signum::SIGCHLD),
        libc::SIG_IGN,
        "left alone"
    );
    sys::set_handler(Signum::SIGCHLD, before);
}

fn two_events_for_one_child_are_both_called(kind: BackendKind) {
    either_way(kind, |context, way| {
        let process = Process::that_exits_with(8);
        let (_first, of_first) = add_noted(context, way, process.pid);
        let (_second, of_second) = add_noted(context, way, process.pid);
        process.end();
        context.run().unwrap();
        let results = [&of_first, &of_second].map(|ends| ends.result_of(process.pid));
        let statuses: Vec<_> = results.iter().flatten().collect();
        assert_eq!(statuses.len(), 1, "a status can be had once: {results:?}");
        assert_eq!(statuses[0].code(), Some(8));
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_no_child(error);
        }
    });
}

/// Runs rounds of children in a thread's own context, each child with another code.
fn run_children(context: &Context, codes: [i32; 3]) {
    for _ in 0..20 {
        let left = Rc::new(Cell::new(codes.len()));
        for code in codes {
            let left = Rc::clone(&left);
            let pid = sys::fork(|| sys::end(code));
            let child = context.add_child(pid, move |_, _, result| {
                let status = result.expect("nobody else reaps it");
                assert_eq!(status.code(), Some(code));
                left.set(left.get() - 1);
            });
            child.unwrap().detach();
        }
        context.run().unwrap();
        assert_eq!(left.get(), 0, "all were reported to their own context");
    }
}

fn contexts_on_two_threads_have_their_own_children(kind: BackendKind) {
    for way in [Way::PidFd, Way::Sigchld] {
        println!("by {way:?}");
        let (ready, others_are_ready) = sys::channel();
        let (go, others_go) = sys::channel();
        let threads = [[10, 11, 12], [20, 21, 22]].map(|codes| {
            let ready = ready.try_clone().expect("a descriptor");
            let go = others_go.try_clone().expect("a descriptor");
            thread::spawn(move || {
                let context = process::context(kind);
                sys::tell(&ready);
                sys::await_word(&go);
                run_children(&context, codes);
            })
        });
        // When there are no descriptors left, the contexts have theirs.
        for _ in &threads {
            sys::await_word(&others_are_ready);
        }
        let work = || {
            for _ in 0..threads.len() {
                sys::tell(&go);
            }
            for thread in threads {
                thread.join().expect("no panic");
            }
        };
        match way {
            Way::PidFd => work(),
            Way::Sigchld => sys::without_descriptors(work),
        }
        assert!(!sys::has_children(), "a child is left");
    }
}

fn contexts_on_one_thread_have_their_own_children(kind: BackendKind) {
    either_way(kind, |context, way| {
        let other = process::context(kind);
        let (mine, theirs) = (Process::that_exits_with(1), Process::that_exits_with(2));
        let (_child, my_ends) = add_noted(context, way, mine.pid);
        let (_other_child, their_ends) = add_noted(&other, way, theirs.pid);
        mine.end_and_await();
        theirs.end_and_await();
        context.run().unwrap();
        assert_eq!(my_ends.status_of(mine.pid).code(), Some(1));
        assert_eq!(their_ends.count(), 0, "it is the other context's");
        other.run().unwrap();
        assert_eq!(their_ends.status_of(theirs.pid).code(), Some(2));
    });
}

fn a_signal_event_for_sigchld_is_called_too(kind: BackendKind) {
    either_way(kind, |context, way| {
        let told = Rc::new(Cell::new(false));
        let flag = Rc::clone(&told);
        let _signal = context
            .add_signal(Signum::SIGCHLD, SignalFlags::empty(), move |_, _, _| {
                flag.set(true);
            })
            .unwrap();
        let process = Process::that_exits_with(0);
        let (child, ends) = add_noted(context, way, process.pid);
        process.end();
        context
            .run_until(|| told.get() && !child.is_registered())
            .unwrap();
        assert!(ends.status_of(process.pid).success());
    });
}

fn sigchld_interrupts_no_system_call_and_comes_for_no_stopped_child(kind: BackendKind) {
    let context = process::context(kind);
    let process = Process::that_exits_with(0);
    let (_child, ends) = add_noted(&context, Way::Sigchld, process.pid);
    let flags = sys::disposition(Signum::SIGCHLD).sa_flags;
    let wanted = libc::SA_RESTART | libc::SA_NOCLDSTOP;
    assert_eq!(flags & wanted, wanted);
    process.end();
    context.run().unwrap();
    ends.status_of(process.pid);
}
