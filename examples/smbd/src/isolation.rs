//! What a client's process gives up, so that a client that takes it over gets little.
//!
//! From the start, on that it was forked: no privileges by `execve`, no core dumps, bounded memory.
//! When somebody has logged on, before files are touched for them: the rights of root, for those of
//! the user's system account; all files but those below the shares, and connections to others, where
//! the kernel has Landlock; new processes.
//!
//! None of this can be undone, so a process serves one system user. Another session of the same
//! connection that needs another one is refused; a client that wants both connects twice.
//!
//! Clients begin with an anonymous session and go on with a user's over the same connection, for which
//! root is needed. So an anonymous one keeps of root the right to become another user, and nothing
//! else, for as long as a client has for logging on. Then the process is the guests' system user's.

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
use std::time::{Duration, Instant};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::unistd::{Gid, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, geteuid, getrlimit, kill_process,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, waitpid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use smbd::auth::Identity;
use smbd::config::Config;
use smbd::demo::DemoShare;
use smbd::server::Host;
use smbd::sharing::{Ask, Link, SessionAsk};
use tevent::{Context, FdFlags, Fork, Task, WeakContext};

use crate::client::LOGON_TIMEOUT;
use crate::daemon::leave_parent;

/// How long somebody waits to be told that the password was wrong. The next time it is twice as long.
const FAILURE_DELAY: Duration = Duration::from_secs(1);
/// But not longer than this.
const MAX_FAILURE_DELAY: Duration = Duration::from_secs(30);
/// The most memory of one client's process: replies and requests that wait, twice, and a lot of
/// opens.
const MAX_MEMORY: u64 = 512 << 20;
/// Guests' system user, where `--run-as` names none.
const NOBODY: &str = "nobody";
/// How long a process may take to look up system users, while others go on.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// The system refuses a process, or that has failed.
    pub(crate) fn new(
        context: &Context,
        run_as: Option<&str>,
        config: &Config,
    ) -> io::Result<Rc<SystemUsers>> {
        let names = needed(run_as, config);
        let known = match names.is_empty() {
            true => BTreeMap::new(),
            false => {
                let (mut answer, child) = ask(context, &names)?;
                let mut text = Vec::new();
                let read = answer.read_to_end(&mut text);
                waitpid(process_id(child), WaitOptions::empty())?;
                read?;
                parse_answer(&text)?
            }
        };
        Ok(SystemUsers::of(run_as, known))
    }

    /// The same, without waiting for those who know system users: `done` is told what has come of it.
    ///
    /// # Errors
    ///
    /// The system refuses a process.
    pub(crate) fn look_up(
        context: &Context,
        run_as: Option<&str>,
        config: &Config,
        done: impl FnOnce(io::Result<Rc<SystemUsers>>) + 'static,
    ) -> io::Result<Option<LookUp>> {
        let names = needed(run_as, config);
        if names.is_empty() {
            done(Ok(SystemUsers::of(run_as, BTreeMap::new())));
            return Ok(None);
        }
        let (answer, child) = ask(context, &names)?;
        let is_running = Rc::new(Cell::new(true));
        let has_ended = Rc::clone(&is_running);
        context
            .add_child(child, move |_, _, _| has_ended.set(false))?
            .detach();
        let process = LookUpProcess { child, is_running };
        answer.set_nonblocking(true)?;
        let answer = context.add_async_fd(answer)?;
        let reading = context.timeout(LOOK_UP_TIMEOUT, async move {
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = answer.io(FdFlags::READ, |mut socket| socket.read(&mut buffer));
                match read.await? {
                    0 => return parse_answer(&text),
                    count => text.extend(&buffer[..count]),
                }
            }
        });
        let run_as = run_as.map(str::to_owned);
        let child = process.clone();
        let task = context.spawn(async move {
            let known = reading.await.unwrap_or_else(|late| Err(late.into()));
            if known.is_err() {
                child.kill();
            }
            done(known.map(|known| SystemUsers::of(run_as.as_deref(), known)));
        });
        task.set_name("system users");
        Ok(Some(LookUp {
            process,
            _task: task,
        }))
    }

    fn of(run_as: Option<&str>, known: BTreeMap<String, Account>) -> Rc<SystemUsers> {
        let run_as = run_as.map(str::to_owned);
        Rc::new(SystemUsers { run_as, known })
    }
}

/// System users that are being looked up; nothing comes of it when this is dropped.
#[derive(Debug)]
pub(crate) struct LookUp {
    process: LookUpProcess,
    _task: Task<()>,
}

impl LookUp {
    /// Ends the process that looks them up.
    pub(crate) fn cancel(self) {
        self.process.kill();
    }
}

#[derive(Debug, Clone)]
struct LookUpProcess {
    child: u32,
    /// It hasn't been reaped.
    is_running: Rc<Cell<bool>>,
}

impl LookUpProcess {
    fn kill(&self) {
        if let Some(pid) = process_id(self.child).filter(|_| self.is_running.get()) {
            // That it has ended by itself is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The names of the system users that clients need, if this is root.
fn needed<'a>(run_as: Option<&'a str>, config: &'a Config) -> Vec<&'a str> {
    match run_as {
        _ if !geteuid().is_root() => Vec::new(),
        Some(name) => vec![name],
        None => {
            let users = config.security().users.names();
            users.take(MAX_KNOWN).chain([NOBODY]).collect()
        }
    }
}

/// Has system users looked up by a process of its own, which ends then: the libraries that are loaded
/// for it would be there in each client's process, too. Returns where the answer comes from, and the
/// process.
fn ask(context: &Context, names: &[&str]) -> io::Result<(UnixStream, u32)> {
    let (ours, mut theirs) = UnixStream::pair()?;
    match context.fork()? {
        Fork::Child => {
            // Whatever it waits for, it is of no use without its parent. What isn't possible here is
            // left out.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            leave_parent(context);
            drop(ours);
            let found = names
                .iter()
                .filter_map(|name| Account::find(name).ok().zip(Some(name)));
            let lines: String = found
                .map(|(account, name)| format!("{name}:{}\n", account.to_line()))
                .collect();
            let written = theirs.write_all(format!("{lines}{END_OF_ANSWER}").as_bytes());
            std::process::exit(i32::from(written.is_err()));
        }
        Fork::Parent(child) => Ok((ours, child)),
    }
}

/// The last line of a complete answer.
const END_OF_ANSWER: &str = ".\n";

fn parse_answer(text: &[u8]) -> io::Result<BTreeMap<String, Account>> {
    let text = std::str::from_utf8(text).ok();
    let lines = text.and_then(|text| text.strip_suffix(END_OF_ANSWER));
    let lines = lines.ok_or_else(|| io::Error::other("looking up system users has failed"))?;
    let known = lines.lines().filter_map(|line| {
        let (name, account) = line.split_once(':')?;
        Some((name.to_owned(), Account::parse(account)?))
    });
    Ok(known.collect())
}

fn process_id(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
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
pub(crate) struct ClientProcess(Rc<Process>);

#[derive(Debug)]
struct Process {
    context: WeakContext,
    /// Until then a client that is only anonymous may become somebody.
    settles_at: Instant,
    peer: String,
    config: Arc<Config>,
    users: Rc<SystemUsers>,
    parent: Rc<dyn Link>,
    failures: Cell<u32>,
    /// Whom it serves, once that is settled. Who started the server, if that wasn't root.
    settled: RefCell<Option<String>>,
    /// New processes, and files outside the shares, are given up.
    is_confined: Cell<bool>,
    /// Giving up has failed half-way, so nobody is served any more.
    has_failed: Cell<bool>,
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
    let now = context.upgrade().map(|context| context.now());
    Ok(ClientProcess(Rc::new(Process {
        settles_at: now.unwrap_or_else(Instant::now) + LOGON_TIMEOUT,
        context,
        peer: peer.to_owned(),
        config,
        users,
        parent,
        failures: Cell::new(0),
        settled: RefCell::new(None),
        is_confined: Cell::new(false),
        has_failed: Cell::new(false),
    })))
}

/// Keeps what is in memory from core dumps, and from others of the same user who would look at it or
/// attach themselves. To be called before anything is there that has to remain secret; it holds for
/// later children, too.
///
/// # Errors
///
/// The system refuses.
pub(crate) fn keep_memory_private() -> io::Result<()> {
    limit(Resource::Core, 0)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
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

impl Process {
    /// The name of the system user that somebody is served as, started as root.
    fn system_name(&self, identity: &Identity) -> String {
        match (&self.users.run_as, identity) {
            (Some(name), _) => name.clone(),
            (None, Identity::User(name)) => name.clone(),
            (None, _) => NOBODY.to_owned(),
        }
    }

    /// The system user to become, if there is one.
    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let account = match self.users.known.get(name) {
            Some(account) => account.clone(),
            None => Account::find(name)?,
        };
        match (account.uid.is_root(), &self.users.run_as) {
            (false, _) => Ok(Some(account)),
            (true, Some(_)) => Ok(None),
            (true, None) => Err(format!("{name:?} is root; --run-as would have to say so")),
        }
    }

    /// Becomes a system user, for good.
    fn become_user(&self, name: &str, account: &Account) -> Result<(), String> {
        let fail = |e: nix::Error| format!("becoming {name:?}: {e}");
        change_ids(account).map_err(fail)?;
        // Nothing of root may be left to go back to.
        if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
            return Err(format!("becoming {name:?}: root came back"));
        }
        // Another user's process may be dumped again, where the system is set up for that.
        keep_memory_private().map_err(|e| format!("core dumps: {e}"))?;
        log::debug!("{}: now system user {name:?}", self.peer);
        Ok(())
    }

    /// Settles for somebody, for good.
    fn settle(&self, name: String) -> Result<(), String> {
        let account = self.account(&name)?;
        let is_root = geteuid().is_root();
        let done = match &account {
            Some(account) => self.become_user(&name, account),
            None => Ok(()),
        };
        // From here on there is no other way.
        self.settled
            .replace(Some(if is_root { name } else { String::new() }));
        let done = done.and_then(|()| self.confine());
        self.end_if_failed(done)
    }

    /// Keeps of root what is needed to settle for somebody later.
    fn wait_and_see(self: &Rc<Self>) -> Result<(), String> {
        if self.is_confined.get() {
            return Ok(());
        }
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let needed = CapabilitySets {
            effective: needed,
            permitted: needed,
            inheritable: CapabilitySet::empty(),
        };
        let done = self.confine().and_then(|()| {
            set_capabilities(None, needed).map_err(|e| format!("no more privileges: {e}"))
        });
        self.end_if_failed(done)?;
        let context = self.context.upgrade().ok_or("the loop is gone")?;
        let process = Rc::downgrade(self);
        let timer = context.add_timer(self.settles_at, move |_, _| {
            let Some(process) = process.upgrade() else {
                return;
            };
            if process.settled.borrow().is_none()
                && let Err(why) = process.settle(NOBODY.to_owned())
            {
                log::error!("{}: {why}", process.peer);
                process.end();
            }
        });
        timer.set_name("settling");
        timer.detach();
        Ok(())
    }

    /// A process that is half of somebody serves nobody.
    fn end_if_failed(&self, done: Result<(), String>) -> Result<(), String> {
        done.inspect_err(|_| self.end())
    }

    fn end(&self) {
        self.has_failed.set(true);
        if let Some(context) = self.context.upgrade() {
            context.stop();
        }
    }

    /// Gives up new processes, and all files but those below the shares.
    fn confine(&self) -> Result<(), String> {
        if !self.is_confined.get() {
            limit(Resource::Nproc, 0).map_err(|e| format!("no more processes: {e}"))?;
            self.restrict_files()
                .map_err(|e| format!("Landlock: {e}"))?;
            self.is_confined.set(true);
        }
        Ok(())
    }

    fn restrict_files(&self) -> Result<(), landlock::RulesetError> {
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
        let process = &self.0;
        if process.has_failed.get() {
            return Err("the process ends".to_owned());
        }
        let is_anonymous = *identity == Identity::Anonymous;
        let name = process.system_name(identity);
        if let Some(settled) = &*process.settled.borrow() {
            // Without root there is one user, whoever logs on. Who is anonymous gets at no files.
            return match settled.is_empty() || *settled == name || is_anonymous {
                true => Ok(()),
                false => Err(format!(
                    "this connection is system user {settled:?}'s, and not {name:?}'s"
                )),
            };
        }
        let may_change = geteuid().is_root() && process.users.run_as.is_none();
        if is_anonymous && may_change {
            return process.wait_and_see();
        }
        process.settle(name)
    }

    fn delay_failure(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let process = &self.0;
        process.parent.send(&Ask::Session(SessionAsk::Refused));
        let failures = process.failures.get();
        process.failures.set(failures.saturating_add(1));
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let delay = FAILURE_DELAY.saturating_mul(factor).min(MAX_FAILURE_DELAY);
        Box::pin(process.context.sleep(delay))
    }
}
