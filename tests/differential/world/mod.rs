//! Carries out a program on one of the libraries, and writes down what happens.
//!
//! A library is behind the trait [`Library`]. It knows events by *slots*: how many of the kind were
//! added before. Handlers of both libraries come back here (`handlers.rs`), so that what differs in
//! a trace is what the libraries did. What actions do is in `actions.rs` and, for each kind, in
//! `descriptors.rs`, `fd_events.rs`, `timers.rs`, `signals.rs` and `turns.rs`; what has to hold whatever the other
//! library does, in `checks.rs`; how a program ends, in `end.rs`.

mod actions;
mod checks;
mod descriptors;
mod end;
mod fd_events;
mod handlers;
mod objects;
mod signals;
mod state;
mod timers;
mod turns;

use super::library::{Library, Limits};
use super::program::Program;
use super::statistics::{Counter, Happening};
use state::State;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use tevent::BackendKind;

pub use checks::PROBLEM;

/// The number of the first descriptor of a program; the libraries' own are below.
pub const FIRST_NUMBER: RawFd = 100;
pub(super) const MAX_DESCRIPTORS: usize = 20;
pub(super) const MAX_EVENTS: usize = 40;
pub(super) const MAX_LEVEL: u32 = 3;
pub(super) const MAX_CALLS: u32 = 150;
pub(super) const MAX_ACTIONS: u32 = 600;
pub(super) const MAX_FORKS: usize = 2;
/// One by one: fewer than fill a queue of siginfo, as what the library tells while it blocks a
/// signal depends on when exactly it does so.
pub(super) const MAX_RAISED: usize = 100;
/// More than fill a queue.
pub(super) const MAX_FLOODS: usize = 2;

pub struct World {
    program: Program,
    kind: BackendKind,
    limits: Limits,
    counter: Counter,
    library: RefCell<Option<Rc<dyn Library>>>,
    state: RefCell<State>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The one in which this process carries out a program.
pub fn world() -> Rc<World> {
    WORLD.with_borrow(|world| world.clone().expect("a program is being carried out"))
}

/// The same, if it is.
pub fn current() -> Option<Rc<World>> {
    WORLD.with_borrow(Option::clone)
}

/// Carries out a program in this process, and returns the trace.
pub fn carry_out(
    program: &Program,
    kind: BackendKind,
    limits: Limits,
    counter: Counter,
    open: impl FnOnce() -> Rc<dyn Library>,
) -> String {
    let world = Rc::new(World {
        program: program.clone(),
        kind,
        limits,
        counter,
        library: RefCell::new(None),
        state: RefCell::default(),
    });
    WORLD.set(Some(Rc::clone(&world)));
    *world.library.borrow_mut() = Some(open());
    world.count(Happening::Program);
    if limits.kernel_order {
        world.count(Happening::KernelOrder);
    }
    for &action in &program.actions {
        world.act(action);
    }
    world.settle();
    world.end();
    let state = world.state.borrow();
    format!("process {:?}\n{}\n", state.path, state.trace.join("\n"))
}

impl World {
    fn library(&self) -> Rc<dyn Library> {
        let library = self.library.borrow();
        Rc::clone(library.as_ref().expect("a library"))
    }

    fn count(&self, happening: Happening) {
        self.counter.count(happening);
    }

    fn say(&self, line: String) {
        let mut state = self.state.borrow_mut();
        let depth = state.frames.len() + state.level as usize;
        state.trace.push(format!("{}{line}", "  ".repeat(depth)));
    }
}
