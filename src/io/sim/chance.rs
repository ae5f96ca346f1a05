//! Which sectors a power failure spares: drawn from the seed, and from nothing else.

use super::fault::SectorModel;
use super::pages::{Pages, SECTOR, pieces};

/// How the disk tears.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tear {
    /// Sectors of 4 KiB, not of 512 bytes, are written whole or not at all.
    pub(super) whole_pages: bool,
    pub(super) model: SectorModel,
}

/// How much of what is not stable a power failure spares: none, few, half, most, or all of the sectors.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    share: u64,
    tear: Tear,
}

impl Kept {
    /// One of the five.
    pub(super) fn choose(rng: &mut Rng, tear: Tear) -> Kept {
        Kept { share: rng.below(5), tear }
    }

    /// The sectors of one page that get their new content, and those that get any content at all.
    pub(super) fn sectors(self, rng: &mut Rng) -> (u8, u8) {
        let (a, b, c) = (rng.next() as u8, rng.next() as u8, rng.next() as u8);
        let new = match self.share {
            0 => 0,
            1 => a & b & c,
            2 => a,
            3 => a | b | c,
            _ => u8::MAX,
        };
        let garbage = match self.tear.model {
            SectorModel::OldOrNew => 0,
            SectorModel::Garbage => (rng.next() & rng.next()) as u8,
        };
        let whole = |mask: u8| if mask & 1 == 0 { 0 } else { u8::MAX };
        if self.tear.whole_pages { (whole(new), whole(garbage)) } else { (new, garbage) }
    }
}

/// Write some of the sectors of `bytes`, spoil some others, and say which were touched.
pub(super) fn scatter(
    pages: &mut Pages,
    offset: u64,
    bytes: &[u8],
    rng: &mut Rng,
    kept: Kept,
    mut wrote: impl FnMut(usize, u8),
) {
    let (mut new, mut garbage) = (0, 0);
    let mut page = usize::MAX;
    for (index, chunk) in bytes.chunks(SECTOR).enumerate() {
        for piece in pieces(offset + (SECTOR * index) as u64, chunk.len()) {
            if piece.page != page {
                page = piece.page;
                (new, garbage) = kept.sectors(rng);
            }
            let touched = piece.sectors();
            if new & touched != 0 {
                pages.write(piece, chunk.get(piece.at..piece.at + piece.len).unwrap_or_default());
            }
            pages.spoil(piece.page, garbage & touched, rng);
            if (new | garbage) & touched != 0 {
                wrote(piece.page, touched);
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
