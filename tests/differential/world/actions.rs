//! Actions, and what they are about.

use super::state::Kind;
use super::{MAX_ACTIONS, World};
use crate::differential::program::{Action, OWN};
use crate::differential::statistics::Happening;

impl World {
    pub(super) fn act(&self, action: Action) {
        let changes_order = matches!(
            action,
            Action::SetFlags { .. }
                | Action::Toggle { .. }
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
            Action::Pipe | Action::SocketPair | Action::File | Action::Null | Action::Counter => {
                self.open(action)
            }
            Action::Read(descriptor)
            | Action::Write(descriptor)
            | Action::Fill(descriptor)
            | Action::Drain(descriptor)
            | Action::HalfClose(descriptor) => self.transfer(action, descriptor),
            Action::Close(descriptor) => self.close(descriptor, false),
            Action::CloseBehind(descriptor) => self.close(descriptor, true),
            Action::AddFd { .. }
            | Action::SetFlags { .. }
            | Action::Toggle { .. }
            | Action::FreeFd(_)
            | Action::TakeSource(_)
            | Action::DetachFd(_) => self.act_on_fd(action),
            Action::AddTimer { .. }
            | Action::MoveTimer { .. }
            | Action::FreeTimer(_)
            | Action::DetachTimer(_) => self.act_on_timer(action),
            Action::AddImmediate { .. }
            | Action::Schedule(_)
            | Action::Reset(_)
            | Action::FreeImmediate(_)
            | Action::DetachImmediate(_) => self.act_on_immediate(action),
            Action::AddSignal { .. }
            | Action::FreeSignal(_)
            | Action::DetachSignal(_)
            | Action::Raise(_)
            | Action::Queue { .. }
            | Action::Flood(_) => self.act_on_signal(action),
            // Outside of handlers.
            Action::FreeSelf => {}
            Action::Turn => self.turn(None),
            Action::Until(questions) => self.turn(Some(questions)),
            Action::Stop => self.stop(),
            Action::Hook(is_set) => self.set_hook(is_set),
            Action::Reinitialise => self.reinitialise(),
            Action::Fork => self.fork(),
        }
    }

    pub(super) fn own(&self, number: u8, kind: Kind) -> Option<usize> {
        let state = self.state.borrow();
        let frame = state.frames.last()?;
        (number == OWN && frame.kind == kind).then_some(frame.slot)
    }

    pub(super) fn descriptor(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let is_open = |&index: &usize| state.descriptors[index].is_open;
        match own {
            Some(slot) => Some(state.fds[slot].descriptor).filter(is_open),
            None => pick(number, (0..state.descriptors.len()).filter(is_open)),
        }
    }

    pub(super) fn fd_event(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let is_at_hand = |&slot: &usize| {
            let event = &state.fds[slot];
            event.is_alive && (!event.is_detached || state.is_innermost(Kind::Fd, slot))
        };
        match own {
            Some(slot) => Some(slot).filter(is_at_hand),
            None => pick(number, (0..state.fds.len()).filter(is_at_hand)),
        }
    }

    /// One that is armed; or any in its own handler, where it may be armed again.
    pub(super) fn timer(&self, number: u8) -> Option<usize> {
        if let Some(slot) = self.own(number, Kind::Timer) {
            let is_gone = self.state.borrow().timers[slot].is_gone;
            return (self.limits.rearms && !is_gone).then_some(slot);
        }
        let state = self.state.borrow();
        let is_at_hand = |&slot: &usize| {
            let timer = &state.timers[slot];
            timer.is_alive && !timer.is_detached && !state.is_running(Kind::Timer, slot)
        };
        pick(number, (0..state.timers.len()).filter(is_at_hand))
    }

    pub(super) fn immediate(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Immediate);
        let state = self.state.borrow();
        let is_at_hand = |&slot: &usize| {
            let immediate = &state.immediates[slot];
            let is_innermost = || state.is_innermost(Kind::Immediate, slot);
            immediate.is_alive && (!immediate.is_detached || is_innermost())
        };
        match own {
            Some(slot) => Some(slot).filter(is_at_hand),
            None => pick(number, (0..state.immediates.len()).filter(is_at_hand)),
        }
    }

    pub(super) fn signal(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Signal);
        let state = self.state.borrow();
        let is_at_hand = |&slot: &usize| {
            let signal = &state.signals[slot];
            signal.is_alive && (!signal.is_detached || state.is_innermost(Kind::Signal, slot))
        };
        match own {
            Some(slot) => Some(slot).filter(is_at_hand),
            None => pick(number, (0..state.signals.len()).filter(is_at_hand)),
        }
    }

    pub(super) fn free_self(&self, kind: Kind, slot: usize) {
        let is_alive = {
            let state = self.state.borrow();
            match kind {
                Kind::Fd => state.fds[slot].is_alive,
                // The library frees it anyway; it is the handle that goes.
                Kind::Timer => !state.timers[slot].is_gone,
                Kind::Immediate => state.immediates[slot].is_alive,
                Kind::Signal => state.signals[slot].is_alive,
            }
        };
        if !is_alive {
            return;
        }
        self.count(Happening::FreeSelf);
        match kind {
            Kind::Fd => self.free_fd(slot),
            Kind::Timer => {
                self.end_timer(slot);
                self.library().free_timer(slot);
            }
            Kind::Immediate => self.free_immediate(slot),
            Kind::Signal => self.free_signal(slot),
        }
    }
}

/// Which of some a number means.
fn pick(number: u8, among: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let count = among.clone().count();
    among.into_iter().nth(usize::from(number) % count.max(1))
}
