//! QUERY_DIRECTORY, QUERY_INFO, CHANGE_NOTIFY ([MS-SMB2] 3.3.5.18–3.3.5.20).

use super::Connection;
use super::error::{Outcome, Refusal};
use super::open::{DiskOpen, Object};
use super::reply::Reply;
use super::request::Request;
use crate::rpc;
use crate::share::directory::{EntryClass, Enumeration};
use crate::share::metadata::Kind;
use crate::share::wildcard::Pattern;
use crate::share::{info, security, volume};
use crate::wire::create::access;
use crate::wire::negotiate::Dialect;
use crate::wire::query::{self, QueryDirectory, QueryInfo};
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, text};

/// Output is bounded by the largest information there is, not by what a client
/// offers to take.
const MAX_DIRECTORY_OUTPUT: usize = 1024 * 1024;

impl Connection {
    /// QUERY_DIRECTORY
    pub(super) fn query_directory(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let query = QueryDirectory::parse(request.message)?;
        let room = query.output_length as usize;
        request.check_payload(room)?;
        let id = request.file(query.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;
        let mut disk = open.disk().map_err(|_| Status::INVALID_PARAMETER)?;
        if disk.node.metadata.kind != Kind::Directory {
            return Err(Status::INVALID_PARAMETER.into());
        }
        disk.check_access(access::FILE_READ_DATA)?; // FILE_LIST_DIRECTORY
        let class = EntryClass::from_number(query.class).ok_or(Status::INVALID_INFO_CLASS)?;
        let room = room.min(MAX_DIRECTORY_OUTPUT);
        reply.check_room(room)?;

        let DiskOpen {
            share,
            node,
            enumeration,
            ..
        } = &mut *disk;
        let pattern = || {
            let pattern = text::from_utf16le(query.pattern)
                .map_err(|Malformed| Status::OBJECT_NAME_INVALID)?;
            Pattern::new(&pattern)
        };
        let restart = query.flags & (query::RESTART_SCANS | query::REOPEN) != 0;
        let enumeration = match enumeration {
            Some(enumeration) => {
                if restart {
                    // Without a pattern the old one stays ([MS-FSA] 2.1.5.6.3).
                    let new = (!query.pattern.is_empty()).then(pattern).transpose()?;
                    enumeration.restart(new);
                }
                enumeration
            }
            none => none.insert(Enumeration::new(node, pattern()?)?),
        };
        let mark = query::start_output(reply.out);
        let single = query.flags & query::RETURN_SINGLE_ENTRY != 0;
        enumeration.fill(share, node, class, single, room, reply.out)?;
        query::finish_output(reply.out, mark);
        Ok(Status::SUCCESS)
    }

    /// QUERY_INFO
    pub(super) fn query_info(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let query = QueryInfo::parse(request.message)?;
        let room = query.output_length as usize;
        request.check_payload(room.max(query.input_length as usize))?;
        let id = request.file(query.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;

        // FileNormalizedNameInformation (3.3.5.20.1)
        if (query.info_type, query.class) == (query::INFO_FILE, 48)
            && request.dialect != Some(Dialect::Smb311)
        {
            return Err(Status::NOT_SUPPORTED.into());
        }

        let mark = query::start_output(reply.out);
        match &open.object {
            Object::Pipe(..) if query.info_type == query::INFO_FILE => {
                put_pipe_info(query.class, room, reply.out)?;
            }
            Object::Pipe(..) => return Err(Status::NOT_SUPPORTED.into()),
            Object::Disk(disk) => put_disk_info(&mut disk.borrow_mut(), &query, room, reply.out)?,
        }
        // What is longer than its fixed part may be cut ([MS-FSA] 2.1.5.12).
        let status = if reply.out.len() - mark > room {
            reply.out.truncate(mark + room);
            Status::BUFFER_OVERFLOW
        } else {
            Status::SUCCESS
        };
        query::finish_output(reply.out, mark);
        Ok(status)
    }
}

fn put_disk_info(
    disk: &mut DiskOpen,
    query: &QueryInfo,
    room: usize,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    match query.info_type {
        query::INFO_FILE => {
            disk.refresh()?;
            // Classes that tell more than the name takes FILE_READ_ATTRIBUTES for.
            if matches!(query.class, 4 | 18 | 34 | 35) {
                disk.check_access(access::FILE_READ_ATTRIBUTES)?;
            }
            let pending = disk.is_delete_pending();
            info::put(query.class, &disk.node, &disk.state, pending, room, out)?;
            Ok(())
        }
        query::INFO_FILESYSTEM => Ok(volume::put(query.class, &disk.share, room, out)?),
        query::INFO_SECURITY => {
            if query.additional != 0 {
                disk.check_access(access::READ_CONTROL)?;
            }
            disk.refresh()?;
            let descriptor = security::descriptor(&disk.node.metadata, query.additional);
            if descriptor.len() > room {
                return Err(Refusal::BufferTooSmall(descriptor.len() as u32));
            }
            out.put_bytes(&descriptor);
            Ok(())
        }
        query::INFO_QUOTA => Err(Status::NOT_SUPPORTED.into()),
        _ => Err(Status::INVALID_PARAMETER.into()),
    }
}

/// Information on the pipe ([MS-FSCC] 2.4.40, 2.4.47).
fn put_pipe_info(class: u8, room: usize, out: &mut Vec<u8>) -> Result<(), Status> {
    let length = match class {
        5 => 24,
        23 => 8,
        _ => return Err(Status::INVALID_INFO_CLASS),
    };
    if room < length {
        return Err(Status::INFO_LENGTH_MISMATCH);
    }
    if class == 5 {
        // FileStandardInformation
        out.put_u64(rpc::MAX_FRAGMENT as u64);
        out.put_u64(0);
        out.put_u32(1);
        out.put_bytes(&[1, 0, 0, 0]); // a pipe is gone when it is closed: DeletePending
    } else {
        // FilePipeInformation: message mode, queue operations
        out.put_u32(1);
        out.put_u32(0);
    }
    Ok(())
}
