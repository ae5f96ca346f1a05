//! Endurance of the flush ring: many threads, small records, every record checked. Fails with a message and status 1.
//!
//! `cargo bench --bench ring_stress -- [--runs N] [--threads N] [--appends N] [--buffers N] [--buffer-size N]`; the same
//! names in capitals with `RING_STRESS_` before them work as environment variables. Without any: one run of 16 threads
//! and 1.6 M appends of 24 to 40 bytes over 4 buffers of 16 KiB, with a timer flush and a reader beside them.
//!
//! Each record tells its thread, its number, its length and its LSN, and ends in a checksum. What is flushed is walked
//! record by record: nothing lost (each thread's numbers 0, 1, 2, ... all came), misplaced (the LSN told is the LSN it
//! is at), doubled (a number came again) or torn (checksum). A run that makes no progress for 20 s is wedged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that checks: it fails loudly")]

mod memory;

use llamafs::ring::{FillInfo, Why};
use memory::{OnFlush, Ring, ring_of};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const HEADER: usize = 20;
const CHECKSUM: usize = 4;
const SMALLEST: usize = HEADER + CHECKSUM;

struct Settings {
    runs: u64,
    threads: u64,
    appends: u64,
    buffers: u64,
    buffer_size: u64,
}

impl Settings {
    fn read() -> Settings {
        let args: Vec<String> = std::env::args().collect();
        let get = |name: &str, usual: u64| -> u64 {
            let flag = format!("--{name}");
            let env = format!("RING_STRESS_{}", name.replace('-', "_").to_uppercase());
            let given = args
                .iter()
                .position(|a| *a == flag)
                .and_then(|at| args.get(at + 1).cloned())
                .or_else(|| std::env::var(env).ok());
            given.map_or(usual, |g| g.parse().unwrap_or_else(|_| panic!("{flag}: a number")))
        };
        Settings {
            runs: get("runs", 1),
            threads: get("threads", 16),
            appends: get("appends", 1_600_000),
            buffers: get("buffers", 4),
            buffer_size: get("buffer-size", 16 << 10),
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Writes a record for `lsn` over all of `bytes`.
fn write_record(bytes: &mut [u8], thread: u32, number: u32, lsn: u64) {
    let body = bytes.len() - CHECKSUM;
    let len = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&len.to_le_bytes());
    bytes[4..8].copy_from_slice(&thread.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..20].copy_from_slice(&lsn.to_le_bytes());
    bytes[HEADER..body].fill(number as u8);
    let sum = checksum(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// What has come out of the ring.
struct Ledger {
    /// Next number of each thread.
    next: Vec<u32>,
    /// LSN behind what was walked, and fillings that came before those in front of them.
    end: u64,
    early: BTreeMap<u64, Vec<u8>>,
}

impl Ledger {
    fn take(&mut self, fill: &FillInfo, bytes: &[u8]) {
        assert!(fill.start_lsn() >= self.end, "flushed twice: {fill:?}");
        let doubled = self.early.insert(fill.start_lsn(), bytes.to_vec());
        assert!(doubled.is_none(), "two fillings at one address: {fill:?}");
        while let Some(bytes) = self.early.remove(&self.end) {
            self.walk(&bytes);
        }
    }

    fn walk(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let lsn = self.end + at as u64;
            let len = word(bytes, at) as usize;
            assert!(len >= SMALLEST && at + len <= bytes.len(), "no record at {lsn}");
            let record = &bytes[at..at + len];
            let sum = word(record, len - CHECKSUM);
            assert_eq!(sum, checksum(&record[..len - CHECKSUM]), "torn at {lsn}");
            let told = u64::from_le_bytes(record[12..20].try_into().unwrap());
            assert_eq!(told, lsn, "misplaced");
            let (thread, number) = (word(record, 4) as usize, word(record, 8));
            assert_eq!(number, self.next[thread], "thread {thread}: lost, doubled or out of order");
            self.next[thread] += 1;
            at += len;
        }
        self.end += bytes.len() as u64;
    }
}

/// Checks a filling, then recycles it.
fn into_ledger(ledger: &Arc<Mutex<Ledger>>) -> OnFlush {
    let ledger = Arc::clone(ledger);
    Box::new(move |ring, fill| {
        ring.with_filling(&fill, |bytes| {
            ledger.lock().unwrap().take(&fill, &bytes[fill.start..fill.end]);
        });
        ring.recycle(&fill);
    })
}

fn append_all(ring: &Ring, thread: u32, appends: u32, last: &AtomicU64) {
    for number in 0..appends {
        let len = SMALLEST + (number.wrapping_mul(2_654_435_761) ^ thread) as usize % 17;
        let mut r = ring.reserve(len).expect("reserve");
        let lsn = r.lsn();
        write_record(r.bytes(), thread, number, lsn);
        // One in 64 Ki first stands still inside its claim, for as long as many rotations.
        if number % (1 << 16) == 77 {
            std::thread::sleep(Duration::from_micros(200));
        }
        r.commit();
        last.store(lsn, Ordering::Release);
    }
}

fn run(settings: &Settings) -> Duration {
    let each = (settings.appends / settings.threads) as u32;
    let ledger =
        Arc::new(Mutex::new(Ledger { next: vec![0; settings.threads as usize], end: 0, early: BTreeMap::new() }));
    let ring = ring_of(settings.buffers as usize, settings.buffer_size as usize, into_ledger(&ledger));
    let last = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (ring, last, done, ledger) = (ring.as_ref(), &last, &done, &ledger);
        let beside = [
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    ring.seal(Why::Commit).expect("seal");
                    std::thread::sleep(Duration::from_micros(500));
                }
            }),
            scope.spawn(move || {
                let mut record = [0; SMALLEST];
                while !done.load(Ordering::Relaxed) {
                    let lsn = last.load(Ordering::Acquire);
                    if lsn > 0 && ring.read(lsn, &mut record) {
                        let told = u64::from_le_bytes(record[12..20].try_into().unwrap());
                        assert_eq!(told, lsn, "read something else");
                    }
                    assert!(ring.end_lsn() >= lsn);
                    std::thread::sleep(Duration::from_micros(100));
                }
            }),
            scope.spawn(move || {
                let (mut before, mut since) = (0, Instant::now());
                while !done.load(Ordering::Relaxed) {
                    let end = ring.end_lsn();
                    if end != before {
                        (before, since) = (end, Instant::now());
                    } else if since.elapsed() > Duration::from_secs(20) {
                        eprintln!("ring_stress: wedged at {end}: {:?}", ring.states());
                        std::process::exit(1);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }),
        ];
        let appenders: Vec<_> = (0..settings.threads as u32)
            .map(|thread| scope.spawn(move || append_all(ring, thread, each, last)))
            .collect();
        let failed = appenders.into_iter().filter_map(|a| a.join().err()).count();
        done.store(true, Ordering::Relaxed);
        let failed = failed + beside.into_iter().filter_map(|b| b.join().err()).count();
        assert_eq!(failed, 0, "threads failed");
        ring.close();
        let ledger = ledger.lock().unwrap();
        assert!(ledger.early.is_empty(), "a filling is missing");
        assert_eq!(ledger.end, ring.end_lsn(), "claimed and not flushed");
        assert!(ledger.next.iter().all(|&n| n == each), "lost: {:?}", ledger.next);
    });
    started.elapsed()
}

fn main() -> ExitCode {
    let settings = Settings::read();
    for n in 1..=settings.runs {
        match std::panic::catch_unwind(|| run(&settings)) {
            Ok(took) => println!(
                "ring_stress: run {n} of {}: {} appends by {} threads in {:.2} s, all there",
                settings.runs,
                settings.appends / settings.threads * settings.threads,
                settings.threads,
                took.as_secs_f64(),
            ),
            Err(_) => {
                eprintln!("ring_stress: run {n} failed: the message is above");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("ring_stress: OK");
    ExitCode::SUCCESS
}
