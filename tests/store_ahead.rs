//! Reading ahead: a reader that goes on finds what comes next there, whoever else the bytes between are of; nobody else
//! pays for it, and what is damaged is still found by the reader that gets there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::types::{Change, NodeKind, ROOT_ID};
use llamafs::store::{FormatOptions, Lends, LogStructuredStore, StoreOptions};

const MIB: u64 = 1 << 20;
/// Payload of the log that is read.
const LEN: u64 = 24 * MIB;
/// What a reader asks for at a time, as `cat` does.
const PIECE: u64 = 128 << 10;

/// Byte `at` of log `log`.
fn byte(log: u32, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ log as u8
}

fn bytes(log: u32, from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(|at| byte(log, at)).collect()
}

/// A store with records of all sizes of two logs in turns, as another mount has left it; and the first log's id.
fn written(record: impl Fn(u64) -> u64) -> (Arc<SimDevice>, u32) {
    written_among(1, record, |_| true)
}

/// The same among so many others, each of which takes part in a turn or does not.
fn written_among(
    others: usize,
    record: impl Fn(u64) -> u64,
    takes_part: impl Fn(u64) -> bool,
) -> (Arc<SimDevice>, u32) {
    let device = Arc::new(SimDevice::new(256 * MIB, 1));
    let format = FormatOptions { segment_size: Some(8 << 20), now_ns: Some(1), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let store = open(&device);
    let made = |number: usize| {
        let name = format!("log-{number}").into_bytes();
        let create = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
        store.change_now(create).unwrap().node.id
    };
    let logs: Vec<u32> = (0..=others).map(made).collect();
    let (mut at, mut number) = (vec![0; logs.len()], 0);
    while at[0] < LEN {
        for (which, log) in logs.iter().copied().enumerate() {
            let len = record(number).min(LEN - at[which]).max(1);
            if at[which] < LEN && (which == 0 || takes_part(number)) {
                store.append(log, &bytes(log, at[which], len)).unwrap();
                at[which] += len;
            }
            number += 1;
        }
    }
    store.close().unwrap();
    (device, logs[0])
}

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, StoreOptions::default()).unwrap()
}

fn settle(store: &Arc<LogStructuredStore>) {
    while store.poll(true) > 0 {}
}

/// Reads the whole log piece by piece; gives the bytes that the device was asked for.
fn read_through(device: &Arc<SimDevice>, log: u32) -> u64 {
    let store = open(device);
    let before = store.stats().device_read_bytes;
    let mut at = 0;
    while at < LEN {
        let piece = store.read_now(log, at, PIECE as usize).unwrap();
        assert_eq!(piece.len() as u64, PIECE.min(LEN - at), "at {at}");
        assert!(piece == bytes(log, at, piece.len() as u64), "wrong bytes at {at}");
        at += piece.len() as u64;
        store.give_back(piece);
    }
    settle(&store);
    store.stats().device_read_bytes - before
}

/// Reads 4 KiB at a hundred places; gives how often the device was asked, and for how many bytes each of them.
fn read_here_and_there(device: &Arc<SimDevice>, log: u32) -> (u64, u64) {
    let store = open(device);
    let before = store.stats();
    let mut at = 5 * MIB;
    for _ in 0..100 {
        at = (at * 31 + 7 * MIB + 1234) % (LEN - 4096);
        assert!(store.read_now(log, at, 4096).unwrap() == bytes(log, at, 4096), "wrong bytes at {at}");
        settle(&store);
    }
    let after = store.stats();
    (after.device_reads - before.device_reads, (after.device_read_bytes - before.device_read_bytes) / 100)
}

#[test]
fn a_reader_that_goes_on_has_the_next_chunks_on_their_way() {
    for size in [60 << 10, 3000, MIB - 100] {
        let (device, log) = written(|_| size);
        let store = open(&device);
        let before = store.stats().device_read_bytes;
        let read = |at: u64| assert_eq!(store.read_now(log, at, PIECE as usize).unwrap().len() as u64, PIECE);
        read(0);
        settle(&store);
        let first = store.stats().device_read_bytes - before;
        assert!(first <= 5 * MIB / 2, "{size}: the first bytes may be all that is wanted: {first}");
        read(PIECE);
        settle(&store);
        let ahead = store.stats().device_read_bytes - before;
        assert!(ahead >= 7 * MIB / 2, "{size}: nothing was read ahead: {ahead} bytes");
        // What is there is not asked for again.
        let reads = store.stats().device_reads;
        read(2 * PIECE);
        settle(&store);
        assert!(store.stats().device_reads <= reads + 1, "{size}");
    }
}

#[test]
fn all_of_it_is_right_and_hardly_anything_is_read_twice() {
    let sizes: [fn(u64) -> u64; 4] = [|_| 700, |_| 64 << 10, |_| MIB, |number| 1 + number * 7919 % 200_000];
    for (which, size) in sizes.into_iter().enumerate() {
        let (device, log) = written(size);
        let read = read_through(&device, log);
        // Both logs lie there, with frames around each record of 700 bytes.
        assert!(read < 2 * LEN * 9 / 8, "sizes {which}: {read} bytes read of {}", 2 * LEN);
    }
}

#[test]
fn who_reads_here_and_there_asks_the_device_once_and_pays_for_nothing_else() {
    let sizes: [fn(u64) -> u64; 3] = [|_| 4000, |_| 300, |number| 1 + number * 7919 % 20_000];
    for (which, size) in sizes.into_iter().enumerate() {
        let (device, log) = written(size);
        // The nearest frame that is known is up to 64 KiB of this log away, and the other log's lie between.
        let (reads, each) = read_here_and_there(&device, log);
        assert!(each <= 160 << 10, "sizes {which}: {each} bytes for a read of 4 KiB");
        assert!(reads <= 120, "sizes {which}: {reads} reads of the device for 100");
    }
}

#[test]
fn among_many_logs_too_the_device_is_asked_hardly_more_than_once() {
    // In turns, and of two of them a lot at a time.
    let turns: [fn(u64) -> bool; 2] = [|_| true, |number| number % 4096 < 1024];
    for (which, takes_part) in turns.into_iter().enumerate() {
        let (device, log) = written_among(7, |_| 300, takes_part);
        let (reads, each) = read_here_and_there(&device, log);
        assert!(reads <= [130, 200][which], "turns {which}: {reads} reads of the device for 100");
        assert!(each <= 400 << 10, "turns {which}: {each} bytes for a read of 4 KiB");
    }
}

#[test]
fn the_padding_at_the_end_of_a_segment_is_not_read_over_and_over() {
    // Seven of these fill a segment of 8 MiB, and all of a megabyte behind them is padding.
    let (device, log) = written(|_| MIB - 100);
    let read = read_through(&device, log);
    // Of each padding what was on its way when it was found, and no more.
    assert!(read <= 2 * LEN * 36 / 32, "{read} bytes read of {}", 2 * LEN);
}

#[test]
fn what_is_read_ahead_of_a_reader_who_stops_is_bounded_also_if_none_of_it_checks() {
    const RECORD: u64 = 60 << 10;
    let (device, log) = written(|_| RECORD);
    for damaged in [false, true] {
        if damaged {
            // All records from the third mebibyte of the log on: by the log's number and the offset in their headers.
            let image = device.snapshot();
            let id = log.to_le_bytes();
            let is_one = |at: &usize| {
                let offset = image[at + 16..at + 24].first_chunk().map_or(0, |offset| u64::from_le_bytes(*offset));
                image[at + 12..at + 16] == id && (3 * MIB..LEN).contains(&offset) && offset.is_multiple_of(RECORD)
            };
            let places = (0..image.len() - 32).step_by(16).filter(is_one);
            assert!(places.map(|place| device.corrupt(place as u64 + 100, 0x10)).count() >= 350);
        }
        let store = open(&device);
        let before = store.stats().device_read_bytes;
        let mut at = 0;
        while at < 5 * MIB / 2 {
            at += store.read_now(log, at, PIECE as usize).unwrap().len() as u64;
        }
        settle(&store);
        let read = store.stats().device_read_bytes - before;
        assert!((4 * MIB..12 * MIB).contains(&read), "damaged {damaged}: {read} bytes");
    }
}

#[test]
fn a_large_record_is_lent_and_many_readers_at_once_get_what_was_written() {
    let (device, log) = written(|_| 300 << 10);
    let store = open(&device);
    let (sender, receiver) = std::sync::mpsc::channel();
    let read = |at: u64, lends: Lends| {
        let sender = sender.clone();
        store.read(log, at, PIECE as usize, lends, Box::new(move |result| sender.send((at, result.unwrap())).unwrap()));
        settle(&store);
    };
    let (mut held, mut lent) = (Vec::new(), [0; 3]);
    for number in 0..120 {
        let (which, lends) = [(0, Lends::Nothing), (1, Lends::Whole), (2, Lends::Slices)][number % 3];
        read(number as u64 * (LEN - PIECE) / 120, lends);
        let (at, piece) = receiver.try_recv().unwrap();
        lent[which] += u32::from(piece.all_copied().is_none());
        assert!(lends != Lends::Whole || piece.all_copied().is_some() || piece.slices().count() == 1);
        // Held while chunks come and go, so that what is lent is not what has come since.
        held.push((at, piece));
        if held.len() > 5 {
            let (at, piece) = held.remove(0);
            assert!(piece.into_vec().unwrap() == bytes(log, at, PIECE), "wrong bytes at {at}");
        }
    }
    assert_eq!(lent[0], 0);
    assert!(lent[1] > 5 && lent[2] > 10, "{lent:?}");
}

#[test]
fn damage_in_what_is_read_ahead_costs_the_record_that_it_hit_and_nothing_else() {
    let (device, log) = written(|_| 60 << 10);
    let image = device.snapshot();
    let wanted = bytes(log, 6 * MIB, 4000);
    let place = image.windows(wanted.len()).position(|window| window == wanted).unwrap();
    device.corrupt(place as u64, 0x10);
    let store = open(&device);
    let (mut at, mut lost, mut behind) = (0, 0, (0, 0));
    while at < LEN {
        match store.read_now(log, at, PIECE as usize) {
            Ok(piece) => {
                assert!(piece == bytes(log, at, piece.len() as u64), "wrong bytes at {at}");
                at += piece.len() as u64;
            }
            Err(_) => {
                at += 1024;
                lost += 1024;
                behind = (at, store.stats().device_read_bytes);
            }
        }
        settle(&store);
    }
    assert!((1..=(60 << 10) + 1024).contains(&lost), "{lost} bytes lost");
    // Behind the damage reading ahead goes on as before it.
    let (read, wanted) = (store.stats().device_read_bytes - behind.1, 2 * (LEN - behind.0));
    assert!(read < wanted * 9 / 8, "{read} bytes read of {wanted}");
}
