//! The modes of AES in which each block depends on the one before it: CMAC (RFC 4493) and CCM
//! (RFC 3610).
//!
//! What takes the time is the chain: one block has to be encrypted before the next one can be. So
//! all blocks are handed to the cipher in one call, which keeps the state in registers, and CCM's
//! keystream is made between the links of the chain, where the CPU has nothing else to do. That
//! takes half of the time that it takes block by block.

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::inout::InOut;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit,
};
use aes::{Aes128Enc, Aes256Enc};
use subtle::ConstantTimeEq;

use super::sealing::Tampered;

/// The length of a block, and of a tag.
const BLOCK: usize = 16;
/// The length of CCM's nonce; what it leaves of a block counts up to 2^32.
pub(super) const CCM_NONCE_LEN: usize = 11;
/// CCM's first byte: a counter of 4 bytes; a tag of 16 bytes, and there is authenticated data.
const COUNTER_FLAGS: u8 = 3;
const MAC_FLAGS: u8 = 1 << 6 | 7 << 3 | COUNTER_FLAGS;

/// The encryption of one block.
fn encrypt<B: BlockCipherEncBackend<BlockSize = U16>>(cipher: &B, block: u128) -> u128 {
    let mut block = Array::from(block.to_ne_bytes());
    cipher.encrypt_block(InOut::from(&mut block));
    u128::from_ne_bytes(block.into())
}

/// A CBC-MAC over whole blocks, going on from `state`.
struct Chain<'a> {
    state: &'a mut u128,
    blocks: &'a [[u8; BLOCK]],
}

impl BlockSizeUser for Chain<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Chain<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, cipher: &B) {
        *self.state = self.blocks.iter().fold(*self.state, |state, block| {
            encrypt(cipher, state ^ u128::from_ne_bytes(*block))
        });
    }
}

/// A CBC-MAC over the plaintext of whole blocks, which are encrypted or decrypted on the way.
struct CountedChain<'a> {
    state: &'a mut u128,
    /// The counter block before the first.
    counter: u128,
    blocks: &'a mut [[u8; BLOCK]],
    decrypts: bool,
}

impl BlockSizeUser for CountedChain<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for CountedChain<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, cipher: &B) {
        let mut state = *self.state;
        let mut counter = self.counter;
        for block in self.blocks {
            counter += 1;
            let before = u128::from_ne_bytes(*block);
            let after = before ^ encrypt(cipher, counter.to_be());
            *block = after.to_ne_bytes();
            let plain = if self.decrypts { after } else { before };
            state = encrypt(cipher, state ^ plain);
        }
        *self.state = state;
    }
}

/// The first bytes of a block, the others being zeros.
fn padded(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// AES-128-CMAC.
#[derive(Clone)]
pub(super) struct Cmac(Aes128Enc);

impl Cmac {
    pub(super) fn new(key: &[u8; 16]) -> Cmac {
        Cmac(Aes128Enc::new(key.into()))
    }

    /// The tag of a message.
    pub(super) fn tag(&self, message: &[u8]) -> [u8; BLOCK] {
        let mut zero = 0;
        self.chain(&mut zero, &[[0; BLOCK]]);
        let whole_key = double(u128::from_be(zero));
        // The last block is treated apart; there always is one.
        let (blocks, last) = message.split_at(message.len().saturating_sub(1) / BLOCK * BLOCK);
        let mut state = 0;
        self.chain(&mut state, blocks.as_chunks().0);
        let mut block = padded(last);
        let key = if last.len() == BLOCK {
            whole_key
        } else {
            block[last.len()] = 0x80;
            double(whole_key)
        };
        state ^= key.to_be();
        self.chain(&mut state, &[block]);
        state.to_ne_bytes()
    }

    fn chain(&self, state: &mut u128, blocks: &[[u8; BLOCK]]) {
        self.0.encrypt_with_backend(Chain { state, blocks });
    }
}

/// Twice `value` in the field of 2^128 elements.
fn double(value: u128) -> u128 {
    (value << 1) ^ ((value >> 127) * 0x87)
}

/// AES-CCM with a tag of 16 bytes.
pub(super) struct Ccm<C>(C);

impl Ccm<Aes128Enc> {
    pub(super) fn new_128(key: &[u8; 16]) -> Self {
        Ccm(Aes128Enc::new(key.into()))
    }
}

impl Ccm<Aes256Enc> {
    pub(super) fn new_256(key: &[u8; 32]) -> Self {
        Ccm(Aes256Enc::new(key.into()))
    }
}

impl<C: BlockCipherEncrypt<BlockSize = U16>> Ccm<C> {
    /// Encrypts in place and returns the tag.
    ///
    /// # Errors
    ///
    /// The data has 4 GiB or more, `authenticated` is empty or too long.
    pub(super) fn encrypt(
        &self,
        nonce: &[u8; CCM_NONCE_LEN],
        authenticated: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; BLOCK], Tampered> {
        self.process(nonce, authenticated, data, false)
    }

    /// Decrypts in place if the tag is right, else there are zeros.
    ///
    /// # Errors
    ///
    /// It is not, or as for [`encrypt`](Self::encrypt).
    pub(super) fn decrypt(
        &self,
        nonce: &[u8; CCM_NONCE_LEN],
        authenticated: &[u8],
        data: &mut [u8],
        tag: &[u8; BLOCK],
    ) -> Result<(), Tampered> {
        let expected = self.process(nonce, authenticated, data, true)?;
        if expected.ct_eq(tag).into() {
            return Ok(());
        }
        data.fill(0);
        Err(Tampered)
    }

    fn process(
        &self,
        nonce: &[u8; CCM_NONCE_LEN],
        authenticated: &[u8],
        data: &mut [u8],
        decrypts: bool,
    ) -> Result<[u8; BLOCK], Tampered> {
        let length = u32::try_from(data.len()).map_err(|_| Tampered)?;
        let authenticated_len = u16::try_from(authenticated.len())
            .ok()
            .filter(|length| (1..0xFF00).contains(length))
            .ok_or(Tampered)?;

        let mut first = [0; BLOCK];
        first[0] = MAC_FLAGS;
        first[1..12].copy_from_slice(nonce);
        first[12..].copy_from_slice(&length.to_be_bytes());
        let mut state = 0;
        self.chain(&mut state, &[first]);
        // Before the authenticated data goes its length.
        let (head, rest) = authenticated.split_at(authenticated.len().min(BLOCK - 2));
        let mut second = [0; BLOCK];
        second[..2].copy_from_slice(&authenticated_len.to_be_bytes());
        second[2..2 + head.len()].copy_from_slice(head);
        self.chain(&mut state, &[second]);
        let (blocks, last) = rest.as_chunks();
        self.chain(&mut state, blocks);
        if !last.is_empty() {
            self.chain(&mut state, &[padded(last)]);
        }

        first[0] = COUNTER_FLAGS;
        first[12..].fill(0);
        let counter = u128::from_be_bytes(first);
        let (blocks, last) = data.as_chunks_mut();
        let count = blocks.len() as u128;
        self.0.encrypt_with_backend(CountedChain {
            state: &mut state,
            counter,
            blocks,
            decrypts,
        });
        if !last.is_empty() {
            let keystream = self.keystream(counter + count + 1);
            let before = padded(last);
            for (byte, key) in last.iter_mut().zip(keystream) {
                *byte ^= key;
            }
            let plain = if decrypts { padded(last) } else { before };
            self.chain(&mut state, &[plain]);
        }
        let mask = u128::from_ne_bytes(self.keystream(counter));
        Ok((state ^ mask).to_ne_bytes())
    }

    fn keystream(&self, counter: u128) -> [u8; BLOCK] {
        let mut state = 0;
        self.chain(&mut state, &[counter.to_be_bytes()]);
        state.to_ne_bytes()
    }

    fn chain(&self, state: &mut u128, blocks: &[[u8; BLOCK]]) {
        self.0.encrypt_with_backend(Chain { state, blocks });
    }
}

#[cfg(test)]
mod tests {
    use ::ccm::aead::AeadInOut;
    use ::ccm::consts::U11;
    use aes::{Aes128, Aes256};
    use cmac::Mac;
    use proptest::prelude::*;

    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 4493, 4.
    #[test]
    fn cmac_has_the_published_values() {
        let cmac = Cmac::new(&hex("2b7e151628aed2a6abf7158809cf4f3c"));
        let message: [u8; 64] = hex(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        for (length, tag) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            assert_eq!(cmac.tag(&message[..length]), hex(tag), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn cmac_is_what_another_implementation_makes(
            key: [u8; 16],
            message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut other = <cmac::Cmac<Aes128> as cmac::KeyInit>::new(&key.into());
            other.update(&message);
            let tag: [u8; 16] = other.finalize().into_bytes().into();
            prop_assert_eq!(Cmac::new(&key).tag(&message), tag);
        }

        #[test]
        fn ccm_is_what_another_implementation_makes(
            key: [u8; 32],
            nonce: [u8; 11],
            authenticated in prop::collection::vec(any::<u8>(), 1..80),
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let short: [u8; 16] = key[..16].try_into().unwrap();
            let mut expected = data.clone();
            let other = <::ccm::Ccm<Aes128, U16, U11> as KeyInit>::new(&short.into());
            let tag: [u8; 16] = other
                .encrypt_inout_detached(&nonce.into(), &authenticated, (&mut expected[..]).into())
                .unwrap()
                .into();
            check(&Ccm::new_128(&short), &nonce, &authenticated, &data, &expected, &tag)?;

            let mut expected = data.clone();
            let other = <::ccm::Ccm<Aes256, U16, U11> as KeyInit>::new(&key.into());
            let tag: [u8; 16] = other
                .encrypt_inout_detached(&nonce.into(), &authenticated, (&mut expected[..]).into())
                .unwrap()
                .into();
            check(&Ccm::new_256(&key), &nonce, &authenticated, &data, &expected, &tag)?;
        }
    }

    fn check<C: BlockCipherEncrypt<BlockSize = U16>>(
        ccm: &Ccm<C>,
        nonce: &[u8; 11],
        authenticated: &[u8],
        data: &[u8],
        encrypted: &[u8],
        tag: &[u8; 16],
    ) -> Result<(), TestCaseError> {
        let mut buffer = data.to_vec();
        let made = ccm.encrypt(nonce, authenticated, &mut buffer);
        prop_assert_eq!(made, Ok(*tag));
        prop_assert_eq!(&buffer, encrypted);
        let mut wrong = *tag;
        wrong[15] ^= 1;
        let mut copy = buffer.clone();
        let refused = ccm.decrypt(nonce, authenticated, &mut copy, &wrong);
        prop_assert_eq!(refused, Err(Tampered));
        prop_assert!(copy.iter().all(|&byte| byte == 0));
        prop_assert_eq!(ccm.decrypt(nonce, authenticated, &mut buffer, tag), Ok(()));
        prop_assert_eq!(&buffer, data);
        Ok(())
    }
}
