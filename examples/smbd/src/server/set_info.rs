//! SET_INFO ([MS-SMB2] 3.3.5.21, [MS-FSA] 2.1.5.15).

use std::cell::RefCell;

use super::Connection;
use super::error::Outcome;
use super::io::is_range;
use super::open::{DiskOpen, Object};
use super::reply::Reply;
use super::request::Request;
use crate::share::metadata::{Kind, attribute};
use crate::share::{data, security};
use crate::wire::create::{access, options};
use crate::wire::file::FileId;
use crate::wire::query::{self, BasicInformation, SetInfo};
use crate::wire::status::Status;
use crate::wire::{Malformed, Reader};

/// A time that is to follow again what is done through this open. The one above it, -1, keeps the
/// time as it is, as a time that is given does ([MS-FSCC] 2.4.7).
const FOLLOW: u64 = u64::MAX - 1;

impl Connection {
    /// SET_INFO
    pub(super) async fn set_info(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let set = SetInfo::parse(request.message)?;
        request.check_payload(set.data.len())?;
        let id = request.file(set.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;
        match &open.object {
            Object::Pipe(..) => set_pipe_info(&set)?,
            Object::Disk(disk) => {
                if let Some(disposition) = Disposition::parse(&set)? {
                    disposition.set(request, id, disk).await?;
                    query::put_set_info(reply.out);
                    return Ok(Status::SUCCESS);
                }
                if let (query::INFO_FILE, 10 | 11 | 65 | 72) = (set.info_type, set.class) {
                    self.set_name(request, disk, &set).await?;
                    query::put_set_info(reply.out);
                    return Ok(Status::SUCCESS);
                }
                let disk = &mut disk.borrow_mut();
                disk.sync_path();
                match set.info_type {
                    query::INFO_FILE => set_file_info(disk, &set)?,
                    query::INFO_FILESYSTEM => return Err(set_volume_info(set.class).into()),
                    query::INFO_SECURITY => set_security(disk, &set)?,
                    query::INFO_QUOTA => return Err(Status::NOT_SUPPORTED.into()),
                    _ => return Err(Status::INVALID_PARAMETER.into()),
                }
            }
        }
        query::put_set_info(reply.out);
        Ok(Status::SUCCESS)
    }
}

fn set_file_info(disk: &mut DiskOpen, set: &SetInfo<'_>) -> Result<(), Status> {
    let short = |Malformed| Status::INFO_LENGTH_MISMATCH;
    let mut r = Reader::new(set.data);
    match set.class {
        4 => set_basic(disk, &BasicInformation::parse(set.data).map_err(short)?),
        // FilePositionInformation and FileModeInformation are of the open, not of the file.
        14 => {
            let position = r.u64().map_err(short)?;
            if i64::try_from(position).is_err() {
                return Err(Status::INVALID_PARAMETER);
            }
            disk.state.position = position;
            Ok(())
        }
        16 => {
            let mode = r.u32().map_err(short)?;
            if mode & !options::FILE_MODE != 0 {
                return Err(Status::INVALID_PARAMETER);
            }
            disk.state.mode = mode;
            Ok(())
        }
        19 => set_allocation(disk, r.u64().map_err(short)?),
        20 => set_end_of_file(disk, r.u64().map_err(short)?),
        15 => Err(Status::EAS_NOT_SUPPORTED),
        // FileValidDataLengthInformation would show what others have deleted.
        39 => Err(Status::PRIVILEGE_NOT_HELD),
        // FileShortNameInformation: there are none.
        40 => Err(Status::NOT_SUPPORTED),
        _ => Err(Status::INVALID_INFO_CLASS),
    }
}

fn set_pipe_info(set: &SetInfo<'_>) -> Result<(), Status> {
    const FILE_PIPE_MESSAGE_MODE: u32 = 1;
    // FilePipeInformation: this is a message pipe and does not block.
    if (set.info_type, set.class) != (query::INFO_FILE, 23) {
        return Err(Status::NOT_SUPPORTED);
    }
    let mut r = Reader::new(set.data);
    let read_mode = r.u32()?;
    let completion_mode = r.u32()?;
    if read_mode != FILE_PIPE_MESSAGE_MODE || completion_mode > 1 {
        return Err(Status::INVALID_READ_MODE);
    }
    Ok(())
}

/// What belongs to the volume is not the clients' to set.
fn set_volume_info(class: u8) -> Status {
    match class {
        2 | 6 | 8 => Status::ACCESS_DENIED, // Label, Control, ObjectId
        _ => Status::INVALID_INFO_CLASS,
    }
}

fn set_security(disk: &mut DiskOpen, set: &SetInfo<'_>) -> Result<(), Status> {
    if set.additional & (security::OWNER | security::GROUP) != 0 {
        disk.check_access(access::WRITE_OWNER)?;
    }
    if set.additional & security::DACL != 0 {
        disk.check_access(access::WRITE_DAC)?;
    }
    if set.additional & security::SACL != 0 {
        disk.check_access(access::ACCESS_SYSTEM_SECURITY)?;
    }
    disk.refresh()?;
    security::apply(&mut disk.node, set.data, set.additional)
}

fn set_basic(disk: &mut DiskOpen, basic: &BasicInformation) -> Result<(), Status> {
    disk.check_access(access::FILE_WRITE_ATTRIBUTES)?;
    let is_directory = disk.is_directory();
    let asked = basic.file_attributes;
    let impossible = if is_directory {
        attribute::TEMPORARY
    } else {
        attribute::DIRECTORY
    };
    let times = [
        basic.creation_time,
        basic.last_access_time,
        basic.last_write_time,
        basic.change_time,
    ];
    let before_time = |&time: &u64| i64::try_from(time).is_err() && time < FOLLOW;
    if asked & impossible != 0 || times.iter().any(before_time) {
        return Err(Status::INVALID_PARAMETER);
    }
    disk.refresh()?;
    let change_time = disk.node.metadata.shown_change_time();
    let given = |time: u64| (time != 0 && time < FOLLOW).then_some(time);
    let birth = given(basic.creation_time);
    if asked != 0 || birth.is_some() {
        disk.node
            .set_attributes((asked != 0).then_some(asked), birth)?;
    }
    let access_time = given(basic.last_access_time);
    let write_time = given(basic.last_write_time);
    if access_time.is_some() || write_time.is_some() {
        disk.node.set_times(access_time, write_time)?;
    }
    disk.link.end_delay();
    // Last, as all of this is a change.
    if let Some(time) = given(basic.change_time) {
        disk.node.set_change_time(time)?;
    } else if disk.keeps_change_time && basic.change_time == 0 {
        disk.node.set_change_time(change_time)?;
    }
    for (time, keeps) in [
        (basic.change_time, &mut disk.keeps_change_time),
        (basic.last_access_time, &mut disk.keeps_access_time),
        (basic.last_write_time, &mut disk.keeps_write_time),
    ] {
        match time {
            0 => {}
            FOLLOW => *keeps = false,
            _ => *keeps = true,
        }
    }
    Ok(())
}

/// FileDispositionInformation, FileDispositionInformationEx
struct Disposition {
    delete: bool,
    ignore_read_only: bool,
}

impl Disposition {
    /// `None` if something else is to be set.
    fn parse(set: &SetInfo<'_>) -> Result<Option<Disposition>, Status> {
        let short = |Malformed| Status::INFO_LENGTH_MISMATCH;
        let mut r = Reader::new(set.data);
        Ok(match (set.info_type, set.class) {
            (query::INFO_FILE, 13) => Some(Disposition {
                delete: r.u8().map_err(short)? != 0,
                ignore_read_only: false,
            }),
            (query::INFO_FILE, 64) => {
                const DELETE: u32 = 0x1;
                const IGNORE_READONLY_ATTRIBUTE: u32 = 0x10;
                let flags = r.u32().map_err(short)?;
                Some(Disposition {
                    delete: flags & DELETE != 0,
                    ignore_read_only: flags & IGNORE_READONLY_ATTRIBUTE != 0,
                })
            }
            _ => None,
        })
    }

    async fn set(
        self,
        request: &Request<'_>,
        id: FileId,
        disk: &RefCell<DiskOpen>,
    ) -> Result<(), Status> {
        let asked = {
            let mut disk = disk.borrow_mut();
            disk.check_access(access::DELETE)?;
            if self.delete {
                disk.refresh()?;
                match disk.check_deletable() {
                    Err(Status::CANNOT_DELETE)
                        if self.ignore_read_only && !disk.node.path.is_empty() => {}
                    result => result?,
                }
            }
            let held = disk.held.as_ref().ok_or(Status::FILE_CLOSED)?;
            held.set_delete(self.delete)
        };
        request.answer(Some(id), asked).await?
    }
}

fn set_end_of_file(disk: &mut DiskOpen, size: u64) -> Result<(), Status> {
    disk.check_access(access::FILE_WRITE_DATA)?;
    if disk.node.metadata.kind != Kind::File || !is_range(0, size) {
        return Err(Status::INVALID_PARAMETER);
    }
    disk.changing_data(|disk| {
        rustix::fs::ftruncate(&disk.node.fd, size).map_err(Status::from_errno)
    })?;
    disk.link.end_delay();
    Ok(())
}

/// Reserves room. Less than the file is long cuts it ([MS-FSA] 2.1.5.15.1).
fn set_allocation(disk: &mut DiskOpen, size: u64) -> Result<(), Status> {
    disk.check_access(access::FILE_WRITE_DATA)?;
    if disk.node.metadata.kind != Kind::File || !is_range(0, size) {
        return Err(Status::INVALID_PARAMETER);
    }
    disk.refresh()?;
    if size < disk.node.metadata.end_of_file() {
        return set_end_of_file(disk, size);
    }
    if let Some(held) = &disk.held {
        held.changes_data();
    }
    data::reserve(&disk.node.fd, size).map_err(Status::from_errno)
}
