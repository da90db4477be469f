//! The parent's table of what clients share.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::file::{File, Open, Wanted};
use super::message::{Ask, FileKey, Notice, OpenId, Oplock, Refusal, Ticket};
use super::modes::conflicts;
use super::sessions::Sessions;

/// How long a client has to acknowledge the break of an oplock.
pub const BREAK_TIMEOUT: Duration = Duration::from_secs(35);
/// How long its process has to acknowledge a restriction.
const RESTRICT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most opens of a client.
const MAX_OPENS: usize = 100_000;
/// The most requests of a client that wait: as many as a connection can have,
/// and those it is about to end. Each change of a file looks at all that wait
/// for it.
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
    /// The acknowledgment of a restriction.
    Restrict { file: FileKey, number: u64 },
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
}

impl Effects {
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
            Timed::Restrict { .. } | Timed::EndSession { .. } => RESTRICT_TIMEOUT,
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
        self.effects.actions.retain(|&(client, _)| client != id);
    }

    /// A client's process asks or tells. What is to be done then is had from
    /// [`Table::next_action`].
    ///
    /// # Errors
    ///
    /// Its program doesn't do that: the process is to be ended. Nothing has changed.
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
            Ask::Unlock {
                open,
                offset,
                length,
            } => {
                let key = self.file_of(id, open)?;
                let owner = Owner { client: id, open };
                if let Some(file) = self.files.get_mut(&key)
                    && !file.locks.unlock(owner, offset, length)
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
                    let same = file.opens.iter_mut();
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
        let mut clients = match *ask {
            Ask::Open {
                file,
                access,
                share,
                ..
            } => {
                let opens = self.files.get(&file).into_iter().flat_map(|it| &it.opens);
                opens
                    .filter(|open| {
                        open.oplock >= Oplock::Exclusive
                            || conflicts((access, share), (open.access, open.share))
                    })
                    .map(|open| open.owner.client)
                    .collect()
            }
            Ask::Lock { open, .. } | Ask::Check { open, .. } => {
                let known = self.clients.get(&id);
                let key = known.and_then(|client| client.opens.get(&open));
                let file = key.and_then(|key| self.files.get(key));
                let locks = file.into_iter().flat_map(|file| file.locks.iter());
                locks.map(|(owner, _)| owner.client).collect()
            }
            Ask::Move { open, .. } => {
                let name = self.name_of(Owner { client: id, open });
                self.opens_below(name.unwrap_or_default())
                    .map(|open| open.owner.client)
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
                Timed::Restrict { .. } | Timed::EndSession { .. } => {
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
        let opens = &self.files.get(key)?.opens;
        let open = opens.iter().find(|open| open.owner == owner)?;
        Some(&open.name)
    }

    /// What clients have open below the directory `name`.
    fn opens_below(&self, name: &str) -> impl Iterator<Item = &Open> {
        let opens = self.files.values().flat_map(|file| &file.opens);
        opens.filter(move |open| {
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
            let found = file.opens.iter().find(|open| open.owner == owner)?;
            Some(OpenSummary {
                name: found.name.clone(),
                access: found.access,
                share: found.share,
                oplock: found.oplock,
                locks: file
                    .locks
                    .iter()
                    .filter(|(other, _)| *other == owner)
                    .count(),
                delete_pending: file.delete_pending,
            })
        });
        Summary {
            opens: opens.collect(),
            waiting: client.waiting.len(),
        }
    }
}
