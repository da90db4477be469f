//! The parent's table of what clients share.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::file::{File, Open, Wanted};
use super::message::{Ask, FileKey, Notice, OpenId, Oplock, Refusal, Ticket};
use super::sessions::Sessions;

/// How long a client has to acknowledge the break of an oplock.
pub const BREAK_TIMEOUT: Duration = Duration::from_secs(35);
/// How long its process has to end a session that its client has lost.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long others wait in silence for a process to acknowledge a restriction. It may be waiting for
/// the disk. Then their clients do without what they can do without, or are told that it takes long,
/// and can do something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most opens of a client.
const MAX_OPENS: usize = 16 * 1024;
/// The most requests of a client that wait: as many as a connection can have,
/// and those it is about to end.
const MAX_WAITING: usize = 1024;

/// A client with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// An open of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) client: ClientId,
    pub(super) open: OpenId,
}

/// What a process has done that its program never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misbehaviour(pub &'static str);

impl std::fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Misbehaviour {}

/// What the program has to do for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell a client's process.
    Tell(Notice),
    /// End it: it hangs.
    Evict,
}

/// What is to have happened by some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timed {
    /// The acknowledgment of a break.
    Break { open: OpenId },
    /// The acknowledgment of a restriction, before others are told that it takes long.
    Restrict { file: FileKey, number: u64 },
    /// The same, before the process is ended.
    Obey { file: FileKey, number: u64 },
    /// The end of a session.
    EndSession { session: u64 },
}

/// What a file tells of its clients.
#[derive(Debug)]
pub(super) enum Change {
    /// There is one more open.
    Opened(Owner),
    /// There is one less.
    Ended(Owner),
    /// A request waits no longer.
    Answered(ClientId, Ticket),
}

/// What changes of files bring about.
#[derive(Debug)]
pub(super) struct Effects {
    now: Instant,
    break_timeout: Duration,
    actions: VecDeque<(ClientId, Action)>,
    timers: BTreeSet<(Instant, ClientId, Timed)>,
    deadlines: BTreeMap<(ClientId, Timed), Instant>,
    changes: Vec<Change>,
    last_number: u64,
    /// The system users that clients' processes are, where they differ.
    users: HashMap<ClientId, u32>,
    /// How often a request has been attempted.
    #[cfg(test)]
    attempts: usize,
}

impl Effects {
    /// The system user that a client's process is, if that is known.
    pub(super) fn user(&self, client: ClientId) -> Option<u32> {
        self.users.get(&client).copied()
    }

    #[cfg(test)]
    pub(super) fn count_attempt(&mut self) {
        self.attempts += 1;
    }

    pub(super) fn tell(&mut self, client: ClientId, notice: Notice) {
        self.actions.push_back((client, Action::Tell(notice)));
    }

    pub(super) fn note(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Tells a client its restrictions, and returns the number it is to
    /// acknowledge.
    pub(super) fn restrict(&mut self, client: ClientId, file: FileKey, restrictions: u8) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        self.tell(
            client,
            Notice::Restrict {
                file,
                restrictions,
                number,
            },
        );
        self.start_timer(client, Timed::Restrict { file, number });
        number
    }

    pub(super) fn start_timer(&mut self, client: ClientId, timed: Timed) {
        let timeout = match timed {
            Timed::Break { .. } => self.break_timeout,
            Timed::Restrict { .. } => PATIENCE,
            Timed::Obey { .. } => self.break_timeout.saturating_sub(PATIENCE),
            Timed::EndSession { .. } => END_TIMEOUT,
        };
        let deadline = self.now + timeout;
        self.timers.insert((deadline, client, timed));
        self.deadlines.insert((client, timed), deadline);
    }

    pub(super) fn stop_timer(&mut self, client: ClientId, timed: Timed) {
        if let Some(deadline) = self.deadlines.remove(&(client, timed)) {
            self.timers.remove(&(deadline, client, timed));
        }
    }

    /// A restriction has been acknowledged, or concerns nobody any more.
    pub(super) fn stop_restrict_timer(&mut self, client: ClientId, file: FileKey, number: u64) {
        self.stop_timer(client, Timed::Restrict { file, number });
        self.stop_timer(client, Timed::Obey { file, number });
    }

    fn take_expired(&mut self) -> Option<(ClientId, Timed)> {
        let &(deadline, client, timed) = self.timers.first()?;
        if deadline > self.now {
            return None;
        }
        self.stop_timer(client, timed);
        Some((client, timed))
    }
}

#[derive(Debug, Default)]
struct Client {
    opens: HashMap<OpenId, FileKey>,
    /// Requests that wait: for which file, and what is to be opened.
    waiting: HashMap<Ticket, (FileKey, Option<OpenId>)>,
    /// What is to be opened by those.
    reserved: HashSet<OpenId>,
}

impl Client {
    /// A request waits no longer.
    fn forget(&mut self, ticket: Ticket) -> Option<FileKey> {
        let (key, opens) = self.waiting.remove(&ticket)?;
        if let Some(open) = opens {
            self.reserved.remove(&open);
        }
        Some(key)
    }
}

/// What a client has, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Name, granted access, oplock and number of locks of each open.
    pub opens: Vec<OpenSummary>,
    /// How many requests wait for other clients.
    pub waiting: usize,
}

/// An open, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSummary {
    /// The share's name, and the path in it.
    pub name: String,
    /// What it may do.
    pub access: u32,
    /// What others may do.
    pub share: u32,
    /// Its oplock.
    pub oplock: Oplock,
    /// Its byte-range locks.
    pub locks: usize,
    /// Whether the file is to be deleted.
    pub delete_pending: bool,
}

/// All files that clients have open.
#[derive(Debug)]
pub struct Table {
    clients: HashMap<ClientId, Client>,
    last_client: u64,
    files: HashMap<FileKey, File>,
    sessions: Sessions,
    effects: Effects,
}

impl Table {
    /// An empty table, where an oplock's break is over after `break_timeout`.
    pub fn new(break_timeout: Duration, now: Instant) -> Self {
        Table {
            clients: HashMap::new(),
            last_client: 0,
            files: HashMap::new(),
            sessions: Sessions::default(),
            effects: Effects {
                now,
                break_timeout,
                actions: VecDeque::new(),
                timers: BTreeSet::new(),
                deadlines: BTreeMap::new(),
                changes: Vec::new(),
                last_number: 0,
                users: HashMap::new(),
                #[cfg(test)]
                attempts: 0,
            },
        }
    }

    /// A client has come.
    pub fn add_client(&mut self) -> ClientId {
        self.last_client += 1;
        let id = ClientId(self.last_client);
        self.clients.insert(id, Client::default());
        id
    }

    /// The process of a client is a system user's now. Where no process is told to be anybody's, they are
    /// all the same.
    pub fn set_user(&mut self, id: ClientId, user: u32) {
        if self.clients.contains_key(&id) {
            self.effects.users.insert(id, user);
        }
    }

    /// A client is gone: all it has had ends.
    pub fn remove_client(&mut self, id: ClientId, now: Instant) {
        self.effects.now = now;
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        let opened = client.opens.into_values();
        let waited = client.waiting.into_values().map(|(key, _)| key);
        let files: BTreeSet<FileKey> = opened.chain(waited).collect();
        for key in files {
            if let Some(file) = self.files.get_mut(&key) {
                file.remove_client(id, &mut self.effects);
            }
            self.changed(key);
        }
        self.sessions.remove_client(id, &mut self.effects);
        self.effects.users.remove(&id);
        self.effects.actions.retain(|&(client, _)| client != id);
    }

    /// A client's process asks or tells. What is to be done then is had from
    /// [`Table::next_action`].
    ///
    /// # Errors
    ///
    /// Its program doesn't do that: the process is to be ended, and the client removed.
    pub fn handle(&mut self, id: ClientId, ask: Ask, now: Instant) -> Result<(), Misbehaviour> {
        self.effects.now = now;
        if !self.clients.contains_key(&id) {
            return Err(Misbehaviour("no such client"));
        }
        match ask {
            Ask::Open {
                ticket,
                open,
                file,
                access,
                share,
                oplock,
                overwrites,
                replaces,
                delete_on_close,
                name,
            } => {
                let client = &self.clients[&id];
                if client.opens.contains_key(&open) {
                    return Err(Misbehaviour("an open twice"));
                }
                if client.opens.len() + client.reserved.len() >= MAX_OPENS {
                    let why = Refusal::Resources;
                    self.effects.tell(id, Notice::Refused { ticket, why });
                    return Ok(());
                }
                let wanted = Wanted::Open {
                    open,
                    access,
                    share,
                    oplock,
                    overwrites,
                    replaces,
                    delete_on_close,
                    name,
                };
                self.request(id, ticket, file, wanted)
            }
            Ask::Close { ticket, open } => {
                let key = self.file_of(id, open)?;
                if ticket != 0 {
                    self.request(id, ticket, key, Wanted::Close { open })
                } else {
                    self.end_open(Owner { client: id, open }, key);
                    Ok(())
                }
            }
            Ask::Removed { open } => {
                let key = *self.clients[&id]
                    .opens
                    .get(&open)
                    .ok_or(Misbehaviour("no such open"))?;
                let owner = Owner { client: id, open };
                if !self
                    .files
                    .get(&key)
                    .is_some_and(|file| file.is_removing(owner))
                {
                    return Err(Misbehaviour("a name removed unasked"));
                }
                self.end_open(owner, key);
                Ok(())
            }
            Ask::SetDelete {
                ticket,
                open,
                delete,
            } => {
                let key = self.file_of(id, open)?;
                self.request(id, ticket, key, Wanted::SetDelete { open, delete })
            }
            Ask::Lock {
                ticket,
                open,
                waits,
                ranges,
            } => {
                let key = self.file_of(id, open)?;
                if waits && ranges.len() > 1 {
                    return Err(Misbehaviour("more than one range to wait for"));
                }
                let wanted = Wanted::Lock {
                    open,
                    waits,
                    ranges,
                };
                self.request(id, ticket, key, wanted)
            }
            Ask::Unlock { open, ranges } => {
                let key = self.file_of(id, open)?;
                let owner = Owner { client: id, open };
                if let Some(file) = self.files.get_mut(&key)
                    && !file.unlock(owner, &ranges)
                {
                    return Err(Misbehaviour("no such lock"));
                }
                self.changed(key);
                Ok(())
            }
            Ask::Check {
                ticket,
                open,
                offset,
                length,
                writes,
            } => {
                let key = self.file_of(id, open)?;
                let owner = Owner { client: id, open };
                let effects = &mut self.effects;
                let is_prevented = self.files.get_mut(&key).is_some_and(|file| {
                    file.prevents_access(owner, offset, length, writes, effects)
                });
                let why = Refusal::LockConflict;
                let answer = match is_prevented {
                    true => Notice::Refused { ticket, why },
                    false => Notice::Done { ticket },
                };
                effects.tell(id, answer);
                Ok(())
            }
            Ask::Move { ticket, open } => {
                self.file_of(id, open)?;
                let name = self.name_of(Owner { client: id, open }).unwrap_or_default();
                let answer = match self.opens_below(name).next().is_some() {
                    true => Notice::Refused {
                        ticket,
                        why: Refusal::SharingViolation,
                    },
                    false => Notice::Done { ticket },
                };
                self.effects.tell(id, answer);
                Ok(())
            }
            Ask::Renamed { open, name } => {
                let key = self.file_of(id, open)?;
                let owner = Owner { client: id, open };
                let old = self.name_of(owner).map(str::to_owned);
                if let Some(file) = self.files.get_mut(&key) {
                    // Its other hard links keep theirs.
                    let same = file.opens.values_mut();
                    for open in same.filter(|open| Some(&open.name) == old.as_ref()) {
                        open.name.clone_from(&name);
                    }
                }
                Ok(())
            }
            Ask::Announce { open } => {
                let key = self.file_of(id, open)?;
                if let Some(file) = self.files.get_mut(&key) {
                    file.announced(Owner { client: id, open }, &mut self.effects);
                }
                Ok(())
            }
            Ask::Cancel { ticket } => {
                // Else the answer is on its way.
                let client = self.clients.get_mut(&id);
                if let Some(key) = client.and_then(|client| client.forget(ticket)) {
                    if let Some(file) = self.files.get_mut(&key) {
                        file.cancel(id, ticket, &mut self.effects);
                    }
                    let why = Refusal::Cancelled;
                    self.effects.tell(id, Notice::Refused { ticket, why });
                    self.changed(key);
                }
                Ok(())
            }
            Ask::BreakDone { open, oplock } => {
                // It may have been closed, or the break be over.
                let Some(&key) = self.clients[&id].opens.get(&open) else {
                    return Ok(());
                };
                let owner = Owner { client: id, open };
                if let Some(file) = self.files.get_mut(&key) {
                    file.break_done(owner, oplock, &mut self.effects);
                }
                self.changed(key);
                Ok(())
            }
            Ask::Session(ask) => self.sessions.handle(id, ask, &mut self.effects),
            Ask::RestrictDone { file: key, number } => {
                if let Some(file) = self.files.get_mut(&key) {
                    file.restrict_done(id, number, &mut self.effects);
                }
                self.changed(key);
                Ok(())
            }
        }
    }

    /// The other clients whose opens and locks stand against what `ask` asks for. Closing and
    /// unlocking is told and not asked for, so their word may be on its way: it is to be heard before
    /// this is [handled](Table::handle).
    pub fn in_the_way(&self, id: ClientId, ask: &Ask) -> BTreeSet<ClientId> {
        let known = self.clients.get(&id);
        let file = |open: &OpenId| {
            let key = known.and_then(|client| client.opens.get(open))?;
            self.files.get(key)
        };
        let owner = |open| Owner { client: id, open };
        let mut clients = match *ask {
            Ask::Open {
                ref file,
                access,
                share,
                ..
            } => match self.files.get(file) {
                Some(file) => file.in_the_way_of_open(access, share),
                None => BTreeSet::new(),
            },
            Ask::Lock {
                open, ref ranges, ..
            } => match file(&open) {
                Some(file) if file.prevents_locks(owner(open), ranges) => file.locking_clients(),
                _ => BTreeSet::new(),
            },
            Ask::Check {
                open,
                offset,
                length,
                writes,
                ..
            } => match file(&open) {
                Some(file)
                    if file
                        .locks
                        .prevent_access(owner(open), offset, length, writes) =>
                {
                    file.locking_clients()
                }
                _ => BTreeSet::new(),
            },
            Ask::Move { open, .. } => {
                let name = self.name_of(owner(open));
                self.opens_below(name.unwrap_or_default())
                    .map(|(owner, _)| owner.client)
                    .collect()
            }
            _ => BTreeSet::new(),
        };
        clients.remove(&id);
        clients
    }

    fn end_open(&mut self, owner: Owner, key: FileKey) {
        if let Some(file) = self.files.get_mut(&key) {
            file.remove_open(owner, &mut self.effects);
        }
        self.changed(key);
    }

    /// The file of an open.
    fn file_of(&self, id: ClientId, open: OpenId) -> Result<FileKey, Misbehaviour> {
        let owner = Owner { client: id, open };
        self.clients
            .get(&id)
            .and_then(|client| client.opens.get(&open))
            .filter(|key| self.files.get(key).is_some_and(|file| file.has(owner)))
            .copied()
            .ok_or(Misbehaviour("no such open"))
    }

    fn request(
        &mut self,
        id: ClientId,
        ticket: Ticket,
        key: FileKey,
        wanted: Wanted,
    ) -> Result<(), Misbehaviour> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        if client.waiting.contains_key(&ticket) {
            return Err(Misbehaviour("a ticket twice"));
        }
        if client.waiting.len() >= MAX_WAITING {
            let why = Refusal::Resources;
            self.effects.tell(id, Notice::Refused { ticket, why });
            return Ok(());
        }
        let opens = match wanted {
            Wanted::Open { open, .. } => Some(open),
            _ => None,
        };
        if opens.is_some_and(|open| !client.reserved.insert(open)) {
            return Err(Misbehaviour("an open twice"));
        }
        client.waiting.insert(ticket, (key, opens));
        let file = self.files.entry(key).or_insert_with(|| File::new(key));
        file.request(id, ticket, wanted, &mut self.effects);
        self.changed(key);
        Ok(())
    }

    /// A file has changed, so what waits for it may go on.
    fn changed(&mut self, key: FileKey) {
        if let Some(file) = self.files.get_mut(&key) {
            file.retry(&mut self.effects);
            if file.is_unused() {
                self.files.remove(&key);
            }
        }
        for change in std::mem::take(&mut self.effects.changes) {
            match change {
                Change::Opened(Owner { client, open }) => {
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.opens.insert(open, key);
                    }
                }
                Change::Ended(Owner { client, open }) => {
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.opens.remove(&open);
                    }
                }
                Change::Answered(client, ticket) => {
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.forget(ticket);
                    }
                }
            }
        }
    }

    /// Deals with what has not happened in time.
    pub fn expire(&mut self, now: Instant) {
        self.effects.now = now;
        while let Some((client, timed)) = self.effects.take_expired() {
            match timed {
                Timed::Break { open } => {
                    let known = self.clients.get(&client);
                    let Some(&key) = known.and_then(|client| client.opens.get(&open)) else {
                        continue;
                    };
                    if let Some(file) = self.files.get_mut(&key) {
                        let owner = Owner { client, open };
                        file.break_done(owner, Oplock::None, &mut self.effects);
                    }
                    self.effects.tell(client, Notice::BreakExpired { open });
                    self.changed(key);
                }
                Timed::Restrict { file: key, number } => {
                    let obey = Timed::Obey { file: key, number };
                    self.effects.start_timer(client, obey);
                    if let Some(file) = self.files.get_mut(&key) {
                        file.set_slow(client);
                    }
                    self.changed(key);
                }
                Timed::Obey { .. } | Timed::EndSession { .. } => {
                    self.effects.actions.push_back((client, Action::Evict));
                }
            }
        }
    }

    /// When [`Table::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.effects.timers.first().map(|&(deadline, ..)| deadline)
    }

    /// The name by which an open was opened, or that it has got since.
    fn name_of(&self, owner: Owner) -> Option<&str> {
        let key = self.clients.get(&owner.client)?.opens.get(&owner.open)?;
        Some(&self.files.get(key)?.opens.get(&owner)?.name)
    }

    /// What clients have open below the directory `name`.
    fn opens_below(&self, name: &str) -> impl Iterator<Item = (&Owner, &Open)> {
        let opens = self.files.values().flat_map(|file| &file.opens);
        opens.filter(move |(_, open)| {
            let rest = open.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('\\'))
        })
    }

    /// Takes the next thing to be done, and for whom.
    pub fn next_action(&mut self) -> Option<(ClientId, Action)> {
        self.effects.actions.pop_front()
    }

    /// Whether nobody has anything.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.effects.timers.is_empty()
    }

    /// What a client has.
    pub fn summary(&self, id: ClientId) -> Summary {
        let Some(client) = self.clients.get(&id) else {
            return Summary {
                opens: Vec::new(),
                waiting: 0,
            };
        };
        let mut ids: Vec<_> = client.opens.iter().collect();
        ids.sort_unstable();
        let opens = ids.into_iter().filter_map(|(&open, key)| {
            let file = self.files.get(key)?;
            let owner = Owner { client: id, open };
            let found = file.opens.get(&owner)?;
            Some(OpenSummary {
                name: found.name.clone(),
                access: found.access,
                share: found.share,
                oplock: found.oplock,
                locks: file.locks.len_of(owner),
                delete_pending: file.delete_pending,
            })
        });
        Summary {
            opens: opens.collect(),
            waiting: client.waiting.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharing::Range;

    const FILE: FileKey = FileKey {
        device: 1,
        inode: 1,
    };
    const READ_AND_WRITE: u32 = 3;
    const SHARE_ALL: u32 = 7;

    fn table() -> Table {
        Table::new(BREAK_TIMEOUT, Instant::now())
    }

    fn ask(table: &mut Table, id: ClientId, ask: Ask) {
        let now = table.effects.now;
        table.handle(id, ask, now).expect("the rules were obeyed");
    }

    /// Opens the file under a number, which is the ticket too.
    fn open(table: &mut Table, id: ClientId, number: u64) {
        let open = Ask::Open {
            ticket: number,
            open: number,
            file: FILE,
            access: READ_AND_WRITE,
            share: SHARE_ALL,
            oplock: Oplock::None,
            overwrites: false,
            replaces: false,
            delete_on_close: false,
            name: String::new(),
        };
        ask(table, id, open);
    }

    fn lock(table: &mut Table, id: ClientId, ticket: Ticket, waits: bool, firsts: Vec<u64>) {
        let range = |offset| Range {
            offset,
            length: 1,
            exclusive: true,
        };
        let lock = Ask::Lock {
            ticket,
            open: 1,
            waits,
            ranges: firsts.into_iter().map(range).collect(),
        };
        ask(table, id, lock);
    }

    /// What clients have been told, restrictions acknowledged.
    fn notices(table: &mut Table) -> Vec<(ClientId, Notice)> {
        let mut notices = Vec::new();
        while let Some((id, action)) = table.next_action() {
            match action {
                Action::Tell(Notice::Restrict { file, number, .. }) => {
                    ask(table, id, Ask::RestrictDone { file, number });
                }
                Action::Tell(notice) => notices.push((id, notice)),
                Action::Evict => panic!("nobody hangs"),
            }
        }
        notices
    }

    #[test]
    fn those_who_wait_are_attempted_when_something_was_freed_and_then_once() {
        const WAITING: u64 = 200;
        let mut table = table();
        let (one, other) = (table.add_client(), table.add_client());
        open(&mut table, one, 1);
        open(&mut table, other, 1);
        lock(&mut table, one, 2, false, (0..1000).collect());
        notices(&mut table);
        for ticket in 2..2 + WAITING {
            lock(&mut table, other, ticket, true, vec![0]);
        }
        notices(&mut table);
        let attempts = |table: &mut Table| std::mem::take(&mut table.effects.attempts) as u64;
        attempts(&mut table);
        // What frees nothing.
        open(&mut table, one, 2);
        lock(&mut table, one, 3, false, vec![5000]);
        assert_eq!(attempts(&mut table), 2);
        // All of a request is unlocked at once.
        let ranges = (1..1000).map(|offset| (offset, 1)).collect();
        ask(&mut table, one, Ask::Unlock { open: 1, ranges });
        assert_eq!(attempts(&mut table), WAITING);
        let ranges = vec![(0, 1)];
        ask(&mut table, one, Ask::Unlock { open: 1, ranges });
        let done = notices(&mut table);
        assert!(
            done.contains(&(other, Notice::Done { ticket: 2 })),
            "{done:?}"
        );
    }

    #[test]
    fn a_process_that_is_slow_is_ended_no_sooner_than_a_break_is_over() {
        let mut table = table();
        let start = table.effects.now;
        let (slow, other) = (table.add_client(), table.add_client());
        open(&mut table, slow, 1);
        open(&mut table, other, 1);
        notices(&mut table);
        lock(&mut table, other, 2, true, vec![0]);
        lock(&mut table, other, 3, false, vec![1]);
        let Some((id, Action::Tell(Notice::Restrict { file, number, .. }))) = table.next_action()
        else {
            panic!("the slow one is to obey");
        };
        assert_eq!(id, slow);
        assert_eq!(table.next_action(), None);
        // Who waits for it is told, whether from before or from now on; who won't is refused.
        table.expire(start + PATIENCE);
        let refused = |ticket| {
            let why = Refusal::LockConflict;
            (other, Notice::Refused { ticket, why })
        };
        let waits = |ticket| (other, Notice::Waits { ticket });
        assert_eq!(notices(&mut table), [waits(2), refused(3)]);
        lock(&mut table, other, 4, true, vec![2]);
        lock(&mut table, other, 5, false, vec![3]);
        assert_eq!(notices(&mut table), [waits(4), refused(5)]);
        table.expire(start + BREAK_TIMEOUT - Duration::from_millis(1));
        assert_eq!(table.next_action(), None);
        // Late is not too late.
        ask(&mut table, slow, Ask::RestrictDone { file, number });
        let done = [2, 4].map(|ticket| (other, Notice::Done { ticket }));
        assert_eq!(notices(&mut table), done);
        assert_eq!(table.deadline(), None);
        // One that never does is ended.
        let hanging = table.add_client();
        open(&mut table, hanging, 1);
        open(&mut table, hanging, 2);
        notices(&mut table);
        let now = table.effects.now;
        let delete = Ask::SetDelete {
            ticket: 4,
            open: 1,
            delete: true,
        };
        ask(&mut table, other, delete);
        while table.next_action().is_some() {}
        table.expire(now + PATIENCE);
        while table.next_action().is_some() {}
        table.expire(now + BREAK_TIMEOUT);
        assert!(
            std::iter::from_fn(|| table.next_action())
                .any(|action| action == (hanging, Action::Evict))
        );
    }

    #[test]
    fn in_the_way_is_who_has_to_let_something_go() {
        let mut table = table();
        let clients = [0; 3].map(|_| table.add_client());
        for client in clients {
            open(&mut table, client, 1);
        }
        lock(&mut table, clients[1], 2, false, vec![0]);
        notices(&mut table);
        let opens = |access, share| Ask::Open {
            ticket: 9,
            open: 9,
            file: FILE,
            access,
            share,
            oplock: Oplock::None,
            overwrites: false,
            replaces: false,
            delete_on_close: false,
            name: String::new(),
        };
        let ranges = |offset| {
            vec![Range {
                offset,
                length: 1,
                exclusive: true,
            }]
        };
        let locks = |offset| Ask::Lock {
            ticket: 9,
            open: 1,
            waits: true,
            ranges: ranges(offset),
        };
        let reads = |offset| Ask::Check {
            ticket: 9,
            open: 1,
            offset,
            length: 1,
            writes: false,
        };
        let [one, locking, other] = clients;
        for (ask, expected) in [
            (opens(READ_AND_WRITE, SHARE_ALL), vec![]),
            (opens(READ_AND_WRITE, 0), vec![locking, other]),
            (opens(0x80, 0), vec![]),
            (locks(0), vec![locking]),
            (locks(1), vec![]),
            (reads(0), vec![locking]),
            (reads(1), vec![]),
        ] {
            let in_the_way: Vec<ClientId> = table.in_the_way(one, &ask).into_iter().collect();
            assert_eq!(in_the_way, expected, "{ask:?}");
        }
        // Oplocks are in everybody's way.
        let batch = Ask::Open {
            ticket: 3,
            open: 3,
            file: FileKey {
                device: 1,
                inode: 2,
            },
            access: READ_AND_WRITE,
            share: SHARE_ALL,
            oplock: Oplock::Batch,
            overwrites: false,
            replaces: false,
            delete_on_close: false,
            name: String::new(),
        };
        ask(&mut table, other, batch.clone());
        assert_eq!(table.in_the_way(one, &batch), BTreeSet::from([other]));
    }

    #[test]
    fn who_opens_a_file_that_is_being_replaced_waits_until_it_has_been() {
        let mut table = table();
        let (one, other) = (table.add_client(), table.add_client());
        let replace = || Ask::Open {
            ticket: 1,
            open: 1,
            file: FILE,
            access: 0x1_0000,
            share: 0,
            oplock: Oplock::None,
            overwrites: false,
            replaces: true,
            delete_on_close: false,
            name: String::new(),
        };
        let opened = |ticket| Notice::Opened {
            ticket,
            oplock: Oplock::None,
            restrictions: 0,
        };
        let refused = |ticket| Notice::Refused {
            ticket,
            why: Refusal::SharingViolation,
        };
        ask(&mut table, one, replace());
        assert_eq!(notices(&mut table), [(one, opened(1))]);
        open(&mut table, other, 2);
        assert_eq!(notices(&mut table), []);
        // Who wants to replace it too doesn't wait.
        ask(&mut table, other, replace());
        assert_eq!(notices(&mut table), [(other, refused(1))]);
        ask(&mut table, one, Ask::Close { ticket: 0, open: 1 });
        assert_eq!(notices(&mut table), [(other, opened(2))]);
        // What is open is not replaced.
        ask(&mut table, one, replace());
        assert_eq!(notices(&mut table), [(one, refused(1))]);
        // A process that ends lets go what it was replacing.
        ask(&mut table, other, Ask::Close { ticket: 0, open: 2 });
        ask(&mut table, one, replace());
        open(&mut table, other, 3);
        assert_eq!(notices(&mut table), [(one, opened(1))]);
        let now = table.effects.now;
        table.remove_client(one, now);
        assert_eq!(notices(&mut table), [(other, opened(3))]);
    }

    #[test]
    fn requests_that_wait_for_a_file_are_bounded() {
        let mut table = table();
        let one = table.add_client();
        open(&mut table, one, 1);
        lock(&mut table, one, 2, false, vec![0]);
        notices(&mut table);
        let mut refused = 0;
        for _ in 0..3 {
            let other = table.add_client();
            open(&mut table, other, 1);
            for ticket in 2..2 + 1000 {
                lock(&mut table, other, ticket, true, vec![0]);
            }
            let why = Refusal::Resources;
            let is_refused = |notice: &Notice| matches!(notice, Notice::Refused { why: known, .. } if *known == why);
            let told = notices(&mut table);
            refused += told.iter().filter(|(_, notice)| is_refused(notice)).count();
        }
        assert_eq!(refused, 3000 - 2048);
    }

    #[test]
    fn a_client_has_a_bounded_number_of_opens() {
        let mut table = table();
        let one = table.add_client();
        for number in 1..=MAX_OPENS as u64 {
            open(&mut table, one, number);
        }
        let opened = notices(&mut table);
        let is_opened = |(_, notice): &(ClientId, Notice)| matches!(notice, Notice::Opened { .. });
        assert!(opened.iter().all(is_opened));
        assert_eq!(opened.len(), 16_384);
        open(&mut table, one, 0);
        let (ticket, why) = (0, Refusal::Resources);
        assert_eq!(
            notices(&mut table),
            [(one, Notice::Refused { ticket, why })]
        );
        ask(&mut table, one, Ask::Close { ticket: 0, open: 7 });
        open(&mut table, one, 7);
        assert!(notices(&mut table).iter().all(is_opened));
    }
}
