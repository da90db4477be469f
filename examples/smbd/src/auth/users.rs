//! The users who may log on, and the file that keeps them.
//!
//! A line is `NAME:NT-HASH`, the hash in 32 hexadecimal digits; empty lines and those that begin
//! with `#` say nothing. Whoever reads the file can log on as anybody in it, so it has to belong to
//! its owner alone.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::ntlmv2::NtHash;
use crate::wire::text;

/// The longest name of a user, in characters.
const MAX_NAME: usize = 64;
/// No file of users is larger.
const MAX_FILE: u64 = 16 << 20;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name as the file has it; clients may write it in any case.
    pub name: String,
    /// What the password is checked with.
    pub hash: NtHash,
}

/// All users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(Vec<User>);

/// Why there is no list of users; `Display` is one line that says so.
#[derive(Debug)]
pub enum UsersError {
    /// The file can't be read or written.
    Io(PathBuf, io::Error),
    /// Others than the owner can get at the file, whose permissions these are.
    Exposed(PathBuf, u32),
    /// The line, counted from 1, and what is wrong with it.
    Line(PathBuf, usize, &'static str),
}

impl std::fmt::Display for UsersError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UsersError::Io(path, e) => write!(f, "{}: {e}", path.display()),
            UsersError::Exposed(path, mode) => write!(
                f,
                "{}: mode {mode:04o} lets others at the passwords; chmod 600 it",
                path.display()
            ),
            UsersError::Line(path, line, what) => {
                write!(f, "{}:{line}: {what}", path.display())
            }
        }
    }
}

impl std::error::Error for UsersError {}

/// The file that is used where none is named: for root `/etc/smbd/users`, for others
/// `smbd/users` in `$XDG_CONFIG_HOME` or `~/.config`. `None` without a home.
pub fn default_file() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/smbd/users"));
    }
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("smbd/users"))
}

/// What is wrong with a name.
fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.chars().count() > MAX_NAME {
        Some("the name is longer than 64 characters")
    } else if name.starts_with('#') {
        Some("a name doesn't begin with #")
    } else if name.trim() != name {
        Some("a name doesn't begin or end with a space")
    } else if name
        .chars()
        .any(|c| c.is_control() || "\"/\\[]:;|=,+*?<>@".contains(c))
    {
        // [MS-SAMR] 3.1.1.6, and @ which stands before a domain
        Some("a name has none of \"/\\[]:;|=,+*?<>@")
    } else {
        None
    }
}

impl Users {
    /// No users.
    pub fn new() -> Users {
        Users::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What they are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|user| user.name.as_str())
    }

    /// The user of this name, in any case.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|user| text::same_name(&user.name, name))
    }

    /// Adds a user, or changes the password of one.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn set(&mut self, name: &str, hash: NtHash) -> Result<(), &'static str> {
        if let Some(fault) = name_fault(name) {
            return Err(fault);
        }
        match self
            .0
            .iter_mut()
            .find(|user| text::same_name(&user.name, name))
        {
            Some(user) => user.hash = hash,
            None => self.0.push(User {
                name: name.to_owned(),
                hash,
            }),
        }
        Ok(())
    }

    /// Removes a user; `false` if there is none of the name.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|user| !text::same_name(&user.name, name));
        self.0.len() < before
    }

    /// Parses the text of a file. An error is a line and what is wrong with it.
    fn parse(text: &str) -> Result<Users, (usize, &'static str)> {
        let mut users = Users::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |what| (index + 1, what);
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').ok_or(fail("a line is NAME:NT-HASH"))?;
            let hash = from_hex(hash).ok_or(fail("the hash is not 32 hexadecimal digits"))?;
            if users.find(name).is_some() {
                return Err(fail("the user stands here for the second time"));
            }
            users.set(name, hash).map_err(fail)?;
        }
        Ok(users)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It can't be read, others than its owner could, or a line can't be understood.
    pub fn read(path: &Path) -> Result<Users, UsersError> {
        let fail = |e| UsersError::Io(path.to_owned(), e);
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let mode = metadata.mode() & 0o7777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(UsersError::Exposed(path.to_owned(), mode));
        }
        let mut text = String::new();
        let read = file
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
        if read as u64 > MAX_FILE {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        Users::parse(&text).map_err(|(line, what)| UsersError::Line(path.to_owned(), line, what))
    }

    /// Replaces a file, at once: whoever reads it gets all of the old or all of the new one.
    /// Comments are not kept.
    ///
    /// # Errors
    ///
    /// The file or its directory can't be written.
    pub fn write(&self, path: &Path) -> Result<(), UsersError> {
        let mut text = String::new();
        for user in &self.0 {
            text.push_str(&user.name);
            text.push(':');
            for byte in user.hash.as_bytes() {
                // Writing to a string doesn't fail.
                let _ = write!(text, "{byte:02X}");
            }
            text.push('\n');
        }
        replace(path, text.as_bytes()).map_err(|e| UsersError::Io(path.to_owned(), e))
    }
}

fn from_hex(text: &str) -> Option<NtHash> {
    let mut hash = [0; 16];
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(NtHash::from_bytes(hash))
}

/// Writes a new file beside `path` and renames it. The owner is kept where that is possible.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    // What a symbolic link leads to is replaced, and not the link.
    let path = match std::fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
        other => other?,
    };
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(
        ".{:08x}",
        getrandom::u32().map_err(io::Error::other)?
    ));
    let temporary = PathBuf::from(temporary);
    let result = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(0o600))?;
        if let Ok(old) = std::fs::metadata(&path) {
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(contents)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_wrong_are_named() {
        let hash = "8846F7EAEE8FB117AD06BDD830B7586C";
        let good = format!("# comment\n\nbob:{hash}\nÄnne:{}\n", hash.to_lowercase());
        let users = Users::parse(&good).unwrap();
        assert_eq!(users.len(), 2);
        let password = NtHash::of_password("password");
        assert_eq!(users.find("BOB").unwrap().hash, password);
        assert_eq!(users.find("änne").unwrap().hash, password);
        assert_eq!(users.find("eve"), None);
        for (text, line) in [
            ("bob".to_owned(), 1),
            (format!("bob:{hash}\nBob:{hash}"), 2),
            (format!("\n:{hash}"), 2),
            (format!("bob:{hash}0"), 1),
            (format!("bob:{}g", &hash[1..]), 1),
            (format!("b/ob:{hash}"), 1),
            (format!("bob:{hash}:x"), 1),
        ] {
            assert_eq!(Users::parse(&text).unwrap_err().0, line, "{text}");
        }
    }
}
