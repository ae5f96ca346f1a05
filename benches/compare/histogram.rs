//! Latencies as counts in buckets: 32 in each doubling, so that a percentile is off by 3 % at most.

use serde::{Deserialize, Serialize};

/// Buckets in one doubling, as a power of two.
const FINE_BITS: u32 = 5;
const FINE: u64 = 1 << FINE_BITS;
const BUCKETS: usize = (64 - FINE_BITS as usize + 1) * FINE as usize;

/// Nanoseconds, counted.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
}

/// The buckets that are not empty, as (number, count): how a worker hands its latencies over.
#[derive(Serialize, Deserialize, Default)]
pub struct Compact(Vec<(u32, u64)>);

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
    }

    pub fn add(&mut self, other: &Compact) {
        for (number, count) in &other.0 {
            self.counts[*number as usize] += count;
        }
    }

    pub fn compact(&self) -> Compact {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Compact(filled.map(|(number, count)| (u32::try_from(number).unwrap(), *count)).collect())
    }

    /// Microseconds that `share` of all took at most; none of nothing.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted && seen > 0
        });
        found.map(|number| middle(number) / 1e3)
    }
}

/// Values below [`FINE`] have a bucket each.
fn bucket(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let doubling = value.ilog2() - FINE_BITS;
    (u64::from(doubling + 1) * FINE + ((value >> doubling) - FINE)) as usize
}

/// The middle of a bucket, in nanoseconds.
fn middle(number: usize) -> f64 {
    let number = number as u64;
    if number < FINE {
        return number as f64;
    }
    let doubling = number / FINE - 1;
    let low = (FINE + number % FINE) << doubling;
    low as f64 + (1u64 << doubling) as f64 / 2.0
}
