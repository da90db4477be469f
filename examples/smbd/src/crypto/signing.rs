//! Signatures ([MS-SMB2] 3.1.4.1, 3.1.5.1).

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Nonce};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::chained::Cmac;
use super::kdf;
use crate::wire::header::{Command, FLAG_RESPONSE, HEADER_LEN};

/// Where the signature is in the SMB2 header.
const SIGNATURE: std::ops::Range<usize> = 48..64;

/// How messages are signed, by the numbers on the wire ([MS-SMB2] 2.2.3.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA256, cut to 16 bytes: before 3.0.
    HmacSha256 = 0,
    /// AES-128-CMAC: from 3.0 on.
    AesCmac = 1,
    /// AES-128-GMAC: 3.1.1, if both sides say so. The fastest.
    AesGmac = 2,
}

impl Algorithm {
    /// What the server prefers: what takes the least time.
    pub const PREFERENCE: [Algorithm; 3] = [
        Algorithm::AesGmac,
        Algorithm::HmacSha256,
        Algorithm::AesCmac,
    ];

    /// Its number.
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// What signs the messages of a session, and checks the signatures of its client.
#[derive(Clone)]
pub struct SigningKey(Key);

#[derive(Clone)]
enum Key {
    Hmac(Hmac<Sha256>),
    Cmac(Box<Cmac>),
    Gmac(Box<Aes128Gcm>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm())
    }
}

impl SigningKey {
    /// A key for an algorithm.
    pub fn new(algorithm: Algorithm, key: &[u8; 16]) -> SigningKey {
        SigningKey(match algorithm {
            Algorithm::HmacSha256 => Key::Hmac(Hmac::new(&kdf::hmac_key(key))),
            Algorithm::AesCmac => Key::Cmac(Box::new(Cmac::new(key))),
            Algorithm::AesGmac => Key::Gmac(Box::new(Aes128Gcm::new(key.into()))),
        })
    }

    /// The algorithm it is for.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Key::Hmac(_) => Algorithm::HmacSha256,
            Key::Cmac(_) => Algorithm::AesCmac,
            Key::Gmac(_) => Algorithm::AesGmac,
        }
    }

    /// Enters the signature into `message`: from its SMB2 header on, with its padding if another
    /// follows in the compound. The flag that says that it is signed has to be set.
    ///
    /// # Panics
    ///
    /// If there is no SMB2 header.
    pub fn sign(&self, message: &mut [u8]) {
        message[SIGNATURE].fill(0);
        let signature = self.signature(message);
        message[SIGNATURE].copy_from_slice(&signature);
    }

    /// Whether the signature of `message` is right. It is zero afterwards.
    ///
    /// # Panics
    ///
    /// If there is no SMB2 header.
    #[must_use]
    pub fn verify(&self, message: &mut [u8]) -> bool {
        let mut claimed = [0; 16];
        claimed.copy_from_slice(&message[SIGNATURE]);
        message[SIGNATURE].fill(0);
        self.signature(message).ct_eq(&claimed).into()
    }

    /// The signature of a message whose signature field is zero.
    fn signature(&self, message: &[u8]) -> [u8; 16] {
        match &self.0 {
            Key::Hmac(mac) => {
                let tag = mac.clone().chain_update(message).finalize().into_bytes();
                std::array::from_fn(|i| tag[i])
            }
            Key::Cmac(cmac) => cmac.tag(message),
            Key::Gmac(gcm) => {
                let nonce = Nonce::from(gmac_nonce(message));
                // Nothing is encrypted, and no message is as long as 2^61 bytes.
                gcm.encrypt_inout_detached(&nonce, message, (&mut [][..]).into())
                    .map_or([0; 16], Into::into)
            }
        }
    }
}

/// The message id, who sends it, and whether it is a CANCEL, which shares the id of the request it
/// cancels.
fn gmac_nonce(message: &[u8]) -> [u8; 12] {
    let header = &message[..HEADER_LEN];
    let is_response =
        u32::from_le_bytes([header[16], header[17], header[18], header[19]]) & FLAG_RESPONSE != 0;
    let is_cancel = u16::from_le_bytes([header[12], header[13]]) == Command::Cancel as u16;
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&header[24..32]);
    nonce[8] = u8::from(is_response) | u8::from(is_cancel && !is_response) << 1;
    nonce
}
