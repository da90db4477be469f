//! Requests of a client that has logged on, in bodies and orders that no client would send, on a
//! share in a directory of its own.
//!
//! The input is a sequence of requests: a byte with the command, a byte of flags, the length of the
//! body in two bytes, and the body. Ids of message, session and tree connect are filled in; FileIds
//! count from 1. With the last flag the body is a whole message and sent as it is.

#![no_main]

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use smbd::config::{Access, Config, Security, SharePoint, ShareRules};
use smbd::transport::FrameReader;

#[path = "../../../examples/smbd/tests/common"]
#[allow(dead_code, unreachable_pub)]
mod common {
    pub mod bodies;
    pub mod client;
    pub mod hub;
    pub mod process;
    pub mod wire;
}

use common::client::{Client, Request, request};

/// Bits of the second byte of a request.
const RELATED: u8 = 1;
const COMPOUNDED: u8 = 2;
const RAW: u8 = 0x80;

/// Nothing written grows beyond this.
const MAX_FILE: u64 = 1 << 20;

struct Fixture {
    directory: PathBuf,
    config: Arc<Config>,
}

thread_local! {
    static FIXTURE: OnceCell<Fixture> = const { OnceCell::new() };
}

/// Where the fixture's directory is, for the end of the process.
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

extern "C" fn remove_directory() {
    if let Some(directory) = DIRECTORY.get() {
        let _ = std::fs::remove_dir_all(directory);
    }
}

impl Fixture {
    fn new() -> Fixture {
        // SAFETY: the limit outlives its call, the function lives for ever, and the rest are values.
        unsafe {
            libc::atexit(remove_directory);
            let limit = libc::rlimit {
                rlim_cur: MAX_FILE,
                rlim_max: MAX_FILE,
            };
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        let name = format!("smbd-fuzz-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("no temporary directory");
        let _ = DIRECTORY.set(directory.clone());
        let point = SharePoint::open("data", &directory, ShareRules::default());
        let config = Config::new("fuzz", vec![point.expect("no share")]).expect("no randomness");
        let security = Security {
            guest: Some(Access::ReadWrite),
            ..Security::default()
        };
        Fixture {
            directory,
            config: Arc::new(config.with_security(security)),
        }
    }

    fn clean(&self) {
        for entry in std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if std::fs::remove_dir_all(&path).is_err() {
                let _ = std::fs::remove_file(&path);
            }
        }
        let _ = std::fs::create_dir(self.directory.join("dir"));
        let _ = std::fs::write(self.directory.join("dir/file"), b"contents");
        let _ = std::os::unix::fs::symlink("..", self.directory.join("up"));
    }
}

fn run(fixture: &Fixture, mut input: &[u8]) {
    let mut frames = FrameReader::new();
    let count = input.len().min(frames.spare().len());
    frames.spare()[..count].copy_from_slice(&input[..count]);
    frames.filled(count);
    while let Ok(Some(_)) = frames.next_message() {}

    fixture.clean();
    let mut client = Client::connected(&fixture.config, 0x0311, "data");
    let mut compound: Vec<Request> = Vec::new();
    while let Some((&[command, flags, low, high], rest)) = input.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        let message = if flags & RAW != 0 {
            body.to_vec()
        } else {
            let mut request = request(command.into(), body.to_vec());
            request.related = flags & RELATED != 0;
            compound.push(request);
            if flags & COMPOUNDED != 0 && !input.is_empty() {
                continue;
            }
            client.message(&std::mem::take(&mut compound))
        };
        if client.connection.connection.is_busy() || client.connection.exchange(&message).is_err() {
            break;
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    FIXTURE.with(|fixture| run(fixture.get_or_init(Fixture::new), bytes));
});
