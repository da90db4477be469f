//! Many clients at once, and those who want to be in the way.
//!
//! `SMBD_TEST_LOAD=20 cargo test --release -p smbd --test load` runs it with 20 times as many: 10,000
//! half-open connections, 1000 clients at once. That takes 20,000 descriptors, so the tests had better
//! run one by one: `-- --test-threads 1`.

mod common;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::client::*;
use common::logon::{Credentials, Offer, Protected};
use common::process::{
    children, descriptors, eventually, memory, process, unsent, wait_for_no_children,
};
use common::server::Server;
use common::wire::{Wire, frame};
use common::{TempDir, noise};
use rustix::process::{Resource, getrlimit, setrlimit};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

const MIB: usize = 1024 * 1024;
/// Strangers of one address that get a process, at most.
const PLACES: usize = 64;
/// Another address of this machine than the usual one.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// `usual`, times the factor of the environment, as far as the descriptors of this process go.
fn scaled(usual: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("no descriptors");
    let factor = std::env::var("SMBD_TEST_LOAD").map_or(1, |text| text.parse().unwrap());
    let descriptors = limit.current.unwrap_or(u64::MAX) as usize;
    (usual * factor).min(descriptors / 5 * 3)
}

fn connect(server: &Server) -> Client<Wire> {
    Client::at(server.address(), 0x0311, "data")
}

/// A guest from another address.
fn connect_from_other(server: &Server) -> Client<Wire> {
    let mut client = Client::over(Wire::connect_from(OTHER, server.address()));
    client.log_on(0x0311, "data");
    client
}

/// A first message, with its frame.
fn first_message() -> Vec<u8> {
    let mut client = Client::over(());
    frame(&client.message(&[request(NEGOTIATE, negotiate(&[0x0311]))]))
}

/// Works as clients do: makes a file, reads it, closes it.
#[track_caller]
fn work(client: &mut Client<Wire>, name: &str) {
    let file = client.open_if(name, 0);
    client.expect(
        request(WRITE, write(file, name.as_bytes())),
        Status::SUCCESS,
    );
    let read = request(READ, read(file, 0, 4096, 0));
    let response = client.expect(read, Status::SUCCESS);
    assert_eq!(response.body[16..], *name.as_bytes());
    client.close(file);
}

/// Checks that nothing is left of any client.
#[track_caller]
fn check_nothing_left(server: &Server, before: usize) {
    wait_for_no_children(server.pid());
    eventually("no descriptor is left", || {
        descriptors(server.pid()).len() == before
    });
    let log = server.log.text();
    assert!(!log.contains("died") && !log.contains("panicked"), "{log}");
}

/// Sends something, whether or not anybody listens.
fn say(mut connection: &TcpStream, bytes: &[u8]) {
    let _ = connection.write_all(bytes);
}

#[test]
fn half_open_connections_are_bounded_and_others_are_served() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let before = descriptors(server.pid()).len();
    let count = scaled(500);
    let first = first_message();
    let mut early = connect(&server);
    let mut half_open = Vec::new();
    for n in 0..count {
        let connection = Wire::connect_from(OTHER, server.address()).stream;
        // Some say nothing, some a part of something.
        match n % 4 {
            0 => say(&connection, &first[..2]),
            1 => say(&connection, &first[..first.len() - 1]),
            _ => {}
        }
        half_open.push(connection);
        if n % (count / 10) == 0 {
            let mut client = connect(&server);
            work(&mut client, "file");
            early.check();
        }
    }
    // Those of the same address too, as they say something.
    let mut client = connect_from_other(&server);
    work(&mut client, "other");
    early.check();
    eventually("those who have worked are gone", || {
        children(server.pid()).len() <= PLACES + 2
    });
    let parent = memory(server.pid(), "VmRSS");
    assert!(parent < 32 * MIB, "{} MiB", parent / MIB);
    let open = descriptors(server.pid()).len();
    assert!(open < before + 2 * PLACES + 1100, "{open} descriptors");
    drop((half_open, client, early));
    check_nothing_left(&server, before);
}

#[test]
fn strangers_who_go_no_further_make_room() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let before = descriptors(server.pid()).len();
    let first = first_message();
    let stalled: Vec<_> = (0..3 * PLACES)
        .map(|_| {
            let mut connection = Wire::connect_from(OTHER, server.address());
            connection.send(&first);
            connection
        })
        .collect();
    // Behind them all, and served before any of them has used up their ten seconds.
    let mut client = connect_from_other(&server);
    work(&mut client, "file");
    assert_eq!(server.log.count("hasn't logged on, disconnected"), 0);
    let number = children(server.pid()).len();
    assert!(number <= 2 * PLACES + 1, "{number} processes");
    drop((stalled, client));
    check_nothing_left(&server, before);
}

#[test]
fn clients_at_once_are_all_served() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let before = descriptors(server.pid()).len();
    let count = scaled(50).min(1000);
    let together = Arc::new(Barrier::new(count));
    let threads: Vec<_> = (0..count)
        .map(|n| {
            let together = Arc::clone(&together);
            let address = server.address();
            let body = move || {
                let name = format!("file {n}");
                let client = std::panic::catch_unwind(|| {
                    let mut client = Client::at(address, 0x0311, "data");
                    work(&mut client, &name);
                    client
                });
                // All are there at the same time, whatever becomes of them, and work again.
                together.wait();
                work(&mut client.expect("not served"), &name);
            };
            let thread = thread::Builder::new().stack_size(256 * 1024);
            thread.spawn(body).expect("no thread")
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client has failed");
    }
    assert_eq!(server.log.count("refused"), 0, "{}", server.log.text());
    check_nothing_left(&server, before);
}

#[test]
fn clients_that_never_read_harm_nobody() {
    const PIECE: usize = 8 * MIB;
    let dir = TempDir::new();
    dir.write("file", &noise(PIECE));
    let server = Server::start(&[("data", dir.path())]);
    let before = descriptors(server.pid()).len();
    let greedy: Vec<_> = (0..4)
        .map(|_| {
            let mut client = connect(&server);
            let file = client.open("file");
            for _ in 0..8 {
                client.check(); // brings credits
            }
            let mut bytes = Vec::new();
            for _ in 0..20 {
                let read = request(READ, read(file, 0, PIECE as u32, PIECE as u32));
                bytes.extend(frame(&client.message(&[read.charge(128)])));
            }
            client.connection.send(&bytes);
            client
        })
        .collect();
    eventually("all of them are stuck", || {
        let children = children(server.pid());
        let is_stuck = |pid| unsent(pid) > 64 * 1024;
        children
            .iter()
            .all(|child| child.state == 'S' && is_stuck(child.pid))
    });
    for child in children(server.pid()) {
        let peak = memory(child.pid, "VmHWM");
        assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
    }
    let mut client = connect(&server);
    for n in 0..20 {
        work(&mut client, &format!("file {n}"));
    }
    drop((greedy, client));
    check_nothing_left(&server, before);
}

#[test]
fn a_byte_now_and_then_keeps_nobody_connected() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut slow = Wire::connect_from(OTHER, server.address());
    let first = first_message();
    let mut bytes = first.iter();
    let pause = Some(Duration::from_millis(500));
    slow.stream.set_read_timeout(pause).unwrap();
    // The pauses are waits for an answer, or the end.
    for &byte in bytes.by_ref() {
        slow.send(&[byte]);
        let mut client = connect(&server);
        work(&mut client, "file");
        match slow.receive() {
            Ok(None) => break,
            Ok(Some(_)) => panic!("an answer to a part of a message"),
            Err(_) => {}
        }
    }
    assert!(bytes.len() > 0, "it was let send all of its message");
    server.log.expect("127.0.0.2");
    server.log.expect("hasn't logged on");
    eventually("its process has ended", || {
        let children = children(server.pid());
        children.iter().all(|child| process(child.pid).is_none())
    });
}

#[test]
fn guessing_over_many_connections_is_slowed_for_that_address_alone() {
    const GUESSES: usize = 10;
    let dir = TempDir::new();
    let file = dir.path().join("users");
    let mut users = Users::new();
    users.set("bob", NtHash::of_password("secret")).unwrap();
    users.write(&file).unwrap();
    let arguments = ["--users", file.to_str().unwrap()];
    let server = Server::with(&[("data", dir.path())], &arguments);
    let address = server.address();
    let offer = || Offer::of(Dialect::Smb311);
    let from = move |source| Client::over(Protected::new(Wire::connect_from(source, address)));
    let guesses: Vec<_> = (0..GUESSES)
        .map(|n| {
            thread::spawn(move || {
                let mut client = from(OTHER);
                client.negotiate(&offer());
                let guess = Credentials::new("bob", &format!("guess {n}"));
                client.authenticate(&guess, 1, Status::LOGON_FAILURE);
            })
        })
        .collect();
    for guess in guesses {
        guess.join().expect("a guess is answered");
    }
    let line = server.log.expect(&format!("{GUESSES} failed logons"));
    assert!(line.contains("127.0.0.2: "), "{line}");

    // Who has the password gets in from there too, but later.
    let patient = thread::spawn(move || {
        let mut client = from(OTHER);
        client.log_on_as(&offer(), &Credentials::new("bob", "secret"));
        client.connect_tree("data", Status::SUCCESS);
    });
    for _ in 0..20 {
        let mut client = from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        client.log_on_as(&offer(), &Credentials::new("bob", "secret"));
        client.connect_tree("data", Status::SUCCESS);
    }
    let connections = |text: &str| {
        let is_one = |line: &&str| line.contains("127.0.0.2:") && line.ends_with(": connected");
        text.lines().filter(is_one).count()
    };
    assert_eq!(connections(&server.log.text()), GUESSES);
    patient.join().expect("the password is good");
    assert_eq!(connections(&server.log.text()), GUESSES + 1);
}
