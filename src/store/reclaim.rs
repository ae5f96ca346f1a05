//! Getting room: what is dead is let go, what is nearly dead is cleaned, and checkpoints make it free.
//!
//! Done by one thread at a time: the reclaimer's own, or without threads whoever calls `tick`. An append that has a free
//! segment never waits for it.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::sync::{Condvar, Mutex, MutexGuard};

use super::LogStructuredStore;
use super::cleaner::{CHEAP_PERCENT, WORTH_PERCENT};
use super::segments::Segment;
use super::types::StoreError;
use crate::format::{Lsn, frame_len};

/// Free segments beyond the reserve below which room is made before anybody needs it; half as many in a store of fewer
/// than [`FEW`].
const LOW: u64 = 2;
const FEW: u64 = 32;
/// One for so many segments, if that is more.
const LOW_SHARE: u64 = 64;
/// Rounds of letting go and cleaning in one go, at most.
const ROUNDS: usize = 64;

/// What found no room to write is left for later.
fn as_far_as_there_is_room<T: Default>(result: Result<T, StoreError>) -> Result<T, StoreError> {
    match result {
        Err(StoreError::NoSpace) => Ok(T::default()),
        result => result,
    }
}

/// What was let go and moved since the mount.
#[derive(Debug, Default)]
pub struct SpaceCounters {
    /// Segments that became free.
    pub freed: AtomicU64,
    /// Segments that were emptied by moving what was alive.
    pub cleaned: AtomicU64,
    /// Bytes of the frames that were written for what was moved.
    pub moved_bytes: AtomicU64,
}

/// The reclaimer's thread.
#[derive(Default)]
pub struct Reclaimer {
    /// Held by whoever makes room.
    turn: Mutex<()>,
    state: Mutex<State>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Nothing could be gained when so often something had been let go, and so many segments had been begun: the one before
    /// the next that is begun may be dead then.
    hopeless: Mutex<Option<(u64, u64)>>,
    /// The cleaner moves something: the reserve is its own.
    moving: AtomicBool,
    /// How often something was let go.
    let_go: AtomicU64,
    /// Cleaning gained nothing: when, and up to which end of the log it is not tried again.
    vain: Mutex<Option<(u64, Lsn)>>,
    /// When, and how much room there was at the most since then behind any cleaning.
    most: Mutex<(u64, u64)>,
}

struct Moving<'a>(&'a AtomicBool);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct State {
    wanted: bool,
    stop: bool,
    runs: bool,
}

/// How far making room went.
enum Tried {
    /// There is enough, or the store closes.
    Enough,
    /// All that there is to try.
    All,
}

/// Room, as far as cleaning can make it.
struct Room {
    /// Bytes of segments that nothing alive is in, and of all frames appended so far.
    free_or_taken: u64,
    /// Bytes that the cleaner has moved so far.
    moved: u64,
}

impl Reclaimer {
    /// Keep segments where they are: nobody else lets go or cleans meanwhile.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// There may be something to do. False: there is no thread for it.
    pub fn ask(&self) -> bool {
        let mut state = self.state.lock();
        state.wanted = true;
        self.wake.notify_one();
        state.runs
    }

    /// Sleep until there may be something to do. False: stop.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return false;
            }
            if std::mem::take(&mut state.wanted) {
                return true;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Something was let go.
    pub fn hope(&self) {
        self.let_go.fetch_add(1, Ordering::Relaxed);
    }

    /// Until the guard is dropped the reserve is the cleaner's alone.
    pub fn begin_moving(&self) -> impl Drop + '_ {
        self.moving.store(true, Ordering::SeqCst);
        Moving(&self.moving)
    }

    /// What lets go waits too, if it would take of the reserve.
    pub fn is_moving(&self) -> bool {
        self.moving.load(Ordering::SeqCst)
    }

    /// In a log that ends at `end` cleaning would only move things about.
    fn is_vain(&self, end: Lsn) -> bool {
        let let_go = self.let_go.load(Ordering::Relaxed);
        self.vain.lock().is_some_and(|(when, until)| when == let_go && end < until)
    }

    /// End the thread.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the reclaimer thread panicked");
        }
        self.state.lock().runs = false;
    }
}

/// Start the reclaimer's thread; it holds no reference that would keep the store alive.
pub fn start(store: &Arc<LogStructuredStore>) {
    let mut slot = store.reclaimer.thread.lock();
    if slot.is_some() {
        return;
    }
    let (weak, reclaimer) = (Arc::downgrade(store), store.reclaimer.clone());
    let work = move || {
        while reclaimer.wait() {
            let Some(store) = weak.upgrade() else { return };
            store.reclaim();
        }
    };
    match std::thread::Builder::new().name("reclaimer".to_owned()).spawn(work) {
        Ok(thread) => {
            *slot = Some(thread);
            store.reclaimer.state.lock().runs = true;
        }
        Err(error) => log::error!("no thread for making room: {error}; the flush timer's does it"),
    }
}

impl LogStructuredStore {
    /// The store closes, or appends have stopped.
    pub(super) fn stopping(&self) -> bool {
        self.reclaimer.state.lock().stop || self.flusher.has_failed()
    }

    /// Make room, if there may be something to do: by the reclaimer, or here.
    pub(super) fn ask_for_room(&self) {
        if !self.reclaimer.ask() {
            self.reclaim();
        }
    }

    /// Nothing free is left for appends; can anything be made free?
    pub(super) fn can_make_room(&self) -> bool {
        if self.stopping() {
            return false;
        }
        if self.reclaimer.is_moving() {
            return true;
        }
        let now = self.let_go_and_begun();
        if *self.reclaimer.hopeless.lock() == Some(now) {
            return false;
        }
        // Also of what is not stable yet: that can be helped.
        let gain = {
            let space = self.flusher.space();
            let table = &space.table;
            // What has no summary yet is known by what was let go of it; a store of few segments has no room for more.
            let worth = self.worth();
            let unknown = |segment: &Segment| segment.lacks_summary() && segment.let_go >= worth;
            let unknown = table.reserve() > 0 && table.full(Lsn::MAX).any(unknown);
            unknown || table.retired_count() > 0 || table.dead(Lsn::MAX).next().is_some()
        };
        gain || self.can_drop_oldest() || (!self.reclaimer.is_vain(self.ring.end_lsn()) && self.can_clean())
    }

    /// Free segments that appends may take, beyond those that are always to be there.
    fn is_low(&self) -> bool {
        let space = self.flusher.space();
        let (reserve, total) = (space.table.reserve(), space.table.total());
        let low = if total < FEW { LOW / 2 } else { LOW.max(total / LOW_SHARE) };
        space.table.free_count() < reserve + low
    }

    /// There is something to sum up, to let go or to clean.
    pub(super) fn has_to_reclaim(&self) -> bool {
        let stable = self.flusher.commit.stable();
        let due = {
            let space = self.flusher.space();
            space.table.to_sum_up(stable) || (space.table.dead(stable).next().is_some())
        };
        due || self.is_low() || self.retention_is_due()
    }

    /// Sum up what is full, let go what is dead, and while room is short drop, clean and checkpoint.
    pub(super) fn reclaim(&self) {
        let turn = self.reclaimer.turn.lock();
        let begin = self.let_go_and_begun();
        let let_go = begin.0;
        let freed = self.space_counters.freed.load(Ordering::Relaxed);
        let mut before = None;
        let result = self.reclaim_rounds(&mut before);
        // Where it was broken off, as by a full ring, it may gain yet.
        if result.is_ok() && before.is_some_and(|before| self.was_vain(&before, let_go)) {
            // What is appended until then may make a segment that is worth cleaning.
            *self.reclaimer.vain.lock() = Some((let_go, self.ring.end_lsn() + self.worth()));
        }
        match result {
            Ok(Tried::All) if self.space_counters.freed.load(Ordering::Relaxed) == freed => {
                *self.reclaimer.hopeless.lock() = Some(begin);
            }
            Ok(_) => {}
            // There will be room in the ring.
            Err(StoreError::WouldBlock) => self.keeper.dirty(),
            Err(error) => {
                log::warn!("{}: no room could be made: {error}", self.io.describe());
                *self.reclaimer.hopeless.lock() = Some(begin);
            }
        }
        drop(turn);
        self.drain_deferred();
    }

    /// The same, for an append that found none: true if there is some now.
    pub(super) fn reclaim_now(&self) -> bool {
        let before = self.space_counters.freed.load(Ordering::Relaxed);
        self.reclaim();
        self.space_counters.freed.load(Ordering::Relaxed) > before || self.flusher.space().table.has_open_room()
    }

    /// What makes a segment worth cleaning, in bytes that are dead.
    fn worth(&self) -> u64 {
        self.shape.segment_size * (100 - WORTH_PERCENT) / 100
    }

    /// What there is before something is cleaned.
    fn room(&self) -> Room {
        let (records, bytes) = self.appended();
        let moved = self.space_counters.moved_bytes.load(Ordering::Relaxed);
        let end = self.ring.end_lsn();
        let space = self.flusher.space();
        let newest = space.table.newest();
        let taken = space.table.segments().filter(|it| it.ranges > 0 || Some(it.entry.sequence) == newest).count();
        let free = space.table.total().saturating_sub(taken as u64) * self.shape.segment_size + space.rest(end);
        Room { free_or_taken: free + bytes + records * frame_len(1) as u64, moved }
    }

    /// Room is still short, and for all that was moved since `before` there is hardly more of it than there ever was since
    /// something was let go, nor did appends take it: headers, summaries and paddings around what is moved take what is
    /// gained. It would go on for ever.
    fn was_vain(&self, before: &Room, let_go: u64) -> bool {
        let now = self.room();
        let mut most = self.reclaimer.most.lock();
        let known = if most.0 == let_go { before.free_or_taken.max(most.1) } else { before.free_or_taken };
        *most = (let_go, known.max(now.free_or_taken));
        self.is_low() && now.moved > before.moved && now.free_or_taken < known + self.worth()
    }

    /// `before_cleaning` is set before anything is cleaned.
    fn reclaim_rounds(&self, before_cleaning: &mut Option<Room>) -> Result<Tried, StoreError> {
        for _ in 0..ROUNDS {
            if self.stopping() || self.options.read_only {
                return Ok(Tried::Enough);
            }
            if self.is_low() {
                // What is not stable can neither be summed up nor let go.
                self.make_stable_now(self.ring.end_lsn())?;
            }
            // What needs room to write finds none in a store that is full to the last block: what is dead goes all the same.
            as_far_as_there_is_room(self.summarise())?;
            if self.retention_is_due() {
                as_far_as_there_is_room(self.retain())?;
            }
            let mut gained = self.let_go()?;
            if !self.is_low() {
                return Ok(Tried::Enough);
            }
            if gained == 0 && self.flusher.space().table.retired_count() == 0 {
                let may_clean = !self.reclaimer.is_vain(self.ring.end_lsn());
                if may_clean {
                    before_cleaning.get_or_insert_with(|| self.room());
                    gained += as_far_as_there_is_room(self.clean(CHEAP_PERCENT))?;
                }
                if gained == 0 {
                    gained += as_far_as_there_is_room(self.drop_oldest())?;
                }
                if gained == 0 && may_clean {
                    gained += as_far_as_there_is_room(self.clean(WORTH_PERCENT))?;
                }
                if gained == 0 {
                    break;
                }
                continue;
            }
            // Both checkpoint areas have to tell of it before it is free.
            self.checkpoint()?;
        }
        Ok(Tried::All)
    }

    /// How often something was let go, and how many segments were begun.
    fn let_go_and_begun(&self) -> (u64, u64) {
        (self.reclaimer.let_go.load(Ordering::Relaxed), self.flusher.space().opened)
    }

    /// Retire what is dead; gives the number of segments.
    fn let_go(&self) -> Result<u64, StoreError> {
        let dead: Vec<u64> = self.flusher.space().table.dead(self.flusher.commit.stable()).collect();
        for sequence in &dead {
            self.save_summaries_in(*sequence)?;
        }
        if dead.is_empty() {
            return Ok(0);
        }
        // No checkpoint is written meanwhile, that would still name them.
        let last = self.checkpointing.lock();
        let mut space = self.flusher.space();
        dead.iter().for_each(|sequence| space.table.retire(*sequence, last.generation));
        Ok(dead.len() as u64)
    }

    /// A checkpoint was written: `count` segments became free.
    pub(super) fn became_free(&self, count: u64) {
        if count > 0 {
            self.space_counters.freed.fetch_add(count, Ordering::Relaxed);
            self.flusher.full.store(false, Ordering::Relaxed);
            *self.reclaimer.hopeless.lock() = None;
        }
    }
}
