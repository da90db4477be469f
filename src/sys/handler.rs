//! A closure that is called again and again, kept in place if it is small.
//!
//! # Implementation
//!
//! A [`Handler`] is what `Box<dyn FnMut>` is, a closure behind a table of functions that know its
//! type, but two words of captured variables are in the handler itself. That is most timers'
//! closures (a reference to what they are about, and a number), and saves them an allocation,
//! which is half of what a timer costs that is added and dropped.
//!
//! A closure that is larger, or wants a greater alignment, is boxed; a box is a closure of one
//! word.

use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::ptr;

/// Room for a small closure. Pointers, so that pointers that were captured stay such.
#[repr(C)]
#[derive(Clone, Copy)]
struct Room {
    first: MaybeUninit<*const ()>,
    second: MaybeUninit<*const ()>,
}

type Boxed<A, B> = Box<dyn FnMut(&A, &B)>;

/// What knows the closure's type. Both functions need a room with a closure of that type.
struct Functions<A, B> {
    call: unsafe fn(&mut Room, &A, &B),
    /// Leaves the room empty. Missing if there is nothing to drop.
    drop: Option<unsafe fn(&mut Room)>,
}

/// A closure that is called with an `&A` and a `&B`.
pub(crate) struct Handler<A: 'static, B: 'static> {
    functions: &'static Functions<A, B>,
    room: Room,
    /// As little as such a box may this go to another thread.
    closure: PhantomData<Boxed<A, B>>,
}

/// A type of closure, for its functions.
struct Kind<F>(F);

impl<F> Kind<F> {
    const FITS: bool = size_of::<F>() <= size_of::<Room>() && align_of::<F>() <= align_of::<Room>();
}

impl<F: 'static> Kind<F> {
    const fn functions<A, B>() -> Functions<A, B>
    where
        F: FnMut(&A, &B),
    {
        Functions {
            call: |room, a, b| {
                // SAFETY: see `Functions`: `Handler::keep` has put an `F` there. It is borrowed
                // for no longer than the room.
                let closure = unsafe { &mut *ptr::from_mut(room).cast::<F>() };
                closure(a, b);
            },
            drop: if mem::needs_drop::<F>() {
                Some(|room| {
                    // SAFETY: as above. The handler's destructor is the only one to call this, so
                    // nobody uses the closure afterwards.
                    unsafe { ptr::drop_in_place(ptr::from_mut(room).cast::<F>()) }
                })
            } else {
                None
            },
        }
    }
}

impl<A: 'static, B: 'static> Handler<A, B> {
    #[inline(always)]
    pub(crate) fn new<F>(closure: F) -> Handler<A, B>
    where
        F: FnMut(&A, &B) + 'static,
    {
        if const { Kind::<F>::FITS } {
            Handler::keep(closure)
        } else {
            Handler::keep(Box::new(closure))
        }
    }

    #[inline(always)]
    fn keep<F>(closure: F) -> Handler<A, B>
    where
        F: FnMut(&A, &B) + 'static,
    {
        assert!(const { Kind::<F>::FITS });
        let mut room = Room {
            first: MaybeUninit::uninit(),
            second: MaybeUninit::uninit(),
        };
        // SAFETY: as was just asserted, the room is large enough and aligned. From here on the
        // closure is the handler's to drop.
        unsafe { (&raw mut room).cast::<F>().write(closure) };
        Handler {
            functions: const { &Kind::<F>::functions() },
            room,
            closure: PhantomData,
        }
    }

    #[inline(always)]
    pub(crate) fn call(&mut self, a: &A, b: &B) {
        // SAFETY: `keep` has put the functions and the closure there together, and only the
        // destructor takes the closure away. Moving the handler moves the closure, as any value may
        // be moved that is not borrowed.
        unsafe { (self.functions.call)(&mut self.room, a, b) }
    }
}

impl<A: 'static, B: 'static> Drop for Handler<A, B> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(drop) = self.functions.drop {
            // The address of a copy, so that a handler that needs none of this may be moved word by
            // word, or not at all.
            let Room { first, second } = self.room;
            let mut room = Room { first, second };
            // SAFETY: as in `call`. The closure is moved into the copy, as nothing happens to the
            // handler after this.
            unsafe { drop(&mut room) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{self, AssertUnwindSafe};
    use std::rc::Rc;

    /// A handler is made of the closure, called, moved and called again.
    fn check<F: FnMut(&Cell<u64>, &u64) + 'static>(fits: bool, closure: F) {
        assert_eq!(Kind::<F>::FITS, fits);
        let sum = Cell::new(0);
        let mut handler = Handler::new(closure);
        handler.call(&sum, &1);
        let mut moved = Box::new(handler);
        moved.call(&sum, &2);
        assert_eq!(sum.get(), 3);
    }

    #[test]
    fn calls_closures_of_every_size_and_alignment() {
        #[repr(align(64))]
        struct Aligned(u8);

        fn add(sum: &Cell<u64>, number: &u64) {
            sum.set(sum.get() + number);
        }
        check(true, add);
        let mut calls = 0u8;
        check(true, move |sum, number| {
            calls += 1;
            assert_eq!(u64::from(calls), *number);
            add(sum, number);
        });
        let (name, mut calls) = (Rc::new("small".to_owned()), 0usize);
        check(true, move |sum, number| {
            calls += 1;
            assert_eq!((name.as_str(), calls as u64), ("small", *number));
            add(sum, number);
        });
        let (name, mut calls) = ("large".to_owned(), 0u64);
        check(false, move |sum, number| {
            calls += 1;
            assert_eq!((name.as_str(), calls), ("large", *number));
            add(sum, number);
        });
        let aligned = Aligned(7);
        check(false, move |sum, number| {
            let aligned = &aligned;
            assert_eq!((aligned.0, ptr::from_ref(aligned).addr() % 64), (7, 0));
            add(sum, number);
        });
    }

    #[test]
    fn drops_what_was_captured_once() {
        let counted = Rc::new(());
        let (small, large) = (Rc::clone(&counted), (Rc::clone(&counted), [0u64; 4]));
        let panics = Rc::clone(&counted);
        let mut handlers: Vec<Handler<(), ()>> = vec![
            Handler::new(move |_, _| drop(Rc::clone(&small))),
            Handler::new(move |_, _| assert_eq!(large.clone().1, [0; 4])),
            Handler::new(move |_, _| panic!("{}", Rc::strong_count(&panics))),
        ];
        assert_eq!(Rc::strong_count(&counted), 4);
        for handler in &mut handlers[..2] {
            handler.call(&(), &());
        }
        panic::catch_unwind(AssertUnwindSafe(|| handlers[2].call(&(), &())))
            .expect_err("it panics");
        assert_eq!(Rc::strong_count(&counted), 4, "calling drops nothing");
        let uncalled = Rc::clone(&counted);
        drop(Handler::new(move |(): &(), (): &()| {
            drop(Rc::clone(&uncalled))
        }));
        assert_eq!(Rc::strong_count(&counted), 4);
        drop(handlers);
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn an_optional_one_is_no_larger() {
        assert_eq!(size_of::<Option<Handler<(), ()>>>(), 3 * size_of::<usize>());
    }
}
