//! The daemon: opens the store, mounts it, serves it until it is unmounted or told to stop, and closes it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::fuse::{self, MountSpec, StopHandle};
use crate::store::LogStructuredStore;

use super::failure::{Context, Failure, Outcome, say};
use super::options::MountOptions;
use super::{device, format, logging, mounts};

/// What the daemon is to serve, and how.
#[derive(Debug)]
pub struct What<'a> {
    /// Block device or file.
    pub device: &'a Path,
    /// Directory.
    pub mountpoint: &'a Path,
    /// Make the file with this size if it is not there.
    pub create: Option<u64>,
    /// `-o`.
    pub options: &'a MountOptions,
    /// stderr is given up once mounted: log elsewhere.
    pub background: bool,
}

/// Serves until the unmount. `mounted` is called once, when the mount is in place.
pub fn run(what: What<'_>, mounted: &mut dyn FnMut() -> Result<(), Failure>) -> Outcome {
    crate::io::give_large_allocations_back();
    if !crate::io::keep_reserve() {
        return Err(Failure::new("out of memory: not even a few megabytes are left; raise `ulimit -v`"));
    }
    let mountpoint = check_mountpoint(what.mountpoint)?;
    if let Some(log) = &what.options.log {
        refuse_store_as_log(log, what.device)?;
    }
    // From here on a signal ends the daemon in order, also in the middle of the opening.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("can't take signals")?;
    // The last to go: what is said until then is written.
    let _log = if what.background {
        let log = what.options.log.as_deref().map(std::path::absolute).transpose().context("log file")?;
        logging::in_background(log.as_deref())?
    } else {
        logging::to_stderr()?
    };
    if let Some(bytes) = what.create {
        create(what.device, bytes)?;
    }
    let path = what.device.canonicalize().unwrap_or_else(|_| what.device.to_path_buf());
    let store = open_store(&path, what.options)?;
    let stop = StopHandle::new();
    let stopper = stop.clone();
    let listener = signals.handle();
    let watch = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                log::info!("{}: stopping", signal_name(signal));
                stopper.stop();
            }
        })
        .context("can't start a thread")?;
    let mut told = Ok(());
    let ready = || {
        log::info!("{} is mounted on {}", path.display(), mountpoint.display());
        // The daemon must not keep the directory busy that it was started in.
        let _ = std::env::set_current_dir("/");
        told = mounted();
        if told.is_err() {
            stop.stop();
        }
    };
    let served = fuse::serve(Arc::clone(&store), &spec(&path, &mountpoint, what.options), ready, &stop);
    listener.close();
    let _ = watch.join();
    let closed = store.close();
    if let Err(error) = served {
        log::error!("{}: {error}", path.display());
        told = told.and(Err(Failure::new(error.to_string())));
    }
    closed.map_err(|error| {
        log::error!("{}: not everything is on the device: {error}", path.display());
        Failure::new(format!("{}: not everything is on the device: {error}; run `llamafs check {0}`", path.display()))
    })?;
    told?;
    log::info!("{} is unmounted, everything is on the device", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Every wrong mountpoint is told before the device is touched.
fn check_mountpoint(path: &Path) -> Result<PathBuf, Failure> {
    let name = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTCONN) => Failure::new(format!(
            "mountpoint {name} still holds a mount whose daemon is gone: run `llamafs umount {name}` first"
        )),
        Some(libc::ENOENT) => Failure::new(format!("mountpoint {name} does not exist: make it with `mkdir {name}`")),
        _ => Failure::new(format!("mountpoint {name}: {error}")),
    })?;
    if !metadata.is_dir() {
        return Err(Failure::new(format!("mountpoint {name} is not a directory: name one")));
    }
    if let Some(mount) = mounts::at(path) {
        return Err(Failure::new(format!(
            "mountpoint {name} is busy: {} ({}) is mounted there; unmount it or choose another directory",
            mount.source.display(),
            mount.fs_type
        )));
    }
    let euid = nix::unistd::geteuid();
    if !euid.is_root() && metadata.uid() != euid.as_raw() {
        return Err(Failure::new(format!(
            "no permission to mount on {name}: choose a directory of your own, or be root"
        )));
    }
    path.canonicalize().context(format_args!("mountpoint {name}"))
}

/// Lines of the log would make the store's file longer, and be written over.
fn refuse_store_as_log(log: &Path, device: &Path) -> Result<(), Failure> {
    let same_file = match (std::fs::metadata(log), std::fs::metadata(device)) {
        (Ok(log), Ok(device)) => (log.dev(), log.ino()) == (device.dev(), device.ino()),
        // With `--create` neither may be there yet.
        _ => std::path::absolute(log).ok() == std::path::absolute(device).ok(),
    };
    if same_file {
        let name = log.display();
        return Err(Failure::usage(format!("mount option `log={name}` names the store itself: name another file")));
    }
    Ok(())
}

/// `--create`: a file that is there already is mounted as it is.
fn create(path: &Path, bytes: u64) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format::create(path, bytes),
        Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
    }
}

/// Opens and starts the store, and says what its recovery had to decide.
fn open_store(path: &Path, options: &MountOptions) -> Result<Arc<LogStructuredStore>, Failure> {
    let device = if options.store.read_only { device::for_reading(path)? } else { device::for_writing(path)? };
    let store = LogStructuredStore::open(device, options.store.clone());
    let store = store.map_err(|error| Failure::new(error.to_string()))?;
    store.start();
    let recovery = store.stats().recovery;
    if !recovery.clean {
        log::warn!(
            "{}: was not unmounted cleanly: {} frames read from lsn {:#x} to {:#x} in {} ms, {} bytes of tail cut",
            path.display(),
            recovery.frames,
            recovery.from_lsn,
            recovery.end_lsn,
            recovery.millis,
            recovery.cut_bytes
        );
    }
    for note in recovery.notes.iter().cloned().chain(recovery.damage.iter().map(ToString::to_string)) {
        // For whoever types `mount`; the same is in the log and in `status`.
        say(&format!("warning: {}: {note}", path.display()));
        log::warn!("{}: {note}", path.display());
    }
    for remark in &recovery.remarks {
        log::info!("{}: {remark}", path.display());
    }
    Ok(store)
}

/// The mount that the transport is asked for.
fn spec(device: &Path, mountpoint: &Path, options: &MountOptions) -> MountSpec {
    MountSpec {
        mountpoint: mountpoint.to_path_buf(),
        source: device.display().to_string(),
        allow_other: options.allow_other || nix::unistd::geteuid().is_root(),
        sync: options.sync,
        limits: options.limits,
        read_only: options.store.read_only,
        noexec: options.noexec,
        parallel: options.parallel,
        uring: options.uring,
        threads: 0,
        options: options.text.clone(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "SIGHUP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_mountpoint_is_told_with_what_to_do() {
        let text = |path: &str| check_mountpoint(Path::new(path)).unwrap_err().text();
        assert!(text("/nowhere/at/all").contains("mkdir"));
        assert!(text("/proc").contains("is busy"));
        assert!(text("/dev/null").contains("not a directory"));
    }
}
