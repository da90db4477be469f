//! What all connections share.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::auth::users::Users;
use crate::auth::{self, Identity};
use crate::rpc::accounts::Accounts;
use crate::rpc::{self, srvsvc};
use crate::share::Share;
use crate::wire::text;

/// The name of the share that leads to named pipes.
pub const IPC_SHARE: &str = "IPC$";

/// What somebody may do in a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Look, and read.
    ReadOnly,
    /// What the file system allows.
    ReadWrite,
}

/// Who may use a share, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShareRules {
    /// The users who may; all of them if there is no list.
    pub users: Option<Vec<String>>,
    /// What guests may, where it differs from [`Security::guest`]: `None` within is nothing.
    pub guest: Option<Option<Access>>,
    /// Nobody may change anything.
    pub read_only: bool,
    /// Its requests and answers have to be encrypted.
    pub encrypt: bool,
}

/// A share and the rules for it.
#[derive(Debug)]
pub struct SharePoint {
    share: Arc<Share>,
    /// The same for those who may only read.
    read_only: Arc<Share>,
    /// The rules.
    pub rules: ShareRules,
}

impl SharePoint {
    /// Shares the directory `path` under `name`.
    ///
    /// # Errors
    ///
    /// What opening the directory fails with.
    pub fn open(name: &str, path: &Path, rules: ShareRules) -> Result<SharePoint, Errno> {
        let share = Share::open(name, path, rules.read_only)?;
        Ok(SharePoint {
            read_only: Arc::new(share.for_reading()),
            share: Arc::new(share),
            rules,
        })
    }

    /// The name clients connect to.
    pub fn name(&self) -> &str {
        self.share.name()
    }

    /// The directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.share.root()
    }

    /// The share as it is for those who have this access.
    pub fn for_access(&self, access: Access) -> &Arc<Share> {
        match access {
            Access::ReadOnly => &self.read_only,
            Access::ReadWrite => &self.share,
        }
    }
}

/// Who is let in, and how what is said is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Who has a password.
    pub users: Users,
    /// What those may who have none; `None` is nothing.
    pub guest: Option<Access>,
    /// Who doesn't sign is sent away, and so are guests, who have no key for it.
    pub require_signing: bool,
    /// Who doesn't encrypt is sent away, and so are guests.
    pub require_encryption: bool,
}

impl Default for Security {
    /// No users; guests may read.
    fn default() -> Self {
        Security {
            users: Users::new(),
            guest: Some(Access::ReadOnly),
            require_signing: false,
            require_encryption: false,
        }
    }
}

/// The server's identity, its shares and its rules. It does not change for a client that is
/// connected.
#[derive(Debug)]
pub struct Config {
    server_name: String,
    server_guid: [u8; 16],
    shares: Vec<SharePoint>,
    security: Security,
    /// The names of the system's users and groups.
    accounts: Accounts,
}

/// What those are told who have no password, so that they can't try the names.
static NO_ACCOUNTS: Accounts = Accounts::none();

impl Config {
    /// A server called `server_name` with a fresh GUID.
    ///
    /// # Errors
    ///
    /// When the system has no random bytes.
    pub fn new(server_name: &str, shares: Vec<SharePoint>) -> Result<Config, getrandom::Error> {
        let mut server_guid = [0; 16];
        getrandom::fill(&mut server_guid)?;
        Ok(Config {
            server_name: server_name.to_owned(),
            server_guid,
            shares,
            security: Security::default(),
            accounts: Accounts::of_system(),
        })
    }

    /// The same with other rules.
    #[must_use]
    pub fn with_security(self, security: Security) -> Config {
        Config { security, ..self }
    }

    /// The same server as one before, for clients that remember it.
    #[must_use]
    pub fn with_guid(self, server_guid: [u8; 16]) -> Config {
        Config {
            server_guid,
            ..self
        }
    }

    /// What the server calls itself.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Identifies the server to its clients.
    pub fn server_guid(&self) -> [u8; 16] {
        self.server_guid
    }

    /// Who is let in.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// What clients authenticate against. Guests are let in if a share is open to them.
    pub fn authentication(&self) -> auth::Server<'_> {
        let is_for_guests = |point: &SharePoint| matches!(point.rules.guest, Some(Some(_)));
        auth::Server {
            name: &self.server_name,
            users: &self.security.users,
            guests: self.security.guest.is_some() || self.shares.iter().any(is_for_guests),
        }
    }

    /// All shares.
    pub fn shares(&self) -> &[SharePoint] {
        &self.shares
    }

    /// The share a client means by `name`.
    pub fn share(&self, name: &str) -> Option<&SharePoint> {
        self.shares
            .iter()
            .find(|point| text::same_name(point.name(), name))
    }

    /// What somebody may do in a share, `None` for nothing.
    pub fn access(&self, point: &SharePoint, identity: &Identity) -> Option<Access> {
        let rules = &point.rules;
        let access = match identity {
            Identity::Anonymous => None,
            Identity::Guest(_) => match (rules.guest, &rules.users) {
                (Some(guest), _) => guest,
                // A list of users is meant to keep others out.
                (None, Some(_)) => None,
                (None, None) => self.security.guest,
            },
            Identity::User(name) => match &rules.users {
                Some(users) if !users.iter().any(|user| text::same_name(user, name)) => None,
                _ => Some(Access::ReadWrite),
            },
        };
        access.map(|access| match rules.read_only {
            true => Access::ReadOnly,
            false => access,
        })
    }

    /// What is told over named pipes to somebody. Only who has proved to be a user hears what others
    /// are called.
    pub fn rpc_server<'a>(&'a self, identity: &'a Identity) -> rpc::Server<'a> {
        let mut shares: Vec<_> = self
            .shares
            .iter()
            .map(|point| srvsvc::ShareEntry {
                name: point.name(),
                kind: srvsvc::STYPE_DISKTREE,
                remark: "",
            })
            .collect();
        shares.push(srvsvc::ShareEntry {
            name: IPC_SHARE,
            kind: srvsvc::STYPE_IPC_SPECIAL,
            remark: "Named pipes",
        });
        let user = match identity {
            Identity::User(name) => Some(name.as_str()),
            Identity::Guest(_) | Identity::Anonymous => None,
        };
        rpc::Server {
            name: &self.server_name,
            shares,
            user,
            accounts: user.map_or(&NO_ACCOUNTS, |_| &self.accounts),
        }
    }
}

/// The host's name up to the first period, for [`Config::new`].
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    // NetBIOS, whose rules still bind NTLM's target name, allows 15 characters.
    let name: String = name.chars().take_while(|&c| c != '.').take(15).collect();
    if name.is_empty() {
        String::from("smbd")
    } else {
        name
    }
}
