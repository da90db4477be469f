//! `smbd passwd`: changes a password in the file of users.

use std::fs::DirBuilder;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use smbd::args::Passwd;
use smbd::auth::ntlmv2::NtHash;
use smbd::auth::users::{Users, UsersError};

/// Asks for the password and writes it, or removes the user.
pub(crate) fn run(passwd: &Passwd) -> Result<(), Box<dyn std::error::Error>> {
    let hash = match passwd.delete {
        true => None,
        false => Some(NtHash::of_password(&ask(&passwd.name)?)),
    };
    let directory = match passwd.users.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| format!("{}: {e}", directory.display()))?;
    // Two who change passwords at the same time take turns.
    let lock = std::fs::File::open(directory)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut users = match Users::read(&passwd.users) {
        Err(UsersError::Io(_, e)) if e.kind() == ErrorKind::NotFound => Users::new(),
        other => other?,
    };
    match hash {
        Some(hash) => users.set(&passwd.name, hash)?,
        None if users.remove(&passwd.name) => {}
        None => {
            return Err(format!("{}: no user {:?}", passwd.users.display(), passwd.name).into());
        }
    }
    users.write(&passwd.users)?;
    Ok(())
}

/// The new password: typed twice at a terminal, else the first line of standard input.
fn ask(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let password = type_in(&format!("New password for {name}: "))?;
        if password != type_in("Again: ")? {
            return Err("that was not the same twice; nothing has changed".into());
        }
        password
    } else {
        let mut line = String::new();
        stdin.lock().read_line(&mut line)?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        line.strip_suffix('\r').unwrap_or(line).to_owned()
    };
    if password.is_empty() {
        return Err("an empty password is none; nothing has changed".into());
    }
    Ok(password)
}

/// The terminal as it was, put back at the end.
struct Silent(Termios);

impl Silent {
    /// Takes echo away, and reads key by key: the terminal's own way of interrupting a program would
    /// leave it without echo.
    fn new() -> io::Result<Silent> {
        let old = tcgetattr(io::stdin())?;
        let mut silent = old.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silent(old))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nothing to be done about a terminal that has gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn type_in(prompt: &str) -> Result<String, Box<dyn std::error::Error>> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const BACKSPACE: u8 = 0x08;
    const KILL: u8 = 0x15;
    const DELETE: u8 = 0x7F;
    let mut stderr = io::stderr();
    let mut typed = Vec::new();
    {
        // Before the question: what is typed earlier is thrown away.
        let _silent = Silent::new()?;
        stderr.write_all(prompt.as_bytes())?;
        // Unbuffered: what is typed ahead belongs to the next question.
        let mut stdin = io::stdin().lock();
        loop {
            let mut key = [0];
            if stdin.read(&mut key)? == 0 {
                break;
            }
            match key[0] {
                b'\n' | b'\r' | END => break,
                INTERRUPT => {
                    let _ = stderr.write_all(b"\n");
                    return Err("interrupted; nothing has changed".into());
                }
                KILL => typed.clear(),
                BACKSPACE | DELETE => {
                    // A whole character of UTF-8.
                    while typed.pop().is_some_and(|byte: u8| byte & 0xC0 == 0x80) {}
                }
                key => typed.push(key),
            }
        }
    }
    stderr.write_all(b"\n")?;
    String::from_utf8(typed).map_err(|_| "the password is not UTF-8".into())
}
