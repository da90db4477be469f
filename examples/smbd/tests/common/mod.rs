//! What the integration tests share: directories with files, the program as a process, and
//! clients for it.

#![allow(dead_code, unreachable_pub)] // each test uses its part

pub mod bodies;
pub mod client;
pub mod hub;
pub mod process;
pub mod server;
pub mod smbclient;
pub mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smbd::config::Config;
use smbd::share::Share;

pub use server::Server;

/// A configuration for a connection without a process around it.
#[track_caller]
pub fn config(shares: &[(&str, &Path)]) -> Arc<Config> {
    let shares = shares
        .iter()
        .map(|(name, path)| Share::open(name, path, false).expect("share cannot be opened"))
        .collect();
    Arc::new(Config::new("testserver", shares).unwrap())
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
