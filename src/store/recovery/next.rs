//! From one segment to the next.
//!
//! A segment is part of the log if its header says so, and is not older than the frames before it: a mount that cut the
//! log in front of a segment leaves that segment's header behind, and begins the segment of the same number anew,
//! perhaps in another place. Where a header can't be read, the segment's first frame tells what it is: it checks for
//! one LSN alone.

use std::collections::HashSet;

use super::Recovery;
use crate::format::{EpochRecord, Lsn, SegmentEntry, SegmentHeader, SegmentState, frame, frame_len};
use crate::io::IoError;
use crate::store::behind::mount_in;
use crate::store::scan::{Scanner, read_segment_header};
use crate::store::types::Damage;

/// Bytes of an EPOC frame.
const EPOCH_FRAME: u64 = frame::EPOCH_FRAME as u64;

/// A segment that may follow.
pub(super) struct Next {
    pub(super) sequence: u64,
    pub(super) physical: u32,
    /// Of its first frame.
    pub(super) epoch: u64,
    /// Its header, if that can be read.
    pub(super) header: Option<SegmentHeader>,
}

impl Recovery<'_> {
    /// Go on in segment `sequence`, behind frames of `epoch`, if it is part of the log. False: the log ends before it.
    pub(super) fn enter_segment(
        &mut self,
        scanner: &mut Scanner<'_>,
        sequence: u64,
        epoch: u64,
    ) -> Result<bool, IoError> {
        let start = self.shape.segment_start(sequence);
        let known = self.table.get(sequence).map(|segment| segment.entry);
        if let Some(entry) = known {
            let header = self.header_at(entry.physical)?.filter(|header| header.sequence == sequence);
            match header {
                Some(header) => self.stable = self.stable.max(header.stable_lsn),
                None => self
                    .report
                    .notes
                    .push(format!("the header of segment {sequence} is damaged; the checkpoint knows it")),
            }
            scanner.enter(self.shape.first_frame(sequence), entry.physical, epoch.max(entry.epoch));
            return Ok(true);
        }
        let must_exist = self.stable > start;
        let found = match self.find_segment(sequence, self.physical_before(sequence), epoch, must_exist)? {
            None => self.behind_hole(sequence, epoch),
            found => found,
        };
        let Some(next) = found else {
            if must_exist {
                self.damaged(Damage {
                    lsn: start,
                    len: self.stable.min(self.shape.segment_end(start)) - start,
                    device_offset: 0,
                    segment: sequence,
                    what: "the segment is nowhere on the device".to_owned(),
                });
            }
            return Ok(false);
        };
        if let Some(header) = &next.header {
            self.stable = self.stable.max(header.stable_lsn);
        } else if !self.header_was_damaged(scanner, &next, must_exist)? {
            return Ok(false);
        }
        let Next { sequence, physical, epoch, .. } = next;
        if !self.table.adopt(SegmentEntry { sequence, physical, state: SegmentState::Open, epoch }) {
            return Ok(false);
        }
        scanner.enter(self.shape.first_frame(sequence), physical, epoch);
        Ok(true)
    }

    /// Without a checkpoint nobody knows which segments were let go. If it is known that the log is stable further on, or
    /// was up to `sequence` when one further on was opened, it was one of them.
    fn behind_hole(&self, sequence: u64, epoch: u64) -> Option<Next> {
        let (_, header) = self.headers.range(sequence..).next()?;
        let (start, next) = (self.shape.segment_start(sequence), self.shape.segment_start(header.sequence));
        let follows = header.epoch >= epoch && (header.stable_lsn >= start || self.stable > next);
        follows.then_some(Next {
            sequence: header.sequence,
            physical: header.physical,
            epoch: header.epoch,
            header: Some(*header),
        })
    }

    /// A segment without a header: torn with its first flush, or damaged later.
    fn header_was_damaged(
        &mut self,
        scanner: &mut Scanner<'_>,
        next: &Next,
        must_exist: bool,
    ) -> Result<bool, IoError> {
        let start = self.shape.segment_start(next.sequence);
        let survey = self.survey_from(scanner, start, next)?;
        if !must_exist && survey.evidence <= start {
            self.report.cut_frames += survey.frames;
            self.report.cut_bytes += survey.end.saturating_sub(start);
            self.report.notes.push(format!(
                "segment {} has frames but no header, and nothing tells that they were acknowledged: they were cut",
                next.sequence
            ));
            return Ok(false);
        }
        self.damaged(Damage {
            lsn: start,
            len: self.shape.block,
            device_offset: self.shape.device_offset(next.physical),
            segment: next.sequence,
            what: "segment header does not check".to_owned(),
        });
        Ok(true)
    }

    /// Segment `sequence`, which follows the one at `before` and frames of `epoch`; with `must_exist` it is looked for
    /// everywhere.
    pub(super) fn find_segment(
        &self,
        sequence: u64,
        before: Option<u32>,
        epoch: u64,
        must_exist: bool,
    ) -> Result<Option<Next>, IoError> {
        if let Some(entry) = self.table.get(sequence).map(|segment| segment.entry) {
            let header = self.header_at(entry.physical)?.filter(|header| header.sequence == sequence);
            return Ok(Some(Next { sequence, physical: entry.physical, epoch: entry.epoch, header }));
        }
        let hint = match before {
            Some(before) => self.header_at(before)?.and_then(|header| header.next_physical),
            None => None,
        };
        let hint = hint.filter(|place| *place < self.shape.segments);
        let told = self.headers.get(&sequence).map(|header| header.physical);
        let likely: Vec<u32> = hint.into_iter().chain(self.table.next_free()).chain(told).collect();
        // It lay where its forerunner says. If something later is or was there by now, it was let go: nobody need look for it.
        let gone = hint.is_some_and(|place| self.freed.holds(place, sequence, epoch));
        // A segment that was opened when no other was free does not say which one follows.
        let everywhere = if must_exist || hint.is_none() { 0..self.shape.segments } else { 0..0 };
        let live: HashSet<u32> = self.table.live().map(|entry| entry.physical).collect();
        let mut places = likely.clone();
        places.extend(everywhere.filter(|physical| !likely.contains(physical)));
        places.retain(|physical| !live.contains(physical));
        // Of two that say so the younger is it.
        let mut found: Option<SegmentHeader> = None;
        for physical in &places {
            let header = self.header_at(*physical)?;
            let header = header.filter(|header| {
                header.sequence == sequence && (epoch..=self.superblock.epoch).contains(&header.epoch)
            });
            let header = header.filter(|header| !self.freed.holds(*physical, sequence, header.epoch));
            if let Some(header) = header
                && found.as_ref().is_none_or(|have| header.epoch > have.epoch)
            {
                found = Some(header);
            }
        }
        if let Some(header) = found {
            return Ok(Some(Next { sequence, physical: header.physical, epoch: header.epoch, header: Some(header) }));
        }
        if must_exist && gone {
            return Ok(None);
        }
        // What hit the header may have hit the first frame too. Nobody reads a whole segment where perhaps there is none.
        let first = self.shape.first_frame(sequence);
        let near = first + frame_len(self.shape.max_record) as u64 + self.shape.block;
        places.dedup();
        for physical in places {
            let is_likely = likely.contains(&physical);
            let whole = must_exist && (is_likely || self.may_hide(physical)?) && self.searches.one_more();
            if !whole && !is_likely {
                continue;
            }
            let mut scanner = self.scanner();
            scanner.enter(first, physical, epoch);
            let until = if whole { self.shape.segment_end(first) } else { near };
            let is_there = scanner.resync_within(first, until)?.is_some();
            if is_there && !self.freed.holds(physical, sequence, scanner.epoch()) {
                return Ok(Some(Next { sequence, physical, epoch: scanner.epoch(), header: None }));
            }
            if whole && !scanner.saw_heads() {
                self.searches.found_empty(physical);
            }
        }
        Ok(None)
    }

    /// A segment may lie at `physical` that no header tells of.
    fn may_hide(&self, physical: u32) -> Result<bool, IoError> {
        Ok(!self.searches.was_empty(physical) && self.header_at(physical)?.is_none())
    }

    /// The log ended at `place`, and the next mount began behind it: on the next block with `tail=pad`, or in the next
    /// segment for want of room. Its EPOC frame names that end. The scanner goes there.
    pub(super) fn continues_behind_gap(&mut self, scanner: &mut Scanner<'_>, place: Lsn) -> Result<bool, IoError> {
        let next = self.shape.block_up(place);
        let epoch = scanner.epoch();
        if next < scanner.segment_end() {
            let sequence = self.shape.sequence(place);
            let here = Next { sequence, physical: self.table.physical(sequence).unwrap_or(0), epoch, header: None };
            let begins = next > place && self.mount_begins(scanner.bytes(next, EPOCH_FRAME)?, next, place, here)?;
            if begins {
                scanner.go_to(next);
            }
            return Ok(begins);
        }
        let sequence = self.shape.sequence(place);
        let before = self.table.physical(sequence);
        let Some(next) = self.find_segment(sequence + 1, before, epoch, false)? else {
            return Ok(false);
        };
        let first = self.shape.first_frame(sequence + 1);
        let mut ahead = self.scanner();
        // It will not be entered without a header, unless something tells that it was stable: then the log ends here.
        let start = self.shape.segment_start(sequence + 1);
        if next.header.is_none() && self.survey_from(&mut ahead, start, &next)?.evidence <= start {
            return Ok(false);
        }
        ahead.enter(first, next.physical, next.epoch);
        let begins = self.mount_begins(ahead.bytes(first, EPOCH_FRAME)?, first, place, next)?;
        if begins {
            scanner.go_to(scanner.segment_end());
        }
        Ok(begins)
    }

    /// An EPOC frame of `epoch` or later at `lsn` says that the log was cut at `place`.
    fn mount_begins(&self, bytes: &[u8], lsn: Lsn, place: Lsn, next: Next) -> Result<bool, IoError> {
        let known = |record: &EpochRecord| {
            record.cut_lsn == place && (next.epoch..=self.superblock.epoch).contains(&record.epoch)
        };
        let uuid = &self.superblock.uuid;
        if frame::decode_epoch(uuid, lsn, bytes).is_ok_and(|(_, record)| known(&record)) {
            return Ok(true);
        }
        // A frame in which one bit is wrong may be one that a power failure tore in its last byte: then nothing tells
        // that it was ever stable.
        let Some(record) = mount_in(uuid, lsn, bytes).filter(known) else { return Ok(false) };
        let next = Next { epoch: record.epoch, ..next };
        Ok(self.survey_from(&mut self.scanner(), place, &next)?.evidence > place)
    }

    pub(super) fn scanner(&self) -> Scanner<'_> {
        Scanner::new(self.io, self.shape, self.superblock.uuid, self.superblock.epoch, false)
    }

    pub(super) fn physical_before(&self, sequence: u64) -> Option<u32> {
        self.table.physical(sequence.saturating_sub(1))
    }

    /// A header is read once: else a store that is made so would have all of them read for each of its segments.
    fn header_at(&self, physical: u32) -> Result<Option<SegmentHeader>, IoError> {
        if let Some(header) = self.seen.borrow().get(&physical) {
            return Ok(*header);
        }
        let header = read_segment_header(self.io, &self.shape, &self.superblock.uuid, physical)?;
        self.seen.borrow_mut().insert(physical, header);
        Ok(header)
    }
}
