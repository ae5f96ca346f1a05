//! What is let go of, and what is added: limits, trims, a full store's oldest, logs without a name, growing. Nothing goes
//! but what may, all goes that has to, and what went is counted.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use llamafs::format::{NodeKind, ROOT_ID};
use llamafs::io::Device;
use llamafs::store::{AttrChange, Change, GrowReport, LogStructuredStore, Stats, StoreError, TrimTo};

use super::model::{Limits, What};
use super::plan::{Disk, IN_FRONT, Op, SEGMENT};
use super::states::State;
use super::world::{LOG, World};

pub const SECOND: u64 = 1_000_000_000;
/// Time that each operation takes.
pub const STEP_NS: u64 = 1_000_000;
/// When a life begins.
const BEGIN: u64 = 1000 * SECOND;
/// A disk that has grown to so many segments grows no more.
const MOST_SEGMENTS: u64 = 16;
/// Free segments beyond the reserve with which nothing may be dropped for want of space: the store keeps two, and what
/// it writes in one tick may open two more.
const PLENTY: u64 = 4;

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(BEGIN) };
    /// Heads that went up and are not in the model yet: log, head, LSN behind the change.
    static RAISED: RefCell<Vec<(u32, u64, u64)>> = const { RefCell::new(Vec::new()) };
}

/// The machine's clock.
pub fn clock() -> u64 {
    CLOCK.get()
}

/// Time passes.
pub fn pass(ns: u64) {
    CLOCK.set(CLOCK.get() + ns);
}

/// A life begins.
pub fn begin() {
    CLOCK.set(BEGIN);
    RAISED.with_borrow_mut(Vec::clear);
}

/// The store tells of a head.
pub fn head_raised(log: u32, head: u64, lsn: u64) {
    RAISED.with_borrow_mut(|raised| raised.push((log, head, lsn)));
}

/// What is known of this.
#[derive(Default)]
pub struct Aging {
    /// Bytes that were let go in this mount.
    raised: u64,
    /// A log is being trimmed by hand, up to here at most.
    trimming: Option<(u32, u64)>,
    /// The store let go of something by itself, since the last mount.
    pub by_itself: bool,
    /// Segments were let go since the last mount.
    pub freed: bool,
    /// The store has so many segments: at least, at most.
    segments: Option<(u64, u64)>,
    /// The cleaner has moved records.
    pub moved: bool,
}

impl World {
    /// Something was accepted: behind the heads that went up in front of it.
    pub fn accept(&mut self, lsn: u64, what: What) {
        self.note_heads(lsn);
        self.model.accept(lsn, what);
    }

    /// Take the heads that went up in front of `lsn`.
    pub fn note_heads(&mut self, lsn: u64) {
        let due = RAISED.with_borrow_mut(|raised| {
            let count = raised.partition_point(|(_, _, of)| *of < lsn);
            raised.drain(..count).collect::<Vec<_>>()
        });
        for (log, head, lsn) in due {
            self.raised(log, head, lsn);
        }
    }

    /// A head went up: as far as it may?
    fn raised(&mut self, log: u32, head: u64, lsn: u64) {
        let (known, limits) = (self.model.log(log), self.model.limits(log));
        let before = known.head;
        assert!(head > before && known.is_boundary(head), "log {log} begins at {before}, and then at {head}");
        let by_limits = known.head_by(limits, clock());
        let by_want = if limits.drop_oldest { known.kept(known.data.len() as u64, limits) } else { 0 };
        let by_hand = self.aging.trimming.filter(|(of, _)| *of == log).map_or(0, |(_, most)| most);
        let most = by_limits.max(by_want).max(by_hand);
        assert!(head <= most, "log {log} lets go of what lies below {head}: {most} at most, by {limits:?}");
        self.aging.raised += head - before;
        self.aging.by_itself |= head > by_hand;
        self.model.accept(lsn, What::Trim { log, head });
    }

    /// The store is mounted.
    pub fn began_aging(&mut self, store: &LogStructuredStore) {
        RAISED.with_borrow_mut(Vec::clear);
        (self.aging.raised, self.aging.trimming) = (0, None);
        let segments = store.stats().segments;
        if let Some((least, most)) = self.aging.segments.filter(|_| !self.facts.lied) {
            assert!((least..=most).contains(&segments), "{segments} segments, not {least} to {most}");
            self.hits.hit_if(State::GrowLost, least < most && segments == least);
            self.hits.hit_if(State::GrowKept, least < most && segments > least);
        }
        self.aging.segments = Some((segments, segments));
    }

    /// The flush interval is over.
    pub fn tick(&mut self, store: &Arc<LogStructuredStore>) {
        self.stall(false);
        self.ticked = self.model.end();
        // Then limits are looked at.
        pass(SECOND);
        let (before, waits) = (store.stats(), store.deferred() > 0);
        // A checkpoint waits for what it saves.
        store.tick();
        self.pump();
        let stats = store.stats();
        self.hits.hit_if(State::CheckpointWhileRunning, stats.recovery_lsn > self.recovery_lsn_at_mount);
        self.note_space(&stats);
        let dropped = stats.dropped_bytes > before.dropped_bytes;
        let plenty = before.segments_free >= before.segments_reserved + PLENTY;
        assert!(!dropped || !plenty, "what is oldest was dropped with room for more: {before:?}");
        if self.facts.faults {
            return;
        }
        store.audit().expect("the accounting is exact");
        let counted = stats.expired_bytes + stats.dropped_bytes + stats.trimmed_bytes;
        assert_eq!(counted, self.aging.raised, "bytes that were let go");
        assert_eq!(stats.unlinked, self.model.open.len() as u64, "logs without a name");
        if waits || stats.segments_free == 0 {
            return;
        }
        // Who finds the ring full in the middle of it goes on with the next tick.
        if self.late_heads().next().is_some() {
            self.settle(store);
            pass(SECOND);
            store.tick();
            self.pump();
        }
        assert_eq!(self.late_heads().next(), None, "log, where it begins, where it should by its limits");
        for (id, log) in &self.model.shown().logs {
            let limits = self.model.limits(*id);
            let kept = log.head_by(Limits { keep_min: 0, ..limits }, clock()) > log.head;
            self.hits.hit_if(State::KeptMin, kept);
        }
    }

    /// Logs that hold more than they may: where they begin, where they should.
    fn late_heads(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        let logs = self.model.shown().logs.iter();
        let heads = logs.map(|(id, log)| (*id, log.head, log.head_by(self.model.limits(*id), clock())));
        heads.filter(|(_, head, due)| head < due)
    }

    /// What has become of segments.
    pub fn note_space(&mut self, stats: &Stats) {
        self.hits.hit_if(State::LetGo, stats.segments_freed > 0);
        self.hits.hit_if(State::Moved, stats.moved_bytes > 0);
        self.hits.hit_if(State::Cleaned, stats.segments_cleaned > 0);
        self.hits.hit_if(State::Expired, stats.expired_bytes > 0);
        self.hits.hit_if(State::Dropped, stats.dropped_bytes > 0);
        self.aging.moved |= stats.moved_bytes > 0;
        self.aging.freed |= stats.segments_freed > 0;
    }

    pub fn trim(&mut self, store: &Arc<LogStructuredStore>, at: u32) {
        // A disk that lies may bring back what was let go: nothing is known of that.
        if self.setup.disk == Disk::Lying || self.model.open.contains_key(&self.log) {
            return;
        }
        self.settle(store);
        let log = self.model.log(self.log);
        let (size, before, place) = (log.data.len() as u64, log.head, u64::from(at / 4));
        let (to, head) = match at % 4 {
            2 if !log.records.is_empty() => {
                let time = log.records[place as usize % log.records.len()].1;
                (TrimTo::Since(time), log.since(time))
            }
            3 => (TrimTo::Keep(place % (size + 1)), log.boundary(size - place % (size + 1))),
            _ => (TrimTo::Before(place % (size + 1)), log.boundary(place % (size + 1))),
        };
        let head = log.kept(head, self.model.limits(self.log)).max(before);
        self.aging.trimming = Some((self.log, head));
        match store.trim(self.log, to) {
            Ok(trimmed) if self.facts.faults => assert!(trimmed.head <= head, "{trimmed:?} by {to:?}, not {head}"),
            Ok(trimmed) => {
                assert_eq!((trimmed.before, trimmed.head), (before, head), "by {to:?}");
                self.hits.hit_if(State::Trimmed, head > before);
            }
            Err(error) => assert!(self.facts.faults || error == StoreError::NoSpace, "a trim was refused: {error}"),
        }
        self.pump();
        self.aging.trimming = None;
        self.changed();
        self.note_space(&store.stats());
    }

    /// Limits of the present log, or of all.
    pub fn limit(&mut self, store: &Arc<LogStructuredStore>, op: Op) {
        self.settle(store);
        let root = matches!(op, Op::DropOldest { .. } | Op::Limits { root: true, .. });
        let id = if root { ROOT_ID } else { self.log };
        if self.setup.disk == Disk::Lying || self.model.open.contains_key(&id) {
            return;
        }
        let mut limits = if root { self.model.shown().limits } else { self.model.log(id).limits };
        let value = |value: u32, unit: u64| if value == u32::MAX { u64::MAX } else { u64::from(value) * unit };
        match op {
            Op::DropOldest { on } => limits.drop_oldest = on,
            Op::Limits { bytes, seconds, keep_min, .. } => {
                limits.retain_bytes = value(bytes, 1);
                limits.retain_age_ns = value(seconds, SECOND);
                limits.keep_min = value(keep_min, 1);
            }
            _ => {}
        }
        let change = AttrChange {
            retain_bytes: Some(limits.retain_bytes),
            retain_age_ns: Some(limits.retain_age_ns),
            keep_min: Some(limits.keep_min),
            drop_oldest: root.then_some(limits.drop_oldest),
            ..AttrChange::default()
        };
        match store.change_now(Change::Attributes { id, change }) {
            Ok(changed) => {
                self.changed();
                self.accept(changed.lsn, What::Limits { id, limits });
            }
            Err(error) => self.refused(store, &error),
        }
    }

    /// Remove the present log, which stays open.
    pub fn unlink(&mut self, store: &Arc<LogStructuredStore>) {
        self.settle(store);
        let id = self.log;
        let logs = &self.model.shown().logs;
        if self.setup.disk == Disk::Lying || !logs.contains_key(&id) || logs.len() < 2 {
            return;
        }
        let node = self.model.shown().nodes[&id].clone();
        match store.change_now(Change::Remove { parent: node.parent, name: node.name, kind: NodeKind::Log }) {
            Ok(changed) => {
                self.changed();
                self.accept(changed.lsn, What::Gone { id });
            }
            Err(error) => self.refused(store, &error),
        }
    }

    /// Close one that has no name.
    pub fn close_log(&mut self, store: &Arc<LogStructuredStore>, which: u32) {
        self.settle(store);
        let open: Vec<u32> = self.model.open.keys().copied().collect();
        let Some(id) = open.get(which as usize % open.len().max(1)).copied() else { return };
        self.forget(store, id);
        self.hits.hit(State::ClosedUnlinked);
        if self.log == id {
            self.log = self.pick(which, false).unwrap_or(LOG);
        }
    }

    /// Nobody has this log open any more.
    pub fn forget(&mut self, store: &Arc<LogStructuredStore>, id: u32) {
        store.forget(id);
        self.model.open.remove(&id);
    }

    /// The disk is larger now, and the store is to take it.
    pub fn grow(&mut self, segments: u64) {
        if let Some(whole) = self.try_grow(segments, None) {
            let (mounted, unmounted) = (self.store.is_some(), self.store.is_none());
            self.hits.hit_if(State::Grown, whole && mounted);
            self.hits.hit_if(State::GrownUnmounted, whole && unmounted);
        }
    }

    /// The power fails after so many requests of that.
    pub fn grow_crash(&mut self, segments: u64, after: u64, seed: u64) {
        let Some(whole) = self.try_grow(segments, Some(after)) else { return };
        let (mounted, unmounted) = (self.store.is_some(), self.store.is_none());
        self.hits.hit_if(State::CrashInGrow, !whole && mounted);
        self.hits.hit_if(State::CrashInGrowUnmounted, !whole && unmounted);
        self.crash(seed);
    }

    /// Grow; whether it did. `None`: the disk is as large as it gets.
    fn try_grow(&mut self, segments: u64, power: Option<u64>) -> Option<bool> {
        let larger = self.device.geometry().capacity + segments * SEGMENT;
        if self.setup.disk == Disk::Lying || larger > IN_FRONT + MOST_SEGMENTS * SEGMENT {
            return None;
        }
        let store = self.store.clone();
        if let Some(store) = &store {
            self.settle(store);
        }
        self.device.grow(segments * SEGMENT);
        let faults = self.facts.faults;
        if let Some(after) = power {
            self.device.power_off_after(after + 1);
            self.facts.faults = true;
        }
        let known = self.aging.segments;
        let grown: Result<GrowReport, String> = match &store {
            Some(store) => store.grow().map_err(|error| error.to_string()),
            None => llamafs::store::grow(self.device.clone() as Arc<dyn Device>).map_err(|error| error.to_string()),
        };
        self.pump();
        let whole = match &grown {
            Ok(report) => {
                let before = report.segments_before;
                assert!(
                    known.is_none_or(|(least, most)| (least..=most).contains(&before)),
                    "{report:?}, not {known:?}"
                );
                assert!(report.segments >= before + segments, "{report:?}, not {segments} more");
                self.aging.segments = Some((report.segments, report.segments));
                true
            }
            Err(error) => {
                assert!(self.facts.faults, "growing failed without a fault: {error}");
                self.aging.segments = known.map(|(least, most)| (least, most + MOST_SEGMENTS));
                false
            }
        };
        self.facts.faults = faults;
        Some(whole)
    }
}
