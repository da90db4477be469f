//! The local security authority, as far as it translates SIDs and names ([MS-LSAT]) and says
//! what the machine and its domain are called ([MS-LSAD]). Other operations fault.
//!
//! Windows asks it for the names that it shows as owners and in lists of permissions.

use sha2::{Digest, Sha256};

use super::Server;
use super::accounts::{Account, Sid, Use};
use super::ndr::{Decoder, Encoder};
use super::pdu::Fault;
use crate::wire::status::Status;
use crate::wire::{Malformed, text};

const LSAR_CLOSE: u16 = 0;
const LSAR_OPEN_POLICY: u16 = 6;
const LSAR_QUERY_INFORMATION_POLICY: u16 = 7;
const LSAR_LOOKUP_NAMES: u16 = 14;
const LSAR_LOOKUP_SIDS: u16 = 15;
const LSAR_OPEN_POLICY2: u16 = 44;
const LSAR_GET_USER_NAME: u16 = 45;
const LSAR_QUERY_INFORMATION_POLICY2: u16 = 46;
const LSAR_LOOKUP_SIDS2: u16 = 57;
const LSAR_LOOKUP_NAMES2: u16 = 58;
const LSAR_LOOKUP_NAMES3: u16 = 68;

/// The class of policy information that is the domain the machine is in.
const PRIMARY_DOMAIN: u16 = 3;

/// The most handles of a pipe.
const MAX_HANDLES: usize = 64;
/// The most SIDs or names of a request.
const MAX_LOOKUPS: u32 = 1000;
const NULL_HANDLE: [u8; 20] = [0; 20];

/// The policy handles that a pipe's client has.
#[derive(Debug, Default)]
pub struct Handles {
    open: Vec<[u8; 20]>,
    last: u64,
}

impl Handles {
    fn open(&mut self) -> Result<[u8; 20], Status> {
        if self.open.len() >= MAX_HANDLES {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        self.last += 1;
        let mut handle = NULL_HANDLE;
        handle[4..12].copy_from_slice(&self.last.to_le_bytes());
        self.open.push(handle);
        Ok(handle)
    }

    /// Reads a handle, and says where it is in the list.
    fn find(&self, arguments: &mut Decoder<'_>) -> Result<usize, Fault> {
        let handle = arguments.array::<20>()?;
        let known = self.open.iter().position(|&open| open == handle);
        known.ok_or(Fault::ContextMismatch)
    }
}

/// Executes a call: operation number and arguments to results.
///
/// # Errors
///
/// [`Fault`] when there is no such operation, its arguments are broken, or its handle is none.
pub fn call(
    operation: u16,
    stub: &[u8],
    server: &Server<'_>,
    handles: &mut Handles,
) -> Result<Vec<u8>, Fault> {
    let mut arguments = Decoder::new(stub);
    let mut out = Encoder::new();
    let status = match operation {
        // What the policy is opened for doesn't matter: nothing of it can be changed.
        LSAR_OPEN_POLICY | LSAR_OPEN_POLICY2 => match handles.open() {
            Ok(handle) => {
                out.bytes(&handle);
                Status::SUCCESS
            }
            Err(status) => {
                out.bytes(&NULL_HANDLE);
                status
            }
        },
        LSAR_CLOSE => {
            let index = handles.find(&mut arguments)?;
            handles.open.swap_remove(index);
            out.bytes(&NULL_HANDLE);
            Status::SUCCESS
        }
        LSAR_GET_USER_NAME => get_user_name(&mut arguments, server, &mut out)?,
        LSAR_QUERY_INFORMATION_POLICY | LSAR_QUERY_INFORMATION_POLICY2 => {
            handles.find(&mut arguments)?;
            let class = arguments.u16()?;
            if operation == LSAR_QUERY_INFORMATION_POLICY2 && class == PRIMARY_DOMAIN {
                // Samba's servers don't know this operation, and `smbcacls --sddl` crashes on
                // an answer without a SID.
                return Err(Fault::UnknownOperation);
            }
            query_policy(class, server, &mut out)
        }
        LSAR_LOOKUP_SIDS | LSAR_LOOKUP_SIDS2 => {
            handles.find(&mut arguments)?;
            let sids = parse_sids(&mut arguments)?;
            lookup_sids(&sids, operation == LSAR_LOOKUP_SIDS2, server, &mut out)
        }
        LSAR_LOOKUP_NAMES | LSAR_LOOKUP_NAMES2 | LSAR_LOOKUP_NAMES3 => {
            handles.find(&mut arguments)?;
            let names = parse_names(&mut arguments)?;
            lookup_names(&names, operation, server, &mut out)
        }
        _ => return Err(Fault::UnknownOperation),
    };
    out.u32(status.0);
    Ok(out.into_stub())
}

/// [MS-LSAT] 3.1.4.2
fn get_user_name(
    arguments: &mut Decoder<'_>,
    server: &Server<'_>,
    out: &mut Encoder,
) -> Result<Status, Fault> {
    arguments.unique_string()?; // SystemName
    if arguments.pointer()? {
        arguments.u32()?; // both lengths
        arguments.unique_string()?;
    }
    let wants_domain = arguments.pointer()?;
    let (user, domain) = match server.user {
        Some(user) => (user, server.name),
        None => ("ANONYMOUS LOGON", "NT AUTHORITY"),
    };
    put_name_argument(user, out);
    if wants_domain {
        out.pointer();
        put_name_argument(domain, out);
    } else {
        out.null();
    }
    Ok(Status::SUCCESS)
}

fn put_name_argument(name: &str, out: &mut Encoder) {
    out.pointer();
    out.unicode_head(name);
    out.unicode_text(name);
}

/// [MS-LSAD] 3.1.4.4.4: the domain that the machine is in, that of its own accounts, and that nothing
/// is audited.
fn query_policy(class: u16, server: &Server<'_>, out: &mut Encoder) -> Status {
    const AUDIT_EVENTS: u16 = 2;
    const ACCOUNT_DOMAIN: u16 = 5;
    const SERVER_ROLE: u16 = 6;
    if !matches!(
        class,
        AUDIT_EVENTS | PRIMARY_DOMAIN | ACCOUNT_DOMAIN | SERVER_ROLE
    ) {
        out.null();
        return Status::INVALID_PARAMETER;
    }
    out.pointer();
    out.u16(class);
    out.align();
    let (name, sid) = match class {
        // A workgroup is no domain, and has no SID.
        PRIMARY_DOMAIN => (super::WORKGROUP, None),
        ACCOUNT_DOMAIN => (server.name, Some(machine_sid(server.name))),
        SERVER_ROLE => {
            const PRIMARY: u16 = 3;
            out.u16(PRIMARY); // of its own accounts
            out.align();
            return Status::SUCCESS;
        }
        _ => {
            out.u32(0); // nothing is audited
            out.null();
            out.u32(0);
            return Status::SUCCESS;
        }
    };
    out.unicode_head(name);
    match sid {
        Some(_) => out.pointer(),
        None => out.null(),
    }
    out.unicode_text(name);
    if let Some(sid) = sid {
        put_sid(&sid, out);
    }
    Status::SUCCESS
}

/// A SID for the machine, the same at each start. There are no accounts in it.
fn machine_sid(name: &str) -> Sid {
    const NT_NON_UNIQUE: u32 = 21;
    let hash = Sha256::digest(name.as_bytes());
    let words = hash.chunks_exact(4).take(3);
    let words = words.map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
    Sid {
        authority: 5,
        parts: std::iter::once(NT_NON_UNIQUE).chain(words).collect(),
    }
}

fn parse_sids(arguments: &mut Decoder<'_>) -> Result<Vec<Sid>, Fault> {
    let count = arguments.u32()?;
    let mut sids = Vec::new();
    if arguments.pointer()? {
        if count > MAX_LOOKUPS || arguments.u32()? != count {
            return Err(Fault::BadStub);
        }
        for _ in 0..count {
            if !arguments.pointer()? {
                return Err(Fault::BadStub);
            }
        }
        for _ in 0..count {
            sids.push(parse_sid(arguments)?);
        }
    } else if count != 0 {
        return Err(Fault::BadStub);
    }
    Ok(sids)
}

fn parse_sid(arguments: &mut Decoder<'_>) -> Result<Sid, Malformed> {
    const MAX_PARTS: u32 = 15;
    let count = arguments.u32()?;
    let [revision, same_count, authority @ ..] = arguments.array::<8>()?;
    if revision != 1 || count > MAX_PARTS || u32::from(same_count) != count {
        return Err(Malformed);
    }
    let authority = authority.into_iter();
    Ok(Sid {
        authority: authority.fold(0, |sum, byte| sum << 8 | u64::from(byte)),
        parts: (0..count)
            .map(|_| arguments.u32())
            .collect::<Result<_, _>>()?,
    })
}

fn put_sid(sid: &Sid, out: &mut Encoder) {
    out.u32(sid.parts.len() as u32);
    out.bytes(&[1, sid.parts.len() as u8]);
    out.bytes(&sid.authority.to_be_bytes()[2..]);
    for &part in &sid.parts {
        out.u32(part);
    }
}

fn parse_names(arguments: &mut Decoder<'_>) -> Result<Vec<String>, Fault> {
    let count = arguments.u32()?;
    if count > MAX_LOOKUPS || arguments.u32()? != count {
        return Err(Fault::BadStub);
    }
    let mut present = Vec::new();
    for _ in 0..count {
        arguments.u32()?; // both lengths
        present.push(arguments.pointer()?);
    }
    let mut names = Vec::new();
    for present in present {
        names.push(match present {
            true => arguments.string()?,
            false => String::new(),
        });
    }
    Ok(names)
}

/// What has been found, and the domains of it.
struct Found {
    accounts: Vec<Option<(Account, u32)>>,
    domains: Vec<(&'static str, Sid)>,
}

impl Found {
    fn new(found: impl Iterator<Item = Option<Account>>) -> Found {
        let mut domains: Vec<(&'static str, Sid)> = Vec::new();
        let accounts = found.map(|account| {
            let account = account?;
            let known = domains
                .iter()
                .position(|(_, sid)| *sid == account.domain_sid);
            let index = known.unwrap_or_else(|| {
                domains.push((account.domain, account.domain_sid.clone()));
                domains.len() - 1
            });
            Some((account, index as u32))
        });
        Found {
            accounts: accounts.collect(),
            domains,
        }
    }

    /// `LSAPR_REFERENCED_DOMAIN_LIST`
    fn put_domains(&self, out: &mut Encoder) {
        let count = self.domains.len() as u32;
        out.pointer();
        out.u32(count);
        out.pointer();
        out.u32(count); // MaxEntries, which is ignored
        out.u32(count);
        for (name, _) in &self.domains {
            out.unicode_head(name);
            out.pointer();
        }
        for (name, sid) in &self.domains {
            out.unicode_text(name);
            put_sid(sid, out);
        }
    }

    /// The number of those found, and the status that says how many that is.
    fn finish(&self, out: &mut Encoder) -> Status {
        let found = self.accounts.iter().flatten().count();
        out.u32(found as u32);
        match found {
            _ if found == self.accounts.len() => Status::SUCCESS,
            0 => Status::NONE_MAPPED,
            _ => Status::SOME_NOT_MAPPED,
        }
    }
}

const NO_DOMAIN: u32 = u32::MAX;

/// [MS-LSAT] 3.1.4.10, 3.1.4.11
fn lookup_sids(sids: &[Sid], is_extended: bool, server: &Server<'_>, out: &mut Encoder) -> Status {
    let found = Found::new(sids.iter().map(|sid| server.accounts.by_sid(sid)));
    found.put_domains(out);
    // What isn't known is shown as the SID.
    let translated = sids.iter().zip(&found.accounts);
    let translated: Vec<_> = translated
        .map(|(sid, account)| match account {
            Some((account, index)) => (account.kind, account.name.clone(), *index),
            None => (Use::Unknown, sid.to_string(), NO_DOMAIN),
        })
        .collect();
    let count = translated.len() as u32;
    out.u32(count);
    out.pointer();
    out.u32(count);
    for (kind, name, index) in &translated {
        out.u16(*kind as u16);
        out.align();
        out.unicode_head(name);
        out.u32(*index);
        if is_extended {
            out.u32(0);
        }
    }
    for (_, name, _) in &translated {
        out.unicode_text(name);
    }
    found.finish(out)
}

/// [MS-LSAT] 3.1.4.6, 3.1.4.7, 3.1.4.8
fn lookup_names(
    names: &[String],
    operation: u16,
    server: &Server<'_>,
    out: &mut Encoder,
) -> Status {
    let of_machine = |name: &str| {
        let (domain, name) = name.split_once('\\')?;
        text::same_name(domain, server.name).then(|| name.to_owned())
    };
    let found = Found::new(names.iter().map(|name| {
        let own = of_machine(name);
        server.accounts.by_name(own.as_deref().unwrap_or(name))
    }));
    found.put_domains(out);
    let count = names.len() as u32;
    out.u32(count);
    out.pointer();
    out.u32(count);
    for account in &found.accounts {
        let known = account.as_ref();
        out.u16(known.map_or(Use::Unknown, |(account, _)| account.kind) as u16);
        out.align();
        match known {
            Some(_) if operation == LSAR_LOOKUP_NAMES3 => out.pointer(),
            Some((account, _)) => out.u32(account.relative_id),
            None => out.u32(0),
        }
        out.u32(known.map_or(NO_DOMAIN, |&(_, index)| index));
        if operation != LSAR_LOOKUP_NAMES {
            out.u32(0);
        }
    }
    if operation == LSAR_LOOKUP_NAMES3 {
        for (account, _) in found.accounts.iter().flatten() {
            put_sid(&account.sid(), out);
        }
    }
    found.finish(out)
}
