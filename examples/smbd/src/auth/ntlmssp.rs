//! NTLMSSP messages ([MS-NLMP] 2.2.1).

use crate::wire::time;
use crate::wire::{Malformed, Put, Reader, slice_at, text};

/// The longest name of a user or a domain, in characters. Windows' are no longer.
const MAX_NAME: usize = 256;

/// What every message begins with.
pub const SIGNATURE: &[u8] = b"NTLMSSP\0";

/// Negotiate flags ([MS-NLMP] 2.2.2.5).
#[allow(missing_docs)] // the names are the specification's
pub mod flags {
    pub const UNICODE: u32 = 0x0000_0001;
    pub const OEM: u32 = 0x0000_0002;
    pub const REQUEST_TARGET: u32 = 0x0000_0004;
    pub const SIGN: u32 = 0x0000_0010;
    pub const SEAL: u32 = 0x0000_0020;
    pub const NTLM: u32 = 0x0000_0200;
    pub const ANONYMOUS: u32 = 0x0000_0800;
    pub const ALWAYS_SIGN: u32 = 0x0000_8000;
    pub const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    pub const EXTENDED_SESSIONSECURITY: u32 = 0x0008_0000;
    pub const TARGET_INFO: u32 = 0x0080_0000;
    pub const VERSION: u32 = 0x0200_0000;
    pub const KEY_128: u32 = 0x2000_0000;
    pub const KEY_EXCH: u32 = 0x4000_0000;
    pub const KEY_56: u32 = 0x8000_0000;
}

// AvIds of AV_PAIRs ([MS-NLMP] 2.2.2.1)
const MSV_AV_EOL: u16 = 0;
const MSV_AV_NB_COMPUTER_NAME: u16 = 1;
const MSV_AV_NB_DOMAIN_NAME: u16 = 2;
const MSV_AV_DNS_COMPUTER_NAME: u16 = 3;
const MSV_AV_DNS_DOMAIN_NAME: u16 = 4;
const MSV_AV_FLAGS: u16 = 6;
const MSV_AV_TIMESTAMP: u16 = 7;

/// The bit of `MSV_AV_FLAGS` that announces a MIC.
const AV_FLAG_MIC: u32 = 0x0000_0002;

/// The flags a client may choose from.
const SUPPORTED: u32 = flags::UNICODE
    | flags::SIGN
    | flags::SEAL
    | flags::NTLM
    | flags::ALWAYS_SIGN
    | flags::EXTENDED_SESSIONSECURITY
    | flags::VERSION
    | flags::KEY_128
    | flags::KEY_EXCH
    | flags::KEY_56;

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// NEGOTIATE_MESSAGE: the client's flags.
    Negotiate(u32),
    /// AUTHENTICATE_MESSAGE.
    Authenticate(Authenticate<'a>),
}

/// An AUTHENTICATE_MESSAGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticate<'a> {
    /// The user's name.
    pub user: String,
    /// The domain the client believes the user to be of.
    pub domain: String,
    /// `NtChallengeResponse`: proof of the password.
    pub nt_response: &'a [u8],
    /// `EncryptedRandomSessionKey`, empty if there is none.
    pub encrypted_key: &'a [u8],
    /// The negotiated flags.
    pub flags: u32,
}

impl Authenticate<'_> {
    /// Whether the client wants to remain nameless ([MS-NLMP] 3.2.5.1.2).
    pub fn is_anonymous(&self) -> bool {
        self.flags & flags::ANONYMOUS != 0 || self.user.is_empty() && self.nt_response.is_empty()
    }

    /// Takes the NTLMv2 response apart.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; an NTLMv1 response is also none of NTLMv2.
    pub fn ntlmv2(&self) -> Result<Ntlmv2Response, Malformed> {
        let mut r = Reader::new(self.nt_response);
        r.skip(16)?; // the proof
        if r.array::<2>()? != [1, 1] {
            return Err(Malformed); // RespType, HiRespType
        }
        r.skip(6)?; // Reserved
        r.skip(8 + 8 + 4)?; // TimeStamp, ChallengeFromClient, Reserved
        let mut flags = 0;
        loop {
            let id = r.u16()?;
            let length = r.u16()?;
            let value = r.bytes(length.into())?;
            match id {
                MSV_AV_EOL => break,
                MSV_AV_FLAGS => {
                    flags = u32::from_le_bytes(value.try_into().map_err(|_| Malformed)?);
                }
                _ => {}
            }
        }
        Ok(Ntlmv2Response {
            has_mic: flags & AV_FLAG_MIC != 0,
        })
    }
}

/// What an NTLMv2 response says, beside the proof, which covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ntlmv2Response {
    /// The message has a MIC.
    pub has_mic: bool,
}

/// Where the MIC of an AUTHENTICATE_MESSAGE is, if its NTLMv2 response says that there is one.
const MIC: std::ops::Range<usize> = 72..88;

/// Takes the MIC out of an AUTHENTICATE_MESSAGE: the message with zeros instead, and the MIC.
///
/// # Errors
///
/// [`Malformed`] when the message is too short for one.
pub fn take_mic(token: &[u8]) -> Result<(Vec<u8>, [u8; 16]), Malformed> {
    let mic = token.get(MIC).and_then(|mic| mic.try_into().ok());
    let mic = mic.ok_or(Malformed)?;
    let mut token = token.to_vec();
    token[MIC].fill(0);
    Ok((token, mic))
}

/// Parses a client's message.
///
/// # Errors
///
/// [`Malformed`], also for a message only a server sends, and for names of more than 256 characters.
pub fn parse(token: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut r = Reader::new(token.strip_prefix(SIGNATURE).ok_or(Malformed)?);
    match r.u32()? {
        1 => Ok(Message::Negotiate(r.u32()?)),
        3 => {
            let _lm_response = field(&mut r, token)?;
            let nt_response = field(&mut r, token)?;
            let domain = field(&mut r, token)?;
            let user = field(&mut r, token)?;
            let _workstation = field(&mut r, token)?;
            let encrypted_key = field(&mut r, token)?;
            let flags = r.u32()?;
            let text = |bytes: &[u8]| {
                let name = if flags & flags::UNICODE != 0 {
                    text::from_utf16le(bytes)?
                } else {
                    // The OEM code page is not known here; all agree on ASCII.
                    String::from_utf8_lossy(bytes).into_owned()
                };
                match name.chars().count() <= MAX_NAME {
                    true => Ok(name),
                    false => Err(Malformed),
                }
            };
            Ok(Message::Authenticate(Authenticate {
                user: text(user)?,
                domain: text(domain)?,
                nt_response,
                encrypted_key,
                flags,
            }))
        }
        _ => Err(Malformed),
    }
}

/// A variable field: its length, its maximal length, its offset in the token.
fn field<'a>(r: &mut Reader<'_>, token: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = r.u16()?;
    r.skip(2)?;
    let offset = r.u32()?;
    slice_at(token, offset as usize, length.into())
}

/// A CHALLENGE_MESSAGE that answers a NEGOTIATE with `client_flags`.
pub fn challenge(client_flags: u32, server_name: &str, challenge: [u8; 8]) -> Vec<u8> {
    const PAYLOAD: usize = 56;
    let mut flags = client_flags & SUPPORTED
        | flags::NTLM
        | flags::REQUEST_TARGET
        | flags::TARGET_TYPE_SERVER
        | flags::TARGET_INFO;
    let unicode = flags & flags::UNICODE != 0;
    if !unicode {
        flags |= flags::OEM;
    }
    let netbios_name = server_name.to_uppercase();
    let target_name = if unicode {
        text::to_utf16le(&netbios_name)
    } else {
        netbios_name.clone().into_bytes()
    };
    let target_info = target_info(&netbios_name, server_name);

    let mut out = Vec::with_capacity(PAYLOAD + target_name.len() + target_info.len());
    out.put_bytes(SIGNATURE);
    out.put_u32(2);
    let mut offset = PAYLOAD;
    put_field(&mut out, &target_name, &mut offset);
    out.put_u32(flags);
    out.put_bytes(&challenge);
    out.put_u64(0);
    put_field(&mut out, &target_info, &mut offset);
    // VERSION: 6.1, NTLMSSP_REVISION_W2K3; informational ([MS-NLMP] 2.2.2.10).
    out.put_bytes(&[6, 1, 0, 0, 0, 0, 0, 15]);
    out.put_bytes(&target_name);
    out.put_bytes(&target_info);
    out
}

fn put_field(out: &mut Vec<u8>, value: &[u8], offset: &mut usize) {
    out.put_u16(value.len() as u16);
    out.put_u16(value.len() as u16);
    out.put_u32(*offset as u32);
    *offset += value.len();
}

/// The AV_PAIRs of TargetInfo ([MS-NLMP] 2.2.2.1), always Unicode.
fn target_info(netbios_name: &str, dns_name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pair = |id: u16, value: &[u8]| {
        out.put_u16(id);
        out.put_u16(value.len() as u16);
        out.put_bytes(value);
    };
    // A server that is in no domain is its own.
    pair(MSV_AV_NB_DOMAIN_NAME, &text::to_utf16le(netbios_name));
    pair(MSV_AV_NB_COMPUTER_NAME, &text::to_utf16le(netbios_name));
    pair(MSV_AV_DNS_DOMAIN_NAME, &[]);
    pair(MSV_AV_DNS_COMPUTER_NAME, &text::to_utf16le(dns_name));
    pair(MSV_AV_TIMESTAMP, &time::now().to_le_bytes());
    pair(MSV_AV_EOL, &[]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticate(user: &str, nt_response: &[u8], flags: u32) -> Vec<u8> {
        let user = text::to_utf16le(user);
        let mut out = SIGNATURE.to_vec();
        out.put_u32(3);
        let mut offset = 64;
        for value in [&[][..], nt_response, &[], &user, &[], &[]] {
            put_field(&mut out, value, &mut offset);
        }
        out.put_u32(flags);
        out.put_bytes(nt_response);
        out.put_bytes(&user);
        out
    }

    #[test]
    fn a_name_makes_the_difference_to_anonymous() {
        for (user, nt_response, anonymous) in [
            ("", &[][..], true),
            ("someone", &[], false),
            ("", &[1; 24], false),
        ] {
            let token = authenticate(user, nt_response, flags::UNICODE);
            let Ok(Message::Authenticate(message)) = parse(&token) else {
                panic!("{user:?} not parsed");
            };
            assert_eq!(message.user, user);
            assert_eq!(message.is_anonymous(), anonymous, "{user:?}");
        }
    }

    #[test]
    fn names_are_bounded() {
        for (length, is_allowed) in [(MAX_NAME, true), (MAX_NAME + 1, false), (30_000, false)] {
            let token = authenticate(&"ä".repeat(length), &[], flags::UNICODE);
            assert_eq!(parse(&token).is_ok(), is_allowed, "{length}");
        }
    }

    #[test]
    fn the_challenge_offers_no_more_than_the_client() {
        let token = challenge(flags::UNICODE | flags::KEY_128, "files", [9; 8]);
        let flags = u32::from_le_bytes(token[20..24].try_into().unwrap());
        assert_eq!(flags & (flags::SIGN | flags::KEY_EXCH), 0);
        assert_eq!(token[24..32], [9; 8]);
        assert_eq!(token[56..66], text::to_utf16le("FILES"));
    }
}
