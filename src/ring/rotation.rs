//! Rotation: sealing CURRENT, placing the next filling, opening the next buffer, recycling flushed ones.
//!
//! All of it happens under one lock, which appenders meet only when CURRENT cannot serve them. The order is:
//!
//! 1. seal: no claim can follow, the end is exact; the sealer's own pin keeps the flush away;
//! 2. the stage places the next filling, whether or not a buffer is free for it: its address is fixed here;
//! 3. the stage's trailer is noted for the flusher;
//! 4. if the next buffer of the round is free it is opened and published as CURRENT; else the ring is full until
//!    `recycle` opens it, at the address that was fixed;
//! 5. with the lock gone, the sealer gives its pin back, and flushes if it was the last.
use super::flush_buffer::{BufferError, FlushBuffer, SealRefused};
use super::reservation::Reservation;
use super::ring::{FlushBufferRing, ReserveError};
use super::stage::{FillInfo, Placement, Stage, Why};
use super::state::offset;
use super::sync::{self, MutexGuard, Ordering};

/// What the rotation lock protects.
#[derive(Debug)]
pub(super) struct Rotation {
    /// CURRENT takes reservations.
    open: bool,
    /// Where the next filling lies, once the last one was sealed and until the next is opened.
    pending: Option<Placement>,
    /// Number of the next filling to be opened.
    number: u64,
    /// Bit n: buffer n is free.
    free: u64,
    closed: bool,
}

impl Rotation {
    pub(super) fn new(slots: usize) -> Self {
        Self { open: false, pending: None, number: 0, free: u64::MAX >> (u64::BITS as usize - slots), closed: false }
    }
}

/// A buffer that its sealer must release once the lock is gone.
#[must_use]
struct Pinned<'r>(&'r FlushBuffer, u64);

impl<S: Stage> FlushBufferRing<S> {
    pub(super) fn first_filling(&self) {
        let at = self.stage.place(None, 0, Why::Full);
        let mut rotation = self.rotation.lock();
        self.set_pending(&mut rotation, at);
        let opened = self.open_next(&mut rotation);
        debug_assert!(opened);
    }

    /// Notes where the next filling lies, kept inside any buffer whatever the stage said.
    fn set_pending(&self, rotation: &mut Rotation, mut at: Placement) {
        debug_assert!(at.start <= at.limit && at.limit <= self.largest, "{at:?}");
        at.limit = at.limit.min(self.largest);
        at.start = at.start.min(at.limit);
        let next = at.base_lsn + at.start as u64;
        debug_assert!(next >= self.next_lsn.load(Ordering::Relaxed));
        self.next_lsn.store(next, Ordering::Release);
        debug_assert!(rotation.pending.is_none());
        rotation.pending = Some(at);
    }

    /// Opens the next buffer of the round for the pending filling, if it is free.
    fn open_next(&self, rotation: &mut Rotation) -> bool {
        debug_assert!(!rotation.open);
        let next = (self.current.load(Ordering::Relaxed) + 1) % self.slots.len();
        let (Some(at), Some(slot)) = (rotation.pending, self.slots.get(next)) else {
            return false;
        };
        if rotation.closed || rotation.free & (1 << next) == 0 {
            return false;
        }
        slot.open(rotation.number, &at);
        rotation.number += 1;
        rotation.free &= !(1 << next);
        rotation.pending = None;
        rotation.open = true;
        self.current.store(next, Ordering::Release);
        true
    }

    /// Steps 1 to 4. The caller releases what it gets once it has dropped the lock.
    fn seal_locked(
        &self,
        rotation: &mut Rotation,
        need: usize,
        why: Why,
        empty_too: bool,
    ) -> Result<Pinned<'_>, SealRefused> {
        debug_assert!(rotation.open);
        let slot = self.current_slot();
        let end = slot.seal(empty_too)?;
        rotation.open = false;
        let fill = slot.sealed_fill(end, why);
        debug_assert_eq!(fill.number + 1, rotation.number);
        let at = self.stage.place(Some(fill), need, why);
        slot.close_with(at.trailer, why);
        self.set_pending(rotation, at);
        self.open_next(rotation);
        Ok(Pinned(slot, fill.number))
    }

    /// Sleeps until no overtaken claim stands in `slot`. The lock is given away meanwhile: start over.
    fn wait_settled(&self, mut rotation: MutexGuard<'_, Rotation>, slot: &FlushBuffer) {
        while slot.look().overtaken() {
            rotation = sync::wait(&self.settled, rotation);
        }
    }

    /// Puts the word back as it was before an overtaken claim.
    fn take_back(&self, slot: &FlushBuffer, start: usize, len: usize) {
        while !slot.take_back(start, len) {
            // Another overtaken claim stands behind ours, and its owner is a few instructions from taking it back.
            sync::yield_now();
        }
        // A sealer that still saw the claim has gone to sleep once we get the lock.
        drop(self.rotation.lock());
        self.settled.notify_all();
    }

    /// The way of a claim that CURRENT did not serve at once.
    #[cold]
    #[inline(never)]
    pub(super) fn reserve_slowly<'r>(
        &'r self,
        slot: &'r FlushBuffer,
        len: usize,
        refused: BufferError,
    ) -> Result<Reservation<'r, S>, ReserveError> {
        if let BufferError::Overtaken(start) = refused {
            self.take_back(slot, start, len);
        }
        if len > self.largest {
            return Err(ReserveError::TooLarge);
        }
        // The filling that was placed for this claim.
        let mut ours = None;
        loop {
            let mut rotation = self.rotation.lock();
            if rotation.closed {
                return Err(ReserveError::Closed);
            }
            if !rotation.open {
                return Err(ReserveError::RingFull);
            }
            // Nobody rotates while we hold the lock, but others still claim from CURRENT beside us.
            let slot = self.current_slot();
            match slot.reserve_space(len) {
                Ok(start) => return Ok(Reservation::new(self, slot, start, len)),
                Err(BufferError::Full) => {
                    let look = slot.look();
                    if look.overtaken() {
                        self.wait_settled(rotation, slot);
                        continue;
                    }
                    // What filled it was taken back meanwhile.
                    if look.fits(len) {
                        continue;
                    }
                    if !self.stage.has_room(look.end_lsn(), len) {
                        return Err(ReserveError::NoRoom);
                    }
                    // A filling without claims that is too small is sealed too, so that the next lies elsewhere; but
                    // if it was placed for this very claim, the stage has no place for it, whatever it said.
                    if offset(look.word) == look.start && ours == Some(look.number) {
                        return Err(ReserveError::NoRoom);
                    }
                }
                // A new filling counts from zero.
                Err(BufferError::TooManyWriters) => {}
                Err(BufferError::Sealed | BufferError::Overtaken(_)) => {
                    debug_assert!(false, "rotated under the rotation lock");
                    return Err(ReserveError::RingFull);
                }
            }
            match self.seal_locked(&mut rotation, len, Why::Full, true) {
                Ok(pinned) => {
                    ours = Some(pinned.1 + 1);
                    drop(rotation);
                    self.release(pinned.0);
                }
                Err(_) => self.wait_settled(rotation, slot),
            }
        }
    }

    /// Sleeps while the ring is full and not closed.
    pub fn wait_for_room(&self) {
        let mut rotation = self.rotation.lock();
        while !rotation.open && !rotation.closed {
            rotation = sync::wait(&self.room, rotation);
        }
    }

    /// Seals CURRENT if it has claims; gives the number of the filling sealed. `None` if there was nothing to seal,
    /// because CURRENT has no claims or because the ring is full and all of it is sealed already.
    pub fn seal(&self, why: Why) -> Result<Option<u64>, ReserveError> {
        self.seal_current(why, false)
    }

    /// As [`seal`](Self::seal), also without claims: for a flush that carries only what the stage adds.
    /// [`ReserveError::RingFull`] if there is no open buffer.
    pub fn force_seal(&self, why: Why) -> Result<u64, ReserveError> {
        self.seal_current(why, true)?.ok_or(ReserveError::RingFull)
    }

    fn seal_current(&self, why: Why, empty_too: bool) -> Result<Option<u64>, ReserveError> {
        loop {
            let mut rotation = self.rotation.lock();
            if rotation.closed {
                return Err(ReserveError::Closed);
            }
            if !rotation.open {
                return Ok(None);
            }
            match self.seal_locked(&mut rotation, 0, why, empty_too) {
                Ok(pinned) => {
                    drop(rotation);
                    self.release(pinned.0);
                    return Ok(Some(pinned.1));
                }
                Err(SealRefused::Empty) => return Ok(None),
                Err(SealRefused::Overtaken) => self.wait_settled(rotation, self.current_slot()),
            }
        }
    }

    /// The flush of `fill` is complete: its buffer may be filled again. Once per flush, in any order, from any thread.
    pub fn recycle(&self, fill: &FillInfo) {
        // Before the lock: this waits for readers.
        let recycled = self.slots.get(fill.slot).is_some_and(|slot| slot.recycle(fill.number));
        debug_assert!(recycled, "recycled what was not being flushed: {fill:?}");
        if !recycled {
            return;
        }
        let mut rotation = self.rotation.lock();
        rotation.free |= 1 << fill.slot;
        let opened = !rotation.open && self.open_next(&mut rotation);
        drop(rotation);
        if opened {
            self.room.notify_all();
            self.stage.slot_free();
        }
    }

    /// Takes no more claims: seals what is staged and wakes those who wait. The flushes may still be under way.
    pub fn close(&self) {
        let mut last = None;
        loop {
            let mut rotation = self.rotation.lock();
            // Before the sealing, so that no next buffer is opened.
            rotation.closed = true;
            if !rotation.open {
                break;
            }
            match self.seal_locked(&mut rotation, 0, Why::Close, false) {
                Ok(pinned) => {
                    last = Some(pinned);
                    break;
                }
                Err(SealRefused::Empty) => rotation.open = !self.current_slot().retire(),
                Err(SealRefused::Overtaken) => self.wait_settled(rotation, self.current_slot()),
            }
        }
        if let Some(pinned) = last {
            self.release(pinned.0);
        }
        self.room.notify_all();
    }

    /// It takes no more claims.
    pub fn is_closed(&self) -> bool {
        self.rotation.lock().closed
    }
}
