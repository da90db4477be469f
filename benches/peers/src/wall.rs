//! Times workloads. Contestants take turns: each round runs each once, in a process of its own. The
//! ratio of two is the median of their ratios in the same round, in which they met the same machine.

use crate::contestants::{Contestant, FLOOR};
use crate::echo;
use crate::run::{How, Measured, measure_work};
use crate::table::{Table, ratio, time};
use crate::workload::{Work, Workload};

/// The times of one contestant.
pub struct Times {
    pub name: &'static str,
    /// Of each round, the nanoseconds an operation took; or why there are none.
    pub rounds: Measured<Vec<f64>>,
}

/// The times of all contestants in one workload.
pub struct Race {
    pub times: Vec<Times>,
}

impl Race {
    pub fn run(
        workload: &Workload,
        contestants: &[&'static Contestant],
        operations: u64,
        rounds: usize,
        patience: u32,
    ) -> Result<Race, String> {
        let how = How::by_itself(patience);
        let mut times: Vec<Times> = contestants
            .iter()
            .map(|contestant| Times {
                name: contestant.name,
                rounds: Ok(Vec::new()),
            })
            .collect();
        let mut operations = vec![operations; contestants.len()];
        for (contestant, operations) in contestants.iter().zip(&mut operations) {
            *operations = affordable(how, workload, contestant, *operations)?;
        }
        for _ in 0..rounds {
            for (index, contestant) in contestants.iter().enumerate() {
                let times = &mut times[index];
                let Ok(past) = &mut times.rounds else {
                    continue;
                };
                let measured = match workload.work {
                    Work::Echo { connections } => {
                        let requests = operations[index];
                        echo::measure(
                            workload.name,
                            contestant.name,
                            connections,
                            requests,
                            patience,
                        )
                    }
                    _ => measure_work(how, workload.name, contestant.name, operations[index])
                        .map(|measured| measured.map(|(outcome, _)| outcome)),
                };
                match measured? {
                    Ok(outcome) => past.push(outcome.each()),
                    Err(reason) => times.rounds = Err(reason),
                }
            }
        }
        Ok(Race { times })
    }

    fn rounds(&self, name: &str) -> Option<&[f64]> {
        let times = self.times.iter().find(|times| times.name == name)?;
        times.rounds.as_deref().ok()
    }

    /// How many rounds there were.
    pub fn most_rounds(&self) -> usize {
        let rounds = self
            .times
            .iter()
            .filter_map(|times| times.rounds.as_ref().ok());
        rounds.map(Vec::len).max().unwrap_or(0)
    }

    pub fn median(&self, name: &str) -> Option<f64> {
        Some(median(self.rounds(name)?.to_vec()))
    }

    /// How many times as long as the other this one takes.
    pub fn ratio(&self, name: &str, to: &str) -> Option<f64> {
        let (ours, theirs) = (self.rounds(name)?, self.rounds(to)?);
        Some(median(
            ours.iter().zip(theirs).map(|(a, b)| a / b).collect(),
        ))
    }

    /// The fastest of those who are neither the floor nor `but`.
    pub fn best_but(&self, but: &str) -> Option<&'static str> {
        self.times
            .iter()
            .filter(|times| times.name != FLOOR && times.name != but && times.rounds.is_ok())
            .map(|times| (times.name, self.median(times.name).unwrap_or(f64::MAX)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(name, _)| name)
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new(&["", "median", "minimum", "to the floor", "to the best other"]);
        for times in &self.times {
            let mut cells = vec![times.name.to_owned()];
            match &times.rounds {
                Ok(rounds) => {
                    let minimum = rounds.iter().copied().fold(f64::MAX, f64::min);
                    cells.push(time(median(rounds.clone())));
                    cells.push(time(minimum));
                    cells.push(self.ratio(times.name, FLOOR).map_or("—".into(), ratio));
                    let best = self.best_but(times.name).filter(|_| times.name != FLOOR);
                    cells.push(best.map_or("—".into(), |best| {
                        let value = self.ratio(times.name, best).unwrap_or(f64::NAN);
                        format!("{} ({best})", ratio(value))
                    }));
                }
                Err(reason) => {
                    cells.push(reason.clone());
                    cells.extend(["—", "—", "—"].map(str::to_owned));
                }
            }
            table.row(cells);
        }
        table
    }
}

/// As many operations as a contestant does in half a second, if that is less than what was asked for.
/// Only those that are slower by orders of magnitude do less.
fn affordable(
    how: How,
    workload: &Workload,
    contestant: &Contestant,
    operations: u64,
) -> Result<u64, String> {
    let few = workload.least();
    if operations <= few {
        return Ok(operations);
    }
    Ok(
        match measure_work(how, workload.name, contestant.name, few)? {
            Ok((outcome, _)) => operations
                .min((5e8 / outcome.each().max(1.0)) as u64)
                .max(few),
            Err(_) => operations,
        },
    )
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match values.is_empty() {
        true => f64::NAN,
        false => (values[low] + values[high]) / 2.0,
    }
}
