//! The kernel's objects: neither process changes the other's, nor takes its wake-ups.

use crate::process::{self, context, sys, tests};
use crate::{BY, Flag, fork, in_child, run_what_is_ready};
use std::cell::Cell;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context, Fd, FdFlags, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    what_a_child_does_never_reaches_the_set_of_its_parent,
    what_the_parent_does_never_reaches_the_set_of_the_child,
    a_context_dropped_in_the_child_leaves_the_set_of_the_parent,
    removing_in_the_child_before_it_ran_leaves_the_set_of_the_parent,
    what_a_handler_wants_after_it_forked_leaves_the_set_of_the_parent,
    signals_and_remote_work_in_the_child_do_not_wake_the_parent,
    a_child_that_leaves_the_loop_does_not_wake_the_parent,
    the_child_takes_no_wakeup_of_the_parent,
    the_number_of_the_descriptor_stays_with_an_instance_of_its_own_behind_it,
    a_signal_makes_the_descriptor_of_the_child_readable,
    remote_work_makes_the_descriptor_of_the_child_readable,
];

type Event = Fd<std::os::unix::net::UnixStream>;

fn watched(context: &Context) -> (Event, std::os::unix::net::UnixStream, Flag) {
    let (ours, theirs) = sys::pair();
    let called = Flag::default();
    let flag = called.clone();
    let event = context
        .add_fd(ours, FdFlags::READ, move |_, event, _| {
            std::io::Read::read_exact(&mut event.get_ref(), &mut [0]).expect("readable");
            flag.raise();
        })
        .unwrap();
    (event, theirs, called)
}

fn what_a_child_does_never_reaches_the_set_of_its_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let mut events: Vec<_> = (0..4).map(|_| watched(&context)).collect();
        run_what_is_ready(&context);
        let before = sys::epoll_sets();
        assert_eq!(before.is_empty(), kind == BackendKind::Poll);
        let (ours, theirs) = sys::channel();
        let pid = match fork(&context, by) {
            Some(pid) => pid,
            None => process::end_with(|| {
                // Before and after the child's context has noticed.
                events[0].0.set_flags(FdFlags::READ | FdFlags::ERROR);
                drop(events.pop());
                let added = watched(&context);
                run_what_is_ready(&context);
                drop(events.pop());
                events[1].0.set_flags(FdFlags::empty());
                run_what_is_ready(&context);
                drop(added);
                context.reinitialise().unwrap();
                let _added = watched(&context);
                run_what_is_ready(&context);
                sys::tell(&theirs);
                sys::await_word(&theirs);
            }),
        };
        sys::await_word(&ours);
        assert_eq!(sys::epoll_sets(), before, "while the child runs, {by:?}");
        sys::tell(&ours);
        sys::assert_succeeds(pid);
        assert_eq!(sys::epoll_sets(), before, "when the child is gone, {by:?}");
        for (_, peer, called) in &mut events {
            peer.write_all(b"x").unwrap();
            context.run_until(|| called.is_up()).unwrap();
        }
    }
}

fn what_the_parent_does_never_reaches_the_set_of_the_child(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let mut events: Vec<_> = (0..4).map(|_| watched(&context)).collect();
        run_what_is_ready(&context);
        let (ours, theirs) = sys::channel();
        let pid = match fork(&context, by) {
            Some(pid) => pid,
            None => process::end_with(|| {
                run_what_is_ready(&context);
                let before = sys::epoll_sets();
                sys::tell(&theirs);
                sys::await_word(&theirs);
                assert_eq!(sys::epoll_sets(), before);
                for (_, peer, called) in &mut events {
                    peer.write_all(b"x").unwrap();
                    context.run_until(|| called.is_up()).unwrap();
                }
            }),
        };
        sys::await_word(&ours);
        events[0].0.set_flags(FdFlags::empty());
        drop(events.pop());
        let _added = watched(&context);
        run_what_is_ready(&context);
        drop((context, events));
        sys::tell(&ours);
        sys::assert_succeeds(pid);
    }
}

fn leaves_the_set_of_the_parent(
    kind: BackendKind,
    work: fn(Context, Vec<(Event, std::os::unix::net::UnixStream, Flag)>),
) {
    for by in BY {
        let context = context(kind);
        let events: Vec<_> = (0..4).map(|_| watched(&context)).collect();
        run_what_is_ready(&context);
        let before = sys::epoll_sets();
        let pid = match fork(&context, by) {
            Some(pid) => pid,
            None => process::end_with(|| work(context, events)),
        };
        sys::assert_succeeds(pid);
        assert_eq!(sys::epoll_sets(), before, "{by:?}");
        for (_, mut peer, called) in events {
            peer.write_all(b"x").unwrap();
            context.run_until(|| called.is_up()).unwrap();
        }
    }
}

fn a_context_dropped_in_the_child_leaves_the_set_of_the_parent(kind: BackendKind) {
    leaves_the_set_of_the_parent(kind, |context, events| {
        drop(context);
        drop(events);
    });
}

fn removing_in_the_child_before_it_ran_leaves_the_set_of_the_parent(kind: BackendKind) {
    leaves_the_set_of_the_parent(kind, |_context, mut events| {
        events[0].0.remove();
        let (event, _, _) = events.pop().expect("several");
        let source = event.into_source().expect("no handler runs");
        drop(source);
        drop(events);
    });
}

/// The child goes on in the loop, whose turns are short ones by then.
fn what_a_handler_wants_after_it_forked_leaves_the_set_of_the_parent(kind: BackendKind) {
    for (by, flags) in BY
        .into_iter()
        .flat_map(|by| [FdFlags::empty(), FdFlags::all()].map(|flags| (by, flags)))
    {
        let context = context(kind);
        context.set_wait_timeout(Some(Duration::from_millis(1)));
        let (ours, mut theirs) = sys::pair();
        let calls = Flag::default();
        let child = Rc::new(Cell::new(None));
        let (flag, slot) = (calls.clone(), Rc::clone(&child));
        let added = context.add_fd(ours, FdFlags::READ, move |context, event, _| {
            flag.raise();
            if flag.count() == 3 {
                slot.set(fork(context, by));
                if slot.get().is_none() {
                    event.set_flags(flags);
                }
            }
        });
        let _event = added.unwrap();
        run_what_is_ready(&context);
        let before = sys::epoll_sets();
        theirs.write_all(b"x").unwrap();
        let mut turns = 0;
        let several_after_the_fork = || {
            turns += i32::from(calls.count() >= 3);
            turns > 4
        };
        context.run_until(several_after_the_fork).unwrap();
        let Some(pid) = child.get() else {
            process::end_with(|| ());
        };
        sys::assert_succeeds(pid);
        assert_eq!(sys::epoll_sets(), before, "{by:?}, {flags:?}");
        let told = calls.count();
        context.run_until(|| calls.count() > told).unwrap();
        assert_eq!(sys::epoll_sets(), before, "{by:?}, {flags:?}");
    }
}

fn signals_and_remote_work_in_the_child_do_not_wake_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), |_, _, _| ());
        run_what_is_ready(&context);
        assert!(!sys::is_readable(&context));
        in_child(&context, by, || {
            // Before and after the child's context has noticed.
            for _ in 0..2 {
                sys::raise(Signum::SIGUSR1);
                context.remote().schedule(|_| ());
                assert_eq!(run_what_is_ready(&context), 2);
            }
        });
        assert!(!sys::is_readable(&context), "it is the child's, {by:?}");
        assert_eq!(context.next_deadline(), None);
    }
}

fn a_child_that_leaves_the_loop_does_not_wake_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (flag, forked) = (Flag::default(), Flag::default());
        let (in_child, pid) = (flag.clone(), forked.clone());
        context.defer(move |context| match fork(context, by) {
            Some(child) => pid.0.set(child),
            None => in_child.raise(),
        });
        context.run_once().unwrap();
        if flag.is_up() {
            process::end_with(|| ());
        }
        sys::assert_succeeds(forked.count());
        assert!(!sys::is_readable(&context), "nothing has come, {by:?}");
    }
}

fn the_child_takes_no_wakeup_of_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let called = Flag::default();
        let flag = called.clone();
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, _| {
            flag.raise();
        });
        run_what_is_ready(&context);
        let (ours, theirs) = sys::channel();
        let pid = match fork(&context, by) {
            Some(pid) => pid,
            None => process::end_with(|| {
                sys::await_word(&theirs);
                assert_eq!(run_what_is_ready(&context), 0, "it is the parent's");
                assert!(!sys::is_readable(&context));
            }),
        };
        sys::raise(Signum::SIGUSR1);
        context.remote().schedule(|_| ());
        sys::tell(&ours);
        sys::assert_succeeds(pid);
        assert!(sys::is_readable(&context), "it is there still, {by:?}");
        assert_eq!(run_what_is_ready(&context), 2);
        assert_eq!(called.count(), 1);
    }
}

fn the_number_of_the_descriptor_stays_with_an_instance_of_its_own_behind_it(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (_event, mut peer, called) = watched(&context);
        run_what_is_ready(&context);
        let number = context.as_raw_fd();
        in_child(&context, by, || {
            assert_eq!(context.as_raw_fd(), number);
            context.remote().schedule(|_| ());
            assert!(sys::is_readable(&context), "the child's own, {by:?}");
            assert_eq!(run_what_is_ready(&context), 1);
            context.reinitialise().unwrap();
            assert_eq!(context.as_raw_fd(), number);
            let (_event, mut peer, called) = watched(&context);
            peer.write_all(b"x").unwrap();
            if kind != BackendKind::Poll {
                assert!(sys::is_readable(&context), "after reinitialise, too");
            }
            context.run_until(|| called.is_up()).unwrap();
        });
        assert_eq!(context.as_raw_fd(), number);
        assert!(!sys::is_readable(&context), "that was the child's, {by:?}");
        peer.write_all(b"x").unwrap();
        context.run_until(|| called.is_up()).unwrap();
    }
}

const SOON: Duration = Duration::from_secs(30);

fn a_signal_makes_the_descriptor_of_the_child_readable(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), |_, _, _| ());
        in_child(&context, by, || {
            assert!(!sys::is_readable(&context));
            sys::raise(Signum::SIGUSR1);
            assert!(sys::is_readable_within(&context, SOON), "{by:?}");
            assert_eq!(run_what_is_ready(&context), 1);
        });
        in_child(&context, by, || {
            // One that comes before the child's context has noticed the fork.
            sys::raise(Signum::SIGUSR1);
            assert!(sys::is_readable_within(&context, SOON), "{by:?}");
            assert_eq!(run_what_is_ready(&context), 1);
        });
    }
}

fn remote_work_makes_the_descriptor_of_the_child_readable(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let remote = context.remote();
        in_child(&context, by, || {
            assert!(!sys::is_readable(&context));
            std::thread::scope(|scope| {
                scope.spawn(|| remote.schedule(|_| ()));
            });
            assert!(sys::is_readable_within(&context, SOON), "{by:?}");
            assert_eq!(run_what_is_ready(&context), 1);
        });
    }
}
