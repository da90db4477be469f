//! What clients' processes give up. Some of it takes root to be seen; others run the rest.

mod common;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::TempDir;
use common::client::*;
use common::logon::{Credentials, Offer, Protected};
use common::process::{children, eventually, only_child, process, status};
use common::server::{SMBD, Server, command};
use common::wire::{Wire, frame};
use rustix::process::{Pid, Signal, kill_process};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

// Bits of the kernel's sets of capabilities.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_skipped_without_root() -> bool {
    if !is_root() {
        eprintln!("skipped: this takes root");
    }
    !is_root()
}

/// A server that was started by root, without `--run-as`, and users who are system users too.
fn system_server(dir: &TempDir, shared: &Path) -> Server {
    Server::run(&mut system_command(dir, shared, SMBD))
}

fn system_command(dir: &TempDir, shared: &Path, program: impl AsRef<OsStr>) -> Command {
    let file = dir.path().join("users");
    let mut users = Users::new();
    for name in ["daemon", "root", "nosuchuser"] {
        users.set(name, NtHash::of_password("secret")).unwrap();
    }
    users.write(&file).unwrap();
    let mut command = Command::new(program);
    command
        .arg(format!("--share=data={}", shared.display()))
        .args(["--listen", "127.0.0.1:0", "--guest", "rw", "--users"])
        .arg(&file);
    command
}

/// An anonymous session, its first or one more of the connection.
#[track_caller]
fn log_on_anonymously<T: Transport>(client: &mut Client<T>) {
    client.session_id = 0;
    let setup = |token: &[u8]| request(SESSION_SETUP, session_setup(token));
    let first = client.expect(setup(&ntlm_negotiate()), Status::MORE_PROCESSING_REQUIRED);
    client.session_id = first.session_id;
    client.expect(setup(&ntlm_authenticate("")), Status::SUCCESS);
}

/// A client that is anonymous.
#[track_caller]
fn anonymous(server: &Server) -> Client<Protected<Wire>> {
    let mut client = client(server);
    client.negotiate(&Offer::of(Dialect::Smb210));
    log_on_anonymously(&mut client);
    client
}

/// The four ids of a process that is all one user's.
fn four(id: u32) -> String {
    vec![id.to_string(); 4].join("\t")
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
    if is_skipped_without_root() {
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
    if is_skipped_without_root() {
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
fn of_root_an_anonymous_client_has_little_and_that_not_for_long() {
    if is_skipped_without_root() {
        return;
    }
    let dir = TempDir::new();
    let server = system_server(&dir, dir.path());
    let mut becomes_user = anonymous(&server);
    let child = only_child(server.pid());
    let rights = format!("{:016x}", 1 << CAP_SETGID | 1 << CAP_SETUID);
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(status(child, set), rights, "{set}");
    }
    assert_eq!(status(child, "CapInh"), "0".repeat(16));
    becomes_user.connect_tree("IPC$", Status::SUCCESS);
    // A user's logon over the same connection finds it as it was.
    becomes_user.session_id = 0;
    becomes_user.authenticate(&user("daemon"), 1, Status::SUCCESS);
    becomes_user.connect_tree("data", Status::SUCCESS);
    assert_eq!(status(child, "Uid"), four(ids("daemon").0));
    assert_eq!(status(child, "CapPrm"), "0".repeat(16));
    log_on_anonymously(&mut becomes_user);
    drop(becomes_user);
    common::process::wait_for_no_children(server.pid());

    let mut stays = anonymous(&server);
    let child = only_child(server.pid());
    let (nobody, group) = ids("nobody");
    eventually("it is nobody's", || status(child, "Uid") == four(nobody));
    assert_eq!(status(child, "Gid"), four(group));
    assert_eq!(status(child, "CapPrm"), "0".repeat(16));
    stays.connect_tree("IPC$", Status::SUCCESS);
    stays.session_id = 0;
    stays.authenticate(&user("daemon"), 1, Status::ACCESS_DENIED);
    server.log.expect("system user \"nobody\"'s");
    stays.session_id = 0;
    stays.authenticate(&Credentials::new("eve", ""), 1, Status::SUCCESS);
}

/// A process that its client has taken over could otherwise have others delete their files.
#[test]
fn a_file_is_deleted_by_the_system_user_alone_who_wants_that() {
    if is_skipped_without_root() {
        return;
    }
    let dir = TempDir::new();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    let server = system_server(&dir, &shared);
    let (daemon, nobody) = (user("daemon"), Credentials::new("eve", ""));
    for (other, is_deleted) in [(&daemon, true), (&nobody, false)] {
        std::fs::write(shared.join("file"), b"x").unwrap();
        chown(shared.join("file"), Some(ids("daemon").0), None).unwrap();
        let mut clients = [&daemon, other].map(|credentials| {
            let mut client = client(&server);
            client.negotiate(&Offer::of(Dialect::Smb210));
            client.authenticate(credentials, 1, Status::SUCCESS);
            client.connect_tree("data", Status::SUCCESS);
            client
        });
        let kept = clients[1].open("file");
        let deleted = create("file", ALL_ACCESS, OPEN, DELETE_ON_CLOSE);
        let deleted = clients[0].expect(request(CREATE, deleted), Status::SUCCESS);
        clients[0].close(deleted.file_id());
        clients[1].close(kept);
        // By whichever process, it has been done before the answer.
        assert_eq!(!shared.join("file").exists(), is_deleted);
    }
}

/// In a user namespace that has all groups, but no user but root.
#[test]
fn a_process_that_is_half_of_somebody_serves_nobody() {
    let can_map = || Command::new("unshare").args(["-U", "true"]).status();
    if !is_root() || !can_map().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this takes root and user namespaces");
        return;
    }
    let dir = TempDir::new();
    let pid_file = dir.path().join("pid");
    let script = "echo $$ > \"$0.new\"; mv \"$0.new\" \"$0\"
        until test $(id -u) = 0; do :; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-U", "sh", "-c", script]).arg(&pid_file);
    let smbd = system_command(&dir, dir.path(), SMBD);
    command.arg(smbd.get_program()).args(smbd.get_args());
    let mapping = thread::spawn(move || {
        eventually("the namespace is there", || pid_file.exists());
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let write = |name, map| std::fs::write(format!("/proc/{}/{name}", pid.trim()), map);
        write("gid_map", "0 0 65536").unwrap();
        write("uid_map", "0 0 1").unwrap();
    });
    let server = Server::run(&mut command);
    mapping.join().unwrap();
    let mut client = client(&server);
    client.negotiate(&Offer::of(Dialect::Smb311));
    client.authenticate(&user("daemon"), 1, Status::ACCESS_DENIED);
    server.log.expect("becoming \"daemon\"");
    client.connection.inner.expect_closed();
    assert_eq!(
        server.log.count("hasn't logged on"),
        0,
        "it has ended before"
    );
}

/// Or somebody who is the same user could read the passwords there, or have them written to a file.
#[test]
fn the_memory_of_a_server_with_users_is_private() {
    let dir = TempDir::new();
    // Everybody can run it there.
    let program = dir.path().join("smbd");
    std::fs::copy(SMBD, &program).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = system_command(&dir, dir.path(), &program);
    if is_root() {
        let (uid, gid) = ids("daemon");
        chown(dir.path().join("users"), Some(uid), Some(gid)).unwrap();
        command.uid(uid).gid(gid);
    }
    let server = Server::run(&mut command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
    // What the system shows of such a process is root's.
    let owner = |pid| {
        std::fs::metadata(format!("/proc/{pid}/maps"))
            .unwrap()
            .uid()
    };
    assert_eq!(owner(server.pid()), 0);
    let mut client = client(&server);
    client.log_on_as(&Offer::of(Dialect::Smb311), &user("daemon"));
    assert_eq!(owner(only_child(server.pid())), 0);
}

/// Libraries that look users up may ask other machines.
#[test]
fn sighup_keeps_nobody_waiting() {
    if is_skipped_without_root() {
        return;
    }
    let dir = TempDir::new();
    let server = system_server(&dir, dir.path());
    let mut users = Users::read(&dir.path().join("users")).unwrap();
    for n in 0..500 {
        users
            .set(&format!("user{n}"), NtHash::from_bytes([1; 16]))
            .unwrap();
    }
    users.write(&dir.path().join("users")).unwrap();
    let state = |pid| process(pid).map(|process| process.state);
    // The process that looks users up is caught before it is done, sooner or later.
    let catch = || {
        let mut caught = None;
        eventually("a process looks users up", || {
            if children(server.pid()).is_empty() {
                server.signal(Signal::HUP);
            }
            let child = children(server.pid()).into_iter().find(|c| c.state != 'Z');
            let Some(child) = child else { return false };
            let pid = Pid::from_raw(child.pid as i32).unwrap();
            if kill_process(pid, Signal::STOP).is_err() {
                return false;
            }
            eventually("it has stopped or is gone", || {
                matches!(state(child.pid), Some('T' | 'Z') | None)
            });
            caught = (state(child.pid) == Some('T')).then_some(pid);
            caught.is_some()
        });
        caught.unwrap()
    };
    let log_on = || {
        let mut client = client(&server);
        client.log_on_as(&Offer::of(Dialect::Smb311), &user("daemon"));
        client.connect_tree("data", Status::SUCCESS);
    };
    let child = catch();
    let reopened = server.log.count("configuration reopened");
    log_on();
    kill_process(child, Signal::CONT).unwrap();
    server
        .log
        .expect_count("configuration reopened", reopened + 1);

    // If it fails everything remains as it was.
    common::process::wait_for_no_children(server.pid());
    kill_process(catch(), Signal::KILL).unwrap();
    server
        .log
        .expect("configuration kept as it was: looking up");
    log_on();

    // Another SIGHUP is for another process to follow.
    common::process::wait_for_no_children(server.pid());
    let child = catch();
    let reopened = server.log.count("configuration reopened");
    server.signal(Signal::HUP);
    server
        .log
        .expect_count("configuration reopened", reopened + 1);
    eventually("the first is gone", || {
        process(child.as_raw_nonzero().get() as u32).is_none()
    });
}

#[test]
fn who_is_no_system_user_or_root_is_refused() {
    if is_skipped_without_root() {
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
    if is_skipped_without_root() {
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
    server.log.expect_count("more than is allowed", 1);
    let mut anonymous = anonymous(&server);
    anonymous.connection.inner.send(&frame(&[0; 70_000]));
    anonymous.connection.inner.expect_closed();
    server.log.expect_count("more than is allowed", 2);
}

#[test]
fn anonymous_clients_make_room_for_others() {
    const PLACES: usize = 64;
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path())]);
    let strangers: Vec<_> = (0..PLACES + 36).map(|_| anonymous(&server)).collect();
    // Guests have no place.
    let mut guests: Vec<_> = (0..3)
        .map(|_| Client::at(server.address(), 0x0311, "data"))
        .collect();
    eventually("those who made room are gone", || {
        children(server.pid()).len() <= PLACES + guests.len()
    });
    for guest in &mut guests {
        guest.check();
    }
    drop(strangers);
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
