//! The loop inside another: its descriptor, its next deadline, and turns that don't wait.

mod common;
mod embedded;

use common::*;
use embedded::{EpollLoop, chain};
use rustix::event::epoll;
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
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
    a_turn_that_does_not_wait_calls_one_handler_and_leaves_the_timeout,
    a_loop_in_a_handler_of_a_turn_that_does_not_wait_does,
    a_turn_that_does_not_wait_is_a_loop_of_its_own,
    changes_made_between_turns_are_heard_of,
    wakes_and_awaiting_between_turns_make_the_descriptor_readable,
    an_epoll_loop_around_misses_nothing,
    an_epoll_loop_around_that_is_idle_sleeps,
    another_loops_descriptor_is_a_source_like_any_other,
    an_epoll_loop_around_adds_the_descriptor_again_after_reinitialise,
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

fn a_turn_that_does_not_wait_calls_one_handler_and_leaves_the_timeout(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("fd")).unwrap();
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    context.defer(log.once("immediate"));
    for said in ["immediate", "timer", "fd"] {
        assert!(context.run_ready().unwrap());
        assert_eq!(log.take(), said, "one a turn, and in order");
    }
    assert_eq!(context.wait_timeout(), Some(GUARD));
    drop((_fd, _timer));
    let _later = context.add_timer_after(GUARD, |_, _| ());
    let start = Instant::now();
    for _ in 0..3 {
        assert!(!context.run_ready().unwrap());
    }
    assert!(start.elapsed() < GUARD, "it has waited");
    context.set_wait_timeout(None);
    assert!(!context.run_ready().unwrap());
}

fn a_loop_in_a_handler_of_a_turn_that_does_not_wait_does(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    context.defer(move |context| counter.set(turns_in_a_while(context)));
    assert!(context.run_ready().unwrap());
    assert!(turns.get() <= 6, "the inner loop spun: {}", turns.get());
}

fn a_turn_that_does_not_wait_is_a_loop_of_its_own(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let note = log.clone();
    context.defer(move |context| {
        let error = context.run_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadlock);
        note.add("refused");
    });
    let note = log.clone();
    context.set_nesting_hook(move |_: &Context, nesting| {
        note.add(format!("{nesting:?}"));
    });
    assert!(context.run_ready().unwrap());
    assert_eq!(log.take(), "Begin(1) refused End(1)");
    // It ends with the turn, and a request to stop with it.
    context.defer(|context| context.stop());
    context.defer(log.once("after"));
    context.clear_nesting_hook();
    assert!(context.run_ready().unwrap() && context.run_ready().unwrap());
    assert_eq!(log.take(), "after");
    context.defer(|_| panic!("in a turn"));
    assert_eq!(panic_of(|| context.run_ready()), "in a turn");
    assert!(!context.run_ready().unwrap());
}

fn changes_made_between_turns_are_heard_of(kind: BackendKind) {
    let context = context(kind);
    let is_due = |what: &str| {
        let deadline = context.next_deadline();
        assert!(deadline.is_some_and(|due| due <= context.now()), "{what}");
        settle(&context);
    };
    context.defer(|_| ());
    is_due("a deferred closure");
    let _timer = context.add_timer(context.now(), |_, _| ());
    is_due("a timer");
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, NOTHING, |_, _, _| ()).unwrap();
    assert_eq!(context.next_deadline(), None);
    fd.set_readable(true);
    let deadline = context.next_deadline();
    assert!(deadline.is_some_and(|due| due <= context.now()), "a change");
}

/// What futures do, whoever polls them, is told to who waits for the descriptor: they can't know that
/// the loop isn't running.
fn wakes_and_awaiting_between_turns_make_the_descriptor_readable(kind: BackendKind) {
    let context = context(kind);
    let quiet = |what: &str| {
        settle(&context);
        assert!(!is_readable(context.as_fd(), Duration::ZERO), "{what}");
    };
    let told = |what: &str| {
        assert!(is_readable(context.as_fd(), Duration::ZERO), "{what}");
        quiet(what);
    };
    quiet("nothing has happened");
    let gate = common::futures::Gate::new();
    let task = context.spawn(gate.pass());
    told("a task was spawned");
    gate.wake();
    gate.wake();
    told("a task was woken");
    gate.open();
    told("it is woken again, and ends");
    assert!(task.is_finished());

    // What is built on immediates.
    let queue = context.queue("turns");
    let (request, completer) = context.request::<(), ()>("request");
    let _entry = queue.add(&completer, |_, _| ());
    told("a request is at the head of a queue");
    request.set_timeout(GUARD);
    told("a request has a deadline");
    request.on_complete(|_, _| ());
    completer.finish_later(Ok::<(), ()>(()));
    told("a request calls back");

    // Polled by somebody else.
    let mut sleep = std::pin::pin!(context.sleep(GUARD));
    let mut poll = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(sleep.as_mut().poll(&mut poll).is_pending());
    told("somebody awaits the clock");
    sleep.reset(context.now() + GUARD * 2);
    told("until another time");
    let (ours, mut theirs) = pair();
    let fd = context.add_async_fd(ours).unwrap();
    let mut ready = std::pin::pin!(fd.ready(READ));
    assert!(ready.as_mut().poll(&mut poll).is_pending());
    told("somebody awaits a descriptor");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = context.add_async_listener(socket).unwrap();
    let mut accept = std::pin::pin!(listener.accept());
    assert!(accept.as_mut().poll(&mut poll).is_pending());
    told("somebody awaits a client");
    theirs.write_all(b"x").unwrap();
    if kind != BackendKind::Poll {
        assert!(is_readable(context.as_fd(), Duration::ZERO));
    }
    settle(&context);
    assert!(ready.as_mut().poll(&mut poll).is_ready());
}

/// The need: to run inside a loop that a program has already, which another library or a toolkit
/// brought along.
fn an_epoll_loop_around_misses_nothing(kind: BackendKind) {
    if kind == BackendKind::Poll {
        // There is no descriptor that descriptors are behind: as documented.
        return;
    }
    for edge in [false, true] {
        let context = context(kind);
        let around = EpollLoop::around(&context, edge);
        let done = chain(&context, 50);
        around.run_until(&context, "fifty rounds", || done.get() == 50);
        // Each round has seven handlers and as many wake-ups; a loop that spins makes thousands.
        let turns = around.counts.turns.get();
        assert!(turns < 50 * 40, "edge {edge}: {turns} turns for 50 rounds");
    }
}

fn an_epoll_loop_around_that_is_idle_sleeps(kind: BackendKind) {
    for edge in [false, true] {
        let context = context(kind);
        let around = EpollLoop::around(&context, edge);
        let (ours, _theirs) = pair();
        let _fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
        let _waiting = context.spawn(std::future::pending::<()>());
        let deadline = context.now() + Duration::from_millis(30);
        let fired = Flag::new();
        let setter = fired.clone();
        let _timer = context.add_timer(deadline, move |_, _| setter.set());
        around.run_until(&context, "the timer fires", || fired.is_set());
        let (waits, turns) = (around.counts.waits.get(), around.counts.turns.get());
        assert!(waits <= 4, "edge {edge}: {waits} waits");
        assert!(turns <= 10, "edge {edge}: {turns} turns");
    }
}

/// The other way round: an epoll instance, with descriptors of its own, inside ours.
fn another_loops_descriptor_is_a_source_like_any_other(kind: BackendKind) {
    let context = context(kind);
    let theirs = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let (first, mut to_first) = pair();
    let (second, mut to_second) = pair();
    let sockets = [first, second];
    for (number, socket) in sockets.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&theirs, socket, data, epoll::EventFlags::IN).unwrap();
    }
    let served = Rc::new(RefCell::new(Vec::new()));
    let note = Rc::clone(&served);
    let _theirs = context.add_fd(theirs, READ, move |_, theirs, _| {
        let mut events = Vec::with_capacity(8);
        let zero = rustix::event::Timespec::default();
        let room = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(theirs.get_ref(), room, Some(&zero)).unwrap();
        assert!(!events.is_empty(), "it was readable");
        for event in events {
            let number = event.data.u64() as usize;
            drain(&sockets[number]);
            note.borrow_mut().push(number);
        }
    });
    assert_no_spin(&context, "nothing is ready in there");
    for round in 0..3 {
        to_second.write_all(b"x").unwrap();
        run_until(&context, "theirs is called", || served.borrow().len() == 1);
        assert_eq!(served.take(), [1], "round {round}");
        to_first.write_all(b"x").unwrap();
        run_until(&context, "theirs is called", || served.borrow().len() == 1);
        assert_eq!(served.take(), [0], "round {round}");
    }
    assert_no_spin(&context, "all was read");
}

/// The number is the same, and so a loop that passes it to `poll` goes on; an epoll set holds what was
/// behind it.
fn an_epoll_loop_around_adds_the_descriptor_again_after_reinitialise(kind: BackendKind) {
    let context = context(kind);
    let around = EpollLoop::around(&context, false);
    let remote = context.remote();
    let called = Flag::new();
    context.reinitialise().unwrap();
    drop(around);
    let around = EpollLoop::around(&context, false);
    let worker = std::thread::spawn(move || remote.schedule(|context| context.stop()));
    let setter = called.clone();
    let watch = context.spawn(async move {
        let _told = OnDrop(move || setter.set());
        tevent::yield_now().await;
    });
    around.run_until(&context, "it is told", || called.is_set());
    drop(watch);
    worker.join().unwrap();
}
