//! `/.llamafs/at/TIME` and `/.llamafs/retained`: the tree of logs, each from a record on, found by its time or by what is
//! kept; what `stat`, `lseek` and `read` say of such a file is one thing, whatever is let go meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use common::*;
use llamafs::fs::types::Errno;
use llamafs::fs::{FsSettings, Lent, LlamaFs, NoPageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, Lends, LogStructuredStore, StoreOptions, TrimTo};
use nix::unistd::{Whence, lseek};

const MIB: u64 = 1 << 20;
/// Bytes of a record.
const RECORD: usize = 1000;
/// `/log` of a new store.
const LOG: u32 = 1;

/// Record `n`: no two alike.
fn record(n: usize) -> Vec<u8> {
    let mut record = format!("{n:>9}\n").into_bytes();
    record.resize(RECORD, b'a' + (n % 26) as u8);
    record
}

/// A store of small segments, so that a few records fill several.
fn small_segments() -> Image {
    Image::with(32 * MIB, |options| {
        options.segment_size = Some(128 << 10);
        options.max_record = Some(16 << 10);
    })
}

fn name(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

fn at(mount: &Mount, time: SystemTime, path: &str) -> PathBuf {
    mount.control("at").join(name(time)).join(path)
}

/// A moment with nothing else in it.
fn moment() -> SystemTime {
    std::thread::sleep(Duration::from_millis(2));
    let now = SystemTime::now();
    std::thread::sleep(Duration::from_millis(2));
    now
}

fn create(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// `stat`, SEEK_END, SEEK_DATA and SEEK_HOLE, and what is read of an open file: all say the same. Gives its bytes.
fn agree(file: &File) -> Vec<u8> {
    let size = file.metadata().unwrap().size();
    assert_eq!(lseek(file, 0, Whence::SeekEnd), Ok(size as i64));
    let mut bytes = vec![0; size as usize + 1];
    let mut have = 0;
    while let got @ 1.. = file.read_at(&mut bytes[have..], have as u64).unwrap() {
        have += got;
    }
    assert_eq!(have as u64, size, "no more and no less than stat says");
    bytes.truncate(have);
    let hole = bytes.iter().position(|byte| *byte != 0).unwrap_or(have) as i64;
    if hole == size as i64 {
        assert_eq!(lseek(file, 0, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
    } else {
        assert_eq!(lseek(file, 0, Whence::SeekData), Ok(hole));
        assert_eq!(lseek(file, 0, Whence::SeekHole), Ok(if hole > 0 { 0 } else { size as i64 }));
        assert_eq!(lseek(file, hole, Whence::SeekHole), Ok(size as i64));
    }
    bytes
}

fn contents(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bytes = agree(&file);
    assert_eq!(fs::metadata(path).unwrap().size(), bytes.len() as u64);
    bytes
}

#[test]
fn each_log_begins_with_its_first_record_of_that_time_in_any_segment() {
    let image = small_segments();
    let mount = Mount::new(&image);
    fs::create_dir_all(mount.path().join("a/b")).unwrap();
    let paths = ["log", "a/seldom", "a/b/late"];
    let mut times = vec![(moment(), [0; 3])];
    let mut written = [0; 3];
    for round in 0..40 {
        for (which, every) in [(0, 1), (1, 7), (2, 100)] {
            if round % every == 0 && (which < 2 || round > 0) {
                let mut file = create(&mount.path().join(paths[which]));
                for _ in 0..=30 / every {
                    file.write_all(&record(written[which])).unwrap();
                    written[which] += 1;
                }
            }
        }
        if round == 30 {
            let mut file = create(&mount.path().join(paths[2]));
            file.write_all(&record(0)).unwrap();
            written[2] = 1;
        }
        times.push((moment(), written));
    }
    assert!(mount.status("segments") - mount.status("segments_free") > 5);
    let check = |mount: &Mount| {
        for (time, before) in &times {
            for (path, (from, to)) in paths.iter().zip(before.iter().zip(written)) {
                let expected: Vec<u8> = (*from..to).flat_map(record).collect();
                assert!(contents(&at(mount, *time, path)) == expected, "{path} {from} of {to}");
            }
        }
    };
    check(&mount);
    mount.umount();
    let mount = Mount::new(&image);
    check(&mount);
    // By the names that people write.
    let (_, before) = times[0];
    assert_eq!(before, [0; 3]);
    for early in ["1970-01-01T00:00:00Z", "0001-01-01 00:00:00", "2001-02-03T04:05:06.789+01:00"] {
        let path = mount.control("at").join(early).join("log");
        assert_eq!(contents(&path).len(), written[0] * RECORD, "{early}");
    }
    let noon = name(times[20].0).replace('T', "t").replace('Z', "+00:00");
    assert_eq!(contents(&mount.control("at").join(noon).join("log")).len(), (written[0] - times[20].1[0]) * RECORD);
    mount.umount();
}

#[test]
fn a_time_is_a_tree_of_its_own_that_nobody_changes() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    let time = moment();
    fs::create_dir_all(mount.path().join("a/b")).unwrap();
    create(&mount.path().join("a/b/c")).write_all(b"deep\n").unwrap();
    let root = at(&mount, time, "");
    let names = sh("cd \"$1\" && find . | sort", &root);
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), [".", "./a", "./a/b", "./a/b/c", "./log"]);
    assert_eq!(sh("cd \"$1\" && grep -r deep .", &root), "./a/b/c:deep\n");
    assert_eq!(sh("cp -r \"$1/a\" \"$1/../../../copied\" && cat \"$1/../../../copied/b/c\"", &root), "deep\n");
    assert_eq!(sh("ls -A \"$1\"", &mount.control("at")), "", "any time may be looked up, none is listed");
    assert!(sh("ls -a \"$1\"", &mount.control("")).split_whitespace().any(|name| name == "at"));
    assert_eq!(fs::metadata(root.join("..")).unwrap().ino(), fs::metadata(mount.control("at")).unwrap().ino());
    let file = root.join("a/b/c");
    assert_eq!(
        (fs::metadata(&file).unwrap().mode() & 0o777, fs::metadata(&root).unwrap().mode() & 0o777),
        (0o444, 0o555)
    );
    assert_eq!(errno(OpenOptions::new().append(true).open(&file)), libc::EACCES);
    assert_eq!(errno(File::create(root.join("new"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(root.join("new"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(mount.control("at/new"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&file)), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(&root)), libc::EPERM);
    assert_eq!(errno(fs::rename(&file, root.join("d"))), libc::EPERM);
    assert_eq!(errno(fs::rename(&root, mount.control("at/2000-01-01T00:00:00Z"))), libc::EPERM);
    assert_eq!(errno(fs::set_permissions(&file, Permissions::from_mode(0o644))), libc::EPERM);
    assert_eq!(errno(fs::read(&root)), libc::EISDIR);
    assert_eq!(errno(fs::read_dir(&file)), libc::ENOTDIR);
    // Permissions are those of the log and of its directories.
    let seen = |script: &str| as_nobody(script, &root).status.success();
    assert!(seen("cat \"$1/a/b/c\""));
    fs::set_permissions(mount.path().join("a/b/c"), Permissions::from_mode(0o600)).unwrap();
    assert!(!seen("cat \"$1/a/b/c\"") && seen("ls \"$1/a/b\""));
    fs::set_permissions(mount.path().join("a"), Permissions::from_mode(0o700)).unwrap();
    assert!(!seen("ls \"$1/a/b\"") && !seen("ls \"$1/a\"") && seen("ls \"$1\""));
    // A name is gone from the view when it is gone.
    fs::rename(mount.path().join("a"), mount.path().join("z")).unwrap();
    assert!(!root.join("a").exists() && root.join("z/b/c").exists());
    let open = File::open(root.join("z/b/c")).unwrap();
    fs::remove_file(mount.path().join("z/b/c")).unwrap();
    assert!(!root.join("z/b/c").exists());
    assert_eq!(agree(&open), b"deep\n", "who has it open keeps it");
    assert_eq!(mount.status("unlinked"), 1);
    drop(open);
    assert!(eventually(Duration::from_secs(10), || mount.status("unlinked") == 0));
    // What was looked at in a view is not kept by that, whatever the kernel remembers of it.
    create(&mount.path().join("short-lived")).write_all(b"x").unwrap();
    assert_eq!(contents(&root.join("short-lived")), b"x");
    assert_eq!(contents(&mount.control("retained/short-lived")), b"x");
    fs::remove_file(mount.path().join("short-lived")).unwrap();
    assert!(eventually(Duration::from_secs(10), || mount.status("unlinked") == 0));
    mount.umount();
}

#[test]
fn what_is_no_time_is_not_there() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    let root = mount.control("at");
    let mut hostile: Vec<Vec<u8>> =
        ["now", "log", "0", "-1", "2026", "2026-01-31", "2026-02-30T00:00:00Z", "%s%n", " "]
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
    hostile.extend([vec![b'9'; 255], b"\xff\xfe2026-01-31T00:00:00Z".to_vec(), b"2026-01-31T00:00:00Z\n".to_vec()]);
    hostile.push("２０２６-01-31T00:00:00Z".into());
    hostile.push([b"2026-01-31T00:00:00.".to_vec(), vec![b'0'; 200], b"x".to_vec()].concat());
    for name in hostile {
        let path = root.join(OsStr::from_bytes(&name));
        assert_eq!(errno(fs::metadata(&path)), libc::ENOENT, "{name:?}");
        assert_eq!(errno(File::open(path.join("log"))), libc::ENOENT);
    }
    assert_eq!(errno(fs::metadata(root.join("9".repeat(256)))), libc::ENAMETOOLONG);
    let good = root.join("2026-01-31T00:00:00Z");
    for missing in ["nothing", ".llamafs", "at", "log2"] {
        assert_eq!(errno(fs::metadata(good.join(missing))), libc::ENOENT);
    }
    assert_eq!(errno(fs::metadata(good.join("log/x"))), libc::ENOTDIR);
    mount.umount();
}

#[test]
fn a_time_that_has_not_come_is_empty_until_it_has() {
    let image = small_segments();
    let mount = Mount::new(&image);
    (0..100).for_each(|n| mount.append().write_all(&record(n)).unwrap());
    let soon = SystemTime::now() + Duration::from_millis(300);
    let path = at(&mount, soon, "log");
    let mut file = File::open(&path).unwrap();
    assert_eq!(agree(&file), b"");
    mount.append().write_all(&record(100)).unwrap();
    assert_eq!(SystemTime::now() < soon, agree(&file).is_empty());
    while SystemTime::now() <= soon {
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.append().write_all(&record(101)).unwrap();
    mount.append().write_all(&record(102)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == [record(101), record(102)].concat(), "the open file goes on where the time has come");
    assert!(agree(&file) == bytes && contents(&path) == bytes);
    let never = mount.control("at/9999-12-31T23:59:59Z/log");
    assert!(contents(&never).is_empty());
    mount.append().write_all(&record(103)).unwrap();
    assert!(contents(&never).is_empty());
    assert_eq!(fs::metadata(never).unwrap().blocks(), 0);
    drop(file);
    mount.umount();
}

#[test]
fn stat_lseek_and_read_of_an_open_file_agree_whatever_is_trimmed() {
    let image = small_segments();
    let mount = Mount::new(&image);
    let (mut log, mut times) = (mount.append(), Vec::new());
    for n in 0..900 {
        if n % 100 == 0 {
            times.push(moment());
        }
        log.write_all(&record(n)).unwrap();
    }
    let all: Vec<u8> = (0..900).flat_map(record).collect();
    let retained = mount.control("retained/log");
    let trim = |to: u64| mount.store.trim(LOG, TrimTo::Before(to)).unwrap().head as usize;
    let by_time = |n: usize| at(&mount, times[n], "log");
    assert_eq!(trim(50_000), 50_000);
    let opened = [(File::open(&retained).unwrap(), 50_000), (File::open(by_time(1)).unwrap(), 100_000)];
    let mut younger = Vec::new();
    for to in [150_000, 420_500, 700_000, 900_000] {
        let head = trim(to);
        younger.push((File::open(&retained).unwrap(), head));
        younger.push((File::open(by_time(2)).unwrap(), head.max(200_000)));
        for (file, from) in opened.iter().chain(&younger) {
            let bytes = agree(file);
            let hole = head.saturating_sub(*from);
            if head == 900_000 && *from == 900_000 {
                assert!(bytes.is_empty());
                continue;
            }
            assert!(
                bytes[..hole].iter().all(|byte| *byte == 0) && bytes[hole..] == all[from + hole..],
                "{from} {head}"
            );
        }
        assert!(contents(&retained) == all[head..]);
        assert!(contents(&by_time(0)) == all[head..]);
        assert!(contents(&by_time(8)) == all[head.max(800_000)..]);
        let file = File::open(&retained).unwrap();
        let other = File::open(&retained).unwrap();
        assert_eq!(file.metadata().unwrap().ino(), other.metadata().unwrap().ino());
    }
    log.write_all(&record(900)).unwrap();
    assert_eq!(agree(&opened[0].0).len(), 851_000, "it grows at its end");
    assert!(contents(&retained) == record(900) && contents(&by_time(8)) == record(900));
    // What nobody has open is forgotten.
    assert!(mount.status("view_files") > 0);
    drop((log, opened, younger));
    assert!(eventually(Duration::from_secs(10), || mount.status("view_files") == 0), "{}", mount.status("view_files"));
    mount.umount();
}

#[test]
fn thousands_of_times_leave_nothing_behind() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    mount.append().write_all(b"x\n").unwrap();
    for n in 0..6000u64 {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 + n);
        assert_eq!(fs::read(at(&mount, time, "log")).unwrap(), b"x\n");
    }
    assert!(eventually(Duration::from_secs(10), || mount.status("view_files") == 0));
    assert_eq!(mount.status("view_times"), llamafs::fs::MOMENTS as u64);
    mount.umount();
}

/// A store that is written round and round and cleaned, and whoever looks for a time finds its first record.
#[test]
fn a_time_is_found_while_segments_are_let_go_and_cleaned() {
    let image = Image::with(8 * MIB, |options| {
        options.segment_size = Some(128 << 10);
        options.max_record = Some(16 << 10);
        options.drop_oldest = true;
    });
    let mount = Mount::new(&image);
    let quiet = mount.path().join("quiet");
    create(&quiet);
    let set = |name: &str, value: &str| {
        rustix::fs::setxattr(&quiet, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.llamafs.keep_min", "1G");
    let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    // For each record of the quiet log when it was not there yet, and when it was.
    let written = std::sync::Mutex::new(Vec::<(SystemTime, SystemTime)>::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut log, mut quiet) = (mount.append(), create(&quiet));
            for n in 0..40_000 {
                log.write_all(&record(n)).unwrap();
                // A look for each hundred records, all the time.
                while looks.load(Ordering::Relaxed) + 2 < n / 100 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if n % 40 == 0 {
                    let before = SystemTime::now();
                    quiet.write_all(&record(n / 40)).unwrap();
                    written.lock().unwrap().push((before, SystemTime::now()));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let known = written.lock().unwrap().clone();
            if known.len() < 2 {
                continue;
            }
            let n = (looks.load(Ordering::Relaxed) * 7919) % (known.len() - 1);
            let bytes = fs::read(at(&mount, known[n].1, "quiet")).unwrap();
            let first: usize = std::str::from_utf8(&bytes[..9]).unwrap().trim().parse().unwrap();
            assert!(bytes[..RECORD] == record(first)[..], "it begins with a record");
            // The first record that is not of before that time: `n` itself, if it is of that very moment.
            assert!(
                first == n + 1 || first == n && known[n].1 <= known[n + 1].0,
                "{first} is not the first behind {n}"
            );
            looks.fetch_add(1, Ordering::Relaxed);
        }
        println!(
            "{looks:?} times found, {} segments let go, {} cleaned",
            mount.status("segments_freed"),
            mount.status("segments_cleaned")
        );
    });
    assert!(mount.status("segments_cleaned") > 0 && mount.status("segments_freed") > 50);
    mount.store.audit().unwrap();
    mount.umount();
}

#[test]
fn nobody_who_serves_requests_waits_for_the_device() {
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device.clone(), StoreOptions::default()).unwrap();
    store.start();
    store.append(LOG, b"one").unwrap();
    let time = moment();
    store.append(LOG, b"two").unwrap();
    let fs = LlamaFs::new(store.clone(), FsSettings::default(), Box::new(NoPageCache));
    let down = |parent, name: &str| fs.lookup(parent, name.as_bytes()).unwrap().ino;
    device.stall(true);
    let file = down(down(down(down(1, ".llamafs"), "at"), &name(time)), "log");
    let (sender, receiver) = mpsc::channel();
    let told = sender.clone();
    fs.when_known(file, move |known| told.send(known).unwrap());
    let read =
        llamafs::fs::types::Read { ino: file, fh: 2, offset: 0, len: 100, for_pages: false, lends: Lends::Whole };
    let (bytes, read_bytes) = mpsc::channel();
    fs.read(read, move |result: Result<Lent, Errno>| {
        bytes.send(result.map(|bytes| bytes.in_one().unwrap().to_vec())).unwrap()
    });
    assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err(), "it is not known yet");
    assert_eq!(fs.getattr(file).unwrap().size, 0);
    device.stall(false);
    assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(Ok(())));
    assert_eq!(fs.getattr(file).unwrap().size, 3);
    assert_eq!(read_bytes.recv_timeout(Duration::from_secs(30)).unwrap(), Ok(b"two".to_vec()));
    assert_eq!(fs.lookup(down(1, ".llamafs"), b"at").map(|attr| attr.size), Ok(0));
    assert_eq!(fs.lookup(1 << 62 | 77 << 41 | 1 << 32 | 1, b"log").err(), Some(Errno::ESTALE), "no such time");
    fs.shut_gate();
    store.close().unwrap();
}
