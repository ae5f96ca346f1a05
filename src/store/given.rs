//! What a read gives: bytes that were copied together, and between them slices of checked chunks that are lent. Copying a
//! large record takes as long as all else that a read of it does, and who gets it copies it once more.
//!
//! A chunk stays in memory as long as a slice of it is lent, so few are lent at one time; all else is copied.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::io::{Buffer, try_copy, try_room};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What is shorter is copied sooner than lent.
const WORTH: usize = 16 << 10;
/// Slices lent at one time.
const LENT: usize = 4;

/// What a reader takes instead of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lends {
    /// It wants all in one piece that is its own.
    Nothing,
    /// All that it reads, if that lies in one piece.
    Whole,
    /// Any part.
    Slices,
}

/// How many slices are lent.
#[derive(Clone, Debug, Default)]
pub struct Lender(Arc<AtomicUsize>);

/// Bytes of a chunk, which stays until this is dropped.
#[derive(Debug)]
struct Slice {
    buffer: Arc<Buffer>,
    range: Range<usize>,
    lender: Lender,
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.lender.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lender {
    /// Bytes of a chunk, if they are worth it and not too many are lent.
    fn lend(&self, buffer: &Arc<Buffer>, range: Range<usize>) -> Option<Slice> {
        if range.len() < WORTH {
            return None;
        }
        let more = |lent: usize| (lent < LENT).then_some(lent + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Slice { buffer: buffer.clone(), range, lender: self.clone() })
    }
}

/// The bytes that a read gave, in order.
#[derive(Debug, Default)]
pub struct ReadBytes {
    copied: Vec<u8>,
    /// Each with the number of copied bytes in front of it.
    lent: Vec<(usize, Slice)>,
}

impl From<Vec<u8>> for ReadBytes {
    fn from(copied: Vec<u8>) -> Self {
        Self { copied, lent: Vec::new() }
    }
}

impl ReadBytes {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.copied.len() + self.lent.iter().map(|(_, slice)| slice.range.len()).sum::<usize>()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These come next.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    /// So many zeros come next.
    pub(super) fn zeros(&mut self, count: usize) {
        self.copied.resize(self.copied.len() + count, 0);
    }

    /// These bytes of a chunk come next: lent, if there is a lender that can, else copied.
    pub(super) fn take(&mut self, buffer: &Arc<Buffer>, range: Range<usize>, lender: Option<&Lender>) {
        match lender.and_then(|lender| lender.lend(buffer, range.clone())) {
            Some(slice) => self.lent.push((self.copied.len(), slice)),
            None => self.copy(buffer.as_slice().get(range).unwrap_or(&[])),
        }
    }

    /// All of them, one slice behind the other; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let last = (self.copied.len(), &[][..]);
        let lent = self.lent.iter().map(|(at, slice)| (*at, slice.buffer.as_slice().get(slice.range.clone())));
        let lent = lent.map(|(at, bytes)| (at, bytes.unwrap_or(&[])));
        let mut from = 0;
        let both = lent.chain([last]).flat_map(move |(at, bytes)| {
            let copied = self.copied.get(std::mem::replace(&mut from, at)..at).unwrap_or(&[]);
            [copied, bytes]
        });
        both.filter(|bytes| !bytes.is_empty())
    }

    /// What was copied, if nothing is lent.
    pub fn all_copied(&self) -> Option<&[u8]> {
        self.lent.is_empty().then_some(&*self.copied)
    }

    /// All of them in one piece, or nothing: they are in more, and there is no memory for that.
    pub fn in_one(&self) -> Option<Cow<'_, [u8]>> {
        let (len, first) = (self.len(), self.slices().next().unwrap_or(&[]));
        if first.len() == len {
            return Some(Cow::Borrowed(first));
        }
        let mut all = try_room(len)?;
        self.slices().for_each(|bytes| all.extend_from_slice(bytes));
        Some(Cow::Owned(all))
    }

    /// The same, to keep.
    pub fn into_vec(self) -> Option<Vec<u8>> {
        if self.lent.is_empty() {
            return Some(self.copied);
        }
        match self.in_one()? {
            Cow::Borrowed(bytes) => try_copy(bytes),
            Cow::Owned(all) => Some(all),
        }
    }

    /// The memory that is nobody else's.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_slices_lie_between_what_is_copied() {
        let mut buffer = Buffer::new_aligned(4 * WORTH, 4096).unwrap();
        let text = |at: usize| (at % 251) as u8;
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(at, byte)| *byte = text(at));
        let (buffer, lender) = (Arc::new(buffer), Lender::default());
        let mut bytes = ReadBytes::default();
        bytes.copy(b"front");
        bytes.take(&buffer, 5..5 + WORTH, Some(&lender));
        bytes.take(&buffer, 7..7 + WORTH, Some(&lender));
        bytes.take(&buffer, 0..WORTH - 1, Some(&lender));
        bytes.zeros(3);
        bytes.take(&buffer, 1..1 + WORTH, None);
        assert_eq!(bytes.lent.len(), 2);
        assert!(bytes.all_copied().is_none());
        let mut expected = b"front".to_vec();
        [5..5 + WORTH, 7..7 + WORTH, 0..WORTH - 1].into_iter().for_each(|range| expected.extend(range.map(text)));
        expected.extend([0; 3]);
        expected.extend((1..1 + WORTH).map(text));
        assert_eq!(bytes.len(), expected.len());
        assert!(bytes.slices().collect::<Vec<_>>().concat() == expected);
        assert!(bytes.into_vec().unwrap() == expected);
        assert_eq!(lender.0.load(Ordering::Relaxed), 0, "all given back");
    }

    #[test]
    fn only_so_many_are_lent_at_one_time() {
        let (buffer, lender) = (Arc::new(Buffer::new_aligned(WORTH, 4096).unwrap()), Lender::default());
        let read = || {
            let mut bytes = ReadBytes::default();
            bytes.take(&buffer, 0..WORTH, Some(&lender));
            bytes
        };
        let mut held: Vec<_> = (0..LENT).map(|_| read()).collect();
        assert!(held.iter().all(|bytes| bytes.all_copied().is_none()));
        assert_eq!(read().all_copied(), Some(&[0; WORTH][..]));
        held.pop();
        assert!(read().all_copied().is_none());
    }
}
