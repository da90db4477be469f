//! Timers and immediates.

use super::state::{Immediate, Kind, Timer};
use super::{MAX_EVENTS, World};
use crate::differential::program::When;

impl World {
    pub(super) fn next_order(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.order += 1;
        state.order
    }

    pub(super) fn add_timer(&self, when: When, script: u8) {
        let slot = self.state.borrow().timers.len();
        if slot >= MAX_EVENTS {
            return;
        }
        let order = self.next_order();
        self.state.borrow_mut().timers.push(Timer {
            when,
            order,
            script,
            is_alive: true,
        });
        self.say(format!("add timer {slot}: {when:?}"));
        self.library().add_timer(slot, when);
    }

    pub(super) fn move_timer(&self, timer: u8, when: When) {
        let Some(slot) = self.timer(timer).filter(|_| when != When::Zero) else {
            return;
        };
        let order = self.next_order();
        {
            let mut state = self.state.borrow_mut();
            state.timers[slot].when = when;
            state.timers[slot].order = order;
        }
        self.say(format!("move timer {slot}: {when:?}"));
        self.library().move_timer(slot, when);
    }

    pub(super) fn add_immediate(&self, script: u8) {
        let slot = self.state.borrow().immediates.len();
        if slot >= MAX_EVENTS {
            return;
        }
        self.state.borrow_mut().immediates.push(Immediate {
            scheduled: None,
            script,
            is_alive: true,
        });
        self.library().add_immediate(slot);
    }

    pub(super) fn schedule(&self, immediate: u8) {
        let Some(slot) = self.immediate(immediate) else {
            return;
        };
        {
            let state = self.state.borrow();
            let runs_outside = state.frames.iter().any(|frame| {
                frame.kind == Kind::Immediate && frame.slot == slot && frame.level < state.level
            });
            if runs_outside {
                // Ours waits until that handler has returned.
                return;
            }
        }
        let order = self.next_order();
        self.state.borrow_mut().immediates[slot].scheduled = Some(order);
        self.say(format!("schedule immediate {slot}"));
        self.library().schedule(slot);
    }

    pub(super) fn free_immediate(&self, slot: usize) {
        {
            let mut state = self.state.borrow_mut();
            state.immediates[slot].is_alive = false;
            state.immediates[slot].scheduled = None;
        }
        self.say(format!("free immediate {slot}"));
        self.library().free_immediate(slot);
    }
}

pub(super) fn is_due(when: When) -> bool {
    !matches!(when, When::Never(_))
}

pub(super) fn deadline(when: When) -> (u8, u8) {
    match when {
        When::Zero => (0, 0),
        When::Due(number) => (1, number),
        When::Never(number) => (2, number),
    }
}
