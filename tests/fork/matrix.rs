//! Every place that a process can be forked in, with everything that can be pending there, in every
//! way: parent and child each serve what is theirs, once, and neither touches what is the other's.

use crate::process::{self, sys, tests};
use crate::{BY, By, Flag, fork, in_child, run_what_is_ready};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use tevent::{BackendKind, Context, Fd, FdFlags, Nesting, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    from_outside_the_loop,
    from_handlers_of_descriptors_and_timers,
    from_immediates_and_remote_work,
    from_signal_handlers,
    from_the_handler_of_a_child,
    from_close_callbacks_and_the_nesting_hook,
    from_nested_loops,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Outside,
    Descriptor,
    Timer,
    Immediate,
    Deferred,
    Remote,
    Plain,
    Siginfo,
    Child,
    CloseCallback,
    NestingHook,
    /// In a deferred closure, in loops inside each other.
    Nested(u32),
}

/// What is pending when the process forks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Nothing,
    Signals,
    FullQueue,
    DueTimers,
    Immediates,
    RemoteWork,
    ReadyDescriptors,
    Everything,
}

const STATES: [State; 8] = [
    State::Nothing,
    State::Signals,
    State::FullQueue,
    State::DueTimers,
    State::Immediates,
    State::RemoteWork,
    State::ReadyDescriptors,
    State::Everything,
];

#[derive(Clone, Copy, Debug)]
struct Combination {
    kind: BackendKind,
    place: Place,
    state: State,
    by: By,
    reinitialises: bool,
}

/// Says which cell it was, if there is a panic.
struct Named(Combination);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let side = if is_child() {
                "the child"
            } else {
                "the parent"
            };
            eprintln!("this was {side} of {:?}", self.0);
        }
    }
}

/// What the handlers of pending events were told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Told {
    descriptors: u32,
    timers: u32,
    immediates: u32,
    remote: u32,
    plain: u32,
    values: Vec<usize>,
}

#[derive(Default)]
struct Stage {
    told: Rc<RefCell<Told>>,
    handles: RefCell<Vec<Box<dyn Any>>>,
    peers: RefCell<Vec<UnixStream>>,
}

thread_local! {
    static REMOTE: Cell<u32> = const { Cell::new(0) };
    /// Whose the test is.
    static PARENT: Cell<u32> = const { Cell::new(0) };
    static WORK: Cell<Option<Work>> = const { Cell::new(None) };
}

type Work = Box<dyn FnOnce(&Context)>;

fn is_child() -> bool {
    std::process::id() != PARENT.get()
}

/// Fills a queue, and leaves some with the kernel.
const MANY: usize = 300;

fn queued() -> Signum {
    Signum::realtime(2).expect("a real-time signal")
}

impl Stage {
    fn keep(&self, handle: impl Any) {
        self.handles.borrow_mut().push(Box::new(handle));
    }

    /// Handlers that have to be there before what they are for.
    fn set(&self, context: &Context) {
        let told = Rc::clone(&self.told);
        let plain = move |_: &Context, _: &_, info: &tevent::SignalInfo| {
            told.borrow_mut().plain += info.count;
        };
        let flags = SignalFlags::empty();
        self.keep(context.add_signal(Signum::SIGUSR2, flags, plain).unwrap());
        let told = Rc::clone(&self.told);
        let queue = move |_: &Context, _: &_, info: &tevent::SignalInfo| {
            let value = info.siginfo.and_then(|info| info.value());
            told.borrow_mut().values.push(value.expect("a value"));
        };
        self.keep(
            context
                .add_signal(queued(), SignalFlags::SIGINFO, queue)
                .unwrap(),
        );
    }

    fn prepare(&self, context: &Context, state: State) {
        let is = |wanted| state == wanted || state == State::Everything;
        if is(State::Signals) {
            sys::raise(Signum::SIGUSR2);
            sys::raise(Signum::SIGUSR2);
            if state == State::Signals {
                sys::sigqueue_to_this_thread(queued(), 7);
            }
        }
        if is(State::FullQueue) {
            for value in 0..MANY {
                sys::sigqueue_to_this_thread(queued(), value);
            }
        }
        if is(State::DueTimers) {
            for _ in 0..3 {
                let told = Rc::clone(&self.told);
                self.keep(context.add_timer(context.now(), move |_, _| {
                    told.borrow_mut().timers += 1;
                }));
            }
        }
        if is(State::Immediates) {
            let told = Rc::clone(&self.told);
            let immediate = context.add_immediate(move |_, _| told.borrow_mut().immediates += 1);
            immediate.schedule();
            self.keep(immediate);
            let told = Rc::clone(&self.told);
            context.defer(move |_| told.borrow_mut().immediates += 1);
        }
        if is(State::RemoteWork) {
            for _ in 0..2 {
                context.remote().schedule(|_| REMOTE.set(REMOTE.get() + 1));
            }
        }
        if is(State::ReadyDescriptors) {
            for _ in 0..3 {
                let (ours, mut theirs) = sys::pair();
                theirs.write_all(b"x").unwrap();
                self.peers.borrow_mut().push(theirs);
                let told = Rc::clone(&self.told);
                let event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
                    told.borrow_mut().descriptors += 1;
                    // What is there to be read is the parent's.
                    if !is_child() {
                        event.get_ref().read_exact(&mut [0]).expect("it is there");
                    }
                    event.remove();
                });
                self.keep(event.unwrap());
            }
        }
    }

    /// What each side has to be told of what was prepared.
    fn expected(state: State, is_child: bool, reinitialises: bool) -> Told {
        let is = |wanted| state == wanted || state == State::Everything;
        if is_child && reinitialises {
            return Told::default();
        }
        let count = |wanted, count| if is(wanted) { count } else { 0 };
        Told {
            descriptors: count(State::ReadyDescriptors, 3),
            timers: count(State::DueTimers, 3),
            immediates: count(State::Immediates, 2),
            remote: count(State::RemoteWork, 2),
            // They were sent to the parent.
            plain: if is_child {
                0
            } else {
                count(State::Signals, 2)
            },
            values: match state {
                _ if is_child => Vec::new(),
                State::Signals => vec![7],
                State::FullQueue | State::Everything => (0..MANY).collect(),
                _ => Vec::new(),
            },
        }
    }

    fn assert_told(&self, context: &Context, expected: &Told) {
        run_what_is_ready(context);
        let mut told = self.told.borrow_mut();
        told.remote = REMOTE.get();
        assert_eq!(*told, *expected, "each once, to whom it belongs");
    }
}

/// Has `work` done in a place, and nothing else before it.
fn in_place(context: &Context, place: Place, work: Work) {
    let mut work = Some(work);
    let mut once = move |context: &Context| work.take().expect("it is called once")(context);
    match place {
        Place::Outside => return once(context),
        Place::Descriptor => {
            let (ours, theirs) = sys::pair();
            (&theirs).write_all(b"x").unwrap();
            let event = context.add_fd(ours, FdFlags::READ, move |context, event, _| {
                let _open = &theirs;
                event.get_ref().read_exact(&mut [0]).expect("readable");
                event.remove();
                once(context);
            });
            event.unwrap().detach();
        }
        Place::Timer => context
            .add_timer(context.now(), move |context, _| once(context))
            .detach(),
        Place::Immediate => {
            let immediate = context.add_immediate(move |context, _| once(context));
            immediate.schedule();
            immediate.detach();
        }
        Place::Deferred => context.defer(once),
        Place::Remote => {
            WORK.set(Some(Box::new(once)));
            context
                .remote()
                .schedule(|context| WORK.take().expect("once")(context));
        }
        Place::Plain | Place::Siginfo => {
            let flags = match place {
                Place::Plain => SignalFlags::empty(),
                _ => SignalFlags::SIGINFO,
            };
            let handler = move |context: &Context, _: &_, _: &_| once(context);
            context
                .add_signal(Signum::SIGUSR1, flags, handler)
                .unwrap()
                .detach();
            sys::raise(Signum::SIGUSR1);
        }
        Place::Child => {
            let pid = sys::fork(|| ());
            let handler = move |context: &Context, _: &_, status: std::io::Result<_>| {
                let status: std::process::ExitStatus = status.expect("it is ours");
                assert!(status.success());
                once(context);
            };
            context.add_child(pid, handler).unwrap().detach();
        }
        Place::CloseCallback => {
            let (ours, _theirs) = sys::pair();
            let event = context.add_fd(ours, FdFlags::READ, |_, _, _| ()).unwrap();
            let weak = context.downgrade();
            event.on_close(move |_| once(&weak.upgrade().expect("it is there")));
            context.defer(move |_| drop(event));
        }
        Place::NestingHook => {
            let mut is_first = true;
            context.set_nesting_hook(move |context: &Context, nesting| {
                if std::mem::take(&mut is_first) {
                    assert_eq!(nesting, Nesting::Begin(1));
                    once(context);
                }
            });
            // So that the turn ends.
            context.defer(|_| ());
        }
        Place::Nested(1) => context.defer(once),
        Place::Nested(levels) => {
            context.defer(move |context| {
                in_place(context, Place::Nested(levels - 1), Box::new(once));
            });
        }
    }
    context.run_once().expect("a turn");
}

fn play(cell: Combination) {
    let Combination {
        kind,
        place,
        state,
        by,
        reinitialises,
    } = cell;
    let named = Named(cell);
    PARENT.set(std::process::id());
    REMOTE.set(0);
    let descriptors = sys::open_descriptors();
    let context = process::context(kind);
    context.set_nesting_allowed(true);
    let stage = Rc::new(Stage::default());
    stage.set(&context);
    let standing: Vec<Standing> = (0..3).map(|_| standing_event(&context)).collect();
    run_what_is_ready(&context);
    let done = Flag::default();
    let work = {
        let (stage, done) = (Rc::clone(&stage), done.clone());
        move |context: &Context| {
            let _named = Named(cell);
            assert!(!done.is_up());
            done.raise();
            stage.prepare(context, state);
            let wakeup = sys::wakeup_of_the_only_context();
            let look = || (sys::epoll_sets(), sys::writes_to(wakeup));
            let before = look();
            match fork(context, by) {
                None if reinitialises => {
                    context.reinitialise().expect("it starts over");
                    if place == Place::NestingHook {
                        // The turn of this hook has yet to begin, and would have nothing to do.
                        context.defer(|_| ());
                    }
                }
                None => {}
                Some(pid) => {
                    // The whole life of the child.
                    sys::assert_succeeds(pid);
                    assert_eq!(look(), before, "the set, and how often the loop was woken");
                }
            }
        }
    };
    in_place(&context, place, Box::new(work));
    while !done.is_up() {
        context.run_once().expect("a turn");
    }
    let check = |context: &Context, standing: Vec<Standing>| {
        let is_child = is_child();
        stage.assert_told(context, &Stage::expected(state, is_child, reinitialises));
        sys::assert_own_mask_is_clean();
        if is_child {
            change_the_set(context, standing, reinitialises);
        } else {
            for (_, mut peer, called) in standing {
                peer.write_all(b"x").unwrap();
                assert_eq!(run_what_is_ready(context), 1);
                assert_eq!(called.count(), 1);
            }
        }
        assert_eq!(run_what_is_ready(context), 0, "nothing comes twice");
    };
    if is_child() {
        process::end_with(|| {
            let _named = Named(cell);
            check(&context, standing);
            drop(context);
        });
    }
    check(&context, standing);
    drop(context);
    stage.handles.take();
    stage.peers.take();
    drop(stage);
    assert_eq!(
        sys::open_descriptors(),
        descriptors,
        "no descriptor is left"
    );
    assert!(!sys::has_children(), "no process is left");
    drop(named);
}

/// One that nothing is pending for, its peer, and how often it was called.
type Standing = (Fd<UnixStream>, UnixStream, Flag);

fn standing_event(context: &Context) -> Standing {
    let (ours, theirs) = sys::pair();
    let called = Flag::default();
    let flag = called.clone();
    let event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
        event.get_ref().read_exact(&mut [0]).expect("readable");
        flag.raise();
    });
    (event.unwrap(), theirs, called)
}

/// What a child does with its set: adds, modifies, removes, closes. And it is woken.
fn change_the_set(context: &Context, mut standing: Vec<Standing>, reinitialises: bool) {
    let (added, mut peer, called) = standing_event(context);
    peer.write_all(b"x").unwrap();
    assert_eq!(run_what_is_ready(context), 1);
    assert_eq!(called.count(), 1);
    standing[0]
        .0
        .set_flags(FdFlags::READ | FdFlags::WRITE | FdFlags::ERROR);
    standing[0].0.set_flags(FdFlags::READ | FdFlags::ERROR);
    drop(standing.pop());
    standing[1].0.set_flags(FdFlags::empty());
    run_what_is_ready(context);
    let watched = sys::epoll_sets();
    if context.backend_name() != "poll" {
        let lines = watched.iter().map(|set| set.lines().count()).sum::<usize>();
        // The wake-up descriptor, the new one, and the one that is left of the standing ones.
        let descriptors_of_places = sys::count_of_pidfds();
        let expected = 2 + usize::from(!reinitialises) + descriptors_of_places;
        assert_eq!(watched.len(), 1, "the parent's isn't there any more");
        assert_eq!(lines, expected, "its own set: {watched:?}");
    }
    if !reinitialises {
        // Nobody handles it any more otherwise.
        sys::raise(Signum::SIGUSR2);
        assert_eq!(run_what_is_ready(context), 1);
    }
    context.remote().schedule(|_| REMOTE.set(REMOTE.get() + 1));
    let before = REMOTE.get();
    assert_eq!(run_what_is_ready(context), 1);
    assert_eq!(REMOTE.get(), before + 1);
    added.remove();
    let before = sys::epoll_sets();
    // And its children, and theirs, are as it is.
    fn descend(context: &Context, left: usize) {
        in_child(context, BY[left % 2], || {
            let (_added, mut peer, called) = standing_event(context);
            peer.write_all(b"x").unwrap();
            assert_eq!(run_what_is_ready(context), 1);
            assert_eq!(called.count(), 1);
            if left > 0 {
                descend(context, left - 1);
            }
        });
    }
    descend(context, 1);
    assert_eq!(
        sys::epoll_sets(),
        before,
        "the set of a parent, {watched:?}"
    );
}

fn from(kind: BackendKind, places: &[Place]) {
    for &place in places {
        for state in STATES {
            for by in BY {
                for reinitialises in [false, true] {
                    play(Combination {
                        kind,
                        place,
                        state,
                        by,
                        reinitialises,
                    });
                }
            }
        }
    }
}

fn from_outside_the_loop(kind: BackendKind) {
    from(kind, &[Place::Outside]);
}

fn from_handlers_of_descriptors_and_timers(kind: BackendKind) {
    from(kind, &[Place::Descriptor, Place::Timer]);
}

fn from_immediates_and_remote_work(kind: BackendKind) {
    from(kind, &[Place::Immediate, Place::Deferred, Place::Remote]);
}

fn from_signal_handlers(kind: BackendKind) {
    from(kind, &[Place::Plain, Place::Siginfo]);
}

fn from_the_handler_of_a_child(kind: BackendKind) {
    from(kind, &[Place::Child]);
}

fn from_close_callbacks_and_the_nesting_hook(kind: BackendKind) {
    from(kind, &[Place::CloseCallback, Place::NestingHook]);
}

fn from_nested_loops(kind: BackendKind) {
    from(kind, &[Place::Nested(2), Place::Nested(3)]);
}
