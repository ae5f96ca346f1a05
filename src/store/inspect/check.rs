//! `check`: reads everything, and says of every place that is not as it should be where it is and what it cost.

use std::fmt;
use std::ops::ControlFlow;

use super::Image;
use super::areas;
use super::follow::{Logs, Step};
use super::walker::{Broken, Item};
use crate::format::{CatalogRecord, FrameKind, shown};
use crate::store::scan::Found;
use crate::store::types::{LogId, StoreError};

/// Findings that are listed; more are counted. Bounds what a hostile image can cost.
const MAX_LISTED: usize = 10_000;
/// Damaged places that a missing part of a log is told with, at most: it is not known in which of them it was.
const MAX_SUSPECTS: usize = 16;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A copy of the superblock.
    Superblock,
    /// A checkpoint area.
    Checkpoint,
    /// The header of a segment in use.
    SegmentHeader,
    /// A place in the log where no frame checks.
    Frames,
    /// Frames that check, and don't fit one another.
    Log,
}

/// A part of a log that can't be read any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lost {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// First offset.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A place that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What it is about.
    pub part: Part,
    /// First LSN; 0 outside the log.
    pub lsn: u64,
    /// Bytes.
    pub len: u64,
    /// Its place on the device.
    pub device_offset: u64,
    /// Segment sequence number; 0 outside the log.
    pub segment: u64,
    /// What is wrong with it.
    pub what: String,
    /// What it cost, as far as the frames around it tell.
    pub lost: Vec<Lost>,
    /// `check --repair` makes it good, and nothing is lost.
    pub repairable: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segment > 0 {
            write!(f, "segment {} lsn {:#x} ", self.segment, self.lsn)?;
        }
        write!(f, "device offset {} length {}: {}", self.device_offset, self.len, self.what)?;
        for lost in &self.lost {
            write!(f, "; lost: log {} offset {} length {}", shown(&lost.name), lost.offset, lost.len)?;
        }
        if self.repairable { write!(f, "; `llamafs check --repair` makes it good") } else { Ok(()) }
    }
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
    /// All that is damaged.
    pub damage: Vec<Finding>,
    /// Damaged places that are not listed because there are too many.
    pub damage_not_listed: u64,
    /// What is no error, a sentence each.
    pub remarks: Vec<String>,
    /// The last unmount was clean.
    pub clean_unmount: bool,
    /// Bytes of an unacknowledged tail that the next mount will not show.
    pub cut_bytes: u64,
}

impl CheckReport {
    /// Nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }

    /// List a finding, if there is room.
    pub(super) fn add(&mut self, finding: Finding) {
        if self.damage.len() < MAX_LISTED {
            self.damage.push(finding);
        } else {
            self.damage_not_listed += 1;
        }
    }
}

/// A check under way.
struct Check<'a> {
    image: &'a Image,
    report: CheckReport,
    logs: Logs,
    unknown_log: bool,
}

impl Image {
    /// Read and check everything; writes nothing.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CheckReport, StoreError> {
        let recovery = self.recovery();
        let notes = recovery.notes.iter().chain(&recovery.remarks);
        let remarks = notes.filter(|note| !self.remarks().contains(note)).cloned().collect();
        let report = CheckReport {
            remarks,
            clean_unmount: recovery.clean,
            cut_bytes: recovery.cut_bytes,
            ..CheckReport::default()
        };
        let logs = Logs::of(self);
        let mut check = Check { image: self, report, logs, unknown_log: false };
        check.areas();
        let total = self.stats().used;
        self.walk(false, &mut |item| {
            match item {
                Item::Segment { entry, header } => {
                    check.report.segments += 1;
                    if let Err(what) = header {
                        check.segment_header(entry.sequence, entry.physical, what);
                    }
                }
                Item::Frame { found, device_offset } => check.frame(&found, device_offset),
                Item::Broken(broken) => check.broken(broken),
            }
            progress(check.report.bytes, total);
            ControlFlow::Continue(())
        })?;
        check.ends();
        Ok(check.report)
    }
}

impl Check<'_> {
    /// Superblocks and checkpoint areas.
    fn areas(&mut self) {
        let superblock = self.image.superblock();
        for copy in areas::superblocks(&self.image.io, superblock) {
            self.area(Part::Superblock, &copy, false);
        }
        let (areas, newest) = areas::checkpoints(&self.image.io, superblock);
        let can_be_made = newest.is_none() && self.image.can_make_checkpoint();
        for area in areas {
            self.area(Part::Checkpoint, &area, can_be_made);
        }
    }

    /// One of two. In a store that was not cleanly unmounted, the writing of a checkpoint may have been interrupted by the
    /// crash: that is no error. What changes in a superblock fits a sector, so a crash does not tear it.
    fn area(&mut self, part: Part, place: &areas::Place, can_be_made: bool) {
        let Err(what) = &place.state else { return };
        if part == Part::Checkpoint && place.repairable && !self.image.superblock().clean {
            self.report.remarks.push(format!(
                "{} at offset {} is not whole ({what}): the crash may have interrupted its writing; the other one \
                 counts, and the next one is written there",
                place.name, place.offset
            ));
            return;
        }
        self.report.add(Finding {
            part,
            lsn: 0,
            len: place.len,
            device_offset: place.offset,
            segment: 0,
            what: format!("{}: {what}", place.name),
            lost: Vec::new(),
            repairable: place.repairable || can_be_made,
        });
    }

    fn segment_header(&mut self, sequence: u64, physical: u32, what: String) {
        let shape = &self.image.shape;
        self.report.add(Finding {
            part: Part::SegmentHeader,
            lsn: shape.segment_start(sequence),
            len: shape.block,
            device_offset: shape.device_offset(physical),
            segment: sequence,
            what,
            lost: Vec::new(),
            repairable: true,
        });
    }

    fn frame(&mut self, found: &Found, device_offset: u64) {
        self.report.frames += 1;
        self.report.bytes += found.total;
        if found.kind == FrameKind::Meta
            && let Err(error) = CatalogRecord::decode_all(&found.payload)
        {
            self.misfit(found, device_offset, format!("a catalog record makes no sense ({error})"));
        }
        if !found.kind.is_record() {
            return;
        }
        let sequence = self.image.shape.sequence(found.lsn);
        match self.logs.follow(found, sequence, self.report.damage.len()) {
            Step::Known => {}
            Step::Gap { lost, since } => self.lost(lost, since, found.lsn, device_offset),
            Step::Misfit(what) => self.misfit(found, device_offset, what),
            // It was removed since.
            Step::Unknown if found.log_id < self.image.opened.recovered.replay.next_id => {}
            // One is enough: with the catalog record of a log lost, all its records are like this.
            Step::Unknown if std::mem::replace(&mut self.unknown_log, true) => {}
            Step::Unknown => {
                let what = format!("a record is of log {}, which the catalog does not know", found.log_id);
                self.misfit(found, device_offset, what);
            }
        }
    }

    /// A frame that checks and can't be.
    fn misfit(&mut self, found: &Found, device_offset: u64, what: String) {
        self.report.add(Finding {
            part: Part::Log,
            lsn: found.lsn,
            len: found.total,
            device_offset,
            segment: self.image.shape.sequence(found.lsn),
            what,
            lost: Vec::new(),
            repairable: false,
        });
    }

    fn broken(&mut self, broken: Broken) {
        let sequence = self.image.shape.sequence(broken.lsn);
        let was = broken.was.filter(|was| was.kind.is_record());
        let lost = was.and_then(|was| self.logs.broken(was.log_id, was.offset, was.value, sequence));
        let lost: Vec<Lost> = lost.into_iter().collect();
        self.report.add(Finding {
            part: Part::Frames,
            lsn: broken.lsn,
            len: broken.len,
            device_offset: broken.device_offset,
            segment: self.image.shape.sequence(broken.lsn),
            what: broken.why,
            lost,
            repairable: false,
        });
    }

    /// A part of a log is missing before `lsn`: it was in one of the damaged places since finding number `since`.
    fn lost(&mut self, lost: Lost, since: usize, lsn: u64, device_offset: u64) {
        let places = self.report.damage.iter_mut().skip(since);
        let suspects = places.filter(|finding| finding.part == Part::Frames && finding.lost.is_empty());
        let mut told = false;
        for finding in suspects.take(MAX_SUSPECTS) {
            finding.lost.push(lost.clone());
            told = true;
        }
        if !told {
            self.report.add(Finding {
                part: Part::Log,
                lsn,
                len: 0,
                device_offset,
                segment: self.image.shape.sequence(lsn),
                what: "records are missing in front of this one".to_owned(),
                lost: vec![lost],
                repairable: false,
            });
        }
    }

    /// Where the logs and the log of the store end, against where they should.
    fn ends(&mut self) {
        let recovered = &self.image.opened.recovered;
        let (end, stable, superblock) = (recovered.end, recovered.stable, self.image.superblock());
        let device_offset = recovered.table.device_offset(end).unwrap_or(0);
        for (lost, since) in self.logs.ends() {
            self.lost(lost, since, end, device_offset);
        }
        if stable > end {
            let what = format!("the log ends at LSN {end:#x} and was on stable media up to {stable:#x}");
            self.wrong_end(end, device_offset, what);
        } else if superblock.clean && superblock.end_lsn != end {
            let said = superblock.end_lsn;
            let what = format!("the log ends at LSN {end:#x}, the superblock of a clean unmount says {said:#x}");
            self.wrong_end(end, device_offset, what);
        }
    }

    fn wrong_end(&mut self, end: u64, device_offset: u64, what: String) {
        let segment = self.image.shape.sequence(end);
        let (lost, repairable) = (Vec::new(), false);
        self.report.add(Finding { part: Part::Log, lsn: end, len: 0, device_offset, segment, what, lost, repairable });
    }
}
