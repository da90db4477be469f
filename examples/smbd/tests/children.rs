//! What a client's process gets from its parent, and what it leaves behind.

mod common;

use std::net::TcpStream;
use std::path::Path;

use common::client::{CLOSE, Client, LOGOFF, READ, TREE_DISCONNECT, close, empty, read, request};
use common::process::{
    children, descriptors, eventually, is_gone, only_child, process, sockets, status,
    wait_for_no_children,
};
use common::server::{Server, kill};
use common::smbclient::{DIALECTS, have_smbclient, run};
use common::wire::Wire;
use common::{TempDir, noise};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use smbd::wire::status::Status;

fn connect(server: &Server) -> Client<Wire> {
    Client::at(server.address(), 0x0311, "data")
}

fn serve(dir: &TempDir) -> Server {
    Server::start(&[("data", dir.path())])
}

#[test]
fn a_killed_child_is_reaped_and_the_others_go_on() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let mut victim = connect(&server);
    let child = only_child(server.pid());
    let mut other = connect(&server);
    kill(child, Signal::KILL);
    let line = server.log.expect(&format!("process {child} died"));
    assert!(line.contains("127.0.0.1:") && line.contains('9'), "{line}");
    eventually("the dead child is reaped", || {
        children(server.pid()).len() == 1
    });
    victim.connection.expect_closed();
    other.check();
    connect(&server).check();
}

/// Checks that nothing is left of any client.
#[track_caller]
fn check_nothing_left(server: &Server, before: usize) {
    wait_for_no_children(server.pid());
    eventually("no descriptor is left", || {
        descriptors(server.pid()).len() == before
    });
    assert_eq!(server.log.count("died"), 0, "{}", server.log.text());
    assert_eq!(server.log.count("exited with"), 0, "{}", server.log.text());
}

#[test]
fn two_hundred_connections_leave_nothing_behind() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let before = descriptors(server.pid()).len();
    for _ in 0..200 {
        drop(TcpStream::connect(server.address()).unwrap());
    }
    server.log.expect_count(": disconnected", 200);
    check_nothing_left(&server, before);
    connect(&server).check();
}

#[test]
fn two_hundred_sessions_leave_nothing_behind() {
    let dir = TempDir::new();
    let contents = noise(100_000);
    dir.write("file", &contents);
    let server = serve(&dir);
    let before = descriptors(server.pid()).len();
    let dialects = [0x0202, 0x0210, 0x0300, 0x0302, 0x0311];
    for (session, dialect) in (0..200).zip(dialects.into_iter().cycle()) {
        let mut client = Client::at(server.address(), dialect, "data");
        let file = client.open("file");
        let read = request(READ, read(file, 0, 65536, 65536));
        let response = client.expect(read, Status::SUCCESS);
        assert!(
            response.body[16..] == contents[..65536],
            "session {session}"
        );
        // Some say good-bye.
        if session % 2 == 0 {
            client.expect(request(CLOSE, close(file, 0)), Status::SUCCESS);
            client.expect(request(TREE_DISCONNECT, empty()), Status::SUCCESS);
            client.expect(request(LOGOFF, empty()), Status::SUCCESS);
        }
    }
    if have_smbclient() {
        for dialect in DIALECTS {
            run(&server, dialect, &["-N"], "ls");
        }
    }
    check_nothing_left(&server, before);
}

#[test]
fn fifty_clients_at_once_leave_nothing_behind() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let before = descriptors(server.pid()).len();
    let listening = sockets(server.pid());
    let mut clients: Vec<_> = (0..50).map(|_| connect(&server)).collect();
    assert_eq!(children(server.pid()).len(), 50);
    // The parent keeps no copy of their connections, but a line to each child.
    eventually("the parent has closed its copies", || {
        sockets(server.pid()).len() == listening.len() + 50
    });
    clients.iter_mut().for_each(Client::check);
    drop(clients);
    check_nothing_left(&server, before);
}

#[test]
fn a_child_has_its_client_and_the_shares_and_nothing_else() {
    let dir = TempDir::new();
    let args = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let server = Server::with(&[("data", dir.path())], &args);
    server.stdout.expect("listening on 127.0.0.2:");
    let listening = sockets(server.pid());
    assert_eq!(listening.len(), 2);
    let _other = connect(&server);
    let first = only_child(server.pid());
    let _client = connect(&server);
    let second = children(server.pid())
        .into_iter()
        .find(|child| child.pid != first);
    let second = second.expect("no second child").pid;

    let parent = descriptors(server.pid());
    // What whoever runs the tests has left open is none of the server's doing.
    let tests = descriptors(std::process::id());
    // Those by which the parent waits for its children are its own.
    let kernel = |(_, target): &(&u32, &String)| {
        target.starts_with("anon_inode:") && !target.contains("pidfd")
    };
    for child in [first, second] {
        let all = descriptors(child);
        let sockets = sockets(child);
        // Its client's, and its end of the line to the parent.
        assert_eq!(sockets.len(), 2, "{all:?}");
        assert!(
            !sockets.iter().any(|socket| listening.contains(socket)),
            "a listening socket: {all:?}"
        );
        assert_eq!(
            all.iter().filter(kernel).count(),
            parent.iter().filter(kernel).count(),
            "kernel objects of the loop: {all:?}, the parent's: {parent:?}"
        );
        for (number, target) in &all {
            let share = Path::new(target) == dir.path();
            let expected = *number <= 2
                || tests.get(number) == Some(target)
                || share && parent.get(number) == Some(target)
                || sockets.contains(target)
                || kernel(&(number, target));
            assert!(
                expected,
                "descriptor {number} leaked: {target}; all: {all:?}"
            );
        }
    }
    assert_ne!(sockets(first), sockets(second));
}

#[test]
fn a_child_has_signals_of_its_own() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let _client = connect(&server);
    let child = only_child(server.pid());
    let set = |pid, name| u64::from_str_radix(&status(pid, name), 16).unwrap();
    let bit = |signal: Signal| 1u64 << (signal.as_raw() - 1);
    for pid in [server.pid(), child] {
        assert_eq!(set(pid, "SigBlk"), 0, "signals are blocked");
        assert_eq!(set(pid, "SigPnd") | set(pid, "ShdPnd"), 0, "signals wait");
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            assert_ne!(
                set(pid, "SigCgt") & bit(signal),
                0,
                "{signal:?} is not handled"
            );
        }
    }
    assert_eq!(
        set(child, "SigCgt") & bit(Signal::CHILD),
        0,
        "it has no children"
    );
    assert_eq!(set(child, "SigIgn"), set(server.pid(), "SigIgn"));
}

#[test]
fn a_child_that_outlives_its_parent_holds_no_port() {
    let dir = TempDir::new();
    let mut server = serve(&dir);
    let mut client = connect(&server);
    let child = only_child(server.pid());
    kill(server.pid(), Signal::KILL);
    server.wait();
    let address = server.address().to_string();
    let successor = Server::with(&[("data", dir.path())], &["--listen", &address]);
    connect(&successor).check();
    // What the old one's client shares with others is lost, so it has to come again.
    client.connection.expect_closed();
    eventually("the orphan has ended", || is_gone(child));
}

/// The number that the next descriptor of a process gets.
fn first_free(pid: u32) -> u64 {
    let used = descriptors(pid);
    (0..)
        .find(|number| !used.contains_key(number))
        .unwrap()
        .into()
}

#[test]
fn without_descriptors_the_server_waits_and_does_not_spin() {
    let dir = TempDir::new();
    let server = serve(&dir);
    let mut early = connect(&server);
    let pid = Pid::from_raw(server.pid() as i32);
    let old = rustix::process::getrlimit(Resource::Nofile);
    let limit = |soft: u64| {
        let new = Rlimit {
            current: Some(soft),
            maximum: old.maximum,
        };
        prlimit(pid, Resource::Nofile, new).unwrap();
    };
    let ticks = || process(server.pid()).unwrap().ticks;
    limit(first_free(server.pid()));
    let before = ticks();
    let start = std::time::Instant::now();
    let waiting: Vec<_> = (0..5).map(|_| Wire::connect(server.address())).collect();
    server.log.expect_count("pausing", 10);
    let (used, took) = (ticks() - before, start.elapsed());
    // Ten pauses of 200 ms, with a few system calls before each. A tick is 10 ms.
    assert!(used <= 20, "{used} ticks in {took:?}");
    assert!(took.as_millis() >= 1500, "ten pauses took {took:?} only");
    early.check();
    assert_eq!(children(server.pid()).len(), 1);

    limit(old.current.unwrap_or(u64::MAX));
    for connection in waiting {
        let mut client = Client::over(connection);
        client.log_on(0x0311, "data");
        client.check();
    }
    // It has not forgotten to listen.
    connect(&server).check();
}

#[test]
fn a_server_that_is_short_of_descriptors_from_the_start_serves_all_the_same() {
    let dir = TempDir::new();
    dir.write("file", &noise(1000));
    let probe = serve(&dir);
    let _client = connect(&probe);
    // What a child has at most, and a file or two; and what each child costs the parent: its line,
    // and a descriptor that tells of its end.
    let needed = first_free(only_child(probe.pid())) + 3 + 2 * 20;
    let mut command = std::process::Command::new("sh");
    let run = format!("ulimit -n {needed}; exec \"$0\" \"$@\"");
    command.args(["-c", &run, common::server::SMBD, "--listen", "127.0.0.1:0"]);
    command.arg(format!("--share=data={}", dir.path().display()));
    let server = Server::run(&mut command);
    let mut clients: Vec<_> = (0..20).map(|_| connect(&server)).collect();
    for client in &mut clients {
        client.open("file");
    }
}
