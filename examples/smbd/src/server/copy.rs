//! Copying on the server, and the other IOCTLs that concern the data of a file
//! ([MS-SMB2] 3.3.5.15.5, 3.3.5.15.6, [MS-FSCC] 2.3).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::io::{check_locks, is_range};
use super::open::{DiskOpen, Object, Open};
use super::request::Request;
use super::session::Session;
use crate::share::data;
use crate::share::metadata::Kind;
use crate::wire::create::access;
use crate::wire::file::FileId;
use crate::wire::ioctl::{CopyChunks, DuplicateExtents};
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, Reader};

/// Limits of SRV_COPYCHUNK, those of Windows.
const MAX_CHUNKS: u32 = 256;
const MAX_CHUNK_LEN: u32 = 1024 * 1024;
const MAX_COPY_LEN: u64 = 16 * 1024 * 1024;

/// How much DUPLICATE_EXTENTS_TO_FILE copies before others have their turn: what can't share its
/// blocks is copied indeed.
const TURN: u64 = 16 * 1024 * 1024;
/// The most ranges that FILE_LEVEL_TRIM gives back. It tells how many they were.
const MAX_TRIMMED: u32 = 256;

/// Output of an IOCTL, with the status if it is not success.
pub(super) type Output = Result<(Status, Vec<u8>), Status>;

/// What opens are copied from by: an open's ids, worth nothing in another session.
pub(super) fn resume_key(id: FileId, max_output: usize) -> Output {
    let mut output = Vec::with_capacity(32);
    output.put_u64(id.persistent);
    output.put_u64(id.volatile);
    output.put_u64(0);
    output.put_u32(0); // ContextLength
    output.put_u32(0);
    if max_output < output.len() {
        return Err(Status::BUFFER_TOO_SMALL);
    }
    Ok((Status::SUCCESS, output))
}

/// `SRV_COPYCHUNK_RESPONSE`
fn copied(chunks: u32, partial: u32, total: u32) -> Vec<u8> {
    let mut output = Vec::with_capacity(12);
    output.put_u32(chunks);
    output.put_u32(partial);
    output.put_u32(total);
    output
}

/// SRV_COPYCHUNK and SRV_COPYCHUNK_WRITE: `readable` says that the target has to be.
pub(super) async fn copy_chunks(
    request: &Request<'_>,
    session: &Session,
    target: &RefCell<DiskOpen>,
    input: &[u8],
    max_output: usize,
    readable: bool,
) -> Output {
    if max_output < 12 {
        return Err(Status::INVALID_PARAMETER);
    }
    let chunks = CopyChunks::parse(input)?;
    let limits = Ok((
        Status::INVALID_PARAMETER,
        copied(MAX_CHUNKS, MAX_CHUNK_LEN, MAX_COPY_LEN as u32),
    ));
    if chunks.count > MAX_CHUNKS {
        return limits;
    }
    let source = chunks.source;
    let chunks = chunks.chunks()?;
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    let is_wrong = |length: u32| length == 0 || length > MAX_CHUNK_LEN;
    if total > MAX_COPY_LEN || chunks.iter().any(|chunk| is_wrong(chunk.length)) {
        return limits;
    }
    let source = FileId::parse(&mut Reader::new(&source))?;
    let source = source_of(request, session, source, Status::OBJECT_NAME_NOT_FOUND)?;
    let (from, to) = descriptors(&source, target, |from, to| {
        to.check_access(access::FILE_WRITE_DATA)?;
        from.check_access(access::FILE_READ_DATA | access::FILE_EXECUTE)?;
        if readable {
            to.check_access(access::FILE_READ_DATA)?;
        }
        Ok(())
    })?;
    let mut written = 0;
    for (done, chunk) in chunks.iter().enumerate() {
        let length = u64::from(chunk.length);
        let size = data::size(&from).map_err(Status::from_errno)?;
        let beyond = chunk
            .source_offset
            .checked_add(length)
            .is_none_or(|end| end > size);
        let status = if beyond {
            Err(Status::INVALID_VIEW_SIZE)
        } else if !is_range(chunk.target_offset, length) {
            Err(Status::INVALID_PARAMETER)
        } else {
            match check_both(
                &source,
                chunk.source_offset,
                target,
                chunk.target_offset,
                length,
            )
            .await
            {
                Ok(()) => {
                    let copied =
                        data::copy(&from, chunk.source_offset, &to, chunk.target_offset, length);
                    // Also if that has failed: a part may have been copied.
                    target.borrow_mut().note_written();
                    copied.map_err(Status::from_errno)
                }
                Err(status) => Err(status),
            }
        };
        match status {
            Ok(count) => written += count as u32,
            // What has been copied is told along.
            Err(status) => return Ok((status, copied(done as u32, 0, written))),
        }
    }
    Ok((Status::SUCCESS, copied(chunks.len() as u32, 0, written)))
}

/// FSCTL_DUPLICATE_EXTENTS_TO_FILE: as copying, which shares the blocks where the file system can.
pub(super) async fn duplicate_extents(
    request: &Request<'_>,
    session: &Session,
    target: &RefCell<DiskOpen>,
    input: &[u8],
) -> Output {
    let extents = DuplicateExtents::parse(input).map_err(|Malformed| Status::BUFFER_TOO_SMALL)?;
    if !target.borrow().share.shares_blocks() {
        return Err(Status::INVALID_DEVICE_REQUEST);
    }
    let source = source_of(request, session, extents.source, Status::INVALID_HANDLE)?;
    let (from, to) = descriptors(&source, target, |from, to| {
        to.check_access(access::FILE_WRITE_DATA)?;
        from.check_access(access::FILE_READ_DATA)
    })?;
    let length = extents.byte_count;
    let from_size = data::size(&from).map_err(Status::from_errno)?;
    let to_size = data::size(&to).map_err(Status::from_errno)?;
    let ends = |offset: u64, size| offset.checked_add(length).is_some_and(|end| end <= size);
    if !ends(extents.source_offset, from_size) || !ends(extents.target_offset, to_size) {
        return Err(Status::NOT_SUPPORTED);
    }
    check_both(
        &source,
        extents.source_offset,
        target,
        extents.target_offset,
        length,
    )
    .await?;
    // From the end that keeps what has yet to be copied if the ranges overlap.
    let is_backwards = extents.target_offset > extents.source_offset;
    let mut done = 0;
    while done < length {
        let count = (length - done).min(TURN);
        let at = match is_backwards {
            true => length - done - count,
            false => done,
        };
        let (source_at, target_at) = (extents.source_offset + at, extents.target_offset + at);
        if done > 0 {
            take_turns().await;
            // Others may have locked it meanwhile.
            check_both(&source, source_at, target, target_at, count).await?;
        }
        let copied = data::copy(&from, source_at, &to, target_at, count);
        target.borrow_mut().note_written();
        copied.map_err(Status::from_errno)?;
        done += count;
    }
    Ok((Status::SUCCESS, Vec::new()))
}

/// Lets others have their turn, so that what takes long holds nobody up and can be ended.
async fn take_turns() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// The open to copy from. What has to be encrypted doesn't leave its tree connect otherwise by being
/// copied to another one.
fn source_of(
    request: &Request<'_>,
    session: &Session,
    id: FileId,
    missing: Status,
) -> Result<Rc<Open>, Status> {
    let source = session.open_of_any_tree(id).ok_or(missing)?;
    let is_encrypted = request.exchange.seal().is_some();
    if !is_encrypted && session.demands_encryption(source.tree_id) {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(source)
}

/// Makes sure that no byte-range lock is in the way.
async fn check_both(
    source: &Open,
    from: u64,
    target: &RefCell<DiskOpen>,
    to: u64,
    length: u64,
) -> Result<(), Status> {
    if let Object::Disk(source) = &source.object {
        check_locks(source, from, length, false).await?;
    }
    check_locks(target, to, length, true).await
}

/// The descriptors to copy from and to, which may be one file.
fn descriptors(
    source: &Open,
    target: &RefCell<DiskOpen>,
    check: impl FnOnce(&DiskOpen, &DiskOpen) -> Result<(), Status>,
) -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), Status> {
    let Object::Disk(source) = &source.object else {
        return Err(Status::INVALID_DEVICE_REQUEST);
    };
    let (from, to) = (source.borrow(), target.borrow());
    check(&from, &to)?;
    if from.node.metadata.kind != Kind::File || to.node.metadata.kind != Kind::File {
        return Err(Status::INVALID_DEVICE_REQUEST);
    }
    let copy = |disk: &DiskOpen| {
        disk.node
            .fd
            .try_clone()
            .map_err(|_| Status::TOO_MANY_OPENED_FILES)
    };
    Ok((copy(&from)?, copy(&to)?))
}

/// FSCTL_SET_SPARSE
pub(super) fn set_sparse(disk: &mut DiskOpen, input: &[u8]) -> Output {
    disk.check_access(
        access::FILE_WRITE_DATA | access::FILE_APPEND_DATA | access::FILE_WRITE_ATTRIBUTES,
    )?;
    if disk.is_directory() {
        return Err(Status::INVALID_PARAMETER);
    }
    let sparse = input.first().is_none_or(|&byte| byte != 0); // without a buffer: yes
    disk.refresh()?;
    disk.node.set_sparse(sparse)?;
    Ok((Status::SUCCESS, Vec::new()))
}

/// FSCTL_SET_ZERO_DATA
pub(super) async fn set_zero_data(disk: &RefCell<DiskOpen>, input: &[u8]) -> Output {
    disk.borrow().check_access(access::FILE_WRITE_DATA)?;
    let mut r = Reader::new(input);
    let (from, to) = (r.u64()?, r.u64()?);
    if disk.borrow().is_directory() || !is_range(from, 0) || !is_range(to, 0) || from > to {
        return Err(Status::INVALID_PARAMETER);
    }
    disk.borrow_mut().refresh()?;
    let punch = disk.borrow().node.metadata.is_sparse();
    zero(disk, from, to, punch).await?;
    Ok((Status::SUCCESS, Vec::new()))
}

/// Makes a range zeros, as far as there is a file.
async fn zero(disk: &RefCell<DiskOpen>, from: u64, to: u64, punch: bool) -> Result<(), Status> {
    let mut at = from;
    loop {
        // Others may have locked it, or cut the file, while they had their turn.
        check_locks(disk, at, to.saturating_sub(at), true).await?;
        {
            let disk = &mut *disk.borrow_mut();
            let size = data::size(&disk.node.fd).map_err(Status::from_errno)?;
            let to = to.min(size);
            at = disk.changing_data(|disk| {
                data::zero(&disk.node.fd, at, to, punch).map_err(Status::from_errno)
            })?;
            if at >= to {
                return Ok(());
            }
        }
        take_turns().await;
    }
}

/// FSCTL_QUERY_ALLOCATED_RANGES
pub(super) fn query_allocated_ranges(
    disk: &mut DiskOpen,
    input: &[u8],
    max_output: usize,
) -> Output {
    const RANGE_LEN: usize = 16;
    disk.check_access(access::FILE_READ_DATA)?;
    let mut r = Reader::new(input);
    let (offset, length) = (r.u64()?, r.u64()?);
    if disk.is_directory() || !is_range(offset, length) {
        return Err(Status::INVALID_PARAMETER);
    }
    disk.refresh()?;
    let end = (offset + length).min(disk.node.metadata.end_of_file());
    let sparse = disk.node.metadata.is_sparse();
    let mut output = Vec::new();
    let mut at = offset;
    while at < end {
        // Only what is marked as sparse has holes to its clients.
        let range = match sparse {
            true => data::next_data(&disk.node.fd, at, end).map_err(Status::from_errno)?,
            false => Some((at, end)),
        };
        let Some((from, to)) = range else { break };
        if output.len() + RANGE_LEN > max_output {
            return match output.is_empty() {
                true => Err(Status::BUFFER_TOO_SMALL),
                false => Ok((Status::BUFFER_OVERFLOW, output)),
            };
        }
        output.put_u64(from);
        output.put_u64(to - from);
        at = to;
    }
    Ok((Status::SUCCESS, output))
}

/// FSCTL_FILE_LEVEL_TRIM: what the client needs no more is given back.
pub(super) async fn trim(disk: &RefCell<DiskOpen>, input: &[u8], max_output: usize) -> Output {
    disk.borrow().check_access(access::FILE_WRITE_DATA)?;
    if disk.borrow().is_directory() {
        return Err(Status::INVALID_PARAMETER);
    }
    let mut r = Reader::new(input);
    r.skip(4)?; // Key, of byte-range locks; not used
    let count = r.u32()?;
    if r.rest().len() / 16 < count as usize {
        return Err(Status::INVALID_PARAMETER);
    }
    let count = count.min(MAX_TRIMMED);
    for _ in 0..count {
        let (offset, length) = (r.u64()?, r.u64()?);
        let size = data::size(&disk.borrow().node.fd).map_err(Status::from_errno)?;
        zero(disk, offset, offset.saturating_add(length).min(size), true).await?;
    }
    let mut output = Vec::new();
    if max_output >= 4 {
        output.put_u32(count);
    }
    Ok((Status::SUCCESS, output))
}
