//! Debian's `smbclient` against the server: lists and fetches under every
//! dialect and every way to log on without an account.
//!
//! Without `smbclient` the tests say so and pass, except where `CI=true`.

mod common;

use std::path::Path;

use common::process::wait_for_no_children;
use common::smbclient::{DIALECTS, have_smbclient, run, smbclient};
use common::{Server, TempDir, noise};

/// Guest with the local user's name and no password; guest with a name and a password.
const GUESTS: [&[&str]; 2] = [&["-N"], &["-Usomeone%secret"]];
/// Anonymous by an empty name.
const ANONYMOUS: &[&str] = &["-U%"];

#[track_caller]
fn assert_same(original: &Path, copy: &Path, what: &str) {
    let (original, copy) = (
        std::fs::read(original).unwrap(),
        std::fs::read(copy).unwrap(),
    );
    assert_eq!(original.len(), copy.len(), "{what}: length");
    assert!(original == copy, "{what}: contents differ");
}

#[test]
fn shares_are_listed_under_every_dialect() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    let server = Server::start(&[("data", dir.path()), ("Grüße", dir.path())]);
    for dialect in DIALECTS {
        for logon in GUESTS.into_iter().chain([ANONYMOUS]) {
            let args = [&["-L", "127.0.0.1", "-g"], logon].concat();
            let output = smbclient(&server, dialect, &args);
            let text = String::from_utf8_lossy(&output.stdout);
            for line in ["Disk|data|", "Disk|Grüße|", "IPC|IPC$|Named pipes"] {
                assert!(
                    text.contains(line),
                    "{dialect} {logon:?}: no {line}:\n{text}"
                );
            }
        }
    }
}

#[test]
fn directories_are_listed_and_files_fetched_under_every_dialect() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    let files = [
        ("empty", 0),
        ("one", 1),
        ("64k", 65536),
        ("sub/8M", 8 << 20),
        ("sub/deep/Grüße aus 東京.txt", 100_000),
    ];
    for (name, length) in files {
        dir.write(name, &noise(length));
    }
    let server = Server::start(&[("data", dir.path())]);
    let fetched = TempDir::new();
    for dialect in DIALECTS {
        for logon in GUESTS {
            let listing = run(&server, dialect, logon, "recurse; ls");
            for part in ["\\sub\\deep", "Grüße aus 東京.txt", "8388608", "64k"] {
                assert!(
                    listing.contains(part),
                    "{dialect}: no {part} in:\n{listing}"
                );
            }
            for (name, _) in files {
                let copy = fetched.path().join("copy");
                let name = name.replace('/', "\\");
                run(
                    &server,
                    dialect,
                    logon,
                    &format!("get \"{name}\" {}", copy.display()),
                );
                assert_same(
                    &dir.path().join(name.replace('\\', "/")),
                    &copy,
                    &format!("{dialect} {logon:?} {name}"),
                );
            }
        }
    }
}

#[test]
fn a_file_of_200_mib_arrives_whole_under_every_dialect() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    dir.write("large", &noise(200 << 20));
    let server = Server::start(&[("data", dir.path())]);
    let fetched = TempDir::new();
    let copy = fetched.path().join("copy");
    for dialect in DIALECTS {
        let command = format!("get large {}", copy.display());
        run(&server, dialect, &["-N"], &command);
        assert_same(&dir.path().join("large"), &copy, dialect);
        std::fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn eight_clients_at_once_get_the_same_file() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    dir.write("8M", &noise(8 << 20));
    let server = Server::start(&[("data", dir.path())]);
    let fetched = TempDir::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (server, dir, fetched) = (&server, &dir, &fetched);
            scope.spawn(move || {
                let copy = fetched.path().join(n.to_string());
                let dialect = DIALECTS[n % DIALECTS.len()];
                run(
                    server,
                    dialect,
                    &["-N"],
                    &format!("get 8M {}", copy.display()),
                );
                assert_same(&dir.path().join("8M"), &copy, dialect);
            });
        }
    });
    wait_for_no_children(server.pid());
}

#[test]
fn a_large_directory_is_listed_completely() {
    if !have_smbclient() {
        return;
    }
    const COUNT: usize = 20_000;
    let dir = TempDir::new();
    for n in 0..COUNT {
        dir.write(
            &format!("many/a file with a rather long name {n:06}.txt"),
            b"",
        );
    }
    let server = Server::start(&[("data", dir.path())]);
    for dialect in ["SMB2_02", "SMB3_11"] {
        let listing = run(&server, dialect, &["-N"], "ls many\\*");
        let count = listing.matches("rather long name").count();
        assert_eq!(count, COUNT, "{dialect}");
        let listing = run(&server, dialect, &["-N"], "ls many\\*000.TXT");
        assert_eq!(
            listing.matches("rather long name").count(),
            COUNT / 1000,
            "{dialect}"
        );
    }
}

#[test]
fn names_are_found_in_any_case_and_links_stay_inside() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    dir.write("Some/Where/File.TXT", b"found");
    std::os::unix::fs::symlink("Some/Where", dir.path().join("inside")).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("outside")).unwrap();
    let server = Server::start(&[("data", dir.path())]);
    let run = |commands: &str| run(&server, "SMB3_11", &["-N"], commands);
    assert!(run("get SOME\\where\\file.txt -").contains("found"));
    assert!(run("get inside\\file.txt -").contains("found"));
    let listing = run("ls");
    assert!(
        listing.contains("inside") && !listing.contains("outside"),
        "{listing}"
    );
    let output = smbclient(
        &server,
        "SMB3_11",
        &["//127.0.0.1/data", "-N", "-c", "get outside\\hostname -"],
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("NT_STATUS_OBJECT_"), "{text}");
}

#[test]
fn nothing_can_be_changed_in_a_read_only_share() {
    if !have_smbclient() {
        return;
    }
    let dir = TempDir::new();
    dir.write("file", b"contents");
    let path = format!("{},ro", dir.path().display());
    let server = Server::start(&[("data", path.as_ref())]);
    for command in [
        "put /etc/hostname new",
        "put /etc/hostname file",
        "mkdir sub",
        "del file",
        "rename file other",
        "setmode file +r",
    ] {
        let output = smbclient(
            &server,
            "SMB3_11",
            &["//127.0.0.1/data", "-N", "-c", command],
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("NT_STATUS_ACCESS_DENIED"),
            "{command}: {text}"
        );
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"contents");
}
