//! From a sealed and drained filling of the ring to stable media: the ring's [`Stage`].
//!
//! Fillings come drained in any order and are written in log order. Before its write a filling gets what it lacks: in
//! front the segment header or the partial block it continues, behind its claims the stable mark and the padding.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use crate::sync::Mutex;

use super::clock::Clock;
use super::commit::{Action, Commit};
use super::dispatch::{Dispatch, is_bulk};
use super::geometry::Shape;
use super::placing::{Plan, Prefix, Space};
use super::types::{StableDone, StoreError};
use crate::format::{FrameSeed, Lsn, SHORT_FRAME, frame};
use crate::io::{IoError, QuikIO, Write};
use crate::ring::{FillInfo, FlushBufferRing, Placement, ReserveError, SealedFill, Stage, Why};

/// The flush ring of a store.
pub type Ring = FlushBufferRing<Flusher>;

/// Fillings that are written and wait for an earlier one.
#[derive(Default)]
struct Written {
    fills: BTreeMap<u64, FillInfo>,
    next: u64,
    /// A thread gives them back to the ring, and takes what others put in meanwhile.
    recycling: bool,
}

/// Lets others recycle should a callback panic.
struct Recycled<'a>(&'a Mutex<Written>);

impl Drop for Recycled<'_> {
    fn drop(&mut self) {
        self.0.lock().recycling = false;
    }
}

/// What a request said that ended while it was being given in.
type Late = Box<dyn FnOnce(&Flusher) + Send>;

crate::sync::thread_local! {
    /// This thread gives requests in under the dispatch lock. What the kernel refuses is answered on the spot, and the
    /// answer may need that lock.
    static LAUNCHING: Cell<bool> = const { Cell::new(false) };
}

/// What lies between the ring and QuikIO.
pub struct Flusher {
    me: Weak<Flusher>,
    ring: OnceLock<Weak<Ring>>,
    /// Called when a full ring has room again.
    on_room: OnceLock<Box<dyn Fn() + Send + Sync>>,
    io: Arc<QuikIO>,
    clock: Arc<Clock>,
    shape: Shape,
    seed: FrameSeed,
    space: Mutex<Space>,
    dispatch: Mutex<Dispatch>,
    written: Mutex<Written>,
    late: Mutex<VecDeque<Late>>,
    /// Who waits for what.
    pub commit: Commit,
    /// An append was refused for lack of room.
    pub full: AtomicBool,
    /// Appends may not claim beyond this LSN.
    pub append_limit: AtomicU64,
    failed: AtomicBool,
    failed_flushes: AtomicU64,
    seals_full: AtomicU64,
    seals_commit: AtomicU64,
}

impl Flusher {
    /// The flusher of a store whose log ends at `end`.
    pub fn new(
        io: Arc<QuikIO>,
        clock: Arc<Clock>,
        shape: Shape,
        seed: FrameSeed,
        space: Space,
        end: Lsn,
        dispatch: Dispatch,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ring: OnceLock::new(),
            on_room: OnceLock::new(),
            io,
            clock,
            shape,
            seed,
            space: Mutex::new(space),
            dispatch: Mutex::new(dispatch),
            written: Mutex::default(),
            late: Mutex::default(),
            commit: Commit::new(end),
            full: AtomicBool::new(false),
            append_limit: AtomicU64::new(Lsn::MAX),
            failed: AtomicBool::new(false),
            failed_flushes: AtomicU64::new(0),
            seals_full: AtomicU64::new(0),
            seals_commit: AtomicU64::new(0),
        })
    }

    /// Tie it to its ring, and say whom to call when a full ring has room again.
    pub fn attach(&self, ring: &Arc<Ring>, on_room: Box<dyn Fn() + Send + Sync>) {
        let fresh = self.ring.set(Arc::downgrade(ring)).is_ok() & self.on_room.set(on_room).is_ok();
        debug_assert!(fresh, "attached once");
    }

    /// Segment table and plans.
    pub fn space(&self) -> crate::sync::MutexGuard<'_, Space> {
        self.space.lock()
    }

    /// Checkpoint `generation` is on the device: the number of segments that became free by it.
    pub fn free_after(&self, generation: u64) -> u64 {
        let mut space = self.space.lock();
        let freed = space.table.release(generation);
        self.append_limit.store(space.append_limit(), Ordering::Relaxed);
        freed
    }

    /// The device has so many segments now.
    pub fn grow(&self, segments: u32) {
        let mut space = self.space.lock();
        space.table.grow(segments);
        self.append_limit.store(space.append_limit(), Ordering::Relaxed);
    }

    /// A write or flush has failed: no more appends.
    #[inline]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// (Failed Flush frames, seals because full, seals for a commit).
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.failed_flushes), get(&self.seals_full), get(&self.seals_commit))
    }

    /// LLAMA's Mk-Stable: `done` when everything below `lsn` is on stable media.
    pub fn make_stable(&self, lsn: Lsn, done: StableDone) {
        let lsn = self.space.lock().frames_end(lsn);
        self.act(self.commit.wait(lsn, done));
    }

    /// There is no flush timer.
    pub fn no_timer(&self) {
        self.give_in(Dispatch::never_wait);
    }

    /// Bring the stable mark on the device up to date, if it is behind and the store is idle.
    pub fn mark(&self) {
        self.act(self.commit.want_mark());
    }

    /// Do what the books say. Loops rather than recurses: each step may give the next.
    fn act(&self, mut action: Action) {
        loop {
            if action.flush
                && let Some(me) = self.me.upgrade()
            {
                let flushed = |me: &Self, result: Result<(), IoError>| {
                    me.act(me.commit.flushed(result.map_err(|error| me.fail(&error))));
                };
                self.io.flush(Box::new(move |result| me.unlocked(move |me| flushed(me, result))));
            }
            let begin = action.begin;
            for (done, result) in action.answers {
                done(result);
            }
            if !begin {
                return;
            }
            let Some(ring) = self.ring.get().and_then(Weak::upgrade) else { return };
            // Also without claims: what is sealed already was so before the last flush ended, and its marks don't tell
            // of that.
            let sealed = ring.force_seal(Why::Commit);
            let goal = self.space.lock().sealed_end;
            if sealed.is_err() {
                // No filling comes of this that would take along what waits for one: the ring is full, of fillings that are still
                // being copied, or closed.
                self.give_in(Dispatch::hurry);
            }
            action = match sealed {
                Err(ReserveError::RingFull) => self.commit.no_current(goal),
                // Refused, else, only by a closed ring: then everything is sealed.
                _ => self.commit.set_goal(goal),
            };
        }
    }

    /// Do what a request's end asks for; without the dispatch lock.
    fn unlocked(&self, work: impl FnOnce(&Self) + Send + 'static) {
        if LAUNCHING.with(Cell::get) {
            self.late.lock().push_back(Box::new(work));
        } else {
            work(self);
        }
    }

    fn fail(&self, error: &IoError) -> StoreError {
        if !self.failed.swap(true, Ordering::SeqCst) {
            log::error!("{}: {error}; appends stop, what was acknowledged stays readable", self.io.describe());
            // Wake those who sleep for room, and answer those who queue for it.
            if let Some(ring) = self.ring.get().and_then(Weak::upgrade) {
                ring.close();
            }
            self.slot_free();
        }
        error.clone().into()
    }

    /// Put what it lacks around the claims of `fill`; gives the bytes to write and the mark's value.
    fn finish(&self, ring: &Ring, dispatch: &mut Dispatch, fill: &FillInfo, plan: &Plan) -> (usize, Lsn) {
        let stable = self.commit.stable();
        let block = self.shape.block as usize;
        let written = ring.with_filling(fill, |buffer| {
            match &plan.prefix {
                Prefix::Nothing => {}
                Prefix::TailBlock => put(buffer, 0, &dispatch.tail_block),
                Prefix::Header(header) => put(buffer, 0, &header.encode(self.shape.block as u32)),
            }
            put(buffer, fill.end, &frame::encode_mark(&self.seed, fill.end_lsn(), stable));
            let mut end = fill.end + SHORT_FRAME;
            if plan.pad > 0 {
                put(buffer, end, &frame::encode_pad(&self.seed, fill.base_lsn + end as u64, plan.pad));
                end += SHORT_FRAME;
            }
            let block_end = end.next_multiple_of(block);
            if let Some(rest) = buffer.get_mut(end..block_end) {
                rest.fill(0);
            }
            dispatch.tail_block.clear();
            if plan.pad == 0 {
                let partial = buffer.get(end - end % block..end).unwrap_or(&[]);
                dispatch.tail_block.extend_from_slice(partial);
            }
            block_end
        });
        (written, stable)
    }

    /// The write that brings `fill` to the device.
    fn launch(&self, ring: &Arc<Ring>, dispatch: &mut Dispatch, fill: FillInfo) -> Option<Write> {
        let me = self.me.upgrade()?;
        let plan = self.space.lock().take_plan(fill.number)?;
        let has_claims = fill.end > fill.start;
        let for_commit = fill.why == Why::Commit;
        match fill.why {
            Why::Commit => self.seals_commit.fetch_add(1, Ordering::Relaxed),
            Why::Full | Why::Close => self.seals_full.fetch_add(1, Ordering::Relaxed),
        };
        if plan.dead {
            self.commit.launch(fill.number, plan.end, false, None, false);
            // An empty filling of a full device: nothing to write, it only passes through in order.
            dead_landing(me, fill);
            return None;
        }
        let buf = ring.buffer(fill.slot)?;
        let (len, mark) = self.finish(ring, dispatch, &fill, &plan);
        let dsync = self.commit.launch(fill.number, plan.end, has_claims, Some(mark), for_commit);
        let landed = move |result| me.unlocked(move |me| me.landed(&fill, result));
        Some(Write { buf, range: 0..len, offset: plan.device_offset, dsync, done: Box::new(landed) })
    }

    /// Note what has changed, and give the device what is its turn now.
    fn give_in(&self, change: impl FnOnce(&mut Dispatch)) {
        let Some(ring) = self.ring.get().and_then(Weak::upgrade) else { return };
        {
            let mut dispatch = self.dispatch.lock();
            LAUNCHING.with(|launching| launching.set(true));
            change(&mut dispatch);
            let mut writes = Vec::new();
            while let Some(fill) = dispatch.take() {
                writes.extend(self.launch(&ring, &mut dispatch, fill));
            }
            if !writes.is_empty() {
                self.io.write_many(writes);
            }
            LAUNCHING.with(|launching| launching.set(false));
        }
        loop {
            // The lock is given back before the work is done.
            let late = self.late.lock().pop_front();
            let Some(late) = late else { break };
            late(self);
        }
    }

    fn landed(&self, fill: &FillInfo, result: Result<(), IoError>) {
        let written = result.is_ok();
        if is_bulk(fill) {
            // First: the device shall not wait for the rest.
            self.give_in(|dispatch| dispatch.landed(fill));
        }
        let mut action = self.commit.landed(fill.number, result.map_err(|error| self.fail(&error)));
        let begin = std::mem::take(&mut action.begin);
        // Before the rest: who recycles may have a lot to do.
        self.act(action);
        // A filling whose write failed is never recycled: its bytes stay readable from the ring.
        if written && let Some(ring) = self.ring.get().and_then(Weak::upgrade) {
            self.recycle_in_order(&ring, fill);
        }
        if begin {
            self.act(Action { begin, ..Action::default() });
        }
    }

    /// Recycle the fillings that can be now that `fill` is written. Writes end in any order and on any thread, but readers
    /// go from the device to the ring at one place in the log: so fillings leave the ring as the written LSN passes them,
    /// one after the other.
    fn recycle_in_order(&self, ring: &Ring, fill: &FillInfo) {
        let mut written = self.written.lock();
        written.fills.insert(fill.number, *fill);
        if std::mem::replace(&mut written.recycling, true) {
            return;
        }
        let ended = Recycled(&self.written);
        loop {
            let next = written.next;
            let Some(fill) = written.fills.remove(&next) else { break };
            written.next += 1;
            // Without the lock: room in the ring lets in appends that wait for it, and theirs may end at once.
            drop(written);
            ring.recycle(&fill);
            self.act(self.commit.recycled());
            written = self.written.lock();
        }
        // Under the lock: what lands from here on finds nobody who recycles.
        written.recycling = false;
        std::mem::forget(ended);
    }
}

/// A dead filling lands on a thread of no importance: its dispatcher holds the dispatch lock, and what follows from
/// a landing may need it.
fn dead_landing(flusher: Arc<Flusher>, fill: FillInfo) {
    let io = flusher.io.clone();
    io.flush(Box::new(move |result| flusher.unlocked(move |flusher| flusher.landed(&fill, result))));
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = buffer.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    } else {
        debug_assert!(false, "a filling has room for its prefix and trailer");
    }
}

impl Stage for Flusher {
    fn place(&self, prev: Option<SealedFill>, need: usize, why: Why) -> Placement {
        let mut space = self.space.lock();
        let placement = space.place(prev, need, why, self.clock.now(), self.commit.stable());
        self.append_limit.store(space.append_limit(), Ordering::Relaxed);
        placement
    }

    fn flush(&self, fill: FillInfo) {
        self.give_in(|dispatch| dispatch.arrived(fill, self.commit.is_busy()));
    }

    fn failed_flush(&self, lsn: u64, bytes: &mut [u8]) {
        self.failed_flushes.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = frame::write_void(bytes, &self.seed, lsn) {
            debug_assert!(false, "claims are whole frames: {error}");
        }
    }

    fn has_room(&self, end_lsn: u64, need: usize) -> bool {
        let room = self.space.lock().has_room(end_lsn, need);
        if !room {
            self.full.store(true, Ordering::Relaxed);
        }
        room
    }

    fn slot_free(&self) {
        if let Some(on_room) = self.on_room.get() {
            on_room();
        }
    }
}
