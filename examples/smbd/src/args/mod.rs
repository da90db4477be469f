//! The command line.

pub mod socket_options;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::IPC_SHARE;
use crate::wire::text;
use socket_options::SocketOption;

/// What `--help` prints.
pub const HELP: &str = "\
smbd - an SMB2/3 file server

Usage: smbd [OPTIONS]

Options:
      --share NAME=PATH[,ro]   share the directory PATH as NAME (repeatable);
                               without any, a temporary demo share is made
      --listen ADDR:PORT       listen here (repeatable)
                               [127.0.0.1:4450 and [::1]:4450]
      --max-clients N          refuse further connections beyond N [1000]
      --idle-timeout SECONDS   drop connections idle for so long, 0: never [900]
      --interactive            serve one client without forking, then exit
      --socket-options STRING  as in smb.conf, e.g. \"TCP_NODELAY SO_KEEPALIVE\"
  -v, --verbose                log more (repeatable)
  -h, --help                   print this help
  -V, --version                print the version
";

const DEFAULT_LISTEN: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4450),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 4450),
];
const DEFAULT_MAX_CLIENTS: usize = 1000;
const DEFAULT_IDLE_TIMEOUT: u64 = 900;

/// A share asked for by `--share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareArg {
    /// The name clients connect to.
    pub name: String,
    /// An existing directory.
    pub path: PathBuf,
    /// Whether `,ro` was given.
    pub read_only: bool,
}

/// How the server shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The shares; none means the demo share.
    pub shares: Vec<ShareArg>,
    /// Where to listen, at least one address.
    pub listen: Vec<SocketAddr>,
    /// The most connections at a time.
    pub max_clients: usize,
    /// After how long a silent connection is dropped, `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Serve one client in this process, then end.
    pub interactive: bool,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// What to set on each accepted socket.
    pub socket_options: Vec<SocketOption>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run the server.
    Run(Options),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// A command line that cannot be followed; `Display` is one line that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgsError(String);

impl std::fmt::Display for ArgsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ArgsError {}

impl From<lexopt::Error> for ArgsError {
    fn from(error: lexopt::Error) -> Self {
        ArgsError(error.to_string())
    }
}

fn error<T>(message: String) -> Result<T, ArgsError> {
    Err(ArgsError(message))
}

/// Parses the arguments, the program's name excluded.
///
/// # Errors
///
/// [`ArgsError`], to be printed; the exit status for it is 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, ArgsError> {
    use lexopt::prelude::*;
    let mut options = Options {
        shares: Vec::new(),
        listen: Vec::new(),
        max_clients: DEFAULT_MAX_CLIENTS,
        idle_timeout: Some(Duration::from_secs(DEFAULT_IDLE_TIMEOUT)),
        interactive: false,
        verbosity: 0,
        socket_options: Vec::new(),
    };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("share") => {
                let share = share(parser.value()?)?;
                if options
                    .shares
                    .iter()
                    .any(|other| text::same_name(&other.name, &share.name))
                {
                    return error(format!("--share: the name {:?} is given twice", share.name));
                }
                options.shares.push(share);
            }
            Long("listen") => {
                let value = parser.value()?.string()?;
                match value.parse() {
                    Ok(address) => options.listen.push(address),
                    Err(_) => {
                        return error(format!(
                            "--listen: {value:?} is no ADDRESS:PORT (an IPv6 address stands in brackets)"
                        ));
                    }
                }
            }
            Long("max-clients") => {
                options.max_clients = match number("--max-clients", parser.value()?)? {
                    0 => return error(String::from("--max-clients: must be at least 1")),
                    n => usize::try_from(n).unwrap_or(usize::MAX),
                };
            }
            Long("idle-timeout") => {
                let seconds = number("--idle-timeout", parser.value()?)?;
                options.idle_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            Long("interactive") => options.interactive = true,
            Long("socket-options") => {
                let value = parser.value()?.string()?;
                let parsed = socket_options::parse(&value)
                    .map_err(|e| ArgsError(format!("--socket-options: {e}")))?;
                options.socket_options.extend(parsed);
            }
            Short('v') | Long("verbose") => {
                options.verbosity = options.verbosity.saturating_add(1);
            }
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Short('V') | Long("version") => return Ok(Invocation::Version),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.listen.is_empty() {
        options.listen.extend(DEFAULT_LISTEN);
    }
    Ok(Invocation::Run(options))
}

fn number(option: &str, value: OsString) -> Result<u64, ArgsError> {
    let number: Option<u32> = value.to_str().and_then(|value| value.parse().ok());
    match number {
        Some(number) => Ok(number.into()),
        None => error(format!("{option}: {value:?} is no number")),
    }
}

fn share(value: OsString) -> Result<ShareArg, ArgsError> {
    let bytes = value.as_bytes();
    let Some(equals) = bytes.iter().position(|&byte| byte == b'=') else {
        return error(format!("--share: {value:?} is not NAME=PATH"));
    };
    let Ok(name) = std::str::from_utf8(&bytes[..equals]) else {
        return error(format!("--share: the name in {value:?} is not UTF-8"));
    };
    check_share_name(name)?;
    let path = &bytes[equals + 1..];
    let (path, read_only) = match path.strip_suffix(b",ro") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return error(format!("--share {name}: {path:?} is not a directory")),
        Err(e) => return error(format!("--share {name}: {path:?}: {e}")),
    }
    Ok(ShareArg {
        name: name.to_owned(),
        path,
        read_only,
    })
}

/// [MS-FSCC] 2.1.6: at most 80 characters, none of them special.
fn check_share_name(name: &str) -> Result<(), ArgsError> {
    if name.is_empty() {
        return error(String::from("--share: the name is empty"));
    }
    if name.chars().count() > 80 {
        return error(format!("--share: {name:?} is longer than 80 characters"));
    }
    if let Some(c) = name
        .chars()
        .find(|c| c.is_control() || "\"\\/[]:|<>+=;,*?".contains(*c))
    {
        return error(format!("--share: {name:?} must not contain {c:?}"));
    }
    if name.starts_with(' ') || name.ends_with([' ', '.']) {
        return error(format!(
            "--share: {name:?} begins or ends with a space or a period"
        ));
    }
    if text::same_name(name, IPC_SHARE) {
        return error(format!("--share: the name {IPC_SHARE} is the server's own"));
    }
    Ok(())
}
