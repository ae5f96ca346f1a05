//! 16 processes append 160,000 records at once: none is lost, torn, doubled or out of its writer's order, neither
//! live, nor after a remount, nor on the unmounted device.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::File;

use support::{Contents, Store, spawn_writer, walk};

const WRITERS: u32 = 16;
const APPENDS: u32 = 10_000;

#[test]
fn writer_process() {
    support::writer_process();
}

fn load(looped: bool) {
    let store = Store::make(1 << 30, looped);
    store.mount();
    let writers: Vec<_> = (0..WRITERS).map(|writer| spawn_writer(&store.log(), writer, APPENDS, 0, None)).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let live = walk(File::open(store.log()).unwrap());
    let expected = Contents {
        next: (0..WRITERS).map(|writer| (writer, APPENDS)).collect(),
        singles: u64::from(WRITERS) * u64::from(APPENDS.div_ceil(64)),
        bytes: live.bytes,
    };
    assert_eq!(live, Contents { singles: live.singles, ..expected.clone() });
    assert_eq!(live.singles, u64::from(WRITERS) * u64::from((APPENDS - 6) / 64 + 1));
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
