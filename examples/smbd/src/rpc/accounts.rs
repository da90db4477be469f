//! SIDs and the names that people know: the system's users and groups, as `S-1-22-1-uid` and
//! `S-1-22-2-gid`, and those that mean the same everywhere ([MS-DTYP] 2.4.2.4).

use std::collections::BTreeMap;

use crate::wire::text;

/// A security identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sid {
    /// The authority.
    pub authority: u64,
    /// The subauthorities, 15 at most.
    pub parts: Vec<u32>,
}

impl std::fmt::Display for Sid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S-1-{}", self.authority)?;
        self.parts.iter().try_for_each(|part| write!(f, "-{part}"))
    }
}

/// `SID_NAME_USE` ([MS-LSAT] 2.2.13)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum Use {
    User = 1,
    Group = 2,
    Alias = 4,
    WellKnownGroup = 5,
    Unknown = 8,
}

/// A name with its SID, which is its domain's SID and one part more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The domain's name.
    pub domain: &'static str,
    /// The domain's SID.
    pub domain_sid: Sid,
    /// The account's name.
    pub name: String,
    /// The last part of its SID.
    pub relative_id: u32,
    /// What it is.
    pub kind: Use,
}

impl Account {
    /// The whole SID.
    pub fn sid(&self) -> Sid {
        let mut sid = self.domain_sid.clone();
        sid.parts.push(self.relative_id);
        sid
    }
}

/// A domain in which names are known: its name, authority and parts.
type Domain = (&'static str, u64, &'static [u32]);

const UNIX_USER: Domain = ("Unix User", 22, &[1]);
const UNIX_GROUP: Domain = ("Unix Group", 22, &[2]);
const WORLD: Domain = ("", 1, &[]);
const CREATOR: Domain = ("", 3, &[]);
const NT_AUTHORITY: Domain = ("NT AUTHORITY", 5, &[]);
const BUILTIN: Domain = ("BUILTIN", 5, &[32]);

const WELL_KNOWN: [(Domain, u32, &str, Use); 14] = [
    (WORLD, 0, "Everyone", Use::WellKnownGroup),
    (CREATOR, 0, "CREATOR OWNER", Use::WellKnownGroup),
    (CREATOR, 1, "CREATOR GROUP", Use::WellKnownGroup),
    (CREATOR, 4, "OWNER RIGHTS", Use::WellKnownGroup),
    (NT_AUTHORITY, 2, "NETWORK", Use::WellKnownGroup),
    (NT_AUTHORITY, 4, "INTERACTIVE", Use::WellKnownGroup),
    (NT_AUTHORITY, 7, "ANONYMOUS LOGON", Use::WellKnownGroup),
    (NT_AUTHORITY, 11, "Authenticated Users", Use::WellKnownGroup),
    (NT_AUTHORITY, 18, "SYSTEM", Use::WellKnownGroup),
    (NT_AUTHORITY, 19, "LOCAL SERVICE", Use::WellKnownGroup),
    (NT_AUTHORITY, 20, "NETWORK SERVICE", Use::WellKnownGroup),
    (BUILTIN, 544, "Administrators", Use::Alias),
    (BUILTIN, 545, "Users", Use::Alias),
    (BUILTIN, 546, "Guests", Use::Alias),
];

fn account((domain, authority, parts): Domain, id: u32, name: &str, kind: Use) -> Account {
    Account {
        domain,
        domain_sid: Sid {
            authority,
            parts: parts.to_vec(),
        },
        name: name.to_owned(),
        relative_id: id,
        kind,
    }
}

/// Names of system users and groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Accounts {
    /// Nobody.
    pub const fn none() -> Accounts {
        Accounts {
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// Those in `/etc/passwd` and `/etc/group`. Where a file can't be read numbers stand for names.
    pub fn of_system() -> Accounts {
        let read = |path| std::fs::read(path).unwrap_or_default();
        Accounts::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Those of two files with lines of `NAME:PASSWORD:ID:…`.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Accounts {
        let parse = |file: &[u8]| {
            let mut names = BTreeMap::new();
            for line in String::from_utf8_lossy(file).lines() {
                let mut fields = line.split(':');
                let (name, id) = (fields.next(), fields.nth(1).map(str::parse));
                if let (Some(name), Some(Ok(id))) = (name, id) {
                    // The first one counts, as for the system.
                    names.entry(id).or_insert_with(|| name.to_owned());
                }
            }
            names
        };
        Accounts {
            users: parse(passwd),
            groups: parse(group),
        }
    }

    /// What a SID stands for. A user or group without a name is called by the number.
    pub fn by_sid(&self, sid: &Sid) -> Option<Account> {
        let (&id, domain) = sid.parts.split_last()?;
        for (of, names, kind) in [
            (UNIX_USER, &self.users, Use::User),
            (UNIX_GROUP, &self.groups, Use::Group),
        ] {
            if (sid.authority, domain) == (of.1, of.2) {
                let name = names.get(&id).cloned();
                let name = name.unwrap_or_else(|| id.to_string());
                return Some(account(of, id, &name, kind));
            }
        }
        let found = WELL_KNOWN
            .iter()
            .find(|&&((_, authority, parts), known, ..)| {
                (sid.authority, domain, id) == (authority, parts, known)
            });
        found.map(|&(domain, id, name, kind)| account(domain, id, name, kind))
    }

    /// What a name stands for, with its domain's before it or alone. A user comes before a group.
    pub fn by_name(&self, name: &str) -> Option<Account> {
        let (domain, name) = match name.split_once('\\') {
            Some((domain, name)) => (Some(domain), name),
            None => (None, name),
        };
        let is_in = |of: Domain| domain.is_none_or(|domain| text::same_name(domain, of.0));
        let known = WELL_KNOWN
            .iter()
            .find(|known| is_in(known.0) && text::same_name(known.2, name));
        if let Some(&(domain, id, name, kind)) = known {
            return Some(account(domain, id, name, kind));
        }
        [
            (UNIX_USER, &self.users, Use::User),
            (UNIX_GROUP, &self.groups, Use::Group),
        ]
        .into_iter()
        .filter(|&(of, ..)| is_in(of))
        .find_map(|(of, names, kind)| {
            let (&id, name) = names.iter().find(|(_, known)| *known == name)?;
            Some(account(of, id, name, kind))
        })
    }
}
