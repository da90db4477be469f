//! The workload of `.ci/syscalls`, which runs it under strace: 10,000 waits that find 100
//! descriptors ready, and in every handler an interest that is turned on and off again. The
//! backend is the first argument.
//!
//! The descriptors stay ready, and the handlers make no system call, so that what strace counts
//! is the loop's.

use std::cell::Cell;
use std::error::Error;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use tevent::{BackendKind, Context, FdFlags};

const DESCRIPTORS: u32 = 100;
const WAITS: u32 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    // As a part of `cargo test` it gets the arguments of the test harness, if any.
    let backend: BackendKind = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .unwrap_or_default();
    let context = Context::builder().backend(backend).build()?;
    let handlers = Rc::new(Cell::new(0));
    let mut peers = Vec::new();
    for _ in 0..DESCRIPTORS {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.write_all(b"!")?;
        peers.push(ours);
        let handlers = Rc::clone(&handlers);
        context
            .add_fd(theirs, FdFlags::READ, move |context, event, _| {
                event.set_writable(true);
                event.set_readable(false);
                event.set_readable(true);
                event.set_writable(false);
                handlers.set(handlers.get() + 1);
                if handlers.get() == DESCRIPTORS * WAITS {
                    context.stop();
                }
            })?
            .detach();
    }
    context.run()?;
    assert_eq!(handlers.get(), DESCRIPTORS * WAITS, "every handler ran");
    println!("handlers: {}", handlers.get());
    Ok(())
}
