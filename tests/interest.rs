//! What the kernel is told, and when: adding and removing at once, changes before the next wait.

mod common;

use common::recording::{Call, recorded, recording};
use common::*;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use tevent::{BackendKind, FdFlags};

on_every_backend!(
    many_toggles_in_a_handler_leave_the_last_interest,
    an_interest_changed_outside_the_loop_holds_in_the_next_turn,
    a_source_can_be_watched_by_one_context_after_the_other,
    a_source_refused_with_a_question_mark_is_closed,
    flags_without_a_meaning_are_left_out,
);

#[test]
fn adding_tells_the_backend_at_once() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let _fd = context.add_fd(ours, READ | WRITE, |_, _, _| ()).unwrap();
    assert_eq!(recorder.take(), [Call::Add(number, READ | WRITE)]);
}

#[test]
fn an_event_without_flags_is_not_in_the_backends_set() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let fd = context.add_fd(ours, NOTHING, |_, _, _| ()).unwrap();
    assert_eq!(recorder.take(), [], "it isn't added");
    fd.set_flags(READ);
    turn(&context);
    assert_eq!(recorder.take_changes(), [Call::Add(number, READ)]);
    fd.set_flags(NOTHING);
    turn(&context);
    assert_eq!(recorder.take_changes(), [Call::Remove(number)]);
    drop(fd);
    assert_eq!(recorder.take(), [], "it isn't removed once more");
}

#[test]
fn removing_tells_the_backend_at_once() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    recorder.take();
    // A change that isn't made yet must not hide that the backend knows it.
    fd.set_flags(NOTHING);
    fd.remove();
    assert_eq!(recorder.take(), [Call::Remove(number)]);
    turn(&context);
    assert_eq!(recorder.take_changes(), [], "and that was all");
}

#[test]
fn a_changed_interest_is_told_once_before_the_wait() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    recorder.take();
    fd.set_flags(ERROR);
    fd.set_flags(READ | ERROR);
    fd.set_want_error(false);
    fd.set_writable(true);
    assert_eq!(recorder.take(), [], "the backend isn't told yet");
    turn(&context);
    let calls = recorder.take();
    assert_eq!(calls[0], Call::Modify(number, READ | WRITE));
    assert!(matches!(calls[1..], [Call::Wait(_)]), "{calls:?}");
}

#[test]
fn turning_a_flag_on_and_off_in_handlers_costs_no_system_call() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, |_, fd, _| {
        for _ in 0..10 {
            fd.set_writable(true);
            fd.set_writable(false);
            fd.set_flags(NOTHING);
            fd.set_flags(READ);
        }
    });
    recorder.take();
    assert_eq!(turns(&context, 20), 20);
    assert_eq!(
        recorder.take_changes(),
        [],
        "nothing has changed when the loop waits"
    );
}

#[test]
fn adding_and_removing_a_sibling_with_the_same_interest_costs_no_system_call() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let _fd = context
        .add_fd(Rc::clone(&ours), READ, |_, _, _| ())
        .unwrap();
    recorder.take();
    for _ in 0..5 {
        drop(
            context
                .add_fd(Rc::clone(&ours), READ, |_, _, _| ())
                .unwrap(),
        );
        assert!(turn(&context));
    }
    assert_eq!(recorder.take_changes(), []);
}

#[test]
fn a_batch_costs_one_wait() {
    for (batch, waits) in [(256, 1), (10, 1), (5, 2), (1, 10)] {
        let (builder, recorder) = recording();
        let context = builder.batch(batch).build().unwrap();
        let mut kept = Vec::new();
        for _ in 0..10 {
            let (ours, theirs) = readable();
            let fd = context.add_fd(ours, READ, |context, fd, _| {
                drain(fd.get_ref());
                // Those run between, and need no wait either.
                context.defer(|_| ());
                context.add_timer(context.now(), |_, _| ()).detach();
            });
            kept.push((fd.unwrap(), theirs));
        }
        recorder.take();
        assert_eq!(
            turns(&context, 30),
            30,
            "10 descriptors, 10 immediates, 10 timers"
        );
        assert_eq!(recorder.waits(), waits, "with a batch of {batch}");
    }
}

#[test]
fn siblings_of_one_descriptor_cost_one_wait_unless_the_batch_is_one() {
    for (batch, waits) in [(256, 1), (1, 2)] {
        let (builder, recorder) = recording();
        let context = builder.batch(batch).build().unwrap();
        let (ours, _theirs) = readable();
        let ours = Rc::new(ours);
        let _reader = context
            .add_fd(Rc::clone(&ours), READ, |_, _, _| ())
            .unwrap();
        let _writer = context.add_fd(ours, WRITE, |_, _, _| ()).unwrap();
        recorder.take();
        assert_eq!(turns(&context, 2), 2);
        assert_eq!(recorder.waits(), waits, "with a batch of {batch}");
    }
}

/// The events' flags, and what the loop said, after the backend has refused a change.
#[track_caller]
fn refuse_a_change(number: i32, refuse: impl FnOnce(&common::recording::Recorder)) -> String {
    let (context, recorder) = recorded();
    let log = Log::new();
    let (ours, _theirs) = readable();
    let (other, _other_peer) = pair();
    let other_number = other.as_raw_fd();
    let fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    let other = context.add_fd(other, READ, log.flags("other")).unwrap();
    recorder.take();
    fd.set_flags(READ | WRITE);
    refuse(&recorder);
    // Whichever of the two changes comes first is refused.
    other.set_flags(NOTHING);
    let mut said = String::new();
    context.set_wait_timeout(Some(std::time::Duration::ZERO));
    match context.run_once() {
        Ok(ran) => assert!(!ran),
        Err(error) => {
            let inner = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<tevent::OsError>());
            let inner = inner.expect("an error that says what failed");
            assert_eq!(inner.error().raw_os_error(), Some(number));
            said = inner.operation().to_owned();
        }
    }
    assert_eq!(
        (fd.flags(), other.flags()),
        (NOTHING, NOTHING),
        "the event is disarmed"
    );
    context.set_wait_timeout(Some(GUARD));
    recorder.take();
    assert_no_spin(&context, "a refused event is disarmed");
    assert!(recorder.waits() <= 6, "no spin: {} waits", recorder.waits());
    // It can be armed again, and others go on.
    other.set_flags(WRITE);
    assert!(turn(&context));
    assert_eq!(log.take(), "other:WRITE");
    assert!(
        recorder
            .take_changes()
            .contains(&Call::Add(other_number, WRITE))
    );
    fd.set_flags(NOTHING);
    drop(fd);
    said
}

#[test]
fn a_change_that_the_backend_refuses_is_reported_and_disarms_the_event() {
    let refuse = |recorder: &common::recording::Recorder| {
        recorder.fail_modify.set(Some(libc::ENOMEM));
    };
    assert_eq!(
        refuse_a_change(libc::ENOMEM, refuse),
        "changing an interest"
    );
}

#[test]
fn a_change_that_fails_because_the_descriptor_was_closed_disarms_the_event_without_error() {
    for number in [libc::EBADF, libc::ENOENT] {
        let refuse = |recorder: &common::recording::Recorder| {
            recorder.fail_modify.set(Some(number));
        };
        assert_eq!(refuse_a_change(number, refuse), "", "errno {number}");
    }
}

#[test]
fn a_refused_sibling_comes_back_and_the_others_go_on() {
    let (context, recorder) = recorded();
    let log = Log::new();
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let _fd = context
        .add_fd(Rc::clone(&ours), READ, log.flags("old"))
        .unwrap();
    recorder.fail_modify.set(Some(libc::ENOMEM));
    let error = context
        .add_fd(Rc::clone(&ours), WRITE, |_, _, _| unreachable!())
        .unwrap_err();
    assert_eq!(error.error().raw_os_error(), Some(libc::ENOMEM));
    assert!(
        Rc::ptr_eq(&error.into_source(), &ours),
        "the source comes back"
    );
    recorder.take();
    assert_eq!(turns(&context, 2), 2);
    assert_eq!(
        log.take(),
        "old:READ old:READ",
        "the other event is as it was"
    );
    assert_eq!(recorder.take_changes(), []);
}

fn many_toggles_in_a_handler_leave_the_last_interest(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let inner = log.clone();
    let _fd = context.add_fd(ours, READ, move |_, fd, flags: FdFlags| {
        inner.add(format!("{}", flags.bits()));
        for wanted in [READ, WRITE, NOTHING, ERROR, READ | WRITE] {
            fd.set_flags(wanted);
        }
        fd.set_flags(if flags == READ { WRITE } else { READ });
    });
    turns(&context, 4);
    assert_eq!(log.take(), "1 2 1 2");
}

fn an_interest_changed_outside_the_loop_holds_in_the_next_turn(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    for (flags, told) in [(WRITE, ":WRITE"), (NOTHING, ""), (READ, ":READ")] {
        fd.set_flags(flags);
        turn(&context);
        assert_eq!(log.take(), told);
    }
}

fn a_source_can_be_watched_by_one_context_after_the_other(kind: BackendKind) {
    let log = Log::new();
    let (mut source, _theirs) = readable();
    for _ in 0..3 {
        let context = context(kind);
        let fd = context.add_fd(source, READ, log.fd("called")).unwrap();
        assert!(turn(&context));
        source = fd.into_source().unwrap();
    }
    assert_eq!(log.len(), 3);
}

fn a_source_refused_with_a_question_mark_is_closed(kind: BackendKind) {
    /// A descriptor that can't be watched, of a source that closes something when it is dropped.
    struct Unwatchable(std::os::unix::net::UnixStream);

    impl std::os::fd::AsFd for Unwatchable {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            static NUMBER: Number = Number(i32::MAX - 7);
            let _ = &self.0;
            NUMBER.as_fd()
        }
    }

    let context = context(kind);
    let (ours, theirs) = pair();
    let add = || -> std::io::Result<()> {
        context
            .add_fd(Unwatchable(ours), READ, |_, _, _| unreachable!())?
            .detach();
        Ok(())
    };
    let error = add().expect_err("it can't be watched");
    assert!(!error.to_string().is_empty());
    assert!(
        drain(&theirs),
        "the source went with the error, and is closed"
    );
    context.run().expect("nothing was added");
}

fn flags_without_a_meaning_are_left_out(kind: BackendKind) {
    let unknown = FdFlags::from_bits_retain(0x80);
    let context = context(kind);
    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, READ | unknown, |_, _, _| ()).unwrap();
    assert_eq!(fd.flags(), READ);
    fd.set_flags(unknown);
    assert_eq!(fd.flags(), NOTHING);
    context.run().expect("there is nothing to wait for");
}
