//! Requests that wait for other clients ([MS-SMB2] 3.3.4.2, 3.3.5.16).
//!
//! An [`Exchange`] is one message on its way, with the responses so far. A
//! request of it that has to wait [gets an interim response](Exchange::wait_for)
//! and a [`Waiter`] in the connection's table, through which others end the
//! waiting.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Connection;
use super::protection::{Protection, Seal};
use super::reply::Frame;
use crate::outgoing::Outgoing;
use crate::wire::file::FileId;
use crate::wire::header::{self, Command, Header, ResponseHeader};
use crate::wire::status::Status;

/// The most requests of one connection that wait.
const MAX_PENDING: usize = 512;

/// Why a request waits no longer, though what it waits for has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// By CANCEL.
    Cancelled,
    /// Its file was closed.
    Closed,
    /// Its tree connect has ended, and so has the open.
    Disconnected,
    /// Its session has ended, and so has the open.
    LoggedOff,
    /// It may not wait: in the midst of a compound, or one too many.
    Refused(Status),
}

impl Interrupt {
    /// The status for a request that has no other for being cancelled.
    pub(super) fn status(self) -> Status {
        match self {
            Interrupt::Refused(status) => status,
            Interrupt::Cancelled
            | Interrupt::Closed
            | Interrupt::Disconnected
            | Interrupt::LoggedOff => Status::CANCELLED,
        }
    }
}

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    message_id: u64,
    session_id: u64,
    tree_id: u32,
    file_id: Option<FileId>,
    interrupt: Cell<Option<Interrupt>>,
    waker: RefCell<Option<Waker>>,
}

/// The requests of a connection that wait, by AsyncId.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiters: RefCell<BTreeMap<u64, Rc<Waiter>>>,
    last_id: Cell<u64>,
}

impl Pending {
    fn len(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// CANCEL: by AsyncId if there is one, else by MessageId.
    pub(super) fn cancel(&self, request: &Header) {
        self.interrupt(Interrupt::Cancelled, |id, waiter| {
            if request.flags & header::FLAG_ASYNC != 0 {
                id == request.async_id()
            } else {
                waiter.message_id == request.message_id
            }
        });
    }

    /// A file is closed.
    pub(super) fn close(&self, session_id: u64, file_id: FileId) {
        self.interrupt(Interrupt::Closed, |_, waiter| {
            waiter.session_id == session_id && waiter.file_id == Some(file_id)
        });
    }

    /// A tree connect ends.
    pub(super) fn disconnect(&self, session_id: u64, tree_id: u32) {
        self.interrupt(Interrupt::Disconnected, |_, waiter| {
            waiter.session_id == session_id && waiter.tree_id == tree_id
        });
    }

    /// A session ends.
    pub(super) fn log_off(&self, session_id: u64) {
        self.interrupt(Interrupt::LoggedOff, |_, waiter| {
            waiter.session_id == session_id
        });
    }

    fn interrupt(&self, interrupt: Interrupt, concerns: impl Fn(u64, &Waiter) -> bool) {
        let concerned: Vec<Rc<Waiter>> = self
            .waiters
            .borrow()
            .iter()
            .filter(|&(&id, waiter)| concerns(id, waiter))
            .map(|(_, waiter)| Rc::clone(waiter))
            .collect();
        for waiter in concerned {
            if waiter.interrupt.get().is_none() {
                waiter.interrupt.set(Some(interrupt));
            }
            let waker = waiter.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The turn of a message: until it is dropped the connection is busy.
#[derive(Debug)]
pub(super) struct Turn(Rc<Connection>);

impl Turn {
    pub(super) fn begin(connection: &Rc<Connection>) -> Self {
        connection.is_busy.set(true);
        Turn(Rc::clone(connection))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.is_busy.set(false);
    }
}

/// A request as its interim response needs it.
#[derive(Debug, Clone)]
struct Current {
    header: Header,
    session_id: u64,
    protection: Protection,
    async_id: Option<u64>,
}

/// A message being processed.
#[derive(Debug)]
pub(super) struct Exchange {
    connection: Rc<Connection>,
    turn: RefCell<Option<Turn>>,
    /// The responses so far; elsewhere while one is appended.
    frame: RefCell<Frame>,
    /// What the responses are encrypted with.
    seal: Option<Seal>,
    /// The request at hand.
    current: RefCell<Option<Current>>,
}

impl Exchange {
    pub(super) fn new(connection: &Rc<Connection>, turn: Turn, seal: Option<Seal>) -> Self {
        Exchange {
            connection: Rc::clone(connection),
            turn: RefCell::new(Some(turn)),
            frame: RefCell::new(Frame::new(seal.clone(), &connection.buffers)),
            seal,
            current: RefCell::new(None),
        }
    }

    /// What its responses are encrypted with.
    pub(super) fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// Goes on to the next request.
    pub(super) fn begin(&self, header: &Header, session_id: u64, protection: Protection) {
        *self.current.borrow_mut() = Some(Current {
            header: *header,
            session_id,
            protection,
            async_id: None,
        });
    }

    /// The AsyncId of the request at hand, if it has got an interim response.
    pub(super) fn async_id(&self) -> Option<u64> {
        self.current.borrow().as_ref()?.async_id
    }

    /// Says what becomes of the response at hand, now that the request has decided it. An
    /// encrypted one needs no signature.
    pub(super) fn protect(&self, protection: Protection) {
        if self.seal.is_none()
            && let Some(current) = &mut *self.current.borrow_mut()
        {
            current.protection = protection;
        }
    }

    /// What the response at hand is signed with.
    pub(super) fn protection(&self) -> Protection {
        let current = self.current.borrow();
        current
            .as_ref()
            .map(|current| current.protection.clone())
            .unwrap_or_default()
    }

    /// The frame that the response to the request at hand is appended to.
    pub(super) fn frame_for(&self, command: Command) -> Frame {
        let mut frame = self.frame.borrow_mut();
        let may_wait = matches!(
            command,
            Command::Create | Command::Lock | Command::ChangeNotify | Command::SetInfo
        );
        if may_wait && !frame.is_empty() {
            frame.another()
        } else {
            frame.take()
        }
    }

    /// Takes back what [`frame_for`](Self::frame_for) has handed out.
    pub(super) fn put_back(&self, frame: Frame) {
        self.frame.borrow_mut().append(frame);
    }

    /// The frame to be sent at the end.
    pub(super) fn finish(&self) -> Option<Outgoing> {
        self.frame.borrow_mut().take().finish()
    }

    /// Awaits what depends on another client, after an interim response.
    ///
    /// # Errors
    ///
    /// Somebody has ended the waiting, or it is not allowed. `future` has been
    /// dropped.
    pub(super) async fn wait_for<F: Future>(
        &self,
        tree_id: u32,
        file_id: Option<FileId>,
        future: F,
    ) -> Result<F::Output, Interrupt> {
        let mut future = pin!(future);
        let mut place: Option<Place> = None;
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let place = match &place {
                Some(place) => place,
                None => match self.enter(tree_id, file_id) {
                    Ok(entered) => place.insert(entered),
                    Err(status) => return Poll::Ready(Err(Interrupt::Refused(status))),
                },
            };
            match place.waiter.interrupt.get() {
                Some(interrupt) => Poll::Ready(Err(interrupt)),
                None => {
                    *place.waiter.waker.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Makes the request at hand one that waits.
    fn enter(&self, tree_id: u32, file_id: Option<FileId>) -> Result<Place, Status> {
        let pending = &self.connection.pending;
        let mut current = self.current.borrow_mut();
        let current = current.as_mut().ok_or(Status::INTERNAL_ERROR)?;
        let is_last = current.header.next_command == 0;
        // These wait for an oplock's break, which is over some time. Linux's client opens, renames
        // and closes in one compound, while it has the file to be replaced open itself.
        let ends = [Command::Create as u16, Command::SetInfo as u16];
        if !is_last && !ends.contains(&current.header.command) {
            return Err(Status::INTERNAL_ERROR);
        }
        if pending.len() >= MAX_PENDING {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let id = current.async_id.unwrap_or_else(|| {
            pending.last_id.set(pending.last_id.get() + 1);
            pending.last_id.get()
        });
        let waiter = Rc::new(Waiter {
            message_id: current.header.message_id,
            session_id: current.session_id,
            tree_id,
            file_id,
            interrupt: Cell::new(None),
            waker: RefCell::new(None),
        });
        pending.waiters.borrow_mut().insert(id, Rc::clone(&waiter));
        // In the midst of a compound these wait without telling: the responses
        // would not be a compound any more.
        if is_last && current.async_id.is_none() {
            current.async_id = Some(id);
            let earlier = self.frame.borrow_mut().take();
            let mut interim = earlier.another();
            self.connection.send(earlier.finish());
            interim.start_response(current.session_id, 0);
            interim.put_interim();
            let header = &current.header;
            let mut window = self.connection.window.borrow_mut();
            interim.finish_response(
                &ResponseHeader {
                    credit_charge: header.credit_charge,
                    command: header.command,
                    status: Status::PENDING,
                    credit_response: window.grant(header.credit_request),
                    flags: 0,
                    message_id: header.message_id,
                    process_id: header.process_id,
                    tree_id,
                    session_id: current.session_id,
                    async_id: Some(id),
                },
                current.protection.clone(),
            );
            self.connection.send(interim.finish());
        }
        self.turn.take();
        Ok(Place {
            connection: Rc::clone(&self.connection),
            id,
            waiter,
        })
    }
}

/// An entry in the table of those that wait.
struct Place {
    connection: Rc<Connection>,
    id: u64,
    waiter: Rc<Waiter>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection
            .pending
            .waiters
            .borrow_mut()
            .remove(&self.id);
    }
}
