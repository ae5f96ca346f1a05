//! What a broken frame was, if a single bit of its header has changed: how far it reaches, and whose it is.
//!
//! Nothing is repaired by this. It keeps a reader from looking for the next frame inside the broken one's payload, and
//! it tells which record was lost.

use super::super::{FRAME_HEADER, Lsn, MAX_PAYLOAD, SHORT_FRAME, crc, fits_a_file, frame_len, is_zero};
use super::decode::{Frame, short_total};
use super::{EPOCH_PAYLOAD, EpochRecord, FrameKind, FrameSeed, LongHeader, ShortHeader, decode_epoch};
use std::collections::BTreeMap;
use zerocopy::FromBytes;

/// Bytes of an EPOC frame.
pub const EPOCH_FRAME: usize = FRAME_HEADER + EPOCH_PAYLOAD;
/// Bits of a long header.
const HEADER_BITS: usize = FRAME_HEADER * 8;
/// Bits of a short frame.
const SHORT_BITS: usize = SHORT_FRAME * 8;

/// Payloads from this length on are summed once, in bytes: below it, summing is cheaper than combining two sums.
const COMBINE_FROM: usize = 64 << 10;

/// The record of the EPOC frame at `lsn` as it was before one bit of the frame changed, payload included.
pub fn mend_epoch(uuid: &[u8; 16], lsn: Lsn, bytes: &[u8]) -> Option<EpochRecord> {
    let frame = bytes.first_chunk::<EPOCH_FRAME>()?;
    let kind = u32::from_le_bytes(*frame.first_chunk::<4>()?);
    if (kind ^ u32::from_le_bytes(*b"EPOC")).count_ones() > 1 {
        return None;
    }
    (0..EPOCH_FRAME * 8).find_map(|bit| {
        let mut frame = *frame;
        *frame.get_mut(bit / 8)? ^= 1 << (bit % 8);
        decode_epoch(uuid, lsn, &frame).ok().map(|(_, record)| record)
    })
}

/// The frame at `lsn` as it was before one bit of its header changed, if that is all that happened to it.
pub fn mend<'a>(seed: &FrameSeed, lsn: Lsn, bytes: &'a [u8], max_payload: usize) -> Option<Frame<'a>> {
    if lsn == 0 || !lsn.is_multiple_of(SHORT_FRAME as u64) {
        return None;
    }
    let max_payload = max_payload.min(MAX_PAYLOAD);
    let mut payload_sums = BTreeMap::new();
    (0..HEADER_BITS).find_map(|bit| {
        let mut head = [0; FRAME_HEADER];
        let have = bytes.len().min(FRAME_HEADER);
        head.get_mut(..have)?.copy_from_slice(bytes.get(..have)?);
        *head.get_mut(bit / 8)? ^= 1 << (bit % 8);
        let kind = FrameKind::from_tag(*head.first_chunk::<4>()?)?;
        if kind.is_short() {
            return if bit < SHORT_BITS && have >= SHORT_FRAME { short(seed, lsn, kind, &head) } else { None };
        }
        long(seed, lsn, kind, &head, bytes, max_payload, &mut payload_sums)
    })
}

fn short<'a>(seed: &FrameSeed, lsn: Lsn, kind: FrameKind, head: &[u8]) -> Option<Frame<'a>> {
    let (header, _) = ShortHeader::read_from_prefix(head).ok()?;
    let value = header.value.get();
    let total = short_total(kind, value)?;
    let frame = Frame { kind, log_id: 0, offset: 0, time_ns: 0, payload: &[], value, total };
    (header.crc.get() == header.crc(seed, lsn)).then_some(frame)
}

fn long<'a>(
    seed: &FrameSeed,
    lsn: Lsn,
    kind: FrameKind,
    head: &[u8],
    bytes: &'a [u8],
    max_payload: usize,
    payload_sums: &mut BTreeMap<usize, u32>,
) -> Option<Frame<'a>> {
    let (header, _) = LongHeader::read_from_prefix(head).ok()?;
    let (len, epoch8) = header.len_and_epoch();
    if epoch8 != seed.epoch8() || !fits_a_file(kind, header.offset.get(), len as u64) {
        return None;
    }
    let total = frame_len(len);
    let mut crc = header.crc(seed, lsn);
    let mut payload: &[u8] = &[];
    if kind != FrameKind::Void {
        payload = bytes.get(FRAME_HEADER..FRAME_HEADER + len).filter(|_| len <= max_payload)?;
        crc = if len < COMBINE_FROM {
            crc::append(crc, payload)
        } else {
            // Summed once for each length; what the header contributes is put in front of it.
            let sum = *payload_sums.entry(len).or_insert_with(|| crc::of(payload));
            crc::combine(crc, sum, len)
        };
        let padding = bytes.get(FRAME_HEADER + len..total)?;
        if !is_zero(padding) {
            return None;
        }
    }
    (header.crc.get() == crc).then(|| header.frame(kind, payload))
}
