//! Every kind of event works on, in the parent and in the child, whoever forked.

use crate::process::{self, context, sys, tests};
use crate::{BY, By, Flag, fork, in_child, run_what_is_ready, use_one_of_each};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, FdFlags, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    descriptors_work_in_parent_and_child,
    timers_fire_in_parent_and_child,
    immediates_run_in_parent_and_child,
    signals_are_told_to_whom_they_were_sent,
    remote_work_is_done_where_it_was_scheduled,
    a_fork_while_other_threads_schedule_leaves_the_child_what_they_had_scheduled,
    events_of_all_kinds_can_be_added_by_the_child,
    regular_files_stay_ready_in_the_child,
    several_generations_go_on_with_the_same_events,
    every_context_of_the_process_works_on,
    fork_is_refused_while_there_are_other_threads,
    a_full_descriptor_table_hides_no_thread_from_fork,
    fork_returns_the_id_of_the_child,
];

/// Does `check` in a child and then in the parent, for both ways to fork.
fn on_both_sides(kind: BackendKind, check: impl Fn(&Context) -> Box<dyn FnOnce(&Context)>) {
    for by in BY {
        let context = context(kind);
        let prepared = check(&context);
        let (to_child, to_parent) = sys::channel();
        let pid = match fork(&context, by) {
            Some(pid) => pid,
            None => process::end_with(|| {
                prepared(&context);
                sys::tell(&to_parent);
                // The parent's turn comes while the child's context is alive.
                sys::await_word(&to_parent);
            }),
        };
        sys::await_word(&to_child);
        prepared(&context);
        sys::tell(&to_child);
        sys::assert_succeeds(pid);
    }
}

fn descriptors_work_in_parent_and_child(kind: BackendKind) {
    on_both_sides(kind, |context| {
        let (ours, mut theirs) = sys::pair();
        let called = Flag::default();
        let flag = called.clone();
        let event = context
            .add_fd(ours, FdFlags::READ, move |_, event, flags| {
                assert_eq!(flags, FdFlags::READ);
                let mut buffer = [0; 8];
                let count = event.get_ref().read(&mut buffer).expect("readable");
                assert_eq!(&buffer[..count], b"hello");
                flag.raise();
            })
            .unwrap();
        Box::new(move |context| {
            assert_eq!(run_what_is_ready(context), 0);
            theirs.write_all(b"hello").unwrap();
            context.run_until(|| called.is_up()).unwrap();
            assert_eq!(event.flags(), FdFlags::READ);
        })
    });
}

fn timers_fire_in_parent_and_child(kind: BackendKind) {
    on_both_sides(kind, |context| {
        let deadline = Instant::now() + Duration::from_millis(5);
        let called = Flag::default();
        let flag = called.clone();
        let timer = context.add_timer(deadline, move |_, _| flag.raise());
        Box::new(move |context| {
            assert_eq!(timer.deadline(), Some(deadline));
            context.run().unwrap();
            assert!(Instant::now() >= deadline, "not before its time");
            assert_eq!(called.count(), 1);
        })
    });
}

fn immediates_run_in_parent_and_child(kind: BackendKind) {
    on_both_sides(kind, |context| {
        let called = Flag::default();
        let (first, second) = (called.clone(), called.clone());
        context.defer(move |_| {
            assert_eq!(first.count(), 0);
            first.raise();
        });
        let immediate = context.add_immediate(move |_, _| {
            assert_eq!(second.count(), 1);
            second.raise();
        });
        immediate.schedule();
        Box::new(move |context| {
            assert!(immediate.is_scheduled());
            context.run().unwrap();
            assert_eq!(called.count(), 2);
        })
    });
}

fn signals_are_told_to_whom_they_were_sent(kind: BackendKind) {
    on_both_sides(kind, |context| {
        let called = Flag::default();
        let mut events = Vec::new();
        for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
            let flag = called.clone();
            let told = move |_: &_, _: &_, info: &tevent::SignalInfo| {
                assert_eq!(info.count, 1);
                assert_eq!(info.siginfo.is_some(), flags == SignalFlags::SIGINFO);
                flag.raise();
            };
            events.push(context.add_signal(Signum::SIGUSR1, flags, told).unwrap());
        }
        Box::new(move |context| {
            assert_eq!(run_what_is_ready(context), 0, "the other's isn't ours");
            sys::raise(Signum::SIGUSR1);
            context.run_until(|| called.count() == 2).unwrap();
            drop(events);
        })
    });
}

fn remote_work_is_done_where_it_was_scheduled(kind: BackendKind) {
    on_both_sides(kind, |context| {
        let remote = context.remote();
        assert!(
            remote.schedule(|_| ()),
            "what came before the fork is copied"
        );
        Box::new(move |context| {
            assert_eq!(run_what_is_ready(context), 1);
            let (sender, receiver) = std::sync::mpsc::channel();
            let worker = thread::spawn(move || {
                remote.schedule(move |context| {
                    sender.send(()).expect("the test listens");
                    context.stop();
                })
            });
            context.run_until(|| false).unwrap();
            assert_eq!(receiver.try_recv(), Ok(()));
            assert!(worker.join().unwrap());
            // The next fork wants no other thread.
            sys::wait_until("the thread is gone", || sys::thread_count() == 1);
        })
    });
}

/// Whatever the threads are in the middle of: they don't exist in the child.
fn a_fork_while_other_threads_schedule_leaves_the_child_what_they_had_scheduled(kind: BackendKind) {
    static DONE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    let context = context(kind);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let senders = DONE.each_ref().map(|done| {
            let (remote, is_over) = (context.remote(), &is_over);
            scope.spawn(move || {
                for number in 0.. {
                    while number > done.load(Ordering::SeqCst) + 1000 {
                        if is_over.load(Ordering::SeqCst) {
                            return;
                        }
                        thread::yield_now();
                    }
                    assert!(remote.schedule(move |_| {
                        let before = done.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(before, number, "in order, and none is missing");
                    }));
                }
            })
        });
        for _ in 0..200 {
            let Some(pid) = sys::is_child_of_foreign_fork() else {
                process::end_with(|| {
                    for _ in 0..2 {
                        let remote = context.remote();
                        assert!(remote.schedule(|context| context.stop()));
                        context.run_until(|| false).expect("it runs");
                    }
                    assert!(
                        context
                            .remote()
                            .schedule(|_| unreachable!("nobody runs it"))
                    );
                    // Waits for nobody.
                    drop(context);
                });
            };
            sys::assert_succeeds(pid);
            let before: usize = DONE.iter().map(|done| done.load(Ordering::SeqCst)).sum();
            let done = || {
                DONE.iter()
                    .map(|done| done.load(Ordering::SeqCst))
                    .sum::<usize>()
            };
            context
                .run_until(|| done() > before + 500)
                .expect("it runs");
        }
        is_over.store(true, Ordering::SeqCst);
        for sender in senders {
            sender.join().expect("no panic");
        }
    });
}

fn events_of_all_kinds_can_be_added_by_the_child(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        in_child(&context, by, || {
            use_one_of_each(&context, Signum::SIGUSR1, SignalFlags::empty());
        });
        assert_eq!(run_what_is_ready(&context), 0);
    }
}

fn regular_files_stay_ready_in_the_child(kind: BackendKind) {
    if kind == BackendKind::Epoll {
        return; // It refuses them.
    }
    for by in BY {
        let context = context(kind);
        let called = Flag::default();
        let flag = called.clone();
        let _file = context.add_fd(sys::memory_file(), FdFlags::READ, move |context, _, _| {
            flag.raise();
            context.stop();
        });
        in_child(&context, by, || {
            context.run().unwrap();
            assert_eq!(called.count(), 1);
        });
        context.run().unwrap();
        assert_eq!(called.count(), 1);
    }
}

fn several_generations_go_on_with_the_same_events(kind: BackendKind) {
    fn generation(context: &Context, by: By, left: u32, called: &Flag, peer: &mut impl Write) {
        if left > 0 {
            in_child(context, by, || {
                generation(context, by, left - 1, called, peer);
            });
        }
        assert_eq!(called.count(), 0, "a copy of what the parent had");
        peer.write_all(b"x").unwrap();
        sys::raise(Signum::SIGUSR1);
        context.run_until(|| called.count() == 3).unwrap();
    }
    for by in BY {
        let context = context(kind);
        let called = Flag::default();
        let (ours, mut theirs) = sys::pair();
        let flag = called.clone();
        let _fd = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
            event.get_ref().read_exact(&mut [0]).expect("readable");
            flag.raise();
        });
        let flag = called.clone();
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, _| {
            flag.raise();
        });
        let flag = called.clone();
        let _timer = context.add_timer(context.now(), move |_, _| flag.raise());
        generation(&context, by, 5, &called, &mut theirs);
    }
}

fn every_context_of_the_process_works_on(kind: BackendKind) {
    for by in BY {
        let contexts = [context(kind), context(kind)];
        let called = Flag::default();
        let (ours, mut theirs) = sys::pair();
        let flag = called.clone();
        let _fd = contexts[1].add_fd(ours, FdFlags::READ, move |_, event, _| {
            event.get_ref().read_exact(&mut [0]).expect("readable");
            flag.raise();
        });
        let mut check = || {
            theirs.write_all(b"x").unwrap();
            contexts[1].run_until(|| called.is_up()).unwrap();
            assert_eq!(run_what_is_ready(&contexts[0]), 0);
        };
        in_child(&contexts[0], by, &mut check);
        check();
    }
}

fn fork_is_refused_while_there_are_other_threads(kind: BackendKind) {
    let context = context(kind);
    let (ours, theirs) = sys::channel();
    thread::scope(|scope| {
        scope.spawn(|| sys::await_word(&theirs));
        context.fork().unwrap_err();
        context.fork().unwrap_err();
        sys::tell(&ours);
    });
    sys::wait_until("the thread is gone", || sys::thread_count() == 1);
    in_child(&context, By::Context, || ());
}

fn a_full_descriptor_table_hides_no_thread_from_fork(kind: BackendKind) {
    let context = context(kind);
    let refusal = context_refuses_to_fork(&context);
    // The threads can't be counted in /proc now.
    let blind = sys::without_descriptors(|| context_refuses_to_fork(&context));
    assert_eq!(blind, refusal);
    sys::wait_until("the thread is gone", || sys::thread_count() == 1);
    sys::without_descriptors(|| in_child(&context, By::Context, || ()));
}

/// Why the context can't be forked while there is another thread.
fn context_refuses_to_fork(context: &Context) -> String {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || receiver.recv());
        let error = context.fork().unwrap_err();
        drop(sender);
        error.to_string()
    })
}

fn fork_returns_the_id_of_the_child(kind: BackendKind) {
    let context = context(kind);
    let (ours, mut theirs) = sys::channel();
    let pid = match fork(&context, By::Context) {
        Some(pid) => pid,
        None => process::end_with(|| {
            theirs.write_all(&std::process::id().to_ne_bytes()).unwrap();
        }),
    };
    let mut said = [0; 4];
    (&ours).read_exact(&mut said).unwrap();
    assert_eq!(u32::from_ne_bytes(said), pid);
    sys::assert_succeeds(pid);
    assert!(!sys::has_children(), "there is no other");
}
