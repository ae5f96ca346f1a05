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

/// Where a chunk begins.
#[derive(Clone, Copy)]
struct Place {
    /// With the frame here,
    lsn: Lsn,
    /// which has this seed, if it is known.
    seed: Option<FrameSeed>,
    /// Nothing of the log lies behind this in the same segment.
    stop: Lsn,
}

impl LogStructuredStore {
    /// A job was served up to its LSN: bring what lies behind, if its reader goes on.
    pub(super) fn read_ahead(&self, job: &Job) {
        // The first bytes of a log are often all that is wanted.
        if !job.sequential || job.out.len() as u64 >= job.offset {
            return;
        }
        let mut at = Place { lsn: job.lsn, seed: job.seed, stop: job.stop };
        let mut known = None;
        for left in (0..=AHEAD).rev() {
            if let Some((lsn, seed)) = self.chunks.behind(at.lsn) {
                at = Place { lsn, seed, ..at };
                if lsn < at.stop {
                    continue;
                }
            }
            let from = if at.lsn < at.stop { self.bring(at, left) } else { Some(at.lsn) };
            // Behind the last one nothing is brought: where it would begin is not looked up.
            let Some(from) = from.filter(|_| left > 0) else { return };
            let known = known.get_or_insert_with(|| self.known_ahead(job));
            // The last frame that is known to begin in this chunk begins the next one; if the segment ends in it, the
            // first that is known in the next.
            let within = |next: &&Place| next.stop == at.stop && (from + 1..=from + CHUNK).contains(&next.lsn);
            let next = match known.iter().rev().find(within) {
                None if at.stop <= from + CHUNK => known.iter().find(|next| next.lsn >= at.stop),
                next => next,
            };
            let Some(next) = next else { return };
            at = *next;
        }
    }

    /// Where frames of the job's log are known to begin, in the log's order, as far as it is read ahead.
    fn known_ahead(&self, job: &Job) -> Vec<Place> {
        let Some(state) = self.catalog.lock(job.log) else { return Vec::new() };
        let until = job.offset.saturating_add((AHEAD as u64 + 1) * CHUNK).min(state.entry.size);
        let (mut places, mut offset) = (Vec::new(), job.offset);
        while let Some(range) = state.ranges.find(offset).filter(|_| offset < until) {
            let stop = self.shape.segment_end(range.lsn).min(state.end_lsn);
            let points = state.index.between(offset, range.end().min(until)).iter().map(|(_, lsn)| *lsn);
            let inside = std::iter::once(range.lsn).chain(points).filter(|lsn| (range.lsn..stop).contains(lsn));
            places.extend(inside.map(|lsn| Place { lsn, seed: None, stop }));
            offset = range.end();
        }
        places
    }

    /// Read the chunk at `at`, if it is whole, and behind it so many more: where what brings it begins. `None`: it can't
    /// be read ahead now.
    fn bring(&self, at: Place, more: usize) -> Option<Lsn> {
        let Place { lsn, seed, stop } = at;
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
            let kept = result.ok().and_then(|buffer| store.keep_ahead(lsn, seed, buffer, base, end));
            // Whoever waited finds the chunk, or reads for itself.
            store.landed(number);
            if let (Some((lsn, seed)), Some(more)) = (kept, more.checked_sub(1))
                && store.chunks.behind(lsn).is_none()
            {
                store.bring(Place { lsn, seed, stop }, more);
            }
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
