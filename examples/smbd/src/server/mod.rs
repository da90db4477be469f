//! The server's side of the protocol ([MS-SMB2] 3.3): one message in, at most
//! one reply frame out.
//!
//! A [`Connection`] knows nothing of sockets or time; whoever reads messages
//! off a socket hands them to [`Connection::process`] and sends what it
//! returns. Everything is answered at once: nothing here waits for anything
//! but the disk, so there are no interim responses and nothing to cancel.
//!
//! Signatures are neither checked nor made: every session is a guest's or
//! anonymous and has no key to do it with.
//!
//! The shares are read-only: there is no handler that changes a file. A request
//! that would is answered with `STATUS_ACCESS_DENIED`, because that follows
//! from what TREE_CONNECT says of the maximal access ([MS-SMB2] 3.3.5.9), and
//! because clients take `STATUS_MEDIA_WRITE_PROTECTED` for a fault of a drive
//! that they ask the user to mend.

mod create;
mod credits;
mod error;
mod io;
mod ioctl;
mod negotiate;
mod open;
mod query;
mod reply;
mod request;
mod session;
mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::wire::file::FileId;
use crate::wire::header::{self, Command, HEADER_LEN, Header, ResponseHeader};
use crate::wire::session as wire_session;
use crate::wire::status::Status;
use credits::CreditWindow;
pub use error::ProtocolError;
use error::{Outcome, Refusal};
use negotiate::Negotiation;
use reply::{Frame, Reply};
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
    /// Who it is, for the log.
    peer: String,
    negotiation: Negotiation,
    window: CreditWindow,
    sessions: HashMap<u64, Session>,
}

/// What a related request takes over from the request before it ([MS-SMB2] 3.3.5.2.7.2).
#[derive(Debug, Clone, Copy)]
struct Chain {
    session_id: u64,
    tree_id: u32,
    file_id: Option<FileId>,
    /// The status of a CREATE that failed: what is related to it fails alike.
    /// No other failure spreads; a CLOSE has to work after a failed READ.
    failed_create: Option<Status>,
}

impl Connection {
    /// A connection just accepted from `peer`, a name for log lines.
    pub fn new(config: Arc<Config>, peer: impl std::fmt::Display) -> Connection {
        Connection {
            config,
            peer: peer.to_string(),
            negotiation: Negotiation::Open,
            window: CreditWindow::new(),
            sessions: HashMap::new(),
        }
    }

    /// How many files, directories and pipes the client has open. A client
    /// that has none loses nothing when an idle connection is dropped.
    pub fn open_count(&self) -> usize {
        self.sessions
            .values()
            .map(|session| session.opens.len())
            .sum()
    }

    /// Takes one complete message, without its framing header, and returns the
    /// frame to send, framing header included; `None` when the message is not
    /// to be answered.
    ///
    /// # Errors
    ///
    /// The connection has to be dropped, without an answer.
    pub fn process(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, ProtocolError> {
        match message.first_chunk::<4>() {
            Some(&header::PROTOCOL_SMB2) => {}
            Some(&header::PROTOCOL_SMB1) => return Ok(self.negotiate_smb1(message)?.finish()),
            Some(&header::PROTOCOL_TRANSFORM) => return Err(ProtocolError::Encrypted),
            Some(&header::PROTOCOL_COMPRESSED) => return Err(ProtocolError::Compressed),
            _ => return Err(ProtocolError::Header),
        }
        let mut frame = Frame::new();
        let mut chain = None;
        let mut rest = message;
        for _ in 0..MAX_COMPOUND {
            let header = Header::parse(rest).map_err(|_| ProtocolError::Header)?;
            let next = header.next_command as usize;
            let element = if next == 0 {
                rest
            } else if next >= HEADER_LEN && next.is_multiple_of(8) && next < rest.len() {
                &rest[..next]
            } else {
                return Err(ProtocolError::Compound);
            };
            self.process_one(&header, element, &mut chain, &mut frame)?;
            if next == 0 {
                return Ok(frame.finish());
            }
            rest = &rest[next..];
        }
        Err(ProtocolError::Compound)
    }

    fn process_one(
        &mut self,
        header: &Header,
        message: &[u8],
        chain: &mut Option<Chain>,
        frame: &mut Frame,
    ) -> Result<(), ProtocolError> {
        if header.flags & header::FLAG_RESPONSE != 0 {
            return Err(ProtocolError::NotARequest);
        }
        let command = Command::from_code(header.command)
            .ok_or(ProtocolError::UnknownCommand(header.command))?;
        if command == Command::Cancel {
            // Whatever it is to cancel has been answered. It takes no message
            // id and gets no answer (3.3.5.16).
            return Ok(());
        }
        if !self.window.consume(header.message_id, header.credit_charge) {
            return Err(ProtocolError::MessageId(header.message_id));
        }
        let dialect = self.negotiation.dialect();
        if command != Command::Negotiate && dialect.is_none() {
            return Err(ProtocolError::NotNegotiated);
        }

        let related = header.flags & header::FLAG_RELATED != 0;
        let inherited = chain.filter(|_| related);
        let request = Request {
            message,
            session_id: inherited.map_or(header.session_id, |chain| chain.session_id),
            tree_id: inherited.map_or(header.tree_id, |chain| chain.tree_id),
            related_file: inherited.and_then(|chain| chain.file_id),
            credit_charge: header.credit_charge,
            dialect,
        };
        let mut reply = frame.start_response(request.session_id, request.tree_id);
        let outcome = match inherited {
            None if related => Err(Status::INVALID_PARAMETER.into()),
            Some(Chain {
                failed_create: Some(status),
                ..
            }) => Err(status.into()),
            _ => match reply.check_room(SMALL_RESPONSE) {
                Ok(()) => self.dispatch(command, &request, &mut reply),
                Err(status) => Err(status.into()),
            },
        };
        let (session_id, tree_id) = (reply.session_id, reply.tree_id);
        let file_id = reply.file_id.or(request.related_file);
        let status = match outcome {
            Ok(status) => status,
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
            failed_create: match inherited.and_then(|chain| chain.failed_create) {
                None if command == Command::Create && status.is_error() => Some(status),
                earlier => earlier,
            },
        });
        frame.finish_response(&ResponseHeader {
            credit_charge: header.credit_charge,
            command: header.command,
            status,
            credit_response: self.window.grant(header.credit_request),
            flags: header.flags & header::FLAG_RELATED,
            message_id: header.message_id,
            process_id: header.process_id,
            tree_id,
            session_id,
        });
        Ok(())
    }

    fn dispatch(
        &mut self,
        command: Command,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        match command {
            Command::Negotiate => self.negotiate(request, reply),
            Command::SessionSetup => self.session_setup(request, reply),
            Command::Logoff => self.logoff(request, reply),
            Command::TreeConnect => self.tree_connect(request, reply),
            Command::TreeDisconnect => self.tree_disconnect(request, reply),
            Command::Create => self.create(request, reply),
            Command::Close => self.close(request, reply),
            Command::Flush => self.flush(request, reply),
            Command::Read => self.read(request, reply),
            Command::Write => self.write(request, reply),
            Command::Lock => self.lock(request, reply),
            Command::Ioctl => self.ioctl(request, reply),
            Command::Echo => {
                wire_session::parse_empty(request.message)?;
                wire_session::put_empty(reply.out);
                Ok(Status::SUCCESS)
            }
            Command::QueryDirectory => self.query_directory(request, reply),
            Command::ChangeNotify => self.change_notify(request, reply),
            Command::QueryInfo => self.query_info(request, reply),
            Command::SetInfo => self.set_info(request, reply),
            Command::OplockBreak => self.oplock_break(request, reply),
            // Has been dealt with before, as it is never answered.
            Command::Cancel => Err(Status::INVALID_PARAMETER.into()),
        }
    }
}
