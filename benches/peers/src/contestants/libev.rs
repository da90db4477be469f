//! libev 4, from its manual and its header.
//!
//! - watchers are part of the program's own structures, so nothing is allocated but these
//! - interest is changed by `ev_io_stop`, `ev_io_modify`, `ev_io_start`: the loop tells the kernel when
//!   it is about to wait
//! - timers are postponed by `ev_timer_again`, as the manual advises
//! - what an immediate is for is done by `ev_feed_event`, which calls the watcher again before the
//!   loop waits. (`ev_idle` and `ev_prepare` wait in between.)
//! - other threads use a vector of closures in a mutex, and `ev_async_send` when it was empty

use crate::echo::{accept, answer};
use crate::library;
use crate::run::{Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Posts, Random, STEP, far, make_ready, near, pair, pairs, put,
    raise, take,
};
use crate::workload::{Thing, Work};
use std::ffi::{c_int, c_uint, c_void};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::thread;

library! {
    Libev from c"libev.so.4" {
        ev_loop_new: fn(c_uint) -> Loop;
        ev_default_loop: fn(c_uint) -> Loop;
        ev_run: fn(Loop, c_int) -> c_int;
        ev_break: fn(Loop, c_int);
        ev_now_update: fn(Loop);
        ev_io_start: fn(Loop, *mut Io);
        ev_io_stop: fn(Loop, *mut Io);
        ev_timer_start: fn(Loop, *mut Timer);
        ev_timer_stop: fn(Loop, *mut Timer);
        ev_timer_again: fn(Loop, *mut Timer);
        ev_timer_remaining: fn(Loop, *mut Timer) -> f64;
        ev_signal_start: fn(Loop, *mut Signal);
        ev_async_start: fn(Loop, *mut Async);
        ev_async_send: fn(Loop, *mut Async);
        ev_feed_event: fn(Loop, *mut c_void, c_int);
    }
}

type Loop = *mut c_void;

const READ: c_int = 1;
const WRITE: c_int = 2;
/// Part of an `ev_io`'s events after `ev_io_set`.
const IOFDSET: c_int = 0x80;
const CUSTOM: c_int = 0x0100_0000;
const NO_WAIT: c_int = 1;
const BREAK_ONE: c_int = 1;
const BACKEND_EPOLL: c_uint = 4;
const NO_ENVIRONMENT: c_uint = 0x0100_0000;

type Callback<W> = extern "C" fn(Loop, *mut W, c_int);

/// What all watchers begin with.
#[repr(C)]
struct Head<W> {
    active: c_int,
    pending: c_int,
    priority: c_int,
    data: *mut c_void,
    callback: Callback<W>,
}

impl<W> Head<W> {
    /// `ev_init`.
    fn new(data: *const Shared, callback: Callback<W>) -> Head<W> {
        Head {
            active: 0,
            pending: 0,
            priority: 0,
            data: data.cast_mut().cast(),
            callback,
        }
    }

    /// # Safety
    ///
    /// The watcher is one that was made by [`Head::new`], and what it was given is there.
    #[inline(always)]
    unsafe fn shared<'a>(&self) -> &'a Shared {
        // SAFETY: the caller's promise.
        unsafe { &*self.data.cast::<Shared>() }
    }
}

/// `ev_io`, and after it what the program keeps with its descriptor.
#[repr(C)]
struct Io {
    head: Head<Io>,
    next: *mut c_void,
    fd: c_int,
    events: c_int,
    peer: RawFd,
}

impl Io {
    fn new(shared: &Shared, callback: Callback<Io>, fd: RawFd, peer: RawFd) -> Box<Io> {
        Box::new(Io {
            head: Head::new(shared, callback),
            next: ptr::null_mut(),
            fd,
            events: READ | IOFDSET,
            peer,
        })
    }
}

/// `ev_timer`.
#[repr(C)]
struct Timer {
    head: Head<Timer>,
    at: f64,
    repeat: f64,
}

impl Timer {
    fn new(shared: &Shared, callback: Callback<Timer>, after: f64) -> Timer {
        Timer {
            head: Head::new(shared, callback),
            at: after,
            repeat: 0.0,
        }
    }
}

/// `ev_signal`.
#[repr(C)]
struct Signal {
    head: Head<Signal>,
    next: *mut c_void,
    signum: c_int,
}

/// `ev_async`.
#[repr(C)]
struct Async {
    head: Head<Async>,
    sent: c_int,
}

/// A watcher that is of no further kind.
#[repr(C)]
struct Plain {
    head: Head<Plain>,
}

/// What the callbacks know of.
struct Shared {
    libev: Libev,
    calls: Countdown,
    pongs: Countdown,
    posts: Posts<u64>,
}

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let shared = &Shared {
        libev: Libev::load()?,
        calls: Countdown::new(run.operations),
        pongs: Countdown::new(run.operations),
        posts: Posts::default(),
    };
    // SAFETY: everything that is given to the library lives until it is stopped, or as long as the
    // loop is run; and structures and functions are as its header says.
    unsafe {
        // Only the default loop has signals.
        let flags = BACKEND_EPOLL | NO_ENVIRONMENT;
        let ev = match work {
            Work::Signal | Work::Hold(Thing::Signal, _) => (shared.libev.ev_default_loop)(flags),
            _ => (shared.libev.ev_loop_new)(flags),
        };
        assert!(!ev.is_null(), "a loop");
        match work {
            Work::PingPong => ping_pong(shared, ev, run),
            Work::Ready { ready, registered } => some_ready(shared, ev, run, ready, registered),
            Work::Rearm { outstanding } => rearm(shared, ev, run, outstanding),
            Work::Churn { outstanding } => churn(shared, ev, run, outstanding),
            Work::Postpone { outstanding } => postpone(shared, ev, run, outstanding),
            Work::Fire { timers } => fire(shared, ev, run, timers),
            Work::Immediate => immediate(shared, ev, run),
            Work::Signal => signal(shared, ev, run),
            Work::Remote => remote(shared, ev, run),
            Work::Toggle => one_event(shared, ev, run, on_toggle),
            Work::LastingToggle => one_event(shared, ev, run, on_lasting_toggle),
            Work::Echo { connections } => echo(shared, ev, run, connections),
            Work::Hold(thing, count) => hold(shared, ev, run, thing, count),
        }
    }
    Ok(())
}

unsafe fn finish(shared: &Shared, ev: Loop, run: &mut Run) {
    unsafe { run.timed(|| (shared.libev.ev_run)(ev, 0)) };
    run.did(shared.calls.done());
}

impl Shared {
    #[inline(always)]
    unsafe fn tick(&self, ev: Loop) {
        if self.calls.tick() {
            unsafe { (self.libev.ev_break)(ev, BREAK_ONE) };
        }
    }
}

unsafe fn ping_pong(shared: &Shared, ev: Loop, run: &mut Run) {
    extern "C" fn on_ping(_: Loop, watcher: *mut Io, _: c_int) {
        let watcher = unsafe { &*watcher };
        take(watcher.fd);
        put(watcher.fd);
        unsafe { watcher.head.shared() }.pongs.tick();
    }
    extern "C" fn on_pong(ev: Loop, watcher: *mut Io, _: c_int) {
        let watcher = unsafe { &*watcher };
        take(watcher.fd);
        put(watcher.fd);
        unsafe { watcher.head.shared().tick(ev) };
    }
    let (a, b) = pair();
    put(b.as_raw_fd());
    let mut ping = Io::new(shared, on_ping, a.as_raw_fd(), b.as_raw_fd());
    let mut pong = Io::new(shared, on_pong, b.as_raw_fd(), a.as_raw_fd());
    unsafe {
        (shared.libev.ev_io_start)(ev, &mut *ping);
        (shared.libev.ev_io_start)(ev, &mut *pong);
        finish(shared, ev, run);
    }
    assert_eq!(
        shared.calls.done(),
        shared.pongs.done(),
        "every ping has its pong"
    );
}

extern "C" fn on_ready(ev: Loop, watcher: *mut Io, _: c_int) {
    let watcher = unsafe { &*watcher };
    take(watcher.fd);
    put(watcher.peer);
    unsafe { watcher.head.shared().tick(ev) };
}

unsafe fn some_ready(shared: &Shared, ev: Loop, run: &mut Run, ready: usize, registered: usize) {
    let pairs = pairs(0, registered);
    let mut watchers: Vec<Box<Io>> = pairs
        .iter()
        .map(|(a, b)| Io::new(shared, on_ready, a.as_raw_fd(), b.as_raw_fd()))
        .collect();
    unsafe {
        for watcher in &mut watchers {
            (shared.libev.ev_io_start)(ev, &mut **watcher);
        }
        (shared.libev.ev_run)(ev, NO_WAIT);
        make_ready(&pairs, ready);
        finish(shared, ev, run);
    }
}

/// `ev_io_stop`, `ev_io_modify`, `ev_io_start`.
unsafe fn set_interest(libev: &Libev, ev: Loop, watcher: *mut Io, events: c_int) {
    unsafe {
        (libev.ev_io_stop)(ev, watcher);
        (*watcher).events = (*watcher).events & IOFDSET | events;
        (libev.ev_io_start)(ev, watcher);
    }
}

extern "C" fn on_toggle(ev: Loop, watcher: *mut Io, _: c_int) {
    unsafe {
        let shared = (*watcher).head.shared();
        take((*watcher).fd);
        set_interest(&shared.libev, ev, watcher, READ | WRITE);
        set_interest(&shared.libev, ev, watcher, READ);
        put((*watcher).peer);
        shared.tick(ev);
    }
}

extern "C" fn on_lasting_toggle(ev: Loop, watcher: *mut Io, events: c_int) {
    unsafe {
        let shared = (*watcher).head.shared();
        if events & READ != 0 {
            take((*watcher).fd);
            set_interest(&shared.libev, ev, watcher, READ | WRITE);
        } else {
            set_interest(&shared.libev, ev, watcher, READ);
            put((*watcher).peer);
            shared.tick(ev);
        }
    }
}

unsafe fn one_event(shared: &Shared, ev: Loop, run: &mut Run, callback: Callback<Io>) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let mut watcher = Io::new(shared, callback, source.as_raw_fd(), peer.as_raw_fd());
    unsafe {
        (shared.libev.ev_io_start)(ev, &mut *watcher);
        finish(shared, ev, run);
    }
}

extern "C" fn never(_: Loop, _: *mut Timer, _: c_int) {
    eprintln!("a timer that was far away has fired");
    std::process::abort();
}

fn far_seconds() -> Drawn<f64> {
    Drawn::new(|random| far(random).as_secs_f64())
}

#[allow(clippy::vec_box, reason = "the loop has their addresses")]
unsafe fn armed(shared: &Shared, ev: Loop, count: usize) -> Vec<Box<Timer>> {
    let mut random = Random::new();
    let mut new = |_| {
        let after = far(&mut random).as_secs_f64();
        let mut timer = Box::new(Timer::new(shared, never, after));
        unsafe { (shared.libev.ev_timer_start)(ev, &mut *timer) };
        timer
    };
    (0..count).map(&mut new).collect()
}

extern "C" fn on_timer(_: Loop, timer: *mut Timer, _: c_int) {
    unsafe { (*timer).head.shared() }.calls.tick();
}

unsafe fn rearm(shared: &Shared, ev: Loop, run: &mut Run, outstanding: usize) {
    let libev = &shared.libev;
    let after = &mut far_seconds();
    let operations = run.operations;
    let _others = unsafe { armed(shared, ev, outstanding) };
    let mut timer = Timer::new(shared, on_timer, 0.0);
    run.timed(|| {
        for _ in 0..operations {
            timer.at = after.next();
            unsafe {
                (libev.ev_timer_start)(ev, &mut timer);
                (libev.ev_timer_stop)(ev, &mut timer);
            }
        }
    });
    assert_eq!(timer.head.active, 0, "it isn't armed");
    timer.at = 0.0;
    unsafe {
        (libev.ev_timer_start)(ev, &mut timer);
        (libev.ev_run)(ev, NO_WAIT);
    }
    assert_eq!(shared.calls.done(), 1, "it fired once");
    run.did(operations);
}

unsafe fn churn(shared: &Shared, ev: Loop, run: &mut Run, outstanding: usize) {
    /// What a closure is in C: a structure with the watcher and what the callback needs.
    #[repr(C)]
    struct WithNumber {
        timer: Timer,
        number: u64,
    }
    let libev = &shared.libev;
    let after = &mut far_seconds();
    let operations = run.operations;
    let _others = unsafe { armed(shared, ev, outstanding) };
    let mut active = 0;
    run.timed(|| {
        for number in 0..operations {
            let timer = Timer::new(shared, never, after.next());
            let mut timer = Box::new(WithNumber { timer, number });
            unsafe {
                (libev.ev_timer_start)(ev, &mut timer.timer);
                active += u64::from(timer.timer.head.active != 0);
                (libev.ev_timer_stop)(ev, &mut timer.timer);
            }
            std::hint::black_box(timer.number);
        }
    });
    run.did(active);
}

unsafe fn postpone(shared: &Shared, ev: Loop, run: &mut Run, outstanding: usize) {
    let libev = &shared.libev;
    let mut timers = unsafe { armed(shared, ev, outstanding) };
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut after = 2.0 * HOUR.as_secs_f64();
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            after += STEP.as_secs_f64();
            let timer = &mut timers[chosen.next()];
            timer.repeat = after;
            unsafe { (libev.ev_timer_again)(ev, &mut **timer) };
        }
    });
    let latest = timers
        .iter_mut()
        .map(|timer| unsafe { (libev.ev_timer_remaining)(ev, &mut **timer) });
    assert!(
        latest.fold(0.0, f64::max) > after - 1.0,
        "the last was moved"
    );
    run.did(operations);
}

unsafe fn fire(shared: &Shared, ev: Loop, run: &mut Run, count: usize) {
    let libev = &shared.libev;
    for _ in 0..run.operations / count as u64 {
        let mut after = Drawn::new(|random| near(random).as_secs_f64());
        let mut timers: Vec<Box<Timer>> = Vec::with_capacity(count);
        unsafe { (libev.ev_now_update)(ev) };
        run.timed(|| {
            for _ in 0..count {
                let mut timer = Box::new(Timer::new(shared, on_timer, after.next()));
                unsafe { (libev.ev_timer_start)(ev, &mut *timer) };
                timers.push(timer);
            }
        });
        thread::sleep(ALL_DUE);
        run.timed(|| unsafe { (libev.ev_run)(ev, 0) });
    }
    run.did(shared.calls.done());
}

unsafe fn immediate(shared: &Shared, ev: Loop, run: &mut Run) {
    extern "C" fn on_fed(ev: Loop, watcher: *mut Plain, _: c_int) {
        let shared = unsafe { (*watcher).head.shared() };
        if !shared.calls.tick() {
            unsafe { (shared.libev.ev_feed_event)(ev, watcher.cast(), CUSTOM) };
        }
    }
    let mut watcher = Plain {
        head: Head::new(shared, on_fed),
    };
    unsafe {
        (shared.libev.ev_feed_event)(ev, (&raw mut watcher).cast(), CUSTOM);
        run.timed(|| (shared.libev.ev_run)(ev, NO_WAIT));
    }
    run.did(shared.calls.done());
}

unsafe fn signal(shared: &Shared, ev: Loop, run: &mut Run) {
    extern "C" fn on_signal(ev: Loop, watcher: *mut Signal, _: c_int) {
        let shared = unsafe { (*watcher).head.shared() };
        match shared.calls.tick() {
            true => unsafe { (shared.libev.ev_break)(ev, BREAK_ONE) },
            false => raise(),
        }
    }
    let mut watcher = Signal {
        head: Head::new(shared, on_signal),
        next: ptr::null_mut(),
        signum: libc::SIGUSR1,
    };
    unsafe { (shared.libev.ev_signal_start)(ev, &mut watcher) };
    raise();
    unsafe { finish(shared, ev, run) };
}

unsafe fn remote(shared: &Shared, ev: Loop, run: &mut Run) {
    extern "C" fn on_posts(ev: Loop, watcher: *mut Async, _: c_int) {
        let shared = unsafe { (*watcher).head.shared() };
        let mut called = 0;
        shared.posts.call_all(&mut called);
        for _ in 0..called {
            unsafe { shared.tick(ev) };
        }
    }
    let mut watcher = Async {
        head: Head::new(shared, on_posts),
        sent: 0,
    };
    unsafe { (shared.libev.ev_async_start)(ev, &mut watcher) };
    let (send, ev_address) = (shared.libev.ev_async_send, ev as usize);
    let watcher = &raw mut watcher as usize;
    let operations = run.operations;
    shared.posts.post_from_another_thread(
        operations,
        // Any thread may send.
        move || unsafe { send(ev_address as Loop, watcher as *mut Async) },
        |start| {
            run.timed(|| {
                start.wait();
                unsafe { (shared.libev.ev_run)(ev, 0) }
            });
        },
    );
    run.did(shared.calls.done());
}

unsafe fn echo(shared: &Shared, ev: Loop, run: &mut Run, connections: usize) {
    extern "C" fn on_request(ev: Loop, watcher: *mut Io, _: c_int) {
        unsafe {
            answer((*watcher).fd);
            (*watcher).head.shared().tick(ev);
        }
    }
    let clients = accept(connections);
    let new = |client: &TcpStream| Io::new(shared, on_request, client.as_raw_fd(), -1);
    let mut watchers: Vec<Box<Io>> = clients.iter().map(new).collect();
    unsafe {
        for watcher in &mut watchers {
            (shared.libev.ev_io_start)(ev, &mut **watcher);
        }
        (shared.libev.ev_run)(ev, NO_WAIT);
        run.served(|| (shared.libev.ev_run)(ev, 0));
    }
    run.did(shared.calls.done());
}

unsafe fn hold(shared: &Shared, ev: Loop, run: &mut Run, thing: Thing, count: usize) {
    let libev = &shared.libev;
    match thing {
        Thing::Context => {
            let flags = BACKEND_EPOLL | NO_ENVIRONMENT;
            run.weighed(|| {
                let new = || unsafe { (libev.ev_loop_new)(flags) };
                (0..count).map(|_| new()).collect::<Vec<Loop>>()
            });
        }
        Thing::Fd => {
            let pairs = pairs(0, count);
            let watchers = run.weighed(|| {
                let mut watchers = Vec::with_capacity(count);
                for (a, b) in &pairs {
                    let mut watcher = Io::new(shared, on_ready, a.as_raw_fd(), b.as_raw_fd());
                    unsafe { (libev.ev_io_start)(ev, &mut *watcher) };
                    watchers.push(watcher);
                }
                // The loop makes room when it tells the kernel.
                unsafe { (libev.ev_run)(ev, NO_WAIT) };
                watchers
            });
            std::mem::forget(watchers);
        }
        Thing::Timer => {
            let timers = run.weighed(|| unsafe { armed(shared, ev, count) });
            std::mem::forget(timers);
        }
        Thing::Immediate => {
            extern "C" fn ignore(_: Loop, _: *mut Plain, _: c_int) {}
            let watchers = run.weighed(|| {
                let new = || {
                    Box::new(Plain {
                        head: Head::new(shared, ignore),
                    })
                };
                let mut watchers: Vec<Box<Plain>> = (0..count).map(|_| new()).collect();
                for watcher in &mut watchers {
                    let watcher = (&raw mut **watcher).cast();
                    unsafe { (libev.ev_feed_event)(ev, watcher, CUSTOM) };
                }
                watchers
            });
            std::mem::forget(watchers);
        }
        Thing::Signal => {
            extern "C" fn ignore(_: Loop, _: *mut Signal, _: c_int) {}
            let watchers = run.weighed(|| {
                let mut watchers = Vec::with_capacity(count);
                for _ in 0..count {
                    let mut watcher = Box::new(Signal {
                        head: Head::new(shared, ignore),
                        next: ptr::null_mut(),
                        signum: libc::SIGUSR1,
                    });
                    unsafe { (libev.ev_signal_start)(ev, &mut *watcher) };
                    watchers.push(watcher);
                }
                watchers
            });
            std::mem::forget(watchers);
        }
    }
}
