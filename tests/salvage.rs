//! Salvage gives all that can still be read, whatever is lost, and survives whatever it is given.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod damaged;

use std::sync::Arc;

use damaged::*;
use llamafs::io::{Device, SimDevice};
use llamafs::store::Tail;
use llamafs::store::salvage::{SalvageError, salvage};

const CAPACITY: u64 = 1 << 20;

fn filled() -> (Arc<SimDevice>, Vec<u8>) {
    let device = device(CAPACITY);
    let mut log = Vec::new();
    for life in 0..3 {
        let store = open(&device, [Tail::Rewrite, Tail::Pad][life as usize % 2]).unwrap();
        for number in 0..20 {
            let data = record(life * 100 + number, 7000);
            let lsn = append(&store, &data).unwrap();
            store.make_stable_now(lsn).unwrap();
            log.extend_from_slice(&data);
        }
        store.close().unwrap();
    }
    (device, log)
}

fn word(device: &Arc<SimDevice>, at: u64) -> u64 {
    u64::from_le_bytes(device.peek(at, 8).try_into().unwrap())
}

/// Ways to lose what tells where everything is.
fn lose(device: &Arc<SimDevice>, pristine: &Arc<SimDevice>, what: &str) {
    let (area, data) = (word(pristine, 160), word(pristine, 144));
    let wipe = |at: u64, len: u64| device.poke(at, &vec![0; len as usize]);
    match what {
        "superblocks" => [0, 65_536].into_iter().for_each(|at| wipe(at, 4096)),
        "bits of superblocks" => [0, 65_536].into_iter().for_each(|at| device.corrupt(at + 200, 0x10)),
        "checkpoints" => wipe(131_072, 2 * area),
        "headers" => (data..CAPACITY - SEGMENT + 1).step_by(SEGMENT as usize).for_each(|at| wipe(at, 4096)),
        "one header" => wipe(data + SEGMENT, 4096),
        other => panic!("{other}"),
    }
}

#[test]
fn everything_is_found_whatever_part_of_the_map_is_lost() {
    let (pristine, log) = filled();
    for lost in [
        &["superblocks"][..],
        &["checkpoints"],
        &["headers"],
        &["superblocks", "checkpoints"],
        &["superblocks", "headers"],
        &["superblocks", "checkpoints", "one header"],
        &["checkpoints", "headers"],
        &["bits of superblocks", "checkpoints", "headers"],
    ] {
        let device = fork(&pristine);
        lost.iter().for_each(|what| lose(&device, &pristine, what));
        let before = device.snapshot();
        assert!(salvaged(&device) == (log.clone(), Vec::new()), "lost: {lost:?}");
        assert_eq!(unexplained(&device), 0, "lost: {lost:?}");
        assert!(device.snapshot() == before, "lost: {lost:?}: salvage has written");
    }
}

#[test]
fn what_is_damaged_is_a_gap_and_nothing_else_is_missing() {
    let (pristine, log) = filled();
    let frames = data_frames(&pristine);
    for lost in [&[][..], &["superblocks"], &["superblocks", "checkpoints"]] {
        for number in [0, 7, 31, 59] {
            let device = fork(&pristine);
            lost.iter().for_each(|what| lose(&device, &pristine, what));
            let hit = &frames[number];
            device.corrupt(hit.device_offset + 32 + hit.len / 3, 0x20);
            let (bytes, gaps) = salvaged(&device);
            let what = format!("lost: {lost:?}, record {number}");
            same_but_for_gaps(&bytes, &gaps, &log, &what);
            assert_eq!(
                gaps.iter().map(|gap| (gap.offset, gap.len)).collect::<Vec<_>>(),
                [(hit.offset, hit.len)],
                "{what}"
            );
            assert_eq!(unexplained(&device), 0, "{what}: all of it is that record");
        }
    }
}

#[test]
fn what_was_stable_and_is_gone_is_told_though_nothing_tells_what_it_was() {
    let (pristine, log) = filled();
    let (frames, data) = (data_frames(&pristine), word(&pristine, 144));
    assert_eq!(unexplained(&pristine), 0);
    // Two records, one behind the other.
    let device = fork(&pristine);
    let hit = &frames[30];
    device.poke(hit.device_offset, &vec![0; (frames[32].device_offset - hit.device_offset) as usize]);
    let (bytes, gaps) = salvaged(&device);
    same_but_for_gaps(&bytes, &gaps, &log, "two records are zeros");
    assert!(unexplained(&device) >= hit.len + frames[31].len, "one may have been another log's");
    // Segments at the end, with all that tells what they held but a clean superblock.
    let device = fork(&pristine);
    lose(&device, &pristine, "checkpoints");
    let last = &frames[59];
    let segment = data + (last.device_offset - data) / SEGMENT * SEGMENT;
    device.poke(segment, &vec![0; SEGMENT as usize]);
    let (bytes, gaps) = salvaged(&device);
    assert!(gaps.is_empty() && bytes.len() < log.len() && bytes == log[..bytes.len()]);
    assert!(unexplained(&device) >= last.len, "the log went on");
    // And of the last segment its end alone.
    let device = fork(&pristine);
    lose(&device, &pristine, "checkpoints");
    device.poke(last.device_offset, &vec![0; (segment + SEGMENT - last.device_offset) as usize]);
    let (bytes, gaps) = salvaged(&device);
    assert!(gaps.is_empty() && bytes == log[..last.offset as usize]);
    assert!(unexplained(&device) >= last.len, "the log went on in its segment");
    // What was never on stable media is no loss: a torn tail is not told of.
    let device = fork(&pristine);
    let store = open(&device, Tail::Rewrite).unwrap();
    let _staged = append(&store, &record(9999, 3000));
    drop(store);
    assert_eq!(unexplained(&device), 0);
}

#[test]
fn sectors_that_cannot_be_read_are_read_around() {
    let (pristine, log) = filled();
    let hit = data_frames(&pristine)[30].clone();
    for extra in [0, 65_536, 131_072] {
        let device = fork(&pristine);
        device.bad_sectors(hit.device_offset..hit.device_offset + 512);
        device.bad_sectors(extra..extra + 512);
        let (bytes, gaps) = salvaged(&device);
        let what = format!("unreadable: {extra} and a record");
        same_but_for_gaps(&bytes, &gaps, &log, &what);
        assert!(gaps.iter().map(|gap| gap.len).sum::<u64>() < 4 * 8192, "{what}: {gaps:?}");
        assert!(!gaps.is_empty() && !check(&device).is_clean(), "{what}");
    }
}

#[test]
fn a_device_that_became_shorter_gives_what_is_left_of_it() {
    let (pristine, log) = filled();
    let bytes = pristine.snapshot();
    let data = word(&pristine, 144);
    for left in [data + 2 * SEGMENT, data + SEGMENT + 9 * 512, data + 4096] {
        let device = Arc::new(SimDevice::from_bytes(&bytes[..left as usize], 1));
        let (bytes, gaps) = salvaged(&device);
        same_but_for_gaps(&bytes, &gaps, &log, &format!("{left} bytes are left"));
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0].offset > 0 || left == data + 4096, "{left}: {gaps:?}");
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn any_damage_at_all_gives_right_bytes_or_gaps() {
    let (pristine, log) = filled();
    for seed in 0..150u64 {
        let mut state = seed;
        let device = fork(&pristine);
        for _ in 0..1 + next(&mut state) % 12 {
            let at = next(&mut state) % CAPACITY;
            let len = (1 << (next(&mut state) % 14)).min(CAPACITY - at);
            let kind = next(&mut state) % 4;
            let from = next(&mut state) % (CAPACITY - len);
            let bytes = match kind {
                0 => vec![0; len as usize],
                1 => (0..len).map(|_| next(&mut state) as u8).collect(),
                // Something of the store itself in the wrong place.
                2 => pristine.peek(from, len as usize),
                _ => vec![device.peek(at, 1)[0] ^ 1],
            };
            device.poke(at, &bytes);
        }
        let mut taken = Taken::default();
        match salvage(device.clone() as Arc<dyn Device>, &mut taken, &mut |_, _| {}) {
            Ok(_) => {}
            Err(SalvageError::Nothing { .. }) => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if let Some((_, bytes, gaps)) = taken.logs.remove(&LOG) {
            let size = bytes.len().max(gaps.last().map_or(0, |gap| (gap.offset + gap.len) as usize));
            assert!(size <= log.len(), "seed {seed}: {size} bytes of {}", log.len());
            same_but_for_gaps(&bytes, &gaps, &log[..size], &format!("seed {seed}"));
        }
        // The others survive it too.
        if let Ok(image) = llamafs::store::Image::open(device.clone() as Arc<dyn Device>) {
            let report = image.check(&mut |_, _| {}).unwrap();
            let (bytes, gaps) = cat(&device);
            let size = bytes.len().max(gaps.last().map_or(0, |gap| (gap.offset + gap.len) as usize));
            same_but_for_gaps(&bytes, &gaps, &log[..size.min(log.len())], &format!("seed {seed}: cat"));
            assert!(gaps.is_empty() || !report.is_clean(), "seed {seed}: gaps and no report");
        }
    }
}

#[test]
fn random_bytes_are_survived() {
    let magics: [&[u8]; 8] =
        [b"LLAMAFS1", b"LLAMACKP", b"LLAMASEG", b"DATA", b"META", b"EPOC", b"MARK\0\0\0\0", b"PADD\0\0\0\0"];
    for seed in 0..40u64 {
        let mut state = seed ^ 0x5eed;
        let mut bytes: Vec<u8> = (0..512 << 10).map(|_| next(&mut state) as u8).collect();
        for _ in 0..seed * 20 {
            let at = (next(&mut state) % (bytes.len() as u64 - 16)) as usize / 16 * 16;
            let at = if next(&mut state).is_multiple_of(2) { at / 4096 * 4096 } else { at };
            let magic = magics[(next(&mut state) % 8) as usize];
            bytes[at..at + magic.len()].copy_from_slice(magic);
        }
        let device = Arc::new(SimDevice::from_bytes(&bytes, 1));
        let mut taken = Taken::default();
        let result = salvage(device.clone() as Arc<dyn Device>, &mut taken, &mut |_, _| {});
        assert!(matches!(result, Err(SalvageError::Nothing { .. })), "seed {seed}: {result:?}");
        assert!(taken.logs.is_empty());
        assert!(llamafs::store::Image::open(device as Arc<dyn Device>).is_err());
    }
}
