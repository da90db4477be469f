//! Several events on one descriptor, and several descriptors in one batch: turns, freed events and
//! stale reports.

mod common;

use common::recording::{Call, recorded};
use common::*;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use tevent::{BackendKind, Context, Fd, FdFlags};

on_every_backend!(
    events_on_one_descriptor_take_turns,
    an_event_added_later_takes_part_in_the_turns,
    events_on_one_descriptor_get_each_what_it_wants,
    events_that_share_one_flag_of_two_take_turns_at_it,
    hang_up_reaches_those_of_several_events_that_want_to_know,
    freeing_one_of_several_events_leaves_the_others,
    events_on_one_descriptor_may_come_and_go_in_any_order,
    flags_of_an_ended_event_count_no_more,
    an_event_that_is_left_alone_is_not_told_again_of_the_same_report,
    busy_descriptors_take_turns,
    more_ready_descriptors_than_fit_a_batch_all_get_their_turn,
    an_event_freed_before_its_turn_is_not_called,
    an_event_whose_flags_were_cleared_before_its_turn_is_not_called,
    an_event_disarmed_and_armed_again_before_its_turn_is_called,
    flags_taken_away_before_an_events_turn_are_not_delivered,
    an_event_freed_by_an_immediate_between_two_of_a_batch_is_not_called,
    an_event_may_free_itself_and_all_others,
    readiness_of_a_former_descriptor_of_the_same_number_is_not_delivered,
    readiness_of_a_former_event_on_the_same_descriptor_number_reaches_no_new_source,
    a_number_that_events_have_shared_can_be_watched_anew,
);

fn events_on_one_descriptor_take_turns(kind: BackendKind) {
    for batch in [1, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let (ours, _theirs) = readable();
        let ours = Rc::new(ours);
        let mut kept = Vec::new();
        for name in ["a", "b", "c"] {
            kept.push(
                context
                    .add_fd(Rc::clone(&ours), READ, log.fd(name))
                    .unwrap(),
            );
        }
        assert_eq!(turns(&context, 7), 7);
        assert_eq!(log.take(), "a b c a b c a", "batch {batch}");
    }
}

fn an_event_added_later_takes_part_in_the_turns(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let _a = context.add_fd(Rc::clone(&ours), READ, log.fd("a")).unwrap();
    turns(&context, 2);
    let _b = context.add_fd(ours, READ, log.fd("b")).unwrap();
    turns(&context, 6);
    assert!(log.count("b") >= 2 && log.count("a") >= 4, "{}", log.take());
}

fn events_on_one_descriptor_get_each_what_it_wants(kind: BackendKind) {
    for batch in [1, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let (ours, theirs) = readable();
        let ours = Rc::new(ours);
        let reader = context
            .add_fd(Rc::clone(&ours), READ, log.flags("reader"))
            .unwrap();
        let writer = context
            .add_fd(Rc::clone(&ours), WRITE, log.flags("writer"))
            .unwrap();
        assert_eq!(turns(&context, 4), 4);
        assert_eq!(
            log.take(),
            "reader:READ writer:WRITE reader:READ writer:WRITE"
        );
        writer.set_flags(NOTHING);
        assert_eq!(turns(&context, 2), 2);
        assert_eq!(log.take(), "reader:READ reader:READ");
        drain(&ours);
        fill(&ours);
        writer.set_flags(WRITE);
        assert_eq!(turns(&context, 2), 0, "nothing to read, and no room");
        drop((reader, theirs));
    }
}

/// A descriptor that stays ready, as neither of them reads or fills it.
fn events_that_share_one_flag_of_two_take_turns_at_it(kind: BackendKind) {
    for batch in [1, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let (ours, _theirs) = readable();
        let ours = Rc::new(ours);
        let both = READ | WRITE;
        let _both = context
            .add_fd(Rc::clone(&ours), both, log.flags("both"))
            .unwrap();
        let _reader = context.add_fd(ours, READ, log.flags("reader")).unwrap();
        assert_eq!(turns(&context, 5), 5);
        let expected = "both:READ|WRITE reader:READ both:READ|WRITE reader:READ both:READ|WRITE";
        assert_eq!(log.take(), expected, "batch {batch}");
    }
}

fn hang_up_reaches_those_of_several_events_that_want_to_know(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = pair();
    fill(&ours);
    let ours = Rc::new(ours);
    let writer = context
        .add_fd(Rc::clone(&ours), WRITE, log.flags("writer"))
        .unwrap();
    let reader = context
        .add_fd(Rc::clone(&ours), READ, log.flags("reader"))
        .unwrap();
    let watcher = context
        .add_fd(Rc::clone(&ours), ERROR, log.flags("watcher"))
        .unwrap();
    drop(theirs);
    turns(&context, 6);
    assert_eq!(
        log.count("writer:WRITE"),
        0,
        "WRITE alone isn't told of hang-up"
    );
    assert_eq!(writer.flags(), NOTHING, "and is disarmed");
    assert!(log.count("reader:READ") >= 2, "READ is");
    assert!(log.count("watcher:ERROR") >= 2, "ERROR is");
    assert_eq!((reader.flags(), watcher.flags()), (READ, ERROR));
}

fn freeing_one_of_several_events_leaves_the_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let a = context.add_fd(Rc::clone(&ours), READ, log.fd("a")).unwrap();
    let b = context.add_fd(Rc::clone(&ours), READ, log.fd("b")).unwrap();
    let c = context.add_fd(Rc::clone(&ours), READ, log.fd("c")).unwrap();
    turns(&context, 1);
    drop(b);
    log.take();
    turns(&context, 4);
    assert_eq!(log.take(), "c a c a");
    drop(a);
    turns(&context, 2);
    assert_eq!(log.take(), "c c");
    drop(c);
    assert_eq!(turns(&context, 2), 0);
    assert_eq!(Rc::strong_count(&ours), 1, "all sources were dropped");
    let _again = context.add_fd(ours, READ, log.fd("again")).unwrap();
    assert!(turn(&context), "the descriptor can be watched anew");
}

/// Many readable sockets with events that only write their number.
fn events_on_one_descriptor_may_come_and_go_in_any_order(kind: BackendKind) {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for batch in [1, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let (ours, _theirs) = readable();
        let ours = Rc::new(ours);
        for order in orders {
            let mut events = ["a", "b", "c"].map(|name| {
                let event = context.add_fd(Rc::clone(&ours), READ, log.fd(name));
                Some(event.unwrap())
            });
            for (gone, &index) in order.iter().enumerate() {
                let left = 3 - gone;
                assert_eq!(turns(&context, 2 * left), 2 * left);
                for (name, event) in ["a", "b", "c"].iter().zip(&events) {
                    let expected = if event.is_some() { 2 } else { 0 };
                    assert_eq!(log.count(name), expected, "{name}, {order:?}, {gone} gone");
                }
                log.take();
                events[index] = None;
            }
            context.run().unwrap();
            assert_eq!(log.take(), "", "{order:?}");
        }
    }
}

fn flags_of_an_ended_event_count_no_more(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let add = || {
        let handler = |_: &Context, _: &_, _| unreachable!();
        context.add_fd(Rc::clone(&ours), NOTHING, handler).unwrap()
    };
    let (first, second) = (add(), add());
    first.remove();
    first.set_flags(READ);
    assert_eq!(first.flags(), NOTHING);
    assert_eq!(turns(&context, 2), 0);
    context.run().expect("there is nothing to wait for");
    drop(second);
    context.run().expect("nor without the other one");
}

fn an_event_that_is_left_alone_is_not_told_again_of_the_same_report(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let ours = Rc::new(ours);
    let calls = Rc::new(Cell::new(0));
    let sibling = Rc::new(RefCell::new(None));
    let _fd = {
        let (calls, sibling) = (Rc::clone(&calls), Rc::clone(&sibling));
        let handler = move |_: &Context, fd: &Fd<Rc<UnixStream>>, _: FdFlags| {
            calls.set(calls.get() + 1);
            drain(fd.get_ref());
            drop(sibling.take());
        };
        context.add_fd(Rc::clone(&ours), READ, handler).unwrap()
    };
    let other = context.add_fd(ours, READ, |_, _, _| unreachable!());
    *sibling.borrow_mut() = Some(other.unwrap());
    settle(&context);
    assert_eq!(calls.get(), 1);
}

fn busy(context: &Context, log: &Log, count: usize) -> Vec<impl Sized + use<>> {
    let one = |number: usize| {
        let (ours, theirs) = readable();
        (
            context
                .add_fd(ours, READ, log.fd(&number.to_string()))
                .unwrap(),
            theirs,
        )
    };
    (0..count).map(one).collect()
}

fn busy_descriptors_take_turns(kind: BackendKind) {
    for batch in [1, 2, 256] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let _kept = busy(&context, &log, 3);
        assert_eq!(turns(&context, 12), 12);
        for name in ["0", "1", "2"] {
            assert_eq!(
                log.count(name),
                4,
                "the one just served goes to the back, batch {batch}"
            );
        }
        let order = log.take();
        let order: Vec<&str> = order.split(' ').collect();
        assert!(
            order.windows(2).all(|pair| pair[0] != pair[1]),
            "none is served twice in a row, batch {batch}: {order:?}"
        );
    }
}

fn more_ready_descriptors_than_fit_a_batch_all_get_their_turn(kind: BackendKind) {
    for batch in [1, 4, 7] {
        let context = builder(kind).batch(batch).build().unwrap();
        let log = Log::new();
        let _kept = busy(&context, &log, 20);
        turns(&context, 80);
        for number in 0..20 {
            let count = log.count(&number.to_string());
            assert!(
                (3..=5).contains(&count),
                "{number} was served {count} times of 4"
            );
        }
    }
}

/// Two readable sockets; the handler that comes first does `act` to the other's event. Returns
/// what was called.
fn first_does(
    kind: BackendKind,
    act: impl Fn(&Context, &Place<Event>) + Clone + 'static,
) -> String {
    let context = context(kind);
    let log = Log::new();
    let places = [Place::empty(), Place::empty()];
    let mut peers = Vec::new();
    for own in 0..2 {
        let (ours, theirs) = readable();
        let (log, other, act) = (log.clone(), places[1 - own].clone(), act.clone());
        let fd = context.add_fd(ours, READ | WRITE, move |context, fd, flags| {
            log.add(format!("{flags:?}"));
            if log.len() == 1 {
                fd.set_flags(NOTHING);
                act(context, &other);
            }
        });
        places[own].put(fd.unwrap());
        peers.push(theirs);
    }
    turns(&context, 2);
    // What the turns have called, without the first.
    log.take()
        .replacen("FdFlags(READ | WRITE)", "", 1)
        .trim()
        .to_owned()
}

type Event = tevent::Fd<std::os::unix::net::UnixStream>;

fn an_event_freed_before_its_turn_is_not_called(kind: BackendKind) {
    assert_eq!(first_does(kind, |_, other| other.clear()), "");
}

fn an_event_whose_flags_were_cleared_before_its_turn_is_not_called(kind: BackendKind) {
    let clear = |_: &Context, other: &Place<Event>| {
        other.with(|event| event.set_flags(NOTHING));
    };
    assert_eq!(first_does(kind, clear), "");
}

fn an_event_disarmed_and_armed_again_before_its_turn_is_called(kind: BackendKind) {
    let toggle = |_: &Context, other: &Place<Event>| {
        other.with(|event| {
            event.set_flags(NOTHING);
            event.set_flags(READ | WRITE);
        });
    };
    assert_eq!(first_does(kind, toggle), "FdFlags(READ | WRITE)");
}

fn flags_taken_away_before_an_events_turn_are_not_delivered(kind: BackendKind) {
    let less = |_: &Context, other: &Place<Event>| {
        other.with(|event| event.set_writable(false));
    };
    assert_eq!(first_does(kind, less), "FdFlags(READ)");
}

fn an_event_freed_by_an_immediate_between_two_of_a_batch_is_not_called(kind: BackendKind) {
    let later = |context: &Context, other: &Place<Event>| {
        let other = other.clone();
        context.defer(move |_| other.clear());
    };
    assert_eq!(first_does(kind, later), "");
}

fn an_event_may_free_itself_and_all_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let all = Place::empty();
    let mut events = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..5 {
        let (ours, theirs) = readable();
        let (log, all) = (log.clone(), all.clone());
        let fd = context.add_fd(ours, READ, move |_, fd, _| {
            log.add("called");
            all.clear();
            assert!(!fd.is_registered(), "it is freed");
            assert!(
                !drain(fd.get_ref()),
                "but its source is open until it returns"
            );
        });
        events.push(fd.unwrap());
        peers.push(theirs);
    }
    all.put(events);
    assert_eq!(turns(&context, 10), 1);
    assert_eq!(log.take(), "called", "the first freed them all");
    for peer in &peers {
        assert!(drain(peer), "its socket is closed");
    }
}

/// The first handler closes the other's descriptor, and puts a new one, not ready, at its number.
fn readiness_of_a_former_descriptor_of_the_same_number_is_not_delivered(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let places: [Place<tevent::Fd<OwnedFd>>; 2] = [Place::empty(), Place::empty()];
    let new = Place::empty();
    let mut peers = Vec::new();
    for own in 0..2 {
        let (ours, theirs) = readable();
        let (log, other, new) = (log.clone(), places[1 - own].clone(), new.clone());
        let fd = context.add_fd(OwnedFd::from(ours), READ, move |context, fd, _| {
            log.add("first");
            fd.set_flags(NOTHING);
            let Some(former) = other.take() else {
                panic!("both former events were called");
            };
            let number = former.get_ref().as_raw_fd();
            let source = former.into_source().expect("it isn't in its handler");
            let (quiet, peer) = pair();
            // The same number, another socket: as if it were closed and the number reused.
            // SAFETY: `source` owns its number before and after.
            assert_eq!(unsafe { libc::dup2(quiet.as_raw_fd(), number) }, number);
            let event = context.add_fd(source, READ, log.fd("new")).unwrap();
            new.put((event, peer));
        });
        places[own].put(fd.unwrap());
        peers.push(theirs);
    }
    assert_eq!(turns(&context, 5), 1);
    assert_eq!(
        log.take(),
        "first",
        "the new event isn't told of its predecessor's readiness"
    );
    // It is told of its own.
    let (event, peer) = new.take().unwrap();
    std::io::Write::write_all(&mut &peer, b"x").unwrap();
    assert!(turn(&context));
    assert_eq!(log.take(), "new");
    drop(event);
}

fn readiness_of_a_former_event_on_the_same_descriptor_number_reaches_no_new_source(
    kind: BackendKind,
) {
    // The number is really closed and reused: the first free one, as long as no other thread takes
    // it; then there is nothing to see, so try until it was ours.
    for _ in 0..100 {
        let context = context(kind);
        let log = Log::new();
        let places = [Place::empty(), Place::empty()];
        let new = Place::empty();
        let mut peers = Vec::new();
        for own in 0..2 {
            let (ours, theirs) = readable();
            let (log, other, new) = (log.clone(), places[1 - own].clone(), new.clone());
            let fd = context.add_fd(ours, READ, move |context, fd, _| {
                log.add("first");
                fd.set_flags(NOTHING);
                let number = other.with(|other: &Event| other.get_ref().as_raw_fd());
                other.clear();
                let (quiet, peer) = pair();
                let hit = Some(quiet.as_raw_fd()) == number;
                let event = context.add_fd(quiet, READ, log.fd("stale")).unwrap();
                new.put((event, peer, hit));
            });
            places[own].put(fd.unwrap());
            peers.push(theirs);
        }
        assert_eq!(turns(&context, 5), 1);
        assert_eq!(
            log.take(),
            "first",
            "a new event isn't told of its predecessor's readiness"
        );
        if new.take().is_some_and(|(_, _, hit)| hit) {
            return;
        }
    }
    panic!("the number was never reused");
}

#[test]
fn the_backend_sees_one_registration_with_the_union_of_the_flags() {
    let (context, recorder) = recorded();
    let (ours, _theirs) = pair();
    let ours = Rc::new(ours);
    let number = ours.as_raw_fd();
    let add = |flags| {
        context
            .add_fd(Rc::clone(&ours), flags, |_, _, _| ())
            .unwrap()
    };
    let reader = add(READ);
    assert_eq!(recorder.take(), [Call::Add(number, READ)]);
    let second_reader = add(READ);
    assert_eq!(recorder.take(), [], "the second wants nothing new");
    let writer = add(WRITE);
    assert_eq!(recorder.take(), [Call::Modify(number, READ | WRITE)]);
    let _silent = add(NOTHING);
    assert_eq!(recorder.take(), []);
    drop(reader);
    turn(&context);
    assert_eq!(recorder.take_changes(), [], "the other still wants READ");
    drop(second_reader);
    turn(&context);
    assert_eq!(recorder.take_changes(), [Call::Modify(number, WRITE)]);
    drop(writer);
    turn(&context);
    assert_eq!(
        recorder.take_changes(),
        [Call::Remove(number)],
        "nobody wants anything"
    );
}

fn a_number_that_events_have_shared_can_be_watched_anew(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (before, _before_peer) = readable();
    let first = number_of_our_own(&before);
    let number = first.0;
    for round in 0..3 {
        let (ours, _theirs) = readable();
        put_at(&ours, number);
        let events: Vec<_> = (0..3)
            .map(|_| context.add_fd(Number(number), READ, log.fd("old")).unwrap())
            .collect();
        assert!(turn(&context));
        assert_eq!(log.take(), "old");
        // In the order of their registration.
        drop(events);
        let (ours, _theirs) = readable();
        put_at(&ours, number);
        let _event = context.add_fd(Number(number), READ, log.fd("new")).unwrap();
        assert!(turn(&context), "round {round}");
        assert_eq!(log.take(), "new");
    }
}
