//! A device that fails in the middle of a load: whoever waits for it is told; nothing more is taken; what was
//! acknowledged is read on, and is there when the cause is gone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{Contents, Store, Watchdog, llamafs, record, walk};

const STORE_BYTES: u64 = 256 << 20;
/// What the file system below has room for.
const ROOM_BYTES: u64 = 64 << 20;
/// All of a test; the daemon is ended then.
const LIMIT: Duration = Duration::from_secs(120);
/// Writers of each kind.
const EACH: u32 = 2;

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
}

/// A file system with little room, taken away at the end. A file on it is not allocated beforehand.
struct SmallFs {
    path: PathBuf,
    ballast: PathBuf,
}

impl SmallFs {
    /// An ext4: below a loop device. (With tmpfs there Linux's loop driver answers a write as done that was done in
    /// part: a lie that nobody above can see through.)
    fn ext4(dir: &Path) -> Self {
        let (image, path) = (dir.join("below.img"), dir.join("below"));
        File::create(&image).unwrap().set_len(2 * STORE_BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        std::fs::create_dir(&path).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), path.to_str().unwrap()]);
        let small = Self { ballast: path.join("ballast"), path };
        let room = nix::sys::statvfs::statvfs(&small.path).unwrap();
        let ballast = room.blocks_available() * room.fragment_size() - ROOM_BYTES;
        run("fallocate", &["-l", &ballast.to_string(), small.ballast.to_str().unwrap()]);
        small
    }

    fn tmpfs(dir: &Path) -> Self {
        let path = dir.join("below");
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={}", ROOM_BYTES + STORE_BYTES);
        run("mount", &["-t", "tmpfs", "-o", &size, "none", path.to_str().unwrap()]);
        let small = Self { ballast: path.join("ballast"), path };
        run("fallocate", &["-l", &STORE_BYTES.to_string(), small.ballast.to_str().unwrap()]);
        small
    }

    fn enlarge(&self) {
        std::fs::remove_file(&self.ballast).unwrap();
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// How a writer makes its records durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fsync,
    Dsync,
    /// Not at all.
    Plain,
}

/// What a writer was told.
#[derive(Debug)]
struct Told {
    kind: Kind,
    writer: u32,
    /// Records of which it was told that they are durable.
    durable: u32,
    /// The call that failed, and its errno.
    failed: (&'static str, i32),
    /// The same of a fsync and of a write after that.
    fsync: i32,
    write: i32,
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap(), |_| 0)
}

/// Append until a call fails, and then once more.
fn append_until_told(log: &Path, writer: u32, kind: Kind) -> Told {
    let flags = if kind == Kind::Dsync { libc::O_DSYNC } else { 0 };
    let mut file = OpenOptions::new().append(true).custom_flags(flags).open(log).unwrap();
    let mut durable = 0;
    let failed = loop {
        let number = durable;
        let bytes = record(writer, number, 20_000 + number as usize % 5_000);
        match file.write(&bytes) {
            Ok(taken) => assert_eq!(taken, bytes.len(), "taken whole or not at all"),
            Err(error) => break ("write", error.raw_os_error().unwrap()),
        }
        if kind == Kind::Fsync
            && let Err(error) = file.sync_data()
        {
            break ("fsync", error.raw_os_error().unwrap());
        }
        durable += 1;
        if kind == Kind::Plain {
            // Else they keep the others from the log, and nobody waits for the device when it fails.
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let fsync = errno(file.sync_all());
    let write = errno(file.write(b"more"));
    Told { kind, writer, durable, failed, fsync, write }
}

fn check_told(told: &Told) {
    let expected: &[(&str, i32)] = match told.kind {
        Kind::Fsync => &[("fsync", libc::EIO), ("write", libc::EROFS)],
        // Its bytes were taken and are not durable, or they were not taken any more.
        Kind::Dsync => &[("write", libc::EIO), ("write", libc::EROFS)],
        Kind::Plain => &[("write", libc::EROFS)],
    };
    assert!(expected.contains(&told.failed), "{told:?}");
    // One log: its end is not durable, and whoever asks for it is told so.
    assert_eq!((told.fsync, told.write), (libc::EIO, libc::EROFS), "{told:?}");
}

/// Mount, append something, let the device fail under a load, heal it, and look at what is there.
fn fails_in_mid_load(store: &Store, shutdown: bool, fail: impl FnOnce(), heal: impl FnOnce()) {
    store.mount_with(if shutdown { "errors=shutdown" } else { "rw" });
    let watchdog = Watchdog::start(store, LIMIT);
    let log = store.log();
    let first = append_all(&log, 0, 300);
    fail();
    let kinds = [Kind::Fsync, Kind::Dsync, Kind::Plain];
    let writers: Vec<_> = (1..=EACH * kinds.len() as u32)
        .map(|writer| {
            let (log, kind) = (log.clone(), kinds[writer as usize % kinds.len()]);
            std::thread::spawn(move || append_until_told(&log, writer, kind))
        })
        .collect();
    let told: Vec<Told> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    told.iter().for_each(check_told);
    // The kernel lets one write or fsync at a time through to a log: whose it was that waited, it decides.
    assert!(told.iter().any(|told| told.failed.1 == libc::EIO), "somebody waited: {told:?}");

    // What and where, for people.
    let state = store.status("state");
    assert!(state.starts_with("appends stopped: ") && state.contains("at device offset"), "{state}");
    assert_eq!(errno(std::fs::set_permissions(&log, Permissions::from_mode(0o600))), libc::EROFS);
    // The log is written by a thread of its own.
    let said = |line: &str| line.contains("at device offset") && line.contains("appends stop");
    while !std::fs::read_to_string(store.daemon_log()).unwrap().lines().any(said) {
        std::thread::sleep(Duration::from_millis(5));
        assert!(store.pid() > 0, "the watchdog has ended it");
    }

    if shutdown {
        let mut byte = [0];
        assert_eq!(errno(File::open(&log).unwrap().read(&mut byte)), libc::EIO);
    } else {
        // All that was taken, durable or not, is read on.
        held(&walk(File::open(&log).unwrap()), &first, &told);
    }
    watchdog.stop();
    let out = llamafs(&["umount", store.mountpoint.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("not everything"), "{out:?}");
    assert_eq!(said.lines().count(), 1, "{said}");

    heal();
    store.check();
    store.mount();
    held(&walk(File::open(&log).unwrap()), &first, &told);
    append_all(&log, 99, 10);
    store.umount();
    store.check();
}

fn append_all(log: &Path, writer: u32, count: u32) -> (u32, u32) {
    let mut file = OpenOptions::new().append(true).open(log).unwrap();
    for number in 0..count {
        file.write_all(&record(writer, number, 10_000)).unwrap();
    }
    file.sync_all().unwrap();
    (writer, count)
}

/// Everything that somebody was told is durable is there.
fn held(contents: &Contents, first: &(u32, u32), told: &[Told]) {
    let there = |writer: u32| contents.next.get(&writer).copied().unwrap_or(0);
    assert!(there(first.0) >= first.1);
    for told in told.iter().filter(|told| told.kind != Kind::Plain) {
        assert!(there(told.writer) >= told.durable, "{} of {told:?}", there(told.writer));
    }
}

fn on_a_file_system_that_fills_up(looped: bool, shutdown: bool) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let below = if looped { SmallFs::ext4(dir.path()) } else { SmallFs::tmpfs(dir.path()) };
    let store = Store::over(dir, below.path.join("store"), STORE_BYTES, looped);
    fails_in_mid_load(&store, shutdown, || {}, || below.enlarge());
    drop(store);
}

#[test]
fn a_loop_device_whose_file_system_fills_up_loses_nothing_acknowledged() {
    on_a_file_system_that_fills_up(true, false);
}

#[test]
fn a_file_whose_file_system_fills_up_loses_nothing_acknowledged() {
    on_a_file_system_that_fills_up(false, false);
}

#[test]
fn with_errors_shutdown_a_failed_device_ends_reads_too() {
    on_a_file_system_that_fills_up(true, true);
}

#[test]
fn a_device_that_is_cut_short_under_a_load_loses_nothing_acknowledged() {
    let store = Store::make(STORE_BYTES, true);
    let image = store.dir().join("store");
    let resize = |bytes: u64| {
        OpenOptions::new().write(true).open(&image).unwrap().set_len(bytes).unwrap();
        run("losetup", &["-c", store.device.to_str().unwrap()]);
    };
    fails_in_mid_load(&store, false, || resize(ROOM_BYTES), || resize(STORE_BYTES));
}
