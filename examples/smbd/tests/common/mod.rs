//! What the integration tests share: directories with files, the program as a process, and
//! clients for it.

#![allow(dead_code, unreachable_pub)] // each test uses its part

pub mod bodies;
pub mod client;
pub mod hub;
pub mod logon;
pub mod process;
pub mod server;
pub mod smbclient;
pub mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smbd::config::{Access, Config, Security, SharePoint, ShareRules};

pub use server::Server;

/// A configuration for a connection without a process around it, whose guests may do everything.
#[track_caller]
pub fn config(shares: &[(&str, &Path)]) -> Arc<Config> {
    config_with(shares, false)
}

/// The same with shares that nothing can be changed in.
#[track_caller]
pub fn read_only_config(shares: &[(&str, &Path)]) -> Arc<Config> {
    config_with(shares, true)
}

#[track_caller]
fn config_with(shares: &[(&str, &Path)], read_only: bool) -> Arc<Config> {
    let shares = shares
        .iter()
        .map(|(name, path)| {
            let rules = ShareRules {
                read_only,
                ..ShareRules::default()
            };
            share(name, path, rules)
        })
        .collect();
    let security = Security {
        guest: Some(Access::ReadWrite),
        ..Security::default()
    };
    let config = Config::new("testserver", shares).unwrap();
    Arc::new(config.with_security(security))
}

#[track_caller]
pub fn share(name: &str, path: &Path, rules: ShareRules) -> SharePoint {
    SharePoint::open(name, path, rules).expect("share cannot be opened")
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
