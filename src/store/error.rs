//! Why a store can't be opened or made: one sentence each, what is wrong and what to do.

use crate::io::IoError;

/// Why a store can't be opened, or not be formatted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No superblock.
    #[error(
        "{device}: not a llamafs store; `llamafs format` makes one, and `llamafs salvage` writes out what can be read if \
         it was one"
    )]
    NotAStore {
        /// The device.
        device: String,
    },
    /// Made by a newer llamafs.
    #[error("{device}: format version {version} is newer than this llamafs reads ({ours}); use a newer llamafs")]
    NewerVersion {
        /// The device.
        device: String,
        /// Its version.
        version: u32,
        /// The newest version known here.
        ours: u32,
    },
    /// Features this code does not know.
    #[error("{device}: uses features unknown to this llamafs ({features:#x}); use a newer llamafs{hint}")]
    Features {
        /// The device.
        device: String,
        /// The unknown bits.
        features: u64,
        /// What else can be done.
        hint: &'static str,
    },
    /// Neither superblock is whole.
    #[error(
        "{device}: both superblocks are damaged ({why}); nothing was changed, `llamafs salvage` writes out what can be read"
    )]
    BothSuperblocksDamaged {
        /// The device.
        device: String,
        /// What is wrong with them.
        why: String,
    },
    /// Shorter than it was.
    #[error("{device}: truncated: the store needs {need} bytes, the device has {have}; restore its size")]
    Truncated {
        /// The device.
        device: String,
        /// Bytes at format.
        need: u64,
        /// Bytes now.
        have: u64,
    },
    /// The device's blocks are larger than the store's.
    #[error(
        "{device}: its blocks of {device_block} bytes are larger than the store's of {block}; use a device with smaller blocks"
    )]
    Alignment {
        /// The device.
        device: String,
        /// Bytes.
        device_block: u32,
        /// Bytes.
        block: u32,
    },
    /// No checkpoint and no segment to start from.
    #[error("{device}: damaged: {what}; `llamafs salvage` writes out what can be read")]
    Damaged {
        /// The device.
        device: String,
        /// What is missing.
        what: String,
    },
    /// `format` on something too small.
    #[error("{device}: too small: a store needs at least {need} bytes, there are {have}")]
    TooSmall {
        /// The device.
        device: String,
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// A setting that can't be.
    #[error("{0}")]
    Setting(String),
    /// The device failed.
    #[error("{device}: {error}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        error: IoError,
    },
    /// The device answers writes as done that it has not done.
    #[error(
        "{device}: superblock {copy} was written and flushed, and what is read back is something else: the device loses \
         writes; nothing was appended, copy the store to another device with `llamafs salvage`"
    )]
    NotKept {
        /// The device.
        device: String,
        /// The copy, A or B.
        copy: &'static str,
    },
    /// No memory.
    #[error("out of memory: {0}")]
    Memory(String),
}

impl OpenError {
    /// The errno that fits best.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotAStore { .. } | Self::Setting(_) | Self::Alignment { .. } => libc::EINVAL,
            Self::NewerVersion { .. } | Self::Features { .. } => libc::EPROTONOSUPPORT,
            Self::BothSuperblocksDamaged { .. } | Self::Damaged { .. } | Self::Truncated { .. } => libc::EUCLEAN,
            Self::TooSmall { .. } => libc::ENOSPC,
            Self::Device { error, .. } => error.errno,
            Self::NotKept { .. } => libc::EIO,
            Self::Memory(_) => libc::ENOMEM,
        }
    }
}
