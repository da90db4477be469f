//! The same work on tevent, on a bare epoll loop, and on other event loops.
//!
//!     cargo run --release --manifest-path benches/peers/Cargo.toml -- --help
//!
//! A measurement is a process of its own (`peers run WORKLOAD CONTESTANT OPERATIONS`): descriptors,
//! signal handlers and the allocator's state are nobody else's. Contestants take turns, A B C A B C.

mod cli;
mod contestants;
mod count;
mod echo;
mod library;
mod record;
mod report;
mod run;
mod support;
mod table;
mod wall;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::main(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
