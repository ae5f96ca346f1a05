//! The frames of a store, one after the other, and the bytes of one of its logs.

use std::ops::ControlFlow;

use super::Image;
use super::walker::{Broken, Item, Walker};
use crate::format::{FrameKind, SegmentEntry};
use crate::store::scan::Found;
use crate::store::types::StoreError;

/// One frame, or one place where there is none.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FrameInfo {
    /// Where it starts.
    pub lsn: u64,
    /// The same on the device.
    pub device_offset: u64,
    /// Sequence number of its segment.
    pub segment: u64,
    /// DATA, VOID, META, EPOC, MARK, PADD; SEGM for a segment header; `----` for a place where no frame checks.
    pub kind: String,
    /// Log it belongs to, 0 none.
    pub log: u32,
    /// Logical offset of its payload.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u64,
    /// Bytes it takes.
    pub total: u64,
    /// When it was accepted, ns since 1970; 0 unknown.
    pub time_ns: u64,
    /// Mount that wrote it.
    pub epoch: u64,
    /// MARK: stable LSN; PADD: bytes.
    pub value: u64,
    /// `ok`, or what is wrong.
    pub state: String,
    /// Its payload, if asked for.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

/// A part of a log that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// First offset.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Image {
    /// Walk the log from the oldest segment to the end that recovery decides.
    pub(super) fn walk(&self, payloads: bool, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> Result<(), StoreError> {
        let (superblock, recovered) = (&self.opened.superblock, &self.opened.recovered);
        let segments: Vec<SegmentEntry> = recovered.table.live().copied().collect();
        let (uuid, epoch) = (superblock.uuid, superblock.epoch);
        Walker::new(&self.io, self.shape, uuid, epoch, &segments, recovered.end, payloads)
            .knowing(recovered.replay.mounts.clone())
            .walk(each)
            .map_err(|error| StoreError::Io(error.to_string()))
    }

    /// Every frame of the log, from the oldest segment to the end that recovery decides; also segment headers and
    /// places that don't check. With `payloads`, DATA frames carry theirs.
    pub fn for_each_frame(
        &self,
        payloads: bool,
        each: &mut dyn FnMut(&FrameInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk(payloads, &mut |item| each(&self.frame_info(item)))
    }

    fn frame_info(&self, item: Item) -> FrameInfo {
        match item {
            Item::Segment { entry, header } => self.of_segment(&entry, header.map(|_| ()).err()),
            Item::Frame { found, device_offset } => self.of_frame(found, device_offset),
            Item::Broken(broken) => self.of_broken(broken),
        }
    }

    fn of_segment(&self, entry: &SegmentEntry, wrong: Option<String>) -> FrameInfo {
        FrameInfo {
            lsn: self.shape.segment_start(entry.sequence),
            device_offset: self.shape.device_offset(entry.physical),
            segment: entry.sequence,
            kind: "SEGM".to_owned(),
            log: 0,
            offset: 0,
            len: 0,
            total: self.shape.block,
            time_ns: 0,
            epoch: entry.epoch,
            value: u64::from(entry.physical),
            state: wrong.unwrap_or_else(|| "ok".to_owned()),
            payload: Vec::new(),
        }
    }

    fn of_frame(&self, found: Found, device_offset: u64) -> FrameInfo {
        let short = matches!(found.kind, FrameKind::Mark | FrameKind::Pad);
        FrameInfo {
            lsn: found.lsn,
            device_offset,
            segment: self.shape.sequence(found.lsn),
            kind: found.kind.name().to_owned(),
            log: found.log_id,
            offset: found.offset,
            len: if short { 0 } else { found.value },
            total: found.total,
            time_ns: found.time_ns,
            epoch: found.epoch,
            value: if short { found.value } else { 0 },
            state: "ok".to_owned(),
            payload: found.payload,
        }
    }

    fn of_broken(&self, broken: Broken) -> FrameInfo {
        let was = broken.was.filter(|was| was.kind == FrameKind::Data);
        FrameInfo {
            lsn: broken.lsn,
            device_offset: broken.device_offset,
            segment: self.shape.sequence(broken.lsn),
            kind: "----".to_owned(),
            log: was.as_ref().map_or(0, |was| was.log_id),
            offset: was.as_ref().map_or(0, |was| was.offset),
            len: was.as_ref().map_or(0, |was| was.value),
            total: broken.len,
            time_ns: 0,
            epoch: 0,
            value: 0,
            state: broken.why,
            payload: Vec::new(),
        }
    }

    /// The whole log with the path `name`, in order, to `out`; the gaps that damage left.
    pub fn read_log(
        &self,
        name: &[u8],
        out: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<Gap>, StoreError> {
        let log = self.log(name).ok_or(StoreError::NotFound)?;
        let mut gaps = Vec::new();
        let mut expected = log.head;
        let mut failed = None;
        self.walk(true, &mut |item| {
            let Item::Frame { found: frame, .. } = item else { return ControlFlow::Continue(()) };
            let end = frame.offset.saturating_add(frame.value);
            if frame.kind != FrameKind::Data || frame.log_id != log.id || end <= expected {
                return ControlFlow::Continue(());
            }
            if frame.offset > expected {
                gaps.push(Gap { offset: expected, len: frame.offset - expected });
                expected = frame.offset;
            }
            let skip = (expected - frame.offset) as usize;
            expected = end;
            match out(frame.offset + skip as u64, frame.payload.get(skip..).unwrap_or(&[])) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(StoreError::Io(error.to_string()));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if expected < log.size {
            gaps.push(Gap { offset: expected, len: log.size - expected });
        }
        Ok(gaps)
    }
}
