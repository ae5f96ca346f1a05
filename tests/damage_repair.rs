//! `check --repair` writes again what is known and touches no frame; a crash at any moment of it is harmless.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod damaged;

use std::sync::Arc;

use damaged::*;
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Image, Part, StoreError, Tail};

const CAPACITY: u64 = 1 << 20;

/// Two mounts, four segments, a clean end; and what the log holds.
fn filled() -> (Arc<SimDevice>, Vec<u8>) {
    let device = device(CAPACITY);
    let mut log = Vec::new();
    for life in 0..2 {
        let store = open(&device, Tail::Rewrite).unwrap();
        for number in 0..30 {
            let data = record(life * 100 + number, 8000);
            let lsn = append(&store, &data).unwrap();
            store.make_stable_now(lsn).unwrap();
            log.extend_from_slice(&data);
        }
        store.close().unwrap();
    }
    (device, log)
}

/// The same, ended by a power loss after everything was synced.
fn crashed() -> (Arc<SimDevice>, Vec<u8>) {
    let (device, mut log) = filled();
    let store = open(&device, Tail::Rewrite).unwrap();
    let lsn = append(&store, b"synced").unwrap();
    store.make_stable_now(lsn).unwrap();
    log.extend_from_slice(b"synced");
    let after = Arc::new(device.crash(4));
    std::mem::forget(store);
    (after, log)
}

/// Places outside the log: both superblocks, both checkpoints, and two segment headers.
fn places(device: &Arc<SimDevice>) -> Vec<(Part, u64)> {
    let word = |at: u64| u64::from_le_bytes(device.peek(at, 8).try_into().unwrap());
    let (area, data) = (word(160), word(144));
    vec![
        (Part::Superblock, 0),
        (Part::Superblock, 65_536),
        (Part::Checkpoint, 131_072),
        (Part::Checkpoint, 131_072 + area),
        (Part::SegmentHeader, data),
        (Part::SegmentHeader, data + 2 * SEGMENT),
    ]
}

fn repair(device: &Arc<SimDevice>) -> Result<Vec<String>, StoreError> {
    let mut image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let report = image.check(&mut |_, _| {})?;
    image.repair(&report)
}

/// The device without what a repair may write.
fn frames_of(device: &Arc<SimDevice>) -> Vec<u8> {
    let data = u64::from_le_bytes(device.peek(144, 8).try_into().unwrap());
    let mut bytes = device.snapshot().split_off(data as usize);
    bytes.chunks_mut(SEGMENT as usize).for_each(|segment| segment[..4096].fill(0));
    bytes
}

fn is_whole(device: &Arc<SimDevice>, log: &[u8], what: &str) {
    let report = check(device);
    assert!(report.is_clean(), "{what}: {:#?}", report.damage);
    assert!(cat(device) == (log.to_vec(), Vec::new()), "{what}");
    let store = open(&fork(device), Tail::Pad).unwrap();
    assert!(read_all(&store, 9000) == log, "{what}: a mount reads something else");
    let lsn = append(&store, b"goes on").unwrap();
    store.make_stable_now(lsn).unwrap();
    store.close().unwrap();
}

#[test]
fn each_damaged_part_is_made_good_and_no_frame_is_touched() {
    let (pristine, log) = filled();
    let frames = frames_of(&pristine);
    for (part, place) in places(&pristine) {
        for kind in ["a bit", "all of it"] {
            let what = format!("{part:?} at {place}, {kind}");
            let device = fork(&pristine);
            if kind == "a bit" {
                device.corrupt(place + 40, 0x10);
            } else {
                device.poke(place, &[0; 4096]);
            }
            let report = check(&device);
            assert!(report.damage.iter().any(|found| found.part == part && found.repairable), "{what}: {report:#?}");
            assert!(!repair(&device).unwrap().is_empty(), "{what}");
            is_whole(&device, &log, &what);
            assert!(frames_of(&device) == frames, "{what}: a frame was touched");
            let before = device.snapshot();
            assert_eq!(repair(&device).unwrap(), Vec::<String>::new(), "{what}: again");
            assert!(device.snapshot() == before, "{what}: doing it again writes something");
        }
    }
}

#[test]
fn both_checkpoints_and_all_at_once_are_made_good() {
    let (pristine, log) = filled();
    let places = places(&pristine);
    let both_checkpoints = vec![places[2], places[3]];
    let one_of_each = vec![places[0], places[3], places[4], places[5]];
    for damaged in [both_checkpoints, one_of_each] {
        let device = fork(&pristine);
        damaged.iter().for_each(|(_, place)| device.corrupt(place + 20, 0x01));
        let what = format!("{damaged:?}");
        assert!(!check(&device).is_clean(), "{what}");
        repair(&device).unwrap();
        is_whole(&device, &log, &what);
    }
}

#[test]
fn a_crash_at_any_moment_of_a_repair_is_harmless() {
    for (pristine, log) in [filled(), crashed()] {
        let places = places(&pristine);
        for damaged in [vec![], vec![0], vec![1], vec![2], vec![3], vec![4], vec![5], vec![1, 2, 5], vec![0, 3, 4]] {
            for requests in 1.. {
                let device = fork(&pristine);
                damaged.iter().for_each(|at: &usize| device.corrupt(places[*at].1 + 40, 0x10));
                let mut image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
                let report = image.check(&mut |_, _| {}).unwrap();
                device.power_off_after(requests);
                let ended = image.repair(&report).is_ok();
                let what = format!("places {damaged:?}, power off after {requests} requests");
                let after = Arc::new(device.crash(requests));
                assert!(cat(&after) == (log.clone(), Vec::new()), "{what}");
                repair(&after).unwrap();
                is_whole(&after, &log, &what);
                if ended {
                    break;
                }
                assert!(requests < 200, "{what}: no end");
            }
        }
    }
}

#[test]
fn an_unclean_store_becomes_clean_only_if_nothing_is_cut() {
    let (device, log) = crashed();
    assert!(check(&device).is_clean() && !check(&device).clean_unmount);
    let frames = frames_of(&device);
    assert_eq!(repair(&device).unwrap().len(), 1);
    assert!(check(&device).clean_unmount && frames_of(&device) == frames);
    is_whole(&device, &log, "made clean");
    // A torn tail may be damage to the last flush: it is left for the mount to decide.
    let (device, _) = crashed();
    let last = data_frames(&device).pop().unwrap();
    device.corrupt(last.device_offset + 33, 0x10);
    let report = check(&device);
    assert!(report.is_clean() && report.cut_bytes > 0, "{report:#?}");
    let before = device.snapshot();
    assert_eq!(repair(&device).unwrap(), Vec::<String>::new());
    assert!(device.snapshot() == before, "a store whose tail would be cut was changed");
}

#[test]
fn damaged_frames_are_left_alone_and_stay_reported() {
    let (device, _) = filled();
    let hit = data_frames(&device)[20].clone();
    device.corrupt(hit.device_offset + 100, 0x10);
    let before = device.snapshot();
    assert_eq!(repair(&device).unwrap(), Vec::<String>::new());
    assert!(device.snapshot() == before);
    assert!(check(&device).damage.iter().any(|found| found.part == Part::Frames && found.lsn == hit.lsn));
}
