//! The times of all rounds in a file beside the page, so that a report of some workloads alone leaves
//! the others as they are.
//!
//! A line is a workload, a contestant, and the nanoseconds an operation took in each round, or why
//! there are none; with tabs between.

use crate::contestants;
use crate::run::Measured;
use crate::wall::{Race, Times};
use crate::workload::{self, WORKLOADS, Workload};
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// A workload, and who was how fast in it.
pub type Timed = (&'static Workload, Race);

/// Adds what is in `file` of other workloads to `races`, in the order of [`WORKLOADS`], and writes it
/// all back.
pub fn complete(file: &Path, races: Vec<Timed>) -> Result<Vec<Timed>, String> {
    let failed = |error| format!("{}: {error}", file.display());
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.map_err(failed)?,
    };
    let mut all = races;
    for (workload, race) in parse(&text)? {
        if !all.iter().any(|(timed, _)| timed.name == workload.name) {
            all.push((workload, race));
        }
    }
    let place = |timed: &Timed| WORKLOADS.iter().position(|each| each.name == timed.0.name);
    all.sort_by_key(place);
    fs::write(file, render(&all)).map_err(failed)?;
    Ok(all)
}

fn render(races: &[Timed]) -> String {
    let mut text = String::new();
    for (workload, race) in races {
        for times in &race.times {
            let _ = write!(text, "{}\t{}", workload.name, times.name);
            let _ = match &times.rounds {
                Ok(rounds) => rounds
                    .iter()
                    .try_for_each(|round| write!(text, "\t{round:.2}")),
                Err(reason) => write!(text, "\t{}", reason.replace(['\t', '\n'], " ")),
            };
            text.push('\n');
        }
    }
    text
}

/// Lines about workloads and contestants that there are no more are left out.
fn parse(text: &str) -> Result<Vec<Timed>, String> {
    let mut races: Vec<Timed> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(workload), Some(contestant)) = (fields.next(), fields.next()) else {
            return Err(format!("no times: {line:?}"));
        };
        let (Some(workload), Some(contestant)) =
            (workload::find(workload), contestants::find(contestant))
        else {
            continue;
        };
        let rounds = rounds(&fields.collect::<Vec<_>>());
        let times = Times {
            name: contestant.name,
            rounds,
        };
        match races.last_mut() {
            Some((last, race)) if last.name == workload.name => race.times.push(times),
            _ => races.push((workload, Race { times: vec![times] })),
        }
    }
    Ok(races)
}

fn rounds(fields: &[&str]) -> Measured<Vec<f64>> {
    let numbers: Result<Vec<f64>, _> = fields.iter().map(|field| field.parse()).collect();
    numbers.map_err(|_| fields.join(" "))
}
