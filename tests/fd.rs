//! Descriptor events: what their handlers are told, and when.

mod common;

use common::*;
use std::cell::Cell;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use tevent::{BackendKind, FdFlags};

on_every_backend!(
    a_batch_of_ready_descriptors_costs_one_wait,
    what_another_thread_schedules_between_two_of_a_batch_may_add_descriptors,
    events_are_level_triggered,
    the_handler_gets_only_flags_it_asked_for,
    flags_can_be_turned_on_and_off,
    changed_flags_hold_from_the_next_wait_on,
    a_half_closed_peer_is_something_to_read,
    hang_up_is_read_to_an_event_that_wants_read,
    hang_up_is_error_to_an_event_that_wants_error,
    hang_up_is_both_to_an_event_that_wants_both,
    hang_up_is_told_with_what_is_left_to_read,
    an_event_that_wants_both_directions_is_told_the_one_that_is_ready,
    hang_up_is_not_told_to_an_event_that_wants_only_write_and_does_not_spin,
    an_error_is_told_to_write_with_error_and_not_to_write_alone,
    an_event_that_wanted_only_write_can_be_armed_again_and_does_not_spin,
    an_event_without_flags_gets_nothing_and_costs_no_wake_ups,
    an_event_without_flags_beside_others_gets_nothing,
    a_regular_file_is_always_ready_or_refused_with_the_source,
    a_regular_file_that_comes_in_a_handler_is_served,
    an_always_ready_file_alone_is_served_in_turn_after_turn,
    dev_null_is_always_ready_or_refused_with_the_source,
    an_always_ready_file_that_is_gone_is_no_spin,
    an_always_ready_file_starves_nobody,
    an_always_ready_file_gets_its_turn_where_more_is_ready_than_fits,
    negative_numbers_are_refused_with_the_source,
    a_number_that_is_not_open_is_refused_with_the_source,
    a_descriptor_closed_behind_the_events_back_is_disarmed_without_error_or_spin,
    a_descriptor_closed_behind_the_events_back_while_a_change_is_due_is_disarmed,
    the_number_of_a_descriptor_that_was_closed_behind_the_events_back_can_be_watched_again,
);

fn a_batch_of_ready_descriptors_costs_one_wait(kind: BackendKind) {
    let context = context(kind);
    let calls = Rc::new(Cell::new(0));
    let mut events = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = readable();
        let count = Rc::clone(&calls);
        let event = context.add_fd(ours, READ, move |_, _, _| count.set(count.get() + 1));
        events.push((event.unwrap(), theirs));
    }
    run_until(&context, "they are called", || calls.get() >= 400);
    let waits = context.stats().waits;
    assert!(waits <= 101, "{waits} waits for 400 calls");
}

fn what_another_thread_schedules_between_two_of_a_batch_may_add_descriptors(kind: BackendKind) {
    let context = context(kind);
    let calls = Rc::new(Cell::new(0));
    let mut events = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = readable();
        let count = Rc::clone(&calls);
        let event = context.add_fd(ours, READ, move |context, _, _| {
            count.set(count.get() + 1);
            if count.get() == 6 {
                let remote = context.remote();
                let other = std::thread::spawn(move || {
                    remote.schedule(|context| {
                        let (ours, _theirs) = readable();
                        let event = context.add_fd(ours, READ, |_, _, _| ());
                        event.unwrap().detach();
                        context.stop();
                    })
                });
                assert!(other.join().unwrap());
            }
        });
        events.push((event.unwrap(), theirs));
    }
    context.run().unwrap();
    assert_eq!(calls.get(), 6, "it goes before the rest of the batch");
}

fn events_are_level_triggered(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, log.fd("called")).unwrap();
    assert_eq!(
        turns(&context, 5),
        5,
        "it is called until the data was read"
    );
    drain(fd.get_ref());
    assert_eq!(turns(&context, 5), 0, "and not any more when it was");
    assert_eq!(log.len(), 5);
}

fn the_handler_gets_only_flags_it_asked_for(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    // Readable and writable.
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    for (flags, told) in [
        (READ, ":READ"),
        (WRITE, ":WRITE"),
        (READ | WRITE, ":READ|WRITE"),
        (READ | ERROR, ":READ"),
        (WRITE | ERROR, ":WRITE"),
        (FdFlags::all(), ":READ|WRITE"),
    ] {
        fd.set_flags(flags);
        assert!(turn(&context));
        assert_eq!(log.take(), told, "of an event that wants {flags:?}");
    }
    fd.set_flags(ERROR);
    assert_eq!(turns(&context, 3), 0, "there is no error");
}

fn flags_can_be_turned_on_and_off(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, NOTHING, |_, _, _| ()).unwrap();
    fd.set_readable(true);
    assert_eq!(fd.flags(), READ);
    fd.set_writable(true);
    assert_eq!(fd.flags(), READ | WRITE);
    fd.set_want_error(true);
    assert_eq!(fd.flags(), READ | WRITE | ERROR);
    fd.set_readable(false);
    assert_eq!(fd.flags(), WRITE | ERROR);
    fd.set_writable(false);
    assert_eq!(fd.flags(), ERROR);
    fd.set_want_error(false);
    assert_eq!(fd.flags(), NOTHING);
    assert_eq!(
        (READ.bits(), WRITE.bits(), ERROR.bits()),
        (1, 2, 4),
        "the values of tevent"
    );
}

fn changed_flags_hold_from_the_next_wait_on(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, NOTHING, log.flags("")).unwrap();
    assert_eq!(turns(&context, 2), 0);
    fd.set_writable(true);
    assert_eq!(turns(&context, 2), 2, "WRITE was turned on");
    fd.set_writable(false);
    assert_eq!(turns(&context, 2), 0, "WRITE was turned off");
    fd.set_readable(true);
    assert_eq!(turns(&context, 2), 2, "READ was turned on");
    assert_eq!(log.take(), ":WRITE :WRITE :READ :READ");
}

fn a_half_closed_peer_is_something_to_read(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = pair();
    let fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ");
    assert!(drain(fd.get_ref()), "it is the end");
}

fn hang_up_is_read_to_an_event_that_wants_read(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = pair();
    let _fd = context.add_fd(ours, READ, log.flags("")).unwrap();
    drop(theirs);
    assert_eq!(turns(&context, 2), 2);
    assert_eq!(log.take(), ":READ :READ");
    // With a pipe the kernel reports hang-up alone, and nothing to read.
    let (reader, writer) = pipe();
    drop(writer);
    drop(_fd);
    let _fd = context.add_fd(reader, READ, log.flags("")).unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ", "hang-up without anything to read");
}

fn hang_up_is_error_to_an_event_that_wants_error(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = pair();
    let _fd = context.add_fd(ours, ERROR, log.flags("")).unwrap();
    assert_eq!(turns(&context, 2), 0);
    drop(theirs);
    assert!(turn(&context));
    assert_eq!(log.take(), ":ERROR");
}

fn hang_up_is_both_to_an_event_that_wants_both(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (reader, writer) = pipe();
    let _fd = context.add_fd(reader, READ | ERROR, log.flags("")).unwrap();
    drop(writer);
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ|ERROR");
}

fn hang_up_is_told_with_what_is_left_to_read(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (reader, writer) = pipe();
    let _fd = context.add_fd(reader, READ | ERROR, log.flags("")).unwrap();
    std::fs::File::from(writer).write_all(b"x").unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ|ERROR");
}

fn an_event_that_wants_both_directions_is_told_the_one_that_is_ready(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, mut theirs) = pair();
    fill(&ours);
    theirs.write_all(b"x").unwrap();
    let event = context.add_fd(ours, READ | WRITE, log.flags("")).unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ", "there is no room");
    drain(event.get_ref());
    drain(&theirs);
    assert!(turn(&context));
    assert_eq!(log.take(), ":WRITE", "there is nothing to read");
    theirs.write_all(b"x").unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), ":READ|WRITE");
}

fn hang_up_is_not_told_to_an_event_that_wants_only_write_and_does_not_spin(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    fill(&ours);
    let fd = context
        .add_fd(ours, WRITE, |_, _, _| unreachable!())
        .unwrap();
    assert_eq!(turns(&context, 2), 0, "there is no room");
    drop(theirs);
    assert_eq!(turns(&context, 2), 0, "it isn't told");
    assert_eq!(fd.flags(), NOTHING, "its WRITE flag is cleared");
    assert_no_spin(&context, "the event that wanted WRITE only is disarmed");
    context.run().expect("there is nothing left to wait for");
}

fn an_error_is_told_to_write_with_error_and_not_to_write_alone(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    for (flags, told) in [
        (WRITE | ERROR, ":WRITE|ERROR"),
        (ERROR, ":ERROR"),
        (WRITE, ""),
    ] {
        let (reader, writer) = pipe();
        let fd = context.add_fd(writer, flags, log.flags("")).unwrap();
        drop(reader);
        turn(&context);
        assert_eq!(log.take(), told, "an event that wants {flags:?}");
        assert_eq!(fd.flags(), if flags == WRITE { NOTHING } else { flags });
    }
}

fn an_event_that_wanted_only_write_can_be_armed_again_and_does_not_spin(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = pair();
    let fd = context.add_fd(ours, WRITE, log.flags("")).unwrap();
    drop(theirs);
    settle(&context);
    fd.set_writable(true);
    settle(&context);
    assert_eq!(
        (log.take(), fd.flags()),
        (String::new(), NOTHING),
        "cleared once more"
    );
    fd.set_flags(WRITE | READ);
    assert!(turn(&context));
    assert!(log.take().contains("READ"), "now it wants to know");
}

fn an_event_without_flags_gets_nothing_and_costs_no_wake_ups(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = context
        .add_fd(ours, NOTHING, |_, _, _| unreachable!())
        .unwrap();
    theirs.write_all(b"x").unwrap();
    assert_no_spin(&context, "an event without flags isn't told of data");
    drop(theirs);
    assert_no_spin(&context, "an event without flags isn't told of hang-up");
    assert!(fd.is_registered());
    fd.set_readable(true);
    fd.set_readable(false);
    assert_no_spin(
        &context,
        "an event whose flags were cleared isn't told of hang-up",
    );
}

fn an_event_without_flags_beside_others_gets_nothing(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let ours = std::rc::Rc::new(ours);
    let unreachable = |_: &_, _: &_, _| unreachable!();
    let _silent = context
        .add_fd(std::rc::Rc::clone(&ours), NOTHING, unreachable)
        .unwrap();
    let _called = context.add_fd(ours, READ, log.fd("called")).unwrap();
    assert_eq!(turns(&context, 3), 3);
    drop(theirs);
    assert_eq!(turns(&context, 3), 3);
    assert_eq!(log.count("called"), 6);
}

/// What epoll can't watch: always ready under the other backends.
#[track_caller]
fn always_ready_or_refused(kind: BackendKind, path: &str) {
    let context = context(kind);
    let log = Log::new();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let number = file.as_raw_fd();
    match context.add_fd(file, READ, log.flags("")) {
        Err(error) => {
            assert_eq!(kind, BackendKind::Epoll, "{kind} takes it: {error}");
            assert_eq!(error.error().kind(), std::io::ErrorKind::PermissionDenied);
            let file = error.into_source();
            assert_eq!(file.as_raw_fd(), number, "the source comes back");
            file.metadata().expect("and it is open");
            assert_eq!(turns(&context, 2), 0, "nothing is left of it");
        }
        Ok(fd) => {
            assert_ne!(kind, BackendKind::Epoll, "epoll can't watch it");
            assert_eq!(turns(&context, 2), 2);
            assert_eq!(log.take(), ":READ :READ", "it is always readable");
            fd.set_flags(READ | WRITE);
            assert!(turn(&context));
            assert_eq!(log.take(), ":READ|WRITE", "and always writable");
            fd.set_flags(ERROR);
            assert_no_spin(&context, "there is no error to tell");
            fd.set_flags(NOTHING);
            assert_no_spin(&context, "it wants nothing");
            fd.set_flags(WRITE);
            assert!(turn(&context));
            assert_eq!(log.take(), ":WRITE");
            drop(fd);
            assert_eq!(turns(&context, 2), 0, "it was removed");
        }
    }
}

fn a_regular_file_is_always_ready_or_refused_with_the_source(kind: BackendKind) {
    let path = std::env::temp_dir().join(format!("tevent-fd-{kind}-{}", std::process::id()));
    std::fs::write(&path, b"content").unwrap();
    always_ready_or_refused(kind, path.to_str().unwrap());
    std::fs::remove_file(path).unwrap();
}

fn dev_null_is_always_ready_or_refused_with_the_source(kind: BackendKind) {
    always_ready_or_refused(kind, "/dev/null");
}

fn an_always_ready_file_that_is_gone_is_no_spin(kind: BackendKind) {
    for reinitialises in [false, true] {
        let context = context(kind);
        let file = std::fs::File::open("/dev/null").unwrap();
        let Ok(event) = context.add_fd(file, READ, |_, _, _| ()) else {
            return; // epoll refuses it
        };
        assert!(turn(&context));
        match reinitialises {
            true => context.reinitialise().unwrap(),
            false => event.remove(),
        }
        let (ours, _theirs) = pair();
        let _other = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
        assert_no_spin(&context, "the file is gone");
    }
}

fn an_always_ready_file_starves_nobody(kind: BackendKind) {
    for batch in [1, 2, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let mut kept = Vec::new();
        for name in ["file", "other"] {
            let file = std::fs::File::open("/dev/null").unwrap();
            kept.extend(context.add_fd(file, READ, log.fd(name)).ok());
        }
        let (ours, _theirs) = readable();
        let _socket = context.add_fd(ours, READ, log.fd("socket")).unwrap();
        assert_eq!(turns(&context, 30), 30);
        assert!(
            log.count("socket") >= 7,
            "the socket gets its turns, batch {batch}"
        );
        if !kept.is_empty() {
            assert!(log.count("file") >= 7, "so does one file, batch {batch}");
            assert!(log.count("other") >= 7, "and the other, batch {batch}");
        }
    }
}

fn an_always_ready_file_gets_its_turn_where_more_is_ready_than_fits(kind: BackendKind) {
    let context = builder(kind).batch(3).build().unwrap();
    let log = Log::new();
    let sockets: Vec<_> = (0..8).map(|_| readable()).collect();
    let mut kept = Vec::new();
    let mut peers = Vec::new();
    for (ours, theirs) in sockets {
        kept.push(context.add_fd(ours, READ, log.fd("socket")).unwrap());
        peers.push(theirs);
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    let file = context.add_fd(file, READ, log.fd("file"));
    assert_eq!(turns(&context, 60), 60);
    if file.is_ok() {
        let (files, sockets) = (log.count("file"), log.count("socket"));
        assert!(files >= 6, "the file is called: {files} of {sockets}");
    }
}

fn negative_numbers_are_refused_with_the_source(kind: BackendKind) {
    let context = context(kind);
    // -1 can't even be borrowed.
    let error = context
        .add_fd(Number(-2), READ, |_, _, _| unreachable!())
        .unwrap_err();
    assert_eq!(error.error().kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(error.into_source().0, -2, "the source comes back");
    context.run().expect("nothing was added");
}

fn a_number_that_is_not_open_is_refused_with_the_source(kind: BackendKind) {
    let context = context(kind);
    // Above every limit on open files.
    let number = i32::MAX - 7;
    let dropped = Log::new();
    let witness = dropped.on_drop("handler");
    let handler = move |_: &_, _: &_, _| witness.keep();
    let error = context.add_fd(Number(number), READ, handler).unwrap_err();
    assert_eq!(dropped.take(), "handler", "the handler is dropped");
    assert_eq!(error.into_source().0, number, "the source comes back");
    context.run().expect("nothing was added");
}

fn a_descriptor_closed_behind_the_events_back_is_disarmed_without_error_or_spin(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let Number(number) = number_of_our_own(ours);
    let fd = context
        .add_fd(Number(number), READ, log.fd("called"))
        .unwrap();
    let (other, _other_peer) = readable();
    let other = context.add_fd(other, READ, log.fd("other")).unwrap();
    turns(&context, 2);
    close(number);
    log.take();
    assert_eq!(turns(&context, 10), 10, "others are served");
    assert!(
        log.count("called") <= 1,
        "at most what was fetched before is delivered"
    );
    drain(other.get_ref());
    assert_no_spin(&context, "the event was disarmed");
    drop(fd);
    assert_no_spin(&context, "the event was removed");
}

fn a_descriptor_closed_behind_the_events_back_while_a_change_is_due_is_disarmed(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let Number(number) = number_of_our_own(ours);
    let fd = context
        .add_fd(Number(number), READ, |_, _, _| unreachable!())
        .unwrap();
    close(number);
    fd.set_flags(READ | WRITE);
    assert_eq!(
        turns(&context, 3),
        0,
        "it is no error, and nothing is called"
    );
    assert_eq!(fd.flags(), NOTHING, "the event is disarmed");
    assert_no_spin(&context, "the event was disarmed");
}

fn the_number_of_a_descriptor_that_was_closed_behind_the_events_back_can_be_watched_again(
    kind: BackendKind,
) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = pair();
    let Number(number) = number_of_our_own(ours);
    let fd = context
        .add_fd(Number(number), READ, |_, _, _| unreachable!())
        .unwrap();
    close(number);
    settle(&context);
    drop(fd);
    let (again, _again_peer) = readable();
    put_at(again, number);
    let fd = context
        .add_fd(Number(number), READ, log.fd("called"))
        .unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), "called");
    drop(fd);
    close(number);
}

#[test]
fn files_and_sockets_take_turns_at_being_first() {
    let context = builder(BackendKind::Standard).batch(2).build().unwrap();
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _socket = context.add_fd(ours, READ, log.fd("socket")).unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let _file = context.add_fd(file, READ, log.fd("file")).unwrap();
    assert_eq!(turns(&context, 8), 8);
    assert_eq!(
        log.take(),
        "socket file file socket socket file file socket"
    );
}

fn an_always_ready_file_alone_is_served_in_turn_after_turn(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let _silent = context.add_fd(ours, READ, |_, _, _| unreachable!());
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let file = std::fs::File::open("/dev/null").unwrap();
    let Ok(_event) = context.add_fd(file, READ, move |_, _, _| counter.set(counter.get() + 1))
    else {
        assert_eq!(kind, BackendKind::Epoll, "epoll alone refuses it");
        return;
    };
    run_until(&context, "the file is served again and again", || {
        calls.get() >= 10
    });
}

fn a_regular_file_that_comes_in_a_handler_is_served(kind: BackendKind) {
    let context = context(kind);
    let is_served = Flag::new();
    let served = is_served.clone();
    let calls = Cell::new(0);
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, move |context, event, _| {
        calls.set(calls.get() + 1);
        if calls.get() < 3 {
            return;
        }
        // Nothing but the file is ready from here on.
        drain(event.get_ref());
        let inner = served.clone();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        match context.add_fd(file, READ, move |_, _, _| inner.set()) {
            Ok(event) => event.detach(),
            Err(error) => {
                assert_eq!(kind, BackendKind::Epoll, "{error}");
                served.set();
            }
        }
    });
    run_until(&context, "the file is served", || is_served.is_set());
}
