//! Closures that run once, and a queue to which any thread posts such without a lock.
//!
//! # Implementation
//!
//! A [`Job`] is one allocation and a thin pointer to it: a header with functions that know the
//! closure's type, then the closure. Jobs form lists through their headers.
//!
//! A [`Mailbox`] is a stack: a list whose head is the newest job. Posting puts a job in front by
//! compare-and-swap; emptying swaps the whole list for an empty one and turns it round. Jobs are
//! never taken out one by one, so a head that is seen again is no other list (there is no ABA
//! problem). No lock also means that a `fork` finds the mailbox in order, whatever other threads are
//! doing.
//!
//! A mailbox that is closed has the head [`closed`], which is no job's.

use std::marker::PhantomData;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::ptr::{self, NonNull};

// `.ci/loom` runs the models below under loom, which tries every order of what the threads do.
#[cfg(all(test, tevent_loom))]
use loom::sync::atomic::{AtomicPtr, Ordering};
#[cfg(not(all(test, tevent_loom)))]
use std::sync::atomic::{AtomicPtr, Ordering};

/// The part of a job that doesn't depend on the closure's type. `A` is what the closure is called
/// with.
struct Header<A: 'static> {
    /// The next of the list that the job is in, which owns it.
    next: *mut Header<A>,
    functions: &'static Functions<A>,
    location: &'static Location<'static>,
}

/// What takes a job apart. Both need a job that was made with the same closure's type, and that
/// nobody uses afterwards.
struct Functions<A: 'static> {
    run: unsafe fn(NonNull<Header<A>>, &A),
    drop: unsafe fn(NonNull<Header<A>>),
}

/// The header is first, so that a pointer to the whole is one to the header.
#[repr(C)]
struct Whole<A: 'static, F> {
    header: Header<A>,
    closure: F,
}

impl<A, F: FnOnce(&A)> Whole<A, F> {
    const FUNCTIONS: Functions<A> = Functions {
        run: |header, argument| {
            // SAFETY: see `Functions`: it was made by `Job::new` from a box of this type, and is
            // the caller's to give away.
            let whole = unsafe { Box::from_raw(header.cast::<Self>().as_ptr()) };
            let Whole { closure, .. } = *whole;
            closure(argument);
        },
        drop: |header| {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(header.cast::<Self>().as_ptr()) });
        },
    };
}

/// A closure that is called once with an `&A`, or dropped.
pub(crate) struct Job<A: 'static> {
    header: NonNull<Header<A>>,
    owned: PhantomData<Box<Header<A>>>,
}

/// A job that may go to another thread.
pub(crate) struct SendJob<A: 'static>(Job<A>);

// SAFETY: the closure is `Send`, see `SendJob::new`, and the rest is pointers to statics.
unsafe impl<A> Send for SendJob<A> {}

impl<A> Job<A> {
    #[inline]
    pub(crate) fn new<F>(closure: F, location: &'static Location<'static>) -> Job<A>
    where
        F: FnOnce(&A) + 'static,
    {
        let whole = Box::new(Whole {
            header: Header {
                next: ptr::null_mut(),
                functions: &Whole::<A, F>::FUNCTIONS,
                location,
            },
            closure,
        });
        Job {
            header: NonNull::from(Box::leak(whole)).cast(),
            owned: PhantomData,
        }
    }

    /// Calls the closure.
    #[inline]
    pub(crate) fn run(self, argument: &A) {
        let header = self.into_header();
        // SAFETY: the functions are those of the closure's type, see `new`, and nobody but us has
        // had the job since.
        unsafe { (header.as_ref().functions.run)(header, argument) }
    }

    /// Where it was made.
    pub(crate) fn location(&self) -> &'static Location<'static> {
        // SAFETY: a job owns its header.
        unsafe { self.header.as_ref() }.location
    }

    /// The same, without being dropped.
    #[inline]
    fn into_header(self) -> NonNull<Header<A>> {
        let header = self.header;
        std::mem::forget(self);
        header
    }

    /// Takes possession of a job again.
    ///
    /// # Safety
    ///
    /// The header came from [`Job::into_header`], and nobody else has it.
    #[inline]
    unsafe fn from_header(header: NonNull<Header<A>>) -> Job<A> {
        Job {
            header,
            owned: PhantomData,
        }
    }
}

impl<A> Drop for Job<A> {
    fn drop(&mut self) {
        let header = self.header;
        // SAFETY: as in `run`; a job that runs isn't dropped.
        unsafe { (header.as_ref().functions.drop)(header) }
    }
}

impl<A> SendJob<A> {
    #[inline]
    pub(crate) fn new<F>(closure: F, location: &'static Location<'static>) -> SendJob<A>
    where
        F: FnOnce(&A) + Send + 'static,
    {
        SendJob(Job::new(closure, location))
    }
}

/// Jobs in order.
pub(crate) struct Jobs<A: 'static> {
    first: *mut Header<A>,
    owned: PhantomData<Job<A>>,
}

impl<A> Jobs<A> {
    /// A list of one.
    #[inline]
    pub(crate) fn one(job: Job<A>) -> Jobs<A> {
        // Its `next` is null: it never was in another list, or has left it.
        Jobs {
            first: job.into_header().as_ptr(),
            owned: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// How many jobs are in it, which takes a look at each.
    pub(crate) fn len(&self) -> usize {
        let mut count = 0;
        let mut next = self.first;
        // SAFETY: the list is ours, and each of its jobs points to the next or is the end.
        while let Some(header) = unsafe { next.as_ref() } {
            count += 1;
            next = header.next;
        }
        count
    }

    /// Takes possession of a list that was the mailbox's, with the last first.
    fn turned_round(mut last: *mut Header<A>) -> Jobs<A> {
        let mut first = ptr::null_mut();
        while !last.is_null() {
            // SAFETY: the list was taken out of the mailbox as a whole, so its jobs are ours,
            // and each points to the next or is the end.
            unsafe {
                let next = (*last).next;
                (*last).next = first;
                first = last;
                last = next;
            }
        }
        Jobs {
            first,
            owned: PhantomData,
        }
    }
}

impl<A> Iterator for Jobs<A> {
    type Item = Job<A>;

    #[inline]
    fn next(&mut self) -> Option<Job<A>> {
        let header = NonNull::new(self.first)?;
        // SAFETY: the list is ours, and what is in it came from `into_header`. With `first` moved
        // on nothing else leads to this one.
        unsafe {
            self.first = (*header.as_ptr()).next;
            (*header.as_ptr()).next = ptr::null_mut();
            Some(Job::from_header(header))
        }
    }
}

impl<A> Drop for Jobs<A> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            drop_all(self);
        }
    }
}

#[cold]
fn drop_all<A>(jobs: &mut Jobs<A>) {
    /// Goes on when what a closure owns panics as it is dropped.
    struct Rest<'a, A: 'static>(&'a mut Jobs<A>);

    impl<A> Drop for Rest<'_, A> {
        fn drop(&mut self) {
            self.0.for_each(drop);
        }
    }

    let rest = Rest(jobs);
    rest.0.for_each(drop);
}

/// The queue. It owns the jobs in it.
pub(crate) struct Mailbox<A: 'static> {
    newest: AtomicPtr<Header<A>>,
    owned: PhantomData<SendJob<A>>,
}

// SAFETY: what is shared is an atomic pointer, and the jobs in the mailbox are `Send`.
unsafe impl<A> Send for Mailbox<A> {}
// SAFETY: as above; nothing lends what is in the mailbox.
unsafe impl<A> Sync for Mailbox<A> {}

// Closures are never looked at in the mailbox, so a panic leaves nothing half done.
impl<A> UnwindSafe for Mailbox<A> {}
impl<A> RefUnwindSafe for Mailbox<A> {}

/// What became of a job.
pub(crate) enum Posted<A: 'static> {
    /// It is the only one: whoever empties the mailbox is to be told.
    First,
    /// There were others.
    Another,
    /// The mailbox is closed.
    Refused(SendJob<A>),
}

/// An address that no job has.
fn closed<A>() -> *mut Header<A> {
    ptr::without_provenance_mut(1)
}

impl<A> Mailbox<A> {
    pub(crate) fn new() -> Mailbox<A> {
        Mailbox {
            newest: AtomicPtr::new(ptr::null_mut()),
            owned: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn post(&self, job: SendJob<A>) -> Posted<A> {
        let header = job.0.into_header();
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            if newest == closed() {
                // SAFETY: it never got into the list, so it is ours still, and its `next` says
                // nothing.
                return Posted::Refused(unsafe {
                    (*header.as_ptr()).next = ptr::null_mut();
                    SendJob(Job::from_header(header))
                });
            }
            // SAFETY: the job is ours until it is in the list. Only the pointer is stored; what is
            // behind `newest` is not looked at.
            unsafe { (*header.as_ptr()).next = newest };
            // Release: who empties the list sees the job. Sequentially consistent: the doorbell is
            // rung after this, and who answers it is to find the job.
            match self.newest.compare_exchange_weak(
                newest,
                header.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) if newest.is_null() => return Posted::First,
                Ok(_) => return Posted::Another,
                Err(current) => newest = current,
            }
        }
    }

    /// Empties the mailbox. The oldest job is first.
    pub(crate) fn take_all(&self) -> Jobs<A> {
        let mut newest = self.newest.load(Ordering::Relaxed);
        while newest != closed() && !newest.is_null() {
            match self.newest.compare_exchange_weak(
                newest,
                ptr::null_mut(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Jobs::turned_round(newest),
                Err(current) => newest = current,
            }
        }
        Jobs::turned_round(ptr::null_mut())
    }

    /// Empties the mailbox, and refuses all jobs that come after.
    pub(crate) fn close(&self) -> Jobs<A> {
        let newest = self.newest.swap(closed(), Ordering::SeqCst);
        Jobs::turned_round(if newest == closed() {
            ptr::null_mut()
        } else {
            newest
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        let newest = self.newest.load(Ordering::SeqCst);
        newest.is_null() || newest == closed()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.newest.load(Ordering::SeqCst) == closed()
    }
}

impl<A> Drop for Mailbox<A> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

#[cfg(all(test, tevent_loom))]
mod models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;
    use std::cell::RefCell;

    type Said = RefCell<Vec<(usize, u32)>>;

    /// Loom sees its memory: a run that doesn't happen after the making is an error.
    struct Seen(UnsafeCell<(usize, u32)>);

    // SAFETY: it goes from one thread to another with the job that owns it.
    unsafe impl Send for Seen {}

    fn job(thread: usize, number: u32) -> SendJob<Said> {
        let seen = Seen(UnsafeCell::new((thread, number)));
        SendJob::new(
            move |said: &Said| {
                let seen = &seen;
                // SAFETY: loom checks that nobody else looks at it.
                said.borrow_mut().push(seen.0.with(|seen| unsafe { *seen }));
            },
            Location::caller(),
        )
    }

    fn run_all(jobs: Jobs<Said>, said: &Said) {
        jobs.for_each(|job| job.run(said));
    }

    /// What the jobs of one thread have said, in their order.
    fn of(said: &[(usize, u32)], thread: usize) -> Vec<u32> {
        said.iter()
            .filter(|said| said.0 == thread)
            .map(|said| said.1)
            .collect()
    }

    /// Posts two jobs. How many of them were the first in the mailbox.
    fn post_two(mailbox: &Mailbox<Said>, thread: usize) -> usize {
        [1, 2]
            .map(|number| match mailbox.post(job(thread, number)) {
                Posted::First => 1,
                Posted::Another => 0,
                Posted::Refused(_) => unreachable!("it isn't closed"),
            })
            .iter()
            .sum()
    }

    #[test]
    fn every_job_comes_once_in_its_threads_order_and_each_batch_was_announced() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new());
            let poster = {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || post_two(&mailbox, 0))
            };
            let other = {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || post_two(&mailbox, 1))
            };
            let said = Said::default();
            let mut batches = 0;
            for _ in 0..2 {
                let jobs = mailbox.take_all();
                batches += usize::from(!jobs.is_empty());
                run_all(jobs, &said);
            }
            let firsts = poster.join().unwrap() + other.join().unwrap();
            let rest = mailbox.take_all();
            batches += usize::from(!rest.is_empty());
            run_all(rest, &said);
            let said = said.take();
            assert_eq!((of(&said, 0), of(&said, 1)), (vec![1, 2], vec![1, 2]));
            assert_eq!(firsts, batches, "somebody is told of each batch, once");
        });
    }

    #[test]
    fn a_job_is_accepted_before_the_end_or_comes_back() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new());
            let poster = {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    [1, 2].map(|number| match mailbox.post(job(0, number)) {
                        Posted::Refused(SendJob(refused)) => {
                            let said = Said::default();
                            refused.run(&said);
                            assert_eq!(said.take(), [(0, number)], "it is the same");
                            false
                        }
                        _ => true,
                    })
                })
            };
            let said = Said::default();
            run_all(mailbox.take_all(), &said);
            run_all(mailbox.close(), &said);
            let accepted = poster.join().unwrap();
            let expected: Vec<u32> = [1, 2]
                .into_iter()
                .zip(accepted)
                .filter_map(|(number, accepted)| accepted.then_some(number))
                .collect();
            assert_eq!(of(&said.take(), 0), expected);
            assert!(mailbox.is_closed());
            assert!(mailbox.take_all().is_empty());
        });
    }
}

#[cfg(all(test, not(tevent_loom)))]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// What the closures have said.
    type Said = RefCell<Vec<(usize, u32)>>;

    fn job(thread: usize, number: u32) -> SendJob<Said> {
        SendJob::new(
            move |said: &Said| said.borrow_mut().push((thread, number)),
            Location::caller(),
        )
    }

    fn owner<T: Send + 'static>(owned: T) -> SendJob<Said> {
        SendJob::new(move |_: &Said| drop(owned), Location::caller())
    }

    #[test]
    fn jobs_of_each_thread_come_in_order_and_none_is_lost() {
        const EACH: u32 = if cfg!(miri) { 50 } else { 20_000 };
        let mailbox = Mailbox::<Said>::new();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let posters = [0, 1, 2].map(|thread| {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let posted = mailbox.post(job(thread, number));
                        assert!(!matches!(posted, Posted::Refused(_)));
                    }
                })
            });
            let taker = scope.spawn(|| {
                let (mut next, said) = ([0; 3], Said::default());
                loop {
                    let last = done.load(Ordering::SeqCst);
                    mailbox.take_all().for_each(|job| job.run(&said));
                    for (thread, number) in said.take() {
                        assert_eq!(next[thread], number);
                        next[thread] += 1;
                    }
                    if last {
                        return next;
                    }
                }
            });
            for poster in posters {
                poster.join().expect("no panic");
            }
            done.store(true, Ordering::SeqCst);
            assert_eq!(taker.join().expect("no panic"), [EACH; 3]);
        });
    }

    #[test]
    fn the_first_job_is_told_from_others() {
        let mailbox = Mailbox::new();
        for _ in 0..2 {
            assert!(mailbox.is_empty());
            assert!(matches!(mailbox.post(job(0, 1)), Posted::First));
            assert!(matches!(mailbox.post(job(0, 2)), Posted::Another));
            assert!(!mailbox.is_empty());
            assert_eq!(mailbox.take_all().count(), 2);
            assert_eq!(mailbox.take_all().count(), 0);
        }
    }

    #[test]
    fn what_a_job_owns_is_dropped_once_whether_it_runs_or_not() {
        let owned = Arc::new(());
        let mailbox = Mailbox::new();
        for _ in 0..3 {
            mailbox.post(owner(Arc::clone(&owned)));
        }
        let mut taken = mailbox.take_all();
        taken.next().expect("there are three").run(&Said::default());
        assert_eq!(Arc::strong_count(&owned), 3);
        let mut one = Jobs::one(taken.next().expect("there are two"));
        drop(one.next());
        assert!(one.is_empty());
        assert_eq!(Arc::strong_count(&owned), 2);
        drop(taken);
        assert_eq!(Arc::strong_count(&owned), 1);
        mailbox.post(owner(Arc::clone(&owned)));
        drop(mailbox);
        assert_eq!(Arc::strong_count(&owned), 1);
    }

    #[test]
    fn a_panic_in_one_that_is_dropped_leaves_no_other_behind() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let owned = Arc::new(());
        let mailbox = Mailbox::new();
        mailbox.post(owner(Panics));
        mailbox.post(owner(Arc::clone(&owned)));
        catch_unwind(AssertUnwindSafe(|| drop(mailbox.take_all()))).expect_err("it panics");
        assert_eq!(Arc::strong_count(&owned), 1);
    }

    #[test]
    fn a_closed_mailbox_gives_jobs_back() {
        let mailbox = Mailbox::new();
        mailbox.post(job(0, 1));
        assert_eq!(mailbox.close().count(), 1);
        assert!(mailbox.is_closed());
        let Posted::Refused(SendJob(refused)) = mailbox.post(job(4, 5)) else {
            panic!("it was accepted");
        };
        let said = Said::default();
        refused.run(&said);
        assert_eq!(said.take(), [(4, 5)]);
        assert_eq!(mailbox.take_all().count(), 0);
        assert!(mailbox.is_closed(), "emptying doesn't open it");
        assert_eq!(mailbox.close().count(), 0);
    }
}
