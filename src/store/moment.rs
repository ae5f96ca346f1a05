//! Since when: where in a log the records of a time and later begin.
//!
//! A log's times never go backwards, so there is one such place for each time, and once there is a record of that time or
//! later it stays. What memory tells is told at once; else the device is asked, which takes its time, but keeps nobody from
//! cleaning or letting go meanwhile: what was moved while it was looked for is looked for again.

use super::LogStructuredStore;
use super::types::{LogId, StoreError};
use crate::format::Lsn;

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
        for _ in 0..TRIES {
            let before = self.looked_in(log, time_ns)?;
            let offset = self.offset_at(log, time_ns)?;
            let after = self.looked_in(log, time_ns)?;
            if (before.offset, before.lsn) == (after.offset, after.lsn) {
                return Ok(found(offset.max(after.head), before.size));
            }
        }
        let _turn = self.reclaimer.turn();
        let before = self.looked_in(log, time_ns)?;
        Ok(found(self.offset_at(log, time_ns)?, before.size))
    }

    fn looked_in(&self, log: LogId, time_ns: u64) -> Result<LookedIn, StoreError> {
        let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
        let (offset, lsn) = state.ranges.at_time(time_ns).map_or((0, 0), |range| (range.offset, range.lsn));
        Ok(LookedIn { offset, lsn, head: state.entry.head, size: state.entry.size })
    }
}

/// The range in which a time is looked for, and where its log begins and ends.
struct LookedIn {
    offset: u64,
    lsn: Lsn,
    head: u64,
    size: u64,
}

/// `size` is what the log had before it was looked through: what came meanwhile may have been looked at or not.
fn found(offset: u64, size: u64) -> Begins {
    if offset < size { Begins::At(offset) } else { Begins::NotBefore(offset) }
}
