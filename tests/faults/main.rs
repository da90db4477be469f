//! Every system call of the library fails in turn, with everything that the kernel could answer:
//! nothing panics, hangs, leaks or gets lost, and every error says which call has failed.
//!
//! [`kernel`] makes calls fail, [`scene`] is a context with events of all kinds and knows what their
//! handlers have to be told, and the tests in [`scenarios`] are what is done with it.

mod kernel;
mod scenarios;
mod scene;

#[path = "../process/mod.rs"]
mod process;

use kernel::{Call, FAULTS, Fault};
use process::sys;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;
use tevent::{BackendKind, OsError};

fn main() {
    // Nobody is to wait longer than asked for.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    // A test is a scenario with some hundred faults.
    process::main_within(Duration::from_secs(240), &[scenarios::TESTS])
}

/// How many faults in a row a scenario has to get over.
const LONGEST: u32 = 3;

/// The first that each call can fail with, for scenarios that differ little from others.
fn one_of_each() -> Vec<(Call, &'static [i32])> {
    FAULTS
        .iter()
        .map(|&(call, numbers)| (call, &numbers[..1]))
        .collect()
}

/// Goes through `scenario` once undisturbed, and then once for every call in it that can fail and
/// everything that this can fail with. It has to use each of the `expected` calls.
fn fail_in_turn(kind: BackendKind, expected: &[Call], scenario: impl Fn(BackendKind)) {
    fail_in_turn_of(FAULTS, kind, expected, scenario);
}

fn fail_in_turn_of(
    faults: &[(Call, &[i32])],
    kind: BackendKind,
    expected: &[Call],
    scenario: impl Fn(BackendKind),
) {
    kernel::prepare();
    watch_for_hangs();
    let never = Fault {
        call: Call::Close,
        errno: libc::EIO,
        nth: u32::MAX,
        length: 0,
    };
    // The first time, what lasts as long as the process is made. On a busy machine a timer may be
    // due before the loop can wait for it, so a call may take several attempts to be made.
    let mut happens = vec![false; faults.len()];
    for round in 0.. {
        assert_eq!(with_fault(never, || scenario(kind)), 0);
        for (happens, &(call, _)) in happens.iter_mut().zip(faults) {
            *happens |= kernel::calls(call) > 0;
        }
        let known = faults.iter().zip(&happens);
        let missing = known
            .filter(|((call, _), happens)| !*happens && expected.contains(call))
            .map(|((call, _), _)| call)
            .next();
        match missing {
            Some(call) => assert!(round < 100, "the scenario has no {call:?} that could fail"),
            None if round > 0 => break,
            None => {}
        }
    }
    for (&(call, numbers), happens) in faults.iter().zip(happens) {
        // Some calls are made only when others fail; the scenarios that are about them say so.
        if !happens {
            continue;
        }
        for (position, &errno) in numbers.iter().enumerate() {
            let lengths = if position == 0 {
                &[1, LONGEST][..]
            } else {
                &[1]
            };
            for &length in lengths {
                for nth in 1.. {
                    let fault = Fault {
                        call,
                        errno,
                        nth,
                        length,
                    };
                    if with_fault(fault, || scenario(kind)) == 0 {
                        break;
                    }
                    assert!(nth < 1000, "the scenario has no end: {fault}");
                }
            }
        }
    }
}

/// Does `work` while `fault` happens, and looks at what is left behind. Returns how often it has
/// happened.
fn with_fault(fault: Fault, work: impl FnOnce()) -> u32 {
    let before = sys::open_descriptors();
    let told = FaultInForce::announce(fault);
    kernel::fail(fault);
    work();
    let failures = kernel::stop_failing();
    assert_eq!(
        sys::open_descriptors(),
        before,
        "descriptors are left, or gone"
    );
    assert!(!sys::has_children(), "a process is left");
    sys::assert_own_mask_is_clean();
    drop(told);
    failures
}

/// Prints the fault if its test panics or hangs.
struct FaultInForce(Box<Fault>);

static IN_FORCE: AtomicPtr<Fault> = AtomicPtr::new(std::ptr::null_mut());

impl FaultInForce {
    fn announce(fault: Fault) -> FaultInForce {
        let mut fault = Box::new(fault);
        IN_FORCE.store(&raw mut *fault, Ordering::SeqCst);
        unsafe { libc::alarm(LIMIT) };
        FaultInForce(fault)
    }
}

impl Drop for FaultInForce {
    fn drop(&mut self) {
        unsafe { libc::alarm(0) };
        IN_FORCE.store(std::ptr::null_mut(), Ordering::SeqCst);
        kernel::stop_failing();
        if std::thread::panicking() {
            eprintln!("this happened while {}", self.0);
        }
    }
}

/// In seconds. Nothing that works takes as long; this isn't measured, it only ends what hangs.
const LIMIT: u32 = 30;

fn watch_for_hangs() {
    extern "C" fn give_up(_: i32) {
        let fault = IN_FORCE.load(Ordering::SeqCst);
        // The process hangs and is about to end, so it may allocate here.
        if let Some(fault) = unsafe { fault.as_ref() } {
            eprintln!("this hangs while {fault}");
        }
        unsafe { libc::_exit(98) };
    }
    let handler: extern "C" fn(i32) = give_up;
    unsafe { libc::signal(libc::SIGALRM, handler as *const () as libc::sighandler_t) };
}

/// A forked process has no alarm of its own yet.
fn watch_for_hangs_in_child() {
    unsafe { libc::alarm(LIMIT) };
}

/// Fails unless the error is the fault that is in force, and says so.
#[track_caller]
fn assert_names_the_call(error: &io::Error) {
    let fault = kernel::fault().expect("an error without a fault");
    let Some(inner) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<OsError>())
    else {
        panic!("an error that names no call: {error:?}, while {fault}");
    };
    assert_eq!(
        inner.operation(),
        fault.call.operation(),
        "the call, while {fault}"
    );
    assert_eq!(inner.error().raw_os_error(), Some(fault.errno));
    let text = error.to_string();
    assert!(
        text.starts_with(fault.call.operation()),
        "{text:?}, while {fault}"
    );
    assert!(Error::source(inner).is_some());
}

/// Does what may fail until it succeeds. It has to within as many attempts as there are faults.
#[track_caller]
fn attempt<T, E: Into<io::Error>>(mut work: impl FnMut() -> Result<T, E>) -> T {
    for _ in 0..=LONGEST {
        match work() {
            Ok(result) => return result,
            Err(error) => assert_names_the_call(&error.into()),
        }
    }
    panic!("it goes on failing");
}
