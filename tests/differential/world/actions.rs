//! Actions, and what they are about.

use super::state::Kind;
use super::{MAX_ACTIONS, World};
use crate::differential::program::{Action, OWN};

impl World {
    pub(super) fn act(&self, action: Action) {
        let changes_order = matches!(
            action,
            Action::SetFlags { .. }
                | Action::AddSignal { .. }
                | Action::Reinitialise
                | Action::Fork
        );
        if self.limits.kernel_order && changes_order {
            return;
        }
        {
            let mut state = self.state.borrow_mut();
            state.actions += 1;
            if state.actions > MAX_ACTIONS || state.waits_for_close() {
                return;
            }
        }
        match action {
            Action::Pipe | Action::SocketPair | Action::File => self.open(action),
            Action::Read(descriptor)
            | Action::Write(descriptor)
            | Action::Fill(descriptor)
            | Action::Drain(descriptor)
            | Action::HalfClose(descriptor) => self.transfer(action, descriptor),
            Action::Close(descriptor) => self.close(descriptor, false),
            Action::CloseBehind(descriptor) => self.close(descriptor, true),
            Action::AddFd {
                descriptor,
                flags,
                close,
                script,
            } => self.add_fd(descriptor, flags, close, script),
            Action::SetFlags { event, flags } => self.set_flags(event, flags),
            Action::FreeFd(event) => {
                if let Some(slot) = self.fd_event(event) {
                    self.free_fd(slot);
                }
            }
            Action::AddTimer { when, script } => self.add_timer(when, script),
            Action::MoveTimer { timer, when } => self.move_timer(timer, when),
            Action::FreeTimer(timer) => {
                if let Some(slot) = self.timer(timer) {
                    self.state.borrow_mut().timers[slot].is_alive = false;
                    self.library().free_timer(slot);
                }
            }
            Action::AddImmediate { script } => self.add_immediate(script),
            Action::Schedule(immediate) => self.schedule(immediate),
            Action::Reset(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.state.borrow_mut().immediates[slot].scheduled = None;
                    self.library().reset(slot);
                }
            }
            Action::FreeImmediate(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.free_immediate(slot);
                }
            }
            Action::AddSignal {
                signal,
                siginfo,
                once,
                script,
            } => self.add_signal(signal, siginfo, once, script),
            Action::FreeSignal(signal) => {
                if let Some(slot) = self.signal(signal) {
                    self.free_signal(slot);
                }
            }
            Action::Raise(signal) => self.raise(signal, None),
            Action::Queue { signal, value } => self.raise(signal, Some(value)),
            // Outside of handlers.
            Action::FreeSelf => {}
            Action::Turn => self.turn(None),
            Action::Until(questions) => self.turn(Some(questions)),
            Action::Reinitialise => self.reinitialise(),
            Action::Fork => self.fork(),
        }
    }

    /// Which of `count` a number means.
    pub(super) fn pick(&self, number: u8, count: usize) -> Option<usize> {
        (count > 0).then(|| usize::from(number) % count)
    }

    pub(super) fn own(&self, number: u8, kind: Kind) -> Option<usize> {
        let state = self.state.borrow();
        let frame = state.frames.last()?;
        (number == OWN && frame.kind == kind).then_some(frame.slot)
    }

    pub(super) fn descriptor(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let descriptor = match own {
            Some(slot) => state.fds[slot].descriptor,
            None => self.pick(number, state.descriptors.len())?,
        };
        state.descriptors[descriptor].then_some(descriptor)
    }

    pub(super) fn fd_event(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.fds.len()))?;
        state.fds[slot].is_alive.then_some(slot)
    }

    pub(super) fn timer(&self, number: u8) -> Option<usize> {
        let state = self.state.borrow();
        let slot = self.pick(number, state.timers.len())?;
        state.timers[slot].is_alive.then_some(slot)
    }

    pub(super) fn immediate(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Immediate);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.immediates.len()))?;
        state.immediates[slot].is_alive.then_some(slot)
    }

    pub(super) fn signal(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Signal);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.signals.len()))?;
        state.signals[slot].is_alive.then_some(slot)
    }

    pub(super) fn free_self(&self, kind: Kind, slot: usize) {
        match kind {
            Kind::Fd => {
                if self.state.borrow().fds[slot].is_alive {
                    self.free_fd(slot);
                }
            }
            Kind::Timer => self.library().free_timer(slot),
            Kind::Immediate => {
                if self.state.borrow().immediates[slot].is_alive {
                    self.free_immediate(slot);
                }
            }
            Kind::Signal => {
                if self.state.borrow().signals[slot].is_alive {
                    self.free_signal(slot);
                }
            }
        }
    }
}
