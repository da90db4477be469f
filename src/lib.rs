//! The event loop for daemons: descriptors, timers, signals and immediates, each with a closure.
//!
//! This is the model of tevent, Samba's event library, in safe Rust.

#![deny(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    rust_2018_idioms
)]

mod backend;
mod context;
mod error;
mod fd;
mod flags;
mod fork;
mod immediate;
mod immediate_queue;
mod key;
mod remote;
mod run;
mod signal;
mod signum;
mod sys;
mod timer;
mod timer_queue;

pub use backend::{
    Backend, BackendKind, Readiness, ReadyList, Token, UnknownBackend, WakeupTrigger,
};
pub use context::{Builder, Context, ContextRef, WeakContext};
pub use error::{AddFdError, OsError};
pub use fd::Fd;
pub use flags::{FdFlags, SignalFlags};
pub use fork::Fork;
pub use immediate::Immediate;
pub use remote::Remote;
pub use run::Nesting;
pub use signal::{Signal, SignalInfo};
pub use signum::Signum;
pub use sys::siginfo::SigInfo;
pub use timer::Timer;
