//! What the tests over a real mount share: an image, a mount of it in this process, and other users' processes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]
#![allow(dead_code, clippy::undocumented_unsafe_blocks)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llamafs::fuse::{MountError, MountSpec, StopHandle, serve};
use llamafs::store::{FormatOptions, LogStructuredStore};
use tempfile::TempDir;

/// Nobody, as a user and as a group.
pub const NOBODY: u32 = 65534;

/// The programs of this name hold every promise once more, with `-o parallel`.
pub const PARALLEL: bool = matches!(
    env!("CARGO_CRATE_NAME").as_bytes(),
    [b'f', b's', b'_', b'p', b'a', b'r', b'a', b'l', b'l', b'e', b'l', ..]
);

#[path = "../support/busy.rs"]
mod busy;
#[path = "../support/uring.rs"]
pub mod uring;

/// A store in a file, on a file system with O_DIRECT: `LLAMAFS_TEST_DIR`, or the build directory.
pub struct Image {
    dir: TempDir,
}

impl Image {
    pub fn new(bytes: u64) -> Self {
        Self::with(bytes, |_| {})
    }

    /// With other settings than the usual ones.
    pub fn with(bytes: u64, change: impl FnOnce(&mut FormatOptions)) -> Self {
        let base =
            std::env::var_os("LLAMAFS_TEST_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
        let dir = tempfile::Builder::new().prefix("image").tempdir_in(base).unwrap();
        let image = Self { dir };
        backend::format(&image.path(), bytes, change);
        image
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store.img")
    }
}

/// A mount served by threads of this process.
pub struct Mount {
    dir: TempDir,
    pub stop: StopHandle,
    pub store: Arc<LogStructuredStore>,
    thread: Option<JoinHandle<Result<(), MountError>>>,
}

/// No mount takes longer, whatever else the machine does.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

impl Mount {
    pub fn new(image: &Image) -> Self {
        Self::with(image, |_| {})
    }

    pub fn with(image: &Image, change: impl FnOnce(&mut MountSpec)) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        // Not in the build directory: other users must be able to reach it.
        let dir = mountpoint();
        let mut spec = MountSpec {
            mountpoint: dir.path().into(),
            source: image.path().display().to_string(),
            allow_other: nix::unistd::geteuid().is_root(),
            parallel: PARALLEL,
            uring: (uring::URING && uring::is_there()).then_some(true),
            ..MountSpec::default()
        };
        change(&mut spec);
        let store = backend::open(&image.path(), spec.read_only);
        let stop = StopHandle::new();
        let thread = uring::allowed(|| {
            let (sender, ready) = mpsc::channel();
            let thread = std::thread::spawn({
                let (store, stop) = (store.clone(), stop.clone());
                move || serve(store, &spec, || sender.send(()).unwrap(), &stop)
            });
            if ready.recv_timeout(MOUNT_LIMIT).is_err() {
                // Should it be mounted by now, it must not serve for ever.
                stop.stop();
                let said = if thread.is_finished() { Some(thread.join()) } else { None };
                panic!("not mounted in {MOUNT_LIMIT:?}: {said:?}");
            }
            thread
        });
        Self { dir, stop, store, thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    pub fn control(&self, name: &str) -> PathBuf {
        self.path().join(".llamafs").join(name)
    }

    /// A descriptor that appends.
    pub fn append(&self) -> File {
        OpenOptions::new().append(true).open(self.log()).unwrap()
    }

    pub fn append_with(&self, flags: i32) -> File {
        OpenOptions::new().append(true).custom_flags(flags).open(self.log()).unwrap()
    }

    pub fn read(&self) -> Vec<u8> {
        std::fs::read(self.log()).unwrap()
    }

    /// A figure of `status`.
    pub fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(self.control("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
        line.unwrap_or_else(|| panic!("no {key} in {text}")).parse().unwrap()
    }

    /// Wait for the end that somebody else has brought about, and close the store.
    pub fn join(mut self) -> Result<(), MountError> {
        let result = self.thread.take().unwrap().join().unwrap();
        self.store.close().unwrap();
        result
    }

    /// umount(8), then wait for the daemon's end.
    pub fn umount(self) {
        let root = nix::unistd::geteuid().is_root();
        let (program, arguments) = if root { ("umount", &[][..]) } else { ("fusermount3", &["-u"][..]) };
        busy::unmount(|| Command::new(program).args(arguments).arg(self.path()).output().unwrap());
        self.join().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.stop();
            let _ = thread.join();
            let _ = self.store.close();
        }
    }
}

/// A directory that everyone can reach.
pub fn mountpoint() -> TempDir {
    let dir = tempfile::Builder::new().prefix("llamafs-test").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Run a shell command with `$1` as its argument, as nobody. Needs root.
pub fn as_nobody(script: &str, argument: &Path) -> Output {
    let id = NOBODY.to_string();
    Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c", script, "sh"])
        .arg(argument)
        .current_dir("/")
        .output()
        .unwrap()
}

/// Run a shell command with `$1` as its argument; its output.
pub fn sh(script: &str, argument: &Path) -> String {
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(argument).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The errno of a failed call.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Take O_APPEND off a descriptor, or put it back.
pub fn set_append(file: &File, on: bool) {
    let fd = file.as_raw_fd();
    // SAFETY: plain fcntl on a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let flags = if on { flags | libc::O_APPEND } else { flags & !libc::O_APPEND };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
}

/// pwritev2 with flags.
pub fn pwritev2(file: &File, data: &[u8], offset: i64, flags: i32) -> std::io::Result<usize> {
    let iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: one vector of readable bytes that outlive the call.
    let n = unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, offset, flags) };
    usize::try_from(n).map_err(|_| std::io::Error::last_os_error())
}

/// Wait until it holds, at most `limit`.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    holds()
}

mod backend {
    use llamafs::io::{Access, open as open_device};
    use llamafs::store::StoreOptions;

    use super::*;

    pub fn format(path: &Path, bytes: u64, change: impl FnOnce(&mut FormatOptions)) {
        File::create(path).unwrap().set_len(bytes).unwrap();
        let mut options = FormatOptions { mode: 0o644, ..FormatOptions::default() };
        change(&mut options);
        let device = Arc::new(open_device(path, Access::ReadWrite).unwrap());
        LogStructuredStore::format(device, &options, &mut |_, _| {}).unwrap();
    }

    pub fn open(path: &Path, read_only: bool) -> Arc<LogStructuredStore> {
        let access = if read_only { Access::ReadOnlyShared } else { Access::ReadWrite };
        let options = StoreOptions { read_only, ..StoreOptions::default() };
        let store = LogStructuredStore::open(Arc::new(open_device(path, access).unwrap()), options).unwrap();
        store.start();
        store
    }
}
