//! Reading ahead: while a reader that goes on from where it was takes one chunk, the next pieces are on their way, side
//! by side.
//!
//! To ask a device for a piece takes longer than to answer a reader. So a reader only begins, when little is left in front
//! of it; as long as pieces land, the thread that takes them asks for the next ones.
//!
//! Where frames begin in a piece is known when the one before it was checked: then the rest of its last frame is put in
//! front of the piece, and its frames are checked and become a chunk.
//!
//! What is read ahead is kept only if it checks. What does not, or can't be read, is left to the reader that gets
//! there: it alone looks for the way around damage, and says so.

use super::LogStructuredStore;
use super::pieces::{HEADROOM, Landed, PIECE, Piece, Reader};
use super::read::Job;
use super::types::LogId;
use crate::format::Lsn;
use crate::io::{Buffer, BufferAllocError, IoError};

/// Pieces that are there, or on their way, in front of a reader.
const AHEAD: usize = 5;
/// So few of them, none of which is on its way, make the reader ask for the next.
const LOW: usize = 2;

impl LogStructuredStore {
    /// A job was served up to its LSN: bring what lies behind, if its reader goes on.
    pub(super) fn read_ahead(&self, job: &Job) {
        // The first bytes of a log are often all that is wanted.
        if !job.sequential || job.out.len() as u64 >= job.offset {
            return;
        }
        let reader = Reader { log: job.log, lsn: job.lsn, stop: job.stop, range_end: job.range_end };
        if !self.pieces.reads(reader) {
            self.bring_more(reader, LOW);
        }
    }

    /// Ask for pieces until so many lie in front of a reader.
    fn bring_more(&self, mut reader: Reader, most: usize) {
        let mut count = 0;
        loop {
            let (there, edge) = self.chunks.reach(reader.lsn);
            let mut begins = edge.is_none().then_some(reader.lsn);
            let (mut edge, coming) = self.pieces.reach(edge.unwrap_or_else(|| self.shape.block_down(reader.lsn)));
            count += there + coming;
            while edge < reader.stop && count <= most {
                let Some(next) = self.bring(reader.log, edge, begins.take().filter(|_| coming == 0)) else { return };
                (edge, count) = (next, count + 1);
            }
            if count > most {
                return;
            }
            let Some(next) = self.range_behind(reader) else { return };
            reader = next;
        }
    }

    /// Where the log goes on behind the range that the reader is in.
    fn range_behind(&self, reader: Reader) -> Option<Reader> {
        let state = self.catalog.lock(reader.log)?;
        let range = state.ranges.find(reader.range_end)?;
        let stop = self.shape.segment_end(range.lsn).min(state.end_lsn);
        Some(Reader { lsn: range.lsn, stop, range_end: range.end(), ..reader })
    }

    /// Read the piece at `edge`, on a block: where it ends. `None`: it can't be read ahead now.
    fn bring(&self, log: LogId, edge: Lsn, begins: Option<Lsn>) -> Option<Lsn> {
        let end = self.shape.block_up(edge + PIECE).min(self.shape.segment_end(edge));
        let (oldest, _) = self.ring.live_range();
        // What is not written yet, or may still be taken from the ring, is nothing to read.
        if end > self.flusher.commit.written() || edge >= oldest {
            return None;
        }
        let offset = self.flusher.space().table.device_offset(edge)?;
        let base = edge.saturating_sub(HEADROOM).max(self.shape.segment_start(self.shape.sequence(edge)));
        // Its reader may come for the frame that the chunk before ends in.
        let from = begins.or_else(|| self.chunks.up_to(edge).map(|before| before.lsns.end)).unwrap_or(edge);
        let number = self.reads.launch_ahead(from.min(edge)..end)?;
        let (front, len) = ((edge - base) as usize, (end - edge) as usize);
        let Ok(buffer) = self.read_buffer(front + len) else {
            let others = self.reads.give_up(number);
            others.into_iter().for_each(Job::no_memory);
            return None;
        };
        self.pieces.add(Piece { number, log, lsns: edge..end, base, begins });
        let me = self.me.clone();
        let done = move |result: Result<Buffer, IoError>| {
            let Some(store) = me.upgrade() else { return };
            store.arrived(store.pieces.land(number, result.ok()));
        };
        self.io.read(buffer, front..front + len, offset, Box::new(done));
        Some(end)
    }

    /// A piece has landed: before it is checked, which takes a while, ask for the next one behind all that were asked for, so
    /// that the device goes on.
    ///
    /// Only if this one can be checked, only forwards, and not far from where the reader was seen: else one that does not check
    /// would let others follow that do not either.
    fn bring_behind(&self, piece: &Piece) {
        let Some(reader) = self.pieces.reader(piece.log) else { return };
        if piece.begins.is_none() && self.chunks.up_to(piece.lsns.start).is_none() {
            return;
        }
        let (edge, _) = self.pieces.reach(piece.lsns.start);
        let far = edge.saturating_sub(reader.lsn) > AHEAD as u64 * PIECE;
        if (reader.lsn..reader.stop).contains(&edge) && !far {
            self.bring(piece.log, edge, None);
        }
    }

    /// A piece can be checked, and then those behind it that have landed before.
    fn arrived(&self, mut landed: Option<Landed>) {
        while let Some((piece, buffer)) = landed {
            if buffer.is_some() {
                self.reads.is_here(piece.number);
                self.bring_behind(&piece);
                // What gives it to the device may be a thread of the kernel's, as with a loop device, that waits for this
                // processor.
                crate::sync::thread::yield_now();
            }
            let end = buffer.and_then(|buffer| self.check_piece(&piece, buffer));
            let behind = self.pieces.settled(&piece);
            if let (Some(end), Some((number, _))) = (end, &behind) {
                self.reads.begins(*number, end);
            }
            // Whoever waited finds the chunk, or reads for itself.
            self.landed(piece.number);
            if let (Some(_), Some(reader)) = (end, self.pieces.reader(piece.log))
                && self.chunks.reach(reader.lsn).1.is_some()
            {
                self.bring_more(reader, AHEAD);
            }
            landed = behind.and_then(|(_, landed)| landed);
        }
    }

    /// Put what the chunk before ends with in front of a piece, and keep its frames: where they end.
    fn check_piece(&self, piece: &Piece, mut buffer: Buffer) -> Option<Lsn> {
        let (lsn, seed) = match piece.begins {
            Some(lsn) => (lsn, None),
            None => {
                let before = self.chunks.up_to(piece.lsns.start)?;
                let rest = before.rest();
                let front = (piece.lsns.start - piece.base) as usize;
                let room = buffer.as_mut_slice().get_mut(front.checked_sub(rest.len())?..front)?;
                room.copy_from_slice(rest);
                (before.lsns.end, before.seed)
            }
        };
        self.keep_ahead(lsn, seed, buffer, piece.base, piece.lsns.end)
    }

    /// A buffer for a read of `len` bytes, or longer: one that was used before, if there is one.
    pub(super) fn read_buffer(&self, len: usize) -> Result<Buffer, BufferAllocError> {
        let usual = (PIECE + HEADROOM) as usize;
        // A sequential reader's are as long as any: each can take the place of the other.
        let room = if len > usual / 2 { len.max(usual) } else { len };
        self.chunks.used_buffer(len).map_or_else(|| self.io.buffer(room), Ok)
    }
}
