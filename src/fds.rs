//! [`Fds`]: the descriptor events of a context, with the backend and the batch that is being served.

use crate::backend::mux::{Delivery, Mux};
use crate::backend::{AnyBackend, PlainWait, Ready, ReadyList, Token, WakeupTrigger};
use crate::context::Context;
use crate::flags::FdFlags;
use crate::meta::Meta;
use crate::sys::timeout::Timeout;
use crate::sys::wakeup::Wakeup;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// The wake-up descriptor's. No watch has it, see [`Slots::insert`](crate::key::Slots::insert).
fn wakeup_token() -> Token {
    Token::from_bits(u64::MAX)
}

/// The descriptor events, and the batch of ready ones that is being served.
pub(crate) struct Fds {
    pub(crate) backend: AnyBackend,
    pub(crate) mux: Mux<Rc<dyn FdHandler>>,
    ready: ReadyList,
    /// How many of `ready` are done with.
    next: usize,
    /// For how many milliseconds a settled wait waits: in `run_until`, and in `run`.
    limits: [i32; 2],
    /// Read empty when it is reported; missing if the backend reports it once for each ring.
    wakeup: Option<Rc<Wakeup>>,
}

/// A descriptor event that is to be called.
pub(crate) type ReadyFd = Delivery<Rc<dyn FdHandler>>;

/// A descriptor event's closure, together with the event that it is called with.
pub(crate) trait FdHandler {
    fn call(self: Rc<Self>, context: &Context, flags: FdFlags);

    fn meta(&self) -> &Meta;

    /// The event has ended: drops the closure, now or when it has returned.
    fn end(self: Rc<Self>);
}

/// The handler of an event that was removed. Dropping it ends the event, so that is for when nothing
/// is borrowed.
pub(crate) struct Removed(Option<Rc<dyn FdHandler>>);

impl Removed {
    pub(crate) fn new(handler: Rc<dyn FdHandler>) -> Removed {
        Removed(Some(handler))
    }

    pub(crate) fn meta(&self) -> Option<&Meta> {
        self.0.as_ref().map(|handler| handler.meta())
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(handler) = self.0.take() {
            handler.end();
        }
    }
}

impl Fds {
    /// No events yet, and room for so many in a batch.
    pub(crate) fn new(backend: AnyBackend, batch: usize) -> Fds {
        Fds {
            backend,
            mux: Mux::new(),
            ready: ReadyList::new(batch),
            next: 0,
            limits: [0; 2],
            wakeup: None,
        }
    }

    /// Registers the wake-up descriptor with a backend that doesn't know it.
    pub(crate) fn add_wakeup(&mut self, wakeup: &Rc<Wakeup>) -> io::Result<()> {
        self.mux.settle(None);
        let fd = wakeup.fd().as_raw_fd();
        self.wakeup = match self.backend.add_wakeup(fd, wakeup_token())? {
            WakeupTrigger::Level => Some(Rc::clone(wakeup)),
            WakeupTrigger::Edge => None,
        };
        Ok(())
    }

    pub(crate) fn forget_wakeup(&mut self) {
        self.wakeup = None;
    }

    /// What the batch says of the next descriptor.
    #[inline(always)]
    pub(crate) fn next(&self) -> Option<Ready> {
        self.ready.get(self.next)
    }

    /// Takes the event to be called for `ready`, which is [next](Fds::next) in the batch, if it is
    /// the only one on its descriptor.
    #[inline(always)]
    pub(crate) fn take_single(&mut self, ready: Ready) -> Option<ReadyFd> {
        let delivery = self.mux.deliver(ready)?;
        self.next += 1;
        Some(delivery)
    }

    /// Takes the next event to be called out of the batch.
    pub(crate) fn take_ready(&mut self) -> Option<ReadyFd> {
        while let Some(mut ready) = self.ready.get(self.next) {
            match self.mux.deliver_slowly(&mut ready) {
                // What is left of the report is for the others on the descriptor. Not when the
                // batch is 1, as then every handler gets a wait of its own.
                Some(delivery) if delivery.has_siblings && self.ready.limit() > 1 => {
                    self.ready.set(self.next, ready);
                    return Some(delivery);
                }
                Some(delivery) => {
                    self.next += 1;
                    return Some(delivery);
                }
                None => self.next += 1,
            }
        }
        None
    }

    /// Whether part of the batch hasn't been served yet.
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        self.ready_left() > 0
    }

    /// How many descriptors of the batch haven't been served yet.
    pub(crate) fn ready_left(&self) -> usize {
        self.ready.len().saturating_sub(self.next)
    }

    pub(crate) fn discard_ready(&mut self) {
        self.ready.clear();
        self.next = 0;
    }

    /// Finds out whether the next wait can be a plain one, provided that it is told to wait for one
    /// of these times. Returns whether it can.
    pub(crate) fn settle(&mut self, timeouts: [Timeout; 2]) -> bool {
        self.mux.settle(None);
        let whole = |timeout| match timeout {
            Timeout::ZERO | Timeout::Precise(_) => None,
            Timeout::Whole(milliseconds) => Some(milliseconds),
        };
        let [Some(until), Some(run)] = timeouts.map(whole) else {
            return false;
        };
        self.limits = [until, run];
        // A wake-up descriptor that stays readable has to be looked for.
        if self.wakeup.is_none() {
            self.mux.settle(self.backend.plain_wait(&self.ready));
        }
        self.mux.settled().is_some()
    }

    /// Fills the batch anew, in a loop that `is_run`, and says what is [next](Fds::next) in it.
    ///
    /// # Errors
    ///
    /// Nothing is: this is the wait's result.
    #[inline(always)]
    pub(crate) fn wait_plainly(
        &mut self,
        wait: PlainWait,
        is_run: bool,
    ) -> Result<Ready, io::Result<()>> {
        let result = wait.wait(self.limits[usize::from(is_run)], &mut self.ready);
        self.next = 0;
        match result {
            None => self.ready.get(0).ok_or(Ok(())),
            Some(result) => Err(result),
        }
    }

    /// Has the backend fill the batch anew.
    #[inline(always)]
    pub(crate) fn wait(&mut self, timeout: Timeout) -> io::Result<()> {
        self.next = 0;
        let result = self.backend.wait_for(timeout, &mut self.ready);
        if self.wakeup.is_some() {
            self.drain_wakeup();
        }
        result
    }

    /// Reads a reported wake-up descriptor empty, before anything of the batch is served: the loop
    /// may be left in the middle of it, and the descriptor that it lends is not to stay readable.
    #[cold]
    fn drain_wakeup(&self) {
        let reported = |at| self.ready.get(at).map(|ready| ready.token());
        if (0..)
            .map_while(reported)
            .any(|token| token == wakeup_token())
        {
            if let Some(wakeup) = &self.wakeup {
                wakeup.drain();
            }
        }
    }
}
