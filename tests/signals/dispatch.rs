//! Everything is legal in a handler, and nothing of it confuses the dispatch.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime, valued};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context, Signal, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_handler_that_removes_itself_is_dropped_after_it_returned,
    a_removed_handler_is_not_called_even_if_its_signal_had_come,
    a_handler_added_while_signals_are_handled_waits_for_the_next,
    a_siginfo_handler_that_removes_itself_gets_no_more,
    dropping_the_handle_inside_any_handler_removes_the_event,
    handlers_are_dropped_with_the_context_so_captured_handles_do_not_leak,
    a_handle_that_outlives_the_context_does_nothing,
    a_panic_leaves_the_other_handlers_their_signals,
    a_panic_leaves_a_signal_of_a_higher_number_to_be_handled,
    a_panic_leaves_the_remaining_siginfo_to_be_handled,
    a_panicking_resethand_handler_is_removed_all_the_same,
    reinitialise_in_a_handler_ends_the_dispatch,
    a_signal_raised_in_its_own_handler_comes_in_the_next_turn,
    the_drop_of_a_handler_may_use_the_context,
    what_a_panic_leaves_needs_no_new_signal_to_be_noticed,
    a_panic_leaves_the_signals_of_higher_numbers,
];

/// Says whether it was dropped.
struct Dropped(Rc<Cell<bool>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn a_handler_that_removes_itself_is_dropped_after_it_returned(kind: BackendKind) {
    let context = context(kind);
    let dropped = Rc::new(Cell::new(false));
    let guard = Dropped(Rc::clone(&dropped));
    let seen = Rc::clone(&dropped);
    context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, signal, _| {
            let _captured = &guard;
            signal.remove();
            assert!(!signal.is_registered());
            assert_eq!(signal.signum(), None);
            assert!(!seen.get(), "it is running still");
        })
        .unwrap()
        .detach();
    sys::raise(Signum::SIGHUP);
    context.run().unwrap();
    assert!(dropped.get(), "the handler is gone when it has returned");
}

fn a_removed_handler_is_not_called_even_if_its_signal_had_come(kind: BackendKind) {
    let context = context(kind);
    let (same_number, same) = counting(&context, Signum::SIGHUP);
    let (higher_number, higher) = valued(&context, realtime(0));
    let victims = RefCell::new(vec![same_number, higher_number]);
    // The newest, on the lowest number: called first.
    let _remover = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, _| {
            victims.borrow_mut().clear();
        })
        .unwrap();
    sys::sigqueue(std::process::id(), realtime(0), 1);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!((same.len(), higher.len()), (0, 0));
}

fn a_handler_added_while_signals_are_handled_waits_for_the_next(kind: BackendKind) {
    let context = context(kind);
    let added = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&added);
    let _adder = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, _, _| {
                let mut slot = slot.borrow_mut();
                if slot.is_none() {
                    *slot = Some(counting(context, Signum::SIGHUP));
                }
            },
        )
        .unwrap();
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    let counts = added.borrow().as_ref().expect("it was added").1.clone();
    assert_eq!(counts.len(), 0, "it was added after that signal");
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
}

fn a_siginfo_handler_that_removes_itself_gets_no_more(kind: BackendKind) {
    let context = context(kind);
    sys::set_handler(realtime(0), libc::SIG_IGN);
    let calls = Log::new();
    let log = calls.clone();
    context
        .add_signal(realtime(0), SignalFlags::SIGINFO, move |_, signal, _| {
            log.push(());
            signal.remove();
        })
        .unwrap()
        .detach();
    for value in 0..5 {
        sys::sigqueue(std::process::id(), realtime(0), value);
    }
    context.run().unwrap();
    assert_eq!(calls.len(), 1);
}

fn dropping_the_handle_inside_any_handler_removes_the_event(kind: BackendKind) {
    let context = context(kind);
    let own: Rc<RefCell<Option<Signal>>> = Rc::default();
    let slot = Rc::clone(&own);
    let signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, _| {
            drop(slot.borrow_mut().take());
        })
        .unwrap();
    *own.borrow_mut() = Some(signal);
    sys::raise(Signum::SIGHUP);
    context.run().unwrap();
    assert_eq!(sys::handler_of(Signum::SIGHUP), libc::SIG_DFL);

    let (other, counts) = counting(&context, Signum::SIGHUP);
    context.defer(move |_| drop(other));
    context.run().unwrap();
    assert_eq!(counts.len(), 0);
    assert_eq!(sys::handler_of(Signum::SIGHUP), libc::SIG_DFL);
}

fn handlers_are_dropped_with_the_context_so_captured_handles_do_not_leak(kind: BackendKind) {
    let context = context(kind);
    let dropped = Rc::new(Cell::new(false));
    let guard = Dropped(Rc::clone(&dropped));
    // A cycle: the handler owns the handle of its own event.
    let own: Rc<RefCell<Option<Signal>>> = Rc::default();
    let captured = Rc::clone(&own);
    let signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, _| {
            let _both = (&guard, &captured);
        })
        .unwrap();
    *own.borrow_mut() = Some(signal);
    drop(own);
    assert!(!dropped.get());
    drop(context);
    assert!(dropped.get(), "the context breaks the cycle");
}

fn a_handle_that_outlives_the_context_does_nothing(kind: BackendKind) {
    let context = context(kind);
    let (signal, counts) = counting(&context, Signum::SIGHUP);
    signal.set_name("reload");
    assert_eq!(signal.name().as_deref(), Some("reload"));
    drop(context);
    assert_eq!(sys::handler_of(Signum::SIGHUP), libc::SIG_DFL);
    assert!(!signal.is_registered());
    assert_eq!(signal.signum(), None);
    assert_eq!(signal.name(), None);
    assert!(signal.location().is_none());
    signal.set_tag(3);
    assert_eq!(signal.tag(), 0);

    // Another context may have taken the place of the first.
    let context = process::context(kind);
    let (_newer, newer) = counting(&context, Signum::SIGHUP);
    signal.remove();
    drop(signal);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(newer.take(), [1], "the other's event is left alone");
    assert_eq!(counts.len(), 0);
}

fn run_panics(context: &Context) {
    let caught = panic::catch_unwind(AssertUnwindSafe(|| context.run_once()));
    caught.expect_err("the handler's panic comes through");
}

fn a_panic_leaves_the_other_handlers_their_signals(kind: BackendKind) {
    let context = context(kind);
    let (_older, older) = counting(&context, Signum::SIGHUP);
    let (_higher, higher) = counting(&context, Signum::SIGUSR1);
    let calls = Log::new();
    let log = calls.clone();
    let _panicking = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, _| {
            log.push(());
            assert!(log.len() > 1, "expected: the first call panics");
        })
        .unwrap();
    sys::raise(Signum::SIGHUP);
    sys::raise(Signum::SIGHUP);
    sys::raise(Signum::SIGUSR1);
    run_panics(&context);
    assert_eq!((older.len(), higher.len()), (0, 0));
    assert!(context.run_once().unwrap());
    assert_eq!(older.take(), [2], "handled in the next run");
    assert_eq!(higher.take(), [1], "handled in the next run");
    assert_eq!(calls.len(), 1, "what it was told isn't told again");
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(calls.len(), 2, "and it is called again");
}

/// Nothing rings for it again.
fn a_panic_leaves_a_signal_of_a_higher_number_to_be_handled(kind: BackendKind) {
    let context = context(kind);
    let (_higher, higher) = counting(&context, Signum::SIGUSR1);
    let _panicking = context
        .add_signal(Signum::SIGHUP, SignalFlags::RESETHAND, |_, _, _| {
            panic!("expected")
        })
        .unwrap();
    sys::raise(Signum::SIGUSR1);
    sys::raise(Signum::SIGHUP);
    run_panics(&context);
    assert!(context.run_once().unwrap());
    assert_eq!(higher.take(), [1]);
}

fn a_panic_leaves_the_remaining_siginfo_to_be_handled(kind: BackendKind) {
    let context = context(kind);
    let values = Log::new();
    let log = values.clone();
    let _panicking = context
        .add_signal(realtime(0), SignalFlags::SIGINFO, move |_, _, info| {
            let value = info.siginfo.unwrap().value().unwrap();
            log.push(value);
            assert_ne!(value, 1, "expected");
        })
        .unwrap();
    for value in 0..4 {
        sys::sigqueue(std::process::id(), realtime(0), value);
    }
    run_panics(&context);
    assert_eq!(values.take(), [0, 1]);
    assert!(context.run_once().unwrap());
    assert_eq!(values.take(), [2, 3], "nothing is lost or told twice");
}

fn a_panicking_resethand_handler_is_removed_all_the_same(kind: BackendKind) {
    let context = context(kind);
    let signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::RESETHAND, |_, _, _| {
            panic!("expected");
        })
        .unwrap();
    sys::raise(Signum::SIGHUP);
    run_panics(&context);
    assert!(!signal.is_registered());
    context.run().unwrap();
}

fn reinitialise_in_a_handler_ends_the_dispatch(kind: BackendKind) {
    let context = context(kind);
    let (_older, older) = counting(&context, Signum::SIGHUP);
    let (_higher, higher) = valued(&context, realtime(0));
    let newer: Log<Log<u32>> = Log::new();
    let slot = newer.clone();
    let _signal = context
        .add_signal(
            Signum::SIGHUP,
            SignalFlags::empty(),
            move |context, signal, _| {
                context.reinitialise().unwrap();
                assert!(!signal.is_registered());
                let (added, counts) = counting(context, Signum::SIGHUP);
                added.detach();
                slot.push(counts);
            },
        )
        .unwrap();
    sys::sigqueue(std::process::id(), realtime(0), 1);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!((older.len(), higher.len()), (0, 0), "they are gone");
    let counts = newer.take().remove(0);
    sys::raise(Signum::SIGHUP);
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1], "the context is usable");
}

fn a_signal_raised_in_its_own_handler_comes_in_the_next_turn(kind: BackendKind) {
    let context = context(kind);
    let depth = Rc::new(Cell::new(0));
    let calls = Rc::new(Cell::new(0));
    let (inside, count) = (Rc::clone(&depth), Rc::clone(&calls));
    let _signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, info| {
            assert_eq!(inside.replace(1), 0, "it is never called inside itself");
            assert_eq!(info.count, 1);
            count.set(count.get() + 1);
            sys::raise(Signum::SIGHUP);
            inside.set(0);
        })
        .unwrap();
    sys::raise(Signum::SIGHUP);
    for turn in 1..5 {
        assert!(context.run_once().unwrap());
        assert_eq!(calls.get(), turn, "one call a turn");
    }
}

struct AddsTimerWhenDropped {
    context: tevent::WeakContext,
    ran: Rc<Cell<bool>>,
}

impl Drop for AddsTimerWhenDropped {
    fn drop(&mut self) {
        let ran = Rc::clone(&self.ran);
        if let Some(context) = self.context.upgrade() {
            context.defer(move |_| ran.set(true));
            let (signal, _) = counting(&context, Signum::SIGUSR2);
            drop(signal);
        }
    }
}

fn the_drop_of_a_handler_may_use_the_context(kind: BackendKind) {
    let context = context(kind);
    let ran = Rc::new(Cell::new(false));
    let guard = AddsTimerWhenDropped {
        context: context.downgrade(),
        ran: Rc::clone(&ran),
    };
    let signal = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), move |_, _, _| {
            let _captured = &guard;
        })
        .unwrap();
    drop(signal);
    context.run().unwrap();
    assert!(ran.get());
}

fn a_panic_leaves_the_signals_of_higher_numbers(kind: BackendKind) {
    let context = context(kind);
    let (_higher, higher) = counting(&context, Signum::SIGUSR2);
    let (_valued, values) = valued(&context, realtime(0));
    let _panicking = context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, _, _| {
            panic!("expected");
        })
        .unwrap();
    sys::sigqueue(std::process::id(), realtime(0), 7);
    sys::raise(Signum::SIGUSR2);
    sys::raise(Signum::SIGHUP);
    run_panics(&context);
    // It would wait for ever, did it not know of them.
    context
        .run_until(|| higher.len() == 1 && values.len() == 1)
        .unwrap();
    assert_eq!((higher.take(), values.take()), (vec![1], vec![7]));
}

fn what_a_panic_leaves_needs_no_new_signal_to_be_noticed(kind: BackendKind) {
    let context = context(kind);
    let (_older, older) = counting(&context, Signum::SIGHUP);
    let _panicking = context
        .add_signal(Signum::SIGHUP, SignalFlags::RESETHAND, |_, _, _| {
            panic!("expected");
        })
        .unwrap();
    let guard = context.add_timer_after(Duration::from_secs(80), |_, _| {
        panic!("the loop waited although a signal was left to be handled");
    });
    sys::raise(Signum::SIGHUP);
    run_panics(&context);
    context.run_until(|| older.len() == 1).unwrap();
    drop(guard);
}
