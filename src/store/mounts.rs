//! Which mount wrote the frames at an LSN.
//!
//! A crash leaves frames behind the end of the log that check and are no part of it, and the next mount writes over
//! them. Should the disk lose such a write and say nothing, the old frames are still there, at the right LSN. Whoever
//! knows which mount's frames belong there does not take them for live ones.

use crate::format::{Lsn, MountEntry};

/// Mounts remembered, at most; of older ones nothing is known, and their frames are believed by their checksum.
const REMEMBERED: usize = 64 * 1024;

/// The mounts whose frames the log holds, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    entries: Vec<MountEntry>,
}

impl Mounts {
    /// What a checkpoint knows.
    pub fn restore(entries: Vec<MountEntry>) -> Self {
        Self { entries }
    }

    /// A mount that begins with a frame at `first_lsn`. What was known of the same or later LSNs is forgotten: it was
    /// cut.
    pub fn begin(&mut self, mount: MountEntry) {
        self.entries.retain(|entry| entry.first_lsn < mount.first_lsn && entry.epoch < mount.epoch);
        if self.entries.len() >= REMEMBERED {
            self.entries.remove(0);
        }
        self.entries.push(mount);
    }

    /// Nothing of the log lies below `lsn` any more.
    pub fn forget_below(&mut self, lsn: Lsn) {
        let from = self.entries.partition_point(|entry| entry.first_lsn <= lsn).saturating_sub(1);
        self.entries.drain(..from);
    }

    fn last_at(&self, lsn: Lsn) -> Option<usize> {
        self.entries.partition_point(|entry| entry.first_lsn <= lsn).checked_sub(1)
    }

    /// Epoch of the frames at `lsn`, if it is known.
    pub fn epoch_at(&self, lsn: Lsn) -> Option<u64> {
        self.last_at(lsn).and_then(|at| self.entries.get(at)).map(|entry| entry.epoch)
    }

    /// `lsn`, or the first frame behind it if a mount was cut at or before `lsn` and the next began behind it.
    pub fn over_gap(&self, lsn: Lsn) -> Lsn {
        match self.next_behind(lsn) {
            Some(entry) if entry.cut_lsn <= lsn => entry.first_lsn,
            _ => lsn,
        }
    }

    /// No frame that begins at `lsn` and is part of the log reaches beyond this: it is of a mount that was cut here. At
    /// most `end`.
    pub fn end_of(&self, lsn: Lsn, end: Lsn) -> Lsn {
        let next = self.next_behind(lsn).map(|next| if next.cut_lsn > lsn { next.cut_lsn } else { next.first_lsn });
        next.map_or(end, |next| next.min(end))
    }

    /// The next mount behind `lsn`.
    pub fn next_behind(&self, lsn: Lsn) -> Option<&MountEntry> {
        self.entries.get(self.last_at(lsn).map_or(0, |at| at + 1))
    }

    /// All, for a checkpoint.
    pub fn entries(&self) -> &[MountEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(epoch: u64, cut_lsn: Lsn, first_lsn: Lsn) -> MountEntry {
        MountEntry { epoch, cut_lsn, first_lsn }
    }

    #[test]
    fn every_lsn_has_its_mount_and_gaps_are_passed_over() {
        let mut mounts = Mounts::restore(vec![mount(2, 100, 112)]);
        mounts.begin(mount(5, 500, 512));
        assert_eq!((mounts.epoch_at(50), mounts.epoch_at(112), mounts.epoch_at(511)), (None, Some(2), Some(2)));
        assert_eq!(mounts.epoch_at(512), Some(5));
        assert_eq!((mounts.over_gap(99), mounts.over_gap(100), mounts.over_gap(111)), (99, 112, 112));
        assert_eq!((mounts.over_gap(112), mounts.over_gap(499), mounts.over_gap(505)), (112, 499, 512));
        assert_eq!(mounts.over_gap(9000), 9000);
        assert_eq!((mounts.end_of(50, 4096), mounts.end_of(105, 4096), mounts.end_of(112, 4096)), (100, 112, 500));
        assert_eq!((mounts.end_of(112, 400), mounts.end_of(600, 4096)), (400, 4096));
    }

    #[test]
    fn a_mount_that_was_cut_before_its_first_frame_is_forgotten() {
        let mut mounts = Mounts::default();
        mounts.begin(mount(2, 100, 100));
        mounts.begin(mount(3, 200, 208));
        mounts.begin(mount(4, 150, 160));
        assert_eq!(mounts.entries(), &[mount(2, 100, 100), mount(4, 150, 160)]);
        mounts.begin(mount(4, 150, 160));
        assert_eq!(mounts.entries().len(), 2);
        mounts.forget_below(170);
        assert_eq!(mounts.entries(), &[mount(4, 150, 160)]);
    }
}
