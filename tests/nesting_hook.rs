//! The nesting hook, and starting over inside a handler.

mod common;

use common::*;
use tevent::{BackendKind, Context, Nesting};

on_every_backend!(
    the_hook_is_told_of_begin_and_end_of_every_level,
    the_hook_is_not_told_of_a_refused_loop,
    a_hook_may_replace_itself_and_take_itself_away,
    a_hook_may_use_the_context,
    reinitialising_in_a_handler_allows_a_loop_there,
    reinitialising_keeps_the_permission_and_removes_the_hook,
    a_hook_set_after_reinitialising_is_not_told_of_the_end_of_the_former_loop,
);

fn nesting(kind: BackendKind) -> Context {
    builder(kind).nesting_allowed(true).build().unwrap()
}

fn the_hook_is_told_of_begin_and_end_of_every_level(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_nesting_hook(move |_: &Context, nesting| inner.add(format!("{nesting:?}")));
    let inner = log.clone();
    context.defer(move |context| {
        let innermost = inner.clone();
        context.defer(move |context| {
            context.defer(innermost.once("deep"));
            context.run_until(|| innermost.count("deep") == 1).unwrap();
        });
        context.run().unwrap();
        inner.add("between");
        context.run().unwrap();
    });
    context.run_once().unwrap();
    assert_eq!(
        log.take(),
        "Begin(1) Begin(2) Begin(3) deep End(3) End(2) between Begin(2) End(2) End(1)"
    );
    context.clear_nesting_hook();
    context.run().unwrap();
    assert_eq!(log.take(), "", "it was taken away");
}

fn the_hook_is_not_told_of_a_refused_loop(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_nesting_hook(move |_: &Context, nesting| inner.add(format!("{nesting:?}")));
    context.defer(|context| assert!(context.run().is_err()));
    context.run().unwrap();
    assert_eq!(log.take(), "Begin(1) End(1)");
}

fn a_hook_may_replace_itself_and_take_itself_away(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    context.set_nesting_hook(move |context: &Context, nesting| {
        witness.keep();
        inner.add(format!("{nesting:?}"));
        let other = inner.clone();
        context.set_nesting_hook(move |context: &Context, nesting| {
            other.add(format!("other {nesting:?}"));
            context.clear_nesting_hook();
        });
    });
    context.run().unwrap();
    assert_eq!(log.take(), "Begin(1) dropped other End(1)");
    context.run().unwrap();
    assert_eq!(log.take(), "", "it took itself away");
}

fn a_hook_may_use_the_context(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_nesting_hook(move |context: &Context, nesting| {
        if nesting == Nesting::Begin(1) {
            context.defer(inner.once("deferred"));
            context.run_once().expect("a loop in the hook");
            context
                .add_timer(context.now(), inner.timer("timer"))
                .detach();
        }
    });
    context.run().unwrap();
    assert_eq!(log.take(), "deferred timer");
}

fn reinitialising_in_a_handler_allows_a_loop_there(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (ours, theirs) = readable();
    let (inner, witness) = (log.clone(), log.on_drop("dropped"));
    let handler = move |context: &Context, fd: &tevent::Fd<_>, _| {
        witness.keep();
        context.reinitialise().unwrap();
        assert!(!fd.is_registered());
        let (ours, theirs) = readable();
        let log = inner.clone();
        let handler = move |_: &Context, fd: &tevent::Fd<_>, _| {
            log.add("inside");
            drain(fd.get_ref());
            fd.remove();
        };
        context.add_fd(ours, READ, handler).unwrap().detach();
        context
            .run()
            .expect("the loop that called the handler counts no more");
        inner.add("returning");
        drop(theirs);
    };
    context.add_fd(ours, READ, handler).unwrap().detach();
    context.run().unwrap();
    assert_eq!(log.take(), "inside returning dropped");
    assert!(drain(&theirs), "the former event's socket is closed");
    context.defer(log.once("usable"));
    context.run().unwrap();
    assert_eq!(log.take(), "usable");
}

fn reinitialising_keeps_the_permission_and_removes_the_hook(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    context.set_nesting_hook(move |_: &Context, _| inner.add("hook"));
    context.reinitialise().unwrap();
    context.defer(|context| context.run().expect("the permission is kept"));
    context.run().unwrap();
    assert_eq!(log.take(), "", "the hook is removed");
}

fn a_hook_set_after_reinitialising_is_not_told_of_the_end_of_the_former_loop(kind: BackendKind) {
    let context = nesting(kind);
    let log = Log::new();
    let inner = log.clone();
    context.defer(move |context| {
        context.reinitialise().unwrap();
        let told = inner.clone();
        context.set_nesting_hook(move |_: &Context, nesting| told.add(format!("{nesting:?}")));
        inner.add("handler");
    });
    context.run_once().unwrap();
    context.run().unwrap();
    assert_eq!(log.take(), "handler Begin(1) End(1)");
}
