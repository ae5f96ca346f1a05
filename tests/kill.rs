//! Ends under load, again and again: kill -9 of the daemon, kill -9 of the writers, SIGTERM, umount. What fsync answered
//! is there, what is there is a whole prefix of what each writer appended, and the store checks clean; after an end in
//! order everything that `write` answered is there too.
//!
//! `LLAMAFS_TORTURE_ROUNDS` makes it longer (`make torture`), `LLAMAFS_TORTURE_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use support::chance::Chance;
use support::{NOTE_ANSWERED, Store, llamafs, spawn_writer, walk};

const ROUNDS: u32 = 20;
const WRITERS: u32 = 8;
const STORE_BYTES: u64 = 1 << 30;
/// A store with less room than this is exchanged for a new one: a round must not end for lack of it.
const ROUND_BYTES: u64 = 400 << 20;
/// Until the first record of a round is there.
const STARTING: Duration = Duration::from_millis(2);
/// How long a round's load lasts then.
const LOAD_MS: std::ops::Range<u64> = 20..450;

#[test]
fn writer_process() {
    support::writer_process();
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    KillDaemon,
    /// First the writers, in the middle of their writes, then the daemon.
    KillBoth,
    KillWriters,
    Term,
    /// Refused while the writers have it open; then they are killed.
    Umount,
}

/// Highest number of each writer that a file of notes tells of.
fn noted(path: &Path) -> BTreeMap<u32, u32> {
    let mut highest = BTreeMap::new();
    for line in std::fs::read(path).unwrap_or_default().chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(line[at..at + 4].try_into().unwrap());
        let entry = highest.entry(word(0)).or_insert(0);
        *entry = (*entry).max(word(4));
    }
    highest
}

/// A store, and what its writers were promised.
struct Promised {
    store: Store,
    synced: tempfile::NamedTempFile,
    answered: tempfile::NamedTempFile,
}

impl Promised {
    fn make(looped: bool) -> Self {
        let note = || tempfile::NamedTempFile::new().unwrap();
        Self { store: Store::make(STORE_BYTES, looped), synced: note(), answered: note() }
    }

    fn writers(&self, first: u32) -> Vec<Child> {
        (first..first + WRITERS)
            .map(|writer| {
                // Some never sync, and some of those note every answer.
                let (sync_every, notes) = match writer % 8 {
                    0 => (0, None),
                    1..4 => (NOTE_ANSWERED, Some(self.answered.path())),
                    4 => (3, Some(self.synced.path())),
                    5 => (17, Some(self.synced.path())),
                    _ => (1, Some(self.synced.path())),
                };
                spawn_writer(&self.store.log(), writer, u32::MAX, sync_every, notes)
            })
            .collect()
    }

    /// The store is mounted: everything that was promised is there. True: there is room for another round.
    fn verify(&self, orderly: bool, what: &str) -> bool {
        let contents = walk(File::open(self.store.log()).unwrap());
        let mut promised = noted(self.synced.path());
        if orderly {
            promised.extend(noted(self.answered.path()));
        } else {
            // Those writers are gone; only what an orderly end has proved is held against later rounds.
            self.answered.as_file().set_len(0).unwrap();
        }
        for (writer, count) in promised {
            let there = contents.next.get(&writer).copied().unwrap_or(0);
            assert!(there >= count, "{what}: writer {writer}: {there} of {count} promised records are there");
        }
        self.store.status("available").parse::<u64>().unwrap() > ROUND_BYTES
    }
}

fn killed(writers: Vec<Child>) {
    for mut writer in writers {
        let _ = writer.kill();
        assert!(!writer.wait().unwrap().success(), "a writer can't have ended by itself");
    }
}

fn ended(writers: Vec<Child>) {
    for mut writer in writers {
        assert!(!writer.wait().unwrap().success(), "a writer can't have ended by itself");
    }
}

/// A round's end. True if it was in order.
fn end(store: &Store, how: End, writers: Vec<Child>) -> bool {
    match how {
        End::KillDaemon => {
            store.kill("-KILL");
            ended(writers);
            store.detach();
        }
        End::KillBoth => {
            killed(writers);
            store.kill("-KILL");
            store.detach();
        }
        End::KillWriters => {
            killed(writers);
            store.umount();
        }
        End::Term => {
            store.kill("-TERM");
            ended(writers);
        }
        End::Umount => {
            let out = llamafs(&["umount", store.mountpoint.to_str().unwrap()]);
            assert!(String::from_utf8_lossy(&out.stderr).contains("is busy"), "{out:?}");
            killed(writers);
            store.umount();
        }
    }
    !matches!(how, End::KillDaemon | End::KillBoth)
}

fn rounds(looped: bool, ends: &[End]) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("LLAMAFS_TORTURE_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    let seed = number("LLAMAFS_TORTURE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("LLAMAFS_TORTURE_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut promised = Promised::make(looped);
    let mut stores = 1;
    for round in 0..rounds {
        let how = ends[chance.below(ends.len() as u64) as usize];
        let load = LOAD_MS.start + chance.below(LOAD_MS.end - LOAD_MS.start);
        let what = format!("seed {seed} round {round} {how:?} after {load} ms");
        promised.store.mount();
        let before = std::fs::metadata(promised.store.log()).unwrap().len();
        let writers = promised.writers(round * WRITERS);
        while std::fs::metadata(promised.store.log()).unwrap().len() == before {
            std::thread::sleep(STARTING);
        }
        std::thread::sleep(Duration::from_millis(load));
        let orderly = end(&promised.store, how, writers);
        promised.store.check();
        if orderly {
            let out = llamafs(&["status", "--json", promised.store.device.to_str().unwrap()]);
            assert!(String::from_utf8_lossy(&out.stdout).contains("\"clean\": true"), "{what}: {out:?}");
        }
        promised.store.mount();
        let room = promised.verify(orderly, &what);
        promised.store.umount();
        if !room {
            assert!(noted(promised.synced.path()).len() > 1, "writers did sync");
            promised = Promised::make(looped);
            stores += 1;
        }
    }
    println!("{rounds} rounds on {stores} stores, ends {ends:?}: nothing lost");
}

#[test]
fn twenty_kills_lose_nothing_that_was_synced_on_a_file() {
    rounds(false, &[End::KillDaemon]);
}

#[test]
fn twenty_kills_lose_nothing_that_was_synced_on_a_loop_device() {
    rounds(true, &[End::KillDaemon]);
}

#[test]
fn whatever_ends_under_load_what_was_answered_is_kept() {
    rounds(true, &[End::KillBoth, End::KillWriters, End::Term, End::Umount]);
}
