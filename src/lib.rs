//! The event loop for daemons: descriptors, timers, signals and immediates, each with a closure.
//!
//! This is the model of tevent, Samba's event library, in safe Rust. A program registers events
//! with one [`Context`] and runs it; the context calls their closures one after the other, on the
//! thread that it belongs to.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//! use tevent::{Context, FdFlags};
//!
//! # fn main() -> std::io::Result<()> {
//! let context = Context::new()?;
//! let (mut ours, theirs) = UnixStream::pair()?;
//!
//! // The context owns what it watches. The event ends when its handle is dropped.
//! let _event = context.add_fd(theirs, FdFlags::READ, |context, event, _flags| {
//!     let mut buffer = [0; 64];
//!     match event.get_ref().read(&mut buffer) {
//!         Ok(count) => println!("{} bytes", count),
//!         Err(error) => println!("none: {error}"),
//!     }
//!     context.stop();
//! })?;
//! let _timer = context.add_timer_after(Duration::from_millis(1), move |_, _| {
//!     ours.write_all(b"hello").expect("the other end is open");
//! });
//! context.run()
//! # }
//! ```
//!
//! The repository has whole programs in `examples/`, a table for those who come from the C library
//! in `docs/porting.md`, futures in `docs/futures.md`, requests and queues in `docs/requests.md`,
//! listening sockets in `docs/listener.md`, loops inside each other in `docs/embedding.md`, threads
//! and processes in `docs/many-cores.md`, statistics, tracers and tests without waiting in
//! `docs/observing.md`, and
//! how this is built in `docs/architecture.md`.
//!
//! # The order of things
//!
//! Each turn of the loop calls the first of these that there is, and then looks again:
//!
//! 1. signals: all pending ones, by ascending number, and for one number the newest handler first;
//! 2. one immediate, the one scheduled first ([`Context::add_immediate`], [`Context::defer`], and
//!    what other threads have scheduled);
//! 3. one due timer, the one with the earliest deadline;
//! 4. one ready descriptor.
//!
//! The kernel is asked for ready descriptors when all that it reported last time is served, 256 at
//! a time ([`Builder::batch`]). The order above holds within such a batch too. An event that was
//! removed or disarmed before its turn isn't called.
//!
//! Readiness is level-triggered: an event is called again until its descriptor isn't ready any
//! more. Events on one descriptor take turns, and so do descriptors.
//!
//! After 1024 immediates and timers in a row ([`Builder::starvation_budget`]) a due timer and a
//! ready descriptor get a turn.
//!
//! The downside of batches: a handler may be told of readiness that another handler of the same
//! batch has used up. So descriptors should be non-blocking, which they should be anyway.
//!
//! # Ownership
//!
//! Adding an event returns a handle: [`Fd`], [`Timer`], [`Immediate`], [`Signal`], [`Child`].
//! Dropping the handle removes the event; `detach()` leaves it to the context. A handler gets its
//! own event as a parameter, so that a detached one can re-arm or remove itself, and the context,
//! so that it needs to capture neither. Whatever else it needs, its closure owns:
//!
//! ```
//! use std::time::Duration;
//! use tevent::Context;
//!
//! # fn main() -> std::io::Result<()> {
//! let context = Context::new()?;
//! let mut left = 3;
//! context
//!     .add_timer_after(Duration::ZERO, move |_, timer| {
//!         left -= 1;
//!         if left > 0 {
//!             timer.set_after(Duration::from_micros(100));
//!         } // else nothing arms it any more, and the context drops it
//!     })
//!     .detach();
//! context.run()
//! # }
//! ```
//!
//! All methods take `&self`, and all are legal in all handlers: adding, changing and removing any
//! event, its own included. What a handler removes isn't called any more. A handler that removes
//! itself is dropped when it has returned.
//!
//! Handles may outlive the context; they do nothing then. The downside of shared ownership by
//! handles is that of `Rc`: a closure that owns the handle of its own event, or two that own each
//! other's, keep each other alive until the context goes. Use the parameter, or
//! [`WeakContext`].
//!
//! # Closing
//!
//! A descriptor event owns its source, which can be anything that is
//! [`AsFd`](std::os::fd::AsFd): a `TcpListener`, an `OwnedFd`, an `Rc<UnixStream>`. So no
//! descriptor is closed while it is registered, and none is registered that was closed. When the
//! event has ended and nobody refers to it any more, the source is dropped, which closes most
//! sources, or goes to the [close callback](Fd::on_close). By then it is out of the kernel's set.
//!
//! The downside: while the event's handler runs, or a handle exists, the source stays. After
//! [`Fd::remove`] the event is over at once, but the descriptor is open until the handler has
//! returned.
//!
//! An event that waits for [`FdFlags::WRITE`] alone isn't told of hang-up; its flag is cleared. A
//! detached event in that state is never called again, and stays until the context goes. Wait for
//! `WRITE | ERROR` unless somebody else ends it.
//!
//! # fork
//!
//! epoll instances are shared between a parent and its children, and so are eventfds: a child that
//! goes on with its parent's disturbs it. Here a child is noticed, whoever has called `fork(2)`; it
//! opens kernel objects of its own before it uses any, and registers its events with them. What
//! was ready or pending in the parent is left to the parent.
//!
//! [`Context::fork`] is safe to call because it refuses in a process with several threads.
//! [`Context::reinitialise`] drops all events, which a child wants that is to serve one client. It
//! may be called in a handler, and so may [`run`](Context::run) after it:
//!
//! ```
//! use tevent::{Context, Fork};
//!
//! # fn main() -> std::io::Result<()> {
//! let context = Context::new()?;
//! context.defer(|context| match context.fork() {
//!     Ok(Fork::Parent(pid)) => println!("child {pid} works"),
//!     Ok(Fork::Child) => {
//!         let result = context.reinitialise().and_then(|()| {
//!             // Add what this process is to work on.
//!             context.run()
//!         });
//!         std::process::exit(i32::from(result.is_err()));
//!     }
//!     Err(error) => println!("no child: {error}"),
//! });
//! context.run()
//! # }
//! ```
//!
//! The downside: a child that was made by a bare `clone(2)` system call isn't noticed. Such a child
//! may only `exec`.
//!
//! # Threads
//!
//! A context belongs to its thread: [`Context`] and the handles are neither `Send` nor `Sync`.
//! A process may have any number of them, one per thread or several. Other threads reach it by a
//! [`Remote`], which schedules closures:
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let context = tevent::Context::new()?;
//! let remote = context.remote();
//! let worker = std::thread::spawn(move || remote.schedule(|context| context.stop()));
//! context.run_until(|| false)?; // the stop ends it
//! # worker.join().expect("no panic");
//! # Ok(())
//! # }
//! ```
//!
//! A `Remote` doesn't keep [`run`](Context::run) from returning; [`run_until`](Context::run_until)
//! waits all the same.
//!
//! # Signals
//!
//! A signal is counted when it comes, and handled in the loop, where anything may be done. Handlers
//! in several contexts are each told. The process' signal mask is left alone (but for a
//! queue of 256 that is full, see [`Context::add_signal`]), and the former disposition comes back
//! with the last event.
//!
//! The downside: dispositions belong to the process. A library that installs a handler of its own
//! for the same number replaces this one's, and the loop isn't told. `SIGCHLD` says that *some*
//! child has ended; for its own children a program uses [`Context::add_child`].
//!
//! # Child processes
//!
//! [`Context::add_child`] says how one child has ended, and reaps it. Nobody else's children are
//! touched, nor any that weren't added, so that a process may have several loops and libraries with
//! children:
//!
//! ```
//! use std::process::Command;
//!
//! # fn main() -> std::io::Result<()> {
//! let context = tevent::Context::new()?;
//! let pid = Command::new("true").spawn()?.id();
//! let _child = context.add_child(pid, |_, child, result| match result {
//!     Ok(status) => println!("{}: {status}", child.pid()),
//!     Err(error) => println!("{}: nobody knows: {error}", child.pid()),
//! })?;
//! context.run()
//! # }
//! ```
//!
//! The downside: code in the same process that waits for *any* child (`waitpid(-1)`) can still take
//! a status that was meant for a handler, which is then told that there is none.
//!
//! # Listening sockets
//!
//! [`Context::add_listener`] accepts the clients of a TCP or Unix socket. It does what every
//! daemon's handler for that has to learn: it takes several in a turn, holds to a limit, and when
//! the process has no descriptors left it pauses, and says so, where others spin.
//!
//! ```
//! use std::net::TcpListener;
//!
//! # fn main() -> std::io::Result<()> {
//! let context = tevent::Context::new()?;
//! let socket = TcpListener::bind("127.0.0.1:0")?;
//! # let _client = std::net::TcpStream::connect(socket.local_addr()?)?;
//! let listener = context.add_listener(socket, |context, _, connection| {
//!     println!("{} has come", connection.peer()); // and goes, as nobody keeps it
//!     context.stop();
//! })?;
//! listener.set_limit(Some(1000));
//! listener.on_back_off(|back_off| eprintln!("{back_off}"));
//! context.run()
//! # }
//! ```
//!
//! The downside: clients who wait for their turn believe that they are connected.
//!
//! # Inside other loops
//!
//! A context is one descriptor ([`AsFd`](Context#impl-AsFd-for-Context)) and a
//! [deadline](Context::next_deadline) to another loop, which has it make turns that don't wait
//! ([`Context::run_ready`]): a loop of epoll, or tokio.
//!
//! The downside: what changes timers, immediates and interests between the turns has to say so, if
//! that loop sleeps without asking for the deadline. `docs/embedding.md` has the details.
//!
//! # Futures
//!
//! Any part of a program may be written as futures, which run on the same loop, in order with the
//! immediates: [`Context::spawn`] makes a [`Task`], [`Context::block_on`] runs the loop for one
//! future. There are futures for the [clock](Context::sleep), [descriptors](AsyncFd),
//! [clients](AsyncListener), [signals](SignalStream) and [child processes](Child::wait); wakers
//! work from any thread.
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! let context = tevent::Context::new()?;
//! let weak = context.downgrade(); // what a task may own of its context
//! let task = context.spawn(async move {
//!     weak.sleep(Duration::from_millis(1)).await;
//!     "a millisecond later"
//! });
//! assert_eq!(context.block_on(task)?, Ok("a millisecond later"));
//! # Ok(())
//! # }
//! ```
//!
//! The downside: a task that keeps a [`ContextRef`] across an `.await` keeps its context alive, and
//! so itself. `docs/futures.md` has this and other hazards, and what may be dropped when.
//!
//! # Requests
//!
//! What ends later is a [`Request`], made by [`Context::request`]: with a value or an error, by its
//! deadline, or cancelled. It is awaited, or has a callback; it may be made of
//! [sub-requests](Completer::then), which go with it. A [`Queue`] has requests worked on one at a
//! time. [`Context::requests`] shows what all of them are waiting for.
//!
//! ```
//! use std::io;
//! use std::time::Duration;
//! use tevent::{Context, Request};
//!
//! /// Something that takes a while.
//! fn compute(context: &Context) -> Request<u32, io::Error> {
//!     let (request, completer) = context.request("compute");
//!     let timer = context.add_timer_after(Duration::from_millis(1), move |_, _| {
//!         completer.done(42);
//!     });
//!     request.attach(timer); // removed when the request ends, or is dropped
//!     request
//! }
//!
//! # fn main() -> io::Result<()> {
//! let context = Context::new()?;
//! let request = compute(&context);
//! request.set_timeout(Duration::from_secs(10));
//! request.on_complete(|_, outcome| match outcome {
//!     Ok(answer) => println!("{answer}"),
//!     Err(error) => println!("none: {error}"),
//! });
//! context.run()
//! # }
//! ```
//!
//! The downside: a request whose [`Completer`] is kept by an event that is never called stays
//! pending. Give it a deadline. `docs/requests.md` has the rest.
//!
//! # Panics
//!
//! A panic in a handler comes through to the caller of [`run`](Context::run). The context is whole:
//! the handler is back in its place and will be called again, and so will all others. Nothing that
//! the outside world decides makes this crate panic; it returns [`std::io::Error`], in which
//! [`OsError`] names the system call.
//!
//! # Limits
//!
//! - Linux by epoll; other POSIX systems by poll, where the code hasn't been tested yet.
//! - poll looks at every descriptor in every wait. It is for systems without epoll, and for tests.
//! - Under the standard backend, a descriptor that epoll refuses (a regular file) is always ready:
//!   while an event waits for one, the loop doesn't sleep.
//! - A context holds two descriptors, its epoll instance and an eventfd.
//! - A handler that takes long holds up all others. So does one that blocks.
//!
//! # Implementation
//!
//! Events live in tables with generational keys, and the kernel's 64 bits of user data carry the
//! key. So what the kernel reports for a former registration, even of a descriptor number that was
//! used again, finds nothing.
//!
//! A changed interest is written to the table only. What differs from the kernel's view when the
//! loop is about to wait costs a system call then; an interest that was turned on and off in
//! between costs none. Removing is immediate, so a source is never closed while it is registered.
//!
//! Timers are a 4-ary heap of lower bounds: postponing one is a store.
//!
//! Signal handlers, other threads and `fork` leave a bit in a word that the loop looks at before
//! every handler, and make a system call only if it sleeps.
//!
//! All unsafe code is in one module, `sys`, which makes the system calls and knows nothing of
//! handlers.

#![deny(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    rust_2018_idioms
)]

mod async_fd;
mod backend;
mod builder;
mod callback;
mod child;
mod clock;
mod context;
mod error;
mod fd;
mod fds;
mod flags;
mod fork;
mod immediate;
mod immediate_queue;
mod key;
mod listener;
mod meta;
mod peer_addr;
mod queue;
mod remote;
mod request;
mod run;
mod signal;
mod signal_stream;
mod signum;
mod sleep;
mod slow_handler;
mod stats;
mod sys;
mod task;
mod timer;
mod timer_queue;
mod trace;
mod wakers;
mod watch;

pub use async_fd::{AsyncFd, Ready};
pub use backend::{
    Backend, BackendKind, Readiness, ReadyList, Token, UnknownBackend, WakeupTrigger,
};
pub use builder::Builder;
pub use child::{Child, ChildEnd};
pub use context::{Context, ContextRef, WeakContext};
pub use error::{AddFdError, OsError};
pub use fd::Fd;
pub use flags::{FdFlags, SignalFlags};
pub use fork::{Fork, exit_at_once};
pub use immediate::Immediate;
pub use listener::{Accept, AsyncListener, BackOff, Connection, Listener, ListeningSocket, Permit};
pub use peer_addr::PeerAddr;
pub use queue::{Queue, QueueEntry, QueueTurn};
pub use remote::Remote;
pub use request::{Completer, Request, RequestError, RequestInfo, RequestState, RequestTree};
pub use run::Nesting;
pub use signal::{Signal, SignalInfo};
pub use signal_stream::SignalStream;
pub use signum::Signum;
pub use sleep::{Sleep, TimedOut, YieldNow, yield_now};
pub use slow_handler::SlowHandler;
pub use stats::{ByKind, Stats};
pub use sys::siginfo::SigInfo;
pub use task::{Cancel, Cancelled, Task};
pub use timer::Timer;
pub use trace::{Disarmed, EventKind, Severity, TracedEvent, Tracer};

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does the code in the page about futures.
#[cfg(doctest)]
#[doc = include_str!("../docs/futures.md")]
struct FuturesPage;

/// And in the page about requests and queues.
#[cfg(doctest)]
#[doc = include_str!("../docs/requests.md")]
struct RequestsPage;

/// In that about listeners.
#[cfg(doctest)]
#[doc = include_str!("../docs/listener.md")]
struct ListenerPage;

/// In that about loops inside each other.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingPage;

/// In that about threads and processes.
#[cfg(doctest)]
#[doc = include_str!("../docs/many-cores.md")]
struct ManyCoresPage;

/// And in the page about child processes.
#[cfg(doctest)]
#[doc = include_str!("../docs/children.md")]
struct ChildrenPage;

/// And in the page about looking into a loop.
#[cfg(doctest)]
#[doc = include_str!("../docs/observing.md")]
struct ObservingPage;

/// And in that for those who come from the C library.
#[cfg(doctest)]
#[doc = include_str!("../docs/porting.md")]
struct PortingPage;
