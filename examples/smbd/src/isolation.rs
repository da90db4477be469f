//! What a client's process gives up, so that a client that takes it over gets little.
//!
//! From the start, on that it was forked: no privileges by `execve`, no core dumps, bounded memory.
//! When somebody has logged on, before files are touched for them: the rights of root, for those of
//! the user's system account; all files but those below the shares, and connections to others, where
//! the kernel has Landlock; new processes.
//!
//! None of this can be undone, so a process serves one system user. Another session of the same
//! connection that needs another one is refused; a client that wants both connects twice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::unistd::{Gid, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, geteuid, getrlimit, setrlimit, waitpid};
use smbd::auth::Identity;
use smbd::config::Config;
use smbd::demo::DemoShare;
use smbd::server::Host;
use smbd::sharing::{Ask, Link, SessionAsk};
use tevent::{Context, Fork, WeakContext};

/// How long somebody waits to be told that the password was wrong. The next time it is twice as long.
const FAILURE_DELAY: Duration = Duration::from_secs(1);
/// But not longer than this.
const MAX_FAILURE_DELAY: Duration = Duration::from_secs(30);
/// The most memory of one client's process: replies and requests that wait, twice, and a lot of
/// opens.
const MAX_MEMORY: u64 = 512 << 20;
/// Guests' system user, where `--run-as` names none.
const NOBODY: &str = "nobody";
/// The most system users that are looked up beforehand.
const MAX_KNOWN: usize = 1000;
/// The kernel's Landlock up to which its restrictions are known here.
const LANDLOCK: ABI = ABI::V6;

/// The system users that processes become. They are looked up beforehand, as that loads libraries,
/// reads files, and may ask other machines.
#[derive(Debug)]
pub(crate) struct SystemUsers {
    run_as: Option<String>,
    known: BTreeMap<String, Account>,
}

/// A system user.
#[derive(Debug, Clone)]
struct Account {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl SystemUsers {
    /// Those that clients of this configuration need, if this is root. Who isn't found now is looked
    /// up when needed.
    ///
    /// # Errors
    ///
    /// The system refuses a process.
    pub(crate) fn new(
        context: &Context,
        run_as: Option<&str>,
        config: &Config,
    ) -> io::Result<Rc<SystemUsers>> {
        let names: Vec<&str> = match run_as {
            _ if !geteuid().is_root() => Vec::new(),
            Some(name) => vec![name],
            None => {
                let users = config.security().users.names();
                users.take(MAX_KNOWN).chain([NOBODY]).collect()
            }
        };
        Ok(Rc::new(SystemUsers {
            run_as: run_as.map(str::to_owned),
            known: look_up(context, &names)?,
        }))
    }
}

/// Looks system users up in a process of its own, which ends then: the libraries that are loaded for
/// it would be there in each client's process, too.
fn look_up(context: &Context, names: &[&str]) -> io::Result<BTreeMap<String, Account>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (mut ours, mut theirs) = UnixStream::pair()?;
    match context.fork()? {
        Fork::Child => {
            let found = names
                .iter()
                .filter_map(|name| Account::find(name).ok().zip(Some(name)));
            let lines: String = found
                .map(|(account, name)| format!("{name}:{}\n", account.to_line()))
                .collect();
            let status = i32::from(theirs.write_all(lines.as_bytes()).is_err());
            std::process::exit(status);
        }
        Fork::Parent(child) => {
            drop(theirs);
            let mut text = String::new();
            let read = ours.read_to_string(&mut text);
            let child = i32::try_from(child).ok().and_then(Pid::from_raw);
            waitpid(child, WaitOptions::empty())?;
            read?;
            let known = text.lines().filter_map(|line| {
                let (name, account) = line.split_once(':')?;
                Some((name.to_owned(), Account::parse(account)?))
            });
            Ok(known.collect())
        }
    }
}

impl Account {
    /// # Errors
    ///
    /// What is wrong, for people.
    fn find(name: &str) -> Result<Account, String> {
        let user = system_user(name)?;
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        let groups =
            getgrouplist(&c_name, user.gid).map_err(|e| format!("groups of {name:?}: {e}"))?;
        Ok(Account {
            uid: user.uid,
            gid: user.gid,
            groups,
        })
    }

    /// User, group, and all groups.
    fn to_line(&self) -> String {
        let groups: String = self.groups.iter().map(|id| format!(" {id}")).collect();
        format!("{} {}{groups}", self.uid, self.gid)
    }

    fn parse(line: &str) -> Option<Account> {
        let mut ids = line.split(' ').map(|id| id.parse::<u32>().ok());
        let uid = Uid::from_raw(ids.next()??);
        let gid = Gid::from_raw(ids.next()??);
        let groups: Option<_> = ids.map(|id| id.map(Gid::from_raw)).collect();
        Some(Account {
            uid,
            gid,
            groups: groups?,
        })
    }
}

/// A client's process, as the connection sees it.
#[derive(Debug)]
pub(crate) struct ClientProcess {
    context: WeakContext,
    peer: String,
    config: Arc<Config>,
    users: Rc<SystemUsers>,
    parent: Rc<dyn Link>,
    failures: Cell<u32>,
    /// Whom it serves, once that is settled. Who started the server, if that wasn't root.
    settled: RefCell<Option<String>>,
}

/// Called once in each client's process, before anything is read from the client.
///
/// # Errors
///
/// The system refuses.
pub(crate) fn enter(
    context: WeakContext,
    peer: &str,
    config: Arc<Config>,
    users: Rc<SystemUsers>,
    parent: Rc<dyn Link>,
) -> io::Result<ClientProcess> {
    rustix::thread::set_no_new_privs(true)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Data, MAX_MEMORY)?;
    set_title(peer)?;
    Ok(ClientProcess {
        context,
        peer: peer.to_owned(),
        config,
        users,
        parent,
        failures: Cell::new(0),
        settled: RefCell::new(None),
    })
}

/// Lowers a limit for good.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let value = match value {
        0 => 0, // no maximum is lower
        _ => getrlimit(resource)
            .maximum
            .map_or(value, |maximum| maximum.min(value)),
    };
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Names the process after its client, in the 15 bytes that there are: `smbd`, and what follows of
/// the address, the end of one that is too long.
fn set_title(peer: &str) -> io::Result<()> {
    const MAX_TITLE: usize = 15;
    let address = match peer.parse::<SocketAddr>().map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => address.to_string(),
        Err(_) => peer.to_owned(),
    };
    let mut title = format!("smbd {address}");
    if title.len() > MAX_TITLE {
        title = address;
    }
    while title.len() > MAX_TITLE {
        title.remove(0);
    }
    Ok(rustix::thread::set_name(&CString::new(title)?)?)
}

/// The options that concern this can be followed.
///
/// # Errors
///
/// Why not.
pub(crate) fn check(run_as: Option<&str>) -> Result<(), String> {
    let Some(name) = run_as else { return Ok(()) };
    let user = system_user(name)?;
    if !geteuid().is_root() && user.uid.as_raw() != geteuid().as_raw() {
        return Err(format!("only root can run as {name}"));
    }
    Ok(())
}

/// Gives the demo share to those who are going to use it, if this is root.
///
/// # Errors
///
/// The system refuses.
pub(crate) fn give_to_guests(demo: &DemoShare, run_as: Option<&str>) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let user = system_user(run_as.unwrap_or(NOBODY))?;
    demo.give_to(user.uid.as_raw(), user.gid.as_raw())
        .map_err(|e| format!("demo share: {e}"))
}

/// Says in the log what clients' processes won't be, beforehand and once.
pub(crate) fn report() {
    let has_landlock = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::ReadFile)
        .and_then(Ruleset::create)
        .is_ok();
    if !has_landlock {
        log::info!("the kernel has no Landlock: clients' processes are not confined to the shares");
    }
}

fn system_user(name: &str) -> Result<User, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!("there is no system user {name:?}")),
        Err(e) => Err(format!("system user {name:?}: {e}")),
    }
}

impl ClientProcess {
    /// The name of the system user that somebody is served as, started as root.
    fn system_name(&self, identity: &Identity) -> String {
        match (&self.users.run_as, identity) {
            (Some(name), _) => name.clone(),
            (None, Identity::User(name)) => name.clone(),
            (None, _) => NOBODY.to_owned(),
        }
    }

    /// Becomes a system user, for good.
    fn become_user(&self, name: &str) -> Result<(), String> {
        let account = match self.users.known.get(name) {
            Some(account) => account.clone(),
            None => Account::find(name)?,
        };
        if account.uid.is_root() {
            return match self.users.run_as {
                Some(_) => Ok(()),
                None => Err(format!("{name:?} is root; --run-as would have to say so")),
            };
        }
        let fail = |e: nix::Error| format!("becoming {name:?}: {e}");
        change_ids(&account).map_err(fail)?;
        // Nothing of root may be left to go back to.
        if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
            return Err(format!("becoming {name:?}: root came back"));
        }
        log::debug!("{}: now system user {name:?}", self.peer);
        Ok(())
    }

    /// Restricts files to those below the shares.
    fn confine(&self) -> Result<(), landlock::RulesetError> {
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let writing: BitFlags<AccessFs> = AccessFs::WriteFile
            | AccessFs::RemoveDir
            | AccessFs::RemoveFile
            | AccessFs::MakeDir
            | AccessFs::MakeReg
            | AccessFs::MakeSym
            | AccessFs::Refer
            | AccessFs::Truncate;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        for point in self.config.shares() {
            let access = match point.rules.read_only {
                true => reading,
                false => reading | writing,
            };
            rules = rules.add_rule(PathBeneath::new(point.root(), access))?;
        }
        let status = rules.restrict_self()?;
        if status.ruleset != RulesetStatus::NotEnforced {
            log::debug!("{}: confined to the shares", self.peer);
        }
        Ok(())
    }
}

fn change_ids(account: &Account) -> nix::Result<()> {
    let Account {
        uid,
        gid,
        ref groups,
    } = *account;
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

impl Host for ClientProcess {
    fn admit(&self, identity: &Identity) -> Result<(), String> {
        // Gets at no files.
        if *identity == Identity::Anonymous {
            return Ok(());
        }
        let name = self.system_name(identity);
        let mut settled = self.settled.borrow_mut();
        if let Some(settled) = &*settled {
            // Without root there is one user, whoever logs on.
            return match settled.is_empty() || *settled == name {
                true => Ok(()),
                false => Err(format!(
                    "this connection is system user {settled:?}'s, and not {name:?}'s"
                )),
            };
        }
        let is_root = geteuid().is_root();
        if is_root {
            self.become_user(&name)?;
        }
        limit(Resource::Nproc, 0).map_err(|e| format!("no more processes: {e}"))?;
        self.confine().map_err(|e| format!("Landlock: {e}"))?;
        *settled = Some(if is_root { name } else { String::new() });
        Ok(())
    }

    fn delay_failure(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        self.parent.send(&Ask::Session(SessionAsk::Refused));
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let delay = FAILURE_DELAY.saturating_mul(factor).min(MAX_FAILURE_DELAY);
        Box::pin(self.context.sleep(delay))
    }
}
