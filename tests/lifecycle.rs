//! A store's life: full, unmounted in the middle of things, told to end, idle.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use support::{Store, llamafs, spawn_writer, walk};

#[test]
fn writer_process() {
    support::writer_process();
}

fn df_percent(store: &Store) -> String {
    let out = Command::new("df").args(["--output=pcent"]).arg(&store.mountpoint).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().last().unwrap().trim().to_owned()
}

#[test]
fn a_full_device_says_so_at_once_and_keeps_what_it_took() {
    let store = Store::make(32 << 20, false);
    store.mount();
    let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
    let mut expected = Vec::new();
    let error = loop {
        let chunk: Vec<u8> = (0..50_000).map(|at| (expected.len() + at * 3) as u8).collect();
        match log.write(&chunk) {
            Ok(written) => {
                assert_eq!(written, chunk.len());
                expected.extend(chunk);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(df_percent(&store), "100%");
    assert!(expected.len() > 26 << 20, "{} bytes were taken", expected.len());
    log.sync_all().unwrap();
    assert_eq!(std::fs::read(store.log()).unwrap(), expected);
    drop(log);
    store.umount();
    store.check();
    store.mount();
    assert_eq!(std::fs::read(store.log()).unwrap(), expected);
    assert_eq!(df_percent(&store), "100%");
    store.umount();
}

#[test]
fn umount_and_sigterm_end_only_when_everything_accepted_is_on_the_device() {
    let store = Store::make(128 << 20, false);
    for (round, end) in ["umount", "-TERM"].into_iter().enumerate() {
        store.mount();
        let before = std::fs::metadata(store.log()).unwrap().len();
        let mut log = OpenOptions::new().append(true).open(store.log()).unwrap();
        let data = vec![b'a' + round as u8; 12_345];
        for _ in 0..500 {
            assert_eq!(log.write(&data).unwrap(), data.len());
        }
        drop(log);
        match end {
            "umount" => store.umount(),
            signal => store.kill(signal),
        }
        let out = llamafs(&["status", "--json", store.device.to_str().unwrap()]);
        assert!(String::from_utf8_lossy(&out.stdout).contains("\"clean\": true"), "{out:?}");
        let (mut child, mut out) = store.cat();
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(bytes.len() as u64, before + 500 * data.len() as u64);
        assert!(bytes[before as usize..].iter().all(|byte| *byte == data[0]));
    }
}

#[test]
fn sigterm_under_load_keeps_every_record_that_write_answered() {
    let store = Store::make(512 << 20, false);
    store.mount();
    let writers: Vec<_> = (0..4).map(|writer| spawn_writer(&store.log(), writer, u32::MAX, 0, None)).collect();
    std::thread::sleep(Duration::from_millis(400));
    store.kill("-TERM");
    for mut writer in writers {
        assert!(!writer.wait().unwrap().success());
    }
    store.check();
    let (mut child, out) = store.cat();
    let contents = walk(out);
    assert!(child.wait().unwrap().success());
    assert!(contents.next.len() == 4 && contents.bytes > 0);
}

/// Clock ticks of CPU that a process has used.
fn cpu(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Peak resident memory in KiB.
fn peak(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_idle_daemon_uses_no_cpu_and_its_memory_is_bounded() {
    let store = Store::make(1 << 30, false);
    store.mount();
    let pid = store.pid();
    let writers: Vec<_> = (0..8).map(|writer| spawn_writer(&store.log(), writer, 3000, 50, None)).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    walk(File::open(store.log()).unwrap());
    std::thread::sleep(Duration::from_secs(2));
    let before = cpu(pid);
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu(pid) - before;
    assert!(used <= 1, "{used} ticks of CPU while idle");
    // docs/operations.md states the bound: the ring, two request buffers, four reads, the caches.
    assert!(peak(pid) < 64 << 10, "{} KiB", peak(pid));
    store.umount();
}
