//! Retention over a real mount: limits as attributes, trimming and growing by commands, what is retained as a tree, and
//! a follower of a log whose old end goes all the time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::*;
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};

const MIB: u64 = 1 << 20;

fn set(path: &Path, name: &str, value: &str) -> Result<(), i32> {
    let name = format!("user.llamafs.{name}");
    setxattr(path, name, value.as_bytes(), XattrFlags::empty()).map_err(|error| error.raw_os_error())
}

fn get(path: &Path, name: &str) -> String {
    let mut value = [0; 64];
    let len = getxattr(path, format!("user.llamafs.{name}"), &mut value).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

fn llamafs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llamafs")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Record `n`, of 1000 bytes: no two alike.
fn record(n: u64) -> Vec<u8> {
    let mut record = format!("{n:>9}\n").into_bytes();
    record.resize(1000, b'a' + (n % 26) as u8);
    record
}

fn append(mount: &Mount, from: u64, to: u64) {
    let mut file = mount.append();
    (from..to).for_each(|n| file.write_all(&record(n)).unwrap());
}

#[test]
fn limits_are_attributes_of_logs_and_of_the_root_and_stay() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    let (log, root) = (mount.log(), mount.path().to_owned());
    assert_eq!((get(&log, "retain_bytes"), get(&root, "on_full")), ("default".to_owned(), "stop".to_owned()));
    set(&log, "retain_bytes", "10M").unwrap();
    set(&log, "retain_age", "7d").unwrap();
    set(&root, "keep_min", "64K").unwrap();
    set(&root, "on_full", "drop-oldest").unwrap();
    let wrong = [(&log, "retain_bytes", "lots"), (&log, "retain_age", "0"), (&root, "on_full", "pray")];
    for (path, name, value) in wrong {
        assert_eq!(set(path, name, value), Err(libc::EINVAL), "{name}={value}");
    }
    assert_eq!(set(&log, "on_full", "stop"), Err(libc::EPERM), "the store's alone");
    assert_eq!(set(&log, "size", "7"), Err(libc::EPERM), "a figure");
    mount.umount();
    let mount = Mount::new(&image);
    let (log, root) = (mount.log(), mount.path().to_owned());
    assert_eq!((get(&log, "retain_bytes"), get(&log, "retain_age")), ((10 * MIB).to_string(), "7days".to_owned()));
    assert_eq!((get(&root, "keep_min"), get(&root, "on_full")), ("65536".to_owned(), "drop-oldest".to_owned()));
    removexattr(&log, "user.llamafs.retain_bytes").unwrap();
    assert_eq!(get(&log, "retain_bytes"), "default");
    // A group that may append may not let go.
    fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let refused = as_nobody("setfattr -n user.llamafs.retain_bytes -v 1 \"$1\"", &log);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("not permitted"));
    mount.umount();
}

#[test]
fn create_and_replace_tell_what_is_set_from_what_is_not() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    let (log, root) = (mount.log(), mount.path().to_owned());
    let set = |path: &Path, name: &str, value: &str, flags| {
        let name = format!("user.llamafs.{name}");
        setxattr(path, name, value.as_bytes(), flags).map_err(|error| error.raw_os_error())
    };
    let (create, replace) = (XattrFlags::CREATE, XattrFlags::REPLACE);
    let other = |value: &str| if value == "drop-oldest" { "stop" } else { "default" }.to_owned();
    for (path, name, value) in
        [(&log, "retain_bytes", "1048576"), (&log, "retain_age", "7days"), (&root, "on_full", "drop-oldest")]
    {
        assert_eq!(set(path, name, value, replace), Err(libc::ENODATA), "{name}");
        assert_eq!(get(path, name), other(value));
        assert_eq!(set(path, name, value, create), Ok(()), "{name}");
        assert_eq!(set(path, name, value, create), Err(libc::EEXIST), "{name}");
        assert_eq!((set(path, name, value, replace), set(path, name, value, XattrFlags::empty())), (Ok(()), Ok(())));
        assert_eq!(get(path, name), value);
        removexattr(path, format!("user.llamafs.{name}")).unwrap();
        assert_eq!(get(path, name), other(value));
    }
    assert_eq!(set(&log, "size", "7", create), Err(libc::EPERM));
    assert_eq!(set(&log, "trim", "keep:0", replace), Err(libc::ENODATA), "a command is not kept");
}

#[test]
fn a_command_that_is_removed_does_nothing_and_grow_is_now_or_never() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    append(&mount, 0, 10);
    let capacity = || nix::sys::statvfs::statvfs(mount.path()).unwrap().blocks();
    let before = capacity();
    OpenOptions::new().write(true).open(image.path()).unwrap().set_len(128 * MIB).unwrap();
    let removed = |path: &Path, name| removexattr(path, format!("user.llamafs.{name}")).map_err(|e| e.raw_os_error());
    assert_eq!(removed(mount.path(), "grow"), Err(libc::ENODATA));
    assert_eq!(removed(&mount.log(), "trim"), Err(libc::ENODATA));
    for wrong in ["", "default", "later"] {
        assert_eq!(set(mount.path(), "grow", wrong), Err(libc::EINVAL), "{wrong}");
    }
    assert_eq!((capacity(), get(&mount.log(), "head")), (before, "0".to_owned()));
    set(mount.path(), "grow", "now").unwrap();
    assert!(capacity() > before);
}

#[test]
fn a_trim_takes_whole_records_and_the_rest_stays_where_it_was() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    append(&mount, 0, 5000);
    let point = mount.path().to_str().unwrap();
    let said = text(&llamafs(&["trim", point, "/log", "--before", "1234567"]));
    assert!(said.contains("1234000 bytes let go") && said.contains("from offset 1234000"), "{said}");
    let bytes = mount.read();
    assert_eq!(bytes.len(), 5_000_000, "size and offsets stay");
    assert!(bytes[..1_234_000].iter().all(|byte| *byte == 0));
    assert!((1234..5000).all(|n| bytes[n * 1000..][..1000] == record(n as u64)[..]));
    assert_eq!(get(&mount.log(), "head"), "1234000");
    let file = File::open(mount.log()).unwrap();
    assert_eq!(nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData), Ok(1_234_000));
    drop(file);
    // As a file of its own, from a record's first byte on.
    let retained = mount.control("retained/log");
    assert_eq!(fs::metadata(&retained).unwrap().size(), 3_766_000);
    assert!(fs::read(&retained).unwrap() == bytes[1_234_000..]);
    assert!(sh("head -c 10 \"$1\"", &retained).trim() == "1234");
    let open = File::open(&retained).unwrap();
    text(&llamafs(&["trim", point, "log", "--keep", "100K"]));
    let mut part = [0; 1000];
    open.read_exact_at(&mut part, 3_765_000).unwrap();
    assert!(part == record(4999)[..], "offsets of an open file stay");
    assert_eq!(get(&mount.log(), "head"), "4897000");
    assert_eq!(errno(OpenOptions::new().append(true).open(&retained)), libc::EACCES);
    assert_eq!(errno(File::create(mount.control("retained/new"))), libc::EPERM);
    for wrong in [&["--before", "yesterday"][..], &[], &["--keep", "-1"]] {
        let output = llamafs(&[&["trim", point, "/log"], wrong].concat());
        assert!(!output.status.success() && output.stderr.iter().filter(|byte| **byte == b'\n').count() == 1);
    }
    for (what, why) in [("/nothing", "No such file"), ("/", "not a log"), ("/.llamafs/status", "not a log")] {
        let output = llamafs(&["trim", point, what, "--keep", "1"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why) && said.lines().count() == 1, "{what}: {said}");
    }
    drop(open);
    append(&mount, 5000, 5010);
    mount.umount();
    let cat = llamafs(&["cat", image.path().to_str().unwrap(), "/log"]);
    assert!(cat.status.success() && cat.stdout.len() == 113_000 && cat.stdout.starts_with(&record(4897)));
}

#[test]
fn a_directory_of_logs_shows_in_what_is_retained() {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    fs::create_dir_all(mount.path().join("a/b")).unwrap();
    let mut log = OpenOptions::new().append(true).create(true).open(mount.path().join("a/b/c")).unwrap();
    log.write_all(b"deep\n").unwrap();
    drop(log);
    assert_eq!(fs::read(mount.control("retained/a/b/c")).unwrap(), b"deep\n");
    let names = sh("cd \"$1\" && find . | sort", &mount.control("retained"));
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), [".", "./a", "./a/b", "./a/b/c", "./log"]);
    fs::remove_file(mount.path().join("a/b/c")).unwrap();
    assert!(!mount.control("retained/a/b/c").exists());
    // Also when the name and its directory were only looked up, and never listed.
    fs::write(mount.path().join("a/d"), b"d\n").unwrap();
    let seen = mount.control("retained/a/d");
    assert_eq!(fs::read(&seen).unwrap(), b"d\n");
    fs::set_permissions(mount.path().join("a"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::metadata(mount.control("retained/a")).unwrap().mode() & 0o777, 0o500);
    assert!(!as_nobody("cat \"$1\"", &seen).status.success(), "what a directory hides is hidden here too");
    fs::remove_file(mount.path().join("a/d")).unwrap();
    assert!(!seen.exists());
    mount.umount();
}

/// A follower and a writer of a store that is written round and round: `cycles` times its size.
#[test]
fn a_full_store_drops_its_oldest_and_its_follower_misses_nothing() {
    let cycles = std::env::var("LLAMAFS_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let bytes = std::env::var("LLAMAFS_ROUND_MIB").map_or(96, |mib| mib.parse().unwrap()) * MIB;
    let image = Image::with(bytes, |options| {
        options.drop_oldest = true;
        // A file system of its own for fifteen segments and more, whatever the size.
        options.segment_size = Some((bytes / 24).next_power_of_two().min(64 << 20) as u32);
    });
    let mount = Mount::new(&image);
    let kept = mount.path().join("kept");
    OpenOptions::new().append(true).create(true).open(&kept).unwrap().write_all(&record(0)).unwrap();
    set(&kept, "keep_min", "1G").unwrap();
    let limited = mount.path().join("limited");
    File::options().append(true).create(true).open(&limited).unwrap();
    set(&limited, "retain_bytes", "1M").unwrap();
    let total = cycles * bytes / 1000;
    let seen = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::open(mount.log()).unwrap();
            let mut have = Vec::new();
            let mut buffer = vec![0; 1 << 20];
            let mut n = 0;
            while n < total {
                let got = file.read(&mut buffer).unwrap();
                if got == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                have.extend_from_slice(&buffer[..got]);
                let whole = have.len() / 1000 * 1000;
                for part in have[..whole].chunks(1000) {
                    assert!(part == record(n), "record {n} is missed, repeated or torn");
                    n += 1;
                }
                have.drain(..whole);
                seen.store(n, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let (mut log, mut kept) = (mount.append(), OpenOptions::new().append(true).open(&kept).unwrap());
        let mut limited = OpenOptions::new().append(true).open(&limited).unwrap();
        for n in 0..total {
            log.write_all(&record(n)).unwrap();
            if n % 16 == 0 {
                limited.write_all(&record(n)).unwrap();
            }
            if n % 1000 == 999 {
                kept.write_all(&record(n)).unwrap();
                // It could not have seen what is gone before it comes there.
                while n > seen.load(std::sync::atomic::Ordering::Relaxed) + bytes / 8 / 1000 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    });
    let stats = mount.store.stats();
    assert!(stats.dropped_bytes > (cycles - 1) * bytes / 2, "{stats:?}");
    let (all, moved) = (stats.append_bytes, stats.moved_bytes);
    println!(
        "{all} bytes appended, {moved} moved, {} written to the device: write amplification {:.3}",
        stats.device_write_bytes,
        stats.device_write_bytes as f64 / all as f64
    );
    let head: u64 = get(&mount.log(), "head").parse().unwrap();
    assert!(head > 0 && head.is_multiple_of(1000));
    let mut part = [0; 1000];
    File::open(mount.log()).unwrap().read_exact_at(&mut part, head).unwrap();
    assert!(part == record(head / 1000)[..]);
    let whole = fs::read(&kept).unwrap();
    assert_eq!(whole.len() as u64, 1000 * (1 + total / 1000), "all of what is to be kept is there");
    assert!(whole[1000..].chunks(1000).enumerate().all(|(n, part)| part == &record(n as u64 * 1000 + 999)[..]));
    mount.store.audit().unwrap();
    mount.umount();
    let check = llamafs(&["check", image.path().to_str().unwrap()]);
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn what_becomes_too_old_goes_from_a_store_that_nobody_uses() {
    let image = Image::with(64 * MIB, |options| options.retain_age_ns = 86_400 * 1_000_000_000);
    let mount = Mount::new(&image);
    let logs = ["short", "shorter", "kept", "log"].map(|name| mount.path().join(name));
    let fill = |from, to| {
        for path in &logs {
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            (from..to).for_each(|n| file.write_all(&record(n)).unwrap());
        }
    };
    fill(0, 10);
    set(&logs[0], "retain_age", "4s").unwrap();
    set(&logs[1], "retain_age", "2s").unwrap();
    set(&logs[2], "retain_age", "1s").unwrap();
    set(&logs[2], "keep_min", "3000").unwrap();
    // Attributes are all that is asked for: nothing is written, and nothing is read.
    let heads = |at: [&str; 4]| {
        let now = || logs.iter().map(|log| get(log, "head")).collect::<Vec<_>>();
        assert!(eventually(Duration::from_secs(30), || now() == at), "{:?} is not {at:?}", now());
    };
    heads(["10000", "10000", "7000", "0"]);
    fill(10, 20);
    heads(["20000", "20000", "17000", "0"]);
    let appends = mount.status("appends");
    // Also after a mount in which nothing is written.
    fill(20, 21);
    mount.umount();
    let mount = Mount::new(&image);
    let logs = ["short", "shorter", "kept", "log"].map(|name| mount.path().join(name));
    let now = || logs.iter().map(|log| get(log, "head")).collect::<Vec<_>>();
    assert!(eventually(Duration::from_secs(30), || now() == ["21000", "21000", "18000", "0"]), "{:?}", now());
    assert_eq!((appends, mount.status("appends")), (80, 0));
    mount.umount();
}

#[test]
fn a_store_grows_with_its_file_mounted_or_not() {
    let image = Image::new(64 * MIB);
    let path = image.path();
    let larger = |bytes| OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    let mount = Mount::new(&image);
    append(&mount, 0, 100);
    let before = mount.status("segments");
    larger(128 * MIB);
    let said = text(&llamafs(&["grow", mount.path().to_str().unwrap()]));
    assert!(said.contains("grown from"), "{said}");
    assert!(mount.status("segments") >= 2 * before, "{}", mount.status("segments"));
    append(&mount, 100, 90_000);
    assert_eq!(fs::metadata(mount.log()).unwrap().size(), 90_000_000);
    mount.umount();
    larger(200 * MIB);
    let said = text(&llamafs(&["grow", path.to_str().unwrap(), "--json"]));
    assert!(said.contains("segments_before"), "{said}");
    let said = text(&llamafs(&["grow", path.to_str().unwrap()]));
    assert!(said.contains("nothing to do"), "{said}");
    let mount = Mount::new(&image);
    append(&mount, 90_000, 150_000);
    let bytes = mount.read();
    assert!((0..150_000).step_by(997).all(|n| bytes[n * 1000..][..1000] == record(n as u64)[..]));
    mount.umount();
    assert!(llamafs(&["check", path.to_str().unwrap()]).status.success());
    assert!(!llamafs(&["grow", "/nowhere"]).status.success());
}
