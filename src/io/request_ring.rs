//! An io_uring with one registered file: requests go in from any thread, under a mutex that is held for one io_uring_enter and
//! never while somebody waits; completions are taken by one thread at a time, and who sleeps until there are some holds nothing.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Parameters, Submitter, opcode, squeue};
use parking_lot::Mutex;

use super::device::{Completion, Request, SubmitError};

/// Requests that it takes in one call.
pub const DEPTH: u32 = 256;
/// Entries of the completion queue: the requests, the wake-ups, and room to spare.
const COMPLETIONS: u32 = 4 * DEPTH;
/// Token of the NOP that ends a wait.
const WAKE: u64 = u64::MAX;
/// The registered file.
const FILE: Fixed = Fixed(0);
/// Longest sleep of who waits for completions, should a wake-up ever be refused by the kernel.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often the kernel is asked again when it has no memory for a request, a millisecond apart.
const MAX_BUSY: u32 = 10_000;

/// The ring.
pub struct RequestRing {
    ring: IoUring,
    /// Held while the submission queue is filled and handed over.
    submission: Mutex<()>,
    /// Held while completions are taken.
    completion: Mutex<()>,
    /// A wake-up is on its way.
    waking: AtomicBool,
    /// The errno with which io_uring_enter refused for good; 0: it did not. What then lies in the submission queue
    /// must never be handed over: its memory may be gone.
    broken: AtomicI32,
}

impl RequestRing {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let (submission, completion) = (Mutex::new(()), Mutex::new(()));
        let (waking, broken) = (AtomicBool::new(false), AtomicI32::new(0));
        Ok(Self { ring: set_up()?, submission, completion, waking, broken })
    }

    /// Tell the kernel once and for all which file the requests are about.
    pub fn register_file(&self, file: &File) -> io::Result<()> {
        self.ring.submitter().register_files(&[file.as_raw_fd()])
    }

    /// For what else is registered.
    pub fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// What this kernel's io_uring can do.
    pub fn parameters(&self) -> &Parameters {
        self.ring.params()
    }

    /// Its descriptor: readable when there are completions.
    pub fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Hand requests over.
    ///
    /// # Safety
    /// As for [`super::Device::submit`].
    pub unsafe fn submit(&self, requests: impl Iterator<Item = Request>) -> Result<(), SubmitError> {
        let entries: Vec<squeue::Entry> = requests.map(|request| entry(&request)).collect();
        // SAFETY: promised by the caller.
        unsafe { self.enter(&entries) }
    }

    /// Append completions to `out`; with `wait`, sleep until there is one, or [`Self::wake`] was called.
    pub fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        if self.take(out) || !wait {
            return Ok(());
        }
        self.wait()?;
        self.take(out);
        Ok(())
    }

    /// End the present or the next wait. The error is for the log.
    pub fn wake(&self) -> Result<(), SubmitError> {
        if self.waking.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let nop = opcode::Nop::new().build().user_data(WAKE);
        // SAFETY: a NOP has no memory.
        let woken = unsafe { self.enter(&[nop]) };
        if woken.is_err() {
            self.waking.store(false, Ordering::Release);
        }
        woken
    }

    /// Hand entries over. `Err`: how many the kernel has, and the errno for the rest, which it will never get.
    ///
    /// # Safety
    /// As for [`super::Device::submit`].
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
        let _alone = self.completion.lock();
        // SAFETY: the mutex makes this the only view of the completion queue; it ends with this function.
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

impl Drop for RequestRing {
    fn drop(&mut self) {
        // The kernel takes a ring down later, in its own time; until then it would hold the file, and with it the
        // lock: whoever opens the device next would find it busy.
        if let Err(error) = self.ring.submitter().unregister_files()
            && error.raw_os_error() != Some(libc::ENXIO)
        {
            log::warn!("io_uring does not let go of its file: {error}");
        }
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
        Request::Read { token, offset, ptr, len, fixed, .. } => match fixed {
            Some(index) => opcode::ReadFixed::new(FILE, ptr, len, index).offset(offset).build(),
            None => opcode::Read::new(FILE, ptr, len).offset(offset).build(),
        }
        .user_data(token),
        Request::Flush { token } => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build().user_data(token),
    }
}
