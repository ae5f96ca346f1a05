//! Behind a place where no frame checks: what was there, and where the next frame is.
//!
//! A payload may hold bytes that would pass for a frame where they lie. So a broken frame is measured before anything
//! is searched: by what its header was before one bit of it changed, or by its own word, if a frame follows there.

use super::scan::Scanner;
use crate::format::frame::{decode_epoch, mend, peek};
use crate::format::{EpochRecord, FRAME_HEADER, FrameKind, FrameSeed, Lsn, SHORT_FRAME, frame, frame_len};
use crate::io::IoError;

/// Bytes of a whole EPOC frame.
const EPOCH_FRAME: u64 = (FRAME_HEADER + frame::EPOCH_PAYLOAD) as u64;

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
    /// The broken frame, if one bit of its header is all that has changed.
    pub was: Option<Was>,
}

impl Scanner<'_> {
    /// What begins at `lsn`, if it is a mount later than the present one; its frame may be damaged in one bit of its
    /// header. Changes nothing.
    pub fn mount_at(&mut self, lsn: Lsn) -> Result<Option<EpochRecord>, IoError> {
        let (uuid, current, max) = (self.uuid, self.epoch(), self.max_epoch);
        let checked = decode_epoch(&uuid, lsn, self.bytes(lsn, EPOCH_FRAME)?).ok().map(|(_, record)| record);
        let record = match checked {
            Some(record) => Some(record),
            None => self.mended_mount(lsn)?.and_then(|was| was.record),
        };
        Ok(record.filter(|record| record.epoch > current && record.epoch <= max))
    }

    /// An EPOC frame that lacks one bit of its header: its payload tells its epoch.
    fn mended_mount(&mut self, lsn: Lsn) -> Result<Option<Was>, IoError> {
        let uuid = self.uuid;
        let bytes = self.bytes(lsn, EPOCH_FRAME)?;
        let record = bytes.get(FRAME_HEADER..).and_then(|payload| EpochRecord::decode(payload).ok());
        let Some(record) = record else { return Ok(None) };
        let mended = mend(&FrameSeed::new(&uuid, record.epoch), lsn, bytes, frame::EPOCH_PAYLOAD);
        Ok(mended.filter(|frame| frame.kind == FrameKind::Epoch).map(|frame| was(&frame)))
    }

    /// What was at `place`, and where the log goes on behind it. The scanner's epoch is then that of the frame found;
    /// its own place does not change.
    pub fn behind(&mut self, place: Lsn) -> Result<Behind, IoError> {
        let was = self.was(place)?;
        let end = self.segment_end();
        if let Some(was) = was {
            if let Some(record) = was.record.as_ref().filter(|record| record.epoch > self.epoch()) {
                self.seed = FrameSeed::new(&self.uuid, record.epoch);
            }
            let next = self.resync(place.saturating_add(was.total).min(end))?;
            return Ok(Behind { next, was: Some(was) });
        }
        let claimed = peek(self.bytes(place, FRAME_HEADER as u64)?).map(|head| place.saturating_add(head.total));
        let claimed = claimed.filter(|claimed| *claimed < end);
        let mut budget = self.shape.segment_size;
        // A changed length rarely leads to a frame, and never to one that checks there by chance.
        if let Some(claimed) = claimed
            && self.resync_at(claimed, &mut budget)?
        {
            return Ok(Behind { next: Some(claimed), was: None });
        }
        Ok(Behind { next: self.resync(place + SHORT_FRAME as u64)?, was: None })
    }

    fn was(&mut self, place: Lsn) -> Result<Option<Was>, IoError> {
        if let Some(mount) = self.mended_mount(place)? {
            let known = self.epoch()..=self.max_epoch;
            return Ok(
                Some(mount).filter(|was| was.record.as_ref().is_some_and(|record| known.contains(&record.epoch)))
            );
        }
        let (seed, max, limit) = (self.seed, self.shape.max_record, self.segment_end() - place);
        let mended = mend(&seed, place, self.bytes(place, frame_len(max) as u64)?, max);
        Ok(mended.filter(|frame| frame.total <= limit).map(|frame| was(&frame)))
    }
}

fn was(frame: &crate::format::Frame<'_>) -> Was {
    Was {
        kind: frame.kind,
        log_id: frame.log_id,
        offset: frame.offset,
        value: frame.value,
        total: frame.total,
        record: if frame.kind == FrameKind::Epoch { EpochRecord::decode(frame.payload).ok() } else { None },
    }
}
