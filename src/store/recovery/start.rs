//! Where recovery starts: the segment table of a checkpoint, or the one that the segment headers tell.

use std::collections::BTreeMap;

use crate::format::{Checkpoint, FRAME_ALIGN, Lsn, MAX_COUNT, SegmentEntry, SegmentState, Superblock};
use crate::io::{IoError, QuikIO};
use crate::store::geometry::Shape;
use crate::store::scan::read_segment_header;
use crate::store::segments::SegmentTable;

/// The table a checkpoint describes, if it can be one of this store.
pub(super) fn table_of(shape: Shape, superblock: &Superblock, checkpoint: &Checkpoint) -> Result<SegmentTable, String> {
    let mut live: Vec<SegmentEntry> = checkpoint
        .segments
        .iter()
        .filter(|entry| matches!(entry.state, SegmentState::Open | SegmentState::Sealed))
        .copied()
        .collect();
    live.sort_by_key(|entry| entry.sequence);
    let consecutive =
        live.windows(2).all(|pair| matches!(pair, [a, b] if a.sequence.checked_add(1) == Some(b.sequence)));
    let mut places: Vec<u32> = live.iter().map(|entry| entry.physical).collect();
    places.sort_unstable();
    places.dedup();
    let sane = consecutive
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
    let from = checkpoint.recovery_lsn;
    let known = shape.segment_start(first.sequence)..=shape.segment_start(last.sequence + 1);
    if !known.contains(&from) || !from.is_multiple_of(FRAME_ALIGN as u64) {
        return Err(format!("the checkpoint's recovery start LSN {from:#x} is no place in its segments"));
    }
    Ok(SegmentTable::new(shape, live))
}

/// The table that the segment headers tell: for a store whose checkpoints are both lost.
pub(super) fn table_from_headers(
    io: &QuikIO,
    shape: Shape,
    superblock: &Superblock,
) -> Result<Option<(SegmentTable, Lsn, u64)>, IoError> {
    let mut headers = BTreeMap::new();
    for physical in 0..shape.segments {
        if let Some(header) = read_segment_header(io, &shape, &superblock.uuid, physical)?
            && header.epoch <= superblock.epoch
            && header.sequence < u64::MAX / shape.segment_size - 2
        {
            headers.insert(header.sequence, header);
        }
    }
    let Some((&first, header)) = headers.iter().next() else { return Ok(None) };
    let entry =
        SegmentEntry { sequence: first, physical: header.physical, state: SegmentState::Open, epoch: header.epoch };
    let table = SegmentTable::new(shape, [entry]);
    Ok(Some((table, shape.first_frame(first), header.epoch)))
}
