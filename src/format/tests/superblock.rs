//! Tests of the superblock.

use super::*;
use proptest::prelude::*;

pub(super) fn sample() -> Superblock {
    Superblock {
        uuid: UUID,
        label: "audit — Zürich".to_owned(),
        generation: 7,
        feature_compat: 1,
        feature_ro_compat: 2,
        feature_incompat: 0,
        block_size: 4096,
        segment_size: 4 << 20,
        segment_count: 15,
        data_start: 1 << 20,
        checkpoint_start: CHECKPOINT_START,
        checkpoint_bytes: 65_536,
        device_bytes: 64 << 20,
        epoch: 3,
        clean: true,
        worm: false,
        stable_lsn: 4 << 20,
        end_lsn: 4 << 20,
        created_ns: 1_700_000_000_000_000_000,
        mounted_ns: 1_700_000_000_000_000_001,
        max_record: MAX_RECORD,
    }
}

fn geometry_error(change: impl FnOnce(&mut Superblock)) -> bool {
    let mut superblock = sample();
    change(&mut superblock);
    matches!(Superblock::decode(&*superblock.encode()), Err(SuperblockError::Geometry(_)))
}

/// Every promise that `decode` makes to those who compute with a superblock.
fn stays_inside(s: &Superblock) -> bool {
    let last = u32::try_from(s.segment_count - 1).unwrap();
    s.checkpoint_start >= SUPERBLOCK_B + SUPERBLOCK_LEN as u64
        && s.checkpoint_start + 2 * s.checkpoint_bytes <= s.data_start
        && s.segment_offset(last).unwrap() + u64::from(s.segment_size) <= s.device_bytes
        && s.segment_offset(last + 1).is_none()
        && [s.checkpoint_start, s.checkpoint_bytes, s.data_start, s.segment_size.into()]
            .iter()
            .all(|n| n % u64::from(s.block_size) == 0)
        && u64::from(s.block_size) + frame_len(s.max_record as usize) as u64 <= u64::from(s.segment_size)
}

#[test]
fn every_field_has_its_place() {
    let bytes = sample().encode();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"LLAMAFS1");
    assert_eq!((u32_at(8), &bytes[16..32]), (1, &UUID[..]));
    assert_eq!(&bytes[32..49], "audit — Zürich".as_bytes());
    assert_eq!([96, 104, 112, 120].map(u64_at), [7, 1, 2, 0]);
    assert_eq!([128, 132].map(u32_at), [4096, 4 << 20]);
    assert_eq!([136, 144, 152, 160, 168].map(u64_at), [15, 1 << 20, 131_072, 65_536, 64 << 20]);
    assert_eq!((u64_at(176), u32_at(184), u64_at(192), u64_at(200)), (3, 1, 4 << 20, 4 << 20));
    assert_eq!((u64_at(208), u64_at(216)), (1_700_000_000_000_000_000, 1_700_000_000_000_000_001));
    assert_eq!(u32_at(224), MAX_RECORD);
    assert!(bytes[228..512].iter().all(|&b| b == 0) && bytes[1024..].iter().all(|&b| b == 0));
}

#[test]
fn the_banner_is_text_and_names_the_store() {
    let bytes = sample().encode();
    let banner = std::str::from_utf8(&bytes[512..1024]).unwrap().trim_end_matches('\0').to_owned();
    assert!(banner.contains("llamafs mount") && banner.ends_with("label audit — Zürich\n"), "{banner}");
    assert!(banner.contains(&uuid_text(&UUID)));
    // It fits with the longest label too.
    let longest = Superblock { label: "x".repeat(LABEL_MAX), ..sample() };
    assert!(longest.encode()[512..1024].ends_with(&[0]));
}

#[test]
fn every_flipped_bit_is_refused() {
    each_flip(&*sample().encode(), |bit, bytes| {
        assert!(Superblock::decode(bytes).is_err(), "bit {bit}");
    });
}

#[test]
fn a_newer_version_is_named_if_its_checksum_holds_and_is_damage_else() {
    let mut bytes = sample().encode();
    bytes[8] = 2;
    assert!(matches!(Superblock::decode(&*bytes), Err(SuperblockError::Checksum { .. })));
    bytes[600] ^= 1;
    assert!(matches!(Superblock::decode(&*bytes), Err(SuperblockError::Checksum { .. })), "torn, with garbage in it");
    forge_crc(&mut *bytes, 12);
    assert_eq!(Superblock::decode(&*bytes), Err(SuperblockError::Version(2)));
    bytes[0] = b'X';
    assert_eq!(Superblock::decode(&*bytes), Err(SuperblockError::NotMagic));
    assert_eq!(Superblock::decode(&bytes[..4095]), Err(SuperblockError::Short(4095)));
    let mut old = sample().encode();
    old[8] = 0;
    forge_crc(&mut *old, 12);
    assert_eq!(Superblock::decode(&*old), Err(SuperblockError::Version(0)));
}

#[test]
fn unknown_features_are_refused_or_told() {
    let needs = Superblock { feature_incompat: 4, ..sample() };
    assert_eq!(Superblock::decode(&*needs.encode()), Err(SuperblockError::IncompatFeature(4)));
    assert_eq!(Superblock::decode(&*sample().encode()).unwrap().unknown_ro_features(), 2);
}

#[test]
fn impossible_geometry_is_refused() {
    assert!(geometry_error(|s| s.block_size = 0));
    assert!(geometry_error(|s| s.block_size = 512));
    assert!(geometry_error(|s| s.block_size = 12_288));
    assert!(geometry_error(|s| s.block_size = 1 << 17));
    assert!(geometry_error(|s| s.segment_size = 0));
    assert!(geometry_error(|s| s.segment_size += 512));
    assert!(geometry_error(|s| s.segment_size = 4096));
    assert!(geometry_error(|s| s.segment_size = (1 << 31) + 4096));
    assert!(geometry_error(|s| s.segment_count = 0));
    assert!(geometry_error(|s| s.segment_count = 16));
    assert!(geometry_error(|s| s.segment_count = u64::MAX));
    assert!(geometry_error(|s| s.data_start = 0));
    assert!(geometry_error(|s| s.data_start += 1));
    assert!(geometry_error(|s| s.data_start = u64::MAX - 4095));
    assert!(geometry_error(|s| s.checkpoint_start = SUPERBLOCK_B));
    assert!(geometry_error(|s| s.checkpoint_start = u64::MAX - 4095));
    assert!(geometry_error(|s| s.checkpoint_bytes = 0));
    assert!(geometry_error(|s| s.checkpoint_bytes = u64::MAX));
    assert!(geometry_error(|s| s.checkpoint_bytes = 1 << 20));
    assert!(geometry_error(|s| s.device_bytes = (64 << 20) - (4 << 20)));
    assert!(geometry_error(|s| s.device_bytes = u64::MAX));
    assert!(geometry_error(|s| s.generation = u64::MAX));
    assert!(geometry_error(|s| s.epoch = MAX_COUNT + 1));
    assert!(geometry_error(|s| s.max_record = 0));
    assert!(geometry_error(|s| s.max_record = 4 << 20));
    assert!(geometry_error(|s| s.max_record = u32::MAX));
}

#[test]
fn forged_leftovers_are_refused() {
    for at in [40 + LABEL_MAX - 9, 185, 188, 228, 240, 1024, 4095] {
        let mut bytes = sample().encode();
        bytes[at] = 0x80;
        forge_crc(&mut *bytes, 12);
        assert!(matches!(Superblock::decode(&*bytes), Err(SuperblockError::Geometry(_))), "byte {at}");
    }
    // The error record belongs to later versions of the same format.
    let mut bytes = sample().encode();
    bytes[256] = 1;
    forge_crc(&mut *bytes, 12);
    assert_eq!(Superblock::decode(&*bytes), Ok(sample()));
}

#[test]
fn generations_alternate_between_the_copies() {
    assert_eq!(sample().copy_offset(), SUPERBLOCK_B);
    assert_eq!(Superblock { generation: 8, ..sample() }.copy_offset(), SUPERBLOCK_A);
}

#[test]
fn a_label_is_cut_to_its_field() {
    let long = Superblock { label: "é".repeat(40), ..sample() };
    assert_eq!(Superblock::decode(&*long.encode()).unwrap().label, "é".repeat(32));
}

proptest! {
    #[test]
    fn round_trip(
        uuid: [u8; 16],
        label in "[a-zäß ]{0,32}",
        words: [u64; 8],
        block_log in 12u32..=16,
        segment_blocks in 2u32..1000,
        segment_count in 1u64..=MAX_SEGMENTS,
        gaps in (0u64..10, 1u64..10, 0u64..10, 0u64..1_000_000),
        flags: [bool; 2],
        record in 1u32..1000,
    ) {
        let [generation, feature_compat, feature_ro_compat, epoch, stable_lsn, end_lsn, created_ns, mounted_ns] = words;
        let block = 1u64 << block_log;
        let segment_size = segment_blocks << block_log;
        let checkpoint_start = CHECKPOINT_START + gaps.0 * block;
        let checkpoint_bytes = gaps.1 * block;
        let data_start = checkpoint_start + 2 * checkpoint_bytes + gaps.2 * block;
        let superblock = Superblock {
            uuid, label, generation: generation >> 1, feature_compat, feature_ro_compat, feature_incompat: 0,
            block_size: 1 << block_log, segment_size, segment_count, data_start, checkpoint_start, checkpoint_bytes,
            device_bytes: data_start + u64::from(segment_size) * segment_count + gaps.3,
            epoch: epoch >> 1, clean: flags[0], worm: flags[1], stable_lsn, end_lsn, created_ns, mounted_ns, max_record: record,
        };
        prop_assert_eq!(Superblock::decode(&*superblock.encode()), Ok(superblock));
    }

    /// Whatever numbers an attacker writes under a right checksum: refused, or safe to compute with.
    #[test]
    fn forged_geometry_stays_inside(
        changes in prop::collection::vec((128usize..232, prop_oneof![Just(0u8), Just(0xff), any::<u8>()]), 1..6),
    ) {
        let mut bytes = sample().encode();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        forge_crc(&mut *bytes, 12);
        if let Ok(superblock) = Superblock::decode(&*bytes) {
            prop_assert!(stays_inside(&superblock), "{superblock:?}");
        }
    }
}
