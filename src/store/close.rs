//! Checkpoints of a running store, and its end.

use std::sync::atomic::Ordering;

use super::types::StoreError;
use super::{LogStructuredStore, checkpoints, superblocks};
use crate::format::{Checkpoint, LogIndex, SegmentEntry};
use crate::io::IoError;

impl LogStructuredStore {
    /// A segment was opened since the last checkpoint.
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let opened = self.flusher.space().opened;
        !self.flusher.has_failed() && self.checkpointing.lock().segments_opened < opened
    }

    /// Save catalog and segment table. Recovery will start at what was stable when this began; what the catalog knows
    /// beyond that is made stable before it is saved, so it can never promise more than the log holds.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut last = self.checkpointing.lock();
        let recovery_lsn = self.flusher.commit.stable();
        let mut logs = Vec::new();
        let mut index = Vec::new();
        let mut captured = recovery_lsn;
        for log in self.catalog.all() {
            let state = log.state.lock();
            captured = captured.max(state.end_lsn);
            logs.push(state.entry.clone());
            index.push(LogIndex {
                log_id: log.id,
                granularity: state.index.granularity(),
                points: state.index.points().to_vec(),
            });
        }
        self.make_stable_now(captured)?;
        let (segments, opened): (Vec<SegmentEntry>, u64) = {
            // A segment whose first filling is not stable yet may have no header on the device: recovery finds it by
            // its header, or it is not part of the log.
            let stable = self.flusher.commit.stable();
            let space = self.flusher.space();
            let begun = space.table.live().filter(|entry| self.shape.segment_start(entry.sequence) < stable);
            (begun.copied().collect(), space.opened)
        };
        let checkpoint = Checkpoint {
            uuid: last.superblock.uuid,
            generation: last.generation + 1,
            epoch: last.superblock.epoch,
            recovery_lsn,
            stable_lsn: self.flusher.commit.stable(),
            logs,
            segments,
            index,
            mounts: self.mounts.entries().to_vec(),
        };
        if checkpoints::save(&self.io, &last.superblock, &checkpoint).map_err(io_error)? {
            self.recovery_lsn.store(recovery_lsn, Ordering::Relaxed);
            // Only what was written moves on: else the next one would go over the newest.
            last.generation += 1;
        } else {
            log::warn!("{}: the checkpoint is larger than its area; recovery will take longer", self.io.describe());
        }
        last.segments_opened = opened;
        Ok(())
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
        self.io.close();
        result
    }

    fn close_clean(&self) -> Result<(), StoreError> {
        self.keeper.stop();
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
        superblocks::write_next(&self.io, &mut last.superblock).map_err(io_error)
    }
}

impl Drop for LogStructuredStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{}: not closed cleanly: {error}; the next mount recovers", self.io.describe());
        }
    }
}

fn io_error(error: IoError) -> StoreError {
    StoreError::Io(error.to_string())
}
