//! Pieces of the log that are read ahead: one behind the other, wherever frames begin and end in them.
//!
//! A piece can be checked once the one before it was: where its first frame begins is known only then. Pieces land in any
//! order; one that lands early waits here. Each is taken out by its landing or by the end of the one before it, whichever
//! comes last, so none is forgotten.

use std::ops::Range;

use super::types::LogId;
use crate::format::Lsn;
use crate::io::Buffer;
use crate::sync::Mutex;

/// Bytes read at a time.
pub const PIECE: u64 = 960 << 10;
/// Room in front of them for the part of a frame that the piece before ends with: the largest there is, and the rest of
/// a huge page.
pub const HEADROOM: u64 = (2 << 20) - PIECE;

/// Readers whose places are known, at most: of more at one time nobody profits, as there is room for few pieces.
const READERS: usize = 4;

/// Where a reader is that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// In this log,
    pub log: LogId,
    /// at the frame here,
    pub lsn: Lsn,
    /// behind which nothing of the range lies in its segment,
    pub stop: Lsn,
    /// in the range that ends at this offset.
    pub range_end: u64,
}

/// What is read, or was.
pub struct Piece {
    /// Number of its read.
    pub number: u64,
    /// For a reader of this log.
    pub log: LogId,
    /// Whole blocks of the log.
    pub lsns: Range<Lsn>,
    /// LSN that the buffer's first byte has room for.
    pub base: Lsn,
    /// A frame is known to begin here. Else it is known when the piece before is checked.
    pub begins: Option<Lsn>,
}

struct Entry {
    piece: Piece,
    landed: Option<Option<Buffer>>,
}

/// A piece that can be checked, and its bytes, if it could be read.
pub type Landed = (Piece, Option<Buffer>);

/// The pieces on their way, and those that wait for the one before; and for whom.
#[derive(Default)]
pub struct Pieces {
    entries: Mutex<Vec<Entry>>,
    readers: Mutex<Vec<Reader>>,
}

impl Pieces {
    /// A reader is there now. True: pieces for it are on their way.
    pub fn reads(&self, reader: Reader) -> bool {
        let mut readers = self.readers.lock();
        match readers.iter_mut().find(|known| known.log == reader.log) {
            Some(known) => *known = reader,
            None => {
                if readers.len() >= READERS {
                    readers.remove(0);
                }
                readers.push(reader);
            }
        }
        drop(readers);
        self.entries.lock().iter().any(|entry| entry.piece.log == reader.log)
    }

    /// The last known place of a log's reader.
    pub fn reader(&self, log: LogId) -> Option<Reader> {
        self.readers.lock().iter().find(|known| known.log == log).copied()
    }

    /// It will land.
    pub fn add(&self, piece: Piece) {
        self.entries.lock().push(Entry { piece, landed: None });
    }

    /// Where the pieces end that begin at `edge`, one behind the other, and how many they are.
    pub fn reach(&self, mut edge: Lsn) -> (Lsn, usize) {
        let (entries, mut count) = (self.entries.lock(), 0);
        while let Some(next) = entries.iter().find(|entry| entry.piece.lsns.start == edge) {
            (edge, count) = (next.piece.lsns.end, count + 1);
        }
        (edge, count)
    }

    /// The piece has landed. Returned if it can be checked now; else [`Pieces::settled`] will return it.
    pub fn land(&self, number: u64, buffer: Option<Buffer>) -> Option<Landed> {
        let mut entries = self.entries.lock();
        let mine = entries.iter().find(|entry| entry.piece.number == number)?;
        let waits = mine.piece.begins.is_none() && entries.iter().any(|it| it.piece.lsns.end == mine.piece.lsns.start);
        let mine = entries.iter_mut().find(|entry| entry.piece.number == number)?;
        mine.landed = Some(buffer);
        (!waits).then(|| mine.take()).flatten()
    }

    /// The piece was checked, or never will be: it is gone from here. The number of the one behind it, and that one if it
    /// has landed.
    pub fn settled(&self, piece: &Piece) -> Option<(u64, Option<Landed>)> {
        let mut entries = self.entries.lock();
        entries.retain(|entry| entry.piece.number != piece.number);
        let next = entries.iter_mut().find(|it| it.piece.lsns.start == piece.lsns.end && it.piece.begins.is_none())?;
        Some((next.piece.number, next.take()))
    }
}

impl Entry {
    /// The piece and what came of it, once; it stays in its place until it is settled.
    fn take(&mut self) -> Option<Landed> {
        let Piece { number, log, base, begins, .. } = self.piece;
        self.landed.take().map(|buffer| (Piece { number, log, lsns: self.piece.lsns.clone(), base, begins }, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(number: u64, begins: Option<Lsn>) -> Piece {
        let start = number * PIECE;
        Piece { number, log: 1, lsns: start..start + PIECE, base: start, begins }
    }

    #[test]
    fn a_piece_that_lands_early_waits_for_the_one_before() {
        let pieces = Pieces::default();
        (1..4).for_each(|number| pieces.add(piece(number, (number == 1).then_some(PIECE))));
        assert_eq!(pieces.reach(PIECE), (4 * PIECE, 3));
        assert!(pieces.land(3, None).is_none());
        assert!(pieces.land(2, None).is_none());
        let (first, _) = pieces.land(1, None).unwrap();
        let (number, second) = pieces.settled(&first).unwrap();
        assert_eq!(number, 2);
        let (second, _) = second.unwrap();
        let (_, third) = pieces.settled(&second).unwrap();
        let (third, _) = third.unwrap();
        assert_eq!(third.number, 3);
        assert!(pieces.settled(&third).is_none());
        assert_eq!(pieces.reach(PIECE), (PIECE, 0));
    }

    #[test]
    fn of_few_readers_the_last_places_are_known() {
        let pieces = Pieces::default();
        let reader = |log, lsn| Reader { log, lsn, stop: lsn + 1, range_end: 0 };
        assert!(!pieces.reads(reader(1, 10)));
        pieces.add(piece(3, None));
        assert!(pieces.reads(reader(1, 20)));
        assert_eq!(pieces.reader(1), Some(reader(1, 20)));
        (2..=1 + READERS as u32).for_each(|log| assert!(!pieces.reads(reader(log, 5))));
        assert_eq!((pieces.reader(1), pieces.reader(2)), (None, Some(reader(2, 5))));
    }

    #[test]
    fn one_that_lands_late_is_told_of_and_comes_by_itself() {
        let pieces = Pieces::default();
        (1..3).for_each(|number| pieces.add(piece(number, None)));
        let (first, _) = pieces.land(1, None).unwrap();
        // Being checked: who follows still waits for it.
        assert!(matches!(pieces.settled(&first), Some((2, None))));
        assert_eq!(pieces.land(2, None).unwrap().0.number, 2);
    }
}
