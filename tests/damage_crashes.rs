//! What crashes leave behind is no damage: whoever looks at a store after any number of power losses and mounts finds
//! it undamaged, and reads what a mount reads.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod damaged;

use std::sync::Arc;

use damaged::*;
use llamafs::store::Tail;

/// Mounts of one store, each ended by a power loss.
const LIVES: u64 = 6;

/// A store whose every life ends in a power loss, looked at after each.
fn crash_again_and_again(tail: Tail, seed: u64, longest: u64) {
    let mut device = device(4 << 20);
    let mut written: Vec<u8> = Vec::new();
    let mut synced = 0;
    for life in 0..LIVES {
        let what = format!("tail {tail:?} seed {seed} life {life}");
        let report = check(&device);
        assert!(report.is_clean(), "{what}: {:#?}", report.damage);
        let (bytes, gaps) = cat(&device);
        assert_eq!(gaps, Vec::new(), "{what}");
        assert!(bytes.len() >= synced, "{what}: {} of {synced} bytes", bytes.len());
        assert!(bytes == written[..bytes.len()], "{what}: wrong bytes");
        let store = open(&device, tail).unwrap();
        assert!(read_all(&store, 5000) == bytes, "{what}: a mount reads something else");
        written.truncate(bytes.len());
        for number in 0..(seed * 7 + life * 13) % 60 {
            let data = record(seed * 1000 + life * 100 + number, longest);
            let lsn = append(&store, &data).unwrap();
            written.extend_from_slice(&data);
            if (number + seed).is_multiple_of(5) {
                store.make_stable_now(lsn).unwrap();
                synced = written.len();
            }
            if (number + seed).is_multiple_of(17) {
                store.tick();
                store.poll(false);
            }
        }
        // Some lives end as they should.
        if (seed + life).is_multiple_of(4) {
            store.close().unwrap();
            synced = written.len();
        }
        let crashed = Arc::new(device.crash(seed * 10 + life));
        std::mem::forget(store);
        device = crashed;
    }
}

#[test]
fn what_power_losses_leave_is_no_damage_and_never_comes_back() {
    for tail in [Tail::Rewrite, Tail::Pad] {
        for seed in 0..150 {
            crash_again_and_again(tail, seed, [300, 3000, 8000][seed as usize % 3]);
        }
    }
}

/// A store whose log ends `rest` bytes in front of the end of its second segment, everything synced; with `tail=pad`
/// one block in front of it.
fn ends_before_the_segment(tail: Tail, rest: u64) -> (Arc<llamafs::io::SimDevice>, Vec<u8>) {
    let device = device(2 << 20);
    let store = open(&device, tail).unwrap();
    let target = 3 * SEGMENT - if tail == Tail::Pad { 4096 } else { rest };
    let mut written = Vec::new();
    loop {
        let left = target - store.stats().end_lsn;
        if left == 0 {
            break;
        }
        // A frame takes 32 bytes and its payload, the mark behind it 16; padded, this one takes a block.
        let len = if tail == Tail::Pad || left > 8000 { 3000 } else { left - 48 };
        let data = vec![b'a' + (written.len() % 23) as u8; len as usize];
        let lsn = append(&store, &data).unwrap();
        written.extend_from_slice(&data);
        store.make_stable_now(lsn).unwrap();
        if lsn + 16 == target {
            break;
        }
    }
    let crashed = Arc::new(device.crash(rest));
    std::mem::forget(store);
    (crashed, written)
}

/// The last block of the segment as a power loss tore it: a mount that appended up to the segment's end.
fn torn_at_the_end(device: &Arc<llamafs::io::SimDevice>, tail: Tail, seed: u64) -> Arc<llamafs::io::SimDevice> {
    let store = open(device, tail).unwrap();
    for number in 0.. {
        let left = 3 * SEGMENT - store.stats().end_lsn.min(3 * SEGMENT);
        let room = left.saturating_sub(32 + 2 * 16);
        if room == 0 {
            break;
        }
        append(&store, &record(number + seed, room.min(100))).unwrap();
    }
    // Under way when the power fails.
    store.make_stable(store.log(LOG).unwrap().end_lsn, Box::new(|_| {}));
    let torn = Arc::new(device.crash(seed));
    std::mem::forget(store);
    torn
}

#[test]
fn a_mount_that_begins_in_the_next_segment_is_followed() {
    let mut began_there = 0;
    for tail in [Tail::Rewrite, Tail::Pad] {
        for seed in 0..120 {
            let rest = [1024, 2048, 3000 - 3000 % 16, 4096][seed as usize % 4];
            let what = format!("{tail:?} seed {seed}");
            let (device, mut written) = ends_before_the_segment(tail, rest);
            let mut device = torn_at_the_end(&device, tail, seed);
            for life in 0..4 {
                let store = open(&device, tail).unwrap();
                let recovered = store.stats().recovery.end_lsn;
                if recovered < 3 * SEGMENT && store.stats().end_lsn > 3 * SEGMENT {
                    began_there += 1;
                }
                let bytes = read_all(&store, 5000);
                assert!(bytes.starts_with(&written), "{what}: life {life}: {} of {}", bytes.len(), written.len());
                written = bytes;
                let data = record(100 + life, 200);
                let lsn = append(&store, &data).unwrap();
                store.make_stable_now(lsn).unwrap();
                written.extend_from_slice(&data);
                let crashed = Arc::new(device.crash(seed * 10 + life));
                std::mem::forget(store);
                device = crashed;
                let report = check(&device);
                assert!(report.is_clean(), "{what}: life {life}: {:#?}", report.damage);
                assert!(cat(&device) == (written.clone(), Vec::new()), "{what}: life {life}");
            }
        }
    }
    assert!(began_there > 10, "{began_there}");
}
