//! What one thread waits for, which takes the completions itself: what a durable write or a read needs is a thread that was
//! woken once, and not one that wakes the next.
//!
//! A thread that serves requests and sleeps until something is ready asks for [`QuikIO::own_completions`]. From then on its
//! durable writes, flushes and awaited reads go to the device by a lane of its own; it is woken when one has completed, and
//! runs the callbacks. What else it asks of the device the owner of completions takes, as for any other thread.
//!
//! A thread may wait for something that only its own completions bring about, such as room in the ring. So another one
//! looks after the lanes while anything is on its way there, and takes what nobody took for a tick.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

use super::{Inner, QuikIO};
use crate::io::device::{Completion, Lane, Request, SubmitError};

/// How long completions may lie in a lane before another thread takes them, and half of how long they lie at most.
const TICK: Duration = Duration::from_millis(5);
/// After so many without a request in any lane, nobody looks after them until there is one.
const QUIET: u32 = 200;

crate::sync::thread_local! {
    /// The lane of this thread, and whose device it leads to.
    static MINE: RefCell<Option<(Weak<Inner>, Arc<Own>)>> = const { RefCell::new(None) };
}

/// A lane, and what is under way in it.
pub(super) struct Own {
    lane: Arc<dyn Lane>,
    submitted: AtomicU64,
    taken: AtomicU64,
    /// Of those under way: reads.
    reads: AtomicU64,
}

impl Own {
    fn is_idle(&self) -> bool {
        self.submitted.load(Ordering::SeqCst) == self.taken.load(Ordering::SeqCst)
    }
}

/// All lanes of a device.
#[derive(Default)]
pub(super) struct Lanes {
    all: Mutex<Vec<Arc<Own>>>,
    /// Somebody looks after them.
    watched: AtomicBool,
    watch: Mutex<Watch>,
    changed: Condvar,
}

#[derive(Default)]
struct Watch {
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

/// What a thread asks of the device, and takes the completions of. It stays on that thread.
pub struct OwnCompletions {
    inner: Arc<Inner>,
    own: Arc<Own>,
    _stays: PhantomData<*const ()>,
}

impl QuikIO {
    /// The calling thread is going to take the completions of what it waits for. None: the device has no lanes, or there is no
    /// completion thread for everything else.
    pub fn own_completions(&self) -> io::Result<Option<OwnCompletions>> {
        if self.thread.lock().is_none() {
            return Ok(None);
        }
        let Some(lane) = self.inner.device.lane()? else { return Ok(None) };
        let own =
            Arc::new(Own { lane, submitted: AtomicU64::new(0), taken: AtomicU64::new(0), reads: AtomicU64::new(0) });
        self.inner.watch_lanes()?;
        self.inner.lanes.all.lock().push(own.clone());
        MINE.with(|mine| mine.replace(Some((Arc::downgrade(&self.inner), own.clone()))));
        Ok(Some(OwnCompletions { inner: self.inner.clone(), own, _stays: PhantomData }))
    }
}

impl OwnCompletions {
    /// Readable when something has completed.
    pub fn fd(&self) -> RawFd {
        self.own.lane.fd()
    }

    /// Something is under way.
    pub fn any(&self) -> bool {
        !self.own.is_idle()
    }

    /// All that is under way are reads.
    pub fn only_reads(&self) -> bool {
        let under_way = self.own.submitted.load(Ordering::SeqCst).wrapping_sub(self.own.taken.load(Ordering::SeqCst));
        under_way <= self.own.reads.load(Ordering::SeqCst)
    }

    /// Take what has completed and run the callbacks.
    pub fn take(&self) {
        self.inner.take_from(&self.own);
    }
}

impl Drop for OwnCompletions {
    fn drop(&mut self) {
        MINE.with(|mine| mine.replace(None));
        // What is still under way in the lane, others take.
    }
}

impl Inner {
    /// Submit each by the way that leads back to who waits for it. `Err`: the requests from there on were not taken.
    ///
    /// # Safety
    /// As for [`crate::io::Device::submit`].
    pub(super) unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        let mut taken = 0;
        for part in requests.chunk_by(|one, next| one.is_awaited() == next.is_awaited()) {
            // SAFETY: promised by the caller.
            let submitted = unsafe { self.submit_one_way(part) };
            submitted.map_err(|error| SubmitError { taken: taken + error.taken, ..error })?;
            taken += part.len();
        }
        Ok(())
    }

    /// The same for requests that are all awaited, or none of which is.
    ///
    /// # Safety
    /// As for [`crate::io::Device::submit`].
    unsafe fn submit_one_way(&self, requests: &[Request]) -> Result<(), SubmitError> {
        let own = if requests.first().is_some_and(Request::is_awaited) { self.own() } else { None };
        let Some(own) = own else {
            // SAFETY: promised by the caller.
            return unsafe { self.device.submit(requests) };
        };
        // Before the request can complete, and before it is seen whether somebody looks after it.
        let reads = |requests: &[Request]| requests.iter().filter(|request| request.is_read()).count() as u64;
        own.submitted.fetch_add(requests.len() as u64, Ordering::SeqCst);
        own.reads.fetch_add(reads(requests), Ordering::SeqCst);
        if !self.lanes.watched.swap(true, Ordering::SeqCst) {
            let _watch = self.lanes.watch.lock();
            self.lanes.changed.notify_all();
        }
        // SAFETY: promised by the caller.
        let submitted = unsafe { own.lane.submit(requests) };
        if let Err(error) = &submitted {
            let refused = requests.get(error.taken..).unwrap_or(&[]);
            own.reads.fetch_sub(reads(refused), Ordering::SeqCst);
            own.taken.fetch_add(refused.len() as u64, Ordering::SeqCst);
        }
        submitted
    }

    /// The lane of this thread, if it leads to this device.
    fn own(&self) -> Option<Arc<Own>> {
        MINE.with(|mine| {
            let mine = mine.borrow();
            let (inner, own) = mine.as_ref()?;
            std::ptr::eq(inner.as_ptr(), self).then(|| own.clone())
        })
    }

    fn take_from(&self, own: &Own) {
        let mut completions: Vec<Completion> = Vec::new();
        if let Err(error) = own.lane.take(&mut completions) {
            log::error!("{}: can't take completions: {error}", self.device.describe());
        }
        if completions.is_empty() {
            return;
        }
        let count = completions.len() as u64;
        let reads = self.core.lock().reads_among(&completions) as u64;
        // A callback that panics is a fault of its owner; the others still have to be answered.
        if catch_unwind(AssertUnwindSafe(|| self.completed(completions))).is_err() {
            log::error!("{}: a completion's callback panicked", self.device.describe());
        }
        // Not before they are called back: who closes waits for that.
        // In this order: in between what is left seems to be reads alone, never a commit that there is not.
        own.taken.fetch_add(count, Ordering::SeqCst);
        own.reads.fetch_sub(reads, Ordering::SeqCst);
        self.tell_if_over();
    }

    /// Have a thread look after the lanes from now on.
    fn watch_lanes(self: &Arc<Self>) -> io::Result<()> {
        let mut watch = self.lanes.watch.lock();
        if watch.thread.is_none() {
            let inner = self.clone();
            let work = move || inner.look_after_lanes();
            watch.thread = Some(thread::Builder::new().name("quikio-lanes".into()).spawn(work)?);
        }
        Ok(())
    }

    fn look_after_lanes(&self) {
        let mut seen: Vec<u64> = Vec::new();
        let mut quiet = 0;
        while self.tick() {
            let all = self.lanes.all.lock().clone();
            seen.resize(all.len(), u64::MAX);
            quiet = if all.iter().all(|own| own.is_idle()) { quiet + 1 } else { 0 };
            for (own, seen) in all.iter().zip(&mut seen) {
                let taken = own.taken.load(Ordering::SeqCst);
                if std::mem::replace(seen, taken) == taken && !own.is_idle() {
                    self.take_from(own);
                }
            }
            if quiet > QUIET {
                self.lanes.watched.store(false, Ordering::SeqCst);
                quiet = 0;
                // Who came in between found it watched.
                if self.lanes.all.lock().iter().any(|own| !own.is_idle()) {
                    self.lanes.watched.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Sleep for a tick, or until there is something to look after. False: it is over.
    fn tick(&self) -> bool {
        let mut watch = self.lanes.watch.lock();
        while !watch.ended && !self.lanes.watched.load(Ordering::SeqCst) {
            self.lanes.changed.wait(&mut watch);
        }
        if !watch.ended {
            self.lanes.changed.wait_until(&mut watch, Instant::now() + TICK);
        }
        !watch.ended
    }

    /// This thread is the one that looks after the lanes.
    pub(super) fn looks_after_lanes(&self) -> bool {
        let watch = self.lanes.watch.lock();
        watch.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }

    /// Everything is over: nobody needs to look after the lanes any more.
    pub(super) fn leave_lanes(&self) {
        self.lanes.watch.lock().ended = true;
        self.lanes.changed.notify_all();
    }

    /// The same, and wait until all is called back and none is left.
    pub(super) fn end_lanes(&self) {
        let own = self.own();
        let is_mine = |lane: &Arc<Own>| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, lane));
        let thread = {
            let mut watch = self.lanes.watch.lock();
            // A device that was given up may never say what became of the rest.
            for _ in 0..QUIET {
                if self.lanes.all.lock().iter().all(|lane| lane.is_idle() || is_mine(lane)) {
                    break;
                }
                self.lanes.changed.wait_until(&mut watch, Instant::now() + TICK);
            }
            watch.ended = true;
            watch.thread.take()
        };
        self.lanes.changed.notify_all();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            log::error!("the thread that looks after lanes panicked");
        }
        self.lanes.all.lock().clear();
    }
}
