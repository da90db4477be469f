//! What a program needs of an event loop.

use super::program::{Close, When};
use std::os::fd::RawFd;

/// What programs do with an event loop.
pub trait Library {
    fn add_fd(&self, slot: usize, fd: RawFd, flags: u8, close: Close) -> bool;
    fn fd_flags(&self, slot: usize) -> u8;
    fn set_fd_flags(&self, slot: usize, flags: u8);
    fn free_fd(&self, slot: usize);
    fn add_timer(&self, slot: usize, when: When);
    fn move_timer(&self, slot: usize, when: When);
    fn free_timer(&self, slot: usize);
    /// It has fired.
    fn forget_timer(&self, slot: usize);
    fn add_immediate(&self, slot: usize);
    fn schedule(&self, slot: usize);
    fn reset(&self, slot: usize);
    fn free_immediate(&self, slot: usize);
    fn add_signal(&self, slot: usize, signum: i32, siginfo: bool, once: bool);
    fn free_signal(&self, slot: usize);
    /// It was called, and was to be called once.
    fn forget_signal(&self, slot: usize);
    /// Makes one turn, and says whether a handler ran if the library does.
    fn run_once(&self) -> Result<Option<bool>, String>;
    fn run_until(&self, finished: Box<dyn FnMut() -> bool>) -> Result<(), String>;
    /// Runs until there is nothing to wait for.
    fn run(&self) -> Result<(), String>;
    fn reinitialise(&self) -> bool;
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
    /// Whether a child can go on with events that share a descriptor.
    pub forks_with_siblings: bool,
    /// Whether files can be watched.
    pub files: bool,
    /// Whether descriptors are reported in the order of the kernel. Then nothing is done in which
    /// the two tell the kernel different things.
    pub kernel_order: bool,
    /// Whether what doesn't depend on another library is checked.
    pub checks: bool,
}
