//! What can be asked for.

use crate::contestants::{self, CONTESTANTS, Contestant, FLOOR, OURS};
use crate::count;
use crate::record::{self, Timed};
use crate::report;
use crate::run::{Absence, How, Run, measure};
use crate::support;
use crate::table::{self, Table, ratio};
use crate::wall::Race;
use crate::workload::{self, WEIGHED, WORKLOADS, Work, Workload};
use std::path::{Path, PathBuf};

const HELP: &str = "\
usage: peers [--count] [--memory] [--time] [--report FOLDER] [--quick] [--only WORKLOAD,…] [--peers CONTESTANT,…] [--rounds N]

What it does, by default the last; or everything, if there is to be a report:

  --count    counts instructions (valgrind) and system calls (strace) per operation
  --memory   measures what an event of each kind takes
  --time     times the workloads, which wants a machine with nothing else to do

How, and what for:

  --report   writes the tables into FOLDER/performance.md, draws pictures, and keeps the times in
             FOLDER/performance.tsv, those of workloads that are not timed now too
  --quick    a round of few operations: whether everything works, not how fast
  --only     these workloads alone
  --peers    these contestants alone
  --rounds   how often each is timed (15)
  --list     names workloads and contestants
";

/// What was asked for.
struct Wanted {
    count: bool,
    memory: bool,
    time: bool,
    /// Where, if not on the standard output.
    report: Option<PathBuf>,
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
            if let Some(folder) = &wanted.report {
                return report(&wanted, folder);
            }
            if wanted.count {
                print_counts(&wanted)?;
            }
            if wanted.memory {
                print!("{}", memory(&wanted)?.render());
            }
            if wanted.time {
                let races = time(&wanted)?;
                print!("{}", times(&races));
            }
            Ok(())
        }
    }
}

fn parse(arguments: &[&str]) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        count: false,
        memory: false,
        time: false,
        report: None,
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
            "--count" => wanted.count = true,
            "--memory" => wanted.memory = true,
            "--time" => wanted.time = true,
            "--report" => wanted.report = Some(value()?.into()),
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
    if !(wanted.count || wanted.memory || wanted.time) {
        wanted.time = true;
        (wanted.count, wanted.memory) = (wanted.report.is_some(), wanted.report.is_some());
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

fn time(wanted: &Wanted) -> Result<Vec<Timed>, String> {
    let mut races = Vec::new();
    for &workload in wanted
        .workloads
        .iter()
        .filter(|workload| workload.timed > 0)
    {
        let operations = match wanted.quick {
            true => workload.quick(),
            false => workload.timed,
        };
        eprintln!("timing {}", workload.name);
        let race = Race::run(
            workload,
            &wanted.contestants,
            operations,
            wanted.rounds,
            wanted.patience,
        )?;
        races.push((workload, race));
    }
    Ok(races)
}

/// The table of each workload.
fn times(races: &[Timed]) -> String {
    let mut text = String::new();
    for (workload, race) in races {
        let (title, name, unit) = (workload.title, workload.name, workload.unit);
        let rounds = race.most_rounds();
        text += &format!("### {title} (`{name}`)\n\nTime for {unit}; rounds: {rounds}.\n\n");
        text += &race.table().render();
        text.push('\n');
    }
    text
}

/// This crate against the floor and the best other, a row for each workload.
fn summary(races: &[Timed]) -> String {
    let head = [
        "",
        "floor",
        "tevent",
        "to the floor",
        "best other",
        "to the best other",
    ];
    let mut table = Table::new(&head);
    for (workload, race) in races {
        let nanoseconds = |name| race.median(name).map_or("—".to_owned(), table::time);
        let to = |name| race.ratio(OURS, name).map_or("—".to_owned(), ratio);
        let best = race.best_but(OURS);
        table.row(vec![
            workload.title.to_owned(),
            nanoseconds(FLOOR),
            nanoseconds(OURS),
            to(FLOOR),
            best.map_or("—".to_owned(), |best| {
                format!("{} ({best})", nanoseconds(best))
            }),
            best.map_or("—".to_owned(), to),
        ]);
    }
    table.render()
}

/// Instructions and system calls for an operation.
struct Counts {
    instructions: Table,
    system_calls: Table,
    /// Which calls those are.
    details: String,
}

fn count(wanted: &Wanted) -> Result<Counts, String> {
    let head = |what: &str| {
        let names = wanted.contestants.iter().map(|contestant| contestant.name);
        Table::new(&[what].into_iter().chain(names).collect::<Vec<_>>())
    };
    let mut counts = Counts {
        instructions: head("instructions"),
        system_calls: head("system calls"),
        details: String::new(),
    };
    for workload in &wanted.workloads {
        if workload.instructions {
            eprintln!("counting the instructions of {}", workload.name);
            let mut cells = vec![workload.name.to_owned()];
            for contestant in &wanted.contestants {
                let counted = count::instructions(workload, contestant)?;
                cells.push(counted.map_or("—".to_owned(), |cost| format!("{cost:.0}")));
            }
            counts.instructions.row(cells);
        }
        if workload.system_calls {
            eprintln!("counting the system calls of {}", workload.name);
            let mut cells = vec![workload.name.to_owned()];
            for contestant in &wanted.contestants {
                let Ok(calls) = count::system_calls(workload, contestant)? else {
                    cells.push("—".to_owned());
                    continue;
                };
                cells.push(ratio(calls.values().fold(0.0, |sum, count| sum + count)));
                let each = calls
                    .iter()
                    .map(|(name, count)| format!("{name} {}", ratio(*count)));
                let each = each.collect::<Vec<_>>().join(", ");
                let (workload, contestant) = (workload.name, contestant.name);
                if !each.is_empty() {
                    counts.details += &format!("- {workload}, {contestant}: {each}\n");
                }
            }
            counts.system_calls.row(cells);
        }
    }
    Ok(counts)
}

fn print_counts(wanted: &Wanted) -> Result<(), String> {
    let counts = count(wanted)?;
    println!("{}", counts.instructions.render());
    println!("{}", counts.system_calls.render());
    print!("{}", counts.details);
    Ok(())
}

fn memory(wanted: &Wanted) -> Result<Table, String> {
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
    Ok(table)
}

/// What is wanted, into a page and its pictures.
fn report(wanted: &Wanted, folder: &Path) -> Result<(), String> {
    let mut sections = vec![("machine", report::machine())];
    if wanted.time {
        let races = record::complete(&folder.join("performance.tsv"), time(wanted)?)?;
        report::draw(folder, &races)?;
        sections.push(("summary", summary(&races)));
        sections.push(("times", times(&races)));
    }
    if wanted.count {
        let counts = count(wanted)?;
        sections.push(("instructions", counts.instructions.render()));
        sections.push(("system calls", counts.system_calls.render()));
        sections.push(("which system calls", counts.details));
    }
    if wanted.memory {
        sections.push(("memory", memory(wanted)?.render()));
    }
    report::fill_in(&folder.join("performance.md"), &sections)
}
