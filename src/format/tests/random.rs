//! Random bytes: refused by every decoder, and never a panic.

use super::*;
use crate::format::frame::{decode, decode_epoch, peek};
use proptest::prelude::*;

/// Random bytes, often behind a magic that gets them past the first look.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let magic = prop::sample::select(vec![
        &b""[..],
        b"LLAMAFS1",
        b"LLAMAFS1\x01\0\0\0",
        b"LLAMASEG",
        b"LLAMACKP",
        b"DATA",
        b"VOID",
        b"META",
        b"EPOC",
        b"MARK",
        b"PADD",
        b"\x01\0\x03\0",
    ]);
    let rest = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(any::<u8>(), 4090..4110),
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), Just(1)], 0..600),
    ];
    (magic, rest).prop_map(|(magic, rest)| [magic, &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(bytes in noise(), lsn: u64, epoch: u64, max_payload: usize) {
        prop_assert!(Superblock::decode(&bytes).is_err());
        prop_assert!(SegmentHeader::decode(&bytes, &UUID).is_err());
        prop_assert!(Checkpoint::decode(&bytes, &UUID).is_err());
        for lsn in [lsn, lsn & !15, 4096] {
            prop_assert!(decode(&FrameSeed::new(&UUID, epoch), lsn, &bytes, max_payload).is_err());
            prop_assert!(decode_epoch(&UUID, lsn, &bytes).is_err());
        }
        // These have no checksum of their own.
        let _ = (peek(&bytes), CatalogEntry::decode(&bytes), EpochRecord::decode(&bytes), known_signature(&bytes));
        let _ = Checkpoint::encoded_len(&bytes);
    }
}
