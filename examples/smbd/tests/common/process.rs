//! What `/proc` tells of the server's processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine; only a failure waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// `R`, `S`, `T`, `Z` …
    pub state: char,
    /// User and system time in ticks, 100 a second.
    pub ticks: u64,
}

/// `None` if there is no such process.
pub fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name in parentheses may itself have spaces and parentheses.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| -> Option<u64> { fields.get(index)?.parse().ok() };
    Some(Process {
        pid,
        parent: number(1)? as u32,
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
    })
}

/// The children of a process, zombies among them.
pub fn children(parent: u32) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("no /proc");
    entries
        .filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .filter(|process| process.parent == parent)
        .collect()
}

/// The one child of a process, waited for.
#[track_caller]
pub fn only_child(parent: u32) -> u32 {
    eventually("there is one child", || children(parent).len() == 1);
    children(parent)[0].pid
}

/// Waits until a process has no children, dead ones included.
#[track_caller]
pub fn wait_for_no_children(parent: u32) {
    eventually("all children are gone", || children(parent).is_empty());
}

/// Whether a process is no more, reaped or not.
pub fn is_gone(pid: u32) -> bool {
    process(pid).is_none_or(|process| process.state == 'Z')
}

/// The descriptors of a process and what they lead to.
#[track_caller]
pub fn descriptors(pid: u32) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("no such process");
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The sockets among the descriptors of a process, as `socket:[INODE]`.
#[track_caller]
pub fn sockets(pid: u32) -> Vec<String> {
    let descriptors = descriptors(pid).into_values();
    descriptors.filter(|t| t.starts_with("socket:")).collect()
}

/// How many bytes a process has sent over TCP that the others have not taken yet.
#[track_caller]
pub fn unsent(pid: u32) -> usize {
    let sockets = sockets(pid);
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("no such process");
    let rows = table
        .lines()
        .map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && sockets.contains(&format!("socket:[{}]", row[9])))
        .filter_map(|row| usize::from_str_radix(row[4].split_once(':')?.0, 16).ok())
        .sum()
}

/// A line of `/proc/PID/status`, without its name.
#[track_caller]
pub fn status(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("no such process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.strip_prefix(':'));
    value.expect("no such line").trim().to_owned()
}

/// A line of `/proc/PID/status` that is an amount of memory, in bytes.
#[track_caller]
pub fn memory(pid: u32, name: &str) -> usize {
    let line = status(pid, name);
    let kib: usize = line.trim_end_matches(" kB").parse().expect("no amount");
    kib * 1024
}
