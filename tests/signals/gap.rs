//! What comes between the loop's last look and the wait, put there by a backend of our own.

use crate::process::{self, sys, tests};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;
use tevent::{
    Backend, BackendKind, Context, FdFlags, ReadyList, Remote, SignalFlags, Signum, Token,
};

pub const TESTS: &[process::Test] = tests![
    what_comes_after_the_last_look_keeps_the_loop_from_waiting,
    what_comes_when_the_wait_has_begun_wakes_the_loop,
];

/// Does `work` when the loop has looked for the last time (it tells of a changed interest then),
/// or when it waits; and "waits" for ever unless the wake-up is readable.
struct Gap {
    work: Rc<dyn Fn()>,
    in_wait: bool,
    wakeup: Cell<RawFd>,
}

impl Backend for Gap {
    fn name(&self) -> &str {
        "gap"
    }

    fn add(&mut self, fd: RawFd, token: Token, _: FdFlags) -> io::Result<()> {
        // The wake-up is the first to come.
        if self.wakeup.get() == -1 {
            self.wakeup.set(fd);
        } else if token.to_bits() != u64::MAX && !self.in_wait {
            (self.work)();
        }
        Ok(())
    }

    fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: RawFd, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, _: &mut ReadyList) -> io::Result<()> {
        if self.in_wait {
            (self.work)();
            assert!(sys::writes_to(self.wakeup.get()) > 0, "it has to be woken");
        } else {
            assert_eq!(timeout, Some(Duration::ZERO), "it must not wait");
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn comes(in_wait: bool) {
    for remotely in [false, true] {
        let remote: Rc<RefCell<Option<Remote>>> = Rc::default();
        let sender = Rc::clone(&remote);
        let work = move || match &*sender.borrow() {
            Some(remote) if remotely => assert!(remote.schedule(|context| context.stop())),
            Some(_) => sys::raise(Signum::SIGUSR1),
            None => {}
        };
        let gap = Gap {
            work: Rc::new(work),
            in_wait,
            wakeup: Cell::new(-1),
        };
        let context = Context::builder()
            .custom_backend(Box::new(gap))
            .wait_timeout(None)
            .build()
            .unwrap();
        let handler = |context: &Context, _: &_, _: &_| context.stop();
        let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), handler);
        let (ours, _theirs) = sys::pair();
        let event = context
            .add_fd(ours, FdFlags::empty(), |_, _, _| ())
            .unwrap();
        event.set_flags(FdFlags::READ);
        *remote.borrow_mut() = Some(context.remote());
        context.run().unwrap();
    }
}

fn what_comes_after_the_last_look_keeps_the_loop_from_waiting(_any: BackendKind) {
    comes(false);
}

fn what_comes_when_the_wait_has_begun_wakes_the_loop(_any: BackendKind) {
    comes(true);
}
