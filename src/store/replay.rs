//! What frames mean to the catalog: the state of every log and directory, built from a checkpoint and the frames behind
//! it.
//!
//! Applying frames twice, in order, changes nothing in the end, so a checkpoint may know more than its recovery LSN
//! says. Meanwhile two nodes may have one name: names are looked at when all frames were (see `mend`).

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::LogState;
use super::geometry::Shape;
use super::index::{PointBudget, SparseIndex};
use super::mounts::Mounts;
use super::ranges::{Range, Record};
use super::scan::Found;
use super::segments::SegmentTable;
use super::types::{LogId, NodeId};
use super::{mend, tree};
use crate::format::catalog::FLAG_MTIME_SET;
use crate::format::{
    CatalogChange, CatalogEntry, CatalogRecord, Checkpoint, FrameKind, LogIndex, Lsn, MAX_OFFSET, MountEntry, NodeKind,
    ROOT_ID, SavedRange, Summarised,
};

/// Remarks of one recovery, at most.
const MAX_NOTES: usize = 100;
/// A log whose name is lost is for root alone.
const LOST_MODE: u32 = 0o600;

/// Logs and directories under construction.
#[derive(Debug)]
pub struct Replay {
    /// By id.
    pub logs: BTreeMap<LogId, LogState>,
    /// By id; the root is among them.
    pub directories: BTreeMap<NodeId, CatalogEntry>,
    /// No id was ever used that is not below this.
    pub next_id: NodeId,
    shape: Shape,
    /// Index points of all logs.
    pub points: PointBudget,
    /// Sentences for people.
    pub notes: Vec<String>,
    /// Which mounts the frames are of.
    pub mounts: Mounts,
    /// Damage was passed over, so a log may have a gap.
    pub damaged: bool,
    /// Below this an id that is not there was removed before the checkpoint.
    known_below: NodeId,
    /// Removed by frames that were seen.
    gone: BTreeSet<NodeId>,
    /// Logs whose name and beginning nothing tells of.
    made_up: BTreeSet<LogId>,
    /// Logs and directories, at most: no store has more, and whoever forges one gets no more memory for them.
    most_nodes: usize,
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
    /// Nothing yet; a log has at most `max_points` index points, and there are at most `most_nodes` logs and directories.
    pub fn new(shape: Shape, max_points: usize, most_nodes: usize) -> Self {
        Self {
            shape,
            logs: BTreeMap::new(),
            directories: BTreeMap::new(),
            next_id: 1,
            points: PointBudget::new(max_points),
            notes: Vec::new(),
            mounts: Mounts::default(),
            damaged: false,
            known_below: 0,
            gone: BTreeSet::new(),
            made_up: BTreeSet::new(),
            most_nodes,
        }
    }

    /// What a checkpoint knows.
    pub fn restore(checkpoint: Checkpoint, shape: Shape, max_points: usize, most_nodes: usize) -> Self {
        let mut replay = Self::new(shape, max_points, most_nodes);
        replay.mounts = Mounts::restore(checkpoint.mounts);
        let mut indexes: BTreeMap<LogId, LogIndex> =
            checkpoint.index.into_iter().map(|index| (index.log_id, index)).collect();
        for mut entry in checkpoint.nodes {
            let id = entry.id;
            replay.uses(id);
            if entry.kind == NodeKind::Directory {
                replay.directories.insert(id, entry);
                continue;
            }
            let index = indexes
                .remove(&id)
                .and_then(|index| SparseIndex::restore(index.granularity, index.points, &replay.points))
                .unwrap_or_default();
            if entry.end_lsn == 0 {
                entry.end_lsn = checkpoint.recovery_lsn;
            }
            let state = LogState::new(entry, index);
            replay.logs.insert(id, state);
        }
        replay.next_id = replay.next_id.max(checkpoint.next_id);
        replay.known_below = replay.next_id;
        replay
    }

    /// Notes a sentence, if there are not too many.
    pub fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text);
        }
    }

    /// There is room for another log or directory.
    fn has_room(&mut self) -> bool {
        let has_room = self.logs.len() + self.directories.len() < self.most_nodes;
        if !has_room {
            self.note("more logs and directories than a checkpoint has room for: the rest is left out".to_owned());
        }
        has_room
    }

    /// An id is used, once and for all.
    fn uses(&mut self, id: NodeId) {
        if id != ROOT_ID {
            self.next_id = self.next_id.max(id.saturating_add(1));
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
            FrameKind::Moved => self.moved(found),
            FrameKind::Meta => self.meta(found),
            FrameKind::Epoch => self.mount(found),
            FrameKind::Summary | FrameKind::Void | FrameKind::Mark | FrameKind::Pad => {}
        }
        stable_told_by(found)
    }

    fn mount(&mut self, found: &Found) {
        if let Some(record) = &found.record {
            self.mounts.begin(MountEntry { epoch: record.epoch, cut_lsn: record.cut_lsn, first_lsn: found.lsn });
        }
    }

    /// All frames were seen: what damage left is made a tree again, and every log knows what it takes.
    pub fn finish(&mut self) {
        mend::mend(self);
        for state in self.logs.values_mut() {
            state.ranges.drop_below(state.entry.head);
            state.entry.device_bytes = state.ranges.bytes();
        }
    }

    /// Tell the segment table what of each segment is alive.
    pub fn account(&mut self, table: &mut SegmentTable) {
        for (id, state) in &mut self.logs {
            for range in state.ranges.iter_mut() {
                let sequence = self.shape.sequence(range.lsn);
                table.begins(*id, sequence);
                let summary = table.get(sequence).map(|segment| segment.summary);
                range.counted = matches!(summary, Some(Summarised::At { .. }));
                if range.counted {
                    table.count(range);
                }
            }
        }
    }

    /// A range that was saved, of a segment in front of what is replayed. Give those of older segments first: the cleaner
    /// moves to newer ones.
    pub fn known(&mut self, saved: &SavedRange) {
        if let Some(state) = self.logs.get_mut(&saved.log_id) {
            state.ranges.restore(Range::restored(saved), &self.shape);
        }
    }

    /// The same of a record that was found in such a segment.
    pub fn found_before(&mut self, found: &Found) {
        if found.kind.is_record()
            && let Some(state) = self.logs.get_mut(&found.log_id)
        {
            state.ranges.put(Range::of(&record(found)), &self.shape, &mut Vec::new());
        }
    }

    /// The path of an entry, without the first slash; `None` if it is longer than `most`.
    pub fn path(&self, entry: &CatalogEntry, most: usize) -> Option<Vec<u8>> {
        let (mut names, mut len) = (vec![entry.name.as_slice()], entry.name.len());
        let mut at = entry.parent;
        while at != ROOT_ID && len <= most {
            let directory = self.directories.get(&at)?;
            names.push(&directory.name);
            len += 1 + directory.name.len();
            at = directory.parent;
        }
        names.reverse();
        (len <= most).then(|| names.join(&b'/'))
    }

    /// Bytes that the catalog takes in a checkpoint.
    pub fn bytes(&self) -> u64 {
        let names = self.logs.values().map(|log| &log.entry.name);
        names.chain(self.directories.values().map(|entry| &entry.name)).map(|name| tree::cost(name)).sum()
    }

    /// What a checkpoint keeps of logs and directories.
    pub fn nodes(&self) -> Vec<CatalogEntry> {
        self.directories.values().cloned().chain(self.logs.values().map(LogState::saved)).collect()
    }

    /// What a checkpoint keeps of the logs' indexes.
    pub fn indexes(&self) -> Vec<LogIndex> {
        self.logs.iter().filter_map(|(id, state)| state.index.saved(*id)).collect()
    }

    /// Where all logs lie.
    pub fn ranges(&self) -> Vec<SavedRange> {
        self.logs.iter().flat_map(|(id, state)| state.ranges.iter().map(|range| range.saved(*id))).collect()
    }

    fn data(&mut self, found: &Found) {
        let (id, offset, len) = (found.log_id, found.offset, found.value);
        if !self.logs.contains_key(&id) && !self.is_lost(found) {
            return;
        }
        let Some(state) = self.logs.get_mut(&id) else { return };
        let end = offset.saturating_add(len);
        state.end_lsn = state.end_lsn.max(found.lsn + found.total);
        // Also when seen before: frames come in log order, so the last one seen is the last change.
        state.entry.mtime_ns = found.time_ns;
        state.last_ns = state.last_ns.max(found.time_ns);
        state.entry.flags &= !FLAG_MTIME_SET;
        if end <= state.entry.size {
            // A checkpoint may know sizes of later than where recovery starts.
            if end > state.entry.head && state.ranges.find(offset).is_none() {
                state.ranges.put(Range::of(&record(found)), &self.shape, &mut Vec::new());
            }
            return;
        }
        let gap = offset.saturating_sub(state.entry.size);
        state.note(&record(found), &self.shape, &self.points);
        state.entry.size = end;
        if gap > 0 {
            self.note(format!("log {id} lacks {gap} bytes before offset {offset}"));
        }
    }

    /// The cleaner has moved a record. Its time is older than those around it, and nothing else of its log changes.
    fn moved(&mut self, found: &Found) {
        if !self.logs.contains_key(&found.log_id) && !self.is_lost(found) {
            return;
        }
        let made_up = self.made_up.contains(&found.log_id);
        let Some(state) = self.logs.get_mut(&found.log_id) else { return };
        let end = found.offset.saturating_add(found.value);
        if made_up {
            // Nobody knows where it began: what was moved lay in front of what was not.
            state.entry.head = state.entry.head.min(found.offset);
        }
        if end <= state.entry.head {
            return;
        }
        state.ranges.put(Range::of(&record(found)), &self.shape, &mut Vec::new());
        state.entry.size = state.entry.size.max(end);
        state.end_lsn = state.end_lsn.max(found.lsn + found.total);
    }

    /// A record that ended at LSN `end` is damaged: if it was the log's next one, the log is as long as with it.
    pub fn lost(&mut self, log: LogId, offset: u64, len: u64, end: Lsn) {
        if let Some(state) = self.logs.get_mut(&log)
            && state.entry.size == offset
        {
            state.entry.size = offset.saturating_add(len).min(MAX_OFFSET);
            state.end_lsn = state.end_lsn.max(end);
        }
    }

    /// A record of a log that is not there. Either the log was removed while it was open, and nobody misses it; or the
    /// frame with its name is damaged, and it gets another (true).
    fn is_lost(&mut self, found: &Found) -> bool {
        let id = found.log_id;
        if id < self.known_below
            || self.gone.contains(&id)
            || self.directories.contains_key(&id)
            || [0, ROOT_ID].contains(&id)
            || !self.has_room()
        {
            return false;
        }
        self.note(format!(
            "a record at LSN {:#x} is of log {id}, which the catalog does not know: it is `/{}` from now on",
            found.lsn,
            String::from_utf8_lossy(&mend::lost_name(id, 0))
        ));
        // What lies in front of it may have been let go.
        let entry = CatalogEntry {
            id,
            parent: ROOT_ID,
            size: found.offset.min(MAX_OFFSET),
            head: found.offset.min(MAX_OFFSET),
            mode: LOST_MODE,
            mtime_ns: found.time_ns,
            ctime_ns: found.time_ns,
            btime_ns: found.time_ns,
            name: mend::lost_name(id, 0),
            ..CatalogEntry::default()
        };
        self.uses(id);
        self.made_up.insert(id);
        self.logs.insert(id, LogState::new(entry, SparseIndex::default()));
        true
    }

    fn meta(&mut self, found: &Found) {
        match CatalogRecord::decode_all(&found.payload) {
            Ok(records) => records.into_iter().for_each(|record| self.record(record, found)),
            Err(error) => self.note(format!("a catalog record at LSN {:#x} makes no sense ({error})", found.lsn)),
        }
    }

    fn record(&mut self, record: CatalogRecord, found: &Found) {
        let CatalogRecord { change, entry } = record;
        let (id, parent) = (entry.id, entry.parent);
        self.uses(id);
        if self.gone.contains(&id) {
            return;
        }
        let is_new = !self.logs.contains_key(&id) && !self.directories.contains_key(&id);
        if is_new && change != CatalogChange::Gone && !self.has_room() {
            return;
        }
        match (change, entry.kind) {
            (CatalogChange::Gone, _) => {
                if let Some(mut state) = self.logs.remove(&id) {
                    state.index.release(&self.points);
                }
                self.directories.remove(&id);
                self.gone.insert(id);
            }
            // An id is a log or a directory for ever: who forges frames may say otherwise, but gets one of them.
            (_, NodeKind::Directory) if !self.logs.contains_key(&id) => drop(self.directories.insert(id, entry)),
            (_, NodeKind::Log) if !self.directories.contains_key(&id) => self.log(entry, found),
            _ => self.note(format!(
                "a catalog record at LSN {:#x} makes a log of a directory, or a directory of a log",
                found.lsn
            )),
        }
        if change != CatalogChange::Attributes
            && let Some(directory) = self.directories.get_mut(&parent)
        {
            directory.mtime_ns = found.time_ns;
            directory.ctime_ns = found.time_ns;
        }
    }

    /// Sizes only grow, and frames are counted where they are found: the rest is as the record says.
    fn log(&mut self, entry: CatalogEntry, found: &Found) {
        let fresh = || LogState::new(entry.clone(), Default::default());
        let made_up = self.made_up.remove(&entry.id);
        let state = self.logs.entry(entry.id).or_insert_with(fresh);
        if made_up {
            // It is told after all.
            state.entry.head = 0;
        }
        let before = &state.entry;
        state.entry = CatalogEntry { size: before.size.max(entry.size), head: before.head.max(entry.head), ..entry };
        state.ranges.drop_below(state.entry.head);
        state.last_ns = state.last_ns.max(found.time_ns);
        state.end_lsn = state.end_lsn.max(found.lsn + found.total);
    }
}

/// A record as ranges want it.
fn record(found: &Found) -> Record {
    let Found { offset, value: len, lsn, total, time_ns, .. } = *found;
    Record { offset, len, lsn, total, time_ns }
}
