//! Growing a store after its device or file became larger: more segments, mounted or not.
//!
//! Segments lie one behind the other to the end of the device, so that growing only adds some. The checkpoint areas stay
//! as they were made; they bound how far. New segments are used only when both superblocks tell of them: losing
//! either can't take away a segment that holds something.

use crate::sync::atomic::Ordering;
use std::sync::Arc;

use super::LogStructuredStore;
use super::create::catalog_limit;
use super::error::OpenError;
use super::geometry::Shape;
use super::open::examine;
use super::superblocks::{out_of_memory, write_next};
use super::types::StoreError;
use crate::format::{MAX_SEGMENTS, Superblock};
use crate::io::{Device, IoError, QuikIO, SharedBuffer};

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct GrowReport {
    /// Segments before.
    pub segments_before: u64,
    /// Segments now.
    pub segments: u64,
    /// Bytes of a segment.
    pub segment_size: u64,
}

/// The superblock of a store that takes all of a device of `capacity` bytes; `None` if it does already. Its checkpoint areas
/// have to have room for what the catalog holds now beside the larger segment table.
fn grown(superblock: &Superblock, capacity: u64, catalog_bytes: u64) -> Result<Option<Superblock>, String> {
    let size = u64::from(superblock.segment_size);
    let segment_count = (capacity.saturating_sub(superblock.data_start) / size).min(MAX_SEGMENTS);
    if segment_count <= superblock.segment_count {
        return Ok(None);
    }
    let larger = Superblock { segment_count, device_bytes: capacity, ..superblock.clone() };
    if catalog_limit(&larger) < catalog_bytes.max(1) {
        let most = most_segments(superblock, segment_count, catalog_bytes);
        let advice = if most > superblock.segment_count {
            let bytes = superblock.data_start + most * size;
            format!(
                "it can grow to at most {most}: give the device {bytes} bytes, or make a new store and copy the logs"
            )
        } else {
            format!("it has as many as it can have ({most}): make a new store and copy the logs")
        };
        return Err(format!(
            "the store can't grow to {segment_count} segments, for its checkpoint areas of {} bytes were made for a smaller \
             one; {advice}",
            superblock.checkpoint_bytes
        ));
    }
    larger.check_geometry().map_err(|error| error.to_string())?;
    Ok(Some(larger))
}

/// The most segments that a store can have whose checkpoint areas have no room for `too_many`; none fewer than it has.
fn most_segments(superblock: &Superblock, too_many: u64, catalog_bytes: u64) -> u64 {
    let fits = |segment_count: u64| {
        let device_bytes = superblock.data_start + segment_count * u64::from(superblock.segment_size);
        let larger = Superblock { segment_count, device_bytes, ..superblock.clone() };
        catalog_limit(&larger) >= catalog_bytes.max(1)
    };
    // The room falls as segments become more.
    let (mut most, mut too_many) = (superblock.segment_count, too_many);
    while too_many - most > 1 {
        let middle = most + (too_many - most) / 2;
        if fits(middle) {
            most = middle;
        } else {
            too_many = middle;
        }
    }
    most
}

/// Whatever lies in the headers of the new segments is none of ours.
fn wipe_headers(io: &QuikIO, before: &Superblock, larger: &Superblock) -> Result<(), IoError> {
    let shape = Shape::of(larger);
    let len = shape.block as usize;
    let zeros = SharedBuffer::from(io.buffer(len).map_err(|_| out_of_memory("write", larger.data_start, len))?);
    let from = u32::try_from(before.segment_count).unwrap_or(u32::MAX);
    for physical in from..shape.segments {
        io.write_all_now(zeros.clone(), 0..len, shape.device_offset(physical), false)?;
    }
    io.flush_now()
}

/// Let the store on `device`, which is not mounted, take all of it.
pub fn grow(device: Arc<dyn Device>) -> Result<GrowReport, OpenError> {
    let io = QuikIO::new(device, &[]).map_err(|error| OpenError::Setting(error.to_string()))?;
    let name = io.describe();
    let failed = |error| OpenError::Device { device: name.clone(), error };
    let opened = examine(&io)?;
    let unknown = opened.superblock.unknown_ro_features();
    if unknown != 0 {
        return Err(OpenError::Features { device: name, features: unknown, hint: "" });
    }
    let mut superblock = opened.superblock;
    let catalog_bytes = opened.recovered.replay.bytes();
    let larger = grown(&superblock, io.geometry().capacity, catalog_bytes).map_err(OpenError::Setting)?;
    let before = superblock.segment_count;
    if let Some(larger) = larger {
        wipe_headers(&io, &superblock, &larger).map_err(failed)?;
        superblock = larger;
        for _copy in 0..2 {
            write_next(&io, &mut superblock).map_err(failed)?;
        }
    }
    io.close();
    Ok(report(before, &superblock))
}

fn report(segments_before: u64, superblock: &Superblock) -> GrowReport {
    let (segments, segment_size) = (superblock.segment_count, u64::from(superblock.segment_size));
    GrowReport { segments_before, segments, segment_size }
}

impl LogStructuredStore {
    /// Take all of a device that has become larger under the mount. Waits for the device.
    pub fn grow(&self) -> Result<GrowReport, StoreError> {
        self.check_open()?;
        self.check_writable()?;
        let capacity = self.io.refresh_capacity()?;
        let catalog_bytes = self.catalog.tree.read().bytes;
        let mut last = self.checkpointing.lock();
        let before = last.superblock.segment_count;
        let larger = grown(&last.superblock, capacity, catalog_bytes).map_err(|why| {
            log::warn!("{}: {why}", self.io.describe());
            StoreError::CatalogFull
        })?;
        if let Some(larger) = larger {
            wipe_headers(&self.io, &last.superblock, &larger)?;
            last.superblock = larger;
            for _copy in 0..2 {
                write_next(&self.io, &mut last.superblock)?;
            }
            self.flusher.grow(u32::try_from(last.superblock.segment_count).unwrap_or(u32::MAX));
            self.flusher.full.store(false, Ordering::Relaxed);
            self.reclaimer.hope();
        }
        let report = report(before, &last.superblock);
        drop(last);
        self.drain_deferred();
        Ok(report)
    }
}
