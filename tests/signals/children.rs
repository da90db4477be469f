//! What must not be noticed: by the code that a signal interrupts, and by other programs.

use crate::process::{self, context, sys, tests};
use crate::{counting, realtime, valued};
use std::fs;
use std::io;
use std::process::Command;
use tevent::{BackendKind, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    errno_is_preserved,
    the_mask_is_never_changed,
    what_the_program_has_blocked_stays_blocked,
    an_executed_program_starts_with_a_clean_mask_and_default_dispositions,
    an_executed_program_has_none_of_our_descriptors,
    a_program_executed_in_a_siginfo_handler_has_a_clean_mask_after_a_full_queue,
    an_ignored_signal_is_ignored_again_by_executed_programs,
];

fn errno_is_preserved(kind: BackendKind) {
    let context = context(kind);
    let (_plain, counts) = counting(&context, Signum::SIGUSR1);
    let (_info, values) = valued(&context, realtime(0));
    // The wake-up's counter is as full as can be, so that writing to it fails with EAGAIN.
    let wakeup = sys::wakeup_of_the_only_context();
    sys::write_to_eventfd(wakeup, u64::MAX - 1);
    let errno = || io::Error::last_os_error().raw_os_error();

    unsafe { libc::close(-1) };
    assert_eq!(errno(), Some(libc::EBADF));
    unsafe { libc::raise(Signum::SIGUSR1.number()) };
    assert_eq!(errno(), Some(libc::EBADF), "the handler has changed errno");

    unsafe { libc::close(-1) };
    for _ in 0..300 {
        sys::sigqueue_once(std::process::id(), realtime(0), 0);
    }
    assert_eq!(errno(), Some(libc::EBADF), "also when the queue is full");

    context.run_once().unwrap();
    assert_eq!(counts.take(), [1]);
    context.run_until(|| values.len() == 300).unwrap();
}

fn the_mask_is_never_changed(kind: BackendKind) {
    let context = context(kind);
    let flags = [SignalFlags::empty(), SignalFlags::SIGINFO];
    let mut events = Vec::new();
    for number in 1..=libc::SIGRTMAX() {
        let Ok(signum) = Signum::new(number) else {
            continue;
        };
        for flags in flags {
            events.extend(context.add_signal(signum, flags, |_, _, _| {
                assert_eq!(sys::blocked_signals(), 0, "not while a handler runs");
            }));
            assert_eq!(sys::blocked_signals(), 0, "not by adding {signum}");
        }
    }
    for signum in [Signum::SIGHUP, Signum::SIGTERM, realtime(4)] {
        sys::raise(signum);
        assert_eq!(sys::blocked_signals(), 0, "not by the arrival of {signum}");
    }
    assert!(context.run_once().unwrap());
    assert_eq!(sys::blocked_signals(), 0, "not by the loop");
    drop(events);
    assert_eq!(sys::blocked_signals(), 0, "not by removing");
    drop(context);
    assert_eq!(sys::blocked_signals(), 0, "not by dropping the context");
}

fn what_the_program_has_blocked_stays_blocked(kind: BackendKind) {
    let context = context(kind);
    let (plain, counts) = counting(&context, realtime(1));
    let (with_siginfo, values) = valued(&context, realtime(1));
    sys::sigqueue(std::process::id(), realtime(1), 5);
    sys::block(realtime(1));
    let blocked = sys::bit(realtime(1));
    assert!(context.run_once().unwrap());
    assert_eq!((counts.take(), values.take()), (vec![1], vec![5]));
    assert_eq!(sys::blocked_signals(), blocked, "the loop leaves it so");
    drop(with_siginfo);
    assert_eq!(sys::blocked_signals(), blocked, "as one handler goes");
    drop(plain);
    assert_eq!(sys::blocked_signals(), blocked, "as the last one goes");
}

/// What the kernel says of a program that this process executes.
fn status_of_an_executed_program() -> String {
    let output = Command::new("cat")
        .arg("/proc/self/status")
        .output()
        .expect("cat");
    String::from_utf8(output.stdout).expect("text")
}

const SETS: [&str; 5] = ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"];

fn an_executed_program_starts_with_a_clean_mask_and_default_dispositions(kind: BackendKind) {
    let before = status_of_an_executed_program();
    let context = context(kind);
    let mut events = Vec::new();
    for signum in [
        Signum::SIGHUP,
        Signum::SIGTERM,
        Signum::SIGCHLD,
        realtime(3),
    ] {
        for flags in [SignalFlags::empty(), SignalFlags::SIGINFO] {
            events.push(context.add_signal(signum, flags, |_, _, _| ()).unwrap());
        }
    }
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    assert_ne!(
        sys::signal_set(&ours, "SigCgt") & sys::bit(Signum::SIGTERM),
        0
    );
    let status = status_of_an_executed_program();
    for set in SETS {
        assert_eq!(
            sys::signal_set(&status, set),
            sys::signal_set(&before, set),
            "{set} of a program"
        );
    }
    assert_eq!(sys::signal_set(&status, "SigBlk"), 0);
    assert_eq!(sys::signal_set(&status, "SigCgt"), 0);
}

fn an_executed_program_has_none_of_our_descriptors(kind: BackendKind) {
    let _context = context(kind);
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd/"])
        .output()
        .expect("ls");
    let listing = String::from_utf8(output.stdout).expect("text");
    assert!(!listing.contains("anon_inode"), "inherited: {listing}");
}

fn a_program_executed_in_a_siginfo_handler_has_a_clean_mask_after_a_full_queue(kind: BackendKind) {
    let context = context(kind);
    let mut first = true;
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&seen);
    let _signal = context
        .add_signal(realtime(0), SignalFlags::SIGINFO, move |_, _, _| {
            count.set(count.get() + 1);
            if std::mem::take(&mut first) {
                let status = status_of_an_executed_program();
                assert_eq!(sys::signal_set(&status, "SigBlk"), 0);
            }
        })
        .unwrap();
    for value in 0..400 {
        sys::sigqueue(std::process::id(), realtime(0), value);
    }
    context.run_until(|| seen.get() == 400).unwrap();
}

fn an_ignored_signal_is_ignored_again_by_executed_programs(kind: BackendKind) {
    sys::set_handler(Signum::SIGHUP, libc::SIG_IGN);
    let context = context(kind);
    let (signal, _) = counting(&context, Signum::SIGHUP);
    drop(signal);
    let status = status_of_an_executed_program();
    assert_ne!(
        sys::signal_set(&status, "SigIgn") & sys::bit(Signum::SIGHUP),
        0,
        "as with nohup, before us and after"
    );
}
