//! Figures of a running store.

use crate::sync::atomic::Ordering;

use super::LogStructuredStore;
use super::geometry::Shape;
use super::types::{RecoveryReport, RingSlot, Stats};
use crate::format::{Superblock, uuid_text};

/// What a store is, mounted or not; the rest is zero.
pub(super) fn of_store(device: String, superblock: &Superblock, shape: &Shape, recovery: &RecoveryReport) -> Stats {
    Stats {
        device,
        uuid: uuid_text(&superblock.uuid),
        label: superblock.label.clone(),
        capacity: shape.capacity(),
        segment_size: shape.segment_size,
        segments: u64::from(shape.segments),
        block_size: shape.block,
        max_record: shape.max_record as u64,
        epoch: superblock.epoch,
        worm: superblock.worm,
        recovery: recovery.clone(),
        ..Stats::default()
    }
}

impl LogStructuredStore {
    /// LLAMA's Hi-Stable.
    pub fn stable_lsn(&self) -> u64 {
        self.flusher.commit.stable()
    }

    /// LSN of the end of what was accepted.
    pub fn end_lsn(&self) -> u64 {
        self.ring.end_lsn()
    }

    /// (bytes of all segments, bytes that can still be appended): what `df` shows, without asking every log.
    pub fn usage(&self) -> (u64, u64) {
        let full = self.flusher.full.load(Ordering::Relaxed);
        let end_lsn = self.ring.end_lsn();
        let space = self.flusher.space();
        let (_, available) = space.usage(end_lsn);
        (space.table.capacity(), if full { 0 } else { available })
    }

    /// (records, bytes) appended since the mount.
    pub(super) fn appended(&self) -> (u64, u64) {
        let past = &self.catalog.past;
        let (mut appends, mut bytes) =
            (past.appends.load(Ordering::Relaxed), past.append_bytes.load(Ordering::Relaxed));
        for id in self.catalog.tree.read().ids() {
            if let Some(state) = self.catalog.lock(id) {
                appends += state.appends;
                bytes += state.append_bytes;
            }
        }
        (appends, bytes)
    }

    /// Figures for people and programs.
    pub fn stats(&self) -> Stats {
        let (appends, append_bytes) = self.appended();
        let tree = self.catalog.tree.read();
        let (logs_total, directories) = tree.counts();
        let catalog_bytes = tree.bytes;
        drop(tree);
        let io = self.io.counters();
        let end_lsn = self.ring.end_lsn();
        let full = self.flusher.full.load(Ordering::Relaxed);
        let stable_lsn = self.flusher.commit.stable();
        let store = of_store(self.io.describe(), &self.superblock, &self.shape, &self.recovery);
        let of_space = {
            let space = self.flusher.space();
            let (used, available) = space.usage(end_lsn);
            let table = &space.table;
            Stats {
                capacity: table.capacity(),
                segments: table.total(),
                used,
                available: if full { 0 } else { available },
                segments_free: table.free_count(),
                segments_reserved: table.reserve(),
                segments_retired: table.retired_count(),
                garbage: table.garbage(stable_lsn),
                ..store
            }
        };
        let moved = &self.space_counters;
        let (failed_flushes, seals_full, seals_commit) = self.flusher.counts();
        let state = match (self.flusher.commit.failed(), self.options.read_only) {
            (Some(error), _) => format!("appends stopped: {error}"),
            (None, true) => "ro".to_owned(),
            (None, false) => "rw".to_owned(),
        };
        Stats {
            full,
            segments_freed: moved.freed.load(Ordering::Relaxed),
            segments_cleaned: moved.cleaned.load(Ordering::Relaxed),
            moved_bytes: moved.moved_bytes.load(Ordering::Relaxed),
            expired_bytes: self.retention.expired.load(Ordering::Relaxed),
            dropped_bytes: self.retention.dropped.load(Ordering::Relaxed),
            trimmed_bytes: self.retention.trimmed.load(Ordering::Relaxed),
            end_lsn,
            stable_lsn,
            recovery_lsn: self.recovery_lsn.load(Ordering::Relaxed),
            appends,
            append_bytes,
            device_writes: io.writes,
            device_write_bytes: io.write_bytes,
            device_reads: io.reads,
            device_read_bytes: io.read_bytes,
            device_flushes: io.flushes,
            syncs: self.flusher.commit.syncs(),
            seals_full,
            seals_commit,
            failed_flushes,
            logs_total,
            directories,
            unlinked: self.catalog.unlinked.load(Ordering::Relaxed),
            catalog_bytes,
            catalog_limit: self.catalog.limit,
            queued_appends: self.deferred(),
            retries: io.retries,
            state,
            ..of_space
        }
    }

    /// The ring's buffers, their state words raw and decoded.
    pub fn ring_slots(&self) -> Vec<RingSlot> {
        let slots = self.ring.states().into_iter();
        slots
            .map(|slot| {
                let word = slot.state;
                RingSlot {
                    slot: slot.slot,
                    current: slot.current,
                    filling: slot.number,
                    word: slot.word,
                    offset: word.offset,
                    writers: word.writers,
                    flushing: word.flushing,
                    sealed: word.sealed,
                    base_lsn: slot.base_lsn,
                    start: slot.start,
                    limit: slot.limit,
                }
            })
            .collect()
    }
}
