//! Which store it is and how it is laid out: guesses from what was found, and the one that the device bears out.

use std::collections::BTreeMap;

use super::probe::{Clues, read};
use crate::format::frame::decode_epoch;
use crate::format::{
    CHECKPOINT_START, Checkpoint, FRAME_HEADER, Lsn, MAX_BLOCK, MAX_PAYLOAD, MAX_SEGMENT, MAX_SEGMENTS, MIN_BLOCK,
    SegmentHeader, Superblock, frame,
};
use crate::io::QuikIO;
use crate::store::geometry::Shape;
use crate::store::mounts::Mounts;
use crate::store::scan::Scanner;

/// Mounts later than any that is known of, that are still looked for.
const EPOCHS_AHEAD: u64 = 1024;
/// Segments that a guess is tried on.
const TRIED: usize = 16;
/// Guesses of where segments begin, at most.
const MAX_GUESSES: usize = 4096;

/// The store that is salvaged.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name.
    pub uuid: [u8; 16],
    /// Its layout.
    pub shape: Shape,
    /// No mount had a higher number.
    pub max_epoch: u64,
    /// The mounts that wrote the frames, as the newest checkpoint knows them.
    pub mounts: Mounts,
    /// Exact end of the log, if it was unmounted cleanly.
    pub end: Option<Lsn>,
    /// What this is known from.
    pub notes: Vec<String>,
}

/// The best guess.
pub fn choose(io: &QuikIO, clues: &Clues) -> Option<Found> {
    if let Some(superblock) = clues.superblocks.first() {
        return Some(of_superblock(io, superblock, clues, "a superblock is whole"));
    }
    let mut guesses: Vec<Found> = clues
        .doubtful
        .iter()
        .map(|superblock| Found { end: None, ..of_superblock(io, superblock, clues, "both superblocks are damaged") })
        .collect();
    guesses.extend(of_headers(io, clues));
    guesses.extend(of_checkpoints(io, clues));
    let scored = guesses.into_iter().map(|guess| (score(io, clues, &guess), guess));
    scored.filter(|(score, _)| *score > 0).max_by_key(|(score, _)| *score).map(|(_, guess)| guess)
}

fn of_superblock(io: &QuikIO, superblock: &Superblock, clues: &Clues, why: &str) -> Found {
    let shape = Shape::of(superblock);
    // Of a device that became shorter, what is there: also a part of a segment.
    let there = io.geometry().capacity.saturating_sub(shape.data_start).div_ceil(shape.segment_size);
    let segments = shape.segments.min(u32::try_from(there).unwrap_or(u32::MAX));
    Found {
        uuid: superblock.uuid,
        shape: Shape { segments, ..shape },
        max_epoch: superblock.epoch.max(epochs(clues, &superblock.uuid)),
        mounts: clues.mounts(&superblock.uuid),
        end: superblock.clean.then_some(superblock.end_lsn),
        notes: vec![why.to_owned()],
    }
}

/// Highest epoch that headers and checkpoints of a store tell.
fn epochs(clues: &Clues, uuid: &[u8; 16]) -> u64 {
    let headers = clues.headers.iter().filter(|(_, header)| header.uuid == *uuid).map(|(_, header)| header.epoch);
    headers.chain(clues.checkpoint(uuid).map(|checkpoint| checkpoint.epoch)).max().unwrap_or(0)
}

fn found(io: &QuikIO, clues: &Clues, uuid: [u8; 16], segment_size: u64, block: u64, data_start: u64) -> Option<Found> {
    let capacity = io.geometry().capacity;
    let segments = capacity.checked_sub(data_start)?.checked_div(segment_size)?.min(MAX_SEGMENTS);
    let sane = segment_size <= u64::from(MAX_SEGMENT)
        && segment_size >= 2 * block
        && segment_size.is_multiple_of(u64::from(MIN_BLOCK))
        && segments > 0;
    let max_record = (segment_size.saturating_sub(block) as usize).min(MAX_PAYLOAD);
    let shape = Shape { segment_size, block, data_start, segments: u32::try_from(segments).ok()?, max_record };
    let max_epoch = epochs(clues, &uuid).saturating_add(EPOCHS_AHEAD);
    let mounts = clues.mounts(&uuid);
    sane.then(|| Found {
        uuid,
        shape,
        max_epoch,
        mounts,
        end: None,
        notes: vec!["both superblocks are lost".to_owned()],
    })
}

/// Every header tells the size of segments, and with its place where the first one is. Most of them agree, whatever
/// payloads hold.
fn of_headers(io: &QuikIO, clues: &Clues) -> Vec<Found> {
    let mut votes: BTreeMap<([u8; 16], u64, u64), u64> = BTreeMap::new();
    for (offset, header) in &clues.headers {
        let segment_size = header.first_lsn.checked_div(header.sequence).unwrap_or(0);
        let before = u64::from(header.physical).checked_mul(segment_size);
        let Some(data_start) = before.and_then(|before| offset.checked_sub(before)) else { continue };
        if data_start >= CHECKPOINT_START {
            *votes.entry((header.uuid, segment_size, data_start)).or_default() += 1;
        }
    }
    let mut votes: Vec<_> = votes.into_iter().collect();
    votes.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
    let guess = |((uuid, segment_size, data_start), _): (([u8; 16], u64, u64), u64)| {
        let block = block_of(io, clues, &uuid, segment_size, data_start);
        let mut found = found(io, clues, uuid, segment_size, block, data_start)?;
        found.notes.push("size and place of segments are known from their headers".to_owned());
        Some(found)
    };
    votes.into_iter().take(TRIED).filter_map(guess).collect()
}

/// The block is what lies between a header and the first frame.
fn block_of(io: &QuikIO, clues: &Clues, uuid: &[u8; 16], segment_size: u64, data_start: u64) -> u64 {
    let headers = clues.headers.iter().filter(|(_, header)| header.uuid == *uuid);
    let of_store = |(offset, header): &&(u64, SegmentHeader)| {
        u64::from(header.physical).checked_mul(segment_size).and_then(|at| at.checked_add(data_start)) == Some(*offset)
    };
    let mut votes: BTreeMap<u64, u64> = BTreeMap::new();
    for (offset, _) in headers.filter(of_store).take(TRIED) {
        let first = blocks().find(|block| frame::peek(&read(io, offset + block, FRAME_HEADER as u64)).is_some());
        *votes.entry(first.unwrap_or(u64::from(MIN_BLOCK))).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, votes)| *votes).map_or(u64::from(MIN_BLOCK), |(block, _)| block)
}

fn blocks() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(u64::from(MIN_BLOCK)), |block| block.checked_mul(2))
        .take_while(|b| *b <= MAX_BLOCK.into())
}

/// With all headers lost, a checkpoint tells which LSNs lie in which segment, and that bounds the size of one; the
/// first frame on the device lies one block behind the place of a segment's header.
fn of_checkpoints(io: &QuikIO, clues: &Clues) -> Vec<Found> {
    let mut guesses = Vec::new();
    let uuids: Vec<[u8; 16]> = clues.checkpoints.iter().map(|(_, checkpoint)| checkpoint.uuid).collect();
    for uuid in uuids {
        let Some(checkpoint) = clues.checkpoint(&uuid) else { continue };
        for offset in clues.frames.iter().take(TRIED) {
            let bytes = read(io, *offset, MAX_FRAME_READ);
            let guess = sizes(checkpoint).find_map(|size| {
                let start = |block| Some((block, data_start(&bytes, checkpoint, *offset, size, block)?));
                let (block, start) = blocks().find_map(start)?;
                found(io, clues, uuid, size, block, start)
            });
            guesses.extend(guess.map(|mut found| {
                found.notes.push("size and place of segments are known from a checkpoint and frames".to_owned());
                found
            }));
        }
    }
    guesses
}

/// Sizes of a segment that fit what a checkpoint says of its newest one.
fn sizes(checkpoint: &Checkpoint) -> impl Iterator<Item = u64> + use<> {
    let lsn = checkpoint.recovery_lsn.max(checkpoint.stable_lsn);
    let newest = checkpoint.segments.iter().map(|entry| entry.sequence).max().unwrap_or(0);
    // lsn / size is the newest sequence, or one more where the log ends with its segment.
    let least = lsn / newest.saturating_add(2) + 1;
    let most = lsn.checked_div(newest).unwrap_or(0).min(MAX_SEGMENT.into());
    let step = u64::from(MIN_BLOCK);
    let all = (least.next_multiple_of(step)..=most).step_by(step as usize);
    // Powers of two first: that is what `format` chooses.
    let (powers, others): (Vec<u64>, Vec<u64>) = all.take(MAX_GUESSES).partition(|size| size.is_power_of_two());
    powers.into_iter().chain(others)
}

/// Where segment 0 lies, if the frame at `offset` is the first of one of the checkpoint's segments.
fn data_start(bytes: &[u8], checkpoint: &Checkpoint, offset: u64, segment_size: u64, block: u64) -> Option<u64> {
    checkpoint.segments.iter().take(TRIED).find_map(|entry| {
        let lsn = entry.sequence.checked_mul(segment_size)?.checked_add(block)?;
        let is_first = decode_epoch(&checkpoint.uuid, lsn, bytes).is_ok() || {
            let seed = crate::format::FrameSeed::new(&checkpoint.uuid, entry.epoch);
            frame::decode(&seed, lsn, bytes, MAX_PAYLOAD).is_ok()
        };
        let before = u64::from(entry.physical).checked_mul(segment_size)?.checked_add(block)?;
        offset.checked_sub(before).filter(|start| is_first && *start >= CHECKPOINT_START)
    })
}

/// Bytes of a frame that are read to see whether a guess holds; a first frame of a store is small.
const MAX_FRAME_READ: u64 = 2 << 20;

/// How much of the device a guess explains: first frames of segments, and headers in their places.
fn score(io: &QuikIO, clues: &Clues, guess: &Found) -> u64 {
    let shape = &guess.shape;
    let mut score = 0;
    for (offset, header) in clues.headers.iter().filter(|(_, header)| header.uuid == guess.uuid).take(MAX_GUESSES) {
        let fits = header.physical < shape.segments
            && shape.device_offset(header.physical) == *offset
            && shape.segment_start(header.sequence) == header.first_lsn;
        score += u64::from(fits);
    }
    let entries = clues.checkpoint(&guess.uuid).map(|checkpoint| checkpoint.segments.as_slice()).unwrap_or(&[]);
    let places = entries.iter().map(|entry| (entry.sequence, entry.physical, entry.epoch));
    let headers = clues.headers.iter().map(|(_, header)| (header.sequence, header.physical, header.epoch));
    let by_order = (0..shape.segments).map(|physical| (u64::from(physical) + 1, physical, 0));
    for (sequence, physical, epoch) in places.chain(headers).take(TRIED).chain(by_order.take(TRIED)) {
        if physical >= shape.segments || sequence >= u64::MAX / shape.segment_size - 2 {
            continue;
        }
        let mut scanner = Scanner::new(io, *shape, guess.uuid, guess.max_epoch, false);
        scanner.tolerate_errors();
        let first = shape.first_frame(sequence);
        scanner.enter(first, physical, epoch);
        score += 2 * u64::from(scanner.checks_at(first).unwrap_or(false));
    }
    score
}
