//! One request with the ids it is for, whether it carries them itself or
//! inherits them from the request before it in a compound.

use std::future::Future;

use super::pending::{Exchange, Interrupt};
use crate::sharing::Asked;
use crate::wire::file::FileId;
use crate::wire::header::Command;
use crate::wire::negotiate::Dialect;
use crate::wire::status::Status;

/// Credits pay for payload in pieces of this size ([MS-SMB2] 3.3.5.2.5).
const CREDIT_UNIT: usize = 65536;

/// A request on its way through a handler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The request from its header on, without those that follow.
    pub(super) message: &'a [u8],
    /// What it asks for.
    pub(super) command: Command,
    /// The session it is for.
    pub(super) session_id: u64,
    /// The tree connect it is for.
    pub(super) tree_id: u32,
    /// For related requests: the file of the request before.
    pub(super) related_file: Option<FileId>,
    /// What it costs.
    pub(super) credit_charge: u16,
    /// How often the client has lost a channel, as far as its dialect counts that.
    pub(super) channel_sequence: Option<u16>,
    /// `None` before and while negotiating.
    pub(super) dialect: Option<Dialect>,
    /// The message it is part of.
    pub(super) exchange: &'a Exchange,
}

impl Request<'_> {
    /// Awaits what another client may take any time for. The client is told
    /// that the answer comes later, and other messages are processed meanwhile.
    /// What concerns `file_id` alone ends when that is closed.
    ///
    /// # Errors
    ///
    /// The waiting was ended; `future` has been dropped.
    pub(super) async fn wait_for<F: Future>(
        &self,
        file_id: Option<FileId>,
        future: F,
    ) -> Result<F::Output, Interrupt> {
        self.exchange.wait_for(self.tree_id, file_id, future).await
    }

    /// Awaits what the parent answers, which may depend on another client.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for), as the status to answer with; inside, what
    /// the parent refuses.
    pub(super) async fn answer<T>(
        &self,
        file_id: Option<FileId>,
        mut asked: Asked<T>,
    ) -> Result<Result<T, Status>, Status> {
        let answer = if asked.is_answered_soon().await {
            asked.await
        } else {
            self.wait_for(file_id, asked)
                .await
                .map_err(Interrupt::status)?
        };
        Ok(answer.map_err(Status::from))
    }

    /// The file a request is for, given the id it carries.
    pub(super) fn file(&self, id: FileId) -> FileId {
        match self.related_file {
            Some(related) if id == FileId::RELATED => related,
            _ => id,
        }
    }

    /// The longest READ, WRITE or other buffer.
    pub(super) fn max_size(&self) -> usize {
        super::negotiate::max_size(self.dialect) as usize
    }

    /// Makes sure that a payload of `length` bytes, sent or asked for, is
    /// within bounds and paid for.
    pub(super) fn check_payload(&self, length: usize) -> Result<(), Status> {
        if length > self.max_size() {
            return Err(Status::INVALID_PARAMETER);
        }
        // 2.0.2 knows no charges, and its maximum is one unit.
        let charge = usize::from(self.credit_charge.max(1));
        if self.dialect != Some(Dialect::Smb202) && length.div_ceil(CREDIT_UNIT) > charge {
            return Err(Status::INVALID_PARAMETER);
        }
        Ok(())
    }
}
