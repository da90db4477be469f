//! Bytes as a program for an event loop.
//!
//! The first bytes choose the context's options, the others are operations (`operations.rs`). The
//! main program and the handlers read from the same bytes: a handler that is called takes the next
//! operations. So do destructors of what handlers own, and close callbacks. When the bytes are used
//! up, handlers disarm their events, and the loop must come to rest.
//!
//! A model (`model.rs`) knows what must not happen, and what must have happened when the loop rests.
//! What is wrong ends the process by `violated`, as a panic could be caught by the program.

mod backend;
mod model;
mod operations;
mod sources;

use backend::{Faults, Polling};
use libc::c_int;
use model::World;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, Context};

/// Says what is wrong, and ends the process.
pub fn violated(what: &str) -> ! {
    eprintln!("violated: {what}");
    std::process::abort();
}

#[track_caller]
fn ensure(condition: bool, what: &str) {
    if !condition {
        violated(&format!("{what}, at {}", std::panic::Location::caller()));
    }
}

/// Runs the program that `bytes` are.
pub fn run(bytes: &[u8]) {
    let Some((&[kind, batch, budget, ending], program)) = bytes.split_first_chunk() else {
        return;
    };
    // Rust's own `main` does that, a fuzzer's doesn't.
    // SAFETY: no memory is involved, and nobody here handles it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let open_before = open_descriptors();
    let faults = Rc::new(Faults::default());
    let builder = match kind % 4 {
        0 => Context::builder().backend(BackendKind::Standard),
        1 => Context::builder().backend(BackendKind::Epoll),
        2 => Context::builder().backend(BackendKind::Poll),
        _ => Context::builder().custom_backend(Box::new(Polling::new(Rc::clone(&faults)))),
    };
    let budget = match budget % 4 {
        0 | 1 => None,
        2 => NonZeroU32::new(2),
        _ => NonZeroU32::new(1024),
    };
    let built = builder
        .batch([1, 2, 3, 256][usize::from(batch % 4)])
        .starvation_budget(budget)
        .wait_timeout(Some(Duration::ZERO))
        .build();
    let Ok(context) = built else {
        violated("a context can be made");
    };
    let world = World::install(program, &context, faults, budget.is_none());
    while world.has_bytes() {
        operations::perform(&world, Some(&context));
    }
    rest(&world, &context);
    if ending & 1 == 0 {
        world.drop_handles();
        world.drop_owner(context);
        world.drop_keeper();
    } else {
        world.drop_owner(context);
        if ending & 2 != 0 {
            // What another owner keeps alive works on.
            operations::use_what_is_left(&world);
        }
        world.drop_keeper();
        operations::use_what_is_left(&world);
        world.drop_handles();
    }
    world.check_the_end();
    World::remove(world);
    ensure(
        operations::dispositions_are_default(),
        "a signal disposition was left behind",
    );
    ensure(
        open_descriptors() == open_before,
        "a descriptor was left open or closed",
    );
}

/// Turns until nothing is left to be called, and checks that nothing was forgotten.
fn rest(world: &World, context: &Context) {
    world.faults.clear();
    context.set_wait_timeout(Some(Duration::ZERO));
    let (mut idle, mut turns, mut failures) = (0, 0, 0);
    // A file that is ready only for what nobody wants takes a turn of its own in a small batch.
    let enough = 3 + world.files();
    while idle < enough || !is_quiet(world, context) {
        match operations::guarded(|| context.run_once()) {
            Some(Ok(true)) => idle = 0,
            Some(Ok(false)) => idle += 1,
            Some(Err(_)) => {
                world.turn_has_failed();
                failures += 1;
            }
            None => violated("a handler without bytes doesn't panic"),
        }
        turns += 1;
        ensure(turns < 20_000, "the loop comes to rest");
        ensure(failures < 64, "what was refused is reported once");
        // Each idle turn may disarm a batch of events that wait for WRITE in vain.
        ensure(idle < 100, "a loop at rest would wait");
    }
    world.check_at_rest();
}

/// Whether a loop that blocks would: with nothing to call it would spin otherwise.
fn is_quiet(world: &World, context: &Context) -> bool {
    match context.backend_name() {
        "epoll" | "standard" => !sources::is_readable(context.as_raw_fd()),
        "polling" => world.faults.reported.get() == 0,
        _ => true,
    }
}

/// Which of the lowest numbers are open.
fn open_descriptors() -> [bool; 256] {
    let mut entries = [libc::pollfd {
        fd: 0,
        events: 0,
        revents: 0,
    }; 256];
    for (number, entry) in entries.iter_mut().enumerate() {
        entry.fd = number as c_int;
    }
    // SAFETY: poll() writes to as many entries as there are.
    let result = unsafe { libc::poll(entries.as_mut_ptr(), 256, 0) };
    ensure(result >= 0, "poll() works");
    entries.map(|entry| entry.revents & libc::POLLNVAL == 0)
}
