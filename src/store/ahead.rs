//! Reading ahead: while a reader that goes on from where it was takes one chunk, the next are on their way.
//!
//! What is read ahead is kept only if it checks. What does not, or can't be read, is left to the reader that gets
//! there: it alone looks for the way around damage, and says so.

use super::LogStructuredStore;
use super::read::{CHUNK, Job};
use crate::format::{FrameSeed, Lsn};
use crate::io::{Buffer, BufferAllocError, IoError};

/// Chunks that are there, or on their way, in front of a reader.
const AHEAD: usize = 2;
/// Between two fillings lie a mark and padding: a chunk that begins with them must still hold the largest record.
const MARKS: u64 = 64 << 10;

impl LogStructuredStore {
    /// A job was served up to its LSN: bring what lies behind, if its reader goes on.
    pub(super) fn read_ahead(&self, job: &Job) {
        // The first bytes of a log are often all that is wanted.
        if !job.sequential || job.out.len() as u64 >= job.offset {
            return;
        }
        let (mut lsn, mut seed) = (job.lsn, job.seed);
        for _ in 0..=AHEAD {
            match self.chunks.behind(lsn) {
                Some(next) => (lsn, seed) = next,
                None => return self.bring(lsn, seed, job.stop),
            }
        }
    }

    /// Read the chunk at `lsn`, if it is whole and nobody reads it yet.
    fn bring(&self, lsn: Lsn, seed: Option<FrameSeed>, stop: Lsn) {
        let base = self.shape.block_down(lsn);
        let end = self.shape.block_up(lsn + CHUNK + MARKS).min(self.shape.segment_end(lsn));
        let (oldest, _) = self.ring.live_range();
        // What is not written yet, or may still be taken from the ring, is nothing to read.
        if lsn >= stop || end > self.flusher.commit.written() || lsn >= oldest {
            return;
        }
        let Some(offset) = self.flusher.space().table.device_offset(base) else { return };
        let Some(number) = self.reads.launch_ahead(base..end) else { return };
        let len = (end - base) as usize;
        let Ok(buffer) = self.read_buffer(len) else {
            let others = self.reads.give_up(number);
            return others.into_iter().for_each(Job::no_memory);
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
    }

    /// A buffer for a read: one that was used before, if there is one of that length.
    pub(super) fn read_buffer(&self, len: usize) -> Result<Buffer, BufferAllocError> {
        self.chunks.used_buffer(len).map_or_else(|| self.io.buffer(len), Ok)
    }
}
