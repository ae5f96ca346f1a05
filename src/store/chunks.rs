//! A small cache of log bytes read from the device whose frames have all been checked.
//!
//! A reader that takes a large record in small pieces, as the kernel's readahead does, would else have it read and
//! checked again for every piece. What is cached never changes: frames below the written LSN are final. Buffers of
//! chunks that go are used again: a megabyte of new pages costs as much as reading it.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::Mutex;

use super::given::Lender;
use crate::format::{FrameSeed, Lsn};
use crate::io::Buffer;

/// Chunks kept, at most; a chunk is at most a read of [`super::read::CHUNK`] and one largest frame.
pub const KEPT: usize = 7;
/// Buffers kept for the next reads.
const SPARE: usize = 3;

/// Checked frames, one behind the other.
#[derive(Clone)]
pub struct Chunk {
    /// The frames' LSNs; starts and ends on a frame.
    pub lsns: Range<Lsn>,
    /// LSN of the buffer's first byte, at or below the range.
    pub base: Lsn,
    /// What is known ends here: a whole block. Behind the frames it is the beginning of the next one.
    pub until: Lsn,
    /// What was read.
    pub buffer: Arc<Buffer>,
    /// Seed of the frames behind the last one.
    pub seed: Option<FrameSeed>,
}

impl Chunk {
    /// The bytes from `lsn` to the end of the checked frames. A last VOID or PADD may reach beyond what was read.
    pub fn from(&self, lsn: Lsn) -> &[u8] {
        let bytes = self.buffer.as_slice();
        let end = bytes.len().min((self.lsns.end - self.base) as usize);
        bytes.get((lsn - self.base) as usize..end).unwrap_or(&[])
    }

    /// What was read behind the last frame.
    pub fn rest(&self) -> &[u8] {
        let place = |lsn: Lsn| (lsn - self.base) as usize;
        self.buffer.as_slice().get(place(self.lsns.end)..place(self.until)).unwrap_or(&[])
    }
}

struct Kept {
    chunk: Chunk,
    /// Whoever read it does not come back: its buffer serves for the next read.
    done: bool,
}

/// The cache; newest last.
#[derive(Default)]
pub struct ChunkCache {
    chunks: Mutex<Vec<Kept>>,
    spare: Mutex<Vec<Buffer>>,
    lender: Lender,
}

impl ChunkCache {
    /// The chunk with the frame at `lsn`.
    pub fn get(&self, lsn: Lsn) -> Option<Chunk> {
        let mut chunks = self.chunks.lock();
        let at = chunks.iter().rposition(|kept| kept.chunk.lsns.contains(&lsn))?;
        let Kept { chunk, .. } = chunks.remove(at);
        chunks.push(Kept { chunk: chunk.clone(), done: false });
        Some(chunk)
    }

    /// A reader that goes on from where it was, in a log that does not fit in here, has come to the chunk that starts at `lsn`:
    /// the one before goes first. (Not sooner: the piece behind a chunk needs what it ends with.) Fresh memory costs more than
    /// reading into it, and the less memory reads go through, the more of it is in the processor's cache.
    pub fn is_done_before(&self, lsn: Lsn) {
        let mut chunks = self.chunks.lock();
        let at = all(&chunks).position(|chunk| chunk.lsns.end == lsn);
        if let Some(at) = at {
            let Kept { chunk, .. } = chunks.remove(at);
            let others = chunks.iter().take_while(|kept| kept.done).count();
            chunks.insert(others, Kept { chunk, done: true });
        }
    }

    /// The chunks from the one with `lsn` on, one behind the other: how many, and where what was read ends, if anything
    /// was. Counts as a use of none.
    pub fn reach(&self, mut lsn: Lsn) -> (usize, Option<Lsn>) {
        let chunks = self.chunks.lock();
        let mut count = 0;
        while let Some(next) = all(&chunks).filter(|chunk| chunk.lsns.contains(&lsn)).max_by_key(|chunk| chunk.lsns.end)
        {
            (lsn, count) = (next.lsns.end, count + 1);
        }
        (count, all(&chunks).filter(|chunk| chunk.lsns.end == lsn).map(|chunk| chunk.until).max())
    }

    /// The chunk of what was read up to `until`.
    pub fn up_to(&self, until: Lsn) -> Option<Chunk> {
        all(&self.chunks.lock()).rev().find(|chunk| chunk.until == until).cloned()
    }

    /// Who lends slices of the chunks.
    pub fn lender(&self) -> &Lender {
        &self.lender
    }

    /// Keep a chunk; the one longest unused goes, of those of which nothing is lent: their memory would stay.
    pub fn put(&self, chunk: Chunk) {
        let mut chunks = self.chunks.lock();
        let same = all(&chunks).position(|have| have.lsns.start == chunk.lsns.start);
        let unused = || all(&chunks).position(is_unused).unwrap_or(0);
        let goes = same.or_else(|| (chunks.len() >= KEPT).then(unused)).map(|at| chunks.remove(at));
        chunks.push(Kept { chunk, done: false });
        drop(chunks);
        // Not if a reader is still copying from it.
        if let Some(buffer) = goes.and_then(|kept| Arc::try_unwrap(kept.chunk.buffer).ok()) {
            self.give_back(buffer);
        }
    }

    /// A buffer of at least this length that was used before: what is in it is old.
    pub fn used_buffer(&self, len: usize) -> Option<Buffer> {
        let mut spare = self.spare.lock();
        // The last one that was used: what is in the processor's cache still, a device fills sooner.
        if let Some(at) = spare.iter().rposition(|buffer| buffer.len() >= len) {
            return Some(spare.swap_remove(at));
        }
        drop(spare);
        let mut chunks = self.chunks.lock();
        let fits = |kept: &Kept| kept.done && kept.chunk.buffer.len() >= len && is_unused(&kept.chunk);
        let at = chunks.iter().position(fits)?;
        Arc::try_unwrap(chunks.remove(at).chunk.buffer).ok()
    }

    fn give_back(&self, buffer: Buffer) {
        let mut spare = self.spare.lock();
        if spare.len() >= SPARE {
            spare.remove(0);
        }
        spare.push(buffer);
    }
}

fn all(chunks: &[Kept]) -> impl DoubleEndedIterator<Item = &Chunk> + ExactSizeIterator {
    chunks.iter().map(|kept| &kept.chunk)
}

/// Nothing of it is lent, and nobody copies from it.
fn is_unused(chunk: &Chunk) -> bool {
    Arc::strong_count(&chunk.buffer) == 1
}
