//! What handlers, closures and sources do to the context while it calls or drops them: anything.

mod common;

use common::*;
use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context, Fd, FdFlags, Timer, WeakContext};

on_every_backend!(
    a_source_may_use_the_context_when_it_is_dropped,
    a_source_may_use_the_context_while_its_descriptor_is_asked_for,
    a_source_of_a_refused_event_may_use_the_context_when_it_is_dropped,
    a_descriptor_handlers_closure_may_use_the_context_when_it_is_dropped,
    a_timers_closure_may_use_the_context_when_it_is_dropped,
    an_immediates_closure_may_use_the_context_when_it_is_dropped,
    a_deferred_closure_may_use_the_context_when_it_is_dropped,
    a_nesting_hooks_closure_may_use_the_context_when_it_is_dropped,
    a_close_callbacks_closure_may_use_the_context_when_it_is_dropped,
    closures_may_use_the_context_while_it_is_reinitialised,
    closures_may_use_handles_while_the_context_goes,
    closures_may_own_handles_of_each_other,
    a_handler_may_drop_the_last_context_reference_it_made,
    a_handler_may_reinitialise_the_context,
    a_timer_may_reinitialise_the_context,
    an_immediate_may_reinitialise_the_context,
    a_loop_that_goes_on_after_reinitialising_suspends_its_handlers,
    a_handler_may_add_many_events_of_all_kinds,
    a_handler_may_read_everything_of_its_event_and_of_others,
    a_condition_of_run_until_may_use_the_context,
    an_event_whose_handler_owns_its_handle_goes_when_it_has_removed_itself,
);

/// Uses every table of the context, if it is there still: adds, changes, runs and removes.
fn use_all(weak: &WeakContext, log: &Log) {
    let Some(context) = weak.upgrade() else {
        log.add("gone");
        return;
    };
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    fd.set_flags(READ | WRITE);
    fd.set_tag(1);
    fd.remove();
    let timer = context.add_timer_after(GUARD, |_, _| ());
    timer.set_deadline(context.now() + 2 * GUARD);
    timer.remove();
    let immediate = context.add_immediate(|_, _| ());
    immediate.schedule();
    immediate.cancel();
    drop(immediate);
    context.remote();
    context.next_deadline();
    context.clear_nesting_hook();
    let _ = format!("{:?}", *context);
    log.add("used");
}

/// A context, what uses all of it when it is dropped, and the log of that.
fn using(kind: BackendKind) -> (Context, OnDrop<impl FnMut()>, Log) {
    let context = context(kind);
    let log = Log::new();
    let (weak, inner) = (context.downgrade(), log.clone());
    (context, OnDrop(move || use_all(&weak, &inner)), log)
}

fn a_source_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    let (socket, _peer) = readable();
    let fd = context
        .add_fd(Source { on_drop, socket }, READ, |_, _, _| ())
        .unwrap();
    turn(&context);
    drop(fd);
    assert_eq!(log.take(), "used");
    let (context, on_drop, log) = using(kind);
    let (socket, _peer) = readable();
    let fd = context
        .add_fd(Source { on_drop, socket }, READ, |_, fd, _| fd.remove())
        .unwrap();
    fd.detach();
    context.run().unwrap();
    assert_eq!(log.take(), "used", "in its own handler");
}

struct Curious(std::os::unix::net::UnixStream, WeakContext, Log);

impl std::os::fd::AsFd for Curious {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use_all(&self.1, &self.2);
        self.0.as_fd()
    }
}

fn a_source_may_use_the_context_while_its_descriptor_is_asked_for(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (socket, _peer) = readable();
    let curious = Curious(socket, context.downgrade(), log.clone());
    let fd = context.add_fd(curious, READ, |_, _, _| ()).unwrap();
    fd.set_flags(WRITE);
    assert_eq!(turns(&context, 2), 2);
    drop(fd);
    assert_eq!(
        log.take(),
        "used",
        "the number is read once, at registration"
    );
}

fn a_source_of_a_refused_event_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    let witness = log.on_drop("handler");
    let handler = move |_: &_, _: &_, _| {
        on_drop.keep();
        witness.keep();
    };
    let refused = context.add_fd(Number(i32::MAX - 7), READ, handler);
    assert_eq!(
        log.take(),
        "used handler",
        "the closure of a refused event is dropped"
    );
    drop(refused);
}

fn a_descriptor_handlers_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    let (ours, _peer) = readable();
    let fd = context
        .add_fd(ours, READ, move |_, _, _| on_drop.keep())
        .unwrap();
    fd.remove();
    assert_eq!(log.take(), "used");
    let (context, on_drop, log) = using(kind);
    let (ours, _peer) = readable();
    let handler = move |_: &Context, fd: &tevent::Fd<_>, _| {
        on_drop.keep();
        fd.remove();
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
    context.run().unwrap();
    assert_eq!(log.take(), "used", "in its own handler");
}

fn a_timers_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    drop(context.add_timer(context.now(), move |_, _| on_drop.keep()));
    assert_eq!(log.take(), "used");
    let (context, on_drop, log) = using(kind);
    context
        .add_timer(context.now(), move |_, _| on_drop.keep())
        .detach();
    context.run().unwrap();
    assert_eq!(log.take(), "used", "after it has fired");
    let (context, on_drop, log) = using(kind);
    let timer = context.add_timer(context.now(), move |_, timer| {
        on_drop.keep();
        timer.remove();
    });
    context.run().unwrap();
    assert_eq!(log.take(), "used", "in its own handler");
    drop(timer);
    let (context, on_drop, log) = using(kind);
    let timer = context.add_timer(context.now(), move |_, _| on_drop.keep());
    timer.disarm();
    timer.detach();
    assert_eq!(log.take(), "used", "when it is detached");
}

fn an_immediates_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    drop(context.add_immediate(move |_, _| on_drop.keep()));
    assert_eq!(log.take(), "used");
    let (context, on_drop, log) = using(kind);
    let immediate = context.add_immediate(move |_, immediate| {
        on_drop.keep();
        immediate.remove();
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "used", "in its own handler");
    let (context, on_drop, log) = using(kind);
    context.add_immediate(move |_, _| on_drop.keep()).detach();
    assert_eq!(log.take(), "used", "when it is detached");
}

fn a_deferred_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    context.defer(move |_| on_drop.keep());
    context.run().unwrap();
    assert_eq!(log.take(), "used");
}

fn a_nesting_hooks_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    context.set_nesting_hook(move |_: &Context, _| on_drop.keep());
    context.set_nesting_hook(|_: &Context, _| ());
    assert_eq!(log.take(), "used");
}

fn a_close_callbacks_closure_may_use_the_context_when_it_is_dropped(kind: BackendKind) {
    let (context, on_drop, log) = using(kind);
    let (ours, _peer) = pair();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    fd.on_close(move |_| on_drop.keep());
    fd.on_close(|_| ());
    assert_eq!(log.take(), "used", "when it was replaced");
    let (context, on_drop, log) = using(kind);
    let (ours, _peer) = pair();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    fd.on_close(move |_| on_drop.keep());
    drop(fd.into_source());
    assert_eq!(log.take(), "used", "when it wasn't needed");
}

/// An event of each kind whose closures use the context when they are dropped.
fn one_of_each(context: &Context, log: &Log) {
    let use_it = || {
        let (weak, log) = (context.downgrade(), log.clone());
        OnDrop(move || use_all(&weak, &log))
    };
    let (socket, _peer) = readable();
    let handler = use_it();
    let source = Source {
        on_drop: use_it(),
        socket,
    };
    let handler = move |_: &_, _: &_, _| handler.keep();
    context.add_fd(source, READ, handler).unwrap().detach();
    let timer = use_it();
    context
        .add_timer_after(GUARD, move |_, _| timer.keep())
        .detach();
    let immediate = use_it();
    context.defer(move |_| immediate.keep());
    let hook = use_it();
    context.set_nesting_hook(move |_: &Context, _| hook.keep());
}

fn closures_may_use_the_context_while_it_is_reinitialised(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    one_of_each(&context, &log);
    context.reinitialise().unwrap();
    assert_eq!(log.take(), "used used used used used");
    settle(&context);
}

fn closures_may_use_handles_while_the_context_goes(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    one_of_each(&context, &log);
    drop(context);
    assert_eq!(log.take(), "gone gone gone gone gone");
}

fn closures_may_own_handles_of_each_other(kind: BackendKind) {
    for last in ["context", "first"] {
        let context = context(kind);
        let (ours, peer) = readable();
        let third = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
        let second = context.add_timer_after(GUARD, move |_, _| third.set_flags(NOTHING));
        let first = context.add_immediate(move |_, _| second.disarm());
        if last == "context" {
            drop(first);
            assert!(drain(&peer), "each has dropped the next");
            drop(context);
        } else {
            drop(context);
            assert!(drain(&peer), "the closures went with the context");
            drop(first);
        }
    }
}

fn a_handler_may_drop_the_last_context_reference_it_made(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let reference = Place::empty();
    reference.put(context.downgrade().upgrade().unwrap());
    let (inner, place) = (log.clone(), reference.clone());
    context.defer(move |context| {
        place.clear();
        context.defer(inner.once("still there"));
    });
    context.run().unwrap();
    assert_eq!(log.take(), "still there");
}

/// What a handler that re-initialises the context finds and leaves.
fn start_over(context: &Context, log: &Log) {
    context.reinitialise().unwrap();
    let (ours, theirs) = readable();
    let kept = RefCell::new(Some(theirs));
    let inner = log.clone();
    let handler = move |_: &Context, fd: &tevent::Fd<_>, _| {
        inner.add("fd");
        fd.remove();
        drop(kept.take());
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
    context
        .add_timer(context.now(), log.timer("timer"))
        .detach();
    context.defer(log.once("immediate"));
}

fn a_handler_may_reinitialise_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = readable();
        let log = log.clone();
        kept.push((
            context.add_fd(ours, READ, move |context, _, _| start_over(context, &log)),
            theirs,
        ));
    }
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "immediate timer fd",
        "what was left of the batch isn't called"
    );
}

fn a_timer_may_reinitialise_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let now = context.now();
    let timer = context.add_timer(now, move |context, timer| {
        start_over(context, &inner);
        assert!(!timer.set_deadline(now), "it is gone");
    });
    let _other = context.add_timer(now, |_, _| unreachable!());
    context.run().unwrap();
    assert_eq!(log.take(), "immediate timer fd");
    assert!(!timer.is_registered());
}

fn an_immediate_may_reinitialise_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let immediate = context.add_immediate(move |context, immediate| {
        start_over(context, &inner);
        assert!(!immediate.schedule(), "it is gone");
    });
    immediate.schedule();
    context.defer(|_| unreachable!());
    context.run().unwrap();
    assert_eq!(log.take(), "immediate timer fd");
}

fn a_loop_that_goes_on_after_reinitialising_suspends_its_handlers(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        context.reinitialise().unwrap();
        let now = context.now();
        let handler = move |context: &Context, timer: &Timer| {
            inner.add("timer");
            if inner.len() > 1 {
                add_one_that_runs_a_loop(context, &inner);
                return;
            }
            timer.set_deadline(now);
            // The loop that calls this isn't counted any more, so this one isn't nested.
            assert!(!turn(context), "a timer whose handler is on the stack");
        };
        context.add_timer(now, handler).detach();
    });
    context.run().unwrap();
    assert_eq!(log.take(), "timer timer fd");
}

fn add_one_that_runs_a_loop(context: &Context, log: &Log) {
    let log = log.clone();
    let (ours, theirs) = readable();
    let handler = move |context: &Context, fd: &Fd<UnixStream>, _: FdFlags| {
        log.add("fd");
        let _peer = &theirs;
        assert_no_spin(context, "the handler of what is ready is on the stack");
        fd.remove();
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
}

fn a_handler_may_add_many_events_of_all_kinds(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let (ours, _theirs) = readable();
    let shared = Rc::new(ours);
    context.defer(move |context| {
        for _ in 0..100 {
            let log = inner.clone();
            let handler = move |_: &_, fd: &tevent::Fd<_>, _| {
                log.add("fd");
                fd.remove();
            };
            context
                .add_fd(Rc::clone(&shared), READ, handler)
                .unwrap()
                .detach();
            context
                .add_timer_after(Duration::ZERO, inner.timer("timer"))
                .detach();
            context.defer(inner.once("immediate"));
        }
    });
    context.run().unwrap();
    for entry in ["fd", "timer", "immediate"] {
        assert_eq!(log.count(entry), 100, "{entry}");
    }
}

fn a_handler_may_read_everything_of_its_event_and_of_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let timer = context.add_timer_after(GUARD, |_, _| ());
    let inner = log.clone();
    let fd = context.add_fd(ours, READ, move |context, fd, _| {
        assert_eq!(
            (fd.tag(), fd.name().as_deref(), fd.flags()),
            (7, Some("me"), READ)
        );
        assert!(fd.location().is_some() && fd.is_registered());
        assert!(timer.deadline() == context.next_deadline() || context.next_deadline().is_some());
        let _ = format!("{context:?} {fd:?} {timer:?}");
        fd.set_tag(8);
        inner.add("called");
    });
    let fd = fd.unwrap();
    fd.set_tag(7);
    fd.set_name("me");
    assert!(turn(&context));
    assert_eq!((log.take().as_str(), fd.tag()), ("called", 8));
}

fn a_condition_of_run_until_may_use_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let weak = context.downgrade();
    let mut left = 3;
    context
        .run_until(|| {
            use_all(&weak, &log);
            left -= 1;
            context.defer(|_| ());
            left == 0
        })
        .unwrap();
    assert_eq!(log.take(), "used used used");
}

fn an_event_whose_handler_owns_its_handle_goes_when_it_has_removed_itself(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = readable();
    let handle = Rc::new(RefCell::new(None));
    let owned = Rc::clone(&handle);
    let event = context.add_fd(ours, READ, move |_, event, _| {
        event.remove();
        assert!(owned.borrow().is_some(), "it is there until it returns");
    });
    *handle.borrow_mut() = Some(event.unwrap());
    let gone = Rc::downgrade(&handle);
    drop(handle);
    assert!(turn(&context));
    assert!(gone.upgrade().is_none(), "the handler is dropped");
    assert!(drain(&theirs), "and its source is closed");
}
