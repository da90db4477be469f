//! Runs programs on both, each in a process of its own, and compares.

use super::kernel;
use super::library::Limits;
use super::ours::Ours;
use super::program::{self, Program};
use super::reference::Reference;
use super::statistics::{Counter, Happening};
use super::world::{PROBLEM, carry_out};
use crate::process::{Test, sys, tests};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tevent::BackendKind;

/// No program takes nearly as long.
const GUARD: Duration = Duration::from_secs(20);

/// How many programs are generated for each backend, unless the environment says otherwise.
const DEFAULT_CASES: u64 = 400;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Side {
    Reference,
    /// With a batch of 1.
    OursByOne,
    Ours,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Reference => "C library",
            Side::OursByOne => "batch of 1",
            Side::Ours => "default",
        }
    }
}

/// Carries out a program in a process of its own, and returns the traces of it and its children.
fn trace(program: &Program, kind: BackendKind, side: Side) -> String {
    let mut output = sys::memory_file();
    let pid = sys::fork(|| {
        sys::lead_group();
        sys::unblock_all_signals();
        for standard in [1, 2] {
            sys::duplicate_onto(output.as_raw_fd(), standard);
        }
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        kernel::never_block();
        kernel::queue_all_signals();
        let is_compared = side != Side::Ours;
        let kernel_order = is_compared && program.kernel_order && kind == BackendKind::Epoll;
        if is_compared && !kernel_order {
            kernel::report_one_by_one();
        }
        // Which of the library's entries is which event's is known as long as it adds none of its
        // own, which it does for signals.
        let overlaps = is_compared && program.kernel_order && kind == BackendKind::Poll;
        let limits = Limits {
            siblings: match kind {
                _ if !is_compared => 8,
                _ if kernel_order => 1,
                BackendKind::Poll => 8,
                // With more, the library's standard backend goes on by poll.
                _ => 2,
            },
            overlapping: !is_compared || overlaps,
            signals: !overlaps,
            errors: !is_compared,
            forks_with_siblings: kind == BackendKind::Poll || !is_compared,
            files: kind == BackendKind::Poll || !is_compared,
            kernel_order,
            is_compared,
            rearms: !is_compared,
            checks: side != Side::Reference,
        };
        let counter = Counter::new(kind, side);
        let trace = carry_out(program, kind, limits, counter, || match side {
            Side::Reference => Reference::open(&kind.to_string(), program.nesting),
            Side::OursByOne => Ours::open(kind, Some(1), program.nesting),
            Side::Ours => Ours::open(kind, None, program.nesting),
        });
        let mut output = output.try_clone().expect("a descriptor");
        output.write_all(trace.as_bytes()).expect("a memory file");
        // The children of a program are reaped by their parents; nothing else is left.
        sys::end(0);
    });
    let ended = sys::wait_for_exit(pid, GUARD);
    sys::kill_group(pid);
    let status = sys::reap(pid);
    let mut text = contents(&mut output);
    if !ended {
        text += "it hangs\n";
    } else if status != sys::Status::Exited(0) {
        text += &format!("{status:?}\n");
    }
    text
}

fn contents(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().expect("a memory file");
    let _ = file.read_to_string(&mut text);
    text
}

/// Compares; the error says what differs.
fn compare(program: &Program, kind: BackendKind) -> Result<(), String> {
    let theirs = trace(program, kind, Side::Reference);
    let ours = trace(program, kind, Side::OursByOne);
    if theirs != ours {
        return Err(side_by_side(&theirs, &ours));
    }
    if ours.contains(PROBLEM) || !ours.contains("the end") {
        return Err(ours);
    }
    let ours = trace(program, kind, Side::Ours);
    let is_sound = !ours.contains(PROBLEM) && ours.contains("the end") && !ours.contains("failed");
    if !is_sound {
        return Err(format!("with the default batch:\n{ours}"));
    }
    Ok(())
}

/// Compares, and fails with both traces.
#[track_caller]
pub fn assert_same(program: &Program, kind: BackendKind) {
    if let Err(why) = compare(program, kind) {
        panic!("{program:#?}\n{why}");
    }
}

fn side_by_side(theirs: &str, ours: &str) -> String {
    let mut text = format!("{:<60} | {}\n", "the C library", "ours");
    let (mut left, mut right) = (theirs.lines(), ours.lines());
    loop {
        let (left, right) = (left.next(), right.next());
        if left.is_none() && right.is_none() {
            return text;
        }
        let sign = if left == right { '|' } else { '#' };
        let (left, right) = (left.unwrap_or_default(), right.unwrap_or_default());
        text += &format!("{left:<60} {sign} {right}\n");
    }
}

fn variable(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {value}")),
        Err(_) => otherwise,
    }
}

pub fn seed() -> u64 {
    variable("TEVENT_DIFFERENTIAL_SEED", 1)
}

pub fn cases() -> u64 {
    variable("TEVENT_DIFFERENTIAL_CASES", DEFAULT_CASES)
}

pub const TESTS: &[Test] = tests![generated_programs];

fn runner(cases: u32, seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: u32::try_from(variable("TEVENT_DIFFERENTIAL_SHRINK", 20_000))
            .expect("fewer attempts"),
        ..Config::default()
    };
    TestRunner::new_with_rng(config, rng)
}

/// Carries out as many generated programs, always the same, and compares nothing.
pub fn carry_out_generated(kind: BackendKind, sides: [Side; 2], programs: u32) {
    let mut runner = runner(programs, 0);
    for _ in 0..programs {
        let program = program::program().new_tree(&mut runner).expect("a program");
        for side in sides {
            trace(&program.current(), kind, side);
        }
    }
}

/// In how many generated programs both have done the same, under each backend.
pub fn agreed() -> impl Iterator<Item = (BackendKind, u64)> {
    BackendKind::available().iter().map(|&kind| {
        let counter = Counter::new(kind, Side::OursByOne);
        (kind, counter.of(Happening::Agreed))
    })
}

fn generated_programs(kind: BackendKind) {
    let cases = u32::try_from(cases()).expect("fewer programs");
    let mut runner = runner(cases, seed());
    let result = runner.run(&program::program(), |program| {
        compare(&program, kind).map_err(TestCaseError::fail)?;
        Counter::new(kind, Side::OursByOne).count(Happening::Agreed);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, program)) => panic!("{program:#?}\n{}", why.message()),
        Err(error) => panic!("{error}"),
    }
}
