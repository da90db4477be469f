//! QUERY_DIRECTORY, CHANGE_NOTIFY, QUERY_INFO, SET_INFO ([MS-SMB2] 2.2.33–2.2.40).

use super::file::FileId;
use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at};

fn body(message: &[u8]) -> Result<Reader<'_>, Malformed> {
    message.get(HEADER_LEN..).map(Reader::new).ok_or(Malformed)
}

/// `SMB2_RESTART_SCANS`
pub const RESTART_SCANS: u8 = 0x01;
/// `SMB2_RETURN_SINGLE_ENTRY`
pub const RETURN_SINGLE_ENTRY: u8 = 0x02;
/// `SMB2_INDEX_SPECIFIED`
pub const INDEX_SPECIFIED: u8 = 0x04;
/// `SMB2_REOPEN`
pub const REOPEN: u8 = 0x10;

/// A QUERY_DIRECTORY request.
#[derive(Debug, Clone, Copy)]
pub struct QueryDirectory<'a> {
    /// The number of the information class.
    pub class: u8,
    /// [`RESTART_SCANS`] and the like.
    pub flags: u8,
    /// The directory.
    pub file_id: FileId,
    /// The search pattern in UTF-16LE.
    pub pattern: &'a [u8],
    /// Most bytes the client takes.
    pub output_length: u32,
}

impl<'a> QueryDirectory<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(33)?;
        let class = r.u8()?;
        let flags = r.u8()?;
        r.skip(4)?; // FileIndex: directories here have no positions of that kind
        let file_id = FileId::parse(&mut r)?;
        let offset = r.u16()?;
        let length = r.u16()?;
        let output_length = r.u32()?;
        Ok(QueryDirectory {
            class,
            flags,
            file_id,
            pattern: slice_at(message, offset.into(), length.into())?,
            output_length,
        })
    }
}

/// A CHANGE_NOTIFY request.
#[derive(Debug, Clone, Copy)]
pub struct ChangeNotify {
    /// `SMB2_WATCH_TREE`: what is below the directory's directories counts too.
    pub is_tree: bool,
    /// The most bytes the client takes.
    pub output_length: u32,
    /// The directory.
    pub file_id: FileId,
    /// `FILE_NOTIFY_CHANGE_*`
    pub filter: u32,
}

impl ChangeNotify {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(32)?;
        let flags = r.u16()?;
        let output_length = r.u32()?;
        let file_id = FileId::parse(&mut r)?;
        let filter = r.u32()?;
        r.skip(4)?;
        Ok(ChangeNotify {
            is_tree: flags & 1 != 0,
            output_length,
            file_id,
            filter,
        })
    }
}

/// `SMB2_0_INFO_FILE`
pub const INFO_FILE: u8 = 1;
/// `SMB2_0_INFO_FILESYSTEM`
pub const INFO_FILESYSTEM: u8 = 2;
/// `SMB2_0_INFO_SECURITY`
pub const INFO_SECURITY: u8 = 3;
/// `SMB2_0_INFO_QUOTA`
pub const INFO_QUOTA: u8 = 4;

/// A QUERY_INFO request.
#[derive(Debug, Clone, Copy)]
pub struct QueryInfo {
    /// [`INFO_FILE`] and the like.
    pub info_type: u8,
    /// The number of the information class.
    pub class: u8,
    /// Most bytes the client takes.
    pub output_length: u32,
    /// Length of the input buffer (quotas and EA lists).
    pub input_length: u32,
    /// For security: which parts of the descriptor.
    pub additional: u32,
    /// The file.
    pub file_id: FileId,
}

impl QueryInfo {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(41)?;
        let info_type = r.u8()?;
        let class = r.u8()?;
        let output_length = r.u32()?;
        let input_offset = r.u16()?;
        r.skip(2)?;
        let input_length = r.u32()?;
        let additional = r.u32()?;
        r.skip(4)?; // Flags, for EAs
        let file_id = FileId::parse(&mut r)?;
        slice_at(message, input_offset.into(), input_length as usize)?;
        Ok(QueryInfo {
            info_type,
            class,
            output_length,
            input_length,
            additional,
            file_id,
        })
    }
}

/// A SET_INFO request.
#[derive(Debug, Clone, Copy)]
pub struct SetInfo<'a> {
    /// For security: which parts of the descriptor.
    pub additional: u32,
    /// [`INFO_FILE`] and the like.
    pub info_type: u8,
    /// The number of the information class.
    pub class: u8,
    /// The information.
    pub data: &'a [u8],
    /// The file.
    pub file_id: FileId,
}

impl<'a> SetInfo<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = body(message)?;
        r.structure_size(33)?;
        let info_type = r.u8()?;
        let class = r.u8()?;
        let length = r.u32()?;
        let offset = r.u16()?;
        r.skip(2)?;
        let additional = r.u32()?;
        let file_id = FileId::parse(&mut r)?;
        Ok(SetInfo {
            additional,
            info_type,
            class,
            data: slice_at(message, offset.into(), length as usize)?,
            file_id,
        })
    }
}

/// `FileBasicInformation` ([MS-FSCC] 2.4.7); 0 leaves a field as it is.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the names are the specification's
pub struct BasicInformation {
    pub creation_time: u64,
    pub last_access_time: u64,
    pub last_write_time: u64,
    pub change_time: u64,
    pub file_attributes: u32,
}

impl BasicInformation {
    /// Parses the information in a SET_INFO request.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let basic = BasicInformation {
            creation_time: r.u64()?,
            last_access_time: r.u64()?,
            last_write_time: r.u64()?,
            change_time: r.u64()?,
            file_attributes: r.u32()?,
        };
        r.skip(4)?; // Reserved
        Ok(basic)
    }
}

/// `FileRenameInformation` and `FileLinkInformation` ([MS-FSCC] 2.4.42.2, 2.4.27.2).
#[derive(Debug, Clone, Copy)]
pub struct NewName<'a> {
    /// Flags of the extended classes; bit 0, of all of them: replace what there is.
    pub flags: u32,
    /// Has to be 0: names are relative to the share.
    pub root_directory: u64,
    /// The path in UTF-16LE.
    pub name: &'a [u8],
}

impl<'a> NewName<'a> {
    /// Parses the information in a SET_INFO request; `extended` for the classes with flags.
    pub fn parse(data: &'a [u8], extended: bool) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let flags = r.u32()?;
        r.skip(4)?;
        let root_directory = r.u64()?;
        let length = r.u32()?;
        Ok(NewName {
            flags: if extended {
                flags
            } else {
                u32::from(flags & 0xFF != 0)
            },
            root_directory,
            name: r.bytes(length as usize)?,
        })
    }
}

/// Appends the body of a SET_INFO response.
pub fn put_set_info(out: &mut Vec<u8>) {
    out.put_u16(2);
}

/// Appends the fixed part of a QUERY_DIRECTORY or QUERY_INFO response (they
/// are alike) and returns a mark for [`finish_output`]. The caller appends the
/// information in between.
pub fn start_output(out: &mut Vec<u8>) -> usize {
    out.put_u16(9);
    out.put_u16((HEADER_LEN + 8) as u16);
    out.put_u32(0);
    out.len()
}

/// Enters the length of what has been appended since [`start_output`].
pub fn finish_output(out: &mut Vec<u8>, mark: usize) {
    let length = out.len() - mark;
    out.patch_u32(mark - 4, length as u32);
}
