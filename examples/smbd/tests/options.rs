//! What the options do to the running program.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::time::Duration;

use common::client::{Client, NEGOTIATE, READ, negotiate, read, request};
use common::process::{
    children, descriptors, eventually, only_child, sockets, wait_for_no_children,
};
use common::server::{Server, command};
use common::smbclient::have_smbclient;
use common::wire::Wire;
use common::{TempDir, noise};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use smbd::wire::status::Status;

/// Runs the program to its end, which has to come by itself.
fn output(args: &[&str]) -> Output {
    let command = &mut command(&[], args);
    command.output().expect("the program can't be run")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_arguments_are_told_in_one_line() {
    for args in [
        &["--listen", "nowhere"][..],
        &["--share", "data=/does/not/exist"],
        &["--socket-options", "SO_SNDLOWAT=1"],
        &["--max-clients"],
        &["--unknown"],
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(text.starts_with("smbd: "), "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_printed() {
    for (option, part) in [("--help", "--share NAME=PATH"), ("-V", "smbd 0.")] {
        let output = output(&[option]);
        assert!(output.status.success(), "{option}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(part), "{option}: {text}");
    }
}

#[test]
fn an_address_that_cannot_be_opened_leaves_the_others_serving() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let dir = TempDir::new();
    let listen = [
        taken.to_string(),
        "127.0.0.1:0".into(),
        "127.0.0.2:0".into(),
    ];
    let args: Vec<&str> = listen.iter().flat_map(|l| ["--listen", l]).collect();
    let server = Server::with(&[("data", dir.path())], &args);
    server.log.expect(&format!("can't listen on {taken}: "));
    let second = server.stdout.expect("listening on 127.0.0.2:");
    let second: SocketAddr = second["listening on ".len()..].parse().unwrap();
    for address in [server.address(), second] {
        Client::at(address, 0x0311, "data").check();
    }
}

#[test]
fn without_any_address_the_program_says_why_and_fails() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = output(&["--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("smbd: there is nothing to listen on: "),
        "{text}"
    );
    assert!(last.contains("in use"), "{text}");
}

#[test]
fn without_a_share_there_is_one_to_try() {
    let temp = TempDir::new();
    let mut server = Server::run(command(&[], &[]).env("TMPDIR", temp.path()));
    let line = server.stdout.expect("try: smbclient");
    let demo = || std::fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(demo(), 1, "directories made");
    if have_smbclient() {
        let try_it = line.strip_prefix("try: ").unwrap();
        let listing = format!("{try_it} -c 'recurse; ls'");
        let output = Command::new("sh").args(["-c", &listing]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", stderr(&output));
        for name in ["README.txt", "Grüße.txt", "large.txt"] {
            assert!(text.contains(name), "no {name}: {text}");
        }
    }
    Client::at(server.address(), 0x0302, "demo").check();
    wait_for_no_children(server.pid());
    assert_eq!(demo(), 1, "a child has removed the demo share");
    server.stop();
    assert_eq!(demo(), 0, "the demo share is still there");
}

#[test]
fn no_more_clients_than_allowed_are_served() {
    let dir = TempDir::new();
    let server = Server::with(&[("data", dir.path())], &["--max-clients", "2"]);
    let connect = || Client::at(server.address(), 0x0311, "data");
    let (mut first, second) = (connect(), connect());
    for _ in 0..20 {
        Wire::connect(server.address()).expect_closed();
    }
    // The log has the first, and how many others there were.
    let told_first = "refused, there are 2 clients";
    server.log.expect(told_first);
    eventually("all are told", || {
        let text = server.log.text();
        let told = text
            .lines()
            .filter_map(|line| line.split_once("refused likewise: "));
        let likewise = told.filter_map(|(_, told)| told.split(' ').next()?.parse::<usize>().ok());
        likewise.sum::<usize>() + server.log.count(told_first) == 20
    });
    assert!(server.log.count(told_first) < 20, "{}", server.log.text());
    assert_eq!(children(server.pid()).len(), 2);
    first.check();
    drop(second);
    eventually("one client is left", || children(server.pid()).len() == 1);
    // That the kernel has forgotten the child doesn't mean that its parent has.
    eventually("another client is served", || {
        let mut third = Client::over(Wire::connect(server.address()));
        third
            .send(&[request(NEGOTIATE, negotiate(&[0x0311]))])
            .is_ok()
    });
    first.check();
}

#[test]
fn a_silent_client_is_dropped_and_a_busy_one_is_not() {
    let dir = TempDir::new();
    let server = Server::with(&[("data", dir.path())], &["--idle-timeout", "2"]);
    let mut busy = Client::at(server.address(), 0x0311, "data");
    // One that has something open would lose it.
    dir.write("file", b"x");
    let mut opener = Client::at(server.address(), 0x0311, "data");
    let file = opener.open("file");
    // One that has logged on, and one that never said anything.
    let logged_on = Client::at(server.address(), 0x0311, "data");
    let mut silent = [logged_on.connection, Wire::connect(server.address())];
    let mut dropped = 0;
    while dropped < silent.len() {
        busy.check();
        dropped = server.log.count("idle, disconnected");
    }
    silent.iter_mut().for_each(Wire::expect_closed);
    busy.check();
    eventually("the busy client and the other one are left", || {
        children(server.pid()).len() == 2
    });
    busy.check();
    opener.expect(request(READ, read(file, 0, 1, 0)), Status::SUCCESS);
}

#[test]
fn the_interactive_server_serves_one_client_in_its_own_process() {
    let dir = TempDir::new();
    dir.write("file", &noise(100_000));
    let args = [
        "--interactive",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.2:0",
    ];
    let mut server = Server::with(&[("data", dir.path())], &args);
    assert_eq!(sockets(server.pid()).len(), 2);
    let mut client = Client::at(server.address(), 0x0311, "data");
    client.open("file");
    assert_eq!(children(server.pid()), []);
    assert_eq!(
        sockets(server.pid()).len(),
        3,
        "only the client's socket is open, and both ends of the line to what is shared"
    );
    client.check();
    drop(client);
    let status = server.wait();
    assert!(status.success(), "{status}: {}", server.log.text());
}

#[test]
fn the_interactive_server_ends_when_told_to() {
    let mut server = Server::with(&[], &["--interactive"]);
    let mut client = Client::at(server.address(), 0x0311, "demo");
    server.stop();
    client.connection.expect_closed();
    Server::with(&[], &["--interactive"]).stop();
}

#[test]
fn the_log_tells_more_when_asked() {
    let dir = TempDir::new();
    let log = |args: &[&str]| {
        let mut server = Server::with(&[("data", dir.path())], args);
        Client::at(server.address(), 0x0311, "data").check();
        wait_for_no_children(server.pid());
        server.stop();
        server.log.expect("disconnected");
        server.log.count("DEBUG")
    };
    assert_eq!(log(&[]), 0);
    assert!(log(&["-v"]) > 0);
    assert!(log(&["-vv"]) > 0);
}

/// A copy of the client's socket in a server that runs with `options`; `None` where the system
/// doesn't give it out.
#[track_caller]
fn accepted_socket(options: &str) -> Option<OwnedFd> {
    let server = Server::with(&[], &["--socket-options", options]);
    let _client = Client::at(server.address(), 0x0311, "demo");
    let pid = only_child(server.pid());
    let sockets = sockets(pid);
    for (&number, target) in &descriptors(pid) {
        if !sockets.contains(target) {
            continue;
        }
        let process = pidfd_open(Pid::from_raw(pid as i32)?, PidfdFlags::empty());
        let copy = process.and_then(|p| pidfd_getfd(p, number as i32, PidfdGetfdFlags::empty()));
        let copy = copy
            .inspect_err(|e| eprintln!("skipped: the server's socket can't be had: {e}"))
            .ok()?;
        // The other one is the line to the parent.
        if sockopt::socket_domain(&copy) != Ok(AddressFamily::UNIX) {
            return Some(copy);
        }
    }
    panic!("the child has no connection");
}

#[test]
fn socket_options_reach_the_accepted_socket() {
    let options = "TCP_NODELAY SO_RCVBUF=65536 SO_SNDBUF=32768 TCP_KEEPIDLE=30 TCP_KEEPINTVL=7 \
                   TCP_KEEPCNT=4 TCP_USER_TIMEOUT=9000 IPTOS_LOWDELAY SO_BROADCAST SO_REUSEPORT";
    let Some(socket) = accepted_socket(options) else {
        return;
    };
    assert_eq!(sockopt::tcp_nodelay(&socket), Ok(true));
    // The kernel doubles both, for its own bookkeeping.
    assert_eq!(sockopt::socket_recv_buffer_size(&socket), Ok(2 * 65536));
    assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(2 * 32768));
    let seconds = |seconds| Ok(Duration::from_secs(seconds));
    assert_eq!(sockopt::tcp_keepidle(&socket), seconds(30));
    assert_eq!(sockopt::tcp_keepintvl(&socket), seconds(7));
    assert_eq!(sockopt::tcp_keepcnt(&socket), Ok(4));
    assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(9000));
    assert_eq!(sockopt::ip_tos(&socket), Ok(0x10));
    assert_eq!(sockopt::socket_broadcast(&socket), Ok(true));
    assert_eq!(sockopt::socket_reuseport(&socket), Ok(true));
    assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
}

#[test]
fn replies_leave_at_once_and_silent_clients_are_probed_unless_that_is_turned_off() {
    for (options, is_on) in [("", true), ("SO_KEEPALIVE=0 TCP_NODELAY=0", false)] {
        let Some(socket) = accepted_socket(options) else {
            return;
        };
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(is_on), "{options:?}");
        assert_eq!(sockopt::tcp_nodelay(&socket), Ok(is_on), "{options:?}");
    }
}
