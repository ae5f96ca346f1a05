//! The checkpoint: catalog, segment table and sparse index as they were at the recovery start LSN.
//!
//! Two areas are written alternately, whole and then flushed, so a torn checkpoint leaves the one before it.

use super::catalog::{CatalogEntry, CatalogError};
use super::summary::{RANGE_LEN, RawRange, SavedRange, SummaryError};
use super::{CHECKPOINT_HEADER, Lsn, crc, uuid_text};
use std::collections::HashSet;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes of a checkpoint.
pub const MAGIC: [u8; 8] = *b"LLAMACKP";

const CRC_AT: usize = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    crc: U32,
    payload_len: U32,
    uuid: [u8; 16],
    generation: U64,
    epoch: U64,
    recovery_lsn: U64,
    stable_lsn: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegment {
    sequence: U64,
    physical: U32,
    state: U32,
    epoch: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawIndex {
    log_id: U32,
    granularity: U64,
    count: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPoint {
    offset: U64,
    lsn: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMount {
    epoch: U64,
    cut_lsn: U64,
    first_lsn: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSummarised {
    lsn: U64,
    total: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RawHeader>() == CHECKPOINT_HEADER);

/// What is known of a segment's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SegmentState {
    /// Holds nothing.
    Free = 0,
    /// The log is written here.
    Open = 1,
    /// Full: never changes again.
    Sealed = 2,
    /// Given up, but an older checkpoint may still lead here: free once this checkpoint is stable.
    Retired = 3,
    /// Not to be used: the device failed here.
    Bad = 4,
}

impl SegmentState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::Open,
            2 => Self::Sealed,
            3 => Self::Retired,
            4 => Self::Bad,
            _ => return None,
        })
    }
}

/// One line of the segment table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its number in the log; 0 if it holds nothing.
    pub sequence: u64,
    /// Its place on the device. The caller compares it with the superblock's segment count.
    pub physical: u32,
    /// Its use.
    pub state: SegmentState,
    /// The epoch valid at its first frame.
    pub epoch: u64,
}

/// Where to learn what a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Summarised {
    /// Nowhere: its frames have to be read.
    #[default]
    No,
    /// In the checkpoint.
    Here,
    /// In the SUMM frame at this LSN.
    At {
        /// LSN of the frame.
        lsn: Lsn,
        /// Bytes of the frame.
        total: u32,
    },
}

/// Sparse index of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIndex {
    /// The log.
    pub log_id: u32,
    /// Bytes of the log from point to point, about.
    pub granularity: u64,
    /// Logical offset and LSN of the frame that starts there; neither ever falls.
    pub points: Vec<(u64, Lsn)>,
}

/// Which LSNs the frames of a mount begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number.
    pub epoch: u64,
    /// End of the log as its recovery decided it.
    pub cut_lsn: Lsn,
    /// Its first frame; between the two lies nothing of the log.
    pub first_lsn: Lsn,
}

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store it belongs to.
    pub uuid: [u8; 16],
    /// The valid one with the higher generation counts.
    pub generation: u64,
    /// The epoch valid at `recovery_lsn`.
    pub epoch: u64,
    /// Where recovery starts to read the log.
    pub recovery_lsn: Lsn,
    /// The store was stable up to here.
    pub stable_lsn: Lsn,
    /// The catalog: logs, directories and the root; ids are unique, and so are the names in a directory.
    pub nodes: Vec<CatalogEntry>,
    /// The segment table; places are unique.
    pub segments: Vec<SegmentEntry>,
    /// Sparse indexes.
    pub index: Vec<LogIndex>,
    /// The mounts whose frames the log holds, oldest first; epochs and LSNs only grow.
    pub mounts: Vec<MountEntry>,
    /// The next node gets this id: no id is used twice, also when its node is gone. 0: one more than the highest
    /// (checkpoints that know only entries of version 1 end in front of it).
    pub next_id: u32,
    /// For each line of the segment table where its ranges are; none at all in checkpoints that know of no summaries.
    pub summarised: Vec<Summarised>,
    /// The ranges of those segments that have them here.
    pub ranges: Vec<SavedRange>,
}

/// Why bytes are no checkpoint of this store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer bytes than it says.
    #[error("checkpoint is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes given.
        have: u64,
        /// Bytes that it should have.
        need: u64,
    },
    /// None was written here, or something else was.
    #[error("no checkpoint here (magic is not LLAMACKP)")]
    NotMagic,
    /// Bits have changed, or it was torn.
    #[error("checkpoint is torn or damaged: checksum is {computed:08x}, should be {stored:08x}")]
    Checksum {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Left over from another store.
    #[error("checkpoint belongs to store {}", uuid_text(.0))]
    Foreign([u8; 16]),
    /// A part reaches past the end of the payload, or bytes are left over.
    #[error("checkpoint makes no sense: {0} does not fit its payload")]
    Overrun(&'static str),
    /// The checksum is right but the content can't be.
    #[error("checkpoint makes no sense: {0}")]
    Senseless(&'static str),
    /// A bad catalog entry.
    #[error("checkpoint makes no sense: {0}")]
    Catalog(#[from] CatalogError),
    /// A bad range.
    #[error("checkpoint makes no sense: {0}")]
    Range(#[from] SummaryError),
}

/// Bytes of a checkpoint, header included, with a catalog of `entries` bytes, `segments` segments and `more` bytes of
/// indexes and mounts.
pub const fn checkpoint_len(entries: u64, segments: u64, more: u64) -> u64 {
    /// Of catalog, segments, indexes and mounts, the next id, and of ranges.
    const COUNTS: u64 = 7 * size_of::<u32>() as u64;
    const SEGMENT: u64 = (size_of::<RawSegment>() + size_of::<RawSummarised>()) as u64;
    CHECKPOINT_HEADER as u64 + COUNTS + entries + segments * SEGMENT + more
}

/// Bytes that `ranges` ranges take.
pub const fn ranges_len(ranges: usize) -> u64 {
    ranges as u64 * RANGE_LEN as u64
}

/// Bytes that the indexes of `logs` logs with `points` points take.
pub const fn index_len(logs: usize, points: usize) -> u64 {
    (logs * size_of::<RawIndex>() + points * size_of::<RawPoint>()) as u64
}

/// Bytes that `mounts` mounts take.
pub const fn mounts_len(mounts: usize) -> u64 {
    (mounts * size_of::<RawMount>()) as u64
}

/// Bytes that an entry of `encoded` bytes takes in a checkpoint.
pub const fn entry_in_checkpoint(encoded: usize) -> u64 {
    (size_of::<u32>() + encoded) as u64
}

impl Checkpoint {
    /// Header and payload. The caller pads to the block and checks that it fits the area.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; CHECKPOINT_HEADER];
        put_count(&mut bytes, self.nodes.len());
        for node in &self.nodes {
            let entry = node.encode();
            put_count(&mut bytes, entry.len());
            bytes.extend_from_slice(&entry);
        }
        put_count(&mut bytes, self.segments.len());
        for segment in &self.segments {
            let raw = RawSegment {
                sequence: segment.sequence.into(),
                physical: segment.physical.into(),
                state: (segment.state as u32).into(),
                epoch: segment.epoch.into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        put_count(&mut bytes, self.index.len());
        for index in &self.index {
            let raw = RawIndex {
                log_id: index.log_id.into(),
                granularity: index.granularity.into(),
                count: count(index.points.len()).into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
            for &(offset, lsn) in &index.points {
                let raw = RawPoint { offset: offset.into(), lsn: lsn.into() };
                bytes.extend_from_slice(raw.as_bytes());
            }
        }
        put_count(&mut bytes, self.mounts.len());
        for mount in &self.mounts {
            let raw = RawMount {
                epoch: mount.epoch.into(),
                cut_lsn: mount.cut_lsn.into(),
                first_lsn: mount.first_lsn.into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes.extend_from_slice(&self.next_id.to_le_bytes());
        if !self.summarised.is_empty() {
            put_count(&mut bytes, self.summarised.len());
            for summarised in &self.summarised {
                bytes.extend_from_slice(summarised.raw().as_bytes());
            }
            put_count(&mut bytes, self.ranges.len());
            for range in &self.ranges {
                bytes.extend_from_slice(range.raw().as_bytes());
            }
        }
        let mut header = RawHeader {
            magic: MAGIC,
            crc: 0.into(),
            payload_len: count(bytes.len() - CHECKPOINT_HEADER).into(),
            uuid: self.uuid,
            generation: self.generation.into(),
            epoch: self.epoch.into(),
            recovery_lsn: self.recovery_lsn.into(),
            stable_lsn: self.stable_lsn.into(),
        };
        let payload = bytes.get(CHECKPOINT_HEADER..).unwrap_or(&[]);
        header.crc = crc::append(crc::of(header.as_bytes()), payload).into();
        if let Some(front) = bytes.get_mut(..CHECKPOINT_HEADER) {
            front.copy_from_slice(header.as_bytes());
        }
        bytes
    }

    /// Bytes of the checkpoint whose header `bytes` start with, header included: how much of the area to read.
    /// Nothing about it is proved.
    pub fn encoded_len(bytes: &[u8]) -> Result<u64, CheckpointError> {
        let (header, _) = RawHeader::ref_from_prefix(bytes)
            .map_err(|_| CheckpointError::Short { have: bytes.len() as u64, need: CHECKPOINT_HEADER as u64 })?;
        if header.magic != MAGIC {
            return Err(CheckpointError::NotMagic);
        }
        Ok(CHECKPOINT_HEADER as u64 + u64::from(header.payload_len.get()))
    }

    /// Reads a checkpoint of store `uuid` from the front of `area`; what lies behind it doesn't matter. Allocates no
    /// more than a small multiple of what `area` holds.
    pub fn decode(area: &[u8], uuid: &[u8; 16]) -> Result<Self, CheckpointError> {
        let need = Self::encoded_len(area)?;
        let short = CheckpointError::Short { have: area.len() as u64, need };
        let bytes = usize::try_from(need).ok().and_then(|need| area.get(..need)).ok_or(short.clone())?;
        let (header, payload) = RawHeader::ref_from_prefix(bytes).map_err(|_| short)?;
        let stored = header.crc.get();
        let computed = super::crc_without_field(bytes, CRC_AT);
        if stored != computed {
            return Err(CheckpointError::Checksum { stored, computed });
        }
        if header.uuid != *uuid {
            return Err(CheckpointError::Foreign(header.uuid));
        }
        let mut reader = Reader(payload);
        let mut checkpoint = Self {
            uuid: header.uuid,
            generation: header.generation.get(),
            epoch: header.epoch.get(),
            recovery_lsn: header.recovery_lsn.get(),
            stable_lsn: header.stable_lsn.get(),
            nodes: reader.nodes()?,
            segments: reader.segments()?,
            index: reader.index()?,
            mounts: reader.mounts(header.epoch.get())?,
            next_id: reader.next_id()?,
            summarised: Vec::new(),
            ranges: Vec::new(),
        };
        reader.summaries(&mut checkpoint)?;
        if reader.0.is_empty() { Ok(checkpoint) } else { Err(CheckpointError::Overrun("its end")) }
    }
}

impl Summarised {
    fn raw(self) -> RawSummarised {
        let (lsn, total) = match self {
            Self::No => (0, 0),
            Self::Here => (0, 1),
            Self::At { lsn, total } => (lsn, total),
        };
        RawSummarised { lsn: lsn.into(), total: total.into(), reserved: 0.into() }
    }

    fn of(raw: &RawSummarised) -> Result<Self, CheckpointError> {
        match (raw.lsn.get(), raw.total.get(), raw.reserved.get()) {
            (0, 0, 0) => Ok(Self::No),
            (0, 1, 0) => Ok(Self::Here),
            (lsn, total, 0) if lsn > 0 && total > 0 => Ok(Self::At { lsn, total }),
            _ => Err(CheckpointError::Senseless("the place of a summary can't be")),
        }
    }
}

/// A count as it is stored. More than that are more bytes than a checkpoint area may have.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn put_count(bytes: &mut Vec<u8>, n: usize) {
    bytes.extend_from_slice(&count(n).to_le_bytes());
}

/// What is still unread of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CheckpointError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(CheckpointError::Overrun(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn count(&mut self, what: &'static str) -> Result<usize, CheckpointError> {
        let bytes = self.take(4, what)?;
        let n = U32::read_from_bytes(bytes).map_err(|_| CheckpointError::Overrun(what))?;
        usize::try_from(n.get()).map_err(|_| CheckpointError::Overrun(what))
    }

    /// `n` fixed-size structures: their bytes are seen before anything is allocated for them.
    fn array<T: FromBytes + Immutable + KnownLayout + Unaligned>(
        &mut self,
        n: usize,
        what: &'static str,
    ) -> Result<&'a [T], CheckpointError> {
        let len = n.checked_mul(size_of::<T>()).ok_or(CheckpointError::Overrun(what))?;
        let bytes = self.take(len, what)?;
        <[T]>::ref_from_bytes(bytes).map_err(|_| CheckpointError::Overrun(what))
    }

    /// The lists of unlike lengths grow as they are read: their count alone allocates nothing.
    fn nodes(&mut self) -> Result<Vec<CatalogEntry>, CheckpointError> {
        let n = self.count("number of catalog entries")?;
        let (mut nodes, mut ids) = (Vec::new(), HashSet::new());
        for _ in 0..n {
            let len = self.count("length of a catalog entry")?;
            let entry = CatalogEntry::decode(self.take(len, "a catalog entry")?)?;
            if !ids.insert(entry.id) {
                return Err(CheckpointError::Senseless("two logs or directories have one id"));
            }
            nodes.push(entry);
        }
        let names: HashSet<(u32, &[u8])> = nodes.iter().map(|node| (node.parent, node.name.as_slice())).collect();
        if names.len() != nodes.len() {
            return Err(CheckpointError::Senseless("two logs or directories have one name"));
        }
        Ok(nodes)
    }

    fn next_id(&mut self) -> Result<u32, CheckpointError> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let bytes = self.take(size_of::<u32>(), "the next id")?;
        let next_id = U32::read_from_bytes(bytes).map_err(|_| CheckpointError::Overrun("the next id"))?.get();
        if next_id == 0 { Err(CheckpointError::Senseless("the next id is 0")) } else { Ok(next_id) }
    }

    /// Checkpoints that know of no summaries end in front of them.
    fn summaries(&mut self, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let n = self.count("number of summaries")?;
        if n == 0 || n != checkpoint.segments.len() {
            return Err(CheckpointError::Senseless("not every segment has a line of summaries"));
        }
        let raw: &[RawSummarised] = self.array(n, "the summaries")?;
        checkpoint.summarised = raw.iter().map(Summarised::of).collect::<Result<_, _>>()?;
        let n = self.count("number of ranges")?;
        let raw: &[RawRange] = self.array(n, "the ranges")?;
        checkpoint.ranges = raw.iter().map(SavedRange::of).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn segments(&mut self) -> Result<Vec<SegmentEntry>, CheckpointError> {
        let n = self.count("number of segments")?;
        let raw: &[RawSegment] = self.array(n, "the segment table")?;
        let mut places = HashSet::with_capacity(n);
        raw.iter()
            .map(|raw| {
                if !places.insert(raw.physical.get()) {
                    return Err(CheckpointError::Senseless("two segments have one place"));
                }
                Ok(SegmentEntry {
                    sequence: raw.sequence.get(),
                    physical: raw.physical.get(),
                    state: SegmentState::from_number(raw.state.get())
                        .ok_or(CheckpointError::Senseless("a segment has an unknown state"))?,
                    epoch: raw.epoch.get(),
                })
            })
            .collect()
    }

    /// Those up to the one that wrote the checkpoint. The first checkpoints of version 1 end in front of it.
    fn mounts(&mut self, epoch: u64) -> Result<Vec<MountEntry>, CheckpointError> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let n = self.count("number of mounts")?;
        let raw: &[RawMount] = self.array(n, "the mounts")?;
        let mounts: Vec<MountEntry> = raw
            .iter()
            .map(|raw| MountEntry {
                epoch: raw.epoch.get(),
                cut_lsn: raw.cut_lsn.get(),
                first_lsn: raw.first_lsn.get(),
            })
            .collect();
        let ordered = mounts.is_sorted_by(|a, b| a.epoch < b.epoch && a.first_lsn < b.first_lsn);
        if !ordered || mounts.iter().any(|mount| mount.cut_lsn > mount.first_lsn) {
            return Err(CheckpointError::Senseless("the mounts are out of order"));
        }
        if mounts.last().is_some_and(|mount| mount.epoch > epoch) {
            return Err(CheckpointError::Senseless("it tells of a mount that comes after it"));
        }
        Ok(mounts)
    }

    fn index(&mut self) -> Result<Vec<LogIndex>, CheckpointError> {
        let n = self.count("number of indexes")?;
        let mut indexes = Vec::new();
        for _ in 0..n {
            let raw = match self.array::<RawIndex>(1, "an index")? {
                [raw] => raw,
                _ => return Err(CheckpointError::Overrun("an index")),
            };
            let (log_id, granularity) = (raw.log_id.get(), raw.granularity.get());
            let n = usize::try_from(raw.count.get()).map_err(|_| CheckpointError::Overrun("an index"))?;
            let points: Vec<(u64, Lsn)> = self
                .array::<RawPoint>(n, "points of an index")?
                .iter()
                .map(|point| (point.offset.get(), point.lsn.get()))
                .collect();
            if !points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1) {
                return Err(CheckpointError::Senseless("an index is out of order"));
            }
            indexes.push(LogIndex { log_id, granularity, points });
        }
        Ok(indexes)
    }
}
