//! Negotiation, ids, credits and compounds, on a connection without a socket.

mod common;

use common::client::*;
use common::{TempDir, config, noise};
use smbd::server::ProtocolError;
use smbd::wire::status::Status;

fn setup() -> (TempDir, std::sync::Arc<smbd::config::Config>) {
    let dir = TempDir::new();
    dir.write("file.bin", &noise(100_000));
    dir.write("dir/a.txt", b"a");
    dir.write("dir/b.txt", b"bb");
    let config = config(&[("data", dir.path())]);
    (dir, config)
}

#[test]
fn the_greatest_common_dialect_is_chosen() {
    let (_dir, config) = setup();
    for (offered, chosen) in [
        (&[0x0202][..], 0x0202),
        (&[0x0311, 0x0202, 0x0300], 0x0311),
        (&[0x0210, 0x0999], 0x0210),
    ] {
        let response =
            Client::new(&config).expect(request(NEGOTIATE, negotiate(offered)), Status::SUCCESS);
        assert_eq!(response.u32(4) as u16, chosen, "{offered:x?}");
    }
    for (offered, status) in [
        (&[][..], Status::INVALID_PARAMETER),
        (&[0x0999], Status::NOT_SUPPORTED),
    ] {
        Client::new(&config).expect(request(NEGOTIATE, negotiate(offered)), status);
    }
}

#[test]
fn an_smb1_negotiate_is_answered_in_smb2() {
    let (_dir, config) = setup();
    for (dialects, revision) in [
        (&b"\x02NT LM 0.12\0\x02SMB 2.002\0"[..], 0x0202),
        (b"\x02SMB 2.002\0\x02SMB 2.???\0", 0x02FF),
    ] {
        let mut message = b"\xFFSMB\x72".to_vec();
        message.resize(33, 0);
        message.extend((dialects.len() as u16).to_le_bytes());
        message.extend(dialects);
        let mut client = Client::new(&config);
        let frame = client.connection.process(&message).unwrap().unwrap();
        let response = &responses(&frame)[0];
        assert_eq!(response.u32(4) as u16, revision);
        assert_eq!(response.message_id, 0);
        client.message_id = 1;
        let second = client.send(&[request(NEGOTIATE, negotiate(&[0x0311]))]);
        match revision {
            0x02FF => assert_eq!(second.unwrap()[0].status, Status::SUCCESS),
            _ => assert_eq!(second.unwrap_err(), ProtocolError::NegotiatedTwice),
        }
    }
}

#[test]
fn what_does_not_belong_to_the_protocol_ends_the_connection() {
    let (_dir, config) = setup();
    let mut fresh = Client::new(&config);
    assert_eq!(
        fresh.send(&[request(ECHO, empty())]).unwrap_err(),
        ProtocolError::NotNegotiated
    );
    let connected = || Client::connected(&config, 0x0311, "data");
    let mut client = connected();
    client.message_id = 0;
    assert_eq!(
        client.send(&[request(ECHO, empty())]).unwrap_err(),
        ProtocolError::MessageId(0)
    );
    assert_eq!(
        connected().send(&[request(99, empty())]).unwrap_err(),
        ProtocolError::UnknownCommand(99)
    );
    for (start, error) in [
        (&b"\xFDSMB"[..], ProtocolError::Encrypted),
        (b"\xFCSMB", ProtocolError::Compressed),
        (b"\xFESMB", ProtocolError::Header),
        (b"HTTP", ProtocolError::Header),
        (b"\xFFSMB\x73", ProtocolError::Smb1),
    ] {
        assert_eq!(connected().connection.process(start), Err(error));
    }
}

#[test]
fn ids_that_are_not_known_have_their_own_statuses() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0302, "data");
    let file = client.open("file.bin");
    let wrong = [0xEE; 16];
    client.expect(request(READ, read(wrong, 0, 1, 0)), Status::FILE_CLOSED);
    client.tree_id += 1;
    client.expect(
        request(READ, read(file, 0, 1, 0)),
        Status::NETWORK_NAME_DELETED,
    );
    client.tree_id -= 1;
    client.session_id ^= 1;
    client.expect(
        request(READ, read(file, 0, 1, 0)),
        Status::USER_SESSION_DELETED,
    );
    client.session_id ^= 1;
    client.expect(request(TREE_DISCONNECT, empty()), Status::SUCCESS);
    client.expect(
        request(READ, read(file, 0, 1, 0)),
        Status::NETWORK_NAME_DELETED,
    );
    client.expect(request(LOGOFF, empty()), Status::SUCCESS);
    client.expect(request(LOGOFF, empty()), Status::USER_SESSION_DELETED);
    let tree = request(TREE_CONNECT, tree_connect(r"\\s\data"));
    client.expect(tree, Status::USER_SESSION_DELETED);
}

#[test]
fn trees_are_found_by_name() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0210, "DATA");
    for (path, status) in [
        (r"\\s\none", Status::BAD_NETWORK_NAME),
        (r"\\s\ipc$", Status::SUCCESS),
        (r"data", Status::INVALID_PARAMETER),
        (r"\\s\", Status::INVALID_PARAMETER),
    ] {
        client.expect(request(TREE_CONNECT, tree_connect(path)), status);
    }
}

#[test]
fn credits_pay_for_payload() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0300, "data");
    let file = client.open("file.bin");
    let over = read(file, 0, 65537, 0);
    client.expect(request(READ, over.clone()), Status::INVALID_PARAMETER);
    let response = client.expect(request(READ, over).charge(2), Status::SUCCESS);
    assert_eq!(response.u32(4), 65537);
    assert!(response.credits > 0);
    assert_eq!(response.body[16..], noise(100_000)[..65537]);
    let beyond = read(file, 0, (8 << 20) + 1, 0);
    client.expect(request(READ, beyond).charge(129), Status::INVALID_PARAMETER);
}

#[test]
fn related_requests_inherit_and_fail_with_their_create() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0311, "data");
    let create_of = |name| request(CREATE, create(name, READ_ACCESS, 1, 0));
    let statuses =
        |responses: Vec<Response>| -> Vec<Status> { responses.iter().map(|r| r.status).collect() };
    let tail = [
        request(READ, read(RELATED_FILE, 1 << 30, 1, 0)).related(),
        request(QUERY_INFO, query_info(RELATED_FILE, 1, 5, 100)).related(),
        request(CLOSE, close(RELATED_FILE, 1)).related(),
    ];
    let with = |name| [&[create_of(name)], &tail[..]].concat();
    assert_eq!(
        statuses(client.send(&with("file.bin")).unwrap()),
        [
            Status::SUCCESS,
            Status::END_OF_FILE,
            Status::SUCCESS,
            Status::SUCCESS
        ]
    );
    let not_found = Status::OBJECT_NAME_NOT_FOUND;
    assert_eq!(
        statuses(client.send(&with("none")).unwrap()),
        [not_found, not_found, not_found, not_found]
    );
    assert_eq!(
        statuses(client.send(&tail).unwrap())[0],
        Status::INVALID_PARAMETER,
        "a compound cannot begin with a related request"
    );
    // Unrelated requests in one message do not touch each other.
    let file = client.open("file.bin");
    assert_eq!(
        statuses(
            client
                .send(&[
                    create_of("none"),
                    request(READ, read(file, 0, 1, 0)),
                    request(CANCEL, empty()),
                    request(ECHO, empty()),
                ])
                .unwrap()
        ),
        [not_found, Status::SUCCESS, Status::SUCCESS]
    );
}

#[test]
fn a_compound_cannot_make_the_reply_longer_than_a_frame() {
    let dir = TempDir::new();
    dir.write("big", &noise(8 << 20));
    let config = config(&[("data", dir.path())]);
    let mut client = Client::connected(&config, 0x0311, "data");
    let file = client.open("big");
    let one = request(READ, read(file, 0, 8 << 20, 0)).charge(128);
    let responses = client.send(&[one.clone(), one.clone(), one]).unwrap();
    assert_eq!(responses[0].status, Status::SUCCESS);
    assert_eq!(responses[2].status, Status::INSUFFICIENT_RESOURCES);
    let many = vec![request(ECHO, empty()); 1025];
    assert_eq!(client.send(&many).unwrap_err(), ProtocolError::Compound);
}

#[test]
fn negotiation_is_validated_before_3_1_1() {
    const VALIDATE: u32 = 0x0014_0204;
    let (_dir, config) = setup();
    let input = |dialect: u16, guid: u8| {
        [
            &[0; 4][..],
            &[guid; 16],
            &[1, 0, 1, 0],
            &dialect.to_le_bytes(),
        ]
        .concat()
    };
    let none = RELATED_FILE;
    let mut client = Client::connected(&config, 0x0302, "data");
    let body = ioctl(VALIDATE, none, &input(0x0302, 7), 24);
    let response = client.expect(request(IOCTL, body), Status::SUCCESS);
    assert_eq!(response.body[48 + 22..48 + 24], 0x0302u16.to_le_bytes());
    for (dialect, guid) in [(0x0302, 8), (0x0300, 7)] {
        let body = ioctl(VALIDATE, none, &input(dialect, guid), 24);
        let mut client = Client::connected(&config, 0x0302, "data");
        assert_eq!(
            client.send(&[request(IOCTL, body)]).unwrap_err(),
            ProtocolError::NegotiateTampered
        );
    }
    let dfs = ioctl(0x0006_0194, none, &[0; 4], 4096);
    client.expect(request(IOCTL, dfs), Status::FS_DRIVER_REQUIRED);
    let unknown = ioctl(0x0009_FFFF, none, &[], 4096);
    client.expect(request(IOCTL, unknown), Status::FILE_CLOSED);
}

#[test]
fn what_was_sent_before_a_channel_was_lost_changes_nothing() {
    let dir = TempDir::new();
    let config = config(&[("data", dir.path())]);
    for (dialect, counts) in [(0x0311, true), (0x0300, true), (0x0210, false)] {
        let mut client = Client::connected(&config, dialect, "data");
        let file = client.open_if("file", 0);
        let mut at = |sequence: u16, request: Request| {
            let mut message = client.message(&[request]);
            message[8..10].copy_from_slice(&sequence.to_le_bytes());
            let frame = client.connection.process(&message).unwrap();
            responses(&frame.unwrap())[0].status
        };
        let write = |byte: u8| request(WRITE, write_at(file, 0, &[byte]));
        let rename = || request(SET_INFO, set_info(file, 1, 20, &8u64.to_le_bytes()));
        let control = || request(IOCTL, ioctl(0x0009_00C4, file, &[], 0)); // SET_SPARSE
        let too_old = match counts {
            true => Status::FILE_NOT_AVAILABLE,
            false => Status::SUCCESS,
        };
        assert_eq!(at(0, write(b'a')), Status::SUCCESS);
        assert_eq!(at(0x8000, write(b'b')), too_old);
        assert_eq!(at(0x7FFF, write(b'c')), Status::SUCCESS);
        assert_eq!(at(0xFFFE, write(b'd')), Status::SUCCESS);
        assert_eq!(at(0xFFFD, write(b'e')), too_old);
        assert_eq!(at(0xFFFD, rename()), too_old);
        assert_eq!(at(0xFFFD, control()), too_old);
        assert_eq!(
            at(0xFFFD, request(READ, read(file, 0, 1, 0))),
            Status::SUCCESS
        );
        let content = std::fs::read(dir.path().join("file")).unwrap();
        assert_eq!(content[0], if counts { b'd' } else { b'e' });
        // A read counts as well: what comes after the turn of the counter is newer.
        assert_eq!(at(1, request(READ, read(file, 0, 1, 0))), Status::SUCCESS);
        assert_eq!(at(0xFFFE, write(b'f')), too_old);
        assert_eq!(at(1, write(b'g')), Status::SUCCESS);
    }
}
