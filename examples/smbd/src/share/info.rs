//! File information ([MS-FSCC] 2.4) for QUERY_INFO.

use super::metadata::Kind;
use super::{Node, names, short_names};
use crate::wire::create::options;
use crate::wire::status::Status;
use crate::wire::{Put, text};

/// What belongs to an open rather than to its file.
#[derive(Debug, Clone, Copy)]
pub struct OpenState {
    /// The access granted when it was opened.
    pub granted_access: u32,
    /// The mode, from the options it was opened with ([MS-FSCC] 2.4.26).
    pub mode: u32,
    /// CurrentByteOffset: only ever stored, as SMB2 requests carry their own.
    pub position: u64,
}

impl OpenState {
    /// Data was written up to `end`. Only synchronous opens have a position that follows
    /// ([MS-FSA] 2.1.5.4); reads always move it, as smbtorture wants it.
    pub fn written_to(&mut self, end: u64) {
        let synchronous =
            options::FILE_SYNCHRONOUS_IO_ALERT | options::FILE_SYNCHRONOUS_IO_NONALERT;
        if self.mode & synchronous != 0 {
            self.position = end;
        }
    }
}

/// The class of a FILE_INFORMATION_CLASS number and the fewest bytes a client
/// has to take of it ([MS-FSA] 2.1.5.12).
fn minimum(class: u8) -> Option<usize> {
    Some(match class {
        4 => 40,
        5 => 24,
        6 | 14 => 8,
        7 | 8 | 16 | 17 => 4,
        9 | 21 | 48 => 8,
        18 => 104,
        22 => 32,
        28 => 16,
        34 => 56,
        35 => 8,
        59 => 24,
        _ => return None,
    })
}

/// Appends the information `class` of `node`, whole; the caller cuts it to
/// what the client takes.
///
/// # Errors
///
/// `STATUS_INVALID_INFO_CLASS` for unknown classes,
/// `STATUS_INFO_LENGTH_MISMATCH` when not even the fixed part fits into
/// `room`, and what a class answers by a status.
pub fn put(
    class: u8,
    node: &Node,
    open: &OpenState,
    delete_pending: bool,
    room: usize,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    if class == 15 {
        return Err(Status::NO_EAS_ON_FILE);
    }
    if room < minimum(class).ok_or(Status::INVALID_INFO_CLASS)? {
        return Err(Status::INFO_LENGTH_MISMATCH);
    }
    match class {
        4 => basic(node, out),
        5 => standard(node, delete_pending, out),
        6 => out.put_u64(node.metadata.inode),
        7 => out.put_u32(0), // FileEaInformation
        8 => out.put_u32(open.granted_access),
        9 => name(&node.wire_path(), out),
        14 => out.put_u64(open.position),
        16 => out.put_u32(open.mode),
        17 => out.put_u32(0), // FileAlignmentInformation: FILE_BYTE_ALIGNMENT
        18 => {
            basic(node, out);
            standard(node, delete_pending, out);
            out.put_u64(node.metadata.inode);
            out.put_u32(0);
            out.put_u32(open.granted_access);
            out.put_u64(open.position);
            out.put_u32(open.mode);
            out.put_u32(0);
            name(&node.wire_path(), out);
        }
        21 => {
            // The share itself has none.
            let short = match node.name() {
                b"" => String::from("."),
                name => short_names::short_name(&names::to_wire(name)),
            };
            name(&short, out);
        }
        22 => stream(node, out),
        28 => {
            // FileCompressionInformation: COMPRESSION_FORMAT_NONE
            out.put_u64(node.metadata.end_of_file());
            out.put_zeros(8);
        }
        34 => {
            let attributes = node.metadata.attributes(node.name());
            attributes.put_times(out);
            out.put_u64(attributes.allocation_size);
            out.put_u64(attributes.end_of_file);
            out.put_u32(attributes.file_attributes);
            out.put_u32(0);
        }
        35 => {
            out.put_u32(node.metadata.attributes(node.name()).file_attributes);
            out.put_u32(0); // ReparseTag
        }
        48 => name(node.wire_path().trim_start_matches('\\'), out),
        59 => {
            let (major, minor) = node.metadata.device;
            out.put_u64(u64::from(major) << 32 | u64::from(minor));
            out.put_u64(node.metadata.inode);
            out.put_u64(0);
        }
        _ => return Err(Status::INVALID_INFO_CLASS),
    }
    Ok(())
}

fn basic(node: &Node, out: &mut Vec<u8>) {
    let attributes = node.metadata.attributes(node.name());
    attributes.put_times(out);
    out.put_u32(attributes.file_attributes);
    out.put_u32(0);
}

fn standard(node: &Node, delete_pending: bool, out: &mut Vec<u8>) {
    let attributes = node.metadata.attributes(node.name());
    out.put_u64(attributes.allocation_size);
    out.put_u64(attributes.end_of_file);
    let is_directory = node.metadata.kind == Kind::Directory;
    // A directory's count of links, which is one more for each directory in it, is Unix's alone.
    let links = match is_directory {
        true => 1,
        false => node.metadata.links,
    };
    out.put_u32(links.saturating_sub(delete_pending.into()));
    out.put_u8(delete_pending.into());
    out.put_u8(is_directory.into());
    out.put_u16(0);
}

fn name(path: &str, out: &mut Vec<u8>) {
    let at = out.len();
    out.put_u32(0);
    let length = text::put_utf16le(out, path);
    out.patch_u32(at, length as u32);
}

fn stream(node: &Node, out: &mut Vec<u8>) {
    if node.metadata.kind == Kind::Directory {
        return; // a directory has no streams, not even a default one
    }
    let attributes = node.metadata.attributes(node.name());
    let stream_name = text::to_utf16le("::$DATA");
    out.put_u32(0);
    out.put_u32(stream_name.len() as u32);
    out.put_u64(attributes.end_of_file);
    out.put_u64(attributes.allocation_size);
    out.put_bytes(&stream_name);
}
