//! Requests on files, on a connection without a socket.

mod common;

use common::client::*;
use common::{TempDir, config, noise, read_only_config};
use smbd::wire::status::Status;

fn setup() -> (TempDir, std::sync::Arc<smbd::config::Config>) {
    let dir = TempDir::new();
    dir.write("file.bin", &noise(100_000));
    dir.write("dir/a.txt", b"a");
    dir.write("dir/b.txt", b"bb");
    let config = config(&[("data", dir.path())]);
    (dir, config)
}

#[test]
fn reads_end_where_the_file_does() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0202, "data");
    let file = client.open("file.bin");
    let response = client.expect(request(READ, read(file, 99_990, 100, 0)), Status::SUCCESS);
    assert_eq!(response.u32(4), 10);
    for (offset, length, minimum, status) in [
        (100_000, 1, 0, Status::END_OF_FILE),
        (99_990, 100, 11, Status::END_OF_FILE),
        (99_990, 100, 10, Status::SUCCESS),
        (1 << 40, 1, 0, Status::END_OF_FILE),
        (u64::MAX, 1, 0, Status::INVALID_PARAMETER),
        (i64::MAX as u64, 1, 0, Status::INVALID_PARAMETER),
        (0, 0, 0, Status::SUCCESS),
    ] {
        client.expect(request(READ, read(file, offset, length, minimum)), status);
    }
    let dir = client.open("dir");
    client.expect(
        request(READ, read(dir, 0, 1, 0)),
        Status::INVALID_DEVICE_REQUEST,
    );
}

#[test]
fn creates_are_answered_by_what_is_there() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0311, "data");
    const DIRECTORY: u32 = 1;
    const NON_DIRECTORY: u32 = 0x40;
    for (name, access, disposition, options, status) in [
        ("file.bin", READ_ACCESS, 1, NON_DIRECTORY, Status::SUCCESS),
        ("FILE.BIN", READ_ACCESS, 3, 0, Status::SUCCESS),
        (
            "file.bin::$DATA",
            READ_ACCESS,
            3,
            0,
            Status::OBJECT_NAME_INVALID,
        ),
        ("", READ_ACCESS, 1, DIRECTORY, Status::SUCCESS),
        ("dir\\A.TXT", 0x0200_0000, 1, 0, Status::SUCCESS),
        (
            "dir",
            READ_ACCESS,
            1,
            NON_DIRECTORY,
            Status::FILE_IS_A_DIRECTORY,
        ),
        (
            "file.bin",
            READ_ACCESS,
            1,
            DIRECTORY,
            Status::NOT_A_DIRECTORY,
        ),
        ("file.bin", READ_ACCESS, 1, 0x41, Status::INVALID_PARAMETER),
        ("file.bin", READ_ACCESS, 2, 0, Status::OBJECT_NAME_COLLISION),
        (
            "file.bin",
            READ_ACCESS,
            5,
            DIRECTORY,
            Status::INVALID_PARAMETER,
        ),
        (
            "file.bin",
            READ_ACCESS | 0x0100_0000,
            1,
            0,
            Status::PRIVILEGE_NOT_HELD,
        ),
        ("none", READ_ACCESS, 1, 0, Status::OBJECT_NAME_NOT_FOUND),
        ("none", READ_ACCESS, 4, 0, Status::OBJECT_NAME_NOT_FOUND),
        ("none\\x", READ_ACCESS, 1, 0, Status::OBJECT_PATH_NOT_FOUND),
        (
            "file.bin\\x",
            READ_ACCESS,
            1,
            0,
            Status::OBJECT_PATH_NOT_FOUND,
        ),
        ("..", READ_ACCESS, 1, 0, Status::OBJECT_PATH_SYNTAX_BAD),
        ("dir/a.txt", READ_ACCESS, 1, 0, Status::SUCCESS),
        ("\\dir", READ_ACCESS, 1, 0, Status::INVALID_PARAMETER),
        (
            "file.bin:stream",
            READ_ACCESS,
            1,
            0,
            Status::OBJECT_NAME_INVALID,
        ),
        ("file.bin", READ_ACCESS, 9, 0, Status::INVALID_PARAMETER),
    ] {
        let mut responses = client
            .send(&[request(CREATE, create(name, access, disposition, options))])
            .unwrap();
        assert_eq!(
            responses.remove(0).status,
            status,
            "{name} {disposition} {options:#x}"
        );
    }
}

#[test]
fn create_contexts_are_answered_or_ignored() {
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0311, "data");
    let mut contexts = Vec::new();
    for name in [b"MxAc", b"zzzz", b"QFid"] {
        let mut context = context(name);
        context.resize(24, 0);
        context[0] = if name == b"QFid" { 0 } else { 24 };
        contexts.extend(context);
    }
    let body = create_with_contexts("file.bin", READ_ACCESS, 1, 0, &contexts);
    let response = client.expect(request(CREATE, body), Status::SUCCESS);
    assert_eq!(response.u32(80), 152);
    let answers = &response.body[88..];
    assert_eq!(response.u32(84) as usize, answers.len());
    assert_eq!(&answers[16..20], b"MxAc");
    assert_eq!(answers[28..32], ALL_ACCESS.to_le_bytes());
    assert_eq!(&answers[32 + 16..32 + 20], b"QFid");
    let snapshot = create_with_contexts("file.bin", READ_ACCESS, 1, 0, &context(b"TWrp"));
    client.expect(request(CREATE, snapshot), Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn what_would_change_a_read_only_share_is_denied() {
    let dir = TempDir::new();
    dir.write("file.bin", b"as it was");
    let config = read_only_config(&[("data", dir.path())]);
    let mut client = Client::connected(&config, 0x0311, "data");
    for (name, access, disposition, options) in [
        ("new", READ_ACCESS, CREATE_NEW, 0),
        ("new", READ_ACCESS, OPEN_IF, DIRECTORY_FILE),
        ("file.bin", READ_ACCESS, OVERWRITE, 0),
        ("file.bin", READ_ACCESS, OVERWRITE_IF, 0),
        ("file.bin", READ_ACCESS, SUPERSEDE, 0),
        ("file.bin", ALL_ACCESS, OPEN, 0),
        ("file.bin", 0x4000_0000, OPEN, 0),
        ("file.bin", 0x0001_0000, OPEN, DELETE_ON_CLOSE),
        ("file.bin", 0x100, OPEN, 0),
    ] {
        let status = client.try_create(name, access, disposition, options);
        let what = format!("{name} {access:#x} {disposition} {options:#x}");
        assert_eq!(status, Status::ACCESS_DENIED, "{what}");
    }
    let maximum = create("file.bin", 0x0200_0000, OPEN, DELETE_ON_CLOSE);
    let response = client.send(&[request(CREATE, maximum)]).unwrap().remove(0);
    assert_eq!(response.status, Status::ACCESS_DENIED);
    let maximum = create("file.bin", 0x0200_0000, OPEN, 0);
    let file = client
        .expect(request(CREATE, maximum), Status::SUCCESS)
        .file_id();
    for (command, body) in [
        (WRITE, write(file, b"x")),
        (FLUSH, flush(file)),
        (SET_INFO, set_info(file, 1, 4, &basic([0; 4], 1))),
        (SET_INFO, set_info(file, 1, 10, &new_name("other", false))),
        (SET_INFO, set_info(file, 1, 11, &new_name("other", false))),
        (SET_INFO, set_info(file, 1, 13, &[1])),
        (SET_INFO, set_info(file, 1, 64, &[1, 0, 0, 0])),
        (SET_INFO, set_info(file, 1, 19, &[0; 8])),
        (SET_INFO, set_info(file, 1, 20, &[0; 8])),
        (SET_INFO, set_info(file, 2, 2, &[0; 8])),
        (SET_INFO, set_security(file, 4, &[0; 20])),
        (IOCTL, ioctl(0x0009_00C4, file, &[], 0)),
        (IOCTL, ioctl(0x0009_80C8, file, &[0; 16], 0)),
        (IOCTL, ioctl(0x0009_C040, file, &[0; 2], 0)),
    ] {
        client.expect(request(command, body), Status::ACCESS_DENIED);
    }
    client.close(file);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let contents = std::fs::read(dir.path().join("file.bin")).unwrap();
    assert_eq!(contents, b"as it was");
}

#[test]
fn requests_take_the_access_that_was_granted() {
    let (dir, config) = setup();
    let mut client = Client::connected(&config, 0x0311, "data");
    let file = client.open("file.bin");
    for (command, body, status) in [
        (WRITE, write(file, b"x"), Status::ACCESS_DENIED),
        (FLUSH, flush(file), Status::ACCESS_DENIED),
        (
            SET_INFO,
            set_info(file, 1, 20, &[0; 8]),
            Status::ACCESS_DENIED,
        ),
        (SET_INFO, set_info(file, 1, 13, &[1]), Status::ACCESS_DENIED),
        (
            SET_INFO,
            set_security(file, 4, &[0; 20]),
            Status::ACCESS_DENIED,
        ),
        (
            SET_INFO,
            set_security(file, 1, &[0; 20]),
            Status::ACCESS_DENIED,
        ),
        (
            SET_INFO,
            set_info(file, 1, 99, &[0; 8]),
            Status::INVALID_INFO_CLASS,
        ),
        (
            SET_INFO,
            set_info(file, 1, 14, &[5, 0, 0, 0, 0, 0, 0, 0]),
            Status::SUCCESS,
        ),
        (
            CHANGE_NOTIFY,
            change_notify(file),
            Status::INVALID_PARAMETER,
        ),
    ] {
        client.expect(request(command, body), status);
    }
    assert_eq!(client.query(file, 14), [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        std::fs::read(dir.path().join("file.bin")).unwrap(),
        noise(100_000)
    );
}

#[test]
fn the_position_follows_reads_and_synchronous_writes() {
    const SYNCHRONOUS_NONALERT: u32 = 0x20;
    let (_dir, config) = setup();
    let mut client = Client::connected(&config, 0x0311, "data");
    for (options, position) in [(0, 0), (SYNCHRONOUS_NONALERT, 105)] {
        let create = create("file.bin", ALL_ACCESS, 1, options);
        let file = client.expect(request(CREATE, create), Status::SUCCESS);
        let file = file.file_id();
        client.expect(
            request(WRITE, write_at(file, 100, b"12345")),
            Status::SUCCESS,
        );
        assert_eq!(client.query(file, 14), u64::to_le_bytes(position));
        client.expect(request(READ, read(file, 200, 10, 0)), Status::SUCCESS);
        assert_eq!(client.query(file, 14), u64::to_le_bytes(210));
    }
}

#[test]
fn special_files_are_looked_at_but_not_opened() {
    let (dir, config) = setup();
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut client = Client::connected(&config, 0x0311, "data");
    let denied = create("fifo", READ_ACCESS, 1, 0);
    client.expect(request(CREATE, denied), Status::ACCESS_DENIED);
    let attributes = create("fifo", 0x80, 1, 0);
    let file = client
        .expect(request(CREATE, attributes), Status::SUCCESS)
        .file_id();
    client.expect(request(READ, read(file, 0, 1, 0)), Status::ACCESS_DENIED);
    client.expect(
        request(QUERY_INFO, query_info(file, 1, 18, 1000)),
        Status::SUCCESS,
    );
    client.expect(request(CLOSE, close(file, 1)), Status::SUCCESS);
}
