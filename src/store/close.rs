//! Checkpoints of a running store, and its end.

use crate::sync::atomic::Ordering;
use std::collections::HashMap;

use super::types::StoreError;
use super::{LogStructuredStore, checkpoints, superblocks};
use crate::format::{CatalogEntry, Checkpoint, LogIndex, Lsn, SavedRange, SegmentEntry, Summarised};

/// Bytes of log written for each byte of a checkpoint, at least: what a large catalog costs is bounded by it, and so is
/// what recovery has to read.
const LOG_PER_CHECKPOINT: u64 = 8;

impl LogStructuredStore {
    /// A segment was opened since the last checkpoint, and enough was written to be worth another.
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let opened = self.flusher.space().opened;
        let last = self.checkpointing.lock();
        let written = opened.saturating_sub(last.segments_opened).saturating_mul(self.shape.segment_size);
        !self.flusher.has_failed() && written > 0 && written >= last.len.saturating_mul(LOG_PER_CHECKPOINT)
    }

    /// Save catalog and segment table. Recovery will start at what was stable when this began; what the catalog knows
    /// beyond that is made stable before it is saved, so it can never promise more than the log holds.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut last = self.checkpointing.lock();
        let recovery_lsn = self.flusher.commit.stable();
        let Captured { nodes, index, ranges, summaries, next_id, end_lsn } = self.capture();
        self.make_stable_now(end_lsn.max(recovery_lsn))?;
        let (segments, opened): (Vec<SegmentEntry>, u64) = {
            // A segment whose first filling is not stable yet may have no header on the device: recovery finds it by
            // its header, or it is not part of the log.
            let stable = self.flusher.commit.stable();
            let space = self.flusher.space();
            let begun = space.table.live().filter(|entry| self.shape.segment_start(entry.sequence) < stable);
            (begun.copied().collect(), space.opened)
        };
        // What has no summary yet has its ranges here.
        let summarised =
            segments.iter().map(|entry| summaries.get(&entry.sequence).copied().unwrap_or(Summarised::Here)).collect();
        // Of mounts that left nothing that is still there nobody has to know.
        let mut mounts = self.mounts.clone();
        mounts.forget_below(segments.first().map_or(0, |entry| self.shape.segment_start(entry.sequence)));
        let checkpoint = Checkpoint {
            uuid: last.superblock.uuid,
            generation: last.generation + 1,
            epoch: last.superblock.epoch,
            recovery_lsn,
            stable_lsn: self.flusher.commit.stable(),
            nodes,
            segments,
            index,
            mounts: mounts.entries().to_vec(),
            next_id,
            summarised,
            ranges,
        };
        match checkpoints::save(&self.io, &last.superblock, checkpoint)? {
            Some(len) => {
                self.recovery_lsn.store(recovery_lsn, Ordering::Relaxed);
                last.len = len;
                // Only what was written moves on: else the next one would go over the newest.
                last.generation += 1;
                let freed = self.flusher.free_after(last.generation);
                self.became_free(freed);
            }
            // Not with a catalog within its limit; a store may have been made by somebody else.
            None => {
                log::warn!("{}: the checkpoint is larger than its area; recovery will take longer", self.io.describe());
            }
        }
        last.segments_opened = opened;
        Ok(())
    }

    /// The catalog as it is. Names are held still meanwhile, appends are not.
    fn capture(&self) -> Captured {
        let summaries: HashMap<u64, Summarised> = {
            let space = self.flusher.space();
            let with = space.table.segments().filter(|segment| segment.is_summed_up());
            with.map(|segment| (segment.entry.sequence, segment.summary)).collect()
        };
        let summed_up = summaries.values().map(|summary| match summary {
            Summarised::At { lsn, total } => lsn + u64::from(*total),
            _ => 0,
        });
        let summed_up = summed_up.max().unwrap_or(0);
        let tree = self.catalog.tree.read();
        let mut captured = Captured {
            nodes: Vec::new(),
            index: Vec::new(),
            ranges: Vec::new(),
            summaries,
            next_id: tree.next_id,
            end_lsn: tree.changed_lsn.max(summed_up),
        };
        captured.nodes.extend(tree.directories().map(|directory| directory.entry.clone()));
        for id in tree.ids() {
            let Some(state) = self.catalog.lock(id) else { continue };
            captured.end_lsn = captured.end_lsn.max(state.end_lsn);
            captured.nodes.push(state.saved());
            captured.index.extend(state.index.saved(id));
            let shape = &self.shape;
            let here = state.ranges.iter().filter(|range| !captured.summaries.contains_key(&shape.sequence(range.lsn)));
            captured.ranges.extend(here.map(|range| range.saved(id)));
        }
        // The same store, the same bytes.
        captured.nodes.sort_unstable_by_key(|node| node.id);
        captured.index.sort_unstable_by_key(|index| index.log_id);
        captured
    }

    /// Make everything accepted stable, close the log with a mark, save a checkpoint and a clean superblock, and end
    /// the threads. Again: nothing. After a failed write only the threads end: the next mount recovers.
    pub fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let result = if self.options.read_only { Ok(()) } else { self.close_clean() };
        self.ring.close();
        self.fail_deferred(&StoreError::Closed);
        self.keeper.stop();
        self.reclaimer.stop();
        self.io.close();
        result
    }

    fn close_clean(&self) -> Result<(), StoreError> {
        self.keeper.stop();
        self.reclaimer.stop();
        // What waits for room was not acknowledged, but its callers still can be.
        while self.deferred() > 0 && !self.flusher.has_failed() {
            self.make_stable_now(self.ring.end_lsn())?;
            self.drain_deferred();
        }
        // Accepts nothing more; what it seals is flushed below.
        self.make_stable_now(self.ring.end_lsn())?;
        self.flusher.mark();
        let end = self.flusher.space().sealed_end;
        self.make_stable_now(end)?;
        self.checkpoint()?;
        let mut last = self.checkpointing.lock();
        let end = self.flusher.space().sealed_end;
        last.superblock.clean = true;
        last.superblock.stable_lsn = end;
        last.superblock.end_lsn = end;
        Ok(superblocks::write_next(&self.io, &mut last.superblock)?)
    }
}

impl Drop for LogStructuredStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{}: not closed cleanly: {error}; the next mount recovers", self.io.describe());
        }
    }
}

/// The catalog at one moment.
struct Captured {
    nodes: Vec<CatalogEntry>,
    index: Vec<LogIndex>,
    /// Of segments without a summary.
    ranges: Vec<SavedRange>,
    /// Of those that have one: where.
    summaries: HashMap<u64, Summarised>,
    next_id: u32,
    /// What it knows of lies below.
    end_lsn: Lsn,
}
