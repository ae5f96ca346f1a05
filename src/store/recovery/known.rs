//! What lies in the segments in front of where recovery starts: from the checkpoint, from their summaries, and where
//! neither tells, from their frames.

use std::collections::BTreeMap;

use super::super::mounts::Mounts;
use super::super::replay::Replay;
use super::super::scan::Scanner;
use super::super::segments::{Segment, SegmentTable};
use crate::format::frame::{decode, infer_epoch, peek};
use crate::format::{FrameKind, FrameSeed, Lsn, SavedRange, Summarised, Summary, Superblock};
use crate::io::{Buffer, IoError, QuikIO};
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

/// Where the summary of a segment is.
pub struct Place {
    /// The segment that it is of.
    sequence: u64,
    lsn: Lsn,
    /// Epoch of the oldest frame in the segment that it lies in.
    oldest_epoch: u64,
    /// The blocks around it: offset and length.
    device: (u64, usize),
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
            let places: Vec<Place> =
                batch.iter().filter_map(|segment| self.place(table, segment.entry.sequence)).collect();
            let mut summaries: BTreeMap<u64, Summary> =
                self.summaries(&places, &replay.mounts).into_iter().flatten().map(|it| (it.sequence, it)).collect();
            for segment in batch {
                let sequence = segment.entry.sequence;
                let ranges = match (segment.summary, summaries.remove(&sequence)) {
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

    /// Where the summary of a live segment is, if it has one in a live segment.
    pub fn place(&self, table: &SegmentTable, sequence: u64) -> Option<Place> {
        let Summarised::At { lsn, total } = table.get(sequence)?.summary else { return None };
        // No frame is longer than the largest record.
        if u64::from(total) > crate::format::frame_len(self.shape.max_record) as u64 {
            return None;
        }
        // A forged one may name any place: only what lies in a live segment is counted with.
        let oldest_epoch = table.get(self.shape.sequence(lsn))?.entry.epoch;
        let base = self.shape.block_down(lsn);
        let end = self.shape.block_up(lsn.saturating_add(u64::from(total))).min(self.shape.segment_end(lsn));
        Some(Place { sequence, lsn, oldest_epoch, device: (table.device_offset(base)?, (end - base) as usize) })
    }

    /// The summaries at these places, as far as they check; read side by side.
    pub fn summaries(&self, places: &[Place], mounts: &Mounts) -> Vec<Option<Summary>> {
        let wanted: Vec<(u64, usize)> = places.iter().map(|place| place.device).collect();
        let read = self.io.read_many_now(&wanted);
        let summary = |(place, bytes): (&Place, Result<Buffer, IoError>)| {
            bytes.ok().and_then(|bytes| self.summary(place, bytes.as_slice(), mounts))
        };
        places.iter().zip(read).map(summary).collect()
    }

    fn summary(&self, place: &Place, block: &[u8], mounts: &Mounts) -> Option<Summary> {
        let lsn = place.lsn;
        let bytes = block.get(self.shape.within(lsn) as usize % self.shape.block as usize..)?;
        let epochs: Vec<u64> = match mounts.epoch_at(lsn) {
            Some(epoch) => vec![epoch],
            None => {
                let later = infer_epoch(place.oldest_epoch, self.superblock.epoch, peek(bytes)?.epoch8?);
                later.take(EPOCHS_TRIED).collect()
            }
        };
        let frame = epochs.into_iter().find_map(|epoch| {
            decode(&FrameSeed::new(&self.superblock.uuid, epoch), lsn, bytes, self.shape.max_record).ok()
        })?;
        let summary = Summary::decode(frame.payload).ok().filter(|_| frame.kind == FrameKind::Summary)?;
        (summary.sequence == place.sequence).then_some(summary)
    }

    /// Nobody has written down what the segment holds.
    fn read_frames(&self, segment: &Segment, from: Lsn, replay: &mut Replay) -> Result<(), IoError> {
        let mut scanner = Scanner::new(self.io, self.shape, self.superblock.uuid, self.superblock.epoch, false);
        scanner.tolerate_errors();
        let first = self.shape.first_frame(segment.entry.sequence);
        let end = from.min(self.shape.segment_end(first));
        scanner.enter(first, segment.entry.physical, segment.entry.epoch);
        while let Some(found) = scanner.next_frame(&replay.mounts, end)? {
            replay.found_before(&found);
        }
        Ok(())
    }
}
