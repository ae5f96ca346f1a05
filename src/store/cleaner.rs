//! The cleaner: what is still alive in a nearly dead segment is moved to the end of the log, so that the segment can be
//! let go.
//!
//! A moved record keeps its log, its offset and its time; only its frame is a new one, of kind MOVD. It is moved under
//! its log's lock, and the log's range says where it lies from then on. The old frame stays what it was until two
//! checkpoints no longer name its segment; whatever a crash leaves in between, one of the two is there.

use crate::sync::atomic::Ordering;

use super::LogStructuredStore;
use super::ranges::{Change, Range, Record};
use super::scan::{Found, Scanner};
use super::segments::Segment;
use super::types::StoreError;
use crate::format::{FrameHead, Kind, frame_len};

/// A segment with more than so many of 100 bytes alive is not worth moving.
pub const WORTH_PERCENT: u64 = 90;
/// With no more than this it is moved before anything is dropped that is alive.
pub const CHEAP_PERCENT: u64 = 50;
/// Segments cleaned in one go, at most.
const AT_ONCE: usize = 4;

impl LogStructuredStore {
    /// The segments that are cleaned next, by cost and benefit: the emptier and the older, the better. Nothing if moving
    /// what is alive would need more room than there is, or gain none.
    fn victims(&self, percent: u64) -> Vec<u64> {
        let (stable, end) = (self.flusher.commit.stable(), self.ring.end_lsn());
        let space = self.flusher.space();
        let size = self.shape.segment_size;
        let newest = space.table.newest().unwrap_or_default();
        let is_worth_it = |segment: &&Segment| {
            segment.ranges > 0 && segment.is_summed_up() && segment.live_bytes * 100 <= size * percent
        };
        let benefit = |segment: &Segment| {
            let (live, age) = (segment.live_bytes as f64 / size as f64, (newest - segment.entry.sequence) as f64);
            (1.0 - live) * age / (1.0 + live)
        };
        let mut full: Vec<&Segment> = space.table.full(stable).filter(is_worth_it).collect();
        full.sort_by(|a, b| benefit(b).total_cmp(&benefit(a)));
        // Frames don't cross segments: the end of each may stay empty, but for less than the largest record.
        let largest = frame_len(self.shape.max_record) as u64;
        let usable = size.saturating_sub(self.shape.block + largest);
        let begun = space.rest(end).saturating_sub(largest);
        let room = space.table.free_count() * usable + begun;
        let (mut victims, mut moved) = (Vec::new(), 0);
        for segment in full {
            if moved + segment.live_bytes <= room && victims.len() < AT_ONCE {
                moved += segment.live_bytes;
                victims.push(segment.entry.sequence);
            }
        }
        let gains = moved.saturating_sub(begun).div_ceil(usable.max(1)) < victims.len() as u64;
        if gains { victims } else { Vec::new() }
    }

    /// Is there a segment whose cleaning would gain room?
    pub(super) fn can_clean(&self) -> bool {
        !self.victims(WORTH_PERCENT).is_empty()
    }

    /// Clean some segments in which at most `percent` is alive; the number of those in which nothing is any more.
    pub(super) fn clean(&self, percent: u64) -> Result<u64, StoreError> {
        let mut emptied = 0;
        for sequence in self.victims(percent) {
            if self.stopping() {
                break;
            }
            self.clean_one(sequence)?;
            emptied += u64::from(self.flusher.space().table.get(sequence).is_some_and(|segment| segment.ranges == 0));
        }
        self.space_counters.cleaned.fetch_add(emptied, Ordering::Relaxed);
        Ok(emptied)
    }

    fn clean_one(&self, sequence: u64) -> Result<(), StoreError> {
        let Some(entry) = self.flusher.space().table.get(sequence).map(|segment| segment.entry) else { return Ok(()) };
        let mut scanner = Scanner::new(&self.io, self.shape, self.superblock.uuid, self.superblock.epoch, true);
        scanner.tolerate_errors();
        scanner.enter(self.shape.first_frame(sequence), entry.physical, entry.epoch);
        // What can't be read can't be moved: the rest of its range stays, and with it the segment.
        while let Some(found) = scanner.next_frame(&self.mounts, scanner.segment_end())? {
            if found.kind.is_record() {
                self.patiently(|| self.move_record(sequence, &found))?;
            }
        }
        Ok(())
    }

    /// Move one record out of segment `sequence`, if it is alive; [`StoreError::WouldBlock`] while the ring is full.
    fn move_record(&self, sequence: u64, found: &Found) -> Result<(), StoreError> {
        self.check_writable()?;
        let Found { log_id, offset, value: len, time_ns, .. } = *found;
        let Some(mut log) = self.catalog.lock(log_id) else { return Ok(()) };
        let end = offset.saturating_add(len);
        let lies_here = |range: &&Range| self.shape.sequence(range.lsn) == sequence && range.lsn <= found.lsn;
        let log = &mut *log;
        if end > log.entry.head {
            let Some(range) = log.ranges.find(offset.max(log.entry.head)).filter(lies_here) else { return Ok(()) };
            // What is in front of it could not be read, and stays: the segment can't be let go, and how many bytes the
            // frames in front take, and how many those behind, would be a guess from then on.
            if range.offset.max(log.entry.head) < offset {
                return Ok(());
            }
        }
        let mut changes = Vec::new();
        if end <= log.entry.head {
            // It lies in front of what is moved: what that takes is known exactly then.
            if log.ranges.find(offset).filter(lies_here).is_some() {
                log.ranges.shrink(offset, len, found.total, &mut changes);
                log.entry.device_bytes = account(log.entry.device_bytes, &changes);
                self.flusher.space().table.apply(log_id, &changes);
            }
            return Ok(());
        }
        let head = FrameHead { kind: Kind::Moved, log_id, offset, time_ns };
        let meet = |lsn| self.flusher.space().table.meets(log_id, self.shape.sequence(lsn));
        let (lsn, total) = self.put_frame(&head, &found.payload, meet)?;
        log.ranges.put(Range::of(&Record { offset, len, lsn, total, time_ns }), &self.shape, &mut changes);
        // What of the range lay below the head was not moved: it is let go now.
        changes.extend(log.ranges.drop_below(log.entry.head).into_iter().map(Change::Ends));
        log.entry.device_bytes = account(log.entry.device_bytes, &changes);
        log.end_lsn = log.end_lsn.max(lsn + total);
        self.flusher.space().table.apply(log_id, &changes);
        self.space_counters.moved_bytes.fetch_add(total, Ordering::Relaxed);
        self.keeper.dirty();
        Ok(())
    }
}

/// What a log takes after these changes, which took `bytes` before.
fn account(bytes: u64, changes: &[Change]) -> u64 {
    changes.iter().fold(bytes, |bytes, change| match change {
        Change::Begins(range) => bytes + u64::from(range.bytes),
        Change::Ends(range) => bytes.saturating_sub(u64::from(range.bytes)),
    })
}
