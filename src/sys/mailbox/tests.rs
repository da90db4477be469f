//! The mailbox with real threads, and what a forked child finds.

use super::*;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;

/// What the closures have said.
type Said = RefCell<Vec<(usize, u32)>>;

fn job(thread: usize, number: u32) -> impl FnOnce(&Said) + Send {
    move |said: &Said| said.borrow_mut().push((thread, number))
}

fn owner<T: Send + 'static>(owned: T) -> impl FnOnce(&Said) + Send {
    move |_: &Said| drop(owned)
}

#[track_caller]
fn post(mailbox: &Mailbox<Said>, job: impl FnOnce(&Said) + Send + 'static) {
    let posted = mailbox.sender().post(job, Location::caller());
    assert!(posted.is_ok(), "it isn't closed");
}

/// What the jobs that are there say.
fn said_by(jobs: Vec<Job<Said>>) -> Vec<u32> {
    let said = Said::default();
    jobs.into_iter().for_each(|job| job.run(&said));
    said.take().into_iter().map(|(_, number)| number).collect()
}

fn spares(mailbox: &Mailbox<Said>) -> usize {
    mailbox.places.spare_count.load(Ordering::SeqCst)
}

#[test]
fn jobs_of_each_thread_come_in_order_and_none_is_lost() {
    const EACH: u32 = if cfg!(miri) { 100 } else { 20_000 };
    let mailbox = Mailbox::<Said>::new();
    let senders = [(); 3].map(|()| mailbox.sender());
    let left = std::sync::atomic::AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for (thread, sender) in senders.into_iter().enumerate() {
            let left = &left;
            scope.spawn(move || {
                for number in 0..EACH {
                    assert!(sender.post(job(thread, number), Location::caller()).is_ok());
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let (mut next, said) = ([0; 3], Said::default());
        loop {
            let is_last = left.load(Ordering::SeqCst) == 0;
            mailbox.look();
            while let Some(job) = mailbox.take() {
                job.run(&said);
            }
            for (thread, number) in said.take() {
                assert_eq!(next[thread], number);
                next[thread] += 1;
            }
            if is_last {
                assert_eq!(next, [EACH; 3]);
                break;
            }
        }
    });
    assert!(spares(&mailbox) <= SPARES);
}

#[test]
fn a_job_is_taken_when_it_was_seen() {
    let mailbox = Mailbox::new();
    assert!(!mailbox.has_news());
    for round in 0..200 {
        post(&mailbox, job(0, round));
        assert!(mailbox.has_news());
        assert!(mailbox.take().is_none(), "nobody has looked");
        assert_eq!(mailbox.look(), 1);
        post(&mailbox, job(0, round));
        let said = Said::default();
        mailbox.take().expect("it was seen").run(&said);
        assert_eq!(said.take(), [(0, round)]);
        assert!(mailbox.take().is_none(), "it has come since");
        assert_eq!(said_by(mailbox.take_all()), [round]);
        assert_eq!(mailbox.look(), 0);
    }
}

#[test]
fn blocks_are_used_again_and_so_many_are_kept() {
    let mailbox = Mailbox::new();
    let many = (SPARES + 10) * CAPACITY;
    for _ in 0..3 {
        for number in 0..many {
            post(&mailbox, job(0, number as u32));
        }
        let said = said_by(mailbox.take_all());
        assert!(said.into_iter().eq(0..many as u32));
        assert_eq!(spares(&mailbox), SPARES);
    }
    let first = mailbox.places.spares.load(Ordering::SeqCst);
    for _ in 0..NUMBERS {
        post(&mailbox, job(0, 0));
    }
    assert_eq!(mailbox.places.newest.load(Ordering::SeqCst), first);
    assert_eq!(spares(&mailbox), SPARES - 1);
}

#[test]
fn numbers_go_round() {
    let mut mailbox = Mailbox::new();
    let before = 0usize.wrapping_sub(2 * STEP * NUMBERS);
    let places = Arc::get_mut(&mut mailbox.places).expect("there is no sender");
    *places.numbers.get_mut() = before;
    *places.taken.get_mut() = before;
    mailbox.seen.set(before);
    for round in 0..4 * NUMBERS as u32 {
        post(&mailbox, job(0, round));
        post(&mailbox, job(0, round + 1));
        assert_eq!(said_by(mailbox.take_all()), [round, round + 1]);
    }
    assert_eq!(mailbox.close().len(), 0);
}

#[test]
fn large_and_aligned_closures_have_a_box() {
    // Small enough, but for its alignment.
    #[repr(align(32))]
    #[derive(Clone, Copy)]
    struct Aligned(u32);
    let mailbox = Mailbox::new();
    let (large, aligned) = ([7u32; 100], Aligned(8));
    post(&mailbox, move |said: &Said| {
        said.borrow_mut().push((0, large.iter().sum()))
    });
    post(&mailbox, move |said: &Said| {
        let aligned = &aligned;
        assert!(ptr::from_ref(aligned).is_aligned());
        said.borrow_mut().push((0, aligned.0));
    });
    post(&mailbox, |said: &Said| said.borrow_mut().push((0, 9)));
    assert_eq!(said_by(mailbox.take_all()), [700, 8, 9]);
    post(&mailbox, move |_: &Said| assert_eq!(large.len(), 100));
    assert_eq!(mailbox.take_all().len(), 1, "dropped without being run");
}

#[test]
fn what_a_job_owns_is_dropped_once_whether_it_runs_or_not() {
    let owned = std::sync::Arc::new(());
    let count = || std::sync::Arc::strong_count(&owned);
    let mailbox = Mailbox::new();
    for _ in 0..3 {
        post(&mailbox, owner(std::sync::Arc::clone(&owned)));
    }
    mailbox.look();
    mailbox.take().expect("seen").run(&Said::default());
    assert_eq!(count(), 3);
    drop(mailbox.take());
    assert_eq!(count(), 2);
    post(&mailbox, owner(std::sync::Arc::clone(&owned)));
    let sender = mailbox.sender();
    drop(mailbox);
    assert_eq!(count(), 1);
    drop(sender.post(owner(std::sync::Arc::clone(&owned)), Location::caller()));
    assert_eq!(count(), 1);
}

#[test]
fn a_panic_in_one_that_is_dropped_leaves_no_other_behind() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let owned = std::sync::Arc::new(());
    let mailbox = Mailbox::new();
    post(&mailbox, owner(Panics));
    post(&mailbox, owner(std::sync::Arc::clone(&owned)));
    catch_unwind(AssertUnwindSafe(|| drop(mailbox.take_all()))).expect_err("it panics");
    assert_eq!(std::sync::Arc::strong_count(&owned), 1);
}

#[test]
fn a_closed_mailbox_gives_jobs_back() {
    for before in 0..2 * NUMBERS as u32 {
        let mailbox = Mailbox::new();
        for number in 0..before {
            post(&mailbox, job(0, number));
        }
        assert_eq!(mailbox.look(), before as usize);
        post(&mailbox, job(0, before));
        let closed = said_by(mailbox.close());
        assert!(closed.into_iter().eq(0..=before));
        assert!(mailbox.sender().is_closed());
        let Err(refused) = mailbox.sender().post(job(4, 5), Location::caller()) else {
            panic!("it was accepted");
        };
        let said = Said::default();
        refused(&said);
        assert_eq!(said.take(), [(4, 5)]);
        assert!(mailbox.take_all().is_empty());
        assert!(mailbox.sender().is_closed(), "emptying doesn't open it");
        assert!(mailbox.close().is_empty());
    }
}

#[test]
fn closing_waits_for_whoever_is_posting() {
    let mailbox = Mailbox::<Said>::new();
    let sender = mailbox.sender();
    let has_place = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let taken = sender.places.take_place().expect("it is open");
            has_place.store(true, Ordering::SeqCst);
            while !sender.is_closed() {
                yield_now();
            }
            // SAFETY: the mailbox waits for the place, which is ours until the state says
            // otherwise.
            let place = unsafe { &taken.block.as_ref().places[position(taken.number)] };
            let write = |rest: *mut MaybeUninit<Rest>| {
                // SAFETY: as above.
                unsafe { job::write::<Said, _>(rest.cast(), job(0, 7), Location::caller()) }
            };
            let functions = place.rest.with_mut(write);
            let state = ptr::from_ref(functions).cast::<()>().cast_mut();
            place.state.store(state, Ordering::SeqCst);
        });
        while !has_place.load(Ordering::SeqCst) {
            yield_now();
        }
        assert_eq!(said_by(mailbox.close()), [7]);
    });
}

/// What a child finds whose parent had `before` jobs in the mailbox and `taken` of them taken
/// when other threads had places and hadn't posted yet.
fn in_a_child(before: usize, taken: usize, had_places: usize) {
    let mailbox = Mailbox::new();
    for number in 0..before {
        post(&mailbox, job(0, number as u32));
    }
    mailbox.look();
    for _ in 0..taken {
        mailbox.take().expect("it was seen");
    }
    for _ in 0..had_places {
        mailbox.places.take_place().expect("it is open");
    }
    post(&mailbox, job(0, before as u32));
    mailbox.places.enter_child();
    // Again, as in a child's child.
    mailbox.places.enter_child();
    let number = || mailbox.places.numbers.load(Ordering::SeqCst);
    let first = number();
    for number in 1..=2 * NUMBERS {
        post(&mailbox, job(0, (before + number) as u32));
    }
    let taken_by_these = places_between(first, number());
    assert_eq!(taken_by_these, 2 * NUMBERS, "no place but theirs is passed");
    let said = said_by(mailbox.take_all());
    let expected = taken as u32..=(before + 2 * NUMBERS) as u32;
    assert!(
        said.into_iter().eq(expected),
        "{before} {taken} {had_places}"
    );
    assert!(mailbox.close().is_empty());
}

#[test]
fn a_child_passes_places_of_threads_it_does_not_have() {
    let numbers = [0, 1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY];
    for before in numbers {
        for had_places in numbers {
            for taken in numbers.into_iter().filter(|&taken| taken <= before) {
                in_a_child(before, taken, had_places);
            }
        }
    }
    let mailbox = Mailbox::<Said>::new();
    mailbox.places.enter_child();
    assert!(mailbox.close().is_empty());
}

#[test]
fn a_child_passes_them_also_if_the_receiver_was_between_two_blocks() {
    let mailbox = Mailbox::new();
    for number in 0..CAPACITY + 3 {
        post(&mailbox, job(0, number as u32));
    }
    mailbox.look();
    for _ in 0..CAPACITY {
        mailbox.take().expect("it was seen");
    }
    mailbox.places.take_place().expect("it is open");
    // The receiver goes on, and somebody forks before it has said all of that.
    let places = &*mailbox.places;
    let first = NonNull::new(places.oldest.load(Ordering::SeqCst)).expect("a block");
    // SAFETY: it is in the list.
    let second = unsafe { first.as_ref() }.next.load(Ordering::SeqCst);
    places.oldest.store(second, Ordering::SeqCst);
    places.enter_child();
    places.oldest.store(first.as_ptr(), Ordering::SeqCst);
    post(&mailbox, job(0, 1000));
    let last = CAPACITY as u32;
    let expected = [last, last + 1, last + 2, 1000];
    assert_eq!(said_by(mailbox.take_all()), expected);
    assert!(mailbox.close().is_empty());
}

#[test]
fn who_finds_its_place_abandoned_posts_to_the_next() {
    // As in the child of a signal handler that forks between the taking of a place and the posting.
    let mailbox = Mailbox::new();
    let owned = std::sync::Arc::new(());
    let large = [7u32; 100];
    for round in 0..2 * CAPACITY as u32 {
        post(&mailbox, job(0, 0));
        let places = &*mailbox.places;
        let newest = NonNull::new(places.newest.load(Ordering::SeqCst)).expect("a block");
        let number = places.numbers.load(Ordering::SeqCst);
        // SAFETY: it is in the list.
        let place = &unsafe { newest.as_ref() }.places[position(number)];
        place.state.store(abandoned(), Ordering::SeqCst);
        if round % 2 == 0 {
            let owned = std::sync::Arc::clone(&owned);
            post(&mailbox, move |said: &Said| {
                said.borrow_mut().push((0, large[99]));
                drop(owned);
            });
        } else {
            post(&mailbox, job(0, 7));
        }
        let end = places.numbers.load(Ordering::SeqCst);
        assert_eq!(places_between(number, end), 2);
        assert_eq!(said_by(mailbox.take_all()), [0, 7]);
        assert_eq!(std::sync::Arc::strong_count(&owned), 1);
    }
}

/// As far as a sender gets with the last place of a block before somebody else forks.
#[derive(Clone, Copy, PartialEq)]
enum Reached {
    Nothing,
    Linked,
    Newest,
}

#[test]
fn a_child_brings_the_end_of_a_block_in_order() {
    for reached in [Reached::Nothing, Reached::Linked, Reached::Newest] {
        for taken in [0, 5, CAPACITY - 1] {
            let mailbox = Mailbox::new();
            for number in 1..CAPACITY {
                post(&mailbox, job(0, number as u32));
            }
            mailbox.look();
            for _ in 0..taken {
                mailbox.take().expect("it was seen");
            }
            let places = &*mailbox.places;
            let last = NonNull::new(places.newest.load(Ordering::SeqCst)).expect("a block");
            places.numbers.fetch_add(STEP, Ordering::SeqCst);
            let new = Block::new();
            if reached != Reached::Nothing {
                // SAFETY: nobody else has seen it.
                let first = &unsafe { new.as_ref() }.first;
                first.store(STEP * NUMBERS, Ordering::SeqCst);
                // SAFETY: it is in the list.
                let next = &unsafe { last.as_ref() }.next;
                next.store(new.as_ptr(), Ordering::SeqCst);
            }
            if reached == Reached::Newest {
                places.newest.store(new.as_ptr(), Ordering::SeqCst);
            }
            places.enter_child();
            let number = places.numbers.load(Ordering::SeqCst);
            assert_ne!(position(number), CAPACITY, "senders would wait");
            if reached == Reached::Nothing {
                // A signal handler has forked on the sender's own thread, which goes on.
                let last = TakenPlace {
                    block: last,
                    number,
                };
                let mut prepared = Some(new);
                assert!(!places.go_over(&last, &mut prepared));
                // SAFETY: it wasn't needed.
                unsafe { Block::free(prepared.expect("given back")) };
            }
            for number in 0..3 * CAPACITY {
                post(&mailbox, job(0, (CAPACITY + number) as u32));
            }
            let said = said_by(mailbox.take_all());
            let expected = taken as u32 + 1..4 * CAPACITY as u32;
            assert!(said.into_iter().eq(expected));
        }
    }
}
