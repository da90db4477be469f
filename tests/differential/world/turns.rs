//! Running the loop, starting over, and forking.

use super::state::{FdEvent, Kind, Loop};
use super::{MAX_FORKS, MAX_LEVEL, World, world};
use crate::differential::statistics::Happening;
use crate::process::sys;

impl World {
    pub(super) fn turn(&self, until: Option<u8>) {
        let Some(level) = self.enter_loop() else {
            return;
        };
        self.state.borrow_mut().loops.push(match until {
            None => Loop::Turn,
            Some(_) => Loop::Until,
        });
        let calls = self.state.borrow().calls;
        self.give_up_dead();
        self.count(match until {
            None => Happening::Turn,
            Some(_) => Happening::Until,
        });
        let result = match until {
            None => self.library().run_once(),
            Some(questions) => {
                let mut left = questions;
                let finished = move || {
                    let world = world();
                    if world.library().was_stopped() {
                        return true;
                    }
                    world.say(format!("enough? {left}"));
                    world.note_dead();
                    world.give_up_dead();
                    left = left.saturating_sub(1);
                    left == 0
                };
                self.library().run_until(Box::new(finished)).map(|()| None)
            }
        };
        {
            let mut state = self.state.borrow_mut();
            state.level = level;
            state.loops.pop();
            if level == 0 {
                state.turns_to_drain = state.turns_to_drain.saturating_sub(1);
            }
        }
        match result {
            Ok(Some(ran)) => {
                let has_run = self.state.borrow().calls > calls;
                self.check(ran == has_run, || {
                    format!("the turn says {ran}, but that a handler ran is {has_run}")
                });
                self.say("turn".to_owned());
            }
            Ok(None) => self.say("turn".to_owned()),
            Err(error) => self.say(format!("turn failed: {error}")),
        }
        self.look_at_flags();
    }

    /// Whether the loop may be run here; the level that it is run in.
    fn enter_loop(&self) -> Option<u32> {
        let (level, innermost) = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            let is_refused = !self.program.nesting
                || level >= MAX_LEVEL
                || self.limits.kernel_order
                || (self.limits.is_compared && state.is_in_handler(Kind::Signal));
            if level > 0 && is_refused {
                return None;
            }
            let mut immediates = state.immediates.iter().enumerate();
            let scheduled_while_running = immediates.any(|(slot, immediate)| {
                immediate.scheduled.is_some() && state.is_running(Kind::Immediate, slot)
            });
            if scheduled_while_running && self.limits.is_compared {
                return None;
            }
            state.level += 1;
            let mut innermost = None;
            if let Some(frame) = state.frames.last_mut().filter(|_| level > 0) {
                frame.has_looped = true;
                innermost = Some((frame.kind, frame.slot));
            }
            if let Some((Kind::Fd, slot)) = innermost {
                state.fds[slot].was_changed = true;
            }
            (level, innermost)
        };
        if let Some((kind, _)) = innermost {
            self.count(match kind {
                Kind::Fd => Happening::NestedInFd,
                Kind::Timer => Happening::NestedInTimer,
                Kind::Immediate => Happening::NestedInImmediate,
                Kind::Signal => Happening::NestedInSignal,
            });
        }
        if level > 1 {
            self.count(Happening::NestedTwice);
        }
        Some(level)
    }

    pub(super) fn stop(&self) {
        if self.state.borrow().frames.is_empty() {
            return;
        }
        self.count(Happening::Stop);
        self.say("stop".to_owned());
        self.library().stop();
    }

    pub(super) fn set_hook(&self, is_set: bool) {
        {
            let mut state = self.state.borrow_mut();
            let is_first = is_set && !state.has_hook && state.level == 0;
            // Of what came before, the library's count of levels is wrong.
            let is_first = is_first && !state.has_started_over;
            if self.limits.is_compared && !is_first {
                // The library aborts.
                return;
            }
            state.has_hook = is_set;
        }
        self.count(Happening::Hook);
        self.say(format!("hook: {is_set}"));
        self.library().set_hook(is_set);
    }

    pub(super) fn reinitialise(&self) {
        {
            let state = self.state.borrow();
            let mut frames = state.frames.iter();
            let may_wait = state.signals_may_wait();
            if may_wait && self.limits.is_compared {
                return;
            }
            if frames.any(|frame| frame.kind == Kind::Signal) && self.limits.is_compared {
                // The library aborts.
                return;
            }
            if state.level > 0 && state.has_started_over && self.limits.is_compared {
                // The library's count of levels is wrong from the first time on.
                return;
            }
            let mut events = 0..state.fds.len();
            if events.any(|slot| state.fds[slot].is_alive && state.is_closed_below(slot)) {
                return;
            }
        }
        self.count(Happening::Reinitialise);
        let (in_handler, in_child) = {
            let state = self.state.borrow();
            (!state.frames.is_empty(), !state.path.is_empty())
        };
        if in_handler {
            self.count(Happening::ReinitialiseInHandler);
        }
        if in_child {
            self.count(Happening::ReinitialiseInChild);
        }
        self.say("re-initialise".to_owned());
        self.close_together(|| {
            let succeeded = self.library().reinitialise();
            self.check(succeeded, || "re-initialising failed".to_owned());
            self.free_all();
        });
        let mut state = self.state.borrow_mut();
        state.has_started_over |= state.level > 0;
        state.level = 0;
        state.has_hook = false;
    }

    pub(super) fn fork(&self) {
        {
            let mut state = self.state.borrow_mut();
            if state.is_in_handler(Kind::Signal) && self.limits.is_compared {
                // The next handler of the same signal would be called in the child, too.
                return;
            }
            let may_wait = state.signals_may_wait();
            if (may_wait && self.limits.is_compared) || state.forks >= MAX_FORKS {
                return;
            }
            let is_closed = |event: &FdEvent| !state.descriptors[event.descriptor].is_open;
            if state
                .fds
                .iter()
                .any(|event| event.is_alive && is_closed(event))
            {
                return;
            }
            if !self.limits.forks_with_siblings && state.have_siblings() {
                // The library aborts in the child.
                return;
            }
            state.forks += 1;
        }
        self.count(Happening::Fork);
        if !self.state.borrow().frames.is_empty() {
            self.count(Happening::ForkInHandler);
        }
        match self.library().fork() {
            Some(child) => {
                let status = sys::reap(child);
                self.say(format!("child: {status:?}"));
            }
            None => {
                let mut state = self.state.borrow_mut();
                let fork = state.forks;
                state.path.push(fork);
                state.trace.clear();
                // What came before was sent to the parent.
                state.pending.clear();
            }
        }
    }

    /// Says what detached events are closed by `work`, which may be in any order.
    pub(super) fn close_together(&self, work: impl FnOnce()) {
        self.state.borrow_mut().closed_together = Some(Vec::new());
        work();
        let closed = self.state.borrow_mut().closed_together.take();
        let mut closed = closed.unwrap_or_default();
        closed.sort_unstable();
        for slot in closed {
            self.say(format!("closed fd {slot}"));
        }
    }

    pub(super) fn free_all(&self) {
        let library = self.library();
        let count = self.state.borrow().fds.len();
        for slot in 0..count {
            if self.state.borrow().fds[slot].is_alive {
                self.free_fd(slot);
            }
        }
        let count = self.state.borrow().timers.len();
        for slot in 0..count {
            let was_alive = self.state.borrow().timers[slot].is_alive;
            self.end_timer(slot);
            if was_alive {
                library.free_timer(slot);
            }
        }
        let count = self.state.borrow().immediates.len();
        for slot in 0..count {
            if self.state.borrow().immediates[slot].is_alive {
                self.free_immediate(slot);
            }
        }
        self.free_all_signals();
    }

    pub(super) fn free_all_signals(&self) {
        let count = self.state.borrow().signals.len();
        for slot in 0..count {
            if self.state.borrow().signals[slot].is_alive {
                self.free_signal(slot);
            }
        }
    }
}
