//! What the end-to-end tests share: a store that is cleaned up whatever happens, writer processes, and records that
//! tell when one of them is lost, torn, doubled or out of order.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod busy;
pub mod chance;
pub mod follow;
pub mod uring;

/// Shortest record with a header.
pub const HEADER: usize = 24;
/// Largest record that is atomic.
pub const LARGEST: usize = 1 << 20;
/// A record of one byte, which no header begins with.
pub const SINGLE: u8 = 0xee;
const MAGIC: u32 = 0x6c6c_6d61;

/// The programs of this name hold every promise once more, with `-o parallel`.
pub const PARALLEL: bool = matches!(
    env!("CARGO_CRATE_NAME").as_bytes(),
    [b'f', b's', b'_', b'p', b'a', b'r', b'a', b'l', b'l', b'e', b'l', ..]
);

/// A store in a file or on a loop device over one, and its mountpoint.
pub struct Store {
    dir: tempfile::TempDir,
    pub device: PathBuf,
    pub mountpoint: PathBuf,
    looped: bool,
}

impl Store {
    pub fn make(bytes: u64, looped: bool) -> Store {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("store");
        Self::over(dir, image, bytes, looped)
    }

    /// A store in `image`, which is made; everything else lies in `dir`.
    pub fn over(dir: tempfile::TempDir, image: PathBuf, bytes: u64, looped: bool) -> Store {
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let mountpoint = dir.path().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let mut store = Store { dir, device: image.clone(), mountpoint, looped };
        if looped {
            let out = Command::new("losetup").args(["-f", "--show", "--direct-io=on"]).arg(&image).output().unwrap();
            assert!(out.status.success(), "a loop device is needed, run as root: {out:?}");
            store.device = String::from_utf8(out.stdout).unwrap().trim().into();
        }
        let out = llamafs(&["format", "--sparse", store.device.to_str().unwrap()]);
        assert!(out.status.success(), "{out:?}");
        store
    }

    pub fn log(&self) -> PathBuf {
        self.mountpoint.join("log")
    }

    pub fn mount_output(&self, options: &str) -> Output {
        let parallel = if PARALLEL { ",parallel" } else { "" };
        let uring = if uring::URING && uring::is_there() { ",uring" } else { "" };
        uring::allowed(|| self.plain_mount(&format!("{options}{parallel}{uring}")))
    }

    /// With these options and no others.
    pub fn plain_mount(&self, options: &str) -> Output {
        let options = format!("{options},log={}", self.daemon_log().display());
        llamafs(&["mount", "-o", &options, self.device.to_str().unwrap(), self.mountpoint.to_str().unwrap()])
    }

    pub fn mount(&self) {
        self.mount_with("rw");
    }

    pub fn mount_with(&self, options: &str) {
        let out = self.mount_output(options);
        assert!(out.status.success(), "{out:?}");
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn daemon_log(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    pub fn umount(&self) {
        busy::unmount(|| llamafs(&["umount", self.mountpoint.to_str().unwrap()]));
    }

    pub fn status(&self, key: &str) -> String {
        let text = std::fs::read_to_string(self.mountpoint.join(".llamafs/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {key} in {text}"))
    }

    pub fn pid(&self) -> i32 {
        self.status("pid").parse().unwrap()
    }

    pub fn kill(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(30);
        while alive(&pid) {
            assert!(Instant::now() < deadline, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// After kill -9: take the dead mount away.
    pub fn detach(&self) {
        assert!(Command::new("umount").arg("-l").arg(&self.mountpoint).status().unwrap().success());
    }

    pub fn check(&self) {
        let out = llamafs(&["check", self.device.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
    }

    /// `llamafs cat` of the unmounted device, as a stream.
    pub fn cat(&self) -> (Child, Box<dyn Read>) {
        let mut child = command(&["cat", self.device.to_str().unwrap(), "log"]).stdout(Stdio::piped()).spawn().unwrap();
        let out = Box::new(child.stdout.take().unwrap());
        (child, out)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let listed = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if listed.contains(self.mountpoint.to_str().unwrap()) {
            let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
            std::thread::sleep(Duration::from_millis(200));
        }
        if self.looped {
            let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        }
    }
}

/// Ends a daemon that leaves somebody waiting: kill -9 ends every call that waits, and so the test, which then fails.
pub struct Watchdog {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    pub fn start(store: &Store, limit: Duration) -> Watchdog {
        let (stop, stopped) = mpsc::channel();
        let pid = store.pid().to_string();
        let thread = std::thread::spawn(move || {
            let late = stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                eprintln!("hangs for {limit:?}: the daemon is ended");
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
            late
        });
        Watchdog { stop, thread }
    }

    /// All is done; fails if it was too late.
    pub fn stop(self) {
        drop(self.stop);
        assert!(!self.thread.join().unwrap(), "the daemon hung and was ended");
    }
}

/// The process is there, and not only as a zombie.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llamafs"));
    command.args(args);
    command
}

pub fn llamafs(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Record `number` of `writer`, `len` bytes long.
pub fn record(writer: u32, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![(writer * 7 + number) as u8; len];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&writer.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[HEADER..]);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    bytes[20..24].fill(0);
    bytes
}

/// A length from 24 B to 64 KiB, most of them small, and a few of 1 MiB.
pub fn length(writer: u32, number: u32) -> usize {
    let mut x = (u64::from(writer) << 32 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    match x % 1000 {
        0 => LARGEST,
        1..40 => HEADER + (x >> 20) as usize % ((64 << 10) - HEADER),
        _ => HEADER + (x >> 20) as usize % 2000,
    }
}

/// What a log holds.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Contents {
    /// Records of each writer: 0, 1, 2, ... without a gap.
    pub next: BTreeMap<u32, u32>,
    pub singles: u64,
    pub bytes: u64,
}

/// Walk a log to its very end; panics at the first byte that is not part of a whole record in its writer's order.
pub fn walk(mut log: impl Read) -> Contents {
    let mut contents = Contents::default();
    let mut pending = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let got = log.read(&mut piece).unwrap();
        pending.extend_from_slice(&piece[..got]);
        let mut at = 0;
        while at < pending.len() {
            if pending[at] == SINGLE {
                contents.singles += 1;
                at += 1;
                continue;
            }
            let rest = &pending[at..];
            if rest.len() < HEADER {
                break;
            }
            let word = |from: usize| u32::from_le_bytes(rest[from..from + 4].try_into().unwrap());
            let place = contents.bytes + at as u64;
            assert_eq!(word(0), MAGIC, "torn at {place}");
            let (writer, number, len) = (word(4), word(8), word(12) as usize);
            assert!((HEADER..=LARGEST).contains(&len), "torn at {place}");
            if rest.len() < len {
                break;
            }
            assert_eq!(rest[..len], record(writer, number, len), "torn at {place}");
            let next = contents.next.entry(writer).or_default();
            assert_eq!(number, *next, "writer {writer}: lost, doubled or out of order at {place}");
            *next += 1;
            at += len;
        }
        contents.bytes += at as u64;
        pending.drain(..at);
        if got == 0 {
            assert!(pending.is_empty(), "the last record is torn");
            return contents;
        }
    }
}

const JOB: &str = "LLAMAFS_TEST_WRITER";
/// Instead of a number of appends between two fsyncs: never sync, and note what `write` answered.
pub const NOTE_ANSWERED: u32 = u32::MAX;

/// Start a writer process: this test program again, with a job in its environment.
pub fn spawn_writer(log: &Path, writer: u32, appends: u32, sync_every: u32, synced: Option<&Path>) -> Child {
    let synced = synced.map_or("-".to_owned(), |path| path.display().to_string());
    let job = format!("{}\n{writer}\n{appends}\n{sync_every}\n{synced}", log.display());
    Command::new(std::env::current_exe().unwrap())
        .args(["writer_process", "--exact", "--quiet"])
        .env(JOB, job)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The writer's side. Does nothing in the parent.
pub fn writer_process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let fields: Vec<&str> = job.split('\n').collect();
    let number = |at: usize| fields[at].parse::<u32>().unwrap();
    let (writer, appends, sync_every) = (number(1), number(2), number(3));
    let mut log = OpenOptions::new().append(true).open(fields[0]).unwrap();
    let mut synced = (fields[4] != "-").then(|| OpenOptions::new().append(true).create(true).open(fields[4]).unwrap());
    for number in 0..appends {
        let bytes = record(writer, number, length(writer, number));
        // One write(2) each: write_all would hide a short one.
        if log.write(&bytes).ok() != Some(bytes.len()) {
            std::process::exit(1);
        }
        if number % 64 == 5 && log.write(&[SINGLE]).ok() != Some(1) {
            std::process::exit(1);
        }
        if sync_every > 0 && (sync_every == NOTE_ANSWERED || number % sync_every == 0) {
            if sync_every != NOTE_ANSWERED && nix::unistd::fdatasync(&log).is_err() {
                std::process::exit(1);
            }
            if let Some(synced) = &mut synced {
                let mut line = [0; 8];
                line[..4].copy_from_slice(&writer.to_le_bytes());
                line[4..].copy_from_slice(&(number + 1).to_le_bytes());
                synced.write_all(&line).unwrap();
            }
        }
    }
    assert!(log.as_raw_fd() >= 0);
    std::process::exit(0);
}
