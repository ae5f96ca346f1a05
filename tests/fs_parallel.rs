//! `-o parallel`: each opener of a log has an inode of its own in the kernel, and nobody can tell but by its speed. What
//! is told in docs/semantics.md as a difference is held here; the usual rules are in `fs_parallel_rules`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "plain calls on descriptors that are open")]

mod common;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use common::*;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn mounted() -> (Image, Mount) {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    (image, mount)
}

/// What the kernel itself calls an open file's inode.
fn handle(file: &File) -> Vec<u8> {
    const ROOM: usize = 128;
    let mut space = vec![0u8; 8 + ROOM];
    space[..4].copy_from_slice(&(ROOM as u32).to_ne_bytes());
    let mut mount_id = 0;
    let result = unsafe {
        let handle = space.as_mut_ptr().cast();
        libc::name_to_handle_at(file.as_raw_fd(), c"".as_ptr(), handle, &mut mount_id, libc::AT_EMPTY_PATH)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let len = u32::from_ne_bytes(space[..4].try_into().unwrap()) as usize;
    space[8..8 + len].to_vec()
}

#[test]
fn each_opener_has_an_inode_of_its_own_and_all_see_one_file() {
    let (_image, mount) = mounted();
    let files: Vec<File> = (0..20).map(|_| mount.append()).collect();
    assert_eq!(files.iter().map(handle).collect::<HashSet<_>>().len(), files.len());
    let seen = |meta: fs::Metadata| (meta.dev(), meta.ino(), meta.nlink());
    let all: HashSet<_> = files.iter().map(|file| seen(file.metadata().unwrap())).collect();
    assert_eq!(all, HashSet::from([seen(fs::metadata(mount.log()).unwrap())]));
    let listed = sh("ls -i \"$1\"", mount.path());
    assert!(listed.contains(&format!("{} log", all.iter().next().unwrap().1)), "{listed}");
    assert_eq!(
        sh("find \"$1\" -maxdepth 1 -samefile \"$1/log\"", mount.path()),
        format!("{}\n", mount.log().display())
    );
    assert_eq!(sh("test \"$1/log\" -ef \"$1/./log\" && echo same", mount.path()), "same\n");
    // By its descriptor it is opened again.
    let again = File::open(format!("/proc/self/fd/{}", files[3].as_raw_fd())).unwrap();
    assert_eq!(seen(again.metadata().unwrap()), *all.iter().next().unwrap());
}

#[test]
fn every_opener_sees_an_append_as_soon_as_it_is_answered() {
    let (_image, mount) = mounted();
    let mut files: Vec<File> =
        (0..8).map(|_| OpenOptions::new().read(true).append(true).open(mount.log()).unwrap()).collect();
    let mut expected: Vec<u8> = Vec::new();
    for round in 0..400 {
        let writer = round % files.len();
        let bytes = vec![b'a' + writer as u8; 1 + round * 7 % 5000];
        files[writer].write_all(&bytes).unwrap();
        let from = expected.len() as u64;
        expected.extend(&bytes);
        for file in &mut files {
            assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
            assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), expected.len() as u64);
            let mut read = vec![0; bytes.len() + 1];
            assert_eq!(file.read_at(&mut read, from).unwrap(), bytes.len(), "and no byte behind it");
            assert_eq!(read[..bytes.len()], bytes);
        }
        assert_eq!(fs::metadata(mount.log()).unwrap().len(), expected.len() as u64);
    }
    assert_eq!(mount.read(), expected);
}

#[test]
fn an_append_goes_to_the_end_whatever_the_kernel_believes_it_to_be() {
    let (_image, mount) = mounted();
    let (mut one, mut two) = (mount.append(), mount.append());
    one.write_all(b"0123456789").unwrap();
    // The kernel has never heard of those ten bytes on this inode.
    two.write_all(b"ab").unwrap();
    two.write_at(b"cd", 0).unwrap();
    one.write_all(b"ef").unwrap();
    assert_eq!(mount.read(), b"0123456789abcdef");
    set_append(&two, false);
    for offset in [0, 4, 15, 17] {
        assert_eq!(errno(two.write_at(b"x", offset)), libc::EPERM, "{offset}");
    }
    two.write_at(b"gh", 16).unwrap();
    one.write_all(b"ij").unwrap();
    assert_eq!(errno(two.write_at(b"x", 18)), libc::EPERM, "what was the end is not any more");
    two.seek(SeekFrom::End(0)).unwrap();
    two.write_all(b"kl").unwrap();
    assert_eq!(mount.read(), b"0123456789abcdefghijkl");
}

#[test]
fn what_one_does_to_the_file_the_others_see() {
    let (_image, mount) = mounted();
    let (mut one, two) = (mount.append(), File::open(mount.log()).unwrap());
    one.write_all(b"kept").unwrap();
    for size in [0, 4, 9] {
        assert_eq!(errno(one.set_len(size)), libc::EPERM);
        assert_eq!(nix::unistd::truncate(&mount.log(), size as i64), Err(nix::errno::Errno::EPERM));
    }
    one.set_permissions(Permissions::from_mode(0o600)).unwrap();
    assert_eq!(two.metadata().unwrap().mode() & 0o7777, 0o600);
    assert!(!as_nobody("cat \"$1\"", &mount.log()).status.success());
    fs::set_permissions(mount.log(), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(one.metadata().unwrap().mode() & 0o7777, 0o644);
    assert!(as_nobody("cat \"$1\"", &mount.log()).status.success());
    let moved = mount.path().join("moved");
    fs::rename(mount.log(), &moved).unwrap();
    fs::rename(&moved, &moved).unwrap();
    one.write_all(b" and more").unwrap();
    assert_eq!(fs::read(&moved).unwrap(), b"kept and more");
    assert_eq!(fs::metadata(&moved).unwrap().ino(), two.metadata().unwrap().ino());
}

#[test]
fn a_log_that_is_removed_stays_for_all_who_have_it_open() {
    let (image, mount) = mounted();
    let log = mount.path().join("gone");
    let mut first = OpenOptions::new().append(true).create(true).open(&log).unwrap();
    let mut others: Vec<File> =
        (0..4).map(|_| OpenOptions::new().read(true).append(true).open(&log).unwrap()).collect();
    first.write_all(b"before ").unwrap();
    let id = mount.store.logs().iter().find(|info| &*info.name == b"/gone").map(|info| info.id);
    let id = id.or_else(|| mount.store.logs().iter().map(|info| info.id).max()).unwrap();
    fs::remove_file(&log).unwrap();
    assert!(File::open(&log).is_err());
    for file in &mut others {
        file.write_all(b"after ").unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
    let mut bytes = [0; 32];
    assert_eq!(others[2].read_at(&mut bytes, 0).unwrap(), 31);
    assert_eq!(bytes[..31], *b"before after after after after ");
    drop(first);
    let last = others.pop().unwrap();
    drop(others);
    assert_eq!(last.metadata().unwrap().len(), 31);
    assert!(mount.store.log(id).is_some());
    drop(last);
    assert!(eventually(SOON, || mount.store.log(id).is_none()), "nobody has it any more");
    mount.umount();
    let mount = Mount::new(&image);
    assert!(File::open(mount.path().join("gone")).is_err());
}

#[test]
fn what_the_kernel_was_told_of_it_gives_back() {
    let (_image, mount) = mounted();
    let log = mount.path().join("often");
    fs::write(&log, b"x").unwrap();
    let id = mount.store.logs().iter().map(|info| info.id).max().unwrap();
    let mut handles = HashSet::new();
    for _ in 0..3000 {
        let file = File::open(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 1);
        handles.insert(handle(&file));
    }
    assert_eq!(handles.len(), 3000);
    let listed = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(listed.count() > 1);
    // The store lets go of a log when it has no name and the kernel has forgotten each number it was told of it under.
    fs::remove_file(&log).unwrap();
    assert!(eventually(SOON, || mount.store.log(id).is_none()));
}

#[test]
fn many_that_open_one_name_at_once_all_get_it() {
    let (_image, mount) = mounted();
    let log = mount.log();
    std::thread::scope(|scope| {
        for writer in 0..16u8 {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..100 {
                    let mut file = OpenOptions::new().append(true).open(log).unwrap();
                    file.write_all(&[writer; 10]).unwrap();
                }
            });
        }
    });
    let read = mount.read();
    let mut count = [0; 16];
    read.chunks(10).for_each(|chunk| {
        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "torn");
        count[usize::from(chunk[0])] += 1;
    });
    assert_eq!(count, [100; 16]);
}

#[test]
fn a_read_only_mount_shares_the_page_cache_as_ever() {
    let (image, mount) = mounted();
    mount.append().write_all(b"kept\n").unwrap();
    mount.umount();
    let mount = Mount::with(&image, |spec| spec.read_only = true);
    let files = [File::open(mount.log()).unwrap(), File::open(mount.log()).unwrap()];
    assert_eq!(handle(&files[0]), handle(&files[1]));
    assert_eq!(mount.read(), b"kept\n");
}

#[test]
fn sendfile_goes_on_where_fstat_has_told_the_size() {
    let (_image, mount) = mounted();
    let (mut writer, reader) = (mount.append(), File::open(mount.log()).unwrap());
    let to = tempfile::tempfile().unwrap();
    let mut at = 0;
    for round in 1..20 {
        writer.write_all(&[b'x'; 5000]).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), 5000 * round);
        loop {
            match unsafe { libc::sendfile(to.as_raw_fd(), reader.as_raw_fd(), &mut at, 1 << 20) } {
                0 => break,
                n => assert!(n > 0, "{}", std::io::Error::last_os_error()),
            }
        }
        assert_eq!(at as u64, 5000 * round);
    }
    let mut all = vec![0; at as usize];
    to.read_exact_at(&mut all, 0).unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'));
}
