//! Tests of the ring: its eight rules from several threads, and its edges one step at a time.
mod edges;
mod rules;

use super::*;
use crate::io::buffer::{Buffer, SharedBuffer};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

type Ring = FlushBufferRing<Books>;

/// What a Failed Flush looks like here.
const VOID: u8 = 0xFF;

/// A stage that keeps books: an image of everything flushed, and each filling as it was placed and flushed.
struct Books {
    ring: OnceLock<Weak<Ring>>,
    /// Room of filling n: entry n, or the last one.
    limits: Vec<usize>,
    /// Recycle inside `flush`; else fillings wait in `waiting`.
    at_once: AtomicBool,
    room: AtomicBool,
    waiting: Mutex<Vec<FillInfo>>,
    placed: AtomicUsize,
    flushed: Mutex<Vec<FillInfo>>,
    image: Mutex<Vec<u8>>,
    failed: AtomicU64,
    freed: AtomicU64,
    /// Appenders that say they are inside a claim, per slot.
    inside: Vec<AtomicUsize>,
}

fn ring(buffers: usize, size: usize, limits: &[usize], at_once: bool) -> (Arc<Ring>, Arc<Books>) {
    let books = Arc::new(Books {
        ring: OnceLock::new(),
        limits: limits.to_vec(),
        at_once: AtomicBool::new(at_once),
        room: AtomicBool::new(true),
        waiting: Mutex::default(),
        placed: AtomicUsize::new(0),
        flushed: Mutex::default(),
        image: Mutex::default(),
        failed: AtomicU64::new(0),
        freed: AtomicU64::new(0),
        inside: (0..buffers).map(|_| AtomicUsize::new(0)).collect(),
    });
    let memory = (0..buffers).map(|_| SharedBuffer::new(Buffer::new_aligned(size, 64).unwrap())).collect();
    let ring = Arc::new(FlushBufferRing::new(memory, Arc::clone(&books)));
    books.ring.set(Arc::downgrade(&ring)).unwrap();
    (ring, books)
}

impl Books {
    fn recycle_oldest(&self, ring: &Ring) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        let oldest = (0..waiting.len()).min_by_key(|&i| waiting[i].number);
        let fill = oldest.map(|i| waiting.swap_remove(i));
        drop(waiting);
        fill.inspect(|fill| ring.recycle(fill)).is_some()
    }

    /// Every filling flushed once, end to end; the image of them.
    fn image(&self) -> Vec<u8> {
        let mut flushed = self.flushed.lock().unwrap().clone();
        flushed.sort_by_key(|f| f.number);
        let mut lsn = 0;
        for (n, fill) in flushed.iter().enumerate() {
            assert_eq!(fill.number, n as u64, "a filling is missing or was flushed twice");
            assert_eq!(fill.start_lsn(), lsn, "a hole or an overlap");
            lsn = fill.end_lsn();
        }
        let image = self.image.lock().unwrap().clone();
        assert_eq!(image.len() as u64, lsn);
        image
    }
}

impl Stage for Books {
    fn place(&self, prev: Option<SealedFill>, need: usize, _why: Why) -> Placement {
        let n = match prev {
            Some(prev) => {
                assert_eq!(prev.number, self.placed.fetch_add(1, Ordering::Relaxed) as u64, "sealed out of order");
                prev.number as usize + 1
            }
            None => 0,
        };
        let limit = self.limits[n.min(self.limits.len() - 1)];
        Placement {
            trailer: 0,
            base_lsn: prev.map_or(0, |p| p.end_lsn()),
            start: 0,
            limit: limit.max(need.min(self.limits[0])),
        }
    }

    fn flush(&self, fill: FillInfo) {
        assert_eq!(self.inside[fill.slot].load(Ordering::SeqCst), 0, "a writer is inside");
        let ring = self.ring.get().and_then(Weak::upgrade);
        if let Some(ring) = &ring {
            let mut image = self.image.lock().unwrap();
            let (from, to) = (fill.start_lsn() as usize, fill.end_lsn() as usize);
            let len = image.len().max(to);
            image.resize(len, 0);
            ring.with_filling(&fill, |bytes| {
                image[from..to].copy_from_slice(&bytes[fill.start..fill.end]);
            });
        }
        self.flushed.lock().unwrap().push(fill);
        match ring {
            Some(ring) if self.at_once.load(Ordering::Relaxed) => ring.recycle(&fill),
            _ => self.waiting.lock().unwrap().push(fill),
        }
    }

    fn failed_flush(&self, _lsn: u64, bytes: &mut [u8]) {
        bytes.fill(VOID);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn has_room(&self, _end_lsn: u64, _need: usize) -> bool {
        self.room.load(Ordering::Relaxed)
    }

    fn slot_free(&self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

fn words(ring: &Ring) -> Vec<u64> {
    ring.states().iter().map(|s| s.word).collect()
}

/// Gives other threads the time to do what they should not.
fn pause(time: Duration) {
    std::thread::sleep(time);
}
