//! Descriptors, and what is done to them.

use super::objects::{self, check, number_of};
use super::state::{Descriptor, Kind, Object};
use super::{MAX_DESCRIPTORS, World};
use crate::differential::program::{Action, Close};
use crate::differential::statistics::Happening;
use std::os::fd::RawFd;

impl World {
    pub(super) fn open(&self, action: Action) {
        let open = {
            let state = self.state.borrow();
            let descriptors = state.descriptors.iter();
            descriptors.filter(|descriptor| descriptor.is_open).count()
        };
        if open + 2 > MAX_DESCRIPTORS {
            return;
        }
        let (opened, object, happening) = match action {
            Action::Pipe => (objects::pipe().to_vec(), Object::Stream, Happening::Pipe),
            Action::SocketPair => {
                let ends = objects::socket_pair().to_vec();
                (ends, Object::Stream, Happening::SocketPair)
            }
            Action::Counter => {
                let counter = vec![objects::counter()];
                (counter, Object::Counter, Happening::Counter)
            }
            _ if !self.limits.files => return,
            Action::Null => (vec![objects::null()], Object::File, Happening::Null),
            _ => (vec![objects::file()], Object::File, Happening::File),
        };
        self.count(happening);
        for fd in opened {
            self.keep(fd, object);
        }
    }

    /// Gives a new descriptor the lowest number that nobody refers to.
    fn keep(&self, fd: RawFd, object: Object) {
        let (index, is_new) = {
            let state = self.state.borrow();
            let index = state.free_descriptor();
            (index, index == state.descriptors.len())
        };
        check(unsafe { libc::dup3(fd, number_of(index), libc::O_CLOEXEC) });
        check(unsafe { libc::close(fd) });
        let descriptor = Descriptor {
            object,
            is_open: true,
            members: Vec::new(),
        };
        let mut state = self.state.borrow_mut();
        if is_new {
            state.descriptors.push(descriptor);
        } else {
            state.descriptors[index] = descriptor;
            state.known_dead.remove(&index);
            drop(state);
            self.count(Happening::ReusedNumber);
        }
    }

    pub(super) fn transfer(&self, action: Action, descriptor: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let fd = number_of(descriptor);
        let is_counter = self.state.borrow().descriptors[descriptor].object == Object::Counter;
        let mut buffer = [7; 1024];
        // What an eventfd takes is 8 bytes long.
        let few = if is_counter { 8 } else { 2 };
        let (data, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let (happening, succeeded, what) = match action {
            Action::Read(_) => {
                let count = unsafe { libc::read(fd, data, few) };
                (Happening::Read, count > 0, format!("read {count}"))
            }
            Action::Write(_) => {
                let count = unsafe { libc::write(fd, data, few) };
                (Happening::Write, count > 0, format!("wrote {count}"))
            }
            Action::Fill(_) => {
                let mut count = 0;
                while count < 256 && unsafe { libc::write(fd, data, size) } > 0 {
                    count += 1;
                }
                (Happening::Fill, count > 0, "filled".to_owned())
            }
            Action::Drain(_) => {
                let (mut count, mut last) = (0, 1);
                while last > 0 && count < 256 {
                    last = unsafe { libc::read(fd, data, size) };
                    count += 1;
                }
                let what = format!("drained up to {}", last.signum());
                (Happening::Drain, count > 1, what)
            }
            _ => {
                let result = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
                let what = format!("shut down: {result}");
                (Happening::HalfClose, result == 0, what)
            }
        };
        if succeeded {
            self.count(happening);
        }
        self.say(format!("{what}: descriptor {descriptor}"));
    }

    /// `behind`: even if an event is on it.
    pub(super) fn close(&self, descriptor: u8, behind: bool) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let events: Vec<(usize, u8, Close)> = self.events_on(descriptor).collect();
        match events[..] {
            [] => self.count(Happening::Close),
            [(slot, _, _)] if behind && self.can_go_behind(slot) => {
                self.count(Happening::CloseBehind);
            }
            _ if behind && !self.limits.is_compared => self.count(Happening::CloseBehind),
            _ => return,
        }
        self.say(format!("close descriptor {descriptor}"));
        check(unsafe { libc::close(number_of(descriptor)) });
        self.state.borrow_mut().descriptors[descriptor].is_open = false;
    }

    /// Whether both libraries have told the kernel what this event wants, and have nothing to tell
    /// it later: ours finds out that a descriptor is gone when it has.
    fn can_go_behind(&self, slot: usize) -> bool {
        let state = self.state.borrow();
        let event = &state.fds[slot];
        // The library aborts in a child that does this before its first turn.
        state.path.is_empty()
            && event.is_alive
            && event.flags != 0
            && !event.was_changed
            && !state.is_running(Kind::Fd, slot)
    }
}
