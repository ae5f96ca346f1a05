//! Summing up full segments: a SUMM frame says what each holds, so that nobody has to read it to know.

use super::LogStructuredStore;
use super::recovery::Source;
use super::types::{LogId, StoreError};
use crate::format::{FrameHead, Kind, Summarised, Summary};

impl LogStructuredStore {
    /// Write summaries of all segments that are full and stable and have none. What finds no room is done later.
    pub(super) fn summarise(&self) -> Result<(), StoreError> {
        let stable = self.flusher.commit.stable();
        let due: Vec<(u64, Vec<LogId>)> = {
            let space = self.flusher.space();
            let full = space.table.full(stable).filter(|segment| segment.lacks_summary());
            full.map(|segment| (segment.entry.sequence, segment.logs.clone())).collect()
        };
        due.into_iter().try_for_each(|(sequence, logs)| self.summarise_one(sequence, logs))
    }

    fn summarise_one(&self, sequence: u64, mut logs: Vec<LogId>) -> Result<(), StoreError> {
        logs.sort_unstable();
        logs.dedup();
        let mut ranges = Vec::new();
        for id in &logs {
            // Whoever appends to the segment still holds the log's lock, and is waited for here.
            let Some(log) = self.catalog.lock(*id) else { continue };
            ranges.extend(log.ranges.in_segment(sequence, &self.shape).map(|range| range.saved(*id)));
        }
        if Summary::encoded_len(ranges.len()) > self.shape.max_record {
            // Checkpoints go on telling what it holds.
            if let Some(segment) = self.flusher.space().table.get_mut(sequence) {
                segment.too_many = true;
            }
        } else {
            let summary = self.put_summary(&Summary { sequence, ranges })?;
            if let Some(segment) = self.flusher.space().table.get_mut(sequence) {
                segment.summary = summary;
                segment.logs = Vec::new();
            }
        }
        for id in logs {
            let Some(mut log) = self.catalog.lock(id) else { continue };
            for range in log.ranges.in_segment_mut(sequence, &self.shape).filter(|range| !range.counted) {
                range.counted = true;
                self.flusher.space().table.count(range);
            }
        }
        Ok(())
    }

    fn put_summary(&self, summary: &Summary) -> Result<Summarised, StoreError> {
        let head = FrameHead { kind: Kind::Summary, log_id: 0, offset: summary.sequence, time_ns: self.clock.now() };
        let (lsn, total) = self.put_frame(&head, &summary.encode(), |_| {})?;
        self.keeper.dirty();
        Ok(Summarised::At { lsn, total: u32::try_from(total).unwrap_or(u32::MAX) })
    }

    /// The summary of a live segment, from the device. One that is still in the ring is brought there.
    pub(super) fn summary_of(&self, sequence: u64) -> Option<Summary> {
        let written = self.flusher.space().table.get(sequence)?.summary;
        if let Summarised::At { lsn, total } = written {
            self.make_stable_now(lsn.saturating_add(u64::from(total))).ok()?;
        }
        let source = Source { io: &self.io, shape: self.shape, superblock: &self.superblock };
        let place = source.place(&self.flusher.space().table, sequence)?;
        source.summaries(&[place], &self.mounts).pop().flatten()
    }

    /// Segment `sequence` is let go: the summaries in it of others are written again elsewhere. Where there is no room for
    /// that, checkpoints tell again what those hold, until there is.
    pub(super) fn save_summaries_in(&self, sequence: u64) -> Result<(), StoreError> {
        let inside: Vec<u64> = {
            let space = self.flusher.space();
            let in_it = space.table.segments().filter(
                |segment| matches!(segment.summary, Summarised::At { lsn, .. } if self.shape.sequence(lsn) == sequence),
            );
            in_it.map(|segment| segment.entry.sequence).collect()
        };
        for of in inside {
            let Some(summary) = self.summary_of(of) else {
                return Err(StoreError::Io(format!("the summary of segment {of} can't be read")));
            };
            let written = match self.put_summary(&summary) {
                Ok(at) => Some(at),
                Err(StoreError::NoSpace) => None,
                Err(error) => return Err(error),
            };
            if let Some(segment) = self.flusher.space().table.get_mut(of) {
                segment.summary = written.unwrap_or(Summarised::No);
                if written.is_none() {
                    segment.logs = summary.ranges.iter().map(|range| range.log_id).collect();
                    segment.logs.dedup();
                }
            }
        }
        Ok(())
    }
}
