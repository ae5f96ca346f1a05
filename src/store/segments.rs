//! The segment table: which physical segment holds which part of the endless log, and which are free.

use std::collections::VecDeque;

use super::geometry::Shape;
use super::placing::TRAILER;
use crate::format::{Lsn, SegmentEntry, SegmentState};

/// Live segments in log order, and the free ones in the order they will be taken.
#[derive(Debug, Clone)]
pub struct SegmentTable {
    shape: Shape,
    live: VecDeque<SegmentEntry>,
    free: VecDeque<u32>,
}

impl SegmentTable {
    /// The table with these live segments (in log order); all others are free.
    pub fn new(shape: Shape, live: impl IntoIterator<Item = SegmentEntry>) -> Self {
        let live: VecDeque<SegmentEntry> = live.into_iter().collect();
        let mut taken = vec![false; shape.segments as usize];
        for entry in &live {
            if let Some(slot) = taken.get_mut(entry.physical as usize) {
                *slot = true;
            }
        }
        let free =
            (0..shape.segments).zip(taken).filter_map(|(physical, taken)| (!taken).then_some(physical)).collect();
        Self { shape, live, free }
    }

    /// Physical place of segment `sequence`, if it is live.
    pub fn physical(&self, sequence: u64) -> Option<u32> {
        let first = self.live.front()?.sequence;
        let at = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.live.get(at).map(|entry| entry.physical)
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

    /// Number of free segments.
    pub fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    /// (bytes used, bytes that can still be written) when the newest segment has `rest` bytes left.
    pub fn usage(&self, rest: u64) -> (u64, u64) {
        let free = self.free_count();
        let used = self.shape.capacity() - free * self.shape.segment_size - rest;
        (used, free * (self.shape.segment_size - self.shape.block) + rest.saturating_sub(TRAILER))
    }

    /// Live segments, in log order.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &SegmentEntry> {
        self.live.iter()
    }

    /// Sequence number of the newest live segment.
    pub fn newest(&self) -> Option<u64> {
        self.live.back().map(|entry| entry.sequence)
    }

    /// Take the next free segment as the newest live one.
    pub fn allocate(&mut self, epoch: u64) -> Option<SegmentEntry> {
        let sequence = self.newest().map_or(1, |newest| newest + 1);
        let physical = self.free.pop_front()?;
        if let Some(last) = self.live.back_mut() {
            last.state = SegmentState::Sealed;
        }
        let entry = SegmentEntry { sequence, physical, state: SegmentState::Open, epoch };
        self.live.push_back(entry);
        Some(entry)
    }

    /// The log ends at `end`: live segments that begin there or later are free again, and the next to be taken.
    pub fn give_back(&mut self, end: Lsn) {
        while let Some(last) = self.live.back()
            && self.shape.segment_start(last.sequence) >= end
        {
            self.free.push_front(last.physical);
            self.live.pop_back();
        }
        if let Some(last) = self.live.back_mut() {
            last.state = SegmentState::Open;
        }
    }

    /// Recovery found segment `sequence` at `physical`: make it live. False if it can't be (not the next one, or taken).
    pub fn adopt(&mut self, entry: SegmentEntry) -> bool {
        let next = self.newest().map_or(entry.sequence, |newest| newest + 1);
        let Some(at) = self.free.iter().position(|free| *free == entry.physical) else {
            return false;
        };
        if entry.sequence != next {
            return false;
        }
        self.free.remove(at);
        if let Some(last) = self.live.back_mut() {
            last.state = SegmentState::Sealed;
        }
        self.live.push_back(entry);
        true
    }
}
