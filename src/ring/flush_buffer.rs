//! FlushBuffer: a buffer and its state word; every change of the word is here.
//!
//! # Why a claim is a compare-and-exchange and not a fetch-and-add
//!
//! An add that turns out not to fit has already moved the end that a sealer reads, and is rolled back too late; enough
//! of them at once carry one field of the word into the other. A compare-and-exchange that fails never touched the
//! word, so the offset is at all times the exact end of what was really claimed. It costs the same locked instruction.
//!
//! # What the exchange cannot see
//!
//! Between loading the word and exchanging it, a claimer holds nothing. The buffer may be sealed, flushed, recycled
//! and opened again, and the word may come to look the same. Such a claim is good: it belongs to the new filling, and
//! its address is derived only now, with the writer count pinning the filling. But the room was checked against the
//! limit of the old filling. So the limit is looked at once more behind the pin, and a claim that went past it
//! ([`BufferError::Overtaken`]) is taken back. While it stands nobody can claim behind it (the offset is past the
//! limit) and nobody can seal (`seal` refuses), so taking it back restores the word exactly.
use super::stage::{FillInfo, Placement, Why};
use super::state::{
    self, FLUSH_IN_PROGRESS_BIT, MAX_WRITERS, RECYCLED, SEALED_BIT, WRITER_MASK, WRITER_ONE, claim, offset, sealed,
    writers,
};
use super::sync::{AtomicU64, AtomicUsize, Ordering, RwLock, UnsafeCell};
use crate::io::buffer::SharedBuffer;
use crossbeam_utils::CachePadded;

/// Why a buffer gave no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferError {
    /// Closed to claims.
    Sealed,
    /// What was asked for does not fit behind the claims.
    Full,
    /// As many claims are held as the word can count.
    TooManyWriters,
    /// The claim at this offset stands, but in a filling with less room than the one that was looked at: take it back.
    Overtaken(usize),
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferMsg {
    /// The bytes are in the buffer; somebody else will flush it.
    SuccessfulWrite,
    /// Sealed, and this was the last writer: whoever is told this flushes the buffer.
    FreeToFlush,
}

/// The cold half of a filling: written while the buffer is free, read by whoever holds a pin or the guard.
#[derive(Debug, Clone, Copy)]
struct Filling {
    number: u64,
    base_lsn: u64,
    start: usize,
}

/// What the sealer leaves for the flusher.
#[derive(Debug, Clone, Copy)]
struct Closing {
    trailer: usize,
    why: Why,
}

/// A look at a filling that did not change meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) word: u64,
    pub(super) number: u64,
    pub(super) base_lsn: u64,
    pub(super) start: usize,
    pub(super) limit: usize,
}

impl Look {
    /// It holds a filling: opened and not yet recycled.
    pub(super) fn live(&self) -> bool {
        self.word != RECYCLED
    }

    /// A claim that is being taken back stands past the limit.
    pub(super) fn overtaken(&self) -> bool {
        offset(self.word) > self.limit
    }

    /// Would a claim of `len` bytes have fitted?
    pub(super) fn fits(&self, len: usize) -> bool {
        len <= self.limit.saturating_sub(offset(self.word))
    }

    /// LSN behind the last claim.
    pub(super) fn end_lsn(&self) -> u64 {
        self.base_lsn + offset(self.word) as u64
    }
}

/// A buffer of the ring with its packed state word.
pub struct FlushBuffer {
    /// Alone on its cache lines: every append writes it twice.
    state: CachePadded<AtomicU64>,
    /// Taken by readers, by opening and by recycling; never by appenders.
    guard: CachePadded<RwLock<()>>,
    /// End of the claimable bytes. Apart from `filling` because claimers look at it before they hold a pin.
    limit: AtomicUsize,
    filling: UnsafeCell<Filling>,
    closing: UnsafeCell<Closing>,
    bytes: *mut u8,
    slot: usize,
    buffer: SharedBuffer,
}

// SAFETY: `bytes` points into `buffer`, which is Send + Sync and lives as long as `self`. The cells are written only
// by the one thread that the state word and the rotation lock single out (see `open` and `close_with`), and read only
// by those that the word or the guard orders behind it; loom checks this in tests/loom_ring.rs.
unsafe impl Send for FlushBuffer {}
// SAFETY: as for Send.
unsafe impl Sync for FlushBuffer {}

impl FlushBuffer {
    pub(super) fn new(slot: usize, buffer: SharedBuffer) -> Self {
        Self {
            state: CachePadded::new(AtomicU64::new(RECYCLED)),
            guard: CachePadded::new(RwLock::new(())),
            limit: AtomicUsize::new(0),
            filling: UnsafeCell::new(Filling { number: 0, base_lsn: 0, start: 0 }),
            closing: UnsafeCell::new(Closing { trailer: 0, why: Why::Full }),
            bytes: buffer.as_ptr(),
            slot,
            buffer,
        }
    }

    pub(super) fn buffer(&self) -> &SharedBuffer {
        &self.buffer
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    // ---- claims -------------------------------------------------------------------------------------------------

    /// Claims `len` bytes and, in the same step, a place in the writer count; gives their offset in the buffer. A
    /// claim that fails leaves the word as it found it ([`BufferError::Overtaken`] apart).
    #[inline]
    pub(super) fn reserve_space(&self, len: usize) -> Result<usize, BufferError> {
        let mut word = self.state.load(Ordering::Acquire);
        let start = loop {
            if sealed(word) {
                return Err(BufferError::Sealed);
            }
            let start = offset(word);
            if len > self.limit.load(Ordering::Relaxed).saturating_sub(start) {
                return Err(BufferError::Full);
            }
            if writers(word) >= MAX_WRITERS {
                return Err(BufferError::TooManyWriters);
            }
            // Acquire: what `open` wrote is seen, and whoever used the bytes in an earlier filling is done with them.
            match self.state.compare_exchange_weak(word, word + claim(len), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break start,
                Err(now) => word = now,
            }
        };
        if start + len > self.limit.load(Ordering::Relaxed) {
            return Err(BufferError::Overtaken(start));
        }
        Ok(start)
    }

    /// Takes an overtaken claim back. False while a later one still stands behind it.
    pub(super) fn take_back(&self, start: usize, len: usize) -> bool {
        let mut word = self.state.load(Ordering::Acquire);
        while offset(word) == start + len {
            debug_assert!(!sealed(word) && writers(word) > 0);
            match self.state.compare_exchange_weak(word, word - claim(len), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Gives a place in the writer count back. Release: the bytes are seen by the flusher, whose Acquire is in
    /// `begin_flush`.
    #[inline]
    pub(super) fn release(&self) -> BufferMsg {
        let before = self.state.fetch_sub(WRITER_ONE, Ordering::Release);
        debug_assert!(writers(before) > 0, "released more often than claimed");
        if before & (WRITER_MASK | SEALED_BIT) == WRITER_ONE | SEALED_BIT {
            BufferMsg::FreeToFlush
        } else {
            BufferMsg::SuccessfulWrite
        }
    }

    /// LSN of the buffer's byte 0. Only for those who hold a place in the writer count.
    #[inline]
    pub(super) fn pinned_base_lsn(&self) -> u64 {
        // SAFETY: the caller's pin keeps the filling from being drained, so `open` cannot run; the claim's Acquire
        // ordered the last `open` before us.
        self.filling.with(|f| unsafe { (*f).base_lsn })
    }

    /// Address of the byte at `offset`, which the caller has claimed.
    #[inline]
    pub(super) fn byte(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.buffer.len());
        // SAFETY: claims end at or below `limit`, and `open` keeps that inside the buffer.
        unsafe { self.bytes.add(offset) }
    }

    // ---- rotation: the caller holds the ring's rotation lock ------------------------------------------------------

    /// Closes the buffer to claims, reads its exact end and pins it, all in one step. The pin keeps it from being
    /// flushed until `close_with` has been called and the pin is given back by `release`. Refused without claims
    /// unless `empty_too`, and while an overtaken claim stands.
    pub(super) fn seal(&self, empty_too: bool) -> Result<usize, SealRefused> {
        let limit = self.limit.load(Ordering::Relaxed);
        // SAFETY: `open` runs under the rotation lock only, which the caller holds.
        let start = self.filling.with(|f| unsafe { (*f).start });
        let mut word = self.state.load(Ordering::Acquire);
        // Each turn lost is a claim or a release won by somebody else.
        loop {
            debug_assert!(!sealed(word), "sealed twice");
            let end = offset(word);
            if end > limit {
                return Err(SealRefused::Overtaken);
            }
            if end == start && writers(word) == 0 && !empty_too {
                return Err(SealRefused::Empty);
            }
            match self.state.compare_exchange_weak(
                word,
                (word | SEALED_BIT) + WRITER_ONE,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(end),
                Err(now) => word = now,
            }
        }
    }

    /// Makes the open buffer free again if it has no claims: there is nothing to flush.
    pub(super) fn retire(&self) -> bool {
        // SAFETY: `open` runs under the rotation lock only, which the caller holds.
        let unclaimed = state::open(self.filling.with(|f| unsafe { (*f).start }));
        self.state.compare_exchange(unclaimed, RECYCLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What was sealed, for the sealer: it holds a pin and the rotation lock.
    pub(super) fn sealed_fill(&self, end: usize, why: Why) -> FillInfo {
        // SAFETY: `open` runs under the rotation lock only, which the caller holds.
        let filling = self.filling.with(|f| unsafe { *f });
        debug_assert!(filling.start <= end);
        FillInfo {
            number: filling.number,
            slot: self.slot,
            base_lsn: filling.base_lsn,
            start: filling.start,
            end,
            trailer: 0,
            why,
        }
    }

    /// Leaves the flusher what the sealer knows.
    pub(super) fn close_with(&self, trailer: usize, why: Why) {
        debug_assert!(sealed(self.state.load(Ordering::Relaxed)));
        // SAFETY: one sealer per filling, and its pin keeps the flusher, the only reader, away until `release`.
        self.closing.with_mut(|c| unsafe { *c = Closing { trailer, why } });
    }

    /// Opens the free buffer for filling `number`: address first, claims last.
    pub(super) fn open(&self, number: u64, at: &Placement) {
        let guard = self.guard.write();
        // SAFETY: the buffer is free, so nobody holds a pin or will flush; readers are shut out by the guard.
        self.filling.with_mut(|f| unsafe { *f = Filling { number, base_lsn: at.base_lsn, start: at.start } });
        self.limit.store(at.limit, Ordering::Relaxed);
        let was = self.state.compare_exchange(RECYCLED, state::open(at.start), Ordering::AcqRel, Ordering::Acquire);
        debug_assert!(was.is_ok(), "opened a buffer that was not free");
        drop(guard);
    }

    // ---- flush and recycling --------------------------------------------------------------------------------------

    /// Wins the flush of a drained filling: `Some` once per filling.
    pub(super) fn begin_flush(&self) -> Option<FillInfo> {
        let before = self.state.fetch_or(FLUSH_IN_PROGRESS_BIT, Ordering::AcqRel);
        debug_assert!(sealed(before) && writers(before) == 0);
        if before & FLUSH_IN_PROGRESS_BIT != 0 {
            debug_assert!(false, "flushed twice");
            return None;
        }
        // SAFETY: the sealer wrote both before its release, which the last release, ours, followed; and they change
        // only once this flush has been recycled.
        let (filling, closing) = unsafe { (self.filling.with(|f| *f), self.closing.with(|c| *c)) };
        Some(FillInfo {
            number: filling.number,
            slot: self.slot,
            base_lsn: filling.base_lsn,
            start: filling.start,
            end: offset(before),
            trailer: closing.trailer,
            why: closing.why,
        })
    }

    /// Makes the buffer free if it is being flushed for filling `number`. False if it is not. Waits for readers here,
    /// so that `open`, which holds the rotation lock and has to, finds none that copies.
    pub(super) fn recycle(&self, number: u64) -> bool {
        let _guard = self.guard.write();
        let word = self.state.load(Ordering::Acquire);
        if !self.flushing(word, number) {
            return false;
        }
        // Nobody but us may change the word of a drained buffer; should somebody have, it is not wiped.
        let was = self.state.compare_exchange(word, RECYCLED, Ordering::AcqRel, Ordering::Acquire);
        debug_assert!(was.is_ok(), "a drained buffer's word changed");
        was.is_ok()
    }

    /// Runs `f` on the whole buffer while it is being flushed for filling `number`.
    pub(super) fn with_bytes<R>(&self, number: u64, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let _guard = self.guard.write();
        if !self.flushing(self.state.load(Ordering::Acquire), number) {
            return None;
        }
        // SAFETY: drained, so no appender has bytes of it; not recycled, and cannot be while we hold the guard, which
        // also shuts readers out.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.bytes, self.buffer.len()) };
        Some(f(bytes))
    }

    /// Under the guard: is this `word` that of filling `number`, drained and handed out?
    fn flushing(&self, word: u64, number: u64) -> bool {
        let drained = SEALED_BIT | FLUSH_IN_PROGRESS_BIT;
        // SAFETY: `open` takes the guard for writing, and the caller holds it.
        word & (drained | WRITER_MASK) == drained && self.filling.with(|f| unsafe { (*f).number }) == number
    }

    /// Less room than the claimers saw: what only a rotation between their two steps does otherwise.
    #[cfg(test)]
    pub(super) fn shorten(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    // ---- queries: they change nothing -----------------------------------------------------------------------------

    /// Closed to claims?
    pub fn is_sealed(&self) -> bool {
        sealed(self.state.load(Ordering::Acquire))
    }

    /// The state word.
    pub fn word(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// Word and filling, of one moment.
    pub(super) fn look(&self) -> Look {
        let _guard = self.guard.read();
        self.look_guarded()
    }

    fn look_guarded(&self) -> Look {
        // SAFETY: `open` takes the guard for writing, and the caller holds it.
        let filling = self.filling.with(|f| unsafe { *f });
        Look {
            word: self.state.load(Ordering::Acquire),
            number: filling.number,
            base_lsn: filling.base_lsn,
            start: filling.start,
            limit: self.limit.load(Ordering::Relaxed),
        }
    }

    /// Copies from `lsn` on into `out`, if the claims of a live filling cover all of that.
    pub(super) fn copy_out(&self, lsn: u64, out: &mut [u8]) -> bool {
        // Held while copying: the bytes are not recycled under us.
        let _guard = self.guard.read();
        let look = self.look_guarded();
        let Some(from) = lsn.checked_sub(look.base_lsn) else {
            return false;
        };
        let end = offset(look.word).min(look.limit) as u64;
        let inside = from >= look.start as u64 && from.checked_add(out.len() as u64).is_some_and(|to| to <= end);
        if !look.live() || !inside {
            return false;
        }
        // SAFETY: inside the claims, so inside the buffer. The caller asks only for bytes whose release it knows of
        // (see `FlushBufferRing::read`): their writer is done, and other writers are in other bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(self.byte(from as usize), out.as_mut_ptr(), out.len());
        }
        true
    }
}

/// Why a buffer was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SealRefused {
    /// It has no claims.
    Empty,
    /// A claim is about to be taken back: wait for that.
    Overtaken,
}
