//! The commit path under shuttle: appenders, fsyncs, the flush timer and the owner of completions, in every order that a
//! random scheduler finds. Locks, atomics and threads of store, ring and I/O are shuttle's; the disk is simulated.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --release --test shuttle_commit` (`LLAMAFS_SHUTTLE=100000` for more schedules).
#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use llamafs::io::{Device, SimDevice, SimFault, SimOp};
use llamafs::store::{AppendAt, FormatOptions, Lends, LogStructuredStore, ReadBytes, StoreError, StoreOptions};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, MaxSteps, Runner, thread};

const LOG: u32 = 1;
const CAPACITY: u64 = 1 << 20;
/// Schedules of each test in the suite.
const SCHEDULES: usize = 400;
/// A schedule that takes more steps hangs.
const STEPS: usize = 2_000_000;
const STACK: usize = 1 << 20;
/// Records of one writer, of which two fill a buffer: more than tell of a writer of much.
const MANY: u32 = 24;
/// Reads of a log while it is written.
const READS: usize = 12;
/// Rounds of completions after which something hangs.
const PATIENCE: u32 = 20_000;

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("LLAMAFS_SHUTTLE").map_or(SCHEDULES, |text| text.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    Runner::new(RandomScheduler::new(schedules), config).run(test);
}

/// A freshly formatted disk, made once: only its bytes outlive a schedule.
fn disk() -> Arc<SimDevice> {
    static PRISTINE: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = PRISTINE.get_or_init(|| {
        let device = Arc::new(SimDevice::new(CAPACITY, 1));
        device.max_delay(0);
        let format = FormatOptions {
            segment_size: Some(64 << 10),
            max_record: Some(8 << 10),
            uuid: Some([7; 16]),
            ..FormatOptions::default()
        };
        LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
        device.snapshot()
    });
    Arc::new(SimDevice::from_bytes(bytes, 1))
}

fn open(device: &Arc<SimDevice>, ring_size: usize) -> Arc<LogStructuredStore> {
    let options = StoreOptions { ring_size, buffer_size: 16 << 10, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

/// What was answered, by writer and number.
#[derive(Default)]
struct Answers {
    /// Offset of what was accepted, or why it was not.
    accepted: BTreeMap<(u32, u32), Result<u64, StoreError>>,
    /// What fsync said, and the disk as a power failure at that moment would leave it.
    synced: BTreeMap<(u32, u32), (Result<(), StoreError>, Option<SimDevice>)>,
    twice: bool,
}

type Shared = Arc<Mutex<Answers>>;

fn record(writer: u32, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![(writer * 16 + number) as u8; len];
    bytes[0] = writer as u8;
    bytes[1] = number as u8;
    bytes
}

/// Append a record as soon as there is room, and fsync it.
fn append(store: &Arc<LogStructuredStore>, device: &Arc<SimDevice>, answers: &Shared, key: (u32, u32), len: usize) {
    let (again, disk, shared) = (Arc::downgrade(store), device.clone(), answers.clone());
    let done = Box::new(move |result: Result<llamafs::store::Appended, StoreError>| {
        let lsn = result.as_ref().map(|appended| appended.end_lsn).ok();
        let before = shared.lock().unwrap().accepted.insert(key, result.map(|appended| appended.offset));
        shared.lock().unwrap().twice |= before.is_some();
        let (Some(lsn), Some(store)) = (lsn, again.upgrade()) else { return };
        let shared = shared.clone();
        let synced = Box::new(move |result: Result<(), StoreError>| {
            let crashed = result.is_ok().then(|| disk.crash(u64::from(key.0 * 100 + key.1)));
            let before = shared.lock().unwrap().synced.insert(key, (result, crashed));
            shared.lock().unwrap().twice |= before.is_some();
        });
        store.make_stable(lsn, synced);
    });
    store.append_later(LOG, record(key.0, key.1, len), AppendAt::End, done);
}

/// Take completions by `poll` until `enough` says so.
fn drive(poll: impl Fn(), enough: impl Fn() -> bool) {
    let mut rounds = 0;
    while !enough() {
        poll();
        thread::yield_now();
        rounds += 1;
        assert!(rounds < PATIENCE, "somebody is never answered");
    }
}

/// Every record whose fsync was answered well is whole on the disk that was found then.
fn check(answers: &Answers, len: usize) {
    assert!(!answers.twice, "somebody was answered twice");
    for (key, (result, crashed)) in &answers.synced {
        let Some(crashed) = crashed else {
            assert!(result.is_err());
            continue;
        };
        let offset = *answers.accepted[key].as_ref().unwrap();
        crashed.max_delay(0);
        let bytes = crashed.snapshot();
        let device = Arc::new(SimDevice::from_bytes(&bytes, 1));
        let options = StoreOptions { read_only: true, ring_size: 2, buffer_size: 16 << 10, ..StoreOptions::default() };
        let store = LogStructuredStore::open(device as Arc<dyn Device>, options).unwrap();
        assert_eq!(store.stats().recovery.damage, Vec::new());
        let read = store.read_now(LOG, offset, len).unwrap();
        assert!(read == record(key.0, key.1, len), "{key:?} was answered and is not there");
    }
}

/// `writers` threads append `each` records of `len` bytes, two others take completions, and `meanwhile` runs beside.
fn load(writers: u32, each: u32, len: usize, fault: Option<(SimOp, u64)>, meanwhile: impl Fn(&LogStructuredStore)) {
    load_ring(2, (writers, each, len), fault, meanwhile);
}

/// The same with so many buffers.
fn load_ring(
    ring_size: usize,
    (writers, each, len): (u32, u32, usize),
    fault: Option<(SimOp, u64)>,
    meanwhile: impl Fn(&LogStructuredStore),
) {
    let device = disk();
    let store = open(&device, ring_size);
    if let Some((op, nth)) = fault {
        device.inject(op, nth, 1, SimFault::Error(libc::EIO));
    }
    let answers = Shared::default();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, device, answers) = (store.clone(), device.clone(), answers.clone());
            thread::spawn(move || {
                for number in 0..each {
                    append(&store, &device, &answers, (writer, number), len);
                }
            })
        })
        .collect();
    let all = (writers * each) as usize;
    let enough = move |shared: &Shared| {
        let answers = shared.lock().unwrap();
        let accepted = answers.accepted.values().filter(|result| result.is_ok()).count();
        answers.accepted.len() == all && answers.synced.len() == accepted
    };
    let owners = [false, true].map(|beside| {
        let (store, shared) = (store.clone(), answers.clone());
        let poll = move || {
            if beside {
                store.poll_beside()
            } else {
                store.poll(false)
            };
        };
        thread::spawn(move || drive(poll, || enough(&shared)))
    });
    meanwhile(&store);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    owners.into_iter().for_each(|owner| owner.join().unwrap());
    // What a read asked for is there now.
    while store.poll(false) > 0 {}
    check(&answers.lock().unwrap(), len);
    let answers = answers.lock().unwrap();
    if fault.is_none() {
        // Nothing was refused, and each writer's records lie in its order.
        for writer in 0..writers {
            let offsets: Vec<u64> = (0..each).map(|n| *answers.accepted[&(writer, n)].as_ref().unwrap()).collect();
            assert!(offsets.is_sorted(), "{offsets:?}");
        }
        assert_eq!(store.log(LOG).unwrap().size, u64::from(writers * each) * len as u64);
        store.close().unwrap();
        let store = open(&Arc::new(SimDevice::from_bytes(&device.snapshot(), 1)), ring_size);
        assert!(store.stats().recovery.clean);
        assert_eq!(store.log(LOG).unwrap().size, u64::from(writers * each) * len as u64);
    } else {
        // Once an fsync has failed, no later one of what was not stable is answered well, and nothing is taken any more.
        if answers.synced.values().any(|(result, _)| result.is_err()) {
            let refused = store.try_append(LOG, b"x", AppendAt::End);
            assert_eq!(refused, Err(StoreError::ReadOnly));
        }
        device.power_off();
    }
}

#[test]
fn every_fsync_is_answered_once_and_only_when_its_bytes_are_stable() {
    explore(|| load(3, 2, 300, None, |_| {}));
}

#[test]
fn a_full_ring_takes_all_that_waits_in_order_as_it_empties() {
    explore(|| load(3, 3, 6000, None, |_| {}));
}

#[test]
fn readers_find_all_that_is_there_while_fillings_land_on_several_threads() {
    explore(|| {
        let found = Arc::new(Mutex::new(Vec::new()));
        let all = found.clone();
        load_ring(3, (3, 4, 6000), None, move |store| {
            for _ in 0..READS {
                let (size, found) = (store.log(LOG).unwrap().size, found.clone());
                let done = Box::new(move |read: Result<ReadBytes, StoreError>| {
                    found.lock().unwrap().push((size, read.map(|bytes| bytes.len() as u64)));
                });
                store.read(LOG, 0, size as usize, Lends::Slices, done);
                thread::yield_now();
            }
        });
        let all = all.lock().unwrap();
        assert_eq!(all.len(), READS);
        assert!(all.iter().all(|(size, read)| read == &Ok(*size)), "{all:?}");
    });
}

/// Two threads wait for what was appended so far, while a third appends so much that full fillings wait for later ones.
#[test]
fn what_waits_for_a_later_filling_goes_when_somebody_wants_it() {
    explore(|| {
        let device = disk();
        // Not closed: one that leaves something unwritten would never be, and the test not say why.
        let store = std::mem::ManuallyDrop::new(open(&device, 12));
        let synced: Arc<Mutex<Vec<(u64, SimDevice)>>> = Arc::default();
        let writer = {
            let store = (*store).clone();
            thread::spawn(move || {
                let put = |number| store.try_append(LOG, &record(0, number, 6000), AppendAt::End);
                (0..MANY).for_each(|number| drive(thread::yield_now, || put(number).is_ok()));
            })
        };
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (store, device, synced) = ((*store).clone(), device.clone(), synced.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let (log, device, synced) = (store.log(LOG).unwrap(), device.clone(), synced.clone());
                        let done = Box::new(move |result: Result<(), StoreError>| {
                            result.unwrap();
                            let crashed = device.crash(log.size);
                            synced.lock().unwrap().push((log.size, crashed));
                        });
                        store.make_stable(log.end_lsn, done);
                        (0..20).for_each(|_| thread::yield_now());
                    }
                })
            })
            .collect();
        let enough = {
            let (store, synced) = ((*store).clone(), synced.clone());
            move || store.log(LOG).unwrap().size == u64::from(MANY) * 6000 && synced.lock().unwrap().len() == 4
        };
        let poll = || {
            store.poll(false);
        };
        drive(&poll, enough);
        writer.join().unwrap();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        for (size, crashed) in synced.lock().unwrap().iter() {
            let store = open(&Arc::new(SimDevice::from_bytes(&crashed.snapshot(), 1)), 2);
            assert!(store.log(LOG).unwrap().size >= *size, "{size} bytes were stable");
        }
        // Closing waits for the rest, without patience.
        let rest: Arc<Mutex<Option<Result<(), StoreError>>>> = Arc::default();
        let told = rest.clone();
        store.make_stable(u64::MAX, Box::new(move |result| *told.lock().unwrap() = Some(result)));
        drive(poll, || rest.lock().unwrap().is_some());
        std::mem::ManuallyDrop::into_inner(store).close().unwrap();
        let store = open(&Arc::new(SimDevice::from_bytes(&device.snapshot(), 1)), 12);
        assert_eq!(store.log(LOG).unwrap().size, u64::from(MANY) * 6000);
    });
}

#[test]
fn the_flush_timer_beside_appends_and_fsyncs_loses_nobody() {
    explore(|| {
        load(2, 3, 2500, None, |store| {
            for _ in 0..3 {
                store.make_stable(u64::MAX, Box::new(|_| {}));
                store.tick_idle();
                thread::yield_now();
            }
        });
    });
}

#[test]
fn a_failed_write_or_flush_is_told_to_all_whom_it_concerns_once() {
    explore(|| {
        for fault in [(SimOp::Write, 0), (SimOp::Write, 1), (SimOp::Flush, 0)] {
            load(2, 2, 5000, Some(fault), |_| {});
        }
    });
}
