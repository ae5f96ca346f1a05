//! Memory that a device can be given: one aligned, zeroed allocation.
//!
//! [`Buffer`] is owned by one place, which may look at it as a slice. [`SharedBuffer`] is the reference-counted handle
//! that the flush ring, QuikIO and the kernel hold at the same time; it gives out no slice, only the address, because
//! no single holder can promise that the bytes stand still.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::memory::has_room;

/// The block most devices and the page cache work in.
pub const FOUR_KB_BLOCK: usize = 4096;
/// The usual size of one buffer of the ring's ancestors, and the largest record.
pub const ONE_MEGABYTE_BLOCK: usize = 1 << 20;

/// A huge page of the processor. Where its bytes lie in one piece the device takes a megabyte as one request: of pages of
/// 4 KiB most block devices take no more than 128 at a time, and what is longer goes by a thread of the kernel's.
const HUGE_PAGE: usize = 2 << 20;
/// Buffers from this size on lie in huge pages, if the kernel has some.
const HUGE_FROM: usize = HUGE_PAGE / 2;

/// A buffer could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BufferAllocError {
    /// Length 0, or an alignment that is not a power of two, or both together past the address space.
    #[error("a buffer of {len} bytes aligned to {align} cannot exist: give a length above 0 and a power of two")]
    BadLayout {
        /// Bytes asked for.
        len: usize,
        /// Alignment asked for.
        align: usize,
    },
    /// The allocator has none left.
    #[error("no memory for a buffer of {len} bytes: use fewer or smaller buffers")]
    NoMemory {
        /// Bytes asked for.
        len: usize,
    },
}

/// One zeroed, aligned allocation.
pub struct Buffer {
    start: NonNull<u8>,
    /// Its length and alignment.
    layout: Layout,
    /// What it lies in; none: it came from the allocator.
    home: Option<Arc<Mapping>>,
}

/// Whole huge pages, which one buffer or several share.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is only an address and a length, which give nobody a byte; the pages go with the last who holds it.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is done through a reference to it.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.start.as_ptr(), self.bytes);
    }
}

// SAFETY: a Buffer owns its allocation alone, and plain bytes belong to no thread.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` safe code can only read; whoever writes through `as_ptr` answers for that in its own
// unsafe block.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeroed bytes whose address is a multiple of `align`. The pages are touched, so that the first lap through
    /// the buffer does not pay for page faults.
    pub fn new_aligned(len: usize, align: usize) -> Result<Buffer, BufferAllocError> {
        let bad = BufferAllocError::BadLayout { len, align };
        if len == 0 {
            return Err(bad);
        }
        let layout = Layout::from_size_align(len, align).map_err(|_| bad)?;
        let none = BufferAllocError::NoMemory { len };
        if len >= HUGE_FROM && align <= HUGE_PAGE {
            let home = map_huge(len).ok_or(none)?;
            return Ok(Buffer { start: home.start, layout, home: Some(Arc::new(home)) });
        }
        // SAFETY: the layout's size was checked to be above 0.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(none)?;
        Ok(Buffer { start, layout, home: None })
    }

    /// `len` bytes on a page boundary, of which each page takes memory once it is used, and no more than itself.
    pub fn untouched(len: usize) -> Result<Buffer, BufferAllocError> {
        let bad = BufferAllocError::BadLayout { len, align: FOUR_KB_BLOCK };
        let layout = Layout::from_size_align(len, FOUR_KB_BLOCK).map_err(|_| bad)?;
        if len == 0 {
            return Err(bad);
        }
        let home = map(layout.pad_to_align().size()).ok_or(BufferAllocError::NoMemory { len })?;
        // SAFETY: the pages are ours. Where there are no huge pages anyway it fails, and nothing is lost.
        unsafe { libc::madvise(home.start.as_ptr().cast(), home.bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Buffer { start: home.start, layout, home: Some(Arc::new(home)) })
    }

    /// `count` of them, one behind the other: large ones share huge pages that each by itself would fill in part.
    pub fn several(count: usize, len: usize, align: usize) -> Result<Vec<Buffer>, BufferAllocError> {
        let bad = BufferAllocError::BadLayout { len, align };
        let layout = Layout::from_size_align(len, align).map_err(|_| bad)?;
        if len < HUGE_FROM || align > HUGE_PAGE {
            return (0..count).map(|_| Self::new_aligned(len, align)).collect();
        }
        let stride = layout.pad_to_align().size();
        let all = stride.checked_mul(count).filter(|all| *all > 0).ok_or(bad)?;
        let home = Arc::new(map_huge(all).ok_or(BufferAllocError::NoMemory { len: all })?);
        let buffer = |number: usize| {
            // Below `all`, so within the mapping; and a multiple of `align`, as its start is of a huge page.
            let start = NonNull::new(home.start.as_ptr().wrapping_add(number * stride)).ok_or(bad)?;
            Ok(Buffer { start, layout, home: Some(home.clone()) })
        };
        (0..count).map(buffer).collect()
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// Never: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All its bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: these are `len` initialised bytes, of which no other Buffer has any, and they live as long as `self`; a
        // Buffer that is borrowed is in one owner's hands, so nothing writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    /// All its bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }

    /// Its address, for the kernel and for those who share it out in disjoint pieces.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.home.is_none() {
            // SAFETY: allocated in `new_aligned` with this very layout, and freed only here.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

/// Whole huge pages for `len` bytes: zeros, in huge pages if the kernel has some (by itself it gives none where
/// `transparent_hugepage/enabled` is `madvise`), and touched up to `len`.
fn map_huge(len: usize) -> Option<Mapping> {
    let bytes = len.checked_next_multiple_of(HUGE_PAGE)?;
    let room = bytes.checked_add(HUGE_PAGE)?;
    let mapping = anonymous(room, 0)?;
    let front = mapping.align_offset(HUGE_PAGE);
    let start = mapping.wrapping_add(front);
    // What lies before the first whole huge page, and behind the last.
    unmap(mapping, front);
    unmap(start.wrapping_add(bytes), room - bytes - front);
    // SAFETY: the pages are ours. Where there are no huge pages it fails, and small ones serve.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
    for at in (0..len).step_by(FOUR_KB_BLOCK) {
        // SAFETY: `at` is below `len`, within the mapping, which nobody else knows of.
        unsafe { start.wrapping_add(at).write_volatile(0) };
    }
    NonNull::new(start).map(|start| Mapping { start, bytes })
}

/// Whole pages of `bytes` bytes, most of which will never be used.
fn map(bytes: usize) -> Option<Mapping> {
    NonNull::new(anonymous(bytes, libc::MAP_NORESERVE)?).map(|start| Mapping { start, bytes })
}

/// Zeros that take memory once they are touched; not of what was given up for things that can't be refused.
fn anonymous(bytes: usize, more: libc::c_int) -> Option<*mut u8> {
    if !has_room() {
        return None;
    }
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more);
    // SAFETY: a new private mapping at a place of the kernel's choice.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    (mapping != libc::MAP_FAILED).then_some(mapping.cast())
}

/// Give pages back.
fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: whole pages of a mapping that `map_huge` made, which nothing uses any more.
        let failed = unsafe { libc::munmap(start.cast(), bytes) } != 0;
        debug_assert!(!failed, "munmap: {}", std::io::Error::last_os_error());
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes, aligned to {})", self.len(), self.layout.align())
    }
}

/// The reference-counted handle of a [`Buffer`].
#[derive(Clone, Debug)]
pub struct SharedBuffer(Arc<Buffer>);

impl SharedBuffer {
    /// Shares `buffer`; its bytes can then only be reached by address, until [`SharedBuffer::into_buffer`].
    pub fn new(buffer: Buffer) -> SharedBuffer {
        SharedBuffer(Arc::new(buffer))
    }

    /// The buffer back, if this is its last handle; else the handle.
    pub fn into_buffer(self) -> Result<Buffer, SharedBuffer> {
        Arc::try_unwrap(self.0).map_err(SharedBuffer)
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its address. The allocation lives as long as any handle.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Two handles of one buffer.
    pub fn same(&self, other: &SharedBuffer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Buffer> for SharedBuffer {
    fn from(buffer: Buffer) -> SharedBuffer {
        SharedBuffer::new(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_as_long_as_asked() {
        for align in [1, 512, FOUR_KB_BLOCK, 2 * ONE_MEGABYTE_BLOCK] {
            let mut b = Buffer::new_aligned(FOUR_KB_BLOCK + 3, align).unwrap();
            assert_eq!(b.as_ptr() as usize % align, 0);
            assert_eq!(b.len(), FOUR_KB_BLOCK + 3);
            assert!(b.as_slice().iter().all(|&x| x == 0));
            b.as_mut_slice()[FOUR_KB_BLOCK + 2] = 7;
            assert_eq!(b.as_slice()[FOUR_KB_BLOCK + 2], 7);
        }
    }

    #[test]
    fn a_large_one_begins_on_a_huge_page() {
        for len in [HUGE_FROM, HUGE_FROM + 1, HUGE_PAGE, 3 * HUGE_PAGE - 5] {
            let mut b = Buffer::new_aligned(len, 512).unwrap();
            assert_eq!((b.as_ptr() as usize % HUGE_PAGE, b.len()), (0, len));
            assert!(b.as_slice().iter().all(|&x| x == 0));
            b.as_mut_slice().fill(9);
            assert!(b.as_slice().iter().all(|&x| x == 9));
            assert_eq!(b.home.as_ref().unwrap().bytes, len.next_multiple_of(HUGE_PAGE));
        }
    }

    #[test]
    fn several_share_huge_pages_and_no_byte() {
        for (len, align) in [(17 << 16, 4096), (HUGE_FROM + 1, 512), (100, 64)] {
            let mut all = Buffer::several(5, len, align).unwrap();
            for (number, b) in all.iter_mut().enumerate() {
                assert_eq!((b.as_ptr() as usize % align, b.len()), (0, len));
                assert!(b.as_slice().iter().all(|&x| x == 0));
                b.as_mut_slice().fill(number as u8 + 1);
            }
            if let Some(home) = &all[0].home {
                assert_eq!((home.bytes, Arc::strong_count(home)), ((5 * len).next_multiple_of(HUGE_PAGE), 5));
            }
            let last = all.pop().unwrap();
            drop(all);
            assert!(last.as_slice().iter().all(|&x| x == 5));
        }
        assert!(Buffer::several(usize::MAX / 2, HUGE_FROM, 4096).is_err());
    }

    #[test]
    fn one_that_is_untouched_takes_the_room_of_what_is_used() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap().to_owned();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
        };
        let before = resident();
        let mut b = Buffer::untouched((256 << 20) + 1).unwrap();
        assert_eq!((b.as_ptr() as usize % FOUR_KB_BLOCK, b.len()), (0, (256 << 20) + 1));
        b.as_mut_slice()[100 << 20] = 7;
        assert_eq!((b.as_slice()[100 << 20], b.as_slice()[256 << 20]), (7, 0));
        assert!(resident() < before + (128 << 20), "other tests take memory meanwhile, but not as much");
        assert!(Buffer::untouched(0).is_err() && Buffer::untouched(isize::MAX as usize & !4095).is_err());
    }

    #[test]
    fn what_cannot_be_allocated_is_an_error_with_its_reason() {
        for (len, align) in [(0, 8), (8, 0), (8, 3), (usize::MAX, 8)] {
            let e = Buffer::new_aligned(len, align).unwrap_err();
            assert_eq!(e, BufferAllocError::BadLayout { len, align });
        }
        let e = Buffer::new_aligned(isize::MAX as usize & !4095, 8).unwrap_err();
        assert!(e.to_string().contains("no memory"));
    }

    #[test]
    fn the_last_handle_gives_the_buffer_back() {
        let a = SharedBuffer::new(Buffer::new_aligned(16, 16).unwrap());
        let b = a.clone();
        assert!(a.same(&b));
        let a = a.into_buffer().unwrap_err();
        drop(b);
        assert_eq!(a.into_buffer().unwrap().len(), 16);
    }
}
