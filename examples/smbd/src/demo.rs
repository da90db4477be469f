//! The share that is served when none is given.

use std::io;
use std::path::{Path, PathBuf};

/// A temporary directory with a few files. It is removed with its contents
/// when the value is dropped, though only by the process that made it: a child
/// that inherits the value leaves the directory alone.
#[derive(Debug)]
pub struct DemoShare {
    path: PathBuf,
    owner: u32,
}

impl DemoShare {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory and all in it to a system user.
    ///
    /// # Errors
    ///
    /// What changing the owner fails with; it takes root.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
            if path.is_dir() {
                for entry in std::fs::read_dir(path)? {
                    give(&entry?.path(), uid, gid)?;
                }
            }
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        }
        give(&self.path, uid, gid)
    }
}

impl Drop for DemoShare {
    fn drop(&mut self) {
        if std::process::id() == self.owner
            && let Err(e) = std::fs::remove_dir_all(&self.path)
        {
            log::warn!("cannot remove the demo share {:?}: {e}", self.path);
        }
    }
}

/// Makes a demo share in a fresh temporary directory.
///
/// # Errors
///
/// What making the directory or its files fails with.
pub fn demo_share() -> io::Result<DemoShare> {
    let demo = DemoShare {
        path: fresh_directory()?,
        owner: std::process::id(),
    };
    let path = demo.path();
    std::fs::write(
        path.join("README.txt"),
        "This directory is temporary: it is removed when the server ends.\r\n",
    )?;
    std::fs::create_dir(path.join("Documents"))?;
    std::fs::write(
        path.join("Documents/Grüße.txt"),
        "Names may be any Unicode.\r\n",
    )?;
    // Large enough to see requests of several credits at work.
    let line = b"The quick brown fox jumps over the lazy dog. 0123456789 ABCDEFG\n";
    std::fs::write(path.join("large.txt"), line.repeat(16 * 1024))?;
    Ok(demo)
}

fn fresh_directory() -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    loop {
        let suffix = getrandom::u64().map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("smbd-demo-{suffix:016x}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_owner() {
        let demo = demo_share().unwrap();
        let path = demo.path().to_owned();
        assert!(path.join("Documents/Grüße.txt").is_file());
        drop(demo);
        assert!(!path.exists());
    }
}
