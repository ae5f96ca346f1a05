//! The summary of a full segment: which part of which log lies where in it, and since when.
//!
//! It is the payload of a SUMM frame behind the segment. What a segment holds never changes, so its summary doesn't
//! either; what of it is still wanted follows from the logs' heads. Checkpoints hold the same lines for segments that
//! have no summary yet.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Lsn, MAX_OFFSET, MAX_SEGMENT};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    sequence: U64,
    count: U32,
    reserved: U32,
}

/// A range as it is stored.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRange {
    log_id: U32,
    len: U32,
    bytes: U32,
    reserved: U32,
    offset: U64,
    lsn: U64,
    time_ns: U64,
}

/// Bytes in front of the ranges.
pub const SUMMARY_HEAD: usize = size_of::<RawHead>();
/// Bytes of a range.
pub const RANGE_LEN: usize = size_of::<RawRange>();
const _: () = assert!(SUMMARY_HEAD == 16 && RANGE_LEN == 40);

/// Records of one log, one behind the other, in one segment: among them lie only frames of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedRange {
    /// The log.
    pub log_id: u32,
    /// Bytes of the log.
    pub len: u32,
    /// Bytes of their frames.
    pub bytes: u32,
    /// Offset of the first in the log.
    pub offset: u64,
    /// LSN of the first's frame, or below it and behind whatever else of the log lies in front of it.
    pub lsn: Lsn,
    /// Time of the first, ns since 1970.
    pub time_ns: u64,
}

/// What a full segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of the segment.
    pub sequence: u64,
    /// In no order, but those of one log in that of its offsets.
    pub ranges: Vec<SavedRange>,
}

/// Why bytes are no summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    /// Fewer or more bytes than it says.
    #[error("segment summary has {have} bytes and needs {need}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes that it should have.
        need: usize,
    },
    /// A field has a value that it can't have.
    #[error("segment summary makes no sense: {0}")]
    Senseless(&'static str),
}

impl SavedRange {
    pub(super) fn raw(&self) -> RawRange {
        RawRange {
            log_id: self.log_id.into(),
            len: self.len.into(),
            bytes: self.bytes.into(),
            reserved: 0.into(),
            offset: self.offset.into(),
            lsn: self.lsn.into(),
            time_ns: self.time_ns.into(),
        }
    }

    pub(super) fn of(raw: &RawRange) -> Result<Self, SummaryError> {
        let range = Self {
            log_id: raw.log_id.get(),
            len: raw.len.get(),
            bytes: raw.bytes.get(),
            offset: raw.offset.get(),
            lsn: raw.lsn.get(),
            time_ns: raw.time_ns.get(),
        };
        let require = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(SummaryError::Senseless(what)) };
        require(raw.reserved.get() == 0, "reserved bytes are not zero")?;
        require(range.len > 0 && range.len <= range.bytes && range.bytes <= MAX_SEGMENT, "a range has no length")?;
        let end = range.offset.checked_add(u64::from(range.len));
        require(end.is_some_and(|end| end <= MAX_OFFSET), "a range is behind what a file can have")?;
        Ok(range)
    }
}

impl Summary {
    /// The payload of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.ranges.len()).unwrap_or(u32::MAX);
        let head = RawHead { sequence: self.sequence.into(), count: count.into(), reserved: 0.into() };
        let mut bytes = Vec::with_capacity(Self::encoded_len(self.ranges.len()));
        bytes.extend_from_slice(head.as_bytes());
        for range in &self.ranges {
            bytes.extend_from_slice(range.raw().as_bytes());
        }
        bytes
    }

    /// Bytes that `encode` gives for so many ranges.
    pub const fn encoded_len(ranges: usize) -> usize {
        SUMMARY_HEAD.saturating_add(ranges.saturating_mul(RANGE_LEN))
    }

    /// Reads the payload of a SUMM frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, SummaryError> {
        let have = bytes.len();
        let (head, rest) =
            RawHead::ref_from_prefix(bytes).map_err(|_| SummaryError::Length { have, need: SUMMARY_HEAD })?;
        let need = Self::encoded_len(usize::try_from(head.count.get()).unwrap_or(usize::MAX));
        let wrong = SummaryError::Length { have, need };
        if have != need {
            return Err(wrong);
        }
        if head.reserved.get() != 0 || head.sequence.get() == 0 {
            return Err(SummaryError::Senseless("its head can't be"));
        }
        let raw = <[RawRange]>::ref_from_bytes(rest).map_err(|_| wrong)?;
        let ranges = raw.iter().map(SavedRange::of).collect::<Result<_, _>>()?;
        Ok(Self { sequence: head.sequence.get(), ranges })
    }
}
