//! Making a new store: `llamafs format`.

use std::sync::Arc;

use super::checkpoints;
use super::clock::now_ns;
use super::error::OpenError;
use super::geometry::Shape;
use super::superblocks::{out_of_memory, write_next};
use super::tree::cost;
use crate::format::catalog::{ENTRY_FIXED, FLAG_DROP_OLDEST};
use crate::format::checkpoint::{checkpoint_len, entry_in_checkpoint, index_len, mounts_len, ranges_len};
use crate::format::superblock::FEATURE_CLEANING;
use crate::format::{
    CHECKPOINT_START, CatalogChange, CatalogEntry, CatalogRecord, Checkpoint, FrameHead, FrameSeed, Kind, MAX_RECORD,
    MIN_BLOCK, MountEntry, NodeKind, ROOT_ID, SHORT_FRAME, SegmentEntry, SegmentHeader, SegmentState, Summarised,
    Superblock, frame, frame_len,
};
use crate::io::{Device, IoError, QuikIO, SharedBuffer};

/// Default segment size of a large device, in bytes.
const SEGMENT: u64 = 64 << 20;
/// Smallest segment chosen by itself.
const SMALL_SEGMENT: u64 = 4 << 20;
/// Segments a device has at least, where its size allows.
const WANTED_SEGMENTS: u64 = 16;
/// Smallest number of segments of a store.
const MIN_SEGMENTS: u64 = 2;
/// Points of a log's sparse index, at most.
const MAX_POINTS: u64 = 16 * 1024;
/// One point for this many bytes of capacity, up to `MAX_POINTS`.
const BYTES_PER_POINT: u64 = 64 * 1024;
/// Room in a checkpoint for the index, in full indexes of one log: with more logs they are thinned to fit.
const INDEXES: usize = 4;
/// Room in a checkpoint for mounts, at least; more are kept where there is room.
const MOUNTS: usize = 64;
/// Bytes of a checkpoint for each log or directory: a name of up to 60 bytes.
pub(super) const BYTES_PER_NODE: u64 = entry_in_checkpoint(ENTRY_FIXED) + 60;
/// One log or directory for this many bytes of the device, by default.
const DEVICE_BYTES_PER_NODE: u64 = 32 * 1024;
/// Logs and directories of a store, by default, at least and at most.
const DEFAULT_NODES: (u64, u64) = (64, 1 << 20);
/// Most that can be asked for.
pub const MAX_LOGS: u64 = 4 << 20;
/// Permission bits of the root directory.
const ROOT_MODE: u32 = 0o755;
/// Zeros written at a time.
const ZEROS: usize = 1 << 20;
/// Epoch of the frames that `format` writes.
const FORMAT_EPOCH: u64 = 1;
/// Id of the first log.
const FIRST_LOG: u32 = 1;

/// Settings of a new store.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    /// At most [`crate::format::LABEL_MAX`] bytes of text.
    pub label: String,
    /// Bytes of a segment; `None` chooses by the device's size.
    pub segment_size: Option<u32>,
    /// Permission bits of `/log`.
    pub mode: u32,
    /// Owner of `/log`.
    pub uid: u32,
    /// Group of `/log`.
    pub gid: u32,
    /// Write zeros over all segments, so that a file's extents are written once and for all.
    pub zero: bool,
    /// `None` draws one.
    pub uuid: Option<[u8; 16]>,
    /// Largest record in bytes; `None` for 1 MiB.
    pub max_record: Option<u32>,
    /// Nothing can ever be renamed, removed or trimmed.
    pub worm: bool,
    /// Room for so many logs and directories with names of usual length; `None` chooses by the device's size.
    pub max_logs: Option<u64>,
    /// What logs keep that have no limits of their own: at most so many bytes; 0 no limit.
    pub retain_bytes: u64,
    /// At most so old, in ns; 0 no limit.
    pub retain_age_ns: u64,
    /// Never fewer bytes than this.
    pub keep_min: u64,
    /// A full store gives up its oldest records instead of refusing new ones.
    pub drop_oldest: bool,
    /// Time of birth; `None` for now.
    pub now_ns: Option<u64>,
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self {
            label: String::new(),
            segment_size: None,
            mode: 0o644,
            uid: 0,
            gid: 0,
            zero: false,
            uuid: None,
            max_record: None,
            worm: false,
            max_logs: None,
            retain_bytes: 0,
            retain_age_ns: 0,
            keep_min: 0,
            drop_oldest: false,
            now_ns: None,
        }
    }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct FormatReport {
    /// Its superblock.
    pub superblock: Superblock,
}

/// How many index points a store of this capacity keeps for a log.
pub fn max_points(capacity: u64) -> usize {
    (capacity / BYTES_PER_POINT).clamp(16, MAX_POINTS) as usize
}

/// Bytes that the catalog may take in a checkpoint of this store: what the segment table, and the index of one log,
/// leave of the area.
pub fn catalog_limit(superblock: &Superblock) -> u64 {
    let points = max_points(superblock.device_bytes);
    let more = index_len(1, points) + mounts_len(MOUNTS);
    superblock.checkpoint_bytes.saturating_sub(checkpoint_len(0, superblock.segment_count, more))
}

/// Logs and directories that there can be at a time, and more: while the frames behind a checkpoint are read once more,
/// what they make and remove comes and goes beside what the checkpoint holds.
pub fn most_nodes(superblock: &Superblock) -> usize {
    usize::try_from(2 * (catalog_limit(superblock) / cost(b"1") + 1)).unwrap_or(usize::MAX)
}

/// Make a store of the whole device. Whatever was there is gone; the superblocks come last.
pub fn format(
    device: Arc<dyn Device>,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<FormatReport, OpenError> {
    let io = QuikIO::new(device, &[]).map_err(|error| OpenError::Setting(error.to_string()))?;
    let geometry = io.geometry();
    let mut superblock = plan(&io.describe(), geometry.capacity, geometry.block, options)?;
    let failed = |error| OpenError::Device { device: io.describe(), error };
    wipe(&io, &superblock, options.zero, progress).map_err(failed)?;
    let end = first_segment(&io, &superblock, options).map_err(failed)?;
    superblock.stable_lsn = end;
    superblock.end_lsn = end;
    superblock.clean = true;
    superblock.epoch = FORMAT_EPOCH;
    let checkpoint = first_checkpoint(&superblock, options, end);
    if checkpoints::save(&io, &superblock, checkpoint).map_err(failed)?.is_none() {
        return Err(OpenError::Setting("the checkpoint area is too small; use larger segments".to_owned()));
    }
    for _copy in 0..2 {
        write_next(&io, &mut superblock).map_err(failed)?;
    }
    io.close();
    Ok(FormatReport { superblock })
}

/// Whether `format` could make a store of so many bytes, as far as that is known before there is a device.
pub fn check_size(device: &str, capacity: u64, options: &FormatOptions) -> Result<(), OpenError> {
    plan(device, capacity, MIN_BLOCK, options).map(drop)
}

/// Geometry for a device.
fn plan(device: &str, capacity: u64, block: u32, options: &FormatOptions) -> Result<Superblock, OpenError> {
    let block = MIN_BLOCK.max(block);
    let max_record = options.max_record.unwrap_or(MAX_RECORD);
    let segment_size = match options.segment_size {
        Some(size) => u64::from(size),
        None => {
            let wanted = (capacity / WANTED_SEGMENTS).max(1);
            (1u64 << wanted.ilog2()).clamp(SMALL_SEGMENT, SEGMENT)
        }
    };
    let least = u64::from(block) + frame_len(max_record as usize) as u64 + 2 * u64::from(block);
    let least = least.next_multiple_of(u64::from(block));
    if segment_size < least || segment_size % u64::from(block) != 0 {
        return Err(OpenError::Setting(format!(
            "segment size of {segment_size} bytes can't be: it must be a multiple of {block} and at least {least}"
        )));
    }
    let guess = capacity / segment_size;
    let nodes = match options.max_logs {
        Some(logs) if !(1..=MAX_LOGS).contains(&logs) => {
            return Err(OpenError::Setting(format!("a store can't be made for {logs} logs: use 1 to {MAX_LOGS}")));
        }
        // The root is a directory too.
        Some(logs) => logs + 1,
        None => (capacity / DEVICE_BYTES_PER_NODE).clamp(DEFAULT_NODES.0, DEFAULT_NODES.1),
    };
    let ranges = ranges_len(usize::try_from(nodes).unwrap_or(usize::MAX));
    let more = index_len(INDEXES, INDEXES * max_points(capacity)) + mounts_len(MOUNTS) + ranges;
    let checkpoint_bytes = checkpoint_len(nodes * BYTES_PER_NODE, guess, more).next_multiple_of(u64::from(block));
    let areas_end = CHECKPOINT_START + 2 * checkpoint_bytes;
    // Whole megabytes for the eye, where segments are that large.
    let data_start = areas_end.next_multiple_of(if segment_size >= 1 << 20 { 1 << 20 } else { u64::from(block) });
    let count = capacity.saturating_sub(data_start) / segment_size;
    if count < MIN_SEGMENTS {
        return Err(OpenError::TooSmall {
            device: device.to_owned(),
            need: data_start + MIN_SEGMENTS * segment_size,
            have: capacity,
        });
    }
    let superblock = Superblock {
        uuid: options.uuid.unwrap_or_else(|| *uuid::Uuid::new_v4().as_bytes()),
        label: options.label.clone(),
        generation: 0,
        feature_compat: 0,
        feature_ro_compat: 0,
        feature_incompat: FEATURE_CLEANING,
        block_size: block,
        segment_size: u32::try_from(segment_size).unwrap_or(u32::MAX),
        segment_count: count,
        data_start,
        checkpoint_start: CHECKPOINT_START,
        checkpoint_bytes,
        device_bytes: capacity,
        epoch: 0,
        clean: false,
        worm: options.worm,
        stable_lsn: 0,
        end_lsn: 0,
        created_ns: options.now_ns.unwrap_or_else(now_ns),
        mounted_ns: 0,
        max_record,
    };
    if options.label.len() > crate::format::LABEL_MAX {
        return Err(OpenError::Setting(format!("the label is longer than {} bytes", crate::format::LABEL_MAX)));
    }
    let lets_go = options.retain_bytes | options.retain_age_ns != 0 || options.drop_oldest;
    if options.worm && lets_go {
        return Err(OpenError::Setting("a write-once store keeps everything: it can have no limits".to_owned()));
    }
    superblock.check_geometry().map_err(|error| OpenError::Setting(error.to_string()))?;
    Ok(superblock)
}

/// Zeros over everything, or, sparse, over what has to be: whatever is before the segments, and their headers. Another
/// uuid sees to it that old headers are not taken for ours; zeros make it plain.
fn wipe(
    io: &QuikIO,
    superblock: &Superblock,
    everything: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), IoError> {
    let shape = Shape::of(superblock);
    let zeros = SharedBuffer::from(io.buffer(ZEROS).map_err(|_| out_of_memory("write", 0, ZEROS))?);
    let each = if everything { u64::from(superblock.segment_size) } else { shape.block };
    let total = superblock.data_start + u64::from(shape.segments) * each;
    let mut written = 0;
    let mut write = |from: u64, len: u64, there: bool| {
        let mut done = 0;
        while done < len {
            let now = (len - done).min(ZEROS as u64);
            if !there {
                io.write_all_now(zeros.clone(), 0..now as usize, from + done, false)?;
            }
            done += now;
            progress(written + done, total);
        }
        written += len;
        Ok(())
    };
    write(0, superblock.data_start, false)?;
    for physical in 0..shape.segments {
        let from = shape.device_offset(physical);
        // A block alone mostly is zeros already: a hole of a file is read much faster than it is written.
        let there = !everything && is_zeros(io, from, each as usize);
        write(from, each, there)?;
    }
    Ok(())
}

/// False also where it can't be read: writing it tells why, or makes it readable.
fn is_zeros(io: &QuikIO, from: u64, len: usize) -> bool {
    let there = io.buffer(len).ok().and_then(|buffer| io.read_now(buffer, len, from).ok());
    there.is_some_and(|there| there.as_slice().iter().all(|byte| *byte == 0))
}

/// The root directory and `/log`.
fn entries(superblock: &Superblock, options: &FormatOptions) -> [CatalogEntry; 2] {
    let root = CatalogEntry {
        id: ROOT_ID,
        kind: NodeKind::Directory,
        mode: ROOT_MODE,
        uid: options.uid,
        gid: options.gid,
        mtime_ns: superblock.created_ns,
        ctime_ns: superblock.created_ns,
        btime_ns: superblock.created_ns,
        retain_bytes: options.retain_bytes,
        retain_age_ns: options.retain_age_ns,
        keep_min: options.keep_min,
        flags: if options.drop_oldest { FLAG_DROP_OLDEST } else { 0 },
        ..CatalogEntry::default()
    };
    let log = CatalogEntry {
        retain_bytes: 0,
        retain_age_ns: 0,
        keep_min: 0,
        flags: 0,
        id: FIRST_LOG,
        parent: ROOT_ID,
        kind: NodeKind::Log,
        mode: options.mode & 0o7777,
        name: b"log".to_vec(),
        ..root.clone()
    };
    [root, log]
}

/// Header, the catalog's first records and a mark; gives the LSN behind them.
fn first_segment(io: &QuikIO, superblock: &Superblock, options: &FormatOptions) -> Result<u64, IoError> {
    let shape = Shape::of(superblock);
    let first = shape.segment_start(1);
    let header = SegmentHeader {
        uuid: superblock.uuid,
        sequence: 1,
        first_lsn: first,
        epoch: FORMAT_EPOCH,
        physical: 0,
        next_physical: Some(1),
        created_ns: superblock.created_ns,
        stable_lsn: first,
    };
    let seed = FrameSeed::new(&superblock.uuid, FORMAT_EPOCH);
    let mut bytes = header.encode(superblock.block_size);
    let [root, log] = entries(superblock, options);
    let records = [(CatalogChange::Attributes, root), (CatalogChange::Named, log)];
    let record: Vec<u8> =
        records.into_iter().flat_map(|(change, entry)| CatalogRecord { change, entry }.encode()).collect();
    let head = FrameHead { kind: Kind::Meta, log_id: FIRST_LOG, offset: 0, time_ns: superblock.created_ns };
    let at = bytes.len();
    bytes.resize(at + frame_len(record.len()), 0);
    if let Some(place) = bytes.get_mut(at..)
        && let Err(error) = frame::write_frame(place, &seed, first + at as u64, &head, &record)
    {
        log::error!("the first catalog record does not fit a frame: {error}");
    }
    let end = first + bytes.len() as u64;
    bytes.extend_from_slice(&frame::encode_mark(&seed, end, end));
    let end = end + SHORT_FRAME as u64;
    let len = bytes.len().next_multiple_of(superblock.block_size as usize);
    let offset = shape.device_offset(0);
    let mut buffer = io.buffer(len).map_err(|_| out_of_memory("write", offset, len))?;
    if let Some(front) = buffer.as_mut_slice().get_mut(..bytes.len()) {
        front.copy_from_slice(&bytes);
    }
    io.write_all_now(SharedBuffer::from(buffer), 0..len, offset, false)?;
    io.flush_now()?;
    Ok(end)
}

fn first_checkpoint(superblock: &Superblock, options: &FormatOptions, end: u64) -> Checkpoint {
    let shape = Shape::of(superblock);
    Checkpoint {
        uuid: superblock.uuid,
        generation: 1,
        epoch: FORMAT_EPOCH,
        recovery_lsn: end,
        stable_lsn: end,
        nodes: entries(superblock, options).to_vec(),
        segments: vec![SegmentEntry { sequence: 1, physical: 0, state: SegmentState::Open, epoch: FORMAT_EPOCH }],
        index: Vec::new(),
        mounts: vec![MountEntry {
            epoch: FORMAT_EPOCH,
            cut_lsn: shape.segment_start(1),
            first_lsn: shape.first_frame(1),
        }],
        next_id: FIRST_LOG + 1,
        summarised: vec![Summarised::Here],
        ranges: Vec::new(),
    }
}
