//! A small cache of log bytes read from the device whose frames have all been checked.
//!
//! A reader that takes a large record in small pieces, as the kernel's readahead does, would else have it read and
//! checked again for every piece. What is cached never changes: frames below the written LSN are final.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::Mutex;

use crate::format::{FrameSeed, Lsn};
use crate::io::Buffer;

/// Chunks kept, at most; a chunk is at most a read of [`super::read::CHUNK`] and one largest frame.
const KEPT: usize = 6;

/// Checked frames, one behind the other.
#[derive(Clone)]
pub struct Chunk {
    /// The frames' LSNs; starts and ends on a frame.
    pub lsns: Range<Lsn>,
    /// LSN of the buffer's first byte, at or below the range.
    pub base: Lsn,
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
}

/// The cache; newest last.
#[derive(Default)]
pub struct ChunkCache {
    chunks: Mutex<Vec<Chunk>>,
}

impl ChunkCache {
    /// The chunk with the frame at `lsn`.
    pub fn get(&self, lsn: Lsn) -> Option<Chunk> {
        let mut chunks = self.chunks.lock();
        let at = chunks.iter().rposition(|chunk| chunk.lsns.contains(&lsn))?;
        let chunk = chunks.remove(at);
        chunks.push(chunk.clone());
        Some(chunk)
    }

    /// Keep a chunk; the one longest unused goes.
    pub fn put(&self, chunk: Chunk) {
        let mut chunks = self.chunks.lock();
        chunks.retain(|have| have.lsns.start != chunk.lsns.start);
        if chunks.len() >= KEPT {
            chunks.remove(0);
        }
        chunks.push(chunk);
    }
}
