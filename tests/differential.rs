//! The C library and this crate carry out the same programs, and have to do the same.
//!
//! The library is Debian's `libtevent.so.0`, version 0.14.1, loaded at run time. Without it nothing
//! is compared, which is a failure if `CI` is `true`.
//!
//! `program.rs` says what a program is and generates them; `world.rs` carries one out, on either
//! library (`reference.rs`, `ours.rs`), and writes down what happens: which handler is called,
//! with which flags or count, what is closed when, what becomes of each turn. `compare.rs` runs
//! each in processes of their own and compares; `known.rs` says in what the two may differ;
//! `kernel.rs` makes the kernel the same for both; `corpus.rs` are programs that once failed.
//!
//! By hand, for more programs or others:
//!
//! ```sh
//! TEVENT_DIFFERENTIAL_CASES=100000 TEVENT_DIFFERENTIAL_SEED=7 \
//!     cargo test --release --test differential
//! ```

#[path = "process/mod.rs"]
mod process;

mod differential {
    pub mod compare;
    pub mod corpus;
    pub mod ffi;
    mod kernel;
    pub mod known;
    mod library;
    mod ours;
    mod polled;
    mod program;
    mod reference;
    pub mod statistics;
    mod world;
}

use differential::{compare, corpus, ffi, known, statistics};
use std::time::Duration;

/// Says how many programs both libraries have carried out with the same result, and how often what
/// happened in them.
extern "C" fn report() {
    for (kind, programs) in compare::agreed() {
        println!(
            "{kind}: the same in {programs} programs, seed {}",
            compare::seed()
        );
    }
    statistics::print();
}

fn main() {
    if let Err(why) = ffi::tevent() {
        println!("NOT RUN, as there is no libtevent.so.0: {why}");
        let is_gate = std::env::var("CI").is_ok_and(|value| value == "true");
        println!("0 passed, {} failed", u8::from(is_gate));
        std::process::exit(i32::from(is_gate));
    }
    statistics::share();
    let (cases, seed) = (compare::cases(), compare::seed());
    println!("{cases} programs for each backend, seed {seed}");
    // What is below ends the process.
    unsafe { libc::atexit(report) };
    let guard = Duration::from_secs(120) + Duration::from_millis(100) * cases as u32;
    let others = [known::TESTS, statistics::TESTS, compare::TESTS];
    process::main_within(guard, &[corpus::TESTS, &others].concat())
}
