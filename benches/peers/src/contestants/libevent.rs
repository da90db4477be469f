//! libevent 2.1, from its documentation and its headers.
//!
//! - the base has a change list (`EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST`), the documented way to save
//!   system calls when interest changes often, and no locks but where threads post
//! - reading and writing are an event each, as the library wants it: interest in writing is changed
//!   by `event_add` and `event_del` of the second
//! - timers are persistent objects, armed by `event_add`, disarmed by `event_del`
//! - what an immediate is for is done by `event_active`, which calls the event again before the loop
//!   waits
//! - other threads use a vector of closures in a mutex, and `event_active` when it was empty

use crate::echo::{accept, answer};
use crate::library;
use crate::run::{Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Posts, Random, STEP, far, make_ready, near, pair, pairs, put,
    raise, take,
};
use crate::workload::{Thing, Work};
use std::ffi::{c_int, c_short, c_void};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::thread;
use std::time::Duration;

library! {
    Libevent from c"libevent_core-2.1.so.7" {
        event_config_new: fn() -> Config;
        event_config_set_flag: fn(Config, c_int) -> c_int;
        event_base_new_with_config: fn(Config) -> Base;
        event_base_loop: fn(Base, c_int) -> c_int;
        event_base_loopbreak: fn(Base) -> c_int;
        event_new: fn(Base, c_int, c_short, Callback, *mut c_void) -> Event;
        event_add: fn(Event, *const libc::timeval) -> c_int;
        event_del: fn(Event) -> c_int;
        event_free: fn(Event);
        event_active: fn(Event, c_int, c_short);
        event_pending: fn(Event, c_short, *mut libc::timeval) -> c_int;
    }
}

library! {
    Pthreads from c"libevent_pthreads-2.1.so.7" {
        evthread_use_pthreads: fn() -> c_int;
    }
}

type Config = *mut c_void;
type Base = *mut c_void;
type Event = *mut c_void;
type Callback = extern "C" fn(c_int, c_short, *mut c_void);

const TIMEOUT: c_short = 1;
const READ: c_short = 2;
const WRITE: c_short = 4;
const SIGNAL: c_short = 8;
const PERSIST: c_short = 16;
const NO_LOCK: c_int = 1;
const USE_CHANGELIST: c_int = 16;
const RUN: c_int = 0;
const RUN_NO_WAIT: c_int = 2;
const RUN_ON_EMPTY: c_int = 4;

/// What the callbacks know of.
struct Shared {
    libevent: Libevent,
    base: Base,
    calls: Countdown,
    pongs: Countdown,
    posts: Posts<u64>,
}

/// What the program keeps with a descriptor.
struct Ends {
    shared: *const Shared,
    fd: RawFd,
    peer: RawFd,
    /// The event of the same descriptor that waits for writability.
    writable: Event,
}

/// An event's argument.
fn pointer<T>(value: &T) -> *mut c_void {
    ptr::from_ref(value).cast_mut().cast()
}

#[inline(always)]
unsafe fn data<'a, T>(argument: *mut c_void) -> &'a T {
    unsafe { &*argument.cast::<T>() }
}

unsafe fn new_base(libevent: &Libevent, lock: bool) -> Base {
    unsafe {
        let config = (libevent.event_config_new)();
        let locking = if lock { 0 } else { NO_LOCK };
        (libevent.event_config_set_flag)(config, USE_CHANGELIST | locking);
        let base = (libevent.event_base_new_with_config)(config);
        assert!(!base.is_null(), "a base");
        base
    }
}

impl Shared {
    unsafe fn event(
        &self,
        fd: c_int,
        what: c_short,
        callback: Callback,
        data: *mut c_void,
    ) -> Event {
        let event = unsafe { (self.libevent.event_new)(self.base, fd, what, callback, data) };
        assert!(!event.is_null(), "an event");
        event
    }

    unsafe fn watch(&self, ends: &Ends, callback: Callback) {
        unsafe {
            let event = self.event(ends.fd, READ | PERSIST, callback, pointer(ends));
            (self.libevent.event_add)(event, ptr::null());
        }
    }

    unsafe fn run(&self, flags: c_int) {
        unsafe { (self.libevent.event_base_loop)(self.base, flags) };
    }

    #[inline(always)]
    unsafe fn tick(&self) {
        if self.calls.tick() {
            unsafe { (self.libevent.event_base_loopbreak)(self.base) };
        }
    }
}

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let libevent = Libevent::load()?;
    let posts = matches!(work, Work::Remote);
    let pthreads = posts.then(Pthreads::load).transpose()?;
    // SAFETY: everything that is given to the library lives as long as the loop is run, and
    // functions are as its headers say.
    unsafe {
        if let Some(pthreads) = pthreads {
            assert_eq!((pthreads.evthread_use_pthreads)(), 0);
        }
        let base = new_base(&libevent, posts);
        let shared = &Shared {
            libevent,
            base,
            calls: Countdown::new(run.operations),
            pongs: Countdown::new(run.operations),
            posts: Posts::default(),
        };
        match work {
            Work::PingPong => ping_pong(shared, run),
            Work::Ready { ready, registered } => some_ready(shared, run, ready, registered),
            Work::Rearm { outstanding } => rearm(shared, run, outstanding),
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
    unsafe { run.timed(|| shared.run(RUN)) };
    run.did(shared.calls.done());
}

unsafe fn ping_pong(shared: &Shared, run: &mut Run) {
    extern "C" fn on_ping(fd: c_int, _: c_short, ends: *mut c_void) {
        let ends = unsafe { data::<Ends>(ends) };
        take(fd);
        put(fd);
        unsafe { &*ends.shared }.pongs.tick();
    }
    extern "C" fn on_pong(fd: c_int, _: c_short, ends: *mut c_void) {
        let ends = unsafe { data::<Ends>(ends) };
        take(fd);
        put(fd);
        unsafe { (*ends.shared).tick() };
    }
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ends = [
        (a.as_raw_fd(), b.as_raw_fd()),
        (b.as_raw_fd(), a.as_raw_fd()),
    ];
    let ends = ends.map(|(fd, peer)| Ends {
        shared,
        fd,
        peer,
        writable: ptr::null_mut(),
    });
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

extern "C" fn on_ready(fd: c_int, _: c_short, ends: *mut c_void) {
    let ends = unsafe { data::<Ends>(ends) };
    take(fd);
    put(ends.peer);
    unsafe { (*ends.shared).tick() };
}

unsafe fn some_ready(shared: &Shared, run: &mut Run, ready: usize, registered: usize) {
    let pairs = pairs(0, registered);
    let ends: Vec<Ends> = pairs
        .iter()
        .map(|(a, b)| Ends {
            shared,
            fd: a.as_raw_fd(),
            peer: b.as_raw_fd(),
            writable: ptr::null_mut(),
        })
        .collect();
    unsafe {
        for ends in &ends {
            shared.watch(ends, on_ready);
        }
        shared.run(RUN_NO_WAIT);
        make_ready(&pairs, ready);
        finish(shared, run);
    }
}

extern "C" fn on_toggle(fd: c_int, _: c_short, ends: *mut c_void) {
    unsafe {
        let ends = data::<Ends>(ends);
        let shared = &*ends.shared;
        take(fd);
        (shared.libevent.event_add)(ends.writable, ptr::null());
        (shared.libevent.event_del)(ends.writable);
        put(ends.peer);
        shared.tick();
    }
}

extern "C" fn on_lasting_toggle(fd: c_int, events: c_short, ends: *mut c_void) {
    unsafe {
        let ends = data::<Ends>(ends);
        let shared = &*ends.shared;
        if events & READ != 0 {
            take(fd);
            (shared.libevent.event_add)(ends.writable, ptr::null());
        } else {
            (shared.libevent.event_del)(ends.writable);
            put(ends.peer);
            shared.tick();
        }
    }
}

unsafe fn one_event(shared: &Shared, run: &mut Run, callback: Callback) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let mut ends = Box::new(Ends {
        shared,
        fd: source.as_raw_fd(),
        peer: peer.as_raw_fd(),
        writable: ptr::null_mut(),
    });
    unsafe {
        ends.writable = shared.event(ends.fd, WRITE | PERSIST, callback, pointer(&*ends));
        shared.watch(&ends, callback);
        finish(shared, run);
    }
}

extern "C" fn never(_: c_int, _: c_short, _: *mut c_void) {
    eprintln!("a timer that was far away has fired");
    std::process::abort();
}

extern "C" fn on_timer(_: c_int, _: c_short, shared: *mut c_void) {
    unsafe { data::<Shared>(shared) }.calls.tick();
}

fn timeval(duration: Duration) -> libc::timeval {
    libc::timeval {
        tv_sec: duration.as_secs() as libc::time_t,
        tv_usec: duration.subsec_micros().into(),
    }
}

fn far_timevals() -> Drawn<libc::timeval> {
    Drawn::new(|random| timeval(far(random)))
}

unsafe fn armed(shared: &Shared, count: usize) -> Vec<Event> {
    let mut random = Random::new();
    let mut new = |_| unsafe {
        let event = shared.event(-1, 0, never, ptr::null_mut());
        (shared.libevent.event_add)(event, &timeval(far(&mut random)));
        event
    };
    (0..count).map(&mut new).collect()
}

unsafe fn rearm(shared: &Shared, run: &mut Run, outstanding: usize) {
    let libevent = &shared.libevent;
    let after = &mut far_timevals();
    let operations = run.operations;
    unsafe {
        armed(shared, outstanding);
        let timer = shared.event(-1, 0, on_timer, pointer(shared));
        run.timed(|| {
            for _ in 0..operations {
                (libevent.event_add)(timer, &after.next());
                (libevent.event_del)(timer);
            }
        });
        let pending = (libevent.event_pending)(timer, TIMEOUT, ptr::null_mut());
        assert_eq!(pending, 0, "it isn't armed");
        (libevent.event_add)(timer, &timeval(Duration::ZERO));
        shared.run(RUN_NO_WAIT);
    }
    assert_eq!(shared.calls.done(), 1, "it fired once");
    run.did(operations);
}

unsafe fn churn(shared: &Shared, run: &mut Run, outstanding: usize) {
    let libevent = &shared.libevent;
    let after = &mut far_timevals();
    let operations = run.operations;
    let mut pending = 0;
    unsafe {
        armed(shared, outstanding);
        run.timed(|| {
            for number in 0..operations {
                let timer = shared.event(-1, 0, never, number as *mut c_void);
                pending += u64::from((libevent.event_add)(timer, &after.next()) == 0);
                (libevent.event_free)(timer);
            }
        });
    }
    run.did(pending);
}

unsafe fn postpone(shared: &Shared, run: &mut Run, outstanding: usize) {
    let libevent = &shared.libevent;
    let timers = unsafe { armed(shared, outstanding) };
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut after = 2 * HOUR;
    let operations = run.operations;
    let mut moved = 0;
    run.timed(|| {
        for _ in 0..operations {
            after += STEP;
            let result = unsafe { (libevent.event_add)(timers[chosen.next()], &timeval(after)) };
            moved += u64::from(result == 0);
        }
    });
    run.did(moved);
}

unsafe fn fire(shared: &Shared, run: &mut Run, count: usize) {
    let libevent = &shared.libevent;
    for _ in 0..run.operations / count as u64 {
        let mut after = Drawn::new(|random| timeval(near(random)));
        unsafe {
            run.timed(|| {
                for _ in 0..count {
                    let timer = shared.event(-1, 0, on_timer, pointer(shared));
                    (libevent.event_add)(timer, &after.next());
                }
            });
            thread::sleep(ALL_DUE);
            run.timed(|| shared.run(RUN));
        }
    }
    run.did(shared.calls.done());
}

unsafe fn immediate(shared: &Shared, run: &mut Run) {
    struct Again {
        shared: *const Shared,
        event: Event,
    }
    extern "C" fn on_active(_: c_int, _: c_short, again: *mut c_void) {
        unsafe {
            let again = data::<Again>(again);
            let shared = &*again.shared;
            if !shared.calls.tick() {
                (shared.libevent.event_active)(again.event, TIMEOUT.into(), 0);
            }
        }
    }
    let mut again = Box::new(Again {
        shared,
        event: ptr::null_mut(),
    });
    unsafe {
        again.event = shared.event(-1, 0, on_active, pointer(&*again));
        (shared.libevent.event_active)(again.event, TIMEOUT.into(), 0);
        finish(shared, run);
    }
}

unsafe fn signal(shared: &Shared, run: &mut Run) {
    extern "C" fn on_signal(_: c_int, _: c_short, shared: *mut c_void) {
        let shared = unsafe { data::<Shared>(shared) };
        match shared.calls.tick() {
            true => unsafe {
                (shared.libevent.event_base_loopbreak)(shared.base);
            },
            false => raise(),
        }
    }
    unsafe {
        let event = shared.event(libc::SIGUSR1, SIGNAL | PERSIST, on_signal, pointer(shared));
        (shared.libevent.event_add)(event, ptr::null());
        raise();
        finish(shared, run);
    }
}

unsafe fn remote(shared: &Shared, run: &mut Run) {
    extern "C" fn on_posts(_: c_int, _: c_short, shared: *mut c_void) {
        let shared = unsafe { data::<Shared>(shared) };
        let mut called = 0;
        shared.posts.call_all(&mut called);
        for _ in 0..called {
            unsafe { shared.tick() };
        }
    }
    let event = unsafe { shared.event(-1, PERSIST, on_posts, pointer(shared)) } as usize;
    let activate = shared.libevent.event_active;
    shared.posts.post_from_another_thread(
        run.operations,
        // The base has locks.
        move || unsafe { activate(event as Event, READ.into(), 0) },
        |start| {
            run.timed(|| {
                start.wait();
                unsafe { shared.run(RUN_ON_EMPTY) }
            });
        },
    );
    run.did(shared.calls.done());
}

unsafe fn echo(shared: &Shared, run: &mut Run, connections: usize) {
    extern "C" fn on_request(fd: c_int, _: c_short, shared: *mut c_void) {
        answer(fd);
        unsafe { data::<Shared>(shared).tick() };
    }
    let clients = accept(connections);
    unsafe {
        for client in &clients {
            let (fd, what) = (client.as_raw_fd(), READ | PERSIST);
            let event = shared.event(fd, what, on_request, pointer(shared));
            (shared.libevent.event_add)(event, ptr::null());
        }
        shared.run(RUN_NO_WAIT);
        run.served(|| shared.run(RUN));
    }
    run.did(shared.calls.done());
}

unsafe fn hold(shared: &Shared, run: &mut Run, thing: Thing, count: usize) {
    extern "C" fn ignore(_: c_int, _: c_short, _: *mut c_void) {}
    let libevent = &shared.libevent;
    unsafe {
        match thing {
            Thing::Context => run.weighed(|| {
                for _ in 0..count {
                    new_base(libevent, false);
                }
            }),
            Thing::Fd => {
                let pairs = pairs(0, count);
                run.weighed(|| {
                    for (a, _) in &pairs {
                        let what = READ | PERSIST;
                        let event = shared.event(a.as_raw_fd(), what, ignore, ptr::null_mut());
                        (libevent.event_add)(event, ptr::null());
                    }
                    // The loop tells the kernel when it is about to wait.
                    shared.run(RUN_NO_WAIT);
                });
            }
            Thing::Timer => {
                run.weighed(|| armed(shared, count));
            }
            Thing::Immediate => run.weighed(|| {
                for _ in 0..count {
                    let event = shared.event(-1, 0, ignore, ptr::null_mut());
                    (libevent.event_active)(event, TIMEOUT.into(), 0);
                }
            }),
            Thing::Signal => run.weighed(|| {
                for _ in 0..count {
                    let what = SIGNAL | PERSIST;
                    let event = shared.event(libc::SIGUSR1, what, ignore, ptr::null_mut());
                    (libevent.event_add)(event, ptr::null());
                }
            }),
        }
    }
}
