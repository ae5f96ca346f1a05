//! Running seeds, many at once, and making a failure small.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use llamafs::io::{Device, SimDevice};
use llamafs::store::LogStructuredStore;
use parking_lot::Mutex;

use super::plan::{Op, Setup, plan};
use super::states::{Hits, State};
use super::world::World;

/// A seed that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Tries to make a failure smaller, at most.
const MOST_TRIES: u32 = 2000;

/// Freshly formatted disks, by what they depend on.
#[derive(Default)]
pub struct Disks(Mutex<HashMap<(u64, u32, bool), Arc<SimDevice>>>);

impl Disks {
    /// The disk for this setup.
    pub fn of(&self, setup: &Setup) -> Arc<SimDevice> {
        let key = (setup.segments, setup.block, setup.write_cache);
        let mut disks = self.0.lock();
        let disk = disks.entry(key).or_insert_with(|| {
            let device = Arc::new(setup.device(1));
            device.max_delay(0);
            LogStructuredStore::format(device.clone() as Arc<dyn Device>, &setup.format(), &mut |_, _| {}).unwrap();
            device
        });
        disk.clone()
    }
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub ops: u64,
    pub crashes: u64,
    pub hits: Hits,
    /// Of the first failure: the seed, what it said, and the operations it needs.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub text: String,
    pub keep: Vec<usize>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keep = self.keep.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let (setup, ops) = plan(self.seed);
        writeln!(f, "seed {}: {}", self.seed, self.text)?;
        writeln!(f, "{setup:?}")?;
        for number in &self.keep {
            writeln!(f, "  {number:3} {:?}", ops[*number])?;
        }
        write!(f, "again: LLAMAFS_SIM={}:{keep} cargo test --release --test crash replay", self.seed)
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static SAID: Cell<Option<String>> = const { Cell::new(None) };
}

/// Panics of a simulated run are kept as text.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                SAID.set(Some(info.to_string().replace('\n', " ")));
            } else {
                usual(info);
            }
        }));
    });
}

/// Carry out the kept operations of a seed. `Err`: what it said when it failed.
pub fn run_seed(disks: &Disks, seed: u64, keep: Option<&[usize]>, trace: bool) -> (Hits, u64, Result<(), String>) {
    let (setup, ops) = plan(seed);
    let ops: Vec<Op> = match keep {
        Some(keep) => keep.iter().filter_map(|at| ops.get(*at)).copied().collect(),
        None => ops,
    };
    run_life(disks, seed, setup, &ops, trace)
}

/// Carry out these operations.
pub fn run_life(disks: &Disks, seed: u64, setup: Setup, ops: &[Op], trace: bool) -> (Hits, u64, Result<(), String>) {
    listen();
    let mut world = World::new(seed, setup, &disks.of(&setup), trace);
    QUIET.set(!trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run(ops)));
    let result = result.map_err(|_| SAID.take().unwrap_or_else(|| "it panicked".to_owned()));
    if result.is_err() {
        // What it holds may be in any state: let it go without a word.
        world.device.power_off();
        let _ = catch_unwind(AssertUnwindSafe(|| world.store = None));
    }
    QUIET.set(false);
    (std::mem::take(&mut world.hits), ops.len() as u64, result)
}

/// The fewest operations that still fail, found by leaving some out.
pub fn minimise(disks: &Disks, seed: u64) -> Vec<usize> {
    let mut keep: Vec<usize> = (0..plan(seed).1.len()).collect();
    let mut chunk = keep.len().div_ceil(2);
    let mut tries = 0;
    while chunk > 0 && tries < MOST_TRIES {
        let mut at = 0;
        let mut smaller = false;
        while at < keep.len() && tries < MOST_TRIES {
            let mut less = keep.clone();
            less.drain(at..(at + chunk).min(keep.len()));
            tries += 1;
            if run_seed(disks, seed, Some(&less), false).2.is_err() {
                keep = less;
                smaller = true;
            } else {
                at += chunk;
            }
        }
        if !smaller || chunk > 1 {
            chunk /= 2;
        }
    }
    keep
}

/// Run `count` seeds from `first` on over `threads` threads; stops at the first failure.
pub fn run_seeds(first: u64, count: u64, threads: usize) -> Summary {
    let disks = Disks::default();
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let at_work: Vec<Mutex<Option<(u64, Instant)>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let left = AtomicU64::new(threads as u64);
    std::thread::scope(|scope| {
        for mine in &at_work {
            let (disks, next, summary, left) = (&disks, &next, &summary, &left);
            scope.spawn(move || {
                let mut own = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || summary.lock().failure.is_some() {
                        break;
                    }
                    *mine.lock() = Some((seed, Instant::now()));
                    let (hits, ops, result) = run_seed(disks, seed, None, false);
                    own.seeds += 1;
                    own.ops += ops;
                    own.crashes += plan(seed).1.iter().filter(|op| is_crash(op)).count() as u64;
                    own.hits.add(&hits);
                    if let Err(text) = result {
                        summary.lock().failure.get_or_insert(Failure { seed, text, keep: Vec::new() });
                    }
                    *mine.lock() = None;
                }
                let mut all = summary.lock();
                all.seeds += own.seeds;
                all.ops += own.ops;
                all.crashes += own.crashes;
                all.hits.add(&own.hits);
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // A seed that hangs is named: its thread can't be ended.
        while left.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(20));
            for mine in &at_work {
                if let Some((seed, since)) = *mine.lock()
                    && since.elapsed() > HANGS
                {
                    eprintln!("seed {seed} hangs: LLAMAFS_SIM={seed} cargo test --release --test crash replay");
                    std::process::exit(101);
                }
            }
        }
    });
    let mut summary = summary.into_inner();
    if let Some(failure) = &mut summary.failure {
        failure.keep = minimise(&disks, failure.seed);
        if let Err(text) = run_seed(&disks, failure.seed, Some(&failure.keep), false).2 {
            failure.text = text;
        }
    }
    summary
}

fn is_crash(op: &Op) -> bool {
    matches!(
        op,
        Op::Crash { .. }
            | Op::Kill { .. }
            | Op::CloseCrash { .. }
            | Op::TickCrash { .. }
            | Op::GrowCrash { .. }
            | Op::MountCrash { .. }
    )
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} seeds, {} operations, {} crashes", self.seeds, self.ops, self.crashes)?;
        for state in State::ALL {
            writeln!(f, "{:>10}  {}", self.hits.count(*state), state.text())?;
        }
        Ok(())
    }
}
