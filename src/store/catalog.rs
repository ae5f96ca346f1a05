//! The catalog: LLAMA's mapping table. It finds a log by id without a lock, and by name.
//!
//! A log's own lock orders its appends: it is held from the claim in the ring to the release, so a log's size
//! moves only over bytes that are there, and a claim that is given up leaves no hole in any log. No lock is
//! shared between logs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;

use parking_lot::{Mutex, RwLock};

use super::index::SparseIndex;
use super::types::{LogId, LogInfo};
use crate::format::{CatalogEntry, Lsn};

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
}

/// How many cursors of recent reads a log keeps.
const CURSORS: usize = 8;

impl LogState {
    /// The state of a log as a checkpoint or a metadata frame describes it.
    pub fn new(entry: CatalogEntry, index: SparseIndex) -> Self {
        let last_ns = entry.mtime_ns.max(entry.ctime_ns);
        Self { entry, end_lsn: 0, last_ns, index, cursors: Vec::new(), lost: None, appends: 0, append_bytes: 0 }
    }

    /// What `stat` shows.
    pub fn info(&self) -> LogInfo {
        let entry = &self.entry;
        LogInfo {
            id: entry.log_id,
            name: entry.name.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.size,
            head: entry.head,
            device_bytes: entry.device_bytes,
            mtime_ns: entry.mtime_ns,
            ctime_ns: entry.ctime_ns,
            btime_ns: entry.btime_ns,
            end_lsn: self.end_lsn,
        }
    }

    /// The nearest known frame at or below `offset`.
    pub fn locate(&self, offset: u64) -> Option<(u64, Lsn)> {
        let indexed = self.index.floor(offset);
        let recent = self.cursors.iter().copied().filter(|(at, _)| *at <= offset).max();
        indexed.max(recent)
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

/// One log.
#[derive(Debug)]
pub struct Log {
    /// Its id.
    pub id: LogId,
    /// Its state; see the head of this file for what the lock orders.
    pub state: Mutex<LogState>,
}

impl Log {
    /// A log with this state.
    pub fn new(state: LogState) -> Arc<Self> {
        Arc::new(Self { id: state.entry.log_id, state: Mutex::new(state) })
    }

    /// What `stat` shows.
    pub fn info(&self) -> LogInfo {
        self.state.lock().info()
    }
}

/// First chunk of the table; each further one doubles it.
const FIRST_CHUNK: u32 = 64;
/// Chunks of the table: ids up to 64 * (2^24 - 1).
const CHUNKS: usize = 24;

type Chunk = Box<[OnceLock<Arc<Log>>]>;

/// All logs of a store.
#[derive(Debug, Default)]
pub struct Catalog {
    chunks: [OnceLock<Chunk>; CHUNKS],
    ids: RwLock<Vec<LogId>>,
}

impl Catalog {
    /// Chunk and place in it of an id.
    fn place(id: LogId) -> Option<(usize, usize)> {
        let from_first = u64::from(id) / u64::from(FIRST_CHUNK) + 1;
        let chunk = from_first.ilog2() as usize;
        let start = u64::from(FIRST_CHUNK) * ((1u64 << chunk) - 1);
        let at = usize::try_from(u64::from(id) - start).ok()?;
        (chunk < CHUNKS).then_some((chunk, at))
    }

    /// The log with this id; takes no lock.
    #[inline]
    pub fn get(&self, id: LogId) -> Option<&Arc<Log>> {
        let (chunk, at) = Self::place(id)?;
        self.chunks.get(chunk)?.get()?.get(at)?.get()
    }

    /// Add a log; false if its id is taken or out of range.
    pub fn insert(&self, log: Arc<Log>) -> bool {
        let id = log.id;
        let Some((chunk, at)) = Self::place(id) else { return false };
        let Some(chunk_cell) = self.chunks.get(chunk) else { return false };
        let slots = chunk_cell.get_or_init(|| (0..(FIRST_CHUNK as usize) << chunk).map(|_| OnceLock::new()).collect());
        let Some(slot) = slots.get(at) else { return false };
        let mut ids = self.ids.write();
        if slot.set(log).is_err() {
            return false;
        }
        ids.push(id);
        true
    }

    /// All logs, in the order they were added.
    pub fn all(&self) -> Vec<Arc<Log>> {
        self.ids.read().iter().filter_map(|id| self.get(*id).cloned()).collect()
    }

    /// The log with this name.
    pub fn by_name(&self, name: &[u8]) -> Option<LogId> {
        self.all().into_iter().find(|log| log.state.lock().entry.name == name).map(|log| log.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_a_place_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..10_000u32 {
            let (chunk, at) = Catalog::place(id).unwrap();
            assert!(at < (FIRST_CHUNK as usize) << chunk);
            assert!(seen.insert((chunk, at)));
        }
    }
}
