//! Counts what doesn't depend on how busy the machine is: instructions, under valgrind, and system
//! calls, under strace. A workload is run with two numbers of operations, and what one more
//! operation costs is the difference by the difference: the set-up cancels out.

use crate::contestants::Contestant;
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::env;
use std::process::Command;

/// What one operation costs.
pub enum Counted<T> {
    Cost(T),
    /// The contestant doesn't take part.
    Absent(String),
}

/// Instructions in user space. The kernel's are not among them.
pub fn instructions(workload: &Workload, contestant: &Contestant) -> Result<Counted<f64>, String> {
    let mut totals = [0.0; 2];
    for (total, operations) in totals.iter_mut().zip(workload.counted) {
        let valgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
        ];
        let text = match under(&valgrind, workload, contestant, operations)? {
            Counted::Cost(text) => text,
            Counted::Absent(reason) => return Ok(Counted::Absent(reason)),
        };
        *total = text
            .lines()
            .find_map(|line| line.split_once("Collected :"))
            .and_then(|(_, count)| count.trim().parse().ok())
            .ok_or_else(|| format!("valgrind has counted nothing:\n{text}"))?;
    }
    Ok(Counted::Cost(per_operation(workload, totals)))
}

/// System calls by name.
pub type Calls = BTreeMap<String, f64>;

pub fn system_calls(
    workload: &Workload,
    contestant: &Contestant,
) -> Result<Counted<Calls>, String> {
    let mut runs = Vec::new();
    for operations in workload.counted {
        match under(&["strace", "-f", "-c"], workload, contestant, operations)? {
            Counted::Cost(text) => runs.push(strace_table(&text)?),
            Counted::Absent(reason) => return Ok(Counted::Absent(reason)),
        }
    }
    let mut costs = Calls::new();
    for name in runs.iter().flat_map(Calls::keys) {
        let totals = [0, 1].map(|run| runs[run].get(name).copied().unwrap_or(0.0));
        let cost = per_operation(workload, totals);
        // What isn't done once in a thousand operations isn't what they cost.
        if cost.abs() >= 0.001 {
            costs.insert(name.clone(), cost);
        }
    }
    Ok(Counted::Cost(costs))
}

fn per_operation(workload: &Workload, totals: [f64; 2]) -> f64 {
    let [few, many] = workload.counted;
    (totals[1] - totals[0]) / (many - few) as f64
}

/// Rows are: % time, seconds, usecs/call, calls, errors (or nothing), name.
fn strace_table(text: &str) -> Result<Calls, String> {
    let mut calls = Calls::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if let [share, _, _, count, .., name] = cells[..]
            && share.parse::<f64>().is_ok()
            && name != "total"
            && let Ok(count) = count.parse()
        {
            calls.insert(name.to_owned(), count);
        }
    }
    match calls.is_empty() {
        true => Err(format!("strace has printed no table:\n{text}")),
        false => Ok(calls),
    }
}

/// Runs one measurement under a tool, and returns what the tool has said.
fn under(
    tool: &[&str],
    workload: &Workload,
    contestant: &Contestant,
    operations: u64,
) -> Result<Counted<String>, String> {
    let program = env::current_exe().map_err(|error| format!("who am I? {error}"))?;
    let output = Command::new(tool[0])
        .args(&tool[1..])
        .arg(program)
        .args([
            "run",
            workload.name,
            contestant.name,
            &operations.to_string(),
        ])
        .output()
        .map_err(|error| format!("{} can't be run: {error}", tool[0]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let text = String::from_utf8_lossy(&output.stderr);
    if let Some(reason) = said.strip_prefix("absent: ") {
        return Ok(Counted::Absent(reason.trim().to_owned()));
    }
    if !output.status.success() || !said.starts_with("nanoseconds: ") {
        return Err(format!(
            "{} of {} under {} has failed ({}):\n{said}{text}",
            workload.name, contestant.name, tool[0], output.status
        ));
    }
    Ok(Counted::Cost(text.into_owned()))
}
