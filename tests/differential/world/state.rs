//! What is known of the descriptors and events of a program.

use crate::differential::program::{Close, When};
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    Fd,
    Timer,
    Immediate,
    Signal,
}

#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) slot: usize,
    pub(super) level: u32,
}

pub(super) struct FdEvent {
    pub(super) descriptor: usize,
    /// As far as is known.
    pub(super) flags: u8,
    pub(super) close: Close,
    pub(super) script: u8,
    pub(super) is_alive: bool,
    /// After it was added.
    pub(super) was_changed: bool,
    pub(super) closes: u32,
    pub(super) calls: u32,
}

pub(super) struct Timer {
    pub(super) when: When,
    pub(super) order: u32,
    pub(super) script: u8,
    pub(super) is_alive: bool,
}

pub(super) struct Immediate {
    /// When it was scheduled, if it is.
    pub(super) scheduled: Option<u32>,
    pub(super) script: u8,
    pub(super) is_alive: bool,
}

pub(super) struct Signal {
    pub(super) signum: i32,
    pub(super) siginfo: bool,
    pub(super) once: bool,
    pub(super) script: u8,
    pub(super) is_alive: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) trace: Vec<String>,
    /// Whether they are open.
    pub(super) descriptors: Vec<bool>,
    /// The events on each, those first whose turn it is.
    pub(super) members: Vec<Vec<usize>>,
    /// Those that an event was told about when they were dead, or lost its flags for that.
    pub(super) known_dead: BTreeSet<usize>,
    pub(super) fds: Vec<FdEvent>,
    pub(super) timers: Vec<Timer>,
    pub(super) immediates: Vec<Immediate>,
    pub(super) signals: Vec<Signal>,
    pub(super) frames: Vec<Frame>,
    /// Events that ended in their own handler, and are said to be closed when it has returned.
    pub(super) closed_while_running: Vec<usize>,
    pub(super) level: u32,
    /// It was re-initialised in a handler.
    pub(super) has_started_over: bool,
    pub(super) calls: u32,
    pub(super) actions: u32,
    pub(super) order: u32,
    /// The signals that were raised and that nobody has been told of.
    pub(super) pending: BTreeSet<i32>,
    /// One was raised in a signal handler. The next handler to be called may be told of an earlier
    /// one, so from then on `pending` may leave some out.
    pub(super) pending_is_unsure: bool,
    pub(super) raised: usize,
    /// Those that came, of which one is all that an event wants to be told.
    pub(super) used_up: BTreeSet<i32>,
    pub(super) is_settling: bool,
    pub(super) is_ending: bool,
    /// Which child of which child this process is.
    pub(super) path: Vec<usize>,
    pub(super) forks: usize,
}

impl State {
    /// Whether a handler is running whose event is to close its descriptor and has ended. The
    /// library has closed it, ours will do so when the handler has returned.
    pub(super) fn waits_for_close(&self) -> bool {
        self.frames.iter().any(|frame| {
            frame.kind == Kind::Fd && {
                let event = &self.fds[frame.slot];
                event.close == Close::Auto && !event.is_alive
            }
        })
    }

    /// Whether an event that is to close its descriptor has called the handler that is running.
    pub(super) fn is_closed_below(&self, slot: usize) -> bool {
        let below = self.frames.split_last().map_or(&[][..], |(_, below)| below);
        self.fds[slot].close == Close::Auto && is_running(below, Kind::Fd, slot)
    }

    /// Whether two events are on one descriptor.
    pub(super) fn have_siblings(&self) -> bool {
        let alive = || self.fds.iter().filter(|event| event.is_alive);
        let mut descriptors: Vec<usize> = alive().map(|event| event.descriptor).collect();
        descriptors.sort_unstable();
        descriptors.windows(2).any(|pair| pair[0] == pair[1])
    }
}

pub(super) fn is_running(frames: &[Frame], kind: Kind, slot: usize) -> bool {
    frames
        .iter()
        .any(|frame| frame.kind == kind && frame.slot == slot)
}
