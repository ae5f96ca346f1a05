//! What the file system keeps in memory of each log, reachable without a lock that logs share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use super::tail::Tail;
use crate::store::IdTable;
use crate::store::types::{LogId, LogInfo};

/// Set-user-id and set-group-id.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Who still needs a log.
#[derive(Debug, Default)]
struct Uses {
    open: u64,
    /// How many times the kernel was told of it, and has not forgotten: it may open it without asking for its name.
    known: u64,
    unlinked: bool,
}

impl Uses {
    fn is_over(&self) -> bool {
        self.unlinked && self.open == 0 && self.known == 0
    }
}

/// One log.
#[derive(Debug)]
pub struct Log {
    /// Its id.
    pub id: LogId,
    /// Its visible end.
    pub tail: Tail,
    mode: AtomicU32,
    uses: Mutex<Uses>,
}

impl Log {
    fn new(info: &LogInfo) -> Self {
        Self { id: info.id, tail: Tail::new(info.size), mode: AtomicU32::new(info.mode), uses: Mutex::default() }
    }

    /// Its mode has changed.
    pub fn set_mode(&self, mode: u32) {
        self.mode.store(mode, Ordering::Release);
    }

    /// The mode without the set-id bits that a write by an ordinary user takes away, if there are any. As everywhere,
    /// set-group-id without group execution is not a set-id bit.
    pub fn mode_without_set_id(&self) -> Option<u32> {
        let mode = self.mode.load(Ordering::Acquire);
        let mut kill = mode & SET_ID;
        if mode & libc::S_IXGRP == 0 {
            kill &= !libc::S_ISGID;
        }
        (kill != 0).then_some(mode & !kill)
    }

    /// It is opened. False: it was removed, and nobody had it open.
    pub fn open(&self) -> bool {
        let mut uses = self.uses.lock();
        if uses.is_over() {
            return false;
        }
        uses.open += 1;
        true
    }

    /// A descriptor is closed. True: that was the last use of a log without a name.
    pub fn close(&self) -> bool {
        let mut uses = self.uses.lock();
        uses.open = uses.open.saturating_sub(1);
        uses.is_over()
    }

    /// The kernel is told of it. False: it was removed.
    pub fn know(&self) -> bool {
        let mut uses = self.uses.lock();
        if uses.is_over() {
            return false;
        }
        uses.known += 1;
        true
    }

    /// The kernel forgets that it was told, `times` times. True: that was the last use of a log without a name.
    pub fn unknow(&self, times: u64) -> bool {
        let mut uses = self.uses.lock();
        uses.known = uses.known.saturating_sub(times);
        uses.is_over()
    }

    /// It has no name any more. True: nobody uses it.
    pub fn unlink(&self) -> bool {
        let mut uses = self.uses.lock();
        uses.unlinked = true;
        uses.is_over()
    }
}

/// All logs of the store.
#[derive(Debug, Default)]
pub struct Logs {
    by_id: IdTable<RwLock<Option<Arc<Log>>>>,
}

impl Logs {
    /// These logs.
    pub fn new(infos: &[LogInfo]) -> Self {
        let logs = Self::default();
        infos.iter().for_each(|info| drop(logs.insert(info)));
        logs
    }

    /// The log with this id.
    #[inline]
    pub fn get(&self, id: LogId) -> Option<Arc<Log>> {
        self.by_id.get(id)?.read().clone()
    }

    /// The log that this tells of; made if it is new.
    pub fn insert(&self, info: &LogInfo) -> Option<Arc<Log>> {
        let mut slot = self.by_id.make(info.id)?.write();
        Some(slot.get_or_insert_with(|| Arc::new(Log::new(info))).clone())
    }

    /// A log is no more.
    pub fn remove(&self, id: LogId) {
        if let Some(slot) = self.by_id.get(id) {
            *slot.write() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(mode: u32) -> Log {
        Log { id: 1, tail: Tail::new(0), mode: AtomicU32::new(mode), uses: Mutex::default() }
    }

    #[test]
    fn set_id_bits_go_by_the_custom() {
        assert_eq!(log(0o644).mode_without_set_id(), None);
        assert_eq!(log(0o4755).mode_without_set_id(), Some(0o755));
        assert_eq!(log(0o6775).mode_without_set_id(), Some(0o775));
        assert_eq!(log(0o2664).mode_without_set_id(), None);
        assert_eq!(log(0o6664).mode_without_set_id(), Some(0o2664));
    }

    #[test]
    fn a_log_without_a_name_stays_until_its_last_descriptor() {
        let used = log(0o644);
        assert!(used.open() && used.open() && !used.close());
        assert!(!used.unlink(), "one still has it open");
        assert!(used.open(), "by /proc/self/fd");
        assert!(!used.close() && used.close());
        let unused = log(0o644);
        assert!(unused.unlink() && !unused.open() && !unused.know());
        let looked_up = log(0o644);
        assert!(looked_up.know() && looked_up.know() && !looked_up.unlink(), "the kernel may still open it");
        assert!(looked_up.open() && !looked_up.unknow(2) && looked_up.close());
    }
}
