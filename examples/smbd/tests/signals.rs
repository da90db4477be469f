//! SIGTERM, SIGINT and SIGHUP.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::client::{Client, READ, read, request};
use common::process::{children, eventually, is_gone, only_child, sockets, wait_for_no_children};
use common::server::{Server, command, kill};
use common::wire::Wire;
use common::{TempDir, noise};
use rustix::process::Signal;
use smbd::wire::status::Status;

/// What a child has to end by itself, once told.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

fn connect(server: &Server) -> Client<Wire> {
    Client::at(server.address(), 0x0311, "data")
}

#[test]
fn told_to_end_the_server_ends_with_all_its_children() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new();
        let mut server = Server::start(&[("data", dir.path())]);
        let mut clients: Vec<_> = (0..3).map(|_| connect(&server)).collect();
        let silent = TcpStream::connect(server.address()).unwrap();
        eventually("there are four children", || {
            children(server.pid()).len() == 4
        });
        let children = children(server.pid());
        server.signal(signal);
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", server.log.text());
        assert!(
            children.iter().all(|child| is_gone(child.pid)),
            "{children:?}"
        );
        for client in &mut clients {
            client.connection.expect_closed();
        }
        drop(silent);
        assert!(
            TcpStream::connect(server.address()).is_err(),
            "still listening"
        );
        // Each of them has ended by itself, none was killed.
        assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
    }
}

#[test]
fn a_child_just_forked_is_told_too() {
    for _ in 0..20 {
        let mut server = Server::with(&[], &["-v"]);
        let _clients = [0; 3].map(|_| TcpStream::connect(server.address()).unwrap());
        let start = Instant::now();
        server.stop();
        let took = start.elapsed();
        assert!(took < STOP_TIMEOUT, "{took:?}:\n{}", server.log.text());
        assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
    }
}

#[test]
fn an_interrupt_from_the_terminal_ends_everybody_well() {
    use std::os::unix::process::CommandExt;
    let dir = TempDir::new();
    let mut server = Server::run(command(&[("data", dir.path())], &[]).process_group(0));
    let mut clients: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    let group = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
    // What a terminal does for Ctrl-C.
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{}", server.log.text());
    assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
    for client in &mut clients {
        client.connection.expect_closed();
    }
}

#[test]
fn listening_ends_at_once_and_a_hung_child_is_killed_after_a_while() {
    let temp = TempDir::new();
    let mut server = Server::run(command(&[], &[]).env("TMPDIR", temp.path()));
    let _hung = Client::at(server.address(), 0x0311, "demo");
    let child = only_child(server.pid());
    let mut other = Client::at(server.address(), 0x0311, "demo");
    kill(child, Signal::STOP);
    let start = Instant::now();
    server.signal(Signal::TERM);
    other.connection.expect_closed();
    // The line to the hung child is all that is left.
    eventually("nobody listens", || sockets(server.pid()).len() == 1);
    assert!(TcpStream::connect(server.address()).is_err());
    assert!(!is_gone(child), "killed before its time");
    let status = server.wait();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0), "{}", server.log.text());
    assert!(is_gone(child));
    assert!(took >= STOP_TIMEOUT && took < 2 * STOP_TIMEOUT, "{took:?}");
    server.log.expect("died");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn the_second_signal_kills_a_hung_child() {
    let dir = TempDir::new();
    let mut server = Server::start(&[("data", dir.path())]);
    let _hung = connect(&server);
    let child = only_child(server.pid());
    kill(child, Signal::STOP);
    let start = Instant::now();
    server.signal(Signal::TERM);
    server.log.expect_count("stopping", 1);
    server.signal(Signal::INT);
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{}", server.log.text());
    assert!(is_gone(child));
    assert!(start.elapsed() < STOP_TIMEOUT, "{:?}", start.elapsed());
}

#[test]
fn a_child_can_be_told_to_end_alone() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut first = connect(&server);
    let child = only_child(server.pid());
    let mut second = connect(&server);
    kill(child, Signal::TERM);
    first.connection.expect_closed();
    eventually("one child is left", || children(server.pid()).len() == 1);
    second.check();
    connect(&server).check();
    assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
}

/// The contents of "file" on the share "data".
fn contents(client: &mut Client<Wire>) -> Vec<u8> {
    let file = client.open("file");
    let read = request(READ, read(file, 0, 1000, 1));
    let response = client.expect(read, Status::SUCCESS);
    response.body[16..].to_vec()
}

#[test]
fn the_configuration_is_reopened_for_later_clients() {
    let dir = TempDir::new();
    dir.write("share/file", b"old");
    let (path, away) = (dir.path().join("share"), dir.path().join("away"));
    let server = Server::start(&[("data", &path)]);
    let mut early = connect(&server);
    std::fs::rename(&path, &away).unwrap();
    dir.write("share/file", b"new");
    assert_eq!(contents(&mut connect(&server)), b"old", "before the signal");
    server.signal(Signal::HUP);
    server.log.expect("configuration reopened");
    assert_eq!(contents(&mut connect(&server)), b"new");
    assert_eq!(contents(&mut early), b"old", "an open connection");

    // One that can't be reopened stays.
    std::fs::remove_dir_all(&path).unwrap();
    dir.write("share", b"no directory");
    server.signal(Signal::HUP);
    let line = server.log.expect("configuration kept as it was");
    assert!(
        line.contains("share data") && line.contains("ot a directory"),
        "{line}"
    );
    early.check();
    connect(&server).check();
    std::fs::remove_file(&path).unwrap();
    server.signal(Signal::HUP);
    server.log.expect("No such file");
    connect(&server).check();

    // And it is taken when it is back.
    dir.write("share/file", b"again");
    server.signal(Signal::HUP);
    server.log.expect_count("configuration reopened", 2);
    assert_eq!(contents(&mut connect(&server)), b"again");
}

#[test]
fn reopening_leaves_nothing_open() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let count = || common::process::descriptors(server.pid()).len();
    let before = count();
    for times in 1..50 {
        server.signal(Signal::HUP);
        server.log.expect_count("configuration reopened", times);
    }
    eventually("no descriptor is left", || count() == before);
}

#[test]
fn a_child_is_not_interested_in_the_configuration() {
    let dir = TempDir::new();
    dir.write("file", &noise(1000));
    let server = Server::start(&[("data", dir.path())]);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    for _ in 0..10 {
        kill(child, Signal::HUP);
        client.check();
    }
    assert_eq!(contents(&mut client), noise(1000));
    assert_eq!(only_child(server.pid()), child);
    assert_eq!(server.log.count("configuration"), 0);
    drop(client);
    wait_for_no_children(server.pid());
}
