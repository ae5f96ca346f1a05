//! What the older of two checkpoints leads to, should the newer be lost: it must not be written to before that one is
//! overwritten.
//!
//! Recovery would go from it to the end of the log, through every segment that was opened since. Some of those may have
//! been let go by the newer one, which names them no more than the older does, that knew nothing of them yet.

use super::Recovery;
use crate::format::Checkpoint;
use crate::io::IoError;

impl Recovery<'_> {
    /// Segments that recovery from `older` would read are not free yet.
    pub(super) fn keep_for(&mut self, older: &Checkpoint) -> Result<(), IoError> {
        older.segments.iter().for_each(|entry| self.table.hold(entry.physical, older.generation));
        let newest = older.segments.iter().max_by_key(|entry| entry.sequence);
        let (Some(newest), Some(last)) = (newest, self.table.newest()) else { return Ok(()) };
        let (mut before, mut epoch) = (newest.physical, newest.epoch);
        for sequence in newest.sequence.saturating_add(1)..=last {
            // What is part of the log is no free segment, and its header need not be read.
            if let Some(live) = self.table.get(sequence) {
                (before, epoch) = (live.entry.physical, live.entry.epoch);
                continue;
            }
            // Where one is missing that checkpoint leads no further.
            let Some(next) = self.find_segment(sequence, Some(before), epoch, false)? else { break };
            self.table.hold(next.physical, older.generation);
            (before, epoch) = (next.physical, next.epoch);
        }
        Ok(())
    }
}
