//! The header block of a segment: which part of the log lies here.
//!
//! A segment is reused, so its header says the sequence number of this lap; a frame's checksum depends on its LSN and
//! so on that number.

use super::{FORMAT_VERSION, Lsn, MIN_BLOCK, SEGMENT_HEADER, crc, crc_without_field, is_zero, put_text, uuid_text};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes of a segment in use.
pub const MAGIC: [u8; 8] = *b"LLAMASEG";

const CRC_AT: usize = 8;
const NONE: u32 = u32::MAX;
const TEXT_LEN: usize = SEGMENT_HEADER - 80;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    uuid: [u8; 16],
    sequence: U64,
    first_lsn: U64,
    epoch: U64,
    physical: U32,
    next_physical: U32,
    created_ns: U64,
    stable_lsn: U64,
    text: [u8; TEXT_LEN],
}

const _: () = assert!(size_of::<Raw>() == SEGMENT_HEADER);

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub uuid: [u8; 16],
    /// Number of the segment in the log, from 1; never used twice.
    pub sequence: u64,
    /// LSN of its first byte: `sequence * segment_size`.
    pub first_lsn: Lsn,
    /// The mount that opened it.
    pub epoch: u64,
    /// Its place: the how-manieth segment of the device, from 0.
    pub physical: u32,
    /// Place of the segment that will follow, if it was chosen already.
    pub next_physical: Option<u32>,
    /// Time of opening, ns since 1970.
    pub created_ns: u64,
    /// The store was stable up to here when the segment was opened.
    pub stable_lsn: Lsn,
}

/// Why a block is no segment header of this store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Fewer than 512 bytes were given.
    #[error("segment header is cut short: {0} bytes of 512")]
    Short(usize),
    /// Never used, or something else.
    #[error("no segment header here (magic is not LLAMASEG)")]
    NotMagic,
    /// Bits have changed.
    #[error("segment header is damaged: checksum is {computed:08x}, should be {stored:08x}")]
    Checksum {
        /// What the header says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Written by another version.
    #[error("segment header has format version {0}, this llamafs reads version {FORMAT_VERSION}")]
    Version(u32),
    /// Left over from another store.
    #[error("segment header belongs to store {}", uuid_text(.0))]
    Foreign([u8; 16]),
    /// The checksum is right but the content can't be.
    #[error("segment header makes no sense: {0}")]
    Senseless(&'static str),
}

impl SegmentHeader {
    /// One block of `block_size` bytes (at least 512).
    pub fn encode(&self, block_size: u32) -> Vec<u8> {
        let mut text = [0; TEXT_LEN];
        put_text(&mut text, &format!("\nsegment {} of store {}\n", self.sequence, uuid_text(&self.uuid)));
        let mut raw = Raw {
            magic: MAGIC,
            crc: 0.into(),
            version: FORMAT_VERSION.into(),
            uuid: self.uuid,
            sequence: self.sequence.into(),
            first_lsn: self.first_lsn.into(),
            epoch: self.epoch.into(),
            physical: self.physical.into(),
            next_physical: self.next_physical.unwrap_or(NONE).into(),
            created_ns: self.created_ns.into(),
            stable_lsn: self.stable_lsn.into(),
            text,
        };
        raw.crc = crc::of(raw.as_bytes()).into();
        let mut block = raw.as_bytes().to_vec();
        block.resize((block_size as usize).max(SEGMENT_HEADER), 0);
        block
    }

    /// Reads the header of a segment of store `uuid`. `block` is exactly the header's block: what lies behind the
    /// first 512 bytes must be zero.
    pub fn decode(block: &[u8], uuid: &[u8; 16]) -> Result<Self, SegmentError> {
        let (raw, rest) = Raw::ref_from_prefix(block).map_err(|_| SegmentError::Short(block.len()))?;
        if raw.magic != MAGIC {
            return Err(SegmentError::NotMagic);
        }
        let stored = raw.crc.get();
        let computed = crc_without_field(raw.as_bytes(), CRC_AT);
        if stored != computed {
            return Err(SegmentError::Checksum { stored, computed });
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(SegmentError::Version(raw.version.get()));
        }
        if raw.uuid != *uuid {
            return Err(SegmentError::Foreign(raw.uuid));
        }
        if !is_zero(rest) {
            return Err(SegmentError::Senseless("the rest of its block is not zero"));
        }
        let header = Self {
            uuid: raw.uuid,
            sequence: raw.sequence.get(),
            first_lsn: raw.first_lsn.get(),
            epoch: raw.epoch.get(),
            physical: raw.physical.get(),
            next_physical: Some(raw.next_physical.get()).filter(|&next| next != NONE),
            created_ns: raw.created_ns.get(),
            stable_lsn: raw.stable_lsn.get(),
        };
        // The quotient is the segment size, which the caller compares with the superblock's.
        let size = header.first_lsn.checked_div(header.sequence).unwrap_or(0);
        if size == 0
            || size.checked_mul(header.sequence) != Some(header.first_lsn)
            || !size.is_multiple_of(u64::from(MIN_BLOCK))
        {
            return Err(SegmentError::Senseless("first LSN is not its sequence times a segment size"));
        }
        Ok(header)
    }
}
