//! Speed of the flush ring in memory: `cargo bench --bench ring`. Of each row criterion tells the time of one append, with
//! all threads together, and how many and how many bytes that makes a second.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that checks: it fails loudly")]

mod crowd;
mod memory;

use crowd::{append_all, rows};
use memory::{Ring, ring_of};
use std::hint::black_box;

const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const BUFFER_SIZE: usize = 1 << 20;

fn main() {
    let ring = ring_of(llamafs::ring::RING_SIZE, BUFFER_SIZE, Box::new(|ring: &Ring, fill| ring.recycle(&fill)));
    rows("ring in memory", &SIZES, |size, threads, count| {
        let append = |payload: &[u8]| {
            ring.append(black_box(payload)).unwrap();
        };
        append_all(threads, count, size, &append, &|| {})
    });
}
