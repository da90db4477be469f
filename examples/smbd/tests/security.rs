//! Signing, encryption and who may do what, on a connection without a socket.

mod common;

use std::sync::Arc;

use common::client::*;
use common::hub::Hub;
use common::logon::{Credentials, Mode, Offer, Protected, contexts};
use common::{TempDir, noise, share};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::config::{Access, Config, Security, ShareRules};
use smbd::crypto::sealing::CipherId;
use smbd::crypto::signing::Algorithm;
use smbd::server::ProtocolError;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;
use smbd::wire::transform::TRANSFORM_LEN;

const DIALECTS: [Dialect; 5] = [
    Dialect::Smb202,
    Dialect::Smb210,
    Dialect::Smb300,
    Dialect::Smb302,
    Dialect::Smb311,
];
const SIGNING_REQUIRED: u8 = 2;
const VALIDATE: u32 = 0x0014_0204;

fn users() -> Users {
    let mut users = Users::new();
    for (name, password) in [("Alice", "pässwörd"), ("bob", "secret")] {
        users.set(name, NtHash::of_password(password)).unwrap();
    }
    users
}

fn alice() -> Credentials {
    Credentials::new("alice", "pässwörd")
}

fn bob() -> Credentials {
    Credentials::new("bob", "secret")
}

struct Setup {
    _dir: TempDir,
    config: Arc<Config>,
}

type Alice = Client<Protected<Direct>>;

impl Setup {
    /// No guests, and the shares `data` and `secret`, the latter to be encrypted.
    fn new() -> Setup {
        Setup::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Security)) -> Setup {
        let dir = TempDir::new();
        dir.write("file", &noise(100_000));
        let rules = |change: fn(&mut ShareRules)| {
            let mut rules = ShareRules::default();
            change(&mut rules);
            rules
        };
        let shares = [
            ("data", rules(|_| ())),
            ("secret", rules(|rules| rules.encrypt = true)),
            ("fixed", rules(|rules| rules.read_only = true)),
            (
                "bobs",
                rules(|rules| rules.users = Some(vec!["BOB".to_owned()])),
            ),
            (
                "open",
                rules(|rules| rules.guest = Some(Some(Access::ReadOnly))),
            ),
            ("closed", rules(|rules| rules.guest = Some(None))),
        ];
        let shares = shares
            .into_iter()
            .map(|(name, rules)| share(name, dir.path(), rules))
            .collect();
        let mut security = Security {
            users: users(),
            guest: None,
            ..Security::default()
        };
        change(&mut security);
        let config = Config::new("testserver", shares).unwrap();
        Setup {
            _dir: dir,
            config: Arc::new(config.with_security(security)),
        }
    }

    fn client(&self) -> Alice {
        Client::over(Protected::new(Direct::new(&self.config)))
    }

    #[track_caller]
    fn logged_on(&self, offer: &Offer<'_>, credentials: &Credentials) -> Alice {
        let mut client = self.client();
        client.log_on_as(offer, credentials);
        client
    }
}

#[track_caller]
fn reads(client: &mut Alice) {
    let file = client.open("file");
    let response = client.expect(request(READ, read(file, 0, 65536, 0)), Status::SUCCESS);
    assert_eq!(response.body[16..], noise(100_000)[..65536]);
    client.expect(request(CLOSE, close(file, 0)), Status::SUCCESS);
}

#[track_caller]
fn echo(client: &mut Alice, status: Status) -> Response {
    client.expect(request(ECHO, empty()), status)
}

#[test]
fn every_dialect_signs() {
    let setup = Setup::new();
    for dialect in DIALECTS {
        let mut client = setup.logged_on(&Offer::of(dialect), &alice());
        client.connect_tree("data", Status::SUCCESS);
        reads(&mut client);
        // The responses of a compound are signed one by one, with their padding.
        let create = create("file", READ_ACCESS, 1, 0);
        let responses = client
            .send(&[
                request(CREATE, create),
                request(READ, read(RELATED_FILE, 0, 13, 0)).related(),
                request(CLOSE, close(RELATED_FILE, 0)).related(),
            ])
            .unwrap();
        assert!(responses.iter().all(|r| r.status == Status::SUCCESS));
        client.expect(request(LOGOFF, empty()), Status::SUCCESS);
    }
}

#[test]
fn every_algorithm_of_3_1_1_is_spoken() {
    let setup = Setup::new();
    for algorithm in Algorithm::PREFERENCE {
        for cipher in CipherId::PREFERENCE {
            let offer = Offer {
                dialect: Dialect::Smb311,
                ciphers: &[cipher],
                signing: &[algorithm],
            };
            let mut client = setup.logged_on(&offer, &alice());
            for mode in [Mode::Sign, Mode::Encrypt] {
                client.connection.mode = mode;
                client.connect_tree("data", Status::SUCCESS);
                reads(&mut client);
            }
        }
    }
}

#[test]
fn encryption_begins_with_3_0() {
    let setup = Setup::new();
    for dialect in DIALECTS {
        let mut client = setup.logged_on(&Offer::of(dialect), &alice());
        let keys = client.connection.keys.as_ref().unwrap();
        assert_eq!(keys.sealing.is_some(), dialect >= Dialect::Smb300);
        if dialect < Dialect::Smb300 {
            continue;
        }
        client.connection.mode = Mode::Encrypt;
        client.connect_tree("data", Status::SUCCESS);
        reads(&mut client);
        let echoes = vec![request(ECHO, empty()); 3];
        assert_eq!(client.send(&echoes).unwrap().len(), 3);
    }
}

#[test]
fn the_fastest_algorithms_in_common_are_chosen() {
    let setup = Setup::new();
    for (ciphers, signing, cipher, algorithm) in [
        (&[1, 2, 3, 4][..], &[0, 1, 2][..], Some(2), Some(2)),
        (&[3, 1], &[1, 0], Some(1), Some(0)),
        (&[99], &[99], Some(0), None),
        (&[], &[], None, None),
    ] {
        let mut client = setup.client();
        let body = negotiate_with(&[0x0311], ciphers, signing);
        let response = client.expect(request(NEGOTIATE, body), Status::SUCCESS);
        let chosen = |kind| {
            contexts(&response)
                .into_iter()
                .find(|(k, _)| *k == kind)
                .map(|(_, data)| {
                    assert_eq!(data[..2], [1, 0]);
                    u16::from_le_bytes([data[2], data[3]])
                })
        };
        assert_eq!((chosen(2), chosen(8)), (cipher, algorithm), "{ciphers:?}");
    }
}

#[test]
fn negotiate_contexts_are_checked() {
    let setup = Setup::new();
    let preauth = || (1, [&[1, 0, 4, 0, 1, 0][..], &[9; 4]].concat());
    let invalid = Status::INVALID_PARAMETER;
    for (contexts, status) in [
        (vec![preauth()], Status::SUCCESS),
        (vec![(99, vec![1, 2, 3]), preauth()], Status::SUCCESS),
        (vec![], invalid),
        (vec![preauth(), preauth()], invalid),
        (vec![(1, vec![0, 0, 0, 0])], invalid),
        (vec![preauth(), (8, vec![0, 0])], invalid),
        (vec![preauth(), (2, vec![0, 0]), (2, vec![0, 0])], invalid),
        (vec![preauth(), (2, vec![2, 0, 1, 0])], invalid),
        (vec![preauth(), (8, vec![1])], invalid),
        (
            vec![(1, vec![1, 0, 0, 0, 9, 0])],
            Status::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP,
        ),
    ] {
        let body = negotiate_contexts(&[0x0311], 0, &contexts);
        setup.client().expect(request(NEGOTIATE, body), status);
    }
}

#[test]
fn a_client_that_names_no_cipher_is_served_without() {
    const PREAUTH: u16 = 1;
    let preauth = (PREAUTH, [&[1, 0, 4, 0, 1, 0][..], &[9; 4]].concat());
    let body = negotiate_contexts(&[0x0311], 0, &[preauth, (2, vec![0, 0])]);
    let mut client = Setup::new().client();
    let response = client.expect(request(NEGOTIATE, body), Status::SUCCESS);
    let kinds: Vec<u16> = contexts(&response).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [PREAUTH]);
}

#[test]
fn what_else_is_negotiated_is_passed_over() {
    const PREAUTH: u16 = 1;
    let setup = Setup::new();
    let offered = [
        (PREAUTH, [&[1, 0, 4, 0, 1, 0][..], &[9; 4]].concat()),
        (3, vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0]), // compression: LZNT1, LZ77
        (5, utf16("server")),
        (6, vec![1, 0, 0, 0]),       // transport security
        (7, vec![1, 0, 0, 0, 0, 0]), // RDMA
        (0x100, vec![0x93; 16]),     // POSIX extensions
    ];
    let body = negotiate_contexts(&[0x0311], 0, &offered);
    let response = setup
        .client()
        .expect(request(NEGOTIATE, body), Status::SUCCESS);
    let kinds: Vec<u16> = contexts(&response).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [PREAUTH]);
}

#[test]
fn a_wrong_signature_is_refused_and_nothing_else() {
    let setup = Setup::new();
    for dialect in DIALECTS {
        let mut client = setup.logged_on(&Offer::of(dialect), &alice());
        for at in [20, 40, 50, 64] {
            let message = client.message(&[request(ECHO, empty())]);
            let mut message = client.connection.protect(&message);
            match at {
                // The tree connect, which ECHO ignores.
                20 => message[36] ^= 1,
                40 => message[48] ^= 1,
                50 => message[63] ^= 0x80,
                _ => message[66] ^= 1,
            }
            let reply = client.connection.inner.process(&message).unwrap().unwrap();
            let reply = client.connection.unprotect(&reply);
            assert_eq!(responses(&reply)[0].status, Status::ACCESS_DENIED);
        }
        echo(&mut client, Status::SUCCESS);
    }
}

#[test]
fn unsigned_requests_are_refused_where_signing_is_required() {
    for by_server in [false, true] {
        let setup = Setup::with(|security| security.require_signing = by_server);
        let mut client = setup.client();
        let offer = Offer::of(Dialect::Smb302);
        let negotiated = client.negotiate(&offer);
        assert_eq!(negotiated.body[2], if by_server { 3 } else { 1 });
        let mode = if by_server { 1 } else { SIGNING_REQUIRED };
        let (_, key) = client.authenticate(&alice(), mode, Status::SUCCESS);
        client.make_keys(offer.dialect, (Algorithm::AesCmac, None), &key);
        client.connection.mode = Mode::Plain;
        let refused = echo(&mut client, Status::ACCESS_DENIED);
        assert_eq!(refused.flags & 8, 8, "the refusal is signed");
        client.connection.mode = Mode::Sign;
        echo(&mut client, Status::SUCCESS);
    }
}

/// Not all clients sign it. One that is signed wrongly is an intruder's.
#[test]
fn a_cancel_need_not_be_signed() {
    const EXCLUSIVE: u32 = 2;
    const AT_ONCE: u32 = 0x10;
    let setup = Setup::with(|security| security.require_signing = true);
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    client.connect_tree("data", Status::SUCCESS);
    let (first, second) = (client.open_if("file", 0), client.open_if("file", 0));
    let lock_it = |file, flags| request(LOCK, lock(file, flags));
    client.expect(lock_it(first, EXCLUSIVE | AT_ONCE), Status::SUCCESS);
    let message = client.message(&[lock_it(second, EXCLUSIVE)]);
    let message = client.connection.protect(&message);
    let interim = client.connection.inner.process(&message).unwrap().unwrap();
    let interim = responses(&interim).remove(0);
    assert_eq!(interim.status, Status::PENDING);
    assert_eq!(interim.flags & 8, 0, "interim responses are not signed");
    let mut cancel = client.message(&[request(CANCEL, empty())]);
    cancel[16] |= 2; // by the AsyncId
    cancel[32..36].copy_from_slice(&interim.process_id.to_le_bytes());
    cancel[36..40].copy_from_slice(&interim.tree_id.to_le_bytes());
    let mut forged = cancel.clone();
    forged[16] |= 8;
    let answer = client.connection.inner.process(&forged).unwrap();
    assert_eq!(answer, None, "a forged one has no effect");
    let answer = client.connection.inner.process(&cancel).unwrap().unwrap();
    let answer = client.connection.unprotect(&answer);
    assert_eq!(responses(&answer)[0].status, Status::CANCELLED);
}

#[test]
fn unsigned_requests_get_unsigned_answers_where_it_is_not() {
    let setup = Setup::new();
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb210), &alice());
    client.connection.mode = Mode::Plain;
    assert_eq!(echo(&mut client, Status::SUCCESS).flags & 8, 0);
    client.connection.mode = Mode::Sign;
    assert_eq!(echo(&mut client, Status::SUCCESS).flags & 8, 8);
}

#[test]
fn a_tree_connect_of_3_1_1_has_to_be_protected() {
    let setup = Setup::new();
    let connect = || request(TREE_CONNECT, tree_connect(r"\\s\data"));
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    client.connection.mode = Mode::Plain;
    let result = client.send(&[connect()]);
    assert_eq!(result.unwrap_err(), ProtocolError::Unsigned);
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb302), &alice());
    client.connection.mode = Mode::Plain;
    client.expect(connect(), Status::SUCCESS);
}

/// A client that encrypts, and an encrypted ECHO.
fn sealed(setup: &Setup) -> (Alice, Vec<u8>) {
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    client.connection.mode = Mode::Encrypt;
    let message = client.message(&[request(ECHO, empty())]);
    let sealed = client.connection.protect(&message);
    (client, sealed)
}

#[test]
fn a_tampered_encrypted_message_ends_the_connection() {
    let setup = Setup::new();
    for at in 0..TRANSFORM_LEN + 68 {
        let (mut client, mut message) = sealed(&setup);
        assert_eq!(message.len(), TRANSFORM_LEN + 68);
        message[at] ^= 1;
        let error = client.connection.inner.process(&message).unwrap_err();
        match at {
            // By this it isn't known to be encrypted.
            0 => assert_eq!(error, ProtocolError::Compressed),
            1..4 => assert_eq!(error, ProtocolError::Header),
            42..52 => assert_eq!(error, ProtocolError::Encrypted, "{at}"),
            _ => assert_eq!(error, ProtocolError::Tampered, "{at}"),
        }
    }
}

#[test]
fn a_truncated_encrypted_message_ends_the_connection() {
    let setup = Setup::new();
    for length in [4, 51, 52, 53, TRANSFORM_LEN + 67] {
        let (mut client, message) = sealed(&setup);
        let error = client.connection.inner.process(&message[..length]);
        let expected = match length {
            ..TRANSFORM_LEN => ProtocolError::Encrypted,
            _ => ProtocolError::Tampered,
        };
        assert_eq!(error.unwrap_err(), expected, "{length}");
    }
}

#[test]
fn a_replayed_message_ends_the_connection() {
    let setup = Setup::new();
    let (mut client, message) = sealed(&setup);
    let replayed = client.message_id - 1;
    assert!(client.connection.inner.process(&message).unwrap().is_some());
    let error = client.connection.inner.process(&message).unwrap_err();
    assert_eq!(error, ProtocolError::MessageId(replayed));
    // A signed one as well.
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    let message = client.message(&[request(ECHO, empty())]);
    let message = client.connection.protect(&message);
    let replayed = client.message_id - 1;
    assert!(client.connection.inner.process(&message).unwrap().is_some());
    let error = client.connection.inner.process(&message).unwrap_err();
    assert_eq!(error, ProtocolError::MessageId(replayed));
}

#[test]
fn another_sessions_requests_cannot_be_smuggled_in() {
    let setup = Setup::new();
    let (mut client, _) = sealed(&setup);
    client.session_id ^= 1;
    // In a compound they are refused, and what belongs to the session is done.
    let mut message = client.message(&[
        request(ECHO, empty()),
        request(LOGOFF, empty()),
        request(ECHO, empty()).related(),
    ]);
    message[40] ^= 1;
    let reply = client.connection.process(&message).unwrap().unwrap();
    let statuses: Vec<Status> = responses(&reply).iter().map(|one| one.status).collect();
    let (deleted, invalid) = (Status::USER_SESSION_DELETED, Status::INVALID_PARAMETER);
    assert_eq!(statuses, [Status::SUCCESS, deleted, invalid]);
    let error = client.send(&[request(TREE_CONNECT, tree_connect(r"\\s\data"))]);
    assert_eq!(error.unwrap_err(), ProtocolError::Tampered);
}

#[test]
fn without_keys_nothing_can_be_encrypted() {
    let setup = Setup::with(|security| security.guest = Some(Access::ReadOnly));
    let mut guest = setup.client();
    guest.negotiate(&Offer::of(Dialect::Smb311));
    let eve = Credentials::new("eve", "whatever");
    guest.authenticate(&eve, 1, Status::SUCCESS);
    guest.connect_tree("data", Status::SUCCESS);
    guest.connect_tree("secret", Status::ACCESS_DENIED);
    let (mut other, _) = sealed(&setup);
    other.connection.keys.as_mut().unwrap().session_id = guest.session_id;
    let message = other.message(&[request(ECHO, empty())]);
    let message = other.connection.protect(&message);
    let error = guest.connection.inner.process(&message).unwrap_err();
    assert_eq!(error, ProtocolError::Encrypted);
}

#[test]
fn what_has_to_be_encrypted_is() {
    let setup = Setup::with(|security| security.require_encryption = true);
    let mut client = setup.client();
    let response = client.log_on_as(&Offer::of(Dialect::Smb311), &alice());
    assert_eq!(response.body[2], 4, "SMB2_SESSION_FLAG_ENCRYPT_DATA");
    client.connect_tree("data", Status::ACCESS_DENIED);
    echo(&mut client, Status::ACCESS_DENIED);
    client.connection.mode = Mode::Encrypt;
    client.connect_tree("data", Status::SUCCESS);
    reads(&mut client);
    // Who can't encrypt isn't let in.
    for dialect in DIALECTS {
        let offer = Offer {
            ciphers: &[],
            ..Offer::of(dialect)
        };
        let mut client = setup.client();
        client.negotiate(&offer);
        client.authenticate(&alice(), 1, Status::ACCESS_DENIED);
    }
}

#[test]
fn guests_have_no_key_for_what_is_required() {
    for change in [
        (|security| security.require_signing = true) as fn(&mut Security),
        |security| security.require_encryption = true,
    ] {
        let setup = Setup::with(|security| {
            security.guest = Some(Access::ReadWrite);
            change(security);
        });
        let mut client = setup.client();
        client.negotiate(&Offer::of(Dialect::Smb311));
        let eve = Credentials::new("eve", "");
        client.authenticate(&eve, 1, Status::ACCESS_DENIED);
    }
}

#[test]
fn a_share_can_demand_encryption() {
    let setup = Setup::new();
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb302), &alice());
    let response = client.connect_tree("secret", Status::SUCCESS);
    assert_eq!(response.u32(4) & 0x8000, 0x8000, "SHAREFLAG_ENCRYPT_DATA");
    let create = || request(CREATE, create("file", READ_ACCESS, 1, 0));
    client.expect(create(), Status::ACCESS_DENIED);
    client.connection.mode = Mode::Encrypt;
    reads(&mut client);
    // Other shares of the session don't.
    client.connection.mode = Mode::Sign;
    let response = client.connect_tree("data", Status::SUCCESS);
    assert_eq!(response.u32(4) & 0x8000, 0);
    reads(&mut client);
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb210), &alice());
    client.connect_tree("secret", Status::ACCESS_DENIED);
}

#[test]
fn a_tree_connect_that_has_ended_demands_nothing() {
    let setup = Setup::new();
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    client.connect_tree("secret", Status::SUCCESS);
    client.connection.mode = Mode::Encrypt;
    client.expect(request(TREE_DISCONNECT, empty()), Status::SUCCESS);
    client.connection.mode = Mode::Sign;
    let create = create("file", READ_ACCESS, 1, 0);
    client.expect(request(CREATE, create), Status::NETWORK_NAME_DELETED);
}

#[test]
fn what_has_to_be_encrypted_is_not_copied_out_of_its_share() {
    const SRV_COPYCHUNK_WRITE: u32 = 0x0014_80F2;
    let setup = Setup::new();
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb302), &alice());
    client.connect_tree("secret", Status::SUCCESS);
    client.connection.mode = Mode::Encrypt;
    let source = client.open("file");
    client.connect_tree("data", Status::SUCCESS);
    let target = client.open_if("copy", 0);
    let mut input = source.to_vec();
    input.extend([0; 8]);
    input.extend(1u32.to_le_bytes());
    input.extend([0; 4 + 8 + 8]);
    input.extend(1000u32.to_le_bytes());
    input.extend([0; 4]);
    let path = setup._dir.path().join("copy");
    for mode in [Mode::Plain, Mode::Sign] {
        client.connection.mode = mode;
        client.ioctl(target, SRV_COPYCHUNK_WRITE, &input, Status::ACCESS_DENIED);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
    client.connection.mode = Mode::Encrypt;
    client.ioctl(target, SRV_COPYCHUNK_WRITE, &input, Status::SUCCESS);
    assert_eq!(std::fs::read(&path).unwrap(), noise(100_000)[..1000]);
}

#[test]
fn passwords_count() {
    let setup = Setup::new();
    let offer = Offer::of(Dialect::Smb311);
    for credentials in [
        alice(),
        Credentials::new("ALICE", "pässwörd"),
        Credentials {
            mic: false,
            ..alice()
        },
        Credentials {
            key_exchange: false,
            ..alice()
        },
        Credentials {
            domain: String::new(),
            ..alice()
        },
    ] {
        let mut client = setup.logged_on(&offer, &credentials);
        client.connect_tree("data", Status::SUCCESS);
    }
    for (user, password) in [
        ("alice", "pässword"),
        ("alice", ""),
        ("alice", "secret"),
        ("eve", "secret"),
        ("eve", ""),
    ] {
        // A wrong password never makes a guest.
        for guest in [None, Some(Access::ReadWrite)] {
            if user == "eve" && guest.is_some() {
                continue;
            }
            let dir = TempDir::new();
            let shares = vec![share("data", dir.path(), ShareRules::default())];
            let config = Config::new("testserver", shares).unwrap();
            let config = Arc::new(config.with_security(Security {
                users: users(),
                guest,
                ..Security::default()
            }));
            let mut client = Client::over(Protected::new(Direct::new(&config)));
            client.negotiate(&offer);
            let wrong = Credentials::new(user, password);
            client.authenticate(&wrong, 1, Status::LOGON_FAILURE);
            client.connect_tree("data", Status::USER_SESSION_DELETED);
        }
    }
}

#[test]
fn the_mic_is_checked_when_it_is_announced() {
    let setup = Setup::new();
    for (mic, negotiate_byte, status) in [
        (true, 0, Status::SUCCESS),
        // The client has said something else than what arrived.
        (true, 1, Status::ACCESS_DENIED),
        (false, 1, Status::SUCCESS),
    ] {
        let mut client = setup.client();
        client.negotiate(&Offer::of(Dialect::Smb311));
        let first = ntlm_negotiate();
        let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
        let challenge = client.expect(setup(&first), Status::MORE_PROCESSING_REQUIRED);
        client.session_id = challenge.session_id;
        let mut said = first.clone();
        said[20] ^= negotiate_byte;
        let credentials = Credentials { mic, ..alice() };
        let (token, _) = credentials.authenticate(&said, security_buffer(&challenge));
        client.expect(setup(&token), status);
    }
}

#[test]
fn older_responses_than_ntlmv2_are_refused() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.negotiate(&Offer::of(Dialect::Smb311));
    let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
    let challenge = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    client.session_id = challenge.session_id;
    let (mut token, _) = alice().authenticate(&ntlm_negotiate(), security_buffer(&challenge));
    token[20..24].copy_from_slice(&[24, 0, 24, 0]);
    client.expect(setup(&token), Status::LOGON_FAILURE);
}

#[test]
fn shares_have_rules() {
    let setup = Setup::with(|security| security.guest = Some(Access::ReadWrite));
    let offer = Offer::of(Dialect::Smb311);
    const WRITE_DATA: u32 = 2;
    let eve = Credentials::new("eve", "whatever");
    for (credentials, share, may) in [
        (alice(), "data", Some(true)),
        (alice(), "fixed", Some(false)),
        (alice(), "bobs", None),
        (bob(), "bobs", Some(true)),
        (alice(), "open", Some(true)),
        (alice(), "closed", Some(true)),
        (eve.clone(), "data", Some(true)),
        (eve.clone(), "fixed", Some(false)),
        (eve.clone(), "bobs", None),
        (eve.clone(), "open", Some(false)),
        (eve, "closed", None),
    ] {
        let mut client = setup.client();
        if credentials.user == "eve" {
            client.negotiate(&offer);
            let (response, _) = client.authenticate(&credentials, 1, Status::SUCCESS);
            assert_eq!(response.body[2], 1, "SMB2_SESSION_FLAG_IS_GUEST");
        } else {
            let response = client.log_on_as(&offer, &credentials);
            assert_eq!(response.body[2], 0);
        }
        match may {
            None => drop(client.connect_tree(share, Status::ACCESS_DENIED)),
            Some(writes) => {
                let response = client.connect_tree(share, Status::SUCCESS);
                let granted = response.u32(12) & WRITE_DATA != 0;
                assert_eq!(granted, writes, "{}: {share}", credentials.user);
            }
        }
    }
}

#[test]
fn anonymous_clients_get_no_further_than_pipes() {
    let setup = Setup::with(|security| security.guest = Some(Access::ReadWrite));
    let mut client = setup.client();
    client.negotiate(&Offer::of(Dialect::Smb311));
    let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
    let first = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    client.session_id = first.session_id;
    let last = client.expect(setup(&ntlm_authenticate("")), Status::SUCCESS);
    assert_eq!(last.body[2], 2, "SMB2_SESSION_FLAG_IS_NULL");
    client.connect_tree("IPC$", Status::SUCCESS);
    for share in ["data", "open"] {
        client.connect_tree(share, Status::ACCESS_DENIED);
    }
}

#[test]
fn a_session_can_be_renewed() {
    let setup = Setup::new();
    for dialect in DIALECTS {
        for mode in [Mode::Sign, Mode::Encrypt] {
            if mode == Mode::Encrypt && dialect < Dialect::Smb300 {
                continue;
            }
            let mut client = setup.logged_on(&Offer::of(dialect), &alice());
            client.connection.mode = mode;
            client.connect_tree("data", Status::SUCCESS);
            let file = client.open("file");
            let id = client.session_id;
            client.authenticate(&alice(), 1, Status::SUCCESS);
            assert_eq!(client.session_id, id);
            // The keys are the same, and so is everything else.
            client.expect(request(READ, read(file, 0, 10, 0)), Status::SUCCESS);
            // Who fails to do so has lost it.
            let wrong = Credentials::new("alice", "wrong");
            let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
            let challenge =
                client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
            let (token, _) = wrong.authenticate(&ntlm_negotiate(), security_buffer(&challenge));
            client.expect(setup(&token), Status::LOGON_FAILURE);
            client.connection.mode = Mode::Plain;
            let read = request(READ, read(file, 0, 10, 0));
            client.expect(read, Status::USER_SESSION_DELETED);
        }
    }
}

/// Else whoever has its keys could use what another user says to them: signing would not help.
#[test]
fn a_session_is_not_renewed_as_another_user() {
    let setup = Setup::with(|security| {
        security.require_signing = true;
        security.guest = Some(Access::ReadOnly);
    });
    for dialect in DIALECTS {
        let mut client = setup.logged_on(&Offer::of(dialect), &alice());
        client.connect_tree("data", Status::SUCCESS);
        client.authenticate(&bob(), 1, Status::ACCESS_DENIED);
        client.connection.mode = Mode::Plain;
        client.connect_tree("bobs", Status::USER_SESSION_DELETED);

        // Nor by way of those who have no keys.
        for detour in ["", "eve"] {
            let mut client = setup.logged_on(&Offer::of(dialect), &alice());
            let renew = |client: &mut Alice| {
                let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
                client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
                client.expect(setup(&ntlm_authenticate(detour)), Status::SUCCESS);
            };
            renew(&mut client);
            client.connect_tree("bobs", Status::ACCESS_DENIED);
            client.authenticate(&alice(), 1, Status::SUCCESS);
            client.connect_tree("data", Status::SUCCESS);
            renew(&mut client);
            client.authenticate(&bob(), 1, Status::ACCESS_DENIED);
            client.connection.mode = Mode::Plain;
            client.connect_tree("bobs", Status::USER_SESSION_DELETED);
        }
    }
}

#[test]
fn a_pipe_stays_with_who_has_opened_it() {
    /// A PDU of DCE/RPC: kind and body.
    fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = 16 + body.len() as u8;
        let head = [5, 0, kind, 3, 0x10, 0, 0, 0, length, 0, 0, 0, 1, 0, 0, 0];
        [&head, body].concat()
    }
    let setup = Setup::new();
    let mut client = setup.logged_on(&Offer::of(Dialect::Smb311), &alice());
    client.connection.mode = Mode::Sign;
    client.connect_tree("IPC$", Status::SUCCESS);
    let pipe = client.open("lsarpc");
    let transceive = |client: &mut Alice, pdu: Vec<u8>| {
        let request = request(IOCTL, ioctl(0x0011_C017, pipe, &pdu, 4280));
        client.expect(request, Status::SUCCESS).body
    };
    let bind = [
        0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0x78, 0x57, 0x34, 0x12, 0x34,
        0x12, 0xCD, 0xAB, 0xEF, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0, 0, 0, 0, 0x04, 0x5D, 0x88,
        0x8A, 0xEB, 0x1C, 0xC9, 0x11, 0x9F, 0xE8, 0x08, 0, 0x2B, 0x10, 0x48, 0x60, 2, 0, 0, 0,
    ];
    transceive(&mut client, pdu(11, &bind));
    // A renewal makes the session somebody else's.
    let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
    client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    client.expect(setup(&ntlm_authenticate("")), Status::SUCCESS);
    // LsarGetUserName
    let call = [0, 0, 0, 0, 0, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = transceive(&mut client, pdu(0, &call));
    assert!(
        answer.windows(10).any(|w| w == utf16("Alice")),
        "{answer:?}"
    );
}

#[test]
fn sessions_stand_beside_each_other() {
    let setup = Setup::new();
    let offer = Offer::of(Dialect::Smb210);
    let mut client = setup.client();
    client.log_on_as(&offer, &alice());
    client.connect_tree("data", Status::SUCCESS);
    let first = (
        client.session_id,
        client.tree_id,
        client.connection.keys.take().unwrap(),
    );
    client.session_id = 0;
    client.connection.mode = Mode::Plain;
    let (_, key) = client.authenticate(&bob(), 1, Status::SUCCESS);
    client.make_keys(offer.dialect, (Algorithm::HmacSha256, None), &key);
    client.connect_tree("bobs", Status::SUCCESS);
    reads(&mut client);
    client.expect(request(LOGOFF, empty()), Status::SUCCESS);
    (client.session_id, client.tree_id) = (first.0, first.1);
    client.connection.keys = Some(first.2);
    reads(&mut client);
}

#[test]
fn a_lost_session_is_replaced_by_the_same_users_alone() {
    for (credentials, status) in [
        (alice(), Status::USER_SESSION_DELETED),
        (bob(), Status::SUCCESS),
    ] {
        let setup = Setup::new();
        let offer = Offer::of(Dialect::Smb210);
        let mut client = setup.client();
        client.log_on_as(&offer, &alice());
        let lost = client.session_id;
        let keys = client.connection.keys.take();
        client.session_id = 0;
        client.connection.mode = Mode::Plain;
        let setup = |token: &[u8]| {
            let mut body = session_setup(token);
            body[16..24].copy_from_slice(&lost.to_le_bytes());
            request(SESSION_SETUP, body)
        };
        let challenge = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
        client.session_id = challenge.session_id;
        let (token, _) = credentials.authenticate(&ntlm_negotiate(), security_buffer(&challenge));
        client.expect(setup(&token), Status::SUCCESS);
        client.session_id = lost;
        client.connection.keys = keys;
        let tree = request(TREE_CONNECT, tree_connect(r"\\s\data"));
        client.expect(tree, status);
    }
}

#[test]
fn the_negotiation_is_confirmed_and_signed() {
    for require_signing in [false, true] {
        let setup = Setup::with(|security| security.require_signing = require_signing);
        let offer = Offer::of(Dialect::Smb302);
        let mut client = setup.client();
        let negotiated = client.negotiate(&offer);
        let (_, key) = client.authenticate(&alice(), 1, Status::SUCCESS);
        let cipher = Some(CipherId::Aes128Ccm);
        client.make_keys(offer.dialect, (Algorithm::AesCmac, cipher), &key);
        client.connect_tree("data", Status::SUCCESS);
        let input = |capabilities: u32, mode: u8, dialects: &[u16]| {
            let mut input = [
                &capabilities.to_le_bytes()[..],
                &[7; 16],
                &[mode, 0],
                &(dialects.len() as u16).to_le_bytes(),
            ]
            .concat();
            input.extend(dialects.iter().flat_map(|d| d.to_le_bytes()));
            ioctl(VALIDATE, RELATED_FILE, &input, 24)
        };
        let said = input(0x40, 1, &[0x0302]);
        let response = client.expect(request(IOCTL, said), Status::SUCCESS);
        assert_eq!(response.flags & 8, 8, "signed");
        let output = &response.body[48..72];
        assert_eq!(output[..4], negotiated.body[24..28], "capabilities");
        assert_eq!(output[4..20], negotiated.body[8..24], "GUID");
        assert_eq!(output[20..22], negotiated.body[2..4], "security mode");
        assert_eq!(output[22..24], negotiated.body[4..6], "dialect");
        // A client that had offered more is told by the end of the connection.
        for other in [
            input(0, 1, &[0x0302]),
            input(0x40, 3, &[0x0302]),
            input(0x40, 1, &[0x0302, 0x0311]),
        ] {
            let mut client = setup.logged_on(&offer, &alice());
            client.connect_tree("data", Status::SUCCESS);
            let error = client.send(&[request(IOCTL, other)]).unwrap_err();
            assert_eq!(error, ProtocolError::NegotiateTampered);
        }
    }
}

/// Two connections of clients that share, the first logged on as alice.
fn two_connections(setup: &Setup, offer: &Offer<'_>) -> (Alice, Alice) {
    let hub = Hub::new();
    let client = || Client::over(Protected::new(Direct::beside(&setup.config, &hub)));
    let (mut first, second) = (client(), client());
    first.log_on_as(offer, &alice());
    first.connect_tree("data", Status::SUCCESS);
    (first, second)
}

#[test]
fn a_session_lost_with_its_connection_is_replaced() {
    for (credentials, status) in [
        (alice(), Status::USER_SESSION_DELETED),
        (bob(), Status::SUCCESS),
    ] {
        let setup = Setup::new();
        let offer = Offer::of(Dialect::Smb210);
        let (mut lost, mut client) = two_connections(&setup, &offer);
        let file = lost.open("file");
        client.negotiate(&offer);
        let setup = |token: &[u8]| {
            let mut body = session_setup(token);
            body[16..24].copy_from_slice(&lost.session_id.to_le_bytes());
            request(SESSION_SETUP, body)
        };
        let challenge = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
        client.session_id = challenge.session_id;
        let (token, _) = credentials.authenticate(&ntlm_negotiate(), security_buffer(&challenge));
        client.expect(setup(&token), Status::SUCCESS);
        if status != Status::SUCCESS {
            lost.connection.mode = Mode::Plain;
        }
        lost.expect(request(READ, read(file, 0, 10, 0)), status);
    }
}

#[test]
fn a_session_of_another_connection_is_refused_with_its_signature() {
    let setup = Setup::new();
    let of = |algorithm| Offer {
        dialect: Dialect::Smb311,
        ciphers: &[],
        signing: match algorithm {
            Algorithm::AesGmac => &[Algorithm::AesGmac],
            _ => &[Algorithm::AesCmac],
        },
    };
    use Algorithm::{AesCmac, AesGmac};
    for (first, second, status) in [
        (AesCmac, AesCmac, Status::REQUEST_NOT_ACCEPTED),
        (AesCmac, AesGmac, Status::NOT_SUPPORTED),
        (AesGmac, AesCmac, Status::REQUEST_OUT_OF_SEQUENCE),
    ] {
        let (mut owner, mut client) = two_connections(&setup, &of(first));
        client.negotiate(&of(second));
        client.session_id = owner.session_id;
        let bind = |flags: u8| {
            let mut body = session_setup(&ntlm_negotiate());
            body[2] = flags;
            request(SESSION_SETUP, body)
        };
        // Nobody signs what isn't signed.
        let response = client.expect(bind(1), Status::USER_SESSION_DELETED);
        assert_eq!(response.flags & 8, 0);
        // From now on requests are signed with the session's key, and responses have to be.
        client.connection.keys = owner.connection.keys.take();
        client.connection.mode = Mode::Sign;
        client.expect(bind(1), status);
        client.expect(bind(0), Status::USER_SESSION_DELETED);
        // Its own connection does not mind.
        owner.connection.keys = client.connection.keys.take();
        reads(&mut owner);
    }
}

/// GMAC's nonce is the message id, which is to sign one message only.
#[test]
fn a_session_signs_no_two_messages_with_one_nonce_elsewhere() {
    let setup = Setup::new();
    let offer = Offer {
        signing: &[Algorithm::AesGmac],
        ..Offer::of(Dialect::Smb311)
    };
    let hub = Hub::new();
    let client = || Client::over(Protected::new(Direct::beside(&setup.config, &hub)));
    let mut owner = client();
    owner.log_on_as(&offer, &alice());
    // What is sent to bind a connection is answered once, and a renewal not at all.
    for (flags, signed) in [(0, 0), (1, 1)] {
        let mut body = session_setup(&ntlm_negotiate());
        body[2] = flags;
        owner.message_id = 1;
        let message = owner.message(&[request(SESSION_SETUP, body)]);
        let captured = owner.connection.protect(&message);
        let responses: Vec<_> = (0..3)
            .map(|_| {
                let mut other = client();
                other.negotiate(&offer);
                let reply = other.connection.inner.process(&captured).unwrap().unwrap();
                responses(&reply).remove(0)
            })
            .collect();
        let count = responses.iter().filter(|one| one.flags & 8 != 0).count();
        assert_eq!(count, signed);
        assert_eq!(responses[2].status, Status::USER_SESSION_DELETED);
    }
}

#[test]
fn a_session_ends_for_others_with_its_process() {
    let setup = Setup::new();
    let offer = Offer::of(Dialect::Smb210);
    let hub = Hub::new();
    let client = || Client::over(Protected::new(Direct::beside(&setup.config, &hub)));
    let (mut owner, mut other) = (client(), client());
    owner.log_on_as(&offer, &alice());
    hub.kill(0);
    other.negotiate(&offer);
    other.session_id = owner.session_id;
    other.connection.keys = owner.connection.keys.take();
    other.connection.mode = Mode::Plain;
    let message = {
        let mut body = session_setup(&ntlm_negotiate());
        body[2] = 1;
        other.message(&[request(SESSION_SETUP, body)])
    };
    other.connection.mode = Mode::Sign;
    let message = other.connection.protect(&message);
    let reply = other.connection.inner.process(&message).unwrap().unwrap();
    let response = &responses(&reply)[0];
    assert_eq!(response.status, Status::USER_SESSION_DELETED);
    assert_eq!(response.flags & 8, 0, "the key is forgotten");
}

#[test]
fn the_break_of_an_oplock_is_encrypted_where_everything_is() {
    for require_encryption in [false, true] {
        let setup = Setup::with(|security| security.require_encryption = require_encryption);
        let hub = Hub::new();
        let client = || Client::over(Protected::new(Direct::beside(&setup.config, &hub)));
        let (mut owner, mut other) = (client(), client());
        let with_oplock = |level: u8| {
            let mut body = create("file", READ_ACCESS, 1, 0);
            body[3] = level;
            request(CREATE, body)
        };
        for (client, credentials) in [(&mut owner, alice()), (&mut other, bob())] {
            client.log_on_as(&Offer::of(Dialect::Smb311), &credentials);
            if require_encryption {
                client.connection.mode = Mode::Encrypt;
            }
            client.connect_tree("data", Status::SUCCESS);
        }
        let opened = owner.expect(with_oplock(9), Status::SUCCESS);
        assert_eq!(opened.body[2], 9, "the oplock is granted");
        let message = other.message(&[with_oplock(0)]);
        let message = other.connection.protect(&message);
        other.connection.inner.exchange(&message).unwrap();
        let frames = owner.connection.inner.run().unwrap();
        assert_eq!(frames.len(), 1, "the break");
        let frame = match require_encryption {
            true => owner.connection.unprotect(&frames[0]),
            false => frames[0].clone(),
        };
        let broken = &responses(&frame)[0];
        assert_eq!((broken.command, broken.flags & 8), (18, 0));
        assert_eq!(broken.body[8..24], opened.file_id());
    }
}
