//! The ring's edges, one step at a time.
use super::super::flush_buffer::{FlushBuffer, SealRefused};
use super::super::state::{MAX_WRITERS, RECYCLED};
use super::*;

fn buffer(limit: usize) -> FlushBuffer {
    let slot = FlushBuffer::new(0, SharedBuffer::new(Buffer::new_aligned(64, 64).unwrap()));
    open(&slot, 0, limit);
    slot
}

fn open(slot: &FlushBuffer, number: u64, limit: usize) {
    let at = Placement { trailer: 0, base_lsn: 0, start: 0, limit };
    slot.open(number, &at);
}

fn flush_and_recycle(slot: &FlushBuffer, number: u64) {
    slot.seal(true).unwrap();
    assert_eq!(slot.release(), BufferMsg::FreeToFlush);
    slot.begin_flush().unwrap();
    assert!(slot.recycle(number));
    assert_eq!(slot.word(), RECYCLED);
}

#[test]
fn overtaken_claims_that_stand_on_each_other_are_taken_back_in_order() {
    let slot = buffer(64);
    // Two claims as of a filling of 64, in one that turns out to have 8: what two stalled claimers leave.
    assert_eq!(slot.reserve_space(6), Ok(0));
    let before = slot.word();
    assert_eq!(slot.reserve_space(10), Ok(6));
    assert_eq!(slot.reserve_space(1), Ok(16));
    slot.shorten(8);
    assert_eq!(slot.seal(true), Err(SealRefused::Overtaken));
    assert_eq!(slot.reserve_space(1), Err(BufferError::Full));
    assert!(!slot.take_back(6, 10), "one stands behind it");
    assert!(slot.take_back(16, 1));
    assert_eq!(slot.seal(true), Err(SealRefused::Overtaken));
    assert!(slot.take_back(6, 10));
    assert_eq!(slot.word(), before);
    assert_eq!(slot.reserve_space(2), Ok(6));
    assert_eq!(slot.seal(false), Ok(8));
}

#[test]
fn the_writer_count_cannot_overflow() {
    let slot = buffer(64);
    for _ in 0..MAX_WRITERS {
        slot.reserve_space(0).unwrap();
    }
    let before = slot.word();
    assert_eq!(slot.reserve_space(0), Err(BufferError::TooManyWriters));
    assert_eq!(slot.reserve_space(1), Err(BufferError::TooManyWriters));
    assert_eq!(slot.word(), before);
    // The sealer still has its place.
    assert_eq!(slot.seal(false), Ok(0));
    assert_eq!(state::offset(slot.word()), 0);
    for _ in 0..MAX_WRITERS {
        assert_eq!(slot.release(), BufferMsg::SuccessfulWrite);
    }
    assert_eq!(slot.release(), BufferMsg::FreeToFlush);
}

#[test]
fn a_buffer_is_used_over_and_over_without_a_blind_store() {
    let slot = buffer(64);
    for number in 0..10 {
        assert_eq!(slot.reserve_space(64), Ok(0));
        assert_eq!(slot.release(), BufferMsg::SuccessfulWrite);
        assert_eq!(slot.reserve_space(1), Err(BufferError::Full));
        flush_and_recycle(&slot, number);
        assert_eq!(slot.reserve_space(1), Err(BufferError::Sealed));
        open(&slot, number + 1, 64);
    }
}

#[test]
fn a_full_stage_refuses_without_a_flush() {
    let (ring, books) = ring(2, 64, &[64], true);
    ring.append(&[1; 60]).unwrap();
    books.room.store(false, Ordering::Relaxed);
    for _ in 0..100 {
        assert_eq!(ring.append(&[1; 5]), Err(ReserveError::NoRoom));
    }
    assert_eq!(books.flushed.lock().unwrap().len(), 0);
    assert_eq!(ring.append(&[1; 4]), Ok(60), "what fits is still taken");
    books.room.store(true, Ordering::Relaxed);
    assert_eq!(ring.append(&[1; 5]), Ok(64));
    assert_eq!(books.flushed.lock().unwrap().len(), 1);
}

#[test]
fn a_filling_too_small_for_the_claim_is_passed_over() {
    // The second filling has room for 4 bytes only, as at the end of a segment.
    let (ring, books) = ring(2, 64, &[64, 4, 64], true);
    ring.append(&[1; 8]).unwrap();
    ring.seal(Why::Commit).unwrap();
    assert_eq!(ring.append(&[2; 5]), Ok(8));
    ring.close();
    let flushed = books.flushed.lock().unwrap();
    let ends: Vec<_> = flushed.iter().map(|f| (f.end - f.start, f.why)).collect();
    assert_eq!(ends, [(8, Why::Commit), (0, Why::Full), (5, Why::Close)]);
}

#[test]
fn a_stage_that_promises_room_and_gives_none_is_no_endless_loop() {
    let (ring, books) = ring(2, 64, &[8, 4], true);
    assert_eq!(ring.append(&[1; 20]), Err(ReserveError::NoRoom));
    assert_eq!(books.flushed.lock().unwrap().len(), 1);
    ring.append(&[1; 4]).unwrap();
}

#[test]
fn a_seal_without_claims_is_refused_unless_forced() {
    let (ring, books) = ring(2, 64, &[64], false);
    assert_eq!(ring.seal(Why::Commit), Ok(None));
    assert_eq!(ring.force_seal(Why::Commit), Ok(0));
    assert_eq!(ring.force_seal(Why::Commit), Ok(1));
    assert_eq!(ring.force_seal(Why::Commit), Err(ReserveError::RingFull));
    assert_eq!(ring.seal(Why::Commit), Ok(None));
    assert!(books.recycle_oldest(&ring));
    assert_eq!(ring.force_seal(Why::Commit), Ok(2));
}

#[test]
fn the_next_address_is_fixed_at_the_sealing_also_in_a_full_ring() {
    let (ring, books) = ring(2, 64, &[64], false);
    ring.append(&[1; 10]).unwrap();
    ring.seal(Why::Commit).unwrap();
    ring.append(&[1; 10]).unwrap();
    ring.seal(Why::Commit).unwrap();
    assert_eq!(books.placed.load(Ordering::Relaxed), 2);
    assert_eq!(ring.end_lsn(), 20);
    assert_eq!(ring.try_reserve(1).err(), Some(ReserveError::RingFull));
    assert_eq!(books.freed.load(Ordering::Relaxed), 0);
    assert!(books.recycle_oldest(&ring));
    assert_eq!(books.freed.load(Ordering::Relaxed), 1);
    assert_eq!(books.placed.load(Ordering::Relaxed), 2, "placed once");
    assert_eq!(ring.append(&[1; 1]), Ok(20));
    assert_eq!(ring.live_range(), (10, 21));
}

#[test]
fn a_held_reservation_keeps_its_filling_from_the_flush_and_nothing_else() {
    let (ring, books) = ring(3, 64, &[64], true);
    let held = ring.reserve(8).unwrap();
    ring.append(&[1; 60]).unwrap();
    ring.append(&[1; 60]).unwrap();
    let numbers = |books: &Books| -> Vec<u64> { books.flushed.lock().unwrap().iter().map(|f| f.number).collect() };
    assert_eq!(numbers(&books), [1]);
    // Round-robin: slot 0 is next but held, so the ring is full behind slot 2.
    ring.seal(Why::Commit).unwrap();
    assert_eq!(ring.try_reserve(1).err(), Some(ReserveError::RingFull));
    held.commit();
    assert_eq!(numbers(&books), [1, 2, 0]);
    assert_eq!(ring.append(&[1; 1]), Ok(128));
}

#[test]
fn the_whole_buffer_is_there_for_a_filling_under_flush_and_for_no_other() {
    let (ring, books) = ring(2, 64, &[60], false);
    ring.append(&[9; 10]).unwrap();
    ring.seal(Why::Commit).unwrap();
    let fill = books.flushed.lock().unwrap()[0];
    ring.with_filling(&fill, |bytes| {
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[..10], [9; 10]);
        bytes[10..14].fill(8);
    });
    let mut out = [0; 10];
    assert!(ring.read(0, &mut out), "readable until recycled");
    assert!(!ring.read(0, &mut [0; 11]), "the trailer is not claimed");
    ring.recycle(&fill);
    assert!(!ring.read(0, &mut out));
    let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ring.with_filling(&fill, |_| ());
    }));
    assert!(wrong.is_err());
}

#[test]
fn closing_an_empty_ring_flushes_nothing_and_is_final() {
    let (ring, books) = ring(2, 64, &[64], true);
    ring.append(&[1; 3]).unwrap();
    ring.seal(Why::Commit).unwrap();
    ring.close();
    ring.close();
    assert!(ring.is_closed());
    assert_eq!(books.flushed.lock().unwrap().len(), 1);
    assert_eq!(ring.append(&[1; 3]), Err(ReserveError::Closed));
    assert_eq!(ring.seal(Why::Close), Err(ReserveError::Closed));
    assert_eq!(ring.force_seal(Why::Close), Err(ReserveError::Closed));
    assert_eq!(ring.end_lsn(), 3);
    assert_eq!(ring.live_range(), (3, 3));
}

#[test]
fn closing_wakes_those_who_wait_for_room() {
    let (ring, _books) = ring(2, 64, &[64], false);
    ring.append(&[1; 64]).unwrap();
    ring.append(&[1; 64]).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ring.append(&[1; 64]));
        pause(Duration::from_millis(20));
        ring.close();
        assert_eq!(waiting.join().unwrap(), Err(ReserveError::Closed));
    });
}

#[test]
fn a_claim_of_nothing_has_an_address_and_pins_its_buffer() {
    let (ring, books) = ring(2, 64, &[64], true);
    ring.append(&[1; 5]).unwrap();
    let nothing = ring.reserve(0).unwrap();
    assert_eq!(nothing.lsn(), 5);
    ring.seal(Why::Commit).unwrap();
    assert_eq!(books.flushed.lock().unwrap().len(), 0);
    nothing.commit();
    assert_eq!(books.flushed.lock().unwrap().len(), 1);
}
