//! The one SMB1 message an SMB2 server understands: `SMB_COM_NEGOTIATE`
//! ([MS-CIFS] 2.2.4.52), with which some clients open the conversation.

use super::header::PROTOCOL_SMB1;
use super::{Malformed, Reader};

const SMB_COM_NEGOTIATE: u8 = 0x72;
const SMB1_HEADER_LEN: usize = 32;

/// Which SMB2 dialects an SMB1 NEGOTIATE offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offer {
    /// "SMB 2.002": exactly 2.0.2.
    pub smb_2_002: bool,
    /// "SMB 2.???": 2.1 or later, to be settled by an SMB2 NEGOTIATE.
    pub smb_2_wildcard: bool,
}

/// Parses an SMB1 NEGOTIATE request.
///
/// # Errors
///
/// [`Malformed`] for any other SMB1 message and for a broken list of dialects.
pub fn parse_negotiate(message: &[u8]) -> Result<Offer, Malformed> {
    let mut r = Reader::new(message);
    if r.array::<4>()? != PROTOCOL_SMB1 || r.u8()? != SMB_COM_NEGOTIATE {
        return Err(Malformed);
    }
    r.skip(SMB1_HEADER_LEN - 5)?;
    let word_count = r.u8()?;
    r.skip(usize::from(word_count) * 2)?;
    let byte_count = r.u16()?;
    let dialects = r.bytes(usize::from(byte_count))?;
    let mut offer = Offer::default();
    // Each dialect is a 0x02 byte and a string with a final NUL.
    for dialect in dialects.split_inclusive(|&byte| byte == 0) {
        match dialect {
            b"\x02SMB 2.002\0" => offer.smb_2_002 = true,
            b"\x02SMB 2.???\0" => offer.smb_2_wildcard = true,
            [0x02, .., 0] => {}
            _ => return Err(Malformed),
        }
    }
    Ok(offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(dialects: &[u8]) -> Vec<u8> {
        let mut message = PROTOCOL_SMB1.to_vec();
        message.push(SMB_COM_NEGOTIATE);
        message.resize(SMB1_HEADER_LEN, 0);
        message.push(0);
        message.extend((dialects.len() as u16).to_le_bytes());
        message.extend(dialects);
        message
    }

    #[test]
    fn dialects_are_found_among_others() {
        let offer = parse_negotiate(&negotiate(b"\x02NT LM 0.12\0\x02SMB 2.???\0")).unwrap();
        assert!(offer.smb_2_wildcard && !offer.smb_2_002);
        assert_eq!(parse_negotiate(&negotiate(b"")), Ok(Offer::default()));
    }

    #[test]
    fn an_unfinished_dialect_is_malformed() {
        assert_eq!(
            parse_negotiate(&negotiate(b"\x02SMB 2.002")),
            Err(Malformed)
        );
    }
}
