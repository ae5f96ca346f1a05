//! What the file system keeps in memory of each log, reachable without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tail::Tail;
use crate::store::types::{LogId, LogInfo};

/// Set-user-id and set-group-id.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// One log.
#[derive(Debug)]
pub struct Log {
    /// Its id.
    pub id: LogId,
    /// Its visible end.
    pub tail: Tail,
    mode: AtomicU32,
}

impl Log {
    fn new(info: &LogInfo) -> Self {
        Self { id: info.id, tail: Tail::new(info.size), mode: AtomicU32::new(info.mode) }
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
}

/// All logs of the store. Fixed while mounted; a later issue makes and removes logs.
#[derive(Debug)]
pub struct Logs {
    by_id: Box<[Arc<Log>]>,
}

impl Logs {
    /// These logs.
    pub fn new(infos: &[LogInfo]) -> Self {
        let mut by_id: Vec<_> = infos.iter().map(|info| Arc::new(Log::new(info))).collect();
        by_id.sort_by_key(|log| log.id);
        Self { by_id: by_id.into_boxed_slice() }
    }

    /// The log with this id.
    pub fn get(&self, id: LogId) -> Option<&Arc<Log>> {
        let at = self.by_id.binary_search_by_key(&id, |log| log.id).ok()?;
        self.by_id.get(at)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.by_id.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(mode: u32) -> Log {
        Log { id: 1, tail: Tail::new(0), mode: AtomicU32::new(mode) }
    }

    #[test]
    fn set_id_bits_go_by_the_custom() {
        assert_eq!(log(0o644).mode_without_set_id(), None);
        assert_eq!(log(0o4755).mode_without_set_id(), Some(0o755));
        assert_eq!(log(0o6775).mode_without_set_id(), Some(0o775));
        assert_eq!(log(0o2664).mode_without_set_id(), None);
        assert_eq!(log(0o6664).mode_without_set_id(), Some(0o2664));
    }
}
