//! Signals: what arrives, in which order, and what is left behind.

mod children;
mod delivery;
mod dispatch;
mod dispositions;
mod embedding;
mod gap;
mod nested;
mod queue;
mod several;
mod storm;
mod streams;
mod stress;

#[path = "../embedded/mod.rs"]
mod embedded;
#[path = "../process/mod.rs"]
mod process;

use std::cell::RefCell;
use std::rc::Rc;
use tevent::{Context, SigInfo, Signal, SignalFlags, SignalInfo, Signum};

fn main() {
    process::main_within(
        storm::guard(),
        &[
            delivery::TESTS,
            dispatch::TESTS,
            nested::TESTS,
            several::TESTS,
            dispositions::TESTS,
            children::TESTS,
            queue::TESTS,
            gap::TESTS,
            stress::TESTS,
            storm::TESTS,
            embedding::TESTS,
            streams::TESTS,
        ],
    )
}

/// What handlers have noted, in order.
struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(Rc::clone(&self.0))
    }
}

impl<T> Log<T> {
    fn new() -> Self {
        Log(Rc::default())
    }

    fn push(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn take(&self) -> Vec<T> {
        self.0.take()
    }
}

/// Adds a plain handler that notes the count.
fn counting(context: &Context, signum: Signum) -> (Signal, Log<u32>) {
    let log = Log::new();
    let handler = {
        let log = log.clone();
        move |_: &Context, _: &Signal, info: &SignalInfo| {
            assert!(info.siginfo.is_none(), "a plain handler gets no siginfo");
            log.push(info.count);
        }
    };
    let signal = context
        .add_signal(signum, SignalFlags::empty(), handler)
        .expect("a handler");
    (signal, log)
}

/// Adds a siginfo handler that notes the value that came along.
fn valued(context: &Context, signum: Signum) -> (Signal, Log<usize>) {
    let log = Log::new();
    let handler = {
        let log = log.clone();
        move |_: &Context, _: &Signal, info: &SignalInfo| {
            assert_eq!(info.count, 1, "a siginfo handler is called once for each");
            let siginfo = info.siginfo.expect("a siginfo handler gets siginfo");
            log.push(siginfo.value().expect("it was sent with a value"));
        }
    };
    let signal = context
        .add_signal(signum, SignalFlags::SIGINFO, handler)
        .expect("a handler");
    (signal, log)
}

/// Adds a siginfo handler that notes each call.
fn infos(context: &Context, signum: Signum) -> (Signal, Log<SigInfo>) {
    let log = Log::new();
    let handler = {
        let log = log.clone();
        move |_: &Context, _: &Signal, info: &SignalInfo| {
            log.push(info.siginfo.expect("a siginfo handler gets siginfo"));
        }
    };
    let signal = context
        .add_signal(signum, SignalFlags::SIGINFO, handler)
        .expect("a handler");
    (signal, log)
}

fn realtime(offset: u8) -> Signum {
    Signum::realtime(offset).expect("a real-time signal")
}
