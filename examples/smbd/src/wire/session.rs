//! SESSION_SETUP, LOGOFF, TREE_CONNECT, TREE_DISCONNECT ([MS-SMB2] 2.2.5–2.2.12).

use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at, text};

/// `SMB2_SESSION_FLAG_BINDING` of a request: another channel of an old session.
pub const REQUEST_FLAG_BINDING: u8 = 0x01;
/// `SMB2_SESSION_FLAG_IS_GUEST` of a response.
pub const SESSION_FLAG_IS_GUEST: u16 = 0x0001;
/// `SMB2_SESSION_FLAG_IS_NULL` of a response: an anonymous session.
pub const SESSION_FLAG_IS_NULL: u16 = 0x0002;
/// `SMB2_SESSION_FLAG_ENCRYPT_DATA` of a response: everything has to be encrypted.
pub const SESSION_FLAG_ENCRYPT_DATA: u16 = 0x0004;

/// A SESSION_SETUP request.
#[derive(Debug, Clone, Copy)]
pub struct SessionSetup<'a> {
    /// [`REQUEST_FLAG_BINDING`] or 0.
    pub flags: u8,
    /// `SMB2_NEGOTIATE_SIGNING_*`.
    pub security_mode: u16,
    /// The authentication token.
    pub security_buffer: &'a [u8],
    /// A session the client lost and that this one replaces.
    pub previous_session_id: u64,
}

impl<'a> SessionSetup<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?);
        r.structure_size(25)?;
        let flags = r.u8()?;
        let security_mode = r.u8()?.into();
        r.skip(4 + 4)?; // Capabilities, Channel
        let offset = r.u16()?;
        let length = r.u16()?;
        Ok(SessionSetup {
            flags,
            security_mode,
            security_buffer: slice_at(message, offset.into(), length.into())?,
            previous_session_id: r.u64()?,
        })
    }
}

/// Appends the body of a SESSION_SETUP response.
pub fn put_session_setup(out: &mut Vec<u8>, session_flags: u16, security_buffer: &[u8]) {
    out.put_u16(9);
    out.put_u16(session_flags);
    out.put_u16((HEADER_LEN + 8) as u16);
    out.put_u16(security_buffer.len() as u16);
    out.put_bytes(security_buffer);
}

/// Parses a body that is empty but for its size: LOGOFF, TREE_DISCONNECT, ECHO, CANCEL.
pub fn parse_empty(message: &[u8]) -> Result<(), Malformed> {
    Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?).structure_size(4)
}

/// Appends the empty body of a response.
pub fn put_empty(out: &mut Vec<u8>) {
    out.put_u16(4);
    out.put_u16(0);
}

/// Parses a TREE_CONNECT request: the path, as `\\server\share`.
pub fn parse_tree_connect(message: &[u8]) -> Result<String, Malformed> {
    let mut r = Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?);
    r.structure_size(9)?;
    r.skip(2)?; // Flags of 3.1.1; the extension they announce concerns clusters
    let offset = r.u16()?;
    let length = r.u16()?;
    text::from_utf16le(slice_at(message, offset.into(), length.into())?)
}

/// What a tree connect leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareType {
    /// `SMB2_SHARE_TYPE_DISK`
    Disk,
    /// `SMB2_SHARE_TYPE_PIPE`
    Pipe,
}

/// Appends the body of a TREE_CONNECT response. `encrypt` says that everything about the share has
/// to be encrypted.
pub fn put_tree_connect(
    out: &mut Vec<u8>,
    share_type: ShareType,
    maximal_access: u32,
    encrypt: bool,
) {
    const SHAREFLAG_ENCRYPT_DATA: u32 = 0x0000_8000;
    // SMB2_SHAREFLAG_NO_CACHING: without oplocks and notifications a client
    // has no way to learn that its offline copy has aged.
    const SHAREFLAG_NO_CACHING: u32 = 0x0000_0030;
    out.put_u16(16);
    out.put_u8(match share_type {
        ShareType::Disk => 0x01,
        ShareType::Pipe => 0x02,
    });
    out.put_u8(0);
    let encrypt = if encrypt { SHAREFLAG_ENCRYPT_DATA } else { 0 };
    out.put_u32(SHAREFLAG_NO_CACHING | encrypt);
    out.put_u32(0); // Capabilities
    out.put_u32(maximal_access);
}
