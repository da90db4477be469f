//! Requests on files, on a connection without a socket.

mod common;

use common::client::*;
use common::{TempDir, config, noise};
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
        ("FILE.BIN::$DATA", READ_ACCESS, 3, 0, Status::SUCCESS),
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
        ("file.bin", READ_ACCESS, 5, 0, Status::ACCESS_DENIED),
        ("file.bin", 0x4000_0000, 1, 0, Status::ACCESS_DENIED),
        (
            "file.bin",
            READ_ACCESS | 0x0100_0000,
            1,
            0,
            Status::PRIVILEGE_NOT_HELD,
        ),
        ("none", READ_ACCESS, 1, 0, Status::OBJECT_NAME_NOT_FOUND),
        ("none", READ_ACCESS, 3, 0, Status::ACCESS_DENIED),
        ("none\\x", READ_ACCESS, 1, 0, Status::OBJECT_PATH_NOT_FOUND),
        (
            "file.bin\\x",
            READ_ACCESS,
            1,
            0,
            Status::OBJECT_PATH_NOT_FOUND,
        ),
        ("..", READ_ACCESS, 1, 0, Status::OBJECT_NAME_INVALID),
        ("dir/a.txt", READ_ACCESS, 1, 0, Status::OBJECT_NAME_INVALID),
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
    assert_eq!(answers[28..32], 0x0012_00A9u32.to_le_bytes());
    assert_eq!(&answers[32 + 16..32 + 20], b"QFid");
    let snapshot = create_with_contexts("file.bin", READ_ACCESS, 1, 0, &context(b"TWrp"));
    client.expect(request(CREATE, snapshot), Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn what_would_change_a_file_is_denied() {
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
            set_info(file, 3, 0, &[0; 20]),
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
        (LOCK, lock(file, 1), Status::NOT_SUPPORTED),
        (LOCK, lock(file, 4), Status::RANGE_NOT_LOCKED),
        (
            CHANGE_NOTIFY,
            change_notify(file),
            Status::INVALID_PARAMETER,
        ),
    ] {
        client.expect(request(command, body), status);
    }
    let position = client.expect(
        request(QUERY_INFO, query_info(file, 1, 14, 8)),
        Status::SUCCESS,
    );
    assert_eq!(position.u32(8), 5);
    let dir_id = client.open("dir");
    client.expect(
        request(CHANGE_NOTIFY, change_notify(dir_id)),
        Status::NOT_SUPPORTED,
    );
    assert_eq!(
        std::fs::read(dir.path().join("file.bin")).unwrap(),
        noise(100_000)
    );
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
