//! Dropping pages from the kernel's cache. The kernel waits in that call for reads that are in flight, so it is made
//! by a thread of its own that serves no request: in a worker it would deadlock.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::fs::PageCache;

/// Pages to drop, and what to do then.
struct Job {
    ino: u64,
    offset: u64,
    len: u64,
    then: Box<dyn FnOnce() + Send>,
}

/// The file system's end.
pub struct KernelCache {
    jobs: Sender<Job>,
}

/// The thread's end.
pub struct Jobs(Receiver<Job>);

/// Both ends.
pub fn kernel_cache() -> (KernelCache, Jobs) {
    let (jobs, receiver) = mpsc::channel();
    (KernelCache { jobs }, Jobs(receiver))
}

impl PageCache for KernelCache {
    fn invalidate(&self, ino: u64, offset: u64, len: u64, then: Box<dyn FnOnce() + Send>) {
        if let Err(unsent) = self.jobs.send(Job { ino, offset, len, then }) {
            // The session is over, and its cache with it.
            (unsent.0.then)();
        }
    }
}

impl Jobs {
    /// Serve until the file system is dropped.
    pub fn start(self, notifier: Notifier) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("llamafs-cache".into()).spawn(move || {
            for job in self.0 {
                let offset = i64::try_from(job.offset).unwrap_or(i64::MAX);
                let len = i64::try_from(job.len).unwrap_or(i64::MAX);
                if let Err(error) = notifier.inval_inode(INodeNo(job.ino), offset, len) {
                    log::debug!("pages of inode {:#x} were not dropped: {error}", job.ino);
                }
                (job.then)();
            }
        })
    }
}
