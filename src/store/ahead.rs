//! Reading ahead: while a reader that goes on from where it was takes one chunk, the next are on their way, side by
//! side.
//!
//! Where a chunk ends is known only when it is there. The log's index knows frames beyond that, and each of them can
//! begin a chunk: chunks overlap a little, and together they are whole.
//!
//! What is read ahead is kept only if it checks. What does not, or can't be read, is left to the reader that gets
//! there: it alone looks for the way around damage, and says so.

use super::LogStructuredStore;
use super::read::{CHUNK, Job, MARKS};
use super::reads::Launch;
use crate::format::{FrameSeed, Lsn};
use crate::io::{Buffer, BufferAllocError, IoError};

/// Chunks that are there, or on their way, in front of a reader.
const AHEAD: usize = 3;

impl LogStructuredStore {
    /// A job was served up to its LSN: bring what lies behind, if its reader goes on.
    pub(super) fn read_ahead(&self, job: &Job) {
        // The first bytes of a log are often all that is wanted.
        if !job.sequential || job.out.len() as u64 >= job.offset {
            return;
        }
        let (mut lsn, mut seed) = (job.lsn, job.seed);
        let mut known = None;
        for _ in 0..=AHEAD {
            if let Some(next) = self.chunks.behind(lsn) {
                (lsn, seed) = next;
                continue;
            }
            let Some(from) = self.bring(lsn, seed, job.stop) else { return };
            let points = known.get_or_insert_with(|| self.points_ahead(job));
            // The last frame that is known to begin in this chunk begins the next one.
            let Some(next) = points.iter().rev().find(|at| (from + 1..=from + CHUNK).contains(*at)) else {
                return;
            };
            (lsn, seed) = (*next, None);
        }
    }

    /// Known frames of the job's range, in order, as far as it is read ahead.
    fn points_ahead(&self, job: &Job) -> Vec<Lsn> {
        let Some(state) = self.catalog.lock(job.log) else { return Vec::new() };
        let until = job.range_end.min(job.offset.saturating_add((AHEAD as u64 + 1) * CHUNK));
        let points = state.index.between(job.offset, until).iter().map(|(_, lsn)| *lsn);
        points.filter(|lsn| (job.lsn..job.stop).contains(lsn)).collect()
    }

    /// Read the chunk at `lsn`, if it is whole: where what brings it begins. `None`: it can't be read ahead now.
    fn bring(&self, lsn: Lsn, seed: Option<FrameSeed>, stop: Lsn) -> Option<Lsn> {
        let base = self.shape.block_down(lsn);
        let end = self.shape.block_up(lsn + CHUNK + MARKS).min(self.shape.segment_end(lsn));
        let (oldest, _) = self.ring.live_range();
        // What is not written yet, or may still be taken from the ring, is nothing to read.
        if lsn >= stop || end > self.flusher.commit.written() || lsn >= oldest {
            return None;
        }
        let offset = self.flusher.space().table.device_offset(base)?;
        let number = match self.reads.launch_ahead(base..end) {
            Launch::Go(number) => number,
            Launch::Flies(from) => return Some(from),
            Launch::Not => return None,
        };
        let len = (end - base) as usize;
        let Ok(buffer) = self.read_buffer(len) else {
            let others = self.reads.give_up(number);
            others.into_iter().for_each(Job::no_memory);
            return None;
        };
        let me = self.me.clone();
        let done = move |result: Result<Buffer, IoError>| {
            let Some(store) = me.upgrade() else { return };
            if let Ok(buffer) = result {
                store.keep_ahead(lsn, seed, buffer, base, end);
            }
            // Whoever waited finds the chunk, or reads for itself.
            store.landed(number);
        };
        self.io.read(buffer, len, offset, Box::new(done));
        Some(lsn)
    }

    /// A buffer for a read of `len` bytes, or longer: one that was used before, if there is one.
    pub(super) fn read_buffer(&self, len: usize) -> Result<Buffer, BufferAllocError> {
        let usual = (CHUNK + MARKS + 2 * self.shape.block) as usize;
        // A sequential reader's are as long as any: each can take the place of the other.
        let room = if len > usual / 2 { len.max(usual) } else { len };
        self.chunks.used_buffer(len).map_or_else(|| self.io.buffer(room), Ok)
    }
}
