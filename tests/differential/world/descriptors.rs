//! Descriptors, and the events on them.

use super::checks::{flags_text, interest, is_dead};
use super::objects::{self, check, number_of};
use super::state::{FdEvent, Kind, is_running};
use super::{FIRST_NUMBER, MAX_DESCRIPTORS, MAX_EVENTS, World};
use crate::differential::kernel;
use crate::differential::program::{Action, Close};
use std::os::fd::RawFd;

impl World {
    pub(super) fn open(&self, action: Action) {
        let first = self.state.borrow().descriptors.len();
        if first + 2 > MAX_DESCRIPTORS {
            return;
        }
        let opened = match action {
            Action::Pipe => objects::pipe().to_vec(),
            Action::SocketPair => objects::socket_pair().to_vec(),
            _ if self.limits.files => vec![objects::file()],
            _ => return,
        };
        for (index, fd) in opened.into_iter().enumerate() {
            let number = number_of(first + index);
            check(unsafe { libc::dup3(fd, number, libc::O_CLOEXEC) });
            check(unsafe { libc::close(fd) });
            let mut state = self.state.borrow_mut();
            state.descriptors.push(true);
            state.members.push(Vec::new());
        }
    }

    pub(super) fn transfer(&self, action: Action, descriptor: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let fd = number_of(descriptor);
        let mut buffer = [7; 1024];
        let (data, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let what = match action {
            Action::Read(_) => format!("read {}", unsafe { libc::read(fd, data, 2) }),
            Action::Write(_) => format!("wrote {}", unsafe { libc::write(fd, data, 3) }),
            Action::Fill(_) => {
                for _ in 0..256 {
                    if unsafe { libc::write(fd, data, size) } <= 0 {
                        break;
                    }
                }
                "filled".to_owned()
            }
            Action::Drain(_) => {
                let mut count = 1;
                for _ in 0..256 {
                    count = unsafe { libc::read(fd, data, size) };
                    if count <= 0 {
                        break;
                    }
                }
                format!("drained up to {}", count.signum())
            }
            _ => {
                let result = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
                format!("shut down: {result}")
            }
        };
        self.say(format!("{what}: descriptor {descriptor}"));
    }

    pub(super) fn close(&self, descriptor: u8, behind: bool) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        // The library aborts in a child that does this before its first turn.
        let behind = behind && self.state.borrow().path.is_empty();
        let events: Vec<_> = self.events_on(descriptor).collect();
        let is_known_to_the_kernel = |slot: usize| {
            let fds = &self.state.borrow().fds;
            let event = &fds[slot];
            let on_it = fds.iter().filter(|event| event.descriptor == descriptor);
            event.flags != 0 && !event.was_changed && on_it.count() == 1
        };
        match events[..] {
            [] => {}
            // The library disarms several events one by one, ours all at once; and ours finds out
            // when it changes an interest, which isn't at once.
            [(slot, _, _)] if behind && is_known_to_the_kernel(slot) && !self.program.nesting => {}
            _ => return,
        }
        self.say(format!("close descriptor {descriptor}"));
        check(unsafe { libc::close(number_of(descriptor)) });
        self.state.borrow_mut().descriptors[descriptor] = false;
    }

    /// Flags and ways to close of the events on a descriptor, with their slots. Those count too that have ended
    /// but whose handlers are running.
    pub(super) fn events_on(
        &self,
        descriptor: usize,
    ) -> impl Iterator<Item = (usize, u8, Close)> + use<> {
        let state = self.state.borrow();
        let events = state.fds.iter().enumerate();
        let on_it: Vec<_> = events
            .filter(|(slot, event)| {
                event.descriptor == descriptor
                    && (event.is_alive || is_running(&state.frames, Kind::Fd, *slot))
            })
            .map(|(slot, event)| (slot, event.flags, event.close))
            .collect();
        on_it.into_iter()
    }

    /// What is left of flags when those are out of bounds that another event on the descriptor has.
    pub(super) fn possible_flags(&self, descriptor: usize, own: Option<usize>, flags: u8) -> u8 {
        if self.limits.overlapping {
            return flags;
        }
        self.events_on(descriptor)
            .filter(|&(slot, _, _)| Some(slot) != own)
            .fold(flags, |flags, (_, others, _)| flags & !others)
    }

    pub(super) fn add_fd(&self, descriptor: u8, flags: u8, close: Close, script: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let slot = self.state.borrow().fds.len();
        let others = self.events_on(descriptor).count();
        let closes = self
            .events_on(descriptor)
            .any(|(_, _, close)| close == Close::Auto);
        if slot >= MAX_EVENTS
            || closes
            || (close == Close::Auto && others > 0)
            || others >= self.limits.siblings
        {
            return;
        }
        let flags = self.possible_flags(descriptor, None, flags & 3);
        {
            let mut state = self.state.borrow_mut();
            state.members[descriptor].push(slot);
            state.fds.push(FdEvent {
                descriptor,
                flags,
                close,
                script,
                is_alive: true,
                was_changed: false,
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
            self.state.borrow_mut().fds[slot].is_alive = false;
        }
    }

    pub(super) fn set_flags(&self, event: u8, flags: u8) {
        let Some(slot) = self.fd_event(event) else {
            return;
        };
        let descriptor = {
            let mut state = self.state.borrow_mut();
            state.fds[slot].was_changed = true;
            state.fds[slot].descriptor
        };
        if !self.state.borrow().descriptors[descriptor] {
            return;
        }
        let flags = self.possible_flags(descriptor, Some(slot), flags & 3);
        self.say(format!("fd {slot} wants {}", flags_text(flags)));
        self.library().set_fd_flags(slot, flags);
        self.state.borrow_mut().fds[slot].flags = flags;
    }

    pub(super) fn free_fd(&self, slot: usize) {
        if self.state.borrow().is_closed_below(slot) {
            return;
        }
        self.say(format!("free fd {slot}"));
        {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.is_alive = false;
            event.flags = 0;
            let descriptor = event.descriptor;
            state.members[descriptor].retain(|&member| member != slot);
        }
        self.library().free_fd(slot);
    }

    /// of them wants, whose turn it is.
    pub fn take_turn(&self, fd: RawFd, readiness: i16) -> Option<i16> {
        let descriptor = usize::try_from(fd - FIRST_NUMBER).ok()?;
        let mut state = self.state.borrow_mut();
        let members = state.members.get(descriptor)?;
        if members.len() < 2 {
            return None;
        }
        let position = members.iter().position(|&slot| {
            let event = &state.fds[slot];
            let matches = readiness & interest(event.flags) != 0
                || (readiness & kernel::DEAD != 0 && event.flags & 1 != 0);
            matches && !is_running(&state.frames, Kind::Fd, slot)
        })?;
        let slot = state.members[descriptor].remove(position);
        state.members[descriptor].push(slot);
        Some(interest(state.fds[slot].flags))
    }

    /// Takes its flag from an event that wants WRITE only and whose descriptor is dead, if others
    /// are on it, or if one was told so before. Both libraries do that, but not in the same turn.
    pub(super) fn give_up_dead(&self) {
        let dead: Vec<usize> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            let wants_write = events.filter(|(_, event)| event.is_alive && event.flags == 2);
            wants_write
                .filter(|(_, event)| {
                    let has_siblings = state.members[event.descriptor].len() > 1;
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
