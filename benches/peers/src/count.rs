//! Counts what doesn't depend on how busy the machine is: instructions, under valgrind, and system
//! calls, under strace. A workload is run with two numbers of operations, and what one more
//! operation costs is the difference by the difference: the set-up cancels out.

use crate::contestants::Contestant;
use crate::run::{How, Measured, measure_work};
use crate::workload::Workload;
use std::collections::BTreeMap;

/// Both tools make programs slow. In seconds.
const PATIENCE: u32 = 300;

/// Instructions in user space for an operation. The kernel's are not among them.
pub fn instructions(workload: &Workload, contestant: &Contestant) -> Result<Measured<f64>, String> {
    const TOOL: &[&str] = &[
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ];
    per_operation(workload, contestant, TOOL, |text| {
        let lines = text.lines();
        let count = lines
            .filter_map(|line| line.split_once("Collected :"))
            .next();
        let count = count.and_then(|(_, count)| count.trim().parse().ok());
        let total = count.ok_or("valgrind has counted nothing")?;
        Ok(BTreeMap::from([(String::new(), total)]))
    })
    .map(|costs| costs.map(|costs| costs.values().sum()))
}

/// System calls by name.
pub type Calls = BTreeMap<String, f64>;

/// System calls for an operation.
pub fn system_calls(
    workload: &Workload,
    contestant: &Contestant,
) -> Result<Measured<Calls>, String> {
    per_operation(workload, contestant, &["strace", "-f", "-c"], strace_table)
}

fn per_operation(
    workload: &Workload,
    contestant: &Contestant,
    tool: &'static [&'static str],
    read: impl Fn(&str) -> Result<Calls, String>,
) -> Result<Measured<Calls>, String> {
    let how = How {
        tool,
        patience: PATIENCE,
    };
    let mut runs = Vec::new();
    for operations in workload.counted {
        match measure_work(how, workload.name, contestant.name, operations)? {
            Ok((outcome, said)) => {
                let counts = read(&said).map_err(|error| format!("{error}:\n{said}"))?;
                runs.push((outcome.operations, counts));
            }
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let [(few, base), (many, total)] = &runs[..] else {
        return Err("two runs were to be made".to_owned());
    };
    let mut costs = Calls::new();
    for name in total.keys() {
        let more = total[name] - base.get(name).copied().unwrap_or(0.0);
        let cost = more / (many - few) as f64;
        // What isn't done once in two hundred operations isn't what they cost.
        if cost.abs() >= 0.005 {
            costs.insert(name.clone(), cost);
        }
    }
    Ok(Ok(costs))
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
        true => Err("strace has printed no table".to_owned()),
        false => Ok(calls),
    }
}
