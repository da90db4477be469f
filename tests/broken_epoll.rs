//! What happens when the epoll instance is closed or replaced by somebody else.
//!
//! Apart from the other tests, as one of these runs a process: until that has executed its program
//! it holds copies of all descriptors, so that nobody may count on one being closed meanwhile.

#![cfg(target_os = "linux")]

mod common;

use common::*;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use tevent::{BackendKind, Context};

/// Whoever counts on a descriptor being closed and whoever runs a process go one after another.
static ALONE: Mutex<()> = Mutex::new(());

/// What there is to go on with after epoll is broken: descriptors of all states, and a file.
fn breaks(how: impl FnOnce(&Context)) {
    let context = builder(BackendKind::Standard).batch(1).build().unwrap();
    let log = Log::new();
    let (ready, _ready_peer) = readable();
    let _ready = context.add_fd(ready, READ, log.flags("ready")).unwrap();
    let (quiet, mut quiet_peer) = pair();
    let quiet = context.add_fd(quiet, READ, log.flags("quiet")).unwrap();
    let (changed, _changed_peer) = pair();
    let changed = context.add_fd(changed, READ, log.flags("changed")).unwrap();
    let (removed, removed_peer) = pair();
    let removed = context
        .add_fd(removed, READ, |_, _, _| unreachable!())
        .unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let _file = context.add_fd(file, READ, log.flags("file")).unwrap();
    turns(&context, 4);
    log.take();

    how(&context);
    changed.set_flags(WRITE);
    drop(removed);
    assert!(drain(&removed_peer), "its source is closed");
    let (added, _added_peer) = readable();
    let _added = context
        .add_fd(added, READ, log.flags("added"))
        .expect("poll takes it");
    std::io::Write::write_all(&mut quiet_peer, b"x").unwrap();
    run_until(&context, "everything goes on", || {
        let all = [
            "ready:READ",
            "quiet:READ",
            "changed:WRITE",
            "added:READ",
            "file:READ",
        ];
        all.iter().all(|entry| log.count(entry) >= 2)
    });
    assert_eq!(
        (quiet.flags(), changed.flags()),
        (READ, WRITE),
        "nothing was disarmed"
    );
    assert_eq!(context.backend_name(), "standard");
    // The number may be another's by now: leave it alone.
    std::mem::forget(context);
}

#[test]
fn standard_goes_on_with_poll_when_the_epoll_descriptor_was_replaced() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    breaks(|context| {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        put_at(null, context.as_fd().as_raw_fd());
    });
}

#[test]
fn standard_goes_on_with_poll_when_the_epoll_descriptor_was_closed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // In a child process of one thread, where nobody else gets the number.
    let child = || {
        breaks(|context| {
            let number = context.as_fd().as_raw_fd();
            close(number);
        });
    };
    in_a_child(
        "standard_goes_on_with_poll_when_the_epoll_descriptor_was_closed",
        child,
    );
}

#[test]
fn a_change_alone_makes_standard_notice_that_epoll_is_broken() {
    let context = context(BackendKind::Standard);
    let log = Log::new();
    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    put_at(null, context.as_fd().as_raw_fd());
    fd.set_flags(WRITE);
    run_until(&context, "the event is called", || log.len() > 0);
    assert_eq!(log.take(), ":WRITE");
}

#[test]
fn a_wait_alone_makes_standard_notice_that_epoll_is_broken() {
    let context = context(BackendKind::Standard);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    put_at(null, context.as_fd().as_raw_fd());
    run_until(&context, "the event is called", || log.len() > 0);
    assert_eq!(log.take(), ":READ");
    drop(_fd);
    thread_local!(static WOKEN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    for round in 1..=5 {
        let remote = context.remote();
        let work = move |_: &Context| WOKEN.set(round);
        let thread = std::thread::spawn(move || remote.schedule(work));
        run_until(&context, "another thread wakes it", || WOKEN.get() == round);
        thread.join().unwrap();
    }
}

#[test]
fn bare_epoll_reports_that_it_is_broken() {
    let context = context(BackendKind::Epoll);
    let (ours, _theirs) = pair();
    let _fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    put_at(null, context.as_fd().as_raw_fd());
    context.run().expect_err("there is nothing to fall back to");
    context.reinitialise().expect("starting over helps");
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("called")).unwrap();
    assert!(turn(&context));
}

/// Runs one test of this file in a process of its own.
#[track_caller]
fn in_a_child(test: &str, run: impl FnOnce()) {
    const VARIABLE: &str = "TEVENT_TEST_CHILD";
    if std::env::var_os(VARIABLE).is_some() {
        return run();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "in a process of its own: {}: {said}",
        output.status
    );
}
