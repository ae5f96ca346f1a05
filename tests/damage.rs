//! Damage on the device: it is told from a torn tail, reported with its place, read around, and never silently cut.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::ops::ControlFlow;
use std::sync::Arc;

use llamafs::io::{Device, SimDevice, SimFault, SimOp};
use llamafs::store::{
    FormatOptions, FrameInfo, Image, LogStructuredStore, OpenError, StoreError, StoreOptions, Tail, TrimTo,
};

const LOG: u32 = 1;
const RECORD: usize = 1000;

fn device() -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(2 << 20, 1));
    let format = FormatOptions { segment_size: Some(64 << 10), max_record: Some(8 << 10), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>) -> Result<Arc<LogStructuredStore>, OpenError> {
    let options = StoreOptions { buffer_size: 20 << 10, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options)
}

fn image(device: &Arc<SimDevice>) -> Image {
    Image::open(device.clone() as Arc<dyn Device>).unwrap()
}

fn record(number: u64) -> Vec<u8> {
    (0..RECORD).map(|at| (number * 7 + at as u64) as u8 | 1).collect()
}

/// `count` records, each synced, and a clean end.
fn filled(count: u64) -> Arc<SimDevice> {
    let device = device();
    let store = open(&device).unwrap();
    for number in 0..count {
        let appended = store.append(LOG, &record(number)).unwrap();
        store.make_stable_now(appended.end_lsn).unwrap();
    }
    store.close().unwrap();
    device
}

fn frames(device: &Arc<SimDevice>) -> Vec<FrameInfo> {
    let mut frames = Vec::new();
    let keep = &mut |frame: &FrameInfo| {
        frames.push(frame.clone());
        ControlFlow::Continue(())
    };
    image(device).for_each_frame(false, keep).unwrap();
    frames
}

fn data_frames(device: &Arc<SimDevice>) -> Vec<FrameInfo> {
    frames(device).into_iter().filter(|frame| frame.kind == "DATA").collect()
}

/// Make the newest superblock say that the store was not cleanly unmounted: both copies of the mount before are there.
fn unclean(device: &Arc<SimDevice>) {
    let newest = [0u64, 65536].into_iter().max_by_key(|offset| {
        let block = device.peek(*offset, 4096);
        u64::from_le_bytes(block[96..104].try_into().unwrap())
    });
    device.corrupt(newest.unwrap() + 96, 0xff);
}

#[test]
fn a_damaged_record_is_reported_and_read_around() {
    for (what, at) in [("payload", 32 + 500), ("length", 8), ("kind", 0), ("checksum", 5)] {
        let device = filled(100);
        let broken = data_frames(&device)[40].clone();
        device.corrupt(broken.device_offset + at, 0x10);
        let report = image(&device).check(&mut |_, _| {}).unwrap();
        assert_eq!(report.damage.len(), 1, "{what}: {report:?}");
        assert_eq!(
            (report.damage[0].lsn, report.damage[0].device_offset),
            (broken.lsn, broken.device_offset),
            "{what}"
        );
        assert_eq!(report.damage[0].len, broken.total, "{what}");
        let store = open(&device).unwrap();
        for number in 0..100u64 {
            let read = store.read_now(LOG, number * RECORD as u64, RECORD);
            if number == 40 {
                assert!(matches!(read, Err(StoreError::Io(_))), "{what}: {read:?}");
            } else {
                assert_eq!(read.unwrap(), record(number), "{what}: record {number}");
            }
        }
        store.close().unwrap();
    }
}

#[test]
fn damage_below_a_stable_mark_is_never_cut_by_recovery() {
    let device = filled(100);
    let broken = data_frames(&device)[30].clone();
    device.corrupt(broken.device_offset + 40, 0x10);
    unclean(&device);
    // Without a checkpoint to start behind the damage, recovery has to walk over it.
    for area in [131_072u64, 131_072 + checkpoint_bytes(&device)] {
        device.corrupt(area + 9, 0xff);
    }
    let store = open(&device).unwrap();
    let report = store.stats().recovery;
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!((report.damage[0].lsn, report.damage[0].len), (broken.lsn, broken.total));
    assert_eq!(store.log(LOG).unwrap().size, 100 * RECORD as u64);
    assert_eq!(store.read_now(LOG, 31 * RECORD as u64, RECORD).unwrap(), record(31));
    assert_eq!(store.read_now(LOG, 99 * RECORD as u64, RECORD).unwrap(), record(99));
    assert!(store.read_now(LOG, 30 * RECORD as u64, RECORD).is_err());
}

fn checkpoint_bytes(device: &Arc<SimDevice>) -> u64 {
    u64::from_le_bytes(device.peek(160, 8).try_into().unwrap())
}

#[test]
fn a_torn_tail_that_nobody_was_promised_is_cut_and_counted() {
    let device = device();
    let store = open(&device).unwrap();
    for number in 0..20 {
        store.append(LOG, &record(number)).unwrap();
    }
    store.make_stable_now(store.log(LOG).unwrap().end_lsn).unwrap();
    let synced = store.log(LOG).unwrap().end_lsn;
    for number in 20..25 {
        store.append(LOG, &record(number)).unwrap();
    }
    store.make_stable_now(store.log(LOG).unwrap().end_lsn).unwrap();
    let crashed = Arc::new(device.crash(1));
    std::mem::forget(store);
    // The last flush came only in part: its second record is not whole.
    let torn = data_frames(&crashed)[21].clone();
    assert!(torn.lsn >= synced);
    crashed.corrupt(torn.device_offset + 100, 0xff);
    let store = open(&crashed).unwrap();
    let report = store.stats().recovery;
    assert!(report.damage.is_empty() && report.cut_bytes > 0 && report.cut_frames > 0, "{report:?}");
    assert_eq!(store.log(LOG).unwrap().size, 21 * RECORD as u64);
    assert_eq!(store.read_now(LOG, 20 * RECORD as u64, RECORD).unwrap(), record(20));
    // What was cut never comes back, also when new records are as long as the old ones.
    store.append(LOG, &record(77)).unwrap();
    store.close().unwrap();
    let store = open(&crashed).unwrap();
    assert_eq!(store.log(LOG).unwrap().size, 22 * RECORD as u64);
    assert_eq!(store.read_now(LOG, 21 * RECORD as u64, RECORD).unwrap(), record(77));
}

#[test]
fn bytes_of_an_earlier_lap_behind_the_end_are_remarked_upon_and_no_tail_that_was_cut() {
    let device = device();
    let open = || {
        let options = StoreOptions { buffer_size: 20 << 10, tail: Tail::Pad, ..StoreOptions::default() };
        LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
    };
    let store = open();
    // Payload all over the device, in long flushes; then one synced record each, every one at the start of a block.
    for number in 0..2500 {
        let appended = store.append(LOG, &record(number)).unwrap();
        if number % 8 == 7 {
            store.trim(LOG, TrimTo::Keep(20 * RECORD as u64)).unwrap();
            store.make_stable_now(appended.end_lsn).unwrap();
        }
    }
    let (mut remarked, mut number) = (0, 2500);
    for seed in 0..8 {
        number += 1;
        let appended = store.append(LOG, &record(number)).unwrap();
        store.make_stable_now(appended.end_lsn).unwrap();
        let crashed = Arc::new(device.crash(seed));
        let recovered = image(&crashed).recovery().clone();
        assert!(!recovered.clean && recovered.damage.is_empty(), "{recovered:?}");
        assert_eq!((recovered.cut_frames, recovered.cut_bytes), (0, 0), "{recovered:?}");
        assert_eq!(recovered.notes, Vec::<String>::new());
        assert_eq!(image(&crashed).logs()[0].size, appended.offset + RECORD as u64);
        remarked += recovered.remarks.len();
        assert!(recovered.remarks.iter().all(|remark| remark.contains("an earlier lap's")), "{recovered:?}");
        // Whether the last flush is whole is not certain, so nobody but a mount makes it clean.
        let mut image = image(&crashed);
        let report = image.check(&mut |_, _| {}).unwrap();
        assert_eq!(report.remarks, recovered.remarks);
        assert_eq!(image.repair(&report).unwrap().is_empty(), !recovered.remarks.is_empty());
    }
    // The next record of the log, of which not all came, is a tail that was cut, though nothing behind it checks.
    let torn = Arc::new(device.crash(9));
    let last = data_frames(&torn).pop().unwrap();
    assert_eq!(last.lsn % 4096, 0, "a flush begins on a block");
    for at in 32..RECORD as u64 + 64 {
        torn.corrupt(last.device_offset + at, 0xff);
    }
    let recovered = image(&torn).recovery().clone();
    assert!(recovered.cut_bytes > 0 && recovered.notes.len() == 1 && recovered.remarks.is_empty(), "{recovered:?}");
    assert!(remarked > 0, "no crash had an earlier lap's bytes behind the end");
}

#[test]
fn either_superblock_either_checkpoint_or_a_segment_header_can_be_lost() {
    let pristine = filled(200).snapshot();
    let area = 131_072u64;
    let second = area + u64::from_le_bytes(pristine[160..168].try_into().unwrap());
    let data = u64::from_le_bytes(pristine[144..152].try_into().unwrap());
    for place in [0, 65_536, area, second, data, data + 65_536] {
        let device = Arc::new(SimDevice::from_bytes(&pristine, 1));
        device.corrupt(place + 40, 0xff);
        let store = open(&device).unwrap();
        assert_eq!(store.log(LOG).unwrap().size, 200 * RECORD as u64, "damage at {place}");
        for number in [0, 57, 199u64] {
            assert_eq!(
                store.read_now(LOG, number * RECORD as u64, RECORD).unwrap(),
                record(number),
                "damage at {place}"
            );
        }
        if place <= 65_536 {
            assert!(store.stats().recovery.notes.iter().any(|note| note.contains("superblock")));
        }
        store.close().unwrap();
    }
    let device = Arc::new(SimDevice::from_bytes(&pristine, 1));
    device.corrupt(40, 0xff);
    device.corrupt(65_536 + 40, 0xff);
    let before = device.snapshot();
    assert!(matches!(open(&device), Err(OpenError::BothSuperblocksDamaged { .. })));
    assert!(device.snapshot() == before, "a refused store is not changed");
}

#[test]
fn either_superblock_can_be_lost_after_a_power_loss_too() {
    let device = filled(3);
    let store = open(&device).unwrap();
    let appended = store.append(LOG, &record(3)).unwrap();
    store.make_stable_now(appended.end_lsn).unwrap();
    let crashed = device.crash(1).snapshot();
    drop(store);
    for place in [0, 65_536] {
        let device = Arc::new(SimDevice::from_bytes(&crashed, 1));
        device.corrupt(place + 40, 0xff);
        let store = open(&device).unwrap();
        assert_eq!(store.log(LOG).unwrap().size, 4 * RECORD as u64, "damage at {place}");
        assert_eq!(store.read_now(LOG, 3 * RECORD as u64, RECORD).unwrap(), record(3), "damage at {place}");
    }
}

#[test]
fn frames_of_a_cut_mount_behind_a_lost_write_are_not_read_for_live_ones() {
    const SMALL: usize = 32;
    const COUNT: usize = 100;
    let fill = |store: &Arc<LogStructuredStore>, count: usize, byte: u8| {
        let mut end = 0;
        for _ in 0..count {
            end = store.append(LOG, &[byte; SMALL]).unwrap().end_lsn;
        }
        store.make_stable_now(end).unwrap();
    };
    let device = device();
    let store = open(&device).unwrap();
    fill(&store, 1, 1);
    fill(&store, COUNT, 2);
    let crashed = Arc::new(device.crash(1));
    drop(store);
    // The first of them was torn, and nothing tells that they were acknowledged: recovery cuts all of them.
    let torn = data_frames(&crashed)[1].clone();
    crashed.poke(torn.device_offset, &[0; 16]);
    let store = open(&crashed).unwrap();
    assert_eq!(store.log(LOG).unwrap().size, SMALL as u64);
    // The write of the new ones is acknowledged and lost.
    crashed.inject(SimOp::Write, 0, 1, SimFault::Lost);
    fill(&store, COUNT, 3);
    for number in 0..=COUNT {
        let expected = [if number == 0 { 1 } else { 3 }; SMALL];
        let read = store.read_now(LOG, (number * SMALL) as u64, SMALL);
        assert!(read.is_err() || read == Ok(expected.to_vec()), "record {number}: {read:?}");
    }
}

#[test]
fn payloads_that_look_like_our_frames_are_never_taken_for_live_ones() {
    let device = filled(50);
    // Whole valid frames, as they lie on the device, as the payload of others; and our magics on every line.
    let source = frames(&device).into_iter().filter(|frame| frame.kind != "SEGM").collect::<Vec<_>>();
    let magics = b"DATAVOIDMETAEPOCMARKPADDLLAMAFS1LLAMASEG".repeat(30);
    let store = open(&device).unwrap();
    let mut expected: Vec<u8> = (0..50).flat_map(record).collect();
    for frame in source.iter().take(40) {
        let bytes = device.peek(frame.device_offset, frame.total as usize);
        for payload in [&bytes, &magics] {
            store.append(LOG, payload).unwrap();
            expected.extend(payload.iter());
        }
    }
    store.make_stable_now(store.log(LOG).unwrap().end_lsn).unwrap();
    // An idle store brings its mark up to date: from here on damage can be told from a torn tail.
    store.tick_idle();
    while store.poll(true) > 0 {}
    let crashed = Arc::new(device.crash(3));
    std::mem::forget(store);
    // Break the header of one frame that encloses another.
    let enclosing = data_frames(&crashed)[50 + 20].clone();
    let (offset, len) = (enclosing.offset as usize, enclosing.len as usize);
    crashed.corrupt(enclosing.device_offset + 8, 0x04);
    let store = open(&crashed).unwrap();
    assert_eq!(store.log(LOG).unwrap().size as usize, expected.len());
    assert!(store.read_now(LOG, offset as u64, len).is_err());
    let behind = offset + len;
    assert_eq!(store.read_now(LOG, behind as u64, 3000).unwrap(), expected[behind..behind + 3000]);
    assert_eq!(store.read_now(LOG, 0, offset.min(8000)).unwrap(), expected[..offset.min(8000)]);
}

#[test]
fn looking_writes_nothing_and_gives_the_same_twice() {
    let device = filled(30);
    unclean(&device);
    let before = device.snapshot();
    let looks: Vec<String> = (0..2)
        .map(|_| {
            let image = image(&device);
            let report = image.check(&mut |_, _| {}).unwrap();
            format!("{:?} {:?} {:?}", image.logs(), report.damage, image.stats().end_lsn)
        })
        .collect();
    assert_eq!(looks[0], looks[1]);
    let options = StoreOptions { read_only: true, buffer_size: 20 << 10, ..StoreOptions::default() };
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap();
    assert_eq!(store.append(LOG, b"x"), Err(StoreError::ReadOnly));
    store.close().unwrap();
    assert!(device.snapshot() == before);
}

#[test]
fn a_disk_that_loses_what_a_mount_writes_to_the_superblocks_is_refused() {
    for (first, fault) in [(0, SimFault::Lost), (1, SimFault::Lost), (0, SimFault::Misdirected(4096))] {
        for times in 1..=2 {
            let device = filled(10);
            device.inject(SimOp::Write, first, times, fault);
            let error = open(&device).err().expect("a mount on this disk");
            assert!(matches!(error, OpenError::NotKept { .. }), "{error}");
            assert_eq!(error.errno(), libc::EIO);
            let text = error.to_string();
            assert!(text.contains("the device loses writes") && !text.contains('\n'), "{text}");
            device.heal();
            // No frame was written, so a used number does no harm.
            let store = open(&device).unwrap();
            assert_eq!(store.log(LOG).unwrap().size, 10 * RECORD as u64);
        }
    }
}
