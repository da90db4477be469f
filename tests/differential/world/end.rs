//! How a program ends.

use super::World;
use super::checks::is_ready;
use super::state::{Immediate, Timer};
use super::timers::is_due;
use crate::differential::program::{Close, When};
use crate::differential::statistics::Happening;

impl World {
    /// Runs all that there is to run, without scripts.
    pub(super) fn settle(&self) {
        let (others, for_fds) = {
            let mut state = self.state.borrow_mut();
            state.is_settling = true;
            state.actions = 0;
            let due = |timer: &&Timer| timer.is_alive && is_due(timer.when);
            let timers = state.timers.iter().filter(due).count();
            let scheduled = |immediate: &&Immediate| immediate.scheduled.is_some();
            let immediates = state.immediates.iter().filter(scheduled).count();
            let fds = state.fds.iter().filter(|event| event.is_alive).count();
            // In as many rounds as there are events on one descriptor, each of them is served; and
            // some turns are lost to those that want WRITE only and are dead.
            let members = state.descriptors.iter().map(|each| each.members.len());
            let siblings = members.max().unwrap_or(0);
            let others = timers + immediates + state.turns_to_drain + 1;
            (others, fds * (2 + siblings))
        };
        for _ in 0..others {
            self.turn(None);
        }
        let before: Vec<u32> = {
            let state = self.state.borrow();
            state.fds.iter().map(|event| event.calls).collect()
        };
        for _ in 0..for_fds {
            self.turn(None);
        }
        for (slot, before) in before.into_iter().enumerate() {
            let (is_ready, calls) = {
                let state = self.state.borrow();
                let event = &state.fds[slot];
                (event.is_alive && is_ready(event), event.calls)
            };
            self.check(!is_ready || calls > before, || {
                format!("fd {slot} is ready, but isn't served")
            });
        }
    }

    /// Runs until nothing is left to wait for, which is due timers and immediates.
    pub(super) fn run(&self) {
        let library = self.library();
        let (fds, signals, timers): (Vec<usize>, Vec<usize>, Vec<usize>) = {
            let state = self.state.borrow();
            let slots = |count: usize| 0..count;
            (
                slots(state.fds.len())
                    .filter(|&slot| state.fds[slot].is_alive)
                    .collect(),
                slots(state.signals.len())
                    .filter(|&slot| state.signals[slot].is_alive)
                    .collect(),
                slots(state.timers.len())
                    .filter(|&slot| state.timers[slot].is_alive)
                    .collect(),
            )
        };
        fds.into_iter().for_each(|slot| self.free_fd(slot));
        signals.into_iter().for_each(|slot| self.free_signal(slot));
        for (position, slot) in timers.into_iter().enumerate() {
            let when = When::Due((position % 3) as u8);
            let order = self.next_order();
            {
                let mut state = self.state.borrow_mut();
                state.timers[slot].when = when;
                state.timers[slot].order = order;
            }
            library.move_timer(slot, when);
        }
        let immediates: Vec<usize> = {
            let state = self.state.borrow();
            let immediates = state.immediates.iter().enumerate();
            let at_hand = |immediate: &Immediate| immediate.is_alive && !immediate.is_detached;
            let alive = immediates.filter(|(_, immediate)| at_hand(immediate));
            alive.map(|(slot, _)| slot).collect()
        };
        for slot in immediates {
            let order = self.next_order();
            self.state.borrow_mut().immediates[slot].scheduled = Some(order);
            library.schedule(slot);
        }
        self.state.borrow_mut().level = 1;
        let result = library.run();
        self.state.borrow_mut().level = 0;
        self.say(format!("run: {result:?}"));
    }

    /// Whether there are events that keep a loop running, and that nobody can free.
    fn has_detached(&self) -> bool {
        let state = self.state.borrow();
        let fds = state.fds.iter().map(|fd| (fd.is_alive, fd.is_detached));
        let timers = state.timers.iter();
        let timers = timers.map(|timer| (timer.is_alive, timer.is_detached));
        let signals = state.signals.iter();
        let signals = signals.map(|signal| (signal.is_alive, signal.is_detached));
        let mut all = fds.chain(timers).chain(signals);
        all.any(|(is_alive, is_detached)| is_alive && is_detached)
    }

    pub(super) fn end(&self) {
        self.say("the end".to_owned());
        self.state.borrow_mut().is_ending = true;
        if self.program.runs_at_end && !self.has_detached() {
            self.count(Happening::RunAtEnd);
            self.run();
        }
        self.close_together(|| {
            if self.program.context_first {
                self.count(Happening::ContextFirst);
                self.library().close();
                self.free_all();
            } else {
                self.free_all();
                self.library().close();
            }
        });
        *self.library.borrow_mut() = None;
        let closes: Vec<(usize, Close, u32)> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            events
                .map(|(slot, event)| (slot, event.close, event.closes))
                .collect()
        };
        for (slot, close, closes) in closes {
            self.check(closes == u32::from(close != Close::Nothing), || {
                format!("fd {slot} was closed {closes} times")
            });
        }
    }
}
