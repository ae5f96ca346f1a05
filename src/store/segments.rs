//! The segment table: which physical segment holds which part of the endless log, what of it is alive, and which are
//! free.
//!
//! A segment is let go when nothing in it is alive: first it is retired, that is no checkpoint names it any more; when
//! both checkpoint areas hold one that does not, it is free. So whichever of the two the next recovery reads, every
//! segment that it names is as it was.

use std::collections::{BTreeMap, VecDeque};

use super::geometry::Shape;
use super::placing::TRAILER;
use super::ranges::{Change, Range};
use super::types::LogId;
use crate::format::{Lsn, SegmentEntry, SegmentState, Summarised};

/// A store of fewer segments keeps back no whole ones.
pub const FEW: u32 = 8;
/// But this part of one.
const KEPT_PART: u64 = 8;

/// A segment that is part of the log.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its line in checkpoints.
    pub entry: SegmentEntry,
    /// Ranges of logs that lie in it.
    pub ranges: u64,
    /// Bytes of the frames of those that are counted.
    pub live_bytes: u64,
    /// Logs that have or had a range in it, until it has a summary.
    pub logs: Vec<LogId>,
    /// Where its summary is.
    pub summary: Summarised,
    /// It holds more ranges than a summary can list.
    pub too_many: bool,
    /// Bytes of its frames that were let go since the mount.
    pub let_go: u64,
    /// Bytes of the longest range that was ever counted: no record in it that is alive is longer. Or, if it was looked
    /// through, of the longest record.
    pub longest: u64,
    /// It was.
    pub looked_through: bool,
}

/// A segment that nothing in the log is in any more.
#[derive(Debug, Clone, Copy)]
struct Retired {
    physical: u32,
    /// Generation of the newest checkpoint that may name it.
    named_by: u64,
}

/// Live segments in log order, and the free ones in the order they will be taken.
#[derive(Debug, Clone)]
pub struct SegmentTable {
    shape: Shape,
    live: BTreeMap<u64, Segment>,
    retired: Vec<Retired>,
    free: VecDeque<u32>,
}

impl SegmentTable {
    /// The table with these live segments; all others are free.
    pub fn new(shape: Shape, live: impl IntoIterator<Item = SegmentEntry>) -> Self {
        let live: BTreeMap<u64, Segment> =
            live.into_iter().map(|entry| (entry.sequence, Segment::new(entry))).collect();
        let mut taken = vec![false; shape.segments as usize];
        for segment in live.values() {
            if let Some(slot) = taken.get_mut(segment.entry.physical as usize) {
                *slot = true;
            }
        }
        let free =
            (0..shape.segments).zip(taken).filter_map(|(physical, taken)| (!taken).then_some(physical)).collect();
        Self { shape, live, retired: Vec::new(), free }
    }

    /// Segment `sequence`, if it is live.
    pub fn get(&self, sequence: u64) -> Option<&Segment> {
        self.live.get(&sequence)
    }

    /// The same.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Segment> {
        self.live.get_mut(&sequence)
    }

    /// Physical place of segment `sequence`, if it is live.
    pub fn physical(&self, sequence: u64) -> Option<u32> {
        self.live.get(&sequence).map(|segment| segment.entry.physical)
    }

    /// Device offset of `lsn`, if its segment is live.
    pub fn device_offset(&self, lsn: Lsn) -> Option<u64> {
        let physical = self.physical(self.shape.sequence(lsn))?;
        Some(self.shape.device_offset(physical) + self.shape.within(lsn))
    }

    /// The free segment that will be taken next.
    pub fn next_free(&self) -> Option<u32> {
        self.free.front().copied()
    }

    /// `physical` is taken next, if it is free: the header of the newest segment says so.
    pub fn take_next(&mut self, physical: u32) {
        if let Some(at) = self.free.iter().position(|free| *free == physical) {
            self.free.remove(at);
            self.free.push_front(physical);
        }
    }

    /// The device has so many segments now.
    pub fn grow(&mut self, segments: u32) {
        self.free.extend(self.shape.segments..segments);
        self.shape.segments = self.shape.segments.max(segments);
    }

    /// Number of segments of the device.
    pub fn total(&self) -> u64 {
        u64::from(self.shape.segments)
    }

    /// Bytes of all segments.
    pub fn capacity(&self) -> u64 {
        self.shape.capacity()
    }

    /// Number of free segments.
    pub fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    /// Number of segments that will be free when checkpoints have been written.
    pub fn retired_count(&self) -> u64 {
        self.retired.len() as u64
    }

    /// Segments at the end of the free list that appends leave alone: for the cleaner, and for changes that let space
    /// go. Two, so that a first one which is full of such changes is dead and can be let go once the second is begun,
    /// however little each of them lets go. A store of few segments has none, but see [`Self::kept_back`].
    pub fn reserve(&self) -> u64 {
        if self.shape.segments < FEW { 0 } else { 2 }
    }

    /// Bytes at the end of the last free segment that appends leave alone where there is no reserve.
    pub fn kept_back(&self) -> u64 {
        if self.reserve() == 0 { self.shape.segment_size / KEPT_PART } else { 0 }
    }

    /// (bytes used, bytes that can still be appended) when the newest segment has `rest` bytes left.
    pub fn usage(&self, rest: u64) -> (u64, u64) {
        let free = self.free_count();
        let used = self.shape.capacity() - free * self.shape.segment_size - rest;
        let Some(open) = free.checked_sub(self.reserve()) else { return (used, 0) };
        let all = open * (self.shape.segment_size - self.shape.block) + rest.saturating_sub(TRAILER);
        (used, all.saturating_sub(self.kept_back()))
    }

    /// Lines of the live segments, in log order.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &SegmentEntry> {
        self.live.values().map(|segment| &segment.entry)
    }

    /// Live segments, in log order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.live.values()
    }

    /// Sequence number of the newest live segment.
    pub fn newest(&self) -> Option<u64> {
        self.live.last_key_value().map(|(sequence, _)| *sequence)
    }

    /// Take the next free segment as the newest live one.
    pub fn allocate(&mut self, epoch: u64) -> Option<SegmentEntry> {
        let sequence = self.newest().map_or(1, |newest| newest + 1);
        let physical = self.free.pop_front()?;
        let entry = SegmentEntry { sequence, physical, state: SegmentState::Open, epoch };
        self.add(entry);
        Some(entry)
    }

    fn add(&mut self, entry: SegmentEntry) {
        if let Some(mut last) = self.live.last_entry() {
            last.get_mut().entry.state = SegmentState::Sealed;
        }
        self.live.insert(entry.sequence, Segment::new(entry));
    }

    /// The log ends at `end`: live segments that begin there or later are free again, and the next to be taken.
    pub fn give_back(&mut self, end: Lsn) {
        while let Some(last) = self.live.last_entry()
            && self.shape.segment_start(*last.key()) >= end
        {
            self.free.push_front(last.get().entry.physical);
            last.remove();
        }
        if let Some(mut last) = self.live.last_entry() {
            last.get_mut().entry.state = SegmentState::Open;
        }
    }

    /// Recovery found a segment: make it live. False if it can't be (not behind the newest, or taken).
    pub fn adopt(&mut self, entry: SegmentEntry) -> bool {
        if self.newest().is_some_and(|newest| entry.sequence <= newest) {
            return false;
        }
        let Some(at) = self.free.iter().position(|free| *free == entry.physical) else {
            return false;
        };
        self.free.remove(at);
        self.add(entry);
        true
    }

    /// A range of `log` begins in segment `sequence`.
    pub fn begins(&mut self, log: LogId, sequence: u64) {
        if let Some(segment) = self.live.get_mut(&sequence) {
            segment.ranges += 1;
        }
        self.meets(log, sequence);
    }

    /// Segment `sequence` has a record of `log`: its summary will have to tell.
    pub fn meets(&mut self, log: LogId, sequence: u64) {
        if let Some(segment) = self.live.get_mut(&sequence)
            && !segment.is_summed_up()
            && segment.logs.last() != Some(&log)
        {
            segment.logs.push(log);
        }
    }

    /// Full segments in which nothing is alive, of a store that is stable up to `stable`: those behind which something is
    /// stable already, for checkpoints name nothing else, and one that names no segment is none.
    pub fn dead(&self, stable: Lsn) -> impl Iterator<Item = u64> {
        let shape = self.shape;
        let goes_on = move |sequence: u64| shape.segment_start(sequence + 1) < stable;
        let dead = self.full(stable).filter(|segment| segment.ranges == 0).map(|segment| segment.entry.sequence);
        dead.filter(move |sequence| goes_on(*sequence))
    }

    /// Bytes in full, summed up segments that are not alive.
    pub fn garbage(&self, stable: Lsn) -> u64 {
        let summed_up = self.full(stable).filter(|segment| segment.is_summed_up());
        summed_up.map(|segment| self.shape.segment_size.saturating_sub(segment.live_bytes)).sum()
    }

    /// Is there a full segment that lacks a summary?
    pub fn to_sum_up(&self, stable: Lsn) -> bool {
        self.full(stable).any(Segment::lacks_summary)
    }

    /// Segments that will never change again.
    pub fn full(&self, stable: Lsn) -> impl Iterator<Item = &Segment> {
        let (newest, shape) = (self.newest(), self.shape);
        self.live.values().filter(move |segment| {
            let sequence = segment.entry.sequence;
            Some(sequence) != newest && shape.segment_start(sequence + 1) <= stable
        })
    }

    /// Something is alive in a segment that is not the newest.
    pub fn has_full(&self) -> bool {
        self.full(Lsn::MAX).any(|segment| segment.ranges > 0)
    }

    /// Appends may take a free segment.
    pub fn has_open_room(&self) -> bool {
        self.free_count() > self.reserve()
    }

    /// Nothing of `range` is wanted any more, or another is in its place.
    pub fn ends(&mut self, range: &Range) {
        if let Some(segment) = self.live.get_mut(&self.shape.sequence(range.lsn)) {
            segment.ranges = segment.ranges.saturating_sub(1);
            segment.let_go += u64::from(range.bytes);
            if range.counted {
                segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(range.bytes));
            }
        }
    }

    /// The ranges of `log` have changed.
    pub fn apply(&mut self, log: LogId, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Begins(range) => {
                    self.begins(log, self.shape.sequence(range.lsn));
                    // It took the place of one that ended here, in whole or in part.
                    if let Some(segment) = self.live.get_mut(&self.shape.sequence(range.lsn)) {
                        segment.let_go = segment.let_go.saturating_sub(u64::from(range.bytes));
                    }
                    if range.counted {
                        self.count(range);
                    }
                }
                Change::Ends(range) => self.ends(range),
            }
        }
    }

    /// The bytes of `range`, which is there, are among those that are alive.
    pub fn count(&mut self, range: &Range) {
        if let Some(segment) = self.live.get_mut(&self.shape.sequence(range.lsn)) {
            segment.live_bytes += u64::from(range.bytes);
            if !segment.looked_through {
                segment.longest = segment.longest.max(u64::from(range.bytes));
            }
        }
    }

    /// Segment `sequence` is no part of the log any more. Checkpoints up to generation `named_by` may name it.
    pub fn retire(&mut self, sequence: u64, named_by: u64) {
        if let Some(segment) = self.live.remove(&sequence) {
            self.retired.push(Retired { physical: segment.entry.physical, named_by });
        }
    }

    /// Recovery: `physical` is free, but the older of two checkpoints names it.
    pub fn hold(&mut self, physical: u32, named_by: u64) {
        if let Some(at) = self.free.iter().position(|free| *free == physical) {
            self.free.remove(at);
            self.retired.push(Retired { physical, named_by });
        }
    }

    /// Checkpoint `generation` is on the device: what neither it nor the one before it names is free. Gives the number
    /// of segments that became free.
    pub fn release(&mut self, generation: u64) -> u64 {
        let before = self.free.len();
        // The two areas hold this generation and the one before it.
        let (free, retired) = self.retired.iter().partition(|retired| retired.named_by + 2 <= generation);
        self.retired = retired;
        let free: Vec<Retired> = free;
        self.free.extend(free.iter().map(|retired| retired.physical));
        (self.free.len() - before) as u64
    }
}

impl Segment {
    fn new(entry: SegmentEntry) -> Self {
        Self {
            entry,
            ranges: 0,
            live_bytes: 0,
            logs: Vec::new(),
            summary: Summarised::No,
            too_many: false,
            let_go: 0,
            longest: 0,
            looked_through: false,
        }
    }

    /// A SUMM frame tells what it holds.
    pub fn is_summed_up(&self) -> bool {
        matches!(self.summary, Summarised::At { .. })
    }

    /// It has no SUMM frame, and can have one.
    pub fn lacks_summary(&self) -> bool {
        !self.too_many && !self.is_summed_up()
    }
}
