//! Sessions with their tree connects and opens, and the requests that make
//! and end sessions ([MS-SMB2] 3.3.5.5, 3.3.5.6).

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Connection;
use super::error::{Outcome, Refusal};
use super::negotiate::Negotiated;
use super::open::Open;
use super::protection::{Keys, Protection};
use super::reply::Reply;
use super::request::Request;
use crate::auth::{Acceptor, Identity, Logon, Step};
use crate::crypto::preauth::PreauthHash;
use crate::crypto::signing::Algorithm;
use crate::share::Share;
use crate::wire::file::FileId;
use crate::wire::header::Command;
use crate::wire::negotiate::{Dialect, SIGNING_REQUIRED};
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
    pub(super) id: u64,
    /// Who it is, once that is settled.
    logon: RefCell<Option<Logon>>,
    /// An authentication under way, the first or a renewal.
    acceptor: RefCell<Option<Acceptor>>,
    /// In 3.1.1, until the first logon: the hash of what has been said.
    preauth: Rc<RefCell<PreauthHash>>,
    /// Made by the first logon, unless it was a guest's. A renewal doesn't change them.
    pub(super) keys: OnceCell<Keys>,
    /// Requests have to be signed.
    pub(super) signing_required: Cell<bool>,
    /// Requests have to be encrypted.
    pub(super) encrypt: Cell<bool>,
    pub(super) trees: RefCell<HashMap<u32, Tree>>,
    /// Those whose share demands that requests are encrypted.
    pub(super) encrypted_trees: RefCell<HashSet<u32>>,
    pub(super) opens: RefCell<HashMap<u64, Rc<Open>>>,
    /// The ids given last; they are not used again.
    pub(super) last_tree_id: Cell<u32>,
    pub(super) last_file_id: Cell<u64>,
}

impl Session {
    /// Who it is, as far as that is settled.
    pub(super) fn identity(&self) -> Identity {
        let logon = self.logon.borrow();
        logon
            .as_ref()
            .map_or(Identity::Anonymous, |logon| logon.identity.clone())
    }

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
        (id == FileId::of(self.id, id.volatile)).then(|| Rc::clone(open))
    }

    /// The open of a request, which has to belong to the request's tree. A request that was sent
    /// before a channel was lost changes nothing any more (3.3.5.2.10): its client has sent it again
    /// since.
    pub(super) fn open(&self, request: &Request<'_>, id: FileId) -> Result<Rc<Open>, Status> {
        const FURTHEST_AHEAD: u16 = 0x7FFF;
        self.tree(request.tree_id)?;
        let opens = self.opens.borrow();
        let open = opens
            .get(&id.volatile)
            .filter(|open| {
                id == FileId::of(self.id, id.volatile) && open.tree_id == request.tree_id
            })
            .ok_or(Status::FILE_CLOSED)?;
        if let Some(sequence) = request.channel_sequence {
            if sequence.wrapping_sub(open.channel_sequence.get()) <= FURTHEST_AHEAD {
                open.channel_sequence.set(sequence);
            } else if let Command::Write | Command::SetInfo | Command::Ioctl = request.command {
                return Err(Status::FILE_NOT_AVAILABLE);
            }
        }
        Ok(Rc::clone(open))
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

    /// SESSION_SETUP
    pub(super) async fn session_setup(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let setup = SessionSetup::parse(request.message)?;
        let negotiated = self.negotiation.borrow().done().cloned();
        let negotiated = negotiated.ok_or(Status::INVALID_PARAMETER)?;
        let binds = setup.flags & session::REQUEST_FLAG_BINDING != 0;
        let is_known = self.sessions.borrow().contains_key(&request.session_id);
        if binds && is_known {
            return Err(Status::REQUEST_NOT_ACCEPTED.into());
        }
        if binds || request.session_id != 0 && !is_known {
            return self.used_elsewhere(request, &negotiated, binds).await;
        }
        let id = match request.session_id {
            0 => self.new_session(&negotiated)?,
            id => id,
        };
        let session = self.sessions.borrow().get(&id).cloned();
        let session = session.ok_or(Status::USER_SESSION_DELETED)?;
        reply.session_id = id;
        let hashes = negotiated.dialect == Dialect::Smb311 && session.logon.borrow().is_none();
        if hashes {
            session.preauth.borrow_mut().update(request.message);
        }
        let result = match self.authenticate(&session, setup.security_buffer).await {
            Ok(Step::Continue(token)) => {
                if hashes {
                    request
                        .exchange
                        .protect(Protection::hashed(&session.preauth));
                }
                session::put_session_setup(reply.out, 0, &token);
                return Ok(Status::MORE_PROCESSING_REQUIRED);
            }
            Ok(Step::Done(token, logon)) => self
                .log_on(id, &session, &setup, &negotiated, logon)
                .await
                .map(|flags| (flags, token)),
            Err(refusal) => Err(refusal),
        };
        match result {
            Ok((flags, token)) => {
                if let Some(keys) = session.keys.get() {
                    request.exchange.protect(Protection::signed(keys));
                }
                session::put_session_setup(reply.out, flags, &token);
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

    /// A session of another connection is to be used on this one: multichannel, which is not among
    /// the capabilities. The refusal is signed, if the request is.
    async fn used_elsewhere(
        &self,
        request: &Request<'_>,
        negotiated: &Negotiated,
        binds: bool,
    ) -> Outcome {
        let asked =
            self.port
                .session_elsewhere(request.session_id, negotiated.signing, request.message);
        let known = match asked {
            Some(asked) => asked.await.ok().flatten(),
            None => None,
        };
        let Some((signing, algorithm)) = known else {
            return Err(Status::USER_SESSION_DELETED.into());
        };
        let protection = Protection::signed_elsewhere(algorithm, &signing.key);
        request.exchange.protect(protection);
        if !binds {
            return Err(Status::USER_SESSION_DELETED.into());
        }
        // As Windows does, which looks at the algorithms first.
        let is_gmac = |algorithm| algorithm == Algorithm::AesGmac;
        Err(
            match (is_gmac(signing.algorithm), is_gmac(negotiated.signing)) {
                (false, true) => Status::NOT_SUPPORTED,
                (true, false) => Status::REQUEST_OUT_OF_SEQUENCE,
                _ => Status::REQUEST_NOT_ACCEPTED,
            }
            .into(),
        )
    }

    /// Lets somebody in who has authenticated, and returns the session's flags.
    async fn log_on(
        &self,
        id: u64,
        session: &Session,
        setup: &SessionSetup<'_>,
        negotiated: &Negotiated,
        logon: Logon,
    ) -> Result<u16, Refusal> {
        let security = self.config.security();
        let refuse = |why: &str| {
            log::warn!("{}: {} refused: {why}", self.peer, logon.identity);
            Err(Status::ACCESS_DENIED.into())
        };
        if let Some(session_key) = &logon.session_key {
            session.keys.get_or_init(|| {
                Keys::new(
                    session_key,
                    negotiated.dialect,
                    negotiated.signing,
                    negotiated.cipher,
                    &session.preauth.borrow(),
                )
            });
        }
        let keys = session.keys.get();
        if security.require_signing && keys.is_none() {
            return refuse("without a password nothing can be signed");
        }
        if security.require_encryption && !keys.is_some_and(Keys::can_encrypt) {
            return refuse("encryption is required");
        }
        if let Err(why) = self.host.admit(&logon.identity) {
            return refuse(&why);
        }
        let flags = match logon.identity {
            Identity::Anonymous => session::SESSION_FLAG_IS_NULL,
            Identity::Guest(_) => session::SESSION_FLAG_IS_GUEST,
            Identity::User(_) if security.require_encryption => {
                session.encrypt.set(true);
                session::SESSION_FLAG_ENCRYPT_DATA
            }
            Identity::User(_) => 0,
        };
        let required = security.require_signing
            || (setup.security_mode | negotiated.client_security_mode()) & SIGNING_REQUIRED != 0;
        if keys.is_some() && required {
            session.signing_required.set(true);
        }
        log::info!("{}: session {id:#x} of {}", self.peer, logon.identity);
        self.end_previous(setup.previous_session_id, id, &logon.identity)
            .await;
        let signing = match (keys, &logon.session_key) {
            (Some(keys), Some(key)) => {
                Some(keys.shared(negotiated.dialect, key, &session.preauth.borrow()))
            }
            _ => None,
        };
        let identity = logon.identity.to_string();
        self.port.session_begun(id, signing, &identity);
        session.logon.replace(Some(logon));
        self.is_authenticated.set(true);
        Ok(flags)
    }

    /// Ends the session that a client has lost and that this one replaces, if it was the same
    /// user's (3.3.5.5.3).
    async fn end_previous(&self, previous: u64, id: u64, identity: &Identity) {
        if previous == 0 || previous == id {
            return;
        }
        let is_theirs = self
            .sessions
            .borrow()
            .get(&previous)
            .is_some_and(|session| {
                let logon = session.logon.borrow();
                logon.as_ref().is_some_and(|old| old.identity == *identity)
            });
        if is_theirs {
            self.end_session(previous).await;
        } else if !self.sessions.borrow().contains_key(&previous) {
            // Then it is in another process, if anywhere.
            let _ = self
                .port
                .replace_session(previous, &identity.to_string())
                .await;
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
            if session.logon.borrow().is_some() {
                self.port.session_ended(id);
            }
        }
    }

    fn new_session(&self, negotiated: &Negotiated) -> Result<u64, Status> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= MAX_SESSIONS {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        loop {
            // Of no use to others, who would need its keys. There are clients that keep 32 bits of
            // it, so there are no more.
            let id = getrandom::u32().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
            let id = u64::from(id);
            if id != 0 && id != u64::from(u32::MAX) && !sessions.contains_key(&id) {
                let session = Session {
                    id,
                    preauth: Rc::new(RefCell::new(*negotiated.preauth.borrow())),
                    ..Session::default()
                };
                sessions.insert(id, Rc::new(session));
                return Ok(id);
            }
        }
    }

    async fn authenticate(&self, session: &Session, token: &[u8]) -> Result<Step, Refusal> {
        let mut challenge = [0; 8];
        getrandom::fill(&mut challenge).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        let mut acceptor = session.acceptor.take().unwrap_or_default();
        match acceptor.step(token, self.config.authentication(), challenge) {
            Ok(step) => {
                if let Step::Continue(_) = step {
                    session.acceptor.replace(Some(acceptor));
                }
                Ok(step)
            }
            Err(error) => {
                log::warn!("{}: logon refused: {error}", self.peer);
                if error.is_guess() {
                    // Nothing else of this client is processed meanwhile.
                    self.host.delay_failure().await;
                }
                Err(error.status().into())
            }
        }
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
