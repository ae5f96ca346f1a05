//! `llamafs bench`: what it tells, that it destroys nothing without being told to, and that it leaves nothing behind,
//! however it ends.
//!
//! It needs root and /dev/fuse, and fails where it lacks them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod program;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use program::{llamafs, refused};
use tempfile::TempDir;

/// Enough for every row to have a few megabytes.
const BYTES: u64 = 512 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A file for a device, a mountpoint, and a place for what the bench makes while it runs.
struct Place {
    directory: TempDir,
    device: PathBuf,
    point: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (device, point) = (directory.path().join("device"), directory.path().join("mnt"));
        File::create(&device).unwrap().set_len(BYTES).unwrap();
        fs::create_dir(&point).unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        Self { directory, device, point }
    }

    fn device(&self) -> &str {
        self.device.to_str().unwrap()
    }

    fn point(&self) -> &str {
        self.point.to_str().unwrap()
    }

    fn tmp(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    fn log(&self) -> String {
        format!("log={}", self.directory.path().join("daemon.log").display())
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llamafs"));
        command.arg("bench").args(["--seconds", "1"]).args(arguments).env("TMPDIR", self.tmp());
        command.output().unwrap()
    }

    fn mount(&self, format: &[&str]) {
        let format = llamafs(&[&["format", "--sparse"], format, &[self.device()]].concat());
        assert!(format.status.success(), "{format:?}");
        let mount = llamafs(&["mount", "-o", &self.log(), self.device(), self.point()]);
        assert!(mount.status.success(), "{mount:?}");
    }

    /// The first bytes of the device say nothing any more, and no mountpoint is left.
    fn assert_clean(&self) {
        let mut head = vec![0; 0x1_2000];
        File::open(&self.device).unwrap().read_exact_at(&mut head, 0).unwrap();
        assert!(head.iter().all(|byte| *byte == 0), "a store is left");
        assert_eq!(fs::read_dir(self.tmp()).unwrap().count(), 0);
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(self.tmp().to_str().unwrap()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = self.directory.path().to_str().unwrap();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.contains(below)) {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
    }
}

/// Names of what is in a directory, but for the control tree.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".llamafs")
        .collect();
    names.sort();
    names
}

fn rows(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{output:?}");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    all["rows"].as_array().unwrap().clone()
}

/// Every kind of work is there, with figures that can be.
fn assert_figures(rows: &[serde_json::Value], device: bool) {
    assert_eq!(rows.len(), 11);
    for row in rows {
        for who in ["llamafs", "device"].iter().take(1 + usize::from(device)) {
            let figure = |name: &str| row[who][name].as_f64().unwrap_or_else(|| panic!("no {name} of {who} in {row}"));
            assert!(figure("rate") > 0.0 && figure("count") >= 1.0 && figure("bytes_per_second") > 0.0, "{row}");
            assert!(figure("p50_us") <= figure("p99_us") && figure("p99_us") <= figure("p99_9_us"), "{row}");
        }
        assert_eq!(row["ratio"].is_null(), !device, "{row}");
    }
}

#[test]
fn a_device_is_measured_beside_itself_and_nothing_is_left_on_it() {
    let place = Place::new();
    assert_figures(&rows(&place.bench(&["--json", "-o", &place.log(), place.device()])), true);
    place.assert_clean();
    // So it can be done again, and with other options.
    let again = place.bench(&["-o", "parallel", "-o", &place.log(), place.device()]);
    let text = String::from_utf8(again.stdout.clone()).unwrap();
    assert!(again.status.success() && again.stderr.is_empty(), "{again:?}");
    assert!(text.contains("100 B durable, 8 writers, one log") && text.contains("1 MiB read"), "{text}");
    assert!(text.lines().next().unwrap().contains("ratio") && text.lines().count() == 12, "{text}");
    place.assert_clean();
}

#[test]
fn what_is_on_a_device_is_left_there_without_force() {
    let place = Place::new();
    let store = File::options().write(true).open(&place.device).unwrap();
    for (at, bytes, word) in
        [(1080, &b"\x53\xef"[..], "ext4"), (65536, b"LLAMAFS1", "llamafs store"), (9000, b"somebody's", "data")]
    {
        store.write_all_at(&[0; 0x1_2000], 0).unwrap();
        store.write_all_at(bytes, at).unwrap();
        let line = refused(&place.bench(&[place.device()]));
        assert!(line.contains(word) && line.contains("--force"), "{line}");
        let mut there = vec![0; bytes.len()];
        File::open(&place.device).unwrap().read_exact_at(&mut there, at).unwrap();
        assert_eq!(there, bytes);
    }
    // Nor with it, while somebody uses it.
    store.write_all_at(&[0; 0x1_2000], 0).unwrap();
    place.mount(&[]);
    let log = place.point.join("log");
    fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .and_then(|mut log| std::io::Write::write_all(&mut log, b"x"))
        .unwrap();
    let line = refused(&place.bench(&["--force", place.device()]));
    assert!(line.contains("busy"), "{line}");
    assert_eq!(fs::read(&log).unwrap(), b"x");
    assert!(llamafs(&["umount", place.point()]).status.success());
    assert_figures(&rows(&place.bench(&["--json", "--force", "-o", &place.log(), place.device()])), true);
    place.assert_clean();
}

#[test]
fn in_a_mounted_store_it_appends_to_logs_of_its_own() {
    let place = Place::new();
    place.mount(&[]);
    fs::write(place.point.join("mine"), b"kept\n").unwrap();
    fs::create_dir(place.point.join("sub")).unwrap();
    let sub = place.point.join("sub");
    let output = place.bench(&["--json", sub.to_str().unwrap()]);
    assert_figures(&rows(&output), false);
    assert_eq!((names(&place.point), names(&sub)), (vec!["log".into(), "mine".into(), "sub".into()], Vec::new()));
    assert_eq!(fs::read(place.point.join("mine")).unwrap(), b"kept\n");
    for bad in [&["--force"][..], &["-o", "sync"]] {
        assert!(refused(&place.bench(&[bad, &[place.point()]].concat())).contains("for a device"));
    }
    let log = place.point.join("log");
    assert!(refused(&place.bench(&[log.to_str().unwrap()])).contains("name a directory of it"));
    assert!(refused(&place.bench(&[place.point.join(".llamafs").to_str().unwrap()])).contains(".llamafs"));
    assert!(llamafs(&["umount", place.point()]).status.success());
    assert!(llamafs(&["check", place.device()]).status.success());
}

#[test]
fn where_it_cannot_work_it_says_so_in_one_line() {
    let place = Place::new();
    for (target, word) in [
        ("/nowhere/at/all", "does not exist"),
        ("/proc", "no mounted llamafs store"),
        (place.tmp().to_str().unwrap(), "no mounted llamafs store"),
        ("/dev/null", "neither"),
    ] {
        let line = refused(&place.bench(&[target]));
        assert!(line.contains(word) && line.contains(target), "{line}");
    }
    for arguments in [&["--seconds", "0"][..], &["--seconds", "x"], &["-o", "bogus"], &["-o", "ro"], &["--bogus"], &[]]
    {
        let target: &[&str] = if arguments.is_empty() { &[] } else { &[place.device()] };
        let output = llamafs(&[&["bench"], arguments, target].concat());
        refused(&output);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    File::options().write(true).open(&place.device).unwrap().set_len(16 << 20).unwrap();
    let device = File::options().write(true).open(&place.device).unwrap();
    device.write_all_at(b"somebody's", 9000).unwrap();
    let before = fs::read(&place.device).unwrap();
    assert!(refused(&place.bench(&["--force", place.device()])).contains("too little room"));
    assert!(fs::read(&place.device).unwrap() == before, "it was written to for nothing");
    device.write_all_at(&[0; 10], 9000).unwrap();
    File::options().write(true).open(&place.device).unwrap().set_len(BYTES).unwrap();
    place.mount(&["--worm"]);
    assert!(refused(&place.bench(&[place.point()])).contains("write-once"));
    assert_eq!(names(&place.point), ["log"]);
    assert!(llamafs(&["umount", place.point()]).status.success());
}

#[test]
fn a_signal_ends_it_and_what_it_made_is_gone() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_llamafs"));
    command.args(["bench", "--seconds", "60", "-o", &place.log(), place.device()]).env("TMPDIR", place.tmp());
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + LIMIT;
    // In the middle of its work: the device has a store on it.
    let magic = || {
        let mut magic = [0; 8];
        File::open(&place.device).unwrap().read_exact_at(&mut magic, 0).unwrap();
        magic == *b"LLAMAFS1"
    };
    while !magic() {
        assert!(Instant::now() < until, "the bench does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = bench.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = bench.wait_with_output().unwrap();
    assert!(refused(&output).contains("interrupted"));
    place.assert_clean();
}
