//! Speed of the flush ring in memory: `cargo bench --bench ring [-- RUNS]`. Each figure is the median of RUNS runs
//! (5 if not given); sizes and thread counts take turns, so that a noisy minute hits all of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that checks: it fails loudly")]

mod memory;

use memory::{Ring, ring_of};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const THREADS: [usize; 3] = [1, 2, 8];
const BUFFER_SIZE: usize = 1 << 20;

/// Appends per second.
fn measure(ring: &Arc<Ring>, size: usize, threads: usize) -> f64 {
    let total = (16_000_000usize).min((2 << 30) / size);
    let each = total / threads;
    let barrier = Barrier::new(threads + 1);
    let started = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (ring, barrier) = (ring.as_ref(), &barrier);
            scope.spawn(move || {
                let payload = vec![0x5A_u8; size];
                barrier.wait();
                for _ in 0..each {
                    ring.append(black_box(&payload)).unwrap();
                }
            });
        }
        barrier.wait();
        Instant::now()
    });
    (each * threads) as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let runs = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(5usize).max(1);
    let ring = ring_of(llamafs::ring::RING_SIZE, BUFFER_SIZE, Box::new(|ring, fill| ring.recycle(&fill)));
    let points: Vec<_> = SIZES.iter().flat_map(|&size| THREADS.map(|threads| (size, threads))).collect();
    let mut figures = vec![Vec::new(); points.len()];
    for _ in 0..runs {
        for (figure, &(size, threads)) in figures.iter_mut().zip(&points) {
            figure.push(measure(&ring, size, threads));
        }
    }
    println!("flush ring in memory, median of {runs} runs");
    println!("{:>8} {:>8} {:>14} {:>8} {:>22}", "bytes", "threads", "appends/s", "GB/s", "min..max");
    for (figure, &(size, threads)) in figures.iter_mut().zip(&points) {
        figure.sort_by(f64::total_cmp);
        let median = figure[figure.len() / 2];
        println!(
            "{size:>8} {threads:>8} {:>12.2} M {:>8.2} {:>10.2}..{:.2} M",
            median / 1e6,
            median * size as f64 / 1e9,
            figure[0] / 1e6,
            figure[figure.len() - 1] / 1e6,
        );
    }
}
