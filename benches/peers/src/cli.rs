//! What can be asked for.

use crate::contestants::{self, CONTESTANTS, Contestant, FLOOR};
use crate::count;
use crate::run::{Absence, How, Run, measure};
use crate::support;
use crate::table::{Table, ratio};
use crate::wall::Race;
use crate::workload::{self, WEIGHED, WORKLOADS, Work, Workload};

const HELP: &str = "\
usage: peers [--count | --memory] [--quick] [--only WORKLOAD,…] [--peers CONTESTANT,…] [--rounds N]

Without --count, times the workloads and prints a table for each.

  --count    counts instructions (valgrind) and system calls (strace) per operation
  --memory   measures what an event of each kind takes
  --quick    a round of few operations: whether everything works, not how fast
  --only     these workloads alone
  --peers    these contestants alone
  --rounds   how often each is timed (15)
  --list     names workloads and contestants
";

enum Mode {
    Time,
    Count,
    Memory,
}

/// What was asked for.
struct Wanted {
    mode: Mode,
    quick: bool,
    rounds: usize,
    /// After how many seconds a measurement is given up.
    patience: u32,
    workloads: Vec<&'static Workload>,
    contestants: Vec<&'static Contestant>,
}

pub fn main(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let arguments: Vec<String> = arguments.collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", workload, contestant, operations, patience] => {
            give_up_after(patience)?;
            run(workload, contestant, operations)
        }
        ["weigh", thing, contestant, patience] => {
            give_up_after(patience)?;
            weigh(thing, contestant)
        }
        ["--help"] => {
            print!("{HELP}");
            Ok(())
        }
        ["--list"] => {
            list();
            Ok(())
        }
        arguments => {
            let wanted = parse(arguments)?;
            match wanted.mode {
                Mode::Time => time(&wanted),
                Mode::Count => count(&wanted),
                Mode::Memory => memory(&wanted),
            }
        }
    }
}

fn parse(arguments: &[&str]) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        mode: Mode::Time,
        quick: false,
        rounds: 15,
        patience: 20,
        workloads: WORKLOADS.iter().collect(),
        contestants: CONTESTANTS.iter().collect(),
    };
    let mut arguments = arguments.iter();
    while let Some(&argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next().copied();
            value.ok_or_else(|| format!("{argument} wants a value\n{HELP}"))
        };
        match argument {
            "--count" => wanted.mode = Mode::Count,
            "--memory" => wanted.mode = Mode::Memory,
            "--quick" => wanted.quick = true,
            "--only" => wanted.workloads = named(value()?, workload::find)?,
            "--peers" => wanted.contestants = named(value()?, contestants::find)?,
            "--rounds" => {
                let rounds = value()?.parse().ok().filter(|&rounds| rounds > 0);
                wanted.rounds = rounds.ok_or("--rounds wants a number above 0")?;
            }
            _ => return Err(format!("{argument} isn't known\n{HELP}")),
        }
    }
    if wanted.quick {
        wanted.rounds = 1;
        wanted.patience = 3;
    }
    Ok(wanted)
}

fn named<T>(
    names: &str,
    find: impl Fn(&str) -> Option<&'static T>,
) -> Result<Vec<&'static T>, String> {
    let find = |name| find(name).ok_or_else(|| format!("there is no {name} (see --list)"));
    names.split(',').map(find).collect()
}

fn list() {
    println!("workloads:");
    for workload in WORKLOADS {
        println!(
            "  {:18} {}: {}",
            workload.name, workload.title, workload.unit
        );
    }
    println!("contestants:");
    for contestant in CONTESTANTS {
        println!("  {}", contestant.name);
    }
}

/// Has the kernel end this process after so many seconds, whatever it is doing.
fn give_up_after(seconds: &str) -> Result<(), String> {
    let seconds = seconds.parse().map_err(|_| "no number of seconds")?;
    // SAFETY: nobody handles the signal.
    unsafe { libc::alarm(seconds) };
    Ok(())
}

/// One measurement, in this process.
fn run(workload: &str, contestant: &str, operations: &str) -> Result<(), String> {
    let workload = workload::find(workload).ok_or("no such workload")?;
    let operations = operations.parse().map_err(|_| "no number of operations")?;
    perform(workload.work, contestant, operations)
}

/// One measurement of memory, in this process.
fn weigh(thing: &str, contestant: &str) -> Result<(), String> {
    let mut weighed = WEIGHED.iter();
    let found = weighed.find(|(name, _, _)| *name == thing);
    let &(_, thing, count) = found.ok_or("no such thing")?;
    perform(Work::Hold(thing, count), contestant, 0)
}

fn perform(work: Work, contestant: &str, operations: u64) -> Result<(), String> {
    let contestant = contestants::find(contestant).ok_or("no such contestant")?;
    support::raise_descriptor_limit(work.descriptors())?;
    let mut run = Run::new(operations);
    match (contestant.perform)(work, &mut run) {
        Ok(()) => println!("{}", run.finish()?),
        Err(Absence::Lacks(what)) => println!("absent: has no {what}"),
        Err(Absence::Missing(why)) => println!("absent: {why}"),
    }
    Ok(())
}

fn time(wanted: &Wanted) -> Result<(), String> {
    for workload in wanted
        .workloads
        .iter()
        .filter(|workload| workload.timed > 0)
    {
        let operations = match wanted.quick {
            true => workload.quick(),
            false => workload.timed,
        };
        let race = Race::run(
            workload,
            &wanted.contestants,
            operations,
            wanted.rounds,
            wanted.patience,
        )?;
        println!("### {} (`{}`)\n", workload.title, workload.name);
        println!(
            "Time for {}; {} in each of {} rounds.\n",
            workload.unit, operations, wanted.rounds
        );
        println!("{}", race.table().render());
    }
    Ok(())
}

fn count(wanted: &Wanted) -> Result<(), String> {
    let head = |what: &str| {
        let names = wanted.contestants.iter().map(|contestant| contestant.name);
        Table::new(&[what].into_iter().chain(names).collect::<Vec<_>>())
    };
    let mut instructions = head("instructions");
    let mut system_calls = head("system calls");
    let mut details = Vec::new();
    for workload in &wanted.workloads {
        if workload.instructions {
            let mut cells = vec![workload.name.to_owned()];
            for contestant in &wanted.contestants {
                cells.push(match count::instructions(workload, contestant)? {
                    Ok(cost) => format!("{cost:.0}"),
                    Err(_) => "—".to_owned(),
                });
            }
            instructions.row(cells);
        }
        if workload.system_calls {
            let mut cells = vec![workload.name.to_owned()];
            for contestant in &wanted.contestants {
                cells.push(match count::system_calls(workload, contestant)? {
                    Ok(calls) => {
                        let each: Vec<String> = calls
                            .iter()
                            .map(|(name, count)| format!("{name} {}", ratio(*count)))
                            .collect();
                        details.push(format!(
                            "{}, {}: {}",
                            workload.name,
                            contestant.name,
                            each.join(", ")
                        ));
                        ratio(calls.values().fold(0.0, |sum, count| sum + count))
                    }
                    Err(_) => "—".to_owned(),
                });
            }
            system_calls.row(cells);
        }
    }
    println!("{}", instructions.render());
    println!("{}", system_calls.render());
    for detail in details {
        println!("- {detail}");
    }
    Ok(())
}

fn memory(wanted: &Wanted) -> Result<(), String> {
    let contestants = wanted.contestants.iter().map(|contestant| contestant.name);
    let contestants: Vec<&str> = contestants.filter(|&name| name != FLOOR).collect();
    let head: Vec<&str> = ["bytes"].iter().chain(&contestants).copied().collect();
    let mut table = Table::new(&head);
    for &(thing, _, count) in WEIGHED {
        let mut cells = vec![thing.to_owned()];
        for contestant in &contestants {
            cells.push(
                match measure(
                    How::by_itself(wanted.patience),
                    &["weigh", thing, contestant],
                )? {
                    Ok((outcome, _)) => format!("{:.0}", outcome.bytes as f64 / count as f64),
                    Err(_) => "—".to_owned(),
                },
            );
        }
        table.row(cells);
    }
    println!("{}", table.render());
    Ok(())
}
