//! Every bit that means something, flipped in turn: reported or harmless, and never silently different data.
//!
//! After each flip the store is mounted, read, checked, shown by `cat` and salvaged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod damaged;

use std::ops::Range;
use std::sync::Arc;

use damaged::*;
use llamafs::format::{FrameHead, FrameSeed, Kind, frame};
use llamafs::io::SimDevice;
use llamafs::store::{FrameInfo, LogStructuredStore, Part, StoreError, Tail};

const CAPACITY: u64 = 512 << 10;
const UUID: [u8; 16] = [7; 16];
const SUPERBLOCK: u64 = 4096;
const BLOCK: u64 = 4096;
/// Bytes of the log on either side of a flip that are always read.
const NEAR: u64 = 2048;

/// A store with a past.
struct Exhibit {
    name: &'static str,
    device: Arc<SimDevice>,
    /// What its log holds.
    log: Vec<u8>,
    frames: Vec<FrameInfo>,
    /// The log was on stable media up to here, and the store says so.
    stable: u64,
    clean: bool,
}

impl Exhibit {
    fn new(name: &'static str, device: Arc<SimDevice>, log: Vec<u8>) -> Self {
        let report = check(&device);
        assert!(report.is_clean(), "{name}: {:#?}", report.damage);
        assert!(cat(&device) == (log.clone(), Vec::new()), "{name}: cat");
        assert!(salvaged(&device) == (log.clone(), Vec::new()), "{name}: salvage");
        let stable = image(&device).stats().stable_lsn;
        let clean = image(&device).recovery().clean;
        Self { name, frames: frames(&device), device, log, stable, clean }
    }

    fn superblock_word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.device.peek(at, 8).try_into().unwrap())
    }
}

/// A payload full of what frames begin with, of whole frames of this store, and of frames that would check exactly
/// where they lie.
fn treacherous(store: &Arc<LogStructuredStore>, device: &Arc<SimDevice>, number: u64) -> Vec<u8> {
    let seed = FrameSeed::new(&UUID, store.stats().epoch);
    let lsn = store.stats().end_lsn;
    let size = store.log(LOG).unwrap().size;
    let mut payload = Vec::new();
    match number % 4 {
        0 => payload.extend(b"DATAVOIDMETAEPOCMARKPADDLLAMAFS1LLAMASEGLLAMACKP".repeat(8)),
        1 => payload.extend(device.peek(CAPACITY / 2, 300)),
        2 => payload.extend(device.peek(0, 512)),
        _ => {
            for at in 0..6u64 {
                // Its payload begins 32 bytes behind the frame.
                let place = lsn + 32 + payload.len() as u64;
                let head = FrameHead { kind: Kind::Data, log_id: LOG, offset: size + at * 9, time_ns: 1 };
                let mut bytes = vec![0; 64];
                frame::write_frame(&mut bytes, &seed, place, &head, b"forged frame of a log..").unwrap();
                payload.extend(bytes);
                payload.extend(frame::encode_mark(&seed, lsn + 32 + payload.len() as u64, 1 << 40));
            }
        }
    }
    payload
}

/// Mounts, records of all sizes, VOID frames, changed attributes: several segments, several epochs.
fn past(tail: Tail, crashes: bool) -> (Arc<SimDevice>, Vec<u8>) {
    let mut device = device(CAPACITY);
    let mut log = Vec::new();

    for life in 0..if crashes { 8 } else { 4u64 } {
        let store = open(&device, tail).unwrap();
        log.truncate(store.log(LOG).unwrap().size as usize);
        for number in 0..8u64 {
            let data = match number % 5 {
                3 => treacherous(&store, &device, life + number / 5),
                4 => record(life * 100 + number, 2000),
                _ => record(life * 100 + number, 120),
            };
            let lsn = append(&store, &data).unwrap();
            log.extend_from_slice(&data);
            if number % 4 == 2 {
                store.make_stable_now(lsn).unwrap();
            }
            if number % 3 == 1 {
                // What was given up fills the segments: its payload is not looked at.
                give_up(&store, [40, 8000, 8100][number as usize / 3]);
            }
        }
        if crashes {
            store.make_stable(store.log(LOG).unwrap().end_lsn, Box::new(|_| {}));
            let crashed = Arc::new(device.crash(life + 5));
            std::mem::forget(store);
            device = crashed;
        } else {
            store.close().unwrap();
        }
    }
    (device, log)
}

fn give_up(store: &Arc<LogStructuredStore>, len: usize) {
    while let Err(error) = store.give_up(len) {
        assert_eq!(error, StoreError::WouldBlock);
        store.poll(true);
    }
}

/// A last mount that ends as it is told.
fn last_mount(device: Arc<SimDevice>, mut log: Vec<u8>, tail: Tail, end: &str) -> (Arc<SimDevice>, Vec<u8>) {
    let store = open(&device, tail).unwrap();
    log.truncate(store.log(LOG).unwrap().size as usize);
    let add = |log: &mut Vec<u8>, numbers: Range<u64>| {
        for number in numbers {
            let data = if number % 3 == 0 { treacherous(&store, &device, 3) } else { record(number, 200) };
            append(&store, &data).unwrap();
            log.extend_from_slice(&data);
        }
        store.make_stable_now(store.log(LOG).unwrap().end_lsn).unwrap();
    };
    add(&mut log, 1000..1003);
    add(&mut log, 1011..1014);
    match end {
        "clean" => store.close().unwrap(),
        "idle" => {
            store.tick_idle();
            while store.poll(true) > 0 {}
        }
        _ => {}
    }
    let after = Arc::new(device.crash(9));
    after.max_delay(0);
    std::mem::forget(store);
    (after, log)
}

fn exhibits() -> Vec<Exhibit> {
    let mut exhibits = Vec::new();
    for (name, tail, crashes, end) in [
        ("clean", Tail::Rewrite, false, "clean"),
        ("clean, padded, with crashes", Tail::Pad, true, "clean"),
        ("crashed when idle", Tail::Rewrite, true, "idle"),
        ("crashed when idle, padded", Tail::Pad, true, "idle"),
        ("crashed when busy", Tail::Rewrite, true, "busy"),
        ("crashed when busy, padded", Tail::Pad, false, "busy"),
    ] {
        let (device, log) = past(tail, crashes);
        let (device, log) = last_mount(device, log, tail, end);
        exhibits.push(Exhibit::new(name, device, log));
    }
    exhibits
}

/// Whether a mounted store gives all of its log; record by record, those whose frames lie at `lsns`.
fn read_around(store: &Arc<LogStructuredStore>, exhibit: &Exhibit, lsns: Range<u64>, what: &str) -> bool {
    let size = store.log(LOG).unwrap().size;
    let mut whole = true;
    let near = exhibit.frames.iter().filter(|frame| lsns.contains(&frame.lsn));
    for frame in near.filter(|frame| frame.kind == "DATA" && frame.offset + frame.len <= size) {
        let (from, len) = (frame.offset, frame.len as usize);
        let mut got = Vec::new();
        while got.len() < len {
            match store.read_now(LOG, from + got.len() as u64, len - got.len()) {
                Ok(piece) if piece.is_empty() => panic!("{what}: an empty read at {from}"),
                Ok(piece) => got.extend(piece),
                Err(StoreError::Io(_)) => {
                    whole = false;
                    break;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        let expected = &exhibit.log[from as usize..from as usize + got.len()];
        assert!(got == expected, "{what}: a mount reads something else at {from}");
    }
    whole && size as usize == exhibit.log.len()
}

/// One bit of the log is wrong at `lsn`, in a frame.
fn judge_frame(exhibit: &Exhibit, device: &Arc<SimDevice>, hit: &FrameInfo, thorough: bool, what: &str) {
    let must_stay = hit.lsn < exhibit.stable || exhibit.clean;
    let report = check(device);
    let (bytes, gaps) = cat(device);
    let store = open_read_only(device).unwrap_or_else(|error| panic!("{what}: {error}"));
    let size = store.log(LOG).unwrap().size as usize;
    let cut = store.stats().recovery.cut_bytes;
    // A flip may hide what is near; all of the log is read after some.
    let near = hit.lsn.saturating_sub(NEAR)..hit.lsn + hit.total + NEAR;
    let whole = read_around(&store, exhibit, if thorough { 0..u64::MAX } else { near }, what);
    drop(store);
    assert!(size <= exhibit.log.len(), "{what}: the log is longer than it was");
    if must_stay {
        assert!(size == exhibit.log.len(), "{what}: damage below the stable mark was cut: {size}");
        assert!(!report.is_clean(), "{what}: not reported");
        let told = report
            .damage
            .iter()
            .any(|found| found.part == Part::Frames && found.lsn <= hit.lsn && hit.lsn < found.lsn + found.len.max(1));
        assert!(told, "{what}: reported elsewhere: {:#?}", report.damage);
    } else {
        assert!(!report.is_clean() || cut > 0, "{what}: neither reported nor cut");
    }
    same_but_for_gaps(&bytes, &gaps, &exhibit.log[..size], what);
    if !gaps.is_empty() || !whole {
        assert!(!report.is_clean() || cut > 0, "{what}: something is missing and nothing was reported");
    }
    let lost: u64 = gaps.iter().map(|gap| gap.len).sum();
    if hit.kind == "DATA" && must_stay {
        // No more than the record that was hit, and the report names it.
        assert_eq!((lost, gaps.len()), (hit.len, 1), "{what}: {gaps:?}");
        let named = report
            .damage
            .iter()
            .flat_map(|found| &found.lost)
            .any(|lost| (lost.log, lost.offset, lost.len) == (LOG, hit.offset, hit.len) && lost.name == "/log");
        assert!(named, "{what}: the record lost is not named: {:#?}", report.damage);
    } else if must_stay {
        assert_eq!(lost, 0, "{what}: {gaps:?}");
        assert!(whole, "{what}: a mount can't read all records though none was hit");
    }
    let (bytes, gaps) = salvaged(device);
    // What recovery cuts, salvage may still find.
    let size = bytes.len().max(gaps.last().map_or(0, |gap| (gap.offset + gap.len) as usize));
    same_but_for_gaps(&bytes, &gaps, &exhibit.log[..size.min(exhibit.log.len())], &format!("{what}: salvage"));
}

/// One bit outside the log's frames is wrong.
fn judge_other(exhibit: &Exhibit, device: &Arc<SimDevice>, part: Part, thorough: bool, what: &str) {
    let report = check(device);
    let told = report.damage.iter().any(|found| found.part == part && found.repairable);
    let noted =
        !exhibit.clean && part != Part::SegmentHeader && report.remarks.iter().any(|note| note.contains("not whole"));
    assert!(told || noted, "{what}: not reported: {report:#?}");
    assert!(report.damage.len() <= 1, "{what}: {:#?}", report.damage);
    if thorough {
        let store = open_read_only(device).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(read_around(&store, exhibit, 0..u64::MAX, what), "{what}: a mount does not read all");
        drop(store);
        assert!(cat(device) == (exhibit.log.clone(), Vec::new()), "{what}: cat");
        assert!(salvaged(device) == (exhibit.log.clone(), Vec::new()), "{what}: salvage");
    }
}

/// Flip each of `bits` (of the device) in turn, on all processors.
fn flip_each(exhibit: &Exhibit, bits: &[u64], judge: impl Fn(&Arc<SimDevice>, u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let judge = &judge;
            scope.spawn(move || {
                let device = fork(&exhibit.device);
                for bit in bits.iter().skip(thread).step_by(threads) {
                    device.corrupt(bit / 8, 1 << (bit % 8));
                    judge(&device, *bit);
                    device.corrupt(bit / 8, 1 << (bit % 8));
                }
            });
        }
    });
}

fn bits(bytes: Range<u64>) -> Vec<u64> {
    (bytes.start * 8..bytes.end * 8).collect()
}

#[test]
fn every_bit_of_a_frame_header_and_one_of_each_payload() {
    for (number, exhibit) in exhibits().iter().enumerate() {
        // Every bit in one that was unmounted and one that crashed, some bits in the others.
        let step = if number == 0 || number == 3 { 1 } else { 7 };
        let mut hits: Vec<(u64, &FrameInfo)> = Vec::new();
        for frame in exhibit.frames.iter().filter(|frame| frame.kind != "SEGM") {
            let header = if frame.kind == "MARK" || frame.kind == "PADD" { 16 } else { 32 };
            hits.extend(bits(frame.device_offset..frame.device_offset + header).into_iter().map(|bit| (bit, frame)));
            if matches!(frame.kind.as_str(), "DATA" | "META" | "EPOC") {
                hits.push(((frame.device_offset + 32 + frame.len / 2) * 8 + 3, frame));
            }
        }
        let kinds = |kind: &str| exhibit.frames.iter().filter(|frame| frame.kind == kind).count();
        assert!(kinds("VOID") > 4 && kinds("EPOC") > 2 && kinds("SEGM") > 1, "{}", exhibit.name);
        let flips: Vec<u64> = hits.iter().map(|(bit, _)| *bit).step_by(step).collect();
        flip_each(exhibit, &flips, |device, bit| {
            let (_, hit) = hits[hits.binary_search_by_key(&bit, |(bit, _)| *bit).unwrap()];
            let what =
                format!("{}: {} at LSN {:#x}, bit {}", exhibit.name, hit.kind, hit.lsn, bit - hit.device_offset * 8);
            judge_frame(exhibit, device, hit, bit % 23 == 0, &what);
        });
    }
}

#[test]
fn every_bit_of_superblocks_checkpoints_and_segment_headers() {
    for (number, exhibit) in exhibits().iter().enumerate() {
        // Bits of one place are alike in all stores: every one of them in the first, some in the others.
        let step = if number == 0 { 1 } else { 31 };
        let area = exhibit.superblock_word(160);
        let mut places = vec![(Part::Superblock, 0..SUPERBLOCK), (Part::Superblock, 65_536..65_536 + SUPERBLOCK)];
        for start in [131_072, 131_072 + area] {
            let payload = u32::from_le_bytes(exhibit.device.peek(start + 12, 4).try_into().unwrap());
            places.push((Part::Checkpoint, start..start + 64 + u64::from(payload)));
        }
        for frame in exhibit.frames.iter().filter(|frame| frame.kind == "SEGM") {
            places.push((Part::SegmentHeader, frame.device_offset..frame.device_offset + BLOCK));
        }
        for (part, place) in places {
            let all: Vec<u64> = bits(place.clone()).into_iter().step_by(step).collect();
            flip_each(exhibit, &all, |device, bit| {
                let what = format!("{}: {part:?} at {}, bit {}", exhibit.name, place.start, bit - place.start * 8);
                judge_other(exhibit, device, part, bit % 31 == 0, &what);
            });
        }
    }
}
