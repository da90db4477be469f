//! CHANGE_NOTIFY ([MS-SMB2] 3.3.5.19).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::Connection;
use super::error::Outcome;
use super::open::Object;
use super::pending::Interrupt;
use super::reply::Reply;
use super::request::Request;
use crate::share::changes::{Taken, filter};
use crate::share::metadata::Kind;
use crate::wire::Put;
use crate::wire::create::access;
use crate::wire::query::{self, ChangeNotify};
use crate::wire::status::Status;

/// The most bytes of changes that are kept for a client.
const MAX_KEPT: usize = 64 * 1024;

impl Connection {
    /// CHANGE_NOTIFY. What is watched is settled by the first one on an open;
    /// from then on changes are kept for the next one.
    pub(super) async fn change_notify(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let notify = ChangeNotify::parse(request.message)?;
        let room = notify.output_length as usize;
        request.check_payload(room)?;
        let id = request.file(notify.file_id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;
        if notify.filter & !filter::ALL != 0 {
            return Err(Status::INVALID_PARAMETER.into());
        }
        let (watch, is_deleted) = {
            let mut disk = open.disk()?;
            if disk.node.metadata.kind != Kind::Directory {
                return Err(Status::INVALID_PARAMETER.into());
            }
            reply.file_id = Some(id);
            disk.check_access(access::FILE_READ_DATA)?; // FILE_LIST_DIRECTORY
            let watch = match &disk.watch {
                Some(watch) => Rc::clone(watch),
                None => {
                    let watch = self
                        .changes
                        .watch(
                            &disk.node.fd,
                            notify.filter,
                            notify.is_tree,
                            room.min(MAX_KEPT),
                        )
                        .map_err(|errno| {
                            log::info!("{}: a directory can't be watched: {errno}", self.peer);
                            Status::NOT_SUPPORTED
                        })?;
                    disk.watch.insert(watch).clone()
                }
            };
            (watch, disk.is_delete_pending())
        };
        // What the client has done itself counts before it asks.
        self.changes.read();
        let open = Rc::downgrade(&open); // so that CLOSE ends it though this waits
        let changed = poll_fn(|context| {
            if let Some(taken) = watch.take(room) {
                return Poll::Ready(taken);
            }
            let is_deleted = is_deleted
                || open.upgrade().is_some_and(|open| match &open.object {
                    Object::Disk(disk) => disk.borrow().is_delete_pending(),
                    Object::Pipe(..) => false,
                });
            if is_deleted {
                return Poll::Ready(Taken::Gone);
            }
            watch.wake_later(context.waker());
            Poll::Pending
        });
        let taken =
            request
                .wait_for(Some(id), changed)
                .await
                .map_err(|interrupt| match interrupt {
                    Interrupt::Closed | Interrupt::Disconnected | Interrupt::LoggedOff => {
                        Status::NOTIFY_CLEANUP
                    }
                    other => other.status(),
                })?;
        match taken {
            Taken::Changes(changes) => {
                let mark = query::start_output(reply.out);
                reply.out.put_bytes(&changes);
                query::finish_output(reply.out, mark);
                Ok(Status::SUCCESS)
            }
            Taken::Overflow => Err(Status::NOTIFY_ENUM_DIR.into()),
            Taken::Gone => Err(Status::DELETE_PENDING.into()),
        }
    }

    /// Whether a watched directory is to be deleted may have changed.
    pub(super) fn wake_watches(&self) {
        for session in self.sessions.borrow().values() {
            for open in session.opens.borrow().values() {
                if let Object::Disk(disk) = &open.object
                    && let Some(watch) = &disk.borrow().watch
                {
                    watch.wake();
                }
            }
        }
    }
}
