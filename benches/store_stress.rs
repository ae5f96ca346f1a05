//! Endurance of the store on a device: many threads, small records, every byte read back after a remount.
//!
//! `cargo bench --bench store_stress -- [--runs N]`: each run makes a store in a file (in LLAMAFS_BENCH_DIR, default
//! `target`), lets 16 threads append 1.6 M records of 24 to 40 bytes to one log through the flush ring and QuikIO,
//! closes it, opens it again and walks the log: nothing lost, misplaced, doubled or torn. A run without progress for
//! 60 s is wedged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that checks: it fails loudly")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use llamafs::io::{Access, Device, open};
use llamafs::store::{FormatOptions, LogStructuredStore, StoreOptions};

const THREADS: u32 = 16;
const APPENDS: u32 = 100_000;
const LOG: u32 = 1;
const HEADER: usize = 20;

fn record(thread: u32, number: u32) -> Vec<u8> {
    let len = 24 + (number.wrapping_mul(2_654_435_761) ^ thread) as usize % 17;
    let mut bytes = vec![number as u8; len];
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&thread.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..16].copy_from_slice(b"rec!");
    let sum = crc32c::crc32c(&bytes[..16]) ^ crc32c::crc32c(&bytes[HEADER..]);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn device(path: &Path) -> Arc<dyn Device> {
    Arc::new(open(path, Access::ReadWrite).unwrap())
}

fn append_all(path: &Path) {
    let store = LogStructuredStore::open(device(path), StoreOptions::default()).unwrap();
    store.start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut before, mut since) = (0, Instant::now());
            while !done.load(Ordering::Relaxed) {
                let end = store.stats().end_lsn;
                if end != before {
                    (before, since) = (end, Instant::now());
                } else if since.elapsed() > Duration::from_secs(60) {
                    eprintln!("store_stress: wedged: {:?}", store.ring_slots());
                    std::process::exit(1);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..APPENDS {
                        let appended = store.append(LOG, &record(thread, number)).unwrap();
                        if number % 20_000 == 77 {
                            store.make_stable_now(appended.end_lsn).unwrap();
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    store.close().unwrap();
}

fn check_all(path: &Path) {
    let store = LogStructuredStore::open(device(path), StoreOptions::default()).unwrap();
    store.start();
    assert!(store.stats().recovery.clean, "{:?}", store.stats().recovery);
    let size = store.log(LOG).unwrap().size;
    let mut next = [0u32; THREADS as usize];
    let (mut offset, mut pending) = (0, Vec::new());
    while offset < size {
        let piece = store.read_now(LOG, offset, 1 << 20).unwrap();
        assert!(!piece.is_empty());
        offset += piece.len() as u64;
        pending.extend(piece);
        let mut at = 0;
        while pending.len() - at >= HEADER {
            let word = |from: usize| u32::from_le_bytes(pending[at + from..at + from + 4].try_into().unwrap());
            let (len, thread, number) = (word(0) as usize, word(4), word(8));
            assert!((24..=40).contains(&len) && thread < THREADS, "no record at {}", offset);
            if pending.len() - at < len {
                break;
            }
            assert_eq!(pending[at..at + len], record(thread, number), "torn");
            assert_eq!(number, next[thread as usize], "thread {thread}: lost, doubled or out of order");
            next[thread as usize] += 1;
            at += len;
        }
        pending.drain(..at);
    }
    assert!(pending.is_empty() && next.iter().all(|&n| n == APPENDS), "lost: {next:?}");
    store.close().unwrap();
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let runs =
        args.iter().position(|arg| arg == "--runs").and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(1u32);
    let dir = std::env::var_os("LLAMAFS_BENCH_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let path = dir.join("store_stress.img");
    for run in 1..=runs {
        std::fs::File::create(&path).unwrap().set_len(320 << 20).unwrap();
        LogStructuredStore::format(device(&path), &FormatOptions::default(), &mut |_, _| {}).unwrap();
        let started = Instant::now();
        append_all(&path);
        let appended = started.elapsed().as_secs_f64();
        check_all(&path);
        println!(
            "store_stress: run {run} of {runs}: {} appends by {THREADS} threads in {appended:.2} s, all there",
            THREADS * APPENDS
        );
    }
    std::fs::remove_file(path).unwrap();
    println!("store_stress: OK");
    ExitCode::SUCCESS
}
