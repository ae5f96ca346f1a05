//! Tests of catalog entries and checkpoints.

use super::*;
use crate::format::catalog::{ENTRY_FIXED, FLAG_MTIME_SET, is_valid_name};
use proptest::prelude::*;

pub(super) fn entry(log_id: u32, name: &[u8]) -> CatalogEntry {
    CatalogEntry {
        log_id,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        flags: FLAG_MTIME_SET,
        size: 4096,
        head: 16,
        mtime_ns: 1,
        ctime_ns: 2,
        btime_ns: 3,
        device_bytes: 8192,
        name: name.to_vec(),
    }
}

fn mount(epoch: u64, cut_lsn: u64, first_lsn: u64) -> MountEntry {
    MountEntry { epoch, cut_lsn, first_lsn }
}

pub(super) fn sample() -> Checkpoint {
    let segment = |physical, state| SegmentEntry { sequence: u64::from(physical) + 1, physical, state, epoch: 1 };
    Checkpoint {
        uuid: UUID,
        generation: 3,
        epoch: 2,
        recovery_lsn: 65_536,
        stable_lsn: 66_000,
        logs: vec![entry(1, b"log"), entry(2, b"audit")],
        segments: vec![segment(0, SegmentState::Sealed), segment(4, SegmentState::Open)],
        index: vec![LogIndex { log_id: 1, granularity: 1 << 20, points: vec![(0, 65_600), (1 << 20, 70_000)] }],
        mounts: vec![mount(1, 65_536, 69_632), mount(2, 70_000, 70_016)],
    }
}

/// The sample with `change` done to its bytes, under a right checksum.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Result<Checkpoint, CheckpointError> {
    let mut bytes = sample().encode();
    change(&mut bytes);
    forge_crc(&mut bytes, 8);
    Checkpoint::decode(&bytes, &UUID)
}

#[test]
fn mounts_are_in_order_or_not_there() {
    let with = |mounts| Checkpoint::decode(&Checkpoint { mounts, ..sample() }.encode(), &UUID);
    assert!(with(Vec::new()).is_ok());
    assert!(with(vec![mount(2, 10, 20), mount(2, 30, 40)]).is_err(), "one epoch twice");
    assert!(with(vec![mount(2, 10, 20), mount(3, 10, 20)]).is_err(), "one place twice");
    assert!(with(vec![mount(2, 30, 20)]).is_err(), "it begins before the cut");
    // A checkpoint of before there were mounts in it.
    let none = forged(|bytes| {
        let len = bytes.len() - 4 - 2 * 24;
        bytes.truncate(len);
        bytes[12..16].copy_from_slice(&(len as u32 - CHECKPOINT_HEADER as u32).to_le_bytes());
    });
    assert_eq!(none, Ok(Checkpoint { mounts: Vec::new(), ..sample() }));
}

#[test]
fn names_are_those_of_files() {
    assert!(is_valid_name(b"log") && is_valid_name(&[b'x'; 255]) && is_valid_name(b"...") && is_valid_name(b"\xff\n"));
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        assert!(!is_valid_name(name));
        assert!(CatalogEntry::decode(&entry(1, name).encode()).is_err());
    }
    assert!(CatalogEntry::decode(&entry(1, &[b'x'; 70_000]).encode()).is_err());
}

#[test]
fn an_entry_is_judged_by_its_fields() {
    let good = entry(1, b"log");
    let bytes = good.encode();
    assert_eq!(CatalogEntry::decode(&bytes), Ok(good.clone()));
    assert_eq!(bytes.len(), ENTRY_FIXED + 3);
    for len in 0..bytes.len() {
        assert!(matches!(CatalogEntry::decode(&bytes[..len]), Err(CatalogError::Length { .. })), "{len}");
    }
    assert!(CatalogEntry::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert_eq!(CatalogEntry::decode(&[&[2], &bytes[1..]].concat()), Err(CatalogError::Version(2)));
    for bad in [
        CatalogEntry { log_id: 0, ..good.clone() },
        CatalogEntry { mode: 0o100_644, ..good.clone() },
        CatalogEntry { head: 5000, ..good.clone() },
    ] {
        assert!(matches!(CatalogEntry::decode(&bad.encode()), Err(CatalogError::Senseless(_))));
    }
}

#[test]
fn what_lies_behind_a_checkpoint_does_not_matter() {
    let bytes = sample().encode();
    assert_eq!(Checkpoint::encoded_len(&bytes[..64]), Ok(bytes.len() as u64));
    assert_eq!(Checkpoint::decode(&[&bytes[..], &[0xaa; 5000]].concat(), &UUID), Ok(sample()));
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let bytes = sample().encode();
    each_flip(&bytes, |bit, bytes| assert!(Checkpoint::decode(bytes, &UUID).is_err(), "bit {bit}"));
    for len in 0..bytes.len() {
        assert!(matches!(Checkpoint::decode(&bytes[..len], &UUID), Err(CheckpointError::Short { .. })), "{len}");
    }
}

#[test]
fn others_are_named() {
    assert_eq!(Checkpoint::decode(&sample().encode(), &OTHER), Err(CheckpointError::Foreign(UUID)));
    assert_eq!(Checkpoint::decode(&[0; 4096], &UUID), Err(CheckpointError::NotMagic));
}

#[test]
fn hostile_counts_allocate_nothing() {
    let logs = 64;
    let first_entry = logs + 4;
    let segments = first_entry + 4 + ENTRY_FIXED + 3 + 4 + ENTRY_FIXED + 5;
    let index = segments + 4 + 2 * 24;
    let points = index + 4 + 4 + 8;
    for at in [logs, first_entry, segments, index, points] {
        for count in [0, u32::MAX, 0x7fff_ffff, 0x1000_0000] {
            let result = forged(|bytes| bytes[at..at + 4].copy_from_slice(&count.to_le_bytes()));
            assert!(result.is_err(), "count {count} at {at}");
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let refused = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = sample();
        change(&mut checkpoint);
        matches!(Checkpoint::decode(&checkpoint.encode(), &UUID), Err(CheckpointError::Senseless(_)))
    };
    assert!(refused(&|c| c.logs[1].log_id = 1));
    assert!(refused(&|c| c.logs[1].name = b"log".to_vec()));
    assert!(refused(&|c| c.segments[1].physical = 0));
    assert!(refused(&|c| c.index[0].points.reverse()));
    assert!(forged(|bytes| bytes.truncate(bytes.len() - 1)).is_err());
    assert!(
        forged(|bytes| {
            bytes.push(0);
            let len = (bytes.len() - 64) as u32;
            bytes[12..16].copy_from_slice(&len.to_le_bytes());
        }) == Err(CheckpointError::Overrun("its end"))
    );
}

fn any_entry() -> impl Strategy<Value = CatalogEntry> {
    (any::<[u32; 4]>(), 0u32..=0o7777, any::<[u64; 6]>(), prop::collection::vec(b'0'..=b'z', 1..=255)).prop_map(
        |([log_id, uid, gid, flags], mode, [a, b, mtime_ns, ctime_ns, btime_ns, device_bytes], name)| CatalogEntry {
            log_id: log_id.max(1),
            mode,
            uid,
            gid,
            flags,
            size: a.max(b),
            head: a.min(b),
            mtime_ns,
            ctime_ns,
            btime_ns,
            device_bytes,
            name,
        },
    )
}

fn any_index() -> impl Strategy<Value = LogIndex> {
    (any::<u32>(), any::<u64>(), prop::collection::vec((any::<u64>(), any::<u64>()), 0..20)).prop_map(
        |(log_id, granularity, points)| {
            let (mut offsets, mut lsns): (Vec<_>, Vec<_>) = points.into_iter().unzip();
            offsets.sort_unstable();
            lsns.sort_unstable();
            LogIndex { log_id, granularity, points: offsets.into_iter().zip(lsns).collect() }
        },
    )
}

proptest! {
    #[test]
    fn round_trip(
        uuid: [u8; 16],
        words: [u64; 4],
        mut logs in prop::collection::vec(any_entry(), 0..6),
        states in prop::collection::vec((0usize..5, any::<u64>(), any::<u64>()), 0..20),
        index in prop::collection::vec(any_index(), 0..4),
        lens in prop::collection::vec(1u64..1000, 0..8),
    ) {
        use SegmentState::{Bad, Free, Open, Retired, Sealed};
        for (n, log) in logs.iter_mut().enumerate() {
            log.log_id = n as u32 + 1;
            log.name[0] = b'0' + n as u8;
            log.name.truncate(254);
            log.name.push(b'0' + n as u8);
        }
        prop_assume!(logs.iter().all(|log| is_valid_name(&log.name)));
        let segments = states.into_iter().enumerate().map(|(n, (state, sequence, epoch))| SegmentEntry {
            sequence, physical: n as u32 * 3, state: [Free, Open, Sealed, Retired, Bad][state], epoch,
        }).collect();
        let [generation, epoch, recovery_lsn, stable_lsn] = words;
        let mounts = lens.iter().enumerate().map(|(n, len)| mount(n as u64, n as u64 * 1000, n as u64 * 1000 + len));
        let mounts = mounts.collect();
        let checkpoint = Checkpoint { uuid, generation, epoch, recovery_lsn, stable_lsn, logs, segments, index, mounts };
        prop_assert_eq!(Checkpoint::decode(&checkpoint.encode(), &uuid), Ok(checkpoint));
    }

    /// Changed bytes under a right checksum: refused or read, no panic.
    #[test]
    fn forged_bytes_do_not_panic(changes in prop::collection::vec((16usize..400, any::<u8>()), 1..8)) {
        let _ = forged(|bytes| {
            for (at, byte) in changes {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
        });
    }
}
