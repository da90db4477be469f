//! IOCTL ([MS-SMB2] 2.2.31, 2.2.32).

use super::file::FileId;
use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at};

/// Control codes ([MS-FSCC] 2.3, [MS-SMB2] 2.2.31).
#[allow(missing_docs)] // the names are the specification's
pub mod fsctl {
    pub const DFS_GET_REFERRALS: u32 = 0x0006_0194;
    pub const DFS_GET_REFERRALS_EX: u32 = 0x0006_01B0;
    pub const GET_COMPRESSION: u32 = 0x0009_003C;
    pub const GET_OBJECT_ID: u32 = 0x0009_009C;
    pub const SET_REPARSE_POINT: u32 = 0x0009_00A4;
    pub const GET_REPARSE_POINT: u32 = 0x0009_00A8;
    pub const CREATE_OR_GET_OBJECT_ID: u32 = 0x0009_00C0;
    pub const SET_SPARSE: u32 = 0x0009_00C4;
    pub const QUERY_ALLOCATED_RANGES: u32 = 0x0009_40CF;
    pub const SET_ZERO_DATA: u32 = 0x0009_80C8;
    pub const FILE_LEVEL_TRIM: u32 = 0x0009_8208;
    pub const DUPLICATE_EXTENTS_TO_FILE: u32 = 0x0009_8344;
    pub const SET_COMPRESSION: u32 = 0x0009_C040;
    pub const PIPE_WAIT: u32 = 0x0011_0018;
    pub const PIPE_PEEK: u32 = 0x0011_400C;
    pub const PIPE_TRANSCEIVE: u32 = 0x0011_C017;
    pub const SRV_ENUMERATE_SNAPSHOTS: u32 = 0x0014_4064;
    pub const SRV_REQUEST_RESUME_KEY: u32 = 0x0014_0078;
    pub const SRV_COPYCHUNK: u32 = 0x0014_40F2;
    pub const SRV_COPYCHUNK_WRITE: u32 = 0x0014_80F2;
    pub const QUERY_NETWORK_INTERFACE_INFO: u32 = 0x0014_01FC;
    pub const VALIDATE_NEGOTIATE_INFO: u32 = 0x0014_0204;
}

/// `SMB2_0_IOCTL_IS_FSCTL` of Flags.
const IS_FSCTL: u32 = 1;

/// An IOCTL request.
#[derive(Debug, Clone, Copy)]
pub struct Ioctl<'a> {
    /// The control code.
    pub code: u32,
    /// The file, or all ones for codes that concern none.
    pub file_id: FileId,
    /// The input buffer.
    pub input: &'a [u8],
    /// Most output bytes the client takes.
    pub max_output: u32,
    /// Whether the code is an FSCTL; there are no others.
    pub is_fsctl: bool,
}

impl<'a> Ioctl<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?);
        r.structure_size(57)?;
        r.skip(2)?;
        let code = r.u32()?;
        let file_id = FileId::parse(&mut r)?;
        let input_offset = r.u32()?;
        let input_count = r.u32()?;
        r.skip(4 + 4 + 4)?; // MaxInputResponse, OutputOffset, OutputCount
        let max_output = r.u32()?;
        let flags = r.u32()?;
        Ok(Ioctl {
            code,
            file_id,
            input: slice_at(message, input_offset as usize, input_count as usize)?,
            max_output,
            is_fsctl: flags == IS_FSCTL,
        })
    }
}

/// `SRV_COPYCHUNK_COPY` ([MS-SMB2] 2.2.31.1).
#[derive(Debug, Clone, Copy)]
pub struct CopyChunks<'a> {
    /// The key of the source.
    pub source: [u8; 24],
    /// How many chunks there are.
    pub count: u32,
    chunks: &'a [u8],
}

/// One range to be copied.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the names are the specification's
pub struct Chunk {
    pub source_offset: u64,
    pub target_offset: u64,
    pub length: u32,
}

impl<'a> CopyChunks<'a> {
    /// Parses the input of SRV_COPYCHUNK.
    pub fn parse(input: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(input);
        let source = r.array()?;
        let count = r.u32()?;
        r.skip(4)?;
        Ok(CopyChunks {
            source,
            count,
            chunks: r.rest(),
        })
    }

    /// The chunks; [`Malformed`] if there are fewer than announced.
    pub fn chunks(&self) -> Result<Vec<Chunk>, Malformed> {
        const CHUNK_LEN: usize = 24;
        let length = (self.count as usize)
            .checked_mul(CHUNK_LEN)
            .ok_or(Malformed)?;
        let mut r = Reader::new(self.chunks.get(..length).ok_or(Malformed)?);
        let mut chunks = Vec::with_capacity(self.count as usize);
        for _ in 0..self.count {
            chunks.push(Chunk {
                source_offset: r.u64()?,
                target_offset: r.u64()?,
                length: r.u32()?,
            });
            r.skip(4)?;
        }
        Ok(chunks)
    }
}

/// `DUPLICATE_EXTENTS_DATA` ([MS-FSCC] 2.3.7).
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the names are the specification's
pub struct DuplicateExtents {
    pub source: FileId,
    pub source_offset: u64,
    pub target_offset: u64,
    pub byte_count: u64,
}

impl DuplicateExtents {
    /// Parses the input of FSCTL_DUPLICATE_EXTENTS_TO_FILE.
    pub fn parse(input: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(input);
        Ok(DuplicateExtents {
            source: FileId::parse(&mut r)?,
            source_offset: r.u64()?,
            target_offset: r.u64()?,
            byte_count: r.u64()?,
        })
    }
}

/// Appends the body of an IOCTL response.
pub fn put_ioctl(out: &mut Vec<u8>, code: u32, file_id: FileId, output: &[u8]) {
    const BUFFER_OFFSET: u32 = (HEADER_LEN + 48) as u32;
    out.put_u16(49);
    out.put_u16(0);
    out.put_u32(code);
    file_id.put(out);
    out.put_u32(BUFFER_OFFSET); // InputOffset
    out.put_u32(0);
    out.put_u32(BUFFER_OFFSET); // OutputOffset
    out.put_u32(output.len() as u32);
    out.put_u32(0);
    out.put_u32(0);
    out.put_bytes(output);
}
