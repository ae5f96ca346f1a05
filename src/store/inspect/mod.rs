//! Looking into a store that is not mounted, or only looking: nothing here writes, but [`Image::repair`].
//!
//! - `walker`: the log in order, over damage and what crashes have left behind
//! - `frames`: every frame, and the bytes of a log
//! - `check`: all that is wrong, with `follow`: is every log where it should be; `repair`: what of it can be made good without losing anything

mod areas;
mod check;
mod follow;
mod frames;
mod repair;
pub(super) mod walker;

use std::sync::Arc;

use super::catalog::LogState;
use super::create::catalog_limit;
use super::error::OpenError;
use super::geometry::Shape;
use super::open::{Opened, examine};
use super::recovery::Recovered;
use super::stats::of_store;
use super::types::{LogInfo, RecoveryReport, Stats};
use crate::format::Superblock;
use crate::io::{Device, QuikIO};

pub use check::{CheckReport, Finding, Lost, Part};
pub use frames::{FrameInfo, Gap};

/// Bytes of all paths that are made at one time: whoever makes an image of endless paths gets numbers for the rest.
const PATHS_BYTES: usize = 256 << 20;

/// A store on a device, as recovery sees it, and its frames.
pub struct Image {
    io: Arc<QuikIO>,
    shape: Shape,
    opened: Opened,
}

impl Image {
    /// Read superblock, checkpoint and log of the store on `device`; never writes.
    pub fn open(device: Arc<dyn Device>) -> Result<Image, OpenError> {
        let name = device.describe();
        let io = QuikIO::new(device, &[]).map_err(|error| OpenError::Device { device: name, error })?;
        let opened = examine(&io)?;
        let shape = Shape::of(&opened.superblock);
        Ok(Image { io, shape, opened })
    }

    /// The superblock that counts.
    pub fn superblock(&self) -> &Superblock {
        &self.opened.superblock
    }

    /// Sentences about damaged copies.
    pub fn remarks(&self) -> &[String] {
        &self.opened.remarks
    }

    /// What a mount would recover.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.opened.recovered.report
    }

    /// The logs, as a mount would show them, by id; their names are their paths.
    pub fn logs(&self) -> Vec<LogInfo> {
        let replay = &self.opened.recovered.replay;
        let mut room = PATHS_BYTES;
        let info = |log: &LogState| {
            let name = replay.path(&log.entry, room).unwrap_or_else(|| format!("#{}", log.entry.id).into_bytes());
            room = room.saturating_sub(name.len());
            LogInfo { name, ..log.info() }
        };
        replay.logs.values().map(info).collect()
    }

    /// The log with this path.
    pub fn log(&self, path: &[u8]) -> Option<LogInfo> {
        let replay = &self.opened.recovered.replay;
        let slashes = path.iter().take_while(|byte| **byte == b'/').count();
        let path = path.get(slashes..).unwrap_or(&[]);
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let mut same = replay.logs.values().filter(|log| log.entry.name == last);
        let log = same.find(|log| replay.path(&log.entry, path.len()).is_some_and(|found| found == path))?;
        Some(LogInfo { name: path.to_vec(), ..log.info() })
    }

    /// Figures that make sense for a store that is not mounted.
    pub fn stats(&self) -> Stats {
        let superblock = &self.opened.superblock;
        let Recovered { table, replay, end, stable, from, report, .. } = &self.opened.recovered;
        let rest = if self.shape.within(*end) == 0 { 0 } else { self.shape.segment_end(*end) - end };
        let (used, available) = table.usage(rest);
        Stats {
            used,
            available,
            segments_free: table.free_count(),
            end_lsn: *end,
            stable_lsn: *stable,
            recovery_lsn: *from,
            logs_total: replay.logs.len() as u64,
            directories: replay.directories.len() as u64,
            catalog_bytes: replay.bytes(),
            catalog_limit: catalog_limit(superblock),
            state: if superblock.clean {
                "clean".to_owned()
            } else {
                "not cleanly unmounted (or mounted now)".to_owned()
            },
            ..of_store(self.io.describe(), superblock, &self.shape, report)
        }
    }
}
