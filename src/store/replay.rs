//! What frames mean to the catalog: the state of every log, built from a checkpoint and the frames behind it.
//!
//! Applying a frame twice changes nothing, so a checkpoint may know more than its recovery LSN says.

use std::collections::BTreeMap;

use super::catalog::LogState;
use super::index::SparseIndex;
use super::mounts::Mounts;
use super::scan::Found;
use super::types::LogId;
use crate::format::{CatalogEntry, Checkpoint, FrameKind, LogIndex, Lsn, MountEntry};

/// Remarks of one recovery, at most.
const MAX_NOTES: usize = 100;

/// Logs under construction.
#[derive(Debug, Default)]
pub struct Replay {
    /// By id.
    pub logs: BTreeMap<LogId, LogState>,
    /// Sentences for people.
    pub notes: Vec<String>,
    /// Which mounts the frames are of.
    pub mounts: Mounts,
    /// Damage was passed over, so a log may have a gap.
    pub damaged: bool,
    max_points: usize,
}

/// The stable LSN that a frame tells of; 0 if none.
pub fn stable_told_by(found: &Found) -> Lsn {
    match (found.kind, &found.record) {
        (FrameKind::Mark, _) => found.value,
        // A mount begins by flushing the device: all that recovery kept is stable.
        (FrameKind::Epoch, Some(record)) => record.stable_lsn.max(record.cut_lsn),
        _ => 0,
    }
}

impl Replay {
    /// Nothing yet.
    pub fn new(max_points: usize) -> Self {
        Self { max_points, ..Self::default() }
    }

    /// What a checkpoint knows.
    pub fn restore(checkpoint: Checkpoint, max_points: usize) -> Self {
        let mut replay = Self::new(max_points);
        replay.mounts = Mounts::restore(checkpoint.mounts);
        let mut indexes: BTreeMap<LogId, LogIndex> =
            checkpoint.index.into_iter().map(|index| (index.log_id, index)).collect();
        for entry in checkpoint.logs {
            let id = entry.log_id;
            let index = indexes
                .remove(&id)
                .and_then(|index| SparseIndex::restore(max_points, index.granularity, index.points))
                .unwrap_or_else(|| SparseIndex::new(max_points));
            let mut state = LogState::new(entry, index);
            state.end_lsn = checkpoint.recovery_lsn;
            replay.logs.insert(id, state);
        }
        replay
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text);
        }
    }

    /// Apply a frame; gives the stable LSN it tells of.
    pub fn apply(&mut self, found: &Found) -> Lsn {
        // A mount whose first frame is damaged is known by its others.
        if self.mounts.epoch_at(found.lsn).is_none_or(|epoch| epoch < found.epoch) {
            self.mounts.begin(MountEntry { epoch: found.epoch, cut_lsn: found.lsn, first_lsn: found.lsn });
        }
        match found.kind {
            FrameKind::Data => self.data(found),
            FrameKind::Meta => self.meta(found),
            FrameKind::Epoch => self.mount(found),
            FrameKind::Void | FrameKind::Mark | FrameKind::Pad => {}
        }
        stable_told_by(found)
    }

    fn mount(&mut self, found: &Found) {
        if let Some(record) = &found.record {
            self.mounts.begin(MountEntry { epoch: record.epoch, cut_lsn: record.cut_lsn, first_lsn: found.lsn });
        }
    }

    fn data(&mut self, found: &Found) {
        let (offset, len) = (found.offset, found.value);
        let Some(state) = self.logs.get_mut(&found.log_id) else {
            self.note(format!(
                "a record at LSN {:#x} is of log {}, which the catalog does not know",
                found.lsn, found.log_id
            ));
            return;
        };
        let end = offset.saturating_add(len);
        state.end_lsn = state.end_lsn.max(found.lsn + found.total);
        // Also when seen before: frames come in log order, so the last one seen is the last change.
        state.entry.mtime_ns = found.time_ns;
        state.last_ns = state.last_ns.max(found.time_ns);
        state.entry.flags &= !crate::format::catalog::FLAG_MTIME_SET;
        if end <= state.entry.size {
            return;
        }
        let gap = offset.saturating_sub(state.entry.size);
        state.index.note(offset, found.lsn);
        state.entry.size = end;
        state.entry.device_bytes += found.total;
        if gap > 0 {
            self.note(format!("log {} lacks {gap} bytes before offset {offset}", found.log_id));
        }
    }

    /// A record that ended at LSN `end` is damaged: if it was the log's next one, the log is as long as with it.
    pub fn lost(&mut self, log: LogId, offset: u64, len: u64, end: Lsn) {
        if let Some(state) = self.logs.get_mut(&log)
            && state.entry.size == offset
        {
            state.entry.size = offset.saturating_add(len);
            state.end_lsn = state.end_lsn.max(end);
        }
    }

    fn meta(&mut self, found: &Found) {
        let entry = match CatalogEntry::decode(&found.payload) {
            Ok(entry) => entry,
            Err(error) => {
                self.note(format!("a catalog record at LSN {:#x} makes no sense ({error})", found.lsn));
                return;
            }
        };
        let max_points = self.max_points;
        let state = self.logs.entry(entry.log_id).or_insert_with(|| {
            let fresh = CatalogEntry { size: 0, head: 0, device_bytes: 0, ..entry.clone() };
            LogState::new(fresh, SparseIndex::new(max_points))
        });
        let (size, head, device_bytes) = (state.entry.size, state.entry.head, state.entry.device_bytes);
        state.entry = CatalogEntry { size, head, device_bytes, ..entry };
        state.last_ns = state.last_ns.max(found.time_ns);
        state.end_lsn = state.end_lsn.max(found.lsn + found.total);
    }
}
