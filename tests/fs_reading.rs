//! Reading over a real mount: what was written is seen at once, through the page cache, mappings and `tail -f`; the
//! durable writes; the control tree.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::*;
use llamafs::fs::types::{self, Errno};
use llamafs::fs::{FsSettings, Lent, LlamaFs, PageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, Lends, LogStructuredStore, StoreOptions};

const MIB: u64 = 1 << 20;

fn mounted() -> (Image, Mount) {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    (image, mount)
}

#[test]
fn a_reader_of_the_last_page_sees_the_next_append_at_once() {
    let (_image, mount) = mounted();
    let (mut writer, mut reader) = (mount.append(), File::open(mount.log()).unwrap());
    let mut all = Vec::new();
    for n in 0..2000u32 {
        let record = format!("record {n} {}\n", "x".repeat(n as usize % 50));
        writer.write_all(record.as_bytes()).unwrap();
        assert_eq!(fs::metadata(mount.log()).unwrap().len(), (all.len() + record.len()) as u64);
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, record);
        all.extend_from_slice(record.as_bytes());
    }
    assert!(mount.read() == all);
}

/// Readers race with appends for the last page: zeros where a record has been answered must never be seen.
#[test]
fn readers_at_the_end_never_see_zeros() {
    let (_image, mount) = mounted();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|n| {
                let (mount, done) = (&mount, &done);
                scope.spawn(move || {
                    let reader = File::open(mount.log()).unwrap();
                    let (mut buffer, mut reads, mut at) = (vec![0; 16384], 0u64, 0u64);
                    while !done.load(Ordering::Acquire) {
                        // From a page behind the end, so that the last page is always among the bytes.
                        let got = reader.read_at(&mut buffer, at.saturating_sub(n * 1000)).unwrap();
                        assert!(buffer[..got].iter().all(|byte| *byte == b'y'), "zeros after {reads} reads at {at}");
                        at = at.saturating_sub(n * 1000) + got as u64;
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut writer = mount.append();
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            writer.write_all(&[b'y'; 33]).unwrap();
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert!(mount.read().iter().all(|byte| *byte == b'y'));
}

/// A file system over memory, whose kernel counts the pages that it is told to drop.
fn counted(parallel: bool) -> (LlamaFs, Arc<AtomicUsize>) {
    struct Dropped(Arc<AtomicUsize>);
    impl PageCache for Dropped {
        fn invalidate(&self, _ino: u64, _offset: u64, _len: u64, then: Box<dyn FnOnce() + Send>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            then();
        }
    }
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.start();
    let dropped = Arc::new(AtomicUsize::new(0));
    let settings = FsSettings { parallel, ..FsSettings::default() };
    (LlamaFs::new(store, settings, Box::new(Dropped(dropped.clone()))), dropped)
}

#[test]
fn what_fills_a_page_at_the_end_has_it_dropped_by_the_next_append_and_no_other_read_costs_one() {
    for parallel in [false, true] {
        let (fs, dropped) = counted(parallel);
        let ino = fs.lookup(1, b"log").unwrap().ino;
        for (n, (for_pages, after)) in [(false, 0), (true, 1), (false, 1), (true, 2)].into_iter().enumerate() {
            let (sender, answers) = mpsc::channel();
            let offset = 10 * n as u64;
            let append = types::Write { ino, offset, data: b"0123456789", flags: libc::O_APPEND, kill_set_id: false };
            let told = sender.clone();
            fs.write(append, move |result: Result<u32, Errno>| told.send(result.map(|n| n as usize)).unwrap());
            assert_eq!(answers.recv_timeout(Duration::from_secs(30)).unwrap(), Ok(10));
            let read = types::Read { ino, fh: 2, offset: 0, len: 4096, for_pages, lends: Lends::Whole };
            fs.read(read, move |result: Result<Lent, Errno>| sender.send(result.map(|bytes| bytes.len())).unwrap());
            assert_eq!(answers.recv_timeout(Duration::from_secs(30)).unwrap(), Ok(10 * (n + 1)));
            let append = types::Write { ino, offset: 10 * (n as u64 + 1), data: b"", ..append };
            fs.write(append, |_: Result<u32, Errno>| {});
            // With `parallel` the page is of an inode that the append does not go to.
            let expected = if parallel { 0 } else { after };
            assert_eq!(dropped.load(Ordering::SeqCst), expected, "{n}");
        }
    }
}

/// How many bytes `a` a file begins with, by pieces as `read` gives them, until there is no more, another, or an error.
fn letters(mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<usize>) -> (usize, Option<i32>) {
    let (mut all, mut piece) = (0, vec![0; 65536]);
    loop {
        match read(all as u64, &mut piece) {
            Ok(0) => return (all, None),
            Ok(n) if piece[..n].iter().all(|byte| *byte == b'a') => all += n,
            Ok(n) => return (all, Some(-(n as i32))),
            Err(error) => return (all, error.raw_os_error()),
        }
    }
}

fn sendfile(from: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<usize> {
    let (to, mut offset) = (tempfile::tempfile().unwrap(), offset as i64);
    // SAFETY: plain call on open descriptors.
    let n = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &mut offset, bytes.len()) };
    let n = usize::try_from(n).map_err(|_| std::io::Error::last_os_error())?;
    to.read_exact_at(&mut bytes[..n], 0).unwrap();
    Ok(n)
}

fn preadv(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<usize> {
    let iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: one vector of bytes that outlive the call.
    let n = unsafe { libc::preadv(file.as_raw_fd(), &iov, 1, offset as i64) };
    usize::try_from(n).map_err(|_| std::io::Error::last_os_error())
}

/// The kernel takes what a page lacks for the end of the file: of a page that has damage in it nothing is answered. Who
/// reads past the page cache is told from who fills a page, and gets every byte up to the damage.
#[test]
fn beside_damage_a_page_is_an_error_and_every_other_read_ends_there() {
    const PART: usize = 5000;
    let (image, mount) = mounted();
    for byte in *b"abc" {
        mount.append().write_all(&[byte; PART]).unwrap();
    }
    mount.umount();
    let device = fs::OpenOptions::new().read(true).write(true).open(image.path()).unwrap();
    let bytes = fs::read(image.path()).unwrap();
    let hit = bytes.windows(PART).position(|part| part == [b'b'; PART]).unwrap() + PART / 2;
    device.write_all_at(b"x", hit as u64).unwrap();
    let mount = Mount::new(&image);
    let open = |flags| fs::OpenOptions::new().read(true).custom_flags(flags).open(mount.log()).unwrap();
    let (plain, direct) = (open(0), open(libc::O_DIRECT));
    let (whole, page) = ((PART, Some(libc::EIO)), (4096, Some(libc::EIO)));
    assert_eq!(letters(|_, bytes| (&plain).read(bytes)), whole);
    for file in [&plain, &direct] {
        assert_eq!(letters(|at, bytes| file.read_at(bytes, at)), whole, "pread");
        assert_eq!(letters(|at, bytes| preadv(file, at, bytes)), whole, "preadv");
    }
    assert_eq!(letters(|at, bytes| sendfile(&plain, at, bytes)), page);
}

#[test]
fn tail_f_shows_an_append_within_a_second() {
    let (_image, mount) = mounted();
    mount.append().write_all(b"old\n").unwrap();
    let mut tail = Command::new("tail").arg("-f").arg(mount.log()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = tail.stdout.take().unwrap();
    let mut line = [0; 4];
    out.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"old\n");
    let begin = Instant::now();
    mount.append().write_all(b"new\n").unwrap();
    out.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"new\n");
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    tail.kill().unwrap();
    tail.wait().unwrap();
}

/// Map the first two pages for reading.
fn map(file: &File, kind: i32) -> std::io::Result<Vec<u8>> {
    // SAFETY: a new mapping of an open file wherever the kernel likes; only bytes below the file's end are looked at.
    unsafe {
        let place = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, kind, file.as_raw_fd(), 0);
        if place == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let bytes = std::slice::from_raw_parts(place.cast::<u8>(), file.metadata()?.len() as usize).to_vec();
        libc::munmap(place, 8192);
        Ok(bytes)
    }
}

#[test]
fn a_mapping_shows_what_is_appended() {
    let (image, mount) = mounted();
    let mut writer = mount.append();
    let reader = File::open(mount.log()).unwrap();
    let mut all = Vec::new();
    for n in 1..40u8 {
        writer.write_all(&[n; 200]).unwrap();
        all.extend_from_slice(&[n; 200]);
        assert!(map(&reader, libc::MAP_PRIVATE).unwrap() == all);
    }
    // While appends are possible readers go past the page cache, which a shared mapping would need.
    assert_eq!(errno(map(&reader, libc::MAP_SHARED)), libc::ENODEV);
    drop((reader, writer));
    mount.umount();
    let mount = Mount::with(&image, |spec| spec.read_only = true);
    assert!(map(&File::open(mount.log()).unwrap(), libc::MAP_SHARED).unwrap() == all);
    assert!(mount.read() == all);
}

#[test]
fn a_reader_of_everything_gets_every_byte() {
    let (_image, mount) = mounted();
    let mut writer = mount.append();
    let bytes: Vec<u8> = (0..10 * MIB as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for part in bytes.chunks(70_001) {
        writer.write_all(part).unwrap();
    }
    assert!(mount.read() == bytes);
    let mut file = File::open(mount.log()).unwrap();
    file.seek(SeekFrom::Start(5_000_001)).unwrap();
    let mut part = vec![0; 100_000];
    file.read_exact(&mut part).unwrap();
    assert!(part == bytes[5_000_001..5_100_001]);
    let both = fs::OpenOptions::new().read(true).append(true).open(mount.log()).unwrap();
    both.read_exact_at(&mut part, 777).unwrap();
    assert!(part == bytes[777..100_777]);
    assert_eq!(both.read_at(&mut part, 10 * MIB).unwrap(), 0);
}

#[test]
fn seek_data_and_seek_hole() {
    let (_image, mount) = mounted();
    mount.append().write_all(&[1; 5000]).unwrap();
    let file = File::open(mount.log()).unwrap();
    let seek = |offset, whence| {
        // SAFETY: plain call on an open descriptor.
        let place = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
        if place < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(place) }
    };
    assert_eq!(seek(10, libc::SEEK_DATA), Ok(10));
    assert_eq!(seek(10, libc::SEEK_HOLE), Ok(5000));
    assert_eq!(seek(5000, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(0, libc::SEEK_END), Ok(5000));
}

/// Every way to ask for a durable write, and a plain one that does not.
#[test]
fn durable_writes_are_durable_before_they_return() {
    let (_image, mount) = mounted();
    let syncs = || mount.status("syncs");
    let is_stable = || mount.status("stable_lsn") >= mount.status("log.log.end_lsn");
    let before = syncs();
    let plain = mount.append();
    (&plain).write_all(b"plain").unwrap();
    assert_eq!(syncs(), before);
    for flags in [libc::O_DSYNC, libc::O_SYNC] {
        mount.append_with(flags).write_all(b"flagged").unwrap();
        assert!(is_stable(), "open flags {flags:#o}");
    }
    for flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
        (&plain).write_all(b"plain").unwrap();
        assert_eq!(pwritev2(&plain, b"vector", 0, flags).unwrap(), 6);
        assert!(is_stable(), "RWF flags {flags:#x}");
    }
    (&plain).write_all(b"plain").unwrap();
    plain.sync_all().unwrap();
    assert!(is_stable());
    (&plain).write_all(b"plain").unwrap();
    plain.sync_data().unwrap();
    assert!(is_stable());
    (&plain).write_all(b"plain").unwrap();
    File::open(mount.path()).unwrap().sync_all().unwrap();
    assert!(is_stable(), "fsync of the directory");
    assert!(syncs() >= before + 6);
}

#[test]
fn mounted_with_sync_every_write_is_durable() {
    let image = Image::new(64 * MIB);
    let mount = Mount::with(&image, |spec| spec.sync = true);
    mount.append().write_all(b"plain").unwrap();
    assert!(mount.status("stable_lsn") >= mount.status("log.log.end_lsn"));
}

#[test]
fn df_du_stat_and_getfattr_show_true_figures() {
    let (_image, mount) = mounted();
    mount.append().write_all(&[3; 100_000]).unwrap();
    let meta = fs::metadata(mount.log()).unwrap();
    assert_eq!((meta.len(), meta.nlink()), (100_000, 1));
    assert!(meta.blocks() * 512 >= 100_000 && meta.blocks() * 512 < 200_000);
    let fs = nix::sys::statvfs::statvfs(mount.path()).unwrap();
    assert_eq!(fs.blocks() * fs.fragment_size(), mount.status("capacity") / 4096 * 4096);
    assert_eq!(fs.blocks_available() * fs.fragment_size(), mount.status("available") / 4096 * 4096);
    let names = sh("python3 -c 'import os,sys; print(*os.listxattr(sys.argv[1]))' \"$1\"", &mount.log());
    for name in ["id", "size", "head", "end_lsn", "stable_lsn", "device_bytes"] {
        assert!(names.contains(&format!("user.llamafs.{name}")), "{names}");
    }
    let read = "python3 -c 'import os,sys; print(os.getxattr(sys.argv[1], \"user.llamafs.size\").decode())' \"$1\"";
    assert_eq!(sh(read, &mount.log()).trim(), "100000");
    let write = "python3 -c 'import os,sys; os.setxattr(sys.argv[1], \"user.llamafs.size\", b\"1\")' \"$1\" 2>&1";
    assert!(sh(&format!("{write} || true"), &mount.log()).contains("Operation not permitted"));
}

#[test]
fn the_control_tree_is_there_for_shell_tools() {
    let (image, mount) = mounted();
    assert_eq!(sh("ls -A \"$1\" | sort | tr '\\n' ' '", mount.path()), ".llamafs log ");
    assert_eq!(
        sh("ls \"$1\" | sort | tr '\\n' ' '", &mount.control("")),
        "at device retained ring status status.json "
    );
    assert_eq!(fs::metadata(mount.control("")).unwrap().mode() & 0o777, 0o555);
    let status = fs::read_to_string(mount.control("status")).unwrap();
    assert!(status.contains(&format!("pid: {}\n", std::process::id())), "{status}");
    assert!(status.lines().all(|line| line.contains(':')), "{status}");
    let json = sh("cat \"$1\"", &mount.control("status.json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["logs"][0]["name"], "log");
    assert_eq!(fs::metadata(mount.control("status")).unwrap().len(), 0);
    assert_eq!(sh("wc -l < \"$1\"", &mount.control("ring")).trim().parse(), Ok(mount.store.ring_slots().len()));
    for name in ["status", "ring", "device"] {
        assert_eq!(errno(fs::OpenOptions::new().append(true).open(mount.control(name))), libc::EACCES);
    }
    assert_eq!(errno(fs::metadata(mount.control("other"))), libc::ENOENT);
    drop(image);
}

#[test]
fn the_device_file_is_the_device() {
    let (image, mount) = mounted();
    mount.append().write_all(b"look for this record").unwrap();
    mount.append().sync_all().unwrap();
    let device = mount.control("device");
    assert_eq!(fs::metadata(&device).unwrap().len(), mount.store.device_bytes());
    let dump = sh("hexdump -C -s 4100 -n 32 \"$1\"", &device);
    assert!(dump.starts_with("00001004 ") && dump.trim_end().ends_with("00001024"), "{dump}");
    assert_eq!(sh("dd if=\"$1\" bs=1000 skip=3 count=5 status=none | wc -c", &device).trim(), "5000");
    assert_eq!(sh("tail -c 100 \"$1\" | wc -c", &device).trim(), "100");
    if image.path().exists() {
        // Whole pieces of it, away from what the running store may be writing.
        let piece = |path: &std::path::Path| {
            let mut bytes = vec![0; 12345];
            File::open(path).unwrap().read_exact_at(&mut bytes, 777).unwrap();
            bytes
        };
        assert!(piece(&device) == piece(&image.path()));
    }
}
