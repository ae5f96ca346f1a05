//! The device behind an io_uring: one file, registered, opened O_DIRECT.
//!
//! Any thread submits, under a mutex that is held for one io_uring_enter and never while somebody waits. The owner of
//! completions sleeps in the kernel without it. QuikIO keeps at most [`DEPTH`] requests here, the completion queue is
//! four times as long: it can't overflow.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};
use parking_lot::Mutex;

use super::buffer::SharedBuffer;
use super::device::{Completion, Device, Geometry, Request, SubmitError};

/// Requests with the device at one time.
const DEPTH: u32 = 256;
/// Entries of the completion queue: the requests, the wake-ups, and room to spare.
const COMPLETIONS: u32 = 4 * DEPTH;
/// Token of the NOP that ends a wait.
const WAKE: u64 = u64::MAX;
/// The registered file.
const FILE: Fixed = Fixed(0);
/// Longest sleep of the owner of completions, should a wake-up ever be refused by the kernel.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often the kernel is asked again when it has no memory for a request, a millisecond apart.
const MAX_BUSY: u32 = 10_000;

/// An O_DIRECT file or block device.
pub struct UringDevice {
    // Dropped first: the kernel lets go of the file and the buffers before they go.
    ring: IoUring,
    /// Held while the submission queue is filled and handed over.
    submission: Mutex<()>,
    /// Held by the owner of completions.
    completion: Mutex<()>,
    /// A wake-up is on its way.
    waking: AtomicBool,
    /// The errno with which io_uring_enter refused for good; 0: it did not. What then lies in the submission queue
    /// must never be handed over: its memory may be gone.
    broken: AtomicI32,
    registered: Mutex<Vec<SharedBuffer>>,
    file: File,
    path: PathBuf,
    geometry: Geometry,
}

impl UringDevice {
    /// Drive `file`, which is open with O_DIRECT. The error is a sentence.
    pub(super) fn new(file: File, path: &Path, geometry: Geometry) -> Result<UringDevice, String> {
        let ring = set_up().map_err(|error| explain_setup(&error))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|_| TOO_OLD.to_string())?;
        let needed = [
            opcode::Nop::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::Fsync::CODE,
        ];
        if !ring.params().is_feature_nodrop() || needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(TOO_OLD.to_string());
        }
        ring.submitter()
            .register_files(&[file.as_raw_fd()])
            .map_err(|error| format!("io_uring does not take the file: {error}"))?;
        Ok(UringDevice {
            ring,
            submission: Mutex::new(()),
            completion: Mutex::new(()),
            waking: AtomicBool::new(false),
            broken: AtomicI32::new(0),
            registered: Mutex::new(Vec::new()),
            file,
            path: path.to_owned(),
            geometry,
        })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hand entries over. `Err`: how many the kernel has, and the errno for the rest, which it will never get.
    ///
    /// # Safety
    /// As for [`Device::submit`].
    unsafe fn enter(&self, entries: &[squeue::Entry]) -> Result<(), SubmitError> {
        let _one_at_a_time = self.submission.lock();
        let mut taken = 0;
        for chunk in entries.chunks(DEPTH as usize) {
            let errno = self.broken.load(Ordering::Relaxed);
            if errno != 0 {
                return Err(SubmitError { taken, errno });
            }
            {
                // SAFETY: the mutex makes this the only view of the submission queue; it ends with this block.
                let mut queue = unsafe { self.ring.submission_shared() };
                // SAFETY: the caller keeps the memory of each entry until its completion is reaped.
                if unsafe { queue.push_multiple(chunk) }.is_err() {
                    // The queue is empty whenever the mutex is free, and no chunk is longer than the queue.
                    return Err(SubmitError { taken, errno: libc::EBUSY });
                }
            }
            taken += self.hand_over(chunk.len()).map_err(|(part, errno)| {
                self.broken.store(errno, Ordering::Relaxed);
                SubmitError { taken: taken + part, errno }
            })?;
        }
        Ok(())
    }

    /// io_uring_enter until the submission queue is empty.
    fn hand_over(&self, count: usize) -> Result<usize, (usize, i32)> {
        let mut taken = 0;
        let mut busy = 0;
        while taken < count {
            // SAFETY: plain submission of what was pushed; no argument is passed.
            let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>((count - taken) as u32, 0, 0, None) };
            match entered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
                Ok(part) if part > 0 => taken += part,
                Err(libc::EINTR) => {}
                // The kernel has no memory for a request just now.
                Ok(_) | Err(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) if busy < MAX_BUSY => {
                    busy += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(_) => return Err((taken, libc::EAGAIN)),
                Err(errno) => return Err((taken, errno)),
            }
        }
        Ok(taken)
    }

    /// Sleep until there is a completion.
    fn wait(&self) -> io::Result<()> {
        let submitter = self.ring.submitter();
        let patience = Timespec::from(LONGEST_WAIT);
        let entered = if self.ring.params().is_feature_ext_arg() {
            let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
            let args = SubmitArgs::new().timespec(&patience);
            // SAFETY: nothing is submitted; the argument lives until the call returns, and the flags say its kind.
            unsafe { submitter.enter(0, 1, flags, Some(&args)) }
        } else {
            // SAFETY: nothing is submitted and no argument is passed.
            unsafe { submitter.enter::<libc::sigset_t>(0, 1, EnterFlags::GETEVENTS.bits(), None) }
        };
        match entered {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Move what has completed to `out`; true if there was anything, a wake-up included.
    fn take(&self, out: &mut Vec<Completion>) -> bool {
        // SAFETY: `reap` holds the completion mutex: this is the only view of the completion queue.
        let queue = unsafe { self.ring.completion_shared() };
        let mut any = false;
        for entry in queue {
            any = true;
            if entry.user_data() == WAKE {
                // A swap, so that what the waker did before it found the flag set is seen from here on.
                self.waking.swap(false, Ordering::AcqRel);
                continue;
            }
            let result = u32::try_from(entry.result()).map_err(|_| entry.result().saturating_neg());
            out.push(Completion { token: entry.user_data(), result });
        }
        any
    }
}

/// A ring whose completions do not interrupt a thread that is busy with something else, if the kernel knows such (Linux
/// 5.19): the thread takes them when it next calls the kernel, and is woken if it sleeps there.
fn set_up() -> io::Result<IoUring> {
    match IoUring::builder().setup_cqsize(COMPLETIONS).setup_coop_taskrun().build(DEPTH) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(COMPLETIONS).build(DEPTH)
        }
        ring => ring,
    }
}

fn entry(request: &Request) -> squeue::Entry {
    match *request {
        Request::Write { token, offset, ptr, len, dsync, fixed } => {
            let flags = if dsync { libc::RWF_DSYNC } else { 0 };
            match fixed {
                Some(index) => {
                    opcode::WriteFixed::new(FILE, ptr, len, index).offset(offset).rw_flags(flags as _).build()
                }
                None => opcode::Write::new(FILE, ptr, len).offset(offset).rw_flags(flags as _).build(),
            }
            .user_data(token)
        }
        Request::Read { token, offset, ptr, len, fixed } => match fixed {
            Some(index) => opcode::ReadFixed::new(FILE, ptr, len, index).offset(offset).build(),
            None => opcode::Read::new(FILE, ptr, len).offset(offset).build(),
        }
        .user_data(token),
        Request::Flush { token } => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build().user_data(token),
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn capacity_now(&self) -> io::Result<u64> {
        let bytes = super::geometry::bytes_of(&self.file)?;
        Ok(bytes - bytes % u64::from(self.geometry.block))
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn depth(&self) -> usize {
        DEPTH as usize
    }

    fn register(&self, buffers: &[SharedBuffer]) -> io::Result<()> {
        let mut registered = self.registered.lock();
        if !registered.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let vectors: Vec<libc::iovec> = buffers
            .iter()
            .map(|buffer| libc::iovec { iov_base: buffer.as_ptr().cast(), iov_len: buffer.len() })
            .collect();
        // SAFETY: each vector is a whole live allocation, and `registered` keeps it until after the ring is dropped.
        unsafe { self.ring.submitter().register_buffers(&vectors)? };
        *registered = buffers.to_vec();
        Ok(())
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        let entries: Vec<squeue::Entry> = requests.iter().map(entry).collect();
        // SAFETY: promised by the caller.
        unsafe { self.enter(&entries) }
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        let _owner = self.completion.lock();
        if self.take(out) || !wait {
            return Ok(());
        }
        self.wait()?;
        self.take(out);
        Ok(())
    }

    fn wake(&self) {
        if self.waking.swap(true, Ordering::AcqRel) {
            return;
        }
        let nop = opcode::Nop::new().build().user_data(WAKE);
        // SAFETY: a NOP has no memory.
        if let Err(error) = unsafe { self.enter(&[nop]) } {
            self.waking.store(false, Ordering::Release);
            log::warn!("{}: can't wake the owner of completions: {error}", self.describe());
        }
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        // The kernel takes a ring down later, in its own time; until then it would hold the file, and with it the
        // lock: whoever opens the device next would find it busy.
        if let Err(error) = self.ring.submitter().unregister_files() {
            log::warn!("{}: io_uring does not let go of the file: {error}", self.describe());
        }
        // A request that has just completed may hold the file a moment longer; the lock need not last as long.
        // SAFETY: flock takes no memory.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl std::fmt::Debug for UringDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringDevice").field("path", &self.path).field("geometry", &self.geometry).finish()
    }
}

const TOO_OLD: &str = "this kernel's io_uring is too old; Linux 5.11 or newer is needed";

/// Why there is no ring, and what to do.
fn explain_setup(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring; Linux 5.11 or newer, built with CONFIG_IO_URING, is needed".into()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is disabled here; set `sysctl kernel.io_uring_disabled=0`, or allow io_uring in the container's \
             seccomp profile"
                .into()
        }
        Some(libc::ENOMEM) => "the limit of locked memory is too low for io_uring; raise `ulimit -l`".into(),
        Some(libc::EMFILE | libc::ENFILE) => "too many open files for io_uring; raise `ulimit -n`".into(),
        _ => format!("io_uring can't be set up: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_io_uring_is_explained() {
        let say = |errno| explain_setup(&io::Error::from_raw_os_error(errno));
        assert!(say(libc::ENOSYS).contains("has no io_uring"));
        assert!(say(libc::EPERM).contains("kernel.io_uring_disabled=0"));
        assert!(say(libc::ENOMEM).contains("ulimit -l"));
        assert!(!say(libc::EINVAL).contains('\n'));
    }
}
