//! Tests of catalog entries and checkpoints.

use super::*;
use crate::format::catalog::{ENTRY_FIXED, ENTRY_FIXED_1, FLAG_MTIME_SET, entry_len, is_valid_name};
use crate::format::checkpoint::{checkpoint_len, entry_in_checkpoint, index_len, mounts_len, ranges_len};
use crate::format::summary::RANGE_LEN;
use proptest::prelude::*;

pub(super) fn entry(id: u32, name: &[u8]) -> CatalogEntry {
    CatalogEntry {
        id,
        parent: ROOT_ID,
        kind: NodeKind::Log,
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
        first_lsn: 65_600,
        end_lsn: 70_000,
        retain_bytes: 1 << 20,
        retain_age_ns: 1 << 40,
        keep_min: 1 << 10,
        name: name.to_vec(),
    }
}

fn mount(epoch: u64, cut_lsn: u64, first_lsn: u64) -> MountEntry {
    MountEntry { epoch, cut_lsn, first_lsn }
}

fn directory(id: u32, parent: u32, name: &[u8]) -> CatalogEntry {
    CatalogEntry { parent, kind: NodeKind::Directory, size: 0, head: 0, ..entry(id, name) }
}

pub(super) fn sample() -> Checkpoint {
    let segment = |physical, state| SegmentEntry { sequence: u64::from(physical) + 1, physical, state, epoch: 1 };
    Checkpoint {
        uuid: UUID,
        generation: 3,
        epoch: 2,
        recovery_lsn: 65_536,
        stable_lsn: 66_000,
        nodes: vec![directory(ROOT_ID, 0, b""), entry(1, b"log"), directory(2, ROOT_ID, b"audit")],
        segments: vec![segment(0, SegmentState::Sealed), segment(4, SegmentState::Open)],
        index: vec![LogIndex { log_id: 1, granularity: 1 << 20, points: vec![(0, 65_600), (1 << 20, 70_000)] }],
        mounts: vec![mount(1, 65_536, 69_632), mount(2, 70_000, 70_016)],
        next_id: 3,
        summarised: vec![Summarised::At { lsn: 66_048, total: 96 }, Summarised::Here],
        ranges: vec![SavedRange { log_id: 1, len: 100, bytes: 144, offset: 1 << 20, lsn: 70_000, time_ns: 5 }],
    }
}

/// Bytes of the summaries and ranges at the sample's end.
const SUMMARIES: usize = 4 + 2 * 16 + 4 + RANGE_LEN;

/// The sample as it was before checkpoints knew of summaries.
fn older() -> Checkpoint {
    Checkpoint { summarised: Vec::new(), ranges: Vec::new(), ..sample() }
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
    assert!(with(vec![mount(1, 10, 20), mount(2, 10, 20)]).is_err(), "one place twice");
    assert!(with(vec![mount(2, 30, 20)]).is_err(), "it begins before the cut");
    assert!(with(vec![mount(1, 10, 20), mount(3, 20, 30)]).is_err(), "the checkpoint was written by mount 2");
    // A checkpoint of before there were mounts in it.
    let none = forged(|bytes| {
        let (count, next_id) = (4, 4);
        let len = bytes.len() - SUMMARIES - next_id - count - 2 * 24;
        bytes.truncate(len);
        bytes[12..16].copy_from_slice(&(len as u32 - CHECKPOINT_HEADER as u32).to_le_bytes());
    });
    assert_eq!(none, Ok(Checkpoint { mounts: Vec::new(), next_id: 0, ..older() }));
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
    assert_eq!((bytes.len(), bytes.len()), (ENTRY_FIXED + 16, entry_len(3)));
    for len in 0..bytes.len() {
        assert!(matches!(CatalogEntry::decode(&bytes[..len]), Err(CatalogError::Length { .. })), "{len}");
    }
    assert!(CatalogEntry::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert_eq!(CatalogEntry::decode(&[&[3], &bytes[1..]].concat()), Err(CatalogError::Version(3)));
    for at in [12, 13, 14, 15, 120, ENTRY_FIXED + 3] {
        let mut bytes = bytes.clone();
        bytes[at] = 9;
        assert!(matches!(CatalogEntry::decode(&bytes), Err(CatalogError::Senseless(_))), "{at}");
    }
    for bad in [
        CatalogEntry { id: 0, ..good.clone() },
        CatalogEntry { parent: 0, ..good.clone() },
        CatalogEntry { size: MAX_OFFSET + 1, ..good.clone() },
        CatalogEntry { device_bytes: MAX_OFFSET + 1, ..good.clone() },
        CatalogEntry { parent: 1, ..good.clone() },
        CatalogEntry { kind: NodeKind::Directory, ..good.clone() },
        CatalogEntry { id: ROOT_ID, name: Vec::new(), ..good.clone() },
        directory(ROOT_ID, 5, b""),
        CatalogEntry { mode: 0o100_644, ..good.clone() },
        CatalogEntry { head: 5000, ..good.clone() },
    ] {
        assert!(matches!(CatalogEntry::decode(&bad.encode()), Err(CatalogError::Senseless(_))));
    }
}

#[test]
fn the_root_alone_has_no_name() {
    let root = directory(ROOT_ID, 0, b"");
    assert_eq!(CatalogEntry::decode(&root.encode()), Ok(root));
    assert_eq!(CatalogEntry::decode(&directory(ROOT_ID, 0, b"x").encode()), Err(CatalogError::Name));
    assert_eq!(CatalogEntry::decode(&directory(5, ROOT_ID, b"").encode()), Err(CatalogError::Name));
}

#[test]
fn entries_of_version_1_are_logs_in_the_root() {
    let mut bytes = vec![0; ENTRY_FIXED_1];
    bytes[0] = 1;
    bytes[2] = 3;
    bytes[4..8].copy_from_slice(&7u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&0o640u32.to_le_bytes());
    bytes[24..32].copy_from_slice(&99u64.to_le_bytes());
    bytes.extend_from_slice(b"log");
    let read = CatalogEntry::decode(&bytes).unwrap();
    let expected =
        CatalogEntry { id: 7, parent: ROOT_ID, mode: 0o640, size: 99, name: b"log".into(), ..CatalogEntry::default() };
    assert_eq!(read, expected);
    let record = CatalogRecord { change: CatalogChange::Attributes, entry: expected };
    assert_eq!(CatalogRecord::decode_all(&bytes), Ok(vec![record]));
    bytes[4..8].copy_from_slice(&ROOT_ID.to_le_bytes());
    assert!(CatalogEntry::decode(&bytes).is_err());
}

#[test]
fn one_frame_tells_of_several_nodes() {
    let records = [
        CatalogRecord { change: CatalogChange::Gone, entry: entry(4, b"target") },
        CatalogRecord { change: CatalogChange::Named, entry: directory(3, 9, &[b'x'; 255]) },
        CatalogRecord { change: CatalogChange::Attributes, entry: directory(ROOT_ID, 0, b"") },
    ];
    let bytes: Vec<u8> = records.iter().flat_map(CatalogRecord::encode).collect();
    assert_eq!(CatalogRecord::decode_all(&bytes), Ok(records.to_vec()));
    let ends: Vec<usize> = [144, 144 + 128 + 256, bytes.len()].into();
    for len in (0..bytes.len()).filter(|len| !ends.contains(len)) {
        assert!(CatalogRecord::decode_all(&bytes[..len]).is_err(), "{len}");
    }
    assert!(CatalogEntry::decode(&records[0].encode()).is_err(), "a change is no state");
    let root = CatalogRecord { change: CatalogChange::Gone, entry: directory(ROOT_ID, 0, b"") };
    assert!(CatalogRecord::decode_all(&root.encode()).is_err(), "the root stays");
}

#[test]
fn lengths_are_known_before_anything_is_encoded() {
    let sample = sample();
    let entries = sample.nodes.iter().map(|node| entry_in_checkpoint(node.encoded_len())).sum();
    assert_eq!(
        sample.encode().len() as u64,
        checkpoint_len(entries, 2, index_len(1, 2) + mounts_len(2) + ranges_len(1))
    );
}

#[test]
fn a_checkpoint_without_a_next_id_is_one_of_before() {
    let read = forged(|bytes| {
        bytes.truncate(bytes.len() - SUMMARIES - 4);
        let len = (bytes.len() - 64) as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
    });
    assert_eq!(read, Ok(Checkpoint { next_id: 0, ..older() }));
    assert!(forged(|bytes| bytes.iter_mut().rev().skip(SUMMARIES).take(4).for_each(|byte| *byte = 0)).is_err());
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
    let segments = first_entry + 4 + entry_len(0) + 4 + entry_len(3) + 4 + entry_len(5);
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
    assert!(refused(&|c| c.nodes[2].id = 1));
    assert!(refused(&|c| c.nodes[2].name = b"log".to_vec()));
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
    let words = (any::<[u32; 4]>(), any::<[u64; 6]>(), any::<[u64; 5]>(), any::<bool>());
    (words, 0u32..=0o7777, prop::collection::vec(b'0'..=b'z', 1..=255)).prop_map(
        |(([parent, uid, gid, flags], [a, b, mtime_ns, ctime_ns, btime_ns, device_bytes], more, log), mode, name)| {
            CatalogEntry {
                id: 1,
                parent: parent.max(1000),
                kind: if log { NodeKind::Log } else { NodeKind::Directory },
                mode,
                uid,
                gid,
                flags,
                size: if log { a.max(b) >> 1 } else { 0 },
                head: if log { a.min(b) >> 1 } else { 0 },
                mtime_ns,
                ctime_ns,
                btime_ns,
                device_bytes: device_bytes >> 1,
                first_lsn: more[0],
                end_lsn: more[1],
                retain_bytes: more[2],
                retain_age_ns: more[3],
                keep_min: more[4],
                name,
            }
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
        next_id in 1u32..,
        mut nodes in prop::collection::vec(any_entry(), 0..6),
        states in prop::collection::vec((0usize..5, any::<u64>(), any::<u64>()), 0..20),
        index in prop::collection::vec(any_index(), 0..4),
        lens in prop::collection::vec(1u64..1000, 0..8),
    ) {
        use SegmentState::{Bad, Free, Open, Retired, Sealed};
        for (n, node) in nodes.iter_mut().enumerate() {
            node.id = n as u32 + 1;
            node.name[0] = b'0' + n as u8;
            node.name.truncate(254);
            node.name.push(b'0' + n as u8);
        }
        prop_assume!(nodes.iter().all(|node| is_valid_name(&node.name)));
        let summarised = (0..states.len()).map(|n| [
            Summarised::No, Summarised::Here, Summarised::At { lsn: n as u64 + 1, total: 48 }
        ][n % 3]).collect();
        let segments = states.into_iter().enumerate().map(|(n, (state, sequence, epoch))| SegmentEntry {
            sequence, physical: n as u32 * 3, state: [Free, Open, Sealed, Retired, Bad][state], epoch,
        }).collect();
        let [generation, epoch, recovery_lsn, stable_lsn] = words;
        let epoch = epoch.max(lens.len() as u64);
        let mounts = lens.iter().enumerate().map(|(n, len)| mount(n as u64, n as u64 * 1000, n as u64 * 1000 + len));
        let mounts = mounts.collect();
        let ranges = Vec::new();
        let checkpoint = Checkpoint {
            uuid, generation, epoch, recovery_lsn, stable_lsn, nodes, segments, index, mounts, next_id, summarised, ranges,
        };
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
