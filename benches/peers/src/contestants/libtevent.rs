//! The C library of the model, by its documented interface.
//!
//! - `tevent_loop_once` is called until there is nothing left to do, as its users do
//! - interest is changed by `tevent_fd_set_flags`
//! - a timer is a new one each time: there is none that is armed and disarmed
//! - a closure from another thread takes an immediate, which is scheduled by a threaded context. As
//!   memory of talloc belongs to a thread, the loop's has made all of them before

use crate::echo::{accept, answer};
use crate::library;
use crate::run::{Absence, Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Random, STEP, far, near, pair, pairs, put, raise, take,
};
use crate::workload::{Thing, Work};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::hint::black_box;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

type Opaque = *mut c_void;
type Name = *const c_char;
type FdHandler = extern "C" fn(Opaque, Opaque, u16, *mut c_void);
type TimerHandler = extern "C" fn(Opaque, Opaque, libc::timeval, *mut c_void);
type ImmediateHandler = extern "C" fn(Opaque, Opaque, *mut c_void);
type SignalHandler = extern "C" fn(Opaque, Opaque, c_int, c_int, *mut c_void, *mut c_void);

library! {
    Libtevent from c"libtevent.so.0", c"libtalloc.so.2" {
        tevent_context_init: fn(Opaque) -> Opaque;
        _tevent_add_fd: fn(Opaque, Opaque, c_int, u16, FdHandler, *mut c_void, Name, Name) -> Opaque;
        tevent_fd_set_flags: fn(Opaque, u16);
        _tevent_add_timer: fn(
            Opaque, Opaque, libc::timeval, TimerHandler, *mut c_void, Name, Name,
        ) -> Opaque;
        tevent_update_timer: fn(Opaque, libc::timeval);
        _tevent_create_immediate: fn(Opaque, Name) -> Opaque;
        _tevent_schedule_immediate: fn(Opaque, Opaque, ImmediateHandler, *mut c_void, Name, Name);
        tevent_threaded_context_create: fn(Opaque, Opaque) -> Opaque;
        _tevent_threaded_schedule_immediate: fn(
            Opaque, Opaque, ImmediateHandler, *mut c_void, Name, Name,
        );
        _tevent_add_signal: fn(
            Opaque, Opaque, c_int, c_int, SignalHandler, *mut c_void, Name, Name,
        ) -> Opaque;
        _tevent_loop_once: fn(Opaque, Name) -> c_int;
        _talloc_free: fn(Opaque, Name) -> c_int;
    }
}

const READ: u16 = 1;
const WRITE: u16 = 2;

/// The library wants to know where events are made and what handlers are called.
const HERE: Name = c"peers".as_ptr();

/// What the handlers know of.
struct Shared {
    library: Libtevent,
    ev: Opaque,
    calls: Countdown,
    pongs: Countdown,
}

/// What the program keeps with a descriptor.
struct Ends {
    shared: *const Shared,
    fd: RawFd,
    peer: RawFd,
}

/// A handler's private data.
fn pointer<T>(value: &T) -> *mut c_void {
    ptr::from_ref(value).cast_mut().cast()
}

#[inline(always)]
unsafe fn data<'a, T>(private: *mut c_void) -> &'a T {
    unsafe { &*private.cast::<T>() }
}

impl Shared {
    unsafe fn watch(&self, ends: &Ends, handler: FdHandler) {
        let (ev, add) = (self.ev, self.library._tevent_add_fd);
        let event = unsafe { add(ev, ev, ends.fd, READ, handler, pointer(ends), HERE, HERE) };
        assert!(!event.is_null(), "an event");
    }

    #[inline(always)]
    unsafe fn timer(
        &self,
        when: libc::timeval,
        handler: TimerHandler,
        data: *mut c_void,
    ) -> Opaque {
        let (ev, add) = (self.ev, self.library._tevent_add_timer);
        unsafe { add(ev, ev, when, handler, data, HERE, HERE) }
    }

    /// Makes turns until as many operations are done as were to be.
    unsafe fn run(&self, operations: u64) {
        while self.calls.done() < operations {
            unsafe { (self.library._tevent_loop_once)(self.ev, HERE) };
        }
    }
}

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let library = Libtevent::load()?;
    // SAFETY: everything that is given to the library lives as long as the loop is run, and
    // functions are as its documentation says.
    unsafe {
        let ev = (library.tevent_context_init)(ptr::null_mut());
        assert!(!ev.is_null(), "a context");
        let shared = &Shared {
            library,
            ev,
            calls: Countdown::new(run.operations),
            pongs: Countdown::new(run.operations),
        };
        match work {
            Work::PingPong => ping_pong(shared, run),
            Work::Ready { ready, registered } => some_ready(shared, run, ready, registered),
            Work::Rearm { .. } => return Err(Absence::Lacks("timers to disarm")),
            Work::Churn { outstanding } => churn(shared, run, outstanding),
            Work::Postpone { outstanding } => postpone(shared, run, outstanding),
            Work::Fire { timers } => fire(shared, run, timers),
            Work::Immediate => immediate(shared, run),
            Work::Signal => signal(shared, run),
            Work::Remote => remote(shared, run),
            Work::Toggle => one_event(shared, run, on_toggle),
            Work::LastingToggle => one_event(shared, run, on_lasting_toggle),
            Work::Echo { connections } => echo(shared, run, connections),
            Work::Hold(thing, count) => hold(shared, run, thing, count),
        }
    }
    Ok(())
}

unsafe fn finish(shared: &Shared, run: &mut Run) {
    let operations = run.operations;
    unsafe { run.timed(|| shared.run(operations)) };
    run.did(shared.calls.done());
}

unsafe fn ping_pong(shared: &Shared, run: &mut Run) {
    extern "C" fn on_ping(_: Opaque, _: Opaque, _: u16, ends: *mut c_void) {
        let ends = unsafe { data::<Ends>(ends) };
        take(ends.fd);
        put(ends.fd);
        unsafe { &*ends.shared }.pongs.tick();
    }
    extern "C" fn on_pong(_: Opaque, _: Opaque, _: u16, ends: *mut c_void) {
        let ends = unsafe { data::<Ends>(ends) };
        take(ends.fd);
        put(ends.fd);
        unsafe { &*ends.shared }.calls.tick();
    }
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ends = [
        (a.as_raw_fd(), b.as_raw_fd()),
        (b.as_raw_fd(), a.as_raw_fd()),
    ];
    let ends = ends.map(|(fd, peer)| Ends { shared, fd, peer });
    unsafe {
        shared.watch(&ends[0], on_ping);
        shared.watch(&ends[1], on_pong);
        finish(shared, run);
    }
    assert_eq!(
        shared.calls.done(),
        shared.pongs.done(),
        "every ping has its pong"
    );
}

extern "C" fn on_ready(_: Opaque, _: Opaque, _: u16, ends: *mut c_void) {
    let ends = unsafe { data::<Ends>(ends) };
    take(ends.fd);
    put(ends.peer);
    unsafe { &*ends.shared }.calls.tick();
}

unsafe fn some_ready(shared: &Shared, run: &mut Run, ready: usize, registered: usize) {
    let pairs = pairs(ready, registered);
    let ends: Vec<Ends> = pairs
        .iter()
        .map(|(a, b)| Ends {
            shared,
            fd: a.as_raw_fd(),
            peer: b.as_raw_fd(),
        })
        .collect();
    unsafe {
        for ends in &ends {
            shared.watch(ends, on_ready);
        }
        finish(shared, run);
    }
}

extern "C" fn on_toggle(_: Opaque, event: Opaque, _: u16, ends: *mut c_void) {
    unsafe {
        let ends = data::<Ends>(ends);
        let shared = &*ends.shared;
        take(ends.fd);
        (shared.library.tevent_fd_set_flags)(event, READ | WRITE);
        (shared.library.tevent_fd_set_flags)(event, READ);
        put(ends.peer);
        shared.calls.tick();
    }
}

extern "C" fn on_lasting_toggle(_: Opaque, event: Opaque, flags: u16, ends: *mut c_void) {
    unsafe {
        let ends = data::<Ends>(ends);
        let shared = &*ends.shared;
        if flags & READ != 0 {
            take(ends.fd);
            (shared.library.tevent_fd_set_flags)(event, READ | WRITE);
        } else {
            (shared.library.tevent_fd_set_flags)(event, READ);
            put(ends.peer);
            shared.calls.tick();
        }
    }
}

unsafe fn one_event(shared: &Shared, run: &mut Run, handler: FdHandler) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let ends = Ends {
        shared,
        fd: source.as_raw_fd(),
        peer: peer.as_raw_fd(),
    };
    unsafe {
        shared.watch(&ends, handler);
        finish(shared, run);
    }
}

extern "C" fn never(_: Opaque, _: Opaque, _: libc::timeval, _: *mut c_void) {
    eprintln!("a timer that was far away has fired");
    std::process::abort();
}

extern "C" fn on_timer(_: Opaque, _: Opaque, _: libc::timeval, shared: *mut c_void) {
    unsafe { data::<Shared>(shared) }.calls.tick();
}

/// A time on the wall clock, by which the library goes.
fn timeval(since_epoch: Duration) -> libc::timeval {
    libc::timeval {
        tv_sec: since_epoch.as_secs() as libc::time_t,
        tv_usec: since_epoch.subsec_micros().into(),
    }
}

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().expect("it isn't 1969")
}

/// Timers that aren't to fire. They are added in the order of their deadlines: the library keeps them
/// in a list, and a million at random would take it hours.
unsafe fn armed(shared: &Shared, count: usize) -> Vec<Opaque> {
    let (now, mut random) = (now(), Random::new());
    let mut deadlines: Vec<Duration> = (0..count).map(|_| now + far(&mut random)).collect();
    deadlines.sort();
    let new = |deadline| unsafe { shared.timer(timeval(deadline), never, ptr::null_mut()) };
    deadlines.into_iter().map(new).collect()
}

unsafe fn churn(shared: &Shared, run: &mut Run, outstanding: usize) {
    let now = now();
    let mut when = Drawn::new(|random| timeval(now + far(random)));
    let operations = run.operations;
    let mut freed = 0;
    unsafe {
        armed(shared, outstanding);
        run.timed(|| {
            for number in 0..operations {
                let timer = shared.timer(when.next(), never, number as *mut c_void);
                freed += u64::from((shared.library._talloc_free)(timer, HERE) == 0);
            }
        });
    }
    run.did(freed);
}

unsafe fn postpone(shared: &Shared, run: &mut Run, outstanding: usize) {
    let timers = unsafe { armed(shared, outstanding) };
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut when = now() + 2 * HOUR;
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            when += STEP;
            unsafe {
                (shared.library.tevent_update_timer)(timers[chosen.next()], timeval(when));
            }
        }
    });
    run.did(operations);
}

unsafe fn fire(shared: &Shared, run: &mut Run, count: usize) {
    for round in 1..=run.operations / count as u64 {
        let now = now();
        let mut when = Drawn::new(|random| timeval(now + near(random)));
        unsafe {
            run.timed(|| {
                for _ in 0..count {
                    shared.timer(when.next(), on_timer, pointer(shared));
                }
            });
            thread::sleep(ALL_DUE);
            run.timed(|| shared.run(round * count as u64));
        }
    }
    run.did(shared.calls.done());
}

unsafe fn immediate(shared: &Shared, run: &mut Run) {
    struct Again {
        shared: *const Shared,
        immediate: Opaque,
    }
    unsafe fn schedule(shared: &Shared, again: *mut c_void) {
        let schedule = shared.library._tevent_schedule_immediate;
        unsafe {
            let immediate = data::<Again>(again).immediate;
            schedule(immediate, shared.ev, on_immediate, again, HERE, HERE);
        }
    }
    extern "C" fn on_immediate(_: Opaque, _: Opaque, again: *mut c_void) {
        let shared = unsafe { &*data::<Again>(again).shared };
        if !shared.calls.tick() {
            unsafe { schedule(shared, again) };
        }
    }
    unsafe {
        let again = Again {
            shared,
            immediate: (shared.library._tevent_create_immediate)(shared.ev, HERE),
        };
        schedule(shared, pointer(&again));
        finish(shared, run);
    }
}

unsafe fn remote(shared: &Shared, run: &mut Run) {
    type Closure = Box<dyn FnOnce(&Shared) + Send>;

    struct Poster {
        library: Libtevent,
        threaded: Opaque,
        immediates: Vec<Opaque>,
    }
    // SAFETY: scheduling by a threaded context is for other threads; an immediate is touched by the
    // loop's thread no more before that has been done.
    unsafe impl Send for Poster {}

    impl Poster {
        fn post_all(self) {
            let schedule = self.library._tevent_threaded_schedule_immediate;
            for (number, immediate) in (0..).zip(self.immediates) {
                let closure: Closure = Box::new(move |shared| {
                    black_box::<u64>(number);
                    shared.calls.tick();
                });
                let closure = Box::into_raw(Box::new(closure)).cast();
                unsafe { schedule(self.threaded, immediate, on_posted, closure, HERE, HERE) };
            }
        }
    }

    extern "C" fn on_posted(_: Opaque, _: Opaque, closure: *mut c_void) {
        let closure = unsafe { Box::from_raw(closure.cast::<Closure>()) };
        closure(unsafe { &*LOOP.get() });
    }

    thread_local! {
        static LOOP: Cell<*const Shared> = const { Cell::new(ptr::null()) };
    }
    LOOP.set(shared);
    let poster = unsafe {
        let ev = shared.ev;
        let make = shared.library._tevent_create_immediate;
        Poster {
            library: shared.library,
            threaded: (shared.library.tevent_threaded_context_create)(ev, ev),
            immediates: (0..run.operations).map(|_| make(ev, HERE)).collect(),
        }
    };
    let operations = run.operations;
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let begin = &start;
        scope.spawn(move || {
            begin.wait();
            poster.post_all();
        });
        run.timed(|| {
            start.wait();
            unsafe { shared.run(operations) };
        });
    });
    run.did(shared.calls.done());
}

unsafe fn signal(shared: &Shared, run: &mut Run) {
    extern "C" fn on_signal(
        _: Opaque,
        _: Opaque,
        _: c_int,
        _: c_int,
        _: *mut c_void,
        shared: *mut c_void,
    ) {
        if !unsafe { data::<Shared>(shared) }.calls.tick() {
            raise();
        }
    }
    let (ev, add) = (shared.ev, shared.library._tevent_add_signal);
    let private = pointer(shared);
    unsafe {
        let flags = libc::SA_RESTART;
        let event = add(ev, ev, libc::SIGUSR1, flags, on_signal, private, HERE, HERE);
        assert!(!event.is_null(), "an event");
        raise();
        finish(shared, run);
    }
}

unsafe fn echo(shared: &Shared, run: &mut Run, connections: usize) {
    extern "C" fn on_request(_: Opaque, _: Opaque, _: u16, ends: *mut c_void) {
        let ends = unsafe { data::<Ends>(ends) };
        answer(ends.fd);
        unsafe { &*ends.shared }.calls.tick();
    }
    let clients = accept(connections);
    let new = |client: &TcpStream| Ends {
        shared,
        fd: client.as_raw_fd(),
        peer: -1,
    };
    let ends: Vec<Ends> = clients.iter().map(new).collect();
    let operations = run.operations;
    unsafe {
        for ends in &ends {
            shared.watch(ends, on_request);
        }
        run.served(|| shared.run(operations));
    }
    run.did(shared.calls.done());
}

unsafe fn hold(shared: &Shared, run: &mut Run, thing: Thing, count: usize) {
    extern "C" fn ignore_immediate(_: Opaque, _: Opaque, _: *mut c_void) {}
    extern "C" fn ignore_signal(
        _: Opaque,
        _: Opaque,
        _: c_int,
        _: c_int,
        _: *mut c_void,
        _: *mut c_void,
    ) {
    }
    let (library, ev) = (&shared.library, shared.ev);
    unsafe {
        match thing {
            Thing::Context => run.weighed(|| {
                for _ in 0..count {
                    let ev = (library.tevent_context_init)(ptr::null_mut());
                    assert!(!ev.is_null(), "a context");
                }
            }),
            Thing::Fd => {
                let pairs = pairs(0, count);
                run.weighed(|| {
                    let (add, none) = (library._tevent_add_fd, ptr::null_mut());
                    for (a, _) in &pairs {
                        let fd = a.as_raw_fd();
                        let event = add(ev, ev, fd, READ, on_ready, none, HERE, HERE);
                        assert!(!event.is_null(), "an event");
                    }
                });
            }
            Thing::Timer => {
                run.weighed(|| armed(shared, count));
            }
            Thing::Immediate => run.weighed(|| {
                let (schedule, none) = (library._tevent_schedule_immediate, ptr::null_mut());
                for _ in 0..count {
                    let immediate = (library._tevent_create_immediate)(ev, HERE);
                    schedule(immediate, ev, ignore_immediate, none, HERE, HERE);
                }
            }),
            Thing::Signal => run.weighed(|| {
                let (add, none) = (library._tevent_add_signal, ptr::null_mut());
                for _ in 0..count {
                    let flags = libc::SA_RESTART;
                    let event = add(
                        ev,
                        ev,
                        libc::SIGUSR1,
                        flags,
                        ignore_signal,
                        none,
                        HERE,
                        HERE,
                    );
                    assert!(!event.is_null(), "an event");
                }
            }),
        }
    }
}
