//! The keeper: the flush timer, the idle mark and the checkpoints.
//!
//! Its thread sleeps without a timeout while nothing was appended. The first append after that wakes it; from then on
//! no accepted byte waits longer than the flush interval. When the store has been idle for a while it brings the
//! stable mark on the device up to date; when a segment was opened it writes a checkpoint; when a record becomes too old it
//! has it let go (`expiry`).

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use super::LogStructuredStore;

/// Idle for this long, the mark is brought up to date; with the flush interval it stays within a second.
const IDLE_MARK: Duration = Duration::from_millis(500);

/// What wakes the keeper.
pub struct Keeper {
    dirty: AtomicBool,
    asleep: Mutex<Sleep>,
    wake: Condvar,
    interval: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Sleep {
    stop: bool,
}

impl Keeper {
    /// A keeper with this flush interval.
    pub fn new(flush_ms: u64) -> Self {
        Self {
            dirty: AtomicBool::new(false),
            asleep: Mutex::default(),
            wake: Condvar::new(),
            interval: Duration::from_millis(flush_ms),
            thread: Mutex::new(None),
        }
    }

    /// Something was accepted that is not flushed yet.
    #[inline]
    pub fn dirty(&self) {
        if !self.dirty.load(Ordering::Relaxed) {
            self.first_dirty();
        }
    }

    #[cold]
    fn first_dirty(&self) {
        if !self.dirty.swap(true, Ordering::SeqCst) {
            let _asleep = self.asleep.lock();
            self.wake.notify_one();
        }
    }

    /// Sleep until something is dirty, or for `at_most`. `None`: stop.
    fn wait_dirty(&self, at_most: Option<Duration>) -> Option<bool> {
        let mut asleep = self.asleep.lock();
        let deadline = at_most.map(|at_most| Instant::now() + at_most);
        loop {
            if asleep.stop {
                return None;
            }
            if self.dirty.load(Ordering::SeqCst) {
                return Some(true);
            }
            match deadline {
                None => self.wake.wait(&mut asleep),
                Some(deadline) => {
                    if self.wake.wait_until(&mut asleep, deadline).timed_out() {
                        return Some(self.dirty.load(Ordering::SeqCst));
                    }
                }
            }
        }
    }

    /// Sleep for the flush interval. False: stop.
    fn wait_interval(&self) -> bool {
        let deadline = Instant::now() + self.interval;
        let mut asleep = self.asleep.lock();
        while !asleep.stop {
            if self.wake.wait_until(&mut asleep, deadline).timed_out() {
                return !asleep.stop;
            }
        }
        false
    }

    /// End the thread.
    pub fn stop(&self) {
        self.asleep.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the keeper thread panicked");
        }
    }
}

/// Start the keeper's thread; it holds no reference that would keep the store alive.
pub fn start(store: &Arc<LogStructuredStore>) {
    let mut slot = store.keeper.thread.lock();
    if slot.is_some() {
        return;
    }
    let weak = Arc::downgrade(store);
    let keep = move || {
        let mut idle_for = None;
        loop {
            let Some(store) = weak.upgrade() else { return };
            let Some(dirty) = store.keeper.wait_dirty(idle_for.or_else(|| store.sleep())) else { return };
            if !dirty {
                match idle_for.take() {
                    Some(_) => store.flusher.mark(),
                    None => store.wake(),
                }
                continue;
            }
            if !store.keeper.wait_interval() {
                return;
            }
            store.tick();
            idle_for = store.flusher.commit.mark_is_behind().then_some(IDLE_MARK);
        }
    };
    match std::thread::Builder::new().name("keeper".to_owned()).spawn(keep) {
        Ok(thread) => *slot = Some(thread),
        Err(error) => {
            store.flusher.no_timer();
            log::error!("no thread for the flush timer: {error}; only fsync and full buffers flush");
        }
    }
}

impl LogStructuredStore {
    /// What the keeper does when the flush interval is over: flush what was accepted, and checkpoint if due. For a
    /// simulator that keeps time itself.
    pub fn tick(&self) {
        if !self.retention_is_due() {
            self.expiry.postponed();
        }
        // Cleared first: what is accepted from here on asks for the next tick.
        self.keeper.dirty.store(false, Ordering::SeqCst);
        self.clock.tick();
        let end = self.ring.end_lsn();
        if end > self.flusher.commit.stable() {
            self.make_stable(end, Box::new(|_| {}));
        }
        if self.has_to_reclaim() {
            self.ask_for_room();
        }
        if self.checkpoint_is_due()
            && let Err(error) = self.checkpoint()
        {
            log::warn!("{}: no checkpoint could be written: {error}; recovery will take longer", self.io.describe());
        }
    }

    /// What the keeper does when the store has been idle: bring the stable mark up to date.
    pub fn tick_idle(&self) {
        self.flusher.mark();
    }
}
