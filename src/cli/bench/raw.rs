//! The device by itself: the same bytes in whole blocks, past every cache, durable one by one or all at the end.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::work::{self, Job, Load, Measured};
use crate::cli::failure::{Context, Failure};
use crate::io::Buffer;

/// Requests under way in bulk work.
const DEPTH: usize = 4;

/// A device whose second half is written to.
pub struct Raw {
    path: PathBuf,
    start: u64,
    bytes: u64,
    block: usize,
    load: Load,
}

/// A descriptor, an aligned buffer, and where it writes.
struct Lane {
    file: File,
    buffer: Buffer,
    start: u64,
    /// Places in it.
    places: u64,
}

impl Raw {
    /// Of a device of so many bytes, in blocks of so many.
    pub fn new(path: &Path, bytes: u64, block: usize, load: &Load) -> Self {
        let start = bytes / 2 / block as u64 * block as u64;
        Self { path: path.to_owned(), start, bytes: bytes - start, block, load: load.clone() }
    }

    /// One of `lanes`, each with a part of its own.
    fn lane(&self, lane: usize, lanes: usize, size: usize, flags: i32) -> Result<Lane, Failure> {
        let name = self.path.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT | flags);
        let file = options.open(&self.path).context(&name)?;
        let mut buffer = Buffer::new_aligned(size, self.block).context(&name)?;
        buffer.as_mut_slice().copy_from_slice(&work::data(size));
        let block = self.block as u64;
        let (part, size) = (self.bytes / lanes as u64 / block * block, size as u64);
        let start = self.start + part * lane as u64;
        Ok(Lane { file, buffer, start, places: (part / size).max(1) })
    }

    /// The same work as a row's.
    pub fn measure(&self, job: &Job) -> Result<Measured, Failure> {
        match *job {
            Job::Durable { record, writers, .. } => {
                let size = record.next_multiple_of(self.block);
                let lane = |writer| self.lane(writer, writers, size, libc::O_DSYNC);
                work::side_by_side(writers, size, &self.load, lane, |lane, _, number| lane.write(number))
            }
            Job::Append { record } => {
                let begun = Instant::now();
                let lane = |lane| self.lane(lane, DEPTH, record, 0);
                let load = Load { seconds: std::time::Duration::MAX, ..self.load.clone() };
                let measured = work::side_by_side(DEPTH, record, &load, lane, |lane, _, number| lane.write(number))?;
                let file = File::open(&self.path).context(self.path.display())?;
                file.sync_all().context(self.path.display())?;
                Ok(work::done(measured, begun))
            }
            Job::Read { record } => {
                let lane = |lane| self.lane(lane, DEPTH, record, 0);
                let load = Load { seconds: std::time::Duration::MAX, ..self.load.clone() };
                work::side_by_side(DEPTH, record, &load, lane, |lane, _, number| lane.read(number))
            }
        }
    }
}

impl Lane {
    fn place(&self, number: u64) -> u64 {
        self.start + number % self.places * self.buffer.len() as u64
    }

    fn write(&mut self, number: u64) -> std::io::Result<()> {
        self.file.write_all_at(self.buffer.as_slice(), self.place(number))
    }

    fn read(&mut self, number: u64) -> std::io::Result<()> {
        let place = self.place(number);
        self.file.read_exact_at(self.buffer.as_mut_slice(), place)
    }
}
