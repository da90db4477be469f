//! The two ways a request can fail: with an answer, or with the connection.

use crate::wire::Malformed;
use crate::wire::status::Status;

/// The peer has left the protocol; the connection must be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// No SMB2 header where one has to be.
    Header,
    /// A response came from a client.
    NotARequest,
    /// A command code that does not exist.
    UnknownCommand(u16),
    /// An SMB1 message that is no NEGOTIATE, or one that offers no SMB2.
    Smb1,
    /// An encrypted message for which there are no keys: of an unknown session, one without a
    /// user, or without encryption having been negotiated.
    Encrypted,
    /// An encrypted message that was changed, or that holds another session's requests.
    Tampered,
    /// A TREE_CONNECT in 3.1.1 that is neither signed nor encrypted.
    Unsigned,
    /// A compressed message, though compression has not been negotiated.
    Compressed,
    /// A compound whose NextCommand leads nowhere, or without end.
    Compound,
    /// A message id that has not been granted or has been used before.
    MessageId(u64),
    /// A request before NEGOTIATE.
    NotNegotiated,
    /// A second NEGOTIATE.
    NegotiatedTwice,
    /// FSCTL_VALIDATE_NEGOTIATE_INFO tells another story than NEGOTIATE did:
    /// somebody in between has changed one of them.
    NegotiateTampered,
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProtocolError::Header => f.write_str("message without an SMB2 header"),
            ProtocolError::NotARequest => f.write_str("response received from a client"),
            ProtocolError::UnknownCommand(code) => write!(f, "unknown command {code:#06x}"),
            ProtocolError::Smb1 => f.write_str("SMB1 is not spoken"),
            ProtocolError::Encrypted => f.write_str("encrypted message without keys for it"),
            ProtocolError::Tampered => f.write_str("encrypted message that was tampered with"),
            ProtocolError::Unsigned => {
                f.write_str("TREE_CONNECT that is neither signed nor encrypted")
            }
            ProtocolError::Compressed => f.write_str("compressed message without compression"),
            ProtocolError::Compound => f.write_str("compound with a wrong NextCommand"),
            ProtocolError::MessageId(id) => write!(f, "message id {id} is not available"),
            ProtocolError::NotNegotiated => f.write_str("request before NEGOTIATE"),
            ProtocolError::NegotiatedTwice => f.write_str("second NEGOTIATE"),
            ProtocolError::NegotiateTampered => {
                f.write_str("NEGOTIATE was changed on its way (VALIDATE_NEGOTIATE_INFO)")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Why a request is not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Answered with an error.
    Status(Status),
    /// Answered with `STATUS_BUFFER_TOO_SMALL` and the length it takes.
    BufferTooSmall(u32),
    /// Not answered; the connection ends.
    Disconnect(ProtocolError),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal::Status(status)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Status(malformed.into())
    }
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        Refusal::Disconnect(error)
    }
}

/// A handler has appended the response's body, for this status, or nothing.
pub(super) type Outcome = Result<Status, Refusal>;
