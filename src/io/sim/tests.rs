//! The simulated disk keeps what a disk has to keep, and loses what it may lose.

use std::sync::Arc;

use super::*;
use crate::io::{Buffer, QuikIO, SharedBuffer};

fn write(io: &QuikIO, offset: u64, len: usize, byte: u8, dsync: bool) {
    let mut buffer = Buffer::new_aligned(len, 512).unwrap();
    buffer.as_mut_slice().fill(byte);
    io.write_all_now(SharedBuffer::from(buffer), 0..len, offset, dsync).unwrap();
}

fn disk() -> (Arc<SimDevice>, Arc<QuikIO>) {
    let disk = Arc::new(SimDevice::new(1 << 20, 1));
    let io = QuikIO::new(disk.clone(), &[]).unwrap();
    (disk, io)
}

#[test]
fn a_flush_makes_stable_and_nothing_else_does() {
    let (disk, io) = disk();
    write(&io, 0, 8192, 1, false);
    let kept: Vec<usize> =
        (0..100).map(|seed| disk.crash(seed).snapshot().iter().filter(|&&b| b == 1).count()).collect();
    assert!(kept.contains(&0) && kept.contains(&8192), "from nothing to everything");
    assert!(kept.iter().any(|&n| n > 0 && n < 8192), "and in between");
    assert!(kept.iter().all(|n| n % 512 == 0), "whole sectors");
    io.flush_now().unwrap();
    assert!((0..100).all(|seed| disk.crash(seed).snapshot() == disk.snapshot()));
}

#[test]
fn a_durable_write_covers_itself_alone() {
    let (disk, io) = disk();
    write(&io, 0, 512, 1, false);
    write(&io, 512, 1024, 2, true);
    let mut lost = 0;
    for seed in 0..100 {
        let crashed = disk.crash(seed);
        assert_eq!(crashed.peek(512, 1024), [2; 1024]);
        lost += usize::from(crashed.peek(0, 512) == [0; 512]);
    }
    assert!(lost > 0, "its neighbour in the same page may be lost");
}

#[test]
fn without_a_cache_every_write_is_stable() {
    let geometry = Geometry { capacity: 1 << 20, block: 4096, memory_align: 512, write_cache: false };
    let disk = Arc::new(SimDevice::with_geometry(geometry, 1));
    let io = QuikIO::new(disk.clone(), &[]).unwrap();
    write(&io, 4096, 8192, 1, false);
    assert!((0..50).all(|seed| disk.crash(seed).snapshot() == disk.snapshot()));
}

#[test]
fn an_older_unflushed_content_may_come_back_and_a_flushed_one_stays() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = Arc::new(SimDevice::new(1 << 20, seed));
        let io = QuikIO::new(disk.clone(), &[]).unwrap();
        write(&io, 0, 512, 1, false);
        io.flush_now().unwrap();
        write(&io, 0, 512, 2, false);
        write(&io, 0, 512, 3, false);
        seen.insert(disk.crash(seed).peek(0, 1)[0]);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_write_under_way_may_be_there_in_part() {
    let (disk, io) = disk();
    let mut buffer = Buffer::new_aligned(4096, 512).unwrap();
    buffer.as_mut_slice().fill(5);
    io.write(SharedBuffer::from(buffer), 0..4096, 0, true, Box::new(|_| {}));
    let kept: Vec<usize> =
        (0..100).map(|seed| disk.crash(seed).snapshot().iter().filter(|&&b| b == 5).count()).collect();
    assert!(kept.contains(&0) && kept.contains(&4096) && kept.iter().any(|&n| n > 0 && n < 4096));
    assert_eq!(disk.snapshot(), vec![0; 1 << 20], "looking at the crash changes nothing");
}

#[test]
fn after_power_off_everything_fails_and_the_acknowledged_stays() {
    let (disk, io) = disk();
    write(&io, 0, 512, 1, true);
    disk.power_off_after(1);
    write(&io, 512, 512, 2, true);
    assert!(disk.is_off());
    assert!(io.read_now(Buffer::new_aligned(512, 512).unwrap(), 512, 0).is_err());
    assert!(io.flush_now().is_err());
    let crashed = Arc::new(disk.crash(9));
    assert_eq!((crashed.peek(0, 1), crashed.peek(512, 1)), (vec![1], vec![2]));
    let again = QuikIO::new(crashed.clone(), &[]).unwrap();
    write(&again, 0, 512, 3, true);
    assert_eq!((crashed.peek(0, 1), disk.peek(0, 1)), (vec![3], vec![1]), "a crash is a disk of its own");
}

#[test]
fn a_failed_write_leaves_whole_sectors_of_either_content() {
    let mut counts = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let disk = Arc::new(SimDevice::new(1 << 20, seed));
        disk.inject(SimOp::Write, 0, 1, SimFault::Error(libc::EIO));
        let io = QuikIO::new(disk.clone(), &[]).unwrap();
        let buffer = Buffer::new_aligned(4096, 512).map(|mut b| {
            b.as_mut_slice().fill(1);
            SharedBuffer::from(b)
        });
        io.write_all_now(buffer.unwrap(), 0..4096, 2048, false).unwrap_err();
        counts.insert(disk.snapshot().iter().filter(|&&b| b == 1).count());
    }
    assert!(counts.len() > 3 && counts.iter().all(|n| n % 512 == 0), "{counts:?}");
}

#[test]
fn bytes_in_and_out_and_flipped() {
    let bytes: Vec<u8> = (0..10_240u32).map(|i| (i * 7) as u8).collect();
    let disk = SimDevice::from_bytes(&bytes, 1);
    assert_eq!(disk.snapshot(), bytes);
    assert_eq!(disk.geometry().capacity, 10_240);
    disk.corrupt(5000, 0x81);
    assert_eq!(disk.peek(5000, 1)[0], bytes[5000] ^ 0x81);
    assert_eq!(disk.crash(1).peek(5000, 1)[0], bytes[5000] ^ 0x81);
    disk.poke(4090, &[1; 12]);
    assert_eq!(disk.peek(4089, 14)[1..13], [1; 12]);
}

#[test]
fn sectors_of_four_kib_are_whole_and_a_torn_one_may_hold_anything() {
    let (disk, io) = disk();
    write(&io, 0, 16_384, 1, false);
    disk.tears(true, SectorModel::OldOrNew);
    for seed in 0..100 {
        let crashed = disk.crash(seed).snapshot();
        assert!(crashed.chunks(4096).all(|page| page.iter().all(|&b| b == page[0]) && page[0] <= 1));
    }
    disk.tears(false, SectorModel::Garbage);
    let odd = (0..100).filter(|&seed| disk.crash(seed).peek(0, 16_384).iter().any(|&b| b > 1)).count();
    assert!(odd > 30, "{odd} of 100 crashes left garbage");
    assert!((0..100).all(|seed| disk.crash(seed).peek(16_384, 65_536) == vec![0; 65_536]), "only where was written");
}

#[test]
fn who_comes_after_a_kill_finds_the_cache_and_part_of_what_was_under_way() {
    let (disk, io) = disk();
    write(&io, 0, 512, 1, false);
    let mut buffer = Buffer::new_aligned(4096, 512).unwrap();
    buffer.as_mut_slice().fill(5);
    io.write(SharedBuffer::from(buffer), 0..4096, 8192, false, Box::new(|_| {}));
    let mut there = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let next = disk.kill(seed);
        assert_eq!(next.peek(0, 512), [1; 512], "the cache is not lost");
        there.insert(next.peek(8192, 4096).iter().filter(|&&b| b == 5).count());
        // And it is still no more than a cache.
        assert!((0..20).any(|seed| next.crash(seed).peek(0, 1) == [0]));
    }
    assert!(there.contains(&0) && there.contains(&4096) && there.len() > 2, "{there:?}");
}

#[test]
fn a_lying_disk_acknowledges_and_does_something_else() {
    let (disk, io) = disk();
    disk.inject(SimOp::Write, 0, 1, SimFault::Lost);
    write(&io, 0, 512, 1, true);
    assert_eq!(disk.peek(0, 1), [0]);
    disk.inject(SimOp::Write, 0, 1, SimFault::Misdirected(4096));
    write(&io, 512, 512, 2, true);
    assert_eq!((disk.peek(512, 1)[0], disk.peek(4608, 1)[0]), (0, 2));
    disk.inject(SimOp::Flush, 0, 1, SimFault::Lost);
    write(&io, 1024, 512, 3, false);
    io.flush_now().unwrap();
    assert!((0..50).any(|seed| disk.crash(seed).peek(1024, 1) == [0]), "it was not flushed");
    let read = |fault| {
        disk.inject(SimOp::Read, 0, 1, fault);
        io.read_now(io.buffer(512).unwrap(), 512, 1024).unwrap().as_slice()[..8].to_vec()
    };
    assert_eq!(read(SimFault::Stale), [0; 8]);
    assert_eq!(read(SimFault::BitRot { at: 3, xor: 0x10 }), [3, 3, 3, 0x13, 3, 3, 3, 3]);
    assert_eq!(io.read_now(io.buffer(512).unwrap(), 512, 1024).unwrap().as_slice()[..8], [3; 8]);
    assert_eq!(disk.ops().faults, 5);
    disk.inject(SimOp::Write, 0, 9, SimFault::Lost);
    disk.heal();
    write(&io, 0, 512, 7, true);
    assert_eq!(disk.peek(0, 1), [7]);
}

#[test]
fn every_subset_of_what_is_under_way_can_be_spared() {
    let (disk, io) = disk();
    disk.one_by_one(true);
    write(&io, 0, 1024, 1, false);
    let mut buffer = Buffer::new_aligned(512, 512).unwrap();
    buffer.as_mut_slice().fill(2);
    io.write(SharedBuffer::from(buffer), 0..512, 4096, false, Box::new(|_| {}));
    let sectors = disk.in_flight();
    assert_eq!(
        sectors.iter().map(|(place, bytes)| (*place, bytes[0])).collect::<Vec<_>>(),
        [(0, 1), (512, 1), (4096, 2)]
    );
    for mask in 0..8u8 {
        let spared = sectors.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0);
        let crashed = disk.crash_sparing(spared.map(|(_, (place, bytes))| (*place, bytes.as_slice())));
        let there = [0u64, 512, 4096].map(|place| u8::from(crashed.peek(place, 1)[0] != 0));
        assert_eq!(there, [mask & 1, mask >> 1 & 1, mask >> 2 & 1]);
    }
}

#[test]
fn without_power_nothing_is_done_any_more() {
    let (disk, io) = disk();
    write(&io, 0, 512, 1, true);
    disk.power_off();
    assert!(disk.is_off());
    assert_eq!(io.flush_now().unwrap_err().errno, libc::EIO);
    assert!(io.read_now(io.buffer(512).unwrap(), 512, 0).is_err());
    assert_eq!(disk.crash(1).peek(0, 512), [1; 512]);
}
