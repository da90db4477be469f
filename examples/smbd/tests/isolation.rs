//! What clients' processes give up. Some of it takes root to be seen; others run the rest.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::TempDir;
use common::client::{CREATE, Client, READ_ACCESS, create, request};
use common::logon::{Credentials, Offer, Protected};
use common::process::{eventually, only_child, status};
use common::server::{Server, command};
use common::wire::{Wire, frame};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A server that was started by root, without `--run-as`, and users who are system users too.
fn system_server(dir: &TempDir, shared: &Path) -> Server {
    let file = dir.path().join("users");
    let mut users = Users::new();
    for name in ["daemon", "root", "nosuchuser"] {
        users.set(name, NtHash::of_password("secret")).unwrap();
    }
    users.write(&file).unwrap();
    let mut command = std::process::Command::new(common::server::SMBD);
    command
        .arg(format!("--share=data={}", shared.display()))
        .args(["--listen", "127.0.0.1:0", "--guest", "rw", "--users"])
        .arg(&file);
    Server::run(&mut command)
}

fn client(server: &Server) -> Client<Protected<Wire>> {
    Client::over(Protected::new(Wire::connect(server.address())))
}

fn user(name: &str) -> Credentials {
    Credentials::new(name, "secret")
}

/// The user of `/etc/passwd`: uid and gid.
fn ids(name: &str) -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name)
        .expect("no such user");
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

#[test]
fn a_clients_process_has_no_way_back() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let _client = Client::at(server.address(), 0x0311, "data");
    let child = only_child(server.pid());
    assert_eq!(status(child, "NoNewPrivs"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let words = line.expect("no such limit").split_whitespace();
        words.map(str::to_owned).take(2).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max processes"), ["0", "0"]);
    assert_ne!(limit("Max data size")[1], "unlimited");
}

#[test]
fn a_clients_process_is_confined_to_the_shares_if_the_kernel_can_do_that() {
    let dir = TempDir::new();
    let server = Server::with(&[("data", dir.path())], &["-v"]);
    let mut client = Client::at(server.address(), 0x0311, "data");
    client.check();
    // The two are told at different times by different processes.
    let count = || server.log.count("confined to the shares") + server.log.count("no Landlock");
    eventually("it is told", || count() > 0);
    assert_eq!(count(), 1, "{}", server.log.text());
}

#[test]
fn a_clients_process_is_named_after_its_client() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let _client = Client::at(server.address(), 0x0311, "data");
    let child = only_child(server.pid());
    assert_eq!(status(child, "Name"), "smbd 127.0.0.1");
}

#[test]
fn started_by_root_a_process_becomes_its_user() {
    if !is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let dir = TempDir::new();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let (uid, gid) = ids("daemon");
    chown(&shared, Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(shared.join("roots"), b"secret").unwrap();
    std::fs::set_permissions(shared.join("roots"), PermissionsExt::from_mode(0o600)).unwrap();
    let server = system_server(&dir, &shared);
    let mut client = client(&server);
    client.negotiate(&Offer::of(Dialect::Smb311));
    let child = only_child(server.pid());
    assert_eq!(status(child, "Uid"), "0\t0\t0\t0");
    drop(client);
    common::process::wait_for_no_children(server.pid());

    let mut client = self::client(&server);
    client.log_on_as(&Offer::of(Dialect::Smb311), &user("daemon"));
    let child = only_child(server.pid());
    let four = |id: u32| vec![id.to_string(); 4].join("\t");
    assert_eq!(status(child, "Uid"), four(uid));
    assert_eq!(status(child, "Gid"), four(gid));
    assert_eq!(status(child, "CapEff"), "0".repeat(16));
    assert!(!status(child, "Groups").split(' ').any(|group| group == "0"));
    client.connect_tree("data", Status::SUCCESS);
    let roots = create("roots", READ_ACCESS, 1, 0);
    client.expect(request(CREATE, roots), Status::ACCESS_DENIED);
    let own = create("own", 0x0012_019F, 2, 0);
    client.expect(request(CREATE, own), Status::SUCCESS);
    let metadata = std::fs::metadata(shared.join("own")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (uid, gid));
}

#[test]
fn a_connection_serves_one_system_user() {
    if !is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let dir = TempDir::new();
    let server = system_server(&dir, dir.path());
    let mut client = client(&server);
    client.log_on_as(&Offer::of(Dialect::Smb210), &user("daemon"));
    client.session_id = 0;
    client.connection.keys = None;
    // A guest is nobody.
    let eve = Credentials::new("eve", "");
    client.authenticate(&eve, 1, Status::ACCESS_DENIED);
    server
        .log
        .expect("system user \"daemon\"'s, and not \"nobody\"'s");
    client.session_id = 0;
    client.authenticate(&user("daemon"), 1, Status::SUCCESS);
}

#[test]
fn who_is_no_system_user_or_root_is_refused() {
    if !is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let dir = TempDir::new();
    let server = system_server(&dir, dir.path());
    for (name, reason) in [
        ("nosuchuser", "there is no system user \"nosuchuser\""),
        ("root", "\"root\" is root"),
    ] {
        let mut client = client(&server);
        client.negotiate(&Offer::of(Dialect::Smb311));
        client.authenticate(&user(name), 1, Status::ACCESS_DENIED);
        server.log.expect(reason);
    }
}

#[test]
fn everybody_can_be_served_as_one_user() {
    if !is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let dir = TempDir::new();
    let (uid, gid) = ids("daemon");
    chown(dir.path(), Some(uid), Some(gid)).unwrap();
    let server = Server::with(&[("data", dir.path())], &["--run-as", "daemon"]);
    let mut client = Client::at(server.address(), 0x0311, "data");
    let made = create("made", 0x0012_019F, 2, 0);
    client.expect(request(CREATE, made), Status::SUCCESS);
    assert_eq!(
        std::fs::metadata(dir.path().join("made")).unwrap().uid(),
        uid
    );
}

#[test]
fn the_user_to_run_as_has_to_be_possible() {
    let output = command(&[], &["--run-as", "nosuchuser"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("there is no system user"), "{text}");
}

#[test]
fn strangers_may_not_send_long_messages() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut wire = Wire::connect(server.address());
    wire.send(&frame(&[0; 70_000]));
    wire.expect_closed();
    server.log.expect("more than is allowed");
}

#[test]
fn who_does_not_log_on_is_sent_away() {
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let mut client = Client::at(server.address(), 0x0311, "data");
    let mut silent = Wire::connect(server.address());
    let mut slow = self::client(&server);
    slow.negotiate(&Offer::of(Dialect::Smb311));
    silent.expect_closed();
    slow.connection.inner.expect_closed();
    server.log.expect_count("hasn't logged on", 2);
    // Who has is not concerned.
    client.check();
}
