//! What wakes and polls on the loop's own thread cost: no allocation, which this counts, and no
//! system call, which `.ci/syscalls` counts by strace.
//!
//! Without the test harness, whose threads allocate. The first argument is the number of wakes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use tevent::{Context, FdFlags, Task, yield_now};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator, to which all arguments are passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations `work` makes.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Where two tasks leave their wakers for each other.
#[derive(Default)]
struct Ball {
    wakers: [Cell<Option<Waker>>; 2],
    left: Cell<usize>,
}

impl Ball {
    /// Wakes the other one whenever it is woken.
    fn player(self: Rc<Self>, side: usize) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if self.left.get() == 0 {
                return Poll::Pending;
            }
            self.left.set(self.left.get() - 1);
            self.wakers[side].set(Some(context.waker().clone()));
            if let Some(other) = self.wakers[1 - side].take() {
                other.wake_by_ref();
                self.wakers[1 - side].set(Some(other));
            }
            Poll::Pending
        })
    }
}

fn main() {
    let wakes = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .unwrap_or(100_000);
    // Else the loop looks at descriptors after so many immediates, by a system call.
    let builder = Context::builder().starvation_budget(None);
    let context = builder.build().expect("a context");
    tasks_that_wake_each_other_allocate_nothing(&context, wakes);
    a_future_that_is_blocked_on_allocates_nothing_for_a_wake(&context, wakes);
    if std::env::args().nth(2).is_none() {
        awaiting_a_descriptor_again_allocates_nothing(&context);
    }
    println!("wakes: {wakes}");
}

fn tasks_that_wake_each_other_allocate_nothing(context: &Context, wakes: usize) {
    let ball = Rc::new(Ball::default());
    ball.left.set(2);
    let players: Vec<Task<()>> = [0, 1]
        .map(|side| context.spawn(Rc::clone(&ball).player(side)))
        .into();
    context.run().expect("the tasks wait");
    assert_eq!(ball.left.get(), 0, "both have left their wakers");
    ball.left.set(wakes);
    let begin = ball.wakers[0].take().expect("its waker");
    let count = allocations(|| {
        begin.wake();
        context.run().expect("the ball is at rest");
    });
    assert_eq!(ball.left.get(), 0, "every wake was a poll");
    assert_eq!(count, 0, "allocations for {wakes} wakes");
    drop(players);
}

fn a_future_that_is_blocked_on_allocates_nothing_for_a_wake(context: &Context, wakes: usize) {
    let mut count = 0;
    let yielding = async {
        yield_now().await;
        for _ in 0..wakes {
            yield_now().await;
        }
    };
    let result = context.block_on(async {
        yield_now().await;
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        yielding.await;
        count = ALLOCATIONS.load(Ordering::Relaxed) - before;
    });
    result.expect("it yields only");
    assert_eq!(count, 0, "allocations for {wakes} wakes");
}

fn awaiting_a_descriptor_again_allocates_nothing(context: &Context) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    theirs.set_nonblocking(true).expect("a socket");
    let theirs = context.add_async_fd(theirs).expect("it can be watched");
    let mut buffer = [0; 4];
    let mut count = 0;
    let result = context.block_on(async {
        for round in 0..1000 {
            if round == 2 {
                count = ALLOCATIONS.load(Ordering::Relaxed);
            }
            (&ours).write_all(b"x").expect("there is room");
            theirs.ready(FdFlags::READ).await.expect("it is watched");
            theirs
                .get_ref()
                .read_exact(&mut buffer[..1])
                .expect("a byte");
        }
        ALLOCATIONS.load(Ordering::Relaxed) - count
    });
    assert_eq!(result.expect("it waits"), 0, "allocations for 998 waits");
}
