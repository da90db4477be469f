//! What is known of the descriptors and events of a program.

use crate::differential::program::{Close, When};
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Loop {
    Turn,
    Until,
}

/// What an object is, as far as that matters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Object {
    Stream,
    /// What epoll can't watch.
    File,
    Counter,
}

pub(super) struct Descriptor {
    pub(super) object: Object,
    pub(super) is_open: bool,
    /// The events on it, those first whose turn it is.
    pub(super) members: Vec<usize>,
}

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
    /// A loop has run in it.
    pub(super) has_looped: bool,
}

#[derive(Clone)]
pub(super) struct FdEvent {
    pub(super) descriptor: usize,
    /// As far as is known.
    pub(super) flags: u8,
    pub(super) close: Close,
    pub(super) script: u8,
    pub(super) is_alive: bool,
    pub(super) is_detached: bool,
    /// Since the kernel was last asked: it may not have been told.
    pub(super) was_changed: bool,
    /// How often the kernel had been asked when it was added to a descriptor that had no event.
    pub(super) added_before_wait: Option<u64>,
    pub(super) closes: u32,
    pub(super) calls: u32,
}

pub(super) struct Timer {
    /// It was freed: nothing can arm it again.
    pub(super) is_gone: bool,
    pub(super) when: When,
    pub(super) order: u32,
    pub(super) script: u8,
    pub(super) is_alive: bool,
    pub(super) is_detached: bool,
}

pub(super) struct Immediate {
    /// When it was scheduled, if it is.
    pub(super) scheduled: Option<u32>,
    pub(super) script: u8,
    pub(super) is_alive: bool,
    pub(super) is_detached: bool,
}

pub(super) struct Signal {
    pub(super) signum: i32,
    pub(super) siginfo: bool,
    pub(super) once: bool,
    pub(super) script: u8,
    pub(super) is_alive: bool,
    pub(super) is_detached: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) trace: Vec<String>,
    /// One for each number; a number is used again when nobody refers to it.
    pub(super) descriptors: Vec<Descriptor>,
    /// Those that an event was told about when they were dead, or lost its flags for that.
    pub(super) known_dead: BTreeSet<usize>,
    pub(super) fds: Vec<FdEvent>,
    pub(super) timers: Vec<Timer>,
    pub(super) immediates: Vec<Immediate>,
    pub(super) signals: Vec<Signal>,
    pub(super) frames: Vec<Frame>,
    /// Events that ended in their own handler, and are said to be closed when it has returned.
    pub(super) closed_while_running: Vec<usize>,
    /// Detached events that were closed while all are being freed, which is in no order.
    pub(super) closed_together: Option<Vec<usize>>,
    /// How often the kernel was asked what is ready.
    pub(super) waits: u64,
    pub(super) level: u32,
    /// Those that are running, the innermost last.
    pub(super) loops: Vec<Loop>,
    pub(super) has_hook: bool,
    /// It was re-initialised in a handler.
    pub(super) has_started_over: bool,
    pub(super) calls: u32,
    pub(super) actions: u32,
    pub(super) order: u32,
    /// The signals that were raised and that nobody has been told of.
    pub(super) pending: BTreeSet<i32>,
    /// Those that came when an event with siginfo was there: to others what they carry is lost.
    pub(super) queued: BTreeSet<i32>,
    /// One was raised in a signal handler. The next handler to be called may be told of an earlier
    /// one, so from then on `pending` may leave some out.
    pub(super) pending_is_unsure: bool,
    /// In how many turns it is certain that nothing is left in the kernel of more signals than a
    /// queue holds.
    pub(super) turns_to_drain: usize,
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

    pub(super) fn is_running(&self, kind: Kind, slot: usize) -> bool {
        is_running(&self.frames, kind, slot)
    }

    /// Whether the handler of this event is running, and no other inside it.
    pub(super) fn is_innermost(&self, kind: Kind, slot: usize) -> bool {
        let frame = self.frames.last();
        frame.is_some_and(|frame| frame.kind == kind && frame.slot == slot)
    }

    pub(super) fn is_in_handler(&self, kind: Kind) -> bool {
        self.frames.iter().any(|frame| frame.kind == kind)
    }

    /// Whether a handler for a signal could be called now. One that is running can't, and with
    /// siginfo it holds up the others, for whom the queue is the same.
    pub(super) fn can_be_told(&self, signum: i32) -> bool {
        let handlers = || {
            let signals = self.signals.iter().enumerate();
            signals.filter(move |(_, signal)| signal.is_alive && signal.signum == signum)
        };
        let is_running = |slot| self.is_running(Kind::Signal, slot);
        let holds_up = handlers().any(|(slot, signal)| signal.siginfo && is_running(slot));
        let has_info = !holds_up && self.queued.contains(&signum);
        handlers().any(|(slot, signal)| !is_running(slot) && (!signal.siginfo || has_info))
    }

    /// Whether signals may be waiting.
    pub(super) fn signals_may_wait(&self) -> bool {
        !self.pending.is_empty() || self.pending_is_unsure || self.turns_to_drain > 0
    }

    /// Whether an event may be on a descriptor yet.
    fn has_events(&self, descriptor: usize) -> bool {
        let mut events = self.fds.iter().enumerate();
        events.any(|(slot, event)| {
            event.descriptor == descriptor && (event.is_alive || self.is_running(Kind::Fd, slot))
        })
    }

    /// The lowest number that nobody refers to.
    pub(super) fn free_descriptor(&self) -> usize {
        let mut descriptors = self.descriptors.iter().enumerate();
        let free = descriptors
            .position(|(index, descriptor)| !descriptor.is_open && !self.has_events(index));
        free.unwrap_or(self.descriptors.len())
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
