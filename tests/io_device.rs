//! QuikIO and `open` on real files and loop devices. Needs root, as CI has it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use llamafs::io::{Access, Buffer, Device, OpenError, QuikIO, SharedBuffer, open};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

fn need_root() {
    let root = nix::unistd::geteuid().is_root();
    assert!(root, "this test makes loop devices and mounts: run it as root");
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

fn store_file(dir: &Path, len: u64) -> PathBuf {
    let path = dir.join("store");
    File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// A loop device over a file of its own; gone when dropped.
struct Loop {
    path: PathBuf,
    dir: TempDir,
}

impl Loop {
    fn new(len: u64, options: &[&str]) -> Loop {
        need_root();
        let dir = tempfile::tempdir().unwrap();
        let file = store_file(dir.path(), len);
        let mut args = vec!["--find", "--show"];
        args.extend(options);
        args.push(file.to_str().unwrap());
        let path = PathBuf::from(run("losetup", &args));
        Loop { path, dir }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// A mounted place; unmounted when dropped.
struct Mounted {
    place: PathBuf,
    _dir: TempDir,
}

impl Mounted {
    fn new(args: &[&str]) -> Mounted {
        need_root();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("mounted here");
        fs::create_dir(&place).unwrap();
        let mut args = args.to_vec();
        args.push(place.to_str().unwrap());
        run("mount", &args);
        Mounted { place, _dir: dir }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused(path: &Path, access: Access) -> OpenError {
    let error = open(path, access).expect_err("must be refused");
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()) && !text.contains('\n'), "{text}");
    error
}

fn filled(io: &QuikIO, len: usize, byte: u8) -> SharedBuffer {
    let mut buffer = io.buffer(len).unwrap();
    buffer.as_mut_slice().fill(byte);
    SharedBuffer::from(buffer)
}

/// The same work on whatever it is.
fn exercise(path: &Path, capacity: u64) {
    let device = Arc::new(open(path, Access::ReadWrite).unwrap());
    let geometry = device.geometry();
    assert_eq!(geometry.capacity, capacity);
    assert!(geometry.block >= 512 && geometry.block.is_power_of_two());
    let align = geometry.memory_align.max(4096) as usize;
    let registered: Vec<SharedBuffer> = (1..=4u8)
        .map(|n| {
            let mut buffer = Buffer::new_aligned(MIB, align).unwrap();
            buffer.as_mut_slice().fill(n);
            SharedBuffer::from(buffer)
        })
        .collect();
    let io = QuikIO::new(device, &registered).unwrap();
    assert_eq!(io.describe(), path.to_str().unwrap());
    io.start();

    // Large writes from registered buffers, several in flight, durable or not.
    let (sent, got) = mpsc::channel();
    for n in 0..16u64 {
        let sent = sent.clone();
        let buffer = registered[n as usize % 4].clone();
        io.write(buffer, 0..MIB, n * MIB as u64, n % 2 == 0, Box::new(move |r| sent.send(r).unwrap()));
    }
    (0..16).for_each(|_| got.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
    io.flush_now().unwrap();
    for n in 0..16u64 {
        let read = io.read_now(io.buffer(MIB).unwrap(), MIB, n * MIB as u64).unwrap();
        assert!(read.as_slice().iter().all(|&b| u64::from(b) == n % 4 + 1));
    }
    // More small ones than the rings hold, from several threads, overlapping their neighbours' last block.
    let block = geometry.block as usize;
    thread::scope(|scope| {
        for t in 0..4u64 {
            let (io, sent) = (&io, sent.clone());
            scope.spawn(move || {
                for n in 0..500u64 {
                    let sent = sent.clone();
                    let place = ((t * 500 + n) % 100) * block as u64;
                    io.write(
                        filled(io, 2 * block, 9),
                        0..2 * block,
                        place,
                        false,
                        Box::new(move |r| sent.send(r).unwrap()),
                    );
                }
            });
        }
    });
    (0..2000).for_each(|_| got.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
    // The last of many writes of one block is what stays.
    for n in 0..200u8 {
        let sent = sent.clone();
        io.write(filled(&io, block, n), 0..block, 0, n % 20 == 0, Box::new(move |r| sent.send(r).unwrap()));
    }
    (0..200).for_each(|_| got.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
    let read = io.read_now(io.buffer(2 * block).unwrap(), 2 * block, 0).unwrap();
    assert!(read.as_slice()[..block].iter().all(|&b| b == 199));
    assert!(read.as_slice()[block..].iter().all(|&b| b == 9));
    assert_eq!(io.read_now(io.buffer(block).unwrap(), block, capacity).unwrap_err().errno, libc::EIO);

    let counters = io.counters();
    assert_eq!((counters.writes, counters.in_flight), (16 + 2000 + 200, 0));
    assert_eq!(counters.flushes, 1 + 8 + 10);
    assert!(io.failed().is_none());
    io.close();
}

/// A program that a test starts has what other tests have open too, between its fork and its exec, with its lock. Who opens
/// again what was just closed runs alone.
static FORKS: parking_lot::RwLock<()> = parking_lot::RwLock::new(());

#[test]
fn a_loop_device_and_its_file_are_one_device_and_parts_of_a_file_are_several() {
    const LEN: u64 = 8 << 20;
    need_root();
    let _alone = FORKS.write();
    let whole = Loop::new(LEN, &[]);
    let file = whole.dir.path().join("store");
    let busy = |path: &Path, access| {
        let error = refused(path, access);
        assert_eq!(error.errno(), libc::EBUSY, "{error}");
        error.to_string()
    };
    for access in [Access::ReadWrite, Access::ReadOnlyShared] {
        let writer = open(&whole.path, Access::ReadWrite).unwrap();
        busy(&file, access);
        drop(writer);
        let writer = open(&file, Access::ReadWrite).unwrap();
        let told = busy(&whole.path, access);
        assert!(told.contains(&format!("{}, which it lies on, is in use", file.display())), "{told}");
        drop(writer);
    }
    let readers = (open(&whole.path, Access::ReadOnlyShared).unwrap(), open(&file, Access::ReadOnlyShared).unwrap());
    busy(&file, Access::ReadWrite);
    drop(readers);
    // Another loop device over the same file, and two over parts of it that do not meet.
    let over = |options: &[&str]| {
        let args = ["--find", "--show"].iter().chain(options).copied();
        let args: Vec<&str> = args.chain(file.to_str()).collect();
        Loop { path: PathBuf::from(run("losetup", &args)), dir: tempfile::tempdir().unwrap() }
    };
    let (front, back) = (over(&["--sizelimit", "4M"]), over(&["--offset", "4M", "--sizelimit", "4M"]));
    let parts = (open(&front.path, Access::ReadWrite).unwrap(), open(&back.path, Access::ReadWrite).unwrap());
    busy(&whole.path, Access::ReadWrite);
    drop(parts);
    drop(open(&whole.path, Access::ReadWrite).unwrap());
}

/// Who may have it together with whom.
fn sharing(path: &Path) {
    let writer = open(path, Access::ReadWrite).unwrap();
    for access in [Access::ReadWrite, Access::ReadOnlyShared] {
        let error = refused(path, access);
        assert_eq!(error.errno(), libc::EBUSY);
        let me = format!("this process ({}) has it open already", std::process::id());
        assert!(error.to_string().ends_with(&format!("is busy: {me}")), "{error}");
    }
    let unlocked = open(path, Access::ReadOnlyUnlocked).unwrap();
    drop(writer);
    let reader = open(path, Access::ReadOnlyShared).unwrap();
    let another = open(path, Access::ReadOnlyShared).unwrap();
    assert_eq!(refused(path, Access::ReadWrite).errno(), libc::EBUSY);
    drop((reader, another));
    drop(open(path, Access::ReadWrite).unwrap());
    drop(unlocked);
}

#[test]
fn a_file_is_a_device() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    exercise(&store_file(dir.path(), 32 * MIB as u64), 32 * MIB as u64);
}

#[test]
fn a_loop_device_is_a_device() {
    let _beside = FORKS.read();
    let device = Loop::new(32 * MIB as u64, &["--direct-io=on"]);
    exercise(&device.path, 32 * MIB as u64);
}

#[test]
fn the_block_is_the_devices_own() {
    let _beside = FORKS.read();
    let device = Loop::new(4 * MIB as u64, &["--sector-size", "4096"]);
    let open = open(&device.path, Access::ReadWrite).unwrap();
    assert_eq!(open.geometry().block, 4096);
}

#[test]
fn a_file_has_one_writer_or_many_readers() {
    let _alone = FORKS.write();
    let dir = tempfile::tempdir().unwrap();
    sharing(&store_file(dir.path(), MIB as u64));
}

#[test]
fn a_block_device_has_one_writer_or_many_readers() {
    let _alone = FORKS.write();
    sharing(&Loop::new(MIB as u64, &[]).path);
}

#[test]
fn it_can_be_opened_again_as_soon_as_it_was_closed() {
    let _alone = FORKS.write();
    let device = Loop::new(4 * MIB as u64, &[]);
    let dir = tempfile::tempdir().unwrap();
    for path in [device.path.clone(), store_file(dir.path(), 4 * MIB as u64)] {
        for n in 0..30 {
            let start = Instant::now();
            let io = QuikIO::new(Arc::new(open(&path, Access::ReadWrite).unwrap()), &[]).unwrap();
            io.start();
            io.write_all_now(filled(&io, 65536, n), 0..65536, 0, true).unwrap();
            drop(io);
            assert!(start.elapsed() < Duration::from_secs(5), "no waiting for the lock");
        }
    }
}

#[test]
fn it_can_be_opened_again_as_soon_as_its_owner_was_killed() {
    let _alone = FORKS.write();
    // The kernel takes the ring of a killed process down in its own time. This test is that process, too.
    if let Some(path) = std::env::var_os("LLAMAFS_TEST_HOLD") {
        let io = QuikIO::new(Arc::new(open(Path::new(&path), Access::ReadWrite).unwrap()), &[]).unwrap();
        io.start();
        println!("holding");
        for n in 0u64.. {
            io.write(filled(&io, MIB, 1), 0..MIB, n % 64 * MIB as u64, n % 8 == 0, Box::new(|_| {}));
            while io.counters().in_flight > 32 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::new(64 * MIB as u64, &[]);
    for path in [device.path.clone(), store_file(dir.path(), 64 * MIB as u64)] {
        for _ in 0..5 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "it_can_be_opened_again_as_soon_as_its_owner_was_killed", "--nocapture"])
                .env("LLAMAFS_TEST_HOLD", &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let held = lines.map_while(Result::ok).any(|line| line.contains("holding"));
            let child = Running(child);
            assert!(held, "the other process has it");
            thread::sleep(Duration::from_millis(30));
            let text = refused(&path, Access::ReadWrite).to_string();
            assert!(text.contains(&format!("(process {}) has it open", child.0.id())), "{text}");
            drop(child);
            drop(open(&path, Access::ReadWrite).unwrap());
        }
    }
}

#[test]
fn the_process_that_holds_a_file_is_named() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path(), MIB as u64);
    let ready = dir.path().join("ready");
    let script = format!("exec 9<'{}'; flock -x 9; touch '{}'; exec sleep 100", path.display(), ready.display());
    let child = Running(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap());
    while !ready.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    // The lock was taken by flock(1), which is gone: whoever has the file open is named instead.
    let text = refused(&path, Access::ReadWrite).to_string();
    assert!(text.contains(&format!("(process {}) has it open", child.0.id())), "{text}");
}

#[test]
fn a_mounted_device_says_where() {
    let _beside = FORKS.read();
    let device = Loop::new(16 * MIB as u64, &[]);
    let name = device.path.to_str().unwrap();
    run("mkfs.ext4", &["-q", name]);
    let mounted = Mounted::new(&[name]);
    let text = refused(&device.path, Access::ReadWrite).to_string();
    assert!(text.ends_with(&format!("it is mounted on {}", mounted.place.display())), "{text}");
    drop(open(&device.path, Access::ReadOnlyUnlocked).unwrap());
}

#[test]
fn a_file_system_without_direct_io_is_named() {
    let _beside = FORKS.read();
    let mounted = Mounted::new(&["-t", "ramfs", "none"]);
    let path = store_file(&mounted.place, MIB as u64);
    let error = refused(&path, Access::ReadWrite);
    assert!(error.to_string().contains("ramfs has no O_DIRECT; use a block device"), "{error}");
}

#[test]
fn a_tmpfs_file_is_a_device() {
    let _beside = FORKS.read();
    let mounted = Mounted::new(&["-t", "tmpfs", "none"]);
    exercise(&store_file(&mounted.place, 32 * MIB as u64), 32 * MIB as u64);
}

#[test]
fn a_write_protected_device_is_refused_for_writing() {
    let _beside = FORKS.read();
    let device = Loop::new(MIB as u64, &["--read-only"]);
    let error = refused(&device.path, Access::ReadWrite);
    assert!(error.to_string().contains("the device is read-only"), "{error}");
    drop(open(&device.path, Access::ReadOnlyShared).unwrap());
}

#[test]
fn a_file_on_a_read_only_file_system_is_refused_for_writing() {
    let _beside = FORKS.read();
    let mounted = Mounted::new(&["-t", "tmpfs", "none"]);
    let path = store_file(&mounted.place, MIB as u64);
    run("mount", &["-o", "remount,ro", mounted.place.to_str().unwrap()]);
    let error = refused(&path, Access::ReadWrite);
    assert!(error.to_string().contains("the file system it lies on is read-only"), "{error}");
    drop(open(&path, Access::ReadOnlyShared).unwrap());
}

#[test]
fn what_is_no_device_is_refused() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    let errno = |path: &Path| refused(path, Access::ReadWrite).errno();
    assert_eq!(errno(&dir.path().join("missing")), libc::ENOENT);
    assert_eq!(errno(&dir.path().join("missing/below")), libc::ENOENT);
    assert_eq!(errno(dir.path()), libc::EISDIR);
    assert_eq!(errno(Path::new("/dev/null")), libc::ENOTBLK);
    assert_eq!(errno(&store_file(dir.path(), 0)), libc::ENOSPC);
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(errno(&pipe), libc::ENOTBLK);
}

#[test]
fn permission_is_asked_for() {
    let _beside = FORKS.read();
    need_root();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = store_file(dir.path(), MIB as u64);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // The identity for file access belongs to the thread.
    thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        let error = refused(&path, Access::ReadWrite);
        assert!(error.to_string().contains("no permission to open it for writing"), "{error}");
        drop(open(&path, Access::ReadOnlyShared).unwrap());
    })
    .join()
    .unwrap();
}

#[test]
fn a_file_that_shrinks_under_us_is_an_error_not_a_loop() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path(), MIB as u64);
    let io = QuikIO::new(Arc::new(open(&path, Access::ReadWrite).unwrap()), &[]).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(65536 + 100).unwrap();
    let error = io.read_now(io.buffer(MIB).unwrap(), MIB, 0).unwrap_err();
    assert_eq!(error.errno, libc::EIO);
}

#[test]
fn a_thread_that_submits_and_ends_loses_nothing() {
    let _beside = FORKS.read();
    // The kernel cancels what a thread has left to its workers when it ends: flushes above all.
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path(), 4 * MIB as u64);
    let io = QuikIO::new(Arc::new(open(&path, Access::ReadWrite).unwrap()), &[]).unwrap();
    io.start();
    let (sent, got) = mpsc::channel();
    for n in 0..200u64 {
        let (io, first, second) = (io.clone(), sent.clone(), sent.clone());
        thread::spawn(move || {
            io.write(filled(&io, 65536, 1), 0..65536, n % 32 * 65536, true, Box::new(move |r| first.send(r).unwrap()));
            io.flush(Box::new(move |r| second.send(r).unwrap()));
        });
    }
    (0..400).for_each(|_| got.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
}

#[test]
fn idle_costs_no_cpu_and_closing_is_prompt() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path(), MIB as u64);
    let io = QuikIO::new(Arc::new(open(&path, Access::ReadWrite).unwrap()), &[]).unwrap();
    io.start();
    io.write_all_now(filled(&io, 4096, 1), 0..4096, 0, true).unwrap();
    // voluntary and involuntary switches of our completion threads: asleep means none.
    let switches = || -> u64 {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        let ours = statuses.filter(|status| status.starts_with("Name:\tquikio-idle\n"));
        ours.flat_map(|s| s.lines().filter(|l| l.contains("ctxt_switches")).map(String::from).collect::<Vec<_>>())
            .map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    // Other tests run in this process too: give this thread a name of its own, from inside.
    let (named, wait) = mpsc::channel();
    let rename = Box::new(move |_: Result<(), _>| {
        fs::write("/proc/thread-self/comm", "quikio-idle").unwrap();
        named.send(()).unwrap();
    });
    io.flush(rename);
    wait.recv_timeout(Duration::from_secs(20)).unwrap();
    thread::sleep(Duration::from_millis(100));
    let before = switches();
    assert!(before > 0, "the thread was found");
    thread::sleep(Duration::from_millis(1000));
    assert!(switches() - before <= 2, "an idle completion thread sleeps");
    let start = Instant::now();
    io.close();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn read_only_devices_take_no_writes() {
    let _beside = FORKS.read();
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path(), MIB as u64);
    let io = QuikIO::new(Arc::new(open(&path, Access::ReadOnlyShared).unwrap()), &[]).unwrap();
    assert_eq!(io.write_all_now(filled(&io, 4096, 1), 0..4096, 0, false).unwrap_err().errno, libc::EBADF);
    io.read_now(io.buffer(4096).unwrap(), 4096, 0).unwrap();
}
