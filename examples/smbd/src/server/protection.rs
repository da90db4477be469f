//! Where signatures are checked and made, and messages decrypted and encrypted.
//!
//! The server asks
//!
//! * [`Connection::decrypt`] for a message in a transform header,
//! * [`Connection::check_protection`] for each request, those of a compound
//!   included, before it is executed. The [`Protection`] that it returns belongs
//!   to the request until its last response, however late that is;
//! * [`Protection::seal_response`] when a response is complete, with the padding
//!   that leads to the next one: interim responses, responses, and those that
//!   come later. Credits and NextCommand have been entered;
//! * [`Seal::encrypt`] for a frame of responses to an encrypted message.
//!
//! All of it is done in place: where a frame is going to be encrypted, room for the
//! transform header has been left.

use std::cell::RefCell;
use std::rc::Rc;

use super::Connection;
use super::error::{ProtocolError, Refusal};
use super::session::Session;
use crate::crypto::kdf::{Purpose, derive};
use crate::crypto::preauth::PreauthHash;
use crate::crypto::sealing::{CipherId, Opener, Sealer, Tampered};
use crate::crypto::signing::{Algorithm, SigningKey};
use crate::sharing::Signing;
use crate::wire::header::{self, Command, Header};
use crate::wire::negotiate::Dialect;
use crate::wire::status::Status;
use crate::wire::transform::TransformHeader;

/// The keys of a session, which are made when its user has logged on and never change.
#[derive(Debug)]
pub(super) struct Keys {
    signing: Rc<SigningKey>,
    /// Where encryption has been negotiated.
    sealing: Option<SealingKeys>,
}

#[derive(Debug)]
struct SealingKeys {
    opener: Opener,
    sealer: Rc<RefCell<Sealer>>,
}

impl Keys {
    /// `preauth` is the hash up to the last request of the logon.
    pub(super) fn new(
        session_key: &[u8; 16],
        dialect: Dialect,
        algorithm: Algorithm,
        cipher: Option<CipherId>,
        preauth: &PreauthHash,
    ) -> Keys {
        let signing = signing_key(session_key, dialect, preauth);
        let sealing = cipher.map(|cipher| {
            let key = |purpose| {
                if cipher.is_256() {
                    return derive::<32>(session_key, dialect, purpose, preauth);
                }
                let mut key = [0; 32];
                let short = derive::<16>(session_key, dialect, purpose, preauth);
                key[..16].copy_from_slice(&short);
                key
            };
            SealingKeys {
                opener: Opener::new(cipher, &key(Purpose::ClientToServer)),
                sealer: Rc::new(RefCell::new(Sealer::new(
                    cipher,
                    &key(Purpose::ServerToClient),
                ))),
            }
        });
        Keys {
            signing: Rc::new(SigningKey::new(algorithm, &signing)),
            sealing,
        }
    }

    /// For the process that knows all sessions.
    pub(super) fn shared(
        &self,
        dialect: Dialect,
        session_key: &[u8; 16],
        preauth: &PreauthHash,
    ) -> Signing {
        Signing {
            algorithm: self.signing.algorithm(),
            key: signing_key(session_key, dialect, preauth),
        }
    }

    /// Whether messages can be encrypted.
    pub(super) fn can_encrypt(&self) -> bool {
        self.sealing.is_some()
    }
}

fn signing_key(session_key: &[u8; 16], dialect: Dialect, preauth: &PreauthHash) -> [u8; 16] {
    match dialect {
        Dialect::Smb202 | Dialect::Smb210 => *session_key,
        Dialect::Smb300 | Dialect::Smb302 | Dialect::Smb311 => {
            derive(session_key, dialect, Purpose::Signing, preauth)
        }
    }
}

impl Session {
    /// Whether what is about a tree connect of it has to be encrypted.
    pub(super) fn demands_encryption(&self, tree_id: u32) -> bool {
        self.encrypt.get() || self.encrypted_trees.borrow().contains(&tree_id)
    }

    /// What a message that answers none is encrypted with, if it has to be.
    pub(super) fn seal(&self, session_id: u64, tree_id: u32) -> Option<Seal> {
        let sealing = self.keys.get()?.sealing.as_ref()?;
        self.demands_encryption(tree_id).then(|| Seal {
            session_id,
            sealer: Rc::clone(&sealing.sealer),
        })
    }
}

/// What becomes of the responses to a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Protection {
    /// Signs them.
    signing: Option<Rc<SigningKey>>,
    /// Takes them in.
    preauth: Option<Rc<RefCell<PreauthHash>>>,
}

impl Protection {
    /// They are signed.
    pub(super) fn signed(keys: &Keys) -> Protection {
        Protection {
            signing: Some(Rc::clone(&keys.signing)),
            preauth: None,
        }
    }

    /// They are signed as those of a session on another connection.
    pub(super) fn signed_elsewhere(algorithm: Algorithm, key: &[u8; 16]) -> Protection {
        Protection {
            signing: Some(Rc::new(SigningKey::new(algorithm, key))),
            preauth: None,
        }
    }

    /// They count in a preauthentication hash.
    pub(super) fn hashed(preauth: &Rc<RefCell<PreauthHash>>) -> Protection {
        Protection {
            signing: None,
            preauth: Some(Rc::clone(preauth)),
        }
    }

    /// Nobody looks at them.
    pub(super) fn is_none(&self) -> bool {
        self.signing.is_none() && self.preauth.is_none()
    }

    /// Signs a response, from its header to its padding.
    pub(super) fn seal_response(&self, response: &mut [u8]) {
        if let Some(signing) = self.signing.as_ref().filter(|_| !is_interim(response)) {
            response[header::FLAGS_OFFSET] |= header::FLAG_SIGNED as u8;
            signing.sign(response);
        }
        if let Some(preauth) = &self.preauth {
            preauth.borrow_mut().update(response);
        }
    }
}

/// Clients don't look at the signature of an interim response ([MS-SMB2] 3.2.5.1.3), and GMAC's nonce
/// is the message id, which is the final response's to use.
fn is_interim(response: &[u8]) -> bool {
    response[8..12] == Status::PENDING.0.to_le_bytes()
}

/// What the replies to an encrypted message are encrypted with.
#[derive(Debug, Clone)]
pub(super) struct Seal {
    session_id: u64,
    sealer: Rc<RefCell<Sealer>>,
}

impl Seal {
    /// Encrypts a message in place, behind room for the transform header.
    pub(super) fn encrypt(&self, message: &mut [u8]) -> Result<(), Tampered> {
        self.sealer.borrow_mut().seal(self.session_id, message)
    }
}

impl Connection {
    /// Decrypts a message that begins with a transform header, in place: where it is, and what the
    /// answer is to be encrypted with.
    pub(super) fn decrypt(
        &self,
        message: &mut [u8],
    ) -> Result<(std::ops::Range<usize>, Seal), ProtocolError> {
        let header = TransformHeader::parse(message).map_err(|_| ProtocolError::Encrypted)?;
        let session = self.sessions.borrow().get(&header.session_id).cloned();
        let sealing = session
            .as_ref()
            .and_then(|session| session.keys.get()?.sealing.as_ref())
            .ok_or(ProtocolError::Encrypted)?;
        let length = message.len();
        let opened = sealing
            .opener
            .open(message)
            .map_err(|Tampered| ProtocolError::Tampered)?;
        let seal = Seal {
            session_id: header.session_id,
            sealer: Rc::clone(&sealing.sealer),
        };
        Ok((length - opened.len()..length, seal))
    }

    /// Checks the signature of a request, and whether it may come as it has:
    /// `seal` is set if the message was encrypted.
    ///
    /// The refusal is what the request fails with.
    pub(super) fn check_protection(
        &self,
        header: &Header,
        session_id: u64,
        tree_id: u32,
        request: &mut [u8],
        seal: Option<&Seal>,
    ) -> (Protection, Result<(), Refusal>) {
        if let Some(seal) = seal {
            let checked = match session_id == seal.session_id {
                true => Ok(()),
                // 3.3.5.2.1.1
                false => Err(ProtocolError::Tampered.into()),
            };
            return (Protection::default(), checked);
        }
        let session = self.sessions.borrow().get(&session_id).cloned();
        let Some(session) = session else {
            return (Protection::default(), Ok(()));
        };
        // Guests and those who are logging on have no keys.
        let Some(keys) = session.keys.get() else {
            return (Protection::default(), Ok(()));
        };
        let command = Command::from_code(header.command);
        let is_setup = command == Some(Command::SessionSetup);
        // These are about no tree connect, whatever the header says.
        let is_about_tree = !matches!(
            command,
            Some(Command::TreeConnect | Command::Logoff | Command::Echo)
        );
        let is_signed = header.flags & header::FLAG_SIGNED != 0;
        let denied = || Err(Status::ACCESS_DENIED.into());
        let protection = match is_signed || session.signing_required.get() {
            true => Protection::signed(keys),
            false => Protection::default(),
        };
        if is_signed && !keys.signing.verify(request) {
            log::warn!(
                "{}: wrong signature of message {} in session {session_id:#x}",
                self.peer,
                header.message_id
            );
            return (protection, denied());
        }
        // A renewal proves by itself who sends it. Some clients never sign a CANCEL, with which an
        // intruder can do no more than by cutting the connection.
        let is_cancel = command == Some(Command::Cancel);
        if !is_setup && !is_cancel && !is_signed && session.signing_required.get() {
            log::warn!(
                "{}: message {} without the signature that session {session_id:#x} requires",
                self.peer,
                header.message_id
            );
            return (protection, denied());
        }
        let is_for_encryption =
            session.encrypt.get() || is_about_tree && session.demands_encryption(tree_id);
        if !is_setup && is_for_encryption {
            log::warn!(
                "{}: message {} of session {session_id:#x} should have been encrypted",
                self.peer,
                header.message_id
            );
            return (protection, denied());
        }
        (protection, Ok(()))
    }
}
