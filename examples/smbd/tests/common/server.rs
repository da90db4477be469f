//! The program as a child process of the test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::process::{PATIENCE, eventually};

/// The program.
pub const SMBD: &str = env!("CARGO_BIN_EXE_smbd");

/// A running server. When it is dropped it is told to end, and has to do so well.
pub struct Server {
    child: Child,
    address: SocketAddr,
    pub stdout: Lines,
    pub log: Lines,
}

impl Server {
    /// Serves directories under names, on a free port of 127.0.0.1.
    #[track_caller]
    pub fn start(shares: &[(&str, &Path)]) -> Server {
        Server::with(shares, &[])
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn with(shares: &[(&str, &Path)], args: &[&str]) -> Server {
        Server::run(&mut command(shares, args))
    }

    /// Runs a command and waits for the first address.
    #[track_caller]
    pub fn run(command: &mut Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can't be run");
        let log = Lines::of(child.stderr.take().unwrap());
        let stdout = Lines::of(child.stdout.take().unwrap());
        let Some(line) = stdout.wait(|lines| find(lines, "listening on ")) else {
            panic!("the server doesn't listen:\n{}", log.text());
        };
        let address = line["listening on ".len()..].parse().expect("no address");
        Server {
            child,
            address,
            stdout,
            log,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the server, not to its children.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for the server to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the server has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Tells the server to end and checks that it ends well.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log.text());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("the server's log:\n{}", self.log.text());
        } else if self.child.try_wait().unwrap().is_none() {
            self.stop();
        }
    }
}

/// The program with `shares` and `args`, and a free port unless `args` say where to listen.
pub fn command(shares: &[(&str, &Path)], args: &[&str]) -> Command {
    let mut command = Command::new(SMBD);
    for (name, path) in shares {
        let path = path.to_str().unwrap();
        command.arg(format!("--share={name}={path}"));
    }
    // As whoever runs the tests, so that the server gets at their files.
    if rustix::process::geteuid().is_root() && !args.contains(&"--run-as") {
        command.args(["--run-as", "root"]);
    }
    if !args
        .iter()
        .any(|arg| ["--guest", "--users", "--config"].contains(arg))
    {
        command.args(["--guest", "rw"]);
    }
    if !args.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(args);
    command
}

/// Sends a signal to one process.
#[track_caller]
pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("process 0");
    kill_process(pid, signal).unwrap();
}

fn find(lines: &[String], part: &str) -> Option<String> {
    lines.iter().find(|line| line.contains(part)).cloned()
}

fn count(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

/// The lines that come out of a pipe, read by a thread as they come.
#[derive(Clone)]
pub struct Lines(Arc<(Mutex<Output>, Condvar)>);

#[derive(Default)]
struct Output {
    lines: Vec<String>,
    at_end: bool,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Lines {
        let shared = Lines(Arc::default());
        let lines = shared.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.0.0.lock().unwrap().lines.push(line);
                lines.0.1.notify_all();
            }
            lines.0.0.lock().unwrap().at_end = true;
            lines.0.1.notify_all();
        });
        shared
    }

    /// Waits until `test` finds what it looks for; `None` when it never came.
    pub fn wait<T>(&self, test: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut read = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = test(&read.lines) {
                return Some(found);
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let left = left.filter(|_| !read.at_end)?;
            read = self.0.1.wait_timeout(read, left).unwrap().0;
        }
    }

    /// Waits for a line with `part` in it.
    #[track_caller]
    pub fn expect(&self, part: &str) -> String {
        let line = self.wait(|lines| find(lines, part));
        line.unwrap_or_else(|| panic!("no {part:?} in:\n{}", self.text()))
    }

    /// Waits for `number` lines with `part` in them.
    #[track_caller]
    pub fn expect_count(&self, part: &str, number: usize) {
        let found = self.wait(|lines| (count(lines, part) >= number).then_some(()));
        let text = || self.text();
        assert!(found.is_some(), "not {number} times {part:?}:\n{}", text());
    }

    /// How many lines have `part` in them by now.
    pub fn count(&self, part: &str) -> usize {
        count(&self.0.0.lock().unwrap().lines, part)
    }

    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }
}
