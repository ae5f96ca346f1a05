//! Tests of the segment header.

use super::*;
use proptest::prelude::*;

fn sample() -> SegmentHeader {
    SegmentHeader {
        uuid: UUID,
        sequence: 5,
        first_lsn: 5 * 65_536,
        epoch: 2,
        physical: 1,
        next_physical: Some(4),
        created_ns: 99,
        stable_lsn: 4 * 65_536,
    }
}

#[test]
fn every_field_has_its_place() {
    let bytes = sample().encode(4096);
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((&bytes[..8], u32_at(12), &bytes[16..32]), (&b"LLAMASEG"[..], 1, &UUID[..]));
    assert_eq!([32, 40, 48, 64, 72].map(u64_at), [5, 327_680, 2, 99, 262_144]);
    assert_eq!([56, 60].map(u32_at), [1, 4]);
    assert!(bytes[80..512].starts_with(b"\nsegment 5 of store 30313233-"));
    assert_eq!(bytes.len(), 4096);
}

#[test]
fn every_flipped_bit_is_refused() {
    each_flip(&sample().encode(4096), |bit, bytes| {
        assert!(SegmentHeader::decode(bytes, &UUID).is_err(), "bit {bit}");
    });
}

#[test]
fn others_are_named() {
    let bytes = sample().encode(4096);
    assert_eq!(SegmentHeader::decode(&bytes, &OTHER), Err(SegmentError::Foreign(UUID)));
    assert_eq!(SegmentHeader::decode(&[0; 4096], &UUID), Err(SegmentError::NotMagic));
    assert_eq!(SegmentHeader::decode(&bytes[..511], &UUID), Err(SegmentError::Short(511)));
    let mut newer = bytes.clone();
    newer[12] = 2;
    forge_crc(&mut newer[..512], 8);
    assert_eq!(SegmentHeader::decode(&newer, &UUID), Err(SegmentError::Version(2)));
}

#[test]
fn an_impossible_first_lsn_is_refused() {
    for (sequence, first_lsn) in [(0, 0), (0, 4096), (1, 0), (5, 5 * 4096 + 1), (3, 3 * 4097), (u64::MAX, 4096)] {
        let header = SegmentHeader { sequence, first_lsn, ..sample() };
        let decoded = SegmentHeader::decode(&header.encode(4096), &UUID);
        assert!(matches!(decoded, Err(SegmentError::Senseless(_))), "{sequence} {first_lsn}");
    }
}

proptest! {
    #[test]
    fn round_trip(
        uuid: [u8; 16], sequence in 1u64..u64::MAX >> 32, blocks in 1u64..1 << 19, epoch: u64, physical: u32,
        next in prop::option::of(0..u32::MAX), created_ns: u64, stable_lsn: u64, block_log in 12u32..=16,
    ) {
        let header = SegmentHeader {
            uuid, sequence, first_lsn: sequence * blocks * 4096, epoch, physical, next_physical: next, created_ns, stable_lsn,
        };
        prop_assert_eq!(SegmentHeader::decode(&header.encode(1 << block_log), &uuid), Ok(header));
    }
}
