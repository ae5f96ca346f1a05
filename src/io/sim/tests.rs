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
fn a_crash_is_cheap() {
    // 64 MiB of capacity, 16 MiB written: the copy is pointers, not pages.
    let disk = Arc::new(SimDevice::new(64 << 20, 1));
    let io = QuikIO::new(disk.clone(), &[]).unwrap();
    for n in 0..16 {
        write(&io, n << 20, 1 << 20, 1, true);
    }
    let start = std::time::Instant::now();
    let all: Vec<SimDevice> = (0..200).map(|seed| disk.crash(seed)).collect();
    assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
    assert_eq!(all.len(), 200);
}
