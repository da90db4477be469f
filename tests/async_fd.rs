//! Descriptors whose readiness is awaited.

mod common;

use common::futures::{Gate, Wakes, block_on};
use common::recording::{Call, recorded};
use common::*;
use futures_lite::future::{or, poll_once};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tevent::{AsyncFd, BackendKind, Context};

on_every_backend!(
    readable_is_readable,
    writable_is_writable,
    of_several_flags_those_that_are_ready_are_told,
    waiting_for_nothing_is_an_error,
    a_descriptor_that_is_ready_is_reported_each_time,
    what_comes_while_nobody_waits_is_not_lost,
    hang_up_ends_every_wait,
    a_reset_ends_a_wait_for_room_alone,
    an_error_alone_ends_a_wait_for_room,
    half_a_hang_up_is_no_end_for_a_writer_and_no_spin,
    a_waiter_is_not_woken_for_what_another_waits_for,
    what_was_told_and_not_fetched_yet_is_no_spin,
    two_tasks_read_and_write_one_socket,
    readers_of_one_socket_are_woken_one_at_a_time_in_order,
    a_reader_that_is_dropped_after_its_wake_leaves_it_to_the_next,
    a_reader_that_is_dropped_before_its_turn_leaves_the_first_waiting,
    a_dropped_wait_wakes_nobody_and_costs_no_spin,
    nobody_waiting_is_nothing_to_wait_for,
    others_on_the_same_descriptor_are_told_too,
    removing_ends_every_wait,
    reinitialising_ends_every_wait,
    the_end_of_the_context_ends_every_wait,
    the_source_comes_back,
    dropping_it_closes_the_source,
    io_waits_until_it_can,
    io_gives_errors_back,
    a_wait_can_be_handed_to_another_task,
    a_wait_can_be_repeated,
    adding_to_a_context_that_is_gone_gives_the_source_back,
    a_megabyte_goes_through_with_a_timeout_for_each_read,
    its_name_and_tag_are_the_events,
);

fn add(context: &Context, socket: UnixStream) -> AsyncFd<UnixStream> {
    context.add_async_fd(socket).expect("it can be watched")
}

fn readable_is_readable(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = add(&context, ours);
    let mut wait = pin!(fd.ready(READ));
    assert!(block_on(&context, "it is polled", poll_once(&mut wait)).is_none());
    assert_eq!(settle(&context), 0, "not readable yet");
    theirs.write_all(b"x").unwrap();
    assert_eq!(block_on(&context, "it is readable", wait).unwrap(), READ);
}

fn writable_is_writable(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    fill(&ours);
    let fd = add(&context, ours);
    let mut wait = pin!(fd.ready(WRITE));
    assert!(block_on(&context, "it is polled", poll_once(&mut wait)).is_none());
    assert_eq!(settle(&context), 0, "no room yet");
    drain(&theirs);
    assert_eq!(block_on(&context, "there is room", wait).unwrap(), WRITE);
}

fn of_several_flags_those_that_are_ready_are_told(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = add(&context, ours);
    let ready = block_on(&context, "there is room", fd.ready(READ | WRITE));
    assert_eq!(ready.unwrap(), WRITE);
    theirs.write_all(b"x").unwrap();
    let ready = block_on(&context, "both", fd.ready(READ | WRITE));
    assert_eq!(ready.unwrap(), READ | WRITE);
    fill(fd.get_ref());
    let ready = block_on(&context, "it is readable", fd.ready(READ | WRITE | ERROR));
    assert_eq!(ready.unwrap(), READ);
}

fn waiting_for_nothing_is_an_error(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let fd = add(&context, ours);
    let error = block_on(&context, "it is told", fd.ready(NOTHING)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

fn a_descriptor_that_is_ready_is_reported_each_time(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = add(&context, ours);
    for _ in 0..10 {
        let ready = block_on(&context, "it is readable still", fd.ready(READ));
        assert_eq!(ready.unwrap(), READ);
    }
}

fn what_comes_while_nobody_waits_is_not_lost(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = add(&context, ours);
    assert_eq!(settle(&context), 0);
    theirs.write_all(b"x").unwrap();
    assert_eq!(settle(&context), 0, "nobody is to be told");
    block_on(&context, "it is readable", fd.ready(READ)).unwrap();
}

fn hang_up_ends_every_wait(kind: BackendKind) {
    let context = context(kind);
    for (flags, told) in [
        (READ, READ),
        (ERROR, ERROR),
        (READ | ERROR, READ | ERROR),
        (WRITE, WRITE),
        (READ | WRITE, READ | WRITE),
    ] {
        let (ours, theirs) = pair();
        fill(&ours);
        let fd = Rc::new(add(&context, ours));
        let waiting = Rc::clone(&fd);
        let task = context.spawn(async move { waiting.ready(flags).await });
        settle(&context);
        assert!(!task.is_finished());
        drop(theirs);
        let ready = block_on(&context, "it is told of the hang-up", task);
        let ready = ready.unwrap().unwrap();
        assert!(
            ready.intersects(told) && flags.contains(ready),
            "{flags:?}: {ready:?}"
        );
    }
}

fn a_reset_ends_a_wait_for_room_alone(kind: BackendKind) {
    let context = context(kind);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    while (&client).write(&[0; 65536]).is_ok() {}
    let fd = Rc::new(context.add_async_fd(client).unwrap());
    let waiting = Rc::clone(&fd);
    let task = context.spawn(async move {
        waiting
            .io(WRITE, |mut client| client.write(&[0; 65536]))
            .await
    });
    settle(&context);
    // With unread data, which is a reset.
    drop(server);
    let result = block_on(&context, "it is told of the reset", task).unwrap();
    let kind = result.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{kind:?}"
    );
}

fn an_error_alone_ends_a_wait_for_room(kind: BackendKind) {
    let context = context(kind);
    let (reader, writer) = pipe();
    let mut writer = std::fs::File::from(writer);
    while writer.write(&[0; 4096]).is_ok() {}
    let fd = context.add_async_fd(writer).unwrap();
    let mut wait = pin!(fd.ready(WRITE));
    assert!(block_on(&context, "it is polled", poll_once(&mut wait)).is_none());
    assert_eq!(settle(&context), 0, "the pipe is full");
    // Without a reader there is an error, and no room either.
    drop(reader);
    let ready = block_on(&context, "it is told of the error", wait);
    assert_eq!(ready.unwrap(), WRITE);
}

fn a_waiter_is_not_woken_for_what_another_waits_for(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    fill(&ours);
    let fd = add(&context, ours);
    let (of_writer, of_reader) = (Wakes::new(), Wakes::new());
    let (mut writer, mut reader) = (pin!(fd.ready(WRITE)), pin!(fd.ready(READ)));
    assert!(of_writer.poll(writer.as_mut()).is_pending());
    assert!(of_reader.poll(reader.as_mut()).is_pending());
    theirs.write_all(b"x").unwrap();
    settle(&context);
    assert_eq!((of_writer.count(), of_reader.count()), (0, 1));
}

fn what_was_told_and_not_fetched_yet_is_no_spin(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = add(&context, ours);
    let wakes = Wakes::new();
    let mut wait = pin!(fd.ready(READ));
    assert!(wakes.poll(wait.as_mut()).is_pending());
    theirs.write_all(b"x").unwrap();
    assert_eq!(settle(&context), 1);
    assert_eq!(wakes.count(), 1);
    assert_no_spin(&context, "it was told");
    assert!(wakes.poll(wait.as_mut()).is_ready());
}

fn half_a_hang_up_is_no_end_for_a_writer_and_no_spin(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    fill(&ours);
    let fd = Rc::new(add(&context, ours));
    let waiting = Rc::clone(&fd);
    let task = context.spawn(async move { waiting.ready(WRITE).await });
    settle(&context);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert_no_spin(&context, "the peer reads still");
    assert!(!task.is_finished());
    drain(&theirs);
    assert_eq!(
        block_on(&context, "there is room", task).unwrap().unwrap(),
        WRITE
    );
}

fn two_tasks_read_and_write_one_socket(kind: BackendKind) {
    const LENGTH: usize = 1 << 20;
    let context = context(kind);
    let (ours, theirs) = pair();
    let ends = [ours, theirs].map(|socket| Rc::new(add(&context, socket)));
    let mut tasks = Vec::new();
    for fd in &ends {
        let (reader, writer) = (Rc::clone(fd), Rc::clone(fd));
        tasks.push(context.spawn(async move {
            let mut count = 0;
            let mut buffer = vec![0; 4096];
            while count < LENGTH {
                count += reader
                    .io(READ, |mut socket| socket.read(&mut buffer))
                    .await?;
            }
            Ok::<_, io::Error>(count)
        }));
        tasks.push(context.spawn(async move {
            let mut count = 0;
            while count < LENGTH {
                let rest = vec![0; LENGTH - count];
                count += writer.io(WRITE, |mut socket| socket.write(&rest)).await?;
            }
            Ok(count)
        }));
    }
    for task in tasks {
        let count = block_on(&context, "all goes through", task).unwrap();
        assert_eq!(count.unwrap(), LENGTH);
    }
}

/// A task that reads one byte, and writes `entry` then.
fn reader(
    context: &Context,
    fd: &Rc<AsyncFd<UnixStream>>,
    log: &Log,
    entry: &'static str,
) -> tevent::Task<()> {
    let (fd, log) = (Rc::clone(fd), log.clone());
    context.spawn(async move {
        let mut byte = [0];
        let count = fd.io(READ, |mut socket| socket.read(&mut byte)).await;
        assert_eq!(count.unwrap(), 1);
        log.add(entry);
    })
}

fn readers_of_one_socket_are_woken_one_at_a_time_in_order(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let (fd, log) = (Rc::new(add(&context, ours)), Log::new());
    let _readers = ["a", "b", "c"].map(|entry| reader(&context, &fd, &log, entry));
    settle(&context);
    theirs.write_all(b"x").unwrap();
    assert_eq!(settle(&context), 2, "the event and one reader");
    assert_eq!(log.take(), "a");
    theirs.write_all(b"xx").unwrap();
    settle(&context);
    assert_eq!(log.take(), "b c");
}

fn a_reader_that_is_dropped_after_its_wake_leaves_it_to_the_next(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let (fd, log) = (Rc::new(add(&context, ours)), Log::new());
    let first = reader(&context, &fd, &log, "first");
    let _second = reader(&context, &fd, &log, "second");
    settle(&context);
    theirs.write_all(b"x").unwrap();
    assert!(turn(&context), "the event is called and wakes the first");
    drop(first);
    settle(&context);
    assert_eq!(log.take(), "second");
}

fn a_reader_that_is_dropped_before_its_turn_leaves_the_first_waiting(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let (fd, log) = (Rc::new(add(&context, ours)), Log::new());
    let _first = reader(&context, &fd, &log, "first");
    let second = reader(&context, &fd, &log, "second");
    settle(&context);
    drop(second);
    theirs.write_all(b"x").unwrap();
    settle(&context);
    assert_eq!(log.take(), "first");
}

fn a_dropped_wait_wakes_nobody_and_costs_no_spin(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let (fd, log) = (Rc::new(add(&context, ours)), Log::new());
    let task = reader(&context, &fd, &log, "read");
    settle(&context);
    drop(task);
    theirs.write_all(b"x").unwrap();
    assert_eq!(settle(&context), 0);
    assert_no_spin(&context, "nobody waits");
}

fn nobody_waiting_is_nothing_to_wait_for(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = add(&context, ours);
    context.run().unwrap();
    block_on(&context, "it is readable", fd.ready(READ)).unwrap();
    context.run().unwrap();
}

fn others_on_the_same_descriptor_are_told_too(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, mut theirs) = pair();
    let ours = Rc::new(ours);
    let shared = context.add_async_fd(Rc::clone(&ours)).unwrap();
    let again = context.add_async_fd(Rc::clone(&ours)).unwrap();
    let _event = context.add_fd(ours, READ, log.flags("event")).unwrap();
    let inner = log.clone();
    let task = context.spawn(async move {
        shared.ready(READ).await.unwrap();
        again.ready(READ).await.unwrap();
        inner.add("both");
    });
    theirs.write_all(b"x").unwrap();
    block_on(&context, "both are told", task).unwrap();
    run_until(&context, "the handler is called", || {
        log.count("event:READ") > 0
    });
    assert_eq!(log.count("both"), 1);
}

/// Two tasks that wait, one of each kind, and what they are told.
fn waiting(context: &Context, fd: &Rc<AsyncFd<UnixStream>>) -> [tevent::Task<io::Result<()>>; 2] {
    [READ, ERROR].map(|flags| {
        let fd = Rc::clone(fd);
        context.spawn(async move { fd.ready(flags).await.map(drop) })
    })
}

#[track_caller]
fn assert_over(context: &Context, task: tevent::Task<io::Result<()>>) {
    let result = block_on(context, "it is told", task);
    let error = result.expect("this context is there").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

fn removing_ends_every_wait(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let fd = Rc::new(add(&context, ours));
    let tasks = waiting(&context, &fd);
    settle(&context);
    fd.remove();
    for task in tasks {
        assert_over(&context, task);
    }
    let again = waiting(&context, &fd);
    for task in again {
        assert_over(&context, task);
    }
    assert!(!fd.is_registered());
}

fn reinitialising_ends_every_wait(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let (ours, _theirs) = pair();
    let fd = Rc::new(add(&one, ours));
    let tasks = waiting(&another, &fd);
    settle(&another);
    one.reinitialise().unwrap();
    for task in tasks {
        assert_over(&another, task);
    }
}

fn the_end_of_the_context_ends_every_wait(kind: BackendKind) {
    let one = context(kind);
    let another = context(kind);
    let (ours, _theirs) = pair();
    let fd = Rc::new(add(&one, ours));
    let tasks = waiting(&another, &fd);
    settle(&another);
    drop(one);
    for task in tasks {
        assert_over(&another, task);
    }
}

fn the_source_comes_back(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    let fd = add(&context, ours);
    let wait = fd.ready(READ);
    assert!(block_on(&context, "it is polled", poll_once(wait)).is_none());
    let mut ours = fd.into_source().expect("nobody uses it");
    theirs.write_all(b"x").unwrap();
    assert_eq!(settle(&context), 0);
    assert_eq!(ours.read(&mut [0; 4]).unwrap(), 1);
}

fn dropping_it_closes_the_source(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    drop(add(&context, ours));
    assert!(drain(&theirs), "the peer sees the end");
}

fn io_waits_until_it_can(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    let fd = Rc::new(add(&context, ours));
    let log = Log::new();
    let task = reader(&context, &fd, &log, "read");
    settle(&context);
    assert_eq!(log.take(), "");
    (&theirs).write_all(b"x").unwrap();
    block_on(&context, "it reads", task).unwrap();
    assert_eq!(log.take(), "read");
}

fn io_gives_errors_back(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let fd = add(&context, ours);
    let mut interrupted = 3;
    let result = fd.io(READ, |_| {
        interrupted -= 1;
        match interrupted {
            0 => Err::<(), _>(io::Error::from_raw_os_error(libc::EIO)),
            _ => Err(ErrorKind::Interrupted.into()),
        }
    });
    let error = block_on(&context, "it fails", result).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

fn a_wait_can_be_handed_to_another_task(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = pair();
    // Leaked by a cycle no more than by this: the wait borrows it.
    let fd: &'static AsyncFd<UnixStream> = Box::leak(Box::new(add(&context, ours)));
    let mut wait = fd.ready(READ);
    let place = Place::empty();
    let giver = place.clone();
    let first = context.spawn(async move {
        assert!(poll_once(&mut wait).await.is_none());
        giver.put(wait);
    });
    let second = context.spawn(async move { place.take().unwrap().await });
    settle(&context);
    assert!(first.is_finished() && !second.is_finished());
    theirs.write_all(b"x").unwrap();
    let ready = block_on(&context, "the second is woken", second).unwrap();
    assert_eq!(ready.unwrap(), READ);
    fd.remove();
}

fn a_wait_can_be_repeated(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = add(&context, ours);
    let mut wait = fd.ready(READ);
    for _ in 0..3 {
        assert_eq!(
            block_on(&context, "it is readable", &mut wait).unwrap(),
            READ
        );
    }
}

fn adding_to_a_context_that_is_gone_gives_the_source_back(kind: BackendKind) {
    let gone = context(kind).downgrade();
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let refused = gone.add_async_fd(ours).expect_err("it is gone");
    assert_eq!(refused.error().kind(), ErrorKind::NotConnected);
    assert_eq!(refused.into_source().as_raw_fd(), number);
}

fn a_megabyte_goes_through_with_a_timeout_for_each_read(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    let (ours, theirs) = (add(&context, ours), add(&context, theirs));
    let writer = context.spawn(async move {
        let mut left = vec![7; 1 << 20];
        while !left.is_empty() {
            let count = ours.io(WRITE, |mut socket| socket.write(&left)).await?;
            left.drain(..count);
        }
        Ok::<_, io::Error>(())
    });
    let count = block_on(&context, "all is read", async {
        let mut count = 0;
        let mut buffer = vec![0; 4096];
        loop {
            let read = theirs.io(READ, |mut socket| socket.read(&mut buffer));
            match context.timeout(GUARD, read).await.unwrap().unwrap() {
                0 => return count,
                more => count += more,
            }
        }
    });
    assert_eq!(count, 1 << 20);
    block_on(&context, "all is written", writer)
        .unwrap()
        .unwrap();
}

fn its_name_and_tag_are_the_events(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let (line, fd) = (line!(), add_here(&context, ours));
    fd.set_name("socket");
    fd.set_tag(7);
    assert_eq!((fd.name(), fd.tag()), (Some("socket".to_owned()), 7));
    assert_eq!(fd.location().map(|location| location.line()), Some(line));
}

#[track_caller]
fn add_here(context: &Context, socket: UnixStream) -> AsyncFd<UnixStream> {
    context.add_async_fd(socket).unwrap()
}

#[test]
fn reading_and_waiting_again_costs_no_change_of_the_kernels_set() {
    let (context, recorder) = recorded();
    let (ours, theirs) = pair();
    let number = ours.as_raw_fd();
    let fd = add(&context, ours);
    let gate = Gate::new();
    let (done, opener) = (gate.pass(), gate.clone());
    let reader = async {
        let mut buffer = [0; 16];
        loop {
            let count = fd.io(READ, |mut socket| socket.read(&mut buffer)).await;
            if buffer[..count.unwrap()].contains(&b'!') {
                opener.open();
            }
        }
    };
    let mut left = 100;
    let _timer = context.add_timer(context.now(), move |_, timer| {
        left -= 1;
        let byte = if left == 0 { b"!" } else { b"x" };
        (&theirs).write_all(byte).unwrap();
        if left > 0 {
            timer.set_after(Duration::from_micros(10));
        }
    });
    recorder.take();
    let added = Call::Add(number, READ);
    context.block_on(or(done, reader)).unwrap();
    let changes = recorder.take_changes();
    assert!(changes.is_empty(), "{changes:?}, it was {added:?} before");
}

#[test]
fn a_descriptor_that_the_backend_refuses_is_refused_when_it_is_added() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    recorder.fail_add.set(Some(libc::EPERM));
    let refused = context.add_async_fd(ours).expect_err("it is refused");
    assert_eq!(refused.error().raw_os_error(), Some(libc::EPERM));
    let _added = add(&context, refused.into_source());
}

#[test]
fn a_wait_that_the_backend_refuses_later_is_told_when_it_is_polled() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let fd = add(&context, ours);
    let mut wait = pin!(fd.ready(WRITE));
    assert!(block_on(&context, "it is polled", poll_once(&mut wait)).is_none());
    recorder.fail_modify.set(Some(libc::ENOMEM));
    recorder.fail_add.set(Some(libc::ENOMEM));
    assert!(context.run_once().is_err(), "the loop reports it");
    let result = block_on(&context, "the wait is over", wait);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
}
