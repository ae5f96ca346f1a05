//! The one device that all take turns on: a loop device over a file that is fully written, past the page cache.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use llamafs::io::{Buffer, FOUR_KB_BLOCK, ONE_MEGABYTE_BLOCK};

/// Size of the device.
pub const DEVICE_BYTES: u64 = 2 << 30;
const SECTOR: u64 = 512;

/// Set up while this lives.
pub struct LoopDevice {
    path: PathBuf,
}

/// What the block layer counted.
#[derive(Clone, Copy)]
pub struct Counters {
    pub written: u64,
    pub read: u64,
    pub writes: u64,
    pub flushes: u64,
}

/// Says in one sentence what is missing that nothing can be done without.
pub fn check_environment() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("this benchmark makes loop devices and mounts: run it as root".into());
    }
    if is_installed("losetup") { Ok(()) } else { Err("this benchmark needs losetup: install util-linux".into()) }
}

/// The program is there.
pub fn is_installed(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.any(|place: PathBuf| place.join(tool).is_file())
}

/// Runs a program to its end; its own words if it fails.
pub fn call(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{program} {}: {said}", arguments.join(" ")))
}

impl LoopDevice {
    /// Over `dir`/device.img, which is written in full if it is not there yet.
    pub fn new(dir: &Path) -> Result<Self, String> {
        let image = dir.join("device.img");
        let name = image.display().to_string();
        fill(&image).map_err(|error| format!("{name}: {error}"))?;
        // What an earlier run that was killed has left.
        for line in call("losetup", &["-j", &name])?.lines() {
            if let Some((old, _)) = line.split_once(':') {
                call("losetup", &["-d", old])?;
            }
        }
        let path = call("losetup", &["--direct-io=on", "--show", "-f", &name])?;
        let device = Self { path: path.into() };
        let direct = std::fs::read_to_string(device.sysfs("loop/dio")).unwrap_or_default();
        if direct.trim() != "1" {
            return Err(format!("{name}: no direct I/O here: set BENCH_DIR to a directory of a real file system"));
        }
        Ok(device)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the one before has left in the device's cache is not written at the next one's expense.
    pub fn settle(&self) -> Result<(), String> {
        let flushed = File::open(&self.path).and_then(|device| device.sync_all());
        flushed.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn sysfs(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.path.file_name().unwrap_or_default()).join(name)
    }

    pub fn counters(&self) -> Result<Counters, String> {
        let text = std::fs::read_to_string(self.sysfs("stat")).map_err(|error| format!("the loop device: {error}"))?;
        let field = |number: usize| {
            let word = text.split_whitespace().nth(number);
            word.and_then(|word| word.parse::<u64>().ok()).unwrap_or_default()
        };
        // Documentation/block/stat.rst of the kernel: reads, writes, discards, flushes.
        Ok(Counters { read: field(2) * SECTOR, writes: field(4), written: field(6) * SECTOR, flushes: field(15) })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = call("losetup", &["-d", &self.path.display().to_string()]) {
            eprintln!("{error}");
        }
    }
}

/// A file that is not sparse has no extents to convert while the clock runs.
fn fill(image: &Path) -> std::io::Result<()> {
    if let Ok(there) = image.metadata()
        && there.len() == DEVICE_BYTES
        && there.blocks() * SECTOR >= DEVICE_BYTES
        && image.with_extension("written").exists()
    {
        return Ok(());
    }
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(image)?;
    let zeros = Buffer::new_aligned(ONE_MEGABYTE_BLOCK, FOUR_KB_BLOCK).map_err(std::io::Error::other)?;
    for _ in 0..DEVICE_BYTES / ONE_MEGABYTE_BLOCK as u64 {
        file.write_all(zeros.as_slice())?;
    }
    file.sync_all()?;
    File::create(image.with_extension("written")).map(drop)
}

/// FUSE over io_uring is allowed while the benchmark runs, on kernels that have it, and then as before.
pub struct OverUring(String);

const ENABLE_URING: &str = "/sys/module/fuse/parameters/enable_uring";

impl OverUring {
    pub fn allow() -> Option<Self> {
        let before = std::fs::read_to_string(ENABLE_URING).ok()?;
        std::fs::write(ENABLE_URING, "Y").ok().map(|()| Self(before))
    }
}

impl Drop for OverUring {
    fn drop(&mut self) {
        let _ = std::fs::write(ENABLE_URING, self.0.trim());
    }
}

/// How requests reach llamafs.
pub fn transport() -> &'static str {
    let allowed = std::fs::read_to_string(ENABLE_URING).is_ok_and(|text| text.trim() == "Y");
    if allowed { "over io_uring (enable_uring), with -o parallel by /dev/fuse" } else { "by /dev/fuse" }
}
