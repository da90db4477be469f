//! Forking inside handlers: the child re-initialises and goes its own way, or returns.

use crate::process::{self, context, sys, tests};
use crate::{BY, By, Flag, fork, run_what_is_ready, use_one_of_each};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use tevent::{BackendKind, Context, FdFlags, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    a_child_reinitialises_in_the_handler_and_runs_the_loop_from_there,
    a_child_returns_from_the_handler_and_goes_on,
    a_child_may_be_forked_in_a_nested_loop,
    what_was_ready_in_the_batch_is_left_to_the_parent,
    a_server_forks_a_child_for_each_connection,
];

type Work = Box<dyn Fn(&Context)>;

/// Has `work` called in a handler of each kind, in a context of its own each time.
fn in_handlers_of_every_kind(kind: BackendKind, work: impl Fn(&Context) + Clone + 'static) {
    let run = |add: &dyn Fn(&Context, Work)| {
        let context = context(kind);
        let done = Flag::default();
        let (flag, work) = (done.clone(), work.clone());
        let handler = move |context: &Context| {
            work(context);
            flag.raise();
        };
        add(&context, Box::new(handler));
        context.run_until(|| done.is_up()).unwrap();
    };
    run(&|context, work| {
        let (ours, mut theirs) = sys::pair();
        theirs.write_all(b"x").unwrap();
        let handler = move |context: &Context, event: &tevent::Fd<_>, _| {
            event.remove();
            work(context);
        };
        context
            .add_fd(ours, FdFlags::READ, handler)
            .unwrap()
            .detach();
    });
    run(&|context, work| {
        let timer = context.add_timer(context.now(), move |context, _| work(context));
        timer.detach();
    });
    run(&|context, work| context.defer(move |context| work(context)));
    run(&|context, work| {
        let immediate = context.add_immediate(move |context, _| work(context));
        immediate.schedule();
        immediate.detach();
    });
    for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
        run(&|context, work| {
            context
                .add_signal(Signum::SIGUSR1, flags, move |context, _, _| work(context))
                .unwrap()
                .detach();
            sys::raise(Signum::SIGUSR1);
        });
    }
    // A remote closure has to be Send, so the work is left where it finds it.
    thread_local!(static WORK: Cell<Option<Work>> = const { Cell::new(None) });
    run(&|context, work| {
        WORK.set(Some(work));
        let remote = context.remote();
        remote.schedule(|context| WORK.take().expect("once")(context));
    });
}

fn a_child_reinitialises_in_the_handler_and_runs_the_loop_from_there(kind: BackendKind) {
    for by in BY {
        in_handlers_of_every_kind(kind, move |context| {
            let pid = match fork(context, by) {
                Some(pid) => pid,
                None => process::end_with(|| {
                    context.reinitialise().unwrap();
                    // Nesting isn't allowed, but the parent's loop counts no more.
                    use_one_of_each(context, Signum::SIGUSR2, SignalFlags::empty());
                    context.run().unwrap(); // returns, as nothing is left
                }),
            };
            sys::assert_succeeds(pid);
        });
    }
}

fn a_child_returns_from_the_handler_and_goes_on(kind: BackendKind) {
    for by in BY {
        for reinitialises in [false, true] {
            let context = context(kind);
            let parent = std::process::id();
            let (ours, mut theirs) = sys::pair();
            let child = Rc::new(Cell::new(None));
            let slot = Rc::clone(&child);
            let _event = context.add_fd(ours, FdFlags::READ, move |context, event, _| {
                event.get_ref().read_exact(&mut [0]).expect("readable");
                slot.set(fork(context, by));
                if std::process::id() != parent && reinitialises {
                    context.reinitialise().unwrap();
                }
            });
            theirs.write_all(b"x").unwrap();
            assert!(context.run_once().unwrap());
            if std::process::id() != parent {
                process::end_with(|| {
                    use_one_of_each(
                        &context_without_events(context, reinitialises),
                        Signum::SIGUSR2,
                        SignalFlags::empty(),
                    )
                });
            }
            sys::assert_succeeds(child.get().expect("the parent knows its child"));
            theirs.write_all(b"x").unwrap();
            assert!(context.run_once().unwrap(), "the parent's event is there");
            if std::process::id() != parent {
                sys::end(0);
            }
            sys::assert_succeeds(child.get().expect("the parent knows its child"));
        }
    }
}

/// Removes what keeps `run` from returning.
fn context_without_events(context: Context, are_gone: bool) -> Context {
    if !are_gone {
        context.reinitialise().unwrap();
    }
    assert_eq!(run_what_is_ready(&context), 0);
    context
}

fn a_child_may_be_forked_in_a_nested_loop(kind: BackendKind) {
    for by in BY {
        for reinitialises in [false, true] {
            let context = context(kind);
            context.set_nesting_allowed(true);
            let parent = std::process::id();
            let (returned, child) = (Flag::default(), Flag::default());
            let (flag, pid) = (returned.clone(), child.clone());
            let _timer = context.add_timer(context.now(), move |context, timer| {
                timer.disarm();
                let pid = pid.clone();
                context.defer(move |context| match fork(context, by) {
                    Some(child) => pid.0.set(child),
                    None if reinitialises => {
                        context.reinitialise().unwrap();
                        use_one_of_each(context, Signum::SIGUSR2, SignalFlags::empty());
                    }
                    None => {}
                });
                assert!(context.run_once().unwrap());
                flag.raise();
            });
            context.run_until(|| returned.is_up()).unwrap();
            if std::process::id() != parent {
                process::end_with(|| {
                    drop(_timer);
                    use_one_of_each(&context, Signum::SIGUSR2, SignalFlags::empty());
                });
            }
            sys::assert_succeeds(child.count());
            use_one_of_each(&context, Signum::SIGUSR2, SignalFlags::empty());
        }
    }
}

fn what_was_ready_in_the_batch_is_left_to_the_parent(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let parent = std::process::id();
        let (to_child, to_parent) = sys::channel();
        let to_parent = Rc::new(to_parent);
        let (served, child) = (Flag::default(), Flag::default());
        let mut peers = Vec::new();
        for _ in 0..3 {
            let (ours, mut theirs) = sys::pair();
            theirs.write_all(b"x").unwrap();
            peers.push(theirs);
            let (served, pid, to_parent) = (served.clone(), child.clone(), Rc::clone(&to_parent));
            let handler = move |context: &Context, event: &tevent::Fd<_>, _| {
                let mut stream: &std::os::unix::net::UnixStream = event.get_ref();
                stream
                    .read_exact(&mut [0])
                    .expect("only who reads it is called");
                served.raise();
                if served.count() == 1 {
                    match fork(context, by) {
                        Some(child) => pid.0.set(child),
                        None => sys::await_word(&to_parent),
                    }
                }
            };
            context
                .add_fd(ours, FdFlags::READ, handler)
                .unwrap()
                .detach();
        }
        context.run_once().unwrap();
        if std::process::id() != parent {
            process::end_with(|| {
                let ran = run_what_is_ready(&context);
                assert_eq!(ran, 0, "the parent has served them, {by:?}");
            });
        }
        context.run_until(|| served.count() == 3).unwrap();
        sys::tell(&to_child);
        sys::assert_succeeds(child.count());
    }
}

fn a_server_forks_a_child_for_each_connection(kind: BackendKind) {
    const CLIENTS: u32 = 5;
    let path = std::env::temp_dir().join(format!("tevent-fork-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let clients = sys::fork(|| {
        for _ in 0..CLIENTS {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HELLO");
        }
    });
    let context = context(kind);
    let ended = Flag::default();
    let flag = ended.clone();
    let _sigchld = context.add_signal(Signum::SIGCHLD, SignalFlags::SIGINFO, move |_, _, _| {
        while sys::reap_any().is_some_and(|status| status == sys::Status::Exited(0)) {
            flag.raise();
        }
    });
    let _listener = context.add_fd(listener, FdFlags::READ, |context, event, _| {
        let Ok((stream, _)) = event.get_ref().accept() else {
            return;
        };
        if fork(context, By::Context).is_none() {
            process::end_with(|| {
                context.reinitialise().unwrap();
                stream.set_nonblocking(true).unwrap();
                let serve = |_: &Context, event: &tevent::Fd<_>, _| {
                    let mut stream: &std::os::unix::net::UnixStream = event.get_ref();
                    let mut request = [0; 5];
                    match stream.read(&mut request).expect("it was readable") {
                        0 => event.remove(),
                        count => {
                            let answer = request[..count].to_ascii_uppercase();
                            stream.write_all(&answer).unwrap();
                        }
                    }
                };
                context
                    .add_fd(stream, FdFlags::READ, serve)
                    .unwrap()
                    .detach();
                context.run().unwrap(); // until the client is done
            });
        }
    });
    context.run_until(|| ended.count() == CLIENTS + 1).unwrap();
    assert!(!sys::has_children(), "all are reaped, also {clients}");
    std::fs::remove_file(path).unwrap();
}
