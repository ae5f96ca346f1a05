//! A catalog entry: name, owner, size and times of one log. The payload of META frames, and a part of checkpoints.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the entry's layout.
pub const ENTRY_VERSION: u16 = 1;
/// Bytes of an entry in front of its name.
pub const ENTRY_FIXED: usize = 72;
/// Longest name in bytes, as everywhere in Linux.
pub const NAME_MAX: usize = 255;
/// In `flags`: the modification time was set by hand and doesn't follow the last record.
pub const FLAG_MTIME_SET: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
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

const _: () = assert!(size_of::<Raw>() == ENTRY_FIXED);

/// What the catalog knows of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its id, from 1.
    pub log_id: u32,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `FLAG_MTIME_SET`; other bits are kept as they are.
    pub flags: u32,
    /// Logical offset of its end.
    pub size: u64,
    /// First retained offset, at most `size`.
    pub head: u64,
    /// Modification, ns since 1970.
    pub mtime_ns: u64,
    /// Change of attributes, ns since 1970.
    pub ctime_ns: u64,
    /// Birth, ns since 1970.
    pub btime_ns: u64,
    /// Bytes of the device that its frames take.
    pub device_bytes: u64,
    /// Its name: 1 to 255 bytes without `/` and NUL, neither `.` nor `..`.
    pub name: Vec<u8>,
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
    #[error("catalog entry has version {0}, this llamafs reads version {ENTRY_VERSION}: use a newer llamafs")]
    Version(u16),
    /// No name for a file.
    #[error("catalog entry has an impossible name")]
    Name,
    /// A field has a value that it can't have.
    #[error("catalog entry makes no sense: {0}")]
    Senseless(&'static str),
}

/// `name` can be that of a log.
pub fn is_valid_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.iter().any(|&b| b == b'/' || b == 0) && name != b"." && name != b".."
}

impl CatalogEntry {
    /// The entry's bytes. A name that is none gives an entry that no decoder accepts: ask `is_valid_name` first.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.name.get(..self.name.len().min(usize::from(u16::MAX))).unwrap_or(&[]);
        let raw = Raw {
            version: ENTRY_VERSION.into(),
            name_len: (name.len() as u16).into(),
            log_id: self.log_id.into(),
            mode: self.mode.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            flags: self.flags.into(),
            size: self.size.into(),
            head: self.head.into(),
            mtime_ns: self.mtime_ns.into(),
            ctime_ns: self.ctime_ns.into(),
            btime_ns: self.btime_ns.into(),
            device_bytes: self.device_bytes.into(),
        };
        let mut bytes = Vec::with_capacity(ENTRY_FIXED + name.len());
        bytes.extend_from_slice(raw.as_bytes());
        bytes.extend_from_slice(name);
        bytes
    }

    /// Reads an entry from exactly its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let have = bytes.len();
        // The version says how long the rest is, so it comes first.
        let version = bytes.first_chunk::<2>().map(|v| u16::from_le_bytes(*v));
        if let Some(version) = version.filter(|&v| v != ENTRY_VERSION) {
            return Err(CatalogError::Version(version));
        }
        let short = CatalogError::Length { have, need: ENTRY_FIXED };
        let (raw, name) = Raw::ref_from_prefix(bytes).map_err(|_| short)?;
        let need = ENTRY_FIXED + usize::from(raw.name_len.get());
        if have != need {
            return Err(CatalogError::Length { have, need });
        }
        if !is_valid_name(name) {
            return Err(CatalogError::Name);
        }
        let entry = Self {
            log_id: raw.log_id.get(),
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
        };
        if entry.log_id == 0 {
            return Err(CatalogError::Senseless("log id is 0"));
        }
        if entry.mode & !0o7777 != 0 {
            return Err(CatalogError::Senseless("mode has more than permission bits"));
        }
        if entry.head > entry.size {
            return Err(CatalogError::Senseless("head is behind the end"));
        }
        Ok(entry)
    }
}
