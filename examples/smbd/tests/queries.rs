//! QUERY_DIRECTORY and QUERY_INFO, on a connection without a socket.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use common::client::*;
use common::{TempDir, config};
use smbd::share::short_names;
use smbd::wire::status::Status;

const FILE_NAMES: u8 = 12;
const RESTART: u8 = 1;
const SINGLE: u8 = 2;

fn setup(count: usize) -> (TempDir, Client, [u8; 16]) {
    let dir = TempDir::new();
    for n in 0..count {
        dir.write(&format!("dir/name {n:04}.txt"), b"");
    }
    let config = config(&[("data", dir.path())]);
    let mut client = Client::connected(&config, 0x0311, "data");
    let file = client.open("dir");
    (dir, client, file)
}

fn query(client: &mut Client, file: [u8; 16], flags: u8, pattern: &str, room: u32) -> Response {
    let body = query_directory(file, FILE_NAMES, flags, pattern, room);
    client
        .send(&[request(QUERY_DIRECTORY, body)])
        .unwrap()
        .remove(0)
}

#[test]
fn a_directory_is_told_once_whatever_the_buffer() {
    let (_dir, mut client, file) = setup(500);
    for room in [40, 100, 1000, 65536] {
        let mut names = BTreeSet::new();
        let mut flags = RESTART;
        loop {
            let response = query(&mut client, file, flags, "*", room);
            flags = 0;
            match response.status {
                Status::SUCCESS => {
                    assert!(response.u32(4) <= room);
                    for name in file_names(&response) {
                        assert!(names.insert(name.clone()), "{name} comes twice");
                    }
                }
                status => {
                    assert_eq!(status, Status::NO_MORE_FILES);
                    break;
                }
            }
        }
        assert_eq!(names.len(), 502, "with {room} bytes of room");
    }
}

#[test]
fn flags_and_patterns_are_obeyed() {
    let (_dir, mut client, file) = setup(20);
    let none = query(&mut client, file, 0, "nothing*", 1000);
    assert_eq!(none.status, Status::NO_SUCH_FILE);
    let single = query(&mut client, file, RESTART | SINGLE, "NAME 001?.*", 1000);
    assert_eq!(file_names(&single).len(), 1);
    let rest = query(&mut client, file, 0, "ignored from now on", 1000);
    assert_eq!(file_names(&rest).len(), 9);
    let again = query(&mut client, file, RESTART, "", 1000);
    assert_eq!(file_names(&again).len(), 10, "the old pattern stays");
    let end = query(&mut client, file, 0, "", 1000);
    assert_eq!(end.status, Status::NO_MORE_FILES);
    let exact = query(&mut client, file, RESTART, "name 0007.TXT", 1000);
    assert_eq!(file_names(&exact), ["name 0007.txt"]);
}

#[test]
fn small_buffers_and_wrong_classes_are_refused() {
    let (_dir, mut client, file) = setup(3);
    let first = query(&mut client, file, 0, "n*", 11);
    assert_eq!(first.status, Status::INFO_LENGTH_MISMATCH);
    assert_eq!(
        query(&mut client, file, 0, "n*", 20).status,
        Status::BUFFER_OVERFLOW
    );
    assert_eq!(
        file_names(&query(&mut client, file, 0, "n*", 1000)).len(),
        3
    );
    let wrong = query_directory(file, 99, 0, "*", 1000);
    client.expect(request(QUERY_DIRECTORY, wrong), Status::INVALID_INFO_CLASS);
    let on_file = client.open("dir\\name 0000.txt");
    let body = query_directory(on_file, FILE_NAMES, 0, "*", 1000);
    client.expect(request(QUERY_DIRECTORY, body), Status::INVALID_PARAMETER);
}

#[test]
fn every_directory_class_has_its_layout() {
    let (_dir, mut client, file) = setup(1);
    for (class, name_at, length_at) in [
        (1, 64, 60),
        (2, 68, 60),
        (38, 80, 60),
        (3, 94, 60),
        (37, 104, 60),
        (12, 12, 8),
        (60, 88, 60),
        (63, 114, 60),
        (78, 80, 60),
        (79, 106, 60),
        (80, 96, 60),
        (81, 122, 60),
    ] {
        let body = query_directory(file, class, RESTART, "name*", 1000);
        let response = client.expect(request(QUERY_DIRECTORY, body), Status::SUCCESS);
        let entry = &response.body[8..];
        let name = utf16("name 0000.txt");
        assert_eq!(entry.len(), name_at + name.len(), "class {class}");
        assert_eq!(entry[name_at..], name, "class {class}");
        assert_eq!(entry[length_at] as usize, name.len(), "class {class}");
    }
}

/// Each class has the file's id, and its short name, where the specification says so.
#[test]
fn entries_carry_ids_and_short_names() {
    let (dir, mut client, file) = setup(1);
    dir.write("dir/short.txt", b"");
    let inode = std::fs::metadata(dir.path().join("dir/name 0000.txt"))
        .unwrap()
        .ino();
    // (class, where the id is, and whether it has 128 bits, where the short name is)
    for (class, id_at, is_long, short_at) in [
        (3, None, false, Some(68)),
        (37, Some(96), false, Some(68)),
        (38, Some(72), false, None),
        (60, Some(72), true, None),
        (63, Some(72), true, Some(88)),
        (78, Some(72), false, None),
        (79, Some(72), false, Some(80)),
        (80, Some(72), false, None),
        (80, Some(80), true, None),
        (81, Some(72), false, Some(96)),
        (81, Some(80), true, Some(96)),
    ] {
        let body = query_directory(file, class, RESTART, "name*", 1000);
        let response = client.expect(request(QUERY_DIRECTORY, body), Status::SUCCESS);
        let entry = &response.body[8..];
        if let Some(at) = id_at {
            let mut id = inode.to_le_bytes().to_vec();
            id.resize(if is_long { 16 } else { 8 }, 0);
            assert_eq!(entry[at..at + id.len()], id, "class {class}");
        }
        if let Some(at) = short_at {
            let short = &entry[at + 2..at + 2 + usize::from(entry[at])];
            let short: Vec<u8> = short.iter().step_by(2).copied().collect();
            let short = String::from_utf8(short).unwrap();
            assert!(short_names::is_computed(&short), "class {class}: {short}");
            let body = query_directory(file, class, RESTART, "short*", 1000);
            let response = client.expect(request(QUERY_DIRECTORY, body), Status::SUCCESS);
            assert_eq!(response.body[8 + at], 0, "it is short already");
        }
    }
}

#[test]
fn a_file_is_found_by_its_short_name() {
    let (dir, mut client, file) = setup(3);
    dir.write("dir/long name.html", b"contents");
    let long = client.open("dir\\long name.html");
    let alternate = client.query(long, 21);
    let units: Vec<u16> = alternate[4..]
        .chunks(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    let short = String::from_utf16(&units).unwrap();
    assert!(short_names::is_computed(&short), "{short}");
    assert!(short.ends_with(".HTM"), "{short}");
    let by_short = client.open(&format!("dir\\{}", short.to_lowercase()));
    assert_eq!(client.query(by_short, 9), client.query(long, 9));
    let entry = query(&mut client, file, 0, &short, 1000);
    assert_eq!(file_names(&entry), ["long name.html"]);
    // A pattern with wildcards is about the long name alone.
    let htm = query(&mut client, file, RESTART, "*.htm", 1000);
    assert_eq!(htm.status, Status::NO_SUCH_FILE);
    // A file that is called so itself goes first.
    dir.write(&format!("dir/{short}"), b"");
    let own = client.open(&format!("dir\\{short}"));
    assert_ne!(client.query(own, 6), client.query(long, 6));
    assert_eq!(client.query(own, 21)[4..], utf16(&short));
    // The share has none, which is no error: there are clients that ask first.
    let root = client.open("");
    assert_eq!(client.query(root, 21)[4..], utf16("."));
}

#[test]
fn a_directory_has_one_link() {
    let (dir, mut client, file) = setup(1);
    std::fs::create_dir(dir.path().join("dir/sub")).unwrap();
    let standard = client.query(file, 5);
    assert_eq!(standard[16..20], 1u32.to_le_bytes());
    assert_eq!(standard[21], 1, "it is a directory");
}

#[test]
fn every_information_class_is_answered() {
    let (_dir, mut client, _) = setup(1);
    let file = client.open("dir\\name 0000.txt");
    let name = utf16(r"\dir\name 0000.txt").len();
    // (class, length), by kind: 1 file, 2 file system
    for (kind, class, length) in [
        (1, 4, 40),
        (1, 5, 24),
        (1, 6, 8),
        (1, 7, 4),
        (1, 8, 4),
        (1, 9, 4 + name),
        (1, 14, 8),
        (1, 16, 4),
        (1, 17, 4),
        (1, 18, 100 + name),
        (1, 21, 4 + 24),
        (1, 22, 24 + 14),
        (1, 28, 16),
        (1, 34, 56),
        (1, 35, 8),
        (1, 48, 4 + name - 2),
        (1, 59, 24),
        (2, 1, 18 + 8),
        (2, 3, 24),
        (2, 4, 8),
        (2, 5, 12 + 8),
        (2, 7, 32),
        (2, 8, 64),
        (2, 11, 28),
    ] {
        let what = format!("kind {kind} class {class}");
        let response = client.expect(
            request(QUERY_INFO, query_info(file, kind, class, 1000)),
            Status::SUCCESS,
        );
        assert_eq!(response.body.len() - 8, length, "{what}");
        assert_eq!(response.u32(4) as usize, length, "{what}");
        let body = query_info(file, kind, class, 3);
        client.expect(request(QUERY_INFO, body), Status::INFO_LENGTH_MISMATCH);
    }
    for (kind, class, status) in [
        (1, 15, Status::NO_EAS_ON_FILE),
        (1, 99, Status::INVALID_INFO_CLASS),
        (2, 6, Status::VOLUME_NOT_UPGRADED),
        (2, 99, Status::INVALID_INFO_CLASS),
        (4, 0, Status::NOT_SUPPORTED),
        (9, 0, Status::INVALID_PARAMETER),
    ] {
        client.expect(
            request(QUERY_INFO, query_info(file, kind, class, 1000)),
            status,
        );
    }
}

#[test]
fn normalized_names_come_with_3_1_1() {
    let dir = TempDir::new();
    dir.write("file", b"");
    let config = config(&[("data", dir.path())]);
    for (dialect, status) in [(0x0302, Status::NOT_SUPPORTED), (0x0311, Status::SUCCESS)] {
        let mut client = Client::connected(&config, dialect, "data");
        let file = client.open("FILE");
        let query = client.expect(request(QUERY_INFO, query_info(file, 1, 48, 100)), status);
        assert!(status.is_error() || query.body[12..] == utf16("file"));
    }
}

#[test]
fn names_are_cut_and_descriptors_are_not() {
    let (_dir, mut client, _) = setup(1);
    let file = client.open("dir\\name 0000.txt");
    let cut = client.expect(
        request(QUERY_INFO, query_info(file, 1, 18, 110)),
        Status::BUFFER_OVERFLOW,
    );
    assert_eq!(cut.u32(4), 110);
    assert_eq!(cut.u32(8 + 96) as usize, utf16(r"\dir\name 0000.txt").len());
    // 3.1.1 wraps the length that is needed into an error context.
    let refused = client.expect(
        request(QUERY_INFO, query_info(file, 3, 0, 0)),
        Status::BUFFER_TOO_SMALL,
    );
    assert_eq!(
        refused.body[..16],
        [9, 0, 1, 0, 12, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
    );
    let needed = refused.u32(16);
    let whole = client.expect(
        request(QUERY_INFO, query_info(file, 3, 0, needed)),
        Status::SUCCESS,
    );
    assert_eq!(whole.u32(4), needed);
}
