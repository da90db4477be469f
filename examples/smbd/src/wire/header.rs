//! The SMB2 packet header ([MS-SMB2] 2.2.1).

use super::{Malformed, Reader};
use crate::wire::status::Status;

/// Length of the SMB2 header in bytes.
pub const HEADER_LEN: usize = 64;

/// `ProtocolId` of an SMB2 message.
pub const PROTOCOL_SMB2: [u8; 4] = [0xFE, b'S', b'M', b'B'];
/// `ProtocolId` of an SMB1 message; only its NEGOTIATE is understood.
pub const PROTOCOL_SMB1: [u8; 4] = [0xFF, b'S', b'M', b'B'];
/// `ProtocolId` of an encrypted message (`SMB2 TRANSFORM_HEADER`).
pub const PROTOCOL_TRANSFORM: [u8; 4] = [0xFD, b'S', b'M', b'B'];
/// `ProtocolId` of a compressed message.
pub const PROTOCOL_COMPRESSED: [u8; 4] = [0xFC, b'S', b'M', b'B'];

/// `SMB2_FLAGS_SERVER_TO_REDIR`: the message is a response.
pub const FLAG_RESPONSE: u32 = 0x0000_0001;
/// `SMB2_FLAGS_ASYNC_COMMAND`: the header carries an AsyncId, not a TreeId.
pub const FLAG_ASYNC: u32 = 0x0000_0002;
/// `SMB2_FLAGS_RELATED_OPERATIONS`: the request inherits ids from the one before it.
pub const FLAG_RELATED: u32 = 0x0000_0004;
/// `SMB2_FLAGS_SIGNED`: the Signature field counts.
pub const FLAG_SIGNED: u32 = 0x0000_0008;

/// The command codes of SMB2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Command {
    Negotiate,
    SessionSetup,
    Logoff,
    TreeConnect,
    TreeDisconnect,
    Create,
    Close,
    Flush,
    Read,
    Write,
    Lock,
    Ioctl,
    Cancel,
    Echo,
    QueryDirectory,
    ChangeNotify,
    QueryInfo,
    SetInfo,
    OplockBreak,
}

impl Command {
    /// All commands; the position is the code.
    const ALL: [Command; 19] = [
        Command::Negotiate,
        Command::SessionSetup,
        Command::Logoff,
        Command::TreeConnect,
        Command::TreeDisconnect,
        Command::Create,
        Command::Close,
        Command::Flush,
        Command::Read,
        Command::Write,
        Command::Lock,
        Command::Ioctl,
        Command::Cancel,
        Command::Echo,
        Command::QueryDirectory,
        Command::ChangeNotify,
        Command::QueryInfo,
        Command::SetInfo,
        Command::OplockBreak,
    ];

    /// The command of a code, `None` for codes that do not exist.
    pub fn from_code(code: u16) -> Option<Command> {
        Command::ALL.get(usize::from(code)).copied()
    }
}

/// A request's header. The signature stays in the message, where it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Credits the request costs; 0 counts as 1.
    pub credit_charge: u16,
    /// How often the client has lost a channel; from SMB 3.0 on.
    pub channel_sequence: u16,
    /// The command code, possibly of a command that does not exist.
    pub command: u16,
    /// Credits the client asks for.
    pub credit_request: u16,
    /// `SMB2_FLAGS_*`.
    pub flags: u32,
    /// Offset of the next request of a compound, 0 in the last.
    pub next_command: u32,
    /// The client's number of the request.
    pub message_id: u64,
    /// Reserved or process id in requests; echoed.
    pub process_id: u32,
    /// The tree connect the request is for.
    pub tree_id: u32,
    /// The session the request is for.
    pub session_id: u64,
}

impl Header {
    /// With [`FLAG_ASYNC`]: what stands in place of process id and tree connect.
    pub fn async_id(&self) -> u64 {
        u64::from(self.tree_id) << 32 | u64::from(self.process_id)
    }
}

impl Header {
    /// Parses the header at the beginning of `message`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is cut short, no SMB2 header, or of another size.
    pub fn parse(message: &[u8]) -> Result<Header, Malformed> {
        let mut r = Reader::new(message);
        if r.array::<4>()? != PROTOCOL_SMB2 {
            return Err(Malformed);
        }
        r.structure_size(HEADER_LEN as u16)?;
        let credit_charge = r.u16()?;
        let channel_sequence = r.u16()?; // in responses half of the status
        r.skip(2)?;
        let header = Header {
            credit_charge,
            channel_sequence,
            command: r.u16()?,
            credit_request: r.u16()?,
            flags: r.u32()?,
            next_command: r.u32()?,
            message_id: r.u64()?,
            process_id: r.u32()?,
            tree_id: r.u32()?,
            session_id: r.u64()?,
        };
        r.skip(16)?; // Signature
        Ok(header)
    }
}

/// A response's header.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHeader {
    /// Echo of the request's charge.
    pub credit_charge: u16,
    /// Echo of the request's command code.
    pub command: u16,
    /// How the request ended.
    pub status: Status,
    /// Credits granted with this response.
    pub credit_response: u16,
    /// Flags beside `SMB2_FLAGS_SERVER_TO_REDIR`, which is always set.
    pub flags: u32,
    /// Echo of the request's number.
    pub message_id: u64,
    /// Echo.
    pub process_id: u32,
    /// The tree connect, new in a TREE_CONNECT response.
    pub tree_id: u32,
    /// The session, new in a SESSION_SETUP response.
    pub session_id: u64,
    /// Of a request that is answered later: takes the place of process id and
    /// tree connect, and sets [`FLAG_ASYNC`].
    pub async_id: Option<u64>,
}

/// Offset of `Flags` in a header; the one byte holds all flags there are but one.
pub const FLAGS_OFFSET: usize = 16;
/// Offset of `NextCommand` in a header, to be patched when another response follows.
pub const NEXT_COMMAND_OFFSET: usize = 20;

impl ResponseHeader {
    /// The header, with a zero `NextCommand` and signature.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&PROTOCOL_SMB2);
        out[4..6].copy_from_slice(&(HEADER_LEN as u16).to_le_bytes());
        out[6..8].copy_from_slice(&self.credit_charge.to_le_bytes());
        out[8..12].copy_from_slice(&self.status.0.to_le_bytes());
        out[12..14].copy_from_slice(&self.command.to_le_bytes());
        out[14..16].copy_from_slice(&self.credit_response.to_le_bytes());
        let (ids, is_async) = match self.async_id {
            Some(id) => (id, FLAG_ASYNC),
            None => {
                let (low, high) = (self.process_id, self.tree_id);
                (u64::from(high) << 32 | u64::from(low), 0)
            }
        };
        let flags = self.flags | FLAG_RESPONSE | is_async;
        out[16..20].copy_from_slice(&flags.to_le_bytes());
        out[24..32].copy_from_slice(&self.message_id.to_le_bytes());
        out[32..40].copy_from_slice(&ids.to_le_bytes());
        out[40..48].copy_from_slice(&self.session_id.to_le_bytes());
        out
    }
}
