//! No frame checks at some place: torn or damaged? What lies behind it is the evidence.

use super::Recovery;
use super::next::Next;
use crate::format::{FRAME_HEADER, FrameError, FrameKind, Lsn, SHORT_FRAME};
use crate::io::IoError;
use crate::store::replay::stable_told_by;
use crate::store::scan::{Scanner, Step};
use crate::store::types::Damage;
use crate::store::walk::head_of;

impl Recovery<'_> {
    /// No frame at `place`. `Some`: it is damage, go on there. `None`: the log ends here.
    pub(super) fn judge(
        &mut self,
        scanner: &mut Scanner<'_>,
        place: Lsn,
        error: &FrameError,
    ) -> Result<Option<Lsn>, IoError> {
        let sequence = self.shape.sequence(place);
        let physical = self.table.physical(sequence).unwrap_or(0);
        let epoch = scanner.epoch();
        let segment_end = scanner.segment_end();
        // Look at everything that can still be read behind the place, for a mark that tells of it.
        let mut survey = Survey::new(self.stable, place);
        // What lies inside the broken frame is no frame, whatever it looks like.
        let behind = scanner.behind(place, segment_end)?;
        survey.segment(scanner, place, behind.next.unwrap_or(segment_end))?;
        let first = survey.first;
        let found_epoch = scanner.epoch();
        scanner.enter(place, physical, epoch);
        let mut before = (sequence, physical, found_epoch);
        while survey.evidence <= place {
            let (sequence, physical, epoch) = before;
            let Some(next) = self.find_segment(sequence + 1, Some(physical), epoch, false)? else { break };
            survey.next_segment(self, scanner, place, &next)?;
            before = (next.sequence, next.physical, scanner.epoch());
        }
        let Survey { evidence, frames: cut_frames, end: last_end, .. } = survey;
        scanner.enter(place, physical, epoch);
        if evidence <= place {
            if cut_frames == 0 && behind.was.is_none() && self.is_left_over(scanner, place, error)? {
                self.report.remarks.push(format!(
                    "the bytes behind the end of the log, LSN {place:#x}, are no frame: an earlier lap's, or those of a \
                     last flush that was damaged; nothing tells which"
                ));
            } else if !matches!(error, FrameError::End) || cut_frames > 0 {
                self.report.cut_frames += cut_frames;
                self.report.cut_bytes += (last_end - place).max(SHORT_FRAME as u64);
                self.report.notes.push(format!(
                    "the tail behind LSN {place:#x} is not whole ({error}) and nothing tells that it was acknowledged: \
                     it was cut; only the last flush before a crash can't be told from damage"
                ));
            }
            return Ok(None);
        }
        self.stable = self.stable.max(evidence);
        let follows = first.is_none()
            && self.find_segment(sequence + 1, Some(physical), epoch, evidence > segment_end)?.is_some();
        let next = match first {
            Some((lsn, found_epoch)) => {
                scanner.enter(lsn, physical, found_epoch);
                lsn
            }
            None if follows => segment_end,
            None => evidence.min(segment_end),
        };
        self.damaged(Damage {
            lsn: place,
            len: next - place,
            device_offset: self.shape.device_offset(physical) + self.shape.within(place),
            segment: sequence,
            what: error.to_string(),
        });
        if let Some(was) = behind.was.as_ref().filter(|was| was.kind == FrameKind::Data) {
            // The log keeps its place: what is appended from now on must not take it.
            self.replay.lost(was.log_id, was.offset, was.value, place + was.total);
        }
        if first.is_some() || follows {
            return Ok(Some(next));
        }
        // Nothing readable behind it: the log goes on behind what was stable.
        self.report.end_lsn = next;
        Ok(None)
    }

    /// What lies where a flush would begin can't be its first frame as it was written: it is no frame, or it tells that it
    /// is older than the end of the log. So it is on any store that was written around once, where the last flush ended
    /// on a block.
    fn is_left_over(&self, scanner: &mut Scanner<'_>, place: Lsn, error: &FrameError) -> Result<bool, IoError> {
        if self.shape.block_down(place) != place {
            return Ok(false);
        }
        if matches!(error, FrameError::UnknownKind(_) | FrameError::Epoch(_)) {
            return Ok(true);
        }
        let head = head_of(scanner.bytes(place, FRAME_HEADER as u64)?);
        Ok(head.is_some_and(|head| match head.kind {
            FrameKind::Data => match self.replay.logs.get(&head.log_id) {
                Some(log) => head.offset < log.entry.size,
                None => head.log_id < self.replay.next_id,
            },
            FrameKind::Mark => head.value < self.stable,
            _ => false,
        }))
    }

    /// What can be read of a segment that has no header, and of those behind it, until something tells that `place` was
    /// stable.
    pub(super) fn survey_from(&self, scanner: &mut Scanner<'_>, place: Lsn, next: &Next) -> Result<Survey, IoError> {
        let mut survey = Survey::new(self.stable, place);
        survey.next_segment(self, scanner, place, next)?;
        let mut before = (next.sequence, next.physical, scanner.epoch());
        while survey.evidence <= place {
            let (sequence, physical, epoch) = before;
            let Some(next) = self.find_segment(sequence + 1, Some(physical), epoch, false)? else { break };
            survey.next_segment(self, scanner, place, &next)?;
            before = (next.sequence, next.physical, scanner.epoch());
        }
        Ok(survey)
    }
}

/// What can still be read behind a place where no frame checks.
pub(super) struct Survey {
    /// Highest LSN that anything tells to have been stable.
    pub(super) evidence: Lsn,
    /// First frame found, and its epoch.
    first: Option<(Lsn, u64)>,
    pub(super) frames: u64,
    /// End of the last frame found.
    pub(super) end: Lsn,
}

impl Survey {
    fn new(evidence: Lsn, place: Lsn) -> Self {
        Self { evidence, first: None, frames: 0, end: place }
    }

    fn next_segment(
        &mut self,
        recovery: &Recovery<'_>,
        scanner: &mut Scanner<'_>,
        place: Lsn,
        next: &Next,
    ) -> Result<(), IoError> {
        if let Some(header) = &next.header {
            self.evidence = self.evidence.max(header.stable_lsn);
        }
        let start = recovery.shape.first_frame(next.sequence);
        scanner.enter(start, next.physical, next.epoch);
        self.segment(scanner, place, start)
    }

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
                self.evidence = self.evidence.max(stable_told_by(&found));
            }
            at = scanner.place().max(found_at) + SHORT_FRAME as u64;
        }
        Ok(())
    }
}
