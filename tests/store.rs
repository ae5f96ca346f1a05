//! The promises of the LogStructuredStore, on a simulated device and driven by one thread.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AppendAt, Appended, FormatOptions, Image, Lends, LogStructuredStore, ReadBytes, StoreError, StoreOptions, Tail,
};

const LOG: u32 = 1;

fn tiny() -> FormatOptions {
    FormatOptions {
        segment_size: Some(64 << 10),
        max_record: Some(8 << 10),
        now_ns: Some(1),
        uuid: Some([7; 16]),
        ..FormatOptions::default()
    }
}

fn options(tail: Tail) -> StoreOptions {
    StoreOptions { ring_size: 4, buffer_size: 20 << 10, tail, ..StoreOptions::default() }
}

fn made(capacity: u64) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(capacity, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &tiny(), &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>, tail: Tail) -> Arc<LogStructuredStore> {
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(tail)).unwrap()
}

fn record(number: u64) -> Vec<u8> {
    let len = 1 + (number.wrapping_mul(2_654_435_761) % 3000) as usize;
    (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
}

/// A writer may be answered while its record is still copied: whoever reads the log or makes it stable then waits for it.
#[test]
fn a_record_that_has_its_place_is_waited_for_by_readers_and_fsync() {
    let device = made(4 << 20);
    let store = open(&device, Tail::Rewrite);
    append(&store, b"before").unwrap();
    let data = vec![0x5a; 8 << 10];
    let mut asked = Vec::new();
    let appended = store.try_append_telling(LOG, &data, AppendAt::End, |told| {
        assert_eq!(told.offset, 6);
        let (reader, waiter) = (store.clone(), store.clone());
        asked.push(std::thread::spawn(move || reader.read_now(LOG, 0, 10 << 10)));
        asked.push(std::thread::spawn(move || waiter.make_stable_now(told.end_lsn).map(|()| Vec::new())));
        // They ask before the first byte is there.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(asked.iter().all(|asked| !asked.is_finished()), "nobody waits");
    });
    let mut answers = asked.into_iter().map(|asked| asked.join().unwrap().unwrap());
    assert!(answers.next().unwrap() == [b"before", &data[..]].concat());
    answers.next().unwrap();
    assert!(appended.unwrap().end_lsn <= store.stable_lsn());
    drop(store);
    let store = open(&Arc::new(device.crash(3)), Tail::Rewrite);
    assert!(store.read_now(LOG, 6, 10 << 10).unwrap() == data);
}

fn append(store: &Arc<LogStructuredStore>, data: &[u8]) -> Result<u64, StoreError> {
    loop {
        match store.try_append(LOG, data, AppendAt::End) {
            Err(StoreError::WouldBlock) => {
                store.poll(true);
            }
            other => return other.map(|appended| appended.end_lsn),
        }
    }
}

fn read_all(store: &Arc<LogStructuredStore>, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < len {
        let piece = store.read_now(LOG, out.len() as u64, 4096 + out.len() % 7777).unwrap();
        assert!(!piece.is_empty(), "read stopped at {} of {len}", out.len());
        out.extend(piece);
    }
    out
}

#[test]
fn what_was_appended_is_read_back_before_and_after_the_flush_and_after_a_remount() {
    for tail in [Tail::Rewrite, Tail::Pad] {
        let device = made(4 << 20);
        let mut expected = Vec::new();
        for round in 0..4u64 {
            let store = open(&device, tail);
            assert_eq!(store.log(LOG).unwrap().size, expected.len() as u64);
            for number in 0..100 {
                let data = record(round * 1000 + number);
                let lsn = append(&store, &data).unwrap();
                expected.extend_from_slice(&data);
                if number % 7 == 0 {
                    store.make_stable_now(lsn).unwrap();
                    assert!(store.stable_lsn() >= lsn);
                }
                if number % 31 == 0 {
                    assert_eq!(read_all(&store, expected.len()), expected);
                }
            }
            assert_eq!(read_all(&store, expected.len()), expected);
            store.close().unwrap();
        }
        let store = open(&device, tail);
        assert!(store.stats().recovery.clean);
        assert!(store.stats().recovery.damage.is_empty());
        assert_eq!(read_all(&store, expected.len()), expected);
    }
}

#[test]
fn a_power_loss_keeps_everything_that_was_synced_and_a_prefix_of_the_rest() {
    for tail in [Tail::Rewrite, Tail::Pad] {
        for seed in 0..60u64 {
            let mut device = made(4 << 20);
            let mut expected: Vec<u8> = Vec::new();
            for life in 0..4u64 {
                let store = open(&device, tail);
                let size = store.log(LOG).unwrap().size as usize;
                assert!(size <= expected.len());
                expected.truncate(size);
                assert_eq!(read_all(&store, size), expected, "seed {seed} life {life}");
                let mut synced = size;
                for number in 0..(seed % 40 + life) {
                    let data = record(seed * 1000 + life * 100 + number);
                    let lsn = append(&store, &data).unwrap();
                    expected.extend_from_slice(&data);
                    if (number + seed) % 5 == 0 {
                        store.make_stable_now(lsn).unwrap();
                        synced = expected.len();
                    }
                    if (number + seed) % 11 == 0 {
                        store.tick();
                        store.poll(false);
                    }
                }
                let crashed = Arc::new(device.crash(seed * 10 + life));
                std::mem::forget(store);
                let store = open(&crashed, tail);
                let size = store.log(LOG).unwrap().size as usize;
                let report = store.stats().recovery;
                assert!(size >= synced, "seed {seed} life {life}: {size} of {synced} synced bytes; {report:?}");
                assert!(report.damage.is_empty(), "seed {seed} life {life}: {report:?}");
                assert_eq!(read_all(&store, size), expected[..size], "seed {seed} life {life}");
                drop(store);
                device = crashed;
            }
        }
    }
}

#[test]
fn a_full_device_refuses_at_once_and_keeps_all_it_accepted() {
    let device = made(1 << 20);
    let store = open(&device, Tail::Rewrite);
    let mut expected = Vec::new();
    let mut number = 0;
    loop {
        let data = record(number);
        number += 1;
        match append(&store, &data) {
            Ok(_) => expected.extend_from_slice(&data),
            Err(error) => {
                assert_eq!(error, StoreError::NoSpace);
                break;
            }
        }
    }
    assert!(store.stats().full);
    assert_eq!(store.stats().available, 0);
    assert!(expected.len() > 500_000, "{}", expected.len());
    assert_eq!(read_all(&store, expected.len()), expected);
    while append(&store, b"x").is_ok() {
        expected.push(b'x');
    }
    store.close().unwrap();
    let store = open(&device, Tail::Rewrite);
    assert_eq!(read_all(&store, expected.len()), expected);
    store.close().unwrap();
}

/// Writes of several fillings are on their way and end in any order: what was accepted is read whole all the time.
#[test]
fn a_read_beside_writes_that_end_in_any_order_gets_every_byte() {
    for seed in 0..60 {
        let device = Arc::new(SimDevice::new(4 << 20, seed));
        LogStructuredStore::format(device.clone() as Arc<dyn Device>, &tiny(), &mut |_, _| {}).unwrap();
        let store = open(&device, Tail::Rewrite);
        device.max_delay(6);
        let mut expected = Vec::new();
        for number in 0..300 {
            let data = record(number);
            append(&store, &data).unwrap();
            expected.extend(data);
            store.poll(false);
            // From the ring for the most part: what was appended last, and a little before.
            let from = expected.len().saturating_sub(50_000 - number as usize * 97);
            let piece = store.read_now(LOG, from as u64, expected.len() - from).unwrap();
            assert!(piece == expected[from..], "seed {seed}: {} of {} bytes", piece.len(), expected.len() - from);
        }
    }
}

/// More readers at once than reads of the device: when the last read lands, nobody is left waiting.
#[test]
fn every_reader_is_answered_however_many_there_are_at_once() {
    let device = made(4 << 20);
    let store = open(&device, Tail::Rewrite);
    let mut expected = Vec::new();
    while expected.len() < 1 << 20 {
        let data = record(expected.len() as u64);
        append(&store, &data).unwrap();
        expected.extend(data);
    }
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    // Four places far from one another, and then many readers at a fifth.
    let places = [100_000, 300_000, 500_000, 700_000].into_iter().chain((0..60).map(|n| 900_000 + n));
    let mut asked = 0;
    for place in places {
        asked += 1;
        let (answered, wanted) = (answered.clone(), expected[place..place + 10].to_vec());
        let done = move |result: Result<ReadBytes, StoreError>| {
            assert_eq!(result.unwrap().into_vec().unwrap(), wanted);
            answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        };
        store.read(LOG, place as u64, 10, Lends::Slices, Box::new(done));
    }
    while store.poll(true) > 0 {}
    assert_eq!(answered.load(std::sync::atomic::Ordering::SeqCst), asked);
}

#[test]
fn an_append_comes_behind_what_its_thread_queued_before() {
    let device = made(32 << 20);
    let store = open(&device, Tail::Rewrite);
    // Its own threads make room, at any moment.
    store.start();
    let mut waited = 0;
    for number in 0..2000 {
        let (sender, queued) = std::sync::mpsc::channel();
        for _ in 0..4 {
            let sender = sender.clone();
            let done = Box::new(move |result: Result<Appended, StoreError>| {
                sender.send(result.unwrap().offset).unwrap();
            });
            store.append_later(LOG, vec![number as u8; 3000], AppendAt::End, done);
        }
        drop(sender);
        waited += u64::from(store.deferred() > 0);
        let last = store.append(LOG, b"last").unwrap().offset;
        assert!(queued.iter().all(|offset| offset < last), "round {number}: an append has overtaken those before it");
    }
    assert!(waited > 100, "{waited}");
    store.close().unwrap();
}

#[test]
fn a_sector_that_cannot_be_read_costs_the_records_in_it_alone() {
    let device = made(4 << 20);
    let store = open(&device, Tail::Rewrite);
    let mut records = Vec::new();
    let mut offset = 0;
    for number in 0..600 {
        let data = record(number);
        append(&store, &data).unwrap();
        records.push((offset, data.clone()));
        offset += data.len() as u64;
    }
    store.close().unwrap();
    let mut places = std::collections::BTreeMap::new();
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let each = &mut |frame: &llamafs::store::FrameInfo| {
        if frame.kind == "DATA" {
            places.insert(frame.offset, frame.device_offset..frame.device_offset + frame.total);
        }
        std::ops::ControlFlow::Continue(())
    };
    image.for_each_frame(false, each).unwrap();
    // What a read asks for, and what can be lost: a block.
    let blocks = [3, 40, 41, 150].map(|number| {
        let start = places.values().nth(number).unwrap().start;
        start - start % 4096..start - start % 4096 + 4096
    });
    for block in &blocks {
        device.bad_sectors(block.start + 512..block.start + 513);
    }
    let lost = |at: u64| blocks.iter().any(|block| block.start < places[&at].end && places[&at].start < block.end);
    let store = open(&device, Tail::Rewrite);
    let (mut whole, mut missing) = (0, 0);
    for (offset, data) in &records {
        match store.read_now(LOG, *offset, data.len()) {
            Ok(bytes) => {
                assert!(bytes == *data, "record at {offset}");
                whole += 1;
            }
            Err(error) => {
                assert!(lost(*offset), "record at {offset}: {error}");
                assert!(error.to_string().contains("read of"), "{error}");
                missing += 1;
            }
        }
    }
    assert!(missing >= 4 && whole > 570, "{whole} whole, {missing} missing");
    // The whole of it in order, as `cat` reads it: nothing is skipped in silence, nothing is lost for ever.
    device.heal();
    for (offset, data) in &records {
        assert!(store.read_now(LOG, *offset, data.len()).as_ref() == Ok(data), "record at {offset}");
    }
    device.bad_sectors(0..u64::MAX);
    let error = store.read_now(LOG, records[300].0, 100).unwrap_err();
    assert!(error.to_string().contains("read of"), "{error}");
}
