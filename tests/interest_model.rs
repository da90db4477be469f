//! What the kernel is told, against a model that knows what it has to hold: a map of the
//! descriptors to the union of what the events on them want that are there and whose handlers
//! aren't running a loop.
//!
//! Random programs run on a backend of our own that compares at every wait: it holds exactly the
//! model's map, and was told so by no call more than that takes. Then they run on the real epoll,
//! and what `/proc` says of its set is compared.

mod common;

use common::{ERROR, NOTHING, READ, WRITE};
use proptest::prelude::*;
use proptest::sample::Index;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;
use tevent::{
    Backend, BackendKind, Context, Fd, FdFlags, Readiness, ReadyList, Token, WakeupTrigger,
};

const DESCRIPTORS: usize = 4;

#[derive(Clone, Debug)]
enum Operation {
    Add(usize, FdFlags),
    SetFlags(Index, FdFlags),
    Toggle(Index, FdFlags, bool),
    /// The handle stays.
    Remove(Index),
    Drop(Index),
    IntoSource(Index),
    Detach(Index),
    /// By its handler, or another's if it can't be called.
    RemoveTheRunning,
    Turn,
    /// A descriptor is ready, and the handler that is called does this.
    Fire(usize, Vec<Operation>),
    Reinitialise,
    /// The next call of this kind is refused.
    Refuse(Method, i32),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Method {
    Add,
    Modify,
    Remove,
    Reopen,
}

fn flags() -> impl Strategy<Value = FdFlags> {
    (0u8..8).prop_map(FdFlags::from_bits_truncate)
}

fn refusals() -> impl Strategy<Value = Operation> {
    let methods = [Method::Add, Method::Modify, Method::Remove, Method::Reopen];
    let numbers = vec![libc::EPERM, libc::ENOMEM, libc::EBADF, libc::ENOSPC];
    (
        prop::sample::select(methods.to_vec()),
        prop::sample::select(numbers),
    )
        .prop_map(|(method, number)| Operation::Refuse(method, number))
}

fn operations(refuses: bool) -> impl Strategy<Value = Vec<Operation>> {
    let event = any::<Index>;
    let flag = prop::sample::select(vec![READ, WRITE, ERROR]);
    let simple = prop_oneof![
        6 => (0..DESCRIPTORS, flags()).prop_map(|(fd, flags)| Operation::Add(fd, flags)),
        6 => (event(), flags()).prop_map(|(event, flags)| Operation::SetFlags(event, flags)),
        6 => (event(), flag, any::<bool>())
            .prop_map(|(event, flag, wanted)| Operation::Toggle(event, flag, wanted)),
        1 => event().prop_map(Operation::Remove),
        2 => event().prop_map(Operation::Drop),
        1 => event().prop_map(Operation::IntoSource),
        1 => event().prop_map(Operation::Detach),
        1 => Just(Operation::RemoveTheRunning),
        8 => Just(Operation::Turn),
    ];
    let rare = if refuses {
        prop_oneof![1 => Just(Operation::Reinitialise), 3 => refusals()].boxed()
    } else {
        Just(Operation::Reinitialise).boxed()
    };
    let leaf = prop_oneof![30 => simple, 2 => rare];
    let operation = leaf.prop_recursive(2, 12, 8, |inner| {
        let inner = prop::collection::vec(inner, 0..8);
        (0..DESCRIPTORS, inner).prop_map(|(fd, inner)| Operation::Fire(fd, inner))
    });
    prop::collection::vec(operation, 0..60)
}

/// A call of the backend, without its token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Call(Method, RawFd, u8);

struct Event {
    descriptor: usize,
    flags: FdFlags,
    is_there: bool,
    /// How many of its handler's calls run a loop.
    suspended: bool,
    is_running: bool,
    handle: Option<Fd<Source>>,
}

#[derive(Default)]
struct Descriptor {
    /// How many sources refer to it.
    sources: Cell<usize>,
}

/// The model, and what the backend notes for it.
#[derive(Default)]
struct World {
    numbers: Vec<RawFd>,
    peers: Vec<UnixStream>,
    sockets: Vec<Rc<UnixStream>>,
    descriptors: Vec<Rc<Descriptor>>,
    events: Vec<Event>,
    /// Counts the times that a descriptor went from no event to one, as each has its own token.
    watches: Vec<u64>,
    next_watch: u64,
    /// What the kernel was told according to the model.
    armed: BTreeMap<RawFd, FdFlags>,
    /// The calls that there have to be before the next wait, and those that there were.
    expected: Vec<Call>,
    calls: Vec<Call>,
    /// What the backend holds.
    held: BTreeMap<RawFd, (Token, FdFlags)>,
    watch_of_token: HashMap<u64, u64>,
    token_of_watch: HashMap<u64, u64>,
    wakeup: Option<RawFd>,
    report: Option<usize>,
    refuse: Option<(Method, i32)>,
    falls_back: bool,
    /// Whether a flush is under way, rather than an addition or a removal.
    in_turn: bool,
    is_adding: bool,
    has_been_refused: bool,
    reopening_failed: bool,
    waits: usize,
    script: Option<Vec<Operation>>,
}

type Shared = Rc<RefCell<World>>;

impl World {
    fn new(falls_back: bool) -> Shared {
        let mut world = World {
            falls_back,
            ..World::default()
        };
        for _ in 0..DESCRIPTORS {
            let (ours, theirs) = common::pair();
            world.numbers.push(ours.as_raw_fd());
            world.sockets.push(Rc::new(ours));
            world.peers.push(theirs);
            world.descriptors.push(Rc::default());
            world.watches.push(0);
        }
        Rc::new(RefCell::new(world))
    }

    /// What the kernel has to hold.
    fn wanted(&self) -> BTreeMap<RawFd, FdFlags> {
        let mut wanted = BTreeMap::new();
        for event in self
            .events
            .iter()
            .filter(|event| event.is_there && !event.suspended)
        {
            if !event.flags.is_empty() {
                *wanted
                    .entry(self.numbers[event.descriptor])
                    .or_insert(NOTHING) |= event.flags;
            }
        }
        wanted
    }

    fn has_events(&self, descriptor: usize) -> bool {
        self.events
            .iter()
            .any(|event| event.is_there && event.descriptor == descriptor)
    }

    /// Says that the kernel is to be told what is wanted of a descriptor by now.
    fn expect_update(&mut self, number: RawFd) {
        let wanted = self.wanted().get(&number).copied().unwrap_or(NOTHING);
        let armed = self.armed.remove(&number).unwrap_or(NOTHING);
        if wanted != armed {
            let method = match (armed.is_empty(), wanted.is_empty()) {
                (true, _) => Method::Add,
                (_, true) => Method::Remove,
                _ => Method::Modify,
            };
            self.expected.push(Call(method, number, wanted.bits()));
        }
        if !wanted.is_empty() {
            self.armed.insert(number, wanted);
        }
    }

    /// The kernel's set is a new one.
    fn forget(&mut self) {
        self.armed.clear();
        self.held.clear();
        self.expected.clear();
        self.calls.clear();
        self.wakeup = None;
    }

    fn check_wait(&mut self) {
        self.waits += 1;
        for number in self.numbers.clone() {
            self.expect_update(number);
        }
        assert!(
            self.wakeup.is_some(),
            "the wake-up descriptor isn't watched"
        );
        let held: BTreeMap<RawFd, FdFlags> = self
            .held
            .iter()
            .map(|(&number, &(_, flags))| (number, flags))
            .collect();
        assert_eq!(held, self.wanted(), "the backend holds what is wanted");
        let (mut calls, mut expected) = (mem::take(&mut self.calls), mem::take(&mut self.expected));
        calls.sort_unstable();
        expected.sort_unstable();
        assert_eq!(calls, expected, "it was told so by no call too many");
    }

    /// Notes a call. The error is the one that was asked for.
    fn call(&mut self, method: Method, number: RawFd, flags: FdFlags) -> io::Result<()> {
        self.calls.push(Call(method, number, flags.bits()));
        // The removal of the last event is one that nobody can be told has failed.
        let can_fail = self.in_turn || self.is_adding || method == Method::Reopen;
        let refused = self
            .refuse
            .filter(|&(refused, _)| can_fail && refused == method);
        let Some((_, errno)) = refused else {
            return Ok(());
        };
        self.refuse = None;
        self.has_been_refused = true;
        self.reopening_failed = method == Method::Reopen;
        let goes_elsewhere = self.falls_back && matches!(errno, libc::ENOMEM | libc::ENOSPC);
        if !self.in_turn || method == Method::Reopen {
            // Who has made the call knows.
            self.calls.pop();
        } else if !goes_elsewhere {
            // All events on the descriptor are disarmed, and if it was in the set it is removed.
            self.expected.push(Call(method, number, flags.bits()));
            if self.armed.remove(&number).is_some() {
                self.expected.push(Call(Method::Remove, number, 0));
            }
            for event in &mut self.events {
                if self.numbers[event.descriptor] == number && event.is_there {
                    event.flags = NOTHING;
                }
            }
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    fn check_token(&mut self, number: RawFd, token: Token) {
        let descriptor = self.numbers.iter().position(|&known| known == number);
        let watch = self.watches[descriptor.expect("a descriptor of ours")];
        let token = token.to_bits();
        assert_eq!(
            *self.watch_of_token.entry(token).or_insert(watch),
            watch,
            "a token is used anew"
        );
        assert_eq!(*self.token_of_watch.entry(watch).or_insert(token), token);
    }
}

/// The backend.
struct Checking(Shared);

impl Backend for Checking {
    fn name(&self) -> &str {
        "checking"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.call(Method::Add, fd, interest)?;
        assert!(!interest.is_empty(), "an empty interest isn't registered");
        world.check_token(fd, token);
        let former = world.held.insert(fd, (token, interest));
        assert_eq!(former, None, "it is registered once");
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.call(Method::Modify, fd, interest)?;
        let Some(&(known, before)) = world.held.get(&fd) else {
            panic!("what isn't registered is modified");
        };
        assert_eq!(known, token);
        assert_ne!(before, interest, "it is modified to what it is");
        assert!(!interest.is_empty(), "an empty interest isn't registered");
        world.held.insert(fd, (token, interest));
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let known = world.held.get(&fd).map(|&(known, _)| known);
        assert_eq!(known, Some(token), "what isn't registered is removed");
        world.call(Method::Remove, fd, NOTHING)?;
        world.held.remove(&fd);
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.check_wait();
        if let Some(descriptor) = world.report.take() {
            let number = world.numbers[descriptor];
            if let Some(&(token, flags)) = world.held.get(&number) {
                let mut readiness = Readiness::empty();
                readiness.set(Readiness::READABLE, flags.contains(READ));
                readiness.set(Readiness::WRITABLE, flags.contains(WRITE));
                readiness.set(Readiness::ERROR, flags == ERROR);
                ready.push(token, readiness);
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.call(Method::Reopen, -1, NOTHING)?;
        world.forget();
        Ok(())
    }

    fn add_wakeup(&mut self, fd: RawFd, token: Token) -> io::Result<WakeupTrigger> {
        let mut world = self.0.borrow_mut();
        assert!(!world.watch_of_token.contains_key(&token.to_bits()));
        assert_eq!(world.wakeup.replace(fd), None, "it is registered once");
        Ok(WakeupTrigger::Edge)
    }

    fn fall_back(&mut self) -> bool {
        let mut world = self.0.borrow_mut();
        if world.falls_back {
            world.forget();
        }
        world.falls_back
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        // With an instance goes what is in it.
        self.0.borrow_mut().held.clear();
    }
}

/// A source that knows whether it leaves the set before it goes.
struct Source {
    socket: Rc<UnixStream>,
    descriptor: Rc<Descriptor>,
    world: Shared,
}

impl Source {
    fn new(shared: &Shared, descriptor: usize) -> Source {
        let world = shared.borrow();
        let known = &world.descriptors[descriptor];
        known.sources.set(known.sources.get() + 1);
        Source {
            socket: Rc::clone(&world.sockets[descriptor]),
            descriptor: Rc::clone(known),
            world: Rc::clone(shared),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let sources = self.descriptor.sources.get() - 1;
        self.descriptor.sources.set(sources);
        if sources == 0 && !std::thread::panicking() {
            let held = self
                .world
                .borrow()
                .held
                .contains_key(&self.socket.as_raw_fd());
            assert!(!held, "it would be closed while it is in the set");
        }
    }
}

struct Program {
    world: Shared,
    is_real: bool,
}

impl Program {
    fn run(self: &Rc<Self>, context: &Context, operations: &[Operation]) {
        for operation in operations {
            self.step(context, operation);
        }
    }

    /// The event that an index means, of those with a handle.
    fn pick(&self, index: &Index) -> Option<usize> {
        let world = self.world.borrow();
        let with_handle: Vec<usize> = (0..world.events.len())
            .filter(|&event| world.events[event].handle.is_some())
            .collect();
        (!with_handle.is_empty()).then(|| *index.get(&with_handle))
    }

    fn with_handle<R>(&self, event: usize, work: impl FnOnce(&Fd<Source>) -> R) -> Option<R> {
        // Taken out, as the world is looked at by what is called.
        let handle = self.world.borrow_mut().events[event].handle.take()?;
        let result = work(&handle);
        self.world.borrow_mut().events[event].handle = Some(handle);
        Some(result)
    }

    fn set_flags(&self, event: usize, change: impl FnOnce(FdFlags) -> FdFlags) {
        let event = &mut self.world.borrow_mut().events[event];
        if event.is_there {
            event.flags = change(event.flags);
        }
    }

    fn step(self: &Rc<Self>, context: &Context, operation: &Operation) {
        match operation {
            Operation::Add(descriptor, flags) => self.add(context, *descriptor, *flags),
            Operation::SetFlags(index, flags) => {
                if let Some(event) = self.pick(index) {
                    self.set_flags(event, |_| *flags);
                    self.with_handle(event, |handle| handle.set_flags(*flags));
                }
            }
            Operation::Toggle(index, flag, wanted) => {
                if let Some(event) = self.pick(index) {
                    self.set_flags(event, |mut flags| {
                        flags.set(*flag, *wanted);
                        flags
                    });
                    self.with_handle(event, |handle| match *flag {
                        FdFlags::READ => handle.set_readable(*wanted),
                        FdFlags::WRITE => handle.set_writable(*wanted),
                        _ => handle.set_want_error(*wanted),
                    });
                }
            }
            Operation::Remove(index) => {
                if let Some(event) = self.pick(index) {
                    self.with_handle(event, Fd::remove);
                    self.note_removal(event);
                }
            }
            Operation::Drop(index) => {
                if let Some(event) = self.pick(index) {
                    let handle = self.world.borrow_mut().events[event].handle.take();
                    drop(handle);
                    self.note_removal(event);
                }
            }
            Operation::IntoSource(index) => {
                if let Some(event) = self.pick(index) {
                    let handle = self.world.borrow_mut().events[event].handle.take();
                    let source = handle.expect("it was picked").into_source();
                    self.note_removal(event);
                    let is_running = self.world.borrow().events[event].is_running;
                    assert!(source.is_ok() || is_running);
                    drop(source);
                }
            }
            Operation::Detach(index) => {
                if let Some(event) = self.pick(index) {
                    let handle = self.world.borrow_mut().events[event].handle.take();
                    handle.expect("it was picked").detach();
                }
            }
            Operation::RemoveTheRunning => {}
            Operation::Turn => self.turn(context),
            Operation::Fire(descriptor, inner) => {
                {
                    let mut world = self.world.borrow_mut();
                    world.report = Some(*descriptor);
                    world.script = Some(inner.clone());
                    if self.is_real {
                        let _ = world.peers[*descriptor].write(b"x");
                    }
                }
                self.turn(context);
                let mut world = self.world.borrow_mut();
                (world.report, world.script) = (None, None);
            }
            Operation::Reinitialise => self.reinitialise(context),
            Operation::Refuse(method, number) => {
                self.world.borrow_mut().refuse = Some((*method, *number));
            }
        }
    }

    fn add(self: &Rc<Self>, context: &Context, descriptor: usize, flags: FdFlags) {
        let source = Source::new(&self.world, descriptor);
        let id = {
            let mut world = self.world.borrow_mut();
            // A registration of its own, should this be the only event.
            if !world.has_events(descriptor) {
                world.next_watch += 1;
                world.watches[descriptor] = world.next_watch;
            }
            world.has_been_refused = false;
            world.in_turn = false;
            world.events.push(Event {
                descriptor,
                flags,
                is_there: false,
                suspended: false,
                is_running: false,
                handle: None,
            });
            world.events.len() - 1
        };
        let program = Rc::clone(self);
        self.world.borrow_mut().is_adding = true;
        let added = context.add_fd(source, flags, move |context, event, flags| {
            program.handle(context, event, flags, id);
        });
        self.world.borrow_mut().is_adding = false;
        match added {
            Ok(handle) => {
                let mut world = self.world.borrow_mut();
                let event = &mut world.events[id];
                event.is_there = true;
                event.handle = Some(handle);
                let number = world.numbers[descriptor];
                world.expect_update(number);
            }
            Err(error) => {
                assert!(self.world.borrow().has_been_refused, "{error}");
                let (source, _) = error.into_parts();
                drop(source);
            }
        }
    }

    fn note_removal(&self, event: usize) {
        let mut world = self.world.borrow_mut();
        if !mem::take(&mut world.events[event].is_there) {
            return;
        }
        let descriptor = world.events[event].descriptor;
        // One that leaves others behind is told with the next wait.
        if !world.has_events(descriptor) {
            let number = world.numbers[descriptor];
            if world.armed.remove(&number).is_some() {
                world.expected.push(Call(Method::Remove, number, 0));
            }
            let held = world.held.contains_key(&number);
            assert!(!held, "the last event leaves the set at once");
        }
    }

    fn turn(self: &Rc<Self>, context: &Context) {
        {
            let mut world = self.world.borrow_mut();
            world.in_turn = true;
            world.has_been_refused = false;
        }
        let waits = self.world.borrow().waits;
        let ran = context.run_once();
        let mut world = self.world.borrow_mut();
        world.in_turn = false;
        match ran {
            Ok(ran) if self.is_real => {
                drop(world);
                // Otherwise the handler has looked.
                if !ran {
                    self.check_kernel(context);
                }
            }
            Ok(_) => assert!(world.waits > waits, "with a batch of one, every turn waits"),
            Err(error) => {
                assert!(world.has_been_refused, "{error}");
                // All other changes were made before it was returned, and nobody has waited.
                if !world.reopening_failed {
                    for number in world.numbers.clone() {
                        world.expect_update(number);
                    }
                }
            }
        }
    }

    fn handle(self: &Rc<Self>, context: &Context, fd: &Fd<Source>, flags: FdFlags, id: usize) {
        common::drain(&fd.get_ref().socket);
        let script = {
            let mut world = self.world.borrow_mut();
            let event = &mut world.events[id];
            assert!(
                event.is_there && !event.suspended && !event.is_running,
                "it can be called"
            );
            assert!(
                event.flags.contains(flags) && !flags.is_empty(),
                "it wants {flags:?}"
            );
            event.is_running = true;
            world.in_turn = false;
            world.script.take()
        };
        if self.is_real {
            self.check_kernel(context);
        }
        let script = script.unwrap_or_default();
        for operation in &script {
            match operation {
                Operation::RemoveTheRunning => {
                    fd.remove();
                    self.note_removal(id);
                }
                Operation::Turn | Operation::Fire(..) => {
                    // From the first inner loop on, until this returns.
                    self.world.borrow_mut().events[id].suspended = true;
                    self.step(context, operation);
                }
                _ => self.step(context, operation),
            }
        }
        let event = &mut self.world.borrow_mut().events[id];
        (event.is_running, event.suspended) = (false, false);
    }

    fn reinitialise(&self, context: &Context) {
        let outcome = {
            let mut world = self.world.borrow_mut();
            world.has_been_refused = true;
            world.in_turn = false;
            drop(world);
            context.reinitialise()
        };
        let mut world = self.world.borrow_mut();
        for event in &mut world.events {
            event.is_there = false;
        }
        assert!(
            world.held.is_empty(),
            "nothing is left in the set: {outcome:?}"
        );
        world.armed.clear();
        world.expected.clear();
        world.calls.clear();
    }

    /// The kernel's own word: what the latest wait has left in the set.
    fn check_kernel(&self, context: &Context) {
        let info = format!("/proc/self/fdinfo/{}", context.as_raw_fd());
        let info = std::fs::read_to_string(info).expect("proc");
        let world = self.world.borrow();
        let mut held = BTreeMap::new();
        let mut data = HashSet::new();
        for line in info.lines().filter(|line| line.starts_with("tfd:")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number: RawFd = words[1].parse().expect("a number");
            let events = u32::from_str_radix(words[3], 16).expect("hexadecimal");
            assert!(data.insert(words[5].to_owned()), "a token is used once");
            if world.numbers.contains(&number) {
                held.insert(number, events as i32 & (libc::EPOLLIN | libc::EPOLLOUT));
            }
        }
        let bits = |flags: FdFlags| {
            let read = if flags.contains(READ) {
                libc::EPOLLIN
            } else {
                0
            };
            let write = if flags.contains(WRITE) {
                libc::EPOLLOUT
            } else {
                0
            };
            read | write
        };
        let wanted: BTreeMap<RawFd, i32> = world
            .wanted()
            .into_iter()
            .map(|(number, flags)| (number, bits(flags)))
            .collect();
        assert_eq!(held, wanted, "the kernel holds what is wanted");
    }
}

fn play(context: &Context, program: Program, operations: &[Operation]) {
    let program = Rc::new(program);
    context.set_wait_timeout(Some(Duration::ZERO));
    context.set_nesting_allowed(true);
    program.run(context, operations);
    program.turn(context);
    // Handles refer to the world, and the world to them.
    let handles: Vec<_> = {
        let mut world = program.world.borrow_mut();
        world
            .events
            .iter_mut()
            .filter_map(|event| event.handle.take())
            .collect()
    };
    drop(handles);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_backend_is_told_what_is_wanted_and_nothing_more(
        operations in operations(true),
        falls_back: bool,
    ) {
        let world = World::new(falls_back);
        let backend = Box::new(Checking(Rc::clone(&world)));
        let context = Context::builder().custom_backend(backend).batch(1).build().unwrap();
        play(&context, Program { world: Rc::clone(&world), is_real: false }, &operations);
        drop(context);
        prop_assert!(world.borrow().waits > 0);
    }
}

#[cfg(target_os = "linux")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_kernels_set_is_what_is_wanted(operations in operations(false), standard: bool) {
        let kind = if standard { BackendKind::Standard } else { BackendKind::Epoll };
        let context = Context::builder().backend(kind).batch(1).build().unwrap();
        play(&context, Program { world: World::new(false), is_real: true }, &operations);
    }
}
