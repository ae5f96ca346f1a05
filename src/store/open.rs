//! Opening a store: superblock, checkpoint, recovery, and for a read-write mount a new epoch.

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::sync::Mutex;

use super::catalog::Catalog;
use super::checkpoints;
use super::chunks::ChunkCache;
use super::clock::Clock;
use super::create::{catalog_limit, max_points};
use super::dispatch::Dispatch;
use super::error::OpenError;
use super::flusher::{Flusher, Ring};
use super::geometry::Shape;
use super::keeper::Keeper;
use super::placing::{Space, TRAILER};
use super::recovery::{Recovered, recover};
use super::superblocks;
use super::types::{StoreError, StoreOptions};
use super::{Checkpointing, LogStructuredStore};
use crate::format::superblock::FEATURE_CLEANING;
use crate::format::{EpochRecord, FrameHead, FrameSeed, Kind, MountEntry, Superblock, frame_len};
use crate::io::{Device, IoError, QuikIO, SharedBuffer};
use crate::ring::{FlushBufferRing, MAX_RING_SIZE, MIN_RING_SIZE};

/// Alignment of the ring's buffers where the device asks for less.
const BUFFER_ALIGN: usize = 4096;
/// Bytes of all buffers: the kernel can take more than a second to give a gigabyte, and a mount waits for it.
const MAX_RING_BYTES: usize = 4 << 30;

/// What reading a store gives, before anything is decided about writing.
pub struct Opened {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// Sentences about damaged copies.
    pub remarks: Vec<String>,
    /// What recovery decided.
    pub recovered: Recovered,
    /// Generation of the newest checkpoint.
    pub checkpoint_generation: u64,
}

/// Read superblocks, checkpoint and log; writes nothing.
pub fn examine(io: &QuikIO) -> Result<Opened, OpenError> {
    let superblocks::Loaded { superblock, mut remarks } = superblocks::load(io)?;
    let geometry = io.geometry();
    let device = io.describe();
    if geometry.capacity < superblock.device_bytes {
        return Err(OpenError::Truncated { device, need: superblock.device_bytes, have: geometry.capacity });
    }
    if geometry.block > superblock.block_size {
        return Err(OpenError::Alignment { device, device_block: geometry.block, block: superblock.block_size });
    }
    let mut checkpoints = checkpoints::load(io, &superblock);
    remarks.append(&mut checkpoints.remarks);
    let checkpoint_generation = checkpoints.newest.as_ref().map_or(0, |checkpoint| checkpoint.generation);
    let points = max_points(superblock.device_bytes);
    let mut recovered = recover(io, &superblock, checkpoints, points)?;
    recovered.report.notes.splice(0..0, remarks.iter().cloned());
    Ok(Opened { superblock, remarks, recovered, checkpoint_generation })
}

impl LogStructuredStore {
    /// Open the store on `device`. Read-write, a new epoch begins: the superblocks are written before this returns.
    /// Threads are started by [`LogStructuredStore::start`].
    pub fn open(device: Arc<dyn Device>, options: StoreOptions) -> Result<Arc<Self>, OpenError> {
        check_settings(&options)?;
        let geometry = device.geometry();
        let align = BUFFER_ALIGN.max(geometry.memory_align as usize);
        let buffers = crate::io::Buffer::several(options.ring_size, options.buffer_size, align)
            .map_err(|error| OpenError::Memory(error.to_string()))?;
        let buffers: Vec<SharedBuffer> = buffers.into_iter().map(SharedBuffer::from).collect();
        let name = device.describe();
        let failed = |error: IoError| OpenError::Device { device: name.clone(), error };
        let io = QuikIO::new(device, &buffers).map_err(failed)?;
        let Opened { mut superblock, recovered, mut checkpoint_generation, .. } = examine(&io)?;
        let shape = Shape::of(&superblock);
        check_buffers(&options, &shape)?;
        let clock = Arc::new(Clock::new(options.clock, last_time(&superblock, &recovered)));
        if !options.read_only {
            let unknown = superblock.unknown_ro_features();
            if unknown != 0 {
                return Err(OpenError::Features { device: name, features: unknown, hint: ", or mount with `-o ro`" });
            }
            if !recovered.report.damage.is_empty()
                && save_decided(&io, &superblock, &recovered, checkpoint_generation + 1).map_err(failed)?
            {
                checkpoint_generation += 1;
            }
            begin_epoch(&io, &mut superblock, &recovered, clock.now())?;
        }
        let previous_epoch = recovered.epoch;
        let seed = FrameSeed::new(&superblock.uuid, superblock.epoch);
        let end = recovered.end;
        let tail_block = read_tail(&io, &shape, &recovered).map_err(failed)?;
        let space = Space::new(
            shape,
            recovered.table,
            superblock.uuid,
            superblock.epoch,
            end,
            options.tail,
            options.buffer_size as u64,
        );
        let dispatch = Dispatch::new(buffers.len(), tail_block);
        let flusher = Flusher::new(io.clone(), clock.clone(), shape, seed, space, end, dispatch);
        let ring: Arc<Ring> = Arc::new(FlushBufferRing::new(buffers, flusher.clone()));
        let gap = flusher.space().gap();
        let mut replay = recovered.replay;
        let mut mounts = std::mem::take(&mut replay.mounts);
        if !options.read_only {
            mounts.begin(MountEntry { epoch: superblock.epoch, cut_lsn: gap.start, first_lsn: gap.end });
        }
        let catalog = Catalog::new(replay, catalog_limit(&superblock));
        let read_only = options.read_only;
        let epoch_record = EpochRecord { epoch: superblock.epoch, previous_epoch, cut_lsn: end, stable_lsn: end };
        let store = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            io,
            clock,
            shape,
            seed,
            ring: ring.clone(),
            flusher: flusher.clone(),
            catalog,
            deferred: Mutex::default(),
            deferred_count: AtomicUsize::new(0),
            keeper: Keeper::new(options.flush_ms),
            chunks: ChunkCache::default(),
            pieces: super::pieces::Pieces::default(),
            rooms: Default::default(),
            reads: super::reads::Reads::default(),
            reclaimer: Arc::default(),
            space_counters: super::reclaim::SpaceCounters::default(),
            retention: super::retention::Retention::default(),
            expiry: super::expiry::Expiry::default(),
            mounts,
            begun: AtomicBool::new(read_only),
            first_frame: Mutex::new(Some(epoch_record)),
            superblock: superblock.clone(),
            recovery_lsn: AtomicU64::new(recovered.from),
            checkpointing: Mutex::new(Checkpointing {
                generation: checkpoint_generation,
                segments_opened: 0,
                len: 0,
                superblock,
            }),
            recovery: recovered.report,
            options,
            closed: AtomicBool::new(false),
        });
        let me = store.me.clone();
        flusher.attach(
            &ring,
            Box::new(move || {
                if let Some(store) = me.upgrade() {
                    store.drain_deferred();
                }
            }),
        );
        if !read_only && let Err(error) = store.begin() {
            log::warn!("{}: no room for the frame that begins a mount: {error}", store.io.describe());
        }
        Ok(store)
    }

    /// The first frame of a mount, without which nobody finds those behind it. A full device has no room for it: then it
    /// is written when there is some, in front of all others.
    #[cold]
    pub(super) fn begin(&self) -> Result<(), StoreError> {
        let mut first = self.first_frame.lock();
        let Some(record) = first.as_ref() else { return Ok(()) };
        let head = FrameHead { kind: Kind::Epoch, log_id: 0, offset: 0, time_ns: self.clock.now() };
        self.put_anyway(&head, &record.encode(), |_| {})?;
        *first = None;
        self.begun.store(true, Ordering::Release);
        self.keeper.dirty();
        Ok(())
    }
}

/// The latest time on the device.
fn last_time(superblock: &Superblock, recovered: &Recovered) -> u64 {
    let logs = recovered.replay.logs.values().map(|state| state.last_ns);
    let directories = recovered.replay.directories.values().map(|entry| entry.ctime_ns);
    logs.chain(directories).chain([superblock.mounted_ns, superblock.created_ns]).max().unwrap_or_default()
}

/// Keep what recovery has decided over damage, before the superblocks tell of another mount: some of what it was decided
/// by is theirs. False: it does not fit.
fn save_decided(io: &QuikIO, superblock: &Superblock, recovered: &Recovered, generation: u64) -> Result<bool, IoError> {
    io.flush_now()?;
    Ok(checkpoints::save(io, superblock, recovered.checkpoint(&Shape::of(superblock), superblock.uuid, generation))?
        .is_some())
}

/// Make what recovery read stable, and both superblocks tell of the new epoch, before any frame is written in it.
fn begin_epoch(io: &QuikIO, superblock: &mut Superblock, recovered: &Recovered, now_ns: u64) -> Result<(), OpenError> {
    io.flush_now().map_err(|error| OpenError::Device { device: io.describe(), error })?;
    superblock.epoch += 1;
    superblock.clean = false;
    superblock.feature_incompat |= FEATURE_CLEANING;
    superblock.stable_lsn = recovered.end;
    superblock.end_lsn = 0;
    superblock.mounted_ns = now_ns;
    superblocks::write_both(io, superblock)
}

/// The bytes of the block that the log ends in, up to the end.
fn read_tail(io: &QuikIO, shape: &Shape, recovered: &Recovered) -> Result<Vec<u8>, IoError> {
    let len = (recovered.end % shape.block) as usize;
    let Some(offset) = recovered.table.device_offset(shape.block_down(recovered.end)) else { return Ok(Vec::new()) };
    if len == 0 {
        return Ok(Vec::new());
    }
    let block = shape.block as usize;
    let buffer = io.buffer(block).map_err(|_| superblocks::out_of_memory("read", offset, block))?;
    Ok(io.read_now(buffer, block, offset)?.as_slice().get(..len).unwrap_or(&[]).to_vec())
}

fn check_settings(options: &StoreOptions) -> Result<(), OpenError> {
    let setting = |text: String| Err(OpenError::Setting(text));
    if !(MIN_RING_SIZE..=MAX_RING_SIZE).contains(&options.ring_size) {
        return setting(format!(
            "ring_size={} can't be: it must be {MIN_RING_SIZE} to {MAX_RING_SIZE}",
            options.ring_size
        ));
    }
    if options.flush_ms == 0 || options.flush_ms > 3_600_000 {
        return setting(format!(
            "flush_ms={} can't be: it must be 1 to 3600000; `-o sync` makes every write durable",
            options.flush_ms
        ));
    }
    if options.buffer_size.saturating_mul(options.ring_size) > MAX_RING_BYTES {
        return setting(format!(
            "ring_size={} buffers of buffer_size={} can't be: all must be at most 4 GiB",
            options.ring_size, options.buffer_size
        ));
    }
    Ok(())
}

fn check_buffers(options: &StoreOptions, shape: &Shape) -> Result<(), OpenError> {
    // In front of the largest frame there may be a segment header, or a partial block.
    let need = (frame_len(shape.max_record) as u64 + shape.block + TRAILER).next_multiple_of(shape.block);
    let size = options.buffer_size as u64;
    if size < need || !size.is_multiple_of(shape.block) {
        return Err(OpenError::Setting(format!(
            "buffer_size={size} can't be: it must be a multiple of {} and at least {need} for records of {} bytes",
            shape.block, shape.max_record
        )));
    }
    Ok(())
}
