//! The workloads: what each is, and how much of it is done to measure it.

/// What is to be done. One operation is what is said here, and is counted when it has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// An event at each end of a socket pair. Each reads a byte and writes one to the other. Both are
    /// one operation.
    PingPong,
    /// Of `registered` events, `ready` are. Each reads a byte and makes itself ready again.
    Ready { ready: usize, registered: usize },
    /// A timer that exists is armed at a random time, and disarmed, while others are armed.
    Rearm { outstanding: usize },
    /// A timer is made with a new closure and a random deadline, and dropped.
    Churn { outstanding: usize },
    /// One of the timers, at random, is moved to a later deadline than any had before.
    Postpone { outstanding: usize },
    /// So many timers are made, with random deadlines; when all are due they are called. An
    /// operation is a timer.
    Fire { timers: usize },
    /// A handler asks to be called again as soon as possible, before the loop waits.
    Immediate,
    /// A signal is raised in the loop's thread, and its handler called by the loop.
    Signal,
    /// Another thread posts closures, which the loop calls.
    Remote,
    /// An event reads a byte, asks for writability, thinks better of it, and makes itself ready
    /// again.
    Toggle,
    /// An event reads a byte and asks for writability; when told, it asks for it no more and makes
    /// itself ready again. Two calls and two changes are an operation.
    LastingToggle,
    /// So many connections send requests, and an echo server answers them. Its CPU time is what
    /// is measured.
    Echo { connections: usize },
    /// So many things are made, armed, and there; their memory is measured.
    Hold(Thing, usize),
}

/// What memory is measured of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thing {
    Context,
    Fd,
    Timer,
    Immediate,
    Signal,
}

/// A workload by name, with what is measured of it.
pub struct Workload {
    pub name: &'static str,
    pub title: &'static str,
    /// What an operation is.
    pub unit: &'static str,
    pub work: Work,
    /// How many operations a round does by the clock; 0 if the clock is of no interest.
    pub timed: u64,
    /// Two numbers of operations, the difference of which is counted; 0 for not at all.
    pub counted: [u64; 2],
    pub instructions: bool,
    pub system_calls: bool,
}

/// What a workload needs of descriptors.
impl Work {
    pub fn descriptors(self) -> u64 {
        let pairs = match self {
            Work::Ready { registered, .. } => registered,
            Work::Echo { connections } => connections,
            // Each has a few descriptors of its own.
            Work::Hold(Thing::Context, count) => 8 * count,
            Work::Hold(_, count) => count,
            _ => 1,
        };
        2 * pairs as u64 + 64
    }
}

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "ping-pong",
        title: "Ping-pong over a socket pair",
        unit: "two events, each with its read and write",
        work: Work::PingPong,
        timed: 100_000,
        counted: [1_000, 3_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "100-of-1000",
        title: "100 ready descriptors among 1,000",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 100,
            registered: 1_000,
        },
        timed: 200_000,
        counted: [2_000, 12_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "1-of-1",
        title: "One ready descriptor, the only one",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 1,
            registered: 1,
        },
        timed: 200_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "1-of-10",
        title: "One ready descriptor among 10",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 1,
            registered: 10,
        },
        timed: 200_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "1-of-100",
        title: "One ready descriptor among 100",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 1,
            registered: 100,
        },
        timed: 200_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "1-of-1000",
        title: "One ready descriptor among 1,000",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 1,
            registered: 1_000,
        },
        timed: 200_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "1-of-9000",
        title: "One ready descriptor among 9,000",
        unit: "an event with its read and write",
        work: Work::Ready {
            ready: 1,
            registered: 9_000,
        },
        timed: 200_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "toggle",
        title: "Interest turned on and off in a handler",
        unit: "an event with its read and write",
        work: Work::Toggle,
        timed: 200_000,
        counted: [1_000, 3_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "lasting-toggle",
        title: "Interest turned on for good, and off later",
        unit: "two events and two changes",
        work: Work::LastingToggle,
        timed: 100_000,
        counted: [1_000, 3_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "timer-rearm",
        title: "Timer armed and disarmed by its handle, 1,000 outstanding",
        unit: "arming and disarming",
        work: Work::Rearm { outstanding: 1_000 },
        timed: 3_000_000,
        counted: [10_000, 30_000],
        instructions: true,
        system_calls: false,
    },
    Workload {
        name: "timer-churn-0",
        title: "Timer added with a new closure and dropped, no other",
        unit: "adding and dropping",
        work: Work::Churn { outstanding: 0 },
        timed: 1_000_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "timer-churn",
        title: "Timer added with a new closure and dropped, 1,000 outstanding",
        unit: "adding and dropping",
        work: Work::Churn { outstanding: 1_000 },
        timed: 1_000_000,
        counted: [10_000, 30_000],
        instructions: true,
        system_calls: false,
    },
    Workload {
        name: "timer-churn-10k",
        title: "Timer added with a new closure and dropped, 10,000 outstanding",
        unit: "adding and dropping",
        work: Work::Churn {
            outstanding: 10_000,
        },
        timed: 1_000_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "timer-churn-100k",
        title: "Timer added with a new closure and dropped, 100,000 outstanding",
        unit: "adding and dropping",
        work: Work::Churn {
            outstanding: 100_000,
        },
        timed: 1_000_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "timer-churn-1m",
        title: "Timer added with a new closure and dropped, 1,000,000 outstanding",
        unit: "adding and dropping",
        work: Work::Churn {
            outstanding: 1_000_000,
        },
        timed: 1_000_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "timer-postpone",
        title: "A random timer of 1,000 postponed",
        unit: "a postponement",
        work: Work::Postpone { outstanding: 1_000 },
        timed: 3_000_000,
        counted: [10_000, 30_000],
        instructions: true,
        system_calls: false,
    },
    Workload {
        name: "timer-fire",
        title: "100,000 timers added, and fired",
        unit: "a timer",
        work: Work::Fire { timers: 100_000 },
        timed: 100_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "immediate",
        title: "Immediate that schedules itself again",
        unit: "a call",
        work: Work::Immediate,
        timed: 2_000_000,
        counted: [10_000, 30_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "signal",
        title: "Signal raised in the loop's thread",
        unit: "raising, and the handler's call",
        work: Work::Signal,
        timed: 100_000,
        counted: [1_000, 3_000],
        instructions: true,
        system_calls: true,
    },
    Workload {
        name: "remote",
        title: "Closures posted from another thread",
        unit: "a closure",
        work: Work::Remote,
        timed: 1_000_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "echo-1",
        title: "Echo server with one connection",
        unit: "a request (the server's CPU time)",
        work: Work::Echo { connections: 1 },
        timed: 100_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "echo-100",
        title: "Echo server with 100 connections",
        unit: "a request (the server's CPU time)",
        work: Work::Echo { connections: 100 },
        timed: 100_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
    Workload {
        name: "echo-5000",
        title: "Echo server with 5,000 connections",
        unit: "a request (the server's CPU time)",
        work: Work::Echo { connections: 5_000 },
        timed: 100_000,
        counted: [0, 0],
        instructions: false,
        system_calls: false,
    },
];

impl Workload {
    /// Enough operations to see whether everything works.
    pub fn quick(&self) -> u64 {
        match self.work {
            Work::Fire { timers } => timers as u64,
            Work::Echo { .. } => self.timed / 10,
            _ => self.timed / 1000,
        }
    }

    /// Enough to see about how long they take.
    pub fn least(&self) -> u64 {
        match self.work {
            Work::Fire { timers } => timers as u64,
            Work::Echo { .. } => self.timed,
            _ => self.timed / 10_000,
        }
    }
}

/// What the memory of is measured, and of how many. The numbers are powers of two, so that no table
/// has room for many more than there are.
pub const WEIGHED: &[(&str, Thing, usize)] = &[
    ("context, idle", Thing::Context, 64),
    ("descriptor event", Thing::Fd, 4096),
    ("timer", Thing::Timer, 4096),
    ("immediate", Thing::Immediate, 4096),
    ("signal handler", Thing::Signal, 1024),
];

pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}
