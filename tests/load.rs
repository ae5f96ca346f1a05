//! 16 processes append 160,000 records at once: none is lost, torn, doubled or out of its writer's order, neither
//! live, nor after a remount, nor on the unmounted device. `tail -f` and other readers that run beside them see the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::File;
use std::time::Duration;

use support::follow::Followers;
use support::{Contents, Store, Watchdog, spawn_writer, walk};

const WRITERS: u32 = 16;
const APPENDS: u32 = 10_000;
/// Records of each writer where only the readers beside them matter.
const FOLLOWED_APPENDS: u32 = 1_000;
/// A load that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn writer_process() {
    support::writer_process();
}

fn load(looped: bool) {
    let store = Store::make(1 << 30, looped);
    store.mount();
    let watchdog = Watchdog::start(&store, LIMIT);
    let followers = Followers::start(&store, 1);
    let writers: Vec<_> = (0..WRITERS).map(|writer| spawn_writer(&store.log(), writer, APPENDS, 0, None)).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let followed = followers.finish();
    watchdog.stop();
    let live = walk(File::open(store.log()).unwrap());
    let expected = Contents {
        next: (0..WRITERS).map(|writer| (writer, APPENDS)).collect(),
        singles: u64::from(WRITERS) * u64::from(APPENDS.div_ceil(64)),
        bytes: live.bytes,
    };
    assert_eq!(live, Contents { singles: live.singles, ..expected.clone() });
    assert_eq!(live.singles, u64::from(WRITERS) * u64::from((APPENDS - 6) / 64 + 1));
    assert!(followed.iter().all(|seen| *seen == live), "a reader beside the writers saw something else");
    assert_eq!(live.bytes, std::fs::metadata(store.log()).unwrap().len());
    store.umount();
    let (mut child, out) = store.cat();
    assert_eq!(walk(out), live);
    assert!(child.wait().unwrap().success());
    store.check();
    store.mount();
    assert_eq!(walk(File::open(store.log()).unwrap()), live);
    store.umount();
}

#[test]
fn sixteen_processes_lose_tear_and_double_nothing_on_a_file() {
    load(false);
}

#[test]
fn sixteen_processes_lose_tear_and_double_nothing_on_a_loop_device() {
    load(true);
}

/// Twelve readers at once, more than there are reads of the device at one time: each is answered, none left waiting.
#[test]
fn readers_that_follow_beside_sixteen_writers_are_always_answered() {
    let store = Store::make(512 << 20, false);
    store.mount();
    let watchdog = Watchdog::start(&store, LIMIT);
    let followers = Followers::start(&store, 11);
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| spawn_writer(&store.log(), writer, FOLLOWED_APPENDS, 0, None)).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let followed = followers.finish();
    watchdog.stop();
    let live = walk(File::open(store.log()).unwrap());
    assert_eq!(live.next.len(), WRITERS as usize);
    assert!(followed.len() == 12 && followed.iter().all(|seen| *seen == live));
    store.umount();
}

/// Processes that each append to a log of their own and fsync every record, and records of each.
const LOGS: u32 = 64;
const SYNCED_APPENDS: u32 = 60;

#[test]
fn one_flush_answers_the_fsyncs_of_many_logs() {
    let store = Store::make(256 << 20, false);
    store.mount();
    let watchdog = Watchdog::start(&store, LIMIT);
    let log = |writer: u32| store.mountpoint.join(format!("log {writer}"));
    (0..LOGS).for_each(|writer| drop(File::create_new(log(writer)).unwrap()));
    let figure = |name: &str| store.status(name).parse::<u64>().unwrap();
    let (flushes, syncs) = (figure("seals_commit"), figure("syncs"));
    let start = |writer| spawn_writer(&log(writer), writer, SYNCED_APPENDS, 1, None);
    let writers: Vec<_> = (0..LOGS).map(start).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    watchdog.stop();
    let (flushes, syncs) = (figure("seals_commit") - flushes, figure("syncs") - syncs);
    println!("{syncs} fsyncs, {flushes} durable flushes: {:.3} for each", flushes as f64 / syncs as f64);
    assert!(syncs >= u64::from(LOGS * SYNCED_APPENDS));
    assert!(flushes * 2 < syncs, "{flushes} durable flushes for {syncs} fsyncs");
    let right = |writer: u32| {
        let seen = walk(File::open(log(writer)).unwrap());
        assert_eq!(seen.next, [(writer, SYNCED_APPENDS)].into());
        assert_eq!(seen.bytes, std::fs::metadata(log(writer)).unwrap().len());
    };
    (0..LOGS).for_each(right);
    store.umount();
    store.check();
    store.mount();
    (0..LOGS).for_each(right);
    store.umount();
}
