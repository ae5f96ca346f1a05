//! The sparse index of one log: known points (logical offset, LSN of the frame that starts there).
//!
//! It is not per record: a point is kept for each `granularity` bytes of log, and when there are as many as a log may
//! have, or as many as all logs may have together, every second one is dropped and the granularity doubles. So memory
//! is bounded whatever the logs' sizes and number; a read walks frames from the nearest point below. A log's first
//! frame is known without a point, so a small log has none, and no allocation for them.

use crate::sync::atomic::{AtomicU64, Ordering};

use crate::format::{LogIndex, Lsn};

/// First granularity, in bytes of log.
pub const FIRST_GRANULARITY: u64 = 64 * 1024;
/// A point is kept also for so many times that of LSN distance.
const APART: u64 = 4;
/// A log may always have this many points.
const LEAST_POINTS: usize = 4;
/// All logs may together have as many points as this many logs may have alone.
const FULL_INDEXES: u64 = 16;

/// How many points there may be.
#[derive(Debug)]
pub struct PointBudget {
    used: AtomicU64,
    all: u64,
    per_log: usize,
}

impl PointBudget {
    /// At most `per_log` points for a log, and `FULL_INDEXES` times that for all (but `LEAST_POINTS` for each).
    pub fn new(per_log: usize) -> Self {
        let per_log = per_log.max(LEAST_POINTS);
        Self { used: AtomicU64::new(0), all: FULL_INDEXES * per_log as u64, per_log }
    }

    /// Points of all logs.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// Points of one log.
#[derive(Debug, Clone)]
pub struct SparseIndex {
    points: Vec<(u64, Lsn)>,
    granularity: u64,
}

impl Default for SparseIndex {
    fn default() -> Self {
        Self { points: Vec::new(), granularity: FIRST_GRANULARITY }
    }
}

impl SparseIndex {
    /// The index a checkpoint saved. Points out of order are refused.
    pub fn restore(granularity: u64, points: Vec<(u64, Lsn)>, budget: &PointBudget) -> Option<Self> {
        let ordered = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        if !ordered || granularity < FIRST_GRANULARITY || points.len() > budget.per_log {
            return None;
        }
        budget.used.fetch_add(points.len() as u64, Ordering::Relaxed);
        Some(Self { points, granularity })
    }

    /// A frame at `lsn` holds the log from `offset`; the first of its range is `first`, and needs no point. Offsets only
    /// grow; others are ignored.
    #[inline]
    pub fn note(&mut self, offset: u64, lsn: Lsn, first: (u64, Lsn), budget: &PointBudget) {
        let last = self.points.last().copied().filter(|(offset, _)| *offset >= first.0);
        let (last_offset, last_lsn) = last.unwrap_or(first);
        if offset <= last_offset
            || lsn <= last_lsn
            || (offset - last_offset < self.granularity && lsn - last_lsn < self.reach())
        {
            return;
        }
        self.push(offset, lsn, budget);
    }

    fn push(&mut self, offset: u64, lsn: Lsn, budget: &PointBudget) {
        let full = self.points.len() >= budget.per_log;
        if full || (self.points.len() >= LEAST_POINTS && budget.used() >= budget.all) {
            let before = self.points.len();
            self.thin();
            budget.used.fetch_sub((before - self.points.len()) as u64, Ordering::Relaxed);
        }
        self.points.push((offset, lsn));
        budget.used.fetch_add(1, Ordering::Relaxed);
    }

    fn thin(&mut self) {
        thin(&mut self.points);
        self.granularity = self.granularity.saturating_mul(2);
    }

    /// The log is gone.
    pub fn release(&mut self, budget: &PointBudget) {
        budget.used.fetch_sub(self.points.len() as u64, Ordering::Relaxed);
        self.points = Vec::new();
    }

    /// The nearest point at or below `offset`.
    pub fn floor(&self, offset: u64) -> Option<(u64, Lsn)> {
        let above = self.points.partition_point(|(at, _)| *at <= offset);
        above.checked_sub(1).and_then(|at| self.points.get(at)).copied()
    }

    /// The nearest point behind `offset`.
    pub fn behind(&self, offset: u64) -> Option<(u64, Lsn)> {
        let above = self.points.partition_point(|(at, _)| *at <= offset);
        self.points.get(above).copied()
    }

    /// No frame of the log lies further behind its last point, or it would have one.
    pub fn reach(&self) -> u64 {
        self.granularity.saturating_mul(APART)
    }

    /// Points at offsets behind `from` and before `to`.
    pub fn between(&self, from: u64, to: u64) -> &[(u64, Lsn)] {
        let first = self.points.partition_point(|(at, _)| *at <= from);
        let last = self.points.partition_point(|(at, _)| *at < to);
        self.points.get(first..last).unwrap_or(&[])
    }

    /// Bytes of log between points.
    #[cfg(test)]
    fn granularity(&self) -> u64 {
        self.granularity
    }

    /// What a checkpoint keeps; nothing of no points.
    pub fn saved(&self, log_id: u32) -> Option<LogIndex> {
        let points = self.points.clone();
        (!points.is_empty()).then_some(LogIndex { log_id, granularity: self.granularity, points })
    }

    /// All points, in order.
    #[cfg(test)]
    fn points(&self) -> &[(u64, Lsn)] {
        &self.points
    }
}

/// Drop every second point.
pub fn thin(points: &mut Vec<(u64, Lsn)>) {
    let mut keep = false;
    points.retain(|_| {
        keep = !keep;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_finds_the_nearest_point_and_memory_stays_bounded() {
        let budget = PointBudget::new(64);
        let mut index = SparseIndex::default();
        for frame in 0..100_000u64 {
            index.note(frame * 4096, 65_536 + frame * 4128, (0, 65_536), &budget);
        }
        assert!(index.points().len() <= 64);
        assert_eq!(budget.used(), index.points().len() as u64);
        for offset in [1u64 << 20, 123_456_789, 99_999 * 4096] {
            let (at, lsn) = index.floor(offset).unwrap_or((0, 65_536));
            assert!(at <= offset);
            assert_eq!(lsn, 65_536 + at / 4096 * 4128);
            assert!(offset - at <= 2 * index.granularity());
        }
    }

    #[test]
    fn a_small_log_has_no_points() {
        let (budget, mut index) = (PointBudget::new(64), SparseIndex::default());
        for frame in 0..10 {
            index.note(frame * 100, 4096 + frame * 144, (0, 4096), &budget);
        }
        assert_eq!((index.points().len(), index.points.capacity()), (0, 0));
    }

    #[test]
    fn all_logs_together_have_a_bound() {
        let budget = PointBudget::new(16);
        let mut indexes = vec![SparseIndex::default(); 100];
        for round in 1..200u64 {
            for (n, index) in indexes.iter_mut().enumerate() {
                index.note(round << 17, (round << 30) + ((n as u64) << 20), (0, 1), &budget);
            }
        }
        assert!(budget.used() <= budget.all + 100 * LEAST_POINTS as u64, "{}", budget.used());
        assert!(indexes.iter().all(|index| index.points().len() >= 2));
        indexes.iter_mut().for_each(|index| index.release(&budget));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_point_out_of_order_is_ignored_and_a_bad_checkpoint_refused() {
        let budget = PointBudget::new(16);
        let mut index = SparseIndex::default();
        index.note(1 << 20, 1 << 21, (0, 1), &budget);
        index.note(0, 1 << 22, (0, 1), &budget);
        assert_eq!(index.points(), &[(1 << 20, 1 << 21)]);
        let restore = |points| SparseIndex::restore(FIRST_GRANULARITY, points, &budget);
        assert!(restore(vec![(5, 9), (5, 10)]).is_none());
        assert!(restore(vec![(5, 9), (6, 10)]).is_some());
    }
}
