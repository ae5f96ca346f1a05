//! Since when: where in a log the records of a time and later begin.
//!
//! A log's times never go backwards, so there is one such place for each time, and once there is a record of that time or
//! later it stays. What memory tells is told at once; else the device is asked, which takes its time, but keeps nobody from
//! cleaning or letting go meanwhile: what was moved while it was looked for is looked for again.

use super::LogStructuredStore;
use super::types::{LogId, StoreError};
use crate::sync::atomic::Ordering;

/// So often it is looked for while others move what is looked for; then they have to wait.
const TRIES: usize = 3;

/// Where a log's records of a time and later begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// Here, or at the head if that is behind it: a record's boundary.
    At(u64),
    /// No record that lies below this offset is of that time or later.
    NotBefore(u64),
}

impl LogStructuredStore {
    /// What memory tells; nothing if the device has to be asked. No record below `seen` is of that time or later.
    pub fn begins_in_memory(&self, log: LogId, time_ns: u64, seen: u64) -> Result<Option<Begins>, StoreError> {
        let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
        let (head, size) = (state.entry.head, state.entry.size);
        if size <= seen.max(head) {
            return Ok(Some(Begins::NotBefore(size)));
        }
        if time_ns == 0 {
            return Ok(Some(Begins::At(head)));
        }
        if time_ns > state.last_ns {
            return Ok(Some(Begins::NotBefore(size)));
        }
        // The first range that is left begins with a record of that time or later: so does the log.
        let first = state.ranges.iter().next().filter(|range| range.time_ns >= time_ns);
        Ok(first.map(|range| Begins::At(range.offset.max(head))))
    }

    /// The same in any case. Waits for the device.
    pub fn begins(&self, log: LogId, time_ns: u64) -> Result<Begins, StoreError> {
        let moved = || self.space_counters.moved_bytes.load(Ordering::Acquire);
        for _ in 0..TRIES {
            let before = moved();
            let found = self.looked_for(log, time_ns)?;
            if moved() == before {
                return Ok(found);
            }
        }
        let _turn = self.reclaimer.turn();
        self.looked_for(log, time_ns)
    }

    fn looked_for(&self, log: LogId, time_ns: u64) -> Result<Begins, StoreError> {
        // What comes meanwhile may be looked at or not.
        let size = self.log(log).ok_or(StoreError::NotFound)?.size;
        let offset = self.offset_at(log, time_ns)?;
        Ok(if offset < size { Begins::At(offset) } else { Begins::NotBefore(offset) })
    }
}
