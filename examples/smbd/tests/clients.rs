//! Real clients that log on with a password, sign and encrypt: Debian's `smbclient` under every
//! dialect, and Python's smbprotocol, impacket, pysmb and Pike (`clients.py`), from a virtual
//! environment that `clients-venv.sh` makes.
//!
//! Without them the tests say so and pass, except where `CI=true`.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::smbclient::{DIALECTS, PROTECTIONS, has_protection, have_smbclient, smbclient};
use common::{Server, TempDir, noise};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;

const PASSWORD: &str = "pässwörd";

/// A server with the user alice and no guests, and `data` and `secret`, the latter to be encrypted.
struct Setup {
    shared: TempDir,
    _private: TempDir,
    server: Server,
}

impl Setup {
    fn new(args: &[&str]) -> Setup {
        let (shared, private) = (TempDir::new(), TempDir::new());
        let file = private.path().join("users");
        let mut users = Users::new();
        users.set("alice", NtHash::of_password(PASSWORD)).unwrap();
        users.write(&file).unwrap();
        shared.write("file", &noise(3 << 20));
        let secret = format!("--share=secret={},encrypt", shared.path().display());
        let args = [&["--users", file.to_str().unwrap(), &secret], args].concat();
        Setup {
            server: Server::with(&[("data", shared.path())], &args),
            shared,
            _private: private,
        }
    }

    /// Runs `smbclient` as alice: whether it succeeded, and what it printed.
    fn smbclient(&self, dialect: &str, args: &[&str]) -> (bool, String) {
        let user = format!("-Ualice%{PASSWORD}");
        let output = smbclient(&self.server, dialect, &[&[&user[..]], args].concat());
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.success() && !text.contains("NT_STATUS"), text)
    }
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    assert!(
        std::fs::read(a).unwrap() == std::fs::read(b).unwrap(),
        "contents differ"
    );
}

#[test]
fn smbclient_signs_and_encrypts_under_every_dialect() {
    if !have_smbclient() {
        return;
    }
    let setup = Setup::new(&[]);
    let local = TempDir::new();
    let copy = local.path().join("copy");
    let file = setup.shared.path().join("file");
    for dialect in DIALECTS {
        for protection in PROTECTIONS {
            if !has_protection(dialect, protection) {
                continue;
            }
            let option = format!("--client-protection={protection}");
            let commands = format!(
                "get file {0}; put {0} new; rename new newer; ls; del newer",
                copy.display()
            );
            let args = ["//127.0.0.1/data", &option, "-c", &commands];
            let (ok, text) = setup.smbclient(dialect, &args);
            assert!(ok, "{dialect} {protection}: {text}");
            assert!(text.contains("newer"), "{dialect} {protection}: {text}");
            assert_same(&file, &copy);
            assert!(!setup.shared.path().join("newer").exists());
            std::fs::remove_file(&copy).unwrap();
        }
    }
}

#[test]
fn smbclient_is_told_what_is_required() {
    if !have_smbclient() {
        return;
    }
    for (option, least) in [
        ("--require-signing", "sign"),
        ("--require-encryption", "encrypt"),
    ] {
        let setup = Setup::new(&[option]);
        for dialect in DIALECTS {
            // The client follows what the server says, as far as its dialect can.
            for (share, needs) in [("data", least), ("secret", "encrypt")] {
                let expected = has_protection(dialect, needs);
                let share = format!("//127.0.0.1/{share}");
                let (ok, text) = setup.smbclient(dialect, &[&share, "-c", "ls"]);
                assert_eq!(ok, expected, "{option} {dialect} {share}: {text}");
            }
        }
    }
}

#[test]
fn smbclient_is_refused_with_a_wrong_password() {
    if !have_smbclient() {
        return;
    }
    let setup = Setup::new(&[]);
    for (user, status) in [
        ("-Ualice%wrong", "LOGON_FAILURE"),
        ("-Ueve%wrong", "LOGON_FAILURE"),
        ("-U%", "ACCESS_DENIED"),
    ] {
        let args = ["//127.0.0.1/data", user, "-c", "ls"];
        let output = smbclient(&setup.server, "SMB3_11", &args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(status), "{user}: {text}");
    }
}

/// The Python of the virtual environment; `None` if there is none and it can't be made, which is
/// an error where `CI=true`.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients-venv.sh");
    let output = Command::new("sh")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        let path = String::from_utf8(output.stdout).unwrap();
        return Some(PathBuf::from(path.trim()));
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "the Python clients are not installed, and CI=true: {reason}"
    );
    eprintln!("skipped: the Python clients are not installed: {reason}");
    None
}

#[track_caller]
fn run_python(library: &str) {
    let Some(python) = python() else { return };
    let setup = Setup::new(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients.py");
    let output = Command::new(python)
        .arg(script)
        .args([library, &setup.server.port(), "alice", PASSWORD])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success(),
        "{text}\nThe server:\n{}",
        setup.server.log.text()
    );
    // Only the file that was there is left.
    assert_eq!(std::fs::read_dir(setup.shared.path()).unwrap().count(), 1);
}

#[test]
fn smbprotocol_works() {
    run_python("smbprotocol");
}

#[test]
fn impacket_works() {
    run_python("impacket");
}

#[test]
fn pysmb_works() {
    run_python("pysmb");
}

#[test]
fn pike_passes() {
    run_python("pike");
}
