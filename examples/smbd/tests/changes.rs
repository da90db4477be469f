//! Making, renaming, linking and deleting files, and what is known of them, on a connection without
//! a socket.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::client::*;
use common::{TempDir, config};
use smbd::wire::status::Status;

const BASIC: u8 = 4;
const RENAME: u8 = 10;
const LINK: u8 = 11;
const DISPOSITION: u8 = 13;
const END_OF_FILE: u8 = 20;

const READONLY: u32 = 0x1;
const HIDDEN: u32 = 0x2;
const SYSTEM: u32 = 0x4;
const DIRECTORY: u32 = 0x10;
const ARCHIVE: u32 = 0x20;
const NORMAL: u32 = 0x80;
const TEMPORARY: u32 = 0x100;

/// 2001-02-03 04:05:06 UTC
const THEN: u64 = (981_173_106 + 11_644_473_600) * 10_000_000;
const NEVER: u64 = u64::MAX;
const AGAIN: u64 = u64::MAX - 1;

fn setup() -> (TempDir, Client) {
    let dir = TempDir::new();
    let config = config(&[("data", dir.path())]);
    let client = Client::connected(&config, 0x0311, "data");
    (dir, client)
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// CreateAction of a CREATE, the file closed again.
#[track_caller]
fn action(client: &mut Client, name: &str, disposition: u32) -> u32 {
    let create = create(name, ALL_ACCESS, disposition, 0);
    let response = client.expect(request(CREATE, create), Status::SUCCESS);
    client.close(response.file_id());
    response.u32(4)
}

#[track_caller]
fn attributes(client: &mut Client, file: [u8; 16]) -> u32 {
    u32::from_le_bytes(client.query(file, 35)[..4].try_into().unwrap())
}

/// Creation, last access, last write, change.
#[track_caller]
fn times(client: &mut Client, file: [u8; 16]) -> [u64; 4] {
    let basic = client.query(file, BASIC);
    [0, 8, 16, 24].map(|at| u64::from_le_bytes(basic[at..at + 8].try_into().unwrap()))
}

#[test]
fn each_disposition_does_what_it_says() {
    let (dir, mut client) = setup();
    const SUPERSEDED: u32 = 0;
    const OPENED: u32 = 1;
    const CREATED: u32 = 2;
    const OVERWRITTEN: u32 = 3;
    // (disposition, what it does to what exists, and to what doesn't)
    for (disposition, existing, absent) in [
        (SUPERSEDE, Ok(SUPERSEDED), Ok(CREATED)),
        (OPEN, Ok(OPENED), Err(Status::OBJECT_NAME_NOT_FOUND)),
        (CREATE_NEW, Err(Status::OBJECT_NAME_COLLISION), Ok(CREATED)),
        (OPEN_IF, Ok(OPENED), Ok(CREATED)),
        (
            OVERWRITE,
            Ok(OVERWRITTEN),
            Err(Status::OBJECT_NAME_NOT_FOUND),
        ),
        (OVERWRITE_IF, Ok(OVERWRITTEN), Ok(CREATED)),
    ] {
        for (name, expected) in [("File", existing), ("new", absent)] {
            dir.write("file", b"contents");
            let _ = std::fs::remove_file(dir.path().join("new"));
            let what = format!("disposition {disposition} of {name}");
            match expected {
                Ok(expected) => {
                    assert_eq!(action(&mut client, name, disposition), expected, "{what}")
                }
                Err(status) => {
                    let got = client.try_create(name, ALL_ACCESS, disposition, 0);
                    assert_eq!(got, status, "{what}");
                }
            }
            let length = std::fs::metadata(dir.path().join("file")).unwrap().len();
            let emptied = name == "File" && matches!(expected, Ok(SUPERSEDED | OVERWRITTEN));
            assert_eq!(length, if emptied { 0 } else { 8 }, "{what}");
            let made = dir.path().join("new").exists();
            assert_eq!(made, name == "new" && expected == Ok(CREATED), "{what}");
        }
    }
}

#[test]
fn directories_are_made_and_never_overwritten() {
    let (dir, mut client) = setup();
    for (name, disposition, options, status) in [
        ("sub", CREATE_NEW, DIRECTORY_FILE, Status::SUCCESS),
        (
            "sub",
            CREATE_NEW,
            DIRECTORY_FILE,
            Status::OBJECT_NAME_COLLISION,
        ),
        ("SUB", OPEN_IF, DIRECTORY_FILE, Status::SUCCESS),
        ("sub", OPEN, NON_DIRECTORY_FILE, Status::FILE_IS_A_DIRECTORY),
        ("sub", OVERWRITE_IF, 0, Status::OBJECT_NAME_COLLISION),
        (
            "sub",
            OVERWRITE_IF,
            DIRECTORY_FILE,
            Status::INVALID_PARAMETER,
        ),
        (
            "other",
            SUPERSEDE,
            DIRECTORY_FILE,
            Status::INVALID_PARAMETER,
        ),
        (
            "other",
            CREATE_NEW,
            DIRECTORY_FILE | NON_DIRECTORY_FILE,
            Status::INVALID_PARAMETER,
        ),
        (
            "other\\deep",
            CREATE_NEW,
            DIRECTORY_FILE,
            Status::OBJECT_PATH_NOT_FOUND,
        ),
        ("sub\\deep", CREATE_NEW, DIRECTORY_FILE, Status::SUCCESS),
        ("other", OPEN, 0x0100_0000, Status::INVALID_PARAMETER),
        ("other", OPEN_IF, 0x2000, Status::NOT_SUPPORTED),
    ] {
        let got = client.try_create(name, ALL_ACCESS, disposition, options);
        assert_eq!(got, status, "{name} {disposition} {options:#x}");
    }
    assert_eq!(names(&dir), ["sub"]);
    assert!(dir.path().join("sub/deep").is_dir());
}

#[test]
fn names_that_no_windows_client_may_create_are_refused() {
    let (dir, mut client) = setup();
    let file = client.open_if("file", 0);
    for name in [
        "con",
        "AUX.c",
        "nul.tar.gz",
        "COM1",
        "lpt9.x",
        "end.",
        "end ",
        "a:b",
        "a*",
        "a?",
        "a<b",
        "a\"",
        "a|b",
        "a\u{1}",
    ] {
        for options in [0, DIRECTORY_FILE] {
            let got = client.try_create(name, ALL_ACCESS, OPEN_IF, options);
            assert_eq!(got, Status::OBJECT_NAME_INVALID, "{name:?}");
        }
        client.set(
            file,
            RENAME,
            &new_name(name, false),
            Status::OBJECT_NAME_INVALID,
        );
        client.set(
            file,
            LINK,
            &new_name(name, false),
            Status::OBJECT_NAME_INVALID,
        );
    }
    assert_eq!(names(&dir), ["file"]);
    // Those that are there are served all the same.
    dir.write("aux.c", b"int x;");
    let file = client.open("AUX.C");
    client.expect(request(READ, read(file, 0, 6, 6)), Status::SUCCESS);
}

#[test]
fn names_keep_their_case_and_length() {
    let (dir, mut client) = setup();
    let long = "ä".repeat(127);
    for name in ["MiXed", "Ünïcödé 名前.txt", "𝄞", &long, " leading", "a..b"] {
        assert_eq!(
            client.try_create(name, ALL_ACCESS, CREATE_NEW, 0),
            Status::SUCCESS,
            "{name}"
        );
        assert!(dir.path().join(name).exists(), "{name}");
    }
    assert_eq!(
        client.try_create("mIXED", ALL_ACCESS, CREATE_NEW, 0),
        Status::OBJECT_NAME_COLLISION
    );
    let too_long = "x".repeat(256);
    let got = client.try_create(&too_long, ALL_ACCESS, CREATE_NEW, 0);
    assert_eq!(got, Status::OBJECT_NAME_INVALID);
}

#[test]
fn attributes_are_kept() {
    let (dir, mut client) = setup();
    for (asked, told) in [
        (0, ARCHIVE),
        (NORMAL, ARCHIVE),
        (HIDDEN, HIDDEN | ARCHIVE),
        (SYSTEM | READONLY, SYSTEM | READONLY | ARCHIVE),
    ] {
        let name = format!("file {asked:x}");
        let create = create_with_attributes(&name, ALL_ACCESS, CREATE_NEW, 0, asked);
        let response = client.expect(request(CREATE, create), Status::SUCCESS);
        assert_eq!(response.u32(56), told, "asked for {asked:#x}");
        client.close(response.file_id());
        let file = client.open(&name);
        assert_eq!(attributes(&mut client, file), told, "asked for {asked:#x}");
        client.close(file);
    }
    let file = client.open_if("file", 0);
    for (asked, told) in [
        (READONLY, READONLY),
        (HIDDEN | SYSTEM, HIDDEN | SYSTEM),
        (0, HIDDEN | SYSTEM),
        (NORMAL, NORMAL),
        (ARCHIVE, ARCHIVE),
    ] {
        client.set(file, BASIC, &basic([0; 4], asked), Status::SUCCESS);
        assert_eq!(attributes(&mut client, file), told, "asked for {asked:#x}");
    }
    client.set(
        file,
        BASIC,
        &basic([0; 4], DIRECTORY),
        Status::INVALID_PARAMETER,
    );
    client.set(file, BASIC, &[0; 39], Status::INFO_LENGTH_MISMATCH);
    // Writing asks for a backup.
    client.set(file, BASIC, &basic([0; 4], NORMAL), Status::SUCCESS);
    client.expect(request(WRITE, write(file, b"x")), Status::SUCCESS);
    assert_eq!(attributes(&mut client, file), ARCHIVE);

    let sub = client.open_if("sub", DIRECTORY_FILE);
    assert_eq!(attributes(&mut client, sub), DIRECTORY);
    client.set(sub, BASIC, &basic([0; 4], HIDDEN), Status::SUCCESS);
    assert_eq!(attributes(&mut client, sub), DIRECTORY | HIDDEN);
    client.set(
        sub,
        BASIC,
        &basic([0; 4], TEMPORARY),
        Status::INVALID_PARAMETER,
    );
    // What is made here is hidden if it is called so, until somebody says that it isn't.
    dir.write(".profile", b"");
    let file = client.open_if(".profile", 0);
    assert_eq!(attributes(&mut client, file), ARCHIVE | HIDDEN);
    client.set(file, BASIC, &basic([0; 4], NORMAL), Status::SUCCESS);
    assert_eq!(attributes(&mut client, file), NORMAL);
}

#[test]
fn writing_keeps_the_attributes_that_another_open_has_set() {
    let (_dir, mut client) = setup();
    let file = client.open_if("new", 0);
    client.set(file, BASIC, &basic([0; 4], NORMAL), Status::SUCCESS);
    client.close(file);
    let (one, other) = (client.open_if("new", 0), client.open_if("new", 0));
    client.set(
        other,
        BASIC,
        &basic([THEN, 0, 0, 0], HIDDEN | SYSTEM),
        Status::SUCCESS,
    );
    client.set(one, END_OF_FILE, &50u64.to_le_bytes(), Status::SUCCESS);
    assert_eq!(attributes(&mut client, other), HIDDEN | SYSTEM | ARCHIVE);
    assert_eq!(times(&mut client, other)[0], THEN);
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let (dir, mut client) = setup();
    dir.write("file", b"x");
    let file = client.open_if("file", 0);
    client.set(file, BASIC, &basic([0; 4], READONLY), Status::SUCCESS);
    client.close(file);
    for (access, disposition, options, status) in [
        (READ_ACCESS, OPEN, 0, Status::SUCCESS),
        (0x2, OPEN, 0, Status::ACCESS_DENIED),
        (0x4, OPEN, 0, Status::ACCESS_DENIED),
        (READ_ACCESS, OVERWRITE, 0, Status::ACCESS_DENIED),
        (READ_ACCESS, SUPERSEDE, 0, Status::ACCESS_DENIED),
        (0x0001_0000, OPEN, DELETE_ON_CLOSE, Status::CANNOT_DELETE),
    ] {
        let got = client.try_create("file", access, disposition, options);
        assert_eq!(got, status, "{access:#x} {disposition} {options:#x}");
    }
    let create = create("file", 0x0001_0000, OPEN, 0);
    let file = client
        .expect(request(CREATE, create), Status::SUCCESS)
        .file_id();
    client.set(file, DISPOSITION, &[1], Status::CANNOT_DELETE);
    const IGNORE_READONLY: u8 = 0x10;
    client.set(file, 64, &[1 | IGNORE_READONLY, 0, 0, 0], Status::SUCCESS);
    client.close(file);
    assert!(names(&dir).is_empty());
    // One that is about to be made can't be both.
    let create = create_with_attributes("new", ALL_ACCESS, CREATE_NEW, DELETE_ON_CLOSE, READONLY);
    client.expect(request(CREATE, create), Status::CANNOT_DELETE);
    // What is hidden is overwritten only by who knows that it is.
    let create = create_with_attributes("hidden", ALL_ACCESS, CREATE_NEW, 0, HIDDEN);
    let file = client
        .expect(request(CREATE, create), Status::SUCCESS)
        .file_id();
    client.close(file);
    assert_eq!(
        client.try_create("hidden", ALL_ACCESS, OVERWRITE, 0),
        Status::ACCESS_DENIED
    );
    let create = create_with_attributes("hidden", ALL_ACCESS, OVERWRITE, 0, HIDDEN);
    client.expect(request(CREATE, create), Status::SUCCESS);
}

#[test]
fn times_are_set_and_kept() {
    let (dir, mut client) = setup();
    let file = client.open_if("file", 0);
    let all = [THEN, THEN + 10, THEN + 20, THEN + 30];
    client.set(file, BASIC, &basic(all, 0), Status::SUCCESS);
    assert_eq!(times(&mut client, file), all);
    let metadata = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (981_173_106, 2000)
    );
    // 0 leaves a time as it is; so does writing, once it has been set through this open.
    client.set(file, BASIC, &basic([0; 4], HIDDEN), Status::SUCCESS);
    client.expect(request(WRITE, write(file, b"x")), Status::SUCCESS);
    client.set(file, 20, &5u64.to_le_bytes(), Status::SUCCESS);
    client.expect(request(READ, read(file, 0, 5, 5)), Status::SUCCESS);
    assert_eq!(times(&mut client, file), all);
    // From -2 on the file system's times count again, from -1 on they don't.
    client.set(
        file,
        BASIC,
        &basic([0, 0, AGAIN, AGAIN], 0),
        Status::SUCCESS,
    );
    client.set(file, 20, &6u64.to_le_bytes(), Status::SUCCESS);
    let [created, _, written, changed] = times(&mut client, file);
    assert_eq!(created, THEN);
    assert!(written > THEN + 20 && changed > THEN + 30);
    client.set(
        file,
        BASIC,
        &basic([0, 0, NEVER, NEVER], 0),
        Status::SUCCESS,
    );
    let before = times(&mut client, file);
    client.set(file, 20, &7u64.to_le_bytes(), Status::SUCCESS);
    assert_eq!(times(&mut client, file), before);
    client.close(file);
    // The creation time outlives the open, and a file put in its place.
    let file = client.open_if("file", 0);
    assert_eq!(times(&mut client, file)[0], THEN);
    for wrong in [u64::MAX - 2, 1 << 63] {
        let times = basic([0, 0, wrong, 0], 0);
        client.set(file, BASIC, &times, Status::INVALID_PARAMETER);
    }
}

#[test]
fn files_are_renamed() {
    let (dir, mut client) = setup();
    dir.write("file", b"contents");
    dir.write("taken", b"");
    dir.write("sub/deep/x", b"");
    let file = client.open_if("file", 0);
    for (name, replace, status) in [
        ("FILE", false, Status::SUCCESS),
        ("File", true, Status::SUCCESS),
        ("File", false, Status::SUCCESS),
        ("TAKEN", false, Status::OBJECT_NAME_COLLISION),
        ("sub", true, Status::ACCESS_DENIED),
        ("sub", false, Status::OBJECT_NAME_COLLISION),
        ("absent\\x", false, Status::OBJECT_PATH_NOT_FOUND),
        ("taken\\x", false, Status::OBJECT_PATH_NOT_FOUND),
        ("", false, Status::INVALID_PARAMETER),
        ("sub\\Other Name", false, Status::SUCCESS),
        ("SUB\\DEEP\\back", false, Status::SUCCESS),
        ("\\Taken", true, Status::SUCCESS),
    ] {
        client.set(file, RENAME, &new_name(name, replace), status);
    }
    assert_eq!(names(&dir), ["Taken", "sub"]);
    assert_eq!(
        std::fs::read(dir.path().join("Taken")).unwrap(),
        b"contents"
    );
    let name = client.query(file, 9);
    assert_eq!(name[4..], utf16("\\Taken"));
    // The open goes on with the file.
    client.expect(request(READ, read(file, 0, 8, 8)), Status::SUCCESS);
    client.set(file, RENAME, &[0; 19], Status::INFO_LENGTH_MISMATCH);
    let mut elsewhere = new_name("x", false);
    elsewhere[8] = 1; // RootDirectory
    client.set(file, RENAME, &elsewhere, Status::INVALID_PARAMETER);
}

#[test]
fn what_is_open_is_in_the_way_of_renames() {
    let (dir, mut client) = setup();
    dir.write("sub/file", b"");
    dir.write("target", b"");
    let directory = client.open_if("sub", DIRECTORY_FILE);
    let file = client.open_if("sub\\file", 0);
    client.set(
        directory,
        RENAME,
        &new_name("new", false),
        Status::ACCESS_DENIED,
    );
    let target = client.open_if("target", 0);
    client.set(
        file,
        RENAME,
        &new_name("target", true),
        Status::ACCESS_DENIED,
    );
    // Nor has it gone before it is closed.
    client.set(target, DISPOSITION, &[1], Status::SUCCESS);
    client.set(
        file,
        RENAME,
        &new_name("target", true),
        Status::ACCESS_DENIED,
    );
    client.close(target);
    client.set(file, RENAME, &new_name("target", true), Status::SUCCESS);
    client.set(directory, RENAME, &new_name("new", false), Status::SUCCESS);
    let inside = new_name("new\\inside", false);
    let set = request(SET_INFO, set_info(directory, 1, RENAME, &inside));
    let status = client.send(&[set]).unwrap()[0].status;
    assert!(status.is_error(), "into itself: {status}");
    assert_eq!(names(&dir), ["new", "target"]);
}

#[test]
fn files_get_other_names() {
    let (dir, mut client) = setup();
    dir.write("file", b"contents");
    dir.write("taken", b"");
    let file = client.open_if("file", 0);
    client.set(file, LINK, &new_name("link", false), Status::SUCCESS);
    client.set(
        file,
        LINK,
        &new_name("TAKEN", false),
        Status::OBJECT_NAME_COLLISION,
    );
    client.set(file, LINK, &new_name("TAKEN", true), Status::SUCCESS);
    assert_eq!(client.query(file, 5)[16], 3, "NumberOfLinks");
    for name in ["file", "link", "taken"] {
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"contents");
    }
    // One name of a file onto another.
    client.set(file, RENAME, &new_name("link", true), Status::SUCCESS);
    assert_eq!(names(&dir), ["link", "taken"]);
    let directory = client.open_if("sub", DIRECTORY_FILE);
    client.set(
        directory,
        LINK,
        &new_name("x", false),
        Status::FILE_IS_A_DIRECTORY,
    );
}

#[test]
fn what_is_to_be_deleted_goes_with_the_last_open() {
    let (dir, mut client) = setup();
    dir.write("file", b"");
    let first = client.open_if("file", 0);
    let second = client.open_if("FILE", 0);
    client.set(first, DISPOSITION, &[1], Status::SUCCESS);
    let standard = client.query(second, 5);
    assert_eq!(
        (standard[16], standard[20]),
        (0, 1),
        "NumberOfLinks, DeletePending"
    );
    assert_eq!(
        client.try_create("file", READ_ACCESS, OPEN_IF, 0),
        Status::DELETE_PENDING
    );
    // It can be taken back.
    client.set(second, DISPOSITION, &[0], Status::SUCCESS);
    assert_eq!(
        client.try_create("file", READ_ACCESS, OPEN, 0),
        Status::SUCCESS
    );
    client.set(second, DISPOSITION, &[1], Status::SUCCESS);
    client.close(second);
    assert_eq!(names(&dir), ["file"]);
    client.expect(
        request(WRITE, write(first, b"still there")),
        Status::SUCCESS,
    );
    client.close(first);
    assert!(names(&dir).is_empty());
    assert_eq!(
        client.try_create("file", READ_ACCESS, OPEN, 0),
        Status::OBJECT_NAME_NOT_FOUND
    );
}

#[test]
fn delete_on_close_is_the_opens_that_asked_for_it() {
    let (dir, mut client) = setup();
    let create = |access| create("file", access, OPEN_IF, DELETE_ON_CLOSE);
    client.expect(
        request(CREATE, create(READ_ACCESS)),
        Status::INVALID_PARAMETER,
    );
    let first = client
        .expect(request(CREATE, create(ALL_ACCESS)), Status::SUCCESS)
        .file_id();
    let second = client.open_if("file", 0);
    assert_eq!(client.query(second, 5)[20], 0, "not pending yet");
    client.close(first);
    assert_eq!(client.query(second, 5)[20], 1);
    assert_eq!(
        client.try_create("file", READ_ACCESS, OPEN, 0),
        Status::DELETE_PENDING
    );
    client.close(second);
    assert!(names(&dir).is_empty());
    // However the open ends: with its tree connect or its session.
    client.expect(request(CREATE, create(ALL_ACCESS)), Status::SUCCESS);
    client.expect(request(TREE_DISCONNECT, empty()), Status::SUCCESS);
    assert!(names(&dir).is_empty());
    let connect = request(TREE_CONNECT, tree_connect(r"\\server\data"));
    client.tree_id = client.expect(connect, Status::SUCCESS).tree_id;
    client.expect(request(CREATE, create(ALL_ACCESS)), Status::SUCCESS);
    assert_eq!(names(&dir), ["file"]);
    client.expect(request(LOGOFF, empty()), Status::SUCCESS);
    assert!(names(&dir).is_empty());
}

#[test]
fn directories_are_deleted_when_they_are_empty() {
    let (dir, mut client) = setup();
    dir.write("sub/file", b"");
    let sub = client.open_if("sub", DIRECTORY_FILE);
    client.set(sub, DISPOSITION, &[1], Status::DIRECTORY_NOT_EMPTY);
    let got = client.try_create("sub", ALL_ACCESS, OPEN, DIRECTORY_FILE | DELETE_ON_CLOSE);
    assert_eq!(got, Status::DIRECTORY_NOT_EMPTY);
    let got = client.try_create("sub\\file", ALL_ACCESS, OPEN, DELETE_ON_CLOSE);
    assert_eq!(got, Status::SUCCESS);
    client.set(sub, DISPOSITION, &[1], Status::SUCCESS);
    // What appears meanwhile is not lost.
    dir.write("sub/late", b"");
    client.close(sub);
    assert_eq!(names(&dir), ["sub"]);
    let root = client.open_if("", DIRECTORY_FILE);
    client.set(root, DISPOSITION, &[1], Status::CANNOT_DELETE);
    client.set(root, RENAME, &new_name("x", false), Status::ACCESS_DENIED);
    let got = client.try_create("", ALL_ACCESS, OPEN, DELETE_ON_CLOSE);
    assert_eq!(got, Status::CANNOT_DELETE);
}

#[test]
fn a_name_that_has_passed_to_another_file_is_left_alone() {
    let (dir, mut client) = setup();
    dir.write("file", b"first");
    let file = client.open_if("file", 0);
    client.set(file, DISPOSITION, &[1], Status::SUCCESS);
    std::fs::rename(dir.path().join("file"), dir.path().join("moved")).unwrap();
    dir.write("file", b"second");
    client.close(file);
    // The file itself is deleted wherever it is now.
    assert_eq!(names(&dir), ["file"]);
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"second");
    dir.write("moved", b"third");
    let file = client.open_if("moved", 0);
    std::fs::rename(dir.path().join("file"), dir.path().join("moved")).unwrap();
    let renaming = new_name("other", false);
    client.set(file, RENAME, &renaming, Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(std::fs::read(dir.path().join("moved")).unwrap(), b"second");
}

/// A self-relative descriptor with a list of entries: type, flags, mask, SID.
fn descriptor(aces: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0, aces.len() as u8, 0, 0, 0];
    for (kind, flags, mask, sid) in aces {
        acl.extend([*kind, *flags, 8 + sid.len() as u8, 0]);
        acl.extend(mask.to_le_bytes());
        acl.extend(*sid);
    }
    acl[2] = acl.len() as u8;
    let mut out = vec![1, 0, 4, 0x80];
    out.extend([0; 12]);
    out.extend(20u32.to_le_bytes());
    out.extend(acl);
    out
}

fn sid(authority: u8, subauthorities: &[u32]) -> Vec<u8> {
    let mut out = vec![1, subauthorities.len() as u8, 0, 0, 0, 0, 0, authority];
    out.extend(subauthorities.iter().flat_map(|s| s.to_le_bytes()));
    out
}

#[test]
fn mode_bits_follow_the_access_control_list() {
    let (dir, mut client) = setup();
    dir.write("file", b"");
    let file = client.open_if("file", 0);
    let path = dir.path().join("file");
    let metadata = std::fs::metadata(&path).unwrap();
    let owner = sid(22, &[1, metadata.uid()]);
    let group = sid(22, &[2, metadata.gid()]);
    let everyone = sid(1, &[0]);
    let stranger = sid(5, &[21, 1, 2, 3, 500]);
    const READ: u32 = 0x0012_0089;
    const WRITE: u32 = 0x0012_0116;
    const ALL: u32 = 0x1000_0000;
    const ALLOW: u8 = 0;
    const DENY: u8 = 1;
    const INHERIT_ONLY: u8 = 8;
    for (aces, mode) in [
        (
            &[(ALLOW, 0, ALL, &owner[..]), (ALLOW, 0, READ, &everyone)][..],
            0o744,
        ),
        (
            &[(ALLOW, 0, READ | WRITE, &owner), (ALLOW, 0, READ, &group)],
            0o640,
        ),
        (
            &[
                (DENY, 0, WRITE, &group),
                (ALLOW, 0, READ | WRITE, &everyone),
            ],
            0o646,
        ),
        (
            &[
                (ALLOW, 0, READ, &owner),
                (ALLOW, INHERIT_ONLY, ALL, &everyone),
            ],
            0o400,
        ),
        // Nothing that mode bits could say.
        (&[(ALLOW, 0, ALL, &stranger)], 0o400),
        (&[], 0o400),
    ] {
        let set = set_security(file, 4, &descriptor(aces));
        client.expect(request(SET_INFO, set), Status::SUCCESS);
        let mode_now = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode_now, mode, "{aces:?}");
    }
    // What is told can be set again.
    let query = request(QUERY_INFO, query_info(file, 3, 0, 4096));
    let told = client.expect(query, Status::SUCCESS).body.split_off(8);
    let set = set_security(file, 7, &told);
    client.expect(request(SET_INFO, set), Status::SUCCESS);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o400);
    let whole = descriptor(&[(ALLOW, 0, ALL, &owner)]);
    for cut in [0, 10, 19, 24, 30, whole.len() - 1] {
        let set = set_security(file, 4, &whole[..cut]);
        client.expect(request(SET_INFO, set), Status::INVALID_PARAMETER);
    }
}

#[test]
fn nothing_is_left_of_a_file_that_could_not_be_made_as_asked() {
    let (dir, mut client) = setup();
    let mut refused = |context: &[u8], options, status| {
        let create = create_with_contexts("new", ALL_ACCESS, CREATE_NEW, options, context);
        client.expect(request(CREATE, create), status);
        assert!(names(&dir).is_empty(), "{status}");
    };
    // No security descriptor, one that is cut short, and more room than there is.
    let wrong = context_with(b"SecD", &[2; 20]);
    refused(&wrong, 0, Status::INVALID_PARAMETER);
    refused(&wrong, DIRECTORY_FILE, Status::INVALID_PARAMETER);
    let mut cut = descriptor(&[]);
    cut.truncate(20);
    let cut = context_with(b"SecD", &cut);
    refused(&cut, 0, Status::INVALID_PARAMETER);
    let room = context_with(b"AlSi", &(1u64 << 62).to_le_bytes());
    refused(&room, 0, Status::DISK_FULL);
}

#[test]
fn what_is_made_for_somebody_of_another_system_belongs_to_who_makes_it() {
    const OFFSET_OF_OWNER: u32 = 20;
    let (dir, mut client) = setup();
    let mut descriptor = vec![1, 0, 0, 0x80];
    descriptor.extend(OFFSET_OF_OWNER.to_le_bytes());
    descriptor.extend(OFFSET_OF_OWNER.to_le_bytes()); // the group
    descriptor.extend([0; 8]);
    descriptor.extend(sid(5, &[21, 1, 2, 3, 1000]));
    let context = context_with(b"SecD", &descriptor);
    let create = create_with_contexts("new", ALL_ACCESS, CREATE_NEW, 0, &context);
    client.expect(request(CREATE, create), Status::SUCCESS);
    let metadata = std::fs::metadata(dir.path().join("new")).unwrap();
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
}
