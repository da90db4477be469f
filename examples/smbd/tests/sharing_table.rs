//! The parent's table under random processes: nobody gets what excludes another, everybody gets an
//! answer, and nothing is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use proptest::prelude::*;
use smbd::sharing::{
    Action, Ask, BREAK_TIMEOUT, ClientId, FileKey, Notice, Oplock, Range, Table, conflicts,
};

const ACCESS: [u32; 5] = [0x1, 0x2, 0x1_0000, 0x3, 0x80];
const OPLOCKS: [Oplock; 4] = [
    Oplock::None,
    Oplock::LevelII,
    Oplock::Exclusive,
    Oplock::Batch,
];

#[derive(Debug, Clone)]
enum Step {
    Open {
        file: u64,
        access: usize,
        share: u32,
        oplock: usize,
        overwrites: bool,
        delete_on_close: bool,
    },
    Close(usize, bool),
    SetDelete(usize, bool),
    Lock(usize, Vec<Range>, bool),
    Unlock(usize),
    Check(usize, bool),
    Announce(usize),
    Cancel(usize),
    Acknowledge,
    Die,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let range = (0..4u64, 0..3u64, any::<bool>()).prop_map(|(offset, length, exclusive)| Range {
        offset,
        length,
        exclusive,
    });
    let step = prop_oneof![
        6 => (0..2u64, 0..ACCESS.len(), 0..8u32, 0..4usize, any::<bool>(), any::<bool>()).prop_map(
            |(file, access, share, oplock, overwrites, doc)| Step::Open {
                file,
                access,
                share: share | 1,
                oplock,
                overwrites,
                delete_on_close: doc && ACCESS[access] == 0x1_0000,
            }
        ),
        3 => (0..8usize, any::<bool>()).prop_map(|(open, asks)| Step::Close(open, asks)),
        1 => (0..8usize, any::<bool>()).prop_map(|(open, delete)| Step::SetDelete(open, delete)),
        4 => (0..8usize, prop::collection::vec(range, 1..3), any::<bool>())
            .prop_map(|(open, ranges, waits)| Step::Lock(open, ranges, waits)),
        2 => (0..8usize).prop_map(Step::Unlock),
        1 => (0..8usize, any::<bool>()).prop_map(|(open, writes)| Step::Check(open, writes)),
        1 => (0..8usize).prop_map(Step::Announce),
        1 => (0..8usize).prop_map(Step::Cancel),
        6 => Just(Step::Acknowledge),
        1 => Just(Step::Die),
    ];
    prop::collection::vec((0..3usize, step), 1..80)
}

/// A process that obeys the rules.
#[derive(Default)]
struct Process {
    last: u64,
    opens: BTreeMap<u64, (FileKey, Oplock)>,
    locks: Vec<(u64, Range)>,
    /// What has been asked and not been answered.
    asked: BTreeMap<u64, Ask>,
    /// Acknowledgments that are due.
    due: VecDeque<Ask>,
}

struct World {
    table: Table,
    now: Instant,
    processes: BTreeMap<ClientId, Process>,
}

impl World {
    fn ask(&mut self, id: ClientId, ask: Ask) {
        self.table
            .handle(id, ask, self.now)
            .expect("the rules were obeyed");
        self.listen();
    }

    /// Asks under a new ticket.
    fn ask_for_answer(&mut self, id: ClientId, ask: impl FnOnce(u64) -> Ask) {
        let process = self.processes.get_mut(&id).unwrap();
        process.last += 1;
        let ask = ask(process.last);
        process.asked.insert(process.last, ask.clone());
        self.ask(id, ask);
    }

    fn listen(&mut self) {
        while let Some((id, action)) = self.table.next_action() {
            let Action::Tell(notice) = action else {
                panic!("nobody hangs");
            };
            let process = self.processes.get_mut(&id).expect("a client that is gone");
            let mut answered = |ticket| {
                let ask = process.asked.remove(&ticket);
                ask.expect("an answer to nothing, or a second one")
            };
            match notice {
                Notice::Waits { ticket } => assert!(process.asked.contains_key(&ticket)),
                Notice::Opened { ticket, oplock, .. } => {
                    let Ask::Open { open, file, .. } = answered(ticket) else {
                        panic!("not what was asked");
                    };
                    process.opens.insert(open, (file, oplock));
                }
                Notice::Done { ticket } => {
                    if let Ask::Lock { open, ranges, .. } = answered(ticket)
                        && process.opens.contains_key(&open)
                    {
                        let ranges = ranges.iter().map(|&range| (open, range));
                        process.locks.extend(ranges);
                    }
                }
                Notice::Refused { ticket, .. } => drop(answered(ticket)),
                Notice::Closed { ticket, remove } => {
                    let Ask::Close { open, .. } = answered(ticket) else {
                        panic!("not what was asked");
                    };
                    if remove {
                        process.due.push_back(Ask::Removed { open });
                    }
                }
                Notice::Break { open, to } => {
                    if let Some((_, oplock)) = process.opens.get_mut(&open) {
                        if *oplock > Oplock::LevelII {
                            process.due.push_back(Ask::BreakDone { open, oplock: to });
                        }
                        *oplock = to;
                    }
                }
                Notice::BreakExpired { .. } | Notice::Session(_) => {
                    panic!("nothing of that happens")
                }
                Notice::Restrict { file, number, .. } => {
                    process.due.push_back(Ask::RestrictDone { file, number });
                }
            }
        }
        self.check();
    }

    /// Nobody has what excludes another.
    fn check(&self) {
        let all: Vec<_> = self
            .processes
            .iter()
            .flat_map(|(&id, process)| {
                let opens = self.table.summary(id).opens;
                assert!(opens.len() >= process.opens.len());
                opens
            })
            .collect();
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                if one.name == other.name {
                    let (a, b) = ((one.access, one.share), (other.access, other.share));
                    assert!(!conflicts(a, b), "{one:?} beside {other:?}");
                    let alone = [one, other]
                        .into_iter()
                        .filter(|o| o.oplock >= Oplock::Exclusive);
                    let cached = [one, other]
                        .into_iter()
                        .filter(|o| o.oplock == Oplock::LevelII);
                    assert!(
                        alone.clone().count() + cached.count().min(1) <= 1 || alone.count() == 0,
                        "{one:?} beside {other:?}"
                    );
                }
            }
        }
        let locks: Vec<_> = self
            .processes
            .iter()
            .flat_map(|(&id, process)| {
                process.locks.iter().filter_map(move |&(open, range)| {
                    let (file, _) = process.opens.get(&open)?;
                    Some((id, open, *file, range))
                })
            })
            .collect();
        for (index, one) in locks.iter().enumerate() {
            for other in &locks[index + 1..] {
                let same_open = (one.0, one.1) == (other.0, other.1);
                let (a, b) = (one.3, other.3);
                let overlap = one.2 == other.2
                    && a.offset < b.offset + b.length
                    && b.offset < a.offset + a.length;
                assert!(
                    same_open || !overlap || !(a.exclusive || b.exclusive),
                    "{one:?} beside {other:?}"
                );
            }
        }
    }

    fn nth_open(&self, id: ClientId, nth: usize) -> Option<u64> {
        let opens = &self.processes[&id].opens;
        let nth = nth.checked_rem(opens.len())?;
        opens.keys().nth(nth).copied()
    }

    fn step(&mut self, id: ClientId, step: Step) {
        match step {
            Step::Open {
                file,
                access,
                share,
                oplock,
                overwrites,
                delete_on_close,
            } => self.ask_for_answer(id, |ticket| Ask::Open {
                ticket,
                open: ticket + 1_000_000,
                file: FileKey {
                    device: 1,
                    inode: file,
                },
                access: ACCESS[access] | if overwrites { 2 } else { 0 },
                share,
                oplock: OPLOCKS[oplock],
                overwrites,
                replaces: false,
                delete_on_close,
                name: file.to_string(),
            }),
            Step::Close(nth, asks) => {
                let Some(open) = self.nth_open(id, nth) else {
                    return;
                };
                let process = self.processes.get_mut(&id).unwrap();
                process.opens.remove(&open);
                process.locks.retain(|&(other, _)| other != open);
                if asks {
                    self.ask_for_answer(id, |ticket| Ask::Close { ticket, open });
                } else {
                    self.ask(id, Ask::Close { ticket: 0, open });
                }
            }
            Step::SetDelete(nth, delete) => {
                if let Some(open) = self.nth_open(id, nth) {
                    self.ask_for_answer(id, |ticket| Ask::SetDelete {
                        ticket,
                        open,
                        delete,
                    });
                }
            }
            Step::Lock(nth, ranges, waits) => {
                if let Some(open) = self.nth_open(id, nth) {
                    let waits = waits && ranges.len() == 1;
                    self.ask_for_answer(id, |ticket| Ask::Lock {
                        ticket,
                        open,
                        waits,
                        ranges,
                    });
                }
            }
            Step::Unlock(nth) => {
                let process = self.processes.get_mut(&id).unwrap();
                let Some(nth) = nth.checked_rem(process.locks.len()) else {
                    return;
                };
                let (open, Range { offset, length, .. }) = process.locks[nth];
                // The exclusive one goes first.
                let is_it = |&(other, range): &(u64, Range), exclusive| {
                    (other, range.offset, range.length) == (open, offset, length)
                        && range.exclusive == exclusive
                };
                let position = |exclusive| process.locks.iter().position(|l| is_it(l, exclusive));
                let index = position(true).or_else(|| position(false)).unwrap();
                process.locks.remove(index);
                self.ask(
                    id,
                    Ask::Unlock {
                        open,
                        ranges: vec![(offset, length)],
                    },
                );
            }
            Step::Check(nth, writes) => {
                if let Some(open) = self.nth_open(id, nth) {
                    self.ask_for_answer(id, |ticket| Ask::Check {
                        ticket,
                        open,
                        offset: 1,
                        length: 1,
                        writes,
                    });
                }
            }
            Step::Announce(nth) => {
                if let Some(open) = self.nth_open(id, nth) {
                    self.ask(id, Ask::Announce { open });
                }
            }
            Step::Cancel(nth) => {
                let asked = &self.processes[&id].asked;
                if let Some(nth) = nth.checked_rem(asked.len()) {
                    let ticket = *asked.keys().nth(nth).unwrap();
                    self.ask(id, Ask::Cancel { ticket });
                }
            }
            Step::Acknowledge => {
                let due = self.processes.get_mut(&id).unwrap().due.pop_front();
                if let Some(ask) = due {
                    self.ask(id, ask);
                }
            }
            Step::Die => {
                self.table.remove_client(id, self.now);
                self.processes.remove(&id);
                self.listen();
            }
        }
    }

    /// Acknowledges and closes everything, until nothing is to be done.
    fn settle(&mut self) {
        loop {
            let ids: Vec<ClientId> = self.processes.keys().copied().collect();
            let mut is_done = true;
            for id in ids {
                if let Some(ask) = self.processes.get_mut(&id).unwrap().due.pop_front() {
                    is_done = false;
                    self.ask(id, ask);
                } else if self.nth_open(id, 0).is_some() {
                    is_done = false;
                    self.step(id, Step::Close(0, true));
                }
            }
            if is_done {
                return;
            }
        }
    }
}

/// The file that is asked for is the process's own word.
#[test]
fn a_name_is_removed_by_a_process_of_the_user_who_wants_that() {
    const EVE: u32 = 1001;
    for (alice, closes, removed) in [
        (EVE, true, true),
        (1000, true, false),
        (EVE, false, true),
        (1000, false, false),
    ] {
        let now = Instant::now();
        let mut table = Table::new(BREAK_TIMEOUT, now);
        let clients = [table.add_client(), table.add_client()];
        table.set_user(clients[0], alice);
        table.set_user(clients[1], EVE);
        // Answers what the table asks, and tells whether a name is to be removed.
        let mut handle = |client: ClientId, ask: Ask| {
            table.handle(client, ask, now).unwrap();
            let mut removes = false;
            while let Some((client, action)) = table.next_action() {
                match action {
                    Action::Tell(Notice::Restrict { file, number, .. }) => {
                        let done = Ask::RestrictDone { file, number };
                        table.handle(client, done, now).unwrap();
                    }
                    Action::Tell(Notice::Closed { remove, .. }) => removes |= remove,
                    Action::Tell(_) => {}
                    Action::Evict => panic!("{client:?} hangs"),
                }
            }
            removes
        };
        for (client, access) in clients.into_iter().zip([0x3, 0x80]) {
            let open = Ask::Open {
                ticket: 1,
                open: 1,
                file: FileKey {
                    device: 1,
                    inode: 77,
                },
                access,
                share: 7,
                oplock: Oplock::None,
                overwrites: false,
                replaces: false,
                delete_on_close: closes && client == clients[1],
                name: String::from("x"),
            };
            assert!(!handle(client, open));
        }
        if !closes {
            let set = Ask::SetDelete {
                ticket: 2,
                open: 1,
                delete: true,
            };
            assert!(!handle(clients[1], set));
        }
        let close = |ticket| Ask::Close { ticket, open: 1 };
        assert!(!handle(clients[1], close(3)), "another has it open");
        assert_eq!(handle(clients[0], close(4)), removed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn processes_that_obey_get_on_with_each_other(steps in steps()) {
        let now = Instant::now();
        let mut table = Table::new(BREAK_TIMEOUT, now);
        let ids: Vec<ClientId> = (0..3).map(|_| table.add_client()).collect();
        let processes = ids.iter().map(|&id| (id, Process::default())).collect();
        let mut world = World { table, now, processes };
        for (who, step) in steps {
            let id = ids[who];
            if world.processes.contains_key(&id) {
                world.step(id, step);
            }
        }
        world.settle();
        let unanswered: BTreeSet<_> = world.processes.values().flat_map(|p| p.asked.keys()).collect();
        prop_assert!(unanswered.is_empty(), "{unanswered:?}");
        prop_assert!(world.table.is_empty());
    }

    /// Whatever a process sends, it gets at most itself into trouble, and nothing stays of it.
    #[test]
    fn nothing_is_left_of_processes_that_lie(asks in prop::collection::vec((0..2usize, lies()), 1..80)) {
        let now = Instant::now();
        let mut table = Table::new(BREAK_TIMEOUT, now);
        let ids = [table.add_client(), table.add_client()];
        for (who, ask) in asks {
            let _ = table.handle(ids[who], ask, now);
            while table.next_action().is_some() {}
        }
        table.expire(now + BREAK_TIMEOUT);
        ids.iter().for_each(|&id| table.remove_client(id, now));
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.deadline(), None);
    }
}

/// Messages with numbers that mean something now and then.
fn lies() -> impl Strategy<Value = Ask> {
    let numbers = (
        0..4u64,
        0..4u64,
        0..3u64,
        any::<u64>(),
        any::<bool>(),
        0..4usize,
    );
    (0..13u8, numbers).prop_map(|(tag, (ticket, open, inode, number, flag, level))| {
        let file = FileKey { device: 1, inode };
        let oplock = OPLOCKS[level];
        let (offset, length) = (inode, ticket);
        match tag {
            0 => Ask::Close { ticket, open },
            1 => Ask::Removed { open },
            2 => Ask::SetDelete {
                ticket,
                open,
                delete: flag,
            },
            3 => Ask::Lock {
                ticket,
                open,
                waits: flag,
                ranges: vec![Range {
                    offset,
                    length,
                    exclusive: level > 1,
                }],
            },
            4 => Ask::Unlock {
                open,
                ranges: vec![(offset, length); level],
            },
            5 => Ask::Check {
                ticket,
                open,
                offset,
                length,
                writes: flag,
            },
            6 => Ask::Announce { open },
            7 => Ask::Cancel { ticket },
            8 => Ask::BreakDone { open, oplock },
            9 => Ask::RestrictDone {
                file,
                number: number % 8,
            },
            10 => Ask::Move { ticket, open },
            11 => Ask::Renamed {
                open,
                name: "a\\b".repeat(level),
            },
            _ => Ask::Open {
                ticket,
                open,
                file,
                access: number as u32,
                share: (number >> 32) as u32,
                oplock,
                overwrites: flag,
                replaces: level == 2,
                delete_on_close: level == 3,
                name: "a\\b".repeat(level),
            },
        }
    })
}
