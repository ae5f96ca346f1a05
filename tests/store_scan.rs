//! Recovery reads the log by windows of a megabyte: frames that lie across their ends are found, also in search of them, and
//! what is there is not read again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::format::FRAME_HEADER;
use llamafs::io::{Device, SimDevice};
use llamafs::store::{AppendAt, FormatOptions, LogStructuredStore, StoreOptions};

const LOG: u32 = 1;
const CAPACITY: u64 = 128 << 20;
const SEGMENT: u64 = 32 << 20;
/// Bytes of records, one after the other, again and again: every place of a window is once the beginning of a frame.
const LENGTHS: [usize; 8] = [1, 990_000, 100, 1_048_000, 4096, 70_001, 17, 600_000];
const RECORDS: usize = 64;

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, StoreOptions::default()).unwrap()
}

/// Bytes that begin with the record's number, and hold nothing that could be a frame.
fn record(number: usize) -> Vec<u8> {
    let mut bytes = vec![0x55; LENGTHS[number % LENGTHS.len()]];
    let number = format!("record {number:4};");
    bytes.iter_mut().zip(number.bytes()).for_each(|(place, byte)| *place = byte);
    bytes
}

/// A store of many records, all of them stable, whose power failed: its bytes, and those of the log.
fn crashed() -> (Vec<u8>, u64) {
    let device = Arc::new(SimDevice::new(CAPACITY, 1));
    let format = FormatOptions { segment_size: Some(SEGMENT as u32), now_ns: Some(1), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let store = open(&device);
    for number in 0..RECORDS {
        while store.try_append(LOG, &record(number), AppendAt::End).is_err() {
            assert!(store.poll(true) > 0);
        }
        // Each flush tells that the one before was stable.
        if number % 4 == 3 {
            store.make_stable_now(u64::MAX).unwrap();
        }
    }
    store.tick_idle();
    while store.poll(true) > 0 {}
    let log = store.stats().stable_lsn - SEGMENT;
    (device.crash(1).snapshot(), log)
}

fn check(store: &LogStructuredStore, lost: Option<usize>) {
    let mut place = 0;
    for number in 0..RECORDS {
        let record = record(number);
        let read = store.read_now(LOG, place, record.len());
        if lost == Some(number) {
            assert!(read.is_err(), "record {number} was damaged");
        } else {
            assert!(read.unwrap() == record, "record {number}");
        }
        place += record.len() as u64;
    }
    assert_eq!(store.log(LOG).unwrap().size, place);
}

#[test]
fn recovery_finds_every_frame_and_reads_nothing_twice() {
    let (bytes, log) = crashed();
    assert!(log < SEGMENT, "one segment, {log} bytes");
    let store = open(&Arc::new(SimDevice::from_bytes(&bytes, 1)));
    let stats = store.stats();
    assert_eq!((stats.recovery.damage.len(), stats.recovery.cut_bytes), (0, 0));
    // The segment, of which the end was searched, and what tells where it is.
    let most = SEGMENT + (3 << 20);
    assert!((log..most).contains(&stats.device_read_bytes), "{} bytes were read", stats.device_read_bytes);
    check(&store, None);
}

#[test]
fn behind_a_damaged_frame_of_a_megabyte_the_next_is_found() {
    let (bytes, _) = crashed();
    for number in (0..RECORDS).filter(|number| number % LENGTHS.len() == 3) {
        let mut bytes = bytes.clone();
        let start = format!("record {number:4};");
        let payload = bytes.windows(start.len()).position(|place| place == start.as_bytes()).unwrap();
        bytes[payload - FRAME_HEADER..payload].fill(0xee);
        let store = open(&Arc::new(SimDevice::from_bytes(&bytes, 1)));
        let recovery = store.stats().recovery;
        assert_eq!((recovery.damage.len(), recovery.cut_bytes), (1, 0), "record {number}: {recovery:?}");
        check(&store, Some(number));
    }
}
