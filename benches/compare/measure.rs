//! One contestant does the work of one row: a fresh file system, the workers, and what was counted meanwhile.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::contestant::{Contestant, Mounted, format};
use super::cost::{self, Cost};
use super::device::{Counters, LoopDevice};
use super::fio;
use super::job::{self, Durable, Job, Total, Until, Work};
use super::rows::{COLD, Kind, RAW_BLOCK, RAW_DEPTH, Row, WARM};

const MIB: u64 = 1 << 20;

/// One contestant's figures in one row of one round.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Sample {
    pub round: usize,
    pub row: String,
    pub contestant: Contestant,
    pub options: String,
    pub operations: u64,
    pub bytes: u64,
    /// Operations, and bytes, a second.
    pub rate: f64,
    pub bytes_per_second: f64,
    /// Microseconds that half, 99 of 100, 999 of 1000 took at most.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub writers: Cost,
    pub daemon: Option<Cost>,
    pub device_written: u64,
    pub device_read: u64,
    pub device_writes: u64,
    pub flushes: u64,
    /// Peak resident memory of the daemon.
    pub peak_kib: Option<u64>,
    /// Bytes of log space for each byte of payload.
    pub space: Option<f64>,
}

/// Where things happen.
pub struct Place<'a> {
    pub device: &'a LoopDevice,
    pub dir: &'a Path,
    /// Length of a timed row.
    pub seconds: f64,
    /// Longest bulk work: shorter in the quick run.
    pub most_mib: u64,
}

/// What is read before and after.
struct Reading {
    device: Counters,
    daemon: Option<Cost>,
    end: Option<u64>,
}

impl Place<'_> {
    /// The samples of one cell: one, or cold and warm reading.
    pub fn measure(&self, row: &Row, who: Contestant, round: usize) -> Result<Vec<Sample>, String> {
        let device = self.device.path();
        format(who, device)?;
        self.device.settle()?;
        let mounted = Mounted::new(who, device, &self.point(), row.options)?;
        let trial = Trial { place: self, who, round };
        let samples = match row.kind {
            Kind::Timed { record, processes, one_file, durable } => {
                let until = Until::Seconds(self.seconds);
                vec![match who {
                    Contestant::Raw => {
                        let work = Work::RawWrite { record: RAW_BLOCK, dsync: true, depth: 1 };
                        trial.run(row.id, &mounted, &[self.job(device.into(), work, until, 0)])?
                    }
                    Contestant::Fio => trial.fio(row.id, RAW_BLOCK, 1, &["--sync=dsync"], until)?,
                    _ => {
                        let file = |number: usize| self.file(if one_file { 0 } else { number });
                        let work = Work::Append { record, durable };
                        let jobs: Vec<Job> =
                            (0..processes).map(|number| self.job(file(number), work.clone(), until, number)).collect();
                        trial.run(row.id, &mounted, &jobs)?
                    }
                }]
            }
            Kind::Bulk { record, mebibytes } => {
                let until = Until::Bytes(mebibytes.min(self.most_mib) * MIB);
                vec![match who {
                    Contestant::Raw => {
                        let work = Work::RawWrite { record, dsync: false, depth: RAW_DEPTH };
                        trial.run(row.id, &mounted, &[self.job(device.into(), work, until, 0)])?
                    }
                    Contestant::Fio => trial.fio(row.id, record, RAW_DEPTH, &["--end_fsync=1"], until)?,
                    _ => {
                        let work = Work::Append { record, durable: Durable::End };
                        trial.run(row.id, &mounted, &[self.job(self.file(0), work, until, 0)])?
                    }
                }]
            }
            Kind::Read { mebibytes } => {
                let bytes = mebibytes.min(self.most_mib) * MIB;
                return self.measure_reads(&trial, mounted, row.options, bytes);
            }
        };
        mounted.unmount()?;
        Ok(samples)
    }

    /// Written, unmounted, mounted; read, and read again.
    fn measure_reads(&self, trial: &Trial, mounted: Mounted, options: &str, bytes: u64) -> Result<Vec<Sample>, String> {
        let device = self.device.path();
        if trial.who == Contestant::Raw {
            let work = Work::RawRead { record: MIB as usize, depth: RAW_DEPTH };
            let job = self.job(device.into(), work, Until::Bytes(bytes), 0);
            return Ok(vec![trial.run(COLD, &mounted, &[job])?]);
        }
        let work = Work::Append { record: MIB as usize, durable: Durable::End };
        job::run(&[self.job(self.file(0), work, Until::Bytes(bytes), 0)], || {})?;
        mounted.unmount()?;
        self.device.settle()?;
        let mounted = Mounted::new(trial.who, device, &self.point(), options)?;
        let job = self.job(self.file(0), Work::Read, Until::Bytes(bytes), 0);
        let samples = [COLD, WARM].map(|row| trial.run(row, &mounted, std::slice::from_ref(&job)));
        mounted.unmount()?;
        samples.into_iter().collect()
    }

    fn job(&self, path: PathBuf, work: Work, until: Until, number: usize) -> Job {
        Job { path, work, until, answer: self.dir.join(format!("answer-{number}.json")) }
    }

    fn point(&self) -> PathBuf {
        self.dir.join("mount")
    }

    fn file(&self, number: usize) -> PathBuf {
        self.point().join(format!("log-{number}"))
    }
}

/// One contestant in one round.
struct Trial<'a> {
    place: &'a Place<'a>,
    who: Contestant,
    round: usize,
}

impl Trial<'_> {
    fn run(&self, row: &str, mounted: &Mounted, jobs: &[Job]) -> Result<Sample, String> {
        let daemon = mounted.daemon();
        let mut before = Err("not read".to_owned());
        let total = job::run(jobs, || before = self.read(mounted, daemon))?;
        let (before, after) = (before?, self.read(mounted, daemon)?);
        let mut sample = self.sample(row, &total, &before, &after);
        sample.options.clone_from(&mounted.options);
        sample.peak_kib = daemon.and_then(cost::peak_kib);
        Ok(sample)
    }

    /// fio on the device: its own figures, our counters.
    fn fio(&self, row: &str, block: usize, depth: usize, how: &[&str], until: Until) -> Result<Sample, String> {
        let device = &self.place.device;
        let read = |device: Counters| Reading { device, daemon: None, end: None };
        let before = read(device.counters()?);
        let total = fio::run(device.path(), block, depth, how, until)?;
        Ok(self.sample(row, &total, &before, &read(device.counters()?)))
    }

    fn read(&self, mounted: &Mounted, daemon: Option<u32>) -> Result<Reading, String> {
        let end = match self.who {
            Contestant::Llamafs => mounted.status()?.get("end_lsn").and_then(serde_json::Value::as_u64),
            _ => None,
        };
        Ok(Reading { device: self.place.device.counters()?, daemon: daemon.map(cost::of).transpose()?, end })
    }

    fn sample(&self, row: &str, total: &Total, before: &Reading, after: &Reading) -> Sample {
        let [p50, p99, p999] = total.percentiles();
        let reads = [COLD, WARM].contains(&row);
        let space = before.end.zip(after.end).map(|(before, after)| (after - before) as f64 / total.bytes as f64);
        Sample {
            round: self.round,
            row: row.to_owned(),
            contestant: self.who,
            options: String::new(),
            operations: total.operations,
            bytes: total.bytes,
            rate: total.rate,
            bytes_per_second: total.bytes_per_second,
            p50,
            p99,
            p999,
            writers: total.cost,
            daemon: before.daemon.zip(after.daemon).map(|(before, after)| after.since(before)),
            device_written: after.device.written - before.device.written,
            device_read: after.device.read - before.device.read,
            device_writes: after.device.writes - before.device.writes,
            flushes: after.device.flushes - before.device.flushes,
            peak_kib: None,
            space: space.filter(|_| !reads),
        }
    }
}
