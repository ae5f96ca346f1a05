//! What recovery reads is bounded by the device, whatever is missing on it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::format::MIN_BLOCK;
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Change, FormatOptions, LogStructuredStore, NodeKind, ROOT_ID, StoreOptions};

fn made(capacity: u64, segment: u64, max_record: u32) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(capacity, 1));
    let format =
        FormatOptions { segment_size: Some(segment as u32), max_record: Some(max_record), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    let options = StoreOptions { buffer_size: 20 << 10, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

fn make(store: &LogStructuredStore, name: &str) -> u32 {
    let name = name.as_bytes().to_vec();
    let change = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
    store.change_now(change).unwrap().node.id
}

fn remove(store: &LogStructuredStore, name: &str) {
    let name = name.as_bytes().to_vec();
    let gone = store
        .change_now(Change::Remove { parent: ROOT_ID, name, kind: NodeKind::Log })
        .unwrap_or_else(|error| panic!("{error}: {:?}", store.stats()))
        .gone;
    store.forget(gone.unwrap());
}

/// Segments were let go everywhere between others, both checkpoints are lost, and some headers can't be read: recovery reads the
/// device a few times, not once for each that is missing.
#[test]
fn what_is_missing_is_not_looked_for_again_and_again() {
    const SEGMENT: u64 = 64 << 10;
    const SEGMENTS: u64 = 300;
    let device = made((1 << 20) + SEGMENTS * SEGMENT, SEGMENT, 4000);
    let store = open(&device);
    let keep = make(&store, "keep");
    let mut kept = 0;
    for round in 0..100 {
        let goes = make(&store, "goes");
        for n in 0..30 {
            let log = if n < 15 { keep } else { goes };
            store.append(log, &vec![round as u8; 4000]).unwrap();
            kept += u64::from(log == keep) * 4000;
        }
        // The rest of its segment, and one more that holds nothing else.
        for _ in 0..20 {
            store.append(goes, &[7; 4000]).unwrap();
        }
        remove(&store, "goes");
        store.tick();
    }
    store.make_stable_now(store.end_lsn()).unwrap();
    let stats = store.stats();
    assert!(stats.segments_freed > 50, "{stats:?}");
    let crashed = Arc::new(device.crash(3));
    drop(store);
    let bytes = crashed.snapshot();
    for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"LLAMACKP")) {
        crashed.corrupt(at as u64 + 20, 1);
    }
    let headers: Vec<usize> =
        (0..bytes.len()).step_by(MIN_BLOCK as usize).filter(|at| bytes[*at..].starts_with(b"LLAMASEG")).collect();
    for damaged in 0..8 {
        let crashed = Arc::new(crashed.crash(0));
        for n in 0..damaged {
            crashed.corrupt(headers[headers.len() * (n + 1) / 9] as u64 + 20, 1);
        }
        let store = open(&crashed);
        let (stats, size) = (store.stats(), store.log(keep).unwrap().size);
        let capacity = SEGMENTS * SEGMENT;
        assert!(stats.device_read_bytes < 4 * capacity, "{damaged}: {stats:?}");
        assert_eq!(size, kept, "{damaged}: {stats:?}");
    }
}
