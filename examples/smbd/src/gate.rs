//! Who gets a process before having logged on, and who has to wait for that.
//!
//! A process for everybody who connects is what somebody would need who wants to exhaust a server.
//! So strangers, those who haven't logged on or are anonymous, have a number of places, all
//! together and those of one address. Who logs on gives the place back, as does who goes. Who needs
//! one when there is none takes that of the stranger who has been there longest, if that has had
//! time enough to log on; else that is waited for.
//!
//! An address whose logons fail too often has few places, and each failure takes one of them for some
//! time, longer and longer, whether or not the client stays. That is all that limits guessing over
//! many connections; nobody is locked out, and good logons are as quick as ever. The downside:
//! whoever shares the address of one who guesses has to wait with them.
//!
//! It knows no time but what it is told, and nothing of processes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use smbd::sharing::ClientId;

/// Places of strangers, all together.
const PLACES: usize = 256;
/// Those of one address.
const PLACES_OF_ADDRESS: usize = 64;
/// Those of an address that has guessed.
const PLACES_OF_SUSPECT: usize = 2;
/// How long a stranger keeps the place when others need it: many times what a logon takes.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many failures are forgiven.
const FREE_FAILURES: u32 = 5;
/// How long the first failure that isn't takes a place; each further one doubles that.
const FIRST_PENALTY: Duration = Duration::from_secs(1);
/// But it is no more than this.
const MAX_PENALTY: Duration = Duration::from_secs(30);
/// A failure is forgotten after this time, one after the other.
const FORGETTING: Duration = Duration::from_secs(60);
/// Of no more addresses failures are known; those that have the fewest are forgotten.
const MAX_SUSPECTS: usize = 4096;

/// What to do with somebody who has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is a place.
    Enter,
    /// There will be one when this client is sent away.
    Replace(ClientId),
    /// There is none.
    Wait,
}

/// A stranger's place, or one that a failure has taken, whoever's it was.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    since: Instant,
    /// Taken at least so long, as a logon has failed.
    until: Option<Instant>,
    /// The process has ended, or its client is no stranger.
    is_left: bool,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    since: Instant,
}

impl Failures {
    fn now(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.since);
        let forgotten = elapsed.as_secs() / FORGETTING.as_secs();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        self.count.saturating_sub(forgotten)
    }
}

/// The places and the failures.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// In the order of arrival, as ids count up.
    places: BTreeMap<ClientId, Place>,
    taken: HashMap<IpAddr, usize>,
    failures: HashMap<IpAddr, Failures>,
}

/// What counts as one address: of IPv6 the network, as a host has as many addresses as it wants.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

impl Gate {
    /// May somebody enter who has come from `address`?
    pub(crate) fn ask(&mut self, address: IpAddr, now: Instant) -> Verdict {
        self.expire(now);
        let own = self.taken.get(&address).copied().unwrap_or(0);
        let places = self.places_of(address, now);
        let is_full = own >= places;
        if !is_full && self.places.len() < PLACES {
            return Verdict::Enter;
        }
        // That one goes doesn't help an address that has more than its places.
        if own > places || self.places.len() > PLACES {
            return Verdict::Wait;
        }
        self.dispensable(is_full.then_some(address), now)
            .map_or(Verdict::Wait, Verdict::Replace)
    }

    /// Who has been a stranger for longest, if that is long enough to be sent away for another one's
    /// sake.
    pub(crate) fn dispensable(&self, address: Option<IpAddr>, now: Instant) -> Option<ClientId> {
        let dispensable = self.places.iter().find(|(_, place)| {
            let is_due = now.saturating_duration_since(place.since) >= PATIENCE;
            let is_asked_for = address.is_none_or(|address| place.address == address);
            let is_taken = place.until.is_some_and(|until| until > now);
            is_due && !is_taken && !place.is_left && is_asked_for
        });
        dispensable.map(|(&id, _)| id)
    }

    /// Somebody who may has entered.
    pub(crate) fn entered(&mut self, id: ClientId, address: IpAddr, now: Instant) {
        let place = Place {
            address,
            since: now,
            until: None,
            is_left: false,
        };
        self.places.insert(id, place);
        *self.taken.entry(address).or_default() += 1;
    }

    /// A client has logged on, so that it is no stranger any more, or is gone.
    pub(crate) fn left(&mut self, id: ClientId, now: Instant) {
        match self.places.get_mut(&id) {
            Some(place) if place.until.is_some_and(|until| until > now) => place.is_left = true,
            _ => self.give_back(id),
        }
    }

    /// A logon of a client from `address` has failed. Returns how many have by now, if that has
    /// consequences, and for how long the place is taken.
    pub(crate) fn failed(
        &mut self,
        id: ClientId,
        address: IpAddr,
        now: Instant,
    ) -> Option<(u32, Duration)> {
        let count = self.failures_of(address, now).saturating_add(1);
        if self.failures.len() >= MAX_SUSPECTS && !self.failures.contains_key(&address) {
            self.failures.retain(|_, failures| failures.now(now) > 0);
            let least = self.failures.iter().min_by_key(|(_, known)| known.now(now));
            let least = least.map(|(&address, _)| address);
            if let Some(least) = least.filter(|_| self.failures.len() >= MAX_SUSPECTS) {
                self.failures.remove(&least);
            }
        }
        self.failures
            .insert(address, Failures { count, since: now });
        let excess = count.checked_sub(FREE_FAILURES + 1)?;
        let penalty = FIRST_PENALTY
            .saturating_mul(1u32.checked_shl(excess).unwrap_or(u32::MAX))
            .min(MAX_PENALTY);
        let own = self.taken.get(&address).copied().unwrap_or(0);
        let has_room = own < PLACES_OF_ADDRESS && self.places.len() < PLACES;
        if !self.places.contains_key(&id) && has_room {
            // One who had logged on before. That makes no difference to a guess.
            self.entered(id, address, now);
            if let Some(place) = self.places.get_mut(&id) {
                place.is_left = true;
            }
        }
        if let Some(place) = self.places.get_mut(&id) {
            place.until = Some(now + penalty);
        }
        Some((count, penalty))
    }

    fn failures_of(&self, address: IpAddr, now: Instant) -> u32 {
        let failures = self.failures.get(&address);
        failures.map_or(0, |failures| failures.now(now))
    }

    fn places_of(&self, address: IpAddr, now: Instant) -> usize {
        if self.failures_of(address, now) > FREE_FAILURES {
            PLACES_OF_SUSPECT
        } else {
            PLACES_OF_ADDRESS
        }
    }

    /// Gives back the places of those who have left and whose time is over.
    fn expire(&mut self, now: Instant) {
        let is_over = |place: &Place| place.is_left && place.until.is_none_or(|until| until <= now);
        let over = self.places.iter().filter(|(_, place)| is_over(place));
        let over: Vec<ClientId> = over.map(|(&id, _)| id).collect();
        for id in over {
            self.give_back(id);
        }
    }

    fn give_back(&mut self, id: ClientId) {
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        if let Some(taken) = self.taken.get_mut(&place.address) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&place.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// A gate with `count` strangers of an address, from `first` on.
    fn fill(gate: &mut Gate, first: u64, count: usize, address: IpAddr, now: Instant) {
        for id in (first..).take(count) {
            assert_eq!(gate.ask(address, now), Verdict::Enter, "stranger {id}");
            gate.entered(ClientId(id), address, now);
        }
    }

    #[test]
    fn an_address_has_its_places_and_others_have_theirs() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        fill(&mut gate, 0, PLACES_OF_ADDRESS, address(1), now);
        assert_eq!(gate.ask(address(1), now), Verdict::Wait);
        fill(&mut gate, 1000, 1, address(2), now);
        // A logon makes room; the end of the same client doesn't.
        gate.left(ClientId(3), now);
        gate.left(ClientId(3), now);
        fill(&mut gate, 2000, 1, address(1), now);
        assert_eq!(gate.ask(address(1), now), Verdict::Wait);
        gate.left(ClientId(4), now);
        fill(&mut gate, 3000, 1, address(1), now);
    }

    #[test]
    fn who_has_had_time_enough_makes_room_the_oldest_first() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        for n in 0..4 {
            let first = 1000 * u64::from(n);
            fill(&mut gate, first, PLACES_OF_ADDRESS, address(n), start);
        }
        assert_eq!(gate.ask(address(200), start), Verdict::Wait);
        let later = start + PATIENCE;
        let verdict = gate.ask(address(200), later);
        assert_eq!(verdict, Verdict::Replace(ClientId(0)));
        // Who has used up their own places can't take others'.
        let verdict = gate.ask(address(2), later);
        assert_eq!(verdict, Verdict::Replace(ClientId(2000)));
    }

    #[test]
    fn failures_take_places_longer_and_longer() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        let guesser = address(1);
        let mut last = Duration::ZERO;
        for id in 0..20 {
            // Few are needed to find out how long that takes.
            let mut waited = Duration::ZERO;
            while gate.ask(guesser, now) != Verdict::Enter {
                waited += FIRST_PENALTY;
                now += FIRST_PENALTY;
                assert!(waited <= MAX_PENALTY, "attempt {id}");
            }
            gate.entered(ClientId(id), guesser, now);
            let penalty = gate.failed(ClientId(id), guesser, now);
            gate.left(ClientId(id), now);
            assert_eq!(penalty.is_some(), id >= u64::from(FREE_FAILURES), "{id}");
            if let Some((_, penalty)) = penalty {
                assert!(
                    penalty >= last.min(MAX_PENALTY / 4),
                    "{penalty:?} after {last:?}"
                );
                last = penalty;
            }
        }
        assert!(last > FIRST_PENALTY * 8, "{last:?}");
        // Others are not concerned, and in the end it is forgotten.
        assert_eq!(gate.ask(address(2), now), Verdict::Enter);
        let much_later = now + FORGETTING * 20;
        fill(&mut gate, 100, PLACES_OF_ADDRESS, guesser, much_later);
    }

    #[test]
    fn a_suspect_with_too_many_places_gets_no_other() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        fill(&mut gate, 0, 10, address(1), start);
        for id in 0..10 {
            gate.failed(ClientId(id), address(1), start);
        }
        let later = start + PATIENCE;
        assert_eq!(gate.ask(address(1), later), Verdict::Wait);
        for id in 0..8 {
            gate.left(ClientId(id), later + MAX_PENALTY);
        }
        assert_eq!(gate.ask(address(1), later), Verdict::Wait);
        gate.left(ClientId(8), later + MAX_PENALTY);
        assert_eq!(gate.ask(address(1), later), Verdict::Enter);
    }

    #[test]
    fn who_has_logged_on_before_guesses_no_faster() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let guesser = address(1);
        let known = FREE_FAILURES as usize + PLACES_OF_SUSPECT;
        fill(&mut gate, 0, known, guesser, now);
        for id in 0..known as u64 {
            gate.left(ClientId(id), now);
        }
        for id in 0..known as u64 {
            gate.failed(ClientId(id), guesser, now);
        }
        assert_eq!(gate.ask(guesser, now), Verdict::Wait);
        // They are not sent away for others' sake, as they are no strangers.
        let later = now + MAX_PENALTY - FIRST_PENALTY;
        assert_eq!(gate.dispensable(None, later), None);
        assert_eq!(gate.ask(guesser, now + MAX_PENALTY), Verdict::Enter);
    }

    #[test]
    fn many_who_guess_leave_others_their_places() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for id in 0..2 * PLACES as u64 {
            gate.failed(ClientId(id), address(1), now);
        }
        fill(&mut gate, 1000, PLACES_OF_ADDRESS, address(2), now);
    }

    #[test]
    fn a_stranger_who_stays_after_a_failure_makes_room_in_the_end() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        fill(&mut gate, 0, 1, address(1), now);
        for _ in 0..2 * FREE_FAILURES {
            gate.failed(ClientId(0), address(1), now);
        }
        assert_eq!(gate.dispensable(None, now + PATIENCE), None);
        let later = now + MAX_PENALTY;
        assert_eq!(gate.dispensable(None, later), Some(ClientId(0)));
    }

    #[test]
    fn good_logons_of_a_suspect_are_not_slowed() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for id in 0..10 {
            gate.failed(ClientId(id), address(1), now);
        }
        let now = now + MAX_PENALTY;
        for id in 100..200 {
            assert_eq!(gate.ask(address(1), now), Verdict::Enter);
            gate.entered(ClientId(id), address(1), now);
            gate.left(ClientId(id), now);
        }
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let worst = address(1);
        for id in 0..10 {
            gate.failed(ClientId(id), worst, now);
        }
        for n in 0..2 * MAX_SUSPECTS as u32 {
            gate.failed(ClientId(100), IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(gate.failures.len(), MAX_SUSPECTS);
        assert!(gate.failures_of(worst, now) >= 10);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1:2:3"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
