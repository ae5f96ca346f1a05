//! The catalog: LLAMA's mapping table. It finds a log by id without a lock, and by name in a tree of directories.
//!
//! A log's own lock orders its appends: it is held from the claim in the ring to the release, so a log's size
//! moves only over bytes that are there, and a claim that is given up leaves no hole in any log. No lock is
//! shared between logs. The tree's lock orders changes of names and directories; who holds it may take logs' locks, two
//! at a time, and nobody who holds a log's lock takes the tree's.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::{MappedMutexGuard, Mutex, MutexGuard, RwLock};

use super::geometry::Shape;
use super::index::{PointBudget, SparseIndex};
use super::ranges::{Range, Ranges, Record};
use super::replay::Replay;
use super::table::IdTable;
use super::tree::{Child, Directory, Tree};
use super::types::{LogId, LogInfo, NodeId, NodeInfo};
use crate::format::catalog::FLAG_SECRETS;
use crate::format::{CatalogEntry, Lsn, NodeKind, ROOT_ID};

/// Bits of a log's mode without which not everybody may read it.
const READ_BY_ALL: u32 = 0o004;
/// The same of a directory.
const LISTED_BY_ALL: u32 = 0o005;

/// What changes in a log; behind its lock.
#[derive(Debug)]
pub struct LogState {
    /// Name, attributes, size, head and times as the device keeps them.
    pub entry: CatalogEntry,
    /// LSN behind its last frame.
    pub end_lsn: Lsn,
    /// Time of its last frame, or later: the next one's is not before it.
    pub last_ns: u64,
    /// Where its bytes lie.
    pub ranges: Ranges,
    /// Points for reads, within the ranges.
    pub index: SparseIndex,
    /// Where recent reads ended: (offset, LSN of a frame at or below it), newest last.
    pub cursors: Vec<(u64, Lsn)>,
    /// Bytes of the longest of the frames that reads have ended in lately.
    longest: u64,
    /// Ends of what was asked for last, newest last: who begins there goes on reading.
    asked: Vec<u64>,
    /// What a read has found to be lost last: another that meets the same damage need not look for it again.
    pub lost: Option<std::ops::Range<u64>>,
    /// Appends since the mount.
    pub appends: u64,
    /// Payload bytes appended since the mount.
    pub append_bytes: u64,
    /// It has no name any more, but is still open somewhere.
    pub unlinked: bool,
}

/// How many cursors of recent reads a log keeps.
const CURSORS: usize = 8;

impl LogState {
    /// The state of a log as a checkpoint or a metadata frame describes it.
    pub fn new(entry: CatalogEntry, index: SparseIndex) -> Self {
        let (end_lsn, last_ns) = (entry.end_lsn, entry.mtime_ns.max(entry.ctime_ns));
        Self {
            entry,
            end_lsn,
            last_ns,
            ranges: Ranges::default(),
            index,
            cursors: Vec::new(),
            longest: 0,
            asked: Vec::new(),
            lost: None,
            appends: 0,
            append_bytes: 0,
            unlinked: false,
        }
    }

    /// What `stat` shows.
    pub fn info(&self) -> LogInfo {
        let mut info = NodeInfo::of(&self.entry, self.end_lsn);
        info.nlink = u32::from(!self.unlinked);
        info
    }

    /// What a checkpoint keeps.
    pub fn saved(&self) -> CatalogEntry {
        let first_lsn = self.ranges.find(self.entry.head).map_or(0, |range| range.lsn);
        CatalogEntry { end_lsn: self.end_lsn, first_lsn, ..self.entry.clone() }
    }

    /// A record was appended: the segment in which a range begins with it, if one does.
    #[inline]
    pub fn note(&mut self, record: &Record, shape: &Shape, budget: &PointBudget) -> Option<u64> {
        let begins = self.ranges.append(record, shape);
        if begins.is_none()
            && let Some(range) = self.ranges.last()
        {
            self.index.note(record.offset, record.lsn, (range.offset, range.lsn), budget);
        }
        begins
    }

    /// Does the log lie in this segment at its end? Else a range begins with its next record.
    #[inline]
    pub fn ends_in(&self, sequence: u64, shape: &Shape) -> bool {
        self.ranges.last().is_some_and(|range| shape.sequence(range.lsn) == sequence && range.end() == self.entry.size)
    }

    /// Where to look for `offset`: its range, and the nearest known frame at or below it.
    pub fn locate(&self, offset: u64, shape: &Shape) -> Option<(Range, u64, Lsn)> {
        let range = *self.ranges.find(offset)?;
        let inside = |(at, lsn): &(u64, Lsn)| {
            (range.offset..=offset).contains(at)
                && *lsn >= range.lsn
                && shape.sequence(*lsn) == shape.sequence(range.lsn)
        };
        let recent = self.cursors.iter().copied().filter(inside).max();
        let point = self.index.floor(offset).filter(inside);
        let (at, lsn) = point.max(recent).unwrap_or((range.offset, range.lsn));
        Some((range, at, lsn))
    }

    /// About where `offset` lies, if a frame that is known, for `at`, lies at `lsn`: other logs' frames are between them as
    /// evenly as up to the next known place. As many bytes as the log has between them, at least.
    pub fn about(&self, offset: u64, (at, lsn): (u64, Lsn), shape: &Shape) -> Lsn {
        let bytes = offset.saturating_sub(at);
        // Its end may have been moved by what is no record of it; it has none so far behind its last point.
        let end = Some((self.entry.size, self.end_lsn.min(lsn.saturating_add(self.index.reach()))));
        let same = |(_, next): &(u64, Lsn)| *next > lsn && shape.sequence(*next) == shape.sequence(lsn);
        let next = self.index.behind(offset).or(end).filter(same);
        let evenly = next.and_then(|(behind, next)| {
            let share = u128::from(bytes) * u128::from(next - lsn);
            share.checked_div(u128::from(behind.saturating_sub(at))).and_then(|far| u64::try_from(far).ok())
        });
        lsn.saturating_add(evenly.unwrap_or_default().max(bytes)).min(shape.segment_end(lsn))
    }

    /// How long the frame that the next read ends in may well be.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// Somebody asks for these bytes. True: they were asked for those in front of them before, or begin a log.
    pub fn ask(&mut self, bytes: std::ops::Range<u64>) -> bool {
        let before = self.asked.iter().position(|end| *end == bytes.start);
        match before {
            Some(at) => drop(self.asked.remove(at)),
            None if self.asked.len() >= CURSORS => drop(self.asked.remove(0)),
            None => {}
        }
        self.asked.push(bytes.end);
        before.is_some() || bytes.start == 0
    }

    /// A read walked to the frame at `lsn`, of `total` bytes, which starts at `offset`.
    pub fn remember(&mut self, offset: u64, lsn: Lsn, total: u64) {
        self.longest = total.max(self.longest - self.longest / 4);
        self.cursors.retain(|(at, _)| *at != offset);
        if self.cursors.len() >= CURSORS {
            self.cursors.remove(0);
        }
        self.cursors.push((offset, lsn));
    }
}

/// Not everybody may look into a node with this mode.
pub fn is_hidden(kind: NodeKind, mode: u32) -> bool {
    let needed = match kind {
        NodeKind::Log => READ_BY_ALL,
        NodeKind::Directory => LISTED_BY_ALL,
    };
    mode & needed != needed
}

/// Appends of logs that are gone.
#[derive(Debug, Default)]
pub struct Past {
    /// Their appends since the mount.
    pub appends: AtomicU64,
    /// Payload bytes of these.
    pub append_bytes: AtomicU64,
}

/// All logs and directories of a store.
#[derive(Debug)]
pub struct Catalog {
    /// A place for each log; empty if there is none.
    logs: IdTable<Mutex<Option<Box<LogState>>>>,
    /// Names and directories.
    pub tree: RwLock<Tree>,
    /// Index points of all logs.
    pub points: PointBudget,
    /// Bytes that all entries may take in a checkpoint.
    pub limit: u64,
    /// Appends of logs that are gone.
    pub past: Past,
    /// Logs without a name that are still open.
    pub unlinked: AtomicU64,
    /// Logs and directories that are not for everybody.
    hidden: AtomicU64,
    /// The device may hold bytes of logs that were not for everybody and are gone.
    secrets: AtomicBool,
}

impl Catalog {
    /// The catalog that recovery found, for a store whose checkpoints have room for `limit` bytes of it.
    pub fn new(replay: Replay, limit: u64) -> Self {
        let Replay { logs, mut directories, next_id, points, .. } = replay;
        let root = directories.remove(&ROOT_ID).unwrap_or_default();
        let secrets = root.flags & FLAG_SECRETS != 0;
        let hidden = AtomicU64::new(u64::from(is_hidden(NodeKind::Directory, root.mode)));
        let mut tree = Tree::new(root, next_id);
        for entry in directories.values() {
            tree.insert_directory(Directory::new(entry.clone()));
        }
        let count = |entry: &CatalogEntry| {
            hidden.fetch_add(u64::from(is_hidden(entry.kind, entry.mode)), Ordering::Relaxed);
        };
        for (id, entry) in directories {
            count(&entry);
            tree.add(entry.parent, &entry.name, Child { id, kind: NodeKind::Directory });
        }
        let table = IdTable::default();
        for (id, state) in logs {
            count(&state.entry);
            tree.add(state.entry.parent, &state.entry.name, Child { id, kind: NodeKind::Log });
            insert(&table, state);
        }
        Self {
            logs: table,
            tree: RwLock::new(tree),
            points,
            limit,
            past: Past::default(),
            unlinked: AtomicU64::new(0),
            hidden,
            secrets: AtomicBool::new(secrets),
        }
    }

    /// The log with this id, locked.
    #[inline]
    pub fn lock(&self, id: LogId) -> Option<MappedMutexGuard<'_, LogState>> {
        MutexGuard::try_map(self.logs.get(id)?.lock(), |state| state.as_deref_mut()).ok()
    }

    /// Add a log.
    pub fn insert(&self, state: LogState) {
        insert(&self.logs, state);
    }

    /// A log that has no name is not open any more either: what lay where.
    pub fn forget(&self, id: LogId) -> Vec<Range> {
        let Some(slot) = self.logs.get(id) else { return Vec::new() };
        let mut slot = slot.lock();
        let Some(mut state) = slot.take_if(|state| state.unlinked) else { return Vec::new() };
        drop(slot);
        state.index.release(&self.points);
        self.past.appends.fetch_add(state.appends, Ordering::Relaxed);
        self.past.append_bytes.fetch_add(state.append_bytes, Ordering::Relaxed);
        self.unlinked.fetch_sub(1, Ordering::Relaxed);
        state.ranges.take()
    }

    /// A node has come, gone, or changed its mode: from hidden or not, to hidden or not.
    pub fn hides(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => drop(self.hidden.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.hidden.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Something is not for everybody.
    pub fn has_hidden(&self) -> bool {
        self.hidden.load(Ordering::Relaxed) > 0
    }

    /// What was not for everybody is gone, but its bytes are not.
    pub fn keeps_secrets(&self) {
        self.secrets.store(true, Ordering::Relaxed);
    }

    /// The whole device shows nothing that not everybody may read.
    pub fn is_public(&self) -> bool {
        !self.has_hidden() && !self.secrets.load(Ordering::Relaxed)
    }

    /// What `stat` shows of a log or a directory.
    pub fn info(&self, id: NodeId) -> Option<NodeInfo> {
        if let Some(log) = self.lock(id) {
            return Some(log.info());
        }
        self.tree.read().get(id).map(Directory::info)
    }
}

fn insert(table: &IdTable<Mutex<Option<Box<LogState>>>>, state: LogState) {
    if let Some(slot) = table.make(state.entry.id) {
        *slot.lock() = Some(Box::new(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_frame_lies_is_guessed_by_the_known_places_around_it() {
        let shape = Shape { segment_size: 1 << 20, block: 4096, data_start: 0, segments: 8, max_record: 1 << 16 };
        let budget = PointBudget::new(64);
        let mut state = LogState::new(CatalogEntry::default(), SparseIndex::default());
        let (first, second) = ((1 << 20) + 4096, (1 << 20) + 4096 + (300 << 10));
        for (offset, lsn) in [(70_000, first), (170_000, second)] {
            state.index.note(offset, lsn, (0, 1 << 20), &budget);
        }
        // As evenly as three bytes of the device for each of the log.
        assert_eq!(state.about(120_000, (70_000, first), &shape), first + (150 << 10));
        assert_eq!(state.about(70_000, (70_000, first), &shape), first);
        // Behind the last point up to the log's end, if that is in the segment; not further than where a point would be.
        (state.entry.size, state.end_lsn) = (270_000, second + 200_000);
        assert_eq!(state.about(220_000, (170_000, second), &shape), second + 100_000);
        (state.entry.size, state.end_lsn) = (170_100, second + 300_000);
        assert_eq!(state.about(170_050, (170_000, second), &shape), second + 131_072);
        state.end_lsn = 3 << 20;
        assert_eq!(state.about(170_050, (170_000, second), &shape), second + 131_072);
        // Never behind the segment, whatever a checkpoint says.
        (state.entry.size, state.end_lsn) = (170_001, (2 << 20) - 1);
        assert_eq!(state.about(u64::MAX, (170_000, second), &shape), 2 << 20);
    }
}
