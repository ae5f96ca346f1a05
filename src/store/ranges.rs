//! Where the bytes of one log lie: its ranges, one for each run of its records in one segment.
//!
//! A range is what a reader, the accounting and the cleaner need to know: from here to there the log lies in this
//! segment, its first frame is here, its frames take so many bytes. Memory is bounded by segments and logs, not by
//! records. Ranges are in the order of offsets; a moved range lies behind others that are newer.

use super::geometry::Shape;
use crate::format::{Lsn, SavedRange};

/// A run of records of one log in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// Offset of its first byte in the log.
    pub offset: u64,
    /// LSN of its first frame, or below it and behind all other frames of these offsets in the segment.
    pub lsn: Lsn,
    /// Time of its first record.
    pub time_ns: u64,
    /// Bytes of the log.
    pub len: u32,
    /// Bytes of its frames.
    pub bytes: u32,
    /// Its bytes are among the live bytes of its segment; until then it is counted only as one that is there.
    pub counted: bool,
}

/// One record, as it is added to a log's ranges.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Offset of its first byte in the log.
    pub offset: u64,
    /// Bytes of it.
    pub len: u64,
    /// LSN of its frame.
    pub lsn: Lsn,
    /// Bytes of the frame.
    pub total: u64,
    /// Time.
    pub time_ns: u64,
}

impl Range {
    /// Offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// One record.
    pub fn of(record: &Record) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            offset: record.offset,
            lsn: record.lsn,
            time_ns: record.time_ns,
            len: small(record.len),
            bytes: small(record.total),
            counted: false,
        }
    }

    /// As it is saved.
    pub fn saved(&self, log_id: u32) -> SavedRange {
        let Self { offset, lsn, time_ns, len, bytes, .. } = *self;
        SavedRange { log_id, len, bytes, offset, lsn, time_ns }
    }

    /// As it was saved.
    pub fn restored(saved: &SavedRange) -> Self {
        let SavedRange { len, bytes, offset, lsn, time_ns, .. } = *saved;
        Self { offset, lsn, time_ns, len, bytes, counted: false }
    }
}

/// What the segment table has to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This range is there.
    Begins(Range),
    /// This range, as it was, is there no more.
    Ends(Range),
}

/// The ranges of one log, in the order of their offsets; no two overlap.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    ranges: Vec<Range>,
    recent: Option<Recent>,
}

/// The record that was put last. Only what continues it continues its range: the frames of a range lie in the order of
/// its offsets, and come from one range, so that what is left of that one is known exactly when both are restored.
#[derive(Debug, Clone, Copy)]
struct Recent {
    /// Offset behind it.
    end: u64,
    lsn: Lsn,
    taken: Taken,
}

/// What a record was put in the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Of nothing.
    Nothing,
    /// Of the front of a range: the rest of that comes next.
    Front,
    /// Of the last of a range.
    Rest,
}

impl Ranges {
    /// A record was appended behind all others: the sequence number of the segment in which a range begins with it, if
    /// one does.
    #[inline]
    pub fn append(&mut self, record: &Record, shape: &Shape) -> Option<u64> {
        if record.len == 0 {
            // Nobody appends nothing; a frame that says so is forged.
            return None;
        }
        let sequence = shape.sequence(record.lsn);
        if let Some(last) = self.ranges.last_mut()
            && last.end() == record.offset
            && shape.sequence(last.lsn) == sequence
            && let (Some(len), Some(bytes)) =
                (u64::from(last.len).checked_add(record.len), u64::from(last.bytes).checked_add(record.total))
            && let (Ok(len), Ok(bytes)) = (u32::try_from(len), u32::try_from(bytes))
        {
            (last.len, last.bytes) = (len, bytes);
            return None;
        }
        if self.ranges.last().is_some_and(|last| last.end() > record.offset) {
            // Only recovery meets a record again.
            self.put(Range::of(record), shape, &mut Vec::new());
            return None;
        }
        self.ranges.push(Range::of(record));
        Some(sequence)
    }

    /// `range` covers its offsets from now on, whoever did before. What that changes is added to `changes`.
    pub fn put(&mut self, range: Range, shape: &Shape, changes: &mut Vec<Change>) {
        if range.len == 0 {
            return;
        }
        let from = self.ranges.partition_point(|have| have.end() <= range.offset);
        let to = self.ranges.partition_point(|have| have.offset < range.end());
        // The parts in front of it and behind it stay. What is moved takes as many bytes as before, so they keep the
        // rest; how that is shared between two parts is known of the whole alone.
        let covered = self.ranges.get(from..to).unwrap_or(&[]);
        let all: u64 = covered.iter().map(|have| u64::from(have.bytes)).sum();
        let mut left = all.saturating_sub(u64::from(range.bytes));
        let taken = match covered.last() {
            None => Taken::Nothing,
            Some(last) if last.end() > range.end() => Taken::Front,
            Some(_) => Taken::Rest,
        };
        let mut around = Vec::new();
        for have in covered {
            changes.push(Change::Ends(*have));
            let front = range.offset.saturating_sub(have.offset).min(u64::from(have.len));
            let back = have.end().saturating_sub(range.end()).min(u64::from(have.len) - front);
            if front > 0 {
                let alone = covered.last().is_none_or(|last| last.end() <= range.end());
                let share = u64::from(have.bytes) * front / u64::from(have.len).max(1);
                let bytes = if alone { left } else { share.min(left) };
                left -= bytes;
                around.push(Range { len: front as u32, bytes: bytes as u32, ..*have });
            }
            if back > 0 {
                around.push(Range { offset: range.end(), len: back as u32, bytes: left as u32, ..*have });
            }
        }
        changes.extend(around.iter().map(|part| Change::Begins(*part)));
        let place = around.iter().filter(|part| part.offset < range.offset).count();
        around.insert(place, range);
        self.ranges.splice(from..to, around);
        let follows = self.recent.is_some_and(|recent| {
            let same = recent.taken == Taken::Front || (recent.taken, taken) == (Taken::Nothing, Taken::Nothing);
            same && recent.end == range.offset && recent.lsn < range.lsn
        });
        let joined = if follows { self.join(from + place, shape, changes) } else { range };
        changes.push(Change::Begins(joined));
        self.recent = Some(Recent { end: range.end(), lsn: range.lsn, taken });
    }

    /// The range at `at`, a record, continues the one in front of it in the same segment: they are one. Gives the one it
    /// is.
    fn join(&mut self, at: usize, shape: &Shape, changes: &mut Vec<Change>) -> Range {
        let Some(range) = self.ranges.get(at).copied() else { return Range::default() };
        if let Some(before) = at.checked_sub(1).and_then(|at| self.ranges.get_mut(at))
            && before.end() == range.offset
            && shape.sequence(before.lsn) == shape.sequence(range.lsn)
            && before.counted == range.counted
            && let (Some(len), Some(bytes)) = (before.len.checked_add(range.len), before.bytes.checked_add(range.bytes))
        {
            changes.push(Change::Ends(*before));
            (before.len, before.bytes) = (len, bytes);
            let joined = *before;
            self.ranges.remove(at);
            return joined;
        }
        range
    }

    /// [`Self::put`] of a whole range as it was saved.
    pub fn restore(&mut self, range: Range, shape: &Shape) {
        self.recent = None;
        self.put(range, shape, &mut Vec::new());
        self.recent = None;
    }

    /// The range that `offset` lies in.
    pub fn find(&self, offset: u64) -> Option<&Range> {
        let at = self.ranges.partition_point(|range| range.offset <= offset).checked_sub(1)?;
        self.ranges.get(at).filter(|range| offset < range.end())
    }

    /// The first range that begins behind `offset`.
    pub fn next_behind(&self, offset: u64) -> Option<&Range> {
        self.ranges.get(self.ranges.partition_point(|range| range.offset <= offset))
    }

    /// The last range that ends at or below `offset`.
    pub fn last_before(&self, offset: u64) -> Option<&Range> {
        self.ranges.get(self.ranges.partition_point(|range| range.end() <= offset).checked_sub(1)?)
    }

    /// The last range that begins before `time_ns`, or the first: the first record of that time or later lies in it, or
    /// is the first behind it. But what is left of a range whose front was moved keeps that one's time: if its own first
    /// record is of `time_ns` or later, so may be others in front of it.
    pub fn at_time(&self, time_ns: u64) -> Option<&Range> {
        self.ranges.get(self.ranges.partition_point(|range| range.time_ns < time_ns).saturating_sub(1))
    }

    /// The log begins at `head`: ranges that end there or before it are taken out.
    pub fn drop_below(&mut self, head: u64) -> Vec<Range> {
        let below = self.ranges.partition_point(|range| range.end() <= head);
        self.ranges.drain(..below).collect()
    }

    /// The first record of the range at `offset` is let go: `len` bytes of the log, `total` of the device. What that changes
    /// is added to `changes`. Nothing if no range begins there, or none of it would be left.
    pub fn shrink(&mut self, offset: u64, len: u64, total: u64, changes: &mut Vec<Change>) {
        let at = self.ranges.partition_point(|range| range.offset < offset);
        let Some(range) = self.ranges.get_mut(at).filter(|range| range.offset == offset) else { return };
        let (Ok(len), Ok(total)) = (u32::try_from(len), u32::try_from(total)) else { return };
        if len < range.len && total < range.bytes {
            changes.push(Change::Ends(*range));
            *range =
                Range { offset: offset + u64::from(len), len: range.len - len, bytes: range.bytes - total, ..*range };
            changes.push(Change::Begins(*range));
        }
    }

    /// The log is gone: all.
    pub fn take(&mut self) -> Vec<Range> {
        std::mem::take(&mut self.ranges)
    }

    /// The last.
    #[inline]
    pub fn last(&self) -> Option<&Range> {
        self.ranges.last()
    }

    /// All, in the order of offsets.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Range> {
        self.ranges.iter()
    }

    /// All, in the order of offsets.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Range> {
        self.ranges.iter_mut()
    }

    /// All that lie in segment `sequence`.
    pub fn in_segment(&self, sequence: u64, shape: &Shape) -> impl Iterator<Item = &Range> {
        let shape = *shape;
        self.ranges.iter().filter(move |range| shape.sequence(range.lsn) == sequence)
    }

    /// The same.
    pub fn in_segment_mut(&mut self, sequence: u64, shape: &Shape) -> impl Iterator<Item = &mut Range> {
        let shape = *shape;
        self.ranges.iter_mut().filter(move |range| shape.sequence(range.lsn) == sequence)
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { segment_size: 1 << 16, block: 4096, data_start: 1 << 20, segments: 64, max_record: 1 << 14 };

    fn record(offset: u64, len: u64, lsn: Lsn) -> Record {
        Record { offset, len, lsn, total: len + 32, time_ns: offset }
    }

    fn ranges(records: &[Record]) -> Ranges {
        let mut ranges = Ranges::default();
        for record in records {
            ranges.append(record, &SHAPE);
        }
        ranges
    }

    #[test]
    fn a_forged_record_of_nothing_lies_nowhere() {
        let mut ranges = ranges(&[record(0, 100, 0x11000), record(100, 0, 0x11400), record(100, 50, 0x11800)]);
        for _ in 0..2 {
            for offset in [0, 50, 100, 150, 900] {
                ranges.put(Range::of(&record(offset, 0, 0x21000)), &SHAPE, &mut Vec::new());
            }
        }
        assert_eq!((ranges.iter().count(), ranges.bytes(), ranges.next_behind(0)), (1, 214, None));
    }

    #[test]
    fn records_of_one_segment_are_one_range() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.append(&record(0, 100, 0x11000), &SHAPE), Some(1));
        assert_eq!(ranges.append(&record(100, 50, 0x11400), &SHAPE), None);
        assert_eq!(ranges.append(&record(150, 50, 0x21000), &SHAPE), Some(2));
        let first = ranges.find(149).copied().unwrap();
        assert_eq!((first.offset, first.len, first.bytes, first.lsn), (0, 150, 214, 0x11000));
        assert_eq!(ranges.find(150).map(|range| range.lsn), Some(0x21000));
        assert_eq!((ranges.find(200), ranges.bytes()), (None, 296));
    }

    #[test]
    fn what_is_moved_is_found_where_it_went_and_counted_once() {
        let mut log = ranges(&[record(0, 100, 0x11000), record(100, 100, 0x11100), record(200, 100, 0x21000)]);
        let before = log.bytes();
        let mut changes = Vec::new();
        log.put(Range::of(&record(0, 100, 0x31000)), &SHAPE, &mut changes);
        log.put(Range::of(&record(100, 100, 0x31200)), &SHAPE, &mut changes);
        assert_eq!(sum(&changes) + before as i64, log.bytes() as i64);
        assert_eq!(log.bytes(), before);
        assert_eq!(
            log.iter().map(|range| (range.offset, range.len, range.lsn)).collect::<Vec<_>>(),
            [(0, 200, 0x31000), (200, 100, 0x21000)]
        );
        // Not behind the record that was put last: it may lie in front of it on the device.
        let mut other = ranges(&[record(0, 300, 0x11000)]);
        for (offset, lsn) in [(0, 0x31000), (200, 0x31100), (100, 0x31200)] {
            other.put(Range::of(&record(offset, 100, lsn)), &SHAPE, &mut Vec::new());
        }
        assert_eq!(other.iter().count(), 3);
        // The middle of a range.
        log.put(Range::of(&record(50, 100, 0x41000)), &SHAPE, &mut changes);
        let parts: Vec<_> = log.iter().map(|range| (range.offset, range.len, range.lsn)).collect();
        assert_eq!(parts, [(0, 50, 0x31000), (50, 100, 0x41000), (150, 50, 0x31000), (200, 100, 0x21000)]);
        assert_eq!(sum(&changes) + before as i64, log.bytes() as i64);
    }

    /// What the changes add to the bytes of all ranges.
    fn sum(changes: &[Change]) -> i64 {
        let signed = changes.iter().map(|change| match change {
            Change::Begins(range) => i64::from(range.bytes),
            Change::Ends(range) => -i64::from(range.bytes),
        });
        signed.sum()
    }

    #[test]
    fn below_the_head_nothing_is_left_and_times_are_found() {
        let mut log = ranges(&[record(0, 100, 0x11000), record(100, 100, 0x21000), record(200, 100, 0x31000)]);
        assert_eq!(log.at_time(150).map(|range| range.offset), Some(100));
        assert_eq!(log.at_time(100).map(|range| range.offset), Some(0));
        assert_eq!(log.drop_below(150).len(), 1);
        assert_eq!((log.find(50), log.find(120).map(|range| range.offset)), (None, Some(100)));
        assert_eq!(log.next_behind(100).map(|range| range.offset), Some(200));
        assert_eq!(log.drop_below(300).len(), 2);
    }
}
