//! EPOC: the first frame of a mount says where the mount before it was cut.
//!
//! Its checksum starts from its own epoch, which stands in its payload: a reader that follows the log crosses from one
//! mount to the next here, and nowhere else.

use super::super::{FRAME_HEADER, Lsn};
use super::{Frame, FrameError, FrameKind, FrameSeed, decode};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an EPOC frame's payload.
pub const EPOCH_PAYLOAD: usize = 32;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    epoch: U64,
    previous_epoch: U64,
    cut_lsn: U64,
    stable_lsn: U64,
}

const _: () = assert!(size_of::<Raw>() == EPOCH_PAYLOAD);

/// What a mount says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Number of this mount.
    pub epoch: u64,
    /// Number of the mount before; 0 if there was none. Smaller than `epoch`.
    pub previous_epoch: u64,
    /// End of the log as recovery decided it: nothing at or above it is of an earlier mount.
    pub cut_lsn: Lsn,
    /// The store was stable up to here.
    pub stable_lsn: Lsn,
}

impl EpochRecord {
    /// The payload of the EPOC frame.
    pub fn encode(&self) -> [u8; EPOCH_PAYLOAD] {
        zerocopy::transmute!(Raw {
            epoch: self.epoch.into(),
            previous_epoch: self.previous_epoch.into(),
            cut_lsn: self.cut_lsn.into(),
            stable_lsn: self.stable_lsn.into(),
        })
    }

    /// Reads the payload of an EPOC frame.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        let raw = Raw::read_from_bytes(payload).map_err(|_| FrameError::EpochRecord)?;
        let record = Self {
            epoch: raw.epoch.get(),
            previous_epoch: raw.previous_epoch.get(),
            cut_lsn: raw.cut_lsn.get(),
            stable_lsn: raw.stable_lsn.get(),
        };
        if record.previous_epoch < record.epoch { Ok(record) } else { Err(FrameError::EpochRecord) }
    }
}

/// Reads an EPOC frame at `lsn` with the seed of the epoch that it names itself.
pub fn decode_epoch<'a>(uuid: &[u8; 16], lsn: Lsn, bytes: &'a [u8]) -> Result<(Frame<'a>, EpochRecord), FrameError> {
    match super::peek(bytes) {
        Some(peek) if peek.kind == FrameKind::Epoch => {}
        // Not an EPOC frame: let the decoder find the words for what it is instead.
        _ => {
            let seed = FrameSeed::new(uuid, 0);
            return Err(decode(&seed, lsn, bytes, EPOCH_PAYLOAD).err().unwrap_or(FrameError::EpochRecord));
        }
    }
    let end = FRAME_HEADER + EPOCH_PAYLOAD;
    let payload = bytes.get(FRAME_HEADER..end).ok_or(FrameError::NeedMore(end))?;
    let record = EpochRecord::decode(payload)?;
    let frame = decode(&FrameSeed::new(uuid, record.epoch), lsn, bytes, EPOCH_PAYLOAD)?;
    if frame.payload.len() != EPOCH_PAYLOAD {
        return Err(FrameError::EpochRecord);
    }
    Ok((frame, record))
}

/// Epochs from `current` to `max` that end in the byte `epoch8`: which mounts could have written a frame.
pub fn infer_epoch(current: u64, max: u64, epoch8: u8) -> impl Iterator<Item = u64> {
    let ahead = u64::from(epoch8.wrapping_sub(current as u8));
    std::iter::successors(current.checked_add(ahead), |epoch| epoch.checked_add(256))
        .take_while(move |&epoch| epoch <= max)
}
