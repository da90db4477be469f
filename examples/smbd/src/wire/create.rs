//! CREATE ([MS-SMB2] 2.2.13, 2.2.14), its contexts and the access mask.

use super::file::FileId;
use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at};

/// Bits of an access mask (2.2.13.1).
#[allow(missing_docs)] // the names are the specification's
pub mod access {
    pub const FILE_READ_DATA: u32 = 0x0000_0001; // FILE_LIST_DIRECTORY of a directory
    pub const FILE_WRITE_DATA: u32 = 0x0000_0002;
    pub const FILE_APPEND_DATA: u32 = 0x0000_0004;
    pub const FILE_READ_EA: u32 = 0x0000_0008;
    pub const FILE_WRITE_EA: u32 = 0x0000_0010;
    pub const FILE_EXECUTE: u32 = 0x0000_0020;
    pub const FILE_DELETE_CHILD: u32 = 0x0000_0040;
    pub const FILE_READ_ATTRIBUTES: u32 = 0x0000_0080;
    pub const FILE_WRITE_ATTRIBUTES: u32 = 0x0000_0100;
    pub const DELETE: u32 = 0x0001_0000;
    pub const READ_CONTROL: u32 = 0x0002_0000;
    pub const WRITE_DAC: u32 = 0x0004_0000;
    pub const WRITE_OWNER: u32 = 0x0008_0000;
    pub const SYNCHRONIZE: u32 = 0x0010_0000;
    pub const ACCESS_SYSTEM_SECURITY: u32 = 0x0100_0000;
    pub const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
    pub const GENERIC_ALL: u32 = 0x1000_0000;
    pub const GENERIC_EXECUTE: u32 = 0x2000_0000;
    pub const GENERIC_WRITE: u32 = 0x4000_0000;
    pub const GENERIC_READ: u32 = 0x8000_0000;

    /// What `GENERIC_READ` means for files.
    pub const FILE_GENERIC_READ: u32 =
        READ_CONTROL | SYNCHRONIZE | FILE_READ_DATA | FILE_READ_EA | FILE_READ_ATTRIBUTES;
    /// What `GENERIC_WRITE` means for files.
    pub const FILE_GENERIC_WRITE: u32 = READ_CONTROL
        | SYNCHRONIZE
        | FILE_WRITE_DATA
        | FILE_APPEND_DATA
        | FILE_WRITE_EA
        | FILE_WRITE_ATTRIBUTES;
    /// What `GENERIC_EXECUTE` means for files.
    pub const FILE_GENERIC_EXECUTE: u32 =
        READ_CONTROL | SYNCHRONIZE | FILE_EXECUTE | FILE_READ_ATTRIBUTES;
    /// What `GENERIC_ALL` means for files.
    pub const FILE_ALL_ACCESS: u32 = FILE_GENERIC_READ
        | FILE_GENERIC_WRITE
        | FILE_GENERIC_EXECUTE
        | FILE_DELETE_CHILD
        | DELETE
        | WRITE_DAC
        | WRITE_OWNER;

    /// Replaces the generic bits by the bits they stand for.
    pub fn expand_generic(mask: u32) -> u32 {
        let mut expanded = mask & !(GENERIC_ALL | GENERIC_EXECUTE | GENERIC_WRITE | GENERIC_READ);
        for (generic, specific) in [
            (GENERIC_READ, FILE_GENERIC_READ),
            (GENERIC_WRITE, FILE_GENERIC_WRITE),
            (GENERIC_EXECUTE, FILE_GENERIC_EXECUTE),
            (GENERIC_ALL, FILE_ALL_ACCESS),
        ] {
            if mask & generic != 0 {
                expanded |= specific;
            }
        }
        expanded
    }
}

/// Bits of `CreateOptions`.
#[allow(missing_docs)] // the names are the specification's
pub mod options {
    pub const FILE_DIRECTORY_FILE: u32 = 0x0000_0001;
    pub const FILE_WRITE_THROUGH: u32 = 0x0000_0002;
    pub const FILE_SEQUENTIAL_ONLY: u32 = 0x0000_0004;
    pub const FILE_NO_INTERMEDIATE_BUFFERING: u32 = 0x0000_0008;
    pub const FILE_SYNCHRONOUS_IO_ALERT: u32 = 0x0000_0010;
    pub const FILE_SYNCHRONOUS_IO_NONALERT: u32 = 0x0000_0020;
    pub const FILE_NON_DIRECTORY_FILE: u32 = 0x0000_0040;
    pub const FILE_NO_EA_KNOWLEDGE: u32 = 0x0000_0200;
    pub const FILE_RANDOM_ACCESS: u32 = 0x0000_0800;
    pub const FILE_DELETE_ON_CLOSE: u32 = 0x0000_1000;
    pub const FILE_OPEN_BY_FILE_ID: u32 = 0x0000_2000;
    pub const FILE_NO_COMPRESSION: u32 = 0x0000_8000;
    pub const FILE_RESERVE_OPFILTER: u32 = 0x0010_0000;
    /// Bits without a meaning.
    pub const RESERVED: u32 = 0xFF00_0000;

    /// The options that remain visible as the open's mode ([MS-FSCC] 2.4.26).
    pub const FILE_MODE: u32 = FILE_WRITE_THROUGH
        | FILE_SEQUENTIAL_ONLY
        | FILE_NO_INTERMEDIATE_BUFFERING
        | FILE_SYNCHRONOUS_IO_ALERT
        | FILE_SYNCHRONOUS_IO_NONALERT;
}

/// `CreateDisposition`: what to do if the file exists, and if it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Disposition {
    Supersede,
    Open,
    Create,
    OpenIf,
    Overwrite,
    OverwriteIf,
}

/// The most create contexts; the specification knows some fifteen.
const MAX_CONTEXTS: usize = 64;

/// `CreateAction`: what a CREATE has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Action {
    Superseded = 0,
    Opened = 1,
    Created = 2,
    Overwritten = 3,
}

/// A create context: its name and its data.
pub type Context<'a> = (&'a [u8], &'a [u8]);

/// A CREATE request.
#[derive(Debug, Clone, Copy)]
pub struct Create<'a> {
    /// How far the server may act as the client; 3 is the most there is.
    pub impersonation_level: u32,
    /// The oplock asked for ([MS-SMB2] 2.2.13).
    pub oplock_level: u8,
    /// The access asked for, generic bits included.
    pub desired_access: u32,
    /// `FILE_ATTRIBUTE_*` of a new or overwritten file.
    pub file_attributes: u32,
    /// `FILE_SHARE_*`: what others may do meanwhile.
    pub share_access: u32,
    /// What to do if the file exists or not.
    pub disposition: Disposition,
    /// `FILE_*` options.
    pub options: u32,
    /// The path in UTF-16LE, relative to the share.
    pub name: &'a [u8],
    contexts: &'a [u8],
}

impl<'a> Create<'a> {
    /// Parses the request in `message`, which begins with its header.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?);
        r.structure_size(57)?;
        r.skip(1)?; // SecurityFlags
        let oplock_level = r.u8()?;
        let impersonation_level = r.u32()?;
        r.skip(8 + 8)?; // SmbCreateFlags, Reserved
        let desired_access = r.u32()?;
        let file_attributes = r.u32()?;
        let share_access = r.u32()?;
        let disposition = match r.u32()? {
            0 => Disposition::Supersede,
            1 => Disposition::Open,
            2 => Disposition::Create,
            3 => Disposition::OpenIf,
            4 => Disposition::Overwrite,
            5 => Disposition::OverwriteIf,
            _ => return Err(Malformed),
        };
        let options = r.u32()?;
        let name_offset = r.u16()?;
        let name_length = r.u16()?;
        let contexts_offset = r.u32()?;
        let contexts_length = r.u32()?;
        Ok(Create {
            oplock_level,
            impersonation_level,
            desired_access,
            file_attributes,
            share_access,
            disposition,
            options,
            name: slice_at(message, name_offset.into(), name_length.into())?,
            contexts: slice_at(message, contexts_offset as usize, contexts_length as usize)?,
        })
    }

    /// The create contexts.
    pub fn contexts(&self) -> Result<Vec<Context<'a>>, Malformed> {
        let mut contexts = Vec::new();
        let mut rest = self.contexts;
        while !rest.is_empty() {
            let mut r = Reader::new(rest);
            let next = r.u32()? as usize;
            let name_offset = r.u16()?;
            let name_length = r.u16()?;
            r.skip(2)?;
            let data_offset = r.u16()?;
            let data_length = r.u32()?;
            contexts.push((
                slice_at(rest, name_offset.into(), name_length.into())?,
                slice_at(rest, data_offset.into(), data_length as usize)?,
            ));
            if next == 0 {
                break;
            }
            if contexts.len() == MAX_CONTEXTS {
                return Err(Malformed);
            }
            // A context is at least its 16 bytes long, so the loop makes progress.
            if next < 16 || !next.is_multiple_of(8) {
                return Err(Malformed);
            }
            rest = rest.get(next..).ok_or(Malformed)?;
        }
        Ok(contexts)
    }
}

/// Times, sizes and attributes as CREATE and CLOSE responses carry them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub struct Attributes {
    pub creation_time: u64,
    pub last_access_time: u64,
    pub last_write_time: u64,
    pub change_time: u64,
    pub allocation_size: u64,
    pub end_of_file: u64,
    pub file_attributes: u32,
}

impl Attributes {
    /// Appends the four times, the layout every structure shares.
    pub fn put_times(&self, out: &mut Vec<u8>) {
        for time in [
            self.creation_time,
            self.last_access_time,
            self.last_write_time,
            self.change_time,
        ] {
            out.put_u64(time);
        }
    }
}

/// A CREATE response.
#[derive(Debug, Clone, Copy)]
pub struct Created<'a> {
    /// The oplock granted.
    pub oplock_level: u8,
    /// What was done.
    pub action: Action,
    /// What is open now.
    pub attributes: Attributes,
    /// Its id.
    pub file_id: FileId,
    /// Names and data.
    pub contexts: &'a [(&'static [u8; 4], Vec<u8>)],
}

/// Appends the body of a CREATE response.
pub fn put_create(out: &mut Vec<u8>, created: &Created<'_>) {
    let Created {
        attributes,
        contexts,
        ..
    } = created;
    let base = out.len() - HEADER_LEN;
    out.put_u16(89);
    out.put_u8(created.oplock_level);
    out.put_u8(0);
    out.put_u32(created.action as u32);
    attributes.put_times(out);
    out.put_u64(attributes.allocation_size);
    out.put_u64(attributes.end_of_file);
    out.put_u32(attributes.file_attributes);
    out.put_u32(0);
    created.file_id.put(out);
    let offset_at = out.len();
    out.put_u32(0);
    out.put_u32(0);
    let start = out.len(); // 64 + 88 = 152, a multiple of 8
    for (index, (name, data)) in contexts.iter().enumerate() {
        out.align(start, 8);
        let context = out.len();
        out.put_u32(0); // Next
        out.put_u16(16);
        out.put_u16(4);
        out.put_u16(0);
        out.put_u16(24); // the name is padded to 8
        out.put_u32(data.len() as u32);
        out.put_bytes(&name[..]);
        out.put_u32(0);
        out.put_bytes(data);
        if index + 1 < contexts.len() {
            out.patch_u32(context, (out.len() - context).next_multiple_of(8) as u32);
        }
    }
    if !contexts.is_empty() {
        out.patch_u32(offset_at, (start - base) as u32);
        out.patch_u32(offset_at + 4, (out.len() - start) as u32);
    }
}
