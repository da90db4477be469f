//! The mailbox under loom, which runs these in every order of what the threads do.

use super::*;
use loom::sync::atomic::fence;
use loom::thread;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering as StdOrdering};

type Said = RefCell<Vec<(usize, u32)>>;

/// Loom sees its memory: a run that doesn't happen after the making is an error.
struct Seen(UnsafeCell<(usize, u32)>);

// SAFETY: it goes from one thread to another with the job that owns it.
unsafe impl Send for Seen {}

fn job(thread: usize, number: u32) -> impl FnOnce(&Said) + Send {
    let seen = Seen(UnsafeCell::new((thread, number)));
    move |said: &Said| {
        let seen = &seen;
        // SAFETY: loom checks that nobody else looks at it.
        said.borrow_mut().push(seen.0.with(|seen| unsafe { *seen }));
    }
}

fn run_all(jobs: Vec<Job<Said>>, said: &Said) {
    jobs.into_iter().for_each(|job| job.run(said));
}

/// What the jobs of one thread have said, in their order.
fn of(said: &[(usize, u32)], thread: usize) -> Vec<u32> {
    said.iter()
        .filter(|said| said.0 == thread)
        .map(|said| said.1)
        .collect()
}

/// A bell as the doorbell is: whoever has posted rings it, unless it rings. Of sequential
/// consistency loom knows that of fences only.
#[derive(Default)]
struct Bell(loom::sync::atomic::AtomicBool);

impl Bell {
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if !self.0.load(Ordering::SeqCst) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn answer(&self) -> bool {
        let was_rung = self.0.swap(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        was_rung
    }
}

#[test]
fn every_job_comes_once_in_its_threads_order_and_is_announced() {
    // One place to a block: every post needs a new block, or one that was used before.
    static CAME_BEFORE_THE_END: AtomicBool = AtomicBool::new(false);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let mailbox = Mailbox::<Said>::new();
        let bell = Arc::new(Bell::default());
        let senders = [(0, 2), (1, 1)].map(|(thread, count)| {
            let (sender, bell) = (mailbox.sender(), Arc::clone(&bell));
            thread::spawn(move || {
                for number in 0..count {
                    assert!(sender.post(job(thread, number), Location::caller()).is_ok());
                    bell.ring();
                }
            })
        });
        let said = Said::default();
        if bell.answer() {
            mailbox.look();
            while let Some(job) = mailbox.take() {
                job.run(&said);
                CAME_BEFORE_THE_END.store(true, StdOrdering::Relaxed);
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
        if mailbox.has_news() && mailbox.look() > 0 {
            assert!(bell.answer(), "nobody was told");
        }
        while let Some(job) = mailbox.take() {
            job.run(&said);
        }
        let said = said.take();
        assert_eq!((of(&said, 0), of(&said, 1)), (vec![0, 1], vec![0]));
    });
    assert!(CAME_BEFORE_THE_END.load(StdOrdering::Relaxed));
}

#[test]
fn a_block_is_used_again_when_nobody_uses_it() {
    loom::model(|| {
        let mailbox = Mailbox::<Said>::new();
        let said = Said::default();
        // Leaves a spare one, and makes the next sender begin another.
        for number in 0..2 {
            assert!(
                mailbox
                    .sender()
                    .post(job(0, number), Location::caller())
                    .is_ok()
            );
            run_all(mailbox.take_all(), &said);
        }
        let sender = mailbox.sender();
        let sender =
            thread::spawn(move || assert!(sender.post(job(0, 2), Location::caller()).is_ok()));
        assert!(mailbox.sender().post(job(1, 0), Location::caller()).is_ok());
        run_all(mailbox.take_all(), &said);
        sender.join().unwrap();
        run_all(mailbox.take_all(), &said);
        assert_eq!(of(&said.take(), 0), [0, 1, 2]);
    });
}

#[test]
fn a_job_is_accepted_before_the_end_or_comes_back() {
    loom::model(|| {
        let mailbox = Mailbox::<Said>::new();
        let sender = mailbox.sender();
        let poster = thread::spawn(move || {
            [1, 2].map(
                |number| match sender.post(job(0, number), Location::caller()) {
                    Ok(()) => true,
                    Err(refused) => {
                        let said = Said::default();
                        refused(&said);
                        assert_eq!(said.take(), [(0, number)], "it is the same");
                        false
                    }
                },
            )
        });
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
        assert!(mailbox.sender().is_closed());
        assert!(mailbox.take_all().is_empty());
    });
}
