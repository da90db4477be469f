//! The client side of `speed.py`: what smbclient is too slow to measure.
//!
//! ```text
//! driver files ADDRESS USER PASSWORD SHARE COUNT MODE
//! driver connections ADDRESS USER PASSWORD SHARE COUNT PARALLEL
//! driver clients ADDRESS USER PASSWORD SHARE COUNT
//! driver idle ADDRESS USER PASSWORD SHARE COUNT
//! ```
//!
//! Each prints numbers on one line: seconds, or how many were answered. MODE is `plain`, `signed` or
//! `encrypted`.

#[path = "../tests/common"]
#[allow(dead_code, unreachable_pub)] // shared with the tests
mod common {
    pub(crate) mod bodies;
    pub(crate) mod client;
    pub(crate) mod hub;
    pub(crate) mod logon;
    pub(crate) mod process;
    pub(crate) mod wire;
}

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::client::{
    ALL_ACCESS, CLOSE, CREATE, Client, DELETE_ON_CLOSE, NON_DIRECTORY_FILE, OPEN, OVERWRITE_IF,
    READ, READ_ACCESS, Response, SESSION_SETUP, TREE_CONNECT, WRITE, close, create, ntlm_negotiate,
    read, request, responses, security_buffer, session_setup, tree_connect, write,
};
use common::logon::{Credentials, Mode, Offer, Protected, chosen};
use common::wire::{Wire, frame};
use smbd::auth::der;
use smbd::auth::spnego;
use smbd::wire::negotiate::Dialect;
use smbd::wire::status::Status;

/// The size of a small file.
const LENGTH: usize = 4096;
/// A small stack: there may be hundreds of threads.
const STACK: usize = 256 * 1024;

type Remote = Client<Protected<Wire>>;

/// Whom to connect to, and as whom.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    credentials: Credentials,
    share: String,
}

impl Target {
    /// Connects, negotiates, logs on, and connects to the share.
    fn connect(&self) -> Remote {
        let mut client = Client::over(Protected::new(Wire::connect(self.address)));
        let negotiated = client.negotiate(&Offer::of(Dialect::Smb311));
        let first = ntlm_negotiate();
        let setup = |token: &[u8]| request(SESSION_SETUP, tight(&session_setup(token), 24, 12));
        let response = client.expect(setup(&offer(&first)), Status::MORE_PROCESSING_REQUIRED);
        client.session_id = response.session_id;
        let challenge = match spnego::parse(security_buffer(&response)) {
            Ok(spnego::Token::Response(response)) => response.mech_token.expect("no challenge"),
            other => panic!("no challenge: {other:?}"),
        };
        let (token, key) = self.credentials.authenticate(&first, challenge);
        client.expect(setup(&spnego::incomplete(&token)), Status::SUCCESS);
        client.make_keys(Dialect::Smb311, chosen(&negotiated, Dialect::Smb311), &key);
        let path = format!(r"\\127.0.0.1\{}", self.share);
        let tree = request(TREE_CONNECT, tight(&tree_connect(&path), 8, 4));
        client.tree_id = client.expect(tree, Status::SUCCESS).tree_id;
        client
    }
}

/// A body of the tests, whose variable part is the same distance from all headers, as clients write
/// it: behind the `fixed` bytes. Where it is stands `at` a place there.
fn tight(body: &[u8], fixed: usize, at: usize) -> Vec<u8> {
    let mut body = [&body[..fixed], &body[64..]].concat();
    body[at..at + 2].copy_from_slice(&(64 + fixed as u16).to_le_bytes());
    body
}

/// The first token of SPNEGO, with NTLMSSP alone.
fn offer(token: &[u8]) -> Vec<u8> {
    const OID_SPNEGO: &[u8] = &[0x2B, 6, 1, 5, 5, 2];
    const OID_NTLMSSP: &[u8] = &[0x2B, 6, 1, 4, 1, 0x82, 0x37, 2, 2, 0x0A];
    let mechanisms = der::element(der::OID, &[OID_NTLMSSP]);
    let mechanisms = der::element(der::SEQUENCE, &[&mechanisms]);
    let mechanisms = der::element(der::context(0), &[&mechanisms]);
    let token = der::element(der::OCTET_STRING, &[token]);
    let token = der::element(der::context(2), &[&token]);
    let init = der::element(der::SEQUENCE, &[&mechanisms, &token]);
    let init = der::element(der::context(0), &[&init]);
    let oid = der::element(der::OID, &[OID_SPNEGO]);
    der::element(der::APPLICATION_0, &[&oid, &init])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, address, user, password, share, count, ref rest @ ..] = arguments[..] else {
        eprintln!("driver files|connections|clients|idle ADDRESS USER PASSWORD SHARE COUNT ...");
        std::process::exit(2);
    };
    let target = Target {
        address: address.parse().expect("no address"),
        credentials: Credentials::new(user, password),
        share: share.to_owned(),
    };
    let count = count.parse().expect("no number");
    match (what, rest) {
        ("files", [mode]) => files(&target, count, mode),
        ("connections", [parallel]) => {
            connections(&target, count, parallel.parse().expect("no number"));
        }
        ("clients", []) => clients(&target, count),
        ("idle", []) => idle(&target, count),
        _ => panic!("unknown: {what} {rest:?}"),
    }
}

/// Sends a request and returns the response, which has to be a good one. Interim responses are passed
/// over.
fn ask(client: &mut Remote, command: u16, body: Vec<u8>) -> Response {
    let message = client.message(&[request(command, body)]);
    let message = client.connection.protect(&message);
    client.connection.inner.send(&frame(&message));
    loop {
        let reply = client.connection.inner.receive().expect("no reply");
        let reply = reply.expect("the server has closed the connection");
        // Interim responses need not be signed.
        let is_encrypted = reply.get(4) == Some(&0xFD);
        if !is_encrypted && responses(&reply)[0].status == Status::PENDING {
            continue;
        }
        let reply = client.connection.unprotect(&reply);
        let response = responses(&reply).remove(0);
        if response.status != Status::PENDING {
            assert_eq!(response.status, Status::SUCCESS, "command {command}");
            return response;
        }
    }
}

/// Makes `count` small files, then reads them; one request after the other.
fn files(target: &Target, count: usize, mode: &str) {
    let mut client = target.connect();
    client.connection.mode = match mode {
        "plain" => Mode::Plain,
        "signed" => Mode::Sign,
        "encrypted" => Mode::Encrypt,
        _ => panic!("no mode: {mode}"),
    };
    let data = [0x5A; LENGTH];
    let name = |n: usize| format!("small-{n}");
    let start = Instant::now();
    for n in 0..count {
        let file = open(&mut client, &name(n), ALL_ACCESS, OVERWRITE_IF, 0);
        write_all(&mut client, file, &data);
        ask(&mut client, CLOSE, close(file, 0));
    }
    let written = start.elapsed();
    let start = Instant::now();
    for n in 0..count {
        let file = open(&mut client, &name(n), READ_ACCESS, OPEN, 0);
        let response = ask(&mut client, READ, read(file, 0, LENGTH as u32, 0));
        assert_eq!(response.body[16..], data, "contents");
        ask(&mut client, CLOSE, close(file, 0));
    }
    let read = start.elapsed();
    for n in 0..count {
        let file = open(&mut client, &name(n), ALL_ACCESS, OPEN, DELETE_ON_CLOSE);
        ask(&mut client, CLOSE, close(file, 0));
    }
    println!("{} {}", written.as_secs_f64(), read.as_secs_f64());
}

fn open(client: &mut Remote, name: &str, access: u32, disposition: u32, options: u32) -> [u8; 16] {
    let create = create(name, access, disposition, NON_DIRECTORY_FILE | options);
    let mut create = tight(&create, 56, 44);
    create[48..52].fill(0); // no contexts
    ask(client, CREATE, create).file_id()
}

fn write_all(client: &mut Remote, file: [u8; 16], data: &[u8]) {
    let write = tight(&write(file, data), 48, 2);
    ask(client, WRITE, write);
}

/// Connects `count` times as far as the share, `parallel` at once.
fn connections(target: &Target, count: usize, parallel: usize) {
    let start = Instant::now();
    thread::scope(|scope| {
        for n in 0..parallel {
            let own = count / parallel + usize::from(n < count % parallel);
            scope.spawn(move || (0..own).for_each(|_| drop(target.connect())));
        }
    });
    println!("{}", start.elapsed().as_secs_f64());
}

/// Has `count` clients at the same time, each of which makes, reads and removes a file before any
/// of them goes.
fn clients(target: &Target, count: usize) {
    let together = Barrier::new(count);
    let start = Instant::now();
    let answered = thread::scope(|scope| {
        let work = |n: usize| {
            let together = &together;
            let client = std::panic::catch_unwind(|| {
                let mut client = target.connect();
                let data = [n as u8; LENGTH];
                let name = format!("client-{n}");
                let file = open(
                    &mut client,
                    &name,
                    ALL_ACCESS,
                    OVERWRITE_IF,
                    DELETE_ON_CLOSE,
                );
                write_all(&mut client, file, &data);
                let response = ask(&mut client, READ, read(file, 0, LENGTH as u32, 0));
                assert_eq!(response.body[16..], data, "contents");
                ask(&mut client, CLOSE, close(file, 0));
                client
            });
            together.wait();
            client.is_ok()
        };
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let builder = thread::Builder::new().stack_size(STACK);
                builder.spawn_scoped(scope, move || work(n)).unwrap()
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.filter(|done| matches!(done, Ok(true))).count()
    });
    println!("{answered} {}", start.elapsed().as_secs_f64());
}

/// Has `count` clients that do nothing, until standard input ends.
fn idle(target: &Target, count: usize) {
    let clients: Vec<_> = (0..count).map(|_| target.connect()).collect();
    // What a logon leaves to be done has been done.
    thread::sleep(Duration::from_millis(300));
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(clients);
}
