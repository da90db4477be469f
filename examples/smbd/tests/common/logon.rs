//! A client with a password: NTLMv2 from its side, and requests that are signed or encrypted.

use std::cell::RefCell;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use rc4::{Rc4, StreamCipher};
use smbd::auth::ntlmv2::NtHash;
use smbd::crypto::kdf::{Purpose, derive};
use smbd::crypto::preauth::PreauthHash;
use smbd::crypto::sealing::{CipherId, Opener, Sealer};
use smbd::crypto::signing::{Algorithm, SigningKey};
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;
use smbd::wire::transform::TRANSFORM_LEN;

use super::bodies::{negotiate_with, ntlm_negotiate, session_setup_with, tree_connect, utf16};
use super::client::{
    Client, NEGOTIATE, Response, SESSION_SETUP, TREE_CONNECT, Transport, request, responses,
    security_buffer,
};
use super::wire::frame;

pub const KEY_EXCH: u32 = 0x4000_0000;
const FLAGS: u32 = 0xE208_8201;

/// One who logs on.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
    pub domain: String,
    /// The message has a MIC and says so.
    pub mic: bool,
    /// The session key is the client's choice.
    pub key_exchange: bool,
}

impl Credentials {
    pub fn new(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
            domain: String::from("DOMAIN"),
            mic: true,
            key_exchange: true,
        }
    }

    /// The AUTHENTICATE message that answers a challenge, and the session key.
    pub fn authenticate(&self, negotiate: &[u8], challenge: &[u8]) -> (Vec<u8>, [u8; 16]) {
        let server_challenge = &challenge[24..32];
        let u16_at = |at: usize| u16::from_le_bytes([challenge[at], challenge[at + 1]]) as usize;
        let info_at = u16_at(44);
        let info = &challenge[info_at..info_at + u16_at(40) - 4]; // without the end
        let mut temp = [
            &[1, 1, 0, 0, 0, 0, 0, 0][..],
            &[7; 8],
            &[0xC1; 8],
            &[0; 4],
            info,
        ]
        .concat();
        if self.mic {
            temp.extend([6, 0, 4, 0, 2, 0, 0, 0]);
        }
        temp.extend([0; 8]);

        let hash = NtHash::of_password(&self.password);
        let name = utf16(&(self.user.to_uppercase() + &self.domain));
        let response_key = hmac_md5(hash.as_bytes(), &[&name]);
        let proof = hmac_md5(&response_key, &[server_challenge, &temp]);
        let base_key = hmac_md5(&response_key, &[&proof]);
        let response = [&proof[..], &temp].concat();

        let (session_key, encrypted, flags) = if self.key_exchange {
            let session_key = [0x55; 16];
            let mut encrypted = session_key;
            Rc4::new_from_slice(&base_key)
                .unwrap()
                .apply_keystream(&mut encrypted);
            (session_key, encrypted.to_vec(), FLAGS)
        } else {
            (base_key, Vec::new(), FLAGS & !KEY_EXCH)
        };
        let mut token = b"NTLMSSP\0\x03\0\0\0".to_vec();
        let mut payload: Vec<u8> = Vec::new();
        for field in [
            &[][..],
            &response,
            &utf16(&self.domain),
            &utf16(&self.user),
            &[],
            &encrypted,
        ] {
            token.extend((field.len() as u16).to_le_bytes());
            token.extend((field.len() as u16).to_le_bytes());
            token.extend((88 + payload.len() as u32).to_le_bytes());
            payload.extend(field);
        }
        token.extend(flags.to_le_bytes());
        token.extend([0; 8 + 16]); // version, MIC
        token.extend(payload);
        if self.mic {
            let mic = hmac_md5(&session_key, &[negotiate, challenge, &token]);
            token[72..88].copy_from_slice(&mic);
        }
        (token, session_key)
    }
}

fn hmac_md5(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Hmac<Md5> as KeyInit>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// How requests are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    Sign,
    Encrypt,
}

/// A connection that protects what is sent and checks what comes.
pub struct Protected<T> {
    pub inner: T,
    pub mode: Mode,
    pub keys: Option<Keys>,
    /// While there are no keys, of all that is said.
    preauth: PreauthHash,
    /// The latest reply before there were keys.
    unchecked: Vec<u8>,
}

pub struct Keys {
    pub signing: SigningKey,
    pub sealing: Option<(RefCell<Sealer>, Opener)>,
    pub session_id: u64,
}

impl<T> Protected<T> {
    pub fn new(inner: T) -> Protected<T> {
        Protected {
            inner,
            mode: Mode::Plain,
            keys: None,
            preauth: PreauthHash::default(),
            unchecked: Vec::new(),
        }
    }

    /// Protects a message as the mode says.
    pub fn protect(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        match (self.mode, &self.keys) {
            (Mode::Plain, _) | (_, None) => message,
            (Mode::Sign, Some(keys)) => {
                for element in elements(&message) {
                    let element = &mut message[element];
                    element[16] |= 8;
                    keys.signing.sign(element);
                }
                message
            }
            (Mode::Encrypt, Some(keys)) => {
                let mut sealed = [&[0; TRANSFORM_LEN][..], &message].concat();
                let (sealer, _) = keys.sealing.as_ref().expect("no encryption");
                sealer
                    .borrow_mut()
                    .seal(keys.session_id, &mut sealed)
                    .unwrap();
                sealed
            }
        }
    }

    /// Checks that a reply is protected as the mode says, and takes that off.
    #[track_caller]
    pub fn unprotect(&self, frame_bytes: &[u8]) -> Vec<u8> {
        let mut message = frame_bytes[4..].to_vec();
        match (self.mode, &self.keys) {
            (Mode::Plain, _) | (_, None) => frame_bytes.to_vec(),
            (Mode::Sign, Some(keys)) => {
                for element in elements(&message) {
                    let element = &mut message[element];
                    assert_ne!(element[16] & 8, 0, "the response isn't signed");
                    assert!(keys.signing.verify(element), "wrong signature");
                }
                frame_bytes.to_vec()
            }
            (Mode::Encrypt, Some(keys)) => {
                let (_, opener) = keys.sealing.as_ref().expect("no encryption");
                let opened = opener.open(&mut message).expect("the reply isn't sealed");
                frame(opened)
            }
        }
    }
}

/// Where the elements of a compound are.
fn elements(message: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut elements = Vec::new();
    let mut start = 0;
    loop {
        let at = start + 20;
        let next = u32::from_le_bytes(message[at..at + 4].try_into().unwrap()) as usize;
        if next == 0 {
            elements.push(start..message.len());
            return elements;
        }
        elements.push(start..start + next);
        start += next;
    }
}

impl<T: Transport> Transport for Protected<T> {
    type Error = T::Error;

    fn process(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, T::Error> {
        if self.keys.is_none() {
            self.preauth.update(message);
        }
        let message = self.protect(message);
        let reply = self.inner.process(&message)?;
        Ok(reply.map(|reply| {
            if self.keys.is_some() {
                return self.unprotect(&reply);
            }
            // The last response of a session setup doesn't count.
            let response = &responses(&reply)[0];
            if response.command != SESSION_SETUP || response.status != Status::SUCCESS {
                self.preauth.update(&reply[4..]);
            }
            self.unchecked.clone_from(&reply);
            reply
        }))
    }
}

/// What is offered in NEGOTIATE.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    pub dialect: Dialect,
    /// In 3.1.1; before, whether there are any.
    pub ciphers: &'a [CipherId],
    /// In 3.1.1.
    pub signing: &'a [Algorithm],
}

impl Offer<'_> {
    /// The best of a dialect.
    pub fn of(dialect: Dialect) -> Offer<'static> {
        Offer {
            dialect,
            ciphers: &[CipherId::Aes128Ccm, CipherId::Aes128Gcm],
            signing: &[Algorithm::AesCmac, Algorithm::AesGmac],
        }
    }

    pub fn negotiate(&self) -> Vec<u8> {
        let ciphers: Vec<u16> = self.ciphers.iter().map(|id| id.number()).collect();
        let signing: Vec<u16> = self.signing.iter().map(|id| id.number()).collect();
        negotiate_with(&[self.dialect.revision()], &ciphers, &signing)
    }
}

impl<T: Transport> Client<Protected<T>> {
    /// Sends NEGOTIATE and returns the response.
    #[track_caller]
    pub fn negotiate(&mut self, offer: &Offer<'_>) -> Response {
        self.expect(request(NEGOTIATE, offer.negotiate()), Status::SUCCESS)
    }

    /// The two legs of a logon. The response to the second has `status`; the session key is returned
    /// with it.
    #[track_caller]
    pub fn authenticate(
        &mut self,
        credentials: &Credentials,
        security_mode: u8,
        status: Status,
    ) -> (Response, [u8; 16]) {
        let first = ntlm_negotiate();
        let setup = |token: &[u8]| request(SESSION_SETUP, session_setup_with(token, security_mode));
        let challenge = self.expect(setup(&first), Status::MORE_PROCESSING_REQUIRED);
        self.session_id = challenge.session_id;
        let (token, key) = credentials.authenticate(&first, security_buffer(&challenge));
        // The response may be the first that is signed.
        let response = self.expect(setup(&token), status);
        (response, key)
    }

    /// Negotiates, logs on, and makes the keys. Everything is signed from now on.
    #[track_caller]
    pub fn log_on_as(&mut self, offer: &Offer<'_>, credentials: &Credentials) -> Response {
        let negotiated = self.negotiate(offer);
        let (response, key) = self.authenticate(credentials, 1, Status::SUCCESS);
        let chosen = chosen(&negotiated, offer.dialect);
        self.make_keys(offer.dialect, chosen, &key);
        let last = self.connection.unchecked.clone();
        self.connection.unprotect(&last);
        response
    }

    /// Makes the keys of the session.
    pub fn make_keys(
        &mut self,
        dialect: Dialect,
        (algorithm, cipher): (Algorithm, Option<CipherId>),
        key: &[u8; 16],
    ) {
        let preauth = &self.connection.preauth;
        let signing = match dialect {
            Dialect::Smb202 | Dialect::Smb210 => *key,
            _ => derive(key, dialect, Purpose::Signing, preauth),
        };
        let sealing = cipher.map(|cipher| {
            let derive = |purpose| {
                if cipher.is_256() {
                    return derive::<32>(key, dialect, purpose, preauth);
                }
                let mut long = [0; 32];
                long[..16].copy_from_slice(&derive::<16>(key, dialect, purpose, preauth));
                long
            };
            let sealer = Sealer::new(cipher, &derive(Purpose::ClientToServer));
            let opener = Opener::new(cipher, &derive(Purpose::ServerToClient));
            (RefCell::new(sealer), opener)
        });
        self.connection.keys = Some(Keys {
            signing: SigningKey::new(algorithm, &signing),
            sealing,
            session_id: self.session_id,
        });
        self.connection.mode = Mode::Sign;
    }

    #[track_caller]
    pub fn connect_tree(&mut self, share: &str, status: Status) -> Response {
        let tree = request(TREE_CONNECT, tree_connect(&format!(r"\\server\{share}")));
        let response = self.expect(tree, status);
        if status == Status::SUCCESS {
            self.tree_id = response.tree_id;
        }
        response
    }
}

/// The signing algorithm and the cipher that a NEGOTIATE response chooses.
#[track_caller]
pub fn chosen(negotiated: &Response, dialect: Dialect) -> (Algorithm, Option<CipherId>) {
    let ccm = (negotiated.u32(24) & 0x40 != 0).then_some(CipherId::Aes128Ccm);
    match dialect {
        Dialect::Smb202 | Dialect::Smb210 => (Algorithm::HmacSha256, None),
        Dialect::Smb300 | Dialect::Smb302 => (Algorithm::AesCmac, ccm),
        Dialect::Smb311 => {
            let mut chosen = (Algorithm::AesCmac, None);
            for (kind, data) in contexts(negotiated) {
                let id = data
                    .get(2..4)
                    .map_or(0, |id| u16::from_le_bytes([id[0], id[1]]));
                match kind {
                    2 => {
                        chosen.1 = CipherId::PREFERENCE
                            .into_iter()
                            .find(|cipher| cipher.number() == id);
                    }
                    8 => {
                        chosen.0 = Algorithm::PREFERENCE
                            .into_iter()
                            .find(|algorithm| algorithm.number() == id)
                            .expect("no such algorithm");
                    }
                    _ => {}
                }
            }
            chosen
        }
    }
}

/// The negotiate contexts of a response.
#[track_caller]
pub fn contexts(negotiated: &Response) -> Vec<(u16, Vec<u8>)> {
    let body = &negotiated.body;
    let u16_at = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
    let mut at = negotiated.u32(60) as usize - 64;
    let mut contexts = Vec::new();
    for _ in 0..u16_at(6) {
        assert_eq!(at % 8, 0, "contexts are aligned");
        let length = u16_at(at + 2) as usize;
        contexts.push((u16_at(at), body[at + 8..at + 8 + length].to_vec()));
        at = (at + 8 + length).next_multiple_of(8);
    }
    contexts
}
