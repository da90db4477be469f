//! What all contestants use, so that they differ in nothing else: descriptors, a byte that is read
//! and written, random numbers that are drawn before the clock runs.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

/// Reads what there is, which is one byte.
#[inline(always)]
pub fn take(fd: RawFd) {
    let mut buffer = [0u8; 64];
    // SAFETY: the buffer is as long as it is said to be.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if count != 1 {
        misread(fd, count);
    }
}

/// Writes one byte.
#[inline(always)]
pub fn put(fd: RawFd) {
    // SAFETY: the buffer has the one byte.
    let count = unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) };
    if count != 1 {
        misread(fd, count);
    }
}

#[cold]
fn misread(fd: RawFd, count: isize) -> ! {
    let error = io::Error::last_os_error();
    panic!("descriptor {fd}: one byte was to be moved, not {count} ({error})")
}

/// Two connected sockets that don't block.
pub fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a socket pair");
    a.set_nonblocking(true).expect("non-blocking");
    b.set_nonblocking(true).expect("non-blocking");
    (a, b)
}

/// Pairs, some of which are ready to be read at their first end. The ready ones are spread evenly.
/// Who takes the byte from one puts the next into its other end, so that it stays ready.
pub fn pairs(ready: usize, registered: usize) -> Vec<(UnixStream, UnixStream)> {
    let pairs: Vec<_> = (0..registered).map(|_| pair()).collect();
    make_ready(&pairs, ready);
    pairs
}

/// Makes so many ready. Loops that register descriptors when they are about to wait first make a turn
/// without any that is ready: registering isn't what is measured.
pub fn make_ready(pairs: &[(UnixStream, UnixStream)], ready: usize) {
    for index in 0..ready {
        put(pairs[index * pairs.len() / ready].1.as_raw_fd());
    }
}

/// Lets the process have as many descriptors as it may.
pub fn raise_descriptor_limit(wanted: u64) -> Result<(), String> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given a valid structure.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    if !raised || limit.rlim_cur < wanted {
        return Err(format!(
            "{wanted} descriptors are needed, and the limit is {}: raise it (ulimit -Hn)",
            limit.rlim_cur
        ));
    }
    Ok(())
}

/// Counts operations, in the handlers, down to the last that is wanted. Some loops can't be stopped
/// before they have handled what they had found, so there may be a few more.
#[derive(Clone)]
pub struct Countdown {
    left: Rc<Cell<u64>>,
    wanted: u64,
}

impl Countdown {
    pub fn new(wanted: u64) -> Countdown {
        Countdown {
            left: Rc::new(Cell::new(wanted)),
            wanted,
        }
    }

    /// Counts one. Whether it was the last that is wanted.
    #[inline(always)]
    pub fn tick(&self) -> bool {
        let left = self.left.get().wrapping_sub(1);
        self.left.set(left);
        left == 0
    }

    pub fn done(&self) -> u64 {
        self.wanted.wrapping_sub(self.left.get())
    }
}

/// A generator of random numbers (SplitMix64). Every run gets the same ones.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        Random(0x7465_7665_6e74)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Values that were drawn before, in the contestant's own unit; drawing one costs next to nothing.
pub struct Drawn<T> {
    values: Vec<T>,
    next: usize,
}

const DRAWN: usize = 4096;

impl<T: Copy> Drawn<T> {
    pub fn new(mut draw: impl FnMut(&mut Random) -> T) -> Drawn<T> {
        let mut random = Random::new();
        Drawn {
            values: (0..DRAWN).map(|_| draw(&mut random)).collect(),
            next: 0,
        }
    }

    #[inline(always)]
    pub fn next(&mut self) -> T {
        let value = self.values[self.next % DRAWN];
        self.next += 1;
        value
    }
}

/// How far away a timer is that isn't to fire: one to two hours, in steps of a microsecond.
pub fn far(random: &mut Random) -> Duration {
    HOUR + Duration::from_micros(random.below(3_600_000_000))
}

pub const HOUR: Duration = Duration::from_secs(3600);

/// By how much later each postponement is than the one before.
pub const STEP: Duration = Duration::from_micros(100);

/// After what time a timer fires that is to: up to 50 ms.
pub fn near(random: &mut Random) -> Duration {
    Duration::from_micros(random.below(50_000))
}

/// After what time all timers of [`near`] are due.
pub const ALL_DUE: Duration = Duration::from_millis(51);

/// Raises the signal of the workload in this thread.
pub fn raise() {
    // SAFETY: there is a handler for it, or nobody is harmed but this process.
    let result = unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(result, 0, "the signal was raised");
}

/// What a posted closure does. It has brought a number along, as one that captures nothing would
/// need no memory.
pub fn count_post(called: &mut u64, number: u64) {
    *called += u64::from(std::hint::black_box(number) != u64::MAX);
}

type Post<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Closures from another thread, for the loops that have a way to be woken and no more.
pub struct Posts<T> {
    posted: Mutex<Vec<Post<T>>>,
}

impl<T> Default for Posts<T> {
    fn default() -> Posts<T> {
        Posts {
            posted: Mutex::default(),
        }
    }
}

impl<T> Posts<T> {
    /// Calls what was posted. The loop was woken.
    pub fn call_all(&self, state: &mut T) {
        let posted = std::mem::take(&mut *self.posted.lock().expect("no panic"));
        for closure in posted {
            closure(state);
        }
    }

    /// Adds a closure. Whether the loop has to be woken: it will look, if there were others.
    fn post(&self, closure: impl FnOnce(&mut T) + Send + 'static) -> bool {
        let mut posted = self.posted.lock().expect("no panic");
        posted.push(Box::new(closure));
        posted.len() == 1
    }
}

impl Posts<u64> {
    /// A thread posts closures that count, while this one runs the loop. Who waits at the barrier
    /// lets the thread begin.
    pub fn post_from_another_thread(
        &self,
        operations: u64,
        wake: impl Fn() + Sync,
        run_loop: impl FnOnce(&Barrier),
    ) {
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for number in 0..operations {
                    if self.post(move |called| count_post(called, number)) {
                        wake();
                    }
                }
            });
            run_loop(&start);
        });
    }
}
