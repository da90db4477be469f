//! Encryption of whole messages ([MS-SMB2] 2.2.41, 3.1.4.3).
//!
//! A sealed message is a transform header and what it hides. The header's nonce, length, flags and
//! session id are authenticated with the message.

use aes::{Aes128Enc, Aes256Enc};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, Tag, UnboundKey};

use super::chained::{CCM_NONCE_LEN, Ccm};
use crate::wire::transform::{self, TRANSFORM_LEN, TransformHeader};

/// The ciphers by their numbers on the wire ([MS-SMB2] 2.2.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum CipherId {
    Aes128Ccm = 1,
    Aes128Gcm = 2,
    Aes256Ccm = 3,
    Aes256Gcm = 4,
}

impl CipherId {
    /// What the server prefers: GCM, then what takes less time.
    pub const PREFERENCE: [CipherId; 4] = [
        CipherId::Aes128Gcm,
        CipherId::Aes256Gcm,
        CipherId::Aes128Ccm,
        CipherId::Aes256Ccm,
    ];

    /// Its number.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether its keys have 256 bits, and not 128.
    pub fn is_256(self) -> bool {
        matches!(self, CipherId::Aes256Ccm | CipherId::Aes256Gcm)
    }
}

/// The message was not sealed with this key, or has been changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tampered;

/// A cipher with the key of one direction.
enum Cipher {
    Aes128Ccm(Box<Ccm<Aes128Enc>>),
    Aes256Ccm(Box<Ccm<Aes256Enc>>),
    Gcm(Box<LessSafeKey>),
}

/// The part of the nonce field that GCM uses.
const GCM_NONCE_LEN: usize = 12;

impl Cipher {
    /// `key` has 32 bytes; those that are too many for the cipher are left out.
    fn new(id: CipherId, key: &[u8; 32]) -> Cipher {
        let short: &[u8; 16] = &std::array::from_fn(|i| key[i]);
        match id {
            CipherId::Aes128Ccm => Cipher::Aes128Ccm(Box::new(Ccm::new_128(short))),
            CipherId::Aes256Ccm => Cipher::Aes256Ccm(Box::new(Ccm::new_256(key))),
            CipherId::Aes128Gcm => Cipher::Gcm(Box::new(gcm_key(&AES_128_GCM, short))),
            CipherId::Aes256Gcm => Cipher::Gcm(Box::new(gcm_key(&AES_256_GCM, key))),
        }
    }

    /// Encrypts in place and returns the tag. Fails only for what is longer than any message.
    fn encrypt(
        &self,
        nonce: &[u8; 16],
        authenticated: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; 16], Tampered> {
        match self {
            Cipher::Aes128Ccm(ccm) => ccm.encrypt(&ccm_nonce(nonce), authenticated, data),
            Cipher::Aes256Ccm(ccm) => ccm.encrypt(&ccm_nonce(nonce), authenticated, data),
            Cipher::Gcm(key) => {
                let tag = key
                    .seal_in_place_separate_tag(gcm_nonce(nonce), Aad::from(authenticated), data)
                    .map_err(|_| Tampered)?;
                tag.as_ref().try_into().map_err(|_| Tampered)
            }
        }
    }

    /// Decrypts in place if the tag is right.
    fn decrypt(
        &self,
        nonce: &[u8; 16],
        authenticated: &[u8],
        data: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), Tampered> {
        match self {
            Cipher::Aes128Ccm(ccm) => ccm.decrypt(&ccm_nonce(nonce), authenticated, data, tag),
            Cipher::Aes256Ccm(ccm) => ccm.decrypt(&ccm_nonce(nonce), authenticated, data, tag),
            Cipher::Gcm(key) => {
                let (nonce, aad) = (gcm_nonce(nonce), Aad::from(authenticated));
                key.open_in_place_separate_tag(nonce, aad, Tag::from(*tag), data, 0..)
                    .map(drop)
                    .map_err(|_| Tampered)
            }
        }
    }
}

fn gcm_key(algorithm: &'static Algorithm, key: &[u8]) -> LessSafeKey {
    // It can't fail: the algorithms' keys have 16 and 32 bytes.
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a key of another length"))
}

fn gcm_nonce(nonce: &[u8; 16]) -> Nonce {
    let nonce: [u8; GCM_NONCE_LEN] = std::array::from_fn(|i| nonce[i]);
    // The sealer counts.
    Nonce::assume_unique_for_key(nonce)
}

fn ccm_nonce(nonce: &[u8; 16]) -> [u8; CCM_NONCE_LEN] {
    std::array::from_fn(|i| nonce[i])
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

/// What seals the messages of one direction.
#[derive(Debug)]
pub struct Sealer {
    cipher: Cipher,
    /// Nonces count up: each is used once with this key.
    next_nonce: u64,
}

impl Sealer {
    /// `key` has 32 bytes; ciphers of 128 bits use the first half.
    pub fn new(id: CipherId, key: &[u8; 32]) -> Sealer {
        Sealer {
            cipher: Cipher::new(id, key),
            next_nonce: 0,
        }
    }

    /// Seals a message in place: `buffer` begins with room for the transform header.
    ///
    /// # Errors
    ///
    /// The buffer is shorter than that or too long for the cipher, or the nonces are used up; it
    /// must not be sent.
    pub fn seal(&mut self, session_id: u64, buffer: &mut [u8]) -> Result<(), Tampered> {
        let (head, message) = buffer
            .split_first_chunk_mut::<TRANSFORM_LEN>()
            .ok_or(Tampered)?;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.next_nonce.to_le_bytes());
        self.next_nonce = self.next_nonce.checked_add(1).ok_or(Tampered)?;
        *head = TransformHeader {
            tag: [0; 16],
            nonce,
            message_len: u32::try_from(message.len()).map_err(|_| Tampered)?,
            session_id,
        }
        .to_bytes();
        let tag = self
            .cipher
            .encrypt(&nonce, &head[transform::AUTHENTICATED], message)?;
        head[transform::TAG].copy_from_slice(&tag);
        Ok(())
    }
}

/// What opens the sealed messages of one direction.
#[derive(Debug)]
pub struct Opener(Cipher);

impl Opener {
    /// See [`Sealer::new`].
    pub fn new(id: CipherId, key: &[u8; 32]) -> Opener {
        Opener(Cipher::new(id, key))
    }

    /// Opens a sealed message in place; what was hidden stands behind the transform header.
    ///
    /// # Errors
    ///
    /// [`Tampered`]; the contents must not be looked at.
    pub fn open<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a mut [u8], Tampered> {
        let header = TransformHeader::parse(buffer).map_err(|_| Tampered)?;
        let (head, message) = buffer
            .split_first_chunk_mut::<TRANSFORM_LEN>()
            .ok_or(Tampered)?;
        if header.message_len as usize != message.len() {
            return Err(Tampered);
        }
        self.0.decrypt(
            &header.nonce,
            &head[transform::AUTHENTICATED],
            message,
            &header.tag,
        )?;
        Ok(message)
    }
}
