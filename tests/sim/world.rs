//! A store on a simulated disk beside its model: every operation is done to both, and what they answer is compared.

use std::collections::VecDeque;
use std::sync::Arc;

use llamafs::format::ROOT_ID;
use llamafs::io::{Device, SimDevice, SimFault, SimOp};
use llamafs::store::{AppendAt, Appended, AttrChange, Lends, LogStructuredStore, ReadBytes, StoreError};
use parking_lot::Mutex;

use super::aging::{self, Aging};
use super::model::{Model, What, frame_len};
use super::plan::{Disk, Fill, IN_FRONT, Op, SEGMENT, Setup};
use super::rng::Rng;
use super::states::{Hits, State};

/// The log of a new store.
pub const LOG: u32 = 1;
/// Rounds of completions after which something hangs.
const PATIENCE: u32 = 20_000;
/// Blocks of the store, in bytes.
pub const BLOCK: u64 = 4096;

/// Answers that came.
pub enum Answer {
    Synced { lsn: u64, over_buffers: bool, result: Result<(), StoreError> },
    Later { data: Vec<u8>, result: Result<Appended, StoreError> },
}

type Answers = Arc<Mutex<VecDeque<Answer>>>;

/// What the last operation on the ring's tail was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Record,
    Void,
}

pub struct World {
    pub setup: Setup,
    pub seed: u64,
    pub device: Arc<SimDevice>,
    pub store: Option<Arc<LogStructuredStore>>,
    pub model: Model,
    pub hits: Hits,
    pub answers: Answers,
    /// Records made so far: no two are alike.
    records: u64,
    /// The log that is appended to and read.
    pub log: u32,
    /// Names made so far.
    pub names: u32,
    pub stalled: bool,
    /// Where the store was stable before its last durable flush ended, and where it is since.
    pub stable: (u64, u64),
    /// LSN that was synced last.
    synced: u64,
    last: Last,
    /// Flushes of the device when the store was mounted.
    pub flushes_at_mount: u64,
    pub recovery_lsn_at_mount: u64,
    /// What was accepted when the flush interval was last over in this mount: its end.
    pub ticked: u64,
    /// No frame was ever written at or behind this LSN by a mount whose frames count.
    pub written_end: u64,
    pub facts: Facts,
    /// What is let go, and segments that are added.
    pub aging: Aging,
    /// Highest number of a mount.
    pub epoch: u64,
    /// The disk may have forgotten what it flushed.
    flush_lost: bool,
    /// What the first log held, as often as a mount began with a number that had been used.
    pub returning: Vec<Vec<u8>>,
    pub trace: bool,
}

/// What is known of the present disk and mount.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    /// Nothing on the disk is only in its cache.
    pub all_stable: bool,
    /// The end that recovery found, if the disk was looked at since its last change.
    pub recovered: Option<u64>,
    /// The store was unmounted cleanly.
    pub clean: bool,
    pub full: bool,
    pub killed: bool,
    pub mount_crashes: u32,
    /// A fault of the disk is planned or has happened: requests may fail.
    pub faults: bool,
    /// The disk may have lied.
    pub lied: bool,
    /// A mount has told that something is lost, and the log was not there.
    pub vanished: bool,
    /// An fsync of this mount was told of a failure.
    pub sync_failed: bool,
}

impl World {
    pub fn new(seed: u64, setup: Setup, pristine: &SimDevice, trace: bool) -> Self {
        let device = Arc::new(pristine.crash(seed));
        setup.prepare(&device);
        aging::begin();
        Self {
            setup,
            seed,
            device,
            store: None,
            model: Model::new(LOG, 0o644, ROOT_ID),
            log: LOG,
            names: 0,
            hits: Hits::default(),
            answers: Answers::default(),
            records: 0,
            stalled: false,
            stable: (0, 0),
            synced: 0,
            last: Last::Record,
            flushes_at_mount: 0,
            recovery_lsn_at_mount: 0,
            ticked: 0,
            written_end: u64::MAX,
            aging: Aging::default(),
            facts: Facts { all_stable: true, clean: true, ..Facts::default() },
            epoch: 0,
            flush_lost: false,
            returning: Vec::new(),
            trace,
        }
    }

    pub fn run(&mut self, ops: &[Op]) {
        for (number, op) in ops.iter().enumerate() {
            if self.trace {
                let ends = self.store.as_ref().map(|store| (store.stats().end_lsn, store.stable_lsn()));
                eprintln!("{number:3} {op:?} {ends:x?}");
            }
            self.step(*op);
        }
        self.device.power_off();
        self.store = None;
    }

    /// Do one operation to both.
    pub fn step(&mut self, op: Op) {
        aging::pass(aging::STEP_NS);
        match op {
            Op::Remount => return self.unmount(),
            Op::Crash { seed } => return self.crash(u64::from(seed)),
            Op::Kill { seed } => return self.kill(u64::from(seed)),
            Op::CloseCrash { after, seed } => return self.close_crash(u64::from(after), u64::from(seed)),
            Op::TickCrash { after, seed } => return self.tick_crash(u64::from(after), u64::from(seed)),
            Op::MountCrash { after, seed } => return self.mount_crash(u64::from(after), u64::from(seed)),
            Op::Pass { seconds } => return aging::pass(u64::from(seconds) * aging::SECOND),
            Op::Grow { segments } => return self.grow(u64::from(segments)),
            Op::GrowCrash { segments, after, seed } => {
                return self.grow_crash(u64::from(segments), u64::from(after), u64::from(seed));
            }
            _ => {}
        }
        if self.store.is_none() && !self.mount() {
            return;
        }
        let Some(store) = self.store.clone() else { return };
        match op {
            Op::Append { len, fill } => drop(self.append(&store, len, fill)),
            Op::Later { len, fill } => self.append_later(&store, len, fill),
            Op::GiveUp { len } => self.give_up(&store, len),
            Op::Sync => self.sync(&store),
            Op::SyncNow => {
                self.sync(&store);
                self.settle(&store);
            }
            Op::Tick => self.tick(&store),
            Op::Idle => {
                self.settle(&store);
                let writes = self.device.ops().writes;
                store.tick_idle();
                self.settle(&store);
                self.hits.hit_if(State::IdleMark, self.device.ops().writes > writes);
            }
            Op::Poll => drop(store.poll(false)),
            Op::Settle => self.settle(&store),
            Op::Read { at, len } => self.read(&store, at, len),
            Op::Mode { mode } => self.mode(&store, mode),
            Op::Log { .. } | Op::Make { .. } | Op::Rename { .. } | Op::Remove { .. } => self.change(&store, op),
            Op::Trim { at } => self.trim(&store, at),
            Op::Unlink => self.unlink(&store),
            Op::Close { which } => self.close_log(&store, which),
            Op::Limits { .. } | Op::DropOldest { .. } => self.limit(&store, op),
            Op::Fill { len } => self.fill(&store, len),
            Op::Stall => self.stall(true),
            Op::Fault { which, nth } => self.fault(which, u64::from(nth)),
            Op::Spread { len, count } => self.spread(&store, len, count),
            Op::Remount | Op::Crash { .. } | Op::Kill { .. } => {}
            Op::CloseCrash { .. } | Op::TickCrash { .. } | Op::MountCrash { .. } => {}
            Op::Pass { .. } | Op::Grow { .. } | Op::GrowCrash { .. } => {}
        }
        self.pump();
    }

    /// Bytes that nothing else has.
    fn data(&mut self, len: u32, fill: Fill) -> Vec<u8> {
        self.records += 1;
        let mut rng = Rng::of(self.seed, 1000 + self.records);
        let len = len as usize;
        match fill {
            Fill::Bytes => {
                let mut bytes = vec![0; len];
                bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]));
                bytes
            }
            Fill::Zeros => vec![0; len],
            Fill::Magics => {
                let magics = [*b"DATA", *b"VOID", *b"META", *b"EPOC", *b"MARK", *b"PADD", *b"LLAM", [0; 4]];
                (0..len)
                    .map(|at| if at % 16 < 4 { magics[(at / 16 + len) % 8][at % 16] } else { at as u8 & 3 })
                    .collect()
            }
            Fill::Frames => {
                let place = IN_FRONT + BLOCK + rng.below(SEGMENT / 16) * 16;
                self.device.peek(place, len)
            }
        }
    }

    fn accepted(&mut self, appended: Appended, data: Vec<u8>) {
        let len = self.model.log(self.log).data.len() as u64;
        assert_eq!(appended.offset, len, "a record was accepted at the wrong offset");
        if data.is_empty() {
            return;
        }
        self.placed(appended.end_lsn, frame_len(data.len() as u64), Last::Record);
        self.hits.hit_if(State::AppendedUnlinked, self.model.open.contains_key(&self.log));
        self.accept(appended.end_lsn, What::Record { log: self.log, data, time: aging::clock() });
    }

    /// A frame of `total` bytes ends at `end`.
    fn placed(&mut self, end: u64, total: u64, kind: Last) {
        let begins = (end - total) / SEGMENT;
        assert_eq!(begins, (end - 1) / SEGMENT, "a frame crosses its segment");
        let before = self.model.end();
        if before / SEGMENT < begins && before > 0 {
            self.hits.hit(State::NextSegment);
            self.hits.hit_if(State::SegmentFilledByVoid, self.last == Last::Void);
        }
        self.last = kind;
    }

    fn append(&mut self, store: &Arc<LogStructuredStore>, len: u32, fill: Fill) -> Result<(), StoreError> {
        let data = self.data(len, fill);
        self.pump();
        match store.try_append(self.log, &data, AppendAt::End) {
            Ok(appended) => {
                assert!(data.is_empty() || !self.facts.sync_failed, "a record was taken after an fsync had failed");
                self.accepted(appended, data);
                Ok(())
            }
            Err(error) => {
                self.refused(store, &error);
                Err(error)
            }
        }
    }

    /// May the store refuse like this?
    pub fn refused(&mut self, store: &LogStructuredStore, error: &StoreError) {
        match error {
            StoreError::WouldBlock => {
                self.hits.hit(State::RingFull);
                self.hits.hit_if(State::Stalled, self.stalled);
            }
            StoreError::NoSpace => {
                self.hits.hit(State::NoSpace);
                self.facts.full = true;
                let stats = store.stats();
                assert!(stats.segments_free <= stats.segments_reserved, "ENOSPC with free segments: {stats:?}");
            }
            StoreError::ReadOnly => {
                assert!(self.facts.faults, "the store stopped without a fault: {}", store.stats().state);
                self.hits.hit(State::RefusedAfterFailure);
                let state = store.stats().state;
                self.hits.hit_if(State::WriteFailed, state.contains("write of"));
                self.hits.hit_if(State::FlushFailed, state.contains("flush of"));
            }
            error => panic!("an append was refused: {error}"),
        }
    }

    fn append_later(&mut self, store: &Arc<LogStructuredStore>, len: u32, fill: Fill) {
        let data = self.data(len, fill);
        let (answers, kept) = (self.answers.clone(), data.clone());
        let done = Box::new(move |result| answers.lock().push_back(Answer::Later { data: kept, result }));
        store.append_later(self.log, data, AppendAt::End, done);
    }

    fn give_up(&mut self, store: &Arc<LogStructuredStore>, len: u32) {
        self.pump();
        match store.give_up(len as usize) {
            Ok(end) => {
                self.placed(end, frame_len(u64::from(len)), Last::Void);
                self.accept(end, What::Nothing);
            }
            Err(error) => self.refused(store, &error),
        }
    }

    fn sync(&mut self, store: &Arc<LogStructuredStore>) {
        self.pump();
        let Some(info) = store.log(self.log) else { panic!("the log is gone") };
        let lsn = info.end_lsn;
        let over_buffers = lsn > store.stable_lsn() + self.setup.buffer_size as u64;
        let answers = self.answers.clone();
        let done = Box::new(move |result| answers.lock().push_back(Answer::Synced { lsn, over_buffers, result }));
        store.make_stable(lsn, done);
    }

    /// Take the answers that came.
    pub fn pump(&mut self) {
        if let Some(stable) = self.store.as_ref().map(|store| store.stable_lsn())
            && stable > self.stable.1
        {
            self.stable = (self.stable.1, stable);
        }
        let mut synced = 0;
        loop {
            let Some(answer) = self.answers.lock().pop_front() else { break };
            match answer {
                Answer::Synced { lsn, over_buffers, result: Ok(()) } => {
                    synced += 1;
                    let rewrites = self.setup.tail == llamafs::store::Tail::Rewrite;
                    let shared = lsn > self.synced && lsn / BLOCK == self.synced / BLOCK && rewrites;
                    self.hits.hit_if(State::SharedTailBlock, shared);
                    self.hits.hit_if(State::SyncOverBuffers, over_buffers);
                    self.synced = lsn;
                    self.hits.hit_if(State::ManySynced, self.model.logs_until(lsn) > 1);
                    if !self.facts.lied {
                        self.model.promise(lsn);
                    }
                }
                Answer::Synced { result: Err(error), .. } => {
                    assert!(self.facts.faults, "fsync failed without a fault: {error}");
                    self.hits.hit(State::SyncFailed);
                    self.facts.sync_failed = true;
                }
                Answer::Later { data, result: Ok(appended) } => {
                    self.hits.hit(State::LaterTaken);
                    self.accepted(appended, data);
                }
                Answer::Later { result: Err(error), .. } => {
                    self.hits.hit_if(State::NoSpaceLater, error == StoreError::NoSpace);
                    if let Some(store) = self.store.clone() {
                        self.refused(&store, &error);
                    }
                }
            }
        }
        self.hits.hit_if(State::SyncsTogether, synced > 1);
        self.note_heads(u64::MAX);
    }

    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
        self.device.stall(stalled);
    }

    /// Let the disk work until it has nothing to do; then every fsync is answered and nothing waits for room.
    pub fn settle(&mut self, store: &LogStructuredStore) {
        self.stall(false);
        let mut rounds = 0;
        while self.device.pending() > 0 {
            store.poll(true);
            rounds += 1;
            assert!(rounds < PATIENCE, "the store never comes to rest");
        }
        self.pump();
        // An append that waits for room which can be made: making it is the reclaimer's, here the tick's.
        for _ in 0..PATIENCE {
            if store.deferred() == 0 {
                break;
            }
            store.tick();
            while self.device.pending() > 0 {
                store.poll(true);
            }
            self.pump();
        }
        let late = store.stable_lsn() < self.ticked && !self.facts.faults;
        assert!(!late, "stable up to {:#x}, and the timer has flushed {:#x}", store.stable_lsn(), self.ticked);
        assert_eq!(store.deferred(), 0, "appends wait though the ring has room: {:?}", store.ring_slots());
    }

    fn read(&mut self, store: &Arc<LogStructuredStore>, at: u32, len: u32) {
        self.stall(false);
        let size = self.model.log(self.log).data.len() as u64;
        let offset = if size == 0 { 0 } else { u64::from(at) % (size + size / 16 + 1) };
        if offset + u64::from(len) >= size && self.model.end() > store.stable_lsn() {
            self.hits.hit(State::ReadFromRing);
        }
        self.compare(store, offset, len as usize);
    }

    /// Read a part of the log and compare it; gives the bytes that could be read.
    pub fn compare(&mut self, store: &LogStructuredStore, offset: u64, len: usize) -> usize {
        self.pump();
        // What is accepted meanwhile is not asked for.
        let size = self.model.log(self.log).data.len();
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let fill = move |result: Result<ReadBytes, StoreError>| {
            *filled.lock() = Some(result.map(|bytes| bytes.into_vec().unwrap()));
        };
        store.read(self.log, offset, len, Lends::Slices, Box::new(fill));
        let mut rounds = 0;
        while slot.lock().is_none() {
            store.poll(true);
            rounds += 1;
            assert!(rounds < PATIENCE, "a read is never answered");
        }
        self.pump();
        let stopped = store.stats().state.starts_with("appends stopped");
        let data = &self.model.log(self.log).data[..size];
        let from = (offset as usize).min(data.len());
        let expected = &data[from..from.saturating_add(len).min(data.len())];
        let result = slot.lock().take();
        match result {
            // What was collected before a request failed is given; the error comes with the next read.
            Some(Ok(bytes)) if self.facts.faults => {
                assert!(
                    bytes.len() <= expected.len() && bytes == expected[..bytes.len()],
                    "different data at {offset}"
                );
                self.hits.hit_if(State::ReadAfterFailure, stopped && !bytes.is_empty());
                bytes.len()
            }
            Some(Ok(bytes)) => {
                assert!(bytes == expected, "{}", difference(&bytes, expected, offset));
                bytes.len()
            }
            Some(Err(error)) => {
                let shut = stopped && self.setup.shutdown;
                assert!(shut || self.facts.faults, "read of {len} at {offset} of {}: {error}", data.len());
                self.hits.hit_if(State::ReadFailed, !shut);
                self.hits.hit_if(State::LieFound, self.facts.lied);
                0
            }
            None => 0,
        }
    }

    fn mode(&mut self, store: &Arc<LogStructuredStore>, mode: u32) {
        // It sleeps while the ring is full, and nobody but this thread makes room.
        self.settle(store);
        if self.model.open.contains_key(&self.log) {
            return;
        }
        match store.set_attr(self.log, AttrChange { mode: Some(mode), ..AttrChange::default() }) {
            Ok(info) => {
                assert_eq!(info.mode, mode & 0o7777);
                self.last = Last::Record;
                self.accept(info.end_lsn, What::Mode { log: self.log, mode: info.mode });
            }
            Err(error) => self.refused(store, &error),
        }
    }

    fn fill(&mut self, store: &Arc<LogStructuredStore>, len: u32) {
        // One that drops its oldest never is full.
        let endless = self.model.shown().limits.drop_oldest;
        let mut left = 2 * store.stats().capacity;
        for _ in 0..PATIENCE * 5 {
            match self.append(store, len.max(200), Fill::Bytes) {
                Ok(()) => left = left.saturating_sub(u64::from(len.max(200))),
                Err(StoreError::WouldBlock) => {
                    self.settle(store);
                    if store.stats().full {
                        store.tick();
                    }
                }
                Err(StoreError::NoSpace) => {
                    let stats = store.stats();
                    assert!(stats.full && stats.available == 0, "full: {stats:?}");
                    return;
                }
                Err(_) => return,
            }
            if endless && left == 0 {
                return;
            }
        }
        panic!("the disk never fills up");
    }

    fn spread(&mut self, store: &Arc<LogStructuredStore>, len: u32, count: u32) {
        let logs: Vec<u32> = self.model.shown().logs.keys().copied().collect();
        for n in 0..count as usize {
            let Some(log) = logs.get(n % logs.len().max(1)) else { return };
            self.log = *log;
            match self.append(store, len, Fill::Bytes) {
                Err(StoreError::WouldBlock) => {
                    self.settle(store);
                    if store.stats().full {
                        store.tick();
                    }
                }
                Ok(()) => {}
                Err(_) => return,
            }
        }
    }

    fn fault(&mut self, which: u32, nth: u64) {
        let op = [SimOp::Write, SimOp::Flush, SimOp::Read][which as usize % 3];
        let choice = which / 3;
        if self.setup.disk == Disk::Lying && op == SimOp::Read && choice.is_multiple_of(3) {
            // Bits change where nobody looks.
            (self.facts.faults, self.facts.lied) = (true, true);
            let place = u64::from(choice / 3) % self.device.geometry().capacity;
            return self.device.corrupt(place, 1 << (nth % 8));
        }
        let fault = match (self.setup.disk, op) {
            (Disk::Honest, _) => return,
            (Disk::Failing, _) => SimFault::Error([libc::EIO, libc::ENOSPC, libc::EIO][choice as usize % 3]),
            (Disk::Lying, SimOp::Write) if choice.is_multiple_of(2) => {
                SimFault::Misdirected(u64::from(choice / 2) * 512)
            }
            (Disk::Lying, SimOp::Write | SimOp::Flush) => SimFault::Lost,
            (Disk::Lying, SimOp::Read) if choice.is_multiple_of(2) => SimFault::Stale,
            (Disk::Lying, SimOp::Read) => SimFault::BitRot { at: choice / 2, xor: 1 << (choice % 8) },
        };
        self.facts.faults = true;
        self.facts.lied |= self.setup.disk == Disk::Lying;
        self.flush_lost |= (fault, op) == (SimFault::Lost, SimOp::Flush);
        self.device.inject(op, nth, 1, fault);
    }

    /// A mount has begun. No number is used twice, as both superblocks are flushed and read back: unless the disk forgot
    /// both flushes while it served reads from its cache, which no reading back can tell.
    pub fn began(&mut self, store: &LogStructuredStore) {
        let epoch = store.stats().epoch;
        if epoch <= self.epoch {
            assert!(self.flush_lost, "mount {epoch} has a number that was used");
            self.returning.push(self.model.log(LOG).data.clone());
        }
        self.epoch = self.epoch.max(epoch);
        self.began_aging(store);
    }

    /// A frame that is no record was the last.
    pub fn changed(&mut self) {
        self.last = Last::Record;
    }

    pub fn last_was_void(&self) -> bool {
        self.last == Last::Void
    }
}

/// Where two runs of bytes part.
fn difference(got: &[u8], expected: &[u8], offset: u64) -> String {
    let at = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(got.len().min(expected.len()));
    format!("read at {offset}: {} bytes of {}, different from byte {at} on", got.len(), expected.len())
}
