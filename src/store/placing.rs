//! Where fillings of the ring lie in the log: segments, headers, and how a filling is closed.
//!
//! An LSN is fixed here once and for all, under the ring's rotation lock, before anybody can claim a byte at it. A
//! filling never crosses a segment. It ends in a stable mark; one that was sealed because it was full, and with
//! `tail=pad` any, is padded to a whole block, so that its write overlaps no other. One sealed for a commit ends where
//! its mark ends, and the next filling starts with a copy of the partial block.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::geometry::Shape;
use super::segments::SegmentTable;
use super::types::Tail;
use crate::format::{FRAME_HEADER, Lsn, SHORT_FRAME, SegmentHeader, frame};
use crate::ring::{Placement, SealedFill, Why};

/// Bytes kept free behind the claims of every filling: a mark and the head of a padding.
pub const TRAILER: u64 = 2 * SHORT_FRAME as u64;
/// With less room than this behind it a segment is closed.
const LEAST_CLAIM: u64 = FRAME_HEADER as u64 + SHORT_FRAME as u64;

/// What the first filling of a mount has room for: its EPOC frame, without which nobody finds the frames behind it.
pub const FIRST_CLAIM: usize = frame::EPOCH_FRAME;

/// What lies in front of the claims of a filling.
#[derive(Debug, Clone)]
pub enum Prefix {
    /// Nothing: it starts on a block.
    Nothing,
    /// The partial block that the filling before ended in.
    TailBlock,
    /// The header of a new segment.
    Header(SegmentHeader),
}

/// What has to be known of a filling when it is written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of the filling.
    pub number: u64,
    /// In front of its claims.
    pub prefix: Prefix,
    /// Device offset of byte 0 of its buffer.
    pub device_offset: u64,
    /// End of its segment.
    segment_end: Lsn,
    /// It has no place on the device: no segment was free. It never holds claims.
    pub dead: bool,
    /// Bytes of padding behind its mark.
    pub pad: u64,
    /// LSN behind mark and padding.
    pub end: Lsn,
}

/// Segment table and plans; behind the flusher's lock.
#[derive(Debug)]
pub struct Space {
    shape: Shape,
    /// Which segments are used.
    pub table: SegmentTable,
    plans: VecDeque<Plan>,
    tail: Tail,
    epoch: u64,
    uuid: [u8; 16],
    buffer_size: u64,
    /// Where the first filling starts.
    first: Lsn,
    /// LSN behind everything sealed.
    pub sealed_end: Lsn,
    /// First LSN that can be claimed behind that: between the two lies at most a segment's header.
    next_start: Lsn,
    /// Segments opened since the mount.
    pub opened: u64,
}

impl Space {
    /// The space of a store whose log ends at `end`. With `tail=pad` the first filling starts on the next block.
    pub fn new(
        shape: Shape,
        table: SegmentTable,
        uuid: [u8; 16],
        epoch: u64,
        end: Lsn,
        tail: Tail,
        buffer_size: u64,
    ) -> Self {
        let first = if tail == Tail::Pad { shape.block_up(end) } else { end };
        Self {
            shape,
            table,
            plans: VecDeque::new(),
            tail,
            epoch,
            uuid,
            buffer_size,
            first,
            sealed_end: end,
            next_start: first,
            opened: 0,
        }
    }

    /// Between the end of the log and the first frame of this mount: nothing of the log lies there.
    pub fn gap(&self) -> std::ops::Range<Lsn> {
        self.sealed_end..self.next_start
    }

    /// Would a claim of `need` bytes behind `end` ever fit?
    pub fn has_room(&self, end: Lsn, need: usize) -> bool {
        let Some(plan) = self.plans.back() else { return false };
        self.table.free_count() > 0 || (!plan.dead && end + need as u64 + TRAILER <= plan.segment_end)
    }

    /// What appends may not claim beyond: the end of the last segment that they may open.
    pub fn append_limit(&self) -> Lsn {
        match self.table.free_count().cmp(&self.table.reserve()) {
            Ordering::Greater => Lsn::MAX,
            Ordering::Equal => self.plans.back().map_or(0, |plan| plan.segment_end - self.table.kept_back()),
            Ordering::Less => 0,
        }
    }

    /// The end of the frames below `lsn`: no frame lies in the header of the segment that is open and empty.
    pub fn frames_end(&self, lsn: Lsn) -> Lsn {
        if lsn <= self.next_start { lsn.min(self.sealed_end) } else { lsn }
    }

    /// The plan of filling `number`, which is sealed.
    pub fn take_plan(&mut self, number: u64) -> Option<Plan> {
        let at = self.plans.iter().position(|plan| plan.number == number)?;
        self.plans.remove(at)
    }

    /// [`crate::ring::Stage::place`]: close the filling just sealed and place the next.
    pub fn place(&mut self, sealed: Option<SealedFill>, need: usize, why: Why, now_ns: u64, stable: Lsn) -> Placement {
        let Some(fill) = sealed else {
            let (plan, placement) = self.next_filling(0, self.first, FIRST_CLAIM, now_ns, stable);
            self.plans.push_back(plan);
            self.next_start = placement.base_lsn + placement.start as u64;
            return placement;
        };
        let block_end = self.shape.block_up(fill.end_lsn() + SHORT_FRAME as u64);
        let Some(last) = self.plans.back() else {
            // The ring places the first filling before it seals any.
            return Placement { trailer: 0, base_lsn: fill.base_lsn, start: 0, limit: 0 };
        };
        let dead = last.dead;
        let mark_end = if dead { fill.end_lsn() } else { fill.end_lsn() + SHORT_FRAME as u64 };
        let at = if dead || (why == Why::Commit && self.tail == Tail::Rewrite) { mark_end } else { block_end };
        let (plan, placement) = self.next_filling(fill.number + 1, at, need, now_ns, stable);
        let next_start = placement.base_lsn
            + match plan.prefix {
                Prefix::Header(_) => 0,
                Prefix::Nothing | Prefix::TailBlock => placement.start as u64,
            };
        let pad = next_start - mark_end;
        if let Some(last) = self.plans.back_mut() {
            last.pad = pad;
            last.end = next_start;
        }
        self.sealed_end = next_start;
        self.next_start = placement.base_lsn + placement.start as u64;
        self.plans.push_back(plan);
        let trailer = if dead { 0 } else { SHORT_FRAME + if pad > 0 { SHORT_FRAME } else { 0 } };
        Placement { trailer, ..placement }
    }

    /// Filling `number`, at `at` if its segment has room there, else in a new one.
    fn next_filling(&mut self, number: u64, at: Lsn, need: usize, now_ns: u64, stable: Lsn) -> (Plan, Placement) {
        // `at` on a segment's first byte is the end of the segment before: a frame never lies there.
        let segment_end = if self.shape.within(at) == 0 { at } else { self.shape.segment_end(at) };
        let fits = |need: u64| at + need.max(LEAST_CLAIM) + TRAILER <= segment_end;
        if !fits(need as u64)
            && let Some(filling) = self.open_segment(number, now_ns, stable)
        {
            return filling;
        }
        let device_offset = self.table.device_offset(self.shape.block_down(at));
        let least = if number == 0 { need as u64 } else { 0 };
        let (Some(device_offset), true) = (device_offset, fits(least)) else {
            let plan = Plan {
                number,
                prefix: Prefix::Nothing,
                device_offset: 0,
                segment_end,
                dead: true,
                pad: 0,
                end: segment_end,
            };
            return (plan, Placement { trailer: 0, base_lsn: segment_end, start: 0, limit: 0 });
        };
        let base_lsn = self.shape.block_down(at);
        let start = at - base_lsn;
        let prefix = if start == 0 { Prefix::Nothing } else { Prefix::TailBlock };
        let plan = Plan { number, prefix, device_offset, segment_end, dead: false, pad: 0, end: at };
        (plan, self.placement(base_lsn, start, segment_end))
    }

    fn open_segment(&mut self, number: u64, now_ns: u64, stable: Lsn) -> Option<(Plan, Placement)> {
        let entry = self.table.allocate(self.epoch)?;
        self.opened += 1;
        let base_lsn = self.shape.segment_start(entry.sequence);
        let header = SegmentHeader {
            uuid: self.uuid,
            sequence: entry.sequence,
            first_lsn: base_lsn,
            epoch: self.epoch,
            physical: entry.physical,
            next_physical: self.table.next_free(),
            created_ns: now_ns,
            stable_lsn: stable,
        };
        let segment_end = self.shape.segment_end(base_lsn);
        let device_offset = self.shape.device_offset(entry.physical);
        let plan = Plan {
            number,
            prefix: Prefix::Header(header),
            device_offset,
            segment_end,
            dead: false,
            pad: 0,
            end: base_lsn,
        };
        Some((plan, self.placement(base_lsn, self.shape.block, segment_end)))
    }

    fn placement(&self, base_lsn: Lsn, start: u64, segment_end: Lsn) -> Placement {
        let limit = self.buffer_size.min(segment_end - base_lsn) - TRAILER;
        Placement { trailer: 0, base_lsn, start: start as usize, limit: limit.max(start) as usize }
    }

    /// Bytes of the newest segment behind `end`, where the claims end.
    pub fn rest(&self, end: Lsn) -> u64 {
        self.plans.back().map_or(0, |plan| plan.segment_end.saturating_sub(end))
    }

    /// (bytes used, bytes that can still be written) when the claims end at `end`.
    pub fn usage(&self, end: Lsn) -> (u64, u64) {
        self.table.usage(self.rest(end))
    }
}
