//! Who a client is: SPNEGO around NTLMSSP, or NTLMSSP bare.
//!
//! An [`Acceptor`] is fed the tokens of successive SESSION_SETUP requests and ends in a [`Logon`].
//! Only NTLMv2 is accepted. The proof of the password is always checked, the MIC over the three
//! messages whenever the proof covers the word that there is one, and the MIC over the list of
//! mechanisms whenever the client sends one.
//!
//! Guests are those whose name the server doesn't know, if it is to let them in at all: a wrong
//! password never makes a guest. Nobody has verified who they are, and no key is known to both sides.

pub mod der;
pub mod ntlmssp;
pub mod ntlmv2;
pub mod spnego;
pub mod users;

use crate::wire::Malformed;
use crate::wire::status::Status;
use ntlmssp::{Authenticate, flags};
use ntlmv2::{NtHash, Side};
use users::Users;

/// How [`Identity::Anonymous`] is told. No other identity is told so.
pub const ANONYMOUS: &str = "anonymous";

/// Who a session belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Gave no user name.
    Anonymous,
    /// Gave this user name, which nobody has verified.
    Guest(String),
    /// Has proved to be this user; the name is spelled as the server's list has it.
    User(String),
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Anonymous => f.write_str(ANONYMOUS),
            // Quoted: the name is the client's choice and goes into logs.
            Identity::Guest(user) => write!(f, "guest {user:?}"),
            Identity::User(user) => write!(f, "user {user:?}"),
        }
    }
}

/// A finished authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct Logon {
    /// Who it is.
    pub identity: Identity,
    /// The exported session key; a user has one, nobody else.
    pub session_key: Option<[u8; 16]>,
}

impl std::fmt::Debug for Logon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logon")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What an accepted token leads to.
#[derive(Debug)]
pub enum Step {
    /// The client has to answer this token.
    Continue(Vec<u8>),
    /// Finished; the token goes out with the final response.
    Done(Vec<u8>, Logon),
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    /// No token of a known kind, or a broken one.
    Malformed,
    /// SPNEGO without NTLMSSP among its mechanisms.
    NoCommonMechanism,
    /// A good token at the wrong time.
    OutOfSequence,
    /// The user, named so by the client, is not known, and guests are not let in.
    UnknownUser(String),
    /// There is no proof of the password.
    NoPassword(String),
    /// The proof of the password is wrong.
    WrongPassword(String),
    /// The response is not NTLMv2's.
    NotNtlmv2(String),
    /// A MIC is wrong: somebody in between has changed the negotiation.
    Tampered(String),
}

impl AuthError {
    /// The status that says so, and to the client no more than it has to know.
    pub fn status(&self) -> Status {
        match self {
            AuthError::Malformed | AuthError::OutOfSequence => Status::INVALID_PARAMETER,
            AuthError::Tampered(_) => Status::ACCESS_DENIED,
            AuthError::NoCommonMechanism
            | AuthError::UnknownUser(_)
            | AuthError::NoPassword(_)
            | AuthError::WrongPassword(_)
            | AuthError::NotNtlmv2(_) => Status::LOGON_FAILURE,
        }
    }
}

impl AuthError {
    /// Whether it may be one of many attempts to guess a password.
    pub fn is_guess(&self) -> bool {
        matches!(
            self,
            AuthError::UnknownUser(_) | AuthError::WrongPassword(_) | AuthError::NotNtlmv2(_)
        )
    }
}

impl std::fmt::Display for AuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuthError::Malformed => f.write_str("malformed authentication token"),
            AuthError::NoCommonMechanism => {
                f.write_str("client offers no mechanism but others than NTLMSSP")
            }
            AuthError::OutOfSequence => f.write_str("authentication token out of sequence"),
            // Quoted: the name is the client's choice and goes into logs.
            AuthError::UnknownUser(user) => write!(f, "no user {user:?}"),
            AuthError::NoPassword(user) => write!(f, "no password for user {user:?}"),
            AuthError::WrongPassword(user) => write!(f, "wrong password for user {user:?}"),
            AuthError::NotNtlmv2(user) => {
                write!(
                    f,
                    "user {user:?} offers no NTLMv2 response, but an older one"
                )
            }
            AuthError::Tampered(user) => {
                write!(
                    f,
                    "the authentication of user {user:?} was changed on its way"
                )
            }
        }
    }
}

impl std::error::Error for AuthError {}

impl From<Malformed> for AuthError {
    fn from(_: Malformed) -> Self {
        AuthError::Malformed
    }
}

/// What clients authenticate against.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// What the client is told to be talking to.
    pub name: &'a str,
    /// Who has a password.
    pub users: &'a Users,
    /// Whether others are let in as guests.
    pub guests: bool,
}

/// How far an authentication has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing received.
    Start,
    /// SPNEGO has settled on NTLMSSP, whose NEGOTIATE is still to come.
    MechanismChosen,
    /// The CHALLENGE is out.
    Challenged(Challenged),
}

/// What the last step needs of those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenged {
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    server_challenge: [u8; 8],
}

/// The server's side of one authentication.
#[derive(Debug)]
pub struct Acceptor {
    stage: Stage,
    /// Whether the client speaks SPNEGO; decided by its first token.
    spnego: bool,
    /// The mechanisms it has offered, as they were encoded.
    mech_list: Vec<u8>,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self::new()
    }
}

impl Acceptor {
    /// Ready for a client's first token.
    pub fn new() -> Self {
        Acceptor {
            stage: Stage::Start,
            spnego: false,
            mech_list: Vec::new(),
        }
    }

    /// Takes the client's next token. `challenge` has to be fresh random bytes.
    ///
    /// # Errors
    ///
    /// See [`AuthError`]; the authentication has failed and is over.
    pub fn step(
        &mut self,
        token: &[u8],
        server: Server<'_>,
        challenge: [u8; 8],
    ) -> Result<Step, AuthError> {
        if self.stage == Stage::Start {
            self.spnego = !token.starts_with(ntlmssp::SIGNATURE);
        }
        if !self.spnego {
            return match self.ntlm(token, server, challenge)? {
                Ntlm::Challenge(token) => Ok(Step::Continue(token)),
                Ntlm::Done(logon, _) => Ok(Step::Done(Vec::new(), logon)),
            };
        }
        let (mech_token, mech_list_mic) = match (&self.stage, spnego::parse(token)?) {
            (Stage::Start, spnego::Token::Init(init)) => {
                if !init.offers_ntlmssp {
                    return Err(AuthError::NoCommonMechanism);
                }
                self.mech_list = init.mech_list.to_vec();
                // The optimistic token belongs to the client's first choice.
                match init.mech_token.filter(|_| init.prefers_ntlmssp) {
                    Some(mech_token) => (mech_token, None),
                    None => {
                        self.stage = Stage::MechanismChosen;
                        return Ok(Step::Continue(spnego::incomplete(&[])));
                    }
                }
            }
            (Stage::Start, spnego::Token::Response(_)) | (_, spnego::Token::Init(_)) => {
                return Err(AuthError::OutOfSequence);
            }
            (_, spnego::Token::Response(response)) => (
                response.mech_token.ok_or(AuthError::Malformed)?,
                response.mech_list_mic,
            ),
        };
        match self.ntlm(mech_token, server, challenge)? {
            Ntlm::Challenge(token) => Ok(Step::Continue(spnego::incomplete(&token))),
            Ntlm::Done(logon, negotiated) => {
                let mic = self.mech_list_mic(&logon, negotiated, mech_list_mic)?;
                let token = spnego::completed(mic.as_ref().map(|mic| &mic[..]));
                Ok(Step::Done(token, logon))
            }
        }
    }

    /// Checks the client's MIC over the list of mechanisms, if there are one and a key, and makes the
    /// server's.
    fn mech_list_mic(
        &self,
        logon: &Logon,
        negotiated: u32,
        claimed: Option<&[u8]>,
    ) -> Result<Option<[u8; 16]>, AuthError> {
        let (Identity::User(user), Some(key), Some(claimed)) =
            (&logon.identity, &logon.session_key, claimed)
        else {
            return Ok(None);
        };
        // Without it the signature is another, a mere checksum.
        let is_extended = negotiated & flags::EXTENDED_SESSIONSECURITY != 0;
        if !is_extended || !ntlmv2::check_signature(key, negotiated, &self.mech_list, claimed) {
            return Err(AuthError::Tampered(user.clone()));
        }
        let mic = ntlmv2::signature(key, negotiated, Side::Server, &self.mech_list);
        Ok(Some(mic))
    }

    fn ntlm(
        &mut self,
        token: &[u8],
        server: Server<'_>,
        server_challenge: [u8; 8],
    ) -> Result<Ntlm, AuthError> {
        match (&self.stage, ntlmssp::parse(token)?) {
            (Stage::Start | Stage::MechanismChosen, ntlmssp::Message::Negotiate(flags)) => {
                let challenge = ntlmssp::challenge(flags, server.name, server_challenge);
                self.stage = Stage::Challenged(Challenged {
                    negotiate: token.to_vec(),
                    challenge: challenge.clone(),
                    server_challenge,
                });
                Ok(Ntlm::Challenge(challenge))
            }
            (Stage::Challenged(challenged), ntlmssp::Message::Authenticate(authenticate)) => {
                let logon = challenged.check(token, &authenticate, server)?;
                Ok(Ntlm::Done(logon, authenticate.flags))
            }
            _ => Err(AuthError::OutOfSequence),
        }
    }
}

/// What an NTLMSSP message leads to.
enum Ntlm {
    /// This one.
    Challenge(Vec<u8>),
    /// The end, with these flags.
    Done(Logon, u32),
}

impl Challenged {
    /// Checks an AUTHENTICATE_MESSAGE.
    fn check(
        &self,
        token: &[u8],
        authenticate: &Authenticate<'_>,
        server: Server<'_>,
    ) -> Result<Logon, AuthError> {
        if authenticate.is_anonymous() {
            return Ok(Logon {
                identity: Identity::Anonymous,
                session_key: None,
            });
        }
        let name = || authenticate.user.clone();
        let user = server.users.find(&authenticate.user);
        if user.is_none() && server.guests {
            return Ok(Logon {
                identity: Identity::Guest(name()),
                session_key: None,
            });
        }
        // Samba's client sends a zero.
        if authenticate.nt_response.len() <= 1 {
            return Err(AuthError::NoPassword(name()));
        }
        // NTLM's first version ([MS-NLMP] 2.2.2.6).
        const NTLMV1_LEN: usize = 24;
        if authenticate.nt_response.len() == NTLMV1_LEN {
            return Err(AuthError::NotNtlmv2(name()));
        }
        let response = authenticate.ntlmv2()?;
        // An unknown user takes as long as a known one.
        let nobody = NtHash::from_bytes([0; 16]);
        let hash = user.map_or(&nobody, |user| &user.hash);
        let base_key = ntlmv2::check_proof(
            hash,
            &authenticate.user,
            &authenticate.domain,
            &self.server_challenge,
            authenticate.nt_response,
        );
        let user = user.ok_or_else(|| AuthError::UnknownUser(name()))?;
        let base_key = base_key.ok_or_else(|| AuthError::WrongPassword(name()))?;
        let encrypted = if authenticate.flags & flags::KEY_EXCH != 0 {
            let key = authenticate.encrypted_key.try_into();
            Some(key.map_err(|_| AuthError::Malformed)?)
        } else {
            None
        };
        let session_key = ntlmv2::exported_session_key(base_key, encrypted);
        if response.has_mic {
            let (without, mic) = ntlmssp::take_mic(token)?;
            let messages = [&self.negotiate[..], &self.challenge, &without];
            if !ntlmv2::check_mic(&session_key, messages, &mic) {
                return Err(AuthError::Tampered(name()));
            }
        }
        Ok(Logon {
            identity: Identity::User(user.name.clone()),
            session_key: Some(session_key),
        })
    }
}
