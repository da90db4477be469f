//! Closures that run once.
//!
//! A [`Job`] has room for a small closure, so that a queue of jobs needs no memory besides its own;
//! a larger one is in a box.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
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

/// Closures of one type.
struct Kind<A, F>(PhantomData<(*const A, F)>);

impl<A: 'static, F: FnOnce(&A)> Kind<A, F> {
    const FITS: bool = size_of::<F>() <= size_of::<Room>() && align_of::<F>() <= align_of::<Room>();
    const IN_PLACE: Functions<A> = Functions {
        run: |room, argument| {
            // SAFETY: see `Functions`; `write` has put a closure of this type there.
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
            // SAFETY: see `Functions`; `write` has put a box of such a closure there.
            let closure = unsafe { room.cast::<Box<F>>().read() };
            closure(argument);
        },
        drop: |room| {
            // SAFETY: as above.
            drop(unsafe { room.cast::<Box<F>>().read() });
        },
    };
}

/// Makes a job of a closure where it is to be. `rest` is then initialised, and belongs to the
/// functions.
///
/// # Safety
///
/// There is room for it at `rest`.
#[inline]
pub(super) unsafe fn write<A: 'static, F>(
    rest: *mut Rest,
    closure: F,
    location: &'static Location<'static>,
) -> &'static Functions<A>
where
    F: FnOnce(&A) + 'static,
{
    // SAFETY: as the caller says. The room is large enough for what it is cast to, and aligned.
    unsafe {
        (&raw mut (*rest).location).write(location);
        let room = &raw mut (*rest).room;
        if Kind::<A, F>::FITS {
            room.cast::<F>().write(closure);
            &Kind::<A, F>::IN_PLACE
        } else {
            room.cast::<Box<F>>().write(Box::new(closure));
            &Kind::<A, F>::IN_A_BOX
        }
    }
}

/// Takes the closure out of where [`write`] has put it.
///
/// # Safety
///
/// It was a closure of this type, and nobody looks at `rest` any more.
pub(super) unsafe fn read<A: 'static, F>(rest: *const Rest) -> F
where
    F: FnOnce(&A) + 'static,
{
    // SAFETY: as the caller says.
    unsafe {
        let room = &raw const (*rest).room;
        if Kind::<A, F>::FITS {
            room.cast::<F>().read()
        } else {
            *room.cast::<Box<F>>().read()
        }
    }
}

/// Calls the closure of a job where it is. It is moved out of there before anything else is done.
///
/// # Safety
///
/// The parts are those of one job, and nobody looks at `rest` any more.
#[inline]
pub(super) unsafe fn run_in_place<A: 'static>(
    functions: &Functions<A>,
    rest: *mut Rest,
    argument: &A,
) {
    // SAFETY: as the caller says.
    unsafe { (functions.run)(&raw mut (*rest).room, argument) }
}

impl<A> Job<A> {
    #[inline]
    pub(crate) fn new<F>(closure: F, location: &'static Location<'static>) -> Job<A>
    where
        F: FnOnce(&A) + 'static,
    {
        let mut rest = MaybeUninit::uninit();
        // SAFETY: there is room for it.
        let functions = unsafe { write(rest.as_mut_ptr(), closure, location) };
        // SAFETY: it was written, and whether a closure's bytes are is of no interest to a room.
        let rest = unsafe { rest.assume_init() };
        // SAFETY: they are of one job, and were made here.
        unsafe { Job::from_parts(functions, rest) }
    }

    /// Calls the closure.
    #[inline]
    pub(crate) fn run(self, argument: &A) {
        let mut job = ManuallyDrop::new(self);
        // SAFETY: the parts are ours, and not looked at any more.
        unsafe { run_in_place(job.functions, &mut job.rest, argument) }
    }

    /// Where it was made.
    pub(crate) fn location(&self) -> &'static Location<'static> {
        self.rest.location
    }

    /// Takes possession of a job again.
    ///
    /// # Safety
    ///
    /// The parts are those of one job, and nobody uses a copy of them.
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
