//! Sessions with their tree connects and opens, and the requests that make
//! and end sessions ([MS-SMB2] 3.3.5.5, 3.3.5.6).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Connection;
use super::error::{Outcome, Refusal};
use super::open::Open;
use super::reply::Reply;
use super::request::Request;
use crate::auth::{Acceptor, Identity, Logon, Step};
use crate::share::Share;
use crate::wire::file::FileId;
use crate::wire::session::{self, SessionSetup};
use crate::wire::status::Status;

/// The most sessions of one connection; a terminal server's clients share one.
const MAX_SESSIONS: usize = 64;

/// What a tree connect leads to.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    /// Named pipes.
    Ipc,
    /// A directory.
    Disk(Arc<Share>),
}

/// One user's session.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Who it is, once that is settled.
    logon: RefCell<Option<Logon>>,
    /// An authentication under way, the first or a renewal.
    acceptor: RefCell<Option<Acceptor>>,
    pub(super) trees: RefCell<HashMap<u32, Tree>>,
    pub(super) opens: RefCell<HashMap<u64, Rc<Open>>>,
    /// The ids given last; they are not used again.
    pub(super) last_tree_id: Cell<u32>,
    pub(super) last_file_id: Cell<u64>,
}

impl Session {
    /// The tree connect of a request.
    pub(super) fn tree(&self, tree_id: u32) -> Result<Tree, Status> {
        self.trees
            .borrow()
            .get(&tree_id)
            .cloned()
            .ok_or(Status::NETWORK_NAME_DELETED)
    }

    /// An open, whatever tree connect it was made through.
    pub(super) fn open_of_any_tree(&self, id: FileId) -> Option<Rc<Open>> {
        let opens = self.opens.borrow();
        let open = opens.get(&id.volatile)?;
        (id.persistent == id.volatile).then(|| Rc::clone(open))
    }

    /// The open of a request, which has to belong to the request's tree.
    pub(super) fn open(&self, tree_id: u32, id: FileId) -> Result<Rc<Open>, Status> {
        self.tree(tree_id)?;
        self.opens
            .borrow()
            .get(&id.volatile)
            .filter(|open| id.persistent == id.volatile && open.tree_id == tree_id)
            .cloned()
            .ok_or(Status::FILE_CLOSED)
    }
}

impl Connection {
    /// The session of a request, authenticated.
    pub(super) fn session(&self, session_id: u64) -> Result<Rc<Session>, Status> {
        self.sessions
            .borrow()
            .get(&session_id)
            .filter(|session| session.logon.borrow().is_some())
            .cloned()
            .ok_or(Status::USER_SESSION_DELETED)
    }

    /// SESSION_SETUP.
    ///
    /// `PreviousSessionId` is not acted upon: it names a session of another
    /// connection, which ends when that connection does.
    pub(super) async fn session_setup(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let setup = SessionSetup::parse(request.message)?;
        if setup.flags & session::REQUEST_FLAG_BINDING != 0 {
            // Multichannel is not among the capabilities.
            return Err(Status::REQUEST_NOT_ACCEPTED.into());
        }
        let id = match request.session_id {
            0 => self.new_session()?,
            id if self.sessions.borrow().contains_key(&id) => id,
            _ => return Err(Status::USER_SESSION_DELETED.into()),
        };
        reply.session_id = id;
        match self.authenticate(id, setup.security_buffer) {
            Ok(Step::Continue(token)) => {
                session::put_session_setup(reply.out, 0, &token);
                Ok(Status::MORE_PROCESSING_REQUIRED)
            }
            Ok(Step::Done(token, logon)) => {
                log::info!("{}: session {id:#x} of {}", self.peer, logon.identity);
                let session_flags = match logon.identity {
                    Identity::Anonymous => session::SESSION_FLAG_IS_NULL,
                    Identity::Guest(_) => session::SESSION_FLAG_IS_GUEST,
                };
                session::put_session_setup(reply.out, session_flags, &token);
                if let Some(session) = self.sessions.borrow().get(&id) {
                    session.logon.replace(Some(logon));
                }
                Ok(Status::SUCCESS)
            }
            Err(refusal) => {
                // A failed renewal ends the session as well: its user has
                // just proved to be somebody else.
                self.end_session(id).await;
                Err(refusal)
            }
        }
    }

    /// Ends a session with its tree connects and opens.
    pub(super) async fn end_session(&self, id: u64) {
        let session = self.sessions.borrow_mut().remove(&id);
        self.pending.log_off(id);
        if let Some(session) = session {
            for (_, open) in session.opens.take() {
                self.end_open(&open).await;
            }
        }
    }

    fn new_session(&self) -> Result<u64, Status> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= MAX_SESSIONS {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        loop {
            // Not to be guessed: on other connections it might be tried.
            let id = getrandom::u64().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
            if id != 0 && id != u64::MAX && !sessions.contains_key(&id) {
                sessions.insert(id, Rc::default());
                return Ok(id);
            }
        }
    }

    fn authenticate(&self, id: u64, token: &[u8]) -> Result<Step, Refusal> {
        let mut challenge = [0; 8];
        getrandom::fill(&mut challenge).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        let session = self
            .sessions
            .borrow()
            .get(&id)
            .cloned()
            .ok_or(Status::USER_SESSION_DELETED)?;
        let mut acceptor = session.acceptor.take().unwrap_or_default();
        let step = acceptor
            .step(token, self.config.server_name(), challenge)
            .map_err(|error| {
                log::info!("{}: {error}", self.peer);
                error.status()
            })?;
        if let Step::Continue(_) = step {
            session.acceptor.replace(Some(acceptor));
        }
        Ok(step)
    }

    /// LOGOFF
    pub(super) async fn logoff(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        session::parse_empty(request.message)?;
        self.session(request.session_id)?;
        self.end_session(request.session_id).await;
        session::put_empty(reply.out);
        Ok(Status::SUCCESS)
    }
}
