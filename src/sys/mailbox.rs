//! A queue to which any thread posts without a lock, and that one thread empties.
//!
//! # Implementation
//!
//! A stack in a linked list whose head is the newest letter. Posting puts a letter in front by
//! compare-and-swap; emptying swaps the whole list for an empty one and turns it round. Letters are
//! never taken one by one, so a head that is seen again is no other list (there is no ABA problem).
//! No lock also means that a `fork` finds the mailbox in order, whatever other threads are doing.
//!
//! A letter is one allocation, whatever its content. The list links thin pointers to [`Link`]s; a
//! link knows the wide pointer to its letter.
//!
//! A mailbox that is closed has the head [`closed`], which is no letter's.

use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What is posted: the content `C`, as `D` (say, a trait object) when in the mailbox.
pub(crate) struct Letter<D: ?Sized, C: ?Sized = D> {
    link: Link<D>,
    pub(crate) content: C,
}

struct Link<D: ?Sized> {
    /// The letter that was posted before.
    next: *mut Link<D>,
    /// The letter that this is part of; `None` when it isn't in a mailbox.
    whole: Option<*mut Letter<D>>,
}

impl<D: ?Sized, C> Letter<D, C> {
    pub(crate) fn new(content: C) -> Letter<D, C> {
        let link = Link {
            next: ptr::null_mut(),
            whole: None,
        };
        Letter { link, content }
    }
}

/// The queue. It owns the letters in it.
pub(crate) struct Mailbox<D: ?Sized> {
    newest: AtomicPtr<Link<D>>,
    letters: PhantomData<Box<Letter<D>>>,
}

// SAFETY: what is shared is an atomic pointer. Letters that one thread posts are taken by another, or
// dropped by it, so their content is `Send`.
unsafe impl<D: ?Sized + Send> Send for Mailbox<D> {}
// SAFETY: as above; nothing lends the content of a letter that is in the mailbox.
unsafe impl<D: ?Sized + Send> Sync for Mailbox<D> {}

// Content is never looked at in the mailbox, so a panic leaves nothing half done.
impl<D: ?Sized> UnwindSafe for Mailbox<D> {}
impl<D: ?Sized> RefUnwindSafe for Mailbox<D> {}

/// What became of a letter.
pub(crate) enum Posted<D: ?Sized> {
    /// It is the only one: whoever empties the mailbox is to be told.
    First,
    /// There were others.
    Another,
    /// The mailbox is closed.
    Refused(Box<Letter<D>>),
}

/// An address that no letter has.
fn closed<D: ?Sized>() -> *mut Link<D> {
    ptr::without_provenance_mut(1)
}

impl<D: ?Sized> Mailbox<D> {
    pub(crate) const fn new() -> Mailbox<D> {
        Mailbox {
            newest: AtomicPtr::new(ptr::null_mut()),
            letters: PhantomData,
        }
    }

    pub(crate) fn post(&self, letter: Box<Letter<D>>) -> Posted<D> {
        let whole = Box::into_raw(letter);
        // SAFETY: `whole` is a letter that we own until it is in the list.
        let link = unsafe {
            (*whole).link.whole = Some(whole);
            &raw mut (*whole).link
        };
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            if newest == closed() {
                // SAFETY: it never got into the list, so it is ours still.
                return Posted::Refused(unsafe { Box::from_raw(whole) });
            }
            // SAFETY: as above. Only the pointer is stored, `newest` is not looked at.
            unsafe { (*link).next = newest };
            // Release: who empties the list sees the letter. Sequentially consistent: see the
            // doorbell, which is rung after this.
            match self.newest.compare_exchange_weak(
                newest,
                link,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) if newest.is_null() => return Posted::First,
                Ok(_) => return Posted::Another,
                Err(current) => newest = current,
            }
        }
    }

    /// Empties the mailbox.
    pub(crate) fn take_all(&self) -> Letters<D> {
        let mut newest = self.newest.load(Ordering::Relaxed);
        while newest != closed() && !newest.is_null() {
            match self.newest.compare_exchange_weak(
                newest,
                ptr::null_mut(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Letters::turned_round(newest),
                Err(current) => newest = current,
            }
        }
        Letters::turned_round(ptr::null_mut())
    }

    /// Empties the mailbox, and refuses all letters that come after.
    pub(crate) fn close(&self) -> Letters<D> {
        let newest = self.newest.swap(closed(), Ordering::SeqCst);
        Letters::turned_round(if newest == closed() {
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

impl<D: ?Sized> Drop for Mailbox<D> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Letters, oldest first.
pub(crate) struct Letters<D: ?Sized> {
    oldest: *mut Link<D>,
    letters: PhantomData<Box<Letter<D>>>,
}

impl<D: ?Sized> Letters<D> {
    /// Takes possession of a list that was the mailbox's.
    fn turned_round(mut newest: *mut Link<D>) -> Letters<D> {
        let mut oldest = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: the list was taken out of the mailbox as a whole, so its letters are ours,
            // and each link points to the next or is null.
            unsafe {
                let next = (*newest).next;
                (*newest).next = oldest;
                oldest = newest;
                newest = next;
            }
        }
        Letters {
            oldest,
            letters: PhantomData,
        }
    }
}

impl<D: ?Sized> Iterator for Letters<D> {
    type Item = Box<Letter<D>>;

    #[inline]
    fn next(&mut self) -> Option<Box<Letter<D>>> {
        if self.oldest.is_null() {
            return None;
        }
        // SAFETY: the list is ours, see `turned_round`. `whole` is what `post` got from
        // `Box::into_raw`; with `oldest` moved on, nothing else leads to it.
        unsafe {
            let Link { next, whole } = *self.oldest;
            self.oldest = next;
            whole.map(|whole| Box::from_raw(whole))
        }
    }
}

impl<D: ?Sized> Drop for Letters<D> {
    fn drop(&mut self) {
        /// Goes on when the content of a letter panics as it is dropped.
        struct Rest<'a, D: ?Sized>(&'a mut Letters<D>);

        impl<D: ?Sized> Drop for Rest<'_, D> {
            fn drop(&mut self) {
                self.0.for_each(drop);
            }
        }

        let rest = Rest(self);
        rest.0.for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::Any;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    type Content = dyn Any + Send;

    fn letter<C: Send + 'static>(content: C) -> Box<Letter<Content>> {
        Box::new(Letter::<Content, C>::new(content))
    }

    fn number(letter: &Letter<Content>) -> (u32, u32) {
        *letter.content.downcast_ref().expect("a number")
    }

    #[test]
    fn letters_of_each_thread_come_in_order_and_none_is_lost() {
        const EACH: u32 = if cfg!(miri) { 50 } else { 20_000 };
        let mailbox = Mailbox::<Content>::new();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let posters: Vec<_> = (0..3_u32)
                .map(|thread| {
                    let mailbox = &mailbox;
                    scope.spawn(move || {
                        for number in 0..EACH {
                            assert!(!matches!(
                                mailbox.post(letter((thread, number))),
                                Posted::Refused(_)
                            ));
                        }
                    })
                })
                .collect();
            let taker = scope.spawn(|| {
                let mut next = [0; 3];
                loop {
                    let last = done.load(Ordering::SeqCst);
                    for letter in mailbox.take_all() {
                        let (thread, number) = number(&letter);
                        assert_eq!(next[thread as usize], number);
                        next[thread as usize] += 1;
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
    fn the_first_letter_is_told_from_others() {
        let mailbox = Mailbox::<Content>::new();
        for _ in 0..2 {
            assert!(matches!(mailbox.post(letter(1)), Posted::First));
            assert!(matches!(mailbox.post(letter(2)), Posted::Another));
            assert_eq!(mailbox.take_all().count(), 2);
            assert_eq!(mailbox.take_all().count(), 0);
        }
    }

    #[test]
    fn whatever_is_left_is_dropped_once() {
        let count = Arc::new(());
        let mailbox = Mailbox::<Content>::new();
        for _ in 0..3 {
            mailbox.post(letter(Arc::clone(&count)));
        }
        let mut taken = mailbox.take_all();
        drop(taken.next());
        assert_eq!(Arc::strong_count(&count), 3);
        drop(taken);
        assert_eq!(Arc::strong_count(&count), 1);
        mailbox.post(letter(Arc::clone(&count)));
        drop(mailbox);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn a_closed_mailbox_gives_letters_back() {
        let mailbox = Mailbox::<Content>::new();
        mailbox.post(letter(1));
        assert_eq!(mailbox.close().count(), 1);
        assert!(mailbox.is_closed());
        let Posted::Refused(refused) = mailbox.post(letter((4_u32, 5_u32))) else {
            panic!("it was accepted");
        };
        assert_eq!(number(&refused), (4, 5));
        assert_eq!(mailbox.take_all().count(), 0);
        assert!(mailbox.is_closed(), "emptying doesn't open it");
        assert_eq!(mailbox.close().count(), 0);
    }
}
