//! READ, WRITE and the smaller requests on an open: CLOSE, FLUSH, LOCK,
//! OPLOCK_BREAK ([MS-SMB2] 3.3.5.10–3.3.5.14, 3.3.5.22).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::Connection;
use super::error::Outcome;
use super::open::{DiskOpen, Object};
use super::reply::Reply;
use super::request::Request;
use crate::share::data;
use crate::share::metadata::Kind;
use crate::wire::create::{access, options};
use crate::wire::file::{self, Close, LOCKFLAG_UNLOCK, OplockBreak, Read, Write};
use crate::wire::status::Status;

/// A READ that has been found in order: what is to be sent, and from where.
///
/// Deciding is kept apart from copying, so that the bytes can also go from
/// the file to the socket without passing through here.
#[derive(Debug)]
struct ReadPlan<'a> {
    fd: BorrowedFd<'a>,
    offset: u64,
    length: usize,
    /// With fewer bytes than this, the file having been cut short since, the
    /// read fails.
    minimum: usize,
}

impl<'a> ReadPlan<'a> {
    fn new(disk: &'a mut DiskOpen, read: &Read) -> Result<ReadPlan<'a>, Status> {
        disk.check_access(access::FILE_READ_DATA | access::FILE_EXECUTE)?;
        if disk.node.metadata.kind != Kind::File {
            return Err(Status::INVALID_DEVICE_REQUEST);
        }
        let wanted = u64::from(read.length);
        if !is_range(read.offset, wanted) {
            return Err(Status::INVALID_PARAMETER);
        }
        disk.refresh()?;
        let available = disk.node.metadata.end_of_file().saturating_sub(read.offset);
        let length = wanted.min(available) as usize; // at most `wanted`, 32 bits
        let minimum = read.minimum_count as usize;
        // Nothing to be had where something is asked for is the end of the file.
        if length < minimum || length == 0 && wanted > 0 {
            return Err(Status::END_OF_FILE);
        }
        Ok(ReadPlan {
            fd: disk.node.fd.as_fd(),
            offset: read.offset,
            length,
            minimum,
        })
    }

    /// Appends the bytes to `out` and returns how many they are.
    fn copy_to(&self, out: &mut Vec<u8>) -> Result<usize, Status> {
        out.reserve_exact(self.length);
        let start = out.len();
        while out.len() - start < self.length {
            let done = out.len() - start;
            // Where the capacity exceeds the plan, more than planned may be
            // read; it is cut off below.
            match rustix::io::pread(self.fd, spare_capacity(out), self.offset + done as u64) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Status::from_errno(errno)),
            }
        }
        out.truncate(start + self.length);
        let count = out.len() - start;
        if count < self.minimum || count == 0 && self.length > 0 {
            return Err(Status::END_OF_FILE);
        }
        Ok(count)
    }
}

/// Whether `offset..offset + length` is a range that a file can have.
pub(super) fn is_range(offset: u64, length: u64) -> bool {
    let end = offset.checked_add(length);
    end.is_some_and(|end| i64::try_from(end).is_ok())
}

fn write_file(disk: &mut DiskOpen, write: &Write<'_>) -> Result<(), Status> {
    disk.check_access(access::FILE_WRITE_DATA | access::FILE_APPEND_DATA)?;
    if disk.node.metadata.kind != Kind::File {
        return Err(Status::INVALID_DEVICE_REQUEST);
    }
    if !is_range(write.offset, write.data.len() as u64) {
        return Err(Status::INVALID_PARAMETER);
    }
    if disk.check_access(access::FILE_WRITE_DATA).is_err() {
        // What may be appended to only keeps what it has ([MS-SMB2] 3.3.5.13).
        disk.refresh()?;
        if write.offset < disk.node.metadata.end_of_file() {
            return Err(Status::ACCESS_DENIED);
        }
    }
    let durable = write.flags & file::WRITE_THROUGH != 0
        || disk.state.mode & options::FILE_WRITE_THROUGH != 0;
    disk.writing(|disk| {
        data::write_at(&disk.node.fd, write.data, write.offset, durable).map_err(Status::from_errno)
    })?;
    disk.state.position = write.offset + write.data.len() as u64;
    disk.note_written();
    Ok(())
}

impl Connection {
    /// READ
    pub(super) async fn read(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let read = Read::parse(request.message)?;
        request.check_payload(read.length as usize)?;
        let id = request.file(read.file_id);
        reply.file_id = Some(id);
        reply.check_room(read.length as usize)?;
        let open = self
            .session(request.session_id)?
            .open(request.tree_id, id)?;
        let body = reply.out.len();
        file::put_read(reply.out);
        let data = reply.out.len();
        let mut status = Status::SUCCESS;
        match &open.object {
            Object::Disk(disk) => {
                let disk = &mut disk.borrow_mut();
                let count = ReadPlan::new(disk, &read)?.copy_to(reply.out)?;
                disk.state.position = read.offset + count as u64;
            }
            Object::Pipe(pipe) => {
                // A pipe here never has an answer still to come: what was
                // asked has been answered at once.
                let more = pipe
                    .borrow_mut()
                    .read(read.length as usize, reply.out)
                    .ok_or(Status::PIPE_EMPTY)?;
                if more {
                    status = Status::BUFFER_OVERFLOW;
                }
            }
        }
        let count = reply.out.len() - data;
        file::set_read_length(&mut reply.out[body..data], count as u32);
        Ok(status)
    }

    /// WRITE
    pub(super) async fn write(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let write = Write::parse(request.message)?;
        request.check_payload(write.data.len())?;
        let id = request.file(write.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        match &session.open(request.tree_id, id)?.object {
            Object::Disk(disk) => write_file(&mut disk.borrow_mut(), &write)?,
            Object::Pipe(pipe) => {
                pipe.borrow_mut()
                    .write(write.data, &self.config.rpc_server())
                    .map_err(|_| Status::INVALID_PIPE_STATE)?;
            }
        }
        file::put_write(reply.out, write.data.len() as u32);
        Ok(Status::SUCCESS)
    }

    /// CLOSE
    pub(super) async fn close(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let close = Close::parse(request.message)?;
        let id = request.file(close.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request.tree_id, id)?;
        let attributes = match &open.object {
            Object::Disk(disk) if close.query_attributes => {
                let mut disk = disk.borrow_mut();
                disk.finish_writing();
                // The file is closed all the same if they cannot be had.
                let refreshed = disk.refresh();
                refreshed
                    .ok()
                    .map(|()| disk.node.metadata.attributes(disk.node.name()))
            }
            _ => None,
        };
        session.opens.borrow_mut().remove(&id.volatile);
        self.pending.close(request.session_id, id);
        file::put_close(reply.out, attributes.as_ref());
        Ok(Status::SUCCESS)
    }

    /// FLUSH
    pub(super) fn flush(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let id = request.file(file::parse_flush(request.message)?);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        if let Object::Disk(disk) = &session.open(request.tree_id, id)?.object {
            let disk = disk.borrow();
            disk.check_access(access::FILE_WRITE_DATA | access::FILE_APPEND_DATA)?;
            disk.share.sync(&disk.node)?;
            disk.link.end_delay();
        }
        crate::wire::session::put_empty(reply.out);
        Ok(Status::SUCCESS)
    }

    /// LOCK: there are no byte-range locks.
    pub(super) async fn lock(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let (id, elements) = file::parse_lock(request.message)?;
        let id = request.file(id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        session.open(request.tree_id, id)?.disk()?;
        if elements
            .iter()
            .any(|e| e.offset.checked_add(e.length).is_none())
        {
            return Err(Status::INVALID_PARAMETER.into());
        }
        // A lock granted without effect would be a lie that costs data.
        if elements.iter().all(|e| e.flags & LOCKFLAG_UNLOCK != 0) {
            Err(Status::RANGE_NOT_LOCKED.into())
        } else {
            Err(Status::NOT_SUPPORTED.into())
        }
    }

    /// OPLOCK_BREAK: an acknowledgment, but no oplock or lease is ever granted.
    pub(super) fn oplock_break(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let acknowledgment = OplockBreak::parse(request.message)?;
        let session = self.session(request.session_id)?;
        match acknowledgment {
            OplockBreak::Oplock(id) => {
                let id = request.file(id);
                reply.file_id = Some(id);
                session.open(request.tree_id, id)?;
                Err(Status::INVALID_DEVICE_STATE.into())
            }
            OplockBreak::Lease => Err(Status::OBJECT_NAME_NOT_FOUND.into()),
        }
    }
}
