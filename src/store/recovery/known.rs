//! What lies in the segments in front of where recovery starts: from the checkpoint, from their summaries, and where
//! neither tells, from their frames.

use std::collections::BTreeMap;

use super::super::mounts::Mounts;
use super::super::replay::Replay;
use super::super::scan::{Scanner, Step};
use super::super::segments::{Segment, SegmentTable};
use crate::format::frame::{decode, infer_epoch, peek};
use crate::format::{FrameKind, FrameSeed, Lsn, SavedRange, Summarised, Summary, Superblock};
use crate::io::{IoError, QuikIO};
use crate::store::geometry::Shape;

/// Reads of summaries that are under way at one time.
const AT_ONCE: usize = 64;
/// Epochs tried for a summary whose mount is not known.
const EPOCHS_TRIED: usize = 1024;

/// What is read from.
pub struct Source<'a> {
    /// The device.
    pub io: &'a QuikIO,
    /// Where it has what.
    pub shape: Shape,
    /// Whose it is.
    pub superblock: &'a Superblock,
}

impl Source<'_> {
    /// Tell `replay` all ranges of the segments of `table`, up to `from` at least.
    pub(super) fn tell(
        &self,
        table: &mut SegmentTable,
        saved: &[SavedRange],
        from: Lsn,
        replay: &mut Replay,
    ) -> Result<(), IoError> {
        let mut here: BTreeMap<u64, Vec<SavedRange>> = BTreeMap::new();
        for range in saved {
            here.entry(self.shape.sequence(range.lsn)).or_default().push(*range);
        }
        // A checkpoint knows more than where recovery starts. What it does not know of later segments recovery will read.
        let known = |segment: &&Segment| {
            segment.summary != Summarised::No || self.shape.segment_start(segment.entry.sequence) < from
        };
        let segments: Vec<Segment> = table.segments().filter(known).cloned().collect();
        for batch in segments.chunks(AT_ONCE) {
            let summaries = self.summaries(table, batch, &replay.mounts);
            for (segment, summary) in batch.iter().zip(summaries) {
                let sequence = segment.entry.sequence;
                let ranges = match (segment.summary, summary) {
                    (Summarised::Here, _) => here.remove(&sequence).unwrap_or_default(),
                    (Summarised::At { .. }, Some(summary)) => summary.ranges,
                    (at, _) => {
                        if at != Summarised::No {
                            replay.note(format!(
                                "the summary of segment {sequence} can't be read: the segment's frames were"
                            ));
                        }
                        if let Some(segment) = table.get_mut(sequence) {
                            segment.summary = Summarised::No;
                        }
                        self.read_frames(segment, from, replay)?;
                        continue;
                    }
                };
                // A hostile one may say anything of anything.
                let sane = |range: &&SavedRange| self.shape.sequence(range.lsn) == sequence;
                ranges.iter().filter(sane).for_each(|range| replay.known(range));
            }
        }
        Ok(())
    }

    /// The summary of one segment, if it has one that checks.
    pub fn summary_of(&self, table: &SegmentTable, sequence: u64, mounts: &Mounts) -> Option<Summary> {
        let segment = table.get(sequence)?.clone();
        self.summaries(table, &[segment], mounts).pop().flatten()
    }

    /// The summaries of these segments, as far as they have one that checks; read side by side.
    fn summaries(&self, table: &SegmentTable, batch: &[Segment], mounts: &Mounts) -> Vec<Option<Summary>> {
        let place = |segment: &Segment| match segment.summary {
            Summarised::At { lsn, total } => {
                let base = self.shape.block_down(lsn);
                let len =
                    self.shape.block_up(lsn.saturating_add(u64::from(total))).min(self.shape.segment_end(lsn)) - base;
                // No frame is longer than the largest record.
                let fits = u64::from(total) <= crate::format::frame_len(self.shape.max_record) as u64;
                table.device_offset(base).filter(|_| fits).map(|offset| (offset, len as usize))
            }
            _ => None,
        };
        let places: Vec<Option<(u64, usize)>> = batch.iter().map(place).collect();
        let wanted: Vec<(u64, usize)> = places.iter().flatten().copied().collect();
        let mut read = self.io.read_many_now(&wanted).into_iter();
        let mut summaries = Vec::with_capacity(batch.len());
        for (segment, place) in batch.iter().zip(&places) {
            let bytes = place.and_then(|_| read.next()).and_then(Result::ok);
            let summary = bytes.and_then(|bytes| self.summary(segment, bytes.as_slice(), table, mounts));
            summaries.push(summary);
        }
        summaries
    }

    fn summary(&self, of: &Segment, block: &[u8], table: &SegmentTable, mounts: &Mounts) -> Option<Summary> {
        let Summarised::At { lsn, .. } = of.summary else { return None };
        let bytes = block.get(self.shape.within(lsn) as usize % self.shape.block as usize..)?;
        let oldest = table.get(self.shape.sequence(lsn))?.entry.epoch;
        let epochs: Vec<u64> = match mounts.epoch_at(lsn) {
            Some(epoch) => vec![epoch],
            None => infer_epoch(oldest, self.superblock.epoch, peek(bytes)?.epoch8?).take(EPOCHS_TRIED).collect(),
        };
        let frame = epochs.into_iter().find_map(|epoch| {
            decode(&FrameSeed::new(&self.superblock.uuid, epoch), lsn, bytes, self.shape.max_record).ok()
        })?;
        let summary = Summary::decode(frame.payload).ok().filter(|_| frame.kind == FrameKind::Summary)?;
        (summary.sequence == of.entry.sequence).then_some(summary)
    }

    /// Nobody has written down what the segment holds.
    fn read_frames(&self, segment: &Segment, from: Lsn, replay: &mut Replay) -> Result<(), IoError> {
        let mut scanner = Scanner::new(self.io, self.shape, self.superblock.uuid, self.superblock.epoch, false);
        scanner.tolerate_errors();
        let first = self.shape.first_frame(segment.entry.sequence);
        let end = from.min(self.shape.segment_end(first));
        scanner.enter(first, segment.entry.physical, segment.entry.epoch);
        while scanner.place() < end {
            let place = scanner.place();
            if let Some(epoch) = replay.mounts.epoch_at(place) {
                scanner.raise_epoch(epoch);
            }
            match scanner.step()? {
                Step::Frame(found) => {
                    // What a mount cut off may still be there.
                    if replay.mounts.epoch_at(found.lsn).is_none_or(|epoch| epoch == found.epoch) {
                        replay.found_before(&found);
                    }
                }
                Step::SegmentEnd => break,
                Step::Broken(_) => {
                    let over = replay.mounts.over_gap(place);
                    if over > place {
                        scanner.go_to(over.min(end));
                        continue;
                    }
                    match scanner.behind(place)?.next {
                        Some(next) => scanner.go_to(next),
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }
}
