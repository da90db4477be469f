//! Where signatures are checked and made, and messages decrypted and encrypted.
//!
//! Every session is a guest's or anonymous and has no key to do it with, so
//! there is nothing to be done here yet but to say so. The server asks
//!
//! * [`Connection::decrypt`] for a message in a transform header,
//! * [`Connection::check_protection`] for each request, those of a compound
//!   included, before it is executed. The [`Protection`] that it returns belongs
//!   to the request until its last response, however late that is;
//! * [`Protection::seal_response`] when a response is complete, with the padding
//!   that leads to the next one: interim responses, responses, and those that
//!   come later. Credits and NextCommand have been entered;
//! * [`Seal::encrypt`] for a frame of responses to an encrypted message.

use super::Connection;
use super::error::ProtocolError;
use crate::wire::status::Status;

/// What the responses to a request are signed with.
#[derive(Debug, Clone, Default)]
pub(super) struct Protection {}

impl Protection {
    /// Signs a response, from its header to its padding.
    pub(super) fn seal_response(&self, _response: &mut [u8]) {}
}

/// What the replies to an encrypted message are encrypted with.
#[derive(Debug, Clone)]
pub(super) struct Seal {}

impl Seal {
    /// Encrypts a frame, whose message stands behind room for the framing header.
    pub(super) fn encrypt(&self, frame: Vec<u8>) -> Vec<u8> {
        frame
    }
}

impl Connection {
    /// Decrypts a message that begins with a transform header.
    pub(super) fn decrypt(&self, _message: &[u8]) -> Result<(Vec<u8>, Seal), ProtocolError> {
        Err(ProtocolError::Encrypted)
    }

    /// Checks the signature of a request, and whether it may come as it has:
    /// `seal` is set if the message was encrypted.
    ///
    /// The status is what the request fails with.
    pub(super) fn check_protection(
        &self,
        _session_id: u64,
        _request: &[u8],
        _seal: Option<&Seal>,
    ) -> (Protection, Result<(), Status>) {
        (Protection::default(), Ok(()))
    }
}
