//! Walking the frames that a read has brought from the device: checking them, serving the read, passing over damage.

use std::ops::Range;
use std::sync::Arc;

use super::LogStructuredStore;
use super::behind::mount_in;
use super::chunks::Chunk;
use super::mounts::Mounts;
use super::placing::{FIRST_CLAIM, TRAILER};
use super::read::{Job, Next};
use super::types::StoreError;
use crate::format::frame::{EPOCH_FRAME, decode, decode_epoch, infer_epoch, mend, mend_epoch, peek};
use crate::format::{FRAME_HEADER, Frame, FrameError, FrameSeed, Lsn, SHORT_FRAME, frame_len};
use crate::io::Buffer;

/// Epochs tried for a frame whose mount is not known.
const EPOCHS_TRIED: usize = 1024;
/// Mounts that are tried on a broken frame, to see what it was.
const EPOCHS_MENDED: usize = 64;
/// Places behind damage that are tried though their frame reaches beyond what was read: bounds what a hostile payload
/// in a damaged place can cost.
const MAX_GUESSES: u32 = 32;

impl LogStructuredStore {
    /// Check the frames in `buffer`, which starts at `base`, from the job's LSN up to `until`; keep them as a chunk and
    /// serve the job from it.
    pub(super) fn check_chunk(&self, job: &mut Job, buffer: Buffer, base: Lsn, until: Lsn) -> Next {
        let segment_end = self.shape.segment_end(base);
        let mut mounts = self.mounts_of(job.lsn, job.seed);
        let bytes = buffer.as_slice().get(..(until.max(job.lsn) - base) as usize).unwrap_or(&[]);
        let from = |lsn: Lsn| bytes.get((lsn - base) as usize..).unwrap_or(&[]);
        let (lsn, failure) = mounts.frames(job.lsn..until, from(job.lsn), segment_end);
        if lsn > job.lsn {
            let chunk = self.keep(job.lsn..lsn, base, until, buffer, mounts.seed);
            return self.take_from_chunk(job, &chunk);
        }
        if let Some(next) = self.over_gap(job, &mounts, &from, until) {
            return next;
        }
        if let FrameError::NeedMore(more) = failure
            && more as u64 > job.need
            && lsn + more as u64 <= segment_end
        {
            job.need = more as u64;
            return Next::Again;
        }
        self.pass_over(job, &mut mounts, &failure, &from, until)
    }

    /// Keep what was read ahead from `lsn` up to `until`, as far as it checks: where that ends. A frame that reaches beyond
    /// all of it is kept for what comes behind.
    pub(super) fn keep_ahead(
        &self,
        lsn: Lsn,
        seed: Option<FrameSeed>,
        buffer: Buffer,
        base: Lsn,
        until: Lsn,
    ) -> Option<Lsn> {
        let mut mounts = self.mounts_of(lsn, seed);
        let bytes = buffer.as_slice().get((lsn - base) as usize..(until - base) as usize).unwrap_or(&[]);
        let (end, failure) = mounts.frames(lsn..until, bytes, self.shape.segment_end(base));
        if lsn >= until || end == lsn && !matches!(failure, FrameError::NeedMore(_)) {
            return None;
        }
        self.keep(lsn..end, base, until, buffer, mounts.seed);
        Some(end)
    }

    /// Keep the frames at `lsns`, which were checked, of what was read from `base` up to `until`.
    fn keep(&self, lsns: Range<Lsn>, base: Lsn, until: Lsn, buffer: Buffer, seed: Option<FrameSeed>) -> Chunk {
        // Padding that reaches beyond what was read, to the segment's end, is not worth a read.
        let all = lsns.end == self.shape.segment_end(base);
        let until = if all { lsns.end } else { self.shape.block_down(until.max(lsns.start)) };
        let chunk = Chunk { lsns, base, until, buffer: Arc::new(buffer), seed };
        self.chunks.put(chunk.clone());
        chunk
    }

    /// No frame checks at the job's LSN because the log ended there once, and the next mount began behind it, on the
    /// next block with `tail=pad`. (In the next segment, for want of room, nothing of the same range can lie.)
    fn over_gap<'b>(
        &self,
        job: &mut Job,
        mounts: &Epochs<'_>,
        from: &impl Fn(Lsn) -> &'b [u8],
        until: Lsn,
    ) -> Option<Next> {
        let (lsn, segment_end) = (job.lsn, self.shape.segment_end(job.lsn));
        let begins = self.shape.block_up(lsn);
        if begins >= segment_end || segment_end - lsn < FIRST_CLAIM as u64 + TRAILER {
            return None;
        }
        let wanted = begins + FIRST_CLAIM as u64 - lsn;
        if lsn + wanted > until && job.need < wanted && lsn + wanted <= self.flusher.commit.written() {
            job.need = wanted;
            return Some(Next::Again);
        }
        if begins > lsn && mounts.starts_at(begins, from(begins)).is_some_and(|cut| cut == lsn) {
            job.lsn = begins;
            return Some(Next::Again);
        }
        None
    }

    /// No frame checks at the job's LSN. What was collected is given; else go on at the next place where one does.
    fn pass_over<'b>(
        &self,
        job: &mut Job,
        mounts: &mut Epochs<'_>,
        why: &FrameError,
        from: &impl Fn(Lsn) -> &'b [u8],
        until: Lsn,
    ) -> Next {
        if !job.out.is_empty() {
            return Next::Finish(Ok(()));
        }
        if self.has_moved(job) {
            return Next::Again;
        }
        // Still damaged: what lies behind it has been looked through before.
        let log = self.catalog.lock(job.log);
        if log.is_some_and(|log| log.lost.as_ref().is_some_and(|lost| lost.contains(&job.offset))) {
            return Next::Finish(Err(StoreError::Io(job.lost("its frame is damaged"))));
        }
        if job.damage.is_none() {
            let text = format!("damage at LSN {:#x} ({why})", job.lsn);
            log::error!("{}: log {}: {text}", self.io.describe(), job.log);
            job.damage = Some(text);
        }
        let segment_end = self.shape.segment_end(job.lsn);
        let line = SHORT_FRAME as u64;
        // All of the broken frame has to be there, to see where it ends.
        let whole = (frame_len(self.shape.max_record) as u64 + line).min(segment_end - job.lsn);
        if (from(job.lsn).len() as u64) < whole && job.need < whole {
            job.need = whole;
            return Next::Again;
        }
        job.need = 0;
        let mut lsn = mounts.behind(job.lsn, from, segment_end);
        while lsn + line <= until {
            let bytes = from(lsn);
            // Between the end of a mount and the block on which the next began lies what a crash left.
            let block = self.shape.block_up(lsn + 1);
            let cut = mounts.starts_at(block, from(block)).is_some_and(|cut| cut <= lsn);
            if !cut && peek(bytes).is_some_and(|head| lsn + head.total <= segment_end) {
                match mounts.check(lsn, bytes) {
                    Ok(_) => break,
                    Err(FrameError::NeedMore(_)) if job.guesses < MAX_GUESSES => {
                        job.guesses += 1;
                        break;
                    }
                    Err(_) => {}
                }
            }
            lsn += line;
        }
        job.seed = mounts.seed;
        job.lsn = lsn;
        Next::Again
    }

    /// Serve the job from checked frames.
    pub(super) fn take_from_chunk(&self, job: &mut Job, chunk: &Chunk) -> Next {
        let mut last = None;
        while job.offset < job.end.min(job.range_end) && chunk.lsns.contains(&job.lsn) {
            let bytes = chunk.from(job.lsn);
            let Some(frame) = head_of(bytes) else {
                return Next::Finish(Err(StoreError::Io(job.lost("its frame can't be read"))));
            };
            // Of another range are those that lie behind this one's end.
            if frame.kind.is_record() && frame.log_id == job.log && frame.offset < job.range_end {
                if frame.offset > job.offset {
                    let lost = job.lost("it was damaged");
                    if let Some(mut log) = self.catalog.lock(job.log) {
                        if job.unreadable == 0 {
                            log.lost = Some(job.offset..frame.offset);
                        }
                        log.remember(frame.offset, job.lsn, frame.total);
                    }
                    return Next::Finish(if job.out.is_empty() { Err(StoreError::Io(lost)) } else { Ok(()) });
                }
                let payload = bytes.get(FRAME_HEADER..FRAME_HEADER + frame.value as usize).map_or(0, <[u8]>::len);
                let skip = (job.offset - frame.offset) as usize;
                let take = payload.saturating_sub(skip).min((job.end - job.offset) as usize);
                if take > 0 {
                    let start = (job.lsn - chunk.base) as usize + FRAME_HEADER + skip;
                    let lender = job.lender(self.chunks.lender(), take);
                    job.out.take(&chunk.buffer, start..start + take, lender);
                    job.offset += take as u64;
                }
                last = Some((frame.offset, job.lsn, frame.total));
            }
            job.lsn += frame.total;
        }
        job.seed = if job.lsn == chunk.lsns.end { chunk.seed } else { None };
        job.need = 0;
        if let Some((offset, lsn, total)) = last
            && let Some(mut log) = self.catalog.lock(job.log)
        {
            log.remember(offset, lsn, total);
        }
        if job.streams {
            self.chunks.is_done_before(chunk.lsns.start);
        }
        self.read_ahead(job);
        Next::Again
    }

    fn mounts_of(&self, lsn: Lsn, seed: Option<FrameSeed>) -> Epochs<'_> {
        let sequence = self.shape.sequence(lsn);
        let oldest = self.flusher.space().table.get(sequence).map_or(0, |segment| segment.entry.epoch);
        let uuid = self.superblock.uuid;
        Epochs { known: &self.mounts, uuid, oldest, newest: self.seed.epoch(), seed, max_record: self.shape.max_record }
    }
}

/// The mounts that may have written the frames of a segment, and the one that wrote the last frame that checked.
struct Epochs<'a> {
    known: &'a Mounts,
    uuid: [u8; 16],
    oldest: u64,
    newest: u64,
    seed: Option<FrameSeed>,
    max_record: usize,
}

impl Epochs<'_> {
    /// Check the frames in `bytes`, which lie at `lsns`: the first place where none checks, and why not.
    fn frames(&mut self, lsns: Range<Lsn>, bytes: &[u8], segment_end: Lsn) -> (Lsn, FrameError) {
        let mut lsn = lsns.start;
        loop {
            if lsn >= lsns.end {
                return (lsn, FrameError::NeedMore(FRAME_HEADER));
            }
            match self.check(lsn, bytes.get((lsn - lsns.start) as usize..).unwrap_or(&[])) {
                Ok(total) => lsn = (lsn + total).min(segment_end),
                Err(error) => return (lsn, error),
            }
        }
    }

    /// Length of the frame at `lsn`, if it checks.
    fn check(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<u64, FrameError> {
        if let Some(epoch) = self.known.epoch_at(lsn) {
            let seed = self.seed.filter(|seed| seed.epoch() == epoch);
            let seed = seed.unwrap_or_else(|| FrameSeed::new(&self.uuid, epoch));
            self.seed = Some(seed);
            return decode(&seed, lsn, bytes, self.max_record).map(|frame| frame.total);
        }
        let mut error = FrameError::End;
        if let Some(seed) = self.seed {
            match decode(&seed, lsn, bytes, self.max_record) {
                Ok(frame) => return Ok(frame.total),
                Err(why @ (FrameError::End | FrameError::NeedMore(_))) => return Err(why),
                Err(why) => error = why,
            }
        }
        if let Ok((frame, record)) = decode_epoch(&self.uuid, lsn, bytes)
            && self.epochs().contains(&record.epoch)
        {
            self.seed = Some(FrameSeed::new(&self.uuid, record.epoch));
            return Ok(frame.total);
        }
        let Some(head) = peek(bytes) else {
            return decode(&FrameSeed::new(&self.uuid, 0), lsn, bytes, self.max_record).map(|frame| frame.total);
        };
        let epochs: Box<dyn Iterator<Item = u64>> = match head.epoch8 {
            Some(low) => Box::new(infer_epoch(self.oldest, self.newest, low).take(EPOCHS_TRIED)),
            None => Box::new(self.epochs().rev().take(EPOCHS_TRIED)),
        };
        for epoch in epochs {
            let seed = FrameSeed::new(&self.uuid, epoch);
            match decode(&seed, lsn, bytes, self.max_record) {
                Ok(frame) => {
                    self.seed = Some(seed);
                    return Ok(frame.total);
                }
                Err(why @ FrameError::NeedMore(_)) => return Err(why),
                Err(why) => error = why,
            }
        }
        Err(error)
    }

    fn epochs(&self) -> std::ops::RangeInclusive<u64> {
        self.oldest..=self.newest
    }

    /// Where to look for the next frame behind the broken one at `lsn`: what lies inside it is none, whatever it looks
    /// like.
    fn behind<'b>(&mut self, lsn: Lsn, from: &impl Fn(Lsn) -> &'b [u8], segment_end: Lsn) -> Lsn {
        let bytes = from(lsn);
        let line = lsn + SHORT_FRAME as u64;
        let end = self.known.end_of(lsn, segment_end);
        if let Some(record) = mend_epoch(&self.uuid, lsn, bytes).filter(|record| self.epochs().contains(&record.epoch))
        {
            self.seed = Some(FrameSeed::new(&self.uuid, record.epoch));
            return lsn + EPOCH_FRAME as u64;
        }
        let newest_first = self.epochs().rev().take(EPOCHS_MENDED).map(|epoch| FrameSeed::new(&self.uuid, epoch));
        let mut seeds = self.seed.into_iter().chain(newest_first);
        let mended = seeds.find_map(|seed| Some((mend(&seed, lsn, bytes, self.max_record)?.total, seed)));
        if let Some((total, seed)) = mended.filter(|(total, _)| lsn + total <= end) {
            self.seed = Some(seed);
            return lsn + total;
        }
        let claimed = peek(bytes).map(|head| lsn.saturating_add(head.total));
        let claimed = claimed.filter(|claimed| *claimed < segment_end && *claimed <= end);
        claimed.filter(|claimed| self.check(*claimed, from(*claimed)).is_ok()).unwrap_or(line)
    }

    /// If a mount begins at `lsn`: where the log before it ended.
    fn starts_at(&self, lsn: Lsn, bytes: &[u8]) -> Option<Lsn> {
        mount_in(&self.uuid, lsn, bytes).map(|record| record.cut_lsn)
    }
}

/// What the header of a frame says that was checked before; the payload is left alone.
pub(super) fn head_of(bytes: &[u8]) -> Option<Frame<'static>> {
    let head = peek(bytes)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.first_chunk()).map(|b| u64::from_le_bytes(*b));
    let (kind, total) = (head.kind, head.total);
    if head.epoch8.is_none() {
        return Some(Frame { kind, log_id: 0, offset: 0, time_ns: 0, payload: &[], value: long(8)?, total });
    }
    let len = u64::from(word(8)? & 0x00ff_ffff);
    Some(Frame { kind, log_id: word(12)?, offset: long(16)?, time_ns: long(24)?, payload: &[], value: len, total })
}
