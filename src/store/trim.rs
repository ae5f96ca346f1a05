//! Letting go of the old end of a log: its head goes up, to a record's boundary. The log keeps its name, its inode and
//! its offsets; what lies below the head is a hole.

use crate::sync::atomic::Ordering;

use super::LogStructuredStore;
use super::ranges::Range;
use super::scan::{Found, Scanner};
use super::types::{LogId, StoreError};
use crate::format::Lsn;

/// Up to where a log is trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimTo {
    /// What lies below this offset goes, in whole records.
    Before(u64),
    /// Records of before this time go, ns since 1970.
    Since(u64),
    /// All but the last so many bytes go, in whole records: no fewer stay.
    Keep(u64),
}

/// What was trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// Head before.
    pub before: u64,
    /// Head now.
    pub head: u64,
    /// LSN behind the change: `make_stable` of it makes it durable.
    pub lsn: u64,
}

/// Which boundary of a record that lies across an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Where it begins.
    Begin,
    /// Where it ends.
    End,
}

/// What came of looking for a record.
struct Search {
    found: Option<Found>,
    /// Where the last one ends that was passed in front of it.
    before: Option<u64>,
}

/// Where records of some time or later begin in a range.
struct FirstIn {
    /// The first one that is known of, if there is one.
    since: Option<u64>,
    /// What lies below is known to be older.
    older: u64,
}

/// The same in a log.
struct ByTime {
    /// The first one that is known of.
    since: u64,
    /// What lies below is known to be older. Between the two lies what can't be read.
    older: u64,
}

impl ByTime {
    fn exactly(offset: u64) -> Self {
        Self { since: offset, older: offset }
    }
}

impl LogStructuredStore {
    /// Trim a log by hand: a record goes whole or not at all, and never fewer bytes stay than the log is to keep. Waits
    /// for the device.
    pub fn trim(&self, log: LogId, to: TrimTo) -> Result<Trimmed, StoreError> {
        loop {
            match self.trim_once(log, to) {
                Err(StoreError::NoSpace) if self.can_make_room() => drop(self.reclaim_now()),
                result => return result,
            }
        }
    }

    fn trim_once(&self, log: LogId, to: TrimTo) -> Result<Trimmed, StoreError> {
        // While it looks for the place, nobody cleans or lets go the segment that it looks in: a record that is not found
        // there because it was moved would be taken for one that never was, and what is younger would go.
        let turn = self.reclaimer.turn();
        let info = self.log(log).ok_or(StoreError::NotFound)?;
        let head = match to {
            TrimTo::Before(offset) => self.boundary(log, offset, Side::Begin)?,
            TrimTo::Since(time_ns) => self.by_time(log, time_ns)?.older,
            TrimTo::Keep(bytes) => self.boundary(log, info.size.saturating_sub(bytes), Side::Begin)?,
        };
        let trimmed = self.raise_head(log, self.kept(log, head)?)?;
        self.retention.trimmed.fetch_add(trimmed.head - trimmed.before, Ordering::Relaxed);
        drop(turn);
        self.ask_for_room();
        Ok(trimmed)
    }

    /// Offset of the first record of `time_ns` or later; the log's end if there is none. Waits for the device.
    pub fn offset_at(&self, log: LogId, time_ns: u64) -> Result<u64, StoreError> {
        self.by_time(log, time_ns).map(|by_time| by_time.since)
    }

    /// Where records of `time_ns` or later begin. Waits for the device.
    fn by_time(&self, log: LogId, time_ns: u64) -> Result<ByTime, StoreError> {
        let (mut range, next, head) = {
            let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
            let (head, size) = (state.entry.head, state.entry.size);
            let Some(range) = state.ranges.at_time(time_ns).copied() else { return Ok(ByTime::exactly(size)) };
            (range, state.ranges.next_behind(range.offset).map_or(size, |next| next.offset), head)
        };
        let mut found = self.first_in(log, &range, time_ns)?;
        // What is left of a range whose front was moved keeps that one's time: there may be more in front of it.
        while found.since == Some(range.offset) && range.offset > head {
            let before = self.catalog.lock(log).and_then(|state| state.ranges.last_before(range.offset).copied());
            let Some(before) = before else { break };
            let earlier = self.first_in(log, &before, time_ns)?;
            if earlier.since.is_none() {
                if earlier.older < before.end() {
                    found.older = earlier.older;
                }
                break;
            }
            (range, found) = (before, earlier);
        }
        let since = found.since.unwrap_or(next).max(head);
        let older = found.older.max(head);
        let all_seen = found.since.is_none() && older == range.end();
        Ok(ByTime { since, older: if all_seen { since } else { older } })
    }

    /// The first record of `time_ns` or later in a range.
    fn first_in(&self, log: LogId, range: &Range, time_ns: u64) -> Result<FirstIn, StoreError> {
        if range.time_ns >= time_ns {
            return Ok(FirstIn { since: Some(range.offset), older: range.offset });
        }
        let mut points = {
            let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
            let inside = |(_, lsn): &&(u64, Lsn)| {
                *lsn > range.lsn && self.shape.sequence(*lsn) == self.shape.sequence(range.lsn)
            };
            let between = state.index.between(range.offset, range.end());
            between.iter().filter(inside).map(|(_, lsn)| *lsn).collect::<Vec<Lsn>>()
        };
        // The last point whose record is older: the one that is looked for lies behind it.
        let mut from = range.lsn;
        while !points.is_empty() {
            let (front, back) = points.split_at(points.len() / 2);
            let Some((&middle, behind)) = back.split_first() else { break };
            let record = self.find_record(log, range, middle, |_| true)?.found;
            if record.is_some_and(|record| record.time_ns < time_ns) {
                from = middle;
                points = behind.to_vec();
            } else {
                points = front.to_vec();
            }
        }
        let Search { found, before } = self.find_record(log, range, from, |record| record.time_ns >= time_ns)?;
        Ok(FirstIn { since: found.map(|record| record.offset), older: before.unwrap_or(range.offset) })
    }

    /// The boundary of the record that `offset` lies in: `offset` itself if a record begins there. If that record can't
    /// be read, the last boundary in front of it that is known: nothing goes that may not.
    fn boundary(&self, log: LogId, offset: u64, side: Side) -> Result<u64, StoreError> {
        let (range, lsn) = {
            let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
            if offset <= state.entry.head || offset >= state.entry.size {
                return Ok(offset.clamp(state.entry.head, state.entry.size));
            }
            match state.locate(offset, &self.shape) {
                Some((range, _, lsn)) => (range, lsn),
                // Nothing is known of what lies there: what follows it begins a record.
                None => return Ok(state.ranges.next_behind(offset).map_or(state.entry.size, |next| next.offset)),
            }
        };
        let Search { found, before } =
            self.find_record(log, &range, lsn, |record| record.offset + record.value > offset)?;
        Ok(match found.filter(|record| record.offset <= offset) {
            Some(record) if side == Side::End && record.offset < offset => record.offset + record.value,
            Some(record) => record.offset,
            None => before.unwrap_or(range.offset),
        })
    }

    /// The first record of a range, from the frame at `lsn` on, of which `is_it` holds. What can't be read is passed over.
    fn find_record(
        &self,
        log: LogId,
        range: &Range,
        lsn: Lsn,
        is_it: impl Fn(&Found) -> bool,
    ) -> Result<Search, StoreError> {
        let sequence = self.shape.sequence(lsn);
        let mut search = Search { found: None, before: None };
        // It is read from the device.
        self.make_stable_now(self.ring.end_lsn().min(self.shape.segment_end(lsn)))?;
        let Some(entry) = self.flusher.space().table.get(sequence).map(|segment| segment.entry) else {
            return Ok(search);
        };
        let end = self.flusher.commit.stable().min(self.shape.segment_end(lsn));
        let mut scanner = Scanner::new(&self.io, self.shape, self.superblock.uuid, self.superblock.epoch, false);
        scanner.tolerate_errors();
        scanner.enter(lsn, entry.physical, self.mounts.epoch_at(lsn).unwrap_or(entry.epoch));
        while let Some(found) = scanner.next_frame(&self.mounts, end)? {
            let of_range = (range.offset..range.end()).contains(&found.offset);
            if !found.kind.is_record() || found.log_id != log || !of_range {
                continue;
            }
            if is_it(&found) {
                search.found = Some(found);
                break;
            }
            search.before = Some(found.offset.saturating_add(found.value));
        }
        Ok(search)
    }

    /// When the record at `offset` was written, if there is one. Waits for the device.
    pub(super) fn time_at(&self, log: LogId, offset: u64) -> Result<Option<u64>, StoreError> {
        let located = {
            let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
            state.locate(offset, &self.shape)
        };
        let Some((range, _, lsn)) = located else { return Ok(None) };
        let found = self.find_record(log, &range, lsn, |record| record.offset + record.value > offset)?;
        // If it can't be read, what was found is another one behind it.
        Ok(found.found.filter(|record| record.offset <= offset).map(|record| record.time_ns))
    }

    /// `head`, or below it so that as many bytes stay as the log is to keep.
    pub(super) fn kept(&self, log: LogId, head: u64) -> Result<u64, StoreError> {
        let (size, policy) = {
            let store = self.store_policy();
            let state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
            (state.entry.size, store.of(&state.entry))
        };
        let most = size.saturating_sub(policy.keep_min);
        if head <= most { Ok(head) } else { self.boundary(log, most, Side::Begin) }
    }

    /// A log is to hold at most `bytes`, in whole records, but never fewer than it is to keep: where its head has to be.
    pub(super) fn head_for(&self, log: LogId, size: u64, bytes: u64) -> Result<u64, StoreError> {
        let head = self.boundary(log, size.saturating_sub(bytes), Side::End)?;
        self.kept(log, head)
    }

    /// The same for records of before `time_ns`.
    pub(super) fn head_since(&self, log: LogId, time_ns: u64) -> Result<u64, StoreError> {
        let head = self.by_time(log, time_ns)?.older;
        self.kept(log, head)
    }
}
