//! A mount does not take longer because there is more on the device: stores of 1 GiB, 32 GiB and 1 TiB, nearly full,
//! of a thousand logs, side by side.
//!
//! Nobody writes a terabyte for a test. A generator lays down what such a store has, superblocks, headers, summaries and
//! checkpoints, and of the records the first of each range; the rest is a hole of the file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use llamafs::format::frame::{encode_mark, encode_pad, write_frame};
use llamafs::format::{
    CatalogEntry, Checkpoint, FrameHead, FrameSeed, Kind, MountEntry, NodeKind, ROOT_ID, SavedRange, SegmentEntry,
    SegmentHeader, SegmentState, Summarised, Summary, Superblock, frame_len,
};
use llamafs::io::{Access, Device, open};
use llamafs::store::{FormatOptions, LogStructuredStore, StoreOptions};

/// Logs of the store, and how many of them have records in one segment.
const LOGS: u32 = 1000;
const IN_SEGMENT: u32 = 32;
/// Bytes of the record that is really there, at the beginning of each range.
const RECORD: usize = 1000;
/// Time from one segment to the next, ns.
const PACE: u64 = 1_000_000_000;

/// What was laid down.
struct Made {
    superblock: Superblock,
    segments: u64,
    /// Bytes of each log in each segment that it has records in.
    share: u64,
}

fn record(log: u32, offset: u64) -> Vec<u8> {
    (0..RECORD).map(|at| (u64::from(log) * 7 + offset / 11 + at as u64) as u8).collect()
}

/// The logs of segment `sequence`.
fn logs_of(sequence: u64) -> impl Iterator<Item = u32> {
    (0..IN_SEGMENT).map(move |n| 1 + ((sequence as u32).wrapping_mul(IN_SEGMENT) + n) % LOGS)
}

/// A nearly full store in the file at `path`.
fn generate(path: &Path, bytes: u64) -> Made {
    File::create(path).unwrap().set_len(bytes).unwrap();
    let device = Arc::new(open(path, Access::ReadWrite).unwrap());
    let options = FormatOptions { max_logs: Some(10_000), now_ns: Some(PACE), ..FormatOptions::default() };
    let made = LogStructuredStore::format(device as Arc<dyn Device>, &options, &mut |_, _| {}).unwrap();
    let mut superblock = made.superblock;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let (size, block) = (u64::from(superblock.segment_size), u64::from(superblock.block_size));
    // Two per cent stay free.
    // But for what a store keeps back, and one to go on in.
    let segments = (superblock.segment_count * 98 / 100).min(superblock.segment_count - 3);
    let share = (size / u64::from(IN_SEGMENT) - 4096) / 2;
    let (epoch, uuid) = (1, superblock.uuid);
    let seed = FrameSeed::new(&uuid, epoch);
    let place = |lsn: u64| superblock.data_start + (lsn / size - 1) * size + lsn % size;
    let mut sizes = vec![0u64; LOGS as usize + 1];
    let (mut summarised, mut lines, mut before, mut end) = (Vec::new(), Vec::new(), None, 0);
    for sequence in 1..=segments {
        let physical = (sequence - 1) as u32;
        let header = SegmentHeader {
            uuid,
            sequence,
            first_lsn: sequence * size,
            epoch,
            physical,
            next_physical: Some(physical + 1),
            created_ns: sequence * PACE,
            stable_lsn: sequence * size,
        };
        file.write_all_at(&header.encode(superblock.block_size), place(sequence * size)).unwrap();
        // Behind the header the summary of the segment before, then a record of each log, each in a block of its own.
        let mut lsn = sequence * size + block;
        let mut put = |head: &FrameHead, payload: &[u8]| {
            let total = frame_len(payload.len());
            let mut bytes = vec![0; total + 16];
            write_frame(&mut bytes[..total], &seed, lsn, head, payload).unwrap();
            let at = lsn;
            let next = (lsn + total as u64 + 16).next_multiple_of(block);
            bytes[total..].copy_from_slice(&encode_pad(&seed, lsn + total as u64, next - lsn - total as u64));
            file.write_all_at(&bytes, place(lsn)).unwrap();
            lsn = next;
            (at, total)
        };
        if let Some(summary) = before.take() {
            let head = FrameHead { kind: Kind::Summary, log_id: 0, offset: sequence - 1, time_ns: sequence * PACE };
            let (lsn, total) = put(&head, &Summary::encode(&summary));
            summarised.push(Summarised::At { lsn, total: total as u32 });
        }
        let mut ranges = Vec::new();
        for log_id in logs_of(sequence) {
            let offset = sizes[log_id as usize];
            let head = FrameHead { kind: Kind::Data, log_id, offset, time_ns: sequence * PACE };
            let (lsn, _) = put(&head, &record(log_id, offset));
            let (len, bytes) = (share as u32, share as u32 + 32);
            ranges.push(SavedRange { log_id, len, bytes, offset, lsn, time_ns: sequence * PACE });
            sizes[log_id as usize] += share;
        }
        before = Some(Summary { sequence, ranges });
        if sequence < segments {
            // What would be the rest of the records.
            let rest = encode_pad(&seed, lsn, (sequence + 1) * size - lsn);
            file.write_all_at(&rest, place(lsn)).unwrap();
        }
        lines.push(SegmentEntry { sequence, physical, state: SegmentState::Sealed, epoch });
        end = lsn;
    }
    // The last is open: a mark closes it.
    file.write_all_at(&encode_mark(&seed, end, end), place(end)).unwrap();
    end += 16;
    lines.last_mut().unwrap().state = SegmentState::Open;
    summarised.push(Summarised::Here);
    let root = CatalogEntry { id: ROOT_ID, kind: NodeKind::Directory, mode: 0o755, ..CatalogEntry::default() };
    let log = |id: u32| CatalogEntry {
        id,
        parent: ROOT_ID,
        mode: 0o644,
        size: sizes[id as usize],
        end_lsn: end,
        name: format!("log {id}").into_bytes(),
        ..CatalogEntry::default()
    };
    let checkpoint = Checkpoint {
        uuid,
        generation: 2,
        epoch,
        recovery_lsn: end,
        stable_lsn: end,
        nodes: (1..=LOGS).map(log).chain([root]).collect(),
        segments: lines,
        index: Vec::new(),
        mounts: vec![MountEntry { epoch, cut_lsn: size, first_lsn: size + block }],
        next_id: LOGS + 1,
        summarised,
        ranges: before.unwrap().ranges,
    };
    file.write_all_at(&checkpoint.encode(), superblock.checkpoint_start).unwrap();
    (superblock.clean, superblock.stable_lsn, superblock.end_lsn) = (true, end, end);
    for _copy in 0..2 {
        superblock.generation += 1;
        file.write_all_at(superblock.encode().as_slice(), superblock.copy_offset()).unwrap();
    }
    file.sync_all().unwrap();
    Made { superblock, segments, share }
}

/// Bytes of memory that this process has resident.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn mount(path: &Path) -> Arc<LogStructuredStore> {
    let device = Arc::new(open(path, Access::ReadWrite).unwrap());
    let store = LogStructuredStore::open(device as Arc<dyn Device>, StoreOptions::default()).unwrap();
    store.start();
    store
}

#[test]
fn a_mount_takes_no_longer_with_a_terabyte_on_the_device() {
    let dir = tempfile::Builder::new().prefix("scale").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sizes: &[u64] = if std::env::var_os("LLAMAFS_SCALE_STORE").is_some() { &[1, 32, 1024] } else { &[1, 16] };
    println!("| GiB | segments | mount | after a crash | first read by offset | by time | memory |");
    println!("|---|---|---|---|---|---|---|");
    for gib in sizes {
        let path = dir.path().join("store.img");
        let made = generate(&path, gib << 30);
        let before = resident();
        let started = Instant::now();
        let store = mount(&path);
        let clean = started.elapsed();
        let memory = resident().saturating_sub(before);
        assert!(store.stats().recovery.clean, "{:?}", store.stats().recovery);
        store.audit().unwrap();
        // A log in the middle of it all.
        let sequence = made.segments / 2;
        let log = logs_of(sequence).nth(7).unwrap();
        let times = (1..sequence).filter(|sequence| logs_of(*sequence).any(|id| id == log)).count() as u64;
        let offset = times * made.share;
        let started = Instant::now();
        assert!(store.read_now(log, offset, RECORD).unwrap() == record(log, offset));
        let by_offset = started.elapsed();
        let started = Instant::now();
        assert_eq!(store.offset_at(log, sequence * PACE).unwrap(), offset);
        assert!(store.read_now(log, offset, RECORD).unwrap() == record(log, offset));
        let by_time = started.elapsed();
        store.append(log, b"goes on").unwrap();
        store.make_stable_now(store.end_lsn()).unwrap();
        let size = store.log(log).unwrap().size;
        // The daemon is gone, without a word; nothing of it may go on writing.
        let other = dir.path().join("crashed.img");
        let mut copy = std::process::Command::new("cp");
        let output = copy.args(["--sparse=always", "--reflink=auto"]).arg(&path).arg(&other).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // Else the first reads of the copy would wait for its being written.
        File::open(&other).unwrap().sync_all().unwrap();
        drop(store);
        let started = Instant::now();
        let store = mount(&other);
        let crashed = started.elapsed();
        assert!(!store.stats().recovery.clean);
        assert_eq!(store.log(log).unwrap().size, size);
        assert_eq!(store.read_now(log, size - 7, 7).unwrap(), b"goes on");
        store.audit().unwrap();
        store.close().unwrap();
        println!(
            "| {gib} | {} | {clean:.2?} | {crashed:.2?} | {by_offset:.2?} | {by_time:.2?} | {} MiB |",
            made.superblock.segment_count,
            memory >> 20
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&other).unwrap();
    }
}
