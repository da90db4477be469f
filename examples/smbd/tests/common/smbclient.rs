//! Debian's `smbclient`.

use std::process::{Command, Output};

use super::Server;

pub const DIALECTS: [&str; 5] = ["SMB2_02", "SMB2_10", "SMB3_00", "SMB3_02", "SMB3_11"];

/// Whether there is one. Without it a test says so and passes, except where `CI=true`.
pub fn have_smbclient() -> bool {
    let found = Command::new("smbclient").arg("--version").output().is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "smbclient is not installed, and CI=true"
        );
        eprintln!("skipped: smbclient is not installed");
    }
    found
}

pub fn smbclient(server: &Server, dialect: &str, args: &[&str]) -> Output {
    Command::new("smbclient")
        .args(["-p", &server.port(), "-m", dialect])
        .arg(format!("--option=client min protocol={dialect}"))
        .arg("--configfile=/dev/null")
        .args(args)
        .output()
        .unwrap()
}

/// Runs smbclient's `commands` on the share "data" and returns what it printed.
#[track_caller]
pub fn run(server: &Server, dialect: &str, logon: &[&str], commands: &str) -> String {
    let args = [&["//127.0.0.1/data", "-c", commands], logon].concat();
    let output = smbclient(server, dialect, &args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success() && !text.contains("NT_STATUS"),
        "smbclient {dialect} {logon:?} {commands:?}:\n{text}\nThe server:\n{}",
        server.log.text()
    );
    text
}

/// What `smbclient` is to do to its messages.
pub const PROTECTIONS: [&str; 3] = ["off", "sign", "encrypt"];

/// Whether a dialect has it.
pub fn has_protection(dialect: &str, protection: &str) -> bool {
    protection != "encrypt" || dialect.starts_with("SMB3")
}
