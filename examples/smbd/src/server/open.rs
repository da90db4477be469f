//! Opens: what a FileId stands for.

use std::cell::{RefCell, RefMut};
use std::sync::Arc;

use crate::rpc::Pipe;
use crate::share::directory::Enumeration;
use crate::share::info::OpenState;
use crate::share::metadata::Metadata;
use crate::share::{Node, Share};
use crate::wire::status::Status;

/// One open file, directory or pipe.
#[derive(Debug)]
pub(super) struct Open {
    /// The tree connect it was made through.
    pub(super) tree_id: u32,
    pub(super) object: Object,
}

/// What is open.
#[derive(Debug)]
pub(super) enum Object {
    /// The `srvsvc` pipe.
    Pipe(RefCell<Pipe>),
    /// A file or directory.
    Disk(RefCell<DiskOpen>),
}

/// An open file or directory.
#[derive(Debug)]
pub(super) struct DiskOpen {
    pub(super) share: Arc<Share>,
    /// Its descriptor can be read from if `state.granted_access` says so.
    pub(super) node: Node,
    pub(super) state: OpenState,
    /// For directories, from the first QUERY_DIRECTORY on.
    pub(super) enumeration: Option<Enumeration>,
}

impl DiskOpen {
    /// Brings the metadata up to date.
    pub(super) fn refresh(&mut self) -> Result<(), Status> {
        self.node.metadata = Metadata::of(&self.node.fd).map_err(Status::from_errno)?;
        Ok(())
    }

    /// Makes sure that one of the bits of `access` has been granted.
    pub(super) fn check_access(&self, access: u32) -> Result<(), Status> {
        if self.state.granted_access & access != 0 {
            Ok(())
        } else {
            Err(Status::ACCESS_DENIED)
        }
    }
}

impl Open {
    pub(super) fn is_pipe(&self) -> bool {
        matches!(self.object, Object::Pipe(_))
    }

    /// The file or directory. Not to be held over an `.await`.
    ///
    /// # Errors
    ///
    /// `STATUS_INVALID_DEVICE_REQUEST` for a pipe.
    pub(super) fn disk(&self) -> Result<RefMut<'_, DiskOpen>, Status> {
        match &self.object {
            Object::Disk(disk) => Ok(disk.borrow_mut()),
            Object::Pipe(_) => Err(Status::INVALID_DEVICE_REQUEST),
        }
    }
}
