//! The append-only rules over a real mount: one test for each promise.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::time::{Duration, SystemTime};

use common::*;

const MIB: u64 = 1 << 20;

fn mounted() -> (Image, Mount) {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    (image, mount)
}

#[test]
fn open_for_writing_without_append_is_refused() {
    let (_image, mount) = mounted();
    let log = mount.log();
    assert_eq!(errno(OpenOptions::new().write(true).open(&log)), libc::EPERM);
    assert_eq!(errno(OpenOptions::new().read(true).write(true).open(&log)), libc::EPERM);
    assert_eq!(errno(File::create(&log)), libc::EPERM);
    OpenOptions::new().read(true).append(true).open(&log).unwrap();
}

#[test]
fn open_with_truncation_is_refused_and_takes_nothing() {
    let (_image, mount) = mounted();
    mount.append().write_all(b"kept\n").unwrap();
    let log = mount.log();
    for flags in [libc::O_WRONLY | libc::O_APPEND, libc::O_WRONLY, libc::O_RDWR | libc::O_APPEND, libc::O_RDONLY] {
        let path = std::ffi::CString::new(log.to_str().unwrap()).unwrap();
        // SAFETY: a path that ends in a zero byte.
        let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_TRUNC) };
        assert_eq!((fd, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)), "{flags:#o}");
    }
    assert_eq!(mount.read(), b"kept\n");
}

#[test]
fn open_with_creat_of_an_existing_log_appends() {
    let (_image, mount) = mounted();
    let mut file = OpenOptions::new().append(true).create(true).open(mount.log()).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(errno(OpenOptions::new().append(true).create_new(true).open(mount.log())), libc::EEXIST);
}

#[test]
fn pwrite_and_lseek_on_an_append_descriptor_append_at_the_end() {
    let (_image, mount) = mounted();
    let mut file = mount.append();
    file.write_all(b"one ").unwrap();
    file.write_at(b"two ", 0).unwrap();
    file.seek(SeekFrom::Start(1)).unwrap();
    file.write_all(b"three ").unwrap();
    file.write_at(b"four", 1 << 40).unwrap();
    assert_eq!(mount.read(), b"one two three four");
    assert_eq!(fs::metadata(mount.log()).unwrap().len(), 18);
}

#[test]
fn a_write_that_asks_not_to_append_appends_all_the_same() {
    const RWF_NOAPPEND: i32 = 0x20;
    let (_image, mount) = mounted();
    let mut file = mount.append();
    file.write_all(b"one ").unwrap();
    match pwritev2(&file, b"two ", 1, RWF_NOAPPEND) {
        // Before Linux 6.9 nobody can ask for it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
        result => assert_eq!(result.unwrap(), 4),
    }
    assert_eq!(pwritev2(&file, b"three", 1 << 20, RWF_NOAPPEND).unwrap(), 5);
    assert_eq!(mount.read(), b"one two three");
    assert_eq!(fs::metadata(mount.log()).unwrap().len(), 13);
}

#[test]
fn writev_appends_all_its_parts_as_one() {
    let (_image, mount) = mounted();
    let parts = ["a", "bb", "ccc"].map(|part| std::io::IoSlice::new(part.as_bytes()));
    assert_eq!(mount.append().write_vectored(&parts).unwrap(), 6);
    assert_eq!(mount.read(), b"abbccc");
}

#[test]
fn a_writev_of_any_pieces_is_one_record_of_up_to_a_megabyte() {
    let (image, mount) = mounted();
    let memory: Vec<u8> = (0..2 << 20).map(|at| (at / 7 % 251) as u8 | 1).collect();
    let mut expected = Vec::new();
    // As many pieces as one call takes, small ones and of a megabyte together, none of which begins on a page; and few.
    let cases = [(1024, 1), (1024, 100), (1024, 1024), (258, 100), (257, 4080), (3, 349_525), (2, 524_288)];
    for (pieces, len) in cases {
        let parts: Vec<_> = (0..pieces).map(|n| &memory[n * (len + 33) % (1 << 19) + 17..][..len]).collect();
        let slices: Vec<_> = parts.iter().map(|part| std::io::IoSlice::new(part)).collect();
        assert_eq!(mount.append().write_vectored(&slices).unwrap(), pieces * len);
        expected.extend(parts.concat());
    }
    assert!(mount.read() == expected);
    mount.umount();
    let mut dump = std::process::Command::new(env!("CARGO_BIN_EXE_llamafs"));
    let dumped = dump.args(["dump", "--json", "--log", "1"]).arg(image.path()).output().unwrap();
    let frames: serde_json::Value = serde_json::from_slice(&dumped.stdout).unwrap();
    let data = frames.as_array().unwrap().iter().filter(|frame| frame["kind"] == "DATA");
    let lens: Vec<u64> = data.map(|frame| frame["len"].as_u64().unwrap()).collect();
    assert_eq!(lens, cases.map(|(pieces, len)| (pieces * len) as u64), "each is one frame");
}

#[test]
fn a_write_whose_append_flag_was_taken_off_goes_only_to_the_end() {
    let (_image, mount) = mounted();
    let mut file = mount.append();
    file.write_all(b"0123456789").unwrap();
    set_append(&file, false);
    for offset in [0, 9, 11, 1 << 30] {
        assert_eq!(errno(file.write_at(b"x", offset)), libc::EPERM, "{offset}");
    }
    file.write_at(b"ab", 10).unwrap();
    assert_eq!(errno(file.write_at(b"x", 10)), libc::EPERM);
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"cd").unwrap();
    set_append(&file, true);
    file.write_at(b"ef", 0).unwrap();
    assert_eq!(mount.read(), b"0123456789abcdef");
}

#[test]
fn truncate_and_ftruncate_are_refused_even_to_the_same_size() {
    let (_image, mount) = mounted();
    let mut file = mount.append();
    file.write_all(b"12345").unwrap();
    for size in [0, 4, 5, 6, 1 << 40] {
        assert_eq!(errno(file.set_len(size)), libc::EPERM, "{size}");
        assert_eq!(nix::unistd::truncate(&mount.log(), size as i64), Err(nix::errno::Errno::EPERM), "{size}");
    }
    assert_eq!(mount.read(), b"12345");
}

#[test]
fn fallocate_is_refused() {
    let (_image, mount) = mounted();
    let mut file = mount.append();
    file.write_all(&[7; 8192]).unwrap();
    let fallocate = |mode| {
        // SAFETY: plain call on an open descriptor.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, 4096) };
        assert_eq!(result, -1);
        std::io::Error::last_os_error().raw_os_error().unwrap()
    };
    assert_eq!(fallocate(0), libc::EOPNOTSUPP);
    assert_eq!(fallocate(libc::FALLOC_FL_KEEP_SIZE), libc::EOPNOTSUPP);
    assert_eq!(fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), libc::EPERM);
    assert_eq!(fallocate(libc::FALLOC_FL_ZERO_RANGE), libc::EPERM);
    assert!([libc::EOPNOTSUPP, libc::EPERM].contains(&fallocate(libc::FALLOC_FL_COLLAPSE_RANGE)));
    // glibc's emulation would write; it sees O_APPEND and does not.
    // SAFETY: plain call on an open descriptor.
    assert_ne!(unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 1 << 20) }, 0);
    assert_eq!(mount.read(), [7; 8192]);
}

#[test]
fn shared_writable_mapping_is_refused() {
    let (_image, mount) = mounted();
    let file = OpenOptions::new().read(true).append(true).open(mount.log()).unwrap();
    (&file).write_all(&[1; 4096]).unwrap();
    let map = |file: &File, protection| {
        // SAFETY: a new mapping wherever the kernel likes.
        let place =
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_eq!(place, libc::MAP_FAILED);
        std::io::Error::last_os_error().raw_os_error().unwrap()
    };
    assert_eq!(map(&file, libc::PROT_READ | libc::PROT_WRITE), libc::ENODEV);
    let reader = File::open(mount.log()).unwrap();
    assert_eq!(map(&reader, libc::PROT_READ | libc::PROT_WRITE), libc::EACCES);
}

#[test]
fn lsattr_shows_the_append_flag_and_chattr_cannot_take_it() {
    let (_image, mount) = mounted();
    let flags = sh("lsattr \"$1\"", &mount.log());
    let flags = flags.split(' ').next().unwrap();
    assert!(flags.contains('a') && flags.trim_matches('-') == "a", "{flags}");
    assert!(!sh("lsattr -d \"$1\"", mount.path()).split(' ').next().unwrap().contains('a'));
    for change in ["-a", "+i", "+a"] {
        let chattr = std::process::Command::new("chattr").arg(change).arg(mount.log()).output().unwrap();
        assert!(!chattr.status.success() || change == "+a", "chattr {change}");
    }
    let mut fsx = [0u32; 7];
    // SAFETY: FS_IOC_FSGETXATTR fills 28 bytes.
    let result = unsafe { libc::ioctl(File::open(mount.log()).unwrap().as_raw_fd(), 0x801c_581f, fsx.as_mut_ptr()) };
    assert_eq!((result, fsx[0] & 0x10), (0, 0x10));
}

#[test]
fn chmod_and_chown_hold_over_a_remount() {
    let (image, mount) = mounted();
    fs::set_permissions(mount.log(), Permissions::from_mode(0o640)).unwrap();
    chown(mount.log(), Some(NOBODY), Some(NOBODY)).unwrap();
    let look = |mount: &Mount| {
        let meta = fs::metadata(mount.log()).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(look(&mount), (0o640, NOBODY, NOBODY));
    mount.umount();
    let mount = Mount::new(&image);
    assert_eq!(look(&mount), (0o640, NOBODY, NOBODY));
}

#[test]
fn set_id_bits_go_with_chown_and_with_a_write_by_an_ordinary_user() {
    let (_image, mount) = mounted();
    let mode = || fs::metadata(mount.log()).unwrap().mode() & 0o7777;
    fs::set_permissions(mount.log(), Permissions::from_mode(0o6777)).unwrap();
    mount.append().write_all(b"root keeps them\n").unwrap();
    assert_eq!(mode(), 0o6777);
    assert!(as_nobody("echo x >> \"$1\"", &mount.log()).status.success());
    assert_eq!(mode(), 0o777);
    fs::set_permissions(mount.log(), Permissions::from_mode(0o6777)).unwrap();
    chown(mount.log(), Some(NOBODY), None).unwrap();
    assert_eq!(mode(), 0o777);
}

#[test]
fn touch_sets_the_present_and_no_other_time() {
    let (_image, mount) = mounted();
    let before = SystemTime::now() - Duration::from_secs(1);
    sh("touch \"$1\"", &mount.log());
    assert!(fs::metadata(mount.log()).unwrap().modified().unwrap() >= before);
    let past = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    assert_eq!(errno(mount.append().set_times(past)), libc::EPERM);
}

#[test]
fn permission_bits_decide_for_other_users() {
    let (_image, mount) = mounted();
    let log = mount.log();
    mount.append().write_all(b"seen\n").unwrap();
    assert_eq!(as_nobody("cat \"$1\"", &log).stdout, b"seen\n");
    let refused = as_nobody("echo no >> \"$1\"", &log);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("ermission denied"));
    fs::set_permissions(&log, Permissions::from_mode(0o622)).unwrap();
    assert!(as_nobody("echo yes >> \"$1\"", &log).status.success());
    assert!(!as_nobody("cat \"$1\"", &log).status.success());
    assert!(!as_nobody("chmod 777 \"$1\"", &log).status.success());
    assert!(!as_nobody("touch -d yesterday \"$1\"", &log).status.success());
    assert!(as_nobody("touch \"$1\"", &log).status.success(), "who may write may touch");
    assert_eq!(mount.read(), b"seen\nyes\n");
}

#[test]
fn a_log_that_is_not_for_all_is_not_shown_by_the_device_file_either() {
    let (_image, mount) = mounted();
    let device = mount.control("device");
    assert_eq!(fs::metadata(&device).unwrap().mode() & 0o777, 0o444);
    assert!(as_nobody("head -c 16 \"$1\"", &device).status.success());
    fs::set_permissions(mount.log(), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(&device).unwrap().mode() & 0o777, 0o400);
    assert!(!as_nobody("head -c 16 \"$1\"", &device).status.success());
}

#[test]
fn concurrent_appends_never_interleave() {
    let (_image, mount) = mounted();
    let script = "for i in 1 2 3 4 5 6 7 8; do (perl -e '$|=1; open F, \">>\", $ARGV[0]; \
                  for $n (0..199) { syswrite F, chr(64+$ARGV[1]) x (97 * $ARGV[1]) . \"\\n\" }' \"$1\" $i) & done; wait";
    sh(script, &mount.log());
    let text = mount.read();
    let mut counts = [0; 9];
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let writer = usize::from(line[0] - b'@');
        assert_eq!(line, vec![line[0]; 97 * writer], "a torn line");
        counts[writer] += 1;
    }
    assert_eq!(counts, [0, 200, 200, 200, 200, 200, 200, 200, 200]);
}

#[test]
fn one_mebibyte_from_any_address_is_one_record() {
    let (_image, mount) = mounted();
    let file = mount.append();
    let bytes = vec![b'x'; (2 * MIB) as usize];
    let before = mount.status("appends");
    for shift in [0, 1, 16, 4095] {
        let page = bytes.as_ptr().align_offset(4096) + shift;
        assert_eq!((&file).write(&bytes[page..page + MIB as usize]).unwrap(), MIB as usize);
    }
    if nix::unistd::geteuid().is_root() {
        assert_eq!(mount.status("appends") - before, 4);
    }
    assert_eq!(fs::metadata(mount.log()).unwrap().len(), 4 * MIB);
}

#[test]
fn a_write_larger_than_a_record_is_taken_whole() {
    let (_image, mount) = mounted();
    let bytes: Vec<u8> = (0..5 * MIB + 12345).map(|n| (n % 251) as u8).collect();
    assert_eq!(mount.append().write(&bytes).unwrap(), bytes.len());
    assert!(mount.read() == bytes);
}

#[test]
fn a_full_device_refuses_at_once_and_shows_it() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let mut file = mount.append();
    let record = vec![5; 1 << 18];
    let mut taken = 0;
    let error = loop {
        match file.write(&record) {
            Ok(n) => taken += n,
            Err(error) => break error,
        }
        assert!(taken < 32 << 20);
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let fs = nix::sys::statvfs::statvfs(mount.path()).unwrap();
    assert_eq!(fs.blocks_available(), 0);
    assert!(sh("df --output=pcent \"$1\" | tail -1", mount.path()).contains("100%"));
    assert_eq!(mount.read().len(), taken);
    assert_eq!(fs::metadata(mount.log()).unwrap().len(), taken as u64);
}

#[test]
fn a_read_only_mount_takes_no_append() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    mount.append().write_all(b"before\n").unwrap();
    mount.umount();
    let mount = Mount::with(&image, |spec| spec.read_only = true);
    assert_eq!(errno(OpenOptions::new().append(true).open(mount.log())), libc::EROFS);
    assert_eq!(errno(fs::set_permissions(mount.log(), Permissions::from_mode(0o600))), libc::EROFS);
    assert_eq!(mount.read(), b"before\n");
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mount.log());
    drop(direct);
}
