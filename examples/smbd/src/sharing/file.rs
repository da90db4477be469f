//! One file: its opens, locks, oplocks, and the requests that wait for one of them.
//!
//! A request is [attempted](File::attempt) as a whole, again and again until
//! nothing is in its way. An attempt that fails changes nothing but that it has
//! breaks and restrictions under way, whose acknowledgments cause the next one.
//! Those that wait are attempted in the order they came in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{FileKey, Notice, OpenId, Oplock, Range, Refusal, Ticket};
use super::modes::{Counts, is_stat_open};
use super::ranges::Locks;
use super::restrictions::{CACHED, DELETED, LOCKS};
use super::table::{Change, ClientId, Effects, Owner, Timed};

/// The most locks on a file.
const MAX_LOCKS: usize = 8 * 1024;
/// The most requests that wait to open or lock a file: a change may have all of them attempted.
const MAX_WAITING: usize = 2048;

/// An open file.
#[derive(Debug)]
pub(super) struct Open {
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
    /// One of them takes long.
    is_slow: bool,
    /// What its opens do and allow.
    counts: Counts,
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
        replaces: bool,
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

impl Waiting {
    fn tell(&mut self, effects: &mut Effects) {
        if !self.is_told {
            self.is_told = true;
            let ticket = self.ticket;
            effects.tell(self.client, Notice::Waits { ticket });
        }
    }
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
    pub(super) opens: BTreeMap<Owner, Open>,
    /// What all opens do and allow.
    counts: Counts,
    /// Those that have an oplock: one above level II, or any number of level II.
    with_oplock: BTreeSet<Owner>,
    pub(super) locks: Locks<Owner>,
    waiting: VecDeque<Waiting>,
    /// Something has changed that those may have waited for.
    has_changed: bool,
    views: BTreeMap<ClientId, View>,
    /// The open of who gives its name to another file just now.
    replaced_by: Option<Owner>,
    pub(super) delete_pending: bool,
    /// The system user whose process has said so; another one's is not to do it for them.
    deleted_by: Option<u32>,
}

impl File {
    pub(super) fn new(key: FileKey) -> Self {
        File {
            key,
            opens: BTreeMap::new(),
            counts: Counts::default(),
            with_oplock: BTreeSet::new(),
            locks: Locks::default(),
            waiting: VecDeque::new(),
            has_changed: false,
            views: BTreeMap::new(),
            replaced_by: None,
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
        // What has been opened can be closed.
        let is_bounded = matches!(wanted, Wanted::Open { .. } | Wanted::Lock { .. });
        let before = self.waiting.len();
        self.try_once(
            Waiting {
                client,
                ticket,
                wanted,
                is_told: false,
            },
            effects,
        );
        if is_bounded && before >= MAX_WAITING && self.waiting.len() > before {
            self.waiting.pop_back();
            let why = Refusal::Resources;
            effects.tell(client, Notice::Refused { ticket, why });
            effects.note(Change::Answered(client, ticket));
        }
    }

    /// Attempts all that waits, if something has changed.
    pub(super) fn retry(&mut self, effects: &mut Effects) {
        while std::mem::take(&mut self.has_changed) {
            for waiting in std::mem::take(&mut self.waiting) {
                self.try_once(waiting, effects);
            }
        }
    }

    fn try_once(&mut self, mut waiting: Waiting, effects: &mut Effects) {
        let Waiting { client, ticket, .. } = waiting;
        #[cfg(test)]
        effects.count_attempt();
        match self.attempt(client, ticket, &waiting.wanted, effects) {
            Verdict::Ready(answer) => {
                effects.tell(client, answer);
                effects.note(Change::Answered(client, ticket));
                return;
            }
            Verdict::Late => waiting.tell(effects),
            Verdict::Soon if self.is_slow() => waiting.tell(effects),
            Verdict::Soon => {}
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
                replaces,
                delete_on_close,
                ref name,
            } => {
                // Its name is just going; what is opened then may be another file.
                if self
                    .opens
                    .values()
                    .next()
                    .is_some_and(|open| open.is_removing)
                {
                    return Verdict::Soon;
                }
                if self.replaced_by.is_some() && !replaces {
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
                if self.counts.conflict(access, share) {
                    return refused(Refusal::SharingViolation);
                }
                if breaks && self.break_oplocks(Oplock::Exclusive, to, effects) {
                    return Verdict::Late;
                }
                let mut oplock = self.grantable(oplock);
                if oplock == Oplock::LevelII && !self.restrict_others(client, CACHED, effects) {
                    if !self.is_slow() {
                        return Verdict::Soon;
                    }
                    oplock = Oplock::None;
                }
                if overwrites {
                    self.break_level_ii(effects);
                }
                let locks = self.others_have_locks(client);
                let cached = self.others_cache(client);
                let view = self.views.entry(client).or_insert_with(|| {
                    let restrictions =
                        if locks { LOCKS } else { 0 } | if cached { CACHED } else { 0 };
                    View {
                        told: restrictions,
                        in_force: restrictions,
                        unacknowledged: VecDeque::new(),
                        is_slow: false,
                        counts: Counts::default(),
                    }
                });
                view.counts.add(access, share);
                let restrictions = view.told;
                let owner = Owner { client, open };
                effects.note(Change::Opened(owner));
                self.counts.add(access, share);
                let made = Open {
                    access,
                    share,
                    oplock: Oplock::None,
                    breaking: None,
                    delete_on_close,
                    is_removing: false,
                    name: name.clone(),
                };
                self.opens.insert(owner, made);
                if replaces {
                    self.replaced_by = Some(owner);
                }
                self.set_oplock(owner, oplock);
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
                if self.prevents_locks(owner, ranges) {
                    return match waits {
                        true => Verdict::Late,
                        false => refused(Refusal::LockConflict),
                    };
                }
                if !self.restrict_others(client, LOCKS, effects) {
                    return match !waits && self.is_slow() {
                        true => refused(Refusal::LockConflict),
                        false => Verdict::Soon,
                    };
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
                self.has_changed = true;
                if let Some(open) = self.opens.get_mut(&owner) {
                    open.delete_on_close &= delete;
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
                    .get(&owner)
                    .is_some_and(|open| open.delete_on_close);
                if deletes && !self.delete_pending {
                    if !self.restrict_others(client, DELETED, effects) {
                        return Verdict::Soon;
                    }
                    self.delete_pending = true;
                    self.deleted_by = effects.user(client);
                    self.has_changed = true;
                    self.restrict_all(DELETED, effects);
                }
                let is_theirs = self.deleted_by == effects.user(client);
                let remove = self.delete_pending && self.opens.len() == 1 && is_theirs;
                if remove {
                    self.settle_open(owner, effects);
                    if let Some(open) = self.opens.get_mut(&owner) {
                        open.is_removing = true;
                    }
                } else {
                    self.remove_open(owner, effects);
                }
                Verdict::Ready(Notice::Closed { ticket, remove })
            }
        }
    }

    /// The clients whose opens don't allow one more, or have it wait.
    pub(super) fn in_the_way_of_open(&self, access: u32, share: u32) -> BTreeSet<ClientId> {
        let conflict = match self.counts.conflict(access, share) {
            true => Some(&self.views),
            false => None,
        };
        let clients = conflict.into_iter().flatten();
        let clients = clients.filter(|(_, view)| view.counts.conflict(access, share));
        let clients = clients.map(|(&client, _)| client);
        clients
            .chain(self.oplock_alone().map(|owner| owner.client))
            .collect()
    }

    /// Whether locks are in the way of others.
    pub(super) fn prevents_locks(&self, owner: Owner, ranges: &[Range]) -> bool {
        let mut ranges = ranges.iter();
        ranges.any(|&range| self.locks.prevent_lock(owner, range))
    }

    /// The clients that have locks.
    pub(super) fn locking_clients(&self) -> BTreeSet<ClientId> {
        self.locks.owners().map(|owner| owner.client).collect()
    }

    /// Whether a client other than this one has locks.
    fn others_have_locks(&self, client: ClientId) -> bool {
        // They are in the order of the clients.
        let mut owners = self.locks.owners();
        let (first, last) = (owners.next(), owners.next_back());
        let mut ends = first.into_iter().chain(last);
        ends.any(|owner| owner.client != client)
    }

    /// Whether a client other than this one has level II oplocks.
    fn others_cache(&self, client: ClientId) -> bool {
        let other = |owner: Option<&Owner>| owner.is_some_and(|owner| owner.client != client);
        self.oplock_alone().is_none()
            && (other(self.with_oplock.first()) || other(self.with_oplock.last()))
    }

    /// Who has an oplock above level II.
    fn oplock_alone(&self) -> Option<Owner> {
        let &owner = self.with_oplock.first()?;
        (self.opens.get(&owner)?.oplock > Oplock::LevelII).then_some(owner)
    }

    fn set_oplock(&mut self, owner: Owner, oplock: Oplock) {
        if let Some(open) = self.opens.get_mut(&owner) {
            open.oplock = oplock;
            match oplock {
                Oplock::None => self.with_oplock.remove(&owner),
                _ => self.with_oplock.insert(owner),
            };
        }
    }

    /// The level that can be granted beside what there is.
    fn grantable(&self, wanted: Oplock) -> Oplock {
        let is_alone = self.counts.are_stat_opens() && self.with_oplock.is_empty();
        if wanted >= Oplock::Exclusive && is_alone {
            return wanted;
        }
        if wanted == Oplock::None || self.oplock_alone().is_some() || !self.locks.is_empty() {
            return Oplock::None;
        }
        Oplock::LevelII
    }

    /// Has an oplock of a level above II broken. `true` if there is one that has not been
    /// acknowledged.
    fn break_oplocks(&mut self, level: Oplock, to: Oplock, effects: &mut Effects) -> bool {
        let Some(owner) = self.oplock_alone() else {
            return false;
        };
        let Some(open) = self
            .opens
            .get_mut(&owner)
            .filter(|open| open.oplock == level)
        else {
            return false;
        };
        if open.breaking.is_none() {
            open.breaking = Some(to);
            let Owner { client, open } = owner;
            effects.tell(client, Notice::Break { open, to });
            effects.start_timer(client, Timed::Break { open });
        }
        true
    }

    /// Ends level II oplocks, which takes no acknowledgment.
    fn break_level_ii(&mut self, effects: &mut Effects) {
        if self.oplock_alone().is_some() {
            return;
        }
        for owner in std::mem::take(&mut self.with_oplock) {
            self.set_oplock(owner, Oplock::None);
            let Owner { client, open } = owner;
            let to = Oplock::None;
            effects.tell(client, Notice::Break { open, to });
        }
    }

    /// A break has been acknowledged, or is over. Nothing happens if none is
    /// under way.
    pub(super) fn break_done(&mut self, owner: Owner, oplock: Oplock, effects: &mut Effects) {
        let Some(open) = self.opens.get_mut(&owner) else {
            return;
        };
        if let Some(to) = open.breaking.take() {
            self.set_oplock(owner, oplock.min(to));
            self.has_changed = true;
            effects.stop_timer(owner.client, Timed::Break { open: owner.open });
        }
    }

    /// Unlocks ranges. `false` if one of them isn't locked.
    pub(super) fn unlock(&mut self, owner: Owner, ranges: &[(u64, u64)]) -> bool {
        self.has_changed = true;
        let mut ranges = ranges.iter();
        ranges.all(|&(offset, length)| self.locks.unlock(owner, offset, length))
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
            view.is_slow &= !view.unacknowledged.is_empty();
            self.has_changed = true;
            effects.stop_restrict_timer(client, self.key, number);
        }
    }

    /// A client's process takes long to acknowledge a restriction.
    pub(super) fn set_slow(&mut self, client: ClientId) {
        if let Some(view) = self.views.get_mut(&client) {
            view.is_slow = true;
            self.has_changed = true;
        }
    }

    /// Whether a process takes long to acknowledge a restriction.
    fn is_slow(&self) -> bool {
        self.views.values().any(|view| view.is_slow)
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
        if !self.others_have_locks(owner.client) {
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
        self.has_changed = true;
        self.locks.remove(owner);
        self.set_oplock(owner, Oplock::None);
        if let Some(open) = self.opens.get_mut(&owner)
            && open.breaking.take().is_some()
        {
            effects.stop_timer(owner.client, Timed::Break { open: owner.open });
        }
    }

    /// An open has ended.
    pub(super) fn remove_open(&mut self, owner: Owner, effects: &mut Effects) {
        self.settle_open(owner, effects);
        if let Some(open) = self.opens.remove(&owner) {
            if self.replaced_by == Some(owner) {
                self.replaced_by = None;
            }
            self.counts.remove(open.access, open.share);
            if let Some(view) = self.views.get_mut(&owner.client) {
                view.counts.remove(open.access, open.share);
            }
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
        if self.opens_of(client).next().is_none()
            && let Some(view) = self.views.remove(&client)
        {
            let file = self.key;
            for (number, _) in view.unacknowledged {
                effects.stop_restrict_timer(client, file, number);
            }
        }
        if self.opens.is_empty() {
            // Whoever waits to open it opens what there will be.
            self.delete_pending = false;
        }
    }

    fn opens_of(&self, client: ClientId) -> impl Iterator<Item = Owner> + '_ {
        let end = |open| Owner { client, open };
        let opens = self.opens.range(end(OpenId::MIN)..=end(OpenId::MAX));
        opens.map(|(&owner, _)| owner)
    }

    /// A client is gone.
    pub(super) fn remove_client(&mut self, client: ClientId, effects: &mut Effects) {
        self.waiting.retain(|waiting| waiting.client != client);
        let gone: Vec<Owner> = self.opens_of(client).collect();
        for owner in gone {
            self.remove_open(owner, effects);
        }
    }

    /// Whether an open is there and not just being closed.
    pub(super) fn has(&self, owner: Owner) -> bool {
        let open = self.opens.get(&owner);
        open.is_some_and(|open| !open.is_removing)
    }

    /// Whether an open's process is removing the name.
    pub(super) fn is_removing(&self, owner: Owner) -> bool {
        let open = self.opens.get(&owner);
        open.is_some_and(|open| open.is_removing)
    }
}
