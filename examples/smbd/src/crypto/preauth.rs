//! The hash over the messages before a session has keys, SMB 3.1.1's protection of them
//! ([MS-SMB2] 3.3.1.9, 3.3.5.4, 3.3.5.5).

use sha2::{Digest, Sha512};

/// A chain of hashes: each value is the SHA-512 of the one before and a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PreauthHash([u8; 64]);

impl Default for PreauthHash {
    fn default() -> Self {
        PreauthHash([0; 64])
    }
}

impl std::fmt::Debug for PreauthHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PreauthHash")
    }
}

impl PreauthHash {
    /// Takes in a message, from its SMB2 header on.
    pub fn update(&mut self, message: &[u8]) {
        let hash = Sha512::new().chain_update(self.0).chain_update(message);
        self.0 = hash.finalize().into();
    }

    /// The value so far.
    pub fn value(&self) -> &[u8; 64] {
        &self.0
    }
}
