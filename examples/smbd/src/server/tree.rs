//! TREE_CONNECT and TREE_DISCONNECT ([MS-SMB2] 3.3.5.7, 3.3.5.8).

use std::sync::Arc;

use super::Connection;
use super::error::{Outcome, ProtocolError};
use super::protection::Keys;
use super::reply::Reply;
use super::request::Request;
use super::session::Tree;
use crate::config::IPC_SHARE;
use crate::share::Share;
use crate::wire::create::access;
use crate::wire::header::{FLAG_SIGNED, FLAGS_OFFSET};
use crate::wire::negotiate::Dialect;
use crate::wire::session::{self, ShareType};
use crate::wire::status::Status;
use crate::wire::text;

const MAX_TREES: usize = 1024;

/// The most access a share gives.
pub(super) fn maximal_disk_access(share: &Share) -> u32 {
    if share.is_read_only() {
        access::FILE_GENERIC_READ | access::FILE_GENERIC_EXECUTE
    } else {
        access::FILE_ALL_ACCESS
    }
}
/// A pipe is written to and read from.
pub(super) const MAXIMAL_PIPE_ACCESS: u32 = access::FILE_GENERIC_READ | access::FILE_GENERIC_WRITE;

impl Connection {
    /// TREE_CONNECT
    pub(super) fn tree_connect(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let path = session::parse_tree_connect(request.message)?;
        let config = Arc::clone(&self.config);
        let session = self.session(request.session_id)?;
        // Else somebody in between could have chosen the dialect (3.3.5.7).
        let is_signed = request.message[FLAGS_OFFSET] & FLAG_SIGNED as u8 != 0;
        if request.dialect == Some(Dialect::Smb311)
            && session.keys.get().is_some()
            && !is_signed
            && request.exchange.seal().is_none()
        {
            return Err(ProtocolError::Unsigned.into());
        }
        let name = path
            .strip_prefix(r"\\")
            .and_then(|path| path.split_once('\\'))
            .map(|(_server, share)| share)
            .filter(|share| !share.is_empty())
            .ok_or(Status::INVALID_PARAMETER)?;
        let identity = session.identity();
        let mut encrypt = false;
        let tree = if text::same_name(name, IPC_SHARE) {
            Tree::Ipc
        } else {
            let point = config.share(name).ok_or(Status::BAD_NETWORK_NAME)?;
            let access = config.access(point, &identity).ok_or_else(|| {
                log::warn!("{}: {identity} may not use share {name:?}", self.peer);
                Status::ACCESS_DENIED
            })?;
            encrypt = point.rules.encrypt;
            if encrypt && !session.keys.get().is_some_and(Keys::can_encrypt) {
                log::warn!(
                    "{}: {identity} refused: share {name:?} requires encryption",
                    self.peer
                );
                return Err(Status::ACCESS_DENIED.into());
            }
            Tree::Disk(Arc::clone(point.for_access(access)))
        };
        let mut trees = session.trees.borrow_mut();
        if trees.len() >= MAX_TREES {
            return Err(Status::INSUFFICIENT_RESOURCES.into());
        }
        let (share_type, maximal_access) = match &tree {
            Tree::Ipc => (ShareType::Pipe, MAXIMAL_PIPE_ACCESS),
            Tree::Disk(share) => (ShareType::Disk, maximal_disk_access(share)),
        };
        // Four thousand million tree connects later the ids begin again.
        let id = loop {
            let id = session.last_tree_id.get().wrapping_add(1);
            session.last_tree_id.set(id);
            if id != 0 && id != u32::MAX && !trees.contains_key(&id) {
                break id;
            }
        };
        trees.insert(id, tree);
        if encrypt {
            session.encrypted_trees.borrow_mut().insert(id);
        }
        reply.tree_id = id;
        session::put_tree_connect(reply.out, share_type, maximal_access, encrypt);
        Ok(Status::SUCCESS)
    }

    /// TREE_DISCONNECT
    pub(super) async fn tree_disconnect(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        session::parse_empty(request.message)?;
        let session = self.session(request.session_id)?;
        session
            .trees
            .borrow_mut()
            .remove(&request.tree_id)
            .ok_or(Status::NETWORK_NAME_DELETED)?;
        self.pending.disconnect(request.session_id, request.tree_id);
        let concerned: Vec<_> = session
            .opens
            .borrow_mut()
            .extract_if(|_, open| open.tree_id == request.tree_id)
            .collect();
        for (_, open) in concerned {
            self.end_open(&open).await;
        }
        session
            .encrypted_trees
            .borrow_mut()
            .remove(&request.tree_id);
        session::put_empty(reply.out);
        Ok(Status::SUCCESS)
    }
}
