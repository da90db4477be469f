//! Encryption of whole messages ([MS-SMB2] 2.2.41, 3.1.4.3).
//!
//! A sealed message is a transform header and what it hides. The header's nonce, length, flags and
//! session id are authenticated with the message.

use aes::{Aes128, Aes256};
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use ccm::Ccm;
use ccm::aead::AeadInOut;
use ccm::consts::{U11, U16};

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
struct Cipher(Inner);

enum Inner {
    Aes128Ccm(Box<Ccm<Aes128, U16, U11>>),
    Aes256Ccm(Box<Ccm<Aes256, U16, U11>>),
    Aes128Gcm(Box<Aes128Gcm>),
    Aes256Gcm(Box<Aes256Gcm>),
}

/// The part of the nonce field that GCM uses, of CCM.
const GCM_NONCE_LEN: usize = 12;
const CCM_NONCE_LEN: usize = 11;

impl Cipher {
    /// `key` has 32 bytes; those that are too many for the cipher are left out.
    fn new(id: CipherId, key: &[u8; 32]) -> Cipher {
        let short: [u8; 16] = std::array::from_fn(|i| key[i]);
        Cipher(match id {
            CipherId::Aes128Ccm => Inner::Aes128Ccm(Box::new(Ccm::new(&short.into()))),
            CipherId::Aes256Ccm => Inner::Aes256Ccm(Box::new(Ccm::new(key.into()))),
            CipherId::Aes128Gcm => Inner::Aes128Gcm(Box::new(Aes128Gcm::new(&short.into()))),
            CipherId::Aes256Gcm => Inner::Aes256Gcm(Box::new(Aes256Gcm::new(key.into()))),
        })
    }

    /// Encrypts in place and returns the tag. Fails only for what is longer than any message.
    fn encrypt(
        &self,
        nonce: &[u8; 16],
        authenticated: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; 16], Tampered> {
        let gcm_nonce: [u8; GCM_NONCE_LEN] = std::array::from_fn(|i| nonce[i]);
        let ccm_nonce: [u8; CCM_NONCE_LEN] = std::array::from_fn(|i| nonce[i]);
        let data = data.into();
        let tag = match &self.0 {
            Inner::Aes128Ccm(c) => c.encrypt_inout_detached(&ccm_nonce.into(), authenticated, data),
            Inner::Aes256Ccm(c) => c.encrypt_inout_detached(&ccm_nonce.into(), authenticated, data),
            Inner::Aes128Gcm(c) => c.encrypt_inout_detached(&gcm_nonce.into(), authenticated, data),
            Inner::Aes256Gcm(c) => c.encrypt_inout_detached(&gcm_nonce.into(), authenticated, data),
        };
        tag.map(Into::into).map_err(|_| Tampered)
    }

    /// Decrypts in place if the tag is right.
    fn decrypt(
        &self,
        nonce: &[u8; 16],
        authenticated: &[u8],
        data: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), Tampered> {
        let gcm_nonce: [u8; GCM_NONCE_LEN] = std::array::from_fn(|i| nonce[i]);
        let ccm_nonce: [u8; CCM_NONCE_LEN] = std::array::from_fn(|i| nonce[i]);
        let (data, tag) = (data.into(), tag.into());
        match &self.0 {
            Inner::Aes128Ccm(c) => {
                c.decrypt_inout_detached(&ccm_nonce.into(), authenticated, data, tag)
            }
            Inner::Aes256Ccm(c) => {
                c.decrypt_inout_detached(&ccm_nonce.into(), authenticated, data, tag)
            }
            Inner::Aes128Gcm(c) => {
                c.decrypt_inout_detached(&gcm_nonce.into(), authenticated, data, tag)
            }
            Inner::Aes256Gcm(c) => {
                c.decrypt_inout_detached(&gcm_nonce.into(), authenticated, data, tag)
            }
        }
        .map_err(|_| Tampered)
    }
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
