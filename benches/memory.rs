//! What events take in memory, by an allocator that counts: the bytes that were asked for, without
//! the allocator's own overhead. The closures own nothing.
//!
//!     cargo bench --bench memory

mod common;

use common::raise_descriptor_limit;
use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tevent::{Context, FdFlags, SignalFlags, Signum};

/// Bytes that were asked for and not given back.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `make` has taken and its result holds.
fn weigh<R>(make: impl FnOnce() -> R) -> (usize, R) {
    let before = LIVE.load(Ordering::Relaxed);
    let result = make();
    (LIVE.load(Ordering::Relaxed) - before, result)
}

/// Bytes for each of `count`, the vector of what `make` returns not counted.
fn weigh_each<R>(count: usize, mut make: impl FnMut() -> R) -> f64 {
    let mut kept = Vec::with_capacity(count);
    let (bytes, ()) = weigh(|| kept.extend((0..count).map(|_| make())));
    bytes as f64 / count as f64
}

fn context() -> Context {
    Context::new().expect("a context can be made")
}

fn main() {
    // `cargo bench -- dispatch` is a question about something else.
    let mut filters = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'));
    if !filters.all(|filter| "memory".contains(&filter)) {
        return;
    }
    // With `--test`, as criterion has it, it is only to be seen to work.
    let counts: &[usize] = match std::env::args().any(|argument| argument == "--test") {
        true => &[100],
        false => &[100, 10_000, 100_000],
    };
    println!("| bytes for | one of 100 | of 10,000 | of 100,000 |");
    println!("|---|---:|---:|---:|");
    let row = |title: &str, weigh: &dyn Fn(usize) -> Option<f64>| {
        let cells: Vec<String> = counts
            .iter()
            .map(|&count| {
                let bytes = weigh(count);
                bytes.map_or("–".to_owned(), |bytes| format!("{bytes:.0}"))
            })
            .collect();
        println!("| {title} | {} |", cells.join(" | "));
    };
    row("a descriptor event", &|count| {
        // As many descriptors as that are more than a process may have.
        if count > 10_000 || raise_descriptor_limit(count as u64 + 100).is_err() {
            return None;
        }
        let context = context();
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let sources = (0..count).map(|_| ours.try_clone());
        let mut sources: Vec<_> = sources
            .map(|source| source.expect("a descriptor"))
            .collect();
        Some(weigh_each(count, || {
            let source = sources.pop().expect("there is one left");
            let event = context.add_fd(source, FdFlags::READ, |_, _, _| ());
            event.expect("an event")
        }))
    });
    row("an armed timer", &|count| {
        let context = context();
        let mut delay = 0;
        Some(weigh_each(count, || {
            // In no order.
            delay = (delay + 7_919) % 1_000_003;
            context.add_timer_after(Duration::from_secs(3_600 + delay), |_, _| ())
        }))
    });
    row("a scheduled immediate", &|count| {
        let context = context();
        Some(weigh_each(count, || {
            let immediate = context.add_immediate(|_, _| ());
            immediate.schedule();
            immediate
        }))
    });
    row("a deferred closure", &|count| {
        let context = context();
        Some(weigh_each(count, || context.defer(|_| ())))
    });
    row("a signal handler", &|count| {
        let context = context();
        Some(weigh_each(count, || {
            let event = context.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, |_, _, _| ());
            event.expect("an event")
        }))
    });
    row("a task", &|count| {
        let context = context();
        Some(weigh_each(count, || {
            context.spawn(std::future::pending::<()>())
        }))
    });
    drop(context()); // what is allocated once for the process
    let (bytes, context) = weigh(context);
    println!("| an idle context | {bytes} | | |");
    drop(context);
}
