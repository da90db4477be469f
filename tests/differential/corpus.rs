//! Programs in which the two once differed, as small as they could be made, and some written by
//! hand. What was learnt from each is in the code, in [`super::known`], or both.

use super::compare::assert_same;
use super::program::{Action::*, Close as Closing, OWN, Program, When};
use crate::process::{Test, tests};
use tevent::BackendKind;

mod closing;
mod descriptors;
mod loops;
mod signals;
mod timers;

pub const TESTS: &[&[Test]] = &[
    closing::TESTS,
    descriptors::TESTS,
    loops::TESTS,
    signals::TESTS,
    timers::TESTS,
];

fn add(descriptor: u8, flags: u8, script: u8) -> super::program::Action {
    closing(descriptor, flags, Closing::Nothing, script)
}

fn closing(descriptor: u8, flags: u8, close: Closing, script: u8) -> super::program::Action {
    AddFd {
        descriptor,
        flags,
        close,
        script,
    }
}

fn timer(when: When, script: u8) -> super::program::Action {
    AddTimer { when, script }
}

fn set(event: u8, flags: u8) -> super::program::Action {
    SetFlags { event, flags }
}

const READ: u8 = 1;
const WRITE: u8 = 2;
const NOTHING: u8 = 99;

type Script<'a> = &'a [super::program::Action];

fn program(actions: Script<'_>, scripts: &[Script<'_>]) -> Program {
    Program {
        nesting: false,
        kernel_order: false,
        runs_at_end: false,
        context_first: false,
        actions: actions.to_vec(),
        scripts: scripts.iter().map(|script| script.to_vec()).collect(),
    }
}

/// The variants that don't change what the actions are.
#[track_caller]
fn compare(kind: BackendKind, actions: Script<'_>, scripts: &[Script<'_>]) {
    for (runs_at_end, context_first) in [(false, false), (true, false), (true, true)] {
        let program = Program {
            runs_at_end,
            context_first,
            ..program(actions, scripts)
        };
        assert_same(&program, kind);
    }
}
