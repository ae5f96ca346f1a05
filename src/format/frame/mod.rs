//! Frames: one record each, on a 16-byte line, readable in `hexdump -C`.
//!
//! The checksum of a frame starts from the store's uuid, the epoch and the LSN. None of them is in the frame, so a
//! frame from another store, another place, an earlier lap or another mount doesn't check here, even when a payload
//! holds a perfect copy of it.

mod decode;
mod encode;
mod epoch;
mod mend;

pub use decode::{Frame, FrameError, Peek, decode, find_tag, peek};
pub use encode::{encode_header, encode_mark, encode_pad, encode_void, write_frame, write_void};
pub use epoch::{EPOCH_PAYLOAD, EpochRecord, decode_epoch, infer_epoch};
pub use mend::{EPOCH_FRAME, mend, mend_epoch};

use super::{FRAME_HEADER, Lsn, SHORT_FRAME, crc};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Kinds of frames with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a log.
    Data,
    /// Failed Flush: a reservation that was given up.
    Void,
    /// A change of the catalog.
    Meta,
    /// First frame of a mount.
    Epoch,
    /// Bytes of a log that the cleaner has moved here.
    Moved,
    /// What a full segment holds.
    Summary,
}

/// All kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Bytes of a log.
    Data,
    /// Failed Flush: a reservation that was given up.
    Void,
    /// A change of the catalog.
    Meta,
    /// First frame of a mount.
    Epoch,
    /// Bytes of a log that the cleaner has moved here.
    Moved,
    /// What a full segment holds.
    Summary,
    /// The store is stable up to `value`.
    Mark,
    /// Nothing, for `value` bytes.
    Pad,
}

impl Kind {
    const fn tag(self) -> [u8; 4] {
        match self {
            Self::Data => *b"DATA",
            Self::Void => *b"VOID",
            Self::Meta => *b"META",
            Self::Epoch => *b"EPOC",
            Self::Moved => *b"MOVD",
            Self::Summary => *b"SUMM",
        }
    }
}

impl FrameKind {
    const fn from_tag(tag: [u8; 4]) -> Option<Self> {
        Some(match &tag {
            b"DATA" => Self::Data,
            b"VOID" => Self::Void,
            b"META" => Self::Meta,
            b"EPOC" => Self::Epoch,
            b"MOVD" => Self::Moved,
            b"SUMM" => Self::Summary,
            b"MARK" => Self::Mark,
            b"PADD" => Self::Pad,
            _ => return None,
        })
    }

    const fn is_short(self) -> bool {
        matches!(self, Self::Mark | Self::Pad)
    }

    /// It holds bytes of a log, where they were appended or where the cleaner has moved them.
    pub const fn is_record(self) -> bool {
        matches!(self, Self::Data | Self::Moved)
    }

    /// The four letters that it has on the device.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "DATA",
            Self::Void => "VOID",
            Self::Meta => "META",
            Self::Epoch => "EPOC",
            Self::Moved => "MOVD",
            Self::Summary => "SUMM",
            Self::Mark => "MARK",
            Self::Pad => "PADD",
        }
    }
}

const MARK: [u8; 4] = *b"MARK";
const PADD: [u8; 4] = *b"PADD";

/// What the header of a long frame says besides length and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the payload is.
    pub kind: Kind,
    /// The log that it belongs to; 0 none.
    pub log_id: u32,
    /// Logical offset of its first byte in the log.
    pub offset: u64,
    /// When it was accepted, ns since 1970.
    pub time_ns: u64,
}

/// Start of every frame checksum of one mount of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSeed {
    /// CRC32C of uuid and epoch.
    crc: u32,
    epoch: u64,
}

impl FrameSeed {
    /// The seed of mount `epoch` of store `uuid`.
    pub fn new(uuid: &[u8; 16], epoch: u64) -> Self {
        let crc = crc::append(crc::of(uuid), &epoch.to_le_bytes());
        Self { crc, epoch }
    }

    /// The epoch it was made for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Low byte of the epoch, as long headers carry it.
    pub fn epoch8(&self) -> u8 {
        self.epoch as u8
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct LongHeader {
    kind: [u8; 4],
    crc: U32,
    /// Low 24 bits: payload length; high 8: low byte of the epoch.
    len_epoch: U32,
    log_id: U32,
    offset: U64,
    time_ns: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ShortHeader {
    kind: [u8; 4],
    crc: U32,
    value: U64,
}

const _: () = assert!(size_of::<LongHeader>() == FRAME_HEADER);
const _: () = assert!(size_of::<ShortHeader>() == SHORT_FRAME);

/// LSN and header in one piece, so that they take one call of the checksum, aligned as its instruction likes it.
#[derive(IntoBytes, Immutable)]
#[repr(C, align(8))]
struct CheckedLong {
    lsn: U64,
    header: LongHeader,
}

#[derive(IntoBytes, Immutable)]
#[repr(C, align(8))]
struct CheckedShort {
    lsn: U64,
    header: ShortHeader,
}

impl LongHeader {
    #[inline]
    fn crc(&self, seed: &FrameSeed, lsn: Lsn) -> u32 {
        let header = Self { crc: U32::ZERO, ..*self };
        let checked = CheckedLong { lsn: lsn.into(), header };
        crc::append(seed.crc, checked.as_bytes())
    }
}

impl ShortHeader {
    fn crc(&self, seed: &FrameSeed, lsn: Lsn) -> u32 {
        let header = Self { crc: U32::ZERO, ..*self };
        let checked = CheckedShort { lsn: lsn.into(), header };
        crc::append(seed.crc, checked.as_bytes())
    }
}
