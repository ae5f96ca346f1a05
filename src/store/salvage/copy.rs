//! The logs, record by record, in the order of the store's log.
//!
//! Twice over the device: first for names and sizes, then for bytes. Memory is a line for each log, and one for each gap.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::names::Names;
use super::shape::Found;
use super::{SalvageError, SalvageReport, Salvaged, Sink};
use crate::format::{CatalogChange, CatalogEntry, CatalogRecord, FrameKind, Lsn, NodeKind, SegmentEntry};
use crate::io::{IoError, QuikIO};
use crate::store::inspect::Gap;
use crate::store::inspect::walker::{Broken, Item, Walker};
use crate::store::types::LogId;

/// Logs that are kept track of, at most: bounds what a hostile image can cost.
pub const MAX_LOGS: usize = 1 << 20;

/// Why copying ended.
pub enum Failed {
    /// The device.
    Device(IoError),
    /// The other side.
    Sink(SalvageError),
}

/// A log under way.
struct Open {
    log: Salvaged,
    /// What was given, as start and end. The cleaner moves records behind later ones: they come in any order.
    given: BTreeMap<u64, u64>,
}

/// What is copied.
pub struct From<'a> {
    /// The device,
    pub io: &'a QuikIO,
    /// the store on it,
    pub found: &'a Found,
    /// its segments in the order of the log,
    pub segments: &'a [SegmentEntry],
    /// and up to where it is known to have been on stable media.
    pub stable: Lsn,
}

/// Give every log of the store to `sink`; `known` is what a checkpoint knows of them.
pub fn copy(
    mut from: From<'_>,
    known: Vec<CatalogEntry>,
    sink: &mut dyn Sink,
    report: &mut SalvageReport,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failed> {
    let mut logs = catalog(&mut from, known, report)?;
    let total = from.segments.len() as u64 * from.found.shape.segment_size;
    let mut failed = None;
    let mut done = 0;
    from.walk(true, &mut |item| {
        let frame = match item {
            Item::Segment { .. } => {
                progress(done, total);
                done += from.found.shape.segment_size;
                return ControlFlow::Continue(());
            }
            Item::Broken(broken) if broken.lsn < from.stable => {
                damaged(&broken, &mut logs, report);
                return ControlFlow::Continue(());
            }
            Item::Frame { found, .. } if found.kind.is_record() => found,
            _ => return ControlFlow::Continue(()),
        };
        let Some(open) = logs.get_mut(&frame.log_id) else { return ControlFlow::Continue(()) };
        match open.record(frame.offset, &frame.payload, sink, report) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })
    .map_err(Failed::Device)?;
    if let Some(error) = failed {
        return Err(Failed::Sink(error));
    }
    report.unexplained += from.cut_off();
    for open in logs.into_values() {
        let end = open.given.last_key_value().map_or(open.log.head, |(_, end)| *end);
        let size = open.log.size.max(end);
        open.gaps(size, sink, report).map_err(Failed::Sink)?;
        sink.end(&open.log, size).map_err(Failed::Sink)?;
        report.logs += 1;
    }
    Ok(())
}

/// A place that was on stable media and where no frame checks any more.
fn damaged(broken: &Broken, logs: &mut BTreeMap<LogId, Open>, report: &mut SalvageReport) {
    let mut explained = broken.explained();
    if let Some(was) = broken.was.as_ref().filter(|was| was.kind.is_record()) {
        match logs.get_mut(&was.log_id) {
            // Its log was at least that long: what of it is not found elsewhere is a gap.
            Some(open) => open.log.size = open.log.size.max(was.offset.saturating_add(was.value)),
            None => explained = 0,
        }
    }
    report.unexplained = report.unexplained.saturating_add(broken.len.saturating_sub(explained));
}

impl From<'_> {
    fn walk(&self, payloads: bool, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> Result<(), IoError> {
        let Found { shape, uuid, max_epoch, ref mounts, end, .. } = *self.found;
        Walker::new(self.io, shape, uuid, max_epoch, self.segments, end.unwrap_or(Lsn::MAX), payloads)
            .knowing(mounts.clone())
            .walk(each)
    }

    /// Bytes that were on stable media behind the last segment that there is.
    fn cut_off(&self) -> u64 {
        let shape = &self.found.shape;
        let last = shape.sequence(self.stable);
        let reached = self.segments.last().map(|segment| shape.segment_start(segment.sequence.saturating_add(1)));
        let reached = reached.unwrap_or_else(|| shape.segment_start(last));
        if self.stable > shape.first_frame(last) { self.stable.saturating_sub(reached) } else { 0 }
    }
}

impl Open {
    fn record(
        &mut self,
        offset: u64,
        data: &[u8],
        sink: &mut dyn Sink,
        report: &mut SalvageReport,
    ) -> Result<(), SalvageError> {
        let end = offset.saturating_add(data.len() as u64);
        if end <= self.log.head {
            return Ok(());
        }
        sink.bytes(&self.log, offset, data)?;
        report.records += 1;
        report.bytes += data.len() as u64;
        self.add(offset, end);
        Ok(())
    }

    /// From `offset` to `end` was given.
    fn add(&mut self, mut offset: u64, mut end: u64) {
        while let Some((from, to)) = self.given.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= offset
        {
            self.given.remove(&from);
            (offset, end) = (offset.min(from), end.max(to));
        }
        self.given.insert(offset, end);
    }

    /// What was not given of a log of `size` bytes is missing.
    fn gaps(&self, size: u64, sink: &mut dyn Sink, report: &mut SalvageReport) -> Result<(), SalvageError> {
        let mut at = self.log.head;
        for (from, to) in self.given.iter().map(|(from, to)| (*from, *to)).chain([(size, size)]) {
            if from > at {
                let gap = Gap { offset: at, len: from - at };
                report.gaps += 1;
                report.missing = report.missing.saturating_add(gap.len);
                sink.gap(&self.log, gap)?;
            }
            at = at.max(to);
        }
        Ok(())
    }
}

/// Every log that has a record or a catalog entry, by the path that it had last.
fn catalog(
    from: &mut From<'_>,
    known: Vec<CatalogEntry>,
    report: &mut SalvageReport,
) -> Result<BTreeMap<LogId, Open>, Failed> {
    let mut names = Names::default();
    let mut logs: BTreeMap<LogId, Open> = BTreeMap::new();
    for entry in known {
        if entry.kind == NodeKind::Log {
            let log = Salvaged { id: entry.id, path: Vec::new(), head: entry.head, size: entry.size };
            logs.insert(entry.id, Open { given: BTreeMap::new(), log });
        }
        names.named(entry);
    }
    let mut left_out = 0u64;
    let mut meet = |id: LogId| {
        if logs.len() >= MAX_LOGS && !logs.contains_key(&id) {
            left_out += 1;
            return;
        }
        let unnamed = Salvaged { id, path: Vec::new(), head: 0, size: 0 };
        logs.entry(id).or_insert(Open { log: unnamed, given: BTreeMap::new() });
    };
    let mut stable = from.stable;
    from.walk(false, &mut |item| {
        let Item::Frame { found: frame, .. } = item else { return ControlFlow::Continue(()) };
        match frame.kind {
            FrameKind::Data | FrameKind::Moved => meet(frame.log_id),
            FrameKind::Mark => stable = stable.max(frame.value),
            // Frames come in order: the last name seen is the one it has. Sizes are only ever right in a checkpoint.
            FrameKind::Meta => {
                for record in CatalogRecord::decode_all(&frame.payload).unwrap_or_default() {
                    if record.entry.kind == NodeKind::Log {
                        meet(record.entry.id);
                    }
                    match record.change {
                        CatalogChange::Gone => names.gone(record.entry.id),
                        CatalogChange::Named | CatalogChange::Attributes => names.named(record.entry),
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .map_err(Failed::Device)?;
    from.stable = stable;
    for open in logs.values_mut() {
        open.log.path = names.path(open.log.id);
    }
    let left_out = left_out + names.left_out;
    if left_out > 0 {
        report.notes.push(format!("{left_out} frames of more than {MAX_LOGS} logs and directories were left out"));
    }
    Ok(logs)
}
