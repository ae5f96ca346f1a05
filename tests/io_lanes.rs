//! Threads that take the completions of what they wait for: each callback runs once, on that thread or, if it is busy, in a
//! moment on another; nothing is held up by a thread that does not look, and readers lose nothing while many threads land.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use llamafs::io::{Access, Buffer, Device, OwnCompletions, QuikIO, SharedBuffer, open};
use llamafs::store::{FormatOptions, LogStructuredStore, StoreOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

const BLOCK: usize = 4096;
const MIB: u64 = 1 << 20;
/// Much longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

fn file(len: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    File::create(&path).unwrap().set_len(len).unwrap();
    (dir, path)
}

fn started(path: &Path) -> Arc<QuikIO> {
    let io = QuikIO::new(Arc::new(open(path, Access::ReadWrite).unwrap()), &[]).unwrap();
    assert!(io.own_completions().unwrap().is_none(), "who would take everything else?");
    io.start();
    io
}

fn block(io: &QuikIO, byte: u8) -> SharedBuffer {
    let mut buffer = io.buffer(BLOCK).unwrap();
    buffer.as_mut_slice().fill(byte);
    SharedBuffer::from(buffer)
}

/// Write a block; what is received is the thread that called back.
fn write(io: &QuikIO, number: u64, dsync: bool) -> mpsc::Receiver<ThreadId> {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result: Result<(), _>| {
        result.unwrap();
        sender.send(thread::current().id()).unwrap();
    });
    io.write(block(io, number as u8), 0..BLOCK, number * BLOCK as u64, dsync, done);
    receiver
}

/// Who called back, on another thread. If nobody does the device can't be closed, and the test could not end.
fn by_another(told: &mpsc::Receiver<ThreadId>) {
    let Ok(who) = told.recv_timeout(LIMIT) else {
        eprintln!("nobody took what was committed");
        std::process::exit(101);
    };
    assert_ne!(who, thread::current().id());
}

/// Sleep until something of this thread's own has completed, or nothing is under way any more: on a busy machine others may
/// have taken it.
fn sleep(own: &OwnCompletions) {
    let begun = Instant::now();
    while own.any() {
        // SAFETY: the descriptor is open as long as `own` is.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(own.fd()) };
        if poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(100u8)).unwrap() == 1 {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "nobody was told");
    }
}

#[test]
fn who_commits_is_told_by_the_device_and_calls_back() {
    let (_dir, path) = file(MIB);
    let io = started(&path);
    let commits = io.own_completions().unwrap().expect("an io_uring has lanes");
    assert!(!commits.any());
    // Quick enough for one of these, also on a busy machine, to be taken before others look.
    let mut by_me = 0;
    for number in 0..100 {
        let told = write(&io, number % 16, true);
        while let Err(mpsc::TryRecvError::Empty) = told.try_recv() {
            if commits.any() {
                sleep(&commits);
                commits.take();
            }
        }
        let who = write(&io, number % 16, true);
        sleep(&commits);
        commits.take();
        by_me += u32::from(who.recv_timeout(LIMIT).unwrap() == thread::current().id());
    }
    assert!(by_me > 50, "of 100 commits {by_me} were called back here");
    // Everything else comes to the thread that takes everybody's.
    for _ in 0..10 {
        assert_ne!(write(&io, 20, false).recv_timeout(LIMIT).unwrap(), thread::current().id());
    }
    assert!(!commits.any());
    drop(commits);
    assert_ne!(write(&io, 20, true).recv_timeout(LIMIT).unwrap(), thread::current().id());
    io.close();
}

/// Read a block; what is received is the thread that called back.
fn read(io: &QuikIO, number: u64, awaited: bool) -> mpsc::Receiver<ThreadId> {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result: Result<Buffer, _>| {
        assert_eq!(result.unwrap().as_slice()[0], number as u8);
        sender.send(thread::current().id()).unwrap();
    });
    let (buffer, offset) = (io.buffer(BLOCK).unwrap(), number * BLOCK as u64);
    if awaited {
        io.read_awaited(buffer, 0..BLOCK, offset, done);
    } else {
        io.read(buffer, 0..BLOCK, offset, done);
    }
    receiver
}

#[test]
fn who_waits_for_a_read_is_told_by_the_device_and_calls_back() {
    let (_dir, path) = file(MIB);
    let io = started(&path);
    for number in 0..16 {
        write(&io, number, true).recv_timeout(LIMIT).unwrap();
    }
    let own = io.own_completions().unwrap().unwrap();
    let (mut by_me, mut known) = (0, 0);
    for number in 0..100 {
        let who = read(&io, number % 16, true);
        assert!(own.only_reads(), "a read is no commit");
        sleep(&own);
        own.take();
        by_me += u32::from(who.recv_timeout(LIMIT).unwrap() == thread::current().id());
        // What is only brought beforehand comes to the thread that takes everybody's.
        assert_ne!(read(&io, number % 16, false).recv_timeout(LIMIT).unwrap(), thread::current().id());
    }
    assert!(by_me > 50, "of 100 reads {by_me} were called back here");
    // Beside a commit, and after it.
    for number in 0..100 {
        let told = (write(&io, number % 16, true), read(&io, number % 16, true));
        known += u32::from(!own.only_reads());
        while own.any() {
            own.take();
        }
        told.0.recv_timeout(LIMIT).unwrap();
        told.1.recv_timeout(LIMIT).unwrap();
        assert!(own.only_reads(), "nothing is under way");
    }
    assert!(known > 50, "of 100 commits beside a read {known} were known as such");
    drop(own);
    io.close();
}

#[test]
fn what_its_thread_does_not_take_is_taken_in_a_moment() {
    let (_dir, path) = file(MIB);
    let io = started(&path);
    let commits = io.own_completions().unwrap().unwrap();
    for number in 0..50 {
        let begun = Instant::now();
        by_another(&write(&io, number, true));
        by_another(&read(&io, number, true));
        assert!(begun.elapsed() < LIMIT / 2);
        // A blocking call of this very thread, too.
        io.flush_now().unwrap();
    }
    // Also after nobody has looked for a long time.
    thread::sleep(Duration::from_millis(1500));
    by_another(&write(&io, 1, true));
    drop(commits);
    io.close();
}

#[test]
fn closing_waits_for_what_is_in_a_lane_and_leaves_the_device_free() {
    let (_dir, path) = file(MIB);
    for round in 0..20 {
        let io = started(&path);
        let commits = io.own_completions().unwrap().unwrap();
        let told: Vec<_> = (0..16).map(|number| write(&io, number, true)).collect();
        if round % 2 == 0 {
            drop(commits);
        }
        io.close();
        assert!(told.iter().all(|told| told.try_recv().is_ok()), "closed before all were called back");
        drop(io);
    }
    assert_eq!(std::fs::read(&path).unwrap()[15 * BLOCK], 15);
}

#[test]
fn many_threads_commit_by_lanes_of_their_own() {
    let (_dir, path) = file(4 * MIB);
    let io = started(&path);
    thread::scope(|scope| {
        for who in 0..4u64 {
            let io = &io;
            scope.spawn(move || {
                let commits = io.own_completions().unwrap().unwrap();
                for number in 0..300 {
                    let told = write(io, who * 200 + number % 200, true);
                    while told.try_recv().is_err() {
                        commits.take();
                        thread::yield_now();
                    }
                }
                assert!(!commits.any());
            });
        }
    });
    assert_eq!(io.counters().flushes, 4 * 300);
    io.close();
}

/// Byte `at` of the log.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

#[test]
fn readers_lose_nothing_while_bulk_writes_and_commits_land_on_many_threads() {
    const LOG: u32 = 1;
    let (_dir, path) = file(256 * MIB);
    let device = || Arc::new(open(&path, Access::ReadWrite).unwrap()) as Arc<dyn Device>;
    LogStructuredStore::format(device(), &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let options = StoreOptions { ring_size: 4, ..StoreOptions::default() };
    let store = LogStructuredStore::open(device(), options).unwrap();
    store.start();
    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        // One log, so one writer at a time knows what comes next.
        scope.spawn(|| {
            let commits = store.own_completions().unwrap().unwrap();
            let mut number = 0u64;
            while written.load(Ordering::Acquire) < 160 * MIB {
                let at = written.load(Ordering::Acquire);
                let len = if number.is_multiple_of(4) { 300_000 } else { 1 + number * 7919 % 5000 };
                let record: Vec<u8> = (at..at + len).map(byte).collect();
                let appended = store.append(LOG, &record).unwrap();
                written.store(at + len, Ordering::Release);
                if number.is_multiple_of(3) {
                    let (sender, told) = mpsc::channel();
                    let done = Box::new(move |result: Result<(), _>| sender.send(result.is_ok()).unwrap());
                    store.make_stable(appended.end_lsn, done);
                    while told.try_recv().is_err() {
                        commits.take();
                    }
                }
                number += 1;
            }
            over.store(true, Ordering::Release);
        });
        for step in [1000u64, 50_000] {
            let (store, written, over) = (&store, &written, &over);
            scope.spawn(move || {
                // Right behind the writer, where what is read moves from the ring to the device.
                let mut at = 0;
                while !over.load(Ordering::Acquire) || at < written.load(Ordering::Acquire) {
                    let end = written.load(Ordering::Acquire);
                    at = at.max(end.saturating_sub(3 * MIB));
                    let len = step.min(end - at);
                    let read = store.read_now(LOG, at, len as usize).unwrap();
                    assert_eq!(read.len() as u64, len, "at {at} of {end}");
                    assert!(read.iter().zip(at..).all(|(is, at)| *is == byte(at)), "wrong bytes at {at}");
                    at += len;
                }
            });
        }
    });
    store.close().unwrap();
}
