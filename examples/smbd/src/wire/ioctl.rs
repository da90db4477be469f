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
    pub const GET_REPARSE_POINT: u32 = 0x0009_00A8;
    pub const PIPE_WAIT: u32 = 0x0011_0018;
    pub const PIPE_PEEK: u32 = 0x0011_400C;
    pub const PIPE_TRANSCEIVE: u32 = 0x0011_C017;
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
