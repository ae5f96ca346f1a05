//! When something becomes too old: a store that nobody uses sleeps until then, and for ever if nothing does.
//!
//! Of each log with a limit of age it is known when its first record was written, or no later: a log whose first record is
//! not old enough yet needs no look at the device.

use std::collections::HashMap;
use std::time::Duration;

use super::LogStructuredStore;
use super::retention::{EVERY, Policy};
use super::types::{LogId, StoreError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Longest sleep while something becomes too old one day, in ns: the machine may have been suspended, or its clock set.
const LONGEST: u64 = 60_000_000_000;
/// Nothing does.
const NEVER: u64 = u64::MAX;

/// Where a log begins, and when its record there was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    head: u64,
    time_ns: u64,
}

/// What is known of first records.
#[derive(Debug, Default)]
pub struct Firsts(HashMap<LogId, First>);

/// When to look again.
#[derive(Debug)]
pub struct Expiry {
    firsts: Mutex<Firsts>,
    next_ns: AtomicU64,
    /// Something has changed since all was looked at.
    pending: AtomicBool,
}

impl Default for Expiry {
    fn default() -> Self {
        // What a mount finds is looked at soon.
        Self { firsts: Mutex::default(), next_ns: AtomicU64::new(NEVER), pending: AtomicBool::new(true) }
    }
}

impl Expiry {
    /// Something has changed that nobody has looked at yet.
    pub fn postponed(&self) {
        self.pending.store(true, Ordering::Relaxed);
    }

    /// All logs are looked at from here on: what was known of them.
    pub fn begin(&self) -> Firsts {
        self.pending.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.firsts.lock())
    }

    /// All were looked at: what is known now, and when the next one has something that is too old.
    pub fn end(&self, firsts: Firsts, next_ns: Option<u64>) {
        *self.firsts.lock() = firsts;
        self.next_ns.store(next_ns.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

impl Firsts {
    /// When the first record of a log that begins at `head` was written, if that is known.
    pub fn time(&self, log: LogId, head: u64) -> Option<u64> {
        self.0.get(&log).filter(|first| first.head == head).map(|first| first.time_ns)
    }

    /// It was written then.
    pub fn know(&mut self, log: LogId, head: u64, time_ns: u64) {
        self.0.insert(log, First { head, time_ns });
    }
}

impl LogStructuredStore {
    /// So long the keeper may sleep if nothing happens; nothing: for ever.
    pub(super) fn sleep(&self) -> Option<Duration> {
        if self.superblock.worm || self.options.read_only || self.stopping() {
            return None;
        }
        let next = match self.expiry.next_ns.load(Ordering::Relaxed) {
            _ if self.expiry.pending.load(Ordering::Relaxed) => EVERY,
            NEVER => return None,
            next_ns => next_ns.saturating_sub(self.clock.now()),
        };
        Some(Duration::from_nanos(next.clamp(EVERY, LONGEST)))
    }

    /// The keeper has slept so long: look at the limits if something is too old by now.
    pub(super) fn wake(&self) {
        let due = self.expiry.next_ns.load(Ordering::Relaxed) < self.clock.now();
        if (due || self.expiry.pending.load(Ordering::Relaxed)) && self.retention_is_due() {
            self.ask_for_room();
        }
    }

    /// A log with this policy begins at `head` now, with a record that was written at `bound` or later: when it has something
    /// that is too old, if it ever has. `looked`: it has let go of what is too old already.
    pub(super) fn next_expiry(
        &self,
        log: LogId,
        policy: &Policy,
        (head, bound): (u64, u64),
        looked: bool,
        firsts: &mut Firsts,
    ) -> Result<Option<u64>, StoreError> {
        let Some(age) = policy.retain_age_ns else { return Ok(None) };
        if self.log(log).is_none_or(|info| info.size <= head) {
            return Ok(None);
        }
        let time_ns = if looked { self.time_at(log, head)?.unwrap_or(bound) } else { bound };
        if looked {
            firsts.know(log, head, time_ns);
        }
        // What is too old and is still there is to be kept: nothing changes that but an append.
        let next_ns = time_ns.saturating_add(age);
        Ok(Some(next_ns).filter(|next_ns| !looked || *next_ns >= self.clock.now()))
    }
}
