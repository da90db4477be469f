//! The cryptography against published values.
//!
//! Where nothing else is said they are Microsoft's, from "SMB 2 and SMB 3 security in Windows 10: the
//! anatomy of signing and cryptographic keys", "Encryption in SMB 3.0: A protocol perspective" and
//! "SMB 3.1.1 Encryption in Windows 10" (Open Specifications blog). What is called the encryption
//! key there is the client's.

use smbd::crypto::kdf::{Purpose, derive};
use smbd::crypto::preauth::PreauthHash;
use smbd::crypto::sealing::{CipherId, Opener, Sealer, Tampered};
use smbd::crypto::signing::{Algorithm, SigningKey};
use smbd::wire::negotiate::Dialect;
use smbd::wire::transform::TRANSFORM_LEN;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let (pairs, []) = digits.as_chunks::<2>() else {
        panic!("an odd number of digits");
    };
    pairs.iter().map(|[a, b]| (a << 4 | b) as u8).collect()
}

fn key<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().expect("another length")
}

/// A key of 128 bits in the place of one of 256.
fn long(text: &str) -> [u8; 32] {
    let mut long = [0; 32];
    long[..16].copy_from_slice(&key::<16>(text));
    long
}

/// The messages of a session setup in 3.1.1. The last is not part of the hash.
fn session_setup() -> Vec<Vec<u8>> {
    let messages: Vec<_> = include_str!("vectors/session-setup-3.1.1.txt")
        .split("\n\n")
        .map(|message| hex(message.split_once('\n').expect("no title").1))
        .collect();
    assert_eq!(messages.len(), 6);
    messages
}

fn session_hash() -> PreauthHash {
    let mut hash = PreauthHash::default();
    for message in &session_setup()[..5] {
        hash.update(message);
    }
    hash
}

#[test]
fn the_preauthentication_hash_is_a_chain() {
    let expected = "0DD13628CC3ED218EF9DF9772D436D0887AB9814BFAE63A80AA845F36909DB79
        28622DDDAD522D9751640A459762C5A9D6BB084CBB3CE6BDADEF5D5BCE3C6C01";
    assert_eq!(session_hash().value()[..], hex(expected));
}

#[test]
fn keys_of_3_0_are_derived_from_constants() {
    let session_key = key("7CD451825D0450D235424E44BA6E78CC");
    let none = PreauthHash::default();
    for (purpose, expected) in [
        (Purpose::Signing, "0B7E9C5CAC36C0F6EA9AB275298CEDCE"),
        (Purpose::ClientToServer, "FAD27796665B313EBB578F388632B4F7"),
        (Purpose::ServerToClient, "B0F0427F7CEB416D1D9DCC0CD4F99447"),
    ] {
        for dialect in [Dialect::Smb300, Dialect::Smb302] {
            let derived = derive::<16>(&session_key, dialect, purpose, &none);
            assert_eq!(derived, key(expected), "{purpose:?}");
        }
    }
}

#[test]
fn keys_of_3_1_1_are_derived_from_the_hash() {
    let session_key = key("270E1BA896585EEB7AF3472D3B4C75A7");
    for (purpose, expected) in [
        (Purpose::Signing, "73FE7A9A77BEF0BDE49C650D8CCB5F76"),
        (Purpose::ClientToServer, "629BCBC54422A0F572B97F45989B6073"),
        (Purpose::ServerToClient, "E2AF0DCEFAC68DA71A0DFBD0D1350D74"),
    ] {
        let derived = derive::<16>(&session_key, Dialect::Smb311, purpose, &session_hash());
        assert_eq!(derived, key(expected), "{purpose:?}");
    }
}

#[track_caller]
fn signs(signing: &SigningKey, message: &[u8]) {
    let mut copy = message.to_vec();
    assert!(signing.verify(&mut copy), "not accepted");
    assert_eq!(copy[48..64], [0; 16], "the signature is left");
    signing.sign(&mut copy);
    assert_eq!(copy, message, "signed otherwise");
    for at in [0, 47, 48, 63, 64, message.len() - 1] {
        let mut tampered = message.to_vec();
        tampered[at] ^= 1;
        assert!(!signing.verify(&mut tampered), "byte {at} doesn't count");
    }
}

#[test]
fn the_last_response_of_a_session_setup_is_signed_with_cmac() {
    let key = key("73FE7A9A77BEF0BDE49C650D8CCB5F76");
    signs(
        &SigningKey::new(Algorithm::AesCmac, &key),
        &session_setup()[5],
    );
}

/// A header and the body of an ECHO: a response, or the request of a CANCEL.
fn short_message(command: u16, flags: u32, signature: &str) -> Vec<u8> {
    let mut message = hex(
        "fe534d4240000100000000000d00010009000000000000000500000000000000
        fffe0000010000008877665544332211",
    );
    message[12..14].copy_from_slice(&command.to_le_bytes());
    message[16..20].copy_from_slice(&flags.to_le_bytes());
    message.extend(hex(signature));
    message.extend([4, 0, 0, 0]);
    message
}

/// The signatures are those of OpenSSL, with the nonces of [MS-SMB2] 3.1.4.1.
#[test]
fn gmac_tells_directions_and_cancels_apart() {
    let key: [u8; 16] = std::array::from_fn(|i| i as u8);
    let signing = SigningKey::new(Algorithm::AesGmac, &key);
    let echo = short_message(13, 9, "59d5f8830f55999fa31a521fd76d625c");
    signs(&signing, &echo);
    let cancel = short_message(12, 8, "253ed76c41db04231ba9743cdb8c80b3");
    signs(&signing, &cancel);
}

/// The signature is that of Python's `hmac`.
#[test]
fn the_signature_of_2_1_is_half_of_an_hmac() {
    let key: [u8; 16] = std::array::from_fn(|i| i as u8);
    let signing = SigningKey::new(Algorithm::HmacSha256, &key);
    signs(
        &signing,
        &short_message(13, 9, "95177826667f45935fa3c60bd569feb4"),
    );
}

struct Sealed {
    cipher: CipherId,
    key: [u8; 32],
    /// With its transform header.
    sealed: Vec<u8>,
    message: Vec<u8>,
}

fn sealed_messages() -> Vec<Sealed> {
    let counting: [u8; 32] = std::array::from_fn(|i| i as u8);
    vec![
        // Microsoft's: a WRITE from a client, and its response.
        Sealed {
            cipher: CipherId::Aes128Ccm,
            key: long("261B72350558F2E9DCF613070383EDBF"),
            sealed: hex(
                "FD534D4281A286535415445DAE393921E44FA42E66E69A111892584FB5ED524A
                744DA3EE87000000000001001100001400E4080025C8FEE16605A437832D1CD5
                2DA9F4645333482A175FE5384563F45FCDAFAEF38BC62BA4D5C62897996625A4
                4C29BE5658DE2E6117585779E7B59FFD971278D08580D7FA899E410E910EABF5
                AA1DB43050B33B49182637759AC15D84BFCDF5B6B238993C0F4CF4D6012023F6
                C627297075D84B7803912D0A9639634453595EF3E33FFE4E7AC2AB",
            ),
            message: hex(
                "FE534D4240000100000000000900400008000000000000000400000000000000
                FFFE0000010000001100001400E4080000000000000000000000000000000000
                3100700017000000000000000000000015010000390000020100000039020000
                00000000000000007000000000000000536D623320656E6372797074696F6E20
                74657374696E67",
            ),
        },
        Sealed {
            cipher: CipherId::Aes128Ccm,
            key: long("8FE2B57EC34D2DB5B1A9727F526BBDB5"),
            sealed: hex(
                "FD534D42A6015530A18F6D9AFFE22AFAE8E66484860000000000000011000014
                00E4080050000000000001001100001400E40800DBF46435C5F14169293CE079
                E344479BF670227E49873F458672C3098DAC467DD5809F369D67409166515787
                1483E01F7BECD02064EAC3E235F913668BBC2F097980D4B378F1993EFF6E60D1
                77309E5B",
            ),
            message: hex(
                "FE534D4240000100000000000900210009000000000000000400000000000000
                FFFE0000010000001100001400E4080000000000000000000000000000000000
                11000000170000000000000000000000",
            ),
        },
        Sealed {
            cipher: CipherId::Aes128Gcm,
            key: long("A2F5E80E5D59103034F32E52F698E5EC"),
            sealed: hex(
                "FD534D42BD73D97D2BC9001BCAFAC0FDFF5FEEBCC7D6822D269CAF48904C664C
                0000000087000000000001002500000000100000
                6ECDD2A7AFC7B47763057A041B8FD4DAFFE990B70C9E09D36C084E02D14EF247
                F8BDE38ACF6256F8B1D3B56F77FBDEB312FEA5E92CBCC1ED8FB2EBBFAA75E49A
                4A394BB44576545567C24D4C014D47C9FBDFDAFD2C4F9B72F8D256452620A299
                F48E29E53D6B61D1C13A19E91AF013F00D17E3ABC2FC3D36C8C1B6B939732538
                52DBD442E46EE8",
            ),
            message: hex(
                "FE534D4240000100000000000900010008000000000000000500000000000000
                FFFE0000010000002500000000100000000000000000000000000000000000003
                100700017000000000000000000000006000000040000000100000004000000
                00000000000000007000000000000000536D623320656E6372797074696F6E20
                74657374696E67",
            ),
        },
        Sealed {
            cipher: CipherId::Aes128Gcm,
            key: long("748C50868C90F302962A5C35F5F9A8BF"),
            sealed: hex(
                "FD534D42ACBE1CB7ED343ADF1725EF144D90D4B0E06831DD2E8EB7B400000000
                0000000050000000000001002500000000100000
                26BBBF949983A6C1C796559D0F2C510CB651D1F7B6AC8DED32A2A0B8F2D793A8
                15C6F6B848D69767A215841A42D400AE6DDB5F0B44173A014973321FDD7950DA
                6179159B82E03C9E18A050FF0EA1C967",
            ),
            message: hex(
                "FE534D4240000100000000000900010001000000000000000500000000000000
                FFFE00000100000025000000001000000000000000000000000000000000000011
                000000170000000000000000000000",
            ),
        },
        // Made with OpenSSL.
        Sealed {
            cipher: CipherId::Aes256Ccm,
            key: counting,
            sealed: hex(
                "fd534d42e215ba9df8de0c97ddd8a33969c2d21db0b1b2b3b4b5b6b7b8b9ba00
                0000000044000000000001008877665544332211
                2092e777d10a193595a6439bd03941f89595407dedb4572cf6952d2b5322a05a
                d3ca900c682521c6fb38bacdfe41c8c0141d8f39029703bccedd7267a2cd5619
                0a9ec070",
            ),
            message: short_message(13, 9, &"0".repeat(32)),
        },
        Sealed {
            cipher: CipherId::Aes256Gcm,
            key: counting,
            sealed: hex(
                "fd534d424ac69c4bba8c676c09597b62e3649e2cb0b1b2b3b4b5b6b7b8b9babb
                0000000044000000000001008877665544332211
                670617e9accdba5f47f897a2c05d89c28d3c49d2152e8f355bce82f15c82f216
                fab5233a62dea6b82d2cc61f788aa0a42d6d17c71b3b42f04d8a6c30049b20ff
                b6e83eb4",
            ),
            message: short_message(13, 9, &"0".repeat(32)),
        },
    ]
}

#[test]
fn sealed_messages_are_opened() {
    for Sealed {
        cipher,
        key,
        mut sealed,
        message,
    } in sealed_messages()
    {
        let opener = Opener::new(cipher, &key);
        assert_eq!(
            opener.open(&mut sealed).map(|opened| opened.to_vec()),
            Ok(message),
            "{cipher:?}"
        );
    }
}

#[test]
fn every_byte_of_a_sealed_message_counts() {
    for Sealed {
        cipher,
        key,
        sealed,
        ..
    } in sealed_messages()
    {
        let opener = Opener::new(cipher, &key);
        for at in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[at] ^= 0x80;
            // Also those of the nonce that the cipher doesn't use.
            let result = opener.open(&mut tampered);
            assert_eq!(result.err(), Some(Tampered), "{cipher:?}: byte {at}");
        }
        for length in 0..sealed.len() {
            let mut short = sealed[..length].to_vec();
            assert_eq!(opener.open(&mut short).err(), Some(Tampered), "{length}");
        }
    }
}

#[test]
fn what_is_sealed_can_be_opened_and_never_looks_the_same() {
    let key = std::array::from_fn(|i| i as u8 ^ 0x5A);
    for cipher in CipherId::PREFERENCE {
        let mut sealer = Sealer::new(cipher, &key);
        let opener = Opener::new(cipher, &key);
        for length in [0, 1, 64, 1000, 100_000] {
            let message: Vec<_> = (0..length).map(|i| i as u8).collect();
            let plain = [&[0; TRANSFORM_LEN][..], &message].concat();
            let (mut first, mut second) = (plain.clone(), plain);
            sealer.seal(7, &mut first).unwrap();
            sealer.seal(7, &mut second).unwrap();
            assert_ne!(first[..], second[..], "{cipher:?}");
            for mut sealed in [first, second] {
                assert_eq!(opener.open(&mut sealed).unwrap(), message, "{cipher:?}");
            }
        }
    }
    let mut sealer = Sealer::new(CipherId::Aes128Gcm, &key);
    assert_eq!(sealer.seal(7, &mut [0; TRANSFORM_LEN - 1]), Err(Tampered));
}
