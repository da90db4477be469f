//! What has to hold whatever the other library does.

use super::World;
use super::objects::number_of;
use super::state::{FdEvent, Kind, is_running};
use super::timers::{deadline, is_due};
use crate::differential::kernel;
use crate::differential::statistics::Happening;

/// How a line begins that says what is wrong whatever the other library does.
pub const PROBLEM: &str = "PROBLEM: ";

impl World {
    pub(super) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if self.limits.checks && !holds {
            self.say(format!("{PROBLEM}{}", what()));
        }
    }

    pub(super) fn has_runnable_immediate(&self) -> bool {
        let state = self.state.borrow();
        state
            .immediates
            .iter()
            .enumerate()
            .any(|(slot, immediate)| {
                immediate.scheduled.is_some() && !is_running(&state.frames, Kind::Immediate, slot)
            })
    }

    pub(super) fn first_due_timer(&self) -> Option<usize> {
        let state = self.state.borrow();
        let due = state.timers.iter().enumerate();
        due.filter(|&(slot, timer)| {
            timer.is_alive && is_due(timer.when) && !state.is_running(Kind::Timer, slot)
        })
        .min_by_key(|(_, timer)| (deadline(timer.when), timer.order))
        .map(|(slot, _)| slot)
    }

    pub(super) fn check_that_no_signal_waits(&self, kind: &str, slot: usize) {
        let waits = {
            let state = self.state.borrow();
            let mut pending = state.pending.iter();
            pending.any(|&signum| state.can_be_told(signum))
        };
        self.check(!waits, || format!("{kind} {slot} goes before a signal"));
    }

    /// Notes whose flags the library has changed by itself in a loop that goes on.
    pub(super) fn note_dead(&self) {
        let mut state = self.state.borrow_mut();
        let events = state.fds.iter().enumerate();
        let dead: Vec<usize> = events
            .filter(|(_, event)| event.is_alive && !event.is_detached)
            .filter(|&(slot, event)| self.library().fd_flags(slot) != event.flags)
            .map(|(_, event)| event.descriptor)
            .collect();
        state.known_dead.extend(dead);
    }

    /// Says which flags the library has changed by itself.
    pub(super) fn look_at_flags(&self) {
        let events: Vec<(usize, u8)> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            events
                .filter(|(_, event)| event.is_alive && !event.is_detached)
                .map(|(slot, event)| (slot, event.flags))
                .collect()
        };
        for (slot, known) in events {
            let flags = self.library().fd_flags(slot);
            if flags != known {
                {
                    let mut state = self.state.borrow_mut();
                    let event = &mut state.fds[slot];
                    event.flags = flags;
                    let descriptor = event.descriptor;
                    state.known_dead.insert(descriptor);
                }
                self.count(Happening::Disarmed);
                self.say(format!("fd {slot} now wants {}", flags_text(flags)));
            }
        }
    }
}

/// Whether an event that stays as it is has to be called.
pub(super) fn is_ready(event: &FdEvent) -> bool {
    let wanted = interest(event.flags);
    let readiness = kernel::readiness(number_of(event.descriptor), wanted);
    let is_dead = readiness & kernel::DEAD != 0;
    if readiness & libc::POLLNVAL != 0 || event.flags == 0 {
        return false;
    }
    readiness & wanted & kernel::READABLE != 0
        || (readiness & wanted & kernel::WRITABLE != 0 && !is_dead)
        || (is_dead && event.flags & 5 != 0)
}

pub(super) fn is_dead(descriptor: usize) -> bool {
    kernel::readiness(number_of(descriptor), 0) & kernel::DEAD != 0
}

pub(super) fn interest(flags: u8) -> i16 {
    let mut interest = 0;
    if flags & 1 != 0 {
        interest |= kernel::READABLE;
    }
    if flags & 2 != 0 {
        interest |= kernel::WRITABLE;
    }
    interest
}

pub(super) fn flags_text(flags: u8) -> &'static str {
    [
        "nothing",
        "READ",
        "WRITE",
        "READ|WRITE",
        "ERROR",
        "READ|ERROR",
        "WRITE|ERROR",
        "READ|WRITE|ERROR",
    ]
    .get(usize::from(flags))
    .unwrap_or(&"?")
}
