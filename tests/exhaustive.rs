//! Small scope, all of it: every sequence of a few operations, a power failure after each of them and after each request
//! of the disk, and every subset of the sectors that were under way; with `tail=pad` each of them also torn in the middle.
//!
//! `LLAMAFS_SCOPE=6 cargo test --release --test exhaustive -- --nocapture` for sequences of six.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod sim;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llamafs::io::{Device, SimDevice};
use llamafs::store::{AppendAt, LogStructuredStore, StoreOptions, Tail};
use parking_lot::Mutex;
use sim::model::Model;
use sim::plan::{Disk, Fill, Op, Setup};
use sim::rng::Rng;
use sim::world::{LOG, World};

/// Operations in a row, in the suite.
const SCOPE: usize = 4;
/// Sectors under way of which every subset is tried; of further ones none and all.
const SUBSETS_OF: usize = 10;
/// Bytes of a sector.
const SECTOR: usize = 512;
/// A sector may be cut off at any line of this length.
const LINE: usize = 16;
/// One in so many disks is also mounted for writing, written to and mounted again.
const WRITTEN_ONE_IN: u64 = 16;

/// What may be done. `Poll` lets the disk carry out one request.
const LETTERS: [Op; 6] = [
    Op::Append { len: 200, fill: Fill::Bytes },
    Op::Append { len: 1700, fill: Fill::Frames },
    Op::Sync,
    Op::Poll,
    Op::Tick,
    Op::GiveUp { len: 40 },
];

fn setup(tail: Tail) -> Setup {
    Setup {
        disk: Disk::Honest,
        tail,
        block: 512,
        write_cache: true,
        whole_pages: false,
        garbage: false,
        max_delay: 0,
        short_one_in: 0,
        segments: 2,
        ring_size: 2,
        buffer_size: 16 << 10,
        shutdown: false,
    }
}

#[derive(Default)]
struct Counts {
    sequences: AtomicU64,
    /// Disks that a power failure may leave.
    disks: AtomicU64,
    /// Of those: unlike any before in what lies on them, or in what they have to hold.
    looked_at: AtomicU64,
    seen: Seen,
    torn: AtomicU64,
    most_sectors: AtomicU64,
}

/// What was looked at, by hash: what lies on a disk, and what has to.
struct Seen([Mutex<HashSet<u64>>; 64]);

impl Default for Seen {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Seen {
    /// True the first time.
    fn is_new(&self, hash: u64) -> bool {
        self.0[hash as usize % self.0.len()].lock().insert(hash)
    }
}

fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A disk as the sum of its sectors, so that few changes of it are few steps.
struct Content {
    /// Of all sectors that a power failure spares anyway, and of what has to be there.
    hash: u64,
    /// Of the sectors that may be otherwise.
    sectors: BTreeMap<u64, u64>,
}

impl Content {
    fn of(stable: &SimDevice, varied: &[(u64, Vec<u8>)], model: &Model) -> Self {
        let bytes = stable.snapshot();
        let one = |place: usize, bytes: &[u8]| hash_of((place as u64, bytes));
        let all = bytes.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
        let hash = all.fold(hash_of(format!("{model:?}")), |hash, (n, sector)| hash ^ one(n * SECTOR, sector));
        let sector = |place: u64| {
            let there = &bytes[place as usize..place as usize + SECTOR];
            if there.iter().any(|byte| *byte != 0) { one(place as usize, there) } else { 0 }
        };
        Self { hash, sectors: varied.iter().map(|(place, _)| (*place, sector(*place))).collect() }
    }

    /// The same with these sectors, of which the last one counts.
    fn with<'a>(&self, spared: impl Iterator<Item = (u64, &'a [u8])>) -> u64 {
        let last: BTreeMap<u64, &[u8]> = spared.collect();
        last.iter().fold(self.hash, |hash, (place, bytes)| hash ^ self.sectors[place] ^ hash_of((*place, *bytes)))
    }
}

/// What a mount of this disk gives is what the model allows; nothing is called damaged.
fn check(device: SimDevice, model: &Model, options: &StoreOptions, counts: &Counts) {
    let number = counts.looked_at.fetch_add(1, Ordering::Relaxed);
    let device = Arc::new(device);
    device.max_delay(0);
    let written = number.is_multiple_of(WRITTEN_ONE_IN);
    let options = StoreOptions { read_only: !written, ..options.clone() };
    let open = || LogStructuredStore::open(device.clone() as Arc<dyn Device>, options.clone()).unwrap();
    let store = open();
    let report = store.stats().recovery;
    assert_eq!(report.damage, Vec::new(), "{:?}", report.notes);
    let mut model = model.clone();
    model.cut(report.end_lsn);
    let data = model.log(LOG).data.clone();
    assert_eq!(store.log(LOG).unwrap().size, data.len() as u64);
    assert!(store.read_now(LOG, 0, data.len() + 1).unwrap() == data, "different data");
    if !written {
        return;
    }
    let more = [number as u8; 700];
    let appended = store.try_append(LOG, &more, AppendAt::End).unwrap();
    store.make_stable_now(appended.end_lsn).unwrap();
    device.power_off();
    drop(store);
    let device = Arc::new(device.crash(number));
    let store = LogStructuredStore::open(device as Arc<dyn Device>, options).unwrap();
    assert_eq!(store.stats().recovery.damage, Vec::new(), "after one more record");
    assert!(
        store.read_now(LOG, 0, usize::MAX >> 1).unwrap() == [&data[..], &more[..]].concat(),
        "after one more record"
    );
}

/// Every power failure at this moment.
fn crashes(world: &World, options: &StoreOptions, counts: &Counts) {
    let sectors = world.device.in_flight();
    counts.most_sectors.fetch_max(sectors.len() as u64, Ordering::Relaxed);
    let varied = sectors.len().min(SUBSETS_OF);
    let content = Content::of(&world.device.crash_sparing([]), &sectors, &world.model);
    let look = |spared: Vec<(u64, &[u8])>| {
        counts.disks.fetch_add(1, Ordering::Relaxed);
        if counts.seen.is_new(content.with(spared.iter().copied()) ^ hash_of(options.tail == Tail::Pad)) {
            check(world.device.crash_sparing(spared), &world.model, options, counts);
        }
    };
    let spared = |mask: u64, rest: bool| {
        let chosen =
            sectors.iter().enumerate().filter(move |(at, _)| if *at < varied { mask & (1 << at) != 0 } else { rest });
        chosen.map(|(_, (place, bytes))| (*place, bytes.as_slice()))
    };
    for mask in 0..1u64 << varied {
        for rest in [false, true].into_iter().take(if sectors.len() > varied { 2 } else { 1 }) {
            look(spared(mask, rest).collect());
        }
    }
    if options.tail == Tail::Rewrite {
        return;
    }
    for (at, (place, bytes)) in sectors.iter().enumerate() {
        // The same garbage behind the same bytes: what was seen is known again.
        let mut rng = Rng::of(hash_of((place, bytes)), 5);
        for cut in (LINE..bytes.len()).step_by(LINE) {
            let mut torn = bytes.clone();
            torn[cut..].iter_mut().for_each(|byte| *byte = rng.next() as u8);
            let others = |before: bool| {
                let others = sectors.iter().enumerate().filter(move |(n, _)| if before { *n < at } else { *n != at });
                others.map(|(_, (place, bytes))| (*place, bytes.as_slice()))
            };
            for before in [true, false] {
                look(others(before).chain([(*place, torn.as_slice())]).collect());
                counts.torn.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Carry out these operations on a fresh store, and look at every power failure after the last of them.
fn sequence(ops: &[Op], setup: Setup, pristine: &SimDevice, counts: &Counts) {
    let mut world = World::new(1, setup, pristine, false);
    world.device.one_by_one(true);
    world.mount_quietly();
    for op in ops {
        world.step(*op);
    }
    counts.sequences.fetch_add(1, Ordering::Relaxed);
    crashes(&world, &setup.options(), counts);
    world.device.power_off();
}

#[test]
fn every_small_sequence_survives_every_power_failure() {
    let scope = std::env::var("LLAMAFS_SCOPE").map_or(SCOPE, |text| text.parse().expect("LLAMAFS_SCOPE is a number"));
    let started = std::time::Instant::now();
    let counts = Counts::default();
    let disks = sim::run::Disks::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    for tail in [Tail::Rewrite, Tail::Pad] {
        let setup = setup(tail);
        let pristine = disks.of(&setup);
        for length in 1..=scope {
            let next = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        loop {
                            let mut number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= (LETTERS.len() as u64).pow(length as u32) {
                                return;
                            }
                            let mut ops = Vec::new();
                            for _ in 0..length {
                                ops.push(LETTERS[number as usize % LETTERS.len()]);
                                number /= LETTERS.len() as u64;
                            }
                            let run = || sequence(&ops, setup, &pristine, &counts);
                            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                                panic!("tail {tail:?}: {ops:?}");
                            }
                        }
                    });
                }
            });
        }
    }
    println!(
        "{} sequences of up to {scope} operations, {} disks ({} with a sector torn in the middle), {} of them unlike any \
         other, up to {} sectors under way, {} s",
        counts.sequences.load(Ordering::Relaxed),
        counts.disks.load(Ordering::Relaxed),
        counts.torn.load(Ordering::Relaxed),
        counts.looked_at.load(Ordering::Relaxed),
        counts.most_sectors.load(Ordering::Relaxed),
        started.elapsed().as_secs(),
    );
}
