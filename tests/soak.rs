//! Connections that come, talk, go idle and go, for as long as one likes.
//!
//! Both ends are events of one loop. Around them come signals, closures from another thread, and
//! child processes that end. Checked all the time: what was sent comes back complete and in order,
//! each close callback is called once, due timers go before descriptors, and the process holds the
//! descriptors that it must. At the end: memory is flat, nothing was lost and nothing is left.
//!
//! - `TEVENT_SOAK_SECONDS`: how long, for each backend; without it a fixed number of rounds.
//! - `TEVENT_SOAK_CONNECTIONS`: how many there are at a time.
//!
//! A program without the test harness, as it needs the process for itself.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tevent::{BackendKind, Context, Fd, FdFlags, SignalFlags, Signum, Timer};

/// After how long without traffic the server ends a connection: each is used less often the more
/// there are.
fn patience(connections: usize) -> Duration {
    Duration::from_millis(500) * (1 + connections as u32 / 1000)
}

/// How many rounds there are without a time.
const ROUNDS: usize = 24;

/// How many connections may wait to be accepted; less than a listener's backlog.
const BACKLOG: usize = 64;

/// In one round, for each connection.
const ACTIONS: usize = 4;

/// What the second half may use more than the first: allocators and the kernel's counting of pages
/// aren't exact.
fn allowance(first: usize) -> usize {
    1024 * 1024 + first / 50
}

fn main() {
    // What the standard harness takes is accepted and does nothing, but for this.
    if std::env::args().any(|argument| argument == "--list") {
        println!("soak: test");
        return;
    }
    let connections = number("TEVENT_SOAK_CONNECTIONS").unwrap_or(200);
    let length = number("TEVENT_SOAK_SECONDS").map(|seconds| Duration::from_secs(seconds as u64));
    allow_descriptors(2 * connections as u64 + 200);
    for kind in [BackendKind::Standard, BackendKind::Poll] {
        Soak::new(kind, connections).run(length);
    }
}

fn number(variable: &str) -> Option<usize> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is to be a number, not {value:?}")))
}

fn allow_descriptors(count: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        limit.current = Some(count);
        // Only root may do so.
        limit.maximum = limit.maximum.map(|maximum| maximum.max(count));
        setrlimit(Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("{count} descriptors are needed: {error}"));
    }
}

/// The server's end of a connection.
struct Served {
    fd: Fd<UnixStream>,
    timer: Timer,
    /// What came in and wasn't sent back yet.
    pending: VecDeque<u8>,
    /// The client sends no more.
    half_closed: bool,
}

/// The client's end.
struct Client {
    fd: Fd<UnixStream>,
    sent: u64,
    received: u64,
    ending: Ending,
    /// The server has lost patience, and with it perhaps what it hadn't read.
    expired: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// It is being used.
    No,
    /// It has said all, and waits for all to come back.
    HalfClosed,
    /// It waits for the server to lose patience.
    Silent,
}

#[derive(Default)]
struct State {
    idle: Duration,
    served: RefCell<HashMap<u64, Served>>,
    clients: RefCell<HashMap<u64, Client>>,
    /// Clients that are being used.
    active: RefCell<Vec<u64>>,
    children: Cell<usize>,
    lateness: RefCell<Lateness>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    connected: Cell<u64>,
    accepted: Cell<u64>,
    closed_by_server: Cell<u64>,
    closed_by_client: Cell<u64>,
    echoed: Cell<u64>,
    expired: Cell<u64>,
    postponed: Cell<u64>,
    complete: Cell<u64>,
    signals: Cell<u64>,
    children: Cell<u64>,
    handlers: Cell<u64>,
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

/// When descriptor handlers began, to count those that were called while a timer was due.
#[derive(Default)]
struct Lateness {
    descriptors: VecDeque<Instant>,
    others: VecDeque<Instant>,
    most_descriptors: usize,
    most_others: usize,
    longest: Duration,
}

/// How many handlers back it is looked.
const HISTORY: usize = 20_000;

impl Lateness {
    fn note(times: &mut VecDeque<Instant>) {
        if times.len() == HISTORY {
            times.pop_front();
        }
        times.push_back(Instant::now());
    }

    fn since(times: &VecDeque<Instant>, deadline: Instant) -> usize {
        times.iter().rev().take_while(|&&at| at > deadline).count()
    }

    /// A timer is called.
    ///
    /// The loop looks for due timers before it calls a descriptor. So one descriptor may have been
    /// called since: the clock was read, or the wait ended, just before. Beyond that only the
    /// starvation budget allows one, for each 1024 of the others.
    fn check(&mut self, deadline: Instant) {
        let descriptors = Lateness::since(&self.descriptors, deadline);
        let others = Lateness::since(&self.others, deadline);
        assert!(
            descriptors <= 1 + others.div_ceil(1024),
            "{descriptors} descriptors, {others} others went before a timer that was due"
        );
        self.most_descriptors = self.most_descriptors.max(descriptors);
        self.most_others = self.most_others.max(others);
        self.longest = self.longest.max(deadline.elapsed());
    }
}

impl State {
    fn descriptor_is_called(&self) {
        add(&self.counts.handlers, 1);
        Lateness::note(&mut self.lateness.borrow_mut().descriptors);
    }

    fn other_is_called(&self) {
        add(&self.counts.handlers, 1);
        Lateness::note(&mut self.lateness.borrow_mut().others);
    }
}

/// The byte at a place of what each client sends.
fn byte_at(position: u64) -> u8 {
    (position % 251) as u8
}

struct Soak {
    kind: BackendKind,
    connections: usize,
    context: Context,
    state: Rc<State>,
    listener: Fd<UnixListener>,
    path: std::path::PathBuf,
    descriptors: usize,
    random: u64,
    next: u64,
    raised: u64,
    asked: u64,
    spawned: u64,
    requests: Option<Sender<u64>>,
    poster: Option<JoinHandle<()>>,
}

thread_local! {
    /// What another thread's closures have done on this one.
    static POSTED: Cell<u64> = const { Cell::new(0) };
}

impl Soak {
    fn new(kind: BackendKind, connections: usize) -> Soak {
        // No limit, so that a wake-up that gets lost is a hang.
        let context = Context::builder()
            .backend(kind)
            .wait_timeout(None)
            .build()
            .expect("a context");
        let state = Rc::new(State {
            idle: patience(connections),
            ..State::default()
        });
        let name = format!("tevent-soak-{}-{kind}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        let server = Rc::clone(&state);
        let listener = context
            .add_fd(listener, FdFlags::READ, move |context, listener, _| {
                server.descriptor_is_called();
                accept(&server, context, listener.get_ref());
            })
            .expect("a listener is watched");
        let counter = Rc::clone(&state);
        context
            .add_signal(Signum::SIGUSR1, SignalFlags::RESTART, move |_, _, info| {
                counter.other_is_called();
                add(&counter.counts.signals, u64::from(info.count));
            })
            .expect("a signal handler")
            .detach();
        POSTED.set(0);
        let remote = context.remote();
        let (requests, receiver) = mpsc::channel::<u64>();
        let poster = thread::spawn(move || {
            for count in receiver {
                for _ in 0..count {
                    assert!(remote.schedule(|_| POSTED.set(POSTED.get() + 1)));
                }
            }
        });
        Soak {
            kind,
            connections,
            context,
            state,
            listener,
            path,
            descriptors: open_descriptors(),
            random: 0x9E37_79B9_7F4A_7C15,
            next: 0,
            raised: 0,
            asked: 0,
            spawned: 0,
            requests: Some(requests),
            poster: Some(poster),
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % below
    }

    fn run(mut self, length: Option<Duration>) {
        let start = Instant::now();
        let mut samples = Vec::new();
        loop {
            self.round();
            samples.push(self.sample());
            let is_over = match length {
                Some(length) => start.elapsed() >= length,
                None => samples.len() == ROUNDS,
            };
            if is_over {
                break;
            }
        }
        self.finish();
        self.check_memory(&samples);
        self.report(start.elapsed(), &samples);
    }

    /// Acts on the connections, with turns of the loop in between; then waits until what has said
    /// all has got all back.
    fn round(&mut self) {
        for action in 0..self.connections * ACTIONS {
            self.act();
            if action % 4 == 0 {
                self.turns(8);
            }
        }
        self.around();
        let state = Rc::clone(&self.state);
        let limit = Instant::now() + Duration::from_secs(120);
        let is_waiting = move || {
            assert!(Instant::now() < limit, "what was said doesn't come back");
            let clients = state.clients.borrow();
            clients.values().any(|c| c.ending == Ending::HalfClosed)
        };
        self.context
            .run_until(|| !is_waiting())
            .expect("the loop runs");
    }

    /// Turns that don't wait.
    fn turns(&self, count: usize) {
        self.context.set_wait_timeout(Some(Duration::ZERO));
        for _ in 0..count {
            if !self.context.run_once().expect("the loop runs") {
                break;
            }
        }
        self.context.set_wait_timeout(None);
    }

    /// Signals, other threads' closures, and children.
    fn around(&mut self) {
        let count = 1 + self.random(5) as u64;
        for _ in 0..count {
            // SAFETY: no memory is involved; it comes before this returns.
            unsafe { libc::raise(libc::SIGUSR1) };
        }
        self.raised += count;
        let count = 1 + self.random(100) as u64;
        let requests = self.requests.as_ref().expect("it is there until the end");
        requests.send(count).expect("the other thread listens");
        self.asked += count;
        #[expect(clippy::zombie_processes, reason = "the context waits for it")]
        let child = Command::new("true").spawn().expect("a child process");
        let state = Rc::clone(&self.state);
        self.spawned += 1;
        self.state.children.set(self.state.children.get() + 1);
        self.context
            .add_child(child.id(), move |_, _, status| {
                state.descriptor_is_called();
                assert!(status.expect("its status").success());
                state.children.set(state.children.get() - 1);
                add(&state.counts.children, 1);
            })
            .expect("a child is watched")
            .detach();
    }

    fn act(&mut self) {
        let active = self.state.active.borrow().len();
        let there = self.state.clients.borrow().len();
        if there < self.connections {
            self.connect();
        }
        if active == 0 {
            return;
        }
        let index = self.random(active);
        let id = self.state.active.borrow()[index];
        match self.random(100) {
            0..4 => self.end(index, Ending::Silent),
            4..12 => self.end(index, Ending::HalfClosed),
            12..18 => {
                // Whatever is on the way is lost, as it is to be.
                self.state.active.borrow_mut().swap_remove(index);
                let client = self.state.clients.borrow_mut().remove(&id);
                drop(client);
            }
            18..24 => {
                let clients = self.state.clients.borrow();
                clients[&id].fd.set_readable(false);
                clients[&id].fd.set_readable(true);
            }
            _ => self.send(id),
        }
    }

    fn connect(&mut self) {
        let counts = &self.state.counts;
        if counts.connected.get() - counts.accepted.get() >= BACKLOG as u64 {
            return;
        }
        let socket = UnixStream::connect(&self.path).expect("there is room in the backlog");
        socket.set_nonblocking(true).expect("non-blocking");
        add(&counts.connected, 1);
        let id = self.next;
        self.next += 1;
        let state = Rc::clone(&self.state);
        let fd = self
            .context
            .add_fd(socket, FdFlags::READ, move |_, fd, _| {
                state.descriptor_is_called();
                hear(&state, id, fd.get_ref());
            })
            .expect("a client is watched");
        let state = Rc::clone(&self.state);
        fd.on_close(move |socket| {
            add(&state.counts.closed_by_client, 1);
            drop(socket);
        });
        let client = Client {
            fd,
            sent: 0,
            received: 0,
            ending: Ending::No,
            expired: false,
        };
        self.state.clients.borrow_mut().insert(id, client);
        self.state.active.borrow_mut().push(id);
    }

    fn send(&mut self, id: u64) {
        let length = 1 + self.random(2000);
        let mut clients = self.state.clients.borrow_mut();
        let client = clients.get_mut(&id).expect("an active client");
        let bytes: Vec<u8> = (client.sent..).take(length).map(byte_at).collect();
        match client.fd.get_ref().write(&bytes) {
            Ok(count) => client.sent += count as u64,
            // The server has lost patience (a slow machine), or the socket is full.
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::WouldBlock
                ),
                "sending: {error}"
            ),
        }
    }

    /// A client is used no more.
    fn end(&mut self, index: usize, ending: Ending) {
        let id = self.state.active.borrow_mut().swap_remove(index);
        let mut clients = self.state.clients.borrow_mut();
        let client = clients.get_mut(&id).expect("an active client");
        client.ending = ending;
        if ending == Ending::HalfClosed {
            // It fails when the server has gone before, which is heard too.
            let _ = client.fd.get_ref().shutdown(Shutdown::Write);
        }
    }

    /// What the process uses now: memory, and descriptors, which must be those that are known of.
    fn sample(&self) -> usize {
        let state = &self.state;
        let known = self.descriptors
            + state.clients.borrow().len()
            + state.served.borrow().len()
            + state.children.get();
        assert_eq!(open_descriptors(), known, "descriptors are open");
        resident_memory()
    }

    /// Ends all connections, and waits for all that must come.
    fn finish(&mut self) {
        loop {
            let active = self.state.active.borrow().len();
            match active.checked_sub(1) {
                Some(last) if last % 2 == 0 => self.end(last, Ending::HalfClosed),
                Some(last) => self.end(last, Ending::Silent),
                None => break,
            }
        }
        drop(self.requests.take());
        let poster = self.poster.take().expect("it is there until the end");
        poster.join().expect("the other thread was served");
        let state = Rc::clone(&self.state);
        let limit = Instant::now() + Duration::from_secs(120);
        let (asked, raised, spawned) = (self.asked, self.raised, self.spawned);
        self.context
            .run_until(|| {
                assert!(Instant::now() < limit, "something doesn't end");
                state.clients.borrow().is_empty()
                    && state.served.borrow().is_empty()
                    && POSTED.get() == asked
                    && state.counts.signals.get() == raised
                    && state.counts.children.get() == spawned
                    && state.counts.accepted.get() == state.counts.connected.get()
            })
            .expect("the loop runs");
        let counts = &self.state.counts;
        assert_eq!(
            counts.closed_by_server.get(),
            counts.accepted.get(),
            "each close callback of the server's is called once"
        );
        assert_eq!(
            counts.closed_by_client.get(),
            counts.connected.get(),
            "each close callback of the clients' is called once"
        );
        assert_eq!(open_descriptors(), self.descriptors, "descriptors are left");
        self.listener.remove();
        let _ = std::fs::remove_file(&self.path);
    }

    fn halves<'a>(&self, samples: &'a [usize]) -> (&'a [usize], &'a [usize]) {
        let warm = &samples[samples.len() / 4..];
        warm.split_at(warm.len() / 2)
    }

    fn check_memory(&self, samples: &[usize]) {
        let (first, second) = self.halves(samples);
        let (Some(&first), Some(&second)) = (first.iter().max(), second.iter().max()) else {
            return;
        };
        assert!(
            second <= first + allowance(first),
            "memory has grown from {first} to {second} bytes"
        );
    }

    fn report(&self, took: Duration, samples: &[usize]) {
        let counts = &self.state.counts;
        let lateness = self.state.lateness.borrow();
        let (first, second) = self.halves(samples);
        println!(
            "soak {}: {} connections at a time, {} in all, {} rounds in {took:.1?}",
            self.kind,
            self.connections,
            counts.accepted.get(),
            samples.len(),
        );
        println!(
            "  {} handlers; {} bytes echoed, {} connections complete, {} expired, \
             {} times postponed; {} signals, {} remote, {} children",
            counts.handlers.get(),
            counts.echoed.get(),
            counts.complete.get(),
            counts.expired.get(),
            counts.postponed.get(),
            counts.signals.get(),
            POSTED.get(),
            counts.children.get(),
        );
        println!(
            "  memory, highest of each half in KiB: {:?}, {:?}; descriptors as expected {} times",
            first.iter().max().map(|bytes| bytes / 1024),
            second.iter().max().map(|bytes| bytes / 1024),
            samples.len(),
        );
        println!(
            "  due timers waited for at most {} descriptors and {} others, {:?}",
            lateness.most_descriptors, lateness.most_others, lateness.longest
        );
    }
}

fn accept(state: &Rc<State>, context: &Context, listener: &UnixListener) {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("accepting: {error}"),
        };
        socket.set_nonblocking(true).expect("non-blocking");
        let id = state.counts.accepted.get();
        add(&state.counts.accepted, 1);
        let server = Rc::clone(state);
        let fd = context
            .add_fd(socket, FdFlags::READ, move |_, _, flags| {
                server.descriptor_is_called();
                serve(&server, id, flags);
            })
            .expect("a connection is watched");
        let closer = Rc::clone(state);
        fd.on_close(move |socket| {
            add(&closer.counts.closed_by_server, 1);
            assert!(
                !closer.served.borrow().contains_key(&id),
                "it is closed when it has ended, not before"
            );
            drop(socket);
        });
        let server = Rc::clone(state);
        let timer = context.add_timer_after(state.idle, move |_, timer| {
            server.other_is_called();
            let deadline = timer.last_deadline().expect("it was armed");
            server.lateness.borrow_mut().check(deadline);
            add(&server.counts.expired, 1);
            let ended = server.served.borrow_mut().remove(&id);
            assert!(ended.is_some(), "the timer goes with the connection");
            // Connections are accepted in the order in which they came, so both ends have one id.
            if let Some(client) = server.clients.borrow_mut().get_mut(&id) {
                client.expired = true;
            }
        });
        let served = Served {
            fd,
            timer,
            pending: VecDeque::new(),
            half_closed: false,
        };
        let former = state.served.borrow_mut().insert(id, served);
        assert!(former.is_none());
    }
}

/// The server's side: sends back what comes.
fn serve(state: &State, id: u64, flags: FdFlags) {
    let mut connections = state.served.borrow_mut();
    let served = connections
        .get_mut(&id)
        .expect("an ended connection isn't called");
    let mut is_over = false;
    if flags.contains(FdFlags::READ) {
        let mut buffer = [0; 1500];
        match served.fd.get_ref().read(&mut buffer) {
            Ok(0) => served.half_closed = true,
            Ok(count) => served.pending.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => is_over = true,
        }
        add(&state.counts.postponed, 1);
        served.timer.set_after(state.idle);
    }
    while !is_over && !served.pending.is_empty() {
        let (bytes, _) = served.pending.as_slices();
        match served.fd.get_ref().write(bytes) {
            Ok(count) => {
                served.pending.drain(..count);
                add(&state.counts.echoed, count as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => is_over = true,
        }
    }
    // Held up until the client reads, it reads no more itself.
    let is_held_up = !served.pending.is_empty();
    served.fd.set_writable(is_held_up);
    served.fd.set_readable(!is_held_up && !served.half_closed);
    if is_over || served.half_closed && !is_held_up {
        let ended = connections.remove(&id);
        drop(connections);
        drop(ended);
    }
}

/// The client's side: checks what comes back.
fn hear(state: &State, id: u64, mut socket: &UnixStream) {
    let mut clients = state.clients.borrow_mut();
    let client = clients.get_mut(&id).expect("an ended client isn't called");
    let mut buffer = [0; 4096];
    match socket.read(&mut buffer) {
        Ok(count) if count > 0 => {
            let expected = (client.received..).map(byte_at);
            assert!(
                buffer[..count].iter().copied().eq(expected.take(count)),
                "what was sent comes back in order"
            );
            client.received += count as u64;
            return;
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => return,
        Ok(_) | Err(_) => {}
    }
    let client = clients.remove(&id).expect("it was there");
    drop(clients);
    state.active.borrow_mut().retain(|&active| active != id);
    if !client.expired {
        assert_eq!(
            client.ending,
            Ending::HalfClosed,
            "nobody else's connection is ended by the server"
        );
        assert_eq!(client.received, client.sent, "all that was sent comes back");
        add(&state.counts.complete, 1);
    }
    drop(client);
}

fn open_descriptors() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc");
    // One is the directory's own.
    entries.count() - 1
}

fn resident_memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages = text.split_whitespace().nth(1).expect("the second number");
    pages.parse::<usize>().expect("a number") * rustix::param::page_size()
}
