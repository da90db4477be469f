//! Timers and immediates.

use super::state::{Immediate, Kind, Timer};
use super::{MAX_EVENTS, World};
use crate::differential::program::{Action, When};
use crate::differential::statistics::Happening;

impl World {
    pub(super) fn act_on_timer(&self, action: Action) {
        match action {
            Action::AddTimer { when, script } => self.add_timer(when, script),
            Action::MoveTimer { timer, when } => {
                if let Some(slot) = self.timer(timer) {
                    self.move_timer(slot, when);
                }
            }
            Action::FreeTimer(timer) => {
                if let Some(slot) = self.timer(timer) {
                    self.count(Happening::FreeTimer);
                    self.say(format!("free timer {slot}"));
                    self.end_timer(slot);
                    self.library().free_timer(slot);
                }
            }
            Action::DetachTimer(timer) => {
                if let Some(slot) = self.timer(timer) {
                    self.detach_timer(slot);
                }
            }
            _ => unreachable!("{action:?} isn't about timers"),
        }
    }

    pub(super) fn next_order(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.order += 1;
        state.order
    }

    fn add_timer(&self, when: When, script: u8) {
        let slot = self.state.borrow().timers.len();
        if slot >= MAX_EVENTS {
            return;
        }
        self.count(Happening::AddTimer);
        let order = self.next_order();
        self.state.borrow_mut().timers.push(Timer {
            is_gone: false,
            when,
            order,
            script,
            is_alive: true,
            is_detached: false,
        });
        self.say(format!("add timer {slot}: {when:?}"));
        self.library().add_timer(slot, when);
    }

    /// Takes a timer off the tables; its library is told by the caller.
    pub(super) fn end_timer(&self, slot: usize) {
        let mut state = self.state.borrow_mut();
        let timer = &mut state.timers[slot];
        timer.is_alive = false;
        timer.is_gone = true;
    }

    fn move_timer(&self, slot: usize, when: When) {
        if when == When::Zero && !self.limits.rearms {
            return;
        }
        let order = self.next_order();
        let is_own = {
            let mut state = self.state.borrow_mut();
            let is_own = state.is_innermost(Kind::Timer, slot);
            let timer = &mut state.timers[slot];
            timer.when = when;
            timer.order = order;
            timer.is_alive = true;
            is_own
        };
        self.count(Happening::MoveTimer);
        if is_own {
            self.count(Happening::MoveOwnTimer);
        }
        self.say(format!("move timer {slot}: {when:?}"));
        self.library().move_timer(slot, when);
    }

    fn detach_timer(&self, slot: usize) {
        {
            let state = self.state.borrow();
            let timer = &state.timers[slot];
            if timer.is_detached {
                return;
            }
        }
        self.count(Happening::DetachTimer);
        self.say(format!("detach timer {slot}"));
        self.state.borrow_mut().timers[slot].is_detached = true;
        self.library().detach_timer(slot);
    }

    pub(super) fn act_on_immediate(&self, action: Action) {
        match action {
            Action::AddImmediate { script } => self.add_immediate(script),
            Action::Schedule(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.schedule(slot);
                }
            }
            Action::Reset(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    let was_scheduled = {
                        let mut state = self.state.borrow_mut();
                        state.immediates[slot].scheduled.take().is_some()
                    };
                    if was_scheduled {
                        self.count(Happening::Reset);
                    }
                    self.say(format!("reset immediate {slot}"));
                    self.library().reset(slot);
                }
            }
            Action::FreeImmediate(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.free_immediate(slot);
                }
            }
            Action::DetachImmediate(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.detach_immediate(slot);
                }
            }
            _ => unreachable!("{action:?} isn't about immediates"),
        }
    }

    fn add_immediate(&self, script: u8) {
        let slot = self.state.borrow().immediates.len();
        if slot >= MAX_EVENTS {
            return;
        }
        self.count(Happening::AddImmediate);
        self.state.borrow_mut().immediates.push(Immediate {
            scheduled: None,
            script,
            is_alive: true,
            is_detached: false,
        });
        self.library().add_immediate(slot);
    }

    fn schedule(&self, slot: usize) {
        let (is_again, is_own, in_signal) = {
            let state = self.state.borrow();
            let runs_outside = state.frames.iter().any(|frame| {
                frame.kind == Kind::Immediate && frame.slot == slot && frame.level < state.level
            });
            if runs_outside && self.limits.is_compared {
                // Ours waits until that handler has returned.
                return;
            }
            (
                state.immediates[slot].scheduled.is_some(),
                state.is_innermost(Kind::Immediate, slot),
                state.is_in_handler(Kind::Signal),
            )
        };
        self.count(Happening::Schedule);
        for (happens, happening) in [
            (is_again, Happening::Reschedule),
            (is_own, Happening::ScheduleOwn),
            (in_signal, Happening::ScheduleInSignal),
        ] {
            if happens {
                self.count(happening);
            }
        }
        let order = self.next_order();
        self.state.borrow_mut().immediates[slot].scheduled = Some(order);
        self.say(format!("schedule immediate {slot}"));
        self.library().schedule(slot);
    }

    pub(super) fn free_immediate(&self, slot: usize) {
        let was_scheduled = {
            let mut state = self.state.borrow_mut();
            let immediate = &mut state.immediates[slot];
            immediate.is_alive = false;
            immediate.scheduled.take().is_some()
        };
        self.count(Happening::FreeImmediate);
        if was_scheduled {
            self.count(Happening::FreeScheduled);
        }
        self.say(format!("free immediate {slot}"));
        self.library().free_immediate(slot);
    }

    /// It goes when nobody can schedule it any more.
    fn detach_immediate(&self, slot: usize) {
        {
            let state = self.state.borrow();
            let immediate = &state.immediates[slot];
            if immediate.is_detached {
                return;
            }
        }
        self.count(Happening::DetachImmediate);
        self.say(format!("detach immediate {slot}"));
        self.state.borrow_mut().immediates[slot].is_detached = true;
        self.library().detach_immediate(slot);
        self.end_if_unreachable(slot);
    }

    /// The end of a detached immediate that isn't scheduled and whose handler isn't running.
    pub(super) fn end_if_unreachable(&self, slot: usize) {
        let is_over = {
            let mut state = self.state.borrow_mut();
            let is_running = state.is_running(Kind::Immediate, slot);
            let immediate = &mut state.immediates[slot];
            let is_over = immediate.is_alive
                && immediate.is_detached
                && immediate.scheduled.is_none()
                && !is_running;
            immediate.is_alive &= !is_over;
            is_over
        };
        if is_over {
            self.library().free_immediate(slot);
        }
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
