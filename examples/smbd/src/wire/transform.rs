//! The header of encrypted messages ([MS-SMB2] 2.2.41).

use super::header::PROTOCOL_TRANSFORM;
use super::{Malformed, Reader};

/// Its length in bytes.
pub const TRANSFORM_LEN: usize = 52;
/// Where the tag is.
pub const TAG: std::ops::Range<usize> = 4..20;
/// What is authenticated along with the message.
pub const AUTHENTICATED: std::ops::RangeFrom<usize> = 20..;
/// `Encrypted` in 3.1.1. Before, the field names the one algorithm there was, by the same number.
const ENCRYPTED: u16 = 0x0001;

/// A transform header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformHeader {
    /// Proves that nothing has been changed.
    pub tag: [u8; 16],
    /// GCM uses 12 bytes of it, CCM 11.
    pub nonce: [u8; 16],
    /// The length of what is encrypted.
    pub message_len: u32,
    /// The session whose keys are used.
    pub session_id: u64,
}

impl TransformHeader {
    /// Parses the header at the beginning of `message`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is cut short or no such header.
    pub fn parse(message: &[u8]) -> Result<TransformHeader, Malformed> {
        let mut r = Reader::new(message);
        if r.array::<4>()? != PROTOCOL_TRANSFORM {
            return Err(Malformed);
        }
        let tag = r.array()?;
        let nonce = r.array()?;
        let message_len = r.u32()?;
        r.skip(2)?;
        if r.u16()? != ENCRYPTED {
            return Err(Malformed);
        }
        Ok(TransformHeader {
            tag,
            nonce,
            message_len,
            session_id: r.u64()?,
        })
    }

    /// The header as it is sent.
    pub fn to_bytes(&self) -> [u8; TRANSFORM_LEN] {
        let mut out = [0; TRANSFORM_LEN];
        out[0..4].copy_from_slice(&PROTOCOL_TRANSFORM);
        out[TAG].copy_from_slice(&self.tag);
        out[20..36].copy_from_slice(&self.nonce);
        out[36..40].copy_from_slice(&self.message_len.to_le_bytes());
        out[42..44].copy_from_slice(&ENCRYPTED.to_le_bytes());
        out[44..52].copy_from_slice(&self.session_id.to_le_bytes());
        out
    }
}
