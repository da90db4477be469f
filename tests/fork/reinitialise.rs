//! Starting over: everything goes, and what is left is a usable, empty context.

use crate::process::{self, context, sys, tests};
use crate::{BY, Flag, fork, in_child, run_what_is_ready, use_one_of_each};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, FdFlags, Nesting, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    every_event_is_dropped_with_its_handler_and_its_source,
    close_callbacks_run_once_in_the_child_and_once_in_the_parent,
    signal_dispositions_are_restored,
    handles_of_former_events_do_nothing,
    the_context_is_usable_afterwards,
    the_permission_to_nest_stays_and_the_hook_goes,
    the_wait_timeout_and_the_number_of_the_descriptor_stay,
    it_leaks_no_descriptors,
    generations_of_children_leak_no_descriptors_and_leave_no_processes,
    remote_handles_of_before_go_on_working,
    what_is_leaked_is_neither_dropped_nor_closed,
    who_leaks_in_a_handler_goes_on_in_the_loop,
    a_child_that_exits_at_once_runs_nothing_of_its_parent,
];

struct Guard(Flag);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Fills a context with an event of each kind. The flag counts handlers that were dropped.
fn fill(context: &Context) -> Flag {
    let dropped = Flag::default();
    let guard = || Guard(dropped.clone());
    let (ours, theirs) = sys::pair();
    let captured = guard();
    context
        .add_fd(ours, FdFlags::READ, move |_, _, _| {
            let _both = (&captured, &theirs);
        })
        .unwrap()
        .detach();
    let captured = guard();
    context
        .add_timer_after(Duration::from_secs(3600), move |_, _| {
            let _captured = &captured;
        })
        .detach();
    let captured = guard();
    context.defer(move |_| drop(captured));
    let captured = guard();
    let immediate = context.add_immediate(move |_, _| {
        let _captured = &captured;
    });
    immediate.schedule();
    immediate.detach();
    let captured = guard();
    context
        .add_signal(Signum::SIGUSR1, SignalFlags::SIGINFO, move |_, _, _| {
            let _captured = &captured;
        })
        .unwrap()
        .detach();
    dropped
}

const FILLED: u32 = 5;

fn every_event_is_dropped_with_its_handler_and_its_source(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let dropped = fill(&context);
        let check = || {
            let before = sys::open_descriptors().len();
            context.reinitialise().unwrap();
            assert_eq!(dropped.count(), FILLED, "handlers, {by:?}");
            assert_eq!(before - sys::open_descriptors().len(), 2, "the sockets");
            context.run().unwrap(); // returns, as nothing is left
            assert_eq!(context.next_deadline(), None);
        };
        in_child(&context, by, check);
        assert_eq!(dropped.count(), 0, "the parent's are there");
        check();
    }
}

fn close_callbacks_run_once_in_the_child_and_once_in_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let closed = Flag::default();
        let flag = closed.clone();
        let (ours, _theirs) = sys::pair();
        let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ()).unwrap();
        event.on_close(move |_stream| flag.raise());
        event.detach();
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert_eq!(closed.count(), 1, "{by:?}");
            context.reinitialise().unwrap();
            assert_eq!(closed.count(), 1, "{by:?}");
        });
        assert_eq!(closed.count(), 0, "{by:?}");
        drop(context);
        assert_eq!(closed.count(), 1, "{by:?}");
    }
}

fn signal_dispositions_are_restored(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        sys::set_handler(Signum::SIGUSR2, libc::SIG_IGN);
        for signum in [Signum::SIGUSR1, Signum::SIGUSR2] {
            let signal = context.add_signal(signum, SignalFlags::empty(), |_, _, _| ());
            signal.unwrap().detach();
        }
        let handled = sys::handler_of(Signum::SIGUSR1);
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_DFL);
            assert_eq!(sys::handler_of(Signum::SIGUSR2), libc::SIG_IGN);
            sys::assert_masks_are_clean();
        });
        assert_eq!(sys::handler_of(Signum::SIGUSR1), handled, "the parent's");
    }
}

fn handles_of_former_events_do_nothing(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = sys::pair();
    let fd = context.add_fd(ours, FdFlags::READ, |_, _, _| ()).unwrap();
    let timer = context.add_timer_after(Duration::ZERO, |_, _| unreachable!());
    let immediate = context.add_immediate(|_, _| unreachable!());
    let signal = context
        .add_signal(Signum::SIGUSR1, SignalFlags::empty(), |_, _, _| ())
        .unwrap();
    drop(theirs);
    context.reinitialise().unwrap();
    // What is added now may take the places of what was.
    let dropped = fill(&context);
    assert!(!fd.is_registered() && !timer.is_registered());
    assert!(!immediate.is_registered() && !signal.is_registered());
    fd.set_flags(FdFlags::READ);
    assert_eq!(fd.flags(), FdFlags::empty());
    assert!(!timer.set_deadline(Instant::now()));
    assert!(!immediate.schedule());
    drop((fd, timer, immediate, signal));
    run_what_is_ready(&context);
    assert_eq!(dropped.count(), 2, "only the immediates have run");
}

fn the_context_is_usable_afterwards(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        fill(&context);
        in_child(&context, by, || {
            for _ in 0..3 {
                context.reinitialise().unwrap();
                use_one_of_each(&context, Signum::SIGUSR1, SignalFlags::SIGINFO);
            }
        });
    }
}

fn the_permission_to_nest_stays_and_the_hook_goes(kind: BackendKind) {
    for allowed in [false, true] {
        let context = context(kind);
        context.set_nesting_allowed(allowed);
        let told = Flag::default();
        let flag = told.clone();
        context.set_nesting_hook(move |_: &Context, _: Nesting| flag.raise());
        context.reinitialise().unwrap();
        let done = Flag::default();
        let flag = done.clone();
        context.defer(move |context| {
            context.defer(|_| ());
            match context.run_once() {
                Ok(ran) => assert!(ran && allowed),
                Err(error) => assert!(error.kind() == io::ErrorKind::Deadlock && !allowed),
            }
            flag.raise();
        });
        context.run().unwrap();
        assert!(done.is_up());
        assert_eq!(told.count(), 0, "the hook is gone");
    }
}

fn the_wait_timeout_and_the_number_of_the_descriptor_stay(kind: BackendKind) {
    let context = context(kind);
    let timeout = Some(Duration::from_secs(77));
    context.set_wait_timeout(timeout);
    let number = context.as_raw_fd();
    context.reinitialise().unwrap();
    assert_eq!(context.wait_timeout(), timeout);
    assert_eq!(context.as_raw_fd(), number);
}

fn it_leaks_no_descriptors(kind: BackendKind) {
    let context = context(kind);
    let empty = sys::open_descriptors();
    for _ in 0..3 {
        fill(&context);
        context.reinitialise().unwrap();
        assert_eq!(sys::open_descriptors(), empty);
    }
    for by in BY {
        fill(&context);
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert_eq!(sys::open_descriptors(), empty, "{by:?}");
        });
        in_child(&context, by, || {
            // Without it, but used.
            let before = sys::open_descriptors();
            run_what_is_ready(&context);
            assert_eq!(sys::open_descriptors(), before, "{by:?}");
        });
        context.reinitialise().unwrap();
    }
}

fn generations_of_children_leak_no_descriptors_and_leave_no_processes(kind: BackendKind) {
    fn generation(context: &Context, left: u32, descriptors: usize) {
        context.reinitialise().unwrap();
        fill(context);
        assert_eq!(sys::open_descriptors().len(), descriptors);
        if left > 0 {
            for by in BY {
                in_child(context, by, || generation(context, left - 1, descriptors));
            }
        }
        assert!(!sys::has_children());
    }
    let context = context(kind);
    fill(&context);
    generation(&context, 4, sys::open_descriptors().len());
}

fn remote_handles_of_before_go_on_working(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    let before = std::sync::Arc::new(());
    let captured = std::sync::Arc::clone(&before);
    remote.schedule(move |_| unreachable!("{captured:?} was dropped"));
    context.reinitialise().unwrap();
    assert_eq!(std::sync::Arc::strong_count(&before), 1, "it was dropped");
    assert_eq!(run_what_is_ready(&context), 0);
    assert!(remote.schedule(|context| context.stop()));
    assert!(sys::is_readable(&context));
    context.run_until(|| false).unwrap();
}

fn what_is_leaked_is_neither_dropped_nor_closed(kind: BackendKind) {
    for (by, starts_over) in BY.into_iter().flat_map(|by| [(by, false), (by, true)]) {
        let context = context(kind);
        let dropped = fill(&context);
        let closed = Flag::default();
        let flag = closed.clone();
        let (ours, mut theirs) = sys::pair();
        let ours = Rc::new(ours);
        let number = ours.as_raw_fd();
        let reader = context.add_fd(Rc::clone(&ours), FdFlags::READ, |_, _, _| unreachable!());
        let reader = reader.unwrap();
        reader.on_close(move |_stream| flag.raise());
        let writer = context.add_fd(ours, FdFlags::WRITE, |_, _, _| unreachable!());
        writer.unwrap().detach();
        let handled = sys::handler_of(Signum::SIGUSR1);
        in_child(&context, by, || {
            let open = sys::open_descriptors();
            let mut left = context.leak_events();
            left.sort_unstable();
            assert_eq!(left.len(), 2, "each once: {left:?}");
            assert!(left.contains(&number), "{left:?}");
            assert_eq!(sys::open_descriptors(), open, "{by:?}");
            assert!(left.iter().all(|fd| open.contains(fd)), "{left:?}");
            assert!(!reader.is_registered());
            reader.set_flags(FdFlags::READ);
            theirs.write_all(b"for nobody").unwrap();
            if starts_over {
                context.reinitialise().unwrap();
            }
            assert_eq!(sys::handler_of(Signum::SIGUSR1), libc::SIG_DFL);
            sys::assert_masks_are_clean();
            assert_eq!(run_what_is_ready(&context), 0);
            for _ in 0..2 {
                use_one_of_each(&context, Signum::SIGUSR1, SignalFlags::SIGINFO);
                assert!(context.leak_events().is_empty());
            }
            assert_eq!(dropped.count() + closed.count(), 0, "{by:?}");
        });
        assert_eq!(sys::handler_of(Signum::SIGUSR1), handled, "the parent's");
        assert!(reader.is_registered(), "the parent's");
        assert_eq!(dropped.count() + closed.count(), 0, "{by:?}");
        assert_eq!(context.leak_events().len(), 2);
        assert_eq!(run_what_is_ready(&context), 0, "the kernel's set is empty");
    }
}

fn who_leaks_in_a_handler_goes_on_in_the_loop(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let parent = std::process::id();
        let dropped = Flag::default();
        let guard = Guard(dropped.clone());
        let (ours, theirs) = sys::pair();
        let number = ours.as_raw_fd();
        let child = Rc::new(Cell::new(None));
        let slot = Rc::clone(&child);
        let event = context.add_fd(ours, FdFlags::READ, move |context, event, _| {
            let _captured = &guard;
            slot.set(fork(context, by));
            match slot.get() {
                Some(_) => event.remove(),
                None => {
                    assert_eq!(context.leak_events(), [number]);
                    context.reinitialise().unwrap();
                }
            }
        });
        event.unwrap().detach();
        drop(theirs);
        assert!(context.run_once().unwrap());
        if std::process::id() != parent {
            process::end_with(|| {
                use_one_of_each(&context, Signum::SIGUSR1, SignalFlags::empty());
                assert!(sys::is_open(number));
                assert_eq!(dropped.count(), 0);
            });
        }
        sys::assert_succeeds(child.get().expect("the parent knows its child"));
        assert_eq!(dropped.count(), 1, "the parent has removed it");
    }
}

fn a_child_that_exits_at_once_runs_nothing_of_its_parent(kind: BackendKind) {
    extern "C" fn exit_otherwise() {
        tevent::exit_at_once(9);
    }
    let context = context(kind);
    sys::at_exit(exit_otherwise);
    for by in BY {
        let Some(pid) = fork(&context, by) else {
            tevent::exit_at_once(3);
        };
        assert_eq!(sys::reap(pid), sys::Status::Exited(3), "{by:?}");
        let Some(pid) = fork(&context, by) else {
            std::process::exit(3);
        };
        assert_eq!(sys::reap(pid), sys::Status::Exited(9), "it is registered");
    }
}
