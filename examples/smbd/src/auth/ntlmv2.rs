//! The arithmetic of NTLMv2 ([MS-NLMP] 3.3.2, 3.4).

use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use subtle::ConstantTimeEq;

use super::ntlmssp::flags;
use crate::wire::text;

/// A password as it is kept: MD4 of its UTF-16LE. It is as good as the password itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NtHash([u8; 16]);

impl std::fmt::Debug for NtHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NtHash")
    }
}

impl NtHash {
    /// The hash of a password.
    pub fn of_password(password: &str) -> NtHash {
        NtHash(Md4::digest(text::to_utf16le(password)).into())
    }

    /// A hash that was kept.
    pub fn from_bytes(bytes: [u8; 16]) -> NtHash {
        NtHash(bytes)
    }

    /// The hash, to be kept.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

fn hmac_md5(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    // A short key is padded with zeros to the block.
    let mut padded = hmac::digest::Key::<Hmac<Md5>>::default();
    padded[..key.len()].copy_from_slice(key);
    let mut mac = <Hmac<Md5> as KeyInit>::new(&padded);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn rc4(key: &[u8], data: &mut [u8]) {
    // The keys here have 16 bytes; others than 1 to 256 are all that RC4 refuses.
    if let Ok(mut cipher) = Rc4::new_from_slice(key) {
        cipher.apply_keystream(data);
    }
}

/// Checks the proof in `nt_response`, and returns the session base key if it is right.
///
/// `nt_response` is the proof and what the client has added to the challenge.
pub fn check_proof(
    hash: &NtHash,
    user: &str,
    domain: &str,
    server_challenge: &[u8; 8],
    nt_response: &[u8],
) -> Option<[u8; 16]> {
    let (proof, client_part) = nt_response.split_first_chunk::<16>()?;
    let upper: String = user.chars().map(text::fold).collect();
    let name = text::to_utf16le(&(upper + domain));
    let response_key = hmac_md5(&hash.0, &[&name]);
    let expected = hmac_md5(&response_key, &[server_challenge, client_part]);
    if !bool::from(expected.ct_eq(proof)) {
        return None;
    }
    Some(hmac_md5(&response_key, &[&expected]))
}

/// The exported session key: what the client has chosen, if keys are exchanged.
pub fn exported_session_key(base_key: [u8; 16], encrypted: Option<[u8; 16]>) -> [u8; 16] {
    match encrypted {
        None => base_key,
        Some(mut key) => {
            rc4(&base_key, &mut key);
            key
        }
    }
}

/// Whether `mic` is that of the three messages, the last with zeros in its place.
pub fn check_mic(session_key: &[u8; 16], messages: [&[u8]; 3], mic: &[u8; 16]) -> bool {
    hmac_md5(session_key, &messages).ct_eq(mic).into()
}

/// Who makes a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Side {
    Client,
    Server,
}

/// The signature of the first message that `side` sends in the authenticated context
/// (`GSS_GetMIC`, [MS-NLMP] 3.4.4.2), with extended session security.
pub fn signature(session_key: &[u8; 16], negotiated: u32, side: Side, message: &[u8]) -> [u8; 16] {
    const SEQUENCE: [u8; 4] = [0; 4];
    let signing_key: [u8; 16] = {
        let magic: &[u8] = match side {
            Side::Client => b"session key to client-to-server signing key magic constant\0",
            Side::Server => b"session key to server-to-client signing key magic constant\0",
        };
        md5(&[session_key, magic])
    };
    let full = hmac_md5(&signing_key, &[&SEQUENCE, message]);
    let mut checksum: [u8; 8] = std::array::from_fn(|i| full[i]);
    if negotiated & flags::KEY_EXCH != 0 {
        let magic: &[u8] = match side {
            Side::Client => b"session key to client-to-server sealing key magic constant\0",
            Side::Server => b"session key to server-to-client sealing key magic constant\0",
        };
        let strength = if negotiated & flags::KEY_128 != 0 {
            16
        } else if negotiated & flags::KEY_56 != 0 {
            7
        } else {
            5
        };
        rc4(&md5(&[&session_key[..strength], magic]), &mut checksum);
    }
    let mut signature = [0; 16];
    signature[0] = 1; // Version
    signature[4..12].copy_from_slice(&checksum);
    signature[12..].copy_from_slice(&SEQUENCE);
    signature
}

/// Whether `claimed` is the signature that the client has to make.
pub fn check_signature(
    session_key: &[u8; 16],
    negotiated: u32,
    message: &[u8],
    claimed: &[u8],
) -> bool {
    signature(session_key, negotiated, Side::Client, message)
        .ct_eq(claimed)
        .into()
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        Digest::update(&mut md5, part);
    }
    md5.finalize().into()
}

/// The values of [MS-NLMP] 4.2: user "User", domain "Domain", password "Password".
#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_CHALLENGE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF];
    /// 4.2.4.3, without the proof.
    const CLIENT_PART: &[u8] = b"\x01\x01\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\
        \xAA\xAA\xAA\xAA\xAA\xAA\xAA\xAA\
        \0\0\0\0\
        \x02\0\x0C\0D\0o\0m\0a\0i\0n\0\
        \x01\0\x0C\0S\0e\0r\0v\0e\0r\0\
        \0\0\0\0\
        \0\0\0\0";
    const PROOF: [u8; 16] = [
        0x68, 0xcd, 0x0a, 0xb8, 0x51, 0xe5, 0x1c, 0x96, 0xaa, 0xbc, 0x92, 0x7b, 0xeb, 0xef, 0x6a,
        0x1c,
    ];
    const BASE_KEY: [u8; 16] = [
        0x8d, 0xe4, 0x0c, 0xca, 0xdb, 0xc1, 0x4a, 0x82, 0xf1, 0x5c, 0xb0, 0xad, 0x0d, 0xe9, 0x5c,
        0xa3,
    ];

    fn response() -> Vec<u8> {
        [&PROOF[..], CLIENT_PART].concat()
    }

    #[test]
    fn the_password_is_proved() {
        let hash = NtHash::of_password("Password");
        assert_eq!(hash.as_bytes()[..4], [0xa4, 0xf4, 0x9c, 0x40]);
        let check = |hash, user, response: &[u8]| {
            check_proof(hash, user, "Domain", &SERVER_CHALLENGE, response)
        };
        assert_eq!(check(&hash, "User", &response()), Some(BASE_KEY));
        assert_eq!(check(&hash, "uSER", &response()), Some(BASE_KEY));
        assert_eq!(check(&hash, "Usor", &response()), None);
        let wrong = NtHash::of_password("password");
        assert_eq!(check(&wrong, "User", &response()), None);
        for at in 0..response().len() {
            let mut tampered = response();
            tampered[at] ^= 1;
            assert_eq!(check(&hash, "User", &tampered), None, "byte {at}");
        }
        assert_eq!(check(&hash, "User", &PROOF[..15]), None);
    }

    #[test]
    fn the_client_chooses_the_session_key() {
        // 4.2.4.2.3: RandomSessionKey is 16 times 0x55.
        let encrypted = [
            0xc5, 0xda, 0xd2, 0x54, 0x4f, 0xc9, 0x79, 0x90, 0x94, 0xce, 0x1c, 0xe9, 0x0b, 0xc9,
            0xd0, 0x3e,
        ];
        assert_eq!(exported_session_key(BASE_KEY, Some(encrypted)), [0x55; 16]);
        assert_eq!(exported_session_key(BASE_KEY, None), BASE_KEY);
    }

    #[test]
    fn messages_are_signed() {
        // 4.2.4.4: the client's signature of "Plaintext"; its sealing has moved the RC4 stream on by
        // the 18 bytes of the message, so only the part without RC4 can be compared.
        let negotiated = flags::KEY_EXCH | flags::KEY_128;
        let message = text::to_utf16le("Plaintext");
        let mut with = signature(&[0x55; 16], negotiated, Side::Client, &message);
        let without = signature(&[0x55; 16], flags::KEY_128, Side::Client, &message);
        // SEALKEY of 4.2.4.1.3
        let sealing_key = [
            0x59, 0xf6, 0x00, 0x97, 0x3c, 0xc4, 0x96, 0x0a, 0x25, 0x48, 0x0a, 0x7c, 0x19, 0x6e,
            0x4c, 0x58,
        ];
        rc4(&sealing_key, &mut with[4..12]);
        assert_eq!(with, without);
        // 4.2.4.4: 7f b3 8e c5 c5 5d 49 76 is that checksum behind 18 bytes of the stream.
        let mut stream = [0; 26];
        stream[18..].copy_from_slice(&without[4..12]);
        rc4(&sealing_key, &mut stream);
        assert_eq!(
            stream[18..],
            [0x7f, 0xb3, 0x8e, 0xc5, 0xc5, 0x5d, 0x49, 0x76]
        );
        assert!(check_signature(
            &[0x55; 16],
            negotiated,
            &message,
            &signature(&[0x55; 16], negotiated, Side::Client, &message)
        ));
        assert!(!check_signature(&[0x55; 16], negotiated, &message, &[]));
    }
}
