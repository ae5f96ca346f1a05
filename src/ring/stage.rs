//! What the ring asks of the store behind it: where fillings lie, and what to do with one that is full.

/// Why a filling was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A claim did not fit.
    Full,
    /// The timer, an fsync, or a mark.
    Commit,
    /// The ring is closing.
    Close,
}

/// Where a filling lies and how the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Bytes the stage will put behind the claims of the filling just sealed, once that is drained.
    pub trailer: usize,
    /// LSN of byte 0 of the next filling's buffer.
    pub base_lsn: u64,
    /// First byte of it that may be claimed.
    pub start: usize,
    /// Claims end at or below this; `start` if there is no room.
    pub limit: usize,
}

/// One use of a buffer, from its opening to its recycling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillInfo {
    /// 0, 1, 2, ... in the order of sealing and of addresses.
    pub number: u64,
    /// The buffer of the ring it is in.
    pub slot: usize,
    /// LSN of the buffer's byte 0.
    pub base_lsn: u64,
    /// First byte that could be claimed.
    pub start: usize,
    /// Exact end of the claims; `start` if there were none.
    pub end: usize,
    /// Bytes that [`Stage::place`] kept behind `end`.
    pub trailer: usize,
    /// Why it was sealed.
    pub why: Why,
}

impl FillInfo {
    /// LSN of the first claimed byte.
    pub fn start_lsn(&self) -> u64 {
        self.base_lsn + self.start as u64
    }

    /// LSN behind the last claimed byte.
    pub fn end_lsn(&self) -> u64 {
        self.base_lsn + self.end as u64
    }
}

/// A filling just sealed: its end is exact, its trailer not yet decided (0), its bytes perhaps not all written.
pub type SealedFill = FillInfo;

/// What the ring asks of the store.
///
/// `place` and `has_room` run under the ring's rotation lock: they are short, never wait, and call nothing of the ring.
/// `flush`, `failed_flush` and `slot_free` run with no lock of the ring held and may call all of it.
pub trait Stage: Send + Sync + 'static {
    /// Called once per sealing, in order, before anybody can claim a byte of the next filling; `prev` is `None` for
    /// the first. Says how the sealed filling is closed and where the next one lies, whether or not a buffer is free
    /// for it yet. `need` is the claim that did not fit, or 0.
    fn place(&self, prev: Option<SealedFill>, need: usize, why: Why) -> Placement;

    /// `fill` is sealed and drained. Called exactly once per filling, on the thread that made it true, perhaps out of
    /// order of `fill.number`. When the bytes are where they belong: [`FlushBufferRing::recycle`].
    ///
    /// [`FlushBufferRing::recycle`]: super::FlushBufferRing::recycle
    fn flush(&self, fill: FillInfo);

    /// A reservation was given up; `bytes` are its bytes: leave the Failed Flush frame there.
    fn failed_flush(&self, lsn: u64, bytes: &mut [u8]);

    /// Would a claim of `need` bytes behind `end_lsn` ever fit? Asked before sealing for lack of room.
    fn has_room(&self, end_lsn: u64, need: usize) -> bool;

    /// A full ring has an open buffer again. For those who queue instead of waiting in `reserve`.
    fn slot_free(&self) {}
}
