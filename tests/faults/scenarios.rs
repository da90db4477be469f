//! What is done while calls fail.

use crate::kernel::{self, Call, FAULTS, Fault};
use crate::process::{self, sys, tests};
use crate::scene::{By, Scene, assert_succeeds, build, fork};
use crate::{
    assert_names_the_call, attempt, fail_in_turn, fail_in_turn_of, one_of_each, with_fault,
};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context, FdFlags, OsError, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    building_and_dropping,
    events_of_all_kinds,
    changes_of_interest,
    a_nested_loop,
    a_fork_by_the_context,
    a_fork_by_somebody,
    generations,
    starting_over,
    starting_over_in_a_child,
    dropping_with_everything_pending,
    children_without_descriptors,
    signals_sent_on,
    a_fork_that_the_kernel_refuses,
    counting_threads_without_proc,
    the_first_context_of_a_process,
    a_child_that_goes_between_two_looks_is_refused,
    pidfds_that_cannot_be_waited_for_are_done_without,
    an_epoll_that_is_forbidden_later_is_done_without,
    nanoseconds_that_the_kernel_cannot_count_are_done_without,
    a_wait_of_nanoseconds_that_is_interrupted_is_not_the_last,
    a_context_that_epoll_has_no_room_for_works_by_poll,
    a_child_that_epoll_has_no_room_for_works_by_poll,
    one_descriptor_more_than_epoll_has_room_for_is_refused,
];

const BOTH: [By; 2] = [By::Context, By::Somebody];

/// What every context uses, by its backend.
fn basics(kind: BackendKind) -> Vec<Call> {
    match kind {
        BackendKind::Poll => vec![Call::Eventfd, Call::Ppoll, Call::Close],
        _ => vec![
            Call::EpollCreate,
            Call::EpollAdd,
            Call::Eventfd,
            Call::Close,
        ],
    }
}

fn basics_and(kind: BackendKind, others: &[Call]) -> Vec<Call> {
    let mut calls = basics(kind);
    calls.extend(others);
    if kind != BackendKind::Poll {
        calls.extend([
            Call::EpollWait,
            Call::EpollPwait2,
            Call::EpollModify,
            Call::EpollRemove,
        ]);
    }
    calls
}

fn building_and_dropping(kind: BackendKind) {
    fail_in_turn(kind, &basics(kind), |kind| {
        for _ in 0..2 {
            drop(build(kind));
        }
        let contexts = [build(kind), build(kind)];
        drop(contexts);
    });
}

fn events_of_all_kinds(kind: BackendKind) {
    let used = [Call::Sigaction, Call::PidfdOpen, Call::Waitid];
    fail_in_turn(kind, &basics_and(kind, &used), |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        scene.play_with_others(&context);
        scene.play(&context);
        scene.end(&context);
    });
}

fn changes_of_interest(kind: BackendKind) {
    fail_in_turn(kind, &basics_and(kind, &[]), |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        for _ in 0..4 {
            scene.play(&context);
        }
        // Without the events that the first one shares its context with.
        drop(scene);
        let scene = Scene::set(&context);
        scene.play(&context);
    });
}

fn a_nested_loop(kind: BackendKind) {
    fail_in_turn(kind, &basics_and(kind, &[]), |kind| {
        let context = build(kind);
        context.set_nesting_allowed(true);
        let scene = Rc::new(Scene::set(&context));
        let done = Rc::new(Cell::new(0));
        // Its own descriptor stays ready, and is out of the inner loop's set.
        let (ours, mut theirs) = sys::pair();
        theirs.write_all(b"x").expect("there is room");
        let ours = Rc::new(ours);
        let event = attempt(|| {
            let (scene, done) = (Rc::clone(&scene), Rc::clone(&done));
            context.add_fd(Rc::clone(&ours), FdFlags::READ, move |context, event, _| {
                scene.play(context);
                let (innermost, innermost_done) = (Rc::clone(&scene), Rc::clone(&done));
                context.defer(move |context| {
                    innermost.play(context);
                    innermost_done.set(1);
                });
                scene.run_until(context, || done.get() == 1);
                event.remove();
                done.set(2);
            })
        });
        scene.run_until(&context, || {
            // A refused change has disarmed it.
            if event.is_registered() && event.flags().is_empty() {
                event.set_flags(FdFlags::READ);
            }
            done.get() == 2
        });
        scene.play(&context);
    });
}

fn forked(kind: BackendKind, by: By) {
    let mut used = basics_and(kind, &[Call::Dup3]);
    let mut faults = one_of_each();
    if matches!(by, By::Context) {
        used.extend([Call::Fork, Call::Opendir]);
        faults = FAULTS.to_vec();
    }
    fail_in_turn_of(&faults, kind, &used, |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        // Something is armed, and timers and immediates are under way.
        scene.play(&context);
        let pid = fork(&context, by, || {
            // Both ends are copied, and the parent keeps off them until the child has ended.
            scene.play(&context);
            let other = Scene::set(&context);
            other.play(&context);
            drop(other);
            scene.assert_lends_its_own(&context);
        });
        assert_succeeds(pid);
        scene.play(&context);
        scene.end(&context);
    });
}

fn a_fork_by_the_context(kind: BackendKind) {
    forked(kind, By::Context);
}

fn a_fork_by_somebody(kind: BackendKind) {
    forked(kind, By::Somebody);
}

fn generations(kind: BackendKind) {
    fn generation(context: &Context, left: usize) {
        if left > 0 {
            let pid = fork(context, BOTH[left % 2], || generation(context, left - 1));
            assert_succeeds(pid);
        }
        // Of what the parent has made happen nothing is left when the child is here.
        Scene::set(context).play(context);
    }
    let used = basics_and(kind, &[Call::Dup3, Call::Fork]);
    fail_in_turn_of(&one_of_each(), kind, &used, |kind| {
        let context = build(kind);
        // It is in every generation's set.
        let _scene = Scene::set(&context);
        generation(&context, 2);
    });
}

fn starting_over(kind: BackendKind) {
    fail_in_turn(kind, &basics_and(kind, &[Call::Dup3]), |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        scene.play(&context);
        scene.make_happen(&context);
        attempt(|| context.reinitialise());
        drop(scene);
        let scene = Scene::set(&context);
        scene.play(&context);
        // Once, whatever it says: the next use tries again.
        if let Err(error) = context.reinitialise() {
            assert_names_the_call(&error);
        }
        drop(scene);
        Scene::set(&context).play(&context);
    });
}

fn starting_over_in_a_child(kind: BackendKind) {
    let used = basics_and(kind, &[Call::Dup3, Call::Fork]);
    fail_in_turn_of(&one_of_each(), kind, &used, |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        for by in BOTH {
            let pid = fork(&context, by, || {
                attempt(|| context.reinitialise());
                let scene = Scene::set(&context);
                scene.play(&context);
                scene.end(&context);
            });
            assert_succeeds(pid);
            scene.play(&context);
        }
    });
}

fn dropping_with_everything_pending(kind: BackendKind) {
    fail_in_turn_of(&one_of_each(), kind, &basics(kind), |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        scene.make_happen(&context);
        drop(context);
        drop(scene);
        let (forking, context) = (build(kind), build(kind));
        let scene = Scene::set(&context);
        scene.make_happen(&context);
        let pid = fork(&forking, By::Context, || drop((context, scene)));
        assert_succeeds(pid);
    });
}

/// There is no pidfd to be had, so `SIGCHLD` says when to wait.
fn children_without_descriptors(kind: BackendKind) {
    let faults: Vec<(Call, &[i32])> = FAULTS
        .iter()
        .copied()
        .filter(|(call, _)| matches!(call, Call::Waitpid | Call::Waitid | Call::Sigaction))
        .collect();
    fail_in_turn_of(&faults, kind, &[Call::Waitpid, Call::Waitid], |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        kernel::hide_pidfds(true);
        scene.await_child(&context);
        scene.play(&context);
        kernel::hide_pidfds(false);
    });
}

/// Another thread receives more signals than the queue holds, and sends them on.
fn signals_sent_on(kind: BackendKind) {
    const SENT: usize = 300;
    fail_in_turn(kind, &[Call::SendOn], |kind| {
        let context = build(kind);
        let scene = Scene::set(&context);
        let signum = Signum::realtime(3).expect("a real-time signal");
        let values = Rc::new(RefCell::new(Vec::new()));
        let _signal = attempt(|| {
            let values = Rc::clone(&values);
            context.add_signal(signum, SignalFlags::SIGINFO, move |_, _, info| {
                let value = info.siginfo.and_then(|info| info.value());
                values.borrow_mut().push(value.expect("a value"));
            })
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 0..SENT {
                    sys::sigqueue_to_this_thread(signum, value);
                }
            });
        });
        scene.run_until(&context, || values.borrow().len() == SENT);
        // The first that found no room went round once more, behind others.
        values.borrow_mut().sort_unstable();
        assert!(values.borrow().iter().copied().eq(0..SENT), "each once");
        scene.play(&context);
    });
}

/// With all that `pthread_atfork` has prepared undone, and not by a function that pretends.
fn a_fork_that_the_kernel_refuses(kind: BackendKind) {
    let context = build(kind);
    let scene = Scene::set(&context);
    scene.play(&context);
    kernel::refuse_new_processes();
    for _ in 0..3 {
        let error = context.fork().unwrap_err();
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<OsError>());
        let inner = inner.expect("an error that names the call");
        assert_eq!(inner.operation(), "fork");
        assert_eq!(inner.error().raw_os_error(), Some(libc::EAGAIN));
        sys::assert_own_mask_is_clean();
        assert_eq!(unsafe { libc::fork() }, -1);
        sys::assert_own_mask_is_clean();
        scene.play(&context);
    }
}

/// `/proc` isn't there, so the kernel is asked by `unshare`.
fn counting_threads_without_proc(kind: BackendKind) {
    let faults: Vec<(Call, &[i32])> = FAULTS
        .iter()
        .copied()
        .filter(|(call, _)| matches!(call, Call::Unshare | Call::Opendir | Call::Fork))
        .collect();
    fail_in_turn_of(&faults, kind, &[Call::Unshare, Call::Fork], |kind| {
        let context = build(kind);
        kernel::hide_proc(true);
        let pid = fork(&context, By::Context, || {
            Scene::set(&context).play(&context)
        });
        kernel::hide_proc(false);
        assert_succeeds(pid);
    });
}

/// What is done once in a process, so each fault needs a process of its own.
fn the_first_context_of_a_process(kind: BackendKind) {
    kernel::prepare();
    for length in 1..=crate::LONGEST {
        let child = sys::fork(|| {
            let fault = Fault {
                call: Call::Atfork,
                errno: libc::ENOMEM,
                nth: 1,
                length,
            };
            let failures = with_fault(fault, || {
                let context = build(kind);
                let scene = Scene::set(&context);
                scene.play(&context);
                let pid = fork(&context, By::Somebody, || {
                    Scene::set(&context).play(&context)
                });
                assert_succeeds(pid);
            });
            assert_eq!(failures, length, "that many attempts were made");
        });
        sys::assert_succeeds(child);
    }
}

/// The second look at a child that is added is by its pidfd.
fn second_look_fails_with(errno: i32) -> Fault {
    Fault {
        call: Call::Waitid,
        errno,
        nth: 2,
        length: 1,
    }
}

/// Somebody else has reaped it meanwhile, so its number may be another's by now.
fn a_child_that_goes_between_two_looks_is_refused(kind: BackendKind) {
    kernel::prepare();
    let failures = with_fault(second_look_fails_with(libc::ECHILD), || {
        let context = build(kind);
        let pid = kernel::undisturbed(|| sys::fork(|| sys::end(3)));
        let added = context.add_child(pid, |_, _, _| unreachable!());
        assert_names_the_call(&added.expect_err("it is gone"));
        kernel::undisturbed(|| assert_eq!(sys::reap(pid), sys::Status::Exited(3)));
    });
    assert_eq!(failures, 1);
}

/// Linux 5.3 has pidfds, but no way to wait for one.
fn pidfds_that_cannot_be_waited_for_are_done_without(kind: BackendKind) {
    kernel::prepare();
    let failures = with_fault(second_look_fails_with(libc::EINVAL), || {
        let context = build(kind);
        let pid = kernel::undisturbed(|| sys::fork(|| sys::end(3)));
        let code = Rc::new(Cell::new(None));
        let told = Rc::clone(&code);
        let added = context.add_child(pid, move |_, _, result| {
            told.set(result.expect("a status").code());
        });
        let _child = added.expect("SIGCHLD is there");
        assert_eq!(sys::count_of_pidfds(), 0);
        context.run().unwrap();
        assert_eq!(code.get(), Some(3));
    });
    assert_eq!(failures, 1);
}

/// A shortage of descriptors is over some day; that a sandbox allows no epoll is not.
fn an_epoll_that_is_forbidden_later_is_done_without(kind: BackendKind) {
    kernel::prepare();
    let context = build(kind);
    let fault = Fault {
        call: Call::EpollCreate,
        errno: libc::EPERM,
        nth: 1,
        length: 1,
    };
    let failures = with_fault(fault, || match context.reinitialise() {
        Ok(()) => assert_ne!(kind, BackendKind::Epoll),
        Err(error) => {
            assert_eq!(kind, BackendKind::Epoll);
            assert_names_the_call(&error);
        }
    });
    assert_eq!(failures, u32::from(kind != BackendKind::Poll));
    Scene::set(&context).play(&context);
}

/// Waits for a timer while `epoll_pwait2` fails with `errno` at its first calls, each time. How often
/// it has failed.
fn failures_of_timed_waits(kind: BackendKind, errno: i32) -> u32 {
    kernel::prepare();
    let fault = Fault {
        call: Call::EpollPwait2,
        errno,
        nth: 1,
        length: 3,
    };
    with_fault(fault, || {
        let context = build(kind);
        let timer = context.add_timer_after(Duration::from_millis(2), |context, _| context.stop());
        context.run().expect("nobody is told of it");
        assert!(timer.deadline().is_none(), "the timer was called");
        assert_eq!(context.backend_name(), build(kind).backend_name());
    })
}

fn nanoseconds_that_the_kernel_cannot_count_are_done_without(kind: BackendKind) {
    for errno in [libc::ENOSYS, libc::EPERM] {
        let failures = failures_of_timed_waits(kind, errno);
        assert_eq!(failures, u32::from(kind != BackendKind::Poll));
    }
}

fn a_wait_of_nanoseconds_that_is_interrupted_is_not_the_last(kind: BackendKind) {
    let failures = failures_of_timed_waits(kind, libc::EINTR);
    let all = if kind == BackendKind::Poll { 0 } else { 3 };
    assert_eq!(failures, all, "it is tried again");
}

/// The kernel watches as many descriptors as it may, and takes no more.
fn full_epoll(errno: i32) -> Fault {
    Fault {
        call: Call::EpollAdd,
        errno,
        nth: 1,
        length: u32::MAX,
    }
}

fn a_context_that_epoll_has_no_room_for_works_by_poll(kind: BackendKind) {
    kernel::prepare();
    for errno in [libc::ENOSPC, libc::ENOMEM] {
        let failures = with_fault(full_epoll(errno), || {
            let built = Context::builder().backend(kind).wait_timeout(None).build();
            match built {
                Ok(context) => {
                    assert_ne!(kind, BackendKind::Epoll);
                    Scene::set(&context).play(&context);
                }
                Err(error) => {
                    assert_eq!(kind, BackendKind::Epoll);
                    assert_names_the_call(&error);
                }
            }
        });
        assert_eq!(failures, u32::from(kind != BackendKind::Poll));
    }
}

fn a_child_that_epoll_has_no_room_for_works_by_poll(kind: BackendKind) {
    kernel::prepare();
    for by in BOTH {
        let context = build(kind);
        let scene = Scene::set(&context);
        scene.play(&context);
        let failures = with_fault(full_epoll(libc::ENOSPC), || {
            let pid = fork(&context, by, || match kind {
                BackendKind::Epoll => {
                    for _ in 0..2 {
                        let ran = context.run_once();
                        assert_names_the_call(&ran.expect_err("there is no other mechanism"));
                    }
                    kernel::stop_failing();
                    scene.play(&context);
                }
                _ => {
                    context.run_ready().expect("poll takes over");
                    scene.play(&context);
                }
            });
            assert_succeeds(pid);
        });
        match kind {
            BackendKind::Poll => assert_eq!(failures, 0),
            _ => assert!(failures > 0, "nothing was refused"),
        }
        scene.play(&context);
    }
}

fn one_descriptor_more_than_epoll_has_room_for_is_refused(kind: BackendKind) {
    kernel::prepare();
    let context = build(kind);
    let scene = Scene::set(&context);
    scene.play(&context);
    let (ours, mut theirs) = sys::pair();
    theirs.write_all(b"x").expect("there is room");
    let called = Rc::new(Cell::new(false));
    let setter = Rc::clone(&called);
    let mut source = Some(ours);
    let failures = with_fault(full_epoll(libc::ENOSPC), || {
        if kind != BackendKind::Poll {
            let ours = source.take().expect("it is there");
            let added = context.add_fd(ours, FdFlags::READ, |_, _, _| unreachable!());
            let error = added.expect_err("there is no room");
            assert_names_the_call(error.error());
            source = Some(error.into_source());
        }
        context.run_ready().expect("the others stay where they are");
        let polled = kernel::calls(Call::Ppoll) > 0;
        assert_eq!(polled, kind == BackendKind::Poll, "poll has taken over");
    });
    assert_eq!(failures, u32::from(kind != BackendKind::Poll));
    // Somebody else has gone.
    let ours = source.expect("it came back");
    let added = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
        setter.set(true);
        event.remove();
    });
    let _event = added.expect("there is room");
    scene.run_until(&context, || called.get());
    scene.play(&context);
}
