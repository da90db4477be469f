//! Which sessions there are, whichever process they are in.
//!
//! Two things ask for that: a client that has lost its connection names the session of the old one,
//! which is to end; and one that uses a session on another connection than its own has to be told,
//! signed with that session's key, that this doesn't go.
//!
//! A key is handed out only to a process that shows a message signed with it, so a process that was
//! taken over learns none this way that it doesn't know.

use std::collections::{BTreeMap, HashMap};

use super::message::{MAX_NAME, Notice, Ticket};
use super::table::{ClientId, Effects, Misbehaviour, Timed};
use crate::crypto::signing::{Algorithm, SigningKey};
use crate::wire::header::{Command, HEADER_LEN, Header};
use crate::wire::session::{REQUEST_FLAG_BINDING, SessionSetup};
use crate::wire::{Malformed, Put, Reader};

/// The most sessions of a client.
const MAX_SESSIONS: usize = 1024;
/// The most messages of other connections that are answered with a session's key by GMAC.
const MAX_ANSWERED: usize = 256;
/// The longest message whose signature is looked at.
pub(super) const MAX_SIGNED: usize = 32 * 1024;

/// How the messages of a session are signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Its key.
    pub key: [u8; 16],
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signing({:?})", self.algorithm)
    }
}

/// What a process asks or tells of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionAsk {
    /// Somebody has logged on.
    Begun {
        /// The session.
        session: u64,
        /// Guests have none.
        signing: Option<Signing>,
        /// Who it is.
        identity: String,
    },
    /// A logon has failed that may have been a guess.
    Refused,
    /// A session has ended.
    Ended {
        /// The session.
        session: u64,
    },
    /// A session that was lost is to end, if it is of the same user. Answered by `Done`, when that
    /// has been done or there is no such session.
    Replace {
        /// To be answered under.
        ticket: Ticket,
        /// The session that was lost.
        session: u64,
        /// Who asks.
        identity: String,
    },
    /// Somebody uses a session on another connection. Answered by `Signing`, or `Done` if the
    /// message is not signed with a key of it.
    Elsewhere {
        /// To be answered under.
        ticket: Ticket,
        /// The session.
        session: u64,
        /// How messages are signed on that connection.
        algorithm: Algorithm,
        /// The message.
        message: Vec<u8>,
    },
}

/// What the parent answers or tells of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionNotice {
    /// The message is signed with this session's key.
    Signing {
        /// What was asked under it.
        ticket: Ticket,
        /// How the session's messages are signed.
        signing: Signing,
        /// The algorithm of the message.
        message: Algorithm,
    },
    /// A session is to end: its user has another one. `Ended` is expected.
    End {
        /// The session.
        session: u64,
    },
}

fn algorithm(r: &mut Reader<'_>) -> Result<Algorithm, Malformed> {
    let number = r.u8()?;
    Algorithm::PREFERENCE
        .into_iter()
        .find(|algorithm| algorithm.number() == number.into())
        .ok_or(Malformed)
}

fn put_algorithm(out: &mut Vec<u8>, algorithm: Algorithm) {
    out.put_u8(algorithm.number() as u8);
}

fn identity(r: &mut Reader<'_>) -> Result<String, Malformed> {
    let name = r.bytes(r.rest().len())?;
    if name.len() > MAX_NAME {
        return Err(Malformed);
    }
    String::from_utf8(name.to_vec()).map_err(|_| Malformed)
}

impl SessionAsk {
    /// Appends the fields.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            SessionAsk::Begun {
                session,
                signing,
                identity,
            } => {
                out.put_u8(1);
                out.put_u64(*session);
                match signing {
                    None => out.put_u8(0),
                    Some(signing) => {
                        out.put_u8(1);
                        put_algorithm(out, signing.algorithm);
                        out.put_bytes(&signing.key);
                    }
                }
                out.put_bytes(identity.as_bytes());
            }
            SessionAsk::Ended { session } => {
                out.put_u8(2);
                out.put_u64(*session);
            }
            SessionAsk::Refused => out.put_u8(5),
            SessionAsk::Replace {
                ticket,
                session,
                identity,
            } => {
                out.put_u8(3);
                out.put_u64(*ticket);
                out.put_u64(*session);
                out.put_bytes(identity.as_bytes());
            }
            SessionAsk::Elsewhere {
                ticket,
                session,
                algorithm,
                message,
            } => {
                out.put_u8(4);
                out.put_u64(*ticket);
                out.put_u64(*session);
                put_algorithm(out, *algorithm);
                out.put_bytes(message);
            }
        }
    }

    /// Parses the fields.
    pub(super) fn parse(r: &mut Reader<'_>) -> Result<SessionAsk, Malformed> {
        Ok(match r.u8()? {
            1 => SessionAsk::Begun {
                session: r.u64()?,
                signing: match r.u8()? {
                    0 => None,
                    1 => Some(Signing {
                        algorithm: algorithm(r)?,
                        key: r.array()?,
                    }),
                    _ => return Err(Malformed),
                },
                identity: identity(r)?,
            },
            2 => SessionAsk::Ended { session: r.u64()? },
            5 => SessionAsk::Refused,
            3 => SessionAsk::Replace {
                ticket: r.u64()?,
                session: r.u64()?,
                identity: identity(r)?,
            },
            4 => SessionAsk::Elsewhere {
                ticket: r.u64()?,
                session: r.u64()?,
                algorithm: algorithm(r)?,
                message: {
                    let message = r.bytes(r.rest().len())?;
                    if !(HEADER_LEN..=MAX_SIGNED).contains(&message.len()) {
                        return Err(Malformed);
                    }
                    message.to_vec()
                },
            },
            _ => return Err(Malformed),
        })
    }
}

impl SessionNotice {
    /// Appends the fields.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            SessionNotice::Signing {
                ticket,
                signing,
                message,
            } => {
                out.put_u8(1);
                out.put_u64(*ticket);
                put_algorithm(out, signing.algorithm);
                out.put_bytes(&signing.key);
                put_algorithm(out, *message);
            }
            SessionNotice::End { session } => {
                out.put_u8(2);
                out.put_u64(*session);
            }
        }
    }

    /// Parses the fields.
    pub(super) fn parse(r: &mut Reader<'_>) -> Result<SessionNotice, Malformed> {
        Ok(match r.u8()? {
            1 => SessionNotice::Signing {
                ticket: r.u64()?,
                signing: Signing {
                    algorithm: algorithm(r)?,
                    key: r.array()?,
                },
                message: algorithm(r)?,
            },
            2 => SessionNotice::End { session: r.u64()? },
            _ => return Err(Malformed),
        })
    }
}

#[derive(Debug)]
struct Session {
    client: ClientId,
    signing: Option<Signing>,
    identity: String,
    /// Who waits for its end.
    waiting: Vec<(ClientId, Ticket)>,
    /// The ids of messages of other connections that were answered by GMAC, and whose they were.
    answered: BTreeMap<u64, ClientId>,
}

impl Session {
    /// Whether an answer to a message of another connection may be signed with the session's key.
    ///
    /// GMAC's nonce is the message id, of which each connection has its own, and from two signatures
    /// with one nonce others can be made. So there is one for each id, and only for who has tried to bind
    /// the connection to the session: no client does that but to see what becomes of it, since the server
    /// has said that it can't be done, and what has been overheard on the session's own connection
    /// doesn't say it.
    fn may_answer(&mut self, client: ClientId, algorithm: Algorithm, message: &[u8]) -> bool {
        if algorithm != Algorithm::AesGmac {
            return true;
        }
        let (Ok(header), Ok(setup)) = (Header::parse(message), SessionSetup::parse(message)) else {
            return false;
        };
        let binds = setup.flags & REQUEST_FLAG_BINDING != 0;
        let may = Command::from_code(header.command) == Some(Command::SessionSetup)
            && (binds || self.answered.values().any(|&other| other == client))
            && self.answered.len() < MAX_ANSWERED
            && !self.answered.contains_key(&header.message_id);
        if may {
            self.answered.insert(header.message_id, client);
        }
        may
    }
}

/// The parent's list of sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions(HashMap<u64, Session>);

impl Sessions {
    /// A client's process asks or tells.
    pub(super) fn handle(
        &mut self,
        client: ClientId,
        ask: SessionAsk,
        effects: &mut Effects,
    ) -> Result<(), Misbehaviour> {
        match ask {
            SessionAsk::Begun {
                session,
                signing,
                identity,
            } => {
                match self.0.get_mut(&session) {
                    // A renewal.
                    Some(known) if known.client == client => known.identity = identity,
                    // The ids of two processes can be the same; others know the first then.
                    Some(_) => {}
                    None => {
                        let own = self.0.values().filter(|other| other.client == client);
                        if own.count() >= MAX_SESSIONS {
                            return Err(Misbehaviour("too many sessions"));
                        }
                        let session_entry = Session {
                            client,
                            signing,
                            identity,
                            waiting: Vec::new(),
                            answered: BTreeMap::new(),
                        };
                        self.0.insert(session, session_entry);
                    }
                }
                Ok(())
            }
            // The program's matter.
            SessionAsk::Refused => Ok(()),
            SessionAsk::Ended { session } => {
                let known = self.0.get(&session);
                if known.is_some_and(|known| known.client == client) {
                    self.end(session, effects);
                }
                Ok(())
            }
            SessionAsk::Replace {
                ticket,
                session,
                identity,
            } => {
                match self.0.get_mut(&session) {
                    Some(known) if known.client != client && known.identity == identity => {
                        if known.waiting.is_empty() {
                            let notice = Notice::Session(SessionNotice::End { session });
                            effects.tell(known.client, notice);
                            effects.start_timer(known.client, Timed::EndSession { session });
                        }
                        known.waiting.push((client, ticket));
                    }
                    _ => effects.tell(client, Notice::Done { ticket }),
                }
                Ok(())
            }
            SessionAsk::Elsewhere {
                ticket,
                session,
                algorithm,
                message,
            } => {
                let known = self.0.get_mut(&session);
                let signing = known.as_ref().and_then(|known| known.signing);
                // The client may have either in mind.
                let matching = signing.and_then(|signing| {
                    [algorithm, signing.algorithm]
                        .into_iter()
                        .find(|&algorithm| {
                            SigningKey::new(algorithm, &signing.key).verify(&mut message.clone())
                        })
                        .filter(|&algorithm| {
                            known.is_some_and(|known| known.may_answer(client, algorithm, &message))
                        })
                        .map(|message| SessionNotice::Signing {
                            ticket,
                            signing,
                            message,
                        })
                });
                effects.tell(
                    client,
                    matching.map_or(Notice::Done { ticket }, Notice::Session),
                );
                Ok(())
            }
        }
    }

    fn end(&mut self, session: u64, effects: &mut Effects) {
        if let Some(known) = self.0.remove(&session) {
            effects.stop_timer(known.client, Timed::EndSession { session });
            for (client, ticket) in known.waiting {
                effects.tell(client, Notice::Done { ticket });
            }
        }
    }

    /// A client is gone.
    pub(super) fn remove_client(&mut self, client: ClientId, effects: &mut Effects) {
        let own = self.0.iter().filter(|(_, known)| known.client == client);
        let own: Vec<u64> = own.map(|(&session, _)| session).collect();
        for session in own {
            self.end(session, effects);
        }
        for known in self.0.values_mut() {
            known.waiting.retain(|&(other, _)| other != client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signings() -> impl Strategy<Value = Signing> {
        (
            prop::sample::select(&Algorithm::PREFERENCE[..]),
            any::<[u8; 16]>(),
        )
            .prop_map(|(algorithm, key)| Signing { algorithm, key })
    }

    fn asks() -> impl Strategy<Value = SessionAsk> {
        prop_oneof![
            (any::<u64>(), prop::option::of(signings()), ".{0,50}").prop_map(
                |(session, signing, identity)| SessionAsk::Begun {
                    session,
                    signing,
                    identity,
                }
            ),
            any::<u64>().prop_map(|session| SessionAsk::Ended { session }),
            Just(SessionAsk::Refused),
            (any::<(u64, u64)>(), ".{0,50}").prop_map(|((ticket, session), identity)| {
                SessionAsk::Replace {
                    ticket,
                    session,
                    identity,
                }
            }),
            (
                any::<(u64, u64)>(),
                signings(),
                prop::collection::vec(any::<u8>(), 64..200)
            )
                .prop_map(|((ticket, session), signing, message)| {
                    SessionAsk::Elsewhere {
                        ticket,
                        session,
                        algorithm: signing.algorithm,
                        message,
                    }
                }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_asked_arrives(ask in asks()) {
            let mut bytes = Vec::new();
            ask.put(&mut bytes);
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(SessionAsk::parse(&mut r), Ok(ask));
            prop_assert!(r.rest().is_empty());
        }

        #[test]
        fn what_is_answered_arrives(
            numbers in any::<(u64, bool)>(),
            signing in signings(),
            message in signings(),
        ) {
            let (ticket, ends) = numbers;
            let notice = match ends {
                true => SessionNotice::End { session: ticket },
                false => SessionNotice::Signing { ticket, signing, message: message.algorithm },
            };
            let mut bytes = Vec::new();
            notice.put(&mut bytes);
            prop_assert_eq!(SessionNotice::parse(&mut Reader::new(&bytes)), Ok(notice));
        }

        #[test]
        fn no_bytes_are_trusted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SessionAsk::parse(&mut Reader::new(&bytes));
            let _ = SessionNotice::parse(&mut Reader::new(&bytes));
        }
    }
}
