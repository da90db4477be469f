//! What the integration tests share: a directory with files and a server for it.
//!
//! Tests only ask a [`Server`] for its address, so whatever serves the
//! connections can be exchanged in [`Server::start`] alone.

#![allow(dead_code, unreachable_pub)] // each test uses its part

pub mod bodies;
pub mod client;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smbd::config::Config;
use smbd::server::Connection;
use smbd::share::Share;
use smbd::transport::FrameReader;

/// A server on 127.0.0.1 that runs until the test program ends.
pub struct Server {
    address: SocketAddr,
}

impl Server {
    /// Serves directories under names, with blocking sockets and a thread for
    /// each connection.
    #[track_caller]
    pub fn start(shares: &[(&str, &Path)]) -> Server {
        let config = config(shares);
        let listener = TcpListener::bind("127.0.0.1:0").expect("no port on 127.0.0.1");
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || serve(stream, config));
            }
        });
        Server { address }
    }

    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[track_caller]
pub fn config(shares: &[(&str, &Path)]) -> Arc<Config> {
    let shares = shares
        .iter()
        .map(|(name, path)| Share::open(name, path, false).expect("share cannot be opened"))
        .collect();
    Arc::new(Config::new("testserver", shares).unwrap())
}

fn serve(mut stream: TcpStream, config: Arc<Config>) {
    let peer = stream.peer_addr().unwrap();
    let mut connection = Connection::new(config, peer);
    let mut frames = FrameReader::new();
    stream.set_nodelay(true).unwrap();
    loop {
        match stream.read(frames.spare()) {
            Ok(0) | Err(_) => return,
            Ok(n) => frames.filled(n),
        }
        loop {
            let message = match frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(e) => return eprintln!("{peer}: {e}"),
            };
            match connection.process(message) {
                Ok(Some(reply)) => {
                    if stream.write_all(&reply).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(e) => return eprintln!("{peer}: {e}"),
            }
        }
    }
}

/// A directory that is removed at the end of the test.
pub struct TempDir(PathBuf);

impl TempDir {
    #[track_caller]
    pub fn new() -> TempDir {
        let unique = format!("smbd-test-{:016x}", getrandom::u64().unwrap());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    #[track_caller]
    pub fn write(&self, name: &str, contents: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `length` bytes that differ wherever two blocks could be mixed up.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(length);
    out
}
