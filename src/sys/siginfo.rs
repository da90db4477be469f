//! What the kernel tells about one signal, and the queue in which it waits for the loop.

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the kernel tells about one signal (`siginfo_t` of `sigaction(2)`).
///
/// ```
/// use tevent::{Context, SignalFlags, Signum};
///
/// # fn main() -> std::io::Result<()> {
/// let context = Context::new()?;
/// let _signal = context.add_signal(Signum::SIGUSR1, SignalFlags::SIGINFO, |context, _, info| {
///     let siginfo = info.siginfo.expect("asked for");
///     assert_eq!(siginfo.sender_pid(), Some(std::process::id()));
///     context.stop();
/// })?;
/// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
/// raise(Signum::SIGUSR1.number());
/// context.run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct SigInfo(libc::siginfo_t);

// `siginfo_t` holds a pointer that nobody follows here.
// SAFETY: the structure is plain data that the kernel copied to us.
unsafe impl Send for SigInfo {}
// SAFETY: as above; nothing in it can be changed through a shared reference.
unsafe impl Sync for SigInfo {}

impl SigInfo {
    /// The number of the signal.
    pub fn number(&self) -> i32 {
        self.0.si_signo
    }

    /// Why the signal was sent (`si_code`), such as `SI_USER` or `CLD_EXITED`.
    #[doc(alias = "si_code")]
    pub fn code(&self) -> i32 {
        self.0.si_code
    }

    /// The process that sent the signal, or the child it is about; `None` when neither a process
    /// nor a child is behind it.
    #[doc(alias = "si_pid")]
    pub fn sender_pid(&self) -> Option<u32> {
        // SAFETY: the kernel filled in these fields for these codes.
        self.is_from_process()
            .then(|| unsafe { self.0.si_pid() } as u32)
    }

    /// The real user id of that process.
    #[doc(alias = "si_uid")]
    pub fn sender_uid(&self) -> Option<u32> {
        // SAFETY: as for `sender_pid`.
        self.is_from_process().then(|| unsafe { self.0.si_uid() })
    }

    /// For `SIGCHLD`: the exit code of the child, or the signal that ended, stopped or continued
    /// it.
    #[doc(alias = "si_status")]
    pub fn child_status(&self) -> Option<i32> {
        let code = self.0.si_code;
        // SAFETY: a positive code of a SIGCHLD that nobody has sent is one of CLD_*, with which the
        // kernel fills it in.
        (self.0.si_signo == libc::SIGCHLD && code > 0 && !code::is_sent(code))
            .then(|| unsafe { self.0.si_status() })
    }

    /// The value that was sent along by `sigqueue(3)`, as an integer as wide as a pointer.
    #[doc(alias = "si_value")]
    pub fn value(&self) -> Option<usize> {
        // SAFETY: sigqueue() fills it in under this code. It is read as a number only.
        (self.0.si_code == code::SI_QUEUE).then(|| unsafe { self.0.si_value() }.sival_ptr as usize)
    }

    fn is_from_process(&self) -> bool {
        code::is_sent(self.0.si_code) || self.0.si_signo == libc::SIGCHLD
    }

    /// Copies what the kernel handed to a signal handler.
    pub(super) fn from_raw(raw: libc::siginfo_t) -> SigInfo {
        SigInfo(raw)
    }
}

impl fmt::Debug for SigInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigInfo")
            .field("number", &self.number())
            .field("code", &self.code())
            .field("sender_pid", &self.sender_pid())
            .field("sender_uid", &self.sender_uid())
            .field("child_status", &self.child_status())
            .field("value", &self.value())
            .finish()
    }
}

/// The values of `si_code` that concern every signal. Not all systems' are in the libc crate.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod code {
    pub(super) use libc::SI_QUEUE;

    /// Whether a process has sent it. `SI_USER` is 0; the codes that processes send with are not
    /// above it. A timer's isn't among them.
    pub(super) fn is_sent(code: i32) -> bool {
        code <= 0 && code != libc::SI_TIMER
    }
}

#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
mod code {
    const SI_USER: i32 = 0x1_0001;
    pub(super) const SI_QUEUE: i32 = 0x1_0002;
    /// Of a signal that was sent to one thread; FreeBSD's alone.
    const SI_LWP: i32 = 0x1_0007;

    /// Whether a process has sent it. The kernel of macOS says 0, whatever its headers say; for
    /// FreeBSD's that is a code of which nothing is known.
    pub(super) fn is_sent(code: i32) -> bool {
        match code {
            SI_USER | SI_QUEUE => true,
            SI_LWP => cfg!(target_os = "freebsd"),
            0 => cfg!(not(target_os = "freebsd")),
            _ => false,
        }
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd"
)))]
mod code {
    // NetBSD and DragonFly count as Linux does; OpenBSD, illumos and Solaris have SI_LWP before.
    pub(super) const SI_QUEUE: i32 = match cfg!(any(
        target_os = "openbsd",
        target_os = "illumos",
        target_os = "solaris"
    )) {
        true => -2,
        false => -1,
    };
    const SI_TIMER: i32 = SI_QUEUE - 1;

    /// Whether a process has sent it: `SI_USER` is 0, and what isn't above it, but a timer.
    pub(super) fn is_sent(code: i32) -> bool {
        code <= 0 && code != SI_TIMER
    }
}

/// How many signals of one number wait for the loop before the signal is blocked.
///
/// As in tevent (`TEVENT_SA_INFO_QUEUE_COUNT`).
const CAPACITY: usize = 256;

struct Place {
    info: UnsafeCell<MaybeUninit<SigInfo>>,
    /// Set by the producer when `info` is complete, cleared by the consumer when it was read.
    full: AtomicBool,
}

/// Beyond the capacity there are places for the loop's own thread, when the kernel has no room
/// either. It blocks the signal after each, so that few are ever used. The sum is a power of two,
/// so that `head` and `tail` may overflow.
pub(crate) const PLACES: usize = 2 * CAPACITY;

/// A bounded queue from signal handlers, on any threads and interrupting each other, to one loop.
///
/// `head` counts the places taken by producers, `tail` those given back by the consumer;
/// `head - tail` never exceeds [`PLACES`].
pub(crate) struct SigInfoQueue {
    places: [Place; PLACES],
    head: AtomicUsize,
    tail: AtomicUsize,
}

// SAFETY: a place belongs to the producer that advanced `head` over it until that producer sets
// `full` (release), then to the single consumer until it advances `tail` over it (release).
unsafe impl Sync for SigInfoQueue {}
// SAFETY: it holds plain data.
unsafe impl Send for SigInfoQueue {}

impl fmt::Debug for SigInfoQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigInfoQueue")
            .finish_non_exhaustive()
    }
}

/// What became of a signal that was to be queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pushed {
    Stored,
    /// It took the last place, or one beyond the capacity.
    StoredLast,
    NoRoom,
}

impl SigInfoQueue {
    pub(super) fn new() -> Box<SigInfoQueue> {
        Box::new(SigInfoQueue {
            places: [const {
                Place {
                    info: UnsafeCell::new(MaybeUninit::uninit()),
                    full: AtomicBool::new(false),
                }
            }; PLACES],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        })
    }

    /// Async-signal-safe: never blocks, never allocates.
    pub(super) fn push(&self, info: SigInfo) -> Pushed {
        self.push_below(CAPACITY, info)
    }

    /// Uses the places beyond the capacity too.
    pub(super) fn push_beyond_capacity(&self, info: SigInfo) -> Pushed {
        self.push_below(PLACES, info)
    }

    fn push_below(&self, limit: usize, info: SigInfo) -> Pushed {
        let mut head = self.head.load(Ordering::Relaxed);
        let taken = loop {
            let taken = head.wrapping_sub(self.tail.load(Ordering::Acquire));
            if taken >= limit {
                return Pushed::NoRoom;
            }
            match self.head.compare_exchange_weak(
                head,
                head.wrapping_add(1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break taken + 1,
                Err(current) => head = current,
            }
        };
        let place = &self.places[head % PLACES];
        // SAFETY: this producer alone advanced `head` over the place, and the consumer keeps off
        // it until `full` is set.
        unsafe { (*place.info.get()).write(info) };
        place.full.store(true, Ordering::Release);
        if taken >= CAPACITY {
            Pushed::StoredLast
        } else {
            Pushed::Stored
        }
    }

    /// Takes the oldest one. Only the thread of the loop may call this.
    pub(super) fn pop(&self) -> Option<SigInfo> {
        let tail = self.tail.load(Ordering::Relaxed);
        let place = &self.places[tail % PLACES];
        if !place.full.load(Ordering::Acquire) {
            // Empty, or its producer was interrupted half-way and will ring when it is done.
            return None;
        }
        // SAFETY: `full` says that its producer has written it and is done with it.
        let info = unsafe { (*place.info.get()).assume_init() };
        place.full.store(false, Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Some(info)
    }

    /// Empties the queue while no producer is at work: in a forked child's only thread.
    pub(super) fn reset(&self) {
        for place in &self.places {
            place.full.store(false, Ordering::Relaxed);
        }
        self.tail
            .store(self.head.load(Ordering::Relaxed), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(number: i32) -> SigInfo {
        // SAFETY: all zeroes is a valid siginfo_t.
        let mut raw: libc::siginfo_t = unsafe { std::mem::zeroed() };
        raw.si_signo = number;
        SigInfo(raw)
    }

    /// The beginning of `siginfo_t`, as Linux lays it out on most machines.
    #[cfg(all(target_os = "linux", not(target_arch = "mips64")))]
    #[repr(C)]
    struct Beginning {
        signal: i32,
        errno: i32,
        code: i32,
        sender: Sender,
    }

    /// As aligned as the pointer that `si_value` may hold.
    #[cfg(all(target_os = "linux", not(target_arch = "mips64")))]
    #[repr(C)]
    struct Sender {
        pid: i32,
        uid: u32,
        status: i32,
        alignment: [usize; 0],
    }

    #[cfg(all(target_os = "linux", not(target_arch = "mips64")))]
    fn sent(signal: i32, code: i32) -> SigInfo {
        let mut info = info(0);
        let sender = Sender {
            pid: 4711,
            uid: 1001,
            status: 42,
            alignment: [],
        };
        let beginning = Beginning {
            signal,
            errno: 0,
            code,
            sender,
        };
        // SAFETY: siginfo_t is larger, as aligned, and any bytes are valid in it.
        unsafe { (&raw mut info.0).cast::<Beginning>().write(beginning) };
        info
    }

    #[test]
    #[cfg(all(target_os = "linux", not(target_arch = "mips64")))]
    fn the_code_says_what_else_is_known() {
        const SI_KERNEL: i32 = 0x80;
        // What is known of the sender, of the child, and whether there is a value.
        let known = |signal: i32, code: i32| {
            let info = sent(signal, code);
            assert_eq!((info.number(), info.code()), (signal, code));
            let sender = info.sender_pid().zip(info.sender_uid());
            (sender, info.child_status(), info.value().is_some())
        };
        let sender = Some((4711, 1001));
        assert_eq!(known(libc::SIGUSR1, libc::SI_USER), (sender, None, false));
        assert_eq!(known(libc::SIGUSR1, libc::SI_TKILL), (sender, None, false));
        assert_eq!(known(libc::SIGUSR1, libc::SI_QUEUE), (sender, None, true));
        assert_eq!(known(libc::SIGALRM, libc::SI_TIMER), (None, None, false));
        assert_eq!(known(libc::SIGALRM, SI_KERNEL), (None, None, false));
        let of_child = (sender, Some(42), false);
        assert_eq!(known(libc::SIGCHLD, libc::CLD_EXITED), of_child);
        // Somebody has sent it with kill().
        assert_eq!(known(libc::SIGCHLD, libc::SI_USER), (sender, None, false));
        assert_eq!(known(libc::SIGUSR1, libc::CLD_EXITED), (None, None, false));
    }

    #[test]
    #[cfg(all(target_os = "linux", not(target_arch = "mips64")))]
    fn what_is_known_is_in_the_debug_output() {
        let said = format!("{:?}", sent(libc::SIGCHLD, libc::CLD_EXITED));
        let expected = format!(
            "SigInfo {{ number: {}, code: {}, sender_pid: Some(4711), sender_uid: Some(1001), \
             child_status: Some(42), value: None }}",
            libc::SIGCHLD,
            libc::CLD_EXITED
        );
        assert_eq!(said, expected);
        let queue = SigInfoQueue::new();
        assert_eq!(format!("{queue:?}"), "SigInfoQueue { .. }");
    }

    #[test]
    fn is_first_in_first_out_and_says_when_it_is_full() {
        let queue = SigInfoQueue::new();
        for round in 0..3 {
            assert!(queue.pop().is_none());
            for number in 1..CAPACITY as i32 {
                assert_eq!(queue.push(info(number + round)), Pushed::Stored);
            }
            assert_eq!(queue.push(info(1000)), Pushed::StoredLast);
            assert_eq!(queue.push(info(1001)), Pushed::NoRoom);
            for number in 1..CAPACITY as i32 {
                assert_eq!(queue.pop().unwrap().number(), number + round);
            }
            assert_eq!(queue.pop().unwrap().number(), 1000);
        }
        queue.push(info(1));
        queue.reset();
        assert!(queue.pop().is_none());
    }

    #[test]
    fn has_places_beyond_its_capacity_for_those_who_may() {
        let queue = SigInfoQueue::new();
        for number in 0..CAPACITY as i32 {
            queue.push(info(number));
        }
        assert_eq!(queue.push(info(-1)), Pushed::NoRoom);
        for number in CAPACITY..PLACES {
            let pushed = queue.push_beyond_capacity(info(number as i32));
            assert_eq!(pushed, Pushed::StoredLast);
        }
        assert_eq!(queue.push_beyond_capacity(info(-1)), Pushed::NoRoom);
        for number in 0..PLACES as i32 {
            assert_eq!(queue.pop().map(|info| info.number()), Some(number));
        }
        assert!(queue.pop().is_none());
    }

    #[test]
    fn loses_nothing_between_threads() {
        let queue = SigInfoQueue::new();
        let mut sum = 0u64;
        let mut count = 0;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for number in 0..10_000 {
                        while queue.push(info(number)) == Pushed::NoRoom {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            while count < 30_000 {
                match queue.pop() {
                    Some(info) => {
                        sum += info.number() as u64;
                        count += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        assert_eq!(sum, 3 * (0..10_000u64).sum::<u64>());
        assert!(queue.pop().is_none());
    }
}
