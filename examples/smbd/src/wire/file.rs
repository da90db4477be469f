//! Requests on an open file: CLOSE, FLUSH, READ, WRITE, LOCK, OPLOCK_BREAK
//! ([MS-SMB2] 2.2.15–2.2.27).

use super::create::Attributes;
use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at};

/// `SMB2_FILEID` ([MS-SMB2] 2.2.14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Not the same for any two opens of the server ([MS-SMB2] 3.3.1.10), as clients make resume keys
    /// and names of it.
    pub persistent: u64,
    /// The key in the session's table of opens.
    pub volatile: u64,
}

impl FileId {
    /// In a related request: the file of the request before.
    pub const RELATED: FileId = FileId {
        persistent: u64::MAX,
        volatile: u64::MAX,
    };

    /// The id of the open that a session has given a number.
    pub fn of(session_id: u64, number: u64) -> FileId {
        FileId {
            persistent: session_id << 32 ^ number,
            volatile: number,
        }
    }

    /// Parses the id at the reader's position.
    pub fn parse(r: &mut Reader<'_>) -> Result<FileId, Malformed> {
        Ok(FileId {
            persistent: r.u64()?,
            volatile: r.u64()?,
        })
    }

    /// Appends the id.
    pub fn put(self, out: &mut Vec<u8>) {
        out.put_u64(self.persistent);
        out.put_u64(self.volatile);
    }
}

fn body(message: &[u8]) -> Result<Reader<'_>, Malformed> {
    message.get(HEADER_LEN..).map(Reader::new).ok_or(Malformed)
}

/// A CLOSE request.
#[derive(Debug, Clone, Copy)]
pub struct Close {
    /// `SMB2_CLOSE_FLAG_POSTQUERY_ATTRIB`: the response shall carry the attributes.
    pub query_attributes: bool,
    /// The file.
    pub file_id: FileId,
}

impl Close {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(24)?;
        let flags = r.u16()?;
        r.skip(4)?;
        Ok(Close {
            query_attributes: flags & 1 != 0,
            file_id: FileId::parse(&mut r)?,
        })
    }
}

/// Appends the body of a CLOSE response.
pub fn put_close(out: &mut Vec<u8>, attributes: Option<&Attributes>) {
    out.put_u16(60);
    out.put_u16(u16::from(attributes.is_some()));
    out.put_u32(0);
    let attributes = attributes.copied().unwrap_or_default();
    attributes.put_times(out);
    out.put_u64(attributes.allocation_size);
    out.put_u64(attributes.end_of_file);
    out.put_u32(attributes.file_attributes);
}

/// Parses a FLUSH request: the file.
pub fn parse_flush(message: &[u8]) -> Result<FileId, Malformed> {
    let mut r = body(message)?;
    r.structure_size(24)?;
    r.skip(6)?;
    FileId::parse(&mut r)
}

/// A READ request.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Bytes wanted.
    pub length: u32,
    /// Where from.
    pub offset: u64,
    /// The file.
    pub file_id: FileId,
    /// With fewer bytes than this the read fails.
    pub minimum_count: u32,
}

impl Read {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(49)?;
        r.skip(1 + 1)?; // Padding, Flags
        let length = r.u32()?;
        let offset = r.u64()?;
        let file_id = FileId::parse(&mut r)?;
        let minimum_count = r.u32()?;
        r.skip(4 + 4 + 2 + 2)?; // Channel (RDMA only), RemainingBytes, ReadChannelInfo
        Ok(Read {
            length,
            offset,
            file_id,
            minimum_count,
        })
    }
}

/// Length of a READ response's body before the data.
pub const READ_RESPONSE_LEN: usize = 16;

/// Appends the body of a READ response up to its data, which the caller
/// appends or sends behind it. Its length is entered by [`set_read_length`].
pub fn put_read(out: &mut Vec<u8>) {
    out.put_u16(17);
    out.put_u8((HEADER_LEN + READ_RESPONSE_LEN) as u8);
    out.put_u8(0);
    out.put_u32(0); // DataLength
    out.put_u32(0); // DataRemaining
    out.put_u32(0);
}

/// Enters the length of the data into a body that [`put_read`] has begun.
///
/// # Panics
///
/// If `body` is not such a body.
pub fn set_read_length(body: &mut [u8], length: u32) {
    body[4..8].copy_from_slice(&length.to_le_bytes());
}

/// `SMB2_WRITEFLAG_WRITE_THROUGH`
pub const WRITE_THROUGH: u32 = 1;

/// A WRITE request.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// [`WRITE_THROUGH`] and the like.
    pub flags: u32,
    /// The bytes.
    pub data: &'a [u8],
    /// Where to.
    pub offset: u64,
    /// The file.
    pub file_id: FileId,
}

impl<'a> Write<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(49)?;
        let data_offset = r.u16()?;
        let length = r.u32()?;
        let offset = r.u64()?;
        let file_id = FileId::parse(&mut r)?;
        r.skip(4 + 4 + 2 + 2)?; // Channel, RemainingBytes, WriteChannelInfo
        let flags = r.u32()?;
        Ok(Write {
            flags,
            data: slice_at(message, data_offset.into(), length as usize)?,
            offset,
            file_id,
        })
    }
}

/// Appends the body of a WRITE response.
pub fn put_write(out: &mut Vec<u8>, count: u32) {
    out.put_u16(17);
    out.put_u16(0);
    out.put_u32(count);
    out.put_u32(0);
    out.put_u32(0);
}

/// One range of a LOCK request.
#[derive(Debug, Clone, Copy)]
pub struct LockElement {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// `SMB2_LOCKFLAG_*`.
    pub flags: u32,
}

/// `SMB2_LOCKFLAG_SHARED_LOCK`.
pub const LOCKFLAG_SHARED: u32 = 0x0000_0001;
/// `SMB2_LOCKFLAG_EXCLUSIVE_LOCK`.
pub const LOCKFLAG_EXCLUSIVE: u32 = 0x0000_0002;
/// `SMB2_LOCKFLAG_UNLOCK`.
pub const LOCKFLAG_UNLOCK: u32 = 0x0000_0004;
/// `SMB2_LOCKFLAG_FAIL_IMMEDIATELY`.
pub const LOCKFLAG_FAIL_IMMEDIATELY: u32 = 0x0000_0010;

/// Parses a LOCK request: the file and its ranges.
pub fn parse_lock(message: &[u8]) -> Result<(FileId, Vec<LockElement>), Malformed> {
    let mut r = body(message)?;
    r.structure_size(48)?;
    let count = r.u16()?;
    r.skip(4)?; // LockSequence
    let file_id = FileId::parse(&mut r)?;
    if count == 0 {
        return Err(Malformed);
    }
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(LockElement {
            offset: r.u64()?,
            length: r.u64()?,
            flags: r.u32()?,
        });
        r.skip(4)?;
    }
    Ok((file_id, elements))
}

/// An OPLOCK_BREAK request: the acknowledgment of a break.
#[derive(Debug, Clone, Copy)]
pub enum OplockBreak {
    /// Of an oplock on a file: what the client keeps.
    Oplock(FileId, u8),
    /// Of a lease.
    Lease,
}

impl OplockBreak {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        match r.u16()? {
            24 => {
                let level = r.u8()?;
                r.skip(5)?;
                Ok(OplockBreak::Oplock(FileId::parse(&mut r)?, level))
            }
            36 => {
                r.skip(34)?;
                Ok(OplockBreak::Lease)
            }
            _ => Err(Malformed),
        }
    }
}

/// Appends the body of an OPLOCK_BREAK: a notification, or the response to an
/// acknowledgment.
pub fn put_oplock_break(out: &mut Vec<u8>, level: u8, id: FileId) {
    out.put_u16(24);
    out.put_u8(level);
    out.put_zeros(5);
    id.put(out);
}
