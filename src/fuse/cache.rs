//! Dropping pages from the kernel's cache. The kernel waits in that call for reads that are in flight, so it is made
//! by a thread of its own that serves no request: in a worker it would deadlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

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
    /// Jobs that are not done.
    open: Arc<AtomicUsize>,
    most: usize,
}

/// The thread's end.
pub struct Jobs {
    jobs: Receiver<Job>,
    open: Arc<AtomicUsize>,
}

/// Both ends. No more than `most` requests wait for pages to be dropped: where the kernel sends so many and no more at one
/// time, one that it still keeps may be the read that holds the page. What comes on top is not waited for.
pub fn kernel_cache(most: usize) -> (KernelCache, Jobs) {
    let (jobs, receiver) = mpsc::channel();
    let open = Arc::new(AtomicUsize::new(0));
    (KernelCache { jobs, open: open.clone(), most }, Jobs { jobs: receiver, open })
}

impl PageCache for KernelCache {
    fn invalidate(&self, ino: u64, offset: u64, len: u64, then: Box<dyn FnOnce() + Send>) {
        let waited_for = self.open.fetch_add(1, Ordering::Relaxed) < self.most;
        let then = if waited_for {
            then
        } else {
            then();
            Box::new(|| {})
        };
        if let Err(unsent) = self.jobs.send(Job { ino, offset, len, then }) {
            // The session is over, and its cache with it.
            (unsent.0.then)();
        }
    }
}

impl Jobs {
    /// Serve until the file system is dropped: `drop_pages` tells the kernel of an inode, and which of its bytes.
    pub fn start(
        self,
        drop_pages: impl Fn(u64, u64, u64) -> std::io::Result<()> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("llamafs-cache".into()).spawn(move || {
            for job in self.jobs {
                if let Err(error) = drop_pages(job.ino, job.offset, job.len) {
                    log::debug!("pages of inode {:#x} were not dropped: {error}", job.ino);
                }
                self.open.fetch_sub(1, Ordering::Relaxed);
                (job.then)();
            }
        })
    }
}
