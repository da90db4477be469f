//! Handles: dropping one frees the event, a detached event is the context's, and a handle outlives
//! its context harmlessly.

mod common;

use common::*;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context};

on_every_backend!(
    dropping_the_handle_frees_the_event,
    removing_an_event_drops_its_handler_at_once,
    a_detached_event_lives_until_it_removes_itself,
    a_detached_event_is_dropped_with_the_context,
    a_detached_timer_is_dropped_when_it_has_fired,
    a_timer_detached_in_its_own_handler_may_arm_itself,
    a_timer_detached_when_not_armed_is_dropped_at_once,
    a_detached_immediate_is_dropped_when_it_has_run,
    an_immediate_detached_when_not_scheduled_is_dropped_at_once,
    handles_outlive_the_context_harmlessly,
    handles_of_events_before_a_reinitialisation_do_nothing,
    a_handle_of_a_removed_event_does_not_reach_its_successor,
    events_carry_a_tag_a_name_and_the_place_they_were_added,
    dropping_the_context_drops_all_handlers_and_scheduled_work,
    a_handler_that_owns_a_weak_context_does_not_keep_it_alive,
    a_handler_that_owns_its_own_handle_is_dropped_with_the_context,
    a_weak_context_reaches_the_context_while_it_lives,
    an_upgraded_context_keeps_it_alive,
    work_for_a_context_that_is_gone_is_refused,
);

fn dropping_the_handle_frees_the_event(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    let timer = context.add_timer(context.now(), |_, _| unreachable!());
    let immediate = context.add_immediate(|_, _| unreachable!());
    immediate.schedule();
    drop((fd, timer, immediate));
    assert_eq!(settle(&context), 0);
    context.run().expect("nothing is left");
}

fn removing_an_event_drops_its_handler_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let witness = log.on_drop("fd");
    let fd = context
        .add_fd(ours, READ, move |_, _, _| witness.keep())
        .unwrap();
    let witness = log.on_drop("timer");
    let timer = context.add_timer(context.now(), move |_, _| witness.keep());
    let witness = log.on_drop("immediate");
    let immediate = context.add_immediate(move |_, _| witness.keep());
    fd.remove();
    timer.remove();
    immediate.remove();
    assert_eq!(log.take(), "fd timer immediate");
    fd.remove();
    timer.remove();
    immediate.remove();
    assert!(!fd.is_registered() && !timer.is_registered() && !immediate.is_registered());
}

fn a_detached_event_lives_until_it_removes_itself(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    context
        .add_fd(ours, READ, move |_, fd, _| {
            witness.keep();
            inner.add("called");
            if inner.len() == 3 {
                fd.remove();
            }
        })
        .unwrap()
        .detach();
    context.run().expect("it ends with the event");
    assert_eq!(log.take(), "called called called dropped");
}

fn a_detached_event_is_dropped_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let witness = log.on_drop("fd");
    context
        .add_fd(ours, READ, move |_, _, _| witness.keep())
        .unwrap()
        .detach();
    let witness = log.on_drop("timer");
    context
        .add_timer_after(GUARD, move |_, _| witness.keep())
        .detach();
    let witness = log.on_drop("immediate");
    let immediate = context.add_immediate(move |_, _| witness.keep());
    immediate.schedule();
    immediate.detach();
    assert_eq!(log.take(), "");
    drop(context);
    assert_eq!(log.take(), "fd timer immediate");
    assert!(drain(&theirs), "its source was closed");
}

fn a_detached_timer_is_dropped_when_it_has_fired(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    let handler = move |context: &Context, timer: &tevent::Timer| {
        witness.keep();
        inner.add("fired");
        if inner.count("fired") < 2 {
            timer.set_deadline(context.now());
        }
    };
    context.add_timer(context.now(), handler).detach();
    context.run().unwrap();
    assert_eq!(log.take(), "fired fired dropped");
}

fn a_timer_detached_in_its_own_handler_may_arm_itself(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place = Place::empty();
    let (own, inner, witness) = (place.clone(), log.clone(), log.on_drop("dropped"));
    let timer = context.add_timer(context.now(), move |context, timer| {
        witness.keep();
        inner.add("fired");
        if let Some(own) = own.take() {
            tevent::Timer::detach(own);
            assert!(timer.set_deadline(context.now()), "it is there still");
        }
    });
    place.put(timer);
    context.run().unwrap();
    assert_eq!(log.take(), "fired fired dropped");
}

fn a_timer_detached_when_not_armed_is_dropped_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let witness = log.on_drop("dropped");
    let timer = context.add_timer(context.now(), move |_, _| witness.keep());
    timer.disarm();
    timer.detach();
    assert_eq!(log.take(), "dropped", "nobody could arm it");
}

fn a_detached_immediate_is_dropped_when_it_has_run(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    let immediate = context.add_immediate(move |_, immediate| {
        witness.keep();
        inner.add("ran");
        if inner.count("ran") < 2 {
            immediate.schedule();
        }
    });
    immediate.schedule();
    immediate.detach();
    context.run().unwrap();
    assert_eq!(log.take(), "ran ran dropped");
}

fn an_immediate_detached_when_not_scheduled_is_dropped_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let witness = log.on_drop("dropped");
    context.add_immediate(move |_, _| witness.keep()).detach();
    assert_eq!(log.take(), "dropped", "nobody could schedule it");
}

fn handles_outlive_the_context_harmlessly(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let timer = context.add_timer(context.now(), |_, _| ());
    let immediate = context.add_immediate(|_, _| ());
    let now = context.now();
    immediate.schedule();
    drop(context);
    assert!(!fd.is_registered() && !timer.is_registered() && !immediate.is_registered());
    fd.set_flags(READ | WRITE);
    fd.set_readable(true);
    assert_eq!(fd.flags(), NOTHING);
    fd.set_tag(1);
    fd.set_name("name");
    assert_eq!((fd.tag(), fd.name(), fd.location()), (0, None, None));
    fd.remove();
    assert!(!drain(fd.get_ref()), "the source is there");
    assert!(!timer.set_deadline(now) && !timer.set_after(Duration::ZERO));
    assert_eq!((timer.deadline(), timer.last_deadline()), (None, None));
    timer.disarm();
    timer.remove();
    assert!(!immediate.schedule() && !immediate.is_scheduled());
    immediate.cancel();
    immediate.remove();
    timer.detach();
    immediate.detach();
    fd.detach();
}

fn handles_of_events_before_a_reinitialisation_do_nothing(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let fd = context
        .add_fd(ours, READ, |_, _, _| unreachable!())
        .unwrap();
    let timer = context.add_timer(context.now(), |_, _| unreachable!());
    let immediate = context.add_immediate(|_, _| unreachable!());
    context.reinitialise().unwrap();
    let log = Log::new();
    // They get the places that the former ones had.
    let (ours, _other_theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("fd")).unwrap();
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    let _immediate = context.add_immediate(log.immediate("immediate"));
    _immediate.schedule();
    assert!(!timer.set_after(GUARD) && !immediate.schedule());
    timer.disarm();
    immediate.cancel();
    fd.set_flags(NOTHING);
    drop((fd, timer, immediate));
    assert_eq!(turns(&context, 3), 3);
    assert_eq!(log.take(), "immediate timer fd");
}

fn a_handle_of_a_removed_event_does_not_reach_its_successor(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let former = context.add_timer(context.now(), |_, _| unreachable!());
    former.remove();
    let successor = context.add_timer(context.now(), log.timer("fired"));
    assert!(!former.set_after(GUARD));
    former.disarm();
    drop(former);
    assert!(successor.is_registered());
    settle(&context);
    assert_eq!(log.take(), "fired");
}

fn events_carry_a_tag_a_name_and_the_place_they_were_added(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    macro_rules! check {
        ($event:expr, $line:expr) => {
            let event = $event;
            assert_eq!((event.tag(), event.name()), (0, None));
            event.set_tag(u64::MAX);
            event.set_name("first");
            event.set_name("renamed");
            assert_eq!(
                (event.tag(), event.name().as_deref()),
                (u64::MAX, Some("renamed"))
            );
            let location = event.location().unwrap();
            assert_eq!((location.file(), location.line()), (file!(), $line));
            event.remove();
            assert_eq!(
                (event.tag(), event.name(), event.location()),
                (0, None, None)
            );
        };
    }
    let (fd, line) = (context.add_fd(ours, READ, |_, _, _| ()).unwrap(), line!());
    check!(fd, line);
    let (timer, line) = (context.add_timer(context.now(), |_, _| ()), line!());
    check!(timer, line);
    let (timer, line) = (context.add_timer_after(GUARD, |_, _| ()), line!());
    check!(timer, line);
    let (immediate, line) = (context.add_immediate(|_, _| ()), line!());
    check!(immediate, line);
}

fn dropping_the_context_drops_all_handlers_and_scheduled_work(kind: BackendKind) {
    let context = context(kind);
    let owned = Rc::new(());
    let hold = || Rc::clone(&owned);
    let (ours, _theirs) = readable();
    let held = hold();
    let _fd = context
        .add_fd(ours, READ, move |_, _, _| drop(Rc::clone(&held)))
        .unwrap();
    let held = hold();
    let _timer = context.add_timer(context.now(), move |_, _| drop(Rc::clone(&held)));
    let held = hold();
    let _immediate = context.add_immediate(move |_, _| drop(Rc::clone(&held)));
    let held = hold();
    context.defer(move |_| drop(held));
    let held = hold();
    context.set_nesting_hook(move |_: &Context, _| drop(Rc::clone(&held)));
    assert_eq!(Rc::strong_count(&owned), 6);
    drop(context);
    assert_eq!(Rc::strong_count(&owned), 1, "though all handles are kept");
}

fn a_handler_that_owns_a_weak_context_does_not_keep_it_alive(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (weak, witness) = (context.downgrade(), log.on_drop("dropped"));
    context
        .add_timer_after(GUARD, move |_, _| {
            witness.keep();
            drop(weak.upgrade());
        })
        .detach();
    drop(context);
    assert_eq!(log.take(), "dropped");
}

fn a_handler_that_owns_its_own_handle_is_dropped_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let place = Place::empty();
    let (own, witness) = (place.clone(), log.on_drop("dropped"));
    place.put(context.add_timer_after(GUARD, move |_, _| {
        witness.keep();
        drop(own.take());
    }));
    drop(place);
    drop(context);
    assert_eq!(log.take(), "dropped", "the cycle is broken");
}

fn a_weak_context_reaches_the_context_while_it_lives(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let weak = context.downgrade();
    weak.clone()
        .upgrade()
        .expect("it lives")
        .defer(log.once("ran"));
    context.run().unwrap();
    assert_eq!(log.take(), "ran");
    drop(context);
    assert!(weak.upgrade().is_none(), "it is gone");
}

fn an_upgraded_context_keeps_it_alive(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let weak = context.downgrade();
    let reference = weak.upgrade().unwrap();
    let (ours, _theirs) = readable();
    let witness = log.on_drop("dropped");
    let inner = log.clone();
    let handler = move |_: &_, fd: &tevent::Fd<_>, _| {
        witness.keep();
        drain(fd.get_ref());
        inner.add("called");
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
    drop(context);
    settle(&reference);
    assert_eq!(log.take(), "called");
    drop(reference);
    assert_eq!(log.take(), "dropped");
    assert!(weak.upgrade().is_none());
}

fn work_for_a_context_that_is_gone_is_refused(kind: BackendKind) {
    let context = context(kind);
    let remote = context.remote();
    assert!(!remote.is_closed());
    drop(context);
    assert!(remote.is_closed());
    assert!(!remote.schedule(|_| unreachable!()));
}
