//! What handlers tell.

use super::checks::{flags_text, is_dead};
use super::state::{Frame, Kind, Loop, Object, Signal, is_running};
use super::{MAX_CALLS, World};
use crate::differential::program::{Action, Close};
use crate::differential::statistics::Happening;

impl World {
    pub fn on_fd(&self, slot: usize, flags: u8) {
        let wanted = self.library().fd_flags(slot);
        let wanted = match self.state.borrow().fds[slot].is_detached {
            true => self.state.borrow().fds[slot].flags,
            false => wanted,
        };
        self.check(flags != 0 && flags & !wanted == 0, || {
            format!(
                "fd {slot} is told {} but wants {}",
                flags_text(flags),
                flags_text(wanted)
            )
        });
        let script = self.note_fd_call(slot, flags);
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

    /// Looks at everything about the call of a descriptor's handler, and returns its script.
    fn note_fd_call(&self, slot: usize, flags: u8) -> u8 {
        let (event, siblings, object, is_in_child) = {
            let mut state = self.state.borrow_mut();
            state.fds[slot].calls += 1;
            let event = state.fds[slot].clone();
            if is_dead(event.descriptor) {
                state.known_dead.insert(event.descriptor);
            }
            let descriptor = &state.descriptors[event.descriptor];
            let siblings = descriptor.members.len() > 1;
            (event, siblings, descriptor.object, !state.path.is_empty())
        };
        self.check(event.is_alive, || {
            format!("fd {slot} is called after its end")
        });
        let waits = self.state.borrow().waits;
        self.check(
            event.added_before_wait.is_none_or(|before| before < waits),
            || format!("fd {slot} is called, but nobody can know that it is ready"),
        );
        for (happens, happening) in [
            (true, Happening::FdHandler),
            (is_dead(event.descriptor), Happening::Hangup),
            (flags & 4 != 0, Happening::ErrorFlag),
            (siblings, Happening::SiblingHandler),
            (event.is_detached, Happening::DetachedFdHandler),
            (object == Object::File, Happening::FileHandler),
            (object == Object::Counter, Happening::CounterHandler),
            (is_in_child, Happening::ServedInChild),
        ] {
            if happens {
                self.count(happening);
            }
        }
        event.script
    }

    /// The close callback was called, or the descriptor was found closed.
    pub fn on_close(&self, slot: usize) {
        let is_said_later = {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.closes += 1;
            if event.close == Close::Auto {
                let descriptor = event.descriptor;
                state.descriptors[descriptor].is_open = false;
            }
            let is_detached = state.fds[slot].is_detached;
            let is_running = state.is_running(Kind::Fd, slot);
            if is_running {
                state.closed_while_running.push(slot);
                true
            } else if let (true, Some(together)) = (is_detached, &mut state.closed_together) {
                together.push(slot);
                true
            } else {
                false
            }
        };
        if !is_said_later {
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
        let (script, has_tie) = {
            let mut state = self.state.borrow_mut();
            state.timers[slot].is_alive = false;
            let when = state.timers[slot].when;
            let mut timers = state.timers.iter();
            let has_tie = timers.any(|timer| timer.is_alive && timer.when == when);
            (state.timers[slot].script, has_tie)
        };
        self.count(Happening::TimerHandler);
        if has_tie {
            self.count(Happening::TimerTie);
        }
        self.call(Kind::Timer, slot, script, &format!("timer {slot}"));
        if !self.state.borrow().timers[slot].is_alive {
            self.library().forget_timer(slot);
        }
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
        self.count(Happening::ImmediateHandler);
        self.call(Kind::Immediate, slot, script, &format!("immediate {slot}"));
        self.end_if_unreachable(slot);
    }

    /// `told` says the signal's number, the count, and the value that it carries.
    pub fn on_signal(&self, slot: usize, told: &str) {
        let (script, is_alive, once, siginfo) = {
            let mut state = self.state.borrow_mut();
            let signum = state.signals[slot].signum;
            state.pending.remove(&signum);
            let signal = &state.signals[slot];
            let Signal {
                script,
                is_alive,
                once,
                siginfo,
                ..
            } = *signal;
            (script, is_alive, once, siginfo)
        };
        for (happens, happening) in [
            (true, Happening::SignalHandler),
            (siginfo, Happening::SigInfoHandler),
            (once, Happening::OnceHandler),
        ] {
            if happens {
                self.count(happening);
            }
        }
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
                self.forget_if_unhandled(slot);
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
    pub fn on_hook(&self, level: u32, begins: bool) {
        self.count(Happening::HookCalled);
        let is_turn = self.state.borrow().loops.last().copied() == Some(Loop::Turn);
        if self.limits.is_compared && !is_turn {
            // The library tells of each turn, ours of the whole loop.
            return;
        }
        let what = if begins { "begins" } else { "ends" };
        self.say(format!("loop {level} {what}"));
    }

    /// The kernel is being asked what is ready.
    pub fn on_wait(&self) {
        self.library().on_wait();
        let mut state = self.state.borrow_mut();
        state.waits += 1;
        let running: Vec<usize> = {
            let frames = state.frames.iter();
            let fds = frames.filter(|frame| frame.kind == Kind::Fd);
            fds.map(|frame| frame.slot).collect()
        };
        for (slot, event) in state.fds.iter_mut().enumerate() {
            // One whose handler runs the loop is suspended, and will change back.
            event.was_changed &= running.contains(&slot);
        }
    }

    /// Which entry of the array for `poll(2)` is this event's, where each event has one and only the
    /// order tells.
    pub fn entry_of(&self, slot: usize) -> Option<usize> {
        let polled = self
            .library()
            .polled()
            .filter(|_| self.limits.overlapping)?;
        polled.iter().position(|&other| other == slot)
    }

    fn call(&self, kind: Kind, slot: usize, script: u8, what: &str) {
        self.say(what.to_owned());
        if !self.state.borrow().frames.is_empty() {
            self.count(Happening::RanNested);
        }
        let is_settling = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            state.frames.push(Frame {
                kind,
                slot,
                level,
                has_looped: false,
            });
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
            let frame = state.frames.pop();
            if kind == Kind::Fd && frame.is_some_and(|frame| frame.has_looped) {
                state.fds[slot].was_changed = true;
            }
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
