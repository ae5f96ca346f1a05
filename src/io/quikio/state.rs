//! What QuikIO knows, and what it decides: a state machine with no device and no threads in it.
//!
//! Operations come in, requests for the device and finished operations come out. An operation is found by its token,
//! which is never used twice: a completion can't be taken for another's. Everything here runs under one short lock;
//! the caller submits and runs callbacks after it let go.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::error::{IoCounters, IoError};
use super::overlap::Overlaps;
use super::{ReadDone, WriteDone};
use crate::io::buffer::{Buffer, SharedBuffer};
use crate::io::device::{Completion, Geometry, Request};

/// Tries without progress before an operation fails.
const MAX_TRIES: u32 = 8;
/// Largest single request; a longer operation is continued like a short write. Linux moves less than 2 GiB at once.
const MAX_REQUEST: usize = 1 << 30;

/// What is to be done.
pub(super) enum Work {
    /// Write `buf[range]`.
    Write { buf: SharedBuffer, range: Range<usize>, fixed: Option<u16>, dsync: bool, done: WriteDone },
    /// Fill `buf[range]`; the buffer is there until it is handed back or given up.
    Read { buf: Option<Buffer>, range: Range<usize>, awaited: bool, done: ReadDone },
    /// Flush the device.
    Flush { done: WriteDone },
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Flush { .. } => "flush",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Write { range, .. } | Self::Read { range, .. } => range.len(),
            Self::Flush { .. } => 0,
        }
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

struct Op {
    work: Work,
    offset: u64,
    /// Bytes moved so far, in whole blocks.
    moved: usize,
    /// Tries since the last progress.
    tries: u32,
}

impl Op {
    fn error(&self, errno: i32) -> IoError {
        IoError { errno, op: self.work.name(), offset: self.offset, len: self.work.len() as u64 }
    }

    fn request(&self, token: u64) -> Request {
        let len = self.work.len().saturating_sub(self.moved).min(MAX_REQUEST) as u32;
        let offset = self.offset + self.moved as u64;
        match &self.work {
            Work::Write { buf, range, fixed, dsync, .. } => {
                let ptr = buf.as_ptr().wrapping_add(range.start + self.moved).cast_const();
                Request::Write { token, offset, ptr, len, dsync: *dsync, fixed: *fixed }
            }
            Work::Read { buf, range, awaited, .. } => {
                let start = buf.as_ref().map_or(std::ptr::null_mut(), Buffer::as_ptr);
                let ptr = start.wrapping_add(range.start + self.moved);
                Request::Read { token, offset, ptr, len, fixed: None, awaited: *awaited }
            }
            Work::Flush { .. } => Request::Flush { token },
        }
    }
}

/// An operation whose callback is due.
pub(super) struct Finished {
    work: Work,
    result: Result<(), IoError>,
}

impl Finished {
    /// Call back. Never with a lock held: the callback may start the next operation.
    pub(super) fn run(self) {
        match (self.work, self.result) {
            (Work::Write { done, buf, .. }, result) => {
                // The reference is given back first, so that a callback can recycle the buffer.
                drop(buf);
                done(result);
            }
            (Work::Flush { done }, result) => done(result),
            (Work::Read { done, buf: Some(buf), .. }, result) => done(result.map(|()| buf)),
            (Work::Read { done, buf: None, range, .. }, result) => {
                let gone = IoError { errno: libc::EIO, op: "read", offset: 0, len: range.len() as u64 };
                done(Err(result.err().unwrap_or(gone)));
            }
        }
    }
}

/// What the caller of the state machine has to do once it let go of the lock.
#[derive(Default)]
pub(super) struct Outcome {
    /// To be submitted.
    pub(super) requests: Vec<Request>,
    /// To be called back, in order.
    pub(super) finished: Vec<Finished>,
}

pub(super) struct Core {
    ops: HashMap<u64, Op>,
    next_token: u64,
    overlaps: Overlaps,
    /// Operations that may go to the device as soon as its depth allows.
    ready: VecDeque<u64>,
    on_device: usize,
    depth: usize,
    geometry: Geometry,
    failed: Option<IoError>,
    closing: bool,
    counters: IoCounters,
}

impl Core {
    /// The device has `capacity` bytes, or had more before: what it has.
    pub(super) fn grow(&mut self, capacity: u64) -> u64 {
        self.geometry.capacity = self.geometry.capacity.max(capacity);
        self.geometry.capacity
    }

    /// Bytes of the device.
    pub(super) fn capacity(&self) -> u64 {
        self.geometry.capacity
    }

    pub(super) fn new(geometry: Geometry, depth: usize) -> Self {
        Self {
            ops: HashMap::new(),
            next_token: 0,
            overlaps: Overlaps::default(),
            ready: VecDeque::new(),
            on_device: 0,
            depth: depth.max(1),
            geometry,
            failed: None,
            closing: false,
            counters: IoCounters::default(),
        }
    }

    pub(super) fn failed(&self) -> Option<IoError> {
        self.failed.clone()
    }

    pub(super) fn counters(&self) -> IoCounters {
        IoCounters { in_flight: self.ops.len() as u64, ..self.counters }
    }

    /// Nothing is accepted from now on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// So many of these completions are of reads.
    pub(super) fn reads_among(&self, completions: &[Completion]) -> usize {
        let is_read = |done: &&Completion| self.ops.get(&done.token).is_some_and(|op| op.work.is_read());
        completions.iter().filter(is_read).count()
    }

    /// Nothing is left that was accepted.
    pub(super) fn drained(&self) -> bool {
        self.ops.is_empty()
    }

    /// Closed and drained.
    pub(super) fn over(&self) -> bool {
        self.closing && self.ops.is_empty()
    }

    /// Accept an operation, or finish it at once.
    pub(super) fn admit(&mut self, work: Work, offset: u64, out: &mut Outcome) {
        let op = Op { work, offset, moved: 0, tries: 0 };
        if self.closing {
            let error = op.error(libc::ESHUTDOWN);
            out.finished.push(Finished { work: op.work, result: Err(error) });
            return;
        }
        if let (false, Some(error)) = (op.work.is_read(), &self.failed) {
            out.finished.push(Finished { work: op.work, result: Err(error.clone()) });
            return;
        }
        if let Err(errno) = self.check(&op) {
            self.finish(op, Err(errno), out);
            return;
        }
        if op.work.len() == 0 && !matches!(op.work, Work::Flush { .. }) {
            self.finish(op, Ok(()), out);
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        let end = offset + op.work.len() as u64;
        let may_start = !matches!(op.work, Work::Write { .. }) || self.overlaps.enter(token, offset, end);
        self.ops.insert(token, op);
        if may_start {
            self.ready.push_back(token);
        }
        self.start_ready(out);
    }

    /// Direct I/O takes whole blocks inside the device from aligned memory, and we say so before the kernel does.
    fn check(&self, op: &Op) -> Result<(), i32> {
        let (start, size, range) = match &op.work {
            Work::Write { buf, range, .. } => (buf.as_ptr() as usize, buf.len(), range),
            Work::Read { buf: Some(buf), range, .. } => (buf.as_ptr() as usize, buf.len(), range),
            Work::Read { buf: None, .. } => return Err(libc::EINVAL),
            Work::Flush { .. } => return Ok(()),
        };
        if range.start > range.end || range.end > size {
            return Err(libc::EINVAL);
        }
        let (first, len) = (start + range.start, range.len());
        let block = u64::from(self.geometry.block.max(1));
        let memory = self.geometry.memory_align.max(1) as usize;
        let aligned =
            op.offset.is_multiple_of(block) && (len as u64).is_multiple_of(block) && first.is_multiple_of(memory);
        let inside = op.offset.checked_add(len as u64).is_some_and(|end| end <= self.geometry.capacity);
        match (aligned, inside) {
            (false, _) => Err(libc::EINVAL),
            (true, false) if op.work.is_read() => Err(libc::EIO),
            (true, false) => Err(libc::ENOSPC),
            (true, true) => Ok(()),
        }
    }

    /// Take what the device said of a request.
    pub(super) fn complete(&mut self, completion: Completion, out: &mut Outcome) {
        self.settle(completion.token, completion.result, true, out);
        self.start_ready(out);
    }

    /// The device did not even take these requests, and will not.
    pub(super) fn refused(&mut self, tokens: impl Iterator<Item = u64>, errno: i32, out: &mut Outcome) {
        for token in tokens {
            self.settle(token, Err(errno), false, out);
        }
        self.start_ready(out);
    }

    /// The device can't say any more what becomes of its requests: all fail, and their memory is given up, because
    /// the device may still be using it.
    pub(super) fn abandon(&mut self, errno: i32, out: &mut Outcome) {
        let mut tokens: Vec<u64> = self.ops.keys().copied().collect();
        tokens.sort_unstable();
        for token in tokens {
            let Some(mut op) = self.ops.remove(&token) else {
                continue;
            };
            match &mut op.work {
                Work::Write { buf, .. } => std::mem::forget(buf.clone()),
                Work::Read { buf, .. } => std::mem::forget(buf.take()),
                Work::Flush { .. } => {}
            }
            self.finish(op, Err(errno), out);
        }
        self.failed.get_or_insert(IoError { errno, op: "reap", offset: 0, len: 0 });
        self.ready.clear();
        self.overlaps = Overlaps::default();
        self.on_device = 0;
    }

    fn settle(&mut self, token: u64, result: Result<u32, i32>, may_retry: bool, out: &mut Outcome) {
        let Some(mut op) = self.ops.remove(&token) else {
            log::error!("the device completed request {token}, which it was never given");
            return;
        };
        self.on_device = self.on_device.saturating_sub(1);
        let outcome = match result {
            Ok(_) if matches!(op.work, Work::Flush { .. }) => Some(Ok(())),
            Ok(bytes) => self.advance(&mut op, bytes as usize),
            Err(errno) if may_retry && transient(errno) => {
                op.tries += 1;
                self.counters.retries += 1;
                (op.tries >= MAX_TRIES).then_some(Err(errno))
            }
            Err(errno) => Some(Err(errno)),
        };
        let outcome = match (outcome, &self.failed) {
            // Writing goes on after a failure of another write for nobody's good: what it was for can't be kept.
            (None, Some(error)) if !op.work.is_read() => Some(Err(error.errno)),
            (outcome, _) => outcome,
        };
        match outcome {
            None => {
                self.ops.insert(token, op);
                self.ready.push_front(token);
            }
            Some(result) => {
                if matches!(op.work, Work::Write { .. }) {
                    let ready = &mut self.ready;
                    self.overlaps.leave(token, |freed| ready.push_back(freed));
                }
                self.finish(op, result, out);
            }
        }
    }

    /// Count `bytes` more as moved; `None`: there is more to do.
    fn advance(&mut self, op: &mut Op, bytes: usize) -> Option<Result<(), i32>> {
        let left = op.work.len().saturating_sub(op.moved);
        if bytes >= left {
            op.moved = op.work.len();
            return Some(Ok(()));
        }
        let block = self.geometry.block.max(1) as usize;
        // A part of a block does not count: the next request has to start on a block.
        let whole = bytes - bytes % block;
        if bytes < left.min(MAX_REQUEST) {
            self.counters.short_writes += 1;
        }
        op.moved += whole;
        if whole > 0 {
            op.tries = 0;
            return None;
        }
        op.tries += 1;
        self.counters.retries += 1;
        (op.tries >= MAX_TRIES).then_some(Err(libc::EIO))
    }

    fn finish(&mut self, op: Op, result: Result<(), i32>, out: &mut Outcome) {
        let result = result.map_err(|errno| op.error(errno));
        let len = op.work.len() as u64;
        match (&op.work, &result) {
            (Work::Write { dsync, .. }, Ok(())) => {
                self.counters.writes += 1;
                self.counters.write_bytes += len;
                self.counters.flushes += u64::from(*dsync);
            }
            (Work::Read { .. }, Ok(())) => {
                self.counters.reads += 1;
                self.counters.read_bytes += len;
            }
            (Work::Flush { .. }, Ok(())) => self.counters.flushes += 1,
            (Work::Read { .. }, Err(_)) => {}
            (Work::Write { .. } | Work::Flush { .. }, Err(error)) => {
                self.failed.get_or_insert_with(|| error.clone());
            }
        }
        out.finished.push(Finished { work: op.work, result });
    }

    /// Give the device what it has room for.
    fn start_ready(&mut self, out: &mut Outcome) {
        while self.on_device < self.depth {
            let Some(token) = self.ready.pop_front() else {
                return;
            };
            let Some(op) = self.ops.get(&token) else {
                continue;
            };
            let Some(error) = self.failed.clone().filter(|_| !op.work.is_read()) else {
                out.requests.push(op.request(token));
                self.on_device += 1;
                continue;
            };
            // It never reached the device; writes that wait for it find the same error in their turn.
            let ready = &mut self.ready;
            self.overlaps.leave(token, |freed| ready.push_back(freed));
            if let Some(op) = self.ops.remove(&token) {
                out.finished.push(Finished { work: op.work, result: Err(error) });
            }
        }
    }
}

/// The device (or the kernel on the way to it) asks to be asked again. ECANCELED and EINTR come when the thread that
/// submitted ends before its request was started.
fn transient(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::ECANCELED)
}

impl Drop for Core {
    fn drop(&mut self) {
        // QuikIO drains before it lets go. Should it fail to, the device may still be using the memory.
        self.ops.drain().for_each(std::mem::forget);
    }
}
