//! A simulated disk that catches the store where it goes beyond what it may: outside the device, writing where it
//! only looks, or without end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use llamafs::io::{Completion, Device, Geometry, Request, SharedBuffer, SimDevice, SubmitError};

/// Bytes that one input may move: a few times the largest image. More means a loop.
const MOST_BYTES: u64 = 1 << 30;
/// Requests that one input may make.
const MOST_REQUESTS: u64 = 1 << 17;

pub struct Guard {
    pub sim: Arc<SimDevice>,
    may_write: AtomicBool,
    writes: AtomicU64,
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Guard {
    pub fn new(sim: SimDevice, may_write: bool) -> Arc<Guard> {
        let sim = Arc::new(sim);
        let may_write = AtomicBool::new(may_write);
        let [writes, bytes, requests] = [const { AtomicU64::new(0) }; 3];
        Arc::new(Guard { sim, may_write, writes, bytes, requests })
    }

    /// Writes and flushes so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn look(&self, request: &Request) {
        let (offset, len, write) = match *request {
            Request::Write { offset, len, .. } => (offset, len, true),
            Request::Read { offset, len, .. } => (offset, len, false),
            // A flush changes nothing.
            Request::Flush { .. } => (0, 0, false),
        };
        let geometry = self.sim.geometry();
        let end = offset.checked_add(u64::from(len)).expect("a request past the end of all numbers");
        assert!(end <= geometry.capacity, "{offset}+{len} is outside the device of {} bytes", geometry.capacity);
        assert!(offset.is_multiple_of(u64::from(geometry.block)) && len.is_multiple_of(geometry.block));
        if write {
            assert!(self.may_write.load(Ordering::Relaxed), "a write of {len} bytes at {offset} by one who only looks");
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        let bytes = self.bytes.fetch_add(u64::from(len), Ordering::Relaxed);
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(bytes < MOST_BYTES && requests < MOST_REQUESTS, "{requests} requests, {bytes} bytes: without end");
    }
}

impl Device for Guard {
    fn geometry(&self) -> Geometry {
        self.sim.geometry()
    }

    fn describe(&self) -> String {
        self.sim.describe()
    }

    fn register(&self, buffers: &[SharedBuffer]) -> io::Result<()> {
        self.sim.register(buffers)
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        requests.iter().for_each(|request| self.look(request));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { self.sim.submit(requests) }
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        self.sim.reap(out, wait)
    }

    fn wake(&self) {
        self.sim.wake();
    }
}
