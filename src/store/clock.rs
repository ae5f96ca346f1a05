//! The time that frames carry: the machine's clock, but never back behind what the store has seen.
//!
//! A clock that is set back would have a log tell its records in one order and their times in another; then no record
//! could be found by its time. So the store keeps a floor under the clock: at the mount the latest time on the device,
//! then the time of the last tick. A log besides never gives a frame a time before its last one's (see `append`). Until
//! the clock has caught up, times stand still.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 by the machine's clock; 0 before 1970.
#[inline]
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The clock of one store.
#[derive(Debug)]
pub struct Clock {
    machine: fn() -> u64,
    /// Written by ticks alone, so that appends on all CPUs share its cache line.
    floor: AtomicU64,
}

impl Clock {
    /// Over the machine's clock, never before `floor`.
    pub fn new(machine: fn() -> u64, floor: u64) -> Self {
        Self { machine, floor: AtomicU64::new(floor) }
    }

    /// Now, but not before what the store has seen.
    #[inline]
    pub fn now(&self) -> u64 {
        (self.machine)().max(self.floor.load(Ordering::Relaxed))
    }

    /// What is now can't be gone behind any more.
    pub fn tick(&self) {
        self.floor.fetch_max((self.machine)(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_behind_its_floor() {
        static MACHINE: AtomicU64 = AtomicU64::new(100);
        let clock = Clock::new(|| MACHINE.load(Ordering::Relaxed), 70);
        assert_eq!(clock.now(), 100);
        MACHINE.store(50, Ordering::Relaxed);
        assert_eq!(clock.now(), 70);
        MACHINE.store(200, Ordering::Relaxed);
        clock.tick();
        MACHINE.store(150, Ordering::Relaxed);
        assert_eq!(clock.now(), 200);
    }
}
