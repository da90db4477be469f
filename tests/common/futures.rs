//! Futures that a test opens by hand, and guarded waiting for futures.

use super::GUARD;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll, Wake, Waker};
use tevent::Context;

/// Runs the loop until `future` is ready, or fails with `what` it was that didn't happen.
#[track_caller]
pub fn block_on<F: Future>(context: &Context, what: &str, future: F) -> F::Output {
    let result = context.block_on(context.timeout(GUARD, future));
    let result = result.unwrap_or_else(|error| panic!("{what}: the loop failed: {error}"));
    result.unwrap_or_else(|_| panic!("{what}: it didn't happen"))
}

/// What a [`Gate`]'s future waits for. Clones are the same gate; a gate has one future at a time.
#[derive(Clone, Default)]
pub struct Gate(Rc<Inside>);

#[derive(Default)]
struct Inside {
    is_open: Cell<bool>,
    polls: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Ready when the gate is open.
    pub fn pass(&self) -> impl Future<Output = ()> + use<> {
        let gate = self.clone();
        poll_fn(move |context| {
            gate.0.polls.set(gate.0.polls.get() + 1);
            gate.0.waker.replace(Some(context.waker().clone()));
            match gate.0.is_open.get() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    }

    pub fn open(&self) {
        self.open_unnoticed();
        self.wake();
    }

    /// Opens without waking anybody.
    pub fn open_unnoticed(&self) {
        self.0.is_open.set(true);
    }

    /// Wakes whoever waits, without opening.
    pub fn wake(&self) {
        if let Some(waker) = &*self.0.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// How often the future was polled.
    pub fn polls(&self) -> usize {
        self.0.polls.get()
    }

    /// The waker of the last poll.
    #[track_caller]
    pub fn waker(&self) -> Waker {
        let waker = self.0.waker.borrow();
        waker.clone().expect("it was polled")
    }
}

/// A future together with something that is dropped with it, after it.
pub struct Owning<F, T> {
    pub future: Pin<Box<F>>,
    pub owned: T,
}

impl<F: Future, T: Unpin> Future for Owning<F, T> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(context)
    }
}

pub fn owning<F: Future, T: Unpin>(owned: T, future: F) -> Owning<F, T> {
    let future = Box::pin(future);
    Owning { future, owned }
}

/// Counts how often its waker was woken. For futures that are polled by hand.
#[derive(Default)]
pub struct Wakes(Arc<Counter>);

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    pub fn new() -> Wakes {
        Wakes::default()
    }

    pub fn count(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Whether somebody has the waker still.
    pub fn is_kept(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.0));
        future.poll(&mut task::Context::from_waker(&waker))
    }
}
