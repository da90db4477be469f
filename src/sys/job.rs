//! Closures that run once.
//!
//! A [`Job`] has room for a small closure, so that a queue of jobs needs no memory besides its own;
//! a larger one is in a box.

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::panic::Location;

/// In bytes. With this room a job takes 64, the usual cache line.
const ROOM: usize = 48;

/// The bytes of a closure, or of the box that it is in.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Room(MaybeUninit<[u8; ROOM]>);

/// What takes a job apart. `A` is what the closure is called with.
///
/// Both functions need the room of a job that was made with the same closure's type, which is not
/// to be looked at afterwards.
pub(super) struct Functions<A: 'static> {
    run: unsafe fn(*mut Room, &A),
    drop: unsafe fn(*mut Room),
}

/// The part of a job that isn't its functions. It owns nothing by itself.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    room: Room,
    location: &'static Location<'static>,
}

/// A closure that is called once with an `&A`, or dropped.
pub(crate) struct Job<A: 'static> {
    functions: &'static Functions<A>,
    rest: Rest,
    /// The closure may be anything, so it stays on its thread.
    owned: PhantomData<*const A>,
}

/// A job that may go to another thread.
pub(crate) struct SendJob<A: 'static>(Job<A>);

// SAFETY: the closure is `Send`, see `SendJob::new`, and the rest is references to statics.
unsafe impl<A> Send for SendJob<A> {}

/// Closures of one type.
struct Kind<A, F>(PhantomData<(*const A, F)>);

impl<A: 'static, F: FnOnce(&A)> Kind<A, F> {
    const FITS: bool = size_of::<F>() <= size_of::<Room>() && align_of::<F>() <= align_of::<Room>();
    const IN_PLACE: Functions<A> = Functions {
        run: |room, argument| {
            // SAFETY: see `Functions`; `Job::new` has written a closure of this type there.
            let closure = unsafe { room.cast::<F>().read() };
            closure(argument);
        },
        drop: |room| {
            // SAFETY: as above.
            drop(unsafe { room.cast::<F>().read() });
        },
    };
    const IN_A_BOX: Functions<A> = Functions {
        run: |room, argument| {
            // SAFETY: see `Functions`; `Job::new` has written a box of such a closure there.
            let closure = unsafe { room.cast::<Box<F>>().read() };
            closure(argument);
        },
        drop: |room| {
            // SAFETY: as above.
            drop(unsafe { room.cast::<Box<F>>().read() });
        },
    };
}

impl<A> Job<A> {
    #[inline]
    pub(crate) fn new<F>(closure: F, location: &'static Location<'static>) -> Job<A>
    where
        F: FnOnce(&A) + 'static,
    {
        let mut room = Room(MaybeUninit::uninit());
        let place: *mut Room = &mut room;
        let functions = if Kind::<A, F>::FITS {
            // SAFETY: the room is large enough and aligned.
            unsafe { place.cast::<F>().write(closure) };
            &Kind::<A, F>::IN_PLACE
        } else {
            // SAFETY: a box is a pointer, which is smaller than the room.
            unsafe { place.cast::<Box<F>>().write(Box::new(closure)) };
            &Kind::<A, F>::IN_A_BOX
        };
        let rest = Rest { room, location };
        Job {
            functions,
            rest,
            owned: PhantomData,
        }
    }

    /// Calls the closure.
    #[inline]
    pub(crate) fn run(self, argument: &A) {
        let mut job = ManuallyDrop::new(self);
        let run = job.functions.run;
        // SAFETY: the room belongs to the functions, was ours alone, and isn't looked at any more.
        unsafe { run(&mut job.rest.room, argument) }
    }

    /// Where it was made.
    pub(crate) fn location(&self) -> &'static Location<'static> {
        self.rest.location
    }

    /// The same without being dropped: the parts own what the job has owned.
    #[inline]
    pub(super) fn into_parts(self) -> (&'static Functions<A>, Rest) {
        let parts = (self.functions, self.rest);
        mem::forget(self);
        parts
    }

    /// Takes possession of a job again.
    ///
    /// # Safety
    ///
    /// The parts came from [`into_parts`](Job::into_parts) of one job, and nobody uses a copy of
    /// them.
    #[inline]
    pub(super) unsafe fn from_parts(functions: &'static Functions<A>, rest: Rest) -> Job<A> {
        Job {
            functions,
            rest,
            owned: PhantomData,
        }
    }
}

impl<A> Drop for Job<A> {
    fn drop(&mut self) {
        // SAFETY: as in `run`; a job that runs isn't dropped.
        unsafe { (self.functions.drop)(&mut self.rest.room) }
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

    #[inline]
    pub(super) fn into_job(self) -> Job<A> {
        self.0
    }

    /// # Safety
    ///
    /// The job was a [`SendJob`] before.
    #[inline]
    pub(super) unsafe fn from_job(job: Job<A>) -> SendJob<A> {
        SendJob(job)
    }
}
