//! Space that comes back: segments that are let go, cleaned, and added; and that nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::Arc;

use llamafs::format::Checkpoint;
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Change, FormatOptions, Image, LogStructuredStore, NodeKind, ROOT_ID, StoreError, StoreOptions};

const SEGMENT: u64 = 64 << 10;

fn made(segments: u64) -> Arc<SimDevice> {
    formatted((1 << 20) + segments * SEGMENT)
}

fn formatted(capacity: u64) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(capacity, 1));
    let format =
        FormatOptions { segment_size: Some(SEGMENT as u32), max_record: Some(8 << 10), ..FormatOptions::default() };
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
    store.change_now(change).unwrap_or_else(|error| panic!("{error}: {:?}", store.stats())).node.id
}

fn remove(store: &LogStructuredStore, name: &str) {
    let name = name.as_bytes().to_vec();
    let gone = store.change_now(Change::Remove { parent: ROOT_ID, name, kind: NodeKind::Log }).unwrap().gone;
    store.forget(gone.unwrap());
}

/// Record `n` of a log: no two alike.
fn record(log: u32, n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + n * 7 + log as usize * 101 + at / 256) as u8).collect()
}

fn read_all(store: &LogStructuredStore, log: u32) -> Vec<u8> {
    let size = store.log(log).unwrap().size;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let piece = store.read_now(log, bytes.len() as u64, 20_000).unwrap();
        assert!(!piece.is_empty());
        bytes.extend(piece);
    }
    bytes
}

#[test]
fn what_a_removed_log_took_can_be_written_again_any_number_of_times() {
    let device = made(16);
    let mut store = open(&device);
    let room = store.usage().1;
    let mut written = 0;
    for round in 0..40 {
        let log = make(&store, "log that goes");
        for n in 0..100 {
            let data = record(log, n, 4000);
            store.append(log, &data).unwrap();
            written += data.len() as u64;
        }
        remove(&store, "log that goes");
        if round % 10 == 9 {
            store.close().unwrap();
            store = open(&device);
        }
    }
    assert!(written > 8 * room, "{written} bytes through {room}");
    store.audit().unwrap();
    store.close().unwrap();
    assert!(Image::open(device as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap().is_clean());
}

/// A log that stays, between others that go; gives its bytes.
fn churn(store: &LogStructuredStore, keep: u32, rounds: usize) -> Vec<u8> {
    let mut kept = read_all(store, keep);
    for round in 0..rounds {
        let log = make(store, "goes");
        for n in 0..60 {
            if n % 6 == 0 {
                let data = record(keep, round * 100 + n, 500);
                store.append(keep, &data).unwrap();
                kept.extend(data);
            }
            store.append(log, &record(log, n, 4000)).unwrap();
        }
        remove(store, "goes");
        store.tick();
    }
    kept
}

#[test]
fn the_cleaner_moves_what_stays_and_every_byte_of_it_is_found() {
    let device = made(16);
    let store = open(&device);
    let keep = make(&store, "keep");
    let kept = churn(&store, keep, 30);
    let stats = store.stats();
    assert!(stats.segments_cleaned > 0 && stats.moved_bytes > 0 && stats.segments_freed > 20, "{stats:?}");
    store.audit().unwrap();
    assert!(read_all(&store, keep) == kept);
    // Without a clean unmount, and with one.
    let crashed = Arc::new(device.crash(7));
    let again = open(&crashed);
    again.audit().unwrap();
    assert!(kept.starts_with(&read_all(&again, keep)));
    store.close().unwrap();
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let report = image.check(&mut |_, _| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.damage);
    let mut bytes = Vec::new();
    let gaps = image.read_log(b"keep", &mut |offset, piece| {
        assert_eq!(offset, bytes.len() as u64);
        bytes.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(gaps.unwrap(), Vec::new());
    assert!(bytes == kept);
    drop(image);
    let store = open(&device);
    store.audit().unwrap();
    assert!(read_all(&store, keep) == kept);
}

#[test]
fn a_store_that_is_full_of_what_stays_refuses_and_one_that_lost_something_goes_on() {
    let device = made(16);
    let store = open(&device);
    let (keep, goes) = (make(&store, "keep"), make(&store, "goes"));
    let mut n = 0;
    let append = |log: u32, n: usize| store.append(log, &record(log, n, 3000)).is_ok();
    while append(keep, n) && append(goes, n) && append(goes, n) && append(goes, n) {
        n += 1;
    }
    assert_eq!(store.try_append(keep, &[1; 3000], llamafs::store::AppendAt::End), Err(StoreError::NoSpace));
    assert_eq!(store.usage().1, 0);
    // Removing is possible on a full store, and gives room.
    remove(&store, "goes");
    for more in 0..n / 4 {
        store.append(keep, &record(keep, n + more, 3000)).unwrap();
    }
    store.audit().unwrap();
    assert!(store.stats().moved_bytes > 0);
}

#[test]
fn summaries_and_checkpoints_that_are_lost_are_made_up_for() {
    let device = made(16);
    let store = open(&device);
    let keep = make(&store, "keep");
    let kept = churn(&store, keep, 10);
    store.close().unwrap();
    drop(store);
    // Every summary damaged: their segments are read.
    let damaged = Arc::new(SimDevice::from_bytes(&device.snapshot(), 1));
    let bytes = device.snapshot();
    let mut summaries = 0;
    for at in (0..bytes.len()).step_by(16).filter(|at| bytes[*at..].starts_with(b"SUMM")) {
        damaged.corrupt(at as u64 + 40, 1);
        summaries += 1;
    }
    assert!(summaries > 3, "{summaries}");
    let store = open(&damaged);
    assert!(store.stats().recovery.notes.iter().any(|note| note.contains("summary")), "{:?}", store.stats().recovery);
    store.audit().unwrap();
    assert!(read_all(&store, keep) == kept);
    drop(store);
    // Both checkpoints lost: names may be, bytes are not.
    let damaged = Arc::new(SimDevice::from_bytes(&bytes, 1));
    for at in (0..1 << 20).filter(|at| bytes[*at..].starts_with(b"LLAMACKP")) {
        damaged.corrupt(at as u64 + 20, 1);
    }
    let store = open(&damaged);
    let (found, head) = (read_all(&store, keep), store.log(keep).unwrap().head as usize);
    assert!(found.len() == kept.len() && head < kept.len(), "{} from {head}", found.len());
    assert!(found[head..] == kept[head..]);
    assert_eq!(head, 0, "what was moved is found behind what was not");
}

/// Offset of the area with the newest checkpoint, if both areas hold one.
fn newer_checkpoint(device: &Arc<SimDevice>) -> Option<u64> {
    let superblock = Image::open(device.clone() as Arc<dyn Device>).unwrap().superblock().clone();
    let bytes = device.snapshot();
    let areas = [0, 1].map(|area| superblock.checkpoint_start + area * superblock.checkpoint_bytes);
    let generation = |at: u64| {
        let area = &bytes[at as usize..(at + superblock.checkpoint_bytes) as usize];
        Checkpoint::decode(area, &superblock.uuid).ok().map(|checkpoint| checkpoint.generation)
    };
    let (first, second) = (generation(areas[0])?, generation(areas[1])?);
    Some(areas[usize::from(second > first)])
}

/// What the older checkpoint leads to is not written to while it may still be needed: neither what it names, nor what was
/// opened behind it and let go since, of which the newer one knows nothing.
#[test]
fn the_older_checkpoint_leads_to_the_end_after_any_number_of_crashes() {
    let (mut fell_back, mut freed) = (0, 0);
    for tail in 0..8 {
        let mut device = made(12);
        let store = open(&device);
        let keep = make(&store, "keep");
        store.make_stable_now(store.end_lsn()).unwrap();
        drop(store);
        device = Arc::new(device.crash(tail));
        for round in 0..30 {
            let store = open(&device);
            let mut kept = read_all(&store, keep);
            let goes = make(&store, "goes");
            let data = record(keep, kept.len(), 300);
            store.append(keep, &data).unwrap();
            kept.extend(data);
            (0..(round * 11 + tail as usize * 7) % 80).for_each(|n| drop(store.append(goes, &record(goes, n, 4000))));
            remove(&store, "goes");
            // Some mounts end before the next checkpoint, and some live through several.
            (0..round % 4).for_each(|_| store.tick());
            store.make_stable_now(store.end_lsn()).unwrap();
            freed += store.stats().segments_freed;
            device = Arc::new(device.crash(round as u64));
            let damaged = Arc::new(SimDevice::from_bytes(&device.snapshot(), 1));
            let Some(newer) = newer_checkpoint(&damaged) else { continue };
            damaged.corrupt(newer + 20, 1);
            let report = Image::open(damaged.clone() as Arc<dyn Device>).unwrap().recovery().clone();
            assert_eq!(report.damage, Vec::new(), "{tail} {round}");
            let store = open(&damaged);
            store.audit().unwrap();
            assert!(read_all(&store, keep) == kept, "{tail} {round}");
            fell_back += 1;
        }
    }
    assert!(fell_back > 100 && freed > 20, "{fell_back} {freed}");
}

/// Both checkpoints are lost, and the newest segment names a free one as the next, in which a whole segment lies that was let
/// go: it is no part of the log, and what is appended then goes there, where the next recovery looks for it.
#[test]
fn what_was_let_go_is_not_taken_back_from_where_the_log_goes_on() {
    let mut freed = 0;
    for life in 0..80 {
        // Few segments, so that each was used before.
        let device = formatted(12 * SEGMENT + life as u64 % 3 * SEGMENT);
        let store = open(&device);
        let keep = make(&store, "keep");
        churn(&store, keep, 2 + life % 8);
        for n in 0..life * 5 % 16 {
            store.append(keep, &record(keep, n, 900)).unwrap();
        }
        let kept = read_all(&store, keep);
        store.make_stable_now(store.end_lsn()).unwrap();
        freed += store.stats().segments_freed;
        let crashed = Arc::new(device.crash(life as u64));
        drop(store);
        let bytes = crashed.snapshot();
        for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"LLAMACKP")) {
            crashed.corrupt(at as u64 + 20, 1);
        }
        let store = open(&crashed);
        store.audit().unwrap();
        assert!(read_all(&store, keep) == kept, "{life}: {:?}", store.log(keep).unwrap());
        // What came back by that goes again, and its segments are free while the log goes on.
        for log in store.logs().into_iter().filter(|log| log.id != keep) {
            remove(&store, std::str::from_utf8(&log.name).unwrap());
        }
        (0..4).for_each(|_| store.tick());
        freed += store.stats().segments_freed;
        let from = store.log(keep).unwrap().size;
        let data: Vec<u8> = (0..30).flat_map(|n| record(keep, n + life, 4000)).collect();
        for record in data.chunks(4000) {
            store.append(keep, record).unwrap();
        }
        store.make_stable_now(store.end_lsn()).unwrap();
        let crashed = Arc::new(crashed.crash(life as u64));
        drop(store);
        let store = open(&crashed);
        store.audit().unwrap();
        for (n, record) in data.chunks(4000).enumerate() {
            let read = store.read_now(keep, from + n as u64 * 4000, 4000);
            assert!(read.as_deref() == Ok(record), "{life}: record {n}: {:?}", read.map(|read| read.len()));
        }
    }
    assert!(freed > 500, "{freed}");
}

/// Place of segment `sequence`, which has a header.
fn place_of(bytes: &[u8], sequence: u64) -> usize {
    let is = |at: &usize| bytes[*at..].starts_with(b"LLAMASEG") && bytes[at + 32..at + 40] == sequence.to_le_bytes();
    (0..bytes.len()).step_by(512).find(is).unwrap()
}

/// A mount that was cut had begun the next segment too. The mount behind it fills the segment of the cut, and what it wrote
/// of the next one is lost: then the log ends there, and what the first one wrote does not come back.
#[test]
fn a_segment_that_a_cut_mount_began_does_not_come_back() {
    let device = made(16);
    let store = open(&device);
    let log = make(&store, "log 2");
    let mut kept = record(log, 0, 3000);
    let cut = store.append(log, &kept).unwrap().end_lsn;
    store.make_stable_now(cut).unwrap();
    for n in 1..60 {
        store.append(log, &record(log, n, 3000)).unwrap();
    }
    while device.pending() > 0 {
        store.poll(true);
    }
    let segment = SEGMENT as usize;
    let sequence = cut / SEGMENT;
    let mut first = device.snapshot();
    let here = place_of(&first, sequence);
    first[here + (cut % SEGMENT).next_multiple_of(512) as usize..here + segment].fill(0);
    let device = Arc::new(SimDevice::from_bytes(&first, 1));
    let store = open(&device);
    assert!(read_all(&store, log) == kept);
    for n in 100.. {
        let data = record(log, n, 3000);
        let lsn = store.append(log, &data).unwrap().end_lsn;
        if lsn > (sequence + 1) * SEGMENT {
            store.make_stable_now(lsn).unwrap();
            break;
        }
        kept.extend(data);
    }
    let mut second = device.snapshot();
    let (left, written) = (place_of(&first, sequence + 1), place_of(&second, sequence + 1));
    second[written..written + segment].fill(0);
    second[left..left + segment].copy_from_slice(&first[left..left + segment]);
    let device = Arc::new(SimDevice::from_bytes(&second, 1));
    let report = Image::open(device.clone() as Arc<dyn Device>).unwrap().recovery().clone();
    assert_eq!((report.damage, report.end_lsn / SEGMENT), (Vec::new(), sequence + 1));
    assert!(read_all(&open(&device), log) == kept);
}

#[test]
fn a_store_grows_with_its_device_mounted_or_not() {
    let device = made(8);
    let store = open(&device);
    let log = make(&store, "log 2");
    let mut all = Vec::new();
    let fill = |store: &LogStructuredStore, all: &mut Vec<u8>| {
        let before = all.len();
        loop {
            let data = record(log, all.len(), 5000);
            match store.append(log, &data) {
                Ok(_) => all.extend(data),
                Err(error) => {
                    assert_eq!(error, StoreError::NoSpace);
                    return all.len() - before;
                }
            }
        }
    };
    let first = fill(&store, &mut all);
    assert_eq!(store.grow().unwrap().segments, store.stats().segments, "nothing to grow into");
    device.grow(20 * SEGMENT);
    let report = store.grow().unwrap();
    assert_eq!(report.segments, report.segments_before + 20);
    assert!(store.usage().1 > 15 * SEGMENT);
    assert!(first > 0 && fill(&store, &mut all) as u64 > 15 * SEGMENT);
    // A power failure behind it takes nothing back.
    store.make_stable_now(store.end_lsn()).unwrap();
    let crashed = Arc::new(device.crash(3));
    assert!(read_all(&open(&crashed), log) == all);
    store.close().unwrap();
    drop(store);
    device.grow(10 * SEGMENT);
    let report = llamafs::store::grow(device.clone() as Arc<dyn Device>).unwrap();
    assert_eq!(report.segments, report.segments_before + 10);
    let store = open(&device);
    assert!(read_all(&store, log) == all);
    fill(&store, &mut all);
    assert!(read_all(&store, log) == all);
    store.audit().unwrap();
    store.close().unwrap();
    assert!(Image::open(device as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap().is_clean());
}

/// Trims by time look for their place while segments are cleaned, let go and written again under them: never does one
/// take a record that is younger than it says.
#[test]
fn a_trim_by_time_beside_the_cleaner_takes_nothing_younger() {
    let device = made(16);
    let store = open(&device);
    store.start();
    let keep = make(&store, "keep");
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (times, over) = (std::sync::Mutex::new(Vec::new()), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..150 {
                let goes = make(&store, "goes");
                for n in 0..60 {
                    if n % 10 == 0 {
                        // Before the record is accepted: its own time is not before this.
                        let before = now();
                        store.append(keep, &record(keep, round * 6 + n / 10, 500)).unwrap();
                        times.lock().unwrap().push(before);
                    }
                    store.append(goes, &record(goes, n, 4000)).unwrap();
                }
                remove(&store, "goes");
            }
            over.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !over.load(std::sync::atomic::Ordering::SeqCst) {
            let (place, time) = {
                let times = times.lock().unwrap();
                let place = times.len().saturating_sub(20);
                (place as u64, times.get(place).copied().unwrap_or(0))
            };
            let head = store.trim(keep, llamafs::store::TrimTo::Since(time)).unwrap().head;
            assert!(head <= place * 500, "record {place} is of {time} or later, and the log begins at {head}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let stats = store.stats();
    assert!(stats.segments_freed > 20 && stats.trimmed_bytes > 0, "{stats:?}");
    let head = store.log(keep).unwrap().head as usize;
    assert!(
        read_all(&store, keep)[head..]
            .chunks(500)
            .enumerate()
            .all(|(n, part)| part == record(keep, head / 500 + n, 500))
    );
    store.close().unwrap();
    assert!(Image::open(device as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap().is_clean());
}

#[test]
fn a_power_failure_while_a_store_grows_leaves_it_as_it_was_or_larger_and_nothing_to_repair_by_hand() {
    for mounted in [false, true] {
        let (mut as_it_was, mut larger) = (0, 0);
        for after in 1..20 {
            let device = made(8);
            let store = open(&device);
            let log = make(&store, "kept");
            store.append(log, &record(log, 1, 5000)).unwrap();
            let before = store.stats().segments;
            store.make_stable_now(store.end_lsn()).unwrap();
            if !mounted {
                store.close().unwrap();
            }
            device.grow(4 * SEGMENT);
            device.power_off_after(after);
            let whole = match mounted {
                true => store.grow().is_ok(),
                false => llamafs::store::grow(device.clone() as Arc<dyn Device>).is_ok(),
            };
            // Nobody is shown, or given, what the next mount may not find.
            assert!(!mounted || whole || store.stats().segments == before, "{after}: {:?}", store.stats());
            let crashed = Arc::new(device.crash(after));
            let mut image = Image::open(crashed.clone() as Arc<dyn Device>).unwrap();
            let report = image.check(&mut |_, _| {}).unwrap();
            assert!(report.damage.iter().all(|found| found.repairable), "{mounted} {after}: {:?}", report.damage);
            image.repair(&report).unwrap();
            drop(image);
            let again = Image::open(crashed.clone() as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap();
            assert!(again.is_clean(), "{mounted} {after}: {:?}", again.damage);
            let store = open(&crashed);
            let segments = store.stats().segments;
            assert!(segments == before + 4 || (segments == before && !whole), "{segments} segments");
            assert!(read_all(&store, log) == record(log, 1, 5000));
            as_it_was += u32::from(segments == before);
            larger += u32::from(segments > before && !whole);
        }
        assert!(as_it_was > 0 && larger > 0, "{as_it_was} {larger}");
    }
}

#[test]
fn a_store_that_was_full_when_it_was_mounted_grows_and_loses_nothing_that_it_takes_then() {
    // Bytes behind the end of the log: without room for the frame that begins a mount, and with it.
    for rest in [80, 96, 160, 1600] {
        let device = formatted(512 << 10);
        let store = open(&device);
        let log = make(&store, "log 2");
        let mut all = Vec::new();
        let left = |store: &LogStructuredStore| SEGMENT - store.end_lsn() % SEGMENT;
        while store.stats().segments_free > 0 || left(&store) > 14_000 {
            let data = record(log, all.len(), 5000);
            store.append(log, &data).unwrap();
            all.extend(data);
        }
        // What is kept back for what lets go: a Failed Flush may take it.
        while left(&store) > 7000 {
            store.give_up(5000).unwrap();
        }
        store.make_stable_now(store.end_lsn()).unwrap();
        // The header of its frame, and the mark behind it.
        let end = store.give_up((left(&store) - rest) as usize - 48).unwrap();
        store.make_stable_now(end).unwrap();
        assert_eq!(left(&store), rest);
        let crashed = Arc::new(device.crash(3));
        drop(store);
        let store = open(&crashed);
        assert_eq!(store.stats().segments_free, 0);
        crashed.grow(4 * SEGMENT);
        store.grow().unwrap();
        // One flush: none behind it tells that it was there.
        let data = record(log, all.len(), 3000);
        let end = store.append(log, &data).unwrap().end_lsn;
        store.make_stable_now(end).unwrap();
        all.extend(data);
        let again = Arc::new(crashed.crash(4));
        let report = Image::open(again.clone() as Arc<dyn Device>).unwrap().check(&mut |_, _| {}).unwrap();
        assert!(report.damage.is_empty(), "{rest}: {report:?}");
        assert!(read_all(&open(&again), log) == all, "{rest}");
    }
}

#[test]
fn either_superblock_of_a_store_that_has_grown_can_be_lost() {
    for (mounted, place) in [(true, 0), (true, 65_536), (false, 0), (false, 65_536)] {
        let device = made(8);
        let mut store = open(&device);
        let before = store.stats().segments;
        if mounted {
            device.grow(8 * SEGMENT);
            store.grow().unwrap();
        } else {
            store.close().unwrap();
            device.grow(8 * SEGMENT);
            llamafs::store::grow(device.clone() as Arc<dyn Device>).unwrap();
        }
        let damaged = Arc::new(device.crash(1));
        damaged.corrupt(place + 40, 0xff);
        let opened = open(&damaged);
        assert_eq!(opened.stats().segments, before + 8, "mounted {mounted}, damage at {place}");
        if !mounted {
            store = open(&device);
        }
        // And what lies in the new segments is there.
        let log = make(&store, "log 2");
        let mut all = Vec::new();
        while all.len() as u64 <= before * SEGMENT {
            let data = record(log, all.len(), 5000);
            store.append(log, &data).unwrap();
            all.extend(data);
        }
        store.make_stable_now(store.end_lsn()).unwrap();
        let damaged = Arc::new(device.crash(2));
        damaged.corrupt(place + 40, 0xff);
        assert!(read_all(&open(&damaged), log) == all, "mounted {mounted}, damage at {place}");
    }
}
