//! The device behind an io_uring: one file, registered, opened O_DIRECT; and the ways to it of single threads.
//!
//! QuikIO keeps at most [`DEPTH`] requests here, a completion queue is four times as long: it can't overflow.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_uring::{Probe, opcode};
use parking_lot::Mutex;

use super::buffer::SharedBuffer;
use super::device::{Completion, Device, Geometry, Lane, Request, SubmitError};
use super::request_ring::{DEPTH, RequestRing};

/// An O_DIRECT file or block device.
pub struct UringDevice {
    // Dropped first: the kernel lets go of the file and the buffers before they go.
    ring: RequestRing,
    registered: Mutex<Vec<SharedBuffer>>,
    file: File,
    /// What it lies on, whose bytes are locked.
    _below: Option<File>,
    path: PathBuf,
    geometry: Geometry,
}

impl UringDevice {
    /// Drive `file`, which is open with O_DIRECT. The error is a sentence.
    pub(super) fn new(file: File, below: Option<File>, path: &Path, geometry: Geometry) -> Result<UringDevice, String> {
        let ring = RequestRing::new().map_err(|error| explain_setup(&error))?;
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
        if !ring.parameters().is_feature_nodrop() || needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(TOO_OLD.to_string());
        }
        ring.register_file(&file).map_err(|error| format!("io_uring does not take the file: {error}"))?;
        Ok(UringDevice {
            ring,
            registered: Mutex::new(Vec::new()),
            file,
            _below: below,
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
        // SAFETY: promised by the caller.
        unsafe { self.ring.submit(requests.iter().copied()) }
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        self.ring.reap(out, wait)
    }

    fn wake(&self) {
        if let Err(error) = self.ring.wake() {
            log::warn!("{}: can't wake the owner of completions: {error}", self.describe());
        }
    }

    fn lane(&self) -> io::Result<Option<Arc<dyn Lane>>> {
        let ring = RequestRing::new()?;
        ring.register_file(&self.file)?;
        Ok(Some(Arc::new(UringLane { ring })))
    }
}

/// A ring of its own for one thread. It knows no registered buffers.
struct UringLane {
    ring: RequestRing,
}

impl Lane for UringLane {
    fn fd(&self) -> RawFd {
        self.ring.fd()
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        // SAFETY: promised by the caller.
        unsafe { self.ring.submit(requests.iter().map(Request::unregistered)) }
    }

    fn take(&self, out: &mut Vec<Completion>) -> io::Result<()> {
        self.ring.reap(out, false)
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
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
