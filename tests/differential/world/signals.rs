//! Signals.

use super::state::{Kind, Signal};
use super::{MAX_EVENTS, MAX_FLOODS, MAX_RAISED, World};
use crate::differential::program::Action;
use crate::differential::statistics::Happening;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// More than a queue of siginfo holds, by a few.
const FLOOD: u8 = 3;
const QUEUE: usize = 256;
/// One for what the queue holds, one for the rest, and one more.
const TURNS_TO_DRAIN: usize = 3;

impl World {
    pub(super) fn act_on_signal(&self, action: Action) {
        match action {
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
            Action::DetachSignal(signal) => {
                if let Some(slot) = self.signal(signal) {
                    self.detach_signal(slot);
                }
            }
            Action::Raise(signal) => self.raise(signal, None),
            Action::Queue { signal, value } => self.raise(signal, Some(value)),
            Action::Flood(signal) => self.flood(signal),
            _ => unreachable!("{action:?} isn't about signals"),
        }
    }

    fn add_signal(&self, signal: u8, siginfo: bool, once: bool, script: u8) {
        let slot = self.state.borrow().signals.len();
        if slot >= MAX_EVENTS || !self.limits.signals {
            return;
        }
        let signum = signum(signal);
        let first = {
            let state = self.state.borrow();
            let mut signals = state.signals.iter();
            let first = signals.find(|signal| signal.is_alive && signal.signum == signum);
            first.map(|first| (first.siginfo, first.once))
        };
        // The library takes the flags of the first for all.
        let (siginfo, once) = match first {
            Some(first) if self.limits.is_compared => first,
            _ => (siginfo, once),
        };
        self.count(Happening::AddSignal);
        if first.is_some() {
            self.count(Happening::AddSecondSignal);
        } else {
            self.state.borrow_mut().used_up.remove(&signum);
        }
        if self.is_handler_running(signum) {
            // A loop in there may have handed out what came, to those who were there.
            self.state.borrow_mut().pending.remove(&signum);
        }
        self.state.borrow_mut().signals.push(Signal {
            signum,
            siginfo,
            once,
            script,
            is_alive: true,
            is_detached: false,
        });
        self.say(format!(
            "add signal {slot}: {signum}, siginfo {siginfo}, once {once}"
        ));
        self.library().add_signal(slot, signum, siginfo, once);
    }

    fn is_handler_running(&self, signum: i32) -> bool {
        let state = self.state.borrow();
        let mut frames = state.frames.iter();
        frames.any(|frame| frame.kind == Kind::Signal && state.signals[frame.slot].signum == signum)
    }

    /// Whether signals may be waiting of which the last event for the number is to be told.
    fn is_awaited(&self, slot: usize) -> bool {
        let state = self.state.borrow();
        let signum = state.signals[slot].signum;
        let signals = state.signals.iter();
        let handlers = signals.filter(|signal| signal.is_alive && signal.signum == signum);
        let may_wait =
            state.pending.contains(&signum) || state.pending_is_unsure || state.turns_to_drain > 0;
        may_wait && !state.is_ending && handlers.count() == 1
    }

    /// Whether a handler of the same signal is running, and this event's would be called after it.
    fn is_called_next(&self, slot: usize) -> bool {
        let state = self.state.borrow();
        let signum = state.signals[slot].signum;
        let mut frames = state.frames.iter();
        let running = frames.rfind(|frame| {
            frame.kind == Kind::Signal && state.signals[frame.slot].signum == signum
        });
        let is_left =
            |&older: &usize| state.signals[older].is_alive && state.signals[older].signum == signum;
        running.is_some_and(|running| {
            let mut left = (0..running.slot).rev().filter(is_left);
            left.next() == Some(slot)
        })
    }

    pub(super) fn free_signal(&self, slot: usize) {
        if self.limits.is_compared && self.is_awaited(slot) {
            // The library would tell the next event that is added for it.
            return;
        }
        if self.limits.is_compared && self.is_called_next(slot) {
            // The library would forget those after it, or call all again if one is added.
            return;
        }
        let (of_another, is_detached, is_own) = {
            let state = self.state.borrow();
            let signum = state.signals[slot].signum;
            let is_own = state.is_innermost(Kind::Signal, slot);
            let frame = state.frames.last();
            let of_another = frame.is_some_and(|frame| {
                frame.kind == Kind::Signal
                    && frame.slot != slot
                    && state.signals[frame.slot].signum == signum
            });
            (of_another, state.signals[slot].is_detached, is_own)
        };
        self.count(Happening::FreeSignal);
        if of_another {
            self.count(Happening::FreeSignalInSignal);
        }
        if !is_detached || is_own {
            self.say(format!("free signal {slot}"));
        }
        self.state.borrow_mut().signals[slot].is_alive = false;
        self.forget_if_unhandled(slot);
        self.library().free_signal(slot);
    }

    /// When the last event for a signal is gone, ours forgets those that came.
    pub(super) fn forget_if_unhandled(&self, slot: usize) {
        let mut state = self.state.borrow_mut();
        let signum = state.signals[slot].signum;
        let left = state.signals.iter();
        let left = left.filter(|signal| signal.is_alive && signal.signum == signum);
        let is_handled = left.clone().count() > 0;
        let is_queued = left.clone().any(|signal| signal.siginfo);
        if !is_queued {
            state.queued.remove(&signum);
        }
        if !is_handled && !self.limits.is_compared {
            state.pending.remove(&signum);
        }
    }

    fn detach_signal(&self, slot: usize) {
        if self.state.borrow().signals[slot].is_detached {
            return;
        }
        self.count(Happening::DetachSignal);
        self.say(format!("detach signal {slot}"));
        self.state.borrow_mut().signals[slot].is_detached = true;
        self.library().detach_signal(slot);
    }

    /// Whether the signal may be raised `times`; it is noted that it is.
    fn may_raise(&self, signum: i32, times: usize) -> bool {
        let mut state = self.state.borrow_mut();
        let mut signals = state.signals.iter();
        let first = signals.find(|signal| signal.is_alive && signal.signum == signum);
        let Some(once) = first.map(|first| first.once) else {
            return false;
        };
        let is_flood = times > 1;
        if state.raised >= MAX_RAISED || (is_flood && state.floods >= MAX_FLOODS) {
            return false;
        }
        let may_wait = state.signals_may_wait() || state.is_in_handler(Kind::Signal);
        let is_draining = state.turns_to_drain > 0 || (is_flood && may_wait);
        if self.limits.is_compared && is_draining {
            return false;
        }
        // The second would kill the process in the library.
        if self.limits.is_compared && once && (is_flood || !state.used_up.insert(signum)) {
            return false;
        }
        state.pending_is_unsure |= state.is_in_handler(Kind::Signal);
        match is_flood {
            true => state.floods += 1,
            false => state.raised += 1,
        }
        state.pending.insert(signum);
        let mut signals = state.signals.iter();
        if signals.any(|signal| signal.is_alive && signal.signum == signum && signal.siginfo) {
            state.queued.insert(signum);
        }
        true
    }

    fn raise(&self, signal: u8, value: Option<u8>) {
        let signum = signum(signal);
        if !self.may_raise(signum, 1) {
            return;
        }
        let (in_handler, in_signal) = {
            let state = self.state.borrow();
            (!state.frames.is_empty(), state.is_in_handler(Kind::Signal))
        };
        self.count(match value {
            None => Happening::Raise,
            Some(_) => Happening::Queue,
        });
        if in_handler {
            self.count(Happening::RaiseInHandler);
        }
        if in_signal {
            self.count(Happening::RaiseInSignal);
        }
        self.say(format!("raise {signum} {value:?}"));
        match value {
            None => send(|| unsafe { libc::raise(signum) }),
            Some(value) => queue(signum, usize::from(value)),
        }
    }

    fn flood(&self, signal: u8) {
        let signum = signum(signal);
        let count = QUEUE + usize::from(FLOOD);
        if !self.may_raise(signum, count) {
            return;
        }
        self.count(Happening::Flood);
        self.say(format!("raise {signum} {count} times"));
        self.state.borrow_mut().turns_to_drain = TURNS_TO_DRAIN;
        for value in 0..count {
            queue(signum, value);
        }
    }
}

fn queue(signum: i32, value: usize) {
    let value = libc::sigval {
        sival_ptr: value as *mut _,
    };
    send(|| unsafe { libc::sigqueue(libc::getpid(), signum, value) });
}

/// Sends a signal, trying again while the kernel has no room: other programs of the same user fill
/// the same queue.
fn send(mut send: impl FnMut() -> i32) {
    let end = Instant::now() + Duration::from_secs(60);
    while send() == -1 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        assert!(Instant::now() < end, "the kernel's queue stays full");
        thread::yield_now();
    }
}

fn signum(signal: u8) -> i32 {
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 1][usize::from(signal % 3)]
}
