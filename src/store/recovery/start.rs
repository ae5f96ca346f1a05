//! Where recovery starts: the segment table of a checkpoint, or the one that the segment headers tell.

use std::collections::BTreeMap;

use crate::format::{Checkpoint, FRAME_ALIGN, Lsn, MAX_COUNT, SegmentEntry, SegmentHeader, SegmentState, Superblock};
use crate::io::{IoError, QuikIO};
use crate::store::geometry::Shape;
use crate::store::scan::read_segment_header;
use crate::store::segments::SegmentTable;

use super::freed::Freed;

/// The table a checkpoint describes, if it can be one of this store.
pub(super) fn table_of(shape: Shape, superblock: &Superblock, checkpoint: &Checkpoint) -> Result<SegmentTable, String> {
    let mut live: Vec<SegmentEntry> = checkpoint
        .segments
        .iter()
        .filter(|entry| matches!(entry.state, SegmentState::Open | SegmentState::Sealed))
        .copied()
        .collect();
    live.sort_by_key(|entry| entry.sequence);
    // In front of where recovery starts segments may have been let go anywhere, behind it none.
    let from = checkpoint.recovery_lsn;
    let ordered = live.windows(2).all(|pair| match pair {
        [a, b] if shape.segment_start(a.sequence) >= from => a.sequence.checked_add(1) == Some(b.sequence),
        [a, b] => a.sequence < b.sequence,
        _ => false,
    });
    let mut places: Vec<u32> = live.iter().map(|entry| entry.physical).collect();
    places.sort_unstable();
    places.dedup();
    let sane = ordered
        && places.len() == live.len()
        && places.last().is_none_or(|last| *last < shape.segments)
        && live.last().is_none_or(|last| last.sequence < u64::MAX / shape.segment_size - 2)
        && live.first().is_none_or(|first| first.sequence > 0);
    let (Some(first), Some(last), true) = (live.first(), live.last(), sane) else {
        return Err("the checkpoint's segment table makes no sense".to_owned());
    };
    // A mount writes its epoch to both superblocks before anything else.
    if live.iter().map(|entry| entry.epoch).chain([checkpoint.epoch]).any(|epoch| epoch > superblock.epoch)
        || checkpoint.generation > MAX_COUNT
    {
        return Err("the checkpoint is of a mount that the superblocks do not know".to_owned());
    }
    let known = shape.segment_start(first.sequence)..=shape.segment_start(last.sequence + 1);
    let within = live.iter().any(|entry| entry.sequence == shape.sequence(from)) || from == *known.end();
    if !known.contains(&from) || !within || !from.is_multiple_of(FRAME_ALIGN as u64) {
        return Err(format!("the checkpoint's recovery start LSN {from:#x} is no place in its segments"));
    }
    let mut table = SegmentTable::new(shape, live);
    for (entry, summarised) in checkpoint.segments.iter().zip(&checkpoint.summarised) {
        if let Some(segment) = table.get_mut(entry.sequence) {
            segment.summary = *summarised;
        }
    }
    Ok(table)
}

/// Segment headers by sequence number.
pub(super) type Headers = BTreeMap<u64, SegmentHeader>;

/// The headers of all segments that may be part of the log, what headers say is none, and up to where they say that it is
/// stable: for a store whose checkpoints are both lost.
pub(super) fn headers(io: &QuikIO, shape: Shape, superblock: &Superblock) -> Result<(Headers, Freed, Lsn), IoError> {
    let mut headers = Headers::new();
    for physical in 0..shape.segments {
        if let Some(header) = read_segment_header(io, &shape, &superblock.uuid, physical)?
            && header.epoch <= superblock.epoch
            && header.sequence < u64::MAX / shape.segment_size - 2
        {
            // Of two that say so the younger is it.
            headers.entry(header.sequence).and_modify(|have| *have = younger(*have, header)).or_insert(header);
        }
    }
    let freed = Freed::of(&headers);
    let stable = headers.values().map(|header| header.stable_lsn).max().unwrap_or(0);
    headers.retain(|_, header| !freed.holds(header.physical, header.sequence, header.epoch));
    Ok((headers, freed, stable))
}

fn younger(one: SegmentHeader, other: SegmentHeader) -> SegmentHeader {
    if other.epoch > one.epoch { other } else { one }
}

/// The table to begin with that they tell: their first.
pub(super) fn table_from(shape: Shape, headers: &Headers) -> Option<(SegmentTable, Lsn, u64)> {
    let (&first, header) = headers.iter().next()?;
    let entry =
        SegmentEntry { sequence: first, physical: header.physical, state: SegmentState::Open, epoch: header.epoch };
    let table = SegmentTable::new(shape, [entry]);
    Some((table, shape.first_frame(first), header.epoch))
}
