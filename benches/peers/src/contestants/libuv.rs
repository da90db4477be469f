//! libuv 1, from its documentation and its header.
//!
//! - handles are the program's memory, of the size that the library says, with the data pointer
//!   that each begins with
//! - descriptors are watched by `uv_poll_t`; interest is changed by `uv_poll_start`
//! - a timer that ends is closed, and its memory freed in the close callback, which the loop calls:
//!   so churning runs the loop once for a hundred timers
//! - what an immediate is for is done by `uv_idle_t`, which is called in each turn of the loop. There
//!   is nothing that is called before the loop asks the kernel.
//! - signals by `uv_signal_t`
//! - other threads use a vector of closures in a mutex, and `uv_async_send` when it was empty

use crate::echo::{accept, answer};
use crate::library;
use crate::run::{Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Posts, Random, STEP, far, make_ready, near, pair, pairs, put,
    raise, take,
};
use crate::workload::{Thing, Work};
use std::ffi::{c_int, c_void};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::thread;
use std::time::Duration;

library! {
    Libuv from c"libuv.so.1" {
        uv_loop_size: fn() -> usize;
        uv_handle_size: fn(c_int) -> usize;
        uv_loop_init: fn(Loop) -> c_int;
        uv_run: fn(Loop, c_int) -> c_int;
        uv_stop: fn(Loop);
        uv_update_time: fn(Loop);
        uv_close: fn(Handle, Option<extern "C" fn(Handle)>);
        uv_poll_init: fn(Loop, Handle, c_int) -> c_int;
        uv_poll_start: fn(Handle, c_int, extern "C" fn(Handle, c_int, c_int)) -> c_int;
        uv_timer_init: fn(Loop, Handle) -> c_int;
        uv_timer_start: fn(Handle, extern "C" fn(Handle), u64, u64) -> c_int;
        uv_timer_stop: fn(Handle) -> c_int;
        uv_timer_get_due_in: fn(Handle) -> u64;
        uv_is_active: fn(Handle) -> c_int;
        uv_idle_init: fn(Loop, Handle) -> c_int;
        uv_idle_start: fn(Handle, extern "C" fn(Handle)) -> c_int;
        uv_idle_stop: fn(Handle) -> c_int;
        uv_signal_init: fn(Loop, Handle) -> c_int;
        uv_signal_start: fn(Handle, extern "C" fn(Handle, c_int), c_int) -> c_int;
        uv_async_init: fn(Loop, Handle, extern "C" fn(Handle)) -> c_int;
        uv_async_send: fn(Handle) -> c_int;
    }
}

type Loop = *mut c_void;
type Handle = *mut c_void;
type PollCallback = extern "C" fn(Handle, c_int, c_int);

const READABLE: c_int = 1;
const WRITABLE: c_int = 2;
const RUN_DEFAULT: c_int = 0;
const RUN_NO_WAIT: c_int = 2;

/// Of `uv_handle_type`.
#[derive(Clone, Copy)]
enum Kind {
    Async = 1,
    Idle = 6,
    Poll = 8,
    Timer = 13,
    Signal = 16,
}

/// What the callbacks know of.
struct Shared {
    libuv: Libuv,
    uv: Loop,
    calls: Countdown,
    pongs: Countdown,
    posts: Posts<u64>,
}

/// What the program keeps with a descriptor.
struct Ends {
    shared: *const Shared,
    fd: RawFd,
    peer: RawFd,
}

impl Shared {
    /// Memory for a handle, and behind the first pointer of it what the callbacks are to know. It is
    /// freed by `free`, or not at all: the process ends with the measurement.
    unsafe fn handle<T>(&self, kind: Kind, data: *const T) -> Handle {
        unsafe {
            let handle = libc::malloc((self.libuv.uv_handle_size)(kind as c_int));
            assert!(!handle.is_null(), "memory");
            *handle.cast::<*const T>() = data;
            handle
        }
    }

    unsafe fn poll(&self, ends: &Ends, callback: PollCallback) -> Handle {
        unsafe {
            let handle = self.handle(Kind::Poll, ends);
            succeeded((self.libuv.uv_poll_init)(self.uv, handle, ends.fd));
            succeeded((self.libuv.uv_poll_start)(handle, READABLE, callback));
            handle
        }
    }

    unsafe fn timer(&self) -> Handle {
        unsafe {
            let handle = self.handle(Kind::Timer, self);
            succeeded((self.libuv.uv_timer_init)(self.uv, handle));
            handle
        }
    }

    unsafe fn run(&self, mode: c_int) {
        unsafe { (self.libuv.uv_run)(self.uv, mode) };
    }

    #[inline(always)]
    unsafe fn tick(&self) {
        if self.calls.tick() {
            unsafe { (self.libuv.uv_stop)(self.uv) };
        }
    }
}

#[inline(always)]
fn succeeded(result: c_int) {
    assert!(result >= 0, "libuv says {result}");
}

/// What was put behind a handle's first pointer.
#[inline(always)]
unsafe fn data<'a, T>(handle: Handle) -> &'a T {
    unsafe { &**handle.cast::<*const T>() }
}

pub fn perform(work: Work, run: &mut Run) -> Performed {
    let libuv = Libuv::load()?;
    // SAFETY: everything that is given to the library lives as long as the loop is run; sizes are
    // those that the library says, and functions as its header says.
    unsafe {
        let uv = libc::malloc((libuv.uv_loop_size)());
        succeeded((libuv.uv_loop_init)(uv));
        let shared = &Shared {
            libuv,
            uv,
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
    unsafe { run.timed(|| shared.run(RUN_DEFAULT)) };
    run.did(shared.calls.done());
}

unsafe fn ping_pong(shared: &Shared, run: &mut Run) {
    extern "C" fn on_ping(handle: Handle, _: c_int, _: c_int) {
        let ends = unsafe { data::<Ends>(handle) };
        take(ends.fd);
        put(ends.fd);
        unsafe { &*ends.shared }.pongs.tick();
    }
    extern "C" fn on_pong(handle: Handle, _: c_int, _: c_int) {
        let ends = unsafe { data::<Ends>(handle) };
        take(ends.fd);
        put(ends.fd);
        unsafe { (*ends.shared).tick() };
    }
    let (a, b) = pair();
    put(b.as_raw_fd());
    let ends = [
        (a.as_raw_fd(), b.as_raw_fd()),
        (b.as_raw_fd(), a.as_raw_fd()),
    ];
    let ends = ends.map(|(fd, peer)| Ends { shared, fd, peer });
    unsafe {
        shared.poll(&ends[0], on_ping);
        shared.poll(&ends[1], on_pong);
        finish(shared, run);
    }
    assert_eq!(
        shared.calls.done(),
        shared.pongs.done(),
        "every ping has its pong"
    );
}

extern "C" fn on_ready(handle: Handle, _: c_int, _: c_int) {
    let ends = unsafe { data::<Ends>(handle) };
    take(ends.fd);
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
        })
        .collect();
    unsafe {
        for ends in &ends {
            shared.poll(ends, on_ready);
        }
        shared.run(RUN_NO_WAIT);
        make_ready(&pairs, ready);
        finish(shared, run);
    }
}

extern "C" fn on_toggle(handle: Handle, _: c_int, _: c_int) {
    unsafe {
        let ends = data::<Ends>(handle);
        let shared = &*ends.shared;
        take(ends.fd);
        (shared.libuv.uv_poll_start)(handle, READABLE | WRITABLE, on_toggle);
        (shared.libuv.uv_poll_start)(handle, READABLE, on_toggle);
        put(ends.peer);
        shared.tick();
    }
}

extern "C" fn on_lasting_toggle(handle: Handle, _: c_int, events: c_int) {
    unsafe {
        let ends = data::<Ends>(handle);
        let shared = &*ends.shared;
        if events & READABLE != 0 {
            take(ends.fd);
            (shared.libuv.uv_poll_start)(handle, READABLE | WRITABLE, on_lasting_toggle);
        } else {
            (shared.libuv.uv_poll_start)(handle, READABLE, on_lasting_toggle);
            put(ends.peer);
            shared.tick();
        }
    }
}

unsafe fn one_event(shared: &Shared, run: &mut Run, callback: PollCallback) {
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    let ends = Ends {
        shared,
        fd: source.as_raw_fd(),
        peer: peer.as_raw_fd(),
    };
    unsafe {
        shared.poll(&ends, callback);
        finish(shared, run);
    }
}

extern "C" fn never(_: Handle) {
    eprintln!("a timer that was far away has fired");
    std::process::abort();
}

extern "C" fn on_timer(timer: Handle) {
    unsafe { data::<Shared>(timer) }.calls.tick();
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn far_milliseconds() -> Drawn<u64> {
    Drawn::new(|random| milliseconds(far(random)))
}

unsafe fn armed(shared: &Shared, count: usize) -> Vec<Handle> {
    let mut random = Random::new();
    let mut new = |_| unsafe {
        let timer = shared.timer();
        let after = milliseconds(far(&mut random));
        succeeded((shared.libuv.uv_timer_start)(timer, never, after, 0));
        timer
    };
    (0..count).map(&mut new).collect()
}

unsafe fn rearm(shared: &Shared, run: &mut Run, outstanding: usize) {
    let libuv = &shared.libuv;
    let after = &mut far_milliseconds();
    let operations = run.operations;
    unsafe {
        armed(shared, outstanding);
        let timer = shared.timer();
        run.timed(|| {
            for _ in 0..operations {
                (libuv.uv_timer_start)(timer, on_timer, after.next(), 0);
                (libuv.uv_timer_stop)(timer);
            }
        });
        assert_eq!((libuv.uv_is_active)(timer), 0, "it isn't armed");
        (libuv.uv_timer_start)(timer, on_timer, 0, 0);
        shared.run(RUN_NO_WAIT);
    }
    assert_eq!(shared.calls.done(), 1, "it fired once");
    run.did(operations);
}

unsafe fn churn(shared: &Shared, run: &mut Run, outstanding: usize) {
    extern "C" fn free(timer: Handle) {
        unsafe {
            data::<Shared>(timer).calls.tick();
            libc::free(timer);
        }
    }
    let libuv = &shared.libuv;
    let after = &mut far_milliseconds();
    let operations = run.operations;
    unsafe {
        armed(shared, outstanding);
        run.timed(|| {
            for number in 1..=operations {
                let timer = shared.timer();
                (libuv.uv_timer_start)(timer, never, after.next(), 0);
                (libuv.uv_close)(timer, Some(free));
                if number % 100 == 0 {
                    shared.run(RUN_NO_WAIT);
                }
            }
            shared.run(RUN_NO_WAIT);
        });
    }
    run.did(shared.calls.done());
}

unsafe fn postpone(shared: &Shared, run: &mut Run, outstanding: usize) {
    let libuv = &shared.libuv;
    let timers = unsafe { armed(shared, outstanding) };
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as usize);
    let mut after = 2 * HOUR;
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            after += STEP;
            unsafe {
                (libuv.uv_timer_start)(timers[chosen.next()], never, milliseconds(after), 0);
            }
        }
    });
    let due = timers
        .iter()
        .map(|&timer| unsafe { (libuv.uv_timer_get_due_in)(timer) });
    assert!(due.max() >= Some(milliseconds(after)), "the last was moved");
    run.did(operations);
}

unsafe fn fire(shared: &Shared, run: &mut Run, count: usize) {
    let libuv = &shared.libuv;
    for _ in 0..run.operations / count as u64 {
        let mut after = Drawn::new(|random| milliseconds(near(random)));
        unsafe {
            (libuv.uv_update_time)(shared.uv);
            run.timed(|| {
                for _ in 0..count {
                    let timer = shared.timer();
                    (libuv.uv_timer_start)(timer, on_timer, after.next(), 0);
                }
            });
            thread::sleep(ALL_DUE);
            run.timed(|| shared.run(RUN_DEFAULT));
        }
    }
    run.did(shared.calls.done());
}

unsafe fn immediate(shared: &Shared, run: &mut Run) {
    extern "C" fn on_idle(idle: Handle) {
        let shared = unsafe { data::<Shared>(idle) };
        if shared.calls.tick() {
            unsafe { (shared.libuv.uv_idle_stop)(idle) };
        }
    }
    unsafe {
        let idle = shared.handle(Kind::Idle, shared);
        succeeded((shared.libuv.uv_idle_init)(shared.uv, idle));
        succeeded((shared.libuv.uv_idle_start)(idle, on_idle));
        finish(shared, run);
    }
}

unsafe fn signal(shared: &Shared, run: &mut Run) {
    extern "C" fn on_signal(signal: Handle, _: c_int) {
        let shared = unsafe { data::<Shared>(signal) };
        match shared.calls.tick() {
            true => unsafe { (shared.libuv.uv_stop)(shared.uv) },
            false => raise(),
        }
    }
    unsafe {
        let signal = shared.handle(Kind::Signal, shared);
        succeeded((shared.libuv.uv_signal_init)(shared.uv, signal));
        succeeded((shared.libuv.uv_signal_start)(
            signal,
            on_signal,
            libc::SIGUSR1,
        ));
        raise();
        finish(shared, run);
    }
}

unsafe fn remote(shared: &Shared, run: &mut Run) {
    extern "C" fn on_posts(handle: Handle) {
        let shared = unsafe { data::<Shared>(handle) };
        let mut called = 0;
        shared.posts.call_all(&mut called);
        for _ in 0..called {
            unsafe { shared.tick() };
        }
    }
    let handle = unsafe {
        let handle = shared.handle(Kind::Async, shared);
        succeeded((shared.libuv.uv_async_init)(shared.uv, handle, on_posts));
        handle as usize
    };
    let send = shared.libuv.uv_async_send;
    shared.posts.post_from_another_thread(
        run.operations,
        // Any thread may send.
        move || unsafe {
            send(handle as Handle);
        },
        |start| {
            run.timed(|| {
                start.wait();
                unsafe { shared.run(RUN_DEFAULT) }
            });
        },
    );
    run.did(shared.calls.done());
}

/// By `uv_poll_t`, as all here. Its streams would allocate a buffer for each read.
unsafe fn echo(shared: &Shared, run: &mut Run, connections: usize) {
    extern "C" fn on_request(handle: Handle, _: c_int, _: c_int) {
        unsafe {
            let ends = data::<Ends>(handle);
            answer(ends.fd);
            (*ends.shared).tick();
        }
    }
    let clients = accept(connections);
    let new = |client: &TcpStream| Ends {
        shared,
        fd: client.as_raw_fd(),
        peer: -1,
    };
    let ends: Vec<Ends> = clients.iter().map(new).collect();
    unsafe {
        for ends in &ends {
            shared.poll(ends, on_request);
        }
        shared.run(RUN_NO_WAIT);
        run.served(|| shared.run(RUN_DEFAULT));
    }
    run.did(shared.calls.done());
}

unsafe fn hold(shared: &Shared, run: &mut Run, thing: Thing, count: usize) {
    extern "C" fn ignore(_: Handle) {}
    extern "C" fn ignore_signal(_: Handle, _: c_int) {}
    let libuv = &shared.libuv;
    unsafe {
        match thing {
            Thing::Context => run.weighed(|| {
                for _ in 0..count {
                    let uv = libc::malloc((libuv.uv_loop_size)());
                    succeeded((libuv.uv_loop_init)(uv));
                }
            }),
            Thing::Fd => {
                let pairs = pairs(0, count);
                run.weighed(|| {
                    for (a, _) in &pairs {
                        let handle = shared.handle(Kind::Poll, ptr::null::<Ends>());
                        succeeded((libuv.uv_poll_init)(shared.uv, handle, a.as_raw_fd()));
                        succeeded((libuv.uv_poll_start)(handle, READABLE, on_ready));
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
                    let idle = shared.handle(Kind::Idle, shared);
                    succeeded((libuv.uv_idle_init)(shared.uv, idle));
                    succeeded((libuv.uv_idle_start)(idle, ignore));
                }
            }),
            Thing::Signal => run.weighed(|| {
                for _ in 0..count {
                    let signal = shared.handle(Kind::Signal, shared);
                    succeeded((libuv.uv_signal_init)(shared.uv, signal));
                    let start = libuv.uv_signal_start;
                    succeeded(start(signal, ignore_signal, libc::SIGUSR1));
                }
            }),
        }
    }
}
