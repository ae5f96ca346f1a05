//! Is the accounting exact? What every log says of where it lies, against what the segment table says of its segments.

use std::collections::BTreeMap;

use super::LogStructuredStore;
use crate::format::Summarised;

impl LogStructuredStore {
    /// Compare; a sentence for the first thing that does not fit. For simulators and tests, while nothing else goes on.
    pub fn audit(&self) -> Result<(), String> {
        let mut segments: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let ids: Vec<u32> = self.catalog.tree.read().ids().collect();
        for id in ids {
            let Some(log) = self.catalog.lock(id) else { continue };
            let (mut at, mut bytes) = (log.ranges.iter().next().map_or(log.entry.head, |range| range.offset), 0);
            if at > log.entry.head {
                return Err(format!("log {id} begins at {at}, its head is {}", log.entry.head));
            }
            for range in log.ranges.iter() {
                if range.offset != at {
                    return Err(format!("log {id} lies nowhere from {at} to {}", range.offset));
                }
                if range.end() <= log.entry.head {
                    return Err(format!("log {id} keeps what lies below its head {}: {range:?}", log.entry.head));
                }
                (at, bytes) = (range.end(), bytes + u64::from(range.bytes));
                let entry = segments.entry(self.shape.sequence(range.lsn)).or_default();
                entry.0 += 1;
                entry.1 += if range.counted { u64::from(range.bytes) } else { 0 };
            }
            if at != log.entry.size && (log.entry.size > log.entry.head || at > log.entry.head) {
                return Err(format!("log {id} has {} bytes and lies somewhere up to {at}", log.entry.size));
            }
            if bytes != log.entry.device_bytes {
                return Err(format!("log {id} takes {bytes} bytes and says {}", log.entry.device_bytes));
            }
        }
        let space = self.flusher.space();
        for segment in space.table.segments() {
            let sequence = segment.entry.sequence;
            let (ranges, bytes) = segments.remove(&sequence).unwrap_or_default();
            // A log without a name that is still open is counted too.
            let open = self.catalog.unlinked.load(crate::sync::atomic::Ordering::Relaxed) > 0;
            let fits = |said: u64, is: u64| said == is || (open && said > is);
            if !fits(segment.ranges, ranges) || !fits(segment.live_bytes, bytes) {
                return Err(format!(
                    "segment {sequence} has {ranges} ranges and {bytes} bytes alive, the table says {} and {}",
                    segment.ranges, segment.live_bytes
                ));
            }
            if let Summarised::At { lsn, .. } = segment.summary
                && space.table.physical(self.shape.sequence(lsn)).is_none()
            {
                return Err(format!("the summary of segment {sequence} lies in a segment that was let go"));
            }
        }
        match segments.keys().next() {
            Some(sequence) => Err(format!("records lie in segment {sequence}, which was let go")),
            None => Ok(()),
        }
    }
}
