//! Catalog entries: name, owner, size and times of a log or a directory. They are the payload of META frames, and a
//! part of checkpoints.
//!
//! Version 1 knew one log in the root directory, and one entry to a frame. Version 2 knows directories, what became of
//! the node, and any number of entries behind one another, so that a change of several nodes is one frame: there
//! whole or not at all.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_OFFSET, round_up_frame};

/// Version of the entry's layout that is written.
pub const ENTRY_VERSION: u16 = 2;
/// The version before: read, never written.
pub const ENTRY_VERSION_1: u16 = 1;
/// Bytes of an entry in front of its name.
pub const ENTRY_FIXED: usize = 128;
/// The same in version 1.
pub const ENTRY_FIXED_1: usize = 72;
/// Longest name in bytes, as everywhere in Linux.
pub const NAME_MAX: usize = 255;
/// Id of the root directory. It has no name and no parent.
pub const ROOT_ID: u32 = u32::MAX;
/// In `flags`: the modification time was set by hand and doesn't follow the last record.
pub const FLAG_MTIME_SET: u32 = 1;
/// In `flags` of the root: a log that was not for everybody was removed, and its bytes may still lie on the device.
pub const FLAG_SECRETS: u32 = 2;
/// In `flags` of the root: a full store gives up its oldest records instead of refusing new ones.
pub const FLAG_DROP_OLDEST: u32 = 4;
/// Permission bits.
const MODE_BITS: u32 = 0o7777;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    version: U16,
    name_len: U16,
    id: U32,
    parent: U32,
    kind: u8,
    what: u8,
    reserved: [u8; 2],
    mode: U32,
    uid: U32,
    gid: U32,
    flags: U32,
    size: U64,
    head: U64,
    device_bytes: U64,
    mtime_ns: U64,
    ctime_ns: U64,
    btime_ns: U64,
    first_lsn: U64,
    end_lsn: U64,
    retain_bytes: U64,
    retain_age_ns: U64,
    keep_min: U64,
    reserved_2: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw1 {
    version: U16,
    name_len: U16,
    log_id: U32,
    mode: U32,
    uid: U32,
    gid: U32,
    flags: U32,
    size: U64,
    head: U64,
    mtime_ns: U64,
    ctime_ns: U64,
    btime_ns: U64,
    device_bytes: U64,
}

const _: () = assert!(size_of::<Raw>() == ENTRY_FIXED && size_of::<Raw1>() == ENTRY_FIXED_1);

/// A node is one or the other for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum NodeKind {
    /// An append-only file.
    #[default]
    Log = 1,
    /// Holds names.
    Directory = 2,
}

/// What a META frame says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CatalogChange {
    /// Its attributes are these from now on. The only one in checkpoints.
    Attributes = 1,
    /// It has this name in this directory from now on, new or renamed; the directory's times become the frame's.
    Named = 2,
    /// It is no more; its directory's times become the frame's.
    Gone = 3,
}

/// What the catalog knows of a log or a directory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CatalogEntry {
    /// Its id, from 1, never used for another node; `ROOT_ID`.
    pub id: u32,
    /// Id of the directory that it is in; 0 for the root.
    pub parent: u32,
    /// Log or directory.
    pub kind: NodeKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `FLAG_MTIME_SET`, `FLAG_SECRETS`, `FLAG_DROP_OLDEST`; other bits are kept as they are.
    pub flags: u32,
    /// Logical offset of its end.
    pub size: u64,
    /// First retained offset, at most `size`.
    pub head: u64,
    /// Bytes of the device that its frames take.
    pub device_bytes: u64,
    /// Modification, ns since 1970.
    pub mtime_ns: u64,
    /// Change of attributes, ns since 1970.
    pub ctime_ns: u64,
    /// Birth, ns since 1970.
    pub btime_ns: u64,
    /// LSN of the frame that holds its head; 0 if there is none, or unknown.
    pub first_lsn: u64,
    /// LSN behind its last frame; 0 if unknown.
    pub end_lsn: u64,
    /// Retention: at most so many bytes are kept. Of these three 0 means what the root says, and in the root no limit;
    /// all bits set mean no limit.
    pub retain_bytes: u64,
    /// Retention: records are kept so long at most, in ns.
    pub retain_age_ns: u64,
    /// Retention: never fewer bytes than this are kept.
    pub keep_min: u64,
    /// Its name: 1 to 255 bytes without `/` and NUL, neither `.` nor `..`. Empty for the root alone.
    pub name: Vec<u8>,
}

/// One entry of a META frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRecord {
    /// What became of the node.
    pub change: CatalogChange,
    /// The node.
    pub entry: CatalogEntry,
}

/// Why bytes are no catalog entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Fewer or more bytes than it says.
    #[error("catalog entry has {have} bytes and needs {need}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes that it should have.
        need: usize,
    },
    /// Written by a newer llamafs.
    #[error("catalog entry has version {0}, this llamafs reads up to {ENTRY_VERSION}: use a newer llamafs")]
    Version(u16),
    /// No name for a file.
    #[error("catalog entry has an impossible name")]
    Name,
    /// A field has a value that it can't have.
    #[error("catalog entry makes no sense: {0}")]
    Senseless(&'static str),
}

/// `name` can be that of a log or a directory.
pub fn is_valid_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.iter().any(|&b| b == b'/' || b == 0) && name != b"." && name != b".."
}

/// Bytes of an entry with a name of `name_len` bytes.
pub const fn entry_len(name_len: usize) -> usize {
    ENTRY_FIXED + round_up_frame(name_len)
}

impl NodeKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Log, Self::Directory].into_iter().find(|kind| *kind as u8 == number)
    }
}

impl CatalogChange {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Attributes, Self::Named, Self::Gone].into_iter().find(|change| *change as u8 == number)
    }
}

impl CatalogRecord {
    /// The record's bytes. A name that is none gives bytes that no decoder accepts: ask `is_valid_name` first.
    pub fn encode(&self) -> Vec<u8> {
        self.entry.encode_as(self.change)
    }

    /// Reads the payload of a META frame: one entry of version 1, or any number of version 2.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, CatalogError> {
        if version(bytes) == Some(ENTRY_VERSION_1) {
            return Ok(vec![Self { change: CatalogChange::Attributes, entry: decode_1(bytes)? }]);
        }
        let (mut records, mut rest) = (Vec::new(), bytes);
        while records.is_empty() || !rest.is_empty() {
            let (record, behind) = decode_2(rest)?;
            records.push(record);
            rest = behind;
        }
        Ok(records)
    }
}

impl CatalogEntry {
    /// The entry as a checkpoint holds it.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(CatalogChange::Attributes)
    }

    fn encode_as(&self, what: CatalogChange) -> Vec<u8> {
        let name = self.name.get(..self.name.len().min(usize::from(u16::MAX))).unwrap_or(&[]);
        let raw = Raw {
            version: ENTRY_VERSION.into(),
            name_len: (name.len() as u16).into(),
            id: self.id.into(),
            parent: self.parent.into(),
            kind: self.kind as u8,
            what: what as u8,
            reserved: [0; 2],
            mode: self.mode.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            flags: self.flags.into(),
            size: self.size.into(),
            head: self.head.into(),
            device_bytes: self.device_bytes.into(),
            mtime_ns: self.mtime_ns.into(),
            ctime_ns: self.ctime_ns.into(),
            btime_ns: self.btime_ns.into(),
            first_lsn: self.first_lsn.into(),
            end_lsn: self.end_lsn.into(),
            retain_bytes: self.retain_bytes.into(),
            retain_age_ns: self.retain_age_ns.into(),
            keep_min: self.keep_min.into(),
            reserved_2: 0.into(),
        };
        let mut bytes = Vec::with_capacity(entry_len(name.len()));
        bytes.extend_from_slice(raw.as_bytes());
        bytes.extend_from_slice(name);
        bytes.resize(entry_len(name.len()), 0);
        bytes
    }

    /// Bytes that `encode` gives.
    pub fn encoded_len(&self) -> usize {
        entry_len(self.name.len())
    }

    /// It is the root directory.
    pub fn is_root(&self) -> bool {
        self.id == ROOT_ID
    }

    /// Reads an entry of a checkpoint from exactly its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        if version(bytes) == Some(ENTRY_VERSION_1) {
            return decode_1(bytes);
        }
        let (record, rest) = decode_2(bytes)?;
        if !rest.is_empty() {
            return Err(CatalogError::Length { have: bytes.len(), need: bytes.len() - rest.len() });
        }
        if record.change != CatalogChange::Attributes {
            return Err(CatalogError::Senseless("it is a change, not a state"));
        }
        Ok(record.entry)
    }

    fn check(self) -> Result<Self, CatalogError> {
        let require = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(CatalogError::Senseless(what)) };
        if self.is_root() {
            if !self.name.is_empty() {
                return Err(CatalogError::Name);
            }
            require(self.kind == NodeKind::Directory && self.parent == 0, "the root is no root")?;
        } else if !is_valid_name(&self.name) {
            return Err(CatalogError::Name);
        }
        require(self.id != 0, "id is 0")?;
        require(self.is_root() || (self.parent != 0 && self.parent != self.id), "it is in no directory, or in itself")?;
        require(self.mode & !MODE_BITS == 0, "mode has more than permission bits")?;
        require(self.head <= self.size, "head is behind the end")?;
        require(self.size.max(self.device_bytes) <= MAX_OFFSET, "log is larger than any file")?;
        require(self.kind == NodeKind::Log || self.size == 0, "a directory has a size")?;
        Ok(self)
    }
}

/// The version says how long the rest is, so it comes first.
fn version(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk::<2>().map(|v| u16::from_le_bytes(*v))
}

/// A log of version 1 is in the root directory.
fn decode_1(bytes: &[u8]) -> Result<CatalogEntry, CatalogError> {
    let have = bytes.len();
    let short = CatalogError::Length { have, need: ENTRY_FIXED_1 };
    let (raw, name) = Raw1::ref_from_prefix(bytes).map_err(|_| short)?;
    let need = ENTRY_FIXED_1 + usize::from(raw.name_len.get());
    if have != need {
        return Err(CatalogError::Length { have, need });
    }
    let entry = CatalogEntry {
        id: raw.log_id.get(),
        parent: ROOT_ID,
        mode: raw.mode.get(),
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        flags: raw.flags.get(),
        size: raw.size.get(),
        head: raw.head.get(),
        mtime_ns: raw.mtime_ns.get(),
        ctime_ns: raw.ctime_ns.get(),
        btime_ns: raw.btime_ns.get(),
        device_bytes: raw.device_bytes.get(),
        name: name.to_vec(),
        ..CatalogEntry::default()
    };
    if entry.is_root() {
        return Err(CatalogError::Senseless("log has the root's id"));
    }
    entry.check()
}

/// The record at the front of `bytes`, and what lies behind it.
fn decode_2(bytes: &[u8]) -> Result<(CatalogRecord, &[u8]), CatalogError> {
    if let Some(version) = version(bytes).filter(|&v| v != ENTRY_VERSION) {
        return Err(CatalogError::Version(version));
    }
    let have = bytes.len();
    let short = CatalogError::Length { have, need: ENTRY_FIXED };
    let (raw, rest) = Raw::ref_from_prefix(bytes).map_err(|_| short)?;
    let name_len = usize::from(raw.name_len.get());
    let short = CatalogError::Length { have, need: entry_len(name_len) };
    let (line, behind) = rest.split_at_checked(round_up_frame(name_len)).ok_or(short)?;
    let (name, padding) = line.split_at_checked(name_len).ok_or(short)?;
    if !super::is_zero(padding) || raw.reserved != [0; 2] || raw.reserved_2.get() != 0 {
        return Err(CatalogError::Senseless("reserved bytes are not zero"));
    }
    let change =
        CatalogChange::from_number(raw.what).ok_or(CatalogError::Senseless("it says nothing known of its node"))?;
    let kind =
        NodeKind::from_number(raw.kind).ok_or(CatalogError::Senseless("its node is neither a log nor a directory"))?;
    let entry = CatalogEntry {
        id: raw.id.get(),
        parent: raw.parent.get(),
        kind,
        mode: raw.mode.get(),
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        flags: raw.flags.get(),
        size: raw.size.get(),
        head: raw.head.get(),
        device_bytes: raw.device_bytes.get(),
        mtime_ns: raw.mtime_ns.get(),
        ctime_ns: raw.ctime_ns.get(),
        btime_ns: raw.btime_ns.get(),
        first_lsn: raw.first_lsn.get(),
        end_lsn: raw.end_lsn.get(),
        retain_bytes: raw.retain_bytes.get(),
        retain_age_ns: raw.retain_age_ns.get(),
        keep_min: raw.keep_min.get(),
        name: name.to_vec(),
    };
    if entry.is_root() && change != CatalogChange::Attributes {
        return Err(CatalogError::Senseless("the root is neither named nor removed"));
    }
    Ok((CatalogRecord { change, entry: entry.check()? }, behind))
}
