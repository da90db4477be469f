//! What is written, and where: WRITE, sizes, holes, copies, on a connection without a socket.

mod common;

use std::os::unix::fs::MetadataExt;

use common::client::*;
use common::{TempDir, config, noise};
use smbd::wire::status::Status;

const SET_SPARSE: u32 = 0x0009_00C4;
const SET_ZERO_DATA: u32 = 0x0009_80C8;
const QUERY_ALLOCATED_RANGES: u32 = 0x0009_40CF;
const FILE_LEVEL_TRIM: u32 = 0x0009_8208;
const REQUEST_RESUME_KEY: u32 = 0x0014_0078;
const COPYCHUNK: u32 = 0x0014_40F2;
const COPYCHUNK_WRITE: u32 = 0x0014_80F2;

const END_OF_FILE: u8 = 20;
const ALLOCATION: u8 = 19;

fn setup() -> (TempDir, Client) {
    let dir = TempDir::new();
    let config = config(&[("data", dir.path())]);
    let client = Client::connected(&config, 0x0311, "data");
    (dir, client)
}

fn contents(dir: &TempDir, name: &str) -> Vec<u8> {
    std::fs::read(dir.path().join(name)).unwrap()
}

#[test]
fn what_is_written_can_be_read() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    let data = noise(200_000);
    for (index, part) in data.chunks(60_000).enumerate() {
        let write = write_at(file, index as u64 * 60_000, part);
        let response = client.expect(request(WRITE, write), Status::SUCCESS);
        assert_eq!(response.u32(4) as usize, part.len());
    }
    let read = client.expect(
        request(READ, read(file, 100_000, 60_000, 0)),
        Status::SUCCESS,
    );
    assert!(read.body[16..] == data[100_000..160_000]);
    assert!(contents(&dir, "new") == data);
    client.expect(request(FLUSH, flush(file)), Status::SUCCESS);
}

#[test]
fn eight_mebibytes_are_one_write_and_one_read() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    let data = noise(8 << 20);
    // Credits for it.
    while client.message_id < 200 {
        client.expect(request(ECHO, empty()), Status::SUCCESS);
    }
    client.expect(
        request(WRITE, write(file, &data)),
        Status::INVALID_PARAMETER,
    );
    client.expect(
        request(WRITE, write(file, &data)).charge(128),
        Status::SUCCESS,
    );
    assert!(contents(&dir, "new") == data);
    let read = request(READ, read(file, 0, 8 << 20, 0)).charge(128);
    assert!(client.expect(read, Status::SUCCESS).body[16..] == data);
}

#[test]
fn writes_beyond_the_end_leave_zeros_and_writes_of_nothing_leave_nothing() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    client.expect(request(WRITE, write_at(file, 1000, b"")), Status::SUCCESS);
    assert_eq!(contents(&dir, "new"), b"");
    client.expect(request(WRITE, write_at(file, 5, b"x")), Status::SUCCESS);
    assert_eq!(contents(&dir, "new"), b"\0\0\0\0\0x");
}

#[test]
fn offsets_that_no_file_can_have_are_refused() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    for offset in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 2, 1 << 63] {
        let write = write_at(file, offset, b"four");
        client.expect(request(WRITE, write), Status::INVALID_PARAMETER);
    }
    for size in [u64::MAX, 1 << 63] {
        for class in [END_OF_FILE, ALLOCATION] {
            client.set(file, class, &size.to_le_bytes(), Status::INVALID_PARAMETER);
        }
    }
    // More than the file system can hold is no more than an error either.
    let write = write_at(file, i64::MAX as u64 - 4, b"four");
    let status = client.send(&[request(WRITE, write)]).unwrap()[0].status;
    assert!(status.is_error(), "{status}");
    for [from, to] in [[5u64, 4], [u64::MAX, 0], [0, u64::MAX]] {
        let input = [from.to_le_bytes(), to.to_le_bytes()].concat();
        client.ioctl(file, SET_ZERO_DATA, &input, Status::INVALID_PARAMETER);
    }
    let input = [u64::MAX.to_le_bytes(), 2u64.to_le_bytes()].concat();
    client.ioctl(
        file,
        QUERY_ALLOCATED_RANGES,
        &input,
        Status::INVALID_PARAMETER,
    );
    assert_eq!(contents(&dir, "new"), b"");
}

#[test]
fn who_may_only_append_does_not_overwrite() {
    let (dir, mut client) = setup();
    dir.write("log", b"first");
    let create = create("log", 0x4, OPEN, 0);
    let file = client
        .expect(request(CREATE, create), Status::SUCCESS)
        .file_id();
    client.expect(
        request(WRITE, write_at(file, 0, b"x")),
        Status::ACCESS_DENIED,
    );
    client.expect(request(WRITE, write_at(file, 5, b"+")), Status::SUCCESS);
    client.set(file, END_OF_FILE, &[0; 8], Status::ACCESS_DENIED);
    assert_eq!(contents(&dir, "log"), b"first+");
}

#[test]
fn directories_have_no_data() {
    let (_dir, mut client) = setup();
    let file = client.open_if("sub", DIRECTORY_FILE);
    client.expect(
        request(WRITE, write(file, b"x")),
        Status::INVALID_DEVICE_REQUEST,
    );
    client.set(file, END_OF_FILE, &[0; 8], Status::INVALID_PARAMETER);
    client.set(file, ALLOCATION, &[0; 8], Status::INVALID_PARAMETER);
    client.ioctl(file, SET_SPARSE, &[], Status::INVALID_PARAMETER);
    client.expect(request(FLUSH, flush(file)), Status::SUCCESS);
}

#[test]
fn sizes_are_set() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    client.expect(request(WRITE, write(file, b"123456")), Status::SUCCESS);
    client.set(file, END_OF_FILE, &3u64.to_le_bytes(), Status::SUCCESS);
    assert_eq!(contents(&dir, "new"), b"123");
    client.set(file, END_OF_FILE, &5u64.to_le_bytes(), Status::SUCCESS);
    assert_eq!(contents(&dir, "new"), b"123\0\0");
    client.set(
        file,
        ALLOCATION,
        &(1u64 << 20).to_le_bytes(),
        Status::SUCCESS,
    );
    assert_eq!(contents(&dir, "new"), b"123\0\0", "reserving is not seen");
    let standard = client.query(file, 5);
    let allocated = u64::from_le_bytes(standard[..8].try_into().unwrap());
    assert!(allocated >= 1 << 20, "{allocated}");
    client.set(file, ALLOCATION, &2u64.to_le_bytes(), Status::SUCCESS);
    assert_eq!(contents(&dir, "new"), b"12");
    client.set(file, END_OF_FILE, &[0; 7], Status::INFO_LENGTH_MISMATCH);
}

#[test]
fn room_is_reserved_for_a_file_that_is_made() {
    let (dir, mut client) = setup();
    let size = context_with(b"AlSi", &(1u64 << 20).to_le_bytes());
    let create = create_with_contexts("new", ALL_ACCESS, CREATE_NEW, 0, &size);
    client.expect(request(CREATE, create), Status::SUCCESS);
    let metadata = std::fs::metadata(dir.path().join("new")).unwrap();
    assert_eq!(metadata.len(), 0);
    assert!(metadata.blocks() * 512 >= 1 << 20);
}

#[test]
fn holes_are_told_of_sparse_files() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    let block = 1u64 << 20;
    client.set(
        file,
        END_OF_FILE,
        &(4 * block).to_le_bytes(),
        Status::SUCCESS,
    );
    client.expect(
        request(WRITE, write_at(file, block, &noise(4096))),
        Status::SUCCESS,
    );
    let all = [0u64.to_le_bytes(), (8 * block).to_le_bytes()].concat();
    let ranges = |client: &mut Client| -> Vec<u64> {
        let output = client.ioctl(file, QUERY_ALLOCATED_RANGES, &all, Status::SUCCESS);
        let numbers = output.chunks(8);
        numbers
            .map(|n| u64::from_le_bytes(n.try_into().unwrap()))
            .collect()
    };
    assert_eq!(ranges(&mut client), [0, 4 * block], "not sparse yet");
    client.ioctl(file, SET_SPARSE, &[], Status::SUCCESS);
    assert_eq!(
        client.query(file, 35)[1] & 2,
        2,
        "FILE_ATTRIBUTE_SPARSE_FILE"
    );
    assert_eq!(ranges(&mut client), [block, 4096]);
    client.expect(
        request(WRITE, write_at(file, 3 * block, &noise(4096))),
        Status::SUCCESS,
    );
    let two = request(IOCTL, ioctl(QUERY_ALLOCATED_RANGES, file, &all, 16));
    let cut = client.expect(two, Status::BUFFER_OVERFLOW);
    assert_eq!(cut.body.len() - 48, 16);
    let none = request(IOCTL, ioctl(QUERY_ALLOCATED_RANGES, file, &all, 15));
    client.expect(none, Status::BUFFER_TOO_SMALL);
    let zeros = [block.to_le_bytes(), (9 * block).to_le_bytes()].concat();
    client.ioctl(file, SET_ZERO_DATA, &zeros, Status::SUCCESS);
    assert!(ranges(&mut client).is_empty());
    assert!(contents(&dir, "new") == vec![0; 4 << 20]);
    client.ioctl(file, SET_SPARSE, &[0], Status::SUCCESS);
    assert_eq!(ranges(&mut client), [0, 4 * block]);
}

#[test]
fn ranges_are_cleared_and_trimmed() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    let mut data = noise(10_000);
    client.expect(request(WRITE, write(file, &data)), Status::SUCCESS);
    let zeros = [100u64.to_le_bytes(), 5000u64.to_le_bytes()].concat();
    client.ioctl(file, SET_ZERO_DATA, &zeros, Status::SUCCESS);
    data[100..5000].fill(0);
    assert!(contents(&dir, "new") == data);
    let mut input = [&[0; 4][..], &1u32.to_le_bytes()].concat();
    input.extend(6000u64.to_le_bytes());
    input.extend(u64::MAX.to_le_bytes());
    let done = client.ioctl(file, FILE_LEVEL_TRIM, &input, Status::SUCCESS);
    assert_eq!(done, 1u32.to_le_bytes());
    data[6000..].fill(0);
    assert!(contents(&dir, "new") == data);
    input[4] = 2;
    client.ioctl(file, FILE_LEVEL_TRIM, &input, Status::INVALID_PARAMETER);
}

#[test]
fn no_more_than_256_ranges_are_trimmed() {
    let (dir, mut client) = setup();
    let file = client.open_if("new", 0);
    let mut data = noise(1000);
    client.expect(request(WRITE, write(file, &data)), Status::SUCCESS);
    let mut input = [&[0; 4][..], &300u32.to_le_bytes()].concat();
    for at in 0..300u64 {
        input.extend(at.to_le_bytes());
        input.extend(1u64.to_le_bytes());
    }
    let done = client.ioctl(file, FILE_LEVEL_TRIM, &input, Status::SUCCESS);
    assert_eq!(done, 256u32.to_le_bytes(), "it says how many");
    data[..256].fill(0);
    assert!(contents(&dir, "new") == data);
}

fn copy(key: &[u8], chunks: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut input = key[..24].to_vec();
    input.extend((chunks.len() as u32).to_le_bytes());
    input.extend([0; 4]);
    for (from, to, length) in chunks {
        input.extend(from.to_le_bytes());
        input.extend(to.to_le_bytes());
        input.extend(length.to_le_bytes());
        input.extend([0; 4]);
    }
    input
}

fn numbers(output: &[u8]) -> [u32; 3] {
    [0, 4, 8].map(|at| u32::from_le_bytes(output[at..at + 4].try_into().unwrap()))
}

#[test]
fn chunks_are_copied_on_the_server() {
    let (dir, mut client) = setup();
    let data = noise(100_000);
    dir.write("from", &data);
    let source = client.open("from");
    let target = client.open_if("to", 0);
    let key = client.ioctl(source, REQUEST_RESUME_KEY, &[], Status::SUCCESS);
    assert_eq!(key.len(), 32);
    let input = copy(&key, &[(0, 50_000, 50_000), (50_000, 0, 50_000)]);
    let output = client.ioctl(target, COPYCHUNK, &input, Status::SUCCESS);
    assert_eq!(numbers(&output), [2, 0, 100_000]);
    let swapped = [&data[50_000..], &data[..50_000]].concat();
    assert!(contents(&dir, "to") == swapped);

    // Beyond the end of the source: what came before it has been copied.
    let input = copy(&key, &[(0, 0, 10), (99_999, 10, 2)]);
    let output = client.ioctl(target, COPYCHUNK, &input, Status::INVALID_VIEW_SIZE);
    assert_eq!(numbers(&output), [1, 0, 10]);
    // More than the limits: these are told.
    for chunks in [
        vec![(0, 0, (1 << 20) + 1)],
        vec![(0, 0, 1 << 20); 17],
        vec![(0, 0, 1); 257],
        vec![(0, 0, 0)],
    ] {
        let input = copy(&key, &chunks);
        let output = client.ioctl(target, COPYCHUNK, &input, Status::INVALID_PARAMETER);
        assert_eq!(numbers(&output), [256, 1 << 20, 16 << 20]);
    }
    let input = copy(&[0xFF; 24], &[(0, 0, 1)]);
    client.ioctl(target, COPYCHUNK, &input, Status::OBJECT_NAME_NOT_FOUND);
    // The source has to be readable, the target writable.
    let input = copy(&key, &[(0, 0, 1)]);
    client.ioctl(source, COPYCHUNK, &input, Status::ACCESS_DENIED);
    let write_only = create("to", 0x2, OPEN, 0);
    let write_only = client
        .expect(request(CREATE, write_only), Status::SUCCESS)
        .file_id();
    client.ioctl(write_only, COPYCHUNK, &input, Status::ACCESS_DENIED);
    client.ioctl(write_only, COPYCHUNK_WRITE, &input, Status::SUCCESS);
    let unreadable = client.ioctl(write_only, REQUEST_RESUME_KEY, &[], Status::SUCCESS);
    let input = copy(&unreadable, &[(0, 0, 1)]);
    client.ioctl(target, COPYCHUNK, &input, Status::ACCESS_DENIED);
    // A directory has nothing to copy.
    let directory = client.open_if("sub", DIRECTORY_FILE);
    let key = client.ioctl(directory, REQUEST_RESUME_KEY, &[], Status::SUCCESS);
    let input = copy(&key, &[(0, 0, 1)]);
    client.ioctl(target, COPYCHUNK, &input, Status::INVALID_DEVICE_REQUEST);
}

#[test]
fn chunks_may_overlap() {
    let (dir, mut client) = setup();
    for (from, to) in [(0u64, 1000u64), (1000, 0), (0, 70_000), (70_000, 0)] {
        let mut data = noise(300_000);
        dir.write("file", &data);
        let file = client.open_if("file", 0);
        let key = client.ioctl(file, REQUEST_RESUME_KEY, &[], Status::SUCCESS);
        let input = copy(&key, &[(from, to, 200_000)]);
        client.ioctl(file, COPYCHUNK, &input, Status::SUCCESS);
        data.copy_within(from as usize..from as usize + 200_000, to as usize);
        assert!(contents(&dir, "file") == data, "{from} to {to}");
        client.close(file);
    }
}
