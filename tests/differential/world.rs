//! Carries out a program on one of the libraries, and writes down what happens.
//!
//! A library is behind the trait [`Library`]. It knows events by *slots*: how many of the kind were
//! added before. Handlers of both libraries come back here, to [`World::on_fd`] and the like, so
//! that what differs in a trace is what the libraries did.

use crate::kernel;
use crate::process::sys;
use crate::program::{Action, Close, OWN, Program, When};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

/// What programs do with an event loop.
pub trait Library {
    fn add_fd(&self, slot: usize, fd: RawFd, flags: u8, close: Close) -> bool;
    fn fd_flags(&self, slot: usize) -> u8;
    fn set_fd_flags(&self, slot: usize, flags: u8);
    fn free_fd(&self, slot: usize);
    fn add_timer(&self, slot: usize, when: When);
    fn move_timer(&self, slot: usize, when: When);
    fn free_timer(&self, slot: usize);
    /// It has fired.
    fn forget_timer(&self, slot: usize);
    fn add_immediate(&self, slot: usize);
    fn schedule(&self, slot: usize);
    fn reset(&self, slot: usize);
    fn free_immediate(&self, slot: usize);
    fn add_signal(&self, slot: usize, signum: i32, siginfo: bool, once: bool);
    fn free_signal(&self, slot: usize);
    /// It was called, and was to be called once.
    fn forget_signal(&self, slot: usize);
    /// Makes one turn, and says whether a handler ran if the library does.
    fn run_once(&self) -> Result<Option<bool>, String>;
    fn run_until(&self, finished: Box<dyn FnMut() -> bool>) -> Result<(), String>;
    /// Runs until there is nothing to wait for.
    fn run(&self) -> Result<(), String>;
    fn reinitialise(&self) -> bool;
    /// Ends the context.
    fn close(&self);
    /// Whether this is the child.
    fn fork(&self) -> Option<u32>;
}

/// What a library can do, and what is to be checked besides the trace.
#[derive(Clone, Copy)]
pub struct Limits {
    /// How many events may be on a descriptor.
    pub siblings: usize,
    /// Whether they may want the same.
    pub overlapping: bool,
    /// Whether a child can go on with events that share a descriptor.
    pub forks_with_siblings: bool,
    /// Whether files can be watched.
    pub files: bool,
    /// Whether descriptors are reported in the order of the kernel. Then nothing is done in which
    /// the two tell the kernel different things.
    pub kernel_order: bool,
    /// Whether what doesn't depend on another library is checked.
    pub checks: bool,
}

/// The number of the first descriptor of a program; the libraries' own are below.
pub const FIRST_NUMBER: RawFd = 100;
const MAX_DESCRIPTORS: usize = 20;
const MAX_EVENTS: usize = 40;
const MAX_LEVEL: u32 = 3;
const MAX_CALLS: u32 = 150;
const MAX_ACTIONS: u32 = 600;
const MAX_FORKS: usize = 2;
/// Fewer than fill a queue of siginfo: when the library blocks a signal, and what it then tells
/// which handler, isn't compared.
const MAX_RAISED: usize = 100;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Fd,
    Timer,
    Immediate,
    Signal,
}

#[derive(Clone, Copy)]
struct Frame {
    kind: Kind,
    slot: usize,
    level: u32,
}

struct FdEvent {
    descriptor: usize,
    /// As far as is known.
    flags: u8,
    close: Close,
    script: u8,
    is_alive: bool,
    /// After it was added.
    was_changed: bool,
    closes: u32,
    calls: u32,
}

struct Timer {
    when: When,
    order: u32,
    script: u8,
    is_alive: bool,
}

struct Immediate {
    /// When it was scheduled, if it is.
    scheduled: Option<u32>,
    script: u8,
    is_alive: bool,
}

struct Signal {
    signum: i32,
    siginfo: bool,
    once: bool,
    script: u8,
    is_alive: bool,
}

#[derive(Default)]
struct State {
    trace: Vec<String>,
    /// Whether they are open.
    descriptors: Vec<bool>,
    /// The events on each, those first whose turn it is.
    members: Vec<Vec<usize>>,
    /// Those that an event was told about when they were dead, or lost its flags for that.
    known_dead: BTreeSet<usize>,
    fds: Vec<FdEvent>,
    timers: Vec<Timer>,
    immediates: Vec<Immediate>,
    signals: Vec<Signal>,
    frames: Vec<Frame>,
    /// Events that ended in their own handler, and are said to be closed when it has returned.
    closed_while_running: Vec<usize>,
    level: u32,
    /// It was re-initialised in a handler.
    has_started_over: bool,
    calls: u32,
    actions: u32,
    order: u32,
    /// The signals that were raised and that nobody has been told of.
    pending: BTreeSet<i32>,
    /// One was raised in a signal handler. The next handler to be called may be told of an earlier
    /// one, so from then on `pending` may leave some out.
    pending_is_unsure: bool,
    raised: usize,
    /// Those that came, of which one is all that an event wants to be told.
    used_up: BTreeSet<i32>,
    is_settling: bool,
    is_ending: bool,
    /// Which child of which child this process is.
    path: Vec<usize>,
    forks: usize,
}

impl State {
    /// Whether a handler is running whose event is to close its descriptor and has ended. The
    /// library has closed it, ours will do so when the handler has returned.
    fn waits_for_close(&self) -> bool {
        self.frames.iter().any(|frame| {
            frame.kind == Kind::Fd && {
                let event = &self.fds[frame.slot];
                event.close == Close::Auto && !event.is_alive
            }
        })
    }

    /// Whether an event that is to close its descriptor has called the handler that is running.
    fn is_closed_below(&self, slot: usize) -> bool {
        let below = self.frames.split_last().map_or(&[][..], |(_, below)| below);
        self.fds[slot].close == Close::Auto && is_running(below, Kind::Fd, slot)
    }

    /// Whether two events are on one descriptor.
    fn have_siblings(&self) -> bool {
        let alive = || self.fds.iter().filter(|event| event.is_alive);
        let mut descriptors: Vec<usize> = alive().map(|event| event.descriptor).collect();
        descriptors.sort_unstable();
        descriptors.windows(2).any(|pair| pair[0] == pair[1])
    }
}

pub struct World {
    program: Program,
    limits: Limits,
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

/// Carries out a program in this process, and returns the trace.
pub fn carry_out(
    program: &Program,
    limits: Limits,
    open: impl FnOnce() -> Rc<dyn Library>,
) -> String {
    let world = Rc::new(World {
        program: program.clone(),
        limits,
        library: RefCell::new(None),
        state: RefCell::default(),
    });
    WORLD.set(Some(Rc::clone(&world)));
    *world.library.borrow_mut() = Some(open());
    for &action in &program.actions {
        world.act(action);
    }
    world.settle();
    world.end();
    let state = world.state.borrow();
    format!("process {:?}\n{}\n", state.path, state.trace.join("\n"))
}

fn is_due(when: When) -> bool {
    !matches!(when, When::Never(_))
}

fn deadline(when: When) -> (u8, u8) {
    match when {
        When::Zero => (0, 0),
        When::Due(number) => (1, number),
        When::Never(number) => (2, number),
    }
}

pub fn flags_text(flags: u8) -> &'static str {
    ["nothing", "READ", "WRITE", "READ|WRITE"]
        .get(usize::from(flags))
        .unwrap_or(&"?")
}

fn signum(signal: u8) -> i32 {
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 1][usize::from(signal % 3)]
}

fn number_of(descriptor: usize) -> RawFd {
    FIRST_NUMBER + descriptor as RawFd
}

// What handlers tell.

impl World {
    pub fn on_fd(&self, slot: usize, flags: u8) {
        let wanted = self.library().fd_flags(slot);
        self.check(flags != 0 && flags & !wanted == 0, || {
            format!(
                "fd {slot} is told {} but wants {}",
                flags_text(flags),
                flags_text(wanted)
            )
        });
        let (script, is_alive) = {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.calls += 1;
            let descriptor = event.descriptor;
            if is_dead(descriptor) {
                state.known_dead.insert(descriptor);
            }
            let event = &state.fds[slot];
            (event.script, event.is_alive)
        };
        self.check(is_alive, || format!("fd {slot} is called after its end"));
        self.check(!self.has_runnable_immediate(), || {
            format!("fd {slot} goes before an immediate")
        });
        self.check(self.first_due_timer().is_none(), || {
            format!("fd {slot} goes before a timer")
        });
        self.check_that_no_signal_waits("fd", slot);
        self.call(
            Kind::Fd,
            slot,
            script,
            &format!("fd {slot} {}", flags_text(flags)),
        );
    }

    /// The close callback was called, or the descriptor was found closed.
    pub fn on_close(&self, slot: usize) {
        let is_running = {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.closes += 1;
            if event.close == Close::Auto {
                let descriptor = event.descriptor;
                state.descriptors[descriptor] = false;
            }
            let is_running = state
                .frames
                .iter()
                .any(|frame| frame.kind == Kind::Fd && frame.slot == slot);
            if is_running {
                state.closed_while_running.push(slot);
            }
            is_running
        };
        if !is_running {
            self.say(format!("closed fd {slot}"));
        }
    }

    pub fn on_timer(&self, slot: usize) {
        let first = self.first_due_timer();
        self.check(first == Some(slot), || {
            format!("timer {slot} is called, but {first:?} is first")
        });
        self.check(!self.has_runnable_immediate(), || {
            format!("timer {slot} goes before an immediate")
        });
        self.check_that_no_signal_waits("timer", slot);
        let script = {
            let mut state = self.state.borrow_mut();
            let timer = &mut state.timers[slot];
            timer.is_alive = false;
            timer.script
        };
        self.call(Kind::Timer, slot, script, &format!("timer {slot}"));
        self.library().forget_timer(slot);
    }

    pub fn on_immediate(&self, slot: usize) {
        let (first, script) = {
            let mut state = self.state.borrow_mut();
            let running = state.frames.clone();
            let first = state
                .immediates
                .iter()
                .enumerate()
                .filter(|&(slot, _)| !is_running(&running, Kind::Immediate, slot))
                .filter_map(|(slot, immediate)| Some((immediate.scheduled?, slot)))
                .min();
            let immediate = &mut state.immediates[slot];
            immediate.scheduled = None;
            (first.map(|(_, slot)| slot), immediate.script)
        };
        self.check(first == Some(slot), || {
            format!("immediate {slot} is called, but {first:?} is first")
        });
        self.check_that_no_signal_waits("immediate", slot);
        self.call(Kind::Immediate, slot, script, &format!("immediate {slot}"));
    }

    /// `told` says the signal's number, the count, and the value that it carries.
    pub fn on_signal(&self, slot: usize, told: &str) {
        let (script, is_alive, once) = {
            let mut state = self.state.borrow_mut();
            let signum = state.signals[slot].signum;
            state.pending.remove(&signum);
            let signal = &state.signals[slot];
            (signal.script, signal.is_alive, signal.once)
        };
        self.check(is_alive, || {
            format!("signal {slot} is called after its end")
        });
        self.call(Kind::Signal, slot, script, &format!("signal {slot} {told}"));
        if once {
            let was_alive = {
                let mut state = self.state.borrow_mut();
                std::mem::take(&mut state.signals[slot].is_alive)
            };
            if was_alive {
                self.library().forget_signal(slot);
            }
        }
    }

    /// The descriptor event whose handler is running and has called no other.
    pub fn running_fd(&self) -> Option<usize> {
        let state = self.state.borrow();
        let frame = state.frames.iter().rfind(|frame| frame.kind == Kind::Fd)?;
        state.fds[frame.slot].is_alive.then_some(frame.slot)
    }

    /// Which part of a descriptor's readiness is reported, if several events are on it: what one
    /// of them wants, whose turn it is.
    pub fn take_turn(&self, fd: RawFd, readiness: i16) -> Option<i16> {
        let descriptor = usize::try_from(fd - FIRST_NUMBER).ok()?;
        let mut state = self.state.borrow_mut();
        let members = state.members.get(descriptor)?;
        if members.len() < 2 {
            return None;
        }
        let position = members.iter().position(|&slot| {
            let event = &state.fds[slot];
            let matches = readiness & interest(event.flags) != 0
                || (readiness & kernel::DEAD != 0 && event.flags & 1 != 0);
            matches && !is_running(&state.frames, Kind::Fd, slot)
        })?;
        let slot = state.members[descriptor].remove(position);
        state.members[descriptor].push(slot);
        Some(interest(state.fds[slot].flags))
    }

    /// Takes its flag from an event that wants WRITE only and whose descriptor is dead, if others
    /// are on it, or if one was told so before. Both libraries do that, but not in the same turn.
    fn give_up_dead(&self) {
        let dead: Vec<usize> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            let wants_write = events.filter(|(_, event)| event.is_alive && event.flags == 2);
            wants_write
                .filter(|(_, event)| {
                    let has_siblings = state.members[event.descriptor].len() > 1;
                    let is_known = state.known_dead.contains(&event.descriptor);
                    (has_siblings || is_known) && is_dead(event.descriptor)
                })
                .map(|(slot, _)| slot)
                .collect()
        };
        for slot in dead {
            self.library().set_fd_flags(slot, 0);
            self.state.borrow_mut().fds[slot].flags = 0;
        }
    }

    fn call(&self, kind: Kind, slot: usize, script: u8, what: &str) {
        self.say(what.to_owned());
        let is_settling = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            state.frames.push(Frame { kind, slot, level });
            state.calls += 1;
            state.is_settling || state.calls > MAX_CALLS
        };
        if !is_settling {
            let scripts = &self.program.scripts;
            if let Some(script) = scripts.get(usize::from(script)) {
                for &action in script {
                    if action == Action::FreeSelf {
                        self.free_self(kind, slot);
                        break;
                    }
                    self.act(action);
                }
            }
        }
        let closed = {
            let mut state = self.state.borrow_mut();
            state.frames.pop();
            let closed = state
                .closed_while_running
                .iter()
                .position(|&closed| kind == Kind::Fd && closed == slot);
            closed.map(|index| state.closed_while_running.remove(index))
        };
        if let Some(slot) = closed {
            self.say(format!("closed fd {slot}"));
        }
    }
}

fn is_running(frames: &[Frame], kind: Kind, slot: usize) -> bool {
    frames
        .iter()
        .any(|frame| frame.kind == kind && frame.slot == slot)
}

// What is written down.

impl World {
    fn library(&self) -> Rc<dyn Library> {
        let library = self.library.borrow();
        Rc::clone(library.as_ref().expect("a library"))
    }

    fn say(&self, line: String) {
        let mut state = self.state.borrow_mut();
        let depth = state.frames.len() + state.level as usize;
        state.trace.push(format!("{}{line}", "  ".repeat(depth)));
    }

    fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if self.limits.checks && !holds {
            self.say(format!("{PROBLEM}{}", what()));
        }
    }

    fn has_runnable_immediate(&self) -> bool {
        let state = self.state.borrow();
        state
            .immediates
            .iter()
            .enumerate()
            .any(|(slot, immediate)| {
                immediate.scheduled.is_some() && !is_running(&state.frames, Kind::Immediate, slot)
            })
    }

    fn first_due_timer(&self) -> Option<usize> {
        let state = self.state.borrow();
        let due = state.timers.iter().enumerate();
        due.filter(|(_, timer)| timer.is_alive && is_due(timer.when))
            .min_by_key(|(_, timer)| (deadline(timer.when), timer.order))
            .map(|(slot, _)| slot)
    }

    fn check_that_no_signal_waits(&self, kind: &str, slot: usize) {
        let waits = !self.state.borrow().pending.is_empty();
        self.check(!waits, || format!("{kind} {slot} goes before a signal"));
    }

    /// Says which flags the library has changed by itself.
    fn look_at_flags(&self) {
        let events: Vec<(usize, u8)> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            events
                .filter(|(_, event)| event.is_alive)
                .map(|(slot, event)| (slot, event.flags))
                .collect()
        };
        for (slot, known) in events {
            let flags = self.library().fd_flags(slot);
            if flags != known {
                {
                    let mut state = self.state.borrow_mut();
                    let event = &mut state.fds[slot];
                    event.flags = flags;
                    let descriptor = event.descriptor;
                    state.known_dead.insert(descriptor);
                }
                self.say(format!("fd {slot} now wants {}", flags_text(flags)));
            }
        }
    }
}

/// How a line begins that says what is wrong whatever the other library does.
pub const PROBLEM: &str = "PROBLEM: ";

// Actions.

impl World {
    fn act(&self, action: Action) {
        let changes_order = matches!(
            action,
            Action::SetFlags { .. }
                | Action::AddSignal { .. }
                | Action::Reinitialise
                | Action::Fork
        );
        if self.limits.kernel_order && changes_order {
            return;
        }
        {
            let mut state = self.state.borrow_mut();
            state.actions += 1;
            if state.actions > MAX_ACTIONS || state.waits_for_close() {
                return;
            }
        }
        match action {
            Action::Pipe | Action::SocketPair | Action::File => self.open(action),
            Action::Read(descriptor)
            | Action::Write(descriptor)
            | Action::Fill(descriptor)
            | Action::Drain(descriptor)
            | Action::HalfClose(descriptor) => self.transfer(action, descriptor),
            Action::Close(descriptor) => self.close(descriptor, false),
            Action::CloseBehind(descriptor) => self.close(descriptor, true),
            Action::AddFd {
                descriptor,
                flags,
                close,
                script,
            } => self.add_fd(descriptor, flags, close, script),
            Action::SetFlags { event, flags } => self.set_flags(event, flags),
            Action::FreeFd(event) => {
                if let Some(slot) = self.fd_event(event) {
                    self.free_fd(slot);
                }
            }
            Action::AddTimer { when, script } => self.add_timer(when, script),
            Action::MoveTimer { timer, when } => self.move_timer(timer, when),
            Action::FreeTimer(timer) => {
                if let Some(slot) = self.timer(timer) {
                    self.state.borrow_mut().timers[slot].is_alive = false;
                    self.library().free_timer(slot);
                }
            }
            Action::AddImmediate { script } => self.add_immediate(script),
            Action::Schedule(immediate) => self.schedule(immediate),
            Action::Reset(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.state.borrow_mut().immediates[slot].scheduled = None;
                    self.library().reset(slot);
                }
            }
            Action::FreeImmediate(immediate) => {
                if let Some(slot) = self.immediate(immediate) {
                    self.free_immediate(slot);
                }
            }
            Action::AddSignal {
                signal,
                siginfo,
                once,
                script,
            } => self.add_signal(signal, siginfo, once, script),
            Action::FreeSignal(signal) => {
                if let Some(slot) = self.signal(signal) {
                    self.free_signal(slot);
                }
            }
            Action::Raise(signal) => self.raise(signal, None),
            Action::Queue { signal, value } => self.raise(signal, Some(value)),
            // Outside of handlers.
            Action::FreeSelf => {}
            Action::Turn => self.turn(None),
            Action::Until(questions) => self.turn(Some(questions)),
            Action::Reinitialise => self.reinitialise(),
            Action::Fork => self.fork(),
        }
    }

    /// Which of `count` a number means.
    fn pick(&self, number: u8, count: usize) -> Option<usize> {
        (count > 0).then(|| usize::from(number) % count)
    }

    fn own(&self, number: u8, kind: Kind) -> Option<usize> {
        let state = self.state.borrow();
        let frame = state.frames.last()?;
        (number == OWN && frame.kind == kind).then_some(frame.slot)
    }

    fn descriptor(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let descriptor = match own {
            Some(slot) => state.fds[slot].descriptor,
            None => self.pick(number, state.descriptors.len())?,
        };
        state.descriptors[descriptor].then_some(descriptor)
    }

    fn fd_event(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Fd);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.fds.len()))?;
        state.fds[slot].is_alive.then_some(slot)
    }

    fn timer(&self, number: u8) -> Option<usize> {
        let state = self.state.borrow();
        let slot = self.pick(number, state.timers.len())?;
        state.timers[slot].is_alive.then_some(slot)
    }

    fn immediate(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Immediate);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.immediates.len()))?;
        state.immediates[slot].is_alive.then_some(slot)
    }

    fn signal(&self, number: u8) -> Option<usize> {
        let own = self.own(number, Kind::Signal);
        let state = self.state.borrow();
        let slot = own.or_else(|| self.pick(number, state.signals.len()))?;
        state.signals[slot].is_alive.then_some(slot)
    }

    fn free_self(&self, kind: Kind, slot: usize) {
        match kind {
            Kind::Fd => {
                if self.state.borrow().fds[slot].is_alive {
                    self.free_fd(slot);
                }
            }
            Kind::Timer => self.library().free_timer(slot),
            Kind::Immediate => {
                if self.state.borrow().immediates[slot].is_alive {
                    self.free_immediate(slot);
                }
            }
            Kind::Signal => {
                if self.state.borrow().signals[slot].is_alive {
                    self.free_signal(slot);
                }
            }
        }
    }

    // Descriptors

    fn open(&self, action: Action) {
        let first = self.state.borrow().descriptors.len();
        if first + 2 > MAX_DESCRIPTORS {
            return;
        }
        let opened = match action {
            Action::Pipe => pipe().to_vec(),
            Action::SocketPair => socket_pair().to_vec(),
            _ if self.limits.files => vec![file()],
            _ => return,
        };
        for (index, fd) in opened.into_iter().enumerate() {
            let number = number_of(first + index);
            check(unsafe { libc::dup3(fd, number, libc::O_CLOEXEC) });
            check(unsafe { libc::close(fd) });
            let mut state = self.state.borrow_mut();
            state.descriptors.push(true);
            state.members.push(Vec::new());
        }
    }

    fn transfer(&self, action: Action, descriptor: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let fd = number_of(descriptor);
        let mut buffer = [7; 1024];
        let (data, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let what = match action {
            Action::Read(_) => format!("read {}", unsafe { libc::read(fd, data, 2) }),
            Action::Write(_) => format!("wrote {}", unsafe { libc::write(fd, data, 3) }),
            Action::Fill(_) => {
                for _ in 0..256 {
                    if unsafe { libc::write(fd, data, size) } <= 0 {
                        break;
                    }
                }
                "filled".to_owned()
            }
            Action::Drain(_) => {
                let mut count = 1;
                for _ in 0..256 {
                    count = unsafe { libc::read(fd, data, size) };
                    if count <= 0 {
                        break;
                    }
                }
                format!("drained up to {}", count.signum())
            }
            _ => {
                let result = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
                format!("shut down: {result}")
            }
        };
        self.say(format!("{what}: descriptor {descriptor}"));
    }

    fn close(&self, descriptor: u8, behind: bool) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        // The library aborts in a child that does this before its first turn.
        let behind = behind && self.state.borrow().path.is_empty();
        let events: Vec<_> = self.events_on(descriptor).collect();
        let is_known_to_the_kernel = |slot: usize| {
            let fds = &self.state.borrow().fds;
            let event = &fds[slot];
            let on_it = fds.iter().filter(|event| event.descriptor == descriptor);
            event.flags != 0 && !event.was_changed && on_it.count() == 1
        };
        match events[..] {
            [] => {}
            // The library disarms several events one by one, ours all at once; and ours finds out
            // when it changes an interest, which isn't at once.
            [(slot, _, _)] if behind && is_known_to_the_kernel(slot) && !self.program.nesting => {}
            _ => return,
        }
        self.say(format!("close descriptor {descriptor}"));
        check(unsafe { libc::close(number_of(descriptor)) });
        self.state.borrow_mut().descriptors[descriptor] = false;
    }

    /// Flags and ways to close of the events on a descriptor, with their slots. Those count too that have ended
    /// but whose handlers are running.
    fn events_on(&self, descriptor: usize) -> impl Iterator<Item = (usize, u8, Close)> + use<> {
        let state = self.state.borrow();
        let events = state.fds.iter().enumerate();
        let on_it: Vec<_> = events
            .filter(|(slot, event)| {
                event.descriptor == descriptor
                    && (event.is_alive || is_running(&state.frames, Kind::Fd, *slot))
            })
            .map(|(slot, event)| (slot, event.flags, event.close))
            .collect();
        on_it.into_iter()
    }

    /// What is left of flags when those are out of bounds that another event on the descriptor has.
    fn possible_flags(&self, descriptor: usize, own: Option<usize>, flags: u8) -> u8 {
        if self.limits.overlapping {
            return flags;
        }
        self.events_on(descriptor)
            .filter(|&(slot, _, _)| Some(slot) != own)
            .fold(flags, |flags, (_, others, _)| flags & !others)
    }

    fn add_fd(&self, descriptor: u8, flags: u8, close: Close, script: u8) {
        let Some(descriptor) = self.descriptor(descriptor) else {
            return;
        };
        let slot = self.state.borrow().fds.len();
        let others = self.events_on(descriptor).count();
        let closes = self
            .events_on(descriptor)
            .any(|(_, _, close)| close == Close::Auto);
        if slot >= MAX_EVENTS
            || closes
            || (close == Close::Auto && others > 0)
            || others >= self.limits.siblings
        {
            return;
        }
        let flags = self.possible_flags(descriptor, None, flags & 3);
        {
            let mut state = self.state.borrow_mut();
            state.members[descriptor].push(slot);
            state.fds.push(FdEvent {
                descriptor,
                flags,
                close,
                script,
                is_alive: true,
                was_changed: false,
                closes: 0,
                calls: 0,
            });
        }
        self.say(format!(
            "add fd {slot}: descriptor {descriptor} {} {close:?}",
            flags_text(flags)
        ));
        if !self
            .library()
            .add_fd(slot, number_of(descriptor), flags, close)
        {
            self.say("refused".to_owned());
            self.state.borrow_mut().fds[slot].is_alive = false;
        }
    }

    fn set_flags(&self, event: u8, flags: u8) {
        let Some(slot) = self.fd_event(event) else {
            return;
        };
        let descriptor = {
            let mut state = self.state.borrow_mut();
            state.fds[slot].was_changed = true;
            state.fds[slot].descriptor
        };
        if !self.state.borrow().descriptors[descriptor] {
            return;
        }
        let flags = self.possible_flags(descriptor, Some(slot), flags & 3);
        self.say(format!("fd {slot} wants {}", flags_text(flags)));
        self.library().set_fd_flags(slot, flags);
        self.state.borrow_mut().fds[slot].flags = flags;
    }

    fn free_fd(&self, slot: usize) {
        if self.state.borrow().is_closed_below(slot) {
            return;
        }
        self.say(format!("free fd {slot}"));
        {
            let mut state = self.state.borrow_mut();
            let event = &mut state.fds[slot];
            event.is_alive = false;
            event.flags = 0;
            let descriptor = event.descriptor;
            state.members[descriptor].retain(|&member| member != slot);
        }
        self.library().free_fd(slot);
    }

    // Timers and immediates

    fn next_order(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.order += 1;
        state.order
    }

    fn add_timer(&self, when: When, script: u8) {
        let slot = self.state.borrow().timers.len();
        if slot >= MAX_EVENTS {
            return;
        }
        let order = self.next_order();
        self.state.borrow_mut().timers.push(Timer {
            when,
            order,
            script,
            is_alive: true,
        });
        self.say(format!("add timer {slot}: {when:?}"));
        self.library().add_timer(slot, when);
    }

    fn move_timer(&self, timer: u8, when: When) {
        let Some(slot) = self.timer(timer).filter(|_| when != When::Zero) else {
            return;
        };
        let order = self.next_order();
        {
            let mut state = self.state.borrow_mut();
            state.timers[slot].when = when;
            state.timers[slot].order = order;
        }
        self.say(format!("move timer {slot}: {when:?}"));
        self.library().move_timer(slot, when);
    }

    fn add_immediate(&self, script: u8) {
        let slot = self.state.borrow().immediates.len();
        if slot >= MAX_EVENTS {
            return;
        }
        self.state.borrow_mut().immediates.push(Immediate {
            scheduled: None,
            script,
            is_alive: true,
        });
        self.library().add_immediate(slot);
    }

    fn schedule(&self, immediate: u8) {
        let Some(slot) = self.immediate(immediate) else {
            return;
        };
        {
            let state = self.state.borrow();
            let runs_outside = state.frames.iter().any(|frame| {
                frame.kind == Kind::Immediate && frame.slot == slot && frame.level < state.level
            });
            if runs_outside {
                // Ours waits until that handler has returned.
                return;
            }
        }
        let order = self.next_order();
        self.state.borrow_mut().immediates[slot].scheduled = Some(order);
        self.say(format!("schedule immediate {slot}"));
        self.library().schedule(slot);
    }

    fn free_immediate(&self, slot: usize) {
        {
            let mut state = self.state.borrow_mut();
            state.immediates[slot].is_alive = false;
            state.immediates[slot].scheduled = None;
        }
        self.say(format!("free immediate {slot}"));
        self.library().free_immediate(slot);
    }

    // Signals

    fn add_signal(&self, signal: u8, siginfo: bool, once: bool, script: u8) {
        let slot = self.state.borrow().signals.len();
        if slot >= MAX_EVENTS {
            return;
        }
        let signum = signum(signal);
        let first = {
            let state = self.state.borrow();
            let mut signals = state.signals.iter();
            let first = signals.find(|signal| signal.is_alive && signal.signum == signum);
            first.map(|first| (first.siginfo, first.once))
        };
        // The library takes the flags of the first for all.
        let (siginfo, once) = first.unwrap_or((siginfo, once));
        if first.is_none() {
            self.state.borrow_mut().used_up.remove(&signum);
        }
        self.state.borrow_mut().signals.push(Signal {
            signum,
            siginfo,
            once,
            script,
            is_alive: true,
        });
        self.say(format!(
            "add signal {slot}: {signum}, siginfo {siginfo}, once {once}"
        ));
        self.library().add_signal(slot, signum, siginfo, once);
    }

    fn free_signal(&self, slot: usize) {
        let is_last = {
            let state = self.state.borrow();
            let signum = state.signals[slot].signum;
            let signals = state.signals.iter();
            let handlers = signals.filter(|signal| signal.is_alive && signal.signum == signum);
            let may_wait = state.pending.contains(&signum) || state.pending_is_unsure;
            may_wait && !state.is_ending && handlers.count() == 1
        };
        if is_last {
            // The library would tell the next event that is added for it.
            return;
        }
        self.say(format!("free signal {slot}"));
        self.state.borrow_mut().signals[slot].is_alive = false;
        self.library().free_signal(slot);
    }

    fn raise(&self, signal: u8, value: Option<u8>) {
        let signum = signum(signal);
        {
            let mut state = self.state.borrow_mut();
            let mut signals = state.signals.iter();
            let first = signals.find(|signal| signal.is_alive && signal.signum == signum);
            let Some(once) = first.map(|first| first.once) else {
                return;
            };
            if state.raised >= MAX_RAISED {
                return;
            }
            // The second would kill the process in the library.
            if once && !state.used_up.insert(signum) {
                return;
            }
            let mut frames = state.frames.iter();
            let in_handler = frames.any(|frame| frame.kind == Kind::Signal);
            state.pending_is_unsure |= in_handler;
            state.raised += 1;
            state.pending.insert(signum);
        }
        self.say(format!("raise {signum} {value:?}"));
        match value {
            None => check(unsafe { libc::raise(signum) }),
            Some(value) => {
                let value = libc::sigval {
                    sival_ptr: usize::from(value) as *mut _,
                };
                check(unsafe { libc::sigqueue(libc::getpid(), signum, value) })
            }
        };
    }

    // The loop

    fn turn(&self, until: Option<u8>) {
        let level = {
            let mut state = self.state.borrow_mut();
            let level = state.level;
            let running = state.frames.clone();
            let on_the_stack = |kind| running.iter().any(|frame| frame.kind == kind);
            if level > 0
                && (!self.program.nesting
                    || level >= MAX_LEVEL
                    || self.limits.kernel_order
                    || on_the_stack(Kind::Signal))
            {
                return;
            }
            let scheduled_while_running =
                state
                    .immediates
                    .iter()
                    .enumerate()
                    .any(|(slot, immediate)| {
                        immediate.scheduled.is_some() && is_running(&running, Kind::Immediate, slot)
                    });
            if scheduled_while_running {
                return;
            }
            state.level += 1;
            level
        };
        let calls = self.state.borrow().calls;
        self.give_up_dead();
        let result = match until {
            None => self.library().run_once(),
            Some(questions) => {
                let mut left = questions;
                let finished = move || {
                    world().say(format!("enough? {left}"));
                    world().give_up_dead();
                    left = left.saturating_sub(1);
                    left == 0
                };
                self.library().run_until(Box::new(finished)).map(|()| None)
            }
        };
        self.state.borrow_mut().level = level;
        match result {
            Ok(Some(ran)) => {
                let has_run = self.state.borrow().calls > calls;
                self.check(ran == has_run, || {
                    format!("the turn says {ran}, but that a handler ran is {has_run}")
                });
                self.say("turn".to_owned());
            }
            Ok(None) => self.say("turn".to_owned()),
            Err(error) => self.say(format!("turn failed: {error}")),
        }
        self.look_at_flags();
    }

    fn reinitialise(&self) {
        {
            let state = self.state.borrow();
            let mut frames = state.frames.iter();
            if !state.pending.is_empty() || state.pending_is_unsure {
                return;
            }
            if frames.any(|frame| frame.kind == Kind::Signal) {
                // The library aborts.
                return;
            }
            if state.level > 0 && state.has_started_over {
                // The library's count of levels is wrong from the first time on.
                return;
            }
            let mut events = 0..state.fds.len();
            if events.any(|slot| state.fds[slot].is_alive && state.is_closed_below(slot)) {
                return;
            }
        }
        self.say("re-initialise".to_owned());
        let succeeded = self.library().reinitialise();
        self.check(succeeded, || "re-initialising failed".to_owned());
        self.free_all();
        let mut state = self.state.borrow_mut();
        state.has_started_over |= state.level > 0;
        state.level = 0;
    }

    fn fork(&self) {
        {
            let mut state = self.state.borrow_mut();
            let mut frames = state.frames.iter();
            if frames.any(|frame| frame.kind == Kind::Signal) {
                // The next handler of the same signal would be called in the child, too.
                return;
            }
            if !state.pending.is_empty() || state.pending_is_unsure || state.forks >= MAX_FORKS {
                return;
            }
            let is_closed = |event: &FdEvent| !state.descriptors[event.descriptor];
            if state
                .fds
                .iter()
                .any(|event| event.is_alive && is_closed(event))
            {
                return;
            }
            if !self.limits.forks_with_siblings && state.have_siblings() {
                // The library aborts in the child.
                return;
            }
            state.forks += 1;
        }
        match self.library().fork() {
            Some(child) => {
                let status = sys::reap(child);
                self.say(format!("child: {status:?}"));
            }
            None => {
                let mut state = self.state.borrow_mut();
                let fork = state.forks;
                state.path.push(fork);
                state.trace.clear();
            }
        }
    }

    fn free_all(&self) {
        let library = self.library();
        let count = self.state.borrow().fds.len();
        for slot in 0..count {
            if self.state.borrow().fds[slot].is_alive {
                self.free_fd(slot);
            }
        }
        let count = self.state.borrow().timers.len();
        for slot in 0..count {
            if std::mem::take(&mut self.state.borrow_mut().timers[slot].is_alive) {
                library.free_timer(slot);
            }
        }
        let count = self.state.borrow().immediates.len();
        for slot in 0..count {
            if self.state.borrow().immediates[slot].is_alive {
                self.free_immediate(slot);
            }
        }
        self.free_all_signals();
    }

    fn free_all_signals(&self) {
        let count = self.state.borrow().signals.len();
        for slot in 0..count {
            if self.state.borrow().signals[slot].is_alive {
                self.free_signal(slot);
            }
        }
    }

    // The end

    /// Runs all that there is to run, without scripts.
    fn settle(&self) {
        let (others, for_fds) = {
            let mut state = self.state.borrow_mut();
            state.is_settling = true;
            state.actions = 0;
            let due = |timer: &&Timer| timer.is_alive && is_due(timer.when);
            let timers = state.timers.iter().filter(due).count();
            let scheduled = |immediate: &&Immediate| immediate.scheduled.is_some();
            let immediates = state.immediates.iter().filter(scheduled).count();
            let fds = state.fds.iter().filter(|event| event.is_alive).count();
            // In as many rounds as there are events on one descriptor, each of them is served; and
            // some turns are lost to those that want WRITE only and are dead.
            let siblings = state.members.iter().map(Vec::len).max().unwrap_or(0);
            (timers + immediates + 1, fds * (2 + siblings))
        };
        for _ in 0..others {
            self.turn(None);
        }
        let before: Vec<u32> = {
            let state = self.state.borrow();
            state.fds.iter().map(|event| event.calls).collect()
        };
        for _ in 0..for_fds {
            self.turn(None);
        }
        for (slot, before) in before.into_iter().enumerate() {
            let (is_ready, calls) = {
                let state = self.state.borrow();
                let event = &state.fds[slot];
                (event.is_alive && is_ready(event), event.calls)
            };
            self.check(!is_ready || calls > before, || {
                format!("fd {slot} is ready, but isn't served")
            });
        }
    }

    /// Runs until nothing is left to wait for, which is due timers and immediates.
    fn run(&self) {
        let library = self.library();
        let (fds, signals, timers): (Vec<usize>, Vec<usize>, Vec<usize>) = {
            let state = self.state.borrow();
            let slots = |count: usize| 0..count;
            (
                slots(state.fds.len())
                    .filter(|&slot| state.fds[slot].is_alive)
                    .collect(),
                slots(state.signals.len())
                    .filter(|&slot| state.signals[slot].is_alive)
                    .collect(),
                slots(state.timers.len())
                    .filter(|&slot| state.timers[slot].is_alive)
                    .collect(),
            )
        };
        fds.into_iter().for_each(|slot| self.free_fd(slot));
        signals.into_iter().for_each(|slot| self.free_signal(slot));
        for (position, slot) in timers.into_iter().enumerate() {
            let when = When::Due((position % 3) as u8);
            let order = self.next_order();
            {
                let mut state = self.state.borrow_mut();
                state.timers[slot].when = when;
                state.timers[slot].order = order;
            }
            library.move_timer(slot, when);
        }
        let immediates: Vec<usize> = {
            let state = self.state.borrow();
            let immediates = state.immediates.iter().enumerate();
            let alive = immediates.filter(|(_, immediate)| immediate.is_alive);
            alive.map(|(slot, _)| slot).collect()
        };
        for slot in immediates {
            let order = self.next_order();
            self.state.borrow_mut().immediates[slot].scheduled = Some(order);
            library.schedule(slot);
        }
        self.state.borrow_mut().level = 1;
        let result = library.run();
        self.state.borrow_mut().level = 0;
        self.say(format!("run: {result:?}"));
    }

    fn end(&self) {
        self.say("the end".to_owned());
        self.state.borrow_mut().is_ending = true;
        if self.program.runs_at_end {
            self.run();
        }
        if self.program.context_first {
            self.library().close();
            self.free_all();
        } else {
            self.free_all();
            self.library().close();
        }
        *self.library.borrow_mut() = None;
        let closes: Vec<(usize, Close, u32)> = {
            let state = self.state.borrow();
            let events = state.fds.iter().enumerate();
            events
                .map(|(slot, event)| (slot, event.close, event.closes))
                .collect()
        };
        for (slot, close, closes) in closes {
            self.check(closes == u32::from(close != Close::Nothing), || {
                format!("fd {slot} was closed {closes} times")
            });
        }
    }
}

/// Whether an event that stays as it is has to be called.
fn is_ready(event: &FdEvent) -> bool {
    let wanted = interest(event.flags);
    let readiness = kernel::readiness(number_of(event.descriptor), wanted);
    let is_dead = readiness & kernel::DEAD != 0;
    if readiness & libc::POLLNVAL != 0 || wanted == 0 {
        return false;
    }
    readiness & wanted & kernel::READABLE != 0
        || (readiness & wanted & kernel::WRITABLE != 0 && !is_dead)
        || (is_dead && event.flags & 1 != 0)
}

fn is_dead(descriptor: usize) -> bool {
    kernel::readiness(number_of(descriptor), 0) & kernel::DEAD != 0
}

fn interest(flags: u8) -> i16 {
    let mut interest = 0;
    if flags & 1 != 0 {
        interest |= kernel::READABLE;
    }
    if flags & 2 != 0 {
        interest |= kernel::WRITABLE;
    }
    interest
}

#[track_caller]
fn check(result: i32) -> i32 {
    assert_ne!(result, -1, "{}", io::Error::last_os_error());
    result
}

fn pipe() -> [RawFd; 2] {
    let mut ends = [0; 2];
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) });
    check(unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 4096) });
    ends
}

fn socket_pair() -> [RawFd; 2] {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) });
    for end in ends {
        let size: i32 = 4096;
        check(unsafe {
            libc::setsockopt(
                end,
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw const size).cast(),
                size_of_val(&size) as u32,
            )
        });
    }
    ends
}

fn file() -> RawFd {
    check(unsafe { libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC) })
}
