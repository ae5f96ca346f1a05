//! Who takes part, and how each is put on the device: formatted afresh, mounted, unmounted.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::device::call;
use super::nullfs::{NULLFS, URING};
use super::rows::{Kind, Row};

/// The program under test, built with this benchmark.
pub const LLAMAFS: &str = env!("CARGO_BIN_EXE_llamafs");
/// Longest wait for the do-nothing file system to be mounted.
const MOUNT_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// The mount option with which every write is durable.
pub const SYNC: &str = "sync";

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Contestant {
    Llamafs,
    Ext4,
    Xfs,
    /// The device through our own io_uring loop.
    Raw,
    /// The device through fio: our own loop may be a weak rival.
    Fio,
    /// Our own loop with one flush, at the end.
    RawUnflushed,
    /// fio without any flush.
    Unflushed,
    /// The do-nothing file system.
    Null,
    /// The same with requests over io_uring.
    NullUring,
}

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Llamafs => "llamafs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Raw => "raw io_uring",
            Self::Fio => "raw fio",
            Self::RawUnflushed => "raw io_uring, no flush",
            Self::Unflushed => "raw fio, no flush",
            Self::Null => "do-nothing FUSE",
            Self::NullUring => "do-nothing FUSE over io_uring",
        }
    }

    /// What it does not promise that llamafs does.
    pub fn weaker(self) -> &'static str {
        match self {
            Self::Llamafs => "",
            Self::Ext4 | Self::Xfs => {
                "an append that was not synced may be torn by a crash; bytes carry no checksum; what was written can be \
                 overwritten and truncated; a crash may leave any part of the unsynced bytes, not a prefix"
            }
            Self::Raw | Self::Fio => {
                "no files, no names, no lengths, no checksums: the writer must know where the end is"
            }
            Self::RawUnflushed | Self::Unflushed => {
                "the same, and nothing is flushed while the clock runs: a power failure may take all of it"
            }
            Self::Null => "keeps no byte at all; its requests come by /dev/fuse",
            Self::NullUring => "keeps no byte at all",
        }
    }

    /// A program that it needs for one row: to make a file take appends only, or to end as by a crash.
    pub fn tool_for(self, row: &Row) -> Option<&'static str> {
        match (self, row.kind) {
            (Self::Ext4 | Self::Xfs, Kind::Crash { .. }) => Some("xfs_io"),
            (Self::Ext4 | Self::Xfs, _) if row.append_only => Some("chattr"),
            _ => None,
        }
    }

    /// A program that it needs.
    pub fn tool(self) -> Option<&'static str> {
        match self {
            Self::Ext4 => Some("mkfs.ext4"),
            Self::Xfs => Some("mkfs.xfs"),
            Self::Fio | Self::Unflushed => Some("fio"),
            Self::Llamafs | Self::Raw | Self::RawUnflushed | Self::Null | Self::NullUring => None,
        }
    }
}

/// Mounted while this lives.
pub struct Mounted {
    who: Contestant,
    point: PathBuf,
    server: Option<Child>,
    done: bool,
    /// The options it runs with.
    pub options: String,
}

/// Makes a new, empty file system on the device. No discards: they would punch holes into the file below the device.
pub fn format(who: Contestant, device: &Path) -> Result<(), String> {
    let device = device.display().to_string();
    match who {
        Contestant::Llamafs => call(LLAMAFS, &["format", "--force", &device]).map(drop),
        Contestant::Ext4 => {
            // Nothing left to be written in the background.
            let how = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
            call("mkfs.ext4", &["-q", "-F", "-E", how, &device]).map(drop)
        }
        Contestant::Xfs => call("mkfs.xfs", &["-q", "-f", "-K", &device]).map(drop),
        Contestant::Raw
        | Contestant::RawUnflushed
        | Contestant::Fio
        | Contestant::Unflushed
        | Contestant::Null
        | Contestant::NullUring => Ok(()),
    }
}

impl Mounted {
    /// `options` are llamafs's own; when this build does not know them, it runs with its defaults and says so.
    pub fn new(who: Contestant, device: &Path, point: &Path, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(point).map_err(|error| format!("{}: {error}", point.display()))?;
        let mut mounted =
            Self { who, point: point.to_owned(), server: None, done: false, options: "defaults".to_owned() };
        let (source, target) = (device.display().to_string(), point.display().to_string());
        match who {
            Contestant::Llamafs => {
                let with = |options: &str| match options {
                    "" => call(LLAMAFS, &["mount", &source, &target]),
                    _ => call(LLAMAFS, &["mount", "-o", options, &source, &target]),
                };
                match with(options) {
                    Ok(_) if options.is_empty() => {}
                    Ok(_) => mounted.options = format!("-o {options}"),
                    Err(said) if said.contains("unknown mount option") => {
                        with("")?;
                        mounted.options = format!("defaults: this build has no -o {options}");
                    }
                    Err(said) => return Err(said),
                }
            }
            Contestant::Ext4 | Contestant::Xfs => {
                let kind = who.name();
                // What `-o sync` is to llamafs, this is to them.
                let flags = if options == SYNC { MsFlags::MS_SYNCHRONOUS } else { MsFlags::empty() };
                mount(Some(device), point, Some(kind), flags, None::<&str>)
                    .map_err(|error| format!("mount -t {kind} {source} {target}: {error}"))?;
            }
            Contestant::Null => mounted.server = Some(serve_nothing(point, None)?),
            Contestant::NullUring => mounted.server = Some(serve_nothing(point, Some(URING))?),
            Contestant::Raw | Contestant::RawUnflushed | Contestant::Fio | Contestant::Unflushed => mounted.done = true,
        }
        Ok(mounted)
    }

    /// The process that serves it, if it is not the kernel.
    pub fn daemon(&self) -> Option<u32> {
        match &self.server {
            Some(server) => Some(server.id()),
            None if self.who == Contestant::Llamafs => {
                let pid = self.status().ok()?.get("pid")?.as_u64()?;
                u32::try_from(pid).ok()
            }
            None => None,
        }
    }

    /// What llamafs says of itself.
    pub fn status(&self) -> Result<serde_json::Value, String> {
        let text = call(LLAMAFS, &["status", "--json", &self.point.display().to_string()])?;
        serde_json::from_str(&text).map_err(|error| format!("llamafs status: {error}"))
    }

    /// Ends it as a crash does: what was not on the device is lost.
    pub fn crash(mut self) -> Result<(), String> {
        let point = self.point.display().to_string();
        match self.daemon() {
            Some(daemon) => {
                call("kill", &["-9", &daemon.to_string()])?;
                // The loop device is free when the daemon is gone.
                let begun = Instant::now();
                while Path::new("/proc").join(daemon.to_string()).exists() && begun.elapsed() < MOUNT_LIMIT {
                    std::thread::sleep(PAUSE);
                }
            }
            // The kernel's own file systems stop at once, without their journals' last words.
            None => drop(call("xfs_io", &["-x", "-F", "-c", "shutdown", &point])?),
        }
        self.done = true;
        umount2(&self.point, MntFlags::MNT_DETACH).map_err(|error| format!("umount {point}: {error}"))
    }

    pub fn unmount(mut self) -> Result<(), String> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(());
        }
        let point = self.point.display().to_string();
        match self.who {
            Contestant::Llamafs => call(LLAMAFS, &["umount", &point]).map(drop)?,
            _ => umount2(&self.point, MntFlags::empty()).map_err(|error| format!("umount {point}: {error}"))?,
        }
        if let Some(server) = &mut self.server {
            server.wait().map_err(|error| format!("the do-nothing file system: {error}"))?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("{error}");
            // Nothing of ours stays behind, whatever still uses it.
            let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        }
    }
}

fn serve_nothing(point: &Path, how: Option<&str>) -> Result<Child, String> {
    let say = |error: std::io::Error| format!("the do-nothing file system: {error}");
    let exe = std::env::current_exe().map_err(say)?;
    let mut server = Command::new(exe).arg(NULLFS).arg(point).args(how).stdin(Stdio::null()).spawn().map_err(say)?;
    let begun = Instant::now();
    while !is_mounted(point) {
        let ended = server.try_wait().map_err(say)?.is_some();
        if ended || begun.elapsed() > MOUNT_LIMIT {
            let _ = server.kill();
            let _ = server.wait();
            return Err("the do-nothing file system was not mounted".into());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(server)
}

/// A mountpoint's device is another than its parent's.
fn is_mounted(point: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().map(|there| there.dev()).ok();
    let parent = point.parent().and_then(device);
    device(point).is_some_and(|own| Some(own) != parent)
}
