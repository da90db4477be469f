//! Key derivation: SP800-108 in counter mode with HMAC-SHA256 ([MS-SMB2] 3.1.4.2).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::preauth::PreauthHash;
use crate::wire::negotiate::Dialect;

/// What a derived key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signatures of both sides.
    Signing,
    /// What the client encrypts.
    ClientToServer,
    /// What the server encrypts.
    ServerToClient,
}

/// Derives the key of a session for one purpose, `N` bytes of it; `preauth` counts in 3.1.1.
///
/// The dialects before 3.0 derive nothing: they sign with the session key itself.
pub fn derive<const N: usize>(
    session_key: &[u8; 16],
    dialect: Dialect,
    purpose: Purpose,
    preauth: &PreauthHash,
) -> [u8; N] {
    let (label, context): (&[u8], &[u8]) = if dialect == Dialect::Smb311 {
        let label: &[u8] = match purpose {
            Purpose::Signing => b"SMBSigningKey\0",
            Purpose::ClientToServer => b"SMBC2SCipherKey\0",
            Purpose::ServerToClient => b"SMBS2CCipherKey\0",
        };
        (label, preauth.value())
    } else {
        match purpose {
            Purpose::Signing => (b"SMB2AESCMAC\0", b"SmbSign\0"),
            // The space is part of it.
            Purpose::ClientToServer => (b"SMB2AESCCM\0", b"ServerIn \0"),
            Purpose::ServerToClient => (b"SMB2AESCCM\0", b"ServerOut\0"),
        }
    };
    counter_mode(session_key, label, context)
}

/// The first block of SP800-108 5.1 is all that keys of up to 256 bits take.
fn counter_mode<const N: usize>(key: &[u8; 16], label: &[u8], context: &[u8]) -> [u8; N] {
    const { assert!(N <= 32) };
    let mut mac = Hmac::<Sha256>::new(&hmac_key(key));
    mac.update(&1u32.to_be_bytes());
    mac.update(label);
    mac.update(&[0]);
    mac.update(context);
    mac.update(&(N as u32 * 8).to_be_bytes());
    let block = mac.finalize().into_bytes();
    std::array::from_fn(|i| block[i])
}

/// HMAC pads a short key with zeros to its block.
pub(super) fn hmac_key(key: &[u8; 16]) -> hmac::digest::Key<Hmac<Sha256>> {
    let mut padded = hmac::digest::Key::<Hmac<Sha256>>::default();
    padded[..key.len()].copy_from_slice(key);
    padded
}
