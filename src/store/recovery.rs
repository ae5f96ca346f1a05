//! Recovery: from a superblock and a checkpoint to the exact end of the log, without writing anything.
//!
//! It reads frames from the checkpoint's recovery LSN on. Where no frame checks, what lies behind decides: if anything
//! shows that the place was stable (a superblock, a checkpoint, or a stable mark found further on), it is damage, and
//! is reported and passed over; else it is the unacknowledged tail of a crash, and is cut. It is idempotent, and
//! bounded by the checkpoint interval.

use std::collections::BTreeMap;
use std::time::Instant;

use super::error::OpenError;
use super::geometry::Shape;
use super::replay::Replay;
use super::scan::{Scanner, Step, read_segment_header};
use super::segments::SegmentTable;
use super::types::{Damage, RecoveryReport};
use crate::format::{Checkpoint, FrameError, Lsn, SegmentEntry, SegmentHeader, SegmentState, Superblock};
use crate::io::{IoError, QuikIO};

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

struct Recovery<'a> {
    io: &'a QuikIO,
    shape: Shape,
    superblock: &'a Superblock,
    table: SegmentTable,
    replay: Replay,
    stable: Lsn,
    report: RecoveryReport,
}

/// Decide what the store holds.
pub fn recover(
    io: &QuikIO,
    superblock: &Superblock,
    checkpoint: Option<Checkpoint>,
    max_points: usize,
) -> Result<Recovered, OpenError> {
    let started = Instant::now();
    let shape = Shape::of(superblock);
    let device = || io.describe();
    let failed = |error: IoError| OpenError::Device { device: io.describe(), error };
    let mut notes = Vec::new();
    let (table, replay, from, epoch, known) = match checkpoint {
        Some(checkpoint) => {
            let table = table_of(shape, &checkpoint).map_err(|what| OpenError::Damaged { device: device(), what })?;
            let stable = checkpoint.stable_lsn.max(checkpoint.recovery_lsn);
            let (from, epoch) = (checkpoint.recovery_lsn, checkpoint.epoch);
            (table, Replay::restore(checkpoint, max_points), from, epoch, stable)
        }
        None => {
            notes.push("no checkpoint could be used: every segment was read".to_owned());
            let (table, from, epoch) =
                table_from_headers(io, shape, superblock).map_err(failed)?.ok_or_else(|| OpenError::Damaged {
                    device: device(),
                    what: "no checkpoint and no segment header can be read".to_owned(),
                })?;
            (table, Replay::new(max_points), from, epoch, 0)
        }
    };
    let stable = known.max(superblock.stable_lsn);
    let report = RecoveryReport { from_lsn: from, notes, ..RecoveryReport::default() };
    let mut recovery = Recovery { io, shape, superblock, table, replay, stable, report };
    let (end, epoch) = recovery.run(from, epoch).map_err(failed)?;
    let Recovery { table, mut replay, stable, mut report, .. } = recovery;
    report.clean = superblock.clean && end == superblock.end_lsn;
    report.end_lsn = end;
    report.notes.append(&mut replay.notes);
    report.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Recovered { table, replay, end, epoch, stable, from, report })
}

impl Recovery<'_> {
    fn run(&mut self, from: Lsn, epoch: u64) -> Result<(Lsn, u64), IoError> {
        let mut epoch = epoch;
        // The end of a full segment is written as the first byte of the next.
        if self.shape.within(from) == 0 && self.table.physical(self.shape.sequence(from)).is_none() {
            if self.is_clean_end(from) {
                return Ok((from, epoch));
            }
            match self.next_segment(self.shape.sequence(from))? {
                Some(header) => epoch = epoch.max(header.epoch),
                None => return Ok((from, epoch)),
            }
        }
        let (io, uuid) = (self.io, self.superblock.uuid);
        let mut scanner = Scanner::new(io, self.shape, uuid, self.superblock.epoch, false);
        let start = from.max(self.shape.first_frame(self.shape.sequence(from)));
        let Some(physical) = self.table.physical(self.shape.sequence(start)) else {
            self.report.notes.push(format!("the segment of the recovery start LSN {from:#x} is not in the checkpoint"));
            return Ok((from, epoch));
        };
        scanner.enter(start, physical, epoch);
        loop {
            let place = scanner.place();
            if self.is_clean_end(place) {
                return Ok((place, scanner.epoch()));
            }
            match scanner.step()? {
                Step::Frame(found) => {
                    self.report.frames += 1;
                    self.stable = self.stable.max(self.replay.apply(&found));
                }
                Step::SegmentEnd => {
                    let sequence = self.shape.sequence(place);
                    let Some(header) = self.next_segment(sequence)? else { return Ok((place, scanner.epoch())) };
                    self.stable = self.stable.max(header.stable_lsn);
                    let epoch = scanner.epoch().max(header.epoch);
                    scanner.enter(self.shape.first_frame(sequence), header.physical, epoch);
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

    fn is_clean_end(&self, place: Lsn) -> bool {
        self.superblock.clean && place == self.superblock.end_lsn
    }

    /// With `tail=pad` a mount starts on the block behind the end that recovery decided, with an EPOC frame that names
    /// that end.
    fn continues_behind_gap(&self, scanner: &mut Scanner<'_>, place: Lsn) -> Result<bool, IoError> {
        let next = self.shape.block_up(place);
        if next == place || next >= scanner.segment_end() {
            return Ok(false);
        }
        let epoch_before = scanner.epoch();
        let continues = scanner.frame_at(next)?.is_ok_and(|found| {
            found.record.is_some_and(|record| record.cut_lsn == place && record.epoch > epoch_before)
        });
        if continues {
            // Read it again by `step`: it is of a later epoch than the frames before.
            let physical = self.table.physical(self.shape.sequence(place)).unwrap_or(0);
            scanner.enter(next, physical, epoch_before);
        }
        Ok(continues)
    }

    /// No frame at `place`. `Some`: it is damage, go on there. `None`: the log ends here.
    fn judge(&mut self, scanner: &mut Scanner<'_>, place: Lsn, error: &FrameError) -> Result<Option<Lsn>, IoError> {
        let physical = self.table.physical(self.shape.sequence(place)).unwrap_or(0);
        let epoch = scanner.epoch();
        let segment_end = scanner.segment_end();
        // Look at everything that can still be read behind the place, for a mark that tells of it.
        let mut survey = Survey { evidence: self.stable, first: None, frames: 0, end: place };
        survey.segment(scanner, place, place + 16)?;
        let first = survey.first;
        let next_header = self.peek_next_segment(self.shape.sequence(segment_end), survey.evidence > place)?;
        let mut following = next_header;
        while let Some(header) = following
            && survey.evidence <= place
        {
            survey.evidence = survey.evidence.max(header.stable_lsn);
            let start = self.shape.first_frame(header.sequence);
            scanner.enter(start, header.physical, epoch.max(header.epoch));
            survey.segment(scanner, place, start)?;
            let uuid = &self.superblock.uuid;
            let next =
                header.next_physical.map(|next| read_segment_header(self.io, &self.shape, uuid, next)).transpose()?;
            following = next.flatten().filter(|next| next.sequence == header.sequence + 1);
        }
        let Survey { evidence, frames: cut_frames, end: last_end, .. } = survey;
        if evidence <= place {
            if !matches!(error, FrameError::End) || cut_frames > 0 {
                self.report.cut_frames += cut_frames;
                self.report.cut_bytes += (last_end - place).max(16);
                self.report.notes.push(format!(
                    "the tail behind LSN {place:#x} is not whole ({error}) and nothing tells that it was acknowledged: \
                     it was cut; only the last flush before a crash can't be told from damage"
                ));
            }
            scanner.enter(place, physical, epoch);
            return Ok(None);
        }
        let next = match first {
            Some((lsn, found_epoch)) => {
                scanner.enter(lsn, physical, found_epoch);
                lsn
            }
            None => {
                scanner.enter(place, physical, epoch);
                if next_header.is_some() { segment_end } else { evidence.min(segment_end) }
            }
        };
        self.report.damage.push(Damage {
            lsn: place,
            len: next - place,
            device_offset: self.shape.device_offset(physical) + self.shape.within(place),
            segment: self.shape.sequence(place),
            what: error.to_string(),
        });
        self.replay.damaged = true;
        // Nothing readable behind it in the last segment: the log goes on behind what was stable.
        Ok((first.is_some() || next_header.is_some()).then_some(next).or_else(|| {
            self.report.end_lsn = next;
            None
        }))
    }

    /// The end: `place`, or behind damage that reaches to the end.
    fn cut(&self, place: Lsn) -> Lsn {
        self.report.end_lsn.max(place)
    }

    /// The header of segment `sequence` where the log says it is (or anywhere, if it must exist).
    fn peek_next_segment(&self, sequence: u64, must_exist: bool) -> Result<Option<SegmentHeader>, IoError> {
        if let Some(physical) = self.table.physical(sequence) {
            return read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)
                .map(|header| header.filter(|header| header.sequence == sequence));
        }
        let before = self.table.physical(sequence.saturating_sub(1));
        let hint = match before {
            Some(physical) => read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)?
                .and_then(|h| h.next_physical),
            None => None,
        };
        let fits = |header: &SegmentHeader| header.sequence == sequence && header.epoch <= self.superblock.epoch;
        for physical in hint.into_iter().chain(self.table.next_free()) {
            if let Some(header) =
                read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)?.filter(fits)
            {
                return Ok(Some(header));
            }
        }
        if must_exist {
            for physical in 0..self.shape.segments {
                if let Some(header) =
                    read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)?.filter(fits)
                {
                    return Ok(Some(header));
                }
            }
        }
        Ok(None)
    }

    /// As `peek_next_segment`, and the segment is live from now on.
    fn next_segment(&mut self, sequence: u64) -> Result<Option<SegmentHeader>, IoError> {
        let must_exist = self.stable > self.shape.segment_start(sequence);
        if let Some(physical) = self.table.physical(sequence) {
            // In the checkpoint's table; its header is only needed for what it tells.
            let header = read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)?;
            let epoch = self.table.live().find(|entry| entry.sequence == sequence).map_or(0, |entry| entry.epoch);
            return Ok(Some(header.filter(|header| header.sequence == sequence).unwrap_or_else(|| {
                self.report.notes.push(format!("the header of segment {sequence} is damaged; the checkpoint knows it"));
                SegmentHeader {
                    uuid: self.superblock.uuid,
                    sequence,
                    first_lsn: self.shape.segment_start(sequence),
                    epoch,
                    physical,
                    next_physical: None,
                    created_ns: 0,
                    stable_lsn: 0,
                }
            })));
        }
        let Some(header) = self.peek_next_segment(sequence, must_exist)? else { return Ok(None) };
        let entry =
            SegmentEntry { sequence, physical: header.physical, state: SegmentState::Open, epoch: header.epoch };
        Ok(self.table.adopt(entry).then_some(header))
    }
}

/// What can still be read behind a place where no frame checks.
struct Survey {
    /// Highest LSN that anything tells to have been stable.
    evidence: Lsn,
    /// First frame found, and its epoch.
    first: Option<(Lsn, u64)>,
    frames: u64,
    /// End of the last frame found.
    end: Lsn,
}

impl Survey {
    /// Read the scanner's segment from `at` on, until a frame is found and something tells that `place` was stable.
    fn segment(&mut self, scanner: &mut Scanner<'_>, place: Lsn, mut at: Lsn) -> Result<(), IoError> {
        while at < scanner.segment_end()
            && let Some(found_at) = scanner.resync(at)?
        {
            self.first.get_or_insert((found_at, scanner.epoch()));
            if self.evidence > place {
                break;
            }
            scanner.go_to(found_at);
            while let Step::Frame(found) = scanner.step()? {
                self.frames += 1;
                self.end = found.lsn + found.total;
                self.evidence = self.evidence.max(super::replay::stable_told_by(&found));
            }
            at = scanner.place().max(found_at) + 16;
        }
        Ok(())
    }
}

/// The table a checkpoint describes, if it can be one.
fn table_of(shape: Shape, checkpoint: &Checkpoint) -> Result<SegmentTable, String> {
    let mut live: Vec<SegmentEntry> = checkpoint
        .segments
        .iter()
        .filter(|entry| matches!(entry.state, SegmentState::Open | SegmentState::Sealed))
        .copied()
        .collect();
    live.sort_by_key(|entry| entry.sequence);
    let consecutive =
        live.windows(2).all(|pair| matches!(pair, [a, b] if a.sequence.checked_add(1) == Some(b.sequence)));
    let mut places: Vec<u32> = live.iter().map(|entry| entry.physical).collect();
    places.sort_unstable();
    places.dedup();
    let sane = consecutive
        && places.len() == live.len()
        && places.last().is_none_or(|last| *last < shape.segments)
        && live.last().is_none_or(|last| last.sequence < u64::MAX / shape.segment_size - 2)
        && live.first().is_none_or(|first| first.sequence > 0);
    if sane && !live.is_empty() {
        Ok(SegmentTable::new(shape, live))
    } else {
        Err("the checkpoint's segment table makes no sense".to_owned())
    }
}

/// The table that the segment headers tell: for a store whose checkpoints are both lost.
fn table_from_headers(
    io: &QuikIO,
    shape: Shape,
    superblock: &Superblock,
) -> Result<Option<(SegmentTable, Lsn, u64)>, IoError> {
    let mut headers = BTreeMap::new();
    for physical in 0..shape.segments {
        if let Some(header) = read_segment_header(io, &shape, &superblock.uuid, physical)?
            && header.epoch <= superblock.epoch
            && header.sequence < u64::MAX / shape.segment_size - 2
        {
            headers.insert(header.sequence, header);
        }
    }
    let Some((&first, header)) = headers.iter().next() else { return Ok(None) };
    let entry =
        SegmentEntry { sequence: first, physical: header.physical, state: SegmentState::Open, epoch: header.epoch };
    let table = SegmentTable::new(shape, [entry]);
    Ok(Some((table, shape.first_frame(first), header.epoch)))
}
