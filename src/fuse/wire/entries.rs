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
/// Data behind this place is given back to the system, if more than so many entries have had such.
const SMALL: usize = 64 << 10;
const LARGE_KEPT: usize = 4;

/// The entries of one thread.
pub struct Entries {
    _buffer: Buffer,
    /// Two addresses and lengths for each, as the kernel is told of it.
    vectors: Vec<[libc::iovec; 2]>,
    /// Entries whose data took memory behind `SMALL`.
    large: Vec<bool>,
}

// SAFETY: the vectors hold addresses of the buffer, which goes with them.
unsafe impl Send for Entries {}

impl Entries {
    /// `count` of them with room for `data` bytes. All are ours.
    pub fn new(count: usize, data: usize) -> io::Result<Self> {
        let stride = DATA + data.next_multiple_of(PAGE as usize);
        let bytes = count.checked_mul(stride).ok_or(io::ErrorKind::OutOfMemory)?;
        let buffer = Buffer::untouched(bytes).map_err(io::Error::other)?;
        let vector = |number: usize| {
            let header = buffer.as_ptr().wrapping_add(number * stride);
            let vector = |base: *mut u8, len| libc::iovec { iov_base: base.cast(), iov_len: len };
            [vector(header, HEADER_BYTES), vector(header.wrapping_add(DATA), data)]
        };
        let vectors = (0..count).map(vector).collect();
        Ok(Self { _buffer: buffer, vectors, large: vec![false; count] })
    }

    /// The address of what the kernel is told of an entry.
    pub fn vectors(&self, entry: u32) -> Option<*const [libc::iovec; 2]> {
        self.vectors.get(entry as usize).map(std::ptr::from_ref)
    }

    /// The number under which an entry that the kernel has given us goes back, and the request in it; none: it makes no
    /// sense.
    pub fn request(&mut self, entry: u32) -> Option<(u64, Option<(Header, Body<'_>)>)> {
        let [header, data] = self.vectors.get(entry as usize)?;
        // SAFETY: the header's bytes, within the buffer; the entry is ours, so nobody writes to it while `self` is borrowed.
        let header = unsafe { std::slice::from_raw_parts(header.iov_base.cast::<u8>(), header.iov_len) };
        let commit_id = header.get(COMMIT_ID..)?.first_chunk().copied().map(u64::from_ne_bytes)?;
        let bytes = header.get(DATA_BYTES..)?.first_chunk().copied().map(u32::from_ne_bytes)? as usize;
        if bytes > data.iov_len {
            return Some((commit_id, None));
        }
        if bytes > SMALL {
            *self.large.get_mut(entry as usize)? = true;
        }
        // SAFETY: as above, within the entry's data.
        let data = unsafe { std::slice::from_raw_parts(data.iov_base.cast::<u8>(), bytes) };
        Some((commit_id, request(header, data)))
    }

    /// Put an answer into an entry of ours.
    pub fn answer(&mut self, ready: &Ready) -> Option<()> {
        let [header, data] = self.vectors.get(ready.entry as usize)?;
        // SAFETY: the header's bytes, within the buffer, of an entry that is ours; `&mut self` is the only borrow.
        let header = unsafe { std::slice::from_raw_parts_mut(header.iov_base.cast::<u8>(), header.iov_len) };
        // SAFETY: as above, its data.
        let place = unsafe { std::slice::from_raw_parts_mut(data.iov_base.cast::<u8>(), data.iov_len) };
        let (error, bytes) = match place.get_mut(..ready.data.len()) {
            Some(place) => {
                place.copy_from_slice(&ready.data);
                (ready.error, ready.data.len())
            }
            None => (-libc::EIO, 0),
        };
        let large = self.large.get_mut(ready.entry as usize)?;
        *large |= bytes > SMALL;
        if *large && bytes <= SMALL && self.large.iter().filter(|large| **large).count() > LARGE_KEPT {
            let (start, len) = (data.iov_base.cast::<u8>().wrapping_add(SMALL), data.iov_len.saturating_sub(SMALL));
            // SAFETY: whole pages of an entry that is ours; they become zeros, and nobody looks at them as they were. It
            // does not fail, and if it did the memory would stay.
            unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
            *self.large.get_mut(ready.entry as usize)? = false;
        }
        let text = answer::header(error, ready.unique, bytes);
        header.get_mut(..text.len())?.copy_from_slice(&text);
        let bytes = u32::try_from(bytes).ok()?.to_ne_bytes();
        header.get_mut(DATA_BYTES..)?.first_chunk_mut().map(|place| *place = bytes)
    }
}

/// How long the fields are says no field, but what all of the request is.
fn request<'a>(header: &'a [u8], data: &'a [u8]) -> Option<(Header, Body<'a>)> {
    let all = header.first_chunk().copied().map(u32::from_ne_bytes)? as usize;
    let fields = all.checked_sub(Header::BYTES)?.checked_sub(data.len())?;
    Header::of_three(header.get(..Header::BYTES)?, header.get(FIELDS..ABOUT)?.get(..fields)?, data)
}
