//! Runs the examples for real, over loopback.

#![cfg(target_os = "linux")]

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Where cargo has put the examples. They are built for the same profile as this test, which is a
/// matter of nothing when `cargo test` has built them already.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let test = env::current_exe().expect("the path of this test");
        // This is target/<profile>/deps/examples-<hash>.
        let profile_folder = test.ancestors().nth(2).expect("in a target folder");
        let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--package", "tevent", "--examples"])
            .args(["--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the examples can be built");
        profile_folder.join("examples")
    })
}

/// An example that is running. Killed if the test ends before it.
struct Example {
    child: Child,
    output: Receiver<String>,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Example {
        let child = Command::new(examples().join(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        Example::started(child)
    }

    fn started(mut child: Child) -> Example {
        let output = child.stdout.take().map(lines).expect("piped");
        Example { child, output }
    }

    /// Starts a server on a free port, and waits until it listens.
    fn serve(name: &str) -> (Example, SocketAddr) {
        let example = Example::start(name, &["127.0.0.1:0"]);
        let address = example.address();
        (example, address)
    }

    #[track_caller]
    fn address(&self) -> SocketAddr {
        let line = self.line_with("listening on ");
        let address = line.trim_start_matches("listening on ");
        address.parse().expect("an address")
    }

    /// The next line of output that contains `text`.
    #[track_caller]
    fn line_with(&self, text: &str) -> String {
        line_with(&self.output, text)
    }

    #[track_caller]
    fn next_line(&self) -> String {
        self.line_with("")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is running");
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the example ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("waited for")
    }

    #[track_caller]
    fn ends_cleanly_by(mut self, signal: Signal) {
        self.signal(signal);
        assert_eq!(
            self.ends().code(),
            Some(0),
            "{signal:?} ends it with success"
        );
    }

    fn proc(&self, what: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(what)
    }

    fn descriptors(&self) -> usize {
        let entries = fs::read_dir(self.proc("fd")).expect("it is running");
        entries.count()
    }

    fn children(&self) -> Vec<u32> {
        let task = format!("task/{}/children", self.child.id());
        let children = fs::read_to_string(self.proc(&task)).expect("it is running");
        let parse = |pid: &str| pid.parse().expect("a process id");
        children.split_whitespace().map(parse).collect()
    }

    /// How long it has run, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).expect("it is running");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields: Vec<&str> = fields.split(' ').collect();
        // User and system time; the state is field 3.
        [14, 15]
            .map(|field| fields[field - 3].parse::<u64>().expect("a number"))
            .iter()
            .sum()
    }

    /// The memory in use, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("it is running");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }
}

/// Reads lines, so that no pipe gets full and nobody waits for ever.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        // Until the example has ended, or nobody is interested any more.
        lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
    });
    receiver
}

/// The next line that contains `text`. Others may go on coming for ever, so all of them together have
/// the limit.
#[track_caller]
fn line_with(lines: &Receiver<String>, text: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.contains(text) => return line,
            Ok(_) => {}
            Err(error) => panic!("no line with {text:?}: {error}"),
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the example listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    stream.set_write_timeout(Some(LIMIT)).expect("a socket");
    stream
}

/// Sends `payload`, ends the sending side, and expects the same back and then the end.
#[track_caller]
fn round_trip(address: SocketAddr, payload: &[u8]) {
    let stream = connect(address);
    let mut answer = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = &stream;
            stream.write_all(payload).expect("the example reads");
            stream.shutdown(Shutdown::Write).expect("a socket");
        });
        let mut stream = &stream;
        stream
            .read_to_end(&mut answer)
            .expect("the example answers and closes");
    });
    assert_eq!(
        answer.len(),
        payload.len(),
        "as much comes back as was sent"
    );
    assert!(answer == payload, "the same comes back");
}

/// Sends one line and expects it back.
#[track_caller]
fn exchange(mut stream: &TcpStream) {
    let mut answer = [0; 6];
    stream.write_all(b"hello\n").expect("the example reads");
    stream
        .read_exact(&mut answer)
        .expect("the example answers while others keep it busy");
    assert_eq!(&answer, b"hello\n");
}

/// Bytes without a pattern that a lost or doubled block could hide in.
fn payload(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn echoes_byte_for_byte(name: &str) {
    let (example, address) = Example::serve(name);
    for length in [0, 1, 5, 64 * 1024, 8 * 1024 * 1024] {
        round_trip(address, &payload(length));
    }
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn echo_returns_small_and_large_payloads() {
    echoes_byte_for_byte("echo");
}

#[test]
fn async_echo_returns_small_and_large_payloads() {
    echoes_byte_for_byte("async_echo");
}

#[test]
fn forking_echo_returns_small_and_large_payloads() {
    echoes_byte_for_byte("forking_echo");
}

#[test]
fn echo_serves_many_clients_at_a_time_and_closes_them_all() {
    serves_many_clients("echo");
}

#[test]
fn async_echo_serves_many_clients_at_a_time_and_closes_them_all() {
    serves_many_clients("async_echo");
}

fn serves_many_clients(name: &str) {
    let (example, address) = Example::serve(name);
    let before = example.descriptors();
    let clients: Vec<_> = (0..100).map(|_| connect(address)).collect();
    for client in &clients {
        exchange(client);
    }
    assert_eq!(example.descriptors(), before + clients.len());
    drop(clients);
    wait_until("all connections are closed", || {
        example.descriptors() == before
    });
    example.ends_cleanly_by(Signal::INT);
}

#[test]
fn async_echo_drops_a_client_that_says_nothing() {
    let example = Example::start("async_echo", &["127.0.0.1:0", "1"]);
    let address = example.address();
    let before = example.descriptors();
    let start = Instant::now();
    let mut idle = connect(address);
    exchange(&idle);
    let rest = idle.read_to_end(&mut Vec::new()).expect("an end");
    assert_eq!(rest, 0, "it is closed");
    assert!(start.elapsed() >= Duration::from_secs(1), "too early");
    assert_eq!(example.descriptors(), before);
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn a_client_of_echo_that_never_reads_is_held_up_and_holds_up_nobody() {
    holds_up_who_never_reads("echo");
}

#[test]
fn a_client_of_async_echo_that_never_reads_is_held_up_and_holds_up_nobody() {
    holds_up_who_never_reads("async_echo");
}

fn holds_up_who_never_reads(name: &str) {
    let (example, address) = Example::serve(name);
    let other = connect(address);
    exchange(&other);
    let descriptors = example.descriptors();
    let memory = example.memory();

    let mut greedy = connect(address);
    greedy.set_nonblocking(true).expect("a socket");
    let block = payload(64 * 1024);
    let mut sent = 0;
    let mut refusals = 0;
    // The server had many turns without taking anything: it has stopped to read.
    while refusals < 1000 {
        match greedy.write(&block) {
            Ok(count) => {
                sent += count;
                refusals = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                exchange(&other);
            }
            Err(error) => panic!("the connection is up: {error}"),
        }
        assert!(
            sent < 256 * 1024 * 1024,
            "the server goes on taking {sent} bytes that nobody reads"
        );
    }
    let grown = example.memory().saturating_sub(memory);
    assert!(
        grown < 1024 * 1024,
        "it has grown by {grown} bytes, for {sent} sent"
    );

    // It goes with unsent data on both sides, which resets the connection.
    drop(greedy);
    wait_until("the dead connection is closed", || {
        example.descriptors() == descriptors
    });
    exchange(&other);
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn echo_survives_a_full_descriptor_table_without_spinning() {
    survives_a_full_descriptor_table("echo");
}

#[test]
fn async_echo_survives_a_full_descriptor_table_without_spinning() {
    survives_a_full_descriptor_table("async_echo");
}

fn survives_a_full_descriptor_table(name: &str) {
    let echo = examples().join(name);
    let limited = format!("ulimit -n 16; exec {} 127.0.0.1:0", echo.display());
    let mut child = Command::new("sh")
        .args(["-c", &limited])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let errors = child.stderr.take().map(lines).expect("piped");
    let example = Example::started(child);
    let address = example.address();

    // More than there is room for: the rest wait in the backlog.
    let start = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
    exchange(&clients[0]);
    for pause in [10, 20, 40, 80] {
        let line = line_with(&errors, "can't accept for now: accept4: ");
        assert!(
            line.ends_with(&format!("next attempt in {pause}ms")),
            "{line}"
        );
        exchange(&clients[0]);
    }
    // Four attempts, so three of these pauses.
    assert!(
        start.elapsed() >= Duration::from_millis(70),
        "it tries again at once"
    );
    let last = clients.pop().expect("there are 20");
    drop(clients);
    exchange(&last);
    example.ends_cleanly_by(Signal::TERM);
}

/// The line that the example called `listener` greets with.
#[track_caller]
fn greeting(mut stream: &TcpStream) -> String {
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a greeting");
        line.push(byte[0].into());
    }
    line
}

#[test]
fn listener_serves_so_many_at_a_time_and_pauses() {
    let example = Example::start("listener", &["127.0.0.1:0", "2"]);
    let address = example.address();
    let mut clients: Vec<_> = (0..3).map(|_| connect(address)).collect();
    assert_eq!(greeting(&clients[0]), "you are one of 1\n");
    assert_eq!(greeting(&clients[1]), "you are one of 2\n");
    // The third one waits for a place.
    drop(clients.remove(0));
    assert_eq!(greeting(&clients[1]), "you are one of 2\n");
    example.signal(Signal::USR1);
    example.line_with("paused: true");
    drop(clients);
    example.line_with("goodbye");
    example.line_with("goodbye");
    let late = connect(address);
    example.signal(Signal::USR2);
    // Nobody was welcome before.
    assert_eq!(example.next_line(), "paused: false");
    assert_eq!(greeting(&late), "you are one of 1\n");
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn listener_says_that_there_are_no_descriptors() {
    let command = examples().join("listener");
    let limited = format!("ulimit -n 16; exec {} 127.0.0.1:0 100", command.display());
    let child = Command::new("sh")
        .args(["-c", &limited])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let example = Example::started(child);
    let address = example.address();
    let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
    example.line_with("nobody is accepted: accept4: Too many open files");
    // When some go, others come.
    let last = clients.pop().expect("there are 20");
    drop(clients);
    assert!(greeting(&last).starts_with("you are one of "));
    example.ends_cleanly_by(Signal::INT);
}

/// One line, without its end.
#[track_caller]
fn line_from(stream: &TcpStream) -> String {
    greeting(stream).trim_end().to_owned()
}

#[test]
fn thread_per_core_deals_out_clients_and_tells_all_of_them() {
    let example = Example::start("thread_per_core", &["127.0.0.1:0", "3"]);
    let address = example.address();
    let mut clients = Vec::new();
    let mut threads = BTreeSet::new();
    // The kernel deals them out by their addresses, so it may take some until two threads have one.
    while clients.len() < 4 || threads.len() < 2 {
        assert!(clients.len() < 100, "one thread gets them all: {threads:?}");
        clients.push(connect(address));
        let line = example.line_with(": client ");
        threads.insert(line.split(':').next().expect("a thread").to_owned());
    }
    for (number, mut client) in clients.iter().enumerate().take(5) {
        let words = format!("hello from {number}");
        client
            .write_all(format!("{words}\n").as_bytes())
            .expect("it is read");
        for client in &clients {
            assert_eq!(line_from(client), words);
        }
    }
    drop(clients);
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn prefork_starts_its_children_again_and_takes_them_along() {
    let example = Example::start("prefork", &["127.0.0.1:0", "3"]);
    let address = example.address();
    for _ in 0..3 {
        example.line_with(": started");
    }
    let mut children = example.children();
    assert_eq!(children.len(), 3);
    let server = |children: &[u32]| {
        let line = line_from(&connect(address));
        let pid = line
            .trim_start_matches("served by ")
            .parse()
            .expect("a pid");
        assert!(children.contains(&pid), "{line}, not one of {children:?}");
    };
    for _ in 0..20 {
        server(&children);
    }
    // One dies, and then those who take its place; nobody notices.
    for _ in 0..3 {
        let victim = children.remove(0);
        let pid = Pid::from_raw(victim as i32).expect("a child");
        kill_process(pid, Signal::KILL).expect("it is running");
        example.line_with(&format!("{victim}: ended, signal: 9"));
        server(&children);
        let line = example.line_with(": started");
        children.push(
            line.split(':')
                .next()
                .expect("a pid")
                .parse()
                .expect("a pid"),
        );
        server(&children);
    }
    example.ends_cleanly_by(Signal::TERM);
    for child in children {
        wait_until("the children end with their parent", || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}

#[test]
fn children_of_prefork_notice_that_their_parent_was_killed() {
    let example = Example::start("prefork", &["127.0.0.1:0", "2"]);
    example.address();
    for _ in 0..2 {
        example.line_with(": started");
    }
    let children = example.children();
    assert_eq!(children.len(), 2);
    drop(example);
    for child in children {
        wait_until("the children end with their parent", || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}

/// An example that reads its standard input.
fn start_with_input(name: &str, arguments: &[&str]) -> (Example, ChildStdin) {
    let mut child = Command::new(examples().join(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
    let input = child.stdin.take().expect("piped");
    (Example::started(child), input)
}

#[test]
fn embedding_epoll_serves_both_parts() {
    let (mut example, mut input) = start_with_input("embedding_epoll", &["127.0.0.1:0"]);
    let address = example.address();
    example.line_with("tick 1");
    for number in 1..=3 {
        // In two parts, as a line may come.
        input.write_all(b"line ").expect("it reads");
        thread::sleep(Duration::from_millis(1));
        input
            .write_all(format!("{number}\n").as_bytes())
            .expect("it reads");
        example.line_with(&format!("input: line {number}"));
        assert_eq!(
            line_from(&connect(address)),
            format!("you are client {number}")
        );
    }
    // It sleeps when there is nothing to do: between two lines are 50 ticks, a second, in which it
    // runs for a fraction.
    example.line_with("tick ");
    let before = example.ticks();
    example.line_with("tick ");
    let used = example.ticks() - before;
    assert!(used < 50, "it spins: {used} hundredths of a second");
    drop(input);
    assert_eq!(example.ends().code(), Some(0));
    let (example, _input) = start_with_input("embedding_epoll", &["127.0.0.1:0"]);
    example.address();
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn embedding_tokio_runs_commands_in_turns() {
    let (example, address) = Example::serve("embedding_tokio");
    let clients: Vec<_> = (0..5).map(|_| connect(address)).collect();
    for (code, mut client) in clients.iter().enumerate() {
        let commands = format!("exit {code}\nexit 7\n");
        client.write_all(commands.as_bytes()).expect("it reads");
    }
    for (code, client) in clients.iter().enumerate() {
        assert_eq!(line_from(client), code.to_string());
        assert_eq!(line_from(client), "7");
    }
    example.signal(Signal::USR1);
    example.line_with("10 commands so far");
    let mut late = &clients[0];
    late.write_all(b"kill -9 $$\n").expect("it reads");
    assert_eq!(line_from(late), "killed");
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn forking_echo_leaves_no_child_and_no_descriptor() {
    let (example, address) = Example::serve("forking_echo");
    let before = example.descriptors();
    for _ in 0..200 {
        round_trip(address, b"hello");
    }
    for _ in 0..200 {
        example.line_with("ended with 0");
    }
    assert_eq!(example.children(), [], "all children are reaped");
    wait_until("no descriptor is left open", || {
        example.descriptors() == before
    });
    example.ends_cleanly_by(Signal::TERM);
}

#[test]
fn a_child_of_forking_echo_keeps_only_its_client() {
    let (example, address) = Example::serve("forking_echo");
    let client = connect(address);
    exchange(&client);
    let [child] = example.children()[..] else {
        panic!("one child for one client: {:?}", example.children());
    };
    // The close callback of the listener has run in the child, and the listener is closed there.
    example.line_with(&format!("{child}: listening no more"));
    let sockets = fs::read_dir(format!("/proc/{child}/fd"))
        .expect("it is running")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    assert_eq!(sockets, 1, "the child has one socket, its client's");

    // The parent goes, the client stays served.
    example.ends_cleanly_by(Signal::TERM);
    exchange(&client);
    drop(client);
    wait_until("the child ends when its client goes", || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn timers_and_signals_ticks_counts_and_ends() {
    let mut example = Example::start("timers_and_signals", &["5", "60000"]);
    example.line_with("process ");
    example.line_with("tick 3, ");
    example.signal(Signal::USR1);
    example.line_with("SIGUSR1, 1 times");
    example.signal(Signal::USR2);
    let us = format!("SIGUSR2 from process {}", std::process::id());
    example.line_with(&us);
    example.line_with("tick ");
    example.signal(Signal::INT);
    example.line_with("SIGINT, ending");
    assert_eq!(example.ends().code(), Some(0));
}

#[test]
fn timers_and_signals_ends_when_idle() {
    let mut example = Example::start("timers_and_signals", &["1", "20"]);
    example.line_with("idle");
    assert_eq!(example.ends().code(), Some(0));
}

/// The whole output of an example that ends by itself, and its exit code.
fn output_of(name: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let mut example = Example::start(name, arguments);
    let mut text = String::new();
    while let Ok(line) = example.output.recv_timeout(LIMIT) {
        text += &line;
        text.push('\n');
    }
    (text, example.ends().code())
}

#[test]
fn request_asks_until_it_is_answered() {
    let (text, code) = output_of("request", &["2", "60000"]);
    assert!(text.contains("ask: pending for "), "{text}");
    assert!(text.contains("\n  exchange: pending for "), "{text}");
    let lost = "attempt 1 timed out\nattempt 2 timed out\n";
    // The third, or on a busy machine a later one.
    assert!(text.contains(lost), "{text}");
    let last = text.lines().last().expect("it says how it has ended");
    assert!(last.starts_with("answer: fine (attempt "), "{text}");
    assert_eq!(code, Some(0));
}

#[test]
fn request_gives_up_at_its_deadline() {
    let (text, code) = output_of("request", &["1000000", "250"]);
    assert!(
        text.ends_with("no answer: the request timed out\n"),
        "{text}"
    );
    assert_eq!(code, Some(1));
}

#[test]
fn request_is_cancelled_by_a_signal() {
    let mut example = Example::start("request", &["1000000", "60000"]);
    example.line_with("attempt 1 timed out");
    example.signal(Signal::USR1);
    example.line_with("ask: pending for ");
    example.signal(Signal::INT);
    example.line_with("no answer: the request was cancelled");
    assert_eq!(example.ends().code(), Some(1));
}

#[test]
fn queue_keeps_messages_apart() {
    for (count, length) in [("5", "1000000"), ("256", "1"), ("1", "1"), ("0", "1")] {
        let (text, code) = output_of("queue", &[count, length]);
        let end = format!("{count} messages came in one piece each\n");
        assert!(text.ends_with(&end), "{text}");
        assert_eq!(text.matches(" is written").count().to_string(), count);
        assert_eq!(code, Some(0));
    }
}

/// A file for one test, gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("tevent-{}-{name}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).expect("the example has written it")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How deep brackets are nested at most, outside of strings. Fails if they don't match.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest) = (Vec::new(), 0);
    let mut characters = json.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => loop {
                match characters.next().expect("the string ends") {
                    '"' => break,
                    '\\' => _ = characters.next(),
                    _ => {}
                }
            },
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => assert_eq!(open.pop(), Some(character)),
            _ => {}
        }
        deepest = deepest.max(open.len());
    }
    assert_eq!(open, []);
    deepest
}

#[test]
fn trace_timeline_writes_what_has_happened() {
    let json = Scratch::new("timeline.json");
    let (text, code) = output_of("trace_timeline", &[json.0.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    let json = json.text();
    assert_eq!(depth(&json), 4);
    // Eight clients with 200 answers each, and as many requests on the other side.
    for (name, at_least) in [
        ("client", 1600),
        ("connection", 1600),
        ("check", 1),
        ("wait", 1),
    ] {
        let count = json
            .matches(&format!("\"ph\":\"X\",\"name\":\"{name}\""))
            .count();
        assert!(count >= at_least, "{count} of {name}");
    }
    let spans = json.matches("\"ph\":\"X\"").count();
    assert!(text.starts_with(&format!("{spans} spans in ")), "{text}");
    assert!(
        json.contains("examples/trace_timeline.rs:"),
        "places are told"
    );

    let svg = Scratch::new("timeline.svg");
    let (_, code) = output_of("trace_timeline", &[svg.0.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    let svg = svg.text();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(
        svg.matches("<rect ").count() > 1,
        "more than the background"
    );

    let (_, code) = output_of("trace_timeline", &["/nowhere/timeline.json"]);
    assert_eq!(code, Some(1));
    let (_, code) = output_of("trace_timeline", &["timeline.txt"]);
    assert_eq!(code, Some(1));
}

#[test]
fn children_tells_how_each_has_ended() {
    let commands = ["exit 3", "kill -9 $$", "true", "sleep 1000"];
    let arguments: Vec<&str> = ["300"].into_iter().chain(commands).collect();
    let (text, code) = output_of("children", &arguments);
    assert_eq!(code, Some(3), "{text}");
    for line in [
        r#""exit 3" has exited with 3,"#,
        r#""kill -9 $$" was ended by signal 9,"#,
        r#""true" has exited with 0,"#,
        r#""sleep 1000" was ended by signal 15,"#,
    ] {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
    assert_eq!(text.lines().count(), commands.len());
}

#[test]
fn virtual_time_does_the_same_every_day() {
    let (day, code) = output_of("virtual_time", &[]);
    assert_eq!(code, Some(0));
    assert!(
        day.contains("03:15:00 no answer, next attempt in 1 s\n"),
        "{day}"
    );
    assert!(
        day.contains("03:23:31 refreshed again, number 14\n"),
        "{day}"
    );
    assert_eq!(output_of("virtual_time", &["24"]), (day, Some(0)));
    let (year, _) = output_of("virtual_time", &["8760"]);
    assert_eq!(year.matches("refreshed again").count(), 365);
}

#[test]
fn bad_arguments_are_answered_with_one_line_and_2() {
    for (name, arguments) in [
        ("echo", vec!["nonsense"]),
        ("echo", vec!["127.0.0.1:0", "more"]),
        ("async_echo", vec!["nonsense"]),
        ("async_echo", vec!["127.0.0.1:0", "soon"]),
        ("async_echo", vec!["127.0.0.1:0", "1", "more"]),
        ("forking_echo", vec!["127.0.0.1"]),
        ("forking_echo", vec!["127.0.0.1:0", "more"]),
        ("embedding_epoll", vec!["nonsense"]),
        ("embedding_epoll", vec!["127.0.0.1:0", "more"]),
        ("embedding_tokio", vec!["nonsense"]),
        ("embedding_tokio", vec!["127.0.0.1:0", "more"]),
        ("prefork", vec!["nonsense"]),
        ("prefork", vec!["127.0.0.1:0", "-1"]),
        ("prefork", vec!["127.0.0.1:0", "1", "more"]),
        ("thread_per_core", vec!["nonsense"]),
        ("thread_per_core", vec!["127.0.0.1:0", "0"]),
        ("thread_per_core", vec!["127.0.0.1:0", "1", "more"]),
        ("listener", vec!["nonsense"]),
        ("listener", vec!["127.0.0.1:0", "few"]),
        ("listener", vec!["127.0.0.1:0", "1", "more"]),
        ("request", vec!["many"]),
        ("request", vec!["1", "soon"]),
        ("request", vec!["1", "1", "1"]),
        ("queue", vec!["257"]),
        ("queue", vec!["1", "0"]),
        ("queue", vec!["1", "1", "1"]),
        ("children", vec![]),
        ("children", vec!["5000"]),
        ("children", vec!["soon", "true"]),
        ("virtual_time", vec!["0"]),
        ("virtual_time", vec!["1", "more"]),
        ("timers_and_signals", vec!["0"]),
        ("trace_timeline", vec![]),
        ("trace_timeline", vec!["a.json", "more"]),
        ("timers_and_signals", vec!["1", "-1"]),
        ("timers_and_signals", vec!["1", "1", "1"]),
    ] {
        let output = Command::new(examples().join(name))
            .args(&arguments)
            .output()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.starts_with("usage: "), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{name}: {message}");
    }
}

#[test]
fn an_address_that_is_taken_is_reported() {
    let (example, address) = Example::serve("echo");
    for name in [
        "echo",
        "async_echo",
        "forking_echo",
        "listener",
        "thread_per_core",
        "prefork",
        "embedding_epoll",
        "embedding_tokio",
    ] {
        let mut second = Example::start(name, &[&address.to_string()]);
        assert_eq!(second.ends().code(), Some(1), "{name}");
    }
    example.ends_cleanly_by(Signal::TERM);
}
