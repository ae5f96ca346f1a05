//! The cleaner: what is still alive in a nearly dead segment is moved to the end of the log, so that the segment can be
//! let go.
//!
//! A moved record keeps its log, its offset and its time; only its frame is a new one, of kind MOVD. It is moved under
//! its log's lock, and the log's range says where it lies from then on. The old frame stays what it was until two
//! checkpoints no longer name its segment; whatever a crash leaves in between, one of the two is there.

use crate::sync::atomic::Ordering;

use super::LogStructuredStore;
use super::placing::Space;
use super::ranges::{Change, Range, Record};
use super::scan::{Found, Scanner};
use super::segments::Segment;
use super::types::StoreError;
use crate::format::{FrameHead, Kind, Lsn, frame_len};

/// A segment with more than so many of 100 bytes alive is not worth moving.
pub const WORTH_PERCENT: u64 = 90;
/// With no more than this it is moved before anything is dropped that is alive.
pub const CHEAP_PERCENT: u64 = 50;
/// Segments of no more than so many of the largest records are looked through before they are cleaned: one of them makes a
/// difference there, and what is known without, how long the records of one log in a row are, says too little.
const SMALL: u64 = 8;
/// Segments cleaned in one go, at most.
const AT_ONCE: usize = 4;

impl LogStructuredStore {
    /// The segments that are cleaned next, by cost and benefit: the emptier and the older, the better. Nothing if moving
    /// what is alive would need more room than there is, or gain none.
    fn victims(&self, percent: u64) -> Vec<u64> {
        let (stable, end) = (self.flusher.commit.stable(), self.ring.end_lsn());
        let space = self.flusher.space();
        let size = self.shape.segment_size;
        let newest = space.table.newest().unwrap_or_default();
        let is_worth_it = |segment: &&Segment| is_worth_it(segment, size, percent);
        let benefit = |segment: &Segment| {
            let (live, age) = (segment.live_bytes as f64 / size as f64, (newest - segment.entry.sequence) as f64);
            (1.0 - live) * age / (1.0 + live)
        };
        let mut full: Vec<&Segment> = space.table.full(stable).filter(is_worth_it).collect();
        full.sort_by(|a, b| benefit(b).total_cmp(&benefit(a)));
        let largest = frame_len(self.shape.max_record) as u64;
        let (mut victims, mut moved, mut longest) = (Vec::new(), 0, 0);
        for segment in full {
            let with_it = segment.longest.min(largest).max(longest);
            let room = Budget::of(&space, end, size.saturating_sub(self.shape.block), with_it);
            let taken = self.taken_by(moved + segment.live_bytes, with_it);
            // What is emptied has to hold more than is moved, as far as it can be used; that no fewer segments may be begun
            // than are emptied is no loss: what is left of the last one is used next.
            let emptied = (victims.len() as u64 + 1) * room.usable;
            // The filling that is begun is padded too, and so is the last one.
            let fits = taken + 2 * self.shape.block <= room.bytes();
            if victims.len() < AT_ONCE && fits && taken * 100 <= emptied * WORTH_PERCENT {
                (moved, longest) = (moved + segment.live_bytes, with_it);
                victims.push(segment.entry.sequence);
            }
        }
        victims
    }

    /// What `bytes` of records of up to `longest` take: each filling of the ring is padded to a whole block.
    fn taken_by(&self, bytes: u64, longest: u64) -> u64 {
        let filling =
            (self.options.buffer_size as u64).saturating_sub(longest + self.shape.block).max(self.shape.block);
        bytes + bytes.div_ceil(filling) * self.shape.block
    }

    /// Is there a segment whose cleaning would gain room, or of which that is not known yet?
    pub(super) fn can_clean(&self) -> bool {
        !self.victims(WORTH_PERCENT).is_empty() || !self.not_looked_through(WORTH_PERCENT).is_empty()
    }

    /// Segments that may be worth it, and are not looked through.
    fn not_looked_through(&self, percent: u64) -> Vec<u64> {
        let size = self.shape.segment_size;
        if size > SMALL * frame_len(self.shape.max_record) as u64 {
            return Vec::new();
        }
        let stable = self.flusher.commit.stable();
        let is_due = |segment: &&Segment| !segment.looked_through && is_worth_it(segment, size, percent);
        self.flusher.space().table.full(stable).filter(is_due).map(|segment| segment.entry.sequence).collect()
    }

    /// Find the longest record of each of these.
    fn look_through(&self, segments: Vec<u64>) -> Result<(), StoreError> {
        for sequence in segments {
            if self.stopping() {
                break;
            }
            let Some(mut scanner) = self.scanner_of(sequence, false) else { continue };
            let mut longest = 0;
            while let Some(found) = scanner.next_frame(&self.mounts, scanner.segment_end())? {
                if found.kind.is_record() {
                    longest = longest.max(found.total);
                }
            }
            if let Some(segment) = self.flusher.space().table.get_mut(sequence) {
                (segment.longest, segment.looked_through) = (longest, true);
            }
        }
        Ok(())
    }

    /// Reads a segment, with the payloads of its records or without, and passes over what can't be read.
    fn scanner_of(&self, sequence: u64, payloads: bool) -> Option<Scanner<'_>> {
        let entry = self.flusher.space().table.get(sequence).map(|segment| segment.entry)?;
        let mut scanner = Scanner::new(&self.io, self.shape, self.superblock.uuid, self.superblock.epoch, payloads);
        scanner.tolerate_errors();
        scanner.enter(self.shape.first_frame(sequence), entry.physical, entry.epoch);
        Some(scanner)
    }

    /// Clean some segments in which at most `percent` is alive; the number of those in which nothing is any more.
    pub(super) fn clean(&self, percent: u64) -> Result<u64, StoreError> {
        self.look_through(self.not_looked_through(percent))?;
        let mut emptied = 0;
        // From here on nobody else takes room that is counted upon.
        let _moving = self.reclaimer.begin_moving();
        for sequence in self.victims(percent) {
            if self.stopping() {
                break;
            }
            let cleaned = self.clean_one(sequence);
            emptied += u64::from(self.flusher.space().table.get(sequence).is_some_and(|segment| segment.ranges == 0));
            match cleaned {
                Ok(()) => {}
                // What was emptied before can be let go all the same.
                Err(_) if emptied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.space_counters.cleaned.fetch_add(emptied, Ordering::Relaxed);
        Ok(emptied)
    }

    fn clean_one(&self, sequence: u64) -> Result<(), StoreError> {
        let Some(mut scanner) = self.scanner_of(sequence, true) else { return Ok(()) };
        // What can't be read can't be moved: the rest of its range stays, and with it the segment.
        while let Some(found) = scanner.next_frame(&self.mounts, scanner.segment_end())? {
            if found.kind.is_record() {
                self.patiently(|| self.move_record(sequence, &found))?;
            }
        }
        Ok(())
    }

    /// Move one record out of segment `sequence`, if it is alive; [`StoreError::WouldBlock`] while the ring is full.
    fn move_record(&self, sequence: u64, found: &Found) -> Result<(), StoreError> {
        self.check_writable()?;
        let Found { log_id, offset, value: len, time_ns, .. } = *found;
        let Some(mut log) = self.catalog.lock(log_id) else { return Ok(()) };
        let end = offset.saturating_add(len);
        let lies_here = |range: &&Range| self.shape.sequence(range.lsn) == sequence && range.lsn <= found.lsn;
        let log = &mut *log;
        if end > log.entry.head {
            let Some(range) = log.ranges.find(offset.max(log.entry.head)).filter(lies_here) else { return Ok(()) };
            // What is in front of it could not be read, and stays: the segment can't be let go, and how many bytes the
            // frames in front take, and how many those behind, would be a guess from then on.
            if range.offset.max(log.entry.head) < offset {
                return Ok(());
            }
        }
        let mut changes = Vec::new();
        if end <= log.entry.head {
            // It lies in front of what is moved: what that takes is known exactly then.
            if log.ranges.find(offset).filter(lies_here).is_some() {
                log.ranges.shrink(offset, len, found.total, &mut changes);
                log.entry.device_bytes = account(log.entry.device_bytes, &changes);
                self.flusher.space().table.apply(log_id, &changes);
            }
            return Ok(());
        }
        let head = FrameHead { kind: Kind::Moved, log_id, offset, time_ns };
        let meet = |lsn| self.flusher.space().table.meets(log_id, self.shape.sequence(lsn));
        let (lsn, total) = self.put_frame(&head, &found.payload, meet)?;
        log.ranges.put(Range::of(&Record { offset, len, lsn, total, time_ns }), &self.shape, &mut changes);
        // What of the range lay below the head was not moved: it is let go now.
        changes.extend(log.ranges.drop_below(log.entry.head).into_iter().map(Change::Ends));
        log.entry.device_bytes = account(log.entry.device_bytes, &changes);
        log.end_lsn = log.end_lsn.max(lsn + total);
        self.flusher.space().table.apply(log_id, &changes);
        self.space_counters.moved_bytes.fetch_add(total, Ordering::Relaxed);
        self.keeper.dirty();
        Ok(())
    }
}

/// No more than `percent` of a segment of `size` bytes is alive, as far as that is known, and something is.
fn is_worth_it(segment: &Segment, size: u64, percent: u64) -> bool {
    segment.ranges > 0 && segment.is_summed_up() && segment.live_bytes * 100 <= size * percent
}

/// What the cleaner can count upon: nobody else takes it meanwhile.
struct Budget {
    /// Free segments.
    segments: u64,
    /// What of each of them can be used.
    usable: u64,
    /// What is left of the one that is begun.
    begun: u64,
}

impl Budget {
    /// In a log that ends at `end`, for records of up to `longest` bytes and segments that have room for `size`.
    fn of(space: &Space, end: Lsn, size: u64, longest: u64) -> Self {
        // Frames don't cross segments: the end of each may stay empty, but for less than the longest record.
        let usable = size.saturating_sub(longest);
        let (free, reserve) = (space.table.free_count(), space.table.reserve());
        // While no less is free than the reserve appends may take what is left of the one that is begun; where there is none,
        // they wait.
        let alone = free < reserve || (reserve == 0 && free == 0);
        let begun = if alone { space.rest(end).saturating_sub(longest) } else { 0 };
        Self { segments: free.min(reserve), usable, begun }
    }

    fn bytes(&self) -> u64 {
        self.segments * self.usable + self.begun
    }
}

/// What a log takes after these changes, which took `bytes` before.
fn account(bytes: u64, changes: &[Change]) -> u64 {
    changes.iter().fold(bytes, |bytes, change| match change {
        Change::Begins(range) => bytes + u64::from(range.bytes),
        Change::Ends(range) => bytes.saturating_sub(u64::from(range.bytes)),
    })
}
