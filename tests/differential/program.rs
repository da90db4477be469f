//! The programs: what they are made of, and how they are generated.
//!
//! A program is a list of actions, and a few scripts, which are lists of actions that handlers
//! carry out. Whatever an action is about (a descriptor, an event) is a number, taken modulo how
//! many there are; if there is none, the action does nothing. So every program makes sense, shrunk
//! ones included. How often each action does something is counted: see `statistics.rs`.

use proptest::collection::vec;
use proptest::prelude::*;

/// In a handler of a descriptor event: that event, or its descriptor.
pub const OWN: u8 = u8::MAX;

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Whether the loop may be run in handlers.
    pub nesting: bool,
    /// Under epoll: whether descriptors come in the order of the kernel, where that is the same for
    /// both. Under poll: whether events on a descriptor may want the same.
    pub kernel_order: bool,
    /// Whether what is left at the end is made due, and run.
    pub runs_at_end: bool,
    /// Whether the context goes before its events at the end.
    pub context_first: bool,
    pub actions: Vec<Action>,
    pub scripts: Vec<Vec<Action>>,
}

/// What becomes of the descriptor when its event ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Close {
    Nothing,
    /// A callback is told.
    Callback,
    /// It is closed.
    Auto,
}

/// Deadlines are either long due when the loop runs, or never.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// The lowest there is.
    Zero,
    /// The more, the later; equal numbers are equal deadlines.
    Due(u8),
    Never(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Pipe,
    SocketPair,
    File,
    /// `/dev/null`.
    Null,
    /// An eventfd.
    Counter,
    Read(u8),
    Write(u8),
    Fill(u8),
    Drain(u8),
    HalfClose(u8),
    /// Only if no event is on it.
    Close(u8),
    /// Even if there are events on it.
    CloseBehind(u8),

    AddFd {
        descriptor: u8,
        flags: u8,
        close: Close,
        script: u8,
    },
    SetFlags {
        event: u8,
        flags: u8,
    },
    /// One flag, on or off.
    Toggle {
        event: u8,
        flag: u8,
        on: bool,
    },
    FreeFd(u8),
    /// Frees it; its close callback isn't called.
    TakeSource(u8),
    /// Leaves it to the context, so that only its own handler can do anything about it.
    DetachFd(u8),

    AddTimer {
        when: When,
        script: u8,
    },
    MoveTimer {
        timer: u8,
        when: When,
    },
    FreeTimer(u8),
    DetachTimer(u8),

    AddImmediate {
        script: u8,
    },
    Schedule(u8),
    Reset(u8),
    FreeImmediate(u8),
    DetachImmediate(u8),

    AddSignal {
        signal: u8,
        siginfo: bool,
        once: bool,
        script: u8,
    },
    FreeSignal(u8),
    DetachSignal(u8),
    Raise(u8),
    Queue {
        signal: u8,
        value: u8,
    },
    /// More of them than a queue of siginfo holds.
    Flood(u8),

    /// Frees the event whose handler this is. The rest of the script isn't carried out.
    FreeSelf,
    Turn,
    /// Runs until asked this often whether that is enough.
    Until(u8),
    /// Ends the innermost `Until`.
    Stop,
    /// Sets the nesting hook, or takes it away.
    Hook(bool),
    Reinitialise,
    /// The child does all that is left first, then the parent goes on.
    Fork,
}

fn number() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0..6_u8, 2 => Just(OWN)]
}

/// All of them; `ERROR` counts only where nothing is compared.
fn flags() -> impl Strategy<Value = u8> {
    0..8_u8
}

fn close() -> impl Strategy<Value = Close> {
    prop_oneof![
        2 => Just(Close::Nothing),
        2 => Just(Close::Callback),
        1 => Just(Close::Auto),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        1 => Just(When::Zero),
        4 => (0..4_u8).prop_map(When::Due),
        1 => (0..3_u8).prop_map(When::Never),
    ]
}

fn on_descriptors() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        2 => Just(Pipe),
        3 => Just(SocketPair),
        1 => Just(File),
        1 => Just(Null),
        1 => Just(Counter),
        3 => number().prop_map(Read),
        5 => number().prop_map(Write),
        1 => number().prop_map(Fill),
        4 => number().prop_map(Drain),
        2 => number().prop_map(HalfClose),
        2 => number().prop_map(Close),
        2 => number().prop_map(CloseBehind),
    ]
}

fn on_fd_events() -> impl Strategy<Value = Action> {
    let add = (number(), flags(), close(), 0..6_u8);
    let add = add.prop_map(|(descriptor, flags, close, script)| Action::AddFd {
        descriptor,
        flags,
        close,
        script,
    });
    let set = (number(), flags()).prop_map(|(event, flags)| Action::SetFlags { event, flags });
    let toggle = (number(), 0..3_u8, any::<bool>());
    let toggle = toggle.prop_map(|(event, flag, on)| Action::Toggle {
        event,
        flag: 1 << flag,
        on,
    });
    prop_oneof![
        8 => add,
        5 => set,
        3 => toggle,
        2 => number().prop_map(Action::FreeFd),
        1 => number().prop_map(Action::TakeSource),
        2 => number().prop_map(Action::DetachFd),
    ]
}

fn on_timers() -> impl Strategy<Value = Action> {
    let add = (when(), 0..6_u8).prop_map(|(when, script)| Action::AddTimer { when, script });
    let change = (number(), when()).prop_map(|(timer, when)| Action::MoveTimer { timer, when });
    prop_oneof![
        6 => add,
        4 => change,
        2 => number().prop_map(Action::FreeTimer),
        1 => number().prop_map(Action::DetachTimer),
    ]
}

fn on_immediates() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..6_u8).prop_map(|script| Action::AddImmediate { script }),
        8 => number().prop_map(Action::Schedule),
        2 => number().prop_map(Action::Reset),
        2 => number().prop_map(Action::FreeImmediate),
        1 => number().prop_map(Action::DetachImmediate),
    ]
}

fn on_signals(theme: Theme) -> impl Strategy<Value = Action> {
    let (numbers, frees) = match theme {
        Theme::Signals => (2_u8, 12),
        _ => (3, 6),
    };
    let add = (
        0..numbers,
        any::<bool>(),
        prop::bool::weighted(0.2),
        0..6_u8,
    );
    let add = add.prop_map(|(signal, siginfo, once, script)| Action::AddSignal {
        signal,
        siginfo,
        once,
        script,
    });
    let queue =
        (0..numbers, any::<u8>()).prop_map(|(signal, value)| Action::Queue { signal, value });
    prop_oneof![
        12 => add,
        frees => number().prop_map(Action::FreeSignal),
        1 => number().prop_map(Action::DetachSignal),
        12 => (0..numbers).prop_map(Action::Raise),
        8 => queue,
        1 => (0..numbers).prop_map(Action::Flood),
    ]
}

/// What a program is about for the most part.
#[derive(Clone, Copy, Debug)]
enum Theme {
    Everything,
    Signals,
    Loops,
}

fn theme() -> impl Strategy<Value = Theme> {
    prop_oneof![
        4 => Just(Theme::Everything),
        1 => Just(Theme::Signals),
        1 => Just(Theme::Loops),
    ]
}

fn action(theme: Theme) -> impl Strategy<Value = Action> {
    let (immediates, signals) = match theme {
        Theme::Signals => (12, 30),
        _ => (4, 4),
    };
    prop_oneof![
        10 => on_descriptors(),
        10 => on_fd_events(),
        4 => on_timers(),
        immediates => on_immediates(),
        signals => on_signals(theme),
    ]
}

fn in_program(theme: Theme) -> impl Strategy<Value = Action> {
    prop_oneof![
        60 => action(theme),
        28 => Just(Action::Turn),
        4 => (1..5_u8).prop_map(Action::Until),
        1 => any::<bool>().prop_map(Action::Hook),
        2 => Just(Action::Reinitialise),
        2 => Just(Action::Fork),
    ]
}

fn in_script(theme: Theme) -> impl Strategy<Value = Action> {
    let (turns, others) = match theme {
        Theme::Loops => (24, 6),
        _ => (8, 2),
    };
    prop_oneof![
        60 => action(theme),
        4 => Just(Action::FreeSelf),
        turns => Just(Action::Turn),
        others => (1..4_u8).prop_map(Action::Until),
        others => Just(Action::Stop),
        1 => any::<bool>().prop_map(Action::Hook),
        2 => Just(Action::Reinitialise),
        2 => Just(Action::Fork),
    ]
}

pub fn program() -> impl Strategy<Value = Program> {
    theme().prop_flat_map(about)
}

fn about(theme: Theme) -> impl Strategy<Value = Program> {
    let nests = match theme {
        Theme::Loops => 0.9,
        _ => 0.4,
    };
    let scripts = vec(vec(in_script(theme), 0..5), 6);
    (
        prop::bool::weighted(nests),
        prop::bool::weighted(0.2),
        any::<bool>(),
        any::<bool>(),
        vec(in_program(theme), 1..60),
        scripts,
    )
        .prop_map(
            |(nesting, kernel_order, runs_at_end, context_first, actions, scripts)| Program {
                nesting,
                kernel_order,
                runs_at_end,
                context_first,
                actions,
                scripts,
            },
        )
}
