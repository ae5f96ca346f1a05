//! How fast appends go: the ring alone onto an O_DIRECT file, and `LogStructuredStore::append` with frames, checksums
//! and the catalog onto the same kind of file. `cargo bench --bench store`. Of each row criterion tells the time of one append,
//! with all threads together, and how many and how many bytes that makes a second; what is in memory still at the end is
//! flushed within it. The file is written with zeros first and lies in the directory of LLAMAFS_BENCH_DIR (default: target).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

mod crowd;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;

use crowd::{append_all, rows};
use llamafs::io::{Access, Buffer, Device, QuikIO, SharedBuffer, open};
use llamafs::ring::{FillInfo, FlushBufferRing, Placement, SealedFill, Stage, Why};
use llamafs::store::{DEFAULT_BUFFER_SIZE, FormatOptions, LogStructuredStore, StoreOptions};

const SIZES: [usize; 5] = [64, 256, 1024, 4096, 65536];
/// Bytes of the file, and of payload with its frames that fit into it.
const FILE: u64 = 1 << 30;
const PAYLOAD: u64 = 512 << 20;
/// A frame around a payload, at most.
const FRAME: u64 = 48;
const BLOCK: usize = 4096;

/// The least that writes a ring to a device: full buffers, one behind the other, round and round.
struct Writer {
    io: Arc<QuikIO>,
    ring: OnceLock<Weak<FlushBufferRing<Writer>>>,
    me: OnceLock<Weak<Writer>>,
    flying: Mutex<u64>,
    landed: Condvar,
}

impl Stage for Writer {
    fn place(&self, prev: Option<SealedFill>, _need: usize, _why: Why) -> Placement {
        let base = prev.map_or(0, |fill| (fill.end_lsn() as usize).next_multiple_of(BLOCK));
        let trailer = prev.map_or(0, |fill| base - fill.end_lsn() as usize);
        Placement { trailer, base_lsn: base as u64, start: 0, limit: DEFAULT_BUFFER_SIZE }
    }
    fn flush(&self, fill: FillInfo) {
        let ring = self.ring.get().and_then(Weak::upgrade).unwrap();
        let me = self.me.get().and_then(Weak::upgrade).unwrap();
        *self.flying.lock().unwrap() += 1;
        let len = fill.end.next_multiple_of(BLOCK);
        let room = FILE - DEFAULT_BUFFER_SIZE as u64;
        let offset = fill.base_lsn % (room - room % BLOCK as u64);
        let done = Box::new(move |result: Result<(), _>| {
            result.unwrap();
            ring.recycle(&fill);
            *me.flying.lock().unwrap() -= 1;
            me.landed.notify_all();
        });
        let ring = self.ring.get().and_then(Weak::upgrade).unwrap();
        self.io.write(ring.buffer(fill.slot).unwrap(), 0..len, offset, false, done);
    }
    fn failed_flush(&self, _lsn: u64, _bytes: &mut [u8]) {}
    fn has_room(&self, _end_lsn: u64, _need: usize) -> bool {
        true
    }
}

fn file(dir: &Path) -> PathBuf {
    let path = dir.join("bench.img");
    let zeros = vec![0; 1 << 20];
    let mut file = std::fs::File::create(&path).unwrap();
    for _ in 0..FILE >> 20 {
        std::io::Write::write_all(&mut file, &zeros).unwrap();
    }
    file.sync_all().unwrap();
    path
}

fn ring_run(path: &Path, size: usize, threads: usize, count: u64) -> Duration {
    let device: Arc<dyn Device> = Arc::new(open(path, Access::ReadWrite).unwrap());
    let buffers: Vec<SharedBuffer> =
        (0..4).map(|_| Buffer::new_aligned(DEFAULT_BUFFER_SIZE, BLOCK).unwrap().into()).collect();
    let io = QuikIO::new(device, &buffers).unwrap();
    io.start();
    let writer = Arc::new(Writer {
        io: io.clone(),
        ring: OnceLock::new(),
        me: OnceLock::new(),
        flying: Mutex::new(0),
        landed: Condvar::new(),
    });
    let ring = Arc::new(FlushBufferRing::new(buffers, writer.clone()));
    assert!(writer.ring.set(Arc::downgrade(&ring)).is_ok() && writer.me.set(Arc::downgrade(&writer)).is_ok());
    let finish = || {
        ring.seal(Why::Commit).unwrap();
        let mut flying = writer.flying.lock().unwrap();
        while *flying > 0 {
            flying = writer.landed.wait(flying).unwrap();
        }
    };
    let append = |payload: &[u8]| {
        ring.append(payload).unwrap();
    };
    let took = append_all(threads, count, size, &append, &finish);
    io.close();
    took
}

fn store_run(path: &Path, size: usize, threads: usize, count: u64) -> Duration {
    let device = || -> Arc<dyn Device> { Arc::new(open(path, Access::ReadWrite).unwrap()) };
    LogStructuredStore::format(device(), &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device(), StoreOptions::default()).unwrap();
    store.start();
    let finish = || store.make_stable_now(store.stats().end_lsn).unwrap();
    let append = |payload: &[u8]| {
        store.append(1, payload).unwrap();
    };
    let took = append_all(threads, count, size, &append, &finish);
    store.close().unwrap();
    took
}

/// As many runs as it takes, each of no more appends than fit into the file.
fn in_parts(size: usize, count: u64, run: impl Fn(u64) -> Duration) -> Duration {
    let most = PAYLOAD / (size as u64 + FRAME);
    let whole = (0..count / most).map(|_| run(most)).sum::<Duration>();
    if count.is_multiple_of(most) { whole } else { whole + run(count % most) }
}

fn main() {
    let dir = std::env::var_os("LLAMAFS_BENCH_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let path = file(&dir);
    type Run = fn(&Path, usize, usize, u64) -> Duration;
    for (name, run) in [("ring onto a file", ring_run as Run), ("store.append", store_run as Run)] {
        rows(name, &SIZES, |size, threads, count| in_parts(size, count, |part| run(&path, size, threads, part)));
    }
    std::fs::remove_file(path).unwrap();
}
