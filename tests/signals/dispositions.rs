//! What is installed, and what is restored.

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime, valued};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tevent::{BackendKind, Context, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    the_previous_disposition_is_restored_with_the_last_handler,
    every_way_to_remove_a_handler_restores,
    a_custom_handler_of_before_works_again,
    a_disposition_that_somebody_replaced_is_left_alone,
    without_restart_a_system_call_is_interrupted,
    with_restart_a_system_call_goes_on,
    nodefer_is_installed,
    without_nocldstop_a_stopped_child_is_told,
    with_nocldstop_only_ended_children_are_told,
    the_first_registration_of_a_number_installs_the_flags,
    no_number_that_a_loop_cannot_handle_is_taken,
    what_the_system_refuses_is_an_error_and_leaves_nothing,
];

fn the_previous_disposition_is_restored_with_the_last_handler(kind: BackendKind) {
    let context = context(kind);
    for before in [libc::SIG_DFL, libc::SIG_IGN] {
        sys::set_handler(Signum::SIGUSR1, before);
        let (first, _) = counting(&context, Signum::SIGUSR1);
        let (second, counts) = counting(&context, Signum::SIGUSR1);
        assert_ne!(sys::handler_of(Signum::SIGUSR1), before);
        drop(first);
        sys::raise(Signum::SIGUSR1);
        context.run_once().unwrap();
        assert_eq!(counts.take(), [1], "the number is still handled");
        drop(second);
        assert_eq!(sys::handler_of(Signum::SIGUSR1), before);
    }
}

fn every_way_to_remove_a_handler_restores(kind: BackendKind) {
    let ways: [fn(Context, tevent::Signal); 4] = [
        |_context, signal| signal.remove(),
        |_context, signal| drop(signal),
        |context, signal| {
            context.reinitialise().unwrap();
            drop(signal);
        },
        |context, signal| {
            signal.detach();
            drop(context);
        },
    ];
    for remove in ways {
        let context = context(kind);
        let (signal, _) = counting(&context, Signum::SIGTERM);
        assert_ne!(sys::handler_of(Signum::SIGTERM), libc::SIG_DFL);
        remove(context, signal);
        assert_eq!(sys::handler_of(Signum::SIGTERM), libc::SIG_DFL);
    }
}

static CUSTOM_CALLS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn custom(_signal: libc::c_int) {
    CUSTOM_CALLS.fetch_add(1, Ordering::SeqCst);
}

fn custom_handler() -> libc::sighandler_t {
    let handler: extern "C" fn(libc::c_int) = custom;
    handler as *const () as libc::sighandler_t
}

fn a_custom_handler_of_before_works_again(kind: BackendKind) {
    sys::set_handler(Signum::SIGUSR1, custom_handler());
    let context = context(kind);
    let (signal, counts) = counting(&context, Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
    assert_eq!(CUSTOM_CALLS.load(Ordering::SeqCst), 0);
    drop(signal);
    sys::raise(Signum::SIGUSR1);
    assert_eq!(CUSTOM_CALLS.load(Ordering::SeqCst), 1, "it is back");
}

fn a_disposition_that_somebody_replaced_is_left_alone(kind: BackendKind) {
    let context = context(kind);
    let (signal, _) = counting(&context, Signum::SIGUSR1);
    sys::set_handler(Signum::SIGUSR1, custom_handler());
    drop(signal);
    assert_eq!(
        sys::handler_of(Signum::SIGUSR1),
        custom_handler(),
        "somebody else's handler isn't ours to replace"
    );
    // And it is what is there before the next one.
    let (signal, counts) = counting(&context, Signum::SIGUSR1);
    sys::raise(Signum::SIGUSR1);
    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
    drop(signal);
    assert_eq!(sys::handler_of(Signum::SIGUSR1), custom_handler());
}

/// Reads from a socket while a child process sends signals, then a byte.
fn read_during_signals(kind: BackendKind, flags: SignalFlags) -> std::io::Result<usize> {
    let context = context(kind);
    let total = Rc::new(Cell::new(0));
    let sum = Rc::clone(&total);
    let _signal = context
        .add_signal(realtime(0), flags, move |_, _, info| {
            sum.set(sum.get() + info.count);
        })
        .unwrap();
    let (mut ours, mut theirs) = sys::channel();
    let me = std::process::id();
    let child = sys::fork(|| {
        for _ in 0..10 {
            sys::wait_until("the parent reads or has ended that", || {
                sys::state_of(me) == Some('S')
            });
            sys::kill(me, realtime(0));
        }
        theirs.write_all(b"x").expect("the parent has kept it");
    });
    let result = ours.read(&mut [0]);
    context.run_until(|| total.get() == 10).unwrap();
    sys::assert_succeeds(child);
    result
}

fn without_restart_a_system_call_is_interrupted(kind: BackendKind) {
    let error = read_during_signals(kind, SignalFlags::empty()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

fn with_restart_a_system_call_goes_on(kind: BackendKind) {
    let count = read_during_signals(kind, SignalFlags::RESTART).unwrap();
    assert_eq!(count, 1, "the signals weren't noticed");
}

fn installed_flags(signum: Signum) -> i32 {
    let flags = sys::disposition(signum).sa_flags;
    flags & (libc::SA_RESTART | libc::SA_NODEFER | libc::SA_NOCLDSTOP | libc::SA_RESETHAND)
}

fn nodefer_is_installed(kind: BackendKind) {
    let context = context(kind);
    let (plain, _) = counting(&context, Signum::SIGUSR1);
    assert_eq!(installed_flags(Signum::SIGUSR1), 0);
    drop(plain);
    let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::NODEFER, |_, _, _| ());
    assert_eq!(installed_flags(Signum::SIGUSR1), libc::SA_NODEFER);
}

/// Stops a child, which is told at once unless `flags` say otherwise, lets it go on, and ends it.
/// Returns the codes of the siginfo that came of it.
fn sigchld_codes(kind: BackendKind, flags: SignalFlags) -> Vec<i32> {
    let context = context(kind);
    let codes = Log::new();
    let log = codes.clone();
    let _signal = context
        .add_signal(
            Signum::SIGCHLD,
            flags | SignalFlags::SIGINFO,
            move |_, _, info| log.push(info.siginfo.unwrap().code()),
        )
        .unwrap();
    let child = sys::fork(|| {
        unsafe { libc::raise(libc::SIGSTOP) };
    });
    sys::await_stop(child);
    let told = usize::from(!flags.contains(SignalFlags::NOCLDSTOP));
    context.run_until(|| codes.len() == told).unwrap();
    sys::kill(child, Signum::SIGCONT);
    sys::assert_succeeds(child);
    // The kernel merges what it has to say of going on and of ending.
    context.run_until(|| codes.len() > told).unwrap();
    codes.take()
}

fn without_nocldstop_a_stopped_child_is_told(kind: BackendKind) {
    let codes = sigchld_codes(kind, SignalFlags::empty());
    assert_eq!(codes.first(), Some(&libc::CLD_STOPPED));
}

fn with_nocldstop_only_ended_children_are_told(kind: BackendKind) {
    let codes = sigchld_codes(kind, SignalFlags::NOCLDSTOP);
    assert_eq!(codes, [libc::CLD_EXITED]);
}

fn the_first_registration_of_a_number_installs_the_flags(kind: BackendKind) {
    let (first, second) = (context(kind), context(kind));
    let restart = first.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, |_, _, _| ());
    let nodefer = second.add_signal(Signum::SIGUSR1, SignalFlags::NODEFER, |_, _, _| ());
    assert_eq!(installed_flags(Signum::SIGUSR1), libc::SA_RESTART);
    drop(restart);
    assert_eq!(
        installed_flags(Signum::SIGUSR1),
        libc::SA_RESTART,
        "they stay until the last is gone"
    );
    drop(nodefer);
    let _resethand = second.add_signal(Signum::SIGUSR1, SignalFlags::RESETHAND, |_, _, _| ());
    assert_eq!(
        installed_flags(Signum::SIGUSR1),
        0,
        "RESETHAND is the event's, or the kernel would take the handler from the others"
    );
}

fn no_number_that_a_loop_cannot_handle_is_taken(_kind: BackendKind) {
    let refused = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        0,
        -1,
        65,
        i32::MAX,
        i32::MIN,
    ];
    for number in refused {
        let error = Signum::new(number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "signal {number}");
    }
    assert!(Signum::realtime(u8::MAX).is_err());
}

fn what_the_system_refuses_is_an_error_and_leaves_nothing(kind: BackendKind) {
    let context = context(kind);
    // The C library keeps the first real-time signals for itself.
    let reserved = Signum::new(32).expect("in range");
    for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
        let error = context
            .add_signal(reserved, flags, |_, _, _| ())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        context.run().unwrap(); // returns, as there is no handler
    }
    let (_signal, values) = valued(&context, realtime(0));
    sys::sigqueue(std::process::id(), realtime(0), 5);
    context.run_once().unwrap();
    assert_eq!(values.take(), [5], "the context is as it was");
    sys::assert_masks_are_clean();
}
