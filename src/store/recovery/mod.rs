//! Recovery: from a superblock and a checkpoint to the exact end of the log, without writing anything.
//!
//! It reads frames from the checkpoint's recovery LSN on. Where no frame checks, what lies behind decides: if anything
//! shows that the place was stable (a superblock, a checkpoint, or a stable mark found further on), it is damage, and
//! is reported and passed over; else it is the unacknowledged tail of a crash, and is cut. It is idempotent, and
//! bounded by the checkpoint interval.
//!
//! - `start`: the segment table to begin with; `known`: what lies in the segments in front of that
//! - `next`: from one segment to the next, by its header or without it; `freed`, `searches`: where it need not look
//! - `judge`: torn or damaged
//! - `fallback`: what has to stay for the older checkpoint

mod fallback;
mod freed;
mod judge;
mod known;
mod next;
mod searches;
mod start;

pub use known::Source;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use super::checkpoints::Loaded;
use super::create::most_nodes;
use super::error::OpenError;
use super::geometry::Shape;
use super::replay::Replay;
use super::scan::{Found, Scanner, Step, read_segment_header};
use super::segments::{Segment, SegmentTable};
use super::types::{Damage, RecoveryReport};
use crate::format::{
    Checkpoint, FrameKind, Lsn, MountEntry, SavedRange, SegmentHeader, Summarised, Summary, Superblock,
};
use crate::io::{IoError, QuikIO};
use freed::Freed;
use searches::Searches;
use start::Headers;

/// What recovery decided.
pub struct Recovered {
    /// Live segments.
    pub table: SegmentTable,
    /// The logs.
    pub replay: Replay,
    /// Exact end of the log.
    pub end: Lsn,
    /// Epoch of the frames at the end.
    pub epoch: u64,
    /// Highest LSN known to have been stable.
    pub stable: Lsn,
    /// LSN the scan started at.
    pub from: Lsn,
    /// For people.
    pub report: RecoveryReport,
}

impl Recovered {
    /// All this as a checkpoint.
    pub fn checkpoint(&self, shape: &Shape, uuid: [u8; 16], generation: u64) -> Checkpoint {
        let table = &self.table;
        let summarised = |segment: &Segment| match segment.summary {
            Summarised::No => Summarised::Here,
            summary => summary,
        };
        let has_summary = |range: &&SavedRange| {
            let summary = table.get(shape.sequence(range.lsn)).map(|segment| segment.summary);
            matches!(summary, Some(Summarised::At { .. }))
        };
        let ranges = self.replay.ranges();
        Checkpoint {
            uuid,
            generation,
            epoch: self.epoch,
            recovery_lsn: self.end,
            stable_lsn: self.end,
            nodes: self.replay.nodes(),
            segments: table.live().copied().collect(),
            index: self.replay.indexes(),
            mounts: self.replay.mounts.entries().to_vec(),
            next_id: self.replay.next_id,
            summarised: table.segments().map(summarised).collect(),
            ranges: ranges.iter().filter(|range| !has_summary(range)).copied().collect(),
        }
    }
}

struct Recovery<'a> {
    io: &'a QuikIO,
    shape: Shape,
    superblock: &'a Superblock,
    table: SegmentTable,
    replay: Replay,
    stable: Lsn,
    report: RecoveryReport,
    /// Without a checkpoint: the segments that have a header.
    headers: Headers,
    freed: Freed,
    /// Headers that were read already.
    seen: RefCell<HashMap<u32, Option<SegmentHeader>>>,
    searches: Searches,
}

/// Decide what the store holds.
pub fn recover(
    io: &QuikIO,
    superblock: &Superblock,
    checkpoints: Loaded,
    max_points: usize,
) -> Result<Recovered, OpenError> {
    let started = Instant::now();
    let shape = Shape::of(superblock);
    let device = || io.describe();
    let failed = |error: IoError| OpenError::Device { device: io.describe(), error };
    let most_nodes = most_nodes(superblock);
    let mut notes = Vec::new();
    let (mut headers, mut freed) = (Headers::new(), Freed::default());
    let (table, replay, from, epoch, known) = match checkpoints.newest {
        Some(mut checkpoint) => {
            let mut table = start::table_of(shape, superblock, &checkpoint)
                .map_err(|what| OpenError::Damaged { device: device(), what })?;
            let stable = checkpoint.stable_lsn.max(checkpoint.recovery_lsn);
            let (from, epoch) = (checkpoint.recovery_lsn, checkpoint.epoch);
            let ranges = std::mem::take(&mut checkpoint.ranges);
            let mut replay = Replay::restore(checkpoint, shape, max_points, most_nodes);
            known::Source { io, shape, superblock }.tell(&mut table, &ranges, from, &mut replay).map_err(failed)?;
            (table, replay, from, epoch, stable)
        }
        None => {
            notes.push("no checkpoint could be used: every segment was read".to_owned());
            let stable;
            (headers, freed, stable) = start::headers(io, shape, superblock).map_err(failed)?;
            let (table, from, epoch) = start::table_from(shape, &headers).ok_or_else(|| OpenError::Damaged {
                device: device(),
                what: "no checkpoint and no segment header can be read".to_owned(),
            })?;
            let mut replay = Replay::new(shape, max_points, most_nodes);
            replay.mounts.begin(MountEntry { epoch, cut_lsn: from, first_lsn: from });
            (table, replay, from, epoch, stable)
        }
    };
    let stable = known.max(superblock.stable_lsn);
    let report = RecoveryReport { from_lsn: from, notes, ..RecoveryReport::default() };
    let (seen, searches) = (RefCell::default(), Searches::of(&shape));
    let mut recovery =
        Recovery { io, shape, superblock, table, replay, stable, report, headers, freed, seen, searches };
    if let Some(older) = &checkpoints.older {
        recovery.keep_for(older).map_err(failed)?;
    }
    let (end, epoch) = recovery.run(from, epoch).map_err(failed)?;
    let Recovery { mut table, mut replay, stable, mut report, .. } = recovery;
    // A segment without a frame is given back, as a mount writes the header of each segment that it opens: this one's
    // was perhaps never written, though a checkpoint knows the segment.
    let end = if shape.within(end) == shape.block { end - shape.block } else { end };
    table.give_back(end);
    // What the newest segment says will follow it is what has to follow it.
    if let Some(physical) = table.newest().and_then(|newest| table.physical(newest))
        && let Some(header) = read_segment_header(io, &shape, &superblock.uuid, physical).map_err(failed)?
        && let Some(next) = header.next_physical
    {
        table.take_next(next);
    }
    replay.finish();
    replay.account(&mut table);
    report.clean = superblock.clean && end == superblock.end_lsn;
    report.end_lsn = end;
    report.notes.append(&mut replay.notes);
    report.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Recovered { table, replay, end, epoch, stable, from, report })
}

impl Recovery<'_> {
    fn run(&mut self, from: Lsn, epoch: u64) -> Result<(Lsn, u64), IoError> {
        let (io, uuid) = (self.io, self.superblock.uuid);
        let mut scanner = Scanner::new(io, self.shape, uuid, self.superblock.epoch, false);
        let sequence = self.shape.sequence(from);
        // The end of a full segment is written as the first byte of the next.
        if self.shape.within(from) == 0 {
            if self.is_clean_end(from) || !self.enter_segment(&mut scanner, sequence, epoch)? {
                return Ok((from, epoch));
            }
        } else if let Some(physical) = self.table.physical(sequence) {
            scanner.enter(from.max(self.shape.first_frame(sequence)), physical, epoch);
        } else {
            self.report.notes.push(format!("the segment of the recovery start LSN {from:#x} is not in the checkpoint"));
            return Ok((from, epoch));
        }
        loop {
            let place = scanner.place();
            // The last mount began here: what an older one left behind this is no part of the log, though it checks.
            if !self.superblock.clean && place >= self.superblock.stable_lsn && scanner.epoch() < self.superblock.epoch
            {
                scanner.raise_epoch(self.superblock.epoch);
                // Also for readers, should its first frame be lost.
                let began = self.superblock.stable_lsn.max(from);
                let epoch = self.superblock.epoch;
                self.replay.mounts.begin(MountEntry { epoch, cut_lsn: began, first_lsn: began });
            }
            if self.is_clean_end(place) {
                return Ok((place, scanner.epoch()));
            }
            match scanner.step()? {
                Step::Frame(found) => {
                    self.report.frames += 1;
                    self.stable = self.stable.max(self.replay.apply(&found));
                    if found.kind == FrameKind::Summary {
                        self.summary(&found);
                    }
                }
                Step::SegmentEnd => {
                    let epoch = scanner.epoch();
                    if !self.enter_segment(&mut scanner, self.shape.sequence(place), epoch)? {
                        return Ok((place, epoch));
                    }
                }
                Step::Broken(error) => {
                    if self.continues_behind_gap(&mut scanner, place)? {
                        continue;
                    }
                    let Some(next) = self.judge(&mut scanner, place, &error)? else {
                        return Ok((self.cut(place), scanner.epoch()));
                    };
                    scanner.go_to(next);
                }
            }
        }
    }

    /// A segment has a summary. It leaves out the logs that had been removed; where no checkpoint tells which those are, they
    /// may be back, and it says too little.
    fn summary(&mut self, found: &Found) {
        if !self.headers.is_empty() {
            return;
        }
        let segment = Summary::decode(&found.payload).ok().and_then(|summary| self.table.get_mut(summary.sequence));
        if let (Some(segment), Ok(total)) = (segment, u32::try_from(found.total)) {
            segment.summary = Summarised::At { lsn: found.lsn, total };
        }
    }

    fn is_clean_end(&self, place: Lsn) -> bool {
        self.superblock.clean && place == self.superblock.end_lsn
    }

    /// The end: `place`, or behind damage that reaches to the end.
    fn cut(&self, place: Lsn) -> Lsn {
        self.report.end_lsn.max(place)
    }

    fn damaged(&mut self, damage: Damage) {
        self.report.damage.push(damage);
        self.replay.damaged = true;
    }
}
