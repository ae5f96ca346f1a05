//! The daemon's memory: kept where its buffers are, not where they were, and a little set aside for when there is none.
//!
//! Rust ends a program that finds no memory for a small thing, such as an entry of a queue. So while there is memory, a
//! reserve is set aside; when there is none it is given up, and small things go on. Large things, the bytes of reads and
//! queued appends, ask [`memory_is_short`] and for themselves, and are refused.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Bytes set aside. They are not touched: as long as nobody needs them they cost address space alone.
const RESERVE: usize = 8 << 20;
/// What is this large asks for itself and can do without; anything smaller may use the reserve.
const LARGE: usize = 512 << 10;
/// How often a small thing tries: another thread that freed something may take the reserve back just when it was given up.
const TRIES: usize = 1000;
/// Behind so many tries the memory is really gone, and each waits for what others give back.
const AT_ONCE: usize = 100;
const WAIT_MS: libc::c_int = 1;
/// Freeing this much is a sign that the reserve may be had again.
const REFILL_FROM: usize = 64 << 10;

/// The reserve, if it is there.
static KEPT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// The reserve was given up and not had again.
static SHORT: AtomicBool = AtomicBool::new(false);

/// The C library's allocator, with a reserve.
#[derive(Debug, Clone, Copy)]
pub struct ReservingAllocator;

fn reserve_layout() -> Layout {
    Layout::new::<[u8; RESERVE]>()
}

/// Set the reserve aside. False: there is not that much memory.
pub fn keep_reserve() -> bool {
    // SAFETY: the layout has a size.
    let fresh = unsafe { System.alloc(reserve_layout()) };
    if fresh.is_null() {
        return false;
    }
    // In this order: who gives it up at the same time leaves the word that there is none.
    SHORT.store(false, Ordering::Release);
    let had = KEPT.swap(fresh, Ordering::AcqRel);
    if !had.is_null() {
        // SAFETY: what lies in KEPT was allocated with this layout, and the swap made it ours.
        unsafe { System.dealloc(had, reserve_layout()) };
    }
    true
}

/// The reserve is in use: nothing that can be refused should be allocated.
#[inline]
pub fn memory_is_short() -> bool {
    SHORT.load(Ordering::Relaxed)
}

/// Large things may be allocated: the reserve is there, or can be had again.
pub(super) fn has_room() -> bool {
    !memory_is_short() || keep_reserve()
}

/// Room for `len` bytes, or nothing.
pub fn try_room(len: usize) -> Option<Vec<u8>> {
    let mut room = Vec::new();
    if !has_room() {
        return None;
    }
    room.try_reserve_exact(len).ok().map(|()| room)
}

/// A copy of `bytes`, or nothing.
pub fn try_copy(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = try_room(bytes.len())?;
    copy.extend_from_slice(bytes);
    Some(copy)
}

/// Give the reserve up, if it is there.
#[cold]
fn give_up_reserve() {
    SHORT.store(true, Ordering::Release);
    let had = KEPT.swap(ptr::null_mut(), Ordering::AcqRel);
    if !had.is_null() {
        // SAFETY: what lies in KEPT was allocated with this layout, and the swap made it ours.
        unsafe { System.dealloc(had, reserve_layout()) };
    }
}

/// A small thing found no memory: once more, from the reserve.
#[cold]
fn once_more(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
    if size >= LARGE {
        return ptr::null_mut();
    }
    for number in 0..TRIES {
        // Another thread may have given it up a moment ago, and there is memory again.
        give_up_reserve();
        let place = allocate();
        if !place.is_null() {
            return place;
        }
        if number < AT_ONCE {
            std::thread::yield_now();
        } else {
            // SAFETY: no descriptors are passed: it waits, and allocates nothing.
            unsafe { libc::poll(ptr::null_mut(), 0, WAIT_MS) };
        }
    }
    ptr::null_mut()
}

// SAFETY: every call goes to the C library's allocator with the caller's own arguments, and again only if it gave
// nothing.
unsafe impl GlobalAlloc for ReservingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let place = unsafe { System.alloc(layout) };
        if place.is_null() {
            // SAFETY: promised by the caller.
            return once_more(layout.size(), || unsafe { System.alloc(layout) });
        }
        place
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(place, layout) };
        if layout.size() >= REFILL_FROM && memory_is_short() {
            keep_reserve();
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let place = unsafe { System.alloc_zeroed(layout) };
        if place.is_null() {
            // SAFETY: promised by the caller.
            return once_more(layout.size(), || unsafe { System.alloc_zeroed(layout) });
        }
        place
    }

    #[inline]
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        let moved = unsafe { System.realloc(place, layout, size) };
        if moved.is_null() {
            // SAFETY: promised by the caller; what gave nothing has left the old place as it was.
            return once_more(size, || unsafe { System.realloc(place, layout, size) });
        }
        moved
    }
}

/// Allocations from this size on go back to the kernel when they are freed, in bytes.
const GIVE_BACK_FROM: libc::c_int = 128 * 1024;

/// Have the C library give large allocations back when they are freed, and keep what is small in one place.
///
/// By itself it raises the limit of the former to the largest block ever freed, and a daemon that reads a megabyte at a
/// time then keeps hundreds of them; and it sets 64 MiB of addresses aside for each thread, which under a limit of
/// addresses is what the next large thing lacks.
pub fn give_large_allocations_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt(3) sets a parameter of the allocator under its own lock and takes no pointer.
        let taken =
            unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, GIVE_BACK_FROM) & libc::mallopt(libc::M_ARENA_MAX, 1) };
        if taken == 0 {
            log::warn!("mallopt: the allocator keeps what is freed; resident memory will be larger than need be");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_small_thing_is_not_lost_to_a_thread_that_takes_the_reserve_back() {
        assert!(keep_reserve());
        let (tries, mut there) = (Cell::new(0), 7u8);
        let place = &raw mut there;
        let allocate = || {
            tries.set(tries.get() + 1);
            // What another thread does when it frees something.
            assert!(keep_reserve());
            if tries.get() < 20 { ptr::null_mut() } else { place }
        };
        assert_eq!((once_more(100, allocate), tries.get()), (place, 20));
        // Where nothing helps, it ends; and what is large does not even try.
        let counted = || {
            tries.set(tries.get() + 1);
            ptr::null_mut()
        };
        assert_eq!((once_more(100, counted), tries.get()), (ptr::null_mut(), 20 + TRIES));
        assert_eq!((once_more(LARGE, counted), tries.get()), (ptr::null_mut(), 20 + TRIES));
    }
}
