//! What cannot be part of the log though it checks: what lies where a later segment said that there was room.
//!
//! A segment names the free one that will follow it. What lies there and is older, by its number and its mount, had been
//! let go by then. Without a checkpoint nothing else tells, and if it were taken for a part of the log, the segment that
//! has to follow could not begin where its forerunner says that it does.

use std::collections::HashMap;

use super::start::Headers;

/// Places that were free, and when.
#[derive(Default)]
pub(super) struct Freed(HashMap<u32, Vec<(u64, u64)>>);

impl Freed {
    /// What headers say of other places, and of their own.
    pub(super) fn of(headers: &Headers) -> Self {
        let mut freed = Self::default();
        for header in headers.values() {
            for place in header.next_physical.into_iter().chain([header.physical]) {
                freed.0.entry(place).or_default().push((header.sequence, header.epoch));
            }
        }
        freed
    }

    /// Segment `sequence`, if it was begun at `physical` by mount `epoch` or before, was let go.
    pub(super) fn holds(&self, physical: u32, sequence: u64, epoch: u64) -> bool {
        let times = self.0.get(&physical);
        times.is_some_and(|times| times.iter().any(|(later, by)| sequence < *later && epoch <= *by))
    }
}
