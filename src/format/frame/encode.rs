//! Writing frames. `write_frame` is on the path of every append: one copy, one checksum pass, no branch that depends
//! on anything but the length.

use super::super::{FRAME_HEADER, Lsn, MAX_PAYLOAD, SHORT_FRAME, crc, frame_len};
use super::{FrameError, FrameHead, FrameSeed, Kind, LongHeader, MARK, PADD, ShortHeader};
use zerocopy::little_endian::U32;

/// A large payload is copied and checksummed in pieces of this size, so that the second pass finds it in the nearest
/// cache.
const PIECE: usize = 16 << 10;

#[inline]
fn header(seed: &FrameSeed, head: &FrameHead, payload_len: usize) -> LongHeader {
    // A length that 24 bits can't tell is told as the largest; the checksum of the longer payload refuses it.
    let len = payload_len.min(MAX_PAYLOAD) as u32;
    LongHeader {
        kind: head.kind.tag(),
        crc: U32::ZERO,
        len_epoch: (len | u32::from(seed.epoch8()) << 24).into(),
        log_id: head.log_id.into(),
        offset: head.offset.into(),
        time_ns: head.time_ns.into(),
    }
}

/// The 32 bytes in front of `payload` for a frame at `lsn`. The payload must not be longer than `MAX_PAYLOAD`: a
/// longer one gives a frame that no decoder accepts.
pub fn encode_header(seed: &FrameSeed, lsn: Lsn, head: &FrameHead, payload: &[u8]) -> [u8; FRAME_HEADER] {
    let mut header = header(seed, head, payload.len());
    header.crc = crc::append(header.crc(seed, lsn), payload).into();
    zerocopy::transmute!(header)
}

/// Writes the whole frame into `dst`: header, payload, zero padding. `dst` has exactly `frame_len(payload.len())`
/// bytes, else nothing is written.
#[inline]
pub fn write_frame(
    dst: &mut [u8],
    seed: &FrameSeed,
    lsn: Lsn,
    head: &FrameHead,
    payload: &[u8],
) -> Result<(), FrameError> {
    if dst.len() != frame_len(payload.len()) || payload.len() > MAX_PAYLOAD {
        return Err(FrameError::Length(payload.len() as u64));
    }
    let Some((front, rest)) = dst.split_first_chunk_mut::<FRAME_HEADER>() else {
        return Err(FrameError::Length(payload.len() as u64));
    };
    let Some((body, padding)) = rest.split_at_mut_checked(payload.len()) else {
        return Err(FrameError::Length(payload.len() as u64));
    };
    let mut header = header(seed, head, payload.len());
    let mut crc = header.crc(seed, lsn);
    // The checksum reads the copy: it lies on a 16-byte line and the caller's bytes may lie anywhere. Who changes
    // them meanwhile changes what is stored or not, but never makes a frame that doesn't check.
    for (to, from) in body.chunks_mut(PIECE).zip(payload.chunks(PIECE)) {
        to.copy_from_slice(from);
        crc = crc::append(crc, to);
    }
    padding.fill(0);
    header.crc = crc.into();
    *front = zerocopy::transmute!(header);
    Ok(())
}

/// The header of a Failed Flush whose payload area has `payload_len` bytes, which nobody will read.
pub fn encode_void(seed: &FrameSeed, lsn: Lsn, payload_len: usize) -> [u8; FRAME_HEADER] {
    let head = FrameHead { kind: Kind::Void, log_id: 0, offset: 0, time_ns: 0 };
    encode_header_only(seed, lsn, &head, payload_len)
}

fn encode_header_only(seed: &FrameSeed, lsn: Lsn, head: &FrameHead, payload_len: usize) -> [u8; FRAME_HEADER] {
    let mut header = header(seed, head, payload_len);
    header.crc = header.crc(seed, lsn).into();
    zerocopy::transmute!(header)
}

/// Turns a reservation that was given up into a Failed Flush (or a PADD, where 16 bytes are too few or the length is
/// more than a frame can tell) and wipes the rest of it. `dst` is a whole number of frame lines, else nothing is
/// written.
pub fn write_void(dst: &mut [u8], seed: &FrameSeed, lsn: Lsn) -> Result<(), FrameError> {
    let total = dst.len();
    if total == 0 || !total.is_multiple_of(SHORT_FRAME) {
        return Err(FrameError::Length(total as u64));
    }
    dst.fill(0);
    let payload_len = total.saturating_sub(FRAME_HEADER);
    if total >= FRAME_HEADER && payload_len <= MAX_PAYLOAD {
        put_front(dst, &encode_void(seed, lsn, payload_len));
    } else {
        put_front(dst, &encode_pad(seed, lsn, total as u64));
    }
    Ok(())
}

fn put_front(dst: &mut [u8], front: &[u8]) {
    if let Some(to) = dst.get_mut(..front.len()) {
        to.copy_from_slice(front);
    }
}

/// A stable mark at `lsn`: everything below `stable` is on stable media.
pub fn encode_mark(seed: &FrameSeed, lsn: Lsn, stable: Lsn) -> [u8; SHORT_FRAME] {
    encode_short(seed, lsn, MARK, stable)
}

/// The front of `total` bytes of padding, these 16 included. `total` is a multiple of 16, at least 16; any other gives
/// a frame that no decoder accepts.
pub fn encode_pad(seed: &FrameSeed, lsn: Lsn, total: u64) -> [u8; SHORT_FRAME] {
    encode_short(seed, lsn, PADD, total)
}

fn encode_short(seed: &FrameSeed, lsn: Lsn, kind: [u8; 4], value: u64) -> [u8; SHORT_FRAME] {
    let mut header = ShortHeader { kind, crc: U32::ZERO, value: value.into() };
    header.crc = header.crc(seed, lsn).into();
    zerocopy::transmute!(header)
}
