//! The frames of a store, one after the other, and the bytes of one of its logs.

use std::ops::{ControlFlow, RangeInclusive};

use super::Image;
use super::walker::{Broken, Item, Walker};
use crate::format::{FrameKind, SegmentEntry};
use crate::store::geometry::Shape;
use crate::store::ranges::Range;
use crate::store::scan::Found;
use crate::store::types::{LogId, StoreError};

/// One frame, or one place where there is none.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FrameInfo {
    /// Where it starts.
    pub lsn: u64,
    /// The same on the device.
    pub device_offset: u64,
    /// Sequence number of its segment.
    pub segment: u64,
    /// DATA, VOID, META, EPOC, MOVD, SUMM, MARK, PADD; SEGM for a segment header; `----` for a place where no frame checks.
    pub kind: String,
    /// Log it belongs to, 0 none.
    pub log: u32,
    /// Logical offset of its payload.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u64,
    /// Bytes it takes.
    pub total: u64,
    /// When it was accepted, ns since 1970; 0 unknown.
    pub time_ns: u64,
    /// Mount that wrote it.
    pub epoch: u64,
    /// MARK: stable LSN; PADD: bytes.
    pub value: u64,
    /// `ok`, or what is wrong.
    pub state: String,
    /// Its payload, if asked for.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

/// A part of a log that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// First offset.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Image {
    /// Walk the log from the oldest segment to the end that recovery decides.
    pub(super) fn walk(&self, payloads: bool, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.walk_segments(0..=u64::MAX, payloads, each)
    }

    /// The same, in the segments with these numbers.
    fn walk_segments(
        &self,
        sequences: RangeInclusive<u64>,
        payloads: bool,
        each: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let (superblock, recovered) = (&self.opened.superblock, &self.opened.recovered);
        let live = recovered.table.live().filter(|entry| sequences.contains(&entry.sequence));
        let segments: Vec<SegmentEntry> = live.copied().collect();
        let (uuid, epoch) = (superblock.uuid, superblock.epoch);
        Walker::new(&self.io, self.shape, uuid, epoch, &segments, recovered.end, payloads)
            .knowing(recovered.replay.mounts.clone())
            .walk(each)
            .map_err(StoreError::from)
    }

    /// Every frame of the log, from the oldest segment to the end that recovery decides; also segment headers and
    /// places that don't check. With `payloads`, DATA frames carry theirs.
    pub fn for_each_frame(
        &self,
        payloads: bool,
        each: &mut dyn FnMut(&FrameInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk(payloads, &mut |item| each(&self.frame_info(item)))
    }

    fn frame_info(&self, item: Item) -> FrameInfo {
        match item {
            Item::Segment { entry, header } => self.of_segment(&entry, header.map(|_| ()).err()),
            Item::Frame { found, device_offset } => self.of_frame(found, device_offset),
            Item::Broken(broken) => self.of_broken(broken),
        }
    }

    fn of_segment(&self, entry: &SegmentEntry, wrong: Option<String>) -> FrameInfo {
        FrameInfo {
            lsn: self.shape.segment_start(entry.sequence),
            device_offset: self.shape.device_offset(entry.physical),
            segment: entry.sequence,
            kind: "SEGM".to_owned(),
            log: 0,
            offset: 0,
            len: 0,
            total: self.shape.block,
            time_ns: 0,
            epoch: entry.epoch,
            value: u64::from(entry.physical),
            state: wrong.unwrap_or_else(|| "ok".to_owned()),
            payload: Vec::new(),
        }
    }

    fn of_frame(&self, found: Found, device_offset: u64) -> FrameInfo {
        let short = matches!(found.kind, FrameKind::Mark | FrameKind::Pad);
        FrameInfo {
            lsn: found.lsn,
            device_offset,
            segment: self.shape.sequence(found.lsn),
            kind: found.kind.name().to_owned(),
            log: found.log_id,
            offset: found.offset,
            len: if short { 0 } else { found.value },
            total: found.total,
            time_ns: found.time_ns,
            epoch: found.epoch,
            value: if short { found.value } else { 0 },
            state: "ok".to_owned(),
            payload: found.payload,
        }
    }

    fn of_broken(&self, broken: Broken) -> FrameInfo {
        let was = broken.was.filter(|was| was.kind.is_record());
        FrameInfo {
            lsn: broken.lsn,
            device_offset: broken.device_offset,
            segment: self.shape.sequence(broken.lsn),
            kind: "----".to_owned(),
            log: was.as_ref().map_or(0, |was| was.log_id),
            offset: was.as_ref().map_or(0, |was| was.offset),
            len: was.as_ref().map_or(0, |was| was.value),
            total: broken.len,
            time_ns: 0,
            epoch: 0,
            value: 0,
            state: broken.why,
            payload: Vec::new(),
        }
    }

    /// The whole log with the path `name`, in order, to `out`; the gaps that damage left.
    pub fn read_log(
        &self,
        name: &[u8],
        out: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<Gap>, StoreError> {
        self.read_log_between(name, 0..u64::MAX, out)
    }

    /// The same of those records alone that were accepted in these times, ns since 1970. Segments that hold none of them
    /// are not read.
    pub fn read_log_between(
        &self,
        name: &[u8],
        times: std::ops::Range<u64>,
        out: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<Gap>, StoreError> {
        let log = self.log(name).ok_or(StoreError::NotFound)?;
        let ranges: Vec<Range> = match self.opened.recovered.replay.logs.get(&log.id) {
            Some(state) => state.ranges.iter().copied().collect(),
            None => Vec::new(),
        };
        // A range's time is that of its first record: later ones may lie in it.
        let from = ranges.partition_point(|range| range.time_ns < times.start).saturating_sub(1);
        let to = ranges.partition_point(|range| range.time_ns < times.end);
        let all = times == (0..u64::MAX);
        let mut rest = ranges.get(from..to.max(from)).unwrap_or(&[]);
        let expected = rest.first().map_or(log.head, |first| first.offset.max(log.head));
        let expected = if all { log.head } else { expected };
        let mut reading = Reading { id: log.id, expected, gaps: Vec::new(), failed: None, times, begun: all, out };
        while !rest.is_empty() {
            // As many as lie one behind the other on the device too are read in one go.
            let turns = rest.windows(2).position(|pair| matches!(pair, [a, b] if b.lsn < a.lsn));
            let (run, behind) = rest.split_at(turns.map_or(rest.len(), |at| at + 1));
            rest = behind;
            let (Some(first), Some(last)) = (run.first(), run.last()) else { break };
            let sequences = self.shape.sequence(first.lsn)..=self.shape.sequence(last.lsn);
            self.walk_segments(sequences, true, &mut |item| reading.item(item, run, &self.shape))?;
            if all {
                reading.skip_to(last.end());
            }
            if let Some(error) = reading.failed {
                return Err(error);
            }
        }
        if all {
            reading.skip_to(log.size);
        }
        Ok(reading.gaps)
    }

    /// Behind the newest checkpoint, where the frames alone tell how long the logs are, something is gone, or damaged, of which
    /// nothing tells what it held: any log may have been longer.
    pub fn may_miss_ends(&self) -> Result<bool, StoreError> {
        let recovered = &self.opened.recovered;
        let mut may = recovered.stable > recovered.end;
        if may || recovered.report.damage.is_empty() {
            return Ok(may);
        }
        self.walk_segments(self.shape.sequence(recovered.from)..=u64::MAX, false, &mut |item| {
            let Item::Broken(broken) = item else { return ControlFlow::Continue(()) };
            may = broken.lsn >= recovered.from && broken.explained() < broken.len;
            if may { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(may)
    }
}

/// A log that is being read.
struct Reading<'o> {
    id: LogId,
    /// Offset that comes next.
    expected: u64,
    gaps: Vec<Gap>,
    failed: Option<StoreError>,
    times: std::ops::Range<u64>,
    /// What is missing from here on is missing of what is wanted.
    begun: bool,
    out: &'o mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
}

impl Reading<'_> {
    /// An item of the walk through `run`, the ranges that are read.
    fn item(&mut self, item: Item, run: &[Range], shape: &Shape) -> ControlFlow<()> {
        let Item::Frame { found: frame, .. } = item else { return ControlFlow::Continue(()) };
        let end = frame.offset.saturating_add(frame.value);
        if !frame.kind.is_record() || frame.log_id != self.id || end <= self.expected {
            return ControlFlow::Continue(());
        }
        let range = run.partition_point(|range| range.offset <= frame.offset).checked_sub(1).and_then(|at| run.get(at));
        let lies_here = |range: &Range| {
            shape.sequence(range.lsn) == shape.sequence(frame.lsn)
                && frame.lsn >= range.lsn
                && frame.offset < range.end()
        };
        if !range.is_some_and(lies_here) {
            return ControlFlow::Continue(());
        }
        if frame.time_ns >= self.times.end {
            return ControlFlow::Break(());
        }
        if frame.time_ns < self.times.start {
            self.expected = end;
            return ControlFlow::Continue(());
        }
        self.skip_to(frame.offset);
        self.begun = true;
        let skip = (self.expected - frame.offset) as usize;
        match (self.out)(frame.offset + skip as u64, frame.payload.get(skip..).unwrap_or(&[])) {
            Ok(()) => self.expected = end,
            Err(error) => {
                self.failed = Some(StoreError::Io(error.to_string()));
                return ControlFlow::Break(());
            }
        }
        if run.last().is_some_and(|last| self.expected >= last.end()) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// What lies in front of `offset` and was not read is missing.
    fn skip_to(&mut self, offset: u64) {
        if offset > self.expected && self.failed.is_none() {
            if self.begun {
                self.gaps.push(Gap { offset: self.expected, len: offset - self.expected });
            }
            self.expected = offset;
        }
    }
}
