//! One contestant does the work of one row: a fresh file system, the workers, and what was counted meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::contestant::{Contestant, Mounted, format};
use super::cost::{self, Cost};
use super::device::{Counters, LoopDevice, call};
use super::fio;
use super::histogram::Histogram;
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
        if row.append_only && who != Contestant::Llamafs {
            let name = self.file(0);
            std::fs::File::create(&name).map_err(|error| format!("{}: {error}", name.display()))?;
            call("chattr", &["+a", &name.display().to_string()])?;
        }
        let trial = Trial { place: self, who, round };
        let samples = match row.kind {
            Kind::Timed { record, processes, one_file, durable } => {
                let until = Until::Seconds(self.seconds);
                vec![match who {
                    Contestant::Raw | Contestant::RawUnflushed => {
                        let dsync = who == Contestant::Raw;
                        let work = Work::RawWrite { record: record.max(RAW_BLOCK), dsync, depth: 1 };
                        trial.run(row.id, &mounted, &[self.job(device.into(), work, until, 0)])?
                    }
                    Contestant::Fio => trial.fio(row.id, record.max(RAW_BLOCK), 1, false, &["--sync=dsync"], until)?,
                    Contestant::Unflushed => trial.fio(row.id, record.max(RAW_BLOCK), 1, false, &[], until)?,
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
                    Contestant::Fio => trial.fio(row.id, record, RAW_DEPTH, false, &["--end_fsync=1"], until)?,
                    Contestant::Unflushed => trial.fio(row.id, record, RAW_DEPTH, false, &[], until)?,
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
            Kind::Anywhere { record, mebibytes } => {
                let mounted =
                    self.written(&trial, mounted, row.options, (record, mebibytes.min(self.most_mib) * MIB))?;
                let job = self.job(self.file(0), Work::ReadAnywhere { record }, Until::Seconds(self.seconds), 0);
                let sample = trial.run(row.id, &mounted, &[job])?;
                mounted.unmount()?;
                return Ok(vec![sample]);
            }
            Kind::Followed { record } => {
                let name = self.file(0);
                let create = std::fs::OpenOptions::new().append(true).create(true).open(&name);
                create.map_err(|error| format!("{}: {error}", name.display()))?;
                let until = Until::Seconds(self.seconds);
                let append = Work::Append { record, durable: Durable::Never };
                let jobs = [self.job(name.clone(), append, until, 0), self.job(name, Work::Follow, until, 1)];
                vec![trial.run(row.id, &mounted, &jobs)?]
            }
            Kind::Crash { mebibytes } => {
                let work = Work::Append { record: MIB as usize, durable: Durable::Each };
                job::run(&[self.job(self.file(0), work, Until::Bytes(mebibytes * MIB), 0)], || {})?;
                mounted.crash()?;
                let (counted, begun) = (self.device.counters()?, Instant::now());
                let mounted = Mounted::new(who, device, &self.point(), row.options)?;
                let sample = trial.mount(row.id, begun.elapsed(), counted, self.device.counters()?);
                mounted.unmount()?;
                return Ok(vec![sample]);
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
        if trial.who == Contestant::Fio {
            return Ok(vec![trial.fio(COLD, MIB as usize, RAW_DEPTH, true, &[], Until::Bytes(bytes))?]);
        }
        let job = self.job(self.file(0), Work::Read, Until::Bytes(bytes), 0);
        if [Contestant::Null, Contestant::NullUring].contains(&trial.who) {
            // It has what is read at hand, always, and keeps nothing over a mount.
            let work = Work::Append { record: MIB as usize, durable: Durable::Never };
            job::run(&[self.job(self.file(0), work, Until::Bytes(bytes), 0)], || {})?;
            return Ok(vec![trial.run(WARM, &mounted, &[job])?]);
        }
        let mounted = self.written(trial, mounted, options, (MIB as usize, bytes))?;
        let samples = [COLD, WARM].map(|row| trial.run(row, &mounted, std::slice::from_ref(&job)));
        mounted.unmount()?;
        samples.into_iter().collect()
    }

    /// A file of records of a size, so many bytes in all, which no cache holds any more.
    fn written(
        &self,
        trial: &Trial,
        mounted: Mounted,
        options: &str,
        (record, bytes): (usize, u64),
    ) -> Result<Mounted, String> {
        let work = Work::Append { record, durable: Durable::End };
        job::run(&[self.job(self.file(0), work, Until::Bytes(bytes), 0)], || {})?;
        mounted.unmount()?;
        self.device.settle()?;
        Mounted::new(trial.who, self.device.path(), &self.point(), options)
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
    fn fio(
        &self,
        row: &str,
        block: usize,
        depth: usize,
        reads: bool,
        how: &[&str],
        until: Until,
    ) -> Result<Sample, String> {
        let device = &self.place.device;
        let read = |device: Counters| Reading { device, daemon: None, end: None };
        let before = read(device.counters()?);
        let total = fio::run(device.path(), block, depth, reads, how, until)?;
        Ok(self.sample(row, &total, &before, &read(device.counters()?)))
    }

    /// A mount that took so long.
    fn mount(&self, row: &str, took: Duration, before: Counters, after: Counters) -> Sample {
        let seconds = took.as_secs_f64();
        let total = Total {
            operations: 1,
            bytes: 0,
            rate: 1.0 / seconds,
            bytes_per_second: 0.0,
            cost: Cost::default(),
            latencies: Histogram::new(),
            known: [Some(seconds * 1e6); 3],
        };
        let read = |device: Counters| Reading { device, daemon: None, end: None };
        self.sample(row, &total, &read(before), &read(after))
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
