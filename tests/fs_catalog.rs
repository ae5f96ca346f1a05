//! Many logs in directories, over a real mount and with the tools that people use.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};

const MIB: u64 = 1 << 20;

fn mounted() -> (Image, Mount) {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    (image, mount)
}

fn remounted(image: &Image, mount: Mount) -> Mount {
    mount.umount();
    Mount::new(image)
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn renameat2(from: &Path, to: &Path, flags: u32) -> Result<(), i32> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (from, to) = (path(from), path(to));
    // SAFETY: two paths that end in a zero byte.
    let result = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) }
}

#[test]
fn the_usual_tools_make_and_move_and_remove_logs_and_a_remount_shows_the_same() {
    let (image, mount) = mounted();
    let script = r#"set -e; cd "$1"; umask 022
        touch empty; echo one >> new; mkdir -p web/eu/de; mkdir jobs; chmod 700 jobs
        echo hit >> web/eu/de/access; echo miss | tee -a web/eu/error; cp /etc/hostname web/copied
        mv new renamed; mv web/eu web/europe; mv -n empty renamed 2> /dev/null || true
        mkdir -p gone/with/all; echo x >> gone/with/all/log; rm -r gone
        install -d -m 750 private; dd if=/dev/zero of=dd oflag=append conv=notrunc bs=1000 count=3 2> /dev/null
        find . -path ./.llamafs -prune -o -printf '%y %m %s %n %p\n' | sort -k 5
        cat web/europe/de/access web/europe/error renamed; cmp web/copied /etc/hostname; stat -c '%i %Y %Z %n' web jobs dd"#;
    let before = sh(script, mount.path());
    for line in ["f 644 4 1 ./renamed", "d 755 0 3 ./web", "d 700 0 2 ./jobs", "f 644 3000 1 ./dd", "f 644 0 1 ./empty"]
    {
        assert!(before.lines().any(|have| have == line), "{line}\n{before}");
    }
    assert!(before.contains("./web/europe/de/access\n") && before.contains("\nhit\nmiss\none\n"), "{before}");
    assert!(!before.contains("gone"), "{before}");
    let look = r#"cd "$1"; find . -path ./.llamafs -prune -o -printf '%y %m %u %g %s %n %i %T@ %C@ %p\n' | sort; cat web/europe/*/*"#;
    let shown = sh(look, mount.path());
    let mount = remounted(&image, mount);
    assert_eq!(sh(look, mount.path()), shown);
}

#[test]
fn what_is_new_may_be_opened_in_any_way_and_takes_bytes_at_its_end_only() {
    let (_image, mount) = mounted();
    let path = mount.path().join("new");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"one ").unwrap();
    file.write_all(b"two").unwrap();
    assert_eq!(std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    drop(file);
    assert_eq!(errno(File::create(&path)), libc::EPERM, "it is there now");
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    let exclusive = |path: &Path| OpenOptions::new().append(true).create_new(true).open(path);
    assert_eq!(errno(exclusive(&path)), libc::EEXIST);
    exclusive(&mount.path().join("other")).unwrap();
    assert_eq!(errno(exclusive(&mount.path().join("nowhere/other"))), libc::ENOENT);
    assert_eq!(errno(exclusive(&path.join("below"))), libc::ENOTDIR);
}

#[test]
fn many_that_create_one_name_get_one_log() {
    let (_image, mount) = mounted();
    let path = mount.path().join("shared");
    let threads: Vec<_> = (0..16)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || append(&path, &format!("line of {n}\n")))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().collect::<BTreeSet<_>>().len(), 16, "{text}");
}

#[test]
fn links_and_special_files_are_refused_and_the_control_directory_stays() {
    let (_image, mount) = mounted();
    let (log, new) = (mount.log(), mount.path().join("new"));
    assert_eq!(errno(fs::hard_link(&log, &new)), libc::EPERM);
    assert_eq!(errno(std::os::unix::fs::symlink(&log, &new)), libc::EPERM);
    for kind in [SFlag::S_IFIFO, SFlag::S_IFSOCK, SFlag::S_IFCHR, SFlag::S_IFBLK] {
        assert_eq!(mknod(&new, kind, Mode::S_IRWXU, 0), Err(Errno::EPERM), "{kind:?}");
    }
    assert_eq!(errno(fs::metadata(&new)), libc::ENOENT);
    mknod(&new, SFlag::S_IFREG, Mode::S_IRUSR, 0).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().mode(), libc::S_IFREG | 0o400);

    let control = mount.path().join(".llamafs");
    let directory = mount.path().join("directory");
    fs::create_dir(&directory).unwrap();
    assert_eq!(errno(fs::create_dir(&control)), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(&control)), libc::EPERM);
    assert_eq!(errno(fs::rename(&control, mount.path().join("other"))), libc::EPERM);
    assert_eq!(errno(fs::rename(&directory, &control)), libc::EPERM);
    assert_eq!(errno(File::create(control.join("new"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(control.join("status"))), libc::EPERM);
    assert_eq!(errno(fs::rename(&log, control.join("log"))), libc::EPERM);
    assert_eq!(errno(fs::rename(control.join("status"), directory.join("status"))), libc::EPERM);
    fs::create_dir(directory.join(".llamafs")).unwrap();
}

#[test]
fn renames_go_by_the_rules() {
    let (_image, mount) = mounted();
    let at = |path: &str| mount.path().join(path);
    for path in ["a/b/c", "full/x", "empty"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    append(&at("one"), "1");
    append(&at("two"), "22");
    assert_eq!(renameat2(&at("one"), &at("two"), libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    assert_eq!(renameat2(&at("one"), &at("two"), libc::RENAME_WHITEOUT), Err(libc::EINVAL));
    assert_eq!(renameat2(&at("one"), &at("none"), libc::RENAME_EXCHANGE), Err(libc::ENOENT));
    assert_eq!(renameat2(&at("a"), &at("a/b/c/d"), 0), Err(libc::EINVAL));
    assert_eq!(renameat2(&at("a"), &at("a/b"), libc::RENAME_EXCHANGE), Err(libc::EINVAL));
    assert_eq!(renameat2(&at("a"), &at("full"), 0), Err(libc::ENOTEMPTY));
    assert_eq!(renameat2(&at("one"), &at("empty"), 0), Err(libc::EISDIR));
    assert_eq!(renameat2(&at("empty"), &at("one"), 0), Err(libc::ENOTDIR));
    let ino = |path: &str| fs::metadata(at(path)).unwrap().ino();
    let (one, a) = (ino("one"), ino("a"));
    assert_eq!(renameat2(&at("one"), &at("two"), 0), Ok(()), "replaces");
    assert_eq!((ino("two"), fs::read_to_string(at("two")).unwrap().as_str()), (one, "1"));
    assert_eq!(renameat2(&at("a"), &at("empty"), 0), Ok(()), "replaces an empty directory");
    assert_eq!((ino("empty"), names(&at("empty"))), (a, BTreeSet::from(["b".to_owned()])));
    assert_eq!(renameat2(&at("two"), &at("full"), libc::RENAME_EXCHANGE), Ok(()));
    assert!(at("two").is_dir() && at("full").is_file() && at("two/x").is_dir());
    assert_eq!(errno(fs::remove_dir(at("two"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(at("two"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(at("full"))), libc::ENOTDIR);
    let links = |path: &str| fs::metadata(at(path)).unwrap().nlink();
    assert_eq!((links("empty/b/c"), links("empty/b"), links("")), (2, 3, 5), "the control directory counts");
}

#[test]
fn a_log_that_is_removed_while_it_is_open_stays_for_those_who_have_it_open() {
    let (image, mount) = mounted();
    let path = mount.path().join("doomed");
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
    file.write_all(b"before, ").unwrap();
    let mut reader = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
    file.write_all(b"after").unwrap();
    file.sync_all().unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before, after");
    assert_eq!((reader.metadata().unwrap().nlink(), mount.status("unlinked")), (0, 1));
    append(&path, "another");
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    let other = fs::metadata(&path).unwrap().ino();
    assert_ne!(other, file.metadata().unwrap().ino());
    drop((file, reader));
    assert!(eventually(std::time::Duration::from_secs(5), || mount.status("unlinked") == 0));
    fs::rename(&path, mount.log()).unwrap();
    assert_eq!(fs::read_to_string(mount.log()).unwrap(), "another");
    let mount = remounted(&image, mount);
    assert_eq!(names(mount.path()), BTreeSet::from([".llamafs".to_owned(), "log".to_owned()]));
    assert_eq!(fs::metadata(mount.log()).unwrap().ino(), other);
}

#[test]
fn opening_by_name_while_others_replace_it_never_fails() {
    let (_image, mount) = mounted();
    let (path, stop) = (mount.path().join("busy"), Arc::new(AtomicBool::new(false)));
    append(&path, "0\n");
    let replacer = std::thread::spawn({
        let (path, stop) = (path.clone(), stop.clone());
        move || {
            let other = path.with_file_name("next");
            while !stop.load(Ordering::Relaxed) {
                append(&other, "next\n");
                fs::rename(&other, &path).unwrap();
            }
        }
    });
    for _ in 0..2000 {
        assert!(!fs::read(&path).unwrap().is_empty());
        append(&path, "x\n");
    }
    stop.store(true, Ordering::Relaxed);
    replacer.join().unwrap();
}

#[test]
fn any_bytes_are_a_name() {
    let (image, mount) = mounted();
    let hostile: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"\xff\xfe not UTF-8".to_vec(),
        b" ".to_vec(),
        b"...".to_vec(),
        b"-rf *".to_vec(),
        b"DATAMETALLAMAFS1".to_vec(),
        vec![b'x'; 255],
        (1..=255).filter(|byte| *byte != b'/').collect(),
    ];
    for name in &hostile {
        append(&mount.path().join(OsStr::from_bytes(name)), "kept");
        let directory = mount.path().join("d").join(OsStr::from_bytes(name));
        fs::create_dir_all(directory).unwrap();
    }
    let long = mount.path().join("x".repeat(256));
    assert_eq!(errno(File::create(&long)), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(&long)), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(&long)), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::remove_file(&long)), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(mount.log(), &long)), libc::ENAMETOOLONG);
    let status = fs::read_to_string(mount.control("status")).unwrap();
    assert!(status.lines().all(|line| line.contains(": ")), "one line each: {status}");
    let mount = remounted(&image, mount);
    let listed = |path: PathBuf| -> BTreeSet<Vec<u8>> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect()
    };
    assert_eq!(listed(mount.path().join("d")), hostile.iter().cloned().collect());
    for name in &hostile {
        assert_eq!(fs::read(mount.path().join(OsStr::from_bytes(name))).unwrap(), b"kept");
    }
}

#[test]
fn permission_bits_groups_and_the_sticky_bit_decide_who_makes_and_removes() {
    let (image, mount) = mounted();
    let nobody = |script: &str| as_nobody(script, mount.path()).status.success();
    assert!(!nobody("touch \"$1/mine\""), "the root is its owner's");
    fs::set_permissions(mount.path(), Permissions::from_mode(0o1777)).unwrap();
    assert!(nobody("umask 027; cd \"$1\" && touch mine && mkdir box && echo x >> box/log"));
    let look = |path: &str| {
        let meta = fs::metadata(mount.path().join(path)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!((look("mine"), look("box")), ((0o640, NOBODY, NOBODY), (0o750, NOBODY, NOBODY)));
    append(&mount.path().join("roots"), "");
    assert!(!nobody("rm -f \"$1/roots\""), "sticky");
    assert!(!nobody("mv \"$1/roots\" \"$1/theirs\""), "sticky");
    assert!(nobody("mv \"$1/mine\" \"$1/renamed\" && rm -f \"$1/renamed\""));

    let group = mount.path().join("group");
    fs::create_dir(&group).unwrap();
    std::os::unix::fs::chown(&group, None, Some(100)).unwrap();
    fs::set_permissions(&group, Permissions::from_mode(0o2777)).unwrap();
    assert!(nobody("umask 022; mkdir \"$1/group/sub\" && touch \"$1/group/log\""));
    assert_eq!((look("group/sub"), look("group/log")), ((0o2755, NOBODY, 100), (0o644, NOBODY, 100)));
    fs::set_permissions(&group, Permissions::from_mode(0o700)).unwrap();
    assert!(!nobody("ls \"$1/group\"") && !nobody("cat \"$1/group/log\""));
    let mount = remounted(&image, mount);
    assert_eq!(fs::metadata(mount.path()).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn the_device_file_hides_what_a_directory_hides_and_what_was_hidden_and_is_gone() {
    let (image, mount) = mounted();
    let mode = |mount: &Mount| fs::metadata(mount.control("device")).unwrap().mode() & 0o777;
    let directory = mount.path().join("private");
    fs::create_dir(&directory).unwrap();
    append(&directory.join("public enough"), "seen");
    assert_eq!(mode(&mount), 0o444);
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mode(&mount), 0o400);
    let status = fs::read_to_string(mount.control("status")).unwrap();
    assert!(status.contains("logs_total: 2") && !status.contains("public enough"), "{status}");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(mode(&mount), 0o444);
    append(&mount.path().join("secret"), "");
    fs::set_permissions(mount.path().join("secret"), Permissions::from_mode(0o600)).unwrap();
    append(&mount.path().join("secret"), "its bytes stay on the device");
    fs::remove_file(mount.path().join("secret")).unwrap();
    assert_eq!(mode(&mount), 0o400);
    let mount = remounted(&image, mount);
    assert_eq!(mode(&mount), 0o400);
}

#[test]
fn changes_of_one_log_at_the_same_time_are_kept_in_their_order() {
    let (image, mount) = mounted();
    append(&mount.path().join("a"), "");
    fs::create_dir(mount.path().join("d")).unwrap();
    let file = OpenOptions::new().append(true).open(mount.path().join("a")).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_millis(500);
    let run = |change: Box<dyn Fn(u32) + Send>| {
        std::thread::spawn(move || (0..).take_while(|_| std::time::Instant::now() < until).for_each(change))
    };
    let (modes, lines) = (file.try_clone().unwrap(), file.try_clone().unwrap());
    let (a, b) = (mount.path().join("a"), mount.path().join("d/b"));
    let threads = [
        run(Box::new(move |n| modes.set_permissions(Permissions::from_mode(0o600 + n % 8)).unwrap())),
        run(Box::new(move |_| (&lines).write_all(b"line\n").unwrap())),
        run(Box::new(move |n| if n % 2 == 0 { fs::rename(&a, &b) } else { fs::rename(&b, &a) }.unwrap())),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let look = |meta: fs::Metadata| (meta.ino(), meta.mode(), meta.size(), meta.modified().unwrap(), meta.ctime_nsec());
    let before = look(file.metadata().unwrap());
    // As after a crash: all from the frames.
    mount.store.make_stable_now(u64::MAX).unwrap();
    let copy = image.path().with_extension("copy");
    fs::copy(image.path(), &copy).unwrap();
    drop((file, mount));
    fs::rename(&copy, image.path()).unwrap();
    let mount = Mount::new(&image);
    let found = fs::metadata(mount.path().join("a")).or_else(|_| fs::metadata(mount.path().join("d/b"))).unwrap();
    assert_eq!(look(found), before);
}

#[test]
fn directories_keep_their_times() {
    let (image, mount) = mounted();
    let directory = mount.path().join("d");
    fs::create_dir(&directory).unwrap();
    sh("touch -d '2001-02-03 04:05:06.789 UTC' \"$1\"", &directory);
    let mtime = |path: &Path| sh("TZ=UTC stat -c %y \"$1\"", path);
    assert!(mtime(&directory).starts_with("2001-02-03 04:05:06.789"), "{}", mtime(&directory));
    let mount = remounted(&image, mount);
    assert!(mtime(&mount.path().join("d")).starts_with("2001-02-03 04:05:06.789"));
    append(&mount.path().join("d/log"), "x");
    let made = mtime(&mount.path().join("d"));
    assert!(!made.starts_with("2001"), "{made}");
    append(&mount.path().join("d/log"), "an append is no change of the directory");
    assert_eq!(mtime(&mount.path().join("d")), made);
    fs::rename(mount.path().join("d/log"), mount.path().join("log2")).unwrap();
    assert_ne!(mtime(&mount.path().join("d")), made);
}

#[test]
fn a_directorys_time_is_clamped_to_what_is_kept() {
    let (_image, mount) = mounted();
    let directory = mount.path().join("d");
    fs::create_dir(&directory).unwrap();
    let latest = (u64::MAX / 1_000_000_000) as i64;
    for (set, kept) in [(-5, 0), (0, 0), (7, 7), (latest, latest), (20_000_000_000, latest), (i64::MIN / 2, 0)] {
        // Not `touch`: a file system in between would clamp by itself.
        let times = [set; 2].map(|seconds| libc::timespec { tv_sec: seconds, tv_nsec: 0 });
        let path = CString::new(directory.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path that ends in a zero byte, and two times.
        assert_eq!(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) }, 0);
        assert_eq!(fs::metadata(&directory).unwrap().mtime(), kept, "{set}");
    }
}

#[test]
fn a_directory_that_is_removed_while_it_is_open_is_empty_and_has_no_links() {
    let (_image, mount) = mounted();
    let at = |name: &str| mount.path().join(name);
    for replace in [false, true] {
        fs::create_dir(at("d")).unwrap();
        fs::set_permissions(at("d"), Permissions::from_mode(0o750)).unwrap();
        let open = File::open(at("d")).unwrap();
        let ino = open.metadata().unwrap().ino();
        if replace {
            fs::create_dir(at("other")).unwrap();
            fs::rename(at("other"), at("d")).unwrap();
        } else {
            fs::remove_dir(at("d")).unwrap();
        }
        let found = open.metadata().unwrap();
        assert_eq!((found.ino(), found.nlink(), found.mode()), (ino, 0, libc::S_IFDIR | 0o750));
        let again = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        assert!(names(&again).is_empty());
        open.set_permissions(Permissions::from_mode(0o700)).unwrap();
        assert_eq!(open.metadata().unwrap().mode() & 0o777, 0o700);
        open.sync_all().unwrap();
        assert_eq!(errno(File::create(again.join("new"))), libc::ENOENT);
    }
    assert_eq!(fs::metadata(at("d")).unwrap().nlink(), 2, "what took its name");
}

#[test]
fn a_directory_is_listed_whole_while_names_come_and_go() {
    let (_image, mount) = mounted();
    let directory = mount.path().join("d");
    fs::create_dir(&directory).unwrap();
    let stays: BTreeSet<String> = (0..1500).map(|n| format!("a log that stays, number {n}")).collect();
    for name in &stays {
        append(&directory.join(name), "");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let churn = std::thread::spawn({
        let (directory, stop) = (directory.clone(), stop.clone());
        move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                append(&directory.join(format!("comes {n}")), "");
                fs::rename(directory.join(format!("comes {n}")), directory.join(format!("goes {n}"))).unwrap();
                if n >= 50 {
                    fs::remove_file(directory.join(format!("goes {}", n - 50))).unwrap();
                }
            }
        }
    });
    for _ in 0..15 {
        let listed: Vec<String> =
            fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let once: BTreeSet<&String> = listed.iter().collect();
        assert_eq!(once.len(), listed.len(), "a name twice");
        assert!(stays.iter().all(|name| once.contains(name)), "one that stays was missed");
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
}

#[test]
fn the_catalog_has_a_limit_which_is_an_errno() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let room = mount.status("catalog_limit") - mount.status("catalog_bytes");
    let mut made = 0;
    let error = loop {
        // 255 bytes of name make an entry of 384 bytes, and a length of 4.
        match File::create(mount.path().join(format!("{made:0255}"))) {
            Ok(_) => made += 1,
            Err(error) => break error.raw_os_error(),
        }
    };
    assert_eq!((error, made), (Some(libc::ENOSPC), room / 388));
    assert_eq!(errno(fs::rename(mount.log(), mount.path().join("y".repeat(255)))), libc::ENOSPC, "a longer name");
    fs::rename(mount.log(), mount.path().join("let")).unwrap();
    append(&mount.path().join("let"), "appends go on");
    fs::remove_file(mount.path().join(format!("{:0255}", 0))).unwrap();
    File::create(mount.path().join("z".repeat(255))).unwrap();
    let mount = remounted(&image, mount);
    assert_eq!(mount.status("logs_total"), made + 1);
    assert_eq!(sh("df --output=iavail \"$1\" | tail -1", mount.path()).trim(), "0");
}

#[test]
fn in_a_write_once_store_nothing_is_renamed_or_removed() {
    let image = Image::with(64 * MIB, |options| options.worm = true);
    let mount = Mount::new(&image);
    fs::create_dir(mount.path().join("d")).unwrap();
    append(&mount.path().join("d/log"), "for ever");
    for (from, to) in [("d/log", "log2"), ("d", "e"), ("log", "d/log")] {
        assert_eq!(errno(fs::rename(mount.path().join(from), mount.path().join(to))), libc::EPERM, "{from}");
    }
    assert_eq!(renameat2(&mount.log(), &mount.path().join("d/log"), libc::RENAME_EXCHANGE), Err(libc::EPERM));
    assert_eq!(errno(fs::remove_file(mount.log())), libc::EPERM);
    fs::create_dir(mount.path().join("empty")).unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path().join("empty"))), libc::EPERM);
    fs::set_permissions(mount.log(), Permissions::from_mode(0o600)).unwrap();
    let mount = remounted(&image, mount);
    assert_eq!(errno(fs::remove_file(mount.path().join("d/log"))), libc::EPERM);
    assert_eq!(fs::read(mount.path().join("d/log")).unwrap(), b"for ever");
}

#[test]
fn a_read_only_mount_changes_no_name() {
    let (image, mount) = mounted();
    mount.umount();
    let mount = Mount::with(&image, |spec| spec.read_only = true);
    let new = mount.path().join("new");
    assert_eq!(errno(File::create(&new)), libc::EROFS);
    assert_eq!(errno(fs::create_dir(&new)), libc::EROFS);
    assert_eq!(errno(fs::remove_file(mount.log())), libc::EROFS);
    assert_eq!(errno(fs::rename(mount.log(), new)), libc::EROFS);
}

#[test]
fn with_sync_a_name_is_durable_before_the_call_returns_and_fsync_of_a_directory_makes_it_so() {
    let (_image, mount) = mounted();
    let stable = || (mount.store.stable_lsn(), mount.store.stats().end_lsn);
    fs::create_dir(mount.path().join("d")).unwrap();
    append(&mount.path().join("d/log"), "");
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(mount.path().join("d")).unwrap();
    let changed = mount.store.resolve(b"d").unwrap().end_lsn;
    nix::unistd::fsync(&directory).unwrap();
    assert!(mount.store.stable_lsn() >= changed, "{changed:#x} {:#x?}", stable());
    // SAFETY: plain call on an open descriptor.
    assert_eq!(unsafe { libc::fdatasync(directory.as_raw_fd()) }, 0);

    let image = Image::new(64 * MIB);
    let mount = Mount::with(&image, |spec| spec.sync = true);
    fs::create_dir(mount.path().join("d")).unwrap();
    let root_is_stable = || {
        let changed = mount.store.node(llamafs::store::ROOT_ID).unwrap().end_lsn;
        assert!(mount.store.stable_lsn() >= changed);
    };
    root_is_stable();
    fs::rename(mount.path().join("d"), mount.path().join("e")).unwrap();
    root_is_stable();
    fs::remove_dir(mount.path().join("e")).unwrap();
    root_is_stable();
}
