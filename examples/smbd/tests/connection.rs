//! Messages over a real socket, however they are cut, and what isn't one.

mod common;

use std::io::Write;

use common::client::*;
use common::process::{children, descriptors, eventually, wait_for_no_children};
use common::server::Server;
use common::wire::{Wire, frame};
use common::{TempDir, noise};
use smbd::wire::status::Status;

const LARGEST_READ: u32 = 8 * 1024 * 1024;

fn serve(dir: &TempDir) -> Server {
    Server::start(&[("data", dir.path())])
}

fn connect(server: &Server) -> Client<Wire> {
    Client::at(server.address(), 0x0311, "data")
}

/// The next response on a connection.
#[track_caller]
fn next(client: &mut Client<Wire>) -> Response {
    let reply = client.connection.receive().expect("no reply");
    responses(&reply.expect("closed")).remove(0)
}

#[test]
fn requests_may_come_a_byte_at_a_time() {
    let dir = TempDir::new();
    let contents = noise(3000);
    dir.write("file", &contents);
    let server = serve(&dir);
    let mut client = connect(&server);
    let file = client.open("file");
    let message = client.message(&[request(READ, read(file, 0, 3000, 0))]);
    for byte in frame(&message) {
        client.connection.send(&[byte]);
    }
    assert_eq!(next(&mut client).body[16..], contents);
    // Even from the very first one.
    let mut client = Client::over(Wire::connect(server.address()));
    let message = client.message(&[request(NEGOTIATE, negotiate(&[0x0302]))]);
    for byte in frame(&message) {
        client.connection.send(&[byte]);
    }
    assert_eq!(next(&mut client).status, Status::SUCCESS);
}

#[test]
fn many_requests_may_come_at_once_and_are_answered_in_order() {
    let dir = TempDir::new();
    let contents = noise(100_000);
    dir.write("file", &contents);
    let server = serve(&dir);
    let mut client = connect(&server);
    let file = client.open("file");
    let first = client.message_id;
    let mut bytes = Vec::new();
    for n in 0..500 {
        let read = request(READ, read(file, n * 100, 200, 200));
        bytes.extend(frame(&client.message(&[read])));
        if n % 3 == 0 {
            bytes.extend([0x85, 0, 0, 0]); // a keepalive
        }
    }
    client.connection.send(&bytes);
    for n in 0..500 {
        let response = next(&mut client);
        assert_eq!(response.message_id, first + n as u64);
        assert!(
            response.body[16..] == contents[n * 100..n * 100 + 200],
            "reply {n}"
        );
    }
}

#[test]
fn the_largest_reads_arrive_whole() {
    let dir = TempDir::new();
    let length = LARGEST_READ as usize;
    let contents = noise(3 * length + 5);
    dir.write("file", &contents);
    let server = serve(&dir);
    for dialect in [0x0210, 0x0300, 0x0302, 0x0311] {
        let mut client = Client::at(server.address(), dialect, "data");
        let file = client.open("file");
        for (n, part) in contents.chunks(length).enumerate() {
            let read = read(file, (n * length) as u64, LARGEST_READ, 0);
            let response = client.expect(request(READ, read).charge(128), Status::SUCCESS);
            assert!(response.body[16..] == *part, "{dialect:#x}, part {n}");
        }
    }
}

/// An ECHO request as it would come from a client that has only just connected.
fn echo() -> Vec<u8> {
    Client::over(()).message(&[request(ECHO, empty())])
}

#[test]
fn what_is_no_message_ends_the_connection_with_a_reason() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let mut bystander = connect(&server);
    let mut too_short_by_4 = frame(&echo());
    too_short_by_4[3] -= 4;
    for (bytes, reason) in [
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            "begins with 0x47",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), "begins with 0x53"),
        (vec![0x16, 3, 1, 2, 0, 1, 0, 1], "begins with 0x16"),
        (vec![0x81, 0, 0, 0x44, 0x20], "NetBIOS session request"),
        (vec![0x81], "NetBIOS session request"),
        (vec![0, 0xFF, 0xFF, 0xFF], "announces 16777215 bytes"),
        (vec![0, 0x81, 0, 1], "announces 8454145 bytes"),
        (vec![0, 0, 0, 34], "34 bytes has no room"),
        (vec![0, 0, 0, 0], "0 bytes has no room"),
        (frame(&echo()[..63]), "63 bytes has no room"),
        (frame(&noise(100)), "without an SMB2 header"),
        (
            frame(&[b"\xFDSMB", &[0; 96][..]].concat()),
            "encrypted message",
        ),
        (
            frame(&[b"\xFCSMB", &[0; 96][..]].concat()),
            "compressed message",
        ),
        (
            frame(&[b"\xFFSMB\x73", &[0; 96][..]].concat()),
            "SMB1 is not spoken",
        ),
        (frame(&echo()), "request before NEGOTIATE"),
        (too_short_by_4, "request before NEGOTIATE"),
    ] {
        let before = server.log.count(reason);
        let mut wire = Wire::connect(server.address());
        wire.send(&bytes);
        wire.expect_closed();
        server.log.expect_count(reason, before + 1);
    }
    bystander.check();
    assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
}

#[test]
fn an_announced_length_that_is_too_short_or_too_long_ends_the_connection() {
    let dir = TempDir::new();
    let server = serve(&dir);
    // The message is cut short; what is left of it is no frame.
    let mut client = connect(&server);
    let mut bytes = frame(&client.message(&[request(ECHO, empty())]));
    bytes.extend([0xEE; 4]);
    client.connection.send(&bytes);
    assert_eq!(next(&mut client).status, Status::SUCCESS);
    client.connection.expect_closed();
    server.log.expect("begins with 0xee");
    // The client leaves the rest owing.
    let mut client = connect(&server);
    let mut bytes = frame(&client.message(&[request(ECHO, empty())]));
    bytes[3] += 1;
    client.connection.send(&bytes);
    client.connection.half_close();
    client.connection.expect_closed();
    server.log.expect("closed in the middle of a message");
    // Or has it begin in the next message; what follows announces more than comes.
    let mut client = connect(&server);
    let mut bytes = frame(&client.message(&[request(ECHO, empty())]));
    bytes[3] += 1;
    bytes.extend(frame(&client.message(&[request(ECHO, empty())])));
    client.connection.send(&bytes);
    assert_eq!(next(&mut client).status, Status::SUCCESS);
    client.connection.half_close();
    client.connection.expect_closed();
    server
        .log
        .expect_count("closed in the middle of a message", 2);
    connect(&server).check();
}

#[test]
fn a_thousand_connections_full_of_garbage_are_survived() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let before = descriptors(server.pid()).len();
    let mut bystander = connect(&server);
    for n in 0..1000usize {
        let mut bytes = noise(7 * n % 400 + 1);
        match n % 4 {
            0 => {}
            // A frame, a message, a message of a client that may send it.
            1 => bytes = frame(&[bytes, vec![0; 64]].concat()),
            2 => bytes = frame(&[&b"\xFESMB\x40\0"[..], &bytes, &[0; 64]].concat()),
            _ => {
                let mut message = echo();
                message[12] = n as u8 % 19;
                message.extend(bytes);
                bytes = frame(&message);
            }
        }
        let mut wire = Wire::connect(server.address());
        // The server may have closed the connection half-way.
        let _ = wire.stream.write_all(&bytes);
        match n % 3 {
            0 => wire.half_close(),
            1 => wire.reset(),
            _ => {}
        }
    }
    bystander.check();
    connect(&server).check();
    drop(bystander);
    wait_for_no_children(server.pid());
    eventually("no descriptor is left", || {
        descriptors(server.pid()).len() == before
    });
    let log = server.log.text();
    assert!(!log.contains("died") && !log.contains("panicked"), "{log}");
    assert_eq!(children(server.pid()), []);
}
