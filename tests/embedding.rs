//! The loop inside another: its descriptor, its next deadline, and turns that don't wait.

mod common;

use common::*;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context};

on_every_backend!(
    another_loop_made_of_poll_can_drive_it,
    turns_that_do_not_wait_work_without_any_descriptor,
    another_threads_work_makes_the_descriptor_readable,
    the_number_of_the_descriptor_stays_the_same,
    a_context_can_be_embedded_in_another,
    next_deadline_tells_when_to_come_back,
    an_embedded_loop_that_is_idle_is_not_readable,
);

fn is_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000) as i32;
    // SAFETY: one pollfd, which is ours.
    let count = unsafe { libc::poll(&mut poll, 1, milliseconds) };
    count == 1
}

/// For how long the loop around may wait.
fn patience(context: &Context) -> Duration {
    let deadline = context
        .next_deadline()
        .unwrap_or_else(|| Instant::now() + GUARD);
    deadline.saturating_duration_since(Instant::now())
}

/// A foreign loop: it waits for the context's descriptor, but not longer than it says, and then
/// turns it. Descriptors are behind that descriptor everywhere but under poll, as documented.
#[track_caller]
fn drive(context: &Context, kind: BackendKind, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        let mut patience = patience(context);
        if kind == BackendKind::Poll {
            patience = Duration::ZERO;
        }
        is_readable(context.as_fd(), patience);
        while turn(context) {}
        assert!(start.elapsed() < GUARD, "{what}: it didn't happen");
    }
}

fn another_loop_made_of_poll_can_drive_it(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, mut theirs) = pair();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |context, fd, _| {
        drain(fd.get_ref());
        inner.add("descriptor");
        context.defer(inner.once("immediate"));
        context
            .add_timer_after(Duration::from_millis(2), inner.timer("timer"))
            .detach();
    });
    let thread = std::thread::spawn(move || {
        theirs.write_all(b"x").unwrap();
        theirs
    });
    drive(&context, kind, "all kinds are served", || {
        log.count("timer") == 1
    });
    assert_eq!(log.take(), "descriptor immediate timer");
    let _theirs = thread.join().unwrap();
    // A change is made by a turn, which the deadline asks for.
    let (more, _peer) = readable();
    let inner = log.clone();
    let more = context.add_fd(more, NOTHING, move |_, fd, _| {
        inner.add("changed");
        fd.set_flags(NOTHING);
    });
    let more = more.unwrap();
    more.set_readable(true);
    drive(&context, kind, "a changed event is served", || {
        log.count("changed") == 1
    });
}

fn turns_that_do_not_wait_work_without_any_descriptor(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(Some(Duration::ZERO));
    let log = Log::new();
    let (ours, mut theirs) = pair();
    let _fd = context.add_fd(ours, READ, log.fd("fd")).unwrap();
    assert!(!context.run_once().unwrap());
    theirs.write_all(b"x").unwrap();
    assert!(context.run_once().unwrap());
    assert_eq!(log.take(), "fd");
}

fn another_threads_work_makes_the_descriptor_readable(kind: BackendKind) {
    let context = context(kind);
    for round in 0..3 {
        assert!(
            !is_readable(context.as_fd(), Duration::ZERO),
            "round {round}: nothing to do"
        );
        let remote = context.remote();
        let thread = std::thread::spawn(move || remote.schedule(|_| ()));
        assert!(
            is_readable(context.as_fd(), GUARD),
            "round {round}: it wakes the loop around"
        );
        thread.join().unwrap();
        assert_eq!(settle(&context), 1);
    }
    // Before the loop around looks, and twice.
    let remote = context.remote();
    remote.schedule(|_| ());
    remote.schedule(|_| ());
    assert!(is_readable(context.as_fd(), Duration::ZERO));
    assert_eq!(settle(&context), 2);
    assert!(!is_readable(context.as_fd(), Duration::ZERO));
    // From inside the loop's own last turn.
    context.defer(move |_| assert!(remote.schedule(|_| ())));
    assert!(turn(&context));
    assert!(
        is_readable(context.as_fd(), Duration::ZERO),
        "something was left to do"
    );
    assert_eq!(settle(&context), 1);
}

fn the_number_of_the_descriptor_stays_the_same(kind: BackendKind) {
    let context = context(kind);
    let number = context.as_fd().as_raw_fd();
    assert_eq!(context.as_raw_fd(), number);
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    turns(&context, 3);
    drop(fd);
    context.reinitialise().unwrap();
    assert_eq!(context.as_raw_fd(), number);
}

/// The inner context as a descriptor event of the outer.
fn a_context_can_be_embedded_in_another(kind: BackendKind) {
    if kind == BackendKind::Poll {
        return another_threads_work_reaches_an_embedded_context();
    }
    let outer = context(kind);
    let inner = context(kind);
    let log = Log::new();
    let (ours, mut theirs) = pair();
    let on_fd = log.clone();
    let _fd = inner.add_fd(ours, READ, move |_, fd, _| {
        drain(fd.get_ref());
        on_fd.add("inner");
    });
    let _embedded = outer
        .add_fd(inner, READ, |_, inner, _| while turn(inner.get_ref()) {})
        .expect("a context is a source");
    let _other = outer.add_timer_after(Duration::from_millis(1), log.timer("outer"));
    run_until(&outer, "the outer loop runs", || log.count("outer") == 1);
    theirs.write_all(b"x").unwrap();
    run_until(&outer, "the inner loop runs", || log.count("inner") == 1);
    assert_eq!(settle(&outer), 0, "it is readable no more");
}

fn another_threads_work_reaches_an_embedded_context() {
    let outer = context(BackendKind::Poll);
    let inner = context(BackendKind::Poll);
    let remote = inner.remote();
    let _embedded = outer
        .add_fd(inner, READ, |outer, inner, _| {
            while turn(inner.get_ref()) {}
            outer.stop();
        })
        .expect("a context is a source");
    let thread = std::thread::spawn(move || remote.schedule(|_| ()));
    outer.run().unwrap();
    thread.join().unwrap();
}

fn next_deadline_tells_when_to_come_back(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _timer = context.add_timer_after(Duration::from_millis(3), log.timer("timer"));
    let deadline = context.next_deadline().unwrap();
    is_readable(context.as_fd(), patience(&context));
    assert!(
        Instant::now() >= deadline,
        "nothing else has woken the loop around"
    );
    assert!(turn(&context));
    assert_eq!(log.take(), "timer");
    assert_eq!(context.next_deadline(), None);
}

fn an_embedded_loop_that_is_idle_is_not_readable(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = readable();
    let fd = context
        .add_fd(ours, READ, |_, fd, _| assert!(!drain(fd.get_ref())))
        .unwrap();
    let quiet = |what: &str| {
        assert!(!is_readable(context.as_fd(), Duration::ZERO), "{what}");
    };
    settle(&context);
    quiet("everything was read");
    context.defer(|_| ());
    quiet("immediates aren't behind the descriptor");
    settle(&context);
    fd.set_flags(NOTHING);
    drop(theirs);
    settle(&context);
    quiet("nobody wants to know of the hang-up");
}
