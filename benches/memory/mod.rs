//! A stage for measuring and stressing the ring without a store: fillings lie end to end in one endless address
//! space, and what becomes of a flushed filling is a closure. In memory it recycles at once; a device would write
//! `fill.start..fill.end` of `ring.buffer(fill.slot)` and recycle when that is complete.
use llamafs::io::buffer::{Buffer, FOUR_KB_BLOCK, SharedBuffer};
use llamafs::ring::{FillInfo, FlushBufferRing, Placement, SealedFill, Stage, Why};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

pub type Ring = FlushBufferRing<EndToEnd>;
/// What happens to a filling that is sealed and drained; ends in `ring.recycle(&fill)`, now or later.
pub type OnFlush = Box<dyn Fn(&Ring, FillInfo) + Send + Sync>;

pub struct EndToEnd {
    ring: OnceLock<Weak<Ring>>,
    limit: usize,
    on_flush: OnFlush,
    pub flushes: AtomicU64,
}

pub fn ring_of(buffers: usize, buffer_size: usize, on_flush: OnFlush) -> Arc<Ring> {
    let stage = Arc::new(EndToEnd { ring: OnceLock::new(), limit: buffer_size, on_flush, flushes: AtomicU64::new(0) });
    let buffers =
        (0..buffers).map(|_| SharedBuffer::new(Buffer::new_aligned(buffer_size, FOUR_KB_BLOCK).unwrap())).collect();
    let ring = Arc::new(FlushBufferRing::new(buffers, Arc::clone(&stage)));
    stage.ring.set(Arc::downgrade(&ring)).unwrap();
    ring
}

impl Stage for EndToEnd {
    fn place(&self, prev: Option<SealedFill>, _need: usize, _why: Why) -> Placement {
        let end = prev.map_or(0, |p| p.end_lsn());
        let start = end as usize % FOUR_KB_BLOCK;
        Placement { trailer: 0, base_lsn: end - start as u64, start, limit: self.limit }
    }

    fn flush(&self, fill: FillInfo) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        // None when the ring is being dropped: nobody is left to tell.
        if let Some(ring) = self.ring.get().and_then(Weak::upgrade) {
            (self.on_flush)(&ring, fill);
        }
    }

    fn failed_flush(&self, _lsn: u64, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn has_room(&self, _end_lsn: u64, need: usize) -> bool {
        need + FOUR_KB_BLOCK <= self.limit
    }
}
