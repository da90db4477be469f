//! The command line.

pub mod config_file;
pub mod socket_options;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::users;
use crate::config::{Access, IPC_SHARE, ShareRules};
use crate::wire::text;
use socket_options::SocketOption;

/// What `--help` prints.
pub const HELP: &str = "\
smbd - an SMB2/3 file server

Usage: smbd [OPTIONS]
       smbd passwd [--users FILE] [--delete] NAME

Options:
      --share NAME=PATH[,RULE]...
                               share the directory PATH as NAME (repeatable); without any, a
                               temporary demo share is made. RULE is one of
                                 ro                 nobody may write
                                 users=NAME[+NAME]  nobody else may use it
                                 guest=none|ro|rw   what guests may, instead of --guest
                                 encrypt            only to be used encrypted
      --users FILE             who may log on, written by \"smbd passwd\"
                               [/etc/smbd/users, or ~/.config/smbd/users, if it is there]
      --guest none|ro|rw       what those may who have no password
                               [ro without a file of users, else none]
      --require-signing        send away who doesn't sign
      --require-encryption     send away who doesn't encrypt
      --config FILE            read shares and options from FILE, and again on SIGHUP
      --run-as USER            when started as root: serve everybody as USER,
                               and not as the user who has logged on
      --listen ADDR:PORT       listen here (repeatable)
                               [127.0.0.1:4450 and [::1]:4450]
      --max-clients N          refuse further connections beyond N [1000]
      --idle-timeout SECONDS   drop who is idle for so long and has nothing open,
                               0: never [900]
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
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(900);

/// A share asked for by `--share` or by the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareArg {
    /// The name clients connect to.
    pub name: String,
    /// An existing directory.
    pub path: PathBuf,
    /// Who may use it, and how.
    pub rules: ShareRules,
}

/// How the server shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The shares; none means the demo share.
    pub shares: Vec<ShareArg>,
    /// The file of users; without, nobody has a password.
    pub users: Option<PathBuf>,
    /// What those may who have none; `None` is nothing.
    pub guest: Option<Access>,
    /// Who doesn't sign is sent away.
    pub require_signing: bool,
    /// Who doesn't encrypt is sent away.
    pub require_encryption: bool,
    /// The system user that everybody is served as.
    pub run_as: Option<String>,
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

/// What `smbd passwd` shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwd {
    /// The file of users.
    pub users: PathBuf,
    /// The user.
    pub name: String,
    /// The user is to be removed.
    pub delete: bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run the server.
    Run(Box<Options>),
    /// Change a password.
    Passwd(Passwd),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// What can stand on the command line or in the configuration file. What is `None` was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    shares: Vec<ShareArg>,
    users: Option<PathBuf>,
    guest: Option<Option<Access>>,
    require_signing: Option<bool>,
    require_encryption: Option<bool>,
    run_as: Option<String>,
    listen: Vec<SocketAddr>,
    max_clients: Option<usize>,
    /// `None` within is never.
    idle_timeout: Option<Option<Duration>>,
    socket_options: Vec<SocketOption>,
}

impl Settings {
    /// These settings, and `others` where they say nothing. Shares and socket options add up.
    fn or(mut self, others: Settings) -> Result<Settings, ArgsError> {
        for share in &others.shares {
            self.check_unused(&share.name)?;
        }
        self.shares.extend(others.shares);
        let mut socket_options = others.socket_options;
        socket_options.extend(self.socket_options);
        Ok(Settings {
            shares: self.shares,
            users: self.users.or(others.users),
            guest: self.guest.or(others.guest),
            require_signing: self.require_signing.or(others.require_signing),
            require_encryption: self.require_encryption.or(others.require_encryption),
            run_as: self.run_as.or(others.run_as),
            listen: match self.listen.is_empty() {
                true => others.listen,
                false => self.listen,
            },
            max_clients: self.max_clients.or(others.max_clients),
            idle_timeout: self.idle_timeout.or(others.idle_timeout),
            socket_options,
        })
    }

    fn check_unused(&self, name: &str) -> Result<(), ArgsError> {
        match self
            .shares
            .iter()
            .any(|other| text::same_name(&other.name, name))
        {
            true => error(format!("the share {name:?} is given twice")),
            false => Ok(()),
        }
    }
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

impl ArgsError {
    /// The same, with what it is about.
    fn of(self, what: impl std::fmt::Display) -> ArgsError {
        ArgsError(format!("{what}: {self}"))
    }
}

impl From<lexopt::Error> for ArgsError {
    fn from(error: lexopt::Error) -> Self {
        ArgsError(error.to_string())
    }
}

fn error<T>(message: String) -> Result<T, ArgsError> {
    Err(ArgsError(message))
}

/// Parses the arguments, the program's name excluded, and the configuration file they name.
///
/// # Errors
///
/// [`ArgsError`], to be printed; the exit status for it is 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, ArgsError> {
    use lexopt::prelude::*;
    let mut settings = Settings::default();
    let mut config = None;
    let mut interactive = false;
    let mut verbosity = 0u8;
    let mut parser = lexopt::Parser::from_args(args);
    let mut is_first = true;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) if is_first && word == "passwd" => return passwd(parser),
            Long("share") => {
                let share = share(parser.value()?).map_err(|e| e.of("--share"))?;
                settings
                    .check_unused(&share.name)
                    .map_err(|e| e.of("--share"))?;
                settings.shares.push(share);
            }
            Long("users") => settings.users = Some(parser.value()?.into()),
            Long("guest") => {
                let value = parser.value()?.string()?;
                settings.guest = Some(guest(&value).map_err(|e| e.of("--guest"))?);
            }
            Long("require-signing") => settings.require_signing = Some(true),
            Long("require-encryption") => settings.require_encryption = Some(true),
            Long("run-as") => settings.run_as = Some(parser.value()?.string()?),
            Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("listen") => {
                let value = parser.value()?.string()?;
                let address = address(&value).map_err(|e| e.of("--listen"))?;
                settings.listen.push(address);
            }
            Long("max-clients") => {
                let value = parser.value()?.string()?;
                settings.max_clients =
                    Some(max_clients(&value).map_err(|e| e.of("--max-clients"))?);
            }
            Long("idle-timeout") => {
                let value = parser.value()?.string()?;
                settings.idle_timeout =
                    Some(idle_timeout(&value).map_err(|e| e.of("--idle-timeout"))?);
            }
            Long("interactive") => interactive = true,
            Long("socket-options") => {
                let value = parser.value()?.string()?;
                let parsed = socket_options::parse(&value)
                    .map_err(|e| ArgsError(format!("--socket-options: {e}")))?;
                settings.socket_options.extend(parsed);
            }
            Short('v') | Long("verbose") => verbosity = verbosity.saturating_add(1),
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Short('V') | Long("version") => return Ok(Invocation::Version),
            other => return Err(other.unexpected().into()),
        }
        is_first = false;
    }
    if let Some(path) = config {
        settings = settings.or(config_file::read(&path)?)?;
    }
    if settings.listen.is_empty() {
        settings.listen.extend(DEFAULT_LISTEN);
    }
    let users = settings
        .users
        .or_else(|| users::default_file().filter(|path| path.exists()));
    Ok(Invocation::Run(Box::new(Options {
        shares: settings.shares,
        guest: settings.guest.unwrap_or(match users {
            Some(_) => None,
            None => Some(Access::ReadOnly),
        }),
        users,
        require_signing: settings.require_signing.unwrap_or(false),
        require_encryption: settings.require_encryption.unwrap_or(false),
        run_as: settings.run_as,
        listen: settings.listen,
        max_clients: settings.max_clients.unwrap_or(DEFAULT_MAX_CLIENTS),
        idle_timeout: settings.idle_timeout.unwrap_or(Some(DEFAULT_IDLE_TIMEOUT)),
        interactive,
        verbosity,
        socket_options: settings.socket_options,
    })))
}

/// What follows `smbd passwd`.
fn passwd(mut parser: lexopt::Parser) -> Result<Invocation, ArgsError> {
    use lexopt::prelude::*;
    let mut users = None;
    let mut name = None;
    let mut delete = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("users") => users = Some(PathBuf::from(parser.value()?)),
            Long("delete") => delete = true,
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Value(word) if name.is_none() => name = Some(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(name) = name else {
        return error(String::from("passwd: whose password? Give a NAME"));
    };
    let Some(users) = users.or_else(users::default_file) else {
        return error(String::from("passwd: there is no $HOME; give --users FILE"));
    };
    Ok(Invocation::Passwd(Passwd {
        users,
        name,
        delete,
    }))
}

fn number(value: &str) -> Result<u32, ArgsError> {
    value
        .parse()
        .or_else(|_| error(format!("{value:?} is no number")))
}

fn max_clients(value: &str) -> Result<usize, ArgsError> {
    match number(value)? {
        0 => error(String::from("must be at least 1")),
        n => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
    }
}

fn idle_timeout(value: &str) -> Result<Option<Duration>, ArgsError> {
    let seconds = number(value)?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn address(value: &str) -> Result<SocketAddr, ArgsError> {
    value.parse().or_else(|_| {
        error(format!(
            "{value:?} is no ADDRESS:PORT (an IPv6 address stands in brackets)"
        ))
    })
}

fn guest(value: &str) -> Result<Option<Access>, ArgsError> {
    match value {
        "none" => Ok(None),
        "ro" => Ok(Some(Access::ReadOnly)),
        "rw" => Ok(Some(Access::ReadWrite)),
        _ => error(format!("{value:?} is none of none, ro and rw")),
    }
}

/// `NAME=PATH[,RULE]...`; what looks like no rule belongs to the path.
fn share(value: OsString) -> Result<ShareArg, ArgsError> {
    let bytes = value.as_bytes();
    let Some(equals) = bytes.iter().position(|&byte| byte == b'=') else {
        return error(format!("{value:?} is not NAME=PATH"));
    };
    let Ok(name) = std::str::from_utf8(&bytes[..equals]) else {
        return error(format!("the name in {value:?} is not UTF-8"));
    };
    let mut rules = ShareRules::default();
    let mut path = &bytes[equals + 1..];
    while let Some(comma) = path.iter().rposition(|&byte| byte == b',') {
        match std::str::from_utf8(&path[comma + 1..]).unwrap_or_default() {
            "ro" => rules.read_only = true,
            "encrypt" => rules.encrypt = true,
            rule => {
                if let Some(value) = rule.strip_prefix("guest=") {
                    rules.guest = Some(guest(value)?);
                } else if let Some(names) = rule.strip_prefix("users=") {
                    rules.users = Some(names.split('+').map(str::to_owned).collect());
                } else {
                    break;
                }
            }
        }
        path = &path[..comma];
    }
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    share_of(name, &path, rules)
}

fn share_of(name: &str, path: &Path, rules: ShareRules) -> Result<ShareArg, ArgsError> {
    check_share_name(name)?;
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(ShareArg {
            name: name.to_owned(),
            path: path.to_owned(),
            rules,
        }),
        Ok(_) => error(format!("share {name}: {path:?} is not a directory")),
        Err(e) => error(format!("share {name}: {path:?}: {e}")),
    }
}

/// [MS-FSCC] 2.1.6: at most 80 characters, none of them special.
fn check_share_name(name: &str) -> Result<(), ArgsError> {
    if name.is_empty() {
        return error(String::from("the name is empty"));
    }
    if name.chars().count() > 80 {
        return error(format!("{name:?} is longer than 80 characters"));
    }
    if let Some(c) = name
        .chars()
        .find(|c| c.is_control() || "\"\\/[]:|<>+=;,*?".contains(*c))
    {
        return error(format!("{name:?} must not contain {c:?}"));
    }
    if name.starts_with(' ') || name.ends_with([' ', '.']) {
        return error(format!("{name:?} begins or ends with a space or a period"));
    }
    if text::same_name(name, IPC_SHARE) {
        return error(format!("the name {IPC_SHARE} is the server's own"));
    }
    Ok(())
}
