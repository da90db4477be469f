//! The system's time is set while timers wait.
//!
//! `clock_gettime` is defined here and takes the place of libc's in the whole process: on a thread that
//! says so the system's time is another one.

#![cfg(target_os = "linux")]

mod common;

use common::{GUARD, Log, context, run_until};
use std::cell::Cell;
use std::ffi::{c_int, c_long};
use std::time::{Duration, SystemTime};
use tevent::BackendKind;

on_every_backend!(a_jump_of_the_systems_time_moves_no_timer);

const DAY: i64 = 86_400;

thread_local! {
    /// How many seconds the system's time of this thread is from the real one.
    static JUMP: Cell<i64> = const { Cell::new(0) };
}

/// # Safety
///
/// As that of libc: `time` is a place for the result.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: what the caller has passed.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
    if result == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has filled it.
        unsafe { (*time).tv_sec += JUMP.get() };
    }
    result as c_int
}

/// Sets the system's time, which has to be seen.
fn jump(seconds: i64) {
    JUMP.set(0);
    let before = SystemTime::now();
    JUMP.set(seconds);
    let now = SystemTime::now();
    let is_later = now > before + Duration::from_secs(DAY as u64 / 2);
    let is_earlier = now < before - Duration::from_secs(DAY as u64 / 2);
    assert_eq!(
        (is_later, is_earlier),
        (seconds > 0, seconds < 0),
        "it was set"
    );
}

fn a_jump_of_the_systems_time_moves_no_timer(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let mut timers = Vec::new();
    let start = context.now();
    let _never = context.add_timer_after(3 * GUARD, log.timer("later"));
    // Each finds another time than the one before it, and the loop waits between them.
    let jumps = [("ahead", DAY), ("back", -DAY), ("again", 0)];
    for (index, (what, seconds)) in jumps.into_iter().enumerate() {
        let log = log.clone();
        let deadline = start + Duration::from_millis(2) * (index as u32 + 1);
        timers.push(context.add_timer(deadline, move |context, _| {
            assert!(context.now() >= deadline, "it is early");
            log.add(what);
            jump(seconds);
        }));
    }
    run_until(&context, "all timers fire", || log.len() >= 3);
    assert_eq!(log.take(), "ahead back again");
}
