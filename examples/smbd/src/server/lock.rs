//! LOCK: byte-range locks ([MS-SMB2] 3.3.5.14).

use super::Connection;
use super::error::Outcome;
use super::pending::Interrupt;
use super::reply::Reply;
use super::request::Request;
use crate::sharing::message::MAX_RANGES;
use crate::sharing::{Range, Refusal};
use crate::wire::create::access;
use crate::wire::file::{
    self, LOCKFLAG_EXCLUSIVE, LOCKFLAG_FAIL_IMMEDIATELY, LOCKFLAG_SHARED, LOCKFLAG_UNLOCK,
    LockElement,
};
use crate::wire::session;
use crate::wire::status::Status;

impl Connection {
    /// LOCK
    pub(super) async fn lock(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let (id, elements) = file::parse_lock(request.message)?;
        let id = request.file(id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;
        let asked = {
            let disk = open.disk()?;
            if disk.is_directory() {
                return Err(Status::INVALID_PARAMETER.into());
            }
            let held = disk.held.as_ref().ok_or(Status::FILE_CLOSED)?;
            // The first element says what the request is.
            if elements[0].flags & LOCKFLAG_UNLOCK != 0 {
                for element in &elements {
                    if element.flags != LOCKFLAG_UNLOCK {
                        return Err(Status::INVALID_PARAMETER.into());
                    }
                    check_range(element)?;
                    if !held.unlock(element.offset, element.length) {
                        return Err(Status::RANGE_NOT_LOCKED.into());
                    }
                }
                session::put_empty(reply.out);
                return Ok(Status::SUCCESS);
            }
            let waits = |element: &LockElement| element.flags & LOCKFLAG_FAIL_IMMEDIATELY == 0;
            if elements.len() > 1 && elements.iter().any(waits) {
                return Err(Status::INVALID_PARAMETER.into());
            }
            let ranges: Vec<Range> = elements.iter().map(range).collect::<Result<_, _>>()?;
            disk.check_access(access::FILE_READ_DATA | access::FILE_WRITE_DATA)?;
            if ranges.len() > MAX_RANGES {
                return Err(Status::INSUFFICIENT_RESOURCES.into());
            }
            held.lock(ranges, waits(&elements[0]))
        };
        drop(open); // so that CLOSE ends it though this waits
        let mut asked = asked;
        let answer = if asked.is_answered_soon().await {
            asked.await
        } else {
            request
                .wait_for(Some(id), asked)
                .await
                .map_err(|interrupt| match interrupt {
                    // What it was to lock is gone.
                    Interrupt::Closed | Interrupt::Disconnected | Interrupt::LoggedOff => {
                        Status::RANGE_NOT_LOCKED
                    }
                    other => other.status(),
                })?
        };
        match answer {
            Ok(()) => {
                session::put_empty(reply.out);
                Ok(Status::SUCCESS)
            }
            Err(Refusal::LockConflict) => Err(Status::LOCK_NOT_GRANTED.into()),
            Err(refusal) => Err(Status::from(refusal).into()),
        }
    }
}

/// What an element is to lock.
fn range(element: &LockElement) -> Result<Range, Status> {
    let exclusive = match element.flags & !LOCKFLAG_FAIL_IMMEDIATELY {
        LOCKFLAG_SHARED => false,
        LOCKFLAG_EXCLUSIVE => true,
        _ => return Err(Status::INVALID_PARAMETER),
    };
    check_range(element)?;
    Ok(Range {
        offset: element.offset,
        length: element.length,
        exclusive,
    })
}

/// The last byte has to be one that a 64-bit offset can name.
fn check_range(element: &LockElement) -> Result<(), Status> {
    let last = element.length.saturating_sub(1);
    match element.offset.checked_add(last) {
        Some(_) => Ok(()),
        None => Err(Status::INVALID_LOCK_RANGE),
    }
}
