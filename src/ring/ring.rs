//! FlushBufferRing: RING_SIZE FlushBuffers used round-robin, and the way of an append through them.
//!
//! The fast path is [`FlushBufferRing::try_reserve`] up to its `match`, and `release`: a load of CURRENT, one exchange
//! of that buffer's state word, the caller's copy, and one subtraction. No lock, no call into the kernel, and no cache
//! line shared with anything but other claims.
use super::flush_buffer::{BufferMsg, FlushBuffer};
use super::reservation::Reservation;
use super::rotation::Rotation;
use super::stage::Stage;
use super::sync::{AtomicU64, AtomicUsize, Condvar, Mutex, Ordering};
use crate::io::buffer::SharedBuffer;
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// Buffers in a ring, unless a setting says otherwise.
pub const RING_SIZE: usize = 4;
/// One buffer takes claims while another is flushed.
pub const MIN_RING_SIZE: usize = 2;
/// The free buffers are the bits of one word.
pub const MAX_RING_SIZE: usize = 64;

/// Why nothing was reserved. Nothing was claimed or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// All buffers wait for their flush: wait, or queue until [`Stage::slot_free`].
    #[error("the flush ring is full")]
    RingFull,
    /// The stage has no place for it.
    #[error("no room behind the flush ring")]
    NoRoom,
    /// Larger than a buffer.
    #[error("larger than a buffer of the flush ring")]
    TooLarge,
    /// The ring takes no more.
    #[error("the flush ring is closed")]
    Closed,
}

/// The ring.
pub struct FlushBufferRing<S: Stage> {
    /// CURRENT: the buffer that takes reservations. Read by every append, written once per rotation.
    pub(super) current: CachePadded<AtomicUsize>,
    pub(super) slots: Box<[FlushBuffer]>,
    pub(super) stage: Arc<S>,
    pub(super) rotation: CachePadded<Mutex<Rotation>>,
    /// An open buffer is there again, or never will be.
    pub(super) room: Condvar,
    /// An overtaken claim was taken back.
    pub(super) settled: Condvar,
    /// LSN of the first claimable byte of the filling placed last.
    pub(super) next_lsn: AtomicU64,
    /// No claim can be larger than this.
    pub(super) largest: usize,
}

impl<S: Stage> FlushBufferRing<S> {
    /// A ring over `buffers`. Nothing else may write to them from now on but through the ring. Asks `stage` for the
    /// place of the first filling.
    ///
    /// # Panics
    /// With fewer than [`MIN_RING_SIZE`] or more than [`MAX_RING_SIZE`] buffers, with the same buffer twice, or with
    /// one of 4 GiB or more, whose offsets the state word cannot hold.
    pub fn new(buffers: Vec<SharedBuffer>, stage: Arc<S>) -> Self {
        assert!(
            (MIN_RING_SIZE..=MAX_RING_SIZE).contains(&buffers.len()),
            "a flush ring has {MIN_RING_SIZE} to {MAX_RING_SIZE} buffers"
        );
        for (i, one) in buffers.iter().enumerate() {
            assert!(u32::try_from(one.len()).is_ok(), "a buffer of the flush ring is below 4 GiB");
            assert!(!buffers.iter().skip(i + 1).any(|other| other.same(one)), "a flush ring uses each buffer once");
        }
        let largest = buffers.iter().map(SharedBuffer::len).min().unwrap_or(0);
        let slots: Box<[FlushBuffer]> =
            buffers.into_iter().enumerate().map(|(slot, buffer)| FlushBuffer::new(slot, buffer)).collect();
        let ring = Self {
            // The last, so that the first filling opens buffer 0.
            current: CachePadded::new(AtomicUsize::new(slots.len() - 1)),
            rotation: CachePadded::new(Mutex::new(Rotation::new(slots.len()))),
            slots,
            stage,
            room: Condvar::new(),
            settled: Condvar::new(),
            next_lsn: AtomicU64::new(0),
            largest,
        };
        ring.first_filling();
        ring
    }

    /// Claims `len` bytes; never waits for a flush.
    #[inline]
    pub fn try_reserve(&self, len: usize) -> Result<Reservation<'_, S>, ReserveError> {
        let slot = self.current_slot();
        match slot.reserve_space(len) {
            Ok(start) => Ok(Reservation::new(self, slot, start, len)),
            Err(refused) => self.reserve_slowly(slot, len, refused),
        }
    }

    /// Claims `len` bytes; sleeps while the ring is full.
    #[inline]
    pub fn reserve(&self, len: usize) -> Result<Reservation<'_, S>, ReserveError> {
        match self.try_reserve(len) {
            Err(ReserveError::RingFull) => self.reserve_waiting(len),
            done => done,
        }
    }

    #[cold]
    fn reserve_waiting(&self, len: usize) -> Result<Reservation<'_, S>, ReserveError> {
        loop {
            self.wait_for_room();
            match self.try_reserve(len) {
                Err(ReserveError::RingFull) => {}
                done => return done,
            }
        }
    }

    /// Reserves, copies and commits `payload` as it is; gives its LSN. Sleeps while the ring is full.
    #[inline]
    pub fn append(&self, payload: &[u8]) -> Result<u64, ReserveError> {
        let mut reservation = self.reserve(payload.len())?;
        let lsn = reservation.lsn();
        reservation.bytes().copy_from_slice(payload);
        reservation.commit();
        Ok(lsn)
    }

    /// The buffer that takes reservations, or did a moment ago.
    #[inline]
    pub(super) fn current_slot(&self) -> &FlushBuffer {
        let current = self.current.load(Ordering::Acquire);
        debug_assert!(current < self.slots.len());
        // SAFETY: CURRENT is only ever set to the index of a slot, in `new` and in `open_next`.
        unsafe { self.slots.get_unchecked(current) }
    }

    /// Gives a pin back, and flushes the buffer if that was left to us.
    #[inline]
    pub(super) fn release(&self, slot: &FlushBuffer) {
        if slot.release() == BufferMsg::FreeToFlush {
            self.dispatch(slot);
        }
    }

    #[cold]
    #[inline(never)]
    fn dispatch(&self, slot: &FlushBuffer) {
        if let Some(fill) = slot.begin_flush() {
            debug_assert!(fill.start <= fill.end);
            self.stage.flush(fill);
        }
    }

    pub(super) fn stage(&self) -> &S {
        &self.stage
    }
}

impl<S: Stage> Drop for FlushBufferRing<S> {
    /// What is staged is handed to the stage, which by then can no longer reach the ring: who wants to wait for the
    /// flushes closes the ring first.
    fn drop(&mut self) {
        self.close();
    }
}
