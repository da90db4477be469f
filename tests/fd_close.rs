//! When a descriptor's source leaves: the close callback, exactly once, and the source given back.

mod common;

use common::recording::{Call, recorded};
use common::*;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use tevent::{BackendKind, Context, Fd, TracedEvent, Tracer};

on_every_backend!(
    without_a_close_callback_the_source_is_dropped_with_the_handle,
    the_close_callback_is_called_before_the_drop_of_the_handle_returns,
    the_close_callback_gets_the_open_source_and_may_watch_it_anew,
    a_later_close_callback_replaces_an_earlier_one,
    removing_an_event_does_not_close_before_the_handle_is_gone,
    an_event_freed_in_its_own_handler_is_closed_when_that_returns,
    an_event_freed_in_its_own_handler_is_closed_before_the_loop_goes_on,
    a_detached_event_that_removes_itself_is_closed_when_its_handler_returns,
    the_closure_of_an_event_that_ends_goes_before_its_source,
    a_detached_event_is_closed_with_the_context,
    a_detached_event_is_closed_when_the_context_is_reinitialised,
    when_the_context_goes_first_the_event_is_dead_and_closed_with_its_handle,
    an_event_freed_by_another_handler_is_closed_at_once,
    an_event_freed_in_a_nested_loop_of_its_handler_is_closed_when_that_returns,
    into_source_gives_the_source_back_without_the_close_callback,
    into_source_in_the_events_own_handler_gives_the_handle_back,
    into_source_works_as_soon_as_the_handler_has_returned,
    into_source_in_what_the_handler_owns_gives_the_handle_back,
    into_source_works_when_the_context_is_gone,
    a_close_callback_may_drop_the_source_and_use_the_context,
    a_close_callback_that_is_set_in_the_handler_is_called,
    an_event_whose_handler_panicked_is_closed_once,
);

type Event = Fd<UnixStream>;

/// An event with a close callback that writes "closed"; the socket's peer.
fn closing(context: &Context, log: &Log) -> (Event, UnixStream) {
    let (ours, theirs) = readable();
    let fd = context.add_fd(ours, READ, log.fd("called")).unwrap();
    log_close(&fd, log);
    (fd, theirs)
}

fn log_close(fd: &Event, log: &Log) {
    let log = log.clone();
    fd.on_close(move |source| {
        assert!(source.peer_addr().is_ok(), "the source is open");
        log.add("closed");
    });
}

fn without_a_close_callback_the_source_is_dropped_with_the_handle(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = pair();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    assert!(!drain(&theirs));
    drop(fd);
    assert!(drain(&theirs), "the socket is closed");
}

fn the_close_callback_is_called_before_the_drop_of_the_handle_returns(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, peer) = closing(&context, &log);
    turn(&context);
    assert_eq!(log.take(), "called");
    drop(fd);
    assert_eq!(log.take(), "closed");
    assert!(drain(&peer), "the callback dropped the source");
    assert_eq!(settle(&context), 0);
    drop(context);
    assert_eq!(log.take(), "", "exactly once");
}

fn the_close_callback_gets_the_open_source_and_may_watch_it_anew(kind: BackendKind) {
    let context = context(kind);
    let weak = context.downgrade();
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    let (again, inner) = (Place::empty(), log.clone());
    let place = again.clone();
    fd.on_close(move |source| {
        let context = weak.upgrade().unwrap();
        // It would be refused, were it in the kernel's set still.
        place.put(context.add_fd(source, READ, inner.fd("again")).unwrap());
    });
    drop(fd);
    assert!(turn(&context));
    assert_eq!(log.take(), "again");
    again.clear();
}

fn a_later_close_callback_replaces_an_earlier_one(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    let (inner, witness) = (log.clone(), log.on_drop("first dropped"));
    fd.on_close(move |_| witness.keep());
    fd.on_close(move |_| inner.add("second"));
    assert_eq!(log.take(), "first dropped");
    drop(fd);
    assert_eq!(log.take(), "second");
}

fn removing_an_event_does_not_close_before_the_handle_is_gone(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    fd.remove();
    assert!(!fd.is_registered());
    assert!(!drain(fd.get_ref()), "the source can be used still");
    assert_eq!((turns(&context, 2), log.take()), (0, String::new()));
    drop(fd);
    assert_eq!(log.take(), "closed");
}

fn an_event_freed_in_its_own_handler_is_closed_when_that_returns(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let place = Place::empty();
    let (own, inner) = (place.clone(), log.clone());
    let fd = context
        .add_fd(ours, READ, move |context, fd, _| {
            own.clear();
            assert!(!fd.is_registered(), "it is freed");
            assert!(!drain(fd.get_ref()), "but open");
            context.defer(inner.once("later"));
            inner.add("returning");
        })
        .unwrap();
    log_close(&fd, &log);
    place.put(fd);
    assert!(turn(&context));
    assert_eq!(log.take(), "returning closed", "before the next turn");
    settle(&context);
    assert_eq!(log.take(), "later");
}

/// A detached event that removes itself in its handler, which writes "returning" then; its peer.
fn removing_itself(context: &Context, log: &Log) -> UnixStream {
    let (ours, peer) = readable();
    let inner = log.clone();
    let fd = context
        .add_fd(ours, READ, move |_, fd: &Event, _| {
            fd.remove();
            inner.add("returning");
        })
        .unwrap();
    log_close(&fd, log);
    fd.detach();
    peer
}

fn an_event_freed_in_its_own_handler_is_closed_before_the_loop_goes_on(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _peers = [(); 2].map(|()| removing_itself(&context, &log));
    context.run().unwrap();
    assert_eq!(log.take(), "returning closed returning closed");
}

fn a_detached_event_that_removes_itself_is_closed_when_its_handler_returns(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let _peer = removing_itself(&context, &log);
    assert_eq!(settle(&context), 1);
    assert_eq!(log.take(), "returning closed");
    drop(context);
    assert_eq!(log.take(), "", "exactly once");
}

fn the_closure_of_an_event_that_ends_goes_before_its_source(kind: BackendKind) {
    let ends: [fn(Context); 3] = [
        |context| drop(context),
        |context| context.reinitialise().unwrap(),
        |context| context.run().unwrap(), // its handler removes it
    ];
    for end in ends {
        let context = context(kind);
        let log = Log::new();
        let (ours, _peer) = readable();
        let owned = log.on_drop("closure");
        let fd = context
            .add_fd(ours, READ, move |_, fd: &Event, _| {
                owned.keep();
                fd.remove();
            })
            .unwrap();
        log_close(&fd, &log);
        fd.detach();
        end(context);
        assert_eq!(log.take(), "closure closed");
    }
}

fn a_detached_event_is_closed_with_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, peer) = closing(&context, &log);
    fd.detach();
    assert!(turn(&context), "it lives on without its handle");
    log.take();
    drop(context);
    assert_eq!(log.take(), "closed");
    assert!(drain(&peer));
}

fn a_detached_event_is_closed_when_the_context_is_reinitialised(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    fd.detach();
    let (kept, _other_peer) = closing(&context, &log);
    context.reinitialise().unwrap();
    assert_eq!(log.take(), "closed", "that whose handle is kept isn't");
    assert!(!kept.is_registered());
    assert_eq!(settle(&context), 0);
    drop(kept);
    assert_eq!(log.take(), "closed");
}

fn when_the_context_goes_first_the_event_is_dead_and_closed_with_its_handle(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, peer) = closing(&context, &log);
    drop(context);
    assert_eq!(log.take(), "", "the handle is there still");
    assert!(!fd.is_registered(), "but the event is dead");
    assert!(!drain(&peer), "and its source open");
    drop(fd);
    assert_eq!(log.take(), "closed");
}

fn an_event_freed_by_another_handler_is_closed_at_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    let place = Place::empty();
    place.put(fd);
    let inner = log.clone();
    context.defer(move |_| {
        place.clear();
        inner.add("freed");
    });
    settle(&context);
    assert_eq!(log.take(), "closed freed");
}

fn an_event_freed_in_a_nested_loop_of_its_handler_is_closed_when_that_returns(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let log = Log::new();
    let (ours, _peer) = readable();
    let place = Place::empty();
    let (own, inner) = (place.clone(), log.clone());
    let fd = context
        .add_fd(ours, READ, move |context, fd: &Event, _| {
            let own = own.clone();
            context.defer(move |_| own.clear());
            context.run().unwrap();
            assert!(!fd.is_registered());
            inner.add("returning");
        })
        .unwrap();
    log_close(&fd, &log);
    place.put(fd);
    settle(&context);
    assert_eq!(log.take(), "returning closed");
}

fn into_source_gives_the_source_back_without_the_close_callback(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    let number = fd.get_ref().as_raw_fd();
    let source = fd.into_source().expect("its handler isn't running");
    assert_eq!(source.as_raw_fd(), number);
    assert_eq!((settle(&context), log.take()), (0, String::new()));
    let _again = context
        .add_fd(source, READ, log.fd("again"))
        .expect("it is out of the set");
    assert!(turn(&context));
    assert_eq!(log.take(), "again");
}

fn into_source_in_the_events_own_handler_gives_the_handle_back(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let place: Place<Event> = Place::empty();
    let own = place.clone();
    let fd = context.add_fd(ours, READ, move |_, _, _| {
        let fd = own.take().unwrap();
        let fd = fd
            .into_source()
            .expect_err("the handler may be looking at the source");
        assert!(!fd.is_registered(), "the event has ended");
        own.put(fd);
    });
    let fd = fd.unwrap();
    log_close(&fd, &log);
    place.put(fd);
    assert_eq!(settle(&context), 1);
    let source = place
        .take()
        .unwrap()
        .into_source()
        .expect("the handler has returned");
    assert!(!drain(&source), "it is open");
    assert_eq!(log.take(), "", "it was given back, not closed");
}

fn into_source_works_as_soon_as_the_handler_has_returned(kind: BackendKind) {
    struct TakeSource(Place<Event>, Log);
    impl Tracer for TakeSource {
        fn handler_end(&mut self, _: &TracedEvent) {
            let fd = self.0.take().expect("it is called once");
            let source = fd.into_source().expect("the handler has returned");
            assert!(!drain(&source), "it is open");
            self.1.add("taken");
        }
    }
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let place = Place::empty();
    let owned = log.on_drop("closure");
    let fd = context.add_fd(ours, READ, move |_, fd: &Event, _| {
        owned.keep();
        fd.remove();
    });
    let fd = fd.unwrap();
    log_close(&fd, &log);
    place.put(fd);
    context.set_tracer(TakeSource(place, log.clone()));
    context.run().unwrap();
    assert_eq!(log.take(), "closure taken");
}

fn into_source_in_what_the_handler_owns_gives_the_handle_back(kind: BackendKind) {
    struct TakeSource(Place<Event>);
    impl Drop for TakeSource {
        fn drop(&mut self) {
            let fd = self.0.take().expect("it is dropped once");
            let fd = fd
                .into_source()
                .expect_err("the closure goes before the source");
            self.0.put(fd);
        }
    }
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let place: Place<Event> = Place::empty();
    let owned = TakeSource(place.clone());
    let fd = context.add_fd(ours, READ, move |_, fd: &Event, _| {
        let _owned = &owned;
        fd.remove();
    });
    let fd = fd.unwrap();
    log_close(&fd, &log);
    place.put(fd);
    context.run().unwrap();
    assert_eq!(log.take(), "", "the handle keeps it");
    let source = place.take().unwrap().into_source();
    assert!(!drain(&source.expect("nothing uses it")), "it is open");
}

fn into_source_works_when_the_context_is_gone(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (fd, _peer) = closing(&context, &log);
    drop(context);
    let source = fd.into_source().expect("no handler is running");
    assert!(!drain(&source), "it is open");
    assert_eq!(log.take(), "");
}

fn a_close_callback_may_drop_the_source_and_use_the_context(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (first, _peer) = closing(&context, &log);
    let (second, _other_peer) = closing(&context, &log);
    let weak = context.downgrade();
    let inner = log.clone();
    first.on_close(move |source| {
        drop(source);
        let context = weak.upgrade().unwrap();
        context.defer(inner.once("deferred"));
        context
            .add_timer(context.now(), inner.timer("timer"))
            .detach();
        second.set_flags(READ | WRITE);
        drop(second);
    });
    drop(first);
    assert_eq!(log.take(), "closed", "the callback dropped the other event");
    context.run().unwrap();
    assert_eq!(log.take(), "deferred timer");
}

fn a_close_callback_that_is_set_in_the_handler_is_called(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let inner = log.clone();
    context
        .add_fd(ours, READ, move |_, fd, _| {
            log_close(fd, &inner);
            fd.remove();
        })
        .unwrap()
        .detach();
    settle(&context);
    assert_eq!(log.take(), "closed");
}

fn an_event_whose_handler_panicked_is_closed_once(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, _peer) = readable();
    let fd = context
        .add_fd(ours, READ, |_, fd: &Event, _| {
            fd.remove();
            panic!("in the handler");
        })
        .unwrap();
    log_close(&fd, &log);
    fd.detach();
    assert_eq!(panic_of(|| context.run()), "in the handler");
    assert_eq!(log.take(), "closed");
}

#[test]
fn the_descriptor_is_out_of_the_backends_set_when_the_source_leaves() {
    let (context, recorder) = recorded();
    let recorder = Rc::clone(&recorder);
    let (ours, _peer) = pair();
    let number = ours.as_raw_fd();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    recorder.take();
    let seen = Rc::clone(&recorder);
    let log = Log::new();
    let inner = log.clone();
    fd.on_close(move |_| {
        assert_eq!(seen.take(), [Call::Remove(number)], "it is out of the set");
        inner.add("closed");
    });
    drop(fd);
    assert_eq!(log.take(), "closed");
    assert_eq!(recorder.take(), []);
}
