//! Breaks of oplocks, and OPLOCK_BREAK, which acknowledges them
//! ([MS-SMB2] 3.3.4.6, 3.3.5.22.1).

use super::Connection;
use super::error::Outcome;
use super::open::Object;
use super::protection::{Protection, Seal};
use super::reply::{Frame, Reply};
use super::request::Request;
use crate::sharing::{Break, NoBreak, Oplock};
use crate::wire::file::{self, FileId, OplockBreak};
use crate::wire::header::{Command, ResponseHeader};
use crate::wire::status::Status;

/// What notifications carry, which answer no request.
const NO_MESSAGE_ID: u64 = u64::MAX;

impl Connection {
    /// Tells the client to break an oplock.
    pub(super) fn send_break(&self, broken: Break) {
        let Some((file_id, seal)) = self.file_id_of(broken) else {
            // Its CREATE is to be answered first, unless it is being closed.
            if self.port.knows(broken.open) {
                self.early_breaks.borrow_mut().push(broken);
            }
            return;
        };
        let mut frame = Frame::new(seal, &self.buffers);
        let reply = frame.start_response(0, 0);
        file::put_oplock_break(reply.out, broken.to.level(), file_id);
        let header = ResponseHeader {
            credit_charge: 0,
            command: Command::OplockBreak as u16,
            status: Status::SUCCESS,
            credit_response: 0,
            flags: 0,
            message_id: NO_MESSAGE_ID,
            process_id: 0,
            tree_id: 0,
            session_id: 0,
            async_id: None,
        };
        // It is not signed ([MS-SMB2] 3.3.4.1.1).
        frame.finish_response(&header, Protection::default());
        self.send(frame.finish());
    }

    /// The client's id of the file, and what a message about it is to be encrypted with.
    fn file_id_of(&self, broken: Break) -> Option<(FileId, Option<Seal>)> {
        for (&session_id, session) in self.sessions.borrow().iter() {
            for (&id, open) in session.opens.borrow().iter() {
                let Object::Disk(disk) = &open.object else {
                    continue;
                };
                let disk = disk.borrow();
                if disk
                    .held
                    .as_ref()
                    .is_some_and(|held| held.id() == broken.open)
                {
                    let file_id = FileId::of(session_id, id);
                    return Some((file_id, session.seal(session_id, open.tree_id)));
                }
            }
        }
        None
    }

    /// OPLOCK_BREAK: an acknowledgment.
    pub(super) fn oplock_break(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let acknowledgment = OplockBreak::parse(request.message)?;
        let session = self.session(request.session_id)?;
        match acknowledgment {
            OplockBreak::Oplock(id, level) => {
                let id = request.file(id);
                reply.file_id = Some(id);
                let open = session.open(request, id)?;
                let oplock = match level {
                    0x00 | 0x01 | 0x08 | 0x09 => Oplock::from_level(level),
                    _ => return Err(Status::INVALID_PARAMETER.into()),
                };
                let disk = open.disk()?;
                let held = disk.held.as_ref().ok_or(Status::FILE_CLOSED)?;
                let kept = held
                    .acknowledge(oplock)
                    .map_err(|NoBreak| Status::INVALID_OPLOCK_PROTOCOL)?;
                file::put_oplock_break(reply.out, kept.level(), id);
                Ok(Status::SUCCESS)
            }
            // No leases are granted.
            OplockBreak::Lease => Err(Status::OBJECT_NAME_NOT_FOUND.into()),
        }
    }
}
