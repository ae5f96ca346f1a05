//! The first record of a time is found wherever its log lies: in segments that were cleaned, whole or in part, before and
//! after crashes in the middle of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AttrChange, Begins, Change, FormatOptions, LogStructuredStore, NodeKind, ROOT_ID, StoreOptions, TrimTo,
};

const SEGMENT: u64 = 64 << 10;
const RECORD: usize = 1000;
/// `/log` of a new store.
const LOG: u32 = 1;
const SECOND: u64 = 1_000_000_000;

/// The machine's clock of these tests, in ns.
static CLOCK: AtomicU64 = AtomicU64::new(1_000 * SECOND);

fn now() -> u64 {
    CLOCK.load(Ordering::Relaxed)
}

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    let options = StoreOptions { buffer_size: 20 << 10, clock: now, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

/// The first record of each time is where the model says; `times` are those of the records.
fn check(store: &LogStructuredStore, log: u32, times: &[u64], what: &str) {
    let info = store.log(log).unwrap();
    let there = (info.size / RECORD as u64) as usize;
    for (n, time) in times[..there].iter().enumerate().step_by(3) {
        let first = ((n * RECORD) as u64).max(info.head);
        for (time, first) in [(*time, first), (*time - SECOND / 2, first)] {
            assert_eq!(
                store.begins(log, time).unwrap(),
                Begins::At(first),
                "{what}: record {n} of {there}, time {time}"
            );
            let known = store.begins_in_memory(log, time, 0).unwrap();
            assert!(known.is_none_or(|known| known == Begins::At(first)), "{what}: {known:?}");
        }
    }
    let late = times[..there].last().unwrap() + 1;
    assert_eq!(store.begins(log, late).unwrap(), Begins::NotBefore(info.size));
}

#[test]
fn a_time_is_found_in_what_was_cleaned_in_part() {
    let mut cleaned = 0;
    for seed in 0..250 {
        let device = Arc::new(SimDevice::new((1 << 20) + 16 * SEGMENT, seed));
        let options = FormatOptions {
            segment_size: Some(SEGMENT as u32),
            max_record: Some(8 << 10),
            now_ns: Some(now()),
            drop_oldest: true,
            ..FormatOptions::default()
        };
        LogStructuredStore::format(device.clone() as Arc<dyn Device>, &options, &mut |_, _| {}).unwrap();
        let store = open(&device);
        let create =
            Change::Create { parent: ROOT_ID, name: b"q".to_vec(), kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
        let quiet = store.change_now(create).unwrap().node.id;
        store.set_attr(quiet, AttrChange { keep_min: Some(1 << 30), ..AttrChange::default() }).unwrap();
        let mut times = Vec::new();
        device.power_off_after(300 + seed * 2);
        for n in 0..4000 {
            CLOCK.fetch_add(SECOND, Ordering::Relaxed);
            if store.append(LOG, &[b'x'; RECORD]).is_err() {
                break;
            }
            // Several close together, so that one segment has a few of them.
            if n % 60 < 20 {
                CLOCK.fetch_add(SECOND, Ordering::Relaxed);
                times.push(now());
                if store.append(quiet, &[times.len() as u8; RECORD]).is_err() {
                    break;
                }
            }
            if n % 16 == 0 {
                store.tick();
            }
        }
        cleaned += store.stats().moved_bytes;
        drop(store);
        let crashed = Arc::new(device.crash(seed));
        let store = open(&crashed);
        if store.log(quiet).unwrap().size > 0 {
            check(&store, quiet, &times, &format!("seed {seed}"));
            store.close().unwrap();
            let store = open(&crashed);
            check(&store, quiet, &times, &format!("seed {seed}, mounted again"));
            // What is let go by time is what is older, and no more.
            let there = (store.log(quiet).unwrap().size / RECORD as u64) as usize;
            store.set_attr(quiet, AttrChange { keep_min: Some(0), ..AttrChange::default() }).unwrap();
            let trimmed = store.trim(quiet, TrimTo::Since(times[there / 2])).unwrap();
            assert_eq!(trimmed.head, (there / 2 * RECORD) as u64, "seed {seed}");
            check(&store, quiet, &times, &format!("seed {seed}, trimmed"));
        }
    }
    assert!(cleaned > 0);
}
