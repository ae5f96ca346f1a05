//! Looking into a store that is not mounted, or only looking: nothing here writes, but [`Image::repair`].
//!
//! - `walker`: the log in order, over damage and what crashes have left behind
//! - `frames`: every frame, and the bytes of a log
//! - `check`: all that is wrong; `repair`: what of it can be made good without losing anything

mod areas;
mod check;
mod frames;
mod repair;
pub(super) mod walker;

use std::sync::Arc;

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

    /// The logs, as a mount would show them.
    pub fn logs(&self) -> Vec<LogInfo> {
        let states = self.opened.recovered.replay.logs.values();
        states.map(super::catalog::LogState::info).collect()
    }

    /// Figures that make sense for a store that is not mounted.
    pub fn stats(&self) -> Stats {
        let superblock = &self.opened.superblock;
        let Recovered { table, end, stable, from, report, .. } = &self.opened.recovered;
        let rest = if self.shape.within(*end) == 0 { 0 } else { self.shape.segment_end(*end) - end };
        let (used, available) = table.usage(rest);
        Stats {
            used,
            available,
            segments_free: table.free_count(),
            end_lsn: *end,
            stable_lsn: *stable,
            recovery_lsn: *from,
            state: if superblock.clean {
                "clean".to_owned()
            } else {
                "not cleanly unmounted (or mounted now)".to_owned()
            },
            ..of_store(self.io.describe(), superblock, &self.shape, report)
        }
    }
}
