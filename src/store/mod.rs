//! The LogStructuredStore: the durable store behind the ring. LSNs, frames, segments, recovery.
//!
//! The way of an append: `append` claims, fills and releases a frame in the ring; `placing` said where it lies;
//! `flusher` writes the sealed filling; `commit` tells who can be answered. The way of a read: `read`, by the points
//! of `index`, from the ring or through `chunks`.
//!
//! - `create`, `open`, `recovery`, `replay`, `mend`, `scan`: from a device to a running store
//! - `superblocks`, `checkpoints`: what they read and write besides the log
//! - `catalog`, `table`, `tree`, `index`, `segments`, `mounts`, `geometry`: what a running store knows
//! - `changes`, `nodes`: changes of the catalog, and questions to it
//! - `append`, `placing`, `flusher`, `commit`, `keeper`: from an append to stable media
//! - `read`, `reads`, `walk`, `chunks`, `given`, `blockwise`: back again
//! - `summaries`, `cleaner`, `reclaim`: full segments summed up, emptied and let go; `ranges`: where each log lies
//! - `trim`, `retention`: the old ends of logs are let go, by hand and by rule; `moment`: since when, `expiry`: until when
//! - `grow`: more segments
//! - `close`, `stats`, `audit`: the end, figures, and whether they are right
//! - `behind`: what a broken frame was, and where the log goes on
//! - `inspect`, `salvage`: offline: looking, checking, repairing; getting out what is left

mod ahead;
mod append;
mod audit;
mod behind;
mod blockwise;
mod catalog;
mod changes;
mod checkpoints;
mod chunks;
mod cleaner;
mod clock;
mod close;
mod commit;
mod create;
mod dispatch;
mod error;
mod expiry;
mod flusher;
mod frames;
mod geometry;
mod given;
mod grow;
mod index;
mod inspect;
mod keeper;
mod mend;
mod moment;
mod mounts;
mod nodes;
mod open;
mod pieces;
mod placing;
mod ranges;
mod read;
mod reads;
mod reclaim;
mod recovery;
mod replay;
mod retention;
mod rooms;
pub mod salvage;
mod scan;
mod segments;
mod stats;
mod summaries;
mod superblocks;
mod table;
mod tree;
mod trim;
pub mod types;
mod walk;

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};

use crate::sync::Mutex;

pub use create::{FormatOptions, FormatReport, check_size};
pub use error::OpenError;
pub use given::{Lends, ReadBytes};
pub use grow::{GrowReport, grow};
pub use inspect::{CheckReport, Finding, FrameInfo, Gap, Image, Lost, Part};
pub use moment::Begins;
pub use retention::{NO_LIMIT, Policy};
pub use table::IdTable;
pub use trim::{TrimTo, Trimmed};
pub use types::{
    AppendAt, AppendDone, Appended, AttrChange, Change, ChangeDone, Changed, DEFAULT_BUFFER_SIZE, Damage, Listed,
    LogId, LogInfo, NodeId, NodeInfo, NodeKind, OnError, ROOT_ID, ReadDone, RecoveryReport, RenameHow, RingSlot,
    StableDone, Stats, StoreError, StoreOptions, Tail,
};

use crate::format::{FrameSeed, Superblock};
use crate::io::{OwnCompletions, QuikIO};

/// What the last checkpoint and superblock said.
struct Checkpointing {
    generation: u64,
    segments_opened: u64,
    /// Bytes of the last one: the larger it is, the rarer it is written.
    len: u64,
    superblock: Superblock,
}

/// A store of append-only logs on one device.
pub struct LogStructuredStore {
    me: Weak<LogStructuredStore>,
    io: Arc<QuikIO>,
    clock: Arc<clock::Clock>,
    shape: geometry::Shape,
    seed: FrameSeed,
    ring: Arc<flusher::Ring>,
    flusher: Arc<flusher::Flusher>,
    catalog: catalog::Catalog,
    deferred: Mutex<append::Queue>,
    deferred_count: AtomicUsize,
    keeper: keeper::Keeper,
    chunks: chunks::ChunkCache,
    pieces: pieces::Pieces,
    rooms: rooms::Rooms,
    reads: reads::Reads,
    reclaimer: Arc<reclaim::Reclaimer>,
    space_counters: reclaim::SpaceCounters,
    retention: retention::Retention,
    expiry: expiry::Expiry,
    /// Which mounts the frames are of, this one the last.
    mounts: mounts::Mounts,
    /// The first frame of this mount is in the ring.
    begun: AtomicBool,
    /// What it says, until then.
    first_frame: Mutex<Option<crate::format::EpochRecord>>,
    /// Held across the device's work by whoever writes a checkpoint: never taken by a thread that completes or serves.
    checkpointing: Mutex<Checkpointing>,
    /// The superblock of this mount, for what never changes in it.
    superblock: Superblock,
    /// Recovery would start here.
    recovery_lsn: AtomicU64,
    recovery: RecoveryReport,
    options: StoreOptions,
    closed: AtomicBool,
}

impl LogStructuredStore {
    /// Make a new store on `device`; see [`FormatOptions`].
    pub fn format(
        device: Arc<dyn crate::io::Device>,
        options: &FormatOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<FormatReport, OpenError> {
        create::format(device, options, progress)
    }

    /// Start the thread that owns completions and the one that keeps time. Without them, [`Self::poll`] and
    /// [`Self::tick`] drive the store from one thread.
    pub fn start(self: &Arc<Self>) {
        self.io.start();
        if !self.options.read_only {
            keeper::start(self);
            reclaim::start(self);
        }
    }

    /// The calling thread is going to take the completions of what it waits for, if the device can do that; see
    /// [`OwnCompletions`].
    pub fn own_completions(&self) -> std::io::Result<Option<OwnCompletions>> {
        self.io.own_completions()
    }

    /// Take completions on this thread; with `wait`, sleep until there is one. For a store that was not started.
    pub fn poll(&self, wait: bool) -> usize {
        self.io.poll(wait)
    }

    /// Take completions beside who polls, as threads with completions of their own do. For simulators.
    pub fn poll_beside(&self) -> usize {
        self.io.poll_beside()
    }

    /// Largest record, in bytes.
    pub fn max_record(&self) -> usize {
        self.shape.max_record
    }
}
