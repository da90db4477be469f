//! The server's side of the protocol ([MS-SMB2] 3.3): messages in, reply
//! frames out.
//!
//! A [`Connection`] knows nothing of sockets, events or time. Whoever reads
//! messages off a socket hands them to [`Connection::process`], which is a
//! future, polls that, and sends what [`Connection::next_reply`] returns then.
//! Most requests are answered in the first poll. Some have to wait:
//!
//! * shortly, for what clients share to be looked up. Until that is done the
//!   connection [is busy](Connection::is_busy), and no other message is to be
//!   processed, so that requests take effect in the order they came in;
//! * or for another client, for as long as that takes
//!   (`Request::wait_for`). Such a request gets
//!   an interim response with `STATUS_PENDING`, the connection is not busy
//!   with it, and CANCEL, CLOSE, TREE_DISCONNECT and LOGOFF end the waiting.
//!
//! Dropping the future gives up what it waits for.
//!
//! # For those who write handlers
//!
//! A handler is a function of [`Connection`] in the file of its request. It
//! parses the request, looks up session, tree connect and open, and appends
//! its response's body to the reply. It is `async` if it ever has to wait. No
//! `RefCell` may be borrowed over an `.await`: other requests run meanwhile,
//! and may close the open or end the session that this one is about. Signatures
//! and encryption are the matter of `protection`.

mod copy;
mod create;
mod credits;
mod error;
mod host;
mod io;
mod ioctl;
mod lock;
mod negotiate;
mod notify;
mod open;
mod oplock;
mod pending;
mod protection;
mod query;
mod rename;
mod reply;
mod request;
mod session;
mod set_info;
mod tree;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Config;
use crate::outgoing::{Buffers, Outgoing};
use crate::share::changes::Changes;
use crate::sharing::{Break, Link, Notice, Port, SessionNotice};
use crate::transport::Message;
use crate::wire::file::FileId;
use crate::wire::header::{self, Command, HEADER_LEN, Header, ResponseHeader};
use crate::wire::negotiate::Dialect;
use crate::wire::session as wire_session;
use crate::wire::status::Status;
use credits::CreditWindow;
pub use error::ProtocolError;
use error::{Outcome, Refusal};
pub use host::{Host, NoHost};
use negotiate::Negotiation;
use open::Links;
use pending::{Exchange, Pending, Turn};
use reply::Reply;
use request::Request;
use session::Session;

/// The most requests of a compound. Clients put three or four together; the
/// bound keeps the errors that answer a hostile one within a frame.
const MAX_COMPOUND: usize = 1024;

/// What every response fits into but those that check for their own size.
const SMALL_RESPONSE: usize = 64 * 1024;

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    host: Box<dyn Host>,
    /// Who it is, for the log.
    peer: String,
    negotiation: RefCell<Negotiation>,
    window: RefCell<CreditWindow>,
    sessions: RefCell<HashMap<u64, Rc<Session>>>,
    /// The names by which the client has something open.
    links: RefCell<Links>,
    /// The directories that the client watches.
    changes: Changes,
    /// The way to what all clients share.
    port: Rc<Port>,
    /// Requests that wait for other clients.
    pending: Pending,
    /// Somebody has logged on.
    is_authenticated: Cell<bool>,
    /// Of files whose CREATE has been granted but not been answered.
    early_breaks: RefCell<Vec<Break>>,
    /// A message is being processed that others must not overtake.
    is_busy: Cell<bool>,
    /// Frames to be sent.
    replies: RefCell<VecDeque<Outgoing>>,
    /// Where they are built.
    buffers: Buffers,
}

/// Whether processing a message changes no file: data of the replies before it may still be
/// in its file afterwards.
pub fn leaves_files_alone(message: &[u8]) -> bool {
    let is_harmless = |header: Header| {
        header.next_command == 0
            && matches!(
                Command::from_code(header.command),
                Some(Command::Read | Command::Echo | Command::QueryInfo | Command::QueryDirectory)
            )
    };
    Header::parse(message).is_ok_and(is_harmless)
}

/// What a related request takes over from the request before it ([MS-SMB2] 3.3.5.2.7.2).
#[derive(Debug, Clone, Copy)]
struct Chain {
    session_id: u64,
    tree_id: u32,
    file_id: Option<FileId>,
    /// The status of the first request, if it failed, or of one that failed before it had a file,
    /// such as a CREATE: what is related to it fails alike. No other failure spreads; a CLOSE has to work after CREATE and a failed READ.
    failed: Option<Status>,
}

impl Connection {
    /// A connection just accepted from `peer`, a name for log lines, in the
    /// process `host`. What it asks the parent goes over `link`, and what that answers is to be
    /// [delivered](Connection::deliver).
    pub fn new(
        config: Arc<Config>,
        peer: impl std::fmt::Display,
        link: Rc<dyn Link>,
        host: Box<dyn Host>,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            config,
            host,
            peer: peer.to_string(),
            negotiation: RefCell::new(Negotiation::Open),
            window: RefCell::new(CreditWindow::new()),
            sessions: RefCell::default(),
            links: RefCell::default(),
            changes: Changes::default(),
            port: Port::new(link),
            pending: Pending::default(),
            is_authenticated: Cell::new(false),
            early_breaks: RefCell::default(),
            is_busy: Cell::new(false),
            replies: RefCell::default(),
            buffers: Buffers::default(),
        })
    }

    /// Whether the next message has to wait, as the one at hand would be overtaken.
    pub fn is_busy(&self) -> bool {
        self.is_busy.get()
    }

    /// Whether somebody has logged on, be it as a guest.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated.get()
    }

    /// How many files, directories and pipes the client has open. A client
    /// that has none loses nothing when an idle connection is dropped.
    pub fn open_count(&self) -> usize {
        let sessions = self.sessions.borrow();
        sessions
            .values()
            .map(|session| session.opens.borrow().len())
            .sum()
    }

    /// Takes the next frame to be sent, framing header included.
    pub fn next_reply(&self) -> Option<Outgoing> {
        self.replies.borrow_mut().pop_front()
    }

    /// What replies are built in, and what has been sent of them goes back to.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Takes what the parent has sent. Futures that wait for it are woken, and
    /// there may be [replies](Connection::next_reply).
    ///
    /// What is returned is to be done meanwhile, at its own pace.
    #[must_use]
    pub fn deliver(self: &Rc<Self>, notice: Notice) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        if let Notice::Session(SessionNotice::End { session }) = notice {
            log::info!("{}: session {session:#x} was replaced", self.peer);
            let connection = Rc::clone(self);
            return Some(Box::pin(async move {
                connection.end_session(session).await;
            }));
        }
        let is_restriction = matches!(notice, Notice::Restrict { .. });
        if let Some(broken) = self.port.deliver(notice) {
            self.send_break(broken);
        }
        if is_restriction {
            self.wake_watches();
        }
        None
    }

    /// What becomes readable when a directory that the client watches has
    /// changed; nothing before it watches one.
    pub fn changes_source(&self) -> Option<Rc<OwnedFd>> {
        self.changes.source()
    }

    /// Takes in what has changed. Futures that wait for it are woken.
    pub fn read_changes(&self) {
        self.changes.read();
    }

    /// Ends all sessions, and with them all opens, in order. Nothing more is to
    /// be processed.
    pub async fn shut_down(self: Rc<Self>) {
        loop {
            let id = self.sessions.borrow().keys().next().copied();
            let Some(id) = id else { return };
            self.end_session(id).await;
        }
    }

    fn send(&self, frame: Option<Outgoing>) {
        self.replies.borrow_mut().extend(frame);
    }

    /// Processes one complete message, without its framing header. What is to
    /// be sent, now and in polls to come, is had from [`Connection::next_reply`].
    ///
    /// It is to be polled once at once, and no other message processed while
    /// the connection [is busy](Connection::is_busy).
    ///
    /// # Errors
    ///
    /// The connection has to be dropped, when the replies up to here have been sent.
    pub async fn process(self: Rc<Self>, mut message: Message) -> Result<(), ProtocolError> {
        let turn = Turn::begin(&self);
        let (range, seal) = match message.first_chunk::<4>() {
            Some(&header::PROTOCOL_SMB2) => (0..message.len(), None),
            Some(&header::PROTOCOL_SMB1) => {
                self.send(self.negotiate_smb1(&message)?.finish());
                return Ok(());
            }
            Some(&header::PROTOCOL_TRANSFORM) => {
                let (range, seal) = self.decrypt(&mut message)?;
                (range, Some(seal))
            }
            Some(&header::PROTOCOL_COMPRESSED) => return Err(ProtocolError::Compressed),
            _ => return Err(ProtocolError::Header),
        };
        let exchange = Exchange::new(&self, turn, seal);
        let mut chain = None;
        let mut rest = &mut message[range];
        for _ in 0..MAX_COMPOUND {
            let header = Header::parse(rest).map_err(|_| ProtocolError::Header)?;
            let next = header.next_command as usize;
            let (element, others) = if next == 0 {
                rest.split_at_mut(rest.len())
            } else if next >= HEADER_LEN && next.is_multiple_of(8) && next < rest.len() {
                rest.split_at_mut(next)
            } else {
                return Err(ProtocolError::Compound);
            };
            self.process_one(&header, element, &mut chain, &exchange)
                .await?;
            if next == 0 {
                self.send(exchange.finish());
                for broken in self.early_breaks.take() {
                    self.send_break(broken);
                }
                return Ok(());
            }
            rest = others;
        }
        Err(ProtocolError::Compound)
    }

    async fn process_one(
        &self,
        header: &Header,
        message: &mut [u8],
        chain: &mut Option<Chain>,
        exchange: &Exchange,
    ) -> Result<(), ProtocolError> {
        if header.flags & header::FLAG_RESPONSE != 0 {
            return Err(ProtocolError::NotARequest);
        }
        let known = Command::from_code(header.command);
        let command = match known {
            Some(command) => command,
            None if chain.is_none() => return Err(ProtocolError::UnknownCommand(header.command)),
            // What came before it in the compound is to be answered, and so is this.
            None => Command::Echo,
        };
        if command == Command::Cancel {
            // It takes no message id and gets no answer (3.3.5.16).
            let (_, checked) =
                self.check_protection(header, header.session_id, 0, message, exchange.seal());
            return match checked {
                Ok(()) => {
                    self.pending.cancel(header);
                    Ok(())
                }
                Err(Refusal::Disconnect(error)) => Err(error),
                Err(_) => Ok(()),
            };
        }
        if !self
            .window
            .borrow_mut()
            .consume(header.message_id, header.credit_charge)
        {
            return Err(ProtocolError::MessageId(header.message_id));
        }
        let dialect = self.negotiation.borrow().dialect();
        if command != Command::Negotiate && dialect.is_none() {
            return Err(ProtocolError::NotNegotiated);
        }

        let related = header.flags & header::FLAG_RELATED != 0;
        let inherited = chain.filter(|_| related);
        let session_id = inherited.map_or(header.session_id, |chain| chain.session_id);
        let tree_id = inherited.map_or(header.tree_id, |chain| chain.tree_id);
        let seal = exchange.seal();
        let (protection, checked) =
            self.check_protection(header, session_id, tree_id, message, seal);
        // In an encrypted compound another session's request is refused by itself.
        let checked = match checked {
            Err(Refusal::Disconnect(ProtocolError::Tampered))
                if chain.is_some() || header.next_command != 0 =>
            {
                let failed = inherited.and_then(|chain| chain.failed);
                Err(failed.unwrap_or(Status::USER_SESSION_DELETED).into())
            }
            checked => checked,
        };
        exchange.begin(header, session_id, protection);
        let request = Request {
            message,
            command,
            session_id,
            tree_id,
            related_file: inherited.and_then(|chain| chain.file_id),
            credit_charge: header.credit_charge,
            channel_sequence: dialect
                .filter(|&dialect| dialect >= Dialect::Smb300)
                .map(|_| header.channel_sequence),
            dialect,
            exchange,
        };
        // What may wait has a frame of its own: the responses before it are not
        // to wait with it.
        let mut frame = exchange.frame_for(command);
        let is_only = frame.is_empty() && header.next_command == 0 && chain.is_none();
        let mut reply = frame.start_response(session_id, tree_id);
        reply.takes_file = is_only && seal.is_none() && exchange.protection().is_none();
        let is_first = related && inherited.is_none();
        let outcome = match inherited {
            _ if matches!(checked, Err(Refusal::Disconnect(_))) => {
                checked.map(|()| Status::SUCCESS)
            }
            _ if is_first || known.is_none() => Err(Status::INVALID_PARAMETER.into()),
            _ if checked.is_err() => checked.map(|()| Status::SUCCESS),
            Some(Chain {
                failed: Some(status),
                ..
            }) => Err(status.into()),
            _ => match reply.check_room(SMALL_RESPONSE) {
                Ok(()) => self.dispatch(command, &request, &mut reply).await,
                Err(status) => Err(status.into()),
            },
        };
        let (session_id, tree_id) = (reply.session_id, reply.tree_id);
        let file = reply.file.take();
        let found_file = reply.file_id.is_some();
        let file_id = reply.file_id.or(request.related_file);
        let status = match outcome {
            Ok(status) => {
                frame.put_file(file);
                status
            }
            Err(refusal) => {
                frame.put_error(refusal, dialect);
                match refusal {
                    Refusal::Status(status) => status,
                    Refusal::BufferTooSmall(_) => Status::BUFFER_TOO_SMALL,
                    Refusal::Disconnect(error) => return Err(error),
                }
            }
        };
        log::trace!("{}: {command:?} {status}", self.peer);
        *chain = Some(Chain {
            session_id,
            tree_id,
            file_id,
            failed: match inherited.and_then(|chain| chain.failed) {
                // There was nothing to relate to.
                None if status == Status::USER_SESSION_DELETED
                    || status == Status::NETWORK_NAME_DELETED =>
                {
                    Some(Status::INVALID_PARAMETER)
                }
                None if status.is_error()
                    && (command == Command::Create || !found_file || !related || is_first) =>
                {
                    Some(status)
                }
                earlier => earlier,
            },
        });
        let async_id = exchange.async_id();
        frame.finish_response(
            &ResponseHeader {
                credit_charge: header.credit_charge,
                command: header.command,
                status,
                // The interim response has granted them (3.3.4.2).
                credit_response: match async_id {
                    Some(_) => 0,
                    None => self.window.borrow_mut().grant(header.credit_request),
                },
                flags: header.flags & header::FLAG_RELATED,
                message_id: header.message_id,
                process_id: header.process_id,
                tree_id,
                session_id,
                async_id,
            },
            exchange.protection(),
        );
        exchange.put_back(frame);
        Ok(())
    }

    async fn dispatch(
        &self,
        command: Command,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        match command {
            Command::Negotiate => self.negotiate(request, reply),
            Command::SessionSetup => self.session_setup(request, reply).await,
            Command::Logoff => self.logoff(request, reply).await,
            Command::TreeConnect => self.tree_connect(request, reply),
            Command::TreeDisconnect => self.tree_disconnect(request, reply).await,
            Command::Create => self.create(request, reply).await,
            Command::Close => self.close(request, reply).await,
            Command::Flush => self.flush(request, reply),
            Command::Read => self.read(request, reply).await,
            Command::Write => self.write(request, reply).await,
            Command::Lock => self.lock(request, reply).await,
            Command::Ioctl => self.ioctl(request, reply).await,
            Command::Echo => {
                wire_session::parse_empty(request.message)?;
                wire_session::put_empty(reply.out);
                Ok(Status::SUCCESS)
            }
            Command::QueryDirectory => self.query_directory(request, reply),
            Command::ChangeNotify => self.change_notify(request, reply).await,
            Command::QueryInfo => self.query_info(request, reply),
            Command::SetInfo => self.set_info(request, reply).await,
            Command::OplockBreak => self.oplock_break(request, reply),
            // Has been dealt with before, as it is never answered.
            Command::Cancel => Err(Status::INVALID_PARAMETER.into()),
        }
    }
}
