//! Salvage: everything that can still be read of a store, however damaged. It never writes to the device.
//!
//! A mount believes superblock and checkpoint; this believes frames. What it needs to check them (the store's uuid, the
//! size and place of segments) it takes from whatever still tells it, and keeps the guess under which most of the
//! device makes sense.
//!
//! - `probe`: looks for whatever tells of a store; `shape`: which guess holds
//! - `table`: which part of the log lies where; `names`: what the logs are called; `copy`: the logs, record by record

mod copy;
mod names;
mod probe;
mod shape;
mod table;

use std::sync::Arc;

use super::inspect::Gap;
use super::types::LogId;
use crate::io::{Device, IoError, QuikIO};

pub use copy::MAX_LOGS;

/// Why nothing can be salvaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SalvageError {
    /// Nothing tells of a store.
    #[error(
        "{device}: nothing of a llamafs store was found on it: neither a superblock nor a checkpoint nor a segment"
    )]
    Nothing {
        /// The device.
        device: String,
    },
    /// The device failed as a whole.
    #[error("{device}: {error}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        error: IoError,
    },
    /// What was salvaged can't be written where it should be.
    #[error("{0}")]
    Output(String),
}

/// A log that is salvaged, before the first byte of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Its id.
    pub id: LogId,
    /// Its name, as parts of a path, each one fit to be that of a file; empty if the catalog does not tell it.
    pub path: Vec<Vec<u8>>,
    /// First retained offset: what lies below it was let go, and is not missing.
    pub head: u64,
    /// Its last known size; 0 if it is not known.
    pub size: u64,
}

/// Where the logs go.
pub trait Sink {
    /// Bytes of a log at their offset.
    fn bytes(&mut self, log: &Salvaged, offset: u64, data: &[u8]) -> Result<(), SalvageError>;
    /// A part of it that can't be read.
    fn gap(&mut self, log: &Salvaged, gap: Gap) -> Result<(), SalvageError>;
    /// All of a log was given: it ends here.
    fn end(&mut self, log: &Salvaged, size: u64) -> Result<(), SalvageError>;
}

/// What was salvaged.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SalvageReport {
    /// Logs.
    pub logs: u64,
    /// Records.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Gaps.
    pub gaps: u64,
    /// Bytes that are known to be missing.
    pub missing: u64,
    /// Bytes of the store's log that were on stable media and are damaged or gone, and of which nothing tells what they held.
    pub unexplained: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Where the store was found from, and other remarks, a sentence each.
    pub notes: Vec<String>,
}

/// Give all that can be read of the store on `device` to `sink`.
pub fn salvage(
    device: Arc<dyn Device>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SalvageReport, SalvageError> {
    let name = device.describe();
    let failed = |error: IoError| SalvageError::Device { device: name.clone(), error };
    let io = QuikIO::new(device, &[]).map_err(failed)?;
    let clues = probe::probe(&io);
    let found = shape::choose(&io, &clues).ok_or_else(|| SalvageError::Nothing { device: name.clone() })?;
    let mut report = SalvageReport { notes: found.notes.clone(), ..SalvageReport::default() };
    let segments = table::segments(&io, &found, &clues);
    report.segments = segments.len() as u64;
    let known = clues.nodes(&found.uuid);
    // Marks tell more of it.
    let checkpoint = clues.checkpoint(&found.uuid).map_or(0, |checkpoint| checkpoint.stable_lsn);
    let superblock = clues.superblocks.first().map_or(0, |superblock| superblock.stable_lsn);
    let stable = found.end.unwrap_or(0).max(checkpoint).max(superblock);
    let from = copy::From { io: &io, found: &found, segments: &segments, stable };
    copy::copy(from, known, sink, &mut report, progress).map_err(|error| match error {
        copy::Failed::Device(error) => failed(error),
        copy::Failed::Sink(error) => error,
    })?;
    Ok(report)
}
