//! What went wrong on the device, and how much went right.

use std::io;

/// A failed operation: which one, where, and the errno.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} of {len} bytes at device offset {offset} failed: {}", io::Error::from_raw_os_error(*errno))]
pub struct IoError {
    /// The errno.
    pub errno: i32,
    /// `write`, `read`, `flush`, `register` or `submit`.
    pub op: &'static str,
    /// Byte offset on the device.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What QuikIO did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Writes finished well.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Reads finished well.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Device flushes and durable writes finished well.
    pub flushes: u64,
    /// Requests given to the device again because it asked for that.
    pub retries: u64,
    /// Writes and reads that the device did in part and that were continued.
    pub short_writes: u64,
    /// Operations accepted and not finished.
    pub in_flight: u64,
}
