//! What clients share, on connections without sockets: share modes, oplocks, locks, deletion,
//! notifications.

mod common;

use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::client::*;
use common::hub::Hub;
use common::{TempDir, config, noise};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use smbd::config::Config;
use smbd::sharing::BREAK_TIMEOUT;
use smbd::wire::status::Status;

const READ_DATA: u32 = 0x0012_0089;
const WRITE_DATA: u32 = 0x0012_0116;
const DELETE: u32 = 0x0001_0000;
const SHARE_ALL: u32 = 7;
const BATCH: u8 = 9;
const EXCLUSIVE: u8 = 8;
const LEVEL_II: u8 = 1;
const OPEN: u32 = 1;
const OVERWRITE: u32 = 4;
const OPLOCK_BREAK: u16 = 18;
const FLAG_ASYNC: u32 = 2;

struct Setup {
    dir: TempDir,
    config: Arc<Config>,
    hub: Rc<Hub>,
}

impl Setup {
    fn new() -> Setup {
        let dir = TempDir::new();
        dir.write("file", &noise(1000));
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let config = config(&[("data", dir.path())]);
        let hub = Hub::new();
        Setup { dir, config, hub }
    }

    fn client(&self) -> Client {
        let mut client = Client::over(Direct::beside(&self.config, &self.hub));
        client.log_on(0x0311, "data");
        client
    }
}

/// A CREATE of an existing file.
fn open(name: &str, access: u32, share: u32, oplock: u8, disposition: u32) -> Request {
    open_with(name, access, share, oplock, disposition, 0)
}

fn open_with(
    name: &str,
    access: u32,
    share: u32,
    oplock: u8,
    disposition: u32,
    options: u32,
) -> Request {
    let mut body = create(name, access, disposition, options);
    body[3] = oplock;
    body[32..36].copy_from_slice(&share.to_le_bytes());
    request(CREATE, body)
}

fn oplock_of(response: &Response) -> u8 {
    response.body[2]
}

impl Client {
    /// Sends a request and returns all responses and notifications there are then.
    #[track_caller]
    fn start(&mut self, request: Request) -> Vec<Response> {
        let message = self.message(&[request]);
        let frames = self
            .connection
            .exchange(&message)
            .expect("connection dropped");
        frames.iter().flat_map(|frame| responses(frame)).collect()
    }

    /// What has come since.
    #[track_caller]
    fn more(&mut self) -> Vec<Response> {
        let frames = self.connection.run().expect("connection dropped");
        frames.iter().flat_map(|frame| responses(frame)).collect()
    }

    /// Starts a request that has to wait.
    #[track_caller]
    fn start_waiting(&mut self, request: Request) -> u64 {
        let responses = self.start(request);
        assert_eq!(responses.len(), 1, "{responses:?}");
        assert_eq!(responses[0].status, Status::PENDING);
        assert_eq!(responses[0].flags & FLAG_ASYNC, FLAG_ASYNC);
        assert!(responses[0].credits > 0, "the interim response grants");
        u64::from(responses[0].tree_id) << 32 | u64::from(responses[0].process_id)
    }

    /// The final response of a request that has waited.
    #[track_caller]
    fn expect_final(&mut self, status: Status) -> Response {
        let mut responses = self.more();
        assert_eq!(responses.len(), 1, "{responses:?}");
        let last = responses.remove(0);
        assert_eq!(last.status, status);
        assert_eq!(last.flags & FLAG_ASYNC, FLAG_ASYNC);
        assert_eq!(last.credits, 0, "they were granted before");
        last
    }

    /// A break that the client is told of: the level and the file.
    #[track_caller]
    fn expect_break(&mut self) -> (u8, [u8; 16]) {
        let responses = self.more();
        assert_eq!(responses.len(), 1, "{responses:?}");
        assert_eq!(responses[0].message_id, u64::MAX);
        let body = &responses[0].body;
        (body[2], body[8..24].try_into().unwrap())
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        let responses = self.more();
        assert!(responses.is_empty(), "{responses:?}");
    }
}

fn oplock_break(file: [u8; 16], level: u8) -> Request {
    let mut body = vec![24, 0, level, 0, 0, 0, 0, 0];
    body.extend(file);
    request(OPLOCK_BREAK, body)
}

fn lock_range(file: [u8; 16], offset: u64, length: u64, flags: u32) -> Request {
    lock_ranges(file, &[(offset, length, flags)])
}

fn lock_ranges(file: [u8; 16], ranges: &[(u64, u64, u32)]) -> Request {
    let mut body = vec![48, 0];
    body.extend((ranges.len() as u16).to_le_bytes());
    body.extend([0; 4]);
    body.extend(file);
    for (offset, length, flags) in ranges {
        body.extend(offset.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(flags.to_le_bytes());
        body.extend([0; 4]);
    }
    request(LOCK, body)
}

const SHARED: u32 = 1;
const EXCLUSIVE_LOCK: u32 = 2;
const UNLOCK: u32 = 4;
const AT_ONCE: u32 = 0x10;

fn cancel(async_id: u64) -> Vec<u8> {
    let mut message = b"\xFESMB\x40\0\0\0\0\0\0\0".to_vec();
    message.extend(CANCEL.to_le_bytes());
    message.extend([0, 0]);
    message.extend(FLAG_ASYNC.to_le_bytes());
    message.extend([0; 12]);
    message.extend(async_id.to_le_bytes());
    message.extend([0; 24]);
    message.extend([4, 0, 0, 0]);
    message
}

fn disposition(file: [u8; 16], delete: bool) -> Request {
    request(SET_INFO, set_info(file, 1, 13, &[u8::from(delete)]))
}

#[test]
fn share_modes_hold_between_clients() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let held = first.expect(open("file", READ_DATA, 1, 0, OPEN), Status::SUCCESS);
    let other = second.expect(open("file", READ_DATA, 1, 0, OPEN), Status::SUCCESS);
    let violation = Status::SHARING_VIOLATION;
    second.expect(open("file", WRITE_DATA, SHARE_ALL, 0, OPEN), violation);
    second.expect(open("file", READ_DATA, 2, 0, OPEN), violation);
    second.expect(open("file", READ_DATA, SHARE_ALL, 0, OVERWRITE), violation);
    // Whoever only looks is in nobody's way.
    second.expect(open("file", 0x80, 0, 0, OPEN), Status::SUCCESS);
    first.expect(request(CLOSE, close(held.file_id(), 0)), Status::SUCCESS);
    second.expect(open("file", WRITE_DATA, 1, 0, OPEN), violation);
    let close = request(CLOSE, close(other.file_id(), 0));
    second.expect(close, Status::SUCCESS);
    second.expect(open("file", WRITE_DATA, 1, 0, OPEN), Status::SUCCESS);
}

#[test]
fn nothing_is_left_of_clients_that_are_gone() {
    let setup = Setup::new();
    for _ in 0..200 {
        let mut client = setup.client();
        let file = client.expect(
            open("file", READ_DATA | WRITE_DATA, 0, BATCH, OPEN),
            Status::SUCCESS,
        );
        let file = file.file_id();
        client.expect(
            lock_range(file, 0, 10, EXCLUSIVE_LOCK | AT_ONCE),
            Status::SUCCESS,
        );
        drop(client);
        setup.hub.run();
        assert!(setup.hub.is_empty());
    }
}

#[test]
fn a_second_client_breaks_the_oplock_of_the_first() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let held = first.expect(
        open("file", READ_DATA, SHARE_ALL, BATCH, OPEN),
        Status::SUCCESS,
    );
    assert_eq!(oplock_of(&held), BATCH);
    second.start_waiting(open("file", READ_DATA, SHARE_ALL, EXCLUSIVE, OPEN));
    assert_eq!(first.expect_break(), (LEVEL_II, held.file_id()));
    second.expect_nothing();
    // Too high a level ends the oplock.
    let answered = first.expect(oplock_break(held.file_id(), LEVEL_II), Status::SUCCESS);
    assert_eq!(answered.body[2], LEVEL_II);
    let opened = second.expect_final(Status::SUCCESS);
    assert_eq!(oplock_of(&opened), LEVEL_II, "all that is left to have");
    // A write ends them both, without being asked for.
    let writer = second.expect(
        open("file", WRITE_DATA, SHARE_ALL, 0, OPEN),
        Status::SUCCESS,
    );
    let data = write_at(writer.file_id(), 0, b"new");
    let responses = second.start(request(WRITE, data));
    assert_eq!(first.expect_break(), (0, held.file_id()));
    assert_eq!(
        responses.len() + second.more().len(),
        2,
        "its answer and its own break"
    );
    first.expect(
        oplock_break(held.file_id(), 0),
        Status::INVALID_OPLOCK_PROTOCOL,
    );
}

#[test]
fn a_break_that_is_not_acknowledged_is_over_after_35_seconds() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let held = first.expect(
        open("file", READ_DATA, SHARE_ALL, BATCH, OPEN),
        Status::SUCCESS,
    );
    second.start_waiting(open("file", READ_DATA, SHARE_ALL, 0, OPEN));
    setup.hub.pass(BREAK_TIMEOUT - Duration::from_millis(1));
    second.expect_nothing();
    setup.hub.pass(Duration::from_millis(1));
    second.expect_final(Status::SUCCESS);
    assert_eq!(first.expect_break(), (LEVEL_II, held.file_id()));
    let late = oplock_break(held.file_id(), LEVEL_II);
    first.expect(late, Status::INVALID_OPLOCK_PROTOCOL);
}

#[test]
fn a_client_that_is_gone_is_no_longer_waited_for() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let opened = first.expect(
        open("file", READ_DATA | WRITE_DATA, SHARE_ALL, BATCH, OPEN),
        Status::SUCCESS,
    );
    second.start_waiting(open("file", READ_DATA | WRITE_DATA, SHARE_ALL, 0, OPEN));
    setup.hub.kill(0);
    drop(first);
    let mine = second.expect_final(Status::SUCCESS).file_id();
    assert_eq!(oplock_of(&opened), BATCH);
    let mut third = setup.client();
    let theirs = third.expect(
        open("file", READ_DATA | WRITE_DATA, SHARE_ALL, 0, OPEN),
        Status::SUCCESS,
    );
    let lock = |file| lock_range(file, 0, 10, EXCLUSIVE_LOCK);
    second.expect(lock(mine), Status::SUCCESS);
    third.start_waiting(lock(theirs.file_id()));
    setup.hub.kill(1);
    drop(second);
    third.expect_final(Status::SUCCESS);
}

#[test]
fn locks_keep_others_from_reading_and_writing() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let both = open("file", READ_DATA | WRITE_DATA, SHARE_ALL, 0, OPEN);
    let a = first.expect(both.clone(), Status::SUCCESS).file_id();
    let b = second.expect(both.clone(), Status::SUCCESS).file_id();
    let other_handle = first.expect(both, Status::SUCCESS).file_id();
    first.expect(
        lock_range(a, 100, 100, EXCLUSIVE_LOCK | AT_ONCE),
        Status::SUCCESS,
    );
    let conflict = Status::FILE_LOCK_CONFLICT;
    let read_at = |file, offset| request(READ, read(file, offset, 50, 0));
    let write_to = |file, offset| request(WRITE, write_at(file, offset, b"x"));
    second.expect(read_at(b, 80), conflict);
    second.expect(write_to(b, 199), conflict);
    first.expect(read_at(other_handle, 100), conflict);
    first.expect(read_at(a, 100), Status::SUCCESS);
    first.expect(write_to(a, 100), Status::SUCCESS);
    second.expect(read_at(b, 200), Status::SUCCESS);
    second.expect(write_to(b, 99), Status::SUCCESS);
    let refused = lock_range(b, 150, 1, SHARED | AT_ONCE);
    second.expect(refused, Status::LOCK_NOT_GRANTED);

    first.expect(lock_range(a, 100, 99, UNLOCK), Status::RANGE_NOT_LOCKED);
    first.expect(lock_range(a, 100, 100, UNLOCK), Status::SUCCESS);
    second.expect(read_at(b, 80), Status::SUCCESS);
    // Shared locks keep everybody from writing, their owners included.
    second.expect(lock_range(b, 0, 10, SHARED | AT_ONCE), Status::SUCCESS);
    first.expect(lock_range(a, 5, 10, SHARED | AT_ONCE), Status::SUCCESS);
    first.expect(write_to(a, 7), conflict);
    second.expect(write_to(b, 7), conflict);
    first.expect(read_at(a, 0), Status::SUCCESS);
}

#[test]
fn a_copy_that_fails_half_way_ends_what_others_have_cached() {
    const SRV_COPYCHUNK_WRITE: u32 = 0x0014_80F2;
    let setup = Setup::new();
    setup.dir.write("target", b"old");
    let (mut one, mut other) = (setup.client(), setup.client());
    let cached = open("target", READ_DATA, SHARE_ALL, LEVEL_II, OPEN);
    let cached = other.expect(cached, Status::SUCCESS);
    assert_eq!(oplock_of(&cached), LEVEL_II);
    let source = one.open("file");
    let target = one.open_if("target", 0);
    let mut input = source.to_vec();
    input.extend([0; 8]);
    input.extend(2u32.to_le_bytes());
    input.extend([0; 4]);
    // The second one is beyond the end.
    for from in [0u64, 1000] {
        input.extend(from.to_le_bytes());
        input.extend(0u64.to_le_bytes());
        input.extend(100u32.to_le_bytes());
        input.extend([0; 4]);
    }
    one.ioctl(
        target,
        SRV_COPYCHUNK_WRITE,
        &input,
        Status::INVALID_VIEW_SIZE,
    );
    let path = setup.dir.path().join("target");
    assert_eq!(std::fs::read(path).unwrap(), noise(1000)[..100]);
    assert_eq!(other.expect_break(), (0, cached.file_id()));
}

#[test]
fn all_ranges_of_a_request_are_unlocked_by_one_message() {
    let setup = Setup::new();
    let (mut one, mut other) = (setup.client(), setup.client());
    let file = open("file", READ_DATA | WRITE_DATA, SHARE_ALL, 0, OPEN);
    let a = one.expect(file.clone(), Status::SUCCESS).file_id();
    let b = other.expect(file, Status::SUCCESS).file_id();
    let ranges = |flags| -> Vec<(u64, u64, u32)> { (0..100).map(|i| (i, 1, flags)).collect() };
    let locked = lock_ranges(a, &ranges(EXCLUSIVE_LOCK | AT_ONCE));
    one.expect(locked, Status::SUCCESS);
    let before = setup.hub.messages.get();
    one.expect(lock_ranges(a, &ranges(UNLOCK)), Status::SUCCESS);
    assert_eq!(setup.hub.messages.get() - before, 1);
    let all = lock_range(b, 0, 100, EXCLUSIVE_LOCK | AT_ONCE);
    other.expect(all, Status::SUCCESS);
    other.expect(lock_range(b, 0, 100, UNLOCK), Status::SUCCESS);
    // What comes before one that is not locked is unlocked.
    one.expect(lock_range(a, 0, 1, EXCLUSIVE_LOCK), Status::SUCCESS);
    let wrong = [(0, 1, UNLOCK), (1, 1, UNLOCK)];
    one.expect(lock_ranges(a, &wrong), Status::RANGE_NOT_LOCKED);
    other.expect(lock_range(b, 0, 1, EXCLUSIVE_LOCK), Status::SUCCESS);
}

#[test]
fn a_lock_that_waits_is_granted_in_turn_or_cancelled() {
    let setup = Setup::new();
    let mut clients: Vec<Client> = (0..4).map(|_| setup.client()).collect();
    let both = open("file", READ_DATA | WRITE_DATA, SHARE_ALL, 0, OPEN);
    let files: Vec<[u8; 16]> = clients
        .iter_mut()
        .map(|client| client.expect(both.clone(), Status::SUCCESS).file_id())
        .collect();
    let lock = |file| lock_range(file, 0, 10, EXCLUSIVE_LOCK);
    clients[0].expect(lock(files[0]), Status::SUCCESS);
    let ids: Vec<u64> = (1..4)
        .map(|i| clients[i].start_waiting(lock(files[i])))
        .collect();
    // The second gives up.
    let frames = clients[2].connection.exchange(&cancel(ids[1])).unwrap();
    assert_eq!(responses(&frames[0])[0].status, Status::CANCELLED);
    clients[0].expect(lock_range(files[0], 0, 10, UNLOCK), Status::SUCCESS);
    clients[1].expect_final(Status::SUCCESS);
    clients[3].expect_nothing();
    // Whoever closes its file waits no longer.
    let responses = clients[3].start(request(CLOSE, close(files[3], 0)));
    let statuses: Vec<Status> = responses.iter().map(|r| r.status).collect();
    assert!(statuses.contains(&Status::RANGE_NOT_LOCKED), "{statuses:?}");
    assert!(statuses.contains(&Status::SUCCESS), "{statuses:?}");
    // Nothing was locked by those that gave up.
    clients[1].expect(lock_range(files[1], 0, 10, UNLOCK), Status::SUCCESS);
    clients[2].expect(lock(files[2]), Status::SUCCESS);
}

#[test]
fn reads_writes_and_closing_ask_nobody() {
    let setup = Setup::new();
    let mut client = setup.client();
    let both = open("file", READ_DATA | WRITE_DATA, SHARE_ALL, BATCH, OPEN);
    let file = client.expect(both, Status::SUCCESS).file_id();
    let before = setup.hub.messages.get();
    for _ in 0..10 {
        client.expect(request(READ, read(file, 0, 100, 0)), Status::SUCCESS);
        client.expect(request(WRITE, write_at(file, 0, b"abc")), Status::SUCCESS);
    }
    assert_eq!(setup.hub.messages.get(), before);
    client.expect(request(CLOSE, close(file, 0)), Status::SUCCESS);
    assert_eq!(
        setup.hub.messages.get(),
        before + 1,
        "it is told, not asked"
    );
}

#[test]
fn a_file_is_deleted_when_the_last_client_closes_it() {
    let setup = Setup::new();
    let (mut first, mut second, mut third) = (setup.client(), setup.client(), setup.client());
    let path = setup.dir.path().join("file");
    let a = first.expect(
        open("file", READ_DATA | DELETE, SHARE_ALL, 0, OPEN),
        Status::SUCCESS,
    );
    let b = second.expect(open("file", READ_DATA, SHARE_ALL, 0, OPEN), Status::SUCCESS);
    let (a, b) = (a.file_id(), b.file_id());
    let another = open("file", READ_DATA, SHARE_ALL, 0, OPEN);
    first.expect(disposition(a, true), Status::SUCCESS);
    third.expect(another.clone(), Status::DELETE_PENDING);
    first.expect(disposition(a, false), Status::SUCCESS);
    let c = third.expect(another.clone(), Status::SUCCESS).file_id();
    third.expect(request(CLOSE, close(c, 0)), Status::SUCCESS);
    first.expect(disposition(a, true), Status::SUCCESS);
    first.expect(request(CLOSE, close(a, 0)), Status::SUCCESS);
    assert!(path.exists());
    third.expect(another.clone(), Status::DELETE_PENDING);
    second.expect(request(CLOSE, close(b, 0)), Status::SUCCESS);
    assert!(!path.exists());
    third.expect(another, Status::OBJECT_NAME_NOT_FOUND);
    assert!(setup.hub.is_empty());
}

#[test]
fn the_last_one_finds_the_file_by_another_name() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let a = first.expect(
        open("file", READ_DATA | DELETE, SHARE_ALL, 0, OPEN),
        Status::SUCCESS,
    );
    let b = second.expect(open("file", READ_DATA, SHARE_ALL, 0, OPEN), Status::SUCCESS);
    let (a, b) = (a.file_id(), b.file_id());
    let rename = set_info(a, 1, 10, &new_name("dir\\renamed", false));
    first.expect(request(SET_INFO, rename), Status::SUCCESS);
    let path = setup.dir.path().join("dir/renamed");
    assert!(path.exists());
    first.expect(disposition(a, true), Status::SUCCESS);
    first.expect(request(CLOSE, close(a, 0)), Status::SUCCESS);
    second.expect(request(CLOSE, close(b, 0)), Status::SUCCESS);
    assert!(!path.exists());
}

#[test]
fn what_was_opened_to_be_deleted_goes_with_its_session() {
    let setup = Setup::new();
    let path = setup.dir.path().join("file");
    for end in [TREE_DISCONNECT, LOGOFF] {
        setup.dir.write("file", b"x");
        let mut client = setup.client();
        let open = open_with("file", DELETE, SHARE_ALL, 0, OPEN, 0x1000);
        client.expect(open, Status::SUCCESS);
        client.expect(request(end, empty()), Status::SUCCESS);
        assert!(!path.exists(), "command {end}");
    }
}

#[test]
fn changes_of_a_directory_are_told() {
    let setup = Setup::new();
    let (mut watcher, mut other) = (setup.client(), setup.client());
    let directory = watcher.expect(open("dir", READ_DATA, SHARE_ALL, 0, OPEN), Status::SUCCESS);
    let directory = directory.file_id();
    watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    let made = other.expect(
        open("dir\\new", WRITE_DATA | DELETE, SHARE_ALL, 0, 2),
        Status::SUCCESS,
    );
    watcher.connection.connection.read_changes();
    let told = watcher.expect_final(Status::SUCCESS);
    assert_eq!(told.u32(8 + 4), 1, "FILE_ACTION_ADDED");
    assert_eq!(told.body[8 + 12..8 + 18], [b'n', 0, b'e', 0, b'w', 0]);
    // What happens in between is kept.
    other.expect(disposition(made.file_id(), true), Status::SUCCESS);
    other.expect(request(CLOSE, close(made.file_id(), 0)), Status::SUCCESS);
    let mut responses = watcher.start(request(CHANGE_NOTIFY, change_notify(directory)));
    let told = responses.remove(0);
    assert_eq!(
        (told.status, told.u32(8 + 4)),
        (Status::SUCCESS, 2),
        "removed"
    );
    // Closing and cancelling end the waiting, each its way.
    let id = watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    let frames = watcher.connection.exchange(&cancel(id)).unwrap();
    assert_eq!(responses_of(&frames), [Status::CANCELLED]);
    watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    let responses = watcher.start(request(CLOSE, close(directory, 0)));
    let statuses: Vec<Status> = responses.iter().map(|response| response.status).collect();
    assert!(statuses.contains(&Status::NOTIFY_CLEANUP), "{statuses:?}");
}

#[test]
fn too_many_changes_are_told_as_that() {
    let setup = Setup::new();
    let mut watcher = setup.client();
    let directory = watcher.expect(open("dir", READ_DATA, SHARE_ALL, 0, OPEN), Status::SUCCESS);
    let directory = directory.file_id();
    watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    for number in 0..1000 {
        setup.dir.write(&format!("dir/{number:0100}"), b"");
    }
    watcher.connection.connection.read_changes();
    watcher.expect_final(Status::NOTIFY_ENUM_DIR);
}

/// A CHANGE_NOTIFY for names in a whole tree.
fn watch_tree(directory: [u8; 16]) -> Request {
    const WATCH_TREE: u8 = 1;
    const NAMES: u32 = 3;
    let mut body = change_notify(directory);
    body[2] = WATCH_TREE;
    body[24..28].copy_from_slice(&NAMES.to_le_bytes());
    request(CHANGE_NOTIFY, body)
}

/// The names in the answer to a CHANGE_NOTIFY.
fn changed_names(response: &Response) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 8;
    loop {
        let length = response.u32(at + 8) as usize;
        let name = response.body[at + 12..at + 12 + length].chunks(2);
        let units: Vec<u16> = name
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        names.push(String::from_utf16(&units).unwrap());
        match response.u32(at) {
            0 => return names,
            next => at += next as usize,
        }
    }
}

#[test]
fn a_new_directory_of_a_watched_tree_is_watched_without_a_look_at_the_others() {
    const COUNT: usize = 50;
    let setup = Setup::new();
    let path = setup.dir.path().join("dir");
    let mut watcher = setup.client();
    let directory = watcher.expect(open("dir", READ_DATA, SHARE_ALL, 0, OPEN), Status::SUCCESS);
    let directory = directory.file_id();
    watcher.start_waiting(watch_tree(directory));
    // Counts how often directories are opened from here on.
    let opened = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&opened, &path, WatchFlags::OPEN).unwrap();
    for number in 0..COUNT {
        std::fs::create_dir(path.join(number.to_string())).unwrap();
    }
    watcher.connection.connection.read_changes();
    let told = watcher.expect_final(Status::SUCCESS);
    assert_eq!(changed_names(&told).len(), COUNT);
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut events = Reader::new(&opened, &mut buffer);
    let count = std::iter::from_fn(|| events.next().ok().map(drop)).count();
    assert!(
        (COUNT..=2 * COUNT).contains(&count),
        "{count} directories were opened for {COUNT} new ones"
    );
    // It is watched under the name that it gets, with what is in it.
    setup.dir.write("dir/7/below/one", b"");
    std::fs::rename(path.join("7"), path.join("seven")).unwrap();
    watcher.connection.connection.read_changes();
    let told = watcher.start(watch_tree(directory)).remove(0);
    let names = changed_names(&told);
    assert_eq!(names[..1], ["7\\below"]);
    assert_eq!(names[names.len() - 2..], ["7", "seven"]);
    setup.dir.write("dir/seven/below/two", b"");
    watcher.connection.connection.read_changes();
    let told = watcher.start(watch_tree(directory)).remove(0);
    assert_eq!(changed_names(&told), ["seven\\below\\two"]);
}

fn responses_of(frames: &[Vec<u8>]) -> Vec<Status> {
    let all = frames.iter().flat_map(|frame| responses(frame));
    all.map(|response| response.status).collect()
}

#[test]
fn only_the_last_of_a_compound_may_wait() {
    let setup = Setup::new();
    let mut client = setup.client();
    let directory = open("dir", READ_DATA, SHARE_ALL, 0, OPEN);
    let notify = request(CHANGE_NOTIFY, change_notify(RELATED_FILE)).related();
    let message = client.message(&[directory.clone(), notify.clone()]);
    let frames = client.connection.exchange(&message).unwrap();
    assert_eq!(
        responses_of(&frames),
        [Status::SUCCESS, Status::PENDING],
        "the first doesn't wait for the second"
    );
    assert_eq!(frames.len(), 2);
    let close = request(CLOSE, close(RELATED_FILE, 0)).related();
    let message = client.message(&[directory, notify, close]);
    let frames = client.connection.exchange(&message).unwrap();
    assert_eq!(
        responses_of(&frames),
        [Status::SUCCESS, Status::INTERNAL_ERROR, Status::SUCCESS]
    );
}

fn rename(file: [u8; 16], name: &str) -> Request {
    request(SET_INFO, set_info(file, 1, 10, &new_name(name, false)))
}

#[test]
fn a_rename_in_the_midst_of_a_compound_waits_for_an_oplock_to_be_broken() {
    let setup = Setup::new();
    setup.dir.write("new", b"new");
    let mut client = setup.client();
    // What is replaced is open on the same connection.
    let batch = open("file", READ_DATA, SHARE_ALL, BATCH, OPEN);
    for closes in [false, true] {
        let file = client.expect(batch.clone(), Status::SUCCESS).file_id();
        let message = client.message(&[
            open("new", DELETE, SHARE_ALL, 0, OPEN),
            request(
                SET_INFO,
                set_info(RELATED_FILE, 1, 10, &new_name("file", true)),
            )
            .related(),
            request(CLOSE, close(RELATED_FILE, 0)).related(),
        ]);
        let frames = client.connection.exchange(&message).unwrap();
        let told: Vec<Response> = frames.iter().flat_map(|frame| responses(frame)).collect();
        assert_eq!(
            told.len(),
            1,
            "the break, and no interim response: {told:?}"
        );
        assert_eq!(told[0].message_id, u64::MAX);
        assert_eq!(told[0].body[8..24], file);
        let (answer, renamed) = if closes {
            (request(CLOSE, close(file, 0)), Status::SUCCESS)
        } else {
            (oplock_break(file, told[0].body[2]), Status::ACCESS_DENIED)
        };
        let mut answered = client.start(answer);
        answered.extend(client.more());
        let statuses: Vec<Status> = answered.iter().map(|response| response.status).collect();
        assert_eq!(
            statuses,
            [Status::SUCCESS, Status::SUCCESS, renamed, Status::SUCCESS]
        );
        if !closes {
            client.expect(request(CLOSE, close(file, 0)), Status::SUCCESS);
        }
    }
    assert_eq!(
        std::fs::read(setup.dir.path().join("file")).unwrap(),
        b"new"
    );
}

#[test]
fn a_directory_stays_where_it_is_while_another_client_has_something_open_below_it() {
    let setup = Setup::new();
    setup.dir.write("dir/sub/file", b"");
    setup.dir.write("dirt", b"");
    let (mut first, mut second) = (setup.client(), setup.client());
    let dir = first.open_if("dir", DIRECTORY_FILE);
    let beside = second.open("dirt");
    for below in ["dir\\sub", "dir\\sub\\file"] {
        let below = second.open(below);
        first.expect(rename(dir, "new"), Status::ACCESS_DENIED);
        second.close(below);
    }
    // Neither another handle to it nor what is called alike is in the way.
    let same = second.open("DIR");
    first.expect(rename(dir, "new"), Status::SUCCESS);
    // What is opened then is below the new name.
    let below = second.open("new\\SUB\\file");
    first.expect(rename(dir, "newer"), Status::ACCESS_DENIED);
    second.close(below);
    for file in [same, beside] {
        second.close(file);
    }
    first.expect(rename(dir, "newer"), Status::SUCCESS);
    assert!(setup.dir.path().join("newer/sub/file").exists());
}

#[test]
fn a_file_that_another_client_has_renamed_can_be_renamed() {
    let setup = Setup::new();
    let (mut first, mut second) = (setup.client(), setup.client());
    let mine = first.open_if("file", 0);
    let theirs = second.open_if("file", 0);
    second.expect(rename(theirs, "dir\\second"), Status::SUCCESS);
    first.expect(rename(mine, "third"), Status::SUCCESS);
    second.expect(disposition(theirs, true), Status::SUCCESS);
    second.close(theirs);
    first.close(mine);
    let left = std::fs::read_dir(setup.dir.path()).unwrap().count();
    assert_eq!(left, 1, "the directory alone");
}

#[test]
fn who_has_a_directory_open_for_deleting_keeps_only_themselves_from_renaming_in_it() {
    let setup = Setup::new();
    setup.dir.write("dir/a", b"");
    let (mut first, mut second) = (setup.client(), setup.client());
    let dir = first.open_if("dir", DIRECTORY_FILE);
    let mine = first.open_if("dir\\a", 0);
    first.expect(rename(mine, "dir\\b"), Status::SHARING_VIOLATION);
    first.close(dir);
    let alone = open_with("dir", READ_DATA, 0, 0, OPEN, DIRECTORY_FILE);
    let alone = first.expect(alone, Status::SUCCESS).file_id();
    first.expect(rename(mine, "dir\\b"), Status::SHARING_VIOLATION);
    first.close(alone);
    let dir = first.open_if("dir", DIRECTORY_FILE);
    let theirs = second.open_if("dir\\a", 0);
    second.expect(rename(theirs, "dir\\b"), Status::SUCCESS);
    second.expect(rename(theirs, "moved"), Status::SUCCESS);
    first.close(mine);
    // Nothing goes where a directory is about to be deleted.
    first.expect(disposition(dir, true), Status::SUCCESS);
    second.expect(rename(theirs, "dir\\c"), Status::DELETE_PENDING);
}

#[test]
fn no_two_opens_have_the_same_id() {
    const REQUEST_RESUME_KEY: u32 = 0x0014_0078;
    let setup = Setup::new();
    let mut ids = std::collections::HashSet::new();
    let mut keys = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut client = setup.client();
        for _ in 0..3 {
            let file = client.open("file");
            assert!(ids.insert(file[..8].to_vec()), "the persistent part");
            let key = client.ioctl(file, REQUEST_RESUME_KEY, &[], Status::SUCCESS);
            assert!(keys.insert(key[..24].to_vec()));
        }
    }
}
