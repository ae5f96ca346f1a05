//! Damage to a record and to the first frame of a mount behind it: what lies between the two is not lost with them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod damaged;

use std::ops::Range;
use std::sync::Arc;

use damaged::*;
use llamafs::io::SimDevice;
use llamafs::store::{Change, FrameInfo, LogStructuredStore, NodeKind, ROOT_ID, Tail};

/// Mounts of the store.
const LIVES: u64 = 4;
/// Records of each: a few to a block.
const RECORDS: u64 = 8;
const LONGEST: u64 = 500;

/// A store in one segment, of mounts that ended in a power loss, but for the last if that was `closed`; and its bytes.
fn lived(tail: Tail, seed: u64, closed: bool) -> (Arc<SimDevice>, Vec<u8>) {
    let mut device = device(2 << 20);
    for life in 0..LIVES {
        let store = open(&device, tail).unwrap();
        for number in 0..RECORDS {
            let lsn = append(&store, &record(seed * 1000 + life * 100 + number, LONGEST)).unwrap();
            if number % 3 == 0 {
                store.make_stable_now(lsn).unwrap();
            }
        }
        if closed && life + 1 == LIVES {
            store.close().unwrap();
        } else {
            store.make_stable(store.log(LOG).unwrap().end_lsn, Box::new(|_| {}));
            let crashed = Arc::new(device.crash(seed * 10 + life));
            std::mem::forget(store);
            device = crashed;
        }
    }
    let (bytes, gaps) = cat(&device);
    assert_eq!(gaps, Vec::new());
    (device, bytes)
}

/// More than one bit of its header: nothing tells what it was.
fn spoil(device: &SimDevice, frame: &FrameInfo) {
    device.corrupt(frame.device_offset + 5, 0x55);
    device.corrupt(frame.device_offset + 9, 0x55);
}

fn place(frame: &FrameInfo) -> Range<u64> {
    frame.offset..frame.offset + frame.len
}

#[test]
fn a_damaged_record_and_a_damaged_first_frame_of_a_mount_cost_that_record_alone() {
    let mut pairs = 0;
    for (tail, seed) in [Tail::Rewrite, Tail::Pad].into_iter().flat_map(|tail| (0..6).map(move |seed| (tail, seed))) {
        let (whole, written) = lived(tail, seed, true);
        let all = frames(&whole);
        for mount in all.iter().filter(|frame| frame.kind == "EPOC") {
            for hit in all.iter().filter(|frame| frame.kind == "DATA" && frame.lsn < mount.lsn) {
                pairs += 1;
                let what = format!("{tail:?} seed {seed}: record at {:#x}, mount at {:#x}", hit.lsn, mount.lsn);
                let device = fork(&whole);
                spoil(&device, hit);
                spoil(&device, mount);
                let lost = place(hit);
                for (how, (bytes, gaps)) in [("cat", cat(&device)), ("salvage", salvaged(&device))] {
                    same_but_for_gaps(&bytes, &gaps, &written, &format!("{what}: {how}"));
                    let missing: Vec<_> = gaps.iter().map(|gap| gap.offset..gap.offset + gap.len).collect();
                    assert_eq!(missing, std::slice::from_ref(&lost), "{what}: {how}");
                }
                let report = check(&device);
                let found: Vec<u64> = report.damage.iter().map(|finding| finding.lsn).collect();
                assert_eq!(found, [hit.lsn, mount.lsn], "{what}: {:#?}", report.damage);
            }
        }
    }
    assert!(pairs > 300, "{pairs}");
}

#[test]
fn a_mount_whose_first_frame_is_lost_is_known_to_the_readers_of_the_next() {
    for (tail, seed) in [Tail::Rewrite, Tail::Pad].into_iter().flat_map(|tail| (0..6).map(move |seed| (tail, seed))) {
        let (whole, written) = lived(tail, seed, false);
        let all = frames(&whole);
        let mount = all.iter().rfind(|frame| frame.kind == "EPOC").unwrap();
        let behind = all.iter().filter(|frame| frame.kind == "DATA" && frame.lsn > mount.lsn);
        assert!(behind.count() > 0, "{tail:?} seed {seed}: nothing lies behind it");
        spoil(&whole, mount);
        let store = open(&whole, tail).unwrap();
        assert_eq!(store.log(LOG).unwrap().size, written.len() as u64, "{tail:?} seed {seed}");
        let mut offset = 0;
        while offset < written.len() {
            let read = store.read_now(LOG, offset as u64, 700);
            let read = read.unwrap_or_else(|error| panic!("{tail:?} seed {seed}, at {offset}: {error}"));
            assert!(!read.is_empty() && written[offset..].starts_with(&read), "{tail:?} seed {seed}: at {offset}");
            offset += read.len();
        }
    }
}

fn synced(store: &LogStructuredStore, log: u32, len: usize, byte: u8) -> Vec<u8> {
    let data = vec![byte; len];
    let lsn = store.append(log, &data).unwrap().end_lsn;
    store.make_stable_now(lsn).unwrap();
    data
}

/// A disk answers the write of the block that a mount began in, and loses it: what the mount before, which was cut there,
/// left in it checks, lies behind records of the same log, and tells of the offsets that come next.
#[test]
fn what_a_cut_mount_left_where_the_next_one_began_is_not_read_when_that_block_is_lost() {
    for tail in [Tail::Rewrite, Tail::Pad] {
        let first = device(2 << 20);
        let store = open(&first, tail).unwrap();
        let name = b"other".to_vec();
        let create = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
        let other = store.change_now(create).unwrap().node.id;
        let mut written = synced(&store, LOG, 300, b'a');
        // Some of one flush that nobody was told of, over three blocks: its first record is torn.
        store.append(other, &[b'b'; 100]).unwrap();
        for _ in 0..80 {
            store.append(LOG, &[b'c'; 100]).unwrap();
        }
        store.make_stable_now(store.end_lsn()).unwrap();
        let cut = Arc::new(first.crash(1));
        std::mem::forget(store);
        let torn = frames(&cut).into_iter().rfind(|frame| frame.kind == "DATA" && frame.log == other).unwrap();
        cut.poke(torn.device_offset, &[0; 16]);
        // The next mount begins there. In its first block are records of the other log alone.
        let store = open(&cut, tail).unwrap();
        assert_eq!(store.log(LOG).unwrap().size, written.len() as u64, "{tail:?}");
        synced(&store, other, 6000, b'd');
        for byte in [b'e', b'f', b'g'] {
            written.extend(synced(&store, LOG, 500, byte));
        }
        let lost = Arc::new(cut.crash(2));
        std::mem::forget(store);
        let mount = frames(&lost).into_iter().rfind(|frame| frame.kind == "EPOC").unwrap();
        let block = mount.device_offset / 4096 * 4096;
        lost.poke(block, &cut_before(&first, &torn, block));
        let (bytes, gaps) = cat(&lost);
        assert_eq!(gaps, Vec::new(), "{tail:?}");
        assert!(bytes == written, "{tail:?}: cat gives what was never in the log");
        // Those who mount it, once and once more.
        for life in 0..2 {
            let store = open(&lost, tail).unwrap();
            assert!(read_all(&store, 700) == written, "{tail:?}, life {life}: what is read was never in the log");
            written.extend(synced(&store, LOG, 100, b'h'));
            assert!(read_all(&store, 700) == written, "{tail:?}, life {life}");
        }
    }
}

/// A block as the cut mount left it, with its torn record.
fn cut_before(device: &SimDevice, torn: &FrameInfo, block: u64) -> Vec<u8> {
    let mut bytes = device.peek(block, 4096);
    if let Some(at) = torn.device_offset.checked_sub(block).filter(|at| *at < 4096) {
        bytes[at as usize..at as usize + 16].fill(0);
    }
    bytes
}
