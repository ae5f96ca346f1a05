//! The state word: all that decides over a buffer, in one atomic of 64 bits.
//!
//! ```text
//!   63            32 31           8 7        2 1                 0
//!  +----------------+--------------+----------+-----------------+------+
//!  | write offset   | writer count | reserved | flush in progr. | seal |
//!  +----------------+--------------+----------+-----------------+------+
//! ```
//!
//! The write offset counts bytes of the buffer and includes what lies before the first claim. One atomic operation
//! sees and changes all of it, so "claimed these bytes" and "keeps this buffer from being flushed" are one step.
use std::fmt;

/// No new claims: the write offset is the filling's exact end.
pub const SEALED_BIT: u64 = 1;
/// Sealed and drained, and handed to the stage: set once per filling.
pub const FLUSH_IN_PROGRESS_BIT: u64 = 1 << 1;
/// Where the writer count begins.
pub const WRITER_SHIFT: u32 = 8;
/// One writer.
pub const WRITER_ONE: u64 = 1 << WRITER_SHIFT;
/// All bits of the writer count.
pub const WRITER_MASK: u64 = 0x00FF_FFFF << WRITER_SHIFT;
/// Where the write offset begins.
pub const OFFSET_SHIFT: u32 = 32;
/// One byte of write offset.
pub const OFFSET_ONE: u64 = 1 << OFFSET_SHIFT;

/// Appenders that may hold claims in one filling; the last place of the count is kept for the sealer.
pub(super) const MAX_WRITERS: u64 = (WRITER_MASK >> WRITER_SHIFT) - 1;
/// The word of a buffer that is free: sealed to everyone until it is opened for its next filling.
pub(super) const RECYCLED: u64 = SEALED_BIT;

/// Write offset in `word`.
#[inline(always)]
pub(super) const fn offset(word: u64) -> usize {
    (word >> OFFSET_SHIFT) as usize
}

/// Writer count in `word`.
#[inline(always)]
pub(super) const fn writers(word: u64) -> u64 {
    (word & WRITER_MASK) >> WRITER_SHIFT
}

/// Is `word` sealed?
#[inline(always)]
pub(super) const fn sealed(word: u64) -> bool {
    word & SEALED_BIT != 0
}

/// The word of an open buffer whose first claim will be at `start`.
pub(super) const fn open(start: usize) -> u64 {
    (start as u64) << OFFSET_SHIFT
}

/// What a claim of `len` bytes adds to the word.
#[inline(always)]
pub(super) const fn claim(len: usize) -> u64 {
    ((len as u64) << OFFSET_SHIFT) + WRITER_ONE
}

/// A state word taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// End of the claims, in bytes from the beginning of the buffer.
    pub offset: u32,
    /// Claims not yet released (the sealer, while it rotates, counts as one).
    pub writers: u32,
    /// Handed to the stage and not yet recycled.
    pub flushing: bool,
    /// Closed to claims.
    pub sealed: bool,
}

impl Decoded {
    /// Takes `word` apart.
    pub fn of(word: u64) -> Decoded {
        Decoded {
            offset: (word >> OFFSET_SHIFT) as u32,
            writers: writers(word) as u32,
            flushing: word & FLUSH_IN_PROGRESS_BIT != 0,
            sealed: sealed(word),
        }
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match (self.sealed, self.flushing, self.writers) {
            (false, ..) => "open",
            (true, true, _) => "flushing",
            (true, false, 0) => "free",
            (true, false, _) => "sealed",
        };
        write!(f, "{phase} offset {} writers {}", self.offset, self.writers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_fill_the_word_and_do_not_overlap() {
        let offsets = u64::MAX << OFFSET_SHIFT;
        let reserved = 0b1111_1100;
        let parts = [offsets, WRITER_MASK, reserved, FLUSH_IN_PROGRESS_BIT, SEALED_BIT];
        assert_eq!(parts.iter().sum::<u64>(), u64::MAX);
        assert_eq!(parts.iter().fold(0, |a, b| a | b), u64::MAX);
    }

    #[test]
    fn the_largest_claims_stay_in_their_fields() {
        let mut word = open(0);
        word += claim(u32::MAX as usize);
        assert_eq!(offset(word), u32::MAX as usize);
        assert_eq!(writers(word), 1);
        word += (MAX_WRITERS - 1) * WRITER_ONE;
        // The sealer's place is left.
        word += WRITER_ONE | SEALED_BIT;
        assert_eq!(word & WRITER_MASK, WRITER_MASK);
        assert_eq!(offset(word), u32::MAX as usize);
        assert_eq!(Decoded::of(word).writers, 0x00FF_FFFF);
    }

    #[test]
    fn a_word_says_what_it_is() {
        assert_eq!(Decoded::of(RECYCLED).to_string(), "free offset 0 writers 0");
        assert_eq!(Decoded::of(open(100) + claim(28)).to_string(), "open offset 128 writers 1");
        let sealed = (open(100) + claim(28)) | SEALED_BIT;
        assert_eq!(Decoded::of(sealed).to_string(), "sealed offset 128 writers 1");
        let flushing = (sealed - WRITER_ONE) | FLUSH_IN_PROGRESS_BIT;
        assert_eq!(Decoded::of(flushing).to_string(), "flushing offset 128 writers 0");
    }
}
