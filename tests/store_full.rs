//! A full store: whatever lets go is taken, however little it frees; what is dead can be written again; and nobody is
//! refused while room can be made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AttrChange, Change, FormatOptions, Image, LogStructuredStore, NodeKind, ROOT_ID, StoreError, StoreOptions, Tail,
    TrimTo,
};

const SEGMENT: u64 = 64 << 10;

fn made(segments: u64, options: FormatOptions) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new((1 << 20) + segments * SEGMENT, 1));
    let format = FormatOptions { segment_size: Some(SEGMENT as u32), max_record: Some(8 << 10), ..options };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>, tail: Tail) -> Arc<LogStructuredStore> {
    let options = StoreOptions { buffer_size: 40 << 10, tail, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

fn make(store: &LogStructuredStore, name: &str) -> Result<u32, StoreError> {
    let name = name.as_bytes().to_vec();
    let change = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
    store.change_now(change).map(|changed| changed.node.id)
}

/// Removes a log, durably.
fn remove(store: &LogStructuredStore, name: &str) -> Result<(), StoreError> {
    let change = Change::Remove { parent: ROOT_ID, name: name.as_bytes().to_vec(), kind: NodeKind::Log };
    let gone = store.change_now(change)?;
    store.forget(gone.gone.unwrap());
    store.make_stable_now(gone.lsn)
}

/// Appends to one log after the other until there is no room; gives the bytes that were taken.
fn fill(store: &LogStructuredStore, logs: &[u32], len: usize) -> u64 {
    let mut taken = 0;
    for n in 0.. {
        let log = logs[n % logs.len()];
        match store.append(log, &vec![log as u8; len]) {
            Ok(_) => taken += len as u64,
            Err(StoreError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

fn is_clean(device: &Arc<SimDevice>) {
    let report = Image::open(device.clone() as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn a_full_store_takes_any_number_of_removals_each_of_which_frees_next_to_nothing() {
    for tail in [Tail::Pad, Tail::Rewrite] {
        for segments in [8, 12, 40] {
            let device = made(segments, FormatOptions { max_logs: Some(700), ..FormatOptions::default() });
            let mut store = open(&device, tail);
            let small: Vec<String> = (0..600).map(|n| format!("small{n}")).collect();
            for name in &small {
                let log = make(&store, name).unwrap();
                store.append(log, b"a few bytes").unwrap();
            }
            let big = [make(&store, "big0").unwrap(), make(&store, "big1").unwrap()];
            fill(&store, &big, 8000);
            for (n, name) in small.iter().enumerate() {
                let removed = remove(&store, name);
                assert_eq!(removed, Ok(()), "{tail:?}, {segments} segments, removal {n}: {:?}", store.stats());
                if n % 97 == 96 {
                    store.close().unwrap();
                    store = open(&device, tail);
                }
            }
            store.audit().unwrap();
            remove(&store, "big1").unwrap();
            assert!(fill(&store, &big[..1], 8000) > SEGMENT, "what was removed can be written again");
            store.close().unwrap();
            is_clean(&device);
        }
    }
}

#[test]
fn a_full_store_is_trimmed_any_number_of_times_by_next_to_nothing() {
    let device = made(12, FormatOptions::default());
    let store = open(&device, Tail::Pad);
    let log = make(&store, "small records").unwrap();
    for _ in 0..3000 {
        store.append(log, &[7; 20]).unwrap();
    }
    let big = make(&store, "big").unwrap();
    fill(&store, &[big], 8000);
    for n in 1..=2000 {
        let trimmed = store.trim(log, TrimTo::Before(n * 20));
        let trimmed = trimmed.unwrap_or_else(|error| panic!("trim {n}: {error}: {:?}", store.stats()));
        assert_eq!(trimmed.head, n * 20);
        store.make_stable_now(trimmed.lsn).unwrap();
    }
    store.audit().unwrap();
    assert!(store.trim(big, TrimTo::Keep(0)).unwrap().head > 8 * SEGMENT);
    assert!(fill(&store, &[big], 8000) > 8 * SEGMENT, "{:?}", store.stats());
    store.close().unwrap();
    is_clean(&device);
}

#[test]
fn what_is_dead_in_every_segment_can_be_written_again() {
    for segments in [9, 27, 40] {
        let device = made(segments, FormatOptions::default());
        let store = open(&device, Tail::Rewrite);
        let logs: Vec<u32> = (0..24).map(|n| make(&store, &format!("log{n}")).unwrap()).collect();
        let all = fill(&store, &logs, 500);
        // Every segment is half dead now, and none is dead.
        for n in (0..24).step_by(2) {
            remove(&store, &format!("log{n}")).unwrap();
        }
        let stay: Vec<u32> = logs.iter().skip(1).step_by(2).copied().collect();
        let again = fill(&store, &stay[..1], 500);
        assert!(again > all / 2 * 7 / 10, "{segments} segments: {again} of {} again: {:?}", all / 2, store.stats());
        store.audit().unwrap();
        for log in &stay[1..] {
            let size = store.log(*log).unwrap().size;
            assert!((0..size / 500).all(|n| store.read_now(*log, n * 500, 500).unwrap() == vec![*log as u8; 500]));
        }
        store.close().unwrap();
        is_clean(&device);
    }
}

#[test]
fn a_long_run_of_short_records_keeps_no_segment_from_being_cleaned() {
    let device = Arc::new(SimDevice::new((1 << 20) + 27 * (24 << 10), 1));
    let format = FormatOptions { segment_size: Some(24 << 10), max_record: Some(8 << 10), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let mut store = open(&device, Tail::Rewrite);
    let logs: Vec<u32> = (0..3).map(|n| make(&store, &format!("log{n}")).unwrap()).collect();
    let all = fill(&store, &logs, 200);
    // A third of every segment is dead, and what stays lies in two runs as long as a record may be.
    remove(&store, "log0").unwrap();
    // As the keeper does: what is full is summed up.
    store.tick();
    store.close().unwrap();
    store = open(&device, Tail::Rewrite);
    let again = fill(&store, &logs[1..2], 200);
    assert!(again > all / 3 * 6 / 10, "{again} of {} again: {:?}", all / 3, store.stats());
    store.audit().unwrap();
    let size = store.log(logs[2]).unwrap().size;
    assert!((0..size / 200).all(|n| store.read_now(logs[2], n * 200, 200).unwrap() == vec![logs[2] as u8; 200]));
    store.close().unwrap();
    is_clean(&device);
}

/// A store of so few segments that it has no reserve.
fn of_few(segments: u64) -> Arc<SimDevice> {
    for room in 1.. {
        let device = Arc::new(SimDevice::new(room * SEGMENT, 1));
        let options = FormatOptions {
            segment_size: Some(SEGMENT as u32),
            max_record: Some(8 << 10),
            max_logs: Some(100),
            ..FormatOptions::default()
        };
        let made = LogStructuredStore::format(device.clone() as Arc<dyn Device>, &options, &mut |_, _| {});
        if made.is_ok_and(|made| made.superblock.segment_count == segments) {
            return device;
        }
    }
    unreachable!("there is a size for any number of segments")
}

#[test]
fn a_store_of_few_segments_that_is_full_takes_a_removal_and_goes_on() {
    for tail in [Tail::Pad, Tail::Rewrite] {
        for segments in [4, 5, 7] {
            let device = of_few(segments);
            let mut store = open(&device, tail);
            let mut log = make(&store, "stays").unwrap();
            for round in 0..20 {
                let goes = make(&store, "goes").unwrap();
                for _ in 0..segments * 2 {
                    store.append(goes, &[7; 7000]).unwrap();
                }
                // To the last byte that is given.
                fill(&store, &[log], 3000);
                fill(&store, &[log], 1);
                let what = format!("{tail:?}, {segments} segments, round {round}");
                assert_eq!(remove(&store, "goes"), Ok(()), "{what}: {:?}", store.stats());
                assert_eq!(remove(&store, "stays"), Ok(()), "{what}: {:?}", store.stats());
                log = make(&store, "stays").unwrap();
                if round % 3 == 2 {
                    store.audit().unwrap();
                    store.close().unwrap();
                    store = open(&device, tail);
                }
            }
            store.close().unwrap();
            is_clean(&device);
        }
    }
}

#[test]
fn who_drops_the_oldest_is_refused_nothing_while_logs_are_removed_under_it() {
    let device = made(40, FormatOptions { drop_oldest: true, keep_min: 2000, ..FormatOptions::default() });
    let store = open(&device, Tail::Rewrite);
    store.start();
    let log = make(&store, "stays").unwrap();
    store.set_attr(log, AttrChange { keep_min: Some(2000), ..AttrChange::default() }).unwrap();
    let (stop, refused) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (store, stop, refused) = (&store, &stop, &refused);
            scope.spawn(move || {
                let (mut live, mut random) = (Vec::new(), thread + 1);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let made = make(store, &format!("{thread}.{n}"));
                    let taken = made.and_then(|log| (0..9).try_for_each(|_| store.append(log, &[7; 700]).map(drop)));
                    refused.fetch_or(taken == Err(StoreError::NoSpace), Ordering::Relaxed);
                    live.push(n);
                    // They live about as long as the store takes to be written round.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if live.len() > 100 {
                        let gone = live.swap_remove((random >> 33) as usize % live.len());
                        let _ = remove(store, &format!("{thread}.{gone}"));
                    }
                }
            });
        }
        let mut result = Ok(());
        for n in 0..20_000u32 {
            if result.is_ok() && !refused.load(Ordering::Relaxed) {
                result = store.append(log, &[n as u8; 4000]).map(drop);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(result, Ok(()), "{:?}", store.stats());
    });
    assert!(!refused.load(Ordering::Relaxed), "a small log was refused");
    store.audit().unwrap();
    store.close().unwrap();
    is_clean(&device);
}
