//! The bytes on the device: pure encoders and decoders.
//!
//! One idea: every structure is a function of a byte slice and says in one typed error what is wrong with it. Nothing
//! here does I/O, keeps state or panics, whatever the bytes are. `docs/format.md` maps every byte.

pub mod catalog;
pub mod checkpoint;
mod crc;
pub mod frame;
pub mod segment;
mod shown;
pub mod signature;
pub mod summary;
pub mod superblock;
#[cfg(test)]
mod tests;

pub use catalog::{CatalogChange, CatalogEntry, CatalogError, CatalogRecord, NodeKind, ROOT_ID};
pub use checkpoint::{Checkpoint, CheckpointError, LogIndex, MountEntry, SegmentEntry, SegmentState, Summarised};
pub use frame::{EpochRecord, Frame, FrameError, FrameHead, FrameKind, FrameSeed, Kind, Peek};
pub use segment::{SegmentError, SegmentHeader};
pub use shown::shown;
pub use signature::known_signature;
pub use summary::{SavedRange, Summary, SummaryError};
pub use superblock::{Superblock, SuperblockError};

/// Byte address in the store's endless log: `sequence * segment_size + offset in the segment`; sequences start at 1.
pub type Lsn = u64;

/// Version of the layout that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Place of the superblock's first copy.
pub const SUPERBLOCK_A: u64 = 0;
/// Place of the superblock's second copy.
pub const SUPERBLOCK_B: u64 = 65_536;
/// Bytes of one superblock copy.
pub const SUPERBLOCK_LEN: usize = 4096;
/// Longest label, in bytes of UTF-8.
pub const LABEL_MAX: usize = 64;
/// Place of checkpoint area A; area B lies right behind it.
pub const CHECKPOINT_START: u64 = 131_072;
/// Bytes of a checkpoint's header.
pub const CHECKPOINT_HEADER: usize = 64;
/// Largest checkpoint area, so that a hostile superblock can't ask for all the memory there is.
pub const MAX_CHECKPOINT_BYTES: u64 = 1 << 30;
/// Smallest block of a store.
pub const MIN_BLOCK: u32 = 4096;
/// Largest block of a store: superblock A's block must not reach superblock B.
pub const MAX_BLOCK: u32 = 65_536;
/// Largest segment.
pub const MAX_SEGMENT: u32 = 1 << 31;
/// Most segments of a store; a larger device takes larger segments. Bounds the segment table in memory.
pub const MAX_SEGMENTS: u64 = 1 << 22;
/// Checksummed bytes of a segment header; the rest of its block is zero.
pub const SEGMENT_HEADER: usize = 512;
/// Frames start on a line of this many bytes: a line of `hexdump -C`.
pub const FRAME_ALIGN: usize = 16;
/// Header of DATA, VOID, META and EPOC frames.
pub const FRAME_HEADER: usize = 32;
/// A whole MARK frame, and the header of a PADD frame.
pub const SHORT_FRAME: usize = 16;
/// Largest payload that a frame's 24 bits of length can tell.
pub const MAX_PAYLOAD: usize = (1 << 24) - 1;
/// Largest offset in a log and largest count of bytes: what a file can have. Sums with lengths can't overflow.
pub const MAX_OFFSET: u64 = i64::MAX as u64;
/// Largest number of a mount, and of a superblock's or checkpoint's generation: nobody mounts that often, and the next
/// one is always a number too.
pub const MAX_COUNT: u64 = i64::MAX as u64;
/// Default for the largest record of a store.
pub const MAX_RECORD: u32 = 1 << 20;

/// `len` rounded up to the next frame line (saturating: no length overflows).
#[inline]
pub const fn round_up_frame(len: usize) -> usize {
    len.saturating_add(FRAME_ALIGN - 1) & !(FRAME_ALIGN - 1)
}

/// Bytes on the device of a long frame with `payload_len` bytes of payload.
#[inline]
pub const fn frame_len(payload_len: usize) -> usize {
    round_up_frame(payload_len.saturating_add(FRAME_HEADER))
}

/// CRC32C of `bytes` with the four bytes at `at` taken as zero.
fn crc_without_field(bytes: &[u8], at: usize) -> u32 {
    let before = bytes.get(..at).unwrap_or(bytes);
    let behind = bytes.get(at.saturating_add(4)..).unwrap_or(&[]);
    let crc = crc::append(crc::of(before), &[0; 4]);
    crc::append(crc, behind)
}

/// All bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// What a frame tells of so many bytes at `offset`: a record has to lie within what a file can have.
fn fits_a_file(kind: FrameKind, offset: u64, len: u64) -> bool {
    !kind.is_record() || offset.checked_add(len).is_some_and(|end| end <= MAX_OFFSET)
}

/// Copies as much of `text` as fits into `field`, in whole characters, up to a NUL.
fn put_text(field: &mut [u8], text: &str) {
    let text = text.split('\0').next().unwrap_or("");
    let mut end = text.len().min(field.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if let (Some(to), Some(from)) = (field.get_mut(..end), text.as_bytes().get(..end)) {
        to.copy_from_slice(from);
    }
}

/// The usual text form of a store's uuid.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*uuid).to_string()
}
