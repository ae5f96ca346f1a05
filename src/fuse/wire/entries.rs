//! The memory that a queue shares with the kernel: for each entry a header and the bytes of one request, or of its answer.
//! An entry is the kernel's from the command that gives it away until that command completes, and else its thread's.
#![allow(unsafe_code)]

use std::io;

use super::PAGE;
use super::answer;
use super::body::{Body, Header};
use super::inbox::Ready;
use crate::io::Buffer;

/// Places in an entry's header (`struct fuse_uring_req_header` of linux/fuse.h): the protocol's header, the fields of the
/// request, and what is said of the entry.
const FIELDS: usize = 128;
const ABOUT: usize = 256;
const HEADER_BYTES: usize = 288;
/// In what is said of the entry: flags, the number under which it is given back, and the bytes behind.
const COMMIT_ID: usize = ABOUT + 8;
const DATA_BYTES: usize = ABOUT + 16;
/// Where an entry's data begins.
const DATA: usize = PAGE as usize;
/// Data up to this place keeps its memory, in bytes.
const SMALL: usize = 16 << 10;
/// What the entries of one thread keep for data behind it, in bytes, once nobody needs it.
const KEPT: usize = 2 << 20;

/// The entries of one thread.
pub struct Entries {
    _buffer: Buffer,
    /// Two addresses and lengths for each, as the kernel is told of it.
    vectors: Vec<[libc::iovec; 2]>,
    /// How far into the data of each entry there is memory; 0: not behind `SMALL`.
    reach: Vec<usize>,
    /// All of these together.
    kept: usize,
    /// Memory may be given back at all.
    lets_go: bool,
}

// SAFETY: the vectors hold addresses of the buffer, which goes with them.
unsafe impl Send for Entries {}

impl Entries {
    /// `count` of them with room for `data` bytes. All are ours. Without `lets_go` they keep what memory they took.
    pub fn new(count: usize, data: usize, lets_go: bool) -> io::Result<Self> {
        let stride = DATA + data.next_multiple_of(PAGE as usize);
        let bytes = count.checked_mul(stride).ok_or(io::ErrorKind::OutOfMemory)?;
        let buffer = Buffer::untouched(bytes).map_err(io::Error::other)?;
        let vector = |number: usize| {
            let header = buffer.as_ptr().wrapping_add(number * stride);
            let vector = |base: *mut u8, len| libc::iovec { iov_base: base.cast(), iov_len: len };
            [vector(header, HEADER_BYTES), vector(header.wrapping_add(DATA), data)]
        };
        let vectors = (0..count).map(vector).collect();
        Ok(Self { _buffer: buffer, vectors, reach: vec![0; count], kept: 0, lets_go })
    }

    /// The address of what the kernel is told of an entry.
    pub fn vectors(&self, entry: u32) -> Option<*const [libc::iovec; 2]> {
        self.vectors.get(entry as usize).map(std::ptr::from_ref)
    }

    /// The number under which an entry that the kernel has given us goes back, and the request in it; none: it makes no
    /// sense.
    pub fn request(&mut self, entry: u32) -> Option<(u64, Option<(Header, Body<'_>)>)> {
        let header = self.header(entry)?;
        let commit_id = header.get(COMMIT_ID..)?.first_chunk().copied().map(u64::from_ne_bytes)?;
        let bytes = data_bytes(header)?;
        let [_, data] = self.vectors.get(entry as usize)?;
        if bytes > data.iov_len {
            return Some((commit_id, None));
        }
        // SAFETY: within the entry's data; the entry is ours, so nobody writes to it while `self` is borrowed.
        let data = unsafe { std::slice::from_raw_parts(data.iov_base.cast::<u8>(), bytes) };
        reaches(self.reach.get_mut(entry as usize)?, &mut self.kept, bytes);
        Some((commit_id, request(self.header(entry)?, data)))
    }

    /// The request in an entry of ours is served: nobody needs its bytes any more.
    pub fn served(&mut self, entry: u32) {
        self.let_go(entry, 0);
    }

    /// The kernel has taken the answer out of an entry that it was given with it. `is_ours`: it has come back, with the next
    /// request; else nothing is in it.
    pub fn answered(&mut self, entry: u32, is_ours: bool) {
        let needed = if is_ours { self.header(entry).and_then(data_bytes).unwrap_or(usize::MAX) } else { 0 };
        self.let_go(entry, needed);
    }

    /// This entry has memory behind `SMALL`, and all together more than is kept.
    pub fn is_one_too_many(&self, entry: u32) -> bool {
        self.lets_go && self.kept > KEPT && self.reach.get(entry as usize).is_some_and(|reach| *reach > 0)
    }

    /// Give the memory of an entry behind so many bytes of its data back to the system, if there is too much.
    fn let_go(&mut self, entry: u32, needed: usize) {
        if !self.is_one_too_many(entry) {
            return;
        }
        let place = entry as usize;
        let (Some([_, data]), Some(reach)) = (self.vectors.get(place), self.reach.get_mut(place)) else { return };
        if needed >= *reach {
            return;
        }
        let kept = needed.next_multiple_of(PAGE as usize).max(SMALL);
        let (start, len) = (data.iov_base.cast::<u8>().wrapping_add(kept), data.iov_len.saturating_sub(kept));
        // SAFETY: whole pages of an entry's data that become zeros. It is called where neither we nor the kernel look at them
        // as they were: see `served` and `answered`. It does not fail, and if it did the memory would stay.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
        self.kept = self.kept.saturating_sub(std::mem::take(reach));
        reaches(reach, &mut self.kept, needed);
    }

    /// The header of an entry that is ours.
    fn header(&self, entry: u32) -> Option<&[u8]> {
        let [header, _] = self.vectors.get(entry as usize)?;
        // SAFETY: the header's bytes, within the buffer; the entry is ours, so nobody writes to it while `self` is borrowed.
        Some(unsafe { std::slice::from_raw_parts(header.iov_base.cast::<u8>(), header.iov_len) })
    }

    /// Put an answer into an entry of ours.
    pub fn answer(&mut self, ready: &Ready) -> Option<()> {
        let [header, data] = self.vectors.get(ready.entry as usize)?;
        // SAFETY: the header's bytes, within the buffer, of an entry that is ours; `&mut self` is the only borrow.
        let header = unsafe { std::slice::from_raw_parts_mut(header.iov_base.cast::<u8>(), header.iov_len) };
        // SAFETY: as above, its data.
        let place = unsafe { std::slice::from_raw_parts_mut(data.iov_base.cast::<u8>(), data.iov_len) };
        let (error, bytes) = match place.get_mut(..ready.data.len()) {
            Some(mut place) => {
                for bytes in ready.data.slices() {
                    let (here, behind) = place.split_at_mut_checked(bytes.len())?;
                    here.copy_from_slice(bytes);
                    place = behind;
                }
                (ready.error, ready.data.len())
            }
            None => (-libc::EIO, 0),
        };
        reaches(self.reach.get_mut(ready.entry as usize)?, &mut self.kept, bytes);
        let text = answer::header(error, ready.unique, bytes);
        header.get_mut(..text.len())?.copy_from_slice(&text);
        let bytes = u32::try_from(bytes).ok()?.to_ne_bytes();
        header.get_mut(DATA_BYTES..)?.first_chunk_mut().map(|place| *place = bytes)
    }
}

/// Bytes behind a request's fields, as its header says.
fn data_bytes(header: &[u8]) -> Option<usize> {
    header.get(DATA_BYTES..)?.first_chunk().copied().map(|bytes| u32::from_ne_bytes(bytes) as usize)
}

/// There is memory for so many bytes of an entry's data.
fn reaches(reach: &mut usize, kept: &mut usize, bytes: usize) {
    if bytes > SMALL && bytes > *reach {
        *kept += bytes - *reach;
        *reach = bytes;
    }
}

/// How long the fields are says no field, but what all of the request is.
fn request<'a>(header: &'a [u8], data: &'a [u8]) -> Option<(Header, Body<'a>)> {
    let all = header.first_chunk().copied().map(u32::from_ne_bytes)? as usize;
    let fields = all.checked_sub(Header::BYTES)?.checked_sub(data.len())?;
    Header::of_three(header.get(..Header::BYTES)?, header.get(FIELDS..ABOUT)?.get(..fields)?, data)
}

#[cfg(test)]
mod tests {
    use super::super::answer::Bytes;
    use super::*;

    const LARGEST: usize = 1 << 20;
    const COUNT: u32 = 8;
    /// Of the kernel's request, all but its data.
    const FRONT: usize = 40 + 40;

    /// Put a request with so many bytes behind its fields into an entry, as the kernel does.
    fn put(entries: &Entries, entry: u32, bytes: usize) {
        let [header, data] = entries.vectors[entry as usize];
        let mut text = [0; HEADER_BYTES];
        text[..4].copy_from_slice(&u32::try_from(FRONT + bytes).unwrap().to_ne_bytes());
        text[COMMIT_ID..COMMIT_ID + 8].copy_from_slice(&(u64::from(entry) + 7).to_ne_bytes());
        text[DATA_BYTES..DATA_BYTES + 4].copy_from_slice(&u32::try_from(bytes).unwrap().to_ne_bytes());
        // SAFETY: both places have that many bytes, and nothing borrows them.
        unsafe {
            header.iov_base.cast::<u8>().copy_from(text.as_ptr(), HEADER_BYTES);
            data.iov_base.cast::<u8>().write_bytes(1, bytes.min(data.iov_len));
        }
    }

    /// Bytes of an entry's data that have memory.
    fn resident(entries: &Entries, entry: u32) -> usize {
        let [_, data] = entries.vectors[entry as usize];
        let mut pages = vec![0u8; data.iov_len / PAGE as usize];
        // SAFETY: whole pages of ours, and a byte for each.
        assert_eq!(unsafe { libc::mincore(data.iov_base, data.iov_len, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 == 1).count() * PAGE as usize
    }

    fn all_resident(entries: &Entries) -> usize {
        (0..COUNT).map(|entry| resident(entries, entry)).sum()
    }

    fn answer(entries: &mut Entries, entry: u32, bytes: usize) {
        let data = Bytes::Ours(vec![2; bytes]);
        entries.answer(&Ready { entry, error: 0, unique: 3, data }).unwrap();
    }

    #[test]
    fn what_served_requests_took_goes_back_but_for_a_little() {
        let mut entries = Entries::new(COUNT as usize, LARGEST, true).unwrap();
        for entry in 0..COUNT {
            put(&entries, entry, LARGEST);
            let (commit_id, request) = entries.request(entry).unwrap();
            assert_eq!(commit_id, u64::from(entry) + 7);
            let (_, mut body) = request.unwrap();
            body.bytes(40).unwrap();
            assert!(
                body.bytes(LARGEST as u32).unwrap().iter().all(|byte| *byte == 1),
                "its bytes stay until it is served"
            );
            assert!(resident(&entries, entry) >= LARGEST);
            entries.served(entry);
        }
        let kept = all_resident(&entries);
        assert!(kept <= KEPT + COUNT as usize * SMALL && kept >= KEPT, "{kept} bytes");
        // What is small is no reason to give anything back.
        for entry in 0..COUNT {
            put(&entries, entry, SMALL);
            assert!(entries.request(entry).unwrap().1.is_some());
            entries.served(entry);
        }
        assert_eq!(all_resident(&entries), KEPT + (COUNT as usize - KEPT / LARGEST) * SMALL);
    }

    #[test]
    fn what_answers_took_goes_back_when_the_kernel_has_them() {
        let mut entries = Entries::new(COUNT as usize, LARGEST, true).unwrap();
        for entry in 0..COUNT {
            answer(&mut entries, entry, LARGEST);
            assert_eq!(entries.is_one_too_many(entry), (entry as usize + 1) * LARGEST > KEPT);
            let [_, data] = entries.vectors[entry as usize];
            // SAFETY: the entry's data, which nothing else borrows.
            let data = unsafe { std::slice::from_raw_parts(data.iov_base.cast::<u8>(), LARGEST) };
            assert!(data.iter().all(|byte| *byte == 2), "it stays until the kernel has it");
        }
        assert!(all_resident(&entries) >= COUNT as usize * LARGEST);
        // One has come back with a large request, and one with a small one.
        put(&entries, 0, LARGEST / 2);
        put(&entries, 1, 1);
        (0..COUNT).for_each(|entry| entries.answered(entry, entry < 2));
        assert_eq!((resident(&entries, 0), resident(&entries, 1)), (LARGEST / 2, SMALL));
        let (_, mut body) = entries.request(0).unwrap().1.unwrap();
        body.bytes(40).unwrap();
        assert!(body.bytes(LARGEST as u32 / 2).unwrap().iter().all(|byte| *byte == 1), "a request keeps its bytes");
        let kept = all_resident(&entries);
        assert!(kept <= KEPT + COUNT as usize * SMALL && kept >= KEPT / 2, "{kept} bytes");
        assert_eq!(entries.kept, KEPT - LARGEST / 2);
        // An answer that is longer than any may be is an error, not a piece of it.
        answer(&mut entries, 0, LARGEST + 1);
        let [header, _] = entries.vectors[0];
        // SAFETY: the entry's header, which nothing else borrows.
        let header = unsafe { std::slice::from_raw_parts(header.iov_base.cast::<u8>(), HEADER_BYTES) };
        assert_eq!(header[..8], answer::header(-libc::EIO, 3, 0)[..8]);
    }

    #[test]
    fn where_the_kernel_would_lose_pages_all_is_kept() {
        let mut entries = Entries::new(COUNT as usize, LARGEST, false).unwrap();
        for entry in 0..COUNT {
            answer(&mut entries, entry, LARGEST);
            assert!(!entries.is_one_too_many(entry));
            entries.answered(entry, false);
        }
        assert!(all_resident(&entries) >= COUNT as usize * LARGEST);
    }

    #[test]
    fn a_request_that_makes_no_sense_is_none() {
        let mut entries = Entries::new(1, LARGEST, true).unwrap();
        put(&entries, 0, LARGEST + 1);
        assert!(matches!(entries.request(0), Some((7, None))));
        assert!(entries.request(1).is_none() && entries.vectors(1).is_none());
    }
}
