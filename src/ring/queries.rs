//! Queries: bytes that are still staged, LSNs, the state of each buffer. They change nothing and take no lock that an
//! append could meet.
use super::flush_buffer::Look;
use super::ring::FlushBufferRing;
use super::stage::{FillInfo, Stage};
use super::state::Decoded;
use super::sync::{self, Ordering};
use crate::io::buffer::SharedBuffer;

/// One buffer of the ring as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// Its place in the ring.
    pub slot: usize,
    /// It is CURRENT.
    pub current: bool,
    /// Number of its filling, or of its last one if it is free.
    pub number: u64,
    /// It has been opened and not yet recycled.
    pub live: bool,
    /// The state word.
    pub word: u64,
    /// The same taken apart.
    pub state: Decoded,
    /// LSN of its byte 0.
    pub base_lsn: u64,
    /// First claimable byte.
    pub start: usize,
    /// Claims end at or below this.
    pub limit: usize,
}

impl<S: Stage> FlushBufferRing<S> {
    /// A handle of the buffer in `slot`, `None` if there is no such slot.
    pub fn buffer(&self, slot: usize) -> Option<SharedBuffer> {
        self.slots.get(slot).map(|slot| slot.buffer().clone())
    }

    /// Buffers in the ring.
    pub fn ring_size(&self) -> usize {
        self.slots.len()
    }

    /// Runs `f` on the whole buffer of a filling that is flushed and not yet recycled: for the stage's trailer and
    /// for what lies before the first claim. Shuts out readers and `recycle` meanwhile, so `f` is short and does not
    /// call the ring; the stage must not have given the buffer to the device yet.
    ///
    /// # Panics
    /// If `fill` is not such a filling: the caller mixed up its flushes.
    pub fn with_filling<R>(&self, fill: &FillInfo, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let done = self.slots.get(fill.slot).and_then(|slot| slot.with_bytes(fill.number, f));
        assert!(done.is_some(), "not being flushed: {fill:?}");
        match done {
            Some(r) => r,
            None => unreachable!(),
        }
    }

    /// Copies `out.len()` bytes from `lsn` on, if the claims of one live filling cover them all; else changes nothing
    /// and says false. Recycling waits while this copies. Ask only for bytes whose commit you know of (by a lock or
    /// an atomic of your own, written after the commit): others may still be being written.
    pub fn read(&self, lsn: u64, out: &mut [u8]) -> bool {
        self.slots.iter().any(|slot| slot.copy_out(lsn, out))
    }

    /// LSN behind the last claim; with no open buffer, of the first byte of the next one. Never below a claim that the
    /// caller knows of.
    pub fn end_lsn(&self) -> u64 {
        // All buffers and not CURRENT alone: a buffer takes claims a moment before it is published as CURRENT.
        'again: loop {
            let mut end = 0;
            for slot in &self.slots {
                let look = slot.look();
                if look.live() && look.overtaken() {
                    // Its end is known in a few instructions of another thread.
                    sync::yield_now();
                    continue 'again;
                }
                if look.live() {
                    end = end.max(look.end_lsn());
                }
            }
            // Last: whoever recycled what was seen as free had sealed it before, and so moved this past its end.
            return end.max(self.next_lsn.load(Ordering::Acquire));
        }
    }

    /// LSNs of the first claimable byte of the oldest live filling, and of the end of the claims. What lies below has
    /// been flushed and recycled.
    pub fn live_range(&self) -> (u64, u64) {
        let oldest = self
            .slots
            .iter()
            .map(|slot| slot.look())
            .filter(Look::live)
            .map(|look| look.base_lsn + look.start as u64)
            .min();
        let end = self.end_lsn();
        (oldest.unwrap_or(end), end)
    }

    /// Each buffer as it stands, for people to look at.
    pub fn states(&self) -> Vec<SlotState> {
        let current = self.current.load(Ordering::Acquire);
        self.slots
            .iter()
            .enumerate()
            .map(|(slot, buffer)| {
                let look = buffer.look();
                SlotState {
                    slot,
                    current: slot == current,
                    number: look.number,
                    live: look.live(),
                    word: look.word,
                    state: Decoded::of(look.word),
                    base_lsn: look.base_lsn,
                    start: look.start,
                    limit: look.limit,
                }
            })
            .collect()
    }
}
