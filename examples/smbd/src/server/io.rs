//! READ, WRITE, CLOSE and FLUSH ([MS-SMB2] 3.3.5.10–3.3.5.13).

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::Connection;
use super::error::Outcome;
use super::open::{DiskOpen, Object, Open};
use super::reply::Reply;
use super::request::Request;
use crate::outgoing::{self, FilePart};
use crate::share::data;
use crate::share::metadata::Kind;
use crate::sharing::Access;
use crate::wire::create::{access, options};
use crate::wire::file::{self, Close, Read, Write};
use crate::wire::status::Status;

/// A READ that has been found in order: what is to be sent, and from where.
///
/// Deciding is kept apart from copying, so that the bytes can also go from
/// the file to the socket without passing through here. They do that if nobody has to
/// look at them.
#[derive(Debug)]
struct ReadPlan<'a> {
    file: &'a Rc<OwnedFd>,
    offset: u64,
    length: usize,
    /// With fewer bytes than this, the file having been cut short since, the
    /// read fails.
    minimum: usize,
}

/// With less data than this, sending it from its file takes longer than copying it.
const LEAST_FROM_FILE: usize = 32 * 1024;

impl<'a> ReadPlan<'a> {
    fn new(disk: &'a DiskOpen, read: &Read) -> Result<ReadPlan<'a>, Status> {
        disk.check_access(access::FILE_READ_DATA | access::FILE_EXECUTE)?;
        if disk.node.metadata.kind != Kind::File {
            return Err(Status::INVALID_DEVICE_REQUEST);
        }
        let wanted = u64::from(read.length);
        if !is_range(read.offset, wanted) {
            return Err(Status::INVALID_PARAMETER);
        }
        let size = data::size(&disk.node.fd).map_err(Status::from_errno)?;
        let available = size.saturating_sub(read.offset);
        let length = wanted.min(available) as usize; // at most `wanted`, 32 bits
        let minimum = read.minimum_count as usize;
        // Nothing to be had where something is asked for is the end of the file.
        if length < minimum || length == 0 && wanted > 0 {
            return Err(Status::END_OF_FILE);
        }
        Ok(ReadPlan {
            file: &disk.node.fd,
            offset: read.offset,
            length,
            minimum,
        })
    }

    /// Enters the bytes into `reply`, or where they are, and returns how many they are.
    fn put(&self, reply: &mut Reply<'_>) -> Result<usize, Status> {
        if reply.takes_file && self.length >= LEAST_FROM_FILE {
            let file = Rc::clone(self.file);
            reply.file = Some(FilePart::new(file, self.offset, self.length));
            return Ok(self.length);
        }
        reply.reserve(self.length);
        let count = outgoing::read_at(self.file.as_fd(), self.offset, self.length, reply.out)
            .map_err(Status::from_errno)?;
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

/// Makes sure that no byte-range lock is in the way of reading or writing.
pub(super) async fn check_locks(
    disk: &RefCell<DiskOpen>,
    offset: u64,
    length: u64,
    writes: bool,
) -> Result<(), Status> {
    let access = {
        let disk = disk.borrow();
        let held = disk.held.as_ref().ok_or(Status::FILE_CLOSED)?;
        held.access(offset, length, writes)
    };
    match access {
        Access::Free => Ok(()),
        Access::Prevented => Err(Status::FILE_LOCK_CONFLICT),
        Access::Ask(asked) => Ok(asked.await?),
    }
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
    disk.state
        .written_to(write.offset + write.data.len() as u64);
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
        let open = self.session(request.session_id)?.open(request, id)?;
        let body = reply.out.len();
        file::put_read(reply.out);
        let data = reply.out.len();
        let mut status = Status::SUCCESS;
        let count;
        match &open.object {
            Object::Disk(disk) => {
                let length = u64::from(read.length);
                check_locks(disk, read.offset, length, false).await?;
                let disk = &mut disk.borrow_mut();
                let access_time = disk.kept_access_time()?;
                reply.takes_file &= access_time.is_none();
                count = ReadPlan::new(disk, &read)?.put(reply)?;
                disk.state.position = read.offset + count as u64;
                if access_time.is_some() {
                    disk.node.set_times(access_time, None)?;
                }
            }
            Object::Pipe(pipe, _) => {
                // A pipe here never has an answer still to come: what was
                // asked has been answered at once.
                let more = pipe
                    .borrow_mut()
                    .read(read.length as usize, reply.out)
                    .ok_or(Status::PIPE_EMPTY)?;
                if more {
                    status = Status::BUFFER_OVERFLOW;
                }
                count = reply.out.len() - data;
            }
        }
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
        match &session.open(request, id)?.object {
            Object::Disk(disk) => {
                check_locks(disk, write.offset, write.data.len() as u64, true).await?;
                write_file(&mut disk.borrow_mut(), &write)?;
            }
            Object::Pipe(pipe, opener) => {
                pipe.borrow_mut()
                    .write(write.data, &self.config.rpc_server(opener))
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
        let open = session.open(request, id)?;
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
        self.end_open(&open).await;
        file::put_close(reply.out, attributes.as_ref());
        Ok(Status::SUCCESS)
    }

    /// Closes what is no longer in its session's table. If it was the last open
    /// of a file that is to be deleted, the file is gone then.
    pub(super) async fn end_open(&self, open: &Open) {
        let Object::Disk(disk) = &open.object else {
            return;
        };
        let (held, link, watch) = {
            let mut disk = disk.borrow_mut();
            disk.finish_writing();
            (disk.held.take(), Rc::clone(&disk.link), disk.watch.take())
        };
        if watch.is_some() {
            drop(watch);
            self.changes.tidy();
        }
        if let Some(held) = held
            && let Some(removing) = held.close().await
        {
            link.remove(disk.borrow().node.fd.as_fd());
            drop(removing);
        }
    }

    /// FLUSH
    pub(super) fn flush(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let id = request.file(file::parse_flush(request.message)?);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        if let Object::Disk(disk) = &session.open(request, id)?.object {
            let disk = disk.borrow();
            disk.check_access(access::FILE_WRITE_DATA | access::FILE_APPEND_DATA)?;
            disk.share.sync(&disk.node)?;
            disk.link.end_delay();
        }
        crate::wire::session::put_empty(reply.out);
        Ok(Status::SUCCESS)
    }
}
