//! The life of a mount: errors, unmounting, stopping, the ordinary user's mount.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use llamafs::fuse::{MountError, MountSpec, StopHandle, serve};

const MIB: u64 = 1 << 20;

fn refused(mount: &Mount, mountpoint: &Path) -> MountError {
    let spec = MountSpec { mountpoint: mountpoint.into(), source: "x".into(), ..MountSpec::default() };
    serve(mount.store.clone(), &spec, || panic!("mounted"), &StopHandle::new()).unwrap_err()
}

#[test]
fn bad_mountpoints_are_refused_with_one_sentence() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let file = tempfile::NamedTempFile::new().unwrap();
    let cases = [
        (refused(&mount, Path::new("/no/such/directory")), "does not exist"),
        (refused(&mount, file.path()), "not a directory"),
        (refused(&mount, mount.path()), "already shows the store on"),
    ];
    for (error, text) in cases {
        let message = error.to_string();
        assert!(message.contains(text) && !message.contains('\n'), "{message}");
    }
    assert_eq!(mount.read(), b"", "the mount there is unharmed");
}

#[test]
fn the_mount_table_shows_source_and_type() {
    let image = Image::new(16 * MIB);
    let mount = Mount::with(&image, |spec| spec.source = "/odd,na me\\x".into());
    let line = sh("findmnt -n -o FSTYPE,SOURCE,OPTIONS \"$1\"", mount.path());
    assert!(line.starts_with("fuse.llamafs") && line.contains("/odd,na"), "{line}");
    for option in ["nosuid", "nodev", "default_permissions", "allow_other"] {
        assert!(line.contains(option), "{line}");
    }
}

#[test]
fn readahead_is_raised() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let device = sh("findmnt -n -o MAJ:MIN \"$1\"", mount.path());
    let path = format!("/sys/class/bdi/{}/read_ahead_kb", device.trim());
    assert!(eventually(Duration::from_secs(2), || fs::read_to_string(&path).unwrap().trim() == "1024"));
}

#[test]
fn umount_from_outside_ends_the_session() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    mount.append().write_all(b"kept").unwrap();
    mount.umount();
    let mount = Mount::new(&image);
    assert_eq!(mount.read(), b"kept");
    mount.umount();
}

#[test]
fn stop_unmounts_a_mount_that_nobody_uses() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let place = mount.path().to_path_buf();
    mount.stop.stop();
    mount.join().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place.to_str().unwrap()));
}

#[test]
fn stop_in_the_middle_of_appends_answers_what_was_taken() {
    let image = Image::new(256 * MIB);
    let mount = Mount::new(&image);
    let mut writers = Vec::new();
    for _ in 0..4 {
        let mut file = mount.append_with(libc::O_DSYNC);
        writers.push(std::thread::spawn(move || {
            let mut taken = 0u64;
            loop {
                match file.write(b"0123456789abcdef\n") {
                    Ok(n) => taken += n as u64,
                    Err(error) => return (taken, error.raw_os_error().unwrap()),
                }
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    mount.stop.stop();
    mount.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let mut answered = 0;
    for writer in writers {
        let (taken, errno) = writer.join().unwrap();
        assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::ESHUTDOWN, libc::EIO].contains(&errno), "{errno}");
        answered += taken;
    }
    let mount = Mount::new(&image);
    let log = mount.read();
    assert!(answered > 0 && log.len() as u64 >= answered, "{} of {answered}", log.len());
    assert!(log.chunks(17).all(|record| record == b"0123456789abcdef\n"));
}

#[test]
fn stop_before_the_mount_unmounts_at_once() {
    let image = Image::new(16 * MIB);
    let first = Mount::new(&image);
    let (dir, stop) = (mountpoint(), StopHandle::new());
    let spec = MountSpec { mountpoint: dir.path().into(), source: "x".into(), ..MountSpec::default() };
    stop.stop();
    serve(first.store.clone(), &spec, || {}, &stop).unwrap();
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_lazy_unmount_ends_with_the_last_open_file() {
    let image = Image::new(16 * MIB);
    let mount = Mount::new(&image);
    let mut file = mount.append();
    sh("umount -l \"$1\"", mount.path());
    file.write_all(b"still served").unwrap();
    drop(file);
    mount.join().unwrap();
    let mount = Mount::new(&image);
    assert_eq!(mount.read(), b"still served");
}

#[test]
fn without_allow_other_nobody_else_gets_in() {
    let image = Image::new(16 * MIB);
    let mount = Mount::with(&image, |spec| spec.allow_other = false);
    let refused = as_nobody("ls \"$1\"", mount.path());
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("ermission denied"));
    File::open(mount.log()).unwrap();
}
