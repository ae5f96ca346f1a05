//! The time that frames carry.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 by the machine's clock; 0 before 1970.
#[inline]
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
