//! Running the loop, starting over, and forking.

use super::state::{FdEvent, Kind, is_running};
use super::{MAX_FORKS, MAX_LEVEL, World, world};
use crate::process::sys;

impl World {
    pub(super) fn turn(&self, until: Option<u8>) {
        let level = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            let running = state.frames.clone();
            let on_the_stack = |kind| running.iter().any(|frame| frame.kind == kind);
            if level > 0
                && (!self.program.nesting
                    || level >= MAX_LEVEL
                    || self.limits.kernel_order
                    || on_the_stack(Kind::Signal))
            {
                return;
            }
            let scheduled_while_running =
                state
                    .immediates
                    .iter()
                    .enumerate()
                    .any(|(slot, immediate)| {
                        immediate.scheduled.is_some() && is_running(&running, Kind::Immediate, slot)
                    });
            if scheduled_while_running {
                return;
            }
            state.level += 1;
            level
        };
        let calls = self.state.borrow().calls;
        self.give_up_dead();
        let result = match until {
            None => self.library().run_once(),
            Some(questions) => {
                let mut left = questions;
                let finished = move || {
                    world().say(format!("enough? {left}"));
                    world().give_up_dead();
                    left = left.saturating_sub(1);
                    left == 0
                };
                self.library().run_until(Box::new(finished)).map(|()| None)
            }
        };
        self.state.borrow_mut().level = level;
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

    pub(super) fn reinitialise(&self) {
        {
            let state = self.state.borrow();
            let mut frames = state.frames.iter();
            if !state.pending.is_empty() || state.pending_is_unsure {
                return;
            }
            if frames.any(|frame| frame.kind == Kind::Signal) {
                // The library aborts.
                return;
            }
            if state.level > 0 && state.has_started_over {
                // The library's count of levels is wrong from the first time on.
                return;
            }
            let mut events = 0..state.fds.len();
            if events.any(|slot| state.fds[slot].is_alive && state.is_closed_below(slot)) {
                return;
            }
        }
        self.say("re-initialise".to_owned());
        let succeeded = self.library().reinitialise();
        self.check(succeeded, || "re-initialising failed".to_owned());
        self.free_all();
        let mut state = self.state.borrow_mut();
        state.has_started_over |= state.level > 0;
        state.level = 0;
    }

    pub(super) fn fork(&self) {
        {
            let mut state = self.state.borrow_mut();
            let mut frames = state.frames.iter();
            if frames.any(|frame| frame.kind == Kind::Signal) {
                // The next handler of the same signal would be called in the child, too.
                return;
            }
            if !state.pending.is_empty() || state.pending_is_unsure || state.forks >= MAX_FORKS {
                return;
            }
            let is_closed = |event: &FdEvent| !state.descriptors[event.descriptor];
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
            }
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
            if std::mem::take(&mut self.state.borrow_mut().timers[slot].is_alive) {
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
