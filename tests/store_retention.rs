//! What is let go of a log's old end, by hand and by rule: whole records, never more than may go, and never less than
//! has to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AttrChange, Change, FormatOptions, Image, LogStructuredStore, NO_LIMIT, NodeKind, ROOT_ID, StoreError,
    StoreOptions, TrimTo,
};

const SEGMENT: u64 = 64 << 10;
/// `/log` of a new store.
const LOG: u32 = 1;

/// The machine's clock of these tests, in ns.
static CLOCK: AtomicU64 = AtomicU64::new(1_000_000_000_000);
const SECOND: u64 = 1_000_000_000;

fn pass(seconds: u64) {
    CLOCK.fetch_add(seconds * SECOND, Ordering::Relaxed);
}

fn made(options: FormatOptions) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new((1 << 20) + 16 * SEGMENT, 1));
    let options = FormatOptions {
        segment_size: Some(SEGMENT as u32),
        max_record: Some(8 << 10),
        now_ns: Some(CLOCK.load(Ordering::Relaxed)),
        ..options
    };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &options, &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    let options =
        StoreOptions { buffer_size: 20 << 10, clock: || CLOCK.load(Ordering::Relaxed), ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

fn make(store: &LogStructuredStore, name: &str) -> u32 {
    let name = name.as_bytes().to_vec();
    let change = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
    store.change_now(change).unwrap().node.id
}

/// Records of 1000 bytes, each full of its own number.
fn append(store: &LogStructuredStore, log: u32, n: usize) {
    store.append(log, &[n as u8; 1000]).unwrap();
}

/// Everything from the head on is what was appended, and everything below it is zeros; gives the head.
fn verify(store: &LogStructuredStore, log: u32) -> u64 {
    store.audit().unwrap();
    let info = store.log(log).unwrap();
    assert_eq!(info.head % 1000, 0, "the head is where a record begins");
    let mut offset = 0;
    while offset < info.size {
        let data = store.read_now(log, offset, 3333).unwrap();
        assert!(!data.is_empty());
        for (byte, at) in data.iter().zip(offset..) {
            let expected = if at < info.head { 0 } else { (at / 1000) as u8 };
            assert_eq!(*byte, expected, "at {at}, the head is {}", info.head);
        }
        offset += data.len() as u64;
    }
    info.head
}

#[test]
fn a_log_is_trimmed_in_whole_records_and_its_head_survives_what_was_synced() {
    let device = made(FormatOptions::default());
    let store = open(&device);
    for n in 0..200 {
        append(&store, LOG, n);
    }
    let trimmed = store.trim(LOG, TrimTo::Before(10_500)).unwrap();
    assert_eq!((trimmed.before, trimmed.head), (0, 10_000));
    assert_eq!(verify(&store, LOG), 10_000);
    assert_eq!(store.trim(LOG, TrimTo::Before(5_000)).unwrap().head, 10_000, "never back");
    assert_eq!(store.trim(LOG, TrimTo::Keep(50_500)).unwrap().head, 149_000);
    let last = store.trim(LOG, TrimTo::Before(150_000)).unwrap();
    assert_eq!(last.head, 150_000);
    store.make_stable_now(last.lsn).unwrap();
    let crashed = Arc::new(device.crash(5));
    assert_eq!(verify(&open(&crashed), LOG), 150_000);
    assert_eq!(store.trim(LOG, TrimTo::Before(u64::MAX)).unwrap().head, 200_000, "all of it");
    assert_eq!(verify(&store, LOG), 200_000);
    append(&store, LOG, 200);
    assert_eq!(verify(&store, LOG), 200_000);
    store.close().unwrap();
    let image = Image::open(device as Arc<dyn Device>).unwrap();
    assert!(image.check(&mut |_, _| {}).unwrap().is_clean());
    let mut offsets = Vec::new();
    let gaps = image.read_log(b"log", &mut |offset, _| {
        offsets.push(offset);
        Ok(())
    });
    assert_eq!((gaps.unwrap(), offsets), (Vec::new(), vec![200_000]));
}

#[test]
fn limits_of_bytes_hold_for_each_log_and_keep_what_is_to_be_kept() {
    let device = made(FormatOptions { retain_bytes: 50_000, ..FormatOptions::default() });
    let store = open(&device);
    let (own, all) = (make(&store, "own"), make(&store, "all"));
    let limit = |id, retain_bytes, keep_min| {
        let change = AttrChange { retain_bytes: Some(retain_bytes), keep_min: Some(keep_min), ..AttrChange::default() };
        store.set_attr(id, change).unwrap();
    };
    limit(own, 10_500, 20_000);
    limit(all, NO_LIMIT, 0);
    for n in 0..150 {
        for log in [LOG, own, all] {
            append(&store, log, n);
        }
        if n % 10 == 9 {
            pass(2);
            store.tick();
        }
    }
    assert_eq!(verify(&store, LOG), 100_000);
    assert_eq!(verify(&store, own), 130_000, "no fewer than 20,000 bytes stay");
    assert_eq!(verify(&store, all), 0);
    assert_eq!(store.stats().expired_bytes, 230_000);
    limit(own, 10_500, 0);
    pass(2);
    store.tick();
    assert_eq!(verify(&store, own), 140_000, "at most 10,500 bytes stay");
}

#[test]
fn records_go_when_they_are_too_old() {
    let device = made(FormatOptions { retain_age_ns: 100 * SECOND, ..FormatOptions::default() });
    let store = open(&device);
    let begin = CLOCK.load(Ordering::Relaxed);
    for n in 0..100 {
        append(&store, LOG, n);
        pass(3);
        store.tick();
    }
    let (now, head) = (CLOCK.load(Ordering::Relaxed), verify(&store, LOG));
    // Other tests move the same clock, so that more time may have passed than this one has let pass.
    assert!(head > 0 && head <= 100_000, "{head}");
    let oldest = store.offset_at(LOG, now - 100 * SECOND).unwrap();
    assert!(oldest >= head, "what is younger than the limit is there: from {oldest}, the head is {head}");
    assert_eq!(store.offset_at(LOG, begin).unwrap(), head);
    pass(1000);
    store.tick();
    assert_eq!(verify(&store, LOG), 100_000, "all are too old now");
}

#[test]
fn a_record_is_found_by_its_time_in_any_segment() {
    let device = made(FormatOptions::default());
    let store = open(&device);
    let mut times = Vec::new();
    for n in 0..300 {
        pass(1);
        append(&store, LOG, n);
        times.push(CLOCK.load(Ordering::Relaxed));
    }
    // Others may move the clock between an append and our look at it: the record's time is not after what we saw.
    for n in [0usize, 1, 57, 58, 150, 298] {
        let at = store.offset_at(LOG, times[n] + 1).unwrap();
        assert!(at <= (n as u64 + 1) * 1000 && at.is_multiple_of(1000), "{at} for record {n}");
        let before = store.offset_at(LOG, if n == 0 { 0 } else { times[n - 1] + 1 }).unwrap();
        assert!(before <= at && before <= n as u64 * 1000);
    }
    assert_eq!((store.offset_at(LOG, 0).unwrap(), store.offset_at(LOG, u64::MAX).unwrap()), (0, 300_000));
    store.close().unwrap();
    let image = Image::open(device as Arc<dyn Device>).unwrap();
    let mut bytes = 0;
    let gaps = image.read_log_between(b"log", times[99] + 1..u64::MAX, &mut |offset, data| {
        assert!(data.iter().all(|byte| *byte == (offset / 1000) as u8) && offset <= 100_000 + bytes);
        bytes += data.len() as u64;
        Ok(())
    });
    assert_eq!(gaps.unwrap(), Vec::new());
    assert!((200_000..=300_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_full_store_drops_its_oldest_if_it_is_told_to_and_nothing_that_is_to_be_kept() {
    let device = made(FormatOptions { drop_oldest: true, ..FormatOptions::default() });
    let mut store = open(&device);
    let (quiet, other) = (make(&store, "quiet"), make(&store, "other"));
    store.set_attr(quiet, AttrChange { keep_min: Some(1 << 30), ..AttrChange::default() }).unwrap();
    let room = store.usage().0;
    let (mut quiets, mut moved, mut dropped) = (0, 0, 0);
    for n in 0..12_000 {
        append(&store, if n % 3 == 0 { other } else { LOG }, if n % 3 == 0 { n / 3 } else { n / 3 * 2 + n % 3 - 1 });
        if n % 200 == 0 {
            append(&store, quiet, quiets);
            quiets += 1;
        }
        if n % 64 == 0 {
            store.tick();
        }
        if n % 4000 == 3999 {
            let stats = store.stats();
            (moved, dropped) = (moved + stats.moved_bytes, dropped + stats.dropped_bytes);
            store.close().unwrap();
            store = open(&device);
        }
    }
    assert!(12_000_000 > 5 * room, "{room}");
    assert_eq!(verify(&store, quiet), 0, "all of it was to be kept");
    let (head, others) = (verify(&store, LOG), verify(&store, other));
    assert!(head > 4_000_000 && others > 1_000_000, "{head} {others}");
    let kept = store.log(LOG).unwrap().size - head;
    assert!(kept > room / 4, "no more than has to is dropped: {kept} of {room} are left");
    assert_eq!(dropped, head + others);
    assert!(moved > 0 && moved < 12_000_000 / 10, "what is moved is little against what is appended: {moved}");
    let crashed = Arc::new(device.crash(1));
    let again = open(&crashed);
    assert_eq!(verify(&again, quiet), 0);
    verify(&again, LOG);
    store.close().unwrap();
    let report = Image::open(device as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.damage);
}

#[test]
fn a_store_that_fills_up_before_anybody_looked_at_it_drops_its_oldest_too() {
    let device = Arc::new(SimDevice::new((1 << 20) + 64 * SEGMENT, 1));
    let options = FormatOptions {
        segment_size: Some(SEGMENT as u32),
        max_record: Some(8 << 10),
        now_ns: Some(CLOCK.load(Ordering::Relaxed)),
        drop_oldest: true,
        ..FormatOptions::default()
    };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &options, &mut |_, _| {}).unwrap();
    // With a ring that holds the summaries of all segments.
    let options = StoreOptions { clock: || CLOCK.load(Ordering::Relaxed), ..StoreOptions::default() };
    let store = LogStructuredStore::open(device, options).unwrap();
    let quiet = make(&store, "quiet");
    store.set_attr(quiet, AttrChange { keep_min: Some(1 << 30), ..AttrChange::default() }).unwrap();
    let room = store.usage().0 as usize / 1000;
    // No tick: nothing is summed up before it is needed.
    for n in 0..3 * room {
        append(&store, LOG, n);
        if n % 40 == 0 {
            append(&store, quiet, n / 40);
        }
    }
    assert_eq!(verify(&store, quiet), 0, "all of it was to be kept");
    assert!(verify(&store, LOG) > 0);
    assert!(store.stats().dropped_bytes > 0);
}

#[test]
fn a_write_once_store_lets_nothing_go() {
    let device = made(FormatOptions { worm: true, ..FormatOptions::default() });
    let store = open(&device);
    for n in 0..20 {
        append(&store, LOG, n);
    }
    assert_eq!(store.trim(LOG, TrimTo::Before(10_000)), Err(StoreError::WriteOnce));
    let change = AttrChange { retain_bytes: Some(1), ..AttrChange::default() };
    assert_eq!(store.set_attr(LOG, change).err(), Some(StoreError::WriteOnce));
    let drop = AttrChange { drop_oldest: Some(true), ..AttrChange::default() };
    assert_eq!(store.set_attr(ROOT_ID, drop).err(), Some(StoreError::WriteOnce));
    let options = FormatOptions { worm: true, retain_bytes: 1, ..FormatOptions::default() };
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    assert!(LogStructuredStore::format(device as Arc<dyn Device>, &options, &mut |_, _| {}).is_err());
    assert_eq!(verify(&store, LOG), 0);
}

/// Where the record full of this byte lies on the device.
fn place(device: &SimDevice, byte: u8) -> u64 {
    let bytes = device.snapshot();
    let at = bytes.windows(64).position(|window| window == [byte; 64]).unwrap();
    at as u64
}

#[test]
fn what_cannot_be_read_takes_nothing_with_it_that_is_to_stay() {
    let device = made(FormatOptions::default());
    let store = open(&device);
    let mut times = Vec::new();
    for n in 0..100 {
        pass(1);
        times.push(CLOCK.load(Ordering::Relaxed));
        append(&store, LOG, n);
    }
    store.make_stable_now(store.end_lsn()).unwrap();
    let bad = place(&device, 40)..place(&device, 49);
    let to = |to: TrimTo| store.trim(LOG, to).unwrap().head;
    // Others move the clock too: record 43 is not older than this, the one in front of it is.
    for limit in [0, 1] {
        device.bad_sectors(bad.clone());
        if limit == 0 {
            assert!(to(TrimTo::Since(times[43])) <= 40_000);
            assert!(to(TrimTo::Before(44_500)) <= 44_000);
        } else {
            let change = AttrChange { retain_bytes: Some(55_500), ..AttrChange::default() };
            store.set_attr(LOG, change).unwrap();
            pass(2);
            store.tick();
            // Record 44 ends at 45,000: what comes behind it has to stay.
            assert!(store.log(LOG).unwrap().head <= 45_000);
        }
        device.heal();
    }
    let head = verify(&store, LOG);
    assert!((38_000..=40_000).contains(&head), "what is in front of it is known and goes: {head}");
    pass(2);
    store.tick();
    assert_eq!(verify(&store, LOG), 45_000, "it can be read again");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_too_old() {
    /// A clock that no other test moves, ahead of theirs.
    static OWN: AtomicU64 = AtomicU64::new(1_000_000_000_000_000);
    let now = || OWN.load(Ordering::Relaxed);
    let device = made(FormatOptions::default());
    let options = StoreOptions { buffer_size: 20 << 10, clock: now, ..StoreOptions::default() };
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap();
    let mut times = Vec::new();
    for n in 0..100 {
        OWN.fetch_add(SECOND, Ordering::Relaxed);
        times.push(now());
        append(&store, LOG, n);
    }
    store.make_stable_now(store.end_lsn()).unwrap();
    device.bad_sectors(place(&device, 40)..place(&device, 49));
    OWN.fetch_add(2 * SECOND, Ordering::Relaxed);
    let age = AttrChange { retain_age_ns: Some(now() - times[43]), ..AttrChange::default() };
    store.set_attr(LOG, age).unwrap();
    store.tick();
    let head = store.log(LOG).unwrap().head;
    assert!((38_000..=40_000).contains(&head), "what is in front of it is known and goes, and no more: {head}");
    device.heal();
    OWN.fetch_add(2 * SECOND, Ordering::Relaxed);
    store.tick();
    assert_eq!(verify(&store, LOG), 45_000, "it can be read again");
}

#[test]
fn a_log_that_cannot_be_read_keeps_no_other_from_keeping_its_limits() {
    let device = made(FormatOptions { retain_bytes: 20_000, ..FormatOptions::default() });
    let store = open(&device);
    let other = make(&store, "other");
    for n in 0..50 {
        append(&store, LOG, n);
    }
    store.make_stable_now(store.end_lsn()).unwrap();
    // All of the first log, which is looked at first.
    device.bad_sectors(place(&device, 0)..place(&device, 49) + 1000);
    for n in 50..150 {
        append(&store, other, n);
    }
    pass(2);
    store.tick();
    assert_eq!(store.log(LOG).unwrap().head, 0, "where it may begin can't be told");
    assert_eq!(store.log(other).unwrap().head, 80_000);
    device.heal();
    pass(2);
    store.tick();
    assert_eq!(store.log(LOG).unwrap().head, 30_000);
    store.audit().unwrap();
}
