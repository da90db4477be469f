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
