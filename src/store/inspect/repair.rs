//! `check --repair`: writes again what is known, and nothing else. No frame is ever touched.
//!
//! One thing is written at a time, whole, and is on stable media before the next: whatever a crash leaves, the thing it
//! was made from is still there, and doing it again comes to the same.

use super::check::{CheckReport, Part};
use super::{Image, areas};
use crate::format::{Checkpoint, SegmentEntry, SegmentHeader};
use crate::io::{IoError, SharedBuffer};
use crate::store::scan::segment_header;
use crate::store::superblocks::out_of_memory;
use crate::store::types::StoreError;
use crate::store::{checkpoints, superblocks};

impl Image {
    /// Make good what `report`, of this image, calls repairable; gives a sentence for each thing done. An unclean store
    /// of which nothing is damaged and nothing would be cut becomes a clean one.
    pub fn repair(&mut self, report: &CheckReport) -> Result<Vec<String>, StoreError> {
        let features = self.superblock().unknown_ro_features();
        if features != 0 {
            return Err(StoreError::Io(format!(
                "uses features unknown to this llamafs ({features:#x}): nothing was repaired, use a newer llamafs"
            )));
        }
        Ok(self.write_all(report)?)
    }

    fn write_all(&mut self, report: &CheckReport) -> Result<Vec<String>, IoError> {
        let mut done = Vec::new();
        // What was read may not be on stable media yet; what is written now says that it is.
        self.io.flush_now()?;
        if areas::superblocks(&self.io, self.superblock()).iter().any(|copy| copy.repairable) {
            superblocks::write_next(&self.io, &mut self.opened.superblock)?;
            done.push(format!("superblock at offset {} was written again", self.opened.superblock.copy_offset()));
        }
        for finding in report.damage.iter().filter(|f| f.part == Part::SegmentHeader && f.repairable) {
            if self.write_segment_header(finding.segment)? {
                done.push(format!("header of segment {} was written again", finding.segment));
            }
        }
        self.write_checkpoints(&mut done)?;
        if self.can_be_made_clean(report) {
            self.make_clean(&mut done)?;
        }
        Ok(done)
    }

    /// All that a header says is known, but when it was first written.
    fn write_segment_header(&self, sequence: u64) -> Result<bool, IoError> {
        let table = &self.opened.recovered.table;
        let segments: Vec<SegmentEntry> = table.live().copied().collect();
        let Some(entry) = segments.iter().find(|entry| entry.sequence == sequence) else { return Ok(false) };
        let uuid = self.superblock().uuid;
        if segment_header(&self.io, &self.shape, &uuid, entry.physical, Some(sequence)).is_ok() {
            return Ok(false);
        }
        let next = segments.iter().find(|next| next.sequence == sequence + 1).map(|next| next.physical);
        let first_lsn = self.shape.segment_start(sequence);
        let header = SegmentHeader {
            uuid,
            sequence,
            first_lsn,
            epoch: entry.epoch,
            physical: entry.physical,
            next_physical: next.or_else(|| table.next_free()),
            created_ns: 0,
            stable_lsn: first_lsn.min(self.opened.recovered.stable),
        };
        let bytes = header.encode(self.superblock().block_size);
        let (offset, len) = (self.shape.device_offset(entry.physical), bytes.len());
        let mut buffer = self.io.buffer(len).map_err(|_| out_of_memory("write", offset, len))?;
        buffer.as_mut_slice().copy_from_slice(&bytes);
        self.io.write_all_now(SharedBuffer::from(buffer), 0..len, offset, false)?;
        self.io.flush_now()?;
        Ok(true)
    }

    /// The whole one again, to the other area; or, if both are lost, what reading all of the log has told.
    fn write_checkpoints(&mut self, done: &mut Vec<String>) -> Result<(), IoError> {
        let superblock = self.opened.superblock.clone();
        let (areas, newest) = areas::checkpoints(&self.io, &superblock);
        let lost = newest.is_none();
        let mut checkpoint = match newest {
            Some(newest) => newest,
            None if self.can_make_checkpoint() => self.checkpoint(0),
            None => return Ok(()),
        };
        // Both, if both were lost; which of them comes first is of no matter then.
        let times = if lost { areas.len() } else { areas.iter().filter(|area| area.repairable).count() };
        for _area in 0..times {
            checkpoint.generation += 1;
            if checkpoints::save(&self.io, &superblock, checkpoint.clone())?.is_some() {
                let offset = checkpoints::area(&superblock, checkpoint.generation);
                done.push(format!("checkpoint area at offset {offset} was written again"));
            }
            self.opened.checkpoint_generation = checkpoint.generation;
        }
        Ok(())
    }

    /// Recovery has seen every frame, none was damaged, and it knew all that they meant.
    pub(super) fn can_make_checkpoint(&self) -> bool {
        let recovered = &self.opened.recovered;
        !recovered.replay.damaged && recovered.report.damage.is_empty() && recovered.replay.next_id > 1
    }

    fn can_be_made_clean(&self, report: &CheckReport) -> bool {
        let unrepaired = report.damage.iter().any(|finding| !finding.repairable);
        let certain = self.recovery().cut_bytes == 0 && self.recovery().remarks.is_empty();
        !self.superblock().clean && !unrepaired && certain && self.can_make_checkpoint()
    }

    /// As a clean unmount does, but for the frames: a checkpoint of all there is, then a superblock that says so.
    fn make_clean(&mut self, done: &mut Vec<String>) -> Result<(), IoError> {
        let end = self.opened.recovered.end;
        let checkpoint = self.checkpoint(self.opened.checkpoint_generation);
        let checkpoint = Checkpoint { generation: checkpoint.generation + 1, ..checkpoint };
        let generation = checkpoint.generation;
        if checkpoints::save(&self.io, self.superblock(), checkpoint)?.is_none() {
            return Ok(());
        }
        self.opened.checkpoint_generation = generation;
        let superblock = &mut self.opened.superblock;
        (superblock.clean, superblock.stable_lsn, superblock.end_lsn) = (true, end, end);
        superblocks::write_next(&self.io, superblock)?;
        done.push("the store was not cleanly unmounted, nothing was lost, and it is clean now".to_owned());
        Ok(())
    }

    fn checkpoint(&self, generation: u64) -> Checkpoint {
        self.opened.recovered.checkpoint(&self.shape, self.superblock().uuid, generation)
    }
}
