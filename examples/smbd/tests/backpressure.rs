//! Clients that don't read, read late, or stop in the middle.

mod common;

use std::io::{ErrorKind, Write};

use common::client::*;
use common::process::{
    children, eventually, is_gone, memory, only_child, process, unsent, wait_for_no_children,
};
use common::server::Server;
use common::smbclient::{have_smbclient, run};
use common::wire::{Wire, frame};
use common::{TempDir, noise};
use smbd::wire::status::Status;

const MIB: usize = 1024 * 1024;
/// The largest READ.
const PIECE: usize = 8 * MIB;
/// What the process of one client may need.
const MEMORY_LIMIT: usize = 64 * MIB;

fn connect(server: &Server) -> Client<Wire> {
    Client::at(server.address(), 0x0311, "data")
}

/// Sends `count` READs of a piece each, without waiting for an answer.
fn pipeline(client: &mut Client<Wire>, count: usize) {
    let file = client.open("file");
    // Each takes 128 credits, and each of these brings 512.
    for _ in 0..count / 4 {
        client.check();
    }
    let mut bytes = Vec::new();
    for n in 0..count {
        let read = request(READ, read(file, n as u64, PIECE as u32, PIECE as u32));
        bytes.extend(frame(&client.message(&[read.charge(128)])));
    }
    client.connection.send(&bytes);
}

/// Receives the answers to [`pipeline`].
#[track_caller]
fn receive(client: &mut Client<Wire>, count: usize, contents: &[u8]) {
    for n in 0..count {
        let reply = client.connection.receive().expect("no reply");
        let reply = reply.unwrap_or_else(|| panic!("closed before reply {n}"));
        let response = responses(&reply).remove(0);
        assert_eq!(response.status, Status::SUCCESS, "reply {n}");
        assert!(
            response.body[16..] == contents[n..n + PIECE],
            "contents of reply {n}"
        );
    }
}

/// A share with a file that [`pipeline`] can read.
fn serve() -> (TempDir, Vec<u8>, Server) {
    let dir = TempDir::new();
    let contents = noise(PIECE + 100);
    dir.write("file", &contents);
    let server = Server::start(&[("data", dir.path())]);
    (dir, contents, server)
}

/// Waits until a process has replies to send and nobody who takes them.
#[track_caller]
fn wait_until_stuck(child: u32) {
    eventually("the child waits for its client to read", || {
        unsent(child) > 64 * 1024 && process(child).is_some_and(|p| p.state == 'S')
    });
}

/// Checks that a process uses no time while the server is busy with others.
#[track_caller]
fn check_sleeps(server: &Server, child: u32) {
    let ticks = || process(child).expect("the child has ended").ticks;
    let before = ticks();
    for _ in 0..50 {
        connect(server).check();
    }
    let used = ticks() - before;
    assert!(used <= 5, "{used} ticks with nothing to do");
}

#[test]
fn a_silent_client_takes_no_time() {
    let (_dir, contents, server) = serve();
    let mut silent = connect(&server);
    let child = only_child(server.pid());
    check_sleeps(&server, child);
    // Nor after replies that had to wait.
    pipeline(&mut silent, 10);
    wait_until_stuck(child);
    receive(&mut silent, 10, &contents);
    check_sleeps(&server, child);
}

#[test]
fn a_client_that_does_not_read_costs_little_and_gets_everything_in_the_end() {
    const COUNT: usize = 40;
    let (_dir, contents, server) = serve();
    let mut lazy = connect(&server);
    let child = only_child(server.pid());
    pipeline(&mut lazy, COUNT);
    wait_until_stuck(child);
    // Others are served meanwhile.
    let mut other = connect(&server);
    pipeline(&mut other, 4);
    receive(&mut other, 4, &contents);
    if have_smbclient() {
        let copy = TempDir::new();
        let copy = copy.path().join("copy");
        run(
            &server,
            "SMB3_11",
            &["-N"],
            &format!("get file {}", copy.display()),
        );
        assert!(std::fs::read(copy).unwrap() == contents);
    }
    // The child does nothing for a client that does nothing.
    check_sleeps(&server, child);
    receive(&mut lazy, COUNT, &contents);
    lazy.check();
    let peak = memory(child, "VmHWM");
    assert!(peak < MEMORY_LIMIT, "{} MiB", peak / MIB);
}

/// Sends ECHOs until the server, process `child`, takes no more, or `limit` bytes are sent.
/// Returns how many went out whole; there may be a part of another one.
fn flood(client: &mut Client<Wire>, child: u32, limit: usize) -> u64 {
    let stream = client.connection.stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let first = client.message_id;
    let (mut sent, mut rest) = (0, Vec::new());
    while sent < limit {
        if rest.is_empty() {
            rest = frame(&client.message(&[request(ECHO, empty())]));
        }
        match (&stream).write(&rest) {
            Ok(count) => {
                rest.drain(..count);
                sent += count;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                if process(child).is_some_and(|child| child.state == 'S') {
                    break;
                }
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    client.message_id - first - u64::from(!rest.is_empty())
}

#[test]
fn many_small_replies_that_wait_are_bounded_as_well() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    let first = client.message_id;
    let count = flood(&mut client, child, 256 * MIB);
    assert!(count > 1000, "{count} requests only");
    let memory = memory(child, "VmHWM");
    assert!(
        memory < MEMORY_LIMIT,
        "{} MiB for {count} replies",
        memory / MIB
    );
    connect(&server).check();
    for n in first..first + count {
        let reply = client
            .connection
            .receive()
            .expect("no reply")
            .expect("closed");
        assert_eq!(responses(&reply)[0].message_id, n);
    }
}

#[test]
fn requests_without_replies_are_read_on() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    let cancel = frame(&client.message(&[request(CANCEL, empty())]));
    for _ in 0..20 {
        client.connection.send(&cancel.repeat(5000));
        client.check();
    }
    assert!(memory(child, "VmHWM") < 16 * MIB);
}

#[test]
fn a_client_that_closes_its_direction_still_gets_its_replies() {
    let (_dir, contents, server) = serve();
    for count in [1, 10] {
        let mut client = connect(&server);
        pipeline(&mut client, count);
        client.connection.half_close();
        receive(&mut client, count, &contents);
        client.connection.expect_closed();
    }
    wait_for_no_children(server.pid());
    assert_eq!(server.log.count("WARN"), 0, "{}", server.log.text());
}

#[test]
fn a_reset_in_the_middle_of_a_reply_ends_the_child() {
    let (_dir, _contents, server) = serve();
    let mut bystander = connect(&server);
    let own = only_child(server.pid());
    for half_closed in [false, true] {
        let mut client = connect(&server);
        let others = children(server.pid()).into_iter();
        let child = others
            .map(|child| child.pid)
            .find(|&pid| pid != own)
            .unwrap();
        pipeline(&mut client, 10);
        wait_until_stuck(child);
        if half_closed {
            client.connection.half_close();
        }
        let ticks = process(child).unwrap().ticks;
        client.connection.reset();
        let mut used = 0;
        eventually("the child has ended", || {
            used = process(child).map_or(used, |child| child.ticks - ticks);
            is_gone(child)
        });
        assert!(used < 20, "{used} ticks to notice a reset");
        eventually("the child is reaped", || children(server.pid()).len() == 1);
    }
    bystander.check();
    let log = server.log.text();
    assert!(!log.contains("died") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_client_that_leaves_with_replies_waiting_ends_the_child() {
    let (_dir, _contents, server) = serve();
    for _ in 0..10 {
        let mut client = connect(&server);
        pipeline(&mut client, 10);
        drop(client);
    }
    wait_for_no_children(server.pid());
    let log = server.log.text();
    assert!(!log.contains("died") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_silent_client_with_replies_waiting_is_dropped_as_well() {
    let dir = TempDir::new();
    dir.write("file", &noise(PIECE + 100));
    let server = Server::with(&[("data", dir.path())], &["--idle-timeout", "1"]);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    pipeline(&mut client, 10);
    server.log.expect("idle, disconnected");
    eventually("the child has ended", || is_gone(child));
}
