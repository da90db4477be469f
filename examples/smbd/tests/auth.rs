//! Logging on, token by token and over SESSION_SETUP.

mod common;

use common::client::*;
use common::config;
use common::logon::Credentials;
use smbd::auth::ntlmv2::{self, NtHash, Side};
use smbd::auth::users::Users;
use smbd::auth::{Acceptor, AuthError, Identity, Server, Step, der, spnego};
use smbd::wire::status::Status;

const NTLMSSP: &[u8] = &[0x2B, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0A];
const KERBEROS: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x12, 0x01, 0x02, 0x02];

/// A negTokenInit for `mechanisms` with a token for the first.
fn init(mechanisms: &[&[u8]], token: &[u8]) -> Vec<u8> {
    let oids: Vec<u8> = mechanisms
        .iter()
        .flat_map(|m| der::element(der::OID, &[m]))
        .collect();
    let list = der::element(der::context(0), &[&der::element(der::SEQUENCE, &[&oids])]);
    let token = der::element(
        der::context(2),
        &[&der::element(der::OCTET_STRING, &[token])],
    );
    let inner = der::element(der::SEQUENCE, &[&list, &token]);
    let oid = der::element(der::OID, &[&[0x2B, 0x06, 0x01, 0x05, 0x05, 0x02]]);
    der::element(
        der::APPLICATION_0,
        &[&oid, &der::element(der::context(0), &[&inner])],
    )
}

/// Lets everybody in as a guest.
fn server(users: &Users) -> Server<'_> {
    Server {
        name: "server",
        users,
        guests: true,
    }
}

#[track_caller]
fn goes_on(acceptor: &mut Acceptor, token: &[u8]) -> Vec<u8> {
    match acceptor.step(token, server(&Users::new()), [1; 8]) {
        Ok(Step::Continue(token)) => token,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn ends(acceptor: &mut Acceptor, token: &[u8]) -> Identity {
    match acceptor.step(token, server(&Users::new()), [1; 8]) {
        Ok(Step::Done(_, logon)) => logon.identity,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bare_ntlmssp_and_spnego_lead_to_the_same() {
    for (user, identity) in [
        ("", Identity::Anonymous),
        ("bob", Identity::Guest(String::from("bob"))),
    ] {
        let mut bare = Acceptor::new();
        let challenge = goes_on(&mut bare, &ntlm_negotiate());
        assert_eq!(challenge[..12], *b"NTLMSSP\0\x02\0\0\0");
        assert_eq!(ends(&mut bare, &ntlm_authenticate(user)), identity);

        let mut wrapped = Acceptor::new();
        let token = goes_on(&mut wrapped, &init(&[NTLMSSP], &ntlm_negotiate()));
        assert!(matches!(
            spnego::parse(&token),
            Ok(spnego::Token::Response(response)) if response.mech_token.is_some()
        ));
        let token = spnego::incomplete(&ntlm_authenticate(user));
        assert_eq!(ends(&mut wrapped, &token), identity);
    }
}

#[test]
fn a_client_that_prefers_kerberos_is_led_to_ntlmssp() {
    let mut acceptor = Acceptor::new();
    let token = goes_on(&mut acceptor, &init(&[KERBEROS, NTLMSSP], b"a ticket"));
    assert!(matches!(
        spnego::parse(&token),
        Ok(spnego::Token::Response(response)) if response.mech_token.is_none()
    ));
    goes_on(&mut acceptor, &spnego::incomplete(&ntlm_negotiate()));
    ends(
        &mut acceptor,
        &spnego::incomplete(&ntlm_authenticate("bob")),
    );
}

/// A negTokenResp with a token and a mechListMIC.
fn response(token: &[u8], mic: &[u8]) -> Vec<u8> {
    let field = |n, value: &[u8]| {
        der::element(
            der::context(n),
            &[&der::element(der::OCTET_STRING, &[value])],
        )
    };
    let fields = [field(2, token), field(3, mic)].concat();
    der::element(der::context(1), &[&der::element(der::SEQUENCE, &[&fields])])
}

#[test]
fn both_sides_sign_the_list_of_mechanisms() {
    let mut users = Users::new();
    users.set("bob", NtHash::of_password("secret")).unwrap();
    let server = Server {
        name: "server",
        users: &users,
        guests: false,
    };
    let oids = [KERBEROS, NTLMSSP].map(|oid| der::element(der::OID, &[oid]));
    let list = der::element(der::SEQUENCE, &[&oids.concat()]);
    for (tampered, mechanisms) in [
        (false, [KERBEROS, NTLMSSP]),
        // Somebody has changed the order.
        (true, [NTLMSSP, KERBEROS]),
    ] {
        let mut acceptor = Acceptor::new();
        let mut step = |token: &[u8]| acceptor.step(token, server, [1; 8]);
        let first = init(&mechanisms, &ntlm_negotiate());
        let challenge = match step(&first).unwrap() {
            Step::Continue(token) if tampered => token,
            Step::Continue(_) => match step(&spnego::incomplete(&ntlm_negotiate())).unwrap() {
                Step::Continue(token) => token,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let Ok(spnego::Token::Response(token)) = spnego::parse(&challenge) else {
            panic!("no response");
        };
        let bob = Credentials::new("bob", "secret");
        let (token, key) = bob.authenticate(&ntlm_negotiate(), token.mech_token.unwrap());
        let flags = u32::from_le_bytes(token[60..64].try_into().unwrap());
        let mic = ntlmv2::signature(&key, flags, Side::Client, &list);
        let result = step(&response(&token, &mic));
        if tampered {
            let error = AuthError::Tampered(String::from("bob"));
            assert_eq!(result.unwrap_err(), error);
            continue;
        }
        let Ok(Step::Done(last, logon)) = result else {
            panic!("{result:?}");
        };
        assert_eq!(logon.identity, Identity::User(String::from("bob")));
        assert_eq!(logon.session_key, Some(key));
        let mic = ntlmv2::signature(&key, flags, Side::Server, &list);
        assert!(matches!(
            spnego::parse(&last),
            Ok(spnego::Token::Response(response)) if response.mech_list_mic == Some(&mic)
        ));
    }
}

#[test]
fn wrong_tokens_are_told_apart() {
    for (token, error) in [
        (init(&[KERBEROS], b"a ticket"), AuthError::NoCommonMechanism),
        (ntlm_authenticate("bob"), AuthError::OutOfSequence),
        (
            spnego::incomplete(&ntlm_negotiate()),
            AuthError::OutOfSequence,
        ),
        (b"nonsense".to_vec(), AuthError::Malformed),
        (Vec::new(), AuthError::Malformed),
    ] {
        let result = Acceptor::new().step(&token, server(&Users::new()), [1; 8]);
        assert_eq!(result.unwrap_err(), error, "{token:x?}");
    }
}

#[test]
fn guests_and_anonymous_sessions_are_marked() {
    let config = config(&[]);
    for (user, flags) in [("bob", 1), ("", 2)] {
        let mut client = Client::new(&config);
        client.expect(request(NEGOTIATE, negotiate(&[0x0311])), Status::SUCCESS);
        let first = client.expect(
            request(SESSION_SETUP, session_setup(&ntlm_negotiate())),
            Status::MORE_PROCESSING_REQUIRED,
        );
        assert_ne!(first.session_id, 0);
        client.session_id = first.session_id;
        // Not logged on yet.
        let tree = request(TREE_CONNECT, tree_connect(r"\\s\IPC$"));
        client.expect(tree.clone(), Status::USER_SESSION_DELETED);
        let last = client.expect(
            request(SESSION_SETUP, session_setup(&ntlm_authenticate(user))),
            Status::SUCCESS,
        );
        assert_eq!((last.session_id, last.body[2]), (first.session_id, flags));
        client.expect(tree, Status::SUCCESS);
    }
}

#[test]
fn a_failed_authentication_ends_its_session() {
    let config = config(&[]);
    let mut client = Client::new(&config);
    client.expect(request(NEGOTIATE, negotiate(&[0x0311])), Status::SUCCESS);
    let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
    client.session_id = 99;
    client.expect(setup(&ntlm_negotiate()), Status::USER_SESSION_DELETED);
    client.session_id = 0;
    let first = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    client.session_id = first.session_id;
    client.expect(setup(b"nonsense"), Status::INVALID_PARAMETER);
    client.expect(
        setup(&ntlm_authenticate("bob")),
        Status::USER_SESSION_DELETED,
    );
    // Sessions that are never finished are bounded.
    client.session_id = 0;
    for _ in 0..64 {
        client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    }
    client.expect(setup(&ntlm_negotiate()), Status::INSUFFICIENT_RESOURCES);
}
