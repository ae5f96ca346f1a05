//! kill -9 of the daemon in the middle of a load, again and again: what fsync answered is there, what is there is a
//! whole prefix of what each writer appended, and the store checks clean.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use support::{Store, spawn_writer, walk};

const ROUNDS: u32 = 20;
const WRITERS: u32 = 8;

#[test]
fn writer_process() {
    support::writer_process();
}

/// Highest number of each writer whose fsync returned.
fn synced(path: &std::path::Path) -> BTreeMap<u32, u32> {
    let mut highest = BTreeMap::new();
    for line in std::fs::read(path).unwrap_or_default().chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(line[at..at + 4].try_into().unwrap());
        let entry = highest.entry(word(0)).or_insert(0);
        *entry = (*entry).max(word(4));
    }
    highest
}

fn rounds(looped: bool) {
    let store = Store::make(1 << 30, looped);
    let acknowledged = tempfile::NamedTempFile::new().unwrap();
    for round in 0..ROUNDS {
        store.mount();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                // Each round has writers of its own; some never sync.
                let sync_every = [0, 1, 3, 17][writer as usize % 4];
                spawn_writer(&store.log(), round * WRITERS + writer, u32::MAX, sync_every, Some(acknowledged.path()))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(150 + u64::from(round * 37 % 200)));
        store.kill("-KILL");
        for mut writer in writers {
            assert!(!writer.wait().unwrap().success(), "a writer can't have ended by itself");
        }
        store.detach();
        store.check();
        store.mount();
        let contents = walk(File::open(store.log()).unwrap());
        for (writer, count) in synced(acknowledged.path()) {
            let there = contents.next.get(&writer).copied().unwrap_or(0);
            assert!(there >= count, "round {round}: writer {writer}: {there} of {count} synced records are there");
        }
        store.umount();
    }
    assert!(synced(acknowledged.path()).len() > ROUNDS as usize, "writers did sync");
}

#[test]
fn twenty_kills_lose_nothing_that_was_synced_on_a_file() {
    rounds(false);
}

#[test]
fn twenty_kills_lose_nothing_that_was_synced_on_a_loop_device() {
    rounds(true);
}
