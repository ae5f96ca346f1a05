//! Looking into a store that is not mounted, or only looking: nothing here ever writes.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::error::OpenError;
use super::geometry::Shape;
use super::open::{Opened, examine};
use super::recovery::Recovered;
use super::scan::{Found, Scanner, Step, read_segment_header};
use super::stats::of_store;
use super::types::{Damage, LogInfo, RecoveryReport, Stats, StoreError};
use crate::format::{FrameKind, Lsn, SHORT_FRAME, Superblock};
use crate::io::{Device, IoError, QuikIO};

/// A store on a device, as recovery sees it, and its frames.
pub struct Image {
    io: Arc<QuikIO>,
    shape: Shape,
    opened: Opened,
}

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

/// What `check` found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct CheckReport {
    /// Frames that check.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments in use.
    pub segments: u64,
    /// Places that don't check, below the end of the log.
    pub damage: Vec<Damage>,
    /// Other findings, a sentence each.
    pub remarks: Vec<String>,
    /// The last unmount was clean.
    pub clean_unmount: bool,
    /// Bytes of an unacknowledged tail that the next mount will not show.
    pub cut_bytes: u64,
}

impl Image {
    /// Read superblock, checkpoint and log of the store on `device`; never writes.
    pub fn open(device: Arc<dyn Device>) -> Result<Image, OpenError> {
        let name = device.describe();
        let io = QuikIO::new(device, &[]).map_err(|error| OpenError::Device { device: name, error })?;
        let opened = examine(&io)?;
        let shape = Shape::of(&opened.superblock);
        Ok(Image { io, shape, opened })
    }

    /// The superblock that counts.
    pub fn superblock(&self) -> &Superblock {
        &self.opened.superblock
    }

    /// Sentences about damaged copies.
    pub fn remarks(&self) -> &[String] {
        &self.opened.remarks
    }

    /// What a mount would recover.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.opened.recovered.report
    }

    /// The logs, as a mount would show them.
    pub fn logs(&self) -> Vec<LogInfo> {
        let states = self.opened.recovered.replay.logs.values();
        states.map(super::catalog::LogState::info).collect()
    }

    /// Figures that make sense for a store that is not mounted.
    pub fn stats(&self) -> Stats {
        let superblock = &self.opened.superblock;
        let Recovered { table, end, stable, from, report, .. } = &self.opened.recovered;
        let rest = if self.shape.within(*end) == 0 { 0 } else { self.shape.segment_end(*end) - end };
        let (used, available) = table.usage(rest);
        Stats {
            used,
            available,
            segments_free: table.free_count(),
            end_lsn: *end,
            stable_lsn: *stable,
            recovery_lsn: *from,
            state: if superblock.clean {
                "clean".to_owned()
            } else {
                "not cleanly unmounted (or mounted now)".to_owned()
            },
            ..of_store(self.io.describe(), superblock, &self.shape, report)
        }
    }

    /// Every frame of the log, from the oldest segment to the end that recovery decides; also segment headers and
    /// places that don't check. With `payloads`, DATA frames carry theirs.
    pub fn for_each_frame(
        &self,
        payloads: bool,
        each: &mut dyn FnMut(&FrameInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let failed = |error: IoError| StoreError::Io(error.to_string());
        let superblock = &self.opened.superblock;
        let end = self.opened.recovered.end;
        let mut scanner = Scanner::new(&self.io, self.shape, superblock.uuid, superblock.epoch, payloads);
        let segments: Vec<_> = self.opened.recovered.table.live().copied().collect();
        let mut epoch = 0;
        for entry in segments {
            let header =
                read_segment_header(&self.io, &self.shape, &superblock.uuid, entry.physical).map_err(failed)?;
            let header = header.filter(|header| header.sequence == entry.sequence);
            let start = self.shape.segment_start(entry.sequence);
            epoch = entry.epoch.max(epoch);
            let info = self.segment_info(start, entry.physical, header.map(|header| header.epoch));
            if each(&info).is_break() {
                return Ok(());
            }
            scanner.enter(start + self.shape.block, entry.physical, epoch);
            while scanner.place() < end.min(scanner.segment_end()) {
                let place = scanner.place();
                let info = match scanner.step().map_err(failed)? {
                    Step::Frame(found) => self.frame_info(found, &scanner),
                    Step::SegmentEnd => break,
                    Step::Broken(error) => self.broken(&mut scanner, place, end, &error.to_string()).map_err(failed)?,
                };
                if info.total > 0 && each(&info).is_break() {
                    return Ok(());
                }
            }
            epoch = scanner.epoch();
        }
        Ok(())
    }

    fn segment_info(&self, lsn: Lsn, physical: u32, epoch: Option<u64>) -> FrameInfo {
        FrameInfo {
            lsn,
            device_offset: self.shape.device_offset(physical),
            segment: self.shape.sequence(lsn),
            kind: "SEGM".to_owned(),
            log: 0,
            offset: 0,
            len: 0,
            total: self.shape.block,
            time_ns: 0,
            epoch: epoch.unwrap_or(0),
            value: u64::from(physical),
            state: if epoch.is_some() { "ok".to_owned() } else { "segment header does not check".to_owned() },
            payload: Vec::new(),
        }
    }

    fn frame_info(&self, found: Found, scanner: &Scanner<'_>) -> FrameInfo {
        let short = matches!(found.kind, FrameKind::Mark | FrameKind::Pad);
        FrameInfo {
            lsn: found.lsn,
            device_offset: scanner.device_offset(found.lsn),
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

    /// No frame checks at `place`: the scanner goes to the next one that does. A gap in front of a mount's first
    /// frame (`tail=pad`) is none to report: its total is 0.
    fn broken(&self, scanner: &mut Scanner<'_>, place: Lsn, end: Lsn, why: &str) -> Result<FrameInfo, IoError> {
        let stop = end.min(scanner.segment_end());
        let next = scanner.resync(place + SHORT_FRAME as u64)?.filter(|next| *next < stop).unwrap_or(stop);
        let is_gap = next == self.shape.block_up(place)
            && scanner.frame_at(next)?.is_ok_and(|found| found.record.is_some_and(|record| record.cut_lsn == place));
        scanner.go_to(next);
        Ok(FrameInfo {
            lsn: place,
            device_offset: scanner.device_offset(place),
            segment: self.shape.sequence(place),
            kind: "----".to_owned(),
            log: 0,
            offset: 0,
            len: 0,
            total: if is_gap { 0 } else { next - place },
            time_ns: 0,
            epoch: scanner.epoch(),
            value: 0,
            state: why.to_owned(),
            payload: Vec::new(),
        })
    }

    /// The whole log `name`, in order, to `out`; the gaps that damage left.
    pub fn read_log(
        &self,
        name: &[u8],
        out: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<Vec<Gap>, StoreError> {
        let log = self.logs().into_iter().find(|log| log.name == name).ok_or(StoreError::NotFound)?;
        let mut gaps = Vec::new();
        let mut expected = log.head;
        let mut failed = None;
        self.for_each_frame(true, &mut |frame| {
            if frame.kind != FrameKind::Data.name() || frame.log != log.id || frame.offset + frame.len <= expected {
                return ControlFlow::Continue(());
            }
            if frame.offset > expected {
                gaps.push(Gap { offset: expected, len: frame.offset - expected });
                expected = frame.offset;
            }
            let skip = (expected - frame.offset) as usize;
            expected = frame.offset + frame.len;
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

    /// Read and check everything.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport, StoreError> {
        let recovery = self.recovery();
        let mut report = CheckReport {
            remarks: recovery.notes.clone(),
            clean_unmount: recovery.clean,
            cut_bytes: recovery.cut_bytes,
            ..CheckReport::default()
        };
        let total = self.stats().used;
        let mut sizes = std::collections::BTreeMap::<u32, u64>::new();
        self.for_each_frame(false, &mut |frame| {
            if frame.kind == "SEGM" {
                report.segments += 1;
            }
            if frame.state != "ok" {
                report.damage.push(Damage {
                    lsn: frame.lsn,
                    len: frame.total,
                    device_offset: frame.device_offset,
                    segment: frame.segment,
                    what: frame.state.clone(),
                });
            } else if frame.kind != "SEGM" {
                report.frames += 1;
                report.bytes += frame.total;
            }
            if frame.kind == FrameKind::Data.name() {
                let size = sizes.entry(frame.log).or_default();
                if frame.offset != *size {
                    report.remarks.push(format!(
                        "log {}: a record at LSN {:#x} starts at offset {} where {} was expected",
                        frame.log, frame.lsn, frame.offset, size
                    ));
                }
                *size = frame.offset + frame.len;
            }
            progress(report.bytes, total);
            ControlFlow::Continue(())
        })?;
        for log in self.logs() {
            let found = sizes.get(&log.id).copied().unwrap_or(0);
            if found != log.size {
                let name = String::from_utf8_lossy(&log.name).into_owned();
                report.remarks.push(format!("log {name}: its records end at {found}, its size is {}", log.size));
            }
        }
        Ok(report)
    }
}
