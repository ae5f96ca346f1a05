//! `llamafs umount`: returns when everything is on the device and the daemon is gone.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::failure::{Failure, Outcome, say};
use super::mounts::{self, Mount};
use super::process::Process;
use super::{device, status};

/// A wait longer than this is explained.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is said again.
const REMINDER: Duration = Duration::from_secs(30);

/// Unmounts a store; returns when everything is on the device and the daemon is gone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that a store is mounted on
    mountpoint: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    at(&args.mountpoint)
}

/// Unmounts what is mounted there.
pub fn at(point: &Path) -> Outcome {
    let name = point.display();
    let mount = mounts::llamafs_at(point)?;
    // Asked while it still can answer. A daemon that is dead already can't, and needs no waiting.
    let live = status::live(&mount.point).ok();
    let daemon = live.as_ref().and_then(|live| live.get("pid")?.as_i64()?.try_into().ok()).and_then(Process::hold);
    unmount(&mount.point)?;
    if let Some(daemon) = daemon {
        wait(&daemon, &mount);
        let state = live.as_ref().and_then(|live| live.get("state")?.as_str()).unwrap_or_default();
        return match state {
            "ro" => Ok(ExitCode::SUCCESS),
            "rw" => verify(&mount.source),
            // Writing stopped while it was mounted.
            stopped => Err(Failure::new(format!(
                "{name} is unmounted, but not everything is on the device ({stopped}): what was synced before is; \
                 mount it again when the cause is gone"
            ))),
        };
    }
    say(&format!(
        "warning: the daemon of {name} was gone already; `llamafs check {}` looks at the store",
        mount.source.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Takes the mount away; the daemon sees that and ends.
fn unmount(point: &Path) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return umount2(point, MntFlags::UMOUNT_NOFOLLOW).map_err(|error| refused(point, error));
    }
    let output = Command::new("fusermount3")
        .args(["-u", "--"])
        .arg(point)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("can't run fusermount3 ({error}): install fuse3, or be root")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("busy") {
        return Err(refused(point, Errno::EBUSY));
    }
    Err(Failure::new(format!("can't unmount {}: {said}", point.display())))
}

fn refused(point: &Path, error: Errno) -> Failure {
    let name = point.display();
    match error {
        Errno::EBUSY => {
            Failure::new(format!("{name} is busy: close the programs that use it (`fuser -vm {name}` lists them)"))
        }
        Errno::EPERM => Failure::new(format!("no permission to unmount {name}: be root or its owner")),
        other => Failure::new(format!("can't unmount {name}: {}", other.desc())),
    }
}

/// Waits without end: giving up would be saying that everything is on the device.
fn wait(daemon: &Process, mount: &Mount) {
    let mut limit = PATIENCE;
    while !daemon.wait(limit) {
        say(&format!(
            "waiting for the daemon (process {}) to write everything to {}",
            daemon.pid(),
            mount.source.display()
        ));
        limit = REMINDER;
    }
}

/// The daemon has ended; the store says whether it ended in order.
fn verify(device: &Path) -> Outcome {
    // Who may unmount may not be allowed to read the device, or somebody has mounted it again: both prove nothing.
    let Ok(device_open) = device::for_reading(device) else {
        return Ok(ExitCode::SUCCESS);
    };
    match crate::store::Image::open(device_open) {
        Ok(image) if !image.recovery().clean => Err(Failure::new(format!(
            "the daemon ended without closing {0}: see its log, and run `llamafs check {0}`",
            device.display()
        ))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
