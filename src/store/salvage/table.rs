//! Which part of the log lies in which place: by headers, by the checkpoint, and by what a place holds itself.

use std::collections::{BTreeMap, BTreeSet};

use super::probe::{Clues, read};
use super::shape::Found;
use crate::format::frame::{self, decode_epoch, infer_epoch};
use crate::format::{FRAME_HEADER, FrameSeed, Lsn, SegmentEntry, SegmentState};
use crate::io::QuikIO;
use crate::store::scan::Scanner;

/// Sequence numbers behind the highest known one that are looked for in a place that nothing tells of.
const AHEAD: u64 = 4;
/// Epochs that are tried on a frame.
const EPOCHS_TRIED: usize = 64;
/// Sequence numbers that are tried on one place, at most.
const MAX_TRIED: usize = 1 << 12;

/// The segments of the log that can be found, in its order.
pub fn segments(io: &QuikIO, found: &Found, clues: &Clues) -> Vec<SegmentEntry> {
    let shape = &found.shape;
    let limit = u64::MAX / shape.segment_size - 2;
    let mut by_sequence: BTreeMap<u64, SegmentEntry> = BTreeMap::new();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for (offset, header) in &clues.headers {
        let fits = header.uuid == found.uuid
            && header.physical < shape.segments
            && shape.device_offset(header.physical) == *offset
            && (1..limit).contains(&header.sequence)
            && shape.segment_start(header.sequence) == header.first_lsn;
        if !fits {
            continue;
        }
        if let Some(place) = header.next_physical {
            next.insert(place, header.sequence + 1);
        }
        let entry = SegmentEntry {
            sequence: header.sequence,
            physical: header.physical,
            state: SegmentState::Sealed,
            epoch: header.epoch,
        };
        // Of two that say so the younger is it: the mount before was cut in front of it.
        let have = by_sequence.get(&entry.sequence).map(|have| have.epoch);
        if have.is_none_or(|epoch| entry.epoch > epoch) {
            by_sequence.insert(entry.sequence, entry);
        }
    }
    for entry in clues.checkpoint(&found.uuid).map(|checkpoint| checkpoint.segments.as_slice()).unwrap_or(&[]) {
        let is_used = matches!(entry.state, SegmentState::Open | SegmentState::Sealed);
        if is_used && entry.physical < shape.segments && (1..limit).contains(&entry.sequence) {
            by_sequence.entry(entry.sequence).or_insert(*entry);
        }
    }
    let taken: BTreeSet<u32> = by_sequence.values().map(|entry| entry.physical).collect();
    for physical in (0..shape.segments).filter(|physical| !taken.contains(physical)) {
        if let Some(entry) = by_frames(io, found, physical, next.get(&physical).copied(), &by_sequence) {
            by_sequence.insert(entry.sequence, entry);
        }
    }
    by_sequence.into_values().collect()
}

/// A place that nothing tells of: a frame checks for one sequence number alone.
fn by_frames(
    io: &QuikIO,
    found: &Found,
    physical: u32,
    hint: Option<u64>,
    known: &BTreeMap<u64, SegmentEntry>,
) -> Option<SegmentEntry> {
    let highest = known.keys().next_back().copied().unwrap_or(u64::from(found.shape.segments));
    let lowest = known.keys().next().copied().unwrap_or(1).saturating_sub(1).max(1);
    // Places are taken in order as long as none is used again.
    let likely = hint.into_iter().chain([u64::from(physical) + 1]);
    let missing = (lowest..=highest.saturating_add(AHEAD)).take(MAX_TRIED);
    let place = found.shape.device_offset(physical) + found.shape.block;
    let head = frame::peek(&read(io, place, FRAME_HEADER as u64));
    let bytes = head.map(|head| read(io, place, head.total.clamp(FRAME_HEADER as u64, found.shape.segment_size)));
    for sequence in likely.chain(missing).filter(|sequence| !known.contains_key(sequence)) {
        let before = known.range(..sequence).next_back().map_or(0, |(_, entry)| entry.epoch);
        let epoch = bytes.as_ref().and_then(|bytes| epoch_of(found, found.shape.first_frame(sequence), before, bytes));
        if let Some(epoch) = epoch {
            return Some(SegmentEntry { sequence, physical, state: SegmentState::Sealed, epoch });
        }
    }
    // Its first frame is damaged too: look further, under the likeliest number only.
    let sequence = hint.unwrap_or(u64::from(physical) + 1);
    if known.contains_key(&sequence) {
        return None;
    }
    let mut scanner = Scanner::new(io, found.shape, found.uuid, found.max_epoch, false);
    scanner.tolerate_errors();
    let first = found.shape.first_frame(sequence);
    scanner.enter(first, physical, 0);
    scanner.resync(first).ok().flatten()?;
    Some(SegmentEntry { sequence, physical, state: SegmentState::Sealed, epoch: scanner.epoch() })
}

/// The mount that wrote the frame that `bytes` begin with, if it checks at `lsn`.
fn epoch_of(found: &Found, lsn: Lsn, oldest: u64, bytes: &[u8]) -> Option<u64> {
    if let Ok((_, record)) = decode_epoch(&found.uuid, lsn, bytes) {
        return Some(record.epoch);
    }
    let low = frame::peek(bytes)?.epoch8?;
    infer_epoch(oldest, found.max_epoch, low)
        .take(EPOCHS_TRIED)
        .find(|epoch| frame::decode(&FrameSeed::new(&found.uuid, *epoch), lsn, bytes, found.shape.max_record).is_ok())
}
