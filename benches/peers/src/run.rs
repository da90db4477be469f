//! One measurement.

use std::env;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How much there is to do, and what was done in what time.
pub struct Run {
    /// How many operations there are to do.
    pub operations: u64,
    done: u64,
    elapsed: Duration,
    weight: u64,
}

impl Run {
    pub fn new(operations: u64) -> Run {
        Run {
            operations,
            done: 0,
            elapsed: Duration::ZERO,
            weight: 0,
        }
    }

    /// Does what is to be timed. Preparations are made before, and the dead buried after.
    pub fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.elapsed += start.elapsed();
        result
    }

    /// Runs an echo server until its clients have gone. Tells them to begin, and takes the CPU time
    /// for the time.
    pub fn served<T>(&mut self, serve: impl FnOnce() -> T) -> T {
        println!("ready");
        let before = cpu_time();
        let result = serve();
        self.elapsed += cpu_time() - before;
        result
    }

    /// Adds a time that was taken where [`timed`](Run::timed) can't be called.
    pub fn took(&mut self, time: Duration) {
        self.elapsed += time;
    }

    /// Makes what is to be weighed: the memory that the allocator gives out meanwhile and doesn't
    /// get back.
    pub fn weighed<T>(&mut self, make: impl FnOnce() -> T) -> T {
        let before = allocated();
        let result = make();
        self.weight += allocated().saturating_sub(before);
        result
    }

    /// Says that so many operations were seen to happen.
    pub fn did(&mut self, operations: u64) {
        self.done += operations;
    }

    /// What came of it, if all operations were done.
    pub fn finish(self) -> Result<Outcome, String> {
        if self.done < self.operations {
            return Err(format!(
                "{} operations were to be done, and only {} were",
                self.operations, self.done
            ));
        }
        Ok(Outcome {
            operations: self.done,
            nanoseconds: self.elapsed.as_nanos() as u64,
            bytes: self.weight,
        })
    }
}

/// What a process that makes one measurement tells the one that asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// At least as many as were asked for.
    pub operations: u64,
    pub nanoseconds: u64,
    pub bytes: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            operations,
            nanoseconds,
            bytes,
        } = self;
        write!(formatter, "done {operations} {nanoseconds} {bytes}")
    }
}

impl Outcome {
    /// The nanoseconds that one operation took.
    pub fn each(&self) -> f64 {
        self.nanoseconds as f64 / self.operations.max(1) as f64
    }

    pub fn parse(line: &str) -> Option<Outcome> {
        let mut numbers = line.strip_prefix("done ")?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Outcome {
            operations: next()?,
            nanoseconds: next()?,
            bytes: next()?,
        })
    }
}

/// What was measured; or, as is no error, why the contestant doesn't take part.
pub type Measured<T> = Result<T, String>;

/// How a measurement is made.
#[derive(Clone, Copy)]
pub struct How {
    /// The words of the tool that runs it, if any.
    pub tool: &'static [&'static str],
    /// After how many seconds it is given up.
    pub patience: u32,
}

impl How {
    pub const fn by_itself(patience: u32) -> How {
        How {
            tool: &[],
            patience,
        }
    }
}

/// Makes a measurement in a process of its own. Returns also what the tool has said.
pub fn measure(how: How, what: &[&str]) -> Result<Measured<(Outcome, String)>, String> {
    let program = env::current_exe().map_err(|error| format!("who am I? {error}"))?;
    let program = program.to_string_lossy();
    let patience = how.patience.to_string();
    let words = [how.tool, &[&program], what, &[&patience]].concat();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .map_err(|error| format!("{} can't be run: {error}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    if let Some(reason) = said.strip_prefix("absent: ") {
        return Ok(Err(reason.trim().to_owned()));
    }
    if output.status.signal() == Some(libc::SIGALRM) {
        return Ok(Err(format!("not done in {} s", how.patience)));
    }
    match Outcome::parse(said.trim_end()) {
        Some(outcome) if output.status.success() => Ok(Ok((outcome, complaints.into_owned()))),
        _ => Err(format!(
            "{} has failed ({}):\n{said}{complaints}",
            words.join(" "),
            output.status
        )),
    }
}

/// Times operations of a workload, or counts them by a tool.
pub fn measure_work(
    how: How,
    workload: &str,
    contestant: &str,
    operations: u64,
) -> Result<Measured<(Outcome, String)>, String> {
    let operations = operations.to_string();
    measure(how, &["run", workload, contestant, &operations])
}

/// Why a contestant doesn't take part in a workload.
#[derive(Debug)]
pub enum Absence {
    /// It has nothing of the kind.
    Lacks(&'static str),
    /// It isn't installed.
    Missing(String),
}

pub type Performed = Result<(), Absence>;

/// What this process has used of the CPU, in its own code and in the kernel's.
fn cpu_time() -> Duration {
    // SAFETY: the structure is plain data, and is filled in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// What malloc has given out, its own overhead included. Rust allocates by it as C does.
fn allocated() -> u64 {
    // SAFETY: it takes no arguments and returns a structure.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}
