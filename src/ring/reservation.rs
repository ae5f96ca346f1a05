//! Reservation: bytes of the ring that belong to one appender until it commits them or gives them up.
use super::flush_buffer::FlushBuffer;
use super::ring::FlushBufferRing;
use super::stage::Stage;
use std::mem::ManuallyDrop;

/// Claimed bytes at a fixed address. While it lives its buffer is not flushed, so it is short-lived: fill and commit.
/// Dropped without [`commit`](Reservation::commit) (a panic, an early return) it leaves a Failed Flush frame.
/// Forgetting it (`mem::forget`) keeps its buffer from ever being flushed.
#[must_use = "a reservation that is dropped leaves a Failed Flush frame"]
pub struct Reservation<'r, S: Stage> {
    ring: &'r FlushBufferRing<S>,
    buffer: &'r FlushBuffer,
    bytes: *mut u8,
    len: usize,
    lsn: u64,
}

// SAFETY: the claimed bytes are this reservation's alone, whichever thread it is on.
unsafe impl<S: Stage> Send for Reservation<'_, S> {}
// SAFETY: through a shared reference only the address can be read.
unsafe impl<S: Stage> Sync for Reservation<'_, S> {}

impl<'r, S: Stage> Reservation<'r, S> {
    /// Takes over the claim of `len` bytes at `start` that the caller made in `buffer`, and its pin.
    #[inline]
    pub(super) fn new(ring: &'r FlushBufferRing<S>, buffer: &'r FlushBuffer, start: usize, len: usize) -> Self {
        Self { ring, buffer, bytes: buffer.byte(start), len, lsn: buffer.pinned_base_lsn() + start as u64 }
    }

    /// LSN of its first byte.
    #[inline]
    pub fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Its bytes; what an earlier filling left is still in them.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: claimed by one exchange of the state word, so nobody else has them; inside the buffer; initialised
        // since the buffer was zeroed; and pinned by the writer count until `self` is gone.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) }
    }

    /// Releases the bytes to the flush, which is started here if the buffer is sealed and this was its last writer.
    #[inline]
    pub fn commit(self) {
        let this = ManuallyDrop::new(self);
        this.ring.release(this.buffer);
    }

    /// The buffer it is in.
    pub fn slot(&self) -> usize {
        self.buffer.slot()
    }
}

impl<S: Stage> Drop for Reservation<'_, S> {
    #[cold]
    fn drop(&mut self) {
        /// Gives the pin back also if the stage panics.
        struct Release<'a, 'r, S: Stage>(&'a Reservation<'r, S>);
        impl<S: Stage> Drop for Release<'_, '_, S> {
            fn drop(&mut self) {
                self.0.ring.release(self.0.buffer);
            }
        }
        // SAFETY: as in `bytes`; taken apart from `self` so that the pin outlives the slice.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) };
        let release = Release(self);
        release.0.ring.stage().failed_flush(self.lsn, bytes);
    }
}
