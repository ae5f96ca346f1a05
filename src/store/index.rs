//! The sparse index of one log: known points (logical offset, LSN of the frame that starts there).
//!
//! It is not per record: a point is kept for each `granularity` bytes of log, and when there are `max_points` of
//! them every second one is dropped and the granularity doubles. So memory is bounded whatever the log's size; a
//! read walks frames from the nearest point below.

use crate::format::Lsn;

/// First granularity, in bytes of log (and of LSN distance).
pub const FIRST_GRANULARITY: u64 = 64 * 1024;

/// Points of one log.
#[derive(Debug, Clone)]
pub struct SparseIndex {
    points: Vec<(u64, Lsn)>,
    granularity: u64,
    max_points: usize,
}

impl SparseIndex {
    /// No points yet, and at most `max_points` (at least 4) ever.
    pub fn new(max_points: usize) -> Self {
        Self { points: Vec::new(), granularity: FIRST_GRANULARITY, max_points: max_points.max(4) }
    }

    /// The index a checkpoint saved. Points out of order are refused.
    pub fn restore(max_points: usize, granularity: u64, points: Vec<(u64, Lsn)>) -> Option<Self> {
        let ordered = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        (ordered && granularity >= FIRST_GRANULARITY && points.len() <= max_points.max(4)).then(|| Self {
            points,
            granularity,
            max_points: max_points.max(4),
        })
    }

    /// A frame at `lsn` holds the log from `offset`. Offsets only grow; others are ignored.
    #[inline]
    pub fn note(&mut self, offset: u64, lsn: Lsn) {
        if let Some((last_offset, last_lsn)) = self.points.last()
            && (offset <= *last_offset
                || lsn <= *last_lsn
                || (offset - last_offset < self.granularity && lsn - last_lsn < 4 * self.granularity))
        {
            return;
        }
        self.push(offset, lsn);
    }

    fn push(&mut self, offset: u64, lsn: Lsn) {
        if self.points.len() >= self.max_points {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.granularity = self.granularity.saturating_mul(2);
        }
        self.points.push((offset, lsn));
    }

    /// The nearest point at or below `offset`.
    pub fn floor(&self, offset: u64) -> Option<(u64, Lsn)> {
        let above = self.points.partition_point(|(at, _)| *at <= offset);
        above.checked_sub(1).and_then(|at| self.points.get(at)).copied()
    }

    /// Bytes of log between points.
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// All points, in order.
    pub fn points(&self) -> &[(u64, Lsn)] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_finds_the_nearest_point_and_memory_stays_bounded() {
        let mut index = SparseIndex::new(64);
        for frame in 0..100_000u64 {
            index.note(frame * 4096, 65_536 + frame * 4128);
        }
        assert!(index.points().len() <= 64);
        for offset in [0u64, 1, 4096, 123_456_789, 99_999 * 4096] {
            let (at, lsn) = index.floor(offset).unwrap();
            assert!(at <= offset);
            assert_eq!(lsn, 65_536 + at / 4096 * 4128);
            assert!(offset - at <= 2 * index.granularity());
        }
    }

    #[test]
    fn a_point_out_of_order_is_ignored_and_a_bad_checkpoint_refused() {
        let mut index = SparseIndex::new(16);
        index.note(1 << 20, 1 << 21);
        index.note(0, 1 << 22);
        assert_eq!(index.points(), &[(1 << 20, 1 << 21)]);
        assert!(SparseIndex::restore(16, FIRST_GRANULARITY, vec![(5, 9), (5, 10)]).is_none());
        assert!(SparseIndex::restore(16, FIRST_GRANULARITY, vec![(5, 9), (6, 10)]).is_some());
    }
}
