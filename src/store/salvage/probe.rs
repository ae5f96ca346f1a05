//! Looking over a whole device for whatever tells of a store: superblocks, checkpoints and segment headers, at their
//! places and, if the superblocks are lost, at every place where they could be.

use std::collections::BTreeSet;

use crate::format::{
    CHECKPOINT_START, CatalogEntry, Checkpoint, FrameKind, MAX_BLOCK, MAX_CHECKPOINT_BYTES, MIN_BLOCK, SEGMENT_HEADER,
    SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_LEN, SegmentHeader, Superblock, checkpoint, frame, segment, superblock,
};
use crate::io::QuikIO;
use crate::store::mounts::Mounts;

/// Bytes read at a time.
const WINDOW: u64 = 1 << 20;
/// Segment headers that are kept, at most: bounds what a hostile image can cost.
const MAX_HEADERS: usize = 1 << 16;
/// Uuids that are kept, at most.
const MAX_UUIDS: usize = 64;
/// Checkpoints that are kept, at most.
const MAX_CHECKPOINTS: usize = 8;
/// Bytes that are read in search of checkpoints, at most: a hostile image may claim one at every block.
const CHECKPOINT_BUDGET: u64 = 4 << 30;
/// Places of frames that are kept, at most: enough to find where the first segment begins.
const MAX_FRAMES: usize = 256;
/// Place of the uuid in superblocks, checkpoints and segment headers alike.
const UUID_AT: usize = 16;

/// What was found.
#[derive(Debug, Default)]
pub struct Clues {
    /// Whole superblocks, newest first.
    pub superblocks: Vec<Superblock>,
    /// Superblocks whose checksum does not hold: their numbers may still be right.
    pub doubtful: Vec<Superblock>,
    /// Whole checkpoints, with their place.
    pub checkpoints: Vec<(u64, Checkpoint)>,
    /// Whole segment headers, with their place.
    pub headers: Vec<(u64, SegmentHeader)>,
    /// Uuids that something damaged seems to tell.
    pub uuids: BTreeSet<[u8; 16]>,
    /// First places where a frame seems to be.
    pub frames: Vec<u64>,
    /// Bytes that were read in search of checkpoints.
    spent: u64,
}

impl Clues {
    /// The newest checkpoint of store `uuid`.
    pub fn checkpoint(&self, uuid: &[u8; 16]) -> Option<&Checkpoint> {
        let of_store = self.checkpoints.iter().map(|(_, checkpoint)| checkpoint);
        of_store.filter(|checkpoint| checkpoint.uuid == *uuid).max_by_key(|checkpoint| checkpoint.generation)
    }

    /// The mounts that the newest checkpoint knows.
    pub fn mounts(&self, uuid: &[u8; 16]) -> Mounts {
        self.checkpoint(uuid).map(|checkpoint| Mounts::restore(checkpoint.mounts.clone())).unwrap_or_default()
    }

    /// The logs and directories that the newest checkpoint knows.
    pub fn nodes(&self, uuid: &[u8; 16]) -> Vec<CatalogEntry> {
        self.checkpoint(uuid).map(|checkpoint| checkpoint.nodes.clone()).unwrap_or_default()
    }
}

/// Look for everything. What can't be read holds nothing.
pub fn probe(io: &QuikIO) -> Clues {
    let mut clues = Clues::default();
    for offset in [SUPERBLOCK_A, SUPERBLOCK_B] {
        let bytes = read(io, offset, SUPERBLOCK_LEN as u64);
        match Superblock::decode(&bytes) {
            Ok(superblock) => clues.superblocks.push(superblock),
            Err(_) => clues.doubtful.extend(without_checksum(&bytes)),
        }
        clues.uuids.extend(uuid_in(&bytes, &superblock::MAGIC));
    }
    clues.superblocks.sort_by_key(|superblock| std::cmp::Reverse(superblock.generation));
    if let Some(newest) = clues.superblocks.first().cloned() {
        for offset in [newest.checkpoint_start, newest.checkpoint_start + newest.checkpoint_bytes] {
            clues.checkpoint_at(io, offset, &read(io, offset, u64::from(MIN_BLOCK)));
        }
        for physical in 0..u32::try_from(newest.segment_count).unwrap_or(u32::MAX) {
            let Some(offset) = newest.segment_offset(physical) else { break };
            clues.header_at(offset, &read(io, offset, SEGMENT_HEADER as u64));
        }
    } else {
        clues.everywhere(io);
    }
    clues
}

impl Clues {
    /// Every place where a block could begin.
    fn everywhere(&mut self, io: &QuikIO) {
        let capacity = io.geometry().capacity;
        let mut at = CHECKPOINT_START;
        while at < capacity {
            let window = read(io, at, WINDOW.min(capacity - at));
            for (number, block) in window.chunks(MIN_BLOCK as usize).enumerate() {
                let offset = at + number as u64 * u64::from(MIN_BLOCK);
                self.checkpoint_at(io, offset, block);
                self.header_at(offset, block);
                if self.frames.len() < MAX_FRAMES && is_frame(block) {
                    self.frames.push(offset);
                }
            }
            at += WINDOW;
        }
    }

    fn checkpoint_at(&mut self, io: &QuikIO, offset: u64, block: &[u8]) {
        let Some(uuid) = uuid_in(block, &checkpoint::MAGIC) else { return };
        self.keep_uuid(uuid);
        let Ok(len) = Checkpoint::encoded_len(block) else { return };
        self.spent = self.spent.saturating_add(len);
        let is_too_much = len > MAX_CHECKPOINT_BYTES || self.spent > CHECKPOINT_BUDGET;
        if is_too_much || self.checkpoints.len() >= MAX_CHECKPOINTS {
            return;
        }
        if let Ok(checkpoint) = Checkpoint::decode(&read(io, offset, len), &uuid) {
            self.checkpoints.push((offset, checkpoint));
        }
    }

    fn header_at(&mut self, offset: u64, block: &[u8]) {
        let Some(uuid) = uuid_in(block, &segment::MAGIC) else { return };
        self.keep_uuid(uuid);
        // The rest of the block is another one's business: how large a block is may not be known.
        let header = block.get(..SEGMENT_HEADER).map(|block| SegmentHeader::decode(block, &uuid));
        if let Some(Ok(header)) = header
            && self.headers.len() < MAX_HEADERS
        {
            self.headers.push((offset, header));
        }
    }

    fn keep_uuid(&mut self, uuid: [u8; 16]) {
        if self.uuids.len() < MAX_UUIDS {
            self.uuids.insert(uuid);
        }
    }
}

fn is_frame(block: &[u8]) -> bool {
    let kind = frame::peek(block).map(|head| head.kind);
    matches!(kind, Some(FrameKind::Data | FrameKind::Moved | FrameKind::Meta | FrameKind::Epoch | FrameKind::Void))
}

fn uuid_in(bytes: &[u8], magic: &[u8; 8]) -> Option<[u8; 16]> {
    let uuid = bytes.get(UUID_AT..UUID_AT + 16)?.first_chunk::<16>()?;
    bytes.starts_with(magic).then_some(*uuid)
}

/// A superblock whose numbers fit each other though its checksum does not hold.
fn without_checksum(bytes: &[u8]) -> Option<Superblock> {
    let mut bytes = bytes.to_vec();
    // Every checksum is tried by what it should be: `decode` tells.
    let Err(crate::format::SuperblockError::Checksum { computed, .. }) = Superblock::decode(&bytes) else {
        return None;
    };
    bytes.get_mut(12..16)?.copy_from_slice(&computed.to_le_bytes());
    Superblock::decode(&bytes).ok().filter(|superblock| superblock.block_size <= MAX_BLOCK)
}

/// Bytes of the device, fewer at its end; zeros for what can't be read.
pub fn read(io: &QuikIO, offset: u64, len: u64) -> Vec<u8> {
    let geometry = io.geometry();
    let unit = u64::from(geometry.block);
    let end = offset.saturating_add(len).min(geometry.capacity);
    if offset >= end {
        return Vec::new();
    }
    let base = offset - offset % unit;
    let span = (end.next_multiple_of(unit)) - base;
    let whole = read_blocks(io, base, span).unwrap_or_else(|| {
        let each = |number: u64| read_blocks(io, base + number * unit, unit).unwrap_or_else(|| vec![0; unit as usize]);
        (0..span / unit).flat_map(each).collect()
    });
    whole.get((offset - base) as usize..(end - base) as usize).unwrap_or(&[]).to_vec()
}

fn read_blocks(io: &QuikIO, offset: u64, len: u64) -> Option<Vec<u8>> {
    let buffer = io.buffer(len as usize).ok()?;
    io.read_now(buffer, len as usize, offset)
        .ok()
        .map(|read| read.as_slice().get(..len as usize).unwrap_or(&[]).to_vec())
}
