//! What handlers tell.

use super::checks::{flags_text, is_dead};
use super::state::{Frame, Kind, is_running};
use super::{MAX_CALLS, World};
use crate::differential::program::{Action, Close};

impl World {
    pub fn on_fd(&self, slot: usize, flags: u8) {
        let wanted = self.library().fd_flags(slot);
        self.check(flags != 0 && flags & !wanted == 0, || {
            format!(
                "fd {slot} is told {} but wants {}",
                flags_text(flags),
                flags_text(wanted)
            )
        });
        let (script, is_alive) = {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.calls += 1;
            let descriptor = event.descriptor;
            if is_dead(descriptor) {
                state.known_dead.insert(descriptor);
            }
            let event = &state.fds[slot];
            (event.script, event.is_alive)
        };
        self.check(is_alive, || format!("fd {slot} is called after its end"));
        self.check(!self.has_runnable_immediate(), || {
            format!("fd {slot} goes before an immediate")
        });
        self.check(self.first_due_timer().is_none(), || {
            format!("fd {slot} goes before a timer")
        });
        self.check_that_no_signal_waits("fd", slot);
        self.call(
            Kind::Fd,
            slot,
            script,
            &format!("fd {slot} {}", flags_text(flags)),
        );
    }

    /// The close callback was called, or the descriptor was found closed.
    pub fn on_close(&self, slot: usize) {
        let is_running = {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.closes += 1;
            if event.close == Close::Auto {
                let descriptor = event.descriptor;
                state.descriptors[descriptor] = false;
            }
            let is_running = state
                .frames
                .iter()
                .any(|frame| frame.kind == Kind::Fd && frame.slot == slot);
            if is_running {
                state.closed_while_running.push(slot);
            }
            is_running
        };
        if !is_running {
            self.say(format!("closed fd {slot}"));
        }
    }

    pub fn on_timer(&self, slot: usize) {
        let first = self.first_due_timer();
        self.check(first == Some(slot), || {
            format!("timer {slot} is called, but {first:?} is first")
        });
        self.check(!self.has_runnable_immediate(), || {
            format!("timer {slot} goes before an immediate")
        });
        self.check_that_no_signal_waits("timer", slot);
        let script = {
            let mut state = self.state.borrow_mut();
            let timer = &mut state.timers[slot];
            timer.is_alive = false;
            timer.script
        };
        self.call(Kind::Timer, slot, script, &format!("timer {slot}"));
        self.library().forget_timer(slot);
    }

    pub fn on_immediate(&self, slot: usize) {
        let (first, script) = {
            let mut state = self.state.borrow_mut();
            let running = state.frames.clone();
            let first = state
                .immediates
                .iter()
                .enumerate()
                .filter(|&(slot, _)| !is_running(&running, Kind::Immediate, slot))
                .filter_map(|(slot, immediate)| Some((immediate.scheduled?, slot)))
                .min();
            let immediate = &mut state.immediates[slot];
            immediate.scheduled = None;
            (first.map(|(_, slot)| slot), immediate.script)
        };
        self.check(first == Some(slot), || {
            format!("immediate {slot} is called, but {first:?} is first")
        });
        self.check_that_no_signal_waits("immediate", slot);
        self.call(Kind::Immediate, slot, script, &format!("immediate {slot}"));
    }

    /// `told` says the signal's number, the count, and the value that it carries.
    pub fn on_signal(&self, slot: usize, told: &str) {
        let (script, is_alive, once) = {
            let mut state = self.state.borrow_mut();
            let signum = state.signals[slot].signum;
            state.pending.remove(&signum);
            let signal = &state.signals[slot];
            (signal.script, signal.is_alive, signal.once)
        };
        self.check(is_alive, || {
            format!("signal {slot} is called after its end")
        });
        self.call(Kind::Signal, slot, script, &format!("signal {slot} {told}"));
        if once {
            let was_alive = {
                let mut state = self.state.borrow_mut();
                std::mem::take(&mut state.signals[slot].is_alive)
            };
            if was_alive {
                self.library().forget_signal(slot);
            }
        }
    }

    /// The descriptor event whose handler is running and has called no other.
    pub fn running_fd(&self) -> Option<usize> {
        let state = self.state.borrow();
        let frame = state.frames.iter().rfind(|frame| frame.kind == Kind::Fd)?;
        state.fds[frame.slot].is_alive.then_some(frame.slot)
    }

    /// Which part of a descriptor's readiness is reported, if several events are on it: what one
    fn call(&self, kind: Kind, slot: usize, script: u8, what: &str) {
        self.say(what.to_owned());
        let is_settling = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            state.frames.push(Frame { kind, slot, level });
            state.calls += 1;
            state.is_settling || state.calls > MAX_CALLS
        };
        if !is_settling {
            let scripts = &self.program.scripts;
            if let Some(script) = scripts.get(usize::from(script)) {
                for &action in script {
                    if action == Action::FreeSelf {
                        self.free_self(kind, slot);
                        break;
                    }
                    self.act(action);
                }
            }
        }
        let closed = {
            let mut state = self.state.borrow_mut();
            state.frames.pop();
            let closed = state
                .closed_while_running
                .iter()
                .position(|&closed| kind == Kind::Fd && closed == slot);
            closed.map(|index| state.closed_while_running.remove(index))
        };
        if let Some(slot) = closed {
            self.say(format!("closed fd {slot}"));
        }
    }
}
