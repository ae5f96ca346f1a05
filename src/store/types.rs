//! The words of the store's interface: what callers pass in and get back.

use std::fmt;
use std::sync::Arc;

use super::given::ReadBytes;
use crate::format::CatalogEntry;
use crate::format::catalog::FLAG_DROP_OLDEST;
pub use crate::format::{NodeKind, ROOT_ID};
use crate::io::IoError;

/// Id of a log or a directory; never reused within a store. 1 is `/log` of a new store, `ROOT_ID` the root, 0 none.
pub type NodeId = u32;
/// Id of a log.
pub type LogId = NodeId;

/// Where an append may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAt {
    /// At the end, wherever that is (`O_APPEND`).
    End,
    /// Only if the end is exactly here (a `write` without `O_APPEND`).
    Exactly(u64),
}

/// A record that the store has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Logical offset of its first byte in its log.
    pub offset: u64,
    /// LSN behind its frame: `make_stable(end_lsn)` makes it durable.
    pub end_lsn: u64,
}

/// How a durable flush ends on the device (`-o tail=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tail {
    /// The next flush rewrites the partial last block with the same prefix.
    #[default]
    Rewrite,
    /// Pad to the block: no sector that holds acknowledged bytes is ever written again.
    Pad,
}

/// What happens after a failed write or flush (`-o errors=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Appends stop with EROFS, reads go on.
    #[default]
    RemountRo,
    /// Appends and reads stop with EIO.
    Shutdown,
}

/// Default size of a ring buffer: the largest record, and room for headers and small ones.
pub const DEFAULT_BUFFER_SIZE: usize = (1 << 20) + (64 << 10);

/// Settings of an open store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Open without ever writing; appends get EROFS.
    pub read_only: bool,
    /// Longest time an accepted byte waits for its flush, in milliseconds.
    pub flush_ms: u64,
    /// How a durable flush ends on the device.
    pub tail: Tail,
    /// What happens after a failed write or flush.
    pub errors: OnError,
    /// Number of buffers in the flush ring, 2 to 64.
    pub ring_size: usize,
    /// Bytes in each buffer of the ring.
    pub buffer_size: usize,
    /// No more logs than these are made.
    pub max_logs: u64,
    /// No more directories.
    pub max_dirs: u64,
    /// The machine's clock, in ns since 1970: a test's own where a test sets it back.
    pub clock: fn() -> u64,
    /// Told of every head that goes up, whoever lets it: the log, where it begins now, and the LSN behind the change. For
    /// simulators and tests, which have to know each one; called under the log's lock.
    pub head_raised: fn(LogId, u64, u64),
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            flush_ms: 100,
            tail: Tail::default(),
            errors: OnError::default(),
            ring_size: 12,
            buffer_size: DEFAULT_BUFFER_SIZE,
            max_logs: u64::MAX,
            max_dirs: u64::MAX,
            clock: super::clock::now_ns,
            head_raised: |_, _, _| {},
        }
    }
}

/// Attributes of a log or a directory as `stat` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// The directory that it is in; 0 for the root.
    pub parent: NodeId,
    /// Log or directory.
    pub kind: NodeKind,
    /// Its name, without a slash. In lists of a store's logs its path from the root, without the first slash.
    pub name: Vec<u8>,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links: 0 for a log that was removed while it was open.
    pub nlink: u32,
    /// Logical offset of its end, in bytes.
    pub size: u64,
    /// First retained offset.
    pub head: u64,
    /// Bytes of the device that its frames take.
    pub device_bytes: u64,
    /// Times, ns since 1970.
    pub mtime_ns: u64,
    /// Change of attributes, ns since 1970.
    pub ctime_ns: u64,
    /// Birth, ns since 1970.
    pub btime_ns: u64,
    /// LSN behind its last record, or behind the last change of a directory: `make_stable(end_lsn)` is its fsync.
    pub end_lsn: u64,
    /// Retention as it was set, of a log or of the root: 0 the store's default, all bits set no limit.
    pub retain_bytes: u64,
    /// The same: at most so old, in ns.
    pub retain_age_ns: u64,
    /// The same: never fewer bytes.
    pub keep_min: u64,
    /// Of the root: a full store gives up its oldest records.
    pub drop_oldest: bool,
}

/// Attributes of a log.
pub type LogInfo = NodeInfo;

impl NodeInfo {
    /// What an entry tells.
    pub(crate) fn of(entry: &CatalogEntry, end_lsn: u64) -> Self {
        Self {
            id: entry.id,
            parent: entry.parent,
            kind: entry.kind,
            name: entry.name.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            nlink: 1,
            size: entry.size,
            head: entry.head,
            device_bytes: entry.device_bytes,
            mtime_ns: entry.mtime_ns,
            ctime_ns: entry.ctime_ns,
            btime_ns: entry.btime_ns,
            end_lsn,
            retain_bytes: entry.retain_bytes,
            retain_age_ns: entry.retain_age_ns,
            keep_min: entry.keep_min,
            drop_oldest: entry.flags & FLAG_DROP_OLDEST != 0,
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it stands for.
    pub id: NodeId,
    /// Log or directory.
    pub kind: NodeKind,
    /// The name.
    pub name: Arc<[u8]>,
}

/// What a rename does with a name that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameHow {
    /// It is removed in the same step.
    #[default]
    Replace,
    /// The rename is refused.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// A change of the catalog.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new log or directory.
    Create {
        /// Where.
        parent: NodeId,
        /// Its name.
        name: Vec<u8>,
        /// Log or directory.
        kind: NodeKind,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group, unless the directory hands down its own.
        gid: u32,
    },
    /// `unlink` of a log, `rmdir` of a directory.
    Remove {
        /// Where.
        parent: NodeId,
        /// Its name.
        name: Vec<u8>,
        /// What it has to be.
        kind: NodeKind,
    },
    /// Another name, another directory, or both.
    Rename {
        /// Where it is.
        parent: NodeId,
        /// Its name.
        name: Vec<u8>,
        /// Where it goes.
        new_parent: NodeId,
        /// Its new name.
        new_name: Vec<u8>,
        /// If there is one already.
        how: RenameHow,
    },
    /// Mode, owner or time.
    Attributes {
        /// Of this.
        id: NodeId,
        /// What changes.
        change: AttrChange,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The node as it is now; as it was, if it is gone.
    pub node: NodeInfo,
    /// This log has no name any more: it stays until [`super::LogStructuredStore::forget`].
    pub gone: Option<LogId>,
    /// LSN behind the change: `make_stable` of it makes it durable.
    pub lsn: u64,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of modification, ns since 1970.
    pub mtime_ns: Option<u64>,
    /// Retention: at most so many bytes; 0 the store's default, all bits set no limit.
    pub retain_bytes: Option<u64>,
    /// Retention: at most so old, in ns; as above.
    pub retain_age_ns: Option<u64>,
    /// Retention: never fewer bytes; as above.
    pub keep_min: Option<u64>,
    /// Of the root alone: a full store gives up its oldest records.
    pub drop_oldest: Option<bool>,
}

impl AttrChange {
    /// It changes what is kept.
    pub fn is_retention(&self) -> bool {
        self.retain_bytes.is_some()
            || self.retain_age_ns.is_some()
            || self.keep_min.is_some()
            || self.drop_oldest.is_some()
    }
}

/// Why the store refused. `errno()` is what a system call answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room for the record; nothing of it was taken.
    #[error("no space left on the device")]
    NoSpace,
    /// Larger than the store's largest record.
    #[error("record of {len} bytes is larger than the store's limit of {max} bytes")]
    TooLarge {
        /// Bytes asked for.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// `AppendAt::Exactly` was not the end.
    #[error("the offset is not the end of the log")]
    NotAtEnd,
    /// The ring is full: queue it with `append_later` or wait.
    #[error("the flush ring is full")]
    WouldBlock,
    /// Mounted read-only, or appends stopped after an error.
    #[error("the store is read-only")]
    ReadOnly,
    /// A device error or damage; the text says where.
    #[error("{0}")]
    Io(String),
    /// No memory for it just now; nothing was taken or changed.
    #[error("out of memory")]
    Memory,
    /// No such log or directory.
    #[error("no such log or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// The directory is not empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory is needed.
    #[error("not a directory")]
    NotADirectory,
    /// Not for a directory.
    #[error("is a directory")]
    IsADirectory,
    /// A directory can't be put into itself; a name can't be `.` or empty.
    #[error("no such change can be")]
    Invalid,
    /// Longer than 255 bytes, or too many directories within one another.
    #[error("the name is too long, or the directory too deep")]
    NameTooLong,
    /// Made with `format --worm`.
    #[error("nothing is renamed or removed in a write-once store")]
    WriteOnce,
    /// No room in a checkpoint for another node or a longer name.
    #[error("the catalog is full: the store was made for fewer logs (format --max-logs)")]
    CatalogFull,
    /// As many logs or directories as this mount lets be made.
    #[error("there are as many logs or directories as the mount allows (max_logs, max_dirs)")]
    TooMany,
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

impl From<IoError> for StoreError {
    fn from(error: IoError) -> Self {
        Self::Io(error.to_string())
    }
}

impl StoreError {
    /// The errno a system call answers with.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoSpace => libc::ENOSPC,
            Self::TooLarge { .. } => libc::EFBIG,
            Self::NotAtEnd => libc::EPERM,
            Self::WouldBlock => libc::EAGAIN,
            Self::ReadOnly => libc::EROFS,
            Self::Io(_) => libc::EIO,
            Self::Memory => libc::ENOMEM,
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::Invalid => libc::EINVAL,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::WriteOnce => libc::EPERM,
            Self::CatalogFull | Self::TooMany => libc::ENOSPC,
            Self::Closed => libc::ESHUTDOWN,
        }
    }
}

/// Called once when what was asked for is durable, or can't be.
pub type StableDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Called once with what became of a queued append.
pub type AppendDone = Box<dyn FnOnce(Result<Appended, StoreError>) + Send>;
/// Called once with what became of a change.
pub type ChangeDone = Box<dyn FnOnce(Result<Changed, StoreError>) + Send>;
/// Called once with the bytes of a read: fewer than asked for only at the end of the log or before damage.
pub type ReadDone = Box<dyn FnOnce(Result<ReadBytes, StoreError>) + Send>;

/// What the last recovery found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct RecoveryReport {
    /// The last unmount was clean.
    pub clean: bool,
    /// LSN the scan started at.
    pub from_lsn: u64,
    /// LSN it ended at: the new end of the store.
    pub end_lsn: u64,
    /// Frames read.
    pub frames: u64,
    /// Bytes of unacknowledged tail that were cut.
    pub cut_bytes: u64,
    /// Frames of that tail that could be seen to be broken or behind a broken one.
    pub cut_frames: u64,
    /// Damaged places below the last stable mark.
    pub damage: Vec<Damage>,
    /// What could not be decided, and other remarks, a sentence each.
    pub notes: Vec<String>,
    /// What is most likely nothing, but can't be told from a loss: a sentence each.
    pub remarks: Vec<String>,
    /// Milliseconds it took.
    pub millis: u64,
}

/// A damaged extent.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// First LSN of it.
    pub lsn: u64,
    /// Bytes.
    pub len: u64,
    /// Its place on the device.
    pub device_offset: u64,
    /// Segment sequence number.
    pub segment: u64,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segment {} lsn {:#x} device offset {} length {}: {}",
            self.segment, self.lsn, self.device_offset, self.len, self.what
        )
    }
}

/// Figures for `status`, `df` and the control tree. Byte counts unless the name says otherwise.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Stats {
    /// Device path.
    pub device: String,
    /// Store id.
    pub uuid: String,
    /// Label.
    pub label: String,
    /// Bytes of all segments.
    pub capacity: u64,
    /// Bytes of segments written or given up to padding and headers.
    pub used: u64,
    /// Bytes that can still be appended, frames included; 0 once an append was refused for lack of room.
    pub available: u64,
    /// The last append was refused for lack of room.
    pub full: bool,
    /// Segment size.
    pub segment_size: u64,
    /// Number of segments.
    pub segments: u64,
    /// Of them unused.
    pub segments_free: u64,
    /// Of the free ones: kept back for the cleaner and for changes that let space go.
    pub segments_reserved: u64,
    /// Let go, and free with one of the next checkpoints.
    pub segments_retired: u64,
    /// Freed since the mount.
    pub segments_freed: u64,
    /// Emptied by the cleaner since the mount.
    pub segments_cleaned: u64,
    /// Bytes of frames that the cleaner moved since the mount.
    pub moved_bytes: u64,
    /// Bytes of frames in full segments that nobody wants any more.
    pub garbage: u64,
    /// Bytes of logs that their limits let go since the mount.
    pub expired_bytes: u64,
    /// Bytes of logs that were dropped since the mount for want of space.
    pub dropped_bytes: u64,
    /// Bytes of logs that were trimmed by hand since the mount.
    pub trimmed_bytes: u64,
    /// Block size.
    pub block_size: u64,
    /// Largest record.
    pub max_record: u64,
    /// Logs.
    pub logs_total: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Logs without a name that are still open.
    pub unlinked: u64,
    /// Bytes that the catalog takes in a checkpoint.
    pub catalog_bytes: u64,
    /// Bytes that it may take: beyond it nothing is made.
    pub catalog_limit: u64,
    /// Nothing can ever be renamed or removed.
    pub worm: bool,
    /// Epoch: number of this mount.
    pub epoch: u64,
    /// LSN of the end of what was accepted.
    pub end_lsn: u64,
    /// Everything below is on stable media.
    pub stable_lsn: u64,
    /// Recovery would start here.
    pub recovery_lsn: u64,
    /// Appends accepted since the mount.
    pub appends: u64,
    /// Payload bytes accepted since the mount.
    pub append_bytes: u64,
    /// Writes given to the device.
    pub device_writes: u64,
    /// Bytes given to the device.
    pub device_write_bytes: u64,
    /// Reads given to the device.
    pub device_reads: u64,
    /// Bytes asked of the device.
    pub device_read_bytes: u64,
    /// Durable flushes of the device.
    pub device_flushes: u64,
    /// fsyncs (and durable writes) answered.
    pub syncs: u64,
    /// Buffers sealed because they were full.
    pub seals_full: u64,
    /// Buffers sealed for a commit or by the timer.
    pub seals_commit: u64,
    /// Failed Flush frames left since the mount.
    pub failed_flushes: u64,
    /// Appends waiting for room in the ring.
    pub queued_appends: u64,
    /// Writes tried again.
    pub retries: u64,
    /// `rw`, `ro` or why appends stopped.
    pub state: String,
    /// Last recovery.
    pub recovery: RecoveryReport,
}

/// One slot of the flush ring, for `/.llamafs/ring`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RingSlot {
    /// Slot number.
    pub slot: usize,
    /// It is CURRENT.
    pub current: bool,
    /// Number of its filling.
    pub filling: u64,
    /// Raw state word.
    pub word: u64,
    /// Write offset from the word.
    pub offset: u32,
    /// Writers from the word.
    pub writers: u32,
    /// Flush in progress.
    pub flushing: bool,
    /// Sealed.
    pub sealed: bool,
    /// LSN of its byte 0.
    pub base_lsn: u64,
    /// First claimable byte.
    pub start: usize,
    /// Claims end at or below this.
    pub limit: usize,
}
