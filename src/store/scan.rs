//! Reading the log frame by frame from the device, one segment at a time, believing nothing that does not check.
//!
//! Used by recovery and by the offline tools. Memory is one window and the largest frame, whatever the segment's size.

use std::ops::Range;

use super::geometry::Shape;
use super::superblocks::out_of_memory;
use crate::format::frame::{decode, decode_epoch, find_tag, infer_epoch, peek};
use crate::format::{EpochRecord, Frame, FrameError, FrameKind, FrameSeed, Lsn, SHORT_FRAME, SegmentHeader};
use crate::io::{Buffer, IoError, QuikIO};

pub use super::behind::Was;

/// Least bytes read at a time.
const WINDOW: u64 = 1 << 20;
/// Checksummed bytes that all searching in a segment may cost, in segments: a hostile payload full of frame headers can't
/// make it quadratic. Beyond it only small frames are tried.
const RESYNC_BUDGET_SEGMENTS: u64 = 8;
/// Broken frames of a segment that are mended, at most: each costs up to some milliseconds.
const MENDS: u32 = 1024;
/// What counts as small then.
const SMALL_FRAME: u64 = 4096;
/// Epochs tried for a frame behind damage: a hostile superblock may say that there were more mounts than can be tried.
const EPOCHS_TRIED: usize = 1024;

/// What stands for a byte that can't be read: no frame begins like this.
pub(super) const UNREADABLE: u8 = 0xff;

/// A frame that checked.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is.
    pub kind: FrameKind,
    /// Where it starts.
    pub lsn: Lsn,
    /// Log it belongs to.
    pub log_id: u32,
    /// Logical offset of the payload.
    pub offset: u64,
    /// When it was accepted.
    pub time_ns: u64,
    /// MARK: stable LSN; PADD: bytes; others: length of the payload.
    pub value: u64,
    /// Bytes it takes.
    pub total: u64,
    /// Epoch of the mount that wrote it.
    pub epoch: u64,
    /// The record in an EPOC frame.
    pub record: Option<EpochRecord>,
    /// Payload of a DATA or META frame, if the scanner keeps payloads.
    pub payload: Vec<u8>,
}

/// What is at the scanner's place.
#[derive(Debug)]
pub enum Step {
    /// A frame; the scanner is behind it now.
    Frame(Found),
    /// The segment is over.
    SegmentEnd,
    /// No frame: the end of the log, a tear or damage.
    Broken(FrameError),
}

/// Reads one segment after the other.
pub struct Scanner<'a> {
    io: &'a QuikIO,
    pub(super) shape: Shape,
    pub(super) uuid: [u8; 16],
    pub(super) seed: FrameSeed,
    pub(super) max_epoch: u64,
    keep_payloads: bool,
    tolerant: bool,
    /// Bytes that may still be checksummed in search of frames, in this segment.
    budget: u64,
    /// Broken frames that may still be mended, in this segment.
    pub(super) mends: u32,
    /// Something in this segment looked like a frame.
    saw_heads: bool,
    place: Lsn,
    segment: Range<Lsn>,
    device_base: u64,
    window: Option<Buffer>,
    have: Range<Lsn>,
}

impl<'a> Scanner<'a> {
    /// A scanner of the store `uuid` whose mounts are numbered up to `max_epoch`.
    pub fn new(io: &'a QuikIO, shape: Shape, uuid: [u8; 16], max_epoch: u64, keep_payloads: bool) -> Self {
        Self {
            io,
            shape,
            uuid,
            seed: FrameSeed::new(&uuid, 0),
            max_epoch,
            keep_payloads,
            tolerant: false,
            budget: 0,
            mends: 0,
            saw_heads: false,
            place: 0,
            segment: 0..0,
            device_base: 0,
            window: None,
            have: 0..0,
        }
    }

    /// Take what the device can't read for damaged, instead of giving up.
    pub fn tolerate_errors(&mut self) {
        self.tolerant = true;
    }

    /// Go to `lsn`, in the segment at `physical`; frames there are of `epoch` until an EPOC frame says else.
    pub fn enter(&mut self, lsn: Lsn, physical: u32, epoch: u64) {
        let start = self.shape.segment_start(self.shape.sequence(lsn));
        if start != self.segment.start || self.device_base != self.shape.device_offset(physical) {
            self.budget = RESYNC_BUDGET_SEGMENTS * self.shape.segment_size;
            self.mends = MENDS;
        }
        self.saw_heads = false;
        self.segment = start..start + self.shape.segment_size;
        self.device_base = self.shape.device_offset(physical);
        self.have = 0..0;
        self.place = lsn;
        self.seed = FrameSeed::new(&self.uuid, epoch);
    }

    /// Where it is.
    pub fn place(&self) -> Lsn {
        self.place
    }

    /// End of the segment it is in.
    pub fn segment_end(&self) -> Lsn {
        self.segment.end
    }

    /// Epoch of the frames here.
    pub fn epoch(&self) -> u64 {
        self.seed.epoch()
    }

    /// A search in this segment met something that looks like a frame, whether it checked or not.
    pub fn saw_heads(&self) -> bool {
        self.saw_heads
    }

    /// Device offset of `lsn` in this segment.
    pub fn device_offset(&self, lsn: Lsn) -> u64 {
        self.device_base + (lsn - self.segment.start)
    }

    /// Frames from here on are of `epoch` or a later one.
    pub fn raise_epoch(&mut self, epoch: u64) {
        if self.epoch() < epoch {
            self.seed = FrameSeed::new(&self.uuid, epoch);
        }
    }

    /// Continue from `lsn` in the same segment.
    pub fn go_to(&mut self, lsn: Lsn) {
        self.place = lsn;
    }

    /// The bytes `[lsn, lsn + len)`, cut at the segment's end.
    pub(super) fn bytes(&mut self, lsn: Lsn, len: u64) -> Result<&[u8], IoError> {
        let end = (lsn + len).min(self.segment.end);
        if lsn < self.have.start || end > self.have.end {
            self.bring(self.shape.block_down(lsn), end)?;
        }
        let at = (lsn - self.have.start) as usize;
        let len = (end - lsn) as usize;
        Ok(self.window.as_ref().and_then(|window| window.as_slice().get(at..at + len)).unwrap_or(&[]))
    }

    /// Have the bytes from the block at `from` to `end`, and up to a window behind what is there already, which is not read
    /// again (but where something behind it can't be read: then the device is asked for each block).
    fn bring(&mut self, from: Lsn, end: Lsn) -> Result<(), IoError> {
        let have = std::mem::replace(&mut self.have, 0..0);
        let missing = if have.contains(&from) { have.end } else { from };
        let until = self.shape.block_up(end.max((missing + WINDOW).min(self.segment.end)));
        let (kept, len) = ((missing - from) as usize, (until - from) as usize);
        let offset = self.device_offset(from);
        // What is kept is the end of what was there.
        let known = (have.end - have.start) as usize;
        let known = known - kept..known;
        let mut buffer = match self.window.take() {
            Some(mut buffer) if buffer.len() >= len => {
                buffer.as_mut_slice().copy_within(known, 0);
                buffer
            }
            old => {
                let mut buffer = self.io.buffer(len).map_err(|_| out_of_memory("read", offset, len))?;
                let known = old.as_ref().and_then(|old| old.as_slice().get(known)).unwrap_or(&[]);
                debug_assert_eq!(known.len(), kept, "a window holds what it has");
                if let Some(to) = buffer.as_mut_slice().get_mut(..known.len()) {
                    to.copy_from_slice(known);
                }
                buffer
            }
        };
        buffer = match self.io.read_into_now(buffer, kept..len, offset + kept as u64) {
            Err(_) if self.tolerant => read_around(self.io, offset, len, self.shape.block as usize)?,
            read => read?,
        };
        (self.window, self.have) = (Some(buffer), from..until);
        Ok(())
    }

    /// What is at its place; a frame is passed over.
    pub fn step(&mut self) -> Result<Step, IoError> {
        if self.place >= self.segment.end {
            return Ok(Step::SegmentEnd);
        }
        match self.frame_at(self.place)? {
            Ok(found) => {
                self.place += found.total;
                Ok(Step::Frame(found))
            }
            Err(error) => Ok(Step::Broken(error)),
        }
    }

    /// The frame at `lsn`, of the present epoch or an EPOC frame of a later one.
    pub fn frame_at(&mut self, lsn: Lsn) -> Result<Result<Found, FrameError>, IoError> {
        let seed = self.seed;
        match self.decode_with(lsn, &seed)? {
            Ok(found) => Ok(Ok(found)),
            Err(FrameError::End) => Ok(Err(FrameError::End)),
            Err(error) => {
                let (uuid, current, max) = (self.uuid, self.epoch(), self.max_epoch);
                let later = decode_epoch(&uuid, lsn, self.bytes(lsn, 64)?)
                    .ok()
                    .filter(|(_, record)| record.epoch > current && record.epoch <= max)
                    .map(|(frame, record)| (Self::found(lsn, &frame, record.epoch, false), record));
                let Some((mut found, record)) = later else { return Ok(Err(error)) };
                found.record = Some(record);
                self.seed = FrameSeed::new(&uuid, record.epoch);
                Ok(Ok(found))
            }
        }
    }

    fn decode_with(&mut self, lsn: Lsn, seed: &FrameSeed) -> Result<Result<Found, FrameError>, IoError> {
        let rest = self.segment.end - lsn;
        let (max, keep) = (self.shape.max_record.max(SMALL_FRAME as usize), self.keep_payloads);
        let mut need = SHORT_FRAME as u64 * 2;
        loop {
            let bytes = self.bytes(lsn, need)?;
            match decode(seed, lsn, bytes, max) {
                Ok(frame) if frame.total > rest => return Ok(Err(FrameError::Length(frame.total))),
                Ok(frame) => {
                    let mut found = Self::found(lsn, &frame, seed.epoch(), keep);
                    if frame.kind == FrameKind::Epoch {
                        found.record = EpochRecord::decode(frame.payload).ok();
                    }
                    return Ok(Ok(found));
                }
                Err(FrameError::NeedMore(more)) if more as u64 > need && more as u64 <= rest => need = more as u64,
                Err(FrameError::NeedMore(more)) => return Ok(Err(FrameError::Length(more as u64))),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn found(lsn: Lsn, frame: &Frame<'_>, epoch: u64, keep_data: bool) -> Found {
        let keep = keep_data || matches!(frame.kind, FrameKind::Meta | FrameKind::Summary);
        Found {
            kind: frame.kind,
            lsn,
            log_id: frame.log_id,
            offset: frame.offset,
            time_ns: frame.time_ns,
            value: frame.value,
            total: frame.total,
            epoch,
            record: None,
            payload: if keep { frame.payload.to_vec() } else { Vec::new() },
        }
    }

    /// The first place from `from` on, in this segment, where a frame of this store checks, of the present epoch or a
    /// later one; the scanner's epoch is then that frame's. Its own place does not change.
    pub fn resync(&mut self, from: Lsn) -> Result<Option<Lsn>, IoError> {
        self.resync_within(from, self.segment.end)
    }

    /// The same, for places in front of `until`.
    pub fn resync_within(&mut self, from: Lsn, until: Lsn) -> Result<Option<Lsn>, IoError> {
        let until = self.segment.end.min(until);
        let mut from = from.next_multiple_of(SHORT_FRAME as u64);
        while let Some(lsn) = self.next_tag(from, until)? {
            if self.checks_at(lsn)? {
                return Ok(Some(lsn));
            }
            from = lsn + SHORT_FRAME as u64;
        }
        Ok(None)
    }

    /// The first place from `lsn` on that begins like a frame, with room for one in front of `until`.
    fn next_tag(&mut self, mut lsn: Lsn, until: Lsn) -> Result<Option<Lsn>, IoError> {
        while lsn + SHORT_FRAME as u64 <= until {
            // All that is there with it.
            self.bytes(lsn, SHORT_FRAME as u64)?;
            let bytes = self.bytes(lsn, until.min(self.have.end) - lsn)?;
            let tried = (bytes.len() - bytes.len() % SHORT_FRAME) as u64;
            if let Some(at) = find_tag(bytes) {
                return Ok(Some(lsn + at as u64));
            }
            lsn += tried;
        }
        Ok(None)
    }

    /// A frame of the present epoch or a later one checks at `lsn`; the scanner's epoch is then that frame's.
    pub fn checks_at(&mut self, lsn: Lsn) -> Result<bool, IoError> {
        let Some(head) = peek(self.bytes(lsn, 2 * SHORT_FRAME as u64)?) else { return Ok(false) };
        self.saw_heads = true;
        if lsn + head.total > self.segment.end {
            return Ok(false);
        }
        let (current, max) = (self.epoch(), self.max_epoch);
        let epochs: Box<dyn Iterator<Item = u64>> = match head.epoch8 {
            Some(low) => Box::new(infer_epoch(current, max, low)),
            None => Box::new(current..=max),
        };
        for (tried, epoch) in epochs.take(EPOCHS_TRIED).enumerate() {
            if self.budget < head.total && (head.total > SMALL_FRAME || tried > 0) {
                return Ok(false);
            }
            self.budget = self.budget.saturating_sub(head.total);
            let seed = FrameSeed::new(&self.uuid, epoch);
            if self.decode_with(lsn, &seed)?.is_ok() {
                self.seed = seed;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads block by block, with no frame in a block that can't be read.
fn read_around(io: &QuikIO, offset: u64, len: usize, block: usize) -> Result<Buffer, IoError> {
    let memory = |_| out_of_memory("read", offset, len);
    let mut whole = io.buffer(len).map_err(memory)?;
    let mut part = io.buffer(block).map_err(memory)?;
    for (number, to) in whole.as_mut_slice().chunks_mut(block).enumerate() {
        match io.read_now(part, block, offset + (number * block) as u64) {
            Ok(read) => {
                to.copy_from_slice(read.as_slice().get(..to.len()).unwrap_or(&[]));
                part = read;
            }
            Err(_) => {
                to.fill(UNREADABLE);
                part = io.buffer(block).map_err(memory)?;
            }
        }
    }
    Ok(whole)
}

/// The header of the segment at `physical`, or what is wrong with it, also if it is not that of segment `sequence`.
pub fn segment_header(
    io: &QuikIO,
    shape: &Shape,
    uuid: &[u8; 16],
    physical: u32,
    sequence: Option<u64>,
) -> Result<SegmentHeader, String> {
    let (offset, len) = (shape.device_offset(physical), shape.block as usize);
    let buffer = io.buffer(len).map_err(|error| error.to_string())?;
    let block = io.read_now(buffer, len, offset).map_err(|error| error.to_string())?;
    let header = SegmentHeader::decode(block.as_slice(), uuid).map_err(|error| error.to_string())?;
    let expected = sequence.unwrap_or(header.sequence);
    if header.sequence != expected {
        return Err(format!("segment header is that of segment {}, not of {expected}", header.sequence));
    }
    if header.physical != physical || header.sequence == 0 || header.first_lsn != shape.segment_start(header.sequence) {
        return Err("segment header is that of another place".to_owned());
    }
    Ok(header)
}

/// The header of the segment at `physical`, if it checks.
pub fn read_segment_header(
    io: &QuikIO,
    shape: &Shape,
    uuid: &[u8; 16],
    physical: u32,
) -> Result<Option<SegmentHeader>, IoError> {
    if physical >= shape.segments {
        return Ok(None);
    }
    let (offset, len) = (shape.device_offset(physical), shape.block as usize);
    let buffer = io.buffer(len).map_err(|_| out_of_memory("read", offset, len))?;
    let block = io.read_now(buffer, len, offset)?;
    let header = SegmentHeader::decode(block.as_slice(), uuid).ok();
    Ok(header.filter(|h| h.physical == physical && h.sequence > 0 && h.first_lsn == shape.segment_start(h.sequence)))
}
