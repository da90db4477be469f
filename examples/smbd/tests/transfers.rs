//! The way of data between files and the socket, in the program.

mod common;

use common::client::*;
use common::process::{eventually, memory, only_child, process, unsent};
use common::server::Server;
use common::wire::{Wire, frame};
use common::{TempDir, noise};
use smbd::wire::status::Status;

const MIB: usize = 1024 * 1024;
/// The largest READ.
const PIECE: usize = 8 * MIB;
const END_OF_FILE: u8 = 20;

fn serve(contents: &[u8]) -> (TempDir, Server) {
    let dir = TempDir::new();
    dir.write("file", contents);
    let server = Server::start(&[("data", dir.path())]);
    (dir, server)
}

/// A client with credits for a few of the largest messages.
fn connect(server: &Server) -> Client<Wire> {
    let mut client = Client::at(server.address(), 0x0311, "data");
    for _ in 0..10 {
        client.check();
    }
    client
}

fn long_read(file: [u8; 16], offset: usize, length: usize) -> Request {
    let charge = length.div_ceil(65536).max(1) as u16;
    request(READ, read(file, offset as u64, length as u32, 0)).charge(charge)
}

fn end_of_file(file: [u8; 16], size: u64) -> Request {
    request(
        SET_INFO,
        set_info(file, 1, END_OF_FILE, &size.to_le_bytes()),
    )
}

/// Sends messages without waiting for their answers.
fn send_all(client: &mut Client<Wire>, requests: Vec<Request>) {
    let frames = requests
        .into_iter()
        .map(|request| frame(&client.message(&[request])));
    let bytes = frames.collect::<Vec<_>>().concat();
    client.connection.send(&bytes);
}

#[track_caller]
fn receive(client: &mut Client<Wire>) -> Response {
    let reply = client.connection.receive().expect("no reply");
    responses(&reply.expect("closed")).remove(0)
}

/// Waits until a process has replies to send and nobody who takes them.
#[track_caller]
fn wait_until_stuck(child: u32) {
    eventually("the child waits for its client to read", || {
        unsent(child) > 64 * 1024 && process(child).is_some_and(|p| p.state == 'S')
    });
}

#[test]
fn reads_of_all_lengths_bring_what_is_there() {
    let contents = noise(3 * MIB + 17);
    let (_dir, server) = serve(&contents);
    let mut client = connect(&server);
    let file = client.open("file");
    let lengths = [
        1,
        4096,
        32767,
        32768,
        32769,
        65536,
        MIB - 1,
        MIB,
        2 * MIB + 5,
        PIECE,
    ];
    let offsets = [
        0,
        1,
        4095,
        4096,
        MIB + 3,
        contents.len() - 40_000,
        contents.len() - 1,
    ];
    for offset in offsets {
        for length in lengths {
            let response = client.expect(long_read(file, offset, length), Status::SUCCESS);
            let end = contents.len().min(offset + length);
            assert_eq!(
                response.u32(4) as usize,
                end - offset,
                "{length} at {offset}"
            );
            assert!(
                response.body[16..] == contents[offset..end],
                "{length} at {offset}"
            );
        }
    }
    let behind = long_read(file, contents.len(), MIB);
    client.expect(behind, Status::END_OF_FILE);
    let too_little = request(
        READ,
        read(file, contents.len() as u64 - 40_000, 65536, 40_001),
    );
    client.expect(too_little, Status::END_OF_FILE);
}

#[test]
fn reads_in_compounds_bring_what_is_there() {
    let contents = noise(MIB);
    let (_dir, server) = serve(&contents);
    let mut client = connect(&server);
    let open = request(CREATE, create("file", READ_ACCESS, OPEN, 0));
    let related = |offset, length| long_read(RELATED_FILE, offset, length).related();
    let requests = [
        open,
        related(3, 100_000),
        related(7, 70_000),
        request(CLOSE, close(RELATED_FILE, 0)).related(),
    ];
    let answers = client.send(&requests).unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == Status::SUCCESS)
    );
    // What follows in the compound begins at a multiple of 8 bytes.
    assert!(answers[1].body[16..][..100_000] == contents[3..100_003]);
    assert!(answers[2].body[16..][..70_000] == contents[7..70_007]);
    // Two that are not related, and one alone behind them.
    let file = client.open("file");
    let answers = client
        .send(&[long_read(file, 0, 80_000), long_read(file, 1, 80_000)])
        .unwrap();
    assert!(answers[0].body[16..][..80_000] == contents[..80_000]);
    assert!(answers[1].body[16..][..80_000] == contents[1..80_001]);
    let answer = client.expect(long_read(file, 2, 80_000), Status::SUCCESS);
    assert!(answer.body[16..] == contents[2..80_002]);
}

#[test]
fn a_file_that_is_cut_short_while_it_is_sent_ends_the_connection() {
    let contents = noise(PIECE);
    let (dir, server) = serve(&contents);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    let mut bystander = connect(&server);
    let file = client.open("file");
    send_all(
        &mut client,
        (0..8).map(|_| long_read(file, 0, PIECE)).collect(),
    );
    wait_until_stuck(child);
    let path = dir.path().join("file");
    let shared = std::fs::File::options().write(true).open(path).unwrap();
    shared.set_len(4096).unwrap();
    // Nothing is made up for what is gone.
    let mut whole = 0;
    let broken = loop {
        match client.connection.receive() {
            Ok(Some(reply)) => {
                let response = responses(&reply).remove(0);
                let length = response.body.len() - 16;
                assert!(response.body[16..] == contents[..length]);
                whole += usize::from(length == PIECE);
            }
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(
        broken,
        "closed between two replies after {whole} whole ones"
    );
    server.log.expect("cut short");
    bystander.check();
}

#[test]
fn a_client_that_changes_a_file_before_it_has_its_data_gets_all_replies() {
    let contents = noise(PIECE);
    type Change = fn([u8; 16]) -> Request;
    let changes: [(u8, Change); 3] = [
        (0, |file| end_of_file(file, 1000)),
        (0xEE, |file| request(WRITE, write(file, &[0xEE; 60_000]))),
        (0, |_| {
            request(CREATE, create("file", ALL_ACCESS, OVERWRITE, 0))
        }),
    ];
    for (new, change) in changes {
        let (dir, server) = serve(&contents);
        let mut client = connect(&server);
        let child = only_child(server.pid());
        let file = client.open_if("file", 0);
        let mut requests: Vec<_> = (0..4).map(|_| long_read(file, 0, PIECE)).collect();
        requests.push(long_read(file, 0, 120_000));
        requests.push(change(file));
        send_all(&mut client, requests);
        wait_until_stuck(child);
        for length in [PIECE, PIECE, PIECE, PIECE, 120_000] {
            let response = receive(&mut client);
            assert_eq!(response.status, Status::SUCCESS);
            // The kernel sends what is in the file when it leaves.
            let data = &response.body[16..];
            assert_eq!(data.len(), length);
            let mut both = data.iter().zip(&contents);
            assert!(
                both.all(|(got, was)| got == was || *got == new),
                "{length} bytes"
            );
        }
        assert_eq!(receive(&mut client).status, Status::SUCCESS);
        client.check();
        assert!(std::fs::read(dir.path().join("file")).unwrap() != contents);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_write_leaves_the_file_alone() {
    let contents = noise(MIB);
    let (dir, server) = serve(&contents);
    let mut client = connect(&server);
    let file = client.open_if("file", 0);
    let message = client.message(&[request(WRITE, write(file, &vec![0xEE; MIB])).charge(16)]);
    let bytes = frame(&message);
    client.connection.send(&bytes[..bytes.len() - 1]);
    drop(client);
    server.log.expect("closed in the middle of a message");
    assert!(std::fs::read(dir.path().join("file")).unwrap() == contents);
}

#[test]
fn a_client_that_falls_silent_gives_its_memory_back() {
    let (_dir, server) = serve(&noise(PIECE));
    let mut client = connect(&server);
    let child = only_child(server.pid());
    let file = client.open_if("file", 0);
    let before = memory(child, "VmRSS");
    // One that nothing stays in its file of: there are two responses.
    let pair = [long_read(file, 0, PIECE / 2), long_read(file, 0, PIECE / 2)];
    client.send(&pair).unwrap();
    let write = write(file, &vec![1; PIECE]);
    client.expect(request(WRITE, write).charge(128), Status::SUCCESS);
    assert!(memory(child, "VmRSS") > before + PIECE, "it takes memory");
    eventually("the memory is given back", || {
        memory(child, "VmRSS") < before + PIECE / 2
    });
    client.check();
}
