//! Debian's `smbclient` changes what is in a share: puts, renames and deletes under every dialect.
//!
//! Without `smbclient` the tests say so and pass, except where `CI=true`.

mod common;

use std::path::Path;

use common::client::*;
use common::process::eventually;
use common::smbclient::{DIALECTS, have_smbclient, run, smbclient};
use common::{Server, TempDir, noise};
use smbd::wire::status::Status;

/// Files and directories below `path`, with what is in the files.
fn tree(path: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap().path();
            let name = entry
                .strip_prefix(path)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if entry.is_dir() {
                found.push((name, None));
                pending.push(entry);
            } else {
                found.push((name, Some(std::fs::read(entry).unwrap())));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn files_are_put_renamed_and_deleted_under_every_dialect() {
    if !have_smbclient() {
        return;
    }
    let source = TempDir::new();
    source.write("small", b"contents");
    source.write("9M", &noise(9 << 20));
    let shared = TempDir::new();
    let server = Server::start(&[("data", shared.path())]);
    let path = source.path().display();
    for dialect in DIALECTS {
        let commands = format!(
            "put {path}/small small; put {path}/9M \"Grüße aus 東京.bin\"; mkdir sub; mkdir sub\\deep;
             rename small sub\\SMALL; rename sub\\SMALL sub\\Small; cd sub; put {path}/small other;
             rename other deep\\other; ls"
        )
        .replace('\n', " ");
        run(&server, dialect, &["-N"], &commands);
        let expected = [
            ("Grüße aus 東京.bin", Some(noise(9 << 20))),
            ("sub", None),
            ("sub/Small", Some(b"contents".to_vec())),
            ("sub/deep", None),
            ("sub/deep/other", Some(b"contents".to_vec())),
        ];
        let expected = expected.map(|(name, contents)| (name.to_owned(), contents));
        assert!(tree(shared.path()) == expected, "{dialect}");
        // An old file is overwritten and cut.
        let commands = format!("put {path}/small \"GRÜẞE AUS 東京.BIN\"");
        run(&server, dialect, &["-N"], &commands.replace('ẞ', "ß"));
        let written = std::fs::read(shared.path().join("Grüße aus 東京.bin")).unwrap();
        assert_eq!(written, b"contents", "{dialect}");
        let commands = "rm sub\\deep\\other; rmdir sub\\deep; rm sub\\*; rmdir sub; rm gr*.bin";
        run(&server, dialect, &["-N"], commands);
        assert_eq!(tree(shared.path()), [], "{dialect}");
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    if !have_smbclient() {
        return;
    }
    let shared = TempDir::new();
    shared.write("file", b"contents");
    shared.write("other", b"");
    shared.write("sub/inside", b"");
    let server = Server::start(&[("data", shared.path())]);
    for (commands, status) in [
        ("mkdir sub", "NT_STATUS_OBJECT_NAME_COLLISION"),
        ("rename file other", "NT_STATUS_OBJECT_NAME_COLLISION"),
        ("rmdir sub", "NT_STATUS_DIRECTORY_NOT_EMPTY"),
        ("put /etc/hostname con", "NT_STATUS_OBJECT_NAME_INVALID"),
        (
            "put /etc/hostname absent\\x",
            "NT_STATUS_OBJECT_PATH_NOT_FOUND",
        ),
        ("put /etc/hostname sub", "NT_STATUS_FILE_IS_A_DIRECTORY"),
        ("setmode file +r; rm file", "NT_STATUS_CANNOT_DELETE"),
    ] {
        let args = ["//127.0.0.1/data", "-N", "-c", commands];
        let output = smbclient(&server, "SMB3_11", &args);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(status), "{commands}: {text}");
    }
    assert_eq!(tree(shared.path()).len(), 4);
}

#[test]
fn a_thousand_files_go_up_and_come_back() {
    if !have_smbclient() {
        return;
    }
    let source = TempDir::new();
    for n in 0..1000 {
        source.write(
            &format!("tree/Datei {n:04} ä.txt"),
            format!("number {n}").as_bytes(),
        );
    }
    source.write("tree/sub/deep/x", b"x");
    let shared = TempDir::new();
    let server = Server::start(&[("data", shared.path())]);
    let put = format!(
        "lcd {}; recurse; prompt; mput tree",
        source.path().display()
    );
    run(&server, "SMB3_11", &["-N"], &put);
    assert!(tree(shared.path()) == tree(source.path()));
    let fetched = TempDir::new();
    let get = format!(
        "lcd {}; recurse; prompt; mget tree",
        fetched.path().display()
    );
    run(&server, "SMB2_02", &["-N"], &get);
    assert!(tree(fetched.path()) == tree(source.path()));
    run(&server, "SMB3_11", &["-N"], "deltree tree");
    assert_eq!(tree(shared.path()), []);
}

#[test]
fn eight_clients_at_once_write_into_one_directory() {
    if !have_smbclient() {
        return;
    }
    let source = TempDir::new();
    for client in 0..8 {
        source.write(&format!("{client}"), &noise(3_000_000 + client));
    }
    let shared = TempDir::new();
    let server = Server::start(&[("data", shared.path())]);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (source, server) = (source.path(), &server);
            scope.spawn(move || {
                let path = source.join(client.to_string());
                for round in 0..4 {
                    let put = format!("put {} {client}; put {0} {client}.{round}", path.display());
                    run(server, DIALECTS[client % DIALECTS.len()], &["-N"], &put);
                    run(server, "SMB3_11", &["-N"], &format!("rm {client}.{round}"));
                }
            });
        }
    });
    assert!(tree(shared.path()) == tree(source.path()));
}

#[test]
fn what_is_to_be_deleted_goes_with_the_connection() {
    let shared = TempDir::new();
    let server = Server::start(&[("data", shared.path())]);
    for ends_well in [true, false] {
        let mut client = Client::at(server.address(), 0x0311, "data");
        let create = create("file", ALL_ACCESS, OPEN_IF, DELETE_ON_CLOSE);
        client.expect(request(CREATE, create), Status::SUCCESS);
        assert!(shared.path().join("file").exists());
        if ends_well {
            drop(client);
        } else {
            client.connection.reset();
        }
        eventually("the file is deleted", || {
            !shared.path().join("file").exists()
        });
    }
}
