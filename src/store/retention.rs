//! Retention: how much of each log is kept, and what goes when the store is full.
//!
//! A log's own limits count, else the store's, which are those of its root. Heads go up once a second, in whole records,
//! so that at most what is allowed stays, and never less than what is to be kept. With `on_full=drop-oldest` the oldest
//! segment of a full store is given up: every log lets go of what it has there.

use crate::sync::atomic::{AtomicU64, Ordering};

use super::LogStructuredStore;
use super::expiry::Firsts;
use super::ranges::Range;
use super::types::{LogId, StoreError};
use crate::format::catalog::FLAG_DROP_OLDEST;
use crate::format::{CatalogEntry, ROOT_ID};

/// No limit, said explicitly: 0 is the store's default.
pub const NO_LIMIT: u64 = u64::MAX;
/// Heads are looked at so often, in ns.
pub(super) const EVERY: u64 = 1_000_000_000;

/// What a log may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// At most so many bytes.
    pub retain_bytes: Option<u64>,
    /// At most so old, in ns.
    pub retain_age_ns: Option<u64>,
    /// Never fewer bytes than this.
    pub keep_min: u64,
}

/// The store's own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StorePolicy {
    retain_bytes: u64,
    retain_age_ns: u64,
    keep_min: u64,
    pub(super) drop_oldest: bool,
}

impl StorePolicy {
    fn of_root(root: &CatalogEntry) -> Self {
        let CatalogEntry { retain_bytes, retain_age_ns, keep_min, flags, .. } = *root;
        Self { retain_bytes, retain_age_ns, keep_min, drop_oldest: flags & FLAG_DROP_OLDEST != 0 }
    }

    /// What holds for the log with this entry.
    pub(super) fn of(&self, log: &CatalogEntry) -> Policy {
        let own = |own: u64, store: u64| if own == 0 { store } else { own };
        let limit = |value: u64| Some(value).filter(|value| ![0, NO_LIMIT].contains(value));
        let keep_min = own(log.keep_min, self.keep_min);
        Policy {
            retain_bytes: limit(own(log.retain_bytes, self.retain_bytes)),
            retain_age_ns: limit(own(log.retain_age_ns, self.retain_age_ns)),
            keep_min: if keep_min == NO_LIMIT { 0 } else { keep_min },
        }
    }
}

/// What was let go since the mount, and when heads were looked at last.
#[derive(Debug, Default)]
pub struct Retention {
    last_ns: AtomicU64,
    /// Bytes of logs that their limits let go.
    pub expired: AtomicU64,
    /// Bytes of logs that were dropped for want of space.
    pub dropped: AtomicU64,
    /// Bytes of logs that were trimmed by hand.
    pub trimmed: AtomicU64,
}

impl LogStructuredStore {
    /// The store's own limits.
    pub(super) fn store_policy(&self) -> StorePolicy {
        let tree = self.catalog.tree.read();
        tree.get(ROOT_ID).map(|root| StorePolicy::of_root(&root.entry)).unwrap_or_default()
    }

    /// What holds for a log.
    pub fn policy(&self, log: LogId) -> Option<Policy> {
        let store = self.store_policy();
        self.catalog.lock(log).map(|state| store.of(&state.entry))
    }

    /// Heads are to be looked at again.
    pub(super) fn retention_is_due(&self) -> bool {
        let last = self.retention.last_ns.load(Ordering::Relaxed);
        !self.superblock.worm && self.clock.now().saturating_sub(last) >= EVERY
    }

    /// Raise the heads of logs that hold more, or older, than they may.
    pub(super) fn retain(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.retention.last_ns.store(now, Ordering::Relaxed);
        let store = self.store_policy();
        let ids: Vec<LogId> = self.catalog.tree.read().ids().collect();
        let (before, mut firsts, mut next) = (self.expiry.begin(), Firsts::default(), None);
        for id in ids {
            match self.retain_one(id, &store, now, &before, &mut firsts) {
                Ok(due) => next = next.into_iter().chain(due).min(),
                // One that can't be read, or is gone meanwhile, keeps no other from being looked at.
                Err(error @ (StoreError::Io(_) | StoreError::NotFound)) => {
                    log::warn!("{}: the limits of log {id} can't be kept: {error}", self.io.describe());
                }
                Err(error) => {
                    self.expiry.postponed();
                    return Err(error);
                }
            }
        }
        self.expiry.end(firsts, next);
        Ok(())
    }

    /// Gives the time at which the log has something that is too old, if it ever has.
    fn retain_one(
        &self,
        id: LogId,
        store: &StorePolicy,
        now: u64,
        before: &Firsts,
        firsts: &mut Firsts,
    ) -> Result<Option<u64>, StoreError> {
        let (policy, head, size, first_ns) = {
            let Some(log) = self.catalog.lock(id) else { return Ok(None) };
            let range = || log.ranges.iter().next().map_or(now, |range| range.time_ns);
            let first = before.time(id, log.entry.head).unwrap_or_else(range);
            (store.of(&log.entry), log.entry.head, log.entry.size, first)
        };
        let mut wanted = head;
        if let Some(bytes) = policy.retain_bytes.filter(|bytes| size - head > *bytes) {
            wanted = wanted.max(self.head_for(id, size, bytes)?);
        }
        let aged = policy.retain_age_ns.filter(|age| first_ns.saturating_add(*age) < now);
        if let Some(age) = aged {
            wanted = wanted.max(self.head_since(id, now.saturating_sub(age))?);
        }
        let mut begins = head;
        if wanted > head {
            let trimmed = self.raise_head(id, wanted)?;
            self.retention.expired.fetch_add(trimmed.head - trimmed.before, Ordering::Relaxed);
            begins = trimmed.head;
        }
        // What was found out stays known.
        if let Some(time_ns) = before.time(id, begins) {
            firsts.know(id, begins, time_ns);
        }
        self.next_expiry(id, &policy, (begins, first_ns), aged.is_some() || begins > head, firsts)
    }

    /// The store gives up its oldest when it is full, and there is something to give up.
    pub(super) fn can_drop_oldest(&self) -> bool {
        !self.superblock.worm && self.store_policy().drop_oldest && self.flusher.space().table.has_full()
    }

    /// Give up the oldest full segment in which something can be given up; the number of logs that let go.
    pub(super) fn drop_oldest(&self) -> Result<u64, StoreError> {
        if !self.can_drop_oldest() {
            return Ok(0);
        }
        let stable = self.flusher.commit.stable();
        let full: Vec<u64> = {
            let space = self.flusher.space();
            space.table.full(stable).filter(|segment| segment.ranges > 0).map(|at| at.entry.sequence).collect()
        };
        for sequence in full {
            let mut dropped = 0;
            for id in self.logs_in(sequence) {
                let end = {
                    let Some(log) = self.catalog.lock(id) else { continue };
                    log.ranges.in_segment(sequence, &self.shape).map(Range::end).max()
                };
                let Some(end) = end else { continue };
                match self.kept(id, end).and_then(|head| self.raise_head(id, head)) {
                    Ok(trimmed) => {
                        self.retention.dropped.fetch_add(trimmed.head - trimmed.before, Ordering::Relaxed);
                        dropped += u64::from(trimmed.head > trimmed.before);
                    }
                    // Removed meanwhile: it has let go of all that it had there.
                    Err(StoreError::NotFound) => dropped += 1,
                    // Others make room.
                    Err(error @ StoreError::Io(_)) => {
                        log::warn!("{}: log {id} can't let go of its oldest: {error}", self.io.describe());
                    }
                    // What others let go before counts all the same.
                    Err(_) if dropped > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            if dropped > 0 {
                return Ok(dropped);
            }
        }
        Ok(0)
    }

    /// The logs that have or had records in a full segment.
    fn logs_in(&self, sequence: u64) -> Vec<LogId> {
        let mut logs = match self.summary_of(sequence) {
            Some(summary) => summary.ranges.iter().map(|range| range.log_id).collect(),
            None => self.flusher.space().table.get(sequence).map(|at| at.logs.clone()).unwrap_or_default(),
        };
        logs.sort_unstable();
        logs.dedup();
        logs
    }
}
