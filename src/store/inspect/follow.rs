//! Following the logs through the frames of a check: is every byte of each log where its ranges say?

use std::collections::BTreeMap;

use super::Image;
use super::check::Lost;
use crate::store::geometry::Shape;
use crate::store::ranges::Range;
use crate::store::scan::Found;
use crate::store::types::LogId;

/// How far a range of a log was followed.
struct Followed {
    range: Range,
    /// Offset that its next record should have.
    end: u64,
    /// Number of findings when it was followed so far.
    findings: usize,
}

/// One log.
struct Log {
    name: String,
    head: u64,
    size: u64,
    ranges: Vec<Followed>,
}

/// All logs, and how far each was followed.
pub(super) struct Logs {
    shape: Shape,
    logs: BTreeMap<LogId, Log>,
}

/// What a record means to its log.
pub(super) enum Step {
    /// It is where it should be, or nobody wants it any more.
    Known,
    /// Something is missing in front of it.
    Gap {
        /// What.
        lost: Lost,
        /// It was there when there were so many findings.
        since: usize,
    },
    /// It can't be where it is.
    Misfit(String),
    /// Its log is not in the catalog.
    Unknown,
}

impl Logs {
    /// The logs of `image`, of which nothing was seen yet.
    pub(super) fn of(image: &Image) -> Self {
        let followed = |range: &Range| Followed { range: *range, end: range.offset, findings: 0 };
        let replay = &image.opened.recovered.replay;
        let log = |info: crate::store::LogInfo| {
            let name = format!("/{}", String::from_utf8_lossy(&info.name));
            let ranges = replay.logs.get(&info.id).map(|state| state.ranges.iter().map(followed).collect());
            (info.id, Log { name, head: info.head, size: info.size, ranges: ranges.unwrap_or_default() })
        };
        Self { shape: image.shape, logs: image.logs().into_iter().map(log).collect() }
    }

    /// A record was found in segment `sequence`, after `findings` findings.
    pub(super) fn follow(&mut self, found: &Found, sequence: u64, findings: usize) -> Step {
        let (id, offset, shape) = (found.log_id, found.offset, self.shape);
        let Some(log) = self.logs.get_mut(&id) else { return Step::Unknown };
        let end = offset.saturating_add(found.value);
        let misfit = |name: &str, expected: u64| {
            Step::Misfit(format!("a record of log {name} starts at offset {offset}, not at {expected}"))
        };
        if end <= log.head {
            return Step::Known;
        }
        let Some(followed) = log.covering(offset) else { return misfit(&log.name, log.size) };
        // The cleaner moves to later segments: what it has moved nobody wants here.
        match shape.sequence(followed.range.lsn).cmp(&sequence) {
            std::cmp::Ordering::Greater => return Step::Known,
            std::cmp::Ordering::Less => return misfit(&log.name, log.size),
            std::cmp::Ordering::Equal => {}
        }
        if found.lsn < followed.range.lsn {
            return Step::Known;
        }
        let (expected, since) = (followed.end, followed.findings);
        followed.end = followed.end.max(end);
        followed.findings = findings;
        if offset < expected {
            return misfit(&log.name, expected);
        }
        match log.lost(id, expected, offset) {
            Some(lost) => Step::Gap { lost, since },
            None => Step::Known,
        }
    }

    /// A broken place was this record: what was lost with it.
    pub(super) fn broken(&mut self, id: LogId, offset: u64, len: u64, sequence: u64) -> Option<Lost> {
        let shape = self.shape;
        let log = self.logs.get_mut(&id)?;
        let end = offset.saturating_add(len);
        let followed = log.covering(offset)?;
        if shape.sequence(followed.range.lsn) != sequence || followed.end != offset {
            return None;
        }
        followed.end = end;
        log.lost(id, offset, end)
    }

    /// What is still missing at the end, each with the number of findings when it was not.
    pub(super) fn ends(&self) -> Vec<(Lost, usize)> {
        let mut missing = Vec::new();
        for (id, log) in &self.logs {
            let (mut at, mut since) = (log.head, 0);
            for followed in &log.ranges {
                missing.extend(log.lost(*id, at, followed.range.offset).map(|lost| (lost, since)));
                since = followed.findings;
                missing.extend(log.lost(*id, followed.end, followed.range.end()).map(|lost| (lost, since)));
                at = at.max(followed.range.end());
            }
            missing.extend(log.lost(*id, at, log.size).map(|lost| (lost, since)));
        }
        missing
    }
}

impl Log {
    fn covering(&mut self, offset: u64) -> Option<&mut Followed> {
        let at = self.ranges.partition_point(|followed| followed.range.offset <= offset).checked_sub(1)?;
        self.ranges.get_mut(at).filter(|followed| offset < followed.range.end())
    }

    /// What of the log lay from `from` to `to`, if anything did.
    fn lost(&self, log: LogId, from: u64, to: u64) -> Option<Lost> {
        let from = from.max(self.head);
        (from < to).then(|| Lost { log, name: self.name.clone(), offset: from, len: to - from })
    }
}
