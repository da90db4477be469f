//! The PDUs of connection-oriented DCE/RPC (C706 12.6.4, [MS-RPCE] 2.2.2).

use crate::wire::{Malformed, Put, Reader};

const HEADER_LEN: usize = 16;
const PFC_FIRST_FRAG: u8 = 0x01;
const PFC_LAST_FRAG: u8 = 0x02;
const PFC_OBJECT_UUID: u8 = 0x80;
/// Little-endian integers, ASCII, IEEE floats.
const DATA_REPRESENTATION: [u8; 4] = [0x10, 0, 0, 0];

const RESPONSE: u8 = 2;
const FAULT: u8 = 3;
const BIND_ACK: u8 = 12;
const BIND_NAK: u8 = 13;
const ALTER_CONTEXT_RESP: u8 = 15;

/// The kinds a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Kind {
    Request,
    Bind,
    AlterContext,
    Cancel,
    Orphaned,
}

/// An interface or a transfer syntax: its UUID as on the wire, and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syntax {
    uuid: [u8; 16],
    version: u32,
}

impl Syntax {
    /// srvsvc, 4b324fc8-1670-01d3-1278-5a47bf6ee188 version 3.0
    pub const SRVSVC: Syntax = Syntax {
        uuid: [
            0xC8, 0x4F, 0x32, 0x4B, 0x70, 0x16, 0xD3, 0x01, 0x12, 0x78, 0x5A, 0x47, 0xBF, 0x6E,
            0xE1, 0x88,
        ],
        version: 3,
    };
    /// wkssvc, 6bffd098-a112-3610-9833-46c3f87e345a version 1.0
    pub const WKSSVC: Syntax = Syntax {
        uuid: [
            0x98, 0xD0, 0xFF, 0x6B, 0x12, 0xA1, 0x10, 0x36, 0x98, 0x33, 0x46, 0xC3, 0xF8, 0x7E,
            0x34, 0x5A,
        ],
        version: 1,
    };
    /// lsarpc, 12345778-1234-abcd-ef00-0123456789ab version 0.0
    pub const LSARPC: Syntax = Syntax {
        uuid: [
            0x78, 0x57, 0x34, 0x12, 0x34, 0x12, 0xCD, 0xAB, 0xEF, 0x00, 0x01, 0x23, 0x45, 0x67,
            0x89, 0xAB,
        ],
        version: 0,
    };
    /// NDR, 8a885d04-1ceb-11c9-9fe8-08002b104860 version 2.0
    pub const NDR32: Syntax = Syntax {
        uuid: [
            0x04, 0x5D, 0x88, 0x8A, 0xEB, 0x1C, 0xC9, 0x11, 0x9F, 0xE8, 0x08, 0x00, 0x2B, 0x10,
            0x48, 0x60,
        ],
        version: 2,
    };
    const NONE: Syntax = Syntax {
        uuid: [0; 16],
        version: 0,
    };

    fn parse(r: &mut Reader<'_>) -> Result<Syntax, Malformed> {
        Ok(Syntax {
            uuid: r.array()?,
            version: r.u32()?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.uuid);
        out.put_u32(self.version);
    }
}

/// The length of the fragment at the beginning of `bytes`, once it can be told.
///
/// # Errors
///
/// [`Malformed`] when the length has no room for a header.
pub fn fragment_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes {
        [_, _, _, _, _, _, _, _, low, high, ..] => {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            (length >= HEADER_LEN)
                .then_some(Some(length))
                .ok_or(Malformed)
        }
        _ => Ok(None),
    }
}

/// One PDU of a client.
#[derive(Debug, Clone, Copy)]
pub struct Pdu<'a> {
    /// What it is.
    pub kind: Kind,
    flags: u8,
    /// Length of the authentication verifier's token.
    pub auth_length: u16,
    /// Ties answers to calls.
    pub call_id: u32,
    /// What follows the common header.
    pub body: &'a [u8],
}

impl<'a> Pdu<'a> {
    /// Parses one whole fragment.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also for another version, byte order, or a server's kind.
    pub fn parse(fragment: &'a [u8]) -> Result<Pdu<'a>, Malformed> {
        let mut r = Reader::new(fragment);
        if r.array()? != [5, 0] {
            return Err(Malformed);
        }
        let kind = match r.u8()? {
            0 => Kind::Request,
            11 => Kind::Bind,
            14 => Kind::AlterContext,
            18 => Kind::Cancel,
            19 => Kind::Orphaned,
            _ => return Err(Malformed),
        };
        let flags = r.u8()?;
        if r.array()? != DATA_REPRESENTATION {
            return Err(Malformed);
        }
        r.skip(2)?; // frag_length
        Ok(Pdu {
            kind,
            flags,
            auth_length: r.u16()?,
            call_id: r.u32()?,
            body: r.rest(),
        })
    }

    /// Whether a call begins with it.
    pub fn is_first(&self) -> bool {
        self.flags & PFC_FIRST_FRAG != 0
    }

    /// Whether a call ends with it.
    pub fn is_last(&self) -> bool {
        self.flags & PFC_LAST_FRAG != 0
    }
}

/// A presentation context a client proposes.
#[derive(Debug, Clone)]
pub struct Context {
    /// The client's number of it.
    pub id: u16,
    /// The interface.
    pub interface: Syntax,
    /// The transfer syntaxes to choose from.
    pub transfer: Vec<Syntax>,
}

/// The body of a bind or alter_context.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Largest fragment the client takes.
    pub max_receive: u16,
    /// The contexts proposed.
    pub contexts: Vec<Context>,
}

impl Bind {
    /// Parses the body.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is cut short.
    pub fn parse(body: &[u8]) -> Result<Bind, Malformed> {
        let mut r = Reader::new(body);
        r.skip(2)?; // max_xmit_frag: fragments are taken as they come
        let max_receive = r.u16()?;
        r.skip(4)?; // assoc_group_id
        let count = r.u8()?;
        r.skip(3)?;
        let mut contexts = Vec::new();
        for _ in 0..count {
            let id = r.u16()?;
            let transfer_count = r.u8()?;
            r.skip(1)?;
            let interface = Syntax::parse(&mut r)?;
            let transfer = (0..transfer_count)
                .map(|_| Syntax::parse(&mut r))
                .collect::<Result<_, _>>()?;
            contexts.push(Context {
                id,
                interface,
                transfer,
            });
        }
        Ok(Bind {
            max_receive,
            contexts,
        })
    }
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The presentation context.
    pub context: u16,
    /// The operation's number.
    pub operation: u16,
    /// The arguments.
    pub stub: &'a [u8],
}

impl<'a> Request<'a> {
    /// Parses the body.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is cut short or carries a verifier, as no bind
    /// with authentication is ever accepted.
    pub fn parse(pdu: &Pdu<'a>) -> Result<Request<'a>, Malformed> {
        if pdu.auth_length > 0 {
            return Err(Malformed);
        }
        let mut r = Reader::new(pdu.body);
        r.skip(4)?; // alloc_hint
        let context = r.u16()?;
        let operation = r.u16()?;
        if pdu.flags & PFC_OBJECT_UUID != 0 {
            r.skip(16)?;
        }
        Ok(Request {
            context,
            operation,
            stub: r.rest(),
        })
    }
}

/// How a proposed context is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextResult {
    /// Accepted with NDR32.
    Accepted,
    /// Provider rejection: abstract_syntax_not_supported.
    UnknownInterface,
    /// Provider rejection: proposed_transfer_syntaxes_not_supported.
    UnknownTransferSyntax,
}

fn start(kind: u8, flags: u8, call_id: u32) -> Vec<u8> {
    let mut out = vec![5, 0, kind, flags];
    out.put_bytes(&DATA_REPRESENTATION);
    out.put_u16(0); // frag_length
    out.put_u16(0);
    out.put_u32(call_id);
    out
}

fn finish(mut out: Vec<u8>) -> Vec<u8> {
    let length = out.len() as u16;
    out.patch_u16(8, length);
    out
}

/// A bind_ack or alter_context_resp, whichever answers `pdu`.
pub fn bind_ack(
    pdu: &Pdu<'_>,
    max_fragment: u16,
    secondary_address: &str,
    results: &[ContextResult],
) -> Vec<u8> {
    let (kind, address) = match pdu.kind {
        Kind::AlterContext => (ALTER_CONTEXT_RESP, ""),
        _ => (BIND_ACK, secondary_address),
    };
    let mut out = start(kind, PFC_FIRST_FRAG | PFC_LAST_FRAG, pdu.call_id);
    out.put_u16(max_fragment);
    out.put_u16(max_fragment);
    out.put_u32(1); // assoc_group_id: anything but 0
    out.put_u16(address.len() as u16 + 1);
    out.put_bytes(address.as_bytes());
    out.put_u8(0);
    out.align(0, 4);
    out.put_u8(results.len() as u8);
    out.put_zeros(3);
    for result in results {
        let (code, reason, syntax) = match result {
            ContextResult::Accepted => (0, 0, Syntax::NDR32),
            ContextResult::UnknownInterface => (2, 1, Syntax::NONE),
            ContextResult::UnknownTransferSyntax => (2, 2, Syntax::NONE),
        };
        out.put_u16(code);
        out.put_u16(reason);
        syntax.put(&mut out);
    }
    finish(out)
}

/// A bind_nak: authentication_type_not_recognized.
pub fn bind_nak(call_id: u32) -> Vec<u8> {
    let mut out = start(BIND_NAK, PFC_FIRST_FRAG | PFC_LAST_FRAG, call_id);
    out.put_u16(8);
    out.put_bytes(&[1, 5, 0]); // one version is supported: 5.0
    finish(out)
}

/// Why a call cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `nca_s_op_rng_error`: no such operation.
    UnknownOperation,
    /// `nca_s_unk_if`: the context is none that was accepted.
    UnknownInterface,
    /// `nca_s_fault_context_mismatch`: the handle is none that was given out.
    ContextMismatch,
    /// `RPC_X_BAD_STUB_DATA`: the arguments cannot be decoded.
    BadStub,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::BadStub
    }
}

/// A fault that answers a call which has not been executed.
pub fn fault(call_id: u32, context: u16, fault: Fault) -> Vec<u8> {
    const PFC_DID_NOT_EXECUTE: u8 = 0x20;
    let mut out = start(
        FAULT,
        PFC_FIRST_FRAG | PFC_LAST_FRAG | PFC_DID_NOT_EXECUTE,
        call_id,
    );
    out.put_u32(0);
    out.put_u16(context);
    out.put_u16(0);
    out.put_u32(match fault {
        Fault::UnknownOperation => 0x1C01_0002,
        Fault::UnknownInterface => 0x1C01_0003,
        Fault::ContextMismatch => 0x1C00_001A,
        Fault::BadStub => 0x0000_06F7,
    });
    out.put_u32(0);
    finish(out)
}

/// The fragments of a response.
pub fn response(call_id: u32, context: u16, stub: &[u8], max_fragment: usize) -> Vec<Vec<u8>> {
    const RESPONSE_HEADER_LEN: usize = HEADER_LEN + 8;
    // Fragments but the last are multiples of 8, as C706 12.6.3.1 asks.
    let room = (max_fragment - RESPONSE_HEADER_LEN) / 8 * 8;
    let count = stub.len().div_ceil(room).max(1);
    (0..count)
        .map(|index| {
            let part = &stub[index * room..stub.len().min((index + 1) * room)];
            let mut flags = 0;
            if index == 0 {
                flags |= PFC_FIRST_FRAG;
            }
            if index + 1 == count {
                flags |= PFC_LAST_FRAG;
            }
            let mut out = start(RESPONSE, flags, call_id);
            out.put_u32((stub.len() - index * room) as u32); // alloc_hint
            out.put_u16(context);
            out.put_u16(0);
            out.put_bytes(part);
            finish(out)
        })
        .collect()
}
