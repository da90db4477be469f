//! One measurement.

use std::time::{Duration, Instant};

/// How much there is to do, and what was done in what time.
pub struct Run {
    /// How many operations there are to do.
    pub operations: u64,
    done: u64,
    elapsed: Duration,
}

impl Run {
    pub fn new(operations: u64) -> Run {
        Run {
            operations,
            done: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// Does what is to be timed. Preparations are made before, and the dead buried after.
    pub fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.elapsed += start.elapsed();
        result
    }

    /// Says that so many operations were seen to happen.
    pub fn did(&mut self, operations: u64) {
        self.done += operations;
    }

    /// The time it took, if all operations were done.
    pub fn finish(self) -> Result<Duration, String> {
        if self.done != self.operations {
            return Err(format!(
                "{} operations were to be done, and {} were",
                self.operations, self.done
            ));
        }
        Ok(self.elapsed)
    }
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
