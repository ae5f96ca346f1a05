//! Bulk work: few full fillings are on their way to the device at one time, whatever the ring holds, and the others follow
//! in order.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::{AppendAt, FormatOptions, LogStructuredStore, StoreError, StoreOptions};

const LOG: u32 = 1;
const RECORD: usize = 100_000;

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, StoreOptions::default()).unwrap()
}

fn record(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; RECORD]
}

/// Appends until the ring is full; gives how many there are now.
fn fill(store: &LogStructuredStore, mut number: usize) -> usize {
    loop {
        match store.try_append(LOG, &record(number), AppendAt::End) {
            Ok(_) => number += 1,
            Err(error) => {
                assert_eq!(error, StoreError::WouldBlock);
                return number;
            }
        }
    }
}

#[test]
fn of_a_full_ring_few_fillings_are_on_their_way_and_all_arrive_in_order() {
    let device = Arc::new(SimDevice::new(256 << 20, 1));
    let format = FormatOptions { now_ns: Some(1), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let store = open(&device);
    let mut count = 0;
    for _ in 0..3 {
        device.stall(true);
        count = fill(&store, count);
        let pending = device.pending();
        // Behind them is what somebody waits for: it comes in its turn.
        let (sender, receiver) = std::sync::mpsc::channel();
        store.make_stable(store.log(LOG).unwrap().end_lsn, Box::new(move |result| drop(sender.send(result))));
        let early = receiver.try_recv();
        device.stall(false);
        assert!(early.is_err(), "before anything is written");
        assert!((3..=6).contains(&pending), "{pending} requests are on their way");
        while store.poll(true) > 0 {}
        assert_eq!(receiver.try_recv(), Ok(Ok(())));
    }
    assert!(count > 3 * 80, "{count} records are more than three rings");
    let store = open(&Arc::new(device.crash(7)));
    for number in 0..count {
        let place = (number * RECORD) as u64;
        assert!(store.read_now(LOG, place, RECORD).unwrap() == record(number), "record {number}");
    }
    assert_eq!(store.log(LOG).unwrap().size, (count * RECORD) as u64);
}
