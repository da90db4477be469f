//! How often what programs are made of really happened.
//!
//! An action that is generated does nothing if there is nothing that it could be about, or if it is
//! one of those that the comparison leaves out. So what happens is counted, in memory that all
//! processes share: by `World`, once it is known to happen. [`TESTS`] demands that nothing is left
//! out altogether; `TEVENT_DIFFERENTIAL_STATISTICS=1` prints the table.

use super::compare::{self, Side};
use crate::process::{Test, tests};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tevent::BackendKind;

macro_rules! happenings {
    ($($name:ident: $text:literal,)*) => {
        /// What may happen in a program.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum Happening {
            $($name,)*
        }

        const ALL: &[(Happening, &str)] = &[$((Happening::$name, $text),)*];
    };
}

happenings! {
    Program: "a program is carried out",
    Agreed: "both libraries did the same in a generated program",
    Pipe: "a pipe is made",
    SocketPair: "a socket pair is made",
    File: "a file is opened",
    Null: "/dev/null is opened",
    Counter: "an eventfd is made",
    ReusedNumber: "a descriptor gets the number of a former one",
    Read: "something is read",
    Write: "something is written",
    Fill: "a descriptor is filled",
    Drain: "a descriptor is drained",
    HalfClose: "a socket is shut down",
    Close: "a descriptor is closed",
    CloseBehind: "a descriptor is closed behind its event",
    AddFd: "a descriptor event is added",
    AddSibling: "one is added to a descriptor that has one",
    AddOverlapping: "one is added that wants what another on the descriptor wants",
    AddFdInHandler: "one is added in a handler",
    Refused: "one is refused",
    SetFlags: "flags are set",
    SetOwnFlags: "flags are set in the event's own handler",
    Toggle: "a flag is toggled",
    FreeFd: "a descriptor event is freed",
    FreeOtherFd: "one is freed in the handler of another",
    FreeOwnFd: "one is freed in its own handler",
    FreeReadyFd: "one is freed that is ready",
    TakeSource: "a source is taken back",
    DetachFd: "a descriptor event is detached",
    DetachOwnFd: "one is detached in its own handler",
    FdHandler: "a descriptor handler is called",
    Hangup: "one is called for a dead descriptor",
    ErrorFlag: "one is told ERROR",
    SiblingHandler: "one is called that has siblings",
    DetachedFdHandler: "one of a detached event is called",
    FileHandler: "one of a file is called",
    CounterHandler: "one of an eventfd is called",
    Disarmed: "the library takes an event's flags",
    AddTimer: "a timer is added",
    MoveTimer: "a timer is moved",
    MoveOwnTimer: "a timer is moved in its own handler",
    FreeTimer: "a timer is freed",
    DetachTimer: "a timer is detached",
    TimerHandler: "a timer handler is called",
    TimerTie: "a timer goes before one with the same deadline",
    AddImmediate: "an immediate is made",
    Schedule: "an immediate is scheduled",
    Reschedule: "an immediate is scheduled again before its turn",
    ScheduleOwn: "an immediate is scheduled in its own handler",
    ScheduleInSignal: "an immediate is scheduled in a signal handler",
    Reset: "a scheduled immediate is reset",
    FreeImmediate: "an immediate is freed",
    FreeScheduled: "a scheduled immediate is freed",
    DetachImmediate: "an immediate is detached",
    ImmediateHandler: "an immediate's handler is called",
    AddSignal: "a signal event is added",
    AddSecondSignal: "a second one is added for its number",
    FreeSignal: "a signal event is freed",
    FreeSignalInSignal: "one is freed in the handler of another of its number",
    DetachSignal: "a signal event is detached",
    Raise: "a signal is raised",
    RaiseInHandler: "a signal is raised in a handler",
    RaiseInSignal: "a signal is raised in a signal handler",
    Queue: "a signal is queued with a value",
    Flood: "more signals are raised than a queue holds",
    SignalHandler: "a signal handler is called",
    SigInfoHandler: "one with siginfo is called",
    OnceHandler: "one that is called once is called",
    FreeSelf: "a handler frees its event",
    Turn: "a turn is made",
    Until: "a loop runs until told otherwise",
    NestedInFd: "a loop runs in a descriptor handler",
    NestedInTimer: "a loop runs in a timer handler",
    NestedInImmediate: "a loop runs in an immediate's handler",
    NestedInSignal: "a loop runs in a signal handler",
    NestedTwice: "a loop runs in a loop in a loop",
    RanNested: "a handler is called in a nested loop",
    Stop: "a loop is stopped",
    Hook: "the nesting hook is set",
    HookCalled: "the nesting hook is called",
    Reinitialise: "it starts over",
    ReinitialiseInHandler: "it starts over in a handler",
    ReinitialiseInChild: "a child starts over",
    Fork: "it forks",
    ForkInHandler: "it forks in a handler",
    ServedInChild: "a descriptor handler is called in a child",
    KernelOrder: "the kernel's order is compared",
    RunAtEnd: "what is left is run at the end",
    ContextFirst: "the context goes before its events",
}

/// For each backend and side, as long as nobody looks at it at the same time.
const COLUMNS: usize = 3 * 3;

struct Shared(*const AtomicU64);

// SAFETY: it points to atomics that live as long as the process.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

fn counters() -> &'static [AtomicU64] {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let count = COLUMNS * ALL.len();
    let shared = SHARED.get_or_init(|| {
        // SAFETY: a new mapping, which nobody else knows of.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                count * size_of::<AtomicU64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Shared(memory.cast())
    });
    // SAFETY: the mapping is as long, zeroed, and never undone.
    unsafe { std::slice::from_raw_parts(shared.0, count) }
}

/// To be called before there are processes that count.
pub fn share() {
    counters();
}

fn column(kind: BackendKind, side: Side) -> usize {
    let kinds = BackendKind::available();
    let kind = kinds.iter().position(|&other| other == kind);
    kind.expect("an available one") * 3 + side as usize
}

/// What counts for one side under one backend.
#[derive(Clone, Copy)]
pub struct Counter(usize);

impl Counter {
    pub fn new(kind: BackendKind, side: Side) -> Counter {
        Counter(column(kind, side))
    }

    pub fn count(self, happening: Happening) {
        let index = self.0 * ALL.len() + happening as usize;
        counters()[index].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(self, happening: Happening) -> u64 {
        let index = self.0 * ALL.len() + happening as usize;
        counters()[index].load(Ordering::Relaxed)
    }
}

/// The table, if the environment asks for it.
pub fn print() {
    if std::env::var_os("TEVENT_DIFFERENTIAL_STATISTICS").is_none() {
        return;
    }
    print!("{:<60}", "how often what happened");
    for kind in BackendKind::available() {
        for side in [Side::OursByOne, Side::Ours] {
            print!("{:>19}", format!("{kind} {}", side.name()));
        }
    }
    println!();
    for (happening, text) in ALL {
        print!("{text:<60}");
        for &kind in BackendKind::available() {
            for side in [Side::OursByOne, Side::Ours] {
                print!("{:>19}", Counter::new(kind, side).of(*happening));
            }
        }
        println!();
    }
}

pub const TESTS: &[Test] = tests![whatever_is_generated_happens];

/// In so few programs everything has to happen that can.
const PROGRAMS: u32 = 1000;

/// What the comparison leaves out; what is known to differ says why.
fn is_left_out(happening: Happening, kind: BackendKind, side: Side) -> bool {
    use Happening::*;
    let is_compared = side != Side::Ours;
    match happening {
        File | Null => is_compared && kind != BackendKind::Poll,
        FileHandler => kind == BackendKind::Epoll || is_compared && kind != BackendKind::Poll,
        Refused => is_compared || kind != BackendKind::Epoll,
        AddOverlapping => is_compared && kind != BackendKind::Poll,
        ErrorFlag | MoveOwnTimer | NestedInSignal => is_compared,
        Agreed => true,
        KernelOrder => !is_compared || kind != BackendKind::Epoll,
        _ => false,
    }
}

fn whatever_is_generated_happens(kind: BackendKind) {
    let sides = [Side::OursByOne, Side::Ours];
    let before: Vec<u64> = count(kind, sides);
    compare::carry_out_generated(kind, sides, PROGRAMS);
    let after = count(kind, sides);
    let happened = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after > before);
    let expected = sides.into_iter().flat_map(|side| {
        let all = ALL.iter();
        all.map(move |&(happening, text)| (side, text, !is_left_out(happening, kind, side)))
    });
    let wrong: Vec<String> = happened
        .zip(expected)
        .filter(|(happened, (_, _, expected))| happened != expected)
        .map(|(happened, (side, text, _))| format!("{}: {text}: {happened}", side.name()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn count(kind: BackendKind, sides: [Side; 2]) -> Vec<u64> {
    let of_side = |side| {
        let counter = Counter::new(kind, side);
        ALL.iter().map(move |&(happening, _)| counter.of(happening))
    };
    sides.into_iter().flat_map(of_side).collect()
}
