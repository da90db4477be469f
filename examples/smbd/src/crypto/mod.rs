//! What protects messages: keys, signatures, encryption, and the hash over what came before them.
//!
//! The primitives are RustCrypto's, but AES-GCM, which is `ring`'s: it makes both halves in one pass
//! over the data. They use the CPU's instructions for AES, GHASH and SHA-256 where it has them. CMAC and
//! CCM are made of RustCrypto's AES in `chained`. Everything works in place on the buffers that are received and sent. What is
//! compared with a client's bytes is compared in constant time.

mod chained;
pub mod kdf;
pub mod preauth;
pub mod sealing;
pub mod signing;

use self::preauth::PreauthHash;
use self::sealing::{CipherId, Sealer};
use self::signing::{Algorithm, SigningKey};
use crate::wire::header::HEADER_LEN;
use crate::wire::transform::TRANSFORM_LEN;

/// Finds out what the CPU can do, by using everything once. A virtual machine takes tens of
/// microseconds for each such question, so it is asked before processes are forked that would ask
/// again.
pub fn prepare() {
    PreauthHash::default().update(&[]);
    for algorithm in Algorithm::PREFERENCE {
        SigningKey::new(algorithm, &[0; 16]).sign(&mut [0; HEADER_LEN]);
    }
    for id in CipherId::PREFERENCE {
        // That nothing is to be sealed is no error.
        let _ = Sealer::new(id, &[0; 32]).seal(0, &mut [0; TRANSFORM_LEN + 64]);
    }
}
