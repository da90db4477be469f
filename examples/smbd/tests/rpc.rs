//! The services over their pipes.

mod common;

use std::sync::LazyLock;

use common::client::*;
use common::{TempDir, config};
use smbd::rpc::accounts::Accounts;
use smbd::rpc::{Pipe, Server, Service, srvsvc};
use smbd::wire::status::Status;

const SRVSVC: [u8; 20] = [
    0xC8, 0x4F, 0x32, 0x4B, 0x70, 0x16, 0xD3, 0x01, 0x12, 0x78, 0x5A, 0x47, 0xBF, 0x6E, 0xE1, 0x88,
    3, 0, 0, 0,
];
const NDR32: [u8; 20] = [
    0x04, 0x5D, 0x88, 0x8A, 0xEB, 0x1C, 0xC9, 0x11, 0x9F, 0xE8, 0x08, 0x00, 0x2B, 0x10, 0x48, 0x60,
    2, 0, 0, 0,
];
const WKSSVC: [u8; 20] = [
    0x98, 0xD0, 0xFF, 0x6B, 0x12, 0xA1, 0x10, 0x36, 0x98, 0x33, 0x46, 0xC3, 0xF8, 0x7E, 0x34, 0x5A,
    1, 0, 0, 0,
];
const LSARPC: [u8; 20] = [
    0x78, 0x57, 0x34, 0x12, 0x34, 0x12, 0xCD, 0xAB, 0xEF, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0, 0,
    0, 0,
];
static ACCOUNTS: LazyLock<Accounts> = LazyLock::new(|| {
    Accounts::parse(
        b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:\nroot2:x:0:0::/:\nbroken\n",
        b"root:x:0:\nstaff:x:50:alice\n",
    )
});
const OTHER: [u8; 20] = [0x11; 20];

fn pdu(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut pdu = vec![5, 0, kind, flags, 0x10, 0, 0, 0];
    pdu.extend((16 + body.len() as u16).to_le_bytes());
    pdu.extend([0, 0, 7, 0, 0, 0]);
    pdu.extend(body);
    pdu
}

fn bind(interface: &[u8; 20], transfer: &[u8; 20]) -> Vec<u8> {
    let head = [0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0];
    pdu(11, 3, &[&head[..], interface, transfer].concat())
}

fn call(flags: u8, operation: u16, stub: &[u8]) -> Vec<u8> {
    let head = [&[0, 0, 0, 0, 0, 0][..], &operation.to_le_bytes()].concat();
    pdu(0, flags, &[&head[..], stub].concat())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The arguments of NetrShareEnum.
fn share_enum(level: u32, preferred: u32, resume: u32) -> Vec<u8> {
    words(&[0, level, level, 1, 0, 0, preferred, 1, resume])
}

fn server(count: usize, names: &mut Vec<String>) -> Server<'_> {
    *names = (0..count).map(|n| format!("share{n:04}")).collect();
    Server {
        name: "server",
        user: Some("alice"),
        accounts: &ACCOUNTS,
        shares: names
            .iter()
            .map(|name| srvsvc::ShareEntry {
                name,
                kind: 0,
                remark: "remark",
            })
            .collect(),
    }
}

/// Writes a PDU and reads everything that comes back, by fragments.
fn exchange(pipe: &mut Pipe, pdu: &[u8], server: &Server<'_>) -> Vec<Vec<u8>> {
    pipe.write(pdu, server).unwrap();
    let mut fragments = Vec::new();
    loop {
        let mut fragment = Vec::new();
        match pipe.read(65536, &mut fragment) {
            Some(false) => fragments.push(fragment),
            Some(true) => panic!("a fragment of more than 64 KiB"),
            None => return fragments,
        }
    }
}

fn stub(fragments: &[Vec<u8>]) -> Vec<u8> {
    fragments
        .iter()
        .flat_map(|fragment| fragment[24..].to_vec())
        .collect()
}

fn last_word(stub: &[u8]) -> u32 {
    u32::from_le_bytes(*stub.last_chunk().unwrap())
}

fn last_words(stub: &[u8]) -> [u32; 4] {
    let tail = &stub[stub.len() - 16..];
    [0, 4, 8, 12].map(|at| u32::from_le_bytes(tail[at..at + 4].try_into().unwrap()))
}

#[test]
fn a_bind_is_accepted_for_srvsvc_in_ndr32_alone() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    for (interface, transfer, result) in [
        (&SRVSVC, &NDR32, [0, 0, 0, 0]),
        (&OTHER, &NDR32, [2, 0, 1, 0]),
        (&SRVSVC, &OTHER, [2, 0, 2, 0]),
    ] {
        let mut pipe = Pipe::new(Service::Srvsvc);
        let answer = exchange(&mut pipe, &bind(interface, transfer), &server).remove(0);
        assert_eq!(answer[2], 12, "bind_ack");
        assert_eq!(answer[answer.len() - 24..][..4], result);
        let accepted = result == [0; 4];
        let answer = exchange(
            &mut pipe,
            &call(3, 15, &share_enum(1, u32::MAX, 0)),
            &server,
        );
        assert_eq!(
            answer[0][2],
            if accepted { 2 } else { 3 },
            "response or fault"
        );
    }
}

#[test]
fn a_long_answer_comes_in_fragments() {
    let mut names = Vec::new();
    let server = server(1000, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    let fragments = exchange(
        &mut pipe,
        &call(3, 15, &share_enum(1, u32::MAX, 0)),
        &server,
    );
    assert!(fragments.len() > 10);
    for (index, fragment) in fragments.iter().enumerate() {
        let length = u16::from_le_bytes([fragment[8], fragment[9]]);
        assert_eq!(usize::from(length), fragment.len());
        assert!(fragment.len() <= 4280);
        assert_eq!(fragment[3] & 1 != 0, index == 0, "first");
        assert_eq!(fragment[3] & 2 != 0, index + 1 == fragments.len(), "last");
    }
    let stub = stub(&fragments);
    let [total, _, resume, result] = last_words(&stub);
    assert_eq!((total, resume, result), (1000, 0, 0));
    assert!(stub.windows(18).any(|w| w == utf16("share0999")));
}

#[test]
fn an_enumeration_resumes_where_it_stopped() {
    let mut names = Vec::new();
    let server = server(10, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    let mut resume = 0;
    let mut rounds = 0;
    loop {
        let answer = exchange(
            &mut pipe,
            &call(3, 15, &share_enum(0, 100, resume)),
            &server,
        );
        let [total, _, next, result] = last_words(&stub(&answer));
        assert_eq!(total, 10 - resume);
        rounds += 1;
        match result {
            234 => assert!(next > resume),
            _ => break assert_eq!(result, 0),
        }
        resume = next;
    }
    assert!(rounds > 2);
}

#[test]
fn levels_and_operations_have_their_errors() {
    let mut names = Vec::new();
    let server = server(3, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    for (level, error) in [
        (0, 0),
        (1, 0),
        (2, 0),
        (501, 0),
        (502, 0),
        (503, 5),
        (1005, 124),
        (77, 124),
    ] {
        let answer = exchange(
            &mut pipe,
            &call(3, 15, &share_enum(level, u32::MAX, 0)),
            &server,
        );
        assert_eq!(last_words(&stub(&answer))[3], error, "level {level}");
    }
    let fault = exchange(&mut pipe, &call(3, 99, &[]), &server).remove(0);
    assert_eq!(
        (fault[2], &fault[24..28]),
        (3, &0x1C01_0002u32.to_le_bytes()[..])
    );
    let fault = exchange(&mut pipe, &call(3, 15, &[1, 2, 3]), &server).remove(0);
    assert_eq!(
        (fault[2], &fault[24..28]),
        (3, &0x06F7u32.to_le_bytes()[..])
    );
}

#[test]
fn a_request_may_come_in_fragments_and_a_fragment_in_pieces() {
    let mut names = Vec::new();
    let server = server(2, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    // NetrShareGetInfo of "SHARE0001", level 1
    let mut stub_in = words(&[0, 10, 0, 10]);
    stub_in.extend(utf16("SHARE0001\0"));
    stub_in.extend(words(&[1]));
    let (a, b) = stub_in.split_at(17);
    let stream = [call(1, 16, a), call(2, 16, b)].concat();
    for byte in &stream[..stream.len() - 1] {
        assert!(exchange(&mut pipe, &[*byte], &server).is_empty());
    }
    let answer = exchange(&mut pipe, &stream[stream.len() - 1..], &server);
    let stub = stub(&answer);
    assert_eq!(last_words(&stub)[3], 0);
    assert!(stub.windows(18).any(|w| w == utf16("share0001")));
}

#[test]
fn the_pipe_works_by_write_and_read_and_by_transceive() {
    let dir = TempDir::new();
    let config = config(&[("data", dir.path())]);
    let mut client = Client::connected(&config, 0x0311, "IPC$");
    for none in ["spoolss", r"\srvsvc"] {
        let none = create(none, READ_ACCESS, 1, 0);
        client.expect(request(CREATE, none), Status::OBJECT_NAME_NOT_FOUND);
    }
    let pipe = client.open("srvsvc");
    client.expect(request(READ, read(pipe, 0, 100, 0)), Status::PIPE_EMPTY);
    client.expect(
        request(WRITE, write(pipe, &bind(&SRVSVC, &NDR32))),
        Status::SUCCESS,
    );
    let start = client.expect(request(READ, read(pipe, 0, 10, 0)), Status::BUFFER_OVERFLOW);
    assert_eq!(start.body[16..19], [5, 0, 12]);
    client.expect(request(READ, read(pipe, 0, 100, 0)), Status::SUCCESS);
    let transceive = |max| {
        let input = call(3, 15, &share_enum(1, u32::MAX, 0));
        request(IOCTL, ioctl(0x0011_C017, pipe, &input, max))
    };
    let whole = client.expect(transceive(4280), Status::SUCCESS);
    let cut = client.expect(transceive(40), Status::BUFFER_OVERFLOW);
    let rest = client.expect(request(READ, read(pipe, 0, 4280, 0)), Status::SUCCESS);
    let joined = [&cut.body[48..], &rest.body[16..]].concat();
    assert_eq!(joined, whole.body[48..]);
    let broken = write(pipe, &[0; 20]);
    client.expect(request(WRITE, broken), Status::INVALID_PIPE_STATE);
}

/// The clients that ask for these parse the answers strictly; what they show is in `smbclient.rs`.
#[test]
fn shares_are_described_without_local_paths() {
    let mut names = Vec::new();
    let server = server(3, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    let mut about = |level: u32| {
        let mut stub_in = words(&[0, 10, 0, 10]);
        stub_in.extend(utf16("share0001\0"));
        stub_in.extend(words(&[level]));
        stub(&exchange(&mut pipe, &call(3, 16, &stub_in), &server))
    };
    for level in [0, 1, 2, 501, 502, 1005] {
        let answer = about(level);
        assert_eq!(last_word(&answer), 0, "level {level}");
        assert_eq!(answer[..4], level.to_le_bytes());
        let path = utf16(r"C:\share0001");
        let has_path = answer.windows(path.len()).any(|w| w == path);
        assert_eq!(has_path, matches!(level, 2 | 502), "level {level}");
    }
    assert_eq!(last_word(&about(503)), 5);
    assert_eq!(last_word(&about(9)), 124);
    // Whatever Windows calls sticky is here.
    let sticky = exchange(
        &mut pipe,
        &call(3, 36, &share_enum(1, u32::MAX, 0)),
        &server,
    );
    assert_eq!(last_words(&stub(&sticky))[0], 3);
}

#[test]
fn nobody_is_told_what_others_do() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    for (operation, before) in [(8, 2), (9, 3), (12, 3)] {
        let mut arguments = words(&vec![0; before]);
        arguments.extend(words(&[1, 1, 1, 0, 0, u32::MAX, 1, 0]));
        let answer = stub(&exchange(
            &mut pipe,
            &call(3, operation, &arguments),
            &server,
        ));
        assert_eq!(answer[..12], words(&[1, 1, 0]), "no entries");
        assert_eq!(last_word(&answer), 5, "operation {operation}");
    }
}

#[test]
fn the_server_tells_its_version_and_the_time() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let mut pipe = Pipe::new(Service::Srvsvc);
    exchange(&mut pipe, &bind(&SRVSVC, &NDR32), &server);
    for (level, result) in [(100, 0), (101, 0), (102, 0), (103, 5), (7, 124)] {
        let answer = exchange(&mut pipe, &call(3, 21, &words(&[0, level])), &server);
        assert_eq!(last_word(&stub(&answer)), result, "level {level}");
    }
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs() as u32
    };
    let before = now();
    let answer = stub(&exchange(&mut pipe, &call(3, 28, &words(&[0])), &server));
    let tod: Vec<u32> = answer
        .chunks(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let [_, seconds, _, hours, minutes, rest, ..] = tod[..] else {
        panic!("{tod:?}");
    };
    assert!((before..=now()).contains(&seconds));
    assert_eq!(seconds % 86_400, hours * 3600 + minutes * 60 + rest);
    assert_eq!((tod.len(), tod[13]), (14, 0));
}

#[test]
fn a_pipe_has_its_own_interface_alone() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let services = [
        ("srvsvc", &SRVSVC),
        ("WKSSVC", &WKSSVC),
        ("lsarpc", &LSARPC),
    ];
    for (name, own) in services {
        for (_, interface) in services {
            let mut pipe = Pipe::new(Service::of_pipe(name).unwrap());
            let answer = exchange(&mut pipe, &bind(interface, &NDR32), &server).remove(0);
            let expected = if own == interface {
                [0; 4]
            } else {
                [2, 0, 1, 0]
            };
            assert_eq!(answer[answer.len() - 24..][..4], expected, "{name}");
        }
    }
    assert_eq!(Service::of_pipe("samr"), None);
}

#[test]
fn the_workstation_tells_its_name() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let mut pipe = Pipe::new(Service::Wkssvc);
    exchange(&mut pipe, &bind(&WKSSVC, &NDR32), &server);
    for (level, result) in [(100, 0), (101, 0), (102, 5), (502, 5), (7, 124)] {
        let answer = exchange(&mut pipe, &call(3, 0, &words(&[0, level])), &server);
        let stub = stub(&answer);
        assert_eq!(last_word(&stub), result, "level {level}");
        let tells = |name: &str| stub.windows(name.len() * 2).any(|w| w == utf16(name));
        assert_eq!(tells("server\0") && tells("WORKGROUP\0"), result == 0);
    }
    let mut arguments = words(&[0]);
    arguments.extend(words(&[1, 1, 1, 0, 0, u32::MAX, 1, 0]));
    let users = stub(&exchange(&mut pipe, &call(3, 2, &arguments), &server));
    assert_eq!(
        (&users[..12], last_word(&users)),
        (&words(&[1, 1, 0])[..], 5)
    );
    let fault = exchange(&mut pipe, &call(3, 9, &[]), &server).remove(0);
    assert_eq!(fault[2], 3);
}

/// A pipe to `lsarpc` with an open policy, and its handle.
fn policy(server: &Server<'_>) -> (Pipe, Vec<u8>) {
    let mut pipe = Pipe::new(Service::Lsarpc);
    exchange(&mut pipe, &bind(&LSARPC, &NDR32), server);
    let opened = open_policy(&mut pipe, server);
    assert_eq!(last_word(&opened), 0);
    (pipe, opened[..20].to_vec())
}

fn open_policy(pipe: &mut Pipe, server: &Server<'_>) -> Vec<u8> {
    let arguments = words(&[0, 24, 0, 0, 0, 0, 0, 0x800]);
    stub(&exchange(pipe, &call(3, 44, &arguments), server))
}

fn sid(authority: u8, parts: &[u32]) -> Vec<u8> {
    let mut sid = words(&[parts.len() as u32]);
    sid.extend([1, parts.len() as u8, 0, 0, 0, 0, 0, authority]);
    sid.extend(words(parts));
    sid
}

fn lookup_sids(handle: &[u8], sids: &[Vec<u8>]) -> Vec<u8> {
    let count = sids.len() as u32;
    let mut arguments = handle.to_vec();
    arguments.extend(words(&[count, 1, count]));
    arguments.extend(words(&vec![1; sids.len()]));
    arguments.extend(sids.concat());
    arguments.extend(words(&[0, 0, 1, 0]));
    arguments
}

/// The names, the uses, and the domains' names of an answer to a question for SIDs.
fn translated(stub: &[u8]) -> (Vec<(u16, String)>, Vec<String>) {
    fn word(rest: &mut &[u8]) -> u32 {
        let (word, after) = rest.split_first_chunk().expect("an answer cut short");
        *rest = after;
        u32::from_le_bytes(*word)
    }
    fn text(rest: &mut &[u8]) -> String {
        let [max, 0, length] = [word(rest), word(rest), word(rest)] else {
            panic!("an offset");
        };
        assert_eq!(max, length);
        let bytes = length as usize * 2;
        let units: Vec<u16> = rest[..bytes]
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        *rest = &rest[bytes.next_multiple_of(4)..];
        String::from_utf16(&units).unwrap()
    }
    let rest = &mut &stub[4..];
    let count = word(rest) as usize;
    word(rest);
    assert_eq!([word(rest), word(rest)], [count as u32; 2]);
    *rest = &rest[count * 12..];
    let domains = (0..count)
        .map(|_| {
            let name = text(rest);
            let parts = word(rest) as usize;
            *rest = &rest[8 + parts * 4..];
            name
        })
        .collect();
    let count = word(rest) as usize;
    word(rest);
    assert_eq!(word(rest), count as u32);
    let uses: Vec<u16> = (0..count)
        .map(|_| {
            let kind = word(rest) as u16;
            *rest = &rest[12..];
            kind
        })
        .collect();
    let names = uses.into_iter().map(|kind| (kind, text(rest))).collect();
    assert_eq!(rest.len(), 8, "a count and a status");
    (names, domains)
}

#[test]
fn sids_have_names() {
    let mut names = Vec::new();
    let mut server = server(1, &mut names);
    let (mut pipe, handle) = policy(&server);
    let sids = [
        sid(22, &[1, 0]),
        sid(22, &[1, 1000]),
        sid(22, &[2, 50]),
        sid(22, &[1, 4711]),
        sid(1, &[0]),
        sid(5, &[32, 544]),
        sid(5, &[21, 1, 2, 3, 500]),
        sid(22, &[]),
    ];
    let question = call(3, 15, &lookup_sids(&handle, &sids));
    let answer = stub(&exchange(&mut pipe, &question, &server));
    assert_eq!(last_word(&answer), 0x107, "STATUS_SOME_NOT_MAPPED");
    let (found, domains) = translated(&answer);
    let found: Vec<_> = found
        .iter()
        .map(|(kind, name)| (*kind, &name[..]))
        .collect();
    let expected = [
        (1, "root"),
        (1, "alice"),
        (2, "staff"),
        (1, "4711"),
        (5, "Everyone"),
        (4, "Administrators"),
        (8, "S-1-5-21-1-2-3-500"),
        (8, "S-1-22"),
    ];
    assert_eq!(found, expected);
    assert_eq!(domains, ["Unix User", "Unix Group", "", "BUILTIN"]);

    // Who has not proved to be somebody isn't told what others are called.
    static NOBODY: Accounts = Accounts::none();
    server.accounts = &NOBODY;
    let question = call(3, 15, &lookup_sids(&handle, &sids[..1]));
    let answer = stub(&exchange(&mut pipe, &question, &server));
    assert_eq!(translated(&answer).0, [(1, String::from("0"))]);
    let question = call(3, 15, &lookup_sids(&handle, &sids[6..]));
    let answer = stub(&exchange(&mut pipe, &question, &server));
    assert_eq!(last_word(&answer), 0xC000_0073, "STATUS_NONE_MAPPED");
    // As many as there is room for; not more.
    let many = call(3, 15, &lookup_sids(&handle, &vec![sid(1, &[0]); 100]));
    let answer = stub(&exchange(&mut pipe, &many, &server));
    assert_eq!((translated(&answer).0.len(), last_word(&answer)), (100, 0));
    let mut too_many = handle.clone();
    too_many.extend(words(&[1001, 1, 1001]));
    let fault = exchange(&mut pipe, &call(3, 15, &too_many), &server).remove(0);
    assert_eq!(fault[24..28], 0x06F7u32.to_le_bytes());
}

#[test]
fn names_have_sids() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let (mut pipe, handle) = policy(&server);
    let asked = [
        "alice",
        r"unix group\root",
        r"SERVER\root",
        "everyone",
        "nobody-there",
        r"Unix Group\alice",
    ];
    let count = asked.len() as u32;
    let mut arguments = handle.clone();
    arguments.extend(words(&[count, count]));
    for name in asked {
        let length = name.len() as u32 * 2;
        arguments.extend(words(&[length << 16 | length, 1]));
    }
    for name in asked {
        let length = name.len() as u32;
        arguments.extend(words(&[length, 0, length]));
        arguments.extend(utf16(name));
        arguments.resize(arguments.len().next_multiple_of(4), 0);
    }
    arguments.extend(words(&[0, 0, 1, 0]));
    let answer = stub(&exchange(&mut pipe, &call(3, 14, &arguments), &server));
    assert_eq!(last_word(&answer), 0x107);
    // Use, relative id, domain of each; a count; a status.
    let tail = &answer[answer.len() - 8 - 12 * asked.len()..];
    let sids: Vec<u32> = tail
        .chunks(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let none = [8, 0, u32::MAX];
    let expected = [[1, 1000, 0], [2, 0, 1], [1, 0, 0], [5, 0, 2], none, none];
    assert_eq!(sids[..18], expected.concat());
    assert_eq!(sids[18], 4);
}

#[test]
fn policy_handles_are_counted_and_checked() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let (mut pipe, handle) = policy(&server);
    for _ in 1..64 {
        assert_eq!(last_word(&open_policy(&mut pipe, &server)), 0);
    }
    let refused = open_policy(&mut pipe, &server);
    assert_eq!(
        (&refused[..20], last_word(&refused)),
        (&[0; 20][..], 0xC000_009A)
    );
    let closed = stub(&exchange(&mut pipe, &call(3, 0, &handle), &server));
    assert_eq!((&closed[..20], last_word(&closed)), (&[0; 20][..], 0));
    for operation in [0, 7, 14, 15] {
        let arguments = lookup_sids(&handle, &[sid(1, &[0])]);
        let fault = exchange(&mut pipe, &call(3, operation, &arguments), &server).remove(0);
        let context_mismatch = 0x1C00_001Au32.to_le_bytes();
        assert_eq!((fault[2], &fault[24..28]), (3, &context_mismatch[..]));
    }
    assert_eq!(last_word(&open_policy(&mut pipe, &server)), 0);
}

#[test]
fn the_policy_names_the_machine_and_the_user() {
    let mut names = Vec::new();
    let server = server(1, &mut names);
    let (mut pipe, handle) = policy(&server);
    let mut ask = |operation: u16, level: u32| {
        let arguments = [&handle[..], &words(&[level])].concat();
        exchange(&mut pipe, &call(3, operation, &arguments), &server)
    };
    for (operation, level, name) in [(7, 3, "WORKGROUP"), (7, 5, "server"), (46, 5, "server")] {
        let answer = stub(&ask(operation, level));
        assert!(answer.windows(name.len() * 2).any(|w| w == utf16(name)));
        assert_eq!(last_word(&answer), 0);
    }
    let fault = ask(46, 3).remove(0);
    let unknown_operation = 0x1C01_0002u32.to_le_bytes();
    assert_eq!((fault[2], &fault[24..28]), (3, &unknown_operation[..]));
    let mut query = |level| stub(&ask(46, level));
    assert_eq!(query(2)[4..], words(&[2, 0, 0, 0, 0]), "nothing is audited");
    assert_eq!(query(6)[4..], words(&[6, 3, 0]));
    assert_eq!(query(99), words(&[0, 0xC000_000D]));
    let who = stub(&exchange(
        &mut pipe,
        &call(3, 45, &words(&[0, 0, 1, 0])),
        &server,
    ));
    for name in ["alice", "server"] {
        assert!(who.windows(name.len() * 2).any(|w| w == utf16(name)));
    }
    assert_eq!(last_word(&who), 0);
}
