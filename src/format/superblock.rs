//! The superblock: what the store is and where everything lies.
//!
//! Two copies are written alternately, so a torn write leaves the older one. `decode` proves the geometry before
//! anybody computes with it: behind it no sum of these numbers overflows or leaves the device.

use super::{
    CHECKPOINT_START, FORMAT_VERSION, LABEL_MAX, Lsn, MAX_BLOCK, MAX_CHECKPOINT_BYTES, MAX_COUNT, MAX_OFFSET,
    MAX_PAYLOAD, MAX_SEGMENT, MAX_SEGMENTS, MIN_BLOCK, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_LEN, crc,
    crc_without_field, frame_len, is_zero, put_text, uuid_text,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes of a store.
pub const MAGIC: [u8; 8] = *b"LLAMAFS1";
/// Incompatible feature: the log has MOVD and SUMM frames, and segments are let go anywhere in it.
pub const FEATURE_CLEANING: u64 = 1;
/// Incompatible features that this code understands.
pub const KNOWN_INCOMPAT: u64 = FEATURE_CLEANING;
/// Read-only compatible features that this code can write with: none yet.
pub const KNOWN_RO_COMPAT: u64 = 0;

const CRC_AT: usize = 12;
const FLAG_CLEAN: u32 = 1;
const FLAG_WORM: u32 = 2;
const BANNER_LEN: usize = 512;

/// The block as it lies on the device.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    uuid: [u8; 16],
    label: [u8; LABEL_MAX],
    generation: U64,
    feature_compat: U64,
    feature_ro_compat: U64,
    feature_incompat: U64,
    block_size: U32,
    segment_size: U32,
    segment_count: U64,
    data_start: U64,
    checkpoint_start: U64,
    checkpoint_bytes: U64,
    device_bytes: U64,
    epoch: U64,
    flags: U32,
    reserved: U32,
    stable_lsn: U64,
    end_lsn: U64,
    created_ns: U64,
    mounted_ns: U64,
    max_record: U32,
    reserved_2: U32,
    reserved_3: [u8; 24],
    /// Kept for an error record; written zero, not looked at.
    error_record: [u8; 256],
    banner: [u8; BANNER_LEN],
    rest: [u8; 3072],
}

const _: () = assert!(size_of::<Raw>() == SUPERBLOCK_LEN);

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Name of the store; every checksum in it depends on this.
    pub uuid: [u8; 16],
    /// Name for people, up to 64 bytes of UTF-8 without NUL. `encode` cuts a longer one.
    pub label: String,
    /// The valid copy with the higher one counts. Even ones lie in copy A, odd ones in B.
    pub generation: u64,
    /// Features that a program may ignore.
    pub feature_compat: u64,
    /// Features that a program which doesn't know them may only read with.
    pub feature_ro_compat: u64,
    /// Features that a program must know to touch the store at all.
    pub feature_incompat: u64,
    /// Unit of writing, a power of two from 4096 to 65536.
    pub block_size: u32,
    /// Bytes of a segment, a multiple of the block, at most 2 GiB.
    pub segment_size: u32,
    /// Number of segments.
    pub segment_count: u64,
    /// Where segment 0 lies.
    pub data_start: u64,
    /// Where checkpoint area A lies; B lies right behind it.
    pub checkpoint_start: u64,
    /// Bytes of one checkpoint area, a multiple of the block.
    pub checkpoint_bytes: u64,
    /// Bytes of the device when it was formatted.
    pub device_bytes: u64,
    /// Number of the last read-write mount; 0 if there was none.
    pub epoch: u64,
    /// The last mount ended in an orderly way.
    pub clean: bool,
    /// Kept for write-once stores.
    pub worm: bool,
    /// Hint: the store was stable up to here.
    pub stable_lsn: Lsn,
    /// Exact end of the log if `clean`.
    pub end_lsn: Lsn,
    /// Time of `format`, ns since 1970.
    pub created_ns: u64,
    /// Time of the last read-write mount, ns since 1970.
    pub mounted_ns: u64,
    /// Largest record in bytes.
    pub max_record: u32,
}

/// Why a block is no superblock to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Fewer than 4096 bytes were given.
    #[error("superblock is cut short: {0} bytes of 4096")]
    Short(usize),
    /// Another file system, or nothing.
    #[error("no llamafs superblock here (magic is not LLAMAFS1)")]
    NotMagic,
    /// Written by a newer llamafs.
    #[error("store has format version {0}, this llamafs reads version {FORMAT_VERSION}: use a newer llamafs")]
    Version(u32),
    /// Bits have changed.
    #[error("superblock is damaged: checksum is {computed:08x}, should be {stored:08x}")]
    Checksum {
        /// What the block says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Needs features that are unknown here.
    #[error("store needs unknown features {0:#x}: use a newer llamafs")]
    IncompatFeature(u64),
    /// The checksum is right but the numbers can't be.
    #[error("superblock makes no sense: {0}")]
    Geometry(&'static str),
}

impl Superblock {
    /// Byte offset of the copy that this generation is written to.
    pub fn copy_offset(&self) -> u64 {
        if self.generation.is_multiple_of(2) { SUPERBLOCK_A } else { SUPERBLOCK_B }
    }

    /// Read-only compatible features that are unknown here: mount read-only if this isn't 0.
    pub fn unknown_ro_features(&self) -> u64 {
        self.feature_ro_compat & !KNOWN_RO_COMPAT
    }

    /// Byte offset of segment `physical`, if there is one.
    pub fn segment_offset(&self, physical: u32) -> Option<u64> {
        if u64::from(physical) >= self.segment_count {
            return None;
        }
        u64::from(physical).checked_mul(u64::from(self.segment_size))?.checked_add(self.data_start)
    }

    /// The 4096 bytes of the block.
    pub fn encode(&self) -> Box<[u8; SUPERBLOCK_LEN]> {
        let mut label = [0; LABEL_MAX];
        put_text(&mut label, &self.label);
        let mut banner = [0; BANNER_LEN];
        put_text(&mut banner, &self.banner());
        let flags = if self.clean { FLAG_CLEAN } else { 0 } | if self.worm { FLAG_WORM } else { 0 };
        let mut raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            crc: 0.into(),
            uuid: self.uuid,
            label,
            generation: self.generation.into(),
            feature_compat: self.feature_compat.into(),
            feature_ro_compat: self.feature_ro_compat.into(),
            feature_incompat: self.feature_incompat.into(),
            block_size: self.block_size.into(),
            segment_size: self.segment_size.into(),
            segment_count: self.segment_count.into(),
            data_start: self.data_start.into(),
            checkpoint_start: self.checkpoint_start.into(),
            checkpoint_bytes: self.checkpoint_bytes.into(),
            device_bytes: self.device_bytes.into(),
            epoch: self.epoch.into(),
            flags: flags.into(),
            reserved: 0.into(),
            stable_lsn: self.stable_lsn.into(),
            end_lsn: self.end_lsn.into(),
            created_ns: self.created_ns.into(),
            mounted_ns: self.mounted_ns.into(),
            max_record: self.max_record.into(),
            reserved_2: 0.into(),
            reserved_3: [0; 24],
            error_record: [0; 256],
            banner,
            rest: [0; 3072],
        };
        raw.crc = crc::of(raw.as_bytes()).into();
        Box::new(zerocopy::transmute!(raw))
    }

    /// What the block says, with geometry that is safe to compute with. Looks at the first 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| SuperblockError::Short(bytes.len()))?;
        if raw.magic != MAGIC {
            return Err(SuperblockError::NotMagic);
        }
        let stored = raw.crc.get();
        let version = raw.version.get();
        let computed = crc_without_field(raw.as_bytes(), CRC_AT);
        if stored != computed {
            return Err(SuperblockError::Checksum { stored, computed });
        }
        if version != FORMAT_VERSION {
            return Err(SuperblockError::Version(version));
        }
        // Unknown features may have changed anything below, so they are judged first.
        let unknown = raw.feature_incompat.get() & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(SuperblockError::IncompatFeature(unknown));
        }
        let flags = raw.flags.get();
        let reserved_is_zero = raw.reserved.get() == 0
            && raw.reserved_2.get() == 0
            && is_zero(&raw.reserved_3)
            && is_zero(&raw.rest)
            && flags & !(FLAG_CLEAN | FLAG_WORM) == 0;
        if !reserved_is_zero {
            return Err(SuperblockError::Geometry("reserved bytes are not zero"));
        }
        let superblock = Self {
            uuid: raw.uuid,
            label: label_text(&raw.label)?,
            generation: raw.generation.get(),
            feature_compat: raw.feature_compat.get(),
            feature_ro_compat: raw.feature_ro_compat.get(),
            feature_incompat: raw.feature_incompat.get(),
            block_size: raw.block_size.get(),
            segment_size: raw.segment_size.get(),
            segment_count: raw.segment_count.get(),
            data_start: raw.data_start.get(),
            checkpoint_start: raw.checkpoint_start.get(),
            checkpoint_bytes: raw.checkpoint_bytes.get(),
            device_bytes: raw.device_bytes.get(),
            epoch: raw.epoch.get(),
            clean: flags & FLAG_CLEAN != 0,
            worm: flags & FLAG_WORM != 0,
            stable_lsn: raw.stable_lsn.get(),
            end_lsn: raw.end_lsn.get(),
            created_ns: raw.created_ns.get(),
            mounted_ns: raw.mounted_ns.get(),
            max_record: raw.max_record.get(),
        };
        superblock.check_geometry()?;
        Ok(superblock)
    }

    /// The numbers fit each other and the device. `format` asks this too, before it writes.
    pub fn check_geometry(&self) -> Result<(), SuperblockError> {
        let require = |holds: bool, what: &'static str| {
            if holds { Ok(()) } else { Err(SuperblockError::Geometry(what)) }
        };
        let block = u64::from(self.block_size);
        let segment = u64::from(self.segment_size);
        require(
            self.block_size.is_power_of_two() && (MIN_BLOCK..=MAX_BLOCK).contains(&self.block_size),
            "block size is not a power of two from 4096 to 65536",
        )?;
        require(
            segment % block == 0 && segment >= 2 * block && self.segment_size <= MAX_SEGMENT,
            "segment size is not a multiple of the block, from two blocks to 2 GiB",
        )?;
        require((1..=MAX_SEGMENTS).contains(&self.segment_count), "segment count is 0 or too large")?;
        require(
            self.checkpoint_start >= CHECKPOINT_START && self.checkpoint_start.is_multiple_of(block),
            "checkpoint area overlaps the superblocks or is not on a block",
        )?;
        require(
            (u64::from(MIN_BLOCK)..=MAX_CHECKPOINT_BYTES).contains(&self.checkpoint_bytes)
                && self.checkpoint_bytes.is_multiple_of(block),
            "checkpoint area is empty, too large or not a number of blocks",
        )?;
        require(
            // At most 2^31, so doubling is safe.
            self.checkpoint_start.checked_add(2 * self.checkpoint_bytes).is_some_and(|end| end <= self.data_start)
                && self.data_start.is_multiple_of(block),
            "segments overlap the checkpoint areas or are not on a block",
        )?;
        require(
            // At most 2^22 * 2^31, so the product is safe.
            self.data_start.checked_add(segment * self.segment_count).is_some_and(|end| end <= self.device_bytes),
            "segments reach past the end of the device",
        )?;
        require(self.device_bytes <= MAX_OFFSET, "device is larger than any file offset")?;
        require(
            self.generation.max(self.epoch) <= MAX_COUNT,
            "generation or epoch is larger than any count of mounts",
        )?;
        let record = self.max_record as usize;
        require(
            (1..=MAX_PAYLOAD).contains(&record) && frame_len(record) as u64 <= segment - block,
            "largest record is 0 or does not fit a segment",
        )
    }

    fn banner(&self) -> String {
        format!(
            "\nThis device holds a llamafs store, format version {FORMAT_VERSION}: append-only logs, written through\n\
             LLAMA's flush ring. Mount it with `llamafs mount`, look into it with `llamafs\n\
             dump`, or read on in hexdump -C: everything below is text, 16-byte lines and\n\
             frames named DATA META EPOC MARK VOID PADD. docs/format.md maps every byte.\n\
             uuid  {}\nlabel {}\n",
            uuid_text(&self.uuid),
            self.label.split('\0').next().unwrap_or(""),
        )
    }
}

fn label_text(field: &[u8]) -> Result<String, SuperblockError> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let (text, padding) = field.split_at_checked(end).unwrap_or((field, &[]));
    if !is_zero(padding) {
        return Err(SuperblockError::Geometry("label has bytes behind its end"));
    }
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(SuperblockError::Geometry("label is not UTF-8")),
    }
}
