//! The eight rules of the ring, each from several threads.
use super::super::flush_buffer::FlushBuffer;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f(0)`, .. `f(threads - 1)` at once and gives what they gave.
fn together<R: Send>(threads: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let f = &f;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|t| scope.spawn(move || f(t))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// A cheap sequence of sizes that no two threads share.
fn sizes(thread: usize, max: usize) -> impl Iterator<Item = usize> {
    let mut x = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(thread as u64 + 1);
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        1 + (x % max as u64) as usize
    })
}

/// Appends `count` records, each byte telling its LSN and its thread; gives where they went.
fn fill_ring(ring: &Ring, thread: usize, count: usize, max: usize) -> Vec<(u64, usize)> {
    let mut went = Vec::with_capacity(count);
    for len in sizes(thread, max).take(count) {
        let mut r = ring.reserve(len).unwrap();
        for (i, byte) in r.bytes().iter_mut().enumerate() {
            *byte = mark(thread, i);
        }
        went.push((r.lsn(), len));
        r.commit();
    }
    went
}

fn mark(thread: usize, i: usize) -> u8 {
    (thread * 16 + i % 16) as u8
}

/// Everything that `fill_ring` said it wrote is in the image, end to end.
fn check(image: &[u8], went: Vec<Vec<(u64, usize)>>) {
    let mut all: Vec<(u64, usize, usize)> = Vec::new();
    for (thread, records) in went.into_iter().enumerate() {
        assert!(records.is_sorted(), "a thread's records are out of order");
        all.extend(records.into_iter().map(|(lsn, len)| (lsn, len, thread)));
    }
    all.sort_unstable();
    let mut end = 0;
    for (lsn, len, thread) in all {
        assert_eq!(lsn, end, "a hole or a double claim");
        end += len as u64;
        for i in 0..len {
            assert_eq!(image[lsn as usize + i], mark(thread, i));
        }
    }
    assert_eq!(end, image.len() as u64, "bytes that nobody wrote");
}

#[test]
fn rule_1_a_failed_reservation_leaves_the_word_as_it_found_it() {
    let (ring, books) = ring(2, 64, &[64], false);
    for _ in 0..2 {
        ring.append(&[7; 60]).unwrap();
    }
    ring.try_reserve(60).map(drop).unwrap_err();
    let before = words(&ring);
    together(8, |t| {
        for len in sizes(t, 64).take(20_000) {
            assert_eq!(ring.try_reserve(len).err(), Some(ReserveError::RingFull));
        }
    });
    assert_eq!(words(&ring), before);
    while books.recycle_oldest(&ring) {}

    // Full and not sealed, since the stage has no room: nothing moves either.
    books.room.store(false, Ordering::Relaxed);
    ring.append(&[7; 60]).unwrap();
    let before = words(&ring);
    together(8, |t| {
        for len in sizes(t, 60).take(20_000).filter(|&len| len > 4) {
            assert_eq!(ring.try_reserve(len).err(), Some(ReserveError::NoRoom));
        }
    });
    assert_eq!(words(&ring), before);
}

#[test]
fn rule_1_a_rotated_append_writes_its_payload() {
    let (ring, books) = ring(2, 64, &[64], true);
    // Every second append rotates.
    let went = together(4, |t| fill_ring(&ring, t, 5_000, 48));
    ring.close();
    check(&books.image(), went);
}

#[test]
fn rule_2_an_address_belongs_to_the_filling_that_pins_it() {
    // Tiny fillings of changing room, so that words repeat all the time.
    let (ring, books) = ring(2, 32, &[32, 8, 16, 8, 24, 8, 8, 16], true);
    let lsns = together(4, |_| {
        (0..20_000)
            .map(|_| {
                let mut r = ring.reserve(8).unwrap();
                let lsn = r.lsn();
                r.bytes().copy_from_slice(&lsn.to_le_bytes());
                r.commit();
                lsn
            })
            .collect::<Vec<_>>()
    });
    ring.close();
    let image = books.image();
    assert_eq!(image.len(), 4 * 20_000 * 8);
    for lsn in lsns.into_iter().flatten() {
        let at = lsn as usize;
        assert_eq!(image[at..at + 8], lsn.to_le_bytes());
    }
}

#[test]
fn rule_3_one_flush_per_filling_never_beside_a_writer_never_wiped_early() {
    let (ring, books) = ring(4, 256, &[256], false);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            while !done.load(Ordering::Acquire) || !books.waiting.lock().unwrap().is_empty() {
                let Some(fill) = books.waiting.lock().unwrap().pop() else {
                    pause(Duration::from_micros(50));
                    continue;
                };
                // Until it is recycled the filling stays what was flushed.
                std::thread::yield_now();
                let image = books.image.lock().unwrap();
                ring.with_filling(&fill, |bytes| {
                    let (from, to) = (fill.start_lsn() as usize, fill.end_lsn() as usize);
                    assert_eq!(bytes[fill.start..fill.end], image[from..to]);
                });
                drop(image);
                ring.recycle(&fill);
            }
        });
        let went = together(4, |t| {
            let mut went = Vec::new();
            for len in sizes(t, 100).take(5_000) {
                let mut r = ring.reserve(len).unwrap();
                // `flush` checks that this is 0.
                books.inside[r.slot()].fetch_add(1, Ordering::SeqCst);
                r.bytes().iter_mut().enumerate().for_each(|(i, b)| *b = mark(t, i));
                went.push((r.lsn(), len));
                books.inside[r.slot()].fetch_sub(1, Ordering::SeqCst);
                r.commit();
            }
            went
        });
        ring.close();
        done.store(true, Ordering::Release);
        device.join().unwrap();
        check(&books.image(), went);
    });
}

#[test]
fn rule_4_addresses_are_contiguous_for_any_size() {
    for max in [1, 3, 17, 63, 64] {
        let (ring, books) = ring(2, 64, &[64], true);
        let went = together(3, |t| fill_ring(&ring, t, 2_000, max));
        assert_eq!(ring.try_reserve(65).err(), Some(ReserveError::TooLarge));
        assert_eq!(ring.try_reserve(usize::MAX).err(), Some(ReserveError::TooLarge));
        ring.close();
        check(&books.image(), went);
    }
}

#[test]
fn rule_5_a_completion_counts_once_and_for_its_own_filling() {
    let at = |base_lsn| Placement { trailer: 0, base_lsn, start: 0, limit: 64 };
    let slot = FlushBuffer::new(0, SharedBuffer::new(Buffer::new_aligned(64, 64).unwrap()));
    for number in 0..100 {
        slot.open(number, &at(number * 64));
        assert!(!slot.recycle(number), "open");
        slot.reserve_space(8).unwrap();
        slot.seal(false).unwrap();
        slot.release();
        assert!(!slot.recycle(number), "sealed and not flushed");
        assert_eq!(slot.release(), BufferMsg::FreeToFlush);
        assert!(!slot.recycle(number), "drained and not flushed");
        slot.begin_flush().unwrap();
        assert!(!slot.recycle(number + 1), "another filling");
        let taken = together(4, |_| slot.recycle(number));
        assert_eq!(taken.iter().filter(|&&t| t).count(), 1, "recycled more than once");
    }
}

#[test]
fn rule_6_a_full_ring_blocks_the_appender_without_spinning_and_wakes_it() {
    let (ring, books) = ring(2, 64, &[64], false);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let before = cpu_time();
                ring.append(&[3; 64]).unwrap();
                assert!(cpu_time() - before < Duration::from_millis(20), "spun");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        // Two fit; four wait. One more gets through with each flush that is complete.
        for through in [2, 3, 4, 5, 6] {
            pause(Duration::from_millis(50));
            assert_eq!(done.load(Ordering::Relaxed), through);
            books.recycle_oldest(&ring);
        }
    });
    assert!(books.freed.load(Ordering::Relaxed) >= 4);
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
fn rule_6_a_timer_flushes_partial_buffers_and_closing_drains_everything() {
    let (ring, books) = ring(2, 256, &[256], true);
    let done = AtomicBool::new(false);
    let went = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ring.seal(Why::Commit).unwrap();
                std::thread::yield_now();
            }
        });
        let went = together(3, |t| fill_ring(&ring, t, 5_000, 64));
        done.store(true, Ordering::Relaxed);
        went
    });
    ring.append(&[0; 5]).unwrap();
    assert!(ring.seal(Why::Commit).unwrap().is_some());
    assert_eq!(ring.seal(Why::Commit), Ok(None), "nothing is staged");
    let image = books.image();
    let (records, last) = image.split_at(image.len() - 5);
    check(records, went);
    assert_eq!(last, [0; 5]);

    // And on drop.
    let before = books.flushed.lock().unwrap().len();
    ring.append(&[1; 9]).unwrap();
    drop(ring);
    let flushed = books.flushed.lock().unwrap();
    assert_eq!(flushed.len(), before + 1);
    let last = flushed.last().unwrap();
    assert_eq!((last.why, last.end - last.start), (Why::Close, 9));
}

#[test]
fn rule_7_a_writer_that_panics_or_gives_up_leaves_a_failed_flush() {
    let (ring, books) = ring(2, 64, &[64], true);
    let lost = together(4, |t| {
        let mut lost = Vec::new();
        for (i, len) in sizes(t, 40).take(2_000).enumerate() {
            let mut r = ring.reserve(len).unwrap();
            r.bytes().fill(t as u8);
            match i % 4 {
                0 => {
                    lost.push((r.lsn(), len));
                    drop(r);
                }
                1 => {
                    lost.push((r.lsn(), len));
                    let gone = catch_unwind(AssertUnwindSafe(move || {
                        let _r = r;
                        // A panic that prints nothing.
                        std::panic::resume_unwind(Box::new("between reserve and commit"));
                    }));
                    assert!(gone.is_err());
                }
                _ => r.commit(),
            }
        }
        lost
    });
    ring.close();
    let image = books.image();
    let lost: Vec<_> = lost.into_iter().flatten().collect();
    assert_eq!(books.failed.load(Ordering::Relaxed), lost.len() as u64);
    for &(lsn, len) in &lost {
        assert!(image[lsn as usize..lsn as usize + len].iter().all(|&b| b == VOID));
    }
    let void = image.iter().filter(|&&b| b == VOID).count();
    assert_eq!(void, lost.iter().map(|l| l.1).sum::<usize>());
}

#[test]
fn rule_8_queries_change_nothing() {
    let (ring, _books) = ring(3, 64, &[60], false);
    ring.append(&[1; 50]).unwrap();
    ring.append(&[2; 50]).unwrap();
    let held = ring.reserve(4).unwrap();
    let before = words(&ring);
    together(4, |_| {
        for _ in 0..5_000 {
            assert_eq!(ring.end_lsn(), 104);
            assert_eq!(ring.live_range(), (0, 104));
            let mut out = [0; 8];
            assert!(ring.read(52, &mut out));
            assert!(!ring.read(46, &mut out), "across fillings");
            assert!(!ring.read(104, &mut out), "behind the end");
            assert!(!ring.is_closed());
            assert_eq!(ring.states().len(), 3);
            assert!(ring.slots.iter().filter(|s| s.is_sealed()).count() == 2);
        }
    });
    assert_eq!(words(&ring), before);
    // The bound is the filling's real one: 6 bytes are left of 60, 4 of them claimed.
    held.commit();
    let look = ring.states()[1];
    assert_eq!((look.limit, look.state.offset), (60, 54));
}
