//! Behind a place where no frame checks: what was there, and where the next frame is.
//!
//! A payload may hold bytes that would pass for a frame where they lie. So a broken frame is measured before anything
//! is searched: by what its header was before one bit of it changed, or by its own word, if a frame follows there.

use super::scan::Scanner;
use super::walk::head_of;
use crate::format::frame::{EPOCH_FRAME, EPOCH_PAYLOAD, decode_epoch, mend, mend_epoch};
use crate::format::{EpochRecord, FRAME_HEADER, FrameKind, FrameSeed, Lsn, SHORT_FRAME, frame_len};
use crate::io::IoError;

/// A frame that does not check any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Was {
    /// What it was.
    pub kind: FrameKind,
    /// Log it belonged to.
    pub log_id: u32,
    /// Logical offset of its payload.
    pub offset: u64,
    /// MARK and PADD: their value; others: length of the payload.
    pub value: u64,
    /// Bytes it took.
    pub total: u64,
    /// The record of an EPOC frame.
    pub record: Option<EpochRecord>,
}

/// What lies behind a broken place.
#[derive(Debug, Clone, Default)]
pub struct Behind {
    /// The next place where a frame checks, in the same segment.
    pub next: Option<Lsn>,
    /// The broken frame: proved if one bit of its header is all that has changed, else what it says of itself if a frame
    /// follows where it says.
    pub was: Option<Was>,
}

impl Scanner<'_> {
    /// What begins at `lsn`, if it is a mount later than the present one; its frame may be damaged in one bit. Changes
    /// nothing.
    pub fn mount_at(&mut self, lsn: Lsn) -> Result<Option<EpochRecord>, IoError> {
        let (uuid, known) = (self.uuid, self.epoch() + 1..=self.max_epoch);
        let record = mount_in(&uuid, lsn, self.bytes(lsn, EPOCH_FRAME as u64)?);
        Ok(record.filter(|record| known.contains(&record.epoch)))
    }

    /// What was at `place`, and where the log goes on behind it; no frame that begins there reaches beyond `most`. The
    /// scanner's epoch is then that of the frame found; its own place does not change.
    pub fn behind(&mut self, place: Lsn, most: Lsn) -> Result<Behind, IoError> {
        let was = self.was(place, most)?;
        let end = self.segment_end();
        if let Some(was) = was {
            if let Some(record) = was.record.as_ref().filter(|record| record.epoch > self.epoch()) {
                self.seed = FrameSeed::new(&self.uuid, record.epoch);
            }
            let next = self.resync(place.saturating_add(was.total).min(end))?;
            return Ok(Behind { next, was: Some(was) });
        }
        let said = head_of(self.bytes(place, FRAME_HEADER as u64)?);
        let claimed =
            said.map(|said| place.saturating_add(said.total)).filter(|claimed| *claimed < end && *claimed <= most);
        // A changed length rarely leads to a frame, and never to one that checks there by chance.
        if let Some(claimed) = claimed
            && self.checks_at(claimed)?
        {
            return Ok(Behind { next: Some(claimed), was: said.as_ref().map(what) });
        }
        Ok(Behind { next: self.resync(place + SHORT_FRAME as u64)?, was: None })
    }

    fn was(&mut self, place: Lsn, most: Lsn) -> Result<Option<Was>, IoError> {
        let Some(left) = self.mends.checked_sub(1) else { return Ok(None) };
        self.mends = left;
        let (uuid, known) = (self.uuid, self.epoch()..=self.max_epoch);
        if let Some(record) = mend_epoch(&uuid, place, self.bytes(place, EPOCH_FRAME as u64)?) {
            return Ok(known.contains(&record.epoch).then_some(Was {
                kind: FrameKind::Epoch,
                log_id: 0,
                offset: 0,
                value: EPOCH_PAYLOAD as u64,
                total: EPOCH_FRAME as u64,
                record: Some(record),
            }));
        }
        let (seed, max, limit) = (self.seed, self.shape.max_record, self.segment_end().min(most) - place);
        let mended = mend(&seed, place, self.bytes(place, frame_len(max) as u64)?, max);
        Ok(mended.filter(|frame| frame.total <= limit).map(|frame| what(&frame)))
    }
}

/// The record of the mount that begins at `lsn`, where `bytes` lie, also if one bit of its frame has changed.
pub fn mount_in(uuid: &[u8; 16], lsn: Lsn, bytes: &[u8]) -> Option<EpochRecord> {
    let checked = decode_epoch(uuid, lsn, bytes).ok().map(|(_, record)| record);
    checked.or_else(|| mend_epoch(uuid, lsn, bytes))
}

fn what(frame: &crate::format::Frame<'_>) -> Was {
    Was {
        kind: frame.kind,
        log_id: frame.log_id,
        offset: frame.offset,
        value: frame.value,
        total: frame.total,
        record: None,
    }
}
