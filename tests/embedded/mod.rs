//! Loops of others that have a context inside: one of epoll, and tokio.

#![allow(dead_code, reason = "every test program uses a part of this")]

use rustix::event::{Timespec, epoll};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{Context, FdFlags};

/// After so long, something that was to happen has failed to.
const GUARD: Duration = Duration::from_secs(20);

/// How many handlers run before the loop around gets a turn.
const MOST: usize = 64;

/// What a loop around has done.
#[derive(Default)]
pub struct Counts {
    /// How often it has waited.
    pub waits: Cell<usize>,
    /// How many turns of the context it has made.
    pub turns: Cell<usize>,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

/// Makes turns for as long as there is something to do, but not for ever. False: there may be more.
#[track_caller]
fn make_turns(context: &Context, counts: &Counts) -> bool {
    for _ in 0..MOST {
        count(&counts.turns);
        if !context.run_ready().expect("a turn") {
            return true;
        }
    }
    false
}

/// A loop made of `epoll_wait`, for which the context's descriptor is one of others.
pub struct EpollLoop {
    epoll: OwnedFd,
    pub counts: Counts,
}

impl EpollLoop {
    /// By level, or by edge.
    pub fn around(context: &Context, edge: bool) -> EpollLoop {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::ET, edge);
        let data = epoll::EventData::new_u64(1);
        epoll::add(&epoll, context.as_fd(), data, flags).expect("it can be watched");
        EpollLoop {
            epoll,
            counts: Counts::default(),
        }
    }

    /// Runs until `done`, which is asked after each wait.
    #[track_caller]
    pub fn run_until(&self, context: &Context, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        let mut is_idle = make_turns(context, &self.counts);
        while !done() {
            assert!(start.elapsed() < GUARD, "{what}: it didn't happen");
            let limit = match context.next_deadline() {
                _ if !is_idle => Duration::ZERO,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => GUARD,
            };
            // In whole milliseconds, as older kernels have it, and not too early.
            let milliseconds = limit.as_nanos().div_ceil(1_000_000).min(20_000) as u64;
            let limit = Timespec::try_from(Duration::from_millis(milliseconds)).expect("short");
            count(&self.counts.waits);
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }; 4];
            match epoll::wait(&self.epoll, &mut events[..], Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            is_idle = make_turns(context, &self.counts);
        }
        assert!(
            start.elapsed() < GUARD,
            "{what}: only the limit made it happen"
        );
    }
}

/// Drives a context inside tokio until `done`. The driver is told of everything by the descriptor and
/// the deadline; see docs/embedding.md.
pub async fn drive_in_tokio(context: &Context, counts: &Counts, done: impl Fn() -> bool) {
    #[allow(
        deprecated,
        reason = "newer versions ask for a promise in its place, as they do not see the borrow"
    )]
    let descriptor =
        tokio::io::unix::AsyncFd::with_interest(context.as_fd(), tokio::io::Interest::READABLE)
            .expect("it can be watched");
    loop {
        let is_idle = make_turns(context, counts);
        if done() {
            return;
        }
        if !is_idle {
            tokio::task::yield_now().await;
            continue;
        }
        count(&counts.waits);
        let deadline = context.next_deadline();
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Edge by edge: it is cleared before the turns, so that what comes from then on counts.
            ready = descriptor.readable() => ready.expect("a driver").clear_ready(),
            () = due => {}
        }
    }
}

/// The same for as long as the other future takes.
pub async fn with_driver<T>(
    context: &Context,
    counts: &Counts,
    future: impl Future<Output = T>,
) -> T {
    tokio::select! {
        () = drive_in_tokio(context, counts, || false) => unreachable!("it goes on for ever"),
        output = tokio::time::timeout(GUARD, future) => output.expect("it didn't happen"),
    }
}

/// The kinds of events one after the other, each begun by the one before, so that one that is missed
/// is missed for ever. Some of it comes from another thread. Returns how many rounds are over.
pub fn chain(context: &Context, rounds: usize) -> Rc<Cell<usize>> {
    let done = Rc::new(Cell::new(0));
    let (sender, receiver) = async_channel::unbounded::<()>();
    let (to_thread, in_thread) = std::sync::mpsc::channel::<()>();
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a socket");
    let remote = context.remote();
    std::thread::spawn(move || {
        while in_thread.recv().is_ok() {
            // Two ways back.
            theirs.write_all(b"x").expect("the loop reads");
            if in_thread.recv().is_err() {
                return;
            }
            let sender = sender.clone();
            remote.schedule(move |context| {
                // A timer, an immediate, and a task that waits.
                let timer =
                    context.add_timer_after(Duration::from_micros(700), move |context, _| {
                        let sender = sender.clone();
                        context.defer(move |_| sender.try_send(()).expect("the task receives"));
                    });
                timer.detach();
            });
        }
    });
    let counter = Rc::clone(&done);
    let begin = to_thread.clone();
    let event = context.add_fd(ours, FdFlags::READ, move |_, fd, _| {
        let mut socket = fd.get_ref();
        while socket.read(&mut [0; 8]).is_ok_and(|count| count > 0) {}
        // The second way back, which the thread waits for.
        to_thread.send(()).expect("the thread waits");
    });
    event.unwrap().detach();
    let weak = context.downgrade();
    begin.send(()).expect("the thread waits");
    context
        .spawn(async move {
            for round in 1..=rounds {
                receiver.recv().await.expect("it is there");
                weak.sleep(Duration::from_micros(300)).await;
                counter.set(round);
                begin.send(()).expect("the thread waits");
            }
        })
        .detach();
    done
}
