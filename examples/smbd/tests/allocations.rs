//! Requests on open files make no allocation once their buffers are there: this counts those of its
//! thread.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

use common::client::*;
use common::logon::{Credentials, Mode, Offer, Protected};
use common::wire::frame;
use common::{TempDir, noise, share};
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::Users;
use smbd::config::{Config, Security, ShareRules};
use smbd::crypto::sealing::CipherId;
use smbd::crypto::signing::Algorithm;
use smbd::server::Connection;
use smbd::transport::FrameReader;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // It fails in a thread that is ending.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all is done by the system's allocator, to which all arguments are passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations `work` makes.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Has a frame processed as a socket's owner does, and drops the reply; returns its status.
fn exchange(connection: &Rc<Connection>, frames: &mut FrameReader, mut stream: &[u8]) -> Status {
    loop {
        let spare = frames.spare();
        let count = spare.len().min(stream.len());
        spare[..count].copy_from_slice(&stream[..count]);
        frames.filled(count);
        stream = &stream[count..];
        if let Some(message) = frames.next_message().expect("a frame") {
            let work = pin!(Rc::clone(connection).process(message));
            let polled = work.poll(&mut task::Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(()))), "{polled:?}");
            // What is in a file goes to the socket from there.
            let reply = connection.next_reply().expect("no reply");
            let status = &reply.bytes()[12..16];
            return Status(u32::from_le_bytes(status.try_into().unwrap()));
        }
    }
}

const ROUNDS: usize = 5;

#[test]
fn allocations_are_counted() {
    let boxed = || drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations(boxed), 1);
}

#[test]
fn requests_on_open_files_allocate_nothing() {
    let dir = TempDir::new();
    dir.write("file", &noise(4 << 20));
    let mut users = Users::new();
    users.set("alice", NtHash::of_password("secret")).unwrap();
    let security = Security {
        users,
        ..Security::default()
    };
    let shares = vec![share("data", dir.path(), ShareRules::default())];
    let config = Config::new("testserver", shares).unwrap();
    let config = std::sync::Arc::new(config.with_security(security));
    let modes = [
        (Mode::Plain, Algorithm::AesGmac, CipherId::Aes128Gcm),
        (Mode::Sign, Algorithm::AesGmac, CipherId::Aes128Gcm),
        (Mode::Sign, Algorithm::AesCmac, CipherId::Aes128Gcm),
        (Mode::Sign, Algorithm::HmacSha256, CipherId::Aes128Gcm),
        (Mode::Encrypt, Algorithm::AesGmac, CipherId::Aes128Gcm),
        (Mode::Encrypt, Algorithm::AesGmac, CipherId::Aes256Ccm),
    ];
    for (mode, algorithm, cipher) in modes {
        let mut client = Client::over(Protected::new(Direct::new(&config)));
        let offer = Offer {
            dialect: Dialect::Smb311,
            ciphers: &[cipher],
            signing: &[algorithm],
        };
        client.log_on_as(&offer, &Credentials::new("alice", "secret"));
        client.connect_tree("data", Status::SUCCESS);
        client.connection.mode = mode;
        let file = client.open_if("file", 0);
        // Enough credits for what follows.
        for _ in 0..10 {
            client.expect(request(ECHO, empty()), Status::SUCCESS);
        }
        type Kind = fn([u8; 16]) -> Request;
        let kinds: [(&str, Kind); 5] = [
            ("ECHO", |_| request(ECHO, empty())),
            ("short READ", |file| request(READ, read(file, 7, 4096, 0))),
            ("long READ", |file| {
                request(READ, read(file, 7, 1 << 18, 0)).charge(4)
            }),
            ("short WRITE", |file| {
                request(WRITE, write(file, &[1; 4096]))
            }),
            ("long WRITE", |file| {
                request(WRITE, write(file, &vec![2; 1 << 18])).charge(4)
            }),
        ];
        let connection = Rc::clone(&client.connection.inner.connection);
        let mut reader = FrameReader::new();
        for (name, kind) in kinds {
            let mut prepare = || {
                let message = client.message(&[kind(file)]);
                frame(&client.connection.protect(&message))
            };
            let streams: Vec<Vec<u8>> = (0..2 * ROUNDS).map(|_| prepare()).collect();
            let (first, others) = streams.split_at(ROUNDS);
            let mut run = |streams: &[Vec<u8>]| {
                for stream in streams {
                    let status = exchange(&connection, &mut reader, stream);
                    // An encrypted status can't be seen here.
                    assert!(
                        mode == Mode::Encrypt || status == Status::SUCCESS,
                        "{status}"
                    );
                }
            };
            run(first);
            let made = allocations(|| run(others));
            assert_eq!(made, 0, "{mode:?} {algorithm:?} {cipher:?} {name}");
        }
    }
}
