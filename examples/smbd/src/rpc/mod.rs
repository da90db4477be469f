//! DCE/RPC over a named pipe: the connection-oriented protocol of C706
//! chapter 12 with the profile of [MS-RPCE], and three interfaces: `srvsvc`,
//! `wkssvc` and `lsarpc`.
//!
//! A [`Pipe`] is what an open of `srvsvc` on `IPC$`, say, reads from and writes to.
//! It takes bytes as they are written, acts on each complete PDU at once, and
//! keeps the answers as messages, one a fragment, until they are read. Only
//! NDR32 in little-endian is spoken and no authentication above the session's;
//! whatever else a client proposes is refused in the protocol's own words.

pub mod accounts;
pub mod lsarpc;
pub mod ndr;
pub mod pdu;
pub mod srvsvc;
pub mod wkssvc;

use std::collections::VecDeque;

use crate::wire::{Malformed, text};
use accounts::Accounts;
use pdu::{Bind, Kind, Pdu, Syntax};

/// The largest fragment sent or received.
pub const MAX_FRAGMENT: usize = 4280;
/// The longest request, all fragments together.
const MAX_REQUEST: usize = 256 * 1024;
/// With more answers than this unread, in fragments, nothing more is executed.
const MAX_WAITING: usize = 64;

/// What the machine says it is in, as it is in no domain.
const WORKGROUP: &str = "WORKGROUP";

/// What the services tell.
#[derive(Debug, Clone)]
pub struct Server<'a> {
    /// The server's name.
    pub name: &'a str,
    /// Its shares.
    pub shares: Vec<srvsvc::ShareEntry<'a>>,
    /// Who asks, if that has been proved.
    pub user: Option<&'a str>,
    /// The names of system users and groups that they may know.
    pub accounts: &'a Accounts,
}

/// What is at the other end of a pipe. Each has an interface of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specifications'
pub enum Service {
    Srvsvc,
    Wkssvc,
    Lsarpc,
}

impl Service {
    const ALL: [Service; 3] = [Service::Srvsvc, Service::Wkssvc, Service::Lsarpc];

    /// The service behind the pipe of this name.
    pub fn of_pipe(name: &str) -> Option<Service> {
        let mut all = Service::ALL.into_iter();
        all.find(|service| text::same_name(service.name(), name))
    }

    fn name(self) -> &'static str {
        match self {
            Service::Srvsvc => "srvsvc",
            Service::Wkssvc => "wkssvc",
            Service::Lsarpc => "lsarpc",
        }
    }

    fn interface(self) -> Syntax {
        match self {
            Service::Srvsvc => Syntax::SRVSVC,
            Service::Wkssvc => Syntax::WKSSVC,
            Service::Lsarpc => Syntax::LSARPC,
        }
    }
}

/// The client has broken the protocol or does not read its answers; nothing
/// more can be done with the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipeBroken;

impl From<Malformed> for PipeBroken {
    fn from(_: Malformed) -> Self {
        PipeBroken
    }
}

/// A request whose fragments are still arriving.
#[derive(Debug)]
struct Call {
    id: u32,
    context: u16,
    operation: u16,
    stub: Vec<u8>,
}

/// One open of a pipe.
#[derive(Debug)]
pub struct Pipe {
    service: Service,
    /// What has been opened through it.
    handles: lsarpc::Handles,
    /// Bytes of a PDU that is not complete yet.
    incoming: Vec<u8>,
    call: Option<Call>,
    /// Presentation contexts that have been accepted.
    contexts: Vec<u16>,
    /// Largest fragment the client takes; 0 before the bind.
    max_fragment: usize,
    outgoing: VecDeque<Vec<u8>>,
    /// How much of the first outgoing message has been read.
    read: usize,
}

impl Pipe {
    /// A pipe just opened.
    pub fn new(service: Service) -> Self {
        Pipe {
            service,
            handles: lsarpc::Handles::default(),
            incoming: Vec::new(),
            call: None,
            contexts: Vec::new(),
            max_fragment: 0,
            outgoing: VecDeque::new(),
            read: 0,
        }
    }

    /// Takes bytes written by the client and answers the PDUs they complete.
    ///
    /// # Errors
    ///
    /// [`PipeBroken`]: close the pipe.
    pub fn write(&mut self, bytes: &[u8], server: &Server<'_>) -> Result<(), PipeBroken> {
        self.incoming.extend_from_slice(bytes);
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut done = 0;
        while let Some(length) = pdu::fragment_length(&incoming[done..])? {
            if length > MAX_FRAGMENT.max(self.max_fragment) {
                return Err(PipeBroken);
            }
            let Some(fragment) = incoming.get(done..done + length) else {
                break;
            };
            if self.outgoing.len() > MAX_WAITING {
                return Err(PipeBroken);
            }
            self.act(&Pdu::parse(fragment)?, server)?;
            done += length;
        }
        incoming.drain(..done);
        self.incoming = incoming;
        Ok(())
    }

    /// Reads from the first waiting message into `out`, at most `max` bytes.
    /// Says whether some of that message remains, or `None` if there is none.
    pub fn read(&mut self, max: usize, out: &mut Vec<u8>) -> Option<bool> {
        let message = self.outgoing.front()?;
        let rest = &message[self.read..];
        let taken = rest.len().min(max);
        out.extend_from_slice(&rest[..taken]);
        if taken < rest.len() {
            self.read += taken;
            Some(true)
        } else {
            self.outgoing.pop_front();
            self.read = 0;
            Some(false)
        }
    }

    /// Bytes waiting in all messages, and unread bytes of the first.
    pub fn waiting(&self) -> (usize, usize) {
        let all: usize = self.outgoing.iter().map(Vec::len).sum();
        let first = self.outgoing.front().map_or(0, Vec::len);
        (all - self.read, first - self.read)
    }

    fn act(&mut self, pdu: &Pdu<'_>, server: &Server<'_>) -> Result<(), PipeBroken> {
        match pdu.kind {
            Kind::Bind | Kind::AlterContext => {
                if pdu.auth_length > 0 {
                    self.outgoing.push_back(pdu::bind_nak(pdu.call_id));
                    return Ok(());
                }
                if pdu.kind == Kind::AlterContext && self.max_fragment == 0 {
                    return Err(PipeBroken); // nothing to alter before a bind
                }
                let answer = self.bind(pdu, &Bind::parse(pdu.body)?);
                self.outgoing.push_back(answer);
            }
            Kind::Request => self.request(pdu, server)?,
            // The call these concern has been answered by now.
            Kind::Cancel | Kind::Orphaned => {}
        }
        Ok(())
    }

    fn bind(&mut self, pdu: &Pdu<'_>, bind: &Bind) -> Vec<u8> {
        // 1432 is what every implementation has to take (C706 12.6.3.1).
        let fragment = usize::from(bind.max_receive).clamp(1432, MAX_FRAGMENT);
        if pdu.kind == Kind::Bind {
            self.contexts.clear();
            self.max_fragment = fragment;
        }
        let results: Vec<_> = bind
            .contexts
            .iter()
            .map(|context| {
                if context.interface != self.service.interface() {
                    pdu::ContextResult::UnknownInterface
                } else if !context.transfer.contains(&Syntax::NDR32) {
                    pdu::ContextResult::UnknownTransferSyntax
                } else {
                    if !self.contexts.contains(&context.id) {
                        self.contexts.push(context.id);
                    }
                    pdu::ContextResult::Accepted
                }
            })
            .collect();
        let address = format!("\\PIPE\\{}", self.service.name());
        pdu::bind_ack(pdu, self.max_fragment as u16, &address, &results)
    }

    fn request(&mut self, pdu: &Pdu<'_>, server: &Server<'_>) -> Result<(), PipeBroken> {
        let request = pdu::Request::parse(pdu)?;
        let mut call = match self.call.take() {
            None if pdu.is_first() => Call {
                id: pdu.call_id,
                context: request.context,
                operation: request.operation,
                stub: Vec::new(),
            },
            Some(call) if !pdu.is_first() && call.id == pdu.call_id => call,
            _ => return Err(PipeBroken),
        };
        call.stub.extend_from_slice(request.stub);
        if call.stub.len() > MAX_REQUEST {
            return Err(PipeBroken);
        }
        if !pdu.is_last() {
            self.call = Some(call);
            return Ok(());
        }
        let answer = if self.contexts.contains(&call.context) {
            match self.service {
                Service::Srvsvc => srvsvc::call(call.operation, &call.stub, server),
                Service::Wkssvc => wkssvc::call(call.operation, &call.stub, server),
                Service::Lsarpc => {
                    lsarpc::call(call.operation, &call.stub, server, &mut self.handles)
                }
            }
        } else {
            Err(pdu::Fault::UnknownInterface)
        };
        match answer {
            Ok(stub) => {
                self.outgoing.extend(pdu::response(
                    call.id,
                    call.context,
                    &stub,
                    self.max_fragment,
                ));
            }
            Err(fault) => {
                self.outgoing
                    .push_back(pdu::fault(call.id, call.context, fault));
            }
        }
        Ok(())
    }
}
