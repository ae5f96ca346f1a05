//! The page that holds the end of a log, and how readers through the page cache stay right while it grows.
//!
//! Before the kernel sends an append past the page cache it drops the pages that the append touches, and when the
//! append is answered it moves the file's size. Between the two a reader may bring the last page back as it was
//! *before* the append, zeros behind the old end, and those zeros would be read once the size has moved. So a read
//! that reaches the end leaves a mark, and an append that finds the mark has the page dropped once more before it
//! is answered. `stat` shows the new size only then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// The kernel's cache of file pages.
pub trait PageCache: Send + Sync + 'static {
    /// Drop the pages of a file that hold any of these bytes, then run `then`, from a thread that serves no request:
    /// dropping a page waits for reads of it that are still in flight.
    fn invalidate(&self, ino: u64, offset: u64, len: u64, then: Box<dyn FnOnce() + Send>);
}

/// No cache at all.
pub struct NoPageCache;

impl PageCache for NoPageCache {
    fn invalidate(&self, _ino: u64, _offset: u64, _len: u64, then: Box<dyn FnOnce() + Send>) {
        then();
    }
}

/// The visible end of one log.
#[derive(Debug)]
pub struct Tail {
    visible: AtomicU64,
    read: AtomicBool,
}

impl Tail {
    /// A log of this size.
    pub fn new(size: u64) -> Self {
        Self { visible: AtomicU64::new(size), read: AtomicBool::new(false) }
    }

    /// The size that `stat` shows: all appends that are answered.
    pub fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// A read through the page cache is about to ask the store for bytes up to `end`. Returns the visible size.
    pub fn reading(&self, end: u64) -> u64 {
        let visible = self.visible();
        if end > visible && !self.read.swap(true, Ordering::SeqCst) {
            log::trace!("the end of a log was read at {visible}");
        }
        // Pairs with the fence in `appended`: either this read finds the append, or the append finds the mark.
        fence(Ordering::SeqCst);
        visible
    }

    /// The store has taken an append. True: a reader may have kept the last page from before.
    pub fn appended(&self) -> bool {
        fence(Ordering::SeqCst);
        self.read.load(Ordering::SeqCst) && self.read.swap(false, Ordering::SeqCst)
    }

    /// Readers may see up to here.
    pub fn publish(&self, end: u64) {
        self.visible.fetch_max(end, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_read_of_the_end_makes_the_next_append_drop_the_page() {
        let tail = Tail::new(100);
        assert!(!tail.appended());
        assert_eq!(tail.reading(100), 100);
        assert!(!tail.appended());
        assert_eq!(tail.reading(4096), 100);
        assert!(tail.appended());
        assert!(!tail.appended());
    }

    #[test]
    fn the_visible_end_only_grows() {
        let tail = Tail::new(10);
        tail.publish(30);
        tail.publish(20);
        assert_eq!(tail.visible(), 30);
    }
}
