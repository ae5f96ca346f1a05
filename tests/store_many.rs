//! Many logs in one ring: a reader of one is not led astray by what another's appender has claimed and not yet filled.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llamafs::format::{NodeKind, ROOT_ID};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Change, FormatOptions, LogStructuredStore, StoreOptions};

const RECORDS: u64 = 4000;
/// Large records of another log, at most: they fit the device together with the rest.
const LARGE: u32 = 200;

fn record(log: u32, number: u64) -> Vec<u8> {
    let len = 1 + (number.wrapping_mul(2_654_435_761) ^ u64::from(log)) as usize % 700;
    (0..len).map(|at| (number as usize * 31 + at + log as usize) as u8).collect()
}

#[test]
fn readers_of_every_log_see_each_record_as_soon_as_it_is_appended() {
    let device = Arc::new(SimDevice::new(512 << 20, 1));
    let format = FormatOptions { segment_size: Some(4 << 20), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device as Arc<dyn Device>, StoreOptions::default()).unwrap();
    store.start();
    let logs: Vec<u32> = (0..3u8)
        .map(|n| {
            let name = vec![b'a' + n];
            let change = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
            store.change_now(change).unwrap().node.id
        })
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One that only gets in the way: large records that take long to copy.
        let noise = scope.spawn(|| {
            let large = vec![0xee; 1 << 20];
            for _ in 0..LARGE {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                store.append(1, &large).unwrap();
                std::thread::yield_now();
            }
        });
        let writers: Vec<_> = logs
            .iter()
            .map(|&log| {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..RECORDS {
                        let data = record(log, number);
                        let offset = store.append(log, &data).unwrap().offset;
                        let read = store.read_now(log, offset, data.len() + 1).unwrap();
                        assert!(read == data, "log {log} record {number}: {} bytes of {}", read.len(), data.len());
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        noise.join().unwrap();
    });
    for log in logs {
        let all: Vec<u8> = (0..RECORDS).flat_map(|number| record(log, number)).collect();
        assert!(store.read_now(log, 0, all.len() + 1).unwrap() == all, "log {log}");
    }
    store.close().unwrap();
}
