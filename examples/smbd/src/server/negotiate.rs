//! NEGOTIATE, in SMB2's form and in SMB1's ([MS-SMB2] 3.3.5.3, 3.3.5.4), and
//! the later check that nobody has tampered with it.

use super::Connection;
use super::error::{Outcome, ProtocolError, Refusal};
use super::protection::Protection;
use super::reply::{Frame, Reply};
use super::request::Request;
use crate::auth::spnego;
use crate::config::Config;
use crate::wire::header::{Command, ResponseHeader};
use crate::wire::negotiate::{self, Dialect, Preauth, Response, ValidateInfo};
use crate::wire::status::Status;
use crate::wire::{Put, smb1, time};

const SECURITY_MODE: u16 = negotiate::SIGNING_ENABLED;

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Negotiation {
    /// Nothing has been received.
    Open,
    /// "SMB 2.???" has been answered; an SMB2 NEGOTIATE has to follow.
    Wildcard,
    /// The dialect is settled, and what the client said to that end.
    Done(Dialect, ValidateInfo),
}

impl Negotiation {
    pub(super) fn dialect(&self) -> Option<Dialect> {
        match self {
            Negotiation::Done(dialect, _) => Some(*dialect),
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

fn capabilities(dialect: Option<Dialect>) -> u32 {
    match dialect {
        None | Some(Dialect::Smb202) => 0,
        Some(_) => negotiate::CAP_LARGE_MTU,
    }
}

fn put_response(
    config: &Config,
    dialect: Option<Dialect>,
    preauth_salt: Option<[u8; 32]>,
    out: &mut Vec<u8>,
) {
    Response {
        security_mode: SECURITY_MODE,
        revision: dialect.map_or(negotiate::WILDCARD_REVISION, Dialect::revision),
        server_guid: config.server_guid(),
        capabilities: capabilities(dialect),
        max_size: max_size(dialect),
        system_time: time::now(),
        security_buffer: &spnego::hint(),
        preauth_salt,
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
        let negotiation = match dialect {
            None => Negotiation::Wildcard,
            Some(dialect) => Negotiation::Done(
                dialect,
                ValidateInfo {
                    capabilities: 0,
                    guid: [0; 16],
                    security_mode: 0,
                    revisions: Vec::new(),
                },
            ),
        };
        self.negotiation.replace(negotiation);
        log::debug!("{}: SMB1 NEGOTIATE, {offer:?}", self.peer);
        let mut frame = Frame::new(None);
        let reply = frame.start_response(0, 0);
        put_response(&self.config, dialect, None, reply.out);
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
        let mut preauth_salt = None;
        if dialect == Dialect::Smb311 {
            match offer.preauth()? {
                Preauth::Invalid => return Err(Status::INVALID_PARAMETER.into()),
                Preauth::NoCommonHash => {
                    return Err(Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP.into());
                }
                Preauth::Sha512 => {
                    let mut salt = [0; 32];
                    getrandom::fill(&mut salt).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
                    preauth_salt = Some(salt);
                }
            }
        }
        put_response(&self.config, Some(dialect), preauth_salt, reply.out);
        log::debug!("{}: dialect {:#06x}", self.peer, dialect.revision());
        self.negotiation.replace(Negotiation::Done(
            dialect,
            ValidateInfo {
                capabilities: offer.capabilities,
                guid: offer.client_guid,
                security_mode: offer.security_mode,
                revisions: offer.revisions().collect(),
            },
        ));
        Ok(Status::SUCCESS)
    }

    /// `FSCTL_VALIDATE_NEGOTIATE_INFO` (3.3.5.15.12): the output.
    pub(super) fn validate_negotiate(
        &self,
        input: &[u8],
        max_output: usize,
    ) -> Result<Vec<u8>, Refusal> {
        const OUTPUT_LEN: usize = 24;
        let Negotiation::Done(dialect, said) = &*self.negotiation.borrow() else {
            return Err(ProtocolError::NotNegotiated.into());
        };
        let now_says = ValidateInfo::parse(input)?;
        // 3.1.1 protects its NEGOTIATE by itself; there the request is an attack.
        if *dialect == Dialect::Smb311 || now_says != *said || max_output < OUTPUT_LEN {
            return Err(ProtocolError::NegotiateTampered.into());
        }
        let mut out = Vec::with_capacity(OUTPUT_LEN);
        out.put_u32(capabilities(Some(*dialect)));
        out.put_bytes(&self.config.server_guid());
        out.put_u16(SECURITY_MODE);
        out.put_u16(dialect.revision());
        Ok(out)
    }
}
