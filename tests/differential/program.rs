//! The programs: what they are made of, and how they are generated.
//!
//! A program is a list of actions, and a few scripts, which are lists of actions that handlers
//! carry out. Whatever an action is about (a descriptor, an event) is a number, taken modulo how
//! many there have been; if that one is gone, the action does nothing. So every program makes
//! sense, shrunk ones included.

use proptest::collection::vec;
use proptest::prelude::*;

/// In a handler of a descriptor event: that event, or its descriptor.
pub const OWN: u8 = u8::MAX;

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Whether the loop may be run in handlers.
    pub nesting: bool,
    /// Whether descriptors come in the order of the kernel, where that is the same for both.
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
    FreeFd(u8),

    AddTimer {
        when: When,
        script: u8,
    },
    MoveTimer {
        timer: u8,
        when: When,
    },
    FreeTimer(u8),

    AddImmediate {
        script: u8,
    },
    Schedule(u8),
    Reset(u8),
    FreeImmediate(u8),

    AddSignal {
        signal: u8,
        siginfo: bool,
        once: bool,
        script: u8,
    },
    FreeSignal(u8),
    Raise(u8),
    Queue {
        signal: u8,
        value: u8,
    },

    /// Frees the event whose handler this is. The rest of the script isn't carried out.
    FreeSelf,
    Turn,
    /// Runs until asked this often whether that is enough.
    Until(u8),
    Reinitialise,
    /// The child does all that is left first, then the parent goes on.
    Fork,
}

fn number() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0..6_u8, 2 => Just(OWN)]
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
        3 => number().prop_map(Read),
        5 => number().prop_map(Write),
        1 => number().prop_map(Fill),
        4 => number().prop_map(Drain),
        2 => number().prop_map(HalfClose),
        2 => number().prop_map(Close),
        1 => number().prop_map(CloseBehind),
    ]
}

fn on_fd_events() -> impl Strategy<Value = Action> {
    let add = (number(), 0..4_u8, close(), 0..6_u8);
    let add = add.prop_map(|(descriptor, flags, close, script)| Action::AddFd {
        descriptor,
        flags,
        close,
        script,
    });
    let set = (number(), 0..4_u8).prop_map(|(event, flags)| Action::SetFlags { event, flags });
    prop_oneof![
        4 => add,
        3 => set,
        1 => number().prop_map(Action::FreeFd),
    ]
}

fn on_timers() -> impl Strategy<Value = Action> {
    let add = (when(), 0..6_u8).prop_map(|(when, script)| Action::AddTimer { when, script });
    let change = (number(), when()).prop_map(|(timer, when)| Action::MoveTimer { timer, when });
    prop_oneof![
        3 => add,
        2 => change,
        1 => number().prop_map(Action::FreeTimer),
    ]
}

fn on_immediates() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (0..6_u8).prop_map(|script| Action::AddImmediate { script }),
        4 => number().prop_map(Action::Schedule),
        1 => number().prop_map(Action::Reset),
        1 => number().prop_map(Action::FreeImmediate),
    ]
}

fn on_signals() -> impl Strategy<Value = Action> {
    let add = (0..3_u8, any::<bool>(), prop::bool::weighted(0.2), 0..6_u8);
    let add = add.prop_map(|(signal, siginfo, once, script)| Action::AddSignal {
        signal,
        siginfo,
        once,
        script,
    });
    let queue = (0..3_u8, any::<u8>()).prop_map(|(signal, value)| Action::Queue { signal, value });
    prop_oneof![
        3 => add,
        1 => number().prop_map(Action::FreeSignal),
        3 => (0..3_u8).prop_map(Action::Raise),
        2 => queue,
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => on_descriptors(),
        10 => on_fd_events(),
        4 => on_timers(),
        4 => on_immediates(),
        3 => on_signals(),
    ]
}

fn in_program() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => action(),
        14 => Just(Action::Turn),
        2 => (1..5_u8).prop_map(Action::Until),
        1 => Just(Action::Reinitialise),
        1 => Just(Action::Fork),
    ]
}

fn in_script() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => action(),
        2 => Just(Action::FreeSelf),
        4 => Just(Action::Turn),
        1 => (1..4_u8).prop_map(Action::Until),
        1 => Just(Action::Reinitialise),
        1 => Just(Action::Fork),
    ]
}

pub fn program() -> impl Strategy<Value = Program> {
    let scripts = vec(vec(in_script(), 0..5), 6);
    (
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.2),
        any::<bool>(),
        any::<bool>(),
        vec(in_program(), 1..60),
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
