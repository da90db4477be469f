//! One file: its opens, locks, oplocks, and the requests that wait for one of them.
//!
//! A request is [attempted](File::attempt) as a whole, again and again until
//! nothing is in its way. An attempt that fails changes nothing but that it has
//! breaks and restrictions under way, whose acknowledgments cause the next one.
//! Those that wait are attempted in the order they came in.

use std::collections::{BTreeMap, VecDeque};

use super::message::{FileKey, Notice, OpenId, Oplock, Range, Refusal, Ticket};
use super::modes::{conflicts, is_stat_open};
use super::ranges::Locks;
use super::restrictions::{CACHED, DELETED, LOCKS};
use super::table::{Change, ClientId, Effects, Owner, Timed};

/// The most locks on a file.
const MAX_LOCKS: usize = 8 * 1024;

/// An open file.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) owner: Owner,
    pub(super) access: u32,
    pub(super) share: u32,
    pub(super) oplock: Oplock,
    /// The level it is being broken to.
    breaking: Option<Oplock>,
    delete_on_close: bool,
    /// It was the last one; its process is removing the name.
    is_removing: bool,
    pub(super) name: String,
}

/// What one client's process has been told.
#[derive(Debug, Default)]
struct View {
    /// All it has been told up to now.
    told: u8,
    /// What it has acknowledged and has not been relieved of since.
    in_force: u8,
    /// Numbers of the restrictions under way, and what they said.
    unacknowledged: VecDeque<(u64, u8)>,
}

impl View {
    /// What it surely obeys.
    fn obeys(&self) -> u8 {
        let under_way = self.unacknowledged.iter().map(|&(_, said)| said);
        under_way.fold(self.in_force, |all, said| all & said)
    }

    /// Tells `client` what holds now, if that is news.
    fn tell(&mut self, restrictions: u8, client: ClientId, key: FileKey, effects: &mut Effects) {
        if self.told != restrictions {
            self.told = restrictions;
            let number = effects.restrict(client, key, restrictions);
            self.unacknowledged.push_back((number, restrictions));
        }
    }
}

/// A request about a file.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Open {
        open: OpenId,
        access: u32,
        share: u32,
        oplock: Oplock,
        overwrites: bool,
        delete_on_close: bool,
        name: String,
    },
    Lock {
        open: OpenId,
        waits: bool,
        ranges: Vec<Range>,
    },
    SetDelete {
        open: OpenId,
        delete: bool,
    },
    Close {
        open: OpenId,
    },
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    ticket: Ticket,
    wanted: Wanted,
    /// Its process knows that it takes long.
    is_told: bool,
}

/// How an attempt went.
enum Verdict {
    /// The answer.
    Ready(Notice),
    /// It depends on the other clients' processes alone, which answer soon.
    Soon,
    /// It depends on the other clients.
    Late,
}

/// A file that somebody has open, or wants to.
#[derive(Debug)]
pub(super) struct File {
    key: FileKey,
    pub(super) opens: Vec<Open>,
    pub(super) locks: Locks<Owner>,
    waiting: VecDeque<Waiting>,
    views: BTreeMap<ClientId, View>,
    pub(super) delete_pending: bool,
    /// The system user whose process has said so; another one's is not to do it for them.
    deleted_by: Option<u32>,
}

impl File {
    pub(super) fn new(key: FileKey) -> Self {
        File {
            key,
            opens: Vec::new(),
            locks: Locks::default(),
            waiting: VecDeque::new(),
            views: BTreeMap::new(),
            delete_pending: false,
            deleted_by: None,
        }
    }

    /// Whether it can be forgotten.
    pub(super) fn is_unused(&self) -> bool {
        self.opens.is_empty() && self.waiting.is_empty()
    }

    /// Answers a request, or lets it wait.
    pub(super) fn request(
        &mut self,
        client: ClientId,
        ticket: Ticket,
        wanted: Wanted,
        effects: &mut Effects,
    ) {
        self.try_once(
            Waiting {
                client,
                ticket,
                wanted,
                is_told: false,
            },
            effects,
        );
    }

    /// Attempts all that waits.
    pub(super) fn retry(&mut self, effects: &mut Effects) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.try_once(waiting, effects);
        }
    }

    fn try_once(&mut self, mut waiting: Waiting, effects: &mut Effects) {
        let Waiting { client, ticket, .. } = waiting;
        match self.attempt(client, ticket, &waiting.wanted, effects) {
            Verdict::Ready(answer) => {
                effects.tell(client, answer);
                effects.note(Change::Answered(client, ticket));
                return;
            }
            Verdict::Late if !waiting.is_told => {
                waiting.is_told = true;
                effects.tell(client, Notice::Waits { ticket });
            }
            Verdict::Soon | Verdict::Late => {}
        }
        self.waiting.push_back(waiting);
    }

    /// Takes a request out of those that wait. What is being closed is closed
    /// all the same.
    pub(super) fn cancel(&mut self, client: ClientId, ticket: Ticket, effects: &mut Effects) {
        let is_it = |waiting: &Waiting| (waiting.client, waiting.ticket) == (client, ticket);
        let found = self.waiting.iter().position(is_it);
        let cancelled = found.and_then(|index| self.waiting.remove(index));
        if let Some(Waiting {
            wanted: Wanted::Close { open },
            ..
        }) = cancelled
        {
            self.remove_open(Owner { client, open }, effects);
        }
    }

    fn attempt(
        &mut self,
        client: ClientId,
        ticket: Ticket,
        wanted: &Wanted,
        effects: &mut Effects,
    ) -> Verdict {
        let refused = |why| Verdict::Ready(Notice::Refused { ticket, why });
        match *wanted {
            Wanted::Open {
                open,
                access,
                share,
                oplock,
                overwrites,
                delete_on_close,
                ref name,
            } => {
                // Its name is just going; what is opened then may be another file.
                if self.opens.iter().any(|open| open.is_removing) {
                    return Verdict::Soon;
                }
                if self.delete_pending {
                    return refused(Refusal::DeletePending);
                }
                let breaks = overwrites || !is_stat_open(access);
                let to = match overwrites {
                    true => Oplock::None,
                    false => Oplock::LevelII,
                };
                // A batch oplock is broken first: its holder may have the file
                // open for nobody any more, and close it.
                if breaks && self.break_oplocks(Oplock::Batch, to, effects) {
                    return Verdict::Late;
                }
                let shares =
                    |other: &Open| !conflicts((access, share), (other.access, other.share));
                if !self.opens.iter().all(shares) {
                    return refused(Refusal::SharingViolation);
                }
                if breaks && self.break_oplocks(Oplock::Exclusive, to, effects) {
                    return Verdict::Late;
                }
                let oplock = self.grantable(oplock);
                if oplock == Oplock::LevelII && !self.restrict_others(client, CACHED, effects) {
                    return Verdict::Soon;
                }
                if overwrites {
                    self.break_level_ii(effects);
                }
                let locks = self.locks.iter().any(|(owner, _)| owner.client != client);
                let cached = self
                    .opens
                    .iter()
                    .any(|other| other.owner.client != client && other.oplock == Oplock::LevelII);
                let view = self.views.entry(client).or_insert_with(|| {
                    let restrictions =
                        if locks { LOCKS } else { 0 } | if cached { CACHED } else { 0 };
                    View {
                        told: restrictions,
                        in_force: restrictions,
                        unacknowledged: VecDeque::new(),
                    }
                });
                let restrictions = view.told;
                let owner = Owner { client, open };
                effects.note(Change::Opened(owner));
                self.opens.push(Open {
                    owner,
                    access,
                    share,
                    oplock,
                    breaking: None,
                    delete_on_close,
                    is_removing: false,
                    name: name.clone(),
                });
                Verdict::Ready(Notice::Opened {
                    ticket,
                    oplock,
                    restrictions,
                })
            }
            Wanted::Lock {
                open,
                waits,
                ref ranges,
            } => {
                let owner = Owner { client, open };
                if !self.has(owner) {
                    return refused(Refusal::Cancelled);
                }
                if self.locks.len() + ranges.len() > MAX_LOCKS {
                    return refused(Refusal::Resources);
                }
                if ranges
                    .iter()
                    .any(|&range| self.locks.prevent_lock(owner, range))
                {
                    return match waits {
                        true => Verdict::Late,
                        false => refused(Refusal::LockConflict),
                    };
                }
                if !self.restrict_others(client, LOCKS, effects) {
                    return Verdict::Soon;
                }
                // They may be in each other's way.
                if !self.locks.lock(owner, ranges) {
                    return refused(Refusal::LockConflict);
                }
                self.break_level_ii(effects);
                Verdict::Ready(Notice::Done { ticket })
            }
            Wanted::SetDelete { open, delete } => {
                let owner = Owner { client, open };
                if !self.has(owner) {
                    return refused(Refusal::Cancelled);
                }
                if delete && !self.restrict_others(client, DELETED, effects) {
                    return Verdict::Soon;
                }
                self.delete_pending = delete;
                self.deleted_by = effects.user(client);
                for other in &mut self.opens {
                    other.delete_on_close &= delete || other.owner != owner;
                }
                if delete {
                    self.restrict_all(DELETED, effects);
                } else {
                    self.lift(DELETED, effects);
                }
                Verdict::Ready(Notice::Done { ticket })
            }
            Wanted::Close { open } => {
                let owner = Owner { client, open };
                if !self.has(owner) {
                    return refused(Refusal::Cancelled);
                }
                let deletes = self
                    .opens
                    .iter()
                    .any(|open| open.owner == owner && open.delete_on_close);
                if deletes && !self.delete_pending {
                    if !self.restrict_others(client, DELETED, effects) {
                        return Verdict::Soon;
                    }
                    self.delete_pending = true;
                    self.deleted_by = effects.user(client);
                    self.restrict_all(DELETED, effects);
                }
                let is_theirs = self.deleted_by == effects.user(client);
                let remove = self.delete_pending && self.opens.len() == 1 && is_theirs;
                if remove {
                    self.settle_open(owner, effects);
                    for open in &mut self.opens {
                        open.is_removing = true;
                    }
                } else {
                    self.remove_open(owner, effects);
                }
                Verdict::Ready(Notice::Closed { ticket, remove })
            }
        }
    }

    /// The level that can be granted beside what there is.
    fn grantable(&self, wanted: Oplock) -> Oplock {
        let minds = |open: &Open| !is_stat_open(open.access) || open.oplock != Oplock::None;
        if wanted >= Oplock::Exclusive && !self.opens.iter().any(minds) {
            return wanted;
        }
        let is_cached_alone = self.opens.iter().any(|open| open.oplock > Oplock::LevelII);
        if wanted == Oplock::None || is_cached_alone || !self.locks.is_empty() {
            return Oplock::None;
        }
        Oplock::LevelII
    }

    /// Has oplocks of a level broken. `true` if some are left that have not been
    /// acknowledged.
    fn break_oplocks(&mut self, level: Oplock, to: Oplock, effects: &mut Effects) -> bool {
        let mut is_waiting = false;
        for open in &mut self.opens {
            if open.oplock != level {
                continue;
            }
            is_waiting = true;
            if open.breaking.is_none() {
                open.breaking = Some(to);
                let Owner { client, open } = open.owner;
                effects.tell(client, Notice::Break { open, to });
                effects.start_timer(client, Timed::Break { open });
            }
        }
        is_waiting
    }

    /// Ends level II oplocks, which takes no acknowledgment.
    fn break_level_ii(&mut self, effects: &mut Effects) {
        for open in &mut self.opens {
            if open.oplock == Oplock::LevelII {
                open.oplock = Oplock::None;
                let Owner { client, open } = open.owner;
                let to = Oplock::None;
                effects.tell(client, Notice::Break { open, to });
            }
        }
    }

    /// A break has been acknowledged, or is over. Nothing happens if none is
    /// under way.
    pub(super) fn break_done(&mut self, owner: Owner, oplock: Oplock, effects: &mut Effects) {
        let open = self.opens.iter_mut().find(|open| open.owner == owner);
        let Some(open) = open else { return };
        if let Some(to) = open.breaking.take() {
            open.oplock = oplock.min(to);
            effects.stop_timer(owner.client, Timed::Break { open: owner.open });
        }
    }

    /// Makes the processes of other clients obey a restriction. `false` if some
    /// have not yet acknowledged it.
    fn restrict_others(&mut self, client: ClientId, bit: u8, effects: &mut Effects) -> bool {
        let mut all_obey = true;
        for (&other, view) in &mut self.views {
            if other != client && view.obeys() & bit == 0 {
                all_obey = false;
                view.tell(view.told | bit, other, self.key, effects);
            }
        }
        all_obey
    }

    /// Tells all of a restriction that holds already.
    fn restrict_all(&mut self, bit: u8, effects: &mut Effects) {
        for (&client, view) in &mut self.views {
            view.tell(view.told | bit, client, self.key, effects);
        }
    }

    /// Tells all that a restriction holds no more.
    fn lift(&mut self, bit: u8, effects: &mut Effects) {
        for (&client, view) in &mut self.views {
            view.tell(view.told & !bit, client, self.key, effects);
        }
    }

    /// Tells one client that a restriction holds no more.
    fn lift_for(&mut self, client: ClientId, bit: u8, effects: &mut Effects) {
        if let Some(view) = self.views.get_mut(&client) {
            view.tell(view.told & !bit, client, self.key, effects);
        }
    }

    /// Restrictions have been acknowledged.
    pub(super) fn restrict_done(&mut self, client: ClientId, number: u64, effects: &mut Effects) {
        let Some(view) = self.views.get_mut(&client) else {
            return;
        };
        if let Some(&(expected, said)) = view.unacknowledged.front()
            && expected == number
        {
            view.unacknowledged.pop_front();
            view.in_force = said;
            let file = self.key;
            effects.stop_timer(client, Timed::Restrict { file, number });
        }
    }

    /// Whether locks keep an open from reading or writing.
    pub(super) fn prevents_access(
        &mut self,
        owner: Owner,
        offset: u64,
        length: u64,
        writes: bool,
        effects: &mut Effects,
    ) -> bool {
        if !self
            .locks
            .iter()
            .any(|(other, _)| other.client != owner.client)
        {
            self.lift_for(owner.client, LOCKS, effects);
        }
        self.locks.prevent_access(owner, offset, length, writes)
    }

    /// An open changes the data.
    pub(super) fn announced(&mut self, owner: Owner, effects: &mut Effects) {
        self.break_level_ii(effects);
        // Nobody has anything cached any more.
        self.lift_for(owner.client, CACHED, effects);
    }

    /// Ends what an open has but its entry.
    fn settle_open(&mut self, owner: Owner, effects: &mut Effects) {
        self.locks.remove(|other| other == owner);
        for open in &mut self.opens {
            if open.owner == owner {
                open.oplock = Oplock::None;
                if open.breaking.take().is_some() {
                    effects.stop_timer(owner.client, Timed::Break { open: owner.open });
                }
            }
        }
    }

    /// An open has ended.
    pub(super) fn remove_open(&mut self, owner: Owner, effects: &mut Effects) {
        self.settle_open(owner, effects);
        let removed = self.opens.iter().position(|open| open.owner == owner);
        if let Some(open) = removed.map(|index| self.opens.remove(index)) {
            effects.note(Change::Ended(owner));
            // Where its process is gone nobody could be asked to remove the
            // name; but others may still do it.
            if open.delete_on_close && !self.opens.is_empty() && !self.delete_pending {
                self.delete_pending = true;
                self.deleted_by = effects.user(owner.client);
                self.restrict_all(DELETED, effects);
            }
        }
        let client = owner.client;
        if !self.opens.iter().any(|open| open.owner.client == client)
            && let Some(view) = self.views.remove(&client)
        {
            let file = self.key;
            for (number, _) in view.unacknowledged {
                effects.stop_timer(client, Timed::Restrict { file, number });
            }
        }
        if self.opens.is_empty() {
            // Whoever waits to open it opens what there will be.
            self.delete_pending = false;
        }
    }

    /// A client is gone.
    pub(super) fn remove_client(&mut self, client: ClientId, effects: &mut Effects) {
        self.waiting.retain(|waiting| waiting.client != client);
        let gone: Vec<Owner> = self
            .opens
            .iter()
            .map(|open| open.owner)
            .filter(|owner| owner.client == client)
            .collect();
        for owner in gone {
            self.remove_open(owner, effects);
        }
    }

    /// Whether an open is there and not just being closed.
    pub(super) fn has(&self, owner: Owner) -> bool {
        self.opens
            .iter()
            .any(|open| open.owner == owner && !open.is_removing)
    }

    /// Whether an open's process is removing the name.
    pub(super) fn is_removing(&self, owner: Owner) -> bool {
        self.opens
            .iter()
            .any(|open| open.owner == owner && open.is_removing)
    }
}
