//! The allocator with a reserve: what there is no memory for is refused, and leaves what is there and the reserve alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use llamafs::io::{ReservingAllocator, give_large_allocations_back, keep_reserve, memory_is_short, try_copy, try_room};

/// More than any machine has.
const ENDLESS: usize = isize::MAX as usize / 2;
const SMALL: usize = 100;
/// Freed, it is a sign that there is memory again.
const LARGE: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(black_box(size), 16).unwrap()
}

#[test]
fn what_is_large_is_refused_and_leaves_the_reserve_alone() {
    give_large_allocations_back();
    assert!(keep_reserve() && keep_reserve() && !memory_is_short());
    let allocator = ReservingAllocator;
    // SAFETY: every layout has a size, every place is given back with the layout that it has, and once.
    unsafe {
        let place = allocator.alloc_zeroed(layout(SMALL));
        assert!((0..SMALL).all(|at| *place.add(at) == 0));
        place.write_bytes(7, SMALL);
        let moved = allocator.realloc(place, layout(SMALL), 2 * SMALL);
        assert!((0..SMALL).all(|at| *moved.add(at) == 7));
        assert!(black_box(allocator.realloc(moved, layout(2 * SMALL), ENDLESS)).is_null(), "and it stays where it is");
        assert!((0..SMALL).all(|at| *moved.add(at) == 7));
        allocator.dealloc(moved, layout(2 * SMALL));
        assert!(black_box(allocator.alloc(layout(ENDLESS))).is_null());
        assert!(black_box(allocator.alloc_zeroed(layout(ENDLESS))).is_null());
        assert!(!memory_is_short(), "what is large leaves the reserve alone");
        let place = black_box(allocator.alloc(layout(LARGE)));
        assert!(!place.is_null());
        allocator.dealloc(place, layout(LARGE));
    }
    assert_eq!(try_room(ENDLESS), None);
    assert!(try_room(SMALL).unwrap().capacity() >= SMALL);
    assert_eq!(try_copy(b"bytes").unwrap(), b"bytes");
}
