//! A sparse disk image that is cheap to copy: pages that nobody wrote are not there, equal ones are shared.

use std::sync::Arc;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

type Page = [u8; PAGE];

/// The image. Cloning copies one pointer a page.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    pages: Vec<Option<Arc<Page>>>,
}

/// The part of one page that a run of bytes touches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Number of the page.
    pub(super) page: usize,
    /// First byte in it.
    pub(super) start: usize,
    /// Bytes of it.
    pub(super) len: usize,
    /// Where that is in the run.
    pub(super) at: usize,
}

impl Piece {
    /// The sectors it touches, a bit each.
    pub(super) fn sectors(&self) -> u8 {
        let first = self.start / SECTOR;
        let last = (self.start + self.len).div_ceil(SECTOR);
        (first..last).fold(0, |mask, sector| mask | (1 << sector))
    }
}

/// Cut `offset .. offset + len` at the pages' borders.
pub(super) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = offset as usize + at;
        let start = place % PAGE;
        let piece = Piece { page: place / PAGE, start, len: (PAGE - start).min(len - at), at };
        at += piece.len;
        (piece.len > 0).then_some(piece)
    })
}

impl Pages {
    fn get(&self, page: usize) -> Option<&Arc<Page>> {
        self.pages.get(page).and_then(Option::as_ref)
    }

    fn slot(&mut self, page: usize) -> Option<&mut Option<Arc<Page>>> {
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        self.pages.get_mut(page)
    }

    fn page_mut(&mut self, page: usize) -> Option<&mut Page> {
        let slot = self.slot(page)?;
        Some(Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE]))))
    }

    /// Copy out.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for piece in pieces(offset, out.len()) {
            let Some(to) = out.get_mut(piece.at..piece.at + piece.len) else {
                return;
            };
            match self.get(piece.page).and_then(|page| page.get(piece.start..piece.start + piece.len)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
        }
    }

    /// Copy one piece in.
    pub(super) fn write(&mut self, piece: Piece, bytes: &[u8]) {
        if let Ok(whole) = <&Page>::try_from(bytes) {
            // A whole page need not be copied before it is overwritten.
            if let Some(slot) = self.slot(piece.page) {
                match slot.as_mut().and_then(Arc::get_mut) {
                    Some(page) => *page = *whole,
                    None => *slot = Some(Arc::new(*whole)),
                }
            }
        } else if let Some(to) =
            self.page_mut(piece.page).and_then(|page| page.get_mut(piece.start..piece.start + piece.len))
        {
            to.copy_from_slice(bytes);
        }
    }

    /// Take the sectors in `mask` of one page over from `other`.
    pub(super) fn take_sectors(&mut self, other: &Pages, page: usize, mask: u8) {
        if mask == 0 {
            return;
        }
        if mask == u8::MAX {
            self.share_page(other, page);
            return;
        }
        let from = other.get(page).cloned();
        let Some(to) = self.page_mut(page) else {
            return;
        };
        for (sector, chunk) in to.chunks_exact_mut(SECTOR).enumerate() {
            if mask & (1 << sector) != 0 {
                let place = sector * SECTOR..(sector + 1) * SECTOR;
                match from.as_ref().and_then(|page| page.get(place)) {
                    Some(bytes) => chunk.copy_from_slice(bytes),
                    None => chunk.fill(0),
                }
            }
        }
    }

    /// Fill the sectors in `mask` of one page with bytes that nobody wrote.
    pub(super) fn spoil(&mut self, page: usize, mask: u8, rng: &mut super::chance::Rng) {
        if mask == 0 {
            return;
        }
        let Some(to) = self.page_mut(page) else {
            return;
        };
        for (sector, chunk) in to.chunks_exact_mut(SECTOR).enumerate().filter(|(sector, _)| mask & (1 << sector) != 0) {
            // Now and then the front of it is left as it was: a sector that was cut off in the middle.
            let from = if sector % 2 == 0 { rng.below(SECTOR as u64) as usize } else { 0 };
            chunk.iter_mut().skip(from).for_each(|byte| *byte = rng.next() as u8);
        }
    }

    /// Have the same page as `other`, without copying it.
    pub(super) fn share_page(&mut self, other: &Pages, page: usize) {
        let shared = other.get(page).cloned();
        if let Some(slot) = self.slot(page) {
            *slot = shared;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_run_once() {
        let all: Vec<Piece> = pieces(4000, 5000).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all.iter().map(|p| p.len).sum::<usize>(), 5000);
        assert_eq!((all[0].page, all[0].start, all[0].len, all[0].sectors()), (0, 4000, 96, 0x80));
        assert_eq!((all[1].page, all[1].start, all[1].sectors()), (1, 0, 0xff));
        assert_eq!((all[2].page, all[2].len, all[2].sectors()), (2, 808, 0x03));
        assert_eq!(pieces(10, 0).count(), 0);
    }

    #[test]
    fn copies_are_independent_and_sectors_move_alone() {
        let mut a = Pages::default();
        for piece in pieces(0, PAGE) {
            a.write(piece, &[1; PAGE]);
        }
        let mut b = a.clone();
        for piece in pieces(512, 512) {
            b.write(piece, &[2; 512]);
        }
        a.take_sectors(&b, 0, 0b100);
        let mut out = [9; 2048];
        a.read(0, &mut out);
        assert_eq!((out[512], out[1024]), (1, 1));
        a.take_sectors(&b, 0, 0b010);
        a.read(0, &mut out);
        assert_eq!((out[0], out[512], out[1024]), (1, 2, 1));
        a.read(1 << 30, &mut out);
        assert!(out.iter().all(|&byte| byte == 0), "what nobody wrote is zero");
    }
}
