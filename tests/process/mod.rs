//! A test harness that runs every test in a process of its own, forked from a single-threaded
//! one, once for each backend.
//!
//! What follows `--` on cargo's command line is taken as for the standard harness: words without
//! a dash are filters, of which one has to occur in a test's name; `--exact`, `--skip` and
//! `--list` work; other options are ignored.

#![allow(dead_code, unused_macros, unused_imports)]

pub mod sys;

use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::panic;
use std::process::exit;
use std::time::Duration;
use tevent::{BackendKind, Context, Signum};

/// No test takes nearly as long. One that does hangs.
const GUARD: Duration = Duration::from_secs(60);

pub type Test = (&'static str, fn(BackendKind));

/// The named functions as a list of tests, with the name of the module that they are in.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*]
    };
}
pub(crate) use tests;

/// A context whose waits have no time limit, so that a wake-up that gets lost is a hang.
pub fn context(kind: BackendKind) -> Context {
    Context::builder()
        .backend(kind)
        .wait_timeout(None)
        .build()
        .expect("a context")
}

struct Filter {
    words: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
}

impl Filter {
    fn from_arguments() -> Filter {
        let mut filter = Filter {
            words: Vec::new(),
            skip: Vec::new(),
            exact: false,
            list: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => filter.exact = true,
                "--list" => filter.list = true,
                "--skip" => filter.skip.extend(arguments.next()),
                // These have a value that isn't a filter.
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                    arguments.next();
                }
                _ if argument.starts_with('-') => {}
                _ => filter.words.push(argument),
            }
        }
        filter
    }

    fn takes(&self, name: &str) -> bool {
        let fits = |word: &String| match self.exact {
            true => name == word,
            false => name.contains(word.as_str()),
        };
        (self.words.is_empty() || self.words.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}

/// Runs all tests, and ends the process.
pub fn main(groups: &[&[Test]]) -> ! {
    main_within(GUARD, groups)
}

/// The same, with so much time for each test.
pub fn main_within(guard: Duration, groups: &[&[Test]]) -> ! {
    let filter = Filter::from_arguments();
    // What nohup, or a shell that starts it in the background, has it ignore.
    for signum in [Signum::SIGHUP, Signum::SIGINT, Signum::SIGQUIT] {
        sys::set_handler(signum, libc::SIG_DFL);
    }
    let mut passed = 0;
    let mut failures = Vec::new();
    for &(path, test) in groups.iter().copied().flatten() {
        for &kind in BackendKind::available() {
            let short = path.split_once("::").map_or(path, |(_, name)| name);
            let name = format!("{short}::{kind}");
            if !filter.takes(&name) {
                continue;
            }
            if filter.list {
                println!("{name}: test");
                continue;
            }
            print!("test {name} ... ");
            std::io::stdout().flush().expect("stdout");
            match run(test, kind, guard) {
                Ok(()) => {
                    println!("ok");
                    passed += 1;
                }
                Err(output) => {
                    println!("FAILED");
                    failures.push((name, output));
                }
            }
        }
    }
    if filter.list {
        exit(0);
    }
    for (name, output) in &failures {
        println!("\n---- {name} ----\n{output}");
    }
    println!("\n{passed} passed, {} failed", failures.len());
    exit(if failures.is_empty() { 0 } else { 101 });
}

/// Runs one test in a process group of its own. The error is what it had to say.
fn run(test: fn(BackendKind), kind: BackendKind, guard: Duration) -> Result<(), String> {
    let mut output = sys::memory_file();
    let pid = sys::fork(|| {
        sys::lead_group();
        sys::unblock_all_signals();
        for standard in [1, 2] {
            sys::duplicate_onto(output.as_raw_fd(), standard);
        }
        test(kind);
    });
    let ended = sys::wait_for_exit(pid, guard);
    // What the test has left behind, or what hangs.
    sys::kill_group(pid);
    let status = sys::reap(pid);
    if ended && status == sys::Status::Exited(0) {
        return Ok(());
    }
    let mut text = String::new();
    output.rewind().expect("a memory file");
    let _ = output.read_to_string(&mut text);
    let why = if ended {
        format!("{status:?}")
    } else {
        format!("it hung for {guard:?}")
    };
    Err(format!("{text}{why}"))
}

/// Does `work`, and ends this process: the way of a forked child.
pub fn end_with(work: impl FnOnce()) -> ! {
    sys::end(exit_code(work))
}

/// Calls `work`, and turns its panic into an exit code.
fn exit_code(work: impl FnOnce()) -> i32 {
    match panic::catch_unwind(panic::AssertUnwindSafe(work)) {
        Ok(()) => 0,
        Err(_) => 101,
    }
}
