//! Requests over io_uring: who gets them, and that more callers than there are places for at one time only wait. The usual
//! rules are in `fs_uring_rules`.
#![allow(clippy::duplicate_mod, reason = "both helpers make mounts")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;
mod support;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::{Image, Mount, eventually};
use support::{Store, uring};

const MIB: u64 = 1 << 20;

/// How a daemon that is mounted with these options while the kernel is set so gets its requests, or what it says.
fn transport(store: &Store, value: &str, options: &str) -> Result<String, String> {
    let mount = || store.plain_mount(options);
    let out = if uring::is_there() { uring::set(value, mount) } else { mount() };
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let transport = store.status("transport");
    store.umount();
    Ok(transport)
}

#[test]
fn requests_come_as_the_kernel_is_set_and_the_options_say() {
    let store = Store::make(16 * MIB, false);
    let by = |value: &str, options: &str| transport(&store, value, options);
    let (device, ring) = (Ok("/dev/fuse".to_owned()), Ok("io_uring".to_owned()));
    let refused = by("N", "uring").unwrap_err();
    assert!(refused.contains("enable_uring") && refused.trim().lines().count() == 1, "{refused}");
    assert_eq!((by("N", "rw"), by("N", "nouring")), (device.clone(), device.clone()));
    if uring::is_there() {
        assert_eq!((by("Y", "rw"), by("Y", "uring"), by("Y", "ro")), (ring.clone(), ring.clone(), ring));
        assert_eq!((by("Y", "nouring"), by("Y", "parallel")), (device.clone(), device));
    }
    let refused = by("Y", "uring,parallel").unwrap_err();
    assert!(refused.contains("choose one"), "{refused}");
}

#[test]
fn more_callers_than_places_only_wait() {
    const WRITERS: usize = 120;
    const EACH: usize = 20;
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    let write = |number: usize| {
        let mut file = std::fs::File::create_new(mount.path().join(format!("log-{number}"))).unwrap();
        for round in 0..EACH {
            writeln!(file, "{number} {round}").unwrap();
            file.sync_data().unwrap();
        }
    };
    std::thread::scope(|scope| (0..WRITERS).for_each(|number| drop(scope.spawn(move || write(number)))));
    for number in 0..WRITERS {
        let text = std::fs::read_to_string(mount.path().join(format!("log-{number}"))).unwrap();
        assert_eq!(text, (0..EACH).map(|round| format!("{number} {round}\n")).collect::<String>());
    }
}

#[test]
fn large_writes_of_many_come_whole_beside_their_readers() {
    const WRITERS: usize = 40;
    let image = Image::new(256 * MIB);
    let mount = Mount::new(&image);
    let write = |number: usize| {
        let path = mount.path().join(format!("log-{number}"));
        let record = vec![number as u8 + 1; MIB as usize];
        let mut file = std::fs::File::create_new(&path).unwrap();
        for _ in 0..3 {
            file.write_all(&record).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == record.repeat(3), "log {number}");
    };
    std::thread::scope(|scope| (0..WRITERS).for_each(|number| drop(scope.spawn(move || write(number)))));
}

#[test]
fn reads_here_and_there_give_what_was_written_while_others_commit() {
    const READERS: u64 = 6;
    const LOG: u64 = 48 * MIB;
    let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    let image = Image::new(256 * MIB);
    let mount = Mount::new(&image);
    let path = mount.path().join("data");
    let all: Vec<u8> = (0..LOG).map(byte).collect();
    let mut log = std::fs::File::create_new(&path).unwrap();
    // Most of it is no longer in the ring.
    let mut rest = &all[..];
    for len in [3000, 70_000, 200, 4096, 300_000].iter().cycle() {
        let record = &rest[..rest.len().min(*len)];
        log.write_all(record).unwrap();
        rest = &rest[record.len()..];
        if rest.is_empty() {
            break;
        }
    }
    let read = |reader: u64| {
        let (file, mut state) = (std::fs::File::open(&path).unwrap(), reader + 1);
        for _ in 0..400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (at, len) = ((state >> 20) % LOG, 1 + (state >> 8) % 9000);
            let len = len.min(LOG - at) as usize;
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes == all[at as usize..][..len], "{len} bytes at {at}");
        }
    };
    let commit = |number: u64| {
        let mut file = std::fs::File::create_new(mount.path().join(format!("beside-{number}"))).unwrap();
        for round in 0..300 {
            writeln!(file, "{round}").unwrap();
            file.sync_data().unwrap();
        }
    };
    std::thread::scope(|scope| {
        (0..READERS).for_each(|reader| drop(scope.spawn(move || read(reader))));
        (0..2).for_each(|number| drop(scope.spawn(move || commit(number))));
        scope.spawn(|| assert!(std::fs::read(&path).unwrap() == all));
    });
}

#[test]
fn the_daemon_lets_go_of_the_device_when_it_is_told_to_stop() {
    let image = Image::new(16 * MIB);
    for _ in 0..20 {
        let mount = Mount::new(&image);
        mount.append().write_all(b"record\n").unwrap();
        mount.stop.stop();
        let store = std::sync::Arc::downgrade(&mount.store);
        mount.join().unwrap();
        assert!(eventually(Duration::from_secs(5), || store.strong_count() == 0), "somebody still has it");
    }
}
