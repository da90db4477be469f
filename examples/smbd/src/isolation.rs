//! What a client's process gives up, so that a client that takes it over gets little.
//!
//! From the start, on that it was forked: no privileges by `execve`, no core dumps, bounded memory.
//! When somebody has logged on, before files are touched for them: the rights of root, for those of
//! the user's system account; all files but those below the shares, and connections to others, where
//! the kernel has Landlock; new processes.
//!
//! None of this can be undone, so a process serves one system user. Another session of the same
//! connection that needs another one is refused; a client that wants both connects twice.

use std::cell::RefCell;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::unistd::{Gid, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use smbd::auth::Identity;
use smbd::config::Config;
use smbd::demo::DemoShare;
use smbd::server::Host;
use tevent::WeakContext;

/// How long somebody waits to be told that the password was wrong.
const FAILURE_DELAY: Duration = Duration::from_secs(1);
/// The most memory of one client's process: replies and requests that wait, twice, and a lot of
/// opens.
const MAX_MEMORY: u64 = 512 << 20;
/// Guests' system user, where `--run-as` names none.
const NOBODY: &str = "nobody";
/// The kernel's Landlock up to which its restrictions are known here.
const LANDLOCK: ABI = ABI::V6;

/// A client's process, as the connection sees it.
#[derive(Debug)]
pub(crate) struct ClientProcess {
    context: WeakContext,
    peer: String,
    config: Arc<Config>,
    run_as: Option<String>,
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
    run_as: Option<String>,
) -> io::Result<ClientProcess> {
    rustix::thread::set_no_new_privs(true)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Data, MAX_MEMORY)?;
    set_title(peer)?;
    Ok(ClientProcess {
        context,
        peer: peer.to_owned(),
        config,
        run_as,
        settled: RefCell::new(None),
    })
}

/// Lowers a limit for good.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let value = match getrlimit(resource).maximum {
        Some(maximum) => maximum.min(value),
        None => value,
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
        match (&self.run_as, identity) {
            (Some(name), _) => name.clone(),
            (None, Identity::User(name)) => name.clone(),
            (None, _) => NOBODY.to_owned(),
        }
    }

    /// Becomes a system user, for good.
    fn become_user(&self, name: &str) -> Result<(), String> {
        let user = system_user(name)?;
        if user.uid.is_root() {
            return match self.run_as {
                Some(_) => Ok(()),
                None => Err(format!("{name:?} is root; --run-as would have to say so")),
            };
        }
        let fail = |e: nix::Error| format!("becoming {name:?}: {e}");
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        let groups = getgrouplist(&c_name, user.gid).map_err(fail)?;
        change_ids(user.uid, user.gid, &groups).map_err(fail)?;
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

fn change_ids(uid: Uid, gid: Gid, groups: &[Gid]) -> nix::Result<()> {
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
        Box::pin(self.context.sleep(FAILURE_DELAY))
    }
}
