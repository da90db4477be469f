//! Requests and queues in forked processes.

use crate::process::{self, context, sys, tests};
use crate::{BY, Flag, fork, in_child, run_what_is_ready};
use std::time::Duration;
use tevent::{BackendKind, Completer, Context, Request, RequestError};

pub const TESTS: &[process::Test] = tests![
    requests_go_on_in_both,
    what_the_loop_is_to_call_is_called_in_both,
    queues_go_on_in_both,
    reinitialise_abandons_requests_in_the_child_only,
    reinitialise_empties_queues_in_the_child_only,
    a_callback_forks_and_its_child_works_on_requests_of_its_own,
];

const MOMENT: Duration = Duration::from_millis(2);

type Pair = (Request<i32, ()>, Completer<i32, ()>);

/// A request that a timer ends, with one that waits for it, whose callback raises the flag.
fn timed(context: &Context, flag: &Flag) -> Request<i32, ()> {
    let (inner, completer) = context.request("inner");
    inner.attach(context.add_timer_after(MOMENT, move |_, _| _ = completer.done(42)));
    let (outer, completer) = context.request("outer");
    completer.finish_with(inner);
    let flag = flag.clone();
    outer.on_complete(move |_, outcome| {
        assert_eq!(outcome, Ok(42));
        flag.raise();
    });
    outer
}

fn requests_go_on_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let flag = Flag::default();
        let _request = timed(&context, &flag);
        let (late, _completer): Pair = context.request("late");
        late.set_timeout(MOMENT);
        let check = || {
            context.run().unwrap();
            assert_eq!(flag.count(), 1, "{by:?}");
            assert_eq!(late.try_take(), Some(Err(RequestError::TimedOut)), "{by:?}");
            assert!(context.requests().is_empty());
        };
        in_child(&context, by, check);
        assert!(!flag.is_up(), "what the child does is its own");
        check();
    }
}

fn what_the_loop_is_to_call_is_called_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let flag = Flag::default();
        let (request, completer): Pair = context.request("test");
        let raiser = flag.clone();
        request.on_complete(move |_, _| raiser.raise());
        completer.finish_later(Ok::<_, ()>(1));
        let check = || {
            context.run().unwrap();
            assert_eq!(flag.count(), 1, "{by:?}");
        };
        in_child(&context, by, check);
        check();
    }
}

fn queues_go_on_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let queue = context.queue("test");
        let requests: Vec<Request<i32, ()>> = (0..3)
            .map(|number| {
                let (request, completer) = context.request("test");
                queue.add(&completer, move |context, completer| {
                    let owned = completer.clone();
                    let end = move |_: &Context, _: &_| _ = owned.done(number);
                    completer.attach(context.add_timer_after(MOMENT, end));
                });
                request
            })
            .collect();
        // One is being worked on, the others wait.
        run_what_is_ready(&context);
        let check = || {
            context.run().unwrap();
            let outcomes: Vec<_> = requests.iter().map(Request::try_take).collect();
            assert_eq!(outcomes, [0, 1, 2].map(|number| Some(Ok(number))), "{by:?}");
        };
        in_child(&context, by, check);
        check();
    }
}

fn reinitialise_abandons_requests_in_the_child_only(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (flag, told) = (Flag::default(), Flag::default());
        let request = timed(&context, &flag);
        let (other, completer): Pair = context.request("other");
        let raiser = told.clone();
        completer.on_cancel(move |_, _| raiser.raise());
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert_eq!(other.try_take(), Some(Err(RequestError::Abandoned)));
            assert!(!completer.is_wanted() && !request.state().is_pending());
            context.run().unwrap();
            assert!(!flag.is_up() && !told.is_up(), "{by:?}: nobody is called");
            assert!(context.requests().is_empty());
            let again = timed(&context, &flag);
            context.run().unwrap();
            assert!(flag.is_up(), "{by:?}");
            drop(again);
        });
        assert!(other.state().is_pending());
        context.run().unwrap();
        assert!(flag.is_up(), "{by:?}");
        drop(other);
        assert!(told.is_up());
    }
}

fn reinitialise_empties_queues_in_the_child_only(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let queue = context.queue("test");
        let (request, completer): Pair = context.request("test");
        queue.add_blocker(&completer);
        let wait = queue.wait();
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert!(queue.is_empty(), "{by:?}");
            let outcome = wait.try_take().expect("it has ended");
            assert!(outcome.unwrap_err().is_abandoned());
            let turn = context.block_on(queue.wait()).unwrap();
            assert!(turn.is_ok(), "the queue goes on");
        });
        assert_eq!(queue.len(), 2);
        completer.done(1);
        let turn = context.block_on(wait).unwrap();
        assert!(turn.is_ok(), "{by:?}");
        drop(request);
    }
}

fn a_callback_forks_and_its_child_works_on_requests_of_its_own(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (request, completer): Pair = context.request("test");
        let (other, _other_completer): Pair = context.request("other");
        let flag = Flag::default();
        let raiser = flag.clone();
        request.on_complete(move |context, _| {
            // The way of smbd: the loop runs again inside what the former one has called.
            let Some(pid) = fork(context, by) else {
                process::end_with(|| {
                    context.reinitialise().unwrap();
                    assert!(!other.state().is_pending());
                    let flag = Flag::default();
                    let request = timed(context, &flag);
                    context.run().unwrap();
                    assert!(flag.is_up(), "{by:?}");
                    drop(request);
                });
            };
            assert!(other.state().is_pending());
            sys::assert_succeeds(pid);
            raiser.raise();
        });
        completer.finish_later(Ok::<_, ()>(1));
        context.run().unwrap();
        assert!(flag.is_up());
    }
}
