//! No input makes the server panic, and no answer breaks the format.

mod common;

use common::client::*;
use common::logon::Credentials;
use common::{TempDir, config, noise};
use proptest::prelude::*;
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::auth::{Acceptor, Server, Step};
use smbd::rpc::accounts::Accounts;
use smbd::rpc::{self, Pipe, Service};
use smbd::transport::MAX_REPLY_LEN;

/// One valid request of each kind.
fn corpus(file: [u8; 16], dir: [u8; 16], pipe: [u8; 16]) -> Vec<Request> {
    let contexts = [context(b"MxAc"), context(b"QFid")].concat();
    vec![
        request(NEGOTIATE, negotiate(&[0x0202, 0x0311])),
        request(SESSION_SETUP, session_setup(&ntlm_negotiate())),
        request(SESSION_SETUP, session_setup(&ntlm_authenticate("x"))),
        request(SESSION_SETUP, session_setup(&smbd::auth::spnego::hint())),
        request(TREE_CONNECT, tree_connect(r"\\server\data")),
        request(
            CREATE,
            create_with_contexts("dir\\a.txt", READ_ACCESS, 1, 0, &contexts),
        ),
        request(READ, read(file, 10, 1000, 0)),
        request(WRITE, write(pipe, &bind())),
        request(READ, read(pipe, 0, 1000, 0)),
        request(IOCTL, ioctl(0x0011_C017, pipe, &bind(), 4280)),
        request(IOCTL, ioctl(0x0014_0204, RELATED_FILE, &[1; 30], 24)),
        request(QUERY_DIRECTORY, query_directory(dir, 37, 1, "*.t<", 4096)),
        request(QUERY_INFO, query_info(file, 1, 18, 4096)),
        request(QUERY_INFO, query_info(file, 2, 5, 4096)),
        request(QUERY_INFO, query_info(file, 3, 0, 4096)),
        request(SET_INFO, set_info(file, 1, 14, &[0; 8])),
        request(LOCK, lock(file, 1)),
        request(FLUSH, flush(file)),
        request(CHANGE_NOTIFY, change_notify(dir)),
        request(ECHO, empty()),
        request(CANCEL, empty()),
        request(CLOSE, close(file, 1)),
        request(TREE_DISCONNECT, empty()),
        request(LOGOFF, empty()),
    ]
}

/// A bind for srvsvc with NDR32.
fn bind() -> Vec<u8> {
    let mut pdu = vec![5, 0, 11, 3, 0x10, 0, 0, 0, 72, 0, 0, 0, 1, 0, 0, 0];
    pdu.extend([0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    pdu.extend([0xC8, 0x4F, 0x32, 0x4B, 0x70, 0x16, 0xD3, 0x01]);
    pdu.extend([0x12, 0x78, 0x5A, 0x47, 0xBF, 0x6E, 0xE1, 0x88, 3, 0, 0, 0]);
    pdu.extend([0x04, 0x5D, 0x88, 0x8A, 0xEB, 0x1C, 0xC9, 0x11]);
    pdu.extend([0x9F, 0xE8, 0x08, 0x00, 0x2B, 0x10, 0x48, 0x60, 2, 0, 0, 0]);
    pdu
}

fn share() -> TempDir {
    let dir = TempDir::new();
    dir.write("file", &noise(5000));
    dir.write("dir/a.txt", b"a");
    dir
}

fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(0x7F),
        Just(0x80),
        Just(0xFF),
        any::<u8>()
    ]
}

#[test]
fn damaged_requests_are_answered_or_refused() {
    let dir = share();
    let config = config(&[("data", dir.path())]);
    let damage = (any::<prop::sample::Index>(), byte());
    let step = (
        any::<prop::sample::Index>(),
        prop::collection::vec(damage, 0..6),
        prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
        any::<bool>(),
    );
    let dialect = prop_oneof![Just(0x0202u16), Just(0x0302), Just(0x0311)];
    let steps = prop::collection::vec(step, 1..12);
    proptest!(ProptestConfig::with_cases(1500), |(dialect in dialect, steps in steps)| {
        let mut client = Client::connected(&config, dialect, "data");
        let (file, dir) = (client.open("file"), client.open("dir"));
        let disk = client.tree_id;
        let tree = request(TREE_CONNECT, tree_connect(r"\\server\IPC$"));
        client.tree_id = client.expect(tree, smbd::wire::status::Status::SUCCESS).tree_id;
        let ipc = client.tree_id;
        let pipe = client.open("srvsvc");
        let corpus = corpus(file, dir, pipe);
        for (which, damages, cut, compound) in steps {
            let first = which.get(&corpus).clone();
            let is_ipc = matches!(first.command, WRITE) || first.body.windows(16).any(|w| w == pipe);
            client.tree_id = if is_ipc && first.command != CREATE { ipc } else { disk };
            let requests = if compound {
                vec![first.clone(), first.related(), request(CLOSE, close(RELATED_FILE, 1)).related()]
            } else {
                vec![first]
            };
            let mut message = client.message(&requests);
            for (at, byte) in damages {
                let at = at.index(message.len());
                // The message id stays: a wrong one only ends the connection.
                if !(24..32).contains(&at) {
                    message[at] = byte;
                }
            }
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
            }
            // What has to wait is answered twice.
            match client.connection.exchange(&message) {
                Ok(frames) => {
                    for frame in frames {
                        prop_assert!(frame.len() <= MAX_REPLY_LEN + 4);
                        responses(&frame);
                    }
                }
                Err(_) => break,
            }
        }
    });
}

proptest! {
    #[test]
    fn arbitrary_messages_are_survived(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        smb2 in any::<bool>(),
    ) {
        let config = config(&[]);
        let mut client = Client::new(&config);
        for mut message in messages {
            if smb2 && message.len() >= 14 {
                message[..6].copy_from_slice(b"\xFESMB\x40\0");
                message[12..14].copy_from_slice(&[0, 0]);
            }
            if client.connection.process(&message).is_err() {
                break;
            }
        }
    }

    #[test]
    fn damaged_tokens_are_survived(
        damages in prop::collection::vec((any::<prop::sample::Index>(), byte()), 0..4),
        cut in any::<prop::sample::Index>(),
        spnego in any::<bool>(),
    ) {
        let mut acceptor = Acceptor::new();
        let mut users = Users::new();
        users.set("someone", NtHash::of_password("secret")).unwrap();
        let server = Server {
            name: "server",
            users: &users,
            guests: false,
        };
        let damage = |mut token: Vec<u8>| {
            for (at, byte) in &damages {
                let at = at.index(token.len());
                token[at] = *byte;
            }
            token.truncate(cut.index(token.len()) + 1);
            if spnego { smbd::auth::spnego::incomplete(&token) } else { token }
        };
        let _ = acceptor.step(&damage(ntlm_negotiate()), server, [0; 8]);
        // Behind a good first message.
        let mut acceptor = Acceptor::new();
        let Ok(Step::Continue(challenge)) = acceptor.step(&ntlm_negotiate(), server, [0; 8]) else {
            panic!("no challenge");
        };
        let someone = Credentials::new("someone", "secret");
        let (token, key) = someone.authenticate(&ntlm_negotiate(), &challenge);
        if let Ok(Step::Done(_, logon)) = acceptor.step(&damage(token), server, [0; 8])
            && let Some(accepted) = logon.session_key
        {
            prop_assert_eq!(accepted, key);
        }
    }

    #[test]
    fn damaged_pdus_are_survived(
        damages in prop::collection::vec((0..200usize, byte()), 0..6),
        chunk in 1..300usize,
    ) {
        let accounts = Accounts::none();
        let server = rpc::Server {
            name: "server",
            shares: Vec::new(),
            user: None,
            accounts: &accounts,
        };
        let mut stream = bind();
        stream.extend([5, 0, 0, 3, 0x10, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0, 0]);
        stream.extend([40, 0, 0, 0, 0, 0, 15, 0]);
        stream.extend([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        stream.extend([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (at, byte) in damages {
            let at = at % stream.len();
            stream[at] = byte;
        }
        let mut pipe = Pipe::new(Service::Srvsvc);
        for chunk in stream.chunks(chunk) {
            if pipe.write(chunk, &server).is_err() {
                break;
            }
            let mut out = Vec::new();
            pipe.read(100, &mut out);
        }
    }
}
