//! How the outside gets a loop's attention: signal handlers, other threads, and `fork`.
//!
//! Every context claims a [`Doorbell`]. Whoever has something for it leaves that something where
//! the context will look (a count, a queue), then [rings](Doorbell::ring) with a bit that says
//! what. The loop reads [`Doorbell::attention`] before every handler, which is one load, and
//! writes [`Doorbell::fall_asleep`] before it blocks; only a sleeping loop is woken by a system
//! call, once.
//!
//! # Why nothing is missed
//!
//! The ringer sets its bit and *then* looks whether the loop sleeps; the loop says that it sleeps
//! and *then* looks for bits. All four are sequentially consistent, so at least one of the two
//! sees the other.
//!
//! # Why doorbells are never freed
//!
//! A signal handler walks the list of all doorbells at any moment, on any thread. So doorbells
//! are static: a context that goes gives its doorbell back, for the next one to claim. What a
//! handler must not touch any more (the descriptor number) is guarded by `users`: giving back
//! clears `interest`, then waits until no handler is inside, nor another thread that rings. The downside: a process that once had
//! a thousand contexts at a time keeps a thousand small doorbells.

use super::mailbox::{Arc, Mailbox, Places};
use super::siginfo::{Pushed, SigInfo, SigInfoQueue};
use super::wakeup;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed,
    Ordering::SeqCst,
};

/// Signals have arrived.
pub(crate) const SIGNAL: u32 = 1;
/// Another thread has scheduled something.
pub(crate) const REMOTE: u32 = 2;
/// The process has forked, and this is the child: what the kernel knows of the context is its
/// parent's.
pub(crate) const FORK: u32 = 4;

/// How many signal numbers there are: `SIGRTMAX` on Linux. (On MIPS that is 127, of which
/// [`Signum::new`](crate::Signum::new) refuses those above this.)
pub(super) const SIGNALS: usize = 64;

/// Far from any error number.
const FIRST_MARK: i32 = 0x0074_6576;

static PUBLISHED: AtomicI32 = AtomicI32::new(0);
static FIRST: AtomicPtr<Doorbell> = AtomicPtr::new(ptr::null_mut());

/// Where a context is reached from signal handlers, threads and `fork`.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Written once, before the doorbell is in the list.
    next: Option<&'static Doorbell>,
    /// What a signal carries in `si_errno`, which Linux leaves zero, that was sent on to this
    /// doorbell's context.
    pub(super) mark: i32,
    claimed: AtomicBool,
    attention: AtomicU32,
    asleep: AtomicBool,
    /// The number to write to for waking the loop.
    wakeup: AtomicI32,
    /// The kernel's id of the thread that the context belongs to.
    owner: AtomicI32,
    /// A bit for each signal that the context has handlers for; bit 0 is signal 1.
    interest: AtomicU64,
    /// How many signal handlers are between looking at `interest` and being done, and how many
    /// other threads are ringing.
    users: AtomicU32,
    /// What has to be brought in order in a forked child, or null. An `Arc` of ours.
    places: AtomicPtr<Places>,
    signals: OnceLock<Box<Arrivals>>,
}

/// The signals that came and were not taken yet. Exists once a context had a signal handler.
#[derive(Debug)]
struct Arrivals {
    /// A bit for each signal with a count.
    pending: AtomicU64,
    /// A bit for each signal whose siginfo is wanted.
    wants_info: AtomicU64,
    /// A bit for each signal that a handler has blocked on the context's thread, the queue being
    /// full.
    blocked: AtomicU64,
    counts: [AtomicU32; SIGNALS],
    queues: [OnceLock<Box<SigInfoQueue>>; SIGNALS],
}

/// What a signal handler has to do after it delivered to a doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivered {
    Done,
    /// The queue is full: block the signal if this is the context's thread.
    NowFull,
    /// There was no room: send it on to the context's thread, and block it if this is that one.
    Refused,
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn index(signal: i32) -> usize {
    (signal - 1) as usize
}

/// All doorbells, claimed or not. Async-signal-safe.
pub(super) fn all() -> impl Iterator<Item = &'static Doorbell> {
    // SAFETY: what FIRST points to was leaked before it was published (release) and is never
    // freed.
    let first: Option<&'static Doorbell> = unsafe { FIRST.load(Ordering::Acquire).as_ref() };
    std::iter::successors(first, |doorbell| doorbell.next)
}

/// How many there are, claimed or not.
#[cfg(test)]
pub(crate) fn count() -> usize {
    all().count()
}

impl Doorbell {
    /// Claims a doorbell for a context of this thread that is woken through `wakeup`.
    pub(crate) fn claim(wakeup: RawFd) -> &'static Doorbell {
        let free = all().find(|doorbell| {
            doorbell
                .claimed
                .compare_exchange(false, true, SeqCst, Relaxed)
                .is_ok()
        });
        let doorbell = free.unwrap_or_else(Doorbell::publish);
        doorbell.attention.store(0, SeqCst);
        doorbell.owner.store(super::fork::thread_id(), SeqCst);
        doorbell.wakeup.store(wakeup, SeqCst);
        // Nobody is running the loop yet; whoever polls its descriptor is to be woken.
        doorbell.asleep.store(true, SeqCst);
        doorbell
    }

    fn publish() -> &'static Doorbell {
        let doorbell = Box::leak(Box::new(Doorbell {
            next: None,
            mark: FIRST_MARK.wrapping_add(PUBLISHED.fetch_add(1, Relaxed)),
            claimed: AtomicBool::new(true),
            attention: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            wakeup: AtomicI32::new(-1),
            owner: AtomicI32::new(0),
            interest: AtomicU64::new(0),
            users: AtomicU32::new(0),
            places: AtomicPtr::new(ptr::null_mut()),
            signals: OnceLock::new(),
        }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            // SAFETY: as in `all`.
            doorbell.next = unsafe { first.as_ref() };
            match FIRST.compare_exchange(first, doorbell, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return doorbell,
                Err(current) => first = current,
            }
        }
    }

    /// Gives the doorbell back. Afterwards no signal handler touches the wake-up descriptor, so
    /// it may be closed. The caller has told remote handles before that the context is gone.
    pub(crate) fn release(&'static self) {
        self.interest.store(0, SeqCst);
        self.replace_places(None);
        self.wait_for_users();
        self.wakeup.store(-1, SeqCst);
        self.asleep.store(false, SeqCst);
        self.forget_arrivals();
        if let Some(arrivals) = self.signals.get() {
            arrivals.wants_info.store(0, SeqCst);
        }
        self.claimed.store(false, SeqCst);
    }

    /// Has a mailbox brought in order in forked children, until the doorbell is
    /// [given back](Doorbell::release).
    pub(crate) fn tell_of_forks<A>(&self, mailbox: &Mailbox<A>) {
        self.replace_places(Some(mailbox.places()));
    }

    fn replace_places(&self, places: Option<Arc<Places>>) {
        let places = places.map_or(ptr::null(), Arc::into_raw);
        let former = self.places.swap(places.cast_mut(), SeqCst);
        if !former.is_null() {
            // SAFETY: it came from `into_raw`, here. `enter_child` doesn't see it any more, nor
            // did it begin to while this runs: it is alone in its process.
            drop(unsafe { Arc::from_raw(former.cast_const()) });
        }
    }

    /// What asks for attention: [`SIGNAL`], [`REMOTE`], [`FORK`].
    #[inline]
    pub(crate) fn attention(&self) -> u32 {
        self.attention.load(Ordering::Acquire)
    }

    /// Whether nothing asks for attention, as far as this thread has heard; for a turn that leaves
    /// the rest to one that asks for [`attention`](Doorbell::attention).
    #[inline(always)]
    pub(crate) fn is_quiet(&self) -> bool {
        self.attention.load(Relaxed) == 0
    }

    /// Whether `bits` were rung, not attended to yet, and the loop is awake. For those who have something
    /// to announce: if so, whoever attends finds it. (Who has rung a sleeping loop may have done so for a
    /// former context, and not wake this one.)
    #[inline]
    pub(crate) fn is_ringing(&self, bits: u32) -> bool {
        self.attention.load(SeqCst) & bits == bits && !self.asleep.load(SeqCst)
    }

    /// Says that what `bits` announced is about to be looked at.
    pub(crate) fn attend(&self, bits: u32) {
        self.attention.fetch_and(!bits, SeqCst);
    }

    /// Gets the loop's attention, waking it if it sleeps. Async-signal-safe.
    pub(crate) fn ring(&self, bits: u32) {
        self.attention.fetch_or(bits, SeqCst);
        // Loading is much cheaper than swapping, and mostly the loop is awake.
        if self.asleep.load(SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if self.asleep.swap(false, SeqCst) {
            wakeup::signal(self.wakeup.load(SeqCst));
        }
    }

    /// Rings for another thread, if the context is there still, which `is_there` knows. Whoever
    /// makes that false and then [releases](Doorbell::release) the doorbell waits for those inside.
    pub(crate) fn ring_if(&self, bits: u32, is_there: impl FnOnce() -> bool) {
        // Should the context be gone, another one looks for nothing, and goes on.
        self.attention.fetch_or(bits, SeqCst);
        if !self.asleep.load(SeqCst) {
            return;
        }
        self.users.fetch_add(1, SeqCst);
        if is_there() {
            self.wake();
        }
        // A signal handler may have forked meanwhile, and in its child nobody counts as a user.
        let leave = |users: u32| users.checked_sub(1);
        let _ = self.users.fetch_update(SeqCst, SeqCst, leave);
    }

    /// Announces that the loop is about to block. Returns false when something asks for
    /// attention already, so that it must not.
    #[inline]
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, SeqCst);
        self.attention.load(SeqCst) == 0
    }

    /// Says that the loop looks by itself again.
    #[inline]
    pub(crate) fn stay_awake(&self) {
        self.asleep.store(false, Relaxed);
    }

    /// The loop is left to somebody who polls its descriptor. In a forked child that is the
    /// parent's until the context has reopened it, which ends with a call of this.
    pub(crate) fn leave(&self) {
        if self.attention() & FORK == 0 && !self.fall_asleep() {
            // As if rung now: the descriptor has to be readable.
            self.ring(0);
        }
    }

    /// Starts to count a signal. The caller installs the handler.
    pub(super) fn subscribe(&self, signal: i32) {
        self.arrivals();
        self.interest.fetch_or(bit(signal), SeqCst);
    }

    /// Starts or stops to queue the siginfo of a signal.
    pub(crate) fn want_info(&self, signal: i32, wanted: bool) {
        let arrivals = self.arrivals();
        if wanted {
            arrivals.queues[index(signal)].get_or_init(SigInfoQueue::new);
            arrivals.wants_info.fetch_or(bit(signal), SeqCst);
        } else {
            arrivals.wants_info.fetch_and(!bit(signal), SeqCst);
        }
    }

    /// Stops counting a signal, and forgets those that came.
    pub(super) fn unsubscribe(&self, signal: i32) {
        self.interest.fetch_and(!bit(signal), SeqCst);
        self.wait_for_users();
        if let Some(arrivals) = self.signals.get() {
            arrivals.wants_info.fetch_and(!bit(signal), SeqCst);
            arrivals.pending.fetch_and(!bit(signal), SeqCst);
            arrivals.counts[index(signal)].store(0, SeqCst);
            while self.take_info(signal).is_some() {}
        }
    }

    pub(super) fn is_subscribed(&self, signal: i32) -> bool {
        self.interest.load(SeqCst) & bit(signal) != 0
    }

    /// The signals that have come, one bit each; bit 0 is signal 1.
    pub(crate) fn pending_signals(&self) -> u64 {
        self.signals
            .get()
            .map_or(0, |arrivals| arrivals.pending.load(SeqCst))
    }

    /// Takes the count of a signal.
    pub(crate) fn take_count(&self, signal: i32) -> u32 {
        match self.signals.get() {
            Some(arrivals) => {
                // In this order: one that comes in between is counted, and is pending again.
                arrivals.pending.fetch_and(!bit(signal), SeqCst);
                arrivals.counts[index(signal)].swap(0, SeqCst)
            }
            None => 0,
        }
    }

    /// Takes the oldest queued siginfo of a signal.
    pub(crate) fn take_info(&self, signal: i32) -> Option<SigInfo> {
        self.signals.get()?.queues[index(signal)].get()?.pop()
    }

    /// Whether a handler blocked this signal on the context's thread because the queue was full;
    /// the caller unblocks it.
    pub(super) fn take_blocked(&self, signal: i32) -> bool {
        self.signals.get().is_some_and(|arrivals| {
            arrivals.blocked.fetch_and(!bit(signal), SeqCst) & bit(signal) != 0
        })
    }

    pub(super) fn set_blocked(&self, signal: i32) {
        self.arrivals().blocked.fetch_or(bit(signal), SeqCst);
    }

    pub(super) fn owner(&self) -> i32 {
        self.owner.load(SeqCst)
    }

    /// Counts a signal for this context, if it wants it, and wakes the loop. Async-signal-safe.
    pub(super) fn deliver(&self, signal: i32, info: &libc::siginfo_t) -> Delivered {
        if !self.is_subscribed(signal) {
            return Delivered::Done;
        }
        self.with_arrivals(signal, |arrivals| {
            arrivals.counts[index(signal)].fetch_add(1, SeqCst);
            let delivered = arrivals.queue(signal, info);
            arrivals.pending.fetch_or(bit(signal), SeqCst);
            delivered
        })
    }

    /// Queues a signal that was sent on to this context because its queue was full; it was counted
    /// when it came first. Async-signal-safe.
    pub(super) fn deliver_forwarded(&self, signal: i32, info: &libc::siginfo_t) -> Delivered {
        self.with_arrivals(signal, |arrivals| {
            let delivered = arrivals.queue(signal, info);
            arrivals.pending.fetch_or(bit(signal), SeqCst);
            delivered
        })
    }

    /// As [`deliver_forwarded`](Doorbell::deliver_forwarded), when nobody but this thread, which is
    /// the context's, could make room. Async-signal-safe.
    pub(super) fn deliver_beyond_capacity(&self, signal: i32, info: &libc::siginfo_t) {
        self.with_arrivals(signal, |arrivals| {
            if let Some(queue) = arrivals.queues[index(signal)].get() {
                queue.push_beyond_capacity(SigInfo::from_raw(*info));
            }
            arrivals.pending.fetch_or(bit(signal), SeqCst);
            Delivered::Done
        });
    }

    fn with_arrivals(&self, signal: i32, record: impl FnOnce(&Arrivals) -> Delivered) -> Delivered {
        self.users.fetch_add(1, SeqCst);
        let mut delivered = Delivered::Done;
        // Looked at again, as a user: from here on `release` waits for us.
        if let Some(arrivals) = self.signals.get().filter(|_| self.is_subscribed(signal)) {
            delivered = record(arrivals);
            self.ring(SIGNAL);
        }
        self.users.fetch_sub(1, SeqCst);
        delivered
    }

    fn wait_for_users(&self) {
        // Users are quick and no new one gets in, so this is a matter of instants even when
        // one was preempted. Ours is no user: a handler on this thread ends before we go on.
        while self.users.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    fn arrivals(&self) -> &Arrivals {
        self.signals.get_or_init(|| {
            Box::new(Arrivals {
                pending: AtomicU64::new(0),
                wants_info: AtomicU64::new(0),
                blocked: AtomicU64::new(0),
                counts: [const { AtomicU32::new(0) }; SIGNALS],
                queues: [const { OnceLock::new() }; SIGNALS],
            })
        })
    }

    fn forget_arrivals(&self) {
        let Some(arrivals) = self.signals.get() else {
            return;
        };
        arrivals.pending.store(0, SeqCst);
        for count in &arrivals.counts {
            count.store(0, SeqCst);
        }
        for queue in arrivals.queues.iter().filter_map(OnceLock::get) {
            queue.reset();
        }
    }

    /// In a forked child, called by `pthread_atfork`: the child's only thread is the one that
    /// forked, no handler is at work, and signals are blocked. Async-signal-safe.
    pub(super) fn enter_child(&self, forking_thread: i32) {
        self.users.store(0, SeqCst);
        // The wake-up descriptor is shared with the parent until the context reopens it.
        self.asleep.store(false, SeqCst);
        // What came before the fork was sent to the parent, which has its own copy of it.
        self.forget_arrivals();
        self.attention.fetch_and(!SIGNAL, SeqCst);
        self.attention.fetch_or(FORK, SeqCst);
        // SAFETY: it is ours, so it is there; and whoever was about to replace it isn't in this
        // process.
        if let Some(places) = unsafe { self.places.load(SeqCst).as_ref() } {
            places.enter_child();
        }
        if self.owner() == forking_thread {
            self.owner.store(super::fork::thread_id(), SeqCst);
        } else {
            // Its thread, and with it its context, doesn't exist here.
            self.interest.store(0, SeqCst);
        }
    }
}

impl Arrivals {
    fn queue(&self, signal: i32, info: &libc::siginfo_t) -> Delivered {
        if self.wants_info.load(SeqCst) & bit(signal) == 0 {
            return Delivered::Done;
        }
        let Some(queue) = self.queues[index(signal)].get() else {
            return Delivered::Done;
        };
        match queue.push(SigInfo::from_raw(*info)) {
            Pushed::Stored => Delivered::Done,
            Pushed::StoredLast => Delivered::NowFull,
            Pushed::NoRoom => Delivered::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wakeup::Wakeup;
    use super::*;

    #[test]
    fn one_that_was_given_back_is_claimed_again() {
        let before = all().count();
        for _ in 0..100 {
            let wakeup = Wakeup::new().expect("a descriptor");
            Doorbell::claim(wakeup.write_number()).release();
        }
        // Other tests may have claimed a few meanwhile.
        assert!(all().count() < before + 100);
    }

    #[test]
    fn giving_back_waits_for_whoever_rings() {
        let wakeup = Wakeup::new().expect("a descriptor");
        let doorbell = Doorbell::claim(wakeup.write_number());
        let [is_inside, is_over, has_left] = [const { AtomicBool::new(false) }; 3];
        let wait_for = |flag: &AtomicBool| {
            while !flag.load(SeqCst) {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                doorbell.ring_if(REMOTE, || {
                    is_inside.store(true, SeqCst);
                    wait_for(&is_over);
                    // Gives the other thread a chance to be wrong.
                    (0..1000).for_each(|_| std::thread::yield_now());
                    has_left.store(true, SeqCst);
                    false
                });
            });
            wait_for(&is_inside);
            is_over.store(true, SeqCst);
            doorbell.release();
            assert!(has_left.load(SeqCst));
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_rings_first_wakes_a_sleeping_loop_and_nobody_else_does() {
        use std::io::Read;
        let wakeup = Wakeup::new().expect("a descriptor");
        let doorbell = Doorbell::claim(wakeup.write_number());
        // An eventfd's value is how often 1 was written to it.
        let value = || {
            let mut bytes = [0; 8];
            let fd = wakeup.fd().try_clone().expect("a descriptor");
            match std::fs::File::from(fd).read_exact(&mut bytes) {
                Ok(()) => u64::from_ne_bytes(bytes),
                Err(_) => 0,
            }
        };
        for _ in 0..2 {
            assert!(doorbell.fall_asleep());
            doorbell.ring(SIGNAL);
            doorbell.ring(REMOTE);
            assert_eq!((doorbell.attention(), value()), (SIGNAL | REMOTE, 1));
            doorbell.attend(SIGNAL);
            assert!(!doorbell.fall_asleep(), "there is something left");
            doorbell.attend(REMOTE);
            doorbell.stay_awake();
            doorbell.ring(SIGNAL);
            assert_eq!((doorbell.attention(), value()), (SIGNAL, 0));
            doorbell.attend(SIGNAL);
        }
        doorbell.release();
    }

    /// A sender to a context that is gone rings the one that has its doorbell now.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_late_ring_for_a_former_context_keeps_nobody_from_waking_the_present_one() {
        use std::io::Read;
        let wakeup = Wakeup::new().expect("a descriptor");
        let doorbell = Doorbell::claim(wakeup.write_number());
        assert!(doorbell.fall_asleep());
        // The former context's sender, whose mailbox is closed.
        doorbell.ring_if(REMOTE, || false);
        // What Remote::schedule does for the present context.
        if !doorbell.is_ringing(REMOTE) {
            doorbell.ring_if(REMOTE, || true);
        }
        let mut bytes = [0; 8];
        let fd = wakeup.fd().try_clone().expect("a descriptor");
        let woken = std::fs::File::from(fd).read_exact(&mut bytes).is_ok();
        doorbell.release();
        assert!(woken, "the sleeping loop was not woken");
    }
}
