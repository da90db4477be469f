//! `srvsvc` over its pipe.

mod common;

use common::client::*;
use common::{TempDir, config};
use smbd::rpc::{Pipe, srvsvc};
use smbd::wire::status::Status;

const SRVSVC: [u8; 20] = [
    0xC8, 0x4F, 0x32, 0x4B, 0x70, 0x16, 0xD3, 0x01, 0x12, 0x78, 0x5A, 0x47, 0xBF, 0x6E, 0xE1, 0x88,
    3, 0, 0, 0,
];
const NDR32: [u8; 20] = [
    0x04, 0x5D, 0x88, 0x8A, 0xEB, 0x1C, 0xC9, 0x11, 0x9F, 0xE8, 0x08, 0x00, 0x2B, 0x10, 0x48, 0x60,
    2, 0, 0, 0,
];
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

fn server(count: usize, names: &mut Vec<String>) -> srvsvc::Server<'_> {
    *names = (0..count).map(|n| format!("share{n:04}")).collect();
    srvsvc::Server {
        name: "server",
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
fn exchange(pipe: &mut Pipe, pdu: &[u8], server: &srvsvc::Server<'_>) -> Vec<Vec<u8>> {
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
        let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
    let none = create("wkssvc", READ_ACCESS, 1, 0);
    client.expect(request(CREATE, none), Status::OBJECT_NAME_NOT_FOUND);
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
    let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
    let mut pipe = Pipe::new();
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
