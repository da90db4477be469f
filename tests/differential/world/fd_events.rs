//! Descriptor events.

use super::checks::{flags_text, interest, is_dead, is_ready};
use super::objects::number_of;
use super::state::{FdEvent, Kind, Object};
use super::{FIRST_NUMBER, MAX_EVENTS, World};
use crate::differential::kernel;
use crate::differential::program::{Action, Close};
use crate::differential::statistics::Happening;
use std::os::fd::RawFd;
use tevent::BackendKind;

impl World {
    pub(super) fn act_on_fd(&self, action: Action) {
        if let Action::AddFd {
            descriptor,
            flags,
            close,
            script,
        } = action
        {
            return self.add_fd(descriptor, flags, close, script);
        }
        let (Action::SetFlags { event, .. }
        | Action::Toggle { event, .. }
        | Action::FreeFd(event)
        | Action::TakeSource(event)
        | Action::DetachFd(event)) = action
        else {
            unreachable!("{action:?} isn't about descriptor events");
        };
        let Some(slot) = self.fd_event(event) else {
            return;
        };
        match action {
            Action::SetFlags { flags, .. } => self.set_flags(slot, flags, None),
            Action::Toggle { flag, on, .. } => {
                let known = self.state.borrow().fds[slot].flags;
                let flags = if on { known | flag } else { known & !flag };
                self.set_flags(slot, flags, Some((flag, on)));
            }
            Action::TakeSource(_) => self.take_source(slot),
            Action::DetachFd(_) => self.detach_fd(slot),
            _ => self.free_fd(slot),
        }
    }

    /// Flags and ways to close of the events on a descriptor, with their slots. Those count too
    /// that have ended but whose handlers are running.
    pub(super) fn events_on(
        &self,
        descriptor: usize,
    ) -> impl Iterator<Item = (usize, u8, Close)> + use<> {
        let state = self.state.borrow();
        let events = state.fds.iter().enumerate();
        let on_it: Vec<_> = events
            .filter(|(slot, event)| {
                event.descriptor == descriptor
                    && (event.is_alive || state.is_running(Kind::Fd, *slot))
            })
            .map(|(slot, event)| (slot, event.flags, event.close))
            .collect();
        on_it.into_iter()
    }

    /// What is left of flags when those are out of bounds that another event on the descriptor has.
    fn possible_flags(&self, descriptor: usize, own: Option<usize>, flags: u8) -> u8 {
        let flags = if self.limits.errors { flags } else { flags & 3 };
        if self.limits.overlapping {
            return flags;
        }
        self.events_on(descriptor)
            .filter(|&(slot, _, _)| Some(slot) != own)
            .fold(flags, |flags, (_, others, _)| flags & !others)
    }

    fn add_fd(&self, descriptor: u8, flags: u8, close: Close, script: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let others: Vec<(usize, u8, Close)> = self.events_on(descriptor).collect();
        let flags = self.possible_flags(descriptor, None, flags);
        let (slot, is_file, is_in_handler, waits) = {
            let state = self.state.borrow();
            (
                state.fds.len(),
                state.descriptors[descriptor].object == Object::File,
                !state.frames.is_empty(),
                state.waits,
            )
        };
        let is_closed_by_another = others.iter().any(|&(_, _, close)| close == Close::Auto);
        let has_detached = {
            let state = self.state.borrow();
            others.iter().any(|&(slot, ..)| state.fds[slot].is_detached)
        };
        // epoll refuses a file when something is wanted of it, which is later then.
        let is_refused_later = is_file && flags == 0 && self.kind == BackendKind::Epoll;
        if slot >= MAX_EVENTS
            || is_closed_by_another
            || (close == Close::Auto && !others.is_empty())
            || (has_detached && self.limits.is_compared)
            || others.len() >= self.limits.siblings
            || is_refused_later
        {
            return;
        }
        self.count(Happening::AddFd);
        if is_in_handler {
            self.count(Happening::AddFdInHandler);
        }
        if !others.is_empty() {
            self.count(Happening::AddSibling);
        }
        if others.iter().any(|&(_, wanted, _)| wanted & flags != 0) {
            self.count(Happening::AddOverlapping);
        }
        {
            let mut state = self.state.borrow_mut();
            state.descriptors[descriptor].members.push(slot);
            state.fds.push(FdEvent {
                descriptor,
                flags,
                close,
                script,
                is_alive: true,
                is_detached: false,
                was_changed: false,
                added_before_wait: others.is_empty().then_some(waits),
                closes: 0,
                calls: 0,
            });
        }
        self.say(format!(
            "add fd {slot}: descriptor {descriptor} {} {close:?}",
            flags_text(flags)
        ));
        if !self
            .library()
            .add_fd(slot, number_of(descriptor), flags, close)
        {
            self.say("refused".to_owned());
            self.count(Happening::Refused);
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.is_alive = false;
            if event.close == Close::Callback {
                // It gets the source of an event, and there was none.
                event.close = Close::Nothing;
            }
            state.descriptors[descriptor].members.pop();
        }
    }

    fn set_flags(&self, slot: usize, flags: u8, toggled: Option<(u8, bool)>) {
        let (descriptor, is_own) = {
            let mut state = self.state.borrow_mut();
            let is_own = state.is_innermost(Kind::Fd, slot);
            let event = &mut state.fds[slot];
            let descriptor = event.descriptor;
            if !state.descriptors[descriptor].is_open {
                return;
            }
            state.fds[slot].was_changed = true;
            (descriptor, is_own)
        };
        let mut possible = self.possible_flags(descriptor, Some(slot), flags);
        let is_detached = self.state.borrow().fds[slot].is_detached;
        if is_detached && possible == 2 && self.limits.is_compared {
            // Should it lose the flag, nobody could look when.
            possible = self.possible_flags(descriptor, Some(slot), 3) & 1;
        }
        match toggled.filter(|_| possible == flags) {
            Some((flag, on)) => {
                self.count(Happening::Toggle);
                self.say(format!("fd {slot} wants {}", flags_text(flags)));
                self.library().toggle(slot, flag, on);
            }
            None => {
                self.count(Happening::SetFlags);
                self.say(format!("fd {slot} wants {}", flags_text(possible)));
                self.library().set_fd_flags(slot, possible);
            }
        }
        if is_own {
            self.count(Happening::SetOwnFlags);
        }
        self.state.borrow_mut().fds[slot].flags = possible;
    }

    /// Takes an event off the tables; its library is told by the caller.
    fn end_fd(&self, slot: usize) {
        let mut state = self.state.borrow_mut();
        let event = &mut state.fds[slot];
        event.is_alive = false;
        event.flags = 0;
        let descriptor = event.descriptor;
        let members = &mut state.descriptors[descriptor].members;
        members.retain(|&member| member != slot);
        for sibling in members.clone() {
            // What they want together may have changed.
            state.fds[sibling].was_changed = true;
        }
    }

    pub(super) fn free_fd(&self, slot: usize) {
        let (is_own, in_another, is_detached) = {
            let state = self.state.borrow();
            if state.is_closed_below(slot) {
                return;
            }
            let is_own = state.is_innermost(Kind::Fd, slot);
            let in_another = !is_own && state.is_in_handler(Kind::Fd);
            (is_own, in_another, state.fds[slot].is_detached)
        };
        self.count(Happening::FreeFd);
        for (happens, happening) in [
            (is_own, Happening::FreeOwnFd),
            (in_another, Happening::FreeOtherFd),
            (
                is_ready(&self.state.borrow().fds[slot]),
                Happening::FreeReadyFd,
            ),
        ] {
            if happens {
                self.count(happening);
            }
        }
        if !is_detached || is_own {
            self.say(format!("free fd {slot}"));
        }
        self.end_fd(slot);
        self.library().free_fd(slot);
    }

    fn take_source(&self, slot: usize) {
        {
            let state = self.state.borrow();
            let event = &state.fds[slot];
            // It would be closed, by nobody that could be asked when. And the close function of an
            // event that it has found closed can't be taken from the library.
            if event.close == Close::Auto
                || !state.descriptors[event.descriptor].is_open
                || event.is_detached
                || state.is_running(Kind::Fd, slot)
            {
                return;
            }
        }
        self.count(Happening::TakeSource);
        self.say(format!("take the source of fd {slot}"));
        self.end_fd(slot);
        self.state.borrow_mut().fds[slot].close = Close::Nothing;
        self.library().take_source(slot);
    }

    fn detach_fd(&self, slot: usize) {
        let descriptor = {
            let state = self.state.borrow();
            let event = &state.fds[slot];
            let is_out_of_reach = event.is_detached || event.flags == 2;
            if is_out_of_reach && self.limits.is_compared || event.is_detached {
                return;
            }
            event.descriptor
        };
        if self.limits.is_compared && self.events_on(descriptor).count() > 1 {
            // The program takes flags of siblings away, see `give_up_dead`.
            return;
        }
        self.count(Happening::DetachFd);
        if self.state.borrow().is_innermost(Kind::Fd, slot) {
            self.count(Happening::DetachOwnFd);
        }
        self.say(format!("detach fd {slot}"));
        self.state.borrow_mut().fds[slot].is_detached = true;
        self.library().detach_fd(slot);
    }

    /// Which part of a descriptor's readiness is reported, if several events are on it: what one
    /// of them wants, whose turn it is.
    pub fn take_turn(&self, fd: RawFd, readiness: i16) -> Option<(usize, i16)> {
        let descriptor = usize::try_from(fd - FIRST_NUMBER).ok()?;
        let mut state = self.state.borrow_mut();
        let members = &state.descriptors.get(descriptor)?.members;
        if members.len() < 2 {
            return None;
        }
        let position = members.iter().position(|&slot| {
            let event = &state.fds[slot];
            let matches = readiness & interest(event.flags) != 0
                || (readiness & kernel::DEAD != 0 && event.flags & 1 != 0);
            matches && !state.is_running(Kind::Fd, slot)
        })?;
        let slot = state.descriptors[descriptor].members.remove(position);
        state.descriptors[descriptor].members.push(slot);
        Some((slot, interest(state.fds[slot].flags)))
    }

    /// Takes its flag from an event that wants WRITE only and whose descriptor is dead, if others
    /// are on it, or if one was told so before. Both libraries do that, but not in the same turn.
    pub(super) fn give_up_dead(&self) {
        if !self.limits.is_compared {
            return;
        }
        let dead: Vec<usize> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            let wants_write = events.filter(|(_, event)| event.is_alive && event.flags == 2);
            wants_write
                .filter(|(_, event)| {
                    let has_siblings = state.descriptors[event.descriptor].members.len() > 1;
                    let is_known = state.known_dead.contains(&event.descriptor);
                    (has_siblings || is_known) && is_dead(event.descriptor)
                })
                .map(|(slot, _)| slot)
                .collect()
        };
        for slot in dead {
            self.library().set_fd_flags(slot, 0);
            self.state.borrow_mut().fds[slot].flags = 0;
        }
    }
}
