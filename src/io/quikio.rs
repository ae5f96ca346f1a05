//! QuikIO: the one way to the device, and the sole owner of its completions.
//!
//! Operations are given in from any thread and go to the device at once; one owner, the completion thread or a
//! simulator that calls [`QuikIO::poll`], takes every completion and runs the callbacks, but for those of [`OwnCompletions`],
//! which their own thread takes. The decisions (short writes,
//! retries, order of overlapping writes, the first failure that ends all writing) are in `state`, which knows neither
//! device nor threads.

mod error;
mod overlap;
mod own;
mod owner;
mod state;
#[cfg(test)]
mod tests;

use crate::sync::thread::{self, JoinHandle};
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;

pub use self::error::{IoCounters, IoError};
use self::own::Lanes;
pub use self::own::OwnCompletions;
use self::owner::{Ownership, Turn};
use self::state::{Core, Finished, Outcome, Work};
use super::buffer::{Buffer, BufferAllocError, SharedBuffer};
use super::device::{Completion, Device, Geometry};

/// Called once with what became of a write or a flush.
pub type WriteDone = Box<dyn FnOnce(Result<(), IoError>) + Send>;
/// Called once with the filled buffer of a read.
pub type ReadDone = Box<dyn FnOnce(Result<Buffer, IoError>) + Send>;

/// A write to be queued; see [`QuikIO::write`].
pub struct Write {
    /// Holds the bytes.
    pub buf: SharedBuffer,
    /// Where in `buf` they are.
    pub range: Range<usize>,
    /// Where on the device they go.
    pub offset: u64,
    /// They, and no others, are on stable media when `done` runs.
    pub dsync: bool,
    /// Called once.
    pub done: WriteDone,
}

/// Failures of `reap` in a row before the device is given up.
const MAX_REAP_FAILURES: u32 = 8;

/// The io_uring O_DIRECT write and read path.
pub struct QuikIO {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    device: Arc<dyn Device>,
    geometry: Geometry,
    /// Buffers that the device knows by number, by address.
    registered: Vec<(usize, u16)>,
    core: Mutex<Core>,
    owner: Ownership,
    lanes: Lanes,
}

impl QuikIO {
    /// Drive `device`. `registered` are the buffers that most writes come from.
    pub fn new(device: Arc<dyn Device>, registered: &[SharedBuffer]) -> Result<Arc<QuikIO>, IoError> {
        let geometry = device.geometry();
        let mut index = Vec::new();
        if !registered.is_empty() {
            match device.register(registered) {
                Ok(()) => {
                    let addresses = registered.iter().map(|buffer| buffer.as_ptr() as usize);
                    index = addresses.zip(0u16..).collect();
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => log::warn!(
                    "{}: the flush buffers can't be registered within the limit of locked memory; writes go on without \
                     (raise `ulimit -l`)",
                    device.describe()
                ),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err(IoError { errno, op: "register", offset: 0, len: 0 });
                }
            }
        }
        let core = Mutex::new(Core::new(geometry, device.depth()));
        let (owner, lanes) = (Ownership::default(), Lanes::default());
        let inner = Inner { device, geometry, registered: index, core, owner, lanes };
        Ok(Arc::new(QuikIO { inner: Arc::new(inner), thread: Mutex::new(None) }))
    }

    /// Capacity and alignment of the device.
    pub fn geometry(&self) -> Geometry {
        let capacity = self.inner.core.lock().capacity();
        Geometry { capacity, ..self.inner.geometry }
    }

    /// The device's path, for messages.
    pub fn describe(&self) -> String {
        self.inner.device.describe()
    }

    /// A zeroed buffer that this device can read from and write to.
    pub fn buffer(&self, len: usize) -> Result<Buffer, BufferAllocError> {
        Buffer::new_aligned(len, self.inner.geometry.memory_align.max(1) as usize)
    }

    /// Queue a write of `buf[range]` at byte `offset`; all block aligned. A write whose blocks overlap one that is not
    /// finished waits for it. With `dsync` these bytes, and no others, are on stable media when `done` runs. The bytes
    /// must not change until then.
    pub fn write(&self, buf: SharedBuffer, range: Range<usize>, offset: u64, dsync: bool, done: WriteDone) {
        self.write_many(vec![Write { buf, range, offset, dsync, done }]);
    }

    /// Queue writes, in this order; the device gets them in one call.
    pub fn write_many(&self, writes: Vec<Write>) {
        let mut out = Outcome::default();
        {
            let mut core = self.inner.core.lock();
            for Write { buf, range, offset, dsync, done } in writes {
                let address = buf.as_ptr() as usize;
                let fixed = self.inner.registered.iter().find(|(known, _)| *known == address).map(|(_, index)| *index);
                core.admit(Work::Write { buf, range, fixed, dsync, done }, offset, &mut out);
            }
        }
        self.inner.carry_out(out);
    }

    /// Queue a read at `offset` into `buf[range]`. It is not ordered against writes.
    pub fn read(&self, buf: Buffer, range: Range<usize>, offset: u64, done: ReadDone) {
        self.inner.admit(Work::Read { buf: Some(buf), range, awaited: false, done }, offset);
    }

    /// The same for a caller that has nothing else to do: if it takes completions ([`OwnCompletions`]) it takes this one.
    pub fn read_awaited(&self, buf: Buffer, range: Range<usize>, offset: u64, done: ReadDone) {
        self.inner.admit(Work::Read { buf: Some(buf), range, awaited: true, done }, offset);
    }

    /// Queue a flush of the device: it covers every write whose `done` ran before this call.
    pub fn flush(&self, done: WriteDone) {
        self.inner.admit(Work::Flush { done }, 0);
    }

    /// Take completions and run callbacks; with `wait`, sleep until there is one (if anything is under way). Returns
    /// the number of callbacks. For the single owner: while the completion thread runs this does nothing.
    pub fn poll(&self, wait: bool) -> usize {
        match self.inner.owner.turn() {
            Turn::Others => 0,
            // Held while this runs: the tenure ends with the match.
            Turn::Mine(_) | Turn::AlreadyMine => self.inner.poll_if_any(wait),
        }
    }

    /// Take completions beside the owner, as threads with lanes do. For simulators.
    pub fn poll_beside(&self) -> usize {
        self.inner.poll(false)
    }

    /// Start the completion thread; once is enough.
    pub fn start(self: &Arc<Self>) {
        let mut handle = self.thread.lock();
        if handle.is_some() {
            return;
        }
        self.inner.owner.set_threaded(true);
        let inner = self.inner.clone();
        match thread::Builder::new().name("quikio".into()).spawn(move || inner.own_until_closed()) {
            Ok(started) => *handle = Some(started),
            Err(error) => {
                log::error!("can't start the completion thread: {error}");
                self.inner.owner.set_threaded(false);
                let mut out = Outcome::default();
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                self.inner.core.lock().abandon(errno, &mut out);
                self.inner.core.lock().close();
                self.inner.carry_out(out);
            }
        }
    }

    /// Refuse new operations, wait for those accepted, run their callbacks, end the thread. From a callback, it only
    /// refuses; the thread ends when the rest is done.
    pub fn close(&self) {
        self.inner.core.lock().close();
        self.inner.device.wake();
        let handle = self.thread.lock().take();
        match handle {
            Some(handle) if handle.thread().id() == thread::current().id() => return,
            Some(_) if self.inner.looks_after_lanes() => return,
            Some(handle) => {
                if handle.join().is_err() {
                    log::error!("the completion thread panicked");
                }
            }
            None => self.inner.help_until(|| self.inner.core.lock().drained()),
        }
        self.inner.end_lanes();
    }

    /// Write and wait.
    pub fn write_all_now(
        &self,
        buf: SharedBuffer,
        range: Range<usize>,
        offset: u64,
        dsync: bool,
    ) -> Result<(), IoError> {
        self.wait_for(|done| self.write(buf, range, offset, dsync, done))
    }

    /// Read and wait.
    pub fn read_now(&self, buf: Buffer, len: usize, offset: u64) -> Result<Buffer, IoError> {
        self.read_into_now(buf, 0..len, offset)
    }

    /// Read into `buf[range]` and wait; the rest of the buffer stays.
    pub fn read_into_now(&self, buf: Buffer, range: Range<usize>, offset: u64) -> Result<Buffer, IoError> {
        self.wait_for(|done| self.read(buf, range, offset, done))
    }

    /// Ask the device how large it is now, and take requests up to there. It never becomes smaller by this.
    pub fn refresh_capacity(&self) -> Result<u64, IoError> {
        let now = self.inner.device.capacity_now().map_err(|error| IoError {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            op: "size",
            offset: 0,
            len: 0,
        })?;
        Ok(self.inner.core.lock().grow(now))
    }

    /// Read (offset, length) each into a buffer of its own, side by side, and wait for all.
    pub fn read_many_now(&self, wanted: &[(u64, usize)]) -> Vec<Result<Buffer, IoError>> {
        let slots = Arc::new(Mutex::new(wanted.iter().map(|_| None).collect::<Vec<Option<Result<Buffer, IoError>>>>()));
        for (at, &(offset, len)) in wanted.iter().enumerate() {
            let (slots, inner) = (slots.clone(), self.inner.clone());
            let put = move |result| {
                if let Some(slot) = slots.lock().get_mut(at) {
                    *slot = Some(result);
                }
                inner.owner.answered();
            };
            match self.buffer(len) {
                Ok(buffer) => self.read(buffer, 0..len, offset, Box::new(put)),
                Err(_) => put(Err(IoError { errno: libc::ENOMEM, op: "read", offset, len: len as u64 })),
            }
        }
        self.inner.help_until(|| slots.lock().iter().all(Option::is_some));
        let read = std::mem::take(&mut *slots.lock());
        read.into_iter().flatten().collect()
    }

    /// Flush and wait.
    pub fn flush_now(&self) -> Result<(), IoError> {
        self.wait_for(|done| self.flush(done))
    }

    /// The first write or flush that failed. From then on writes and flushes fail with it; reads go on.
    pub fn failed(&self) -> Option<IoError> {
        self.inner.core.lock().failed()
    }

    /// What was done so far.
    pub fn counters(&self) -> IoCounters {
        self.inner.core.lock().counters()
    }

    /// Start something and wait for its callback: asleep while another thread takes completions, else taking them.
    fn wait_for<T: Send + 'static>(
        &self,
        start: impl FnOnce(Box<dyn FnOnce(Result<T, IoError>) + Send>),
    ) -> Result<T, IoError> {
        let slot = Arc::new(Mutex::new(None));
        let (filler, inner) = (slot.clone(), self.inner.clone());
        start(Box::new(move |result| {
            *filler.lock() = Some(result);
            inner.owner.answered();
        }));
        self.inner.help_until(|| slot.lock().is_some());
        let result = slot.lock().take();
        result.unwrap_or(Err(IoError { errno: libc::EIO, op: "wait", offset: 0, len: 0 }))
    }
}

impl Drop for QuikIO {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for QuikIO {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuikIO").field("device", &self.describe()).field("counters", &self.counters()).finish()
    }
}

/// Callbacks that are due. When one panics, the others run while the stack unwinds.
struct Callbacks(VecDeque<Finished>);

impl Callbacks {
    fn run(&mut self) {
        while let Some(finished) = self.0.pop_front() {
            finished.run();
        }
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        self.run();
    }
}

impl Inner {
    fn admit(&self, work: Work, offset: u64) {
        let mut out = Outcome::default();
        self.core.lock().admit(work, offset, &mut out);
        self.carry_out(out);
    }

    /// Submit and call back what the core decided. No lock is held.
    fn carry_out(&self, mut out: Outcome) -> usize {
        while !out.requests.is_empty() {
            let requests = std::mem::take(&mut out.requests);
            // SAFETY: the core keeps each operation, and with it its buffer, until the completion of its token came
            // in; `check` has held range, alignment and capacity. A read's buffer is owned by the operation. That a
            // write's bytes do not change is the caller's duty (see `QuikIO::write`); `fixed` is its buffer's number.
            let submitted = unsafe { self.submit(&requests) };
            if let Err(error) = submitted {
                log::error!("{}: {error}", self.device.describe());
                let refused = requests.iter().skip(error.taken).map(|request| request.token());
                self.core.lock().refused(refused, error.errno, &mut out);
                self.tell_if_over();
            }
        }
        let ran = out.finished.len();
        let mut rest = Callbacks(out.finished.into());
        rest.run();
        ran
    }

    fn poll(&self, wait: bool) -> usize {
        let mut completions: Vec<Completion> = Vec::new();
        let mut failures = 0;
        while let Err(error) = self.device.reap(&mut completions, wait) {
            failures += 1;
            log::error!("{}: can't take completions: {error}", self.device.describe());
            if failures == MAX_REAP_FAILURES {
                let mut out = Outcome::default();
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.core.lock().abandon(errno, &mut out);
                return self.carry_out(out);
            }
            // Only a broken ring comes here; a moment of patience, so that it does not cost a CPU.
            thread::sleep(Duration::from_millis(10));
        }
        if completions.is_empty() {
            return 0;
        }
        self.completed(completions)
    }

    /// Who waits for the last operation of all waits where others come, and would sleep on.
    fn tell_if_over(&self) {
        if self.core.lock().over() {
            self.device.wake();
        }
    }

    /// Take what the device says, and do what follows: the number of callbacks.
    fn completed(&self, completions: Vec<Completion>) -> usize {
        let mut out = Outcome::default();
        {
            let mut core = self.core.lock();
            for completion in completions {
                core.complete(completion, &mut out);
            }
        }
        self.carry_out(out)
    }

    /// Like `poll`, but does not wait for nothing.
    fn poll_if_any(&self, wait: bool) -> usize {
        loop {
            let any = !self.core.lock().drained();
            let ran = self.poll(wait && any);
            // What was done in part goes on, and nobody is called back yet.
            if ran > 0 || !wait || !any {
                return ran;
            }
        }
    }

    /// The completion thread.
    fn own_until_closed(&self) {
        let _tenure = self.owner.thread_tenure();
        while !self.core.lock().over() {
            // A callback that panics is a fault of its owner; the others still have to be answered.
            if catch_unwind(AssertUnwindSafe(|| self.poll(true))).is_err() {
                log::error!("{}: a completion's callback panicked", self.device.describe());
            }
        }
        self.leave_lanes();
    }

    /// Sleep until `finished`, or take completions as long as nobody else does.
    fn help_until(&self, finished: impl Fn() -> bool) {
        // A callback that waits for something finds itself the owner, and goes on taking completions.
        while let Some(_turn) = self.owner.wait(&finished) {
            self.poll(true);
        }
    }
}
