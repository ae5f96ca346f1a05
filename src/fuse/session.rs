//! One mount from beginning to end: mount, serve, unmount, with every request that was taken answered.

use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{Config, INodeNo, Session, SessionACL};
use nix::unistd::{getegid, geteuid};
use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::mount::{self, Mounted, Unmounted};
use super::{MountError, cache, wire};
use crate::fs::{FsSettings, Limits, LlamaFs};
use crate::store::LogStructuredStore;

/// How long a request may take to be answered when the daemon is told to stop: a device that does not answer by
/// then is given up on.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long the session may take to notice that its mount is gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The buffer of a thread that serves requests: what `fuser` allocates, of which only what requests fill is touched.
const REQUEST_BUFFER_BYTES: usize = (16 << 20) + 4096;
/// A thread's stack, and what lies beside it.
const THREAD_BYTES: usize = (2 << 20) + (64 << 10);
/// The session's thread, the page cache's, that for what nobody waits for and its buffer, and room for another one.
const OTHER_THREADS: usize = 5;

/// What to mount, and how.
#[derive(Debug, Clone, Default)]
pub struct MountSpec {
    /// Where.
    pub mountpoint: PathBuf,
    /// What `mount` and `df` show as the source: the device's path.
    pub source: String,
    /// Other users than the mounter may use it, as the permission bits say.
    pub allow_other: bool,
    /// What nobody may exhaust.
    pub limits: Limits,
    /// Every append is durable before it is answered.
    pub sync: bool,
    /// Mount read-only.
    pub read_only: bool,
    /// No programs are run from it.
    pub noexec: bool,
    /// Each opener of a log appends by itself.
    pub parallel: bool,
    /// Requests come over io_uring; none: if the kernel is set to it and `parallel` is not wanted.
    pub uring: Option<bool>,
    /// Threads that serve requests; 0: one for each CPU.
    pub threads: usize,
    /// The mount options as given, for `status`.
    pub options: String,
}

/// Ends a session from another thread, such as one that waits for SIGTERM.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    ended: Option<Result<(), std::io::ErrorKind>>,
}

impl StopHandle {
    /// Not stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unmount, and let [`serve`] return. Returns at once; before [`serve`] mounts, it will not.
    pub fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Wait for the end of the session, or for a wish to stop if `stop` counts, or for the time. True: it has ended.
    fn wait(&self, stop: bool, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.ended.is_none() && !(stop && state.stop) {
            match until {
                None => self.changed.wait(&mut state),
                Some(until) if self.changed.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
            }
        }
        state.ended.is_some()
    }
}

/// Tells of the session's end, however its thread ends.
struct Ending {
    shared: Arc<Shared>,
    result: Result<(), std::io::ErrorKind>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.state.lock().ended = Some(self.result);
        self.shared.changed.notify_all();
    }
}

/// Mount the store, call `ready` once the kernel has been answered, serve until unmounted by anyone or stopped.
/// When it returns no request is being served; the caller closes the store then. A `StopHandle` is for one mount.
pub fn serve(
    store: Arc<LogStructuredStore>,
    spec: &MountSpec,
    ready: impl FnOnce(),
    stop: &StopHandle,
) -> Result<(), MountError> {
    let path = mount::check(&spec.mountpoint)?;
    // Where nothing is appended, the page cache is worth more.
    let parallel = spec.parallel && !spec.read_only;
    let uring = uring(spec.uring, parallel)?;
    let threads = threads(spec);
    check_memory(threads)?;
    let (fd, mounted) = mount::mount(&path, spec)?;
    let settings = FsSettings {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        sync: spec.sync,
        limits: spec.limits,
        cached_reads: spec.read_only,
        parallel,
        mountpoint: path.display().to_string(),
        options: spec.options.clone(),
        transport: "/dev/fuse",
    };
    // `fuser` asks for as many pages as the largest write has bytes for, and a `writev` of many pieces would come in parts.
    let pieces = !spec.read_only && mount::takes_many_pieces();
    let begun = if parallel || uring || pieces {
        by_ourselves(fd, store, settings, wire::Wish { locks: parallel, uring, pieces }, threads)
    } else {
        by_fuser(fd, store, settings, threads)
    };
    let fs = match begun.and_then(|(fs, session)| run(session, &stop.shared).map(|()| fs)) {
        Ok(fs) => fs,
        Err(error) => {
            mounted.detach_and_abort();
            return Err(MountError::Handshake(error));
        }
    };
    mounted.raise_read_ahead();
    ready();
    if !stop.shared.wait(true, None) {
        unmount(&fs, &mounted, &stop.shared);
    } else if matches!(stop.shared.state.lock().ended, Some(Err(_))) {
        // Nobody serves some callers or all of them any more: they are told.
        mounted.detach_and_abort();
    }
    // A lazy or forced unmount from outside may leave answers on their way.
    fs.shut_gate();
    if !fs.wait_answered(ANSWER_LIMIT) {
        log::error!("requests were not answered within {} s", ANSWER_LIMIT.as_secs());
    }
    match stop.shared.state.lock().ended {
        Some(Err(kind)) => Err(MountError::Session(kind.into())),
        _ => Ok(()),
    }
}

/// Threads that serve requests.
fn threads(spec: &MountSpec) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    if spec.threads == 0 { cpus } else { spec.threads }
}

/// The threads take what they need once the mount is there, and find no memory too late: so it is asked for before.
fn check_memory(threads: usize) -> Result<(), MountError> {
    let need = threads * (THREAD_BYTES + REQUEST_BUFFER_BYTES) + OTHER_THREADS * THREAD_BYTES;
    let had = crate::io::try_room(need);
    had.map(drop).ok_or(MountError::Memory(need.div_ceil(1 << 20)))
}

/// Serves until the mount is gone.
type Serving = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// Whether to ask the kernel for requests over io_uring.
fn uring(wanted: Option<bool>, parallel: bool) -> Result<bool, MountError> {
    match wanted {
        // Who waits for a lock would keep a place from who is to give it back.
        Some(true) if parallel => Err(MountError::UringParallel),
        Some(true) if !wire::uring_is_enabled() => Err(MountError::NoUring),
        Some(wanted) => Ok(wanted),
        None => Ok(!parallel && wire::uring_is_enabled()),
    }
}

/// Answer the kernel's greeting, by `fuser`.
fn by_fuser(
    fd: OwnedFd,
    store: Arc<LogStructuredStore>,
    settings: FsSettings,
    threads: usize,
) -> std::io::Result<(LlamaFs, Serving)> {
    let (page_cache, jobs) = cache::kernel_cache(usize::MAX);
    let fs = LlamaFs::new(store, settings, Box::new(page_cache));
    let mut config = Config::default();
    // The kernel itself keeps other users out unless `allow_other` is given.
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let session = Session::from_fd(Adapter::new(fs.clone()), fd, SessionACL::All, config)?;
    let notifier = session.notifier();
    jobs.start(move |ino, offset, len| {
        let [offset, len] = [offset, len].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        notifier.inval_inode(INodeNo(ino), offset, len)
    })?;
    Ok((fs, Box::new(|| session.run())))
}

/// Answer it by ourselves.
fn by_ourselves(
    fd: OwnedFd,
    store: Arc<LogStructuredStore>,
    settings: FsSettings,
    wish: wire::Wish,
    threads: usize,
) -> std::io::Result<(LlamaFs, Serving)> {
    let greeted = wire::Greeted::greet(fd, wish)?;
    let uring = greeted.by_uring();
    let transport = if uring { "io_uring" } else { settings.transport };
    let (page_cache, jobs) = cache::kernel_cache(if uring { wire::ENTRIES / 2 } else { usize::MAX });
    let fs = LlamaFs::new(store, FsSettings { transport, ..settings }, Box::new(page_cache));
    let device = greeted.device();
    jobs.start(move |ino, offset, len| wire::invalidate(&device, ino, offset, len))?;
    let session = wire::Session::start(&greeted, &fs, threads).inspect_err(|_| {
        // Some of its threads may serve already.
        fs.shut_gate();
        fs.wait_answered(ANSWER_LIMIT);
    })?;
    Ok((fs, Box::new(|| session.run())))
}

/// Start the threads that serve.
fn run(serving: Serving, shared: &Arc<Shared>) -> std::io::Result<()> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name("llamafs-session".into()).spawn(move || {
        let mut ending = Ending { shared, result: Err(std::io::ErrorKind::Other) };
        ending.result = match serving() {
            // The kernel ended the connection while a thread was taking a request from it: an end like any other.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => Ok(()),
            Err(error) => {
                log::error!("session: {error}");
                Err(error.kind())
            }
            Ok(()) => Ok(()),
        };
    });
    thread.map(drop)
}

/// Take the mount down: the plain way, and if files are open, by answering what was taken and cutting them off.
fn unmount(fs: &LlamaFs, mounted: &Mounted, shared: &Shared) {
    if mounted.unmount() == Unmounted::Done {
        if shared.wait(false, Some(Instant::now() + END_LIMIT)) {
            return;
        }
        log::warn!("the mount is still used by another mount namespace");
    } else {
        log::warn!("the mount is in use: its open files are cut off");
    }
    fs.shut_gate();
    fs.wait_answered(ANSWER_LIMIT);
    mounted.detach_and_abort();
    if !shared.wait(false, Some(Instant::now() + END_LIMIT)) {
        log::warn!("the session goes on until the last file is closed; it takes no more requests");
    }
}
