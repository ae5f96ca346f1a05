//! Tests of the frames.

use super::*;
use crate::format::frame::*;
use proptest::prelude::*;

const LSN: Lsn = 65_536 + 4096;
const EPOCH: u64 = 0x1_02;
const MAX: usize = MAX_PAYLOAD;

fn seed() -> FrameSeed {
    FrameSeed::new(&UUID, EPOCH)
}

fn head() -> FrameHead {
    FrameHead { kind: Kind::Data, log_id: 7, offset: 1 << 40, time_ns: 99 }
}

fn frame_of(seed: &FrameSeed, lsn: Lsn, head: &FrameHead, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xee; frame_len(payload.len())];
    write_frame(&mut bytes, seed, lsn, head, payload).unwrap();
    bytes
}

fn epoch_record() -> EpochRecord {
    EpochRecord { epoch: EPOCH, previous_epoch: EPOCH - 1, cut_lsn: LSN, stable_lsn: LSN - 16 }
}

/// One frame of every kind, whole.
fn every_kind() -> Vec<(&'static str, Vec<u8>)> {
    let entry = super::checkpoint::entry(1, b"log").encode();
    vec![
        ("DATA", frame_of(&seed(), LSN, &head(), b"one record of 27 bytes here")),
        ("DATA empty", frame_of(&seed(), LSN, &head(), b"")),
        ("META", frame_of(&seed(), LSN, &FrameHead { kind: Kind::Meta, ..head() }, &entry)),
        ("EPOC", frame_of(&seed(), LSN, &FrameHead { kind: Kind::Epoch, ..head() }, &epoch_record().encode())),
        // Only the headers of these two mean anything.
        ("VOID", encode_void(&seed(), LSN, 100).to_vec()),
        ("PADD", encode_pad(&seed(), LSN, 4096).to_vec()),
        ("MARK", encode_mark(&seed(), LSN, LSN).to_vec()),
    ]
}

#[test]
fn every_field_has_its_place() {
    let bytes = frame_of(&seed(), LSN, &head(), b"abc");
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"DATA"[..], &[3, 0, 0, 0x02][..]));
    assert_eq!((&bytes[12..16], &bytes[16..24]), (&7u32.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()[..]));
    assert_eq!((&bytes[24..32], &bytes[32..48]), (&99u64.to_le_bytes()[..], &b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    // The checksum, computed by the letter of docs/format.md.
    let mut all = [&UUID[..], &EPOCH.to_le_bytes(), &LSN.to_le_bytes(), &bytes[..35]].concat();
    all[16 + 8 + 8 + 4..][..4].fill(0);
    assert_eq!(bytes[4..8], crc32c::crc32c(&all).to_le_bytes());
    let mark = encode_mark(&seed(), LSN, 0x1122);
    assert_eq!((&mark[..4], &mark[8..]), (&b"MARK"[..], &0x1122u64.to_le_bytes()[..]));
    assert_eq!(&encode_pad(&seed(), LSN, 16)[..4], b"PADD");
}

#[test]
fn every_kind_is_read_back() {
    for (name, bytes) in every_kind() {
        let frame = decode(&seed(), LSN, &bytes, MAX).unwrap();
        assert_eq!(frame.kind.name(), &name[..4]);
        let peek = peek(&bytes).unwrap();
        assert_eq!((peek.kind, peek.total), (frame.kind, frame.total));
        assert_eq!(peek.epoch8, (!["PADD", "MARK"].contains(&name)).then_some(0x02));
    }
    let (_, void) = &every_kind()[4];
    let frame = decode(&seed(), LSN, void, 10).unwrap();
    assert_eq!((frame.value, frame.total, frame.payload), (100, 144, &[][..]));
    let (_, pad) = &every_kind()[5];
    assert_eq!(decode(&seed(), LSN, pad, MAX).unwrap().total, 4096);
}

#[test]
fn every_flipped_bit_is_refused() {
    for (name, bytes) in every_kind() {
        each_flip(&bytes, |bit, bytes| {
            assert!(decode(&seed(), LSN, bytes, MAX).is_err(), "{name}, bit {bit}");
            assert!(decode_epoch(&UUID, LSN, bytes).is_err(), "{name}, bit {bit}");
        });
    }
}

#[test]
fn every_cut_asks_for_more() {
    for (name, bytes) in every_kind() {
        for len in 0..bytes.len() {
            let error = decode(&seed(), LSN, &bytes[..len], MAX).unwrap_err();
            let FrameError::NeedMore(more) = error else { panic!("{name} cut to {len}: {error}") };
            assert!(more > len && more <= bytes.len(), "{name} cut to {len} wants {more}");
        }
    }
}

#[test]
fn a_frame_is_good_in_its_own_place_time_and_store_only() {
    for (name, bytes) in every_kind() {
        for lsn in [LSN - 16, LSN + 16, LSN + 4096, LSN + 65_536, LSN + (1 << 40)] {
            assert!(decode(&seed(), lsn, &bytes, MAX).is_err(), "{name} at {lsn}");
            assert!(decode_epoch(&UUID, lsn, &bytes).is_err(), "{name} at {lsn}");
        }
        for epoch in [0, 1, 2, EPOCH - 1, EPOCH + 1, EPOCH + 256, EPOCH << 32] {
            assert!(decode(&FrameSeed::new(&UUID, epoch), LSN, &bytes, MAX).is_err(), "{name} in epoch {epoch}");
        }
        assert!(decode(&FrameSeed::new(&OTHER, EPOCH), LSN, &bytes, MAX).is_err(), "{name} in another store");
        assert!(decode_epoch(&OTHER, LSN, &bytes).is_err(), "{name} in another store");
    }
    let data = frame_of(&seed(), LSN, &head(), b"x");
    assert_eq!(decode(&FrameSeed::new(&UUID, 3), LSN, &data, MAX), Err(FrameError::Epoch(2)));
}

#[test]
fn errors_say_what_is_there() {
    let is = |lsn, bytes: &[u8]| decode(&seed(), lsn, bytes, 64).unwrap_err();
    assert_eq!(is(LSN, &[0; 4]), FrameError::End);
    assert_eq!(is(LSN, b"GARBAGE."), FrameError::UnknownKind(*b"GARB"));
    assert_eq!(is(0, &[0; 64]), FrameError::Alignment(0));
    assert_eq!(is(LSN + 8, &[0; 64]), FrameError::Alignment(LSN + 8));
    // Refused before the bytes are even asked for.
    assert_eq!(is(LSN, &frame_of(&seed(), LSN, &head(), &[1; 65])[..32]), FrameError::Length(65));
    let mut padded = frame_of(&seed(), LSN, &head(), b"abc");
    padded[47] = 1;
    assert_eq!(is(LSN, &padded), FrameError::Padding);
    for total in [0, 8, 24, (1 << 31) + 16, u64::MAX] {
        assert_eq!(is(LSN, &encode_pad(&seed(), LSN, total)), FrameError::Length(total));
        assert_eq!(peek(&encode_pad(&seed(), LSN, total)), None);
    }
}

#[test]
fn a_record_behind_what_a_file_can_have_is_none() {
    for kind in [Kind::Data, Kind::Moved] {
        let last = FrameHead { kind, offset: MAX_OFFSET - 3, ..head() };
        assert_eq!(decode(&seed(), LSN, &frame_of(&seed(), LSN, &last, b"abc"), MAX).unwrap().offset, MAX_OFFSET - 3);
        for offset in [MAX_OFFSET - 2, MAX_OFFSET, u64::MAX - 2, u64::MAX] {
            let mut bytes = frame_of(&seed(), LSN, &FrameHead { offset, ..last }, b"abc");
            assert_eq!(decode(&seed(), LSN, &bytes, MAX), Err(FrameError::Offset(offset)));
            // Nor is it what a broken frame was.
            bytes[30] ^= 1;
            assert_eq!(mend(&seed(), LSN, &bytes, MAX), None);
        }
    }
    // Of other kinds the field means something else.
    let meta = FrameHead { kind: Kind::Meta, offset: u64::MAX, ..head() };
    assert!(decode(&seed(), LSN, &frame_of(&seed(), LSN, &meta, b"abc"), MAX).is_ok());
}

#[test]
fn an_epoch_frame_opens_its_own_epoch() {
    let epoc = FrameHead { kind: Kind::Epoch, log_id: 0, offset: 0, time_ns: 5 };
    let bytes = frame_of(&seed(), LSN, &epoc, &epoch_record().encode());
    let (frame, record) = decode_epoch(&UUID, LSN, &bytes).unwrap();
    assert_eq!((frame.kind, frame.total, record), (FrameKind::Epoch, 64, epoch_record()));
    // Written with another epoch's seed, or with a record that goes back in time or is no record.
    let foreign = frame_of(&FrameSeed::new(&UUID, EPOCH + 256), LSN, &epoc, &epoch_record().encode());
    assert!(matches!(decode_epoch(&UUID, LSN, &foreign), Err(FrameError::Checksum { .. })));
    let back = EpochRecord { previous_epoch: EPOCH, ..epoch_record() };
    assert_eq!(decode_epoch(&UUID, LSN, &frame_of(&seed(), LSN, &epoc, &back.encode())), Err(FrameError::EpochRecord));
    for len in [0, 31, 33] {
        assert!(decode_epoch(&UUID, LSN, &frame_of(&seed(), LSN, &epoc, &vec![0; len])).is_err());
    }
    assert_eq!(decode_epoch(&UUID, LSN, &[0; 64]), Err(FrameError::End));
    assert!(decode_epoch(&UUID, LSN, &frame_of(&seed(), LSN, &head(), b"abc")).is_err());
}

#[test]
fn epochs_are_inferred_from_their_low_byte() {
    let all = |current, max, low| infer_epoch(current, max, low).collect::<Vec<_>>();
    assert_eq!(all(5, 5, 5), [5]);
    assert_eq!(all(5, 600, 5), [5, 261, 517]);
    assert_eq!(all(5, 600, 4), [260, 516]);
    assert!(all(5, 100, 4).is_empty());
    assert_eq!(all(u64::MAX, u64::MAX, 0xff), [u64::MAX]);
    assert!(all(u64::MAX, u64::MAX, 0).is_empty());
}

#[test]
fn a_reservation_given_up_becomes_a_void_or_padding() {
    for total in [16, 32, 48, 4096, MAX_PAYLOAD + 33 + 16] {
        let mut bytes = vec![0xee; total];
        write_void(&mut bytes, &seed(), LSN).unwrap();
        let frame = decode(&seed(), LSN, &bytes, MAX).unwrap();
        let is_void = (32..=MAX_PAYLOAD + 32).contains(&total);
        assert_eq!(frame.kind, if is_void { FrameKind::Void } else { FrameKind::Pad });
        assert_eq!(frame.total, total as u64);
        assert!(bytes[32.min(total)..].iter().all(|&b| b == 0));
    }
    for total in [0, 8, 40] {
        assert_eq!(write_void(&mut vec![0; total], &seed(), LSN), Err(FrameError::Length(total as u64)));
    }
}

#[test]
fn a_wrong_room_or_an_endless_payload_is_refused() {
    for len in [0, 31, 32, 47, 49, 64] {
        assert_eq!(write_frame(&mut vec![0; len], &seed(), LSN, &head(), b"abc"), Err(FrameError::Length(3)));
    }
    let endless = vec![0; MAX_PAYLOAD + 1];
    let mut bytes = vec![0; frame_len(endless.len())];
    assert!(write_frame(&mut bytes, &seed(), LSN, &head(), &endless).is_err());
    bytes[..32].copy_from_slice(&encode_header(&seed(), LSN, &head(), &endless));
    assert!(decode(&seed(), LSN, &bytes, MAX).is_err());
}

proptest! {
    #[test]
    fn round_trip(
        uuid: [u8; 16], epoch: u64, line in 1u64..1 << 59, log_id: u32, offset in 0..MAX_OFFSET - 300,
        time_ns: u64, payload in prop::collection::vec(any::<u8>(), 0..300), behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (seed, lsn) = (FrameSeed::new(&uuid, epoch), line * 16);
        let head = FrameHead { kind: Kind::Data, log_id, offset, time_ns };
        let mut bytes = frame_of(&seed, lsn, &head, &payload);
        prop_assert_eq!(&bytes[..32], &encode_header(&seed, lsn, &head, &payload)[..]);
        let total = bytes.len() as u64;
        bytes.extend(behind);
        let value = payload.len() as u64;
        let frame = Frame { kind: FrameKind::Data, log_id, offset, time_ns, payload: &payload, value, total };
        prop_assert_eq!(decode(&seed, lsn, &bytes, MAX), Ok(frame));
    }

    /// Pieces of any size give the checksum of the whole.
    #[test]
    fn large_payloads(len in (16usize << 10) - 2..(48 << 10), byte: u8) {
        let payload: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(byte)).collect();
        let bytes = frame_of(&seed(), LSN, &head(), &payload);
        prop_assert_eq!(&bytes[..32], &encode_header(&seed(), LSN, &head(), &payload)[..]);
        prop_assert_eq!(decode(&seed(), LSN, &bytes, len).unwrap().payload, &payload[..]);
        prop_assert_eq!(decode(&seed(), LSN, &bytes, len - 1), Err(FrameError::Length(len as u64)));
    }

    #[test]
    fn short_frames_and_records(value: u64, lines in 1u64..1 << 27, epoch in 1u64.., back in 1u64.., cut_lsn: u64) {
        let (mark, pad) = (encode_mark(&seed(), LSN, value), encode_pad(&seed(), LSN, lines * 16));
        let mark = decode(&seed(), LSN, &mark, MAX).unwrap();
        prop_assert_eq!((mark.kind, mark.value, mark.total), (FrameKind::Mark, value, 16));
        let pad = decode(&seed(), LSN, &pad, MAX).unwrap();
        prop_assert_eq!((pad.kind, pad.value, pad.total), (FrameKind::Pad, lines * 16, lines * 16));
        let record = EpochRecord { epoch, previous_epoch: epoch.saturating_sub(back), cut_lsn, stable_lsn: value };
        prop_assert_eq!(EpochRecord::decode(&record.encode()), Ok(record));
    }

    /// A perfect copy of a frame inside a payload is not taken for one.
    #[test]
    fn a_copy_in_a_payload_is_no_frame(lines in 0usize..4) {
        let inner = frame_of(&seed(), LSN, &head(), b"I am a frame");
        let payload = [&vec![0; lines * 16][..], &inner].concat();
        let bytes = frame_of(&seed(), LSN, &head(), &payload);
        let at = 32 + lines * 16;
        prop_assert!(peek(&bytes[at..]).is_some());
        prop_assert!(decode(&seed(), LSN + at as u64, &bytes[at..], MAX).is_err());
    }
}
