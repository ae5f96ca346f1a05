//! No caller can exhaust the daemon: tens of thousands of open files, a flood of reads and writes by many processes, and
//! control files held open; its memory stays bounded, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llamafs::fs::{Limits, USERS};
use support::{LARGEST, Store, Watchdog, record, walk};

const FLOODERS: u32 = 8;
/// Files that each of them keeps open.
const HANDLES: usize = 4000;
/// Threads of each of them that read a megabyte at a time, and that write.
const READERS: u64 = 16;
const WRITERS: u64 = 4;
const FLOOD: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(120);
/// docs/operations.md: what the daemon uses, under any load.
const BOUND_KIB: u64 = 64 << 10;
const JOB: &str = "LLAMAFS_TEST_FLOOD";

/// Peak resident memory in KiB.
fn peak(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn flooder(log: &Path) -> Child {
    Command::new("prlimit")
        .arg(format!("--nofile={}", HANDLES + 100))
        .arg(std::env::current_exe().unwrap())
        .args(["flood_process", "--exact", "--quiet"])
        .env(JOB, log)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next line that it says: how far it is.
fn next_line(said: &mut impl Read) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while said.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(char::from(byte[0]));
    }
    line
}

/// The flooder's side. Does nothing in the parent.
#[test]
fn flood_process() {
    flood();
}

/// Opens, says so, and floods when it is told to.
pub fn flood() {
    let Some(log) = std::env::var_os(JOB) else { return };
    let handles: Vec<File> = (0..HANDLES).map(|_| File::open(&log).unwrap()).collect();
    std::io::stderr().write_all(b"open\n").unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let until = Instant::now() + FLOOD;
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let handle = &handles[reader as usize * 7];
            scope.spawn(move || {
                let (mut piece, mut at) = (vec![0; LARGEST], reader << 20);
                while Instant::now() < until {
                    assert!(handle.read_at(&mut piece, at).unwrap() > 0);
                    at = (at + (17 << 20)) % (128 << 20);
                }
            });
        }
        for writer in 0..WRITERS {
            let log = &log;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(log).unwrap();
                while Instant::now() < until {
                    file.write_all(&vec![support::SINGLE; 1 + writer as usize * 20_000]).unwrap();
                }
            });
        }
    });
    // Open until the parent says so.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(handles.len(), HANDLES);
}

#[test]
fn a_flood_of_handles_reads_and_writes_leaves_memory_bounded_and_others_served() {
    let store = Store::make(8 << 30, false);
    store.mount();
    let pid = store.pid();
    let watchdog = Watchdog::start(&store, LIMIT);
    let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
    for number in 0..160 {
        log.write_all(&record(1, number, LARGEST)).unwrap();
    }
    let mut flooders: Vec<Child> = (0..FLOODERS).map(|_| flooder(&store.log())).collect();
    for flooder in &mut flooders {
        assert_eq!(next_line(flooder.stderr.as_mut().unwrap()), "open");
    }
    let held: usize =
        flooders.iter().map(|child| std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count()).sum();
    assert!(held > FLOODERS as usize * HANDLES, "{held} files are open");
    for flooder in &mut flooders {
        flooder.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    }
    // Somebody else, who wants nothing but to open, to append, to sync and to read.
    let until = Instant::now() + FLOOD;
    let (mut number, mut first) = (160, [0; 24]);
    while Instant::now() < until {
        log.write_all(&record(1, number, 100)).unwrap();
        log.sync_data().unwrap();
        File::open(store.log()).unwrap().read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first[..], record(1, 0, LARGEST)[..24]);
        assert_eq!(store.pid(), pid);
        number += 1;
    }
    let (peak, rounds) = (peak(pid), number - 160);
    println!("{held} open files, {rounds} rounds of another, daemon's peak {peak} KiB");
    assert!(rounds > 0, "nobody else is served");
    for flooder in &mut flooders {
        drop(flooder.stdin.take());
        assert!(flooder.wait().unwrap().success());
    }
    assert!(peak < BOUND_KIB, "{peak} KiB");
    watchdog.stop();
    drop(log);
    assert_eq!(walk(File::open(store.log()).unwrap()).next[&1], number);
    store.umount();
}

/// Opens a file as a user until it is refused, and says by which errno.
fn opened_by(uid: u32, status: &Path) -> Child {
    let script = "import sys, time\nopened = []\ntry:\n  while True: opened.append(open(sys.argv[1]))\nexcept OSError as \
                  error: print(len(opened), error.errno, flush=True)\nsys.stdin.read()\n";
    let id = uid.to_string();
    Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "prlimit", "--nofile=1000", "python3", "-c", script])
        .arg(status)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn told(child: &mut Child) -> (usize, i32) {
    let line = next_line(child.stdout.as_mut().unwrap());
    let (count, errno) = line.split_once(' ').unwrap();
    (count.parse().unwrap(), errno.parse().unwrap())
}

#[test]
fn control_files_held_open_by_many_users_keep_nobody_else_out() {
    let mut store = Store::make(64 << 20, false);
    // Other users must be able to reach it.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    store.mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&store.mountpoint).unwrap();
    store.mount();
    let status = store.mountpoint.join(".llamafs/status");
    let most = Limits::default().control_files;
    let mut users = Vec::new();
    let mut count = 0;
    for user in 0.. {
        let mut child = opened_by(5000 + user, &status);
        let (opened, errno) = told(&mut child);
        users.push(child);
        count += opened;
        // Each has its own limit, and all together have one.
        if count == most * USERS && opened == 0 {
            assert_eq!(errno, libc::ENFILE);
            break;
        }
        assert_eq!((opened, errno), (most, libc::EMFILE));
    }
    // Root looks on, and a log is read and written by whoever may.
    assert_eq!(store.status("control_handles").parse(), Ok(count));
    let mine: Vec<File> = (0..most).map(|_| File::open(&status).unwrap()).collect();
    let error = File::open(&status).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    OpenOptions::new().append(true).open(store.log()).unwrap().write_all(b"record").unwrap();
    drop(mine);
    for user in &mut users {
        drop(user.stdin.take());
        assert!(user.wait().unwrap().success());
    }
    // The kernel says in its own time that they are closed.
    while store.status("control_handles") != "0" {
        std::thread::sleep(Duration::from_millis(5));
    }
    store.umount();
}

#[test]
fn each_limit_is_a_mount_option_with_an_errno() {
    let mut store = Store::make(64 << 20, false);
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    store.mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&store.mountpoint).unwrap();
    store.mount_with("max_logs=3,max_dirs=1,name_max=20,user_handles=5,max_handles=8,control_files=2");
    let path = |name: &str| store.mountpoint.join(name);
    let errno = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let make = |name: &str| errno(File::create(path(name)).map(drop));
    assert_eq!((make("one"), make("two"), make("three")), (None, None, Some(libc::ENOSPC)));
    assert_eq!(errno(std::fs::create_dir(path("d"))), None);
    assert_eq!(errno(std::fs::create_dir(path("e"))), Some(libc::ENOSPC));
    let free = Command::new("df").args(["--output=iavail"]).arg(&store.mountpoint).output().unwrap();
    assert_eq!(String::from_utf8(free.stdout).unwrap().split_whitespace().last(), Some("0"));
    std::fs::remove_file(path("one")).unwrap();
    assert_eq!((make(&"x".repeat(21)), make(&"x".repeat(20))), (Some(libc::ENAMETOOLONG), None));
    let control = path(".llamafs/status");
    let open: Vec<File> = (0..2).map(|_| File::open(&control).unwrap()).collect();
    assert_eq!(errno(File::open(&control).map(drop)), Some(libc::EMFILE));
    drop(open);
    let mut first = opened_by(5000, &path("log"));
    assert_eq!(told(&mut first), (5, libc::EMFILE));
    let mut second = opened_by(5001, &path("log"));
    assert_eq!(told(&mut second), (3, libc::ENFILE));
    // Root is never kept out.
    let open: Vec<File> = (0..50).map(|_| File::open(path("log")).unwrap()).collect();
    drop((open, first.stdin.take(), second.stdin.take()));
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    while store.status("user_handles") != "0" {
        std::thread::sleep(Duration::from_millis(5));
    }
    store.umount();
}
