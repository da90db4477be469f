//! `smbd passwd`, the file of users and the configuration file.

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::TempDir;
use common::client::Client;
use common::logon::{Credentials, Offer, Protected};
use common::server::{SMBD, Server, command};
use common::wire::Wire;
use rustix::process::Signal;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

/// Runs `smbd passwd` with `input` as its standard input.
fn passwd(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(SMBD)
        .arg("passwd")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that doesn't ask may have ended.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn set_password(file: &Path, name: &str, password: &str) {
    let users = file.to_str().unwrap();
    let output = passwd(&["--users", users, name], password.as_bytes());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(output.stdout.is_empty() && text.is_empty(), "{text}");
}

type Remote = Client<Protected<Wire>>;

/// Negotiates and logs on.
#[track_caller]
fn log_on(server: &Server, user: &str, password: &str, status: Status) -> Remote {
    let mut client = Client::over(Protected::new(Wire::connect(server.address())));
    let credentials = Credentials::new(user, password);
    if status == Status::SUCCESS {
        client.log_on_as(&Offer::of(Dialect::Smb311), &credentials);
    } else {
        client.negotiate(&Offer::of(Dialect::Smb311));
        client.authenticate(&credentials, 1, status);
    }
    client
}

#[test]
fn passwords_are_set_changed_and_removed() {
    let dir = TempDir::new();
    let file = dir.path().join("new/directory/users");
    let text = || std::fs::read_to_string(&file).unwrap();
    set_password(&file, "bob", "secret\n");
    let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    assert_eq!(text(), "bob:878D8014606CDA29677A44EFA1353FC7\n");
    set_password(&file, "Änne", "password");
    set_password(&file, "BOB", "password\r\n");
    let hash = "8846F7EAEE8FB117AD06BDD830B7586C";
    assert_eq!(text(), format!("bob:{hash}\nÄnne:{hash}\n"));
    let users = file.to_str().unwrap();
    for (args, input, part) in [
        (&["bob"][..], "", "empty password"),
        (&["bob"], "\n", "empty password"),
        (&["a:b"], "x", "a name has none of"),
        (&["--delete", "eve"], "", "no user \"eve\""),
    ] {
        let args = [&["--users", users], args].concat();
        let output = passwd(&args, input.as_bytes());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text.contains(part), "{args:?}: {text}");
    }
    assert_eq!(text(), format!("bob:{hash}\nÄnne:{hash}\n"));
    let output = passwd(&["--users", users, "--delete", "bob"], b"");
    assert!(output.status.success());
    assert_eq!(text(), format!("Änne:{hash}\n"));
    assert_eq!(mode(), 0o600);
    // No other files are left.
    let entries = std::fs::read_dir(file.parent().unwrap()).unwrap();
    assert_eq!(entries.count(), 1);
}

#[test]
fn ten_passwords_at_once_are_all_kept() {
    let dir = TempDir::new();
    let file = dir.path().join("users");
    std::thread::scope(|scope| {
        for n in 0..10 {
            let file = &file;
            scope.spawn(move || set_password(file, &format!("user{n}"), "secret"));
        }
    });
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 10, "{text}");
}

#[test]
fn a_file_of_users_that_others_can_read_is_refused() {
    let dir = TempDir::new();
    let file = dir.path().join("users");
    set_password(&file, "bob", "secret");
    for mode in [0o604, 0o640, 0o660] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let output = command(&[], &["--users", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("chmod 600"), "{text}");
    }
}

#[test]
fn failed_logons_are_logged_without_what_is_secret() {
    let dir = TempDir::new();
    let file = dir.path().join("users");
    set_password(&file, "bob", "correcthorse");
    let server = Server::with(
        &[("data", dir.path())],
        &["--users", file.to_str().unwrap(), "-vv"],
    );
    log_on(&server, "bob", "battery", Status::LOGON_FAILURE);
    let line = server.log.expect("wrong password for user \"bob\"");
    assert!(line.contains("127.0.0.1:"), "the address: {line}");
    log_on(&server, "eve\n", "staple", Status::LOGON_FAILURE);
    server.log.expect("no user \"eve\\n\"");
    let mut bob = log_on(&server, "bob", "correcthorse", Status::SUCCESS);
    bob.connect_tree("data", Status::SUCCESS);
    server.log.expect("of user \"bob\"");
    let hash = std::fs::read_to_string(&file).unwrap();
    let hash = hash.trim().split_once(':').unwrap().1.to_lowercase();
    let log = server.log.text().to_lowercase();
    for secret in ["battery", "staple", "correcthorse", &hash] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// A configuration with users beside it.
struct Configured {
    dir: TempDir,
    file: PathBuf,
}

impl Configured {
    fn new(text: &str) -> Configured {
        let dir = TempDir::new();
        for share in ["one", "two"] {
            dir.write(&format!("{share}/file"), share.as_bytes());
        }
        set_password(&dir.path().join("users"), "bob", "secret");
        let file = dir.path().join("smbd.conf");
        let configured = Configured { dir, file };
        configured.write(text);
        configured
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    fn start(&self) -> Server {
        Server::with(&[], &["--config", self.file.to_str().unwrap()])
    }
}

#[test]
fn a_configuration_file_says_what_the_command_line_can_say() {
    let configured = Configured::new(
        "# a comment\n\n[global]\n  users = users\n  Guest = ro\n  max clients = 7\n\n\
         ; another\n[one]\npath = one\n\n[two]\npath=two\nusers = alice bob\nread  only = yes\n",
    );
    let server = configured.start();
    let mut bob = log_on(&server, "bob", "secret", Status::SUCCESS);
    let response = bob.connect_tree("one", Status::SUCCESS);
    assert_ne!(response.u32(12) & 2, 0, "may write");
    let response = bob.connect_tree("two", Status::SUCCESS);
    assert_eq!(response.u32(12) & 2, 0, "may not write");
    let mut guest = Client::over(Protected::new(Wire::connect(server.address())));
    guest.negotiate(&Offer::of(Dialect::Smb311));
    guest.authenticate(&Credentials::new("eve", ""), 1, Status::SUCCESS);
    guest.connect_tree("one", Status::SUCCESS);
    guest.connect_tree("two", Status::ACCESS_DENIED);
}

#[test]
fn a_mistake_in_the_configuration_is_told_by_its_line() {
    for (text, line, part) in [
        ("path = one\n", 1, "before the first section"),
        ("[global]\nwhat = 1\n", 2, "\"what\" is nothing"),
        ("[global]\n\nguest = maybe\n", 3, "guest: \"maybe\""),
        (
            "[global]\nrequire signing = perhaps\n",
            2,
            "neither yes nor no",
        ),
        ("[global]\nlisten = nowhere\n", 2, "no ADDRESS:PORT"),
        ("[global]\nmax clients = 0\n", 2, "at least 1"),
        ("[global]\nguest = ro\nguest = rw\n", 3, "second time"),
        ("[one]\n", 1, "has no path"),
        ("[one]\npath = none\n", 1, "No such file"),
        ("[one]\npath = one\n[ONE]\npath = one\n", 3, "given twice"),
        ("[one]\npath = one\nwritable\n", 3, "KEY = VALUE"),
        ("[one\npath = one\n", 1, "a section is [NAME]"),
        ("[a:b]\npath = one\n", 1, "must not contain"),
        (
            "[one]\npath = one\nlisten = 1\n",
            3,
            "nothing that a share knows",
        ),
    ] {
        let configured = Configured::new(text);
        let file = configured.file.to_str().unwrap();
        let output = command(&[], &["--config", file]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(&format!("{file}:{line}: ")), "{told}");
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn sighup_reads_the_configuration_again_and_keeps_the_old_one_if_it_is_bad() {
    let configured = Configured::new("[global]\nusers = users\n[one]\npath = one\n");
    let mut server = configured.start();
    let mut early = log_on(&server, "bob", "secret", Status::SUCCESS);
    early.connect_tree("one", Status::SUCCESS);
    early.connect_tree("two", Status::BAD_NETWORK_NAME);

    set_password(&configured.dir.path().join("users"), "carol", "new");
    configured.write("[global]\nusers = users\n[two]\npath = two\n");
    server.signal(Signal::HUP);
    server.log.expect("configuration reopened");
    let mut carol = log_on(&server, "carol", "new", Status::SUCCESS);
    carol.connect_tree("two", Status::SUCCESS);
    carol.connect_tree("one", Status::BAD_NETWORK_NAME);
    // Who was connected keeps what there was.
    early.connect_tree("one", Status::SUCCESS);

    configured.write("[global]\nusers = users\n[three]\npath = three\n");
    server.signal(Signal::HUP);
    let line = server.log.expect("configuration kept as it was");
    assert!(line.contains("smbd.conf:3: share three: "), "{line}");
    carol.connect_tree("two", Status::SUCCESS);
    let mut bob = log_on(&server, "bob", "secret", Status::SUCCESS);
    bob.connect_tree("two", Status::SUCCESS);
    server.stop();
}

#[test]
fn a_share_on_the_command_line_has_rules_too() {
    let dir = TempDir::new();
    dir.write("a,b/file", b"x");
    let path = dir.path().join("a,b");
    let users = dir.path().join("users");
    set_password(&users, "bob", "secret");
    let share_arg = format!(
        "--share=data={},guest=ro,users=alice+bob,ro",
        path.display()
    );
    let server = Server::with(&[], &["--users", users.to_str().unwrap(), &share_arg]);
    let mut bob = log_on(&server, "bob", "secret", Status::SUCCESS);
    let response = bob.connect_tree("data", Status::SUCCESS);
    assert_eq!(response.u32(12) & 2, 0, "may not write");
    let mut guest = Client::over(Protected::new(Wire::connect(server.address())));
    guest.negotiate(&Offer::of(Dialect::Smb311));
    guest.authenticate(&Credentials::new("eve", ""), 1, Status::SUCCESS);
    guest.connect_tree("data", Status::SUCCESS);
}
