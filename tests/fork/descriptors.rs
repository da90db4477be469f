//! A child that can have no descriptors gets an error, touches nothing of its parent's, and works
//! when there are some again.

use crate::process::{self, context, sys, tests};
use crate::{BY, By, Flag, fork, in_child, run_what_is_ready};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use tevent::{BackendKind, Context, Fd, FdFlags, OsError, Severity, SignalFlags, Signum, Tracer};

pub const TESTS: &[process::Test] = tests![
    running_in_a_child_without_descriptors_is_an_error_until_there_are_some,
    reinitialise_in_a_child_without_descriptors_is_an_error_until_there_are_some,
    reinitialise_without_descriptors_removes_the_events_all_the_same,
    a_fork_without_descriptors_either_fails_or_works,
    adding_fails_at_once_where_poll_takes_no_descriptor,
    a_descriptor_that_is_refused_leaves_epoll_in_charge,
    standard_output_is_a_descriptor_like_others,
    an_event_that_a_tracer_adds_while_another_is_added_is_another,
];

fn running_in_a_child_without_descriptors_is_an_error_until_there_are_some(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (ours, mut theirs) = sys::pair();
        let called = Flag::default();
        let flag = called.clone();
        let _event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
            event.get_ref().read_exact(&mut [0]).expect("readable");
            flag.raise();
        });
        let flag = called.clone();
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, _| {
            flag.raise();
        });
        run_what_is_ready(&context);
        let before = sys::epoll_sets();
        in_child(&context, by, || {
            sys::without_descriptors(|| {
                for _ in 0..3 {
                    context.run_once().unwrap_err();
                    sys::raise(Signum::SIGUSR1);
                }
                assert_eq!(called.count(), 0);
            });
            theirs.write_all(b"x").unwrap();
            context.run_until(|| called.count() == 2).unwrap();
            assert_eq!(run_what_is_ready(&context), 0, "all was kept, {by:?}");
            context.remote().schedule(|_| ());
            assert!(sys::is_readable(&context), "by a descriptor of its own");
            assert_eq!(run_what_is_ready(&context), 1);
        });
        assert_eq!(sys::epoll_sets(), before, "{by:?}");
        assert!(!sys::is_readable(&context), "the child's signals, {by:?}");
        theirs.write_all(b"x").unwrap();
        context.run_until(|| called.count() == 1).unwrap();
    }
}

fn reinitialise_in_a_child_without_descriptors_is_an_error_until_there_are_some(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (ours, mut theirs) = sys::pair();
        let called = Flag::default();
        let flag = called.clone();
        let event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
            event.get_ref().read_exact(&mut [0]).expect("readable");
            flag.raise();
        });
        event.unwrap().detach();
        run_what_is_ready(&context);
        let before = sys::epoll_sets();
        in_child(&context, by, || {
            // The sources are closed only when the attempt has failed, so one number is free then.
            sys::without_descriptors(|| context.reinitialise().unwrap_err());
            assert_eq!(run_what_is_ready(&context), 0, "the events are gone");
            let (ours, mut theirs) = sys::pair();
            let called = Flag::default();
            let flag = called.clone();
            let _event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
                event.remove();
                flag.raise();
            });
            theirs.write_all(b"x").unwrap();
            if kind != BackendKind::Poll {
                assert!(sys::is_readable(&context), "by an instance of its own");
            }
            context.run().unwrap();
            assert_eq!(called.count(), 1, "{by:?}");
        });
        assert_eq!(sys::epoll_sets(), before, "{by:?}");
        theirs.write_all(b"x").unwrap();
        context.run_until(|| called.count() == 1).unwrap();
    }
}

fn reinitialise_without_descriptors_removes_the_events_all_the_same(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = sys::pair();
    let event = context
        .add_fd(ours, FdFlags::READ, |_, _, _| unreachable!())
        .unwrap();
    let closed = Flag::default();
    let flag = closed.clone();
    event.on_close(move |_| flag.raise());
    event.detach();
    let timer = context.add_timer(context.now(), |_, _| unreachable!());
    context.defer(|_| ());
    assert!(context.run_once().unwrap());
    theirs.write_all(b"x").unwrap();
    sys::without_descriptors(|| context.reinitialise().unwrap_err());
    assert!(!timer.is_registered());
    assert_eq!(closed.count(), 1);
    context.run().unwrap(); // returns, as nothing is left
    let (ours, theirs) = sys::pair();
    drop(theirs);
    let _event = context.add_fd(ours, FdFlags::READ, |_, event, _| event.remove());
    context.run().unwrap();
    context.remote().schedule(|_| ());
    assert!(sys::is_readable(&context));
}

fn a_fork_without_descriptors_either_fails_or_works(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (ours, theirs) = sys::pair();
        drop(theirs);
        let event = context.add_fd(ours, FdFlags::READ, |_, event, _| event.remove());
        let parent = std::process::id();
        sys::without_descriptors(|| match by {
            By::Somebody => drop(fork(&context, by)),
            By::Context => drop(context.fork()),
        });
        if std::process::id() != parent {
            process::end_with(|| context.run().unwrap());
        }
        context.run().unwrap();
        while let Some(status) = sys::await_any_child() {
            assert_eq!(status, sys::Status::Exited(0), "the child has run, {by:?}");
        }
        drop(event);
    }
}

fn adding_fails_at_once_where_poll_takes_no_descriptor(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = sys::pair();
    // poll() wants no more of them than there may be.
    let added = sys::with_descriptor_limit(0, || {
        context.add_fd(ours, FdFlags::READ, |_, _, _| unreachable!())
    });
    match (kind, added) {
        (BackendKind::Poll, Err(error)) => {
            let inner = error.error().get_ref().expect("a system call has failed");
            let inner: &OsError = inner.downcast_ref().expect("it is named");
            assert_eq!(inner.operation(), "ppoll");
            assert_eq!(inner.error().raw_os_error(), Some(libc::EINVAL));
        }
        (BackendKind::Poll, Ok(_)) => panic!("it can't be watched"),
        (_, added) => drop(added.expect("epoll has its own limits")),
    }
}

fn a_descriptor_that_is_refused_leaves_epoll_in_charge(kind: BackendKind) {
    let context = context(kind);
    let mut refused = Vec::new();
    for number in [1 << 20, context.as_fd().as_raw_fd()] {
        // SAFETY: not what Rust calls safe; the loop uses only the number.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let added = context.add_fd(borrowed, FdFlags::READ, |_, _, _| ());
        refused.push(added.is_err());
    }
    let (ours, _theirs) = sys::pair();
    let number = ours.as_raw_fd();
    let _event = context.add_fd(ours, FdFlags::READ, |_, _, _| ()).unwrap();
    let watched = sys::epoll_sets().concat();
    let is_watched = watched.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some(&number.to_string())
    });
    assert_eq!(is_watched, kind != BackendKind::Poll, "{watched}");
    if kind != BackendKind::Poll {
        assert_eq!(refused, [true, true], "not open, and the set itself");
    }
}

fn standard_output_is_a_descriptor_like_others(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = sys::pair();
    sys::duplicate_onto(ours.as_raw_fd(), 1);
    let (other, _peer) = sys::pair();
    let other = context.add_fd(other, FdFlags::READ, |_, _, _| unreachable!());
    let called = Flag::default();
    let flag = called.clone();
    let _event = context.add_fd(std::io::stdout(), FdFlags::READ, move |_, event, _| {
        event.set_flags(FdFlags::empty());
        flag.raise();
    });
    run_what_is_ready(&context);
    drop(other);
    theirs.write_all(b"x").unwrap();
    context.run_until(|| called.count() == 1).unwrap();
}

/// A child's first use of the context is told to the tracer.
fn an_event_that_a_tracer_adds_while_another_is_added_is_another(kind: BackendKind) {
    struct Add(Rc<Context>, Rc<RefCell<Option<Fd<UnixStream>>>>);
    impl Tracer for Add {
        fn message(&mut self, _: Severity, _: &str) {
            let event = self
                .0
                .add_fd(sys::pair().0, FdFlags::READ, |_, _, _| unreachable!());
            self.1.replace(Some(event.unwrap()));
        }
    }
    for by in BY {
        let context = Rc::new(context(kind));
        let traced = Rc::new(RefCell::new(None));
        context.set_tracer(Add(Rc::clone(&context), Rc::clone(&traced)));
        in_child(&context, by, || {
            let event = context.add_fd(sys::pair().0, FdFlags::READ, |_, _, _| unreachable!());
            drop(event.unwrap());
            let traced = traced.take().expect("the tracer was told of the fork");
            assert!(traced.is_registered(), "{by:?}");
            context.clear_tracer();
        });
        context.clear_tracer();
    }
}
