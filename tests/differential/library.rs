//! What a program needs of an event loop.

use super::program::{Close, When};
use std::os::fd::RawFd;

/// What programs do with an event loop.
pub trait Library {
    fn add_fd(&self, slot: usize, fd: RawFd, flags: u8, close: Close) -> bool;
    fn fd_flags(&self, slot: usize) -> u8;
    fn set_fd_flags(&self, slot: usize, flags: u8);
    fn toggle(&self, slot: usize, flag: u8, on: bool);
    fn free_fd(&self, slot: usize);
    /// Frees it without its close callback being called.
    fn take_source(&self, slot: usize);
    fn detach_fd(&self, slot: usize);
    fn add_timer(&self, slot: usize, when: When);
    fn move_timer(&self, slot: usize, when: When);
    fn free_timer(&self, slot: usize);
    /// It has fired.
    fn forget_timer(&self, slot: usize);
    fn detach_timer(&self, slot: usize);
    fn add_immediate(&self, slot: usize);
    fn schedule(&self, slot: usize);
    fn reset(&self, slot: usize);
    fn free_immediate(&self, slot: usize);
    fn detach_immediate(&self, slot: usize);
    fn add_signal(&self, slot: usize, signum: i32, siginfo: bool, once: bool);
    fn free_signal(&self, slot: usize);
    /// It was called, and was to be called once.
    fn forget_signal(&self, slot: usize);
    fn detach_signal(&self, slot: usize);
    /// Makes one turn, and says whether a handler ran if the library does.
    fn run_once(&self) -> Result<Option<bool>, String>;
    fn run_until(&self, finished: Box<dyn FnMut() -> bool>) -> Result<(), String>;
    /// Ends the innermost `run_until`.
    fn stop(&self);
    /// Whether the innermost `run_until` is to end, where the program has to see to that.
    fn was_stopped(&self) -> bool;
    fn set_hook(&self, is_set: bool);
    /// Runs until there is nothing to wait for.
    fn run(&self) -> Result<(), String>;
    fn reinitialise(&self) -> bool;
    /// The kernel is being asked what is ready.
    fn on_wait(&self) {}
    /// Which event each entry of the array is about that `poll(2)` gets, if there is one for each.
    fn polled(&self) -> Option<Vec<usize>> {
        None
    }
    /// Ends the context.
    fn close(&self);
    /// Whether this is the child.
    fn fork(&self) -> Option<u32>;
}

/// What a library can do, and what is to be checked besides the trace.
#[derive(Clone, Copy)]
pub struct Limits {
    /// How many events may be on a descriptor.
    pub siblings: usize,
    /// Whether they may want the same.
    pub overlapping: bool,
    /// Whether there are signals.
    pub signals: bool,
    /// Whether there are more flags than READ and WRITE.
    pub errors: bool,
    /// Whether a child can go on with events that share a descriptor.
    pub forks_with_siblings: bool,
    /// Whether files can be watched.
    pub files: bool,
    /// Whether descriptors are reported in the order of the kernel. Then nothing is done in which
    /// the two tell the kernel different things.
    pub kernel_order: bool,
    /// Whether there is another library to compare with.
    pub is_compared: bool,
    /// Whether a timer can be armed in its own handler.
    pub rearms: bool,
    /// Whether what doesn't depend on another library is checked.
    pub checks: bool,
}
