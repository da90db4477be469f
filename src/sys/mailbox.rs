//! A queue to which any thread posts jobs without a lock, and from which one takes them.
//!
//! # Implementation
//!
//! Jobs lie in [`Block`]s of places, which form a list. A place has a number, and so has the end of
//! each block, which is no place. A sender takes the next number by compare-and-swap, writes its job
//! into the place, and then says in the place's state that it is there. So senders are in each
//! other's way for one instruction, and the receiver finds jobs side by side in memory, in order.
//! Used blocks are kept for senders to use again: in the long run nothing is allocated.
//!
//! Who takes the last place of a block puts the next block behind it, and then goes over the
//! number of the block's end; senders who find that number wait for this, which is a matter of a
//! few instructions. Only one sender at a time does so, which is why the stack of spare blocks has no
//! ABA problem. The receiver lets go of a block when it has taken the job of the last place, so
//! nobody is writing in it any more.
//!
//! The lowest bit of the numbers' word says that the mailbox is closed.
//!
//! # After a fork
//!
//! In a child, other threads are gone in the middle of whatever they did. What they had taken a place
//! for never comes: [`enter_child`](Places::enter_child), called by `pthread_atfork`, marks such
//! places as [`abandoned`], and brings the end of a block in order.

#[cfg(all(test, tevent_loom))]
mod models;
#[cfg(all(test, not(tevent_loom)))]
mod tests;

use super::job::{self, Functions, Job, Rest};
use std::array;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::ptr::{self, NonNull};

// `.ci/loom` runs the models below under loom, which tries every order of what the threads do.
#[cfg(all(test, tevent_loom))]
pub(super) use loom::sync::Arc;
#[cfg(not(all(test, tevent_loom)))]
pub(super) use std::sync::Arc;

#[cfg(all(test, tevent_loom))]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
    thread::yield_now,
};
#[cfg(not(all(test, tevent_loom)))]
use std::{
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
    thread::yield_now,
};
#[cfg(not(all(test, tevent_loom)))]
use unchecked::UnsafeCell;

/// What [`loom::cell::UnsafeCell`] checks, unchecked.
#[cfg(not(all(test, tevent_loom)))]
mod unchecked {
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) const fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(super) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
            change(self.0.get())
        }
    }
}

/// How many places a block has. With one number for the block's end that is a power of two, and a
/// block has 4 KiB.
const CAPACITY: usize = if cfg!(all(test, tevent_loom)) { 1 } else { 63 };

/// How many numbers a block has.
const NUMBERS: usize = CAPACITY + 1;

/// How many blocks that are not in use are kept: 128 KiB.
const SPARES: usize = 32;

/// Beside the number in the numbers' word.
const CLOSED: usize = 1;

/// Numbers are even, and go round.
const STEP: usize = 2;

fn following(number: usize) -> usize {
    number.wrapping_add(STEP)
}

/// Where in its block the place with this number is; [`CAPACITY`] is the block's end.
fn position(number: usize) -> usize {
    number / STEP % NUMBERS
}

/// How many places have numbers from `first` to before `end`.
fn places_between(first: usize, end: usize) -> usize {
    let places = |number| number / (STEP * NUMBERS) * CAPACITY + position(number);
    let numbers = end.wrapping_sub(first) / STEP;
    let first = first % (STEP * NUMBERS);
    places(first.wrapping_add(numbers * STEP)) - places(first)
}

/// The number of the first place of the block that has `number`.
fn first_of_block(number: usize) -> usize {
    number & !(STEP * NUMBERS - 1)
}

/// The place of a job.
#[repr(align(64))]
struct Place {
    /// The functions of the job that is here, or null, or [`abandoned`].
    state: AtomicPtr<()>,
    /// The rest of it. Whoever has the number writes; when the state says so, the receiver reads.
    rest: UnsafeCell<MaybeUninit<Rest>>,
}

struct Block {
    places: [Place; CAPACITY],
    /// The number of the first place.
    first: AtomicUsize,
    /// The block behind this one, in the list that it is in.
    next: AtomicPtr<Block>,
}

/// The state of a place to which no job will come. No functions have this address.
fn abandoned() -> *mut () {
    ptr::without_provenance_mut(1)
}

impl Block {
    fn new() -> NonNull<Block> {
        let block = Box::new(Block {
            places: array::from_fn(|_| Place {
                state: AtomicPtr::new(ptr::null_mut()),
                rest: UnsafeCell::new(MaybeUninit::uninit()),
            }),
            first: AtomicUsize::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        });
        NonNull::from(Box::leak(block))
    }

    /// # Safety
    ///
    /// It came from [`Block::new`], and nobody uses it any more.
    unsafe fn free(block: NonNull<Block>) {
        // SAFETY: as the caller says.
        drop(unsafe { Box::from_raw(block.as_ptr()) });
    }
}

/// The part of a mailbox that doesn't depend on what jobs are called with.
pub(super) struct Places {
    /// The number of the next place that is to be taken, and [`CLOSED`].
    numbers: AtomicUsize,
    /// The block that this number is of. Null as long as nothing was posted.
    newest: AtomicPtr<Block>,
    /// A stack of blocks of which no place is in use. The receiver pushes, one sender at a time pops.
    spares: AtomicPtr<Block>,
    spare_count: AtomicUsize,
    /// The rest is written by the receiver, but for the first block.
    _apart: Apart,
    /// The block of the oldest job that isn't taken.
    oldest: AtomicPtr<Block>,
    /// The number of its place. Behind the last place of a block it is that of the block's end.
    taken: AtomicUsize,
}

/// Keeps what the receiver writes out of the cache line of what senders write.
#[repr(align(128))]
struct Apart;

/// A place that a sender has.
struct TakenPlace {
    block: NonNull<Block>,
    number: usize,
}

impl Places {
    fn new() -> Places {
        Places {
            numbers: AtomicUsize::new(0),
            newest: AtomicPtr::new(ptr::null_mut()),
            spares: AtomicPtr::new(ptr::null_mut()),
            spare_count: AtomicUsize::new(0),
            _apart: Apart,
            oldest: AtomicPtr::new(ptr::null_mut()),
            taken: AtomicUsize::new(0),
        }
    }

    fn is_closed(&self) -> bool {
        self.numbers.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Takes the next place, unless the mailbox is closed.
    #[inline]
    fn take_place(&self) -> Option<TakenPlace> {
        let mut next = None;
        let mut looks = 0;
        let taken = loop {
            let number = self.numbers.load(Ordering::Acquire);
            if number & CLOSED != 0 {
                break None;
            }
            if position(number) == CAPACITY {
                pause(&mut looks);
                continue;
            }
            let Some(block) = NonNull::new(self.newest.load(Ordering::Acquire)) else {
                self.begin();
                continue;
            };
            let is_last = position(number) + 1 == CAPACITY;
            if is_last && next.is_none() && self.spares.load(Ordering::Relaxed).is_null() {
                // Before anybody has to wait for it.
                next = Some(Block::new());
            }
            // That the number is the same means that the block was its block. Sequentially consistent:
            // see `Sender::post`.
            if self
                .numbers
                .compare_exchange_weak(
                    number,
                    following(number),
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                )
                .is_err()
            {
                continue;
            }
            let taken = TakenPlace { block, number };
            if !is_last || self.go_over(&taken, &mut next) {
                break Some(taken);
            }
        };
        if let Some(unused) = next {
            // SAFETY: nobody else has seen it.
            unsafe { Block::free(unused) };
        }
        taken
    }

    /// Makes the first block the one to post to.
    #[cold]
    fn begin(&self) {
        let mut first = self.oldest.load(Ordering::Acquire);
        if first.is_null() {
            let new = Block::new();
            first = new.as_ptr();
            if let Err(others) = self.oldest.compare_exchange(
                ptr::null_mut(),
                first,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                // SAFETY: nobody else has seen it.
                unsafe { Block::free(new) };
                first = others;
            }
        }
        // It may have been done, and more; then this isn't null.
        let _ = self.newest.compare_exchange(
            ptr::null_mut(),
            first,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    /// Puts the next block behind that of the last place, which was taken, and goes over the number
    /// of the block's end. Returns false if the place is nobody's again: that is in the child of a
    /// signal handler that has forked meanwhile.
    #[inline(never)]
    fn go_over(&self, last: &TakenPlace, prepared: &mut Option<NonNull<Block>>) -> bool {
        let next = self.pop_spare().or_else(|| prepared.take());
        let next = next.unwrap_or_else(Block::new);
        let end = following(last.number);
        // SAFETY: it is ours until it is behind the other.
        let first = &unsafe { next.as_ref() }.first;
        first.store(following(end), Ordering::Relaxed);
        // SAFETY: the block isn't let go of before the job of its last place has come, which is
        // ours to post.
        let block = unsafe { last.block.as_ref() };
        block.next.store(next.as_ptr(), Ordering::Release);
        self.newest.store(next.as_ptr(), Ordering::Release);
        let mut word = self.numbers.load(Ordering::Relaxed);
        while word & !CLOSED == end {
            match self.numbers.compare_exchange_weak(
                word,
                following(word),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(current) => word = current,
            }
        }
        if word & !CLOSED != last.number {
            // The child's `enter_child` has gone over it.
            return true;
        }
        self.newest.store(last.block.as_ptr(), Ordering::Release);
        block.next.store(ptr::null_mut(), Ordering::Release);
        *prepared = Some(next);
        false
    }

    /// Only one sender at a time calls this: the one that has the last place of a block.
    fn pop_spare(&self) -> Option<NonNull<Block>> {
        let mut first = self.spares.load(Ordering::Acquire);
        loop {
            let block = NonNull::new(first)?;
            // SAFETY: spare blocks are freed by those who have popped them, or at the end. While it
            // is the first of the stack it stays so, as nobody else pops.
            let rest = unsafe { block.as_ref() }.next.load(Ordering::Relaxed);
            match self.spares.compare_exchange_weak(
                first,
                rest,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.spare_count.fetch_sub(1, Ordering::Relaxed);
                    // SAFETY: it is ours now.
                    let next = &unsafe { block.as_ref() }.next;
                    next.store(ptr::null_mut(), Ordering::Relaxed);
                    return Some(block);
                }
                Err(current) => first = current,
            }
        }
    }

    /// Keeps a block of which no place is in use, or frees it. Called by the receiver.
    fn recycle(&self, block: NonNull<Block>) {
        if self.spare_count.load(Ordering::Relaxed) >= SPARES {
            // SAFETY: it is out of the list, and whoever has posted to it is done.
            return unsafe { Block::free(block) };
        }
        // Before it is there, so that the count is never less than none.
        self.spare_count.fetch_add(1, Ordering::Relaxed);
        let mut first = self.spares.load(Ordering::Relaxed);
        loop {
            // SAFETY: it is ours until it is in the stack.
            let next = &unsafe { block.as_ref() }.next;
            next.store(first, Ordering::Relaxed);
            match self.spares.compare_exchange_weak(
                first,
                block.as_ptr(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(current) => first = current,
            }
        }
    }

    /// In a forked child, called by `pthread_atfork`: this is the only thread. Async-signal-safe.
    pub(super) fn enter_child(&self) {
        let word = self.numbers.load(Ordering::SeqCst);
        let end = word & !CLOSED;
        let mut number = self.taken.load(Ordering::SeqCst);
        let mut next = self.oldest.load(Ordering::SeqCst);
        // Without a first block nothing was posted yet.
        while let Some(block) = NonNull::new(next) {
            // SAFETY: the receiver says that it has gone on before it lets go of a block, and from
            // there on all blocks are in the list.
            let block = unsafe { block.as_ref() };
            let first = block.first.load(Ordering::Relaxed);
            if first_of_block(number) != first {
                // This is the next block; the receiver may be about to say so.
                number = first;
            }
            let is_newest = first == first_of_block(end);
            let end_here = if is_newest { position(end) } else { CAPACITY };
            for place in block.places.iter().take(end_here).skip(position(number)) {
                let _ = place.state.compare_exchange(
                    ptr::null_mut(),
                    abandoned(),
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                );
            }
            next = block.next.load(Ordering::SeqCst);
            if !is_newest {
                continue;
            }
            if end_here < CAPACITY {
                return;
            } else if next.is_null() {
                // Whoever had the last place hasn't brought a block: somebody else will.
                block.places[CAPACITY - 1]
                    .state
                    .store(ptr::null_mut(), Ordering::SeqCst);
                self.numbers
                    .store(word.wrapping_sub(STEP), Ordering::SeqCst);
                return;
            } else {
                self.newest.store(next, Ordering::SeqCst);
                self.numbers.store(following(word), Ordering::SeqCst);
                return;
            }
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for list in [&self.oldest, &self.spares] {
            let mut next = list.load(Ordering::Acquire);
            while let Some(block) = NonNull::new(next) {
                // SAFETY: no sender is left and no receiver; a block is in one list.
                unsafe {
                    next = block.as_ref().next.load(Ordering::Relaxed);
                    Block::free(block);
                }
            }
        }
    }
}

/// Waits a little for another thread, which needs a few instructions unless it was preempted.
#[cold]
fn pause(looks: &mut u32) {
    *looks += 1;
    if *looks < 20 && cfg!(not(all(test, tevent_loom))) {
        std::hint::spin_loop();
    } else {
        yield_now();
    }
}

/// The receiver's end. It belongs to one thread. Dropping it closes the mailbox.
pub(crate) struct Mailbox<A: 'static> {
    places: Arc<Places>,
    /// Jobs with numbers before this one may be taken.
    seen: Cell<usize>,
    owned: PhantomData<*const A>,
}

/// An end to which jobs are posted.
pub(crate) struct Sender<A: 'static> {
    places: Arc<Places>,
    owned: PhantomData<fn(&A)>,
}

// Closures are never looked at in the mailbox, so a panic leaves nothing half done.
impl<A> UnwindSafe for Sender<A> {}
impl<A> RefUnwindSafe for Sender<A> {}

/// A job that is the receiver's, where the sender has put it. To be used before anything else is
/// taken, as its place may be another's then; and used, as it isn't dropped by itself.
#[must_use]
struct Removed<A: 'static> {
    functions: &'static Functions<A>,
    rest: *mut Rest,
}

impl<A> Removed<A> {
    #[inline(always)]
    fn run(self, argument: &A) {
        // SAFETY: they are of one job, and it is moved out before its place is another's.
        unsafe { job::run_in_place(self.functions, self.rest, argument) }
    }

    #[inline(always)]
    fn into_job(self) -> Job<A> {
        // SAFETY: as above; it isn't read there again.
        unsafe { Job::from_parts(self.functions, self.rest.read()) }
    }
}

impl<A> Clone for Sender<A> {
    fn clone(&self) -> Sender<A> {
        Sender {
            places: Arc::clone(&self.places),
            owned: PhantomData,
        }
    }
}

impl<A> Sender<A> {
    /// Posts a closure. It is given back if the mailbox is closed.
    #[inline]
    pub(crate) fn post<F>(
        &self,
        mut closure: F,
        location: &'static Location<'static>,
    ) -> Result<(), F>
    where
        F: FnOnce(&A) + Send + 'static,
    {
        while let Some(taken) = self.places.take_place() {
            // SAFETY: the block isn't let go of before this place's job has come.
            let place = unsafe { &taken.block.as_ref().places[position(taken.number)] };
            let write = |rest: *mut MaybeUninit<Rest>| {
                // SAFETY: the place is ours until the state says otherwise. All ends of the mailbox
                // are of this `A`.
                unsafe { job::write::<A, F>(rest.cast(), closure, location) }
            };
            let functions = place.rest.with_mut(write);
            // Release: who sees the state sees the job. Sequentially consistent: the doorbell is looked
            // at after this, and who has answered it before is to find the job.
            let posted = place.state.compare_exchange(
                ptr::null_mut(),
                ptr::from_ref(functions).cast::<()>().cast_mut(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            match posted {
                Ok(_) => return Ok(()),
                // This is the child of a signal handler that has forked meanwhile: once more.
                Err(_) => {
                    let read = |rest: *mut MaybeUninit<Rest>| {
                        // SAFETY: it was written here, and nobody else takes it.
                        unsafe { job::read::<A, F>(rest.cast()) }
                    };
                    closure = place.rest.with_mut(read);
                }
            }
        }
        Err(closure)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }
}

impl<A> Mailbox<A> {
    pub(crate) fn new() -> Mailbox<A> {
        Mailbox {
            places: Arc::new(Places::new()),
            seen: Cell::new(0),
            owned: PhantomData,
        }
    }

    pub(crate) fn sender(&self) -> Sender<A> {
        Sender {
            places: Arc::clone(&self.places),
            owned: PhantomData,
        }
    }

    /// What is to be told of a fork.
    pub(super) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// Looks what has come since this was called last. Returns how many jobs at most can be
    /// [taken](Mailbox::take) for that.
    pub(crate) fn look(&self) -> usize {
        // Sequentially consistent: see `Sender::post`.
        let end = self.places.numbers.load(Ordering::SeqCst) & !CLOSED;
        places_between(self.seen.replace(end), end)
    }

    /// Takes the oldest job, if it is one of those that were looked at. There is none if the sender
    /// isn't done; who does so will announce it, and it and those behind it are to be looked at again.
    #[inline]
    pub(crate) fn take(&self) -> Option<Job<A>> {
        self.take_seen().map(Removed::into_job)
    }

    /// Does so and calls it; before that, `begins`. Returns whether there was one.
    #[inline(always)]
    pub(crate) fn run_next(&self, argument: &A, begins: impl FnOnce()) -> bool {
        match self.take_seen() {
            Some(removed) => {
                begins();
                removed.run(argument);
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn take_seen(&self) -> Option<Removed<A>> {
        let removed = self.take_before(self.seen.get());
        if removed.is_none() {
            self.seen.set(self.places.taken.load(Ordering::Relaxed));
        }
        removed
    }

    /// Takes the oldest job if it is there and its number is before this one.
    #[inline(always)]
    fn take_before(&self, end: usize) -> Option<Removed<A>> {
        let places = &*self.places;
        loop {
            let number = places.taken.load(Ordering::Relaxed);
            if number == end {
                return None;
            }
            let block = NonNull::new(places.oldest.load(Ordering::Acquire))?;
            // SAFETY: it is in the list until we let go of it.
            let Some(place) = (unsafe { block.as_ref() }).places.get(position(number)) else {
                self.go_on(block, number)?;
                continue;
            };
            let state = place.state.load(Ordering::SeqCst);
            if state.is_null() {
                return None;
            }
            // First of all: in the child of another thread's fork nobody is to take it again.
            places.taken.store(following(number), Ordering::Relaxed);
            place.state.store(ptr::null_mut(), Ordering::Relaxed);
            if state == abandoned() {
                continue;
            }
            // SAFETY: the sender has said that it is done. It was one of this `A`, as all senders are;
            // and the state was set back, so nobody else takes it.
            let functions = unsafe { &*state.cast::<Functions<A>>() };
            let rest = place.rest.with_mut(|rest| rest.cast());
            return Some(Removed { functions, rest });
        }
    }

    /// Lets go of a block all jobs of which were taken, if there is another.
    #[cold]
    #[inline(never)]
    fn go_on(&self, block: NonNull<Block>, number: usize) -> Option<()> {
        let places = &*self.places;
        // SAFETY: as in `take_before`.
        let next = NonNull::new(unsafe { block.as_ref() }.next.load(Ordering::Acquire))?;
        places.oldest.store(next.as_ptr(), Ordering::Release);
        places.taken.store(following(number), Ordering::Release);
        places.recycle(block);
        Some(())
    }

    /// Takes all jobs that are there.
    pub(crate) fn take_all(&self) -> Vec<Job<A>> {
        self.look();
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Refuses all jobs that come from now on, and takes all that are there.
    pub(crate) fn close(&self) -> Vec<Job<A>> {
        let places = &*self.places;
        let end = places.numbers.fetch_or(CLOSED, Ordering::SeqCst) & !CLOSED;
        let mut jobs = Vec::new();
        let mut looks = 0;
        // Who has a place and isn't done is waited for.
        while places.taken.load(Ordering::Relaxed) != end {
            match self.take_before(end) {
                Some(removed) => jobs.push(removed.into_job()),
                None => pause(&mut looks),
            }
        }
        self.seen.set(end);
        jobs
    }

    /// Whether anything may have come that was not looked at.
    pub(crate) fn has_news(&self) -> bool {
        let end = self.places.numbers.load(Ordering::SeqCst) & !CLOSED;
        self.seen.get() != end
    }
}

impl<A> Drop for Mailbox<A> {
    fn drop(&mut self) {
        drop(self.close());
    }
}
