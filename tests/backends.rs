//! The backends themselves: choosing one, plugging one in, and what happens when one fails.

mod common;

use common::recording::{Call, recorded, recording};
use common::*;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use tevent::{Backend, BackendKind, Context, FdFlags, OsError, Readiness, ReadyList, Token};

on_every_backend!(
    a_backend_is_chosen_by_name,
    a_batch_of_none_is_refused,
    reinitialising_leaves_an_empty_usable_context,
);

fn a_backend_is_chosen_by_name(kind: BackendKind) {
    let named: BackendKind = kind.to_string().parse().unwrap();
    assert_eq!(named, kind);
    assert_eq!(context(kind).backend_name(), kind.to_string());
    assert!(BackendKind::available().contains(&kind));
}

#[test]
fn standard_is_the_default_and_an_unknown_name_is_an_error() {
    assert_eq!(Context::new().unwrap().backend_name(), "standard");
    assert_eq!(BackendKind::default(), BackendKind::Standard);
    assert!("select".parse::<BackendKind>().is_err());
    assert!("Standard".parse::<BackendKind>().is_err());
}

fn a_batch_of_none_is_refused(kind: BackendKind) {
    let error = builder(kind).batch(0).build().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

fn reinitialising_leaves_an_empty_usable_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for _ in 0..3 {
        let (ours, theirs) = readable();
        context
            .add_fd(ours, READ, |_, _, _| unreachable!())
            .unwrap()
            .detach();
        context
            .add_timer(context.now(), |_, _| unreachable!())
            .detach();
        context.defer(|_| unreachable!());
        context.remote().schedule(|_| unreachable!());
        context.reinitialise().unwrap();
        assert!(drain(&theirs), "its source is closed");
        assert_eq!(context.next_deadline(), None);
        context.run().expect("nothing is left");
        let (ours, _theirs) = readable();
        let _fd = context.add_fd(ours, READ, log.fd("fd")).unwrap();
        context.defer(log.once("immediate"));
        assert_eq!(turns(&context, 2), 2);
        assert_eq!(log.take(), "immediate fd", "it is usable");
    }
}

#[test]
fn a_backend_of_ones_own_can_be_plugged_in() {
    let (context, recorder) = recorded();
    let log = Log::new();
    assert_eq!(context.backend_name(), "recording");
    let (ours, _theirs) = readable();
    let number = ours.as_raw_fd();
    let fd = context.add_fd(ours, READ, log.flags("fd")).unwrap();
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    context.defer(log.once("immediate"));
    assert_eq!(turns(&context, 3), 3);
    assert_eq!(log.take(), "immediate timer fd:READ");
    drop(fd);
    let calls = recorder.take();
    assert_eq!(calls[0], Call::Add(number, READ));
    assert_eq!(calls.last(), Some(&Call::Remove(number)));
    context.reinitialise().unwrap();
    assert!(
        matches!(recorder.take()[..], [Call::Reopen, Call::Add(_, READ)]),
        "with its wake-up"
    );
    let remote = context.remote();
    let thread = std::thread::spawn(move || remote.schedule(|context| context.stop()));
    context
        .run_until(|| false)
        .expect("another thread ends the wait");
    thread.join().unwrap();
}

#[test]
fn a_backend_that_refuses_a_descriptor_gives_the_source_back() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let number = ours.as_raw_fd();
    recorder.fail_add.set(Some(libc::ENOSPC));
    let error = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap_err();
    assert_eq!(error.error().raw_os_error(), Some(libc::ENOSPC));
    let source = error.into_source();
    assert_eq!(source.as_raw_fd(), number);
    assert_eq!(turns(&context, 2), 0, "nothing was added");
    let log = Log::new();
    let _fd = context
        .add_fd(source, READ, log.fd("called"))
        .expect("another time it is taken");
    assert!(turn(&context));
}

#[test]
fn a_backend_that_has_reopened_is_not_told_to_remove_what_it_forgot() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    recorder.take();
    // Of the wake-up descriptor, after the backend has started anew.
    recorder.fail_add.set(Some(libc::ENOMEM));
    let error = context.reinitialise().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert!(
        matches!(recorder.take()[..], [Call::Reopen, Call::Add(_, READ)]),
        "there was nothing to remove"
    );
    let log = Log::new();
    context.defer(log.once("immediate"));
    assert_eq!(turns(&context, 2), 1, "the next use tries again");
    assert_eq!(log.take(), "immediate");
}

#[test]
fn a_backend_that_cannot_reopen_is_told_to_remove_what_leaves() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let number = ours.as_raw_fd();
    let event = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    recorder.take();
    recorder.fail_reopen.set(Some(libc::EMFILE));
    let error = context.reinitialise().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    assert!(!event.is_registered());
    assert_eq!(recorder.take(), [Call::Reopen, Call::Remove(number)]);
    assert_eq!(turns(&context, 2), 0, "the next use tries again");
    assert_eq!(recorder.take()[0], Call::Reopen);
}

#[test]
fn the_wake_up_descriptor_is_added_when_the_context_is_made() {
    let (builder, recorder) = recording();
    recorder.fail_add.set(Some(libc::ENOMEM));
    let error = builder
        .build()
        .expect_err("a context that can't be woken is none");
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
}

#[test]
fn a_failed_wait_is_reported_and_the_context_can_be_run_again() {
    let (context, recorder) = recorded();
    let log = Log::new();
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, log.fd("called")).unwrap();
    recorder.fail_wait.set(Some(libc::ENOMEM));
    let error = context.run().expect_err("the backend failed");
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<OsError>())
        .unwrap();
    assert_eq!(inner.operation(), "wait");
    assert_eq!(inner.error().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(fd.flags(), READ, "nothing is lost");
    assert!(turn(&context), "it goes on");
    assert_eq!(log.take(), "called");
}

#[test]
fn an_interrupted_wait_is_no_error() {
    let (context, recorder) = recorded();
    recorder.fail_wait.set(Some(libc::EINTR));
    assert!(!context.run_once().unwrap());
}

#[test]
fn a_backend_that_fails_to_remove_does_not_keep_the_source() {
    let (context, recorder) = recorded();
    let (ours, theirs) = pair();
    let fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    recorder.fail_remove.set(Some(libc::EBADF));
    drop(fd);
    assert!(drain(&theirs), "it is closed");
}

/// Reports two descriptors for as long as they are registered, however little room there is.
struct Pushy {
    tokens: Vec<Token>,
    readiness: Readiness,
    rooms: Rc<RefCell<Vec<(usize, usize)>>>,
}

impl Backend for Pushy {
    fn name(&self) -> &str {
        "pushy"
    }

    fn add(&mut self, _: RawFd, token: Token, _: FdFlags) -> io::Result<()> {
        self.tokens.push(token);
        Ok(())
    }

    fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: RawFd, removed: Token) -> io::Result<()> {
        self.tokens.retain(|&token| token != removed);
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        let before = ready.room();
        // The first is the context's own, and quiet.
        for &token in &self.tokens[1..] {
            ready.push(token, self.readiness);
        }
        self.rooms.borrow_mut().push((before, ready.room()));
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.tokens.clear();
        Ok(())
    }
}

#[test]
fn what_a_backend_reports_beyond_the_room_is_left_out() {
    let rooms = Rc::new(RefCell::new(Vec::new()));
    let backend = Pushy {
        tokens: Vec::new(),
        readiness: Readiness::READABLE,
        rooms: Rc::clone(&rooms),
    };
    let builder = Context::builder().custom_backend(Box::new(backend));
    let context = builder.batch(1).build().unwrap();
    let log = Log::new();
    let (first, _first_peer) = pair();
    let (second, _second_peer) = pair();
    let _first = context.add_fd(first, READ, log.fd("first")).unwrap();
    let _second = context.add_fd(second, READ, log.fd("second")).unwrap();
    assert_eq!(turns(&context, 3), 3);
    assert_eq!(log.take(), "first first first", "the second had no room");
    assert_eq!(rooms.take(), [(1, 0); 3]);
}

#[test]
fn a_report_that_says_nothing_calls_nobody() {
    let rooms = Rc::new(RefCell::new(Vec::new()));
    let backend = Pushy {
        tokens: Vec::new(),
        readiness: Readiness::empty(),
        rooms: Rc::clone(&rooms),
    };
    let context = Context::builder()
        .custom_backend(Box::new(backend))
        .build()
        .unwrap();
    let (ours, _theirs) = pair();
    let _fd = context
        .add_fd(ours, READ, |_, _, flags| panic!("told {flags:?}"))
        .unwrap();
    assert_eq!(turns(&context, 3), 0);
    let rooms = rooms.take();
    assert_eq!(rooms.len(), 3);
    assert!(
        rooms.iter().all(|(before, after)| before == after),
        "{rooms:?}"
    );
}
