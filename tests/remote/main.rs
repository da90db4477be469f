//! Scheduling on a context from other threads.

mod closing;
mod order;
mod wakeups;

#[path = "../process/mod.rs"]
mod process;

fn main() {
    process::main(&[order::TESTS, wakeups::TESTS, closing::TESTS])
}
