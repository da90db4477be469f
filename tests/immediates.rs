//! Immediates: their queue, and what keeps them from starving the rest.

mod common;

use common::*;
use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tevent::{BackendKind, Context, Immediate};

on_every_backend!(
    run_until_asks_before_each_turn_of_the_only_immediate,
    an_immediate_that_a_busy_descriptor_schedules_goes_before_the_next_call,
    immediates_run_in_the_order_they_were_scheduled,
    an_immediate_that_is_not_scheduled_does_not_run,
    an_immediate_runs_once_for_each_time_it_is_scheduled,
    scheduling_a_queued_immediate_appends_it_anew,
    a_cancelled_immediate_does_not_run_until_it_is_scheduled_again,
    an_immediate_that_reschedules_itself_runs_in_a_later_turn_behind_the_others,
    an_immediate_may_cancel_and_remove_others,
    an_immediate_may_remove_itself,
    what_an_immediate_schedules_goes_to_the_end,
    a_removed_immediate_cannot_be_scheduled,
    a_deferred_closure_runs_once_and_is_dropped,
    a_chain_of_immediates_leaves_a_turn_to_timers_and_descriptors_after_1024,
    the_starvation_budget_can_be_set,
    without_a_starvation_budget_immediates_starve_the_rest,
    when_the_budget_is_used_up_one_descriptor_has_a_turn,
    overdue_timers_do_not_starve_descriptors,
    a_chain_of_immediates_gives_descriptors_that_become_ready_a_turn,
    after_the_others_turn_the_chain_goes_on,
    the_only_immediate_may_schedule_itself_and_do_anything_else_under_run,
    the_only_immediate_leaves_a_turn_to_the_others_under_run,
);

/// In the middle of turns that have to do with descriptors only.
fn an_immediate_that_a_busy_descriptor_schedules_goes_before_the_next_call(kind: BackendKind) {
    let context = context(kind);
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    let immediate = context.add_immediate(move |context, _| {
        assert_eq!(count.get(), 50);
        context.stop();
    });
    let count = Rc::clone(&calls);
    let (ours, _theirs) = readable();
    let _event = context.add_fd(ours, READ, move |context, _, _| {
        count.set(count.get() + 1);
        match count.get() {
            50 => assert!(immediate.schedule()),
            60 => context.stop(),
            _ => (),
        }
    });
    context.run().unwrap();
    assert_eq!(calls.get(), 50);
}

fn immediates_run_in_the_order_they_were_scheduled(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let a = context.add_immediate(log.immediate("a"));
    let b = context.add_immediate(log.immediate("b"));
    b.schedule();
    context.defer(log.once("c"));
    a.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "b c a");
}

fn an_immediate_that_is_not_scheduled_does_not_run(kind: BackendKind) {
    let context = context(kind);
    let immediate = context.add_immediate(|_, _| unreachable!());
    assert!(!immediate.is_scheduled());
    context.run().unwrap();
}

fn an_immediate_runs_once_for_each_time_it_is_scheduled(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let immediate = context.add_immediate(log.immediate("ran"));
    for expected in 1..=3 {
        assert!(immediate.schedule());
        assert!(immediate.is_scheduled());
        settle(&context);
        assert!(!immediate.is_scheduled());
        assert_eq!(log.len(), expected);
    }
}

fn scheduling_a_queued_immediate_appends_it_anew(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let a = context.add_immediate(log.immediate("a"));
    let b = context.add_immediate(log.immediate("b"));
    a.schedule();
    b.schedule();
    a.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "b a");
}

fn a_cancelled_immediate_does_not_run_until_it_is_scheduled_again(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let a = context.add_immediate(log.immediate("a"));
    let b = context.add_immediate(log.immediate("b"));
    a.schedule();
    b.schedule();
    a.cancel();
    assert!(!a.is_scheduled());
    context.run().unwrap();
    assert_eq!(log.take(), "b");
    a.cancel();
    a.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "a");
}

fn an_immediate_that_reschedules_itself_runs_in_a_later_turn_behind_the_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    let immediate = context.add_immediate(move |_, immediate| {
        inner.add("again");
        if inner.count("again") < 3 {
            assert!(immediate.schedule());
        }
    });
    immediate.schedule();
    context.defer(log.once("other"));
    assert!(turn(&context));
    assert_eq!(log.len(), 1, "one call a turn");
    context.run().unwrap();
    assert_eq!(log.take(), "again other again again");
}

fn an_immediate_may_cancel_and_remove_others(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let first = context.add_immediate(|_, _| unreachable!());
    let second = context.add_immediate(|_, _| unreachable!());
    let inner = log.clone();
    let handles: Place<[Immediate; 2]> = Place::empty();
    let others = handles.clone();
    context.defer(move |_| {
        let [first, second] = others.take().unwrap();
        first.cancel();
        drop(second);
        inner.add("done");
    });
    first.schedule();
    second.schedule();
    handles.put([first, second]);
    context.run().unwrap();
    assert_eq!(log.take(), "done");
}

fn an_immediate_may_remove_itself(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let witness = log.on_drop("dropped");
    let inner = log.clone();
    let immediate = context.add_immediate(move |_, immediate| {
        witness.keep();
        immediate.schedule();
        immediate.remove();
        assert!(!immediate.schedule(), "it is removed at once");
        inner.add("returning");
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "returning dropped",
        "its closure lives until it returns"
    );
    assert!(!immediate.is_registered());
}

fn what_an_immediate_schedules_goes_to_the_end(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        inner.add("a");
        context.defer(inner.once("c"));
    });
    context.defer(log.once("b"));
    context.run().unwrap();
    assert_eq!(log.take(), "a b c");
}

fn a_removed_immediate_cannot_be_scheduled(kind: BackendKind) {
    let context = context(kind);
    let immediate = context.add_immediate(|_, _| unreachable!());
    immediate.schedule();
    immediate.remove();
    assert!(!immediate.schedule());
    assert!(!immediate.is_scheduled());
    context.run().unwrap();
}

fn a_deferred_closure_runs_once_and_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    context.defer(move |_| {
        witness.keep();
        inner.add("ran");
    });
    context.run().unwrap();
    assert_eq!(log.take(), "ran dropped");
}

/// An immediate that always schedules itself again. It writes "i".
fn chain(context: &Context, log: &Log) -> Immediate {
    let log = log.clone();
    let chain = context.add_immediate(move |_, immediate| {
        log.add("i");
        immediate.schedule();
    });
    chain.schedule();
    chain
}

/// How many immediates ran before the timer and before the descriptor.
fn starved_for(context: &Context, max_turns: usize) -> (usize, usize) {
    let log = Log::new();
    let _chain = chain(context, &log);
    let _timer = context.add_timer(context.now(), log.timer("timer"));
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("descriptor")).unwrap();
    turns(context, max_turns);
    let order = log.take();
    let order: Vec<&str> = order.split(' ').collect();
    let before = |what| {
        let position = order.iter().position(|&entry| entry == what);
        let seen = &order[..position.unwrap_or(order.len())];
        seen.iter().filter(|&&entry| entry == "i").count()
    };
    (before("timer"), before("descriptor"))
}

fn a_chain_of_immediates_leaves_a_turn_to_timers_and_descriptors_after_1024(kind: BackendKind) {
    assert_eq!(starved_for(&context(kind), 1100), (1024, 1024));
}

fn the_starvation_budget_can_be_set(kind: BackendKind) {
    for budget in [1, 2, 10] {
        let context = builder(kind)
            .starvation_budget(NonZeroU32::new(budget))
            .build()
            .unwrap();
        let budget = budget as usize;
        assert_eq!(starved_for(&context, 50), (budget, budget));
    }
}

fn without_a_starvation_budget_immediates_starve_the_rest(kind: BackendKind) {
    let context = builder(kind).starvation_budget(None).build().unwrap();
    assert_eq!(starved_for(&context, 5000), (5000, 5000), "as in tevent");
}

fn overdue_timers_do_not_starve_descriptors(kind: BackendKind) {
    let context = builder(kind)
        .starvation_budget(NonZeroU32::new(10))
        .build()
        .unwrap();
    let log = Log::new();
    let inner = log.clone();
    let start = context.now();
    let _timer = context.add_timer(start, move |_, timer| {
        inner.add("timer");
        timer.set_deadline(start);
    });
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("descriptor")).unwrap();
    turns(&context, 50);
    assert!(
        log.count("descriptor") >= 3,
        "the descriptor had its turns: {}",
        log.take()
    );
    assert!(log.count("timer") >= 30, "but the timer goes first");
}

fn a_chain_of_immediates_gives_descriptors_that_become_ready_a_turn(kind: BackendKind) {
    let context = context(kind);
    context.set_wait_timeout(None);
    let log = Log::new();
    let _chain = chain(&context, &log);
    let (ours, mut theirs) = pair();
    let done = Flag::new();
    let setter = done.clone();
    let _fd = context
        .add_fd(ours, READ, move |_, _, _| setter.set())
        .unwrap();
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut theirs, b"x").unwrap();
        theirs
    });
    run_until(&context, "the descriptor gets its turn", || done.is_set());
    writer.join().unwrap();
}

fn after_the_others_turn_the_chain_goes_on(kind: BackendKind) {
    let context = builder(kind)
        .starvation_budget(NonZeroU32::new(3))
        .build()
        .unwrap();
    let log = Log::new();
    let _chain = chain(&context, &log);
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("d")).unwrap();
    turns(&context, 12);
    assert_eq!(log.take(), "i i i d i i i d i i i d");
    // With nothing ready, the turn isn't lost.
    drop(_fd);
    assert_eq!(turns(&context, 12), 12, "the chain goes on without them");
}

/// The loop may call the only immediate again by a shorter way. That is to make no difference.
fn the_only_immediate_may_schedule_itself_and_do_anything_else_under_run(kind: BackendKind) {
    let context = context(kind);
    context.set_nesting_allowed(true);
    context.set_wait_timeout(Some(Duration::ZERO));
    let log = Log::new();
    let remote = context.remote();
    let posted = Arc::new(AtomicBool::new(false));
    let mut step = 0;
    let immediate = context.add_immediate({
        let log = log.clone();
        move |context, immediate| {
            step += 1;
            log.add(step.to_string());
            if step % 2 == 0 {
                assert!(!context.run_once().unwrap(), "there is nothing else");
            }
            if step % 3 == 0 {
                assert!(!immediate.is_scheduled());
            }
            assert!(immediate.schedule());
            match step {
                1 => assert!(immediate.schedule()),
                2 => context.defer(log.once("after")),
                3 => {
                    context.defer(log.once("before"));
                    assert!(immediate.schedule());
                }
                4 => {
                    let posted = Arc::clone(&posted);
                    assert!(remote.schedule(move |_| posted.store(true, SeqCst)));
                }
                5 => {
                    assert!(!posted.load(SeqCst), "that came after this");
                    immediate.cancel();
                    assert!(!immediate.is_scheduled());
                    assert!(immediate.schedule());
                    assert!(immediate.is_scheduled());
                }
                6 => {
                    assert!(posted.load(SeqCst));
                    context.defer(log.once("nested"));
                    assert!(context.run_once().unwrap());
                    assert!(
                        immediate.is_scheduled(),
                        "it waits for its handler to return"
                    );
                }
                7 => context.stop(),
                8 => immediate.cancel(),
                9 => panic!("on purpose"),
                10 => {
                    immediate.remove();
                    assert!(!immediate.schedule());
                }
                _ => {}
            }
        }
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(log.take(), "1 2 3 after before 4 5 6 nested 7");
    assert!(
        immediate.is_scheduled(),
        "the loop was stopped before its turn"
    );
    context.run().unwrap();
    assert_eq!(log.take(), "8");
    immediate.schedule();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| context.run()));
    panicked.expect_err("the panic comes through");
    assert!(immediate.is_scheduled(), "it had scheduled itself before");
    context.run().unwrap();
    assert_eq!(log.take(), "9 10");
    assert!(!immediate.is_registered());
}

fn the_only_immediate_leaves_a_turn_to_the_others_under_run(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = readable();
    let _fd = context
        .add_fd(ours, READ, |context, _, _| context.stop())
        .unwrap();
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let immediate = context.add_immediate(move |_, immediate| {
        counter.set(counter.get() + 1);
        assert!(counter.get() < 5000, "the descriptor has no turn");
        immediate.schedule();
    });
    immediate.schedule();
    for round in 1..=3 {
        context.run().unwrap();
        assert_eq!(calls.get(), 1024 * round);
    }
}

fn when_the_budget_is_used_up_one_descriptor_has_a_turn(kind: BackendKind) {
    let context = builder(kind)
        .starvation_budget(NonZeroU32::new(2))
        .build()
        .unwrap();
    let log = Log::new();
    let sockets = [readable(), readable()];
    let mut events = Vec::new();
    for (socket, _) in &sockets {
        let socket = socket.try_clone().unwrap();
        events.push(context.add_fd(socket, READ, log.fd("descriptor")).unwrap());
    }
    let inner = log.clone();
    let immediate = context.add_immediate(move |context, immediate| {
        inner.add("immediate");
        immediate.schedule();
        if inner.count("immediate") == 7 {
            context.stop();
        }
    });
    immediate.schedule();
    context.run().unwrap();
    assert_eq!(
        log.take(),
        "immediate immediate descriptor immediate immediate descriptor \
         immediate immediate descriptor immediate"
    );
}

fn run_until_asks_before_each_turn_of_the_only_immediate(kind: BackendKind) {
    let context = context(kind);
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let immediate = context.add_immediate(move |_, immediate| {
        counter.set(counter.get() + 1);
        immediate.schedule();
    });
    immediate.schedule();
    for expected in [5, 10] {
        context.run_until(|| calls.get() == expected).unwrap();
        assert_eq!(calls.get(), expected);
    }
}
