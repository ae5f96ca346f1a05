//! What can go wrong with a simulated disk, and what is counted of it.

use std::ops::Range;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimOp {
    /// A write, durable or not.
    Write,
    /// A read.
    Read,
    /// A flush.
    Flush,
}

/// What shall go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFault {
    /// Fail with this errno. A write leaves any part of its sectors behind, a flush leaves everything volatile.
    Error(i32),
    /// Move so many bytes and no more.
    Short(u32),
    /// A write or flush is acknowledged and nothing happens.
    Lost,
    /// A write is acknowledged and its bytes go so many bytes further, round the end of the disk.
    Misdirected(u64),
    /// A read gives what was stable when power last could have failed, not what was written since.
    Stale,
    /// A read gives these bits of its byte at `at` (modulo its length) flipped; the disk itself is not changed.
    BitRot {
        /// Byte of the request.
        at: u32,
        /// Bits that are flipped.
        xor: u8,
    },
}

/// What a power failure does to a sector that was being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SectorModel {
    /// It has its old or its new content.
    #[default]
    OldOrNew,
    /// It may also hold anything at all.
    Garbage,
}

/// Requests carried out, and what happened to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimOps {
    /// Writes.
    pub writes: u64,
    /// Reads.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
    /// Writes that were carried out before one that was asked for earlier.
    pub overtaken: u64,
    /// Faults that happened.
    pub faults: u64,
}

impl SimOps {
    /// All requests: the clock of `SimDevice::power_off_after`.
    pub fn total(&self) -> u64 {
        self.writes + self.reads + self.flushes
    }

    /// Count one; gives its number among its kind, from 1.
    pub(super) fn count(&mut self, op: SimOp) -> u64 {
        let counter = self.of(op);
        *counter += 1;
        *counter
    }

    /// The counter of a kind.
    pub(super) fn of(&mut self, op: SimOp) -> &mut u64 {
        match op {
            SimOp::Write => &mut self.writes,
            SimOp::Read => &mut self.reads,
            SimOp::Flush => &mut self.flushes,
        }
    }
}

/// A fault and the requests that it happens to.
pub(super) struct Planned {
    pub(super) op: SimOp,
    /// Counts of that kind of request.
    pub(super) when: Range<u64>,
    pub(super) fault: SimFault,
}
