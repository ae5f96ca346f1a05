//! Where an LSN lies on the device: the arithmetic of segments, and nothing else.

use crate::format::{Lsn, Superblock};

/// The fixed shape of a store, read from its superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Bytes of a block: unit of every write.
    pub block: u64,
    /// Device offset of physical segment 0.
    pub data_start: u64,
    /// Number of physical segments.
    pub segments: u32,
    /// Largest payload of one frame, in bytes.
    pub max_record: usize,
}

impl Shape {
    /// The shape a superblock describes.
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            segment_size: u64::from(superblock.segment_size),
            block: u64::from(superblock.block_size),
            data_start: superblock.data_start,
            segments: u32::try_from(superblock.segment_count).unwrap_or(u32::MAX),
            max_record: superblock.max_record as usize,
        }
    }

    /// Sequence number of the segment that holds `lsn`.
    pub fn sequence(&self, lsn: Lsn) -> u64 {
        lsn / self.segment_size
    }

    /// Byte offset of `lsn` inside its segment.
    pub fn within(&self, lsn: Lsn) -> u64 {
        lsn % self.segment_size
    }

    /// LSN of the first byte (the header) of segment `sequence`.
    pub fn segment_start(&self, sequence: u64) -> Lsn {
        sequence.saturating_mul(self.segment_size)
    }

    /// LSN of the first frame of segment `sequence`.
    pub fn first_frame(&self, sequence: u64) -> Lsn {
        self.segment_start(sequence).saturating_add(self.block)
    }

    /// LSN just behind the segment that holds `lsn`.
    pub fn segment_end(&self, lsn: Lsn) -> Lsn {
        self.segment_start(self.sequence(lsn).saturating_add(1))
    }

    /// Device offset of physical segment `physical`.
    pub fn device_offset(&self, physical: u32) -> u64 {
        self.data_start + u64::from(physical) * self.segment_size
    }

    /// Bytes of all segments.
    pub fn capacity(&self) -> u64 {
        u64::from(self.segments) * self.segment_size
    }

    /// `value` rounded down to a block.
    pub fn block_down(&self, value: u64) -> u64 {
        value - value % self.block
    }

    /// `value` rounded up to a block.
    pub fn block_up(&self, value: u64) -> u64 {
        value.div_ceil(self.block) * self.block
    }
}
