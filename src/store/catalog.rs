//! The catalog: LLAMA's mapping table. It finds a log by id without a lock, and by name in a tree of directories.
//!
//! A log's own lock orders its appends: it is held from the claim in the ring to the release, so a log's size
//! moves only over bytes that are there, and a claim that is given up leaves no hole in any log. No lock is
//! shared between logs. The tree's lock orders changes of names and directories; who holds it may take logs' locks, two
//! at a time, and nobody who holds a log's lock takes the tree's.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::ops::Range;

use crate::sync::{MappedMutexGuard, Mutex, MutexGuard, RwLock};

use super::index::{PointBudget, SparseIndex};
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
    /// Points for reads.
    pub index: SparseIndex,
    /// Where recent reads ended: (offset, LSN of a frame at or below it), newest last.
    pub cursors: Vec<(u64, Lsn)>,
    /// What a read has found to be lost last: another that meets the same damage need not look for it again.
    pub lost: Option<Range<u64>>,
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
        let (cursors, lost, appends, append_bytes) = (Vec::new(), None, 0, 0);
        Self { entry, end_lsn, last_ns, index, cursors, lost, appends, append_bytes, unlinked: false }
    }

    /// What `stat` shows.
    pub fn info(&self) -> LogInfo {
        let mut info = NodeInfo::of(&self.entry, self.end_lsn);
        info.nlink = u32::from(!self.unlinked);
        info
    }

    /// What a checkpoint keeps.
    pub fn saved(&self) -> CatalogEntry {
        CatalogEntry { end_lsn: self.end_lsn, ..self.entry.clone() }
    }

    /// A frame at `lsn` holds the log from `offset`.
    #[inline]
    pub fn note(&mut self, offset: u64, lsn: Lsn, budget: &PointBudget) {
        if self.entry.first_lsn == 0 && offset == self.entry.head {
            self.entry.first_lsn = lsn;
            return;
        }
        self.index.note(offset, lsn, (self.entry.head, self.entry.first_lsn), budget);
    }

    /// The nearest known frame at or below `offset`.
    pub fn locate(&self, offset: u64) -> Option<(u64, Lsn)> {
        let first = (self.entry.first_lsn > 0).then_some((self.entry.head, self.entry.first_lsn));
        let recent = self.cursors.iter().copied().filter(|(at, _)| *at <= offset).max();
        self.index.floor(offset).max(first.filter(|(at, _)| *at <= offset)).max(recent)
    }

    /// A read walked to the frame at `lsn`, which starts at `offset`.
    pub fn remember(&mut self, offset: u64, lsn: Lsn) {
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

    /// A log that has no name is not open any more either.
    pub fn forget(&self, id: LogId) -> bool {
        let Some(slot) = self.logs.get(id) else { return false };
        let mut slot = slot.lock();
        if !slot.as_ref().is_some_and(|state| state.unlinked) {
            return false;
        }
        if let Some(mut state) = slot.take() {
            state.index.release(&self.points);
            self.past.appends.fetch_add(state.appends, Ordering::Relaxed);
            self.past.append_bytes.fetch_add(state.append_bytes, Ordering::Relaxed);
        }
        self.unlinked.fetch_sub(1, Ordering::Relaxed);
        true
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
