//! NEGOTIATE, in SMB2's form and in SMB1's ([MS-SMB2] 3.3.5.3, 3.3.5.4), and
//! the later check that nobody has tampered with it.

use std::cell::RefCell;
use std::rc::Rc;

use super::Connection;
use super::error::{Outcome, ProtocolError, Refusal};
use super::protection::Protection;
use super::reply::{Frame, Reply};
use super::request::Request;
use crate::auth::spnego;
use crate::config::Config;
use crate::crypto::preauth::PreauthHash;
use crate::crypto::sealing::CipherId;
use crate::crypto::signing::Algorithm;
use crate::wire::header::{Command, ResponseHeader};
use crate::wire::negotiate::{self, Dialect, Ids, Response, ResponseContexts, ValidateInfo};
use crate::wire::status::Status;
use crate::wire::{Put, smb1, time};

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Negotiation {
    /// Nothing has been received.
    Open,
    /// "SMB 2.???" has been answered; an SMB2 NEGOTIATE has to follow.
    Wildcard,
    /// Everything is settled.
    Done(Rc<Negotiated>),
}

/// What has been agreed upon.
#[derive(Debug)]
pub(super) struct Negotiated {
    pub(super) dialect: Dialect,
    /// How messages are signed.
    pub(super) signing: Algorithm,
    /// How they are encrypted, if the client can do that.
    pub(super) cipher: Option<CipherId>,
    /// What the client was told.
    capabilities: u32,
    security_mode: u16,
    /// What it said itself.
    client: ValidateInfo,
    /// In 3.1.1: the hash of the two messages.
    pub(super) preauth: Rc<RefCell<PreauthHash>>,
}

impl Negotiated {
    /// The SecurityMode of the client's NEGOTIATE.
    pub(super) fn client_security_mode(&self) -> u16 {
        self.client.security_mode
    }
}

impl Negotiation {
    pub(super) fn dialect(&self) -> Option<Dialect> {
        self.done().map(|negotiated| negotiated.dialect)
    }

    pub(super) fn done(&self) -> Option<&Rc<Negotiated>> {
        match self {
            Negotiation::Done(negotiated) => Some(negotiated),
            Negotiation::Open | Negotiation::Wildcard => None,
        }
    }
}

/// MaxTransactSize, MaxReadSize and MaxWriteSize: one credit's worth where
/// requests cannot cost several.
pub(super) fn max_size(dialect: Option<Dialect>) -> u32 {
    match dialect {
        None | Some(Dialect::Smb202) => 64 * 1024,
        Some(_) => 8 * 1024 * 1024,
    }
}

/// The server's capabilities; in 3.1.1 encryption has a context of its own.
fn capabilities(dialect: Option<Dialect>, encrypts: bool) -> u32 {
    match dialect {
        None | Some(Dialect::Smb202) => 0,
        Some(Dialect::Smb300 | Dialect::Smb302) if encrypts => {
            negotiate::CAP_LARGE_MTU | negotiate::CAP_ENCRYPTION
        }
        Some(_) => negotiate::CAP_LARGE_MTU,
    }
}

fn security_mode(config: &Config) -> u16 {
    match config.security().require_signing {
        true => negotiate::SIGNING_ENABLED | negotiate::SIGNING_REQUIRED,
        false => negotiate::SIGNING_ENABLED,
    }
}

/// The first of `preference` that is offered.
fn choose<T: Copy>(preference: &[T], number: fn(T) -> u16, offered: Ids<'_>) -> Option<T> {
    preference
        .iter()
        .copied()
        .find(|&one| offered.contains(number(one)))
}

fn put_response(
    config: &Config,
    dialect: Option<Dialect>,
    capabilities: u32,
    contexts: Option<ResponseContexts>,
    out: &mut Vec<u8>,
) {
    Response {
        security_mode: security_mode(config),
        revision: dialect.map_or(negotiate::WILDCARD_REVISION, Dialect::revision),
        server_guid: config.server_guid(),
        capabilities,
        max_size: max_size(dialect),
        system_time: time::now(),
        security_buffer: &spnego::hint(),
        contexts,
    }
    .put(out);
}

impl Connection {
    /// An SMB1 message: the NEGOTIATE some clients begin with.
    pub(super) fn negotiate_smb1(&self, message: &[u8]) -> Result<Frame, ProtocolError> {
        let offer = smb1::parse_negotiate(message).map_err(|_| ProtocolError::Smb1)?;
        if !matches!(*self.negotiation.borrow(), Negotiation::Open) {
            return Err(ProtocolError::NegotiatedTwice);
        }
        let dialect = match offer {
            smb1::Offer {
                smb_2_wildcard: true,
                ..
            } => None,
            smb1::Offer {
                smb_2_002: true, ..
            } => Some(Dialect::Smb202),
            _ => return Err(ProtocolError::Smb1),
        };
        // The SMB1 request counts as message id 0.
        if !self.window.borrow_mut().consume(0, 1) {
            return Err(ProtocolError::MessageId(0));
        }
        let capabilities = capabilities(dialect, false);
        let negotiation = match dialect {
            None => Negotiation::Wildcard,
            Some(dialect) => Negotiation::Done(Rc::new(Negotiated {
                dialect,
                signing: Algorithm::HmacSha256,
                cipher: None,
                capabilities,
                security_mode: security_mode(&self.config),
                client: ValidateInfo {
                    capabilities: 0,
                    guid: [0; 16],
                    security_mode: 0,
                    revisions: Vec::new(),
                },
                preauth: Rc::default(),
            })),
        };
        self.negotiation.replace(negotiation);
        log::debug!("{}: SMB1 NEGOTIATE, {offer:?}", self.peer);
        let mut frame = Frame::new(None, &self.buffers);
        let reply = frame.start_response(0, 0);
        put_response(&self.config, dialect, capabilities, None, reply.out);
        let header = ResponseHeader {
            credit_charge: 0,
            command: Command::Negotiate as u16,
            status: Status::SUCCESS,
            credit_response: self.window.borrow_mut().grant(1),
            flags: 0,
            message_id: 0,
            process_id: 0,
            tree_id: 0,
            session_id: 0,
            async_id: None,
        };
        frame.finish_response(&header, Protection::default());
        Ok(frame)
    }

    /// NEGOTIATE
    pub(super) fn negotiate(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        if let Negotiation::Done(..) = *self.negotiation.borrow() {
            return Err(ProtocolError::NegotiatedTwice.into());
        }
        let offer = negotiate::Request::parse(request.message)?;
        if offer.revisions().next().is_none() {
            return Err(Status::INVALID_PARAMETER.into());
        }
        let dialect = offer.common_dialect().ok_or(Status::NOT_SUPPORTED)?;
        let mut signing = match dialect {
            Dialect::Smb202 | Dialect::Smb210 => Algorithm::HmacSha256,
            Dialect::Smb300 | Dialect::Smb302 | Dialect::Smb311 => Algorithm::AesCmac,
        };
        let mut cipher = None;
        let mut contexts = None;
        let preauth = Rc::new(RefCell::new(PreauthHash::default()));
        match dialect {
            Dialect::Smb202 | Dialect::Smb210 => {}
            Dialect::Smb300 | Dialect::Smb302 => {
                if offer.capabilities & negotiate::CAP_ENCRYPTION != 0 {
                    cipher = Some(CipherId::Aes128Ccm);
                }
            }
            Dialect::Smb311 => {
                let offered = offer.contexts()?;
                if offered.hashes.is_none() {
                    return Err(Status::INVALID_PARAMETER.into());
                }
                if !offered.offers_sha512() {
                    return Err(Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP.into());
                }
                cipher = offered
                    .ciphers
                    .and_then(|ids| choose(&CipherId::PREFERENCE, CipherId::number, ids));
                let chosen = offered
                    .signing
                    .and_then(|ids| choose(&Algorithm::PREFERENCE, Algorithm::number, ids));
                signing = chosen.unwrap_or(signing);
                let mut salt = [0; 32];
                getrandom::fill(&mut salt).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
                contexts = Some(ResponseContexts {
                    salt,
                    cipher: offered.ciphers.map(|_| cipher.map_or(0, CipherId::number)),
                    signing: chosen.map(Algorithm::number),
                });
                preauth.borrow_mut().update(request.message);
                request.exchange.protect(Protection::hashed(&preauth));
            }
        }
        let capabilities = capabilities(Some(dialect), cipher.is_some());
        put_response(
            &self.config,
            Some(dialect),
            capabilities,
            contexts,
            reply.out,
        );
        log::debug!(
            "{}: dialect {:#06x}, {signing:?}, {cipher:?}",
            self.peer,
            dialect.revision()
        );
        let negotiated = Negotiated {
            dialect,
            signing,
            cipher,
            capabilities,
            security_mode: security_mode(&self.config),
            client: ValidateInfo {
                capabilities: offer.capabilities,
                guid: offer.client_guid,
                security_mode: offer.security_mode,
                revisions: offer.revisions().collect(),
            },
            preauth,
        };
        self.negotiation
            .replace(Negotiation::Done(Rc::new(negotiated)));
        Ok(Status::SUCCESS)
    }

    /// `FSCTL_VALIDATE_NEGOTIATE_INFO` (3.3.5.15.12): the output.
    pub(super) fn validate_negotiate(
        &self,
        input: &[u8],
        max_output: usize,
    ) -> Result<Vec<u8>, Refusal> {
        const OUTPUT_LEN: usize = 24;
        let negotiation = self.negotiation.borrow();
        let negotiated = negotiation.done().ok_or(ProtocolError::NotNegotiated)?;
        let now_says = ValidateInfo::parse(input)?;
        // 3.1.1 protects its NEGOTIATE by itself; there the request is an attack.
        if negotiated.dialect == Dialect::Smb311
            || now_says != negotiated.client
            || max_output < OUTPUT_LEN
        {
            return Err(ProtocolError::NegotiateTampered.into());
        }
        let mut out = Vec::with_capacity(OUTPUT_LEN);
        out.put_u32(negotiated.capabilities);
        out.put_bytes(&self.config.server_guid());
        out.put_u16(negotiated.security_mode);
        out.put_u16(negotiated.dialect.revision());
        Ok(out)
    }
}
