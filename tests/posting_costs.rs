//! What posting costs in memory: in the long run nothing, and nothing is left behind.
//!
//! Allocations are counted for each thread, as the test harness has some of its own.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tevent::BackendKind;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes that this thread has allocated and not freed.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is done by the system's allocator, to which all arguments are passed on. The counters
// are neither initialised lazily nor dropped, so using them allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        HELD.set(HELD.get().wrapping_add(layout.size()));
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes in `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// What closures own.
trait Owned: Send + 'static {
    fn new(number: usize) -> Self;
    fn number(&self) -> usize;
}

impl<const N: usize> Owned for [usize; N] {
    fn new(number: usize) -> Self {
        [number; N]
    }

    fn number(&self) -> usize {
        self[N - 1]
    }
}

#[repr(align(32))]
struct Aligned(usize);

impl Owned for Aligned {
    fn new(number: usize) -> Self {
        Aligned(number)
    }

    fn number(&self) -> usize {
        self.0
    }
}

/// Posts so many closures that own a `T` each, runs them, and does so again. Returns how many
/// allocations that takes when there is memory from before.
fn allocations_for<T: Owned>(kind: BackendKind, count: usize) -> usize {
    thread_local!(static SUM: Cell<usize> = const { Cell::new(0) });
    let context = common::context(kind);
    let remote = context.remote();
    let post_and_run = || {
        SUM.set(0);
        for number in 0..count {
            let owned = T::new(number);
            assert!(remote.schedule(move |_| SUM.set(SUM.get() + owned.number())));
        }
        context.run().expect("nothing is left");
        assert_eq!(SUM.get(), count * (count - 1) / 2);
    };
    // How many blocks of places they lie in depends on where in a block they begin.
    (0..70).for_each(|_| post_and_run());
    allocations(|| (0..5).for_each(|_| post_and_run()))
}

fn small_closures_need_no_memory_in_the_long_run(kind: BackendKind) {
    // In many blocks of places, and in one or two.
    for count in [1000, 10] {
        assert_eq!(allocations_for::<[usize; 1]>(kind, count), 0);
        assert_eq!(
            allocations_for::<[usize; 6]>(kind, count),
            0,
            "48 bytes have room"
        );
    }
}

fn a_large_or_aligned_closure_takes_one_allocation(kind: BackendKind) {
    assert_eq!(allocations_for::<Aligned>(kind, 1000), 5 * 1000);
    assert_eq!(allocations_for::<[usize; 7]>(kind, 1000), 5 * 1000);
}

fn nothing_is_left_of_what_was_posted_when_all_is_gone(kind: BackendKind) {
    let mut held = None;
    // The first times make what is for the whole process.
    for round in 0..4 {
        let before = HELD.get();
        let context = common::context(kind);
        let remote = context.remote();
        for number in 0..1000usize {
            assert!(remote.schedule(move |_| assert!(number < 500)));
        }
        for _ in 0..500 {
            assert!(context.run_once().expect("a closure runs"));
        }
        drop(context);
        assert!(!remote.schedule(|_| ()));
        drop(remote);
        let left = HELD.get().wrapping_sub(before);
        if round > 1 {
            assert_eq!(left, 0, "bytes");
        }
        held = Some(left);
    }
    assert_eq!(held, Some(0));
}

on_every_backend![
    small_closures_need_no_memory_in_the_long_run,
    a_large_or_aligned_closure_takes_one_allocation,
    nothing_is_left_of_what_was_posted_when_all_is_gone,
];
