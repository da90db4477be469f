//! Opens: what a FileId stands for.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Identity;
use crate::rpc::Pipe;
use crate::share::changes::Watch;
use crate::share::directory::Enumeration;
use crate::share::info::OpenState;
use crate::share::metadata::{FileKey, Kind, attribute};
use crate::share::{Node, Share};
use crate::sharing::Held;
use crate::wire::status::Status;
use crate::wire::time;

/// One open file, directory or pipe.
#[derive(Debug)]
pub(super) struct Open {
    /// The tree connect it was made through.
    pub(super) tree_id: u32,
    /// The newest that a request for it has had.
    pub(super) channel_sequence: Cell<u16>,
    pub(super) object: Object,
}

/// What is open. Few are pipes, so that their size counts for nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Object {
    /// A named pipe, and who has opened it: that counts, also when the session is somebody else's.
    Pipe(RefCell<Pipe>, Identity),
    /// A file or directory.
    Disk(RefCell<DiskOpen>),
}

/// An open file or directory.
#[derive(Debug)]
pub(super) struct DiskOpen {
    pub(super) share: Arc<Share>,
    /// Its descriptor can be read from and written to as far as `state.granted_access` says so.
    pub(super) node: Node,
    /// The name it was opened by, shared with the other opens of that name.
    pub(super) link: Rc<Link>,
    pub(super) state: OpenState,
    /// What others may do meanwhile.
    pub(super) share_access: u32,
    /// For directories, from the first QUERY_DIRECTORY on.
    pub(super) enumeration: Option<Enumeration>,
    /// What the parent knows of it; missing when it has been closed.
    pub(super) held: Option<Held>,
    /// For directories, from the first CHANGE_NOTIFY on.
    pub(super) watch: Option<Rc<Watch>>,
    /// Times that writing and reading through this open leave alone, as a client has set them
    /// ([MS-FSA] 2.1.5.15.2).
    pub(super) keeps_write_time: bool,
    pub(super) keeps_access_time: bool,
    pub(super) keeps_change_time: bool,
    /// Data has been written; ARCHIVE is set.
    pub(super) has_written: bool,
}

impl DiskOpen {
    /// Brings the metadata and the path up to date.
    pub(super) fn refresh(&mut self) -> Result<(), Status> {
        self.sync_path();
        self.node.refresh()?;
        self.delay_write_time();
        Ok(())
    }

    /// Replaces the time of the last write by the one to be told now.
    pub(super) fn delay_write_time(&mut self) {
        if let Some(time) = self.link.delayed_write_time() {
            self.node.metadata.show_last_write_time(time);
        }
    }

    /// Brings the path up to date, which a rename through another open may have changed.
    pub(super) fn sync_path(&mut self) {
        let path = self.link.path.borrow();
        if *path != self.node.path {
            self.node.path.clone_from(&path);
        }
    }

    /// Brings the path up to date if another client, or a program on the server, has renamed it.
    pub(super) fn find_again(&mut self) {
        let is_there = |path: &[u8]| {
            let found = self.share.metadata(path);
            found.is_ok_and(|there| there.same_file(&self.node.metadata))
        };
        if !is_there(&self.node.path)
            && let Some(path) = self.share.current_path(&self.node.fd)
            && is_there(&path)
        {
            self.link.path.borrow_mut().clone_from(&path);
            self.node.path = path;
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.node.metadata.kind == Kind::Directory
    }

    /// Makes sure that one of the bits of `access` has been granted.
    pub(super) fn check_access(&self, access: u32) -> Result<(), Status> {
        if self.state.granted_access & access != 0 {
            Ok(())
        } else {
            Err(Status::ACCESS_DENIED)
        }
    }

    /// Whether the file may be deleted as far as its attributes and content go.
    pub(super) fn check_deletable(&self) -> Result<(), Status> {
        check_deletable(&self.share, &self.node)
    }

    /// The time of the last access, if a client has set it and reading is to keep it.
    pub(super) fn kept_access_time(&mut self) -> Result<Option<u64>, Status> {
        if !self.keeps_access_time {
            return Ok(None);
        }
        self.refresh()?;
        Ok(Some(self.node.metadata.last_access_time()))
    }

    /// Runs what changes the data, keeping the times that a client has set.
    pub(super) fn changing_data<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        if !self.keeps_write_time && !self.keeps_change_time {
            let result = change(self)?;
            self.note_written();
            if self.node.metadata.stored.change_time.is_some() {
                self.node.set_attributes(None, None)?; // which ends a change time that was set
            }
            return Ok(result);
        }
        self.refresh()?;
        let write_time = self.node.metadata.last_write_time();
        let change_time = self.node.metadata.shown_change_time();
        let result = change(self)?;
        self.note_written();
        if self.keeps_write_time {
            self.node.set_times(None, Some(write_time))?;
        }
        if self.keeps_change_time {
            self.node.set_change_time(change_time)?;
        }
        Ok(result)
    }

    /// Runs a write, which is not told as the last one at once.
    pub(super) fn writing<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        if self.keeps_write_time {
            return self.changing_data(write);
        }
        if let Some(mut delay) = self.link.delay.get() {
            delay.is_late |= delay.since.elapsed() >= DELAY;
            self.link.delay.set(Some(delay));
            return self.changing_data(write);
        }
        let written_at = |disk: &mut Self| {
            disk.node
                .refresh()
                .map(|()| disk.node.metadata.last_write_time())
        };
        let before = written_at(self)?;
        let result = self.changing_data(write)?;
        let first_write = written_at(self)?;
        self.link.delay.set(Some(Delay {
            before,
            first_write,
            since: Instant::now(),
            is_late: false,
        }));
        Ok(result)
    }

    /// Settles the time of the last write, as the open is about to be closed.
    pub(super) fn finish_writing(&mut self) {
        if !std::mem::take(&mut self.has_written) {
            return;
        }
        if let Some(delay) = self.link.delay.take()
            && delay.is_late
            && let Err(status) = self.node.set_times(None, Some(time::now()))
        {
            log::debug!("the time of the last write can't be set: {status}");
        }
    }

    /// Whether the file is to be deleted when its last open ends, whoever has that.
    pub(super) fn is_delete_pending(&self) -> bool {
        self.held.as_ref().is_some_and(Held::is_delete_pending)
    }

    /// Ends what others have cached, and sets ARCHIVE, as the data differs from what a backup has.
    pub(super) fn note_written(&mut self) {
        if let Some(held) = &self.held {
            held.changes_data();
        }
        if !self.has_written {
            self.has_written = true;
            let attributes = self.node.metadata.file_attributes();
            if attributes & attribute::ARCHIVE == 0 && !self.is_directory() {
                let archived = self
                    .node
                    .set_attributes(Some(attributes | attribute::ARCHIVE), None);
                if let Err(status) = archived {
                    log::debug!("ARCHIVE can't be set: {status}");
                }
            }
        }
    }
}

impl Drop for DiskOpen {
    fn drop(&mut self) {
        self.finish_writing();
    }
}

/// Whether a file may be deleted as far as its attributes and content go.
pub(super) fn check_deletable(share: &Share, node: &Node) -> Result<(), Status> {
    if node.path.is_empty() || node.metadata.is_read_only() {
        return Err(Status::CANNOT_DELETE);
    }
    if node.metadata.kind == Kind::Directory && !share.is_empty(node)? {
        return Err(Status::DIRECTORY_NOT_EMPTY);
    }
    Ok(())
}

/// A name by which the client has something open, once for all opens of that name.
#[derive(Debug)]
pub(super) struct Link {
    share: Arc<Share>,
    file: FileKey,
    /// The path on disk.
    pub(super) path: RefCell<Vec<u8>>,
    /// Set from the first write on.
    delay: Cell<Option<Delay>>,
}

/// How long a write is not seen in the time of the last write.
const DELAY: Duration = Duration::from_secs(2);

/// What is told as the time of the last write after a write, as Windows does: for two seconds what
/// was before, then the time of the first write, whatever is written meanwhile, until the file is
/// closed or flushed or its size or times are set. On disk the time is the true one; if that has
/// been held back, closing counts as the last write.
#[derive(Debug, Clone, Copy)]
struct Delay {
    before: u64,
    first_write: u64,
    since: Instant,
    /// A later write has been held back.
    is_late: bool,
}

impl Link {
    fn delayed_write_time(&self) -> Option<u64> {
        let delay = self.delay.get()?;
        Some(if delay.since.elapsed() < DELAY {
            delay.before
        } else {
            delay.first_write
        })
    }

    /// Tells the true time of the last write from now on.
    pub(super) fn end_delay(&self) {
        self.delay.set(None);
    }

    /// Removes the name. `fd` is the file.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        let mut removed = self.share.remove(&self.path.borrow(), self.file);
        if removed.is_err()
            && let Some(path) = self.share.current_path(fd)
        {
            // Another client has renamed it.
            removed = self.share.remove(&path, self.file);
        }
        if let Err(status) = removed {
            log::info!(
                "{}: a file to be deleted on close stays: {status}",
                self.share.name()
            );
        }
    }
}

/// The names by which a client has something open.
#[derive(Debug, Default)]
pub(super) struct Links {
    by_file: HashMap<FileKey, Vec<Weak<Link>>>,
    /// With more files than this, those that nobody has open any more are forgotten.
    limit: usize,
}

impl Links {
    /// The link of `node`, if that name of it is open.
    pub(super) fn find(&self, share: &Arc<Share>, node: &Node) -> Option<Rc<Link>> {
        self.of_file(node.metadata.key())
            .find(|link| Arc::ptr_eq(&link.share, share) && *link.path.borrow() == node.path)
    }

    /// The link of `node`, made if that name of it is not open.
    pub(super) fn get(&mut self, share: &Arc<Share>, node: &Node) -> Rc<Link> {
        if let Some(link) = self.find(share, node) {
            return link;
        }
        if self.by_file.len() >= self.limit {
            self.by_file.retain(|_, links| {
                links.retain(|link| link.strong_count() > 0);
                !links.is_empty()
            });
            self.limit = (self.by_file.len() * 2).max(64);
        }
        let file = node.metadata.key();
        let link = Rc::new(Link {
            share: Arc::clone(share),
            file,
            path: RefCell::new(node.path.clone()),
            delay: Cell::new(None),
        });
        let links = self.by_file.entry(file).or_default();
        links.retain(|link| link.strong_count() > 0);
        links.push(Rc::downgrade(&link));
        link
    }

    /// The names by which a file is open.
    pub(super) fn of_file(&self, file: FileKey) -> impl Iterator<Item = Rc<Link>> {
        let links = self.by_file.get(&file).into_iter().flatten();
        links.filter_map(Weak::upgrade)
    }

    /// Whether something below the directory `path` is open.
    pub(super) fn any_below(&self, share: &Arc<Share>, path: &[u8]) -> bool {
        let mut links = self.by_file.values().flatten().filter_map(Weak::upgrade);
        links.any(|link| Arc::ptr_eq(&link.share, share) && is_below(&link.path.borrow(), path))
    }
}

/// Whether `path` leads to something in the directory `parent` or deeper.
fn is_below(path: &[u8], parent: &[u8]) -> bool {
    match path.strip_prefix(parent) {
        Some(rest) => parent.is_empty() && !rest.is_empty() || rest.first() == Some(&b'/'),
        None => false,
    }
}

impl Open {
    pub(super) fn is_pipe(&self) -> bool {
        matches!(self.object, Object::Pipe(..))
    }

    /// The file or directory. Not to be held over an `.await`.
    ///
    /// # Errors
    ///
    /// `STATUS_INVALID_DEVICE_REQUEST` for a pipe.
    pub(super) fn disk(&self) -> Result<RefMut<'_, DiskOpen>, Status> {
        match &self.object {
            Object::Disk(disk) => Ok(disk.borrow_mut()),
            Object::Pipe(..) => Err(Status::INVALID_DEVICE_REQUEST),
        }
    }
}
