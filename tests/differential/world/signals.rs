//! Signals.

use super::objects::check;
use super::state::{Kind, Signal};
use super::{MAX_EVENTS, MAX_RAISED, World};

impl World {
    pub(super) fn add_signal(&self, signal: u8, siginfo: bool, once: bool, script: u8) {
        let slot = self.state.borrow().signals.len();
        if slot >= MAX_EVENTS {
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
        let (siginfo, once) = first.unwrap_or((siginfo, once));
        if first.is_none() {
            self.state.borrow_mut().used_up.remove(&signum);
        }
        self.state.borrow_mut().signals.push(Signal {
            signum,
            siginfo,
            once,
            script,
            is_alive: true,
        });
        self.say(format!(
            "add signal {slot}: {signum}, siginfo {siginfo}, once {once}"
        ));
        self.library().add_signal(slot, signum, siginfo, once);
    }

    pub(super) fn free_signal(&self, slot: usize) {
        let is_last = {
            let state = self.state.borrow();
            let signum = state.signals[slot].signum;
            let signals = state.signals.iter();
            let handlers = signals.filter(|signal| signal.is_alive && signal.signum == signum);
            let may_wait = state.pending.contains(&signum) || state.pending_is_unsure;
            may_wait && !state.is_ending && handlers.count() == 1
        };
        if is_last {
            // The library would tell the next event that is added for it.
            return;
        }
        self.say(format!("free signal {slot}"));
        self.state.borrow_mut().signals[slot].is_alive = false;
        self.library().free_signal(slot);
    }

    pub(super) fn raise(&self, signal: u8, value: Option<u8>) {
        let signum = signum(signal);
        {
            let mut state = self.state.borrow_mut();
            let mut signals = state.signals.iter();
            let first = signals.find(|signal| signal.is_alive && signal.signum == signum);
            let Some(once) = first.map(|first| first.once) else {
                return;
            };
            if state.raised >= MAX_RAISED {
                return;
            }
            // The second would kill the process in the library.
            if once && !state.used_up.insert(signum) {
                return;
            }
            let mut frames = state.frames.iter();
            let in_handler = frames.any(|frame| frame.kind == Kind::Signal);
            state.pending_is_unsure |= in_handler;
            state.raised += 1;
            state.pending.insert(signum);
        }
        self.say(format!("raise {signum} {value:?}"));
        match value {
            None => check(unsafe { libc::raise(signum) }),
            Some(value) => {
                let value = libc::sigval {
                    sival_ptr: usize::from(value) as *mut _,
                };
                check(unsafe { libc::sigqueue(libc::getpid(), signum, value) })
            }
        };
    }
}

pub(super) fn signum(signal: u8) -> i32 {
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 1][usize::from(signal % 3)]
}
