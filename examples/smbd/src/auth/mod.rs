//! Who a client is: SPNEGO around NTLMSSP, or NTLMSSP bare.
//!
//! An [`Acceptor`] is fed the tokens of successive SESSION_SETUP requests and
//! ends in a [`Logon`]. It keeps no user data base: who gives no name is
//! anonymous, everybody else is a guest whatever the password, and no session
//! key arises, because a guest's password is not known on this side. A logon
//! that does verify passwords differs in [`ntlmssp::Authenticate`] alone: it
//! compares the NT proof and adds the session key to the [`Logon`].

pub mod der;
pub mod ntlmssp;
pub mod spnego;

use crate::wire::Malformed;
use crate::wire::status::Status;

/// Who a session belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Gave no user name.
    Anonymous,
    /// Gave this user name, which nobody has verified.
    Guest(String),
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Anonymous => f.write_str("anonymous"),
            // Quoted: the name is the client's choice and goes into logs.
            Identity::Guest(user) => write!(f, "guest {user:?}"),
        }
    }
}

/// A finished authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logon {
    /// Who it is.
    pub identity: Identity,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// No token of a known kind, or a broken one.
    Malformed,
    /// SPNEGO without NTLMSSP among its mechanisms.
    NoCommonMechanism,
    /// A good token at the wrong time.
    OutOfSequence,
}

impl AuthError {
    /// The status that says so.
    pub fn status(self) -> Status {
        match self {
            AuthError::Malformed | AuthError::OutOfSequence => Status::INVALID_PARAMETER,
            AuthError::NoCommonMechanism => Status::LOGON_FAILURE,
        }
    }
}

impl std::fmt::Display for AuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AuthError::Malformed => "malformed authentication token",
            AuthError::NoCommonMechanism => "client offers no mechanism but others than NTLMSSP",
            AuthError::OutOfSequence => "authentication token out of sequence",
        })
    }
}

impl std::error::Error for AuthError {}

impl From<Malformed> for AuthError {
    fn from(_: Malformed) -> Self {
        AuthError::Malformed
    }
}

/// How far an authentication has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing received.
    Start,
    /// SPNEGO has settled on NTLMSSP, whose NEGOTIATE is still to come.
    MechanismChosen,
    /// The CHALLENGE is out.
    Challenged,
}

/// The server's side of one authentication.
#[derive(Debug)]
pub struct Acceptor {
    stage: Stage,
    /// Whether the client speaks SPNEGO; decided by its first token.
    spnego: bool,
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
        }
    }

    /// Takes the client's next token. `server_name` is what the client is
    /// told to be talking to; `challenge` has to be fresh random bytes.
    ///
    /// # Errors
    ///
    /// See [`AuthError`]; the authentication has failed and is over.
    pub fn step(
        &mut self,
        token: &[u8],
        server_name: &str,
        challenge: [u8; 8],
    ) -> Result<Step, AuthError> {
        if self.stage == Stage::Start {
            self.spnego = !token.starts_with(ntlmssp::SIGNATURE);
        }
        if !self.spnego {
            return self.ntlm(token, server_name, challenge);
        }
        let mech_token = match (self.stage, spnego::parse(token)?) {
            (Stage::Start, spnego::Token::Init(init)) => {
                if !init.offers_ntlmssp {
                    return Err(AuthError::NoCommonMechanism);
                }
                // The optimistic token belongs to the client's first choice.
                match init.mech_token.filter(|_| init.prefers_ntlmssp) {
                    Some(mech_token) => mech_token,
                    None => {
                        self.stage = Stage::MechanismChosen;
                        return Ok(Step::Continue(spnego::incomplete(&[])));
                    }
                }
            }
            (Stage::Start, spnego::Token::Response(_)) | (_, spnego::Token::Init(_)) => {
                return Err(AuthError::OutOfSequence);
            }
            (_, spnego::Token::Response(mech_token)) => mech_token.ok_or(AuthError::Malformed)?,
        };
        Ok(match self.ntlm(mech_token, server_name, challenge)? {
            Step::Continue(token) => Step::Continue(spnego::incomplete(&token)),
            Step::Done(_, logon) => Step::Done(spnego::completed(), logon),
        })
    }

    fn ntlm(
        &mut self,
        token: &[u8],
        server_name: &str,
        challenge: [u8; 8],
    ) -> Result<Step, AuthError> {
        match (self.stage, ntlmssp::parse(token)?) {
            (Stage::Start | Stage::MechanismChosen, ntlmssp::Message::Negotiate(flags)) => {
                self.stage = Stage::Challenged;
                Ok(Step::Continue(ntlmssp::challenge(
                    flags,
                    server_name,
                    challenge,
                )))
            }
            (Stage::Challenged, ntlmssp::Message::Authenticate(authenticate)) => {
                let identity = if authenticate.is_anonymous() {
                    Identity::Anonymous
                } else {
                    Identity::Guest(authenticate.user)
                };
                Ok(Step::Done(Vec::new(), Logon { identity }))
            }
            _ => Err(AuthError::OutOfSequence),
        }
    }
}
