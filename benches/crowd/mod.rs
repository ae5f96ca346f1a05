//! Appends by one thread and by several at once, measured by criterion.
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};

/// Threads that append at the same time.
const THREADS: [usize; 3] = [1, 2, 8];
/// Of each row.
const SAMPLES: usize = 10;
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(1);

/// A row for each size and number of threads; `run` does so many appends and tells how long they took.
pub fn rows(name: &str, sizes: &[usize], run: impl Fn(usize, usize, u64) -> Duration) {
    let criterion = Criterion::default().sample_size(SAMPLES).warm_up_time(WARM_UP).measurement_time(MEASURED);
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group(name);
    for &size in sizes {
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
        for threads in THREADS {
            let row = BenchmarkId::new(format!("{size} B"), format!("{threads} at once"));
            group.bench_function(row, |bencher| bencher.iter_custom(|count| run(size, threads, count)));
        }
    }
    group.finish();
    criterion.final_summary();
}

/// How long `threads` threads take for `count` appends in all, and then for `finish`.
pub fn append_all(
    threads: usize,
    count: u64,
    size: usize,
    append: &(dyn Fn(&[u8]) + Sync),
    finish: &dyn Fn(),
) -> Duration {
    let each = count.div_ceil(threads as u64);
    let barrier = Barrier::new(threads);
    let begun = std::thread::scope(|scope| {
        let work = || {
            let payload = vec![0x5a; size];
            barrier.wait();
            let begun = Instant::now();
            (0..each).for_each(|_| append(&payload));
            begun
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).min()
    });
    let started = begun.unwrap();
    finish();
    // As the threads do the same number each, they may have done a few more.
    started.elapsed().mul_f64(count as f64 / (each * threads as u64) as f64)
}
