//! What a worker is told, what it answers, and how a crowd of them is started at one moment.
//!
//! A worker is this program started again: a process of its own, as the writers of logs are. It opens its file, says
//! that it is ready, waits for the word, works, and writes what it found into a file.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::cost::Cost;
use super::histogram::{Compact, Histogram};

/// The argument that makes this program a worker.
pub const WORKER: &str = "worker";

/// When an append is made durable.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// `fdatasync` after each.
    Each,
    /// `fdatasync` after so many.
    Every(u64),
    /// The file is open with `O_DSYNC`.
    Dsync,
    /// `fsync` once, at the end.
    End,
    /// Never while the clock runs.
    Never,
}

/// What to do.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Work {
    /// Append records to a file.
    Append { record: usize, durable: Durable },
    /// Read a file to its end, as `cat` does.
    Read,
    /// Read records of a file here and there.
    ReadAnywhere { record: usize },
    /// Read whatever is appended to a file, as `tail -f` does; only what it costs counts.
    Follow,
    /// Write a device from its beginning through an io_uring, so many requests at once.
    RawWrite { record: usize, dsync: bool, depth: usize },
    /// Read a device from its beginning, the same way.
    RawRead { record: usize, depth: usize },
}

/// How long.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub enum Until {
    Seconds(f64),
    Bytes(u64),
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Job {
    pub path: PathBuf,
    pub work: Work,
    pub until: Until,
    /// Where the answer goes.
    pub answer: PathBuf,
}

/// What one worker did.
#[derive(Serialize, Deserialize, Default)]
pub struct Answer {
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub cost: Cost,
    pub latencies: Compact,
}

/// What all workers of a trial did.
pub struct Total {
    pub operations: u64,
    pub bytes: u64,
    /// Operations per second: the sum over the workers.
    pub rate: f64,
    pub bytes_per_second: f64,
    pub cost: Cost,
    pub latencies: Histogram,
    /// Microseconds at 50 %, 99 % and 99.9 %, from a program that counts by itself.
    pub known: [Option<f64>; 3],
}

impl Total {
    /// Microseconds that half, 99 of 100 and 999 of 1000 operations took at most.
    pub fn percentiles(&self) -> [Option<f64>; 3] {
        let counted = [0.5, 0.99, 0.999].map(|share| self.latencies.percentile(share));
        if counted.iter().all(Option::is_none) { self.known } else { counted }
    }
}

/// Starts the workers, gives the word when all are ready, and adds up. `started` is run right before the word.
pub fn run(jobs: &[Job], started: impl FnOnce()) -> Result<Total, String> {
    let mut children = jobs.iter().map(spawn).collect::<Result<Vec<Child>, String>>()?;
    for child in &mut children {
        let mut byte = [0];
        let ready = child.stdout.as_mut().is_some_and(|pipe| pipe.read_exact(&mut byte).is_ok());
        if !ready {
            return Err("a worker ended before it was ready: it says why above".into());
        }
    }
    started();
    for child in &mut children {
        // Taken out of the child, so that the pipe closes.
        let told = child.stdin.take().is_some_and(|mut pipe| pipe.write_all(b"g").is_ok());
        if !told {
            return Err("a worker ended before it was told to begin".into());
        }
    }
    let mut total = Total {
        operations: 0,
        bytes: 0,
        rate: 0.0,
        bytes_per_second: 0.0,
        cost: Cost::default(),
        latencies: Histogram::new(),
        known: [None; 3],
    };
    for (child, job) in children.iter_mut().zip(jobs) {
        let status = child.wait().map_err(|error| format!("can't wait for a worker: {error}"))?;
        if !status.success() {
            return Err(format!("a worker on {} failed: it says why above", job.path.display()));
        }
        let answer = read_answer(&job.answer)?;
        total.operations += answer.operations;
        total.bytes += answer.bytes;
        total.rate += answer.operations as f64 / answer.seconds;
        total.bytes_per_second += answer.bytes as f64 / answer.seconds;
        total.cost = total.cost.and(answer.cost);
        total.latencies.add(&answer.latencies);
    }
    Ok(total)
}

fn spawn(job: &Job) -> Result<Child, String> {
    let exe = std::env::current_exe().map_err(|error| format!("can't find this program: {error}"))?;
    let told = serde_json::to_string(job).map_err(|error| error.to_string())?;
    let mut command = Command::new(exe);
    command.arg(WORKER).arg(told).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map_err(|error| format!("can't start a worker: {error}"))
}

fn read_answer(path: &Path) -> Result<Answer, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}
