//! The flush ring under loom: every interleaving of three threads over two buffers, up to a bound of preemptions, and
//! every value that the memory model lets an atomic load return.
//!
//! `RUSTFLAGS="--cfg loom -C debug-assertions" cargo test --release --test loom_ring`
//! (`LOOM_MAX_PREEMPTIONS=4` for a longer search).
//!
//! Each byte of a buffer has a cell that loom watches. Appenders write the cells of what they claimed, the stage reads
//! those of what it flushes: two claims of one byte, or a flush beside a writer, are data races that end the model.
#![cfg(loom)]

use llamafs::io::buffer::{Buffer, SharedBuffer};
use llamafs::ring::{FillInfo, FlushBufferRing, Placement, ReserveError, SealedFill, Stage, Why};
use loom::cell::UnsafeCell;
use loom::thread;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

type Ring = FlushBufferRing<Watch>;

const BUFFERS: usize = 2;
const BYTES: usize = 8;
const VOID: u64 = 1 << 63;

/// A stage that checks. Its books are under real locks, which loom does not see, never held across a step that loom can
/// switch at. What is handed from thread to thread goes through a lock of loom's.
struct Watch {
    ring: OnceLock<Weak<Ring>>,
    /// Per slot and byte: the LSN last written there, or VOID with it.
    cells: Vec<Vec<UnsafeCell<u64>>>,
    /// Room of each filling; the last entry goes on.
    limits: Vec<usize>,
    /// Recycle in `flush`; else leave the filling in `waiting`.
    at_once: bool,
    placed: Mutex<Vec<SealedFill>>,
    flushed: Mutex<BTreeMap<u64, FillInfo>>,
    waiting: loom::sync::Mutex<Vec<FillInfo>>,
    voids: AtomicU64,
    freed: AtomicU64,
}

// SAFETY: the cells are watched by loom, which is the point.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

fn ring(limits: &[usize], at_once: bool) -> (Arc<Ring>, Arc<Watch>) {
    let cells = || (0..BYTES).map(|_| UnsafeCell::new(0)).collect();
    let stage = Arc::new(Watch {
        ring: OnceLock::new(),
        cells: (0..BUFFERS).map(|_| cells()).collect(),
        limits: limits.to_vec(),
        at_once,
        placed: Mutex::default(),
        flushed: Mutex::default(),
        waiting: loom::sync::Mutex::default(),
        voids: AtomicU64::new(0),
        freed: AtomicU64::new(0),
    });
    let buffers = (0..BUFFERS).map(|_| SharedBuffer::new(Buffer::new_aligned(BYTES, 8).unwrap())).collect();
    let ring = Arc::new(FlushBufferRing::new(buffers, Arc::clone(&stage)));
    stage.ring.set(Arc::downgrade(&ring)).unwrap();
    (ring, stage)
}

impl Watch {
    fn place_of(&self, lsn: u64) -> (usize, usize) {
        let placed = self.placed.lock().unwrap();
        let number = placed.partition_point(|f| f.end_lsn() <= lsn);
        let base = placed.get(number).map_or_else(|| placed.last().map_or(0, |f| f.end_lsn()), |f| f.base_lsn);
        (number % BUFFERS, (lsn - base) as usize)
    }

    fn write(&self, slot: usize, offset: usize, lsn: u64, len: usize, mark: u64) {
        for i in 0..len {
            // SAFETY: loom checks that nobody else is at the cell.
            self.cells[slot][offset + i].with_mut(|c| unsafe { *c = (lsn + i as u64) | mark });
        }
    }

    /// What the ring kept to itself, once all threads are done: every claim flushed once, addresses without a hole.
    fn account(&self, bytes: u64, voids: u64) {
        let flushed = self.flushed.lock().unwrap();
        let mut lsn = 0;
        for (i, (number, fill)) in flushed.iter().enumerate() {
            assert_eq!(i as u64, *number, "a filling was lost");
            assert_eq!(fill.start_lsn(), lsn, "a hole between fillings");
            lsn = fill.end_lsn();
        }
        assert_eq!(lsn, bytes, "claimed and flushed bytes differ");
        assert_eq!(self.voids.load(Ordering::Relaxed), voids);
    }

    /// Recycles the filling flushed first, or last.
    fn recycle_one(&self, ring: &Ring, first: bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        let fill = match first && !waiting.is_empty() {
            true => Some(waiting.remove(0)),
            false => waiting.pop(),
        };
        drop(waiting);
        fill.inspect(|fill| ring.recycle(fill)).is_some()
    }
}

impl Stage for Watch {
    fn place(&self, prev: Option<SealedFill>, need: usize, _why: Why) -> Placement {
        let mut placed = self.placed.lock().unwrap();
        if let Some(prev) = prev {
            assert_eq!(prev.number, placed.len() as u64, "sealed out of order");
            placed.push(prev);
        }
        let limit = self.limits[placed.len().min(self.limits.len() - 1)].max(need);
        Placement { trailer: placed.len() % 3, base_lsn: prev.map_or(0, |p| p.end_lsn()), start: 0, limit }
    }

    fn flush(&self, fill: FillInfo) {
        // Reads every cell: a race if any writer is still in the filling.
        for i in fill.start..fill.end {
            // SAFETY: loom checks that no writer is at the cell.
            let got = self.cells[fill.slot][i].with(|c| unsafe { *c });
            assert_eq!(got & !VOID, fill.base_lsn + i as u64, "lost or misplaced");
        }
        let sealed = self.placed.lock().unwrap()[fill.number as usize];
        let trailer = (fill.number as usize + 1) % 3;
        assert_eq!(fill, FillInfo { trailer, ..sealed });
        let twice = self.flushed.lock().unwrap().insert(fill.number, fill);
        assert!(twice.is_none(), "flushed twice");
        match self.ring.get().and_then(Weak::upgrade) {
            Some(ring) if self.at_once => ring.recycle(&fill),
            _ => self.waiting.lock().unwrap().push(fill),
        }
    }

    fn failed_flush(&self, lsn: u64, bytes: &mut [u8]) {
        let (slot, offset) = self.place_of(lsn);
        self.write(slot, offset, lsn, bytes.len(), VOID);
        self.voids.fetch_add(1, Ordering::Relaxed);
    }

    fn has_room(&self, _end_lsn: u64, _need: usize) -> bool {
        true
    }

    fn slot_free(&self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reserves, checks that the bytes are its own, commits; gives the LSN.
fn append(ring: &Ring, stage: &Watch, len: usize) -> Result<u64, ReserveError> {
    let mut r = ring.reserve(len)?;
    let (lsn, slot) = (r.lsn(), r.slot());
    let offset = r.bytes().as_ptr() as usize - ring.buffer(slot).unwrap().as_ptr() as usize;
    r.bytes().fill(lsn as u8 + 1);
    stage.write(slot, offset, lsn, len, 0);
    r.commit();
    Ok(lsn)
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

#[test]
fn three_appenders_rotate_and_recycle_two_buffers() {
    model(2, || {
        let (ring, stage) = ring(&[4], true);
        let appenders: Vec<_> = (0..2)
            .map(|_| {
                let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
                thread::spawn(move || {
                    append(&ring, &stage, 2).unwrap();
                    append(&ring, &stage, 2).unwrap();
                })
            })
            .collect();
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 2).unwrap();
        for a in appenders {
            a.join().unwrap();
        }
        ring.close();
        stage.account(12, 0);
    });
}

#[test]
fn sizes_that_do_not_fit_leave_no_hole() {
    model(2, || {
        let (ring, stage) = ring(&[4], true);
        let other = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || {
                append(&ring, &stage, 3).unwrap();
                append(&ring, &stage, 1).unwrap();
                append(&ring, &stage, 4).unwrap();
            })
        };
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 3).unwrap();
        assert_eq!(ring.try_reserve(9).err(), Some(ReserveError::TooLarge), "larger than a buffer");
        other.join().unwrap();
        ring.close();
        stage.account(13, 0);
    });
}

#[test]
fn a_reservation_given_up_leaves_a_failed_flush() {
    model(2, || {
        let (ring, stage) = ring(&[3], true);
        let quitter = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || drop(ring.reserve(2).unwrap()))
        };
        let appender = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || append(&ring, &stage, 2).map(drop).unwrap())
        };
        append(&ring, &stage, 1).unwrap();
        quitter.join().unwrap();
        appender.join().unwrap();
        ring.close();
        stage.account(5, 1);
    });
}

#[test]
fn a_timer_flush_races_appends() {
    model(2, || {
        let (ring, stage) = ring(&[4], true);
        let timer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let first = ring.seal(Why::Commit).unwrap();
                let second = ring.seal(Why::Commit).unwrap();
                assert!(first.is_none() || second.is_none() || first < second);
            })
        };
        let appender = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || {
                append(&ring, &stage, 3).unwrap();
                append(&ring, &stage, 2).unwrap();
            })
        };
        let lsn = append(&ring, &stage, 2).unwrap();
        assert!(ring.end_lsn() >= lsn + 2, "the end went back");
        timer.join().unwrap();
        appender.join().unwrap();
        ring.close();
        stage.account(7, 0);
    });
}

#[test]
fn two_timers_seal_a_filling_once() {
    model(3, || {
        let (ring, stage) = ring(&[8], false);
        append(&ring, &stage, 2).unwrap();
        let timers: Vec<_> = (0..2)
            .map(|_| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.seal(Why::Commit).unwrap())
            })
            .collect();
        let sealed: Vec<_> = timers.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(sealed.iter().flatten().count(), 1, "{sealed:?}");
        ring.close();
        stage.account(2, 0);
    });
}

#[test]
fn a_full_ring_blocks_the_appender_and_wakes_it() {
    model(2, || {
        let (ring, stage) = ring(&[2], false);
        let appender = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || {
                append(&ring, &stage, 2).unwrap();
                append(&ring, &stage, 2).unwrap();
            })
        };
        let device = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || {
                let mut recycled = 0;
                // Three of the four are sealed for sure; out of order.
                while recycled < 3 {
                    if stage.recycle_one(&ring, false) {
                        recycled += 1;
                    } else {
                        thread::yield_now();
                    }
                }
            })
        };
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 2).unwrap();
        appender.join().unwrap();
        device.join().unwrap();
        ring.close();
        stage.account(8, 0);
    });
}

#[test]
fn a_full_ring_refuses_until_slot_free_is_called() {
    model(3, || {
        let (ring, stage) = ring(&[2], false);
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 2).unwrap();
        let device = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || stage.recycle_one(&ring, true))
        };
        let refused = ring.try_reserve(2).map(drop).err();
        if refused.is_some() {
            assert_eq!(refused, Some(ReserveError::RingFull));
        }
        // Either filling 1 is sealed for lack of room by now, or a buffer came free first.
        device.join().unwrap();
        assert!(refused.is_none() || stage.freed.load(Ordering::Relaxed) == 1);
        let given_up = u64::from(refused.is_none());
        if refused.is_none() {
            // The next append seals filling 2 and needs the buffer of filling 1.
            assert!(stage.recycle_one(&ring, true));
        }
        append(&ring, &stage, 2).unwrap();
        ring.close();
        stage.account(6 + 2 * given_up, given_up);
    });
}

#[test]
fn a_claim_that_met_a_later_and_shorter_filling_is_taken_back() {
    // Fillings 0 and 2 are in one buffer; a claimer that stalls between its load and its exchange meets 2, where the
    // same word leaves no room for it.
    model(3, || {
        let (ring, stage) = ring(&[4, 2, 2, 8], true);
        let stalled = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || append(&ring, &stage, 4).map(drop).unwrap())
        };
        append(&ring, &stage, 3).unwrap();
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 1).unwrap();
        stalled.join().unwrap();
        ring.close();
        stage.account(10, 0);
    });
}

#[test]
fn an_overtaken_claim_holds_the_sealer_up_and_nothing_else() {
    model(3, || {
        let (ring, stage) = ring(&[4, 2, 2, 8], true);
        let stalled = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            thread::spawn(move || append(&ring, &stage, 3).map(drop).unwrap())
        };
        for _ in 0..2 {
            let _ = ring.force_seal(Why::Commit);
        }
        let end = ring.end_lsn();
        assert!(end == 0 || end == 3, "a claim taken back was counted");
        ring.seal(Why::Commit).unwrap();
        stalled.join().unwrap();
        ring.close();
        stage.account(3, 0);
    });
}

#[test]
fn a_reader_sees_its_bytes_or_is_told_that_they_are_gone() {
    model(2, || {
        let (ring, stage) = ring(&[2], true);
        let lsn = append(&ring, &stage, 2).unwrap();
        let reader = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut out = [0; 2];
                if ring.read(lsn, &mut out) {
                    assert_eq!(out, [lsn as u8 + 1; 2]);
                }
                let (oldest, end) = ring.live_range();
                assert!(oldest <= end && end >= lsn + 2);
            })
        };
        append(&ring, &stage, 2).unwrap();
        append(&ring, &stage, 2).unwrap();
        reader.join().unwrap();
        ring.close();
        stage.account(6, 0);
    });
}

#[test]
fn closing_keeps_what_was_accepted_and_wakes_those_who_wait() {
    model(2, || {
        let (ring, stage) = ring(&[2], false);
        let appender = {
            let (ring, stage) = (Arc::clone(&ring), Arc::clone(&stage));
            // Nothing is recycled: the third append waits, until the ring is closed.
            thread::spawn(move || (0..3).map(|_| append(&ring, &stage, 2)).take_while(Result::is_ok).count() as u64)
        };
        let closer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.close())
        };
        let accepted = appender.join().unwrap();
        closer.join().unwrap();
        assert!(accepted <= 2);
        assert_eq!(append(&ring, &stage, 1), Err(ReserveError::Closed));
        stage.account(2 * accepted, 0);
    });
}
