//! How much recovery reads in search of segments without a header.
//!
//! Such a segment can only be known by trying its frames wherever it may lie. Each search may read a whole place; where
//! many segments are missing, as without a checkpoint, and many headers can't be read, that would be the device once for
//! each of them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use crate::store::geometry::Shape;

/// How often the whole device may be read for it.
const ROUNDS: u64 = 2;

/// What was searched so far.
pub(super) struct Searches {
    /// Places that may still be read as a whole.
    left: Cell<u64>,
    /// Places where nothing even looks like a frame.
    empty: RefCell<HashSet<u32>>,
}

impl Searches {
    /// None yet.
    pub(super) fn of(shape: &Shape) -> Self {
        Self { left: Cell::new(ROUNDS * u64::from(shape.segments)), empty: RefCell::default() }
    }

    /// May another place be read as a whole? Then it will be.
    pub(super) fn one_more(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// No segment will ever be found at `physical`.
    pub(super) fn found_empty(&self, physical: u32) {
        self.empty.borrow_mut().insert(physical);
    }

    /// So it was.
    pub(super) fn was_empty(&self, physical: u32) -> bool {
        self.empty.borrow().contains(&physical)
    }
}
