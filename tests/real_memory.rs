//! A daemon without memory, and one whose log can't be written: a mount fails by one sentence, a mount that is there goes
//! on and loses nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{HEADER, LARGEST, Store, Watchdog, busy, record, walk};

const MIB: u64 = 1 << 20;
/// All of a test; the daemon is ended then.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the daemon has no memory.
const SHORTAGE: Duration = Duration::from_secs(3);

fn mount_within(store: &Store, address_space: u64) -> Output {
    Command::new("prlimit")
        .arg(format!("--as={address_space}"))
        .args([env!("CARGO_BIN_EXE_llamafs"), "mount", "-o", &format!("log={}", store.daemon_log().display())])
        .args([&store.device, &store.mountpoint])
        .output()
        .unwrap()
}

#[test]
fn a_mount_without_memory_fails_by_one_sentence_or_serves() {
    let store = Store::make(64 * MIB, false);
    let (mut failed, mut served) = (0, 0);
    for mib in (6..100).step_by(3) {
        let out = mount_within(&store, mib * MIB);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.success() {
            let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
            log.write_all(&vec![b'x'; LARGEST]).unwrap();
            log.sync_all().unwrap();
            drop(log);
            store.umount();
            served += 1;
        } else if said.contains("error while loading shared libraries") {
            // Too little for the system to start any program of this size: ours had no say.
            assert!(mib < 15, "{mib} MiB: {said}");
        } else {
            assert!(said.starts_with("llamafs: ") && said.lines().count() == 1, "{mib} MiB: {said}");
            assert_eq!(out.status.code(), Some(1), "{mib} MiB: {said}");
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            assert!(!mounts.contains(store.mountpoint.to_str().unwrap()), "{mib} MiB: a dead mount is left");
            failed += 1;
        }
    }
    assert!(failed > 3 && served > 3, "{failed} failed, {served} served");
    store.check();
}

/// Limit of the daemon's address space, in bytes.
fn limit(pid: i32, address_space: &str) {
    let out = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--as={address_space}:")]).output();
    assert!(out.as_ref().unwrap().status.success(), "{out:?}");
}

fn address_space(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmSize")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Appends until told to stop; a record that is refused for want of memory is tried again.
fn append(log: &Path, writer: u32, stop: &AtomicBool) -> u32 {
    let flags = if writer.is_multiple_of(2) { libc::O_DSYNC } else { 0 };
    let mut file = OpenOptions::new().append(true).custom_flags(flags).open(log).unwrap();
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let len = if number.is_multiple_of(16) { LARGEST } else { HEADER + number as usize * 97 % 30_000 };
        match file.write(&record(writer, number, len)) {
            Ok(taken) => {
                assert_eq!(taken, len);
                number += 1;
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}"),
        }
    }
    number
}

#[test]
fn a_daemon_without_memory_goes_on_and_loses_nothing() {
    let store = Store::make(4 << 30, false);
    store.mount();
    let pid = store.pid();
    let watchdog = Watchdog::start(&store, LIMIT);
    let mut expected = Vec::new();
    let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
    for number in 0..48 {
        let bytes = record(0, number, LARGEST);
        log.write_all(&bytes).unwrap();
        expected.extend(bytes);
    }
    log.sync_all().unwrap();
    let (stop, refused, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // Not a page more than it has.
    limit(pid, &address_space(pid).to_string());
    let written: Vec<u32> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4u64)
            .map(|reader| {
                let (store, expected, stop, refused, answered) = (&store, &expected, &stop, &refused, &answered);
                scope.spawn(move || {
                    let log = File::open(store.log()).unwrap();
                    let mut piece = vec![0; LARGEST];
                    let mut at = reader * 7 * MIB;
                    while !stop.load(Ordering::Relaxed) {
                        match log.read_at(&mut piece, at) {
                            Ok(got) => {
                                assert!(got > 0 && piece[..got] == expected[at as usize..][..got]);
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        at = (at + 5 * MIB + 4321) % (47 * MIB);
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (1..5).map(|writer| (writer, store.log())).collect();
        let stop_ref = &stop;
        let writers: Vec<_> =
            writers.into_iter().map(|(writer, log)| scope.spawn(move || append(&log, writer, stop_ref))).collect();
        std::thread::sleep(SHORTAGE);
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    println!("{refused:?} reads were refused, {answered:?} answered, appends {written:?}");
    assert!(refused.load(Ordering::Relaxed) > 0, "there was memory all the time");
    assert!(written.iter().all(|number| *number > 0));
    limit(pid, "unlimited");
    assert_eq!(store.pid(), pid);
    log.sync_all().unwrap();
    drop(log);
    let live = walk(File::open(store.log()).unwrap());
    assert_eq!((1..5).map(|writer| live.next[&writer]).collect::<Vec<_>>(), written);
    watchdog.stop();
    store.umount();
    store.check();
    store.mount();
    assert_eq!(walk(File::open(store.log()).unwrap()), live);
    store.umount();
}

/// Mounts with a log of everything that there is to say.
fn mount_talkative(store: &Store, log: &Path) {
    let out = Command::new(env!("CARGO_BIN_EXE_llamafs"))
        .env("RUST_LOG", "trace")
        .args(["mount", "-o", &format!("log={}", log.display())])
        .args([&store.device, &store.mountpoint])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

fn append_and_umount(store: &Store) {
    let watchdog = Watchdog::start(store, LIMIT);
    let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
    for number in 0..5000 {
        log.write_all(&record(1, number, 100)).unwrap();
    }
    log.sync_all().unwrap();
    drop(log);
    assert_eq!(walk(File::open(store.log()).unwrap()).next[&1], 5000);
    watchdog.stop();
    store.umount();
    store.check();
}

#[test]
fn a_log_on_a_full_file_system_holds_nobody_up() {
    let store = Store::make(64 * MIB, false);
    let full = store.dir().join("full");
    std::fs::create_dir(&full).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "none"]).arg(&full).status().unwrap();
    assert!(mount.success());
    let log = full.join("daemon.log");
    File::create(&log).unwrap();
    let mut ballast = File::create(full.join("ballast")).unwrap();
    let error = io::copy(&mut io::repeat(0), &mut ballast).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    mount_talkative(&store, &log);
    append_and_umount(&store);
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "nothing could be written");
    drop(ballast);
    busy::unmount(|| Command::new("umount").arg(&full).output().unwrap());
}

#[test]
fn a_log_whose_reader_stands_still_holds_nobody_up() {
    let store = Store::make(64 * MIB, false);
    let fifo = store.dir().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut fifo_options = OpenOptions::new();
    let mut reader = fifo_options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    mount_talkative(&store, &fifo);
    let begin = Instant::now();
    append_and_umount(&store);
    assert!(begin.elapsed() < LIMIT);
    let mut some = [0; 4096];
    // It does not wait: what was said before the daemon ended is there.
    assert!(reader.read(&mut some).unwrap() > 0, "it did talk");
}
