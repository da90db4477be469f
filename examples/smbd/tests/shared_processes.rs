//! What clients share, with the program as it is: a process for each client.

mod common;

use common::TempDir;
use common::client::*;
use common::process::{children, eventually, process};
use common::server::{Server, kill};
use common::wire::{Wire, frame};
use rustix::process::Signal;
use smbd::wire::status::Status;

const BOTH: u32 = 0x0012_019F;
const EXCLUSIVE_LOCK: u32 = 2;
const UNLOCK: u32 = 4;
const FAIL_IMMEDIATELY: u32 = 0x10;
const BATCH: u8 = 9;

/// A client, and the process that serves it.
fn connect(server: &Server) -> (Client<Wire>, u32) {
    let before: Vec<u32> = children(server.pid())
        .iter()
        .map(|child| child.pid)
        .collect();
    let client = Client::at(server.address(), 0x0311, "data");
    let new = children(server.pid())
        .into_iter()
        .find(|child| !before.contains(&child.pid));
    (client, new.expect("no process for the client").pid)
}

fn open(name: &str, share: u32, oplock: u8) -> Request {
    let mut body = create(name, BOTH, 1, 0);
    body[3] = oplock;
    body[32..36].copy_from_slice(&share.to_le_bytes());
    request(CREATE, body)
}

fn lock_range(file: [u8; 16]) -> Request {
    change_lock(file, EXCLUSIVE_LOCK)
}

fn change_lock(file: [u8; 16], flags: u32) -> Request {
    let mut body = vec![48, 0, 1, 0, 0, 0, 0, 0];
    body.extend(file);
    body.extend(0u64.to_le_bytes());
    body.extend(10u64.to_le_bytes());
    body.extend(flags.to_le_bytes());
    body.extend([0; 4]);
    request(LOCK, body)
}

impl Client<Wire> {
    /// The next response or notification, whatever it belongs to.
    #[track_caller]
    fn next(&mut self) -> Response {
        let frame = self.connection.receive().expect("nothing comes");
        responses(&frame.expect("the connection is closed")).remove(0)
    }

    #[track_caller]
    fn start_waiting(&mut self, request: Request) {
        self.expect(request, Status::PENDING);
    }
}

fn setup() -> (TempDir, Server) {
    let dir = TempDir::new();
    dir.write("file", b"0123456789");
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    let server = Server::start(&[("data", dir.path())]);
    (dir, server)
}

#[test]
fn a_lock_is_free_when_the_process_that_held_it_is_killed() {
    let (_dir, server) = setup();
    let (mut first, process) = connect(&server);
    let (mut second, _) = connect(&server);
    let a = first.expect(open("file", 7, 0), Status::SUCCESS).file_id();
    let b = second.expect(open("file", 7, 0), Status::SUCCESS).file_id();
    first.expect(lock_range(a), Status::SUCCESS);
    let write = request(WRITE, write_at(b, 0, b"x"));
    second.expect(write.clone(), Status::FILE_LOCK_CONFLICT);
    second.start_waiting(lock_range(b));
    kill(process, Signal::KILL);
    assert_eq!(second.next().status, Status::SUCCESS);
    second.expect(write, Status::SUCCESS);
}

#[test]
fn a_break_goes_from_process_to_process() {
    let (_dir, server) = setup();
    let (mut first, _) = connect(&server);
    let (mut second, _) = connect(&server);
    let a = first
        .expect(open("file", 7, BATCH), Status::SUCCESS)
        .file_id();
    second.start_waiting(open("file", 7, BATCH));
    let told = first.next();
    assert_eq!(
        (told.message_id, told.body[2]),
        (u64::MAX, 1),
        "to level II"
    );
    let mut acknowledgment = vec![24, 0, 1, 0, 0, 0, 0, 0];
    acknowledgment.extend(a);
    first.expect(request(18, acknowledgment), Status::SUCCESS);
    let opened = second.next();
    assert_eq!((opened.status, opened.body[2]), (Status::SUCCESS, 1));
}

/// What a client hears that asks for something of `file` when another one, which has it open,
/// has heard that it has let go of that, if the parent finds the one's question first. Both
/// requests are made of the client's own open.
fn ask_overtaking(
    file: &str,
    share: u32,
    let_go: impl Fn([u8; 16]) -> Request,
    ask: impl Fn([u8; 16]) -> Request,
) -> Status {
    let (dir, server) = setup();
    dir.write("shared", b"0123456789");
    let (mut first, _) = connect(&server);
    let (mut second, _) = connect(&server);
    let (other, shared) = (second.open("dir"), second.open("shared"));
    let held = first
        .expect(open(file, share, 0), Status::SUCCESS)
        .file_id();
    if share != 0 {
        first.expect(lock_range(held), Status::SUCCESS);
    }
    server.signal(Signal::STOP);
    let parent = || process(server.pid()).expect("no server").state;
    eventually("the parent stands still", || parent() == 'T');
    // Told without waiting, and so what the parent finds first.
    second.close(other);
    first.expect(let_go(held), Status::SUCCESS);
    // When there is an answer to the ECHO what comes with it has been passed on.
    let echo = second.message(&[request(ECHO, empty())]);
    let question = second.message(&[ask(shared)]);
    second
        .connection
        .send(&[frame(&echo), frame(&question)].concat());
    assert_eq!(second.next().command, ECHO);
    server.signal(Signal::CONT);
    second.next().status
}

#[test]
fn what_a_client_has_let_go_is_free_when_it_hears_so() {
    let opened = ask_overtaking(
        "file",
        0,
        |file| request(CLOSE, close(file, 0)),
        |_| open("file", 0, 0),
    );
    assert_eq!(opened, Status::SUCCESS, "a file that was closed");
    let locked = ask_overtaking(
        "shared",
        7,
        |file| change_lock(file, UNLOCK),
        |file| change_lock(file, EXCLUSIVE_LOCK | FAIL_IMMEDIATELY),
    );
    assert_eq!(locked, Status::SUCCESS, "a range that was unlocked");
}

#[test]
fn a_client_that_goes_without_a_word_leaves_its_files_to_others() {
    let (dir, server) = setup();
    let (mut first, _) = connect(&server);
    let (mut second, _) = connect(&server);
    first.expect(open("file", 0, 0), Status::SUCCESS);
    // To be deleted on close.
    dir.write("doomed", b"");
    let doomed = create("doomed", 0x0001_0000, 1, 0x1000);
    first.expect(request(CREATE, doomed), Status::SUCCESS);
    second.expect(open("file", 7, 0), Status::SHARING_VIOLATION);
    first.connection.reset();
    eventually("the file can be opened", || {
        let responses = second.send(&[open("file", 7, 0)]).unwrap();
        responses[0].status == Status::SUCCESS
    });
    eventually("the other one is deleted", || {
        !dir.path().join("doomed").exists()
    });
}

#[test]
fn changes_by_others_are_told() {
    let (dir, server) = setup();
    let (mut watcher, _) = connect(&server);
    let directory = watcher.open("dir");
    watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    dir.write("dir/new", b"");
    let told = watcher.next();
    assert_eq!(told.status, Status::SUCCESS);
    assert_eq!(told.u32(8 + 4), 1, "FILE_ACTION_ADDED");
}

#[test]
fn usr1_tells_who_has_what_open() {
    let (_dir, server) = setup();
    let (mut client, process) = connect(&server);
    let file = client
        .expect(open("file", 7, BATCH), Status::SUCCESS)
        .file_id();
    client.expect(lock_range(file), Status::SUCCESS);
    server.signal(Signal::USR1);
    server.log.expect("1 clients");
    server
        .log
        .expect(&format!("process {process}, 1 opens, 0 requests wait"));
    server.log.expect(r#""data\\file""#);
    server.log.expect("1 locks");
    client.check();
    kill(process, Signal::USR1);
    client.check();
}

#[test]
fn told_to_end_the_server_answers_those_who_wait() {
    let (_dir, mut server) = setup();
    let (mut watcher, _) = connect(&server);
    let directory = watcher.open("dir");
    watcher.start_waiting(request(CHANGE_NOTIFY, change_notify(directory)));
    server.signal(Signal::TERM);
    assert_eq!(watcher.next().status, Status::NOTIFY_CLEANUP);
    watcher.connection.expect_closed();
    assert_eq!(server.wait().code(), Some(0));
}
