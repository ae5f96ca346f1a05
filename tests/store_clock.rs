//! A clock that is set back: the times in a log never go backwards, within a mount and over remounts and crashes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llamafs::io::{Device, SimDevice};
use llamafs::store::types::AttrChange;
use llamafs::store::{FormatOptions, Image, LogStructuredStore, StoreOptions};

const LOG: u32 = 1;
const HOUR: u64 = 3_600_000_000_000;

/// The machine's clock.
static CLOCK: AtomicU64 = AtomicU64::new(0);

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    let options =
        StoreOptions { buffer_size: 20 << 10, clock: || CLOCK.load(Ordering::SeqCst), ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

fn append(store: &Arc<LogStructuredStore>) {
    let appended = store.append(LOG, b"record").unwrap();
    store.make_stable_now(appended.end_lsn).unwrap();
}

fn set(hours: u64) {
    CLOCK.store(hours * HOUR, Ordering::SeqCst);
}

/// Times of all frames that have one, in the order of the store.
fn times(device: &Arc<SimDevice>) -> Vec<u64> {
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let mut times = Vec::new();
    image
        .for_each_frame(false, &mut |frame| {
            if ["DATA", "META", "EPOC"].contains(&frame.kind.as_str()) {
                times.push(frame.time_ns / HOUR);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    times
}

#[test]
fn times_in_a_log_never_go_backwards() {
    set(100);
    let format = FormatOptions {
        segment_size: Some(64 << 10),
        max_record: Some(8 << 10),
        now_ns: Some(100 * HOUR),
        ..FormatOptions::default()
    };
    let device = Arc::new(SimDevice::new(2 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let store = open(&device);
    append(&store);
    set(110);
    append(&store);
    // Before any tick has seen the time of the last record.
    set(50);
    append(&store);
    assert_eq!(store.log(LOG).unwrap().mtime_ns, 110 * HOUR);
    let mode = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    assert_eq!(store.set_attr(LOG, mode).unwrap().ctime_ns, 110 * HOUR);
    store.tick();
    store.close().unwrap();
    assert_eq!(times(&device), [100, 100, 100, 110, 110, 110]);

    // A remount, and a power loss: the device remembers.
    set(60);
    let store = open(&device);
    append(&store);
    set(120);
    append(&store);
    let device = Arc::new(device.crash(7));
    set(1);
    let store = open(&device);
    append(&store);
    assert_eq!(store.log(LOG).unwrap().mtime_ns, 120 * HOUR);
    set(130);
    append(&store);
    store.close().unwrap();
    assert_eq!(times(&device), [100, 100, 100, 110, 110, 110, 110, 110, 120, 120, 120, 130]);
}
