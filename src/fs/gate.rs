//! Two counts that keep the daemon honest: requests taken and not yet answered, and bytes that wait for the ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Set once no further request is taken.
const SHUT: u64 = 1 << 63;

/// Counts the requests in flight; once shut it takes none and can be waited for.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU64,
    lock: Mutex<()>,
    empty: Condvar,
}

impl Gate {
    /// Take a request. False: the gate is shut. Every true is paid back by one [`Gate::leave`].
    pub fn enter(&self) -> bool {
        if self.state.fetch_add(1, Ordering::AcqRel) & SHUT == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// A request is answered.
    pub fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == SHUT | 1 {
            // Taken so that a waiter that has just looked is asleep when it is woken.
            drop(self.lock.lock());
            self.empty.notify_all();
        }
    }

    /// Take no further request.
    pub fn shut(&self) {
        self.state.fetch_or(SHUT, Ordering::AcqRel);
    }

    /// Wait until none is in flight, at most `limit`. Shut the gate first, or it may never be.
    pub fn wait_empty(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut guard = self.lock.lock();
        while self.state.load(Ordering::Acquire) & !SHUT != 0 {
            if self.empty.wait_until(&mut guard, until).timed_out() {
                return self.state.load(Ordering::Acquire) & !SHUT == 0;
            }
        }
        true
    }
}

/// Bytes of queued appends, bounded.
#[derive(Debug)]
pub struct Backlog {
    limit: usize,
    held: Mutex<usize>,
    freed: Condvar,
}

impl Backlog {
    /// At most `limit` bytes, but always room for one append.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::new(0), freed: Condvar::new() }
    }

    /// Wait for room and take it.
    pub fn take(&self, len: usize) {
        let mut held = self.held.lock();
        while *held != 0 && held.saturating_add(len) > self.limit {
            self.freed.wait(&mut held);
        }
        *held += len;
    }

    /// Take it without waiting, for one who must not wait.
    pub fn add(&self, len: usize) {
        *self.held.lock() += len;
    }

    /// Give it back.
    pub fn give(&self, len: usize) {
        let mut held = self.held.lock();
        *held = held.saturating_sub(len);
        drop(held);
        self.freed.notify_all();
    }

    /// Bytes queued.
    pub fn held(&self) -> usize {
        *self.held.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_shut_gate_takes_nothing_and_waits_for_what_it_took() {
        let gate = Arc::new(Gate::default());
        assert!(gate.enter());
        gate.shut();
        assert!(!gate.enter());
        assert!(!gate.wait_empty(Duration::from_millis(10)));
        let other = gate.clone();
        let thread = std::thread::spawn(move || other.leave());
        assert!(gate.wait_empty(Duration::from_secs(10)));
        thread.join().unwrap();
    }

    #[test]
    fn the_backlog_holds_a_worker_up_until_there_is_room() {
        let backlog = Arc::new(Backlog::new(10));
        backlog.take(100); // one always fits
        let other = backlog.clone();
        let thread = std::thread::spawn(move || other.take(5));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(backlog.held(), 100);
        backlog.give(100);
        thread.join().unwrap();
        assert_eq!(backlog.held(), 5);
    }
}
