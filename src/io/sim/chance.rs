//! Which sectors a power failure spares: drawn from the seed, and from nothing else.

use super::pages::{Pages, SECTOR, pieces};

/// How much of what is not stable a power failure spares: none, few, half, most, or all of the sectors.
#[derive(Clone, Copy)]
pub(super) struct Kept(u64);

impl Kept {
    /// One of the five.
    pub(super) fn choose(rng: &mut Rng) -> Kept {
        Kept(rng.below(5))
    }

    /// The sectors of one page that are spared.
    pub(super) fn sectors(self, rng: &mut Rng) -> u8 {
        let (a, b, c) = (rng.next() as u8, rng.next() as u8, rng.next() as u8);
        match self.0 {
            0 => 0,
            1 => a & b & c,
            2 => a,
            3 => a | b | c,
            _ => u8::MAX,
        }
    }
}

/// Write some of the sectors of `bytes`, and say which.
pub(super) fn scatter(
    pages: &mut Pages,
    offset: u64,
    bytes: &[u8],
    rng: &mut Rng,
    kept: Kept,
    mut wrote: impl FnMut(usize, u8),
) {
    let mut mask = 0;
    let mut page = usize::MAX;
    for (index, chunk) in bytes.chunks(SECTOR).enumerate() {
        for piece in pieces(offset + (SECTOR * index) as u64, chunk.len()) {
            if piece.page != page {
                (page, mask) = (piece.page, kept.sectors(rng));
            }
            if mask & piece.sectors() != 0 {
                pages.write(piece, chunk.get(piece.at..piece.at + piece.len).unwrap_or_default());
                wrote(piece.page, piece.sectors());
            }
        }
    }
}

/// SplitMix64: small, good enough, and the same everywhere.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
