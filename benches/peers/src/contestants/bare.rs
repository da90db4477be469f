//! The floor: `epoll_wait` in a loop that does this one job, with everything known when it was
//! compiled. There are no handlers to call but where the work itself is about closures.
//!
//! - descriptors: the number is the event's user data; up to 256 events a wait
//! - timers: a binary heap of deadlines in nanoseconds, which knows the place of each timer
//! - immediates: a `VecDeque` of boxed closures
//! - signals: `sigaction`, and a flag that the loop looks at
//! - other threads: a vector of closures in a mutex, and an eventfd that is written when it was empty

use crate::echo::{accept, answer};
use crate::run::{Absence, Performed, Run};
use crate::support::{
    ALL_DUE, Countdown, Drawn, HOUR, Posts, Random, STEP, far, near, pair, pairs, put, raise, take,
};
use crate::workload::Work;
use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub fn perform(work: Work, run: &mut Run) -> Performed {
    match work {
        Work::PingPong => ping_pong(run),
        Work::Ready { ready, registered } => some_ready(run, ready, registered),
        Work::Rearm { outstanding } => rearm(run, outstanding),
        Work::Churn { outstanding } => churn(run, outstanding),
        Work::Postpone { outstanding } => postpone(run, outstanding),
        Work::Fire { timers } => fire(run, timers),
        Work::Immediate => immediate(run),
        Work::Signal => signal(run),
        Work::Remote => remote(run),
        Work::Toggle => toggle(run),
        Work::LastingToggle => lasting_toggle(run),
        Work::Echo { connections } => echo(run, connections),
        Work::Hold(..) => return Err(Absence::Lacks("events that would have a size")),
    }
    Ok(())
}

const BATCH: usize = 256;
const READ: u32 = libc::EPOLLIN as u32;
const WRITE: u32 = libc::EPOLLOUT as u32;

/// An epoll instance, and what its latest wait has found.
pub struct Epoll {
    epoll: OwnedFd,
    found: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> Epoll {
        // SAFETY: a new descriptor, that is nobody else's.
        let epoll = unsafe {
            let number = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(number >= 0, "epoll: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(number)
        };
        Epoll {
            epoll,
            found: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH],
        }
    }

    #[inline(always)]
    fn control(&self, operation: i32, fd: RawFd, data: u64, interest: u32) {
        let mut event = libc::epoll_event {
            events: interest,
            u64: data,
        };
        // SAFETY: the structure is valid for the call.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) };
        assert_eq!(result, 0);
    }

    pub fn add(&self, fd: RawFd, data: u64, interest: u32) {
        self.control(libc::EPOLL_CTL_ADD, fd, data, interest);
    }

    #[inline(always)]
    pub fn modify(&self, fd: RawFd, data: u64, interest: u32) {
        self.control(libc::EPOLL_CTL_MOD, fd, data, interest);
    }

    #[inline(always)]
    pub fn wait(&mut self) -> &[libc::epoll_event] {
        // SAFETY: there is room for so many events.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.found.as_mut_ptr(),
                BATCH as i32,
                -1,
            )
        };
        &self.found[..usize::try_from(count).unwrap_or(0)]
    }
}

fn ping_pong(run: &mut Run) {
    let mut epoll = Epoll::new();
    let (a, b) = pair();
    put(b.as_raw_fd());
    epoll.add(a.as_raw_fd(), a.as_raw_fd() as u64, READ);
    epoll.add(b.as_raw_fd(), b.as_raw_fd() as u64, READ);
    let calls = 2 * run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < calls {
            for event in epoll.wait() {
                take(event.u64 as RawFd);
                put(event.u64 as RawFd);
                called += 1;
            }
        }
    });
    run.did(called / 2);
}

fn some_ready(run: &mut Run, ready: usize, registered: usize) {
    let mut epoll = Epoll::new();
    let pairs = pairs(ready, registered);
    for (source, peer) in &pairs {
        let data = (peer.as_raw_fd() as u64) << 32 | source.as_raw_fd() as u64;
        epoll.add(source.as_raw_fd(), data, READ);
    }
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            for event in epoll.wait() {
                take(event.u64 as u32 as RawFd);
                put((event.u64 >> 32) as RawFd);
                called += 1;
                if called == operations {
                    break;
                }
            }
        }
    });
    run.did(called);
}

fn toggle(run: &mut Run) {
    let mut epoll = Epoll::new();
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    epoll.add(source.as_raw_fd(), 0, READ);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            for _ in 0..epoll.wait().len() {
                take(source.as_raw_fd());
                epoll.modify(source.as_raw_fd(), 0, READ | WRITE);
                epoll.modify(source.as_raw_fd(), 0, READ);
                put(peer.as_raw_fd());
                called += 1;
            }
        }
    });
    run.did(called);
}

fn lasting_toggle(run: &mut Run) {
    let mut epoll = Epoll::new();
    let (source, peer) = pair();
    put(peer.as_raw_fd());
    epoll.add(source.as_raw_fd(), 0, READ);
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            for index in 0..epoll.wait().len() {
                if epoll.found[index].events & READ != 0 {
                    take(source.as_raw_fd());
                    epoll.modify(source.as_raw_fd(), 0, READ | WRITE);
                } else {
                    epoll.modify(source.as_raw_fd(), 0, READ);
                    put(peer.as_raw_fd());
                    called += 1;
                }
            }
        }
    });
    run.did(called);
}

fn echo(run: &mut Run, connections: usize) {
    let mut epoll = Epoll::new();
    let mut clients: Vec<_> = accept(connections).into_iter().map(Some).collect();
    for (number, client) in clients.iter().flatten().enumerate() {
        epoll.add(
            client.as_raw_fd(),
            (number as u64) << 32 | client.as_raw_fd() as u64,
            READ,
        );
    }
    let (mut open, mut answered) = (connections, 0);
    run.served(|| {
        while open > 0 {
            for event in epoll.wait() {
                if answer(event.u64 as u32 as RawFd) {
                    answered += 1;
                } else {
                    clients[(event.u64 >> 32) as usize] = None;
                    open -= 1;
                }
            }
        }
    });
    run.did(answered);
}

/// A binary heap of deadlines that knows where each timer is. Timers are small numbers.
#[derive(Default)]
struct Heap {
    nodes: Vec<(u64, u32)>,
    /// Of each timer, its index in `nodes`.
    places: Vec<u32>,
}

impl Heap {
    fn insert(&mut self, timer: u32, deadline: u64) {
        if timer as usize >= self.places.len() {
            self.places.resize(timer as usize + 1, u32::MAX);
        }
        self.nodes.push((deadline, timer));
        self.rise(self.nodes.len() - 1);
    }

    fn remove(&mut self, timer: u32) {
        let place = self.places[timer as usize] as usize;
        let (removed, _) = self.nodes.swap_remove(place);
        if place < self.nodes.len() {
            if self.nodes[place].0 < removed {
                self.rise(place);
            } else {
                self.sink(place);
            }
        }
    }

    fn postpone(&mut self, timer: u32, deadline: u64) {
        let place = self.places[timer as usize] as usize;
        self.nodes[place].0 = deadline;
        self.sink(place);
    }

    fn pop_due(&mut self, now: u64) -> Option<u32> {
        let &(deadline, timer) = self.nodes.first()?;
        if deadline > now {
            return None;
        }
        self.remove(timer);
        Some(timer)
    }

    fn rise(&mut self, mut place: usize) {
        let node = self.nodes[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.nodes[parent].0 <= node.0 {
                break;
            }
            self.settle(place, self.nodes[parent]);
            place = parent;
        }
        self.settle(place, node);
    }

    fn sink(&mut self, mut place: usize) {
        let node = self.nodes[place];
        loop {
            let mut child = 2 * place + 1;
            if child >= self.nodes.len() {
                break;
            }
            if child + 1 < self.nodes.len() && self.nodes[child + 1].0 < self.nodes[child].0 {
                child += 1;
            }
            if node.0 <= self.nodes[child].0 {
                break;
            }
            self.settle(place, self.nodes[child]);
            place = child;
        }
        self.settle(place, node);
    }

    #[inline(always)]
    fn settle(&mut self, place: usize, node: (u64, u32)) {
        self.nodes[place] = node;
        self.places[node.1 as usize] = place as u32;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

fn far_deadlines() -> Drawn<u64> {
    Drawn::new(|random| nanoseconds(far(random)))
}

fn armed(count: usize) -> Heap {
    let mut random = Random::new();
    let mut heap = Heap::default();
    for timer in 0..count {
        heap.insert(timer as u32, nanoseconds(far(&mut random)));
    }
    heap
}

fn rearm(run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines();
    let mut heap = armed(outstanding);
    let timer = outstanding as u32;
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            heap.insert(timer, deadlines.next());
            heap.remove(timer);
        }
    });
    assert_eq!(heap.nodes.len(), outstanding);
    run.did(operations);
}

type Closure = Box<dyn FnMut()>;

fn churn(run: &mut Run, outstanding: usize) {
    let deadlines = &mut far_deadlines();
    let mut heap = armed(outstanding);
    let mut closures: Vec<Option<Closure>> = Vec::new();
    closures.resize_with(outstanding + 1, || None);
    let timer = outstanding as u32;
    let operations = run.operations;
    run.timed(|| {
        for number in 0..operations {
            closures[timer as usize] = Some(Box::new(move || {
                black_box(number);
            }));
            heap.insert(timer, deadlines.next());
            heap.remove(black_box(timer));
            closures[black_box(timer) as usize] = None;
        }
    });
    assert_eq!(heap.nodes.len(), outstanding);
    run.did(operations);
}

fn postpone(run: &mut Run, outstanding: usize) {
    let mut heap = armed(outstanding);
    let mut chosen = Drawn::new(|random| random.below(outstanding as u64) as u32);
    let mut deadline = nanoseconds(2 * HOUR);
    let operations = run.operations;
    run.timed(|| {
        for _ in 0..operations {
            deadline += nanoseconds(STEP);
            heap.postpone(chosen.next(), deadline);
        }
    });
    assert!(heap.nodes.iter().any(|node| node.0 == deadline));
    run.did(operations);
}

fn fire(run: &mut Run, count: usize) {
    for _ in 0..run.operations / count as u64 {
        let start = Instant::now();
        let mut deadlines = Drawn::new(|random| nanoseconds(near(random)));
        let mut heap = Heap::default();
        let mut closures: Vec<Closure> = Vec::new();
        let calls = Countdown::new(count as u64);
        run.timed(|| {
            for timer in 0..count {
                let calls = calls.clone();
                closures.push(Box::new(move || {
                    calls.tick();
                }));
                heap.insert(timer as u32, deadlines.next());
            }
        });
        thread::sleep(ALL_DUE);
        run.timed(|| {
            while let Some(timer) = heap.pop_due(nanoseconds(start.elapsed())) {
                closures[timer as usize]();
            }
        });
        run.did(calls.done());
    }
}

fn immediate(run: &mut Run) {
    type Handler = Box<dyn FnMut() -> bool>;
    let calls = Countdown::new(run.operations);
    let handler_calls = calls.clone();
    let mut queue: VecDeque<Handler> = VecDeque::new();
    queue.push_back(Box::new(move || !handler_calls.tick()));
    run.timed(|| {
        while let Some(mut handler) = queue.pop_front() {
            if handler() {
                queue.push_back(handler);
            }
        }
    });
    run.did(calls.done());
}

static RAISED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    RAISED.store(true, Ordering::SeqCst);
}

fn signal(run: &mut Run) {
    // SAFETY: the handler stores to an atomic, and that is all.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
    }
    let operations = run.operations;
    let mut called = 0;
    run.timed(|| {
        while called < operations {
            raise();
            if RAISED.swap(false, Ordering::SeqCst) {
                called += 1;
            }
        }
    });
    run.did(called);
}

fn remote(run: &mut Run) {
    let operations = run.operations;
    // SAFETY: a new descriptor, that is nobody else's.
    let wakeup = unsafe {
        let number = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        assert!(number >= 0, "eventfd: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(number)
    };
    let mut epoll = Epoll::new();
    // Edge-triggered, so that it needn't be read.
    epoll.add(wakeup.as_raw_fd(), 0, READ | libc::EPOLLET as u32);
    let wake = || {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer has so many bytes.
        unsafe { libc::write(wakeup.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    };
    let posts = Posts::default();
    let mut called = 0;
    posts.post_from_another_thread(operations, wake, |start| {
        run.timed(|| {
            start.wait();
            while called < operations {
                epoll.wait();
                posts.call_all(&mut called);
            }
        });
    });
    run.did(called);
}
