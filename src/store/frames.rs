//! The frames of a segment that count, one after the other: those of the mounts that the log is known to be of, with
//! what is damaged passed over.

use super::mounts::Mounts;
use super::scan::{Found, Scanner, Step};
use crate::format::Lsn;
use crate::io::IoError;

impl Scanner<'_> {
    /// The next frame that begins before `end`, which lies in this segment; `None` if there is none. What a mount cut
    /// off may still be there, and is no part of the log.
    pub fn next_frame(&mut self, mounts: &Mounts, end: Lsn) -> Result<Option<Found>, IoError> {
        while self.place() < end {
            let place = self.place();
            if let Some(epoch) = mounts.epoch_at(place) {
                self.raise_epoch(epoch);
            }
            match self.step()? {
                Step::SegmentEnd => break,
                Step::Frame(found) => {
                    if mounts.epoch_at(found.lsn).is_none_or(|epoch| epoch == found.epoch) {
                        return Ok(Some(found));
                    }
                }
                Step::Broken(_) => {
                    let over = mounts.over_gap(place);
                    let most = mounts.end_of(place, self.segment_end());
                    let next = if over > place { Some(over) } else { self.behind(place, most)?.next };
                    let Some(next) = next else { break };
                    self.go_to(next);
                }
            }
        }
        Ok(None)
    }
}
